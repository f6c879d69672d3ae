/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "files.h"

#include <stdbool.h>

#include <orrery/examples.h>

static struct orr_examples *open_one(const char *path, const struct orr_labels *labels)
{
    return orr_examples_open(&path, 1, ORR_FORMAT_TEXT, labels);
}

static bool is(const char *text, size_t size, const char *expected)
{
    return size == strlen(expected) && memcmp(text, expected, size) == 0;
}

/* The labels are these, separated by blanks. */
static void expect_labels(const struct orr_labels *labels, const char *expected)
{
    char all[256] = "";

    ck_assert_ptr_nonnull(labels);
    for (int i = 0; i < orr_labels_count(labels); i++) {
        const char *name = orr_labels_names(labels)[i];
        strcat(strcat(all, i ? " " : ""), name);
        ck_assert_int_eq(orr_labels_find(labels, name, strlen(name)), i);
    }
    ck_assert_str_eq(all, expected);
}

static void expect_example(const struct orr_examples *e, int64_t i, int64_t line, int label, const char *first, const char *second)
{
    struct orr_example x;

    orr_examples_get(e, i, &x);
    ck_assert_int_eq(x.line, line);
    ck_assert_int_eq(x.label, label);
    ck_assert(is(x.first, x.first_size, first));
    ck_assert_int_eq(x.second != NULL, second != NULL);
    if (second)
        ck_assert(is(x.second, x.second_size, second));
}

/* "word/number of its tag", separated by blanks. */
static void expect_sentence(const struct orr_examples *e, int64_t i, int64_t line, const char *expected)
{
    struct orr_example x;
    struct orr_sentence s;
    char all[256] = "";

    orr_examples_get(e, i, &x);
    ck_assert(x.line == line && x.label == -1 && !x.first && !x.second);
    ck_assert_int_eq(orr_examples_sentence(e, i, &s), 0);
    for (size_t w = 0; w < s.count; w++) {
        size_t used = strlen(all);
        snprintf(all + used, sizeof(all) - used, "%s%s/%d", w ? " " : "", s.words[w], (int)s.tags[w]);
    }
    ck_assert_str_eq(all, expected);
    orr_sentence_free(&s);
    orr_sentence_free(&s);
}

