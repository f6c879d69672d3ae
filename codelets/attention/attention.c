/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/attention/attention.h>

#include <math.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { PROBABILITY_PLACE, DROPOUT_PLACE };

/* Where the views of the flat tile begin, in floats. */
struct layout {
    int64_t gamma, beta, qkv, qkv_bias, proj, proj_bias;
};

static struct layout layout(const struct orr_attention *a)
{
    int64_t c = a->width;
    struct layout l;

    l.gamma = 0;
    l.beta = l.gamma + c;
    l.qkv = l.beta + c;
    l.qkv_bias = l.qkv + 3 * c * c;
    l.proj = l.qkv_bias + 3 * c;
    l.proj_bias = l.proj + c * c;
    return l;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_attention *a = config;
    int c = a->width, head = a->width / a->heads;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {6},
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

/* What the forward pass leaves. B replaces qkv by its gradient and fills dgamma and dbeta. */
struct saved {
    float *mean, *rstd;         /* [N]                               */
    float *lse;                 /* [B,H,T] log-sum-exp of the scores */
    float *qkv;                 /* [N,3C]                            */
    float *heads;               /* [N,C] what the heads give         */
    float *dgamma, *dbeta;      /* [C]                               */
};

static struct saved saved_at(const struct orr_attention *a, int rows, float *p)
{
    size_t n = (size_t)rows, c = (size_t)a->width;
    struct saved s;

    s.mean = p;
    s.rstd = s.mean + n;
    s.lse = s.rstd + n;
    s.qkv = s.lse + n * (size_t)a->heads;
    s.heads = s.qkv + 3 * n * c;
    s.dgamma = s.heads + n * c;
    s.dbeta = s.dgamma + c;
    return s;
}

static int64_t saved_floats(const void *config, int batch, int seq)
{
    const struct orr_attention *a = config;

    return (int64_t)batch * seq * (2 + a->heads + 4 * a->width) + 2 * a->width;
}

static struct orri_attention kernel(const struct orr_attention *a, int batch, int seq)
{
    return (struct orri_attention){
        .batch = batch,
        .seq = seq,
        .heads = a->heads,
        .head_dim = a->width / a->heads,
        .ld = 3 * a->width,
        .ld_out = a->width,
        .scale = 1 / sqrtf((float)(a->width / a->heads)),
        .total_heads = a->heads,
    };
}

static struct orri_attention kernel_of(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    struct orri_attention k = kernel(a, o->batch, o->seq);

    k.dropout = orri_block_dropout(o, a->attention_dropout, PROBABILITY_PLACE);
    k.first_sample = o->first_sample;
    return k;
}

/* The forward pass outside training is the hungriest: it keeps what it would save, beside norm(x) and the kernel's
 * own. B keeps three of [N,C], the gradients of the heads, of norm(x) and of what was dropped out. */
static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct orr_attention *a = config;
    struct orri_attention k = kernel(a, batch, seq);
    size_t count = (size_t)batch * (size_t)seq * (size_t)a->width;

    return sizeof(float) * ((size_t)saved_floats(config, batch, seq) + count) + orri_attention_scratch(&k);
}

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

static void forward(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    const struct layout at = layout(a);
    const struct orri_attention k = kernel_of(o);
    const struct orri_dropout d = orri_block_dropout(o, a->dropout, DROPOUT_PLACE);
    const float *p = o->param[0];
    int rows = o->batch * o->seq, c = a->width;
    float *norm = orri_scratch(scratch_bytes(a, o->batch, o->seq));
    float *room = norm + (size_t)rows * (size_t)c;
    struct saved s = saved_at(a, rows, o->saved ? o->saved : room);
    float *kernel_room = room + saved_floats(a, o->batch, o->seq);

    orri_layernorm(rows, c, o->x[0], p + at.gamma, p + at.beta, a->eps, norm, s.mean, s.rstd);
    orri_bias_rows(rows, 3 * c, NULL, p + at.qkv_bias, s.qkv);
    orri_gemm(false, false, rows, 3 * c, c, norm, c, p + at.qkv, 3 * c, 1, s.qkv, 3 * c);
    orri_attention_forward(&k, s.qkv, s.qkv + c, s.qkv + 2 * c, s.heads, s.lse, kernel_room);
    orri_branch_begin(o, &d, c, p + at.proj_bias);
    orri_gemm(false, false, rows, c, c, s.heads, c, p + at.proj, c, 1, o->y, c);
    orri_branch_end(o, &d, c);
}

static void backward(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    const struct layout at = layout(a);
    const struct orri_attention k = kernel_of(o);
    const struct orri_dropout d = orri_block_dropout(o, a->dropout, DROPOUT_PLACE);
    const float *p = o->param[0];
    int rows = o->batch * o->seq, c = a->width;
    size_t count = (size_t)rows * (size_t)c;
    struct saved s = saved_at(a, rows, o->saved);
    float *dheads = orri_scratch(scratch_bytes(a, o->batch, o->seq));
    float *dnorm = dheads + count;
    const float *dy = orri_branch_gradient(o, &d, c, dheads + 2 * count);

    orri_gemm(false, true, rows, c, c, dy, c, p + at.proj, c, 0, dheads, c);
    orri_attention_backward(&k, s.qkv, s.qkv + c, s.qkv + 2 * c, s.heads, dheads, s.lse, dheads + 3 * count);
    orri_gemm(false, true, rows, c, 3 * c, s.qkv, 3 * c, p + at.qkv, 3 * c, 0, dnorm, c);
    orri_branch_input_gradient(o, c, dnorm, p + at.gamma, s.mean, s.rstd, s.dgamma, s.dbeta);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    const struct layout at = layout(a);
    const struct orri_dropout d = orri_block_dropout(o, a->dropout, DROPOUT_PLACE);
    const float *p = o->param[0];
    float *g = o->grad[0];
    float beta = o->first_gradient ? 0 : 1;
    int rows = o->batch * o->seq, c = a->width;
    size_t count = (size_t)rows * (size_t)c;
    struct saved s = saved_at(a, rows, o->saved);
    float *norm = orri_scratch(2 * count * sizeof(float));
    const float *dy = orri_branch_gradient(o, &d, c, norm + count);

    orri_gemm(true, false, c, c, rows, s.heads, c, dy, c, beta, g + at.proj, c);
    orri_bias_backward(rows, c, dy, c, beta, g + at.proj_bias);
    orri_layernorm_again(rows, c, o->x[0], p + at.gamma, p + at.beta, s.mean, s.rstd, norm);
    orri_gemm(true, false, c, 3 * c, rows, norm, c, s.qkv, 3 * c, beta, g + at.qkv, 3 * c);
    orri_bias_backward(rows, 3 * c, s.qkv, 3 * c, beta, g + at.qkv_bias);
    orri_bias_backward(1, c, s.dgamma, c, beta, g + at.gamma);
    orri_bias_backward(1, c, s.dbeta, c, beta, g + at.beta);
}

static const struct orr_block_class attention_class = {
    .name = "attention",
    .config_size = sizeof(struct orr_attention),
    .specify = specify,
    .saved_floats = saved_floats,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights},
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] =
                     ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS},
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
