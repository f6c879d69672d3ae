/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/residual.h"

#include "codelets/math/product_cpu.h"

static struct orri_inner inner_at(const struct orr_operands *o, const struct orri_residual *r, float *floats, void *values)
{
    return (struct orri_inner){floats, values, orri_at(o, values, (int64_t)orri_all_rows(o) * r->in)};
}

/* n = norm(x) through a dropout of its own, and its gradient back. */
static void drop_norm(const struct orr_operands *o, const struct orri_residual *r, void *norm)
{
    const struct orri_dropout d = orri_block_dropout(o, r->norm_dropout, r->norm_place);

    if (d.p > 0)
        orri_dropout_tile(o, &d, r->width, orri_positions(o), norm, NULL, norm);
}

static struct orri_dropout dropout_of(const struct orr_operands *o, const struct orri_residual *r)
{
    return orri_block_dropout(o, r->dropout, r->place);
}

/* ---- style ---------------------------------------------------------------------------------------------------------- */

struct orri_residual orri_residual_of(const struct orr_style *style, int parts, int width, float eps)
{
    bool biases = style->biases != ORR_NO_BIASES;
    struct orri_residual r = {
        .width = width,
        .norm = {(enum orr_norm)style->norm, eps},
        .of_norm = style->residual == ORR_OF_NORM,
        .out_in = style->matrices == ORR_OUT_IN,
    };

    r.in_weight = orri_norm_views(&r.norm);
    r.in_bias = biases ? r.in_weight + parts : 0;
    r.out_weight = r.in_weight + (biases ? 2 : 1) * parts;
    r.out_bias = style->biases == ORR_BIASES ? r.out_weight + 1 : 0;
    return r;
}

void orri_add_view(struct orr_view *view, int *count, const char *name, struct orr_view what)
{
    view[*count] = what;
    view[(*count)++].name = name;
}

int orri_norm_specify(const struct orr_style *style, int width, struct orr_view *view)
{
    struct orr_view gain = orri_bias_view(width, false, 1);
    int count = 0;

    if (style->norm == ORR_NO_NORM)
        return 0;
    gain.initial = ORR_INITIAL_ONE;
    orri_add_view(view, &count, "norm.weight", gain);
    if (style->norm == ORR_LAYERNORM)
        orri_add_view(view, &count, "norm.bias", orri_bias_view(width, false, 1));
    return count;
}

struct orr_view orri_matrix_view(bool out_in, int in, int out, bool columns, int64_t unit, float std)
{
    return (struct orr_view){
        .ndim = 2,
        .shape = {out_in ? out : in, out_in ? in : out},
        .initial = ORR_INITIAL_NORMAL,
        .std = std,
        .split = columns == out_in ? 0 : 1,
        .groups = 1,
        .unit = unit,
    };
}

struct orr_view orri_bias_view(int width, bool columns, int64_t unit)
{
    return (struct orr_view){.ndim = 1, .shape = {width, 0}, .split = columns ? 0 : -1, .groups = 1, .unit = unit};
}

/* ---- products ---------------------------------------------------------------------------------------------------------- */

/* A parameter, or its gradient, of group 0, where the block has it. */
static const float *parameter_of(const struct orr_operands *o, int view)
{
    return view ? o->param[0][view] : NULL;
}

/* [N,n] = [N,k] op(W), for the N rows of the operands; W is [k,n], or [n,k] where transposed. */
static struct orri_product row_product(const struct orr_operands *o, int n, int k, const void *x, const float *w, bool transposed,
                                       void *y)
{
    return (struct orri_product){
        .trans_b = transposed,
        .m = (int)orri_all_rows(o),
        .n = n,
        .k = k,
        .dtype = o->dtype,
        .a = x,
        .lda = k,
        .b = w,
        .ldb = transposed ? k : n,
        .b_version = o->version[0],
        .c = y,
        .ldc = n,
        .c_dtype = o->dtype,
    };
}

