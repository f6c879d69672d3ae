/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/attention/attention.h>

#include <math.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { PROBABILITY_DROPOUT, ATTENTION_DROPOUT, NORM_DROPOUT = 3 };      /* places */

static int kv_heads_of(const struct orr_attention *a)
{
    return a->kv_heads ? a->kv_heads : a->heads;
}

static int head_dim_of(const struct orr_attention *a)
{
    return a->head_dim ? a->head_dim : a->width / a->heads;
}

/* q, k and v as three parts of one matrix, or apart. A shard has a heads of keys and the queries that share it, or several. */
static void specify(const void *config, struct orr_block_spec *spec)
{
    static const char *const weights[] = {"q.weight", "k.weight", "v.weight"}, *const biases[] = {"q.bias", "k.bias", "v.bias"};
    const struct orr_attention *a = config;
    int c = a->width, d = head_dim_of(a), q = a->heads * d, k = kv_heads_of(a) * d, n;
    bool apart = a->style.matrices == ORR_OUT_IN;
    int widths[] = {q, k, k}, unit = q / kv_heads_of(a), norms;
    struct orr_view *view = spec->view[0];

    *spec = (struct orr_block_spec){.groups = 1, .width = c, .input_width = c, .source = a->style.source};
    n = norms = orri_norm_specify(&a->style, c, view);
    for (int i = 0; i < (apart ? 3 : 1); i++)
        orri_add_view(view, &n, apart ? weights[i] : "qkv.weight",
                      orri_matrix_view(apart, c, apart ? widths[i] : 3 * q, true, i ? d : unit,
                                       i == 0 && a->query_std > 0 ? a->query_std : a->std));
    for (int i = 0; a->style.biases != ORR_NO_BIASES && i < (apart ? 3 : 1); i++)
        orri_add_view(view, &n, apart ? biases[i] : "qkv.bias", orri_bias_view(apart ? widths[i] : 3 * q, true, i ? d : unit));
    for (int i = norms; !apart && i < n; i++)
        view[i].groups = 3;
    orri_add_view(view, &n, "proj.weight", orri_matrix_view(apart, q, c, false, unit, a->projection_std));
    if (a->style.biases == ORR_BIASES)
        orri_add_view(view, &n, "proj.bias", orri_bias_view(c, false, 1));
    spec->views[0] = n;
}

static struct orri_attention kernel(const struct orr_attention *a, int batch, int seq, int shards, int shard)
{
    struct orr_part shared = orr_split(kv_heads_of(a), 1, shards, shard);
    int group = a->heads / kv_heads_of(a), heads = (int)shared.count * group, d = head_dim_of(a);

    return (struct orri_attention){
        .batch = batch,
        .seq = seq,
        .heads = heads,
        .kv_heads = (int)shared.count,
        .head_dim = d,
        .ld = (heads + 2 * shared.count) * d,
        .ld_out = (int64_t)heads * d,
        .scale = a->scale > 0 ? a->scale : 1 / sqrtf((float)d),
        .total_heads = a->heads,
        .first_head = (int)shared.first * group,
        .bidirectional = a->bidirectional,
        .window = a->window,
    };
}

static struct orri_attention kernel_of(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    struct orri_attention k = kernel(a, o->batch, o->seq, o->shards, o->shard);

    k.dropout = orri_block_dropout(o, a->attention_dropout, PROBABILITY_DROPOUT);
    k.first_sample = o->first_sample;
    k.places = o->places;
    return k;
}

/* ---- positions ------------------------------------------------------------------------------------------------------- */

/* Of wavelengths that the trained positions hold many times nothing changes. */
static double llama3_frequency(const struct orr_rotary *r, double frequency)
{
    double turns = r->positions * frequency / (2 * 3.14159265358979323846);
    double smooth = (turns - (double)r->low) / ((double)r->high - (double)r->low);

    smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
    return (1 - smooth) * frequency / (double)r->factor + smooth * frequency;
}

static struct orri_rotary rotary_of(const struct orr_rotary *r, int head_dim, int seq)
{
    struct orri_rotary rotary = {.half = head_dim / 2};
    double theta = (double)r->theta;

