/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/norm/norm.h>

#include "codelets/math/operands.h"
#include "core/core.h"

enum { NORM_DROPOUT = 5 };      /* place */

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_last_norm *n = config;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {1},
        .view = {{{"weight", 1, {n->width, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0}}},
        .width = n->width,
        .input_width = n->width,
        .source = n->source,
    };
}

/* rstd [N], and the gradient of the gain [C], which B leaves for W. */
static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    return (struct orr_saved_size){(int64_t)batch * seq + ((const struct orr_last_norm *)config)->width, 0};
}

/* The gain times s, in the dtype and in fp32; dy through dropout, or rstd. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    size_t width = (size_t)((const struct orr_last_norm *)config)->width, rows = (size_t)shape->batch * (size_t)shape->seq;
    struct orri_rooms rooms = {0};

    orri_room(&rooms, width * orr_dtype_size(shape->dtype));
    orri_room(&rooms, width * sizeof(float));
    orri_room(&rooms, rows * width * orr_dtype_size(shape->dtype));
    orri_room(&rooms, rows * sizeof(float));
    orri_room(&rooms, orri_cpu_layernorm_backward_scratch((int)rows, (int)width));
    return rooms.used;
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    return (pass == ORR_WEIGHTS ? 1.0 : 8.0) * batch * seq * ((const struct orr_last_norm *)config)->width;
}

static struct orri_dropout dropout_of(const struct orr_operands *o)
{
    return orri_block_dropout(o, ((const struct orr_last_norm *)o->config)->dropout, NORM_DROPOUT);
}

static const void *scaled_gain(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_last_norm *n = o->config;
    void *gain = orri_room(rooms, (size_t)n->width * orr_dtype_size(o->dtype));
    float *wide = orri_room(rooms, (size_t)n->width * sizeof(*wide));

    orri_widen(o->dtype, (size_t)n->width, o->param[0][0], wide);
    for (int j = 0; j < n->width; j++)
        wide[j] *= n->scale;
    orri_round(o->dtype, (size_t)n->width, wide, gain);
    return gain;
}

static void forward(const struct orr_operands *o)
{
    const struct orr_last_norm *n = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    int rows = o->batch * o->seq;
    const void *gain = scaled_gain(o, &rooms);
    float *rstd = o->saved ? o->saved : orri_room(&rooms, (size_t)rows * sizeof(*rstd));

    orri_cpu_layernorm(o->dtype, rows, n->width, o->x[0], gain, NULL, n->eps, o->y, NULL, rstd);
    if (d.p > 0)
        orri_dropout_tile(o, &d, n->width, orri_positions(o), o->y, NULL, o->y);
}

static void backward(const struct orr_operands *o)
{
    const struct orr_last_norm *n = o->config;
    const struct orri_dropout d = dropout_of(o);
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    int rows = o->batch * o->seq;
    size_t bytes = (size_t)rows * (size_t)n->width * orr_dtype_size(o->dtype);
    const void *gain = scaled_gain(o, &rooms), *residual = o->add_input_gradient[0] ? o->dx[0] : NULL;
    const void *dy = orri_dropout_gradient(o, &d, n->width, orri_positions(o), o->dy, orri_room(&rooms, bytes));
    float *dgain = o->saved + rows;

    orri_cpu_layernorm_backward(o->dtype, rows, n->width, dy, o->x[0], gain, NULL, o->saved, residual, o->dx[0], dgain, NULL,
                                orri_room(&rooms, orri_cpu_layernorm_backward_scratch(rows, n->width)));
    for (int j = 0; j < n->width; j++)
        dgain[j] *= n->scale;
}

static void weights(const struct orr_operands *o)
{
    static const struct orri_norm norm = {.kind = ORR_RMSNORM};

    orri_norm_weights(o, &norm, ((const struct orr_last_norm *)o->config)->width, o->saved + o->batch * o->seq, NULL);
}

static const struct orr_block_class norm_class = {
    .name = "norm",
    .config_size = sizeof(struct orr_last_norm),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights},
    .any_dtype = true,
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_SAVEDS | ORR_GRADIENTS},
};

int orr_last_norm(struct orr_model *model, const struct orr_last_norm *config)
{
    if (config->width < 1 || !(config->scale > 0))
        return orri_fail(ORR_EINVAL, "norm", "a width of %d and a scale of %g are not both positive", config->width,
                         (double)config->scale);
    ORR_TRY(orri_check_dropout("norm", config->dropout));
    return orr_block_append(model, &norm_class, 0, config) ? ORR_OK : orr_error_code();
}
