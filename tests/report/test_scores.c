/* SPDX-License-Identifier: Apache-2.0 */
/* Scores beside those of scikit-learn, seqeval and sacreBLEU (tests/reference/scores_reference.py). */
#include "check_main.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <orrery/error.h>
#include <orrery/scores.h>

#include "io/json.h"

static json_t *golden;

static void setup(void)
{
    const char *root = getenv("srcdir");
    char path[4096];

    snprintf(path, sizeof(path), "%s/tests/golden/scores/scores.json", root ? root : ".");
    ck_assert_msg(orri_json_load(path, &golden) == 0, "%s", orr_error());
}

static void teardown(void)
{
    json_decref(golden);
}

/* ---- what the file holds --------------------------------------------------------------------------- */

static void expect_near(double value, const json_t *expected, const char *what, size_t number)
{
    const double e = json_number_value(expected);

    ck_assert_msg(json_is_number(expected), "%s of case %zu is not there", what, number);
    ck_assert_msg(fabs(value - e) <= 1e-12 * fmax(1, fabs(e)), "%s of case %zu is %.17g, not %.17g", what, number, value, e);
}

/* [precision, recall, f1, support] */
static void expect_score(const struct orr_score *s, const json_t *expected, const char *what, size_t number)
{
    expect_near(s->precision, json_array_get(expected, 0), what, number);
    expect_near(s->recall, json_array_get(expected, 1), what, number);
    expect_near(s->f1, json_array_get(expected, 2), what, number);
    expect_near((double)s->support, json_array_get(expected, 3), what, number);
}

/* Every class that occurs is in the object, and no other. */
static void expect_classes(const struct orr_scores *s, const json_t *expected, size_t number)
{
    size_t found = 0;

    for (int c = 0; c < s->classes; c++)
        if (s->occurs[c]) {
            expect_score(&s->each[c], json_object_get(expected, s->names[c]), s->names[c], number);
            found++;
        }
    ck_assert_uint_eq(found, json_object_size(expected));
}

static void expect_table(const struct orr_scores *s, int digits, const json_t *tables)
{
    char key[8], *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    snprintf(key, sizeof(key), "%d", digits);
    const char *expected = json_string_value(json_object_get(tables, key));
    ck_assert_ptr_nonnull(expected);
    orr_scores_print(out, s, digits);
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_msg(strcmp(text, expected) == 0, "\n%s\nis not\n%s", text, expected);
    free(text);
}

/* An array of strings: borrowed, the array to be freed. */
static const char **strings(const json_t *array)
{
    const char **s = calloc(json_array_size(array) + 1, sizeof(*s));

    for (size_t i = 0; i < json_array_size(array); i++) {
        s[i] = json_string_value(json_array_get(array, i));
        ck_assert_ptr_nonnull(s[i]);
    }
    return s;
}

static void append(const json_t *array, int32_t *numbers, int64_t *count)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        numbers[(*count)++] = (int32_t)json_integer_value(json_array_get(array, i));
}

/* ---- classes and entities -------------------------------------------------------------------------- */

enum { POSITIONS = 4096, SEQUENCES = 64 };

static int32_t truth[POSITIONS], predicted[POSITIONS];

static void check_classes(const json_t *expected, size_t number)
{
    const char **names = strings(json_object_get(expected, "names"));
    const int classes = (int)json_array_size(json_object_get(expected, "names"));
    int64_t count = 0, as_many = 0;
    struct orr_scores s;

    append(json_object_get(expected, "truth"), truth, &count);
    append(json_object_get(expected, "predicted"), predicted, &as_many);
    ck_assert_int_eq(count, as_many);
    ck_assert_int_eq(orr_scores_classes(truth, predicted, count, names, classes, &s), 0);
    expect_near(s.accuracy, json_object_get(expected, "accuracy"), "accuracy", number);
    expect_near(s.micro.f1, json_object_get(expected, "accuracy"), "micro", number);
    expect_classes(&s, json_object_get(expected, "classes"), number);
    expect_score(&s.macro, json_object_get(expected, "macro"), "macro", number);
    expect_score(&s.weighted, json_object_get(expected, "weighted"), "weighted", number);
    expect_table(&s, 2, json_object_get(expected, "table"));
    expect_table(&s, 4, json_object_get(expected, "table"));
    orr_scores_free(&s);
    free(names);
}

