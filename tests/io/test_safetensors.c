/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "faults.h"
#include "files.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <orrery/safetensors.h>

/* A file of that header and `bytes` bytes of data, 0, 1, 2, ... */
static void put_tensors(const char *path, const char *header, size_t bytes)
{
    char text[8192];
    uint64_t length = strlen(header);

    ck_assert_uint_le(8 + length + bytes, sizeof(text));
    memcpy(text, &length, 8);
    memcpy(text + 8, header, length);
    for (size_t i = 0; i < bytes; i++)
        text[8 + length + i] = (char)i;
    put(path, text, 8 + length + bytes);
}

START_TEST(round_trip)
{
    /* Odd sizes, so that most tensors are not aligned. */
    struct orr_tensor_spec specs[ORR_DTYPES + 2];
    unsigned char bytes[ORR_DTYPES + 2][15 * 8];
    char names[ORR_DTYPES][16];

    for (int d = 0; d < ORR_DTYPES; d++) {
        snprintf(names[d], sizeof(names[d]), "of.%s", orr_dtype_name((enum orr_dtype)d));
        specs[d] = (struct orr_tensor_spec){names[d], (enum orr_dtype)d, 2, {3, 5}};
    }
    specs[ORR_DTYPES] = (struct orr_tensor_spec){"scalar \"\xc3\xa9\\\n", ORR_U8, 0, {0}};
    specs[ORR_DTYPES + 1] = (struct orr_tensor_spec){"empty", ORR_F64, 3, {4, 0, 2}};
    const int count = ORR_DTYPES + 2;

    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), specs, count);
    ck_assert_ptr_nonnull(w);
    ck_assert_int_ne(access(at("a"), F_OK), 0);
    for (int i = count - 1; i >= 0; i--) {      /* backwards, in two parts */
        size_t n = orr_dtype_size(specs[i].dtype) * (i < ORR_DTYPES ? 15 : i == ORR_DTYPES);
        for (size_t k = 0; k < n; k++)
            bytes[i][k] = (unsigned char)(17 * i + 31 * (int)k + 1);
        ck_assert_int_eq(orr_safetensors_write(w, i, n / 3, bytes[i] + n / 3, n - n / 3), 0);
        ck_assert_int_eq(orr_safetensors_write(w, i, 0, bytes[i], n / 3), 0);
    }
    ck_assert_int_eq(orr_safetensors_writer_finish(w), 0);
    orr_safetensors_writer_destroy(w);
    ck_assert_int_eq(entries(folder), 1);

    struct orr_safetensors *f = orr_safetensors_open(at("a"));
    ck_assert_msg(f != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_safetensors_count(f), count);
    ck_assert_str_eq(orr_safetensors_path(f), at("a"));
    ck_assert_str_eq(orr_safetensors_metadata(f, "format"), "pt");
    ck_assert_ptr_null(orr_safetensors_metadata(f, "none"));
    for (int i = 0; i < count; i++) {
        const struct orr_tensor_info *t = orr_safetensors_get(f, i);
        ck_assert_str_eq(t->name, specs[i].name);
        ck_assert_ptr_eq(orr_safetensors_find(f, specs[i].name), t);
        ck_assert_int_eq((int)t->dtype, (int)specs[i].dtype);
        ck_assert_int_eq(t->ndim, specs[i].ndim);
        ck_assert_int_eq(memcmp(t->shape, specs[i].shape, (size_t)t->ndim * sizeof(t->shape[0])), 0);
        ck_assert_uint_eq(t->bytes, orr_dtype_size(t->dtype) * (i < ORR_DTYPES ? 15 : i == ORR_DTYPES));
        ck_assert_int_eq(memcmp(t->data, bytes[i], t->bytes), 0);
    }
    /* The data begins at a multiple of 8. */
    const struct orr_tensor_info *first = orr_safetensors_get(f, 0);
    ck_assert_uint_eq((uintptr_t)first->data % 8, 0);
    ck_assert_ptr_null(orr_safetensors_get(f, count));
    ck_assert_ptr_null(orr_safetensors_get(f, -1));
    ck_assert_ptr_null(orr_safetensors_find(f, "none"));
    expect_error(ORR_ENOENT, at("a: "), "no tensor \"none\"");
    orr_safetensors_destroy(f);
}
END_TEST

