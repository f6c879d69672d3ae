/* SPDX-License-Identifier: Apache-2.0 */
/* The model of a pipeline against the closed forms of the published schedules. Needs no StarPU. */
#include <math.h>

#include <orrery/orrery.h>

#include "check_main.h"

enum { MOST = 16 };

static struct orr_slot_policy policy(const char *text)
{
    struct orr_slot_policy p;

    ck_assert_int_eq(orr_slot_policy_parse(text, &p), 0);
    return p;
}

/* The makespan with the same times in every stage; idle and span of each. */
static double run(const char *slots, int stages, int microbatches, struct orr_stage_times time, double *idle,
                  double *span)
{
    struct orr_stage_times times[MOST];
    struct orr_pipeline pipeline = {stages, microbatches, 1, policy(slots), times, 0};
    double makespan;

    for (int i = 0; i < stages; i++)
        times[i] = time;
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    for (int i = 0; i < stages; i++)
        ck_assert_double_eq_tol(span[i] - idle[i], microbatches * (time.forward + time.backward + time.weights), 1e-9);
    return makespan;
}

static const struct orr_stage_times unit = {1, 1, 1};

START_TEST(test_closed_forms)
{
    double idle[MOST], span[MOST];

    for (int p = 1; p <= 8; p++) {
        for (int m = p; m <= 4 * p + 3; m++) {
            ck_assert_double_eq(run("gpipe", p, m, unit, idle, span), 3 * (m + p - 1));
            ck_assert_double_eq(run("1f1b", p, m, unit, idle, span), 3 * (m + p - 1));
            ck_assert_double_eq(run("h1", p, m, unit, idle, span), 3 * m + 2 * (p - 1));
            ck_assert_double_eq(run("zb", p, m, unit, idle, span), 3 * m + (p - 1));
            for (int s = 0; s < p && m >= 2 * p - 1; s++)
                ck_assert_msg(idle[s] == 0, "zb, %d stages, %d microbatches: stage %d idles %g", p, m, s, idle[s]);
        }
    }
}
END_TEST

/* p slots lie between p - s and 2p - 1. */
START_TEST(test_count)
{
    double idle[MOST], span[MOST];

    ck_assert_double_eq(run("8", 8, 64, unit, idle, span), 201);
    ck_assert_double_eq(run("1f1b", 8, 64, unit, idle, span), 213);
    /* One at a time: F and B of all stages, W of the first. */
    ck_assert_double_eq(run("1", 4, 3, unit, idle, span), 3 * (4 + 4 + 1));
}
END_TEST

/* Stage 0 of GPipe works, waits for the others' backward passes, works: 3(p-1) idle. */
START_TEST(test_idle)
{
    double idle[MOST], span[MOST];

    run("gpipe", 4, 6, unit, idle, span);
    for (int s = 0; s < 4; s++)
        ck_assert_double_eq(idle[s], 3 * (3 - s));
    ck_assert_double_eq(span[0], 3 * (6 + 3));
}
END_TEST

START_TEST(test_unequal_times)
{
    double idle[MOST], span[MOST];
    struct orr_stage_times time = {2, 3, 1.5};

    /* One stage: nothing to wait for. Two of GPipe: F and the whole backward pass of the other stage are seen once. */
    ck_assert_double_eq(run("gpipe", 1, 5, time, idle, span), 5 * 6.5);
    ck_assert_double_eq(run("gpipe", 2, 5, time, idle, span), 6 * 6.5);
    /* A slow last stage sets the pace. */
    struct orr_stage_times times[2] = {{1, 1, 1}, {4, 4, 4}};
    struct orr_pipeline pipeline = {2, 6, 1, policy("zb"), times, 0};
    double makespan;
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    ck_assert_double_eq(idle[1], 0);
    ck_assert_double_eq(makespan, 1 + 6 * 12);
}
END_TEST

/* Two workers of a stage take two microbatches at once. */
START_TEST(test_workers)
{
    struct orr_stage_times times[1] = {{1, 1, 1}};
    struct orr_pipeline pipeline = {1, 8, 2, policy("8"), times, 0};
    double makespan, idle[1], span[1];

    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    ck_assert_double_eq(makespan, 12);
    ck_assert_double_eq(idle[0], 0);
    ck_assert_double_eq(span[0], 24);
    pipeline.slots = policy("1");       /* F, B and W of one microbatch do not overlap: the second worker idles */
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    ck_assert_double_eq(makespan, 24);
    ck_assert_double_eq(idle[0], 24);
}
END_TEST

/* Two stages on each of two coordinates: with 2 stages of length 2 instead, F of the last microbatch would come later, and
 * with it the end. */
START_TEST(test_interleaving)
{
    struct orr_stage_times times[4] = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}, whole[2] = {{2, 2, 2}, {2, 2, 2}};
    struct orr_pipeline cut = {4, 6, 1, policy("zb"), times, 2}, uncut = {2, 6, 1, policy("zb"), whole, 2};
    double makespan, longer, idle[4], span[4];

    ck_assert_int_eq(orr_pipeline_model(&uncut, &longer, idle, span), 0);
    ck_assert_double_eq(longer, 3 * 6 * 2 + 2);
    ck_assert_int_eq(orr_pipeline_model(&cut, &makespan, idle, span), 0);
    ck_assert_double_eq(makespan, 3 * 6 * 2 + 1);
    for (int c = 0; c < 2; c++)
        ck_assert_double_eq(span[c] - idle[c], 3 * 6 * 2);
    cut.coordinates = 1;        /* everything on one never waits */
    ck_assert_int_eq(orr_pipeline_model(&cut, &makespan, idle, span), 0);
    ck_assert_double_eq(makespan, 3 * 6 * 4);
    ck_assert_double_eq(idle[0], 0);
    cut.coordinates = 0;
    ck_assert_int_eq(orr_pipeline_model(&cut, &makespan, idle, span), 0);
    ck_assert_double_eq(makespan, 3 * 6 + 3);
}
END_TEST

START_TEST(test_errors)
{
    struct orr_stage_times times[2] = {{1, 1, 1}, {1, 1, 1}};
    const struct orr_pipeline good = {2, 2, 1, {0}, times, 0};
    struct orr_pipeline bad[] = {good, good, good, good};
    double makespan, idle[2], span[2];

    bad[0].stages = 0;
    bad[1].microbatches = 0;
    bad[2].workers = -1;
    bad[3].coordinates = -1;
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(orr_pipeline_model(&bad[i], &makespan, idle, span), ORR_EINVAL);
    const double times_bad[] = {-1, NAN, INFINITY};
    for (int i = 0; i < 3; i++) {
        times[1].backward = times_bad[i];
        ck_assert_int_eq(orr_pipeline_model(&good, &makespan, idle, span), ORR_EINVAL);
    }
    times[1].backward = 0;
    ck_assert_int_eq(orr_pipeline_model(&good, &makespan, idle, span), 0);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pipeline");
    TCase *c = tcase_create("pipeline");

    tcase_add_test(c, test_closed_forms);
    tcase_add_test(c, test_count);
    tcase_add_test(c, test_idle);
    tcase_add_test(c, test_unequal_times);
    tcase_add_test(c, test_workers);
    tcase_add_test(c, test_interleaving);
    tcase_add_test(c, test_errors);
    suite_add_tcase(s, c);
    return s;
}
