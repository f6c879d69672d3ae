/* SPDX-License-Identifier: Apache-2.0 */
/* The product of tiles at one level of a processor: included by small_product.c for each, behind definitions of
 *
 *     VECTOR      floats of a vector, whose type is VECTOR_TYPE
 *     ROWS        rows of C of which two vectors each fit into registers, beside two of B and an element of A
 *     PRODUCT     the function, and its parts STRIP, PANEL and BLOCK */

typedef float VECTOR_TYPE __attribute__((vector_size(VECTOR * sizeof(float)), aligned(sizeof(float)), may_alias));

/* Rows of C, one or two vectors of each, which stay in registers. Rows of A are `row` floats apart, its columns `column`. All loops
 * but that over the depth unroll, since what bounds them is constant where this is inlined. */
ORRI_INLINE void BLOCK(int rows, int vectors, ptrdiff_t row, ptrdiff_t column, int depth, const float *restrict a,
                       const float *restrict b, ptrdiff_t ldb, bool add, float *restrict c, ptrdiff_t ldc)
{
    VECTOR_TYPE sum[ROWS][2];

#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[r][v] = add ? *(const VECTOR_TYPE *)(c + r * ldc + v * VECTOR) : (VECTOR_TYPE){0};
    for (int k = 0; k < depth; k++, a += column, b += ldb) {
        VECTOR_TYPE of_b[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            of_b[v] = *(const VECTOR_TYPE *)(b + v * VECTOR);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[r][v] += a[r * row] * of_b[v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            *(VECTOR_TYPE *)(c + r * ldc + v * VECTOR) = sum[r][v];
}

ORRI_INLINE void PANEL(int rows, int vectors, ptrdiff_t row, ptrdiff_t column, int depth, const float *a, const float *b,
                       ptrdiff_t ldb, bool add, float *c, ptrdiff_t ldc)
{
    switch (rows) {
    case 1: BLOCK(1, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 2: BLOCK(2, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 3: BLOCK(3, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 4: BLOCK(4, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 5: BLOCK(5, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 6: BLOCK(6, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
#if ROWS > 6
    case 7: BLOCK(7, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 8: BLOCK(8, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 9: BLOCK(9, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 10: BLOCK(10, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 11: BLOCK(11, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 12: BLOCK(12, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 13: BLOCK(13, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
    case 14: BLOCK(14, vectors, row, column, depth, a, b, ldb, add, c, ldc); break;
#endif
    }
}

ORRI_INLINE void STRIP(enum orri_small_order order, int vectors, int m, int depth, const float *a, ptrdiff_t lda, const float *b,
                       ptrdiff_t ldb, bool add, float *c, ptrdiff_t ldc)
{
    int panels = (m + ROWS - 1) / ROWS;

    /* About as many rows in each panel: a few alone would wait for every addition. */
    for (int p = 0, i = 0, rows; p < panels; p++, i += rows) {
        float *to = c + i * ldc;
        rows = (m - i + panels - p - 1) / (panels - p);
        switch (order) {
        case ORRI_SMALL_ROWS: PANEL(rows, vectors, ORRI_SMALL, 1, depth, a + i * ORRI_SMALL, b, ldb, add, to, ldc); break;
        case ORRI_SMALL_WIDE_ROWS:
            PANEL(rows, vectors, ORRI_SMALL_WIDE, 1, depth, a + i * ORRI_SMALL_WIDE, b, ldb, add, to, ldc);
            break;
        case ORRI_SMALL_TRANSPOSED: PANEL(rows, vectors, 1, lda, depth, a + i, b, ldb, add, to, ldc); break;
        }
    }
}

static void PRODUCT(enum orri_small_order order, int m, int n, int depth, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb,
                    bool add, float *c, ptrdiff_t ldc)
{
    int j = 0;

    for (; j <= n - 2 * VECTOR; j += 2 * VECTOR)
        STRIP(order, 2, m, depth, a, lda, b + j, ldb, add, c + j, ldc);
#if 2 * VECTOR > ORRI_SMALL_LANES
    if (j < n)
        STRIP(order, 1, m, depth, a, lda, b + j, ldb, add, c + j, ldc);
#endif
}

#undef VECTOR
#undef ROWS
#undef PRODUCT
#undef STRIP
#undef PANEL
#undef BLOCK
#undef VECTOR_TYPE