START_TEST(conversions)
{
    static const uint16_t half[] = {0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x3555, 0xc000, 0x7bff, 0x7c00, 0xfc00};
    static const float half_means[] = {0.0f, -0.0f, 0x1p-24f, 0x3ffp-24f, 0x1p-14f, 1.0f, 0x1.554p-2f, -2.0f, 65504.0f,
                                       INFINITY, -INFINITY};
    static const uint16_t brain[] = {0x0000, 0x8000, 0x3f80, 0xc049, 0x7f80, 0x0001};
    static const float brain_means[] = {0.0f, -0.0f, 1.0f, -3.140625f, INFINITY, 0x1p-133f};
    static const double wide[] = {0.1, -1e300, 1e-300, 0x1.000001p0};
    static const float wide_means[] = {0.1f, -INFINITY, 0.0f, 1.0f};
    static const float plain[] = {1.5f, -2.25f};
    static const int32_t whole[] = {7};
    const struct orr_tensor_spec specs[] = {
        {"odd", ORR_U8, 1, {1}},        {"half", ORR_F16, 1, {11}}, {"brain", ORR_BF16, 2, {2, 3}},
        {"wide", ORR_F64, 1, {4}},      {"plain", ORR_F32, 1, {2}}, {"whole", ORR_I32, 1, {1}},
        {"nan", ORR_F16, 1, {1}},
    };
    const void *const data[] = {"x", half, brain, wide, plain, whole, "\x01\x7e"};
    const struct {
        const char *name;
        const float *means;
        int count;
    } cases[] = {{"half", half_means, 11}, {"brain", brain_means, 6}, {"wide", wide_means, 4}, {"plain", plain, 2}};
    float out[16];

    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), specs, 7);
    ck_assert_ptr_nonnull(w);
    for (int i = 0; i < 7; i++) {
        size_t n = orr_dtype_size(specs[i].dtype);
        for (int k = 0; k < specs[i].ndim; k++)
            n *= (size_t)specs[i].shape[k];
        ck_assert_int_eq(orr_safetensors_write(w, i, 0, data[i], n), 0);
    }
    ck_assert_int_eq(orr_safetensors_writer_finish(w), 0);
    orr_safetensors_writer_destroy(w);

    struct orr_safetensors *f = orr_safetensors_open(at("a"));
    ck_assert_ptr_nonnull(f);
    for (size_t c = 0; c < 4; c++) {
        const struct orr_tensor_info *t = orr_safetensors_find(f, cases[c].name);
        const int n = cases[c].count;
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, 0, n, out), 0);
        ck_assert_int_eq(memcmp(out, cases[c].means, (size_t)n * sizeof(float)), 0);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, 1, n - 1, out), 0);
        ck_assert_int_eq(memcmp(out, cases[c].means + 1, (size_t)(n - 1) * sizeof(float)), 0);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, n, 0, out), 0);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, 1, n, out), ORR_EINVAL);
        expect_error(ORR_EINVAL, at("a: "), cases[c].name);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, -1, 1, out), ORR_EINVAL);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, 1, INT64_MAX, out), ORR_EINVAL);
        ck_assert_int_eq(orr_safetensors_read_f32(f, t, 0, -1, out), ORR_EINVAL);
    }
    ck_assert_int_eq(orr_safetensors_read_f32(f, orr_safetensors_find(f, "nan"), 0, 1, out), 0);
    ck_assert(isnan(out[0]));
    ck_assert_int_eq(orr_safetensors_read_f32(f, orr_safetensors_find(f, "whole"), 0, 1, out), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("a: "), "\"whole\": dtype I32");
    orr_safetensors_destroy(f);
}
END_TEST

