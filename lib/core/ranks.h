/* SPDX-License-Identifier: Apache-2.0 */
/* What the host threads of several ranks tell each other outside the step. Plain MPI on communicators of its own, so
 * that no message of StarPU-MPI is ever met. Without MPI, without a launcher or with one rank all of it is trivial.
 *
 * Every function below is collective where it does not say otherwise: the main thread of every rank calls it, in the
 * same order, and each begins by settling: where one rank has failed and went to orr_ranks_settle() with that, all
 * others fail likewise in whatever they call next, and from then on nothing is exchanged any more. So a rank that fails
 * need not follow the others through what they still had in mind; only StarPU-MPI's work must not wait for it.
 * A rank that waits for others sleeps between looks and leaves the core to them. */
#ifndef ORRI_RANKS_H
#define ORRI_RANKS_H

#include <stdbool.h>
#include <stddef.h>

#include <orrery/runtime.h>

/* Ends what orr_ranks_start() began. Legal without it, and twice. */
void orri_ranks_stop(void);

/* Returns when all ranks have called it. */
int orri_ranks_barrier(void);

/* data[bytes] of rank `root` to all others. */
int orri_ranks_broadcast(void *data, size_t bytes, int root);

/* Each byte becomes the bitwise or of all ranks': what one rank has and the others left zero, all have then. */
int orri_ranks_merge(void *data, size_t bytes);

/* orr_ranks_agree() of any bytes. */
int orri_ranks_agree(const char *what, const void *data, size_t bytes);

/* mine[bytes] to the next rank, and previous[bytes] from the one before, around the ring. */
int orri_ranks_shift(const void *mine, void *previous, size_t bytes);

/* Ends all ranks with an exit status where there are several; else returns. Not collective. Any thread. */
void orri_ranks_abort(int status);

/* The ranks on this host, and this one's place among them. Not collective. */
int orri_ranks_on_host(void);
int orri_ranks_place_on_host(void);

/* `bytes` bytes of every rank on this host to all[orri_ranks_on_host() * bytes], by their places. */
int orri_ranks_gather_on_host(const void *mine, size_t bytes, void *all);

#endif
