/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on a device against the functions of math.h, which get the same inputs, rounded to the element type.
 *
 * What a result may be off by follows from the roundings on its way, which the functions of math.h are spared. They are
 * independent of each other, so that errors e[j] of one sum come to 4 sqrt(sum of e[j]^2), as in reference.h; u is half a unit in
 * the last place, relative, of the element type.
 * - A probability p[i][j] is rounded for the product with v, and again for dv: u p.
 * - o is rounded, and delta[i], the sum of o d_o, is off by its errors: those of the elements of o, u o, and those of the
 *   probabilities that it was made from.
 * - The gradient of a score, s[i][j] = p (dp - delta), is off by p times the error of delta, which all j share, and is rounded for
 *   the products that give dq and dk: u s.
 * - Each result is rounded.
 * Products and sums in fp32, on either side, come on top, as in test_math_attention.c. */
#include "tests/check_main.h"
#include "tests/math/device.h"
#include "tests/math/reference.h"
#include "tests/math/sight.h"

#include "codelets/math/math_cpu.h"
#include "codelets/math/math_cuda.h"

/* ---- problems ------------------------------------------------------------------------------------------------------- */

/* Odd rows: row strides and addresses that are no multiples of 16 bytes. */
struct shape {
    int seq, head_dim, batch, heads;
    bool odd;
};

static const struct shape shapes[] = {
    {1, 64, 1, 1, false},   {7, 64, 1, 2, false},   {63, 64, 1, 1, false},  {64, 64, 2, 1, false},  {65, 64, 1, 2, false},
    {129, 64, 2, 1, false}, {200, 64, 1, 2, false}, {65, 64, 1, 1, true},   {1, 128, 2, 1, false},  {7, 128, 1, 1, false},
    {63, 128, 1, 2, false}, {64, 128, 1, 1, false}, {65, 128, 1, 1, false}, {129, 128, 1, 1, false}, {200, 128, 1, 1, false},
    {7, 128, 1, 1, true},   {1, 1, 1, 1, false},    {7, 1, 2, 2, true},     {129, 1, 1, 1, false},  {63, 5, 1, 3, false},
    {200, 5, 1, 1, true},   {64, 16, 1, 2, false},  {129, 16, 2, 1, true},  {65, 40, 1, 2, false},  {7, 80, 2, 1, false},
    {129, 80, 1, 1, true},  {1, 256, 1, 2, false},  {65, 256, 1, 1, true},
};
#define SHAPES ((int)(sizeof(shapes) / sizeof(shapes[0])))
static const float drops[] = {0, 0.1f};

/* 0 everywhere: every query sees all keys up to its own, of its own head. */
struct sight {
    int kv_heads;
    bool bidirectional;
    int window, length;             /* of the sequences in a row; 0: it is one                      */
};

static const struct sight causal;

static const struct {
    struct shape shape;
    struct sight sight;
} seen[] = {
    {{65, 64, 1, 4, false}, {2, false, 0, 0}},    {{129, 128, 1, 2, false}, {1, false, 0, 0}},
    {{130, 16, 2, 6, true}, {3, false, 0, 0}},    {{200, 64, 2, 3, false}, {1, false, 0, 0}},
    {{129, 64, 1, 2, false}, {0, true, 0, 0}},    {{70, 5, 2, 1, true}, {0, true, 0, 0}},
    {{200, 64, 1, 1, false}, {0, false, 7, 0}},   {{200, 128, 1, 2, false}, {1, false, 70, 0}},
    {{150, 64, 1, 2, false}, {0, false, 200, 0}}, {{200, 64, 2, 2, false}, {0, false, 0, 33}},
    {{200, 64, 2, 2, false}, {1, true, 0, 45}},   {{257, 8, 1, 2, true}, {1, true, 0, 3}},
    {{200, 80, 1, 2, false}, {1, false, 20, 90}}, {{1, 64, 1, 2, false}, {1, true, 0, 0}},
    {{300, 16, 1, 1, false}, {0, true, 0, 140}},  {{200, 128, 1, 2, false}, {2, true, 0, 64}},
    {{257, 8, 1, 2, false}, {0, true, 50, 0}},    {{300, 64, 1, 2, false}, {1, false, 40, 130}},
    {{260, 64, 1, 1, false}, {0, true, 0, 3}},
};
#define SEEN ((int)(sizeof(seen) / sizeof(seen[0])))

