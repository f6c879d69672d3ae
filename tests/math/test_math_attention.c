/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/check_main.h"
#include "tests/math/reference.h"

#include "codelets/math/math_cpu.h"

#include <string.h>

/* seq, head_dim, batch, heads */
static const int shapes[][4] = {
    { 1, 5, 1, 1 },  { 1, 64, 2, 3 },  { 17, 5, 2, 3 },  { 17, 8, 1, 1 },  { 64, 8, 1, 2 },  { 65, 64, 1, 1 },
    { 129, 5, 1, 2 }, { 129, 64, 2, 1 }, { 200, 8, 2, 2 }, { 200, 64, 1, 1 }, { 200, 1, 1, 1 },
    /* Around blocks of queries, chunks of keys, vectors and panels of rows. */
    { 15, 13, 1, 1 }, { 16, 16, 1, 1 }, { 31, 14, 1, 2 }, { 32, 15, 1, 1 }, { 33, 28, 1, 1 }, { 48, 29, 1, 1 }, { 63, 33, 1, 1 },
    { 95, 80, 1, 1 }, { 96, 96, 1, 1 }, { 128, 128, 1, 1 }, { 255, 17, 1, 1 }, { 256, 16, 1, 1 }, { 257, 32, 1, 1 }, { 300, 40, 1, 1 },
    { 70, 256, 1, 1 }, { 530, 20, 1, 1 },
};
#define CASES (2 * (int)(sizeof(shapes) / sizeof(shapes[0])))   /* each without and with dropout */

/* q, k, v side by side in rows wider than they are, as one sample of a shard with some of the heads. */
struct problem {
    struct orri_attention a;
    size_t in_size, out_size, lse_size;
    int width;              /* heads * head_dim */
    float *qkv, *o, *d_o, *lse;
    void *scratch;
};

static void make(struct problem *p, int number)
{
    const int *shape = shapes[number / 2];
    int T = shape[0], D = shape[1], B = shape[2], H = shape[3];

    p->width = H * D;
    p->a = (struct orri_attention){
        .batch = B, .seq = T, .heads = H, .head_dim = D, .ld = 3 * H * D + 5, .ld_out = H * D + 3,
        .scale = 1 / sqrtf((float)D),
        .dropout = { .p = number % 2 ? 0.3f : 0, .rng = { .seed = 99, .stream = 3, .step = 8 } },
        .first_sample = 6, .total_heads = H + 2, .first_head = 1,
    };
    p->in_size = (size_t)B * T * p->a.ld;
    p->out_size = (size_t)B * T * p->a.ld_out;
    p->lse_size = (size_t)B * H * T;
    p->qkv = random_floats(p->in_size, 2, 1);
    p->o = random_floats(p->out_size, 1, 2);
    p->d_o = random_floats(p->out_size, 1, 3);
    p->lse = random_floats(p->lse_size, 1, 4);
    size_t forward = orri_cpu_attention_forward_scratch(&p->a, ORR_F32);
    size_t backward = orri_cpu_attention_backward_scratch(&p->a, ORR_F32), most = forward > backward ? forward : backward;
    p->scratch = malloc(most);
    ck_assert_ptr_nonnull(p->scratch);
    memset(p->scratch, -1, most);       /* NaN */
}

static void destroy(struct problem *p)
{
    free(p->qkv);
    free(p->o);
    free(p->d_o);
    free(p->lse);
    free(p->scratch);
}

static void forward(struct problem *p)
{
    orri_cpu_attention_forward(ORR_F32, &p->a, p->qkv, p->qkv + p->width, p->qkv + 2 * p->width, p->o, p->lse, p->scratch);
}

static void backward(struct problem *p, float *qkv)
{
    orri_cpu_attention_backward(ORR_F32, &p->a, qkv, qkv + p->width, qkv + 2 * p->width, p->o, p->d_o, p->lse, p->scratch);
}

