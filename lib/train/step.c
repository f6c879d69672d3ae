/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "train/train.h"

/* The last one may be short. */
static int microbatches_of(const struct orr_training_options *o)
{
    return (int)(((int64_t)o->batch + o->micro_batch - 1) / o->micro_batch);
}

static int check_modes(const struct orr_model *model, const struct orr_training_options *o)
{
    bool apart = o->sync == ORR_SYNC_PARAMETERS;

    if (o->staleness < 0 || o->staleness > ORRI_MOST_STALE)
        return orri_fail(ORR_EINVAL, "train", "a staleness of %d is not in 0..%d", o->staleness, ORRI_MOST_STALE);
    if (o->sync_every < 0)
        return orri_fail(ORR_EINVAL, "train", "synchronising every %d steps", o->sync_every);
    if (apart && (o->staleness > 0 || o->partition == ORR_PARTITION_DYNAMIC))
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "replicas with parameters of their own have neither staleness nor "
                                                          "a dynamic partition"),
                           "leave --staleness and --partition out, or use --sync gradients");
    if (model->dtype == ORR_F16 && (apart || o->staleness > 0))
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "replicas that differ have no loss scale in common for fp16"),
                           "use --dtype bf16");
    if (o->loss_scale < 0 || !isfinite(o->loss_scale) || o->loss_scale_window < 0)
        return orri_fail(ORR_EINVAL, "train", "a loss scale of %g, doubled every %lld steps", o->loss_scale,
                         (long long)o->loss_scale_window);
    if (model->mesh.zero == 3 && (apart || o->staleness > 0))
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "with ZeRO-3 no replica has parameters of its own"),
                           "use --zero 1");
    return ORR_OK;
}

static int check_options(const struct orr_model *model, const struct orr_training_options *o)
{
    if (model->frozen)
        return orri_fail(ORR_EINVAL, "train", "the model is frozen: there are no parameters in fp32 to train");
    if (model->masterless && (o->sync == ORR_SYNC_PARAMETERS || o->staleness > 0))
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "replicas with parameters of their own need fp32 masters"),
                           "use --master-weights fp32");
    if (model->first_trained == model->blocks)
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "every parameter is held: nothing is left to train"),
                           "leave some out of --freeze");
    if (!(o->label_smoothing >= 0 && o->label_smoothing <= 1))
        return orri_fail(ORR_EINVAL, "train", "a label smoothing of %g is not in 0..1", (double)o->label_smoothing);
    if (o->checkpoint_dtype != ORR_F32 && o->checkpoint_dtype != ORR_BF16 && o->checkpoint_dtype != ORR_F16)
        return orri_fail(ORR_EINVAL, "train", "parameters are not saved in %s", orr_dtype_name(o->checkpoint_dtype));
    if (o->micro_batch < 1 || o->seq < 1 || o->batch < 1)
        return orri_fail(ORR_EINVAL, "train", "batch %d, micro-batch %d, seq %d: every one must be at least 1",
                         o->batch, o->micro_batch, o->seq);
    if (microbatches_of(o) < model->mesh.dp)
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "batch %d is %d microbatches of %d, fewer than dp %d", o->batch,
                                     microbatches_of(o), o->micro_batch, model->mesh.dp),
                           "choose a larger --batch, a smaller --micro-batch or a smaller --dp");
    return check_modes(model, o);
}

static int create_state(struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    int64_t count = orr_optimizer_state_count(t->options.optimizer.kind) * parameter->count;
    int home = orri_state_rank(t, parameter, copy);
    struct orr_tile *state = orri_state_tile(t, parameter, copy);

    if (home == t->model->rank)
        ORR_TRY(orr_tile_create(state, ORR_STATE, ORR_F32, count, home, true));
    state->role = ORR_STATE;
    state->dtype = ORR_F32;
    state->count = count;
    state->rank = home;
    state->tag = orri_tag(t->model, ORRI_OPTIMIZER_STATE, copy, parameter->index, 0, 0, 0);
    return ORR_OK;
}

