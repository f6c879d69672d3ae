#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# On a CUDA device, a real or an emulated one, the command computes what it computes on a CPU: in every layout, dtype and
# command, with one device and two, with too little memory, and where the device fails.
# shellcheck disable=SC2086,SC2016    # lists of options; awk programs
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
unset STARPU_NCUDA

run info
if ! grep -q '^CUDA [0-9]' "$work/out"; then
    echo 'skipped: there is no CUDA device'
    exit 77
fi
emulated=
if grep -q '^CUDA 0.*emulated' "$work/out"; then emulated=yes; fi
export STARPU_NCPU=1
small="--model tiny-gpt2 --set n_layer=2 --set n_embd=36 --set n_head=3 --set n_positions=32"
train="train $small --seq 17 --batch 4 --micro-batch 1 --data text --steps 4 --val-fraction 0 --dropout 0.1 --warmup 2 --quiet"

# ---- dtypes: both sides round a value now and then to the other neighbour ----------------------------------------------

for dtype in fp32 bf16 fp16; do
    case $dtype in fp32) bound=1e-5 ;; bf16) bound=2e-2 ;; fp16) bound=2e-3 ;; esac
    losses_of expected --device cpu --dtype $dtype
    losses_of found --device cuda --dtype $dtype
    check "CPU and CUDA give the same losses in $dtype" close_to $bound expected found
    cp found again
    losses_of found --device cuda --dtype $dtype
    check "two runs on a device are equal in $dtype" cmp -s found again
done

losses_of expected --device cpu --dtype bf16 --master-weights none
losses_of found --device cuda --dtype bf16 --master-weights none
check 'CPU and CUDA give the same losses without masters' close_to 2e-2 expected found

# Heads of 64 go by tensor cores.
wide="--set n_embd=128 --set n_head=2"
losses_of expected --device cpu --dtype bf16 $wide
losses_of found --device cuda --dtype bf16 $wide
check 'CPU and CUDA give the same losses with heads of 64' close_to 2e-2 expected found

# ---- layouts, in one process --------------------------------------------------------------------------------------------

if [ -n "$emulated" ]; then
    export ORRERY_EMULATED_DEVICES=2 ORRERY_EMULATED_JITTER=20
fi
losses_of expected --device cpu
for layout in '--dp 2' '--tp 3 --sequence-parallel' '--pp 2 --slots zb' '--dp 2 --pp 2 --tp 2 --slots 1f1b' '--pin none' \
    '--dp 2 --sync parameters --sync-every 2' '--update cpu' '--dp 2 --update cpu' '--optimizer rmsprop' '--optimizer sgd --clip 0'; do
    losses_of expected --device cpu $layout
    losses_of found --device cuda $layout
    check "CPU and CUDA give the same losses: $layout" close_to 1e-5 expected found
done

# ---- replicas that do not wait for each other --------------------------------------------------------------------------

# The test of their exchange: its blocks run on the CPU, all else on the devices.
ran=test_exchange
ORRERY_EMULATED_JITTER=0 STARPU_NCPU=2 timeout 300 "$here/tests/test_exchange" > out 2> err
status=$?
same 'exit status of test_exchange' "$status" 0

# Losses depend on which gradients were in time. Not so in the first step of a run, and, where the data has one window, with the
# same gradient from both replicas, nor does what a step leaves: so each step is a run.
head -c 18 text > window
asynchronous="train $small --seq 17 --batch 4 --micro-batch 1 --data window --val-fraction 0 --dp 2 --staleness 2
    --schedule constant --quiet"
# steps_of NAME OPTION...: makes them, and leaves the losses in NAME.
steps_of()
{
    name=$1
    shift
    rm -rf metrics stale
    works $asynchronous --warmup 0 --dropout 0 --metrics metrics --out stale --steps 1 "$@"
    for step in 2 3 4; do
        works train --resume stale --steps $step --metrics metrics --quiet
    done
    losses metrics > "$name"
}
for options in '--dtype fp32' '--dtype fp32 --optimizer sgd --lr 0.05 --clip 0' '--dtype fp32 --tp 3' '--dtype bf16'; do
    case $options in *bf16*) bound=2e-2 ;; *) bound=1e-5 ;; esac
    steps_of expected --device cpu $options
    steps_of found --device cuda $options
    check "CPU and CUDA give the same losses, asynchronous: $options" close_to $bound expected found
    check 'they fall' awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(NR == 4 && last < 0.99 * first) }' found
