/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/mlp/mlp.h>

#include "codelets/math/residual.h"
#include "codelets/mlp/geometry.h"
#include "core/core.h"

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_mlp *m = config;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {ORRI_RESIDUAL_VIEWS},
        .view = {{{"norm.weight", 1, {m->width, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"norm.bias", 1, {m->width, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0},
                  {"fc.weight", 2, {m->width, m->hidden}, ORR_INITIAL_NORMAL, m->std, 1, 1, 1, 0},
                  {"fc.bias", 1, {m->hidden, 0}, ORR_INITIAL_ZERO, 0, 0, 1, 1, 0},
                  {"proj.weight", 2, {m->hidden, m->width}, ORR_INITIAL_NORMAL, m->projection_std, 0, 1, 1, 0},
                  {"proj.bias", 1, {m->width, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0}}},
        .width = m->width,
        .input_width = m->width,
    };
}

/* u and h are before and after gelu. */
static void gelu_forward(const struct orr_operands *o, const float *norm, const struct orri_inner *s, void *scratch)
{
    const struct orr_mlp *m = o->config;
    int rows = o->batch * o->seq, hidden = orri_mlp_hidden(m, o->shards, o->shard);

    (void)scratch;
    orri_gemm(false, false, rows, hidden, m->width, norm, m->width, o->param[0][ORRI_IN_WEIGHT], hidden, 0, s->u,
              hidden);
    orri_bias_gelu(rows, hidden, s->u, o->param[0][ORRI_IN_BIAS], s->h);
}

static void gelu_backward(const struct orr_operands *o, const float *dh, const struct orri_inner *s, void *scratch)
{
    size_t rows = (size_t)o->batch * (size_t)o->seq;

    (void)scratch;
    orri_gelu_backward(rows * (size_t)orri_mlp_hidden(o->config, o->shards, o->shard), dh, s->u, s->u);
}

static struct orri_residual residual(const void *config, int batch, int seq, int shards, int shard)
{
    struct orri_residual r = orri_mlp_residual(config, shards, shard);

    (void)batch, (void)seq;
    r.forward = gelu_forward;
    r.backward = gelu_backward;
    return r;
}

#include "codelets/math/residual_passes.h"

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_mlp *m = config;

    (void)pass;
    return 4.0 * batch * seq * m->width * m->hidden;
}

static int most_shards(const void *config)
{
    return ((const struct orr_mlp *)config)->hidden;
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "hidden columns",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
    .scratch_bytes = shard_scratch_bytes,
};

static const struct orr_block_class mlp_class = {
    .name = "mlp",
    .config_size = sizeof(struct orr_mlp),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = ORRI_RESIDUAL_CPU,
    .cuda = ORRI_CUDA(orri_mlp_cuda),
    .operands = ORRI_RESIDUAL_OPERANDS,
};

int orr_mlp(struct orr_model *model, int layer, const struct orr_mlp *config)
{
    if (config->width < 1 || config->hidden < 1)
        return orri_fail(ORR_EINVAL, "mlp", "a width of %d and a hidden width of %d are not both positive",
                         config->width, config->hidden);
    ORR_TRY(orri_check_dropout("mlp", config->dropout));
    return orr_block_append(model, &mlp_class, layer, config) ? ORR_OK : orr_error_code();
}