START_TEST(lines_with_labels)
{
    put_text(at("a.tsv"), "\xef\xbb\xbf" "10\tlong  text\r\n9\tshort\n\n\r\n-1\t\xc3\xa4\xff\n");
    struct orr_examples *e = open_one(at("a.tsv"), NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_examples_kind(e), ORR_FORMAT_TSV);
    ck_assert_int_eq(orr_examples_count(e), 3);
    expect_labels(orr_examples_labels(e), "-1 9 10");
    expect_example(e, 0, 1, 2, "long  text", NULL);
    expect_example(e, 1, 2, 1, "short", NULL);
    expect_example(e, 2, 5, 0, "\xc3\xa4\xff", NULL);
    struct orr_sentence s;
    ck_assert_int_eq(orr_examples_sentence(e, 0, &s), ORR_EINVAL);
    orr_examples_destroy(e);
    orr_examples_destroy(NULL);

    put_text(at("b.tsv"), "no\tA\tB\nyes\tC\tD");
    put_text(at("c.tsv"), "10\tE\tF\n");
    const char *paths[] = {at("b.tsv"), at("c.tsv")};
    e = orr_examples_open(paths, 2, ORR_FORMAT_TEXT, NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    expect_labels(orr_examples_labels(e), "10 no yes");
    expect_example(e, 1, 2, 2, "C", "D");
    expect_example(e, 2, 1, 0, "E", "F");
    orr_examples_destroy(e);
}
END_TEST

START_TEST(given_labels)
{
    static const char *const names[] = {"world", "sports", "1"}, *const words[] = {"b", "a"};
    struct orr_labels *labels = orr_labels_create(names, 3);

    expect_labels(labels, "world sports 1");
    ck_assert_int_eq(orr_labels_find(labels, "sport", 5), -1);
    ck_assert_int_eq(orr_labels_find(labels, "worlds", 6), -1);
    ck_assert_int_eq(orr_labels_find(labels, "worldly", 5), 0);
    ck_assert_int_eq(orr_labels_find(labels, "0", 1), -1);      /* a name is an integer: it is the name that counts */
    orr_labels_destroy(labels);

    labels = orr_labels_create(words, 2);
    ck_assert_int_eq(orr_labels_find(labels, "0", 1), 0);
    ck_assert_int_eq(orr_labels_find(labels, "1", 1), 1);
    ck_assert_int_eq(orr_labels_find(labels, "2", 1), -1);
    ck_assert_int_eq(orr_labels_find(labels, "-1", 2), -1);
    ck_assert_int_eq(orr_labels_find(labels, "0000000000", 10), -1);
    ck_assert_int_eq(orr_labels_find(labels, "", 0), -1);
    put_text(at("a.tsv"), "a\tx\n0\ty\n");
    struct orr_examples *e = open_one(at("a.tsv"), labels);
    ck_assert_msg(e != NULL, "%s", orr_error());
    expect_labels(orr_examples_labels(e), "b a");
    expect_example(e, 0, 1, 1, "x", NULL);
    expect_example(e, 1, 2, 0, "y", NULL);

    put_text(at("b.tsv"), "a\tx\n2\ty\n");
    ck_assert_ptr_null(open_one(at("b.tsv"), labels));
    expect_error(ORR_EFORMAT, at("b.tsv:2: "), "\"2\" is none of the 2 labels");
    ck_assert_str_eq(orr_error_remedy(), "the labels are: b, a");
    put_text(at("b.conll"), "x a\n");
    ck_assert_ptr_null(open_one(at("b.conll"), labels));
    expect_error(ORR_EFORMAT, at("b.conll:1: "), "\"a\" is no tag");
    put_text(at("b.conll"), "x O\n");
    ck_assert_ptr_null(open_one(at("b.conll"), labels));
    expect_error(ORR_EFORMAT, at("b.conll:1: "), "\"O\" is none of the 2 labels");

    /* Those of one file, for another: they belong to nobody else. */
    struct orr_examples *other = open_one(at("a.tsv"), orr_examples_labels(e));
    orr_examples_destroy(e);
    expect_labels(orr_examples_labels(other), "b a");
    orr_examples_destroy(other);
    orr_labels_destroy(labels);
    orr_labels_destroy(NULL);

    ck_assert_ptr_null(orr_labels_create(names, 0));
    expect_error(ORR_EINVAL, "labels: ", "there are none");
    ck_assert_ptr_null(orr_labels_create((const char *const[]){"a", "b", "a"}, 3));
    expect_error(ORR_EINVAL, "labels: ", "\"a\" is there twice");
    ck_assert_ptr_null(orr_labels_create((const char *const[]){"a", ""}, 2));
    expect_error(ORR_EINVAL, "labels: ", "number 1 has an empty name");
    ck_assert_ptr_null(orr_labels_create((const char *const[]){"\xff"}, 1));
    expect_error(ORR_EINVAL, "labels: ", "the name of number 0 is not UTF-8");
}
END_TEST

START_TEST(sentences)
{
    put_text(at("a.conll"), "\xef\xbb\xbf-DOCSTART- -X- O\r\n\r\nEU NNP  B-ORG\r\nrejects VBZ O \r\n\r\n  \t \nGerman\tJJ\tB-MISC\n"
                            "-DOCSTART-\nlamb NN I-MISC");
    put_text(at("b.conll"), "\n\n#\tO\n");
    const char *paths[] = {at("a.conll"), at("b.conll")};
    struct orr_examples *e = orr_examples_open(paths, 2, ORR_FORMAT_TEXT, NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_examples_kind(e), ORR_FORMAT_CONLL);
    expect_labels(orr_examples_labels(e), "B-MISC B-ORG I-MISC O");
    ck_assert_int_eq(orr_examples_count(e), 4);
    expect_sentence(e, 0, 3, "EU/1 rejects/3");
    expect_sentence(e, 1, 7, "German/0");
    expect_sentence(e, 2, 9, "lamb/2");
    expect_sentence(e, 3, 3, "#/3");
    orr_examples_destroy(e);
}
END_TEST

START_TEST(pairs)
{
    put_text(at("a.pairs"), "ein Haus\ta house\r\n\nx\ty");
    struct orr_examples *e = open_one(at("a.pairs"), NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_examples_kind(e), ORR_FORMAT_PAIRS);
    ck_assert_ptr_null(orr_examples_labels(e));
    ck_assert_int_eq(orr_examples_count(e), 2);
    expect_example(e, 0, 1, -1, "ein Haus", "a house");
    expect_example(e, 1, 3, -1, "x", "y");
    orr_examples_destroy(e);
}
END_TEST

START_TEST(formats)
{
    enum orr_format format;
    const char *folder_path = at("d"), *text = at("plain.txt"), *tsv = at("d/b.tsv"), *mixed[] = {tsv, text};

    ck_assert_int_eq(orri_make_folder(at("d")), 0);
    put_text(at("d/a.tsv"), "a\tfirst\n");
    put_text(at("d/b.tsv"), "");
    put_text(text, "w\tB-x\n");
    ck_assert_int_eq(orr_examples_format(&folder_path, 1, &format), 0);
    ck_assert_int_eq(format, ORR_FORMAT_TSV);
    ck_assert_int_eq(orr_examples_format(&text, 1, &format), 0);
    ck_assert_int_eq(format, ORR_FORMAT_TEXT);
    ck_assert_int_eq(orr_examples_format(mixed, 2, &format), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, text, "is of another kind than");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "--task"));

    struct orr_examples *e = open_one(folder_path, NULL);       /* the empty file is passed over */
    ck_assert_msg(e != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_examples_count(e), 1);
    orr_examples_destroy(e);
    ck_assert_ptr_null(open_one(text, NULL));
    expect_error(ORR_EFORMAT, text, "its ending tells no kind of labelled data");
    e = orr_examples_open(&text, 1, ORR_FORMAT_CONLL, NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    expect_sentence(e, 0, 1, "w/0");
    orr_examples_destroy(e);
    ck_assert_ptr_null(orr_examples_open(&folder_path, 1, ORR_FORMAT_CONLL, NULL));
    expect_error(ORR_EFORMAT, at("d/a.tsv: "), "a .tsv file, where .conll is wanted");
    ck_assert_ptr_null(orr_examples_open(mixed, 2, ORR_FORMAT_TEXT, NULL));
    expect_error(ORR_EFORMAT, text, "is of another kind than");
    ck_assert_ptr_null(orr_examples_open(mixed, 0, ORR_FORMAT_TEXT, NULL));
    expect_error(ORR_EINVAL, "data: ", "no files");
    ck_assert_ptr_null(open_one(at("none.tsv"), NULL));
    expect_error(ORR_ENOENT, at("none.tsv: "), "no such file");
}
END_TEST

