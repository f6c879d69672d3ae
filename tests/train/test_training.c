/* SPDX-License-Identifier: Apache-2.0 */
/* Training, checkpoints and evaluation with a GPT-2 of two layers. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check_main.h"
#include "files.h"
#include "meshes.h"
#include "train/small_gpt.h"

static const struct orr_mesh one = MESH(1, 1, 1);

/* ---- training ------------------------------------------------------------------------------------------------ */

START_TEST(test_overfits)
{
    struct setup s = usual();
    struct orr_step report = {0};
    s.micro_batch = 4;
    s.options.optimizer.weight_decay = 0;
    s.options.schedule = (struct orr_schedule){ORR_SCHEDULE_COSINE, 1e-2, 1e-3, 5, 150};
    struct orr_model *model = create_model(&s);
    struct orr_training *training = create_training(model, &s);

    for (int step = 0; step < 150; step++)
        ck_assert_msg(orr_training_submit(training, &same_batch) == 0, "%s", orr_error());
    while (orr_training_next(training, &report, true) == 1)
        if (report.step == 1)
            ck_assert_double_eq_tol(report.loss, log(VOCAB), 1);
    ck_assert_int_eq(report.step, 150);
    ck_assert_msg(report.loss < 0.05, "the loss is still %g", report.loss);
    orr_training_destroy(training);
    orr_model_destroy(model);
}
END_TEST

START_TEST(test_equal_runs)
{
    struct setup s = usual();
    s.dropout = 0.1f;
    s.micro_batch = 1;
    s.mesh.dp = 2;
    struct result first = train(s, 8);

    ck_assert_int_ge(orr_worker_count(), 2);
    for (int again = 0; again < 3; again++) {
        struct result r = train(s, 8);
        ck_assert_mem_eq(r.loss, first.loss, sizeof(r.loss));
        ck_assert_msg(same_values(r.values, first.values), "run %d differs", again);
        free(r.values.at);
    }
    /* And the seed counts. */
    s.options.seed++;
    struct result other = train(s, 8);
    ck_assert(!same_values(other.values, first.values));
    free(other.values.at);
    free(first.values.at);
}
END_TEST

/* Stages and slots change when a task runs, never what it computes. */
START_TEST(test_stages_and_slots)
{
    static const char *const policies[] = {"gpipe", "1f1b", "h1", "zb", "1", "5"};
    struct setup s = usual();
    s.dropout = 0.1f;
    struct result first = train(s, 6);

    for (int pp = 1; pp <= 6; pp++) {
        for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
            s.mesh.pp = pp;
            s.slots = policies[i];
            struct result r = train(s, 6);
            ck_assert_msg(same_values(r.values, first.values), "pp %d, slots %s: %g away", pp, s.slots,
                          values_distance(r.values, first.values));
            ck_assert_mem_eq(r.loss, first.loss, sizeof(r.loss));
            free(r.values.at);
        }
    }
    free(first.values.at);
}
END_TEST

static void check_close(struct result r, struct result first, int steps, const char *what)
{
    for (int step = 0; step < steps; step++)
        ck_assert_msg(fabs(r.loss[step] - first.loss[step]) < 1e-5 * first.loss[step], "%s, step %d: %.9g, not %.9g",
                      what, step + 1, r.loss[step], first.loss[step]);
    ck_assert_msg(values_distance(r.values, first.values) < 1e-3, "%s: %g away", what, values_distance(r.values, first.values));
    free(r.values.at);
}

START_TEST(test_micro_batches_and_replicas)
{
    struct setup s = usual();
    s.options.schedule.lr = 1e-3;
    s.options.optimizer.eps = 1e-5f;    /* or Adam makes something of gradients that are nothing but rounding */
    struct result first = train(s, 10);

    for (s.micro_batch = 1; s.micro_batch <= 8; s.micro_batch *= 2)
        check_close(train(s, 10), first, 10, "micro-batch");
    s.micro_batch = 1;
    for (s.mesh.dp = 2; s.mesh.dp <= 8; s.mesh.dp *= 2)
        check_close(train(s, 10), first, 10, "dp");
    s.mesh = (struct orr_mesh)MESH(2, 3, 1);
    check_close(train(s, 10), first, 10, "dp and pp");
    free(first.values.at);
}
END_TEST

