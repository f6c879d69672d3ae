/* SPDX-License-Identifier: Apache-2.0 */
/* The slot rings: storage for microbatches in flight, and with it the pipeline schedule. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

#include <orrery/runtime.h>

static int64_t value_floats(const struct orr_slots_options *o, const struct orr_block *block)
{
    return block->cls->is_loss ? 0 : (int64_t)o->batch * o->seq * block->spec.width;
}

bool orri_runs_whole(const struct orr_slots_options *o, const struct orr_block *block)
{
    return block->cls->cpu[ORR_WHOLE] && o->training && (block->model->mesh.pp == 1 || !orr_slot_split(&o->policy));
}

static int64_t saved_floats(const struct orr_slots_options *o, const struct orr_block *block)
{
    return o->training && !orri_runs_whole(o, block) ? block->cls->saved_floats(block->config, o->batch, o->seq) : 0;
}

static int workers_per_replica(const struct orr_model *model)
{
    int workers = (orr_worker_count() + model->mesh.dp - 1) / model->mesh.dp;

    return workers < 1 ? 1 : workers;
}

static int ring_size(const struct orr_model *model, const struct orr_slots_options *o, int stage)
{
    int per_replica = (o->microbatches + model->mesh.dp - 1) / model->mesh.dp;

    return orr_slot_count(&o->policy, stage, model->mesh.pp, per_replica, workers_per_replica(model));
}

static bool last_stage(const struct orr_model *model, int stage)
{
    return stage == model->mesh.pp - 1;
}

static int create_slot(struct orr_slots *slots, struct orri_slot *slot, struct orr_coord at)
{
    const struct orr_model *model = slots->model;
    const struct orr_slots_options *o = &slots->options;
    int64_t tokens = (int64_t)o->batch * o->seq;
    int rank = orr_mesh_rank(&model->mesh, at);
    size_t blocks = (size_t)model->blocks;

    slot->value = orri_calloc(blocks, sizeof(*slot->value));
    slot->gradient = orri_calloc(blocks, sizeof(*slot->gradient));
    slot->saved = orri_calloc(blocks, sizeof(*slot->saved));
    if (!slot->value || !slot->gradient || !slot->saved)
        return ORR_ENOMEM;
    if (at.p == 0)
        ORR_TRY(orr_tile_create(&slot->ids, ORR_TOKENS, ORR_I32, tokens, rank, false));
    if (at.p == 0 || last_stage(model, at.p))
        ORR_TRY(orr_tile_create(&slot->labels, ORR_TOKENS, ORR_I32, tokens, rank, false));
    if (last_stage(model, at.p) && o->predict_floats > 0)
        ORR_TRY(orr_tile_create(&slot->prediction, ORR_ACTIVATION, ORR_F32, o->predict_floats, rank, false));
    for (int l = 0; l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        if (block->stage != at.p)
            continue;
        if (value_floats(o, block) > 0) {
            ORR_TRY(orr_tile_create(&slot->value[l], ORR_ACTIVATION, ORR_F32, value_floats(o, block), rank, false));
            if (o->training)
                ORR_TRY(orr_tile_create(&slot->gradient[l], ORR_ACTIVATION, ORR_F32, value_floats(o, block), rank,
                                        false));
        }
        if (saved_floats(o, block) > 0)
            ORR_TRY(orr_tile_create(&slot->saved[l], ORR_SAVED, ORR_F32, saved_floats(o, block), rank, false));
    }
    return ORR_OK;
}

/* Gradient tiles belong to the model, since the optimizer outlives the slots; they are made by the first
 * training slots. */
static int create_gradients(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        size_t count = (size_t)parameter->users * (size_t)model->mesh.dp;
        if (parameter->gradient)
            continue;
        parameter->gradient = orri_calloc(count, sizeof(*parameter->gradient));
        if (!parameter->gradient)
            return ORR_ENOMEM;
        for (int u = 0; u < parameter->users; u++) {
            for (int d = 0; d < model->mesh.dp; d++) {
                struct orr_coord at = {d, parameter->user[u]->stage, 0};
                ORR_TRY(orr_tile_create(&parameter->gradient[u * model->mesh.dp + d], ORR_GRADIENT, ORR_F32,
                                        parameter->count, orr_mesh_rank(&model->mesh, at), false));
            }
        }
    }
    return ORR_OK;
}

static int create_results(struct orr_slots *slots)
{
    const struct orr_mesh *mesh = &slots->model->mesh;
    size_t count = (size_t)ORRI_PARITIES * (size_t)mesh->dp;

    slots->result = orri_calloc(count, sizeof(*slots->result));
    if (!slots->result)
        return ORR_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct orr_coord at = {(int)i % mesh->dp, mesh->pp - 1, 0};
        ORR_TRY(orr_tile_create(&slots->result[i], ORR_SCALAR, ORR_U8, sizeof(struct orr_result),
                                orr_mesh_rank(mesh, at), true));
    }
    return ORR_OK;
}

