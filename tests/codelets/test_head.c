/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <math.h>
#include <string.h>

#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <orrery/orrery.h>

#include "math/reference.h"

static const struct {
    int batch, seq, width, vocab;
    bool tied;
} cases[] = {
    {1, 1, 30, 61, false},   {2, 17, 33, 257, false}, {3, 129, 30, 61, false},
    {2, 17, 30, 257, true},  {3, 1, 10, 61, true},    {1, 129, 33, 257, true},
};

static const struct orr_mesh one = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};

static struct orr_model *model_of(int width, int vocab, bool tied)
{
    struct orr_embedding embedding = {.vocab = vocab, .positions = 4, .width = width, .std = 0.3f};
    struct orr_head head = {.vocab = vocab, .width = width, .eps = 1e-5f, .std = 0.3f};
    struct orr_model *model = orr_model_create(&one);

    ck_assert_ptr_nonnull(model);
    ck_assert_int_eq(orr_embedding(model, &embedding), 0);
    ck_assert_int_eq(orr_head(model, &head, tied ? orr_model_block(model, 0) : NULL), 0);
    return model;
}

static void open_case(struct harness *h, int i)
{
    harness_open(h, model_of(cases[i].width, cases[i].vocab, cases[i].tied), 1, cases[i].batch, cases[i].seq,
                 cases[i].vocab);
}

/* ---- loss = sum over labels of -log softmax(norm(x) W^T)[label] ------------------------------------------- */

static double *output_of(const struct harness *h, double *const base[])
{
    return harness_view(h, base, "output.weight", h->vocab, h->width);
}

static double *norm_of(const struct harness *h)
{
    double *norm = wide_zeros((int64_t)h->rows * h->width);

    reference_norm(h->rows, h->width, h->wide_x, harness_view(h, h->wide_param, "norm.weight", h->width, 0),
                   harness_view(h, h->wide_param, "norm.bias", h->width, 0), 1e-5f, norm);
    return norm;
}

/* The logits of one row; returns their log-sum-exp. */
static double logits_of(const struct harness *h, const double *norm, const double *w, double *logits)
{
    double most = -INFINITY, sum = 0;

    for (int v = 0; v < h->vocab; v++) {
        logits[v] = 0;
        for (int c = 0; c < h->width; c++)
            logits[v] += norm[c] * w[(int64_t)v * h->width + c];
        most = fmax(most, logits[v]);
    }
    for (int v = 0; v < h->vocab; v++)
        sum += exp(logits[v] - most);
    return most + log(sum);
}

static double objective(const struct harness *h, double *y)
{
    const double *w = output_of(h, h->wide_param);
    double *norm = norm_of(h), *logits = wide_zeros(h->vocab), loss = 0;

    (void)y;
    for (int r = 0; r < h->rows; r++)
        if (h->ids[r] != ORR_IGNORE) {
            double lse = logits_of(h, norm + (int64_t)r * h->width, w, logits);
            loss += lse - logits[h->ids[r]];
        }
    free(norm);
    free(logits);
    return loss;
}

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const double *w = output_of(h, h->wide_param);
    int c = h->width;
    double *dw = output_of(h, dparam), *norm = norm_of(h), *logits = wide_zeros(h->vocab);
    double *dnorm = wide_zeros((int64_t)h->rows * c);

    for (int r = 0; r < h->rows; r++) {
        if (h->ids[r] == ORR_IGNORE)
            continue;
        double lse = logits_of(h, norm + (int64_t)r * c, w, logits);
        for (int v = 0; v < h->vocab; v++) {
            double d = exp(logits[v] - lse) - (v == h->ids[r]);
            for (int j = 0; j < c; j++) {
                dnorm[(int64_t)r * c + j] += d * w[(int64_t)v * c + j];
                dw[(int64_t)v * c + j] += d * norm[(int64_t)r * c + j];
            }
        }
    }
    reference_norm_backward(h->rows, c, h->wide_x, harness_view(h, h->wide_param, "norm.weight", c, 0), 1e-5f, dnorm,
                            dx, harness_view(h, dparam, "norm.weight", c, 0),
                            harness_view(h, dparam, "norm.bias", c, 0));
    free(norm);
    free(logits);
    free(dnorm);
}

