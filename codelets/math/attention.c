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
};

/* Head i of all sequences. */
static struct head head_of(enum orr_dtype dtype, const struct orri_attention *a, int i, const void *q, const void *k, const void *v)
{
    int b = i / a->heads, h = i % a->heads;
    int64_t at = (int64_t)b * a->seq * a->ld + (int64_t)h * a->head_dim;
    uint64_t number = (a->first_sample + (uint64_t)b) * (uint64_t)a->total_heads + (uint64_t)(a->first_head + h);

    return (struct head){
        .seq = a->seq,
        .dim = a->head_dim,
        .scale = a->scale,
        .dropout = a->dropout,
        .first = number * (uint64_t)a->seq * (uint64_t)a->seq,
        .q = matrix_at(dtype, q, at, a->ld),
        .k = matrix_at(dtype, k, at, a->ld),
        .v = matrix_at(dtype, v, at, a->ld),
    };
}

/* The same head's rows of o or d_o. */
static struct matrix outputs_of(enum orr_dtype dtype, const struct orri_attention *a, int i, const void *o)
{
    return matrix_at(dtype, o, (int64_t)(i / a->heads) * a->seq * a->ld_out + (int64_t)(i % a->heads) * a->head_dim, a->ld_out);
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

/* Of the keys of a chunk, from j0 on, query i may see so many. */
ORRI_INLINE int visible(int i, int j0)
{
    return orri_least(i - j0 + 1, CHUNK);
}

/* Those behind them are hidden up to a whole vector. */
static ORRI_SIMD void row_maxima(int rows, int i0, int j0, float *s, float *max)
{
    for (int r = 0; r < rows; r++, s += CHUNK) {
        int seen = visible(i0 + r, j0), count = lanes(seen);
        float most = s[0];

        for (int j = seen; j < count; j++)
            s[j] = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int j = 0; j < count; j++)
            most = s[j] > most ? s[j] : most;
        max[r] = most;
    }
}

/* One step of the online softmax: scores become exp(score - max), those of keys that a query may not see 0; what o holds of earlier
 * keys is brought to the new maximum. The maxima come first, for all rows: each is waited for then only once. */
static ORRI_SIMD void softmax_step(int rows, int i0, int j0, int width, float *s, float *max, float *sum, float *o)
{
    float most[TILE];

    row_maxima(rows, i0, j0, s, most);
    for (int r = 0; r < rows; r++, s += CHUNK, o += width) {
        int count = lanes(visible(i0 + r, j0));
        float new = j0 && max[r] > most[r] ? max[r] : most[r], part[LANES] = {0};

        for (int j = 0; j < count; j += LANES)
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                s[j + l] = orri_exp_bounded(s[j + l] - new);
                part[l] += s[j + l];
            }
        float old = j0 ? orri_exp_bounded(max[r] - new) : 0;
        if (j0) {
#pragma omp simd
            for (int d = 0; d < width; d++)
                o[d] *= old;
        }
        sum[r] = j0 ? sum[r] * old + total(part) : total(part);
        max[r] = new;
    }
}

/* o of queries i0 .. i0 + rows - 1 takes in those keys of a chunk, from j0 on, that they may see. */
static void forward_chunk(const struct head *h, const struct forward *w, int i0, int rows, int j0)
{
    int dim = h->dim, width = lanes(dim), keys = orri_least(i0 + rows - j0, CHUNK);

    for (int j = 0; j < keys; j += TILE)
        for (int r = 0, n; r < rows; r += n) {
            bool diagonal = j0 + j == i0;
            n = orri_least(rows - r, diagonal ? LANES : TILE);
            orri_small_product(ORRI_SMALL_TRANSPOSED, n, diagonal ? r + LANES : TILE, dim, w->q + r, TILE,
                              w->k + (size_t)(j0 + j) * (size_t)dim, TILE, false, w->s + r * CHUNK + j, CHUNK);
        }
    softmax_step(rows, i0, j0, width, w->s, w->max, w->sum, w->o);
    if (h->dropout.p > 0)
        for (int r = 0; r < rows; r++)
            orri_dropout_apply(&h->dropout, element_of(h, i0 + r, j0), (size_t)visible(i0 + r, j0), w->s + r * CHUNK);
    for (int r = 0, n; r < rows; r += n) {
        n = orri_least(rows - r, i0 < j0 + keys ? LANES : TILE);
        orri_small_product(ORRI_SMALL_WIDE_ROWS, n, width, visible(i0 + r + n - 1, j0), w->s + r * CHUNK, 0,
                          w->v + (size_t)j0 * (size_t)width, width, j0 > 0, w->o + r * width, width);
    }
}

