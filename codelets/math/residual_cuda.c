/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/residual_cuda.h"

static size_t rows_of(const struct orr_operands *o)
{
    return (size_t)o->batch * (size_t)o->seq;
}

static struct orri_rooms rooms_of(const struct orr_operands *o)
{
    return (struct orri_rooms){o->cuda->scratch, 0};
}

/* Bytes of [rows,width]. */
static size_t bytes_of(enum orr_dtype dtype, size_t rows, int width)
{
    return rows * (size_t)width * orr_dtype_size(dtype);
}

static struct orri_cuda_inner inner_at(const struct orr_operands *o, const struct orri_residual *r, float *floats, void *values)
{
    return (struct orri_cuda_inner){floats, values, orri_at(o, values, (int64_t)rows_of(o) * r->in)};
}

static struct orri_dropout dropout_of(const struct orr_operands *o, const struct orri_residual *r)
{
    return orri_block_dropout(o, r->dropout, r->place);
}

struct orri_cuda_product orri_row_product(const struct orr_operands *o, int n, int k, const void *x, const float *w,
                                          bool transposed, void *y)
{
    return (struct orri_cuda_product){
        .trans_b = transposed,
        .m = (int)rows_of(o),
        .n = n,
        .k = k,
        .dtype = o->dtype,
        .a = x,
        .lda = k,
        .b = w,
        .ldb = transposed ? k : n,
        .c = y,
        .ldc = n,
        .c_dtype = o->dtype,
    };
}

/* ---- the products, of a whole block or a shard --------------------------------------------------------------- */

/* dw [m,n] += x^T dy, in fp32; x [N,m], dy [N,n]. */
static void weights_product(const struct orr_operands *o, int m, int n, const void *x, const void *dy, float *dw)
{
    const struct orri_cuda_product p = {
        .trans_a = true,
        .m = m,
        .n = n,
        .k = (int)rows_of(o),
        .dtype = o->dtype,
        .a = x,
        .lda = m,
        .b = dy,
        .ldb = n,
        .add = o->first_gradient ? NULL : dw,
        .c = dw,
        .ldc = n,
        .c_dtype = ORR_F32,
    };

    orri_cuda_gemm(o->cuda, &p);
}

/* The gradient of norm(x) from that of the second product. */
static void products_backward(const struct orr_operands *o, const struct orri_cuda_residual *r, const void *dout,
                              const struct orri_cuda_inner *s, void *dnorm, struct orri_rooms *rooms)
{
    void *dh = orri_room(rooms, bytes_of(o->dtype, rows_of(o), r->shape.out));
    struct orri_cuda_product p =
        orri_row_product(o, r->shape.width, r->shape.in, s->u, o->param[0][ORRI_IN_WEIGHT], true, dnorm);

    r->backward(o, dout, s, dh, orri_room(rooms, r->scratch));
    orri_cuda_gemm(o->cuda, &p);
}

static void bias_weights(const struct orr_operands *o, int rows, int width, const void *dy, float *db, struct orri_rooms *rooms)
{
    orri_cuda_bias_backward(o->cuda, o->dtype, rows, width, dy, width, o->first_gradient ? 0 : 1, db,
                            orri_room(rooms, orri_cuda_bias_backward_scratch(rows, width)));
}

static void products_weights(const struct orr_operands *o, const struct orri_residual *r, const void *norm, const void *dout,
                             const struct orri_cuda_inner *s, struct orri_rooms *rooms)
{
    float *const *grad = o->grad[0];

    weights_product(o, r->out, r->width, s->h, dout, grad[ORRI_OUT_WEIGHT]);
    weights_product(o, r->width, r->in, norm, s->u, grad[ORRI_IN_WEIGHT]);
    bias_weights(o, (int)rows_of(o), r->in, s->u, grad[ORRI_IN_BIAS], rooms);
}

/* ---- the whole block --------------------------------------------------------------------------------------------- */

/* As in residual.c: mean, rstd [N], dgamma, dbeta [C], what g has; u, h. */
struct saved {
    float *mean, *rstd, *dgamma, *dbeta;
    struct orri_cuda_inner inner;
};

static struct saved saved_at(const struct orr_operands *o, const struct orri_residual *r, float *floats, void *values)
{
    struct saved s;

    s.mean = floats;
    s.rstd = s.mean + rows_of(o);
    s.dgamma = s.rstd + rows_of(o);
    s.dbeta = s.dgamma + r->width;
    s.inner = inner_at(o, r, s.dbeta + r->width, values);
    return s;
}

