/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of any dtype on a CPU: products against double, the others against those in fp32, from widened operands and rounded once. */
#include "tests/check_main.h"
#include "tests/math/activation.h"
#include "tests/math/reference.h"

#include <string.h>

#include "codelets/math/math_cpu.h"
#include "codelets/math/product_cpu.h"
#include "core/core.h"
#include "core/instructions.h"
#include "core/kept.h"

static const enum orr_dtype dtypes[] = {ORR_F32, ORR_BF16, ORR_F16};

/* Elements of a dtype, and what they are in fp32. */
struct array {
    enum orr_dtype dtype;
    size_t count;
    void *data;
    float *wide;
};

static struct array array_of(enum orr_dtype dtype, size_t count, float range, uint64_t seed)
{
    struct array a = {dtype, count, malloc(count * orr_dtype_size(dtype)), random_floats(count, range, seed)};

    orri_round(dtype, count, a.wide, a.data);
    orri_widen(dtype, count, a.data, a.wide);
    return a;
}

static void drop(struct array *a)
{
    free(a->data);
    free(a->wide);
}

/* Half a unit in the last place of a value. */
static double rounding(enum orr_dtype dtype, double x)
{
    return dtype == ORR_F32 ? 0 : ldexp(fabs(x), dtype == ORR_BF16 ? -8 : -11) + (dtype == ORR_F16 ? 0x1p-25 : 0);
}

/* The elements of `found` are those of `wanted`, rounded: bit for bit. */
static void expect_same(const char *what, const struct array *found, const float *wanted)
{
    size_t size = orr_dtype_size(found->dtype);
    char *rounded = malloc(found->count * size);

    orri_round(found->dtype, found->count, wanted, rounded);
    for (size_t k = 0; k < found->count; k++)
        if (memcmp((char *)found->data + k * size, rounded + k * size, size) != 0)
            ck_abort_msg("%s in %s: element %zu differs", what, orr_dtype_label(found->dtype), k);
    free(rounded);
}

/* ---- products ----------------------------------------------------------------------------------------------------------- */

struct use {
    int m, n, k, pad;
    bool bias, add, in_place, to_f32;
    enum orri_epilogue epilogue;
};

static void check_product(enum orr_dtype dtype, bool trans_a, bool trans_b, const struct use *u, enum orr_activation kind)
{
    int lda = (trans_a ? u->m : u->k) + u->pad, ldb = (trans_b ? u->k : u->n) + u->pad, ldc = u->n + u->pad;
    enum orr_dtype c_dtype = u->to_f32 ? ORR_F32 : dtype;
    struct array a = array_of(dtype, (size_t)(trans_a ? u->k : u->m) * (size_t)lda, 1, 1);
    struct array b = array_of(dtype, (size_t)(trans_b ? u->n : u->k) * (size_t)ldb, 1, 2);
    struct array c = array_of(c_dtype, (size_t)u->m * (size_t)ldc, 1, 3), other = array_of(c_dtype, c.count, 1, 4);
    struct array bias = array_of(dtype, (size_t)u->n, 1, 5), aux = array_of(dtype, c.count, 2, 6);
    const struct array *added = u->in_place ? &c : &other;
    struct orri_product p = {.trans_a = trans_a, .trans_b = trans_b, .m = u->m, .n = u->n, .k = u->k, .dtype = dtype,
                             .a = a.data, .lda = lda, .b = b.data, .ldb = ldb, .bias = u->bias ? bias.data : NULL,
                             .add = u->add ? added->data : NULL, .c = c.data, .ldc = ldc, .c_dtype = c_dtype,
                             .epilogue = u->epilogue, .activation = kind, .aux = u->epilogue ? aux.data : NULL};
    float *found = malloc(c.count * sizeof(*found)), *product = malloc(c.count * sizeof(*product));

    orri_cpu_gemm(&p);
    orri_widen(c_dtype, c.count, c.data, found);
    orri_widen(dtype, c.count, aux.data, product);
    for (int i = 0; i < u->m; i++)
        for (int j = 0; j < ldc; j++) {
            size_t at = (size_t)i * (size_t)ldc + (size_t)j;
            double sum = 0, magnitude = 1;
            if (j >= u->n) {
                assert_close(found[at], c.wide[at], 0, "behind row %d", i);
                continue;
            }
            for (int k = 0; k < u->k; k++) {
                double term = (double)a.wide[trans_a ? k * lda + i : i * lda + k] * b.wide[trans_b ? j * ldb + k : k * ldb + j];
                sum += term;
                magnitude += fabs(term);
            }
            sum += u->bias ? bias.wide[j] : 0;
            sum += u->add ? added->wide[at] : 0;
            double bound = SUM_BOUND(u->k + 2) * magnitude, wanted = sum;
            if (u->epilogue == ORRI_EPILOGUE_ACTIVATION) {
                assert_close(product[at], sum, bound + rounding(dtype, sum), "aux %d %d", i, j);
                wanted = activation(kind, product[at]);
                bound = 8 * FLT_EPSILON * (1 + fabs(wanted));
            } else if (u->epilogue == ORRI_EPILOGUE_ACTIVATION_BACKWARD) {
                wanted *= activation_slope(kind, aux.wide[at]);
                bound = 1.2 * (bound + rounding(dtype, sum)) + 8 * FLT_EPSILON * fabs(sum);
            }
            assert_close(found[at], wanted, bound + rounding(c_dtype, wanted), "%s %s%s %d x %d x %d, %d %d",
                         orr_dtype_label(dtype), trans_a ? "T" : "", trans_b ? "T" : "", u->m, u->n, u->k, i, j);
        }
    free(found);
    free(product);
    drop(&a);
    drop(&b);
    drop(&c);
    drop(&other);
    drop(&bias);
    drop(&aux);
}