/* What the reference implementation accepts. */
START_TEST(foreign_files)
{
    static const struct {
        const char *header;
        size_t bytes;
        int count;
    } good[] = {
        {"{}", 0, 0},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, 0},
        {"{ \"a\" : {\"shape\":[], \"extra\":1, \"data_offsets\":[0,4], \"dtype\":\"F32\"} }   ", 4, 1},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]},\"a\":{\"dtype\":\"F16\",\"shape\":[1],"
         "\"data_offsets\":[0,2]},\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]}}", 5, 3},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        put_tensors(at("a"), good[i].header, good[i].bytes);
        struct orr_safetensors *f = orr_safetensors_open(at("a"));
        ck_assert_msg(f != NULL, "%s", orr_error());
        ck_assert_int_eq(orr_safetensors_count(f), good[i].count);
        if (good[i].count == 3) {
            ck_assert_str_eq(orr_safetensors_get(f, 0)->name, "b");
            ck_assert_int_eq(memcmp(orr_safetensors_get(f, 0)->data, "\2\3\4", 3), 0);
            ck_assert_int_eq(memcmp(orr_safetensors_find(f, "a")->data, "\0\1", 2), 0);
        }
        orr_safetensors_destroy(f);
    }
    orr_safetensors_destroy(NULL);
}
END_TEST

#define T(fields) "{\"x\":{" fields "}}"
#define D "\"dtype\":\"F32\""
#define S "\"shape\":[2]"
#define O "\"data_offsets\":[0,8]"
#define TWO(a, b) \
    "{\"x\":{" D "," S ",\"data_offsets\":" a "},\"y\":{" D "," S ",\"data_offsets\":" b "}}"

static const struct {
    const char *header;
    size_t bytes;
    const char *what, *field;
} malformed[] = {
    {"", 0, "header does not begin with {", "header"},
    {"[]", 0, "header does not begin with {", "header"},
    {" {}", 0, "header does not begin with {", "header"},
    {"{\"x\":", 0, "header is not the JSON", "header"},
    {"{}{}", 0, "header is not the JSON", "header"},
    {"{\"x\xff\":1}", 0, "header is not the JSON", "header"},
    {"{\"x\\u0000\":1}", 0, "header is not the JSON", "header"},
    {"{\"x\":{" D "," S "," O "},\"x\":{" D "," S "," O "}}", 8, "duplicate object key", "\"x\""},
    {T(D "," D "," S "," O), 8, "duplicate object key", "\"dtype\""},
    {"{\"__metadata__\":[]}", 0, "is not an object", "__metadata__"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "is not a string", "__metadata__: \"k\""},
    {"{\"x\":[]}", 0, "is not an object", "\"x\": entry"},
    {T(S "," O), 8, "is missing", "\"x\": dtype"},
    {T("\"dtype\":7," S "," O), 8, "is not a string", "\"x\": dtype"},
    {T("\"dtype\":\"F8_E4M3\"," S "," O), 8, "\"F8_E4M3\" is not known", "\"x\": dtype"},
    {T("\"dtype\":\"f32\"," S "," O), 8, "\"f32\" is not known", "\"x\": dtype"},
    {T(D "," O), 8, "is missing", "\"x\": shape"},
    {T(D ",\"shape\":2," O), 8, "is not an array", "\"x\": shape"},
    {T(D ",\"shape\":[2.0]," O), 8, "[0] is not an integer", "\"x\": shape"},
    {T(D ",\"shape\":[1,-2]," O), 8, "[1] is negative", "\"x\": shape"},
    {T(D ",\"shape\":[1,1,1,1,1,1,1,1,2]," O), 8, "9 dimensions", "\"x\": shape"},
    {T(D ",\"shape\":[4294967296,4294967296]," O), 8, "too big", "\"x\": shape"},
    {T(D ",\"shape\":[9223372036854775807]," O), 8, "too big", "\"x\": shape"},
    {T(D ",\"shape\":[9223372036854775808]," O), 8, "too big integer", "header"},
    {T(D ",\"shape\":[4611686018427387904]," O), 8, "too big", "\"x\": shape"},
    {T(D "," S), 8, "is missing", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":8"), 8, "not a pair", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[8]"), 8, "not a pair", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0,4,8]"), 8, "not a pair", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0,\"8\"]"), 8, "not a pair", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0.0,8]"), 8, "not a pair", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[8,0]"), 8, "is not a range", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[-8,0]"), 8, "is not a range", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0,9223372036854775807]"), 8, "beyond the file", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[4,12]"), 8, "beyond the file", "\"x\": data_offsets"},
    {T(D "," S "," O), 7, "truncated", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0,4]"), 4, "is 4 bytes, but dtype and shape make 8", "\"x\": data_offsets"},
    {T(D "," S ",\"data_offsets\":[0,12]"), 12, "is 12 bytes, but", "\"x\": data_offsets"},
    {T(D "," S "," O), 9, "1 surplus bytes", "after the last"},
    {"{}", 3, "3 surplus bytes", "after the last"},
    {T(D "," S ",\"data_offsets\":[4,12]"), 12, "hole of 4 bytes", "\"x\": data_offsets"},
    {TWO("[0,8]", "[4,12]"), 12, "overlap those of \"x\"", "\"y\": data_offsets"},
    {TWO("[0,8]", "[0,8]"), 8, "overlap those of", "data_offsets"},
    {TWO("[12,20]", "[0,8]"), 20, "hole of 4 bytes", "\"x\": data_offsets"},
    {"{\"a\\nb\":{" S "," O "}}", 8, "is missing", "\"a?b\": dtype"},
};

