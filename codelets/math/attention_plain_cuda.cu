/* SPDX-License-Identifier: Apache-2.0 */
/* Attention without tensor cores, in fp32 for any element type: the passes of attention_tensor_cuda.cu by blocks of TILE
 * rows that meet the others TILE at a time. A thread has 4 x 4 scores, and of 4 rows every 16th group of up to 4 columns of
 * what the block gives; products read their factors from shared memory a slice at a time, so that no head size is too
 * large. */
#include <math.h>

#include "codelets/math/attention_cuda.h"
#include "core/device_cuda.h"
#include "core/launch_cuda.h"

namespace {

enum {
    TILE = 64,
    SIDE = 16,                      /* threads along a side of a tile                                       */
    THREADS = SIDE * SIDE,
    SLICE = 16,
    PITCH = TILE + 4                /* rows of 16-byte groups, in banks of their own                        */
};

/* COLS: columns of a thread, of SIDE * COLS that the head size fits into. */
template <int COLS> struct memory {
    float a[SLICE][PITCH], b[SLICE][PITCH];     /* columns of a slice of two tiles, transposed              */
    float p[TILE][PITCH];                       /* weights of the block's rows, transposed                  */
    float x[SLICE][SIDE * COLS];                /* rows of a slice of what they weigh                       */
    struct orri_attention_span sight[TILE];     /* of the block's rows                                      */
};

/* A head as the products see it: `rows` rows of `dim` elements. */
template <typename T> struct matrix {
    const T *x;
    int64_t ld;
    int rows, dim;
};

__device__ __forceinline__ int side_x() { return (int)threadIdx.x % SIDE; }
__device__ __forceinline__ int side_y() { return (int)threadIdx.x / SIDE; }

template <int COLS>
__device__ __forceinline__ int column(int c)
{
    const int group = COLS < 4 ? COLS : 4;

    return c / group * SIDE * group + side_x() * group + c % group;
}

/* columns[d][r] = x[first + r][d0 + d], zero outside of x. */
template <typename T>
__device__ __forceinline__ void bring_columns(float (*columns)[PITCH], const struct matrix<T> &m, int first, int d0)
{
    for (int k = (int)threadIdx.x; k < TILE * SLICE; k += THREADS) {
        int r = k / SLICE, d = k % SLICE;

        columns[d][r] = first + r < m.rows && d0 + d < m.dim ? orri_to_float(m.x[(first + r) * m.ld + d0 + d]) : 0.0f;
    }
}

/* s = rows a0 .. of a times rows b0 .. of b: the thread's s[r][c] is that of row 4 side_y() + r with row 4 side_x() + c. */
template <int COLS, typename T>
__device__ __forceinline__ void rows_by_rows(struct memory<COLS> *w, float (&s)[4][4], const struct matrix<T> &a,
                                                    int a0, const struct matrix<T> &b, int b0)
{
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            s[r][c] = 0;
    for (int d0 = 0; d0 < a.dim; d0 += SLICE) {
        __syncthreads();
        bring_columns(w->a, a, a0, d0);
        bring_columns(w->b, b, b0, d0);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < SLICE; d++) {
            float4 left = *reinterpret_cast<const float4 *>(&w->a[d][4 * side_y()]);
            float4 right = *reinterpret_cast<const float4 *>(&w->b[d][4 * side_x()]);
            const float x[4] = {left.x, left.y, left.z, left.w}, y[4] = {right.x, right.y, right.z, right.w};

#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    s[r][c] = fmaf(x[r], y[c], s[r][c]);
        }
    }
}

/* sum += p times rows first .. of m, where the thread's p[r][c] weighs row 4 side_x() + c for row 4 side_y() + r. */
template <int COLS, typename T>
__device__ __forceinline__ void weigh_rows(struct memory<COLS> *w, float (&sum)[4][COLS], const float (&p)[4][4],
                                                  const struct matrix<T> &m, int first)
{
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 4; c++)
        *reinterpret_cast<float4 *>(&w->p[4 * side_x() + c][4 * side_y()]) = make_float4(p[0][c], p[1][c], p[2][c], p[3][c]);
    for (int k0 = 0; k0 < TILE && first + k0 < m.rows; k0 += SLICE) {
        __syncthreads();
        for (int k = (int)threadIdx.x; k < SLICE * SIDE * COLS; k += THREADS) {
            int r = k / (SIDE * COLS), d = k % (SIDE * COLS);

            w->x[r][d] =
                first + k0 + r < m.rows && d < m.dim ? orri_to_float(m.x[(first + k0 + r) * m.ld + d]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < SLICE; k++) {
            float4 left = *reinterpret_cast<const float4 *>(&w->p[k0 + k][4 * side_y()]);
            const float x[4] = {left.x, left.y, left.z, left.w};

#pragma unroll
            for (int c = 0; c < COLS; c++) {
                float y = w->x[k][column<COLS>(c)];

#pragma unroll
                for (int r = 0; r < 4; r++)
                    sum[r][c] = fmaf(x[r], y, sum[r][c]);
            }
        }
    }
}

