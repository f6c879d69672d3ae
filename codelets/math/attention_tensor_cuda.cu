/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by tensor cores: Dao et al. 2022, Dao 2023.
 *
 * A block owns some rows and meets the others as a stream of tiles in shared memory, the next of which arrives while one is
 * computed with; a warp owns 16 or 32 of the block's rows for good. All products are of a warp's rows with rows of a tile:
 * scores stand in its registers as the first product leaves them, which is how the second one takes them, so they pass
 * through no memory.
 *
 * The backward pass is two kernels, one whose blocks own queries and give dq, and one whose blocks own keys and give dk and
 * dv. Both compute the scores and the gradients of the probabilities: seven products where one kernel would do with five.
 * But that one would have to add dq up in memory across blocks, in fp32: in an order only by blocks that wait for each other,
 * or from a copy of dq for every tile of keys, which is T x T floats again; and its scores would have to go through shared
 * memory to be multiplied from the other side. */
#include <limits.h>
#include <math.h>

#include "codelets/math/attention_cuda.h"
#include "codelets/math/ptx_cuda.h"
#include "core/device_cuda.h"
#include "core/launch_cuda.h"

namespace {

enum { WARP = 32, PIECE = 16 };     /* PIECE: columns whose dropout is one word of 16 bits */

/* The number of the warp, the same register in all lanes. */
__device__ __forceinline__ int warp()
{
    return __shfl_sync(~0u, (int)threadIdx.x / WARP, 0);
}

/* How a kernel for head size D cuts its work: warps and 16-row tiles of each, rows of a tile of the stream and of what is in
 * registers of one, blocks on a processor. Two tiles make a warp read the stream half as often. Chosen so that no register is
 * spilled where queries see all that lies before them (elsewhere up to 60 bytes of a thread are), within the 99 KiB of shared
 * memory that a block may have on every device. */
template <int D, bool DROP> struct forward_shape;
template <> struct forward_shape<64, false> { enum { WARPS = 4, TILES = 2, STREAM = 64, BLOCKS = 3 }; };
template <> struct forward_shape<64, true> { enum { WARPS = 4, TILES = 1, STREAM = 64, BLOCKS = 3 }; };
template <> struct forward_shape<128, false> { enum { WARPS = 4, TILES = 2, STREAM = 64, BLOCKS = 2 }; };
template <> struct forward_shape<128, true> { enum { WARPS = 4, TILES = 1, STREAM = 64, BLOCKS = 3 }; };
template <int D, bool DROP> struct dq_shape { enum { WARPS = 4, TILES = 2, STREAM = 64, STEP = 32, BLOCKS = 3 }; };
template <bool DROP> struct dq_shape<128, DROP> { enum { WARPS = 4, TILES = 2, STREAM = 32, STEP = 32, BLOCKS = 2 }; };
template <int D, bool DROP> struct dkv_shape;
template <> struct dkv_shape<64, false> { enum { WARPS = 4, TILES = 2, STREAM = 64, STEP = 32, BLOCKS = 2 }; };
template <> struct dkv_shape<64, true> { enum { WARPS = 4, TILES = 1, STREAM = 64, STEP = 32, BLOCKS = 3 }; };
template <bool DROP> struct dkv_shape<128, DROP> { enum { WARPS = 8, TILES = 1, STREAM = 32, STEP = 32, BLOCKS = 1 }; };

/* What follows from that: S is one of the above. */
template <typename S, int D> struct cut {
    enum {
        THREADS = S::WARPS * WARP,
        MINE = 16 * S::TILES,               /* rows of a warp                                   */
        OWN = S::WARPS * MINE,              /* rows of a block                                  */
        OWN_SIZE = OWN * D,                 /* elements of such a tile                          */
        STREAM_SIZE = S::STREAM * D
    };
};

/* ---- tiles in shared memory ---------------------------------------------------------------------------------- */

/* Where the 8 elements from column 8 c on are. The chunks of a row change places with its number, so that those of 8 rows
 * that ldmatrix reads together lie in 8 different groups of banks. c is in bits of its own: chunk c ^ x is at place ^ 8 x. */
template <int D>
__device__ __forceinline__ int place(int row, int c)
{
    return (row * D + row % 8 * 8) ^ c * 8;
}

/* Begins to bring rows first .. first + ROWS - 1 of x, which has `rows`; those past them become zero. */
template <int D, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void bring(T *tile, const T *x, int64_t ld, int first, int rows)
{
    const int chunks = D / 8, apart = THREADS / chunks;
    static_assert(ROWS % apart == 0 && apart % 8 == 0, "whole turns of all threads");
    int thread = orri_anew((int)threadIdx.x), row = thread / chunks, c = thread % chunks;

    x += (first + row) * ld;
#pragma unroll 4
    for (int k = 0; k < ROWS; k += apart, x += apart * ld)
        orri_copy_async<16>(tile + place<D>(row, c) + k * D, x + c * 8, first + row + k < rows);
}

/* The same of what a row has beside its elements; ROWS are no more than threads. */
template <int ROWS>
__device__ __forceinline__ void bring_rows(float2 *tile, const float2 *x, int first, int rows)
{
    int row = (int)threadIdx.x;

    if (row < ROWS)
        orri_copy_async<8>(tile + row, x + first + row, first + row < rows);
}

/* Rounds factor x, the warp's rows, into `tile`, whose rows of this warp nobody reads any more, and from there, whole
 * chunks at a time, to rows first .. of y. */
template <int D, int TILES, typename T>
__device__ __forceinline__ void put(const float (&x)[TILES][D / 8][4], float factor, T *tile, int row, T *y, int64_t ld,
                                    int first, int rows)
{
    const int chunks = D / 8;
    int lane = threadIdx.x % WARP;

    __syncwarp();
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < chunks; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                T *to = tile + (place<D>(row + lane / 4, n) + (16 * t + 8 * half) * D + lane % 4 * 2);

                *reinterpret_cast<uint32_t *>(to) = orri_pair<T>(factor * x[t][n][2 * half], factor * x[t][n][2 * half + 1]);
            }
    __syncwarp();
#pragma unroll
    for (int k = lane; k < 16 * TILES * chunks; k += WARP) {
        int r = k / chunks, c = k % chunks;

        if (first + r < rows)
            *reinterpret_cast<uint4 *>(y + (first + r) * ld + c * 8) =
                *reinterpret_cast<const uint4 *>(tile + place<D>(row + r, c));
    }
}

