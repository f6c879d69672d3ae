/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "core/ranks.h"
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
    struct orr_model *model = e->model;
    int batch = e->slots->options.batch, dp = model->mesh.dp;
    int64_t run = model->runs++;

    for (int m = 0; m < microbatches; m++) {
        struct orri_microbatch mb = {.run = run, .step = e->groups, .index = m, .first_sample = (uint64_t)m * (uint64_t)batch,
                                     .count = batch, .replica = m % dp, .turn = m / dp};
        mb.here = orri_replica_here(model, mb.replica);
        if (!mb.here && model->mesh.zero != 3)
            continue;
        ORR_TRY(orri_input_submit(e->slots, &mb, source, (uint64_t)first + mb.first_sample));
        for (int l = 0; l < model->blocks; l++)
            ORR_TRY(orri_forward_submit(e->slots, &mb, model->block[l]));
    }
    return ORR_OK;
}

/* Adds up what this rank's replicas have found in a group, waiting for it. */
static void collect(struct orr_evaluation *e, int64_t group, int microbatches, struct orr_result *result)
{
    const struct orr_model *model = e->model;

    for (int d = 0; d < model->mesh.dp && d < microbatches; d++) {
        for (int c = 0; c < model->chunks; c++) {
            struct orr_tile *tile = orri_slots_result(e->slots, group, d, c);
            struct orr_result *sum = &result[d * model->chunks + c];
            if (tile->rank != model->rank)
                continue;
            const struct orr_result *part = orr_tile_acquire(tile, false);
            sum->loss += part->loss;
            sum->labels += part->labels;
            orr_tile_release(tile);
        }
    }
}

static int run_groups(struct orr_evaluation *e, const struct orr_source *source, int64_t count, struct orr_result *result)
{
    int batch = e->slots->options.batch;
    int64_t microbatches = (count + batch - 1) / batch;
    int before = 0;     /* microbatches of the group before, which runs while this one is submitted */

    for (int64_t m = 0; m < microbatches; m += GROUP) {
        int n = microbatches - m < GROUP ? (int)(microbatches - m) : GROUP;
        ORR_TRY(orri_model_submitted(e->model, group_submit(e, source, m * batch, n)));
        if (before)
            collect(e, e->groups - 1, before, result);
        e->groups++;
        before = n;
    }
    if (before)
        collect(e, e->groups - 1, before, result);
    return orr_model_status(e->model);
}

/* Each result is a replica's and chunk's; on the ranks that do not have it, it is zero. */
int orr_evaluation_run(struct orr_evaluation *e, const struct orr_source *source, int64_t count,
                       struct orr_result *result)
{
    int n = e->model->mesh.dp * e->model->chunks;
    struct orr_result *part = orri_calloc((size_t)n, sizeof(*part));

    *result = (struct orr_result){0};
    int status = part ? run_groups(e, source, count, part) : ORR_ENOMEM;
    if (e->model->mesh.ranks > 1)
        status = orr_ranks_settle(status);
    if (status == 0 && e->model->mesh.ranks > 1)
        status = orri_ranks_merge(part, (size_t)n * sizeof(*part));
    for (int i = 0; status == 0 && i < n; i++) {
        result->loss += part[i].loss;
        result->labels += part[i].labels;
    }
    free(part);
    return status;
}
