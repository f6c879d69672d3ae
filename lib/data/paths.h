/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a user's paths lead to: themselves, those below directories, the matches of patterns. */
#ifndef ORRI_PATHS_H
#define ORRI_PATHS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct orri_path {
    char *path;
    bool given;     /* by the caller, not found in a folder or by a pattern */
};

struct orri_paths {
    struct orri_path *items;
    size_t count, capacity;
};

/* Adds what orr_corpus_open() says of `count` paths, in their order. Where it fails the list is still to be freed. ORR_ENOENT. */
int orri_paths_find(struct orri_paths *files, const char *const *paths, int count);
void orri_paths_free(struct orri_paths *files);

bool orri_ends_with(const char *path, const char *ending);

/* Records "PATH:LINE: what" (printf style) as the error and returns ORR_EFORMAT (or ORR_ENOMEM). */
int orri_fail_line(const char *path, int64_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
