/* SPDX-License-Identifier: Apache-2.0 */
/* From gradients to parameters: sums over replicas and users, clipping, the optimizer, the step's report. */
#include <math.h>
#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#include "train/train.h"

static void *pointer(void *buffer)
{
    return (void *)STARPU_VECTOR_GET_PTR(buffer);
}

static int64_t length(void *buffer)
{
    return (int64_t)STARPU_VECTOR_GET_NX(buffer);
}

/* ---- reduce: a sum in a fixed order, wherever its terms are -------------------------------------------- */

struct reduce {
    const struct orr_model *model;
    int64_t run;
};

static void reduce_cpu(void *buffers[], void *argument)
{
    const struct reduce *reduce = argument;

    if (!orri_model_stopped(reduce->model, reduce->run))
        orri_sum_tiles(length(buffers[0]), pointer(buffers[1]), pointer(buffers[0]));
}

static struct starpu_perfmodel reduce_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_reduce"};
static struct starpu_codelet reduce_codelet = {
    .cpu_funcs = {reduce_cpu},
    .nbuffers = 2,
    .modes = {STARPU_RW, STARPU_R},
    .model = &reduce_model,
    .name = "reduce",
    .color = ORRI_COLOR_UPDATE,
};

/* sum += term */
static int add_submit(struct orr_training *t, int parameter, struct orr_tile *sum, struct orr_tile *term)
{
    struct reduce reduce = {t->model, t->run};
    struct orri_buffer buffers[] = {{sum, STARPU_RW}, {term, STARPU_R}};

    return orri_task_submit(t->model, &reduce_codelet, 2, buffers, &reduce, sizeof(reduce), ORRI_PRIORITY_UPDATE, parameter,
                            0);
}

/* Sums term[0] + term[1] + ... in that order, on the rank of term[leader]. What comes from elsewhere passes through two
 * tiles, one after the other; the sum is left in the first term that is at home there, which is returned on every rank. */
static struct orr_tile *sum_submit(struct orr_training *t, int parameter, struct orr_tile *const *term, int terms, int leader)
{
    struct orr_model *model = t->model;
    struct orr_tile *sum = NULL, *home = NULL;
    int at = term[leader]->rank;

    for (int i = 0; i < terms; i++) {
        struct orr_tile *here = orri_receive_submit(model, &model->gradients, term[i], term[i]->rank, at, t->run);
        bool first_at_home = !home && term[i]->rank == at;
        if (!here)
            return NULL;
        if (first_at_home)
            home = here;
        if (sum && at == model->rank &&
            add_submit(t, parameter, first_at_home ? here : sum, first_at_home ? sum : here) != 0)
            return NULL;
        sum = !sum || first_at_home ? here : sum;
    }
    return home;
}

/* A tree of such sums, of ORRI_FAN terms each, whatever the ranks, that ends where term[leader] is. The sums take the
 * places of their first terms. */
static struct orr_tile *tree_sum_submit(struct orr_training *t, int p, struct orr_tile **term, int terms, int leader)
{
    struct orr_tile *sum = term[0];

    for (; sum && terms > 1; leader /= ORRI_FAN) {
        int groups = (terms + ORRI_FAN - 1) / ORRI_FAN;
        for (int g = 0; sum && g < groups; g++) {
            int first = g * ORRI_FAN, n = terms - first < ORRI_FAN ? terms - first : ORRI_FAN;
            int leads = leader / ORRI_FAN == g ? leader % ORRI_FAN : (p + g) % n;
            sum = term[g] = sum_submit(t, p, term + first, n, leads);
        }
        terms = groups;
    }
    return sum;
}

/* First over the users and chunks of each replica, then over the replicas: so each of these sends its gradient once. */
static struct orr_tile *reduce_submit(struct orr_training *t, int p)
{
    const struct orri_parameter *parameter = t->model->parameter[p];
    int dp = t->model->mesh.dp, copies = parameter->copies, within = parameter->group->users * copies;
    struct orr_tile **replica = orri_alloc((size_t)(dp + within) * sizeof(*replica)), **term = replica + dp, *sum = NULL;

    if (!replica)
        return NULL;
    for (int d = 0; d == 0 || (sum && d < dp); d++) {
        for (int i = 0; i < within; i++)
            term[i] = &parameter->gradient[(i / copies * dp + d) * copies + i % copies];
        sum = replica[d] = tree_sum_submit(t, p, term, within, 0);
    }
    if (sum)
        sum = tree_sum_submit(t, p, replica, dp, parameter->owner);
    free(replica);
    return sum;
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
    struct squares squares = {t->model, t->run};

