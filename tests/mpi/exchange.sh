#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Replicas on ranks of their own that do not wait for each other: the tests of one process, and that the loss falls.
. "${srcdir:-.}/tests/mpi/common.sh"

BOARD=$work/board
export BOARD
# A second worker, since one of them is held by a task that waits for the other rank.
STARPU_NCPU=2 ranks 2 "$here/tests/test_exchange"
[ "$status" -eq 0 ] || cat "$work/out" "$work/all" >&2
same 'exit status of test_exchange on 2 ranks' "$status" 0

cd "$work" || exit 99
# Equal up to the order of updates: twice as many of them, with half the batch each.
some="train $tiny --data text --batch 4 --micro-batch 1 --lr 0.003 --schedule constant --dp 2 --staleness 2 --metrics log --out saved"
ranks 2 "$orrery" $some --steps 30 --save-every 20 --keep 5
same 'exit status of training' "$status" 0
falls() { losses log | grep -v validation | awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(last < 0.8 * first) }'; }
check 'the loss falls' falls
rm -rf saved/step-00000030
ln -sfn step-00000020 saved/latest
ranks 2 "$orrery" $some --steps 40 --resume saved
same 'exit status of the run that goes on' "$status" 0
goes_on() { losses log | grep -v validation | awk '{ sum[$1 > 20] += $2; n[$1 > 20]++ } END { exit !(n[0] == 20 && n[1] == 20 && sum[1] < 0.9 * sum[0]) }'; }
check 'the run goes on from where it was saved' goes_on

finish
