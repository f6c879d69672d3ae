/* SPDX-License-Identifier: Apache-2.0 */
#include "graph/graph.h"

#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/runtime.h>

struct orr_model *orr_model_create(const struct orr_mesh *mesh)
{
    if (orr_mesh_check(mesh) != 0)
        return NULL;
    struct orr_model *model = orri_calloc(1, sizeof(*model));
    if (!model)
        return NULL;
    model->mesh = *mesh;
    model->failed_run = INT64_MAX;
    pthread_mutex_init(&model->failure_lock, NULL);
    return model;
}

void orr_model_destroy(struct orr_model *model)
{
    if (!model)
        return;
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        for (int i = 0; parameter->gradient && i < parameter->users * model->mesh.dp; i++)
            orr_tile_destroy(&parameter->gradient[i]);
        free(parameter->gradient);
        orr_tile_destroy(&parameter->value);
        for (int v = 0; v < parameter->views; v++)
            free(parameter->name[v]);
        free(parameter);
    }
    for (int l = 0; l < model->blocks; l++) {
        free(model->block[l]->config);
        free(model->block[l]);
    }
    free(model->parameter);
    free(model->block);
    pthread_mutex_destroy(&model->failure_lock);
    free(model);
}

struct orr_view orr_view_shard(const struct orr_view *view, int tp, int t)
{
    struct orr_view shard = *view;

    if (view->split >= 0) {
        int64_t piece = view->shape[view->split] / view->groups;
        shard.shape[view->split] = view->groups * orr_split(piece, view->unit, tp, t).count;
    }
    return shard;
}

static int name_views(struct orr_model *model, const struct orr_parameter_name *names, int count)
{
    model->views = 0;
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        parameter->first_view = model->views;
        model->views += parameter->views;
        for (int v = 0; v < parameter->views; v++) {
            char local[128];
            snprintf(local, sizeof(local), "%s.%s", parameter->block->cls->name, parameter->view[v].name);
            for (int n = 0; n < count && !parameter->name[v]; n++)
                if (strcmp(names[n].view, local) == 0)
                    parameter->name[v] = orri_format(names[n].file, parameter->block->layer);
            if (!names)
                parameter->name[v] =
                    orri_format("%s.%d.%s", parameter->block->cls->name, parameter->block->layer, parameter->view[v].name);
            if (!parameter->name[v])
                return names ? orri_fail(ORR_EINVAL, "model", "parameter '%s' has no name in files", local) : ORR_ENOMEM;
        }
    }
    return ORR_OK;
}

/* Blocks go to stages by cost; the shape of the microbatch cancels out of everything but attention,
 * where one sequence of 1024 tokens stands for all. */
static int assign_stages(struct orr_model *model)
{
    int status = ORR_ENOMEM, stages = model->mesh.pp;
    double *cost = orri_alloc((size_t)model->blocks * sizeof(*cost));
    int *first = orri_alloc((size_t)(stages + 1) * sizeof(*first));

    if (cost && first) {
        for (int l = 0; l < model->blocks; l++)
            cost[l] = orri_block_cost(model->block[l], 1, 1024);
        status = orr_partition(model->blocks, cost, stages, first);
        for (int s = 0; status == 0 && s < stages; s++)
            for (int l = first[s]; l < first[s + 1]; l++)
                model->block[l]->stage = s;
    }
    free(cost);
    free(first);
    return status;
}

/* The updates of a stage's parameters are dealt to the replicas by bytes. */
static int assign_owners(struct orr_model *model)
{
    int64_t *bytes = orri_alloc((size_t)model->parameters * sizeof(*bytes));
    int *owner = orri_alloc((size_t)model->parameters * sizeof(*owner));
    int status = bytes && owner ? ORR_OK : ORR_ENOMEM;

    for (int s = 0; status == 0 && s < model->mesh.pp; s++) {
        int n = 0;
        for (int p = 0; p < model->parameters; p++)
            if (model->parameter[p]->block->stage == s)
                bytes[n++] = model->parameter[p]->count * (int64_t)sizeof(float);
        status = orr_balance(n, bytes, model->mesh.dp, owner);
        n = 0;
        for (int p = 0; status == 0 && p < model->parameters; p++)
            if (model->parameter[p]->block->stage == s)
                model->parameter[p]->owner = owner[n++];
    }
    free(bytes);
    free(owner);
    return status;
}

