#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Bad usage and bad input: exit status 2, what cannot fit: 3; one line, perhaps a remedy, and nothing half-written.
# shellcheck disable=SC2086,SC2016,SC2012    # $tiny is a list of options; sed scripts; plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4"
some="$train --data text --steps 1"

# --- usage -----------------------------------------------------------------------------------------------------
refused '^orrery: frobnicate: is no command' 'orrery --help' frobnicate
refused '^orrery: --frobnicate: is no option' 'train --help' $some --frobnicate
refused '^orrery: -x: is no option' 'train --help' $some -x
refused "'surplus'" 'train --help' $some surplus
refused '^orrery: --steps: has no value' 'write --steps N' $train --data text --steps
refused '^orrery: --json: takes no value' 'train --help' $some --json=1
refused '^orrery: --s: is the beginning' 'train --help' $some --s 3
refused '^orrery: --model: is missing' 'tiny-gpt2' train --data text --steps 1
refused '^orrery: --data: is missing' 'name a' $train --steps 1
refused '^orrery: --data: is missing' 'name a' eval $tiny
refused '^orrery: --steps: is missing' '--steps 1000' $train --data text
refused '^orrery: --epochs: .*--steps' '' $some --epochs 1
"$orrery" > out 2> err < /dev/null
ran=orrery status=$?
same 'exit status without a command' $status 2
check 'usage without a command' grep -q '^Usage: orrery COMMAND' err

for number in 1x -1 0 '' nan 1e3 99999999999999999999 ' '; do
    refused "^orrery: --steps: '$number' is no whole number from 1 to 1000000000000" '' $train --data text --steps "$number"
done
for number in 1x -1 '' nan inf 1e400; do
    refused "^orrery: --lr: '$number' is no number from 0 to 1000" '' $some --lr "$number"
done
refused "^orrery: --val-fraction: '1' is no number from 0 to 0.999" '' $some --val-fraction 1
refused "^orrery: --dropout: '1'" '' $some --dropout 1
refused "^orrery: optimizer: 'lion'" 'adamw, adam, sgd or rmsprop' $some --optimizer lion
refused "^orrery: schedule: 'step'" 'cosine, linear or constant' $some --schedule step
refused "^orrery: freeze: no parameter's name matches 'transformer.h.9.\*'" 'names are those of model.safetensors' $some --freeze 'transformer.h.9.*'
refused '^orrery: train: every parameter is held' 'leave some out of --freeze' $some --freeze '*'
refused '^orrery: train: early stopping has no evaluations' 'give --eval-every' $some --patience 3
refused '^orrery: train: early stopping has no evaluations' 'validation data' $some --patience 3 --eval-every 1 --val-fraction 0
for number in 1.5 -1 nan ''; do
    refused "^orrery: --label-smoothing: '$number' is no number from 0 to 1" '' $some --label-smoothing "$number"
done
for number in 0 1.5 -1 nan ''; do
    refused "^orrery: --layer-decay: '$number' is no number from 1e-06 to 1" '' $some --layer-decay "$number"
done
refused 'a gpt2 model has no head for this task' 'lm and classify' $some --task mlm
refused "^orrery: tokenizer: .*sentencepiece" 'tokenizer.json.*bytes' $some --tokenizer sentencepiece

