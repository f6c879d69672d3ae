/* SPDX-License-Identifier: Apache-2.0 */
#include "train/small_gpt.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "meshes.h"

static const struct orr_mesh one = MESH(1, 1, 1);

struct setup usual(void)
{
    struct setup s = {.mesh = one, .micro_batch = 2, .slots = "h1"};

    s.options = (struct orr_training_options){
        .batch = BATCH,
        .seq = SEQ,
        .optimizer = orr_optimizer_default(ORR_ADAMW),
        .schedule = {ORR_SCHEDULE_COSINE, 1e-2, 1e-3, 3, 40},
        .seed = 5,
    };
    return s;
}

struct orr_gpt2 gpt_of(const struct setup *s)
{
    return (struct orr_gpt2){
        .vocab_size = VOCAB,
        .n_positions = POSITIONS,
        .n_embd = WIDTH,
        .n_layer = 2,
        .n_head = 2,
        .n_inner = 4 * WIDTH,
        .embd_pdrop = s->dropout,
        .attn_pdrop = s->dropout,
        .resid_pdrop = s->dropout,
        .layer_norm_epsilon = 1e-5f,
        .initializer_range = 0.1f,
        .tie_word_embeddings = !s->untied,
        .dtype = s->dtype,
    };
}

struct orr_model *create_model(const struct setup *s)
{
    struct orr_gpt2 gpt = gpt_of(s);
    struct orr_model *model = orr_gpt2_create(&gpt, &s->mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_model_randomize(model, 3), 0);
    return model;
}

struct orr_training *create_training(struct orr_model *model, const struct setup *s)
{
    struct orr_training_options options = s->options;

    options.micro_batch = s->micro_batch;
    ck_assert_int_eq(orr_slot_policy_parse(s->slots, &options.slots), 0);
    struct orr_training *training = orr_training_create(model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
    return training;
}

void read_samples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self;
    for (int b = 0; b < count; b++) {
        struct orr_rng rng = {42, (uint32_t)(first + (uint64_t)b), 0};
        uint32_t words[64];
        orr_rng_words(&rng, 0, (size_t)seq + 1, words);
        for (int t = 0; t < seq; t++) {
            tokens[b * seq + t] = (int32_t)(words[t] % VOCAB);
            labels[b * seq + t] = t % 5 == 4 ? ORR_IGNORE : (int32_t)(words[t + 1] % VOCAB);
        }
    }
}

void read_same_batch(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    read_samples(self, first % BATCH, count, seq, field);
}

const struct orr_source samples = {read_samples, NULL}, same_batch = {read_same_batch, NULL};

struct values read_values(struct orr_model *model)
{
    struct values v = {0};

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        v.at = realloc(v.at, (size_t)(v.count + info.count) * sizeof(*v.at));
        ck_assert_int_eq(orr_model_read(model, i, v.at + v.count), 0);
        v.count += info.count;
    }
    return v;
}

bool same_values(struct values a, struct values b)
{
    return a.count == b.count && memcmp(a.at, b.at, (size_t)a.count * sizeof(*a.at)) == 0;
}

double values_distance(struct values a, struct values b)
{
    double most = 0;

    ck_assert_int_eq(a.count, b.count);
    for (int64_t i = 0; i < a.count; i++) {
        double d = fabs((double)a.at[i] - (double)b.at[i]);
        most = isnan(d) ? INFINITY : fmax(most, d);
    }
    return most;
}

void take_steps(struct orr_training *training, const struct orr_source *source, int steps, double *loss)
{
    struct orr_step report;
    int64_t before = orr_training_steps(training);

    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_submit(training, source) == 0, "%s", orr_error());
    for (int s = 0; s < steps; s++) {
        ck_assert_msg(orr_training_next(training, &report, true) == 1, "%s", orr_error());
        ck_assert_int_eq(report.step, before + s + 1);
        loss[s] = report.loss;
    }
}

struct result train(struct setup s, int steps)
{
    struct orr_model *model = create_model(&s);
    struct orr_training *training = create_training(model, &s);
    struct result r = {0};

    take_steps(training, &samples, steps, r.loss);
    r.values = read_values(model);
    orr_training_destroy(training);
    orr_model_destroy(model);
    return r;
}

static struct orr_config *config_of(const char *text)
{
    struct orr_config *config = orr_config_create("test");

    ck_assert_int_eq(orr_config_set(config, text), 0);
    return config;
}

int save_checkpoint(const char *out, struct orr_training *training, int keep)
{
    struct orr_config *config = config_of("model_type=gpt2"), *trainer = config_of("optimizer=any");
    int status = orr_checkpoint_save(out, training, config, trainer, NULL, keep);

    orr_config_destroy(config);
    orr_config_destroy(trainer);
    return status;
}

struct orr_training *start_over(const struct setup *s, struct orr_model **model)
{
    *model = create_model(s);
    return create_training(*model, s);
}

void finish_training(struct orr_training *training, struct orr_model *model)
{
    orr_training_destroy(training);
    orr_model_destroy(model);
}