static int check_complete(const struct orr_model *model)
{
    if (model->built)
        return orri_fail(ORR_EINVAL, "model", "built twice");
    if (model->blocks == 0 || !model->block[model->blocks - 1]->cls->is_loss)
        return orri_fail(ORR_EINVAL, "model", "the last block must be a loss block");
    for (int l = 0; l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        for (int g = 0; g < block->spec.groups; g++)
            if (!block->parameter[g])
                return orri_fail(ORR_EINVAL, "model", "group %d of block '%s' is shared with nothing", g,
                                 block->cls->name);
        if (!block->cls->is_loss && block->readers == 0)
            return orri_fail(ORR_EINVAL, "model", "nothing reads what block '%s' of layer %d writes", block->cls->name,
                             block->layer);
    }
    if (model->mesh.tp > 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "tp %d: this version has no tensor parallelism",
                                     model->mesh.tp),
                           "use --tp 1; --dp and --pp divide the work too");
    if (model->mesh.ranks > 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "%d ranks: this version runs in one process",
                                     model->mesh.ranks),
                           "start it without mpiexec; --dp and --pp work inside one process");
    return ORR_OK;
}

int orr_model_build(struct orr_model *model, const struct orr_parameter_name *names, int count)
{
    ORR_TRY(check_complete(model));
    ORR_TRY(name_views(model, names, count));
    ORR_TRY(assign_stages(model));
    ORR_TRY(assign_owners(model));
    model->built = true;
    return ORR_OK;
}

int orr_model_allocate(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        struct orr_coord owner = {parameter->owner, parameter->block->stage, 0};
        if (!parameter->value.handle)
            ORR_TRY(orr_tile_create(&parameter->value, ORR_PARAMETER, ORR_F32, parameter->count,
                                    orr_mesh_rank(&model->mesh, owner), true));
    }
    return ORR_OK;
}

void orri_model_view(const struct orr_model *model, int index, int *parameter, int *view)
{
    int p = 0;

    while (index >= model->parameter[p]->first_view + model->parameter[p]->views)
        p++;
    *parameter = p;
    *view = index - model->parameter[p]->first_view;
}

int64_t orri_view_count(const struct orr_view *view)
{
    return view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
}

static struct orri_parameter *find_view(const struct orr_model *model, int index, const struct orr_view **view)
{
    int p, v;

    orri_model_view(model, index, &p, &v);
    *view = &model->parameter[p]->view[v];
    return model->parameter[p];
}

struct randomize {
    const struct orri_parameter *parameter;
    uint64_t seed;
};

static void randomize_cpu(void *buffers[], void *argument)
{
    const struct randomize *randomize = argument;
    const struct orri_parameter *parameter = randomize->parameter;
    float *values = (float *)STARPU_VECTOR_GET_PTR(buffers[0]);

    for (int v = 0; v < parameter->views; v++) {
        const struct orr_view *view = &parameter->view[v];
        struct orr_rng rng = {randomize->seed, (uint32_t)(parameter->first_view + v), UINT32_MAX};
        float *out = values + view->offset;
        int64_t n = orri_view_count(view);
        if (view->initial == ORR_INITIAL_NORMAL)
            orr_rng_normal(&rng, 0, (size_t)n, 0, view->std, out);
        else
            for (int64_t i = 0; i < n; i++)
                out[i] = view->initial == ORR_INITIAL_ONE;
    }
}

static struct starpu_codelet randomize_codelet = {
    .cpu_funcs = {randomize_cpu},
    .nbuffers = 1,
    .modes = {STARPU_W},
    .name = "randomize",
    .color = ORRI_COLOR_OTHER,
};

