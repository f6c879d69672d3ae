#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Several ranks write one checkpoint, any layout goes on from it, and what fails on one rank fails on all.
# shellcheck disable=SC2086,SC2016,SC2012,SC2094,SC2154,SC2034   # lists of options; what others expand; names in common.sh
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99
export orrery

train="train $tiny --seq 32 --batch 4 --micro-batch 1 --data $work/text --warmup 2 --dropout 0.1 --quiet"

# identical A B: two checkpoints, to the bit.
identical()
{
    for file in model optimizer; do
        check "$file of $1 and $2" cmp -s "$1/$file.safetensors" "$2/$file.safetensors"
    done
}

# --- one file from many ranks ----------------------------------------------------------------------------------
# Where the sums are the same, the files are, whoever wrote them.
works $train --steps 3 --out one
on 2 $train --steps 3 --out two --pp 2
identical one/latest two/latest
works $train --steps 3 --out shards --tp 2 --dp 2
on 4 $train --steps 3 --out shards4 --tp 2 --dp 2
identical shards/latest shards4/latest
same 'files' "$(cd shards4/latest && echo *)" 'config.json model.safetensors optimizer.safetensors trainer.json'
works $train --steps 3 --out replicas --dp 2
on 2 $train --steps 3 --out replicas2 --dp 2 --zero 3
identical replicas/latest replicas2/latest

# --- resuming --------------------------------------------------------------------------------------------------
cat > layouts << 'EOF'
1
2 --pp 2
2 --tp 2 --sequence-parallel
4 --dp 2 --tp 2 --zero 3
EOF

# A run that stops half-way, and the same without a stop.
while read -r n options; do
    run=$(echo $n $options | tr -d ' -')
    on $n $train $options --steps 4 --save-every 2 --keep 0 --eval-every 2 --out $run --metrics $run.metrics
    on $n $train $options --resume $run/step-00000002 --steps 4 --eval-every 2 --out $run.again \
        --metrics $run.again.metrics
    identical $run/latest $run.again/latest
    losses $run.metrics | tail -n 3 > expected
    losses $run.again.metrics > found
    check "the losses of $run.again" cmp -s expected found
done < layouts

# Each goes on from what the one before it has left.
before=4dp2tp2zero3
while read -r n options; do
    run=$(echo $n $options | tr -d ' -')
    on $n $train --dp 1 --pp 1 --tp 1 --zero 1 $options --resume $before/step-00000002 --steps 4 --eval-every 2 \
        --out $run.other --metrics $run.other.metrics
    losses $run.other.metrics > found
    same 'steps' "$(wc -l < found)" 3
    losses $before.metrics > expected
    check "$run goes on from $before: $(diff expected found | tr '\n' ' ')" awk '
        { k = $1 " " ($2 == "validation"); x = $2 == "validation" ? $3 : $2 }
        NR == FNR { a[k] = x; next }
        { d = x - a[k]; if (d < 0) d = -d; if (!(k in a) || d > 1e-5 * a[k]) bad = 1 }
        END { exit bad }' expected found
    before=$run
done < layouts
on 2 eval --model 4dp2tp2zero3 --pp 2 --data text --seq 32 --eval-samples 1

# --- a signal for one rank ------------------------------------------------------------------------------------
long="$train --pp 2 --steps 60 --eval-every 25"
works $long --out straight
out=signal
ran="mpiexec -n 2 orrery $long --out $out, and SIGTERM for rank 1"
timeout 120 mpiexec --oversubscribe -n 2 sh -c 'echo $$ > "pid.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"; exec "$orrery" "$@"' sh $long \
    --out $out --metrics metrics > out 2> all < /dev/null &
child=$!
has_lines() { [ -e metrics ] && [ "$(wc -l < metrics)" -ge 2 ]; }
until_true 200 has_lines
kill -TERM "$(cat pid.1)"
wait $child
status=$?
grep '^orrery' all > err
said 130 '^orrery: train: interrupted after step [0-9]*, saved' "--resume $out"
step=$(sed -n 's/.*after step \([0-9]*\),.*/\1/p' err)
same 'latest' "$(readlink $out/latest)" "$(printf 'step-%08d' "${step:-0}")"
same 'steps in the metrics' "$(grep -c '"loss"' metrics)" "$step"
on 2 train --resume $out
identical straight/latest $out/latest

# --- what fails on one rank ------------------------------------------------------------------------------------
# intact DIRECTORY NAME: latest is NAME, is the only one, and nothing lies beside it.
intact()
{
    same 'latest' "$(readlink "$1/latest")" "$2"
    same 'what lies beside it' "$(ls -A "$1" | tr '\n' ' ')" "latest $2 "
}

# The unit of ulimit -f is 512 bytes in POSIX, 1024 in bash.
# shellcheck disable=SC3045    # POSIX has ulimit -f
{ (ulimit -f 1; head -c 4096 /dev/zero > probe); } > err 2>&1
unit=$(wc -c < probe)
limited="ulimit -f \$((1024 * KIB / $unit)); exec \"\$orrery\" \"\$@\""

short="$train --pp 2 --steps 4 --save-every 1 --resume"
cp -R two run
for kib in 60 200; do      # in model.safetensors, in optimizer.safetensors
    export KIB=$kib
    ranks 0 -n 1 "$orrery" $short run --out run : -n 1 sh -c "$limited" sh $short run --out run
    said 1 '^orrery: rank 1: run/step-00000004.tmp/.*safetensors: .*File too large' 'ulimit -f'
    intact run step-00000003
done
export KIB=1
endless="$train --pp 2 --steps 1000000 --metrics metrics"
ranks 0 -n 1 sh -c "$limited" sh $endless : -n 1 "$orrery" $endless
said 1 '^orrery: (rank 0: )?metrics: .*File too large' ''
rm metrics
endless="$endless --eval-every 1"
ranks 0 -n 1 sh -c "$limited" sh $endless : -n 1 "$orrery" $endless
said 1 '^orrery: (rank 0: )?metrics: .*File too large' ''
on 2 $train --pp 2 --steps 4 --resume run --out run --keep 1
intact run step-00000004

# A directory of its own for each rank.
mkdir a b
ranks 0 -n 1 --wdir "$work/a" "$orrery" $train --pp 2 --steps 2 --out run : \
    -n 1 --wdir "$work/b" "$orrery" $train --pp 2 --steps 2 --out run
said 2 '^orrery: rank 1: run: is not the directory that rank 0 has' 'all ranks share'
same 'what is left' "$(find a b -type f)" ''

# A damaged copy.
cp -R run a
cp -R run b
for file in model optimizer; do
    head -c 3000 run/latest/$file.safetensors > b/run/latest/$file.safetensors
    ranks 0 -n 1 --wdir "$work/a" "$orrery" $train --pp 2 --steps 9 --resume run : \
        -n 1 --wdir "$work/b" "$orrery" $train --pp 2 --steps 9 --resume run
    said 2 "^orrery: rank 1: run/latest/$file.safetensors: " ''
    cp run/latest/$file.safetensors b/run/latest
done

finish
