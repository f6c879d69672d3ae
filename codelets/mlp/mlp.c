/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/mlp/mlp.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { MLP_DROPOUT = 2, HIDDEN_DROPOUT = 6 };      /* places */

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_mlp *m = config;
    int c = m->width, f = m->hidden, n;
    bool out_in = m->style.matrices == ORR_OUT_IN;
    struct orr_view in = orri_matrix_view(out_in, c, f, true, 1, m->std), out = orri_matrix_view(out_in, f, c, false, 1, m->projection_std);

    *spec = (struct orr_block_spec){.groups = 1, .width = c, .input_width = c, .source = m->style.source};
    n = orri_norm_specify(&m->style, c, spec->view[0]);
    orri_add_view(spec->view[0], &n, m->gated ? "gate.weight" : "fc.weight", in);
    if (m->gated)
        orri_add_view(spec->view[0], &n, "up.weight", in);
    if (m->style.biases != ORR_NO_BIASES)
        orri_add_view(spec->view[0], &n, m->gated ? "gate.bias" : "fc.bias", orri_bias_view(f, true, 1));
    if (m->gated && m->style.biases != ORR_NO_BIASES)
        orri_add_view(spec->view[0], &n, "up.bias", orri_bias_view(f, true, 1));
    orri_add_view(spec->view[0], &n, "proj.weight", out);
    if (m->style.biases == ORR_BIASES)
        orri_add_view(spec->view[0], &n, "proj.bias", orri_bias_view(c, false, 1));
    spec->views[0] = n;
}

static int hidden_of(const struct orr_operands *o)
{
    return (int)orr_split(((const struct orr_mlp *)o->config)->hidden, 1, o->shards, o->shard).count;
}

static void gated_forward(const struct orr_operands *o, const struct orri_inner *s, void *scratch)
{
    (void)scratch;
    ORRI_KERNEL(o, gated, o->dtype, (enum orr_activation)((const struct orr_mlp *)o->config)->activation, o->batch * o->seq,
                hidden_of(o), s->u, s->h);
}

static void gated_backward(const struct orr_operands *o, const struct orri_inner *s, void *dh, void *scratch)
{
    (void)scratch;
    ORRI_KERNEL(o, gated_backward, o->dtype, (enum orr_activation)((const struct orr_mlp *)o->config)->activation, o->batch * o->seq,
                hidden_of(o), dh, s->u);
}

static struct orri_residual residual(const void *config, const struct orr_shape *shape, int shard)
{
    const struct orr_mlp *m = config;
    struct orr_part columns = orr_split(m->hidden, 1, shape->shards, shard);
    int hidden = (int)columns.count;
    struct orri_residual r = orri_residual_of(&m->style, m->gated ? 2 : 1, m->width, m->eps);

    r.dropout = m->dropout;
    r.place = MLP_DROPOUT;
    r.inner_dropout = m->hidden_dropout;
    r.inner_place = HIDDEN_DROPOUT;
    r.inner_first = columns.first;
    r.inner_all = m->hidden;
    r.in = m->gated ? 2 * hidden : hidden;
    r.out = hidden;
    r.activation = (enum orr_activation)m->activation;
    if (m->gated) {
        r.forward = gated_forward;
        r.backward = gated_backward;
    }
    return r;
}

#include "codelets/math/residual_passes.h"

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_mlp *m = config;

    (void)pass;
    return (m->gated ? 6.0 : 4.0) * batch * seq * m->width * m->hidden;
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
    .operands = ORRI_RESIDUAL_OPERANDS(0, 0),
};

int orr_mlp(struct orr_model *model, int layer, const struct orr_mlp *config)
{
    if (config->width < 1 || config->hidden < 1)
        return orri_fail(ORR_EINVAL, "mlp", "a width of %d and a hidden width of %d are not both positive",
                         config->width, config->hidden);
    if (config->gated && config->style.matrices != ORR_OUT_IN)
        return orri_fail(ORR_EINVAL, "mlp", "a gate goes with [out,in] matrices");
    ORR_TRY(orri_check_dropout("mlp", config->dropout));
    ORR_TRY(orri_check_dropout("mlp", config->hidden_dropout));
    return orr_block_append(model, &mlp_class, layer, config) ? ORR_OK : orr_error_code();
}