int orr_model_randomize(struct orr_model *model, uint64_t seed)
{
    ORR_TRY(orr_model_allocate(model));
    for (int p = 0; p < model->parameters; p++) {
        struct randomize randomize = {model->parameter[p], seed};
        struct orri_buffer buffer = {&model->parameter[p]->value, STARPU_W};
        ORR_TRY(orri_task_submit(model, &randomize_codelet, 1, &buffer, &randomize, sizeof(randomize),
                                 ORRI_PRIORITY_UPDATE, p, 0));
    }
    return ORR_OK;
}

int orr_model_parameter_count(const struct orr_model *model)
{
    return model->views;
}

void orr_model_parameter(const struct orr_model *model, int index, struct orr_parameter_info *info)
{
    const struct orr_view *view;
    const struct orri_parameter *parameter = find_view(model, index, &view);

    *info = (struct orr_parameter_info){parameter->name[view - parameter->view], view->ndim,
                                        {view->shape[0], view->shape[1]}, orri_view_count(view)};
}

int orr_model_find(const struct orr_model *model, const char *name)
{
    for (int p = 0; p < model->parameters; p++)
        for (int v = 0; v < model->parameter[p]->views; v++)
            if (strcmp(model->parameter[p]->name[v], name) == 0)
                return model->parameter[p]->first_view + v;
    return -1;
}

int orri_tile_copy_out(struct orr_tile *tile, int64_t offset, int64_t count, float *values)
{
    const float *data = orr_tile_acquire(tile, false);

    if (!data)
        return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be read");
    memcpy(values, data + offset, (size_t)count * sizeof(*values));
    orr_tile_release(tile);
    return ORR_OK;
}

int orri_tile_copy_in(struct orr_tile *tile, int64_t offset, int64_t count, const float *values)
{
    float *data = orr_tile_acquire(tile, true);

    if (!data)
        return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be written");
    memcpy(data + offset, values, (size_t)count * sizeof(*values));
    orr_tile_release(tile);
    return ORR_OK;
}

int orr_model_read(struct orr_model *model, int index, float *values)
{
    const struct orr_view *view;
    struct orri_parameter *parameter = find_view(model, index, &view);

    ORR_TRY(orr_model_allocate(model));
    return orri_tile_copy_out(&parameter->value, view->offset, orri_view_count(view), values);
}

int orr_model_write(struct orr_model *model, int index, const float *values)
{
    const struct orr_view *view;
    struct orri_parameter *parameter = find_view(model, index, &view);

    ORR_TRY(orr_model_allocate(model));
    return orri_tile_copy_in(&parameter->value, view->offset, orri_view_count(view), values);
}

int64_t orr_model_size(const struct orr_model *model)
{
    int64_t size = 0;

    for (int p = 0; p < model->parameters; p++)
        size += model->parameter[p]->count;
    return size;
}

double orr_model_flops_per_token(const struct orr_model *model, int layers, int width, int seq)
{
    return 6.0 * (double)orr_model_size(model) + 12.0 * layers * width * seq;
}

int orr_model_block_count(const struct orr_model *model)
{
    return model->blocks;
}

struct orr_block *orr_model_block(struct orr_model *model, int index)
{
    return model->block[index];
}

const struct orr_block_class *orr_block_class_of(const struct orr_block *block)
{
    return block->cls;
}

const struct orr_mesh *orr_model_mesh(const struct orr_model *model)
{
    return &model->mesh;
}

bool orri_model_stopped(const struct orr_model *model, int64_t run)
{
    return run >= __atomic_load_n(&model->failed_run, __ATOMIC_ACQUIRE);
}

int orr_model_status(const struct orr_model *model)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&model->failure_lock;

    if (__atomic_load_n(&model->status, __ATOMIC_ACQUIRE) == 0)
        return ORR_OK;
    pthread_mutex_lock(lock);
    int status = orri_fail(model->status, "run", "%s", model->failure);
    pthread_mutex_unlock(lock);
    return status;
}

void orri_model_fail(struct orr_model *model, int64_t run, int code, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&model->failure_lock);
    if (run < model->failed_run) {
        va_start(args, format);
        vsnprintf(model->failure, sizeof(model->failure), format, args);
        va_end(args);
        __atomic_store_n(&model->status, code, __ATOMIC_RELEASE);
        __atomic_store_n(&model->failed_run, run, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&model->failure_lock);
}