# --- layout ----------------------------------------------------------------------------------------------------
refused "slots: 'many'" 'gpipe, 1f1b, h1, zb' $some --slots many
refused "slots: '0'" 'gpipe, 1f1b, h1, zb' $some --slots 0
refused "^orrery: --dtype: 'fp8' is none" 'use fp32, bf16 or fp16' $some --dtype fp8
refused "^orrery: --dtype: 'BF16' is none" 'use fp32, bf16 or fp16' $some --dtype BF16
ORRERY_DTYPE=half refused "^orrery: --dtype: 'half' is none" 'use fp32, bf16 or fp16' $some
refused "^orrery: --dtype: 'fp8' is none" 'use fp32, bf16 or fp16' logits $tiny --ids '1 2' --out logits --dtype fp8
refused "^orrery: --checkpoint-dtype: 'nonsense' is none" 'use fp32, bf16 or fp16' $some --checkpoint-dtype nonsense
refused "^orrery: --checkpoint-dtype: 'fp64' is none" 'use fp32, bf16 or fp16' $some --checkpoint-dtype fp64
refused "^orrery: --sync: 'grads' is none" 'use gradients or parameters' $some --sync grads
refused "^orrery: --sync: 'none' is none" 'use gradients or parameters' info --model tiny-gpt2 --ranks 1 --sync none
refused "^orrery: --partition: 'even' is none" 'use static or dynamic' $some --partition even
refused "^orrery: --attention: 'flash' is none" 'use auto, own or cudnn' $some --attention flash
ORRERY_ATTENTION=1 refused "^orrery: --attention: '1' is none" 'use auto, own or cudnn' $some
ORRERY_ATTENTION=1 refused "^orrery: --attention: '1' is none" 'use auto, own or cudnn' selftest
run info
if grep -q '^cuDNN for attention: none: this build does not use it' out; then
    refused '^orrery: cuDNN: this build does not use it' 'use --attention own' $some --attention cudnn
    ORRERY_ATTENTION=cudnn refused '^orrery: cuDNN: this build does not use it' 'use --attention own' info
fi
for number in 0 -1 0.5 nan inf 1e31 ''; do
    refused "^orrery: --loss-scale: '$number' is no number from 1 to 1e\+30" '' $some --dtype fp16 --loss-scale "$number"
done
for number in 0 -1 2.5 nan; do
    refused "^orrery: --loss-scale-window: '$number' is no whole number from 1 to" '' $some --dtype fp16 \
        --loss-scale-window "$number"
done
ORRERY_LOSS_SCALE=0 refused "^orrery: ORRERY_LOSS_SCALE: '0' is no number" '' $some --dtype fp16
for mode in '--sync parameters' '--staleness 1'; do
    refused '^orrery: train: replicas that differ have no loss scale in common for fp16' 'use --dtype bf16' \
        $some --micro-batch 1 --dp 2 --dtype fp16 $mode
done
works $some --micro-batch 1 --dp 2 --dtype fp16 --quiet
refused '^orrery: mesh: 6 blocks cannot fill 7 pipeline stages' '--pp and --stages of at most 6' $some --pp 7
refused '^orrery: mesh: 6 blocks cannot fill 8 pipeline stages' '--stages of at most 6' $some --pp 2 --stages 8
refused '^orrery: mesh: 3 stages are no multiple of pp 2' '--stages as a multiple of --pp' $some --pp 2 --stages 3
refused "^orrery: --stages: '0'" '' $some --stages 0
refused "^orrery: mesh: tp 3: block 'attention' has only 2 heads" '--tp 2 or less' $some --tp 3
refused "^orrery: --tp: '65' is no whole number from 1 to 64" '' $some --tp 65
refused '^orrery: model: sequences of 1 tokens cannot be cut into 2 chunks' 'longer sequences' \
    $some --seq 1 --tp 2 --sequence-parallel
works $some --seq 1 --tp 2 --quiet
refused '^orrery: --sequence-parallel: takes no value' '' $some --sequence-parallel=1
refused "^orrery: --zero: '4' is no whole number from 1 to 3" '' $some --zero 4
refused "^orrery: --zero: 'x'" '' $some --zero x
refused "^orrery: --zero-slots: '0'" '' $some --zero 3 --zero-slots 0
refused '^orrery: train: batch 4 is 4 microbatches of 1, fewer than dp 5' 'smaller --dp' $some --micro-batch 1 --dp 5
refused '^orrery: train: batch 4 is 2 microbatches of 3, fewer than dp 3' '--micro-batch' $some --micro-batch 3 --dp 3
refused '^orrery: train: batch 4 is 1 microbatches of 16777216, fewer than dp 1048576' '--batch' \
    $some --dp 1048576 --micro-batch 16777216
