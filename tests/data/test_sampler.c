/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "files.h"

#include <stdint.h>

#include <orrery/data.h>

/* A corpus whose token number i is i. */
static struct orr_corpus *counting(int size)
{
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    uint16_t *tokens = malloc((size_t)size * sizeof(*tokens));
    const char *path = at("count.bin");

    for (int i = 0; i < size; i++)
        tokens[i] = (uint16_t)i;
    put(path, tokens, (size_t)size * sizeof(*tokens));
    struct orr_corpus *c = orr_corpus_open(&path, 1, bytes, 0);
    ck_assert_msg(c != NULL, "%s", orr_error());
    free(tokens);
    orr_tokenizer_destroy(bytes);
    return c;
}

/* Every epoch visits each window once, at one shift, and the targets are the next tokens. */
static void check_epochs(const struct orr_sampler *s, int epochs)
{
    int32_t *input = malloc((size_t)s->seq * sizeof(*input)), *target = malloc((size_t)s->seq * sizeof(*target));
    char *seen = malloc((size_t)s->windows);

    for (int epoch = 0; epoch < epochs; epoch++) {
        int64_t shift = -1;
        memset(seen, 0, (size_t)s->windows);
        for (int64_t n = epoch * s->windows; n < (epoch + 1) * s->windows; n++) {
            ck_assert_int_eq(orr_sampler_read(s, n, input, target), 0);
            for (int k = 0; k < s->seq; k++) {
                ck_assert_int_eq(input[k], input[0] + k);
                ck_assert_int_eq(target[k], input[0] + k + 1);
            }
            ck_assert_int_ge(input[0], s->range.first);
            ck_assert_int_lt(target[s->seq - 1], s->range.last);
            int64_t begin = input[0] - s->range.first;
            if (shift < 0)
                shift = begin % s->seq;
            ck_assert_int_eq(begin % s->seq, shift);
            ck_assert_int_lt(shift, s->shifts);
            ck_assert_int_eq(seen[begin / s->seq]++, 0);
        }
    }
    free(seen);
    free(target);
    free(input);
}

START_TEST(shuffled)
{
    struct orr_corpus *c = counting(1000);

    for (int seq = 1; seq <= 40; seq += 3)
        for (int size = seq + 1; size <= 3 * seq + 5; size++) {
            struct orr_sampler s;
            const struct orr_range range = {7, 7 + size};
            ck_assert_int_eq(orr_sampler_init(&s, c, range, seq, 3), 0);
            ck_assert_int_ge(s.windows, 1);
            ck_assert_int_ge(s.windows, (size - 1) / seq - 1);
            ck_assert_int_ge(s.shifts, 1);
            ck_assert_int_le(s.shifts, seq);
            check_epochs(&s, 5);
        }
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(random_order)
{
    struct orr_corpus *c = counting(20000);
    const struct orr_range all = {0, 20000};
    struct orr_sampler s, again, other;
    int32_t a[16], b[16], t[16];
    int in_order = 0, same_seed = 0, shifts[16] = {0}, moved = 0;

    ck_assert_int_eq(orr_sampler_init(&s, c, all, 16, 1), 0);
    ck_assert_int_eq(orr_sampler_init(&again, c, all, 16, 1), 0);
    ck_assert_int_eq(orr_sampler_init(&other, c, all, 16, 2), 0);
    ck_assert_int_eq(s.windows, 1249);
    ck_assert_int_eq(s.shifts, 16);
    check_epochs(&s, 2);
    for (int64_t n = 0; n < s.windows; n++) {
        ck_assert_int_eq(orr_sampler_read(&s, n, a, t), 0);
        ck_assert_int_eq(orr_sampler_read(&again, n, b, t), 0);
        ck_assert_int_eq(memcmp(a, b, sizeof(a)), 0);   /* a pure function of the number */
        in_order += a[0] / 16 == n;
        ck_assert_int_eq(orr_sampler_read(&other, n, b, t), 0);
        same_seed += a[0] == b[0];
        ck_assert_int_eq(orr_sampler_read(&s, n + s.windows, b, t), 0);
        moved += a[0] / 16 != b[0] / 16;
    }
    ck_assert_int_lt(in_order, 20);
    ck_assert_int_lt(same_seed, 20);
    ck_assert_int_gt(moved, 1200);
    for (int epoch = 0; epoch < 1000; epoch++) {
        ck_assert_int_eq(orr_sampler_read(&s, epoch * s.windows, a, t), 0);
        shifts[a[0] % 16]++;
    }
    for (int k = 0; k < 16; k++)
        ck_assert_int_gt(shifts[k], 25);    /* 62 expected, deviation 8 */
    ck_assert_int_eq(orr_sampler_read(&s, INT64_MAX, a, t), 0);
    ck_assert_int_eq(orr_sampler_read(&s, -1, a, t), ORR_EINVAL);
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(sequential)
{
    struct orr_corpus *c = counting(300);
    int32_t input[32], target[32];

    for (int seq = 1; seq <= 32; seq++)
        for (int size = 2; size <= 70; size++) {
            struct orr_sampler s;
            const struct orr_range range = {100, 100 + size};
            int32_t next = 100;
            ck_assert_int_eq(orr_sampler_init_sequential(&s, c, range, seq), 0);
            for (int64_t n = 0; n < s.windows; n++) {
                ck_assert_int_eq(orr_sampler_read(&s, n, input, target), 0);
                ck_assert_int_ne(target[0], ORR_IGNORE);
                for (int k = 0; k < seq; k++) {
                    if (target[k] == ORR_IGNORE) {
                        ck_assert_int_eq(n, s.windows - 1);
                        ck_assert_int_eq(input[k], 0);
                        ck_assert_int_eq(next, 100 + size - 1);
                    } else {
                        ck_assert_int_eq(input[k], next);
                        ck_assert_int_eq(target[k], next + 1);
                        next++;
                    }
                }
            }
            ck_assert_int_eq(next, 100 + size - 1);     /* every token but the first was a target, once */
            ck_assert_int_eq(orr_sampler_read(&s, s.windows, input, target), ORR_EINVAL);
            ck_assert_int_eq(orr_sampler_read(&s, -1, input, target), ORR_EINVAL);
        }
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(refuses)
{
    struct orr_corpus *c = counting(100);
    struct orr_sampler s;

    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){90, 100}, 10, 1), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "10 tokens are too few: a sequence of 10 and its last target take 11");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "a sequence length of 9 or less"));
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){90, 100}, 9, 1), 0);
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){5, 6}, 1, 1), ORR_EINVAL);
    ck_assert_str_eq(orr_error_remedy(), "give more data");
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){0, 100}, INT32_MAX, 1), ORR_EINVAL);
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){0, 100}, 0, 1), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "sequences of 0 tokens");
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){0, 101}, 4, 1), ORR_EINVAL);
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){-1, 50}, 4, 1), ORR_EINVAL);
    ck_assert_int_eq(orr_sampler_init(&s, c, (struct orr_range){50, 40}, 4, 1), ORR_EINVAL);
    ck_assert_int_eq(orr_sampler_init_sequential(&s, c, (struct orr_range){5, 6}, 4), ORR_EINVAL);
    ck_assert_int_eq(orr_sampler_init_sequential(&s, c, (struct orr_range){5, 5}, 4), ORR_EINVAL);
    orr_corpus_destroy(c);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("sampler");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, shuffled);
    tcase_add_test(t, random_order);
    tcase_add_test(t, sequential);
    tcase_add_test(t, refuses);
    suite_add_tcase(s, t);
    return s;
}