/* ---- products of a warp -------------------------------------------------------------------------------------- */

/* s = rows row_a .. of a times rows row_b .. of b, by columns: s[16 TILES, COLS] = a b^T. */
template <int D, int TILES, int COLS, typename T>
__device__ __forceinline__ void rows_by_rows(float (&s)[TILES][COLS / 8][4], const T *a, int row_a, const T *b,
                                             int row_b)
{
    int lane = orri_anew((int)threadIdx.x % WARP);
    int at_a = place<D>(row_a + lane % 16, lane / 16), at_b = place<D>(row_b + lane / 16 * 8 + lane % 8, lane / 8 % 2);

#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < COLS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[t][n][e] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t left[TILES][4];

#pragma unroll
        for (int t = 0; t < TILES; t++)
            orri_ldmatrix(left[t], a + (at_a ^ 16 * k) + 16 * t * D);
#pragma unroll
        for (int n = 0; n < COLS / 16; n++) {
            uint32_t right[4];

            orri_ldmatrix(right, b + (at_b ^ 16 * k) + 16 * n * D);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                orri_mma<T>(s[t][2 * n], left[t], right[0], right[1]);
                orri_mma<T>(s[t][2 * n + 1], left[t], right[2], right[3]);
            }
        }
    }
}

/* x[16 TILES, D] += p b, b the 16 rows row_b .. of a tile. */
template <int D, int TILES, typename T>
__device__ __forceinline__ void weigh_rows(float (&x)[TILES][D / 8][4], const uint32_t (&p)[TILES][4], const T *b,
                                           int row_b)
{
    int lane = orri_anew((int)threadIdx.x % WARP);
    int at = place<D>(row_b + lane % 16, lane / 16);

#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t right[4];

        orri_ldmatrix_transposed(right, b + (at ^ 16 * n));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            orri_mma<T>(x[t][2 * n], p[t], right[0], right[1]);
            orri_mma<T>(x[t][2 * n + 1], p[t], right[2], right[3]);
        }
    }
}

