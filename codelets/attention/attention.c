/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/attention/attention.h>

#include "codelets/attention/geometry.h"
#include "core/core.h"

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_attention *a = config;
    int c = a->width, head = a->width / a->heads;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {ORRI_RESIDUAL_VIEWS},
        .view = {{{"norm.weight", 1, {c, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"norm.bias", 1, {c, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0},
                  {"qkv.weight", 2, {c, 3 * c}, ORR_INITIAL_NORMAL, a->std, 1, 3, head, 0},
                  {"qkv.bias", 1, {3 * c, 0}, ORR_INITIAL_ZERO, 0, 0, 3, head, 0},
                  {"proj.weight", 2, {c, c}, ORR_INITIAL_NORMAL, a->projection_std, 0, 1, head, 0},
                  {"proj.bias", 1, {c, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0}}},
        .width = c,
        .input_width = c,
    };
}

/* u is q, k and v, each by heads; h what the heads give; the rest lse [B,H,T], the log-sum-exp of the scores. */
static void heads_forward(const struct orr_operands *o, const float *norm, const struct orri_inner *s, void *scratch)
{
    const struct orri_attention k = orri_attention_of(o);
    int rows = o->batch * o->seq, c = ((const struct orr_attention *)o->config)->width, ld = (int)k.ld;

    orri_bias_rows(rows, ld, NULL, o->param[0][ORRI_IN_BIAS], s->u);
    orri_gemm(false, false, rows, ld, c, norm, c, o->param[0][ORRI_IN_WEIGHT], ld, 1, s->u, ld);
    orri_attention_forward(&k, s->u, s->u + k.ld_out, s->u + 2 * k.ld_out, s->h, s->rest, scratch);
}

static void heads_backward(const struct orr_operands *o, const float *dh, const struct orri_inner *s, void *scratch)
{
    const struct orri_attention k = orri_attention_of(o);

    orri_attention_backward(&k, s->u, s->u + k.ld_out, s->u + 2 * k.ld_out, s->h, dh, s->rest, scratch);
}

static struct orri_residual residual(const void *config, int batch, int seq, int shards, int shard)
{
    const struct orri_attention k = orri_attention_kernel(config, batch, seq, shards, shard);
    struct orri_residual r = orri_attention_residual(config, &k);

    r.scratch = orri_attention_scratch(&k);
    r.forward = heads_forward;
    r.backward = heads_backward;
    return r;
}

#include "codelets/math/residual_passes.h"

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_attention *a = config;
    double rows = (double)batch * seq, c = a->width;
    double products = 8 * rows * c * c;
    double scores = 2 * rows * seq * c;     /* q k^T and the product with v, half of them masked */

    switch (pass) {
    case ORR_FORWARD: return products + scores;
    case ORR_BACKWARD: return products + 2.5 * scores;
    default: return products;
    }
}

static int most_shards(const void *config)
{
    return ((const struct orr_attention *)config)->heads;
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "heads",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
    .scratch_bytes = shard_scratch_bytes,
};

static const struct orr_block_class attention_class = {
    .name = "attention",
    .config_size = sizeof(struct orr_attention),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = ORRI_RESIDUAL_CPU,
    .cuda = ORRI_CUDA(orri_attention_cuda),
    .operands = ORRI_RESIDUAL_OPERANDS,
};

int orr_attention(struct orr_model *model, int layer, const struct orr_attention *config)
{
    if (config->heads < 1 || config->width < 1 || config->width % config->heads != 0)
        return orri_fail(ORR_EINVAL, "attention", "%d heads do not divide a width of %d", config->heads,
                         config->width);
    ORR_TRY(orri_check_dropout("attention", config->attention_dropout));
    ORR_TRY(orri_check_dropout("attention", config->dropout));
    return orr_block_append(model, &attention_class, layer, config) ? ORR_OK : orr_error_code();
}
