/* SPDX-License-Identifier: Apache-2.0 */
/* Traces: what is read of tasks.rec, comms.rec and paje.trace, the sums over them, the picture. Needs no StarPU. */
#include "check_main.h"
#include "files.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>

#include <orrery/orrery.h>

#include "core/core.h"

/* ---- a trace in the making --------------------------------------------------------------------------------------- */

struct text {
    char *at;
    size_t size, room;
};

static struct text tasks, comms, paje;
static int ranks;       /* one rank: StarPU leaves ranks out */

static void say(struct text *t, const char *format, ...)
{
    va_list args;

    if (t->room - t->size < 512) {
        t->room = 2 * t->room + 4096;
        t->at = realloc(t->at, t->room);
        ck_assert_ptr_nonnull(t->at);
    }
    va_start(args, format);
    t->size += (size_t)vsnprintf(t->at + t->size, t->room - t->size, format, args);
    va_end(args);
}

static void begin(int count)
{
    struct text *all[] = {&tasks, &comms, &paje};

    for (int i = 0; i < 3; i++)
        all[i]->size = 0;
    ranks = count;
    say(&paje, "%%EventDef\tPajeDefineContainerType\t1\n%%EndEventDef\n1\tW\tT\t\"Worker\"\n");
}

static const char *prefix(int rank)
{
    static char text[4][16];
    static int next;

    next = (next + 1) % 4;
    snprintf(text[next], sizeof(text[next]), ranks > 1 ? "%d_" : "", rank);
    return text[next];
}

static void worker(int rank, int number)
{
    say(&paje, "7\t0.100000000\t%sw%d\tW\t%st17\tCPU%d\n", prefix(rank), number, prefix(rank), number);
    say(&paje, "10\t0.200000000\t%sw%d\tWS\t\"B\"\n", prefix(rank), number);
}

static void asleep(int rank, int number, double from, double to)
{
    say(&paje, "10\t%.9f\t%sw%d\tWS\t\"Sl\"\n", from, prefix(rank), number);
    say(&paje, "10\t%.9f\t%sw%d\tWS\t\"B\"\n", to, prefix(rank), number);
}

/* A task of StarPU's own, which runs on no worker. */
static void between(int rank, int job, const char *depends)
{
    say(&tasks, "Name: _starpu_sync_task\nJobId: %s%d\nPriority: 0\nDependsOn:%s\nTag: 0\nSubmitTime: 1.0\nMPIRank: %d\n\n",
        prefix(rank), job, depends, ranks > 1 ? rank : -1);
}

static double submitted = 1;

static void task(int rank, int number, int job, const char *name, double start, double end, const char *depends)
{
    say(&tasks, "Name: %s\nModel: x\nJobId: %s%d\nSubmitOrder: %d\nPriority: 3\nDependsOn:%s\nTag: 0\nWorkerId: %d\n",
        name,
        prefix(rank), job, job, depends, number);
    say(&tasks, "SubmitTime: %f\nStartTime: %f\nEndTime: %f\nFootprint: 0\nMPIRank: %d\n\n", submitted, start, end,
        ranks > 1 ? rank : -1);
    say(&paje, "10\t%.9f\t%sw%d\tWS\t\"x\"\n10\t%.9f\t%sw%d\tWS\t\"B\"\n", start, prefix(rank), number, end,
        prefix(rank), number);
}

static void message(int from, int to, double sent, double received, int bytes, int job)
{
    say(&comms, "Src: %d\nDst: %d\nTag: 7\nSendTime: %.9f\nRecvTime: %.9f\nSendJobId: %d_9\nRecvJobId: %d_%d\nSize: %d\nPriority: 0\n"
        "Type: PointToPoint\n\n", from, to, sent, received, from, to, job, bytes);
}

static void save(void)
{
    put(at("tasks.rec"), tasks.at, tasks.size);
    put(at("comms.rec"), comms.at ? comms.at : "", comms.size);
    put(at("paje.trace"), paje.at, paje.size);
}

/* One step of two ranks with a worker each, 100 ms after the step before. Stage 0 waits for stage 1 from 31 to 52,
 * stage 1 for stage 0 until 23, through one of StarPU's own tasks. */
static void step(int number)
{
    double t = 100 * number;
    int j = 20 * number;
    char depends[32];

    asleep(0, 0, number ? t - 12 : 2, t + 7);
    task(0, 0, j + 1, "input", t + 8, t + 10, "");
    task(0, 0, j + 2, "orrery_attention_S_F", t + 10, t + 20, "");
    task(0, 0, j + 4, "orrery_mlp_F", t + 20, t + 30, "");
    asleep(0, 0, t + 31, t + 52);
    snprintf(depends, sizeof(depends), " 0_%d 0_%d", j + 4, j + 5);
    task(0, 0, j + 6, "orrery_mlp_BW", t + 54, t + 70, depends);
    snprintf(depends, sizeof(depends), " 0_%d", j + 6);
    task(0, 0, j + 7, "orrery_update", t + 70, t + 74, depends);
    asleep(0, 0, t + 75, t + 85);
    snprintf(depends, sizeof(depends), " 0_%d", j + 7);
    task(0, 0, j + 8, "report", t + 86, t + 87, depends);
    message(0, 1, t + 20.5, t + 22, 1000, j + 1);
    message(1, 0, t + 50, t + 51.5, 500, j + 5);

    asleep(1, 0, number ? t - 14.5 : 3, t + 23);
    snprintf(depends, sizeof(depends), " 1_%d", j + 1);
    between(1, j + 2, depends);
    snprintf(depends, sizeof(depends), " 1_%d", j + 2);
    task(1, 0, j + 3, "orrery_mlp_N_F", t + 24, t + 34, depends);
    task(1, 0, j + 4, "orrery_head_FBW", t + 34, t + 50, "");
    task(1, 0, j + 5, "orrery_mlp_W", t + 50, t + 60, "");
    task(1, 0, j + 6, "reduce", t + 60, t + 61, "");
    asleep(1, 0, t + 62, t + 80);
    snprintf(depends, sizeof(depends), " 1_%d", j + 6);
    task(1, 0, j + 7, "update", t + 81, t + 84, depends);
    task(1, 0, j + 8, "report", t + 84, t + 85, "");
}

