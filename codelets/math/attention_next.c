/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of one query per head over what is kept of its sequence, page by page, with an online softmax. */
#include <math.h>
#include <string.h>

#include "codelets/math/math_cpu.h"
#include "codelets/math/simd_math.h"
#include "core/core.h"

/* s[h] = scale q_h k_h of one position; scores of a head are `stride` apart from the next one's. `group` heads share a key. */
static ORRI_SIMD void scores_of(int heads, int group, int dim, float scale, const float *q, const float *keys, float *s, int stride)
{
    for (int h = 0; h < heads; h++, q += dim) {
        const float *k = keys + h / group * dim;
        float sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int d = 0; d < dim; d++)
            sum += q[d] * k[d];
        s[h * stride] = scale * sum;
    }
}

/* Scores of a head become exp(score - max); max and sum go on, and what o holds is brought to the new maximum. */
static ORRI_SIMD void softmax_step(int count, float *s, float *max, float *sum, int dim, float *o)
{
    float most = *max, more = 0;

#pragma omp simd reduction(max : most)
    for (int j = 0; j < count; j++)
        most = s[j] > most ? s[j] : most;
#pragma omp simd reduction(+ : more)
    for (int j = 0; j < count; j++) {
        s[j] = orri_expf(s[j] - most);
        more += s[j];
    }
    float old = orri_expf(*max - most);
#pragma omp simd
    for (int d = 0; d < dim; d++)
        o[d] *= old;
    *sum = *sum * old + more;
    *max = most;
}

/* o_h += s[h] v_h of one position. */
static ORRI_SIMD void weigh(int heads, int group, int dim, const float *s, int stride, const float *values, float *o)
{
    for (int h = 0; h < heads; h++, o += dim) {
        const float *v = values + h / group * dim;
        float p = s[h * stride];

#pragma omp simd
        for (int d = 0; d < dim; d++)
            o[d] += p * v[d];
    }
}

static ORRI_SIMD void divide(int heads, int dim, const float *sum, float *o)
{
    for (int h = 0; h < heads; h++, o += dim) {
        float inverse = 1 / sum[h];

#pragma omp simd
        for (int d = 0; d < dim; d++)
            o[d] *= inverse;
    }
}

void orri_cpu_attention_next(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const struct orri_kept *kept,
                             void *o)
{
    int heads = a->heads, group = orri_attention_group(a), dim = a->head_dim, page = kept->page;
    int begin = a->window && kept->length > a->window ? kept->length - a->window : 0;
    size_t width = (size_t)heads * (size_t)dim, shared = width / (size_t)group, element = orr_dtype_size(dtype);
    size_t scores = (size_t)heads * (size_t)page;
    float *query = orri_kernel_scratch((3 * width + scores + 2 * (size_t)heads) * sizeof(*query));
    float *row = query + width, *out = row + width, *s = out + width, *max = s + scores, *sum = max + heads;

    orri_widen(dtype, width, q, query);
    memset(out, 0, width * sizeof(*out));
    for (int h = 0; h < heads; h++) {
        max[h] = -INFINITY;
        sum[h] = 0;
    }
    for (int t = begin, count; t < kept->length; t += count) {
        count = page - t % page < kept->length - t ? page - t % page : kept->length - t;
        const char *keys = (const char *)kept->pages[t / page] + (size_t)(t % page) * 2 * shared * element;

        for (int j = 0; j < count; j++) {
            orri_widen(dtype, shared, keys + (size_t)j * 2 * shared * element, row);
            scores_of(heads, group, dim, a->scale, query, row, s + j, page);
        }
        for (int h = 0; h < heads; h++)
            softmax_step(count, s + h * page, &max[h], &sum[h], dim, out + h * dim);
        for (int j = 0; j < count; j++) {
            orri_widen(dtype, shared, keys + ((size_t)j * 2 + 1) * shared * element, row);
            weigh(heads, group, dim, s + j, page, row, out);
        }
    }
    divide(heads, dim, sum, out);
    orri_round(dtype, width, out, o);
}
