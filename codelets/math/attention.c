/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on a CPU: a head of one sequence after the other, by blocks of queries, products by small_product.h. Elements of any dtype
 * are widened where they are laid out for them. */
#include <math.h>
#include <string.h>

#include "codelets/math/elements.h"
#include "codelets/math/math_cpu.h"
#include "codelets/math/simd_math.h"
#include "codelets/math/small_product.h"
#include "core/core.h"
#include "core/team.h"

enum {
    TILE = ORRI_SMALL,          /* queries of a block, keys of a tile                                              */
    CHUNK = ORRI_SMALL_WIDE,    /* keys of a step of the online softmax                                            */
    LANES = ORRI_SMALL_LANES    /* queries or keys of a tile on the diagonal that are taken together: a triangle of
                                   as many is computed too much, and hidden                                        */
};

ORRI_INLINE int lanes(int count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* By halves, where a sum in order would wait for each addition. */
ORRI_INLINE float total(float *part)
{
#pragma GCC unroll 4
    for (int n = LANES / 2; n; n /= 2)
        for (int l = 0; l < n; l++)
            part[l] += part[l + n];
    return part[0];
}

/* ---- a head ------------------------------------------------------------------------------------------------------------ */

/* [T,D] of a head; rows are ld elements apart. */
struct matrix {
    enum orr_dtype dtype;
    void *first;
    int64_t ld;
};

static struct matrix matrix_at(enum orr_dtype dtype, const void *x, int64_t first, int64_t ld)
{
    return (struct matrix){dtype, orri_element(dtype, x, (size_t)first), ld};
}

static void *row_of(const struct matrix *x, int t)
{
    return orri_element(x->dtype, x->first, (size_t)t * (size_t)x->ld);
}

struct head {
    int seq, dim;
    float scale;
    struct orri_dropout dropout;
    uint64_t first;             /* its first probability's element of the stream */
    struct matrix q, k, v;
    const int32_t *from, *to;   /* [T]: query i sees keys from[i] .. to[i] - 1; neither ever falls */
    const float *bias;          /* of score (i, j) number j - i, and its gradient; or NULL        */
    float *dbias;
};

/* Where the bias of a query and its own position is. */
static size_t bias_at(const struct orri_attention *a, int b, int h)
{
    return (size_t)(b * a->heads + h) * 2 * (size_t)a->seq + (size_t)a->seq - 1;
}

/* Query head h of sequence b, and the head of keys and values that it attends to. */
static struct head head_of(enum orr_dtype dtype, const struct orri_attention *a, int b, int h, const void *q, const void *k, const void *v)
{
    int64_t at = (int64_t)b * a->seq * a->ld, keys = at + (int64_t)(h / orri_attention_group(a)) * a->head_dim;
    uint64_t number = (a->first_sample + (uint64_t)b) * (uint64_t)a->total_heads + (uint64_t)(a->first_head + h);

    return (struct head){
        .seq = a->seq,
        .dim = a->head_dim,
        .scale = a->scale,
        .dropout = a->dropout,
        .first = number * (uint64_t)a->seq * (uint64_t)a->seq,
        .q = matrix_at(dtype, q, at + (int64_t)h * a->head_dim, a->ld),
        .k = matrix_at(dtype, k, keys, a->ld),
        .v = matrix_at(dtype, v, keys, a->ld),
        .bias = a->bias ? a->bias + bias_at(a, 0, h) : NULL,
        .dbias = a->dbias ? a->dbias + bias_at(a, b, h) : NULL,
    };
}

/* Its rows of o or d_o. */
static struct matrix outputs_of(enum orr_dtype dtype, const struct orri_attention *a, int b, int h, const void *o)
{
    return matrix_at(dtype, o, (int64_t)b * a->seq * a->ld_out + (int64_t)h * a->head_dim, a->ld_out);
}

/* ---- who sees whom ------------------------------------------------------------------------------------------------------- */

/* The keys that the queries of sequence b see. A sequence of the row begins where its place is 0. */
static void see(const struct orri_attention *a, int b, int32_t *from, int32_t *to)
{
    const int32_t *place = a->places ? a->places + (size_t)b * (size_t)a->seq : NULL;
    int end = a->seq;

    for (int i = a->seq - 1; i >= 0; i--) {
        int begin = place ? i - place[i] : 0, nearest = a->window ? i - a->window + 1 : begin;

        from[i] = nearest > begin ? nearest : begin;
        to[i] = a->bidirectional ? end : i + 1;
        if (i == begin)
            end = i;
    }
}

/* The same of keys of another row. */
static void see_source(const struct orri_attention *a, int b, int32_t *from, int32_t *to)
{
    const int32_t *place = a->places + (size_t)b * (size_t)a->seq, *source = a->source_places + (size_t)b * (size_t)a->seq;
    int begin = 0, end = 0;

    for (int i = 0; i < a->seq; i++) {
        if (place[i] == 0) {
            begin = end;
            while (end < a->seq && (end == begin || source[end] != 0))
                end++;
        }
        from[i] = begin;
        to[i] = end;
    }
}

static void see_keys(const struct orri_attention *a, int b, int32_t *from, int32_t *to)
{
    if (a->source_places)
        see_source(a, b, from, to);
    else
        see(a, b, from, to);
}

/* What queries i .. i + n - 1 see between them of keys j .. j + count - 1, counted from j, in whole vectors. */
struct span {
    int first, end;
};

static struct span span_of(const struct head *h, int i, int n, int j, int count)
{
    int first = h->from[i] > j ? (h->from[i] - j) / LANES * LANES : 0, end = orri_least(h->to[i + n - 1] - j, count);

    return (struct span){first, lanes(end > first ? end : first)};
}

/* Whether each of them sees all of these keys. */
static bool see_all(const struct head *h, int i, int n, int j, int count)
{
    return h->from[i + n - 1] <= j && h->to[i] >= j + count;
}

/* The number in the stream of the probability that query i gives key j. */
static uint64_t element_of(const struct head *h, int i, int j)
{
    return h->first + (uint64_t)i * (uint64_t)h->seq + (uint64_t)j;
}

/* ---- laying out -------------------------------------------------------------------------------------------------------- */

/* Positions of so many, in whole tiles. */
static size_t whole_tiles(int seq)
{
    return (size_t)(seq + TILE - 1) / TILE * TILE;
}

/* Scratch is cut into pieces that begin at cache lines. */
enum { LINE = 64 };

/* The next piece, behind those that take *used bytes. Without scratch only these are counted. */
static float *cut(void *scratch, size_t *used, size_t floats)
{
    size_t at = *used + (-(uintptr_t)scratch & (LINE - 1));

    *used += (floats * sizeof(float) + LINE - 1) / LINE * LINE;
    return scratch ? (float *)((char *)scratch + at) : NULL;
}

/* What lies behind rows and columns up to a whole vector stays as it is: products compute with it, but nobody looks at the results. */

/* n rows from t on, `width` floats apart. */
static void take(const struct matrix *x, int t, int n, int dim, int width, float *to)
{
    for (int r = 0; r < n; r++, to += width)
        orri_widen(x->dtype, (size_t)dim, row_of(x, t + r), to);
}

/* scale times n <= TILE rows from t on, transposed: to[D,TILE]. */
static void take_transposed(const struct matrix *x, int t, int n, int dim, float scale, float *room, float *to)
{
    if (x->dtype == ORR_F32) {
        orri_small_transpose(n, dim, scale, row_of(x, t), x->ld, to, TILE);
    } else {
        take(x, t, n, dim, dim, room);
        orri_small_transpose(n, dim, scale, room, dim, to, TILE);
    }
}

/* The other way. */
static void give_transposed(const struct matrix *x, int t, int n, int dim, const float *from, float *room)
{
    if (x->dtype == ORR_F32) {
        orri_small_transpose(dim, n, 1, from, TILE, row_of(x, t), x->ld);
        return;
    }
    orri_small_transpose(dim, n, 1, from, TILE, room, dim);
    for (int r = 0; r < n; r++)
        orri_round(x->dtype, (size_t)dim, room + r * dim, row_of(x, t + r));
}

static ORRI_SIMD void multiply(int count, float factor, float *x)
{
#pragma omp simd
    for (int k = 0; k < count; k++)
        x[k] *= factor;
}

/* ---- forward ------------------------------------------------------------------------------------------------------------- */

struct forward {
    float *k;           /* [T / TILE][D,TILE], transposed           */
    float *v;           /* [T,lanes(D)]                             */
    float *q;           /* of a block: [D,TILE], transposed, scaled */
    float *s;           /* [TILE,CHUNK], scores, then probabilities */
    float *o;           /* [TILE,lanes(D)]                          */
    float *max, *sum;   /* [TILE], of the online softmax            */
    float *room;        /* [TILE,D], of other elements than fp32    */
};

static size_t cut_forward(enum orr_dtype dtype, const struct orri_attention *a, void *scratch, struct forward *w)
{
    size_t dim = (size_t)a->head_dim, width = (size_t)lanes(a->head_dim), used = 0;

    *w = (struct forward){
        .k = cut(scratch, &used, whole_tiles(a->seq) * dim),
        .v = cut(scratch, &used, (size_t)a->seq * width),
        .q = cut(scratch, &used, dim * TILE),
        .s = cut(scratch, &used, TILE * CHUNK),
        .o = cut(scratch, &used, TILE * width),
        .max = cut(scratch, &used, TILE),
        .sum = cut(scratch, &used, TILE),
        .room = cut(scratch, &used, dtype == ORR_F32 ? 0 : TILE * dim),
    };
    return used;
}

/* Where the keys that query i sees begin and end in a chunk from j0 on. */
ORRI_INLINE int seen_from(const struct head *h, int i, int j0)
{
    int first = h->from[i] - j0;

    return first < 0 ? 0 : orri_least(first, CHUNK);
}

ORRI_INLINE int seen_to(const struct head *h, int i, int j0)
{
    int end = h->to[i] - j0;

    return end < 0 ? 0 : orri_least(end, CHUNK);
}

/* Scores, `stride` a row, of the keys up to j0 + end - 1 that each query sees get their bias. */
static ORRI_SIMD void add_bias(const struct head *h, int i, int rows, int j0, int end, int stride, float *s)
{
    for (int r = 0; r < rows; r++, s += stride) {
        const float *bias = h->bias + j0 - (i + r);

        for (int j = seen_from(h, i + r, j0), last = orri_least(seen_to(h, i + r, j0), end); j < last; j++)
            s[j] += bias[j];
    }
}

/* What it does not see of its rows' span is hidden. */
static ORRI_SIMD void row_maxima(const struct head *h, int i, int rows, struct span span, int j0, float *s, float *max)
{
    for (int r = 0; r < rows; r++, s += CHUNK) {
        int first = seen_from(h, i + r, j0), end = seen_to(h, i + r, j0);
        float most = -INFINITY;

        for (int j = span.first; j < orri_least(first, span.end); j++)
            s[j] = -INFINITY;
        for (int j = end > span.first ? end : span.first; j < span.end; j++)
            s[j] = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int j = span.first; j < span.end; j++)
            most = s[j] > most ? s[j] : most;
        max[r] = most;
    }
}