works $some --micro-batch 3 --quiet
works $some --micro-batch 1 --dp 3 --quiet
refused '^orrery: --seq: 33 tokens are more than .* 32 positions' 'at most 32' $some --seq 33
ORRERY_DP=abc refused "^orrery: ORRERY_DP: 'abc'" '' $some
STARPU_SCHED=nonsense refused "^orrery: STARPU_SCHED: StarPU has no scheduler 'nonsense'" 'STARPU_SCHED=help' $some
ORRERY_SLOTS=none refused "slots: 'none'" '' $some
ORRERY_SLOTS=none works $some --slots 5
ORRERY_DP=5 refused 'fewer than dp 5' '' $some --micro-batch 1
ORRERY_DP=5 works $some --micro-batch 1 --dp 2
ORRERY_TP=3 refused 'tp 3' '' $some
ORRERY_STAGES=5 refused '5 stages' '' $some --pp 2
if command -v mpiexec > /dev/null && "$orrery" --version | grep -q StarPU-MPI; then
    ran="mpiexec -n 2 orrery $some"
    mpiexec -n 2 --oversubscribe "$orrery" $some > out 2> err < /dev/null
    status=$?
    same 'exit status under mpiexec -n 2' $status 2
    same 'lines under mpiexec -n 2' "$(grep -c '^orrery: mesh: ' err)" 1
    same 'remedies under mpiexec -n 2' "$(grep -c '^orrery: ' err)" 2
    ran="mpiexec -n 1 orrery $some"
    mpiexec -n 1 "$orrery" $some > out 2> err < /dev/null
    status=$?
    same 'exit status under mpiexec -n 1' $status 0
    ran="mpiexec -n 3 orrery $some --dp 2 --pp 2"
    timeout 50 mpiexec -n 3 --oversubscribe "$orrery" $some --dp 2 --pp 2 > out 2> err < /dev/null
    status=$?
    same 'exit status of three ranks for four coordinates' $status 2
    same 'lines of it' "$(grep -c '^orrery: mesh: dp 2 x pp 2 x tp 1 does not divide over 3 ranks$' err)" 1
    same 'lines and remedies of it' "$(grep -c '^orrery: ' err)" 2
else
    skip 'mpiexec: there is none'
fi

# --- data ------------------------------------------------------------------------------------------------------
data="$train --steps 1 --data"
refused '^orrery: none: no such file' '' $data none
refused '^orrery: none\*: ' '' $data 'none*'
: > empty
refused '^orrery: empty: is empty' '' $data empty
mkdir folder
refused '^orrery: folder: ' '' $data folder
head -c 20 text > short
refused '^orrery: data: 20 tokens are too few' 'sequence length of 19' $data short
refused '^orrery: none: no such file' '' $some --val none
printf x > one
refused '1 token' '' $some --val one
refused '^orrery: text: token [0-9]* at position [0-9]* is outside the vocabulary of 50' '' $some --set vocab_size=50
printf '\310\001\310\001' > high.bin
refused '^orrery: high.bin: token 456' '' $data high.bin --seq 1
printf 'x' > odd.bin
refused '^orrery: odd.bin: ' '' $data odd.bin
# llm.c's header: 20240520, version 1, count, to 1024 bytes; then the tokens.
header()
{
    printf '\210\330\064\001'
    printf '%b' "$1$2"
    head -c 1012 /dev/zero
}
{ header '\002\000\000\000' '\144\000\000\000'; head -c 200 /dev/zero; } > version.bin
refused '^orrery: version.bin: .*version' '' $data version.bin
{ header '\001\000\000\000' '\144\000\000\000'; head -c 100 /dev/zero; } > truncated.bin
refused '^orrery: truncated.bin: ' '' $data truncated.bin
head -c 500 truncated.bin > beginning.bin
refused '^orrery: beginning.bin: ' '' $data beginning.bin
{ header '\001\000\000\000' '\144\000\000\000'; head -c 200 /dev/zero; } > good.bin
works $data good.bin --quiet
printf 'a\tb\n' > labelled.tsv
refused '^orrery: labelled.tsv: ' 'labels' $data labelled.tsv
cp text secret
chmod 000 secret
if [ "$(id -u)" -ne 0 ]; then
    refused '^orrery: secret: cannot be opened: Permission denied' '' $data secret
