/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters in the dtype that the model computes in, from those in fp32; and their way to all who read them. */
#include <starpu.h>

#include "core/team.h"
#include "core/vector_cuda.h"
#include "graph/graph.h"

/* ---- rounding ------------------------------------------------------------------------------------------ */

struct rounding {
    struct orr_model *model;
    enum orr_dtype dtype;
};

static void round_cpu(void *buffers[], void *argument)
{
    const struct rounding *r = argument;
    const float *exact = (const float *)STARPU_VECTOR_GET_PTR(buffers[0]);
    char *rounded = (char *)STARPU_VECTOR_GET_PTR(buffers[1]);

    ORRI_TEAM_FOR((size_t)STARPU_VECTOR_GET_NX(buffers[0]), ORRI_TEAM_ELEMENTS, k, n,
                  orri_round(r->dtype, n, exact + k, rounded + k * orr_dtype_size(r->dtype)));
}

#ifdef ORR_HAVE_CUDA

static void round_cuda(void *buffers[], void *argument)
{
    const struct rounding *r = argument;
    struct orr_cuda *cuda = orri_device_here();

    orri_cuda_convert(cuda, STARPU_VECTOR_GET_NX(buffers[0]), ORR_F32, (const void *)STARPU_VECTOR_GET_PTR(buffers[0]), r->dtype,
                      (void *)STARPU_VECTOR_GET_PTR(buffers[1]));
    orri_device_check(r->model, r->model->runs, "round", cuda);
}

#endif

static struct starpu_codelet round_codelet = {
    .cpu_funcs = {round_cpu},
    ORRI_CUDA_FUNCTION(round_cuda)
    .nbuffers = 2,
    .modes = {STARPU_R, STARPU_W},
    .name = "round",
    .color = ORRI_COLOR_UPDATE,
};

static int round_submit(struct orr_model *model, int worker, struct orr_tile *exact, struct orr_tile *rounded)
{
    struct rounding r = {model, rounded->dtype};
    struct orri_buffer buffers[] = {{exact, STARPU_R}, {rounded, STARPU_W}};

    return model->dtype == ORR_F32 ? ORR_OK
                                   : orri_task_submit_at(model, &round_codelet, worker, 2, buffers, &r, sizeof(r),
                                                         ORRI_PRIORITY_UPDATE, 0);
}

void orri_put(const struct orr_tile *tile, void *data, int64_t first, int64_t count, const float *values)
{
    orri_round(tile->dtype, (size_t)count, values, (char *)data + first * (int64_t)orr_dtype_size(tile->dtype));
}

void orri_get(const struct orr_tile *tile, const void *data, int64_t first, int64_t count, float *values)
{
    orri_widen(tile->dtype, (size_t)count, (const char *)data + first * (int64_t)orr_dtype_size(tile->dtype), values);
}

struct orr_tile *orri_shared(struct orri_parameter *parameter)
{
    return parameter->working.count ? &parameter->working : &parameter->value;
}

struct orr_tile *orri_own(struct orri_parameter *parameter, int replica)
{
    return parameter->own_working[replica].count ? &parameter->own_working[replica] : &parameter->own[replica];
}

/* ---- publishing ------------------------------------------------------------------------------------------ */

int orri_publish_submit(struct orr_model *model, struct orri_parameter *parameter, int64_t run)
{
    struct orr_tile *tile = orri_shared(parameter);
    int here = parameter->here;

    if (here < 0 || orri_is_lent(model, parameter))
        return ORR_OK;
    if (here > 0)
        ORR_TRY(orri_transfer_submit(model, tile, parameter->place[(here - 1) / ORRI_FAN], parameter->place[here], run));
    for (int i = here * ORRI_FAN + 1; i <= (here + 1) * ORRI_FAN && i < parameter->places; i++)
        ORR_TRY(orri_transfer_submit(model, tile, parameter->place[here], parameter->place[i], run));
    return ORR_OK;
}

int orri_publish_own_submit(struct orr_model *model, struct orri_parameter *parameter, int replica, int64_t run)
{
    int from = orri_user_rank(parameter, 0, replica, 0), before = from;

    for (int u = 0; u < parameter->group->users; u++) {
        for (int c = 0; c < parameter->copies; c++) {
            int to = orri_user_rank(parameter, u, replica, c);
            if (to != before)
                ORR_TRY(orri_transfer_submit(model, orri_own(parameter, replica), from, to, run));
            before = to;
        }
    }
    return ORR_OK;
}

int orri_share_submit(struct orr_model *model, struct orri_parameter *parameter, int64_t run)
{
    if (parameter->here == 0)
        ORR_TRY(round_submit(model, orri_master_worker(parameter, parameter->owner), &parameter->value, &parameter->working));
    return orri_publish_submit(model, parameter, run);
}

int orri_share_own_submit(struct orr_model *model, struct orri_parameter *parameter, int replica, int64_t run)
{
    if (orri_user_rank(parameter, 0, replica, 0) == model->rank)
        ORR_TRY(round_submit(model, orri_master_worker(parameter, replica), &parameter->own[replica],
                             &parameter->own_working[replica]));
    return orri_publish_own_submit(model, parameter, replica, run);
}

int orri_model_share(struct orr_model *model, const struct orri_group *group)
{
    int64_t run = model->runs++;

    for (int p = 0; orri_has_masters(model) && p < model->parameters; p++)
        if (!group || model->parameter[p]->group == group)
            ORR_TRY(orri_share_submit(model, model->parameter[p], run));
    return ORR_OK;
}