/* q, k and v side by side, of a shard with some of the heads. */
struct problem {
    struct orri_attention a;
    enum orr_dtype dtype;
    size_t shift;
    int width;                      /* heads * head_dim                                             */
    int k, v;                       /* columns where keys and values begin                          */
    int end;                        /* and where those end                                          */
    int32_t *places;                /* on the host; a.places: on the device                         */
    struct array qkv, o, d_o, lse;  /* o: what was there, which the rows' ends keep                   */
    float *in, *out, *d_out;        /* q, k and v; o; d_o: on the host, rounded                     */
    void *scratch;
};

static void make(struct problem *p, struct shape s, struct sight sight, enum orr_dtype dtype, float drop)
{
    int width = s.heads * s.head_dim, shared = sight.kv_heads ? sight.kv_heads * s.head_dim : width, past = s.odd ? 5 : 8;

    *p = (struct problem){
        .a = {.batch = s.batch, .seq = s.seq, .heads = s.heads, .head_dim = s.head_dim,
              .ld = (width + 2 * shared + 7) / 8 * 8 + past, .ld_out = (width + 7) / 8 * 8 + past,
              .scale = 1 / sqrtf((float)s.head_dim),
              .dropout = {.p = drop, .rng = {.seed = 99, .stream = 3, .step = 8}},
              .first_sample = 3000000019, .total_heads = s.heads + 2, .first_head = 1, .kv_heads = sight.kv_heads,
              .bidirectional = sight.bidirectional, .window = sight.window},
        .dtype = dtype,
        .shift = s.odd ? 1 : 0,
        .width = width,
        .k = width,
        .v = width + shared,
        .end = width + 2 * shared,
    };
    size_t rows = (size_t)s.batch * (size_t)s.seq, in = rows * (size_t)p->a.ld, out = rows * (size_t)p->a.ld_out;
    float *lse = random_floats(rows * (size_t)s.heads, 1, 4);

    p->places = malloc(rows * sizeof(*p->places));
    ck_assert_ptr_nonnull(p->places);
    fill_places(s.batch, s.seq, sight.length, p->places);
    if (sight.length)
        p->a.places = put_ids(rows, p->places);
    p->in = random_floats(in, 2, 1);
    p->out = random_floats(out, 1, 2);
    p->d_out = random_floats(out, 1, 3);
    p->qkv = put(dtype, in, p->in, p->shift);
    p->o = put(dtype, out, p->out, p->shift);
    p->d_o = put(dtype, out, p->d_out, p->shift);
    p->lse = put(ORR_F32, rows * (size_t)s.heads, lse, 0);
    p->scratch = room(orri_cuda_attention_backward_scratch(&p->a, dtype));
    ck_assert_uint_eq(orri_cuda_attention_forward_scratch(&p->a, dtype), 0);
    free(lse);
}

static void destroy(struct problem *p)
{
    drop(&p->qkv);
    drop(&p->o);
    drop(&p->d_o);
    drop(&p->lse);
    drop_room(p->scratch);
    if (p->a.places)
        CUDA(cudaFree((void *)(uintptr_t)p->a.places));
    free(p->places);
    free(p->in);
    free(p->out);
    free(p->d_out);
}

/* q, k or v of an array like in. */
static void *part(const struct problem *p, const struct array *qkv, int which)
{
    return (char *)qkv->data + (size_t)(which == 0 ? 0 : which == 1 ? p->k : p->v) * orr_dtype_size(p->dtype);
}

