/* SPDX-License-Identifier: Apache-2.0 */
/* orr_checkpoint_convert(): rounding, what no dtype can hold, tensors of several dtypes and under other names. */
#include <stdbool.h>
#include <sys/stat.h>

#include <models/family.h>
#include <orrery/orrery.h>

#include "check_main.h"
#include "files.h"
#include "meshes.h"

enum { V = 16, C = 6, POSITIONS = 3 };

static const struct orr_mesh one = MESH(1, 1, 1);
static struct orr_config *config;
static struct orr_model *model;

static void start(void)
{
    static const char *const keys[] = {"model_type=gpt2", "n_layer=1", "n_head=2", "n_embd=6", "n_positions=3", "vocab_size=16",
                                       "torch_dtype=other"};

    files_setup();
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
    config = orr_config_create("test");
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        ck_assert_int_eq(orr_config_set(config, keys[i]), 0);
    model = orr_family_create(config, ORR_F32, &one);
    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(mkdir(at("from"), 0777), 0);
}

static void end(void)
{
    orr_model_destroy(model);
    orr_config_destroy(config);
    orr_shutdown();
    files_teardown();
}

/* Element k of a tensor is the lowest bytes of bits[k], or a small number of its own where there are none. */
struct content {
    const char *name;
    enum orr_dtype dtype;
    const uint64_t *bits;
    int count;
};

static void fill(struct orr_safetensors_writer *writer, int index, const struct content *c, int64_t count)
{
    size_t size = orr_dtype_size(c->dtype);

    for (int64_t k = 0; k < count; k++) {
        uint64_t value = (uint64_t)(0x3c00 + 7 * index + k);    /* in fp16 and bf16 */
        if (k < c->count)
            value = c->bits[k];
        else if (c->dtype == ORR_F32)
            value <<= 16;
        ck_assert_int_eq(orr_safetensors_write(writer, index, (size_t)k * size, &value, size), 0);
    }
}

/* A file with all parameters, in F32 but for those of contents[], which may have another name; and `extra` tensors behind. */
static void write_model(const struct content *contents, int count, bool bare, const struct orr_tensor_spec *extra)
{
    int parameters = orr_model_parameter_count(model);
    struct orr_tensor_spec specs[64];
    struct content content[64];

    for (int i = 0; i < parameters; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        content[i] = (struct content){.name = info.name, .dtype = ORR_F32};
        for (int j = 0; j < count; j++)
            if (strcmp(info.name, contents[j].name) == 0)
                content[i] = contents[j];
        specs[i] = (struct orr_tensor_spec){info.name + (bare ? strlen("transformer.") : 0), content[i].dtype, info.ndim,
                                            {info.shape[0], info.shape[1]}};
    }
    if (extra)
        specs[parameters] = *extra;
    struct orr_safetensors_writer *writer =
        orr_safetensors_writer_create(at("from/model.safetensors"), specs, parameters + (extra != NULL));
    ck_assert_msg(writer != NULL, "%s", orr_error());
    for (int i = 0; i < parameters; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        fill(writer, i, &content[i], info.count);
    }
    ck_assert_int_eq(orr_safetensors_writer_finish(writer), 0);
    orr_safetensors_writer_destroy(writer);
}

static int convert(struct orr_conversion conversion)
{
    return orr_checkpoint_convert(model, at("from"), at("to"), config, &conversion);
}

static int convert_to(enum orr_dtype dtype)
{
    return convert((struct orr_conversion){.dtype = dtype});
}

static struct orr_safetensors *open_result(void)
{
    struct orr_safetensors *file = orr_safetensors_open(at("to/model.safetensors"));

    ck_assert_msg(file != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_safetensors_count(file), orr_model_parameter_count(model));
    return file;
}

static void nothing_is_left(void)
{
    ck_assert_int_eq(entries(folder), 1);
}

