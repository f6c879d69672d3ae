/* SPDX-License-Identifier: Apache-2.0 */
/* A folder of its own for each test, files in it, and what an error must look like. */
#ifndef ORR_TEST_FILES_H
#define ORR_TEST_FILES_H

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <orrery/error.h>

#include "io/io.h"

static char folder[4096];

static void files_setup(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(folder, sizeof(folder), "%s/orrery-XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void files_teardown(void)
{
    ck_assert_int_eq(orri_remove_tree(folder), 0);
}

/* The path of a name in the folder. Valid for the next seven calls. */
static inline const char *at(const char *name)
{
    static char paths[8][4352];
    static int next;

    next = (next + 1) % 8;
    snprintf(paths[next], sizeof(paths[next]), "%s/%s", folder, name);
    return paths[next];
}

static inline void put(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");

    ck_assert_msg(f != NULL, "%s cannot be made", path);
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

static inline void put_text(const char *path, const char *text)
{
    put(path, text, strlen(text));
}

/* Is the file there, with just this text? */
static inline int holds(const char *path, const char *text)
{
    char found[256];
    FILE *f = fopen(path, "rb");

    if (!f)
        return 0;
    size_t n = fread(found, 1, sizeof(found), f);
    fclose(f);
    return n == strlen(text) && memcmp(found, text, n) == 0;
}

/* How many entries the folder has. */
static inline int entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;

    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* The last error has this code, is one line, begins with `where` and says `what`. */
#define expect_error(code, where, what)                                                                       \
    do {                                                                                                      \
        ck_assert_msg(orr_error_code() == (code), "code %d: %s", orr_error_code(), orr_error());              \
        ck_assert_msg(strncmp(orr_error(), (where), strlen(where)) == 0, "%s does not begin with %s", orr_error(), \
                      (where));                                                                               \
        ck_assert_msg(strstr(orr_error(), (what)) != NULL, "%s does not say %s", orr_error(), (what));        \
        ck_assert_msg(!strchr(orr_error(), '\n'), "more than one line: %s", orr_error());                     \
    } while (0)

#endif
