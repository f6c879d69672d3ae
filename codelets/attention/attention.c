/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/attention/attention.h>

#include <math.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { PROBABILITY_DROPOUT, ATTENTION_DROPOUT };      /* places */

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

static struct orri_attention kernel(const struct orr_attention *a, int batch, int seq, int shards,
                                                          int shard)
{
    struct orr_part heads = orr_split(a->heads, 1, shards, shard);
    int head = a->width / a->heads;

    return (struct orri_attention){
        .batch = batch,
        .seq = seq,
        .heads = (int)heads.count,
        .head_dim = head,
        .ld = 3 * heads.count * head,
        .ld_out = heads.count * head,
        .scale = 1 / sqrtf((float)head),
        .total_heads = a->heads,
        .first_head = (int)heads.first,
    };
}

static struct orri_attention kernel_of(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    struct orri_attention k = kernel(a, o->batch, o->seq, o->shards, o->shard);

    k.dropout = orri_block_dropout(o, a->attention_dropout, PROBABILITY_DROPOUT);
    k.first_sample = o->first_sample;
    return k;
}

/* u is q, k and v beside each other in a row, each by heads; h what the heads give; the rest lse [B,H,T], the log-sum-exp of the
 * scores. */
struct heads {
    void *q, *k, *v;
};

static struct heads heads_at(const struct orr_operands *o, const struct orri_attention *k, void *u)
{
    return (struct heads){u, orri_at(o, u, k->ld_out), orri_at(o, u, 2 * k->ld_out)};
}

/* Sequence b's part of page p, in rows of so many bytes. */
static void *part_of(const struct orr_operands *o, int b, int p, size_t row)
{
    const struct orr_past *past = o->past;
    size_t part = (size_t)past->part[past->sequence[b] * ORR_MAX_PAGES + p];

    return (char *)o->page[p] + part * (size_t)past->page * row;
}

/* Keys and values of the sequence's new positions, which lie beside each other in u, to the pages. */
static void keep(const struct orr_operands *o, const struct orri_attention *k, int b, void *keys)
{
    const struct orr_past *past = o->past;
    size_t size = orr_dtype_size(o->dtype), row = 2 * (size_t)k->ld_out * size, from = (size_t)k->ld * size;
    int first = past->first[b], end = first + past->count[b];

    for (int t = first, n; t < end; t += n) {
        n = past->page - t % past->page < end - t ? past->page - t % past->page : end - t;
        ORRI_KERNEL(o, copy_rows, (size_t)n, row, orri_at(o, keys, ((int64_t)b * o->seq + t - first) * k->ld), from,
                    (char *)part_of(o, b, t / past->page, row) + (size_t)(t % past->page) * row, row);
    }
}

/* One more position of sequence b. */
static void next(const struct orr_operands *o, const struct orri_attention *k, int b, const void *q, void *h)
{
    const struct orr_past *past = o->past;
    struct orri_kept kept = {past->first[b] + 1, past->page, {NULL}};

    for (int p = 0; p * kept.page < kept.length; p++)
        kept.pages[p] = part_of(o, b, p, 2 * (size_t)k->ld_out * orr_dtype_size(o->dtype));
    ORRI_KERNEL(o, attention_next, o->dtype, k, orri_at(o, q, b * k->ld), &kept, orri_at(o, h, b * k->ld_out));
}

/* Sequences that begin here are computed like others, and what later positions need of them is kept. */
static void continue_forward(const struct orr_operands *o, const struct orri_attention *k, const struct heads *at,
                             const struct orri_inner *s, void *scratch)
{
    for (int b = 0; b < o->batch; b++)
        if (o->past->sequence[b] >= 0)
            keep(o, k, b, at->k);
    if (o->seq > 1)
        ORRI_KERNEL(o, attention_forward, o->dtype, k, at->q, at->k, at->v, s->h, s->rest, scratch);
    for (int b = 0; o->seq == 1 && b < o->batch; b++) {
        if (o->past->sequence[b] >= 0)
            next(o, k, b, at->q, s->h);
        else
            ORRI_KERNEL(o, zero, (size_t)k->ld_out * orr_dtype_size(o->dtype), orri_at(o, s->h, b * k->ld_out));
    }
}

static void heads_forward(const struct orr_operands *o, const void *norm, const struct orri_inner *s, void *scratch)
{
    const struct orri_attention k = kernel_of(o);
    const struct heads at = heads_at(o, &k, s->u);
    struct orri_product p = orri_row_product(o, (int)k.ld, ((const struct orr_attention *)o->config)->width, norm,
                                                  o->param[0][ORRI_IN_WEIGHT], false, s->u);

    p.bias = o->param[0][ORRI_IN_BIAS];
    ORRI_KERNEL(o, gemm, &p);
    if (o->past)
        continue_forward(o, &k, &at, s, scratch);
    else
        ORRI_KERNEL(o, attention_forward, o->dtype, &k, at.q, at.k, at.v, s->h, s->rest, scratch);
}

static void heads_backward(const struct orr_operands *o, const void *dout, const struct orri_inner *s, void *dh,
                           void *scratch)
{
    const struct orri_attention k = kernel_of(o);
    const struct heads at = heads_at(o, &k, s->u);
    const struct orri_product p =
        orri_row_product(o, (int)k.ld_out, ((const struct orr_attention *)o->config)->width, dout,
                         o->param[0][ORRI_OUT_WEIGHT], true, dh);

    ORRI_KERNEL(o, gemm, &p);
    ORRI_KERNEL(o, attention_backward, o->dtype, &k, at.q, at.k, at.v, s->h, dh, s->rest, scratch);
}

static struct orri_residual residual(const void *config, const struct orr_shape *shape, int shard)
{
    const struct orr_attention *a = config;
    const struct orri_attention k = kernel(config, shape->batch, shape->seq, shape->shards, shard);
    size_t forward = ORRI_SCRATCH(shape->cuda, attention_forward, &k, shape->dtype);
    size_t backward = ORRI_SCRATCH(shape->cuda, attention_backward, &k, shape->dtype);

    return (struct orri_residual){
        .width = a->width,
        .eps = a->eps,
        .dropout = a->dropout,
        .place = ATTENTION_DROPOUT,
        .rest = k.heads,
        .in = (int)k.ld,
        .out = (int)k.ld_out,
        .scratch = forward > backward ? forward : backward,
        .forward = heads_forward,
        .backward = heads_backward,
    };
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

/* Keys and values of the shard's heads. */
static int64_t cached(const void *config, int shards, int shard)
{
    return 2 * kernel(config, 1, 1, shards, shard).ld_out;
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
};

static const struct orr_block_class attention_class = {
    .name = "attention",
    .config_size = sizeof(struct orr_attention),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .kept_bytes = kept_bytes,
    .flops = flops,
    .cached = cached,
    .sharding = &sharding,
    .cpu = ORRI_RESIDUAL_PASSES,
    .any_dtype = true,
    .cuda = ORRI_CUDA(ORRI_RESIDUAL_PASSES),
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