    t->sum[p] = reduce_submit(t, p);
    if (!t->sum[p])
        return orr_error_code();
    if (t->model->parameter[p]->here != 0)
        return ORR_OK;
    struct orri_buffer buffers[] = {{t->sum[p], STARPU_R}, {&t->squares[p], STARPU_W}};
    return orri_task_submit(t->model, &squares_codelet, 2, buffers, &squares, sizeof(squares), ORRI_PRIORITY_UPDATE, p,
                            0);
}

/* ---- control: what all updates need to know ----------------------------------------------------------- */

/* What ranks tell each other. A figure is in one rank's summary and zero in all others, so that adding summaries rounds
 * nothing and their order does not matter. */
struct orri_summary {
    int stop, code;
    char message[256];
    double figures[];       /* [dp][chunks] losses, [dp][chunks] labels, [parameters] sums of squares */
};

static int results_of(const struct orr_model *model)
{
    return model->mesh.dp * model->chunks;
}

static size_t summary_bytes(const struct orr_model *model)
{
    return sizeof(struct orri_summary) + (size_t)(2 * results_of(model) + model->parameters) * sizeof(double);
}

struct summarise {
    struct orr_training *training;
    int64_t run, step;
    bool results, squares, root;
    int children;
};

static void fail_gradient(struct orr_model *model, int64_t run, const struct orri_parameter *parameter, int64_t step)
{
    orri_model_fail(model, run, ORR_ENONFINITE, "%s of layer %d, step %lld: a gradient is not a finite number",
                    parameter->group->block->cls->name, parameter->group->block->layer, (long long)step + 1);
}

static void add_summary(const struct orri_summary *child, int figures, struct orri_summary *out)
{
    out->stop |= child->stop;
    if (out->code == 0 && child->code != 0) {
        out->code = child->code;
        memcpy(out->message, child->message, sizeof(out->message));
    }
    for (int i = 0; i < figures; i++)
        out->figures[i] += child->figures[i];
}

/* The sum of the squares' figures, or of none, in the order of the parameters. A sum that is not finite fails the step: so
 * is an element of that gradient then. */
static double sum_of_squares(const struct summarise *s, const double *squares)
{
    struct orr_model *model = s->training->model;
    double sum = 0;

    for (int p = 0; s->squares && p < model->parameters; p++) {
        if (!isfinite(squares[p]) && !orri_model_stopped(model, s->run))
            fail_gradient(model, s->run, model->parameter[p], s->step);
        sum += squares[p];
    }
    return sum;
}

/* At the first rank, from the summary of all. */
static void decide(const struct summarise *s, const struct orri_summary *all, struct orri_control *out)
{
    struct orr_model *model = s->training->model;
    int n = results_of(model);
    double squares;

    *out = (struct orri_control){.stop = all->stop};
    for (int i = 0; s->results && i < n; i++) {
        out->loss += all->figures[i];
        out->labels += (int64_t)all->figures[n + i];
    }
    if (all->code != 0)
        orri_model_fail(model, s->run, all->code, "%s", all->message);
    else if (s->results && out->labels == 0)
        orri_model_fail(model, s->run, ORR_EINVAL, "step %lld has no label to learn from", (long long)s->step + 1);
    else if (!isfinite(out->loss))
        orri_model_fail(model, s->run, ORR_ENONFINITE, "step %lld: the loss is not a finite number",
                        (long long)s->step + 1);
    squares = sum_of_squares(s, all->figures + 2 * n);
    if (orri_model_stopped(model, s->run)) {
        out->code = orri_model_failure(model, out->message, sizeof(out->message));
        return;
    }
    out->norm = sqrt(squares);
    if (!s->results)
        return;
    out->norm /= (double)out->labels;
    out->scale = 1 / (double)out->labels;
    double factor = s->training->options.optimizer.clip / (out->norm + 1e-6);     /* as PyTorch's clip_grad_norm_ */
    if (s->squares && factor < 1)
        out->scale *= factor;
}

/* Buffers: the summary; at the first rank control; own results; own sums of squares; summaries of the children. Which
 * results and squares are a rank's own follows from their place, in order. */
