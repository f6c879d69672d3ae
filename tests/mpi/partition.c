/* SPDX-License-Identifier: Apache-2.0 */
/* A dynamic partition on two ranks, a replica on each, whose passes sleep, those of one twice as long: neither needs a core of
 * its own. The faster one gets about twice the microbatches, and losses, norms and parameters are those of even shares. */
#include <math.h>
#include <stdio.h>

#include "check_main.h"
#include "core/ranks.h"
#include "graph/toys.h"
#include "train/train.h"

enum { MICROBATCHES = 12, SEQ = 2, SCALES = 2, PARAMETERS = 1 + SCALES, STEPS = 12, PASS_MS = 4, ATTEMPTS = 5 };

static int slow;        /* the rank that sleeps longer; -1: none */

static void begin(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    (void)o, (void)pass;
    if (toy->id < 1 || toy->id > SCALES)
        return;
    nanosleep(&(struct timespec){0, (orr_rank() == slow ? 2 : 1) * PASS_MS * 1000000L}, NULL);
}

struct result {
    double loss[STEPS], norm[STEPS];
    float parameters[PARAMETERS][TOY_WIDTH];
    int share[STEPS][2];
};

static struct result train(enum orr_partition partition)
{
    struct orr_mesh mesh = {.dp = 2, .pp = 1, .tp = 1, .ranks = 2};
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training_options options = {
        .batch = MICROBATCHES,
        .micro_batch = 1,
        .seq = SEQ,
        .optimizer = orr_optimizer_default(ORR_SGD),
        .schedule = {ORR_SCHEDULE_CONSTANT, 1e-2, 0, 0, 0},
        .partition = partition,
    };
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step report;
    struct result r;

    ck_assert_msg(training != NULL, "%s", orr_error());
    for (int step = 0; step < STEPS; step++) {
        ck_assert_msg(orr_training_submit(training, &toy_source) == 0, "%s", orr_error());
        ck_assert_msg(orr_training_shares(training, step, r.share[step]) == 0, "%s", orr_error());
    }
    for (int step = 0; step < STEPS; step++) {
        ck_assert_msg(orr_training_next(training, &report, true) == 1, "%s", orr_error());
        ck_assert_int_eq(report.labels, MICROBATCHES * SEQ);
        r.loss[step] = report.loss;
        r.norm[step] = report.grad_norm;
    }
    ck_assert_int_eq(orr_model_parameter_count(model), PARAMETERS);
    for (int i = 0; i < PARAMETERS; i++)
        ck_assert_int_eq(orr_model_read(model, i, r.parameters[i]), 0);
    orr_training_destroy(training);
    orr_model_destroy(model);
    return r;
}

static void close_to(double found, double expected, const char *what, int step)
{
    ck_assert_msg(fabs(found - expected) <= 1e-5 * fabs(expected), "%s of step %d: %.9g, not %.9g", what, step + 1, found,
                  expected);
}

static void check_same(const struct result *found, const struct result *expected)
{
    ck_assert(expected->loss[STEPS - 1] < 0.9 * expected->loss[0]);     /* or a comparison would say little */
    for (int step = 0; step < STEPS; step++) {
        close_to(found->loss[step], expected->loss[step], "the loss", step);
        close_to(found->norm[step], expected->norm[step], "the norm", step);
    }
    for (int i = 0; i < PARAMETERS; i++)
        for (int c = 0; c < TOY_WIDTH; c++)
            close_to((double)found->parameters[i][c], (double)expected->parameters[i][c], "a parameter", STEPS - 1);
}

/* Every rank has the same shares, of all microbatches. */
static void check_shares(const struct result *r)
{
    for (int step = 0; step < STEPS; step++) {
        ck_assert_int_eq(r->share[step][0] + r->share[step][1], MICROBATCHES);
        ck_assert_msg(orri_ranks_agree("shares", r->share[step], sizeof(r->share[step])) == 0, "%s", orr_error());
    }
}

/* The faster has so many of the last four steps' microbatches, one more or less: where the machine is busy a sleep may take
 * far longer than it should, so that an attempt says nothing. */
static bool divided(const struct result *r, int faster, int share)
{
    int sum = 0;

    if (orr_rank() == 0) {
        for (int step = 0; step < STEPS; step++)
            printf(" %d+%d", r->share[step][0], r->share[step][1]);
        printf("\n");
        fflush(stdout);
    }
    for (int step = STEPS - 4; step < STEPS; step++)
        sum += r->share[step][faster];
    return sum >= 4 * (share - 1) && sum <= 4 * (share + 1);
}

START_TEST(test_speeds)
{
    bool good = false;

    slow = -1;
    struct result even = train(ORR_PARTITION_STATIC);
    slow = _i;
    for (int i = 0; i < ATTEMPTS && !good; i++) {
        struct result r = train(ORR_PARTITION_DYNAMIC);
        check_same(&r, &even);
        check_shares(&r);
        for (int step = 0; step < 2; step++)
            ck_assert_int_eq(r.share[step][0], MICROBATCHES / 2);
        good = divided(&r, slow == 0, slow < 0 ? MICROBATCHES / 2 : MICROBATCHES * 2 / 3);
    }
    ck_assert_msg(good, "rank %d is slow, and has not the share that it should", slow);
}
END_TEST

static void set_up(void)
{
    toys.begin = begin;
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 1}) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_rank_count(), 2);
}

static void tear_down(void)
{
    orr_shutdown();
}

Suite *suite(void)
{
    Suite *suite = suite_create("partition");
    TCase *tcase = tcase_create("sleeping");

    tcase_add_unchecked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, test_speeds, -1, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}
