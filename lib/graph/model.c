/* SPDX-License-Identifier: Apache-2.0 */
#include "graph/graph.h"

#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/runtime.h>

#include "core/ranks.h"
#include "core/watch.h"

struct orr_model *orr_model_create(const struct orr_mesh *mesh)
{
    if (orr_mesh_check(mesh) != 0)
        return NULL;
    if (!mesh->pretended && mesh->ranks != orr_rank_count()) {
        orri_remedy(orri_fail(ORR_EINVAL, "mesh", "%d ranks, but there are %d", mesh->ranks, orr_rank_count()),
                    "start as many processes with mpiexec");
        return NULL;
    }
    struct orr_model *model = orri_calloc(1, sizeof(*model));
    if (!model)
        return NULL;
    model->mesh = *mesh;
    model->rank = mesh->pretended ? mesh->pretended - 1 : orr_rank();
    model->stages = orr_mesh_stages(mesh);
    model->chunks = orr_mesh_chunks(mesh);
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
        int gradients = parameter->group->users * model->mesh.dp * parameter->copies;
        for (int i = 0; parameter->gradient && i < gradients; i++)
            orr_tile_destroy(&parameter->gradient[i]);
        free(parameter->gradient);
        free(parameter->place);
        orr_tile_destroy(&parameter->value);
        orr_tile_destroy(&parameter->working);
        free(parameter);
    }
    for (int g = 0; g < model->groups; g++) {
        for (int v = 0; v < model->group[g]->views; v++)
            free(model->group[g]->name[v]);
        free(model->group[g]->shard);
        free(model->group[g]->user);
        free(model->group[g]);
    }
    orri_message_names_destroy(model);
    orri_pools_destroy(model->values);
    orri_pools_destroy(model->gradients);
    for (int l = 0; l < model->blocks; l++) {
        free(model->block[l]->config);
        free(model->block[l]);
    }
    free(model->parameter);
    free(model->group);
    free(model->block);
    free(model->first_block);
    free(model->cost);
    free(model->replica_here);
    pthread_mutex_destroy(&model->failure_lock);
    free(model);
}

void orr_model_pack(struct orr_model *model)
{
    model->packed = true;
}

void orr_model_set_file_rules(struct orr_model *model, const struct orr_file_rules *rules)
{
    model->rules = *rules;
}

static int name_views(struct orr_model *model, const struct orr_parameter_name *names, int count)
{
    model->views = 0;
    for (int g = 0; g < model->groups; g++) {
        struct orri_group *group = model->group[g];
        const struct orr_block *block = group->block;
        group->first_view = model->views;
        model->views += group->views;
        for (int v = 0; v < group->views; v++) {
            const char *source = block->spec.source ? "source." : "";
            char local[128];
            snprintf(local, sizeof(local), "%s%s.%s", source, block->cls->name, group->view[v].name);
            for (int n = 0; n < count && !group->name[v]; n++)
                if (strcmp(names[n].view, local) == 0)
                    group->name[v] = orri_format(names[n].file, block->layer);
            if (!names)
                group->name[v] = orri_format("%s%s.%d.%s", source, block->cls->name, block->layer, group->view[v].name);
            if (!group->name[v])
                return names ? orri_fail(ORR_EINVAL, "model", "parameter '%s' has no name in files", local) : ORR_ENOMEM;
        }
    }
    return ORR_OK;
}

static int check_shards(const struct orr_model *model)
{
    int tp = model->mesh.tp;

    if (tp > ORR_MAX_SHARDS)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "tp %d: at most %d shards", tp, ORR_MAX_SHARDS), "lower --tp");
    for (int l = 0; tp > 1 && l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        const struct orr_sharding *sharding = block->cls->sharding;
        if (!sharding)
            return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "tp %d: block '%s' cannot be cut into shards", tp,
                                         block->cls->name),
                               "use --tp 1");
        if (sharding->most(block->config) < tp)
            return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "tp %d: block '%s' has only %d %s", tp, block->cls->name,
                                         sharding->most(block->config), sharding->unit),
                               "use --tp %d or less", sharding->most(block->config));
    }
    return ORR_OK;
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
            if (!block->group[g])
                return orri_fail(ORR_EINVAL, "model", "group %d of block '%s' is shared with nothing", g,
                                 block->cls->name);
        if (model->dtype != ORR_F32 && !block->cls->any_dtype)
            return orri_remedy(orri_fail(ORR_EINVAL, "model", "block '%s' computes in fp32 alone", block->cls->name),
                               "use --dtype fp32");
        if (!block->cls->is_loss && block->readers == 0)
            return orri_fail(ORR_EINVAL, "model", "nothing reads what block '%s' of layer %d writes", block->cls->name,
                             block->layer);
    }
    return check_shards(model);
}

