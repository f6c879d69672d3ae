/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/embedding/embedding.h>

#include <string.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { TOKEN, POSITION };       /* groups */
enum { DROPOUT_PLACE = 7 };

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_embedding *e = config;

    *spec = (struct orr_block_spec){
        .groups = 2,
        .views = {1, 1},
        .view = {{{"token.weight", 2, {e->vocab, e->width}, ORR_INITIAL_NORMAL, e->std, 0, 1, 1, 0}},
                 {{"position.weight", 2, {e->positions, e->width}, ORR_INITIAL_NORMAL, e->std, -1, 1, 1, 0}}},
        .width = e->width,
        .longest = e->positions,
    };
}

static int64_t saved_floats(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return 0;
}

static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct orr_embedding *e = config;

    return e->dropout > 0 ? (size_t)batch * (size_t)seq * (size_t)e->width * sizeof(float) : 0;
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_embedding *e = config;

    return pass == ORR_FORWARD || pass == ORR_WEIGHTS ? (double)batch * seq * e->width : 0;
}

static void forward(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = orri_block_dropout(o, e->dropout, DROPOUT_PLACE);
    size_t width = (size_t)e->width;

    for (int r = 0; r < o->batch * o->seq; r++) {
        const float *token = o->param[TOKEN] + (size_t)o->ids[r] * width;
        const float *position = o->param[POSITION] + (size_t)(r % o->seq) * width;
        float *y = o->y + (size_t)r * width;
        for (size_t c = 0; c < width; c++)
            y[c] = token[c] + position[c];
    }
    if (d.p > 0)
        orri_dropout_apply(&d, orri_first_element(o, e->width), (size_t)(o->batch * o->seq) * width, o->y);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_embedding *e = o->config;
    const struct orri_dropout d = orri_block_dropout(o, e->dropout, DROPOUT_PLACE);
    size_t width = (size_t)e->width;
    const float *dy = orri_branch_gradient(o, &d, e->width, orri_scratch(scratch_bytes(e, o->batch, o->seq)));

    if (o->first_gradient) {
        memset(o->grad[TOKEN], 0, (size_t)e->vocab * width * sizeof(float));
        memset(o->grad[POSITION], 0, (size_t)e->positions * width * sizeof(float));
    }
    for (int r = 0; r < o->batch * o->seq; r++) {
        orri_add(width, dy + (size_t)r * width, o->grad[TOKEN] + (size_t)o->ids[r] * width);
        orri_add(width, dy + (size_t)r * width, o->grad[POSITION] + (size_t)(r % o->seq) * width);
    }
}

static const struct orr_block_class embedding_class = {
    .name = "embedding",
    .config_size = sizeof(struct orr_embedding),
    .specify = specify,
    .saved_floats = saved_floats,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_WEIGHTS] = weights},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_OUTPUT,
                 [ORR_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS},
};

int orr_embedding(struct orr_model *model, const struct orr_embedding *config)
{
    if (config->vocab < 1 || config->positions < 1 || config->width < 1)
        return orri_fail(ORR_EINVAL, "embedding", "%d tokens, %d positions and a width of %d are not all positive",
                         config->vocab, config->positions, config->width);
    ORR_TRY(orri_check_dropout("embedding", config->dropout));
    return orr_block_append(model, &embedding_class, 0, config) ? ORR_OK : orr_error_code();
}