/* The products with Win and Wout, and with their transposes. */
static struct orri_product in_product(const struct orr_operands *o, const struct orri_residual *r, const void *norm, void *u)
{
    struct orri_product p = row_product(o, r->in, r->width, norm, o->param[0][r->in_weight], r->out_in, u);

    p.bias = parameter_of(o, r->in_bias);
    return p;
}

static struct orri_product out_product(const struct orr_operands *o, const struct orri_residual *r, const void *h, void *y)
{
    return row_product(o, r->width, r->out, h, o->param[0][r->out_weight], r->out_in, y);
}

static struct orri_product in_gradient(const struct orr_operands *o, const struct orri_residual *r, const void *du, void *dnorm)
{
    return row_product(o, r->width, r->in, du, o->param[0][r->in_weight], !r->out_in, dnorm);
}

static struct orri_product out_gradient(const struct orr_operands *o, const struct orri_residual *r, const void *dout, void *dh)
{
    return row_product(o, r->out, r->width, dout, o->param[0][r->out_weight], !r->out_in, dh);
}

/* ---- what it saves --------------------------------------------------------------------------------------------- */

static struct orr_saved_size inner_size(const struct orri_residual *r, int batch, int seq)
{
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){rows * r->rest, rows * ((int64_t)r->in + r->out)};
}

struct orr_saved_size orri_residual_saved(const struct orri_residual *r, int batch, int seq)
{
    struct orr_saved_size size = inner_size(r, batch, seq);

    size.floats += 2 * ((int64_t)batch * seq + r->width);
    return size;
}

struct orr_saved_size orri_residual_shard_saved(const struct orri_residual *r, int batch, int seq)
{
    return inner_size(r, batch, seq);
}

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

/* Each in the order of its rooms: forward outside training, backward, weights. */
static size_t whole_scratch(const struct orri_residual *r, const struct orr_shape *shape, size_t rows, size_t value)
{
    struct orr_saved_size saved = orri_residual_saved(r, shape->batch, shape->seq);
    struct orri_rooms forward = {0}, backward = {0}, weights = {0};

    orri_room(&forward, value);
    orri_room(&forward, (size_t)saved.floats * sizeof(float));
    orri_room(&forward, (size_t)saved.values * orr_dtype_size(shape->dtype));
    orri_room(&forward, r->scratch);
    orri_room(&backward, value);
    orri_room(&backward, value);
    orri_room(&backward, orri_row_bytes(shape->dtype, rows, r->out));
    orri_room(&backward, r->scratch);
    orri_room(&backward, orri_norm_scratch(shape, r->width, (int)rows));
    orri_room(&weights, value);
    orri_room(&weights, value);
    orri_room(&weights, ORRI_SCRATCH(shape->cuda, bias_backward, (int)rows, r->in));
    orri_room(&weights, ORRI_SCRATCH(shape->cuda, bias_backward, (int)rows, r->width));
    size_t most = forward.used > backward.used ? forward.used : backward.used;
    return most > weights.used ? most : weights.used;
}

/* A shard's F outside training, with the rooms of its B, and W; and a chunk's passes. */
static size_t shard_scratch(const struct orri_residual *r, const struct orr_shape *shape, size_t rows, size_t value)
{
    struct orr_saved_size saved = orri_residual_shard_saved(r, shape->batch, shape->seq);
    struct orri_rooms shard = {0}, chunk = {0};

    orri_room(&shard, value);
    orri_room(&shard, value);
    orri_room(&shard, (size_t)saved.floats * sizeof(float));
    orri_room(&shard, (size_t)saved.values * orr_dtype_size(shape->dtype));
    orri_room(&shard, r->scratch);
    orri_room(&shard, ORRI_SCRATCH(shape->cuda, bias_backward, (int)rows, r->in));
    orri_room(&chunk, value);
    orri_room(&chunk, ORRI_SCRATCH(shape->cuda, bias_backward, (int)rows, r->width));
    orri_room(&chunk, orri_norm_scratch(shape, r->width, (int)rows));
    return shard.used > chunk.used ? shard.used : chunk.used;
}