START_TEST(test_dropout_knows_no_layout)
{
    static const struct {
        int micro_batch;
        struct orr_mesh mesh;
    } layouts[] = {{1, MESH(1, 1, 1)}, {4, MESH(1, 1, 1)}, {8, MESH(1, 1, 1)}, {1, MESH(8, 1, 1)}, {2, MESH(2, 2, 1)}};
    struct setup s = usual();
    struct result without = train(s, 1);
    s.dropout = 0.2f;
    struct result first = train(s, 1);

    ck_assert(fabs(first.loss[0] - without.loss[0]) > 1e-3 * first.loss[0]);
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        s.micro_batch = layouts[i].micro_batch;
        s.mesh = layouts[i].mesh;
        struct result r = train(s, 1);
        ck_assert_double_eq_tol(r.loss[0], first.loss[0], 1e-6 * first.loss[0]);
        free(r.values.at);
    }
    free(without.values.at);
    free(first.values.at);
}
END_TEST

/* ---- checkpoints --------------------------------------------------------------------------------------------- */

static void check_resumed(struct setup s, enum orr_optimizer_kind kind)
{
    double loss[MOST_STEPS];
    struct orr_model *model;
    struct orr_loss_scale scale, end;
    char *resolved;
    s.dropout = 0.1f;
    s.options.optimizer = orr_optimizer_default(kind);
    s.options.optimizer.weight_decay = 0.1f;
    struct result whole = train(s, 10);

    /* The interrupted run goes on and must not be disturbed by the checkpoint. */
    struct orr_training *training = start_over(&s, &model);
    take_steps(training, &samples, 4, loss);
    ck_assert_msg(save_checkpoint(at("run"), training, 0) == 0, "%s", orr_error());
    take_steps(training, &samples, 6, loss + 4);
    ck_assert_mem_eq(loss, whole.loss, sizeof(whole.loss[0]) * 10);
    ck_assert_int_eq(orr_training_loss_scale(training, &end), 0);
    if (s.dtype == ORR_F16)
        ck_assert_double_eq(end.scale, 8 * 65536);

    /* The same training goes back, too: into a model and an optimizer that know more than they should. */
    resolved = orr_checkpoint_resolve(at("run"));
    ck_assert_ptr_nonnull(resolved);
    for (int fresh = 0; fresh < 2; fresh++) {
        if (fresh) {
            finish_training(training, model);
            if (s.mesh.pp == 1)
                s.mesh.pp = 3;      /* and a checkpoint knows nothing of the layout */
            training = start_over(&s, &model);
        }
        memset(loss, 0, sizeof(loss));
        ck_assert_msg(orr_checkpoint_load(resolved, training) == 0, "%s", orr_error());
        ck_assert_int_eq(orr_training_steps(training), 4);
        take_steps(training, &samples, 6, loss + 4);
        ck_assert_mem_eq(loss + 4, whole.loss + 4, sizeof(whole.loss[0]) * 6);
        struct values values = read_values(model);
        ck_assert_msg(same_values(values, whole.values), "%s in %s differs after resuming", orr_optimizer_name(kind),
                      orr_dtype_label(s.dtype));
        ck_assert_int_eq(orr_training_loss_scale(training, &scale), 0);
        ck_assert_mem_eq(&scale, &end, sizeof(scale));
        free(values.at);
    }
    finish_training(training, model);
    free(resolved);
    free(whole.values.at);
    ck_assert_int_eq(orri_remove_tree(at("run")), 0);
}

START_TEST(test_resuming)
{
    struct setup s = usual();

    for (int kind = ORR_ADAMW; kind <= ORR_RMSPROP; kind++) {
        s.options.schedule.lr = kind == ORR_RMSPROP ? 1e-3 : 1e-2;
        check_resumed(s, (enum orr_optimizer_kind)kind);
    }
    s.mesh.dp = 2;
    s.untied = true;
    check_resumed(s, ORR_ADAMW);
}
END_TEST