/* One head in double, packed [T,D], with the dropped probabilities' factors keep[T,T]. */
struct head {
    int T, D;
    double scale;
    double *q, *k, *v, *d_o, *keep, *p, *o, *lse;
};

static double *cut(const float *x, int64_t ld, int T, int D)
{
    double *d = malloc((size_t)T * D * sizeof(*d));

    for (int t = 0; t < T; t++)
        for (int c = 0; c < D; c++)
            d[t * D + c] = x[t * ld + c];
    return d;
}

static void cut_head(const struct problem *p, const float *qkv, int b, int h, struct head *e)
{
    const struct orri_attention *a = &p->a;
    int T = a->seq, D = a->head_dim;
    const float *q = qkv + (int64_t)b * T * a->ld + h * D;
    uint64_t element = ((a->first_sample + b) * a->total_heads + a->first_head + h) * (uint64_t)T * T;

    e->T = T;
    e->D = D;
    e->scale = a->scale;
    e->q = cut(q, a->ld, T, D);
    e->k = cut(q + p->width, a->ld, T, D);
    e->v = cut(q + 2 * p->width, a->ld, T, D);
    e->d_o = cut(p->d_o + (int64_t)b * T * a->ld_out + h * D, a->ld_out, T, D);
    e->keep = calloc((size_t)T * T, sizeof(double));
    e->p = calloc((size_t)T * T, sizeof(double));
    e->o = calloc((size_t)T * D, sizeof(double));
    e->lse = calloc(T, sizeof(double));
    for (int i = 0; i < T; i++)
        for (int j = 0; j <= i; j++) {
            float uniform;

            orr_rng_uniform(&a->dropout.rng, element + (uint64_t)i * T + j, 1, &uniform);
            e->keep[i * T + j] = uniform >= a->dropout.p ? 1 / (1.0 - a->dropout.p) : 0;
        }
}

static void free_head(struct head *e)
{
    free(e->q);
    free(e->k);
    free(e->v);
    free(e->d_o);
    free(e->keep);
    free(e->p);
    free(e->o);
    free(e->lse);
}

/* Rows from `from` on; returns the sum of d_o o over them. */
static double head_forward(struct head *e, int from)
{
    int T = e->T, D = e->D;
    double objective = 0;

    for (int i = from; i < T; i++) {
        double max = -INFINITY, sum = 0, *p = e->p + i * T;

        for (int j = 0; j <= i; j++) {
            p[j] = 0;
            for (int c = 0; c < D; c++)
                p[j] += e->scale * e->q[i * D + c] * e->k[j * D + c];
            max = fmax(max, p[j]);
        }
        for (int j = 0; j <= i; j++)
            sum += exp(p[j] - max);
        e->lse[i] = max + log(sum);
        for (int j = 0; j <= i; j++)
            p[j] = exp(p[j] - e->lse[i]);
        for (int c = 0; c < D; c++) {
            double o = 0;

            for (int j = 0; j <= i; j++)
                o += p[j] * e->keep[i * T + j] * e->v[j * D + c];
            e->o[i * D + c] = o;
            objective += o * e->d_o[i * D + c];
        }
    }
    return objective;
}

/* Probabilities are off by the rounding of a score, a sum of D terms of magnitude at most 4 scale D in all,
 * and sums of them run over at most T keys. */
static double probability_bound(const struct orri_attention *a)
{
    return SUM_BOUND(a->head_dim) * 4 * a->scale * a->head_dim / 2 + SUM_BOUND(a->seq);
}