START_TEST(bad_files)
{
    static const struct {
        const char *name, *text, *where, *what;
        size_t size;    /* of the text, where not 0 */
    } bad[] = {
        {"a.tsv", "", "a.tsv: ", "is empty", 0},
        {"a.tsv", "\n\r\n", "a.tsv: ", "holds no examples", 0},
        {"a.tsv", "1\ta\nonly text\n", "a.tsv:2: ", "has one column", 0},
        {"a.tsv", "1\ta\n \n", "a.tsv:2: ", "has one column", 0},
        {"a.tsv", "1\ta\n\n2\tb\tc\n", "a.tsv:3: ", "has 3 columns, the lines before it 2", 0},
        {"a.tsv", "1\ta\tb\tc\n", "a.tsv:1: ", "more than three columns", 0},
        {"a.tsv", "\ta\n", "a.tsv:1: ", "the label is empty", 0},
        {"a.tsv", "1\t\r\n", "a.tsv:1: ", "the text is empty", 0},
        {"a.tsv", "1\ta\t\n", "a.tsv:1: ", "the text is empty", 0},
        {"a.tsv", "1\ta\0b\n", "a.tsv:1: ", "zero byte", 6},
        {"a.tsv", "\xff\ta\n", "a.tsv:1: ", "a label is not UTF-8", 0},
        {"a.conll", "", "a.conll: ", "is empty", 0},
        {"a.conll", "\n-DOCSTART- O\n\n", "a.conll: ", "holds no examples", 0},
        {"a.conll", "a O\nb\nc O\n", "a.conll:2: ", "has one column", 0},
        {"a.conll", "a O\nb X O\n", "a.conll:2: ", "has 3 columns, the lines before it 2", 0},
        {"a.conll", "a O\n\nb X O\n", "a.conll:3: ", "has 3 columns, the lines before it 2", 0},
        {"a.conll", "a B-\n", "a.conll:1: ", "\"B-\" is no tag", 0},
        {"a.conll", "a X-PER\n", "a.conll:1: ", "\"X-PER\" is no tag", 0},
        {"a.conll", "a o\n", "a.conll:1: ", "\"o\" is no tag", 0},
        {"a.conll", "a BPER\n", "a.conll:1: ", "\"BPER\" is no tag", 0},
        {"a.conll", "a\0 O\n", "a.conll:1: ", "zero byte", 5},
        {"a.pairs", "", "a.pairs: ", "is empty", 0},
        {"a.pairs", "a\tb\nc\n", "a.pairs:2: ", "has one column", 0},
        {"a.pairs", "a\tb\tc\n", "a.pairs:1: ", "has more than two columns", 0},
        {"a.pairs", "\tb\n", "a.pairs:1: ", "the source is empty", 0},
        {"a.pairs", "a\t\n", "a.pairs:1: ", "the target is empty", 0},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(at(bad[i].name), bad[i].text, bad[i].size ? bad[i].size : strlen(bad[i].text));
        ck_assert_msg(open_one(at(bad[i].name), NULL) == NULL, "%zu: %s", i, bad[i].what);
        expect_error(ORR_EFORMAT, at(bad[i].where), bad[i].what);
        ck_assert_str_ne(orr_error_remedy(), "");
    }
    put_text(at("a.tsv"), "1\ta\n");
    put_text(at("b.tsv"), "1\ta\tb\n");
    const char *paths[] = {at("a.tsv"), at("b.tsv")};
    ck_assert_ptr_null(orr_examples_open(paths, 2, ORR_FORMAT_TEXT, NULL));
    expect_error(ORR_EFORMAT, at("b.tsv:1: "), "has 3 columns, the lines before it 2");

    FILE *f = fopen(at("many.tsv"), "w");
    for (int i = 0; i < 4097; i++)
        fprintf(f, "text number %d\t1\n", i);
    fclose(f);
    ck_assert_ptr_null(open_one(at("many.tsv"), NULL));
    expect_error(ORR_EFORMAT, at("many.tsv:4097: "), "more than 4096 different labels");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "LABEL<TAB>TEXT"));
}
END_TEST

static uint64_t fingerprint(const char *text)
{
    put_text(at("f.tsv"), text);
    struct orr_examples *e = open_one(at("f.tsv"), NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    uint64_t hash = orr_examples_fingerprint(e);
    orr_examples_destroy(e);
    return hash;
}

START_TEST(fingerprints)
{
    const uint64_t hash = fingerprint("1\tab\n2\tc\n");

    ck_assert_uint_eq(fingerprint("1\tab\r\n\r\n2\tc"), hash);
    ck_assert_uint_ne(fingerprint("1\ta\n2\tbc\n"), hash);
    ck_assert_uint_ne(fingerprint("2\tc\n1\tab\n"), hash);
    ck_assert_uint_ne(fingerprint("1\tab\n3\tc\n"), hash);
    ck_assert_uint_ne(fingerprint("1\tab\n"), hash);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("examples");
    TCase *t = tcase_create("examples");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, lines_with_labels);
    tcase_add_test(t, given_labels);
    tcase_add_test(t, sentences);
    tcase_add_test(t, pairs);
    tcase_add_test(t, formats);
    tcase_add_test(t, bad_files);
    tcase_add_test(t, fingerprints);
    suite_add_tcase(s, t);
    return s;
}
