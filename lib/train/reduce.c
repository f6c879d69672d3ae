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

/* The sums take the places of their first terms. */
struct orr_tile *orri_sum_submit(struct orr_training *t, int p, struct orr_tile **term, int terms, int leader)
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
static struct orr_tile *reduce_submit(struct orr_training *t, int p, int first, int replicas)
{
    const struct orri_parameter *parameter = t->model->parameter[p];
    int dp = t->model->mesh.dp, copies = parameter->copies, within = parameter->group->users * copies;
    struct orr_tile **replica = orri_alloc((size_t)(replicas + within) * sizeof(*replica)), **term = replica + replicas;
    struct orr_tile *sum = NULL;

    if (!replica)
        return NULL;
    for (int d = 0; d == 0 || (sum && d < replicas); d++) {
        for (int i = 0; i < within; i++)
            term[i] = &parameter->gradient[(i / copies * dp + first + d) * copies + i % copies];
        sum = replica[d] = orri_sum_submit(t, p, term, within, 0);
    }
    if (sum)
        sum = orri_sum_submit(t, p, replica, replicas, replicas > 1 ? parameter->owner : 0);
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

int orri_reduce_submit(struct orr_training *t, int p)
{
    struct squares squares = {t->model, t->run};
    bool apart = t->copies > 1;

    for (int r = 0; r < t->copies; r++) {
        int i = p * t->copies + r;
        t->sum[i] = reduce_submit(t, p, apart ? r : 0, apart ? 1 : t->model->mesh.dp);
        if (!t->sum[i])
            return orr_error_code();
        struct orri_buffer buffers[] = {{t->sum[i], STARPU_R}, {&t->squares[i], STARPU_W}};
        if (orri_update_rank(t, t->model->parameter[p], r) == t->model->rank)
            ORR_TRY(orri_task_submit(t->model, &squares_codelet, 2, buffers, &squares, sizeof(squares),
                                     ORRI_PRIORITY_UPDATE, p, 0));
    }
    return ORR_OK;
}