/* One step of the online softmax: scores become exp(score - max), those of keys that a query may not see 0; what o holds of earlier
 * keys, unless this is the first step, is brought to the new maximum. The maxima come first, for all rows: each is waited for then
 * only once. */
static ORRI_SIMD void softmax_step(const struct head *h, int i, int rows, struct span span, int j0, bool first, int width, float *s,
                                   float *max, float *sum, float *o)
{
    float most[TILE];

    if (h->bias)
        add_bias(h, i, rows, j0, span.end, CHUNK, s);
    row_maxima(h, i, rows, span, j0, s, most);
    for (int r = 0; r < rows; r++, s += CHUNK, o += width) {
        float new = !first && max[r] > most[r] ? max[r] : most[r], part[LANES] = {0};

        for (int j = span.first; j < span.end; j += LANES)
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                s[j + l] = orri_exp_bounded(s[j + l] - new);
                part[l] += s[j + l];
            }
        float old = first ? 0 : orri_exp_bounded(max[r] - new);
        if (!first) {
#pragma omp simd
            for (int d = 0; d < width; d++)
                o[d] *= old;
        }
        sum[r] = first ? total(part) : sum[r] * old + total(part);
        max[r] = new;
    }
}

static void drop(const struct head *h, int i, int rows, int j0, float *s)
{
    for (int r = 0; h->dropout.p > 0 && r < rows; r++, s += CHUNK) {
        int begin = seen_from(h, i + r, j0), end = seen_to(h, i + r, j0);

        if (begin < end)
            orri_dropout_apply(&h->dropout, element_of(h, i + r, j0 + begin), (size_t)(end - begin), s + begin);
    }
}