    if (r->scaling == ORR_ROTARY_DYNAMIC && seq > r->positions)
        theta *= pow((double)r->factor * seq / r->positions - (double)r->factor + 1, head_dim / (head_dim - 2.0));
    for (int d = 0; d < rotary.half; d++) {
        double frequency = pow(theta, -2.0 * d / head_dim);
        rotary.frequency[d] = (float)(r->scaling == ORR_ROTARY_LINEAR   ? frequency / (double)r->factor
                                      : r->scaling == ORR_ROTARY_LLAMA3 ? llama3_frequency(r, frequency)
                                                                        : frequency);
    }
    return rotary;
}

/* q and k, which lie beside each other, or their gradients. Sequences that are continued begin each where it is. */
static void turn(const struct orr_operands *o, const struct orri_attention *k, bool inverse, void *u)
{
    const struct orr_attention *a = o->config;
    int heads = k->heads + k->kv_heads;

    if (a->rotary.theta == 0)
        return;
    const struct orri_rotary rotary = rotary_of(&a->rotary, k->head_dim, o->length);
    if (!o->past)
        ORRI_KERNEL(o, rotate, o->dtype, &rotary, o->batch, o->seq, heads, 0, k->places, inverse, u, k->ld);
    for (int b = 0; o->past && b < o->batch; b++)
        ORRI_KERNEL(o, rotate, o->dtype, &rotary, 1, o->seq, heads, o->past->first[b], NULL, inverse,
                    orri_at(o, u, (int64_t)b * o->seq * k->ld), k->ld);
}

/* ---- bias by distance (on a CPU) ---------------------------------------------------------------------------------------- */

/* Its group; and its class's configuration, which tells whether it is another block's. */
enum { LAYER, BIAS };

struct relative {
    struct orr_attention attention;
    int shared;                                 /* as wide as the rest: no padding, which would be hashed */
};

/* Of key j and query i, distance = j - i: in fp32, as models are trained. */
static int bucket_of(const struct orr_attention *a, int distance)
{
    int buckets = a->bidirectional ? a->buckets / 2 : a->buckets, near = buckets / 2, first = 0;

    if (a->bidirectional && distance > 0)
        first = buckets;
    else
        distance = distance < 0 ? -distance : 0;
    if (distance < near)
        return first + distance;
    float far = logf((float)distance / (float)near) / (float)log((double)a->distance / near) * (float)(buckets - near);
    return first + (near + (int)far < buckets ? near + (int)far : buckets - 1);
}

/* A table [H,2T] of it, and a row of the parameter. */
static size_t bias_bytes(const struct orri_attention *k)
{
    return (size_t)k->heads * (2 * (size_t)k->seq + 1) * sizeof(float);
}

/* Puts it at the front of the scratch, and returns what is left of that. */
static void *take_bias(const struct orr_operands *o, struct orri_attention *k, void *scratch)
{
    const struct orr_attention *a = o->config;
    int T = k->seq, H = k->heads;
    float *table = scratch, *row = table + (size_t)H * 2 * (size_t)T;

    if (!a->buckets)
        return scratch;
    for (int n = 0; n < 2 * T - 1; n++) {
        orri_widen(o->dtype, (size_t)H, orri_at(o, o->param[BIAS][0], (int64_t)bucket_of(a, n - T + 1) * H), row);
        for (int h = 0; h < H; h++)
            table[(size_t)h * 2 * (size_t)T + (size_t)n] = row[h];
    }
    k->bias = table;
    return (char *)scratch + bias_bytes(k);
}

/* What B left behind lse: [B,H,2T]. */
static float *bias_gradient(const struct orri_attention *k, const struct orri_inner *s)
{
    return s->rest + (size_t)k->batch * (size_t)k->heads * (size_t)k->seq;
}

/* ---- heads ------------------------------------------------------------------------------------------------------------ */

/* u is q, k and v beside each other in a row, each by heads; h what the heads give; the rest lse [B,H,T], the log-sum-exp of the
 * scores. */
struct heads {
    void *q, *k, *v;
};

static struct heads heads_at(const struct orr_operands *o, const struct orri_attention *k, void *u)
{
    int64_t keys = k->ld_out, values = keys + (int64_t)k->kv_heads * k->head_dim;

