#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --max-restarts under mpiexec, and with --launcher: the ranks are started anew by an mpiexec of the supervisor's own.
# shellcheck disable=SC2086    # lists of options
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --data text --quiet --steps 150 --save-every 25 --keep 0"

# The process that trains: it alone has ORRERY_RESTART, and is no mpiexec.
trainer()
{
    for process in $(pgrep -f -- "train.*--out=$1( |\$)"); do
        if tr '\0' '\n' < "/proc/$process/environ" 2> /dev/null | grep -q '^ORRERY_RESTART=' &&
            tr '\0' '\n' < "/proc/$process/cmdline" | head -n 1 | grep -q orrery; then
            echo "$process"
        fi
    done
}

# interrupted OUT COMMAND...: the command, whose trainer is killed once it has saved.
interrupted()
{
    out=$1
    shift
    ran="$* and SIGKILL"
    timeout 50 "$@" > "$work/out" 2> "$work/all" < /dev/null &
    job=$!
    until_true 200 test -e "$out/step-00000050"
    kill -KILL $(trainer "$out")
    wait $job
    status=$?
    grep '^orrery' "$work/all" > "$work/err"
    same "exit status of $out" $status 0
    same "restarts of $out" "$(cat "$work/err")" "orrery: train: the run was ended by signal 9; restart 1 of 2, from the last \
checkpoint in $out"
    check "the parameters of $out" cmp -s straight/latest/model.safetensors $out/latest/model.safetensors
}

works $train --out straight
interrupted inner mpiexec --oversubscribe -n 1 "$orrery" $train --out=inner --max-restarts 2
interrupted outer "$orrery" $train --out=outer --max-restarts 2 --launcher 'mpiexec --oversubscribe -n 1'

# The other processes wait, and end with the status of the job.
ranks 3 "$orrery" $train --out wrong --model none --max-restarts 2
told 2 '^orrery: none: there is no such directory'
ranks 2 "$orrery" $train --max-restarts 2
told 2 'needs --out'
ranks 2 "$orrery" $train --out wrong --max-restarts 2 --launcher mpiexec
told 2 '^orrery: --max-restarts: cannot start the ranks of several hosts'
ranks 3 sh -c "OMPI_COMM_WORLD_LOCAL_SIZE=2 exec '$orrery' $train --out wrong --max-restarts 2"
told 2 '^orrery: --max-restarts: cannot start the ranks of several hosts'

finish
