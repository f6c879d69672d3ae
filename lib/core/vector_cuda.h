/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors in device memory: sums, copies, conversions.
 *
 * Every function enqueues its work on cuda->stream and returns; after a failure (cuda->code) it does nothing. Pointers are
 * to device memory. `void` arrays have elements of the dtype named (ORR_F32, ORR_BF16 or ORR_F16), aligned to an element at
 * least; what is computed in between is fp32, and a result is rounded once, to nearest even. */
#ifndef ORRI_VECTOR_CUDA_H
#define ORRI_VECTOR_CUDA_H

#include <stddef.h>

#include <orrery/cuda.h>
#include <orrery/dtype.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y[k] += x[k]. */
void orri_cuda_add(struct orr_cuda *cuda, enum orr_dtype dtype, size_t count, const void *x, void *y);

/* x[k] *= factor. */
void orri_cuda_scale(struct orr_cuda *cuda, size_t count, float factor, float *x);

/* to[k] = from[k], rounded to the nearest even of to_dtype. */
void orri_cuda_convert(struct orr_cuda *cuda, size_t count, enum orr_dtype from_dtype, const void *from,
                       enum orr_dtype to_dtype, void *to);

/* Copies; fills with zero bytes. Row strides in bytes. */
void orri_cuda_copy(struct orr_cuda *cuda, size_t bytes, const void *from, void *to);
void orri_cuda_copy_rows(struct orr_cuda *cuda, size_t rows, size_t row_bytes, const void *from, size_t from_stride,
                         void *to, size_t to_stride);
void orri_cuda_zero(struct orr_cuda *cuda, size_t bytes, void *to);

#ifdef __cplusplus
}
#endif
#endif
