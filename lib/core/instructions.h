/* SPDX-License-Identifier: Apache-2.0 */
/* What the processor's instructions are used for. */
#ifndef ORRI_INSTRUCTIONS_H
#define ORRI_INSTRUCTIONS_H

#include <stdbool.h>

/* How a CPU multiplies matrices of bf16, with sums in fp32: by tiles (AMX); by dot products (AVX-512 bf16), except on Intel's
 * processors, where they have half the rate of fp32's multiply-add; or widened to fp32. What DNNL_MAX_CPU_ISA rules out is not
 * used. */
enum orri_bf16_products { ORRI_BF16_WIDENED, ORRI_BF16_BY_DOT, ORRI_BF16_BY_AMX };
enum orri_bf16_products orri_bf16_products(void);

/* For tests, while no product is on its way: another one. False where the processor does not have it. */
bool orri_bf16_products_choose(enum orri_bf16_products way);

/* Bits of the vectors that oneDNN makes code for here: 512 (AVX-512), 256 (AVX2), or 0: it has nothing faster than plain C. It asks
 * for instructions; OpenBLAS knows processors by name, and takes its slowest kernels for those that are newer than itself. */
int orri_onednn_vector_bits(void);

#endif