static void two_steps(void)
{
    begin(2);
    worker(0, 0);
    worker(1, 0);
    step(0);
    step(1);
    save();
}

static struct orr_trace *opened(void)
{
    struct orr_trace *trace = orr_trace_open(folder);

    ck_assert_msg(trace != NULL, "%s", orr_error());
    return trace;
}

static const struct orr_trace_run pair = {.model = "toy", .mesh = {.dp = 1, .pp = 2, .tp = 1, .ranks = 2}, .stages = 2,
                                          .slots = "gpipe", .microbatches = 2, .workers = 1, .steps = 2};

/* Sums the steps up, and whatever they hold: all of a worker's time is somewhere. */
static void summed(const struct orr_trace *trace, int64_t from, int64_t to, struct orr_trace_table *t)
{
    ck_assert_msg(orr_trace_table(trace, from, to, t) == 0, "%s", orr_error());
    for (int i = 0; i < t->stages; i++) {
        double sum = t->stage[i].runtime + t->stage[i].idle;
        for (int k = 0; k < ORR_TRACE_KINDS; k++)
            sum += t->stage[i].kind[k];
        for (int j = 0; j < t->stages; j++)
            sum += t->stage[i].waiting[j];
        ck_assert_double_eq_tol(sum, t->stage[i].total, 1e-6);
    }
}

#define near(a, b) ck_assert_double_eq_tol((a), (b), 1e-6)

/* The table as text, freed by the caller. */
static char *printed(const struct orr_trace_table *t)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    ck_assert_ptr_nonnull(out);
    ck_assert_int_eq(orr_trace_print(t, out), 0);
    fclose(out);
    return text;
}

/* ---- kinds ------------------------------------------------------------------------------------------------------- */

START_TEST(test_kinds)
{
    static const struct {
        const char *name;
        enum orr_trace_kind kind;
    } names[] = {
        {"orrery_mlp_F", ORR_TRACE_FORWARD},   {"mlp_F", ORR_TRACE_FORWARD},      {"mlp_N_F", ORR_TRACE_FORWARD},
        {"orrery_a_S_B", ORR_TRACE_BACKWARD},  {"mlp_W", ORR_TRACE_WEIGHTS},      {"mlp_BW", ORR_TRACE_BOTH},
        {"orrery_head_FBW", ORR_TRACE_WHOLE},  {"head_P", ORR_TRACE_FORWARD},     {"update", ORR_TRACE_UPDATE},
        {"outer", ORR_TRACE_UPDATE},           {"pull", ORR_TRACE_UPDATE},           {"summary", ORR_TRACE_OTHER},
        {"orrery_update", ORR_TRACE_UPDATE},   {"reduce", ORR_TRACE_REDUCE},      {"orrery_reduce", ORR_TRACE_REDUCE},
        {"squares", ORR_TRACE_OTHER},          {"control", ORR_TRACE_OTHER},      {"input", ORR_TRACE_OTHER},
        {"F", ORR_TRACE_OTHER},                {"mlp_f", ORR_TRACE_OTHER},        {"mlp_FB", ORR_TRACE_OTHER},
        {"", ORR_TRACE_OTHER},                 {"_", ORR_TRACE_OTHER},            {"_starpu_sync", ORR_TRACE_OTHER},
        {"orrery_", ORR_TRACE_OTHER},          {"orrery_F", ORR_TRACE_OTHER}};

    for (size_t i = 0; i < ORRI_COUNT(names); i++)
        ck_assert_msg(orr_trace_classify(names[i].name, strlen(names[i].name)) == names[i].kind, "%s", names[i].name);
}
END_TEST

/* ---- sums -------------------------------------------------------------------------------------------------------- */

