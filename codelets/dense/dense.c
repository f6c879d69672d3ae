/* SPDX-License-Identifier: Apache-2.0 */
#include <codelets/dense/dense.h>

#include "codelets/math/product_cpu.h"
#include "codelets/math/residual.h"
#include "core/core.h"

enum { DENSE_DROPOUT = 4 };     /* place */

static const struct orr_dense *dense_of(const struct orr_operands *o)
{
    return o->config;
}

static struct orri_norm norm_of(const struct orr_dense *d)
{
    return (struct orri_norm){(enum orr_norm)d->norm, d->eps};
}

/* The views of W and b. */
static int weight_view(const struct orr_dense *d)
{
    const struct orri_norm norm = norm_of(d);

    return orri_norm_views(&norm);
}

static int bias_view(const struct orr_dense *d)
{
    return weight_view(d) + 1;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_dense *d = config;
    const struct orr_style style = {.norm = d->norm};
    int n;

    *spec = (struct orr_block_spec){.groups = 1, .width = d->out, .input_width = d->width};
    n = orri_norm_specify(&style, d->width, spec->view[0]);
    orri_add_view(spec->view[0], &n, "weight", orri_matrix_view(true, d->width, d->out, true, 1, d->std));
    orri_add_view(spec->view[0], &n, "bias", orri_bias_view(d->out, true, 1));
    spec->views[0] = n;
}

/* The outputs that shard t has. */
static struct orr_part outputs_of(const struct orr_dense *d, int shards, int t)
{
    return orr_split(d->out, 1, shards, t);
}

/* ---- what it saves: mean, rstd [N], dgamma, dbeta [C]; u [N,out] ------------------------------------------------ */

struct saved {
    float *mean, *rstd, *dgamma, *dbeta;
};

static struct saved saved_at(const struct orr_operands *o, float *floats)
{
    struct saved s;

    s.mean = floats;
    s.rstd = s.mean + orri_all_rows(o);
    s.dgamma = s.rstd + orri_all_rows(o);
    s.dbeta = s.dgamma + dense_of(o)->width;
    return s;
}

static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    const struct orr_dense *d = config;
    int64_t rows = (int64_t)batch * seq;

    return (struct orr_saved_size){2 * (rows + d->width), rows * d->out};
}

static struct orr_saved_size shard_saved(const void *config, int batch, int seq, int shards, int t)
{
    return (struct orr_saved_size){0, (int64_t)batch * seq * outputs_of(config, shards, t).count};
}

static struct orr_saved_size chunk_saved(const void *config, int batch, int positions)
{
    (void)config;
    return (struct orr_saved_size){orri_norm_saved_floats(batch, positions), 0};
}

/* ---- scratch -------------------------------------------------------------------------------------------------------- */

struct work {
    void *norm, *dnorm;         /* [N,C]   */
    void *u, *dy;               /* [N,out] */
    float *floats;              /* where nothing is saved */
    void *bias;                 /* for its gradient       */
    struct orri_rooms rest;     /* for the norm           */
};

static struct work work_at(struct orri_rooms rooms, const struct orr_dense *d, const struct orr_shape *shape)
{
    struct work w = {.rest = rooms};
    size_t rows = (size_t)shape->batch * (size_t)shape->seq;

    w.norm = orri_room(&w.rest, orri_row_bytes(shape->dtype, rows, d->width));
    w.dnorm = orri_room(&w.rest, orri_row_bytes(shape->dtype, rows, d->width));
    w.u = orri_room(&w.rest, orri_row_bytes(shape->dtype, rows, d->out));
    w.dy = orri_room(&w.rest, orri_row_bytes(shape->dtype, rows, d->out));
    w.floats = orri_room(&w.rest, 2 * (rows + (size_t)d->width) * sizeof(float));
    w.bias = orri_room(&w.rest, ORRI_SCRATCH(shape->cuda, bias_backward, (int)rows, d->out));
    return w;
}

static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_dense *d = config;

    return work_at((struct orri_rooms){0}, d, shape).rest.used + orri_norm_scratch(shape, d->width, shape->batch * shape->seq);
}

static size_t kept_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_dense *d = config;
    int out = (int)outputs_of(d, shape->shards, 0).count;

    return orri_onednn_kept(shape->dtype, d->width, out) + orri_onednn_kept(shape->dtype, out, d->width);
}

static struct work work_of(const struct orr_operands *o)
{
    const struct orr_shape shape = {o->dtype, o->batch, o->seq, o->shards, o->cuda != NULL};

    return work_at(orri_rooms_of(o, scratch_bytes), dense_of(o), &shape);
}

/* ---- the products of `out` outputs ------------------------------------------------------------------------------------ */

