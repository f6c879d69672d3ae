/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels for elements of any dtype on a CPU, of those in fp32: of others a strip is widened at a time, which stays in the caches.
 * A team has rows, columns or heads of them to each thread, such that no sum depends on it. */
#include "codelets/math/elements.h"
#include "codelets/math/math_cpu.h"

#include <string.h>

#include "core/core.h"
#include "core/team.h"

enum { STRIP = ORRI_TEAM_ELEMENTS, STRIP_BYTES = STRIP * sizeof(float) };      /* of a room, where a row is not longer */
enum { ROOMS = 4 };                                                             /* that a kernel takes */

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

/* Row r of an array. */
static void *row_of(enum orr_dtype dtype, const void *x, int r, int width)
{
    return orri_element(dtype, x, (size_t)r * (size_t)width);
}

/* ---- LayerNorm ------------------------------------------------------------------------------------------------------ */

/* gamma and beta lie beside each other in a room. */
struct affine {
    const float *gamma, *beta;
};

static struct affine affine_of(enum orr_dtype dtype, int width, const void *gamma, const void *beta, float *gamma_room,
                               float *beta_room)
{
    return (struct affine){orri_wide(dtype, (size_t)width, gamma, gamma_room),
                           beta ? orri_wide(dtype, (size_t)width, beta, beta_room) : NULL};
}

static void layernorm_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta, float eps,
                           void *y, float *mean, float *rstd)
{
    struct rooms w = rooms_for(width);
    struct affine a = affine_of(dtype, width, gamma, beta, w.room[0], w.room[1]);

    for (int r = 0, n; r < rows; r += n) {
        n = orri_least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, orri_element(dtype, y, k), w.room[3]);
        orri_layernorm(n, width, orri_wide(dtype, count, orri_element(dtype, x, k), w.room[2]), a.gamma, a.beta, eps, out,
                       mean ? mean + r : NULL, rstd + r);
        orri_end(dtype, count, out, orri_element(dtype, y, k));
    }
}

void orri_cpu_layernorm(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta, float eps,
                        void *y, float *mean, float *rstd)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  layernorm_rows(dtype, n, width, row_of(dtype, x, r, width), gamma, beta, eps,
                                 row_of(dtype, y, r, width), mean ? mean + r : NULL, rstd + r));
}

static void layernorm_again_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta,
                                 const float *mean, const float *rstd, void *y)
{
    struct rooms w = rooms_for(width);
    struct affine a = affine_of(dtype, width, gamma, beta, w.room[0], w.room[1]);

    for (int r = 0, n; r < rows; r += n) {
        n = orri_least(rows - r, strip_rows(width));
        size_t k = (size_t)r * (size_t)width, count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, orri_element(dtype, y, k), w.room[3]);
        orri_layernorm_again(n, width, orri_wide(dtype, count, orri_element(dtype, x, k), w.room[2]), a.gamma, a.beta,
                             mean ? mean + r : NULL, rstd + r, out);
        orri_end(dtype, count, out, orri_element(dtype, y, k));
    }
}

void orri_cpu_layernorm_again(enum orr_dtype dtype, int rows, int width, const void *x, const void *gamma, const void *beta,
                              const float *mean, const float *rstd, void *y)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  layernorm_again_rows(dtype, n, width, row_of(dtype, x, r, width), gamma, beta, mean ? mean + r : NULL,
                                       rstd + r, row_of(dtype, y, r, width)));
}

/* dgamma and dbeta of n columns from j on. */
static void layernorm_columns(enum orr_dtype dtype, int rows, int width, int j, int n, const void *dy, const void *x, const float *mean,
                              const float *rstd, float *dgamma, float *dbeta)
{
    struct rooms w = rooms_for(n);

    memset(dgamma + j, 0, (size_t)n * sizeof(*dgamma));
    if (dbeta)
        memset(dbeta + j, 0, (size_t)n * sizeof(*dbeta));
    for (int r = 0; r < rows; r++)
        orri_layernorm_weights(n, orri_wide(dtype, (size_t)n, orri_element(dtype, row_of(dtype, dy, r, width), (size_t)j), w.room[0]),
                               orri_wide(dtype, (size_t)n, orri_element(dtype, row_of(dtype, x, r, width), (size_t)j), w.room[1]),
                               mean ? mean[r] : 0, rstd[r], dgamma + j, dbeta ? dbeta + j : NULL);
}

