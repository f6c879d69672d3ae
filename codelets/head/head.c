/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/head/head.h>

#include <math.h>
#include <string.h>

#include "codelets/math/operands.h"
#include "codelets/math/product_cpu.h"
#include "codelets/math/residual.h"
#include "core/core.h"

enum { NORM, OUTPUT };      /* groups */

/* The class is one for both kinds of head, told apart by the configuration. */
struct config {
    struct orr_head head;
    int tied;                                   /* as wide as the rest: no padding, which would be hashed */
};

static const struct orr_head *head_of(const struct orr_operands *o)
{
    return &((const struct config *)o->config)->head;
}

static struct orri_norm norm_of(const struct orr_operands *o)
{
    return (struct orri_norm){(enum orr_norm)head_of(o)->norm, head_of(o)->eps};
}

/* The bias of the logits, or its gradient, is the view behind the norm's. */
static const void *bias_of(const struct orr_operands *o)
{
    const struct orri_norm norm = norm_of(o);

    return head_of(o)->bias ? o->param[NORM][orri_norm_views(&norm)] : NULL;
}

static struct orri_smoothing smoothing_of(const struct orr_operands *o)
{
    return (struct orri_smoothing){1 - o->label_smoothing, o->label_smoothing / (float)head_of(o)->vocab};
}

/* The rows of W, that is columns of the logits, that shard t has. */
static struct orr_part tokens_of(const struct orr_operands *o, int t)
{
    return orr_split(head_of(o)->vocab, 1, o->shards, t);
}

/* What F leaves, with the gradient of norm(x), because only F has the logits. B fills dgamma and dbeta. */
struct saved {
    float *mean, *rstd;         /* [N]       */
    float *dgamma, *dbeta;      /* [C]       */
    float *dnorm;               /* [N,C] of the dtype */
};

static struct saved saved_at(int width, int rows, float *floats, float *values)
{
    struct saved s;

    s.mean = floats;
    s.rstd = s.mean + rows;
    s.dgamma = s.rstd + rows;
    s.dbeta = s.dgamma + width;
    s.dnorm = values;
    return s;
}

/* Where the row of norm(x) at position b T + t is: in which chunk, and its first element there. */
struct row {
    int chunk;
    int64_t offset;
};

static struct row row_at(const struct orr_operands *o, int position)
{
    int b = position / o->seq, t = position % o->seq, c = 0;
    struct orr_part at = orr_chunk(o, c);

    while (t >= at.first + at.count)
        at = orr_chunk(o, ++c);
    return (struct row){c, (b * at.count + t - at.first) * head_of(o)->width};
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct config *h = config;
    const struct orr_style style = {.norm = h->head.norm};
    int c = h->head.width;

    *spec = (struct orr_block_spec){
        .groups = 2,
        .views = {0, h->tied ? 0 : 1},
        .view = {{{0}}, {{"output.weight", 2, {h->head.vocab, c}, ORR_INITIAL_NORMAL, h->head.std, 0, 1, 1, 0}}},
        .width = c,
        .input_width = c,
    };
    spec->views[NORM] = orri_norm_specify(&style, c, spec->view[NORM]);
    if (h->head.bias)
        orri_add_view(spec->view[NORM], &spec->views[NORM], "output.bias", orri_bias_view(h->head.vocab, true, 1));
}

static struct orr_saved_size saved_size(const void *config, int batch, int seq)
{
    const struct config *h = config;
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){2 * (rows + h->head.width), rows * h->head.width};
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

/* Of a strip of rows, the most. */
enum { LOGITS_BYTES = 64 << 20, DEVICE_LOGITS_BYTES = 256 << 20 };

/* Rows of logits begin where wide loads can: a vocabulary is seldom a multiple of anything. */
static int padded(int vocab)
{
    return (vocab + 63) / 64 * 64;
}

/* Logits are never there all at once: rows of a strip, in strips of about equal size. */
static int strip_rows(bool cuda, enum orr_dtype dtype, int vocab, int rows)
{
    size_t most = cuda ? DEVICE_LOGITS_BYTES : LOGITS_BYTES;
    int fit = (int)(most / ((size_t)padded(vocab) * orr_dtype_size(dtype)));
    int strips = fit > 0 ? (rows + fit - 1) / fit : rows;

    return (rows + strips - 1) / strips;
}

