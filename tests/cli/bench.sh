#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench --against pytorch, with a script in the place of Python that knows no PyTorch: who runs when and with which options,
# what comes of the figures, and what goes wrong. With PyTorch itself where python3 has it.
# shellcheck disable=SC2086,SC2016    # lists of options; scripts in quotes
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

compare="bench --against pytorch $tiny --seq 16 --batch 4 --steps 1 --threads 2 --device cpu"

# fake_python NAME LINE...: a program that answers the probe, and else runs the lines, $n being how often it was called for.
fake_python()
{
    name=$1
    shift
    rm -f "$name.count" "$name.log"
    {
        echo '#!/bin/sh'
        echo 'case " $* " in *" --probe "*) echo "{\"version\": \"9.8.7\"}"; exit 0 ;; esac'
        echo "echo run >> '$work/$name.count'; n=\$(wc -l < '$work/$name.count'); echo \"\$*\" >> '$work/$name.log'"
        echo "env > '$work/$name.env'"
        printf '%s\n' "$@"
    } > "$name"
    chmod +x "$name"
}

# The parts of the last run's object, one after the other.
get()
{
    tr -d '\n' < out | grep -o "\"$1\": [^,}]*" | sed 's/^[^:]*: //; s/"//g' | tr '\n' ' ' | sed 's/ $//'
}

# ---- in turn ---------------------------------------------------------------------------------------------------------

fake_python steady 'echo "a line that is no object"' \
    'echo "{\"tokens_per_s\": ${n}00, \"best_tokens_per_s\": ${n}50.5, \"version\": \"9.8.7\"}"'
works $compare --pairs 3 --python "$work/steady"
order=$(sed -n 's/^pair \([0-9]*\/[0-9]*\)  *\([A-Za-z]*\)  *[0-9.]* tokens\/s.*/\1 \2/p' out | tr '\n' ' ')
same 'the order of the runs' "$order" \
    '1/3 Orrery 1/3 PyTorch 2/3 Orrery 2/3 PyTorch 3/3 Orrery 3/3 PyTorch '
check 'the version' grep -q '^Orrery 0.* against PyTorch 9.8.7: tiny-gpt2' out
check "PyTorch's median and best" grep -q '^PyTorch  *median 200.0, best 350.5 tokens/s' out
check 'the ratios' grep -q -E '^ratio by pair  *median [0-9.]+, from [0-9.]+ to [0-9.]+$' out

fake_python steady 'echo "{\"tokens_per_s\": ${n}00, \"best_tokens_per_s\": ${n}50.5}"'
works $compare --pairs 3 --python "$work/steady" --json
same 'one object' "$(wc -l < out)" 1
same 'the programs in the object' "$(get program)" 'orrery pytorch orrery pytorch orrery pytorch'
rates=$(get tokens_per_s)       # the medians, then the runs
check 'medians, and ratios by pair' awk -v rates="$rates" -v best="$(get best_tokens_per_s)" -v of="$(get of_medians)" \
    -v pairs="$(grep -o '"pairs": \[[^]]*' out | sed 's/.*\[//; s/,//g')" '
    function near(a, b) { return a - b < 1e-6 * b && b - a < 1e-6 * b }
    BEGIN {
        split(rates, r, " "); split(best, b, " "); split(pairs, p, " ")
        low = r[3]; high = r[3]; sum = 0; top = 0
        for (i = 0; i < 3; i++) {
            x = r[3 + 2 * i]; sum += x
            if (x < low) low = x
            if (x > high) high = x
            if (b[3 + 2 * i] > top) top = b[3 + 2 * i]
            if (!near(p[i + 1], x / ((i + 1) * 100))) exit 1
        }
        exit !(near(r[1], sum - low - high) && r[2] == 200 && near(of, r[1] / 200) && near(b[1], top) && b[2] == 350.5)
    }' < /dev/null
for option in --layers=2 --heads=2 --width=32 --inner=128 --vocab=256 --positions=32 --seq=16 --batch=4 --micro-batch=0 \
    --steps=1 --warm-up=2 --threads=2 --clip=1 --lr=0.0001 --dtype=fp32 --device=cpu; do
    check "PyTorch gets $option" grep -q -e " $option\( \|\$\)" steady.log
done
check 'the default script is there' test -r "$(head -n 1 steady.log | sed 's/ .*//')"
for setting in MALLOC_MMAP_MAX_=0 OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2; do
    check "PyTorch runs with $setting" grep -q -x "$setting" steady.env
