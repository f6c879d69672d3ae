#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bf16 and fp16 on two ranks: what one process computes in the same layout, bit for bit; a loss scale that all have in common.
# shellcheck disable=SC2086,SC2154,SC2034   # lists of options; what common.sh sets and reads
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --micro-batch 1 --data $work/text --warmup 2 --dropout 0.1 --quiet"

# identical A B: the tensors of two checkpoints.
identical()
{
    for file in "$1"/*.safetensors; do
        check "${file##*/} of $1 and $2" cmp -s "$file" "$2/${file##*/}"
    done
}

# steps FILE: of its metrics what does not depend on the time.
steps()
{
    sed 's/"tokens_per_s.*"step_ms":[^,}]*//' "$1"
}

# --- the same as one process, and resumed ------------------------------------------------------------------------
cat > layouts << 'EOF'
--dp 2 --dtype bf16 --checkpoint-dtype bf16
--dp 2 --zero 3 --dtype fp16 --loss-scale 1e13
--pp 2 --dtype fp16 --clip 0 --loss-scale-window 5 --checkpoint-dtype bf16
--tp 2 --sequence-parallel --dtype fp16 --loss-scale 1e13 --loss-scale-window 3
--tp 2 --zero 3 --dtype bf16
--dp 2 --sync parameters --sync-every 2 --outer-momentum 0.5 --dtype bf16 --checkpoint-dtype bf16
EOF
# Saved where local SGD makes its replicas equal anyway.
while read -r options; do
    rm -rf one one.metrics two two.metrics again
    works $train $options --steps 30 --eval-every 15 --out one --metrics one.metrics
    on 2 $train $options --steps 30 --eval-every 15 --save-every 16 --keep 0 --out two --metrics two.metrics
    identical one/latest two/latest
    steps one.metrics > expected
    steps two.metrics > found
    check "metrics with $options" cmp -s expected found
    on 2 $train $options --resume two/step-00000016 --steps 30 --eval-every 15 --out again
    identical one/latest again/latest
done < layouts

# --- overflow ----------------------------------------------------------------------------------------------------
ranks 2 "$orrery" $train --dp 2 --dtype fp16 --loss-scale 1e15 --steps 33 --metrics over.metrics --json
same 'exit status' "$status" 0
skipped=$(grep -c '"skipped":true' over.metrics)
check "steps that overflow: $skipped" test "$skipped" -gt 5 -a "$skipped" -lt 33
same 'skipped_steps' "$(value skipped_steps out)" "$skipped"
for layout in '--dp 2' '--pp 2' '--tp 2 --clip 0'; do
    ranks 2 "$orrery" $train $layout --dtype fp16 --lr 1000 --warmup 0 --loss-scale 8 --steps 200
    told 1 '^orrery: run: step [0-9]*: the gradient overflows fp16 even where the loss is multiplied by 0\.'
done
ranks 2 "$orrery" $train --dp 2 --dtype fp16 --staleness 1 --steps 2
told 2 '^orrery: train: replicas that differ have no loss scale in common for fp16'
ranks 0 -n 1 "$orrery" $train --dp 2 --dtype bf16 --steps 2 : -n 1 "$orrery" $train --dp 2 --dtype fp16 --steps 2
told 2 "^orrery: rank 1: options: '--dtype=fp16' where rank 0 has '--dtype=bf16'"

# --- another mesh, and asynchronous replicas -----------------------------------------------------------------------
on 2 $train --dp 1 --tp 2 --sync gradients --sync-every 1 --outer-momentum 0 --dtype fp16 --resume again --steps 32 --out other
on 2 $train --dp 2 --staleness 2 --dtype bf16 --steps 20 --eval-every 10 --out stale
on 2 $train --dp 2 --staleness 2 --dtype bf16 --steps 25 --resume stale

# --- forward only --------------------------------------------------------------------------------------------------
for options in '--dp 2 --dtype bf16' '--pp 2 --dtype fp16' '--tp 2 --zero 3 --dtype bf16' '--dp 2 --zero 3 --dtype fp16'; do
    works eval --model one --data text --seq 32 --eval-samples 8 --json $options
    loss=$(value loss out)
    on 2 eval --model one --data text --seq 32 --eval-samples 8 --json $options
    same "the loss with $options" "$(value loss out)" "$loss"
    for command in logits grads; do
        works $command --model one --ids '1 2 3 4; 5 6 7 8 9' $options --out one.safetensors
        on 2 $command --model one --ids '1 2 3 4; 5 6 7 8 9' $options --out two.safetensors
        check "$command with $options" cmp -s one.safetensors two.safetensors
    done
    same 'files beside it' "$(find . -name '*.tmp*')" ''
    works generate --model one --prompt times --max-tokens 10 --temperature 0 $options
    cp out expected
    on 2 generate --model one --prompt times --max-tokens 10 --temperature 0 $options
    check "text with $options" cmp -s out expected
done

for command in logits grads; do
    ranks 2 "$orrery" $command --model one --ids '1 2 3' --tp 2 --dtype bf16 --out nowhere/file
    told 1 'nowhere/file: cannot create'
done

finish
