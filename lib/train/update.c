/* SPDX-License-Identifier: Apache-2.0 */
/* From gradients to parameters, and from these to all who read them. */
#include <math.h>
#include <starpu.h>

#include "core/team.h"
#include "core/vector_cuda.h"

#include "train/train.h"

/* ---- update: the optimizer on one parameter tile --------------------------------------------------- */

#define ROUNDING_STREAM (1u << 31)      /* dropout's are below */
enum { PIECE = ORRI_TEAM_ELEMENTS };

struct update {
    struct orr_model *model;
    int64_t run;
    const struct orri_parameter *parameter;
    struct orr_optimizer optimizer;
    double lr;
    int64_t step;
    enum orr_dtype dtype;           /* that blocks read parameters in     */
    bool masters;                   /* which are rounded from others      */
    struct orr_rng rounding;        /* where they are not                 */
};

/* What an update changes, and by what. */
struct operands {
    int64_t t;
    double lr;
    float scale;
    const float *g;
    void *p;
    float *state;
    char *working;
};

/* Elements k .. k + count - 1, of a view, by pieces, which are rounded while they are in the caches: p in fp32 to `working`, or what is in
 * bf16 alone at random. */
static void apply_pieces(const struct update *update, const struct operands *o, bool matrix, int64_t k, int64_t count)
{
    bool alone = update->dtype != ORR_F32 && !update->masters;
    size_t size = orr_dtype_size(update->dtype);
    float wide[PIECE];

    for (int64_t end = k + count; k < end; k += PIECE) {
        size_t n = end - k < PIECE ? (size_t)(end - k) : PIECE;
        float *piece = alone ? wide : (float *)o->p + k;
        char *base = alone ? o->p : o->working, *narrow = base ? base + (size_t)k * size : NULL;
        if (alone)
            orri_widen(update->dtype, n, narrow, piece);
        orri_optimizer_update(&update->optimizer, matrix, o->lr, o->t, o->scale, (int64_t)n, o->g + k, piece, o->state + k,
                              update->parameter->count);
        if (alone)
            orri_round_at_random(&update->rounding, (uint64_t)k, n, piece, narrow);
        else if (update->masters)
            orri_round(update->dtype, n, piece, narrow);
    }
}

static void apply(const struct update *update, int64_t t, float scale, const float *g, void *p, float *state, char *working)
{
    for (int v = 0; v < update->parameter->views; v++) {
        const struct orr_view *view = &update->parameter->view[v];
        const struct operands o = {t, update->lr * update->parameter->rate[v], scale, g, p, state, working};
        if (update->parameter->rate[v] == 0)
            continue;
        ORRI_TEAM_FOR(orri_view_count(view), PIECE, k, n, apply_pieces(update, &o, view->ndim == 2, view->offset + k, n));
    }
}

void orri_update_apply(const struct orr_optimizer *optimizer, const struct orri_parameter *parameter, double lr, int64_t step,
                       float scale, const float *g, float *p, float *state)
{
    const struct update update = {.parameter = parameter, .optimizer = *optimizer, .lr = lr, .dtype = ORR_F32};

    apply(&update, step, scale, g, p, state, NULL);
}

/* Buffers: the parameters and the optimizer's state; the gradient, control, the sum of squares; and, where blocks read
 * others, rounded from these, the others. */
static void update_cpu(void *buffers[], void *argument)
{
    const struct update *update = argument;
    const struct orri_parameter *parameter = update->parameter;
    void *p = orri_pointer(buffers[0]);
    float *state = orri_pointer(buffers[1]);
    const float *g = orri_pointer(buffers[2]);
    const struct orri_control *control = orri_pointer(buffers[3]);
    int64_t t = update->step + 1 - control->skipped;
    float scale = (float)control->scale;

    if (orri_control_stopped(update->model, update->run, control))
        return;
    if (control->skip)
        return;
    if (!isfinite(*(const double *)orri_pointer(buffers[4]))) {
        orri_gradient_fail(update->model, update->run, parameter, update->step);
        return;
    }
    apply(update, t, scale, g, p, state, update->masters ? orri_pointer(buffers[5]) : NULL);
}

#ifdef ORR_HAVE_CUDA

struct orri_cuda_update orri_update_on_device(const struct orr_optimizer *optimizer, const struct orri_parameter *parameter,
                                              double lr, int64_t step)
{
    struct orri_cuda_update u = {.optimizer = *optimizer, .lr = lr, .t = step, .stride = parameter->count};

    for (int v = 0; v < parameter->views; v++)
        if (parameter->rate[v] != 0)
            u.view[u.views++] = (struct orri_update_view){parameter->view[v].offset, orri_view_count(&parameter->view[v]),
                                                          parameter->view[v].ndim == 2, parameter->rate[v]};
    return u;
}