    return (struct heads){u, orri_at(o, u, keys), orri_at(o, u, values)};
}

/* Bytes of a position's keys and values. */
static size_t row_bytes(const struct orr_operands *o, const struct orri_attention *k)
{
    return 2 * (size_t)k->kv_heads * (size_t)k->head_dim * orr_dtype_size(o->dtype);
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
    size_t row = row_bytes(o, k), from = (size_t)k->ld * orr_dtype_size(o->dtype);
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
        kept.pages[p] = part_of(o, b, p, row_bytes(o, k));
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

static void heads_forward(const struct orr_operands *o, const struct orri_inner *s, void *scratch)
{
    struct orri_attention k = kernel_of(o);
    const struct heads at = heads_at(o, &k, s->u);

    scratch = take_bias(o, &k, scratch);
    turn(o, &k, false, s->u);
    if (o->past)
        continue_forward(o, &k, &at, s, scratch);
    else
        ORRI_KERNEL(o, attention_forward, o->dtype, &k, at.q, at.k, at.v, s->h, s->rest, scratch);
}

static void heads_backward(const struct orr_operands *o, const struct orri_inner *s, void *dh, void *scratch)
{
    struct orri_attention k = kernel_of(o);
    const struct heads at = heads_at(o, &k, s->u);

    scratch = take_bias(o, &k, scratch);
    k.dbias = k.bias ? bias_gradient(&k, s) : NULL;
    ORRI_KERNEL(o, attention_backward, o->dtype, &k, at.q, at.k, at.v, s->h, dh, s->rest, scratch);
    turn(o, &k, true, s->u);
}

static struct orri_residual residual(const void *config, const struct orr_shape *shape, int shard)
{
    const struct orr_attention *a = config;
    const struct orri_attention k = kernel(config, shape->batch, shape->seq, shape->shards, shard);
    size_t forward = ORRI_SCRATCH(shape->cuda, attention_forward, &k, shape->dtype);
    size_t backward = ORRI_SCRATCH(shape->cuda, attention_backward, &k, shape->dtype);
    struct orri_residual r = orri_residual_of(&a->style, a->style.matrices == ORR_OUT_IN ? 3 : 1, a->width, a->eps);

    r.dropout = a->dropout;
    r.place = ATTENTION_DROPOUT;
    r.norm_dropout = a->norm_dropout;
    r.norm_place = NORM_DROPOUT;
    r.rest = a->buckets ? 3 * k.heads : k.heads;
    r.in = (int)k.ld;
    r.out = (int)k.ld_out;
    r.scratch = (forward > backward ? forward : backward) + (a->buckets ? bias_bytes(&k) : 0);
    r.forward = heads_forward;
    r.backward = heads_backward;
    return r;
}

#include "codelets/math/residual_passes.h"

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_attention *a = config;
    double rows = (double)batch * seq, c = a->width, q = (double)a->heads * head_dim_of(a), k = (double)kv_heads_of(a) * head_dim_of(a);
    double products = 2 * rows * c * (2 * q + 2 * k), seen = a->window && a->window < seq ? a->window : a->bidirectional ? seq : seq / 2.0;
    double scores = 4 * rows * seen * q;    /* q k^T and the product with v */

    switch (pass) {
    case ORR_FORWARD: return products + scores;
    case ORR_BACKWARD: return products + 2.5 * scores;
    default: return products;
    }
}

/* Keys and values of the shard's heads. */
static int64_t cached(const void *config, int shards, int shard)
{
    const struct orri_attention k = kernel(config, 1, 1, shards, shard);

    return 2 * (int64_t)k.kv_heads * k.head_dim;
}

static int most_shards(const void *config)
{
    return kv_heads_of(config);
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
    .operands = ORRI_RESIDUAL_OPERANDS(ORR_PLACES | ORR_CACHE, ORR_PLACES),
};

/* ---- with a bias by distance ------------------------------------------------------------------------------------------- */

