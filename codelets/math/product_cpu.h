/* SPDX-License-Identifier: Apache-2.0 */
/* The ways that a product goes on a CPU but for OpenBLAS. Both: the product, with bias, to c, which holds the addend already, if
 * there is one; false: not here. */
#ifndef ORRI_PRODUCT_CPU_H
#define ORRI_PRODUCT_CPU_H

#include <stdbool.h>

#include "codelets/math/math.h"

/* Of bf16, by oneDNN, where it has an implementation for the processor. Primitives are made once per thread, size of its team, and
 * shape. */
bool orri_onednn_product(const struct orri_product *product, void *c);

/* Of any dtype, from blocks that are widened to fp32. */
void orri_widened_product(const struct orri_product *product, void *c);

/* Of any dtype, of at most so many rows of A, and B read as it lies. */
enum { ORRI_FEW_ROWS = 4 };
bool orri_few_rows_product(const struct orri_product *product, void *c);

#endif
