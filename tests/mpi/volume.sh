#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What ranks send, by StarPU-MPI's own statistics, is what theory says, within 5 %: for each rank and step 2 P (dp-1)/dp bytes
# with ZeRO-1, and (2 m + 1) P (dp-1)/dp with ZeRO-3 and m microbatches for each replica (docs/parallel.md).
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99
head -c 20000 "$orrery" > text
model="--model tiny-gpt2 --set n_layer=6 --set tie_word_embeddings=false"
# shellcheck disable=SC2086
parameters=$("$orrery" bench $model --batch 1 --seq 8 --steps 1 --json | sed 's/.*"parameters": \([0-9]*\).*/\1/')
steps=10

# sends DP FACTOR OPTION...: each of DP ranks sends FACTOR P (dp-1)/dp bytes a step.
sends()
{
    dp=$1 factor=$2
    shift 2
    # shellcheck disable=SC2086
    STARPU_SILENT=0 STARPU_MPI_STATS=1 ranks "$dp" "$orrery" train $model --data text --steps "$steps" --batch $((2 * dp)) \
        --micro-batch 1 --seq 16 --val-fraction 0 --quiet --dp "$dp" "$@"
    same "exit status" "$status" 0
    sed -n 's/.*starpu_comm_stats\]\[\([0-9]*\)\] TOTAL:[[:space:]]*\([0-9]*\)\..*/\1 \2/p' "$work/all" > sent
    same "ranks that told what they sent" "$(wc -l < sent)" "$dp"
    while read -r rank bytes; do
        percent=$(awk -v b="$bytes" -v p="$parameters" -v f="$factor" -v d="$dp" -v s="$steps" \
            'BEGIN { printf "%d", 1000 * b / (s * f * 4 * p * (d - 1) / d) }')
        if [ "$percent" -ge 950 ] && [ "$percent" -le 1050 ]; then pass; else fail "rank $rank sent $percent parts of 1000"; fi
    done < sent
}

sends 2 2 --zero 1
sends 2 5 --zero 3
sends 4 2 --zero 1
finish
