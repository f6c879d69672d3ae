/* SPDX-License-Identifier: Apache-2.0 */
#include <cub/device/device_radix_sort.cuh>

#include "codelets/math/math_cuda.h"
#include "core/kernel_cuda.h"

namespace {

enum {
    SUM_WARPS = 8,          /* of a block that sums up the gradient of a token              */
    SUM_AHEAD = 4           /* rows that each of them reads at once                          */
};

/* ---- tables to rows ------------------------------------------------------------------------------------------------ */

/* Row r is position first_position + r % positions of sequence r / positions. */
template <typename T> struct embed {
    unsigned positions;
    size_t width, seq, first_position;
    const int32_t *ids;
    int64_t first, count;
    const T *table, *position;
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        unsigned b = (unsigned)r / positions, t = (unsigned)r % positions;
        int64_t id = ids[b * seq + first_position + t] - first;
        float sum[N] = {}, v[N];

        if (id >= 0 && id < count)
            orri_load<N>(table + id * (int64_t)width + j, sum);
        if (position) {
            orri_load<N>(position + (first_position + t) * width + j, v);
            for (int i = 0; i < N; i++)
                sum[i] += v[i];
        }
        orri_store<N>(y + r * width + j, sum);
    }
};

/* ---- and back -------------------------------------------------------------------------------------------------------- */

/* Row t is a position. */
template <typename T> struct position_backward {
    int batch;
    size_t width, count;    /* count: elements of a sequence */
    const T *dy;
    float *dposition;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t t, size_t j) const
    {
        size_t k = t * width + j;
        float sum[N] = {}, v[N];

        for (int b = 0; b < batch; b++) {
            orri_load<N>(dy + b * count + k, v);
            for (int i = 0; i < N; i++)
                sum[i] += v[i];
        }
        orri_load<N>(dposition + k, v);
        for (int i = 0; i < N; i++)
            v[i] += sum[i];
        orri_store<N>(dposition + k, v);
    }
};

/* The row of the table that each row of dy belongs to, `count` where it is none's. */
struct rows_of_ids {
    unsigned positions;
    size_t seq, first_position;
    const int32_t *ids;
    int64_t first, count;
    uint32_t *row;
    int32_t *from;

    enum { wide = 1 };
    template <int N> __device__ void at(size_t k) const
    {
        unsigned b = (unsigned)k / positions, t = (unsigned)k % positions;
        int64_t id = ids[b * seq + first_position + t] - first;

        row[k] = (uint32_t)(id >= 0 && id < count ? id : count);
        from[k] = (int32_t)k;
    }
};

/* Each block the rows of dy from `k` on that belong to one row of the table: a warp every SUM_WARPS-th, then the warps one after
 * the other. */
template <int N, typename T>
__global__ void __launch_bounds__(32 * SUM_WARPS)
embed_backward(int total, size_t width, uint32_t count, const uint32_t *rows, const int32_t *from, const T *dy, float *dtable)
{
    __shared__ float part[SUM_WARPS][32 * N];
    int k = (int)blockIdx.x, lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    uint32_t row = rows[k];
    size_t columns = (size_t)blockIdx.y * 32 * N, j = columns + (size_t)lane * N;
    float sum[N] = {};

    if (row >= count || (k > 0 && rows[k - 1] == row))
        return;
    for (int at = k + warp; j < width; at += SUM_WARPS * SUM_AHEAD) {
        bool mine[SUM_AHEAD];
        float v[SUM_AHEAD][N];

#pragma unroll
        for (int u = 0; u < SUM_AHEAD; u++) {
            int next = at + u * SUM_WARPS;

            mine[u] = next < total && rows[next] == row;
            if (mine[u])
                orri_load<N>(dy + from[next] * width + j, v[u]);
        }
#pragma unroll
        for (int u = 0; u < SUM_AHEAD; u++)
            for (int i = 0; i < N && mine[u]; i++)
                sum[i] += v[u][i];
        if (!mine[SUM_AHEAD - 1])
            break;
    }
    for (int i = 0; i < N; i++)
        part[warp][i * 32 + lane] = sum[i];
    __syncthreads();
    for (int i = warp; i < N; i += SUM_WARPS) {
        size_t column = columns + (size_t)(lane * N + i);
        float all = 0;

        if (column >= width)
            break;
        for (int w = 0; w < SUM_WARPS; w++)
            all += part[w][i * 32 + lane];
        dtable[row * width + column] += all;
    }
}