/* A sum over rows or over the vocabulary, whichever is longer. */
static struct reference reference_of(const struct harness *h)
{
    return (struct reference){objective, backward, h->rows > h->vocab ? h->rows : h->vocab};
}

static void ignore_some(struct harness *h)
{
    for (int r = 1; r < h->rows; r += 3)
        h->ids[r] = ORR_IGNORE;
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

START_TEST(passes)
{
    struct harness h;

    open_case(&h, _i);
    struct reference reference = reference_of(&h);
    ignore_some(&h);
    check_passes(&h, &reference, 5);
    check_again(&h);
    check_scratch(&h);
    harness_close(&h);
}
END_TEST

START_TEST(views)
{
    struct harness h;

    open_case(&h, 1 + 2 * _i);
    struct reference reference = reference_of(&h);
    check_views(&h, &reference);
    harness_close(&h);
}
END_TEST

START_TEST(no_label_counts)
{
    struct harness h;

    open_case(&h, 1);
    for (int r = 0; r < h.rows; r++)
        h.ids[r] = ORR_IGNORE;
    harness_run(&h, ORR_FORWARD);
    harness_run(&h, ORR_BACKWARD);
    harness_run(&h, ORR_WEIGHTS);
    ck_assert(h.result.loss == 0);
    ck_assert_int_eq(h.result.labels, 0);
    for (int64_t k = 0; k < (int64_t)h.rows * h.width; k++)
        ck_assert(h.dx[k] == 0);
    for (int g = 0; g < 2; g++)
        for (int64_t k = 0; k < h.group[g].count; k++)
            ck_assert(h.grad[g][k] == 0);
    harness_close(&h);
}
END_TEST

static struct orr_model *untied(void)
{
    return model_of(33, 257, false);
}

START_TEST(microbatches)
{
    check_microbatches(untied, 1, 17, 257, 9, 257);
}
END_TEST

START_TEST(evaluation)
{
    struct harness h;

    open_case(&h, 2);
    ignore_some(&h);
    harness_run(&h, ORR_FORWARD);
    struct orr_result trained = h.result;
    h.result = (struct orr_result){0};
    h.o.training = false;
    harness_run(&h, ORR_FORWARD);
    ck_assert(h.result.loss == trained.loss);
    ck_assert_int_eq(h.result.labels, trained.labels);
    harness_close(&h);
}
END_TEST

/* FBW in one task leaves the bits of F, B and W. */
static void check_whole(struct harness *h)
{
    int64_t values = (int64_t)h->rows * h->width;

    for (int added = 0; added < 2; added++) {
        float *dx = random_floats((size_t)values, 1, 5), *grad[2];
        h->o.first_gradient = !added;
        h->o.add_input_gradient[0] = added;
        for (int g = 0; g < 2; g++)
            grad[g] = random_floats((size_t)h->group[g].count, 1, 6);
        struct orr_result result[2];
        for (int whole = 0; whole < 2; whole++) {
            float *before = random_floats((size_t)values, 1, 5);
            memcpy(h->dx, before, (size_t)values * sizeof(float));
            free(before);
            for (int g = 0; g < 2; g++) {
                size_t count = (size_t)h->group[g].count;
                before = random_floats(count, 1, 6);
                memcpy(h->grad[g], before, count * sizeof(float));
                free(before);
            }
            h->result = (struct orr_result){0.25, 2};
            if (whole) {
                harness_run(h, ORR_WHOLE);
            } else {
                harness_run(h, ORR_FORWARD);
                harness_run(h, ORR_BACKWARD);
                harness_run(h, ORR_WEIGHTS);
                memcpy(dx, h->dx, (size_t)values * sizeof(float));
                for (int g = 0; g < 2; g++)
                    memcpy(grad[g], h->grad[g], (size_t)h->group[g].count * sizeof(float));
            }
            result[whole] = h->result;
        }
        ck_assert(result[0].loss == result[1].loss && result[0].labels == result[1].labels);
        ck_assert_mem_eq(dx, h->dx, (size_t)values * sizeof(float));
        for (int g = 0; g < 2; g++) {
            ck_assert_mem_eq(grad[g], h->grad[g], (size_t)h->group[g].count * sizeof(float));
            free(grad[g]);
        }
        free(dx);
    }
}

START_TEST(whole)
{
    struct harness h;

    open_case(&h, _i);
    ignore_some(&h);
    check_whole(&h);
    harness_close(&h);
}
END_TEST

/* GPT-2's vocabulary takes these rows in three strips, the last one shorter. */
START_TEST(strips)
{
    struct harness h;

    harness_open(&h, model_of(8, 50257, false), 1, 2, 400, 50257);
    struct reference reference = reference_of(&h);
    ignore_some(&h);
    check_passes(&h, &reference, 0);
    check_whole(&h);
    check_scratch(&h);
    size_t logits = (size_t)h.rows * 50257 * sizeof(float), scratch = harness_scratch(&h, 1);
    ck_assert(scratch > logits / 3 && scratch < logits / 2);
    harness_close(&h);
}
END_TEST

START_TEST(predict)
{
    static const int32_t rows[] = {33, 0, 7, 7, 12};
    struct harness h;

    open_case(&h, 1 + 2 * _i);
    int n = (int)ORRI_COUNT(rows), stride = h.vocab + h.width;
    harness_ask(&h, n, rows);
    h.o.training = false;
    harness_run(&h, ORR_PREDICT);
    double *norm = norm_of(&h), *logits = wide_zeros(h.vocab);
    for (int i = 0; i < n; i++) {
        const double *row = norm + (int64_t)rows[i] * h.width;
        logits_of(&h, row, output_of(&h, h.wide_param), logits);
        check_values("logits", h.vocab, h.prediction + i * stride, logits, h.width);
        check_values("hidden", h.width, h.prediction + i * stride + h.vocab, row, h.width);
    }
    free(norm);
    free(logits);
    harness_close(&h);
}
END_TEST

/* Uneven shards of the vocabulary and of the sequence; one shard has no label to count in a row, or none at all. */
START_TEST(shards)
{
    static const int32_t rows[] = {13, 0, 7, 7, 12};
    struct harness h;

    harness_open(&h, model_of(10, 17, _i), 1, 2, 7, 17);
    ignore_some(&h);
    harness_ask(&h, (int)ORRI_COUNT(rows), rows);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), 17);
    check_layouts(&h, 17);
    for (int r = 0; r < h.rows; r++)
        h.ids[r] = r % 2 ? 16 : ORR_IGNORE;
    check_layouts(&h, 17);
    harness_close(&h);
}
END_TEST