static const struct {
    uint64_t f32, bf16, f16;
} rounded[] = {
    {0x3f800000, 0x3f80, 0x3c00}, {0x80000000, 0x8000, 0x8000},                     /* 1, -0                                      */
    {0x3f808000, 0x3f80, 0x3c04}, {0x3f818000, 0x3f82, 0x3c0c},                     /* halfway in bf16: to even, down and up      */
    {0x3f808001, 0x3f81, 0x3c04}, {0xbf807fff, 0xbf80, 0xbc04},                     /* just above and below that                  */
    {0x3f801000, 0x3f80, 0x3c00}, {0x3f803000, 0x3f80, 0x3c02},                     /* halfway in fp16: to even, down and up      */
    {0x3f801001, 0x3f80, 0x3c01}, {0x3f802fff, 0x3f80, 0x3c01},                     /* just above and below that                  */
    {0x33800000, 0x3380, 0x0001}, {0x33000000, 0x3300, 0x0000}, {0x33000001, 0x3300, 0x0001},   /* fp16's least, half, and above */
    {0x387fffff, 0x3880, 0x0400},                                                   /* to fp16's least normal number              */
    {0x477fe000, 0x4780, 0x7bff}, {0xc77fefff, 0xc780, 0xfbff},                     /* fp16's largest, and the last that goes there */
    {0x7f800000, 0x7f80, 0x7c00}, {0xff800000, 0xff80, 0xfc00},                     /* infinite before                            */
};
enum { ROUNDED = (int)(sizeof(rounded) / sizeof(rounded[0])) };

START_TEST(rounding)
{
    static const enum orr_dtype dtypes[] = {ORR_BF16, ORR_F16, ORR_F32};
    enum orr_dtype dtype = dtypes[_i];
    uint64_t bits[ROUNDED];
    const char *text;

    for (int k = 0; k < ROUNDED; k++)
        bits[k] = rounded[k].f32;
    write_model(&(struct content){"transformer.wte.weight", ORR_F32, bits, ROUNDED}, 1, false, NULL);
    ck_assert_msg(convert_to(dtype) == 0, "%s", orr_error());
    struct orr_safetensors *file = open_result();
    const struct orr_tensor_info *wte = orr_safetensors_find(file, "transformer.wte.weight");
    ck_assert_int_eq(wte->dtype, dtype);
    for (int k = 0; k < ROUNDED; k++) {
        uint64_t found = 0, wanted = dtype == ORR_F32 ? rounded[k].f32 : dtype == ORR_BF16 ? rounded[k].bf16 : rounded[k].f16;
        size_t size = orr_dtype_size(dtype);
        memcpy(&found, (const char *)wte->data + (size_t)k * size, size);
        ck_assert_msg(found == wanted, "%08llx becomes %llx, not %llx", (unsigned long long)rounded[k].f32,
                      (unsigned long long)found, (unsigned long long)wanted);
    }
    ck_assert_int_eq(orr_config_string(config, "torch_dtype", &text), 0);
    ck_assert_str_eq(text, dtype == ORR_F32 ? "float32" : dtype == ORR_BF16 ? "bfloat16" : "float16");
    orr_safetensors_destroy(file);
}
END_TEST

START_TEST(too_large)
{
    static const struct {
        uint64_t bits;
        enum orr_dtype from, to;
        bool fits;
    } values[] = {
        {0x477fefff, ORR_F32, ORR_F16, true}, {0x477ff000, ORR_F32, ORR_F16, false}, {0xc77ff000, ORR_F32, ORR_F16, false},
        {0x7f7f7fff, ORR_F32, ORR_BF16, true}, {0xff7f8000, ORR_F32, ORR_BF16, false}, {0x4780, ORR_BF16, ORR_F16, false},
        {0x477f, ORR_BF16, ORR_F16, true}, {0x7bff, ORR_F16, ORR_BF16, true}, {0x47efffffe0000000, ORR_F64, ORR_F32, true},
    };

    write_model(&(struct content){"transformer.wte.weight", values[_i].from, &values[_i].bits, 1}, 1, false, NULL);
    int status = convert_to(values[_i].to);
    if (values[_i].fits) {
        ck_assert_msg(status == 0, "%s", orr_error());
        return;
    }
    ck_assert_int_eq(status, ORR_EINVAL);
    expect_error(ORR_EINVAL, at("from/model.safetensors"), "tensor 'transformer.wte.weight' has a value that");
    ck_assert_str_ne(orr_error_remedy(), "");
    nothing_is_left();
}
END_TEST