/* Rows first .. of y = factor sum, as the threads hold it. */
template <int COLS, typename T>
__device__ __forceinline__ void put(const float (&sum)[4][COLS], float factor, T *y, int64_t ld, int first, int rows,
                                           int dim)
{
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            int row = first + 4 * side_y() + r, d = column<COLS>(c);

            if (row < rows && d < dim)
                y[row * ld + d] = orri_from_float<T>(factor * sum[r][c]);
        }
}

/* Over the threads that share a row. */
__device__ __forceinline__ float row_max(float x)
{
#pragma unroll
    for (int other = SIDE / 2; other; other /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, other));
    return x;
}

__device__ __forceinline__ float row_sum(float x)
{
#pragma unroll
    for (int other = SIDE / 2; other; other /= 2)
        x += __shfl_xor_sync(~0u, x, other);
    return x;
}

/* Bit c: whether the probability of query i with key j + c is kept. */
__device__ __forceinline__ uint32_t kept(const struct orri_attention_call &call, uint64_t element, int i, int j)
{
    return call.dropout.least
               ? orri_attention_kept<4>(call.dropout, element + (uint64_t)i * (uint64_t)call.a.seq + (uint64_t)j)
               : ~0u;
}

/* Who sees whom of the block's rows first .., and the rows that they see between them, from the begin of a tile on. */
template <bool KEY, int COLS>
__device__ __forceinline__ struct orri_attention_span look(struct memory<COLS> *w, const struct orri_attention &a, int64_t b,
                                                           int first)
{
    if (threadIdx.x < TILE)
        w->sight[threadIdx.x] = orri_attention_sight<KEY>(a, b, first + (int)threadIdx.x);
    __syncthreads();
    return {w->sight[0].from / TILE * TILE, w->sight[TILE - 1].to};
}

__device__ __forceinline__ bool sees(struct orri_attention_span sight, int t)
{
    return t >= sight.from && t < sight.to;
}

/* ---- forward --------------------------------------------------------------------------------------------------- */

template <typename T, int COLS>
__global__ void __launch_bounds__(THREADS) forward(struct orri_attention_call call)
{
    auto w = reinterpret_cast<struct memory<COLS> *>(orri_shared_memory());
    const struct orri_attention &a = call.a;
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, blockIdx.y);
    const struct matrix<T> q = {static_cast<const T *>(call.q) + head.in, a.ld, a.seq, a.head_dim};
    const struct matrix<T> k = {static_cast<const T *>(call.k) + head.keys, a.ld, a.seq, a.head_dim};
    const struct matrix<T> v = {static_cast<const T *>(call.v) + head.keys, a.ld, a.seq, a.head_dim};
    int i0 = (int)(gridDim.z - 1 - blockIdx.z) * TILE;
    float scale = ORRI_LOG2_E * a.scale;
    float out[4][COLS] = {}, max[4] = {ORRI_LEAST_SCORE, ORRI_LEAST_SCORE, ORRI_LEAST_SCORE, ORRI_LEAST_SCORE}, sum[4] = {};
    struct orri_attention_span seen = look<false>(w, a, blockIdx.x, i0);

    for (int j0 = seen.from; j0 < seen.to; j0 += TILE) {
        float p[4][4];

        rows_by_rows(w, p, q, i0, k, j0);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int i = i0 + 4 * side_y() + r, j = j0 + 4 * side_x();
            struct orri_attention_span sight = w->sight[4 * side_y() + r];
            uint32_t keep = kept(call, head.element, i, j);
            float top = max[r];

#pragma unroll
            for (int c = 0; c < 4; c++) {
                p[r][c] = sees(sight, j + c) ? scale * p[r][c] : -INFINITY;
                top = fmaxf(top, p[r][c]);
            }
            top = row_max(top);
            float old = exp2f(max[r] - top);

            max[r] = top;
            sum[r] *= old;
#pragma unroll
            for (int c = 0; c < COLS; c++)
                out[r][c] *= old;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                p[r][c] = exp2f(p[r][c] - top);
                sum[r] += p[r][c];
                if (!(keep >> c & 1))
                    p[r][c] = 0;
            }
        }
        weigh_rows(w, out, p, v, j0);
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int i = i0 + 4 * side_y() + r;
        float all = row_sum(sum[r]);

        if (side_x() == 0 && i < a.seq)
            call.lse[head.row + i] = max[r] / ORRI_LOG2_E + logf(all);
