#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# orrery selftest: what it says of a device that is as it should be, of one that fails, and of none.
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
unset STARPU_NCUDA
export STARPU_NCPU=1 TMPDIR="$work"

run info
if ! grep -q '^CUDA [0-9]' "$work/out"; then
    run selftest --quick
    same 'without a device' "$status" 77
    check 'one line' test "$(wc -l < "$work/out")" = 1
    echo 'skipped: there is no CUDA device'
    [ "$failures" -eq 0 ] && exit 77
    finish
fi

# selftest OPTION...: longer than other commands may take.
selftest()
{
    ran="orrery selftest $*"
    timeout 600 "$orrery" selftest "$@" > "$work/out" 2> "$work/err" < /dev/null
    status=$?
}

selftest --quick
same 'all is well' "$status" 0
check 'no check failed' grep -q '^[1-9][0-9]* checks, 0 failures$' "$work/out"
check 'and each has a line' test "$(grep -c ' pass$' "$work/out")" = "$(sed -n 's/ checks,.*//p' "$work/out")"
for pass in 'attention F ' 'attention shard_B ' 'mlp chunk_B ' 'head FBW ' 'head chunk_P ' 'embedding W ' 'golden losses '; do
    for dtype in fp32 bf16 fp16; do
        check "$pass in $dtype" grep -q "^$pass *$dtype .* pass$" "$work/out"
    done
done

refused "device: 'cpu'" 'use cuda' selftest --device cpu
refused 'there is no golden.safetensors' '' selftest --golden "$work"
refused "only: 'x' is none" 'use blocks, golden or training' selftest --only x

run info
if grep -q '^CUDA 0.*emulated' "$work/out"; then
    ORRERY_EMULATED_DEVICES=0 run selftest --quick
    same 'without a device' "$status" 77
    check 'one line' test "$(wc -l < "$work/out")" = 1
    export ORRERY_EMULATED_FAIL=launch:9
    selftest --only golden --json
    unset ORRERY_EMULATED_FAIL
    said 1 'selftest: [0-9]* of 9 checks failed'
    same 'a failure in the object' "$(value failures "$work/out")" 1
fi

selftest --only training
same 'training' "$status" 0
check 'four checks' grep -q '^4 checks, 0 failures$' "$work/out"
check 'a device with little memory' grep -q '^eviction .*1/4 of .* 0.0e+00 .*pass$' "$work/out"
check 'nothing is left' test -z "$(ls -d "$work"/orrery-* 2> "$work/null")"
finish
