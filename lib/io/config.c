/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/config.h>

#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "io/json.h"

struct orr_config {
    char *name;
    json_t *object;
};

static struct orr_config *wrap(const char *name, json_t *object)
{
    struct orr_config *config = orri_calloc(1, sizeof(*config));

    if (config && object && (config->name = orri_strdup(name)) != NULL) {
        config->object = object;
        return config;
    }
    free(config);
    json_decref(object);
    return NULL;
}

struct orr_config *orr_config_create(const char *name)
{
    return wrap(name, json_object());
}

struct orr_config *orr_config_open(const char *path)
{
    json_t *object;

    return orri_json_load(path, &object) == 0 ? wrap(path, object) : NULL;
}

void orr_config_destroy(struct orr_config *config)
{
    if (!config)
        return;
    json_decref(config->object);
    free(config->name);
    free(config);
}

int orr_config_set(struct orr_config *config, const char *assignment)
{
    const char *equals = strchr(assignment, '=');

    if (!equals || equals == assignment)
        return orri_remedy(orri_fail(ORR_EINVAL, "config", "'%s' sets nothing", assignment),
                           "write key=value, as in n_layer=6");
    char *key = strndup(assignment, (size_t)(equals - assignment));
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
    if (!value)
        value = json_string(equals + 1);
    int failed = !key || !value || json_object_set_new(config->object, key, value) != 0;
    free(key);
    return failed ? orri_fail(ORR_EINVAL, "config", "'%s' cannot be set: it is not UTF-8", assignment) : ORR_OK;
}

int orr_config_set_dtype(struct orr_config *config, enum orr_dtype dtype)
{
    static const char *const names[] = {[ORR_F32] = "float32", [ORR_BF16] = "bfloat16", [ORR_F16] = "float16"};
    const char *key = json_object_get(config->object, "dtype") ? "dtype" : "torch_dtype";

    if ((size_t)dtype >= ORRI_COUNT(names))
        return orri_fail(ORR_EINVAL, config->name, "parameters are not stored in %s", orr_dtype_name(dtype));
    if (strcmp(key, "dtype") == 0)
        json_object_del(config->object, "torch_dtype");     /* a second opinion */
    if (json_object_set_new(config->object, key, json_string(names[dtype])) != 0)
        return orri_fail(ORR_ENOMEM, config->name, "no room for %s", key);
    return ORR_OK;
}

char *orr_config_text(const struct orr_config *config)
{
    char *text = json_dumps(config->object, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));

    if (!text)
        orri_fail(ORR_ENOMEM, "memory", "no room for the text of %s", config->name);
    return text;
}

int orr_config_save(const struct orr_config *config, const char *path)
{
    return orri_json_save(path, config->object);
}

bool orr_config_has(const struct orr_config *config, const char *key)
{
    return orri_json_has(config->object, key);
}

int orr_config_int(const struct orr_config *config, const char *key, int64_t min, int64_t max, int64_t *value)
{
    return orri_json_int(config->name, config->object, key, min, max, value);
}

int orr_config_double(const struct orr_config *config, const char *key, double min, double max, double *value)
{
    return orri_json_double(config->name, config->object, key, min, max, value);
}

int orr_config_bool(const struct orr_config *config, const char *key, bool *value)
{
    return orri_json_bool(config->name, config->object, key, value);
}

int orr_config_string(const struct orr_config *config, const char *key, const char **value)
{
    return orri_json_string(config->name, config->object, key, value);
}

const char *orr_config_name(const struct orr_config *config)
{
    return config->name;
}

struct orr_config *orr_config_section(const struct orr_config *config, const char *key)
{
    json_t *object = json_object_get(config->object, key);

    if (!json_is_object(object)) {
        orri_remedy(orri_fail(orr_config_has(config, key) ? ORR_EFORMAT : ORR_ENOENT, config->name, "%s is no object", key),
                    "give \"%s\" an object, {...}, in that file", key);
        return NULL;
    }
    char *name = orri_format("%s: %s", config->name, key);
    struct orr_config *section = name ? wrap(name, json_incref(object)) : NULL;
    free(name);
    return section;
}

int orr_config_item(const struct orr_config *config, const char *key, int index, const char **value)
{
    const json_t *list = json_object_get(config->object, key);

    *value = json_string_value(json_array_get(list, (size_t)index));
    if (*value)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, config->name, "%s is no list with a string as number %d", key, index + 1),
                       "give \"%s\" a list of strings, as many as are needed", key);
}

const char *orr_config_other_key(const struct orr_config *config, const char *const *known)
{
    const char *key;
    json_t *value;

    json_object_foreach(config->object, key, value) {
        bool found = json_is_null(value);
        for (const char *const *k = known; *k && !found; k++)
            found = strcmp(key, *k) == 0;
        if (!found)
            return key;
    }
    return NULL;
}
