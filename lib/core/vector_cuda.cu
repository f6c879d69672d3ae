/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vector_cuda.h"
#include "core/kernel_cuda.h"

namespace {

template <typename T> struct add {
    const T *x;
    T *y;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t k) const
    {
        float a[N], b[N];

        orri_load<N>(x + k, a);
        orri_load<N>(y + k, b);
        for (int i = 0; i < N; i++)
            b[i] += a[i];
        orri_store<N>(y + k, b);
    }
};

struct scale {
    float factor, *x;

    enum { wide = orri_wide<float> };
    template <int N> __device__ void at(size_t k) const
    {
        float a[N];

        orri_load<N>(x + k, a);
        for (int i = 0; i < N; i++)
            a[i] *= factor;
        orri_store<N>(x + k, a);
    }
};

/* 16 bytes of the narrower type at once. */
template <typename From, typename To> struct convert {
    const From *from;
    To *to;

    enum { wide = orri_wide<From> > orri_wide<To> ? orri_wide<From> : orri_wide<To> };
    template <int N> __device__ void at(size_t k) const
    {
        float a[N];

        orri_load<N>(from + k, a);
        orri_store<N>(to + k, a);
    }
};

template <typename From>
void convert_from(struct orr_cuda *cuda, size_t count, const From *from, enum orr_dtype to_dtype, void *to)
{
    ORRI_WITH_TYPE(to_dtype, orri_each(cuda, "convert", count, orri_is_wide(from, to),
                                       convert<From, T>{from, static_cast<T *>(to)}));
}

}

void orri_cuda_add(struct orr_cuda *cuda, enum orr_dtype dtype, size_t count, const void *x, void *y)
{
    ORRI_WITH_TYPE(dtype, orri_each(cuda, "add", count, orri_is_wide(x, y),
                                    add<T>{static_cast<const T *>(x), static_cast<T *>(y)}));
}

void orri_cuda_scale(struct orr_cuda *cuda, size_t count, float factor, float *x)
{
    orri_each(cuda, "scale", count, orri_is_wide(x), scale{factor, x});
}

void orri_cuda_convert(struct orr_cuda *cuda, size_t count, enum orr_dtype from_dtype, const void *from,
                       enum orr_dtype to_dtype, void *to)
{
    ORRI_WITH_TYPE(from_dtype, convert_from(cuda, count, static_cast<const T *>(from), to_dtype, to));
}

void orri_cuda_copy(struct orr_cuda *cuda, size_t bytes, const void *from, void *to)
{
    if (!cuda->code && bytes > 0)
        orri_cuda_check(cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, orri_stream(cuda)), "cudaMemcpyAsync");
}

void orri_cuda_copy_rows(struct orr_cuda *cuda, size_t rows, size_t row_bytes, const void *from, size_t from_stride,
                         void *to, size_t to_stride)
{
    if (!cuda->code && rows > 0 && row_bytes > 0)
        orri_cuda_check(cuda, cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows, cudaMemcpyDeviceToDevice,
                                                orri_stream(cuda)), "cudaMemcpy2DAsync");
}

void orri_cuda_zero(struct orr_cuda *cuda, size_t bytes, void *to)
{
    if (!cuda->code && bytes > 0)
        orri_cuda_check(cuda, cudaMemsetAsync(to, 0, bytes, orri_stream(cuda)), "cudaMemsetAsync");
}