/* Across the pieces of oneDNN's ways and the blocks of the one that widens; at most four rows go another way. */
static const struct use uses[] = {
    {1, 1, 1, 0, false, false, false, false, ORRI_EPILOGUE_NONE},
    {5, 7, 3, 2, true, false, false, false, ORRI_EPILOGUE_NONE},
    {17, 33, 65, 0, true, true, true, false, ORRI_EPILOGUE_NONE},
    {17, 33, 65, 3, false, true, false, false, ORRI_EPILOGUE_NONE},
    {64, 48, 96, 0, false, true, true, true, ORRI_EPILOGUE_NONE},
    {64, 48, 96, 0, false, false, false, true, ORRI_EPILOGUE_NONE},
    {9, 40, 31, 1, true, false, false, false, ORRI_EPILOGUE_ACTIVATION},
    {9, 40, 31, 0, false, false, false, false, ORRI_EPILOGUE_ACTIVATION_BACKWARD},
    {515, 14, 9, 0, true, true, true, false, ORRI_EPILOGUE_NONE},
    {1030, 70, 5, 1, true, true, false, false, ORRI_EPILOGUE_NONE},
    {3, 519, 20, 1, true, true, false, false, ORRI_EPILOGUE_ACTIVATION},
    {7, 1600, 20, 1, true, false, false, false, ORRI_EPILOGUE_ACTIVATION},
    {6, 5, 1030, 0, true, true, true, true, ORRI_EPILOGUE_NONE},
    {6, 6200, 9, 1, true, true, true, false, ORRI_EPILOGUE_NONE},
    {130, 1, 48400, 0, false, false, false, true, ORRI_EPILOGUE_NONE},
    {8, 900, 2100, 2, true, true, false, false, ORRI_EPILOGUE_NONE},
    {2, 4100, 3, 0, false, false, false, false, ORRI_EPILOGUE_ACTIVATION_BACKWARD},
    {4, 9000, 5, 3, true, true, true, false, ORRI_EPILOGUE_NONE},
    {1, 70, 1030, 0, false, true, true, true, ORRI_EPILOGUE_NONE},
    {4, 66, 129, 1, true, false, false, false, ORRI_EPILOGUE_ACTIVATION},
};

