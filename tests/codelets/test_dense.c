/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <math.h>
#include <string.h>

#include <codelets/dense/dense.h>

enum { DROPOUT_PLACE = 4 };

static const struct {
    int batch, seq, width;
    float dropout;
    enum orr_norm norm;
    enum orr_activation activation;
} cases[] = {
    {1, 1, 30, 0, ORR_LAYERNORM, ORR_TANH},      {2, 17, 33, 0, ORR_LAYERNORM, ORR_GELU},  {3, 129, 30, 0, ORR_LAYERNORM, ORR_TANH},
    {2, 17, 30, 0.2f, ORR_LAYERNORM, ORR_TANH},  {3, 20, 33, 0.2f, ORR_NO_NORM, ORR_GELU}, {2, 9, 31, 0, ORR_NO_NORM, ORR_TANH},
};

static struct orr_model *model_of(const struct orr_dense *config)
{
    struct orr_model *model = harness_model(config->width);

    ck_assert_int_eq(orr_dense(model, 4, config), 0);
    return model;
}

static void open_case(struct harness *h, int i)
{
    struct orr_dense config = {.width = cases[i].width, .out = cases[i].width, .eps = 1e-5f, .dropout = cases[i].dropout, .std = 0.3f,
                               .norm = cases[i].norm, .activation = cases[i].activation};

    harness_open(h, model_of(&config), 1, cases[i].batch, cases[i].seq, 5);
}

/* ---- y = dropout(act(norm(x) W^T + b)) ----------------------------------------------------------------------- */

static double act(int kind, double u)
{
    return kind == ORR_TANH ? tanh(u) : 0.5 * u * (1 + erf(u / sqrt(2.0)));
}

static double slope(int kind, double u)
{
    return kind == ORR_TANH ? 1 - tanh(u) * tanh(u) : 0.5 * (1 + erf(u / sqrt(2.0))) + u * exp(-u * u / 2) / sqrt(2 * 3.14159265358979323846);
}

struct inner {
    double *norm, *u, *mask;
};

static struct inner inner(const struct harness *h)
{
    const struct orr_dense *d = h->block->config;
    int rows = h->rows, c = d->width;
    const double *w = harness_view(h, h->wide_param, "weight", c, c), *b = harness_view(h, h->wide_param, "bias", c, 0);
    struct inner in = {wide_zeros((int64_t)rows * c), wide_zeros((int64_t)rows * c),
                       reference_mask(h, DROPOUT_PLACE, d->dropout, h->o.first_sample * (uint64_t)h->o.seq * (uint64_t)c, (int64_t)rows * c)};

    if (d->norm == ORR_NO_NORM)
        memcpy(in.norm, h->wide_x, (size_t)rows * (size_t)c * sizeof(*in.norm));
    else
        reference_norm(rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0),
                       harness_view(h, h->wide_param, "norm.bias", c, 0), d->eps, in.norm);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < c; j++) {
            in.u[r * c + j] = b[j];
            for (int k = 0; k < c; k++)
                in.u[r * c + j] += in.norm[r * c + k] * w[j * c + k];
        }
    return in;
}

static void inner_free(struct inner *in)
{
    free(in->norm);
    free(in->u);
    free(in->mask);
}

static double objective(const struct harness *h, double *y)
{
    const struct orr_dense *d = h->block->config;
    struct inner in = inner(h);
    double sum = 0;

    for (int64_t k = 0; k < (int64_t)h->rows * h->width; k++) {
        double value = in.mask[k] * act(d->activation, in.u[k]);
        sum += h->wide_dy[k] * value;
        if (y)
            y[k] = value;
    }
    inner_free(&in);
    return sum;
}

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const struct orr_dense *d = h->block->config;
    int rows = h->rows, c = d->width;
    const double *w = harness_view(h, h->wide_param, "weight", c, c);
    double *dw = harness_view(h, dparam, "weight", c, c), *db = harness_view(h, dparam, "bias", c, 0);
    struct inner in = inner(h);
    double *dnorm = wide_zeros((int64_t)rows * c);

    for (int r = 0; r < rows; r++)
        for (int j = 0; j < c; j++) {
            double du = in.mask[r * c + j] * h->wide_dy[r * c + j] * slope(d->activation, in.u[r * c + j]);
            db[j] += du;
            for (int k = 0; k < c; k++) {
                dw[j * c + k] += du * in.norm[r * c + k];
                dnorm[r * c + k] += du * w[j * c + k];
            }
        }
    if (d->norm == ORR_NO_NORM)
        memcpy(dx, dnorm, (size_t)rows * (size_t)c * sizeof(*dx));
    else
        reference_norm_backward(rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0), d->eps, dnorm, dx,
                                harness_view(h, dparam, "norm.weight", c, 0), harness_view(h, dparam, "norm.bias", c, 0));
    free(dnorm);
    inner_free(&in);
}

static struct reference reference_of(const struct harness *h)
{
    return (struct reference){objective, backward, h->rows > h->width ? h->rows : h->width};
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

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

static struct orr_model *with_dropout(void)
{
    struct orr_dense config = {.width = 30, .out = 30, .eps = 1e-5f, .dropout = 0.2f, .std = 0.3f, .activation = ORR_TANH};

    return model_of(&config);
}

START_TEST(microbatches)
{
    check_microbatches(with_dropout, 1, 17, 5, 9, 30);
}
END_TEST

START_TEST(shards)
{
    struct harness h;
    struct orr_dense config = {.width = 10, .out = 10, .eps = 1e-5f, .dropout = _i & 1 ? 0.2f : 0, .std = 0.3f, .activation = ORR_TANH,
                               .norm = _i & 2 ? ORR_NO_NORM : ORR_LAYERNORM};

    harness_open(&h, model_of(&config), 1, 2, 7, 5);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), 10);
    check_layouts(&h, 14);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_dense empty = {.width = 30}, dropout = {.width = 30, .out = 4, .dropout = -0.1f};
    struct orr_model *model = harness_model(30);

    ck_assert_int_eq(orr_dense(model, 0, &empty), ORR_EINVAL);
    ck_assert_int_eq(orr_dense(model, 0, &dropout), ORR_EINVAL);
    ck_assert_int_eq(model->blocks, 1);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("dense");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, passes, 0, (int)ORRI_COUNT(cases));
    tcase_add_test(c, views);
    tcase_add_test(c, microbatches);
    tcase_add_loop_test(c, shards, 0, 4);
    tcase_add_test(c, refuses_what_it_cannot_be);
    suite_add_tcase(s, c);
    return s;
}
