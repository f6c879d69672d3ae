/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/head/geometry.h"

#include <math.h>
#include <string.h>

#include "core/core.h"

enum { LOGITS_BYTES = 32 << 20 };               /* of a strip of rows, the most */

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orri_head_config *h = config;
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

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    const struct orri_head_config *h = config;
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){2 * (rows + h->head.width), rows * h->head.width};
}

static int strip_rows(int vocab, int rows)
{
    return orri_strip_rows(LOGITS_BYTES, (size_t)vocab * sizeof(float), rows);
}

/* FBW is the hungriest: it keeps what F would save, beside norm(x) and the logits of a strip. */
static size_t scratch_bytes(const void *config, int batch, int seq)
{
    const struct orri_head_config *h = config;
    size_t rows = (size_t)batch * (size_t)seq;
    size_t strip = (size_t)strip_rows(h->head.vocab, (int)rows);
    struct orr_saved_size size = saved(config, batch, seq);

    return sizeof(float) * (rows * (size_t)h->head.width + (size_t)(size.floats + size.values) +
                            strip * (size_t)h->head.vocab);
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orri_head_config *h = config;
    double product = 2.0 * batch * seq * h->head.width * h->head.vocab;

    switch (pass) {
    case ORR_FORWARD: return 2 * product;       /* logits, and the gradient of norm(x) */
    case ORR_WEIGHTS: return 2 * product;       /* logits again, and the gradient of W  */
    case ORR_WHOLE: return 3 * product;
    case ORR_PREDICT: return product;
    default: return 0;
    }
}

static float loss_scale(const struct orr_operands *o)
{
    return o->loss_scale ? *o->loss_scale : 1;
}

/* What the passes have in common: strip by strip the logits of norm(x), their loss, and from their gradient
 * that of norm(x) and that of W, each where asked for. */
static void strips(const struct orr_operands *o, const float *norm, float *logits, float *dnorm, float *dw,
                   struct orr_result *result)
{
    const struct orr_head *h = orri_head_of(o);
    const float *w = o->param[ORRI_HEAD_OUTPUT][0];
    int rows = o->batch * o->seq, c = h->width, v = h->vocab;
    int strip = strip_rows(v, rows);
    float beta = o->first_gradient ? 0 : 1;

    for (int r = 0; r < rows; r += strip, beta = 1) {
        int n = rows - r < strip ? rows - r : strip;
        const float *x = norm + (size_t)r * (size_t)c;
        orri_gemm(false, true, n, v, c, x, c, w, c, 0, logits, v);
        orri_softmax_cross_entropy(n, v, logits, v, o->ids + r, dnorm || dw ? loss_scale(o) : 0, &result->loss, &result->labels);
        if (dnorm)
            orri_gemm(false, false, n, c, v, logits, v, w, c, 0, dnorm + (size_t)r * (size_t)c, c);
        if (dw)
            orri_gemm(true, false, v, c, n, logits, v, x, c, beta, dw, c);
    }
}

/* A diverged run ends here, before it can spoil the parameters; with a loss scale the step is skipped first. */
static void add_result(const struct orr_operands *o, const struct orr_result *mine)
{
    if (!isfinite(mine->loss) && !o->loss_scale)
        orr_task_fail(o, ORR_ENONFINITE, "the loss is not a finite number");
    o->result->loss += mine->loss;
    o->result->labels += mine->labels;
}

static void forward(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    const float *gamma = o->param[ORRI_HEAD_NORM][ORRI_NORM_WEIGHT], *beta = o->param[ORRI_HEAD_NORM][ORRI_NORM_BIAS];
    int rows = o->batch * o->seq, c = h->width;
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    struct orr_saved_size size = saved(o->config, o->batch, o->seq);
    float *floats = norm + (size_t)rows * (size_t)c, *values = floats + size.floats;
    struct orri_head_saved s = orri_head_saved(c, rows, o->saved ? o->saved : floats, o->saved ? o->saved_values : values);
    struct orr_result mine = {0};

    orri_layernorm(rows, c, o->x[0], gamma, beta, h->eps, norm, s.mean, s.rstd);
    strips(o, norm, values + size.values, o->saved ? s.dnorm : NULL, NULL, &mine);
    add_result(o, &mine);
}

