/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels for elements of any dtype on a CPU, of those in fp32: of others a strip is widened at a time, which stays in the caches. */
#include "codelets/math/elements.h"
#include "codelets/math/math_cpu.h"

#include <string.h>

#include "core/core.h"

enum { STRIP = 8192, ROOMS = 4 };       /* floats of a room, where a row is not longer; rooms that a kernel takes */

/* Rows of a strip, at least one; and rooms, each for a strip of them. */
static int strip_rows(int width)
{
    return width < STRIP ? STRIP / width : 1;
}

struct rooms {
    float *room[ROOMS];
};

static struct rooms rooms_for(int width)
{
    size_t size = width < STRIP ? STRIP : (size_t)width;
    float *base = orri_kernel_scratch(ROOMS * size * sizeof(*base));

    return (struct rooms){{base, base + size, base + 2 * size, base + 3 * size}};
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* ---- LayerNorm ------------------------------------------------------------------------------------------------------ */

/* gamma and beta lie beside each other in a room. */
struct affine {
    const float *gamma, *beta;
};

static struct affine affine_of(enum orr_dtype dtype, int width, const void *gamma, const void *beta, float *gamma_room,
                               float *beta_room)
{
    return (struct affine){orri_wide(dtype, (size_t)width, gamma, gamma_room), orri_wide(dtype, (size_t)width, beta, beta_room)};
}

void orri_cpu_layernorm(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta, float eps,
                        void *y, float *mean, float *rstd)
{
    struct rooms w = rooms_for(width);
    struct affine a = affine_of(dtype, width, gamma, beta, w.room[0], w.room[1]);

    for (int r = 0, n; r < rows; r += n) {
        n = least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, orri_element(dtype, y, k), w.room[3]);
        orri_layernorm(n, width, orri_wide(dtype, count, orri_element(dtype, x, k), w.room[2]), a.gamma, a.beta, eps, out, mean + r, rstd + r);
        orri_end(dtype, count, out, orri_element(dtype, y, k));
    }
}

void orri_cpu_layernorm_again(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta,
                              const float *mean, const float *rstd, void *y)
{
    struct rooms w = rooms_for(width);
    struct affine a = affine_of(dtype, width, gamma, beta, w.room[0], w.room[1]);

    for (int r = 0, n; r < rows; r += n) {
        n = least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, orri_element(dtype, y, k), w.room[3]);
        orri_layernorm_again(n, width, orri_wide(dtype, count, orri_element(dtype, x, k), w.room[2]), a.gamma, a.beta, mean + r, rstd + r, out);
        orri_end(dtype, count, out, orri_element(dtype, y, k));
    }
}

void orri_cpu_layernorm_backward(enum orr_dtype dtype, int rows, int width, const void *dy, const void *x, const void *gamma,
                                 const float *mean, const float *rstd, const void *residual, void *dx, float *dgamma,
                                 float *dbeta, void *scratch)
{
    struct rooms w = rooms_for(width);
    const float *g = orri_wide(dtype, (size_t)width, gamma, w.room[0]);

    (void)scratch;
    memset(dgamma, 0, (size_t)width * sizeof(*dgamma));
    memset(dbeta, 0, (size_t)width * sizeof(*dbeta));
    for (int r = 0, n; r < rows; r += n) {
        n = least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, orri_element(dtype, dx, k), w.room[3]);
        const float *before = residual ? orri_wide(dtype, count, orri_element(dtype, residual, k), w.room[3]) : NULL;
        orri_layernorm_backward_add(n, width, orri_wide(dtype, count, orri_element(dtype, dy, k), w.room[1]),
                                    orri_wide(dtype, count, orri_element(dtype, x, k), w.room[2]), g, mean + r, rstd + r, before, out, dgamma,
                                    dbeta);
        orri_end(dtype, count, out, orri_element(dtype, dx, k));
    }
}

/* ---- rows and elements ------------------------------------------------------------------------------------------------- */

/* Rows may be whole sequences here, so it goes by pieces of them. */
void orri_cpu_bias_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *bias, void *y)
{
    struct rooms w = rooms_for(STRIP);

    if (dtype == ORR_F32) {
        orri_bias_rows(rows, width, x, bias, y);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0, n; j < width; j += n) {
            n = least(width - j, STRIP);
            size_t k = (size_t)r * (size_t)width + (size_t)j;
            orri_bias_rows(1, n, x ? orri_wide(dtype, (size_t)n, orri_element(dtype, x, k), w.room[0]) : NULL,
                           bias ? orri_wide(dtype, (size_t)n, orri_element(dtype, bias, (size_t)j), w.room[1]) : NULL, w.room[2]);
            orri_end(dtype, (size_t)n, w.room[2], orri_element(dtype, y, k));
        }
}