static void check_products(enum orr_dtype dtype)
{
    for (size_t i = 0; i < ORRI_COUNT(uses); i++)
        for (int t = 0; t < 4; t++) {
            if (uses[i].bias && uses[i].to_f32 && dtype != ORR_F32)
                continue;       /* not asked for */
            for (int k = 0; k < (uses[i].epilogue ? ACTIVATIONS : 1); k++)
                check_product(dtype, t & 1, t & 2, &uses[i], activations[k]);
        }
}

START_TEST(products)
{
    check_products(dtypes[_i]);
}
END_TEST

/* Those that the processor would not choose by itself. */
START_TEST(ways_of_bf16)
{
    enum orri_bf16_products chosen = orri_bf16_products();

    if (_i != (int)chosen && orri_bf16_products_choose((enum orri_bf16_products)_i))
        check_products(ORR_BF16);
    ck_assert(orri_bf16_products_choose(chosen));
}
END_TEST

/* The result of a product of weights of some version, which stays the caller's. */
static float *product_of(int version, const struct array *x, const struct array *w, int m, int n, int k)
{
    float *y = malloc((size_t)m * (size_t)n * sizeof(*y));
    const struct orri_product p = {.m = m, .n = n, .k = k, .dtype = ORR_BF16, .a = x->data, .lda = k, .b = w->data, .ldb = n,
                                   .b_version = (uint64_t)version, .c = y, .ldc = n, .c_dtype = ORR_F32};

    orri_cpu_gemm(&p);
    return y;
}

/* Where bf16 goes by instructions for it, a copy of weights is used until their version changes; in several pieces. */
START_TEST(kept_weights)
{
    enum { M = 9, N = 6200, K = 70, OLD = 41, NEW };
    enum orr_dtype dtype = ORR_BF16;
    enum orri_bf16_products chosen = orri_bf16_products();
    orri_bf16_products_choose((enum orri_bf16_products)_i);       /* or the processor's own */
    bool by_bf16 = orri_bf16_products() != ORRI_BF16_WIDENED;
    struct array x = array_of(dtype, M * K, 1, 1), w = array_of(dtype, K * N, 1, 2), other = array_of(dtype, K * N, 1, 3);
    float *fresh[2], *kept[3];

    fresh[0] = product_of(0, &x, &w, M, N, K);
    ck_assert_uint_eq(orri_kept_bytes(), 0);
    kept[0] = product_of(OLD, &x, &w, M, N, K);
    ck_assert_uint_eq(orri_kept_bytes() > 0, by_bf16);
    ck_assert_uint_le(orri_kept_bytes(), orri_onednn_kept(dtype, K, N));
    memcpy(w.data, other.data, K * N * orr_dtype_size(dtype));
    fresh[1] = product_of(0, &x, &w, M, N, K);
    kept[1] = product_of(OLD, &x, &w, M, N, K);
    kept[2] = product_of(NEW, &x, &w, M, N, K);
    ck_assert_mem_eq(kept[0], fresh[0], M * N * sizeof(float));
    ck_assert_mem_eq(kept[1], fresh[!by_bf16], M * N * sizeof(float));
    ck_assert_mem_eq(kept[2], fresh[1], M * N * sizeof(float));
    ck_assert_int_ne(memcmp(fresh[0], fresh[1], M * N * sizeof(float)), 0);
    orri_kept_forget(w.data, K * N * orr_dtype_size(dtype));
    ck_assert_uint_eq(orri_kept_bytes(), 0);
    for (int i = 0; i < 2; i++)
        free(fresh[i]);
    for (int i = 0; i < 3; i++)
        free(kept[i]);
    drop(&x);
    drop(&w);
    drop(&other);
    ck_assert(orri_bf16_products_choose(chosen));
}
END_TEST

/* ---- rows ----------------------------------------------------------------------------------------------------------------- */

/* Several strips, and a row longer than one. */
static const struct shape {
    int rows, width;
} shapes[] = {{3, 5}, {70, 129}, {1, 9000}, {5, 8200}};

