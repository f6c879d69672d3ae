/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/cross/cross.h>

#include <math.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { NORM, Q, K, V, PROJ, VIEWS };            /* K and V follow each other, and are one matrix [2HD,C] */
enum { X, ENCODER };                            /* inputs */
enum { PROBABILITY_DROPOUT = 3, CROSS_DROPOUT = 4 };   /* places that the other blocks of a decoder's layer do not have */

static const struct orri_norm *norm_of(const struct orr_cross *a, struct orri_norm *norm)
{
    *norm = (struct orri_norm){ORR_RMSNORM, a->eps};
    return norm;
}

/* Columns of q. */
static int inner_of(const struct orr_cross *a)
{
    return a->heads * a->head_dim;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    static const struct orr_style style = {.norm = ORR_RMSNORM, .matrices = ORR_OUT_IN};
    const struct orr_cross *a = config;
    int c = a->width, q = inner_of(a), n;
    struct orr_view *view = spec->view[0];

    *spec = (struct orr_block_spec){.groups = 1, .views = {VIEWS}, .width = c, .input_width = c};
    n = orri_norm_specify(&style, c, view);
    orri_add_view(view, &n, "q.weight", orri_matrix_view(true, c, q, true, a->head_dim, a->query_std));
    orri_add_view(view, &n, "k.weight", orri_matrix_view(true, c, q, true, a->head_dim, a->std));
    orri_add_view(view, &n, "v.weight", orri_matrix_view(true, c, q, true, a->head_dim, a->std));
    orri_add_view(view, &n, "proj.weight", orri_matrix_view(true, q, c, false, a->head_dim, a->projection_std));
}

static struct orri_attention kernel(const struct orr_cross *a, int batch, int seq)
{
    int q = inner_of(a);

    return (struct orri_attention){
        .batch = batch,
        .seq = seq,
        .heads = a->heads,
        .head_dim = a->head_dim,
        .ld = 3 * q,
        .ld_out = q,
        .scale = a->scale > 0 ? a->scale : 1 / sqrtf((float)a->head_dim),
        .total_heads = a->heads,
        .bidirectional = true,
    };
}

static struct orri_attention kernel_of(const struct orr_operands *o)
{
    const struct orr_cross *a = o->config;
    struct orri_attention k = kernel(a, o->batch, o->seq);

    k.dropout = orri_block_dropout(o, a->attention_dropout, PROBABILITY_DROPOUT);
    k.first_sample = o->first_sample;
    k.places = o->places;
    k.source_places = o->source_places;
    return k;
}

static struct orri_dropout dropout_of(const struct orr_operands *o)
{
    return orri_block_dropout(o, ((const struct orr_cross *)o->config)->dropout, CROSS_DROPOUT);
}

/* ---- what it saves, and scratch ------------------------------------------------------------------------------------ */

/* Floats: mean, rstd [N], dgamma, dbeta [C], which B fills, lse [B,H,T]; values: q, k, v beside each other [N,3HD], which B replaces
 * by their gradients, and what the heads give [N,HD]. */
struct saved {
    float *mean, *rstd, *dgamma, *dbeta, *lse;
    void *q, *k, *v, *h;
};

static struct orr_saved_size saved_size(const void *config, int batch, int seq)
{
    const struct orr_cross *a = config;
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){2 * (rows + a->width) + rows * a->heads, 4 * rows * inner_of(a)};
}

static struct saved saved_at(const struct orr_operands *o, float *floats, void *values)
{
    const struct orr_cross *a = o->config;
    int rows = o->batch * o->seq;
    int64_t q = inner_of(a);

    return (struct saved){
        .mean = floats,
        .rstd = floats + rows,
        .dgamma = floats + 2 * rows,
        .dbeta = floats + 2 * rows + a->width,
        .lse = floats + 2 * (rows + a->width),
        .q = values,
        .k = orri_at(o, values, q),
        .v = orri_at(o, values, 2 * q),
        .h = orri_at(o, values, 3 * q * rows),
    };
}

