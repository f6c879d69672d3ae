/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences in rows: what stands where, written down by hand. */
#include "check_main.h"
#include "data/tiny.h"
#include "files.h"

#include <orrery/dtype.h>
#include <orrery/rows.h>

static struct orr_sequences *encode(const char *name, const char *text, struct orr_sequence_options options)
{
    const char *path = at(name);

    put_text(path, text);
    struct orr_examples *e = orr_examples_open(&path, 1, ORR_FORMAT_TEXT, NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    struct orr_sequences *s = orr_sequences_create(e, &tiny, &options);
    orr_examples_destroy(e);
    return s;
}

enum { T = 8, ROWS = 8 };

static struct {
    int32_t tokens[ROWS * T], labels[ROWS * T], places[ROWS * T], types[ROWS * T], source[ROWS * T], source_places[ROWS * T];
} got;

static int read_rows(struct orr_packing *p, int64_t first, int count, bool source)
{
    const struct orr_row_arrays arrays = {got.tokens, got.labels, got.places, got.types, source ? got.source : NULL,
                                          source ? got.source_places : NULL};
    memset(&got, 0x55, sizeof(got));
    return orr_packing_read(p, first, count, &arrays);
}

/* Numbers as digits; a label that is ignored as '-', and one that is a token as its character. */
static void expect_row(const int32_t *row, const char *expected)
{
    char text[T + 1] = "";

    for (int t = 0; t < T; t++)
        text[t] = (char)(row[t] == ORR_IGNORE ? '-' : row[t] < 10 ? '0' + row[t] : row[t]);
    ck_assert_str_eq(text, expected);
}

static struct orr_packing *in_order(const struct orr_sequences *s, int64_t rows)
{
    ck_assert_msg(s != NULL, "%s", orr_error());
    struct orr_packing *p = orr_packing_create_in_order(s, (struct orr_subset){0});
    int64_t count;
    ck_assert_msg(p != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_packing_count(p, 1, &count), 0);
    ck_assert_int_eq(count, rows);
    return p;
}

START_TEST(texts)
{
    struct orr_sequences *s = encode("a.tsv", "2\tabc\n0\tde\n1\tfghi\n0\tjklmnopq\n", (struct orr_sequence_options){.seq = T});
    struct orr_packing *p = in_order(s, 3);
    struct orr_span spans[T];
    int count;

    ck_assert_int_eq(read_rows(p, 0, 4, false), 0);
    expect_row(got.tokens, "abcde...");
    expect_row(got.labels, "2--0----");
    expect_row(got.places, "01201012");
    expect_row(got.types, "00000000");
    expect_row(got.tokens + T, "fghi....");
    expect_row(got.labels + T, "1-------");
    expect_row(got.places + T, "01230123");
    expect_row(got.tokens + 2 * T, "jklmnopq");
    expect_row(got.labels + 2 * T, "0-------");
    expect_row(got.places + 2 * T, "01234567");
    expect_row(got.tokens + 3 * T, "........");      /* behind the last */
    expect_row(got.labels + 3 * T, "--------");
    expect_row(got.places + 3 * T, "01234567");

    ck_assert_int_eq(orr_packing_spans(p, 0, spans, &count), 0);
    ck_assert_int_eq(count, 2);
    ck_assert(spans[1].example == 1 && spans[1].first == 3 && spans[1].count == 2 && spans[1].source_count == 0);
    ck_assert_int_eq(orr_packing_spans(p, 3, spans, &count), 0);
    ck_assert_int_eq(count, 0);
    ck_assert_int_eq(orr_packing_spans(p, -1, spans, &count), ORR_EINVAL);
    ck_assert_int_eq(read_rows(p, 0, 1, true), ORR_EINVAL);
    expect_error(ORR_EINVAL, "data: ", "have no source");
    double fill, source_fill;
    ck_assert_int_eq(orr_packing_fill(p, &fill, &source_fill), 0);
    ck_assert(fill == 17.0 / 24 && source_fill == 0);
    orr_packing_destroy(p);
    orr_sequences_destroy(s);
    orr_packing_destroy(NULL);
    orr_sequences_destroy(NULL);

    s = encode("a.tsv", "5\tabc\n4\tde\n", (struct orr_sequence_options){.seq = T, .label_last = true});
    p = in_order(s, 1);
    const struct orr_row_source source = orr_packing_source(p);
    ck_assert(source.seq == T && !source.has_source);
    ck_assert_int_eq(source.read(source.self, 0, 1, &(struct orr_row_arrays){.labels = got.labels}), 0);
    expect_row(got.labels, "--1-0---");
    orr_packing_destroy(p);
    orr_sequences_destroy(s);
}
END_TEST

START_TEST(pairs_of_texts)
{
    struct orr_sequences *s = encode("a.tsv", "0\t^ab$\tc$\n0\tx\ty\n", (struct orr_sequence_options){.seq = T});
    struct orr_packing *p = in_order(s, 1);

    ck_assert_int_eq(read_rows(p, 0, 1, false), 0);
    expect_row(got.tokens, "^ab$c$xy");
    expect_row(got.types, "00001101");
    expect_row(got.places, "01234501");
    orr_packing_destroy(p);
    orr_sequences_destroy(s);
}
END_TEST

START_TEST(words)
{
    /* Tags in the order of their bytes: B-x 0, I-x 1, O 2. A word may have several tokens, or none. */
    struct orr_sequence_counts counts;
    struct orr_sequences *s = encode("a.conll", "abc B-x\n_ I-x\nd O\n\nef I-x\n", (struct orr_sequence_options){.seq = T});
    struct orr_packing *p = in_order(s, 1);

    ck_assert_int_eq(read_rows(p, 0, 1, false), 0);
    expect_row(got.tokens, "abcdef..");
    expect_row(got.labels, "0--21---");
    expect_row(got.places, "01230101");
    orr_sequences_tell(s, &counts);
    ck_assert(counts.examples == 2 && counts.tokens == 6 && counts.labels == 3 && counts.lost == 1 && counts.truncated == 0);
    ck_assert_int_eq(orr_sequences_check_vocab(s, 'f' + 1), 0);
    ck_assert_int_eq(orr_sequences_check_vocab(s, 'f'), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "data: ", "token 102 is outside the vocabulary of 102");
    orr_packing_destroy(p);
    orr_sequences_destroy(s);
}
END_TEST

START_TEST(sources_and_targets)
{
    struct orr_sequence_counts counts;
    const struct orr_sequence_options options = {.seq = T, .start = '0', .end = -1};
    struct orr_sequences *s = encode("a.pairs", "abcde\tx\nfg\tyz<\nhi\tuvw\n", options);
    struct orr_packing *p = in_order(s, 2);
    struct orr_span spans[T];
    int count;

    /* The tokenizer's end token is '$'. Both rows must have room. */
    ck_assert_int_eq(read_rows(p, 0, 2, true), 0);
    expect_row(got.tokens, "0x0yz<..");
    expect_row(got.labels, "x$yz<$--");
    expect_row(got.places, "01012301");
    expect_row(got.source, "abcdefg.");
    expect_row(got.source_places, "01234010");
    expect_row(got.tokens + T, "0uvw....");
    expect_row(got.labels + T, "uvw$----");
    expect_row(got.source + T, "hi......");
    expect_row(got.source_places + T, "01012345");
    ck_assert_int_eq(orr_packing_spans(p, 0, spans, &count), 0);
    ck_assert(count == 2 && spans[1].first == 2 && spans[1].count == 4 && spans[1].source_first == 5 && spans[1].source_count == 2);
    orr_sequences_tell(s, &counts);
    ck_assert(counts.tokens == 10 && counts.labels == 10 && counts.source_tokens == 9);
    orr_packing_destroy(p);
    orr_sequences_destroy(s);

    s = encode("a.pairs", "a\txy<\n", (struct orr_sequence_options){.seq = T, .start = '0', .end = '<'});     /* it ends with it */
    p = in_order(s, 1);
    ck_assert_int_eq(read_rows(p, 0, 1, true), 0);
    expect_row(got.labels, "xy<-----");
    orr_packing_destroy(p);
    orr_sequences_destroy(s);

    ck_assert_ptr_null(encode("a.pairs", "a\tb\n", (struct orr_sequence_options){.seq = T, .start = -1}));
    expect_error(ORR_EINVAL, "data: ", "no token that a target begins with");
    ck_assert_ptr_null(encode("a.pairs", "a\tb\n", (struct orr_sequence_options){.seq = 0}));
    expect_error(ORR_EINVAL, "data: ", "sequences of 0 tokens");
    ck_assert_ptr_null(encode("a.pairs", "a\tb\n_\tc", options));
    expect_error(ORR_EFORMAT, at("a.pairs:2: "), "no tokens");
}
END_TEST

/* Cut to T: what the first row holds, and its labels. */
static void expect_cut(const char *name, const char *text, const char *tokens, const char *labels, int lost)
{
    struct orr_sequence_options options = {.seq = T, .truncate = true, .start = '0', .end = -1};
    struct orr_sequences *s = encode(name, text, options);
    struct orr_packing *p = in_order(s, 1);
    struct orr_sequence_counts counts;

    ck_assert_int_eq(read_rows(p, 0, 1, false), 0);
    expect_row(got.tokens, tokens);
    expect_row(got.labels, labels);
    orr_sequences_tell(s, &counts);
    ck_assert(counts.truncated == 1 && counts.lost == lost);
    orr_packing_destroy(p);
    orr_sequences_destroy(s);

    options.truncate = false;
    ck_assert_ptr_null(encode(name, text, options));
    expect_error(ORR_EFORMAT, at(name), "9 tokens, more than the 8 of a row");
    ck_assert_ptr_nonnull(strstr(orr_error(), ":1: "));
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "--truncate"));
}