START_TEST(test_sums)
{
    struct orr_trace_table t;

    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &pair), 0);
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_steps(trace), 2);
    summed(trace, 2, 2, &t);
    ck_assert_int_eq(t.stages, 2);
    ck_assert_int_eq(t.ranks, 2);
    ck_assert_int_eq(t.workers, 2);
    const struct orr_trace_stage *s = t.stage;
    ck_assert_str_eq(s[0].name, "0");
    near(s[0].total, 100);
    near(s[0].kind[ORR_TRACE_FORWARD], 20);
    near(s[0].kind[ORR_TRACE_BOTH], 16);
    near(s[0].kind[ORR_TRACE_UPDATE], 4);
    near(s[0].kind[ORR_TRACE_OTHER], 3);
    near(s[0].waiting[0], 0);
    near(s[0].waiting[1], 21);
    near(s[0].idle, 10 + 19);
    near(s[0].runtime, 7);
    near(s[0].bubble, 21.0 / 60);
    ck_assert_str_eq(s[1].name, "1");
    near(s[1].total, 100);
    near(s[1].kind[ORR_TRACE_FORWARD], 10);
    near(s[1].kind[ORR_TRACE_WHOLE], 16);
    near(s[1].kind[ORR_TRACE_WEIGHTS], 10);
    near(s[1].kind[ORR_TRACE_REDUCE], 1);
    near(s[1].kind[ORR_TRACE_UPDATE], 3);
    near(s[1].kind[ORR_TRACE_OTHER], 1);
    near(s[1].waiting[0], 37.5);
    near(s[1].waiting[1], 0);
    near(s[1].idle, 18);
    near(s[1].runtime, 3.5);
    near(s[1].bubble, 0);
    ck_assert_int_eq(t.pairs, 2);
    ck_assert(t.traffic[0].from == 0 && t.traffic[0].to == 1 && t.traffic[0].messages == 1 &&
              t.traffic[0].bytes == 1000);
    ck_assert(t.traffic[1].from == 1 && t.traffic[1].to == 0 && t.traffic[1].messages == 1 &&
              t.traffic[1].bytes == 500);
    for (int i = 0; i < 2; i++) {
        near(s[i].overlap.under_way, 1.5 + 1.5);
        near(s[i].overlap.computing, 1.5);
    }
    ck_assert_int_eq(t.early, 0);
    ck_assert_int_eq(t.unfinished, 0);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* What the model is given is what was measured: per microbatch F 10 and BW 8, and F 5, FBW 8, W 5. */
START_TEST(test_model)
{
    const struct orr_stage_times times[2] = {{10, 8, 0}, {5, 8, 5}};
    const struct orr_pipeline pipeline = {2, 2, 1, {.kind = ORR_SLOTS_GPIPE}, times, 0};
    double makespan, idle[2], span[2];
    struct orr_trace_table t;

    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &pair), 0);
    struct orr_trace *trace = opened();
    summed(trace, 1, 2, &t);
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    for (int i = 0; i < 2; i++)
        near(t.stage[i].model, idle[i] / span[i]);
    ck_assert_double_gt(t.stage[0].model, 0.2);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

START_TEST(test_ranges)
{
    struct orr_trace_table t;

    two_steps();
    struct orr_trace *trace = opened();
    summed(trace, 1, 1, &t);
    ck_assert_str_eq(t.stage[1].name, "rank 1");    /* there is no run.json */
    ck_assert(isnan(t.stage[0].model));
    near(t.stage[0].total, 87 - 8);                 /* from the input to the report */
    near(t.stage[1].total, 85 - 24);
    orr_trace_table_free(&t);
    summed(trace, 1, 2, &t);
    near(t.stage[0].total, 187 - 8);
    near(t.stage[0].kind[ORR_TRACE_FORWARD], 40);
    orr_trace_table_free(&t);
    summed(trace, 0, -1, &t);
    near(t.stage[1].total, 185 - 24);
    ck_assert_int_eq(t.pairs, 2);
    ck_assert_int_eq(t.traffic[0].messages, 2);
    orr_trace_table_free(&t);
    const int64_t wrong[][2] = {{3, 3}, {2, 1}, {1, 3}, {-1, 1}, {0, 0}, {1, -2}};
    for (size_t i = 0; i < ORRI_COUNT(wrong); i++)
        ck_assert_int_eq(orr_trace_table(trace, wrong[i][0], wrong[i][1], &t), ORR_EINVAL);
    orr_trace_destroy(trace);
}
END_TEST

/* Two replicas of one stage are one entry; they wait for each other. */
START_TEST(test_replicas)
{
    struct orr_trace_run run = pair;
    struct orr_trace_table t;

    run.mesh.dp = 2;
    run.mesh.pp = run.stages = 1;
    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &run), 0);
    struct orr_trace *trace = opened();
    summed(trace, 2, 2, &t);
    ck_assert_int_eq(t.stages, 1);
    ck_assert_int_eq(t.stage[0].ranks, 2);
    ck_assert_int_eq(t.stage[0].workers, 2);
    near(t.stage[0].total, 200);
    near(t.stage[0].waiting[0], 21 + 37.5);
    near(t.stage[0].bubble, 21.0 / 96);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* Interleaved stages are dealt in turn; in the model they share the time of their rank. */
START_TEST(test_interleaved)
{
    const struct orr_stage_times times[4] = {{5, 4, 0}, {2.5, 4, 2.5}, {5, 4, 0}, {2.5, 4, 2.5}};
    const struct orr_pipeline pipeline = {4, 2, 1, {.kind = ORR_SLOTS_GPIPE}, times, 2};
    double makespan, idle[2], span[2];
    struct orr_trace_run run = pair;
    struct orr_trace_table t;

    run.stages = 4;
    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &run), 0);
    struct orr_trace *trace = opened();
    summed(trace, 1, 2, &t);
    ck_assert_str_eq(t.stage[0].name, "0 2");
    ck_assert_str_eq(t.stage[1].name, "1 3");
    ck_assert_int_eq(orr_pipeline_model(&pipeline, &makespan, idle, span), 0);
    for (int i = 0; i < 2; i++)
        near(t.stage[i].model, idle[i] / span[i]);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* A message that came while the worker was busy, or that other tasks waited for, is not what it slept for. */