static void backward(const struct orr_operands *o)
{
    int c = orri_head_of(o)->width;
    struct orri_head_saved s = orri_head_saved(c, o->batch * o->seq, o->saved, o->saved_values);

    orri_norm_input_gradient(o, c, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    const float *gamma = o->param[ORRI_HEAD_NORM][ORRI_NORM_WEIGHT], *beta = o->param[ORRI_HEAD_NORM][ORRI_NORM_BIAS];
    int rows = o->batch * o->seq, c = h->width;
    struct orri_head_saved s = orri_head_saved(c, rows, o->saved, o->saved_values);
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    struct orr_result again = {0};

    orri_layernorm_again(rows, c, o->x[0], gamma, beta, s.mean, s.rstd, norm);
    strips(o, norm, norm + (size_t)rows * (size_t)c, NULL, o->grad[ORRI_HEAD_OUTPUT][0], &again);
    orri_norm_weights(o, c, s.dgamma, s.dbeta);
}

static void whole(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    const float *gamma = o->param[ORRI_HEAD_NORM][ORRI_NORM_WEIGHT], *beta = o->param[ORRI_HEAD_NORM][ORRI_NORM_BIAS];
    int rows = o->batch * o->seq, c = h->width;
    float *norm = orri_scratch(scratch_bytes(o->config, o->batch, o->seq));
    struct orr_saved_size size = saved(o->config, o->batch, o->seq);
    float *floats = norm + (size_t)rows * (size_t)c, *values = floats + size.floats;
    struct orri_head_saved s = orri_head_saved(c, rows, floats, values);
    struct orr_result mine = {0};

    orri_layernorm(rows, c, o->x[0], gamma, beta, h->eps, norm, s.mean, s.rstd);
    strips(o, norm, values + size.values, s.dnorm, o->grad[ORRI_HEAD_OUTPUT][0], &mine);
    orri_round_as_saved(o, (size_t)rows * (size_t)c, s.dnorm);
    add_result(o, &mine);
    orri_norm_input_gradient(o, c, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta);
    orri_norm_weights(o, c, s.dgamma, s.dbeta);
}

static void predict(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    const float *gamma = o->param[ORRI_HEAD_NORM][ORRI_NORM_WEIGHT], *beta = o->param[ORRI_HEAD_NORM][ORRI_NORM_BIAS];
    int n = o->rows.count, c = h->width, v = h->vocab;
    float *x = orri_scratch(((size_t)n * (size_t)c + 2 * (size_t)n) * sizeof(*x));
    float *mean = x + (size_t)n * (size_t)c, *rstd = mean + n;

    for (int i = 0; i < n; i++)
        memcpy(x + (size_t)i * (size_t)c, o->x[0] + (size_t)o->rows.rows[i] * (size_t)c, (size_t)c * sizeof(*x));
    orri_layernorm(n, c, x, gamma, beta, h->eps, x, mean, rstd);
    orri_gemm(false, true, n, v, c, x, c, o->param[ORRI_HEAD_OUTPUT][0], c, 0, o->prediction, v + c);
    for (int i = 0; i < n; i++)
        memcpy(o->prediction + (size_t)i * (size_t)(v + c) + v, x + (size_t)i * (size_t)c, (size_t)c * sizeof(*x));
}

/* ---- in shards, which have rows of W, that is columns of the logits -------------------------------------------- */

static int most_shards(const void *config)
{
    return ((const struct orri_head_config *)config)->head.vocab;
}

static struct orr_saved_size shard_saved(const void *config, int batch, int seq, int shards, int t)
{
    (void)config, (void)batch, (void)seq, (void)shards, (void)t;
    return (struct orr_saved_size){0, 0};
}

static struct orr_saved_size chunk_saved(const void *config, int batch, int positions)
{
    (void)config;
    return (struct orr_saved_size){orri_norm_saved_floats(batch, positions), 0};
}

/* A shard's B is the hungriest: where there are several chunks it keeps norm(x), its gradient and the rows' sums of all
 * of them, beside a strip of logits. The first shard is the largest. */
static size_t shard_scratch_bytes(const void *config, int batch, int seq, int shards)
{
    const struct orr_head *h = &((const struct orri_head_config *)config)->head;
    int rows = batch * seq, vocab = (int)orr_split(h->vocab, 1, shards, 0).count;
    size_t shard = (size_t)rows * (size_t)(2 * h->width + ORRI_LOSS_PART) +
                   (size_t)strip_rows(vocab, rows) * (size_t)vocab;
    size_t chunk = orri_norm_scratch_floats(h->width, rows);

    return sizeof(float) * (shard > chunk ? shard : chunk);
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "tokens of the vocabulary",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
    .scratch_bytes = shard_scratch_bytes,
    .partial_width = ORRI_LOSS_PART,
    .output_width = ORRI_LOSS_NORM,
};

static void chunk_forward(const struct orr_operands *o)
{
    orri_norm_chunk_forward(o, orri_head_of(o)->width, orri_head_of(o)->eps);
}

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_part tokens = orri_head_tokens(o, o->shard);
    int rows = o->batch * o->seq, c = orri_head_of(o)->width, v = (int)tokens.count, strip = strip_rows(v, rows);
    float *all = orri_scratch(shard_scratch_bytes(o->config, o->batch, o->seq, o->shards));
    float *room = all + (size_t)rows * (size_t)c, *logits = room + (size_t)rows * ORRI_LOSS_PART;
    const float *norm = orri_gather(o, c, (const float *const *)o->branch, all);
    float *part = orri_scatter_begin(o, o->partial, room);

    for (int r = 0; r < rows; r += strip) {
        int n = rows - r < strip ? rows - r : strip;
        orri_gemm(false, true, n, v, c, norm + (size_t)r * (size_t)c, c, o->param[ORRI_HEAD_OUTPUT][0], c, 0, logits, v);
        orri_cross_entropy_part(n, v, logits, v, o->ids + r, (int)tokens.first, part + (size_t)r * ORRI_LOSS_PART);
    }
    orri_scatter_end(o, ORRI_LOSS_PART, part, o->partial);
}

