/* SPDX-License-Identifier: Apache-2.0 */
/* What a product asks cuBLASLt for, which no device is needed to know. */
#include "tests/check_main.h"

#include "codelets/math/gemm_cuda.h"

/* Everything at multiples of 256, 8 x 8 x 8, bias and GELU. */
static struct orri_product product(void)
{
    return (struct orri_product){
        .m = 8, .n = 8, .k = 8, .dtype = ORR_BF16, .a = (void *)0x100, .b = (void *)0x200, .lda = 8, .ldb = 8,
        .bias = (void *)0x300, .c = (void *)0x1000, .ldc = 8, .c_dtype = ORR_BF16, .epilogue = ORRI_EPILOGUE_ACTIVATION,
        .aux = (void *)0x2000,
    };
}

START_TEST(alignments)
{
    static const struct {
        uintptr_t address;
        int alignment;
    } cases[] = {{0, 256}, {2, 2}, {6, 2}, {8, 8}, {24, 8}, {16, 16}, {0x7fffffe0, 32}, {128, 128}, {256, 256}, {0x3000, 256}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct orri_product p = product();
        const void *at = (const void *)cases[i].address;

        p.a = at;
        ck_assert_int_eq(orri_product_way(&p).a, cases[i].alignment);
        ck_assert_int_eq(orri_product_way(&p).b, 256);
        p = product();
        p.b = at;
        ck_assert_int_eq(orri_product_way(&p).b, cases[i].alignment);
        p = product();
        p.c = (void *)cases[i].address;
        ck_assert_int_eq(orri_product_way(&p).c, cases[i].alignment);
        p = product();
        p.add = at;
        ck_assert_int_eq(orri_product_way(&p).add, cases[i].alignment);
        p = product();
        p.bias = at;
        ck_assert_int_eq(orri_product_way(&p).bias, cases[i].alignment);
        p = product();
        p.aux = (void *)cases[i].address;
        ck_assert_int_eq(orri_product_way(&p).aux, cases[i].alignment);
        p.epilogue = ORRI_EPILOGUE_NONE;    /* what nobody reads does not matter */
        ck_assert_int_eq(orri_product_way(&p).aux, 256);
    }
}
END_TEST

START_TEST(fused_or_not)
{
    struct orri_product p = product();

    ck_assert(orri_product_way(&p).fused);
    p.ldc = 20;                             /* the row stride of aux is a multiple of 8 */
    ck_assert(!orri_product_way(&p).fused);
    p.epilogue = ORRI_EPILOGUE_NONE;        /* a bias alone has no aux */
    ck_assert(orri_product_way(&p).fused);
    p.bias = (void *)0x308;
    ck_assert(!orri_product_way(&p).fused);
    p.bias = NULL;                          /* nothing to fuse */
    ck_assert(!orri_product_way(&p).fused);

    p = product();
    p.aux = (void *)0x2008;
    ck_assert(!orri_product_way(&p).fused);
    p = product();
    p.bias = NULL;
    ck_assert(orri_product_way(&p).fused);
    p.epilogue = ORRI_EPILOGUE_ACTIVATION_BACKWARD;
    ck_assert(orri_product_way(&p).fused);
    p.bias = (void *)0x300;                 /* the library has no bias before the slope */
    ck_assert(!orri_product_way(&p).fused);
    p = product();
    p.a = (void *)0x102;                    /* for the library to decide */
    ck_assert(orri_product_way(&p).fused);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: ways of products");
    TCase *c = tcase_create("ways");

    tcase_add_test(c, alignments);
    tcase_add_test(c, fused_or_not);
    suite_add_tcase(s, c);
    return s;
}
