/* SPDX-License-Identifier: Apache-2.0 */
/* Edges of the graph that lead from one rank to another. */
#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#ifdef ORR_HAVE_MPI
#include <starpu_mpi.h>
#endif

#include "core/watch.h"
#include "graph/graph.h"

/* A message must not be taken for one of the same tile that is still under way: what a step sends has arrived before as
 * many as can be in flight have begun behind it. */
enum { RUNS = 8 };
_Static_assert((int)ORRI_MOST_STEPS < (int)RUNS, "");

/* ---- tags ---------------------------------------------------------------------------------------------- */

static int64_t indices(const struct orr_model *model)
{
    return model->blocks > model->parameters ? model->blocks : model->parameters;
}

int64_t orri_tag(const struct orr_model *model, enum orri_message_kind kind, int d, int index, int k, int i, int j)
{
    int64_t tag = (int64_t)kind;

    tag = tag * model->mesh.dp + d;
    tag = tag * indices(model) + index;
    tag = tag * ORRI_MAX_SLOTS + k;
    tag = tag * model->mesh.tp + i;
    return tag * model->mesh.tp + j;
}

int orri_check_tags(const struct orr_model *model)
{
    const int64_t extents[] = {ORRI_MESSAGES, model->mesh.dp, indices(model), ORRI_MAX_SLOTS,
                               model->mesh.tp, model->mesh.tp, RUNS};
    int64_t all = 1;

    for (size_t i = 0; i < ORRI_COUNT(extents); i++)
        if (__builtin_mul_overflow(all, extents[i], &all))
            return orri_fail(ORR_EINVAL, "mesh", "dp %d x tp %d x %lld parameters are more than message tags can number",
                             model->mesh.dp, model->mesh.tp, (long long)indices(model));
    return ORR_OK;
}

/* ---- messages -------------------------------------------------------------------------------------------- */

/* What a message carries, for the watchdog: "gradient of attention of layer 3". Made when it is first sent. */
static const char *name_of(struct orr_model *model, int64_t tag)
{
    static const char *const kinds[ORRI_MESSAGES] = {
        [ORRI_VALUE] = "value",
        [ORRI_GRADIENT] = "gradient",
        [ORRI_BRANCH] = "branch",
        [ORRI_PARTIAL] = "partial value",
        [ORRI_PARTIAL_GRADIENT] = "partial gradient",
        [ORRI_PREDICTION_PART] = "part of the prediction",
        [ORRI_PREDICTION] = "prediction",
        [ORRI_PARAMETER] = "parameters",
        [ORRI_PARAMETER_GRADIENT] = "gradient of the parameters",
        [ORRI_PARAMETER_READ] = "parameters",
        [ORRI_OPTIMIZER_STATE] = "optimizer state",
        [ORRI_SUMMARY] = "summary of the step",
        [ORRI_CONTROL] = "control of the step",
    };
    int64_t rest = tag / ORRI_MAX_SLOTS / model->mesh.tp / model->mesh.tp, index = rest % indices(model);
    enum orri_message_kind kind = (enum orri_message_kind)(rest / indices(model) / model->mesh.dp);

    if (kind >= ORRI_SUMMARY)
        return kinds[kind];
    if (!model->message_name)
        model->message_name = orri_calloc((size_t)(ORRI_MESSAGES * indices(model)), sizeof(*model->message_name));
    if (!model->message_name)
        return kinds[kind];
    char **name = &model->message_name[(int64_t)kind * indices(model) + index];
    bool predicts = kind == ORRI_PREDICTION || kind == ORRI_PREDICTION_PART;
    const struct orr_block *block = predicts ? model->block[model->blocks - 1]
                                    : kind < ORRI_PREDICTION_PART ? model->block[index]
                                                                  : model->parameter[index]->group->block;
    if (!*name)
        *name = orri_format("%s of %s of layer %d", kinds[kind], block->cls->name, block->layer);
    return *name ? *name : kinds[kind];
}

void orri_message_names_destroy(struct orr_model *model)
{
    for (int64_t i = 0; model->message_name && i < ORRI_MESSAGES * indices(model); i++)
        free(model->message_name[i]);
    free(model->message_name);
}

static void pretend_cpu(void *buffers[], void *argument)
{
    (void)buffers, (void)argument;
}

/* In place of a message an empty task that reads or writes what it would. */
static int pretend_submit(struct orr_model *model, struct orr_tile *tile, int mode)
{
    static struct starpu_codelet sends = {
        .cpu_funcs = {pretend_cpu}, .nbuffers = 1, .modes = {STARPU_R}, .name = "send", .color = ORRI_COLOR_OTHER};
    static struct starpu_codelet receives = {
        .cpu_funcs = {pretend_cpu}, .nbuffers = 1, .modes = {STARPU_W}, .name = "receive", .color = ORRI_COLOR_OTHER};
    struct orri_buffer buffer = {tile, mode};
    char nothing = 0;

    model->tasks--;     /* it is counted as a message */
    return orri_task_submit(model, mode == STARPU_R ? &sends : &receives, 1, &buffer, &nothing, 1, ORRI_PRIORITY_UPDATE, 0, 0);
}

#ifdef ORR_HAVE_MPI

static int check(int status, const char *what)
{
    return status == 0 ? ORR_OK : orri_fail(ORR_EDEVICE, "StarPU-MPI", "%s was refused: %s", what, strerror(-status));
}

static int mpi_send(starpu_data_handle_t handle, int to, int64_t tag, bool wait_for_receiver, void *pending)
{
    return check(wait_for_receiver ? starpu_mpi_issend_detached(handle, to, tag, MPI_COMM_WORLD, orri_watch_done, pending)
                                   : starpu_mpi_isend_detached(handle, to, tag, MPI_COMM_WORLD, orri_watch_done, pending),
                 "a send");
}

