/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/operands.h"

#include "core/core.h"

static size_t size_of(const struct orr_operands *o)
{
    return orr_dtype_size(o->dtype);
}

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

/* ---- rooms --------------------------------------------------------------------------------------------------- */

void *orri_room(struct orri_rooms *rooms, size_t bytes)
{
    void *room = rooms->base ? rooms->base + rooms->used : NULL;

    rooms->used += (bytes + 255) & ~(size_t)255;
    return room;
}

struct orri_rooms orri_rooms_of(const struct orr_operands *o, size_t (*scratch_bytes)(const void *, const struct orr_shape *))
{
    const struct orr_shape shape = {o->dtype, o->batch, o->seq, o->shards, false};

    return (struct orri_rooms){o->cuda ? o->cuda->scratch : orri_scratch(scratch_bytes(o->config, &shape)), 0};
}

void *orri_at(const struct orr_operands *o, const void *array, int64_t index)
{
    return (char *)array + index * (int64_t)size_of(o);
}

/* ---- dropout ----------------------------------------------------------------------------------------------- */

struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place)
{
    return (struct orri_dropout){o->training ? p : 0, orr_dropout_stream(o, place)};
}

int orri_check_dropout(const char *block, float p)
{
    return p >= 0 && p < 1 ? ORR_OK : orri_fail(ORR_EINVAL, block, "a dropout of %g is not in 0 <= p < 1", p);
}

void orri_dropout_tile(const struct orr_operands *o, const struct orri_dropout *d, int width, struct orr_part at,
                       const void *x, const void *residual, void *y)
{
    uint64_t sequence = (uint64_t)o->seq * (uint64_t)width;
    uint64_t first = o->first_sample * sequence + (uint64_t)at.first * (uint64_t)width;

    ORRI_KERNEL(o, dropout, o->dtype, d, o->batch, (size_t)at.count * (size_t)width, first, sequence, x, residual, y);
}

const void *orri_dropout_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width,
                                  struct orr_part at, const void *dy, void *room)
{
    if (d->p == 0)
        return dy;
    orri_dropout_tile(o, d, width, at, dy, NULL, room);
    return room;
}

/* ---- chunks and shards --------------------------------------------------------------------------------------- */

/* Of chunk c the rows of one sequence follow each other: the sequences are copied as so many long rows. */
static void copy_chunk(const struct orr_operands *o, int width, size_t size, int c, const void *from, void *to, bool gather)
{
    struct orr_part at = orr_chunk(o, c);
    size_t row = (size_t)width * size, part = (size_t)at.count * row, all = (size_t)o->seq * row;
    size_t offset = (size_t)at.first * row;

    if (gather)
        ORRI_KERNEL(o, copy_rows, (size_t)o->batch, part, from, part, (char *)to + offset, all);
    else
        ORRI_KERNEL(o, copy_rows, (size_t)o->batch, part, (const char *)from + offset, all, to, part);
}

const void *orri_gather(const struct orr_operands *o, int width, size_t size, const float *const chunk[], void *room)
{
    if (o->chunks == 1)
        return chunk[0];
    for (int c = 0; c < o->chunks; c++)
        copy_chunk(o, width, size, c, chunk[c], room, true);
    return room;
}

void *orri_scatter_begin(const struct orr_operands *o, float *const chunk[], void *room)
{
    return o->chunks == 1 ? chunk[0] : room;
}

void orri_scatter_end(const struct orr_operands *o, int width, size_t size, const void *all, float *const chunk[])
{
    for (int c = 0; all != chunk[0] && c < o->chunks; c++)
        copy_chunk(o, width, size, c, all, chunk[c], false);
}

void orri_sum_shards(const struct orr_operands *o, size_t count, float *const part[], void *sum)
{
    const void *parts[ORR_MAX_SHARDS];

    for (int t = 0; t < o->shards; t++)
        parts[t] = part[t];
    ORRI_KERNEL(o, sum, o->dtype, count, o->shards, parts, sum);
}

/* ---- the norm ---------------------------------------------------------------------------------------------------- */

static int rows_of(const struct orr_operands *o)
{
    return o->batch * (int)orri_positions(o).count;
}

size_t orri_norm_scratch(const struct orr_shape *shape, int width, int rows)
{
    struct orri_rooms rooms = {0};

    orri_room(&rooms, (size_t)rows * (size_t)width * orr_dtype_size(shape->dtype));
    orri_room(&rooms, 2 * (size_t)(width > rows ? width : rows) * sizeof(float));
    orri_room(&rooms, ORRI_SCRATCH(shape->cuda, layernorm_backward, rows, width));
    return rooms.used;
}

static const void *bias_of(const struct orr_operands *o, const struct orri_norm *norm)
{
    return norm->kind == ORR_LAYERNORM ? o->param[0][ORRI_NORM_BIAS] : NULL;
}

void orri_norm_rows(const struct orr_operands *o, const struct orri_norm *norm, int rows, int width, const void *x, void *y,
                    float *mean, float *rstd)
{
    if (norm->kind == ORR_NO_NORM) {
        ORRI_KERNEL(o, copy, (size_t)rows * (size_t)width * size_of(o), x, y);
        return;
    }
    ORRI_KERNEL(o, layernorm, o->dtype, rows, width, x, o->param[0][ORRI_NORM_WEIGHT], bias_of(o, norm), norm->eps, y,
                norm->kind == ORR_LAYERNORM ? mean : NULL, rstd);
}

