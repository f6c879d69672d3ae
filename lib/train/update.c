/* SPDX-License-Identifier: Apache-2.0 */
/* From gradients to parameters: sums over replicas and users, clipping, the optimizer, the step's report. */
#include <math.h>
#include <starpu.h>
#include <stdlib.h>

#include "train/train.h"

enum { FAN_IN = 8 };    /* tiles that one reduce task sums */

static void *pointer(void *buffer)
{
    return (void *)STARPU_VECTOR_GET_PTR(buffer);
}

static int64_t length(void *buffer)
{
    return (int64_t)STARPU_VECTOR_GET_NX(buffer);
}

/* ---- reduce: gradient[0] += gradient[1] + ... in that order ----------------------------------------- */

struct reduce {
    const struct orr_model *model;
    int64_t run;
    int tiles;
};

static void reduce_cpu(void *buffers[], void *argument)
{
    const struct reduce *reduce = argument;

    if (orri_model_stopped(reduce->model, reduce->run))
        return;
    for (int i = 1; i < reduce->tiles; i++)
        orri_sum_tiles(length(buffers[0]), pointer(buffers[i]), pointer(buffers[0]));
}

static struct starpu_perfmodel reduce_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_reduce"};
static struct starpu_codelet reduce_codelet = {
    .cpu_funcs = {reduce_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .model = &reduce_model,
    .name = "reduce",
    .color = ORRI_COLOR_REDUCE,
};

static int reduce_tiles_submit(struct orr_training *t, int parameter, struct orr_tile *const *tile, int tiles)
{
    struct reduce reduce = {t->model, t->run, tiles};
    struct orri_buffer buffers[FAN_IN];

    for (int i = 0; i < tiles; i++)
        buffers[i] = (struct orri_buffer){tile[i], i == 0 ? STARPU_RW : STARPU_R};
    return orri_task_submit(t->model, &reduce_codelet, tiles, buffers, &reduce, sizeof(reduce), ORRI_PRIORITY_UPDATE,
                            parameter, 0);
}

/* ---- squares: the sum of squares of the summed gradient ---------------------------------------------- */

struct squares {
    const struct orr_model *model;
    int64_t run;
};

static void squares_cpu(void *buffers[], void *argument)
{
    const struct squares *squares = argument;

    if (orri_model_stopped(squares->model, squares->run))
        return;
    *(double *)pointer(buffers[1]) = orri_sum_squares(length(buffers[0]), pointer(buffers[0]));
}

static struct starpu_perfmodel squares_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_squares"};
static struct starpu_codelet squares_codelet = {
    .cpu_funcs = {squares_cpu},
    .nbuffers = 2,
    .modes = {STARPU_R, STARPU_W},
    .model = &squares_model,
    .name = "squares",
    .color = ORRI_COLOR_UPDATE,
};

int orri_reduce_submit(struct orr_training *t, int p)
{
    struct orri_parameter *parameter = t->model->parameter[p];
    int left = parameter->users * t->model->mesh.dp;
    struct orr_tile **tile = orri_alloc((size_t)left * sizeof(*tile));
    int status = tile ? ORR_OK : ORR_ENOMEM;

    for (int i = 0; status == 0 && i < left; i++)
        tile[i] = &parameter->gradient[i];
    while (status == 0 && left > 1) {
        int groups = (left + FAN_IN - 1) / FAN_IN;
        for (int g = 0; status == 0 && g < groups; g++) {
            int first = g * FAN_IN, n = left - first < FAN_IN ? left - first : FAN_IN;
            if (n > 1)
                status = reduce_tiles_submit(t, p, tile + first, n);
            tile[g] = tile[first];
        }
        left = groups;
    }
    free(tile);
    if (status != 0)
        return status;
    struct squares squares = {t->model, t->run};
    struct orri_buffer buffers[] = {{&parameter->gradient[0], STARPU_R}, {&t->squares[p], STARPU_W}};
    return orri_task_submit(t->model, &squares_codelet, 2, buffers, &squares, sizeof(squares), ORRI_PRIORITY_UPDATE, p,
                            0);
}

/* ---- control: what all updates need to know ----------------------------------------------------------- */

struct control {
    struct orr_model *model;
    int64_t run;
    int replicas, parameters;       /* buffers 1.. are the replicas' results, then the sums of squares */
    double clip;
    int64_t step;
};

static double norm_of(void *buffers[], int count, int64_t labels)
{
    double sum = 0;

    for (int i = 0; i < count; i++)
        sum += *(const double *)pointer(buffers[i]);
    return sqrt(sum) / (double)labels;
}

static void fail_gradient(struct orr_model *model, int64_t run, const struct orri_parameter *parameter, int64_t step)
{
    orri_model_fail(model, run, ORR_ENONFINITE, "%s of layer %d, step %lld: a gradient is not a finite number",
                    parameter->block->cls->name, parameter->block->layer, (long long)step + 1);
}

/* Fails the step where a sum of squares is not finite, which is where an element is not. */
static bool check_squares(struct orr_model *model, int64_t run, void *buffers[], int64_t step)
{
    for (int p = 0; p < model->parameters; p++) {
        if (!isfinite(*(const double *)pointer(buffers[p]))) {
            fail_gradient(model, run, model->parameter[p], step);
            return false;
        }
    }
    return true;
}

static void control_cpu(void *buffers[], void *argument)
{
    const struct control *control = argument;
    struct orri_control *out = pointer(buffers[0]);
    void **squares = buffers + 1 + control->replicas;

    if (orri_model_stopped(control->model, control->run))
        return;
    *out = (struct orri_control){0};
    for (int d = 0; d < control->replicas; d++) {
        const struct orr_result *result = pointer(buffers[1 + d]);
        out->loss += result->loss;
        out->labels += result->labels;
    }
    if (out->labels == 0) {
        orri_model_fail(control->model, control->run, ORR_EINVAL, "step %lld has no label to learn from",
                        (long long)control->step + 1);
        return;
    }
    if (!isfinite(out->loss)) {
        orri_model_fail(control->model, control->run, ORR_ENONFINITE, "step %lld: the loss is not a finite number",
                        (long long)control->step + 1);
        return;
    }
    out->scale = 1 / (double)out->labels;
    if (control->parameters == 0 || !check_squares(control->model, control->run, squares, control->step))
        return;
    out->norm = norm_of(squares, control->parameters, out->labels);
    double factor = control->clip / (out->norm + 1e-6);     /* as PyTorch's clip_grad_norm_ */
    if (factor < 1)
        out->scale *= factor;
}

static struct starpu_codelet control_codelet = {
    .cpu_funcs = {control_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "control",
    .color = ORRI_COLOR_UPDATE,
};

/* The buffers of control and report: `first` tiles of their own, then the sums of squares. */
static int with_squares_submit(struct orr_training *t, struct starpu_codelet *codelet, int first,
                               const struct orri_buffer *own, bool squares, const void *argument, size_t size)
{
    int count = first + (squares ? t->model->parameters : 0);
    struct orri_buffer *buffers = orri_alloc((size_t)count * sizeof(*buffers));

    if (!buffers)
        return ORR_ENOMEM;
    for (int i = 0; i < first; i++)
        buffers[i] = own[i];
    for (int i = first; i < count; i++)
        buffers[i] = (struct orri_buffer){&t->squares[i - first], STARPU_R};
    int status = orri_task_submit(t->model, codelet, count, buffers, argument, size, ORRI_PRIORITY_UPDATE, 0, 0);
    free(buffers);
    return status;
}

int orri_control_submit(struct orr_training *t)
{
    int dp = t->model->mesh.dp;
    bool clipping = t->options.optimizer.clip > 0;
    struct control control = {t->model, t->run, dp, clipping ? t->model->parameters : 0,
                              (double)t->options.optimizer.clip, t->steps};
    struct orri_buffer *own = orri_alloc((size_t)(1 + dp) * sizeof(*own));

    if (!own)
        return ORR_ENOMEM;
    own[0] = (struct orri_buffer){&t->control, STARPU_W};
    for (int d = 0; d < dp; d++)
        own[1 + d] = (struct orri_buffer){orri_slots_result(t->slots, t->steps, d), STARPU_R};
    int status = with_squares_submit(t, &control_codelet, 1 + dp, own, clipping, &control, sizeof(control));
    free(own);
    return status;
}

/* ---- update: the optimizer on one parameter group --------------------------------------------------- */

struct update {
    struct orr_model *model;
    int64_t run;
    const struct orri_parameter *parameter;
    struct orr_optimizer optimizer;
    double lr;
    int64_t step;
};

static void update_cpu(void *buffers[], void *argument)
{
    const struct update *update = argument;
    const struct orri_parameter *parameter = update->parameter;
    float *p = pointer(buffers[0]), *state = pointer(buffers[1]);
    const float *g = pointer(buffers[2]);
    const struct orri_control *control = pointer(buffers[3]);

    if (orri_model_stopped(update->model, update->run))
        return;
    if (!isfinite(*(const double *)pointer(buffers[4]))) {
        fail_gradient(update->model, update->run, parameter, update->step);
        return;
    }
    for (int v = 0; v < parameter->views; v++) {
        const struct orr_view *view = &parameter->view[v];
        orri_optimizer_update(&update->optimizer, view->ndim == 2, update->lr, update->step + 1, (float)control->scale,
                              orri_view_count(view), g + view->offset, p + view->offset, state + view->offset,
                              parameter->count);
    }
}

static struct starpu_perfmodel update_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_update"};
static struct starpu_codelet update_codelet = {
    .cpu_funcs = {update_cpu},
    .nbuffers = 5,
    .modes = {STARPU_RW, STARPU_RW, STARPU_R, STARPU_R, STARPU_R},
    .model = &update_model,
    .name = "update",
    .color = ORRI_COLOR_UPDATE,
};

int orri_update_submit(struct orr_training *t, int p, double lr)
{
    struct orri_parameter *parameter = t->model->parameter[p];
    struct update update = {t->model, t->run, parameter, t->options.optimizer, lr, t->steps};
    struct orri_buffer buffers[] = {
        {&parameter->value, STARPU_RW}, {&t->state[p], STARPU_RW}, {&parameter->gradient[0], STARPU_R},
        {&t->control, STARPU_R},        {&t->squares[p], STARPU_R},
    };

    return orri_task_submit(t->model, &update_codelet, 5, buffers, &update, sizeof(update), ORRI_PRIORITY_UPDATE, p, 0);
}

/* ---- report: hands the step's figures to the host ---------------------------------------------------- */

struct report {
    struct orr_training *training;
    int64_t run;
    int parameters;                 /* whose sums of squares follow; 0 where control had them */
    double lr;
    int64_t step;
};

static void report_cpu(void *buffers[], void *argument)
{
    const struct report *report = argument;
    struct orr_training *t = report->training;
    const struct orri_control *control = pointer(buffers[0]);
    struct orr_step step = {0};
    double now = orri_seconds();

    if (report->parameters && !orri_model_stopped(t->model, report->run))
        check_squares(t->model, report->run, buffers + 1, report->step);
    pthread_mutex_lock(&t->lock);
    if (!orri_model_stopped(t->model, report->run))
        step = (struct orr_step){
            .step = report->step + 1,
            .loss = control->loss / (double)control->labels,
            .grad_norm =
                report->parameters ? norm_of(buffers + 1, report->parameters, control->labels) : control->norm,
            .lr = report->lr,
            .labels = control->labels,
            .seconds = now - t->last_end,
        };
    t->queue[t->reported % t->queue_size] = step;
    t->last_end = now;
    t->reported++;
    pthread_cond_broadcast(&t->finished);
    pthread_mutex_unlock(&t->lock);
}

static struct starpu_codelet report_codelet = {
    .cpu_funcs = {report_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "report",
    .color = ORRI_COLOR_OTHER,
};

int orri_report_submit(struct orr_training *t, double lr)
{
    bool clipping = t->options.optimizer.clip > 0;
    struct report report = {t, t->run, clipping ? 0 : t->model->parameters, lr, t->steps};
    struct orri_buffer own = {&t->control, STARPU_R};

    return with_squares_submit(t, &report_codelet, 1, &own, !clipping, &report, sizeof(report));
}
