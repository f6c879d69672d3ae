/* SPDX-License-Identifier: Apache-2.0 */
/* Products of small fp32 matrices, which are in the caches and lie as the processor wants them: nothing is packed. One thread. */
#ifndef ORRI_SMALL_PRODUCT_H
#define ORRI_SMALL_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>

/* Columns of B and C come in multiples of it. */
#define ORRI_SMALL_LANES 16

/* Row strides of A. */
enum { ORRI_SMALL = 64, ORRI_SMALL_WIDE = 256 };

/* How A [m,depth] lies: by rows, which begin ORRI_SMALL or ORRI_SMALL_WIDE floats apart, or transposed, in rows of any stride. */
enum orri_small_order { ORRI_SMALL_ROWS, ORRI_SMALL_WIDE_ROWS, ORRI_SMALL_TRANSPOSED };

/* C[m,n] = A[m,depth] B[depth,n], added to C if `add`; n a multiple of ORRI_SMALL_LANES. Row strides: lda of a transposed A, ldb, ldc.
 * C does not overlap the others. */
void orri_small_product(enum orri_small_order order, int m, int n, int depth, const float *a, ptrdiff_t lda, const float *b,
                       ptrdiff_t ldb, bool add, float *c, ptrdiff_t ldc);

/* y[j][r] = scale x[r][j], r = 0..rows-1, j = 0..columns-1. */
void orri_small_transpose(int rows, int columns, float scale, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy);

#endif
