/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/residual.h"

#include "core/core.h"

static size_t total(struct orr_saved_size size)
{
    return (size_t)(size.floats + size.values);
}

static struct orr_saved_size inner_size(const struct orri_residual *r, int batch, int seq)
{
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){rows * r->rest, rows * ((int64_t)r->in + r->out)};
}

static struct orri_inner inner_at(const struct orri_residual *r, size_t rows, float *floats, float *values)
{
    return (struct orri_inner){.rest = floats, .u = values, .h = values + rows * (size_t)r->in};
}

static struct orri_dropout dropout_of(const struct orr_operands *o, const struct orri_residual *r)
{
    return orri_block_dropout(o, r->dropout, r->place);
}

/* ---- the products, of a whole block or a shard ------------------------------------------------------- */

/* out = h Wout + beta out. */
static void product(const struct orr_operands *o, const struct orri_residual *r, const float *h, float beta,
                    float *out)
{
    orri_gemm(false, false, o->batch * o->seq, r->width, r->out, h, r->out, o->param[0][ORRI_OUT_WEIGHT], r->width,
              beta, out, r->width);
}

/* The gradient of norm(x) from that of the second product; that of the first in s->u. dh [N,out]. */
static void products_backward(const struct orr_operands *o, const struct orri_residual *r, const float *dout,
                              const struct orri_inner *s, float *dnorm, float *dh, void *scratch)
{
    int rows = o->batch * o->seq, c = r->width;

    orri_gemm(false, true, rows, r->out, c, dout, c, o->param[0][ORRI_OUT_WEIGHT], c, 0, dh, r->out);
    r->backward(o, dh, s, scratch);
    orri_gemm(false, true, rows, c, r->in, s->u, r->in, o->param[0][ORRI_IN_WEIGHT], r->in, 0, dnorm, c);
}

static void products_weights(const struct orr_operands *o, const struct orri_residual *r, const float *norm,
                             const float *dout, const struct orri_inner *s)
{
    float *const *grad = o->grad[0];
    float beta = o->first_gradient ? 0 : 1;
    int rows = o->batch * o->seq, c = r->width;

    orri_gemm(true, false, r->out, c, rows, s->h, r->out, dout, c, beta, grad[ORRI_OUT_WEIGHT], c);
    orri_gemm(true, false, c, r->in, rows, norm, c, s->u, r->in, beta, grad[ORRI_IN_WEIGHT], r->in);
    orri_bias_backward(rows, r->in, s->u, r->in, beta, grad[ORRI_IN_BIAS]);
}

/* Of bout, for the positions of the operands. */
static void out_bias_weights(const struct orr_operands *o, const struct orri_residual *r, const float *dout)
{
    orri_bias_backward(o->batch * (int)orri_positions(o).count, r->width, dout, r->width, o->first_gradient ? 0 : 1,
                       o->grad[0][ORRI_OUT_BIAS]);
}

/* ---- the whole block ------------------------------------------------------------------------------------ */

/* What F leaves. B fills dgamma and dbeta. */
struct saved {
    float *mean, *rstd;         /* [N]      */
    float *dgamma, *dbeta;      /* [C]      */
    struct orri_inner inner;
};

static struct saved saved_at(const struct orri_residual *r, size_t rows, float *floats, float *values)
{
    struct saved s;

    s.mean = floats;
    s.rstd = s.mean + rows;
    s.dgamma = s.rstd + rows;
    s.dbeta = s.dgamma + r->width;
    s.inner = inner_at(r, rows, s.dbeta + r->width, values);
    return s;
}

struct orr_saved_size orri_residual_saved(const struct orri_residual *r, int batch, int seq)
{
    struct orr_saved_size size = inner_size(r, batch, seq);

    size.floats += 2 * ((int64_t)batch * seq + r->width);
    return size;
}

/* F outside training keeps what it would save, beside norm(x); B keeps the gradient of h beside those of norm(x) and
 * of what was dropped out. */
