/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/safetensors.h>

#include "core/core.h"
#include "io/io.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors files are little-endian and mapped as they are");

#define METADATA "__metadata__"
#define HEADER_MAX 100000000u   /* the format's own limit against huge JSON */

struct orr_safetensors {
    char *path;
    struct orri_map map;
    json_t *header;                             /* holds the names */
    int count;
    struct orr_tensor_info *tensors;            /* in the order of the header */
    const struct orr_tensor_info **by_name;     /* sorted */
};

/* Bytes of a tensor; false where that is not a size in memory. */
static bool tensor_bytes(enum orr_dtype dtype, int ndim, const int64_t *shape, size_t *bytes)
{
    *bytes = orr_dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(*bytes, shape[i], bytes))
            return false;
    return *bytes <= PTRDIFF_MAX;
}

/* ---- reading ------------------------------------------------------------------------------------ */

/* An error about a field of a tensor; a name may have any length. */
#define BAD(file, name, field, ...) \
    bad_field((file)->path, name, field, orri_format(__VA_ARGS__))

static int bad_field(const char *path, const char *name, const char *field, char *what)
{
    int rc = what ? orri_fail(ORR_EFORMAT, path, "tensor \"%.300s\": %s %s", name, field, what) : ORR_ENOMEM;

    free(what);
    return rc;
}

static int parse_dtype(const struct orr_safetensors *f, const char *name, const json_t *entry, enum orr_dtype *dtype)
{
    const json_t *value = json_object_get(entry, "dtype");

    if (!json_is_string(value))
        return BAD(f, name, "dtype", "%s", value ? "is not a string" : "is missing");
    for (int d = 0; d < ORR_DTYPES; d++)
        if (strcmp(json_string_value(value), orr_dtype_name((enum orr_dtype)d)) == 0) {
            *dtype = (enum orr_dtype)d;
            return 0;
        }
    return BAD(f, name, "dtype", "\"%.32s\" is not known", json_string_value(value));
}

static int parse_shape(const struct orr_safetensors *f, const char *name, const json_t *entry,
                       struct orr_tensor_info *info)
{
    const json_t *value = json_object_get(entry, "shape");

    if (!json_is_array(value))
        return BAD(f, name, "shape", "%s", value ? "is not an array" : "is missing");
    if (json_array_size(value) > ORR_MAX_DIMS)
        return BAD(f, name, "shape", "has %zu dimensions; at most %d are read", json_array_size(value), ORR_MAX_DIMS);
    info->ndim = (int)json_array_size(value);
    for (int i = 0; i < info->ndim; i++) {
        const json_t *size = json_array_get(value, (size_t)i);
        if (!json_is_integer(size))
            return BAD(f, name, "shape", "[%d] is not an integer", i);
        info->shape[i] = json_integer_value(size);
        if (info->shape[i] < 0)
            return BAD(f, name, "shape", "[%d] is negative: %lld", i, (long long)info->shape[i]);
    }
    if (!tensor_bytes(info->dtype, info->ndim, info->shape, &info->bytes))
        return BAD(f, name, "shape", "is too big for any memory");
    return 0;
}

static int parse_offsets(const struct orr_safetensors *f, const char *name, const json_t *entry, size_t data_size,
                         struct orr_tensor_info *info)
{
    const json_t *value = json_object_get(entry, "data_offsets");
    const char *const field = "data_offsets";

    if (!json_is_array(value) || json_array_size(value) != 2 || !json_is_integer(json_array_get(value, 0)) ||
        !json_is_integer(json_array_get(value, 1)))
        return BAD(f, name, field, "%s", value ? "is not a pair of integers" : "is missing");
    long long begin = json_integer_value(json_array_get(value, 0));
    long long end = json_integer_value(json_array_get(value, 1));
    if (begin < 0 || end < begin)
        return BAD(f, name, field, "[%lld, %lld] is not a range", begin, end);
    if ((unsigned long long)end > data_size)
        return BAD(f, name, field, "[%lld, %lld] goes beyond the file, which has %zu bytes of data (is it truncated?)",
                   begin, end, data_size);
    if ((size_t)(end - begin) != info->bytes)
        return BAD(f, name, field, "[%lld, %lld] is %lld bytes, but dtype and shape make %zu", begin, end, end - begin,
                   info->bytes);
    info->data = f->map.data + (f->map.size - data_size) + begin;
    return 0;
}

static int check_metadata(const struct orr_safetensors *f)
{
    json_t *metadata = json_object_get(f->header, METADATA);
    const char *key;
    json_t *value;

    if (!metadata)
        return 0;
    if (!json_is_object(metadata))
        return orri_fail(ORR_EFORMAT, f->path, METADATA " is not an object");
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return orri_fail(ORR_EFORMAT, f->path, METADATA ": \"%.300s\" is not a string", key);
    return 0;
}

