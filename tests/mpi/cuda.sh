#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two ranks with CUDA devices, real or emulated ones: each has its own, they compute what they compute on CPUs, and what one
# process with both devices computes, bit for bit.
# shellcheck disable=SC2086,SC2016,SC2154,SC2034    # lists of options; awk programs; what common.sh sets and reads
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99
unset STARPU_NCUDA

run info
if ! grep -q '^CUDA [0-9]' out; then
    echo 'skipped: there is no CUDA device'
    exit 77
fi
emulated=
if grep -q '^CUDA 0.*emulated' out; then emulated=yes; fi

# ---- who has which -------------------------------------------------------------------------------------------------------

# has DEVICES RANK NUMBER...: of so many devices a rank has these.
has()
{
    of=$1
    rank=$2
    shift 2
    same "devices of rank $rank, of $of" "$(sed 's/^[0-9]* CUDA \([0-9]*\).*/\1/' "devices.$rank" | tr '\n' ' ')" "$* "
}

if [ -n "$emulated" ]; then
    for devices in 1 2 5; do
        ORRERY_EMULATED_DEVICES=$devices ranks 2 "$program" devices
        same 'exit status' "$status" 0
        case $devices in
        1) has 1 0 0; has 1 1 0 ;;
        2) has 2 0 0; has 2 1 1 ;;
        5) has 5 0 0 2 4; has 5 1 1 3 ;;
        esac
        [ $devices -gt 1 ] || one=$(cut -d ' ' -f 1 devices.1)
    done
    check 'two ranks on a device share its memory' test $((one * 2)) -le "$(head -n 1 devices.1 | cut -d ' ' -f 1)"
    export ORRERY_EMULATED_DEVICES=2 ORRERY_EMULATED_JITTER=20
fi

# ---- the same as on CPUs, and in one process -----------------------------------------------------------------------------

train="train $tiny --seq 17 --batch 4 --micro-batch 1 --data text --steps 4 --val-fraction 0 --dropout 0.1 --warmup 2 --quiet"

# losses_on NAME RANKS OPTION...: trains, and leaves the losses in NAME.
losses_on()
{
    name=$1 count=$2
    shift 2
    rm -f metrics
    ranks "$count" "$orrery" $train --metrics metrics "$@"
    same "exit status" "$status" 0
    losses metrics > "$name"
    same "steps" "$(wc -l < "$name")" 4
}

while read -r bound options; do
    losses_on expected 2 --device cpu $options
    losses_on found 2 --device cuda $options
    check "CPU and CUDA give the same losses: $options" close_to "$bound" expected found
    losses_on again 2 --device cuda $options
    check "two runs on devices are equal: $options" cmp -s again found
    losses_on again 1 --device cuda $options
    check "one process is equal: $options" cmp -s again found
done << 'EOF'
1e-5 --dp 2
1e-5 --pp 2
1e-5 --tp 2
1e-5 --dp 2 --zero 3
1e-5 --pp 2 --dp 2 --tp 2 --slots zb
1e-5 --dp 2 --sync parameters --sync-every 2
2e-2 --dp 2 --dtype bf16
EOF

# ---- replicas of different speed: a slow device ---------------------------------------------------------------------------

# Of rank 1's device every piece of work is late by 5 ms in the mean.
if [ -n "$emulated" ]; then
    dynamic="train $tiny --seq 8 --batch 12 --micro-batch 1 --data text --steps 9 --val-fraction 0 --warmup 2 --quiet
        --device cuda --dp 2 --partition dynamic --out dealt"
    ranks 0 -n 1 env ORRERY_EMULATED_JITTER=0 "$orrery" $dynamic : -n 1 env ORRERY_EMULATED_JITTER=10000 "$orrery" $dynamic
    same 'exit status' "$status" 0
    sed 's/.*\[\(.*\), \(.*\)\].*/\1 \2/' dealt/partition.jsonl > shares
    echo "dealt: $(tr ' \n' '+ ' < shares)"
    check 'the slower replica is dealt less' awk 'NR > 5 && $1 <= $2 + 2 { bad = 1 } END { exit bad || NR != 9 }' shares
fi

# ---- replicas that do not wait, and a device that fails on one rank ------------------------------------------------------

ranks 2 "$orrery" $train --device cuda --dp 2 --staleness 2 --steps 12 --warmup 0 --lr 0.003 --metrics stale
same 'exit status with --staleness' "$status" 0
losses stale > found
check 'the loss falls' awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(NR == 12 && last < 0.95 * first) }' found
if [ -n "$emulated" ]; then
    ranks 0 -n 1 "$orrery" $train --device cuda --dp 2 \
        : -n 1 env ORRERY_EMULATED_FAIL=cublasLtMatmul:20 "$orrery" $train --device cuda --dp 2
    told 1 'of layer [0-9]*, microbatch [0-9]*, step 1: cublasLtMatmul: .*MiB of data'
fi

finish