/* GPT-2's vocabulary takes these rows in strips, also in shards. */
START_TEST(strips_of_shards)
{
    struct harness h;

    harness_open(&h, model_of(8, 50257, false), 1, 2, 400, 50257);
    size_t logits = (size_t)h.rows * 50257 * sizeof(float);
    ignore_some(&h);
    check_layout(&h, 2, 2, 50257);
    size_t scratch = harness_scratch(&h, 2);
    ck_assert(scratch > logits / 4 && scratch < logits / 3);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_embedding embedding = {.vocab = 61, .positions = 4, .width = 30};
    struct orr_head empty = {.width = 30}, other = {.vocab = 60, .width = 30};
    struct orr_model *model = orr_model_create(&one);

    ck_assert_int_eq(orr_embedding(model, &embedding), 0);
    ck_assert_int_eq(orr_head(model, &empty, NULL), ORR_EINVAL);
    ck_assert_int_eq(orr_head(model, &other, orr_model_block(model, 0)), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "model: group 0 of block 'embedding' is not the output.weight [60,30] that block "
                                  "'head' shares");
    orr_model_destroy(model);
}
END_TEST

/* ---- in a run ------------------------------------------------------------------------------------------------ */

/* Starts StarPU for a model of four positions. */
static struct orr_model *start(void)
{
    static const struct orr_parameter_name names[] = {
        {"embedding.token.weight", "token", NULL}, {"embedding.position.weight", "position", NULL},
        {"head.norm.weight", "gamma", NULL},       {"head.norm.bias", "beta", NULL},
        {"head.output.weight", "output", NULL},
    };

    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    struct orr_model *model = model_of(10, 61, false);
    ck_assert_msg(orr_model_build(model, names, (int)ORRI_COUNT(names)) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_model_randomize(model, 1), 0);
    return model;
}