/* What a pass has in its scratch. */
struct work {
    void *norm, *dnorm;         /* [N,C]             */
    void *logits;               /* [strip,padded]    */
    float *loss;                /* [N]               */
    float *sums;                /* [N,3] or [N,2]    */
    int32_t *row, *target;      /* [N] of rows that have labels */
    const int32_t *labels;      /* of the rows whose logits are computed */
    void *bias;                 /* for its gradient  */
    float *floats;              /* statistics and gradients of the norm, where nothing is saved: see saved_at() */
    struct orri_rooms rest;     /* for the norm      */
};

static struct work work_at(struct orri_rooms rooms, const struct orr_head *h, bool cuda, enum orr_dtype dtype, int rows, int vocab)
{
    struct work w = {.rest = rooms};
    size_t value = (size_t)rows * (size_t)h->width * orr_dtype_size(dtype);

    w.norm = orri_room(&w.rest, value);
    w.dnorm = orri_room(&w.rest, value);
    w.logits = orri_room(&w.rest, (size_t)strip_rows(cuda, dtype, vocab, rows) * (size_t)padded(vocab) * orr_dtype_size(dtype));
    w.loss = orri_room(&w.rest, (size_t)rows * sizeof(*w.loss));
    w.sums = orri_room(&w.rest, (size_t)rows * ORRI_LOSS_PART * sizeof(*w.sums));
    w.row = orri_room(&w.rest, (size_t)rows * sizeof(*w.row));
    w.target = orri_room(&w.rest, (size_t)rows * sizeof(*w.target));
    w.bias = orri_room(&w.rest, h->bias ? ORRI_SCRATCH(cuda, bias_backward, strip_rows(cuda, dtype, vocab, rows), vocab) : 0);
    w.floats = orri_room(&w.rest, 2 * (size_t)(rows + h->width) * sizeof(*w.floats));
    return w;
}

static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_head *h = &((const struct config *)config)->head;
    int rows = shape->batch * shape->seq, vocab = (int)orr_split(h->vocab, 1, shape->shards, 0).count;
    struct work w = work_at((struct orri_rooms){0}, h, shape->cuda, shape->dtype, rows, vocab);

    size_t norm = orri_norm_scratch(shape, h->width, rows), bias = h->bias ? (size_t)vocab * sizeof(float) + 256 : 0;

    return w.rest.used + (norm > bias ? norm : bias);
}

/* Of W for logits, and for the gradient of norm(x). */
static size_t kept_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_head *h = &((const struct config *)config)->head;
    int vocab = (int)orr_split(h->vocab, 1, shape->shards, 0).count;

    return orri_onednn_kept(shape->dtype, h->width, vocab) + orri_onednn_kept(shape->dtype, vocab, h->width);
}

static struct work work_of(const struct orr_operands *o)
{
    return work_at(orri_rooms_of(o, scratch_bytes), head_of(o), o->cuda, o->dtype, o->batch * o->seq,
                   (int)tokens_of(o, o->shard).count);
}

/* ---- the products of a strip of n rows --------------------------------------------------------------------------- */

/* logits = x W^T */
static void logits_of(const struct orr_operands *o, int n, int vocab, const void *x, void *logits)
{
    int c = head_of(o)->width;
    const struct orri_product p = {.trans_b = true, .m = n, .n = vocab, .k = c, .dtype = o->dtype, .a = x, .lda = c,
                                        .b = o->param[OUTPUT][0], .ldb = c, .b_version = o->version[OUTPUT], .bias = bias_of(o),
                                        .c = logits, .ldc = padded(vocab), .c_dtype = o->dtype};

    ORRI_KERNEL(o, gemm, &p);
}