/* Whatever the parameters are saved in, a run goes on from those in fp32, and with fp16 from its loss scale, which changes in
 * steps 3, 6 and 9. */
START_TEST(test_resuming_mixed)
{
    struct setup s = usual();

    s.options.loss_scale_window = 3;
    for (int dtype = ORR_BF16; dtype <= ORR_F16; dtype++) {
        for (int saved = ORR_F32; saved <= ORR_F16; saved++) {
            s.dtype = (enum orr_dtype)dtype;
            s.options.checkpoint_dtype = (enum orr_dtype)saved;
            s.mesh.dp = saved == ORR_F16 ? 2 : 1;
            check_resumed(s, saved == ORR_BF16 ? ORR_SGD : ORR_ADAMW);
        }
    }
    s.dtype = ORR_F32;
    check_resumed(s, ORR_ADAMW);
}
END_TEST

static bool same_files(const char *a, const char *b)
{
    struct orri_map x, y;

    ck_assert_msg(orri_map_open(&x, a, false) == 0, "%s", orr_error());
    ck_assert_msg(orri_map_open(&y, b, false) == 0, "%s", orr_error());
    bool same = x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    orri_map_close(&x);
    orri_map_close(&y);
    return same;
}

static void expect_state(struct orr_training *training, struct orr_model *model, int which, struct values expected)
{
    int64_t at = 0;

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        float *state = malloc((size_t)info.count * sizeof(*state));
        ck_assert_int_eq(orr_training_read_state(training, i, which, state), 0);
        ck_assert_msg(memcmp(state, expected.at + at, (size_t)info.count * sizeof(*state)) == 0, "%s of %s differs",
                      orr_training_state_name(training, which), info.name);
        at += info.count;
        free(state);
    }
    ck_assert_int_eq(at, expected.count);
}

/* How far losses may be off that were computed in another layout. In fp32 as far as sums round; else as two runs whose roundings
 * have nothing to do with each other (tests/mpi/equivalence.c). */
static double loss_tolerance(struct setup s, struct result whole, int from, int steps)
{
    double most = 0;

    if (s.dtype == ORR_F32)
        return 1e-5 * whole.loss[0];
    s.dtype = ORR_F32;
    struct result exact = train(s, steps);
    for (int step = from; step < steps; step++)
        most = fmax(most, fabs(exact.loss[step] - whole.loss[step]));
    free(exact.values.at);
    return 2 * sqrt(5) * most;
}