START_TEST(forward_against_reference)
{
    struct problem p;

    make(&p, _i);
    const struct orri_attention *a = &p.a;
    int T = a->seq, D = a->head_dim;
    float *old = copy_floats(p.out_size, p.o);
    double bound = probability_bound(a);

    forward(&p);
    for (int b = 0; b < a->batch; b++)
        for (int h = 0; h < a->heads; h++) {
            struct head e;

            cut_head(&p, p.qkv, b, h, &e);
            head_forward(&e, 0);
            for (int t = 0; t < T; t++) {
                assert_close(p.lse[((int64_t)b * a->heads + h) * T + t], e.lse[t], bound, "head %d row %d", h, t);
                for (int c = 0; c < D; c++) {
                    double size = 0;

                    for (int j = 0; j <= t; j++)
                        size += e.p[t * T + j] * e.keep[t * T + j] * fabs(e.v[j * D + c]);
                    assert_close(p.o[((int64_t)b * T + t) * a->ld_out + h * D + c], e.o[t * D + c],
                                 bound * size + 1e-12, "head %d row %d column %d", h, t, c);
                }
            }
            free_head(&e);
        }
    for (int64_t t = 0; t < (int64_t)a->batch * T; t++)
        for (int64_t c = p.width; c < a->ld_out; c++)
            ck_assert(p.o[t * a->ld_out + c] == old[t * a->ld_out + c]);
    free(old);
    destroy(&p);
}
END_TEST

START_TEST(backward_against_reference)
{
    struct problem p;

    make(&p, _i);
    const struct orri_attention *a = &p.a;
    int T = a->seq, D = a->head_dim;
    float *grad = copy_floats(p.in_size, p.qkv);

    forward(&p);
    backward(&p, grad);
    for (int b = 0; b < a->batch; b++)
        for (int h = 0; h < a->heads; h++) {
            struct head e;

            cut_head(&p, p.qkv, b, h, &e);
            head_forward(&e, 0);
            double *want[3], *size[3], *inputs[3] = { e.q, e.k, e.v };

            for (int w = 0; w < 3; w++) {
                want[w] = calloc((size_t)T * D, sizeof(double));
                size[w] = calloc((size_t)T * D, sizeof(double));
            }
            for (int i = 0; i < T; i++) {
                double delta = 0, delta_size = 0;

                for (int c = 0; c < D; c++) {
                    delta += e.o[i * D + c] * e.d_o[i * D + c];
                    delta_size += fabs(e.o[i * D + c] * e.d_o[i * D + c]);
                }
                for (int j = 0; j <= i; j++) {
                    double prob = e.p[i * T + j], keep = e.keep[i * T + j], dp = 0, dp_size = 0;

                    for (int c = 0; c < D; c++) {
                        double term = e.d_o[i * D + c] * e.v[j * D + c];

                        dp += term;
                        dp_size += fabs(term);
                        want[2][j * D + c] += prob * keep * e.d_o[i * D + c];
                        size[2][j * D + c] += prob * keep * fabs(e.d_o[i * D + c]);
                    }
                    double ds = e.scale * prob * (keep * dp - delta);
                    double ds_size = e.scale * prob * (keep * dp_size + delta_size);

                    for (int c = 0; c < D; c++) {
                        want[0][i * D + c] += ds * e.k[j * D + c];
                        size[0][i * D + c] += ds_size * fabs(e.k[j * D + c]);
                        want[1][j * D + c] += ds * e.q[i * D + c];
                        size[1][j * D + c] += ds_size * fabs(e.q[i * D + c]);
                    }
                }
            }
            for (int w = 0; w < 3; w++)
                for (int t = 0; t < T; t++)
                    for (int c = 0; c < D; c++) {
                        float got = grad[((int64_t)b * T + t) * a->ld + w * p.width + h * D + c];
                        double bound = probability_bound(a) * size[w][t * D + c] + 1e-12;

                        assert_close(got, want[w][t * D + c], bound, "%c row %d column %d", "qkv"[w], t, c);
                        /* Some elements also against a difference, which row t and later alone feel. */
                        if ((t * D + c) % (1 + T * D / 12) == 0) {
                            double step = 1e-5, *x = &inputs[w][t * D + c], x0 = *x;

                            *x = x0 + step;
                            double up = head_forward(&e, t);
                            *x = x0 - step;
                            double down = head_forward(&e, t);
                            *x = x0;
                            assert_close(got, (up - down) / (2 * step), bound + 1e-7, "%c row %d column %d, difference",
                                         "qkv"[w], t, c);
                        }
                    }
            for (int w = 0; w < 3; w++) {
                free(want[w]);
                free(size[w]);
            }
            free_head(&e);
        }
    for (int64_t t = 0; t < (int64_t)a->batch * T; t++)
        for (int64_t c = 3 * p.width; c < a->ld; c++)
            ck_assert(grad[t * a->ld + c] == p.qkv[t * a->ld + c]);
    free(grad);
    destroy(&p);
}
END_TEST

