#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Interrupted, killed and resumed runs end as if nothing had happened.
# shellcheck disable=SC2086,SC2012,SC2094,SC2317    # lists of options; plain names; functions called by their names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
read_events=$here/tests/cli/read_events
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --data text --warmup 5 --dropout 0.1 --eval-every 50 --quiet"

# wait_for CONDITION...: at most 10 s.
wait_for()
{
    tries=0
    until "$@" || [ $tries -gt 500 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
}

has_lines()
{
    [ -e "$1" ] && [ "$(wc -l < "$1")" -ge "$2" ]
}

# whole NAME: the checkpoint has all its files, and `latest` leads to one.
whole()
{
    for file in config.json model.safetensors optimizer.safetensors trainer.json; do
        [ -s "$1/$file" ] || return 1
    done
}

# --- what is to be expected ------------------------------------------------------------------------------------
works $train --steps 400 --out straight --metrics straight.metrics
losses straight.metrics > expected
same 'lines of the metrics' "$(wc -l < expected)" 408

# as_expected RUN METRICS: the same losses and, to the bit, the same parameters and optimizer state.
as_expected()
{
    losses "$2" > found
    if cmp -s expected found; then
        pass
    else
        fail "the losses of $1: $(diff expected found | head -n 3 | tr '\n' ' ')"
    fi
    check "the parameters of $1" cmp -s straight/latest/model.safetensors "$1/latest/model.safetensors"
    check "the optimizer state of $1" cmp -s straight/latest/optimizer.safetensors "$1/latest/optimizer.safetensors"
}

# --- a signal --------------------------------------------------------------------------------------------------
for signal in TERM INT; do
    out=$signal.run
    ran="orrery $train --steps 400 --out $out, and SIG$signal"
    "$orrery" $train --steps 400 --out $out --metrics $out.metrics --tensorboard $out.board > out 2> err < /dev/null &
    child=$!
    wait_for has_lines $out.metrics 10
    kill -$signal $child
    wait $child
    status=$?
    said 130 '^orrery: train: interrupted after step [0-9]*, saved' "--resume $out"
    step=$(sed -n '1s/.*after step \([0-9]*\),.*/\1/p' err)
    same 'latest' "$(readlink $out/latest)" "$(printf 'step-%08d' "$step")"
    same 'steps in the metrics' "$(grep -c '"loss"' $out.metrics)" "$step"
    works train --resume $out
    as_expected $out $out.metrics
    # Every step is told once: what the first file says of steps that the second says again does not count.
    "$read_events" $out.board/events.* > events 2> err
    ran=read_events status=$?
    same 'the event files' $status 0
    same 'the second file begins where the first ends' "$(grep '^start' events)" "start $((step + 1))"
    same 'event files' "$(find $out.board -type f | wc -l)" 2
    same 'losses in them' "$(grep -c ' train/loss ' events)" 400
done
ran="orrery $train --steps 100000, and SIGTERM"
"$orrery" $train --steps 100000 --metrics unsaved.metrics > out 2> err < /dev/null &
child=$!
wait_for has_lines unsaved.metrics 1
kill -TERM $child
wait $child
status=$?
said 130 '^orrery: train: interrupted after step [0-9]*$'
same 'lines without --out' "$(wc -l < err)" 1

# --- resuming on purpose ---------------------------------------------------------------------------------------
works $train --steps 400 --save-every 150 --keep 0 --out again --metrics again.metrics
same 'all are kept' "$(ls again | tr '\n' ' ')" 'latest step-00000150 step-00000300 step-00000400 '
mv again/step-00000400 finished
ln -sfn step-00000300 again/latest
works train --resume again --keep 1 --quiet
as_expected again again.metrics
same 'one is kept' "$(ls again | tr '\n' ' ')" 'latest step-00000400 '
works train --resume finished --steps 405 --out more --metrics more.metrics
same 'five more steps' "$(losses more.metrics | cut -d ' ' -f 1 | tr '\n' ' ')" '401 402 403 404 405 405 '
refused '^orrery: --epochs: .*--steps' '' train --resume more --epochs 2 --steps 410
works $train --epochs 0.01 --out epochs
works train --resume epochs --steps 5
same '--steps takes the place of --epochs' "$(readlink epochs/latest)" step-00000005
cp text moved
works train --resume epochs --steps 6 --data moved
same '--data takes the place of --data' "$(readlink epochs/latest)" step-00000006
works train --resume straight --steps 401 --dp 2 --pp 2 --micro-batch 1 --out elsewhere
same 'another layout goes on' "$(readlink elsewhere/latest)" step-00000401
works $train --steps 3 --keep 1 --out straight
same 'the checkpoint of a longer run stays' "$(ls straight | tr '\n' ' ')" 'latest step-00000003 step-00000400 '
same 'latest' "$(readlink straight/latest)" step-00000003
works eval --model straight --data text --seq 32 --eval-samples 1

# --- kill -9 ---------------------------------------------------------------------------------------------------
# Every save writes some 20 MB. Half of the kills wait for a save to begin, and for a while that varies.
slow="train --model tiny-gpt2 --set n_embd=192 --set n_layer=3 --set n_positions=32 --seq 32 --batch 4 --data text --quiet"
slow="$slow --warmup 5 --save-every 3 --keep 2 --steps 240 --eval-every 7"
mv straight straight1
works $slow --save-every 240 --out straight --metrics straight.metrics.2
losses straight.metrics.2 > expected

saving()
{
    for temp in killed/step-*.tmp; do
        [ -e "$temp" ]
        return
    done
}

saved() { [ -e killed/latest ]; }

kills=0
torn=0
begun=$(date +%s)
while [ $kills -lt 20 ] && [ $(($(date +%s) - begun)) -lt 25 ]; do
    kills=$((kills + 1))
    if [ -e killed/latest ]; then
        ran='orrery train --resume killed'
        "$orrery" train --resume killed > out 2> err < /dev/null &
    else
        rm -f killed.metrics
        ran="orrery $slow --out killed"
        "$orrery" $slow --out killed --metrics killed.metrics > out 2> err < /dev/null &
    fi
    child=$!
    if [ $((kills % 2)) -eq 0 ]; then
        wait_for saving
        seen=0
        while [ $seen -lt $((kills * kills)) ]; do seen=$((seen + 1)); saving; done
    else
        if [ $kills -gt 2 ]; then wait_for saved; fi    # or a loaded machine never comes beyond the first
        sleep 0.$((kills % 6 + 2))
    fi
    kill -9 $child 2> /dev/null
    wait $child 2> /dev/null
    ended=$?
    saving && torn=$((torn + 1))
    for directory in killed/step-????????; do
        [ -e "$directory" ] || continue
        if whole "$directory"; then pass; else fail "kill $kills: $directory is not whole"; fi
    done
    if [ -L killed/latest ]; then
        if whole killed/latest; then pass; else fail "kill $kills: latest is not whole"; fi
        works eval --model killed --data text --seq 32 --eval-samples 1
    fi
    [ $ended -eq 137 ] || break     # it was through
done
echo "$kills kills, $torn of them while saving, the last at $(readlink killed/latest)"
check 'some were killed while saving' test $torn -gt 0
if [ "$(readlink killed/latest)" != step-00000240 ]; then
    works train --resume killed
    same 'what kills left' "$(leftovers killed)" ''
    same 'checkpoints' "$(ls -A killed | tr '\n' ' ')" 'latest step-00000237 step-00000240 '
fi
as_expected killed killed.metrics

# What a kill leaves of other steps goes when the next run starts.
mkdir killed/step-00000007.tmp
: > killed/step-00000007.tmp/model.safetensors
: > killed/.writable.tmp
ln -s nowhere killed/latest.tmp
works train --resume killed --steps 241
same 'what an old kill left' "$(leftovers killed)" ''

finish
