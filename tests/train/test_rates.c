/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters that are held, and learning rates of their own, in every manner of training. */
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "graph/graph.h"
#include "meshes.h"
#include "train/small_gpt.h"

enum { STEPS = 5 };

static const struct orr_mesh meshes[] = {
    MESH(1, 1, 1), MESH(2, 1, 1), MESH(1, 2, 1), MESH(1, 1, 2), MESH(2, 2, 2),
    {.dp = 2, .pp = 1, .tp = 1, .ranks = 1, .zero = 3},
    {.dp = 1, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true},
};

/* Whole blocks at the begin of the tape and among others, parts of blocks, and what two blocks share. */
static const struct {
    const char *pattern[3];
} held[] = {
    {{"transformer.w?e.weight", "transformer.h.0.*"}},
    {{"transformer.h.[1-3].mlp.*", "transformer.h.1.ln_2.*"}},
    {{"*.bias"}},
    {{"transformer.h.1.attn.c_attn.weight", "transformer.ln_f.weight"}},
    {{"transformer.wte.weight"}},
    {{"transformer.h.*", "transformer.w*"}},
};

static bool is_held(int which, const char *name)
{
    for (int i = 0; i < 3 && held[which].pattern[i]; i++)
        if (fnmatch(held[which].pattern[i], name, 0) == 0)
            return true;
    return false;
}

static void hold(struct orr_model *model, int which)
{
    for (int i = 0; i < 3 && held[which].pattern[i]; i++)
        ck_assert_msg(orr_model_hold(model, held[which].pattern[i]) == 0, "%s", orr_error());
}

/* ---- what is held ---------------------------------------------------------------------------------------------- */

/* Of all parameters with `values` as they are and others as in `before`, whether each is what is_held() says. */
static void check_values(struct orr_model *model, struct values before, struct values after, int which)
{
    int64_t at = 0;

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        bool same = memcmp(before.at + at, after.at + at, (size_t)info.count * sizeof(float)) == 0;
        ck_assert_msg(same == is_held(which, info.name), "%s %s", info.name, same ? "did not change" : "changed");
        at += info.count;
    }
}

static void check_held(struct setup s, int which, bool masterless)
{
    struct orr_gpt2 gpt = gpt_of(&s);
    struct orr_model *model = orr_gpt2_create(&gpt, &s.mesh);
    if (masterless)
        ck_assert_int_eq(orr_model_drop_masters(model), 0);
    ck_assert_int_eq(orr_model_randomize(model, 3), 0);
    hold(model, which);
    struct values before = read_values(model);
    struct orr_training *training = create_training(model, &s);
    double loss[STEPS];

    take_steps(training, &samples, STEPS, loss);
    ck_assert_msg(orr_training_synchronise(training) == 0, "%s", orr_error());
    struct values after = read_values(model);
    check_values(model, before, after, which);
    finish_training(training, model);
    free(before.at);
    free(after.at);
}

static void check_all(struct setup s, bool masterless)
{
    for (size_t m = 0; m < ORRI_COUNT(meshes); m++)
        for (int which = 0; which < (int)ORRI_COUNT(held); which++) {
            s.mesh = meshes[m];
            if (s.mesh.zero != 3 || (s.options.sync == ORR_SYNC_GRADIENTS && s.options.staleness == 0))
                check_held(s, which, masterless);
        }
}

START_TEST(test_held)
{
    struct setup s = usual();

    check_all(s, false);
    s.slots = "zb";
    s.options.optimizer = orr_optimizer_default(ORR_SGD);
    s.options.optimizer.weight_decay = 0.1f;
    check_all(s, false);
}
END_TEST

START_TEST(test_held_mixed)
{
    struct setup s = usual();

    s.dtype = ORR_BF16;
    check_all(s, false);
    check_all(s, true);
}
END_TEST

START_TEST(test_held_apart)
{
    struct setup s = usual();

    s.options.sync = ORR_SYNC_PARAMETERS;
    s.options.sync_every = 2;
    s.options.outer_lr = 0.7;
    s.options.outer_momentum = 0.9;
    check_all(s, false);
}
END_TEST

