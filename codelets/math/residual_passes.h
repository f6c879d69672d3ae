/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that the class of a residual block points to. Included by the block's source file, behind its
 *
 *     static struct orri_residual residual(const void *config, const struct orr_shape *shape, int shard);
 *
 * which tells the geometry of a shard, or, shard 0 of 1, of the whole block. */
#ifndef ORRI_RESIDUAL_PASSES_H
#define ORRI_RESIDUAL_PASSES_H

#include "codelets/math/residual.h"

static struct orri_residual residual_of(const struct orr_operands *o)
{
    const struct orr_shape shape = {o->dtype, o->batch, o->seq, o->shards, o->cuda != NULL};

    return residual(o->config, &shape, o->shard);
}

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    const struct orr_shape shape = {ORR_F32, batch, seq, 1, false};
    const struct orri_residual r = residual(config, &shape, 0);

    return orri_residual_saved(&r, batch, seq);
}

static struct orr_saved_size shard_saved(const void *config, int batch, int seq, int shards, int t)
{
    const struct orr_shape shape = {ORR_F32, batch, seq, shards, false};
    const struct orri_residual r = residual(config, &shape, t);

    return orri_residual_shard_saved(&r, batch, seq);
}

static struct orr_saved_size chunk_saved(const void *config, int batch, int positions)
{
    (void)config;
    return (struct orr_saved_size){orri_norm_saved_floats(batch, positions), 0};
}

static size_t kept_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orri_residual r = residual(config, shape, 0);

    return orri_residual_kept(&r, shape);
}

/* The first shard is the largest. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orri_residual r = residual(config, shape, 0);

    return orri_residual_scratch(&r, shape);
}

#define ORRI_PASS(name, function) \
    static void name(const struct orr_operands *o) \
    { \
        const struct orri_residual r = residual_of(o); \
        struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes); \
        function; \
    }

ORRI_PASS(forward, orri_residual_forward(o, &r, &rooms))
ORRI_PASS(backward, orri_residual_backward(o, &r, &rooms))
ORRI_PASS(weights, orri_residual_weights(o, &r, &rooms))
ORRI_PASS(chunk_forward, orri_residual_chunk_forward(o, &r, &rooms))
ORRI_PASS(shard_forward, orri_residual_shard_forward(o, &r, &rooms))
ORRI_PASS(chunk_join, orri_residual_chunk_join(o, &r, &rooms))
ORRI_PASS(shard_backward, orri_residual_shard_backward(o, &r, &rooms))
ORRI_PASS(shard_weights, orri_residual_shard_weights(o, &r, &rooms))
ORRI_PASS(chunk_backward, orri_residual_chunk_backward(o, &r, &rooms))
#undef ORRI_PASS

/* Its tables of passes, on any device, and of their operands: with what g takes beside u, forward and backward. */
#define ORRI_RESIDUAL_PASSES \
    { \
        [ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights, \
        [ORR_CHUNK_FORWARD] = chunk_forward, [ORR_SHARD_FORWARD] = shard_forward, [ORR_CHUNK_JOIN] = chunk_join, \
        [ORR_SHARD_BACKWARD] = shard_backward, [ORR_SHARD_WEIGHTS] = shard_weights, \
        [ORR_CHUNK_BACKWARD] = chunk_backward \
    }

#define ORRI_RESIDUAL_OPERANDS(forward, backward) \
    { \
        [ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS | (forward), \
        [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT | (backward), \
        [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS, \
        [ORR_CHUNK_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_BRANCH, \
        [ORR_SHARD_FORWARD] = ORR_BRANCH | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL | (forward), \
        [ORR_CHUNK_JOIN] = ORR_INPUT | ORR_BRANCH | ORR_PARAMETERS | ORR_PARTIAL | ORR_OUTPUT, \
        [ORR_SHARD_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT | (backward), \
        [ORR_SHARD_WEIGHTS] = ORR_BRANCH | ORR_OUTPUT_GRADIENT | ORR_SAVEDS | ORR_GRADIENTS, \
        [ORR_CHUNK_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT | \
                               ORR_INPUT_GRADIENT | ORR_GRADIENTS \
    }
#endif