size_t orri_residual_scratch_bytes(const struct orri_residual *r, int batch, int seq)
{
    size_t rows = (size_t)batch * (size_t)seq, width = (size_t)r->width;
    size_t forward = total(orri_residual_saved(r, batch, seq)) + rows * width;
    size_t backward = rows * ((size_t)r->out + 2 * width);

    return sizeof(float) * (forward > backward ? forward : backward) + r->scratch;
}

void orri_residual_forward(const struct orr_operands *o, const struct orri_residual *r)
{
    const struct orri_dropout d = dropout_of(o, r);
    const float *const *p = o->param[0];
    int rows = o->batch * o->seq, c = r->width;
    size_t count = (size_t)rows * (size_t)c;
    float *norm = orri_scratch(orri_residual_scratch_bytes(r, o->batch, o->seq));
    struct orr_saved_size size = orri_residual_saved(r, o->batch, o->seq);
    float *floats = norm + count, *values = floats + size.floats;
    struct saved s = saved_at(r, (size_t)rows, o->saved ? o->saved : floats, o->saved ? o->saved_values : values);

    orri_layernorm(rows, c, o->x[0], p[ORRI_NORM_WEIGHT], p[ORRI_NORM_BIAS], r->eps, norm, s.mean, s.rstd);
    r->forward(o, norm, &s.inner, values + size.values);
    orri_bias_rows(rows, c, d.p > 0 ? NULL : o->x[0], p[ORRI_OUT_BIAS], o->y);
    product(o, r, s.inner.h, 1, o->y);
    if (d.p > 0) {
        orri_dropout_tile(o, &d, c, orri_positions(o), o->y);
        orri_add(count, o->x[0], o->y);
    }
}

void orri_residual_backward(const struct orr_operands *o, const struct orri_residual *r)
{
    const struct orri_dropout d = dropout_of(o, r);
    size_t rows = (size_t)o->batch * (size_t)o->seq, count = rows * (size_t)r->width;
    struct saved s = saved_at(r, rows, o->saved, o->saved_values);
    float *dnorm = orri_scratch(orri_residual_scratch_bytes(r, o->batch, o->seq));
    float *dh = dnorm + 2 * count;
    const float *dout = orri_dropout_gradient(o, &d, r->width, orri_positions(o), o->dy, dnorm + count);

    products_backward(o, r, dout, &s.inner, dnorm, dh, dh + rows * (size_t)r->out);
    orri_norm_input_gradient(o, r->width, o->dy, dnorm, s.mean, s.rstd, s.dgamma, s.dbeta);
}

void orri_residual_weights(const struct orr_operands *o, const struct orri_residual *r)
{
    const struct orri_dropout d = dropout_of(o, r);
    const float *const *p = o->param[0];
    int rows = o->batch * o->seq, c = r->width;
    size_t count = (size_t)rows * (size_t)c;
    struct saved s = saved_at(r, (size_t)rows, o->saved, o->saved_values);
    float *norm = orri_scratch(2 * count * sizeof(*norm));
    const float *dout = orri_dropout_gradient(o, &d, c, orri_positions(o), o->dy, norm + count);

    orri_layernorm_again(rows, c, o->x[0], p[ORRI_NORM_WEIGHT], p[ORRI_NORM_BIAS], s.mean, s.rstd, norm);
    products_weights(o, r, norm, dout, &s.inner);
    out_bias_weights(o, r, dout);
    orri_norm_weights(o, c, s.dgamma, s.dbeta);
}

/* ---- in shards ------------------------------------------------------------------------------------------- */

struct orr_saved_size orri_residual_shard_saved(const struct orri_residual *r, int batch, int seq)
{
    return inner_size(r, batch, seq);
}

/* A shard's F outside training keeps what it would save; its B the gradient of h; both beside two of [N,C], where there
 * are several chunks. A chunk keeps two of its size for its B. */
