/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of gradients, in an order that no layout changes. */
#include <starpu.h>
#include <stdlib.h>

#include "train/train.h"

/* ---- reduce: a sum in a fixed order, wherever its terms are -------------------------------------------- */

struct reduce {
    const struct orr_model *model;
    int64_t run;
};

static void reduce_cpu(void *buffers[], void *argument)
{
    const struct reduce *reduce = argument;

    if (!orri_model_stopped(reduce->model, reduce->run))
        orri_add((size_t)orri_length(buffers[0]), orri_pointer(buffers[1]), orri_pointer(buffers[0]));
}

static struct starpu_perfmodel reduce_model = {.type = STARPU_HISTORY_BASED, .symbol = "orrery_reduce"};
static struct starpu_codelet reduce_codelet = {
    .cpu_funcs = {reduce_cpu},
    .nbuffers = 2,
    .modes = {STARPU_RW, STARPU_R},
    .model = &reduce_model,
    .name = "reduce",
    .color = ORRI_COLOR_REDUCE,
};

/* sum += term */
static int add_submit(struct orr_training *t, int parameter, struct orr_tile *sum, struct orr_tile *term)
{
    struct reduce reduce = {t->model, t->run};
    struct orri_buffer buffers[] = {{sum, STARPU_RW}, {term, STARPU_R}};

    return orri_task_submit(t->model, &reduce_codelet, 2, buffers, &reduce, sizeof(reduce), ORRI_PRIORITY_UPDATE, parameter,
                            0);
}

/* Terms in a tree of ORRI_FAN children a node: node g of level 0 is term g. A sum is made on the rank of one of its terms,
 * the leader, and left in the first that is at home there. All of that follows from where the terms are: a rank need not
 * look at nodes that it has no part in. */
struct sum {
    struct orr_training *t;
    int parameter;
    struct orr_tile *(*term)(const struct sum *sum, int i);
    int copy;                           /* for term() */
    int terms, leader;
};

/* Nodes of a level, and terms under each. */
static int nodes_of(const struct sum *sum, int level, int *under)
{
    *under = 1;
    for (int i = 0; i < level; i++)
        *under *= ORRI_FAN;
    return (sum->terms + *under - 1) / *under;
}

/* The children of node g: first .. first + n - 1 of the level below. Where the leader of all is among its terms it leads here;
 * other nodes are led in turn. */
static int children_of(const struct sum *sum, int level, int g, int *first, int *leader)
{
    int under, below = nodes_of(sum, level - 1, &under), n = below - g * ORRI_FAN;
    int towards = sum->leader / under;

    n = n < ORRI_FAN ? n : ORRI_FAN;
    *first = g * ORRI_FAN;
    *leader = *first + (towards / ORRI_FAN == g ? towards % ORRI_FAN : (sum->parameter + g) % n);
    return n;
}

static int rank_of(const struct sum *sum, int level, int g)
{
    int first, leader = g;

    for (; level > 0; level--)
        children_of(sum, level, leader, &first, &leader);
    return sum->term(sum, leader)->rank;
}

static struct orr_tile *tile_of(const struct sum *sum, int level, int g)
{
    int first, leader, rank = rank_of(sum, level, g);

    for (; level > 0; level--) {
        children_of(sum, level, g, &first, &leader);
        for (g = first; rank_of(sum, level - 1, g) != rank; g++)
            ;
    }
    return sum->term(sum, g);
}

/* What comes from elsewhere passes through two tiles, one after the other: a sum that is not yet at home goes into the newer
 * one, since the next term takes the other. */
static int node_submit(const struct sum *sum, int level, int g)
{
    struct orr_model *model = sum->t->model;
    struct orr_tile *so_far = NULL;
    int first, leader, n = children_of(sum, level, g, &first, &leader), at = rank_of(sum, level, g);
    bool home = false;

    for (int i = first; i < first + n; i++) {
        int from = rank_of(sum, level - 1, i);
        if (from != model->rank && at != model->rank)
            continue;
        struct orr_tile *here =
            orri_receive_submit(model, &model->gradients, tile_of(sum, level - 1, i), from, at, sum->t->run);
        if (!here)
            return orr_error_code();
        if (so_far && at == model->rank)
            ORR_TRY(add_submit(sum->t, sum->parameter, home ? so_far : here, home ? here : so_far));
        so_far = home ? so_far : here;
        home = home || from == at;
    }
    return ORR_OK;
}