/* u = n W^T + b, y = act(u) */
static void product(const struct orr_operands *o, int out, const void *norm, void *u, void *y)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_product p = {.trans_b = true, .m = (int)orri_all_rows(o), .n = out, .k = d->width, .dtype = o->dtype, .a = norm,
                                   .lda = d->width, .b = o->param[0][weight_view(d)], .ldb = d->width, .b_version = o->version[0],
                                   .bias = o->param[0][bias_view(d)], .c = y, .ldc = out, .c_dtype = o->dtype,
                                   .epilogue = ORRI_EPILOGUE_ACTIVATION, .activation = (enum orr_activation)d->activation, .aux = u};

    ORRI_KERNEL(o, gemm, &p);
}

/* u becomes its gradient, and dn = du W. */
static void product_backward(const struct orr_operands *o, int out, const void *dy, void *u, void *dnorm)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_product p = {.m = (int)orri_all_rows(o), .n = d->width, .k = out, .dtype = o->dtype, .a = u, .lda = out,
                                   .b = o->param[0][weight_view(d)], .ldb = d->width, .b_version = o->version[0], .c = dnorm,
                                   .ldc = d->width, .c_dtype = o->dtype};

    ORRI_KERNEL(o, activate_backward, o->dtype, (enum orr_activation)d->activation, orri_all_rows(o) * (size_t)out, dy, u, u);
    ORRI_KERNEL(o, gemm, &p);
}

/* dW += du^T n, db += the sum of du over rows. */
static void product_weights(const struct orr_operands *o, int out, const void *norm, const void *du, void *bias_room)
{
    const struct orr_dense *d = dense_of(o);
    float *dw = o->grad[0][weight_view(d)];
    const struct orri_product p = {.trans_a = true, .m = out, .n = d->width, .k = (int)orri_all_rows(o), .dtype = o->dtype, .a = du,
                                   .lda = out, .b = norm, .ldb = d->width, .add = o->first_gradient ? NULL : dw, .c = dw,
                                   .ldc = d->width, .c_dtype = ORR_F32};

    ORRI_KERNEL(o, gemm, &p);
    ORRI_KERNEL(o, bias_backward, o->dtype, (int)orri_all_rows(o), out, du, out, o->first_gradient ? 0 : 1, o->grad[0][bias_view(d)],
                bias_room);
}

static struct orri_dropout dropout_of(const struct orr_operands *o)
{
    return orri_block_dropout(o, dense_of(o)->dropout, DENSE_DROPOUT);
}

/* ---- the whole block ------------------------------------------------------------------------------------------------------ */

static void forward(const struct orr_operands *o)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_norm norm = norm_of(d);
    const struct orri_dropout drop = dropout_of(o);
    struct work w = work_of(o);
    struct saved s = saved_at(o, o->saved ? o->saved : w.floats);

    orri_norm(o, &norm, d->width, w.norm, s.mean, s.rstd);
    product(o, d->out, w.norm, o->saved ? o->saved_values : w.u, o->y);
    if (drop.p > 0)
        orri_dropout_tile(o, &drop, d->out, orri_positions(o), o->y, NULL, o->y);
}

static void backward(const struct orr_operands *o)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_norm norm = norm_of(d);
    const struct orri_dropout drop = dropout_of(o);
    struct work w = work_of(o);
    struct saved s = saved_at(o, o->saved);

    product_backward(o, d->out, orri_dropout_gradient(o, &drop, d->out, orri_positions(o), o->dy, w.dy), o->saved_values, w.dnorm);
    orri_norm_input_gradient(o, &norm, d->width, NULL, w.dnorm, s.mean, s.rstd, s.dgamma, s.dbeta, &w.rest);
}

static void weights(const struct orr_operands *o)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_norm norm = norm_of(d);
    struct work w = work_of(o);
    struct saved s = saved_at(o, o->saved);

    orri_norm_again(o, &norm, d->width, s.mean, s.rstd, w.norm);
    product_weights(o, d->out, w.norm, o->saved_values, w.bias);
    orri_norm_weights(o, &norm, d->width, s.dgamma, s.dbeta);
}

/* ---- in shards, which have rows of W: each fills its columns of y, the others are 0 --------------------------------------- */

static int most_shards(const void *config)
{
    return ((const struct orr_dense *)config)->out;
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "outputs",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
};

static void chunk_forward(const struct orr_operands *o)
{
    const struct orri_norm norm = norm_of(dense_of(o));
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);

    orri_norm_chunk_forward(o, &norm, dense_of(o)->width, &rooms);
}

