/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas that do not wait for each other: what they see of each other, how far ahead they get, and that nothing is lost.
 * In one process or on several ranks, which then look at one file, BOARD. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check_main.h"
#include "core/ranks.h"
#include "graph/toys.h"
#include "meshes.h"
#include "train/train.h"

enum { EACH = 2, MOST_REPLICAS = 4, MOST = 64 };

static const double RATE = 1.0 / 64;

/* Every push has a mean gradient of `weight[replica]`, so that a parameter says which were applied: sums are exact. */
static struct look {
    int dp;
    float weight[MOST_REPLICAS];
    atomic_int begun[MOST_REPLICAS];        /* steps, by the first block                                             */
    float seen[MOST_REPLICAS][MOST];        /* parameter that a replica's step computed with                         */
    int broken;                             /* its gradient ends with NaN; or -1                                     */
    int held, fast, reach;                  /* `held` stays in its first step until `fast` has begun `reach`; or -1  */
    bool reached, exceeded;
} *look;

static void hook(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    int r = toy_microbatch(o) % look->dp;

    if (pass == ORR_WEIGHTS && o->grad[0][0])
        for (int c = 0; c < TOY_WIDTH; c++)
            o->grad[0][0][c] = r == look->broken && c == TOY_WIDTH - 1 ? NAN : (float)EACH * look->weight[r];
    if (pass != ORR_FORWARD || toy->id != 0 || toy_microbatch(o) != r)
        return;
    look->seen[r][o->step] = o->param[0][0][TOY_WIDTH - 1];
    atomic_store(&look->begun[r], (int)o->step + 1);
    if (r != look->held || o->step > 0)
        return;
    look->reached = toy_wait(&look->begun[look->fast], look->reach);
    for (int ms = 0; ms < 30; ms++)
        toy_sleep();
    look->exceeded = atomic_load(&look->begun[look->fast]) > look->reach;
}

static struct orr_training *begin(struct orr_model **model, struct orr_mesh mesh, struct orr_training_options options)
{
    mesh.ranks = orr_rank_count();
    *model = toy_chain(&mesh, 1);
    options.batch = EACH * mesh.dp;
    options.micro_batch = options.seq = 1;
    options.schedule = (struct orr_schedule){ORR_SCHEDULE_CONSTANT, RATE, 0, 0, 0};
    ck_assert_int_eq(orri_ranks_barrier(), 0);      /* the others look no more at what the test before has left */
    look->dp = mesh.dp;
    look->held = look->broken = -1;
    for (int r = 0; r < MOST_REPLICAS; r++)
        atomic_store(&look->begun[r], 0);
    struct orr_training *training = orr_training_create(*model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
    toys.end = hook;
    ck_assert_int_eq(orri_ranks_barrier(), 0);
    return training;
}

static void run(struct orr_training *training, int steps)
{
    ck_assert_int_eq(toy_train(training, steps).labels, EACH * look->dp);
}

static void end(struct orr_training *training, struct orr_model *model)
{
    orr_training_destroy(training);
    orr_model_destroy(model);
    toys.end = NULL;
}

static const struct orr_optimizer sgd = {ORR_SGD, 0, 0, 0, 0, 0};

static struct orr_training_options stale(int staleness, struct orr_optimizer optimizer)
{
    return (struct orr_training_options){.staleness = staleness, .optimizer = optimizer};
}

/* ---- nothing is lost --------------------------------------------------------------------------------------------- */

static void check_sum(struct orr_mesh mesh, int staleness, float clip)
{
    enum { STEPS = 9 };
    struct orr_model *model;
    struct orr_optimizer optimizer = sgd;
    float weight = 0;

    optimizer.clip = clip;
    struct orr_training *training = begin(&model, mesh, stale(staleness, optimizer));
    for (int r = 0; r < mesh.dp; r++)
        weight += look->weight[r] = (float)(r + 1);
    run(training, STEPS);
    ck_assert_int_eq(orr_training_synchronise(training), 0);
    for (int p = 0; p < 2; p++) {
        struct orr_tile *here = &model->parameter[p]->value;
        float *values = here->handle ? orr_tile_acquire(here, false) : NULL;
        for (int c = 0; values && c < TOY_WIDTH; c++)
            ck_assert_float_eq(values[c], 1 - (float)(RATE * STEPS) * weight);
        if (values)
            orr_tile_release(here);
    }
    end(training, model);
}

/* With one replica nobody is to be waited for: nothing changes. */
START_TEST(test_every_push_counts_once)
{
    for (int staleness = 1; staleness <= ORRI_MOST_STALE; staleness++) {
        check_sum((struct orr_mesh)MESH(2, 1, 1), staleness, 0);
        check_sum((struct orr_mesh)MESH(3, 2, 1), staleness, 1e9f);
        check_sum((struct orr_mesh)MESH(1, 2, 1), staleness, 0);
    }
}
END_TEST

/* A gradient of norm w sqrt(8) in both parameters together is cut to norm 1, each replica's by itself. */
START_TEST(test_clipping_is_by_replica)
{
    struct orr_model *model;
    struct orr_optimizer optimizer = sgd;
    float values[TOY_WIDTH];

    optimizer.clip = 1;
    struct orr_training *training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), stale(2, optimizer));
    look->weight[0] = 100;
    look->weight[1] = 0.125f;
    run(training, 4);
    ck_assert_int_eq(orr_model_read(model, 0, values), 0);
    ck_assert_float_eq_tol(values[0], (float)(1 - 4 * RATE * (1 / sqrt(8) + 0.125)), 1e-6f);
    end(training, model);
}
END_TEST

