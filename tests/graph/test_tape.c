/* SPDX-License-Identifier: Apache-2.0 */
/* The tape: gradients of what is no chain, shared parameters, wrong descriptions, and steps that fail. */
#include <math.h>
#include <stdio.h>

#include "check_main.h"
#include "graph/graph.h"
#include "graph/toys.h"
#include "meshes.h"

static const struct orr_mesh one = MESH(1, 1, 1);

enum { BATCH = 8, SEQ = 2 };

static struct orr_training_options usual(const char *slots, int micro_batch)
{
    struct orr_training_options options = {
        .batch = BATCH,
        .micro_batch = micro_batch,
        .seq = SEQ,
        .optimizer = {ORR_SGD, 0, 0, 0, 0, 0},
        .schedule = {ORR_SCHEDULE_CONSTANT, 0.0009765625, 0, 0, 0},
    };

    ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    return options;
}

static void read_named(struct orr_model *model, const char *name, float *values)
{
    int index = orr_model_find(model, name);

    ck_assert_msg(index >= 0, "no parameter '%s'", name);
    ck_assert_int_eq(orr_model_read(model, index, values), 0);
}

static void write_named(struct orr_model *model, const char *name, const float *values)
{
    ck_assert_int_eq(orr_model_write(model, orr_model_find(model, name), values), 0);
}

/* ---- gradients by hand ------------------------------------------------------------------------------------------
 *
 *     x0 = w ids;  x1 = u x0;  x2 = v x0;  x3 = x1 + x2;  x4 = x3 + x0;  x5 = x4 + x1;  loss (w x5 + b - label)^2
 *
 * x0 has three readers, x1 two, some of them with another input before it; w is tied. */

static const float w[] = {1, -2, 3, 1}, u[] = {2, 1, -1, 0}, v[] = {-1, 3, 2, 1}, bias[] = {1, 0, -2, 5};

static struct orr_model *diamond(const struct orr_mesh *mesh)
{
    struct orr_model *model = orr_model_create(mesh);
    struct toy toy = {.flops = 1};
    struct orr_block *x0 = orr_block_append(model, &source_class, 0, &toy);
    struct orr_block *x1 = orr_block_append_inputs(model, &scale_class, 1, &toy, 1, &x0);
    struct orr_block *x2 = orr_block_append_inputs(model, &scale_class, 2, &toy, 1, &x0);
    struct orr_block *x3 = orr_block_append_inputs(model, &add_class, 3, &toy, 2, (struct orr_block *[]){x1, x2});
    struct orr_block *x4 = orr_block_append_inputs(model, &add_class, 4, &toy, 2, (struct orr_block *[]){x3, x0});
    orr_block_append_inputs(model, &add_class, 5, &toy, 2, (struct orr_block *[]){x4, x1});
    toy.tied = 1;
    struct orr_block *loss = orr_block_append(model, &loss_class, 6, &toy);
    ck_assert_msg(loss != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_block_share(loss, 1, x0, 0), 0);
    ck_assert_msg(orr_model_build(model, toy_names, TOY_NAMES) == 0, "%s", orr_error());
    write_named(model, "source", w);
    write_named(model, "scale.1", u);
    write_named(model, "scale.2", v);
    write_named(model, "bias", bias);
    return model;
}

/* Sums over the labels, whole numbers. */
struct by_hand {
    double labels, loss, w[TOY_WIDTH], u[TOY_WIDTH], v[TOY_WIDTH], b[TOY_WIDTH];
};

static struct by_hand differentiate(uint64_t first, int batch)
{
    struct by_hand g = {.labels = batch * SEQ};

    for (int i = 0; i < batch * SEQ; i++) {
        double token = toy_token(first + (uint64_t)(i / SEQ), i % SEQ);
        double label = toy_label(first + (uint64_t)(i / SEQ), i % SEQ);
        for (int c = 0; c < TOY_WIDTH; c++) {
            double x0 = (double)w[c] * token, gain = 2 * (double)u[c] + (double)v[c] + 1, x5 = gain * x0;
            double e = (double)w[c] * x5 + (double)bias[c] - label;
            g.loss += e * e;
            g.b[c] += 2 * e;
            g.w[c] += 2 * e * x5 + 2 * e * (double)w[c] * gain * token;
            g.u[c] += 2 * e * (double)w[c] * 2 * x0;
            g.v[c] += 2 * e * (double)w[c] * x0;
        }
    }
    return g;
}