/* What control says is read on the device; that a step failed, the host finds when it reads control itself. */
static void update_cuda(void *buffers[], void *argument)
{
    const struct update *update = argument;
    const struct orri_parameter *parameter = update->parameter;
    const struct orri_control *control = orri_pointer(buffers[3]);
    struct orr_cuda *cuda = orri_device_here();
    bool alone = update->dtype != ORR_F32 && !update->masters;

    if (orri_model_stopped(update->model, update->run))
        return;
    struct orri_cuda_update u = orri_update_on_device(&update->optimizer, parameter, update->lr, update->step + 1);
    u.scale = &control->scale;
    u.correction = control->correction;
    u.skip = &control->skip;
    u.squares = orri_pointer(buffers[4]);
    u.g = orri_pointer(buffers[2]);
    u.p = alone ? NULL : orri_pointer(buffers[0]);
    u.state = orri_pointer(buffers[1]);
    u.dtype = update->dtype;
    u.working = alone ? orri_pointer(buffers[0]) : update->masters ? orri_pointer(buffers[5]) : NULL;
    u.rounding = alone ? &update->rounding : NULL;
    orri_cuda_update(cuda, &u);
    orri_device_check(update->model, update->run, "update", cuda);
}

#endif

static struct starpu_perfmodel update_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_update"};
static struct starpu_codelet update_codelet = {
    .cpu_funcs = {update_cpu},
    ORRI_CUDA_FUNCTION(update_cuda)
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .model = &update_model,
    .name = "update",
    .color = ORRI_COLOR_UPDATE,
};

int orri_sum_rank(const struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    return t->copies == 1 ? parameter->place[0] : orri_user_rank(parameter, 0, copy, 0);
}

int orri_state_rank(const struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    return t->states == 1 ? parameter->place[0] : orri_user_rank(parameter, 0, copy, 0);
}

struct orr_tile *orri_state_tile(const struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    return &t->state[parameter->index * t->states + (t->states == 1 ? 0 : copy)];
}

static int one_submit(struct orr_training *t, struct orri_parameter *parameter, int copy, struct orr_tile *value,
                      struct orr_tile *working, double lr)
{
    struct update update = {
        .model = t->model,
        .run = t->run,
        .parameter = parameter,
        .optimizer = t->options.optimizer,
        .lr = lr,
        .step = t->steps,
        .dtype = t->model->dtype,
        .masters = orri_has_masters(t->model),
        .rounding = {t->options.seed, ROUNDING_STREAM | (uint32_t)parameter->index, (uint32_t)t->steps},
    };
    int i = parameter->index * t->copies + copy;
    struct orri_buffer buffers[] = {
        {value, STARPU_RW},
        {orri_state_tile(t, parameter, copy), STARPU_RW},
        {t->sum[i], STARPU_R},
        {&t->tree[copy].control, STARPU_R},
        {&t->squares[i], STARPU_R},
        {working, STARPU_RW},       /* left as it is where the step failed */
    };
    int count = update.masters ? 6 : 5, home = t->states == 1 ? parameter->owner : copy;

    return orri_state_rank(t, parameter, copy) != t->model->rank
               ? ORR_OK
               : orri_task_submit_at(t->model, &update_codelet, orri_master_worker(parameter, home), count, buffers, &update,
                                     sizeof(update), ORRI_PRIORITY_UPDATE, parameter->index);
}

int orri_update_submit(struct orr_training *t, int p, double lr)
{
    struct orri_parameter *parameter = t->model->parameter[p];

    if (parameter->held)
        return ORR_OK;
    if (t->exchange)
        return orri_exchange_submit(t, p, lr);
    for (int r = 0; t->states > 1 && r < t->states; r++) {
        ORR_TRY(one_submit(t, parameter, r, &parameter->own[r], &parameter->own_working[r], lr));
        ORR_TRY(orri_publish_own_submit(t->model, parameter, r, t->run));
    }
    if (t->states > 1)
        return ORR_OK;
    ORR_TRY(one_submit(t, parameter, 0, &parameter->value, &parameter->working, lr));
    return orri_publish_submit(t->model, parameter, t->run);
}

/* ---- replicas with parameters of their own ------------------------------------------------------------- */

struct outer {
    struct orr_model *model;
    int64_t run;
    const struct orri_parameter *parameter;
    int terms;
    double lr, momentum;
};

/* Buffers: the shared parameters and their momentum, the sum of the replicas'. */
static void outer_cpu(void *buffers[], void *argument)
{
    const struct outer *o = argument;
    float *value = orri_pointer(buffers[0]), *state = orri_pointer(buffers[1]);
    const float *sum = orri_pointer(buffers[2]);

    if (orri_model_stopped(o->model, o->run))
        return;
    for (int v = 0; v < o->parameter->views; v++) {
        const struct orr_view *view = &o->parameter->view[v];
        int64_t at = view->offset;
        if (o->parameter->rate[v] == 0)
            continue;
        ORRI_TEAM_FOR(orri_view_count(view), PIECE, k, n, orri_outer_update(o->lr, o->momentum, 1 / (float)o->terms, n,
                                                                           sum + at + k, value + at + k, state + at + k));
    }
}

#ifdef ORR_HAVE_CUDA

