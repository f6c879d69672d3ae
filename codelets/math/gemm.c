/* SPDX-License-Identifier: Apache-2.0 */
#include <cblas.h>
#include <string.h>

#include "codelets/math/math_cpu.h"
#include "codelets/math/product_cpu.h"
#include "core/core.h"

void orri_gemm(bool trans_a, bool trans_b, int m, int n, int k, const float *a, int lda, const float *b, int ldb,
               float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, m, n, k, 1.0f,
                a, lda, b, ldb, beta, c, ldc);
}

/* ---- what surrounds a product -------------------------------------------------------------------------------------- */

static char *row_of(enum orr_dtype dtype, const void *x, int ld, int r)
{
    return (char *)x + (size_t)r * (size_t)ld * orr_dtype_size(dtype);
}

/* The product is to be added to `add`, which is elsewhere. */
static void copy_addend(const struct orri_product *p, void *c)
{
    size_t bytes = (size_t)p->n * orr_dtype_size(p->c_dtype);

    for (int r = 0; p->add && p->add != c && r < p->m; r++)
        memcpy(row_of(p->c_dtype, c, p->ldc, r), row_of(p->c_dtype, p->add, p->ldc, r), bytes);
}

enum { PIECE = 4096 };      /* elements that are widened at a time */

static void apply_epilogue(const struct orri_product *p)
{
    bool forward = p->epilogue == ORRI_EPILOGUE_GELU;
    float aux[PIECE], c[PIECE];

    for (int r = 0; p->epilogue != ORRI_EPILOGUE_NONE && r < p->m; r++) {
        char *to = row_of(p->dtype, p->c, p->ldc, r), *with = row_of(p->dtype, p->aux, p->ldc, r);
        for (int j = 0; j < p->n; j += PIECE, to += PIECE * orr_dtype_size(p->dtype), with += PIECE * orr_dtype_size(p->dtype)) {
            size_t n = p->n - j < PIECE ? (size_t)(p->n - j) : PIECE;
            orri_widen(p->dtype, n, with, aux);
            if (forward) {
                orri_bias_gelu(1, (int)n, aux, NULL, c);
            } else {
                orri_widen(p->dtype, n, to, c);
                orri_gelu_backward(n, c, aux, c);
            }
            orri_round(p->dtype, n, c, to);
        }
    }
}

/* ---- by OpenBLAS -------------------------------------------------------------------------------------------------------- */

static void product_f32(const struct orri_product *p, float *c)
{
    for (int r = 0; p->bias && r < p->m; r++) {
        float *row = c + (size_t)r * (size_t)p->ldc;
        orri_bias_rows(1, p->n, p->add ? row : NULL, p->bias, row);
    }
    orri_gemm(p->trans_a, p->trans_b, p->m, p->n, p->k, p->a, p->lda, p->b, p->ldb, p->add || p->bias ? 1 : 0, c, p->ldc);
}

/* ---- of widened blocks ----------------------------------------------------------------------------------------------------- */

enum { BLOCK = 512 };       /* rows and columns of a block */

/* Rows r .. r + rows - 1 and columns j .. of op(X), where op(X) is X or X^T, as they lie in X. */
static void widen_block(enum orr_dtype dtype, bool transposed, const void *x, int ld, int r, int rows, int j, int columns,
                        float *to)
{
    int first = transposed ? j : r, count = transposed ? columns : rows, from = transposed ? r : j, n = transposed ? rows : columns;

    for (int i = 0; i < count; i++)
        orri_widen(dtype, (size_t)n, row_of(dtype, x, ld, first + i) + (size_t)from * orr_dtype_size(dtype), to + (size_t)i * BLOCK);
}

static void product_widened(const struct orri_product *p, void *c)
{
    float *a = orri_kernel_scratch(3 * (size_t)BLOCK * BLOCK * sizeof(*a)), *b = a + BLOCK * BLOCK, *sum = b + BLOCK * BLOCK;
    size_t size = orr_dtype_size(p->c_dtype);

    for (int i = 0; i < p->m; i += BLOCK)
        for (int j = 0; j < p->n; j += BLOCK) {
            int m = p->m - i < BLOCK ? p->m - i : BLOCK, n = p->n - j < BLOCK ? p->n - j : BLOCK;
            for (int r = 0; r < m; r++) {
                float *row = sum + (size_t)r * BLOCK;
                memset(row, 0, (size_t)n * sizeof(*row));
                if (p->bias)
                    orri_widen(p->dtype, (size_t)n, (const char *)p->bias + (size_t)j * orr_dtype_size(p->dtype), row);
                if (p->add) {
                    orri_widen(p->c_dtype, (size_t)n, row_of(p->c_dtype, c, p->ldc, i + r) + (size_t)j * size, a);
                    orri_add((size_t)n, a, row);
                }
            }
            for (int l = 0; l < p->k; l += BLOCK) {
                int k = p->k - l < BLOCK ? p->k - l : BLOCK;
                widen_block(p->dtype, p->trans_a, p->a, p->lda, i, m, l, k, a);
                widen_block(p->dtype, p->trans_b, p->b, p->ldb, l, k, j, n, b);
                orri_gemm(p->trans_a, p->trans_b, m, n, k, a, BLOCK, b, BLOCK, 1, sum, BLOCK);
            }
            for (int r = 0; r < m; r++)
                orri_round(p->c_dtype, (size_t)n, sum + (size_t)r * BLOCK, row_of(p->c_dtype, c, p->ldc, i + r) + (size_t)j * size);
        }
}

void orri_cpu_gemm(const struct orri_product *p)
{
    void *c = p->epilogue == ORRI_EPILOGUE_GELU ? p->aux : p->c;

    copy_addend(p, c);
    if (orri_few_rows_product(p, c))
        ;
    else if (p->dtype == ORR_F32)
        product_f32(p, c);
    else if (!orri_onednn_product(p, c))
        product_widened(p, c);
    apply_epilogue(p);
}
