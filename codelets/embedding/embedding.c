/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/embedding/embedding.h>

#include "codelets/math/operands.h"
#include "core/core.h"

enum { TOKENS, POSITIONS };             /* groups */
enum { POSITION, TYPE };                /* views of the second */
enum { EMBEDDING_DROPOUT = 7 };         /* place  */

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_embedding *e = config;

    *spec = (struct orr_block_spec){
        .groups = e->positions ? 2 : 1,
        .views = {1, e->types ? 2 : 1},
        .view = {{{"token.weight", 2, {e->vocab, e->width}, ORR_INITIAL_NORMAL, e->std, 0, 1, 1, 0}},
                 {{"position.weight", 2, {e->positions, e->width}, ORR_INITIAL_NORMAL, e->std, -1, 1, 1, 0},
                  {"type.weight", 2, {e->types, e->width}, ORR_INITIAL_NORMAL, e->std, -1, 1, 1, 0}}},
        .width = e->width,
        .longest = e->positions ? e->positions - e->first_position : 0,
        .types = e->types > 0,
    };
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

/* dy through dropout, or rows to be added; and what the sum over tokens takes. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_embedding *e = config;
    size_t rows = (size_t)shape->batch * (size_t)shape->seq;
    struct orri_rooms rooms = {0};

    if (e->dropout > 0 || e->positions)
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

static void begin_gradient(const struct orr_operands *o, int group, int view, int64_t rows)
{
    if (o->first_gradient)
        ORRI_KERNEL(o, zero, (size_t)rows * (size_t)((const struct orr_embedding *)o->config)->width * sizeof(float),
                       o->grad[group][view]);
}

static void token_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orr_part tokens,
                           struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;

    ORRI_KERNEL(o, embed_backward, o->dtype, o->batch, o->seq, at, e->width, o->ids, tokens.first, tokens.count, dy,
                             o->grad[TOKENS][0], orri_room(rooms, 0));
}

/* Of the table of positions, or of types, the rows that the field names. */
static void row_gradient(const struct orr_operands *o, struct orr_part at, const int32_t *row, int view, int first, int count,
                         const void *dy, struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;

    begin_gradient(o, POSITIONS, view, count);
    ORRI_KERNEL(o, embed_backward, o->dtype, o->batch, o->seq, at, e->width, row, first, count, dy, o->grad[POSITIONS][view],
                orri_room(rooms, 0));
}

static void position_gradient(const struct orr_operands *o, struct orr_part at, const void *dy, struct orri_rooms *rooms)
{
    const struct orr_embedding *e = o->config;

    if (!e->positions)
        return;
    if (o->places) {
        row_gradient(o, at, o->places, POSITION, -e->first_position, e->positions, dy, rooms);
    } else {
        begin_gradient(o, POSITIONS, POSITION, e->positions);
        ORRI_KERNEL(o, position_backward, o->dtype, o->batch, at, e->width, dy,
                    o->grad[POSITIONS][POSITION] + (int64_t)e->first_position * e->width);
    }
    if (e->types)
        row_gradient(o, at, o->types, TYPE, 0, e->types, dy, rooms);
}

/* y += rows of the table of positions, or of types, that the field names. */
static void add_rows(const struct orr_operands *o, struct orr_part at, const int32_t *row, int view, int first, int count, void *y)
{
    const struct orr_embedding *e = o->config;
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    size_t values = (size_t)o->batch * (size_t)at.count * (size_t)e->width;
    void *room = orri_room(&rooms, values * orr_dtype_size(o->dtype));

    ORRI_KERNEL(o, embed, o->dtype, o->batch, o->seq, at, e->width, row, first, count, o->param[POSITIONS][view], NULL, room);
    ORRI_KERNEL(o, add, o->dtype, values, room, y);
}

/* What rows of fields give, of which the positions are one where rows hold several sequences. */
static void add_fields(const struct orr_operands *o, struct orr_part at, void *y)
{
    const struct orr_embedding *e = o->config;

    if (e->positions && o->places)
        add_rows(o, at, o->places, POSITION, -e->first_position, e->positions, y);
    if (e->types)
        add_rows(o, at, o->types, TYPE, 0, e->types, y);
}

/* How many sequences begin at the same position: all, or each where it may. And the row of position t of sequence b. */
static int alike(const struct orr_operands *o)
{
    return o->past ? 1 : o->batch;
}

static const void *position_of(const struct orr_operands *o, int b, int64_t t)
{
    const struct orr_embedding *e = o->config;
    int64_t first = e->first_position + (o->past ? o->past->first[b] : 0);

    if (!e->positions || o->places)
        return NULL;
    return orri_at(o, o->param[POSITIONS][POSITION], (first + t) * e->width);
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
    add_fields(o, at, o->y);
    if (d.p > 0)
        orri_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orr_part at = orri_positions(o);
    const void *dy = sum_gradient(o, at, o->dy, &rooms);

    begin_gradient(o, TOKENS, 0, e->vocab);
    token_gradient(o, at, dy, (struct orr_part){0, e->vocab}, &rooms);
    position_gradient(o, at, dy, &rooms);
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
        if (e->positions && !o->places)
            ORRI_KERNEL(o, bias_rows, o->dtype, n, row, y, position_of(o, b, at.first), y);
    }
    add_fields(o, at, o->y);
    if (d.p > 0)
        orri_dropout_tile(o, &d, e->width, at, o->y, NULL, o->y);
}

static void shard_weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    begin_gradient(o, TOKENS, 0, tokens.count);
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

    position_gradient(o, at, sum_gradient(o, at, o->dy, &rooms), &rooms);
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

#define FIELDS (ORR_PLACES | ORR_TYPES)

static const struct orr_block_class embedding_class = {
    .name = "embedding",
    .config_size = sizeof(struct orr_embedding),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = EMBEDDING_PASSES,
    .any_dtype = true,
    .cuda = ORRI_CUDA(EMBEDDING_PASSES),
    .operands = {[ORR_FORWARD] = ORR_IDS | FIELDS | ORR_PARAMETERS | ORR_OUTPUT,
                 [ORR_WEIGHTS] = ORR_IDS | FIELDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS,
                 [ORR_SHARD_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_PARTIAL,
                 [ORR_CHUNK_JOIN] = FIELDS | ORR_PARAMETERS | ORR_PARTIAL | ORR_OUTPUT,
                 [ORR_SHARD_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS,
                 [ORR_CHUNK_BACKWARD] = FIELDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS},
};

int orr_embedding(struct orr_model *model, const struct orr_embedding *config)
{
    if (config->vocab < 1 || config->positions < 0 || config->width < 1)
        return orri_fail(ORR_EINVAL, "embedding", "%d tokens, %d positions and a width of %d are none",
                         config->vocab, config->positions, config->width);
    if (config->types < 0 || config->first_position < 0 || (config->types && !config->positions) ||
        (config->positions && config->first_position >= config->positions))
        return orri_fail(ORR_EINVAL, "embedding", "%d types, and %d positions from row %d on, are none", config->types,
                         config->positions, config->first_position);
    ORR_TRY(orri_check_dropout("embedding", config->dropout));
    return orr_block_append(model, &embedding_class, 0, config) ? ORR_OK : orr_error_code();
}