START_TEST(test_other_causes)
{
    struct orr_trace_table t;

    begin(2);
    worker(0, 0);
    worker(1, 0);
    task(0, 0, 1, "a_F", 10, 20, "");
    task(1, 0, 1, "a_F", 10, 20, "");
    asleep(1, 0, 20, 30);
    task(1, 0, 3, "a_F", 30, 40, " 1_2");       /* 1_2 was received at 15 */
    asleep(1, 0, 40, 50);
    task(1, 0, 5, "a_B", 50, 60, " 1_4 1_3");   /* 1_4 was received at 45 */
    asleep(1, 0, 60, 70);
    task(1, 0, 6, "a_W", 70, 80, "");           /* something was received at 65 that it does not need */
    asleep(1, 0, 80, 90);
    submitted = 89;
    task(1, 0, 8, "a_F", 90, 91, " 1_7");       /* 1_7 was received at 85, before the task was submitted */
    submitted = 1;
    message(0, 1, 12, 15, 1, 2);
    message(0, 1, 81, 85, 1, 7);
    message(0, 1, 41, 45, 1, 4);
    message(0, 1, 66, 65, 1, 9);
    save();
    struct orr_trace *trace = opened();
    summed(trace, 0, -1, &t);
    near(t.stage[1].waiting[0], 10);
    near(t.stage[1].idle, 30);
    ck_assert_int_eq(t.pairs, 1);
    ck_assert_int_eq(t.traffic[0].messages, 1);     /* sent while rank 0 was traced, until 20 */
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* One process: no ranks in the files, two workers. */
START_TEST(test_one_rank)
{
    struct orr_trace_table t;

    begin(1);
    worker(0, 0);
    worker(0, 1);
    task(0, 0, 1, "a_F", 10, 20, "");
    task(0, 1, 2, "a_B", 15, 25, "");
    say(&tasks, "Control: WontUse\nJobId: 3\nSubmitTime: 1\nHandles: abc\nMPIRank: -1\n\n");
    say(&tasks, "Name: a_W\nJobId: 4\nWorkerId: 0\nStartTime: 24.0\nMPIRank: -1\n\n");
    save();
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_steps(trace), 0);
    summed(trace, 0, -1, &t);
    near(t.stage[0].total, 30);
    near(t.stage[0].runtime, 10);
    ck_assert_int_eq(t.unfinished, 1);
    ck_assert_int_eq(t.pairs, 0);
    near(t.overlap.under_way, 0);
    char *text = printed(&t);
    ck_assert_ptr_null(strstr(text, "overlap"));
    free(text);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

START_TEST(test_early)
{
    struct orr_trace_table t;

    two_steps();
    message(1, 0, 150, 148.5, 1, 15);
    save();
    struct orr_trace *trace = opened();
    summed(trace, 2, 2, &t);
    ck_assert_int_eq(t.early, 1);
    near(t.early_ms, 1.5);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* ---- overlap ----------------------------------------------------------------------------------------------------- */

/* Rank 0 computes in [10, 30], on two workers, [40, 50] and [90, 100], rank 1 in [12, 20] and [70, 80]; both are shown
 * from their first task to their last. */
static void computing_ranks(void)
{
    begin(2);
    worker(0, 0);
    worker(0, 1);
    worker(1, 0);
    task(0, 0, 1, "a_F", 10, 20, "");
    task(0, 1, 2, "a_F", 15, 30, "");
    task(0, 0, 3, "a_B", 40, 50, "");
    task(0, 1, 4, "a_B", 90, 100, "");
    task(1, 0, 1, "a_F", 12, 20, "");
    task(1, 0, 2, "a_B", 70, 80, "");
}

START_TEST(test_overlap_of_each)
{
    static const struct {
        double sent, received;
        struct orr_trace_overlap of[2];
    } cases[] = {{5, 14, {{4, 4}, {2, 2}}},             /* sent before the ranks are shown           */
                 {1, 9, {{0, 0}, {0, 0}}},              /* and received too                          */
                 {72, 200, {{28, 10}, {8, 8}}},         /* received after it                         */
                 {100, 200, {{0, 0}, {0, 0}}},
                 {5, 200, {{90, 40}, {68, 18}}},
                 {16, 19, {{3, 3}, {3, 3}}},            /* both workers of rank 0 compute            */
                 {25, 45, {{20, 10}, {20, 0}}},         /* into and out of tasks                     */
                 {55, 60, {{5, 0}, {5, 0}}},            /* nobody computes                           */
                 {30, 40, {{10, 0}, {10, 0}}},          /* from the end of a task to the next        */
                 {62, 61, {{0, 0}, {0, 0}}},            /* received before it was sent               */
                 {16, 16, {{0, 0}, {0, 0}}}};
    struct orr_trace_table t;

    for (size_t i = 0; i < 2 * ORRI_COUNT(cases); i++) {
        int from = (int)(i % 2);
        computing_ranks();
        message(from, 1 - from, cases[i / 2].sent, cases[i / 2].received, 1, 9);
        save();
        struct orr_trace *trace = opened();
        summed(trace, 0, -1, &t);
        for (int rank = 0; rank < 2; rank++) {
            near(t.stage[rank].overlap.under_way, cases[i / 2].of[rank].under_way);
            near(t.stage[rank].overlap.computing, cases[i / 2].of[rank].computing);
        }
        orr_trace_table_free(&t);
        orr_trace_destroy(trace);
    }
}
END_TEST

/* Time that several messages share counts once. */
START_TEST(test_overlap_of_all)
{
    struct orr_trace_table t;

    computing_ranks();
    message(0, 1, 72, 95, 1, 9);        /* rank 0: 23, of it 5; rank 1: 8 and 8     */
    message(1, 0, 25, 38, 1, 9);        /* with the next two [18, 38]: 20 and 12; 20 and 2 */
    message(0, 1, 18, 35, 1, 9);
    message(0, 1, 19, 22, 1, 9);
    message(1, 0, 45, 47, 1, 9);        /* with the next [45, 48]: 3 and 3; 3 and 0 */
    message(0, 1, 47, 48, 1, 9);
    message(0, 0, 60, 65, 1, 9);        /* goes nowhere                             */
    save();
    struct orr_trace *trace = opened();
    summed(trace, 0, -1, &t);
    near(t.stage[0].overlap.under_way, 23 + 20 + 3);
    near(t.stage[0].overlap.computing, 5 + 12 + 3);
    near(t.stage[1].overlap.under_way, 8 + 20 + 3);
    near(t.stage[1].overlap.computing, 8 + 2 + 0);
    ck_assert_int_eq(t.pairs, 2);
    near(t.overlap.under_way, 46 + 31);
    near(t.overlap.computing, 20 + 10);
    char *text = printed(&t);
    ck_assert_ptr_nonnull(strstr(text, "\nstage        under way computing\n"
                                       "rank 0            46.0     43.5%\n"
                                       "rank 1            31.0     32.3%\n"
                                       "all               77.0     39.0%\n"));
    free(text);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* A step begins on each rank where its last report ended: on rank 0 at 87, on rank 1 at 85. Replicas add up. */
START_TEST(test_overlap_of_steps)
{
    struct orr_trace_run run = pair;
    struct orr_trace_table t;

    run.mesh.dp = 2;
    run.mesh.pp = run.stages = 1;
    two_steps();
    message(0, 1, 80, 95, 1, 19);
    save();
    ck_assert_int_eq(orr_trace_describe(folder, &run), 0);
    struct orr_trace *trace = opened();
    summed(trace, 2, 2, &t);
    near(t.stage[0].overlap.under_way, (95 - 87) + (95 - 85) + 2 * 3);
    near(t.stage[0].overlap.computing, 2 * 1.5);
    near(t.overlap.under_way, 24);
    char *text = printed(&t);
    ck_assert_ptr_nonnull(strstr(text, "\n0                 24.0     12.5%\n"));
    ck_assert_ptr_null(strstr(text, "\nall "));
    free(text);
    orr_trace_table_free(&t);
    summed(trace, 1, 1, &t);
    near(t.overlap.under_way, 3 + 1.5 + (87 - 80) + (85 - 80));    /* rank 1 begins at 24, after the first message */
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* ---- the picture ------------------------------------------------------------------------------------------------- */

/* A file's text, freed by the caller. */
static char *text_of(const char *path, size_t *size)
{
    struct orri_map map;

    ck_assert_int_eq(orri_map_open(&map, path, false), 0);
    char *text = malloc(map.size + 1);
    ck_assert_ptr_nonnull(text);
    memcpy(text, map.data, map.size);
    text[map.size] = '\0';
    *size = map.size;
    orri_map_close(&map);
    return text;
}

/* The end of an entity such as "&lt;", or NULL. */
static const char *after_entity(const char *p)
{
    static const char *const known[] = {"&lt;", "&gt;", "&amp;", "&quot;"};

    for (size_t i = 0; i < ORRI_COUNT(known); i++)
        if (strncmp(p, known[i], strlen(known[i])) == 0)
            return p + strlen(known[i]);
    return NULL;
}

/* Tags nest, attributes are quoted, text holds no bare '<' or '&' and no control characters; returns the elements. */
static int check_xml(const char *p)
{
    char open[32][32];
    int depth = 0, elements = 0;

    ck_assert_msg(strncmp(p, "<?xml ", 6) == 0, "no XML declaration");
    p = strstr(p, "?>") + 2;
    for (; *p; p++) {
        ck_assert_msg((*p >= 0x20 && *p < 0x7f) || *p == '\n', "byte %d in the text", *p);
        if (*p == '&') {
            ck_assert_msg(after_entity(p) != NULL, "a bare '&' at %.30s", p);
            continue;
        }
        ck_assert_msg(*p != '>', "a bare '>'");
        if (*p != '<')
            continue;
        char name[32] = "";
        bool closing = p[1] == '/';
        sscanf(p + 1 + closing, "%31[a-z]", name);
        ck_assert_msg(name[0] != '\0', "no tag: %.30s", p);
        bool quoted = false;
        for (p++; *p && (quoted || *p != '>'); p++) {
            quoted ^= *p == '"';
            ck_assert_msg(*p != '<', "'<' inside a tag");
        }
        ck_assert_msg(*p == '>', "a tag without an end");
        if (closing) {
            ck_assert_msg(depth > 0 && strcmp(open[depth - 1], name) == 0, "</%s> closes nothing", name);
            depth--;
            continue;
        }
        elements++;
        ck_assert_int_lt(depth, 31);
        if (p[-1] != '/')
            strcpy(open[depth++], name);
    }
    ck_assert_int_eq(depth, 0);
    return elements;
}

static int count(const char *text, const char *word)
{
    int n = 0;

    for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
        n++;
    return n;
}

START_TEST(test_picture)
{
    size_t size;

    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &pair), 0);
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 1, 2, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    check_xml(text);
    ck_assert_int_eq(count(text, "<line "), 4);
    ck_assert_int_eq(count(text, "rank 1, worker 0<"), 1);
    ck_assert_int_eq(count(text, "<title>orrery_mlp_BW, at 154.000 ms, for 16.000 ms</title>"), 1);
    ck_assert_int_eq(count(text, "<title>1000 bytes from rank 0 at 120.500 ms to rank 1 at 122.000 ms</title>"), 1);
    ck_assert_int_eq(count(text, "class=\"k0\"><title>"), 6);
    ck_assert_int_eq(count(text, "class=\"idle\"/>"), 1 + 8);     /* the legend's, and those after the first task */
    ck_assert_int_eq(count(text, "#4c9a52"), 1);
    free(text);
    ck_assert_int_eq(orr_trace_draw(trace, 3, 3, at("picture.svg")), ORR_EINVAL);
    ck_assert_int_eq(orr_trace_draw(trace, 1, 2, at("no/such/folder.svg")), ORR_EIO);
    orr_trace_destroy(trace);
}
END_TEST

START_TEST(test_odd_names)
{
    size_t size;

    begin(1);
    worker(0, 0);
    task(0, 0, 1, "<a href=\"x\">&amp;]]>\x01\x7f\xff'_F", 10, 20, "");
    save();
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 0, -1, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    check_xml(text);
    ck_assert_int_eq(count(text, "&lt;a href=&quot;x&quot;&gt;&amp;amp;]]&gt;??" "?'_F, at"), 1);
    free(text);
    orr_trace_destroy(trace);
}
END_TEST

/* A hundred thousand tasks are drawn as so many boxes as there is room for; none is lost. */
START_TEST(test_many_tasks)
{
    enum { TASKS = 100000 };
    size_t size;
    int drawn = 0;

    begin(1);
    worker(0, 0);
    worker(0, 1);
    for (int i = 0; i < TASKS; i++)
        task(0, i % 2, i + 1, i % 3 ? "a_F" : "a_W", 10 + i * 0.01, 10 + i * 0.01 + 0.018, "");
    save();
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 0, -1, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    ck_assert_msg(size < 1 << 20, "%zu bytes", size);
    ck_assert_int_gt(check_xml(text), 2000);
    for (const char *p = strstr(text, "<title>"); p; p = strstr(p + 1, "<title>")) {
        int n = 1;
        sscanf(p, "<title>%d tasks", &n);
        drawn += n;
    }
    ck_assert_int_eq(drawn, TASKS);
    free(text);
    orr_trace_destroy(trace);
}
END_TEST

/* A state that lasts to the end of paje.trace does not last beyond the next task. */
START_TEST(test_open_pause)
{
    struct orr_trace_table t;

    begin(1);
    worker(0, 0);
    task(0, 0, 1, "a_F", 10, 20, "");
    say(&paje, "10\t22.0\tw0\tWS\t\"Sl\"\n");
    say(&tasks, "Name: a_F\nJobId: 2\nWorkerId: 0\nStartTime: 30.0\nEndTime: 40.0\nMPIRank: -1\n\n");
    save();
    struct orr_trace *trace = opened();
    summed(trace, 0, -1, &t);
    near(t.stage[0].idle, 8);
    near(t.stage[0].runtime, 2);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

/* Tasks that only touch the step are not drawn, nor messages that leave the picture. */
START_TEST(test_picture_of_step)
{
    size_t size;

    two_steps();
    message(0, 1, 150, 20, 77, 19);
    save();
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 2, 2, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    check_xml(text);
    ck_assert_int_eq(count(text, "<title>report, at "), 2);
    ck_assert_int_eq(count(text, "<line "), 2);
    free(text);
    orr_trace_destroy(trace);
}
END_TEST

/* So late, a double holds no less than a ten-thousandth of a millisecond. */
START_TEST(test_picture_of_moment)
{
    size_t size;

    begin(1);
    worker(0, 0);
    task(0, 0, 1, "a_F", 9e11, 9e11, "");
    save();
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 0, -1, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    check_xml(text);
    ck_assert_int_eq(count(text, "nan") + count(text, "inf"), 0);
    ck_assert_int_eq(count(text, "<title>a_F, at 900000000000.000 ms"), 1);
    free(text);
    orr_trace_destroy(trace);
}
END_TEST

START_TEST(test_overlapping_pauses)
{
    struct orr_trace_table t;

    begin(1);
    worker(0, 0);
    task(0, 0, 1, "a_F", 10, 20, "");
    asleep(0, 0, 22, 30);
    asleep(0, 0, 24, 26);
    asleep(0, 0, 28, 33);
    task(0, 0, 2, "a_F", 40, 50, "");
    save();
    struct orr_trace *trace = opened();
    summed(trace, 0, -1, &t);
    near(t.stage[0].idle, 33 - 22);
    near(t.stage[0].runtime, 2 + 7);
    orr_trace_table_free(&t);
    orr_trace_destroy(trace);
}
END_TEST

START_TEST(test_model_of_any_bytes)
{
    struct orr_trace_run run = pair;
    size_t size;

    snprintf(run.model, sizeof(run.model), "mod\xc3\xa8le/\xff");
    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &run), 0);
    struct orr_trace *trace = opened();
    ck_assert_int_eq(orr_trace_draw(trace, 1, 2, at("picture.svg")), 0);
    char *text = text_of(at("picture.svg"), &size);
    ck_assert_int_eq(count(text, ">mod??le/?, dp 1 x pp 2"), 1);
    free(text);
    orr_trace_destroy(trace);
}
END_TEST

/* ---- damaged files ----------------------------------------------------------------------------------------------- */

/* Opens what is there, and does everything with it that can be done. Tasks of a damaged file may overlap: the sums then
 * need not add up. */
static int use(void)
{
    struct orr_trace_table t;
    struct orr_trace *trace = orr_trace_open(folder);
    FILE *sink = fopen("/dev/null", "w");

    ck_assert_ptr_nonnull(sink);
    if (!trace) {
        fclose(sink);
        bool missing = orr_error_code() == ORR_ENOENT && strstr(orr_error(), "is missing");
        ck_assert_msg(orr_error_code() == ORR_EFORMAT || missing,
                      "%d: %s", orr_error_code(), orr_error());
        ck_assert_msg(strncmp(orr_error(), folder, strlen(folder)) == 0, "%s", orr_error());
        return orr_error_code();
    }
    int64_t steps = orr_trace_steps(trace);
    ck_assert_int_eq(orr_trace_table(trace, 0, -1, &t), 0);
    ck_assert_int_eq(orr_trace_print(&t, sink), 0);
    orr_trace_table_free(&t);
    if (steps > 0) {
        ck_assert_int_eq(orr_trace_table(trace, steps, steps, &t), 0);
        orr_trace_table_free(&t);
    }
    ck_assert_int_eq(orr_trace_draw(trace, 0, -1, at("picture.svg")), 0);
    orr_trace_destroy(trace);
    fclose(sink);
    return 0;
}

/* Files cut short at every byte: they are refused but where a record or line ends. */
START_TEST(test_truncated)
{
    struct text *files[] = {&tasks, &comms, &paje};
    static const char *const names[] = {"tasks.rec", "comms.rec", "paje.trace"};
    static const char *const ends[] = {"\n\n", "\n\n", "\n"};

    two_steps();
    ck_assert_int_eq(use(), 0);
    for (int f = 0; f < 3; f++) {
        for (size_t size = 0; size < files[f]->size; size += size < 600 ? 1 : 7) {
            size_t tail = strlen(ends[f]);
            bool whole = size == 0 || (size >= tail && memcmp(files[f]->at + size - tail, ends[f], tail) == 0);
            put(at(names[f]), files[f]->at, size);
            int status = use();
            ck_assert_msg(whole || status == ORR_EFORMAT, "%s of %zu bytes is taken", names[f], size);
            ck_assert_msg(whole || strstr(orr_error(), names[f]), "%s does not name %s", orr_error(), names[f]);
        }
        save();
    }
}
END_TEST

static uint64_t state = 88172645463325252u;

static size_t draw(size_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % n);
}