void orri_norm(const struct orr_operands *o, const struct orri_norm *norm, int width, void *y, float *mean, float *rstd)
{
    orri_norm_rows(o, norm, rows_of(o), width, o->x[0], y, mean, rstd);
}

void orri_norm_again(const struct orr_operands *o, const struct orri_norm *norm, int width, const float *mean, const float *rstd,
                     void *y)
{
    if (norm->kind == ORR_NO_NORM) {
        ORRI_KERNEL(o, copy, count_of(o, width, orri_positions(o)) * size_of(o), o->x[0], y);
        return;
    }
    ORRI_KERNEL(o, layernorm_again, o->dtype, rows_of(o), width, o->x[0], o->param[0][ORRI_NORM_WEIGHT], bias_of(o, norm),
                norm->kind == ORR_LAYERNORM ? mean : NULL, rstd, y);
}

int64_t orri_norm_saved_floats(int batch, int positions)
{
    return 2 * (int64_t)batch * positions;
}

void orri_norm_chunk_forward(const struct orr_operands *o, const struct orri_norm *norm, int width, struct orri_rooms *rooms)
{
    int rows = rows_of(o);
    float *mean = o->saved ? o->saved : orri_room(rooms, 2 * (size_t)rows * sizeof(*mean));

    orri_norm(o, norm, width, o->branch[0], mean, mean + rows);
}

void orri_norm_chunk_backward(const struct orr_operands *o, const struct orri_norm *norm, const struct orri_dropout *dropout,
                              int width, const void *inner, const void *dy, struct orri_rooms *rooms)
{
    struct orr_part at = orri_positions(o);
    size_t count = count_of(o, width, at);
    void *dnorm = orri_room(rooms, count * size_of(o));
    float *dgamma = orri_room(rooms, 2 * (size_t)width * sizeof(*dgamma)), *dbeta = dgamma + width;
    const float *mean = o->saved, *rstd = mean + rows_of(o);

    orri_sum_shards(o, count, o->dpartial, dnorm);
    if (inner)
        ORRI_KERNEL(o, add, o->dtype, count, inner, dnorm);
    if (dropout && dropout->p > 0)
        orri_dropout_tile(o, dropout, width, at, dnorm, NULL, dnorm);
    orri_norm_input_gradient(o, norm, width, dy, dnorm, mean, rstd, dgamma, dbeta, rooms);
    orri_norm_weights(o, norm, width, dgamma, dbeta);
}

/* Without a norm. */
static void pass_gradient(const struct orr_operands *o, int width, const void *dy, void *dnorm)
{
    size_t count = count_of(o, width, orri_positions(o));

    if (dy)
        ORRI_KERNEL(o, add, o->dtype, count, dy, dnorm);
    if (o->add_input_gradient[0])
        ORRI_KERNEL(o, add, o->dtype, count, dnorm, o->dx[0]);
    else
        ORRI_KERNEL(o, copy, count * size_of(o), dnorm, o->dx[0]);
}

void orri_norm_input_gradient(const struct orr_operands *o, const struct orri_norm *norm, int width, const void *dy, void *dnorm,
                              const float *mean, const float *rstd, float *dgamma, float *dbeta, struct orri_rooms *rooms)
{
    bool add = o->add_input_gradient[0], twice = add && dy;
    const void *before = dy ? dy : add ? o->dx[0] : NULL;
    void *scratch = orri_room(rooms, ORRI_SCRATCH(o->cuda, layernorm_backward, rows_of(o), width));

    if (norm->kind == ORR_NO_NORM) {
        pass_gradient(o, width, dy, dnorm);
        return;
    }
    ORRI_KERNEL(o, layernorm_backward, o->dtype, rows_of(o), width, dnorm, o->x[0], o->param[0][ORRI_NORM_WEIGHT],
                norm->kind == ORR_LAYERNORM ? mean : NULL, rstd, before, twice ? dnorm : o->dx[0], dgamma,
                norm->kind == ORR_LAYERNORM ? dbeta : NULL, scratch);
    if (twice)
        ORRI_KERNEL(o, add, o->dtype, count_of(o, width, orri_positions(o)), dnorm, o->dx[0]);
}

static void add_gradient(const struct orr_operands *o, int width, const float *from, float *to)
{
    if (o->first_gradient)
        ORRI_KERNEL(o, copy, (size_t)width * sizeof(*to), from, to);
    else
        ORRI_KERNEL(o, add, ORR_F32, (size_t)width, from, to);
}

void orri_norm_weights(const struct orr_operands *o, const struct orri_norm *norm, int width, const float *dgamma, const float *dbeta)
{
    if (norm->kind != ORR_NO_NORM)
        add_gradient(o, width, dgamma, o->grad[0][ORRI_NORM_WEIGHT]);
    if (norm->kind == ORR_LAYERNORM)
        add_gradient(o, width, dbeta, o->grad[0][ORRI_NORM_BIAS]);
}