static double norm_of(const struct by_hand *g)
{
    double squares = 0;

    for (int c = 0; c < TOY_WIDTH; c++)
        squares += g->w[c] * g->w[c] + g->u[c] * g->u[c] + g->v[c] * g->v[c] + g->b[c] * g->b[c];
    return sqrt(squares) / g->labels;
}

/* The sum is exact, whatever the order; the mean is rounded. */
static void check_gradient(struct orr_training *training, struct orr_model *model, const char *name, const double *sum,
                           double labels)
{
    float found[TOY_WIDTH], scale = (float)(1 / labels);

    ck_assert_int_eq(orr_training_read_gradient(training, orr_model_find(model, name), found), 0);
    for (int c = 0; c < TOY_WIDTH; c++)
        ck_assert_msg(found[c] == (float)sum[c] * scale, "%s[%d] is %.9g, not %.9g", name, c, (double)found[c],
                      (double)((float)sum[c] * scale));
}

static void check_batch(struct orr_mesh mesh, const char *slots, int batch, int micro_batch)
{
    struct orr_model *model = diamond(&mesh);
    struct orr_training_options options = usual(slots, micro_batch);
    options.batch = batch;
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step report;

    ck_assert_msg(training != NULL, "%s", orr_error());
    for (int step = 0; step < 3; step++) {
        struct by_hand expected = differentiate((uint64_t)(step * batch), batch);
        ck_assert_int_eq(orr_training_gradients(training, &toy_source, &report), 0);
        ck_assert_int_eq(report.step, step + 1);
        ck_assert_int_eq(report.labels, batch * SEQ);
        ck_assert_double_eq(report.loss, expected.loss / expected.labels);
        check_gradient(training, model, "source", expected.w, expected.labels);
        check_gradient(training, model, "scale.1", expected.u, expected.labels);
        check_gradient(training, model, "scale.2", expected.v, expected.labels);
        check_gradient(training, model, "bias", expected.b, expected.labels);
        ck_assert_double_eq_tol(report.grad_norm, norm_of(&expected), 1e-6 * norm_of(&expected));
    }
    ck_assert_int_eq(orr_training_samples(training), 3 * batch);
    orr_training_destroy(training);
    orr_model_destroy(model);
}

static void check_diamond(struct orr_mesh mesh, const char *slots, int micro_batch)
{
    check_batch(mesh, slots, BATCH, micro_batch);
}

START_TEST(test_diamond)
{
    static const char *const policies[] = {"gpipe", "1f1b", "h1", "zb", "1", "2"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        for (int micro_batch = 1; micro_batch <= BATCH; micro_batch *= 2)
            check_diamond(one, policies[i], micro_batch);
        for (int pp = 2; pp <= 7; pp++)
            check_diamond((struct orr_mesh)MESH(1, pp, 1), policies[i], 1);
        check_diamond((struct orr_mesh)MESH(2, 1, 1), policies[i], 2);
        check_diamond((struct orr_mesh)MESH(4, 3, 1), policies[i], 1);
        check_diamond((struct orr_mesh)MESH(8, 1, 1), policies[i], 1);
        /* More stages than coordinates. */
        check_diamond((struct orr_mesh){.dp = 1, .pp = 2, .tp = 1, .ranks = 1, .stages = 6}, policies[i], 1);
        check_diamond((struct orr_mesh){.dp = 2, .pp = 1, .tp = 1, .ranks = 1, .stages = 3}, policies[i], 1);
    }
}
END_TEST