/* ---- what replicas see of each other --------------------------------------------------------------------------- */

/* With weight 1 the parameter tells how many pushes were applied when the replica pulled. */
static void check_seen(int dp, int staleness)
{
    enum { STEPS = 20 };
    struct orr_model *model;
    struct orr_training *training = begin(&model, (struct orr_mesh)MESH(dp, 1, 1), stale(staleness, sgd));

    for (int r = 0; r < dp; r++)
        look->weight[r] = 1;
    run(training, STEPS);
    for (int r = 0; r < dp; r++) {
        for (int n = 0; n < STEPS; n++) {
            int applied = (int)lround((1 - (double)look->seen[r][n]) / RATE), behind = n > staleness ? n - staleness : 0;
            ck_assert_msg(applied >= n + (dp - 1) * behind, "replica %d, step %d of staleness %d: %d", r, n, staleness, applied);
            ck_assert_msg(applied <= n + (dp - 1) * (n + staleness + 1), "replica %d, step %d: %d", r, n, applied);
        }
    }
    end(training, model);
}

START_TEST(test_staleness_is_bounded)
{
    for (int staleness = 1; staleness <= ORRI_MOST_STALE; staleness++) {
        check_seen(2, staleness);
        check_seen(orr_rank_count() == 1 ? 3 : 4, staleness);
    }
}
END_TEST

/* ---- how far a replica gets ahead --------------------------------------------------------------------------------- */

static void check_ahead(struct orr_training_options options, int steps, int fast, int ahead)
{
    struct orr_model *model;
    struct orr_training *training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), options);

    look->held = 1 - fast;
    look->fast = fast;
    look->reach = ahead;
    look->weight[0] = look->weight[1] = 1;
    run(training, steps);
    ck_assert_msg(look->reached, "replica %d did not begin step %d while the other was in its first", fast, ahead);
    ck_assert_msg(!look->exceeded, "replica %d began step %d before the other had done its first", fast, ahead + 1);
    end(training, model);
}

/* Step n (from 0) needs all pushes of the first n - staleness steps, so that 1 + staleness need none. */
START_TEST(test_fast_replicas_go_ahead)
{
    for (int fast = 0; fast < 2; fast++)
        for (int staleness = 0; staleness <= ORRI_MOST_STALE; staleness++)
            check_ahead(stale(staleness, sgd), 12, fast, staleness + 1);
}
END_TEST

/* Replicas with parameters of their own wait for each other only at the end of a round, and for as many steps as are in
 * flight. */
