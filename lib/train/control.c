/* SPDX-License-Identifier: Apache-2.0 */
/* What the ranks know together of a step: its loss, its gradient's norm, and whether it failed. */
#include <math.h>
#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#include "train/train.h"

/* ---- control: what the updates need to know ------------------------------------------------------------ */

/* What ranks tell each other. A figure is in one rank's summary and zero in all others, so that adding summaries rounds
 * nothing and their order does not matter. */
struct orri_summary {
    int stop, code;
    char message[256];
    double figures[];       /* losses, labels, sums of squares, busy seconds: see struct figures */
};

/* How many there are of each, and which is the first replica. */
struct figures {
    int first, results, squares, busy;
};

static struct figures figures_of(const struct orr_training *t, const struct orri_tree *tree)
{
    const struct orr_model *model = t->model;
    bool all = tree->replica < 0;

    return (struct figures){
        .first = all ? 0 : tree->replica,
        .results = (all ? model->mesh.dp : 1) * model->chunks,
        .squares = tree->squares ? model->parameters * (all ? t->copies : 1) : 0,
        .busy = tree->deals ? model->mesh.dp : 0,
    };
}

static size_t summary_bytes(const struct figures *f)
{
    return sizeof(struct orri_summary) + (size_t)(2 * f->results + f->squares + f->busy) * sizeof(double);
}

static size_t control_bytes(const struct orr_training *t)
{
    return sizeof(struct orri_control) + (size_t)t->model->mesh.dp * sizeof(int);
}

struct summarise {
    struct orr_training *training;
    struct orri_tree *tree;
    int64_t run, step;
    int children;
    int part;
};

void orri_gradient_fail(struct orr_model *model, int64_t run, const struct orri_parameter *parameter, int64_t step)
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

static bool is_scaled(const struct orr_training *t)
{
    return t->model->dtype == ORR_F16;
}

/* Over the parameters in their order, those of one copy. A sum that is not finite fails the step, unless it is skipped for that:
 * so is an element of that gradient then. */
static double sum_of_squares(const struct summarise *s, const double *squares, int stride)
{
    struct orr_model *model = s->training->model;
    double sum = 0;

    for (int p = 0; p < model->parameters; p++) {
        if (!isfinite(squares[p * stride]) && !is_scaled(s->training) && !orri_model_stopped(model, s->run))
            orri_gradient_fail(model, s->run, model->parameter[p], s->step);
        sum += squares[p * stride];
    }
    return sum;
}

/* Of one copy of the parameters: the labels that its gradient is a sum over, and the norm of the mean. */
static double norm_of(const struct summarise *s, const struct figures *f, const double *figures, int copy, int copies,
                      int64_t *labels)
{
    int each = f->results / copies;
    const double *squares = figures + 2 * f->results + copy;

    *labels = 0;
    for (int i = copy * each; i < (copy + 1) * each; i++)
        *labels += (int64_t)figures[f->results + i];
    if (*labels == 0 && !orri_model_stopped(s->training->model, s->run))
        orri_model_fail(s->training->model, s->run, ORR_EINVAL, "step %lld has no label to learn from",
                        (long long)s->step + 1);
    return f->squares ? sqrt(sum_of_squares(s, squares, copies)) / (double)*labels : 0;
}

float orri_loss_factor(const struct orr_training *t, double scale)
{
    return (float)ldexp(scale, -(int)ceil(log2((double)t->options.batch * t->options.seq)));
}

/* At the root: whether the step overflowed, and the scale of the next. */
static void adapt_scale(const struct summarise *s, double norm, struct orri_control *out)
{
    struct orr_loss_scale *scale = &s->training->scale;

    out->used_scale = scale->scale;
    out->used_factor = orri_loss_factor(s->training, scale->scale);
    out->skip = !isfinite(norm) || !isfinite(out->loss);
    if (out->skip && scale->scale < 1)
        orri_model_fail(s->training->model, s->run, ORR_ENONFINITE,
                        "step %lld: the gradient overflows fp16 even where the loss is multiplied by %g", (long long)s->step + 1,
                        scale->scale);
    scale->skipped += out->skip;
    scale->good = out->skip ? 0 : scale->good + 1;
    if (out->skip)
        scale->scale /= 2;
    if (scale->good == s->training->options.loss_scale_window) {
        scale->scale *= 2;
        scale->good = 0;
    }
    out->loss_scale = scale->scale;
    out->loss_factor = orri_loss_factor(s->training, scale->scale);
    out->good = scale->good;
    out->skipped = scale->skipped;
}

