/* SPDX-License-Identifier: Apache-2.0 */
/* A GPT-2 of two layers and its training. */
#ifndef SMALL_GPT_H
#define SMALL_GPT_H

#include <models/gpt2.h>
#include <orrery/orrery.h>

enum { VOCAB = 61, WIDTH = 32, POSITIONS = 24, SEQ = 12, BATCH = 8, MOST_STEPS = 12 };

struct setup {
    struct orr_mesh mesh;
    int micro_batch;
    const char *slots;
    float dropout;
    bool untied;
    enum orr_dtype dtype;
    struct orr_training_options options;
};

/* AdamW with a schedule, in one replica, stage and shard. */
struct setup usual(void);

struct orr_gpt2 gpt_of(const struct setup *s);
struct orr_model *create_model(const struct setup *s);
struct orr_training *create_training(struct orr_model *model, const struct setup *s);
struct orr_training *start_over(const struct setup *s, struct orr_model **model);
void finish_training(struct orr_training *training, struct orr_model *model);

/* Sample n is a function of n; every fifth label does not count. And the first step's for all steps. */
void read_samples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS]);
void read_same_batch(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS]);
extern const struct orr_source samples, same_batch;

/* All parameters, one behind the other; malloc'ed. */
struct values {
    int64_t count;
    float *at;
};
struct values read_values(struct orr_model *model);
bool same_values(struct values a, struct values b);
double values_distance(struct values a, struct values b);   /* the largest difference */

/* Takes steps, none of which fails. */
struct result {
    double loss[MOST_STEPS];
    struct values values;
};
void take_steps(struct orr_training *training, const struct orr_source *source, int steps, double *loss);
struct result train(struct setup s, int steps);

int save_checkpoint(const char *out, struct orr_training *training, int keep);

#endif
