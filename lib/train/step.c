/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "train/train.h"

static int check_options(const struct orr_model *model, const struct orr_training_options *o)
{
    if (o->micro_batch < 1 || o->seq < 1 || o->batch < 1)
        return orri_fail(ORR_EINVAL, "train", "batch %d, micro-batch %d, seq %d: every one must be at least 1",
                         o->batch, o->micro_batch, o->seq);
    if (o->batch % ((int64_t)o->micro_batch * model->mesh.dp) != 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "batch %d is not divisible by micro-batch %d x dp %d",
                                     o->batch, o->micro_batch, model->mesh.dp),
                           "choose --batch as a multiple of --micro-batch times --dp");
    return ORR_OK;
}

static int create_tiles(struct orr_training *t)
{
    struct orr_model *model = t->model;
    int states = orr_optimizer_state_count(t->options.optimizer.kind);

    t->state = orri_calloc((size_t)model->parameters, sizeof(*t->state));
    t->squares = orri_calloc((size_t)model->parameters, sizeof(*t->squares));
    if (!t->state || !t->squares)
        return ORR_ENOMEM;
    ORR_TRY(orr_tile_create(&t->control, ORR_SCALAR, ORR_U8, sizeof(struct orri_control), 0, true));
    for (int p = 0; p < model->parameters; p++) {
        const struct orri_parameter *parameter = model->parameter[p];
        ORR_TRY(orr_tile_create(&t->state[p], ORR_STATE, ORR_F32, states * parameter->count, parameter->value.rank,
                                true));
        ORR_TRY(orr_tile_create(&t->squares[p], ORR_SCALAR, ORR_F64, 1, parameter->value.rank, true));
    }
    return ORR_OK;
}

static struct orr_slots_options slots_options(const struct orr_training_options *o)
{
    return (struct orr_slots_options){
        .batch = o->micro_batch,
        .seq = o->seq,
        .microbatches = o->batch / o->micro_batch,
        .policy = o->slots,
        .training = true,
        .seed = o->seed,
    };
}

void orr_training_memory(const struct orr_model *model, const struct orr_training_options *options,
                         struct orr_memory_need *need)
{
    struct orr_slots_options slots = slots_options(options);

    orr_slots_memory(model, &slots, orr_optimizer_state_count(options->optimizer.kind), need);
}

struct orr_training *orr_training_create(struct orr_model *model, const struct orr_training_options *options)
{
    if (check_options(model, options) != 0 || orr_model_allocate(model) != 0)
        return NULL;
    struct orr_training *t = orri_calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->model = model;
    t->options = *options;
    t->microbatches = options->batch / options->micro_batch;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->finished, NULL);
    struct orr_slots_options slots = slots_options(options);
    t->slots = orr_slots_create(model, &slots);
    if (!t->slots || create_tiles(t) != 0) {
        orr_training_destroy(t);
        return NULL;
    }
    return t;
}

static void wait_for_reports(struct orr_training *t, int64_t most_in_flight)
{
    pthread_mutex_lock(&t->lock);
    while (t->submitted - t->reported > most_in_flight)
        pthread_cond_wait(&t->finished, &t->lock);
    if (t->last_end == 0)
        t->last_end = orri_seconds();
    pthread_mutex_unlock(&t->lock);
}

