/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of kernels share: a device, arrays of every element type on it, and what rounding to one may be off by. */
#ifndef TESTS_DEVICE_H
#define TESTS_DEVICE_H

#include <check.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/cuda.h>
#include <orrery/dtype.h>

#include "tests/math/reference.h"

/* ---- the device: a stream and a handle as a worker has them ------------------------------------------------------- */

static struct orr_cuda device;

#define CUDA(call) assert_that((call) == cudaSuccess)

/* Ends the program as skipped where there is no device. */
static inline void begin_device(void)
{
    int devices = 0;
    cudaStream_t stream;
    cublasLtHandle_t blas;

    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        puts("skipped: there is no CUDA device");
        exit(77);
    }
    if (cudaStreamCreate(&stream) != cudaSuccess || cublasLtCreate(&blas) != CUBLAS_STATUS_SUCCESS ||
        cudaMalloc(&device.workspace, ORR_CUDA_WORKSPACE) != cudaSuccess) {
        puts("the CUDA device cannot be used");
        exit(EXIT_FAILURE);
    }
    device.stream = stream;
    device.blas = blas;
}

/* Waits for what was enqueued, which must not have failed. */
static inline void finish(void)
{
    if (device.code)
        ck_abort_msg("%s", device.what);
    CUDA(cudaStreamSynchronize(device.stream));
}

/* ---- element types ---------------------------------------------------------------------------------------------- */

static const enum orr_dtype dtypes[] = {ORR_F32, ORR_BF16, ORR_F16};
enum { DTYPES = 3 };

static inline uint16_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return isnan(x) ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

static inline uint16_t f16_of(float x)
{
    int exponent;
    uint16_t sign = signbit(x) ? 0x8000 : 0;

    if (isnan(x))
        return 0x7fff;
    if (isinf(x))
        return sign | 0x7c00;
    frexp((double)x, &exponent);
    if (exponent < -13 || x == 0)
        exponent = -13;             /* of subnormals */
    double units = nearbyint(ldexp(fabs((double)x), 11 - exponent));
    int bits = (exponent + 13) * 1024 + (int)units;
    return sign | (uint16_t)(exponent > 16 || bits > 0x7c00 ? 0x7c00 : bits);
}

static inline float from_f16(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double x = exponent == 0    ? ldexp(fraction, -24)
               : exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                                : ldexp(fraction + 1024, exponent - 25);

    return (float)(half & 0x8000 ? -x : x);
}

static inline float rounded(enum orr_dtype dtype, float x)
{
    return dtype == ORR_BF16 ? from_bf16(bf16_of(x)) : dtype == ORR_F16 ? from_f16(f16_of(x)) : x;
}

/* Half a unit in the last place, of `want`: what rounding to the nearest may be off by. */
static inline double rounding(enum orr_dtype dtype, double want)
{
    switch (dtype) {
    case ORR_BF16: return fabs(want) * 0x1p-8 + 0x1p-134;
    case ORR_F16: return fabs(want) * 0x1p-11 + 0x1p-25;
    default: return fabs(want) * 0x1p-24 + 0x1p-150;
    }
}

/* ---- arrays ------------------------------------------------------------------------------------------------------- */

enum { GUARD = 256 };       /* bytes on either side, which must stay as they are */

struct array {
    enum orr_dtype dtype;
    size_t count;
    unsigned char *base;    /* of the allocation */
    void *data;             /* on the device     */
};

static inline size_t array_bytes(const struct array *a)
{
    return a->count * orr_dtype_size(a->dtype);
}

/* From values, which are rounded to dtype; `shift` elements behind an address that is a multiple of 256. */
static inline struct array put(enum orr_dtype dtype, size_t count, float *values, size_t shift)
{
    struct array a = {dtype, count, NULL, NULL};
    size_t size = orr_dtype_size(dtype), bytes = GUARD + (shift + count) * size + GUARD;
    unsigned char *host = malloc(bytes);

    assert_that(host);
    memset(host, 0x5a, bytes);
    for (size_t i = 0; i < count; i++) {
        unsigned char *to = host + GUARD + (shift + i) * size;
        uint16_t half = dtype == ORR_BF16 ? bf16_of(values[i]) : f16_of(values[i]);

        if (size == 4)
            memcpy(to, &values[i], 4);
        else
            memcpy(to, &half, 2);
        values[i] = rounded(dtype, values[i]);
    }
    CUDA(cudaMalloc((void **)&a.base, bytes));
    CUDA(cudaMemcpy(a.base, host, bytes, cudaMemcpyHostToDevice));
    free(host);
    a.data = a.base + GUARD + shift * size;
    return a;
}

/* Bytes of an array as the device has them. To be freed. */
static inline void *bytes_of(const struct array *a)
{
    void *bytes = malloc(array_bytes(a) + 1);

    assert_that(bytes);
    finish();
    CUDA(cudaMemcpy(bytes, a->data, array_bytes(a), cudaMemcpyDeviceToHost));
    return bytes;
}

/* Its values, after everything enqueued. To be freed. */
static inline float *get(const struct array *a)
{
    void *bytes = bytes_of(a);
    float *values = malloc((a->count + 1) * sizeof(*values));

    assert_that(values);
    for (size_t i = 0; i < a->count; i++) {
        uint16_t half;

        if (a->dtype == ORR_F32) {
            memcpy(&values[i], (char *)bytes + 4 * i, 4);
        } else {
            memcpy(&half, (char *)bytes + 2 * i, 2);
            values[i] = a->dtype == ORR_BF16 ? from_bf16(half) : from_f16(half);
        }
    }
    free(bytes);
    return values;
}

/* Nothing was written around it. */
static inline void drop(struct array *a)
{
    size_t from = (size_t)((unsigned char *)a->data - a->base), to = from + array_bytes(a), end = to + GUARD;
    unsigned char *all = malloc(end);

    assert_that(all);
    finish();
    CUDA(cudaMemcpy(all, a->base, end, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < end; i++)
        if ((i < from || i >= to) && all[i] != 0x5a)
            ck_abort_msg("byte %td of %zu was written", (ptrdiff_t)(i - from), to - from);
    CUDA(cudaFree(a->base));
    free(all);
}

static inline void assert_same(const struct array *a, const struct array *b)
{
    void *x = bytes_of(a), *y = bytes_of(b);

    ck_assert_uint_eq(array_bytes(a), array_bytes(b));
    ck_assert_mem_eq(x, y, array_bytes(a));
    free(x);
    free(y);
}

/* An array of integers; memory of no type, which holds what an allocation holds. To be freed by cudaFree(). */
static inline int32_t *put_ids(size_t count, const int32_t *ids)
{
    int32_t *to;

    CUDA(cudaMalloc((void **)&to, count * sizeof(*ids)));
    CUDA(cudaMemcpy(to, ids, count * sizeof(*ids), cudaMemcpyHostToDevice));
    return to;
}

static inline void *room(size_t bytes)
{
    void *to;

    CUDA(cudaMalloc(&to, bytes ? bytes : 1));
    return to;
}

static inline void drop_room(void *room)
{
    finish();
    CUDA(cudaFree(room));
}
#endif