/* The sum of what the passes take, each in the order of its rooms: forward outside training, backward, weights. */
size_t orri_cuda_residual_scratch_bytes(const struct orri_cuda_residual *r, enum orr_dtype dtype, int batch, int seq)
{
    const struct orri_residual *shape = &r->shape;
    struct orr_saved_size saved = orri_residual_saved(shape, batch, seq);
    size_t rows = (size_t)batch * (size_t)seq, value = bytes_of(dtype, rows, shape->width);
    struct orri_rooms forward = {0}, backward = {0}, weights = {0};
    int widest = shape->in > shape->width ? shape->in : shape->width;

    orri_room(&forward, value);
    orri_room(&forward, (size_t)saved.floats * sizeof(float));
    orri_room(&forward, (size_t)saved.values * orr_dtype_size(dtype));
    orri_room(&forward, r->scratch);
    orri_room(&backward, value);
    orri_room(&backward, value);
    orri_room(&backward, bytes_of(dtype, rows, shape->out));
    orri_room(&backward, r->scratch);
    orri_room(&backward, orri_cuda_norm_scratch(dtype, shape->width, (int)rows));
    orri_room(&weights, value);
    orri_room(&weights, value);
    orri_room(&weights, 2 * orri_cuda_bias_backward_scratch((int)rows, widest) + 256);
    size_t most = forward.used > backward.used ? forward.used : backward.used;
    return most > weights.used ? most : weights.used;
}

void orri_cuda_residual_forward(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    const struct orri_dropout d = dropout_of(o, shape);
    struct orr_saved_size size = orri_residual_saved(shape, o->batch, o->seq);
    struct orri_rooms rooms = rooms_of(o);
    int c = shape->width;
    void *norm = orri_room(&rooms, bytes_of(o->dtype, rows_of(o), c));
    float *floats = o->saved ? o->saved : orri_room(&rooms, (size_t)size.floats * sizeof(*floats));
    void *values = o->saved ? o->saved_values : orri_room(&rooms, (size_t)size.values * orr_dtype_size(o->dtype));
    struct saved s = saved_at(o, shape, floats, values);
    struct orri_cuda_product p = orri_row_product(o, c, shape->out, s.inner.h, o->param[0][ORRI_OUT_WEIGHT], false, o->y);

    orri_cuda_norm(o, c, shape->eps, norm, s.mean, s.rstd);
    r->forward(o, norm, &s.inner, orri_room(&rooms, r->scratch));
    p.bias = o->param[0][ORRI_OUT_BIAS];
    p.add = d.p > 0 ? NULL : o->x[0];
    orri_cuda_gemm(o->cuda, &p);
    if (d.p > 0)
        orri_cuda_dropout_tile(o, &d, c, orri_positions(o), o->y, o->x[0], o->y);
}

void orri_cuda_residual_backward(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    const struct orri_dropout d = dropout_of(o, shape);
    struct saved s = saved_at(o, shape, o->saved, o->saved_values);
    struct orri_rooms rooms = rooms_of(o);
    size_t value = bytes_of(o->dtype, rows_of(o), shape->width);
    void *dnorm = orri_room(&rooms, value);
    const void *dout =
        orri_cuda_dropout_gradient(o, &d, shape->width, orri_positions(o), o->dy, orri_room(&rooms, value));

    products_backward(o, r, dout, &s.inner, dnorm, &rooms);
    orri_cuda_norm_input_gradient(o, shape->width, o->dy, dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &rooms);
}

void orri_cuda_residual_weights(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    const struct orri_dropout d = dropout_of(o, shape);
    struct saved s = saved_at(o, shape, o->saved, o->saved_values);
    struct orri_rooms rooms = rooms_of(o);
    size_t value = bytes_of(o->dtype, rows_of(o), shape->width);
    void *norm = orri_room(&rooms, value);
    const void *dout =
        orri_cuda_dropout_gradient(o, &d, shape->width, orri_positions(o), o->dy, orri_room(&rooms, value));

    orri_cuda_norm_again(o, shape->width, s.mean, s.rstd, norm);
    products_weights(o, shape, norm, dout, &s.inner, &rooms);
    bias_weights(o, (int)rows_of(o), shape->width, dout, o->grad[0][ORRI_OUT_BIAS], &rooms);
    orri_cuda_norm_weights(o, shape->width, s.dgamma, s.dbeta);
}

/* ---- in shards ----------------------------------------------------------------------------------------------------- */

/* Of a shard's F outside training, B and W, and of a chunk's B. */
size_t orri_cuda_residual_shard_scratch_bytes(const struct orri_cuda_residual *r, enum orr_dtype dtype, int batch, int seq)
{
    const struct orri_residual *shape = &r->shape;
    struct orr_saved_size saved = orri_residual_shard_saved(shape, batch, seq);
    size_t rows = (size_t)batch * (size_t)seq, value = bytes_of(dtype, rows, shape->width);
    struct orri_rooms forward = {0}, chunk = {0};
    int widest = shape->in > shape->width ? shape->in : shape->width;

    orri_room(&forward, value);
    orri_room(&forward, value);
    orri_room(&forward, (size_t)saved.floats * sizeof(float));
    orri_room(&forward, (size_t)saved.values * orr_dtype_size(dtype));
    orri_room(&forward, bytes_of(dtype, rows, shape->out));
    orri_room(&forward, r->scratch);
    orri_room(&forward, orri_cuda_bias_backward_scratch((int)rows, widest));
    orri_room(&chunk, value);
    orri_room(&chunk, orri_cuda_bias_backward_scratch((int)rows, widest));
    orri_room(&chunk, orri_cuda_norm_scratch(dtype, shape->width, (int)rows));
    return forward.used > chunk.used ? forward.used : chunk.used;
}

