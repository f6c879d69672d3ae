/* SPDX-License-Identifier: Apache-2.0 */
/* Placement: which stage has a block, how its parameters are cut into tiles, who updates and who reads each. Pure functions
 * of the tape and the mesh, so that all ranks agree without talking; only measured times they have to be told. */
#include "graph/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/ranks.h"

int orri_place(const struct orr_block *block, int replica, int t)
{
    return orr_mesh_place(&block->model->mesh, replica, block->stage, t);
}

/* The number of a coordinate among those of its rank. */
static int home_index(const struct orr_model *model, int replica, int stage, int t)
{
    const struct orr_mesh *mesh = &model->mesh;
    int64_t index = orr_mesh_index(mesh, (struct orr_coord){replica, stage % mesh->pp, t});

    return (int)(index % (orr_mesh_size(mesh) / mesh->ranks));
}

static int parameter_index(const struct orri_parameter *parameter, int replica)
{
    const struct orr_block *block = parameter->group->block;

    return home_index(block->model, replica, block->stage, parameter->shard < 0 ? 0 : parameter->shard);
}

int orri_home_worker(const struct orr_model *model, int replica, int stage, int t)
{
    return orri_device_worker(home_index(model, replica, stage, t));
}

int orri_parameter_worker(const struct orri_parameter *parameter, int replica)
{
    return orri_device_worker(parameter_index(parameter, replica));
}

int orri_master_worker(const struct orri_parameter *parameter, int replica)
{
    return orri_update_worker(parameter_index(parameter, replica));
}

int orri_user_rank(const struct orri_parameter *parameter, int user, int replica, int chunk)
{
    return orri_place(parameter->group->user[user], replica, parameter->shard < 0 ? chunk : parameter->shard);
}

bool orri_stage_here(const struct orr_model *model, int replica, int stage)
{
    const struct orr_mesh *mesh = &model->mesh;

    return model->rank >= orr_mesh_place(mesh, replica, stage, 0) &&
           model->rank <= orr_mesh_place(mesh, replica, stage, mesh->tp - 1);
}

bool orri_has_coordinate(const struct orr_model *model, int replica)
{
    for (int p = 0; p < model->mesh.pp; p++)
        if (orri_stage_here(model, replica, p))
            return true;
    return false;
}

int orri_list_replicas(struct orr_model *model)
{
    model->replica_here = orri_alloc((size_t)model->mesh.dp * sizeof(*model->replica_here));
    if (!model->replica_here)
        return ORR_ENOMEM;
    for (int d = 0; d < model->mesh.dp; d++)
        if (orri_has_coordinate(model, d))
            model->replica_here[model->replicas_here++] = d;
    return ORR_OK;
}

bool orri_replica_here(const struct orr_model *model, int replica)
{
    int first = 0, last = model->replicas_here - 1;

    while (first < last) {
        int middle = (first + last) / 2;
        if (model->replica_here[middle] < replica)
            first = middle + 1;
        else
            last = middle;
    }
    return first == last && model->replica_here[first] == replica;
}

int orri_place_of(const struct orri_parameter *parameter, int rank)
{
    for (int i = 0; i < parameter->places; i++)
        if (parameter->place[i] == rank)
            return i;
    return -1;
}

bool orri_is_lent(const struct orr_model *model, const struct orri_parameter *parameter)
{
    return model->mesh.zero == 3 && (model->mesh.tp == 1 || parameter->shard >= 0);
}

/* ---- stages ------------------------------------------------------------------------------------------ */

/* Layers that are alike are asked for once. */
static bool measure(struct orr_model *model)
{
    const struct orr_mesh *mesh = &model->mesh;
    bool known = true;

    for (int l = 0; known && l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        int like = 0;
        while (like < l && (model->block[like]->cls != block->cls ||
                            memcmp(model->block[like]->config, block->config, block->cls->config_size) != 0))
            like++;
        model->cost[l] = like < l ? model->cost[like] : orri_measured_cost(block, mesh->batch, mesh->seq);
        known = !isnan(model->cost[l]);
    }
    return known;
}

/* Each host has measured by itself. */
static int agree_on_costs(struct orr_model *model)
{
    ORR_TRY(orri_ranks_broadcast(&model->measured, sizeof(model->measured), 0));
    return model->measured ? orri_ranks_broadcast(model->cost, (size_t)model->blocks * sizeof(*model->cost), 0) : ORR_OK;
}

/* By flops the shape cancels out of everything but attention, where one sequence of 1024 tokens stands for all. */
static int estimate_costs(struct orr_model *model)
{
    const struct orr_mesh *mesh = &model->mesh;

    if (mesh->batch > 0 && model->stages > 1 && !mesh->pretended) {
        model->measured = measure(model);
        if (mesh->ranks > 1)
            ORR_TRY(agree_on_costs(model));
    }
    for (int l = 0; !model->measured && l < model->blocks; l++)
        model->cost[l] = orri_block_cost(model->block[l], 1, 1024);
    return ORR_OK;
}

int orri_assign_stages(struct orr_model *model)
{
    model->cost = orri_alloc((size_t)model->blocks * sizeof(*model->cost));
    model->first_block = orri_alloc((size_t)(model->stages + 1) * sizeof(*model->first_block));
    if (!model->cost || !model->first_block)
        return ORR_ENOMEM;
    ORR_TRY(estimate_costs(model));
    ORR_TRY(orr_partition(model->blocks, model->cost, model->stages, model->first_block));
    for (int s = 0; s < model->stages; s++)
        for (int l = model->first_block[s]; l < model->first_block[s + 1]; l++)
            model->block[l]->stage = s;
    return ORR_OK;
}

/* ---- parameters -------------------------------------------------------------------------------------- */

