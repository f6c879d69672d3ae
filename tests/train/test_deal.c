/* SPDX-License-Identifier: Apache-2.0 */
/* How microbatches are dealt to replicas by what they were seen to need. */
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "graph/toys.h"
#include "meshes.h"
#include "train/train.h"

enum { SEQ = 2, MOST = 64 };

static struct orr_model *model;
static struct orr_training *training;

static void create(int dp, int microbatches, enum orr_partition partition)
{
    struct orr_mesh mesh = MESH(dp, 1, 1);
    struct orr_training_options options = {
        .batch = microbatches,
        .micro_batch = 1,
        .seq = SEQ,
        .optimizer = {ORR_SGD, 0, 0, 0, 0, 0},
        .schedule = {ORR_SCHEDULE_CONSTANT, 1e-9, 0, 0, 0},
        .partition = partition,
    };

    model = toy_chain(&mesh, 1);
    training = orr_training_create(model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
}

static void destroy(void)
{
    orr_training_destroy(training);
    orr_model_destroy(model);
}

static void submit(void)
{
    struct orr_step report;

    ck_assert_msg(orr_training_submit(training, &toy_source) == 0, "%s", orr_error());
    ck_assert_msg(orr_training_next(training, &report, true) == 1, "%s", orr_error());
}

static void check_sum(const int *share)
{
    int sum = 0;

    for (int d = 0; d < model->mesh.dp; d++) {
        ck_assert_int_ge(share[d], 1);
        sum += share[d];
    }
    ck_assert_int_eq(sum, training->microbatches);
}

/* Step 0 had the shares `had` (NULL: even ones) and was busy for seconds[]. */
static void deal(const int *had, const double *seconds, int *share)
{
    int even[MOST];

    for (int d = 0; d < model->mesh.dp; d++)
        even[d] = (int)orr_split(training->microbatches, 1, model->mesh.dp, d).count;
    ck_assert_msg(orr_training_prescribe(training, 0, had ? had : even) == 0, "%s", orr_error());
    orri_deal(training, 0, seconds, share);
    check_sum(share);
}

/* As deal(), by replicas that need pace[] seconds for a microbatch. */
static void deal_at(const int *had, const double *pace, int *share)
{
    double seconds[MOST];

    for (int d = 0; d < model->mesh.dp; d++)
        seconds[d] = pace[d] * (had ? had[d] : (int)orr_split(training->microbatches, 1, model->mesh.dp, d).count);
    deal(had, seconds, share);
}

static void expect(const int *share, int count, const int *expected)
{
    for (int d = 0; d < count; d++)
        ck_assert_msg(share[d] == expected[d], "replica %d has %d microbatches, not %d", d, share[d], expected[d]);
}

/* ---- apportioning ---------------------------------------------------------------------------------------------- */

/* Worked out by hand: m w / sum w, the whole part of it, and what is left to the largest fractions. */
START_TEST(test_by_hand)
{
    static const struct {
        int dp, microbatches;
        double speed[4];
        int share[4];
    } cases[] = {
        {3, 12, {1, 2, 3}, {2, 4, 6}},
        {3, 13, {1, 2, 3}, {2, 4, 7}},      /* 2.17, 4.33, 6.5 */
        {3, 7, {1, 2, 3}, {1, 2, 4}},       /* 1.17, 2.33, 3.5 */
        {3, 11, {1, 2, 3}, {2, 4, 5}},      /* 1.83, 3.67, 5.5: two are left */
        {3, 3, {1, 2, 3}, {1, 1, 1}},
        {3, 4, {1, 2, 3}, {1, 1, 2}},       /* 0.67, 1.33, 2 */
        {2, 12, {2, 1}, {8, 4}},
        {2, 5, {1, 3}, {1, 4}},             /* 1.25, 3.75 */
        {4, 6, {10, 10, 1, 1}, {2, 2, 1, 1}},   /* 2.73, 2.73, 0.27, 0.27: one at least */
        {4, 5, {1, 100, 1, 100}, {1, 1, 1, 2}},     /* 0.02, 2.48, 0.02, 2.48: one is taken back */
    };

    for (size_t i = 0; i < ORRI_COUNT(cases); i++) {
        double pace[4];
        int share[4];
        create(cases[i].dp, cases[i].microbatches, ORR_PARTITION_DYNAMIC);
        for (int d = 0; d < cases[i].dp; d++)
            pace[d] = 0.001 / cases[i].speed[d];
        deal_at(NULL, pace, share);
        expect(share, cases[i].dp, cases[i].share);
        destroy();
    }
}
END_TEST

START_TEST(test_equal_speeds)
{
    for (int dp = 1; dp <= 5; dp++) {
        for (int m = dp; m <= 12; m++) {
            double pace[] = {0.3, 0.3, 0.3, 0.3, 0.3};
            int share[5];
            create(dp, m, ORR_PARTITION_DYNAMIC);
            deal_at(NULL, pace, share);
            for (int d = 0; d < dp; d++)
                ck_assert_msg(abs(share[d] * dp - m) < dp, "replica %d of %d has %d of %d", d, dp, share[d], m);
            destroy();
        }
    }
}
END_TEST

/* The faster never has less, nobody less than the whole part of what is due to it. */
START_TEST(test_any_speeds)
{
    srand(3);
    for (int i = 0; i < 60; i++) {
        int dp = 1 + rand() % 8, m = dp + rand() % 40, share[8];
        double pace[8], sum = 0;
        create(dp, m, ORR_PARTITION_DYNAMIC);
        for (int d = 0; d < dp; d++) {
            pace[d] = 0.001 * (1 + rand() % 20);
            sum += 1 / pace[d];
        }
        deal_at(NULL, pace, share);
        bool forced = false;
        for (int d = 0; d < dp; d++)
            forced = forced || m / pace[d] / sum < 1;
        for (int d = 0; d < dp; d++) {
            double due = m / pace[d] / sum;
            ck_assert(share[d] == 1 || share[d] < due + 1);
            ck_assert(forced || share[d] > due - 1);
            for (int e = 0; e < dp; e++)
                ck_assert_msg(pace[d] >= pace[e] || share[d] >= share[e], "%d at %g s, but %d at %g s", share[d], pace[d],
                              share[e], pace[e]);
        }
        destroy();
    }
}
END_TEST

START_TEST(test_as_many_replicas_as_microbatches)
{
    double pace[MOST];
    int share[MOST];

    create(MOST, MOST, ORR_PARTITION_DYNAMIC);
    for (int d = 0; d < MOST; d++)
        pace[d] = d + 1;
    deal_at(NULL, pace, share);
    for (int d = 0; d < MOST; d++)
        ck_assert_int_eq(share[d], 1);
    destroy();
}
END_TEST

START_TEST(test_huge_ratios)
{
    static const double ratios[] = {1e3, 1e9, 1e15, 1e30};

    for (size_t i = 0; i < ORRI_COUNT(ratios); i++) {
        double pace[] = {1e-9, 1e-9 * ratios[i], 1e-9};
        int share[3];
        create(3, 13, ORR_PARTITION_DYNAMIC);
        deal_at(NULL, pace, share);
        expect(share, 3, (int[]){6, 1, 6});
        destroy();
    }
}
END_TEST

/* ---- what was measured ------------------------------------------------------------------------------------------ */

/* Seconds are those of the microbatches that there were. */
START_TEST(test_uneven_before)
{
    int share[2];

    create(2, 12, ORR_PARTITION_DYNAMIC);
    deal_at((int[]){9, 3}, (double[]){0.01, 0.01}, share);
    expect(share, 2, (int[]){6, 6});
    deal_at((int[]){2, 10}, (double[]){0.01, 0.01}, share);
    expect(share, 2, (int[]){6, 6});
    destroy();
}
END_TEST

START_TEST(test_nothing_measured)
{
    int share[3];

    create(3, 12, ORR_PARTITION_DYNAMIC);
    deal(NULL, (double[]){0, 0, 0}, share);
    expect(share, 3, (int[]){4, 4, 4});
    /* The third is taken to be like the mean of the others: 3, 1 and 2. */
    deal(NULL, (double[]){0.1, 0.3, 0}, share);
    expect(share, 3, (int[]){6, 2, 4});
    /* What is known is not forgotten where a step tells nothing. */
    deal(NULL, (double[]){0, 0, 0.3}, share);
    deal(NULL, (double[]){0, 0, 0}, share);
    expect(share, 3, (int[]){7, 3, 2});     /* 7.2, 2.4, 2.4 */
    destroy();
}
END_TEST

/* A quarter of what is new: from 1 : 1 to 1 : 4 in paces 1.75, 2.31, 2.73, ... */
START_TEST(test_smoothing)
{
    static const int expected[] = {32, 35, 37, 38, 38};     /* of 50 x pace / (1 + pace) */
    int share[2];

    create(2, 50, ORR_PARTITION_DYNAMIC);
    deal_at(NULL, (double[]){1, 1}, share);
    expect(share, 2, (int[]){25, 25});
    for (size_t i = 0; i < ORRI_COUNT(expected); i++) {
        deal_at(share, (double[]){1, 4}, share);
        expect(share, 1, &expected[i]);
    }
    /* One odd step is not the end of it. */
    deal_at(share, (double[]){1, 4000}, share);
    int after = share[0];
    for (int i = 0; i < 60; i++)
        deal_at(share, (double[]){1, 1}, share);
    ck_assert_int_gt(after, 45);
    expect(share, 2, (int[]){25, 25});
    destroy();
}
END_TEST

/* ---- dealing out --------------------------------------------------------------------------------------------------- */

static void check_deal_out(const int *share, const int *replica, const int *turn)
{
    ck_assert_int_eq(orr_training_prescribe(training, 0, share), 0);
    orri_deal_out(training);
    for (int m = 0; m < training->microbatches; m++) {
        ck_assert_msg(training->replica[m] == replica[m], "microbatch %d is replica %d's", m, training->replica[m]);
        ck_assert_int_eq(training->turn[m], turn[m]);
    }
}

START_TEST(test_deal_out)
{
    create(3, 8, ORR_PARTITION_DYNAMIC);
    orri_deal_out(training);        /* nothing is known: as with a static partition */
    for (int m = 0; m < 8; m++) {
        ck_assert_int_eq(training->replica[m], m % 3);
        ck_assert_int_eq(training->turn[m], m / 3);
    }
    check_deal_out((int[]){1, 5, 2}, (int[]){0, 1, 2, 1, 2, 1, 1, 1}, (int[]){0, 0, 0, 1, 1, 2, 3, 4});
    check_deal_out((int[]){6, 1, 1}, (int[]){0, 1, 2, 0, 0, 0, 0, 0}, (int[]){0, 0, 0, 1, 2, 3, 4, 5});
    destroy();
}
END_TEST

/* A static partition deals evenly whatever is measured; a dynamic one knows the shares of the steps that were made, and from
 * two steps behind the first what it measured. */
START_TEST(test_steps)
{
    enum orr_partition partition = _i ? ORR_PARTITION_DYNAMIC : ORR_PARTITION_STATIC;
    int share[3];

    create(3, 8, partition);
    for (int step = 0; step < 40; step++) {
        submit();
        ck_assert_msg(orr_training_shares(training, step, share) == 0, "%s", orr_error());
        check_sum(share);
        if (partition == ORR_PARTITION_STATIC || step < 2)
            expect(share, 3, (int[]){3, 3, 2});
    }
    destroy();
}
END_TEST

/* ---- what is prescribed ------------------------------------------------------------------------------------------ */

static void refused(int64_t step, const int *share, const char *message)
{
    ck_assert_int_eq(orr_training_prescribe(training, step, share), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), message);
}

