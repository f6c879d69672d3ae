/* SPDX-License-Identifier: Apache-2.0 */
/* Which way a call of attention goes on a device, which no device is needed to know. */
#include "tests/check_main.h"

#include "codelets/math/math_cuda.h"

static _Alignas(16) char x[64];

/* Two heads of 64, q, k and v side by side. */
static struct orri_attention attention(void)
{
    return (struct orri_attention){
        .batch = 1, .seq = 7, .heads = 2, .head_dim = 64, .ld = 3 * 128, .ld_out = 128, .scale = 0.125f, .total_heads = 2};
}

#define PATH(cudnn, dtype, q, k, v, o, d_o) (int)orri_cuda_attention_path(cudnn, dtype, &a, q, k, v, o, d_o)

/* What takes bf16 and fp16 alone, in rows of 16-byte groups. */
static void check_rows(bool cudnn, int path)
{
    struct orri_attention a = attention();

    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x, x, x, x, x), path);
    ck_assert_int_eq(PATH(cudnn, ORR_F16, x, x + 16, x + 32, x, NULL), path);
    ck_assert_int_eq(PATH(cudnn, ORR_F32, x, x, x, x, x), ORRI_ATTENTION_PLAIN);
    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x + 8, x, x, x, x), ORRI_ATTENTION_PLAIN);
    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x, x + 2, x, x, x), ORRI_ATTENTION_PLAIN);
    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x, x, x + 4, x, x), ORRI_ATTENTION_PLAIN);
    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x, x, x, x + 8, x), ORRI_ATTENTION_PLAIN);
    ck_assert_int_eq(PATH(cudnn, ORR_BF16, x, x, x, x, x + 8), ORRI_ATTENTION_PLAIN);
    a.head_dim = 128;
    ck_assert_int_eq(PATH(cudnn, ORR_F16, x, x, x, x, x), path);
    a.head_dim = 64;
    a.ld += 4;
    ck_assert_int_eq(PATH(cudnn, ORR_F16, x, x, x, x, x), ORRI_ATTENTION_PLAIN);
    a.ld += 4;
    ck_assert_int_eq(PATH(cudnn, ORR_F16, x, x, x, x, x), path);
    a.ld_out++;
    ck_assert_int_eq(PATH(cudnn, ORR_F16, x, x, x, x, x), ORRI_ATTENTION_PLAIN);
}

START_TEST(rows)
{
    check_rows(false, ORRI_ATTENTION_TENSOR);
    check_rows(true, ORRI_ATTENTION_CUDNN);
}
END_TEST

START_TEST(head_sizes)
{
    static const struct {
        int head_dim, own, cudnn;
    } cases[] = {
        {8, ORRI_ATTENTION_PLAIN, ORRI_ATTENTION_CUDNN},    {64, ORRI_ATTENTION_TENSOR, ORRI_ATTENTION_CUDNN},
        {80, ORRI_ATTENTION_PLAIN, ORRI_ATTENTION_CUDNN},   {84, ORRI_ATTENTION_PLAIN, ORRI_ATTENTION_PLAIN},
        {128, ORRI_ATTENTION_TENSOR, ORRI_ATTENTION_CUDNN}, {136, ORRI_ATTENTION_PLAIN, ORRI_ATTENTION_PLAIN},
        {256, ORRI_ATTENTION_PLAIN, ORRI_ATTENTION_PLAIN},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct orri_attention a = attention();

        a.head_dim = cases[i].head_dim;
        ck_assert_int_eq(PATH(false, ORR_BF16, x, x, x, x, x), cases[i].own);
        ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, x), cases[i].cudnn);
    }
}
END_TEST

/* Dropout is drawn from the CPU's stream; a backward pass of one position is nothing that the library does. */
START_TEST(not_for_cudnn)
{
    struct orri_attention a = attention();

    a.dropout.p = 0.1f;
    ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, NULL), ORRI_ATTENTION_TENSOR);
    ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, x), ORRI_ATTENTION_TENSOR);
    a.head_dim = 80;
    ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, x), ORRI_ATTENTION_PLAIN);
    a = attention();
    a.seq = 1;
    ck_assert_int_eq(PATH(true, ORR_F16, x, x, x, x, x), ORRI_ATTENTION_TENSOR);
    a.seq = 2;
    ck_assert_int_eq(PATH(true, ORR_F16, x, x, x, x, x), ORRI_ATTENTION_CUDNN);
}
END_TEST

/* cuDNN is asked for causal rows of heads with keys of their own alone; a window that is no shorter than the row is none. */
START_TEST(who_sees_whom)
{
    static const int32_t places[7] = {0, 1, 2, 0, 1, 2, 3};
    static const struct {
        int kv_heads;
        bool bidirectional;
        int window;
        const int32_t *places;
        int path;
    } cases[] = {
        {2, false, 0, NULL, ORRI_ATTENTION_CUDNN},  {1, false, 0, NULL, ORRI_ATTENTION_TENSOR},
        {0, true, 0, NULL, ORRI_ATTENTION_TENSOR},  {0, false, 7, NULL, ORRI_ATTENTION_CUDNN},
        {0, false, 6, NULL, ORRI_ATTENTION_TENSOR}, {0, false, 0, places, ORRI_ATTENTION_TENSOR},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct orri_attention a = attention();

        a.kv_heads = cases[i].kv_heads;
        a.bidirectional = cases[i].bidirectional;
        a.window = cases[i].window;
        a.places = cases[i].places;
        ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, x), cases[i].path);
        ck_assert_int_eq(PATH(false, ORR_BF16, x, x, x, x, x), ORRI_ATTENTION_TENSOR);
        a.head_dim = 80;
        int other = cases[i].path == ORRI_ATTENTION_CUDNN ? ORRI_ATTENTION_CUDNN : ORRI_ATTENTION_PLAIN;
        ck_assert_int_eq(PATH(true, ORR_BF16, x, x, x, x, x), other);
        ck_assert_int_eq(PATH(false, ORR_BF16, x, x, x, x, x), ORRI_ATTENTION_PLAIN);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: ways of attention");
    TCase *c = tcase_create("ways");

    tcase_add_test(c, rows);
    tcase_add_test(c, head_sizes);
    tcase_add_test(c, not_for_cudnn);
    tcase_add_test(c, who_sees_whom);
    suite_add_tcase(s, c);
    return s;
}
