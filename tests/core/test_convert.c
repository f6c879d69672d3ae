/* SPDX-License-Identifier: Apache-2.0 */
/* Conversion between fp32 and the two narrow types, against what their bits mean. */
#include "tests/check_main.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/core.h"

enum { PATTERNS = 1 << 16, MOST = 70, GUARD = 0xa5 };

/* Bits of exponent and mantissa. */
static const struct format {
    enum orr_dtype dtype;
    int exponent, mantissa;
} formats[] = {{ORR_BF16, 8, 7}, {ORR_F16, 5, 10}};

static uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* What a pattern stands for, by the definition of the format. */
static double meaning(const struct format *f, unsigned pattern)
{
    int bias = (1 << (f->exponent - 1)) - 1, most = (1 << f->exponent) - 1;
    int e = (int)(pattern >> f->mantissa) & most;
    double m = pattern & ((1u << f->mantissa) - 1), sign = pattern >> 15 ? -1 : 1;

    if (e == most)
        return m == 0 ? sign * INFINITY : NAN;
    return sign * (e == 0 ? ldexp(m, 1 - bias - f->mantissa) : ldexp(m + (1 << f->mantissa), e - bias - f->mantissa));
}

/* The first pattern of an infinity: those below it are the finite numbers from 0 on, in their order. */
static unsigned infinity_of(const struct format *f)
{
    return ((1u << f->exponent) - 1) << f->mantissa;
}

static float widened(const struct format *f, unsigned pattern)
{
    uint16_t narrow = (uint16_t)pattern;
    float wide;

    orri_widen(f->dtype, 1, &narrow, &wide);
    return wide;
}

static unsigned rounded(const struct format *f, float x)
{
    uint16_t narrow;

    orri_round(f->dtype, 1, &x, &narrow);
    return narrow;
}

static bool is_nan(const struct format *f, unsigned pattern)
{
    return (pattern & 0x7fff) > infinity_of(f);
}

/* Every pattern, alone and among all: what it means; and back without a change. */
START_TEST(every_pattern)
{
    static uint16_t narrow[PATTERNS], again[PATTERNS];
    static float wide[PATTERNS];
    const struct format *f = &formats[_i];

    for (unsigned p = 0; p < PATTERNS; p++)
        narrow[p] = (uint16_t)p;
    orri_widen(f->dtype, PATTERNS, narrow, wide);
    orri_round(f->dtype, PATTERNS, wide, again);
    for (unsigned p = 0; p < PATTERNS; p++) {
        double expected = meaning(f, p);
        if (isnan(expected)) {
            ck_assert_msg(isnan(wide[p]) && isnan(widened(f, p)), "%04x is %g", p, wide[p]);
            ck_assert_msg(is_nan(f, again[p]) && again[p] >> 15 == p >> 15, "%04x becomes %04x", p, again[p]);
            continue;
        }
        ck_assert_msg(bits_of(wide[p]) == bits_of((float)expected), "%04x is %g, not %g", p, wide[p], expected);
        ck_assert_msg(bits_of(widened(f, p)) == bits_of(wide[p]), "%04x alone is %g", p, widened(f, p));
        ck_assert_msg(again[p] == p && rounded(f, wide[p]) == p, "%04x becomes %04x", p, again[p]);
    }
}
END_TEST

static void expect(const struct format *f, float x, unsigned pattern)
{
    ck_assert_msg(rounded(f, x) == pattern, "%a becomes %04x, not %04x", x, rounded(f, x), pattern);
    ck_assert_msg(rounded(f, -x) == (pattern | 0x8000), "%a becomes %04x, not %04x", -x, rounded(f, -x), pattern | 0x8000);
}

/* Half-way between neighbours it is the even one, on either side the nearer. Subnormals and the step to infinity are among
 * them: half-way to what would be the next number after the largest. */
