/* SPDX-License-Identifier: Apache-2.0 */
/* Components of a tokenizer.json: what all of them are read with. What is wrong is told with the file, where in it, and the type. */
#include "core/core.h"
#include "text/text.h"

#include <stdio.h>
#include <stdlib.h>

int orri_component_fail(const struct orri_component *c, const char *format, ...)
{
    char what[512], where[64];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    snprintf(where, sizeof(where), c->type ? "%s (%.40s)" : "%s", c->name, c->type);
    return orri_remedy(orri_fail(ORR_EFORMAT, c->file, "%s: %s", where, what), "correct the file, or get it again");
}

int orri_component_read(struct orri_component *c, const char *file, const char *name, const json_t *json)
{
    *c = (struct orri_component){.file = file, .json = json};
    snprintf(c->name, sizeof(c->name), "%s", name);
    if (!json_is_object(json))
        return orri_component_fail(c, "is no object");
    c->type = json_string_value(json_object_get(json, "type"));
    return c->type ? ORR_OK : orri_component_fail(c, "has no \"type\"");
}

int orri_component_unknown(const struct orri_component *c)
{
    return orri_remedy(orri_fail(ORR_EFORMAT, c->file, "%s: type \"%.64s\" is not known", c->name, c->type),
                       "docs/text.md lists the types that are");
}

int orri_component_keys(const struct orri_component *c, const char *const *keys)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)c->json, key, value) {
        bool known = strcmp(key, "type") == 0;
        for (int i = 0; !known && keys[i]; i++)
            known = strcmp(key, keys[i]) == 0;
        if (!known)
            return orri_component_fail(c, "\"%.64s\" is not known", key);
    }
    return ORR_OK;
}

int orri_component_bool(const struct orri_component *c, const char *key, int standard, bool *out)
{
    const json_t *value = json_object_get(c->json, key);

    *out = standard == 1;
    if (standard >= 0 && (!value || json_is_null(value)))
        return ORR_OK;
    if (!json_is_boolean(value))
        return orri_component_fail(c, "%s is not true or false", key);
    *out = json_is_true(value);
    return ORR_OK;
}

int orri_component_int(const struct orri_component *c, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const json_t *value = json_object_get(c->json, key);

    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return orri_component_fail(c, "%s is not an integer between %lld and %lld", key, (long long)min, (long long)max);
    *out = json_integer_value(value);
    return ORR_OK;
}

int orri_component_text(const struct orri_component *c, const char *key, bool needed, char **out, size_t *size)
{
    const json_t *value = json_object_get(c->json, key);

    *out = NULL;
    *size = 0;
    if (!needed && (!value || json_is_null(value)))
        return ORR_OK;
    if (!json_is_string(value))
        return orri_component_fail(c, "%s is not a string", key);
    *out = orri_strdup(json_string_value(value));
    *size = json_string_length(value);
    return *out ? ORR_OK : ORR_ENOMEM;
}

int orri_component_character(const struct orri_component *c, const char *key, char out[5])
{
    const json_t *value = json_object_get(c->json, key);
    size_t size = json_string_length(value), at = 0;

    if (size > 0)
        orri_character(json_string_value(value), &at);
    if (size == 0 || at != size)
        return orri_component_fail(c, "%s is not a character", key);
    memcpy(out, json_string_value(value), size);
    out[size] = '\0';
    return ORR_OK;
}

int orri_component_pattern(const struct orri_component *c, struct orri_pattern *out)
{
    const json_t *pattern = json_object_get(c->json, "pattern");
    const json_t *string = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");

    if (json_object_size(pattern) != 1 || (!json_is_string(string) && !json_is_string(regex)))
        return orri_component_fail(c, "pattern is neither {\"String\": ...} nor {\"Regex\": ...}");
    if (string) {
        out->size = json_string_length(string);
        out->text = orri_strdup(json_string_value(string));
        return out->text ? ORR_OK : ORR_ENOMEM;
    }
    char *where = orri_format("%s: %s (%s): pattern", c->file, c->name, c->type);
    out->regex = where ? orri_regex_create(where, json_string_value(regex)) : NULL;
    free(where);
    return out->regex ? ORR_OK : orr_error_code();
}

int orri_component_each(const struct orri_component *c, const char *key, struct orri_files *t,
                        int (*read)(struct orri_files *t, const struct orri_component *c))
{
    const json_t *list = json_object_get(c->json, key);
    struct orri_component one;
    char name[64];

    if (!json_is_array(list))
        return orri_component_fail(c, "%s is no list", key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        snprintf(name, sizeof(name), "%.40s[%zu]", c->name, i);
        ORR_TRY(orri_component_read(&one, c->file, name, json_array_get(list, i)));
        ORR_TRY(read(t, &one));
    }
    return ORR_OK;
}

int orri_step_add(void *array, int *count, size_t element, void *step)
{
    size_t before = (size_t)*count * element;
    char *steps;

    memcpy(&steps, array, sizeof(steps));           /* pointers of any type */
    steps = realloc(steps, before + element);
    if (!steps)
        return orri_fail(ORR_ENOMEM, "tokenizer", "no room for %d steps", *count + 1);
    memcpy(array, &steps, sizeof(steps));
    steps += before;
    memset(steps, 0, element);
    memcpy(step, &steps, sizeof(steps));
    ++*count;
    return ORR_OK;
}