static size_t value_bytes(const struct orr_operands *o, int width)
{
    return (size_t)o->batch * (size_t)o->seq * (size_t)width * orr_dtype_size(o->dtype);
}

/* Forward outside training, with a norm, what else would be saved, and the kernel's; backward with three values more. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_cross *a = config;
    const struct orri_attention k = kernel(a, shape->batch, shape->seq);
    struct orr_saved_size saved = saved_size(config, shape->batch, shape->seq);
    int rows = shape->batch * shape->seq;
    size_t element = orr_dtype_size(shape->dtype), value = (size_t)rows * (size_t)a->width * element;
    size_t forward = orri_cpu_attention_forward_scratch(&k, shape->dtype);
    size_t backward = orri_cpu_attention_backward_scratch(&k, shape->dtype);
    struct orri_rooms rooms = {0};

    orri_room(&rooms, value);
    orri_room(&rooms, value);
    orri_room(&rooms, (size_t)saved.floats * sizeof(float));
    orri_room(&rooms, (size_t)saved.values * element);
    orri_room(&rooms, forward > backward ? forward : backward);
    orri_room(&rooms, orri_norm_scratch(shape, a->width, rows));
    return rooms.used;
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_cross *a = config;
    double rows = (double)batch * seq, products = 8 * rows * a->width * inner_of(a), scores = 4 * rows * seq * inner_of(a);

    switch (pass) {
    case ORR_FORWARD: return products + scores;
    case ORR_BACKWARD: return products + 2.5 * scores;
    default: return products;
    }
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

/* y [N,n], rows ldy apart, = x [N,k], rows ldx apart, times the matrix that begins with a view: [k,n], or [n,k] where transposed. */
static struct orri_product row_product(const struct orr_operands *o, int n, int k, const void *x, int ldx, int view, bool transposed,
                                       void *y, int ldy)
{
    return (struct orri_product){
        .trans_b = transposed,
        .m = o->batch * o->seq,
        .n = n,
        .k = k,
        .dtype = o->dtype,
        .a = x,
        .lda = ldx,
        .b = o->param[0][view],
        .ldb = transposed ? k : n,
        .c = y,
        .ldc = ldy,
        .c_dtype = o->dtype,
    };
}

/* The gradient [m,n] of the matrix that begins with a view: [+]= dy^T x, of dy [N,m], rows ldy apart, and x [N,n]. */
static void matrix_weights(const struct orr_operands *o, int view, int m, int n, const void *dy, int ldy, const void *x)
{
    float *dw = o->grad[0][view];
    const struct orri_product p = {
        .trans_a = true,
        .m = m,
        .n = n,
        .k = o->batch * o->seq,
        .dtype = o->dtype,
        .a = dy,
        .lda = ldy,
        .b = x,
        .ldb = n,
        .add = o->first_gradient ? NULL : dw,
        .c = dw,
        .ldc = n,
        .c_dtype = ORR_F32,
    };

    orri_cpu_gemm(&p);
}

/* ---- passes ------------------------------------------------------------------------------------------------------------ */

static void forward(const struct orr_operands *o)
{
    const struct orr_cross *a = o->config;
    const struct orri_attention k = kernel_of(o);
    const struct orri_dropout d = dropout_of(o);
    struct orr_saved_size size = saved_size(a, o->batch, o->seq);
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orri_norm norm;
    int c = a->width, q = inner_of(a);
    void *normed = orri_room(&rooms, value_bytes(o, c));
    float *floats = o->saved ? o->saved : orri_room(&rooms, (size_t)size.floats * sizeof(*floats));
    void *values = o->saved ? o->saved_values : orri_room(&rooms, (size_t)size.values * orr_dtype_size(o->dtype));
    struct saved s = saved_at(o, floats, values);
    struct orri_product query = row_product(o, q, c, normed, c, Q, true, s.q, 3 * q);
    struct orri_product keys = row_product(o, 2 * q, c, o->x[ENCODER], c, K, true, s.k, 3 * q);
    struct orri_product out = row_product(o, c, q, s.h, q, PROJ, true, o->y, c);

    orri_norm(o, norm_of(a, &norm), c, normed, s.mean, s.rstd);
    orri_cpu_gemm(&query);
    orri_cpu_gemm(&keys);
    orri_cpu_attention_forward(o->dtype, &k, s.q, s.k, s.v, s.h, s.lse,
                               orri_room(&rooms, orri_cpu_attention_forward_scratch(&k, o->dtype)));
    out.add = d.p > 0 ? NULL : o->x[X];
    orri_cpu_gemm(&out);
    if (d.p > 0)
        orri_dropout_tile(o, &d, c, orri_positions(o), o->y, o->x[X], o->y);
}