/* o of queries i0 .. i0 + rows - 1 takes in those of `keys` keys, from j0 on, that they may see; `first`: o holds nothing yet. */
static void forward_chunk(const struct head *h, const struct forward *w, int i0, int rows, int j0, int keys, bool first)
{
    int dim = h->dim, width = lanes(dim);

    for (int j = 0; j < keys; j += TILE)
        for (int r = 0, n; r < rows; r += n) {
            n = orri_least(rows - r, see_all(h, i0, rows, j0 + j, TILE) ? TILE : LANES);
            struct span span = span_of(h, i0 + r, n, j0 + j, TILE);
            if (span.first < span.end)
                orri_small_product(ORRI_SMALL_TRANSPOSED, n, span.end - span.first, dim, w->q + r, TILE,
                                  w->k + (size_t)(j0 + j) * (size_t)dim + span.first, TILE, false, w->s + r * CHUNK + j + span.first,
                                  CHUNK);
        }
    for (int r = 0, n; r < rows; r += n) {
        n = orri_least(rows - r, see_all(h, i0, rows, j0, keys) ? TILE : LANES);
        struct span span = span_of(h, i0 + r, n, j0, keys);
        float *s = w->s + r * CHUNK, *o = w->o + r * width;
        if (span.first == span.end)
            continue;
        softmax_step(h, i0 + r, n, span, j0, first, width, s, w->max + r, w->sum + r, o);
        drop(h, i0 + r, n, j0, s);
        orri_small_product(ORRI_SMALL_WIDE_ROWS, n, width, orri_least(span.end, keys) - span.first, s + span.first, 0,
                          w->v + (size_t)(j0 + span.first) * (size_t)width, width, !first, o, width);
    }
}