START_TEST(refuses)
{
    put_tensors(at("a"), malformed[_i].header, malformed[_i].bytes);
    ck_assert_msg(orr_safetensors_open(at("a")) == NULL, "%s", malformed[_i].header);
    expect_error(ORR_EFORMAT, at("a: "), malformed[_i].what);
    expect_error(ORR_EFORMAT, at("a: "), malformed[_i].field);
    ck_assert_str_ne(orr_error_remedy(), "");
}
END_TEST

START_TEST(refuses_length)
{
    static const struct {
        uint64_t length;
        size_t bytes;
        const char *what;
    } bad[] = {
        {3, 10, "longer than the file"},
        {99999999, 10, "longer than the file"},
        {100000001, 10, "beyond the format's limit"},
        {UINT64_MAX, 10, "beyond the format's limit"},
        {UINT64_MAX - 7, 10, "beyond the format's limit"},
        {2, 7, "truncated"},
        {0, 8, "does not begin with {"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[10] = "........{}";
        memcpy(text, &bad[i].length, 8);
        put(at("a"), text, bad[i].bytes);
        ck_assert_ptr_null(orr_safetensors_open(at("a")));
        expect_error(ORR_EFORMAT, at("a: "), bad[i].what);
    }
    put_text(at("a"), "");
    ck_assert_ptr_null(orr_safetensors_open(at("a")));
    expect_error(ORR_EFORMAT, at("a: "), "is empty");
    ck_assert_ptr_null(orr_safetensors_open(at("none")));
    expect_error(ORR_ENOENT, at("none: "), "no such file");
    ck_assert_ptr_null(orr_safetensors_open(folder));
    expect_error(ORR_ENOENT, folder, "is a directory");
}
END_TEST

/* Whatever is cut off a good file is noticed. */
START_TEST(refuses_truncated)
{
    char text[512];
    const char *header = TWO("[0,8]", "[8,16]");
    size_t size = 8 + strlen(header) + 16;

    put_tensors(at("a"), header, 16);
    FILE *f = fopen(at("a"), "rb");
    ck_assert_uint_eq(fread(text, 1, sizeof(text), f), size);
    fclose(f);
    for (size_t n = 0; n < size; n++) {
        put(at("a"), text, n);
        ck_assert_ptr_null(orr_safetensors_open(at("a")));
        expect_error(ORR_EFORMAT, at("a: "), "");
    }
}
END_TEST

START_TEST(writer_refuses)
{
    const struct {
        struct orr_tensor_spec specs[2];
        const char *what;
    } bad[] = {
        {{{"x", ORR_F32, 1, {1}}, {"x", ORR_F32, 1, {1}}}, "\"x\": the name is taken"},
        {{{"__metadata__", ORR_F32, 1, {1}}, {"x", ORR_F32, 1, {1}}}, "\"__metadata__\": the name is taken"},
        {{{"\xff", ORR_F32, 1, {1}}, {"x", ORR_F32, 1, {1}}}, "not UTF-8"},
        {{{"x", ORR_DTYPES, 1, {1}}, {"y", ORR_F32, 1, {1}}}, "\"x\": unknown dtype"},
        {{{"x", ORR_F32, 9, {1}}, {"y", ORR_F32, 1, {1}}}, "\"x\": too many dimensions"},
        {{{"x", ORR_F32, -1, {1}}, {"y", ORR_F32, 1, {1}}}, "\"x\": too many dimensions"},
        {{{"x", ORR_F32, 1, {1}}, {"y", ORR_F32, 1, {-1}}}, "\"y\": a dimension is negative"},
        {{{"x", ORR_F32, 1, {1}}, {"y", ORR_F32, 2, {INT64_MAX, 2}}}, "\"y\": too big"},
        {{{"x", ORR_U8, 1, {INT64_MAX / 2}}, {"y", ORR_U8, 1, {INT64_MAX / 2}}}, "\"y\": too big"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_ptr_null(orr_safetensors_writer_create(at("a"), bad[i].specs, 2));
        expect_error(ORR_EINVAL, at("a: "), bad[i].what);
        ck_assert_int_eq(entries(folder), 0);
    }

    const struct orr_tensor_spec good = {"x", ORR_F32, 1, {2}};
    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), &good, 1);
    ck_assert_ptr_nonnull(w);
    ck_assert_int_eq(orr_safetensors_write(w, 1, 0, "1234", 4), ORR_EINVAL);
    ck_assert_int_eq(orr_safetensors_write(w, -1, 0, "1234", 4), ORR_EINVAL);
    ck_assert_int_eq(orr_safetensors_write(w, 0, 5, "1234", 4), ORR_EINVAL);
    ck_assert_int_eq(orr_safetensors_write(w, 0, SIZE_MAX, "1234", 4), ORR_EINVAL);
    expect_error(ORR_EINVAL, at("a: "), "tensor number 0");
    orr_safetensors_writer_destroy(w);
    ck_assert_int_eq(entries(folder), 0);
    orr_safetensors_writer_destroy(NULL);
}
END_TEST