/* dnorm = dlogits W */
static void input_gradient(const struct orr_operands *o, int n, int vocab, const void *dlogits, void *dnorm)
{
    int c = head_of(o)->width;
    const struct orri_product p = {.m = n, .n = c, .k = vocab, .dtype = o->dtype, .a = dlogits, .lda = padded(vocab),
                                        .b = o->param[OUTPUT][0], .ldb = c, .b_version = o->version[OUTPUT], .c = dnorm,
                                        .ldc = c, .c_dtype = o->dtype};

    ORRI_KERNEL(o, gemm, &p);
}

/* dW [+]= dlogits^T x, db [+]= the sum of its rows */
static void weights_gradient(const struct orr_operands *o, int n, int vocab, const void *dlogits, const void *x, bool add,
                             void *bias_room)
{
    int c = head_of(o)->width;
    float *dw = o->grad[OUTPUT][0];
    const struct orri_product p = {.trans_a = true, .m = vocab, .n = c, .k = n, .dtype = o->dtype, .a = dlogits,
                                        .lda = padded(vocab), .b = x, .ldb = c, .add = add ? dw : NULL, .c = dw, .ldc = c,
                                        .c_dtype = ORR_F32};
    const struct orri_norm norm = norm_of(o);

    ORRI_KERNEL(o, gemm, &p);
    if (head_of(o)->bias)
        ORRI_KERNEL(o, bias_backward, o->dtype, n, vocab, dlogits, padded(vocab), add ? 1 : 0, o->grad[NORM][orri_norm_views(&norm)],
                    bias_room);
}

/* ---- the whole block ------------------------------------------------------------------------------------------------- */

static void no_weights_gradient(const struct orr_operands *o)
{
    const struct orri_norm norm = norm_of(o);
    size_t v = (size_t)head_of(o)->vocab;

    if (!o->first_gradient)
        return;
    ORRI_KERNEL(o, zero, v * (size_t)head_of(o)->width * sizeof(float), o->grad[OUTPUT][0]);
    if (head_of(o)->bias)
        ORRI_KERNEL(o, zero, v * sizeof(float), o->grad[NORM][orri_norm_views(&norm)]);
}

/* Rows with a label come first in norm(x), and their labels in w->target; how many they are. What a device holds is not known here. */
static int gather_labelled(const struct orr_operands *o, struct work *w)
{
    int rows = o->batch * o->seq, n = 0;
    size_t bytes = (size_t)head_of(o)->width * orr_dtype_size(o->dtype);

    w->labels = o->ids;
    if (o->cuda)
        return rows;
    for (int r = 0; r < rows; r++) {
        if (o->ids[r] == ORR_IGNORE)
            continue;
        if (n != r)
            memcpy((char *)w->norm + (size_t)n * bytes, (char *)w->norm + (size_t)r * bytes, bytes);
        w->target[n] = o->ids[r];
        w->row[n++] = r;
    }
    w->labels = w->target;
    return n;
}

/* The other way: gradients of the first n rows go to where these came from, the rest are 0. */
static void scatter_labelled(const struct orr_operands *o, const struct work *w, int n, void *dnorm)
{
    int rows = o->batch * o->seq;
    size_t bytes = (size_t)head_of(o)->width * orr_dtype_size(o->dtype);

    for (int r = rows - 1, i = n - 1; n < rows && r >= 0; r--) {
        char *to = (char *)dnorm + (size_t)r * bytes;
        if (i >= 0 && w->row[i] == r)
            memmove(to, (char *)dnorm + (size_t)i-- * bytes, bytes);
        else
            memset(to, 0, bytes);
    }
}

/* Strip by strip the logits of the first `rows` rows of norm(x), their loss, and from their gradient that of norm(x) and that of W,
 * each where asked for. */
