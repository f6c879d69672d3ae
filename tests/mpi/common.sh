# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests that start several ranks, before anything else.

# shellcheck source=/dev/null
. "${srcdir:-.}/tests/cli/common.sh"
program=$here/tests/mpi/ranks_program
[ -z "${ORRERY_WITHOUT_RANKS:-}" ] || { echo "skipped: ORRERY_WITHOUT_RANKS is set"; exit 77; }
command -v mpiexec > /dev/null || { echo "skipped: there is no mpiexec"; exit 77; }
"$orrery" --version | grep -q StarPU-MPI || { echo "skipped: built without MPI"; exit 77; }
export STARPU_NCPU=1

# ranks N ARGUMENT...: mpiexec with so many ranks, or, where N is 0, with arguments that tell how many. Open MPI's own
# words about a job that failed are left out of $work/err.
ranks()
{
    count=$1
    shift
    ran="mpiexec -n $count $*"
    if [ "$count" -gt 0 ]; then set -- -n "$count" "$@"; fi
    timeout -k 10 "${limit:-50}" mpiexec --oversubscribe "$@" > "$work/out" 2> "$work/all" < /dev/null
    status=$?
    grep '^orrery' "$work/all" > "$work/err"
}

# on RANKS ARGUMENT...: the command, which works and says nothing on standard error.
on()
{
    count=$1
    shift
    ranks "$count" "$orrery" "$@"
    if [ "$status" -ne 0 ] || [ -s "$work/all" ]; then
        cp "$work/all" "$work/err"
        fail "should have worked"
    else
        pass
    fi
}

# until_true TENTHS COMMAND...: at most so long.
until_true()
{
    tries=$(($1 * 5))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.02
    done
}

# told CODE PATTERN: this exit status and one line of Orrery's, perhaps with a remedy.
told()
{
    said "$1" "$2"
    same "lines of Orrery" "$(grep -c "$2" "$work/err")" 1
}