static int order_by_data(const void *left, const void *right)
{
    const struct orr_tensor_info *a = *(const struct orr_tensor_info *const *)left;
    const struct orr_tensor_info *b = *(const struct orr_tensor_info *const *)right;

    if (a->data != b->data)
        return (const char *)a->data < (const char *)b->data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int order_by_name(const void *left, const void *right)
{
    const struct orr_tensor_info *a = *(const struct orr_tensor_info *const *)left;
    const struct orr_tensor_info *b = *(const struct orr_tensor_info *const *)right;

    return strcmp(a->name, b->name);
}

/* Every byte of the data must be of one tensor. Borrows by_name for sorting. */
static int check_cover(const struct orr_safetensors *f, size_t data_size)
{
    const unsigned char *base = f->map.data + (f->map.size - data_size);
    const char *before = NULL;
    size_t covered = 0;

    qsort(f->by_name, (size_t)f->count, sizeof(*f->by_name), order_by_data);
    for (int i = 0; i < f->count; i++) {
        const struct orr_tensor_info *t = f->by_name[i];
        size_t begin = (size_t)((const unsigned char *)t->data - base);
        if (begin < covered)
            return BAD(f, t->name, "data_offsets", "[%zu, %zu] overlap those of \"%.100s\"", begin, begin + t->bytes,
                       before);
        if (begin > covered)
            return BAD(f, t->name, "data_offsets", "[%zu, %zu] leave a hole of %zu bytes before it", begin,
                       begin + t->bytes, begin - covered);
        covered += t->bytes;
        before = t->name;
    }
    if (covered != data_size)
        return orri_fail(ORR_EFORMAT, f->path, "%zu surplus bytes after the last tensor", data_size - covered);
    return 0;
}

static int parse(struct orr_safetensors *f)
{
    uint64_t length = 0;
    json_error_t error;

    if (f->map.size < 8)
        return orri_fail(ORR_EFORMAT, f->path, "truncated: %zu bytes, but the header's length takes 8", f->map.size);
    memcpy(&length, f->map.data, 8);
    if (length > HEADER_MAX)
        return orri_fail(ORR_EFORMAT, f->path, "header length %llu is beyond the format's limit of %u bytes",
                         (unsigned long long)length, HEADER_MAX);
    if (length > f->map.size - 8)
        return orri_fail(ORR_EFORMAT, f->path, "header length %llu is longer than the file, where %zu bytes follow",
                         (unsigned long long)length, f->map.size - 8);
    const size_t data_size = f->map.size - 8 - (size_t)length;
    if (length == 0 || f->map.data[8] != '{')
        return orri_fail(ORR_EFORMAT, f->path, "header does not begin with {");
    f->header = json_loadb((const char *)f->map.data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!f->header)
        return orri_fail(ORR_EFORMAT, f->path, "header is not the JSON of the format: %s (byte %d)", error.text,
                         error.position);
    ORR_TRY(check_metadata(f));

    const size_t capacity = json_object_size(f->header);
    f->tensors = orri_calloc(capacity, sizeof(*f->tensors));
    f->by_name = orri_calloc(capacity, sizeof(*f->by_name));
    if (!f->tensors || !f->by_name)
        return ORR_ENOMEM;
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry) {
        struct orr_tensor_info *info = &f->tensors[f->count];
        if (strcmp(name, METADATA) == 0)
            continue;
        if (!json_is_object(entry))
            return BAD(f, name, "entry", "is not an object");
        info->name = name;
        ORR_TRY(parse_dtype(f, name, entry, &info->dtype));
        ORR_TRY(parse_shape(f, name, entry, info));
        ORR_TRY(parse_offsets(f, name, entry, data_size, info));
        f->by_name[f->count++] = info;
    }
    ORR_TRY(check_cover(f, data_size));
    qsort(f->by_name, (size_t)f->count, sizeof(*f->by_name), order_by_name);
    return 0;
}

struct orr_safetensors *orr_safetensors_open(const char *path)
{
    struct orr_safetensors *f = orri_calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    f->path = orri_strdup(path);
    if (!f->path || orri_map_open(&f->map, path, false) != 0) {
        orr_safetensors_destroy(f);
        return NULL;
    }
    int rc = parse(f);
    if (rc != 0) {
        if (rc == ORR_EFORMAT)
            orri_remedy(rc, "the file is damaged, or not a safetensors file: copy or export it again");
        orr_safetensors_destroy(f);
        return NULL;
    }
    return f;
}