/* Neither the last microbatch need be full nor the replicas have as many: every label weighs the same. */
START_TEST(test_uneven_batches)
{
    static const char *const policies[] = {"gpipe", "1f1b", "h1", "zb", "1", "2"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        for (int micro_batch = 1; micro_batch <= 6; micro_batch++)
            check_batch(one, policies[i], 5, micro_batch);
        check_batch((struct orr_mesh)MESH(3, 1, 1), policies[i], 8, 1);
        check_batch((struct orr_mesh)MESH(3, 1, 1), policies[i], 5, 2);
        check_batch((struct orr_mesh)MESH(2, 3, 1), policies[i], 7, 3);
        check_batch((struct orr_mesh){.dp = 3, .pp = 2, .tp = 1, .ranks = 1, .stages = 4}, policies[i], 11, 2);
    }
}
END_TEST

/* Whatever ran on the model before, the first microbatch of a step overwrites. */
START_TEST(test_steps_repeated)
{
    struct orr_model *model = diamond(&one);
    struct orr_training_options options = usual("h1", 2);
    struct by_hand expected = differentiate(0, BATCH);
    struct orr_step report;

    for (int round = 0; round < 3; round++) {
        struct orr_training *training = orr_training_create(model, &options);
        for (int again = 0; again < 2; again++) {
            orr_training_resume(training, 0, 0);
            ck_assert_int_eq(orr_training_gradients(training, &toy_source, &report), 0);
            ck_assert_double_eq(report.loss, expected.loss / expected.labels);
            check_gradient(training, model, "source", expected.w, expected.labels);
            check_gradient(training, model, "bias", expected.b, expected.labels);
        }
        orr_training_destroy(training);
    }
    orr_model_destroy(model);
}
END_TEST

START_TEST(test_tied_parameters_once)
{
    struct orr_model *model = diamond(&one);
    struct orr_parameter_info info;

    ck_assert_int_eq(orr_model_size(model), 4 * TOY_WIDTH);
    ck_assert_int_eq(orr_model_parameter_count(model), 4);
    orr_model_parameter(model, 3, &info);
    ck_assert_str_eq(info.name, "bias");
    ck_assert_int_eq(info.count, TOY_WIDTH);
    ck_assert_int_eq(orr_model_find(model, "scale.3"), -1);
    orr_model_destroy(model);
}
END_TEST

/* The update sees the sum over users and replicas, shortened to the length `clip` where it is longer: p -= lr g. */
static void check_update(struct orr_mesh mesh, double clip)
{
    struct by_hand expected = differentiate(0, BATCH);
    double factor = clip > 0 && clip < norm_of(&expected) ? clip / norm_of(&expected) : 1;
    struct orr_model *model = diamond(&mesh);
    struct orr_training_options options = usual("h1", 1);
    options.optimizer.clip = (float)clip;
    struct orr_training *training = orr_training_create(model, &options);
    float found[TOY_WIDTH];
    struct orr_step report;

    ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    ck_assert_int_eq(orr_training_next(training, &report, true), 1);
    ck_assert_double_eq_tol(report.grad_norm, norm_of(&expected), 1e-6 * norm_of(&expected));
    read_named(model, "source", found);
    for (int c = 0; c < TOY_WIDTH; c++)
        ck_assert_double_eq_tol((double)found[c], (double)w[c] - factor * expected.w[c] / expected.labels / 1024, 1e-6);
    orr_training_destroy(training);
    orr_model_destroy(model);
}

START_TEST(test_update_by_hand)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(2, 1, 1), MESH(2, 3, 1)};

    for (size_t i = 0; i < sizeof(meshes) / sizeof(meshes[0]); i++) {
        check_update(meshes[i], 0);
        check_update(meshes[i], 100);
        check_update(meshes[i], 1e6);
    }
}
END_TEST

/* ---- wrong descriptions ----------------------------------------------------------------------------------------*/

static void expect(int code, int expected, const char *message)
{
    ck_assert_int_eq(code, expected);
    ck_assert_int_eq(orr_error_code(), expected);
    ck_assert_msg(strstr(orr_error(), message) != NULL, "'%s' does not say '%s'", orr_error(), message);
}