/* ---- who sees whom: with SPANS, what `sight` in shared memory says; else queries all keys up to their own ------------ */

/* Of rows first .. of the block, by all of its threads. */
template <bool SPANS, bool KEY, int OWN, int THREADS>
__device__ __forceinline__ void look(struct orri_attention_span *sight, const struct orri_attention &a, int64_t b, int first)
{
    if constexpr (SPANS) {
        for (int r = (int)threadIdx.x; r < OWN; r += THREADS)
            sight[r] = orri_attention_sight<KEY>(a, b, first + r);
        __syncthreads();
    }
}

/* What row r of the block sees of the stream. Without SPANS a key is seen to the end, and a query sees from the beginning: nobody
 * needs to ask. */
template <bool SPANS, bool KEY>
__device__ __forceinline__ struct orri_attention_span seen_by(const struct orri_attention_span *sight, int first, int r)
{
    if (SPANS)
        return sight[r];
    return KEY ? orri_attention_span{first + r, INT_MAX} : orri_attention_span{0, first + r + 1};
}

/* Whether any of ROWS rows from r on sees any of COUNT of the stream from t on; whether each sees all. */
template <bool SPANS, bool KEY, int ROWS, int COUNT>
__device__ __forceinline__ bool see_any(const struct orri_attention_span *sight, int first, int r, int t)
{
    return ((!SPANS && KEY) || t < seen_by<SPANS, KEY>(sight, first, r + ROWS - 1).to) &&
           ((!SPANS && !KEY) || t + COUNT > seen_by<SPANS, KEY>(sight, first, r).from);
}

template <bool SPANS, bool KEY, int ROWS, int COUNT>
__device__ __forceinline__ bool see_all(const struct orri_attention_span *sight, int first, int r, int t)
{
    return ((!SPANS && !KEY) || t >= seen_by<SPANS, KEY>(sight, first, r + ROWS - 1).from) &&
           ((!SPANS && KEY) || t + COUNT <= seen_by<SPANS, KEY>(sight, first, r).to);
}