START_TEST(to_nearest_even)
{
    const struct format *f = &formats[_i];

    for (unsigned p = 0; p < infinity_of(f); p++) {
        double low = meaning(f, p), high = p + 1 < infinity_of(f) ? meaning(f, p + 1) : 2 * low - meaning(f, p - 1);
        float middle = (float)(low + (high - low) / 2);
        ck_assert_msg((double)middle == low + (high - low) / 2, "there is no fp32 half-way from %04x", p);
        expect(f, middle, p % 2 == 0 ? p : p + 1);
        expect(f, nextafterf(middle, 0), p);
        expect(f, nextafterf(middle, INFINITY), p + 1);
    }
}
END_TEST

START_TEST(far_numbers)
{
    const struct format *f = &formats[_i];
    unsigned infinity = infinity_of(f);

    expect(f, INFINITY, infinity);
    expect(f, 0x1.fffffep127f, infinity);
    expect(f, 0, 0);
    expect(f, 0x1p-149f, 0);
    if (f->dtype == ORR_F16) {
        expect(f, 65504, 0x7bff);
        expect(f, 65519.996f, 0x7bff);
        expect(f, 65520, infinity);
        expect(f, 0x1p-24f, 1);
        expect(f, 0x1p-25f, 0);
        expect(f, 0x1p-126f, 0);
        expect(f, 0x1p-14f, 0x0400);
        expect(f, 0x1.ff8p-15f, 0x03ff);
    } else {
        expect(f, 0x1.fep127f, 0x7f7f);
        expect(f, 0x1p-133f, 1);
        expect(f, 0x1p-134f, 0);
        expect(f, 0x1p-126f, 0x0080);
    }
}
END_TEST

/* Also those whose bits are all in the part that is cut off, or would carry over. */
START_TEST(not_a_number)
{
    const struct format *f = &formats[_i];

    for (int shift = 0; shift < 23; shift++) {
        const uint32_t payloads[] = {1u << shift, 0x7fffffu >> shift, 0x7fffffu & ~(0x7fffffu >> (shift + 1))};
        for (size_t i = 0; i < ORRI_COUNT(payloads); i++) {
            for (uint32_t sign = 0; sign < 2; sign++) {
                uint32_t bits = sign << 31 | 0x7f800000u | payloads[i];
                unsigned found = rounded(f, float_of(bits));
                ck_assert_msg(is_nan(f, found), "%08x becomes %04x", bits, found);
            }
        }
    }
}
END_TEST

/* The nearest of all numbers, by their meaning, for any fp32. */
START_TEST(any_number)
{
    const struct format *f = &formats[_i];
    uint32_t state = 1;

    for (int n = 0; n < 300000; n++) {
        state = state * 1664525u + 1013904223u;
        float x = fabsf(float_of(state ^ state >> 15));
        unsigned p = rounded(f, x);
        if (isnan(x) || p == infinity_of(f))
            continue;
        double error = fabs(meaning(f, p) - x);
        ck_assert_msg(p == 0 || error <= fabs(meaning(f, p - 1) - x), "%a becomes %04x", x, p);
        ck_assert_msg(p + 1 == infinity_of(f) || error <= fabs(meaning(f, p + 1) - x), "%a becomes %04x", x, p);
    }
}
END_TEST

