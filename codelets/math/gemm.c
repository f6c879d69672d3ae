/* SPDX-License-Identifier: Apache-2.0 */
#include <cblas.h>
#include <dnnl.h>
#include <omp.h>
#include <string.h>

#include "codelets/math/elements.h"
#include "codelets/math/math_cpu.h"
#include "codelets/math/product_cpu.h"
#include "core/core.h"
#include "core/instructions.h"
#include "core/team.h"

void orri_gemm(bool trans_a, bool trans_b, int m, int n, int k, const float *a, int lda, const float *b, int ldb,
               float beta, float *c, int ldc)
{
    if (orri_onednn_vector_bits() > 0) {
        omp_set_num_threads(1);
        dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, m, n, k, 1.0f,
                a, lda, b, ldb, beta, c, ldc);
}

/* ---- what surrounds a product -------------------------------------------------------------------------------------- */

/* The product is to be added to `add`, which is elsewhere. */
static void copy_addend(const struct orri_product *p, void *c)
{
    size_t size = orr_dtype_size(p->c_dtype), stride = (size_t)p->ldc * size;

    if (p->add && p->add != c)
        orri_cpu_copy_rows((size_t)p->m, (size_t)p->n * size, p->add, stride, c, stride);
}

enum { PIECE = 4096 };      /* elements that are widened at a time */

static void apply_epilogue(const struct orri_product *p, int first, int rows)
{
    float aux_room[PIECE], c_room[PIECE];

    for (int r = first; r < first + rows; r++)
        for (int j = 0; j < p->n; j += PIECE) {
            size_t n = p->n - j < PIECE ? (size_t)(p->n - j) : PIECE;
            void *to = orri_in_matrix(p->dtype, p->c, p->ldc, r, j);
            float *aux = orri_begin_with(p->dtype, n, orri_in_matrix(p->dtype, p->aux, p->ldc, r, j), aux_room);
            float *c = orri_begin(p->dtype, to, c_room);
            if (p->epilogue == ORRI_EPILOGUE_GELU)
                orri_bias_gelu(1, (int)n, aux, NULL, c);
            else
                orri_gelu_backward(n, orri_wide(p->dtype, n, to, c_room), aux, c);
            orri_end(p->dtype, n, c, to);
        }
}

/* ---- in fp32 ------------------------------------------------------------------------------------------------------------ */

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
        orri_widen(dtype, (size_t)n, orri_in_matrix(dtype, x, ld, first + i, from), to + (size_t)i * BLOCK);
}

void orri_widened_product(const struct orri_product *p, void *c)
{
    float *a = orri_kernel_scratch(3 * (size_t)BLOCK * BLOCK * sizeof(*a)), *b = a + BLOCK * BLOCK, *sum = b + BLOCK * BLOCK;

    for (int i = 0; i < p->m; i += BLOCK)
        for (int j = 0; j < p->n; j += BLOCK) {
            int m = p->m - i < BLOCK ? p->m - i : BLOCK, n = p->n - j < BLOCK ? p->n - j : BLOCK;
            for (int r = 0; r < m; r++) {
                float *row = sum + (size_t)r * BLOCK;
                memset(row, 0, (size_t)n * sizeof(*row));
                if (p->bias)
                    orri_widen(p->dtype, (size_t)n, orri_element(p->dtype, p->bias, (size_t)j), row);
                if (p->add) {
                    orri_widen(p->c_dtype, (size_t)n, orri_in_matrix(p->c_dtype, c, p->ldc, i + r, j), a);
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
                orri_round(p->c_dtype, (size_t)n, sum + (size_t)r * BLOCK, orri_in_matrix(p->c_dtype, c, p->ldc, i + r, j));
        }
}

/* ---- of parts, which a team has a thread for each ------------------------------------------------------------------------- */

/* Rows and columns of the result from i and j on, and what belongs to them. c is where they are computed. */
static void product_part(const struct orri_product *whole, void *c, int i, int m, int j, int n)
{
    struct orri_product p = *whole;

    p.m = m;
    p.n = n;
    p.a = orri_in_matrix(p.dtype, p.a, p.lda, p.trans_a ? 0 : i, p.trans_a ? i : 0);
    p.b = orri_in_matrix(p.dtype, p.b, p.ldb, p.trans_b ? j : 0, p.trans_b ? 0 : j);
    p.bias = p.bias ? orri_element(p.dtype, p.bias, (size_t)j) : NULL;
    c = orri_in_matrix(p.c_dtype, c, p.ldc, i, j);
    if (p.dtype == ORR_F32)
        product_f32(&p, c);
    else
        orri_widened_product(&p, c);
}

/* Rows or columns of a part, which is worth a thread, of so many multiplications each. */
static int lines(int64_t each)
{
    enum { LINES = 256, SMALL = 1000000 };

    return (int)(SMALL / each / LINES + 1) * LINES;
}

/* Parts from `first` on, of rows or of columns. Libraries add up in another order where a product has another size: the same parts,
 * whoever computes them, have the same bits. */
static void product_parts(const struct orri_product *p, void *c, bool rows, int first, int count, int grain)
{
    for (int i = first, n; i < first + count; i += n) {
        n = first + count - i < grain ? first + count - i : grain;
        if (rows)
            product_part(p, c, i, n, 0, p->n);
        else
            product_part(p, c, 0, p->m, i, n);
    }
}

static void product_by_parts(const struct orri_product *p, void *c)
{
    bool rows = p->m > p->n;
    int total = rows ? p->m : p->n, grain = lines((int64_t)(rows ? p->n : p->m) * p->k);

    ORRI_TEAM_FOR(total, grain, i, n, product_parts(p, c, rows, i, n, grain));
}

void orri_cpu_gemm(const struct orri_product *p)
{
    bool few = p->m <= ORRI_FEW_ROWS && !p->trans_a;
    void *c = p->epilogue == ORRI_EPILOGUE_GELU ? p->aux : p->c;

    if (!few && orri_onednn_product(p))
        return;
    copy_addend(p, c);
    if (!few || !orri_few_rows_product(p, c))
        product_by_parts(p, c);
    if (p->epilogue != ORRI_EPILOGUE_NONE)
        ORRI_TEAM_FOR(p->m, 1 + PIECE / p->n, r, n, apply_epilogue(p, r, n));
}