static void strips(const struct orr_operands *o, const struct work *w, int rows, void *dnorm, bool dw)
{
    const struct orr_head *h = head_of(o);
    int strip = strip_rows(o->cuda, o->dtype, h->vocab, o->batch * o->seq);
    bool add = !o->first_gradient;

    for (int r = 0; r < rows; r += strip, add = true) {
        int n = rows - r < strip ? rows - r : strip;
        const void *x = orri_at(o, w->norm, (int64_t)r * h->width);
        logits_of(o, n, h->vocab, x, w->logits);
        ORRI_KERNEL(o, softmax_cross_entropy, o->dtype, n, h->vocab, w->logits, padded(h->vocab), w->labels + r, smoothing_of(o),
                    dnorm || dw, o->loss_scale, w->loss + r);
        if (dnorm)
            input_gradient(o, n, h->vocab, w->logits, orri_at(o, dnorm, (int64_t)r * h->width));
        if (dw)
            weights_gradient(o, n, h->vocab, w->logits, x, add, w->bias);
    }
    if (dw && rows == 0)
        no_weights_gradient(o);
}

/* A diverged run ends here, before it can spoil the parameters; with a loss scale the step is skipped first. What a device found
 * is looked at with the step's summary. */
static void check_loss(const struct orr_operands *o)
{
    if (!o->cuda && !o->loss_scale && !isfinite(o->result->loss))
        orr_task_fail(o, ORR_ENONFINITE, "the loss is not a finite number");
}

static void add_result(const struct orr_operands *o, const struct work *w, int rows)
{
    ORRI_KERNEL(o, add_losses, rows, w->loss, w->labels, o->first_result, o->result);
    check_loss(o);
}

static struct saved saved_of(const struct orr_operands *o, const struct work *w)
{
    return saved_at(head_of(o)->width, o->batch * o->seq, o->saved ? o->saved : w->floats,
                           o->saved ? o->saved_values : w->dnorm);
}

static void forward(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const struct orri_norm norm = norm_of(o);
    struct work w = work_of(o);
    struct saved s = saved_of(o, &w);

    orri_norm(o, &norm, h->width, w.norm, s.mean, s.rstd);
    int rows = gather_labelled(o, &w);
    strips(o, &w, rows, o->saved ? s.dnorm : NULL, false);
    if (o->saved)
        scatter_labelled(o, &w, rows, s.dnorm);
    add_result(o, &w, rows);
}

static void backward(const struct orr_operands *o)
{
    const struct orri_norm norm = norm_of(o);
    struct work w = work_of(o);
    struct saved s = saved_of(o, &w);

    orri_norm_input_gradient(o, &norm, head_of(o)->width, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &w.rest);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const struct orri_norm norm = norm_of(o);
    struct work w = work_of(o);
    struct saved s = saved_of(o, &w);

    orri_norm_again(o, &norm, h->width, s.mean, s.rstd, w.norm);
    strips(o, &w, gather_labelled(o, &w), NULL, true);
    orri_norm_weights(o, &norm, h->width, s.dgamma, s.dbeta);
}

static void whole(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const struct orri_norm norm = norm_of(o);
    struct work w = work_of(o);
    struct saved s = saved_of(o, &w);

    orri_norm(o, &norm, h->width, w.norm, s.mean, s.rstd);
    int rows = gather_labelled(o, &w);
    strips(o, &w, rows, s.dnorm, true);
    scatter_labelled(o, &w, rows, s.dnorm);
    add_result(o, &w, rows);
    orri_norm_input_gradient(o, &norm, h->width, NULL, s.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &w.rest);
    orri_norm_weights(o, &norm, h->width, s.dgamma, s.dbeta);
}

/* The rows asked for, of x or of norm(x): to [n,C] in w->dnorm. Their numbers are the host's. */
static void pick(const struct orr_operands *o, const struct work *w)
{
    size_t row = (size_t)head_of(o)->width * orr_dtype_size(o->dtype);

    for (int i = 0; i < o->rows.count; i++) {
        struct row at = {0, (int64_t)o->rows.rows[i] * head_of(o)->width};
        if (!o->x[0])
            at = row_at(o, o->rows.rows[i]);
        ORRI_KERNEL(o, copy, row, orri_at(o, o->x[0] ? o->x[0] : o->branch[at.chunk], at.offset),
                       (char *)w->dnorm + (size_t)i * row);
    }
}

