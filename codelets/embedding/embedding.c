/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/embedding/embedding.h>

#include "codelets/math/operands.h"
#include "core/core.h"

enum { TOKENS, POSITIONS };             /* groups */
enum { EMBEDDING_DROPOUT = 7 };         /* place  */

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_embedding *e = config;

    *spec = (struct orr_block_spec){
        .groups = e->positions ? 2 : 1,
        .views = {1, 1},
        .view = {{{"token.weight", 2, {e->vocab, e->width}, ORR_INITIAL_NORMAL, e->std, 0, 1, 1, 0}},
                 {{"position.weight", 2, {e->positions, e->width}, ORR_INITIAL_NORMAL, e->std, -1, 1, 1, 0}}},
        .width = e->width,
        .longest = e->positions,
        .source = e->source,
    };
}

static void specify_shared(const void *config, struct orr_block_spec *spec)
{
    specify(config, spec);
    spec->views[TOKENS] = 0;
}

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return (struct orr_saved_size){0, 0};
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_embedding *e = config;

    return pass == ORR_FORWARD || pass == ORR_WEIGHTS ? (double)batch * seq * e->width : 0;
}

static struct orri_dropout dropout_of(const struct orr_operands *o)
{
    return orri_block_dropout(o, ((const struct orr_embedding *)o->config)->dropout, EMBEDDING_DROPOUT);
}

/* dy through dropout, and what the sum over tokens takes. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_embedding *e = config;
    size_t rows = (size_t)shape->batch * (size_t)shape->seq;
    struct orri_rooms rooms = {0};

    if (e->dropout > 0)
        orri_room(&rooms, rows * (size_t)e->width * orr_dtype_size(shape->dtype));
    orri_room(&rooms, ORRI_SCRATCH(shape->cuda, embed_backward, shape->batch, shape->seq));
    return rooms.used;
}

static const void *sum_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    size_t bytes = (size_t)o->batch * (size_t)at.count * (size_t)e->width * orr_dtype_size(o->dtype);

    return orri_dropout_gradient(o, &d, e->width, at, dy, d.p > 0 ? orri_room(rooms, bytes) : NULL);
}

static void begin_gradient(const struct orr_operands *o, int group, int64_t rows)
{
    if (o->first_gradient)
        ORRI_KERNEL(o, zero, (size_t)rows * (size_t)((const struct orr_embedding *)o->config)->width * sizeof(float),
                       o->grad[group][0]);
}

static void token_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orr_part tokens,
                           struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;

    ORRI_KERNEL(o, embed_backward, o->dtype, o->batch, o->seq, at, e->width, o->ids, tokens.first, tokens.count, dy,
                             o->grad[TOKENS][0], orri_room(rooms, 0));
}

static void position_gradient(const struct orr_operands *o, struct orr_part at, const void *dy)
{
    const struct orr_embedding *e = o->config;

    if (!e->positions)
        return;
    begin_gradient(o, POSITIONS, e->positions);
    ORRI_KERNEL(o, position_backward, o->dtype, o->batch, at, e->width, dy, o->grad[POSITIONS][0]);
}

/* How many sequences begin at the same position: all, or each where it may. And the row of position t of sequence b. */
static int alike(const struct orr_operands *o)
{
    return o->past ? 1 : o->batch;
}

static const void *position_of(const struct orr_operands *o, int b, int64_t t)
{
    const struct orr_embedding *e = o->config;
    int64_t first = o->past ? o->past->first[b] : 0;

    if (!e->positions)
        return NULL;
    return orri_at(o, o->param[POSITIONS][0], (first + t) * e->width);
}

/* ---- the whole block ----------------------------------------------------------------------------------------------- */

static void forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orr_part at = orri_positions(o);

    for (int b = 0, n; b < o->batch; b += n) {
        n = alike(o);
        ORRI_KERNEL(o, embed, o->dtype, n, o->seq, at, e->width, o->ids + b * o->seq, 0, e->vocab, o->param[TOKENS][0],
                    position_of(o, b, 0), orri_at(o, o->y, (int64_t)b * o->seq * e->width));
    }
    if (d.p > 0)
        orri_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orr_part at = orri_positions(o);
    const void *dy = sum_gradient(o, at, o->dy, &rooms);

    begin_gradient(o, TOKENS, e->vocab);
    token_gradient(o, at, dy, (struct orr_part){0, e->vocab}, &rooms);
    position_gradient(o, at, dy);
}