static void forward_head(const struct head *h, const struct matrix *o, float *lse, const struct forward *w)
{
    int dim = h->dim, width = lanes(dim);

    for (int j0 = 0; j0 < h->seq; j0 += TILE)
        take_transposed(&h->k, j0, orri_least(h->seq - j0, TILE), dim, 1, w->room, w->k + (size_t)j0 * (size_t)dim);
    take(&h->v, 0, h->seq, dim, width, w->v);
    for (int i0 = 0; i0 < h->seq; i0 += TILE) {
        int rows = orri_least(h->seq - i0, TILE);

        take_transposed(&h->q, i0, rows, dim, h->scale, w->room, w->q);
        for (int j0 = 0; j0 < i0 + rows; j0 += CHUNK)
            forward_chunk(h, w, i0, rows, j0);
        for (int r = 0; r < rows; r++) {
            multiply(dim, 1 / w->sum[r], w->o + r * width);
            orri_round(o->dtype, (size_t)dim, w->o + r * width, row_of(o, i0 + r));
            lse[i0 + r] = w->max[r] + logf(w->sum[r]);
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------------------------------------- */

struct backward {
    float *q, *d_o;             /* [T / TILE][D,TILE], transposed; q scaled                               */
    float *dq;                  /* [T,lanes(D)], before scaling                                           */
    float *delta;               /* [T]                                                                    */
    float *k, *v;               /* of a tile of keys: [D,TILE], transposed                                */
    float *k_rows;              /* [TILE,lanes(D)]                                                        */
    float *dk, *dv;             /* [D,TILE], transposed                                                   */
    float *p;                   /* [TILE,TILE], scores, then dropped probabilities                        */
    float *ds;                  /* [TILE,TILE], gradient of these, then of q k^T                          */
    float *room;                /* [TILE,D], of other elements than fp32                                  */
};

static size_t cut_backward(enum orr_dtype dtype, const struct orri_attention *a, void *scratch, struct backward *w)
{
    size_t dim = (size_t)a->head_dim, width = (size_t)lanes(a->head_dim), seq = (size_t)a->seq, used = 0;

    *w = (struct backward){
        .q = cut(scratch, &used, whole_tiles(a->seq) * dim),
        .d_o = cut(scratch, &used, whole_tiles(a->seq) * dim),
        .dq = cut(scratch, &used, seq * width),
        .delta = cut(scratch, &used, seq),
        .k = cut(scratch, &used, dim * TILE),
        .v = cut(scratch, &used, dim * TILE),
        .k_rows = cut(scratch, &used, TILE * width),
        .dk = cut(scratch, &used, dim * TILE),
        .dv = cut(scratch, &used, dim * TILE),
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

/* p and ds of queries from i0 on and keys from j0 on become what they are last. */
static void softmax_backward(const struct head *h, const float *lse, const struct backward *w, int i0, int rows, int j0)
{
    float keep[TILE];

    for (int j = 0; j < TILE; j++)
        keep[j] = 1;
    for (int r = 0; r < rows; r++) {
        int i = i0 + r, seen = orri_least(i - j0 + 1, TILE);
        float *p = w->p + r * TILE, *ds = w->ds + r * TILE;

        if (h->dropout.p > 0) {
            for (int j = 0; j < seen; j++)
                keep[j] = 1;
            orri_dropout_apply(&h->dropout, element_of(h, i, j0), (size_t)seen, keep);
        }
        row_backward(lanes(seen), lse[i], w->delta[i], keep, p, ds);
        for (int j = seen; j < lanes(seen); j++)
            p[j] = ds[j] = 0;
    }
}

/* What a block of queries and a tile of keys add to dq, dk and dv. Only on the diagonal, the last of it, has a tile fewer keys. */
static void backward_tile(const struct head *h, const float *lse, const struct backward *w, int i0, int j0)
{
    bool diagonal = i0 == j0;
    int dim = h->dim, width = lanes(dim), rows = orri_least(h->seq - i0, TILE);
    int keys = diagonal ? rows : TILE, step = diagonal ? LANES : TILE;
    const float *q = w->q + (size_t)i0 * (size_t)dim, *d_o = w->d_o + (size_t)i0 * (size_t)dim;

    for (int r = 0; r < rows; r += step) {
        int n = orri_least(rows - r, step), cols = diagonal ? r + step : TILE;
        orri_small_product(ORRI_SMALL_TRANSPOSED, n, cols, dim, q + r, TILE, w->k, TILE, false, w->p + r * TILE, TILE);
        orri_small_product(ORRI_SMALL_TRANSPOSED, n, cols, dim, d_o + r, TILE, w->v, TILE, false, w->ds + r * TILE, TILE);
    }
    softmax_backward(h, lse, w, i0, rows, j0);
    for (int j = 0; j < keys; j += step) {
        int r = diagonal ? j : 0;
        orri_small_product(ORRI_SMALL_ROWS, dim, step, rows - r, d_o + r, 0, w->p + r * TILE + j, TILE, !diagonal, w->dv + j, TILE);
        orri_small_product(ORRI_SMALL_ROWS, dim, step, rows - r, q + r, 0, w->ds + r * TILE + j, TILE, !diagonal, w->dk + j, TILE);
    }
    for (int r = 0; r < rows; r += step) {
        int n = orri_least(rows - r, step);
        orri_small_product(ORRI_SMALL_ROWS, n, width, diagonal ? r + n : TILE, w->ds + r * TILE, 0, w->k_rows, width, j0 > 0,
                          w->dq + (size_t)(i0 + r) * (size_t)width, width);
    }
}

static void backward_head(const struct head *h, const struct matrix *o, const struct matrix *d_o, const float *lse,
                          const struct backward *w)
{
    int dim = h->dim, width = lanes(dim);

    for (int i0 = 0; i0 < h->seq; i0 += TILE) {
        int rows = orri_least(h->seq - i0, TILE);

        take_transposed(&h->q, i0, rows, dim, h->scale, w->room, w->q + (size_t)i0 * (size_t)dim);
        take_transposed(d_o, i0, rows, dim, 1, w->room, w->d_o + (size_t)i0 * (size_t)dim);
    }
    row_products(o, d_o, h->seq, dim, w->room, w->delta);
    for (int j0 = 0; j0 < h->seq; j0 += TILE) {
        int keys = orri_least(h->seq - j0, TILE);

        take_transposed(&h->k, j0, keys, dim, 1, w->room, w->k);
        take_transposed(&h->v, j0, keys, dim, 1, w->room, w->v);
        take(&h->k, j0, keys, dim, width, w->k_rows);
        for (int i0 = j0; i0 < h->seq; i0 += TILE)
            backward_tile(h, lse, w, i0, j0);
        /* These rows of k and v are not read again. */
        give_transposed(&h->k, j0, keys, dim, w->dk, w->room);
        give_transposed(&h->v, j0, keys, dim, w->dv, w->room);
    }
    for (int t = 0; t < h->seq; t++) {
        float *dq = w->dq + (size_t)t * (size_t)width;

        multiply(dim, h->scale, dq);
        orri_round(h->q.dtype, (size_t)dim, dq, row_of(&h->q, t));
    }
}

/* ---- all heads --------------------------------------------------------------------------------------------------------------- */

/* Bytes for a thread: the pieces begin at a cache line, wherever the scratch does. */
static size_t forward_scratch(enum orr_dtype dtype, const struct orri_attention *a)
{
    struct forward w;

    return cut_forward(dtype, a, NULL, &w) + LINE;
}

static size_t backward_scratch(enum orr_dtype dtype, const struct orri_attention *a)
{
    struct backward w;

    return cut_backward(dtype, a, NULL, &w) + LINE;
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

static void forward_heads(enum orr_dtype dtype, const struct orri_attention *a, int i, int n, const void *q, const void *k,
                          const void *v, void *o, float *lse, void *scratch)
{
    struct forward w;

    cut_forward(dtype, a, scratch, &w);
    for (int end = i + n; i < end; i++) {
        const struct head head = head_of(dtype, a, i, q, k, v);
        const struct matrix out = outputs_of(dtype, a, i, o);
        forward_head(&head, &out, lse + (size_t)i * (size_t)a->seq, &w);
    }
}

static void backward_heads(enum orr_dtype dtype, const struct orri_attention *a, int i, int n, void *q, void *k, void *v,
                           const void *o, const void *d_o, const float *lse, void *scratch)
{
    struct backward w;

    cut_backward(dtype, a, scratch, &w);
    for (int end = i + n; i < end; i++) {
        const struct head head = head_of(dtype, a, i, q, k, v);
        const struct matrix out = outputs_of(dtype, a, i, o), d_out = outputs_of(dtype, a, i, d_o);
        backward_head(&head, &out, &d_out, lse + (size_t)i * (size_t)a->seq, &w);
    }
}

void orri_cpu_attention_forward(enum orr_dtype dtype, const struct orri_attention *a, const void *q, const void *k, const void *v,
                                void *o, float *lse, void *scratch)
{
    ORRI_TEAM_FOR(a->batch * a->heads, 1, i, n,
                  forward_heads(dtype, a, i, n, q, k, v, o, lse, own_scratch(scratch, forward_scratch(dtype, a))));
}

void orri_cpu_attention_backward(enum orr_dtype dtype, const struct orri_attention *a, void *q, void *k, void *v, const void *o,
                                 const void *d_o, const float *lse, void *scratch)
{
    ORRI_TEAM_FOR(a->batch * a->heads, 1, i, n,
                  backward_heads(dtype, a, i, n, q, k, v, o, d_o, lse, own_scratch(scratch, backward_scratch(dtype, a))));
}
