/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <math.h>
#include <string.h>

#include <codelets/attention/attention.h>

enum { PROBABILITY_PLACE, DROPOUT_PLACE };

static const struct {
    int batch, seq, width, heads;
    float attention_dropout, dropout;
} cases[] = {
    {1, 1, 30, 3, 0, 0},      {2, 17, 33, 3, 0, 0},       {3, 129, 30, 3, 0, 0},
    {2, 17, 30, 1, 0, 0},     {1, 65, 33, 33, 0, 0},      {3, 1, 33, 11, 0, 0},
    {2, 17, 33, 3, 0.2f, 0},  {2, 17, 33, 3, 0, 0.2f},    {3, 129, 30, 3, 0.2f, 0.2f},
};

static struct orr_model *model_of(const struct orr_attention *config)
{
    struct orr_model *model = harness_model(config->width);

    ck_assert_int_eq(orr_attention(model, 4, config), 0);
    return model;
}

static void open_case(struct harness *h, int i)
{
    /* Weights of this size give scores of a few units, so that the softmax is neither flat nor one-hot. */
    struct orr_attention config = {.width = cases[i].width, .heads = cases[i].heads, .eps = 1e-5f,
                                   .attention_dropout = cases[i].attention_dropout, .dropout = cases[i].dropout, .std = 0.25f,
                                   .projection_std = 0.2f};

    harness_open(h, model_of(&config), 1, cases[i].batch, cases[i].seq, 5);
}

/* ---- y = x + dropout(concat_h(dropout(softmax(q_h k_h^T / sqrt(C/H) + causal mask)) v_h) Wproj + bproj),
 *      q, k, v = split(norm(x) Wqkv + bqkv) ---------------------------------------------------------------- */

struct inner {
    double *norm, *qkv;
    double *p, *keep;           /* [B,H,T,T] probabilities and their dropout's factors */
    double *heads, *out, *mask;
};

static struct inner inner(const struct harness *h)
{
    const struct orr_attention *a = h->block->config;
    int rows = h->rows, c = a->width, T = h->o.seq, H = a->heads, D = c / H;
    int64_t scores = (int64_t)h->o.batch * H * T * T;
    struct inner in = {
        wide_zeros((int64_t)rows * c), wide_zeros((int64_t)rows * 3 * c), wide_zeros(scores),
        reference_mask(h, PROBABILITY_PLACE, a->attention_dropout, h->o.first_sample * (uint64_t)(H * T * T), scores),
        wide_zeros((int64_t)rows * c), wide_zeros((int64_t)rows * c),
        reference_mask(h, DROPOUT_PLACE, a->dropout, h->o.first_sample * (uint64_t)(T * c), (int64_t)rows * c)};

    reference_norm(rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0),
                   harness_view(h, h->wide_param, "norm.bias", c, 0), a->eps, in.norm);
    reference_affine(rows, c, 3 * c, in.norm, harness_view(h, h->wide_param, "qkv.weight", c, 3 * c),
                     harness_view(h, h->wide_param, "qkv.bias", 3 * c, 0), in.qkv);
    for (int b = 0; b < h->o.batch; b++)
        for (int head = 0; head < H; head++)
            for (int i = 0; i < T; i++) {
                double *p = in.p + (((int64_t)b * H + head) * T + i) * T;
                double *keep = in.keep + (p - in.p), sum = 0;
                const double *q = in.qkv + (int64_t)(b * T + i) * 3 * c + head * D;
                double *o = in.heads + (int64_t)(b * T + i) * c + head * D;
                for (int j = 0; j <= i; j++) {
                    const double *k = in.qkv + (int64_t)(b * T + j) * 3 * c + c + head * D;
                    double score = 0;
                    for (int d = 0; d < D; d++)
                        score += q[d] * k[d];
                    p[j] = exp(score / sqrt(D));
                    sum += p[j];
                }
                for (int j = 0; j <= i; j++) {
                    const double *v = in.qkv + (int64_t)(b * T + j) * 3 * c + 2 * c + head * D;
                    p[j] /= sum;
                    for (int d = 0; d < D; d++)
                        o[d] += keep[j] * p[j] * v[d];
                }
            }
    reference_affine(rows, c, c, in.heads, harness_view(h, h->wide_param, "proj.weight", c, c),
                     harness_view(h, h->wide_param, "proj.bias", c, 0), in.out);
    return in;
}

static void inner_free(struct inner *in)
{
    free(in->norm);
    free(in->qkv);
    free(in->p);
    free(in->keep);
    free(in->heads);
    free(in->out);
    free(in->mask);
}

static double objective(const struct harness *h, double *y)
{
    struct inner in = inner(h);
    double sum = 0;

    for (int64_t k = 0; k < (int64_t)h->rows * h->width; k++) {
        double value = h->wide_x[k] + in.mask[k] * in.out[k];
        sum += h->wide_dy[k] * value;
        if (y)
            y[k] = value;
    }
    inner_free(&in);
    return sum;
}

