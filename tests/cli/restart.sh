#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --max-restarts: a run that is killed goes on by itself, and one that would fail again does not.
# shellcheck disable=SC2086    # lists of options
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
command -v pgrep > /dev/null || { echo "skipped: there is no pgrep"; exit 77; }
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --data text --warmup 5 --dropout 0.1 --quiet"
supervised="$train --steps 400 --save-every 25 --keep 0 --max-restarts 2"

# starts OUT ARGUMENT...: the command in the background; its process is $supervisor.
starts()
{
    out=$1
    shift
    ran="orrery $* --out $out, and a signal"
    "$orrery" "$@" --out "$out" --metrics "$out.metrics" > out 2> err < /dev/null &
    supervisor=$!
}

# reaches OUT STEP: at most 20 s until there is this checkpoint.
reaches()
{
    tries=0
    until [ -e "$1/step-$2" ] || [ $tries -gt 1000 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
}

# trains OUT: at most 20 s until it has a few steps.
trains()
{
    tries=0
    until { [ -e "$1.metrics" ] && [ "$(wc -l < "$1.metrics")" -ge 5 ]; } || [ $tries -gt 1000 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
}

kills()
{
    kill -"$1" "$(pgrep -P "$supervisor")"
}

ends()
{
    wait "$supervisor"
    status=$?
}

works $train --steps 400 --save-every 25 --keep 0 --out straight --metrics straight.metrics
losses straight.metrics > expected

# --- it goes on ---------------------------------------------------------------------------------------------------
starts run $supervised
reaches run 00000050
kills KILL
reaches run 00000200
kills ABRT
ends
same 'exit status after two crashes' $status 0
same 'lines on standard error' "$(wc -l < err)" 2
check 'the first restart' grep -q '^orrery: train: the run was ended by signal 9; restart 1 of 2, from the last checkpoint in run$' err
check 'the second restart' grep -q '; restart 2 of 2, from the last checkpoint in run$' err
losses run.metrics > found
check 'the losses' cmp -s expected found
check 'the parameters' cmp -s straight/latest/model.safetensors run/latest/model.safetensors
check 'the optimizer state' cmp -s straight/latest/optimizer.safetensors run/latest/optimizer.safetensors
check 'the checkpoint does not hold --max-restarts' sh -c '! grep -q max-restarts run/latest/trainer.json'

# A checkpoint that lay there before belongs to another run.
cp -a straight again
starts again $supervised --save-every 1000
trains again
kills KILL
ends
same 'exit status after a crash before the first checkpoint' $status 0
check 'from the beginning' grep -q '; restart 1 of 2, from the beginning: nothing was saved in again$' err
losses again.metrics | tail -n "$(wc -l < expected)" > found       # the first try's stay
check 'the losses of a run begun anew' cmp -s expected found

# --- it ends --------------------------------------------------------------------------------------------------------
starts often $supervised --max-restarts 1
reaches often 00000025
kills KILL
reaches often 00000075
kills KILL
ends
same 'exit status after one crash too many' $status 137
same 'restarts' "$(grep -c 'restart 1 of 1' err)" 1

starts stopped $supervised --steps 100000
reaches stopped 00000025
kill -TERM "$supervisor"
ends
same 'exit status after SIGTERM' $status 130
same 'restarts after SIGTERM' "$(grep -c restart err)" 0

refused 'needs --out' '--out' $train --steps 1 --max-restarts 1
refused '^orrery: none: ' '' $supervised --out other --data none
run $supervised --out other --lr 1000 --clip 0 --optimizer sgd
said 1 'finite'
works $supervised --steps 2 --out quoted --launcher "env 'A=b c' \"D=\" "
refused "^orrery: --launcher: 'env \"A' is no simple command" 'mpiexec' $supervised --out other --launcher 'env "A'
refused '^orrery: --launcher: .* is no simple command' 'mpiexec' $supervised --out other --launcher 'env $(true)'
run $supervised --out other --launcher none
same 'exit status where the launcher is missing' $status 2

finish
