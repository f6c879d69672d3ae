/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "faults.h"
#include "files.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- reading ------------------------------------------------------------------------------------ */

START_TEST(map_reads)
{
    struct orri_map map;

    put_text(at("a"), "abc");
    ck_assert_int_eq(orri_map_open(&map, at("a"), false), 0);
    ck_assert_uint_eq(map.size, 3);
    ck_assert_int_eq(memcmp(map.data, "abc", 3), 0);
    orri_map_close(&map);
    orri_map_close(&map);

    put_text(at("empty"), "");
    ck_assert_int_eq(orri_map_open(&map, at("empty"), true), 0);
    ck_assert_uint_eq(map.size, 0);
    ck_assert_ptr_nonnull(map.data);
    orri_map_close(&map);
}
END_TEST

START_TEST(map_refuses)
{
    struct orri_map map;

    ck_assert_int_eq(orri_map_open(&map, at("none"), false), ORR_ENOENT);
    expect_error(ORR_ENOENT, at("none: "), "no such file");
    ck_assert_str_ne(orr_error_remedy(), "");

    ck_assert_int_eq(orri_map_open(&map, folder, false), ORR_ENOENT);
    expect_error(ORR_ENOENT, folder, "is a directory");

    ck_assert_int_eq(mkfifo(at("pipe"), 0600), 0);
    ck_assert_int_eq(orri_map_open(&map, at("pipe"), false), ORR_ENOENT);
    expect_error(ORR_ENOENT, at("pipe: "), "not a regular file");

    put_text(at("empty"), "");
    ck_assert_int_eq(orri_map_open(&map, at("empty"), false), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("empty: "), "is empty");

    put_text(at("locked"), "abc");
    ck_assert_int_eq(chmod(at("locked"), 0), 0);
    ck_assert_int_eq(chmod(folder, 0711), 0);
    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);    /* root may read everything */
    ck_assert_int_eq(orri_map_open(&map, at("locked"), false), ORR_ENOENT);
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
    expect_error(ORR_ENOENT, at("locked: "), "Permission denied");
}
END_TEST

/* ---- whatever fails, the old or the new is there, whole, and nothing else ----------------------- */

#define OLD "the old text"
#define NEW "the new text, which is longer"

START_TEST(file_is_whole)
{
    const char *path = at("file");

    for (int nth = 1;; nth++) {
        put_text(path, OLD);
        faults_arm(nth, ENOSPC);
        int rc = orri_write_file(path, NEW, strlen(NEW));
        bool failed = faults_disarm();
        ck_assert_int_eq(rc, failed ? ORR_EIO : 0);
        ck_assert_int_eq(entries(folder), 1);
        if (!failed) {
            ck_assert_int_gt(nth, 4);   /* write, sync, rename, sync of the folder */
            ck_assert(holds(path, NEW));
            break;
        }
        ck_assert(holds(path, OLD) || holds(path, NEW));
        expect_error(ORR_EIO, folder, "No space left");
        ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "free some space"));
    }
}
END_TEST

START_TEST(new_file_is_whole)
{
    const char *path = at("file");

    for (int nth = 1; nth <= 3; nth++) {
        faults_arm(nth, EIO);
        ck_assert_int_eq(orri_write_file(path, NEW, strlen(NEW)), ORR_EIO);
        ck_assert(faults_disarm());
        expect_error(ORR_EIO, path, "Input/output error");
        ck_assert_int_eq(entries(folder), 0);
    }
}
END_TEST

START_TEST(output_after_failure)
{
    struct orri_output out;

    ck_assert_int_eq(orri_output_open(&out, at("file")), 0);
    ck_assert(access(at("file.tmp"), F_OK) == 0);
    faults_arm(1, ENOSPC);
    ck_assert_int_eq(orri_output_write(&out, 0, "a", 1), ORR_EIO);
    ck_assert(faults_disarm());
    ck_assert_int_eq(entries(folder), 0);
    ck_assert_int_eq(orri_output_write(&out, 1, "b", 1), ORR_EIO);
    ck_assert_int_eq(orri_output_commit(&out), ORR_EIO);
    orri_output_abort(&out);
    ck_assert_int_eq(entries(folder), 0);
}
END_TEST