static void summarise_cpu(void *buffers[], void *argument)
{
    const struct summarise *s = argument;
    struct orr_training *t = s->training;
    struct orr_model *model = t->model;
    int n = results_of(model), b = 1 + s->root;
    struct orri_summary *out = pointer(buffers[0]);

    memset(out, 0, summary_bytes(model));
    out->stop = t->options.stop && *t->options.stop;
    for (int i = 0; s->results && i < n; i++) {
        if (orri_slots_result(t->slots, s->step, i / model->chunks, i % model->chunks)->rank != model->rank)
            continue;
        const struct orr_result *result = pointer(buffers[b++]);
        out->figures[i] = result->loss;
        out->figures[n + i] = (double)result->labels;
    }
    for (int p = 0; s->squares && p < model->parameters; p++)
        if (model->parameter[p]->here == 0)
            out->figures[2 * n + p] = *(const double *)pointer(buffers[b++]);
    if (orri_model_stopped(model, s->run))
        out->code = orri_model_failure(model, out->message, sizeof(out->message));
    for (int i = 0; i < s->children; i++)
        add_summary(pointer(buffers[b++]), 2 * n + model->parameters, out);
    if (s->root)
        decide(s, out, pointer(buffers[1]));
}

static struct starpu_codelet control_codelet = {
    .cpu_funcs = {summarise_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "control",
    .color = ORRI_COLOR_UPDATE,
};

static int create_tree(struct orr_training *t, struct orri_tree *tree, int number)
{
    struct orr_model *model = t->model;
    int rank = model->rank, first = rank * ORRI_FAN + 1;
    int64_t bytes = (int64_t)summary_bytes(model);

    ORR_TRY(orr_tile_create(&tree->summary, ORR_SCALAR, ORR_U8, bytes, rank, true));
    ORR_TRY(orr_tile_create(&tree->control, ORR_SCALAR, ORR_U8, sizeof(struct orri_control), rank, true));
    tree->summary.tag = orri_tag(model, ORRI_SUMMARY, 0, 0, number, 0, 0);
    tree->control.tag = orri_tag(model, ORRI_CONTROL, 0, 0, number, 0, 0);
    for (int i = 0; i < ORRI_FAN && first + i < model->mesh.ranks; i++) {
        ORR_TRY(orr_tile_create(&tree->child[i], ORR_SCALAR, ORR_U8, bytes, rank, true));
        tree->child[i].tag = tree->summary.tag;
    }
    return ORR_OK;
}

int orri_trees_create(struct orr_training *t)
{
    bool clipping = t->options.optimizer.clip > 0;

    t->tree.results = true;
    t->tree.squares = clipping;
    t->norms.squares = !clipping;
    ORR_TRY(create_tree(t, &t->tree, 0));
    return clipping ? ORR_OK : create_tree(t, &t->norms, 1);
}

static void destroy_tree(struct orri_tree *tree)
{
    orr_tile_destroy(&tree->summary);
    orr_tile_destroy(&tree->control);
    for (int i = 0; i < ORRI_FAN; i++)
        orr_tile_destroy(&tree->child[i]);
}

void orri_trees_destroy(struct orr_training *t)
{
    destroy_tree(&t->tree);
    destroy_tree(&t->norms);
}

/* The buffers of the summary of this rank; NULL: no room. */
static struct orri_buffer *summary_buffers(struct orr_training *t, struct orri_tree *tree, struct summarise *s, int *count)
{
    struct orr_model *model = t->model;
    int n = results_of(model);
    struct orri_buffer *buffer = orri_alloc((size_t)(2 + n + model->parameters + ORRI_FAN) * sizeof(*buffer));

