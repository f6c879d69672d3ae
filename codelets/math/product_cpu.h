/* SPDX-License-Identifier: Apache-2.0 */
/* The ways that a product goes on a CPU but for orri_gemm(). False: not here, and nothing was done. */
#ifndef ORRI_PRODUCT_CPU_H
#define ORRI_PRODUCT_CPU_H

#include <stdbool.h>
#include <stddef.h>

#include "codelets/math/math.h"

/* All of it, by oneDNN, where that has a fast implementation for the processor, the dtype and the shape: fp32, bf16 by instructions
 * for it, or bf16 and fp16 widened to fp32 as they are copied (orri_bf16_products()). Primitives are made once per thread, size of
 * its team, and shape. */
bool orri_onednn_product(const struct orri_product *product);

/* Bytes of the copies that it keeps of parameters [k,n], or [n,k] transposed, from one version to the next; at most, of one number
 * of rows of A. */
size_t orri_onednn_kept(enum orr_dtype dtype, int k, int n);

/* The next two: the product, with bias, to c, which holds the addend already, if there is one; no epilogue. */

/* Of any dtype, from blocks that are widened to fp32. */
void orri_widened_product(const struct orri_product *product, void *c);

/* Of any dtype, of at most so many rows of A, not transposed, and B read as it lies. */
enum { ORRI_FEW_ROWS = 4 };
bool orri_few_rows_product(const struct orri_product *product, void *c);

/* What the ways share: A, B and bias of rows i .. i + m - 1 and columns j .. j + n - 1 of the result, of terms r .. r + k - 1. */
struct orri_product orri_product_piece(const struct orri_product *product, int i, int m, int j, int n, int r, int k);

/* x[n], elements of the product with bias and addend from element `at` of C on, become C there: by the epilogue, with aux, rounded. x
 * is overwritten. */
enum { ORRI_MOST_COLUMNS = 6144 };      /* n at most */
void orri_product_finish(const struct orri_product *product, size_t at, size_t n, float *x);

#endif