static void forward(const struct problem *p, const struct array *o, const struct array *lse)
{
    orri_cuda_attention_forward(&device, p->dtype, &p->a, part(p, &p->qkv, 0), part(p, &p->qkv, 1), part(p, &p->qkv, 2), o->data,
                                lse->data, NULL);
}

static void backward(const struct problem *p, const struct array *qkv)
{
    orri_cuda_attention_backward(&device, p->dtype, &p->a, part(p, qkv, 0), part(p, qkv, 1), part(p, qkv, 2), p->o.data,
                                 p->d_o.data, p->lse.data, p->scratch);
}

/* ---- what math.h has, and what may be off ------------------------------------------------------------------------------ */

/* Results of the whole problem, laid out as o, lse and q, k, v; and the bounds. */
struct want {
    float *o, *lse, *grad;
    double *o_off, *grad_off, lse_off;
};

static double *zeros(size_t count)
{
    double *x = calloc(count, sizeof(*x));

    ck_assert_ptr_nonnull(x);
    return x;
}

/* The root of a sum of squares grows. */
static void grow(double *sum, double x)
{
    *sum += x * x;
}

/* Of what a head of keys and values gets, all query heads that share it together: [T,D]. */
struct keys_off {
    double *dk, *dv, *dk_fp32, *dv_fp32;
};

/* Twice what test_math_attention.c allows one side. */
static double fp32_off(const struct orri_attention *a)
{
    return 2 * (SUM_BOUND(a->head_dim) * 4 * (double)a->scale * a->head_dim / 2 + SUM_BOUND(a->seq * orri_attention_group(a)));
}

/* Bounds of one query head, whose q and o begin at in and out: all sums are over the keys that query i sees. */
static void bound_head(const struct problem *p, const struct want *w, int b, int h, const struct keys_off *keys)
{
    const struct orri_attention *a = &p->a;
    const int32_t *places = p->places + b * a->seq;
    int T = a->seq, D = a->head_dim, shared = h / orri_attention_group(a);
    const float *row = p->in + (int64_t)b * T * a->ld, *q = row + h * D, *k = row + p->k + shared * D, *v = row + p->v + shared * D;
    int64_t first_out = (int64_t)b * T * a->ld_out + h * D;
    const float *o = w->o + first_out, *d_o = p->d_out + first_out, *lse = w->lse + ((int64_t)b * a->heads + h) * T;
    uint64_t element = ((a->first_sample + (uint64_t)b) * (uint64_t)a->total_heads + (uint64_t)(a->first_head + h)) *
                       (uint64_t)T * (uint64_t)T;
    double u = rounding(p->dtype, 1), least = rounding(p->dtype, 0), scale = a->scale, kept = 1 / (1 - (double)a->dropout.p);
    double fp32 = fp32_off(a), *prob = zeros(T), *keep = zeros(T), *ds = zeros(T), *ds_size = zeros(T);

    for (int i = 0; i < T; i++) {
        const float *qi = q + i * a->ld, *oi = o + i * a->ld_out, *d_oi = d_o + i * a->ld_out;
        double delta = 0, delta_size = 0, delta_off = 0;

        for (int d = 0; d < D; d++) {
            delta += (double)oi[d] * d_oi[d];
            delta_size += fabs((double)oi[d] * d_oi[d]);
            grow(&delta_off, u * oi[d] * d_oi[d]);
        }
        for (int j = 0; j < T; j++) {
            double s = 0, dp = 0, dp_size = 0;
            float uniform;

            if (!sees(a, places, i, j))
                continue;
            orr_rng_uniform(&a->dropout.rng, element + (uint64_t)i * (uint64_t)T + (uint64_t)j, 1, &uniform);
            keep[j] = uniform >= a->dropout.p ? kept : 0;
            for (int d = 0; d < D; d++) {
                s += (double)qi[d] * k[j * a->ld + d];
                dp += (double)d_oi[d] * v[j * a->ld + d];
                dp_size += fabs((double)d_oi[d] * v[j * a->ld + d]);
            }
            prob[j] = exp(scale * s - lse[i]);
            ds[j] = scale * prob[j] * (keep[j] * dp - delta);
            ds_size[j] = scale * prob[j] * (keep[j] * dp_size + delta_size);
            grow(&delta_off, u * prob[j] * keep[j] * dp);
        }
        delta_off = 4 * sqrt(delta_off) + least * delta_size;
        for (int d = 0; d < D; d++) {
            double o_off = 0, o_fp32 = 0, dq_off = 0, dq_fp32 = 0, all = 0;

            for (int j = 0; j < T; j++) {
                double weight = prob[j] * keep[j], kj = k[j * a->ld + d], vj = v[j * a->ld + d];
                int e = j * D + d;

                if (!sees(a, places, i, j))
                    continue;
                grow(&o_off, (u * weight + least * kept) * vj);
                o_fp32 += weight * fabs(vj);
                grow(&dq_off, (u * fabs(ds[j]) + least * scale) * kj);
                dq_fp32 += ds_size[j] * fabs(kj);
                all += scale * prob[j] * kj;
                grow(&keys->dv[e], (u * weight + least * kept) * d_oi[d]);
                keys->dv_fp32[e] += weight * fabs(d_oi[d]);
                grow(&keys->dk[e], (u * fabs(ds[j]) + least * scale + scale * prob[j] * delta_off) * qi[d]);
                keys->dk_fp32[e] += ds_size[j] * fabs(qi[d]);
            }
            w->o_off[first_out + i * a->ld_out + d] = 4 * sqrt(o_off) + fp32 * o_fp32 + rounding(p->dtype, oi[d]);
            int64_t at = (q - p->in) + i * a->ld + d;
            w->grad_off[at] = 4 * sqrt(dq_off) + delta_off * fabs(all) + fp32 * dq_fp32 + rounding(p->dtype, w->grad[at]);
        }
    }
    free(prob);
    free(keep);
    free(ds);
    free(ds_size);
}