static int write_file(const char *path)
{
    static const float data[2] = {1, 2};
    const struct orr_tensor_spec specs[] = {{"x", ORR_F32, 1, {2}}, {"y", ORR_F32, 1, {2}}};
    struct orr_safetensors_writer *w = orr_safetensors_writer_create(path, specs, 2);

    if (!w)
        return orr_error_code();
    int rc = orr_safetensors_write(w, 0, 0, data, sizeof(data));
    if (rc == 0)
        rc = orr_safetensors_write(w, 1, 0, data, sizeof(data));
    if (rc == 0)
        rc = orr_safetensors_writer_finish(w);
    orr_safetensors_writer_destroy(w);
    return rc;
}

static void writer_whole(bool old_system)
{
    faults_old_system(old_system);
    for (int nth = 1;; nth++) {
        put_text(at("a"), "old");
        faults_arm(nth, ENOSPC);
        int rc = write_file(at("a"));
        bool failed = faults_disarm();
        ck_assert_int_eq(rc, failed ? ORR_EIO : 0);
        ck_assert_int_eq(entries(folder), 1);
        struct orr_safetensors *f = orr_safetensors_open(at("a"));
        ck_assert(f || (failed && holds(at("a"), "old")));
        orr_safetensors_destroy(f);
        if (!failed) {
            ck_assert_int_gt(nth, 6);   /* reserve, 3 writes, sync, rename, sync of the folder */
            break;
        }
    }
    faults_old_system(false);
}