START_TEST(norms)
{
    enum orr_dtype dtype = dtypes[_i / (int)ORRI_COUNT(shapes)];
    const struct shape *s = &shapes[_i % (int)ORRI_COUNT(shapes)];
    size_t n = (size_t)s->width, count = (size_t)s->rows * n;
    struct array x = array_of(dtype, count, 2, 1), y = array_of(dtype, count, 1, 2), gamma = array_of(dtype, n, 1, 3);
    struct array beta = array_of(dtype, n, 1, 4), dy = array_of(dtype, count, 1, 5), dx = array_of(dtype, count, 1, 6);
    float *mean = random_floats((size_t)s->rows, 1, 7), *rstd = random_floats((size_t)s->rows, 1, 8);
    float *wanted = malloc(count * sizeof(*wanted)), *m = malloc((size_t)s->rows * sizeof(*m)), *r = malloc((size_t)s->rows * sizeof(*r));
    float *gain[2], *bias[2];

    for (int i = 0; i < 2; i++) {
        gain[i] = random_floats(n, 1, 9);
        bias[i] = random_floats(n, 1, 10);
    }
    for (int style = 0; style < 4; style++) {
        bool rms = style & 1, plain = style & 2;
        float *means = rms ? NULL : mean;

        orri_cpu_layernorm(dtype, s->rows, s->width, x.data, gamma.data, plain ? NULL : beta.data, 1e-5f, y.data, means, rstd);
        orri_layernorm(s->rows, s->width, x.wide, gamma.wide, plain ? NULL : beta.wide, 1e-5f, wanted, rms ? NULL : m, r);
        expect_same("norm", &y, wanted);
        if (!rms)
            ck_assert_mem_eq(mean, m, (size_t)s->rows * sizeof(*m));
        ck_assert_mem_eq(rstd, r, (size_t)s->rows * sizeof(*r));
        memset(y.data, 0, count * orr_dtype_size(dtype));
        orri_cpu_layernorm_again(dtype, s->rows, s->width, x.data, gamma.data, plain ? NULL : beta.data, means, rstd, y.data);
        expect_same("norm again", &y, wanted);

        for (int residual = 0; residual < 2; residual++) {
            orri_cpu_layernorm_backward(dtype, s->rows, s->width, dy.data, x.data, gamma.data, means, rstd,
                                        residual ? dy.data : NULL, dx.data, gain[0], plain ? NULL : bias[0], NULL);
            memset(gain[1], 0, n * sizeof(float));
            memset(bias[1], 0, n * sizeof(float));
            orri_layernorm_backward(s->rows, s->width, dy.wide, x.wide, gamma.wide, means, rstd, residual ? dy.wide : NULL, wanted,
                                    gain[1], plain ? NULL : bias[1]);
            expect_same("dx", &dx, wanted);
            ck_assert_mem_eq(gain[0], gain[1], n * sizeof(float));
            if (!plain)
                ck_assert_mem_eq(bias[0], bias[1], n * sizeof(float));
        }
    }
    for (int i = 0; i < 2; i++) {
        free(gain[i]);
        free(bias[i]);
    }
    free(mean);
    free(rstd);
    free(wanted);
    free(m);
    free(r);
    drop(&x);
    drop(&y);
    drop(&gamma);
    drop(&beta);
    drop(&dy);
    drop(&dx);
}
END_TEST