/* At the root, from the summary of all. Where replicas have parameters of their own, the norm is the root of their mean
 * square. */
static void decide(const struct summarise *s, const struct orri_summary *all, struct orri_control *out)
{
    struct orr_training *t = s->training;
    struct orr_model *model = t->model;
    struct figures f = figures_of(t, s->tree);
    int copies = s->tree->replica < 0 ? t->copies : 1;
    double squares = 0;

    memset(out, 0, control_bytes(t));
    out->used_factor = 1;
    out->used_scale = 1;
    out->stop = all->stop;
    if (all->code != 0)
        orri_model_fail(model, s->run, all->code, "%s", all->message);
    for (int i = 0; i < f.results; i++)
        out->loss += all->figures[i];
    if (!isfinite(out->loss) && !is_scaled(t))
        orri_model_fail(model, s->run, ORR_ENONFINITE, "step %lld: the loss is not a finite number",
                        (long long)s->step + 1);
    for (int r = 0; r < copies; r++) {
        int64_t labels;
        double norm = norm_of(s, &f, all->figures, r, copies, &labels);
        out->labels += labels;
        squares += norm * norm;
    }
    if (is_scaled(t))
        adapt_scale(s, sqrt(squares), out);
    int64_t updates = s->step + 1 - out->skipped;
    out->correction[0] = 1 - pow((double)t->options.optimizer.beta1, (double)updates);
    out->correction[1] = 1 - pow((double)t->options.optimizer.beta2, (double)updates);
    if (orri_model_stopped(model, s->run)) {
        out->skip = 1;
        out->code = orri_model_failure(model, out->message, sizeof(out->message));
        return;
    }
    out->norm = copies > 1 ? sqrt(squares / copies) : sqrt(squares) / out->used_factor;
    out->scale = 1 / ((double)out->labels * out->used_factor);
    double factor = t->options.optimizer.clip / (out->norm + 1e-6);     /* as PyTorch's clip_grad_norm_ */
    if (f.squares && t->options.optimizer.clip > 0 && factor < 1)
        out->scale *= factor;
    if (f.busy)
        orri_deal(t, s->step, all->figures + 2 * f.results + f.squares, out->share);
}

static bool is_of_part(const struct summarise *s, int replica)
{
    return s->tree->parts == 1 || s->training->model->replica_here[s->part] == replica;
}

/* Result number i of a tree, where it is of this part. */
static bool has_result(const struct summarise *s, const struct figures *f, int i, struct orr_tile **tile)
{
    const struct orr_model *model = s->training->model;
    int replica = f->first + i / model->chunks;

    *tile = orri_slots_result(s->training->slots, s->step, replica, i % model->chunks);
    return (*tile)->rank == model->rank && is_of_part(s, replica);
}

static bool has_squares(const struct summarise *s, int i, struct orr_tile **tile)
{
    const struct orr_training *t = s->training;
    bool all = s->tree->replica < 0;
    int copies = all ? t->copies : 1, p = i / copies, r = all ? i % copies : s->tree->replica;

    *tile = &t->squares[p * t->copies + r];
    return orri_sum_rank(t, t->model->parameter[p], r) == t->model->rank && is_of_part(s, r);
}

static struct orr_tile *part_of(const struct summarise *s, int part)
{
    return &s->tree->part[s->step % ORRI_MOST_STEPS * s->tree->parts + part];
}

