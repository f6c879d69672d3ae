/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/math.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

#include <math.h>
#include <string.h>

#define TILE ORRI_ATTENTION_TILE

/* Scratch of one head: forward uses s, max and sum, backward the rest and s. */
struct scratch {
    float s[TILE * TILE];       /* scores, then probabilities             */
    float ds[TILE * TILE];      /* gradient of the probabilities, then of the scores */
    float max[TILE], sum[TILE]; /* of the online softmax, per row         */
    float row[];                /* backward: delta[T], dq[T*D], dk[TILE*D], dv[TILE*D] */
};

size_t orri_attention_scratch(const struct orri_attention *a)
{
    size_t seq = (size_t)a->seq, dim = (size_t)a->head_dim;

    return sizeof(struct scratch) + (seq + seq * dim + 2 * TILE * dim) * sizeof(float);
}

/* Row i0 + r of a tile may look at columns j0 .. i0 + r: the others get probability zero. */
ORRI_INLINE int visible(int i, int j0, int cols)
{
    return i - j0 + 1 < cols ? i - j0 + 1 : cols;
}

ORRI_INLINE void hide(float *s, int from, int to)
{
    for (int j = from; j < to; j++)
        s[j] = -INFINITY;
}

static uint64_t first_element(const struct orri_attention *a, int b, int h)
{
    uint64_t head = (a->first_sample + (uint64_t)b) * (uint64_t)a->total_heads + (uint64_t)(a->first_head + h);

    return head * (uint64_t)a->seq * (uint64_t)a->seq;
}

/* One step of the online softmax: s becomes exp(scale s - max), and what o holds of earlier tiles is
 * brought to the new maximum. */
static ORRI_SIMD void softmax_tile(const struct orri_attention *a, int i0, int rows, int j0, int cols,
                                   struct scratch *w, float *o)
{
    float scale = a->scale;

    for (int r = 0; r < rows; r++, o += a->ld_out) {
        float *s = w->s + r * TILE;
        float max = j0 ? w->max[r] : -INFINITY, sum = 0;

        hide(s, visible(i0 + r, j0, cols), cols);
#pragma omp simd reduction(max : max)
        for (int j = 0; j < cols; j++)
            max = scale * s[j] > max ? scale * s[j] : max;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < cols; j++) {
            s[j] = orri_expf(scale * s[j] - max);
            sum += s[j];
        }
        if (j0) {
            float old = orri_expf(w->max[r] - max);

            sum += w->sum[r] * old;
#pragma omp simd
            for (int d = 0; d < a->head_dim; d++)
                o[d] *= old;
        }
        w->max[r] = max;
        w->sum[r] = sum;
    }
}

static ORRI_SIMD void finish_rows(const struct orri_attention *a, int rows, const struct scratch *w, float *o,
                                  float *lse)
{
    for (int r = 0; r < rows; r++, o += a->ld_out) {
        float inverse = 1.0f / w->sum[r];

#pragma omp simd
        for (int d = 0; d < a->head_dim; d++)
            o[d] *= inverse;
        lse[r] = w->max[r] + logf(w->sum[r]);
    }
}

static void forward_head(const struct orri_attention *a, uint64_t first, const float *q, const float *k,
                         const float *v, float *o, float *lse, struct scratch *w)
{
    int dim = a->head_dim, ld = (int)a->ld, ld_out = (int)a->ld_out;

    for (int i0 = 0; i0 < a->seq; i0 += TILE) {
        int rows = a->seq - i0 < TILE ? a->seq - i0 : TILE;
        float *oi = o + i0 * a->ld_out;

        for (int j0 = 0; j0 < i0 + rows; j0 += TILE) {
            int cols = i0 + rows - j0 < TILE ? i0 + rows - j0 : TILE;

            orri_gemm(false, true, rows, cols, dim, q + i0 * a->ld, ld, k + j0 * a->ld, ld, 0, w->s, TILE);
            softmax_tile(a, i0, rows, j0, cols, w, oi);
            if (a->dropout.p > 0)
                for (int r = 0; r < rows; r++)
                    orri_dropout_apply(&a->dropout, first + (uint64_t)(i0 + r) * (uint64_t)a->seq + (uint64_t)j0,
                                       (size_t)visible(i0 + r, j0, cols), w->s + r * TILE);
            orri_gemm(false, false, rows, dim, cols, w->s, TILE, v + j0 * a->ld, ld, j0 ? 1 : 0, oi, ld_out);
        }
        finish_rows(a, rows, w, oi, lse + i0);
    }
}

void orri_attention_forward(const struct orri_attention *a, const float *q, const float *k, const float *v, float *o,
                            float *lse, void *scratch)
{
    for (int b = 0; b < a->batch; b++)
        for (int h = 0; h < a->heads; h++) {
            int64_t in = (int64_t)b * a->seq * a->ld + (int64_t)h * a->head_dim;
            int64_t out = (int64_t)b * a->seq * a->ld_out + (int64_t)h * a->head_dim;

            forward_head(a, first_element(a, b, h), q + in, k + in, v + in, o + out,
                         lse + ((int64_t)b * a->heads + h) * a->seq, scratch);
        }
}