static void chunk_join(const struct orr_operands *o)
{
    struct orr_part at = orri_positions(o);
    struct orr_result mine = {0};

    for (int b = 0; b < o->batch; b++) {
        const float *part[ORR_MAX_SHARDS];
        for (int t = 0; t < o->shards; t++)
            part[t] = o->partial[t] + b * at.count * ORRI_LOSS_PART;
        orri_cross_entropy_join((int)at.count, o->shards, part, o->ids + b * o->seq + at.first,
                                o->y + b * at.count * ORRI_LOSS_NORM, &mine.loss, &mine.labels);
    }
    add_result(o, &mine);
}

/* The gradients of norm(x) and of W in one task, which has the logits. */
static void shard_backward(const struct orr_operands *o)
{
    const struct orr_part tokens = orri_head_tokens(o, o->shard);
    const float *w = o->param[ORRI_HEAD_OUTPUT][0];
    int rows = o->batch * o->seq, c = orri_head_of(o)->width, v = (int)tokens.count, strip = strip_rows(v, rows);
    size_t count = (size_t)rows * (size_t)c;
    float *all = orri_scratch(shard_scratch_bytes(o->config, o->batch, o->seq, o->shards));
    float *room = all + 2 * count, *logits = room + (size_t)rows * ORRI_LOSS_NORM;
    const float *norm = orri_gather(o, c, (const float *const *)o->branch, all);
    const float *sums = orri_gather(o, ORRI_LOSS_NORM, o->ys, room);
    float *dnorm = orri_scatter_begin(o, o->dpartial, all + count);
    float beta = o->first_gradient ? 0 : 1;

    for (int r = 0; r < rows; r += strip, beta = 1) {
        int n = rows - r < strip ? rows - r : strip;
        const float *x = norm + (size_t)r * (size_t)c;
        orri_gemm(false, true, n, v, c, x, c, w, c, 0, logits, v);
        orri_cross_entropy_part_gradient(n, v, logits, v, o->ids + r, (int)tokens.first,
                                         sums + (size_t)r * ORRI_LOSS_NORM, loss_scale(o));
        orri_gemm(false, false, n, c, v, logits, v, w, c, 0, dnorm + (size_t)r * (size_t)c, c);
        orri_gemm(true, false, v, c, n, logits, v, x, c, beta, o->grad[ORRI_HEAD_OUTPUT][0], c);
    }
    orri_scatter_end(o, c, dnorm, o->dpartial);
}

static void chunk_backward(const struct orr_operands *o)
{
    orri_norm_chunk_backward(o, orri_head_of(o)->width, NULL,
                             orri_scratch(shard_scratch_bytes(o->config, o->batch, o->seq, o->shards)));
}

