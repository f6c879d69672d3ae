#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Layout, slots, scheduler and number of workers change when things are computed, not what.
# shellcheck disable=SC2086,SC2016    # lists of options; awk programs
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99

train="train $tiny --seq 32 --batch 4 --micro-batch 1 --data text --steps 5 --eval-every 3 --dropout 0.1 --warmup 2 --quiet"

# identical OPTION...: to the last bit.
identical()
{
    losses_of found "$@"
    check "the same losses: $*" cmp -s expected found
}

# nearly OPTION...: to 1e-5.
nearly()
{
    losses_of found "$@"
    check "nearly the same losses: $*" awk 'NR == FNR { a[FNR] = $0; n++; next }
        { split(a[FNR], x); for (i = 1; i <= 3; i++) if ($i != x[i]) { d = $i - x[i]; if (d < 0) d = -d
          if (i == 1 || x[i] == "validation" || d > 1e-5 * (x[i] < 1 ? 1 : x[i])) bad = 1 } m++ }
        END { exit bad || n != m || n == 0 }' expected found
}

losses_of expected
same 'steps and evaluations' "$(wc -l < expected)" 7
check 'the losses differ from step to step' test "$(cut -d ' ' -f 2 expected | sort -u | wc -l)" -gt 5
identical
losses_of found --seed 2
if cmp -s expected found; then fail 'another seed, the same losses'; else pass; fi

for p in 2 3 6; do
    identical --pp $p
done
nearly --dp 2
cp found two
nearly --dp 4
nearly --dp 2 --pp 2
check 'stages change nothing for two replicas' cmp -s two found
for slots in 1 2 4; do
    nearly --dp 2 --zero 3 --zero-slots $slots
    check "lending parameters changes nothing: $slots slots" cmp -s two found
done
nearly --dp 3
nearly --tp 2
cp found shards
nearly --tp 2 --pp 2 --zero 3
check 'stages and lending change nothing for two shards' cmp -s shards found
nearly --tp 2 --sequence-parallel
cp found chunks
nearly --tp 2 --sequence-parallel --pp 3 --stages 6
check 'stages change nothing for two chunks' cmp -s chunks found
nearly --dp 2 --pp 2 --tp 2 --sequence-parallel --zero 3
for policy in gpipe 1f1b h1 zb 1 3; do
    identical --slots $policy
    identical --slots $policy --pp 2
done
identical --stages 3
identical --pp 2 --stages 6 --slots zb
identical --pp 2 --zero 3
ORRERY_STAGES=4 identical --pp 2
ORRERY_PP=2 ORRERY_SLOTS=zb identical
ORRERY_SEED=2 identical --seed 1
mv expected one
mv two expected
ORRERY_DP=2 identical
ORRERY_DP=4 ORRERY_PP=3 identical --dp 2 --pp 1
mv one expected
ORRERY_MICRO_BATCH=2 works bench $tiny --seq 32 --batch 4 --steps 1 --json
same 'the microbatch from the environment' "$(value micro_batch out)" 2
for scheduler in eager lws dmda; do
    STARPU_SCHED=$scheduler identical
done
STARPU_SCHED=lws STARPU_NCPU=2 works info
check 'the scheduler is the one asked for' grep -q 'scheduler lws' out
for workers in 1 2 3; do
    STARPU_NCPU=$workers identical
done
STARPU_NCPU=1 works info
check 'one worker' grep -q '^workers: 1 CPU' out
STARPU_NCPU=1 works info --threads 2
check '--threads wins' grep -q '^workers: 2 CPU' out
ORRERY_THREADS=1 works info
check 'a worker from the environment' grep -q '^workers: 1 CPU' out
ORRERY_THREADS=1 identical
ORRERY_THREADS=1 identical --threads 2 --pp 2

finish
