/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/head/geometry.h"
#include "codelets/math/operands_cuda.h"

enum { LOGITS_BYTES = 256 << 20 };              /* of a strip of rows, the most */

/* Rows of logits begin where wide loads can: a vocabulary is seldom a multiple of anything. */
static int padded(int vocab)
{
    return (vocab + 63) / 64 * 64;
}

static int strip_rows(enum orr_dtype dtype, int vocab, int rows)
{
    return orri_strip_rows(LOGITS_BYTES, (size_t)padded(vocab) * orr_dtype_size(dtype), rows);
}

/* What a pass has in its scratch. */
struct work {
    void *norm, *dnorm;         /* [N,C]             */
    void *logits;               /* [strip,padded]    */
    float *loss;                /* [N]               */
    float *sums;                /* [N,3] or [N,2]    */
    float *floats;              /* statistics and gradients of the norm, where nothing is saved: see orri_head_saved() */
    struct orri_rooms rest;     /* for the norm      */
};

static struct work work_at(char *base, const struct orr_head *h, enum orr_dtype dtype, int rows, int vocab)
{
    struct work w = {.rest = {base, 0}};
    size_t value = (size_t)rows * (size_t)h->width * orr_dtype_size(dtype);

    w.norm = orri_room(&w.rest, value);
    w.dnorm = orri_room(&w.rest, value);
    w.logits = orri_room(&w.rest, (size_t)strip_rows(dtype, vocab, rows) * (size_t)padded(vocab) * orr_dtype_size(dtype));
    w.loss = orri_room(&w.rest, (size_t)rows * sizeof(*w.loss));
    w.sums = orri_room(&w.rest, (size_t)rows * ORRI_LOSS_PART * sizeof(*w.sums));
    w.floats = orri_room(&w.rest, 2 * (size_t)(rows + h->width) * sizeof(*w.floats));
    return w;
}

static size_t scratch_bytes(const void *config, enum orr_dtype dtype, int batch, int seq, int shards)
{
    const struct orr_head *h = &((const struct orri_head_config *)config)->head;
    int rows = batch * seq;
    struct work w = work_at(NULL, h, dtype, rows, (int)orr_split(h->vocab, 1, shards, 0).count);

    return w.rest.used + orri_cuda_norm_scratch(dtype, h->width, rows);
}

static struct work work_of(const struct orr_operands *o)
{
    return work_at(o->cuda->scratch, orri_head_of(o), o->dtype, o->batch * o->seq, (int)orri_head_tokens(o, o->shard).count);
}

/* ---- the products of a strip of n rows --------------------------------------------------------------------------- */

/* logits = x W^T */
static void logits_of(const struct orr_operands *o, int n, int vocab, const void *x, void *logits)
{
    int c = orri_head_of(o)->width;
    const struct orri_cuda_product p = {.trans_b = true, .m = n, .n = vocab, .k = c, .dtype = o->dtype, .a = x, .lda = c,
                                        .b = o->param[ORRI_HEAD_OUTPUT][0], .ldb = c, .c = logits, .ldc = padded(vocab),
                                        .c_dtype = o->dtype};

    orri_cuda_gemm(o->cuda, &p);
}

/* dnorm = dlogits W */
static void input_gradient(const struct orr_operands *o, int n, int vocab, const void *dlogits, void *dnorm)
{
    int c = orri_head_of(o)->width;
    const struct orri_cuda_product p = {.m = n, .n = c, .k = vocab, .dtype = o->dtype, .a = dlogits, .lda = padded(vocab),
                                        .b = o->param[ORRI_HEAD_OUTPUT][0], .ldb = c, .c = dnorm, .ldc = c,
                                        .c_dtype = o->dtype};

    orri_cuda_gemm(o->cuda, &p);
}

/* dW [+]= dlogits^T x */
static void weights_gradient(const struct orr_operands *o, int n, int vocab, const void *dlogits, const void *x, bool add)
{
    int c = orri_head_of(o)->width;
    float *dw = o->grad[ORRI_HEAD_OUTPUT][0];
    const struct orri_cuda_product p = {.trans_a = true, .m = vocab, .n = c, .k = n, .dtype = o->dtype, .a = dlogits,
                                        .lda = padded(vocab), .b = x, .ldb = c, .add = add ? dw : NULL, .c = dw, .ldc = c,
                                        .c_dtype = ORR_F32};

    orri_cuda_gemm(o->cuda, &p);
}

/* ---- the whole block ------------------------------------------------------------------------------------------------- */

