#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two ranks trace themselves; orrery trace puts their files together.
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
[ -z "${ORRERY_WITHOUT_RANKS:-}" ] || { echo "skipped: ORRERY_WITHOUT_RANKS is set"; exit 77; }
program=$here/tests/mpi/traced_pair
cd "$work" || exit 99

if ! command -v mpiexec > /dev/null 2>&1 || [ ! -x "$program" ]; then
    echo "there is no mpiexec, or the build has no MPI"
    exit 77
fi
ran="mpiexec -n 2 traced_pair trace"
STARPU_MPI_NOBIND=1 STARPU_WORKERS_NOBIND=1 STARPU_NCPU=1 timeout 120 \
    mpiexec --oversubscribe -n 2 "$program" trace > out 2> err < /dev/null
status=$?
if grep -q 'has no FxT' err; then
    echo "the StarPU of this build has no FxT"
    exit 77
fi
same 'exit status of the run' $status 0
same 'a file per rank' "$(ls trace | tr '\n' ' ')" 'prof_file__0 prof_file__1 run.json '

works trace trace --json
check 'steps, ranks and workers' grep -q '^{"from": 2, "to": 3, "steps": 3, "ranks": 2, "workers": 2, ' out
same 'every message is found' "$(grep -c '^Src: ' trace/comms.rec)" $((3 * 4 * 2))
same 'what rank 0 sends in two steps' "$(grep -o '"from": 0, "to": 1, "messages": [0-9]*, "bytes": [0-9]*' out)" \
    "\"from\": 0, \"to\": 1, \"messages\": 8, \"bytes\": $((8 * 20000))"
check 'the model of stage 0' grep -q '"stage": "0".*"bubble_model": [0-9.]*, .*{"stage": "1"' out
# The clock of rank 1 is 5 seconds ahead; messages take less than one.
check 'the clocks are aligned' awk '/^SendTime: / { sent = $2 } /^RecvTime: / { d = $2 - sent; if (d > 1000 || d < -1000) bad = 1; n++ }
    END { exit bad || n == 0 }' trace/comms.rec
if grep -q '^#define ORR_HAVE_FXT 1' "$here/config.h"; then
    same 'by what the ranks measured' "$(grep -c 'end of mpi_sync_clocks_barrier, rank [01]' trace/paje.trace)" 2
fi
# Rank 0 begins every step, and rank 1 has nothing to do before the first message comes.
check 'stage 1 waits for stage 0' grep -q '"stage": "1".*"waiting_ms": {[^}]*"0": [0-9.]*' out
check 'nobody waits for himself' sh -c '! grep -q "\"stage\": \"1\".*\"waiting_ms\": {[^}]*\"1\": " out'

share='"overlap": {"under_way_ms": [0-9.]*, "computing_ms": [0-9.]*, "share": [0-9.e-]*}'
same 'overlaps of two stages and of all' "$(grep -o "$share" out | wc -l)" 3

works trace trace
check 'the table has both stages' sh -c "grep -q '^0 ' out && grep -q '^1 ' out"
check 'its parts are all of the time' awk '/^[01]  *[0-9.]*  *[0-9.]* .* [0-9.]*$/ && NF > 8 {
        sum = 0; for (i = 3; i <= NF; i++) sum += $i; d = $2 - sum; if (d > 0.05 * NF || d < -0.05 * NF) bad = 1; n++ }
    END { exit bad || n != 2 }' out
check 'the overlap of both stages and of all' awk '/^overlap: / { inside = 1 } inside && NF == 3 && /%$/ { rows = rows $1 " "
        if (!($2 > 0 && $3 + 0 >= 0 && $3 + 0 <= 100)) bad = 1 } END { exit bad || rows != "0 1 all " }' out
for way in 'rank 0 at [0-9.]* ms to rank 1' 'rank 1 at [0-9.]* ms to rank 0'; do
    check "the picture shows a message from $way" grep -q "^<line .*$way" trace/timeline.svg
done
rm trace/prof_file__1
refused '^orrery: trace: holds the traces of 1 of 2 ranks' 'every rank' trace trace
finish
