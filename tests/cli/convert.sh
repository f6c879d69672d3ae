#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# convert: every family to other dtypes and files and back, what lies beside the parameters, and what is wrong with shards.
# shellcheck disable=SC2010,SC2012    # plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
compare=$here/tests/cli/compare_tensors
golden=$src/tests/golden

# identical WHAT A B: two files.
identical()
{
    check "$1: $2 and $3 differ" cmp -s "$2" "$3"
}

# dtypes FILE...: what their tensors are in, each once.
dtypes()
{
    cat "$@" | grep -a -o '"dtype":"[A-Z0-9]*"' | sort -u | tr '\n' ' '
}

# largest DIRECTORY: bytes of tensors in its largest file.
largest()
{
    for file in "$1"/*.safetensors; do
        grep -a -o '"data_offsets":\[[0-9]*,[0-9]*\]' "$file" | tr -dc '0-9,\n' | cut -d , -f 2 | sort -n | tail -n 1
    done | sort -n | tail -n 1
}

# --- every family ----------------------------------------------------------------------------------------------
for model in gpt2-small gpt2-untied llama llama-biased mistral qwen2; do
    works convert --model "$golden/$model" --out whole
    check "$model: the same values" "$compare" 0 whole/model.safetensors "$golden/$model/model.safetensors" all ''
    same "$model: files" "$(ls whole | tr '\n' ' ')" 'config.json model.safetensors '
    works convert --model "$golden/$model" --out shards --shard-size 20KB
    check "$model: several files" test "$(ls shards/model-0000*.safetensors | wc -l)" -ge 3
    check "$model: one file beside the others" test ! -f shards/model.safetensors
    works convert --model shards --out again
    identical "$model: from shards" again/model.safetensors whole/model.safetensors
    identical "$model: config.json" again/config.json whole/config.json
    for dtype in bf16 fp16; do
        case $dtype in bf16) name=bfloat16 stored=BF16 close=0.004 ;; *) name=float16 stored=F16 close=0.0005 ;; esac
        works convert --model shards --out narrow --dtype $dtype --shard-size 20KiB
        same "$model: dtype" "$(dtypes narrow/*.safetensors)" "\"dtype\":\"$stored\" "
        same "$model: dtype in config.json" "$(value dtype narrow/config.json)$(value torch_dtype narrow/config.json)" $name
        works convert --model narrow --out widened --dtype fp32
        check "$model: rounded to $dtype" "$compare" $close widened/model.safetensors whole/model.safetensors all ''
        same "$model: dtype again" "$(value dtype widened/config.json)$(value torch_dtype widened/config.json)" float32
        works convert --model widened --out narrow2 --dtype $dtype --shard-size 20KiB
        for file in narrow/*; do
            identical "$model: there and back" "$file" "narrow2/${file#*/}"
        done
        works logits --model narrow --ids '1 2 3 4' --out narrow.safetensors
        works logits --model widened --ids '1 2 3 4' --out widened.safetensors
        identical "$model: logits" narrow.safetensors widened.safetensors
        rm -r narrow narrow2 widened
    done
    works logits --model "$golden/$model" --ids '1 2 3 4' --out whole.safetensors
    works logits --model shards --ids '1 2 3 4' --out shards.safetensors
    identical "$model: logits of shards" whole.safetensors shards.safetensors
    rm -r whole shards again
done

# --- sizes of files --------------------------------------------------------------------------------------------
model=$golden/llama
for size in 4KB 9.5kb 10KiB 8192; do
    works convert --model "$model" --out "parts$size" --shard-size $size