/* Each layout reads what the one before it has written, and writes the same bytes. */
START_TEST(test_layouts_share_checkpoints)
{
    static const struct {
        bool untied;
        enum orr_dtype dtype, saved;
    } models[] = {{false, ORR_F32, ORR_F32}, {true, ORR_F32, ORR_F32}, {false, ORR_BF16, ORR_F32}, {false, ORR_F16, ORR_BF16}};
    static const struct orr_mesh meshes[] = {
        {.dp = 1, .pp = 1, .tp = 2, .ranks = 1},
        {.dp = 2, .pp = 2, .tp = 1, .ranks = 1},
        {.dp = 1, .pp = 2, .tp = 2, .ranks = 1, .stages = 4},
        {.dp = 2, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true, .zero = 3},
        {.dp = 1, .pp = 1, .tp = 1, .ranks = 1},
    };
    struct setup s = usual();
    struct orr_model *model;
    double loss[MOST_STEPS];
    s.untied = models[_i].untied;
    s.dtype = models[_i].dtype;
    s.options.checkpoint_dtype = models[_i].saved;
    struct result whole = train(s, 6);
    double most = loss_tolerance(s, whole, 3, 6);

    struct orr_training *training = start_over(&s, &model);
    take_steps(training, &samples, 3, loss);
    ck_assert_msg(save_checkpoint(at("first"), training, 0) == 0, "%s", orr_error());
    struct values values = read_values(model), state[2] = {values, values};
    for (int which = 0; which < 2; which++) {
        state[which].at = malloc((size_t)values.count * sizeof(float));
        int64_t n = 0;
        for (int i = 0; i < orr_model_parameter_count(model); i++) {
            struct orr_parameter_info info;
            orr_model_parameter(model, i, &info);
            ck_assert_int_eq(orr_training_read_state(training, i, which, state[which].at + n), 0);
            n += info.count;
        }
    }
    finish_training(training, model);

    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++) {
        char *before = orr_checkpoint_resolve(m == 0 ? at("first") : at("second"));
        s.mesh = meshes[m];
        training = start_over(&s, &model);
        ck_assert_msg(orr_checkpoint_load(before, training) == 0, "%s", orr_error());
        struct values found = read_values(model);
        ck_assert_msg(same_values(found, values), "mesh %zu has read other parameters", m);
        expect_state(training, model, 0, state[0]);
        expect_state(training, model, 1, state[1]);
        ck_assert_msg(save_checkpoint(at("second"), training, 0) == 0, "%s", orr_error());
        ck_assert_msg(same_files(at("first/latest/model.safetensors"), at("second/latest/model.safetensors")),
                      "mesh %zu", m);
        ck_assert_msg(same_files(at("first/latest/optimizer.safetensors"), at("second/latest/optimizer.safetensors")),
                      "mesh %zu", m);
        if (s.options.checkpoint_dtype != ORR_F32)
            ck_assert_msg(same_files(at("first/latest/master.safetensors"), at("second/latest/master.safetensors")),
                          "mesh %zu", m);
        take_steps(training, &samples, 3, loss);
        for (int i = 0; i < 3; i++)
            ck_assert_msg(fabs(loss[i] - whole.loss[3 + i]) < most, "mesh %zu, step %d: %g, not %g within %g", m, 4 + i, loss[i],
                          whole.loss[3 + i], most);
        finish_training(training, model);
        free(found.at);
        free(before);
    }
    free(values.at);
    free(state[0].at);
    free(state[1].at);
    free(whole.values.at);
}
END_TEST

static bool there(const char *name)
{
    struct stat st;

    return stat(at(name), &st) == 0;
}

static bool latest_is(const char *name)
{
    char target[64];
    ssize_t n = readlink(at("latest"), target, sizeof(target) - 1);

    target[n > 0 ? n : 0] = '\0';
    return strcmp(target, name) == 0 && there("latest/model.safetensors");
}

START_TEST(test_keeping)
{
    struct setup s = usual();
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);
    double loss[MOST_STEPS];

    for (int step = 1; step <= 4; step++) {
        take_steps(training, &samples, 1, loss);
        ck_assert_msg(save_checkpoint(folder, training, 2) == 0, "%s", orr_error());
    }
    ck_assert(!there("step-00000002") && there("step-00000003") && there("step-00000004"));
    ck_assert(latest_is("step-00000004"));
    ck_assert_int_eq(entries(folder), 3);

    /* What only looks like a checkpoint is left alone; what a crash left is not. */
    ck_assert_int_eq(mkdir(at("step-1"), 0777), 0);
    ck_assert_int_eq(mkdir(at("step-00000001x"), 0777), 0);
    ck_assert_int_eq(mkdir(at("step-00000009.tmp"), 0777), 0);
    put_text(at("step-00000009.tmp/model.safetensors"), "half");
    take_steps(training, &samples, 1, loss);
    ck_assert_msg(save_checkpoint(folder, training, 1) == 0, "%s", orr_error());
    ck_assert(there("step-00000005") && there("step-1") && there("step-00000001x"));
    ck_assert_int_eq(entries(folder), 4);

    /* Going back: what is later is another run's now, and stays. */
    orr_training_resume(training, 2, 2 * BATCH);
    ck_assert_msg(save_checkpoint(folder, training, 1) == 0, "%s", orr_error());
    ck_assert(there("step-00000002") && there("step-00000005"));
    ck_assert(latest_is("step-00000002"));
    take_steps(training, &samples, 1, loss);
    ck_assert_int_eq(save_checkpoint(folder, training, 0), 0);
    ck_assert(there("step-00000002") && there("step-00000003"));
    /* The same step once more replaces it. */
    ck_assert_int_eq(save_checkpoint(folder, training, 0), 0);
    ck_assert(latest_is("step-00000003"));
    finish_training(training, model);
}
END_TEST