/* Of one head of keys and values, and of the query heads that share it. */
static void bound_heads(const struct problem *p, const struct want *w, int b, int shared)
{
    const struct orri_attention *a = &p->a;
    int T = a->seq, D = a->head_dim, group = orri_attention_group(a);
    size_t size = (size_t)T * (size_t)D;
    struct keys_off keys = {zeros(size), zeros(size), zeros(size), zeros(size)};
    double fp32 = fp32_off(a);

    for (int h = shared * group; h < (shared + 1) * group; h++)
        bound_head(p, w, b, h, &keys);
    for (int j = 0; j < T; j++)
        for (int d = 0; d < D; d++) {
            int64_t row = ((int64_t)b * T + j) * a->ld + shared * D + d, dk = row + p->k, dv = row + p->v;
            int e = j * D + d;

            w->grad_off[dk] = 4 * sqrt(keys.dk[e]) + fp32 * keys.dk_fp32[e] + rounding(p->dtype, w->grad[dk]);
            w->grad_off[dv] = 4 * sqrt(keys.dv[e]) + fp32 * keys.dv_fp32[e] + rounding(p->dtype, w->grad[dv]);
        }
    free(keys.dk);
    free(keys.dv);
    free(keys.dk_fp32);
    free(keys.dv_fp32);
}

