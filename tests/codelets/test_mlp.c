/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <string.h>

#include <codelets/mlp/mlp.h>

#include "math/gelu.h"

enum { DROPOUT_PLACE = 2 };

static const struct {
    int batch, seq, width, hidden;
    float dropout;
} cases[] = {
    {1, 1, 30, 70, 0},     {2, 17, 33, 31, 0},     {3, 129, 30, 120, 0},   {1, 17, 33, 1, 0},
    {3, 1, 10, 77, 0},     {2, 17, 30, 70, 0.2f},  {3, 129, 33, 50, 0.2f},
};

static struct orr_model *model_of(const struct orr_mlp *config)
{
    struct orr_model *model = harness_model(config->width);

    ck_assert_int_eq(orr_mlp(model, 4, config), 0);
    return model;
}

static void open_case(struct harness *h, int i)
{
    struct orr_mlp config = {.width = cases[i].width, .hidden = cases[i].hidden, .eps = 1e-5f, .dropout = cases[i].dropout, .std = 0.3f, .projection_std = 0.2f};

    harness_open(h, model_of(&config), 1, cases[i].batch, cases[i].seq, 5);
}

/* ---- y = x + dropout(gelu(norm(x) Wfc + bfc) Wproj + bproj) ------------------------------------------------ */

struct inner {
    double *norm, *u, *h, *out, *mask;
};

static struct inner inner(const struct harness *h)
{
    const struct orr_mlp *m = h->block->config;
    int rows = h->rows, c = m->width, hidden = m->hidden;
    const double *gamma = harness_view(h, h->wide_param, "norm.weight", c, 0);
    const double *beta = harness_view(h, h->wide_param, "norm.bias", c, 0);
    const double *fc = harness_view(h, h->wide_param, "fc.weight", c, hidden);
    const double *fc_bias = harness_view(h, h->wide_param, "fc.bias", hidden, 0);
    const double *proj = harness_view(h, h->wide_param, "proj.weight", hidden, c);
    const double *proj_bias = harness_view(h, h->wide_param, "proj.bias", c, 0);
    struct inner in = {wide_zeros((int64_t)rows * c), wide_zeros((int64_t)rows * hidden),
                       wide_zeros((int64_t)rows * hidden), wide_zeros((int64_t)rows * c),
                       reference_mask(h, DROPOUT_PLACE, m->dropout,
                                      h->o.first_sample * (uint64_t)h->o.seq * (uint64_t)c, (int64_t)rows * c)};

    reference_norm(rows, c, h->wide_x, gamma, beta, m->eps, in.norm);
    reference_affine(rows, c, hidden, in.norm, fc, fc_bias, in.u);
    for (int64_t k = 0; k < (int64_t)rows * hidden; k++)
        in.h[k] = gelu(in.u[k]);
    reference_affine(rows, hidden, c, in.h, proj, proj_bias, in.out);
    return in;
}

static void inner_free(struct inner *in)
{
    free(in->norm);
    free(in->u);
    free(in->h);
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

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const struct orr_mlp *m = h->block->config;
    int rows = h->rows, c = m->width, hidden = m->hidden;
    int64_t count = (int64_t)rows * c;
    struct inner in = inner(h);
    double *dout = wide_zeros(count), *dh = wide_zeros((int64_t)rows * hidden), *dnorm = wide_zeros(count);

    for (int64_t k = 0; k < count; k++) {
        dx[k] = h->wide_dy[k];
        dout[k] = in.mask[k] * h->wide_dy[k];
    }
    reference_affine_backward(rows, hidden, c, in.h, harness_view(h, h->wide_param, "proj.weight", hidden, c), dout,
                              dh, harness_view(h, dparam, "proj.weight", hidden, c),
                              harness_view(h, dparam, "proj.bias", c, 0));
    for (int64_t k = 0; k < (int64_t)rows * hidden; k++)
        dh[k] *= gelu_slope(in.u[k]);
    reference_affine_backward(rows, c, hidden, in.norm, harness_view(h, h->wide_param, "fc.weight", c, hidden), dh,
                              dnorm, harness_view(h, dparam, "fc.weight", c, hidden),
                              harness_view(h, dparam, "fc.bias", hidden, 0));
    reference_norm_backward(rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0), m->eps, dnorm,
                            dx, harness_view(h, dparam, "norm.weight", c, 0),
                            harness_view(h, dparam, "norm.bias", c, 0));
    free(dout);
    free(dh);
    free(dnorm);
    inner_free(&in);
}

/* A sum over rows, hidden or width, whichever is longest. */
static struct reference reference_of(const struct harness *h)
{
    const struct orr_mlp *m = h->block->config;
    int longest = h->rows > m->hidden ? h->rows : m->hidden;

    return (struct reference){objective, backward, longest > m->width ? longest : m->width};
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
    struct orr_mlp config = {.width = 33, .hidden = 50, .eps = 1e-5f, .dropout = 0, .std = 0.3f, .projection_std = 0.2f};

    open_case(&h, 6);
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
    struct orr_mlp config = {.width = 30, .hidden = 70, .eps = 1e-5f, .dropout = 0.2f, .std = 0.3f, .projection_std = 0.2f};

    return model_of(&config);
}

START_TEST(microbatches)
{
    check_microbatches(with_dropout, 1, 17, 5, 9, 70);
}
END_TEST

START_TEST(shards)
{
    struct harness h;
    struct orr_mlp config = {.width = 10, .hidden = 13, .eps = 1e-5f, .dropout = _i ? 0.2f : 0, .std = 0.3f, .projection_std = 0.2f};

    harness_open(&h, model_of(&config), 1, 2, 7, 5);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), 13);
    check_layouts(&h, 14);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_mlp empty = {.width = 30}, dropout = {.width = 30, .hidden = 4, .dropout = -0.1f};
    struct orr_model *model = harness_model(30);

    ck_assert_int_eq(orr_mlp(model, 0, &empty), ORR_EINVAL);
    ck_assert_int_eq(orr_mlp(model, 0, &dropout), ORR_EINVAL);
    struct orr_mlp narrow = {.width = 8, .hidden = 8, .eps = 1e-5f};
    ck_assert_int_eq(orr_mlp(model, 0, &narrow), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "width 8 reads a value of width 30"));
    ck_assert_int_eq(model->blocks, 1);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mlp");
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
