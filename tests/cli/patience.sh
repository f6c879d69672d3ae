#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Early stopping: runs end when their evaluations get no better, and keep the best checkpoint.
# shellcheck disable=SC2086,SC2012    # lists of options; plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

# A text that is soon known by heart, and another one to be tried on.
head -n 12 text > short
tail -n 40 text | tr '0123456789' '5678901234' > other
train="train $tiny --seq 32 --batch 4 --data short --val other --warmup 0 --schedule constant --lr 5e-3 --eval-every 5 --quiet"

# value KEY: of the object that the last run printed.
value()
{
    sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" out
}

# lowest METRICS: step and loss of the first of the lowest evaluations.
lowest()
{
    sed -n 's/^{"step":\([0-9]*\),"val_loss":\([^}]*\)}/\1 \2/p' "$1" | sort -s -k 2,2g | head -n 1
}

works $train --steps 2000 --patience 3 --keep 1 --save-every 5 --out run --metrics run.metrics --json
same 'whether it stopped early' "$(value stopped_early)" true
best=$(value best_step)
last=$(value steps)
same 'the last step' "$last" $((best + 15))
same 'the best step' "$best" "$(lowest run.metrics | cut -d ' ' -f 1)"
check 'the best loss' awk -v a="$(value best_val_loss)" -v b="$(lowest run.metrics | cut -d ' ' -f 2)" \
    'BEGIN { exit !(a != "" && a - b < 1e-6 && b - a < 1e-6) }'
same 'where best leads' "$(readlink run/best)" "$(printf 'step-%08d' "$best")"
same 'where latest leads' "$(readlink run/latest)" "$(printf 'step-%08d' "$last")"
same 'the checkpoints' "$(ls -d run/step-* | wc -l)" 2
loss=$(value best_val_loss)
works eval --model run/best --data other --seq 32 --json
check 'the loss of the best checkpoint' awk -v a="$(value loss)" -v b="$loss" 'BEGIN { exit !(a != "" && a - b < 1e-4 && b - a < 1e-4) }'

# --- resumed runs stop where they would have ---------------------------------------------------------------------
works $train --steps $((best + 10)) --patience 3 --out cut --metrics cut.metrics
works train --resume cut --steps 2000 --json
same 'the last step of the resumed run' "$(value steps)" "$last"
same 'its best step' "$(value best_step)" "$best"
check 'its parameters' cmp -s run/latest/model.safetensors cut/latest/model.safetensors
check 'its best parameters' cmp -s run/best/model.safetensors cut/best/model.safetensors

refused 'stopped early: 3 evaluations were no better' 'raise --patience' train --resume cut
works train --resume cut --patience 4 --json
last=$(value steps)
same 'the last step with more patience' "$last" $(($(value best_step) + 20))
works train --resume cut --patience 0 --steps $((last + 8)) --json
same 'without it' "$(value steps)$(value stopped_early)" $((last + 8))

# --- a difference that is too small does not count ---------------------------------------------------------------
works $train --steps 2000 --patience 1 --min-delta 100 --json
same 'the best step, but for a large difference' "$(value best_step) $(value steps)" '5 10'

# --- a run without improvement to wait for ends as it did -----------------------------------------------------------
works $train --steps 10 --patience 9 --json
same 'a run of full length' "$(value stopped_early) $(value steps)" 'false 10'

finish