static int create_tiles(struct orr_training *t)
{
    struct orr_model *model = t->model;
    size_t parameters = (size_t)model->parameters, copies = (size_t)t->copies;

    t->state = orri_calloc(parameters * (size_t)t->states, sizeof(*t->state));
    t->squares = orri_calloc(parameters * copies, sizeof(*t->squares));
    t->sum = orri_calloc(parameters * copies, sizeof(*t->sum));
    t->outer = orri_calloc(parameters, sizeof(*t->outer));
    if (!t->state || !t->squares || !t->sum || !t->outer)
        return ORR_ENOMEM;
    for (size_t i = 0; i < parameters * copies; i++)
        if (orri_sum_rank(t, model->parameter[i / copies], (int)(i % copies)) == model->rank)
            ORR_TRY(orr_tile_create(&t->squares[i], ORR_SCALAR, ORR_F64, 1, model->rank, true));
    for (int i = 0; i < model->parameters * t->states; i++)
        ORR_TRY(create_state(t, model->parameter[i / t->states], i % t->states));
    for (int p = 0; t->states > 1 && p < model->parameters; p++)
        if (model->parameter[p]->here == 0)
            ORR_TRY(orr_tile_create(&t->outer[p], ORR_STATE, ORR_F32, model->parameter[p]->count, model->rank, true));
    if (t->copies > 1)
        ORR_TRY(orri_make_own(model));
    if (t->copies > t->states)
        ORR_TRY(orri_exchange_create(t));
    ORR_TRY(orri_deals_create(t));
    ORR_TRY(orri_trees_create(t));
    ORR_TRY(orri_residency_plan(t));
    ORR_TRY(orr_training_set_loss_scale(t, &(struct orr_loss_scale){.scale = t->options.loss_scale}));
    if (model->dtype == ORR_F16)
        t->slots->loss_scale = &t->tree[0].control;
    return ORR_OK;
}

static struct orr_slots_options slots_options(const struct orr_training_options *o)
{
    return (struct orr_slots_options){
        .batch = o->micro_batch,
        .seq = o->seq,
        .microbatches = microbatches_of(o),
        .policy = o->slots,
        .training = true,
        .seed = o->seed,
        .label_smoothing = o->label_smoothing,
    };
}

/* What is received to be summed up; and what replicas with parameters of their own add. */
static void add_pools(const struct orr_model *model, const struct orr_training_options *o, int rank,
                      struct orr_memory_need *need)
{
    struct orr_model there = *model;

    there.rank = rank;
    orri_memory_add(&need->gradients, orri_gradient_pool_bytes(&there, o->staleness == 0));
    int states = orr_optimizer_state_count(o->optimizer.kind);
    if (o->sync == ORR_SYNC_PARAMETERS && states > 1)       /* a single one is as large as a gradient */
        orri_memory_add(&need->gradients, orri_state_pool_bytes(&there, states));
}

static void add_own(const struct orr_model *model, const struct orr_training_options *o, int rank,
                    struct orr_memory_need *need)
{
    const struct orr_slots_options slots = slots_options(o);
    bool apart = o->sync == ORR_SYNC_PARAMETERS, mixed = model->dtype != ORR_F32;
    int dp = model->mesh.dp, states = orr_optimizer_state_count(o->optimizer.kind);
    struct orr_model there = *model;

    if (dp == 1 || !(apart || o->staleness > 0))
        return;
    there.rank = rank;
    orri_memory_add(&need->kept, orri_kept_need(&there, &slots, true) - orri_kept_need(&there, &slots, false));
    for (int i = 0; i < model->parameters * dp; i++) {
        const struct orri_parameter *parameter = model->parameter[i / dp];
        double bytes = (double)parameter->count * sizeof(float);
        bool owner = orri_place_of(parameter, rank) == 0;
        bool here = orri_user_rank(parameter, 0, i % dp, 0) == rank;
        if (orri_is_read_at(parameter, i % dp, rank))
            orri_memory_add(&need->parameters, (double)parameter->count * (double)orr_dtype_size(model->dtype));
        if (mixed && here)
            orri_memory_add(&need->parameters, bytes);
        /* Each replica has a state; the owner's has been counted, and it has the momentum of all. */
        if (apart && i % dp == parameter->owner)
            orri_memory_add(&need->state, owner ? bytes : 0);
        else if (apart && here)
            orri_memory_add(&need->state, bytes * states);
        else if (!apart && owner && !here)
            orri_memory_add(&need->gradients, bytes);
    }
}

int orr_training_memory(const struct orr_model *model, const struct orr_training_options *options, int rank,
                        struct orr_memory_need *need)
{
    ORR_TRY(check_options(model, options));
    struct orr_slots_options slots = slots_options(options);

