/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/mlp/mlp.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { MLP_DROPOUT = 2 };      /* place */

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

static int hidden_of(const struct orr_mlp *m, int shards, int shard)
{
    return (int)orr_split(m->hidden, 1, shards, shard).count;
}

/* u and h are before and after gelu: one product, which leaves both. */
static void gelu_forward(const struct orr_operands *o, const void *norm, const struct orri_inner *s, void *scratch)
{
    const struct orr_mlp *m = o->config;
    struct orri_product p = orri_row_product(o, hidden_of(o->config, o->shards, o->shard), m->width, norm, o->param[0][ORRI_IN_WEIGHT], false, s->h);

    (void)scratch;
    p.bias = o->param[0][ORRI_IN_BIAS];
    p.epilogue = ORRI_EPILOGUE_GELU;
    p.aux = s->u;
    ORRI_KERNEL(o, gemm, &p);
}

/* The product reads u while it writes the gradient of it, which therefore passes through dh. */
static void gelu_backward(const struct orr_operands *o, const void *dout, const struct orri_inner *s, void *dh,
                          void *scratch)
{
    const struct orr_mlp *m = o->config;
    int hidden = hidden_of(o->config, o->shards, o->shard);
    struct orri_product p = orri_row_product(o, hidden, m->width, dout, o->param[0][ORRI_OUT_WEIGHT], true, dh);

    (void)scratch;
    p.epilogue = ORRI_EPILOGUE_GELU_BACKWARD;
    p.aux = s->u;
    ORRI_KERNEL(o, gemm, &p);
    ORRI_KERNEL(o, copy, (size_t)o->batch * (size_t)o->seq * (size_t)hidden * orr_dtype_size(o->dtype), dh, s->u);
}

static struct orri_residual residual(const void *config, const struct orr_shape *shape, int shard)
{
    const struct orr_mlp *m = config;
    int hidden = hidden_of(m, shape->shards, shard);

    return (struct orri_residual){
        .width = m->width,
        .eps = m->eps,
        .dropout = m->dropout,
        .place = MLP_DROPOUT,
        .in = hidden,
        .out = hidden,
        .forward = gelu_forward,
        .backward = gelu_backward,
    };
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
};

static const struct orr_block_class mlp_class = {
    .name = "mlp",
    .config_size = sizeof(struct orr_mlp),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .kept_bytes = kept_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = ORRI_RESIDUAL_PASSES,
    .any_dtype = true,
    .cuda = ORRI_CUDA(ORRI_RESIDUAL_PASSES),
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
