#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# generate on 2 and 4 ranks: the texts of one process, from replicas that share the prompts out, stages and shards.
# shellcheck disable=SC2086,SC2154,SC2034   # lists of options; what common.sh sets and reads
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99

works train $tiny --set n_positions=160 --data text --seq 64 --batch 8 --lr 3e-3 --warmup 10 --steps 200 --val-fraction 0 --out model \
    --quiet
awk 'BEGIN { for (i = 1; i <= 7; i++) printf "%d ti%s\n", i * 3, substr("mes is, is it", 1, 2 * i) }' > prompts
generate="generate --model model --prompts prompts --max-tokens 80 --json"

# alike RANKS LAYOUT OPTION...: as in one process.
alike()
{
    count=$1
    layout=$2
    shift 2
    works $generate "$@"
    cp out expected
    on "$count" $generate $layout "$@"
    check "$count ranks, $layout: $*" cmp -s expected out
}

alike 2 '--dp 2' --temperature 0
alike 2 '--dp 2 --batch 3' --beams 3
alike 2 '--pp 2' --temperature 0.7 --seed 5
alike 2 '--pp 2' --beams 4 --stop it --length-penalty 0.5
alike 2 '--tp 2' --temperature 0 --no-repeat-ngram 3
alike 2 '--tp 2 --sequence-parallel' --beams 2
alike 4 '--dp 4' --temperature 0 --stop ', is'
alike 4 '--dp 2 --tp 2' --beams 3
alike 4 '--pp 2 --tp 2 --batch 2' --beams 3
alike 4 '--dp 4 --zero 3 --batch 5' --beams 2
alike 4 '--dp 2 --pp 2' --temperature 0 --kv-cache off --max-tokens 20

ranks 2 "$orrery" $generate --dp 2 --beams 2 --top-k 3
told 2 '^orrery: --beams: draws no tokens'
tr -d '\n' < text > long
ranks 2 "$orrery" generate --model model --prompts long --dp 2
told 2 '^orrery: long:1: the prompt has [0-9]* tokens, and the model takes 160'
finish
