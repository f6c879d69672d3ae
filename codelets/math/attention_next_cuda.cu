/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of one query per head over what is kept of its sequence. A block has a head; its warps take positions in turn, each with
 * an online softmax of its own, and what they have is joined at the end, in the order of the warps. */
#include <math.h>

#include "codelets/math/attention_cuda.h"
#include "core/device_cuda.h"
#include "core/launch_cuda.h"

namespace {

enum { WARP = 32, WARPS = 8 };

/* Shared memory: the query [D], what each warp has summed up [WARPS][D], and its maximum and sum [WARPS]. */
size_t shared_bytes(int dim)
{
    return ((size_t)(1 + WARPS) * (size_t)dim + 2 * WARPS) * sizeof(float);
}

template <typename T>
__global__ void attend(struct orri_attention a, const T *q, struct orri_kept kept, T *o)
{
    float *query = reinterpret_cast<float *>(orri_shared_memory());
    const int dim = a.head_dim, h = (int)blockIdx.x, group = a.heads / a.kv_heads, width = a.kv_heads * dim;
    const int first = a.window && kept.length > a.window ? kept.length - a.window : 0;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    float *out = query + dim, *mine = out + warp * dim, *maxima = out + WARPS * dim, *sums = maxima + WARPS;
    float max = -INFINITY, sum = 0;

    for (int d = (int)threadIdx.x; d < dim; d += WARPS * WARP)
        query[d] = a.scale * orri_to_float(q[h * dim + d]);
    for (int d = lane; d < dim; d += WARP)
        mine[d] = 0;
    __syncthreads();
    for (int t = first + warp; t < kept.length; t += WARPS) {
        const T *k = static_cast<const T *>(kept.pages[t / kept.page]) + (t % kept.page) * 2 * width +
                     h / group * dim;
        float s = 0;

        for (int d = lane; d < dim; d += WARP)
            s += query[d] * orri_to_float(k[d]);
#pragma unroll
        for (int other = WARP / 2; other; other /= 2)
            s += __shfl_xor_sync(~0u, s, other);
        float most = fmaxf(max, s), old = expf(max - most), p = expf(s - most);
        for (int d = lane; d < dim; d += WARP)
            mine[d] = mine[d] * old + p * orri_to_float(k[width + d]);
        sum = sum * old + p;
        max = most;
    }
    if (lane == 0) {
        maxima[warp] = max;
        sums[warp] = sum;
    }
    __syncthreads();
    float all = -INFINITY, total = 0;
    for (int w = 0; w < WARPS; w++)
        all = fmaxf(all, maxima[w]);
    for (int w = 0; w < WARPS; w++)
        total += sums[w] * expf(maxima[w] - all);
    for (int d = (int)threadIdx.x; d < dim; d += WARPS * WARP) {
        float x = 0;

        for (int w = 0; w < WARPS; w++)
            x += out[w * dim + d] * expf(maxima[w] - all);
        o[h * dim + d] = orri_from_float<T>(x / total);
    }
}

}

void orri_cuda_attention_next(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, const void *q,
                              const struct orri_kept *kept, void *o)
{
    struct orri_attention own = *a;

    own.kv_heads = a->heads / orri_attention_group(a);
    ORRI_WITH_TYPE(dtype, orri_launch(cuda, "attention of the next position", attend<T>, dim3((unsigned)a->heads),
                                      dim3(WARPS * WARP), shared_bytes(a->head_dim), own, static_cast<const T *>(q), *kept,
                                      static_cast<T *>(o)));
}
