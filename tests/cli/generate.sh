#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# generate: where texts end, what shapes them, searches, and prompts in batches.
# shellcheck disable=SC2086,SC2154    # lists of options; what common.sh sets
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

# Two pages of a cache, and a model that has learnt something, of which ends of lines are no part.
tr '\n' ' ' < text > line
works train $tiny --set n_positions=160 --data line --seq 64 --batch 8 --lr 3e-3 --warmup 10 --steps 200 --val-fraction 0 --out model \
    --quiet
generate="generate --model model --max-tokens 100"
greedy="$generate --temperature 0"

works $greedy --prompt '12 ti'
mv out whole
text=$(sed 's/^12 ti//' whole)
same 'a text of 100 bytes on one line' "$(wc -c < whole)" 106

# --- where a text ends --------------------------------------------------------------------------------------------
# before STRING: what is in the text before it.
before()
{
    printf '%s' "12 ti${text%%"$1"*}"
}
for from in 3 20 60; do
    stop=$(printf '%s' "$text" | cut -c $from-$((from + 3)))
    works $greedy --prompt '12 ti' --stop "$stop"
    same "ends before '$stop', of four tokens, and shows nothing of it" "$(cat out)" "$(before "$stop")"
    works $greedy --prompt '12 ti' --stop 'no such thing' --stop "$stop" --kv-cache off
    same "the same of several" "$(cat out)" "$(before "$stop")"
    works $greedy --prompt '12 ti' --stop "$stop" --json
    same 'and in an object' "$(sed 's/.*"text": "\(.*\)", "tokens".*/12 ti\1/' out)" "$(before "$stop")"
    tokens=$(sed 's/.*"tokens": \([0-9]*\)}/\1/' out)
    same 'with the tokens that it took' "$tokens" $(($(before "$stop" | wc -c) - 5 + 4))
done
works $greedy --prompt '12 ti' --stop "$(printf '%s' "$text" | cut -c 98-100)Z" --stop "$(printf '%s' "$text" | cut -c 100)ZZ"
check 'what might have become one is shown in the end' cmp -s whole out
works $greedy --prompt '12 ti' --stop '12 t'
check 'the prompt is not searched' cmp -s whole out
works $greedy --prompt '12 ti' --ignore-eos --min-tokens 100
check 'bytes have no end token' cmp -s whole out

# --- what shapes it ------------------------------------------------------------------------------------------------
works $greedy --prompt '12 ti' --repetition-penalty 1 --no-repeat-ngram 0
check 'what changes nothing' cmp -s whole out
works $greedy --prompt '12 ti' --repetition-penalty 1.5
if cmp -s whole out; then fail 'a penalty changes the text'; else pass; fi
works $greedy --prompt '12 ti' --no-repeat-ngram 2
same 'two bytes that come twice' "$(tr -d '\n' < out | sed 's/./& /g' | awk '{ for (i = 1; i < length($0) - 1; i += 2)
    print substr($0, i, 3) }' | sort | uniq -d | wc -l)" 0

# --- beams -----------------------------------------------------------------------------------------------------------
for beams in 2 5; do
    works $generate --prompt '12 ti' --beams $beams --kv-cache off
    mv out expected
    for layout in '' '--tp 2' '--pp 2' '--dp 2' '--tp 2 --sequence-parallel'; do
        works $generate --prompt '12 ti' --beams $beams $layout
        check "$beams beams: $layout" cmp -s expected out
    done
done
works $generate --prompt '12 ti' --beams 1 --temperature 0
check 'one beam is none' cmp -s whole out
works $generate --prompt '12 ti' --beams 4 --stop ' '
check 'beams end before a stop string, which the prompt may have' grep -q '^12 ti[^ ]*$' out
check 'soon, where every text has it' test "$(wc -c < out)" -lt 30

# --- batches -----------------------------------------------------------------------------------------------------------
awk 'BEGIN { for (i = 1; i <= 7; i++) printf "%d ti%s\n", i * 3, substr("mes is, is it", 1, 2 * i) }' > prompts
echo >> prompts
while IFS= read -r line; do
    works $greedy --prompt "$line" --json
    cat out
done < prompts > expected
same 'an object per prompt' "$(wc -l < expected)" 8
for options in '' '--batch 1' '--batch 3' '--batch 100' '--dp 2' '--dp 3 --batch 4' '--dp 2 --pp 2 --tp 2 --batch 5' \
    '--dp 2 --zero 3' '--dp 2 --kv-cache off' '--dp 2 --tp 2 --sequence-parallel'; do
    works $greedy --prompts prompts --json $options
    check "prompts of a file: $options" cmp -s expected out
done
works $generate --prompts prompts --seed 3 --top-k 7 --top-p 0.9
mv out expected
works $generate --prompts prompts --seed 3 --top-k 7 --top-p 0.9 --batch 3 --dp 2
check 'what is drawn does not depend on the batch' cmp -s expected out
for options in '--stop it' '--beams 3' '--beams 3 --stop it --length-penalty 0.5' '--beams 2 --no-repeat-ngram 4'; do
    works $generate --temperature 0 --prompts prompts $options --batch 1
    mv out expected
    works $generate --temperature 0 --prompts prompts $options --batch 3 --dp 2
    check "together and alone: $options" cmp -s expected out
done

# --- what is refused ---------------------------------------------------------------------------------------------------
awk 'BEGIN { for (i = 0; i < 40; i++) printf "too long "; print "" }' > long
refused '^orrery: long:1: the prompt has 360 tokens, and the model takes 160' 'shorten' $generate --prompts long
refused '^orrery: --prompt: the prompt has 360 tokens' 'shorten' $generate --prompt "$(cat long)"
printf 'a\nb\000c\n' > zero
refused '^orrery: zero:2: has a zero byte' 'text file' $generate --prompts zero
refused '^orrery: --beams: draws no tokens' 'leave out' $generate --beams 2 --temperature 0.5
refused '^orrery: --beams: draws no tokens' 'leave out' $generate --beams 2 --top-k 3
refused '^orrery: --beams: draws no tokens' 'leave out' $generate --beams 2 --top-p 0.5
refused "^orrery: --beams: '0' is no whole number from 1 to 64" '' $generate --beams 0
refused '^orrery: --length-penalty: means nothing without beams' '--beams' $generate --length-penalty 2
refused '^orrery: --stop: is empty' 'a text' $generate --stop x --stop ''
refused '^orrery: --min-tokens: 101 are more than --max-tokens, which is 100' 'lower' $generate --min-tokens 101
refused "^orrery: --repetition-penalty: '0' is no number" '' $generate --repetition-penalty 0
refused "^orrery: --no-repeat-ngram: '-1' is no whole number" '' $generate --no-repeat-ngram=-1
refused "^orrery: --batch: '0' is no whole number" '' $generate --batch 0

finish