/* Strip by strip the logits of norm(x), their loss, and from their gradient that of norm(x) and that of W, each where asked for. */
static void strips(const struct orr_operands *o, const struct work *w, void *dnorm, bool dw)
{
    const struct orr_head *h = orri_head_of(o);
    int rows = o->batch * o->seq, strip = strip_rows(o->dtype, h->vocab, rows);
    bool add = !o->first_gradient;

    for (int r = 0; r < rows; r += strip, add = true) {
        int n = rows - r < strip ? rows - r : strip;
        const void *x = orri_at(o, w->norm, (int64_t)r * h->width);
        logits_of(o, n, h->vocab, x, w->logits);
        orri_cuda_softmax_cross_entropy(o->cuda, o->dtype, n, h->vocab, w->logits, padded(h->vocab), o->ids + r, dnorm || dw,
                                        o->loss_scale, w->loss + r);
        if (dnorm)
            input_gradient(o, n, h->vocab, w->logits, orri_at(o, dnorm, (int64_t)r * h->width));
        if (dw)
            weights_gradient(o, n, h->vocab, w->logits, x, add);
    }
}

static void add_result(const struct orr_operands *o, const struct work *w)
{
    orri_cuda_add_losses(o->cuda, o->batch * o->seq, w->loss, o->ids, o->first_result, o->result);
}

static struct orri_head_saved saved_of(const struct orr_operands *o, const struct work *w)
{
    return orri_head_saved(orri_head_of(o)->width, o->batch * o->seq, o->saved ? o->saved : w->floats,
                           o->saved ? o->saved_values : w->dnorm);
}

static void forward(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    struct work w = work_of(o);
    struct orri_head_saved s = saved_of(o, &w);

    orri_cuda_norm(o, h->width, h->eps, w.norm, s.mean, s.rstd);
    strips(o, &w, o->saved ? s.dnorm : NULL, false);
    add_result(o, &w);
}

static void backward(const struct orr_operands *o)
{
    struct work w = work_of(o);
    struct orri_head_saved s = saved_of(o, &w);

    orri_cuda_norm_input_gradient(o, orri_head_of(o)->width, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &w.rest);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    struct work w = work_of(o);
    struct orri_head_saved s = saved_of(o, &w);

    orri_cuda_norm_again(o, h->width, s.mean, s.rstd, w.norm);
    strips(o, &w, NULL, true);
    orri_cuda_norm_weights(o, h->width, s.dgamma, s.dbeta);
}

static void whole(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    struct work w = work_of(o);
    struct orri_head_saved s = saved_of(o, &w);

    orri_cuda_norm(o, h->width, h->eps, w.norm, s.mean, s.rstd);
    strips(o, &w, s.dnorm, true);
    add_result(o, &w);
    orri_cuda_norm_input_gradient(o, h->width, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &w.rest);
    orri_cuda_norm_weights(o, h->width, s.dgamma, s.dbeta);
}

/* The rows asked for, of x or of norm(x): to [n,C] in w->dnorm. Their numbers are the host's. */
static void pick(const struct orr_operands *o, const struct work *w)
{
    size_t row = (size_t)orri_head_of(o)->width * orr_dtype_size(o->dtype);

    for (int i = 0; i < o->rows.count; i++) {
        struct orri_head_row at = {0, (int64_t)o->rows.rows[i] * orri_head_of(o)->width};
        if (!o->x[0])
            at = orri_head_row(o, o->rows.rows[i]);
        orri_cuda_copy(o->cuda, row, orri_at(o, o->x[0] ? o->x[0] : o->branch[at.chunk], at.offset),
                       (char *)w->dnorm + (size_t)i * row);
    }
}

/* out [n,v] = x W^T in fp32, with row stride ld. */
static void prediction_of(const struct orr_operands *o, int v, const void *x, float *out, int ld)
{
    int c = orri_head_of(o)->width;
    const struct orri_cuda_product p = {.trans_b = true, .m = o->rows.count, .n = v, .k = c, .dtype = o->dtype, .a = x, .lda = c,
                                        .b = o->param[ORRI_HEAD_OUTPUT][0], .ldb = c, .c = out, .ldc = ld, .c_dtype = ORR_F32};

    orri_cuda_gemm(o->cuda, &p);
}

static void predict(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    struct work w = work_of(o);
    int n = o->rows.count, c = h->width, v = h->vocab;

    pick(o, &w);
    orri_cuda_layernorm(o->cuda, o->dtype, n, c, w.dnorm, o->param[ORRI_HEAD_NORM][ORRI_NORM_WEIGHT],
                        o->param[ORRI_HEAD_NORM][ORRI_NORM_BIAS], h->eps, w.norm, w.floats, w.floats + n);
    prediction_of(o, v, w.norm, o->prediction, v + c);
    for (int i = 0; i < n; i++)
        orri_cuda_convert(o->cuda, (size_t)c, o->dtype, orri_at(o, w.norm, (int64_t)i * c), ORR_F32,
                          o->prediction + (size_t)i * (size_t)(v + c) + v);
}

/* ---- in shards ------------------------------------------------------------------------------------------------------------ */

static void chunk_forward(const struct orr_operands *o)
{
    orri_cuda_norm_chunk_forward(o, orri_head_of(o)->width, orri_head_of(o)->eps);
}

