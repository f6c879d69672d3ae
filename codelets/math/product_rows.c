/* SPDX-License-Identifier: Apache-2.0 */
/* Products of few rows, as a token's: what they cost is reading B, once, at the speed of memory, where libraries pack it first. */
#include <string.h>

#include "codelets/math/elements.h"
#include "codelets/math/product_cpu.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"
#include "core/team.h"

enum { STRIP = 4096 };      /* columns of B at a time: what is summed up stays in the first cache */

/* Element k of an array, in fp32. */
ORRI_INLINE float element(enum orr_dtype dtype, const void *x, size_t k)
{
    uint16_t upper;
    uint32_t bits;
    float value;

    switch (dtype) {
    case ORR_BF16:
        memcpy(&upper, (const char *)x + 2 * k, sizeof(upper));
        bits = (uint32_t)upper << 16;
        memcpy(&value, &bits, sizeof(value));
        return value;
    case ORR_F16: return (float)((const _Float16 *)x)[k];
    default: return ((const float *)x)[k];
    }
}

/* y += x b, of one row of B. */
ORRI_INLINE void add_row(enum orr_dtype dtype, int n, float x, const void *restrict b, float *restrict y)
{
#pragma omp simd
    for (int j = 0; j < n; j++)
        y[j] += x * element(dtype, b, (size_t)j);
}

ORRI_INLINE float dot(enum orr_dtype dtype, int k, const float *restrict x, const void *restrict b)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < k; i++)
        sum += x[i] * element(dtype, b, (size_t)i);
    return sum;
}

/* Processors foresee what lies behind what is read, not the same columns of later rows. */
enum { AHEAD = 4, LINE = 64 };

ORRI_INLINE void fetch(const char *from, size_t bytes)
{
    for (size_t k = 0; k < bytes; k += LINE)
        __builtin_prefetch(from + k);
}

/* Some columns of y [m,N] += x [m,K] B, where B is [K,N], and where it is [N,K]: either way it is read as it lies. */
ORRI_INLINE void by_rows(enum orr_dtype dtype, const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    for (int j = first; j < first + columns; j += STRIP) {
        int n = first + columns - j < STRIP ? first + columns - j : STRIP;
        for (int i = 0; i < p->k; i++) {
            const char *b = orri_element(dtype, p->b, (size_t)i * (size_t)p->ldb + (size_t)j);
            if (n < p->ldb && i + AHEAD < p->k)
                fetch(b + AHEAD * (size_t)p->ldb * orr_dtype_size(dtype), (size_t)n * orr_dtype_size(dtype));
            for (int r = 0; r < p->m; r++)
                add_row(dtype, n, x[(size_t)r * (size_t)p->k + (size_t)i], b, y + (size_t)r * (size_t)p->n + j);
        }
    }
}

ORRI_INLINE void by_columns(enum orr_dtype dtype, const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    for (int j = first; j < first + columns; j++)
        for (int r = 0; r < p->m; r++)
            y[(size_t)r * (size_t)p->n + (size_t)j] +=
                dot(dtype, p->k, x + (size_t)r * (size_t)p->k, orri_element(dtype, p->b, (size_t)j * (size_t)p->ldb));
}

ORRI_INLINE void add_columns(enum orr_dtype dtype, const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    if (p->trans_b)
        by_columns(dtype, p, x, y, first, columns);
    else
        by_rows(dtype, p, x, y, first, columns);
}

static ORRI_SIMD void add_columns_bf16(const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    add_columns(ORR_BF16, p, x, y, first, columns);
}

static ORRI_SIMD void add_columns_f16(const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    add_columns(ORR_F16, p, x, y, first, columns);
}

static ORRI_SIMD void add_columns_f32(const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    add_columns(ORR_F32, p, x, y, first, columns);
}

static void add_product(const struct orri_product *p, const float *x, float *y, int first, int columns)
{
    switch (p->dtype) {
    case ORR_BF16: add_columns_bf16(p, x, y, first, columns); break;
    case ORR_F16: add_columns_f16(p, x, y, first, columns); break;
    default: add_columns_f32(p, x, y, first, columns);
    }
}

/* What the product is added to. */
static void begin_row(const struct orri_product *p, const void *c, float *y)
{
    size_t n = (size_t)p->n;
    float addend[STRIP];

    if (p->bias)
        orri_widen(p->dtype, n, p->bias, y);
    else
        memset(y, 0, n * sizeof(*y));
    for (size_t j = 0; p->add && j < n; j += STRIP) {
        size_t count = n - j < STRIP ? n - j : STRIP;
        orri_add(count, orri_wide(p->c_dtype, count, orri_element(p->c_dtype, c, j), addend), y + j);
    }
}

bool orri_few_rows_product(const struct orri_product *p, void *c)
{
    size_t m = (size_t)p->m, n = (size_t)p->n, k = (size_t)p->k;

    if (m * (n + k) * sizeof(float) > ORRI_KERNEL_BYTES)
        return false;
    float *y = orri_kernel_scratch(m * (n + k) * sizeof(*y)), *x = y + m * n;
    for (int r = 0; r < p->m; r++) {
        orri_widen(p->dtype, k, orri_element(p->dtype, p->a, (size_t)r * (size_t)p->lda), x + (size_t)r * k);
        begin_row(p, orri_element(p->c_dtype, c, (size_t)r * (size_t)p->ldc), y + (size_t)r * n);
    }
    ORRI_TEAM_FOR(p->n, ORRI_TEAM_COLUMNS + ORRI_TEAM_ELEMENTS / p->k, j, columns, add_product(p, x, y, j, columns));
    for (int r = 0; r < p->m; r++)
        orri_round(p->c_dtype, n, y + (size_t)r * n, orri_element(p->c_dtype, c, (size_t)r * (size_t)p->ldc));
    return true;
}
