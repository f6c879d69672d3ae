/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include <type_traits>

#include "core/kernel_cuda.h"
#include "core/philox_cuda.h"
#include "train/optimizer_cuda.h"

namespace {

/* In a row of a grid whose threads may go over several pieces: 16 on each multiprocessor of an H100. */
constexpr unsigned MOST_BLOCKS = 2112;

/* ---- updates: everything that does not depend on the element is computed on the host, in double, and rounded once ---- */

struct adam {
    float beta1, beta2, rate, root_correction, eps;
    double lr;

    enum { states = 2 };
    __device__ __forceinline__ void multiply(double by)
    {
        rate = (float)(rate * by);
        lr *= by;
    }

    __device__ __forceinline__ void correct(const double *correction)
    {
        rate = (float)(lr / correction[0]);
        root_correction = (float)(1 / sqrt(correction[1]));
    }

    __device__ __forceinline__ void step(float g, float &p, float (&state)[2], float keep, float l2) const
    {
        float grad = g + l2 * p;

        state[0] = beta1 * state[0] + (1 - beta1) * grad;
        state[1] = beta2 * state[1] + (1 - beta2) * grad * grad;
        p = keep * p - rate * state[0] / (sqrtf(state[1]) * root_correction + eps);
    }
};

struct sgd {
    float momentum, lr;

    enum { states = 1 };
    __device__ __forceinline__ void multiply(double by) { lr = (float)(lr * by); }

    __device__ __forceinline__ void correct(const double *) {}

    __device__ __forceinline__ void step(float g, float &p, float (&state)[1], float, float l2) const
    {
        state[0] = momentum * state[0] + g + l2 * p;
        p -= lr * state[0];
    }
};

struct rmsprop {
    float smoothing, lr, eps;

    enum { states = 1 };
    __device__ __forceinline__ void multiply(double by) { lr = (float)(lr * by); }

    __device__ __forceinline__ void correct(const double *) {}

