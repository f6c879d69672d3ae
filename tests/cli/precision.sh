#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The command in bf16 and fp16: what it prints and leaves, checkpoints in any dtype, resuming, running forward.
# shellcheck disable=SC2086,SC2012,SC2154,SC2034   # $train and $tiny are lists of options; plain names; what others set and read
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
compare=$here/tests/cli/compare_tensors
golden=$src/tests/golden/gpt2-small

train="train $tiny --seq 32 --batch 4 --data text --warmup 2 --dropout 0.1 --val-fraction 0"

# near WHAT TOLERANCE A B: the numbers differ by so much at most, relative to B.
near()
{
    ran="$1: $3, $4"
    check "$1: $3 is not near $4" awk -v a="$3" -v b="$4" -v t="$2" \
        'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && d <= t * (b < 0 ? -b : b)) }'
}

# identical WHAT A B: two files.
identical()
{
    check "$1: $2 and $3 differ" cmp -s "$2" "$3"
}

# dtypes FILE: what its tensors are in, each once.
dtypes()
{
    grep -a -o '"dtype":"[A-Z0-9]*"' "$1" | sort -u | tr '\n' ' '
}

# --- overflow --------------------------------------------------------------------------------------------------
run $train --steps 34 --dtype fp16 --loss-scale 1e15 --metrics over.metrics --json --out over
same 'exit status' $status 0
skipped=$(grep -c '"skipped":true' over.metrics)
check "steps that overflow: $skipped" test "$skipped" -gt 5 -a "$skipped" -lt 34
same 'skipped_steps' "$(value skipped_steps out)" "$skipped"
same 'good steps' "$(grep -c '"skipped":false' over.metrics)" $((34 - skipped))
check 'the first is told' grep -q '^{"step":1,"loss":[0-9.]*,.*"grad_norm":null,.*"loss_scale":1e15,"skipped":true}$' over.metrics
check 'the second is told' grep -q '^{"step":2,.*"loss_scale":5e14,"skipped":true}$' over.metrics
check 'the last is told' grep -q '^{"step":34,.*"grad_norm":[0-9.]*,.*"loss_scale":[0-9.]*,"skipped":false}$' over.metrics
same 'lines that no JSON reader would take' "$(grep -c -i -e nan -e inf over.metrics)" 0
check 'progress' grep -q '^step 1/34  overflow: skipped; the loss scale becomes 5e+14$' err
same 'lines of it' "$(grep -c 'overflow: skipped' err)" "$skipped"
same 'what the checkpoint keeps' "$(value skipped_steps over/latest/trainer.json)" "$skipped"
tail -n 1 over.metrics > line
near 'the scale that it keeps' 1e-6 "$(value loss_scale over/latest/trainer.json)" "$(value loss_scale line)"

# Nothing of it elsewhere.
for dtype in fp32 bf16; do
    run $train --steps 2 --dtype $dtype --loss-scale 1e15 --metrics $dtype.metrics --quiet --json
    same 'exit status' $status 0
    same "words about a scale in $dtype" "$(cat out $dtype.metrics | grep -c -e scale -e skip)" 0
done

# A run that no scale helps ends by itself.
for clip in 0 1; do
    run $train --steps 200 --dtype fp16 --lr 1000 --warmup 0 --loss-scale 8 --clip $clip --quiet --out hopeless
    said 1 '^orrery: run: step [0-9]*: the gradient overflows fp16 even where the loss is multiplied by 0\.'
    same 'what it leaves' "$(ls -A hopeless 2> /dev/null)" ''
done

# --- variables -------------------------------------------------------------------------------------------------
ORRERY_DTYPE=fp16 ORRERY_LOSS_SCALE=128 ORRERY_LOSS_SCALE_WINDOW=2 ORRERY_CHECKPOINT_DTYPE=bf16 \
    works $train --steps 3 --quiet --metrics variables.metrics --out variables
same 'scales' "$(sed 's/.*"loss_scale":\([0-9.]*\),.*/\1/' variables.metrics | tr '\n' ' ')" '128.0 128.0 256.0 '
same 'dtype of the parameters' "$(dtypes variables/latest/model.safetensors)" '"dtype":"BF16" '

# --- checkpoints and resuming ----------------------------------------------------------------------------------
# The run that stops half-way equals the one that does not, to the bit; without --dtype it goes on as it was.
for options in '--dtype bf16' '--dtype bf16 --checkpoint-dtype bf16' \
    '--dtype bf16 --master-weights none' '--dtype bf16 --master-weights none --checkpoint-dtype bf16' \
    '--dtype fp16 --checkpoint-dtype bf16 --loss-scale-window 2' '--dtype fp16 --checkpoint-dtype fp16 --loss-scale 1e13' '--checkpoint-dtype bf16'; do
    rm -rf straight half
    works $train --steps 30 --save-every 15 --keep 0 $options --quiet --out straight --metrics straight.metrics
    cp -R straight half
    rm -rf half/latest half/step-00000030
    works train --resume half/step-00000015 --out half --metrics half.metrics --quiet
    for file in straight/latest/*; do
        case $file in */trainer.json) continue ;; esac
        identical "$options" "$file" "half/latest/${file##*/}"
    done
    tail -n 15 straight.metrics | sed 's/"tokens_per_s.*"step_ms":[^,}]*//' > expected
    tail -n 15 half.metrics | sed 's/"tokens_per_s.*"step_ms":[^,}]*//' > found
    identical "$options" expected found
    case $options in
    *none*) files='config.json model.safetensors optimizer.safetensors trainer.json ' ;;
    *checkpoint-dtype*) files='config.json master.safetensors model.safetensors optimizer.safetensors trainer.json ' ;;
    *) files='config.json model.safetensors optimizer.safetensors trainer.json ' ;;
    esac
    same "files with $options" "$(ls straight/latest/ | tr '\n' ' ')" "$files"
