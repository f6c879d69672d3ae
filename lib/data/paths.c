/* SPDX-License-Identifier: Apache-2.0 */
#include "data/paths.h"

#include "core/core.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The directories that lead to one, to notice a link back into them. */
struct ancestors {
    const struct ancestors *up;
    dev_t device;
    ino_t inode;
};

/* Takes `path` (NULL: an allocation that failed). */
static int add(struct orri_paths *files, char *path, bool given)
{
    if (!path)
        return ORR_ENOMEM;
    if (files->count == files->capacity) {
        size_t capacity = files->capacity ? 2 * files->capacity : 64;
        struct orri_path *items = realloc(files->items, capacity * sizeof(*items));
        if (!items) {
            int rc = orri_fail(ORR_ENOMEM, path, "no room for a list of %zu files", capacity);
            free(path);
            return rc;
        }
        files->items = items;
        files->capacity = capacity;
    }
    files->items[files->count++] = (struct orri_path){path, given};
    return 0;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct orri_path *)a)->path, ((const struct orri_path *)b)->path);
}

static int cannot_open(const char *path)
{
    return orri_fail(ORR_ENOENT, path, "cannot be opened: %s", strerror(errno));
}

static int add_directory(struct orri_paths *files, const char *path, const struct stat *st, const struct ancestors *up)
{
    const struct ancestors here = {up, st->st_dev, st->st_ino};
    const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
    struct dirent *entry;
    int rc = 0;

    for (; up; up = up->up)
        if (up->device == here.device && up->inode == here.inode)
            return 0;
    DIR *directory = opendir(path);
    if (!directory)
        return cannot_open(path);
    while (rc == 0 && (entry = readdir(directory))) {
        struct stat inner;
        if (entry->d_name[0] == '.')
            continue;
        char *name = orri_format("%s%s%s", path, slash, entry->d_name);
        const bool there = name && stat(name, &inner) == 0;
        if (there && S_ISREG(inner.st_mode)) {
            rc = add(files, name, false);
            continue;
        }
        if (!name)
            rc = ORR_ENOMEM;
        else if (there && S_ISDIR(inner.st_mode))
            rc = add_directory(files, name, &inner, &here);
        free(name);
    }
    closedir(directory);
    return rc;
}

/* A file, or what is below a directory, in order. */
static int add_existing(struct orri_paths *files, const char *path, const struct stat *st, bool given)
{
    const size_t from = files->count;

    if (!S_ISDIR(st->st_mode))
        return add(files, orri_strdup(path), given);
    ORR_TRY(add_directory(files, path, st, NULL));
    if (files->count == from)
        return orri_remedy(orri_fail(ORR_ENOENT, path, "no file is in this directory"), "put text or .bin files there");
    qsort(files->items + from, files->count - from, sizeof(*files->items), by_path);
    return 0;
}

void orri_paths_free(struct orri_paths *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->items[i].path);
    free(files->items);
    *files = (struct orri_paths){0};
}

static int add_pattern(struct orri_paths *files, const char *pattern)
{
    glob_t found;
    int rc = 0, status = glob(pattern, GLOB_NOSORT, NULL, &found);

    if (status == GLOB_NOMATCH)
        return orri_remedy(orri_fail(ORR_ENOENT, pattern, "no file matches"), "check the pattern");
    if (status != 0)
        return orri_fail(status == GLOB_NOSPACE ? ORR_ENOMEM : ORR_ENOENT, pattern, "the pattern cannot be followed");
    struct orri_paths matches = {0};
    for (size_t i = 0; i < found.gl_pathc && rc == 0; i++)
        rc = add(&matches, orri_strdup(found.gl_pathv[i]), false);
    globfree(&found);
    qsort(matches.items, matches.count, sizeof(*matches.items), by_path);
    for (size_t i = 0; i < matches.count && rc == 0; i++) {
        struct stat st;
        const char *path = matches.items[i].path;
        rc = stat(path, &st) == 0 ? add_existing(files, path, &st, false) : cannot_open(path);
    }
    orri_paths_free(&matches);
    return rc;
}

static int add_path(struct orri_paths *files, const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0)
        return add_existing(files, path, &st, true);
    if (errno != ENOENT)
        return cannot_open(path);
    if (strpbrk(path, "*?["))
        return add_pattern(files, path);
    char *index = orri_format("%s.idx", path);
    if (!index)
        return ORR_ENOMEM;
    if (stat(index, &st) == 0)
        return add(files, index, true);     /* the path is a prefix, as Megatron-LM takes it */
    free(index);
    return orri_remedy(orri_fail(ORR_ENOENT, path, "no such file or directory"), "check the path");
}

int orri_paths_find(struct orri_paths *files, const char *const *paths, int count)
{
    for (int i = 0; i < count; i++)
        ORR_TRY(add_path(files, paths[i]));
    return 0;
}

bool orri_ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);

    return n >= m && strcmp(path + n - m, ending) == 0;
}

int orri_fail_line(const char *path, int64_t line, const char *format, ...)
{
    char what[512];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    char *where = orri_format("%s:%lld", path, (long long)line);
    int rc = where ? orri_fail(ORR_EFORMAT, where, "%s", what) : ORR_ENOMEM;
    free(where);
    return rc;
}
