/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products on a device against double. */
#include "tests/check_main.h"
#include "tests/math/activation.h"
#include "tests/math/device.h"

#include "codelets/math/math_cuda.h"

/* One product, and what is to be checked of it. */
struct use {
    enum orr_dtype dtype, c_dtype;
    bool trans_a, trans_b, tf32;
    int m, n, k, pad_a, pad_b, pad_c;
    size_t shift;               /* of all arrays, in elements */
    enum { ADD_NOTHING, ADD_C, ADD_OTHER } add;
    bool bias;
    enum orri_epilogue epilogue;
    enum orr_activation activation;
};

/* Of one element before the epilogue, with the magnitude of what is summed up. */
static double sum_of(const struct use *u, const float *a, int lda, const float *b, int ldb, int i, int j, double *magnitude)
{
    double sum = 0;

    *magnitude = 0;
    for (int k = 0; k < u->k; k++) {
        double term = (double)a[u->trans_a ? k * lda + i : i * lda + k] * b[u->trans_b ? j * ldb + k : k * ldb + j];
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

static void check(const struct use *u)
{
    int lda = (u->trans_a ? u->m : u->k) + u->pad_a, ldb = (u->trans_b ? u->k : u->n) + u->pad_b, ldc = u->n + u->pad_c;
    size_t size_a = (size_t)(u->trans_a ? u->k : u->m) * lda, size_b = (size_t)(u->trans_b ? u->n : u->k) * ldb;
    size_t size_c = (size_t)u->m * ldc;
    float *a = random_floats(size_a, 1, 1), *b = random_floats(size_b, 1, 2), *c = random_floats(size_c, 1, 3);
    float *bias = random_floats(u->n, 1, 4), *other = random_floats(size_c, 1, 5), *aux = random_floats(size_c, 2, 6);
    double factors = u->tf32 ? 2 * 0x1p-11 : 0;     /* TF32 has ten bits behind the point */

    for (int i = 0; i < u->m && u->add != ADD_C; i++)
        for (int j = 0; j < u->n; j++)
            c[(size_t)i * ldc + j] = NAN;
    for (size_t k = 0; k < size_c && u->epilogue == ORRI_EPILOGUE_ACTIVATION; k++)
        aux[k] = k % (size_t)ldc < (size_t)u->n ? NAN : aux[k];
    struct array aa = put(u->dtype, size_a, a, u->shift), ab = put(u->dtype, size_b, b, u->shift);
    struct array ac = put(u->c_dtype, size_c, c, u->shift), abias = put(u->dtype, u->n, bias, u->shift);
    struct array aother = put(u->c_dtype, size_c, other, u->shift), aaux = put(u->dtype, size_c, aux, u->shift);
    struct orri_product p = {
        .trans_a = u->trans_a, .trans_b = u->trans_b, .m = u->m, .n = u->n, .k = u->k, .dtype = u->dtype, .a = aa.data,
        .b = ab.data, .lda = lda, .ldb = ldb, .bias = u->bias ? abias.data : NULL,
        .add = u->add == ADD_NOTHING ? NULL : u->add == ADD_C ? ac.data : aother.data, .c = ac.data, .ldc = ldc,
        .c_dtype = u->c_dtype, .epilogue = u->epilogue, .activation = u->activation,
        .aux = u->epilogue == ORRI_EPILOGUE_NONE ? NULL : aaux.data,
    };

    device.tf32 = u->tf32;
    orri_cuda_gemm(&device, &p);
    float *got = get(&ac), *got_aux = get(&aaux), *got_other = get(&aother);
    ck_assert_mem_eq(got_other, other, size_c * sizeof(float));
    for (int i = 0; i < u->m; i++) {
        for (int j = 0; j < ldc; j++) {
            size_t at = (size_t)i * ldc + j;
            double magnitude, want, bound;

            if (j >= u->n) {
                assert_that(got[at] == c[at] && got_aux[at] == aux[at]);
                continue;
            }
            want = sum_of(u, a, lda, b, ldb, i, j, &magnitude);
            bound = factors * magnitude;
            double before = u->add == ADD_C ? c[at] : u->add == ADD_OTHER ? other[at] : 0, shift = u->bias ? bias[j] : 0;
            want += before + shift;
            bound += SUM_BOUND(u->k + 2) * (magnitude + fabs(before) + fabs(shift)) + rounding(u->c_dtype, want);
            if (u->add != ADD_NOTHING && u->bias)
                bound += rounding(u->c_dtype, fabs(want) + fabs(shift));    /* made in two steps, rounded twice */
            if (u->epilogue == ORRI_EPILOGUE_ACTIVATION) {
                assert_close(got_aux[at], want, bound, "aux %d,%d", i, j);
                /* No slope is above 1.13; the argument is not necessarily rounded, and it is a function of fp32. */
                bound = 1.13 * bound + 8 * FLT_EPSILON * fabs(want) + rounding(u->dtype, activation(u->activation, want));
                want = activation(u->activation, want);
            } else if (u->epilogue == ORRI_EPILOGUE_ACTIVATION_BACKWARD) {
                double slope = activation_slope(u->activation, aux[at]);

                assert_that(got_aux[at] == aux[at]);
                bound = bound * fabs(slope) + 8 * FLT_EPSILON * fabs(want) + rounding(u->dtype, want * slope);
                want *= slope;
            }
            assert_close(got[at], want, bound, "%d x %d x %d, shift %zu, type %d, epilogue %d of %d, element %d,%d", u->m, u->n,
                         u->k, u->shift, u->dtype, u->epilogue, u->activation, i, j);
        }
    }
    /* Again, from what was remembered of it, with everything elsewhere. */
    struct array twice = put(u->c_dtype, size_c, c, u->shift);
    p.c = twice.data;
    p.add = u->add == ADD_C ? twice.data : p.add;
    orri_cuda_gemm(&device, &p);
    assert_same(&twice, &ac);
    drop(&aa);
    drop(&ab);
    drop(&ac);
    drop(&abias);
    drop(&aother);
    drop(&aaux);
    drop(&twice);
    free(a);
    free(b);
    free(c);
    free(bias);
    free(other);
    free(aux);
    free(got);
    free(got_aux);
    free(got_other);
}

static const int shapes[][3] = {{1, 1, 1}, {3, 31, 33}, {33, 3, 127}, {17, 7, 1000}, {16, 24, 8}, {64, 32, 768}};
enum { SHAPES = 6 };

START_TEST(products)
{
    for (int i = 0; i < SHAPES * 8 * 2; i++) {
        const int *shape = shapes[i / 16];
        struct use u = {.dtype = dtypes[_i % DTYPES], .c_dtype = _i / DTYPES ? ORR_F32 : dtypes[_i % DTYPES],
                        .trans_a = i & 1, .trans_b = i & 2, .tf32 = i / 16 % 2, .m = shape[0], .n = shape[1], .k = shape[2],
                        .pad_a = i % 3 * 4, .pad_b = i % 5, .pad_c = i % 7 * 2, .shift = i & 8 ? 1 : 0,
                        .add = i & 4 ? (i / 16 % 2 ? ADD_C : ADD_OTHER) : ADD_NOTHING};

        u.tf32 = u.tf32 && u.dtype == ORR_F32;
        check(&u);
    }
}
END_TEST

/* Fused and not: with row strides and addresses that the library takes, and others. */
START_TEST(epilogues)
{
    static const size_t shifts[] = {0, 1, 8};
    enum orr_dtype dtype = dtypes[_i / ACTIVATIONS];
    enum orr_activation kind = activations[_i % ACTIVATIONS];

    for (int i = 0; i < SHAPES * 3 * 3; i++) {
        const int *shape = shapes[i / 9];
        struct use u = {.dtype = dtype, .c_dtype = dtype, .trans_b = i % 2, .m = shape[0], .n = shape[1], .k = shape[2],
                        .pad_c = i % 4 == 3 ? 8 : 0, .shift = shifts[i % 3], .activation = kind};

        u.epilogue = (enum orri_epilogue)(i / 3 % 3);
        u.bias = u.epilogue == ORRI_EPILOGUE_NONE;
        check(&u);
        u.bias = !u.bias;
        if (u.epilogue == ORRI_EPILOGUE_ACTIVATION)
            check(&u);
        if (u.epilogue == ORRI_EPILOGUE_NONE) {
            u.bias = true;
            u.add = i % 2 ? ADD_C : ADD_OTHER;
            check(&u);
        }
    }
    /* Where the library has the slope in the product, with the columns that go with it. */
    struct use u = {.dtype = dtype, .c_dtype = dtype, .m = 40, .n = 64, .k = 32, .pad_c = 8,
                    .epilogue = ORRI_EPILOGUE_ACTIVATION_BACKWARD, .activation = kind};
    check(&u);
    u.bias = true;
    check(&u);
    u.epilogue = ORRI_EPILOGUE_ACTIVATION;
    check(&u);
}
END_TEST

/* More of them than the table begins with room for, each then asked again. */
START_TEST(many_shapes)
{
    for (int round = 0; round < 2; round++)
        for (int k = 1; k <= 100; k++) {
            struct use u = {.dtype = ORR_BF16, .c_dtype = ORR_F32, .m = 2, .n = 3, .k = k};
            check(&u);
        }
}
END_TEST

/* A NaN in a factor is seen in its row alone. */
START_TEST(not_a_number)
{
    enum { M = 5, N = 9, K = 40 };
    float *a = random_floats(M * K, 1, 1), *b = random_floats(K * N, 1, 2), *c = random_floats(M * N, 0, 0);

    a[2 * K + 7] = NAN;
    struct array aa = put(ORR_BF16, M * K, a, 0), ab = put(ORR_BF16, K * N, b, 0), ac = put(ORR_BF16, M * N, c, 0);
    struct orri_product p = {.m = M, .n = N, .k = K, .dtype = ORR_BF16, .a = aa.data, .b = ab.data, .lda = K, .ldb = N,
                                  .c = ac.data, .ldc = N, .c_dtype = ORR_BF16};
    orri_cuda_gemm(&device, &p);
    float *got = get(&ac);
    for (int i = 0; i < M * N; i++)
        assert_that(isnan(got[i]) == (i / N == 2));
    drop(&aa);
    drop(&ab);
    drop(&ac);
    free(a);
    free(b);
    free(c);
    free(got);
}
END_TEST

/* What the library refuses is a failure that names the product. */
START_TEST(refused)
{
    struct array a = put(ORR_F32, 64, (float[64]){0}, 0), c = put(ORR_F32, 64, (float[64]){0}, 0);
    struct orri_product p = {.m = 8, .n = 8, .k = 8, .dtype = ORR_F32, .a = a.data, .b = a.data, .lda = 8, .ldb = 7,
                                  .c = c.data, .ldc = 8, .c_dtype = ORR_F32};

    orri_cuda_gemm(&device, &p);
    ck_assert_int_ne(device.code, 0);
    ck_assert_msg(strncmp(device.what, "cublasLt", 8) == 0 && strstr(device.what, " for 8 x 8 x 8 of F32, 33554432 bytes"), "%s",
                  device.what);
    device.code = 0;
    drop(&a);
    drop(&c);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: products on a device");
    TCase *c = tcase_create("products");

    begin_device();
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, products, 0, 2 * DTYPES);
    tcase_add_loop_test(c, epilogues, 0, DTYPES * ACTIVATIONS);
    tcase_add_test(c, many_shapes);
    tcase_add_test(c, not_a_number);
    tcase_add_test(c, refused);
    suite_add_tcase(s, c);
    return s;
}
