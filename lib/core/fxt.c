/* SPDX-License-Identifier: Apache-2.0 */
#include "core/fxt.h"

#include <starpu.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/core.h"

#if defined(ORR_HAVE_MPI) && defined(ORR_HAVE_FXT)
#define CONFIG_FUT 1    /* fut.h records nothing without it */
#include <fxt/fxt.h>
#include <fxt/fut.h>
#include <mpi.h>
#endif

#ifdef STARPU_USE_FXT

static bool asked;

int orri_fxt_start(const char *directory)
{
    if (!directory)
        return ORR_OK;
    /* STARPU_GENERATE_TRACE would translate the trace of one rank without the others'. */
    if (setenv("STARPU_FXT_TRACE", "1", 1) != 0 || setenv("STARPU_FXT_PREFIX", directory, 1) != 0 ||
        setenv("STARPU_FXT_SUFFIX", ORRI_FXT_FILE, 1) != 0 || setenv("STARPU_GENERATE_TRACE", "0", 1) != 0)
        return orri_fail(ORR_ENOMEM, "memory", "no room for the variables of a trace");
    asked = true;
    return ORR_OK;
}

#if defined(ORR_HAVE_MPI) && defined(ORR_HAVE_FXT)

/* Nanoseconds that this rank's clock is ahead of rank 0's: of many round trips the shortest says it best, and its
 * answer was given in the middle (Cristian 1989). */
static int64_t ahead_of_first(MPI_Comm world, int rank, int ranks)
{
    enum { ROUNDS = 60, TAG = 1 };
    int64_t ahead = 0, shortest = INT64_MAX;
    uint64_t theirs = 0;

    for (int other = 1; other < ranks; other++) {
        for (int i = 0; i < ROUNDS && rank == 0; i++) {
            MPI_Recv(&theirs, 1, MPI_UINT64_T, other, TAG, world, MPI_STATUS_IGNORE);
            theirs = fut_getstamp();
            MPI_Send(&theirs, 1, MPI_UINT64_T, other, TAG, world);
        }
        for (int i = 0; i < ROUNDS && rank == other; i++) {
            uint64_t begin = fut_getstamp();
            MPI_Sendrecv(&begin, 1, MPI_UINT64_T, 0, TAG, &theirs, 1, MPI_UINT64_T, 0, TAG, world, MPI_STATUS_IGNORE);
            int64_t trip = (int64_t)(fut_getstamp() - begin);
            if (trip < shortest) {
                shortest = trip;
                ahead = (int64_t)(begin - theirs) + trip / 2;
            }
        }
    }
    return ahead;
}

/* StarPU aligns traces by the first two of its events called barrier, each with the time at which, by the rank's own
 * clock, one moment was common to all; it takes the first itself when it starts and has only a barrier of MPI for that,
 * which ranks leave milliseconds apart where they share cores. With the second one recorded here everything after it is
 * aligned by it. The event's number and arguments are those of StarPU's mpi/src/starpu_mpi_fxt.h. */
void orri_fxt_align(int ranks)
{
    enum { BARRIER = 0x5203 };
    MPI_Comm world;
    uint64_t now;
    int rank;

    if (!asked || ranks == 1)
        return;
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(world, &rank);
    int64_t ahead = ahead_of_first(world, rank, ranks);
    MPI_Barrier(world);     /* StarPU's own event is recorded everywhere, and comes first */
    now = fut_getstamp();
    MPI_Bcast(&now, 1, MPI_UINT64_T, 0, world);
    MPI_Comm_free(&world);
    FUT_DO_ALWAYS_PROBE5(BARRIER, rank, ranks, now & 0x3fffffff, now + (uint64_t)ahead, gettid());
}

#else

void orri_fxt_align(int ranks)
{
    (void)ranks;
}

#endif

void orri_fxt_stop(void)
{
    if (asked)
        setenv("STARPU_FXT_TRACE", "0", 1);
    asked = false;
}

#else

int orri_fxt_start(const char *directory)
{
    if (!directory)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EINVAL, "trace", "the StarPU of this build cannot record traces: it has no FxT"),
                       "build StarPU with FxT (./quickstart does), or run without --trace");
}

void orri_fxt_align(int ranks)
{
    (void)ranks;
}

void orri_fxt_stop(void)
{
}

#endif