static int mpi_receive(starpu_data_handle_t handle, int from, int64_t tag, void *pending)
{
    return check(starpu_mpi_irecv_detached(handle, from, tag, MPI_COMM_WORLD, orri_watch_done, pending), "a receive");
}

#else

/* Never reached: without MPI there is one rank, and a mesh of more is refused or pretended. */
static int mpi_send(starpu_data_handle_t handle, int to, int64_t tag, bool wait_for_receiver, void *pending)
{
    (void)handle, (void)tag, (void)wait_for_receiver, (void)pending;
    return orri_fail(ORR_EDEVICE, "MPI", "a tile is to be sent to rank %d, but this build has no MPI", to);
}

static int mpi_receive(starpu_data_handle_t handle, int from, int64_t tag, void *pending)
{
    (void)handle, (void)tag, (void)pending;
    return orri_fail(ORR_EDEVICE, "MPI", "a tile is to be received from rank %d, but this build has no MPI", from);
}

#endif

static int send_submit(struct orr_model *model, struct orr_tile *tile, int to, int64_t tag, bool wait_for_receiver)
{
    model->messages++;
    if (model->mesh.pretended)
        return pretend_submit(model, tile, STARPU_R);
    return mpi_send(tile->handle, to, tag, wait_for_receiver,
                    orri_watch_transfer(false, to, name_of(model, tag / RUNS), tag));
}

static int receive_submit(struct orr_model *model, struct orr_tile *tile, int from, int64_t tag)
{
    model->messages++;
    if (model->mesh.pretended)
        return pretend_submit(model, tile, STARPU_W);
    orri_tile_written(tile);
    return mpi_receive(tile->handle, from, tag, orri_watch_transfer(true, from, name_of(model, tag / RUNS), tag));
}

int orri_transfer_between_submit(struct orr_model *model, struct orr_tile *source, int from, struct orr_tile *target, int to,
                                 int64_t run)
{
    int64_t tag = source->tag * RUNS + run % RUNS;

    if (from == to)
        return ORR_OK;
    if (model->rank == from)
        return send_submit(model, source, to, tag, false);
    if (model->rank == to)
        return receive_submit(model, target, from, tag);
    return ORR_OK;
}

int orri_transfer_submit(struct orr_model *model, struct orr_tile *tile, int from, int to, int64_t run)
{
    return orri_transfer_between_submit(model, tile, from, tile, to, run);
}

int orri_copy_submit(struct orr_tile *source, struct orr_tile *target)
{
    int status = starpu_data_cpy(target->handle, source->handle, 1, NULL, NULL);

    orri_tile_written(target);
    return status == 0 ? ORR_OK : orri_fail(ORR_EDEVICE, "StarPU", "a copy was refused: %s", strerror(-status));
}

/* ---- pools ------------------------------------------------------------------------------------------------- */

int orri_parameter_slots(const struct orr_model *model, int64_t count)
{
    int slots = model->mesh.parameter_slots ? model->mesh.parameter_slots : 2, received = 0;

    for (int p = 0; p < model->parameters; p++)
        received += model->parameter[p]->count == count && orri_place_of(model->parameter[p], model->rank) > 0;
    return received < slots ? received : slots;
}

/* Two, so that one can be received while the other is added; one where no more come in a step. */
int orri_gradient_slots(const struct orr_model *model, int64_t count)
{
    int received = 0;

    for (int p = 0; p < model->parameters && received < 2; p++)
        if (model->parameter[p]->count == count)
            received += orri_received_over(model, model->parameter[p]) + orri_received_within(model, model->parameter[p]);
    return received == 1 ? 1 : 2;
}

static struct orri_pool *pool_of(struct orr_model *model, struct orri_pool **pools, const struct orr_tile *like)
{
    struct orri_pool *pool = *pools;

    while (pool && pool->count != like->count)
        pool = pool->next;
    if (pool)
        return pool;
    int size = pools == &model->values ? orri_parameter_slots(model, like->count)
                                        : orri_gradient_slots(model, like->count);
    pool = orri_calloc(1, sizeof(*pool));
    struct orr_tile *tile = orri_calloc((size_t)size, sizeof(*tile));
    if (!pool || !tile) {
        free(pool);
        free(tile);
        return NULL;
    }
    *pool = (struct orri_pool){.next = *pools, .count = like->count, .size = size, .tile = tile};
    *pools = pool;
    for (int i = 0; i < size; i++)
        if (orr_tile_create(&tile[i], like->role, like->dtype, like->count, model->rank, false) != 0)
            return NULL;
    return pool;
}

void orri_pools_destroy(struct orri_pool *pools)
{
    while (pools) {
        struct orri_pool *next = pools->next;
        for (int i = 0; i < pools->size; i++)
            orr_tile_destroy(&pools->tile[i]);
        free(pools->tile);
        free(pools);
        pools = next;
    }
}

/* The sender waits until the receiver has a tile for it: StarPU-MPI would store what comes earlier in memory of its own,
 * which nothing bounds. */
struct orr_tile *orri_receive_submit(struct orr_model *model, struct orri_pool **pools, struct orr_tile *tile, int from,
                                     int to, int64_t run)
{
    int64_t tag = tile->tag * RUNS + run % RUNS;

    if (from == to)
        return tile;
    if (model->rank == from)
        return send_submit(model, tile, to, tag, true) == 0 ? tile : NULL;
    if (model->rank != to)
        return tile;
    struct orri_pool *pool = pool_of(model, pools, tile);
    if (!pool)
        return NULL;
    struct orr_tile *slot = &pool->tile[pool->used++ % pool->size];
    return receive_submit(model, slot, from, tag) == 0 ? slot : NULL;
}
