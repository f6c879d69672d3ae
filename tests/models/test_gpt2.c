/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2 against PyTorch: logits, gradients and 20 steps of every optimizer (tests/golden/README.md). */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <models/gpt2.h>
#include <orrery/orrery.h>

#include "check_main.h"
#include "meshes.h"

/* PyTorch computed in double from the same fp32 weights; the same program in fp32 is 1e-6 away from it. */
#define TOLERANCE 1e-5
#define LOSS_TOLERANCE 1e-4

static const struct orr_mesh one = MESH(1, 1, 1);

struct golden {
    struct orr_safetensors *file;
    json_t *input;
    struct orr_gpt2 gpt;
    char directory[512];
};

static void golden_open(struct golden *g, const char *name)
{
    const char *root = getenv("srcdir");
    char path[600];

    snprintf(g->directory, sizeof(g->directory), "%s/tests/golden/%s", root ? root : ".", name);
    snprintf(path, sizeof(path), "%s/golden.safetensors", g->directory);
    g->file = orr_safetensors_open(path);
    ck_assert_msg(g->file != NULL, "%s", orr_error());
    snprintf(path, sizeof(path), "%s/input.json", g->directory);
    g->input = json_load_file(path, 0, NULL);
    ck_assert_ptr_nonnull(g->input);
    snprintf(path, sizeof(path), "%s/config.json", g->directory);
    struct orr_config *config = orr_config_open(path);
    ck_assert_msg(config && orr_gpt2_read(config, &g->gpt) == 0, "%s", orr_error());
    orr_config_destroy(config);
}

static void golden_close(struct golden *g)
{
    orr_safetensors_destroy(g->file);
    json_decref(g->input);
}

static struct orr_model *load(const struct golden *g, const struct orr_mesh *mesh)
{
    struct orr_model *model = orr_gpt2_create(&g->gpt, mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_msg(orr_weights_load(model, g->directory) == 0, "%s", orr_error());
    return model;
}

static float *golden_values(const struct golden *g, const char *name, int64_t *count)
{
    const struct orr_tensor_info *tensor = orr_safetensors_find(g->file, name);

    ck_assert_msg(tensor != NULL, "%s", orr_error());
    *count = (int64_t)(tensor->bytes / sizeof(float));
    float *values = malloc(tensor->bytes);
    ck_assert_int_eq(orr_safetensors_read_f32(g->file, tensor, 0, *count, values), 0);
    return values;
}

/* The largest difference, relative to the largest golden value. */
static double distance(const float *found, const float *golden, int64_t count)
{
    double most = 0, difference = 0;

    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs(golden[i]));
        double d = fabs((double)found[i] - golden[i]);
        difference = isnan(d) ? INFINITY : fmax(difference, d);
    }
    return difference / most;
}

static void check_close(const struct golden *g, const char *name, const float *found)
{
    int64_t count;
    float *values = golden_values(g, name, &count);
    double d = distance(found, values, count);

    ck_assert_msg(d < TOLERANCE, "%s is %g away", name, d);
    free(values);
}

/* ---- logits ------------------------------------------------------------------------------------------------ */

static void check_logits(const char *name)
{
    struct golden g;
    golden_open(&g, name);
    struct orr_model *model = load(&g, &one);
    struct orr_predictor *predictor = orr_predictor_create(model, g.gpt.vocab_size, g.gpt.n_embd, g.gpt.n_positions);
    json_t *sequences = json_object_get(g.input, "logits");

    ck_assert_uint_gt(json_array_size(sequences), 0);
    for (size_t i = 0; i < json_array_size(sequences); i++) {
        json_t *ids = json_array_get(sequences, i);
        int n = (int)json_array_size(ids);
        int32_t tokens[64];
        char tensor[64];
        for (int t = 0; t < n; t++)
            tokens[t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
        float *logits = malloc((size_t)n * (size_t)g.gpt.vocab_size * sizeof(*logits));
        float *hidden = malloc((size_t)n * (size_t)g.gpt.n_embd * sizeof(*hidden));
        ck_assert_msg(orr_predict(predictor, tokens, n, n, logits, hidden) == 0, "%s", orr_error());
        snprintf(tensor, sizeof(tensor), "logits.%zu", i);
        check_close(&g, tensor, logits);
        snprintf(tensor, sizeof(tensor), "last_hidden_state.%zu", i);
        check_close(&g, tensor, hidden);
        free(logits);
        free(hidden);
    }
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
    golden_close(&g);
}

START_TEST(test_logits)
{
    check_logits("gpt2-small");
}
END_TEST

START_TEST(test_logits_untied)
{
    check_logits("gpt2-untied");
}
END_TEST

/* ---- gradients and training ----------------------------------------------------------------------------------- */

/* Sequence n of the golden batch: all but its last token, and all but its first. */
static void read_batch(void *self, uint64_t first, int count, int seq, int32_t *tokens, int32_t *labels)
{
    json_t *batch = json_object_get(self, "batch");
    size_t sequences = json_array_size(batch);

    for (int b = 0; b < count; b++) {
        json_t *ids = json_array_get(batch, (size_t)(first + (uint64_t)b) % sequences);
        for (int t = 0; t < seq; t++) {
            tokens[b * seq + t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
            labels[b * seq + t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t + 1));
        }
    }
}

static struct orr_training_options options_of(const struct golden *g, int micro_batch)
{
    json_t *batch = json_object_get(g->input, "batch");

    return (struct orr_training_options){
        .batch = (int)json_array_size(batch),
        .micro_batch = micro_batch,
        .seq = (int)json_array_size(json_array_get(batch, 0)) - 1,
        .optimizer = orr_optimizer_default(ORR_ADAMW),
        .seed = 1,
    };
}

static void check_gradients(const char *name, int micro_batch, struct orr_mesh mesh, const char *slots)
{
    struct golden g;
    golden_open(&g, name);
    struct orr_model *model = load(&g, &mesh);
    struct orr_training_options options = options_of(&g, micro_batch);
    if (slots)
        ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = {read_batch, g.input};
    struct orr_step report;

    ck_assert_msg(training != NULL, "%s", orr_error());
    ck_assert_msg(orr_training_gradients(training, &source, &report) == 0, "%s", orr_error());
    float loss = (float)report.loss;
    check_close(&g, "loss", &loss);
    ck_assert_int_eq(report.labels, options.batch * options.seq);
    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        char tensor[256];
        orr_model_parameter(model, i, &info);
        snprintf(tensor, sizeof(tensor), "grad.%s", info.name);
        float *values = malloc((size_t)info.count * sizeof(*values));
        ck_assert_int_eq(orr_training_read_gradient(training, i, values), 0);
        check_close(&g, tensor, values);
        free(values);
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
    golden_close(&g);
}

START_TEST(test_gradients)
{
    check_gradients("gpt2-small", 4, one, NULL);
    check_gradients("gpt2-small", 1, one, NULL);
    check_gradients("gpt2-untied", 2, one, NULL);
}
END_TEST

START_TEST(test_gradients_on_meshes)
{
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(2, 1, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(4, 1, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 2, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 6, 1), "zb");
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(2, 3, 1), "h1");
}
END_TEST

