/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels for elements of any dtype on a CPU, of those in fp32: of others a strip is widened at a time, which stays in the caches. */
#include "codelets/math/math_cpu.h"

#include <string.h>

#include "core/core.h"

enum { STRIP = 8192, ROOMS = 4 };       /* floats of a room, where a row is not longer; rooms that a kernel takes */

static const void *at(enum orr_dtype dtype, const void *x, size_t k)
{
    return (const char *)x + k * orr_dtype_size(dtype);
}

static void *place(enum orr_dtype dtype, void *x, size_t k)
{
    return (char *)x + k * orr_dtype_size(dtype);
}

/* x[0..count-1] in fp32: themselves, or widened in `room`. */
static const float *wide(enum orr_dtype dtype, size_t count, const void *x, float *room)
{
    if (dtype == ORR_F32)
        return x;
    orri_widen(dtype, count, x, room);
    return room;
}

/* Where to compute fp32 elements of y, and how they get there. */
static float *begin(enum orr_dtype dtype, void *y, float *room)
{
    return dtype == ORR_F32 ? y : room;
}

static void end(enum orr_dtype dtype, size_t count, const float *room, void *y)
{
    if (dtype != ORR_F32)
        orri_round(dtype, count, room, y);
}

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
    return (struct affine){wide(dtype, (size_t)width, gamma, gamma_room), wide(dtype, (size_t)width, beta, beta_room)};
}

void orri_cpu_layernorm(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta, float eps,
                        void *y, float *mean, float *rstd)
{
    struct rooms w = rooms_for(width);
    struct affine a = affine_of(dtype, width, gamma, beta, w.room[0], w.room[1]);

    for (int r = 0, n; r < rows; r += n) {
        n = least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = begin(dtype, place(dtype, y, k), w.room[3]);
        orri_layernorm(n, width, wide(dtype, count, at(dtype, x, k), w.room[2]), a.gamma, a.beta, eps, out, mean + r, rstd + r);
        end(dtype, count, out, place(dtype, y, k));
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
        float *out = begin(dtype, place(dtype, y, k), w.room[3]);
        orri_layernorm_again(n, width, wide(dtype, count, at(dtype, x, k), w.room[2]), a.gamma, a.beta, mean + r, rstd + r, out);
        end(dtype, count, out, place(dtype, y, k));
    }
}

void orri_cpu_layernorm_backward(enum orr_dtype dtype, int rows, int width, const void *dy, const void *x, const void *gamma,
                                 const float *mean, const float *rstd, const void *residual, void *dx, float *dgamma,
                                 float *dbeta, void *scratch)
{
    struct rooms w = rooms_for(width);
    const float *g = wide(dtype, (size_t)width, gamma, w.room[0]);

    (void)scratch;
    memset(dgamma, 0, (size_t)width * sizeof(*dgamma));
    memset(dbeta, 0, (size_t)width * sizeof(*dbeta));
    for (int r = 0, n; r < rows; r += n) {
        n = least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = begin(dtype, place(dtype, dx, k), w.room[3]);
        const float *before = residual ? wide(dtype, count, at(dtype, residual, k), w.room[3]) : NULL;
        orri_layernorm_backward(n, width, wide(dtype, count, at(dtype, dy, k), w.room[1]),
                                wide(dtype, count, at(dtype, x, k), w.room[2]), g, mean + r, rstd + r, before, out, dgamma, dbeta);
        end(dtype, count, out, place(dtype, dx, k));
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
            orri_bias_rows(1, n, x ? wide(dtype, (size_t)n, at(dtype, x, k), w.room[0]) : NULL,
                           bias ? wide(dtype, (size_t)n, at(dtype, bias, (size_t)j), w.room[1]) : NULL, w.room[2]);
            end(dtype, (size_t)n, w.room[2], place(dtype, y, k));
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
            orri_widen(dtype, (size_t)width, at(dtype, dy, (size_t)(r + i) * (size_t)ld), w.room[0] + (size_t)i * (size_t)width);
        orri_bias_backward(n, width, w.room[0], width, beta, db);
    }
}

void orri_cpu_sum(enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = 0; k < count; k += STRIP) {
        size_t n = count - k < STRIP ? count - k : STRIP;
        orri_widen(dtype, n, at(dtype, part[0], k), w.room[0]);
        for (int t = 1; t < parts; t++)
            orri_add(n, wide(dtype, n, at(dtype, part[t], k), w.room[1]), w.room[0]);
        orri_round(dtype, n, w.room[0], place(dtype, y, k));
    }
}