/* Hides scores of rows r .. of the block with those of the stream from t on that they do not see. */
template <bool SPANS, bool KEY, int TILES, int COLS>
__device__ __forceinline__ void hide(float (&s)[TILES][COLS][4], const struct orri_attention_span *sight, int first, int r, int t)
{
    int lane = orri_anew((int)threadIdx.x % WARP), column = t + lane % 4 * 2;

#pragma unroll
    for (int k = 0; k < 2 * TILES; k++) {
        struct orri_attention_span seen = seen_by<SPANS, KEY>(sight, first, r + 8 * k + lane / 4);
        int from = seen.from - column, to = seen.to - column;

#pragma unroll
        for (int n = 0; n < COLS; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (((SPANS || KEY) && 8 * n + e < from) || ((SPANS || !KEY) && 8 * n + e >= to))
                    s[k / 2][n][k % 2 * 2 + e] = -INFINITY;
    }
}

/* ---- dropout ------------------------------------------------------------------------------------------------- */

/* Draws for queries i0 .. and keys j0 ..: bit j % PIECE of keep[i][j / PIECE]. Without SPANS those above the diagonal are left
 * out. */
template <bool SPANS, int QUERIES, int KEYS, int THREADS>
__device__ __forceinline__ void draw(uint16_t *keep, const struct orri_attention_call &call, uint64_t element, int i0,
                                     int j0)
{
#pragma unroll 1
    for (int k = orri_anew((int)threadIdx.x); k < QUERIES * (KEYS / PIECE); k += THREADS) {
        int i = i0 + k / (KEYS / PIECE), j = j0 + k % (KEYS / PIECE) * PIECE;

        if (SPANS || j <= i)
            keep[k] = (uint16_t)orri_attention_kept<PIECE>(
                call.dropout, element + (uint64_t)i * (uint64_t)call.a.seq + (uint64_t)j);
    }
}

template <bool DROP>
__device__ __forceinline__ float dropped(const struct orri_device_dropout &d, bool kept, float x)
{
    return !DROP ? x : kept ? d.scale * x : 0.0f;
}

/* ---- forward: blocks of queries, a stream of keys --------------------------------------------------------------- */

/* Over the four lanes that share a row. */
__device__ __forceinline__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

template <typename T, int D, bool DROP, bool SPANS>
__global__ void __launch_bounds__(forward_shape<D, DROP>::WARPS * WARP, forward_shape<D, DROP>::BLOCKS)
    forward(struct orri_attention_call call)
{
    using S = forward_shape<D, DROP>;
    using C = cut<S, D>;
    const struct orri_attention &a = call.a;
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, blockIdx.y);
    const T *k = static_cast<const T *>(call.k) + head.keys, *v = static_cast<const T *>(call.v) + head.keys;
    T *tile_q = reinterpret_cast<T *>(orri_shared_memory());
    T *tile_k = tile_q + C::OWN_SIZE, *tile_v = tile_k + C::STREAM_SIZE;
    uint16_t *keep = reinterpret_cast<uint16_t *>(tile_v + C::STREAM_SIZE);
    auto sight = reinterpret_cast<struct orri_attention_span *>(keep + (DROP ? C::OWN * (S::STREAM / PIECE) : 0));
    /* Late queries see most keys: they begin first. */
    int i0 = (int)(gridDim.z - 1 - blockIdx.z) * C::OWN;
    int mine = warp() * C::MINE, lane = threadIdx.x % WARP;
    float scale = ORRI_LOG2_E * a.scale;
    float out[S::TILES][D / 8][4] = {}, max[S::TILES][2], sum[S::TILES][2] = {};

#pragma unroll
    for (int t = 0; t < S::TILES; t++)
        max[t][0] = max[t][1] = ORRI_LEAST_SCORE;
    look<SPANS, false, C::OWN, C::THREADS>(sight, a, blockIdx.x, i0);
    int begin = seen_by<SPANS, false>(sight, i0, 0).from / S::STREAM * S::STREAM;
    int end = min(seen_by<SPANS, false>(sight, i0, C::OWN - 1).to, a.seq);

    bring<D, C::OWN, C::THREADS>(tile_q, static_cast<const T *>(call.q) + head.in, a.ld, i0, a.seq);
    bring<D, S::STREAM, C::THREADS>(tile_k, k, a.ld, begin, a.seq);
    orri_copies_commit();
    for (int j0 = begin; j0 < end; j0 += S::STREAM) {
        bool visible = see_any<SPANS, false, C::MINE, S::STREAM>(sight, i0, mine, j0);
        float s[S::TILES][S::STREAM / 8][4];

        /* The keys are there, and nobody reads the values before them any more. */
        orri_copies_wait<0>();
        __syncthreads();
        bring<D, S::STREAM, C::THREADS>(tile_v, v, a.ld, j0, a.seq);
        orri_copies_commit();
        if (DROP)
            draw<SPANS, C::OWN, S::STREAM, C::THREADS>(keep, call, head.element, i0, j0);
        if (visible)
            rows_by_rows<D, S::TILES, S::STREAM>(s, tile_q, mine, tile_k, 0);
        orri_copies_wait<0>();
        __syncthreads();
        if (j0 + S::STREAM < end)
            bring<D, S::STREAM, C::THREADS>(tile_k, k, a.ld, j0 + S::STREAM, a.seq);
        orri_copies_commit();
        if (!visible)
            continue;
        if (!see_all<SPANS, false, C::MINE, S::STREAM>(sight, i0, mine, j0))
            hide<SPANS, false>(s, sight, i0, mine, j0);
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = max[t][half];

#pragma unroll
                for (int n = 0; n < S::STREAM / 8; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        top = fmaxf(top, s[t][n][2 * half + e]);
                top = row_max(top);
                float old = orri_exp2(scale * (max[t][half] - top));

                max[t][half] = top;
                sum[t][half] *= old;
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    out[t][n][2 * half] *= old;
                    out[t][n][2 * half + 1] *= old;
                }
            }
#pragma unroll
        for (int k = 0; k < S::STREAM / 16; k++) {
            uint32_t p[S::TILES][4];

#pragma unroll
            for (int t = 0; t < S::TILES; t++)
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    int half = m % 2, n = 2 * k + m / 2, row = mine + 16 * t + 8 * half + lane / 4;
                    uint32_t kept = DROP ? keep[row * (S::STREAM / PIECE) + k] >> (m / 2 * 8 + lane % 4 * 2) : 3;
                    float shift = -scale * max[t][half];
                    float x = orri_exp2(fmaf(scale, s[t][n][2 * half], shift));
                    float y = orri_exp2(fmaf(scale, s[t][n][2 * half + 1], shift));

                    sum[t][half] += x + y;
                    p[t][m] = orri_pair<T>(kept & 1 ? x : 0.0f, kept & 2 ? y : 0.0f);
                }
            weigh_rows<D, S::TILES>(out, p, tile_v, 16 * k);
        }
    }