int orr_model_build(struct orr_model *model, const struct orr_parameter_name *names, int count)
{
    ORR_TRY(check_complete(model));
    ORR_TRY(name_views(model, names, count));
    ORR_TRY(orri_list_replicas(model));
    ORR_TRY(orri_assign_stages(model));
    ORR_TRY(orri_make_parameters(model));
    ORR_TRY(orri_check_tags(model));
    model->built = true;
    return ORR_OK;
}

static void describe(struct orr_tile *tile, enum orr_dtype dtype, int64_t count, int rank, int64_t tag)
{
    tile->role = ORR_PARAMETER;
    tile->dtype = dtype;
    tile->count = count;
    tile->rank = rank;
    tile->tag = tag;
}

/* A tile of parameters, of rank `rank`, that this rank has where `here`. */
static int make_values(struct orr_tile *tile, enum orr_dtype dtype, int64_t count, int rank, int64_t tag, bool here)
{
    if (here && !tile->handle)
        ORR_TRY(orr_tile_create(tile, ORR_PARAMETER, dtype, count, rank, true));
    describe(tile, dtype, count, rank, tag);
    return ORR_OK;
}

int orr_model_set_dtype(struct orr_model *model, enum orr_dtype dtype)
{
    if (dtype != ORR_F32 && dtype != ORR_BF16 && dtype != ORR_F16)
        return orri_fail(ORR_EINVAL, "model", "nothing is computed in %s", orr_dtype_name(dtype));
    if (model->built)
        return orri_fail(ORR_EINVAL, "model", "the dtype is to be set before orr_model_build()");
    model->dtype = dtype;
    return ORR_OK;
}

enum orr_dtype orr_model_dtype(const struct orr_model *model)
{
    return model->dtype;
}

static bool may_lose_masters(const struct orr_model *model)
{
    return model->built && (model->parameters == 0 || model->parameter[0]->value.count == 0);
}

int orr_model_freeze(struct orr_model *model)
{
    if (!may_lose_masters(model))
        return orri_fail(ORR_EINVAL, "model", "it is to be frozen when it is built, and before it has parameters");
    model->frozen = true;
    return ORR_OK;
}

int orr_model_drop_masters(struct orr_model *model)
{
    if (!may_lose_masters(model))
        return orri_fail(ORR_EINVAL, "model", "masters are to be dropped when it is built, and before it has parameters");
    if (model->dtype != ORR_BF16)
        return orri_remedy(orri_fail(ORR_EINVAL, "model", "without masters parameters are trained in bf16, not %s",
                                     orr_dtype_name(model->dtype)),
                           "use --dtype bf16, or --master-weights fp32");
    model->masterless = true;
    return ORR_OK;
}

bool orri_has_masters(const struct orr_model *model)
{
    return model->dtype != ORR_F32 && !model->frozen && !model->masterless;
}

int orr_model_allocate(struct orr_model *model)
{
    bool mixed = orri_has_masters(model);

    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        bool owned = parameter->here == 0, read = parameter->here >= 0 && (owned || !orri_is_lent(model, parameter));
        int rank = parameter->place[0];
        ORR_TRY(make_values(&parameter->value, mixed ? ORR_F32 : model->dtype, parameter->count, rank,
                            orri_tag(model, ORRI_PARAMETER, 0, p, 0, 0, 0), mixed ? owned : read));
        if (mixed)
            ORR_TRY(make_values(&parameter->working, model->dtype, parameter->count, rank,
                                orri_tag(model, ORRI_PARAMETER, 0, p, 1, 0, 0), read));
    }
    return ORR_OK;
}

