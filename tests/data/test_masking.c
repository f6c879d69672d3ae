/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "data/tiny.h"
#include "files.h"

#include <math.h>
#include <stdbool.h>

#include <orrery/dtype.h>
#include <orrery/rows.h>

static int32_t no_special(const struct orr_tokenizer *t, enum orr_special special)
{
    (void)t;
    return special == ORR_MASK ? '#' : -1;
}

/* A corpus of `size` letters, in which letter k is 'a' + k % 26, or a pad where a step is given and divides k. */
static struct orr_corpus *letters(int size, int step)
{
    char *text = malloc((size_t)size);
    const char *path = at("letters.txt");

    for (int k = 0; k < size; k++)
        text[k] = (char)(step && k % step == 0 ? '.' : 'a' + k % 26);
    put(path, text, (size_t)size);
    struct orr_corpus *c = orr_corpus_open(&path, 1, &tiny, 0);
    ck_assert_msg(c != NULL, "%s", orr_error());
    free(text);
    return c;
}

enum { T = 32 };

struct row {
    int32_t tokens[T], labels[T], places[T], types[T];
};

static void read_row(const struct orr_masking *m, int64_t n, struct row *row)
{
    const struct orr_row_arrays arrays = {.tokens = row->tokens, .labels = row->labels, .places = row->places, .types = row->types};

    memset(row, 0x55, sizeof(*row));
    ck_assert_int_eq(orr_masking_read(m, n, 1, &arrays), 0);
}

START_TEST(frequencies)
{
    enum { N = 26 * 4000, ROWS = 6000 };
    struct orr_corpus *c = letters(N, 0);
    struct orr_masking m, again, other;
    struct row row, same;
    double seen = 0, chosen = 0, masked = 0, kept = 0, replaced = 0;
    int different = 0;

    ck_assert_int_eq(orr_masking_init(&m, c, (struct orr_range){0, N}, &tiny, T, 0.15, 5), 0);
    ck_assert_int_eq(orr_masking_init(&again, c, (struct orr_range){0, N}, &tiny, T, 0.15, 5), 0);
    ck_assert_int_eq(orr_masking_init(&other, c, (struct orr_range){0, N}, &tiny, T, 0.15, 6), 0);
    for (int64_t n = ROWS - 1; n >= 0; n--) {
        read_row(&m, n, &row);
        read_row(&again, n, &same);
        ck_assert_int_eq(memcmp(&row, &same, sizeof(row)), 0);
        read_row(&other, n, &same);
        different += memcmp(row.labels, same.labels, sizeof(row.labels)) != 0;
        ck_assert(row.tokens[0] == '<' && row.tokens[T - 1] == '>');
        ck_assert(row.labels[0] == ORR_IGNORE && row.labels[T - 1] == ORR_IGNORE);
        /* Of the text that is hidden all tell the same beginning. */
        int begin = -1;
        for (int t = 1; t < T - 1; t++) {
            const bool hidden = row.labels[t] != ORR_IGNORE;
            const int letter = hidden ? row.labels[t] : row.tokens[t];
            if (begin < 0)
                begin = (letter - 'a' - t + 2 * 26) % 26;
            ck_assert_int_eq(letter, 'a' + (begin + t) % 26);
            seen++;
            chosen += hidden;
            masked += hidden && row.tokens[t] == '#';
            kept += hidden && row.tokens[t] == letter;
            replaced += hidden && row.tokens[t] != letter && row.tokens[t] != '#';
        }
        for (int t = 0; t < T; t++)
            ck_assert(row.places[t] == t && row.types[t] == 0);
    }
    /* Within five deviations; a token is replaced by itself or [MASK] once in 128. */
    ck_assert_double_lt(fabs(chosen / seen - 0.15), 5 * sqrt(0.15 * 0.85 / seen));
    ck_assert_double_lt(fabs(masked / chosen - 0.8 - 0.1 / 256), 5 * sqrt(0.8 * 0.2 / chosen));
    ck_assert_double_lt(fabs(kept / chosen - 0.1 - 0.1 / 256), 5 * sqrt(0.1 * 0.9 / chosen));
    ck_assert_double_lt(fabs(replaced / chosen - 0.1 + 0.2 / 256), 5 * sqrt(0.1 * 0.9 / chosen));
    ck_assert_int_gt(different, ROWS * 9 / 10);
    orr_corpus_destroy(c);
}
END_TEST