/* delta[t] = sum over d of o d_o, which is the sum over j of probability times its gradient (Dao et al.). */
static ORRI_SIMD void row_products(const struct orri_attention *a, const float *o, const float *d_o, float *delta)
{
    for (int t = 0; t < a->seq; t++, o += a->ld_out, d_o += a->ld_out) {
        float sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int d = 0; d < a->head_dim; d++)
            sum += o[d] * d_o[d];
        delta[t] = sum;
    }
}

/* From scores s and gradients ds of the dropped probabilities: s becomes those probabilities, ds the
 * gradient of q k^T. */
static ORRI_SIMD void softmax_tile_backward(const struct orri_attention *a, uint64_t first, int i0, int rows, int j0,
                                            int cols, const float *lse, const float *delta, struct scratch *w)
{
    float scale = a->scale;
    float keep[TILE];

    for (int j = 0; j < TILE; j++)
        keep[j] = 1.0f;
    for (int r = 0; r < rows; r++) {
        float *s = w->s + r * TILE, *ds = w->ds + r * TILE;
        int seen = visible(i0 + r, j0, cols);

        hide(s, seen, cols);
        if (a->dropout.p > 0) {
            for (int j = 0; j < TILE; j++)
                keep[j] = 1.0f;
            orri_dropout_apply(&a->dropout, first + (uint64_t)(i0 + r) * (uint64_t)a->seq + (uint64_t)j0,
                               (size_t)seen, keep);
        }
#pragma omp simd
        for (int j = 0; j < cols; j++) {
            float p = orri_expf(scale * s[j] - lse[r]);

            s[j] = p * keep[j];
            ds[j] = scale * p * (keep[j] * ds[j] - delta[r]);
        }
    }
}

static ORRI_SIMD void copy_rows(int rows, int width, const float *from, float *to, int64_t ld)
{
    for (int r = 0; r < rows; r++)
        memcpy(to + r * ld, from + (size_t)r * (size_t)width, (size_t)width * sizeof(*to));
}

static void backward_head(const struct orri_attention *a, uint64_t first, float *q, float *k, float *v,
                          const float *o, const float *d_o, const float *lse, struct scratch *w)
{
    int dim = a->head_dim, ld = (int)a->ld, ld_out = (int)a->ld_out;
    float *delta = w->row;
    float *dq = delta + a->seq;
    float *dk = dq + (size_t)a->seq * (size_t)dim;
    float *dv = dk + TILE * dim;

    row_products(a, o, d_o, delta);
    for (int j0 = 0; j0 < a->seq; j0 += TILE) {
        int cols = a->seq - j0 < TILE ? a->seq - j0 : TILE;
        float *kj = k + j0 * a->ld, *vj = v + j0 * a->ld;

        for (int i0 = j0; i0 < a->seq; i0 += TILE) {
            int rows = a->seq - i0 < TILE ? a->seq - i0 : TILE;
            const float *qi = q + i0 * a->ld, *d_oi = d_o + i0 * a->ld_out;
            float beta = i0 > j0 ? 1 : 0;

            orri_gemm(false, true, rows, cols, dim, qi, ld, kj, ld, 0, w->s, TILE);
            orri_gemm(false, true, rows, cols, dim, d_oi, ld_out, vj, ld, 0, w->ds, TILE);
            softmax_tile_backward(a, first, i0, rows, j0, cols, lse + i0, delta + i0, w);
            orri_gemm(true, false, cols, dim, rows, w->s, TILE, d_oi, ld_out, beta, dv, dim);
            orri_gemm(true, false, cols, dim, rows, w->ds, TILE, qi, ld, beta, dk, dim);
            orri_gemm(false, false, rows, dim, cols, w->ds, TILE, kj, ld, j0 ? 1 : 0, dq + (size_t)i0 * (size_t)dim,
                      dim);
        }
        /* No later tile reads these rows of k and v again. */
        copy_rows(cols, dim, dk, kj, a->ld);
        copy_rows(cols, dim, dv, vj, a->ld);
    }
    copy_rows(a->seq, dim, dq, q, a->ld);
}

void orri_attention_backward(const struct orri_attention *a, float *q, float *k, float *v, const float *o,
                             const float *d_o, const float *lse, void *scratch)
{
    for (int b = 0; b < a->batch; b++)
        for (int h = 0; h < a->heads; h++) {
            int64_t in = (int64_t)b * a->seq * a->ld + (int64_t)h * a->head_dim;
            int64_t out = (int64_t)b * a->seq * a->ld_out + (int64_t)h * a->head_dim;

            backward_head(a, first_element(a, b, h), q + in, k + in, v + in, o + out, d_o + out,
                          lse + ((int64_t)b * a->heads + h) * a->seq, scratch);
        }
}