static char *saved_checkpoint(const struct setup *s)
{
    struct orr_model *model;
    struct orr_training *training = start_over(s, &model);
    double loss[MOST_STEPS];

    take_steps(training, &samples, 2, loss);
    ck_assert_msg(save_checkpoint(folder, training, 0) == 0, "%s", orr_error());
    finish_training(training, model);
    return orr_checkpoint_resolve(folder);
}

/* Writes the parameters anew, all but `left_out`, the first dimension of `changed` doubled, and `more`. */
static void rewrite(const char *directory, const char *left_out, const char *changed, const char *more)
{
    struct orr_model *model = create_model(&(struct setup){.mesh = one});
    struct orr_tensor_spec specs[64];
    struct orr_parameter_info info;
    char path[PATH_MAX];
    int count = 0;

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        orr_model_parameter(model, i, &info);
        if (left_out && strcmp(info.name, left_out) == 0)
            continue;
        bool change = changed && strcmp(info.name, changed) == 0;
        specs[count++] =
            (struct orr_tensor_spec){info.name, ORR_F32, info.ndim, {info.shape[0] * (change ? 2 : 1), info.shape[1]}};
    }
    if (more)
        specs[count++] = (struct orr_tensor_spec){more, ORR_F32, 1, {3}};
    snprintf(path, sizeof(path), "%s/model.safetensors", directory);
    struct orr_safetensors_writer *writer = orr_safetensors_writer_create(path, specs, count);
    ck_assert_msg(writer != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_safetensors_writer_finish(writer), 0);
    orr_safetensors_writer_destroy(writer);
    orr_model_destroy(model);
}

static void expect_load(struct setup s, const char *directory, int code, const char *what)
{
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);

    int status = orr_checkpoint_load(directory, training);
    ck_assert_msg(status == code, "%d: %s", status, orr_error());
    expect_error(code, directory, what);
    ck_assert_int_eq(orr_training_steps(training), 0);
    finish_training(training, model);
}

START_TEST(test_bad_checkpoints)
{
    struct setup s = usual();
    char *directory = saved_checkpoint(&s), path[PATH_MAX];
    struct orr_model *model;
    struct orr_training *training;

    ck_assert_ptr_nonnull(directory);
    s.options.optimizer = orr_optimizer_default(ORR_SGD);
    expect_load(s, directory, ORR_ENOENT, "tensor 'transformer.wte.weight.momentum_buffer' is missing");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "--optimizer"));
    s.options.optimizer = orr_optimizer_default(ORR_RMSPROP);
    expect_load(s, directory, ORR_ENOENT, "tensor 'transformer.wte.weight.square_avg' is missing");
    s = usual();
    s.untied = true;
    expect_load(s, directory, ORR_ENOENT, "tensor 'lm_head.weight' is missing");
    s = usual();

    rewrite(directory, "transformer.h.1.mlp.c_fc.bias", NULL, NULL);
    expect_load(s, directory, ORR_ENOENT, "tensor 'transformer.h.1.mlp.c_fc.bias' is missing");
    rewrite(directory, NULL, "transformer.h.0.attn.c_attn.weight", NULL);
    expect_load(s, directory, ORR_EFORMAT,
                "tensor 'transformer.h.0.attn.c_attn.weight' has shape [64,96], not [32,96]");
    rewrite(directory, NULL, NULL, "transformer.h.2.ln_1.bias");
    expect_load(s, directory, ORR_EFORMAT, "tensor 'transformer.h.2.ln_1.bias' is none of this model's");
    /* What old files hold beside is passed over. */
    rewrite(directory, NULL, NULL, "h.0.attn.masked_bias");
    training = start_over(&s, &model);
    ck_assert_msg(orr_checkpoint_load(directory, training) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_training_steps(training), 2);
    finish_training(training, model);

    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", directory);
    put_text(path, "{\"weight_map\": {}}");
    expect_load(s, directory, ORR_EFORMAT, "weight_map names no file");
    put_text(path, "{\"weight_map\": {\"transformer.wte.weight\": \"../model.safetensors\"}}");
    expect_load(s, directory, ORR_EFORMAT, "names no file beside it");
    ck_assert_int_eq(unlink(path), 0);

    snprintf(path, sizeof(path), "%s/trainer.json", directory);
    put_text(path, "{\"step\": -1}");
    expect_load(s, directory, ORR_EFORMAT, "step");
    put_text(path, "{}");
    expect_load(s, directory, ORR_ENOENT, "step");
    ck_assert_int_eq(unlink(path), 0);
    expect_load(s, directory, ORR_ENOENT, "trainer.json: no such file");
    free(directory);

    ck_assert_ptr_null(orr_checkpoint_resolve(at("nowhere")));
    expect_error(ORR_ENOENT, at("nowhere"), "is no checkpoint directory");
}
END_TEST

