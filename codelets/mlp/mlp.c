/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/mlp/mlp.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { DROPOUT_PLACE = 2 };

/* Where the views of the flat tile begin, in floats. */
struct layout {
    int64_t gamma, beta, fc, fc_bias, proj, proj_bias;
};

static struct layout layout(const struct orr_mlp *m)
{
    struct layout l;

    l.gamma = 0;
    l.beta = l.gamma + m->width;
    l.fc = l.beta + m->width;
    l.fc_bias = l.fc + (int64_t)m->width * m->hidden;
    l.proj = l.fc_bias + m->hidden;
    l.proj_bias = l.proj + (int64_t)m->hidden * m->width;
    return l;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_mlp *m = config;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {6},
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

/* What the forward pass leaves. B replaces u by its gradient and fills dgamma and dbeta. */
struct saved {
    float *mean, *rstd;         /* [N]                                   */
    float *u, *h;               /* [N,hidden] before and after gelu      */
    float *dgamma, *dbeta;      /* [C]                                   */
};

static struct saved saved_at(const struct orr_mlp *m, int rows, float *p)
{
    struct saved s;

    s.mean = p;
    s.rstd = s.mean + rows;
    s.u = s.rstd + rows;
    s.h = s.u + (size_t)rows * (size_t)m->hidden;
    s.dgamma = s.h + (size_t)rows * (size_t)m->hidden;
    s.dbeta = s.dgamma + m->width;
    return s;
}

static int64_t saved_floats(const void *config, int batch, int seq)
{
    const struct orr_mlp *m = config;

    return (int64_t)batch * seq * (2 + 2 * m->hidden) + 2 * m->width;
}

/* The forward pass outside training keeps what it would save, beside norm(x); B keeps the gradient of h beside
 * those of norm(x) and of what was dropped out. */
static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct orr_mlp *m = config;
    size_t rows = (size_t)batch * (size_t)seq, width = (size_t)m->width;
    size_t forward = (size_t)saved_floats(config, batch, seq) + rows * width;
    size_t backward = rows * ((size_t)m->hidden + 2 * width);

    return sizeof(float) * (forward > backward ? forward : backward);
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_mlp *m = config;

    (void)pass;
    return 4.0 * batch * seq * m->width * m->hidden;
}

static void forward(const struct orr_operands *o)
{
    const struct orr_mlp *m = o->config;
    const struct layout at = layout(m);
    const float *p = o->param[0];
    const struct orri_dropout d = orri_block_dropout(o, m->dropout, DROPOUT_PLACE);
    int rows = o->batch * o->seq, width = m->width, hidden = m->hidden;
    size_t count = (size_t)rows * (size_t)width;
    float *norm = orri_scratch(scratch_bytes(m, o->batch, o->seq));
    struct saved s = saved_at(m, rows, o->saved ? o->saved : norm + count);

    orri_layernorm(rows, width, o->x[0], p + at.gamma, p + at.beta, m->eps, norm, s.mean, s.rstd);
    orri_gemm(false, false, rows, hidden, width, norm, width, p + at.fc, hidden, 0, s.u, hidden);
    orri_bias_gelu(rows, hidden, s.u, p + at.fc_bias, s.h);
    orri_branch_begin(o, &d, width, p + at.proj_bias);
    orri_gemm(false, false, rows, width, hidden, s.h, hidden, p + at.proj, width, 1, o->y, width);
    orri_branch_end(o, &d, width);
}

static void backward(const struct orr_operands *o)
{
    const struct orr_mlp *m = o->config;
    const struct layout at = layout(m);
    const float *p = o->param[0];
    const struct orri_dropout d = orri_block_dropout(o, m->dropout, DROPOUT_PLACE);
    int rows = o->batch * o->seq, width = m->width, hidden = m->hidden;
    size_t count = (size_t)rows * (size_t)width;
    struct saved s = saved_at(m, rows, o->saved);
    float *dnorm = orri_scratch(scratch_bytes(m, o->batch, o->seq));
    float *dh = dnorm + 2 * count;
    const float *dy = orri_branch_gradient(o, &d, width, dnorm + count);

    orri_gemm(false, true, rows, hidden, width, dy, width, p + at.proj, width, 0, dh, hidden);
    orri_gelu_backward((size_t)rows * (size_t)hidden, dh, s.u, s.u);
    orri_gemm(false, true, rows, width, hidden, s.u, hidden, p + at.fc, hidden, 0, dnorm, width);
    orri_branch_input_gradient(o, width, dnorm, p + at.gamma, s.mean, s.rstd, s.dgamma, s.dbeta);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_mlp *m = o->config;
    const struct layout at = layout(m);
    const float *p = o->param[0];
    float *g = o->grad[0];
    float beta = o->first_gradient ? 0 : 1;
    const struct orri_dropout d = orri_block_dropout(o, m->dropout, DROPOUT_PLACE);
    int rows = o->batch * o->seq, width = m->width, hidden = m->hidden;
    size_t count = (size_t)rows * (size_t)width;
    struct saved s = saved_at(m, rows, o->saved);
    float *norm = orri_scratch(2 * count * sizeof(float));
    const float *dy = orri_branch_gradient(o, &d, width, norm + count);

    orri_gemm(true, false, hidden, width, rows, s.h, hidden, dy, width, beta, g + at.proj, width);
    orri_bias_backward(rows, width, dy, width, beta, g + at.proj_bias);
    orri_layernorm_again(rows, width, o->x[0], p + at.gamma, p + at.beta, s.mean, s.rstd, norm);
    orri_gemm(true, false, width, hidden, rows, norm, width, s.u, hidden, beta, g + at.fc, hidden);
    orri_bias_backward(rows, hidden, s.u, hidden, beta, g + at.fc_bias);
    orri_bias_backward(1, width, s.dgamma, width, beta, g + at.gamma);
    orri_bias_backward(1, width, s.dbeta, width, beta, g + at.beta);
}

static const struct orr_block_class mlp_class = {
    .name = "mlp",
    .config_size = sizeof(struct orr_mlp),
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

int orr_mlp(struct orr_model *model, int layer, const struct orr_mlp *config)
{
    if (config->width < 1 || config->hidden < 1)
        return orri_fail(ORR_EINVAL, "mlp", "a width of %d and a hidden width of %d are not both positive",
                         config->width, config->hidden);
    ORR_TRY(orri_check_dropout("mlp", config->dropout));
    return orr_block_append(model, &mlp_class, layer, config) ? ORR_OK : orr_error_code();
}