    *count = 0;
    if (!buffer)
        return NULL;
    buffer[(*count)++] = (struct orri_buffer){&tree->summary, STARPU_W};
    if (s->root)
        buffer[(*count)++] = (struct orri_buffer){&tree->control, STARPU_W};
    for (int i = 0; s->results && i < n; i++) {
        struct orr_tile *result = orri_slots_result(t->slots, t->steps, i / model->chunks, i % model->chunks);
        if (result->rank == model->rank)
            buffer[(*count)++] = (struct orri_buffer){result, STARPU_R};
    }
    for (int p = 0; s->squares && p < model->parameters; p++)
        if (model->parameter[p]->here == 0)
            buffer[(*count)++] = (struct orri_buffer){&t->squares[p], STARPU_R};
    for (int i = 0; i < s->children; i++)
        buffer[(*count)++] = (struct orri_buffer){&tree->child[i], STARPU_R};
    return buffer;
}

static int tree_submit(struct orr_training *t, struct orri_tree *tree)
{
    struct orr_model *model = t->model;
    int rank = model->rank, first = rank * ORRI_FAN + 1, parent = (rank - 1) / ORRI_FAN, count;
    struct summarise s = {.training = t, .run = t->run, .step = t->steps, .results = tree->results,
                          .squares = tree->squares, .root = rank == 0};

    for (int i = 0; i < ORRI_FAN && first + i < model->mesh.ranks; i++, s.children++)
        ORR_TRY(orri_transfer_submit(model, &tree->child[i], first + i, rank, t->run));
    struct orri_buffer *buffer = summary_buffers(t, tree, &s, &count);
    int status = !buffer ? ORR_ENOMEM
                         : orri_task_submit(model, &control_codelet, count, buffer, &s, sizeof(s), ORRI_PRIORITY_UPDATE, 0, 0);
    free(buffer);
    if (status != 0)
        return status;
    if (rank > 0) {
        ORR_TRY(orri_transfer_submit(model, &tree->summary, rank, parent, t->run));
        ORR_TRY(orri_transfer_submit(model, &tree->control, parent, rank, t->run));
    }
    for (int i = 0; i < s.children; i++)
        ORR_TRY(orri_transfer_submit(model, &tree->control, rank, first + i, t->run));
    return ORR_OK;
}

int orri_control_submit(struct orr_training *t)
{
    return tree_submit(t, &t->tree);
}

/* What another rank found is a failure here too. */
static bool stopped(struct orr_model *model, int64_t run, const struct orri_control *control)
{
    if (control->code != 0 && !orri_model_stopped(model, run))
        orri_model_fail(model, run, control->code, "%s", control->message);
    return orri_model_stopped(model, run);
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

    if (stopped(update->model, update->run, control))
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

/* From the owner to all who read it, along a tree of their ranks. */
static int publish_submit(struct orr_training *t, struct orri_parameter *parameter)
{
    int here = parameter->here;

    if (here < 0 || !parameter->value.handle)
        return ORR_OK;
    if (here > 0)
        ORR_TRY(orri_transfer_submit(t->model, &parameter->value, parameter->place[(here - 1) / ORRI_FAN],
                                     parameter->place[here], t->run));
    for (int i = here * ORRI_FAN + 1; i <= (here + 1) * ORRI_FAN && i < parameter->places; i++)
        ORR_TRY(orri_transfer_submit(t->model, &parameter->value, parameter->place[here], parameter->place[i], t->run));
    return ORR_OK;
}

int orri_update_submit(struct orr_training *t, int p, double lr)
{
    struct orri_parameter *parameter = t->model->parameter[p];
    struct update update = {t->model, t->run, parameter, t->options.optimizer, lr, t->steps};
    struct orri_buffer buffers[] = {
        {&parameter->value, STARPU_RW}, {&t->state[p], STARPU_RW}, {t->sum[p], STARPU_R},
        {&t->tree.control, STARPU_R},   {&t->squares[p], STARPU_R},
    };

    if (parameter->here == 0)
        ORR_TRY(orri_task_submit(t->model, &update_codelet, 5, buffers, &update, sizeof(update), ORRI_PRIORITY_UPDATE, p, 0));
    return orri_is_lent(t->model, parameter) ? ORR_OK : publish_submit(t, parameter);
}

/* ---- report: hands the step's figures to the host ---------------------------------------------------- */

struct report {
    struct orr_training *training;
    int64_t run;
    bool norms;                     /* are in the second buffer, not in control */
    double lr;
    int64_t step;
};

static void report_cpu(void *buffers[], void *argument)
{
    const struct report *report = argument;
    struct orr_training *t = report->training;
    const struct orri_control *control = pointer(buffers[0]), *norms = report->norms ? pointer(buffers[1]) : control;
    struct orr_step step = {0};
    double now = orri_seconds();
    bool failed = stopped(t->model, report->run, control) || stopped(t->model, report->run, norms);

    pthread_mutex_lock(&t->lock);
    if (!failed)
        step = (struct orr_step){
            .step = report->step + 1,
            .loss = control->loss / (double)control->labels,
            .grad_norm = report->norms ? norms->norm / (double)control->labels : control->norm,
            .lr = report->lr,
            .labels = control->labels,
            .seconds = now - t->last_end,
            .stop = control->stop,
        };
    else if (t->failed > t->reported)
        t->failed = t->reported;
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
    bool norms = t->norms.squares;
    struct report report = {t, t->run, norms, lr, t->steps};
    struct orri_buffer buffers[] = {{&t->tree.control, STARPU_R}, {&t->norms.control, STARPU_R}};

    if (norms)
        ORR_TRY(tree_submit(t, &t->norms));
    return orri_task_submit(t->model, &report_codelet, 1 + norms, buffers, &report, sizeof(report), ORRI_PRIORITY_UPDATE, 0,
                            0);
}