START_TEST(test_held_stale)
{
    struct setup s = usual();

    s.options.staleness = 1;
    check_all(s, false);
}
END_TEST

/* ---- gradients ------------------------------------------------------------------------------------------------- */

/* The gradient of what is trained is what it would be without holding, and the norm is that of these alone. */
static void check_gradients(struct setup s, int which)
{
    struct orr_model *free_model = create_model(&s), *model = create_model(&s);
    struct orr_training *all = create_training(free_model, &s);
    struct orr_step report, report_all;
    double squares = 0;

    hold(model, which);
    struct orr_training *some = create_training(model, &s);
    ck_assert_int_eq(orr_training_gradients(all, &samples, &report_all), 0);
    ck_assert_msg(orr_training_gradients(some, &samples, &report) == 0, "%s", orr_error());
    ck_assert_double_eq(report.loss, report_all.loss);
    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        float *expected = malloc((size_t)info.count * sizeof(*expected)), *found = malloc((size_t)info.count * sizeof(*found));
        ck_assert_int_eq(orr_training_read_gradient(all, i, expected), 0);
        ck_assert_int_eq(orr_training_read_gradient(some, i, found), 0);
        for (int64_t k = 0; k < info.count; k++) {
            ck_assert_msg(found[k] == (is_held(which, info.name) ? 0 : expected[k]), "%s, element %lld: %g, not %g", info.name,
                          (long long)k, (double)found[k], (double)expected[k]);
            squares += (double)found[k] * (double)found[k];
        }
        free(expected);
        free(found);
    }
    ck_assert_double_eq_tol(report.grad_norm, sqrt(squares), 1e-6 * sqrt(squares));
    ck_assert_double_lt(report.grad_norm, report_all.grad_norm);
    finish_training(all, free_model);
    finish_training(some, model);
}

START_TEST(test_gradients)
{
    for (size_t m = 0; m < ORRI_COUNT(meshes); m++)
        for (int which = 0; which < (int)ORRI_COUNT(held); which++) {
            struct setup s = usual();
            s.mesh = meshes[m];
            check_gradients(s, which);
        }
}
END_TEST

/* Passes that only what is held would need are left out. */
START_TEST(test_passes)
{
    struct setup s = usual();
    int64_t tasks[ORRI_COUNT(held) + 1];
    double loss;

    for (int which = -1; which < (int)ORRI_COUNT(held); which++) {
        struct orr_model *model = create_model(&s);
        if (which >= 0)
            hold(model, which);
        struct orr_training *training = create_training(model, &s);
        take_steps(training, &samples, 1, &loss);
        tasks[which + 1] = orr_training_submission(training).tasks;
        finish_training(training, model);
    }
    int microbatches = BATCH / s.micro_batch;
    /* Of the embedding, the first attention and the first mlp W or BW, and reduce, squares and update of their parameters. */
    ck_assert_int_le(tasks[1], tasks[0] - 3 * microbatches - 3 * 2);
    ck_assert_int_le(tasks[6], tasks[0] - 5 * microbatches - 5 * 2);
    ck_assert_int_eq(tasks[3], tasks[0]);       /* parts of groups */
}
END_TEST

/* ---- rates -------------------------------------------------------------------------------------------------------- */