START_TEST(deterministic)
{
    struct problem p;

    make(&p, _i);
    float *first = copy_floats(p.in_size, p.qkv), *second = copy_floats(p.in_size, p.qkv);

    forward(&p);
    float *o = copy_floats(p.out_size, p.o), *lse = copy_floats(p.lse_size, p.lse);
    backward(&p, first);
    forward(&p);
    ck_assert_mem_eq(o, p.o, p.out_size * sizeof(float));
    ck_assert_mem_eq(lse, p.lse, p.lse_size * sizeof(float));
    backward(&p, second);
    ck_assert_mem_eq(first, second, p.in_size * sizeof(float));
    free(first);
    free(second);
    free(o);
    free(lse);
    destroy(&p);
}
END_TEST

START_TEST(late_rows_do_not_reach_early_ones)
{
    struct problem p;

    make(&p, 19);   /* 200 positions, with dropout */
    int T = p.a.seq, changed = 150;

    forward(&p);
    float *o = copy_floats(p.out_size, p.o);
    for (size_t k = (size_t)changed * p.a.ld; k < p.in_size; k++)
        p.qkv[k] = 1 - p.qkv[k];
    forward(&p);
    ck_assert_mem_eq(o, p.o, (size_t)changed * p.a.ld_out * sizeof(float));
    for (int t = changed; t < T; t++)
        ck_assert(memcmp(o + t * p.a.ld_out, p.o + t * p.a.ld_out, p.width * sizeof(float)) != 0);
    free(o);
    destroy(&p);
}
END_TEST

/* Also where the largest score of a query is among earlier keys than those that the online softmax takes last. */
START_TEST(large_scores)
{
    struct problem p;

    make(&p, _i ? CASES - 2 : 18);
    for (size_t k = 0; k < p.in_size; k++)
        p.qkv[k] *= 100;    /* scores of 10^4 and more: exp of them overflows */
    forward(&p);
    for (int t = 0; t < p.a.seq; t++)
        for (int c = 0; c < p.width; c++)
            ck_assert(fabsf(p.o[t * p.a.ld_out + c]) <= 200.001f);
    backward(&p, p.qkv);
    for (size_t k = 0; k < p.in_size; k++)
        ck_assert(isfinite(p.qkv[k]));
    destroy(&p);
}
END_TEST

START_TEST(nan_is_shown)
{
    for (int which = 0; which < 3; which++) {
        struct problem p;

        make(&p, 18);
        p.qkv[70 * p.a.ld + which * p.width] = NAN;
        forward(&p);
        ck_assert(isnan(p.o[70 * p.a.ld_out]));
        if (which) {    /* a key or value reaches all later rows */
            ck_assert(isnan(p.o[71 * p.a.ld_out]));
            ck_assert(isnan(p.o[199 * p.a.ld_out]));
        }
        ck_assert(!isnan(p.o[10 * p.a.ld_out]));
        destroy(&p);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: attention");
    TCase *c = tcase_create("attention");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, forward_against_reference, 0, CASES);
    tcase_add_loop_test(c, backward_against_reference, 0, CASES);
    tcase_add_loop_test(c, deterministic, 0, CASES);
    tcase_add_test(c, late_rows_do_not_reach_early_ones);
    tcase_add_loop_test(c, large_scores, 0, 2);
    tcase_add_test(c, nan_is_shown);
    suite_add_tcase(s, c);
    return s;
}