/* dx of rows, and their part of dgamma and dbeta, unless NULL. */
static void layernorm_backward_rows(enum orr_dtype dtype, int rows, int width, const void *dy, const void *x, const void *gamma,
                                    const float *mean, const float *rstd, const void *residual, void *dx, float *dgamma,
                                    float *dbeta)
{
    struct rooms w = rooms_for(width);
    const float *g = orri_wide(dtype, (size_t)width, gamma, w.room[0]);

    for (int r = 0, n; r < rows; r += n) {
        n = orri_least(rows - r, strip_rows(width));
        size_t count = (size_t)n * (size_t)width;
        float *out = orri_begin(dtype, row_of(dtype, dx, r, width), w.room[3]);
        const float *before = residual ? orri_wide(dtype, count, row_of(dtype, residual, r, width), w.room[3]) : NULL;
        orri_layernorm_backward(n, width, orri_wide(dtype, count, row_of(dtype, dy, r, width), w.room[1]),
                                    orri_wide(dtype, count, row_of(dtype, x, r, width), w.room[2]), g, mean ? mean + r : NULL, rstd + r,
                                    before, out, dgamma, dbeta);
        orri_end(dtype, count, out, row_of(dtype, dx, r, width));
    }
}

/* Sums over rows are by columns in a team, and before dx, which may be dy. */
void orri_cpu_layernorm_backward(enum orr_dtype dtype, int rows, int width, const void *dy, const void *x, const void *gamma,
                                 const float *mean, const float *rstd, const void *residual, void *dx, float *dgamma,
                                 float *dbeta, void *scratch)
{
    (void)scratch;
    if (orri_team_size() == 1) {
        memset(dgamma, 0, (size_t)width * sizeof(*dgamma));
        if (dbeta)
            memset(dbeta, 0, (size_t)width * sizeof(*dbeta));
        layernorm_backward_rows(dtype, rows, width, dy, x, gamma, mean, rstd, residual, dx, dgamma, dbeta);
        return;
    }
    ORRI_TEAM_FOR(width, ORRI_TEAM_COLUMNS, j, n, layernorm_columns(dtype, rows, width, j, n, dy, x, mean, rstd, dgamma, dbeta));
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  layernorm_backward_rows(dtype, n, width, row_of(dtype, dy, r, width), row_of(dtype, x, r, width), gamma,
                                          mean ? mean + r : NULL, rstd + r, residual ? row_of(dtype, residual, r, width) : NULL,
                                          row_of(dtype, dx, r, width), NULL, NULL));
}

/* ---- rows and elements ------------------------------------------------------------------------------------------------- */

/* Rows may be whole sequences here, so it goes by pieces of them. */
static void bias_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *bias, void *y)
{
    struct rooms w = rooms_for(STRIP);

    if (dtype == ORR_F32) {
        orri_bias_rows(rows, width, x, bias, y);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0, n; j < width; j += n) {
            n = orri_least(width - j, STRIP);
            size_t k = (size_t)r * (size_t)width + (size_t)j;
            orri_bias_rows(1, n, x ? orri_wide(dtype, (size_t)n, orri_element(dtype, x, k), w.room[0]) : NULL,
                           bias ? orri_wide(dtype, (size_t)n, orri_element(dtype, bias, (size_t)j), w.room[1]) : NULL, w.room[2]);
            orri_end(dtype, (size_t)n, w.room[2], orri_element(dtype, y, k));
        }
}

void orri_cpu_bias_rows(enum orr_dtype dtype, int rows, int width, const void *x, const void *bias, void *y)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  bias_rows(dtype, n, width, x ? row_of(dtype, x, r, width) : NULL, bias, row_of(dtype, y, r, width)));
}

