/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas that do not wait for each other (stale synchronous parallel: Ho et al. 2013). Behind a step each replica pushes
 * its gradient to the owner of a parameter, which applies it as soon as it has come, and pulls the parameters as they are
 * then. Only the pull waits for others: for the gradients of all replicas of `staleness` steps before. */
#include <math.h>
#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#include "core/vector_cuda.h"
#include "train/train.h"

/* A replica may be applied `staleness` steps ahead of one whose pull still waits for as many steps before. */
enum { MOST_APPLIED = 2 * ORRI_MOST_STALE + 2 };

/* Of a parameter, where it is owned. */
struct orri_exchange {
    struct orr_tile *passing;               /* [dp] of replicas elsewhere: their gradient comes, the parameters go */
    struct orr_tile applied[MOST_APPLIED];  /* by step: written by whatever applies a gradient of it               */
    int64_t updates;                        /* made so far                                                         */
};

/* Tasks in this mode run in any order, one at a time. */
enum { IN_TURN = STARPU_RW | STARPU_COMMUTE };

struct exchange {
    struct orr_training *training;
    int64_t run;
    const struct orri_parameter *parameter;
    double lr;
    int64_t step;
};

/* Buffers: the replica's gradient, its control, its sum of squares. A gradient that is not to be applied begins with NaN,
 * which others do not hold. */
static void push_cpu(void *buffers[], void *argument)
{
    const struct exchange *e = argument;
    struct orr_model *model = e->training->model;
    float *g = orri_pointer(buffers[0]);
    const struct orri_control *control = orri_pointer(buffers[1]);
    bool stopped = orri_control_stopped(model, e->run, control);

    if (!stopped && !isfinite(*(const double *)orri_pointer(buffers[2]))) {
        orri_gradient_fail(model, e->run, e->parameter, e->step);
        stopped = true;
    }
    for (int64_t i = 0; !stopped && i < orri_length(buffers[0]); i++)
        g[i] *= (float)control->scale;
    if (stopped)
        g[0] = NAN;
}

#ifdef ORR_HAVE_CUDA

/* That a gradient is not finite, the host finds when it makes the report. */
static void push_cuda(void *buffers[], void *argument)
{
    const struct exchange *e = argument;
    struct orr_model *model = e->training->model;
    const struct orri_control *control = orri_pointer(buffers[1]);
    struct orr_cuda *cuda = orri_device_here();

    orri_cuda_push(cuda, orri_model_stopped(model, e->run), &control->scale, &control->skip, orri_pointer(buffers[2]),
                   (size_t)orri_length(buffers[0]), orri_pointer(buffers[0]));
    orri_device_check(model, e->run, "push", cuda);
}

#endif

static struct starpu_codelet push_codelet = {
    .cpu_funcs = {push_cpu},
    ORRI_CUDA_FUNCTION(push_cuda)
    .nbuffers = 3,
    .modes = {STARPU_RW, STARPU_R, STARPU_R},
    .name = "push",
    .color = ORRI_COLOR_UPDATE,
};

/* Buffers: the parameters, the optimizer's state, what tells that the step was applied, the gradient. */
static void apply_cpu(void *buffers[], void *argument)
{
    const struct exchange *e = argument;
    struct orr_training *t = e->training;
    const float *g = orri_pointer(buffers[3]);

    if (orri_model_stopped(t->model, e->run) || isnan(g[0]))
        return;
    orri_update_apply(&t->options.optimizer, e->parameter, e->lr, ++t->exchange[e->parameter->index].updates, 1, g,
                      orri_pointer(buffers[0]), orri_pointer(buffers[1]));
}

#ifdef ORR_HAVE_CUDA

/* Counted is what came. A gradient that is not applied, which only the device sees, has failed its run: behind that nothing is
 * saved, and nothing else asks for the count. */
static void apply_cuda(void *buffers[], void *argument)
{
    const struct exchange *e = argument;
    struct orr_training *t = e->training;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(t->model, e->run))
        return;
    struct orri_cuda_update u = orri_update_on_device(&t->options.optimizer, e->parameter, e->lr,
                                                      ++t->exchange[e->parameter->index].updates);
    u.pushed = true;
    u.g = orri_pointer(buffers[3]);
    u.p = orri_pointer(buffers[0]);
    u.state = orri_pointer(buffers[1]);
    orri_cuda_update(cuda, &u);
    orri_device_check(t->model, e->run, "update", cuda);
}