static struct orri_parameter *make_parameter(struct orr_model *model, struct orri_group *group, int shard)
{
    struct orri_parameter *parameter = orri_calloc(1, sizeof(*parameter));
    struct orri_parameter **more =
        realloc(model->parameter, (size_t)(model->parameters + 1) * sizeof(*model->parameter));

    if (more)
        model->parameter = more;
    if (!parameter || !more) {
        free(parameter);
        orri_fail(ORR_ENOMEM, "model", "no room for the parameters of block '%s'", group->block->cls->name);
        return NULL;
    }
    parameter->group = group;
    parameter->index = model->parameters;
    parameter->shard = shard;
    model->parameter[model->parameters++] = parameter;
    return parameter;
}

static void add_view(struct orri_parameter *parameter, int number, const struct orr_view *view)
{
    int v = parameter->views++;

    parameter->number[v] = number;
    parameter->view[v] = *view;
    parameter->rate[v] = 1;
    parameter->view[v].offset = parameter->count;
    parameter->count += orri_view_count(view);
}

static int cut_group(struct orr_model *model, struct orri_group *group)
{
    int tp = model->mesh.tp;
    bool split = false, common = false;

    for (int v = 0; v < group->views; v++) {
        split = split || (tp > 1 && group->view[v].split >= 0);
        common = common || tp == 1 || group->view[v].split < 0;
    }
    if (common) {
        group->common = make_parameter(model, group, -1);
        if (!group->common)
            return ORR_ENOMEM;
        group->common->copies = model->chunks;
        for (int v = 0; v < group->views; v++)
            if (tp == 1 || group->view[v].split < 0)
                add_view(group->common, v, &group->view[v]);
    }
    if (!split)
        return ORR_OK;
    group->shard = orri_calloc((size_t)tp, sizeof(*group->shard));
    if (!group->shard)
        return ORR_ENOMEM;
    for (int t = 0; t < tp; t++) {
        group->shard[t] = make_parameter(model, group, t);
        if (!group->shard[t])
            return ORR_ENOMEM;
        group->shard[t]->copies = 1;
        for (int v = 0; v < group->views; v++) {
            struct orr_view shard = orr_view_shard(&group->view[v], tp, t);
            if (group->view[v].split >= 0)
                add_view(group->shard[t], v, &shard);
        }
    }
    return ORR_OK;
}

static bool is_dealt(const struct orr_model *model, const struct orri_parameter *parameter, int at, int shard)
{
    return parameter->group->block->stage % model->mesh.pp == at && parameter->shard == shard;
}

/* The updates of the parameters of a pipeline coordinate are dealt to the replicas by bytes; shards of one number among
 * themselves, since they share their ranks. */
static int assign_owners(struct orr_model *model, int at, int shard)
{
    int64_t *bytes = orri_alloc((size_t)model->parameters * sizeof(*bytes));
    int *owner = orri_alloc((size_t)model->parameters * sizeof(*owner));
    int status = bytes && owner ? ORR_OK : ORR_ENOMEM, n = 0;

    for (int p = 0; status == 0 && p < model->parameters; p++)
        if (is_dealt(model, model->parameter[p], at, shard))
            bytes[n++] = model->parameter[p]->count * (int64_t)sizeof(float);
    if (status == 0)
        status = orr_balance(n, bytes, model->mesh.dp, owner);
    n = 0;
    for (int p = 0; status == 0 && p < model->parameters; p++)
        if (is_dealt(model, model->parameter[p], at, shard))
            model->parameter[p]->owner = owner[n++];
    free(bytes);
    free(owner);
    return status;
}

/* Ranks hold runs of replicas: a rank that is there already is among the last `near` or, at the end of the circle, among
 * the first. */
static void add_place(struct orri_parameter *parameter, int rank, int near)
{
    for (int i = 0; i < near && i < parameter->places; i++)
        if (parameter->place[i] == rank || parameter->place[parameter->places - 1 - i] == rank)
            return;
    parameter->place[parameter->places++] = rank;
}

/* Behind the owner's rank come those of the replicas that follow it, in a circle, so that the work of passing parameters on
 * is spread. */
static int list_places(struct orr_model *model, struct orri_parameter *parameter)
{
    const struct orr_mesh *mesh = &model->mesh;
    const struct orri_group *group = parameter->group;
    int first = parameter->shard < 0 ? 0 : parameter->shard;
    int last = parameter->shard < 0 ? model->chunks - 1 : parameter->shard;
    int each = group->users * (last - first + 1);

    parameter->place = orri_alloc((size_t)(mesh->dp * each) * sizeof(*parameter->place));
    if (!parameter->place)
        return ORR_ENOMEM;
    for (int i = 0; i < mesh->dp; i++)
        for (int u = 0; u < group->users; u++)
            for (int t = first; t <= last; t++)
                add_place(parameter, orri_place(group->user[u], (parameter->owner + i) % mesh->dp, t), 2 * each);
    parameter->here = orri_place_of(parameter, model->rank);
    parameter->last_here = -1;
    for (int d = 0; d < mesh->dp; d++) {
        if (orri_place(group->block, d, first) != model->rank)
            continue;
        parameter->first_here = parameter->last_here < 0 ? d : parameter->first_here;
        parameter->last_here = d;
    }
    return ORR_OK;
}

int orri_make_parameters(struct orr_model *model)
{
    for (int g = 0; g < model->groups; g++)
        ORR_TRY(cut_group(model, model->group[g]));
    for (int at = 0; at < model->mesh.pp; at++)
        for (int t = -1; t < model->mesh.tp; t++)
            ORR_TRY(assign_owners(model, at, t));
    for (int p = 0; p < model->parameters; p++)
        ORR_TRY(list_places(model, model->parameter[p]));
    return ORR_OK;
}