/* Finite, so that what is hidden differs from it by infinity. */
#define LEAST (-1e30f)

/* Where a query does not see any of the first keys, o begins as a sum of none. */
static bool begin_block(const struct head *h, const struct forward *w, int i0, int rows, int j0, int keys)
{
    bool all = true;

    for (int r = 0; r < rows; r++)
        all = all && h->from[i0 + r] < orri_least(h->to[i0 + r], j0 + keys);
    if (all)
        return true;
    memset(w->o, 0, (size_t)rows * (size_t)lanes(h->dim) * sizeof(*w->o));
    for (int r = 0; r < rows; r++) {
        w->max[r] = LEAST;
        w->sum[r] = 0;
    }
    return false;
}

static void forward_block(const struct head *h, const struct matrix *o, float *lse, const struct forward *w, int i0)
{
    int dim = h->dim, width = lanes(dim), rows = orri_least(h->seq - i0, TILE);
    int begin = h->from[i0] / TILE * TILE, end = h->to[i0 + rows - 1];
    bool first = begin_block(h, w, i0, rows, begin, orri_least(end - begin, CHUNK));

    take_transposed(&h->q, i0, rows, dim, h->scale, w->room, w->q);
    for (int j0 = begin; j0 < end; j0 += CHUNK, first = false)
        forward_chunk(h, w, i0, rows, j0, orri_least(end - j0, CHUNK), first);
    for (int r = 0; r < rows; r++) {
        multiply(dim, w->sum[r] > 0 ? 1 / w->sum[r] : 0, w->o + r * width);
        orri_round(o->dtype, (size_t)dim, w->o + r * width, row_of(o, i0 + r));
        lse[i0 + r] = w->sum[r] > 0 ? w->max[r] + logf(w->sum[r]) : INFINITY;
    }
}