/* ---- in shards, which have rows of the vocabulary ------------------------------------------------------------- */

static int most_shards(const void *config)
{
    return ((const struct orr_embedding *)config)->vocab;
}

static struct orr_saved_size shard_saved(const void *config, int batch, int seq, int shards, int t)
{
    (void)shards, (void)t;
    return saved(config, batch, seq);
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "tokens of the vocabulary",
    .saved = shard_saved,
    .chunk_saved = saved,
};

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    for (int c = 0; c < o->chunks; c++)
        ORRI_KERNEL(o, embed, o->dtype, o->batch, o->seq, orr_chunk(o, c), e->width, o->ids, tokens.first, tokens.count,
                        o->param[TOKENS][0], NULL, o->partial[c]);
}

/* A sequence's positions of the chunk are one long row, to which those of the table are added as its bias. */
static void chunk_join(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orr_part at = orri_positions(o);
    int row = (int)at.count * e->width;

    orri_sum_shards(o, (size_t)o->batch * (size_t)row, o->partial, o->y);
    for (int b = 0, n; b < o->batch; b += n) {
        void *y = orri_at(o, o->y, (int64_t)b * row);
        n = alike(o);
        if (e->positions)
            ORRI_KERNEL(o, bias_rows, o->dtype, n, row, y, position_of(o, b, at.first), y);
    }
    if (d.p > 0)
        orri_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void shard_weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    begin_gradient(o, TOKENS, tokens.count);
    for (int c = 0; c < o->chunks; c++) {
        struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
        struct orr_part at = orr_chunk(o, c);
        token_gradient(o, at, sum_gradient(o, at, o->dys[c], &rooms), tokens, &rooms);
    }
}

static void chunk_backward(const struct orr_operands *o)
{
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orr_part at = orri_positions(o);

    position_gradient(o, at, sum_gradient(o, at, o->dy, &rooms));
}

#define EMBEDDING_PASSES \
    { \
        [ORR_FORWARD] = forward, \
        [ORR_WEIGHTS] = weights, \
        [ORR_SHARD_FORWARD] = shard_forward, \
        [ORR_CHUNK_JOIN] = chunk_join, \
        [ORR_SHARD_WEIGHTS] = shard_weights, \
        [ORR_CHUNK_BACKWARD] = chunk_backward \
    }

/* A class whose table of tokens is its own, or another block's. */
#define EMBEDDING(title, specification) \
    { \
        .name = title, .config_size = sizeof(struct orr_embedding), .specify = specification, .saved = saved, \
        .scratch_bytes = scratch_bytes, .flops = flops, .sharding = &sharding, .cpu = EMBEDDING_PASSES, .any_dtype = true, \
        .cuda = ORRI_CUDA(EMBEDDING_PASSES), \
        .operands = {[ORR_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_OUTPUT, \
                     [ORR_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS, \
                     [ORR_SHARD_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_PARTIAL, \
                     [ORR_CHUNK_JOIN] = ORR_PARAMETERS | ORR_PARTIAL | ORR_OUTPUT, \
                     [ORR_SHARD_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS, \
                     [ORR_CHUNK_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_GRADIENTS} \
    }

static const struct orr_block_class embedding_class = EMBEDDING("embedding", specify);
static const struct orr_block_class shared_class = EMBEDDING("shared_embedding", specify_shared);

static int check(const struct orr_embedding *e)
{
    if (e->vocab < 1 || e->positions < 0 || e->width < 1)
        return orri_fail(ORR_EINVAL, "embedding", "%d tokens, %d positions and a width of %d are none", e->vocab, e->positions,
                         e->width);
    return orri_check_dropout("embedding", e->dropout);
}

int orr_embedding(struct orr_model *model, const struct orr_embedding *config)
{
    ORR_TRY(check(config));
    return orr_block_append(model, &embedding_class, 0, config) ? ORR_OK : orr_error_code();
}

int orr_shared_embedding(struct orr_model *model, const struct orr_embedding *config, struct orr_block *of)
{
    ORR_TRY(check(config));
    struct orr_block *block = orr_block_append_inputs(model, &shared_class, 0, config, 0, NULL);
    return block ? orr_block_share(block, TOKENS, of, TOKENS) : orr_error_code();
}