START_TEST(test_local_steps_go_ahead)
{
    struct orr_training_options options = {.sync = ORR_SYNC_PARAMETERS, .sync_every = 10, .optimizer = sgd};

    for (int fast = 0; fast < 2; fast++)
        check_ahead(options, 10, fast, ORRI_IN_FLIGHT);
}
END_TEST

/* ---- failing and resuming ----------------------------------------------------------------------------------------- */

START_TEST(test_failure)
{
    for (int clipping = 0; clipping < 2; clipping++) {
        struct orr_model *model;
        struct orr_optimizer optimizer = sgd;
        struct orr_step report;
        float values[TOY_WIDTH];
        optimizer.clip = clipping ? 1e9f : 0;
        struct orr_training *training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), stale(2, optimizer));
        int status = 0;
        look->weight[0] = look->weight[1] = 1;
        look->broken = 1;
        for (int s = 0; s < 8 && status == 0; s++)
            status = orr_training_submit(training, &toy_source);
        while (status == 0 || orr_training_next(training, &report, true) == 1)
            status = orr_training_next(training, &report, true) == 1 ? 0 : ORR_ENONFINITE;
        ck_assert_int_eq(orr_model_status(model), ORR_ENONFINITE);
        ck_assert_msg(strstr(orr_error(), "step 1: a gradient is not a finite number") != NULL, "%s", orr_error());
        ck_assert_int_eq(orr_model_read(model, 0, values), 0);
        for (int c = 0; c < TOY_WIDTH; c++)
            ck_assert(isfinite(values[c]));
        end(training, model);
    }
}
END_TEST

/* Equal gradients make the order of the pushes all one; Adam counts them. */
START_TEST(test_resuming)
{
    enum { STEPS = 6, BEFORE = 4 };
    float whole[TOY_WIDTH], resumed[TOY_WIDTH], values[2][2][TOY_WIDTH], parameters[2][TOY_WIDTH];
    struct orr_training_options options = stale(2, orr_optimizer_default(ORR_ADAM));
    struct orr_model *model;

    look->weight[0] = look->weight[1] = 1;
    struct orr_training *training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), options);
    run(training, STEPS);
    ck_assert_int_eq(orr_model_read(model, 0, whole), 0);
    end(training, model);
    training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), options);
    run(training, BEFORE);
    for (int p = 0; p < 2; p++) {
        ck_assert_int_eq(orr_model_read(model, p, parameters[p]), 0);
        for (int which = 0; which < 2; which++)
            ck_assert_int_eq(orr_training_read_state(training, p, which, values[p][which]), 0);
    }
    end(training, model);
    training = begin(&model, (struct orr_mesh)MESH(2, 1, 1), options);
    for (int p = 0; p < 2; p++) {
        ck_assert_int_eq(orr_model_write(model, p, parameters[p]), 0);
        for (int which = 0; which < 2; which++)
            ck_assert_int_eq(orr_training_write_state(training, p, which, values[p][which]), 0);
    }
    ck_assert_int_eq(orr_training_resume(training, BEFORE, BEFORE * 2 * EACH), 0);
    run(training, STEPS - BEFORE);
    ck_assert_int_eq(orr_model_read(model, 0, resumed), 0);
    ck_assert_mem_eq(whole, resumed, sizeof(whole));
    end(training, model);
}
END_TEST

static void start(void)
{
    const char *path = getenv("BOARD");
    int fd = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;

    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    ck_assert(!path || (fd >= 0 && ftruncate(fd, sizeof(*look)) == 0));
    look = mmap(NULL, sizeof(*look), PROT_READ | PROT_WRITE, MAP_SHARED | (path ? 0 : MAP_ANONYMOUS), fd, 0);
    ck_assert(look != MAP_FAILED);
    close(fd);
}

Suite *suite(void)
{
    Suite *s = suite_create("exchange");
    TCase *c = tcase_create("exchange");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_every_push_counts_once);
    tcase_add_test(c, test_clipping_is_by_replica);
    tcase_add_test(c, test_staleness_is_bounded);
    tcase_add_test(c, test_fast_replicas_go_ahead);
    tcase_add_test(c, test_local_steps_go_ahead);
    tcase_add_test(c, test_failure);
    tcase_add_test(c, test_resuming);
    suite_add_tcase(s, c);
    return s;
}