elif setpriv --bounding-set=-dac_override,-dac_read_search "$orrery" --version > out 2> err; then
    ran='without the right to read everything: a file without permissions'
    setpriv --bounding-set=-dac_override,-dac_read_search "$orrery" $data secret > out 2> err < /dev/null
    status=$?
    said 2 '^orrery: secret: cannot be opened: Permission denied'
else
    skip 'an unreadable file: root reads everything, and setpriv cannot take that from it'
fi

# --- models ----------------------------------------------------------------------------------------------------
refused '^orrery: no-model: ' 'tiny-gpt2' train --model no-model --data text --steps 1
refused '^orrery: folder/config.json: no such file' 'name a checkpoint, .*step-' train --model folder --data text --steps 1
works $some --out run --quiet
model=run/step-00000001
use="eval --data text --model broken"

# broken_config SCRIPT: the checkpoint with a config.json changed by sed.
broken_config()
{
    rm -rf broken
    cp -r $model broken
    sed -e "$1" $model/config.json > broken/config.json
}
broken_config '1s/{/{{/'
refused '^orrery: broken/config.json:1: ' '' $use
broken_config '1s/{/[/; $s/}/]/'
refused '^orrery: broken/config.json' '' $use
broken_config '/"n_head"/d'
refused '^orrery: broken/config.json: .*n_head' '' $use
broken_config 's/"n_head": *2/"n_head": 3/'
refused '^orrery: broken/config.json: n_head 3 does not divide n_embd 32' 'divisors' $use
broken_config 's/"n_embd": *32/"n_embd": "wide"/'
refused '^orrery: broken/config.json: n_embd' '' $use
broken_config 's/"n_embd": *32/"n_embd": -32/'
refused '^orrery: broken/config.json: n_embd' '' $use
broken_config 's/"model_type": *"gpt2"/"model_type": "mamba"/'
refused "^orrery: broken/config.json: model_type 'mamba'" 'gpt2' $use
broken_config 's/"activation_function": *"gelu_new"/"activation_function": "quick_gelu"/'
refused "^orrery: broken/config.json: activation_function 'quick_gelu'" 'gelu_new' $use
broken_config 's/"n_embd": *32/"n_embd": 64/'
refused '^orrery: broken/model.safetensors: ' '' $use
: > empty.json
refused '^orrery: empty.json: is empty' '' train --model empty.json --data text --steps 1
refused "'n_layer' sets nothing" 'key=value' $some --set n_layer
refused 'n_layer' '' $some --set n_layer=0

# broken_tensors SCRIPT PATTERN: a header changed by sed, of the same length.
broken_tensors()
{
    rm -rf broken
    cp -r $model broken
    LC_ALL=C sed -e "$1" $model/model.safetensors > broken/model.safetensors
    if cmp -s broken/model.safetensors $model/model.safetensors; then
        fail "nothing was changed by $1"
    fi
    refused "^orrery: broken/model.safetensors: $2" '' $use
}
broken_tensors 's/ln_f.bias/ln_f.bogu/' "tensor 'transformer.ln_f.bogu'"
broken_tensors 's/transformer.ln_f.bias/aaaaaaaaaaa.attn.bias/' "tensor 'transformer.ln_f.bias' is missing"
broken_tensors 's/\[256,32\]/[32,256]/' 'tensor .transformer.wte.weight'
broken_tensors 's/"F32"/"F99"/' '.*F99'
broken_tensors 's/"F32"/"I32"/' '.*I32'
broken_tensors 's/\[32768,36864\]/[32760,36856]/' ''
broken_tensors 's/\[32768,36864\]/[92768,96864]/' ''
broken_tensors 's/\[32768,36864\]/[36864,32768]/' ''
broken_tensors 's/"shape":\[32,32\]/"shape":[-2,32]/' ''
broken_tensors 's/{"__metadata__"/["__metadata__"/' ''
size=$(wc -c < $model/model.safetensors)
for length in 0 7 8 100 $((size - 1)); do
    head -c "$length" $model/model.safetensors > broken/model.safetensors
    refused '^orrery: broken/model.safetensors: ' '' $use
