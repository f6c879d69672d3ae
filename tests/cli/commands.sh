#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What every command does when all is well, and what it prints where.
# shellcheck disable=SC2086,SC2016,SC2012    # $tiny is a list of options; awk programs; plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
compare=$here/tests/cli/compare_tensors
read_events=$here/tests/cli/read_events
golden=$src/tests/golden/gpt2-small
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --data text"

# The keys of a JSON object of scalars, in their order.
keys()
{
    grep -o '"[a-z_0-9]*":' "$1" | tr -d '":' | tr '\n' ' '
}

# --- help ------------------------------------------------------------------------------------------------------
works --version
check 'the version is a line "orrery NUMBER ..."' grep -q '^orrery [0-9][0-9.]* (StarPU .*)$' out
works help train
check "help COMMAND" grep -q "^Usage: orrery train" out
check "help tells what the environment sets" grep -q "ORRERY_DP" out
refused "^orrery: nothing: is no command" "--help" help nothing
refused "--val-fraction: is no option" "" eval --val-fraction 0.5
works --help
for command in train eval generate logits grads tokenize convert bench trace info; do
    check "help lists $command" grep -q "^  $command " "$work/out"
done
for command in train eval generate logits grads tokenize bench trace info; do
    works $command --help
    check "$command --help tells its usage" grep -q "^Usage: orrery $command" out
done
run train --help
for option in steps epochs batch micro-batch seq lr warmup schedule min-lr optimizer weight-decay beta1 beta2 eps clip \
    dropout out save-every keep eval-every resume metrics tensorboard trace quiet json model set data val val-fraction task \
    tokenizer dp pp tp slots dtype seed; do
    check "train --help tells --$option" grep -q -e "--$option\\b" out
done

# --- train -----------------------------------------------------------------------------------------------------
works $train --steps 6 --eval-every 3
check 'plain lines where there is no terminal' grep -q '^step 6/6  loss [0-9.]*  [0-9]* tokens/s  [0-9.]* GFLOP/s' out
check 'validation in a line of its own' grep -q '^step 3/6  validation loss [0-9.]*$' out
same 'control characters where there is no terminal' "$(tr -d '[:print:]\n' < out | wc -c)" 0

works $train --steps 2 --quiet
same 'what --quiet prints' "$(cat out)" ''

run $train --steps 6 --eval-every 3 --json --metrics metrics --tensorboard board --out run --save-every 2
same 'exit status of train' $status 0
check 'with --json the progress is on standard error' grep -q '^step 6/6' err
same 'lines of train --json' "$(wc -l < out)" 1
same 'keys of train --json' "$(keys out)" \
    'steps loss val_loss tokens tokens_per_s step_ms_median gflops peak_rss_mib rank_peak_rss_mib out '
same 'steps' "$(value steps out)" 6
same 'tokens' "$(value tokens out)" $((6 * 4 * 32))
same 'out' "$(value out out)" run
same 'lines of metrics' "$(wc -l < metrics)" 8
sed -n 1p metrics > line
same 'keys of a step in the metrics' "$(keys line)" 'step loss lr grad_norm tokens tokens_per_s step_ms '
sed -n 4p metrics > line
same 'keys of an evaluation in the metrics' "$(keys line)" 'step val_loss '
same 'the loss of the summary is the last of the metrics' "$(value loss out)" \
    "$(grep '"step":6,"loss"' metrics > line && value loss line)"
same 'the validation loss too' "$(value val_loss out)" "$(tail -n 1 metrics > line && value val_loss line)"
same 'what a checkpoint holds' "$(ls run/latest/ | tr '\n' ' ')" \
    'config.json model.safetensors optimizer.safetensors trainer.json '
same 'checkpoints' "$(ls run | tr '\n' ' ')" 'latest step-00000002 step-00000004 step-00000006 '