static void take_keys(const struct head *h, const struct forward *w)
{
    for (int j0 = 0; j0 < h->seq; j0 += TILE)
        take_transposed(&h->k, j0, orri_least(h->seq - j0, TILE), h->dim, 1, w->room, w->k + (size_t)j0 * (size_t)h->dim);
    take(&h->v, 0, h->seq, h->dim, lanes(h->dim), w->v);
}

/* ---- backward ------------------------------------------------------------------------------------------------------------- */

struct backward {
    float *q, *d_o;             /* [T / TILE][D,TILE], transposed; q scaled                               */
    float *dq;                  /* [T,lanes(D)], before scaling                                           */
    float *delta;               /* [T]                                                                    */
    float *k, *v;               /* of a tile of keys: [D,TILE], transposed                                */
    float *k_rows;              /* [TILE,lanes(D)]                                                        */
    float *dk, *dv;             /* [D,TILE], transposed; where several heads share keys, of all tiles     */
    float *p;                   /* [TILE,TILE], scores, then dropped probabilities                        */
    float *ds;                  /* [TILE,TILE], gradient of these, then of q k^T                          */
    float *room;                /* [TILE,D], of other elements than fp32                                  */
};

static size_t cut_backward(enum orr_dtype dtype, const struct orri_attention *a, void *scratch, struct backward *w)
{
    size_t dim = (size_t)a->head_dim, width = (size_t)lanes(a->head_dim), seq = (size_t)a->seq, used = 0;
    size_t keys = orri_attention_group(a) > 1 ? whole_tiles(a->seq) : TILE;

    *w = (struct backward){
        .q = cut(scratch, &used, whole_tiles(a->seq) * dim),
        .d_o = cut(scratch, &used, whole_tiles(a->seq) * dim),
        .dq = cut(scratch, &used, seq * width),
        .delta = cut(scratch, &used, seq),
        .k = cut(scratch, &used, dim * TILE),
        .v = cut(scratch, &used, dim * TILE),
        .k_rows = cut(scratch, &used, TILE * width),
        .dk = cut(scratch, &used, dim * keys),
        .dv = cut(scratch, &used, dim * keys),
        .p = cut(scratch, &used, TILE * TILE),
        .ds = cut(scratch, &used, TILE * TILE),
        .room = cut(scratch, &used, dtype == ORR_F32 ? 0 : TILE * dim),
    };
    return used;
}

static ORRI_SIMD float dot(int count, const float *x, const float *y)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < count; k++)
        sum += x[k] * y[k];
    return sum;
}

/* delta = sum over d of o d_o, which is the sum over j of probability times its gradient (Dao et al.). */
static void row_products(const struct matrix *o, const struct matrix *d_o, int seq, int dim, float *room, float *delta)
{
    for (int t = 0; t < seq; t++)
        delta[t] = dot(dim, orri_wide(o->dtype, (size_t)dim, row_of(o, t), room),
                       orri_wide(d_o->dtype, (size_t)dim, row_of(d_o, t), room + dim));
}

static ORRI_SIMD void row_backward(int count, float lse, float delta, const float *keep, float *p, float *ds)
{
    for (int j = 0; j < count; j += LANES)
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            float probability = orri_exp_bounded(p[j + l] - lse);

            p[j + l] = probability * keep[j + l];
            ds[j + l] = probability * (keep[j + l] * ds[j + l] - delta);
        }
}