done
{ cat $model/model.safetensors; printf x; } > broken/model.safetensors
refused '^orrery: broken/model.safetensors: ' '' $use
printf '\377\377\377\377\377\377\377\177{}' > broken/model.safetensors
refused '^orrery: broken/model.safetensors: .*header' '' $use
rm broken/model.safetensors
refused '^orrery: broken: has no parameters' '--model' $use
refused '^orrery: tiny-gpt2: has no parameters to generate with' '--model' generate $tiny
refused '^orrery: tiny-gpt2: has no parameters to evaluate' '--model' eval $tiny --data text

# --- other families ----------------------------------------------------------------------------------------------
# family NAME SCRIPT PATTERN REMEDY: the golden model, with a config.json changed by sed.
family()
{
    rm -rf broken
    cp -r "$src/tests/golden/$1" broken
    sed -e "$2" "$src/tests/golden/$1/config.json" > broken/config.json
    if cmp -s broken/config.json "$src/tests/golden/$1/config.json"; then
        fail "nothing was changed by $2"
    fi
    refused "^orrery: broken/$3" "$4" logits --model broken --ids 1 --out ids.safetensors
}
config()
{
    family "$1" "$2" "config.json: $3" "$4"
}
config llama 's/"llama"/"qwen3"/' "model_type 'qwen3' is not known to this version" 'gpt2, llama, mistral, qwen2, bert'
config llama '/"model_type"/d' 'model_type is missing' '"model_type" a string'
config llama 's/"llama"/null/' 'model_type is null' '"model_type" a string'
config llama 's/"llama3"/"yarn"/' "rope_parameters: rope_type 'yarn' is not supported" 'default, linear, dynamic and llama3'
config llama 's/"rope_parameters"/"rope_scaling"/; s/"llama3"/"longrope"/' \
    "rope_scaling: rope_type 'longrope' is not supported" 'llama3'
config llama 's/"rope_type": "llama3"/"type": "su"/' "rope_parameters: type 'su' is not supported" 'llama3'
config llama 's/"rope_parameters": {/&"attention_factor": 1.0,/' \
    'rope_parameters: attention_factor is not known' 'rope_type, rope_theta'
config llama 's/"rope_parameters": {/"rope_scaling": {"rope_type": "yarn"},&/' "rope_scaling: rope_type 'yarn'" ''
config llama 's/"rope_parameters": {/"rope_parameters": 7, "unused": {/' 'rope_parameters is no object' '{...}'
config llama 's/"factor": 4.0/"factor": 0.5/' 'rope_parameters: factor is 0.5, not a number between 1' ''
config llama '/"low_freq_factor"/d' 'rope_parameters: low_freq_factor is missing' '"low_freq_factor" a number'
config llama 's/"low_freq_factor": 1.0/"low_freq_factor": 4/' \
    'rope_parameters: low_freq_factor 4 is not below high_freq_factor 4' '1 and 4'
config llama 's/"rope_theta": 50.0/"rope_theta": 1/' 'rope_theta 1 is not above 1' '10000'
config llama 's/"rope_theta": 50.0/"rope_theta": "high"/' 'rope_parameters: rope_theta is a string' 'a number'
config llama 's/"num_attention_heads": 4/"partial_rotary_factor": 0.5,&/' 'partial_rotary_factor 0.5 is not supported' 'set it to 1'
config llama 's/"num_attention_heads": 4/"quantization_config": {"bits": 4},&/' \
    'quantization_config is not supported' 'fp32, bf16 or fp16'
