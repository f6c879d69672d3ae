/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/attention/geometry.h"
#include "codelets/math/residual_cuda.h"

/* q, k and v lie beside each other in a row of u. */
struct heads {
    void *q, *k, *v;
};

static struct heads heads_at(const struct orr_operands *o, const struct orri_attention *k, void *u)
{
    return (struct heads){u, orri_at(o, u, k->ld_out), orri_at(o, u, 2 * k->ld_out)};
}

static void heads_forward(const struct orr_operands *o, const void *norm, const struct orri_cuda_inner *s, void *scratch)
{
    const struct orri_attention k = orri_attention_of(o);
    const struct heads at = heads_at(o, &k, s->u);
    struct orri_cuda_product p = orri_row_product(o, (int)k.ld, ((const struct orr_attention *)o->config)->width, norm,
                                                  o->param[0][ORRI_IN_WEIGHT], false, s->u);

    p.bias = o->param[0][ORRI_IN_BIAS];
    orri_cuda_gemm(o->cuda, &p);
    orri_cuda_attention_forward(o->cuda, o->dtype, &k, at.q, at.k, at.v, s->h, s->rest, scratch);
}

static void heads_backward(const struct orr_operands *o, const void *dout, const struct orri_cuda_inner *s, void *dh,
                           void *scratch)
{
    const struct orri_attention k = orri_attention_of(o);
    const struct heads at = heads_at(o, &k, s->u);
    const struct orri_cuda_product p =
        orri_row_product(o, (int)k.ld_out, ((const struct orr_attention *)o->config)->width, dout,
                         o->param[0][ORRI_OUT_WEIGHT], true, dh);

    orri_cuda_gemm(o->cuda, &p);
    orri_cuda_attention_backward(o->cuda, o->dtype, &k, at.q, at.k, at.v, s->h, dh, s->rest, scratch);
}

static struct orri_cuda_residual residual(const void *config, enum orr_dtype dtype, int batch, int seq, int shards, int shard)
{
    const struct orri_attention k = orri_attention_kernel(config, batch, seq, shards, shard);
    size_t forward = orri_cuda_attention_forward_scratch(&k, dtype), backward = orri_cuda_attention_backward_scratch(&k, dtype);

    return (struct orri_cuda_residual){
        .shape = orri_attention_residual(config, &k),
        .scratch = forward > backward ? forward : backward,
        .forward = heads_forward,
        .backward = heads_backward,
    };
}

#include "codelets/math/residual_cuda_passes.h"

const struct orr_block_cuda orri_attention_cuda = ORRI_RESIDUAL_CUDA;