#endif

static struct starpu_codelet apply_codelet = {
    .cpu_funcs = {apply_cpu},
    ORRI_CUDA_FUNCTION(apply_cuda)
    .nbuffers = 4,
    .modes = {(enum starpu_data_access_mode)IN_TURN, (enum starpu_data_access_mode)IN_TURN,
              (enum starpu_data_access_mode)IN_TURN, STARPU_R},
    .name = "update",
    .color = ORRI_COLOR_UPDATE,
};

/* Buffers: the parameters, where they go, what tells that all have applied a step; and of a replica at home its gradient,
 * for the pull comes behind its push. */
static void pull_cpu(void *buffers[], void *argument)
{
    const struct exchange *e = argument;

    if (!orri_model_stopped(e->training->model, e->run))
        memcpy(orri_pointer(buffers[1]), orri_pointer(buffers[0]), (size_t)orri_length(buffers[0]) * sizeof(float));
}

#ifdef ORR_HAVE_CUDA

static void pull_cuda(void *buffers[], void *argument)
{
    const struct exchange *e = argument;
    struct orr_model *model = e->training->model;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(model, e->run))
        return;
    orri_cuda_copy(cuda, (size_t)orri_length(buffers[0]) * sizeof(float), orri_pointer(buffers[0]), orri_pointer(buffers[1]));
    orri_device_check(model, e->run, "pull", cuda);
}

#endif

static struct starpu_codelet pull_codelet = {
    .cpu_funcs = {pull_cpu},
    ORRI_CUDA_FUNCTION(pull_cuda)
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "pull",
    .color = ORRI_COLOR_UPDATE,
};

static struct orr_tile *applied_at(const struct orr_training *t, const struct orri_parameter *parameter, int64_t step)
{
    return &t->exchange[parameter->index].applied[(step + MOST_APPLIED) % MOST_APPLIED];
}

static bool is_at_home(const struct orr_training *t, const struct orri_parameter *parameter, int r)
{
    return orri_sum_rank(t, parameter, r) == parameter->place[0];
}

struct orr_tile *orri_exchange_passing(const struct orr_training *t, const struct orri_parameter *parameter, int replica)
{
    return &t->exchange[parameter->index].passing[replica];
}

/* On its way to and from replica r; where that is at home the gradient itself. */
static struct orr_tile *gradient_at(const struct orr_training *t, const struct orri_parameter *parameter, int r)
{
    return is_at_home(t, parameter, r) ? t->sum[parameter->index * t->copies + r]
                                       : orri_exchange_passing(t, parameter, r);
}

static int push_submit(struct orr_training *t, const struct exchange *e, int r)
{
    int i = e->parameter->index * t->copies + r, from = orri_sum_rank(t, e->parameter, r);
    struct orri_buffer buffers[] = {{t->sum[i], STARPU_RW}, {&t->tree[r].control, STARPU_R}, {&t->squares[i], STARPU_R}};

    if (from == t->model->rank)
        ORR_TRY(orri_task_submit_at(t->model, &push_codelet, orri_parameter_worker(e->parameter, r), 3, buffers, e, sizeof(*e),
                                    ORRI_PRIORITY_UPDATE, e->parameter->index));
    return orri_transfer_between_submit(t->model, t->sum[i], from, gradient_at(t, e->parameter, r), e->parameter->place[0],
                                        t->run);
}

static int apply_submit(struct orr_training *t, const struct exchange *e, int r)
{
    struct orri_parameter *parameter = t->model->parameter[e->parameter->index];
    struct orri_buffer buffers[] = {
        {&parameter->value, IN_TURN},
        {orri_state_tile(t, parameter, 0), IN_TURN},
        {applied_at(t, parameter, e->step), IN_TURN},
        {gradient_at(t, parameter, r), STARPU_R},
    };

    return orri_task_submit_at(t->model, &apply_codelet, orri_master_worker(parameter, parameter->owner), 4, buffers, e,
                               sizeof(*e), ORRI_PRIORITY_UPDATE, parameter->index);
}

