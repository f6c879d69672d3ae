/* SPDX-License-Identifier: Apache-2.0 */
#include "models/golden.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "meshes.h"

/* A row of examples, [source, target] tokens each, or one text: its labels. */
static int labels_of(const struct golden *g, json_t *row)
{
    int count = 0;

    if (!json_object_get(g->input, "row"))
        return g->seq;
    for (size_t i = 0; i < json_array_size(row); i++)
        count += (int)json_array_size(json_array_get(json_array_get(row, i), 1));
    return count;
}

static void measure_batch(struct golden *g)
{
    json_t *batch = json_object_get(g->input, "batch"), *row = json_object_get(g->input, "row");

    g->seq = row ? (int)json_integer_value(row) : (int)json_array_size(json_array_get(batch, 0)) - 1;
    g->labels = 0;
    for (size_t r = 0; r < json_array_size(batch); r++)
        g->labels += labels_of(g, json_array_get(batch, r));
}

void golden_open(struct golden *g, const char *name)
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
    g->config = orr_config_open(path);
    ck_assert_msg(g->config && orr_family_read(g->config, &g->hyper) == 0, "%s", orr_error());
    g->dtype = ORR_F32;
    measure_batch(g);
}

void golden_close(struct golden *g)
{
    orr_safetensors_destroy(g->file);
    json_decref(g->input);
    orr_config_destroy(g->config);
}

struct orr_model *golden_model(const struct golden *g, const struct orr_mesh *mesh)
{
    struct orr_model *model = orr_family_create(g->config, g->dtype, mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_msg(orr_weights_load(model, g->directory) == 0, "%s", orr_error());
    return model;
}

float *golden_values(const struct orr_safetensors *file, const char *name, int64_t *count)
{
    const struct orr_tensor_info *tensor = orr_safetensors_find(file, name);

    ck_assert_msg(tensor != NULL, "%s", orr_error());
    *count = (int64_t)(tensor->bytes / sizeof(float));
    float *values = malloc(tensor->bytes);
    ck_assert_int_eq(orr_safetensors_read_f32(file, tensor, 0, *count, values), 0);
    return values;
}

double golden_distance(const float *found, const float *golden, int64_t count)
{
    double most = 0, difference = 0;

    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs(golden[i]));
        double d = fabs((double)found[i] - golden[i]);
        difference = isnan(d) ? INFINITY : fmax(difference, d);
    }
    return difference / most;
}