START_TEST(disk_full)
{
    writer_whole(false);
    writer_whole(true);
    faults_arm(1, ENOSPC);
    ck_assert_int_eq(write_file(at("b")), ORR_EIO);
    ck_assert(faults_disarm());
    expect_error(ORR_EIO, at("b: "), "No space left");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "free some space"));
    ck_assert_int_eq(entries(folder), 1);
}
END_TEST

/* ---- one file from several writers ------------------------------------------------------------------- */

enum { ROWS = 5, COLUMNS = 6 };

static const struct orr_tensor_spec matrix[] = {{"x", ORR_F32, 2, {ROWS, COLUMNS}}, {"y", ORR_F32, 1, {2}}};

/* Half of the columns of x, and an element of y, whose values are their numbers. */
static int write_half(struct orr_safetensors_writer *w, int half)
{
    float row[COLUMNS / 2], y = (float)half;

    for (int r = 0; r < ROWS; r++) {
        int first = r * COLUMNS + half * COLUMNS / 2;
        for (int c = 0; c < COLUMNS / 2; c++)
            row[c] = (float)(first + c);
        ORR_TRY(orr_safetensors_write(w, 0, (size_t)first * sizeof(float), row, sizeof(row)));
    }
    return orr_safetensors_write(w, 1, (size_t)half * sizeof(float), &y, sizeof(y));
}

static int join(const char *path)
{
    struct orr_safetensors_writer *w = orr_safetensors_writer_join(path, matrix, 2);
    int rc = w ? write_half(w, 1) : orr_error_code();

    if (rc == 0)
        rc = orr_safetensors_writer_sync(w);
    orr_safetensors_writer_destroy(w);
    return rc;
}

static void expect_halves(const char *path)
{
    struct orr_safetensors *f = orr_safetensors_open(path);
    float x[ROWS * COLUMNS], y[2];

    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(orr_safetensors_read_f32(f, orr_safetensors_find(f, "x"), 0, ROWS * COLUMNS, x), 0);
    ck_assert_int_eq(orr_safetensors_read_f32(f, orr_safetensors_find(f, "y"), 0, 2, y), 0);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        ck_assert_float_eq(x[i], (float)i);
    ck_assert(y[0] == 0 && y[1] == 1);
    orr_safetensors_destroy(f);
}

START_TEST(several_writers)
{
    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), matrix, 2);
    int ended;

    ck_assert_ptr_nonnull(w);
    pid_t child = fork();
    if (child == 0)
        _exit(join(at("a")) == 0 ? 0 : 1);
    ck_assert_int_eq(write_half(w, 0), 0);
    ck_assert_int_eq(waitpid(child, &ended, 0), child);
    ck_assert(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
    ck_assert_int_eq(orr_safetensors_writer_finish(w), 0);
    orr_safetensors_writer_destroy(w);
    ck_assert_int_eq(entries(folder), 1);
    expect_halves(at("a"));
}
END_TEST

/* One that joined fails, leaves the file to the one that created it, and is tried again. */
START_TEST(joined_writer_fails)
{
    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), matrix, 2);
    int nth = 1;

    ck_assert_int_eq(write_half(w, 0), 0);
    for (bool failed = true; failed; nth++) {
        faults_arm(nth, ENOSPC);
        int rc = join(at("a"));
        failed = faults_disarm();
        ck_assert_int_eq(rc, failed ? ORR_EIO : 0);
        ck_assert_int_eq(entries(folder), 1);
        if (failed)
            expect_error(ORR_EIO, at("a: "), "No space left");
    }
    ck_assert_int_eq(nth - 2, ROWS + 2);    /* its rows, y, the sync */
    ck_assert_int_eq(orr_safetensors_writer_finish(w), 0);
    orr_safetensors_writer_destroy(w);
    expect_halves(at("a"));

    w = orr_safetensors_writer_create(at("b"), matrix, 2);
    struct orr_safetensors_writer *joined = orr_safetensors_writer_join(at("b"), matrix, 2);
    faults_arm(1, EIO);
    ck_assert_int_eq(write_half(joined, 1), ORR_EIO);
    ck_assert(faults_disarm());
    ck_assert_int_eq(write_half(joined, 1), ORR_EIO);
    ck_assert_int_eq(orr_safetensors_writer_sync(joined), ORR_EIO);
    orr_safetensors_writer_destroy(joined);
    ck_assert_int_eq(entries(folder), 2);
    orr_safetensors_writer_destroy(w);
    ck_assert_int_eq(entries(folder), 1);
}
END_TEST

