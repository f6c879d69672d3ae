/* SPDX-License-Identifier: Apache-2.0 */
/* From a codelet and its tiles to a StarPU task. */
#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#include "core/watch.h"
#include "graph/graph.h"

/* ---- priorities ----------------------------------------------------------------------------------- */

/* Classes first, then the earlier microbatch. Larger is more urgent. */
static int priority_of(enum orri_priority class, int order)
{
    return ((int)class + 1) * (1 << 20) - (order < 1 << 20 ? order : (1 << 20) - 1);
}

/* ---- submitting ----------------------------------------------------------------------------------- */

static int submit(struct orr_model *model, struct starpu_task *task, int buffers, struct starpu_codelet *codelet, int layer,
                  int microbatch)
{
    task->cl = codelet;
    if (codelet->nbuffers == STARPU_VARIABLE_NBUFFERS)
        task->nbuffers = buffers;
    task->callback_func = orri_watch_done;
    task->callback_arg = orri_watch_task(task, codelet->name, layer, microbatch);
    int status = starpu_task_submit(task);
    if (status != 0) {
        orri_watch_done(task->callback_arg);
        task->destroy = 0;
        starpu_task_destroy(task);
        return orri_fail(ORR_EDEVICE, "StarPU", "a task of codelet '%s' was refused: %s", codelet->name,
                         strerror(-status));
    }
    model->tasks++;
    return ORR_OK;
}

/* Runs before what waits for the task goes on. On a device it began, for StarPU, when the task before it in the worker's queue
 * ended, or else when it was enqueued: the time that it waited there is not counted. */
static void add_time(void *busy)
{
    struct starpu_profiling_task_info *info = starpu_task_get_current()->profiling_info;

    if (info)
        __atomic_fetch_add((int64_t *)busy, (int64_t)(1e3 * starpu_timing_timespec_delay_us(&info->start_time, &info->end_time)),
                           __ATOMIC_RELAXED);
}

/* StarPU keeps up to STARPU_NMAXBUFS buffers inside the task and more of them beside it. */
static int set_buffers(struct starpu_task *task, int buffers, const struct orri_buffer *buffer)
{
    starpu_data_handle_t *handles = task->handles;
    enum starpu_data_access_mode *modes = task->modes;

    if (buffers > STARPU_NMAXBUFS) {
        handles = task->dyn_handles = malloc((size_t)buffers * sizeof(*handles));
        modes = task->dyn_modes = malloc((size_t)buffers * sizeof(*modes));
        if (!handles || !modes)
            return orri_fail(ORR_ENOMEM, "StarPU", "no room for a task of %d buffers", buffers);
    }
    for (int i = 0; i < buffers; i++) {
        handles[i] = buffer[i].tile->handle;
        modes[i] = (enum starpu_data_access_mode)buffer[i].mode;
    }
    return ORR_OK;
}

static int task_submit(struct orr_model *model, struct starpu_codelet *codelet, int worker, int buffers,
                       const struct orri_buffer *buffer, const void *argument, size_t argument_size, int priority,
                       double flops, int layer, int microbatch, int64_t *busy)
{
    struct starpu_task *task = starpu_task_create();
    void *copy = orri_alloc(argument_size);

    if (!task || !copy || set_buffers(task, buffers, buffer) != 0) {
        free(copy);
        if (task)
            starpu_task_destroy(task);
        return task ? ORR_ENOMEM : orri_fail(ORR_ENOMEM, "StarPU", "there is no room for a task");
    }
    memcpy(copy, argument, argument_size);
    task->cl_arg = copy;
    task->cl_arg_size = argument_size;
    task->cl_arg_free = 1;
    task->priority = priority;
    task->flops = flops;
    task->epilogue_callback_func = busy ? add_time : NULL;
    task->epilogue_callback_arg = busy;
    task->execute_on_a_specific_worker = worker >= 0;
    task->workerid = worker >= 0 ? (unsigned)worker : 0;
    if (worker == ORRI_ON_CPU)
        task->where = STARPU_CPU;
    ORR_TRY(submit(model, task, buffers, codelet, layer, microbatch));
    for (int i = 0; i < buffers; i++)
        if (buffer[i].mode & STARPU_W)
            orri_tile_written(buffer[i].tile);
    /* The hint reads the tile: among commuting tasks it would keep those behind it from going first. */
    for (int i = 0; i < buffers; i++)
        if (worker >= 0 && buffer[i].tile->streamed && !(buffer[i].mode & STARPU_COMMUTE))
            starpu_data_wont_use(buffer[i].tile->handle);
    return ORR_OK;
}

int orri_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int buffers,
                     const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                     enum orri_priority priority, int order, double flops)
{
    return task_submit(model, codelet, ORRI_ANYWHERE, buffers, buffer, argument, argument_size, priority_of(priority, order), flops, -1,
                       -1, NULL);
}

int orri_task_submit_at(struct orr_model *model, struct starpu_codelet *codelet, int worker, int buffers,
                        const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                        enum orri_priority priority, int order)
{
    return task_submit(model, codelet, worker, buffers, buffer, argument, argument_size, priority_of(priority, order), 0, -1,
                       -1, NULL);
}

int orri_pass_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int worker, int buffers,
                          const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                          enum orri_priority priority, int layer, int microbatch, double flops, int64_t *busy)
{
    return task_submit(model, codelet, worker, buffers, buffer, argument, argument_size, priority_of(priority, microbatch), flops,
                       layer, microbatch, busy);
}