#pragma unroll
        for (int c = 0; c < COLS; c++)
            out[r][c] /= all;
    }
    put(out, call.dropout.scale, static_cast<T *>(call.o) + head.out, a.ld_out, i0, a.seq, a.head_dim);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* From the score s of a query and a key that it sees or not, and the gradient dp of its dropped probability: s becomes that
 * probability, but for the factor of dropout, and dp the gradient of q k. */
__device__ __forceinline__ void score_backward(const struct orri_attention_call &call, bool seen, float2 row, bool keep, float &s,
                                               float &dp)
{
    float p = !seen ? 0.0f : exp2f(ORRI_LOG2_E * call.a.scale * s - row.x);

    dp = p * ((keep ? call.dropout.scale * dp : 0.0f) - row.y);
    s = keep ? p : 0.0f;
}

__device__ __forceinline__ float2 row_of(const struct orri_attention_call &call, int64_t first, int i)
{
    return i < call.a.seq ? call.rows[first + i] : make_float2(0, 0);
}

template <typename T, int COLS>
__global__ void __launch_bounds__(THREADS) backward_queries(struct orri_attention_call call)
{
    auto w = reinterpret_cast<struct memory<COLS> *>(orri_shared_memory());
    const struct orri_attention &a = call.a;
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, blockIdx.y);
    const struct matrix<T> q = {static_cast<const T *>(call.q) + head.in, a.ld, a.seq, a.head_dim};
    const struct matrix<T> k = {static_cast<const T *>(call.k) + head.keys, a.ld, a.seq, a.head_dim};
    const struct matrix<T> v = {static_cast<const T *>(call.v) + head.keys, a.ld, a.seq, a.head_dim};
    const struct matrix<T> d_o = {static_cast<const T *>(call.d_o) + head.out, a.ld_out, a.seq, a.head_dim};
    int i0 = (int)(gridDim.z - 1 - blockIdx.z) * TILE;
    float dq[4][COLS] = {};
    struct orri_attention_span seen = look<false>(w, a, blockIdx.x, i0);

    for (int j0 = seen.from; j0 < seen.to; j0 += TILE) {
        float s[4][4], ds[4][4];

        rows_by_rows(w, s, q, i0, k, j0);
        rows_by_rows(w, ds, d_o, i0, v, j0);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int i = i0 + 4 * side_y() + r, j = j0 + 4 * side_x();
            struct orri_attention_span sight = w->sight[4 * side_y() + r];
            uint32_t keep = kept(call, head.element, i, j);
            float2 row = row_of(call, head.row, i);

#pragma unroll
            for (int c = 0; c < 4; c++)
                score_backward(call, sees(sight, j + c), row, keep >> c & 1, s[r][c], ds[r][c]);
        }
        weigh_rows(w, dq, ds, k, j0);
    }
    put(dq, a.scale, static_cast<T *>(call.dq) + head.dq, (int64_t)a.heads * a.head_dim, i0, a.seq, a.head_dim);
}