static void want(const struct problem *p, struct want *w)
{
    struct orri_attention here = p->a, *a = &here;
    size_t forward = orri_cpu_attention_forward_scratch(a, ORR_F32), backward = orri_cpu_attention_backward_scratch(a, ORR_F32);
    void *scratch = malloc(forward > backward ? forward : backward);

    ck_assert_ptr_nonnull(scratch);
    here.places = p->a.places ? p->places : NULL;
    w->o = copy_floats(p->o.count, p->out);
    w->grad = copy_floats(p->qkv.count, p->in);
    w->lse = random_floats(p->lse.count, 1, 1);
    w->o_off = zeros(p->o.count);
    w->grad_off = zeros(p->qkv.count);
    w->lse_off = 2 * (SUM_BOUND(a->head_dim) * 4 * (double)a->scale * a->head_dim / 2 + SUM_BOUND(a->seq));
    orri_cpu_attention_forward(ORR_F32, a, p->in, p->in + p->k, p->in + p->v, w->o, w->lse, scratch);
    orri_cpu_attention_backward(ORR_F32, a, w->grad, w->grad + p->k, w->grad + p->v, w->o, p->d_out, w->lse, scratch);
    for (int b = 0; b < a->batch; b++)
        for (int h = 0; h < a->heads / orri_attention_group(a); h++)
            bound_heads(p, w, b, h);
    free(scratch);
}

static void free_want(struct want *w)
{
    free(w->o);
    free(w->lse);
    free(w->grad);
    free(w->o_off);
    free(w->grad_off);
}

