/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "codelets/math/attention_cuda.h"
#include "core/device.h"
#include "core/launch_cuda.h"

namespace {

enum { WARP = 32, WARPS = 8, ROWS = 64 };       /* of a block of row_products() */

bool aligned(const void *x, int64_t ld, size_t size)
{
    return (uintptr_t)x % 16 == 0 && (size_t)ld * size % 16 == 0;
}

bool is_half(enum orr_dtype dtype)
{
    return dtype == ORR_BF16 || dtype == ORR_F16;
}

/* What cuDNN is asked for, but for dropout and addresses. */
bool cudnn_shape(enum orr_dtype dtype, const struct orri_attention *a)
{
    return is_half(dtype) && orri_attention_is_causal(a) && orri_attention_group(a) == 1 && a->seq > 1 &&
           a->head_dim % 8 == 0 && a->head_dim <= 128;
}

/* Scratch of the kernels here is dq, then rows. */
size_t dq_bytes(const struct orri_attention *a, enum orr_dtype dtype)
{
    size_t bytes = (size_t)a->batch * (size_t)a->seq * (size_t)a->heads * (size_t)a->head_dim * orr_dtype_size(dtype);

    return (bytes + 15) / 16 * 16;
}

/* rows of every query. */
template <typename T> __global__ void row_products(struct orri_attention_call call)
{
    const struct orri_attention &a = call.a;
    struct orri_attention_head head = orri_attention_head(a, blockIdx.x, blockIdx.y);
    const T *o = static_cast<const T *>(call.o) + head.out, *d_o = static_cast<const T *>(call.d_o) + head.out;
    int first = (int)blockIdx.z * ROWS, end = first + ROWS < a.seq ? first + ROWS : a.seq;

    for (int i = first + (int)threadIdx.x / WARP; i < end; i += WARPS) {
        float sum = 0;

        for (int d = (int)threadIdx.x % WARP; d < a.head_dim; d += WARP)
            sum += orri_to_float(o[i * a.ld_out + d]) * orri_to_float(d_o[i * a.ld_out + d]);
#pragma unroll
        for (int other = WARP / 2; other; other /= 2)
            sum += __shfl_xor_sync(~0u, sum, other);
        if (threadIdx.x % WARP == 0)
            call.rows[head.row + i] = make_float2(ORRI_LOG2_E * call.lse[head.row + i], sum);
    }
}

struct orri_attention_call call_of(struct orr_cuda *cuda, const struct orri_attention *a)
{
    struct orri_attention_call call = {};

    if (a->head_dim > ORRI_ATTENTION_DIM) {
        char reason[80];

        snprintf(reason, sizeof(reason), "a head size of %d, where %d is the most", a->head_dim, ORRI_ATTENTION_DIM);
        orr_cuda_fail(cuda, "attention", reason);
    }
    call.a = *a;
    call.a.kv_heads = a->heads / orri_attention_group(a);
    call.dropout = orri_device_dropout(&a->dropout);
    return call;
}

}

enum orri_attention_path orri_cuda_attention_path(bool cudnn, enum orr_dtype dtype, const struct orri_attention *a,
                                                  const void *q, const void *k, const void *v, const void *o,
                                                  const void *d_o)
{
    size_t size = orr_dtype_size(dtype);

    if (!is_half(dtype) || !aligned(q, a->ld, size) || !aligned(k, a->ld, size) || !aligned(v, a->ld, size) ||
        !aligned(o, a->ld_out, size) || !aligned(d_o, a->ld_out, size))
        return ORRI_ATTENTION_PLAIN;
    if (cudnn && cudnn_shape(dtype, a) && a->dropout.p == 0)
        return ORRI_ATTENTION_CUDNN;
    return a->head_dim == 64 || a->head_dim == 128 ? ORRI_ATTENTION_TENSOR : ORRI_ATTENTION_PLAIN;
}

size_t orri_cuda_attention_forward_scratch(const struct orri_attention *, enum orr_dtype)
{
    return 0;
}

size_t orri_cuda_attention_backward_scratch(const struct orri_attention *a, enum orr_dtype dtype)
{
    size_t own = dq_bytes(a, dtype) + (size_t)a->batch * (size_t)a->heads * (size_t)a->seq * sizeof(float2);
    size_t cudnn = orri_devices_use_cudnn() && cudnn_shape(dtype, a) ? orri_attention_cudnn_scratch(a) : 0;

    return own > cudnn ? own : cudnn;
}

void orri_cuda_attention_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, const void *q,
                                 const void *k, const void *v, void *o, float *lse, void *)
{
    struct orri_attention_call call = call_of(cuda, a);

    call.q = const_cast<void *>(q);
    call.k = const_cast<void *>(k);
    call.v = const_cast<void *>(v);
    call.o = o;
    call.lse = lse;
    if (orri_cuda_attention_path(orri_devices_use_cudnn(), dtype, a, q, k, v, o, NULL) == ORRI_ATTENTION_CUDNN &&
        orri_attention_cudnn_forward(cuda, dtype, &call))
        return;
    if (orri_cuda_attention_path(false, dtype, a, q, k, v, o, NULL) == ORRI_ATTENTION_TENSOR)
        orri_attention_tensor_forward(cuda, dtype, &call);
    else
        orri_attention_plain_forward(cuda, dtype, &call);
}

void orri_cuda_attention_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention *a, void *q,
                                  void *k, void *v, const void *o, const void *d_o, const float *lse, void *scratch)
{
    struct orri_attention_call call = call_of(cuda, a);
    size_t size = orr_dtype_size(dtype), row = (size_t)a->heads * (size_t)a->head_dim * size;

    call.q = q;
    call.k = k;
    call.v = v;
    call.o = const_cast<void *>(o);
    call.lse = const_cast<float *>(lse);
    call.d_o = d_o;
    if (orri_cuda_attention_path(orri_devices_use_cudnn(), dtype, a, q, k, v, o, d_o) == ORRI_ATTENTION_CUDNN &&
        orri_attention_cudnn_backward(cuda, dtype, &call, scratch))
        return;
    call.dq = scratch;
    call.rows = reinterpret_cast<float2 *>(static_cast<unsigned char *>(scratch) + dq_bytes(a, dtype));
    ORRI_WITH_TYPE(dtype, orri_launch(cuda, "attention row products", row_products<T>,
                                      orri_attention_grid(*a, a->heads, ROWS), dim3(WARPS * WARP), 0, call));
    if (orri_cuda_attention_path(false, dtype, a, q, k, v, o, d_o) == ORRI_ATTENTION_TENSOR)
        orri_attention_tensor_backward(cuda, dtype, &call);
    else
        orri_attention_plain_backward(cuda, dtype, &call);
    orri_cuda_copy_rows(cuda, (size_t)a->batch * (size_t)a->seq, row, call.dq, row, q, (size_t)a->ld * size);
}