config gpt2-small 's/"n_head": 3/"quantization_config": {"bits": 4},&/' 'quantization_config is not supported' 'fp32, bf16 or fp16'
config llama 's/"num_attention_heads": 4/"num_attention_heads": 3/' \
    'num_key_value_heads 2 does not divide num_attention_heads 3' 'divisors'
config llama '/"head_dim"/d; s/"num_attention_heads": 4/"num_attention_heads": 10/' \
    'num_attention_heads 10 does not divide hidden_size 24' \
    'set head_dim'
config llama 's/"head_dim": 6/"head_dim": 7/' 'heads of 7 are not supported' 'even and at most 256'
config llama 's/"head_dim": 6/"head_dim": 258/' 'heads of 258 are not supported' 'even and at most 256'
config llama 's/"silu"/"relu2"/' "hidden_act 'relu2' is not supported" 'gelu_new, gelu, relu or silu'
config llama 's/"attention_bias": false/"attention_bias": "no"/' 'attention_bias is a string' 'true or false'
config llama 's/"num_hidden_layers": 2/"num_hidden_layers": 1025/' 'num_hidden_layers 1025 is more than 1024' ''
config qwen2 's/"full_attention"/"linear_attention"/' "layer_types: 'linear_attention' of layer 0 is not supported" 'sliding_attention'
config qwen2 's/"full_attention",//' 'layer_types is no list with a string as number 2' 'a list of strings'
config qwen2 's/"full_attention",/3,/' 'layer_types is no list with a string as number 1' 'a list of strings'
config qwen2 's/"sliding_window": 5/"sliding_window": null/' \
    'layer_types: layer 1 has a window, but there is none' 'set sliding_window'
config qwen2 's/"sliding_window": 5/"sliding_window": 0/' 'sliding_window is 0' ''
config qwen2 's/"use_sliding_window": true/"use_sliding_window": false/' 'layer_types: layer 1 has a window' 'use_sliding_window'
config qwen2 's/"max_window_layers": 1/"max_window_layers": -1/' 'max_window_layers is -1' ''
config mistral 's/"sliding_window": 6/"sliding_window": "wide"/' 'sliding_window is a string' 'an integer'
another='another model'
family llama 's/"num_hidden_layers": 2/"num_hidden_layers": 3/' \
    "model.safetensors: tensor 'model.layers.2.input_layernorm.weight' is missing" "$another"
family llama 's/"num_hidden_layers": 2/"num_hidden_layers": 1/' \
    "model.safetensors: tensor 'model.layers.1.*' is none of this" "$another"
family llama 's/"vocab_size": 97/"vocab_size": 98/' \
    "model.safetensors: tensor 'model.embed_tokens.weight' has shape \\[97,24\\], not \\[98,24\\]" "$another"
family llama 's/"attention_bias": false/"attention_bias": true/' \
    "model.safetensors: tensor 'model.layers.0.self_attn.[a-z_]*.bias' is missing" "$another"
family llama 's/"llama"/"qwen2"/' "model.safetensors: tensor 'model.layers.0.self_attn.[a-z_]*.bias' is missing" "$another"
family llama-biased 's/"llama"/"mistral"/' "model.safetensors: tensor '.*.bias' is none of this model's" "$another"
family llama-biased 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' \
    "model.safetensors: tensor 'lm_head.weight' is missing" "$another"
family llama 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' \
    "model.safetensors: tensor 'lm_head.weight' is not the same as 'model.embed_tokens.weight'" '--set tie_word_embeddings=false'
works logits --model broken --set tie_word_embeddings=false --ids 1 --out untied.safetensors

# --- ids -------------------------------------------------------------------------------------------------------
refused '^orrery: --ids: sequence 1, position 2: token id 256 is outside the vocabulary of 256' '' \
    logits $tiny --ids '1 256' --out ids.safetensors