/* Of n columns from j on. Strips are those of whole rows, since a strip's rows are added four at a time. */
static void bias_columns(enum orr_dtype dtype, int rows, int width, int j, int n, const void *dy, int ld, float beta, float *db)
{
    struct rooms w = rooms_for(width);

    if (dtype == ORR_F32) {
        orri_bias_backward(rows, n, (const float *)dy + j, ld, beta, db + j);
        return;
    }
    for (int r = 0, m; r < rows; r += m, beta = 1) {
        m = orri_least(rows - r, strip_rows(width));
        for (int i = 0; i < m; i++)
            orri_widen(dtype, (size_t)n, orri_element(dtype, row_of(dtype, dy, r + i, ld), (size_t)j),
                       w.room[0] + (size_t)i * (size_t)n);
        orri_bias_backward(m, n, w.room[0], n, beta, db + j);
    }
}

void orri_cpu_bias_backward(enum orr_dtype dtype, int rows, int width, const void *dy, int ld, float beta, float *db, void *scratch)
{
    (void)scratch;
    ORRI_TEAM_FOR(width, ORRI_TEAM_COLUMNS, j, n, bias_columns(dtype, rows, width, j, n, dy, ld, beta, db));
}

/* Elements from `first` on. */
static void sum_elements(enum orr_dtype dtype, size_t first, size_t count, int parts, const void *const part[], void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = first, n; k < first + count; k += n) {
        n = first + count - k < STRIP ? first + count - k : STRIP;
        orri_widen(dtype, n, orri_element(dtype, part[0], k), w.room[0]);
        for (int t = 1; t < parts; t++)
            orri_add(n, orri_wide(dtype, n, orri_element(dtype, part[t], k), w.room[1]), w.room[0]);
        orri_round(dtype, n, w.room[0], orri_element(dtype, y, k));
    }
}

void orri_cpu_sum(enum orr_dtype dtype, size_t count, int parts, const void *const part[], void *y)
{
    ORRI_TEAM_FOR(count, STRIP, k, n, sum_elements(dtype, k, n, parts, part, y));
}

/* Elements from `begin` on, of all sequences one behind the other. */
static void dropout(enum orr_dtype dtype, const struct orri_dropout *d, size_t begin, size_t total, size_t count, uint64_t first,
                    uint64_t stride, const void *x, const void *residual, void *y)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = begin, n; k < begin + total; k += n) {
        size_t b = k / count, done = k % count, left = count - done < begin + total - k ? count - done : begin + total - k;
        n = left < STRIP ? left : STRIP;
        orri_widen(dtype, n, orri_element(dtype, x, k), w.room[0]);
        orri_dropout_apply(d, first + (uint64_t)b * stride + done, n, w.room[0]);
        if (residual)
            orri_add(n, orri_wide(dtype, n, orri_element(dtype, residual, k), w.room[1]), w.room[0]);
        orri_round(dtype, n, w.room[0], orri_element(dtype, y, k));
    }
}

void orri_cpu_dropout(enum orr_dtype dtype, const struct orri_dropout *d, int batch, size_t count, uint64_t first, uint64_t stride,
                      const void *x, const void *residual, void *y)
{
    ORRI_TEAM_FOR((size_t)batch * count, STRIP, k, n, dropout(dtype, d, k, n, count, first, stride, x, residual, y));
}

void orri_cpu_add(enum orr_dtype dtype, size_t count, const void *x, void *y)
{
    const void *both[] = {x, y};

    if (dtype == ORR_F32)
        ORRI_TEAM_FOR(count, STRIP, k, n, orri_add(n, (const float *)x + k, (float *)y + k));
    else
        orri_cpu_sum(dtype, count, 2, both, y);
}

static void convert(size_t count, enum orr_dtype from_dtype, const void *from, enum orr_dtype to_dtype, void *to)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = 0; k < count; k += STRIP) {
        size_t n = count - k < STRIP ? count - k : STRIP;
        orri_round(to_dtype, n, orri_wide(from_dtype, n, orri_element(from_dtype, from, k), w.room[0]),
                   orri_element(to_dtype, to, k));
    }
}