START_TEST(test_saving_fails)
{
    struct setup s = usual();
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);
    double loss[MOST_STEPS];
    char below[PATH_MAX];

    take_steps(training, &samples, 1, loss);
    ck_assert_int_eq(save_checkpoint(folder, training, 1), 0);
    put_text(at("file"), "text");
    snprintf(below, sizeof(below), "%s/out", at("file"));
    ck_assert_int_eq(save_checkpoint(below, training, 1), ORR_EIO);
    expect_error(ORR_EIO, at("file"), "Not a directory");

    /* A file in the way of the new directory: nothing of the old one changes, and nothing is left behind. */
    take_steps(training, &samples, 1, loss);
    put_text(at("step-00000002"), "in the way");
    ck_assert_int_eq(save_checkpoint(folder, training, 1), ORR_EIO);
    ck_assert(latest_is("step-00000001"));
    ck_assert(holds(at("step-00000002"), "in the way"));
    ck_assert_int_eq(entries(folder), 4);
    struct orr_model *fresh;
    struct orr_training *other = start_over(&s, &fresh);
    ck_assert_msg(orr_checkpoint_load(at("latest"), other) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_training_steps(other), 1);
    finish_training(other, fresh);
    ck_assert_int_eq(unlink(at("step-00000002")), 0);
    ck_assert_int_eq(save_checkpoint(folder, training, 1), 0);
    ck_assert(latest_is("step-00000002"));
    finish_training(training, model);
}
END_TEST

/* A run that has failed cannot be kept. */
static void read_far_away(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *labels = field[ORR_FIELD_LABELS];

    read_samples(self, first, count, seq, field);
    for (int i = 0; first >= 2 * BATCH && i < count * seq; i++)
        labels[i] = ORR_IGNORE;
}

START_TEST(test_failed_run_is_not_saved)
{
    struct setup s = usual();
    struct orr_source source = {read_far_away, NULL};
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);

    for (int step = 0; step < 2; step++) {
        ck_assert_int_eq(orr_training_submit(training, &source), 0);
        ck_assert_int_eq(save_checkpoint(folder, training, 0), 0);
    }
    ck_assert_int_eq(orr_training_submit(training, &source), 0);
    ck_assert_int_eq(save_checkpoint(folder, training, 0), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "step 3 has no label to learn from"));
    ck_assert(latest_is("step-00000002"));
    ck_assert_int_eq(entries(folder), 3);
    finish_training(training, model);
}
END_TEST

/* ---- evaluation ---------------------------------------------------------------------------------------------- */

/* The loss over the samples' labels, from the predictor's logits. */
static struct orr_result loss_by_hand(struct orr_model *model, int64_t count, int seq)
{
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, POSITIONS);
    int32_t tokens[POSITIONS], labels[POSITIONS];
    float logits[POSITIONS * VOCAB];
    struct orr_result result = {0};

    for (int64_t n = 0; n < count; n++) {
        read_samples(NULL, (uint64_t)n, 1, seq, (int32_t *const[ORR_FIELDS]){tokens, labels});
        ck_assert_msg(orr_predict(predictor, tokens, seq, seq, logits, NULL) == 0, "%s", orr_error());
        for (int t = 0; t < seq; t++) {
            const float *z = logits + t * VOCAB;
            double sum = 0;
            if (labels[t] == ORR_IGNORE)
                continue;
            for (int v = 0; v < VOCAB; v++)
                sum += exp((double)z[v]);
            result.loss += log(sum) - (double)z[labels[t]];
            result.labels++;
        }
    }
    orr_predictor_destroy(predictor);
    return result;
}