static const void *all_norm(const struct orr_operands *o, const struct work *w)
{
    return orri_cuda_gather(o, orri_head_of(o)->width, orr_dtype_size(o->dtype), (const float *const *)o->branch, w->norm);
}

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_part tokens = orri_head_tokens(o, o->shard);
    struct work w = work_of(o);
    int rows = o->batch * o->seq, c = orri_head_of(o)->width, v = (int)tokens.count, strip = strip_rows(o->dtype, v, rows);
    const void *norm = all_norm(o, &w);
    float *part = orri_cuda_scatter_begin(o, o->partial, w.sums);

    for (int r = 0; r < rows; r += strip) {
        int n = rows - r < strip ? rows - r : strip;
        logits_of(o, n, v, orri_at(o, norm, (int64_t)r * c), w.logits);
        orri_cuda_cross_entropy_part(o->cuda, o->dtype, n, v, w.logits, padded(v), o->ids + r, (int)tokens.first,
                                     part + (size_t)r * ORRI_LOSS_PART);
    }
    orri_cuda_scatter_end(o, ORRI_LOSS_PART, sizeof(float), part, o->partial);
}

static void chunk_join(const struct orr_operands *o)
{
    struct orr_part at = orri_positions(o);
    struct work w = work_of(o);

    for (int b = 0; b < o->batch; b++) {
        const float *part[ORR_MAX_SHARDS];
        const int32_t *target = o->ids + b * o->seq + at.first;
        for (int t = 0; t < o->shards; t++)
            part[t] = o->partial[t] + b * at.count * ORRI_LOSS_PART;
        orri_cuda_cross_entropy_join(o->cuda, (int)at.count, o->shards, part, target, o->y + b * at.count * ORRI_LOSS_NORM,
                                     w.loss);
        orri_cuda_add_losses(o->cuda, (int)at.count, w.loss, target, o->first_result && b == 0, o->result);
    }
}

/* The gradients of norm(x) and of W in one task, which has the logits. */
static void shard_backward(const struct orr_operands *o)
{
    const struct orr_part tokens = orri_head_tokens(o, o->shard);
    struct work w = work_of(o);
    int rows = o->batch * o->seq, c = orri_head_of(o)->width, v = (int)tokens.count, strip = strip_rows(o->dtype, v, rows);
    const void *norm = all_norm(o, &w);
    const float *sums = orri_cuda_gather(o, ORRI_LOSS_NORM, sizeof(float), o->ys, w.sums);
    void *dnorm = orri_cuda_scatter_begin(o, o->dpartial, w.dnorm);
    bool add = !o->first_gradient;

    for (int r = 0; r < rows; r += strip, add = true) {
        int n = rows - r < strip ? rows - r : strip;
        const void *x = orri_at(o, norm, (int64_t)r * c);
        logits_of(o, n, v, x, w.logits);
        orri_cuda_cross_entropy_part_gradient(o->cuda, o->dtype, n, v, w.logits, padded(v), o->ids + r, (int)tokens.first,
                                              sums + (size_t)r * ORRI_LOSS_NORM, o->loss_scale);
        input_gradient(o, n, v, w.logits, orri_at(o, dnorm, (int64_t)r * c));
        weights_gradient(o, n, v, w.logits, x, add);
    }
    orri_cuda_scatter_end(o, c, orr_dtype_size(o->dtype), dnorm, o->dpartial);
}

static void chunk_backward(const struct orr_operands *o)
{
    struct orri_rooms rooms = {o->cuda->scratch, 0};

    orri_cuda_norm_chunk_backward(o, orri_head_of(o)->width, NULL, &rooms);
}

static void shard_predict(const struct orr_operands *o)
{
    struct work w = work_of(o);
    int v = (int)orri_head_tokens(o, o->shard).count;

    pick(o, &w);
    prediction_of(o, v, w.dnorm, o->partial[0], v);
}

static void chunk_predict(const struct orr_operands *o)
{
    const struct orr_head *h = orri_head_of(o);
    size_t n = (size_t)o->rows.count, stride = (size_t)(h->vocab + h->width) * sizeof(float);
    float *to = o->prediction;

    for (int t = 0; t < o->shards; t++) {
        size_t v = (size_t)orri_head_tokens(o, t).count;
        orri_cuda_copy_rows(o->cuda, n, v * sizeof(*to), o->partial[t], v * sizeof(*to), to, stride);
        to += v;
    }
    for (size_t i = 0; i < n; i++) {
        struct orri_head_row row = orri_head_row(o, o->rows.rows[i]);
        orri_cuda_convert(o->cuda, (size_t)h->width, o->dtype, orri_at(o, o->branch[row.chunk], row.offset), ORR_F32,
                          (char *)to + i * stride);
    }
}

const struct orr_block_cuda orri_head_cuda = {
    .pass = {[ORR_FORWARD] = forward,
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
    .scratch_bytes = scratch_bytes,
};