    __device__ __forceinline__ void step(float g, float &p, float (&state)[1], float, float l2) const
    {
        float grad = g + l2 * p;

        state[0] = smoothing * state[0] + (1 - smoothing) * grad * grad;
        p -= lr * grad / (sqrtf(state[0]) + eps);
    }
};

struct view {
    size_t offset, count;
    float keep, l2;         /* weight decay, decoupled from the gradient or in it */
    double rate;
};

/* T: the type of working. */
template <typename F, typename T> struct update {
    F rule;
    const double *scale, *correction, *squares;
    const int *skip;
    bool pushed;
    const float *g;
    float *p, *state;
    size_t stride;
    T *working;
    bool random;
    struct orr_rng rng;
    struct view view[ORR_MAX_VIEWS];
};

/* To one of the two neighbours in bf16, the nearer the likelier: adds 16 random bits to those that are cut off. */
__device__ __forceinline__ __nv_bfloat16 round_at_random(float x, uint32_t word)
{
    uint32_t bits = __float_as_uint(x);

    if (!isfinite(x))
        return __float2bfloat16_rn(x);
    return __ushort_as_bfloat16((unsigned short)((bits + (word >> 16)) >> 16));
}

template <int N, typename F, typename T>
__device__ __forceinline__ void update_at(const update<F, T> &u, const F &rule, const struct view &v, float scale, size_t k)
{
    float g[N], p[N], state[F::states][N];

    orri_load<N>(u.g + k, g);
    if (u.p)
        orri_load<N>(u.p + k, p);
    else
        orri_load<N>(u.working + k, p);
    for (int s = 0; s < F::states; s++)
        orri_load<N>(u.state + s * u.stride + k, state[s]);
    for (int i = 0; i < N; i++) {
        float mine[F::states];

        for (int s = 0; s < F::states; s++)
            mine[s] = state[s][i];
        rule.step(g[i] * scale, p[i], mine, v.keep, v.l2);
        for (int s = 0; s < F::states; s++)
            state[s][i] = mine[s];
    }
    for (int s = 0; s < F::states; s++)
        orri_store<N>(u.state + s * u.stride + k, state[s]);
    if (u.p)
        orri_store<N>(u.p + k, p);
    if constexpr (std::is_same<T, __nv_bfloat16>::value)
        if (u.random) {
            orri_pack<T, N> rounded;
            uint32_t word[N];

            orri_philox_words<N>(u.rng, k, word);
            for (int i = 0; i < N; i++)
                rounded.x[i] = round_at_random(p[i], word[i]);
            *reinterpret_cast<orri_pack<T, N> *>(u.working + k) = rounded;
            return;
        }
    if (u.working)
        orri_store<N>(u.working + k, p);
}

/* Row y of the grid has view y. */
template <int N, typename F, typename T> __global__ void __launch_bounds__(ORRI_THREADS) update_views(update<F, T> u)
{
    const struct view &v = u.view[blockIdx.y];
    float scale = u.scale ? (float)*u.scale : 1.0f;
    F rule = u.rule;

    if ((u.skip && *u.skip) || (u.squares && !isfinite(*u.squares)) || (u.pushed && isnan(*u.g)))
        return;
    rule.multiply(v.rate);
    if (u.correction)
        rule.correct(u.correction);
    for (size_t k = ((size_t)blockIdx.x * ORRI_THREADS + threadIdx.x) * N; k < v.count;
         k += (size_t)gridDim.x * ORRI_THREADS * N)
        if (k + N <= v.count)
            update_at<N>(u, rule, v, scale, v.offset + k);
        else
            for (size_t i = k; i < v.count; i++)
                update_at<1>(u, rule, v, scale, v.offset + i);
}

/* Wide where each view is, and the four elements of a pack have one block of random words. */
template <typename F, typename T>
void launch_update(struct orr_cuda *cuda, const struct orri_cuda_update *from, const F &rule)
{
    constexpr int WIDE = orri_wide<float>;
    bool decoupled = from->optimizer.kind == ORR_ADAMW;
    float decay = from->optimizer.weight_decay;
    T *working = static_cast<T *>(from->working);
    update<F, T> u = {rule, from->scale, from->correction, from->squares, from->skip, from->pushed, from->g, from->p,
                      from->state, (size_t)from->stride, working, from->rounding != NULL, {}, {}};
    bool wide = orri_is_wide(u.g, u.p, u.state, working) && from->stride % WIDE == 0;
    size_t largest = 0;

    if (from->rounding)
        u.rng = *from->rounding;
    for (int i = 0; i < from->views; i++) {
        const struct orri_update_view *v = &from->view[i];

        u.view[i] = {(size_t)v->offset, (size_t)v->count,
                     v->decay && decoupled ? (float)(1 - from->lr * v->rate * (double)decay) : 1.0f,
                     v->decay && !decoupled ? decay : 0.0f, v->rate};
        wide = wide && v->offset % WIDE == 0;
        largest = u.view[i].count > largest ? u.view[i].count : largest;
    }
    unsigned blocks = orri_pieces(largest, (size_t)ORRI_THREADS * (wide ? WIDE : 1));
    orri_launch(cuda, "update", wide ? update_views<WIDE, F, T> : update_views<1, F, T>,
                dim3(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS, (unsigned)from->views), dim3(ORRI_THREADS), 0, u);
}

/* ---- what replicas push ---------------------------------------------------------------------------------------------- */

/* Whoever has the first element marks it: no other reads it. */
struct push {
    bool stopped;
    const double *scale, *squares;
    const int *skip;
    float *g;