works $train --steps 2 --quiet --json
same 'lines of --quiet --json' "$(wc -l < out)" 1
run $train --steps 2 --quiet --json --val-fraction 0
same 'no validation is null' "$(value val_loss out)" null
same 'no --out is null' "$(value out out)" null
works $train --epochs 0.1 --quiet --json
same 'a tenth of an epoch' "$(value steps out)" $(((($(wc -c < text) * 99 / 100 - 32) / 32 + 39) / 40))

# --- TensorBoard -----------------------------------------------------------------------------------------------
"$read_events" board/events.out.tfevents.* > events 2> err
ran=read_events status=$?
same 'the event file can be read' $status 0
same 'it begins with its version' "$(sed -n 1p events)" 'version brain.Event:2'
for tag in train/loss train/lr train/grad_norm train/tokens_per_s; do
    same "$tag of every step" "$(grep " $tag " events | cut -d ' ' -f 1 | tr '\n' ' ')" '1 2 3 4 5 6 '
done
same 'validation/loss' "$(grep ' validation/loss ' events | cut -d ' ' -f 1 | tr '\n' ' ')" '3 6 '
grep ' train/loss ' events | cut -d ' ' -f 1,3 > found
sed -n 's/^{"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/p' metrics > expected
check 'the losses are those of the metrics' awk 'NR == FNR { a[$1] = $2; next }
    { d = a[$1] - $2; if (d < -1e-5 || d > 1e-5) bad = 1; n++ } END { exit bad || n != 6 }' expected found

# --- on a terminal ---------------------------------------------------------------------------------------------
if script -qec true /dev/null > /dev/null 2>&1; then
    ran="script -qec orrery $train"
    script -qec "$orrery $train --steps 6" /dev/null > out 2> err < /dev/null
    status=$?
    same 'exit status on a terminal' $status 0
    check 'a line that is redrawn' grep -q "$(printf '\rstep 6/6  loss')" out
    check 'and erased to its end' grep -q "$(printf '\033\\[K')" out
else
    skip 'a terminal: there is no script(1)'
fi

# --- eval ------------------------------------------------------------------------------------------------------
head -c 5000 text > held
run $train --steps 4 --val held --eval-samples 0 --out evaluated --quiet --json
trained=$(value val_loss out)
works eval --model evaluated --data held --seq 32 --json
same 'keys of eval --json' "$(keys out)" 'loss perplexity bits_per_token tokens '
same 'eval is what train said' "$(value loss out)" "$trained"
same 'every token but the first is predicted' "$(value tokens out)" 4999
works eval --model evaluated/step-00000004 --data held --seq 32
check 'eval in words' grep -q '^loss [0-9.]* nats per token, perplexity [0-9.]*, [0-9.]* bits per token, over 4999 tokens$' out

# --- generate --------------------------------------------------------------------------------------------------
generate="generate --model evaluated --prompt times --max-tokens 20"
works $generate
mv out first
works $generate
check 'the same seed, the same text' cmp -s first out
check 'the prompt comes first' grep -a -q '^times' out
same 'prompt, 20 bytes, end of line' "$(wc -c < out)" 26
works $generate --seed 2
if cmp -s first out; then fail 'another seed, the same text'; else pass; fi
works $generate --temperature 0
mv out first
works $generate --top-k 1 --seed 5
check 'the likeliest of one is the likeliest' cmp -s first out
works $generate --temperature 0 --seed 9
check 'no seed where nothing is drawn' cmp -s first out
works generate --model evaluated --max-tokens 3
same 'without a prompt' "$(wc -c < out)" 4

# Prompts together and alone, with a cache and without: the same texts.
printf 'times\n\nit was the best of\n' > prompts
generate="generate --model evaluated --max-tokens 40 --temperature 0"
for layout in '' '--tp 2' '--tp 2 --sequence-parallel' '--pp 2'; do
    for prompt in times '' 'it was the best of'; do
        works $generate $layout --prompt "$prompt" --kv-cache off
        cat out
    done > expected
    works $generate $layout --prompts prompts
    check "prompts of a file, continued: $layout" cmp -s expected out