static int build(struct orr_model *model)
{
    return orr_model_build(model, toy_names, TOY_NAMES);
}

START_TEST(test_wrong_descriptions)
{
    struct toy plain = {.flops = 1}, tied = {.tied = 1, .flops = 1};
    struct orr_model *model = orr_model_create(&one), *other = orr_model_create(&one);

    expect(build(model), ORR_EINVAL, "the last block must be a loss block");
    struct orr_block *source = orr_block_append(model, &source_class, 0, &plain);
    expect(build(model), ORR_EINVAL, "the last block must be a loss block");
    struct orr_block *scale = orr_block_append(model, &scale_class, 1, &plain);
    struct orr_block *stranger = orr_block_append(other, &source_class, 0, &plain);
    struct orr_block *three[] = {source, scale, source};
    ck_assert_ptr_null(orr_block_append_inputs(model, &add_class, 2, &plain, 3, three));
    expect(ORR_EINVAL, ORR_EINVAL, "block 'add' reads 3 values, at most 2 can be read");
    ck_assert_ptr_null(orr_block_append_inputs(model, &scale_class, 2, &plain, 1, &stranger));
    expect(ORR_EINVAL, ORR_EINVAL, "block 'scale' reads a value of another model");

    ck_assert_int_eq(orr_model_set_dtype(other, ORR_BF16), 0);
    ck_assert_int_eq(orr_block_share(orr_block_append(other, &loss_class, 1, &tied), 1, stranger, 0), 0);
    expect(build(other), ORR_EINVAL, "block 'source' computes in fp32 alone");

    struct orr_block *twice[] = {scale, scale};
    ck_assert_ptr_null(orr_block_append_inputs(model, &add_class, 2, &plain, 2, twice));
    expect(ORR_EINVAL, ORR_EINVAL, "block 'add' reads the value of block 'scale' twice");

    struct orr_block *loss = orr_block_append_inputs(model, &loss_class, 3, &tied, 1, &source);
    ck_assert_ptr_null(orr_block_append(model, &scale_class, 4, &plain));
    expect(ORR_EINVAL, ORR_EINVAL, "block 'scale' is appended after the loss");
    expect(build(model), ORR_EINVAL, "nothing reads what block 'scale' of layer 1 writes");
    orr_model_destroy(model);

    model = orr_model_create(&one);
    source = orr_block_append(model, &source_class, 0, &plain);
    loss = orr_block_append(model, &loss_class, 1, &tied);
    expect(build(model), ORR_EINVAL, "group 1 of block 'loss' is shared with nothing");
    expect(orr_block_share(loss, 1, stranger, 0), ORR_EINVAL, "block 'loss' cannot share group 0 of block 'source'");
    expect(orr_block_share(loss, 1, source, 1), ORR_EINVAL, "cannot share group 1 of block 'source'");
    expect(orr_block_share(loss, 1, source, -1), ORR_EINVAL, "cannot share");
    expect(orr_block_share(loss, 2, source, 0), ORR_EINVAL, "cannot share");
    expect(orr_block_share(loss, -1, source, 0), ORR_EINVAL, "cannot share");
    expect(orr_block_share(loss, 0, source, 0), ORR_EINVAL, "cannot share");
    expect(orr_block_share(loss, 1, loss, 1), ORR_EINVAL, "cannot share");
    ck_assert_int_eq(orr_block_share(loss, 1, source, 0), 0);
    expect(orr_block_share(loss, 1, source, 0), ORR_EINVAL, "cannot share");
    expect(orr_model_build(model, toy_names, 2), ORR_EINVAL, "parameter 'loss.b' has no name in files");
    ck_assert_msg(build(model) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_model_parameter_count(model), 2);
    expect(build(model), ORR_EINVAL, "built twice");
    ck_assert_ptr_null(orr_block_append(model, &loss_class, 9, &tied));
    expect(ORR_EINVAL, ORR_EINVAL, "block 'loss' is appended after orr_model_build()");
    expect(orr_block_share(loss, 1, source, 0), ORR_EINVAL, "after orr_model_build()");
    orr_model_destroy(model);
    orr_model_destroy(other);
}
END_TEST