void orri_cpu_bias_backward(enum orr_dtype dtype, int rows, int width, const void *dy, int ld, float beta, float *db, void *scratch)
{
    struct rooms w = rooms_for(width);

    (void)scratch;
    if (dtype == ORR_F32) {
        orri_bias_backward(rows, width, dy, ld, beta, db);
        return;
    }
    for (int r = 0, n; r < rows; r += n, beta = 1) {
        n = least(rows - r, strip_rows(width));
        for (int i = 0; i < n; i++)
            orri_widen(dtype, (size_t)width, orri_element(dtype, dy, (size_t)(r + i) * (size_t)ld), w.room[0] + (size_t)i * (size_t)width);
        orri_bias_backward(n, width, w.room[0], width, beta, db);
    }
}

void orri_cpu_sum(enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = 0; k < count; k += STRIP) {
        size_t n = count - k < STRIP ? count - k : STRIP;
        orri_widen(dtype, n, orri_element(dtype, part[0], k), w.room[0]);
        for (int t = 1; t < parts; t++)
            orri_add(n, orri_wide(dtype, n, orri_element(dtype, part[t], k), w.room[1]), w.room[0]);
        orri_round(dtype, n, w.room[0], orri_element(dtype, y, k));
    }
}

void orri_cpu_dropout(enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count, uint64_t first, uint64_t stride,
                      const void *x, const void *residual, void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (int b = 0; b < batch; b++)
        for (size_t done = 0; done < count; done += STRIP) {
            size_t n = count - done < STRIP ? count - done : STRIP, k = (size_t)b * count + done;
            orri_widen(dtype, n, orri_element(dtype, x, k), w.room[0]);
            orri_dropout_apply(d, first + (uint64_t)b * stride + done, n, w.room[0]);
            if (residual)
                orri_add(n, orri_wide(dtype, n, orri_element(dtype, residual, k), w.room[1]), w.room[0]);
            orri_round(dtype, n, w.room[0], orri_element(dtype, y, k));
        }
}

void orri_cpu_add(enum orr_dtype dtype, size_t count, const void *x, void *y)
{
    const void *both[] = {x, y};

    if (dtype == ORR_F32)
        orri_add(count, x, y);
    else
        orri_cpu_sum(dtype, count, 2, both, y);
}

void orri_cpu_convert(size_t count, enum orr_dtype from_dtype, const void *from, enum orr_dtype to_dtype, void *to)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = 0; k < count; k += STRIP) {
        size_t n = count - k < STRIP ? count - k : STRIP;
        orri_round(to_dtype, n, orri_wide(from_dtype, n, orri_element(from_dtype, from, k), w.room[0]), orri_element(to_dtype, to, k));
    }
}

void orri_cpu_copy(size_t bytes, const void *from, void *to)
{
    memcpy(to, from, bytes);
}

void orri_cpu_copy_rows(size_t rows, size_t row_bytes, const void *from, size_t from_stride, void *to, size_t to_stride)
{
    for (size_t r = 0; r < rows; r++)
        memcpy((char *)to + r * to_stride, (const char *)from + r * from_stride, row_bytes);
}

void orri_cpu_zero(size_t bytes, void *to)
{
    memset(to, 0, bytes);
}

/* ---- losses, row by row --------------------------------------------------------------------------------------------------- */

static float scale_of(const float *loss_scale)
{
    return loss_scale ? *loss_scale : 1;
}

void orri_cpu_softmax_cross_entropy(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                    bool gradient, const float *loss_scale, float *loss)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++) {
        void *own = orri_element(dtype, logits, (size_t)r * (size_t)ld);
        float *row = orri_begin_with(dtype, (size_t)width, own, w.room[0]);
        double sum = 0;
        int64_t labels = 0;

        orri_softmax_cross_entropy(1, width, row, ld, target + r, gradient ? scale_of(loss_scale) : 0, &sum, &labels);
        loss[r] = (float)sum;
        if (gradient)
            orri_end(dtype, (size_t)width, row, own);
    }
}