START_TEST(rows_and_elements)
{
    enum orr_dtype dtype = dtypes[_i / (int)ORRI_COUNT(shapes)];
    const struct shape *s = &shapes[_i % (int)ORRI_COUNT(shapes)];
    size_t n = (size_t)s->width, count = (size_t)s->rows * n;
    struct array x = array_of(dtype, count, 2, 1), y = array_of(dtype, count, 1, 2), bias = array_of(dtype, n, 1, 3);
    struct array part[3] = {array_of(dtype, count, 1, 4), array_of(dtype, count, 1, 5), array_of(dtype, count, 1, 6)};
    const void *parts[] = {part[0].data, part[1].data, part[2].data};
    float *wanted = malloc(count * sizeof(*wanted)), *sums[2] = {random_floats(n, 1, 7), random_floats(n, 1, 7)};
    const struct orri_dropout d = {0.3f, {1, 2, 3}};

    orri_cpu_bias_rows(dtype, s->rows, s->width, x.data, bias.data, y.data);
    orri_bias_rows(s->rows, s->width, x.wide, bias.wide, wanted);
    expect_same("bias", &y, wanted);

    for (int beta = 0; beta < 2; beta++) {
        orri_cpu_bias_backward(dtype, s->rows, s->width, x.data, s->width, (float)beta, sums[0], NULL);
        orri_bias_backward(s->rows, s->width, x.wide, s->width, (float)beta, sums[1]);
        for (size_t j = 0; j < n; j++)
            assert_close(sums[0][j], sums[1][j], SUM_BOUND(s->rows) * 4 * s->rows, "bias gradient %zu", j);
    }

    orri_cpu_sum(dtype, count, 3, parts, y.data);
    for (size_t k = 0; k < count; k++)
        wanted[k] = part[0].wide[k] + part[1].wide[k] + part[2].wide[k];
    expect_same("sum", &y, wanted);

    orri_cpu_dropout(dtype, &d, 1, count, 11, 0, x.data, part[0].data, y.data);
    memcpy(wanted, x.wide, count * sizeof(*wanted));
    orri_dropout_apply(&d, 11, count, wanted);
    for (size_t k = 0; k < count; k++)
        wanted[k] += part[0].wide[k];
    expect_same("dropout", &y, wanted);

    orri_cpu_copy(count * orr_dtype_size(dtype), part[1].data, y.data);
    orri_cpu_add(dtype, count, x.data, y.data);
    for (size_t k = 0; k < count; k++)
        wanted[k] = part[1].wide[k] + x.wide[k];
    expect_same("added", &y, wanted);
    free(wanted);
    free(sums[0]);
    free(sums[1]);
    for (int i = 0; i < 3; i++)
        drop(&part[i]);
    drop(&x);
    drop(&y);
    drop(&bias);
}
END_TEST

/* Gates and up sides beside each other in a row. */
START_TEST(gates)
{
    enum orr_dtype dtype = dtypes[_i / (int)ORRI_COUNT(shapes)];
    const struct shape *s = &shapes[_i % (int)ORRI_COUNT(shapes)];
    size_t n = (size_t)s->width, count = (size_t)s->rows * n;
    float *wanted = malloc(count * sizeof(*wanted));

    for (int a = 0; a < ACTIVATIONS; a++) {
        struct array u = array_of(dtype, 2 * count, 4, 1), h = array_of(dtype, count, 1, 2), dh = array_of(dtype, count, 1, 3);

        orri_cpu_gated(dtype, activations[a], s->rows, s->width, u.data, h.data);
        for (size_t r = 0; r < (size_t)s->rows; r++)
            orri_gated(activations[a], n, u.wide + 2 * r * n, u.wide + (2 * r + 1) * n, wanted + r * n);
        expect_same("gated", &h, wanted);
        orri_cpu_gated_backward(dtype, activations[a], s->rows, s->width, dh.data, u.data);
        for (size_t r = 0; r < (size_t)s->rows; r++)
            orri_gated_backward(activations[a], n, dh.wide + r * n, u.wide + 2 * r * n, u.wide + (2 * r + 1) * n);
        expect_same("gated backward", &u, u.wide);
        drop(&u);
        drop(&h);
        drop(&dh);
    }
    free(wanted);
}
END_TEST

/* Heads at the beginning of rows, of positions that follow each other and of given ones. */
START_TEST(rotary_positions)
{
    enum { BATCH = 3, SEQ = 40, HEADS = 5, HALF = 12, LD = HEADS * 2 * HALF + 3, FIRST = 100 };
    enum orr_dtype dtype = dtypes[_i];
    struct orri_rotary rotary = {.half = HALF};
    int32_t places[BATCH * SEQ];
    float cosine[HALF], sine[HALF];

    for (int d = 0; d < HALF; d++)
        rotary.frequency[d] = ldexpf(1, -d);
    for (int r = 0; r < BATCH * SEQ; r++)
        places[r] = r * r % 131073;
    for (int use = 0; use < 4; use++) {
        bool given = use & 1, inverse = use & 2;
        struct array x = array_of(dtype, BATCH * SEQ * LD, 2, 1);

        orri_cpu_rotate(dtype, &rotary, BATCH, SEQ, HEADS, FIRST, given ? places : NULL, inverse, x.data, LD);
        for (int r = 0; r < BATCH * SEQ; r++) {
            orri_rotary_angles(&rotary, given ? places[r] : FIRST + r % SEQ, cosine, sine);
            orri_rotate(HEADS, HALF, cosine, sine, inverse, x.wide + r * LD);
        }
        expect_same("turned", &x, x.wide);
        drop(&x);
    }
}
END_TEST