static struct orr_training_options options_of(int seq)
{
    return (struct orr_training_options){.batch = 2, .micro_batch = 1, .seq = seq,
                                         .optimizer = orr_optimizer_default(ORR_ADAMW),
                                         .schedule = {.kind = ORR_SCHEDULE_CONSTANT, .lr = 0.1}};
}

static void read_ones(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self, (void)first;
    for (int i = 0; i < count * seq; i++)
        tokens[i] = labels[i] = 1;
}

START_TEST(stops_at_a_loss_that_is_not_finite)
{
    struct orr_training_options options = options_of(4);
    const struct orr_source source = {read_ones, NULL};
    struct orr_model *model = start();
    float bad[10], gamma[10], ones[10];
    struct orr_step report;

    for (int c = 0; c < 10; c++) {
        bad[c] = c == 3 ? NAN : 0;
        ones[c] = 1;
    }
    ck_assert_int_eq(orr_model_write(model, orr_model_find(model, "beta"), bad), 0);
    struct orr_training *training = orr_training_create(model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
    /* The first microbatch may fail before the last has been submitted. */
    int submitted = orr_training_submit(training, &source);
    ck_assert(submitted == 0 || submitted == ORR_ENONFINITE);
    ck_assert_int_eq(orr_training_next(training, &report, true), ORR_ENONFINITE);
    ck_assert_msg(strstr(orr_error(), "head of layer 0, microbatch ") &&
                      strstr(orr_error(), ", step 1: the loss is not a finite number"),
                  "%s", orr_error());
    ck_assert_int_eq(orr_training_submit(training, &source), ORR_ENONFINITE);
    ck_assert_int_eq(orr_model_read(model, orr_model_find(model, "gamma"), gamma), 0);
    ck_assert_mem_eq(gamma, ones, sizeof(ones));
    orr_training_destroy(training);
    orr_model_destroy(model);
    orr_shutdown();
}
END_TEST

START_TEST(refuses_sequences_longer_than_positions)
{
    struct orr_model *model = start();
    struct orr_training_options options = options_of(5);

    ck_assert_ptr_null(orr_training_create(model, &options));
    ck_assert_str_eq(orr_error(), "model: block 'embedding' takes 4 tokens at most, not 5");
    orr_model_destroy(model);
    orr_shutdown();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("head");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, passes, 0, (int)ORRI_COUNT(cases));
    tcase_add_loop_test(c, views, 0, 2);
    tcase_add_test(c, no_label_counts);
    tcase_add_test(c, microbatches);
    tcase_add_test(c, evaluation);
    tcase_add_loop_test(c, whole, 0, (int)ORRI_COUNT(cases));
    tcase_add_test(c, strips);
    tcase_add_loop_test(c, shards, 0, 2);
    tcase_add_test(c, strips_of_shards);
    tcase_add_loop_test(c, predict, 0, 2);
    tcase_add_test(c, stops_at_a_loss_that_is_not_finite);
    tcase_add_test(c, refuses_what_it_cannot_be);
    tcase_add_test(c, refuses_sequences_longer_than_positions);
    suite_add_tcase(s, c);
    return s;
}