#pragma unroll
    for (int t = 0; t < S::TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = i0 + mine + 16 * t + 8 * half + lane / 4;
            float all = row_sum(sum[t][half]), factor = (DROP ? call.dropout.scale : 1.0f) / all;

            if (lane % 4 == 0 && i < a.seq)
                call.lse[head.row + i] = a.scale * max[t][half] + logf(all);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[t][n][2 * half] *= factor;
                out[t][n][2 * half + 1] *= factor;
            }
        }
    put<D>(out, 1, tile_q, mine, static_cast<T *>(call.o) + head.out, a.ld_out, i0 + mine, a.seq);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Blocks of queries, a stream of keys and values: dq. */
template <typename T, int D, bool DROP, bool SPANS>
__global__ void __launch_bounds__(dq_shape<D, DROP>::WARPS * WARP, dq_shape<D, DROP>::BLOCKS)
    backward_queries(struct orri_attention_call call)
{
    using S = dq_shape<D, DROP>;
    using C = cut<S, D>;
    const struct orri_attention &a = call.a;
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, blockIdx.y);
    const T *k = static_cast<const T *>(call.k) + head.keys, *v = static_cast<const T *>(call.v) + head.keys;
    T *tile_q = reinterpret_cast<T *>(orri_shared_memory());
    T *tile_d_o = tile_q + C::OWN_SIZE, *stream = tile_d_o + C::OWN_SIZE;
    float2 *rows = reinterpret_cast<float2 *>(stream + 4 * C::STREAM_SIZE);
    auto keep = reinterpret_cast<uint16_t (*)[C::OWN * (S::STREAM / PIECE)]>(rows + C::OWN);
    auto sight = reinterpret_cast<struct orri_attention_span *>(keep + (DROP ? 2 : 0));
    int i0 = (int)(gridDim.z - 1 - blockIdx.z) * C::OWN;
    int mine = warp() * C::MINE, lane = threadIdx.x % WARP;
    float scale = ORRI_LOG2_E * a.scale;
    float dq[S::TILES][D / 8][4] = {};
    auto begin = [&](int j0, int turn) {
        T *tile = stream + turn * 2 * C::STREAM_SIZE;

        bring<D, S::STREAM, C::THREADS>(tile, k, a.ld, j0, a.seq);
        bring<D, S::STREAM, C::THREADS>(tile + C::STREAM_SIZE, v, a.ld, j0, a.seq);
        orri_copies_commit();
        if (DROP)
            draw<SPANS, C::OWN, S::STREAM, C::THREADS>(keep[turn], call, head.element, i0, j0);
    };

    bring<D, C::OWN, C::THREADS>(tile_q, static_cast<const T *>(call.q) + head.in, a.ld, i0, a.seq);
    bring<D, C::OWN, C::THREADS>(tile_d_o, static_cast<const T *>(call.d_o) + head.out, a.ld_out, i0, a.seq);
    bring_rows<C::OWN>(rows, call.rows + head.row, i0, a.seq);
    look<SPANS, false, C::OWN, C::THREADS>(sight, a, blockIdx.x, i0);
    int from = seen_by<SPANS, false>(sight, i0, 0).from / S::STREAM * S::STREAM;
    int end = min(seen_by<SPANS, false>(sight, i0, C::OWN - 1).to, a.seq);

    begin(from, 0);
    for (int j0 = from, turn = 0; j0 < end; j0 += S::STREAM, turn ^= 1) {
        const T *tile_k = stream + turn * 2 * C::STREAM_SIZE, *tile_v = tile_k + C::STREAM_SIZE;

        /* This turn's tiles are there, and nobody reads those of the turn before any more. */
        orri_copies_wait<0>();
        __syncthreads();
        if (j0 + S::STREAM < end)
            begin(j0 + S::STREAM, turn ^ 1);
#pragma unroll 1
        for (int step = 0; step < S::STREAM; step += S::STEP) {
            if (!see_any<SPANS, false, C::MINE, S::STEP>(sight, i0, mine, j0 + step))
                continue;
            float s[S::TILES][S::STEP / 8][4], dp[S::TILES][S::STEP / 8][4];

            rows_by_rows<D, S::TILES, S::STEP>(s, tile_q, mine, tile_k, step);
            rows_by_rows<D, S::TILES, S::STEP>(dp, tile_d_o, mine, tile_v, step);
            if (!see_all<SPANS, false, C::MINE, S::STEP>(sight, i0, mine, j0 + step))
                hide<SPANS, false>(s, sight, i0, mine, j0 + step);
#pragma unroll
            for (int k = 0; k < S::STEP / 16; k++) {
                uint32_t ds[S::TILES][4];

#pragma unroll
                for (int t = 0; t < S::TILES; t++)
#pragma unroll
                    for (int m = 0; m < 4; m++) {
                        int half = m % 2, n = 2 * k + m / 2;
                        int i = mine + 16 * t + 8 * half + lane / 4, j = step + 8 * n + lane % 4 * 2;
                        uint32_t kept = DROP ? keep[turn][i * (S::STREAM / PIECE) + j / PIECE] >> j % PIECE : 0;
                        float2 row = rows[i];
                        float x[2];

#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float p = orri_exp2(fmaf(scale, s[t][n][2 * half + e], -row.x));

                            x[e] = p * (dropped<DROP>(call.dropout, kept >> e & 1, dp[t][n][2 * half + e]) - row.y);
                        }
                        ds[t][m] = orri_pair<T>(x[0], x[1]);
                    }
                weigh_rows<D, S::TILES>(dq, ds, tile_k, step + 16 * k);
            }
        }
    }
    put<D>(dq, a.scale, tile_q, mine, static_cast<T *>(call.dq) + head.dq, (int64_t)a.heads * D, i0 + mine, a.seq);
}