static void specify_relative(const void *config, struct orr_block_spec *spec)
{
    const struct relative *r = config;
    const struct orr_attention *a = &r->attention;

    specify(a, spec);
    spec->groups = 2;
    spec->views[BIAS] = r->shared ? 0 : 1;
    spec->view[BIAS][0] = orri_matrix_view(false, a->buckets, a->heads, true, 1, a->bias_std);
    spec->view[BIAS][0].name = "bias.weight";
}

/* Of every distance, sequence by sequence. */
static void relative_weights(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    const struct orri_residual r = residual_of(o);
    const struct orri_attention k = kernel_of(o);
    const struct orri_inner inner = orri_residual_inner(o, &r);
    const float *from = bias_gradient(&k, &inner);
    float *grad = o->grad[BIAS][0];

    weights(o);
    if (o->first_gradient)
        orri_cpu_zero((size_t)a->buckets * (size_t)a->heads * sizeof(*grad), grad);
    for (int b = 0; b < o->batch; b++)
        for (int h = 0; h < a->heads; h++, from += 2 * o->seq)
            for (int n = 0; n < 2 * o->seq - 1; n++)
                grad[bucket_of(a, n - o->seq + 1) * a->heads + h] += from[n];
}

static const struct orr_block_class relative_class = {
    .name = "relative",
    .config_size = sizeof(struct relative),
    .specify = specify_relative,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .kept_bytes = kept_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = relative_weights},
    .any_dtype = true,
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS | ORR_PLACES,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT | ORR_PLACES,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS},
};

static int check(const struct orr_attention *a)
{
    if (a->heads < 1 || a->width < 1 || (!a->head_dim && a->width % a->heads != 0))
        return orri_fail(ORR_EINVAL, "attention", "%d heads do not divide a width of %d", a->heads, a->width);
    if (a->kv_heads < 0 || a->heads % kv_heads_of(a) != 0)
        return orri_fail(ORR_EINVAL, "attention", "%d heads of keys do not divide %d heads", a->kv_heads, a->heads);
    if (a->kv_heads != 0 && a->kv_heads != a->heads && a->style.matrices != ORR_OUT_IN)
        return orri_fail(ORR_EINVAL, "attention", "heads that share keys go with [out,in] matrices");
    if (a->rotary.theta > 0 && (head_dim_of(a) % 2 != 0 || head_dim_of(a) > 2 * ORRI_MOST_FREQUENCIES))
        return orri_fail(ORR_EINVAL, "attention", "rotary positions turn pairs of up to %d elements of a head, not %d",
                         2 * ORRI_MOST_FREQUENCIES, head_dim_of(a));
    if (a->window < 0 || (a->window > 0 && a->bidirectional))
        return orri_fail(ORR_EINVAL, "attention", "a window of %d keys needs a causal mask", a->window);
    return ORR_OK;
}

static int check_all(const struct orr_attention *a)
{
    ORR_TRY(check(a));
    ORR_TRY(orri_check_dropout("attention", a->attention_dropout));
    ORR_TRY(orri_check_dropout("attention", a->dropout));
    return orri_check_dropout("attention", a->norm_dropout);
}

int orr_attention(struct orr_model *model, int layer, const struct orr_attention *config)
{
    ORR_TRY(check_all(config));
    if (config->buckets != 0)
        return orri_fail(ORR_EINVAL, "attention", "a bias by distance is orr_relative_attention()'s");
    return orr_block_append(model, &attention_class, layer, config) ? ORR_OK : orr_error_code();
}

int orr_relative_attention(struct orr_model *model, int layer, const struct orr_attention *config, struct orr_block *of)
{
    struct relative relative = {*config, of != NULL};
    int near = config->bidirectional ? config->buckets / 4 : config->buckets / 2;

    ORR_TRY(check_all(config));
    if (config->buckets < 4 || config->buckets % 2 != 0 || config->distance <= near)
        return orri_fail(ORR_EINVAL, "attention",
                         "%d buckets up to a distance of %d: take an even number, from 4 on, and more than %d", config->buckets,
                         config->distance, near);
    struct orr_block *block = orr_block_append(model, &relative_class, layer, &relative);
    if (!block)
        return orr_error_code();
    return of ? orr_block_share(block, BIAS, of, BIAS) : ORR_OK;
}