/* The ends of rows, whose bound is 0, are to stay as they were. */
static void assert_all_close(const char *name, const struct array *got, int64_t ld, const float *want, const double *off)
{
    float *x = get(got);

    for (size_t e = 0; e < got->count; e++)
        assert_close(x[e], want[e], off[e], "%s, row %zu column %zu", name, e / (size_t)ld, e % (size_t)ld);
    free(x);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------- */

static void check(struct shape s, struct sight sight, enum orr_dtype dtype, float drop)
{
    struct problem p;
    struct want w;
    char name[80];

    make(&p, s, sight, dtype, drop);
    want(&p, &w);
    snprintf(name, sizeof(name), "%s T %d D %d B %d H %d, %d %d %d %d, dropout %g", orr_dtype_name(dtype), s.seq, s.head_dim, s.batch,
             s.heads, sight.kv_heads, sight.bidirectional, sight.window, sight.length, (double)drop);
    forward(&p, &p.o, &p.lse);
    assert_all_close(name, &p.o, p.a.ld_out, w.o, w.o_off);
    float *lse = get(&p.lse);
    for (size_t r = 0; r < p.lse.count; r++)
        assert_close(lse[r], w.lse[r], w.lse_off, "%s, row %zu", name, r);
    free(lse);
    backward(&p, &p.qkv);
    assert_all_close(name, &p.qkv, p.a.ld, w.grad, w.grad_off);
    free_want(&w);
    destroy(&p);
}

START_TEST(against_the_cpu)
{
    for (int s = 0; s < SHAPES; s++)
        for (int d = 0; d < 2; d++)
            check(shapes[s], causal, dtypes[_i], drops[d]);
}
END_TEST

START_TEST(who_sees_whom)
{
    for (int s = 0; s < SEEN; s++)
        for (int d = 0; d < 2; d++)
            check(seen[s].shape, seen[s].sight, dtypes[_i], drops[d]);
}
END_TEST

START_TEST(deterministic)
{
    static const struct shape some[] = {{129, 64, 1, 2, false}, {129, 128, 1, 1, false}, {129, 40, 1, 1, true}};
    static const struct sight shared = {1, false, 0, 0};

    for (int s = 0; s < 6; s++) {
        struct problem p;

        make(&p, some[s / 2], s % 2 ? shared : causal, dtypes[_i], drops[1]);
        struct array o = put(p.dtype, p.o.count, p.out, p.shift), qkv = put(p.dtype, p.qkv.count, p.in, p.shift);
        float *lse = random_floats(p.lse.count, 1, 5);
        struct array rows = put(ORR_F32, p.lse.count, lse, 0);

        forward(&p, &p.o, &p.lse);
        forward(&p, &o, &rows);
        assert_same(&p.o, &o);
        assert_same(&p.lse, &rows);
        backward(&p, &qkv);
        backward(&p, &p.qkv);
        assert_same(&p.qkv, &qkv);
        drop(&o);
        drop(&qkv);
        drop(&rows);
        free(lse);
        destroy(&p);
    }
}
END_TEST

static const struct shape long_ones[] = {{200, 64, 1, 1, false}, {200, 128, 1, 1, false}, {200, 16, 1, 1, false}};
enum { LONG = 3 };

START_TEST(late_rows_do_not_reach_early_ones)
{
    enum { CHANGED = 150 };

    for (int s = 0; s < LONG; s++) {
        struct problem p, other;

        make(&p, long_ones[s], causal, dtypes[_i], drops[1]);
        make(&other, long_ones[s], causal, dtypes[_i], drops[1]);
        for (size_t k = CHANGED * (size_t)p.a.ld; k < p.qkv.count; k++)
            other.in[k] = 1 - p.in[k];
        drop(&other.qkv);
        other.qkv = put(other.dtype, p.qkv.count, other.in, 0);
        forward(&p, &p.o, &p.lse);
        forward(&other, &other.o, &other.lse);
        float *x = get(&p.o), *y = get(&other.o);
        for (int t = 0; t < p.a.seq; t++)
            ck_assert((memcmp(x + t * p.a.ld_out, y + t * p.a.ld_out, (size_t)p.width * sizeof(*x)) == 0) == (t < CHANGED));
        free(x);
        free(y);
        destroy(&p);
        destroy(&other);
    }
}
END_TEST

/* Scores that exp() of would overflow, and that grow from one tile of keys to the next. */
START_TEST(large_scores)
{
    for (int s = 0; s < LONG; s++) {
        struct problem p;

        make(&p, long_ones[s], causal, dtypes[_i], drops[0]);
        drop(&p.qkv);
        for (size_t k = 0; k < p.qkv.count; k++)
            if ((int64_t)k % p.a.ld < 2 * p.width)
                p.in[k] *= 0.2f * (float)(1 + (int64_t)k / p.a.ld);
        p.qkv = put(p.dtype, p.qkv.count, p.in, 0);
        forward(&p, &p.o, &p.lse);
        float *o = get(&p.o);
        for (int t = 0; t < p.a.seq; t++)
            for (int c = 0; c < p.width; c++)
                ck_assert(fabsf(o[t * p.a.ld_out + c]) <= 2.02f);
        free(o);
        backward(&p, &p.qkv);
        float *grad = get(&p.qkv);
        for (size_t k = 0; k < p.qkv.count; k++)
            ck_assert(isfinite(grad[k]));
        free(grad);
        destroy(&p);
    }
}
END_TEST

START_TEST(nan_is_shown)
{
    for (int s = 0; s < LONG; s++)
        for (int which = 0; which < 3; which++) {
            struct problem p;

            make(&p, long_ones[s], causal, dtypes[_i], drops[0]);
            drop(&p.qkv);
            p.in[70 * p.a.ld + which * p.width] = NAN;
            p.qkv = put(p.dtype, p.qkv.count, p.in, 0);
            forward(&p, &p.o, &p.lse);
            float *o = get(&p.o);
            for (int t = 0; t < p.a.seq; t++)
                if (t < 64 || t == 70 || (which && t > 70))
                    ck_assert(isnan(o[t * p.a.ld_out]) == (t >= 70));
            free(o);
            destroy(&p);
        }
}
END_TEST

START_TEST(too_large_heads)
{
    static const struct shape s = {1, ORRI_ATTENTION_DIM + 1, 1, 1, false};
    struct problem p;

    make(&p, s, causal, ORR_F32, 0);
    forward(&p, &p.o, &p.lse);
    ck_assert_str_eq(device.what, "attention: a head size of 257, where 256 is the most");
    device.code = 0;
    backward(&p, &p.qkv);
    ck_assert_str_eq(device.what, "attention: a head size of 257, where 256 is the most");
    device.code = 0;
    destroy(&p);
}
END_TEST

/* ---- the next position ------------------------------------------------------------------------------------------------ */

/* Against the CPU's kernel, which gets the same rounded inputs: both sum in fp32, in another order. */
START_TEST(next_position)
{
    enum { PAGE = 16, PAGES = 5, PART = 3, PARTS = 5, LENGTHS = 5 };
    static const int lengths[LENGTHS] = {1, 9, PAGE, 3 * PAGE + 5, PAGES * PAGE}, dims[] = {5, 64, 128, 300};
    static const int kv_heads[] = {0, 2, 1}, windows[] = {0, 3, 20};
    enum orr_dtype dtype = dtypes[_i];

    for (int i = 0; i < LENGTHS * 4 * 3; i++) {
        int dim = dims[i / LENGTHS % 4], heads = 4, width = heads * dim, style = i / (LENGTHS * 4);
        const struct orri_attention a = {.heads = heads, .head_dim = dim, .scale = 1 / sqrtf((float)dim),
                                         .kv_heads = kv_heads[style], .window = windows[style]};
        size_t shared = (size_t)(width / orri_attention_group(&a));
        struct orri_kept there = {lengths[i % LENGTHS], PAGE, {NULL}}, here = there;
        size_t part = PAGE * 2 * shared, before = PART * part * orr_dtype_size(dtype);
        struct array page[PAGES], q, o;
        float *query = random_floats((size_t)width, 2, 7), *out = random_floats((size_t)width, 1, 8);
        char *values[PAGES];
        void *rows = malloc((size_t)width * sizeof(float)), *result = malloc((size_t)width * sizeof(float));

        for (int n = 0; n < PAGES; n++) {
            size_t count = PARTS * part;
            float *x = random_floats(count, 2, (uint64_t)n);
            page[n] = put(dtype, count, x, 0);
            there.pages[n] = (char *)page[n].data + before;
            values[n] = malloc(count * sizeof(float));
            here.pages[n] = values[n] + before;
            orr_dtype_round(dtype, count, x, values[n]);
            free(x);
        }
        q = put(dtype, (size_t)width, query, 0);
        o = put(dtype, (size_t)width, out, 0);
        orr_dtype_round(dtype, (size_t)width, query, rows);
        orri_cuda_attention_next(&device, dtype, &a, q.data, &there, o.data);
        orri_cpu_attention_next(dtype, &a, rows, &here, result);
        float *got = get(&o), *want = malloc((size_t)width * sizeof(float));
        orr_dtype_widen(dtype, (size_t)width, result, want);
        for (int d = 0; d < width; d++)
            assert_close(got[d], want[d], 32 * FLT_EPSILON * sqrt(dim) + 2 * rounding(dtype, want[d]),
                         "%d positions of %d, %d, %d of them seen, %d heads of keys", there.length, dim, d, a.window, a.kv_heads);
        for (int n = 0; n < PAGES; n++) {
            drop(&page[n]);
            free(values[n]);
        }
        drop(&q);
        drop(&o);
        free(query);
        free(out);
        free(rows);
        free(result);
        free(got);
        free(want);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: attention kernels");
    TCase *c = tcase_create("attention");

    begin_device();
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, against_the_cpu, 0, DTYPES);
    tcase_add_loop_test(c, who_sees_whom, 0, DTYPES);
    tcase_add_loop_test(c, deterministic, 0, DTYPES);
    tcase_add_loop_test(c, late_rows_do_not_reach_early_ones, 0, DTYPES);
    tcase_add_loop_test(c, large_scores, 0, DTYPES);
    tcase_add_loop_test(c, nan_is_shown, 0, DTYPES);
    tcase_add_test(c, too_large_heads);
    tcase_add_loop_test(c, next_position, 0, DTYPES);
    suite_add_tcase(s, c);
    return s;
}