void orri_cpu_add_losses(int rows, const float *loss, const int32_t *target, bool first, struct orr_result *result)
{
    if (first)
        *result = (struct orr_result){0};
    for (int r = 0; r < rows; r++) {
        result->loss += loss[r];
        result->labels += target[r] != ORR_IGNORE;
    }
}

void orri_cpu_cross_entropy_part(enum orr_dtype dtype, int rows, int width, const void *logits, int ld, const int32_t *target,
                                 int first, float *part)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++)
        orri_cross_entropy_part(1, width, orri_wide(dtype, (size_t)width, orri_element(dtype, logits, (size_t)r * (size_t)ld), w.room[0]), ld,
                                target + r, first, part + r * ORRI_LOSS_PART);
}

void orri_cpu_cross_entropy_join(int rows, int parts, const float *const part[], const int32_t *target, float *norm, float *loss)
{
    for (int r = 0; r < rows; r++) {
        const float *row[ORR_MAX_SHARDS];
        double sum = 0;
        int64_t labels = 0;

        for (int t = 0; t < parts; t++)
            row[t] = part[t] + r * ORRI_LOSS_PART;
        orri_cross_entropy_join(1, parts, row, target + r, norm + r * ORRI_LOSS_NORM, &sum, &labels);
        loss[r] = (float)sum;
    }
}

void orri_cpu_cross_entropy_part_gradient(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                          int first, const float *norm, const float *loss_scale)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++) {
        void *own = orri_element(dtype, logits, (size_t)r * (size_t)ld);
        float *row = orri_begin_with(dtype, (size_t)width, own, w.room[0]);

        orri_cross_entropy_part_gradient(1, width, row, ld, target + r, first, norm + r * ORRI_LOSS_NORM, scale_of(loss_scale));
        orri_end(dtype, (size_t)width, row, own);
    }
}

/* ---- rows by number ----------------------------------------------------------------------------------------------------------- */

void orri_cpu_embed(enum orr_dtype dtype, int batch, int seq, struct orr_part part, int width, const int32_t *ids, int64_t first,
                    int64_t count, const void *table, const void *position, void *y)
{
    struct rooms w = rooms_for(width);
    size_t n = (size_t)width, size = n * orr_dtype_size(dtype);
    char *to = y;

    for (int b = 0; b < batch; b++)
        for (int64_t t = part.first; t < part.first + part.count; t++, to += size) {
            int64_t row = ids[b * seq + t] - first;
            bool mine = row >= 0 && row < count;
            if (mine)
                memcpy(to, (const char *)table + (size_t)row * size, size);
            else
                memset(to, 0, size);
            if (position) {
                float *out = orri_begin_with(dtype, n, to, w.room[0]);
                orri_add(n, orri_wide(dtype, n, (const char *)position + (size_t)t * size, w.room[1]), out);
                orri_end(dtype, n, out, to);
            }
        }
}

void orri_cpu_embed_backward(enum orr_dtype dtype, int batch, int seq, struct orr_part part, int width, const int32_t *ids,
                             int64_t first, int64_t count, const void *dy, float *dtable, void *scratch)
{
    struct rooms w = rooms_for(width);
    size_t n = (size_t)width;
    const char *from = dy;

    (void)scratch;
    for (int b = 0; b < batch; b++)
        for (int64_t t = part.first; t < part.first + part.count; t++, from += n * orr_dtype_size(dtype)) {
            int64_t row = ids[b * seq + t] - first;
            if (row >= 0 && row < count)
                orri_add(n, orri_wide(dtype, n, from, w.room[0]), dtable + (size_t)row * n);
        }
}

void orri_cpu_position_backward(enum orr_dtype dtype, int batch, struct orr_part part, int width, const void *dy, float *dposition)
{
    struct rooms w = rooms_for(width);
    size_t n = (size_t)width;
    const char *from = dy;

    for (int b = 0; b < batch; b++)
        for (int64_t t = part.first; t < part.first + part.count; t++, from += n * orr_dtype_size(dtype))
            orri_add(n, orri_wide(dtype, n, from, w.room[0]), dposition + (size_t)t * n);
}

/* ---- attention, head by head ----------------------------------------------------------------------------------------------------- */

/* Floats of [T,D]. */
static size_t head_size(const struct orri_attention *a)
{
    return (size_t)a->seq * (size_t)a->head_dim;
}