refused "^orrery: --ids: '-1" '' logits $tiny --ids '1 -1' --out ids.safetensors
refused "^orrery: --ids: '1x" '' logits $tiny --ids '1x' --out ids.safetensors
refused '^orrery: --ids: holds no token ids' '' logits $tiny --ids ' ; ' --out ids.safetensors
refused '^orrery: --ids: is missing' '--ids "5 6 7' logits $tiny --out ids.safetensors
refused '^orrery: --ids: .*--ids-file' '' logits $tiny --ids 1 --ids-file text --out ids.safetensors
refused '^orrery: folder: ' '' logits $tiny --ids-file folder --out ids.safetensors
refused '^orrery: none: ' '' grads $tiny --ids-file none --out ids.safetensors
refused "^orrery: text:1: '" '' grads $tiny --ids-file text --out ids.safetensors
refused '^orrery: --ids: sequence 1 has 1 tokens' '' grads $tiny --ids 1 --out ids.safetensors
refused '^orrery: --ids: sequence 1 has 33 tokens' '' logits $tiny --ids "$(yes 1 | head -33 | tr '\n' ' ')" \
    --out ids.safetensors
refused '^orrery: --out: is missing' '' logits $tiny --ids 1
same 'files left of what was refused' "$(find . -name 'ids.safetensors*')" ''
refused '^orrery: none: ' '' tokenize --data none
refused '^orrery: folder: ' '' tokenize --data folder

# --- output ----------------------------------------------------------------------------------------------------
refused '^orrery: text: is no directory' '--out' $some --out text
refused '^orrery: text/below: ' '--out' $some --out text/below
refused '^orrery: nowhere/metrics: ' '--metrics' $some --metrics nowhere/metrics
refused '^orrery: text: ' '--tensorboard' $some --tensorboard text

# --- resuming --------------------------------------------------------------------------------------------------
refused '^orrery: nowhere: is no checkpoint' '--out' train --resume nowhere
refused '^orrery: folder/trainer.json: no such file' 'no checkpoint: .*step-' train --resume folder
refused '^orrery: text: is no checkpoint' '' train --resume text
awk '{ print toupper($0) }' text > other
refused '^orrery: run/latest: was trained on other data' '--data' train --resume run --steps 2 --data other
refused '^orrery: run/latest: .*sequence length' '--seq' train --resume run --steps 2 --seq 16
refused '^orrery: run/latest: .*seed' '--seed' train --resume run --steps 2 --seed 2
refused '^orrery: run/latest: .*another optimizer: adamw, not sgd' '--optimizer' train --resume run --steps 2 --optimizer sgd
refused '^orrery: run/latest: .*another optimizer: adamw, not adam' '--optimizer' train --resume run --steps 2 --optimizer adam
refused '^orrery: run/latest: has 1 steps already' '--steps' train --resume run
refused '^orrery: .*n_embd|^orrery: .*tensor' '' train --resume run --steps 2 --set n_embd=64
for file in trainer.json optimizer.safetensors model.safetensors; do
    rm -rf broken
    cp -r $model broken
    rm broken/$file
    refused "^orrery: broken.*" '' train --resume broken --steps 2
done
same 'a refused run leaves the checkpoint alone' "$(ls run)" "$(printf 'latest\nstep-00000001')"

# --- what cannot fit -------------------------------------------------------------------------------------------
too_large()
{
    begun=$(date +%s)
    run "$@"
    said 3 '[0-9]{4,}' 'lower|choose a smaller'
    if [ $(($(date +%s) - begun)) -gt 10 ]; then fail 'this took long to refuse'; fi
}
too_large train --model gpt2-xl --data text --seq 32 --batch 4096 --micro-batch 4096 --steps 1
too_large $some --set n_embd=4000000
too_large $some --set n_embd=268000000 --set n_head=1
too_large bench --model tiny-gpt2 --batch 1000000 --micro-batch 1000000 --seq 256
too_large bench --model tiny-gpt2 --batch 16777216 --micro-batch 16777216 --seq 256
too_large logits $tiny --set n_embd=4000000 --ids 1 --out ids.safetensors
too_large grads $tiny --set n_embd=4000000 --ids '1 2' --out ids.safetensors
too_large eval --model run --data text --micro-batch 16777216
refused 'n_layer' '' $some --set n_layer=268000000

finish