START_TEST(test_prescribed)
{
    static const int first[] = {4, 3, 1}, second[] = {1, 1, 6};
    int share[3];

    create(3, 8, ORR_PARTITION_DYNAMIC);
    ck_assert_int_eq(orr_training_prescribe(training, 0, second), 0);
    ck_assert_int_eq(orr_training_prescribe(training, 0, first), 0);
    ck_assert_int_eq(orr_training_prescribe(training, 2, second), 0);
    for (int step = 0; step < 4; step++)
        submit();
    ck_assert_int_eq(orr_training_shares(training, 0, share), 0);
    expect(share, 3, first);
    ck_assert_int_eq(orr_training_shares(training, 1, share), 0);
    expect(share, 3, (int[]){3, 3, 2});
    ck_assert_int_eq(orr_training_shares(training, 2, share), 0);   /* not what was measured of step 0 */
    expect(share, 3, second);
    ck_assert_int_eq(orr_training_shares(training, 3, share), 0);
    check_sum(share);

    /* Steps behind which others were made are forgotten. */
    for (int step = 4; step < 40; step++)
        submit();
    ck_assert_int_eq(orr_training_shares(training, 0, share), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "train: the shares of step 1 are not known");
    ck_assert_int_eq(orr_training_shares(training, -1, share), ORR_EINVAL);
    ck_assert_int_eq(orr_training_shares(training, 48, share), ORR_EINVAL);
    ck_assert_int_eq(orr_training_shares(training, 39, share), 0);
    destroy();
}
END_TEST