/* Buffers: a part of what this rank knows; results; sums of squares. */
static void part_cpu(void *buffers[], void *argument)
{
    const struct summarise *s = argument;
    struct orr_training *t = s->training;
    struct figures f = figures_of(t, s->tree);
    struct orri_summary *out = orri_pointer(buffers[0]);
    struct orr_tile *tile;
    int b = 1;

    memset(out, 0, summary_bytes(&f));
    out->stop = t->options.stop && *t->options.stop;
    for (int i = 0; i < f.results; i++) {
        if (!has_result(s, &f, i, &tile))
            continue;
        const struct orr_result *result = orri_pointer(buffers[b++]);
        out->figures[i] = result->loss;
        out->figures[f.results + i] = (double)result->labels;
    }
    for (int i = 0; i < f.squares; i++)
        if (has_squares(s, i, &tile))
            out->figures[2 * f.results + i] = *(const double *)orri_pointer(buffers[b++]);
    for (int d = 0; d < f.busy && s->part == 0; d++)
        out->figures[2 * f.results + f.squares + d] = orri_busy_seconds(t, d);
    if (orri_model_stopped(t->model, s->run))
        out->code = orri_model_failure(t->model, out->message, sizeof(out->message));
}

static struct starpu_codelet part_codelet = {
    .cpu_funcs = {part_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "summary",
    .color = ORRI_COLOR_UPDATE,
};

/* Buffers: the summary; the parts of what this rank knows; summaries of the children; at the root control. */
static void summarise_cpu(void *buffers[], void *argument)
{
    const struct summarise *s = argument;
    struct figures f = figures_of(s->training, s->tree);
    struct orri_summary *out = orri_pointer(buffers[0]);
    int terms = s->tree->parts + s->children;

    memcpy(out, orri_pointer(buffers[1]), summary_bytes(&f));
    for (int i = 1; i < terms; i++)
        add_summary(orri_pointer(buffers[1 + i]), 2 * f.results + f.squares + f.busy, out);
    if (s->tree->here == 0)
        decide(s, out, orri_pointer(buffers[1 + terms]));
}

static struct starpu_codelet control_codelet = {
    .cpu_funcs = {summarise_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "control",
    .color = ORRI_COLOR_UPDATE,
};

/* ---- trees ---------------------------------------------------------------------------------------------- */

/* The ranks of a replica, or all. */
static int list_places(const struct orr_training *t, struct orri_tree *tree)
{
    const struct orr_model *model = t->model;
    const struct orr_mesh *mesh = &model->mesh;

    tree->place = orri_alloc((size_t)mesh->ranks * sizeof(*tree->place));
    if (!tree->place)
        return ORR_ENOMEM;
    tree->here = -1;
    for (int p = 0; p < mesh->pp; p++) {
        for (int i = 0; i < (tree->replica < 0 ? mesh->dp : 1) * mesh->tp; i++) {
            int d = tree->replica < 0 ? i / mesh->tp : tree->replica, rank = orr_mesh_place(mesh, d, p, i % mesh->tp);
            if (tree->places == 0 || tree->place[tree->places - 1] != rank)
                tree->place[tree->places++] = rank;
        }
    }
    for (int i = 0; i < tree->places; i++)
        if (tree->place[i] == model->rank)
            tree->here = i;
    return ORR_OK;
}

static int create_tree(struct orr_training *t, struct orri_tree *tree, int number)
{
    struct orr_model *model = t->model;

    ORR_TRY(list_places(t, tree));
    if (tree->here < 0)
        return ORR_OK;
    struct figures f = figures_of(t, tree);
    int64_t bytes = (int64_t)summary_bytes(&f);
    int first = tree->here * ORRI_FAN + 1, d = tree->replica < 0 ? 0 : tree->replica;
    tree->parts = t->copies > 1 && tree->replica < 0 ? model->replicas_here : 1;
    tree->part = orri_calloc((size_t)(ORRI_MOST_STEPS * tree->parts), sizeof(*tree->part));
    if (!tree->part)
        return ORR_ENOMEM;
    for (int i = 0; i < ORRI_MOST_STEPS * tree->parts; i++)
        ORR_TRY(orr_tile_create(&tree->part[i], ORR_SCALAR, ORR_U8, bytes, model->rank, true));
    ORR_TRY(orr_tile_create(&tree->summary, ORR_SCALAR, ORR_U8, bytes, model->rank, true));
    ORR_TRY(orr_tile_create(&tree->control, ORR_SCALAR, ORR_U8, (int64_t)control_bytes(t), model->rank, true));
    tree->summary.tag = orri_tag(model, ORRI_SUMMARY, d, 0, number, 0, 0);
    tree->control.tag = orri_tag(model, ORRI_CONTROL, d, 0, number, 0, 0);
    for (int i = 0; i < ORRI_FAN && first + i < tree->places; i++) {
        ORR_TRY(orr_tile_create(&tree->child[i], ORR_SCALAR, ORR_U8, bytes, model->rank, true));
        tree->child[i].tag = tree->summary.tag;
    }
    return ORR_OK;
}

int orri_trees_create(struct orr_training *t)
{
    bool squares = t->options.optimizer.clip > 0 || is_scaled(t), apart = t->copies > 1;
    bool dynamic = t->options.partition == ORR_PARTITION_DYNAMIC;

    t->reports_apart = apart || !squares;
    t->tree = orri_calloc((size_t)t->copies, sizeof(*t->tree));
    if (!t->tree)
        return ORR_ENOMEM;
    for (int r = 0; r < t->copies; r++) {
        t->tree[r] = (struct orri_tree){.replica = apart ? r : -1, .squares = squares,
                                        .deals = dynamic && !t->reports_apart};
        ORR_TRY(create_tree(t, &t->tree[r], 0));
    }
    t->total = (struct orri_tree){.replica = -1, .squares = true, .deals = dynamic};
    return t->reports_apart ? create_tree(t, &t->total, 1) : ORR_OK;
}

static void destroy_tree(struct orri_tree *tree)
{
    for (int i = 0; tree->part && i < ORRI_MOST_STEPS * tree->parts; i++)
        orr_tile_destroy(&tree->part[i]);
    free(tree->part);
    orr_tile_destroy(&tree->summary);
    orr_tile_destroy(&tree->control);
    for (int i = 0; i < ORRI_FAN; i++)
        orr_tile_destroy(&tree->child[i]);
    free(tree->place);
}

void orri_trees_destroy(struct orr_training *t)
{
    for (int r = 0; t->tree && r < t->copies; r++)
        destroy_tree(&t->tree[r]);
    destroy_tree(&t->total);
    free(t->tree);
}

static int part_submit(const struct summarise *s)
{
    struct figures f = figures_of(s->training, s->tree);
    struct orri_buffer *buffer = orri_alloc((size_t)(1 + f.results + f.squares) * sizeof(*buffer));
    struct orr_tile *tile;
    int count = 0;

    if (!buffer)
        return ORR_ENOMEM;
    buffer[count++] = (struct orri_buffer){part_of(s, s->part), STARPU_W};
    for (int i = 0; i < f.results; i++)
        if (has_result(s, &f, i, &tile))
            buffer[count++] = (struct orri_buffer){tile, STARPU_R};
    for (int i = 0; i < f.squares; i++)
        if (has_squares(s, i, &tile))
            buffer[count++] = (struct orri_buffer){tile, STARPU_R};
    int status = orri_task_submit(s->training->model, &part_codelet, count, buffer, s, sizeof(*s), ORRI_PRIORITY_UPDATE, 0, 0);
    free(buffer);
    return status;
}

/* The buffers of the summary of this rank; NULL: no room. */
static struct orri_buffer *summary_buffers(const struct summarise *s, int *count)
{
    struct orri_tree *tree = s->tree;
    struct orri_buffer *buffer = orri_alloc((size_t)(2 + tree->parts + ORRI_FAN) * sizeof(*buffer));

