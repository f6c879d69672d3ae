/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/head/head.h>

#include <math.h>
#include <string.h>

#include "codelets/math/math.h"
#include "core/core.h"

enum { NORM, OUTPUT };                          /* groups */
enum { LOGITS_BYTES = 32 << 20 };               /* of a chunk of rows, the most */

/* The class is one for both kinds of head, told apart by the configuration. */
struct config {
    struct orr_head head;
    int tied;                                   /* as wide as the rest: no padding, which would be hashed */
};

static const struct orr_head *head_of(const struct orr_operands *o)
{
    const struct config *config = o->config;

    return &config->head;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct config *h = config;
    int c = h->head.width;

    *spec = (struct orr_block_spec){
        .groups = 2,
        .views = {2, h->tied ? 0 : 1},
        .view = {{{"norm.weight", 1, {c, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"norm.bias", 1, {c, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0}},
                 {{"output.weight", 2, {h->head.vocab, c}, ORR_INITIAL_NORMAL, h->head.std, 0, 1, 1, 0}}},
        .width = c,
        .input_width = c,
    };
}

/* What F leaves, with the gradient of norm(x), because only F has the logits. B fills dgamma and dbeta. */
struct saved {
    float *mean, *rstd;         /* [N]       */
    float *dnorm;               /* [N,C]     */
    float *dgamma, *dbeta;      /* [C]       */
};

static struct saved saved_at(int width, int rows, float *p)
{
    struct saved s;

    s.mean = p;
    s.rstd = s.mean + rows;
    s.dnorm = s.rstd + rows;
    s.dgamma = s.dnorm + (size_t)rows * (size_t)width;
    s.dbeta = s.dgamma + width;
    return s;
}

static int64_t saved_floats(const void *config, int batch, int seq)
{
    const struct config *h = config;

    return (int64_t)batch * seq * (2 + h->head.width) + 2 * h->head.width;
}

/* Rows of a chunk: as many as the bytes allow, in chunks of about equal size. */
static int chunk_rows(int vocab, int rows)
{
    int most = LOGITS_BYTES / (int)sizeof(float) / vocab;
    int chunks = most > 0 ? (rows + most - 1) / most : rows;

    return (rows + chunks - 1) / chunks;
}

/* FBW is the hungriest: it keeps what F would save, beside norm(x) and the logits of a chunk. */
static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct config *h = config;
    size_t rows = (size_t)batch * (size_t)seq;
    size_t chunk = (size_t)chunk_rows(h->head.vocab, (int)rows);

    return sizeof(float) * (rows * (size_t)h->head.width + (size_t)saved_floats(config, batch, seq) +
                            chunk * (size_t)h->head.vocab);
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct config *h = config;
    double product = 2.0 * batch * seq * h->head.width * h->head.vocab;

    switch (pass) {
    case ORR_FORWARD: return 2 * product;       /* logits, and the gradient of norm(x) */
    case ORR_WEIGHTS: return 2 * product;       /* logits again, and the gradient of W  */
    case ORR_WHOLE: return 3 * product;
    case ORR_PREDICT: return product;
    default: return 0;
    }
}

/* What the passes have in common: chunk by chunk the logits of norm(x), their loss, and from their gradient
 * that of norm(x) and that of W, each where asked for. */
static void chunks(const struct orr_operands *o, const float *norm, float *logits, float *dnorm, float *dw,
                   struct orr_result *result)
{
    const struct orr_head *h = head_of(o);
    const float *w = o->param[OUTPUT];
    int rows = o->batch * o->seq, c = h->width, v = h->vocab;
    int chunk = chunk_rows(v, rows);
    float beta = o->first_gradient ? 0 : 1;

    for (int r = 0; r < rows; r += chunk, beta = 1) {
        int n = rows - r < chunk ? rows - r : chunk;
        const float *x = norm + (size_t)r * (size_t)c;
        orri_gemm(false, true, n, v, c, x, c, w, c, 0, logits, v);
        orri_softmax_cross_entropy(n, v, logits, v, o->ids + r, dnorm || dw, &result->loss, &result->labels);
        if (dnorm)
            orri_gemm(false, false, n, c, v, logits, v, w, c, 0, dnorm + (size_t)r * (size_t)c, c);
        if (dw)
            orri_gemm(true, false, v, c, n, logits, v, x, c, beta, dw, c);
    }
}

/* A diverged run ends here, before it can spoil the parameters. */
static void add_result(const struct orr_operands *o, const struct orr_result *mine)
{
    if (!isfinite(mine->loss))
        orr_task_fail(o, ORR_ENONFINITE, "the loss is not a finite number");
    o->result->loss += mine->loss;
    o->result->labels += mine->labels;
}

static void forward(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const float *gamma = o->param[NORM], *beta = gamma + h->width;
    int rows = o->batch * o->seq, c = h->width;
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    float *room = norm + (size_t)rows * (size_t)c;
    struct saved s = saved_at(c, rows, o->saved ? o->saved : room);
    struct orr_result mine = {0};

    orri_layernorm(rows, c, o->x[0], gamma, beta, h->eps, norm, s.mean, s.rstd);
    chunks(o, norm, room + saved_floats(o->config, o->batch, o->seq), o->saved ? s.dnorm : NULL, NULL, &mine);
    add_result(o, &mine);
}

static void input_gradient(const struct orr_operands *o, const struct saved *s)
{
    const float *before = o->add_input_gradient[0] ? o->dx[0] : NULL;

    orri_layernorm_backward(o->batch * o->seq, head_of(o)->width, s->dnorm, o->x[0], o->param[NORM], s->mean, s->rstd,
                            before, o->dx[0], s->dgamma, s->dbeta);
}

static void backward(const struct orr_operands *o)
{
    struct saved s = saved_at(head_of(o)->width, o->batch * o->seq, o->saved);

    input_gradient(o, &s);
}

static void norm_gradient(const struct orr_operands *o, const struct saved *s)
{
    int c = head_of(o)->width;
    float beta = o->first_gradient ? 0 : 1;

    orri_bias_backward(1, c, s->dgamma, c, beta, o->grad[NORM]);
    orri_bias_backward(1, c, s->dbeta, c, beta, o->grad[NORM] + c);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const float *gamma = o->param[NORM], *beta = gamma + h->width;
    int rows = o->batch * o->seq, c = h->width;
    struct saved s = saved_at(c, rows, o->saved);
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    struct orr_result again = {0};

    orri_layernorm_again(rows, c, o->x[0], gamma, beta, s.mean, s.rstd, norm);
    chunks(o, norm, norm + (size_t)rows * (size_t)c, NULL, o->grad[OUTPUT], &again);
    norm_gradient(o, &s);
}

static void whole(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const float *gamma = o->param[NORM], *beta = gamma + h->width;
    int rows = o->batch * o->seq, c = h->width;
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    float *room = norm + (size_t)rows * (size_t)c;
    struct saved s = saved_at(c, rows, room);
    struct orr_result mine = {0};

    orri_layernorm(rows, c, o->x[0], gamma, beta, h->eps, norm, s.mean, s.rstd);
    chunks(o, norm, room + saved_floats(o->config, o->batch, o->seq), s.dnorm, o->grad[OUTPUT], &mine);
    add_result(o, &mine);
    input_gradient(o, &s);
    norm_gradient(o, &s);
}

static void predict(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const float *gamma = o->param[NORM], *beta = gamma + h->width;
    int n = o->rows.count, c = h->width, v = h->vocab;
    float *x = orri_scratch(((size_t)n * (size_t)c + 2 * (size_t)n) * sizeof(*x));
    float *mean = x + (size_t)n * (size_t)c, *rstd = mean + n;

    for (int i = 0; i < n; i++)
        memcpy(x + (size_t)i * (size_t)c, o->x[0] + (size_t)o->rows.rows[i] * (size_t)c, (size_t)c * sizeof(*x));
    orri_layernorm(n, c, x, gamma, beta, h->eps, x, mean, rstd);
    orri_gemm(false, true, n, v, c, x, c, o->param[OUTPUT], c, 0, o->prediction, v + c);
    for (int i = 0; i < n; i++)
        memcpy(o->prediction + (size_t)i * (size_t)(v + c) + v, x + (size_t)i * (size_t)c, (size_t)c * sizeof(*x));
}

static const struct orr_block_class head_class = {
    .name = "head",
    .config_size = sizeof(struct config),
    .specify = specify,
    .saved_floats = saved_floats,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .is_loss = true,
    .cpu = {[ORR_FORWARD] = forward,
            [ORR_BACKWARD] = backward,
            [ORR_WEIGHTS] = weights,
            [ORR_WHOLE] = whole,
            [ORR_PREDICT] = predict},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_RESULT,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_WHOLE] =
                     ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_INPUT_GRADIENT | ORR_GRADIENTS | ORR_RESULT,
                 [ORR_PREDICT] = ORR_INPUT | ORR_PARAMETERS | ORR_PREDICTION},
};

int orr_head(struct orr_model *model, const struct orr_head *config, struct orr_block *tied)
{
    struct config full = {*config, tied != NULL};

    if (config->vocab < 1 || config->width < 1)
        return orri_fail(ORR_EINVAL, "head", "a vocabulary of %d and a width of %d are not both positive",
                         config->vocab, config->width);
    struct orr_block *block = orr_block_append(model, &head_class, 0, &full);
    if (!block)
        return orr_error_code();
    return tied ? orr_block_share(block, OUTPUT, tied, 0) : ORR_OK;
}