done
same 'the dtypes of the last' "$(dtypes half/latest/model.safetensors)$(dtypes half/latest/master.safetensors)" \
    '"dtype":"BF16" "dtype":"F32" '
check 'config.json tells it' grep -q '"torch_dtype": *"bfloat16"' half/latest/config.json
works train --resume half --steps 31 --dtype fp16 --dp 2 --micro-batch 1 --checkpoint-dtype fp32 --quiet
same 'the dtype after another was asked for' "$(dtypes half/latest/model.safetensors)" '"dtype":"F32" '
check 'config.json tells that' grep -q '"torch_dtype": *"float32"' half/latest/config.json

# --- without masters -------------------------------------------------------------------------------------------
# An update that is less than half of what a parameter's last bit is worth is not lost: rounded to nearest it would be, in
# every step.
slow="$train --steps 60 --lr 2e-5 --warmup 0 --schedule constant --dropout 0 --clip 0 --quiet"
for how in fp32 none; do
    works $slow --dtype bf16 --master-weights $how --metrics slow-$how.metrics --json --out slow-$how
    losses slow-$how.metrics | awk 'NR == 1 { print $2 } END { print $2 }' | tr '\n' ' ' > slow-$how.ends
done
read -r first last < slow-fp32.ends
read -r begun found < slow-none.ends
same 'the first losses' "$begun" "$first"
near 'what 60 small updates gained' 0.1 "$(awk "BEGIN { print $begun - $found }")" "$(awk "BEGIN { print $first - $last }")"
# Pipeline stages do not change what is drawn.
works $slow --dtype bf16 --master-weights none --out pipeline --pp 2
identical 'stages without masters' slow-none/latest/model.safetensors pipeline/latest/model.safetensors
refused 'model: without masters parameters are trained in bf16, not F16' 'use --dtype bf16' $slow --dtype fp16 --master-weights none
refused 'train: replicas with parameters of their own need fp32 masters' 'use --master-weights fp32' \
    $slow --dtype bf16 --master-weights none --dp 2 --sync parameters
refused "master-weights: 'x' is none" 'use fp32 or none' $slow --master-weights x

# --- forward only ----------------------------------------------------------------------------------------------
works $train --steps 60 --lr 3e-3 --checkpoint-dtype bf16 --quiet --out model
cp -R model/latest/. narrow
rm narrow/master.safetensors narrow/optimizer.safetensors
run eval --model model --data text --seq 32 --json
exact=$(value loss out)
for dtype in fp32 bf16 fp16; do
    for model in model narrow; do
        works eval --model $model --data text --seq 32 --json --dtype $dtype
        near "the loss of $model in $dtype" 2e-3 "$(value loss out)" "$exact"
        works generate --model $model --prompt 'times ' --max-tokens 20 --temperature 0 --dtype $dtype
        check "text of $model in $dtype" test "$(wc -c < out)" -gt 20
    done
done

# As near to the exact numbers as tests/models/test_precision.c has it, in the worst tensor: 4.1e-2, and an eighth.
for key in batch logits; do
    tr -d '\n' < "$golden/input.json" | sed -e "s/.*\"$key\": \\[\[//" -e 's/\]\].*//' -e 's/\], *\[/;/g' | tr ';' '\n' |
        tr -d , > $key.ids
done
works logits --model "$golden" --ids-file logits.ids --out exact.safetensors
for pair in 'bf16 4.1e-2' 'fp16 5.2e-3'; do
    works grads --model "$golden" --ids-file batch.ids --dtype ${pair% *} --out grads.safetensors
    ran="compare_tensors grads ${pair% *}"
    "$compare" ${pair#* } grads.safetensors "$golden/golden.safetensors" all grad. > out 2> err
    status=$?
    same "gradients in ${pair% *}" $status 0
    same 'gradients are in fp32' "$(dtypes grads.safetensors)" '"dtype":"F32" '
    works logits --model "$golden" --ids-file logits.ids --dtype ${pair% *} --out logits.safetensors
    for i in 0 1 2; do
        ran="compare_tensors logits ${pair% *} $i"
        "$compare" ${pair#* } logits.safetensors "$golden/golden.safetensors" part logits $i logits.$i > out 2> err
        status=$?
        same "logits in ${pair% *} of sequence $i" $status 0
    done
    check "logits in ${pair% *} are not those in fp32" test "$(cmp logits.safetensors exact.safetensors 2>&1 | wc -l)" -gt 0
done
# The gradient of a single label overflows at the first scale, and is computed with a smaller one.
works $train --dropout 0 --seq 1 --batch 1 --steps 1 --dtype fp16 --quiet --json
same 'steps that overflow' "$(value skipped_steps out)" 1
works grads $tiny --ids '1 2' --dtype fp16 --out single.safetensors
works grads $tiny --ids '1 2' --out exact.safetensors
ran='compare_tensors single'
"$compare" 5.2e-3 single.safetensors exact.safetensors all '' > out 2> err
status=$?
same 'the gradient of a single label' $status 0

# --- what else takes --dtype -----------------------------------------------------------------------------------
works bench $tiny --seq 32 --batch 4 --steps 2 --dtype bf16 --json
same 'dtype of bench' "$(value dtype out)" bf16
works info $tiny --dtype bf16
check 'memory in bf16' grep -q '^memory to train it with .* --dtype bf16:$' out

finish