static void outer_cuda(void *buffers[], void *argument)
{
    const struct outer *o = argument;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(o->model, o->run))
        return;
    for (int v = 0; v < o->parameter->views; v++) {
        int64_t first = o->parameter->view[v].offset;
        if (o->parameter->rate[v] != 0)
            orri_cuda_outer_update(cuda, o->lr, o->momentum, 1 / (float)o->terms, (size_t)orri_view_count(&o->parameter->view[v]),
                                   (float *)orri_pointer(buffers[2]) + first, (float *)orri_pointer(buffers[0]) + first,
                                   (float *)orri_pointer(buffers[1]) + first);
    }
    orri_device_check(o->model, o->run, "outer", cuda);
}

static void mean_cuda(void *buffers[], void *argument)
{
    const struct outer *o = argument;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(o->model, o->run))
        return;
    orri_cuda_scale(cuda, (size_t)orri_length(buffers[0]), 1 / (float)o->terms, orri_pointer(buffers[0]));
    orri_device_check(o->model, o->run, "mean", cuda);
}

#endif

static struct starpu_codelet outer_codelet = {
    .cpu_funcs = {outer_cpu},
    ORRI_CUDA_FUNCTION(outer_cuda)
    .nbuffers = 3,
    .modes = {STARPU_RW, STARPU_RW, STARPU_R},
    .name = "outer",
    .color = ORRI_COLOR_UPDATE,
};

static void mean_cpu(void *buffers[], void *argument)
{
    const struct outer *o = argument;
    float *sum = orri_pointer(buffers[0]), scale = 1 / (float)o->terms;

    if (orri_model_stopped(o->model, o->run))
        return;
    for (int64_t i = 0; i < orri_length(buffers[0]); i++)
        sum[i] *= scale;
}

static struct starpu_codelet mean_codelet = {
    .cpu_funcs = {mean_cpu},
    ORRI_CUDA_FUNCTION(mean_cuda)
    .nbuffers = 1,
    .modes = {STARPU_RW},
    .name = "mean",
    .color = ORRI_COLOR_UPDATE,
};

/* Every replica gets what the owner has: from one to the next, along a tree. */
static int deal_out_submit(struct orr_training *t, const struct orri_parameter *parameter, struct orr_tile *from,
                           struct orr_tile *(*tile_of)(struct orr_training *, const struct orri_parameter *, int))
{
    int dp = t->states;

    for (int i = 0; i < dp; i++) {
        int to = (parameter->owner + i) % dp, parent = (parameter->owner + (i - 1) / ORRI_FAN) % dp;
        struct orr_tile *source = i == 0 ? from : tile_of(t, parameter, parent), *target = tile_of(t, parameter, to);
        int a = orri_state_rank(t, parameter, i == 0 ? to : parent), b = orri_state_rank(t, parameter, to);
        if (a == b && a == t->model->rank && source != target)
            ORR_TRY(orri_copy_submit(source, target));
        else if (a != b)
            ORR_TRY(orri_transfer_between_submit(t->model, source, a, target, b, t->run));
    }
    return ORR_OK;
}

static struct orr_tile *value_copy(struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    (void)t;
    return &parameter->own[copy];
}

static struct orr_tile *state_copy(struct orr_training *t, const struct orri_parameter *parameter, int copy)
{
    return orri_state_tile(t, parameter, copy);
}

static int synchronise_one(struct orr_training *t, struct orri_parameter *parameter)
{
    struct outer outer = {t->model, t->run, parameter, t->states, t->options.outer_lr, t->options.outer_momentum};
    struct orr_tile *values = orri_sum_copies_submit(t, parameter->index, false);
    struct orr_tile *states = orri_sum_copies_submit(t, parameter->index, true);
    struct orri_buffer buffers[] = {{&parameter->value, STARPU_RW}, {&t->outer[parameter->index], STARPU_RW}, {values, STARPU_R}};
    struct orri_buffer mean = {states, STARPU_RW};

    if (!values || !states)
        return orr_error_code();
    if (parameter->here == 0) {
        int worker = orri_master_worker(parameter, parameter->owner);
        ORR_TRY(orri_task_submit_at(t->model, &outer_codelet, worker, 3, buffers, &outer, sizeof(outer), ORRI_PRIORITY_UPDATE,
                                    parameter->index));
        ORR_TRY(orri_task_submit_at(t->model, &mean_codelet, worker, 1, &mean, &outer, sizeof(outer), ORRI_PRIORITY_UPDATE,
                                    parameter->index));
    }
    ORR_TRY(orri_share_submit(t->model, parameter, t->run));
    ORR_TRY(deal_out_submit(t, parameter, &parameter->value, value_copy));
    for (int r = 0; r < t->states; r++)
        ORR_TRY(orri_share_own_submit(t->model, parameter, r, t->run));
    return deal_out_submit(t, parameter, states, state_copy);
}

int orri_synchronise_submit(struct orr_training *t)
{
    for (int p = 0; p < t->model->parameters; p++) {
        struct orri_parameter *parameter = t->model->parameter[p];
        if (parameter->held)
            continue;
        ORR_TRY(t->exchange ? orri_share_submit(t->model, parameter, t->run) : synchronise_one(t, parameter));
    }
    return ORR_OK;
}