START_TEST(test_impossible_meshes)
{
    static const struct {
        struct orr_mesh mesh;
        const char *message;
    } bad[] = {{MESH(1, 1, 2), "tp 2: block 'source' cannot be cut into shards"},
               {MESH(1, 1, ORR_MAX_SHARDS + 1), "at most 64 shards"},
               {MESH(1, 4, 1), "2 blocks cannot fill 4 pipeline stages"},
               {{.dp = 1, .pp = 2, .tp = 1, .ranks = 2, .stages = 4, .pretended = 1}, "2 blocks cannot fill 4 pipeline stages"}};

    ck_assert_ptr_null(orr_model_create(&(struct orr_mesh)MESH(0, 1, 1)));
    ck_assert_ptr_null(orr_model_create(&(struct orr_mesh){.dp = 1, .pp = 2, .tp = 1, .ranks = 2}));
    expect(orr_error_code(), ORR_EINVAL, "2 ranks, but there are 1");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct toy toy = {.flops = 1};
        struct orr_model *model = orr_model_create(&bad[i].mesh);
        orr_block_append(model, &source_class, 0, &toy);
        orr_block_append(model, &loss_class, 1, &toy);
        expect(build(model), ORR_EINVAL, bad[i].message);
        orr_model_destroy(model);
    }
}
END_TEST

START_TEST(test_wrong_options)
{
    struct orr_mesh mesh = MESH(3, 1, 1);
    struct orr_model *model = toy_chain(&mesh, 1);
    struct orr_training_options options = usual("h1", 4);

    ck_assert_ptr_null(orr_training_create(model, &options));
    expect(ORR_EINVAL, ORR_EINVAL, "batch 8 is 2 microbatches of 4, fewer than dp 3");
    options.micro_batch = 0;
    ck_assert_ptr_null(orr_training_create(model, &options));
    expect(ORR_EINVAL, ORR_EINVAL, "must be at least 1");
    orr_model_destroy(model);
}
END_TEST

/* ---- steps that fail -------------------------------------------------------------------------------------------*/

static struct {
    int id, microbatch, step, pass;
    enum { BY_CALL, BY_LOSS, BY_NAN, BY_INFINITY } how;
    atomic_int seen, ran_on;
} trouble;

static void make_trouble(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (toy_microbatch(o) != trouble.microbatch || (int)o->step != trouble.step)
        return;
    if (toy->id > trouble.id && pass == ORR_FORWARD && trouble.pass == ORR_FORWARD)
        atomic_fetch_add(&trouble.ran_on, 1);
    if (toy->id != trouble.id || (int)pass != trouble.pass)
        return;
    atomic_fetch_add(&trouble.seen, 1);
    switch (trouble.how) {
    case BY_CALL: orr_task_fail(o, ORR_EDEVICE, "out of luck"); break;
    case BY_LOSS: o->result->loss = NAN; break;
    case BY_NAN: o->grad[0][0][1] = NAN; break;
    case BY_INFINITY: o->grad[0][0][1] = -INFINITY; break;
    }
}

enum { SCALES = 2, PARAMETERS = SCALES + 1 };

static void read_all(struct orr_model *model, float values[PARAMETERS][TOY_WIDTH])
{
    for (int p = 0; p < PARAMETERS; p++)
        ck_assert_int_eq(orr_model_read(model, p, values[p]), 0);
}

/* The parameters behind `steps` good steps. */
static void run_well(struct orr_mesh mesh, struct orr_training_options options, int steps,
                     float values[PARAMETERS][TOY_WIDTH])
{
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training *training = orr_training_create(model, &options);

    for (int s = 0; s < steps; s++)
        ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    read_all(model, values);
    orr_training_destroy(training);
    orr_model_destroy(model);
}