    ORR_TRY(orr_slots_memory(model, &slots, orr_optimizer_state_count(options->optimizer.kind), rank, need));
    add_pools(model, options, rank, need);
    add_own(model, options, rank, need);
    orri_memory_total(need);
    return ORR_OK;
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
    t->microbatches = microbatches_of(options);
    t->failed = INT64_MAX;
    t->states = options->sync == ORR_SYNC_PARAMETERS ? model->mesh.dp : 1;
    t->copies = options->staleness > 0 ? model->mesh.dp : t->states;
    t->in_flight = ORRI_IN_FLIGHT + options->staleness;
    if (t->options.sync_every == 0)
        t->options.sync_every = 1;
    if (t->options.loss_scale == 0)
        t->options.loss_scale = 65536;
    if (t->options.loss_scale_window == 0)
        t->options.loss_scale_window = 2000;
    if (options->outer_lr == 0)
        t->options.outer_lr = 1;
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
    if (t->model->mesh.pretended)
        starpu_task_wait_for_all();     /* no answer from other ranks tells that this one's summaries were made */
    orr_slots_destroy(t->slots);
    for (int i = 0; t->state && i < t->model->parameters * t->states; i++)
        orr_tile_destroy(&t->state[i]);
    for (int i = 0; t->squares && i < t->model->parameters * t->copies; i++)
        orr_tile_destroy(&t->squares[i]);
    for (int p = 0; t->outer && p < t->model->parameters; p++)
        orr_tile_destroy(&t->outer[p]);
    orri_exchange_destroy(t);
    orri_destroy_own(t->model);
    orri_deals_destroy(t);
    free(t->outer);
    orri_trees_destroy(t);
    free(t->state);
    free(t->squares);
    free(t->sum);
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

static struct orri_microbatch microbatch(const struct orr_training *t, int m)
{
    const struct orr_training_options *o = &t->options;
    int first = m * o->micro_batch;
    struct orri_microbatch mb = {
        .run = t->run,
        .step = t->steps,
        .index = m,
        .first_sample = (uint64_t)first,
        .count = o->batch - first < o->micro_batch ? o->batch - first : o->micro_batch,
        .replica = t->replica[m],
        .turn = t->turn[m],
    };

