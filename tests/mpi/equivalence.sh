#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One training, whatever the layout: in one process, then on 2, 4 and 8 ranks. The longest of all tests, about three minutes
# on two cores; eight ranks on so few take only 5 steps of the 20.
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
    command -v mpiexec > /dev/null || { echo "skipped: there is no mpiexec"; exit 77; }
    "$orrery" --version | grep -q StarPU-MPI || { echo "skipped: built without MPI"; exit 77; }
    export STARPU_NCPU=1
    compared 'layouts on 2 ranks' 400 mpiexec --oversubscribe -n 2 "$program" "$work/results" 20
    compared 'layouts on 4 ranks' 400 mpiexec --oversubscribe -n 4 "$program" "$work/results" 20
    compared 'layouts on 8 ranks' 400 mpiexec --oversubscribe -n 8 "$program" "$work/results" 5
fi

finish