START_TEST(test_mutated)
{
    static const char *const names[] = {"tasks.rec", "comms.rec", "paje.trace", "run.json"};
    static const char *const pieces[] = {"\n", "\n\n", ": ", "_", "-1", "99999999999999999999", "1e308", "nan", "4095",
                                         "Src: 4095\n",
                                         "JobId: 0_1\n", "\t", "\"", "DependsOn: 1_3 1_2\n", "report"};
    int taken = 0, refused = 0;
    size_t size;

    two_steps();
    ck_assert_int_eq(orr_trace_describe(folder, &pair), 0);
    char *original[4];
    size_t sizes[4];
    for (int f = 0; f < 4; f++)
        original[f] = text_of(at(names[f]), &sizes[f]);
    for (int i = 0; i < 3000; i++) {
        int f = i % 4;
        char *copy = malloc(sizes[f] + 64);
        memcpy(copy, original[f], sizes[f]);
        size = sizes[f];
        for (size_t n = 1 + draw(3); n > 0; n--) {
            size_t where = draw(size), cut = draw(2) ? draw(40) : 0;
            const char *piece = pieces[draw(ORRI_COUNT(pieces))];
            size_t added = size + strlen(piece) < sizes[f] + 64 && draw(2) ? strlen(piece) : 0;
            cut = cut > size - where ? size - where : cut;
            if (cut == 0 && added == 0) {
                copy[where] ^= (char)(1 << draw(8));
                continue;
            }
            memmove(copy + where + added, copy + where + cut, size - where - cut);
            memcpy(copy + where, piece, added);
            size += added - cut;
        }
        put(at(names[f]), copy, size);
        *(use() == 0 ? &taken : &refused) += 1;
        put(at(names[f]), original[f], sizes[f]);
        free(copy);
    }
    ck_assert_int_gt(taken, 100);
    ck_assert_int_gt(refused, 100);
    for (int f = 0; f < 4; f++)
        free(original[f]);
}
END_TEST

