/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2 on the device against PyTorch: logits, gradients and 20 steps of AdamW (tests/golden/README.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <models/gpt2.h>

#include "tools/selftest.h"
#include "tools/tools.h"

enum { STEPS = 20, MOST_TOKENS = 64 };

/* In fp32 everything is to be within this, relative to the largest exact value. In bf16 as near as PyTorch in bf16, whose errors
 * lie beside the exact numbers; in fp16, which has three bits more, an eighth of that. Of a number that is alone, not the largest
 * of many, twice as far: tests/models/test_precision.c. */
#define FP32_BOUND 1e-4

static const struct {
    enum orr_dtype dtype;
    double factor;              /* of PyTorch's errors in bf16; 0: FP32_BOUND */
} precisions[] = {{ORR_F32, 0}, {ORR_BF16, 1}, {ORR_F16, 1.0 / 8}};

struct golden {
    const char *folder;
    json_t *input;
    struct orr_safetensors *exact, *errors;
    struct orr_gpt2 gpt;
    double factor;
};

/* Of several tensors the one that is nearest to its bound, or beyond. */
struct worst {
    double error, bound;
    char what[128];
};

static int open_file(const char *folder, const char *name, struct orr_safetensors **file)
{
    char path[4200];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    *file = orr_safetensors_open(path);
    return *file ? ORR_OK : orr_error_code();
}

static int open_golden(struct golden *g, const char *folder)
{
    char path[4200];
    json_error_t error;

    g->folder = folder;
    ORR_TRY(open_file(folder, "golden.safetensors", &g->exact));
    ORR_TRY(open_file(folder, "bf16.safetensors", &g->errors));
    snprintf(path, sizeof(path), "%s/input.json", folder);
    g->input = json_load_file(path, 0, &error);
    if (!g->input)
        return command_fail(ORR_EFORMAT, "%s: %s", path, error.text);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    struct orr_config *config = orr_config_open(path);
    int status = config ? orr_gpt2_read(config, &g->gpt) : orr_error_code();
    orr_config_destroy(config);
    return status;
}

static void close_golden(struct golden *g)
{
    orr_safetensors_destroy(g->exact);
    orr_safetensors_destroy(g->errors);
    json_decref(g->input);
}

static int open_golden_model(const struct golden *g, struct orr_model **model)
{
    static const struct orr_mesh mesh = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};

    *model = orr_gpt2_create(&g->gpt, &mesh);
    return *model ? orr_weights_load(*model, g->folder) : orr_error_code();
}

/* ---- comparing ------------------------------------------------------------------------------------------------------ */

static float *values_of(struct orr_safetensors *file, const char *name, int64_t *count)
{
    const struct orr_tensor_info *tensor = orr_safetensors_find(file, name);
    float *values = tensor ? malloc(tensor->bytes) : NULL;

    *count = tensor ? (int64_t)(tensor->bytes / sizeof(*values)) : 0;
    if (values && orr_safetensors_read_f32(file, tensor, 0, *count, values) == 0)
        return values;
    free(values);
    return NULL;
}

static int bound_of(const struct golden *g, const char *name, bool single, double *bound)
{
    int64_t count;
    float *theirs = values_of(g->errors, name, &count);

    if (!theirs)
        return orr_error_code();
    *bound = g->factor == 0 ? FP32_BOUND : g->factor * theirs[0] * (single ? 2 : 1);
    free(theirs);
    return ORR_OK;
}

static void note(struct worst *worst, const char *what, double error, double bound)
{
    if (worst->bound != 0 && error / bound <= worst->error / worst->bound)
        return;
    worst->error = error;
    worst->bound = bound;
    snprintf(worst->what, sizeof(worst->what), "%s", what);
}

static int compare(const struct golden *g, const char *name, int64_t count, const float *found, struct worst *worst)
{
    int64_t there;
    double bound = 0;
    float *exact = values_of(g->exact, name, &there);
    int status = exact ? ORR_OK : orr_error_code();

    if (status == 0 && there != count)
        status = command_fail(ORR_EFORMAT, "%s: %s has another size", g->folder, name);
    if (status == 0)
        status = bound_of(g, name, count == 1, &bound);
    if (status == 0)
        note(worst, name, selftest_distance(count, found, exact), bound);
    free(exact);
    return status;
}

