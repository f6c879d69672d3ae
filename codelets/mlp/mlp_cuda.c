/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/residual_cuda.h"
#include "codelets/mlp/geometry.h"

static int hidden_of(const struct orr_operands *o)
{
    return orri_mlp_hidden(o->config, o->shards, o->shard);
}

/* u and h are before and after gelu: one product, which leaves both. */
static void gelu_forward(const struct orr_operands *o, const void *norm, const struct orri_cuda_inner *s, void *scratch)
{
    const struct orr_mlp *m = o->config;
    struct orri_cuda_product p = orri_row_product(o, hidden_of(o), m->width, norm, o->param[0][ORRI_IN_WEIGHT], false, s->h);

    (void)scratch;
    p.bias = o->param[0][ORRI_IN_BIAS];
    p.epilogue = ORRI_EPILOGUE_GELU;
    p.aux = s->u;
    orri_cuda_gemm(o->cuda, &p);
}

/* The product reads u while it writes the gradient of it, which therefore passes through dh. */
static void gelu_backward(const struct orr_operands *o, const void *dout, const struct orri_cuda_inner *s, void *dh,
                          void *scratch)
{
    const struct orr_mlp *m = o->config;
    int hidden = hidden_of(o);
    struct orri_cuda_product p = orri_row_product(o, hidden, m->width, dout, o->param[0][ORRI_OUT_WEIGHT], true, dh);

    (void)scratch;
    p.epilogue = ORRI_EPILOGUE_GELU_BACKWARD;
    p.aux = s->u;
    orri_cuda_gemm(o->cuda, &p);
    orri_cuda_copy(o->cuda, (size_t)o->batch * (size_t)o->seq * (size_t)hidden * orr_dtype_size(o->dtype), dh, s->u);
}

static struct orri_cuda_residual residual(const void *config, enum orr_dtype dtype, int batch, int seq, int shards, int shard)
{
    (void)dtype, (void)batch, (void)seq;
    return (struct orri_cuda_residual){
        .shape = orri_mlp_residual(config, shards, shard),
        .forward = gelu_forward,
        .backward = gelu_backward,
    };
}

#include "codelets/math/residual_cuda_passes.h"

const struct orr_block_cuda orri_mlp_cuda = ORRI_RESIDUAL_CUDA;