/* Blocks of keys and values, a stream of queries and d_o, those of the heads that share them one after the other: dk and dv, in the
 * place of k and v, of which no other block reads these rows. Scores stand transposed, a row for a key. */
template <typename T, int D, bool DROP, bool SPANS>
__global__ void __launch_bounds__(dkv_shape<D, DROP>::WARPS * WARP, dkv_shape<D, DROP>::BLOCKS)
    backward_keys(struct orri_attention_call call)
{
    using S = dkv_shape<D, DROP>;
    using C = cut<S, D>;
    const struct orri_attention &a = call.a;
    int heads = a.heads / a.kv_heads;   /* that are left */
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, (int)blockIdx.y * heads);
    const T *q = static_cast<const T *>(call.q) + head.in, *d_o = static_cast<const T *>(call.d_o) + head.out;
    T *k = static_cast<T *>(call.k) + head.keys, *v = static_cast<T *>(call.v) + head.keys;
    T *tile_k = reinterpret_cast<T *>(orri_shared_memory());
    T *tile_v = tile_k + C::OWN_SIZE, *stream = tile_v + C::OWN_SIZE;
    auto rows = reinterpret_cast<float2 (*)[S::STREAM]>(stream + 4 * C::STREAM_SIZE);
    auto keep = reinterpret_cast<uint16_t (*)[S::STREAM * (C::OWN / PIECE)]>(rows + 2);
    auto sight = reinterpret_cast<struct orri_attention_span *>(keep + (DROP ? 2 : 0));
    int j0 = (int)blockIdx.z * C::OWN;
    int mine = warp() * C::MINE, lane = threadIdx.x % WARP;
    float scale = ORRI_LOG2_E * a.scale;
    float dk[S::TILES][D / 8][4] = {}, dv[S::TILES][D / 8][4] = {};
    auto begin = [&](int i0, int turn) {
        T *tile = stream + turn * 2 * C::STREAM_SIZE;

        bring<D, S::STREAM, C::THREADS>(tile, q, a.ld, i0, a.seq);
        bring<D, S::STREAM, C::THREADS>(tile + C::STREAM_SIZE, d_o, a.ld_out, i0, a.seq);
        bring_rows<S::STREAM>(rows[turn], call.rows + head.row, i0, a.seq);
        orri_copies_commit();
        if (DROP)
            draw<SPANS, S::STREAM, C::OWN, C::THREADS>(keep[turn], call, head.element, i0, j0);
    };

    bring<D, C::OWN, C::THREADS>(tile_k, k, a.ld, j0, a.seq);
    bring<D, C::OWN, C::THREADS>(tile_v, v, a.ld, j0, a.seq);
    look<SPANS, true, C::OWN, C::THREADS>(sight, a, blockIdx.x, j0);
    int from = seen_by<SPANS, true>(sight, j0, 0).from / S::STREAM * S::STREAM;
    int end = min(seen_by<SPANS, true>(sight, j0, C::OWN - 1).to, a.seq);

    begin(from, 0);
    for (int i0 = from, next, turn = 0; heads; i0 = next, turn ^= 1) {
        const T *tile_q = stream + turn * 2 * C::STREAM_SIZE, *tile_d_o = tile_q + C::STREAM_SIZE;

        orri_copies_wait<0>();
        __syncthreads();
        next = i0 + S::STREAM;
        if (next >= end) {
            next = from;
            heads--;
            q += D;
            d_o += D;
            head.row += a.seq;
            head.element += (uint64_t)a.seq * (uint64_t)a.seq;
        }
        if (heads)
            begin(next, turn ^ 1);
#pragma unroll 1
        for (int step = 0; step < S::STREAM; step += S::STEP) {
            float s[S::TILES][S::STEP / 8][4], dp[S::TILES][S::STEP / 8][4];

            if (!see_any<SPANS, true, C::MINE, S::STEP>(sight, j0, mine, i0 + step))
                continue;
            rows_by_rows<D, S::TILES, S::STEP>(s, tile_k, mine, tile_q, step);
            rows_by_rows<D, S::TILES, S::STEP>(dp, tile_v, mine, tile_d_o, step);
            if (!see_all<SPANS, true, C::MINE, S::STEP>(sight, j0, mine, i0 + step))
                hide<SPANS, true>(s, sight, j0, mine, i0 + step);
#pragma unroll
            for (int k = 0; k < S::STEP / 16; k++) {
                uint32_t p[S::TILES][4], ds[S::TILES][4];

#pragma unroll
                for (int t = 0; t < S::TILES; t++)
#pragma unroll
                    for (int m = 0; m < 4; m++) {
                        int half = m % 2, n = 2 * k + m / 2, j = mine + 16 * t + 8 * half + lane / 4;
                        float x[2], y[2];

#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            int i = step + 8 * n + lane % 4 * 2 + e;
                            bool kept = !DROP || keep[turn][i * (C::OWN / PIECE) + j / PIECE] >> j % PIECE & 1;
                            float2 row = rows[turn][i];
                            float all = orri_exp2(fmaf(scale, s[t][n][2 * half + e], -row.x));

                            x[e] = kept ? all : 0.0f;
                            y[e] = all * (dropped<DROP>(call.dropout, kept, dp[t][n][2 * half + e]) - row.y);
                        }
                        p[t][m] = orri_pair<T>(x[0], x[1]);
                        ds[t][m] = orri_pair<T>(y[0], y[1]);
                    }
                weigh_rows<D, S::TILES>(dv, p, tile_d_o, step + 16 * k);
                weigh_rows<D, S::TILES>(dk, ds, tile_q, step + 16 * k);
            }
        }
    }
    put<D>(dk, a.scale, tile_k, mine, k, a.ld, j0 + mine, a.seq);
    put<D>(dv, DROP ? call.dropout.scale : 1.0f, tile_v, mine, v, a.ld, j0 + mine, a.seq);
}

