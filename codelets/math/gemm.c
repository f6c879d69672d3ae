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

struct orri_product orri_product_piece(const struct orri_product *whole, int i, int m, int j, int n, int r, int k)
{
    struct orri_product p = *whole;

    p.m = m;
    p.n = n;
    p.k = k;
    p.a = orri_in_matrix(p.dtype, p.a, p.lda, p.trans_a ? r : i, p.trans_a ? i : r);
    p.b = orri_in_matrix(p.dtype, p.b, p.ldb, p.trans_b ? j : r, p.trans_b ? r : j);
    p.bias = p.bias ? orri_element(p.dtype, p.bias, (size_t)j) : NULL;
    return p;
}

void orri_product_finish(const struct orri_product *p, size_t at, size_t n, float *x)
{
    float room[ORRI_MOST_COLUMNS];

    if (p->epilogue != ORRI_EPILOGUE_NONE) {
        void *aux = orri_element(p->dtype, p->aux, at);
        if (p->epilogue == ORRI_EPILOGUE_ACTIVATION) {
            orri_round(p->dtype, n, x, aux);
            orri_activate(p->activation, n, orri_wide(p->dtype, n, aux, room), x);
        } else {
            orri_activate_backward(p->activation, n, x, orri_wide(p->dtype, n, aux, room), x);
        }
    }
    orri_round(p->c_dtype, n, x, orri_element(p->c_dtype, p->c, at));
}

/* Of rows whose product lies in aux or C, rounded. */
static void apply_epilogue(const struct orri_product *p, int first, int rows)
{
    const void *product = p->epilogue == ORRI_EPILOGUE_ACTIVATION ? p->aux : p->c;
    float x[ORRI_MOST_COLUMNS];

    for (int r = first; r < first + rows; r++)
        for (int j = 0; j < p->n; j += ORRI_MOST_COLUMNS) {
            size_t n = p->n - j < ORRI_MOST_COLUMNS ? (size_t)(p->n - j) : ORRI_MOST_COLUMNS;
            size_t at = (size_t)r * (size_t)p->ldc + (size_t)j;
            orri_widen(p->dtype, n, orri_element(p->dtype, product, at), x);
            orri_product_finish(p, at, n, x);
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
    const struct orri_product p = orri_product_piece(whole, i, m, j, n, 0, whole->k);

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
    void *c = p->epilogue == ORRI_EPILOGUE_ACTIVATION ? p->aux : p->c;

    if (!few && orri_onednn_product(p))
        return;
    copy_addend(p, c);
    if (!few || !orri_few_rows_product(p, c))
        product_by_parts(p, c);
    if (p->epilogue != ORRI_EPILOGUE_NONE)
        ORRI_TEAM_FOR(p->m, 1 + ORRI_MOST_COLUMNS / p->n, r, n, apply_epilogue(p, r, n));
}