done

works $compare --pairs 1 --python "$work/steady" --compile --micro-batch 2 --dtype bf16 --set tie_word_embeddings=false
for option in --compile --micro-batch=2 --dtype=bf16 --untied; do
    check "PyTorch gets $option" grep -q -e " $option\( \|\$\)" steady.log
done
works $compare --pairs 1 --python "$work/steady" --micro-batch 2 --pytorch-micro-batch 4
check 'a microbatch of its own' grep -q -e ' --micro-batch=4 ' steady.log
: > other.py
works $compare --pairs 1 --python "$work/steady" --script other.py
check 'a script of its own' grep -q '^other.py ' steady.log

# ---- what goes wrong -------------------------------------------------------------------------------------------------

refused "PyTorch: $work/none: cannot be started" '--python' $compare --python "$work/none"
printf '#!/bin/sh\necho "cannot be imported: No module" >&2\nexit 3\n' > bare
chmod +x bare
refused 'PyTorch: cannot be imported: No module' '--python' $compare --python "$work/bare"
refused 'nowhere.py: cannot be read' '--script' $compare --python "$work/steady" --script nowhere.py
refused "--against: 'jax'" 'pytorch' bench --against jax $tiny
refused '--pairs: needs --against' '--against pytorch' bench --pairs 2 $tiny
refused '--against: cannot be given together with --pretend-ranks' '' $compare --pretend-ranks 4
refused '--seq: 64 tokens are more' '--seq of at most 32' bench --against pytorch $tiny --seq 64 --python "$work/steady"
refused 'Orrery: .*' '' $compare --dp 3 --pp 9 --python "$work/steady"

fails()     # PATTERN LINE...: what PyTorch's runs do
{
    pattern=$1
    shift
    fake_python failing "$@"
    run $compare --pairs 2 --python "$work/failing"
    said 1 "$pattern"
}
fails 'PyTorch: RuntimeError: it is too warm$' 'echo Traceback >&2' 'echo "RuntimeError: it is too warm" >&2' 'exit 1'
fails 'PyTorch: ended with status 9' 'exit 9'
fails 'PyTorch: was ended by signal 9' 'kill -9 $$'
fails 'PyTorch: has printed no JSON object' 'echo "tokens: many"'
fails 'PyTorch: has printed no JSON object' ':'
fails 'PyTorch: has printed no tokens_per_s' 'echo "{\"best_tokens_per_s\": 3}"'
fails 'PyTorch: has printed no tokens_per_s' 'echo "{\"tokens_per_s\": \"3\", \"best_tokens_per_s\": 3}"'
fails 'PyTorch: its model has 17 parameters' 'echo "{\"tokens_per_s\": 3, \"best_tokens_per_s\": 3, \"parameters\": 17}"'
same 'nothing runs after a failure' "$(wc -l < failing.count)" 1

# ---- interrupted -----------------------------------------------------------------------------------------------------

fake_python slow "echo \$\$ > '$work/slow.pid'" 'exec sleep 50'
ran="orrery $compare, interrupted"
"$orrery" $compare --python "$work/slow" > out 2> err < /dev/null &
command=$!
for _ in $(seq 300); do
    if [ -s slow.pid ]; then break; fi
    sleep 0.1
done
# ./orrery may be a script of libtool's, which is replaced by the command.
kill -INT $command
wait $command
status=$?
said 130 'bench: interrupted'
check 'the run is ended, too' sh -c "! kill -0 $(cat slow.pid) 2> $work/gone"

# ---- with PyTorch ----------------------------------------------------------------------------------------------------

for python in python3 /usr/bin/python3; do
    if "$python" -c 'import torch' 2> err; then break; fi
    python=
done
if [ -n "$python" ]; then
    works $compare --pairs 1 --python "$python" --json
    same 'as many parameters on both sides' "$(get parameters)" "$(value parameters out) $(value parameters out)"
    works $compare --pairs 1 --python "$python" --micro-batch 3 --dtype bf16 --set tie_word_embeddings=false \
        --set embd_pdrop=0.1 --set attn_pdrop=0.1 --set resid_pdrop=0.1
    run $compare --pairs 1 --python "$python" --set n_head=4 --json
    loss=$(value loss out)
    check "the loss $loss is that of 256 equally likely tokens" \
        awk -v l="$loss" 'BEGIN { exit !(l > 5.3 && l < 5.8) }' < /dev/null
else
    skip 'there is no PyTorch'
fi
finish