/* dy through dropout. */
static const void *out_gradient(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_cross *a = o->config;
    const struct orri_dropout d = dropout_of(o);

    return orri_dropout_gradient(o, &d, a->width, orri_positions(o), o->dy, orri_room(rooms, value_bytes(o, a->width)));
}

static void backward(const struct orr_operands *o)
{
    const struct orr_cross *a = o->config;
    const struct orri_attention k = kernel_of(o);
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orri_norm norm;
    int c = a->width, q = inner_of(a);
    struct saved s = saved_at(o, o->saved, o->saved_values);
    const void *dout = out_gradient(o, &rooms);
    void *dnorm = orri_room(&rooms, value_bytes(o, c)), *dh = orri_room(&rooms, value_bytes(o, q));
    struct orri_product heads = row_product(o, q, c, dout, c, PROJ, false, dh, q);
    struct orri_product query = row_product(o, c, q, s.q, 3 * q, Q, false, dnorm, c);
    struct orri_product keys = row_product(o, c, 2 * q, s.k, 3 * q, K, false, o->dx[ENCODER], c);

    orri_cpu_gemm(&heads);
    orri_cpu_attention_backward(o->dtype, &k, s.q, s.k, s.v, s.h, dh, s.lse,
                                orri_room(&rooms, orri_cpu_attention_backward_scratch(&k, o->dtype)));
    orri_cpu_gemm(&query);
    keys.add = o->add_input_gradient[ENCODER] ? o->dx[ENCODER] : NULL;
    orri_cpu_gemm(&keys);
    orri_norm_input_gradient(o, norm_of(a, &norm), c, o->dy, dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &rooms);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_cross *a = o->config;
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);
    struct orri_norm norm;
    int c = a->width, q = inner_of(a);
    struct saved s = saved_at(o, o->saved, o->saved_values);
    const void *dout = out_gradient(o, &rooms);
    void *normed = orri_room(&rooms, value_bytes(o, c));

    orri_norm_again(o, norm_of(a, &norm), c, s.mean, s.rstd, normed);
    matrix_weights(o, Q, q, c, s.q, 3 * q, normed);
    matrix_weights(o, K, 2 * q, c, s.k, 3 * q, o->x[ENCODER]);
    matrix_weights(o, PROJ, c, q, dout, c, s.h);
    orri_norm_weights(o, &norm, c, s.dgamma, s.dbeta);
}

enum { PLACES = ORR_PLACES | ORR_SOURCE_PLACES };

static const struct orr_block_class cross_class = {
    .name = "cross",
    .config_size = sizeof(struct orr_cross),
    .specify = specify,
    .saved = saved_size,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights},
    .any_dtype = true,
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS | PLACES,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT | PLACES,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS},
};

int orr_cross(struct orr_model *model, int layer, const struct orr_cross *config, struct orr_block *encoder)
{
    struct orr_block *inputs[] = {orr_model_block(model, orr_model_block_count(model) - 1), encoder};

    if (config->width < 1 || config->heads < 1 || config->head_dim < 1)
        return orri_fail(ORR_EINVAL, "cross", "a width of %d and %d heads of %d are not all positive", config->width, config->heads,
                         config->head_dim);
    ORR_TRY(orri_check_dropout("cross", config->attention_dropout));
    ORR_TRY(orri_check_dropout("cross", config->dropout));
    return orr_block_append_inputs(model, &cross_class, layer, config, 2, inputs) ? ORR_OK : orr_error_code();
}
