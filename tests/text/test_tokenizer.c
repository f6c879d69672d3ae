/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"

#include <stdio.h>
#include <string.h>

#include <orrery/error.h>
#include <orrery/tokenizer.h>

START_TEST(bytes)
{
    struct orr_tokenizer *t = orr_tokenizer_open("bytes");
    char all[512], *text;
    int32_t *ids;
    size_t count, size;

    ck_assert_ptr_nonnull(t);
    ck_assert_str_eq(orr_tokenizer_name(t), "bytes");
    ck_assert_int_eq(orr_tokenizer_vocab_size(t), 256);
    for (int i = 0; i < 512; i++)
        all[i] = (char)(255 - i / 2);
    ck_assert_int_eq(orr_tokenizer_encode(t, all, 512, &ids, &count), 0);
    ck_assert_uint_eq(count, 512);
    for (int i = 0; i < 512; i++)
        ck_assert_int_eq(ids[i], 255 - i / 2);
    ck_assert_int_eq(orr_tokenizer_decode(t, ids, count, &text, &size), 0);
    ck_assert_uint_eq(size, 512);
    ck_assert_int_eq(memcmp(text, all, 512), 0);
    ck_assert_int_eq(text[512], 0);
    free(text);
    free(ids);

    ck_assert_int_eq(orr_tokenizer_encode(t, "", 0, &ids, &count), 0);
    ck_assert_uint_eq(count, 0);
    ck_assert_ptr_nonnull(ids);
    ck_assert_int_eq(orr_tokenizer_decode(t, ids, 0, &text, &size), 0);
    ck_assert_str_eq(text, "");
    free(text);
    free(ids);
    orr_tokenizer_destroy(t);
    orr_tokenizer_destroy(NULL);
}
END_TEST

START_TEST(refuses)
{
    static const int32_t bad[] = {-1, 256, INT32_MAX, INT32_MIN};
    struct orr_tokenizer *t = orr_tokenizer_open("bytes");
    size_t size;
    char *text;

    for (int i = 0; i < 4; i++) {
        const int32_t ids[] = {72, 105, bad[i]};
        char expected[64];
        ck_assert_int_eq(orr_tokenizer_decode(t, ids, 3, &text, &size), ORR_EINVAL);
        snprintf(expected, sizeof(expected), "id %d at position 2 is outside the vocabulary of 256", bad[i]);
        ck_assert_ptr_nonnull(strstr(orr_error(), expected));
    }
    orr_tokenizer_destroy(t);

    ck_assert_ptr_null(orr_tokenizer_open("byte"));
    ck_assert_int_eq(orr_error_code(), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "\"byte\""));
    ck_assert_str_eq(orr_error_remedy(), "name a tokenizer.json, vocabulary files, their directory, or bytes");
    ck_assert_ptr_null(orr_tokenizer_open(""));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *t = tcase_create("tokenizer");

    tcase_add_test(t, bytes);
    tcase_add_test(t, refuses);
    suite_add_tcase(s, t);
    return s;
}