static int create_rings(struct orr_slots *slots)
{
    const struct orr_mesh *mesh = &slots->model->mesh;

    slots->ring = orri_calloc((size_t)mesh->dp * (size_t)mesh->pp, sizeof(*slots->ring));
    if (!slots->ring)
        return ORR_ENOMEM;
    for (int d = 0; d < mesh->dp; d++) {
        for (int p = 0; p < mesh->pp; p++) {
            struct orri_ring *ring = &slots->ring[d * mesh->pp + p];
            int count = ring_size(slots->model, &slots->options, p);
            ring->slot = orri_calloc((size_t)count, sizeof(*ring->slot));
            if (!ring->slot)
                return ORR_ENOMEM;
            ring->count = count;
            for (int k = 0; k < count; k++)
                ORR_TRY(create_slot(slots, &ring->slot[k], (struct orr_coord){d, p, 0}));
        }
    }
    return ORR_OK;
}

static int check_length(const struct orr_model *model, int seq)
{
    for (int l = 0; l < model->blocks; l++)
        if (model->block[l]->spec.longest > 0 && seq > model->block[l]->spec.longest)
            return orri_remedy(orri_fail(ORR_EINVAL, "model", "block '%s' takes %d tokens at most, not %d",
                                         model->block[l]->cls->name, model->block[l]->spec.longest, seq),
                               "choose shorter sequences");
    return ORR_OK;
}

struct orr_slots *orr_slots_create(struct orr_model *model, const struct orr_slots_options *options)
{
    if (check_length(model, options->seq) != 0)
        return NULL;
    struct orr_slots *slots = orri_calloc(1, sizeof(*slots));
    if (!slots)
        return NULL;
    slots->model = model;
    slots->options = *options;
    slots->split = orr_slot_split(&options->policy);
    if ((options->training && create_gradients(model) != 0) || create_results(slots) != 0 ||
        create_rings(slots) != 0) {
        orr_slots_destroy(slots);
        return NULL;
    }
    return slots;
}

static void destroy_slot(struct orri_slot *slot, int blocks)
{
    orr_tile_destroy(&slot->ids);
    orr_tile_destroy(&slot->labels);
    orr_tile_destroy(&slot->prediction);
    for (int l = 0; l < blocks; l++) {
        if (slot->value)
            orr_tile_destroy(&slot->value[l]);
        if (slot->gradient)
            orr_tile_destroy(&slot->gradient[l]);
        if (slot->saved)
            orr_tile_destroy(&slot->saved[l]);
    }
    free(slot->value);
    free(slot->gradient);
    free(slot->saved);
}

void orr_slots_destroy(struct orr_slots *slots)
{
    if (!slots)
        return;
    const struct orr_mesh *mesh = &slots->model->mesh;
    for (int i = 0; slots->ring && i < mesh->dp * mesh->pp; i++) {
        for (int k = 0; k < slots->ring[i].count; k++)
            destroy_slot(&slots->ring[i].slot[k], slots->model->blocks);
        free(slots->ring[i].slot);
    }
    for (int i = 0; slots->result && i < ORRI_PARITIES * mesh->dp; i++)
        orr_tile_destroy(&slots->result[i]);
    free(slots->ring);
    free(slots->result);
    free(slots);
}

struct orri_slot *orri_slots_at(struct orr_slots *slots, int microbatch, int stage)
{
    const struct orr_mesh *mesh = &slots->model->mesh;
    struct orri_ring *ring = &slots->ring[orr_mesh_replica(mesh, microbatch) * mesh->pp + stage];

    return &ring->slot[microbatch / mesh->dp % ring->count];
}

struct orr_tile *orri_slots_result(struct orr_slots *slots, int64_t step, int replica)
{
    return &slots->result[step % ORRI_PARITIES * slots->model->mesh.dp + replica];
}

/* The sizes that a command line can ask for add up to more than 2^63. */
static void add(int64_t *sum, double bytes)
{
    *sum = (double)*sum + bytes < 0x1p62 ? *sum + (int64_t)bytes : (int64_t)1 << 62;
}

void orr_slots_memory(const struct orr_model *model, const struct orr_slots_options *o, int state_tiles,
                      struct orr_memory_need *need)
{
    const struct orr_mesh *mesh = &model->mesh;
    const double size = sizeof(float);
    double most_scratch = 0;

    *need = (struct orr_memory_need){0};
    for (int p = 0; p < model->parameters; p++) {
        double bytes = (double)model->parameter[p]->count * size;
        add(&need->parameters, bytes);
        if (o->training) {
            add(&need->gradients, bytes * model->parameter[p]->users * mesh->dp);
            add(&need->state, bytes * state_tiles);
        }
    }
    for (int l = 0; l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        double copies = (double)ring_size(model, o, block->stage) * mesh->dp;
        double scratch = (double)block->cls->scratch_bytes(block->config, o->batch, o->seq);
        double floats = (double)value_floats(o, block) * (o->training ? 2 : 1) + (double)saved_floats(o, block);
        add(&need->slots, copies * size * floats);
        most_scratch = scratch > most_scratch ? scratch : most_scratch;
    }
    double tokens = (double)o->batch * o->seq, in_last = (mesh->pp > 1 ? tokens : 0) + (double)o->predict_floats;
    add(&need->slots, mesh->dp * size * (ring_size(model, o, 0) * 2 * tokens + ring_size(model, o, mesh->pp - 1) * in_last));
    add(&need->scratch, most_scratch * orr_worker_count());
    const int64_t parts[] = {need->parameters, need->gradients, need->state, need->slots, need->scratch};
    for (size_t i = 0; i < ORRI_COUNT(parts); i++)
        add(&need->total, (double)parts[i]);
}