/* What other versions wrote: names without the prefix, masks, an odd number of elements of two bytes in front. */
START_TEST(mixed)
{
    static const struct orr_tensor_spec mask = {"h.0.attn.bias", ORR_U8, 2, {3, 3}};
    static const uint64_t bits[] = {0x7e01, 0x8001, 0x0000, 0x7c00, 0x1234};
    const struct content contents[] = {{"transformer.wpe.weight", ORR_F16, bits, 5}, {"transformer.ln_f.bias", ORR_BF16, bits, 5}};
    const char *text;

    write_model(contents, 2, true, &mask);
    ck_assert_msg(convert((struct orr_conversion){.keep = true}) == 0, "%s", orr_error());
    struct orr_safetensors *from = orr_safetensors_open(at("from/model.safetensors")), *to = open_result();
    const char *base = orr_safetensors_get(to, 0)->data;
    for (int i = 0; i < orr_safetensors_count(to); i++) {
        const struct orr_tensor_info *found = orr_safetensors_get(to, i);
        const struct orr_tensor_info *given = orr_safetensors_find(from, found->name + strlen("transformer."));
        ck_assert_int_eq(found->dtype, given->dtype);
        ck_assert_uint_eq(found->bytes, given->bytes);
        ck_assert_mem_eq(found->data, given->data, given->bytes);
        ck_assert_uint_eq((size_t)((const char *)found->data - base) % orr_dtype_size(found->dtype), 0);
    }
    ck_assert_int_eq(orr_config_string(config, "torch_dtype", &text), 0);
    ck_assert_str_eq(text, "other");
    orr_safetensors_destroy(from);
    orr_safetensors_destroy(to);
}
END_TEST

START_TEST(twice_rounded)
{
    static const uint64_t bits[] = {0x3ff0100000000001};

    write_model(&(struct content){"transformer.wte.weight", ORR_F64, bits, 1}, 1, false, NULL);
    ck_assert_int_eq(convert_to(ORR_BF16), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("from/model.safetensors"), "tensor 'transformer.wte.weight' is not converted from F64 to BF16");
    nothing_is_left();
    ck_assert_int_eq(convert_to(ORR_F32), 0);
    struct orr_safetensors *file = open_result();
    float value;
    memcpy(&value, orr_safetensors_find(file, "transformer.wte.weight")->data, sizeof(value));
    ck_assert_float_eq(value, 1.00390625F);
    orr_safetensors_destroy(file);
}
END_TEST

/* The head that a tied model may have a copy of. */
START_TEST(copies)
{
    static const struct orr_tensor_spec head = {"lm_head.weight", ORR_F32, 2, {V, C}};
    static const uint64_t zero[V * C] = {0};

    write_model(NULL, 0, false, &head);
    ck_assert_int_eq(convert_to(ORR_F32), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("from/model.safetensors"), "tensor 'lm_head.weight' is not the same as 'transformer.wte.weight'");
    nothing_is_left();
    write_model(&(struct content){"transformer.wte.weight", ORR_F32, zero, V * C}, 1, false, &head);
    ck_assert_msg(convert_to(ORR_F32) == 0, "%s", orr_error());
    orr_safetensors_destroy(open_result());
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("conversion");
    TCase *c = tcase_create("conversion");

    tcase_add_checked_fixture(c, start, end);
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, rounding, 0, 3);
    tcase_add_loop_test(c, too_large, 0, 9);
    tcase_add_test(c, mixed);
    tcase_add_test(c, twice_rounded);
    tcase_add_test(c, copies);
    suite_add_tcase(s, c);
    return s;
}
