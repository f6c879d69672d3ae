/* SPDX-License-Identifier: Apache-2.0 */
/* The tape: the order of blocks, what each reads, and what follows from it for the way back. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

struct orr_block *orr_block_append(struct orr_model *model, const struct orr_block_class *cls, int layer,
                                   const void *config)
{
    struct orr_block *top = model->blocks ? model->block[model->blocks - 1] : NULL;

    return orr_block_append_inputs(model, cls, layer, config, top != NULL, &top);
}

static int check_append(const struct orr_model *model, const struct orr_block_class *cls, int count,
                        struct orr_block *const inputs[])
{
    if (model->built)
        return orri_fail(ORR_EINVAL, "model", "block '%s' is appended after orr_model_build()", cls->name);
    if (model->blocks && model->block[model->blocks - 1]->cls->is_loss)
        return orri_fail(ORR_EINVAL, "model", "block '%s' is appended after the loss", cls->name);
    if (count > ORR_MAX_INPUTS)
        return orri_fail(ORR_EINVAL, "model", "block '%s' reads %d values, at most %d can be read", cls->name, count,
                         ORR_MAX_INPUTS);
    for (int i = 0; i < count; i++)
        if (inputs[i]->model != model)
            return orri_fail(ORR_EINVAL, "model", "block '%s' reads a value of another model", cls->name);
    for (int i = 1; i < count; i++)
        for (int j = 0; j < i; j++)
            if (inputs[i] == inputs[j])
                return orri_fail(ORR_EINVAL, "model", "block '%s' reads the value of block '%s' twice", cls->name,
                                 inputs[i]->cls->name);
    return ORR_OK;
}

static int add_user(struct orri_group *group, struct orr_block *block)
{
    struct orr_block **more = realloc(group->user, (size_t)(group->users + 1) * sizeof(struct orr_block *));

    if (!more)
        return orri_fail(ORR_ENOMEM, "model", "no room for the parameters of block '%s'", block->cls->name);
    group->user = more;
    group->user[group->users++] = block;
    return ORR_OK;
}

static int own_groups(struct orr_model *model, struct orr_block *block)
{
    for (int g = 0; g < block->spec.groups; g++) {
        if (block->spec.views[g] == 0)
            continue;
        struct orri_group *group = orri_calloc(1, sizeof(*group));
        struct orri_group **more = realloc(model->group, (size_t)(model->groups + 1) * sizeof(*model->group));
        if (more)
            model->group = more;
        if (!group || !more) {
            free(group);
            return orri_fail(ORR_ENOMEM, "model", "no room for the parameters of block '%s'", block->cls->name);
        }
        model->group[model->groups++] = group;
        group->block = block;
        group->number = g;
        group->views = block->spec.views[g];
        memcpy(group->view, block->spec.view[g], sizeof(group->view));
        ORR_TRY(add_user(group, block));
        block->group[g] = group;
    }
    return ORR_OK;
}

static int check_widths(const struct orr_block *block, int count, struct orr_block *const inputs[])
{
    int64_t width = block->spec.input_width;

    for (int i = 0; i < count; i++)
        if (width && inputs[i]->spec.width != width)
            return orri_fail(ORR_EINVAL, "model", "block '%s' of width %lld reads a value of width %lld",
                             block->cls->name, (long long)width, (long long)inputs[i]->spec.width);
    return ORR_OK;
}

struct orr_block *orr_block_append_inputs(struct orr_model *model, const struct orr_block_class *cls, int layer,
                                          const void *config, int count, struct orr_block *const inputs[])
{
    if (check_append(model, cls, count, inputs) != 0)
        return NULL;
    if (model->blocks == model->capacity) {
        int capacity = model->capacity ? 2 * model->capacity : 32;
        struct orr_block **more = realloc(model->block, (size_t)capacity * sizeof(*more));
        if (!more) {
            orri_fail(ORR_ENOMEM, "model", "no room for %d blocks", capacity);
            return NULL;
        }
        model->block = more;
        model->capacity = capacity;
    }
    struct orr_block *block = orri_calloc(1, sizeof(*block));
    if (!block)
        return NULL;
    block->cls = cls;
    block->model = model;
    block->index = model->blocks;
    block->layer = layer;
    block->config = orri_alloc(cls->config_size);
    if (!block->config) {
        free(block);
        return NULL;
    }
    memcpy(block->config, config, cls->config_size);
    cls->specify(block->config, &block->spec);
    if (check_widths(block, count, inputs) != 0) {
        free(block->config);
        free(block);
        return NULL;
    }
    model->block[model->blocks++] = block;
    for (int i = 0; i < count; i++) {
        block->input[block->inputs++] = inputs[i];
        inputs[i]->readers++;
        inputs[i]->last_reader = block->index;
    }
    return own_groups(model, block) == 0 ? block : NULL;
}

int orr_block_share(struct orr_block *block, int group, struct orr_block *of, int of_group)
{
    struct orri_group *shared =
        of->model == block->model && of_group >= 0 && of_group < of->spec.groups ? of->group[of_group] : NULL;

    if (block->model->built)
        return orri_fail(ORR_EINVAL, "model", "block '%s' shares a group after orr_model_build()", block->cls->name);
    if (!shared || group < 0 || group >= block->spec.groups || block->group[group])
        return orri_fail(ORR_EINVAL, "model", "block '%s' cannot share group %d of block '%s'", block->cls->name,
                         of_group, of->cls->name);
    const struct orr_view *wanted = &block->spec.view[group][0];
    if (wanted->name && (shared->views != 1 || shared->view[0].shape[0] != wanted->shape[0] ||
                         shared->view[0].shape[1] != wanted->shape[1]))
        return orri_fail(ORR_EINVAL, "model", "group %d of block '%s' is not the %s [%lld,%lld] that block '%s' shares",
                         of_group, of->cls->name, wanted->name, (long long)wanted->shape[0],
                         (long long)wanted->shape[1], block->cls->name);
    block->group[group] = shared;
    block->user[group] = shared->users;
    return add_user(shared, block);
}

struct orr_block *orri_tape_next_reader(const struct orr_block *writer, int after)
{
    const struct orr_model *model = writer->model;

    for (int l = after + 1; writer->readers && l <= writer->last_reader; l++)
        for (int i = 0; i < model->block[l]->inputs; i++)
            if (model->block[l]->input[i] == writer)
                return model->block[l];
    return NULL;
}

double orri_block_cost(const struct orr_block *block, int batch, int seq)
{
    const struct orr_block_class *cls = block->cls;

    return cls->flops(block->config, batch, seq, ORR_FORWARD) + cls->flops(block->config, batch, seq, ORR_BACKWARD) +
           cls->flops(block->config, batch, seq, ORR_WEIGHTS);
}
