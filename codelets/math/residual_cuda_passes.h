/* SPDX-License-Identifier: Apache-2.0 */
/* The table of CUDA passes of a residual block, ORRI_RESIDUAL_CUDA. Included by the block's CUDA source, behind its
 *
 *     static struct orri_cuda_residual residual(const void *config, enum orr_dtype dtype, int batch, int seq, int shards, int shard);
 */
#ifndef ORRI_RESIDUAL_CUDA_PASSES_H
#define ORRI_RESIDUAL_CUDA_PASSES_H

#include "codelets/math/residual_cuda.h"

static struct orri_cuda_residual residual_of(const struct orr_operands *o)
{
    return residual(o->config, o->dtype, o->batch, o->seq, o->shards, o->shard);
}

/* The first shard is the largest. */
static size_t scratch_bytes(const void *config, enum orr_dtype dtype, int batch, int seq, int shards)
{
    const struct orri_cuda_residual r = residual(config, dtype, batch, seq, shards, 0);

    return shards == 1 ? orri_cuda_residual_scratch_bytes(&r, dtype, batch, seq)
                       : orri_cuda_residual_shard_scratch_bytes(&r, dtype, batch, seq);
}

#define ORRI_PASS(name, function) \
    static void name(const struct orr_operands *o) \
    { \
        const struct orri_cuda_residual r = residual_of(o); \
        function(o, &r); \
    }

ORRI_PASS(forward, orri_cuda_residual_forward)
ORRI_PASS(backward, orri_cuda_residual_backward)
ORRI_PASS(weights, orri_cuda_residual_weights)
ORRI_PASS(shard_forward, orri_cuda_residual_shard_forward)
ORRI_PASS(chunk_join, orri_cuda_residual_chunk_join)
ORRI_PASS(shard_backward, orri_cuda_residual_shard_backward)
ORRI_PASS(shard_weights, orri_cuda_residual_shard_weights)
ORRI_PASS(chunk_backward, orri_cuda_residual_chunk_backward)
#undef ORRI_PASS

static void chunk_forward(const struct orr_operands *o)
{
    const struct orri_cuda_residual r = residual_of(o);

    orri_cuda_norm_chunk_forward(o, r.shape.width, r.shape.eps);
}

#define ORRI_RESIDUAL_CUDA \
    { \
        .pass = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights, \
                 [ORR_CHUNK_FORWARD] = chunk_forward, [ORR_SHARD_FORWARD] = shard_forward, [ORR_CHUNK_JOIN] = chunk_join, \
                 [ORR_SHARD_BACKWARD] = shard_backward, [ORR_SHARD_WEIGHTS] = shard_weights, \
                 [ORR_CHUNK_BACKWARD] = chunk_backward}, \
        .scratch_bytes = scratch_bytes \
    }
#endif
