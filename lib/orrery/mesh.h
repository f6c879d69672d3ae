/* SPDX-License-Identifier: Apache-2.0 */
/* The grid of replicas, pipeline stages and tensor shards, and who owns and executes what.
 *
 * Everything here is a pure function of its arguments: every rank computes the same answers without
 * talking to another. Any thread. */
#ifndef ORRERY_MESH_H
#define ORRERY_MESH_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* dp replicas x pp pipeline coordinates x tp shards, spread over `ranks` MPI processes. Several
 * coordinates may share a rank. */
struct orr_mesh {
    int dp, pp, tp;
    int ranks;
    int stages;                 /* of the pipeline, a multiple of pp: stage s is at coordinate s mod pp; 0: pp  */
    bool sequence_parallel;     /* the residual stream is cut into tp chunks of the sequence                     */
    int zero;                   /* what replicas share out (Rajbhandari et al. 2020): 1 optimizer state, 2 that and
                                   summed gradients, which comes to the same here, 3 parameters too; 0: 1          */
    int parameter_slots;        /* with zero 3, parameter tiles of a size that a rank keeps room for; 0: 2          */
    int batch, seq;             /* shape of the microbatches to come, for which stages are balanced by measured times; 0:
                                   not known, by floating-point operations                                        */
    int pretended;              /* > 0: this process alone submits what rank pretended - 1 would, and neither computes nor
                                   sends: to measure what submission costs on a large machine                    */
};

/* 0 <= d < dp, 0 <= p < pp, 0 <= t < tp. */
struct orr_coord {
    int d, p, t;
};

/* ORR_EINVAL unless every extent is at least 1, the number of ranks divides dp * pp * tp, and the other fields
 * are in their range. */
int orr_mesh_check(const struct orr_mesh *mesh);

/* The number of pipeline stages, and of chunks that the sequence is cut into. */
int orr_mesh_stages(const struct orr_mesh *mesh);
int orr_mesh_chunks(const struct orr_mesh *mesh);

/* Where shard (or chunk) t of stage s of replica d is: at coordinate (d, s mod pp, t). */
int orr_mesh_place(const struct orr_mesh *mesh, int d, int s, int t);

/* dp * pp * tp. */
int64_t orr_mesh_size(const struct orr_mesh *mesh);

/* The position of a coordinate in the order in which ranks are filled: shards first (they exchange
 * most), then replicas, then stages (which exchange least): (p dp + d) tp + t. And its inverse. */
int64_t orr_mesh_index(const struct orr_mesh *mesh, struct orr_coord at);
struct orr_coord orr_mesh_coord(const struct orr_mesh *mesh, int64_t index);

/* The rank that holds a coordinate: index ranks / size, so that each rank holds an equal run. */
int orr_mesh_rank(const struct orr_mesh *mesh, struct orr_coord at);

/* Part i of n things in `parts` parts that differ by at most `unit` things: first..first+count-1.
 * Parts are made of whole units, a last unit may be short; the first parts get the extra ones. */
struct orr_part {
    int64_t first, count;
};
struct orr_part orr_split(int64_t n, int64_t unit, int parts, int i);

/* Cuts n blocks into `stages` runs that follow each other such that the dearest run is as cheap as
 * possible; among those cuts such that the sum of the squares of the costs is least; among those the earliest.
 * first[s] is the first block of stage s, first[stages] = n. Every stage gets a block. cost[] >= 0. ORR_EINVAL when
 * n < stages; ORR_ENOMEM. */
int orr_partition(int n, const double *cost, int stages, int *first);

/* Gives n tiles of bytes[] to `owners` owners such that their sums are even: largest first, each to
 * the owner with least so far (ties: lowest number). owner[n]. ORR_ENOMEM. */
int orr_balance(int n, const int64_t *bytes, int owners, int *owner);

/* How many microbatches stage s of `stages` keeps in flight, and whether B and W are separate tasks. */
struct orr_slot_policy {
    enum { ORR_SLOTS_DEFAULT, ORR_SLOTS_GPIPE, ORR_SLOTS_1F1B, ORR_SLOTS_H1, ORR_SLOTS_ZB, ORR_SLOTS_COUNT } kind;
    int count;      /* ORR_SLOTS_COUNT: the number of slots of every stage */
};

/* Reads "gpipe", "1f1b", "h1", "zb" or a positive number. ORR_EINVAL otherwise. */
int orr_slot_policy_parse(const char *text, struct orr_slot_policy *policy);

/* Slots of stage s of `stages` for m microbatches per replica: gpipe m; 1f1b and h1 stages - s;
 * zb 2 stages - 1; a number as given; default: as h1, or with one stage one more than the workers that
 * serve a replica, so that they can overlap microbatches. Never more than m, never less than 1. */
int orr_slot_count(const struct orr_slot_policy *policy, int stage, int stages, int microbatches, int workers);

/* False for gpipe and 1f1b, where the backward pass of a block is one task. */
bool orr_slot_split(const struct orr_slot_policy *policy);

#ifdef __cplusplus
}
#endif
#endif