/* p and ds of queries from i on become what they are last in their span of keys from j0 on: 0 where a query does not see a key. */
static void softmax_backward(const struct head *h, const float *lse, const struct backward *w, int i, int rows, struct span span, int j0,
                             float *p, float *ds)
{
    float keep[TILE];

    for (int j = 0; j < TILE; j++)
        keep[j] = 1;
    if (h->bias)
        add_bias(h, i, rows, j0, span.end, TILE, p);
    for (int end = i + rows; i < end; i++, p += TILE, ds += TILE) {
        int first = orri_least(seen_from(h, i, j0), span.end), last = orri_least(seen_to(h, i, j0), span.end);

        if (h->dropout.p > 0 && first < last) {
            for (int j = first; j < last; j++)
                keep[j] = 1;
            orri_dropout_apply(&h->dropout, element_of(h, i, j0 + first), (size_t)(last - first), keep + first);
        }
        row_backward(span.end - span.first, lse[i], w->delta[i], keep + span.first, p + span.first, ds + span.first);
        for (int j = span.first; j < first; j++)
            p[j] = ds[j] = 0;
        for (int j = last > span.first ? last : span.first; j < span.end; j++)
            p[j] = ds[j] = 0;
        for (int j = first; h->dbias && j < last; j++)
            h->dbias[j0 + j - i] += ds[j];
    }
}

/* A block of queries and a tile of keys: p, ds and what they add to dq, and, for `step` queries each, the keys that they see. */
static void backward_queries(const struct head *h, const float *lse, const struct backward *w, int i0, int rows, int j0, int step,
                             struct span *seen)
{
    int dim = h->dim, width = lanes(dim);
    const float *q = w->q + (size_t)i0 * (size_t)dim, *d_o = w->d_o + (size_t)i0 * (size_t)dim;

    for (int r = 0; r < rows; r += step, seen++) {
        int n = orri_least(rows - r, step);
        struct span span = *seen = span_of(h, i0 + r, n, j0, TILE);
        float *p = w->p + r * TILE, *ds = w->ds + r * TILE;

        if (span.first == span.end)
            continue;
        orri_small_product(ORRI_SMALL_TRANSPOSED, n, span.end - span.first, dim, q + r, TILE, w->k + span.first, TILE, false,
                          p + span.first, TILE);
        orri_small_product(ORRI_SMALL_TRANSPOSED, n, span.end - span.first, dim, d_o + r, TILE, w->v + span.first, TILE, false,
                          ds + span.first, TILE);
        softmax_backward(h, lse, w, i0 + r, n, span, j0, p, ds);
        orri_small_product(ORRI_SMALL_ROWS, n, width, orri_least(span.end, h->seq - j0) - span.first, ds + span.first, 0,
                          w->k_rows + span.first * width, width, true, w->dq + (size_t)(i0 + r) * (size_t)width, width);
    }
}

/* What they add to dk and dv: columns of keys, of those queries that see any of them. */
static void backward_keys(const struct head *h, const struct backward *w, int i0, int rows, int step, const struct span *seen,
                          float *dk, float *dv)
{
    int dim = h->dim, groups = (rows + step - 1) / step;
    const float *q = w->q + (size_t)i0 * (size_t)dim, *d_o = w->d_o + (size_t)i0 * (size_t)dim;

    for (int j = 0; j < TILE; j += step) {
        int first = 0, end = groups;

        while (first < end && (seen[first].end <= j || seen[first].first >= j + step))
            first++;
        while (first < end && (seen[end - 1].end <= j || seen[end - 1].first >= j + step))
            end--;
        if (first == end)
            continue;
        int r = first * step, n = orri_least(rows, end * step) - r;
        orri_small_product(ORRI_SMALL_ROWS, dim, step, n, d_o + r, 0, w->p + r * TILE + j, TILE, true, dv + j, TILE);
        orri_small_product(ORRI_SMALL_ROWS, dim, step, n, q + r, 0, w->ds + r * TILE + j, TILE, true, dk + j, TILE);
    }
}

