/* SPDX-License-Identifier: Apache-2.0 */
/* Which schedule emerges from slots and priorities, in time: blocks that sleep equally long in F, B and W, one of them in
 * each stage and one worker on each rank, so that the ranks need no core of their own. A policy must come within 10 % of
 * what orr_pipeline_model() says, in the best of a few steps, and can be no faster than its bound.
 * It prints a table in units of one pass. */
#include <math.h>
#include <stdio.h>

#include "check_main.h"
#include "core/core.h"
#include "core/ranks.h"
#include "graph/toys.h"

enum { MICROBATCHES = 12, MAX_STAGES = 16, SEQ = 2, ATTEMPTS = 3 };
enum { F = 0, B = 1, W = 2, KINDS = 3 };

#define TOLERANCE 1.1

static double unit = 0.1;       /* seconds */
static int ranks;

/* ---- what the steps are compared with ---------------------------------------------------------------------- */

struct outcome {
    double makespan, idle;      /* from the first F to the last task; the worst of the ranks, between its first and last */
};

/* ---- sleeping passes ----------------------------------------------------------------------------------------- */

static struct {
    double begin[MAX_STAGES][KINDS][MICROBATCHES], end[MAX_STAGES][KINDS][MICROBATCHES];
} seen;
static bool sleeping;
static int stages;

static int kind_of(enum orr_pass pass)
{
    return pass == ORR_FORWARD ? F : pass == ORR_BACKWARD ? B : W;
}

static void begin(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (!sleeping || toy->id < 1 || toy->id > stages)
        return;
    seen.begin[toy->id - 1][kind_of(pass)][toy_microbatch(o)] = orri_seconds();
    nanosleep(&(struct timespec){(time_t)unit, (long)((unit - (time_t)unit) * 1e9)}, NULL);
}

static void end(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (sleeping && toy->id >= 1 && toy->id <= stages)
        seen.end[toy->id - 1][kind_of(pass)][toy_microbatch(o)] = orri_seconds();
}

/* Of all ranks: their clock is that of the host. */
static struct outcome measured(void)
{
    struct outcome outcome = {0};
    double start = INFINITY;

    ck_assert_int_eq(orri_ranks_merge(&seen, sizeof(seen)), 0);
    for (int p = 0; p < ranks; p++) {
        double first = INFINITY, last = 0, work = 0;
        for (int s = p; s < stages; s += ranks) {
            for (int i = 0; i < KINDS * MICROBATCHES; i++) {
                double from = seen.begin[s][i / MICROBATCHES][i % MICROBATCHES];
                double to = seen.end[s][i / MICROBATCHES][i % MICROBATCHES];
                ck_assert(from > 0 && to > from);
                first = from < first ? from : first;
                last = to > last ? to : last;
                work += to - from;
            }
        }
        start = first < start ? first : start;
        outcome.makespan = last > outcome.makespan ? last : outcome.makespan;
        outcome.idle = last - first - work > outcome.idle ? last - first - work : outcome.idle;
    }
    outcome.makespan = (outcome.makespan - start) / unit;
    outcome.idle /= unit;
    return outcome;
}

/* ---- a model of them --------------------------------------------------------------------------------------- */

/* One scale per stage; the source and the loss take no time and go with the first and the last. */
static struct orr_model *chain(void)
{
    struct orr_mesh mesh = {.dp = 1, .pp = ranks, .tp = 1, .ranks = ranks, .stages = stages};
    struct orr_model *model = orr_model_create(&mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    for (int i = 0; i < stages + 2; i++) {
        bool scale = i > 0 && i <= stages;
        struct toy toy = {.id = i, .flops = scale};
        const struct orr_block_class *cls = i == 0 ? &source_class : scale ? &scale_class : &loss_class;
        ck_assert_msg(orr_block_append(model, cls, i, &toy) != NULL, "%s", orr_error());
    }
    ck_assert_msg(orr_model_build(model, toy_names, TOY_NAMES) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_model_randomize(model, 1), 0);
    return model;
}

static struct orr_training *training_of(struct orr_model *model, const struct orr_slot_policy *policy)
{
    struct orr_training_options options = {.batch = MICROBATCHES,
                                           .micro_batch = 1,
                                           .seq = SEQ,
                                           .slots = *policy,
                                           .optimizer = orr_optimizer_default(ORR_SGD)};

    struct orr_training *training = orr_training_create(model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
    return training;
}

static void step(struct orr_training *training)
{
    struct orr_step report;

    ck_assert_int_eq(orri_ranks_barrier(), 0);
    ck_assert_msg(orr_training_gradients(training, &toy_source, &report) == 0, "%s", orr_error());
    ck_assert_int_eq(report.labels, MICROBATCHES * SEQ);
}

static struct outcome model_of(const struct orr_slot_policy *policy)
{
    struct orr_stage_times times[MAX_STAGES];
    struct orr_pipeline pipeline = {stages, MICROBATCHES, 1, *policy, times, ranks};
    struct outcome outcome = {0};
    double idle[MAX_STAGES], span[MAX_STAGES];

