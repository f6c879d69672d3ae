/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of gradients, in an order that no layout changes. */
#include <starpu.h>
#include <string.h>

#include "core/team.h"
#include "core/vector_cuda.h"
#include "train/train.h"

/* ---- reduce: a sum in a fixed order, wherever its terms are -------------------------------------------- */

struct reduce {
    struct orr_model *model;
    int64_t run;
};

static void reduce_cpu(void *buffers[], void *argument)
{
    const struct reduce *reduce = argument;
    const float *term = orri_pointer(buffers[1]);
    float *sum = orri_pointer(buffers[0]);

    if (!orri_model_stopped(reduce->model, reduce->run))
        ORRI_TEAM_FOR(orri_length(buffers[0]), ORRI_TEAM_ELEMENTS, k, n, orri_add((size_t)n, term + k, sum + k));
}

#ifdef ORR_HAVE_CUDA

static void reduce_cuda(void *buffers[], void *argument)
{
    const struct reduce *reduce = argument;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(reduce->model, reduce->run))
        return;
    orri_cuda_add(cuda, ORR_F32, (size_t)orri_length(buffers[0]), orri_pointer(buffers[1]), orri_pointer(buffers[0]));
    orri_device_check(reduce->model, reduce->run, "reduce", cuda);
}

#endif

static struct starpu_perfmodel reduce_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_reduce"};
static struct starpu_codelet reduce_codelet = {
    .cpu_funcs = {reduce_cpu},
    ORRI_CUDA_FUNCTION(reduce_cuda)
    .nbuffers = 2,
    .modes = {STARPU_RW, STARPU_R},
    .model = &reduce_model,
    .name = "reduce",
    .color = ORRI_COLOR_REDUCE,
};

/* sum += term */
static int add_submit(struct orr_training *t, const struct orri_sum *of, struct orr_tile *sum, struct orr_tile *term)
{
    struct reduce reduce = {t->model, t->run};
    struct orri_buffer buffers[] = {{sum, STARPU_RW}, {term, STARPU_R}};
    int worker = orri_parameter_worker(of->parameter, of->replica < 0 ? of->parameter->owner : of->replica);

    return orri_task_submit_at(t->model, &reduce_codelet, worker, 2, buffers, &reduce, sizeof(reduce), ORRI_PRIORITY_UPDATE,
                               of->parameter->index);
}

/* A sum, and the tiles of its terms. */
struct reduction {
    struct orr_training *t;
    struct orri_sum sum;
    struct orr_tile *(*term)(const struct reduction *r, int i);
};

static struct orr_tile *tile_of(const struct reduction *r, int level, int g)
{
    return r->term(r, orri_sum_node_term(&r->sum, level, g));
}

/* What comes from elsewhere passes through two tiles, one after the other: a sum that is not yet at home goes into the newer
 * one, since the next term takes the other. */
static int node_submit(const struct reduction *r, int level, int g)
{
    struct orr_model *model = r->t->model;
    struct orr_tile *so_far = NULL;
    int first, n = orri_sum_children(&r->sum, level, g, &first), at = orri_sum_node_rank(&r->sum, level, g);
    bool home = false;

    for (int i = first; i < first + n; i++) {
        int from = orri_sum_node_rank(&r->sum, level - 1, i);
        if (from != model->rank && at != model->rank)
            continue;
        struct orr_tile *here =
            orri_receive_submit(model, &model->gradients, tile_of(r, level - 1, i), from, at, r->t->run);
        if (!here)
            return orr_error_code();
        if (so_far && at == model->rank)
            ORR_TRY(add_submit(r->t, &r->sum, home ? so_far : here, home ? here : so_far));
        so_far = home ? so_far : here;
        home = home || from == at;
    }
    return ORR_OK;
}

/* The tile that the sum is in, on its rank; NULL: it failed. */
static struct orr_tile *sum_submit(const struct reduction *r)
{
    int under, level = 0;

    for (; orri_sum_nodes(&r->sum, level, &under) > 1; level++)
        for (int g = r->sum.from / under / ORRI_FAN; r->sum.to >= r->sum.from && g <= r->sum.to / under / ORRI_FAN; g++)
            if (node_submit(r, level + 1, g) != 0)
                return NULL;
    return tile_of(r, level, 0);
}

/* ---- of gradients, within a replica and over replicas */

/* Of users and chunks. */
static struct orr_tile *term_within(const struct reduction *r, int i)
{
    const struct orri_parameter *parameter = r->sum.parameter;
    int copies = parameter->copies;

    return &parameter->gradient[(i / copies * r->t->model->mesh.dp + r->sum.replica) * copies + i % copies];
}