/* In fp32, with row stride ld. */
static void add_bias(const struct orr_operands *o, int v, float *out, int ld)
{
    if (!head_of(o)->bias)
        return;
    struct orri_rooms rooms = work_of(o).rest;
    float *bias = orri_room(&rooms, (size_t)v * sizeof(*bias));
    ORRI_KERNEL(o, convert, (size_t)v, o->dtype, bias_of(o), ORR_F32, bias);
    for (int i = 0; i < o->rows.count; i++)
        ORRI_KERNEL(o, add, ORR_F32, (size_t)v, bias, out + (size_t)i * (size_t)ld);
}

/* out [n,v] = x W^T + b in fp32, with row stride ld. */
static void prediction_of(const struct orr_operands *o, int v, const void *x, float *out, int ld)
{
    int c = head_of(o)->width;
    const struct orri_product p = {.trans_b = true, .m = o->rows.count, .n = v, .k = c, .dtype = o->dtype, .a = x, .lda = c,
                                        .b = o->param[OUTPUT][0], .ldb = c, .c = out, .ldc = ld, .c_dtype = ORR_F32};

    ORRI_KERNEL(o, gemm, &p);
    add_bias(o, v, out, ld);
}

static void predict(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    const struct orri_norm norm = norm_of(o);
    struct work w = work_of(o);
    int n = o->rows.count, c = h->width, v = h->vocab;

    pick(o, &w);
    orri_norm_rows(o, &norm, n, c, w.dnorm, w.norm, w.floats, w.floats + n);
    prediction_of(o, v, w.norm, o->prediction, v + c);
    for (int i = 0; i < n; i++)
        ORRI_KERNEL(o, convert, (size_t)c, o->dtype, orri_at(o, w.norm, (int64_t)i * c), ORR_F32,
                          o->prediction + (size_t)i * (size_t)(v + c) + v);
}

/* ---- in shards, which have rows of W, that is columns of the logits ------------------------------------------------------ */

static int most_shards(const void *config)
{
    return ((const struct config *)config)->head.vocab;
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

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "tokens of the vocabulary",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
    .partial_width = ORRI_LOSS_PART,
    .output_width = ORRI_LOSS_NORM,
};

static void chunk_forward(const struct orr_operands *o)
{
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    const struct orri_norm norm = norm_of(o);

    orri_norm_chunk_forward(o, &norm, head_of(o)->width, &rooms);
}

static const void *all_norm(const struct orr_operands *o, const struct work *w)
{
    return orri_gather(o, head_of(o)->width, orr_dtype_size(o->dtype), (const float *const *)o->branch, w->norm);
}

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_part tokens = tokens_of(o, o->shard);
    struct work w = work_of(o);
    int rows = o->batch * o->seq, c = head_of(o)->width, v = (int)tokens.count, strip = strip_rows(o->cuda, o->dtype, v, rows);
    const void *norm = all_norm(o, &w);
    float *part = orri_scatter_begin(o, o->partial, w.sums);

    for (int r = 0; r < rows; r += strip) {
        int n = rows - r < strip ? rows - r : strip;
        logits_of(o, n, v, orri_at(o, norm, (int64_t)r * c), w.logits);
        ORRI_KERNEL(o, cross_entropy_part, o->dtype, n, v, w.logits, padded(v), o->ids + r, (int)tokens.first,
                    smoothing_of(o), part + (size_t)r * ORRI_LOSS_PART);
    }
    orri_scatter_end(o, ORRI_LOSS_PART, sizeof(float), part, o->partial);
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
        ORRI_KERNEL(o, cross_entropy_join, (int)at.count, o->shards, part, target, o->y + b * at.count * ORRI_LOSS_NORM,
                                     w.loss);
        ORRI_KERNEL(o, add_losses, (int)at.count, w.loss, target, o->first_result && b == 0, o->result);
    }
    check_loss(o);
}