void orr_training_destroy(struct orr_training *t)
{
    if (!t)
        return;
    wait_for_reports(t, 0);
    orr_slots_destroy(t->slots);
    for (int p = 0; p < t->model->parameters; p++) {
        if (t->state)
            orr_tile_destroy(&t->state[p]);
        if (t->squares)
            orr_tile_destroy(&t->squares[p]);
    }
    orr_tile_destroy(&t->control);
    free(t->state);
    free(t->squares);
    free(t->queue);
    pthread_cond_destroy(&t->finished);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Makes the queue long enough for the reports not taken and one more; each keeps its place modulo the size. */
static int make_queue_room(struct orr_training *t)
{
    int64_t size = t->queue_size ? 2 * t->queue_size : 4;

    if (t->submitted - t->taken < t->queue_size)
        return ORR_OK;
    struct orr_step *queue = orri_alloc((size_t)size * sizeof(*queue));
    if (!queue)
        return ORR_ENOMEM;
    pthread_mutex_lock(&t->lock);
    for (int64_t i = t->taken; i < t->reported; i++)
        queue[i % size] = t->queue[i % t->queue_size];
    free(t->queue);
    t->queue = queue;
    t->queue_size = size;
    pthread_mutex_unlock(&t->lock);
    return ORR_OK;
}

/* The loop that a textbook would print; StarPU makes the graph of it. */
static int gradients_submit(struct orr_training *t, const struct orr_source *source)
{
    struct orr_model *model = t->model;

    for (int m = 0; m < t->microbatches; m++) {
        struct orri_microbatch mb = {t->run, t->steps, m, (uint64_t)m * (uint64_t)t->options.micro_batch};
        ORR_TRY(orri_input_submit(t->slots, &mb, source, (uint64_t)t->samples + mb.first_sample));
        for (int l = 0; l < model->blocks; l++)
            ORR_TRY(orri_forward_submit(t->slots, &mb, model->block[l]));
        for (int l = model->blocks - 1; l >= 0; l--)
            ORR_TRY(orri_backward_submit(t->slots, &mb, model->block[l]));
    }
    for (int p = 0; p < model->parameters; p++)
        ORR_TRY(orri_reduce_submit(t, p));
    return orri_control_submit(t);
}

static int updates_submit(struct orr_training *t, double lr)
{
    for (int p = 0; p < t->model->parameters; p++)
        ORR_TRY(orri_update_submit(t, p, lr));
    return ORR_OK;
}

static int step_submit(struct orr_training *t, const struct orr_source *source, bool update)
{
    int64_t tasks = t->model->tasks;
    double lr = update ? orr_schedule_rate(&t->options.schedule, t->steps) : 0;

    wait_for_reports(t, ORRI_IN_FLIGHT - 1);
    ORR_TRY(orr_model_status(t->model));
    ORR_TRY(make_queue_room(t));
    t->run = t->model->runs++;
    ORR_TRY(gradients_submit(t, source));
    if (update)
        ORR_TRY(updates_submit(t, lr));
    ORR_TRY(orri_report_submit(t, lr));
    t->tasks_per_step = t->model->tasks - tasks;
    t->steps++;
    t->samples += t->options.batch;
    t->submitted++;
    return ORR_OK;
}

int orr_training_submit(struct orr_training *t, const struct orr_source *source)
{
    return step_submit(t, source, true);
}

int orr_training_gradients(struct orr_training *t, const struct orr_source *source, struct orr_step *report)
{
    ORR_TRY(step_submit(t, source, false));
    int taken;
    while ((taken = orr_training_next(t, report, true)) == 1 && report->step < t->steps)
        ;
    return taken < 0 ? taken : ORR_OK;
}

int orr_training_read_gradient(struct orr_training *t, int index, float *values)
{
    struct orr_parameter_info info;
    int p, view;

    orri_model_view(t->model, index, &p, &view);
    orr_model_parameter(t->model, index, &info);
    struct orri_parameter *parameter = t->model->parameter[p];
    const struct orri_control *control = orr_tile_acquire(&t->control, false);
    float scale = control->labels ? (float)(1 / (double)control->labels) : 0;
    orr_tile_release(&t->control);
    ORR_TRY(orri_tile_copy_out(&parameter->gradient[0], parameter->view[view].offset, info.count, values));
    for (int64_t i = 0; i < info.count; i++)
        values[i] *= scale;
    return ORR_OK;
}

int orr_training_next(struct orr_training *t, struct orr_step *report, bool wait)
{
    bool taken = false;

    pthread_mutex_lock(&t->lock);
    while (wait && t->taken == t->reported && t->reported < t->submitted)
        pthread_cond_wait(&t->finished, &t->lock);
    if (t->taken < t->reported && t->queue[t->taken % t->queue_size].step > 0) {
        *report = t->queue[t->taken % t->queue_size];
        t->taken++;
        taken = true;
    }
    pthread_mutex_unlock(&t->lock);
    return taken ? 1 : orr_model_status(t->model);
}

int64_t orr_training_steps(const struct orr_training *t)
{
    return t->steps;
}

int64_t orr_training_samples(const struct orr_training *t)
{
    return t->samples;
}

int64_t orr_training_tasks_per_step(const struct orr_training *t)
{
    return t->tasks_per_step;
}

const char *orr_training_state_name(const struct orr_training *t, int which)
{
    switch (t->options.optimizer.kind) {
    case ORR_SGD: return "momentum_buffer";
    case ORR_RMSPROP: return "square_avg";
    default: return which == 0 ? "exp_avg" : "exp_avg_sq";
    }
}

/* The values of state `which` of a named parameter, inside its tile. */
static struct orr_tile *state_of(struct orr_training *t, int index, int which, int64_t *offset)
{
    int p, view;

    orri_model_view(t->model, index, &p, &view);
    *offset = which * t->model->parameter[p]->count + t->model->parameter[p]->view[view].offset;
    return &t->state[p];
}

int orr_training_read_state(struct orr_training *t, int index, int which, float *values)
{
    struct orr_parameter_info info;
    int64_t offset;
    struct orr_tile *tile = state_of(t, index, which, &offset);

    orr_model_parameter(t->model, index, &info);
    return orri_tile_copy_out(tile, offset, info.count, values);
}

int orr_training_write_state(struct orr_training *t, int index, int which, const float *values)
{
    struct orr_parameter_info info;
    int64_t offset;
    struct orr_tile *tile = state_of(t, index, which, &offset);

    orr_model_parameter(t->model, index, &info);
    return orri_tile_copy_in(tile, offset, info.count, values);
}

void orr_training_resume(struct orr_training *t, int64_t steps, int64_t samples)
{
    t->steps = steps;
    t->samples = samples;
}