static size_t attention_scratch(const struct orri_attention *a, enum orr_dtype dtype, size_t heads)
{
    return (dtype == ORR_F32 ? 0 : heads * head_size(a) * sizeof(float)) + orri_attention_scratch(a);
}

size_t orri_cpu_attention_forward_scratch(const struct orri_attention *a, enum orr_dtype dtype)
{
    return attention_scratch(a, dtype, 4);
}

size_t orri_cpu_attention_backward_scratch(const struct orri_attention *a, enum orr_dtype dtype)
{
    return attention_scratch(a, dtype, 5);
}

static void take_head(enum orr_dtype dtype, const struct orri_attention *a, const void *x, int64_t ld, float *to)
{
    for (int t = 0; t < a->seq; t++)
        orri_widen(dtype, (size_t)a->head_dim, orri_element(dtype, x, (size_t)t * (size_t)ld), to + (size_t)t * (size_t)a->head_dim);
}

static void give_head(enum orr_dtype dtype, const struct orri_attention *a, const float *from, void *x, int64_t ld)
{
    for (int t = 0; t < a->seq; t++)
        orri_round(dtype, (size_t)a->head_dim, from + (size_t)t * (size_t)a->head_dim, orri_element(dtype, x, (size_t)t * (size_t)ld));
}

/* A head of one sequence alone, widened, its rows one behind the other. */
struct head {
    struct orri_attention shape;
    size_t in, out;             /* its first element in q, k and v, and in o */
    size_t lse;
    float *q, *k, *v, *rest;    /* behind them is room                       */
};

static struct head head_of(enum orr_dtype dtype, const struct orri_attention *a, int i, const void *q, const void *k, const void *v,
                           float *room)
{
    size_t b = (size_t)(i / a->heads), h = (size_t)(i % a->heads), row = b * (size_t)a->seq, column = h * (size_t)a->head_dim;
    struct head head = {.shape = *a,
                        .in = row * (size_t)a->ld + column,
                        .out = row * (size_t)a->ld_out + column,
                        .lse = (size_t)i * (size_t)a->seq,
                        .q = room,
                        .k = room + head_size(a),
                        .v = room + 2 * head_size(a),
                        .rest = room + 3 * head_size(a)};

    head.shape.batch = head.shape.heads = 1;
    head.shape.ld = head.shape.ld_out = a->head_dim;
    head.shape.first_sample += b;
    head.shape.first_head += (int)h;
    take_head(dtype, a, orri_element(dtype, q, head.in), a->ld, head.q);
    take_head(dtype, a, orri_element(dtype, k, head.in), a->ld, head.k);
    take_head(dtype, a, orri_element(dtype, v, head.in), a->ld, head.v);
    return head;
}

void orri_cpu_attention_forward(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const void *k, const void *v,
                                void *o, float *lse, void *scratch)
{
    if (dtype == ORR_F32) {
        orri_attention_forward(a, q, k, v, o, lse, scratch);
        return;
    }
    for (int i = 0; i < a->batch * a->heads; i++) {
        struct head head = head_of(dtype, a, i, q, k, v, scratch);
        float *wo = head.rest;

        orri_attention_forward(&head.shape, head.q, head.k, head.v, wo, lse + head.lse, wo + head_size(a));
        give_head(dtype, a, wo, orri_element(dtype, o, head.out), a->ld_out);
    }
}

void orri_cpu_attention_backward(enum orr_dtype dtype, const struct orri_attention *a, void *q, void *k, void *v, const void *o,
                                 const void *d_o, const float *lse, void *scratch)
{
    if (dtype == ORR_F32) {
        orri_attention_backward(a, q, k, v, o, d_o, lse, scratch);
        return;
    }
    for (int i = 0; i < a->batch * a->heads; i++) {
        struct head head = head_of(dtype, a, i, q, k, v, scratch);
        float *wo = head.rest, *wd = wo + head_size(a);

        take_head(dtype, a, orri_element(dtype, o, head.out), a->ld_out, wo);
        take_head(dtype, a, orri_element(dtype, d_o, head.out), a->ld_out, wd);
        orri_attention_backward(&head.shape, head.q, head.k, head.v, wo, wd, lse + head.lse, wd + head_size(a));
        give_head(dtype, a, head.q, orri_element(dtype, q, head.in), a->ld);
        give_head(dtype, a, head.k, orri_element(dtype, k, head.in), a->ld);
        give_head(dtype, a, head.v, orri_element(dtype, v, head.in), a->ld);
    }
}