/* The gradients of norm(x) and of W in one task, which has the logits. */
static void shard_backward(const struct orr_operands *o)
{
    const struct orr_part tokens = tokens_of(o, o->shard);
    struct work w = work_of(o);
    int rows = o->batch * o->seq, c = head_of(o)->width, v = (int)tokens.count, strip = strip_rows(o->cuda, o->dtype, v, rows);
    const void *norm = all_norm(o, &w);
    const float *sums = orri_gather(o, ORRI_LOSS_NORM, sizeof(float), o->ys, w.sums);
    void *dnorm = orri_scatter_begin(o, o->dpartial, w.dnorm);
    bool add = !o->first_gradient;

    for (int r = 0; r < rows; r += strip, add = true) {
        int n = rows - r < strip ? rows - r : strip;
        const void *x = orri_at(o, norm, (int64_t)r * c);
        logits_of(o, n, v, x, w.logits);
        ORRI_KERNEL(o, cross_entropy_part_gradient, o->dtype, n, v, w.logits, padded(v), o->ids + r, (int)tokens.first,
                    smoothing_of(o), sums + (size_t)r * ORRI_LOSS_NORM, o->loss_scale);
        input_gradient(o, n, v, w.logits, orri_at(o, dnorm, (int64_t)r * c));
        weights_gradient(o, n, v, w.logits, x, add, w.bias);
    }
    orri_scatter_end(o, c, orr_dtype_size(o->dtype), dnorm, o->dpartial);
}

static void chunk_backward(const struct orr_operands *o)
{
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    const struct orri_norm norm = norm_of(o);

    orri_norm_chunk_backward(o, &norm, NULL, head_of(o)->width, NULL, NULL, &rooms);
}

static void shard_predict(const struct orr_operands *o)
{
    struct work w = work_of(o);
    int v = (int)tokens_of(o, o->shard).count;

    pick(o, &w);
    prediction_of(o, v, w.dnorm, o->partial[0], v);
}

static void chunk_predict(const struct orr_operands *o)
{
    const struct orr_head *h = head_of(o);
    size_t n = (size_t)o->rows.count, stride = (size_t)(h->vocab + h->width) * sizeof(float);
    float *to = o->prediction;

    for (int t = 0; t < o->shards; t++) {
        size_t v = (size_t)tokens_of(o, t).count;
        ORRI_KERNEL(o, copy_rows, n, v * sizeof(*to), o->partial[t], v * sizeof(*to), to, stride);
        to += v;
    }
    for (size_t i = 0; i < n; i++) {
        struct row row = row_at(o, o->rows.rows[i]);
        ORRI_KERNEL(o, convert, (size_t)h->width, o->dtype, orri_at(o, o->branch[row.chunk], row.offset), ORR_F32,
                          (char *)to + i * stride);
    }
}

#define HEAD_PASSES \
    { \
        [ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights, [ORR_WHOLE] = whole, \
        [ORR_PREDICT] = predict, [ORR_CHUNK_FORWARD] = chunk_forward, [ORR_SHARD_FORWARD] = shard_forward, \
        [ORR_CHUNK_JOIN] = chunk_join, [ORR_SHARD_BACKWARD] = shard_backward, \
        [ORR_CHUNK_BACKWARD] = chunk_backward, [ORR_SHARD_PREDICT] = shard_predict, \
        [ORR_CHUNK_PREDICT] = chunk_predict \
    }

static const struct orr_block_class head_class = {
    .name = "head",
    .config_size = sizeof(struct config),
    .specify = specify,
    .saved = saved_size,
    .scratch_bytes = scratch_bytes,
    .kept_bytes = kept_bytes,
    .flops = flops,
    .is_loss = true,
    .sharding = &sharding,
    .cpu = HEAD_PASSES,
    .any_dtype = true,
    .cuda = ORRI_CUDA(HEAD_PASSES),
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
    struct config full = {*config, tied != NULL};

    if (config->vocab < 1 || config->width < 1)
        return orri_fail(ORR_EINVAL, "head", "a vocabulary of %d and a width of %d are not both positive",
                         config->vocab, config->width);
    if (config->norm == ORR_NO_NORM && !config->bias)
        return orri_fail(ORR_EINVAL, "head", "without a norm there is a bias");
    struct orr_block *block = orr_block_append(model, &head_class, config->layer, &full);
    if (!block)
        return orr_error_code();
    return tied ? orr_block_share(block, OUTPUT, tied, 0) : ORR_OK;
}