static const void *all_norm(const struct orr_operands *o, const struct work *w)
{
    return orri_gather(o, dense_of(o)->width, orr_dtype_size(o->dtype), (const float *const *)o->branch, w->norm);
}

static void shard_forward(const struct orr_operands *o)
{
    const struct orr_dense *d = dense_of(o);
    struct work w = work_of(o);
    const struct orr_part outputs = outputs_of(d, o->shards, o->shard);
    size_t size = orr_dtype_size(o->dtype), row = (size_t)d->out * size, own = (size_t)outputs.count * size;
    void *u = o->saved ? o->saved_values : w.u, *y = orri_scatter_begin(o, o->partial, w.dnorm);

    product(o, (int)outputs.count, all_norm(o, &w), u, w.dy);
    ORRI_KERNEL(o, zero, orri_all_rows(o) * row, y);
    ORRI_KERNEL(o, copy_rows, orri_all_rows(o), own, w.dy, own, (char *)y + (size_t)outputs.first * size, row);
    orri_scatter_end(o, d->out, size, y, o->partial);
}

static void chunk_join(const struct orr_operands *o)
{
    const struct orri_dropout drop = dropout_of(o);
    struct orr_part at = orri_positions(o);

    orri_sum_shards(o, (size_t)o->batch * (size_t)at.count * (size_t)dense_of(o)->out, o->partial, o->y);
    if (drop.p > 0)
        orri_dropout_tile(o, &drop, dense_of(o)->out, at, o->y, NULL, o->y);
}

static void shard_backward(const struct orr_operands *o)
{
    const struct orr_dense *d = dense_of(o);
    const struct orri_dropout drop = dropout_of(o);
    struct work w = work_of(o);
    const struct orr_part outputs = outputs_of(d, o->shards, o->shard);
    size_t size = orr_dtype_size(o->dtype), row = (size_t)d->out * size, own = (size_t)outputs.count * size;
    const void *dy = orri_gather(o, d->out, size, o->dys, w.dy);
    void *dnorm = orri_scatter_begin(o, o->dpartial, w.dnorm);

    dy = orri_dropout_gradient(o, &drop, d->out, orri_all_positions(o), dy, w.dy);
    ORRI_KERNEL(o, copy_rows, orri_all_rows(o), own, (const char *)dy + (size_t)outputs.first * size, row, w.u, own);
    product_backward(o, (int)outputs.count, w.u, o->saved_values, dnorm);
    orri_scatter_end(o, d->width, size, dnorm, o->dpartial);
}

static void shard_weights(const struct orr_operands *o)
{
    struct work w = work_of(o);

    product_weights(o, (int)outputs_of(dense_of(o), o->shards, o->shard).count, all_norm(o, &w), o->saved_values, w.bias);
}

static void chunk_backward(const struct orr_operands *o)
{
    const struct orri_norm norm = norm_of(dense_of(o));
    struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes);

    orri_norm_chunk_backward(o, &norm, NULL, dense_of(o)->width, NULL, NULL, &rooms);
}

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_dense *d = config;

    (void)pass;
    return 2.0 * batch * seq * d->width * d->out;
}

#define DENSE_PASSES \
    { \
        [ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights, [ORR_CHUNK_FORWARD] = chunk_forward, \
        [ORR_SHARD_FORWARD] = shard_forward, [ORR_CHUNK_JOIN] = chunk_join, [ORR_SHARD_BACKWARD] = shard_backward, \
        [ORR_SHARD_WEIGHTS] = shard_weights, [ORR_CHUNK_BACKWARD] = chunk_backward \
    }

static const struct orr_block_class dense_class = {
    .name = "dense",
    .config_size = sizeof(struct orr_dense),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .kept_bytes = kept_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = DENSE_PASSES,
    .any_dtype = true,
    .cuda = ORRI_CUDA(DENSE_PASSES),
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_CHUNK_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_BRANCH,
                 [ORR_SHARD_FORWARD] = ORR_BRANCH | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL,
                 [ORR_CHUNK_JOIN] = ORR_PARTIAL | ORR_OUTPUT,
                 [ORR_SHARD_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT,
                 [ORR_SHARD_WEIGHTS] = ORR_BRANCH | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_CHUNK_BACKWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT | ORR_INPUT_GRADIENT |
                                        ORR_GRADIENTS},
};

int orr_dense(struct orr_model *model, int layer, const struct orr_dense *config)
{
    if (config->width < 1 || config->out < 1)
        return orri_fail(ORR_EINVAL, "dense", "widths of %d and %d are not both positive", config->width, config->out);
    ORR_TRY(orri_check_dropout("dense", config->dropout));
    return orr_block_append(model, &dense_class, layer, config) ? ORR_OK : orr_error_code();
}