/* A step of plain SGD moves each parameter by its rate. */
START_TEST(test_rates)
{
    struct setup s = usual();
    s.options.optimizer = orr_optimizer_default(ORR_SGD);
    s.options.schedule = (struct orr_schedule){ORR_SCHEDULE_CONSTANT, 0.5, 0, 0, STEPS};

    for (size_t m = 0; m < ORRI_COUNT(meshes); m++) {
        struct values moved[2];
        double loss;
        s.mesh = meshes[m];
        for (int decayed = 0; decayed < 2; decayed++) {
            struct orr_model *model = create_model(&s);
            struct values before = read_values(model);
            if (decayed)
                ck_assert_int_eq(orr_model_decay_rates(model, 0.5), 0);
            struct orr_training *training = create_training(model, &s);
            take_steps(training, &samples, 1, &loss);
            moved[decayed] = read_values(model);
            for (int64_t i = 0; i < before.count; i++)
                moved[decayed].at[i] -= before.at[i];
            free(before.at);
            finish_training(training, model);
        }
        struct orr_model *model = create_model(&s);
        int64_t at = 0;
        for (int i = 0; i < orr_model_parameter_count(model); i++) {
            struct orr_parameter_info info;
            int layer;
            orr_model_parameter(model, i, &info);
            double rate = strstr(info.name, "ln_f") ? 1 : 0.125;
            if (sscanf(info.name, "transformer.h.%d.", &layer) == 1)
                rate = layer == 0 ? 0.25 : 0.5;
            for (int64_t k = at; k < at + info.count; k++)
                ck_assert_msg(fabs((double)moved[1].at[k] - rate * (double)moved[0].at[k]) < 3e-7, "%s: %g, not %g of %g", info.name,
                              (double)moved[1].at[k], rate, (double)moved[0].at[k]);
            at += info.count;
        }
        orr_model_destroy(model);
        free(moved[0].at);
        free(moved[1].at);
    }
}
END_TEST

START_TEST(test_settings)
{
    struct setup s = usual();
    s.untied = true;
    struct orr_model *model = create_model(&s);
    uint64_t first = orr_model_rates_fingerprint(model);

    for (int i = 0; i < orr_model_parameter_count(model); i++)
        ck_assert_double_eq(orr_model_rate(model, i), 1);
    ck_assert_int_eq(orr_model_decay_rates(model, 1), 0);
    ck_assert_uint_eq(orr_model_rates_fingerprint(model), first);
    ck_assert_int_eq(orr_model_set_rate(model, orr_model_find(model, "transformer.h.1.ln_1.bias"), 0.5), 0);
    ck_assert_uint_ne(orr_model_rates_fingerprint(model), first);
    ck_assert_int_eq(orr_model_decay_rates(model, 0.5), 0);
    ck_assert_double_eq(orr_model_rate(model, orr_model_find(model, "transformer.h.1.ln_1.bias")), 0.25);
    ck_assert_double_eq(orr_model_rate(model, orr_model_find(model, "transformer.h.0.ln_1.bias")), 0.25);
    ck_assert_double_eq(orr_model_rate(model, orr_model_find(model, "transformer.wpe.weight")), 0.125);
    ck_assert_double_eq(orr_model_rate(model, orr_model_find(model, "lm_head.weight")), 1);
    ck_assert_int_eq(orr_model_set_rate(model, 0, -1), ORR_EINVAL);
    ck_assert_int_eq(orr_model_set_rate(model, 0, NAN), ORR_EINVAL);
    ck_assert_int_eq(orr_model_decay_rates(model, 0), ORR_EINVAL);
    ck_assert_int_eq(orr_model_decay_rates(model, 1.5), ORR_EINVAL);
    ck_assert_int_eq(orr_model_hold(model, "transformer.h.7.*"), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "freeze: no parameter's name matches 'transformer.h.7.*'");
    ck_assert_int_eq(orr_model_hold(model, "*"), 0);
    struct orr_training_options options = s.options;
    options.micro_batch = 2;
    ck_assert_ptr_null(orr_training_create(model, &options));
    ck_assert_str_eq(orr_error(), "train: every parameter is held: nothing is left to train");
    orr_model_destroy(model);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("rates");
    TCase *c = tcase_create("rates");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 240);
    tcase_add_test(c, test_settings);
    tcase_add_test(c, test_rates);
    tcase_add_test(c, test_gradients);
    tcase_add_test(c, test_passes);
    tcase_add_test(c, test_held);
    tcase_add_test(c, test_held_mixed);
    tcase_add_test(c, test_held_apart);
    tcase_add_test(c, test_held_stale);
    suite_add_tcase(s, c);
    return s;
}