/* The row of norm(x) that is asked for as number i. */
static const float *branch_row(const struct orr_operands *o, int i)
{
    struct orri_head_row row = orri_head_row(o, o->rows.rows[i]);

    return o->branch[row.chunk] + row.offset;
}

static void shard_predict(const struct orr_operands *o)
{
    int n = o->rows.count, c = orri_head_of(o)->width, v = (int)orri_head_tokens(o, o->shard).count;
    float *x = orri_scratch((size_t)n * (size_t)c * sizeof(*x));

    for (int i = 0; i < n; i++)
        memcpy(x + (size_t)i * (size_t)c, branch_row(o, i), (size_t)c * sizeof(*x));
    orri_gemm(false, true, n, v, c, x, c, o->param[ORRI_HEAD_OUTPUT][0], c, 0, o->partial[0], v);
}

static void chunk_predict(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    size_t c = (size_t)h->width;
    float *to = o->prediction;

    for (int i = 0; i < o->rows.count; i++, to += c) {
        for (int t = 0; t < o->shards; t++) {
            size_t v = (size_t)orri_head_tokens(o, t).count;
            memcpy(to, o->partial[t] + (size_t)i * v, v * sizeof(*to));
            to += v;
        }
        memcpy(to, branch_row(o, i), c * sizeof(*to));
    }
}

static const struct orr_block_class head_class = {
    .name = "head",
    .config_size = sizeof(struct orri_head_config),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .is_loss = true,
    .cuda = ORRI_CUDA(orri_head_cuda),
    .sharding = &sharding,
    .cpu = {[ORR_FORWARD] = forward,
            [ORR_BACKWARD] = backward,
            [ORR_WEIGHTS] = weights,
            [ORR_WHOLE] = whole,
            [ORR_PREDICT] = predict,
            [ORR_CHUNK_FORWARD] = chunk_forward,
            [ORR_SHARD_FORWARD] = shard_forward,
            [ORR_CHUNK_JOIN] = chunk_join,
            [ORR_SHARD_BACKWARD] = shard_backward,
            [ORR_CHUNK_BACKWARD] = chunk_backward,
            [ORR_SHARD_PREDICT] = shard_predict,
            [ORR_CHUNK_PREDICT] = chunk_predict},
    .operands = {[ORR_FORWARD] = ORR_LOSS_SCALE | ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_RESULT,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_LOSS_SCALE | ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_WHOLE] =
                     ORR_LOSS_SCALE | ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_INPUT_GRADIENT | ORR_GRADIENTS | ORR_RESULT,
                 [ORR_PREDICT] = ORR_INPUT | ORR_PARAMETERS | ORR_PREDICTION,
                 [ORR_CHUNK_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_BRANCH,
                 [ORR_SHARD_FORWARD] = ORR_IDS | ORR_BRANCH | ORR_PARAMETERS | ORR_PARTIAL,
                 [ORR_CHUNK_JOIN] = ORR_LOSS_SCALE | ORR_IDS | ORR_PARTIAL | ORR_OUTPUT | ORR_RESULT,
                 [ORR_SHARD_BACKWARD] =
                     ORR_LOSS_SCALE | ORR_IDS | ORR_BRANCH | ORR_OUTPUT | ORR_PARAMETERS | ORR_PARTIAL_GRADIENT | ORR_GRADIENTS,
                 [ORR_CHUNK_BACKWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT |
                                        ORR_INPUT_GRADIENT | ORR_GRADIENTS,
                 [ORR_SHARD_PREDICT] = ORR_BRANCH | ORR_PARAMETERS | ORR_PARTIAL,
                 [ORR_CHUNK_PREDICT] = ORR_BRANCH | ORR_PARTIAL | ORR_PREDICTION},
};

int orr_head(struct orr_model *model, const struct orr_head *config, struct orr_block *tied)
{
    struct orri_head_config full = {*config, tied != NULL};

    if (config->vocab < 1 || config->width < 1)
        return orri_fail(ORR_EINVAL, "head", "a vocabulary of %d and a width of %d are not both positive",
                         config->vocab, config->width);
    struct orr_block *block = orr_block_append(model, &head_class, 0, &full);
    if (!block)
        return orr_error_code();
    return tied ? orr_block_share(block, ORRI_HEAD_OUTPUT, tied, 0) : ORR_OK;
}