/* Of each matrix one for the product and one for the gradient of its input. */
size_t orri_residual_kept(const struct orri_residual *r, const struct orr_shape *shape)
{
    return orri_onednn_kept(shape->dtype, r->width, r->in) + orri_onednn_kept(shape->dtype, r->in, r->width) +
           orri_onednn_kept(shape->dtype, r->out, r->width) + orri_onednn_kept(shape->dtype, r->width, r->out);
}

/* A block of one shard has the passes of both. */
size_t orri_residual_scratch(const struct orri_residual *r, const struct orr_shape *shape)
{
    size_t rows = (size_t)shape->batch * (size_t)shape->seq, value = orri_row_bytes(shape->dtype, rows, r->width);
    size_t shard = shard_scratch(r, shape, rows, value), whole = shape->shards == 1 ? whole_scratch(r, shape, rows, value) : 0;

    return whole > shard ? whole : shard;
}

/* ---- the products, of a whole block or a shard --------------------------------------------------------------- */

/* u and h from norm(x) [N,C]. An activation is done with the product, which leaves both. */
static void inner_forward(const struct orr_operands *o, const struct orri_residual *r, const void *norm, const struct orri_inner *s,
                          struct orri_rooms *rooms)
{
    struct orri_product p = in_product(o, r, norm, r->forward ? s->u : s->h);
    void *scratch = orri_room(rooms, r->scratch);

    if (!r->forward) {
        p.epilogue = ORRI_EPILOGUE_ACTIVATION;
        p.activation = r->activation;
        p.aux = s->u;
    }
    ORRI_KERNEL(o, gemm, &p);
    if (r->forward)
        r->forward(o, s, scratch);
}

/* The gradient of norm(x) from that of the second product, and that of u in its place. The product reads u while it writes the gradient
 * of it, which therefore passes through dh. */
static void inner_backward(const struct orr_operands *o, const struct orri_residual *r, const void *dout, const struct orri_inner *s,
                           void *dnorm, struct orri_rooms *rooms)
{
    size_t bytes = orri_row_bytes(o->dtype, orri_all_rows(o), r->out);
    void *dh = orri_room(rooms, bytes), *scratch = orri_room(rooms, r->scratch);
    struct orri_product out = out_gradient(o, r, dout, dh), in = in_gradient(o, r, s->u, dnorm);

    if (!r->forward) {
        out.epilogue = ORRI_EPILOGUE_ACTIVATION_BACKWARD;
        out.activation = r->activation;
        out.aux = s->u;
    }
    ORRI_KERNEL(o, gemm, &out);
    if (r->forward)
        r->backward(o, s, dh, scratch);
    else
        ORRI_KERNEL(o, copy, bytes, dh, s->u);
    ORRI_KERNEL(o, gemm, &in);
}