/* Runs into trouble in step `trouble.step`. Without clipping, updates of the step may precede a bad gradient. */
static void check_trouble(struct orr_mesh mesh, float clip, int code, const char *message, bool unchanged)
{
    struct orr_training_options options = usual("h1", 1);
    float good[PARAMETERS][TOY_WIDTH], found[PARAMETERS][TOY_WIDTH];
    struct orr_step report;
    int status = 0, next, reports = 0;

    options.optimizer.clip = clip;
    run_well(mesh, options, trouble.step, good);

    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training *training = orr_training_create(model, &options);
    atomic_store(&trouble.seen, 0);
    atomic_store(&trouble.ran_on, 0);
    toys.end = make_trouble;
    for (int s = 0; s < trouble.step + 4 && status == 0; s++)
        status = orr_training_submit(training, &toy_source);
    expect(status, code, message);
    while ((next = orr_training_next(training, &report, true)) == 1)
        ck_assert_int_eq(report.step, ++reports);
    expect(next, code, message);
    ck_assert_int_eq(reports, trouble.step);
    ck_assert_int_eq(trouble.seen, 1);
    ck_assert_msg(trouble.ran_on == 0, "the failed microbatch runs on");
    expect(orr_training_next(training, &report, false), code, message);
    expect(orr_training_submit(training, &toy_source), code, message);
    expect(orr_training_gradients(training, &toy_source, &report), code, message);
    expect(orr_model_status(model), code, message);
    read_all(model, found);
    for (int p = 0; p < PARAMETERS; p++) {
        if (unchanged || p == trouble.id)
            ck_assert_mem_eq(found[p], good[p], sizeof(good[p]));
        for (int c = 0; c < TOY_WIDTH; c++)
            ck_assert(isfinite(found[p][c]));
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
    toys.end = NULL;
}

static const struct orr_mesh grids[] = {MESH(1, 1, 1), MESH(2, 1, 1), MESH(1, 3, 1)};

START_TEST(test_failing_tasks)
{
    static const struct {
        int id, pass;
    } places[] = {{0, ORR_FORWARD}, {1, ORR_FORWARD}, {1, ORR_BACKWARD}, {2, ORR_WEIGHTS}, {3, ORR_FORWARD}};
    static const char *const blocks[] = {"source", "scale", "scale", "loss"};

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        for (size_t g = 0; g < sizeof(grids) / sizeof(grids[0]); g++) {
            for (int step = 0; step < 4; step += 3) {
                char message[100];
                trouble.id = places[i].id;
                trouble.pass = places[i].pass;
                trouble.microbatch = (int)i;
                trouble.step = step;
                trouble.how = BY_CALL;
                snprintf(message, sizeof(message), "%s of layer %d, microbatch %d, step %d: out of luck",
                         blocks[trouble.id], trouble.id, trouble.microbatch, step + 1);
                check_trouble(grids[g], i % 2, ORR_EDEVICE, message, true);
            }
        }
    }
}
END_TEST

START_TEST(test_non_finite_loss)
{
    for (size_t g = 0; g < sizeof(grids) / sizeof(grids[0]); g++) {
        for (int step = 0; step < 3; step += 2) {
            char message[80];
            trouble.id = SCALES + 1;
            trouble.pass = ORR_FORWARD;
            trouble.microbatch = 5;
            trouble.step = step;
            trouble.how = BY_LOSS;
            snprintf(message, sizeof(message), "step %d: the loss is not a finite number", step + 1);
            check_trouble(grids[g], 0, ORR_ENONFINITE, message, true);
            check_trouble(grids[g], 1, ORR_ENONFINITE, message, true);
        }
    }
}
END_TEST

START_TEST(test_non_finite_gradient)
{
    for (size_t g = 0; g < sizeof(grids) / sizeof(grids[0]); g++) {
        for (int id = 0; id <= SCALES; id++) {
            char message[100];
            trouble.id = id;
            trouble.pass = ORR_WEIGHTS;
            trouble.microbatch = 2 * id;
            trouble.step = 2;
            trouble.how = id % 2 ? BY_NAN : BY_INFINITY;
            snprintf(message, sizeof(message), "%s of layer %d, step 3: a gradient is not a finite number",
                     id ? "scale" : "source", id);
            check_trouble(grids[g], 1, ORR_ENONFINITE, message, true);
            check_trouble(grids[g], 0, ORR_ENONFINITE, message, false);
        }
    }
}
END_TEST

