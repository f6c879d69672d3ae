#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SIGKILL for a random rank at a random moment, KILLS times (20) in a row: every time the run ends and says which rank was
# lost, is resumed, and in the end has the losses and parameters of a run that was left alone. SEED repeats the moments.
# shellcheck disable=SC2034,SC2086,SC2016,SC2154    # common.sh; lists of options; what another shell is to expand
. "${srcdir:-.}/tests/mpi/common.sh"
command -v pgrep > /dev/null || { echo "skipped: there is no pgrep"; exit 77; }
cd "$work" || exit 99
export orrery

kills=${KILLS:-20}
seed=${SEED:-$(date +%s)}
echo "KILLS=$kills SEED=$seed"
train="train $tiny --seq 32 --batch 4 --micro-batch 1 --data text --warmup 2 --schedule constant --min-lr 0 --dropout 0.1 \
--quiet --dp 2 --save-every 3 --keep 2 --val-fraction 0"

# A line per kill: the rank, steps to wait for, milliseconds after those.
awk -v seed="$seed" -v n="$kills" 'BEGIN {
    srand(seed)
    for (i = 0; i < n; i++) print int(2 * rand()), int(12 * rand()), int(200 * rand())
}' > moments

last_step() { tail -n 1 "$1" 2> /dev/null | sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p'; }
saved_step() { readlink "$1/latest" | sed 's/step-0*//'; }

started() { [ -s pid.0 ] && [ -s pid.1 ]; }
reached() { [ "$(last_step "$1" | grep . || echo 0)" -ge "$2" ]; }
gone() { ! kill -0 "$1" 2> /dev/null; }

# killed RANK STEPS MS: starts or resumes the run, kills the rank where, beyond the last checkpoint, it is then. With
# STEPS = 0 that is a time after the start of the processes.
killed()
{
    victim=$1
    target=$(($(saved_step run | grep . || echo 0) + $2))
    rm -f pid.0 pid.1
    resume='--resume run'
    if ! [ -e run/latest ]; then
        resume=
        rm -f metrics
    fi
    ran="mpiexec -n 2 orrery $train $resume, and SIGKILL for rank $victim"
    status=
    timeout -k 10 100 mpiexec --oversubscribe -n 2 sh -c \
        'echo $$ > pid.new.$OMPI_COMM_WORLD_RANK; mv pid.new.$OMPI_COMM_WORLD_RANK pid.$OMPI_COMM_WORLD_RANK
        exec "$orrery" "$@"' sh $train $resume --steps 1000000 --out run --metrics metrics > out 2> all < /dev/null &
    job=$!
    check 'it starts' until_true 300 started
    if [ "$2" -gt 0 ]; then check "it reaches step $target" until_true 600 reached metrics $target; fi
    sleep "$(awk -v ms="$3" -v start="$2" 'BEGIN { print (start > 0 ? ms : 10 * ms) / 1000 }')"
    saving=$(find run -name '*.tmp*' -newer pid.0 2> /dev/null | head -n 1)     # no earlier kill's
    kill -KILL "$(cat pid.$victim)"
    begin=$(date +%s)
    wait $job
    status=$?
    took=$(($(date +%s) - begin))
    cp all err
    if [ -n "$saving" ]; then while_saving=$((while_saving + 1)); fi
    if [ $took -gt $longest ]; then longest=$took; fi
    same 'exit status' $status 137
    check "the lost rank is named" grep -q -e "^orrery: rank $victim (host .*): lost: its process has ended$" \
        -e "process rank $victim with PID" err
    check 'the other rank ends' until_true 100 gone "$(cat pid.$((1 - victim)))"
}

while_saving=0
longest=0
while read -r victim steps ms; do
    killed $victim $steps $ms
done < moments
echo "$while_saving of $kills while a checkpoint was being written; the job ended after at most $longest s"

# --- the end of it ----------------------------------------------------------------------------------------------
steps=$(($(saved_step run | grep . || echo 0) + 8))
cp -R run fewer
cp metrics fewer.metrics
cp -R run other
cp metrics other.metrics
works $train --steps $steps --out straight --metrics straight.metrics
losses straight.metrics > expected
same 'losses' "$(wc -l < expected)" $steps

# equal DIR: the straight run's losses and tensors, bit for bit.
equal()
{
    losses $1.metrics > found
    check "the losses of $1: $(diff expected found | head -n 4)" cmp -s expected found
    for file in model optimizer; do
        check "$file of $1" cmp -s straight/latest/$file.safetensors $1/latest/$file.safetensors
    done
}

mv metrics run.metrics
ranks 2 "$orrery" $train --resume run --steps $steps --metrics run.metrics --out run
same 'exit status of the last part' "$status" 0
equal run

# On one rank; and there without replicas, where sums have another order.
works $train --resume fewer --steps $steps --metrics fewer.metrics --out fewer
equal fewer
works $train --dp 1 --resume other --steps $steps --metrics other.metrics --out other
losses other.metrics > found
check "the losses without replicas: $(diff expected found | tail -n 3)" awk '
    NR == FNR { a[$1] = $2; next }
    { d = $2 - a[$1]; if (d < 0) d = -d; if (!(d <= 1e-5 * a[$1])) bad = 1; n++ }
    END { exit bad || n != '$steps' }' expected found

# --- by itself --------------------------------------------------------------------------------------------------
# The process of this rank in the job of a supervisor, which is no mpiexec: see tests/mpi/restart.sh.
trainer()
{
    for process in $(pgrep -f -- "train.*--out=itself( |\$)"); do
        if tr '\0' '\n' < "/proc/$process/environ" 2> /dev/null | grep -q '^ORRERY_RESTART=' &&
            tr '\0' '\n' < "/proc/$process/environ" 2> /dev/null | grep -q "^OMPI_COMM_WORLD_RANK=$1\$"; then
            echo "$process"
        fi
    done
}

ran="mpiexec -n 2 orrery $train --max-restarts 9, and SIGKILL for some ranks"
longer=$((steps + 40))
timeout -k 10 150 mpiexec --oversubscribe -n 2 "$orrery" $train --steps $longer --out=itself --metrics itself.metrics \
    --max-restarts 9 > out 2> all < /dev/null &
job=$!
restarts=0
while read -r victim _ ms && [ $restarts -lt 3 ]; do
    restarts=$((restarts + 1))
    check 'it trains' until_true 600 reached itself.metrics $((restarts * longer / 4))
    process=$(trainer $victim)
    if [ -n "$process" ]; then kill -KILL $process; else fail "rank $victim is not there"; fi
done < moments
wait $job
status=$?
grep '^orrery: train' all > err
same 'exit status' $status 0
same 'restarts' "$(grep -c 'restart [1-3] of 9, from the last checkpoint in itself$' err)" $restarts
works $train --steps $longer --out straight --metrics straight.metrics --resume straight
losses straight.metrics > expected
equal itself

finish
