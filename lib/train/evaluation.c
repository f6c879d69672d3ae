/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "train/train.h"

enum { GROUP = 32 };    /* microbatches whose tasks are submitted together */

struct orr_evaluation {
    struct orr_model *model;
    struct orr_slots *slots;
    int64_t groups;             /* run so far: each has result tiles of its own parity */
};

struct orr_evaluation *orr_evaluation_create(struct orr_model *model, int micro_batch, int seq)
{
    struct orr_evaluation *e = orri_calloc(1, sizeof(*e));
    struct orr_slots_options options = {.batch = micro_batch, .seq = seq, .microbatches = GROUP};

    if (!e || orr_model_allocate(model) != 0) {
        free(e);
        return NULL;
    }
    e->model = model;
    e->slots = orr_slots_create(model, &options);
    if (!e->slots) {
        free(e);
        return NULL;
    }
    return e;
}

void orr_evaluation_destroy(struct orr_evaluation *e)
{
    if (!e)
        return;
    orr_slots_destroy(e->slots);
    free(e);
}

static int group_submit(struct orr_evaluation *e, const struct orr_source *source, int64_t first, int microbatches)
{
    int batch = e->slots->options.batch;
    int64_t run = e->model->runs++;

    for (int m = 0; m < microbatches; m++) {
        struct orri_microbatch mb = {run, e->groups, m, (uint64_t)m * (uint64_t)batch};
        ORR_TRY(orri_input_submit(e->slots, &mb, source, (uint64_t)first + mb.first_sample));
        for (int l = 0; l < e->model->blocks; l++)
            ORR_TRY(orri_forward_submit(e->slots, &mb, e->model->block[l]));
    }
    return ORR_OK;
}

/* Adds up what a group's replicas have found, waiting for it. */
static void collect(struct orr_evaluation *e, int64_t group, int microbatches, struct orr_result *result)
{
    for (int d = 0; d < e->model->mesh.dp && d < microbatches; d++) {
        struct orr_tile *tile = orri_slots_result(e->slots, group, d);
        const struct orr_result *part = orr_tile_acquire(tile, false);
        result->loss += part->loss;
        result->labels += part->labels;
        orr_tile_release(tile);
    }
}

int orr_evaluation_run(struct orr_evaluation *e, const struct orr_source *source, int64_t count,
                       struct orr_result *result)
{
    int batch = e->slots->options.batch;
    int64_t microbatches = (count + batch - 1) / batch;
    int before = 0;     /* microbatches of the group before, which runs while this one is submitted */

    *result = (struct orr_result){0};
    for (int64_t m = 0; m < microbatches; m += GROUP) {
        int n = microbatches - m < GROUP ? (int)(microbatches - m) : GROUP;
        ORR_TRY(group_submit(e, source, m * batch, n));
        if (before)
            collect(e, e->groups - 1, before, result);
        e->groups++;
        before = n;
    }
    if (before)
        collect(e, e->groups - 1, before, result);
    return orr_model_status(e->model);
}
