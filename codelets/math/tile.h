/* SPDX-License-Identifier: Apache-2.0 */
/* Products of small fp32 matrices, which are in the caches and lie as the processor wants them: nothing is packed. One thread. */
#ifndef ORRI_TILE_H
#define ORRI_TILE_H

#include <stdbool.h>
#include <stddef.h>

/* Columns of B and C come in multiples of it. */
#define ORRI_TILE_LANES 16

enum { ORRI_TILE = 64, ORRI_WIDE_TILE = 256 };

/* How A [m,depth] lies: by rows, which begin ORRI_TILE or ORRI_WIDE_TILE floats apart, or transposed, in rows of any stride. */
enum orri_tile_order { ORRI_TILE_ROWS, ORRI_TILE_WIDE_ROWS, ORRI_TILE_TRANSPOSED };

/* C[m,n] = A[m,depth] B[depth,n], added to C if `add`; n a multiple of ORRI_TILE_LANES. Row strides: lda of a transposed A, ldb, ldc.
 * C does not overlap the others. */
void orri_tile_product(enum orri_tile_order order, int m, int n, int depth, const float *a, ptrdiff_t lda, const float *b,
                       ptrdiff_t ldb, bool add, float *c, ptrdiff_t ldc);

/* y[j][r] = scale x[r][j], r = 0..rows-1, j = 0..columns-1. */
void orri_tile_transpose(int rows, int columns, float scale, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy);

#endif
