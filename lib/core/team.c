/* SPDX-License-Identifier: Apache-2.0 */
#include "core/team.h"

#include <omp.h>
#include <stdatomic.h>

static _Thread_local int others;        /* threads of the team, without its master */
static _Atomic int largest = 1;

int orri_team_size(void)
{
    return others > 0 && !omp_in_parallel() ? 1 + others : 1;
}

int orri_team_place(void)
{
    return omp_get_thread_num();
}

struct orri_share orri_team_share(size_t count, size_t grain)
{
    size_t place = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads(), grains = count / grain;
    size_t first = place * grains / threads * grain, end = place + 1 < threads ? (place + 1) * grains / threads * grain : count;

    return (struct orri_share){first, end - first};
}

int orri_team_largest(void)
{
    return atomic_load(&largest);
}

/* The OpenMP library keeps the threads of a master for its next team, as long as that is as large. */
void orri_team_start(int threads, void (*bind)(void *argument, int place), void *argument)
{
    int there = 1;

    omp_set_dynamic(0);
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        there = omp_get_num_threads();
        if (bind)
            bind(argument, omp_get_thread_num());
    }
    others = there - 1;
    for (int most = atomic_load(&largest); most < there && !atomic_compare_exchange_weak(&largest, &most, there);)
        ;
}

/* Waits for their end, which frees what libraries have kept for them. */
void orri_team_stop(void)
{
    if (others > 0)
        omp_pause_resource(omp_pause_hard, omp_get_initial_device());
    others = 0;
    atomic_store(&largest, 1);
}
