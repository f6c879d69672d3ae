/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that PyTorch computed, and the models and runs that they are of (tests/golden/README.md). */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <jansson.h>

#include <models/family.h>
#include <orrery/orrery.h>

struct golden {
    struct orr_safetensors *file;
    json_t *input;
    struct orr_config *config;
    struct orr_hyper hyper;
    enum orr_dtype dtype;       /* to compute in; ORR_F32, unless it is set          */
    int seq, labels;            /* of a row of the batch, and of all of it           */
    char directory[512];
};

void golden_open(struct golden *g, const char *name);
void golden_close(struct golden *g);

/* The model with its parameters, in golden.dtype. */
struct orr_model *golden_model(const struct golden *g, const struct orr_mesh *mesh);

/* A tensor of a file; malloc'ed. */
float *golden_values(const struct orr_safetensors *file, const char *name, int64_t *count);

/* The largest difference, relative to the largest golden value. */
double golden_distance(const float *found, const float *golden, int64_t count);

/* Calls check() with logits.I and last_hidden_state.I of every sequence; or with the loss and the gradient of every parameter.
 * slots: NULL for the default. */
typedef void golden_check(const struct golden *g, const char *name, const float *found, void *self);
void golden_predict(const struct golden *g, const struct orr_mesh *mesh, golden_check *check, void *self);
void golden_gradients(const struct golden *g, int micro_batch, const struct orr_mesh *mesh, const char *slots,
                      golden_check *check, void *self);

/* What an encoder reads before sequence i. Where the model has none it does nothing. */
void golden_source(const struct golden *g, struct orr_predictor *predictor, size_t i);

/* Takes the steps of a run: losses and norms of all of them. Returns how many. */
enum { GOLDEN_STEPS = 20 };
void golden_run(const struct golden *g, const char *name, double loss[GOLDEN_STEPS], double norm[GOLDEN_STEPS]);

#endif