/* The rows of two epochs hold the same text, hidden elsewhere. */
START_TEST(drawn_anew)
{
    struct orr_corpus *c = letters(T - 1, 0);       /* one window, which has room for one shift only */
    struct orr_masking m;
    struct row row;
    char hidden[T] = {0};
    int ever = 0;

    ck_assert_int_eq(orr_masking_init(&m, c, (struct orr_range){0, T - 1}, &tiny, T, 0.5, 5), 0);
    ck_assert_int_eq(m.sampler.windows, 1);
    for (int64_t n = 0; n < 20; n++) {
        read_row(&m, n, &row);
        for (int t = 0; t < T; t++)
            hidden[t] = (char)(hidden[t] || row.labels[t] != ORR_IGNORE);
    }
    for (int t = 0; t < T; t++)
        ever += hidden[t];
    ck_assert_int_eq(ever, T - 2);
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(specials_are_seen)
{
    struct orr_corpus *c = letters(600, 3);
    struct orr_masking m;
    struct row row;

    ck_assert_int_eq(orr_masking_init(&m, c, (struct orr_range){0, 600}, &tiny, T, 1, 5), 0);
    for (int64_t n = 0; n < 100; n++) {
        int pads = 0;
        read_row(&m, n, &row);
        for (int t = 1; t < T - 1; t++) {
            ck_assert_int_ne(row.labels[t], '.');
            pads += row.labels[t] == ORR_IGNORE;
            ck_assert(row.labels[t] != ORR_IGNORE || row.tokens[t] == '.');
        }
        ck_assert_int_eq(pads, (T - 2) / 3);
    }
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(sequential)
{
    for (int size = 2; size <= 70; size++) {
        struct orr_corpus *c = letters(size, 0);
        struct orr_masking m;
        struct row row;
        int next = 0;

        ck_assert_int_eq(orr_masking_init_sequential(&m, c, (struct orr_range){0, size}, &tiny, T, 1, 5), 0);
        for (int64_t n = 0; n < m.sampler.windows; n++) {
            int t = 1;
            read_row(&m, n, &row);
            ck_assert_int_eq(row.tokens[0], '<');
            for (; t < T - 1 && row.labels[t] != ORR_IGNORE; t++, next++)
                ck_assert_int_eq(row.labels[t], 'a' + next % 26);
            ck_assert_int_gt(t, 1);
            ck_assert_int_eq(row.tokens[t], '>');
            ck_assert_int_eq(row.places[t], t);
            for (int pad = t + 1; pad < T; pad++)
                ck_assert(row.tokens[pad] == '.' && row.labels[pad] == ORR_IGNORE && row.places[pad] == pad - t - 1);
        }
        ck_assert_int_eq(next, size);
        read_row(&m, m.sampler.windows, &row);
        for (int t = 0; t < T; t++)
            ck_assert(row.tokens[t] == '.' && row.labels[t] == ORR_IGNORE && row.places[t] == t);
        orr_corpus_destroy(c);
    }
}
END_TEST

START_TEST(arguments)
{
    static const struct orri_tokenizer_class bare_class = {.name = "bare", .encode = tiny_encode, .special = no_special};
    static const struct orr_tokenizer bare = {.class = &bare_class, .vocab_size = 256};
    const struct orr_range all = {0, 100};
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    struct orr_corpus *c = letters(100, 0);
    struct orr_masking m;
    struct row row;

    ck_assert_int_eq(orr_masking_init(&m, c, all, bytes, T, 0.15, 5), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "the tokenizer bytes has no token that masks others");
    ck_assert_int_eq(orr_masking_init(&m, c, all, &tiny, T, 0, 5), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "a probability of 0");
    ck_assert_int_eq(orr_masking_init(&m, c, all, &tiny, T, 1.5, 5), ORR_EINVAL);
    ck_assert_int_eq(orr_masking_init(&m, c, all, &tiny, T, NAN, 5), ORR_EINVAL);
    ck_assert_int_eq(orr_masking_init(&m, c, all, &tiny, 2, 0.15, 5), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "no room for text");
    ck_assert_str_eq(orr_error_remedy(), "give a length of 3 or more");
    ck_assert_int_eq(orr_masking_init(&m, c, all, &tiny, 200, 0.15, 5), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "too few");

    /* Without [CLS] and [SEP] a row is text alone. */
    ck_assert_int_eq(orr_masking_init_sequential(&m, c, all, &bare, T, 1, 5), 0);
    read_row(&m, 0, &row);
    for (int t = 0; t < T; t++)
        ck_assert_int_eq(row.labels[t], 'a' + t % 26);
    const struct orr_row_source source = orr_masking_source(&m);
    ck_assert(source.seq == T && !source.has_source);
    ck_assert_int_eq(source.read(source.self, 1, 1, &(struct orr_row_arrays){.tokens = row.tokens, .labels = row.labels}), 0);
    ck_assert_int_eq(row.labels[0], 'a' + T % 26);
    ck_assert_int_eq(orr_masking_read(&m, -1, 1, &(struct orr_row_arrays){.tokens = row.tokens}), ORR_EINVAL);
    ck_assert_int_eq(orr_masking_read(&m, 0, 1, &(struct orr_row_arrays){.tokens = row.tokens, .source = row.labels}), ORR_EINVAL);
    ck_assert_int_eq(orr_masking_read(&m, 0, 1, &(struct orr_row_arrays){.labels = row.labels}), ORR_EINVAL);
    orr_corpus_destroy(c);
    orr_tokenizer_destroy(bytes);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("masking");
    TCase *t = tcase_create("masking");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, frequencies);
    tcase_add_test(t, drawn_anew);
    tcase_add_test(t, specials_are_seen);
    tcase_add_test(t, sequential);
    tcase_add_test(t, arguments);
    suite_add_tcase(s, t);
    return s;
}