START_TEST(test_refused)
{
    create(3, 8, ORR_PARTITION_DYNAMIC);
    refused(0, (int[]){3, 3, 3}, "train: 9 microbatches are prescribed for step 1, not 8 for one of the next 8");
    refused(1, (int[]){1, 1, 1}, "train: 3 microbatches are prescribed for step 2, not 8 for one of the next 8");
    refused(0, (int[]){8, 0, 0}, "train: a replica has 0 microbatches");
    refused(0, (int[]){5, 5, -2}, "train: a replica has -2 microbatches");
    refused(0, (int[]){INT32_MAX, INT32_MAX, 10},
            "train: 4294967304 microbatches are prescribed for step 1, not 8 for one of the next 8");
    refused(8, (int[]){3, 3, 2}, "train: 8 microbatches are prescribed for step 9, not 8 for one of the next 8");
    refused(-1, (int[]){3, 3, 2}, "train: 8 microbatches are prescribed for step 0, not 8 for one of the next 8");
    submit();
    refused(0, (int[]){3, 3, 2}, "train: 8 microbatches are prescribed for step 1, not 8 for one of the next 8");
    int share[3];
    ck_assert_int_eq(orr_training_shares(training, 0, share), 0);
    expect(share, 3, (int[]){3, 3, 2});
    destroy();
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("deal");
    TCase *c = tcase_create("deal");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_by_hand);
    tcase_add_test(c, test_equal_speeds);
    tcase_add_test(c, test_any_speeds);
    tcase_add_test(c, test_as_many_replicas_as_microbatches);
    tcase_add_test(c, test_huge_ratios);
    tcase_add_test(c, test_uneven_before);
    tcase_add_test(c, test_nothing_measured);
    tcase_add_test(c, test_smoothing);
    tcase_add_test(c, test_deal_out);
    tcase_add_loop_test(c, test_steps, 0, 2);
    tcase_add_test(c, test_prescribed);
    tcase_add_test(c, test_refused);
    suite_add_tcase(s, c);
    return s;
}