START_TEST(losses)
{
    enum { ROWS = 7, WIDTH = 301, LD = 310, SCALE = 3 };
    enum orr_dtype dtype = dtypes[_i];
    struct array logits = array_of(dtype, ROWS * LD, 3, 1);
    int32_t target[ROWS] = {0, 300, 17, ORR_IGNORE, 5, 299, 17};
    float found[ROWS], scale = SCALE;
    double sum = 0;
    int64_t labels = 0;
    struct orr_result result = {5, 5};

    orri_cpu_softmax_cross_entropy(dtype, ROWS, WIDTH, logits.data, LD, target, orri_sharp, true, &scale, found);
    orri_softmax_cross_entropy(ROWS, WIDTH, logits.wide, LD, target, orri_sharp, SCALE, &sum, &labels);
    expect_same("gradient of logits", &logits, logits.wide);
    orri_cpu_add_losses(ROWS, found, target, true, &result);
    ck_assert_int_eq(result.labels, labels);
    assert_close(result.loss, sum, 1e-6 * sum, "loss");
    orri_cpu_add_losses(ROWS, found, target, false, &result);
    assert_close(result.loss, 2 * sum, 2e-6 * sum, "loss");
    drop(&logits);
}
END_TEST

/* Heads that lie beside each other, some of each row. */
START_TEST(attention)
{
    enum { BATCH = 2, SEQ = 70, HEADS = 3, DIM = 20, LD = 3 * HEADS * DIM + 1, LD_OUT = HEADS * DIM };
    enum orr_dtype dtype = dtypes[_i];
    const struct orri_attention a = {.batch = BATCH, .seq = SEQ, .heads = HEADS, .head_dim = DIM, .ld = LD, .ld_out = LD_OUT,
                                     .scale = 0.2f, .dropout = {0.2f, {1, 2, 3}}, .first_sample = 4, .total_heads = 5,
                                     .first_head = 1};
    struct array qkv = array_of(dtype, BATCH * SEQ * LD, 1, 1), o = array_of(dtype, BATCH * SEQ * LD_OUT, 1, 2);
    struct array d_o = array_of(dtype, BATCH * SEQ * LD_OUT, 1, 3);
    size_t size = orr_dtype_size(dtype), forward = orri_cpu_attention_forward_scratch(&a, dtype);
    size_t backward = orri_cpu_attention_backward_scratch(&a, dtype);
    float lse[2][BATCH * HEADS * SEQ];
    void *room = malloc(forward > backward ? forward : backward);
    char *q = qkv.data;

    orri_cpu_attention_forward(dtype, &a, q, q + LD_OUT * size, q + 2 * LD_OUT * size, o.data, lse[0], room);
    orri_cpu_attention_forward(ORR_F32, &a, qkv.wide, qkv.wide + LD_OUT, qkv.wide + 2 * LD_OUT, o.wide, lse[1], room);
    expect_same("output", &o, o.wide);
    ck_assert_mem_eq(lse[0], lse[1], sizeof(lse[0]));
    orri_widen(dtype, o.count, o.data, o.wide);
    orri_cpu_attention_backward(dtype, &a, q, q + LD_OUT * size, q + 2 * LD_OUT * size, o.data, d_o.data, lse[0], room);
    orri_cpu_attention_backward(ORR_F32, &a, qkv.wide, qkv.wide + LD_OUT, qkv.wide + 2 * LD_OUT, o.wide, d_o.wide, lse[1], room);
    expect_same("gradients", &qkv, qkv.wide);
    free(room);
    drop(&qkv);
    drop(&o);
    drop(&d_o);
}
END_TEST