void orr_safetensors_destroy(struct orr_safetensors *file)
{
    if (!file)
        return;
    json_decref(file->header);
    orri_map_close(&file->map);
    free(file->tensors);
    free(file->by_name);
    free(file->path);
    free(file);
}

const char *orr_safetensors_path(const struct orr_safetensors *file)
{
    return file->path;
}

int orr_safetensors_count(const struct orr_safetensors *file)
{
    return file->count;
}

const struct orr_tensor_info *orr_safetensors_get(const struct orr_safetensors *file, int index)
{
    if (index < 0 || index >= file->count) {
        orri_fail(ORR_EINVAL, file->path, "has no tensor number %d, only 0 to %d", index, file->count - 1);
        return NULL;
    }
    return &file->tensors[index];
}

const struct orr_tensor_info *orr_safetensors_find(const struct orr_safetensors *file, const char *name)
{
    const struct orr_tensor_info key = {.name = name}, *pointer = &key;
    const struct orr_tensor_info **found =
        bsearch(&pointer, file->by_name, (size_t)file->count, sizeof(*file->by_name), order_by_name);

    if (!found) {
        orri_fail(ORR_ENOENT, file->path, "has no tensor \"%.300s\"", name);
        return NULL;
    }
    return *found;
}

const char *orr_safetensors_metadata(const struct orr_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, METADATA), key));
}

int orr_safetensors_read_f32(const struct orr_safetensors *file, const struct orr_tensor_info *tensor, int64_t first,
                             int64_t count, float *out)
{
    const size_t size = orr_dtype_size(tensor->dtype);
    const int64_t elements = (int64_t)(tensor->bytes / size);

    if (first < 0 || count < 0 || first > elements || count > elements - first)
        return orri_fail(ORR_EINVAL, file->path, "tensor \"%.300s\": %lld elements from number %lld on, of %lld",
                         tensor->name, (long long)count, (long long)first, (long long)elements);
    const unsigned char *from = (const unsigned char *)tensor->data + (size_t)first * size;
    switch (tensor->dtype) {
    case ORR_F32:
    case ORR_BF16:
    case ORR_F16: orri_widen(tensor->dtype, (size_t)count, from, out); return 0;
    case ORR_F64:
        for (int64_t i = 0; i < count; i++) {
            double value;
            memcpy(&value, from + 8 * i, 8);
            out[i] = (float)value;
        }
        return 0;
    default:
        return orri_remedy(orri_fail(ORR_EFORMAT, file->path, "tensor \"%.300s\": dtype %s is not a floating-point one",
                                     tensor->name, orr_dtype_name(tensor->dtype)),
                           "store it as F32, F16, BF16 or F64");
    }
}

/* ---- writing ------------------------------------------------------------------------------------ */

struct orr_safetensors_writer {
    struct orri_output out;
    int count;
    size_t *begin;      /* [count + 1] from the start of the file; the last one is its size */
};

static int bad_spec(const char *path, const struct orr_tensor_spec *spec, const char *what)
{
    return orri_fail(ORR_EINVAL, path, "tensor \"%.300s\": %s", spec->name, what);
}