START_TEST(output_abort)
{
    struct orri_output out;

    put_text(at("file"), OLD);
    put_text(at("file.tmp"), "what a killed writer left, which is a longer text than the new one");
    ck_assert_int_eq(orri_output_open(&out, at("file")), 0);
    ck_assert_int_eq(orri_output_write(&out, 0, "a", 1), 0);
    orri_output_abort(&out);
    ck_assert_int_eq(entries(folder), 1);
    ck_assert(holds(at("file"), OLD));
    put_text(at("file.tmp"), "what a killed writer left, which is a longer text than the new one");
    ck_assert_int_eq(orri_write_file(at("file"), NEW, strlen(NEW)), 0);
    ck_assert(holds(at("file"), NEW));
}
END_TEST

START_TEST(size_limit)
{
    struct rlimit old, low;
    static char big[100000];

    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 50000;
    put_text(at("file"), OLD);
    /* Check notes every assertion in a file, which the limit would cut. */
    int limited = setrlimit(RLIMIT_FSIZE, &low);
    int rc = orri_write_file(at("file"), big, sizeof(big));
    int unlimited = setrlimit(RLIMIT_FSIZE, &old);
    ck_assert(limited == 0 && unlimited == 0);
    ck_assert_int_eq(rc, ORR_EIO);
    expect_error(ORR_EIO, at("file: "), "File too large");
    ck_assert_int_eq(entries(folder), 1);
    ck_assert(holds(at("file"), OLD));
}
END_TEST

START_TEST(not_writable)
{
    put_text(at("file"), OLD);
    ck_assert_int_eq(orri_write_file(at("file/below"), NEW, strlen(NEW)), ORR_EIO);
    expect_error(ORR_EIO, at("file/below: "), "Not a directory");
    ck_assert_int_eq(orri_write_file(at("none/below"), NEW, strlen(NEW)), ORR_EIO);
    expect_error(ORR_EIO, at("none/below: "), "No such file");
    ck_assert_int_eq(orri_write_file(folder, NEW, strlen(NEW)), ORR_EIO);
    expect_error(ORR_EIO, folder, "is a directory");
    ck_assert_int_eq(orri_write_file("/dev/null", NEW, strlen(NEW)), ORR_EIO);
    expect_error(ORR_EIO, "/dev/null: ", "not a regular file");

    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);
    else
        ck_assert_int_eq(chmod(folder, 0500), 0);
    int rc = orri_write_file(at("new"), NEW, strlen(NEW));
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
    ck_assert_int_eq(chmod(folder, 0700), 0);
    ck_assert_int_eq(rc, ORR_EIO);
    expect_error(ORR_EIO, at("new: "), "Permission denied");
    ck_assert_str_ne(orr_error_remedy(), "");
    ck_assert_int_eq(entries(folder), 1);
}
END_TEST

/* ---- folders and links -------------------------------------------------------------------------- */

static int write_folder(const char *path)
{
    struct orri_folder f;
    char name[4400];

    ORR_TRY(orri_folder_begin(&f, path));
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        snprintf(name, sizeof(name), i ? "%s/sub" : "%s", f.temp);
        rc = i ? orri_make_folder(name) : 0;
        strcat(name, "/file");
        if (rc == 0)
            rc = orri_write_file(name, NEW, strlen(NEW));
    }
    if (rc == 0)
        return orri_folder_commit(&f);
    orri_folder_abort(&f);
    return rc;
}

static void folder_whole(bool exchange)
{
    faults_old_system(!exchange);
    for (int nth = 1;; nth++) {
        ck_assert_int_eq(orri_remove_tree(at("out")), 0);
        ck_assert_int_eq(mkdir(at("out"), 0777), 0);
        put_text(at("out/file"), OLD);
        faults_arm(nth, EIO);
        int rc = write_folder(at("out"));
        bool failed = faults_disarm();
        bool is_old = holds(at("out/file"), OLD) && entries(at("out")) == 1;
        bool is_new = holds(at("out/file"), NEW) && holds(at("out/sub/file"), NEW) && entries(at("out")) == 2;
        ck_assert_int_eq(entries(folder), 1);
        ck_assert_msg(rc == 0 ? is_new : is_old || is_new, "failing call %d left neither", nth);
        if (!failed) {
            ck_assert_int_eq(rc, 0);
            ck_assert_int_gt(nth, 12);
            break;
        }
        /* Without an exchange the old folder has a second way to go once the new one is in its place. */
        ck_assert(rc == ORR_EIO || (rc == 0 && !exchange));
        if (rc)
            expect_error(ORR_EIO, folder, "Input/output error");
    }
    faults_old_system(false);
}