/* One query per head over what is kept in pages, against double. */
START_TEST(next_position)
{
    enum { PAGE = 4, SEQUENCES = 3, PAGES = 4, SEQUENCE = 1 };
    static const struct {
        int heads, dim;
    } sizes[] = {{1, 1}, {3, 20}, {2, 64}};
    enum orr_dtype dtype = dtypes[_i];

    for (size_t i = 0; i < ORRI_COUNT(sizes); i++)
        for (int length = 1; length <= PAGE * PAGES; length++) {
            int heads = sizes[i].heads, dim = sizes[i].dim, width = heads * dim;
            const struct orri_attention a = {.heads = heads, .head_dim = dim, .scale = 0.7f};
            struct array page[PAGES], q = array_of(dtype, (size_t)width, 2, 99), o = array_of(dtype, (size_t)width, 1, 98);
            struct orri_kept kept = {length, PAGE, {NULL}};

            for (int n = 0; n < PAGES; n++) {
                page[n] = array_of(dtype, SEQUENCES * PAGE * 2 * (size_t)width, 2, (uint64_t)n);
                kept.pages[n] = (char *)page[n].data + SEQUENCE * PAGE * 2 * (size_t)width * orr_dtype_size(dtype);
            }
            orri_cpu_attention_next(dtype, &a, q.data, &kept, o.data);
            orri_widen(dtype, o.count, o.data, o.wide);
            for (int h = 0; h < heads; h++) {
                double p[PAGE * PAGES], total = 0, largest = 0;
                for (int t = 0; t < length; t++) {
                    const float *k = page[t / PAGE].wide + (SEQUENCE * PAGE + t % PAGE) * 2 * width + h * dim;
                    double score = 0, magnitude = 0;
                    for (int d = 0; d < dim; d++) {
                        score += (double)q.wide[h * dim + d] * k[d];
                        magnitude += fabs((double)q.wide[h * dim + d] * k[d]);
                    }
                    largest = fmax(largest, magnitude);
                    total += p[t] = exp((double)a.scale * score);
                }
                for (int d = 0; d < dim; d++) {
                    double wanted = 0, magnitude = 0, score_off = (double)a.scale * SUM_BOUND(dim) * largest;
                    for (int t = 0; t < length; t++) {
                        double term = p[t] / total *
                                      page[t / PAGE].wide[(SEQUENCE * PAGE + t % PAGE) * 2 * width + width + h * dim + d];
                        wanted += term;
                        magnitude += fabs(term);
                    }
                    /* What a score is off by, a probability is, of itself; so is their sum. */
                    assert_close(o.wide[h * dim + d], wanted, (2 * score_off + SUM_BOUND(length)) * magnitude + rounding(dtype, wanted),
                                 "%s, %d positions, head %d, %d", orr_dtype_label(dtype), length, h, d);
                }
            }
            for (int n = 0; n < PAGES; n++)
                drop(&page[n]);
            drop(&q);
            drop(&o);
        }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("kernels_cpu");
    TCase *c = tcase_create("kernels_cpu");
    int all = (int)(ORRI_COUNT(dtypes) * ORRI_COUNT(shapes));

    tcase_add_loop_test(c, products, 0, (int)ORRI_COUNT(dtypes));
    tcase_add_loop_test(c, ways_of_bf16, ORRI_BF16_WIDENED, ORRI_BF16_BY_AMX + 1);
    tcase_add_loop_test(c, kept_weights, ORRI_BF16_WIDENED, ORRI_BF16_BY_AMX + 1);
    tcase_add_loop_test(c, norms, 0, all);
    tcase_add_loop_test(c, rows_and_elements, 0, all);
    tcase_add_loop_test(c, gates, 0, all);
    tcase_add_loop_test(c, rotary_positions, 0, (int)ORRI_COUNT(dtypes));
    tcase_add_loop_test(c, losses, 0, (int)ORRI_COUNT(dtypes));
    tcase_add_loop_test(c, attention, 0, (int)ORRI_COUNT(dtypes));
    tcase_add_loop_test(c, next_position, 0, (int)ORRI_COUNT(dtypes));
    suite_add_tcase(s, c);
    return s;
}