done
# The embedding of 9312 bytes is more than 4 KB.
same 'one tensor is more than a file may have' "$(largest parts4KB)" 9312
check 'a file of 9.5 KB' test "$(largest parts9.5kb)" -le 9500
check 'a file of 10 KiB' test "$(largest parts10KiB)" -le 10240
same 'total_size' "$(value total_size parts4KB/model.safetensors.index.json)" "$(awk '{ print $1 * 4 }' << END
$(value total_parameters parts4KB/model.safetensors.index.json)
END
)"
works convert --model "$model" --out large --shard-size 5GB
same 'one file is enough' "$(ls large | tr '\n' ' ')" 'config.json model.safetensors '

# --- what lies beside ------------------------------------------------------------------------------------------
mkdir source
cp "$model/config.json" "$model/model.safetensors" source
for file in generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json vocab.json merges.txt vocab.txt \
    tokenizer.model; do
    printf '%s \377\0' $file > source/$file
done
echo other > source/optimizer.safetensors
echo other > source/notes
mkdir target
works convert --model source --out target
same 'files' "$(ls source | grep -v -e notes -e optimizer)" "$(ls target)"
for file in source/*o*.json source/*.txt source/tokenizer.model; do
    [ "$file" = source/config.json ] || identical 'copied' "$file" "target/${file#*/}"
done
works convert --model source --out renamed --set bos_token_id=7
same '--set' "$(value bos_token_id renamed/config.json)" 7

# A checkpoint of a run, whose tensors other versions called otherwise.
# shellcheck disable=SC2086,SC2154    # $tiny is a list of options
works train $tiny --seq 32 --batch 4 --data text --steps 1 --quiet --out run
works convert --model run --out trained
same 'files of a run' "$(ls trained | tr '\n' ' ')" 'config.json model.safetensors '
identical 'parameters of a run' trained/model.safetensors run/latest/model.safetensors
mkdir short
cp run/latest/config.json short
sed -e 's/"transformer\.\([a-z0-9_.]*\)"/            "\1"/g' run/latest/model.safetensors > short/model.safetensors
same 'short names' "$(grep -a -c '"transformer' short/model.safetensors)" 0
works convert --model short --out full
identical 'names are full again' full/model.safetensors run/latest/model.safetensors

# Fine-tuning a directory, as docs/models.md tells it.
works train --model tiny-llama --set num_hidden_layers=1 --set intermediate_size=64 --data text --seq 32 --batch 4 --steps 1 --quiet \
    --out base
works convert --model base --out hub --dtype bf16 --shard-size 100KB
works train --model hub --data text --seq 64 --batch 8 --lr 2e-5 --steps 3 --dtype bf16 --quiet --out tuning
works eval --model tuning --data text --seq 64 --eval-samples 4
works convert --model tuning --out tuned --dtype bf16 --shard-size 100KB
same 'files of a tuned model' "$(ls tuned)" "$(ls hub)"
works logits --model tuned --ids '1 2 3' --out tuned.safetensors

# --- usage -----------------------------------------------------------------------------------------------------
refused '^orrery: --model: is missing' '' convert --out new
refused '^orrery: --out: is missing' 'name a directory' convert --model source
refused '^orrery: target: is there already' 'new directory' convert --model source --out target
refused '^orrery: source: is there already' 'new directory' convert --model source --out source
refused '^orrery: text: is there already' 'new directory' convert --model source --out text
refused '^orrery: text/new.tmp: ' 'can be written' convert --model source --out text/new
refused '^orrery: tiny-llama: has no parameters to convert' 'model.safetensors' convert --model tiny-llama --out new
refused "^orrery: --dtype: 'fp8' is none" 'use fp32, bf16 or fp16' convert --model source --out new --dtype fp8
for size in '' 0 0GB -5GB 5GX GB 1e99 0.1 nan '5 GB'; do
    refused "^orrery: --shard-size: '$size' is no size" 'as in 5GB' convert --model source --out new --shard-size "$size"