/* Any number of elements at any address of the narrow ones, and nothing beside them. */
START_TEST(places)
{
    const struct format *f = &formats[_i];
    unsigned char narrow[2 * MOST + 16];
    float wide[MOST + 2], back[MOST + 2];

    for (size_t count = 0; count <= MOST; count++) {
        for (size_t offset = 0; offset < 9; offset++) {
            for (size_t k = 0; k < count; k++) {
                uint16_t pattern = (uint16_t)(0x3000 + 37 * k);
                memcpy(narrow + offset + 2 * k, &pattern, sizeof(pattern));
            }
            wide[count] = wide[count + 1] = 42;
            orri_widen(f->dtype, count, narrow + offset, wide);
            ck_assert(wide[count] == 42 && wide[count + 1] == 42);
            for (size_t k = 0; k < count; k++)
                ck_assert(wide[k] == (float)meaning(f, (unsigned)(0x3000 + 37 * k)));

            memset(narrow, GUARD, sizeof(narrow));
            orri_round(f->dtype, count, wide, narrow + offset);
            for (size_t i = 0; i < sizeof(narrow); i++)
                ck_assert_msg(narrow[i] == GUARD || (i >= offset && i < offset + 2 * count), "byte %zu of %zu at %zu", i, count,
                              offset);
            orri_widen(f->dtype, count, narrow + offset, back);
            ck_assert_int_eq(memcmp(back, wide, count * sizeof(*wide)), 0);
        }
    }
}
END_TEST

START_TEST(wide_ones_are_copied)
{
    const float x[] = {1, -0.0f, INFINITY, 0x1p-149f, 3.1415927f};
    float y[5], z[5];

    orri_widen(ORR_F32, 5, x, y);
    orri_round(ORR_F32, 5, y, z);
    ck_assert_mem_eq(y, x, sizeof(x));
    ck_assert_mem_eq(z, x, sizeof(x));
    orri_widen(ORR_F32, 0, NULL, NULL);
    orri_round(ORR_F32, 0, NULL, NULL);
}
END_TEST

/* Between two neighbours, a quarter of the way up: every fourth goes up, by the word of the element wherever the call begins; what
 * bf16 has stays as it is. */
START_TEST(at_random)
{
    enum { COUNT = 100000, PART = 333 };
    static float x[COUNT];
    static uint16_t whole[COUNT], parts[COUNT];
    const struct orr_rng rng = {1, 2, 3};
    const float exact[] = {0, -0.0f, 1.5f, -0x1p-140f, INFINITY, -INFINITY, NAN};
    uint16_t kept[ORRI_COUNT(exact)], nearest[ORRI_COUNT(exact)];
    int up = 0;

    for (int i = 0; i < COUNT; i++)
        x[i] = i % 2 ? -0x1.005p-3f : 0x1.005p-3f;      /* neighbours are 0x1p-10 apart */
    orri_round_at_random(&rng, 0, COUNT, x, whole);
    for (int i = 0; i < COUNT; i += PART)
        orri_round_at_random(&rng, (uint64_t)i, i + PART < COUNT ? PART : (size_t)(COUNT - i), x + i, parts + i);
    ck_assert_mem_eq(parts, whole, sizeof(whole));
    for (int i = 0; i < COUNT; i++) {
        unsigned size = whole[i] & 0x7fffu, low = bits_of(0x1p-3f) >> 16;
        ck_assert(size == low || size == low + 1);
        ck_assert_int_eq(whole[i] >> 15, i % 2);
        up += size != low;
    }
    double p = (0x1.005p-3 - 0x1p-3) / 0x1p-10, deviation = sqrt(COUNT * p * (1 - p));
    ck_assert_double_le(fabs(up - COUNT * p), 5 * deviation);

    orri_round_at_random(&rng, 7, ORRI_COUNT(exact), exact, kept);
    orri_round(ORR_BF16, ORRI_COUNT(exact), exact, nearest);
    ck_assert_mem_eq(kept, nearest, sizeof(kept));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("convert");
    TCase *c = tcase_create("convert");

    tcase_add_loop_test(c, every_pattern, 0, 2);
    tcase_add_loop_test(c, to_nearest_even, 0, 2);
    tcase_add_loop_test(c, far_numbers, 0, 2);
    tcase_add_loop_test(c, not_a_number, 0, 2);
    tcase_add_loop_test(c, any_number, 0, 2);
    tcase_add_loop_test(c, places, 0, 2);
    tcase_add_test(c, wide_ones_are_copied);
    tcase_add_test(c, at_random);
    suite_add_tcase(s, c);
    return s;
}