static void backward_tile(const struct head *h, const float *lse, const struct backward *w, int i0, int j0, float *dk, float *dv)
{
    int rows = orri_least(h->seq - i0, TILE), step = see_all(h, i0, rows, j0, TILE) ? TILE : LANES;
    struct span seen[TILE / LANES];

    backward_queries(h, lse, w, i0, rows, j0, step, seen);
    backward_keys(h, w, i0, rows, step, seen, dk, dv);
}

/* What one query head adds, first or not, to dk and dv of a tile of keys. */
static void backward_column(const struct head *h, const float *lse, const struct backward *w, int j0, bool first, float *dk, float *dv)
{
    int dim = h->dim, keys = orri_least(h->seq - j0, TILE), i0 = 0;

    take_transposed(&h->k, j0, keys, dim, 1, w->room, w->k);
    take_transposed(&h->v, j0, keys, dim, 1, w->room, w->v);
    take(&h->k, j0, keys, dim, lanes(dim), w->k_rows);
    if (first) {
        memset(dk, 0, (size_t)dim * TILE * sizeof(*dk));
        memset(dv, 0, (size_t)dim * TILE * sizeof(*dv));
    }
    while (i0 < h->seq && h->to[orri_least(i0 + TILE, h->seq) - 1] <= j0)
        i0 += TILE;
    for (; i0 < h->seq && h->from[i0] < j0 + keys; i0 += TILE)
        backward_tile(h, lse, w, i0, j0, dk, dv);
}

/* Query head number `member` of those that share keys; the last gives dk and dv away. */
static void backward_head(const struct head *h, int member, int group, const struct matrix *o, const struct matrix *d_o, const float *lse,
                          const struct backward *w)
{
    int dim = h->dim, width = lanes(dim);

    for (int i0 = 0; i0 < h->seq; i0 += TILE) {
        int rows = orri_least(h->seq - i0, TILE);

        take_transposed(&h->q, i0, rows, dim, h->scale, w->room, w->q + (size_t)i0 * (size_t)dim);
        take_transposed(d_o, i0, rows, dim, 1, w->room, w->d_o + (size_t)i0 * (size_t)dim);
    }
    row_products(o, d_o, h->seq, dim, w->room, w->delta);
    memset(w->dq, 0, (size_t)h->seq * (size_t)width * sizeof(*w->dq));
    if (h->dbias)
        memset(h->dbias - (h->seq - 1), 0, 2 * (size_t)h->seq * sizeof(*h->dbias));
    for (int j0 = 0; j0 < h->seq; j0 += TILE) {
        size_t at = group > 1 ? (size_t)j0 * (size_t)dim : 0;
        int keys = orri_least(h->seq - j0, TILE);

        backward_column(h, lse, w, j0, member == 0, w->dk + at, w->dv + at);
        if (member < group - 1)
            continue;
        /* These rows of k and v are not read again. */
        give_transposed(&h->k, j0, keys, dim, w->dk + at, w->room);
        give_transposed(&h->v, j0, keys, dim, w->dv + at, w->room);
    }
    for (int t = 0; t < h->seq; t++) {
        float *dq = w->dq + (size_t)t * (size_t)width;

        multiply(dim, h->scale, dq);
        orri_round(h->q.dtype, (size_t)dim, dq, row_of(&h->q, t));
    }
}

/* ---- all heads --------------------------------------------------------------------------------------------------------------- */

/* What a thread works on: a head of keys of one sequence, and the query heads that share it. Its scratch is who sees whom, then the
 * pass's pieces, each from a cache line on, wherever the scratch begins. */
struct sight {
    int32_t *from, *to;
};

static size_t cut_sight(const struct orri_attention *a, void *scratch, struct sight *sight)
{
    size_t used = 0;

    sight->from = (int32_t *)cut(scratch, &used, (size_t)a->seq);
    sight->to = (int32_t *)cut(scratch, &used, (size_t)a->seq);
    return used;
}

