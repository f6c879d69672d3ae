/* SPDX-License-Identifier: Apache-2.0 */
/* How orri_cuda_gemm() asks for a product: what follows from sizes and addresses alone. */
#ifndef ORRI_GEMM_CUDA_H
#define ORRI_GEMM_CUDA_H

#include "codelets/math/math_cuda.h"

enum { ORRI_MOST_ALIGNED = 256 };   /* bytes; more makes no difference to cuBLASLt */

struct orri_product_way {
    bool fused;                         /* there is a bias or an epilogue, and cuBLASLt may have it with the product       */
    int a, b, c, add, bias, aux;        /* bytes, a power of two, that the addresses are multiples of; NULL: the most      */
};

/* Pure. */
struct orri_product_way orri_product_way(const struct orri_product *product);

#endif