/* Appends the entry of one tensor, which begins at *offset of the data, and moves *offset to its end. */
static int append_entry(json_t *header, const char *path, const struct orr_tensor_spec *spec, size_t *offset)
{
    size_t bytes, begin = *offset;

    if (strcmp(spec->name, METADATA) == 0 || json_object_get(header, spec->name))
        return bad_spec(path, spec, "the name is taken");
    if (orr_dtype_size(spec->dtype) == 0)
        return bad_spec(path, spec, "unknown dtype");
    if (spec->ndim < 0 || spec->ndim > ORR_MAX_DIMS)
        return bad_spec(path, spec, "too many dimensions");
    for (int i = 0; i < spec->ndim; i++)
        if (spec->shape[i] < 0)
            return bad_spec(path, spec, "a dimension is negative");
    if (!tensor_bytes(spec->dtype, spec->ndim, spec->shape, &bytes) ||
        __builtin_add_overflow(begin, bytes, offset) || *offset > PTRDIFF_MAX - HEADER_MAX - 8)
        return bad_spec(path, spec, "too big for any file");

    json_t *name = json_string(spec->name);     /* NULL for what is not UTF-8 */
    if (!name)
        return bad_spec(path, spec, "the name is not UTF-8");
    json_decref(name);
    json_t *shape = json_array();
    for (int i = 0; i < spec->ndim; i++)
        json_array_append_new(shape, json_integer(spec->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", orr_dtype_name(spec->dtype), "shape", shape,
                              "data_offsets", (json_int_t)begin, (json_int_t)*offset);
    if (json_object_set_new(header, spec->name, entry) != 0)
        return orri_fail(ORR_ENOMEM, path, "no room for the header");
    return 0;
}

/* The first bytes of the file: length, JSON, padding. malloc'ed. */
static int build_head(struct orr_safetensors_writer *w, const char *path, const struct orr_tensor_spec *tensors,
                      char **head)
{
    json_t *header = json_pack("{s:{s:s}}", METADATA, "format", "pt");
    char *text = NULL;
    size_t offset = 0;
    int rc = header ? 0 : orri_fail(ORR_ENOMEM, path, "no room for the header");

    for (int i = 0; i < w->count && rc == 0; i++) {
        w->begin[i] = offset;
        rc = append_entry(header, path, &tensors[i], &offset);
    }
    if (rc == 0 && !(text = json_dumps(header, JSON_COMPACT)))
        rc = orri_fail(ORR_ENOMEM, path, "no room for the header");
    json_decref(header);
    if (rc != 0)
        return rc;

    const size_t length = strlen(text);
    const uint64_t padded = (length + 7) & ~(size_t)7;
    if (padded > HEADER_MAX)
        rc = orri_fail(ORR_EINVAL, path, "too many tensors: the format's header ends at %u bytes", HEADER_MAX);
    else if (!(*head = orri_alloc(8 + padded)))
        rc = ORR_ENOMEM;
    if (rc == 0) {
        memcpy(*head, &padded, 8);
        memcpy(*head + 8, text, length);
        memset(*head + 8 + length, ' ', padded - length);
        w->begin[w->count] = offset;
        for (int i = 0; i <= w->count; i++)
            w->begin[i] += 8 + padded;
    }
    free(text);
    return rc;
}

/* Whoever joins finds the file with its head. */
static int begin_file(struct orr_safetensors_writer *w, const char *path, const char *head, bool join)
{
    uint64_t padded;

    memcpy(&padded, head, 8);
    if (join)
        return orri_output_join(&w->out, path, w->begin[w->count]);
    ORR_TRY(orri_output_open(&w->out, path));
    ORR_TRY(orri_output_reserve(&w->out, w->begin[w->count]));
    return orri_output_write(&w->out, 0, head, 8 + padded);
}

static struct orr_safetensors_writer *writer_create(const char *path, const struct orr_tensor_spec *tensors, int count,
                                                    bool join)
{
    struct orr_safetensors_writer *w = orri_calloc(1, sizeof(*w));
    char *head = NULL;

    if (!w)
        return NULL;
    w->count = count;
    w->begin = orri_calloc((size_t)count + 1, sizeof(*w->begin));
    int rc = w->begin ? build_head(w, path, tensors, &head) : ORR_ENOMEM;
    if (rc == 0)
        rc = begin_file(w, path, head, join);
    free(head);
    if (rc != 0) {
        orr_safetensors_writer_destroy(w);
        return NULL;
    }
    return w;
}

struct orr_safetensors_writer *orr_safetensors_writer_create(const char *path, const struct orr_tensor_spec *tensors,
                                                             int count)
{
    return writer_create(path, tensors, count, false);
}

struct orr_safetensors_writer *orr_safetensors_writer_join(const char *path, const struct orr_tensor_spec *tensors,
                                                           int count)
{
    return writer_create(path, tensors, count, true);
}

int orr_safetensors_write(struct orr_safetensors_writer *writer, int index, size_t offset, const void *data,
                          size_t bytes)
{
    if (index < 0 || index >= writer->count)
        return orri_fail(ORR_EINVAL, writer->out.path, "has no tensor number %d, only 0 to %d", index,
                         writer->count - 1);
    size_t size = writer->begin[index + 1] - writer->begin[index];
    if (offset > size || bytes > size - offset)
        return orri_fail(ORR_EINVAL, writer->out.path, "tensor number %d: %zu bytes at byte %zu of %zu", index, bytes,
                         offset, size);
    return orri_output_write(&writer->out, writer->begin[index] + offset, data, bytes);
}

int orr_safetensors_writer_sync(struct orr_safetensors_writer *writer)
{
    return orri_output_sync(&writer->out);
}

int orr_safetensors_writer_finish(struct orr_safetensors_writer *writer)
{
    return orri_output_commit(&writer->out);
}

void orr_safetensors_writer_destroy(struct orr_safetensors_writer *writer)
{
    if (!writer)
        return;
    orri_output_abort(&writer->out);
    free(writer->begin);
    free(writer);
}