/* What that leaves in each replica. */
static struct orr_tile *term_of_replica(const struct reduction *r, int i)
{
    return &r->sum.parameter->gradient[i * r->sum.parameter->copies];
}

static int within_submit(struct orr_training *t, int p, int d)
{
    struct reduction r = {t, orri_sum_within(t->model->parameter[p], d), term_within};

    return sum_submit(&r) ? ORR_OK : orr_error_code();
}

static struct orr_tile *over_submit(struct orr_training *t, int p)
{
    struct reduction r = {t, orri_sum_over(t->model->parameter[p]), term_of_replica};

    return sum_submit(&r);
}

/* ---- of what replicas have for themselves */

static struct orr_tile *term_value(const struct reduction *r, int i)
{
    return &r->sum.parameter->own[i];
}

static struct orr_tile *term_state(const struct reduction *r, int i)
{
    return orri_state_tile(r->t, r->sum.parameter, i);
}

struct orr_tile *orri_sum_copies_submit(struct orr_training *t, int p, bool states)
{
    struct reduction r = {t, orri_sum_over(t->model->parameter[p]), states ? term_state : term_value};

    return sum_submit(&r);
}

/* ---- squares: the sum of squares of the summed gradient, which is zero where views are held ------------ */

struct squares {
    struct orr_model *model;
    int64_t run;
    const struct orri_parameter *parameter;
    int held;                   /* views, not all of them */
};

static int held_views(const struct orri_parameter *parameter)
{
    int held = 0;

    for (int v = 0; v < parameter->views; v++)
        held += parameter->rate[v] == 0;
    return held;
}

static void squares_cpu(void *buffers[], void *argument)
{
    const struct squares *squares = argument;

    if (orri_model_stopped(squares->model, squares->run))
        return;
    for (int v = 0; squares->held > 0 && v < squares->parameter->views; v++)
        if (squares->parameter->rate[v] == 0)
            memset((float *)orri_pointer(buffers[0]) + squares->parameter->view[v].offset, 0,
                   (size_t)orri_view_count(&squares->parameter->view[v]) * sizeof(float));
    *(double *)orri_pointer(buffers[1]) = orri_sum_squares(orri_length(buffers[0]), orri_pointer(buffers[0]));
}

#ifdef ORR_HAVE_CUDA

static void squares_cuda(void *buffers[], void *argument)
{
    const struct squares *squares = argument;
    struct orr_cuda *cuda = orri_device_here();

    if (orri_model_stopped(squares->model, squares->run))
        return;
    for (int v = 0; squares->held > 0 && v < squares->parameter->views; v++)
        if (squares->parameter->rate[v] == 0)
            orri_cuda_zero(cuda, (size_t)orri_view_count(&squares->parameter->view[v]) * sizeof(float),
                           (float *)orri_pointer(buffers[0]) + squares->parameter->view[v].offset);
    orri_cuda_sum_squares(cuda, (size_t)orri_length(buffers[0]), orri_pointer(buffers[0]), orri_pointer(buffers[1]),
                          cuda->scratch);
    orri_device_check(squares->model, squares->run, "squares", cuda);
}

#endif

static struct starpu_perfmodel squares_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_squares"};
static struct starpu_codelet squares_codelet = {
    .cpu_funcs = {squares_cpu},
    ORRI_CUDA_FUNCTION(squares_cuda)
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .model = &squares_model,
    .name = "squares",
    .color = ORRI_COLOR_UPDATE,
};

/* First over the users and chunks of each replica, then over the replicas: so each of these sends its gradient once. */
int orri_reduce_submit(struct orr_training *t, int p)
{
    struct orr_model *model = t->model;
    const struct orri_parameter *parameter = model->parameter[p];
    struct squares squares = {model, t->run, parameter, held_views(parameter)};

    if (parameter->held)
        return ORR_OK;
    for (int i = 0; i < model->replicas_here; i++)
        ORR_TRY(within_submit(t, p, model->replica_here[i]));
    for (int r = 0; r < t->copies; r++) {
        int i = p * t->copies + r;
        t->sum[i] = t->copies > 1 ? &parameter->gradient[r * parameter->copies] : over_submit(t, p);
        if (!t->sum[i])
            return orr_error_code();
        struct orri_buffer buffers[] = {{t->sum[i], squares.held > 0 ? STARPU_RW : STARPU_R}, {&t->squares[i], STARPU_W}};
        if (orri_sum_rank(t, parameter, r) == model->rank)
            ORR_TRY(orri_task_submit_at(model, &squares_codelet,
                                        orri_parameter_worker(parameter, t->copies > 1 ? r : parameter->owner), 2,
                                        buffers, &squares, sizeof(squares), ORRI_PRIORITY_UPDATE, p));
    }
    return ORR_OK;
}