done
run $asynchronous --device cuda --lr 1000 --steps 9
said 1 'a gradient is not a finite number|the loss is not a finite number'
unset ORRERY_EMULATED_DEVICES ORRERY_EMULATED_JITTER

# ---- checkpoints and the other commands -----------------------------------------------------------------------------------

works $train --device cuda --dtype bf16 --steps 4 --out whole
works $train --device cuda --dtype bf16 --steps 2 --schedule constant --out part
works train --resume part --steps 4 --quiet
works $train --device cuda --dtype bf16 --steps 4 --schedule constant --out straight
check 'a resumed run is equal bit for bit' cmp -s part/latest/model.safetensors straight/latest/model.safetensors
for command in logits grads; do
    works $command --model whole --device cpu --ids '5 6 7; 8 9 1 2 3' --out cpu.safetensors
    works $command --model whole --device cuda --ids '5 6 7; 8 9 1 2 3' --out cuda.safetensors
    check "$command on a device" "$here/tests/cli/compare_tensors" 1e-5 cuda.safetensors cpu.safetensors all ""
done
head -c 400 text > short
works eval --model whole --device cuda --data short --seq 16
printf 'one\n\nto be or not to be, that is\n' > prompts
works generate --model whole --device cpu --prompts prompts --max-tokens 20 --temperature 0
cp "$work/out" expected
works generate --model whole --device cuda --prompts prompts --max-tokens 20 --temperature 0
check 'a device generates the same tokens' cmp -s expected "$work/out"
works generate --model whole --device cpu --prompts prompts --max-tokens 20 --beams 3 --no-repeat-ngram 2
cp "$work/out" expected
works generate --model whole --device cuda --prompts prompts --max-tokens 20 --beams 3 --no-repeat-ngram 2
check 'and by beams' cmp -s expected "$work/out"
works bench --model whole --device cuda --batch 2 --seq 16 --steps 2 --json
same 'the device of the benchmark' "$(value device "$work/out")" cuda
check 'its name' test -n "$(value device_name "$work/out")"
check 'its memory' test "$(value device_mib "$work/out")" -gt 0

# ---- more than fits ----------------------------------------------------------------------------------------------------------

# A limit takes a few rooms of 32 MiB that StarPU allocates in one piece.
large="--set n_layer=4 --set n_embd=192 --batch 2 --steps 2"
losses_of expected --device cuda $large
if [ -n "$emulated" ]; then limits='85 80'; else limits='90'; fi
for limit in $limits; do
    rm -f metrics
    STARPU_LIMIT_CUDA_MEM=$limit run $train --device cuda $large --metrics metrics
    same "trains in $limit MiB" "$status" 0
    losses metrics > found
    check "in $limit MiB the same losses" cmp -s expected found
done
# What CPU cores update is in main memory alone.
for where in device cpu; do
    STARPU_LIMIT_CUDA_MEM=80 works bench $small --seq 17 $large --device cuda --dtype bf16 --update $where --json
    value streamed_mib "$work/out" > streamed.$where
done
check "less is streamed: $(cat streamed.cpu) of $(cat streamed.device) MiB" test "$(cat streamed.cpu)" -lt "$(cat streamed.device)"
STARPU_LIMIT_CUDA_MEM=76 run $train --device cuda $large
said 3 'CUDA: what a device needs at a time' 'lower --micro-batch'

# ---- failures of the device ------------------------------------------------------------------------------------------------

if [ -n "$emulated" ]; then
    ORRERY_EMULATED_FAIL=cublasLtMatmul:20 run $train --device cuda
    said 1 'of layer [0-9]*, microbatch [0-9]*, step 1: cublasLtMatmul: .*MiB of data'
    ORRERY_EMULATED_FAIL=launch:30 run $train --device cuda
    said 1 'of layer [0-9]*, microbatch [0-9]*, step 1: .*MiB of data'
    ORRERY_EMULATED_DEVICES=0 run $train --device cuda
    said 1 'CUDA: there is no device to run on' 'use --device cpu'
    ORRERY_EMULATED_DEVICES=0 works $train
fi
refused "device: 'gpu' is none" 'use auto, cpu or cuda' $train --device gpu
refused "pin: 'x' is none" 'use home or none' $train --pin x
refused "update: 'x' is none" 'use device or cpu' $train --update x
finish
