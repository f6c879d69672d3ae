/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/small_product.h"

#include "codelets/math/simd_math.h"
#include "core/core.h"

#ifdef ORRI_HAS_CLONES

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define VECTOR 16
#define ROWS 14
#define PRODUCT product_v4
#define STRIP strip_v4
#define PANEL panel_v4
#define BLOCK block_v4
#define VECTOR_TYPE vector_v4
#include "codelets/math/small_product_level.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define VECTOR 8
#define ROWS 6
#define PRODUCT product_v3
#define STRIP strip_v3
#define PANEL panel_v3
#define BLOCK block_v3
#define VECTOR_TYPE vector_v3
#include "codelets/math/small_product_level.h"
#pragma GCC pop_options

#endif

/* Of any processor. */
#define VECTOR 4
#define ROWS 6
#define PRODUCT product
#define STRIP strip
#define PANEL panel
#define BLOCK block
#define VECTOR_TYPE vector
#include "codelets/math/small_product_level.h"

void orri_small_product(enum orri_small_order order, int m, int n, int depth, const float *a, ptrdiff_t lda, const float *b,
                       ptrdiff_t ldb, bool add, float *c, ptrdiff_t ldc)
{
#ifdef ORRI_HAS_CLONES
    if (__builtin_cpu_supports("x86-64-v4"))
        product_v4(order, m, n, depth, a, lda, b, ldb, add, c, ldc);
    else if (__builtin_cpu_supports("x86-64-v3"))
        product_v3(order, m, n, depth, a, lda, b, ldb, add, c, ldc);
    else
#endif
        product(order, m, n, depth, a, lda, b, ldb, add, c, ldc);
}

/* Four rows and columns at a time by shuffles: element after element, a transposed matrix would cost as much as a product. */
typedef float four __attribute__((vector_size(16), aligned(sizeof(float)), may_alias));

ORRI_INLINE four lower(four x, four y)
{
    return (four){x[0], y[0], x[1], y[1]};
}

ORRI_INLINE four upper(four x, four y)
{
    return (four){x[2], y[2], x[3], y[3]};
}

static void transpose_rows(int columns, float scale, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    for (int j = 0; j + 4 <= columns; j += 4, x += 4, y += 4 * ldy) {
        four x0 = scale * *(const four *)x, x1 = scale * *(const four *)(x + ldx);
        four x2 = scale * *(const four *)(x + 2 * ldx), x3 = scale * *(const four *)(x + 3 * ldx);
        four first = lower(x0, x2), second = lower(x1, x3), third = upper(x0, x2), fourth = upper(x1, x3);
        *(four *)y = lower(first, second);
        *(four *)(y + ldy) = upper(first, second);
        *(four *)(y + 2 * ldy) = lower(third, fourth);
        *(four *)(y + 3 * ldy) = upper(third, fourth);
    }
}

void orri_small_transpose(int rows, int columns, float scale, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    int r4 = rows / 4 * 4, c4 = columns / 4 * 4;

    for (int r = 0; r < r4; r += 4)
        transpose_rows(columns, scale, x + r * ldx, ldx, y + r, ldy);
    for (int j = 0; j < columns; j++)
        for (int r = j < c4 ? r4 : 0; r < rows; r++)
            y[j * ldy + r] = scale * x[r * ldx + j];
}