done
works $generate --prompts prompts --json
same 'keys of generate --json' "$(head -n 1 out > line; keys line)" 'prompt text tokens '
same 'an object per prompt' "$(wc -l < out)" 3
refused "^orrery: --kv-cache: 'maybe' is none" 'on' $generate --kv-cache maybe
refused '^orrery: --prompts: missing: No such file' 'prompt per line' $generate --prompts missing
: > empty
refused '^orrery: --prompts: empty: is empty' 'every line' $generate --prompts empty
refused '^orrery: --prompts: there is --prompt, too' 'one of them' $generate --prompts prompts --prompt x
refused '^orrery: predict: sequences that are cut into chunks cannot be continued' 'sequence parallelism' \
    $generate --tp 2 --sequence-parallel --kv-cache on

# --- tokenizers ------------------------------------------------------------------------------------------------
works tokenize --train made.json --vocab-size 300 --special '<|endoftext|>' --data text
works tokenize --tokenizer made.json --data text
mv out ids
works tokenize --tokenizer made.json --decode --data ids
check 'what was text is text again' cmp -s text out
works tokenize --tokenizer made.json --data prompts
mv out ids
works train --model tiny-gpt2 --set vocab_size=300 --tokenizer made.json --data text --steps 4 --seq 32 --batch 4 --out tokenized --quiet
check 'a checkpoint has the tokenizer' cmp -s made.json tokenized/latest/tokenizer.json
mv made.json elsewhere.json
works tokenize --model tokenized --data prompts
check 'and tokenize reads it' cmp -s ids out
works train --resume tokenized --steps 6 --quiet
check 'and so does a run that is resumed' cmp -s elsewhere.json tokenized/step-00000006/tokenizer.json
works eval --model tokenized --data text --seq 32
generate="generate --model tokenized --max-tokens 30 --seed 4"
for prompt in times '' 'it was the best of'; do
    works $generate --temperature 0 --prompt "$prompt"
    cat out
done > expected
works $generate --temperature 0 --prompts prompts
check 'a text as it grows and as a whole' cmp -s expected out
works $generate
check 'no half characters' iconv -f UTF-8 -t UTF-8 -o whole out
refused '^orrery: text: token [0-9]* at position [0-9]* is outside the vocabulary of 256' 'vocab_size=N' \
    train --model tiny-gpt2 --tokenizer elsewhere.json --data text --steps 1 --seq 32 --batch 4
refused '^orrery: --vocab-size: there is no --train' '--train' tokenize --vocab-size 300
refused '^orrery: --special: there is no --train' '--train' tokenize --special x
refused '^orrery: --vocab-size: is missing' '8000' tokenize --train new.json --data text
refused '^orrery: --data: is missing' 'text files' tokenize --train new.json --vocab-size 300
refused '^orrery: --train: there is --decode, too' 'one of them' tokenize --train new.json --vocab-size 300 --data text --decode
refused '^orrery: --model: there is --tokenizer, too' 'one of them' tokenize --model tokenized --tokenizer elsewhere.json
refused '^orrery: tokenizer: a vocabulary of 20 tokens has no room' '256' tokenize --train new.json --vocab-size 20 --data text
check 'nothing was written' test ! -e new.json
echo '{"model": {"type": "Other"}}' > other.json
refused '^orrery: other.json: model: type "Other" is not known' 'docs/text.md' tokenize --tokenizer other.json

# --- logits and gradients --------------------------------------------------------------------------------------
# The sequences of a key of input.json, a line each.
sequences()
{
    tr -d '\n' < "$golden/input.json" | sed -e "s/.*\"$1\": \\[\\[//" -e 's/\]\].*//' -e 's/\], *\[/;/g' | tr ';' '\n' | tr -d ,
    echo
}
sequences logits > logits.ids
same 'golden sequences' "$(wc -l < logits.ids)" 3
works logits --model "$golden" --ids-file logits.ids --out logits.safetensors
for i in 0 1 2; do
    for name in logits last_hidden_state; do
        ran="compare_tensors $name.$i"
        "$compare" 1e-5 logits.safetensors "$golden/golden.safetensors" part $name $i $name.$i > out 2> err
        status=$?
        same "$name of sequence $i" $status 0
    done