/* dw += x^T dy, in fp32, of x [N,m] and dy [N,n]. */
static void weights_product(const struct orr_operands *o, int m, int n, const void *x, const void *dy, float *dw)
{
    const struct orri_product p = {
        .trans_a = true,
        .m = m,
        .n = n,
        .k = (int)orri_all_rows(o),
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

    ORRI_KERNEL(o, gemm, &p);
}

/* Of a matrix that takes x [N,in] to [N,out]. */
static void matrix_weights(const struct orr_operands *o, const struct orri_residual *r, int in, int out, const void *x, const void *dy,
                           float *dw)
{
    if (r->out_in)
        weights_product(o, out, in, dy, x, dw);
    else
        weights_product(o, in, out, x, dy, dw);
}

static void bias_weights(const struct orr_operands *o, int view, int rows, int width, const void *dy, struct orri_rooms *rooms)
{
    void *scratch = orri_room(rooms, ORRI_SCRATCH(o->cuda, bias_backward, rows, width));

    if (view)
        ORRI_KERNEL(o, bias_backward, o->dtype, rows, width, dy, width, o->first_gradient ? 0 : 1, o->grad[0][view], scratch);
}

static void inner_weights(const struct orr_operands *o, const struct orri_residual *r, const void *norm, const void *dout,
                          const struct orri_inner *s, struct orri_rooms *rooms)
{
    matrix_weights(o, r, r->out, r->width, s->h, dout, o->grad[0][r->out_weight]);
    matrix_weights(o, r, r->width, r->in, norm, s->u, o->grad[0][r->in_weight]);
    bias_weights(o, r->in_bias, (int)orri_all_rows(o), r->in, s->u, rooms);
}

/* ---- the whole block --------------------------------------------------------------------------------------------- */

/* What F leaves: mean, rstd [N], dgamma, dbeta [C], which B fills, what g has; u, h. */
struct saved {
    float *mean, *rstd, *dgamma, *dbeta;
    struct orri_inner inner;
};

static struct saved saved_at(const struct orr_operands *o, const struct orri_residual *r, float *floats, void *values)
{
    struct saved s;

    s.mean = floats;
    s.rstd = s.mean + orri_all_rows(o);
    s.dgamma = s.rstd + orri_all_rows(o);
    s.dbeta = s.dgamma + r->width;
    s.inner = inner_at(o, r, s.dbeta + r->width, values);
    return s;
}

void orri_residual_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    const struct orri_dropout d = dropout_of(o, r);
    struct orr_saved_size size = orri_residual_saved(r, o->batch, o->seq);
    int c = r->width;
    void *norm = orri_room(rooms, orri_row_bytes(o->dtype, orri_all_rows(o), c));
    float *floats = o->saved ? o->saved : orri_room(rooms, (size_t)size.floats * sizeof(*floats));
    void *values = o->saved ? o->saved_values : orri_room(rooms, (size_t)size.values * orr_dtype_size(o->dtype));
    struct saved s = saved_at(o, r, floats, values);
    struct orri_product p = out_product(o, r, s.inner.h, o->y);
    const void *residual = r->of_norm ? norm : o->x[0];

    orri_norm(o, &r->norm, c, norm, s.mean, s.rstd);
    drop_norm(o, r, norm);
    inner_forward(o, r, norm, &s.inner, rooms);
    p.bias = parameter_of(o, r->out_bias);
    p.add = d.p > 0 ? NULL : residual;
    ORRI_KERNEL(o, gemm, &p);
    if (d.p > 0)
        orri_dropout_tile(o, &d, c, orri_positions(o), o->y, residual, o->y);
}

void orri_residual_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    const struct orri_dropout d = dropout_of(o, r);
    struct saved s = saved_at(o, r, o->saved, o->saved_values);
    size_t value = orri_row_bytes(o->dtype, orri_all_rows(o), r->width);
    void *dnorm = orri_room(rooms, value);
    const void *dout = orri_dropout_gradient(o, &d, r->width, orri_positions(o), o->dy, orri_room(rooms, value));

    inner_backward(o, r, dout, &s.inner, dnorm, rooms);
    if (r->of_norm)
        ORRI_KERNEL(o, add, o->dtype, orri_all_rows(o) * (size_t)r->width, o->dy, dnorm);
    drop_norm(o, r, dnorm);
    orri_norm_input_gradient(o, &r->norm, r->width, r->of_norm ? NULL : o->dy, dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, rooms);
}

void orri_residual_weights(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    const struct orri_dropout d = dropout_of(o, r);
    struct saved s = saved_at(o, r, o->saved, o->saved_values);
    size_t value = orri_row_bytes(o->dtype, orri_all_rows(o), r->width);
    void *norm = orri_room(rooms, value);
    const void *dout = orri_dropout_gradient(o, &d, r->width, orri_positions(o), o->dy, orri_room(rooms, value));

    orri_norm_again(o, &r->norm, r->width, s.mean, s.rstd, norm);
    drop_norm(o, r, norm);
    inner_weights(o, r, norm, dout, &s.inner, rooms);
    bias_weights(o, r->out_bias, (int)orri_all_rows(o), r->width, dout, rooms);
    orri_norm_weights(o, &r->norm, r->width, s.dgamma, s.dbeta);
}

/* ---- in shards ----------------------------------------------------------------------------------------------------- */

