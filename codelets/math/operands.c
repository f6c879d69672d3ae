/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/operands.h"

#include <string.h>

#include "core/core.h"

static size_t count_of(const struct orr_operands *o, int width, struct orr_part at)
{
    return (size_t)o->batch * (size_t)at.count * (size_t)width;
}

struct orr_part orri_positions(const struct orr_operands *o)
{
    return orr_chunk(o, o->chunk);
}

struct orr_part orri_all_positions(const struct orr_operands *o)
{
    return (struct orr_part){0, o->seq};
}

/* ---- dropout --------------------------------------------------------------------------------------- */

struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place)
{
    return (struct orri_dropout){o->training ? p : 0, orr_dropout_stream(o, place)};
}

int orri_check_dropout(const char *block, float p)
{
    return p >= 0 && p < 1 ? ORR_OK : orri_fail(ORR_EINVAL, block, "a dropout of %g is not in 0 <= p < 1", p);
}

void orri_dropout_tile(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at,
                       float *x)
{
    size_t count = (size_t)at.count * (size_t)width;

    for (int b = 0; b < o->batch; b++) {
        uint64_t position = (o->first_sample + (uint64_t)b) * (uint64_t)o->seq + (uint64_t)at.first;
        orri_dropout_apply(d, position * (uint64_t)width, count, x + (size_t)b * count);
    }
}

const float *orri_dropout_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width,
                                   struct orr_part at, const float *dy, float *room)
{
    if (d->p == 0)
        return dy;
    if (room != dy)
        memcpy(room, dy, count_of(o, width, at) * sizeof(*room));
    orri_dropout_tile(o, d, width, at, room);
    return room;
}

void orri_round_as_saved(const struct orr_operands *o, size_t count, float *values)
{
    uint16_t rounded[1024];

    for (size_t i = 0; o->saved_dtype != ORR_F32 && i < count; i += ORRI_COUNT(rounded)) {
        size_t n = count - i < ORRI_COUNT(rounded) ? count - i : ORRI_COUNT(rounded);
        orri_round(o->saved_dtype, n, values + i, rounded);
        orri_widen(o->saved_dtype, n, rounded, values + i);
    }
}

/* ---- chunks and shards ------------------------------------------------------------------------------- */

/* The floats of sequence b that chunk c has: where they begin in [B,T,width], and in the chunk. */
struct stretch {
    size_t all, chunk, count;
};

static struct stretch stretch(const struct orr_operands *o, int width, int c, int b)
{
    struct orr_part at = orr_chunk(o, c);
    size_t w = (size_t)width, count = (size_t)at.count * w;

    return (struct stretch){((size_t)b * (size_t)o->seq + (size_t)at.first) * w, (size_t)b * count, count};
}

const float *orri_gather(const struct orr_operands *o, int width, const float *const chunk[], float *room)
{
    if (o->chunks == 1)
        return chunk[0];
    for (int c = 0; c < o->chunks; c++)
        for (int b = 0; b < o->batch; b++) {
            struct stretch s = stretch(o, width, c, b);
            memcpy(room + s.all, chunk[c] + s.chunk, s.count * sizeof(*room));
        }
    return room;
}

float *orri_scatter_begin(const struct orr_operands *o, float *const chunk[], float *room)
{
    return o->chunks == 1 ? chunk[0] : room;
}

void orri_scatter_end(const struct orr_operands *o, int width, const float *all, float *const chunk[])
{
    if (all == chunk[0])
        return;
    for (int c = 0; c < o->chunks; c++)
        for (int b = 0; b < o->batch; b++) {
            struct stretch s = stretch(o, width, c, b);
            memcpy(chunk[c] + s.chunk, all + s.all, s.count * sizeof(*all));
        }
}

void orri_sum_shards(const struct orr_operands *o, size_t count, float *const part[], float *sum)
{
    memcpy(sum, part[0], count * sizeof(*sum));
    for (int t = 1; t < o->shards; t++)
        orri_add(count, part[t], sum);
}

/* ---- the norm of a chunk ------------------------------------------------------------------------------ */

int64_t orri_norm_saved_floats(int batch, int positions)
{
    return 2 * (int64_t)batch * positions;
}

size_t orri_norm_scratch_floats(int width, int rows)
{
    return (size_t)rows * (size_t)width + 2 * (size_t)(width > rows ? width : rows);
}

void orri_norm_chunk_forward(const struct orr_operands *o, int width, float eps)
{
    int rows = o->batch * (int)orri_positions(o).count;
    float *mean = o->saved ? o->saved : orri_scratch(orri_norm_scratch_floats(width, rows) * sizeof(*mean));

    orri_layernorm(rows, width, o->x[0], o->param[0][ORRI_NORM_WEIGHT], o->param[0][ORRI_NORM_BIAS], eps, o->branch[0],
                   mean, mean + rows);
}

void orri_norm_chunk_backward(const struct orr_operands *o, int width, const float *dy, float *room)
{
    struct orr_part at = orri_positions(o);
    size_t count = count_of(o, width, at);
    float *dnorm = room, *dgamma = dnorm + count, *dbeta = dgamma + width;
    const float *mean = o->saved, *rstd = mean + o->batch * at.count;

    orri_sum_shards(o, count, o->dpartial, dnorm);
    orri_norm_input_gradient(o, width, dy, dnorm, mean, rstd, dgamma, dbeta);
    orri_norm_weights(o, width, dgamma, dbeta);
}

void orri_norm_input_gradient(const struct orr_operands *o, int width, const float *dy, float *dnorm, const float *mean,
                              const float *rstd, float *dgamma, float *dbeta)
{
    struct orr_part at = orri_positions(o);
    bool add = o->add_input_gradient[0], twice = add && dy;
    const float *before = dy ? dy : add ? o->dx[0] : NULL;

    orri_layernorm_backward(o->batch * (int)at.count, width, dnorm, o->x[0], o->param[0][ORRI_NORM_WEIGHT], mean, rstd,
                            before, twice ? dnorm : o->dx[0], dgamma, dbeta);
    if (twice)
        orri_add(count_of(o, width, at), dnorm, o->dx[0]);
}

void orri_norm_weights(const struct orr_operands *o, int width, const float *dgamma, const float *dbeta)
{
    float beta = o->first_gradient ? 0 : 1;

    orri_bias_backward(1, width, dgamma, width, beta, o->grad[0][ORRI_NORM_WEIGHT]);
    orri_bias_backward(1, width, dbeta, width, beta, o->grad[0][ORRI_NORM_BIAS]);
}
