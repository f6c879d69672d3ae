/* SPDX-License-Identifier: Apache-2.0 */
#include "io/json.h"

#include "core/core.h"
#include "io/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number with a point";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    default: return "null";
    }
}

int orri_json_parse(const char *path, const void *text, size_t bytes, json_t **object)
{
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);

    *object = NULL;
    if (!root) {
        char *where = orri_format("%s:%d", path, error.line);
        int rc = where ? orri_fail(ORR_EFORMAT, where, "%s", error.text) : ORR_ENOMEM;
        free(where);
        return rc == ORR_EFORMAT ? orri_remedy(rc, "correct that line, or get the file again") : rc;
    }
    if (!json_is_object(root)) {
        int rc = orri_fail(ORR_EFORMAT, path, "holds %s, not a JSON object", kind(root));
        json_decref(root);
        return orri_remedy(rc, "name a file such as config.json, which begins with {");
    }
    *object = root;
    return 0;
}

int orri_json_load(const char *path, json_t **object)
{
    struct orri_map map;

    *object = NULL;
    ORR_TRY(orri_map_open(&map, path, false));
    int rc = orri_json_parse(path, map.data, map.size, object);
    orri_map_close(&map);
    return rc;
}

int orri_json_save(const char *path, const json_t *object)
{
    char *text = json_dumps(object, JSON_INDENT(2));

    if (!text)
        return orri_fail(ORR_ENOMEM, path, "no room for its JSON text");
    size_t bytes = strlen(text);
    text[bytes] = '\n';     /* in the place of the zero byte */
    int rc = orri_write_file(path, text, bytes + 1);
    free(text);
    return rc;
}

bool orri_json_has(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return value && !json_is_null(value);
}

/* Fails for a value (NULL: missing) that is not `wanted`, "an integer between 1 and 9". */
static int unwanted(const char *file, const char *key, const json_t *value, const char *wanted)
{
    int rc;

    if (!value || json_is_null(value)) {
        rc = orri_fail(ORR_ENOENT, file, "%s is %s", key, value ? "null" : "missing");
    } else if (json_is_integer(value)) {
        rc = orri_fail(ORR_EFORMAT, file, "%s is %lld, not %s", key, (long long)json_integer_value(value), wanted);
    } else if (json_is_real(value)) {
        rc = orri_fail(ORR_EFORMAT, file, "%s is %.15g, not %s", key, json_real_value(value), wanted);
    } else {
        rc = orri_fail(ORR_EFORMAT, file, "%s is %s, not %s", key, kind(value), wanted);
    }
    return orri_remedy(rc, "give \"%s\" %s in that file", key, wanted);
}

int orri_json_int(const char *file, const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const json_t *value = json_object_get(object, key);
    char wanted[96];

    if (json_is_integer(value) && json_integer_value(value) >= min && json_integer_value(value) <= max) {
        *out = json_integer_value(value);
        return 0;
    }
    snprintf(wanted, sizeof(wanted), "an integer between %lld and %lld", (long long)min, (long long)max);
    return unwanted(file, key, value, wanted);
}

int orri_json_double(const char *file, const json_t *object, const char *key, double min, double max, double *out)
{
    const json_t *value = json_object_get(object, key);
    char wanted[96];

    if (json_is_number(value) && json_number_value(value) >= min && json_number_value(value) <= max) {
        *out = json_number_value(value);
        return 0;
    }
    snprintf(wanted, sizeof(wanted), "a number between %g and %g", min, max);
    return unwanted(file, key, value, wanted);
}

int orri_json_bool(const char *file, const json_t *object, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value))
        return unwanted(file, key, value, "true or false");
    *out = json_is_true(value);
    return 0;
}

int orri_json_string(const char *file, const json_t *object, const char *key, const char **out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_string(value))
        return unwanted(file, key, value, "a string");
    if (json_string_length(value) == 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, file, "%s is empty", key), "give \"%s\" a string in that file", key);
    *out = json_string_value(value);
    return 0;
}