void orri_residual_shard_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    struct orr_saved_size size = orri_residual_shard_saved(r, o->batch, o->seq);
    size_t element = orr_dtype_size(o->dtype), value = orri_row_bytes(o->dtype, orri_all_rows(o), r->width);
    const void *norm = orri_gather(o, r->width, element, (const float *const *)o->branch, orri_room(rooms, value));
    void *out = orri_scatter_begin(o, o->partial, orri_room(rooms, value));
    float *floats = o->saved ? o->saved : orri_room(rooms, (size_t)size.floats * sizeof(*floats));
    void *values = o->saved ? o->saved_values : orri_room(rooms, (size_t)size.values * element);
    struct orri_inner s = inner_at(o, r, floats, values);
    struct orri_product p = out_product(o, r, s.h, out);

    inner_forward(o, r, norm, &s, rooms);
    ORRI_KERNEL(o, gemm, &p);
    orri_scatter_end(o, r->width, element, out, o->partial);
}

void orri_residual_chunk_join(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    const struct orri_dropout d = dropout_of(o, r);
    int rows = o->batch * (int)orri_positions(o).count, c = r->width;

    (void)rooms;
    orri_sum_shards(o, (size_t)rows * (size_t)c, o->partial, o->y);
    if (r->out_bias)
        ORRI_KERNEL(o, bias_rows, o->dtype, rows, c, o->y, o->param[0][r->out_bias], o->y);
    orri_dropout_tile(o, &d, c, orri_positions(o), o->y, r->of_norm ? o->branch[0] : o->x[0], o->y);
}

/* The gradient of the second product, of all positions. */
static const void *all_dropout_gradient(const struct orr_operands *o, const struct orri_residual *r, void *room)
{
    const struct orri_dropout d = dropout_of(o, r);
    const void *dy = orri_gather(o, r->width, orr_dtype_size(o->dtype), o->dys, room);

    return orri_dropout_gradient(o, &d, r->width, orri_all_positions(o), dy, room);
}

void orri_residual_shard_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    size_t value = orri_row_bytes(o->dtype, orri_all_rows(o), r->width);
    const void *dout = all_dropout_gradient(o, r, orri_room(rooms, value));
    void *dnorm = orri_scatter_begin(o, o->dpartial, orri_room(rooms, value));
    struct orri_inner s = inner_at(o, r, o->saved, o->saved_values);

    inner_backward(o, r, dout, &s, dnorm, rooms);
    orri_scatter_end(o, r->width, orr_dtype_size(o->dtype), dnorm, o->dpartial);
}

void orri_residual_shard_weights(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    size_t value = orri_row_bytes(o->dtype, orri_all_rows(o), r->width);
    const void *dout = all_dropout_gradient(o, r, orri_room(rooms, value));
    const void *norm = orri_gather(o, r->width, orr_dtype_size(o->dtype), (const float *const *)o->branch,
                                   orri_room(rooms, value));
    struct orri_inner s = inner_at(o, r, o->saved, o->saved_values);

    inner_weights(o, r, norm, dout, &s, rooms);
}

void orri_residual_chunk_forward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    orri_norm_chunk_forward(o, &r->norm, r->width, rooms);
    drop_norm(o, r, o->branch[0]);
}

void orri_residual_chunk_backward(const struct orr_operands *o, const struct orri_residual *r, struct orri_rooms *rooms)
{
    const struct orri_dropout d_norm = orri_block_dropout(o, r->norm_dropout, r->norm_place);
    const struct orri_dropout d = dropout_of(o, r);
    int rows = o->batch * (int)orri_positions(o).count;
    const void *dout = orri_dropout_gradient(o, &d, r->width, orri_positions(o), o->dy,
                                             orri_room(rooms, orri_row_bytes(o->dtype, (size_t)rows, r->width)));

    bias_weights(o, r->out_bias, rows, r->width, dout, rooms);
    orri_norm_chunk_backward(o, &r->norm, &d_norm, r->width, r->of_norm ? o->dy : NULL, r->of_norm ? NULL : o->dy, rooms);
}