size_t orri_residual_shard_scratch_bytes(const struct orri_residual *r, int batch, int seq)
{
    size_t rows = (size_t)batch * (size_t)seq;
    size_t chunk = orri_norm_scratch_floats(r->width, (int)rows) - rows * (size_t)r->width;
    size_t shard = total(inner_size(r, batch, seq));

    return sizeof(float) * (2 * rows * (size_t)r->width + (chunk > shard ? chunk : shard)) + r->scratch;
}

void orri_residual_shard_forward(const struct orr_operands *o, const struct orri_residual *r)
{
    size_t rows = (size_t)o->batch * (size_t)o->seq, count = rows * (size_t)r->width;
    float *all = orri_scratch(orri_residual_shard_scratch_bytes(r, o->batch, o->seq));
    struct orr_saved_size size = inner_size(r, o->batch, o->seq);
    float *floats = all + 2 * count, *values = floats + size.floats;
    const float *norm = orri_gather(o, r->width, (const float *const *)o->branch, all);
    float *out = orri_scatter_begin(o, o->partial, all + count);
    struct orri_inner s = inner_at(r, rows, o->saved ? o->saved : floats, o->saved ? o->saved_values : values);

    r->forward(o, norm, &s, values + size.values);
    product(o, r, s.h, 0, out);
    orri_scatter_end(o, r->width, out, o->partial);
}

void orri_residual_chunk_join(const struct orr_operands *o, const struct orri_residual *r)
{
    const struct orri_dropout d = dropout_of(o, r);
    int rows = o->batch * (int)orri_positions(o).count, c = r->width;
    size_t count = (size_t)rows * (size_t)c;

    orri_sum_shards(o, count, o->partial, o->y);
    orri_bias_rows(rows, c, o->y, o->param[0][ORRI_OUT_BIAS], o->y);
    orri_dropout_tile(o, &d, c, orri_positions(o), o->y);
    orri_add(count, o->x[0], o->y);
}

/* The gradient of the second product, of all positions. */
static const float *all_dropout_gradient(const struct orr_operands *o, const struct orri_residual *r, float *room)
{
    const struct orri_dropout d = dropout_of(o, r);
    const float *dy = orri_gather(o, r->width, o->dys, room);

    return orri_dropout_gradient(o, &d, r->width, orri_all_positions(o), dy, room);
}

void orri_residual_shard_backward(const struct orr_operands *o, const struct orri_residual *r)
{
    size_t rows = (size_t)o->batch * (size_t)o->seq, count = rows * (size_t)r->width;
    float *all = orri_scratch(orri_residual_shard_scratch_bytes(r, o->batch, o->seq));
    float *dh = all + 2 * count;
    const float *dout = all_dropout_gradient(o, r, all);
    float *dnorm = orri_scatter_begin(o, o->dpartial, all + count);
    struct orri_inner s = inner_at(r, rows, o->saved, o->saved_values);

    products_backward(o, r, dout, &s, dnorm, dh, dh + rows * (size_t)r->out);
    orri_scatter_end(o, r->width, dnorm, o->dpartial);
}

void orri_residual_shard_weights(const struct orr_operands *o, const struct orri_residual *r)
{
    size_t rows = (size_t)o->batch * (size_t)o->seq, count = rows * (size_t)r->width;
    float *all = orri_scratch(2 * count * sizeof(*all));
    const float *dout = all_dropout_gradient(o, r, all);
    const float *norm = orri_gather(o, r->width, (const float *const *)o->branch, all + count);
    struct orri_inner s = inner_at(r, rows, o->saved, o->saved_values);

    products_weights(o, r, norm, dout, &s);
}

void orri_residual_chunk_backward(const struct orr_operands *o, const struct orri_residual *r)
{
    const struct orri_dropout d = dropout_of(o, r);
    int rows = o->batch * (int)orri_positions(o).count;
    size_t count = (size_t)rows * (size_t)r->width;
    float *dout = orri_scratch((count + orri_norm_scratch_floats(r->width, rows)) * sizeof(*dout));

    out_bias_weights(o, r, orri_dropout_gradient(o, &d, r->width, orri_positions(o), o->dy, dout));
    orri_norm_chunk_backward(o, r->width, o->dy, dout + count);
}
