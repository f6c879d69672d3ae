/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <string.h>

#include <codelets/embedding/embedding.h>

enum { DROPOUT_PLACE = 7 };

static const struct {
    int batch, seq, vocab, positions, width;
    float dropout;
} cases[] = {
    {1, 1, 61, 1, 30, 0},    {2, 17, 257, 40, 33, 0},    {3, 129, 61, 129, 30, 0},
    {1, 17, 257, 17, 1, 0},  {2, 17, 61, 20, 33, 0.2f},  {3, 129, 257, 200, 30, 0.2f},
};

static const struct orr_mesh one = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};

static struct orr_model *model_of(const struct orr_embedding *config)
{
    struct orr_model *model = orr_model_create(&one);

    ck_assert_ptr_nonnull(model);
    ck_assert_int_eq(orr_embedding(model, config), 0);
    return model;
}

static void open_case(struct harness *h, int i)
{
    struct orr_embedding config = {.vocab = cases[i].vocab, .positions = cases[i].positions, .width = cases[i].width, .dropout = cases[i].dropout, .std = 0.5f};

    harness_open(h, model_of(&config), 0, cases[i].batch, cases[i].seq, cases[i].vocab);
}

/* ---- y[b,t] = dropout(wte[token[b,t]] + wpe[t]) ---------------------------------------------------------- */

static double *mask_of(const struct harness *h)
{
    const struct orr_embedding *e = h->block->config;
    uint64_t first = h->o.first_sample * (uint64_t)h->o.seq * (uint64_t)e->width;

    return reference_mask(h, DROPOUT_PLACE, e->dropout, first, (int64_t)h->rows * e->width);
}

static double objective(const struct harness *h, double *y)
{
    const struct orr_embedding *e = h->block->config;
    const double *wte = harness_view(h, h->wide_param, "token.weight", e->vocab, e->width);
    const double *wpe = harness_view(h, h->wide_param, "position.weight", e->positions, e->width);
    double *mask = mask_of(h), sum = 0;

    for (int b = 0; b < h->o.batch; b++)
        for (int t = 0; t < h->o.seq; t++)
            for (int c = 0; c < e->width; c++) {
                int64_t k = ((int64_t)b * h->o.seq + t) * e->width + c;
                double value = mask[k] * (wte[(int64_t)h->ids[b * h->o.seq + t] * e->width + c] +
                                          wpe[(int64_t)t * e->width + c]);
                sum += h->wide_dy[k] * value;
                if (y)
                    y[k] = value;
            }
    free(mask);
    return sum;
}

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const struct orr_embedding *e = h->block->config;
    double *wte = harness_view(h, dparam, "token.weight", e->vocab, e->width);
    double *wpe = harness_view(h, dparam, "position.weight", e->positions, e->width);
    double *mask = mask_of(h);

    (void)dx;
    for (int b = 0; b < h->o.batch; b++)
        for (int t = 0; t < h->o.seq; t++)
            for (int c = 0; c < e->width; c++) {
                int64_t k = ((int64_t)b * h->o.seq + t) * e->width + c;
                wte[(int64_t)h->ids[b * h->o.seq + t] * e->width + c] += mask[k] * h->wide_dy[k];
                wpe[(int64_t)t * e->width + c] += mask[k] * h->wide_dy[k];
            }
    free(mask);
}

/* A token occurs some ten times in two microbatches of the largest case. */
static const struct reference reference = {objective, backward, 10};

/* ---- tests ------------------------------------------------------------------------------------------------ */

START_TEST(passes)
{
    struct harness h;

    open_case(&h, _i);
    check_passes(&h, &reference, 10);
    check_again(&h);
    check_scratch(&h);
    harness_close(&h);
}
END_TEST

START_TEST(views)
{
    struct harness h;

    open_case(&h, 2);
    check_views(&h, &reference);
    harness_close(&h);
}
END_TEST

START_TEST(evaluation)
{
    struct harness h;

    open_case(&h, 5);
    double *want = wide_zeros((int64_t)h.rows * h.width);
    h.o.training = false;
    objective(&h, want);
    harness_run(&h, ORR_FORWARD);
    for (int64_t k = 0; k < (int64_t)h.rows * h.width; k++)
        ck_assert(h.y[k] == (float)want[k]);
    free(want);
    harness_close(&h);
}
END_TEST

static struct orr_model *with_dropout(void)
{
    struct orr_embedding config = {.vocab = 61, .positions = 20, .width = 33, .dropout = 0.2f, .std = 0.5f};

    return model_of(&config);
}

START_TEST(microbatches)
{
    check_microbatches(with_dropout, 0, 17, 61, 9, 1);
}
END_TEST

START_TEST(shards)
{
    struct harness h;
    struct orr_embedding config = {.vocab = 17, .positions = 9, .width = 10, .dropout = _i ? 0.2f : 0, .std = 0.5f};

    harness_open(&h, model_of(&config), 0, 2, 7, 17);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), 17);
    check_layouts(&h, 2);
    harness_close(&h);
}
END_TEST

START_TEST(has_no_backward_to_tokens)
{
    struct harness h;

    open_case(&h, 0);
    ck_assert(h.cls->cpu[ORR_BACKWARD] == NULL);
    ck_assert_int_eq(h.cls->saved(h.block->config, 3, 129).floats, 0);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_embedding empty = {.vocab = 5, .positions = 5}, dropout = {.vocab = 5, .positions = 5, .width = 30, .dropout = 1};
    struct orr_model *model = orr_model_create(&one);

    ck_assert_int_eq(orr_embedding(model, &empty), ORR_EINVAL);
    ck_assert_int_eq(orr_embedding(model, &dropout), ORR_EINVAL);
    ck_assert_int_eq(model->blocks, 0);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("embedding");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, passes, 0, (int)ORRI_COUNT(cases));
    tcase_add_test(c, views);
    tcase_add_test(c, evaluation);
    tcase_add_test(c, microbatches);
    tcase_add_loop_test(c, shards, 0, 2);
    tcase_add_test(c, has_no_backward_to_tokens);
    tcase_add_test(c, refuses_what_it_cannot_be);
    suite_add_tcase(s, c);
    return s;
}