START_TEST(classes)
{
    const json_t *cases = json_object_get(golden, "classes");

    ck_assert_uint_ge(json_array_size(cases), 16);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_classes(json_array_get(cases, i), i);
}
END_TEST

static void check_entities(const json_t *expected, size_t number)
{
    const json_t *sequences = json_object_get(expected, "truth");
    const char **tags = strings(json_object_get(expected, "tags"));
    const int tag_count = (int)json_array_size(json_object_get(expected, "tags"));
    int64_t lengths[SEQUENCES], count = 0, as_many = 0;
    struct orr_scores s;

    for (size_t i = 0; i < json_array_size(sequences); i++) {
        lengths[i] = (int64_t)json_array_size(json_array_get(sequences, i));
        append(json_array_get(sequences, i), truth, &count);
        append(json_array_get(json_object_get(expected, "predicted"), i), predicted, &as_many);
    }
    ck_assert_int_eq(count, as_many);
    ck_assert_int_eq(orr_scores_entities(truth, predicted, lengths, (int64_t)json_array_size(sequences), tags, tag_count, &s), 0);
    expect_near(s.accuracy, json_object_get(expected, "accuracy"), "accuracy", number);
    expect_classes(&s, json_object_get(expected, "types"), number);
    expect_score(&s.micro, json_object_get(expected, "micro"), "micro", number);
    expect_score(&s.macro, json_object_get(expected, "macro"), "macro", number);
    expect_score(&s.weighted, json_object_get(expected, "weighted"), "weighted", number);
    expect_table(&s, 2, json_object_get(expected, "table"));
    expect_table(&s, 4, json_object_get(expected, "table"));
    orr_scores_free(&s);
    free(tags);
}

START_TEST(entities)
{
    const json_t *cases = json_object_get(golden, "entities");

    ck_assert_uint_ge(json_array_size(cases), 16);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_entities(json_array_get(cases, i), i);
}
END_TEST

START_TEST(nothing_to_find)
{
    static const int32_t outside[] = {0, 0};
    static const int64_t length = 2;
    struct orr_scores s;

    ck_assert_int_eq(orr_scores_entities(outside, outside, &length, 1, (const char *const[]){"O"}, 1, &s), 0);
    ck_assert(s.classes == 0 && s.accuracy == 1 && s.micro.f1 == 0 && s.macro.f1 == 0 && s.weighted.f1 == 0);
    orr_scores_free(&s);
    ck_assert_int_eq(orr_scores_entities(outside, outside, &length, 1, (const char *const[]){"O", "B-x"}, 2, &s), 0);
    ck_assert(s.classes == 1 && !s.occurs[0] && s.macro.f1 == 0);
    orr_scores_free(&s);
    orr_scores_free(&s);
}
END_TEST

START_TEST(json)
{
    static const int32_t is[] = {0, 0, 2, 2}, told[] = {0, 2, 2, 2};
    struct orr_scores s;

    ck_assert_int_eq(orr_scores_classes(is, told, 4, (const char *const[]){"a", "b", "ä"}, 3, &s), 0);
    json_t *object = orr_scores_json(&s);
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(4));
    ck_assert_str_eq(text, "{\"accuracy\":0.75,\"precision\":0.75,\"recall\":0.75,\"f1\":0.75,"
                           "\"macro\":{\"precision\":0.8333,\"recall\":0.75,\"f1\":0.7333,\"support\":4},"
                           "\"weighted\":{\"precision\":0.8333,\"recall\":0.75,\"f1\":0.7333,\"support\":4},"
                           "\"classes\":{\"a\":{\"precision\":1.0,\"recall\":0.5,\"f1\":0.6667,\"support\":2},"
                           "\"ä\":{\"precision\":0.6667,\"recall\":1.0,\"f1\":0.8,\"support\":2}}}");
    free(text);
    json_decref(object);
    orr_scores_free(&s);
}
END_TEST