START_TEST(truncation)
{
    expect_cut("a.tsv", "0\tabcdefghi\n", "abcdefgh", "0-------", 0);
    expect_cut("a.tsv", "0\t^abcdefg>\n", "^abcdef>", "0-------", 0);      /* a separator stays */
    expect_cut("a.tsv", "0\t^abcdefg$\n", "^abcdef$", "0-------", 0);      /* and an end        */
    expect_cut("a.conll", "abcd B-x\nefgh I-x\ni O\n", "abcdefgh", "0---1---", 1);
    expect_cut("a.conll", "abcdefg O\nh O\n> O\n", "abcdefg>", "0-------", 2);
    expect_cut("a.pairs", "a\tbcdefghi\n", "0bcdefgh", "bcdefgh$", 0);
    expect_cut("a.pairs", "abcdefghi\tb\n", "0b......", "b$------", 0);
}
END_TEST

/* With '<', '>' and '>' around the texts, 5 positions are theirs. */
START_TEST(truncated_pairs)
{
    static const struct {
        const char *text, *tokens, *types;
    } cases[] = {
        {"0\t<abcde>\tx>\n", "<abcd>x>", "00000011"},
        {"0\t<a>\tvwxyz>\n", "<a>vwxy>", "00011111"},
        {"0\t<abc>\twxyz>\n", "<ab>wxy>", "00001111"},
        {"0\t<abcd>\txyz>\n", "<abc>xy>", "00000111"},
        {"0\t<abc>\txyz>\n", "<ab>xyz>", "00001111"},
        {"0\t<abcdefghi>\trstuvwxyz>\n", "<ab>rst>", "00001111"},
        {"0\tabcdefgh\tz\n", "abcdefgz", "00000001"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct orr_sequences *s = encode("a.tsv", cases[i].text, (struct orr_sequence_options){.seq = T, .truncate = true});
        struct orr_packing *p = in_order(s, 1);
        struct orr_sequence_counts counts;
        ck_assert_int_eq(read_rows(p, 0, 1, false), 0);
        expect_row(got.tokens, cases[i].tokens);
        expect_row(got.types, cases[i].types);
        orr_sequences_tell(s, &counts);
        ck_assert(counts.truncated == 1 && counts.tokens == T);
        orr_packing_destroy(p);
        orr_sequences_destroy(s);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("rows");
    TCase *t = tcase_create("rows");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, texts);
    tcase_add_test(t, pairs_of_texts);
    tcase_add_test(t, words);
    tcase_add_test(t, sources_and_targets);
    tcase_add_test(t, truncation);
    tcase_add_test(t, truncated_pairs);
    suite_add_tcase(s, t);
    return s;
}