    for (int s = 0; s < stages; s++)
        times[s] = (struct orr_stage_times){1, 1, 1};
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &outcome.makespan, idle, span), 0);
    for (int p = 0; p < ranks; p++)
        outcome.idle = fmax(outcome.idle, idle[p]);
    return outcome;
}

/* The first step sleeps not: it finds out what StarPU has to learn and allocate. */
static struct outcome best_of(struct orr_training *training, const char *policy, struct outcome theory)
{
    struct outcome best = {INFINITY, INFINITY};

    sleeping = false;
    step(training);
    sleeping = true;
    for (int i = 0; i < ATTEMPTS && best.makespan > TOLERANCE * theory.makespan; i++) {
        memset(&seen, 0, sizeof(seen));
        step(training);
        struct outcome now = measured();
        best = now.makespan < best.makespan ? now : best;
        if (orr_rank() == 0)
            printf("%-6s %5d %6d %8.1f %9.2f %+6.1f %% %8.1f %9.2f\n", policy, ranks, stages, theory.makespan, now.makespan,
                   100 * (now.makespan / theory.makespan - 1), theory.idle, now.idle);
        fflush(stdout);
    }
    return best;
}

/* The bound follows from the slots alone, whatever is done in which order. */
static void check_policy(const char *policy, double bound)
{
    struct orr_slot_policy parsed;

    ck_assert_int_eq(orr_slot_policy_parse(policy, &parsed), 0);
    struct outcome theory = model_of(&parsed);
    ck_assert(theory.makespan >= bound);
    struct orr_model *model = chain();
    struct orr_training *training = training_of(model, &parsed);
    struct outcome best = best_of(training, policy, theory);
    orr_training_destroy(training);
    orr_model_destroy(model);
    ck_assert_msg(best.makespan <= TOLERANCE * theory.makespan, "%s: %.2f passes, %.2f expected", policy, best.makespan,
                  theory.makespan);
    ck_assert_msg(best.makespan >= bound, "%s: %.2f passes are fewer than %.2f", policy, best.makespan, bound);
}

static void set_up(void)
{
    toys.begin = begin;
    toys.end = end;
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 1}) == 0, "%s", orr_error());
    ranks = orr_rank_count();
    stages = ranks;
    ck_assert_int_eq(orr_worker_count(), 1);
    if (orr_rank() == 0)
        printf("policy ranks stages   theory  makespan    more     idle  measured   (unit: a pass of %g ms; m = %d)\n",
               1000 * unit, MICROBATCHES);
}

static void tear_down(void)
{
    orr_shutdown();
}

START_TEST(test_gpipe)
{
    check_policy("gpipe", 3 * (MICROBATCHES + ranks - 1));
}
END_TEST

START_TEST(test_1f1b)
{
    check_policy("1f1b", 3 * (MICROBATCHES + ranks - 1));
}
END_TEST

START_TEST(test_h1)
{
    check_policy("h1", 3 * MICROBATCHES + 2 * (ranks - 1));
}
END_TEST

/* p slots */
START_TEST(test_number)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", ranks);
    check_policy(number, 3 * MICROBATCHES + ranks - 1);
}
END_TEST

START_TEST(test_zb)
{
    check_policy("zb", 3 * MICROBATCHES + ranks - 1);
}
END_TEST

/* Two stages on each rank. */
START_TEST(test_interleaved)
{
    stages = 2 * ranks;
    check_policy(_i ? "zb" : "1f1b", 6 * MICROBATCHES + ranks - 1);
    stages = ranks;
}
END_TEST

/* The theory is that of the published schedules. */
START_TEST(test_theory)
{
    static const struct {
        const char *policy;
        int per_microbatch, per_stage;
    } known[] = {{"gpipe", 3, 3}, {"1f1b", 3, 3}, {"h1", 3, 2}, {"zb", 3, 1}};

    for (size_t k = 0; k < ORRI_COUNT(known); k++) {
        struct orr_slot_policy policy;
        ck_assert_int_eq(orr_slot_policy_parse(known[k].policy, &policy), 0);
        ck_assert_double_eq(model_of(&policy).makespan,
                            known[k].per_microbatch * MICROBATCHES + known[k].per_stage * (ranks - 1));
    }
}
END_TEST

Suite *suite(void)
{
    Suite *suite = suite_create("pipeline");
    TCase *tcase = tcase_create("sleeping");

    tcase_add_unchecked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, test_theory);
    tcase_add_test(tcase, test_gpipe);
    tcase_add_test(tcase, test_1f1b);
    tcase_add_test(tcase, test_h1);
    tcase_add_test(tcase, test_number);
    tcase_add_test(tcase, test_zb);
    tcase_add_loop_test(tcase, test_interleaved, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}