    enum { wide = orri_wide<float> };
    template <int N> __device__ void at(size_t k) const
    {
        float a[N], factor = (float)*scale;

        if (stopped || *skip || !isfinite(*squares)) {
            if (k == 0)
                g[0] = nanf("");
            return;
        }
        orri_load<N>(g + k, a);
        for (int i = 0; i < N; i++)
            a[i] *= factor;
        orri_store<N>(g + k, a);
    }
};

/* ---- sums of squares ------------------------------------------------------------------------------------------------ */

/* Each block sums up every gridDim.x-th piece. */
template <int N> __global__ void __launch_bounds__(ORRI_THREADS) sum_squares(size_t count, const float *x, double *sums)
{
    double sum = 0;

    for (size_t k = ((size_t)blockIdx.x * ORRI_THREADS + threadIdx.x) * N; k < count;
         k += (size_t)gridDim.x * ORRI_THREADS * N) {
        float v[N] = {};

        if (k + N <= count)
            orri_load<N>(x + k, v);
        else
            for (int i = 0; i < N && k + i < count; i++)
                v[i] = x[k + i];
        for (int i = 0; i < N; i++)
            sum += (double)v[i] * (double)v[i];
    }
    sum = orri_fold<ORRI_THREADS>(sum, orri_plus());
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(ORRI_THREADS) sum_sums(int count, const double *sums, double *result)
{
    double sum = 0;

    for (int i = (int)threadIdx.x; i < count; i += ORRI_THREADS)
        sum += sums[i];
    sum = orri_fold<ORRI_THREADS>(sum, orri_plus());
    if (threadIdx.x == 0)
        *result = sum;
}

unsigned sum_blocks(size_t count)
{
    unsigned blocks = orri_pieces(count, ORRI_THREADS * orri_wide<float>);

    return blocks < 1 ? 1 : blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS;
}

/* ---- the outer step of DiLoCo, as in optimizer.c --------------------------------------------------------------------- */

struct outer {
    float scale, lr, momentum;
    const float *sum;
    float *p, *m;

    enum { wide = orri_wide<float> };
    template <int N> __device__ void at(size_t k) const
    {
        float s[N], x[N], v[N];

        orri_load<N>(sum + k, s);
        orri_load<N>(p + k, x);
        orri_load<N>(m + k, v);
        for (int i = 0; i < N; i++) {
            float g = x[i] - s[i] * scale;

            v[i] = momentum * v[i] + g;
            x[i] -= lr * (g + momentum * v[i]);
        }
        orri_store<N>(p + k, x);
        orri_store<N>(m + k, v);
    }
};

}

template <typename T> static void update_tile(struct orr_cuda *cuda, const struct orri_cuda_update *u)
{
    const struct orr_optimizer *o = &u->optimizer;
    double correction1 = 1 - pow((double)o->beta1, (double)u->t), correction2 = 1 - pow((double)o->beta2, (double)u->t);

    switch (o->kind) {
    case ORR_ADAMW:
    case ORR_ADAM:
        launch_update<adam, T>(cuda, u, {o->beta1, o->beta2, (float)(u->lr / correction1), (float)(1 / sqrt(correction2)),
                                         o->eps, u->lr});
        break;
    case ORR_SGD: launch_update<sgd, T>(cuda, u, {o->beta1, (float)u->lr}); break;
    case ORR_RMSPROP: launch_update<rmsprop, T>(cuda, u, {o->beta2, (float)u->lr, o->eps}); break;
    }
}

void orri_cuda_update(struct orr_cuda *cuda, const struct orri_cuda_update *update)
{
    ORRI_WITH_TYPE(update->dtype, update_tile<T>(cuda, update));
}

void orri_cuda_push(struct orr_cuda *cuda, bool stopped, const double *scale, const int *skip, const double *squares,
                    size_t count, float *g)
{
    orri_each(cuda, "push", count, orri_is_wide(g), push{stopped, scale, squares, skip, g});
}

size_t orri_cuda_sum_squares_scratch(size_t count)
{
    return sum_blocks(count) * sizeof(double);
}

void orri_cuda_sum_squares(struct orr_cuda *cuda, size_t count, const float *x, double *squares, void *scratch)
{
    double *sums = static_cast<double *>(scratch);
    unsigned blocks = sum_blocks(count);

    orri_launch(cuda, "sum_squares", orri_is_wide(x) ? sum_squares<orri_wide<float>> : sum_squares<1>, dim3(blocks),
                dim3(ORRI_THREADS), 0, count, x, sums);
    orri_launch(cuda, "sum_squares", sum_sums, dim3(1), dim3(ORRI_THREADS), 0, (int)blocks, sums, squares);
}

void orri_cuda_outer_update(struct orr_cuda *cuda, double lr, double momentum, float scale, size_t count, const float *sum,
                            float *p, float *m)
{
    orri_each(cuda, "outer", count, orri_is_wide(sum, p, m), outer{scale, (float)lr, (float)momentum, sum, p, m});
}