START_TEST(folder_is_whole)
{
    folder_whole(true);
}
END_TEST

START_TEST(folder_is_whole_without_exchange)
{
    folder_whole(false);
}
END_TEST

START_TEST(folder_new_and_nested)
{
    ck_assert_int_eq(write_folder(at("a/b/out///")), 0);
    ck_assert(holds(at("a/b/out/sub/file"), NEW));
    ck_assert_int_eq(entries(at("a/b")), 1);

    /* What a killed writer left does not end up in the next. */
    ck_assert_int_eq(orri_make_folder(at("next.tmp/stale")), 0);
    ck_assert_int_eq(write_folder(at("next")), 0);
    ck_assert_int_eq(entries(at("next")), 2);
}
END_TEST

START_TEST(folder_refused)
{
    struct orri_folder f = {0};

    put_text(at("file"), OLD);
    ck_assert_int_eq(write_folder(at("file/out")), ORR_EIO);
    expect_error(ORR_EIO, at("file"), "Not a directory");
    ck_assert_int_eq(write_folder(at("file")), ORR_EIO);
    expect_error(ORR_EIO, at("file: "), "cannot rename to it");
    ck_assert_int_eq(entries(folder), 1);
    ck_assert(holds(at("file"), OLD));
    orri_folder_abort(&f);
}
END_TEST

START_TEST(trees)
{
    ck_assert_int_eq(orri_make_folder(at("a/b/c")), 0);
    ck_assert_int_eq(orri_make_folder(at("a/b/c")), 0);
    put_text(at("a/b/file"), OLD);
    put_text(at("kept"), OLD);
    ck_assert_int_eq(symlink("../../kept", at("a/b/link")), 0);
    ck_assert_int_eq(symlink("..", at("a/b/up")), 0);
    ck_assert_int_eq(orri_remove_tree(at("a")), 0);
    ck_assert_int_eq(orri_remove_tree(at("a")), 0);
    ck_assert_int_eq(entries(folder), 1);
    ck_assert_int_eq(orri_remove_tree(at("kept")), 0);
    ck_assert_int_eq(entries(folder), 0);
}
END_TEST

static bool links_to(const char *path, const char *target)
{
    char found[64] = "";

    return readlink(path, found, sizeof(found) - 1) == (ssize_t)strlen(target) && strcmp(found, target) == 0;
}

START_TEST(links)
{
    const char *path = at("latest");

    ck_assert_int_eq(orri_symlink("step-1", path), 0);
    ck_assert(links_to(path, "step-1"));
    for (int nth = 1;; nth++) {
        ck_assert_int_eq(orri_symlink("step-1", path), 0);
        faults_arm(nth, ENOSPC);
        int rc = orri_symlink("step-2", path);
        bool failed = faults_disarm();
        ck_assert_int_eq(rc, failed ? ORR_EIO : 0);
        ck_assert_int_eq(entries(folder), 1);
        ck_assert(links_to(path, "step-2") || (failed && links_to(path, "step-1")));
        if (!failed) {
            ck_assert_int_gt(nth, 3);
            break;
        }
    }
    ck_assert_int_eq(orri_make_folder(at("real/x")), 0);
    ck_assert_int_eq(orri_symlink("step-1", at("real")), ORR_EIO);
    expect_error(ORR_EIO, at("real: "), "cannot replace");
    ck_assert_int_eq(entries(folder), 2);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("file");
    TCase *t = tcase_create("file");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, map_reads);
    tcase_add_test(t, map_refuses);
    tcase_add_test(t, file_is_whole);
    tcase_add_test(t, new_file_is_whole);
    tcase_add_test(t, output_after_failure);
    tcase_add_test(t, output_abort);
    tcase_add_test(t, size_limit);
    tcase_add_test(t, not_writable);
    tcase_add_test(t, folder_is_whole);
    tcase_add_test(t, folder_is_whole_without_exchange);
    tcase_add_test(t, folder_new_and_nested);
    tcase_add_test(t, folder_refused);
    tcase_add_test(t, trees);
    tcase_add_test(t, links);
    suite_add_tcase(s, t);
    return s;
}