START_TEST(cannot_join)
{
    const struct orr_tensor_spec other[] = {{"x", ORR_F32, 2, {ROWS, COLUMNS}}, {"y", ORR_F32, 1, {200}}};

    ck_assert_ptr_null(orr_safetensors_writer_join(at("a"), matrix, 2));
    expect_error(ORR_EIO, at("a: "), "is not seen here");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "share"));
    put_text(at("a"), "whole");
    ck_assert_ptr_null(orr_safetensors_writer_join(at("a"), matrix, 2));
    expect_error(ORR_EIO, at("a: "), "is not seen here");

    struct orr_safetensors_writer *w = orr_safetensors_writer_create(at("a"), matrix, 2);
    ck_assert_ptr_null(orr_safetensors_writer_join(at("a"), other, 2));
    expect_error(ORR_EIO, at("a: "), "bytes instead of");
    ck_assert_int_eq(entries(folder), 2);
    orr_safetensors_writer_destroy(w);
    ck_assert(entries(folder) == 1 && holds(at("a"), "whole"));
}
END_TEST

START_TEST(size_limit)
{
    struct rlimit before, low;

    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    for (int old = 0; old < 2; old++) {
        low.rlim_cur = 150;     /* the header fits, the data does not */
        faults_old_system(old);
        /* Check notes every assertion in a file, which the limit would cut. */
        int limited = setrlimit(RLIMIT_FSIZE, &low);
        int rc = write_file(at("a"));
        int unlimited = setrlimit(RLIMIT_FSIZE, &before);
        ck_assert(limited == 0 && unlimited == 0);
        faults_old_system(false);
        ck_assert_int_eq(rc, ORR_EIO);
        expect_error(ORR_EIO, at("a: "), "File too large");
        ck_assert_int_eq(entries(folder), 0);
    }
    put_text(at("file"), "x");
    ck_assert_int_eq(write_file(at("file/a")), ORR_EIO);
    expect_error(ORR_EIO, at("file/a: "), "Not a directory");
    ck_assert_int_eq(write_file(folder), ORR_EIO);
    expect_error(ORR_EIO, folder, "is a directory");
    ck_assert_int_eq(entries(folder), 1);
}
END_TEST

START_TEST(dtypes)
{
    static const size_t sizes[ORR_DTYPES] = {4, 2, 2, 8, 8, 4, 2, 1, 8, 4, 2, 1, 1};

    for (int d = 0; d < ORR_DTYPES; d++) {
        ck_assert_uint_eq(orr_dtype_size((enum orr_dtype)d), sizes[d]);
        ck_assert_str_ne(orr_dtype_name((enum orr_dtype)d), "?");
    }
    ck_assert_uint_eq(orr_dtype_size(ORR_DTYPES), 0);
    ck_assert_str_eq(orr_dtype_name(ORR_DTYPES), "?");
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, round_trip);
    tcase_add_test(t, conversions);
    tcase_add_test(t, foreign_files);
    tcase_add_loop_test(t, refuses, 0, (int)(sizeof(malformed) / sizeof(malformed[0])));
    tcase_add_test(t, refuses_length);
    tcase_add_test(t, refuses_truncated);
    tcase_add_test(t, writer_refuses);
    tcase_add_test(t, disk_full);
    tcase_add_test(t, several_writers);
    tcase_add_test(t, joined_writer_fails);
    tcase_add_test(t, cannot_join);
    tcase_add_test(t, size_limit);
    tcase_add_test(t, dtypes);
    suite_add_tcase(s, t);
    return s;
}