static int pull_submit(struct orr_training *t, const struct exchange *e, int r)
{
    struct orri_parameter *parameter = t->model->parameter[e->parameter->index];
    struct orr_tile *gradient = gradient_at(t, parameter, r);
    bool at_home = is_at_home(t, parameter, r);
    struct orr_tile *target = at_home ? &parameter->own[r] : gradient;
    struct orri_buffer buffers[] = {
        {&parameter->value, IN_TURN},
        {target, STARPU_W},
        {applied_at(t, parameter, e->step - t->options.staleness), STARPU_R},
        {gradient, STARPU_RW},
    };

    if (parameter->here == 0)
        ORR_TRY(orri_task_submit_at(t->model, &pull_codelet, orri_master_worker(parameter, parameter->owner), 3 + at_home,
                                    buffers, e, sizeof(*e), ORRI_PRIORITY_UPDATE, parameter->index));
    ORR_TRY(orri_transfer_between_submit(t->model, target, parameter->place[0], &parameter->own[r],
                                         orri_sum_rank(t, parameter, r), t->run));
    return orri_share_own_submit(t->model, parameter, r, t->run);
}

/* An owner has to do with all replicas, others only with their own. */
int orri_exchange_submit(struct orr_training *t, int p, double lr)
{
    const struct orr_model *model = t->model;
    const struct exchange e = {t, t->run, model->parameter[p], lr, t->steps};
    bool owner = e.parameter->here == 0;
    int replicas = owner ? t->copies : model->replicas_here;

    for (int i = 0; i < replicas; i++)
        ORR_TRY(push_submit(t, &e, owner ? i : model->replica_here[i]));
    for (int i = 0; owner && i < replicas; i++)
        ORR_TRY(apply_submit(t, &e, i));
    for (int i = 0; i < replicas; i++)
        ORR_TRY(pull_submit(t, &e, owner ? i : model->replica_here[i]));
    return ORR_OK;
}

static int create_one(struct orr_training *t, const struct orri_parameter *parameter)
{
    struct orri_exchange *exchange = &t->exchange[parameter->index];

    exchange->passing = orri_calloc((size_t)t->copies, sizeof(*exchange->passing));
    if (!exchange->passing)
        return ORR_ENOMEM;
    for (int r = 0; r < t->copies; r++) {
        if (parameter->here == 0 && !is_at_home(t, parameter, r))
            ORR_TRY(orr_tile_create(&exchange->passing[r], ORR_GRADIENT, ORR_F32, parameter->count, t->model->rank, false));
        exchange->passing[r].tag = parameter->own[r].tag;
    }
    for (int i = 0; parameter->here == 0 && i < MOST_APPLIED; i++)
        ORR_TRY(orr_tile_create(&exchange->applied[i], ORR_SCALAR, ORR_U8, 1, t->model->rank, true));
    return ORR_OK;
}

int orri_exchange_create(struct orr_training *t)
{
    t->exchange = orri_calloc((size_t)t->model->parameters, sizeof(*t->exchange));
    if (!t->exchange)
        return ORR_ENOMEM;
    for (int p = 0; p < t->model->parameters; p++)
        ORR_TRY(create_one(t, t->model->parameter[p]));
    return ORR_OK;
}

void orri_exchange_destroy(struct orr_training *t)
{
    for (int p = 0; t->exchange && p < t->model->parameters; p++) {
        struct orri_exchange *exchange = &t->exchange[p];
        for (int r = 0; exchange->passing && r < t->copies; r++)
            orr_tile_destroy(&exchange->passing[r]);
        for (int i = 0; i < MOST_APPLIED; i++)
            orr_tile_destroy(&exchange->applied[i]);
        free(exchange->passing);
    }
    free(t->exchange);
}

void orri_exchange_resume(struct orr_training *t, int64_t steps)
{
    for (int p = 0; t->exchange && p < t->model->parameters; p++)
        t->exchange[p].updates = steps * t->copies;
}
