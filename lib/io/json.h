/* SPDX-License-Identifier: Apache-2.0 */
/* JSON files through jansson: loading, required values with a range, saving. */
#ifndef ORRI_JSON_H
#define ORRI_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Reads a file that is one JSON object, UTF-8, no name twice. *object is the caller's to json_decref().
 * ORR_ENOENT; ORR_EFORMAT with "file:line: what". */
int orri_json_load(const char *path, json_t **object);

/* The same of a text in memory, named `path` in errors. ORR_EFORMAT. */
int orri_json_parse(const char *path, const void *text, size_t bytes, json_t **object);

/* Writes the object to the file (indented by 2, in the order of insertion), whole or not at all. */
int orri_json_save(const char *path, const json_t *object);

/* True where the object has the key with a value other than null: Hugging Face writes null for "default". */
bool orri_json_has(const json_t *object, const char *key);

/* The value under a key that must be there. `file` is named in errors. ORR_ENOENT where the key is missing
 * or null, ORR_EFORMAT for another type or a value outside [min, max]; the remedy says what to write.
 * An integer is written without a point; a number may have one or not. A string is borrowed from the
 * object and not empty. */
int orri_json_int(const char *file, const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out);
int orri_json_double(const char *file, const json_t *object, const char *key, double min, double max, double *out);
int orri_json_bool(const char *file, const json_t *object, const char *key, bool *out);
int orri_json_string(const char *file, const json_t *object, const char *key, const char **out);

#endif