/* A step that fails while updates of the one before have yet to be made does not keep them from it: someone who reads
 * the parameters of block 2 holds up its update, and meanwhile the first block fails in the next step. */
START_TEST(test_step_before_ends_well)
{
    struct orr_training_options options = usual("h1", 1);
    float good[PARAMETERS][TOY_WIDTH], found[PARAMETERS][TOY_WIDTH];
    struct orr_step report;
    run_well(one, options, 1, good);
    struct orr_model *model = toy_chain(&one, SCALES);
    struct orr_training *training = orr_training_create(model, &options);

    trouble.id = trouble.microbatch = 0;
    trouble.pass = ORR_FORWARD;
    trouble.step = 1;
    trouble.how = BY_CALL;
    atomic_store(&trouble.seen, 0);
    toys.end = make_trouble;
    ck_assert_ptr_nonnull(orr_tile_acquire(&model->block[2]->group[0]->common->value, false));
    ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    orr_training_submit(training, &toy_source);
    bool failed = toy_wait(&trouble.seen, 1);
    orr_tile_release(&model->block[2]->group[0]->common->value);
    ck_assert(failed);
    ck_assert_int_eq(orr_training_next(training, &report, true), 1);
    ck_assert_int_eq(report.step, 1);
    expect(orr_training_next(training, &report, true), ORR_EDEVICE, "source of layer 0, microbatch 0, step 2");
    read_all(model, found);
    ck_assert_mem_eq(found, good, sizeof(good));
    orr_training_destroy(training);
    orr_model_destroy(model);
    toys.end = NULL;
}
END_TEST

/* Destroying at once, with failed tasks in flight. */
START_TEST(test_destroy_in_flight)
{
    for (int round = 0; round < 20; round++) {
        struct orr_training_options options = usual("gpipe", 1);
        struct orr_model *model = toy_chain(&one, SCALES);
        struct orr_training *training = orr_training_create(model, &options);
        trouble.id = round % 4;
        trouble.pass = ORR_FORWARD;
        trouble.microbatch = round % 8;
        trouble.step = round % 2;
        trouble.how = BY_CALL;
        toys.end = round < 16 ? make_trouble : NULL;
        for (int s = 0; s < 2; s++)
            orr_training_submit(training, &toy_source);
        orr_training_destroy(training);
        orr_model_destroy(model);
    }
    toys.end = NULL;
}
END_TEST

static void drop_labels(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (toy->id == SCALES + 1 && pass == ORR_FORWARD)
        *o->result = (struct orr_result){0};
}

START_TEST(test_nothing_to_learn)
{
    struct orr_training_options options = usual("h1", 1);
    struct orr_model *model = toy_chain(&one, SCALES);
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step report;

    toys.end = drop_labels;
    expect(orr_training_gradients(training, &toy_source, &report), ORR_EINVAL, "step 1 has no label to learn from");
    orr_training_destroy(training);
    orr_model_destroy(model);
    toys.end = NULL;
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("tape");
    TCase *c = tcase_create("tape");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_diamond);
    tcase_add_test(c, test_uneven_batches);
    tcase_add_test(c, test_steps_repeated);
    tcase_add_test(c, test_tied_parameters_once);
    tcase_add_test(c, test_update_by_hand);
    tcase_add_test(c, test_wrong_descriptions);
    tcase_add_test(c, test_impossible_meshes);
    tcase_add_test(c, test_wrong_options);
    tcase_add_test(c, test_failing_tasks);
    tcase_add_test(c, test_non_finite_loss);
    tcase_add_test(c, test_non_finite_gradient);
    tcase_add_test(c, test_step_before_ends_well);
    tcase_add_test(c, test_destroy_in_flight);
    tcase_add_test(c, test_nothing_to_learn);
    suite_add_tcase(s, c);
    return s;
}