static size_t sight_bytes(const struct orri_attention *a)
{
    struct sight sight;

    return cut_sight(a, NULL, &sight);
}

static size_t forward_scratch(enum orr_dtype dtype, const struct orri_attention *a)
{
    struct forward w;

    return sight_bytes(a) + cut_forward(dtype, a, NULL, &w) + LINE;
}

static size_t backward_scratch(enum orr_dtype dtype, const struct orri_attention *a)
{
    struct backward w;

    return sight_bytes(a) + cut_backward(dtype, a, NULL, &w) + LINE;
}

size_t orri_cpu_attention_forward_scratch(const struct orri_attention *a, enum orr_dtype dtype)
{
    return forward_scratch(dtype, a) * (size_t)orri_team_largest();
}

size_t orri_cpu_attention_backward_scratch(const struct orri_attention *a, enum orr_dtype dtype)
{
    return backward_scratch(dtype, a) * (size_t)orri_team_largest();
}

static void *own_scratch(void *scratch, size_t bytes)
{
    return (char *)scratch + (size_t)orri_team_place() * bytes;
}

static int key_heads(const struct orri_attention *a)
{
    return a->heads / orri_attention_group(a);
}

static void forward_heads(enum orr_dtype dtype, const struct orri_attention *a, int i, int n, const void *q, const void *k,
                          const void *v, void *o, float *lse, void *scratch)
{
    struct forward w;
    struct sight sight;
    int group = orri_attention_group(a);

    cut_forward(dtype, a, (char *)scratch + cut_sight(a, scratch, &sight), &w);
    for (int end = i + n; i < end; i++) {
        int b = i / key_heads(a), first = i % key_heads(a) * group;

        see_keys(a, b, sight.from, sight.to);
        for (int h = first; h < first + group; h++) {
            struct head head = head_of(dtype, a, b, h, q, k, v);
            const struct matrix out = outputs_of(dtype, a, b, h, o);
            head.from = sight.from;
            head.to = sight.to;
            if (h == first)
                take_keys(&head, &w);
            for (int i0 = 0; i0 < a->seq; i0 += TILE)
                forward_block(&head, &out, lse + (size_t)(b * a->heads + h) * (size_t)a->seq, &w, i0);
        }
    }
}

static void backward_heads(enum orr_dtype dtype, const struct orri_attention *a, int i, int n, void *q, void *k, void *v,
                           const void *o, const void *d_o, const float *lse, void *scratch)
{
    struct backward w;
    struct sight sight;
    int group = orri_attention_group(a);

    cut_backward(dtype, a, (char *)scratch + cut_sight(a, scratch, &sight), &w);
    for (int end = i + n; i < end; i++) {
        int b = i / key_heads(a), first = i % key_heads(a) * group;

        see_keys(a, b, sight.from, sight.to);
        for (int member = 0; member < group; member++) {
            int h = first + member;
            struct head head = head_of(dtype, a, b, h, q, k, v);
            const struct matrix out = outputs_of(dtype, a, b, h, o), d_out = outputs_of(dtype, a, b, h, d_o);
            head.from = sight.from;
            head.to = sight.to;
            backward_head(&head, member, group, &out, &d_out, lse + (size_t)(b * a->heads + h) * (size_t)a->seq, &w);
        }
    }
}

void orri_cpu_attention_forward(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const void *k, const void *v,
                                void *o, float *lse, void *scratch)
{
    ORRI_TEAM_FOR(a->batch * key_heads(a), 1, i, n,
                  forward_heads(dtype, a, i, n, q, k, v, o, lse, own_scratch(scratch, forward_scratch(dtype, a))));
}

void orri_cpu_attention_backward(enum orr_dtype dtype, const struct orri_attention *a, void *q, void *k, void *v, const void *o,
                                 const void *d_o, const float *lse, void *scratch)
{
    ORRI_TEAM_FOR(a->batch * key_heads(a), 1, i, n,
                  backward_heads(dtype, a, i, n, q, k, v, o, d_o, lse, own_scratch(scratch, backward_scratch(dtype, a))));
}
