#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One training of 20 steps, whatever the layout: in one process, then on 2, 4 and 8 ranks. The longest of the tests: some
# minutes on two cores.
# shellcheck source=/dev/null
. "${srcdir:-.}/tests/cli/common.sh"
program=$here/tests/mpi/equivalence
mkdir "$work/results"

# compared WHAT SECONDS COMMAND...: all layouts agree.
compared()
{
    what=$1 seconds=$2
    shift 2
    ran=$*
    timeout "$seconds" "$@" > "$work/out" 2> "$work/err" < /dev/null
    status=$?
    cat "$work/out"
    if [ "$status" -eq 0 ]; then pass; else fail "$what"; fi
}

compared 'layouts in one process' 200 "$program" "$work/results"
if [ "$failures" -eq 0 ]; then
    [ -z "${ORRERY_WITHOUT_RANKS:-}" ] || { echo "skipped: ORRERY_WITHOUT_RANKS is set"; exit 77; }
    command -v mpiexec > /dev/null || { echo "skipped: there is no mpiexec"; exit 77; }
    "$orrery" --version | grep -q StarPU-MPI || { echo "skipped: built without MPI"; exit 77; }
    export STARPU_NCPU=1
    for n in 2 4 8; do
        compared "layouts on $n ranks" 600 mpiexec --oversubscribe -n $n "$program" "$work/results" 20
    done
fi

finish