START_TEST(arguments)
{
    static const int32_t good[] = {0, 1}, high[] = {0, 2}, low[] = {-1, 0};
    static const char *const names[] = {"O", "B-x"};
    static const int64_t none[] = {0, 0};
    struct orr_scores s;
    struct orr_bleu bleu;
    double score;

    ck_assert_int_eq(orr_scores_classes(good, high, 2, names, 2, &s), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "class 2 at position 1 is none of 2"));
    ck_assert_int_eq(orr_scores_classes(low, good, 2, names, 2, &s), ORR_EINVAL);
    ck_assert_int_eq(orr_scores_classes(good, good, 0, names, 2, &s), ORR_EINVAL);
    ck_assert_int_eq(orr_scores_classes(good, good, 2, names, 0, &s), ORR_EINVAL);
    ck_assert_int_eq(orr_scores_entities(good, good, none, 2, names, 2, &s), ORR_EINVAL);
    ck_assert_int_eq(orr_score_bleu(NULL, NULL, 0, &bleu), ORR_EINVAL);
    ck_assert_int_eq(orr_score_chrf(NULL, NULL, 0, &score), ORR_EINVAL);
    ck_assert_int_eq(orr_score_exact(NULL, NULL, 0, &score), ORR_EINVAL);
}
END_TEST

/* ---- texts ----------------------------------------------------------------------------------------- */

static void check_texts(const json_t *expected, size_t number)
{
    const char **hypotheses = strings(json_object_get(expected, "hypotheses"));
    const char **references = strings(json_object_get(expected, "references"));
    const int64_t count = (int64_t)json_array_size(json_object_get(expected, "references"));
    struct orr_bleu bleu;
    double score;

    ck_assert_int_eq(orr_score_bleu(hypotheses, references, count, &bleu), 0);
    expect_near((double)bleu.words, json_object_get(expected, "words"), "words", number);
    expect_near((double)bleu.reference_words, json_object_get(expected, "reference_words"), "reference words", number);
    expect_near(bleu.brevity, json_object_get(expected, "brevity"), "brevity", number);
    for (size_t n = 0; n < 4; n++)
        expect_near(bleu.precision[n], json_array_get(json_object_get(expected, "precisions"), n), "precision", number);
    expect_near(bleu.score, json_object_get(expected, "bleu"), "BLEU", number);
    ck_assert_int_eq(orr_score_chrf(hypotheses, references, count, &score), 0);
    expect_near(score, json_object_get(expected, "chrf"), "chrF", number);
    ck_assert_int_eq(orr_score_exact(hypotheses, references, count, &score), 0);
    expect_near(score, json_object_get(expected, "exact"), "exact", number);
    free(hypotheses);
    free(references);
}

START_TEST(texts)
{
    const json_t *cases = json_object_get(golden, "texts");

    ck_assert_uint_ge(json_array_size(cases), 16);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_texts(json_array_get(cases, i), i);
}
END_TEST

/* Bytes that are no UTF-8 count one by one, and end no text early. */
START_TEST(any_bytes)
{
    static const char *const broken[] = {"\xff\xc3", "a\xe2\x82", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "\x80 b"};
    static const char *const other[] = {"\xff\xc4", "a\xe2\x83", "\xed\xa0\x81", "\xf4\x90\x80\x81", "\xc0\xae", "\x81 b"};
    struct orr_bleu bleu;
    double score, better;

    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(orr_score_chrf(&broken[i], &broken[i], 1, &score), 0);
        ck_assert_double_eq(score, 100);
        ck_assert_int_eq(orr_score_chrf(&broken[i], &other[i], 1, &better), 0);
        ck_assert_double_lt(better, 100);
        ck_assert_double_gt(better, 0);
        ck_assert_int_eq(orr_score_bleu(&broken[i], &broken[i], 1, &bleu), 0);
        ck_assert_int_eq(bleu.words, i == 5 ? 2 : 1);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("scores");
    TCase *t = tcase_create("scores");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, classes);
    tcase_add_test(t, entities);
    tcase_add_test(t, nothing_to_find);
    tcase_add_test(t, json);
    tcase_add_test(t, arguments);
    tcase_add_test(t, texts);
    tcase_add_test(t, any_bytes);
    suite_add_tcase(s, t);
    return s;
}