/* What the sort takes for itself beside its input and output, as much at least as CUB asks for. */
size_t sort_bytes(size_t count)
{
    return 12 * count + (64 << 10);
}

size_t array_bytes(size_t count)
{
    return (count * sizeof(int32_t) + 255) & ~(size_t)255;
}

int bits_of(int64_t number)
{
    int bits = 1;

    while (number >> bits)
        bits++;
    return bits;
}

template <typename T>
void sum_rows(struct orr_cuda *cuda, int total, size_t width, int64_t count, const uint32_t *rows, const int32_t *from,
              const T *dy, float *dtable)
{
    constexpr int WIDE = orri_wide<T>;
    bool wide = width % WIDE == 0 && orri_is_wide(dy);

    orri_launch(cuda, "embed_backward", wide ? embed_backward<WIDE, T> : embed_backward<1, T>,
                dim3((unsigned)total, orri_pieces(width, wide ? 32 * WIDE : 32)), dim3(32, SUM_WARPS), 0, total, width, count,
                rows, from, dy, dtable);
}

}

void orri_cuda_embed(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width,
                     const int32_t *ids, int64_t first, int64_t count, const void *table, const void *position, void *y)
{
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "embed", (size_t)batch * (size_t)at.count, (size_t)width,
                                    orri_is_wide(table, position, y),
                                    embed<T>{(unsigned)at.count, (size_t)width, (size_t)seq, (size_t)at.first, ids, first, count,
                                             static_cast<const T *>(table), static_cast<const T *>(position),
                                             static_cast<T *>(y)}));
}

size_t orri_cuda_embed_backward_scratch(int batch, int positions)
{
    size_t count = (size_t)batch * (size_t)positions;

    return 4 * array_bytes(count) + sort_bytes(count);
}

void orri_cuda_embed_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, int seq, struct orr_part at, int width,
                              const int32_t *ids, int64_t first, int64_t count, const void *dy, float *dtable,
                              void *scratch)
{
    int total = batch * (int)at.count;
    size_t array = array_bytes((size_t)total), bytes = 0, room = sort_bytes((size_t)total);
    char *place = static_cast<char *>(scratch);
    uint32_t *row = reinterpret_cast<uint32_t *>(place), *row_sorted = reinterpret_cast<uint32_t *>(place + array);
    int32_t *from = reinterpret_cast<int32_t *>(place + 2 * array), *from_sorted = reinterpret_cast<int32_t *>(place + 3 * array);

    orri_each(cuda, "rows_of_ids", (size_t)total, false,
              rows_of_ids{(unsigned)at.count, (size_t)seq, (size_t)at.first, ids, first, count, row, from});
    if (cuda->code)
        return;
    if (!orri_cuda_check(cuda, cub::DeviceRadixSort::SortPairs(NULL, bytes, row, row_sorted, from, from_sorted, total, 0,
                                                               bits_of(count), orri_stream(cuda)), "DeviceRadixSort"))
        return;
    if (bytes > room) {
        orr_cuda_fail(cuda, "DeviceRadixSort", "it takes more scratch than was foreseen");
        return;
    }
    if (!orri_cuda_check(cuda, cub::DeviceRadixSort::SortPairs(place + 4 * array, bytes, row, row_sorted, from, from_sorted,
                                                               total, 0, bits_of(count), orri_stream(cuda)), "DeviceRadixSort"))
        return;
    ORRI_WITH_TYPE(dtype, sum_rows(cuda, total, (size_t)width, count, row_sorted, from_sorted, static_cast<const T *>(dy),
                                   dtable));
}

void orri_cuda_position_backward(struct orr_cuda *cuda, enum orr_dtype dtype, int batch, struct orr_part at, int width,
                                 const void *dy, float *dposition)
{
    float *to = dposition + at.first * width;

    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "position_backward", (size_t)at.count, (size_t)width, orri_is_wide(dy, to),
                                    position_backward<T>{batch, (size_t)width, (size_t)at.count * (size_t)width,
                                                         static_cast<const T *>(dy), to}));
}