void orri_cpu_convert(size_t count, enum orr_dtype from_dtype, const void *from, enum orr_dtype to_dtype, void *to)
{
    ORRI_TEAM_FOR(count, STRIP, k, n,
                  convert(n, from_dtype, orri_element(from_dtype, from, k), to_dtype, orri_element(to_dtype, to, k)));
}

void orri_cpu_copy(size_t bytes, const void *from, void *to)
{
    ORRI_TEAM_FOR(bytes, STRIP_BYTES, k, n, memcpy((char *)to + k, (const char *)from + k, n));
}

static void copy_rows(size_t rows, size_t row_bytes, const void *from, size_t from_stride, void *to, size_t to_stride)
{
    for (size_t r = 0; r < rows; r++)
        memcpy((char *)to + r * to_stride, (const char *)from + r * from_stride, row_bytes);
}

void orri_cpu_copy_rows(size_t rows, size_t row_bytes, const void *from, size_t from_stride, void *to, size_t to_stride)
{
    ORRI_TEAM_FOR(rows, 1 + STRIP_BYTES / (row_bytes + 1), r, n,
                  copy_rows(n, row_bytes, (const char *)from + r * from_stride, from_stride, (char *)to + r * to_stride, to_stride));
}

void orri_cpu_zero(size_t bytes, void *to)
{
    ORRI_TEAM_FOR(bytes, STRIP_BYTES, k, n, memset((char *)to + k, 0, n));
}

/* ---- gates and rotary positions ---------------------------------------------------------------------------------------------- */

static void activate_backward(enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *dh, const void *u, void *du)
{
    struct rooms w = rooms_for(STRIP);

    for (size_t k = 0, n; k < count; k += n) {
        n = count - k < STRIP ? count - k : STRIP;
        float *out = orri_begin(dtype, orri_element(dtype, du, k), w.room[2]);
        orri_activate_backward(kind, n, orri_wide(dtype, n, orri_element(dtype, dh, k), w.room[0]),
                               orri_wide(dtype, n, orri_element(dtype, u, k), w.room[1]), out);
        orri_end(dtype, n, out, orri_element(dtype, du, k));
    }
}

void orri_cpu_activate_backward(enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *dh, const void *u, void *du)
{
    ORRI_TEAM_FOR(count, STRIP, k, n,
                  activate_backward(dtype, kind, n, orri_element(dtype, dh, k), orri_element(dtype, u, k), orri_element(dtype, du, k)));
}

/* u is gate and up beside each other in a row. By pieces of rows, which fit into the rooms. */
static void gated(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *u, void *h)
{
    struct rooms w = rooms_for(STRIP);

    for (int r = 0; r < rows; r++)
        for (int j = 0, n; j < width; j += n) {
            n = orri_least(width - j, STRIP);
            const void *gate = orri_in_matrix(dtype, u, 2 * width, r, j), *up = orri_in_matrix(dtype, u, 2 * width, r, width + j);
            void *to = orri_in_matrix(dtype, h, width, r, j);
            float *out = orri_begin(dtype, to, w.room[2]);
            orri_gated(kind, (size_t)n, orri_wide(dtype, (size_t)n, gate, w.room[0]), orri_wide(dtype, (size_t)n, up, w.room[1]), out);
            orri_end(dtype, (size_t)n, out, to);
        }
}

void orri_cpu_gated(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *u, void *h)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  gated(dtype, kind, n, width, row_of(dtype, u, r, 2 * width), row_of(dtype, h, r, width)));
}