    *count = 0;
    if (!buffer)
        return NULL;
    buffer[(*count)++] = (struct orri_buffer){&tree->summary, STARPU_W};
    for (int i = 0; i < tree->parts; i++)
        buffer[(*count)++] = (struct orri_buffer){part_of(s, i), STARPU_R};
    for (int i = 0; i < s->children; i++)
        buffer[(*count)++] = (struct orri_buffer){&tree->child[i], STARPU_R};
    if (tree->here == 0)
        buffer[(*count)++] = (struct orri_buffer){&tree->control, STARPU_W};
    return buffer;
}

static int tree_submit(struct orr_training *t, struct orri_tree *tree)
{
    struct orr_model *model = t->model;
    int rank = model->rank, first = tree->here * ORRI_FAN + 1, count;
    struct summarise s = {.training = t, .tree = tree, .run = t->run, .step = t->steps};

    if (tree->here < 0)
        return ORR_OK;
    for (; s.part < tree->parts; s.part++)
        ORR_TRY(part_submit(&s));
    for (; s.children < ORRI_FAN && first + s.children < tree->places; s.children++)
        ORR_TRY(orri_transfer_submit(model, &tree->child[s.children], tree->place[first + s.children], rank, t->run));
    struct orri_buffer *buffer = summary_buffers(&s, &count);
    int status = !buffer ? ORR_ENOMEM
                         : orri_task_submit(model, &control_codelet, count, buffer, &s, sizeof(s), ORRI_PRIORITY_UPDATE, 0, 0);
    free(buffer);
    if (status != 0)
        return status;
    if (tree->here > 0) {
        int parent = tree->place[(tree->here - 1) / ORRI_FAN];
        ORR_TRY(orri_transfer_submit(model, &tree->summary, rank, parent, t->run));
        ORR_TRY(orri_transfer_submit(model, &tree->control, parent, rank, t->run));
    }
    for (int i = 0; i < s.children; i++)
        ORR_TRY(orri_transfer_submit(model, &tree->control, rank, tree->place[first + i], t->run));
    return ORR_OK;
}

int orri_control_submit(struct orr_training *t)
{
    for (int r = 0; r < t->copies; r++)
        ORR_TRY(tree_submit(t, &t->tree[r]));
    return ORR_OK;
}

bool orri_control_stopped(struct orr_model *model, int64_t run, const struct orri_control *control)
{
    if (control->code != 0 && !orri_model_stopped(model, run))
        orri_model_fail(model, run, control->code, "%s", control->message);
    return orri_model_stopped(model, run);
}

/* ---- report: hands the step's figures to the host ---------------------------------------------------- */

struct report {
    struct orr_training *training;
    int64_t run;
    double lr;
    int64_t step;
};

static void report_cpu(void *buffers[], void *argument)
{
    const struct report *report = argument;
    struct orr_training *t = report->training;
    const struct orri_control *control = orri_pointer(buffers[0]);
    struct orr_step step = {0};
    double now = orri_seconds();
    bool failed = orri_control_stopped(t->model, report->run, control);

    pthread_mutex_lock(&t->lock);
    if (!failed)
        step = (struct orr_step){
            .step = report->step + 1,
            .loss = control->loss / (double)control->labels,
            .grad_norm = control->norm,
            .lr = report->lr,
            .labels = control->labels,
            .seconds = now - t->last_end,
            .stop = control->stop,
            .skipped = control->skip,
            .loss_scale = control->used_scale,
        };
    else if (t->failed > t->reported)
        t->failed = t->reported;
    if (!failed && t->options.partition == ORR_PARTITION_DYNAMIC)
        orri_set_share(t, report->step + t->in_flight, control->share);
    t->queue[t->reported % t->queue_size] = step;
    t->last_end = now;
    t->reported++;
    pthread_cond_broadcast(&t->finished);
    pthread_mutex_unlock(&t->lock);
}

static struct starpu_codelet report_codelet = {
    .cpu_funcs = {report_cpu},
    .nbuffers = 1,
    .modes = {STARPU_R},
    .name = "report",
    .color = ORRI_COLOR_OTHER,
};

int orri_report_submit(struct orr_training *t, double lr)
{
    struct report report = {t, t->run, lr, t->steps};
    struct orri_buffer buffer = {t->reports_apart ? &t->total.control : &t->tree[0].control, STARPU_R};

    if (t->reports_apart)
        ORR_TRY(tree_submit(t, &t->total));
    return orri_task_submit(t->model, &report_codelet, 1, &buffer, &report, sizeof(report), ORRI_PRIORITY_UPDATE, 0, 0);
}