bool orri_is_read_at(const struct orri_parameter *parameter, int replica, int rank)
{
    for (int u = 0; u < parameter->group->users; u++)
        for (int c = 0; c < parameter->copies; c++)
            if (orri_user_rank(parameter, u, replica, c) == rank)
                return true;
    return false;
}

static int make_own(struct orr_model *model, struct orri_parameter *parameter)
{
    size_t dp = (size_t)model->mesh.dp;
    bool mixed = model->dtype != ORR_F32;

    parameter->own = orri_calloc(2 * dp, sizeof(*parameter->own));
    if (!parameter->own)
        return ORR_ENOMEM;
    parameter->own_working = parameter->own + dp;
    for (int r = 0; r < model->mesh.dp; r++) {
        int home = orri_user_rank(parameter, 0, r, 0), p = parameter->index;
        bool read = orri_is_read_at(parameter, r, model->rank);
        ORR_TRY(make_values(&parameter->own[r], ORR_F32, parameter->count, home,
                            orri_tag(model, ORRI_PARAMETER_READ, r, p, 0, 0, 0), mixed ? home == model->rank : read));
        if (mixed)
            ORR_TRY(make_values(&parameter->own_working[r], model->dtype, parameter->count, home,
                                orri_tag(model, ORRI_PARAMETER_READ, r, p, 1, 0, 0), read));
    }
    return ORR_OK;
}

int orri_make_own(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++)
        ORR_TRY(make_own(model, model->parameter[p]));
    return orri_fill_own_submit(model, model->runs++);
}

int orri_fill_own_submit(struct orr_model *model, int64_t run)
{
    for (int i = 0; i < model->parameters * model->mesh.dp; i++) {
        struct orri_parameter *parameter = model->parameter[i / model->mesh.dp];
        int r = i % model->mesh.dp, home = orri_user_rank(parameter, 0, r, 0);
        if (home == parameter->place[0] && home == model->rank)
            ORR_TRY(orri_copy_submit(&parameter->value, &parameter->own[r]));
        else
            ORR_TRY(orri_transfer_between_submit(model, &parameter->value, parameter->place[0], &parameter->own[r], home, run));
        ORR_TRY(orri_share_own_submit(model, parameter, r, run));
    }
    return ORR_OK;
}

void orri_destroy_own(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        for (int i = 0; parameter->own && i < 2 * model->mesh.dp; i++)
            orr_tile_destroy(&parameter->own[i]);
        free(parameter->own);
        parameter->own = parameter->own_working = NULL;
    }
}

int orr_model_stage(const struct orr_model *model, int stage, struct orr_stage_info *info)
{
    double all = 0, mine = 0;

    if (stage < 0 || stage >= model->stages)
        return orri_fail(ORR_EINVAL, "model", "stage %d is none of %d", stage, model->stages);
    for (int l = 0; l < model->blocks; l++) {
        all += model->cost[l];
        mine += model->block[l]->stage == stage ? model->cost[l] : 0;
    }
    *info = (struct orr_stage_info){
        .first = model->first_block[stage],
        .count = model->first_block[stage + 1] - model->first_block[stage],
        .share = all > 0 ? mine / all : 0,
        .measured = model->measured,
    };
    return ORR_OK;
}

struct orri_group *orri_model_view(const struct orr_model *model, int index, int *view)
{
    int g = 0;

    while (index >= model->group[g]->first_view + model->group[g]->views)
        g++;
    *view = index - model->group[g]->first_view;
    return model->group[g];
}

struct randomize {
    const struct orri_parameter *parameter;
    int tp;
    uint64_t seed;
};

enum { PIECE = 1024 };      /* floats that are rounded at a time */