static void gated_backward(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *dh, void *u)
{
    struct rooms w = rooms_for(STRIP);

    for (int r = 0; r < rows; r++)
        for (int j = 0, n; j < width; j += n) {
            n = orri_least(width - j, STRIP);
            void *gate = orri_in_matrix(dtype, u, 2 * width, r, j), *up = orri_in_matrix(dtype, u, 2 * width, r, width + j);
            float *dgate = orri_begin_with(dtype, (size_t)n, gate, w.room[0]), *dup = orri_begin_with(dtype, (size_t)n, up, w.room[1]);
            orri_gated_backward(kind, (size_t)n, orri_wide(dtype, (size_t)n, orri_in_matrix(dtype, dh, width, r, j), w.room[2]), dgate,
                                dup);
            orri_end(dtype, (size_t)n, dgate, gate);
            orri_end(dtype, (size_t)n, dup, up);
        }
}

void orri_cpu_gated_backward(enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *dh, void *u)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  gated_backward(dtype, kind, n, width, row_of(dtype, dh, r, width), row_of(dtype, u, r, 2 * width)));
}

/* Rows i .. i + rows - 1 of those of all sequences. */
static void rotate(enum orr_dtype dtype, const struct orri_rotary *rotary, int i, int rows, int seq, int heads, int first,
                   const int32_t *places, bool inverse, void *x, int64_t ld)
{
    float cosine[ORRI_MOST_FREQUENCIES], sine[ORRI_MOST_FREQUENCIES];
    size_t width = 2 * (size_t)heads * (size_t)rotary->half;
    struct rooms w = rooms_for((int)width);

    for (int end = i + rows; i < end; i++) {
        void *row = orri_element(dtype, x, (size_t)i * (size_t)ld);
        float *y = orri_begin_with(dtype, width, row, w.room[0]);
        orri_rotary_angles(rotary, places ? places[i] : first + i % seq, cosine, sine);
        orri_rotate(heads, rotary->half, cosine, sine, inverse, y);
        orri_end(dtype, width, y, row);
    }
}

void orri_cpu_rotate(enum orr_dtype dtype, const struct orri_rotary *rotary, int batch, int seq, int heads, int first,
                     const int32_t *places, bool inverse, void *x, int64_t ld)
{
    ORRI_TEAM_FOR(batch * seq, strip_rows(2 * heads * rotary->half), i, n,
                  rotate(dtype, rotary, i, n, seq, heads, first, places, inverse, x, ld));
}

/* ---- losses, row by row --------------------------------------------------------------------------------------------------- */

static float scale_of(const float *loss_scale)
{
    return loss_scale ? *loss_scale : 1;
}

static void softmax_cross_entropy(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                  struct orri_smoothing smoothing, bool gradient, const float *loss_scale, float *loss)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++) {
        void *own = row_of(dtype, logits, r, ld);
        float *row = orri_begin_with(dtype, (size_t)width, own, w.room[0]);
        double sum = 0;
        int64_t labels = 0;

        orri_softmax_cross_entropy(1, width, row, ld, target + r, smoothing, gradient ? scale_of(loss_scale) : 0, &sum, &labels);
        loss[r] = (float)sum;
        if (gradient)
            orri_end(dtype, (size_t)width, row, own);
    }
}

void orri_cpu_softmax_cross_entropy(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                    struct orri_smoothing smoothing, bool gradient, const float *loss_scale, float *loss)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  softmax_cross_entropy(dtype, n, width, row_of(dtype, logits, r, ld), ld, target + r, smoothing, gradient, loss_scale,
                                        loss + r));
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

static void cross_entropy_part(enum orr_dtype dtype, int rows, int width, const void *logits, int ld, const int32_t *target, int first,
                               struct orri_smoothing smoothing, float *part)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++)
        orri_cross_entropy_part(1, width, orri_wide(dtype, (size_t)width, row_of(dtype, logits, r, ld), w.room[0]), ld, target + r,
                                first, smoothing, part + r * ORRI_LOSS_PART);
}

void orri_cpu_cross_entropy_part(enum orr_dtype dtype, int rows, int width, const void *logits, int ld, const int32_t *target,
                                 int first, struct orri_smoothing smoothing, float *part)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  cross_entropy_part(dtype, n, width, row_of(dtype, logits, r, ld), ld, target + r, first, smoothing,
                                     part + r * ORRI_LOSS_PART));
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