/* Behind the end of the source there are no labels. */
static void read_first_samples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *labels = field[ORR_FIELD_LABELS];
    const int64_t *end_of_source = self;

    read_samples(NULL, first, count, seq, field);
    for (int b = 0; b < count; b++)
        for (int t = 0; (int64_t)first + b >= *end_of_source && t < seq; t++)
            labels[b * seq + t] = ORR_IGNORE;
}

START_TEST(test_evaluation)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(3, 1, 1), MESH(1, 3, 1)};
    static const int64_t counts[] = {1, 3, 67, 135};     /* of groups of 32 microbatches: up to three */

    for (size_t g = 0; g < sizeof(meshes) / sizeof(meshes[0]); g++) {
        struct setup s = usual();
        s.mesh = meshes[g];
        s.dropout = 0.5f;      /* plays no part */
        struct orr_model *model = create_model(&s);
        struct orr_evaluation *evaluation = orr_evaluation_create(model, 2, SEQ);
        ck_assert_ptr_nonnull(evaluation);
        for (int again = 0; again < 2; again++) {
            for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
                int64_t count = counts[i];
                struct orr_source source = {read_first_samples, &count};
                struct orr_result found, expected = loss_by_hand(model, count, SEQ);
                ck_assert_int_eq(orr_evaluation_run(evaluation, &source, count, &found), 0);
                ck_assert_int_eq(found.labels, expected.labels);
                ck_assert_double_eq_tol(found.loss, expected.loss, 1e-6 * expected.loss);
            }
        }
        orr_evaluation_destroy(evaluation);
        orr_model_destroy(model);
    }
}
END_TEST

/* Evaluation between steps sees the steps before and changes nothing. */
START_TEST(test_evaluation_between_steps)
{
    struct setup s = usual();
    struct result undisturbed = train(s, 4);
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);
    struct orr_evaluation *evaluation = orr_evaluation_create(model, 4, SEQ);
    struct orr_result before, after;

    ck_assert_int_eq(orr_evaluation_run(evaluation, &samples, 8, &before), 0);
    for (int step = 0; step < 4; step++) {
        ck_assert_int_eq(orr_training_submit(training, &samples), 0);
        ck_assert_int_eq(orr_evaluation_run(evaluation, &samples, 8, &after), 0);
        ck_assert_double_ne(after.loss, before.loss);
        before = after;
    }
    struct values values = read_values(model);
    ck_assert(same_values(values, undisturbed.values));
    free(values.at);
    free(undisturbed.values.at);
    orr_evaluation_destroy(evaluation);
    finish_training(training, model);
}
END_TEST

static void start(void)
{
    /* More workers than there may be cores: the order of tasks must not matter. */
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 4}) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("training");
    TCase *c = tcase_create("training"), *files = tcase_create("checkpoints");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_overfits);
    tcase_add_test(c, test_equal_runs);
    tcase_add_test(c, test_stages_and_slots);
    tcase_add_test(c, test_micro_batches_and_replicas);
    tcase_add_test(c, test_dropout_knows_no_layout);
    tcase_add_test(c, test_evaluation);
    tcase_add_test(c, test_evaluation_between_steps);
    suite_add_tcase(s, c);

    tcase_add_unchecked_fixture(files, start, orr_shutdown);
    tcase_add_checked_fixture(files, files_setup, files_teardown);
    tcase_set_timeout(files, 120);
    tcase_add_test(files, test_resuming);
    tcase_add_test(files, test_resuming_mixed);
    tcase_add_loop_test(files, test_layouts_share_checkpoints, 0, 4);
    tcase_add_test(files, test_keeping);
    tcase_add_test(files, test_bad_checkpoints);
    tcase_add_test(files, test_saving_fails);
    tcase_add_test(files, test_failed_run_is_not_saved);
    suite_add_tcase(s, files);
    return s;
}