/* Terms from .. to are those that this rank has. */
static struct orr_tile *sum_submit(const struct sum *sum, int from, int to)
{
    int under, level = 0;

    for (; nodes_of(sum, level, &under) > 1; level++)
        for (int g = from / under / ORRI_FAN; to >= from && g <= to / under / ORRI_FAN; g++)
            if (node_submit(sum, level + 1, g) != 0)
                return NULL;
    return tile_of(sum, level, 0);
}

/* ---- of gradients, within a replica and over replicas */

/* Users and chunks of replica `copy`. */
static struct orr_tile *term_within(const struct sum *sum, int i)
{
    const struct orri_parameter *parameter = sum->t->model->parameter[sum->parameter];
    int copies = parameter->copies;

    return &parameter->gradient[(i / copies * sum->t->model->mesh.dp + sum->copy) * copies + i % copies];
}

/* What that leaves in each replica. */
static struct orr_tile *term_of_replica(const struct sum *sum, int i)
{
    const struct orri_parameter *parameter = sum->t->model->parameter[sum->parameter];

    return &parameter->gradient[i * parameter->copies];
}

static int within_submit(struct orr_training *t, int p, int d)
{
    int terms = t->model->parameter[p]->group->users * t->model->parameter[p]->copies;
    struct sum sum = {t, p, term_within, d, terms, 0};

    return sum_submit(&sum, 0, terms - 1) ? ORR_OK : orr_error_code();
}

static struct orr_tile *over_submit(struct orr_training *t, int p)
{
    const struct orri_parameter *parameter = t->model->parameter[p];
    struct sum sum = {t, p, term_of_replica, 0, t->model->mesh.dp, parameter->owner};

    return sum_submit(&sum, parameter->first_here, parameter->last_here);
}

/* ---- of what replicas have for themselves */

static struct orr_tile *term_value(const struct sum *sum, int i)
{
    return &sum->t->model->parameter[sum->parameter]->read[i];
}

static struct orr_tile *term_state(const struct sum *sum, int i)
{
    return orri_state_tile(sum->t, sum->t->model->parameter[sum->parameter], i);
}

struct orr_tile *orri_sum_copies_submit(struct orr_training *t, int p, bool states)
{
    const struct orri_parameter *parameter = t->model->parameter[p];
    struct sum sum = {t, p, states ? term_state : term_value, 0, t->copies, parameter->owner};

    return sum_submit(&sum, parameter->first_here, parameter->last_here);
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
    *(double *)orri_pointer(buffers[1]) = orri_sum_squares(orri_length(buffers[0]), orri_pointer(buffers[0]));
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

/* First over the users and chunks of each replica, then over the replicas: so each of these sends its gradient once. */
int orri_reduce_submit(struct orr_training *t, int p)
{
    struct orr_model *model = t->model;
    struct squares squares = {model, t->run};

    for (int i = 0; i < model->replicas_here; i++)
        ORR_TRY(within_submit(t, p, model->replica_here[i]));
    for (int r = 0; r < t->copies; r++) {
        int i = p * t->copies + r;
        t->sum[i] = t->copies > 1 ? &model->parameter[p]->gradient[r * model->parameter[p]->copies] : over_submit(t, p);
        if (!t->sum[i])
            return orr_error_code();
        struct orri_buffer buffers[] = {{t->sum[i], STARPU_R}, {&t->squares[i], STARPU_W}};
        if (orri_sum_rank(t, model->parameter[p], r) == model->rank)
            ORR_TRY(orri_task_submit(model, &squares_codelet, 2, buffers, &squares, sizeof(squares), ORRI_PRIORITY_UPDATE, p,
                                     0));
    }
    return ORR_OK;
}