static void cross_entropy_part_gradient(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                        int first, struct orri_smoothing smoothing, const float *norm, const float *loss_scale)
{
    struct rooms w = rooms_for(width);

    for (int r = 0; r < rows; r++) {
        void *own = row_of(dtype, logits, r, ld);
        float *row = orri_begin_with(dtype, (size_t)width, own, w.room[0]);

        orri_cross_entropy_part_gradient(1, width, row, ld, target + r, first, smoothing, norm + r * ORRI_LOSS_NORM,
                                         scale_of(loss_scale));
        orri_end(dtype, (size_t)width, row, own);
    }
}

void orri_cpu_cross_entropy_part_gradient(enum orr_dtype dtype, int rows, int width, void *logits, int ld, const int32_t *target,
                                          int first, struct orri_smoothing smoothing, const float *norm, const float *loss_scale)
{
    ORRI_TEAM_FOR(rows, strip_rows(width), r, n,
                  cross_entropy_part_gradient(dtype, n, width, row_of(dtype, logits, r, ld), ld, target + r, first, smoothing,
                                              norm + r * ORRI_LOSS_NORM, loss_scale));
}

/* ---- rows by number ----------------------------------------------------------------------------------------------------------- */

/* Rows i .. i + rows - 1 of those of all sequences. */
static void embed(enum orr_dtype dtype, int i, int rows, int seq, struct orr_part part, int width, const int32_t *ids, int64_t first,
                  int64_t count, const void *table, const void *position, void *y)
{
    struct rooms w = rooms_for(width);
    size_t n = (size_t)width, size = n * orr_dtype_size(dtype);

    for (int end = i + rows; i < end; i++) {
        int64_t b = i / part.count, t = part.first + i % part.count, row = ids[b * seq + t] - first;
        char *to = row_of(dtype, y, i, width);
        if (row >= 0 && row < count)
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

void orri_cpu_embed(enum orr_dtype dtype, int batch, int seq, struct orr_part part, int width, const int32_t *ids, int64_t first,
                    int64_t count, const void *table, const void *position, void *y)
{
    ORRI_TEAM_FOR(batch * (int)part.count, strip_rows(width), i, n,
                  embed(dtype, i, n, seq, part, width, ids, first, count, table, position, y));
}

/* Columns j .. j + n - 1 of the rows of all sequences, in their order, are added to those of the rows of to[] that they belong to: that
 * of their token, unless it is elsewhere, or, without ids, that of their position. */
static void add_rows(enum orr_dtype dtype, int batch, int seq, struct orr_part part, int width, int j, int n, const int32_t *ids,
                     int64_t first, int64_t count, const void *dy, float *to)
{
    struct rooms w = rooms_for(n);

    for (int i = 0; i < batch * (int)part.count; i++) {
        int64_t b = i / part.count, t = part.first + i % part.count, row = ids ? ids[b * seq + t] - first : t;
        if (row >= 0 && row < count)
            orri_add((size_t)n, orri_wide(dtype, (size_t)n, orri_element(dtype, row_of(dtype, dy, i, width), (size_t)j), w.room[0]),
                     to + row * width + j);
    }
}

void orri_cpu_embed_backward(enum orr_dtype dtype, int batch, int seq, struct orr_part part, int width, const int32_t *ids,
                             int64_t first, int64_t count, const void *dy, float *dtable, void *scratch)
{
    (void)scratch;
    ORRI_TEAM_FOR(width, ORRI_TEAM_COLUMNS, j, n, add_rows(dtype, batch, seq, part, width, j, n, ids, first, count, dy, dtable));
}

void orri_cpu_position_backward(enum orr_dtype dtype, int batch, struct orr_part part, int width, const void *dy, float *dposition)
{
    ORRI_TEAM_FOR(width, ORRI_TEAM_COLUMNS, j, n,
                  add_rows(dtype, batch, 0, part, width, j, n, NULL, 0, INT64_MAX, dy, dposition));
}
