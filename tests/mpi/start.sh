#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What is wrong on one rank ends all of them with one message; ranks of different builds or settings do not start.
. "${srcdir:-.}/tests/mpi/common.sh"

ranks 3 "$program" alone
told 2 '^orrery: rank 1: file: is missing$'
ranks 3 "$program" alike
told 3 '^orrery: memory: is too small$'
ranks 3 "$program" elsewhere
told 2 '^orrery: rank 1: file: is missing$'
ranks 3 "$program" disagree
told 2 "^orrery: rank 1: options: 'b=3' where rank 0 has 'b=2'$"
ranks 3 "$program" scheduler
told 2 "^orrery: rank 1: STARPU_SCHED: StarPU has no scheduler 'nonsense'$"
ranks 8 "$program" exchange
same 'exit status of the exchange' "$status" 0
same 'output of the exchange' "$(cat "$work/out")" 'done'

# --- the command -------------------------------------------------------------------------------------------------
cd "$work" || exit 99
some="train $tiny --data text --steps 1"
ranks 2 "$orrery" $some --no-such-option
told 2 '^orrery: --no-such-option: is no option of train'
ranks 0 -n 1 "$orrery" $some --lr 1 : -n 1 "$orrery" $some --lr 2
told 2 "^orrery: rank 1: options: '--lr=2' where rank 0 has '--lr=1'"
ranks 0 -n 1 "$orrery" $some : -n 1 -x ORRERY_SEED=5 "$orrery" $some
told 2 "^orrery: rank 1: options: '--seed=5' where rank 0 has 'nothing'"
ranks 0 -n 1 "$orrery" $some : -n 1 "$orrery" info
told 2 "^orrery: rank 1: command: 'info' where rank 0 has 'train'"
ranks 0 -n 1 "$orrery" tokenize --data text : -n 1 -wdir / "$orrery" tokenize --data text
told 2 '^orrery: rank 1: text: cannot be opened'
mkdir here there
ranks 0 -n 1 "$orrery" $some --pp 2 : -n 1 -wdir "$work/here" "$orrery" $some --pp 2
told 2 '^orrery: rank 1: text: no such file'
sed 1s/1/2/ text > here/text
ranks 0 -n 1 "$orrery" $some --pp 2 : -n 1 -wdir "$work/here" "$orrery" $some --pp 2
told 2 "^orrery: rank 1: data: 'fingerprint .*' where rank 0 has 'fingerprint .*'"
ranks 2 "$orrery" $some --dp 2 --batch 1
told 2 '^orrery: train: batch 1 is 1 microbatches of 1, fewer than dp 2'
ranks 3 "$orrery" $some --tp 3
told 2 "^orrery: mesh: tp 3: block 'attention' has only 2 heads"
ranks 2 "$orrery" $some --pp 2 --stages 8
told 2 '^orrery: mesh: 6 blocks cannot fill 8 pipeline stages'
ranks 4 "$orrery" $some --pp 2
told 2 '^orrery: mesh: dp 1 x pp 2 x tp 1 does not divide over 4 ranks'
echo '{"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 256}' > here/config.json
sed 's/"n_layer": 2/"n_layer": 3/' here/config.json > there/config.json
info="$orrery info --model config.json"
ranks 0 -n 1 -wdir "$work/here" $info : -n 1 -wdir "$work/there" $info
told 2 '^orrery: rank 1: config.json: .*"n_layer": 3,. where rank 0 has .*"n_layer": 2,'
ranks 2 "$orrery" info --help
same 'exit status of --help' "$status" 0
same 'one rank prints the help' "$(grep -c '^Usage: orrery info' "$work/out")" 1
same '--help says nothing else' "$(cat "$work/all")" ''
ranks 0 -n 1 "$orrery" info : -n 1 "$orrery" info --help
same 'exit status of --help on one rank' "$status" 0

# The same program with a byte behind it.
binary=$here/.libs/orrery
[ -x "$binary" ] || binary=$orrery
cp "$binary" other
printf x >> other
LD_LIBRARY_PATH=$here/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
ranks 0 -n 1 "$binary" info : -n 1 "$work/other" info
told 2 '^orrery: rank 1: build: differs from that of rank 0'

finish