static void row_backward(const struct harness *h, const struct inner *in, int b, int head, int i, const double *dheads,
                         double *dqkv)
{
    const struct orr_attention *a = h->block->config;
    int c = a->width, T = h->o.seq, D = c / a->heads;
    const double *p = in->p + (((int64_t)b * a->heads + head) * T + i) * T, *keep = in->keep + (p - in->p);
    int64_t qi = (int64_t)(b * T + i) * 3 * c + head * D;
    const double *d_o = dheads + (int64_t)(b * T + i) * c + head * D;
    double *dp = wide_zeros(T), mean = 0;

    for (int j = 0; j <= i; j++) {
        int64_t vj = (int64_t)(b * T + j) * 3 * c + 2 * c + head * D;
        for (int d = 0; d < D; d++) {
            dp[j] += keep[j] * d_o[d] * in->qkv[vj + d];
            dqkv[vj + d] += keep[j] * p[j] * d_o[d];
        }
        mean += p[j] * dp[j];
    }
    for (int j = 0; j <= i; j++) {
        int64_t kj = (int64_t)(b * T + j) * 3 * c + c + head * D;
        double dscore = p[j] * (dp[j] - mean) / sqrt(D);
        for (int d = 0; d < D; d++) {
            dqkv[qi + d] += dscore * in->qkv[kj + d];
            dqkv[kj + d] += dscore * in->qkv[qi + d];
        }
    }
    free(dp);
}

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const struct orr_attention *a = h->block->config;
    int rows = h->rows, c = a->width;
    int64_t count = (int64_t)rows * c;
    struct inner in = inner(h);
    double *dout = wide_zeros(count), *dheads = wide_zeros(count), *dqkv = wide_zeros(3 * count);
    double *dnorm = wide_zeros(count);

    for (int64_t k = 0; k < count; k++) {
        dx[k] = h->wide_dy[k];
        dout[k] = in.mask[k] * h->wide_dy[k];
    }
    reference_affine_backward(rows, c, c, in.heads, harness_view(h, h->wide_param, "proj.weight", c, c), dout, dheads,
                              harness_view(h, dparam, "proj.weight", c, c),
                              harness_view(h, dparam, "proj.bias", c, 0));
    for (int b = 0; b < h->o.batch; b++)
        for (int head = 0; head < a->heads; head++)
            for (int i = 0; i < h->o.seq; i++)
                row_backward(h, &in, b, head, i, dheads, dqkv);
    reference_affine_backward(rows, c, 3 * c, in.norm, harness_view(h, h->wide_param, "qkv.weight", c, 3 * c), dqkv,
                              dnorm, harness_view(h, dparam, "qkv.weight", c, 3 * c),
                              harness_view(h, dparam, "qkv.bias", 3 * c, 0));
    reference_norm_backward(rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0), a->eps, dnorm,
                            dx, harness_view(h, dparam, "norm.weight", c, 0),
                            harness_view(h, dparam, "norm.bias", c, 0));
    free(dout);
    free(dheads);
    free(dqkv);
    free(dnorm);
    inner_free(&in);
}

/* A sum over rows or over 3C, whichever is longer. */
static struct reference reference_of(const struct harness *h)
{
    return (struct reference){objective, backward, h->rows > 3 * h->width ? h->rows : 3 * h->width};
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

START_TEST(passes)
{
    struct harness h;

    open_case(&h, _i);
    struct reference reference = reference_of(&h);
    check_passes(&h, &reference, 5);
    check_again(&h);
    check_scratch(&h);
    harness_close(&h);
}
END_TEST

START_TEST(views)
{
    struct harness h;

    open_case(&h, 1);
    struct reference reference = reference_of(&h);
    check_views(&h, &reference);
    harness_close(&h);
}
END_TEST

START_TEST(evaluation)
{
    struct harness h, none;
    struct orr_attention config = {.width = 30, .heads = 3, .eps = 1e-5f, .attention_dropout = 0, .dropout = 0, .std = 0.25f,
                                   .projection_std = 0.2f};

    open_case(&h, 8);
    harness_open(&none, model_of(&config), 1, 3, 129, 5);
    h.o.training = false;
    harness_run(&h, ORR_FORWARD);
    harness_run(&none, ORR_FORWARD);
    ck_assert_mem_eq(h.y, none.y, (size_t)h.rows * (size_t)h.width * sizeof(float));
    harness_close(&h);
    harness_close(&none);
}
END_TEST

static struct orr_model *with_dropout(void)
{
    struct orr_attention config = {.width = 33, .heads = 3, .eps = 1e-5f, .attention_dropout = 0.2f, .dropout = 0.2f, .std = 0.25f,
                                   .projection_std = 0.2f};

    return model_of(&config);
}

START_TEST(microbatches)
{
    check_microbatches(with_dropout, 1, 17, 5, 9, 99);
}
END_TEST

START_TEST(shards)
{
    struct harness h;
    struct orr_attention config = {.width = 25, .heads = 5, .eps = 1e-5f, .attention_dropout = _i ? 0.2f : 0, .dropout = _i ? 0.3f : 0, .std = 0.25f,
                                   .projection_std = 0.2f};

    harness_open(&h, model_of(&config), 1, 2, 7, 5);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), 5);
    check_layouts(&h, 75);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_attention config = {.width = 30, .heads = 4};
    struct orr_model *model = harness_model(30);

    ck_assert_int_eq(orr_attention(model, 0, &config), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "attention: 4 heads do not divide a width of 30");
    config.heads = 0;
    ck_assert_int_eq(orr_attention(model, 0, &config), ORR_EINVAL);
    config.heads = 3;
    config.dropout = 1;
    ck_assert_int_eq(orr_attention(model, 0, &config), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "attention: a dropout of 1 is not in 0 <= p < 1");
    config.dropout = 0;
    config.attention_dropout = NAN;
    ck_assert_int_eq(orr_attention(model, 0, &config), ORR_EINVAL);
    ck_assert_int_eq(model->blocks, 1);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("attention");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, passes, 0, (int)ORRI_COUNT(cases));
    tcase_add_test(c, views);
    tcase_add_test(c, evaluation);
    tcase_add_test(c, microbatches);
    tcase_add_loop_test(c, shards, 0, 2);
    tcase_add_test(c, refuses_what_it_cannot_be);
    suite_add_tcase(s, c);
    return s;
}