static int tokens_of(json_t *ids, int32_t tokens[64])
{
    int n = (int)json_array_size(ids);

    ck_assert_int_le(n, 64);
    for (int t = 0; t < n; t++)
        tokens[t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
    return n;
}

void golden_source(const struct golden *g, struct orr_predictor *predictor, size_t i)
{
    json_t *sources = json_object_get(g->input, "sources");
    int32_t tokens[64];

    if (sources)
        ck_assert_msg(orr_predictor_source(predictor, tokens, tokens_of(json_array_get(sources, i), tokens)) == 0, "%s", orr_error());
}

void golden_predict(const struct golden *g, const struct orr_mesh *mesh, golden_check *check, void *self)
{
    struct orr_model *model = golden_model(g, mesh);
    struct orr_predictor *predictor = orr_predictor_create(model, g->hyper.vocab, g->hyper.width, 64);
    json_t *sequences = json_object_get(g->input, "logits");

    ck_assert_uint_gt(json_array_size(sequences), 0);
    for (size_t i = 0; i < json_array_size(sequences); i++) {
        int32_t tokens[64];
        char tensor[64];
        int n = tokens_of(json_array_get(sequences, i), tokens);
        golden_source(g, predictor, i);
        float *logits = malloc((size_t)n * (size_t)g->hyper.vocab * sizeof(*logits));
        float *hidden = malloc((size_t)n * (size_t)g->hyper.width * sizeof(*hidden));
        ck_assert_msg(orr_predict(predictor, tokens, n, n, logits, hidden) == 0, "%s", orr_error());
        snprintf(tensor, sizeof(tensor), "logits.%zu", i);
        check(g, tensor, logits, self);
        snprintf(tensor, sizeof(tensor), "last_hidden_state.%zu", i);
        check(g, tensor, hidden, self);
        free(logits);
        free(hidden);
    }
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}

/* Sequence n of the golden batch: all but its last token, and all but its first. */
static void read_batch(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
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

/* Row n of the batch: its examples one behind the other, and padding. */
static void read_examples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    json_t *batch = json_object_get(self, "batch");

    for (int b = 0; b < count; b++) {
        json_t *row = json_array_get(batch, (size_t)(first + (uint64_t)b) % json_array_size(batch));
        int side[2] = {b * seq, b * seq};
        for (size_t i = 0; i <= json_array_size(row); i++)
            for (int s = 0; s < 2; s++) {
                json_t *ids = json_array_get(json_array_get(row, i), (size_t)s);
                int n = ids ? (int)json_array_size(ids) : (b + 1) * seq - side[s];
                int32_t *tokens = field[s ? ORR_FIELD_TOKENS : ORR_FIELD_SOURCE] + side[s];
                int32_t *places = field[s ? ORR_FIELD_PLACES : ORR_FIELD_SOURCE_PLACES] + side[s];
                for (int t = 0; t < n; t++) {
                    int32_t id = ids ? (int32_t)json_integer_value(json_array_get(ids, (size_t)(s && t ? t - 1 : t))) : 0;
                    places[t] = t;
                    tokens[t] = s && t == 0 ? 0 : id;
                    if (s)
                        field[ORR_FIELD_LABELS][side[s] + t] =
                            ids ? (int32_t)json_integer_value(json_array_get(ids, (size_t)t)) : ORR_IGNORE;
                }
                side[s] += n;
            }
    }
}

static struct orr_source source_of(const struct golden *g)
{
    return (struct orr_source){json_object_get(g->input, "row") ? read_examples : read_batch, g->input};
}

static struct orr_training_options options_of(const struct golden *g, int micro_batch)
{
    json_t *batch = json_object_get(g->input, "batch");

    return (struct orr_training_options){
        .batch = (int)json_array_size(batch),
        .micro_batch = micro_batch,
        .seq = g->seq,
        .optimizer = orr_optimizer_default(ORR_ADAMW),
        .seed = 1,
    };
}

void golden_gradients(const struct golden *g, int micro_batch, const struct orr_mesh *mesh, const char *slots,
                      golden_check *check, void *self)
{
    struct orr_model *model = golden_model(g, mesh);
    struct orr_training_options options = options_of(g, micro_batch);
    if (slots)
        ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = source_of(g);
    struct orr_step report;

    ck_assert_msg(training != NULL, "%s", orr_error());
    ck_assert_msg(orr_training_gradients(training, &source, &report) == 0, "%s", orr_error());
    float loss = (float)report.loss;
    check(g, "loss", &loss, self);
    ck_assert_int_eq(report.labels, g->labels);
    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        char tensor[256];
        orr_model_parameter(model, i, &info);
        snprintf(tensor, sizeof(tensor), "grad.%s", info.name);
        float *values = malloc((size_t)info.count * sizeof(*values));
        ck_assert_int_eq(orr_training_read_gradient(training, i, values), 0);
        check(g, tensor, values, self);
        free(values);
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
}

static double number(json_t *run, const char *key)
{
    json_t *value = json_object_get(run, key);

    return value ? json_number_value(value) : 0;
}

static struct orr_training_options options_of_run(const struct golden *g, const char *name)
{
    json_t *run = json_object_get(json_object_get(g->input, "runs"), name);
    struct orr_training_options options = options_of(g, 2);

    ck_assert_ptr_nonnull(run);
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
    ck_assert_int_eq(options.schedule.steps, GOLDEN_STEPS);
    return options;
}

void golden_run(const struct golden *g, const char *name, double loss[GOLDEN_STEPS], double norm[GOLDEN_STEPS])
{
    static const struct orr_mesh one = MESH(1, 1, 1);
    struct orr_training_options options = options_of_run(g, name);
    struct orr_model *model = golden_model(g, &one);
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = source_of(g);
    struct orr_step report;
    int seen = 0;

    ck_assert_msg(training != NULL, "%s", orr_error());
    for (int s = 0; s < GOLDEN_STEPS; s++)
        ck_assert_msg(orr_training_submit(training, &source) == 0, "%s", orr_error());
    while (orr_training_next(training, &report, true) == 1) {
        ck_assert_int_eq(report.step, seen + 1);
        ck_assert(!report.skipped);
        loss[seen] = report.loss;
        norm[seen++] = report.grad_norm;
    }
    ck_assert_int_eq(seen, GOLDEN_STEPS);
    orr_training_destroy(training);
    orr_model_destroy(model);
}