/* Elements `first` .. of a whole view, to those from number `at` on of a parameter's tile. */
static void randomize_run(const struct orr_view *whole, const struct orr_rng *rng, int64_t first, int64_t count,
                          const struct orr_tile *tile, void *data, int64_t at)
{
    float values[PIECE];

    for (int64_t k = 0; k < count; k += PIECE) {
        int64_t n = count - k < PIECE ? count - k : PIECE;
        if (whole->initial == ORR_INITIAL_NORMAL)
            orr_rng_normal(rng, (uint64_t)(first + k), (size_t)n, 0, whole->std, values);
        for (int64_t i = 0; whole->initial != ORR_INITIAL_NORMAL && i < n; i++)
            values[i] = whole->initial == ORR_INITIAL_ONE;
        orri_put(tile, data, at + k, n, values);
    }
}

/* An element's value follows from its number in the whole parameter, so that every layout begins alike. */
static void randomize_cpu(void *buffers[], void *argument)
{
    const struct randomize *randomize = argument;
    const struct orri_parameter *parameter = randomize->parameter;

    for (int v = 0; v < parameter->views; v++) {
        const struct orri_group *group = parameter->group;
        const struct orr_view *whole = &group->view[parameter->number[v]];
        struct orr_rng rng = {randomize->seed, (uint32_t)(group->first_view + parameter->number[v]), UINT32_MAX};
        for (int64_t i = 0; i < orr_view_run_count(whole, randomize->tp); i++) {
            struct orr_run run = orr_view_run(whole, randomize->tp, parameter->shard, i);
            randomize_run(whole, &rng, run.whole, run.count, &parameter->value, (void *)STARPU_VECTOR_GET_PTR(buffers[0]),
                          parameter->view[v].offset + run.part);
        }
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
        struct randomize randomize = {model->parameter[p], model->mesh.tp, seed};
        struct orri_buffer buffer = {&model->parameter[p]->value, STARPU_W};
        if (buffer.tile->handle)
            ORR_TRY(orri_task_submit(model, &randomize_codelet, 1, &buffer, &randomize, sizeof(randomize),
                                     ORRI_PRIORITY_UPDATE, p, 0));
    }
    return orri_model_share(model, NULL);
}

int orr_model_parameter_count(const struct orr_model *model)
{
    return model->views;
}

void orr_model_parameter(const struct orr_model *model, int index, struct orr_parameter_info *info)
{
    int v;
    const struct orri_group *group = orri_model_view(model, index, &v);
    const struct orr_view *view = &group->view[v];

    *info = (struct orr_parameter_info){group->name[v], view->ndim, {view->shape[0], view->shape[1]}, orri_view_count(view)};
}

int orr_model_find(const struct orr_model *model, const char *name)
{
    for (int g = 0; g < model->groups; g++)
        for (int v = 0; v < model->group[g]->views; v++)
            if (strcmp(model->group[g]->name[v], name) == 0)
                return model->group[g]->first_view + v;
    return -1;
}

/* ---- named parameters, whole ------------------------------------------------------------------------- */

/* Part t of those that a view consists of, and which of its views that is; NULL behind the last. */
static struct orri_parameter *part_of(const struct orr_model *model, const struct orri_group *group, int view, int t,
                                      int *number)
{
    bool split = model->mesh.tp > 1 && group->view[view].split >= 0;
    struct orri_parameter *part = split ? t < model->mesh.tp ? group->shard[t] : NULL : t == 0 ? group->common : NULL;

    for (*number = 0; part && part->number[*number] != view; ++*number)
        ;
    return part;
}

int orri_view_gather(struct orr_model *model, int index, orri_tile_of *tile_of, void *self, float *values)
{
    int view, number, status = ORR_OK;
    struct orri_group *group = orri_model_view(model, index, &view);
    const struct orr_view *whole = &group->view[view];
    struct orri_parameter *part;
    size_t bytes = (size_t)orri_view_count(whole) * sizeof(*values);

    memset(values, 0, bytes);
    for (int t = 0; (part = part_of(model, group, view, t, &number)) != NULL; t++) {
        int64_t offset = 0;
        struct orr_tile *tile = tile_of(self, part, &offset);
        if (part->here != 0 || !tile || !tile->handle)
            continue;
        const void *data = orr_tile_acquire(tile, false);
        if (!data) {
            status = orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be read");
            continue;
        }
        for (int64_t i = 0; i < orr_view_run_count(whole, model->mesh.tp); i++) {
            struct orr_run run = orr_view_run(whole, model->mesh.tp, t, i);
            orri_get(tile, data, offset + part->view[number].offset + run.part, run.count, values + run.whole);
        }
        orr_tile_release(tile);
    }
    if (model->mesh.ranks == 1)
        return status;
    ORR_TRY(orr_ranks_settle(status));
    return orri_ranks_merge(values, bytes);
}

