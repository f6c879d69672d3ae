/* SPDX-License-Identifier: Apache-2.0 */
#include "scale.h"

#include <orrery/error.h>

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct scale *s = config;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {1},
        .view = {{{.name = "weight", .ndim = 1, .shape = {s->width}, .initial = ORR_INITIAL_ONE,
                   .split = -1, .groups = 1, .unit = 1}}},
        .width = s->width,
    };
}

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return (struct orr_saved_size){0, 0};   /* x itself stays in its slot until B and W have read it */
}

static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    (void)config, (void)shape;
    return 0;
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct scale *s = config;

    return (pass == ORR_WEIGHTS ? 2.0 : 1.0) * batch * seq * s->width;
}

/* y = x * s */
static void forward(const struct orr_operands *o)
{
    const int c = ((const struct scale *)o->config)->width;

    for (int r = 0; r < o->batch * o->seq; r++)
        for (int j = 0; j < c; j++)
            o->y[r * c + j] = o->x[0][r * c + j] * o->param[0][0][j];
}

/* dx = dy * s */
static void backward(const struct orr_operands *o)
{
    const int c = ((const struct scale *)o->config)->width;

    for (int r = 0; r < o->batch * o->seq; r++) {
        for (int j = 0; j < c; j++) {
            float dx = o->dy[r * c + j] * o->param[0][0][j];
            o->dx[0][r * c + j] = o->add_input_gradient[0] ? o->dx[0][r * c + j] + dx : dx;
        }
    }
}

/* ds[j] += sum over rows of dy * x */
static void weights(const struct orr_operands *o)
{
    const int c = ((const struct scale *)o->config)->width;

    for (int j = 0; j < c; j++) {
        float sum = o->first_gradient ? 0 : o->grad[0][0][j];
        for (int r = 0; r < o->batch * o->seq; r++)
            sum += o->dy[r * c + j] * o->x[0][r * c + j];
        o->grad[0][0][j] = sum;
    }
}

static const struct orr_block_class scale_class = {
    .name = "scale",
    .config_size = sizeof(struct scale),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights},
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT,
                 [ORR_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS},
};

int scale(struct orr_model *model, int layer, const struct scale *config)
{
    return orr_block_append(model, &scale_class, layer, config) ? ORR_OK : orr_error_code();
}