START_TEST(test_refused)
{
    static const struct {
        const char *file, *text, *what;
    } bad[] = {{"tasks.rec", "\x7f\x45LF garbage\n\n", "tasks.rec:1: is no 'Name: value'"},
               {"tasks.rec", "Name: x\nJobId: twelve\n\n", "tasks.rec:2: is no whole number"},
               {"tasks.rec", "Name: x\nJobId: 1\nWorkerId: 0\nStartTime: 5\nEndTime: 4\n\n", "ends before it starts"},
               {"tasks.rec", "Name: x\n\n", "without a JobId"},
               {"tasks.rec", "JobId: 1\nStartTime: nan\n\n", "is no time"},
               {"tasks.rec", "JobId: 1\nWorkerId: 9\nStartTime: 1\nEndTime: 2\nMPIRank: 1\n\n",
                "no worker 9 of rank 1"},
               {"tasks.rec", "", "no task of the trace ran"},
               {"comms.rec", "Src: 0\nDst: 1\n\n", "without Src, Dst"},
               {"comms.rec", "Src: 0\nDst: 7\nSendTime: 1\nRecvTime: 2\nSize: 1\n\n", "no worker of rank 2"},
               {"paje.trace", "7 1 2 3\n", "no beginning of a Paje trace"},
               {"paje.trace", "%EventDef\n10\t1.0\t0_w0\tWS\t\"Sl\"\n", "was not created"},
               {"paje.trace", "%EventDef\n7\t0.0\t0_w0\tW\tx\ty\n10\t2.0\t0_w0\tWS\tSl\n10\t1.0\t0_w0\tWS\tB\n",
                "before the one"},
               {"run.json", "{", "run.json"},
               {"run.json", "{\"model\": \"x\", \"dp\": 3, \"pp\": 1, \"tp\": 1, \"ranks\": 3, \"stages\": 1, \"slots\": null,"
                            " \"microbatches\": 2, \"workers\": 1, \"steps\": 2}",
                                "run.json tells of 3 ranks, the trace has 2"}};

    for (size_t i = 0; i < ORRI_COUNT(bad); i++) {
        two_steps();
        put_text(at(bad[i].file), bad[i].text);
        ck_assert_ptr_null(orr_trace_open(folder));
        expect_error(ORR_EFORMAT, folder, bad[i].what);
    }
    static const char nul[] = "JobId: 1\nStartTime: 1\0002\n\n";
    put(at("tasks.rec"), nul, sizeof(nul) - 1);
    ck_assert_ptr_null(orr_trace_open(folder));
    expect_error(ORR_EFORMAT, folder, "is no time");
    two_steps();
    unlink(at("tasks.rec"));
    ck_assert_ptr_null(orr_trace_open(folder));
    expect_error(ORR_ENOENT, folder, "tasks.rec");
}
END_TEST

