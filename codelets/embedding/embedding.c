/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/embedding/geometry.h"

#include <string.h>

#include "core/core.h"

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_embedding *e = config;

    *spec = (struct orr_block_spec){
        .groups = 2,
        .views = {1, 1},
        .view = {{{"token.weight", 2, {e->vocab, e->width}, ORR_INITIAL_NORMAL, e->std, 0, 1, 1, 0}},
                 {{"position.weight", 2, {e->positions, e->width}, ORR_INITIAL_NORMAL, e->std, -1, 1, 1, 0}}},
        .width = e->width,
        .longest = e->positions,
    };
}

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return (struct orr_saved_size){0, 0};
}

static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct orr_embedding *e = config;

    return e->dropout > 0 ? (size_t)batch * (size_t)seq * (size_t)e->width * sizeof(float) : 0;
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_embedding *e = config;

    return pass == ORR_FORWARD || pass == ORR_WEIGHTS ? (double)batch * seq * e->width : 0;
}

/* ---- the whole block --------------------------------------------------------------------------------------- */

static void forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = orri_block_dropout(o, e->dropout, ORRI_EMBEDDING_DROPOUT);
    size_t width = (size_t)e->width;

    for (int r = 0; r < o->batch * o->seq; r++) {
        const float *token = o->param[ORRI_TOKEN_GROUP][0] + (size_t)o->ids[r] * width;
        const float *position = o->param[ORRI_POSITION_GROUP][0] + (size_t)(r % o->seq) * width;
        float *y = o->y + (size_t)r * width;
        for (size_t c = 0; c < width; c++)
            y[c] = token[c] + position[c];
    }
    orri_dropout_tile(o, &d, e->width, orri_positions(o), o->y);
}

/* Adds the rows of dy, positions `at`, to the gradients of tokens first .. first + count - 1. */
static void token_gradient(const struct orr_operands *o, struct orr_part at, const float *dy, struct orr_part tokens)
{
    size_t width = (size_t)((const struct orr_embedding *)o->config)->width;

    for (int b = 0; b < o->batch; b++)
        for (int64_t t = at.first; t < at.first + at.count; t++, dy += width) {
            int64_t row = o->ids[b * o->seq + t] - tokens.first;
            if (row >= 0 && row < tokens.count)
                orri_add(width, dy, o->grad[ORRI_TOKEN_GROUP][0] + (size_t)row * width);
        }
}

static void position_gradient(const struct orr_operands *o, struct orr_part at, const float *dy)
{
    size_t width = (size_t)((const struct orr_embedding *)o->config)->width;

    for (int b = 0; b < o->batch; b++)
        for (int64_t t = at.first; t < at.first + at.count; t++, dy += width)
            orri_add(width, dy, o->grad[ORRI_POSITION_GROUP][0] + (size_t)t * width);
}

static void begin_gradient(const struct orr_operands *o, int group, int64_t rows)
{
    if (o->first_gradient)
        memset(o->grad[group][0], 0,
               (size_t)rows * (size_t)((const struct orr_embedding *)o->config)->width * sizeof(float));
}

/* dy of the positions `at`, through dropout. */
static const float *sum_gradient(const struct orr_operands *o, struct orr_part at, const float *dy)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = orri_block_dropout(o, e->dropout, ORRI_EMBEDDING_DROPOUT);

    return orri_dropout_gradient(o, &d, e->width, at, dy, orri_scratch(scratch_bytes(e, o->batch, o->seq)));
}

static void weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part at = orri_positions(o);
    const float *dy = sum_gradient(o, at, o->dy);

    begin_gradient(o, ORRI_TOKEN_GROUP, e->vocab);
    begin_gradient(o, ORRI_POSITION_GROUP, e->positions);
    token_gradient(o, at, dy, (struct orr_part){0, e->vocab});
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

static size_t shard_scratch_bytes(const void *config, int batch, int seq, int shards)
{
    (void)shards;
    return scratch_bytes(config, batch, seq);
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "tokens of the vocabulary",
    .saved = shard_saved,
    .chunk_saved = saved,
    .scratch_bytes = shard_scratch_bytes,
};

/* A token's row from the shard that has it, zeros from the others. */
static void shard_forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);
    size_t width = (size_t)e->width;

    for (int c = 0; c < o->chunks; c++) {
        struct orr_part at = orr_chunk(o, c);
        float *y = o->partial[c];
        for (int b = 0; b < o->batch; b++)
            for (int64_t t = at.first; t < at.first + at.count; t++, y += width) {
                int64_t row = o->ids[b * o->seq + t] - tokens.first;
                if (row >= 0 && row < tokens.count)
                    memcpy(y, o->param[ORRI_TOKEN_GROUP][0] + (size_t)row * width, width * sizeof(*y));
                else
                    memset(y, 0, width * sizeof(*y));
            }
    }
}

static void chunk_join(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = orri_block_dropout(o, e->dropout, ORRI_EMBEDDING_DROPOUT);
    struct orr_part at = orri_positions(o);
    size_t count = (size_t)at.count * (size_t)e->width;

    orri_sum_shards(o, (size_t)o->batch * count, o->partial, o->y);
    for (int b = 0; b < o->batch; b++)
        orri_add(count, o->param[ORRI_POSITION_GROUP][0] + at.first * e->width, o->y + (size_t)b * count);
    orri_dropout_tile(o, &d, e->width, at, o->y);
}

static void shard_weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    struct orr_part tokens = orr_split(e->vocab, 1, o->shards, o->shard);

    begin_gradient(o, ORRI_TOKEN_GROUP, tokens.count);
    for (int c = 0; c < o->chunks; c++) {
        struct orr_part at = orr_chunk(o, c);
        token_gradient(o, at, sum_gradient(o, at, o->dys[c]), tokens);
    }
}

static void chunk_backward(const struct orr_operands *o)
{
    struct orr_part at = orri_positions(o);

    begin_gradient(o, ORRI_POSITION_GROUP, ((const struct orr_embedding *)o->config)->positions);
    position_gradient(o, at, sum_gradient(o, at, o->dy));
}

static const struct orr_block_class embedding_class = {
    .name = "embedding",
    .config_size = sizeof(struct orr_embedding),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cuda = ORRI_CUDA(orri_embedding_cuda),
    .sharding = &sharding,
    .cpu = {[ORR_FORWARD] = forward,
            [ORR_WEIGHTS] = weights,
            [ORR_SHARD_FORWARD] = shard_forward,
            [ORR_CHUNK_JOIN] = chunk_join,
            [ORR_SHARD_WEIGHTS] = shard_weights,
            [ORR_CHUNK_BACKWARD] = chunk_backward},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_OUTPUT,
                 [ORR_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS,
                 [ORR_SHARD_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_PARTIAL,
                 [ORR_CHUNK_JOIN] = ORR_PARAMETERS | ORR_PARTIAL | ORR_OUTPUT,
                 [ORR_SHARD_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS,
                 [ORR_CHUNK_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_GRADIENTS},
};

int orr_embedding(struct orr_model *model, const struct orr_embedding *config)
{
    if (config->vocab < 1 || config->positions < 1 || config->width < 1)
        return orri_fail(ORR_EINVAL, "embedding", "%d tokens, %d positions and a width of %d are not all positive",
                         config->vocab, config->positions, config->width);
    ORR_TRY(orri_check_dropout("embedding", config->dropout));
    return orr_block_append(model, &embedding_class, 0, config) ? ORR_OK : orr_error_code();
}
