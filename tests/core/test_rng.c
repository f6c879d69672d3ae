/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/check_main.h"

#include <math.h>
#include <orrery/rng.h>
#include <string.h>

static const struct orr_rng rng = { .seed = 0x0123456789abcdefu, .stream = 7, .step = 42 };

/* The file kat_vectors of Random123, lines "philox4x32 10". */
START_TEST(known_answers)
{
    static const uint32_t vectors[][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
          0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
          0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };

    for (int i = 0; i < 3; i++) {
        uint32_t out[4];

        orr_philox(vectors[i], vectors[i] + 4, out);
        ck_assert_mem_eq(out, vectors[i] + 6, sizeof(out));
    }
}
END_TEST

static uint32_t word(uint64_t k)
{
    uint32_t counter[4] = { (uint32_t)(k / 4), (uint32_t)(k / 4 >> 32), rng.stream, rng.step };
    uint32_t key[2] = { (uint32_t)rng.seed, (uint32_t)(rng.seed >> 32) };
    uint32_t out[4];

    orr_philox(counter, key, out);
    return out[k % 4];
}

START_TEST(words_of_any_range)
{
    /* The last start crosses the carry from the low to the high word of the block number. */
    static const uint64_t starts[] = { 0, 1, 2, 3, 5, 1022, ((uint64_t)4 << 32) - 41 };

    for (int s = 0; s < 7; s++)
        for (size_t count = 0; count < 150; count++) {
            uint32_t out[151];

            out[count] = 0xdeadbeef;
            orr_rng_words(&rng, starts[s], count, out);
            for (size_t k = 0; k < count; k++)
                ck_assert_uint_eq(out[k], word(starts[s] + k));
            ck_assert_uint_eq(out[count], 0xdeadbeef);
        }
}
END_TEST

START_TEST(uniform)
{
    float out[3000];

    orr_rng_uniform(&rng, 13, 3000, out);
    for (int k = 0; k < 3000; k++) {
        ck_assert(out[k] >= 0 && out[k] < 1);
        ck_assert(out[k] == (float)(word(13 + (uint64_t)k) >> 8) / 16777216.0f);
    }
}
END_TEST

START_TEST(normal_is_box_muller)
{
    enum { COUNT = 5000 };
    static float whole[COUNT], part[COUNT];

    orr_rng_normal(&rng, 0, COUNT, 0.5f, 2.0f, whole);
    for (uint64_t k = 0; k < COUNT; k++) {
        double radius = sqrt(-2 * log((word(k & ~1ul) + 0.5) / 4294967296.0));
        double angle = 2 * M_PI * word(k | 1) / 4294967296.0;
        double want = 0.5 + 2 * radius * (k % 2 ? sin(angle) : cos(angle));

        ck_assert_double_eq_tol(whole[k], want, 1e-7 * (1 + fabs(want)));
    }
    for (uint64_t first = 0; first < 1100; first += 137)
        for (size_t count = 0; first + count <= COUNT; count += 611) {
            orr_rng_normal(&rng, first, count, 0.5f, 2.0f, part);
            ck_assert_mem_eq(part, whole + first, count * sizeof(float));
        }
}
END_TEST

START_TEST(normal_has_its_moments)
{
    enum { COUNT = 200000 };
    static float x[COUNT];
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;

    orr_rng_normal(&rng, 0, COUNT, 0, 1, x);
    for (int k = 0; k < COUNT; k++) {
        double v = x[k];

        m1 += v / COUNT;
        m2 += v * v / COUNT;
        m3 += v * v * v / COUNT;
        m4 += v * v * v * v / COUNT;
    }
    /* Five standard deviations: the variances of x, x^2, x^3 and x^4 are 1, 2, 15 and 96. */
    ck_assert_double_eq_tol(m1, 0, 5 * sqrt(1.0 / COUNT));
    ck_assert_double_eq_tol(m2, 1, 5 * sqrt(2.0 / COUNT));
    ck_assert_double_eq_tol(m3, 0, 5 * sqrt(15.0 / COUNT));
    ck_assert_double_eq_tol(m4, 3, 5 * sqrt(96.0 / COUNT));
}
END_TEST

START_TEST(permutation_is_one)
{
    static const uint64_t sizes[] = { 1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097 };
    static char seen[4097];

    for (int s = 0; s < 10; s++) {
        memset(seen, 0, sizeof(seen));
        for (uint64_t i = 0; i < sizes[s]; i++) {
            uint64_t image = orr_rng_permute(&rng, sizes[s], i);

            ck_assert(image < sizes[s]);
            ck_assert(!seen[image]);
            seen[image] = 1;
        }
    }
    for (uint64_t i = 0; i < 100; i++) {
        ck_assert(orr_rng_permute(&rng, ((uint64_t)1 << 63) + 5, i) < ((uint64_t)1 << 63) + 5);
        ck_assert(orr_rng_permute(&rng, UINT64_MAX, UINT64_MAX - 1 - i) < UINT64_MAX);
    }
}
END_TEST

START_TEST(permutation_spreads)
{
    enum { N = 600, BINS = 10, STREAMS = 10000 };
    int images[BINS] = { 0 };
    double chi2 = 0;

    for (uint32_t stream = 0; stream < STREAMS; stream++) {
        struct orr_rng other = { .seed = 1, .stream = stream };
        images[orr_rng_permute(&other, N, 3) * BINS / N]++;
    }
    for (int i = 0; i < BINS; i++)
        chi2 += pow(images[i] - STREAMS / BINS, 2) / (STREAMS / BINS);
    ck_assert_double_lt(chi2, 33.7);    /* 9 degrees of freedom: exceeded once in 10000 */
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("rng");
    TCase *c = tcase_create("rng");

    tcase_add_test(c, known_answers);
    tcase_add_test(c, words_of_any_range);
    tcase_add_test(c, uniform);
    tcase_add_test(c, normal_is_box_muller);
    tcase_add_test(c, normal_has_its_moments);
    tcase_add_test(c, permutation_is_one);
    tcase_add_test(c, permutation_spreads);
    suite_add_tcase(s, c);
    return s;
}
