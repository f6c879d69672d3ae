#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Tasks beside language modelling: masked tokens, classification of sequences and of tokens; train and eval.
# shellcheck disable=SC2086,SC2154    # lists of options; what common.sh sets
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

# Sentences about an animal or a town, at a place in them that differs.
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' cat dog cow paris rome oslo the a big old is was seen red here in by and > vocab.txt
awk 'BEGIN {
    split("cat dog cow", animal, " "); split("paris rome oslo", town, " "); split("the a big old is was seen red here by and", word, " ")
    for (i = 0; i < 600; i++) {
        n = 3 + i * 7 % 6; at = 1 + i * 5 % n; kind = i * 11 % 17 % 2; line = ""; tags = ""
        for (t = 1; t <= n; t++) {
            w = t != at ? word[1 + (i * 13 + t * t * 5) % 11] : kind ? town[1 + i % 3] : animal[1 + i % 3]
            line = line (t > 1 ? " " : "") w
            tags = tags w "\t" (t != at ? "O" : kind ? "B-town" : "B-animal") "\n"
        }
        print (kind ? "town" : "animal") "\t" line > (i % 6 ? "train.tsv" : "test.tsv")
        print tags > (i % 6 ? "train.conll" : "test.conll")
        print line > "plain.txt"
    }
}'
bert="--model tiny-bert --tokenizer vocab.txt --set vocab_size=23 --set hidden_size=32 --set intermediate_size=64 \
--set num_hidden_layers=2 --dropout 0"
how="--seq 32 --batch 8 --micro-batch 4 --lr 3e-3 --warmup 5 --quiet --json"

# value KEY: of the JSON object in out.
value()
{
    sed -n "s/.*\"$1\": \([-0-9.e]*\).*/\1/p" out
}
above()
{
    check "$1" awk "BEGIN { exit !($2 > $3) }"
}

# --- classification -----------------------------------------------------------------------------------------------
works train $bert --data train.tsv --steps 60 $how --out classifier
above 'a loss that has fallen' 0.1 "$(value loss)"
works eval --model classifier --data test.tsv --seq 32 --json --predictions found
above 'nearly all are right' "$(value accuracy)" 0.97
same 'a prediction per line' "$(wc -l < found)" "$(wc -l < test.tsv)"
above 'in the order of the data' "$(cut -f 1 test.tsv | paste - found | awk '$1 == $2' | wc -l)" 96
works eval --model classifier --data test.tsv --seq 32
check 'a table of the labels' grep -q '^ *animal .* [0-9]*$' out
works train $bert --data train.tsv --steps 6 $how
alone=$(value loss)
for layout in '--tp 2' '--pp 2' '--dp 2' '--tp 2 --sequence-parallel' '--dp 2 --zero 3' '--pp 2 --slots zb'; do
    works train $bert --data train.tsv --steps 6 $how $layout
    check "the same loss: $layout" awk "BEGIN { d = $(value loss) - $alone; exit !(d < 1e-5 && d > -1e-5) }"
done
works train $bert --data train.tsv --steps 6 $how --out whole
works train $bert --data train.tsv --steps 6 $how --out parts --save-every 3 --keep 0
rm -r parts/latest parts/step-00000006
works train --resume parts/step-00000003 --quiet --json
check 'a resumed run continues bit for bit' cmp -s whole/latest/model.safetensors parts/latest/model.safetensors
works train $bert --data train.tsv --epochs 2 $how
above 'epochs are counted in rows' 60 "$(value steps)"

# --- tags ------------------------------------------------------------------------------------------------------------
works train $bert --data train.conll --steps 60 $how --out tagger
works eval --model tagger --data test.conll --seq 32 --json --predictions found
above 'nearly all entities are found' "$(value f1)" 0.9
same 'a line per word and sentence' "$(wc -l < found)" "$(wc -l < test.conll)"

# --- masked tokens, and what is fine-tuned from them -------------------------------------------------------------------
works train $bert --data plain.txt --steps 30 $how --out masked
works eval --model masked --data plain.txt --seq 32 --json
above 'better than chance among 23' 3.1 "$(value loss)"
works train --model masked --data train.tsv --steps 40 $how --out tuned
works eval --model tuned --data test.tsv --seq 32 --json
above 'another head on the same body' "$(value accuracy)" 0.9
check 'config.json says what it is' grep -q BertForSequenceClassification tuned/latest/config.json

# --- causal models ------------------------------------------------------------------------------------------------------
for model in tiny-gpt2 tiny-llama; do
    works train --model $model --data train.tsv --steps 120 --seq 64 --batch 8 --micro-batch 4 --lr 3e-3 --warmup 5 --quiet --json \
        --out causal-$model
    works eval --model causal-$model --data test.tsv --seq 64 --json
    above "$model classifies by its last token" "$(value accuracy)" 0.9
done

# --- what is refused --------------------------------------------------------------------------------------------------------
printf 'plant\tthe cat\n' > other.tsv
refused 'other.tsv:1' '' eval --model classifier --data other.tsv --seq 32
awk 'BEGIN { printf "town\t"; for (i = 0; i < 60; i++) printf "old "; print "rome" }' > long.tsv
refused 'long.tsv:1' '--truncate' train --model classifier --data long.tsv --steps 1 --seq 32 --val-fraction 0
works train --model classifier --data long.tsv --steps 1 --seq 32 --val-fraction 0 --truncate --batch 1 --quiet
refused 'no head for this task' 'lm and classify' train --model tiny-llama --data train.conll --steps 1
refused 'masks others' 'MASK' train --model tiny-bert --set vocab_size=256 --data plain.txt --steps 1 --seq 32
refused '--task' 'lm, mlm, classify, tag or seq2seq' train $bert --data train.tsv --task nothing --steps 1
: > empty.tsv
refused 'empty.tsv' '' train $bert --data empty.tsv --steps 1
refused 'no head for this task' '' eval --model classifier --data test.tsv --task seq2seq

finish