START_TEST(test_gradients_with_every_slot_policy)
{
    static const char *const policies[] = {"gpipe", "1f1b", "h1", "zb", "1", "7"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        check_gradients("gpt2-small", 1, one, policies[i]);
        check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 3, 1), policies[i]);
    }
}
END_TEST

static double number(json_t *run, const char *key)
{
    json_t *value = json_object_get(run, key);

    return value ? json_number_value(value) : 0;
}

static void check_run(const char *name, const char *norms)
{
    struct golden g;
    golden_open(&g, "gpt2-small");
    json_t *run = json_object_get(json_object_get(g.input, "runs"), name);
    ck_assert_ptr_nonnull(run);
    struct orr_training_options options = options_of(&g, 2);
    ck_assert_int_eq(
        orr_optimizer_parse(json_string_value(json_object_get(run, "optimizer")), &options.optimizer.kind), 0);
    ck_assert_int_eq(orr_schedule_parse(json_string_value(json_object_get(run, "schedule")), &options.schedule.kind),
                     0);
    bool sgd = options.optimizer.kind == ORR_SGD, rmsprop = options.optimizer.kind == ORR_RMSPROP;
    options.optimizer.beta1 = (float)number(run, sgd ? "momentum" : "beta1");
    options.optimizer.beta2 = (float)number(run, rmsprop ? "alpha" : "beta2");
    options.optimizer.eps = (float)number(run, "eps");
    options.optimizer.weight_decay = (float)number(run, "weight_decay");
    options.optimizer.clip = (float)number(run, "clip");
    options.schedule.lr = number(run, "lr");
    options.schedule.min_lr = number(run, "min_lr");
    options.schedule.warmup = (int64_t)number(run, "warmup");
    options.schedule.steps = (int64_t)number(run, "steps");

    struct orr_model *model = load(&g, &one);
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = {read_batch, g.input};
    int64_t count, norm_count = 0;
    float *losses = golden_values(&g, name, &count);
    float *norm = norms ? golden_values(&g, norms, &norm_count) : NULL;
    ck_assert_msg(training != NULL, "%s", orr_error());
    ck_assert_int_eq(count, 20);
    for (int64_t s = 0; s < count; s++)
        ck_assert_msg(orr_training_submit(training, &source) == 0, "%s", orr_error());
    struct orr_step report;
    int64_t seen = 0;
    while (orr_training_next(training, &report, true) == 1) {
        ck_assert_int_eq(report.step, ++seen);
        ck_assert_msg(fabs(report.loss - losses[report.step - 1]) < LOSS_TOLERANCE, "%s step %lld: %.6f, not %.6f",
                      name, (long long)report.step, report.loss, losses[report.step - 1]);
        if (norm)
            ck_assert_double_eq_tol(report.grad_norm, norm[report.step - 1], 1e-4 * norm[report.step - 1]);
    }
    ck_assert_int_eq(seen, count);
    free(losses);
    free(norm);
    orr_training_destroy(training);
    orr_model_destroy(model);
    golden_close(&g);
}

START_TEST(test_adamw)
{
    check_run("losses", NULL);
}
END_TEST

START_TEST(test_adamw_clipped)
{
    check_run("losses_clip", "grad_norms");
}
END_TEST

START_TEST(test_adam)
{
    check_run("losses_adam", NULL);
}
END_TEST

START_TEST(test_sgd)
{
    check_run("losses_sgd", NULL);
}
END_TEST

START_TEST(test_rmsprop)
{
    check_run("losses_rmsprop", NULL);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("gpt2");
    TCase *c = tcase_create("golden");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_logits);
    tcase_add_test(c, test_logits_untied);
    tcase_add_test(c, test_gradients);
    tcase_add_test(c, test_gradients_on_meshes);
    tcase_add_test(c, test_gradients_with_every_slot_policy);
    tcase_add_test(c, test_adamw);
    tcase_add_test(c, test_adamw_clipped);
    tcase_add_test(c, test_adam);
    tcase_add_test(c, test_sgd);
    tcase_add_test(c, test_rmsprop);
    suite_add_tcase(s, c);
    return s;
}