    mb.here = orri_replica_here(t->model, mb.replica);
    return mb;
}

/* The loop that a textbook would print; StarPU makes the graph of it. Microbatches that are computed elsewhere are passed
 * over, unless parameters are lent to them. */
static int gradients_submit(struct orr_training *t, const struct orr_source *source)
{
    struct orr_model *model = t->model;

    orri_deal_out(t);
    for (int m = 0; m < t->microbatches; m++) {
        struct orri_microbatch mb = microbatch(t, m);
        if (!mb.here && model->mesh.zero != 3)
            continue;
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
    if (t->states == 1 || ((t->steps + 1) % t->options.sync_every != 0 && t->steps + 1 != t->options.schedule.steps))
        return ORR_OK;
    t->synchronised = t->steps + 1;
    return orri_synchronise_submit(t);
}

int orr_training_synchronise(struct orr_training *t)
{
    if (t->copies == 1 || t->synchronised == t->steps)
        return ORR_OK;
    t->run = t->model->runs++;
    t->synchronised = t->steps;
    return orri_model_submitted(t->model, orri_synchronise_submit(t));
}

/* Several ranks must make the same steps: all see that a step failed when as many as can be in flight were submitted
 * behind it. */
static int check_failed(struct orr_training *t)
{
    ORR_TRY(orri_model_check(t->model));
    pthread_mutex_lock(&t->lock);
    bool failed = t->failed <= t->submitted - t->in_flight;
    pthread_mutex_unlock(&t->lock);
    return failed ? orr_model_status(t->model) : ORR_OK;
}

static int tasks_submit(struct orr_training *t, const struct orr_source *source, bool update)
{
    double lr = update ? orr_schedule_rate(&t->options.schedule, t->steps) : 0;

    ORR_TRY(make_queue_room(t));
    ORR_TRY(gradients_submit(t, source));
    if (update)
        ORR_TRY(updates_submit(t, lr));
    return orri_report_submit(t, lr);
}

static int step_submit(struct orr_training *t, const struct orr_source *source, bool update)
{
    int64_t tasks = t->model->tasks, messages = t->model->messages;

    wait_for_reports(t, t->in_flight - 1);
    ORR_TRY(check_failed(t));
    double begin = orri_seconds();
    t->run = t->model->runs++;
    ORR_TRY(orri_model_submitted(t->model, tasks_submit(t, source, update)));
    t->submission = (struct orr_submission){t->model->tasks - tasks, t->model->messages - messages, orri_seconds() - begin};
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
    int64_t samples = t->samples;
    int taken;

    do {
        t->samples = samples;
        ORR_TRY(step_submit(t, source, false));
        while ((taken = orr_training_next(t, report, true)) == 1 && report->step < t->steps)
            ;
    } while (taken == 1 && report->skipped);
    return taken < 0 ? taken : ORR_OK;
}

static struct orr_tile *sum_of(void *self, const struct orri_parameter *parameter, int64_t *offset)
{
    struct orr_training *t = self;

    (void)offset;
    return t->sum[parameter->index * t->copies];
}

int orr_training_read_gradient(struct orr_training *t, int index, float *values)
{
    struct orr_parameter_info info;

    orr_model_parameter(t->model, index, &info);
    const struct orri_control *control = orr_tile_acquire(&t->tree[0].control, false);
    float scale = control->labels ? (float)(1 / ((double)control->labels * control->used_factor)) : 0;
    orr_tile_release(&t->tree[0].control);
    ORR_TRY(orri_view_gather(t->model, index, sum_of, t, values));
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

struct orr_residency orr_training_residency(const struct orr_training *t)
{
    return t->residency;
}

struct orr_submission orr_training_submission(const struct orr_training *t)
{
    return t->submission;
}

const char *orr_training_state_name(const struct orr_training *t, int which)
{
    switch (t->options.optimizer.kind) {
    case ORR_SGD: return "momentum_buffer";
    case ORR_RMSPROP: return "square_avg";
    default: return which == 0 ? "exp_avg" : "exp_avg_sq";
    }
}

struct state {
    struct orr_training *training;
    int which, copy;            /* copy -1: the owner's */
};

static struct orr_tile *state_of(void *self, const struct orri_parameter *parameter, int64_t *offset)
{
    const struct state *state = self;

    *offset = state->which * parameter->count;
    return orri_state_tile(state->training, parameter, state->copy < 0 ? parameter->owner : state->copy);
}

int orr_training_read_state(struct orr_training *t, int index, int which, float *values)
{
    struct state state = {t, which, -1};

    return orri_view_gather(t->model, index, state_of, &state, values);
}

int orr_training_write_state(struct orr_training *t, int index, int which, const float *values)
{
    struct state state = {t, which, 0};

    for (; state.copy < t->states; state.copy++)
        ORR_TRY(orri_view_scatter(t->model, index, state_of, &state, values));
    return ORR_OK;
}

/* All ranks have the control of the last step. */
int orr_training_loss_scale(struct orr_training *t, struct orr_loss_scale *scale)
{
    *scale = (struct orr_loss_scale){.scale = 1};
    if (t->model->dtype != ORR_F16)
        return ORR_OK;
    const struct orri_control *control = orr_tile_acquire(&t->tree[0].control, false);
    if (!control)
        return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be read");
    *scale = (struct orr_loss_scale){control->loss_scale, control->good, control->skipped};
    orr_tile_release(&t->tree[0].control);
    return ORR_OK;
}

/* Of a replica that has its control for itself other ranks have none. */
int orr_training_set_loss_scale(struct orr_training *t, const struct orr_loss_scale *scale)
{
    t->scale = *scale;
    if (t->model->dtype != ORR_F16)
        return ORR_OK;
    struct orri_control *control = orr_tile_acquire(&t->tree[0].control, true);
    if (!control)
        return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be written");
    control->loss_scale = scale->scale;
    control->loss_factor = orri_loss_factor(t, scale->scale);
    control->good = scale->good;
    control->skipped = scale->skipped;
    orr_tile_release(&t->tree[0].control);
    return ORR_OK;
}

int orr_training_resume(struct orr_training *t, int64_t steps, int64_t samples)
{
    if (t->copies > 1)
        ORR_TRY(orri_fill_own_submit(t->model, t->model->runs++));
    orri_exchange_resume(t, steps);
    t->steps = t->synchronised = steps;
    t->samples = samples;
    return ORR_OK;
}