void orri_cpu_dropout(enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count, uint64_t first, uint64_t stride,
                      const void *x, const void *residual, void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (int b = 0; b < batch; b++)
        for (size_t done = 0; done < count; done += STRIP) {
            size_t n = count - done < STRIP ? count - done : STRIP, k = (size_t)b * count + done;
            orri_widen(dtype, n, at(dtype, x, k), w.room[0]);
            orri_dropout_apply(d, first + (uint64_t)b * stride + done, n, w.room[0]);
            if (residual)
                orri_add(n, wide(dtype, n, at(dtype, residual, k), w.room[1]), w.room[0]);
            orri_round(dtype, n, w.room[0], place(dtype, y, k));
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
        orri_round(to_dtype, n, wide(from_dtype, n, at(from_dtype, from, k), w.room[0]), place(to_dtype, to, k));
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
        void *own = place(dtype, logits, (size_t)r * (size_t)ld);
        float *row = begin(dtype, own, w.room[0]);
        double sum = 0;
        int64_t labels = 0;

        wide(dtype, (size_t)width, own, row);
        orri_softmax_cross_entropy(1, width, row, ld, target + r, gradient ? scale_of(loss_scale) : 0, &sum, &labels);
        loss[r] = (float)sum;
        if (gradient)
            end(dtype, (size_t)width, row, own);
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
        orri_cross_entropy_part(1, width, wide(dtype, (size_t)width, at(dtype, logits, (size_t)r * (size_t)ld), w.room[0]), ld,
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
        void *own = place(dtype, logits, (size_t)r * (size_t)ld);
        float *row = begin(dtype, own, w.room[0]);

        wide(dtype, (size_t)width, own, row);
        orri_cross_entropy_part_gradient(1, width, row, ld, target + r, first, norm + r * ORRI_LOSS_NORM, scale_of(loss_scale));
        end(dtype, (size_t)width, row, own);
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
                float *out = begin(dtype, to, w.room[0]);
                wide(dtype, n, to, out);
                orri_add(n, wide(dtype, n, (const char *)position + (size_t)t * size, w.room[1]), out);
                end(dtype, n, out, to);
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
                orri_add(n, wide(dtype, n, from, w.room[0]), dtable + (size_t)row * n);
        }
}

void orri_cpu_position_backward(enum orr_dtype dtype, int batch, struct orr_part part, int width, const void *dy, float *dposition)
{
    struct rooms w = rooms_for(width);
    size_t n = (size_t)width;
    const char *from = dy;

    for (int b = 0; b < batch; b++)
        for (int64_t t = part.first; t < part.first + part.count; t++, from += n * orr_dtype_size(dtype))
            orri_add(n, wide(dtype, n, from, w.room[0]), dposition + (size_t)t * n);
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

/* Head h of sequence b alone, its rows one behind the other. */
static struct orri_attention one_head(const struct orri_attention *a, int b, int h)
{
    struct orri_attention one = *a;

    one.batch = one.heads = 1;
    one.ld = one.ld_out = a->head_dim;
    one.first_sample += (uint64_t)b;
    one.first_head += h;
    return one;
}

/* The first element of that head. */
static size_t head_at(const struct orri_attention *a, int64_t ld, int b, int h)
{
    return (size_t)b * (size_t)a->seq * (size_t)ld + (size_t)h * (size_t)a->head_dim;
}

static void take_head(enum orr_dtype dtype, const struct orri_attention *a, const void *x, int64_t ld, float *to)
{
    for (int t = 0; t < a->seq; t++)
        orri_widen(dtype, (size_t)a->head_dim, at(dtype, x, (size_t)t * (size_t)ld), to + (size_t)t * (size_t)a->head_dim);
}

static void give_head(enum orr_dtype dtype, const struct orri_attention *a, const float *from, void *x, int64_t ld)
{
    for (int t = 0; t < a->seq; t++)
        orri_round(dtype, (size_t)a->head_dim, from + (size_t)t * (size_t)a->head_dim, place(dtype, x, (size_t)t * (size_t)ld));
}

void orri_cpu_attention_forward(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const void *k, const void *v,
                                void *o, float *lse, void *scratch)
{
    size_t size = head_size(a);
    float *wq = scratch, *wk = wq + size, *wv = wk + size, *wo = wv + size;

    if (dtype == ORR_F32) {
        orri_attention_forward(a, q, k, v, o, lse, scratch);
        return;
    }
    for (int i = 0; i < a->batch * a->heads; i++) {
        struct orri_attention one = one_head(a, i / a->heads, i % a->heads);
        size_t in = head_at(a, a->ld, i / a->heads, i % a->heads), out = head_at(a, a->ld_out, i / a->heads, i % a->heads);

        take_head(dtype, a, at(dtype, q, in), a->ld, wq);
        take_head(dtype, a, at(dtype, k, in), a->ld, wk);
        take_head(dtype, a, at(dtype, v, in), a->ld, wv);
        orri_attention_forward(&one, wq, wk, wv, wo, lse + (size_t)i * (size_t)a->seq, wo + size);
        give_head(dtype, a, wo, place(dtype, o, out), a->ld_out);
    }
}

void orri_cpu_attention_backward(enum orr_dtype dtype, const struct orri_attention *a, void *q, void *k, void *v, const void *o,
                                 const void *d_o, const float *lse, void *scratch)
{
    size_t size = head_size(a);
    float *wq = scratch, *wk = wq + size, *wv = wk + size, *wo = wv + size, *wd = wo + size;

    if (dtype == ORR_F32) {
        orri_attention_backward(a, q, k, v, o, d_o, lse, scratch);
        return;
    }
    for (int i = 0; i < a->batch * a->heads; i++) {
        struct orri_attention one = one_head(a, i / a->heads, i % a->heads);
        size_t in = head_at(a, a->ld, i / a->heads, i % a->heads), out = head_at(a, a->ld_out, i / a->heads, i % a->heads);

        take_head(dtype, a, at(dtype, q, in), a->ld, wq);
        take_head(dtype, a, at(dtype, k, in), a->ld, wk);
        take_head(dtype, a, at(dtype, v, in), a->ld, wv);
        take_head(dtype, a, at(dtype, o, out), a->ld_out, wo);
        take_head(dtype, a, at(dtype, d_o, out), a->ld_out, wd);
        orri_attention_backward(&one, wq, wk, wv, wo, wd, lse + (size_t)i * (size_t)a->seq, wd + size);
        give_head(dtype, a, wq, place(dtype, q, in), a->ld);
        give_head(dtype, a, wk, place(dtype, k, in), a->ld);
        give_head(dtype, a, wv, place(dtype, v, in), a->ld);
    }
}