done
works logits --model "$golden" --ids "$(tr '\n' ';' < logits.ids)" --out again.safetensors
check '--ids and --ids-file give the same file' cmp -s logits.safetensors again.safetensors
sequences batch > batch.ids
works grads --model "$golden" --ids-file batch.ids --out grads.safetensors
ran='compare_tensors grads'
"$compare" 1e-5 grads.safetensors "$golden/golden.safetensors" all grad. > out 2> err
status=$?
same 'gradients and loss' $status 0
same 'temporary files' "$(leftovers .)" ''

# --- tokenize --------------------------------------------------------------------------------------------------
works tokenize --data text
same 'a line for a line' "$(wc -l < out)" "$(wc -l < text)"
printf 'ab\n\n\001\377\r tab\tend\n' > odd
run tokenize --data odd
same 'ids' "$(cat out)" "$(printf '97 98\n\n1 255 13 32 116 97 98 9 101 110 100')"
"$orrery" tokenize < odd | "$orrery" tokenize --decode > back
check 'there and back, through pipes' cmp -s odd back
head -c 3000 "$golden/model.safetensors" | tr -d '\000' > odd
echo >> odd
"$orrery" tokenize < odd | "$orrery" tokenize --decode > back
check 'there and back, bytes of any kind' cmp -s odd back
head -c 3000 "$golden/model.safetensors" > odd
echo >> odd
"$orrery" tokenize < odd | "$orrery" tokenize --decode > back
check 'there and back, with zero bytes' cmp -s odd back

# --- bench and info --------------------------------------------------------------------------------------------
works bench $tiny --batch 4 --micro-batch 2 --seq 32 --steps 3 --json
same 'keys of bench --json' "$(keys out)" 'tokens_per_s best_tokens_per_s step_ms gflops tasks_per_step overhead_pct idle_pct'\
' peak_rss_mib model dtype parameters batch micro_batch seq dp pp tp workers threads scheduler device streamed_mib '
works bench $tiny --batch 4 --seq 32 --steps 2
check 'bench in words' grep -q '^tokens_per_s  *[0-9]' out
works info
for what in '^orrery [0-9]' '^memory: [0-9]* MiB' '^workers: [1-9][0-9]* CPU' '^instructions: ' '^features: ' ' attention  *forward' \
    'CPU: yes'; do
    check "info tells $what" grep -q "$what" out
done
works info --model evaluated
check 'info of a model' grep -q '^model evaluated: 2 layers, width 32' out

# --- standard output that fails --------------------------------------------------------------------------------
# unwritable WHAT: the last run said that standard output cannot be written.
unwritable()
{
    said 1 '^orrery: standard output: cannot be written'
}
for arguments in --version --help 'train --help' info "$train --steps 2" "$train --steps 2 --quiet --json" \
    'generate --model evaluated' 'tokenize --data text' "bench $tiny --seq 32 --steps 1"; do
    if [ -w /dev/full ]; then
        ran="orrery $arguments > /dev/full"
        "$orrery" $arguments > /dev/full 2> err < /dev/null
        status=$?
        unwritable
    fi
    ran="orrery $arguments >&-"
    "$orrery" $arguments >&- 2> err < /dev/null
    status=$?
    unwritable
done
ran='orrery train --quiet <&- >&- 2>&-'
"$orrery" $train --steps 2 --quiet --out closed <&- >&- 2>&-
status=$?
same 'all standard streams closed' $status 0
works eval --model closed --data held --seq 32
ran='orrery train --metrics closed.metrics >&-'
"$orrery" $train --steps 20 --metrics closed.metrics >&- 2> err < /dev/null
status=$?
unwritable
same 'what went to the metrics instead' "$(grep -v '^{.*}$' closed.metrics)" ''
run $train --steps 2 --quiet --metrics /dev/full
said 1 '^orrery: /dev/full: '

finish
