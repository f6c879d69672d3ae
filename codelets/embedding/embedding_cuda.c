/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/embedding/geometry.h"
#include "codelets/math/operands_cuda.h"

static struct orri_dropout dropout_of(const struct orr_operands *o)
{
    return orri_block_dropout(o, ((const struct orr_embedding *)o->config)->dropout, ORRI_EMBEDDING_DROPOUT);
}

/* dy through dropout, and what the sum over tokens takes. */
static size_t scratch_bytes(const void *config, enum orr_dtype dtype, int batch, int seq, int shards)
{
    struct orri_rooms rooms = {0};

    (void)shards;
    orri_room(&rooms, (size_t)batch * (size_t)seq * (size_t)((const struct orr_embedding *)config)->width * orr_dtype_size(dtype));
    orri_room(&rooms, orri_cuda_embed_backward_scratch(batch, seq));
    return rooms.used;
}

static const void *sum_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    size_t bytes = (size_t)o->batch * (size_t)at.count * (size_t)e->width * orr_dtype_size(o->dtype);

    return orri_cuda_dropout_gradient(o, &d, e->width, at, dy, orri_room(rooms, bytes));
}

static void begin_gradient(const struct orr_operands *o, int group, int64_t rows)
{
    if (o->first_gradient)
        orri_cuda_zero(o->cuda, (size_t)rows * (size_t)((const struct orr_embedding *)o->config)->width * sizeof(float),
                       o->grad[group][0]);
}

static void token_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orr_part tokens,
                           struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;

    orri_cuda_embed_backward(o->cuda, o->dtype, o->batch, o->seq, at, e->width, o->ids, tokens.first, tokens.count, dy,
                             o->grad[ORRI_TOKEN_GROUP][0], orri_room(rooms, 0));
}

static void position_gradient(const struct orr_operands *o, struct orr_part at, const void *dy)
{
    orri_cuda_position_backward(o->cuda, o->dtype, o->batch, at, ((const struct orr_embedding *)o->config)->width, dy,
                                o->grad[ORRI_POSITION_GROUP][0]);
}

/* ---- the whole block ----------------------------------------------------------------------------------------------- */

static void forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orr_part at = orri_positions(o);

    orri_cuda_embed(o->cuda, o->dtype, o->batch, o->seq, at, e->width, o->ids, 0, e->vocab, o->param[ORRI_TOKEN_GROUP][0],
                    o->param[ORRI_POSITION_GROUP][0], o->y);
    if (d.p > 0)
        orri_cuda_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orri_rooms rooms = {o->cuda->scratch, 0};
    struct orr_part at = orri_positions(o);
    const void *dy = sum_gradient(o, at, o->dy, &rooms);

    begin_gradient(o, ORRI_TOKEN_GROUP, e->vocab);
    begin_gradient(o, ORRI_POSITION_GROUP, e->positions);
    token_gradient(o, at, dy, (struct orr_part){0, e->vocab}, &rooms);
    position_gradient(o, at, dy);
}

/* ---- in shards ------------------------------------------------------------------------------------------------------ */

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    for (int c = 0; c < o->chunks; c++)
        orri_cuda_embed(o->cuda, o->dtype, o->batch, o->seq, orr_chunk(o, c), e->width, o->ids, tokens.first, tokens.count,
                        o->param[ORRI_TOKEN_GROUP][0], NULL, o->partial[c]);
}

/* A sequence's positions of the chunk are one long row, to which those of the table are added as its bias. */
static void chunk_join(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orr_part at = orri_positions(o);
    int row = (int)at.count * e->width;

    orri_cuda_sum_shards(o, (size_t)o->batch * (size_t)row, o->partial, o->y);
    orri_cuda_bias_rows(o->cuda, o->dtype, o->batch, row, o->y,
                        orri_at(o, o->param[ORRI_POSITION_GROUP][0], at.first * e->width), o->y);
    if (d.p > 0)
        orri_cuda_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void shard_weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    begin_gradient(o, ORRI_TOKEN_GROUP, tokens.count);
    for (int c = 0; c < o->chunks; c++) {
        struct orri_rooms rooms = {o->cuda->scratch, 0};
        struct orr_part at = orr_chunk(o, c);
        token_gradient(o, at, sum_gradient(o, at, o->dys[c], &rooms), tokens, &rooms);
    }
}

static void chunk_backward(const struct orr_operands *o)
{
    struct orri_rooms rooms = {o->cuda->scratch, 0};
    struct orr_part at = orri_positions(o);

    begin_gradient(o, ORRI_POSITION_GROUP, ((const struct orr_embedding *)o->config)->positions);
    position_gradient(o, at, sum_gradient(o, at, o->dy, &rooms));
}

const struct orr_block_cuda orri_embedding_cuda = {
    .pass = {[ORR_FORWARD] = forward,
             [ORR_WEIGHTS] = weights,
             [ORR_SHARD_FORWARD] = shard_forward,
             [ORR_CHUNK_JOIN] = chunk_join,
             [ORR_SHARD_WEIGHTS] = shard_weights,
             [ORR_CHUNK_BACKWARD] = chunk_backward},
    .scratch_bytes = scratch_bytes,
};