/* ---- what is compared -------------------------------------------------------------------------------------------------- */

static int check_sequence(const struct golden *g, struct orr_predictor *predictor, size_t i, struct worst *worst)
{
    json_t *ids = json_array_get(json_object_get(g->input, "logits"), i);
    int n = (int)json_array_size(ids);
    int32_t tokens[MOST_TOKENS];
    float *logits = malloc(MOST_TOKENS * (size_t)(g->gpt.vocab_size + g->gpt.n_embd) * sizeof(*logits));
    float *hidden = logits + (size_t)MOST_TOKENS * (size_t)g->gpt.vocab_size;
    char name[64];
    int status = logits ? ORR_OK : command_fail(ORR_ENOMEM, "selftest: no room for logits");

    if (status == 0 && n > MOST_TOKENS)
        status = command_fail(ORR_EFORMAT, "%s: a sequence of %d tokens", g->folder, n);
    for (int t = 0; status == 0 && t < n; t++)
        tokens[t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
    if (status == 0)
        status = orr_predict(predictor, tokens, n, n, logits, hidden);
    snprintf(name, sizeof(name), "logits.%zu", i);
    if (status == 0)
        status = compare(g, name, (int64_t)n * g->gpt.vocab_size, logits, worst);
    snprintf(name, sizeof(name), "last_hidden_state.%zu", i);
    if (status == 0)
        status = compare(g, name, (int64_t)n * g->gpt.n_embd, hidden, worst);
    free(logits);
    return status;
}

static int check_logits(const struct golden *g, struct orr_model *model, struct worst *worst)
{
    struct orr_predictor *predictor = orr_predictor_create(model, g->gpt.vocab_size, g->gpt.n_embd, g->gpt.n_positions);
    int status = predictor ? ORR_OK : orr_error_code();

    for (size_t i = 0; status == 0 && i < json_array_size(json_object_get(g->input, "logits")); i++)
        status = check_sequence(g, predictor, i, worst);
    orr_predictor_destroy(predictor);
    return status;
}

/* Of each sequence all but the last token are the input, and all but the first the labels. */
static void read_batch(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    json_t *batch = json_object_get(self, "batch");

    for (int b = 0; b < count; b++) {
        json_t *ids = json_array_get(batch, (size_t)(first + (uint64_t)b) % json_array_size(batch));
        for (int t = 0; t < seq; t++) {
            tokens[b * seq + t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
            labels[b * seq + t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t + 1));
        }
    }
}

/* As the run of that name says. */
static struct orr_training_options options_of(const struct golden *g, const char *name)
{
    json_t *batch = json_object_get(g->input, "batch"), *run = json_object_get(json_object_get(g->input, "runs"), name);
    struct orr_training_options o = {.batch = (int)json_array_size(batch), .micro_batch = 2,
                                     .seq = (int)json_array_size(json_array_get(batch, 0)) - 1,
                                     .optimizer = orr_optimizer_default(ORR_ADAMW), .seed = 1};
    const char *schedule = json_string_value(json_object_get(run, "schedule"));

    o.optimizer.beta1 = (float)json_number_value(json_object_get(run, "beta1"));
    o.optimizer.beta2 = (float)json_number_value(json_object_get(run, "beta2"));
    o.optimizer.eps = (float)json_number_value(json_object_get(run, "eps"));
    o.optimizer.weight_decay = (float)json_number_value(json_object_get(run, "weight_decay"));
    o.optimizer.clip = (float)json_number_value(json_object_get(run, "clip"));
    o.schedule.kind = schedule && strcmp(schedule, "cosine") == 0 ? ORR_SCHEDULE_COSINE : ORR_SCHEDULE_CONSTANT;
    o.schedule.lr = json_number_value(json_object_get(run, "lr"));
    o.schedule.min_lr = json_number_value(json_object_get(run, "min_lr"));
    o.schedule.warmup = json_integer_value(json_object_get(run, "warmup"));
    o.schedule.steps = STEPS;
    return o;
}

static int compare_gradient(const struct golden *g, struct orr_model *model, struct orr_training *training, int i,
                            struct worst *worst)
{
    struct orr_parameter_info info;
    char name[256];

    orr_model_parameter(model, i, &info);
    snprintf(name, sizeof(name), "grad.%s", info.name);
    float *values = malloc((size_t)info.count * sizeof(*values));
    int status = values ? orr_training_read_gradient(training, i, values)
                        : command_fail(ORR_ENOMEM, "selftest: no room for a gradient");
    if (status == 0)
        status = compare(g, name, info.count, values, worst);
    free(values);
    return status;
}

static int check_gradients(const struct golden *g, struct orr_model *model, struct worst *worst)
{
    struct orr_training_options options = options_of(g, "losses");
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = {read_batch, g->input};
    struct orr_step report;
    int status = training ? orr_training_gradients(training, &source, &report) : orr_error_code();

    if (status == 0) {
        float loss = (float)report.loss;
        status = compare(g, "loss", 1, &loss, worst);
    }
    for (int i = 0; status == 0 && i < orr_model_parameter_count(model); i++)
        status = compare_gradient(g, model, training, i, worst);
    orr_training_destroy(training);
    return status;
}

/* The losses of a run are compared as they are: they are about 5. */
static int check_losses(const struct golden *g, struct orr_model *model, struct worst *worst)
{
    struct orr_training_options options = options_of(g, "losses");
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_source source = {read_batch, g->input};
    struct orr_step report;
    int64_t count = 0;
    float *exact = values_of(g->exact, "losses", &count);
    double error = 0, bound = 0;
    int status = training && exact ? ORR_OK : orr_error_code();

    if (status == 0 && count != STEPS)
        status = command_fail(ORR_EFORMAT, "%s: losses of %lld steps", g->folder, (long long)count);
    for (int s = 0; status == 0 && s < STEPS; s++)
        status = orr_training_submit(training, &source);
    for (int s = 0; status == 0 && s < STEPS; s++) {
        int taken = orr_training_next(training, &report, true);
        status = taken < 0 ? taken : ORR_OK;
        double d = fabs(report.loss - exact[s]);
        error = isfinite(d) ? fmax(error, d) : INFINITY;
    }
    if (status == 0)
        status = bound_of(g, "losses", true, &bound);
    if (status == 0)
        note(worst, "AdamW, 20 steps", error, bound);
    free(exact);
    orr_training_destroy(training);
    return status;
}

static const struct {
    const char *name;
    int (*run)(const struct golden *g, struct orr_model *model, struct worst *worst);
} checks[] = {{"golden logits", check_logits}, {"golden gradients", check_gradients}, {"golden losses", check_losses}};

/* What fails on the device is a failed check; a file that is not as it should be ends the command. */
static int check(struct selftest *s, const struct golden *g, size_t c)
{
    struct orr_model *model = NULL;
    struct worst worst = {0};
    int status = open_golden_model(g, &model);

    if (status == 0)
        status = checks[c].run(g, model, &worst);
    orr_model_destroy(model);
    if (status == 0)
        selftest_report(s, checks[c].name, orr_dtype_label(g->gpt.dtype), worst.what, worst.error, worst.bound);
    else if (status == ORR_EFORMAT || status == ORR_ENOENT)
        return status;
    else
        selftest_fail(s, checks[c].name, orr_dtype_label(g->gpt.dtype), "", orr_error());
    return ORR_OK;
}

int selftest_golden(struct selftest *s)
{
    struct golden g = {0};
    int status = open_golden(&g, s->golden);

    for (size_t p = 0; p < sizeof(precisions) / sizeof(precisions[0]); p++)
        for (size_t c = 0; status == 0 && c < sizeof(checks) / sizeof(checks[0]); c++) {
            g.gpt.dtype = precisions[p].dtype;
            g.factor = precisions[p].factor;
            status = check(s, &g, c);
        }
    close_golden(&g);
    return status;
}