int orri_view_scatter(struct orr_model *model, int index, orri_tile_of *tile_of, void *self, const float *values)
{
    int view, number;
    struct orri_group *group = orri_model_view(model, index, &view);
    const struct orr_view *whole = &group->view[view];
    struct orri_parameter *part;

    for (int t = 0; (part = part_of(model, group, view, t, &number)) != NULL; t++) {
        int64_t offset = 0;
        struct orr_tile *tile = tile_of(self, part, &offset);
        if (!tile || !tile->handle)
            continue;
        void *data = orr_tile_acquire(tile, true);
        if (!data)
            return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be written");
        for (int64_t i = 0; i < orr_view_run_count(whole, model->mesh.tp); i++) {
            struct orr_run run = orr_view_run(whole, model->mesh.tp, t, i);
            orri_put(tile, data, offset + part->view[number].offset + run.part, run.count, values + run.whole);
        }
        orr_tile_release(tile);
    }
    return ORR_OK;
}

static struct orr_tile *value_of(void *self, const struct orri_parameter *parameter, int64_t *offset)
{
    (void)self, (void)offset;
    return (struct orr_tile *)&parameter->value;
}

int orr_model_read(struct orr_model *model, int index, float *values)
{
    ORR_TRY(orr_model_allocate(model));
    return orri_view_gather(model, index, value_of, NULL, values);
}

int orr_model_write(struct orr_model *model, int index, const float *values)
{
    int view;
    const struct orri_group *group = orri_model_view(model, index, &view);

    ORR_TRY(orr_model_allocate(model));
    ORR_TRY(orri_view_scatter(model, index, value_of, NULL, values));
    return orri_model_share(model, group);
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

const void *orr_block_config(const struct orr_block *block)
{
    return block->config;
}

int orr_block_input_count(const struct orr_block *block)
{
    return block->inputs;
}

const struct orr_mesh *orr_model_mesh(const struct orr_model *model)
{
    return &model->mesh;
}

bool orri_model_stopped(const struct orr_model *model, int64_t run)
{
    return model->mesh.pretended || run >= __atomic_load_n(&model->failed_run, __ATOMIC_ACQUIRE);
}

int orri_model_check(const struct orr_model *model)
{
    return model->mesh.ranks == 1 ? orr_model_status(model) : ORR_OK;
}

int orri_model_submitted(const struct orr_model *model, int status)
{
    bool alone = model->mesh.ranks == 1 || model->mesh.pretended;

    return status == 0 || alone ? status : orri_watch_fail(status, orr_error());
}

int orri_model_settle(const struct orr_model *model, int status)
{
    return model->mesh.ranks == 1 ? status : orr_ranks_settle(status);
}

int orri_model_failure(const struct orr_model *model, char *message, size_t size)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&model->failure_lock;

    if (__atomic_load_n(&model->status, __ATOMIC_ACQUIRE) == 0)
        return ORR_OK;
    pthread_mutex_lock(lock);
    int code = model->status;
    snprintf(message, size, "%s", model->failure);
    pthread_mutex_unlock(lock);
    return code;
}

int orr_model_status(const struct orr_model *model)
{
    char message[sizeof(model->failure)];
    int code = orri_model_failure(model, message, sizeof(message));

    return code == 0 ? ORR_OK : orri_fail(code, "run", "%s", message);
}

void orri_device_check(struct orr_model *model, int64_t run, const char *codelet, const struct orr_cuda *cuda)
{
    if (cuda->code)
        orri_model_fail(model, run, cuda->code, "%s: %s", codelet, cuda->what);
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
