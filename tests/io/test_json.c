/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "faults.h"
#include "files.h"
#include "io/json.h"

#include <errno.h>
#include <math.h>

START_TEST(loads_and_saves)
{
    json_t *object, *again;
    const char *text = "{\n  \"z\": 1,\n  \"a\": [\n    0.5,\n    true\n  ],\n  \"m\": null\n}\n";

    put_text(at("config.json"), text);
    ck_assert_int_eq(orri_json_load(at("config.json"), &object), 0);
    ck_assert_int_eq(orri_json_save(at("saved.json"), object), 0);
    ck_assert(holds(at("saved.json"), text));       /* indented by 2, in the same order */
    ck_assert_int_eq(orri_json_load(at("saved.json"), &again), 0);
    ck_assert(json_equal(object, again));
    json_decref(again);

    json_object_set_new(object, "z", json_integer(2));
    faults_arm(1, ENOSPC);
    ck_assert_int_eq(orri_json_save(at("saved.json"), object), ORR_EIO);
    ck_assert(faults_disarm());
    expect_error(ORR_EIO, at("saved.json: "), "No space left");
    ck_assert(holds(at("saved.json"), text));
    ck_assert_int_eq(entries(folder), 2);
    json_decref(object);
}
END_TEST

static const struct {
    const char *text;
    int code;
    const char *where, *what;
} malformed[] = {
    {"", ORR_EFORMAT, "f.json: ", "is empty"},
    {"{\n \"a\": 1,\n \"b\": }\n", ORR_EFORMAT, "f.json:3: ", "unexpected token"},
    {"{\n \"a\": 1,\n \"a\": 2}\n", ORR_EFORMAT, "f.json:3: ", "duplicate object key"},
    {"{\"a\": 1", ORR_EFORMAT, "f.json:1: ", "end of file"},
    {"{\"a\": 1}\n{}", ORR_EFORMAT, "f.json:2: ", "end of file expected"},
    {"{\"a\": \"\xff\"}", ORR_EFORMAT, "f.json:1: ", "decode byte 0xff"},
    {"{\"a\nb\": 1}", ORR_EFORMAT, "f.json:1: ", "unexpected newline"},
    {"{\"a\": 99999999999999999999}", ORR_EFORMAT, "f.json:1: ", "too big integer"},
    {"{\"a\": NaN}", ORR_EFORMAT, "f.json:1: ", "invalid token"},
    {"[1, 2]", ORR_EFORMAT, "f.json: ", "holds an array"},
};

START_TEST(refuses)
{
    json_t *object;

    put_text(at("f.json"), malformed[_i].text);
    ck_assert_int_eq(orri_json_load(at("f.json"), &object), malformed[_i].code);
    ck_assert_ptr_null(object);
    expect_error(malformed[_i].code, at(malformed[_i].where), malformed[_i].what);
    ck_assert_str_ne(orr_error_remedy(), "");
}
END_TEST

START_TEST(missing_file)
{
    json_t *object;

    ck_assert_int_eq(orri_json_load(at("none.json"), &object), ORR_ENOENT);
    expect_error(ORR_ENOENT, at("none.json: "), "no such file");
}
END_TEST

#define F "config.json"

START_TEST(values)
{
    json_t *o = json_pack("{s:i, s:f, s:b, s:s, s:n, s:s}", "n", 12, "p", 0.1, "tied", 1, "kind", "gpt2", "inner", "empty",
                          "");
    int64_t n = 0;
    double p = 0;
    bool b = false;
    const char *s = NULL;

    ck_assert_int_eq(orri_json_int(F, o, "n", 12, 12, &n), 0);
    ck_assert_int_eq(n, 12);
    ck_assert_int_eq(orri_json_double(F, o, "p", 0, 1, &p), 0);
    ck_assert(p == 0.1);
    ck_assert_int_eq(orri_json_double(F, o, "n", -INFINITY, INFINITY, &p), 0);
    ck_assert(p == 12);
    ck_assert_int_eq(orri_json_bool(F, o, "tied", &b), 0);
    ck_assert(b);
    ck_assert_int_eq(orri_json_string(F, o, "kind", &s), 0);
    ck_assert_str_eq(s, "gpt2");
    ck_assert(orri_json_has(o, "n") && !orri_json_has(o, "inner") && !orri_json_has(o, "none"));

    /* Errors name file, key and what to write, and leave the value alone. */
    ck_assert_int_eq(orri_json_int(F, o, "none", 1, 9, &n), ORR_ENOENT);
    expect_error(ORR_ENOENT, "config.json: none ", "is missing");
    ck_assert_str_eq(orr_error_remedy(), "give \"none\" an integer between 1 and 9 in that file");
    ck_assert_int_eq(orri_json_int(F, o, "inner", 1, 9, &n), ORR_ENOENT);
    expect_error(ORR_ENOENT, "config.json: inner ", "is null");
    ck_assert_int_eq(orri_json_int(F, o, "n", 13, 20, &n), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: n ", "is 12, not an integer between 13 and 20");
    ck_assert_int_eq(orri_json_int(F, o, "n", 1, 11, &n), ORR_EFORMAT);
    ck_assert_int_eq(orri_json_int(F, o, "p", 0, 9, &n), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: p ", "is 0.1, not an integer");
    ck_assert_int_eq(orri_json_int(F, o, "kind", 0, 9, &n), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: kind ", "is a string, not an integer");
    ck_assert_int_eq(n, 12);
    ck_assert_int_eq(orri_json_double(F, o, "p", 0.2, 1, &p), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: p ", "is 0.1, not a number between 0.2 and 1");
    ck_assert_int_eq(orri_json_double(F, o, "tied", 0, 1, &p), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: tied ", "is true, not a number");
    ck_assert_int_eq(orri_json_double(F, o, "none", 0, 1, &p), ORR_ENOENT);
    ck_assert_int_eq(orri_json_bool(F, o, "n", &b), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: n ", "is 12, not true or false");
    ck_assert_int_eq(orri_json_bool(F, o, "none", &b), ORR_ENOENT);
    ck_assert_int_eq(orri_json_string(F, o, "n", &s), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: n ", "is 12, not a string");
    ck_assert_int_eq(orri_json_string(F, o, "empty", &s), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, "config.json: empty ", "is empty");
    ck_assert_int_eq(orri_json_string(F, o, "none", &s), ORR_ENOENT);
    json_decref(o);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("json");
    TCase *t = tcase_create("json");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, loads_and_saves);
    tcase_add_loop_test(t, refuses, 0, (int)(sizeof(malformed) / sizeof(malformed[0])));
    tcase_add_test(t, missing_file);
    tcase_add_test(t, values);
    suite_add_tcase(s, t);
    return s;
}