done
ORRERY_DTYPE=bf16 works convert --model source --out untouched
identical 'ORRERY_DTYPE is what is computed in' untouched/model.safetensors target/model.safetensors
if command -v mpiexec > /dev/null && "$orrery" --version | grep -q StarPU-MPI; then
    ran='mpiexec -n 2 orrery convert'
    timeout 50 mpiexec -n 2 --oversubscribe "$orrery" convert --model source --out new > out 2> err < /dev/null
    status=$?
    same 'exit status of two processes' $status 2
    same 'lines of it' "$(grep -c '^orrery: convert: runs in one process$' err)" 1
else
    skip 'mpiexec: there is none'
fi

# --- damaged parameters ----------------------------------------------------------------------------------------
works convert --model "$model" --out good --shard-size 9500
index=model.safetensors.index.json
first=model-00001-of-0000$(ls good/model-*.safetensors | wc -l | tr -d ' ').safetensors
last=$(basename "$(grep -l -a '"model.norm.weight"' good/model-*.safetensors)")

# broken FILE SCRIPT: the good one, with a file changed by sed.
broken()
{
    rm -rf broken
    cp -r good broken
    LC_ALL=C sed -e "$2" "good/$1" > "broken/$1"
    if cmp -s "broken/$1" "good/$1"; then fail "nothing was changed by $2"; fi
}
use='convert --model broken --out new'
# shellcheck disable=SC2086    # $use is a list of arguments
refuses()
{
    refused "$1" "$2" $use
    refused "$1" "$2" logits --model broken --ids 1 --out ids.safetensors
}
rm -rf broken; cp -r good broken; rm "broken/$last"
refuses "^orrery: broken/$last: no such file" ''
rm -rf broken; cp -r good broken; rm "broken/$index"
refuses "^orrery: broken: has $first, but neither model.safetensors nor $index" 'get the missing file'
rm broken/model*; echo pickle > broken/pytorch_model.bin
refuses "^orrery: broken: has pytorch_model.bin, but neither model.safetensors nor $index" 'save_pretrained'
broken $index "s/\"model.norm.weight\": *\"$last\"/\"model.norm.weight\": \"$first\"/"
refuses "^orrery: broken/$last: tensor 'model.norm.weight' is listed in broken/$index as one of $first" 'get them again'
broken $index '/"model.norm.weight"/d; s/\(lm_head.weight.*\),$/\1/'
refuses "^orrery: broken/$last: tensor 'model.norm.weight' is not listed in broken/$index" 'get them again'
broken $index "s/\"weight_map\": {/&\"model.extra.weight\": \"$first\",/"
refuses "^orrery: broken/$index: tensor 'model.extra.weight' is missing in $first" 'get them again'
broken $index "s/\"weight_map\": {/&\"model.norm.weight\": \"$first\",/"
refuses "^orrery: broken/$index:[0-9]*: duplicate object key" ''
broken $index 's/weight_map/weights/'
refuses "^orrery: broken/$index: has no object 'weight_map'" ''
broken $index "s/\"$first\"/\"..\/$first\"/"
refuses "^orrery: broken/$index: weight_map of '.*' names no file beside it" ''
broken "$last" 's/model.norm.weight/model.morn.weight/'
refuses "^orrery: broken/$last: tensor 'model.morn.weight' is not listed" 'get them again'
broken config.json 's/"num_hidden_layers": 2/"num_hidden_layers": 1/'
refuses "^orrery: broken/model.*: tensor 'model.layers.1.[a-z_.]*' is none of this model's" 'another model'
broken config.json 's/"num_hidden_layers": 2/"num_hidden_layers": 3/'
refuses "^orrery: broken/$index: tensor 'model.layers.2.[a-z_.]*' is missing" 'another model'
broken config.json 's/"intermediate_size": 40/"intermediate_size": 20/'
refuses "^orrery: broken/model.*: tensor 'model.layers.0.mlp.[a-z_.]*' has shape \[40,24\], not \[20,24\]" 'another model'
same 'files left of what was refused' "$(ls -d new* ids* ./*.tmp 2> /dev/null)" ''

finish