/* ---- launches ------------------------------------------------------------------------------------------------------ */

template <typename T, int D, bool DROP, bool SPANS> void forward_of(struct orr_cuda *cuda, const struct orri_attention_call *call)
{
    using S = forward_shape<D, DROP>;
    using C = cut<S, D>;
    size_t shared = (C::OWN_SIZE + 2 * C::STREAM_SIZE) * sizeof(T) + (DROP ? C::OWN * S::STREAM / 8 : 0) +
                    (SPANS ? C::OWN * sizeof(struct orri_attention_span) : 0);

    orri_launch(cuda, "attention forward", forward<T, D, DROP, SPANS>, orri_attention_grid(call->a, call->a.heads, C::OWN),
                dim3(C::THREADS), shared, *call);
}

/* dq first: its kernel reads k and v, which the other one replaces. */
template <typename T, int D, bool DROP, bool SPANS> void backward_of(struct orr_cuda *cuda, const struct orri_attention_call *call)
{
    using Q = dq_shape<D, DROP>;
    using CQ = cut<Q, D>;
    using K = dkv_shape<D, DROP>;
    using CK = cut<K, D>;
    size_t shared_q = (2 * CQ::OWN_SIZE + 4 * CQ::STREAM_SIZE) * sizeof(T) + CQ::OWN * sizeof(float2) +
                      (DROP ? 2 * CQ::OWN * Q::STREAM / 8 : 0) + (SPANS ? CQ::OWN * sizeof(struct orri_attention_span) : 0);
    size_t shared_k = (2 * CK::OWN_SIZE + 4 * CK::STREAM_SIZE) * sizeof(T) + 2 * K::STREAM * sizeof(float2) +
                      (DROP ? 2 * CK::OWN * K::STREAM / 8 : 0) + (SPANS ? CK::OWN * sizeof(struct orri_attention_span) : 0);

    orri_launch(cuda, "attention backward to queries", backward_queries<T, D, DROP, SPANS>,
                orri_attention_grid(call->a, call->a.heads, CQ::OWN), dim3(CQ::THREADS), shared_q, *call);
    orri_launch(cuda, "attention backward to keys", backward_keys<T, D, DROP, SPANS>,
                orri_attention_grid(call->a, call->a.kv_heads, CK::OWN), dim3(CK::THREADS), shared_k, *call);
}

}

/* function<T, D, DROP, SPANS> for a call of bf16 or fp16. */
#define WITH_SHAPE(function, cuda, dtype, call) \
    do { \
        if ((dtype) == ORR_BF16) \
            WITH_HEAD(function, __nv_bfloat16, cuda, call); \
        else \
            WITH_HEAD(function, __half, cuda, call); \
    } while (0)
#define WITH_HEAD(function, T, cuda, call) \
    do { \
        if ((call)->a.head_dim == 64) \
            WITH_SIGHT(function, T, 64, cuda, call); \
        else \
            WITH_SIGHT(function, T, 128, cuda, call); \
    } while (0)
#define WITH_SIGHT(function, T, D, cuda, call) \
    do { \
        bool drop = (call)->dropout.least; \
        auto with = orri_attention_is_causal(&(call)->a) ? drop ? function<T, D, true, false> : function<T, D, false, false> \
                                                         : drop ? function<T, D, true, true> : function<T, D, false, true>; \
        with(cuda, call); \
    } while (0)

void orri_attention_tensor_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call)
{
    WITH_SHAPE(forward_of, cuda, dtype, call);
}

void orri_attention_tensor_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call)
{
    WITH_SHAPE(backward_of, cuda, dtype, call);
}
