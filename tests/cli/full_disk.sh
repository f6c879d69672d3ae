#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writing fails: exit status 1, one line that names the file, and the last checkpoint as it was.
# shellcheck disable=SC2086,SC2012    # $tiny is a list of options; plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
disk=$work/disk
mounted=
trap 'cd /; [ -n "$mounted" ] && umount "$disk"; rm -rf "$work"' EXIT

train="train $tiny --seq 32 --batch 4 --data text --quiet"

# intact DIRECTORY NAME: latest is NAME, can be used, is the only one, and nothing lies beside it.
intact()
{
    same 'latest' "$(readlink "$1/latest")" "$2"
    same 'what lies beside it' "$(ls -A "$1" | tr '\n' ' ')" "latest $2 "
    works eval --model "$1" --data text --seq 32 --eval-samples 1
}

# The unit of ulimit -f is 512 bytes in POSIX, 1024 in bash.
# shellcheck disable=SC3045    # POSIX has ulimit -f
{ (ulimit -f 1; head -c 4096 /dev/zero > probe); } > err 2>&1
unit=$(wc -c < probe)

# with_limit KIB ARGUMENT...: the command with files of at most so many KiB.
with_limit()
{
    blocks=$(($1 * 1024 / unit))
    shift
    ran="ulimit -f $blocks; orrery $*"
    # shellcheck disable=SC3045    # POSIX has ulimit -f
    (ulimit -f "$blocks"; exec "$orrery" "$@" > out 2> err < /dev/null)
    status=$?
}

# --- a limit on the size of files ------------------------------------------------------------------------------
works $train --steps 2 --out run
with_limit 100 $train --resume run --steps 4 --save-every 1
said 1 '^orrery: run/step-00000003.*model.safetensors: ' 'ulimit -f'
intact run step-00000002
with_limit 200 $train --resume run --steps 4
said 1 '^orrery: run/step-00000004.*optimizer.safetensors: ' 'ulimit -f'
intact run step-00000002
with_limit 1 $train --steps 50 --metrics metrics
said 1 '^orrery: metrics: ' 'ulimit -f'
check 'whole lines in the metrics' test -s metrics -a -z "$(tail -c 1 metrics)"
same 'lines that are no object' "$(grep -c -v '^{.*}$' metrics)" 0
with_limit 1 $train --steps 50 --tensorboard board
said 1 '^orrery: board/events.out.tfevents.*: ' 'ulimit -f'
for command in logits grads; do
    with_limit 1 $command $tiny --ids '1 2 3 4 5 6 7 8' --out numbers.safetensors
    said 1 '^orrery: numbers.safetensors: ' 'ulimit -f'
    same "files left by $command" "$(find . -name 'numbers*')" ''
done
with_limit 20 convert --model run --out other
said 1 '^orrery: other.tmp/model.safetensors: ' 'ulimit -f'
same 'files left by convert' "$(find . -name 'other*')" ''
with_limit 50 convert --model run --out other --shard-size 40KiB
same 'exit status with smaller files' "$status" 0
works $train --resume run --steps 4

# --- a small disk ----------------------------------------------------------------------------------------------
mkdir "$disk"
if mount -t tmpfs -o size=700k none "$disk" 2> /dev/null; then
    mounted=yes
    run $train --steps 4 --save-every 1 --keep 1 --out "$disk/run"
    said 1 "^orrery: $disk/run/step-00000002.*: .*No space left" 'free some space'
    intact "$disk/run" step-00000001
    run logits $tiny --ids "$(yes 1 | head -32 | tr '\n' ' ')" --ids-file /dev/null --out "$disk/numbers"
    said 2 ids
    yes '1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16' | head -n 64 > many
    run logits $tiny --ids-file many --out "$disk/numbers.safetensors"
    said 1 "^orrery: $disk/numbers.safetensors: .*No space left" 'free some space'
    same 'files left by logits' "$(find "$disk" -name 'numbers*')" ''
    cat /dev/zero > "$disk/full" 2> /dev/null
    run $train --steps 50 --metrics "$disk/metrics"
    said 1 "^orrery: $disk/metrics: .*No space left" 'free some space'
    same 'nothing half-written' "$(wc -c < "$disk/metrics")" 0
    run $train --steps 50 --tensorboard "$disk"
    said 1 "^orrery: $disk/events.*: .*No space left" 'free some space'
    run $train --steps 1 --out "$disk/other"
    if [ "$status" -eq 1 ]; then
        said 1 "^orrery: $disk/other.*: .*No space left"
    else
        said 2 "^orrery: $disk/other.*: .*No space left"
    fi
    rm "$disk/full"
    intact "$disk/run" step-00000001
else
    skip 'a small disk: mount is not allowed here'
fi

# --- the folder goes away --------------------------------------------------------------------------------------
# started: waits until the background run has saved its first checkpoint.
started()
{
    tries=0
    until [ -e going/latest ] || [ $tries -gt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
}

endless="$train --steps 1000000 --save-every 20 --keep 2 --out going"
for way in removed file; do
    rm -rf going gone
    ran="orrery $endless, its folder being $way"
    "$orrery" $endless > out 2> err < /dev/null &
    child=$!
    started
    mv going gone
    [ $way = file ] && : > going
    wait $child
    status=$?
    said 1 '^orrery: going'
    check 'the moved checkpoint is still good' test -e gone/latest/model.safetensors
    works eval --model gone --data text --seq 32 --eval-samples 1
done

finish
