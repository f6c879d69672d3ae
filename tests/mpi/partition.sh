#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A dynamic partition on two ranks: the faster replica gets more, and what is recorded is repeated, to the bit.
# shellcheck disable=SC2086,SC2016,SC2154,SC2034    # lists of options; programs of awk and sh; names in common.sh
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99

ran="mpiexec -n 2 partition"
timeout 100 mpiexec --oversubscribe --bind-to none -n 2 "$here/tests/mpi/partition" < /dev/null > out 2> err
status=$?
grep -v '^Running' out
check 'replicas that sleep' test "$status" -eq 0

# --- record and replay ---------------------------------------------------------------------------------------------
train="train $tiny --seq 32 --batch 12 --micro-batch 1 --data $work/text --warmup 2 --dropout 0.1 --quiet --dp 2
    --partition dynamic --steps 40 --save-every 5 --keep 0"
steps=40

# stop_and_go PID: has it run for a quarter of the time, until it ends.
stop_and_go()
{
    while kill -STOP "$1" && sleep 0.06 && kill -CONT "$1"; do
        sleep 0.02
    done 2> /dev/null
}

# Rank 1 is slow, and rank 0, which writes the record, is killed.
ran="mpiexec -n 2 orrery $train, and SIGKILL for rank 0"
timeout -k 10 100 mpiexec --oversubscribe -n 2 sh -c 'echo $$ > "pid.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"; exec "$@"' sh \
    "$orrery" $train --out run --metrics run.metrics > out 2> all < /dev/null &
job=$!
until_true 300 test -e run/step-00000005
stop_and_go "$(cat pid.1)" &
until_true 300 test -e run/step-00000030
kill -KILL "$(cat pid.0)"
wait $job
status=$?
grep '^orrery' all > err
check 'it was ended' test "$status" -ne 0
sed -n 's/"step": \([0-9]*\), "microbatches": \[\([0-9]*\), \([0-9]*\)\]/\1 \2 \3/p' run/partition.jsonl | tr -d '{}' > shares
recorded=$(wc -l < shares)
echo "recorded: $(cut -d ' ' -f 2,3 shares | tr ' \n' '+ ')"
check "$recorded steps are recorded, each one of all microbatches" awk -v n="$recorded" '
    $1 != NR || $2 < 1 || $3 < 1 || $2 + $3 != 12 { bad = 1 }
    END { exit bad || NR != n || n < 30 }' shares
check 'they are uneven' awk '$1 > 10 && $2 != $3 { n++ } END { exit n < 3 }' shares
losses run.metrics > expected
last=$(tail -n 1 expected | cut -d ' ' -f 1)
check "step $last is recorded" test "$last" -le "$recorded"

# repeated DIR RANKS FROM: from that checkpoint the run of DIR, a copy of the first, repeats what is recorded and goes on.
repeated()
{
    name=$(printf 'step-%08d' "$3")
    rm -rf "$1.metrics"
    if [ "$2" -gt 1 ]; then
        ranks "$2" "$orrery" train --resume "$1/$name" --out "$1" --metrics "$1.metrics"
    else
        run train --resume "$1/$name" --out "$1" --metrics "$1.metrics"
    fi
    same "exit status of $1" "$status" 0
    head -n "$recorded" run/partition.jsonl > before
    head -n "$recorded" "$1/partition.jsonl" > after
    check "$1 repeats the shares: $(diff before after | head -n 4)" cmp -s before after
    same "lines of $1" "$(grep -c '^{"step": [0-9]*, "microbatches": \[[0-9]*, [0-9]*\]}$' "$1/partition.jsonl")" $steps
    same "lines of $1" "$(wc -l < "$1/partition.jsonl")" $steps
    awk -v first="$3" '$1 > first' expected > before
    losses "$1.metrics" | awk -v last="$last" '$1 <= last' > after
    check "$1 repeats the losses: $(diff before after | head -n 4)" cmp -s before after
    for file in model optimizer; do
        check "$file of $1" cmp -s run/step-00000030/$file.safetensors "$1/step-00000030/$file.safetensors"
    done
}

for copy in whole half unended alone; do
    cp -R run $copy
done
repeated whole 2 10
# A line of which a kill left half, and one without its end.
printf '{"step": %d, "microb' $((recorded + 1)) >> half/partition.jsonl
repeated half 2 5
printf '{"step": %d, "microbatches": [1, 11]}' $((recorded + 1)) >> unended/partition.jsonl
repeated unended 2 25
repeated alone 1 10

# Other shares than would be measured: they count, and what was not recorded does not.
for copy in told told1; do
    cp -R run $copy
    sed 's/\[.*\]/[1, 11]/' run/partition.jsonl | head -n 20 > $copy/partition.jsonl
done
ranks 2 "$orrery" train --resume told/step-00000010 --out told --metrics told.metrics
same 'exit status' "$status" 0
same 'shares that were changed' "$(head -n 20 told/partition.jsonl | grep -c '\[1, 11\]')" 20
run train --resume told1/step-00000010 --out told1 --metrics told1.metrics
same 'exit status' "$status" 0
losses told.metrics | awk '$1 <= 20' > before
losses told1.metrics | awk '$1 <= 20' > after
check 'both repeat the same' cmp -s before after
losses run.metrics | awk '$1 > 10 && $1 <= 20' > after
check 'in another order of sums' sh -c '! cmp -s before after'

# Of other microbatches nothing that is recorded can be repeated.
cp -R run other
cp -R run fewer
sed 's/\[.*\]/[1, 2]/' run/partition.jsonl > fewer/partition.jsonl
ranks 2 "$orrery" train --resume other/step-00000010 --out other --micro-batch 2
same 'exit status' "$status" 0
check 'all microbatches are dealt' awk -F '[][, ]+' '$4 + $5 != 6 { bad = 1 } END { exit bad || NR == 0 }' other/partition.jsonl
ranks 2 "$orrery" train --resume fewer/step-00000010 --out fewer
same 'exit status' "$status" 0
check 'all microbatches are dealt' awk -F '[][, ]+' '$4 + $5 != 12 { bad = 1 } END { exit bad || NR == 0 }' fewer/partition.jsonl

finish
