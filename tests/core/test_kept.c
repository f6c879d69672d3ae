/* SPDX-License-Identifier: Apache-2.0 */
/* Copies are made once per version and key, whoever asks, and go when they are forgotten. */
#include "tests/check_main.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "core/kept.h"

enum { BYTES = 10000, THREADS = 8, ROUNDS = 200 };

static char of[4][64];
static atomic_int fills;

static void fill(void *argument, void *copy)
{
    atomic_fetch_add(&fills, 1);
    memset(copy, *(const char *)argument, BYTES);
}

/* Asks for the copy of of[i] that one byte of key names, which is filled with `value`. */
static const char *ask(int i, uint64_t version, char key, char value)
{
    return orri_kept(of[i], version, &key, 1, BYTES, fill, &value);
}

static void forget_all(void)
{
    orri_kept_forget(of, sizeof(of));
    ck_assert_uint_eq(orri_kept_bytes(), 0);
    atomic_store(&fills, 0);
}

static void check_copy(const char *copy, char value)
{
    ck_assert_ptr_nonnull(copy);
    ck_assert(copy[0] == value && copy[BYTES - 1] == value);
}

START_TEST(test_filled_once)
{
    const char *copy = ask(0, 7, 'a', 'x');

    check_copy(copy, 'x');
    ck_assert_uint_eq((uintptr_t)copy % 64, 0);
    ck_assert_ptr_eq(ask(0, 7, 'a', 'y'), copy);
    check_copy(copy, 'x');
    ck_assert_int_eq(atomic_load(&fills), 1);
    ck_assert_uint_eq(orri_kept_bytes(), BYTES);
    forget_all();
}
END_TEST

/* An older version is another one, too: versions do not tell which was first. */
START_TEST(test_new_version)
{
    const char *copy = ask(0, 7, 'a', 'x');

    ck_assert_ptr_eq(ask(0, 9, 'a', 'y'), copy);
    check_copy(copy, 'y');
    check_copy(ask(0, 7, 'a', 'z'), 'z');
    ck_assert_int_eq(atomic_load(&fills), 3);
    ck_assert_uint_eq(orri_kept_bytes(), BYTES);
    forget_all();
}
END_TEST

START_TEST(test_version_0_is_not_kept)
{
    ck_assert_ptr_null(ask(0, 0, 'a', 'x'));
    ck_assert_int_eq(atomic_load(&fills), 0);
    ck_assert_uint_eq(orri_kept_bytes(), 0);
}
END_TEST

START_TEST(test_keys_and_addresses)
{
    const char *a = ask(0, 1, 'a', 'x'), *b = ask(0, 1, 'b', 'y'), *other = ask(1, 1, 'a', 'z');

    check_copy(a, 'x');
    check_copy(b, 'y');
    check_copy(other, 'z');
    /* A key that another begins with is another one. */
    check_copy(orri_kept(of[0], 1, "ab", 2, BYTES, fill, "w"), 'w');
    ck_assert_int_eq(atomic_load(&fills), 4);
    ck_assert_uint_eq(orri_kept_bytes(), 4 * BYTES);
    ck_assert_ptr_eq(ask(0, 1, 'a', '-'), a);
    ck_assert_ptr_eq(ask(0, 1, 'b', '-'), b);
    forget_all();
}
END_TEST

/* What begins in the range goes, up to its last byte. */
START_TEST(test_forget)
{
    for (int i = 0; i < 4; i++)
        ask(i, 1, 'a', 'x');
    ask(1, 1, 'b', 'x');
    orri_kept_forget(of[1], sizeof(of[1]));
    ck_assert_uint_eq(orri_kept_bytes(), 3 * BYTES);
    orri_kept_forget(of[2] + 1, sizeof(of[2]));
    ck_assert_uint_eq(orri_kept_bytes(), 2 * BYTES);
    atomic_store(&fills, 0);
    check_copy(ask(0, 1, 'a', '-'), 'x');
    check_copy(ask(2, 1, 'a', '-'), 'x');
    ck_assert_int_eq(atomic_load(&fills), 0);
    check_copy(ask(1, 1, 'a', 'y'), 'y');
    ck_assert_int_eq(atomic_load(&fills), 1);
    forget_all();
}
END_TEST

/* Large enough for huge pages. */
START_TEST(test_large)
{
    enum { LARGE = 20 << 20 };
    char *copy = (char *)orri_kept(of[0], 1, "", 0, LARGE, fill, "x");

    ck_assert_ptr_nonnull(copy);
    copy[LARGE - 1] = 'y';
    ck_assert_uint_eq(orri_kept_bytes(), LARGE);
    forget_all();
}
END_TEST

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static pthread_barrier_t barrier;
static atomic_int filling, torn;

/* Long enough for others to come. */
static void fill_slowly(void *argument, void *copy)
{
    int others = atomic_fetch_add(&filling, 1);

    atomic_fetch_add(&torn, others);
    nanosleep(&(struct timespec){0, 100000}, NULL);
    fill(argument, copy);
    atomic_fetch_sub(&filling, 1);
}

/* In each round all want the same copy, of the round's version. */
static void *race(void *nothing)
{
    for (int round = 1; round <= ROUNDS; round++) {
        char value = (char)round;
        pthread_barrier_wait(&barrier);
        const char *copy = orri_kept(of[0], (uint64_t)round, "k", 1, BYTES, fill_slowly, &value);
        for (int i = 0; i < BYTES; i += BYTES / 10)
            atomic_fetch_add(&torn, copy[i] != value);
        pthread_barrier_wait(&barrier);
    }
    return nothing;
}

START_TEST(test_one_fills)
{
    pthread_t thread[THREADS];

    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, race, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
    pthread_barrier_destroy(&barrier);
    ck_assert_int_eq(atomic_load(&torn), 0);
    ck_assert_int_eq(atomic_load(&fills), ROUNDS);
    ck_assert_uint_eq(orri_kept_bytes(), BYTES);
    forget_all();
}
END_TEST

/* Each has copies of its own, which come and go while the others' stay. */
static void *mind_own(void *argument)
{
    char (*mine)[64] = argument;

    for (int round = 1; round <= ROUNDS; round++) {
        for (char key = 'a'; key < 'e'; key++) {
            const char *copy = orri_kept(mine, (uint64_t)round, &key, 1, BYTES, fill, &key);
            atomic_fetch_add(&torn, copy[0] != key || copy[BYTES - 1] != key);
        }
        if (round % 10 == 0)
            orri_kept_forget(mine, sizeof(*mine));
    }
    return NULL;
}

START_TEST(test_each_its_own)
{
    pthread_t thread[4];

    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, mind_own, &of[i]), 0);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
    ck_assert_int_eq(atomic_load(&torn), 0);
    ck_assert_int_eq(atomic_load(&fills), 4 * 4 * ROUNDS);
    forget_all();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("kept");
    TCase *c = tcase_create("kept");

    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_filled_once);
    tcase_add_test(c, test_new_version);
    tcase_add_test(c, test_version_0_is_not_kept);
    tcase_add_test(c, test_keys_and_addresses);
    tcase_add_test(c, test_forget);
    tcase_add_test(c, test_large);
    tcase_add_test(c, test_one_fills);
    tcase_add_test(c, test_each_its_own);
    suite_add_tcase(s, c);
    return s;
}