/* What query head `head` adds to the gradients of a tile of keys and values. */
template <typename T, int COLS>
__device__ __forceinline__ void backward_head(struct memory<COLS> *w, const struct orri_attention_call &call,
                                              const struct orri_attention_head &head, struct orri_attention_span seen, int j0,
                                              const struct matrix<T> &k, const struct matrix<T> &v, float (&sum_k)[4][COLS],
                                              float (&sum_v)[4][COLS])
{
    const struct orri_attention &a = call.a;
    const struct matrix<T> q = {static_cast<const T *>(call.q) + head.in, a.ld, a.seq, a.head_dim};
    const struct matrix<T> d_o = {static_cast<const T *>(call.d_o) + head.out, a.ld_out, a.seq, a.head_dim};

    for (int i0 = seen.from; i0 < seen.to; i0 += TILE) {
        float s[4][4], ds[4][4];

        rows_by_rows(w, s, k, j0, q, i0);
        rows_by_rows(w, ds, v, j0, d_o, i0);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int i = i0 + 4 * side_x() + c, j = j0 + 4 * side_y();
            uint32_t keep = kept(call, head.element, i, j);
            float2 row = row_of(call, head.row, i);

#pragma unroll
            for (int r = 0; r < 4; r++)
                score_backward(call, sees(w->sight[4 * side_y() + r], i), row, keep >> r & 1, s[r][c], ds[r][c]);
        }
        weigh_rows(w, sum_v, s, d_o, i0);
        weigh_rows(w, sum_k, ds, q, i0);
    }
}

/* The rows of a tile are keys, of one head of them: the query heads that share it add theirs one after the other. No other block
 * reads what this one overwrites. */
template <typename T, int COLS>
__global__ void __launch_bounds__(THREADS) backward_keys(struct orri_attention_call call)
{
    auto w = reinterpret_cast<struct memory<COLS> *>(orri_shared_memory());
    const struct orri_attention &a = call.a;
    int group = a.heads / a.kv_heads, first = (int)blockIdx.y * group, j0 = (int)blockIdx.z * TILE;
    int64_t keys = orri_attention_head(a, blockIdx.x, first).keys;
    T *dk = static_cast<T *>(call.k) + keys, *dv = static_cast<T *>(call.v) + keys;
    const struct matrix<T> k = {dk, a.ld, a.seq, a.head_dim}, v = {dv, a.ld, a.seq, a.head_dim};
    float sum_k[4][COLS] = {}, sum_v[4][COLS] = {};
    struct orri_attention_span seen = look<true>(w, a, blockIdx.x, j0);

    for (int h = first; h < first + group; h++)
        backward_head(w, call, orri_attention_head(a, blockIdx.x, h), seen, j0, k, v, sum_k, sum_v);
    put(sum_k, a.scale, dk, a.ld, j0, a.seq, a.head_dim);
    put(sum_v, call.dropout.scale, dv, a.ld, j0, a.seq, a.head_dim);
}

/* ---- launches ------------------------------------------------------------------------------------------------------ */

}

/* `...` with COLS, the least that the head size fits into. */
#define WITH_COLUMNS(head_dim, ...) \
    do { \
        if ((head_dim) <= SIDE) { enum { COLS = 1 }; __VA_ARGS__; } \
        else if ((head_dim) <= 2 * SIDE) { enum { COLS = 2 }; __VA_ARGS__; } \
        else if ((head_dim) <= 4 * SIDE) { enum { COLS = 4 }; __VA_ARGS__; } \
        else if ((head_dim) <= 8 * SIDE) { enum { COLS = 8 }; __VA_ARGS__; } \
        else { enum { COLS = 16 }; __VA_ARGS__; } \
    } while (0)

void orri_attention_plain_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call)
{
    dim3 grid = orri_attention_grid(call->a, call->a.heads, TILE);

    ORRI_WITH_TYPE(dtype, WITH_COLUMNS(call->a.head_dim,
                                       orri_launch(cuda, "plain attention forward", forward<T, COLS>, grid, dim3(THREADS),
                                                   sizeof(struct memory<COLS>), *call)));
}

/* dq first: its kernel reads k and v, which the other one replaces. */
void orri_attention_plain_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call)
{
    dim3 queries = orri_attention_grid(call->a, call->a.heads, TILE);
    dim3 keys = orri_attention_grid(call->a, call->a.kv_heads, TILE);

    ORRI_WITH_TYPE(dtype, WITH_COLUMNS(call->a.head_dim,
                                       orri_launch(cuda, "plain attention backward to queries", backward_queries<T, COLS>,
                                                   queries, dim3(THREADS), sizeof(struct memory<COLS>), *call);
                                       orri_launch(cuda, "plain attention backward to keys", backward_keys<T, COLS>, keys,
                                                   dim3(THREADS), sizeof(struct memory<COLS>), *call)));
}
