/* SPDX-License-Identifier: Apache-2.0 */
#include "io/shards.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/core.h"
#include "io/io.h"
#include "io/json.h"

/* ---- reading ------------------------------------------------------------------------------------------------- */

void orri_shards_close(struct orri_shards *s)
{
    for (int i = 0; i < s->count; i++)
        orr_safetensors_destroy(s->file[i]);
    free(s->file);
    free(s->directory);
    free(s->path);
    *s = (struct orri_shards){0};
}

static const char *file_name(const struct orr_safetensors *file)
{
    return strrchr(orr_safetensors_path(file), '/') + 1;
}

static int add(struct orri_shards *s, const char *name)
{
    for (int i = 0; i < s->count; i++)
        if (strcmp(file_name(s->file[i]), name) == 0)
            return ORR_OK;
    struct orr_safetensors **more = realloc(s->file, (size_t)(s->count + 1) * sizeof(*more));
    if (!more)
        return orri_fail(ORR_ENOMEM, name, "no room for its name");
    s->file = more;
    char *path = orri_format("%s/%s", s->directory, name);
    s->file[s->count] = path ? orr_safetensors_open(path) : NULL;
    free(path);
    if (!s->file[s->count])
        return orr_error_code();
    s->count++;
    return ORR_OK;
}

static const struct orr_tensor_info *lookup(const struct orr_safetensors *file, const char *name)
{
    for (int i = 0; i < orr_safetensors_count(file); i++)
        if (strcmp(orr_safetensors_get(file, i)->name, name) == 0)
            return orr_safetensors_get(file, i);
    return NULL;
}

const struct orr_tensor_info *orri_shards_find(const struct orri_shards *s, const char *name, const struct orr_safetensors **file)
{
    for (int i = 0; i < s->count; i++) {
        const struct orr_tensor_info *tensor = lookup(s->file[i], name);
        if (tensor) {
            *file = s->file[i];
            return tensor;
        }
    }
    return NULL;
}

static int disagree(int status)
{
    return orri_remedy(status, "the index and the files are not of one model: get them again");
}

/* What lies in a file is listed, as of that file. */
static int check_file(const struct orri_shards *s, const struct orr_safetensors *file, const json_t *map)
{
    for (int i = 0; i < orr_safetensors_count(file); i++) {
        const char *name = orr_safetensors_get(file, i)->name, *listed = json_string_value(json_object_get(map, name));
        if (!listed)
            return disagree(orri_fail(ORR_EFORMAT, orr_safetensors_path(file), "tensor '%s' is not listed in %s", name, s->path));
        if (strcmp(listed, file_name(file)) != 0)
            return disagree(orri_fail(ORR_EFORMAT, orr_safetensors_path(file), "tensor '%s' is listed in %s as one of %s", name,
                                      s->path, listed));
    }
    return ORR_OK;
}

/* And what is listed lies there: in no other, for that has been checked. */
static int check_map(const struct orri_shards *s, const json_t *map)
{
    const struct orr_safetensors *file;
    const char *name;
    json_t *value;

    for (int f = 0; f < s->count; f++)
        ORR_TRY(check_file(s, s->file[f], map));
    json_object_foreach((json_t *)map, name, value) {
        if (!orri_shards_find(s, name, &file))
            return disagree(orri_fail(ORR_ENOENT, s->path, "tensor '%s' is missing in %s", name, json_string_value(value)));
    }
    return ORR_OK;
}

static int add_all(struct orri_shards *s, json_t *map)
{
    const char *name;
    json_t *value;

    if (!json_is_object(map))
        return orri_fail(ORR_EFORMAT, s->path, "has no object 'weight_map'");
    if (json_object_size(map) == 0)
        return orri_fail(ORR_EFORMAT, s->path, "weight_map names no file");
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file || !*file || strchr(file, '/'))
            return orri_fail(ORR_EFORMAT, s->path, "weight_map of '%s' names no file beside it", name);
        ORR_TRY(add(s, file));
    }
    return check_map(s, map);
}

static int add_index(struct orri_shards *s)
{
    json_t *object;

    ORR_TRY(orri_json_load(s->path, &object));
    int status = add_all(s, json_object_get(object, "weight_map"));
    json_decref(object);
    return status;
}

int orri_shards_open(struct orri_shards *s, const char *directory, const char *name)
{
    struct stat st;

    *s = (struct orri_shards){.directory = orri_strdup(directory), .path = orri_format("%s/%s.index.json", directory, name)};
    int status = s->directory && s->path ? ORR_OK : ORR_ENOMEM;
    if (status == 0 && stat(s->path, &st) == 0) {
        status = add_index(s);
    } else if (status == 0) {
        free(s->path);
        s->path = orri_format("%s/%s", directory, name);
        status = s->path ? add(s, name) : ORR_ENOMEM;
    }
    if (status != 0)
        orri_shards_close(s);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

int orri_shards_write_index(const char *directory, const char *name, int count, const char *const *names, const char *const *files,
                            int64_t bytes, int64_t parameters)
{
    char *path = orri_format("%s/%s.index.json", directory, name);
    json_t *map = json_object();
    json_t *index = json_pack("{s:{s:I,s:I},s:O}", "metadata", "total_parameters", (json_int_t)parameters, "total_size",
                              (json_int_t)bytes, "weight_map", map);
    int status = path && index ? ORR_OK : orri_fail(ORR_ENOMEM, directory, "no room for the index");

    for (int i = 0; i < count && status == 0; i++)
        if (json_object_set_new(map, names[i], json_string(files[i])) != 0)
            status = orri_fail(ORR_ENOMEM, directory, "no room for the index");
    if (status == 0)
        status = orri_json_save(path, index);
    json_decref(index);
    json_decref(map);
    free(path);
    return status;
}