void orri_cuda_residual_shard_forward(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    struct orr_saved_size size = orri_residual_shard_saved(shape, o->batch, o->seq);
    struct orri_rooms rooms = rooms_of(o);
    size_t element = orr_dtype_size(o->dtype), value = bytes_of(o->dtype, rows_of(o), shape->width);
    const void *norm =
        orri_cuda_gather(o, shape->width, element, (const float *const *)o->branch, orri_room(&rooms, value));
    void *out = orri_cuda_scatter_begin(o, o->partial, orri_room(&rooms, value));
    float *floats = o->saved ? o->saved : orri_room(&rooms, (size_t)size.floats * sizeof(*floats));
    void *values = o->saved ? o->saved_values : orri_room(&rooms, (size_t)size.values * element);
    struct orri_cuda_inner s = inner_at(o, shape, floats, values);
    struct orri_cuda_product p = orri_row_product(o, shape->width, shape->out, s.h, o->param[0][ORRI_OUT_WEIGHT], false, out);

    r->forward(o, norm, &s, orri_room(&rooms, r->scratch));
    orri_cuda_gemm(o->cuda, &p);
    orri_cuda_scatter_end(o, shape->width, element, out, o->partial);
}

void orri_cuda_residual_chunk_join(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    const struct orri_dropout d = dropout_of(o, shape);
    int rows = o->batch * (int)orri_positions(o).count, c = shape->width;

    orri_cuda_sum_shards(o, (size_t)rows * (size_t)c, o->partial, o->y);
    orri_cuda_bias_rows(o->cuda, o->dtype, rows, c, o->y, o->param[0][ORRI_OUT_BIAS], o->y);
    orri_cuda_dropout_tile(o, &d, c, orri_positions(o), o->y, o->x[0], o->y);
}

/* The gradient of the second product, of all positions. */
static const void *all_dropout_gradient(const struct orr_operands *o, const struct orri_residual *r, void *room)
{
    const struct orri_dropout d = dropout_of(o, r);
    const void *dy = orri_cuda_gather(o, r->width, orr_dtype_size(o->dtype), o->dys, room);

    return orri_cuda_dropout_gradient(o, &d, r->width, orri_all_positions(o), dy, room);
}

void orri_cuda_residual_shard_backward(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    struct orri_rooms rooms = rooms_of(o);
    size_t value = bytes_of(o->dtype, rows_of(o), shape->width);
    const void *dout = all_dropout_gradient(o, shape, orri_room(&rooms, value));
    void *dnorm = orri_cuda_scatter_begin(o, o->dpartial, orri_room(&rooms, value));
    struct orri_cuda_inner s = inner_at(o, shape, o->saved, o->saved_values);

    products_backward(o, r, dout, &s, dnorm, &rooms);
    orri_cuda_scatter_end(o, shape->width, orr_dtype_size(o->dtype), dnorm, o->dpartial);
}

void orri_cuda_residual_shard_weights(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    struct orri_rooms rooms = rooms_of(o);
    size_t value = bytes_of(o->dtype, rows_of(o), shape->width);
    const void *dout = all_dropout_gradient(o, shape, orri_room(&rooms, value));
    const void *norm = orri_cuda_gather(o, shape->width, orr_dtype_size(o->dtype), (const float *const *)o->branch,
                                        orri_room(&rooms, value));
    struct orri_cuda_inner s = inner_at(o, shape, o->saved, o->saved_values);

    products_weights(o, shape, norm, dout, &s, &rooms);
}

void orri_cuda_residual_chunk_backward(const struct orr_operands *o, const struct orri_cuda_residual *r)
{
    const struct orri_residual *shape = &r->shape;
    const struct orri_dropout d = dropout_of(o, shape);
    struct orri_rooms rooms = rooms_of(o);
    int rows = o->batch * (int)orri_positions(o).count;
    const void *dout = orri_cuda_dropout_gradient(o, &d, shape->width, orri_positions(o), o->dy,
                                                  orri_room(&rooms, bytes_of(o->dtype, (size_t)rows, shape->width)));

    bias_weights(o, rows, shape->width, dout, o->grad[0][ORRI_OUT_BIAS], &rooms);
    orri_cuda_norm_chunk_backward(o, shape->width, o->dy, &rooms);
}
