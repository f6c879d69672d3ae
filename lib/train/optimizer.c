/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "core/team.h"
#include "train/train.h"

static const struct {
    const char *name;
    int states;
    struct orr_optimizer usual;
} optimizers[] = {
    [ORR_ADAMW] = {"adamw", 2, {ORR_ADAMW, 0.9f, 0.95f, 1e-8f, 0.1f, 1}},
    [ORR_ADAM] = {"adam", 2, {ORR_ADAM, 0.9f, 0.999f, 1e-8f, 0, 1}},
    [ORR_SGD] = {"sgd", 1, {ORR_SGD, 0.9f, 0, 0, 0, 1}},
    [ORR_RMSPROP] = {"rmsprop", 1, {ORR_RMSPROP, 0, 0.99f, 1e-8f, 0, 1}},
};

struct orr_optimizer orr_optimizer_default(enum orr_optimizer_kind kind)
{
    return optimizers[kind].usual;
}

int orr_optimizer_parse(const char *name, enum orr_optimizer_kind *kind)
{
    for (size_t i = 0; i < ORRI_COUNT(optimizers); i++) {
        if (strcmp(name, optimizers[i].name) == 0) {
            *kind = (enum orr_optimizer_kind)i;
            return ORR_OK;
        }
    }
    return orri_remedy(orri_fail(ORR_EINVAL, "optimizer", "'%s' is none", name), "use adamw, adam, sgd or rmsprop");
}

const char *orr_optimizer_name(enum orr_optimizer_kind kind)
{
    return optimizers[kind].name;
}

int orr_optimizer_state_count(enum orr_optimizer_kind kind)
{
    return optimizers[kind].states;
}

/* In these loops everything that does not depend on the element is computed before, in double, and rounded once. */

static ORRI_SIMD void adam(int64_t count, const float *restrict g, float *restrict p, float *restrict m,
                           float *restrict v, float scale, float beta1, float beta2, float keep, float l2, float rate,
                           float root_correction, float eps)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float grad = g[i] * scale + l2 * p[i];
        m[i] = beta1 * m[i] + (1 - beta1) * grad;
        v[i] = beta2 * v[i] + (1 - beta2) * grad * grad;
        p[i] = keep * p[i] - rate * m[i] / (sqrtf(v[i]) * root_correction + eps);
    }
}

static ORRI_SIMD void sgd(int64_t count, const float *restrict g, float *restrict p, float *restrict m, float scale,
                          float momentum, float l2, float lr)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        m[i] = momentum * m[i] + g[i] * scale + l2 * p[i];
        p[i] -= lr * m[i];
    }
}

static ORRI_SIMD void rmsprop(int64_t count, const float *restrict g, float *restrict p, float *restrict v,
                              float scale, float smoothing, float l2, float lr, float eps)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float grad = g[i] * scale + l2 * p[i];
        v[i] = smoothing * v[i] + (1 - smoothing) * grad * grad;
        p[i] -= lr * grad / (sqrtf(v[i]) + eps);
    }
}

void orri_optimizer_update(const struct orr_optimizer *o, bool decay, double lr, int64_t t, float scale, int64_t count,
                           const float *g, float *p, float *state, int64_t stride)
{
    float wd = decay ? o->weight_decay : 0;

    switch (o->kind) {
    case ORR_ADAMW:
    case ORR_ADAM: {
        double correction1 = 1 - pow(o->beta1, (double)t), correction2 = 1 - pow(o->beta2, (double)t);
        bool decoupled = o->kind == ORR_ADAMW;
        adam(count, g, p, state, state + stride, scale, o->beta1, o->beta2, decoupled ? (float)(1 - lr * wd) : 1,
             decoupled ? 0 : wd, (float)(lr / correction1), (float)(1 / sqrt(correction2)), o->eps);
        break;
    }
    case ORR_SGD: sgd(count, g, p, state, scale, o->beta1, wd, (float)lr); break;
    case ORR_RMSPROP: rmsprop(count, g, p, state, scale, o->beta2, wd, (float)lr, o->eps); break;
    }
}

/* In double, where the square of no float overflows: the sum is finite exactly where all elements are. Memory is
 * slower than the conversion. */
static ORRI_SIMD double sum_squares(int64_t count, const float *x)
{
    double sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

enum { SQUARES = 1 << 18 };     /* elements of a piece: pieces are the same whoever sums them */

static void sum_pieces(int64_t first, int64_t pieces, int64_t count, const float *x, double *sum)
{
    for (int64_t i = first; i < first + pieces; i++)
        sum[i] = sum_squares(count - i * SQUARES < SQUARES ? count - i * SQUARES : SQUARES, x + i * SQUARES);
}

double orri_sum_squares(int64_t count, const float *x)
{
    int64_t pieces = (count + SQUARES - 1) / SQUARES;
    double *piece = orri_kernel_scratch((size_t)pieces * sizeof(*piece)), sum = 0;

    ORRI_TEAM_FOR(pieces, 1, i, n, sum_pieces(i, n, count, x, piece));
    for (int64_t i = 0; i < pieces; i++)
        sum += piece[i];
    return sum;
}

/* The outer step of DiLoCo (Douillard et al. 2023): SGD with Nesterov's momentum on g = p - mean of the replicas', as
 * PyTorch's. With lr 1 and momentum 0 it gives the mean. */
static ORRI_SIMD void outer(int64_t count, const float *restrict sum, float *restrict p, float *restrict m, float scale,
                            float lr, float momentum)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float g = p[i] - sum[i] * scale;
        m[i] = momentum * m[i] + g;
        p[i] -= lr * (g + momentum * m[i]);
    }
}

void orri_outer_update(double lr, double momentum, float scale, int64_t count, const float *sum, float *p, float *m)
{
    outer(count, sum, p, m, scale, (float)lr, (float)momentum);
}
