/* SPDX-License-Identifier: Apache-2.0 */
/* Which blocks a stage gets: by measured times where every block has some for this shape, else by flops. */
#include <models/gpt2.h>

#include "check_main.h"
#include "files.h"
#include "graph/graph.h"
#include "graph/toys.h"

enum { SCALES = 6, BLOCKS = SCALES + 2, STEPS = 3, MICROBATCHES = 4, SEQ = 2, DEAR = 2 };

/* The flops of a toy chain are all alike: only the time tells which block is dear. */
static void sleep_longest_in_one(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    (void)o, (void)pass;
    nanosleep(&(struct timespec){0, toy->id == DEAR ? 40000000 : 4000000}, NULL);
}

static int blocks_of(const struct orr_model *model, int stage)
{
    struct orr_stage_info info;

    ck_assert_int_eq(orr_model_stage(model, stage, &info), 0);
    return info.count;
}

/* Twelve runs of every pass, into StarPU's files. It leaves out times that differ too much, so a few must do. */
static void measure_all(void)
{
    setenv("STARPU_CALIBRATE", "1", 1);
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    toys.begin = sleep_longest_in_one;
    struct orr_model *model = toy_chain(&(struct orr_mesh){.dp = 1, .pp = 2, .tp = 1, .ranks = 1}, SCALES);
    struct orr_training_options options = {.batch = MICROBATCHES,
                                           .micro_batch = 1,
                                           .seq = SEQ,
                                           .slots = {.kind = ORR_SLOTS_H1},
                                           .optimizer = orr_optimizer_default(ORR_SGD)};
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step step;
    ck_assert_msg(training != NULL, "%s", orr_error());
    for (int i = 0; i < STEPS; i++)
        ck_assert_int_eq(orr_training_gradients(training, &toy_source, &step), 0);
    orr_training_destroy(training);
    orr_model_destroy(model);
    orr_shutdown();
    unsetenv("STARPU_CALIBRATE");
    toys.begin = NULL;
}

/* On a crowded machine a time may differ from the others so much that StarPU begins anew. */
static bool is_measured(void)
{
    struct orr_stage_info info;

    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    struct orr_model *model =
        toy_chain(&(struct orr_mesh){.dp = 1, .pp = 2, .tp = 1, .ranks = 1, .batch = 1, .seq = SEQ}, SCALES);
    ck_assert_int_eq(orr_model_stage(model, 0, &info), 0);
    orr_model_destroy(model);
    orr_shutdown();
    return info.measured;
}

static void check_cut(int batch, int seq, bool measured, int least, int most)
{
    struct orr_stage_info info;
    struct orr_model *model =
        toy_chain(&(struct orr_mesh){.dp = 1, .pp = 2, .tp = 1, .ranks = 1, .batch = batch, .seq = seq}, SCALES);

    ck_assert_int_eq(orr_model_stage(model, 0, &info), 0);
    ck_assert_int_eq(info.measured, measured);
    ck_assert_int_eq(info.first, 0);
    ck_assert_int_ge(info.count, least);
    ck_assert_int_le(info.count, most);
    ck_assert_int_eq(blocks_of(model, 1), BLOCKS - info.count);
    ck_assert_int_eq(orr_model_stage(model, 2, &info), ORR_EINVAL);
    orr_model_destroy(model);
}

START_TEST(test_measured)
{
    setenv("STARPU_PERF_MODEL_DIR", folder, 1);
    setenv("STARPU_CALIBRATE_MINIMUM", "3", 1);
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    check_cut(1, SEQ, false, BLOCKS / 2, BLOCKS / 2);
    orr_shutdown();
    for (int i = 0; i < 3 && !is_measured(); i++)
        measure_all();
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    check_cut(1, SEQ, true, DEAR, DEAR + 1);
    check_cut(0, 0, false, BLOCKS / 2, BLOCKS / 2);
    check_cut(1, SEQ + 1, false, BLOCKS / 2, BLOCKS / 2);   /* never ran */
    check_cut(2, SEQ, false, BLOCKS / 2, BLOCKS / 2);
    orr_shutdown();
    unsetenv("STARPU_PERF_MODEL_DIR");
}
END_TEST

/* 30 layers over 8 stages, the head counted, which costs as much as five of them. */
START_TEST(test_layers)
{
    struct orr_mesh mesh = {.dp = 1, .pp = 8, .tp = 1, .ranks = 1};
    struct orr_config *config = orr_gpt2_preset("gpt2");
    struct orr_gpt2 gpt;
    int blocks = 0;
    double all = 0, dearest = 0;

    ck_assert_int_eq(orr_config_set(config, "n_layer=30"), 0);
    ck_assert_int_eq(orr_gpt2_read(config, &gpt), 0);
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    struct orr_model *model = orr_gpt2_create(&gpt, &mesh);
    ck_assert_msg(model != NULL, "%s", orr_error());
    for (int s = 0; s < 8; s++) {
        struct orr_stage_info info;
        ck_assert_int_eq(orr_model_stage(model, s, &info), 0);
        ck_assert_int_eq(info.first, blocks);
        ck_assert_int_ge(info.count, 1);
        blocks += info.count;
        all += info.share;
        dearest = info.share > dearest ? info.share : dearest;
    }
    ck_assert_int_eq(blocks, 62);
    ck_assert_double_eq_tol(all, 1, 1e-9);
    /* The head cannot be cut. */
    double head = orri_block_cost(orr_model_block(model, 61), 1, 1024), sum = 0;
    for (int l = 0; l < 62; l++)
        sum += orri_block_cost(orr_model_block(model, l), 1, 1024);
    ck_assert_double_eq_tol(dearest, head / sum, 1e-9);
    orr_model_destroy(model);
    orr_shutdown();
    orr_config_destroy(config);
}
END_TEST

Suite *suite(void)
{
    Suite *suite = suite_create("balance");
    TCase *tcase = tcase_create("stages");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, files_setup, files_teardown);
    tcase_add_test(tcase, test_measured);
    tcase_add_test(tcase, test_layers);
    suite_add_tcase(suite, tcase);
    return suite;
}
