#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Cores that compute a task together change who computes, not what.
# shellcheck disable=SC2086    # lists of options
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --micro-batch 2 --data text --steps 4 --eval-every 3 --dropout 0.1 --warmup 2 --quiet"

# identical OPTION...: to the last bit.
identical()
{
    losses_of found "$@"
    check "the same losses: $*" cmp -s expected found
}

for dtype in fp32 bf16; do
    losses_of expected --dtype $dtype
    same 'steps and evaluations' "$(wc -l < expected)" 6
    identical --dtype $dtype --cpu-group core
    identical --dtype $dtype --cpu-group l3
    identical --dtype $dtype --cpu-group numa --threads 3
    ORRERY_CPU_GROUP=numa identical --dtype $dtype --pp 2
done

# Groups are at least as large as cores, and a group has at least one of them: two threads are one worker or two.
works info --cpu-group numa --threads 2
groups=$(sed -n 's/^groups of cores (numa): \([12]\), with 2 threads in all$/\1/p' out)
check 'groups' test -n "$groups"
same 'a worker for each' "$(sed -n 's/^workers: \([0-9]*\) CPU.*/\1/p' out)" "$groups"
works info
check 'none without being asked' test "$(grep -c '^groups of cores' out)" = 0
works info --cpu-group l3 --threads 1
check 'a group of one' grep -q '^groups of cores (l3): 1, with 1 threads in all' out

# Memory is that of threads: of two in one group there is less of a task's, and more than of one thread.
memory="info --model gpt2 --batch 2 --micro-batch 1 --seq 64"
works $memory --threads 2 --cpu-group numa
if [ "$groups" = 1 ]; then
    together=$(sed -n 's/.*scratch \([0-9]*\).*/\1/p' out)
    works $memory --threads 2
    apart=$(sed -n 's/.*scratch \([0-9]*\).*/\1/p' out)
    works $memory --threads 1
    alone=$(sed -n 's/.*scratch \([0-9]*\).*/\1/p' out)
    check "scratch of $alone, $together, $apart MiB" test "$alone" -lt "$together" -a "$together" -lt "$apart"
else
    skip 'two threads are in two NUMA nodes'
fi

refused "--cpu-group: 'socket' is none" 'use core, l3 or numa' info --cpu-group socket
refused '--cpu-group: has no value' '' info --cpu-group
STARPU_WORKERS_CPUID=0 refused 'STARPU_WORKERS_CPUID: places workers' 'unset it, or use --cpu-group core' info --cpu-group l3
STARPU_WORKERS_CPUID=0 works info --cpu-group core

finish
