/* SPDX-License-Identifier: Apache-2.0 */
/* Products of bf16 by oneDNN, where it has an implementation for the processor. */
#ifndef ORRI_PRODUCT_CPU_H
#define ORRI_PRODUCT_CPU_H

#include <stdbool.h>

#include "codelets/math/math.h"

/* The product, with bias, to c, which holds the addend already, if there is one; false: not here. Primitives are made once per
 * thread, size of its team, and shape. */
bool orri_onednn_product(const struct orri_product *product, void *c);

#endif