/* ---- the folder -------------------------------------------------------------------------------------------------- */

START_TEST(test_prepare)
{
    char *longest = malloc(1200);

    ck_assert_int_eq(orr_trace_prepare(at("a/b/c")), 0);
    put_text(at("a/b/c/prof_file__0"), "old");
    put_text(at("a/b/c/prof_file_root_1"), "old");
    put_text(at("a/b/c/run.json"), "old");
    put_text(at("a/b/c/notes"), "mine");
    ck_assert_int_eq(orr_trace_prepare(at("a/b/c")), 0);
    ck_assert_int_eq(entries(at("a/b/c")), 1);
    ck_assert(holds(at("a/b/c/notes"), "mine"));
    ck_assert_int_eq(orr_trace_prepare(at("a/b/c/notes")), ORR_EINVAL);
    ck_assert_int_eq(orr_trace_prepare(at("a/b/c/notes/under")), ORR_EINVAL);
    memset(longest, 'x', 1199);
    longest[1199] = '\0';
    ck_assert_int_eq(orr_trace_prepare(longest), ORR_EINVAL);
    ck_assert_int_eq(orr_trace_prepare(""), ORR_EINVAL);
    free(longest);
}
END_TEST

START_TEST(test_convert_refused)
{
    ck_assert_int_eq(orr_trace_convert(at("nothing")), ORR_ENOENT);
    ck_assert_int_eq(orr_trace_convert(folder), ORR_ENOENT);
    put_text(at("prof_file__0"), "this is no trace");
    put_text(at("tasks.rec"), "of an earlier call");
    ck_assert_int_eq(orr_trace_convert(folder), ORR_EFORMAT);
    ck_assert(!holds(at("tasks.rec"), "of an earlier call"));
    ck_assert_int_eq(orr_trace_describe(folder, &pair), 0);
    ck_assert_int_eq(orr_trace_convert(folder), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, folder, "holds the traces of 1 of 2 ranks");
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("trace");
    TCase *c = tcase_create("trace");

    tcase_add_checked_fixture(c, files_setup, files_teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_kinds);
    tcase_add_test(c, test_sums);
    tcase_add_test(c, test_model);
    tcase_add_test(c, test_ranges);
    tcase_add_test(c, test_replicas);
    tcase_add_test(c, test_interleaved);
    tcase_add_test(c, test_other_causes);
    tcase_add_test(c, test_one_rank);
    tcase_add_test(c, test_early);
    tcase_add_test(c, test_overlap_of_each);
    tcase_add_test(c, test_overlap_of_all);
    tcase_add_test(c, test_overlap_of_steps);
    tcase_add_test(c, test_picture);
    tcase_add_test(c, test_odd_names);
    tcase_add_test(c, test_many_tasks);
    tcase_add_test(c, test_open_pause);
    tcase_add_test(c, test_overlapping_pauses);
    tcase_add_test(c, test_picture_of_step);
    tcase_add_test(c, test_picture_of_moment);
    tcase_add_test(c, test_model_of_any_bytes);
    tcase_add_test(c, test_truncated);
    tcase_add_test(c, test_mutated);
    tcase_add_test(c, test_refused);
    tcase_add_test(c, test_prepare);
    tcase_add_test(c, test_convert_refused);
    suite_add_tcase(s, c);
    return s;
}
