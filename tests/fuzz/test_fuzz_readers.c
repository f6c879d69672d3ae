/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged files: thousands of fixed mutations of good ones. A reader takes a file or refuses it with a
 * message; it never reads beyond the file. For AddressSanitizer to see that, mapped files are copied to
 * the heap here, each into just as many bytes as it has. */
#include "check_main.h"
#include "files.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <orrery/data.h>
#include <orrery/safetensors.h>

#include "io/json.h"

static void *copies[8];
static bool copying;

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (!copying || fd < 0 || protection != PROT_READ)
        return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
    for (int i = 0; i < 8; i++)
        if (!copies[i]) {
            copies[i] = malloc(size);
            ck_assert(copies[i] && pread(fd, copies[i], size, offset) == (ssize_t)size);
            return copies[i];
        }
    return MAP_FAILED;
}

int munmap(void *address, size_t size)
{
    for (int i = 0; i < 8; i++)
        if (address && copies[i] == address) {
            copies[i] = NULL;
            free(address);
            return 0;
        }
    return (int)syscall(SYS_munmap, address, size);
}

/* ---- mutations ---------------------------------------------------------------------------------- */

#define CAPACITY 8192

struct sample {
    unsigned char bytes[CAPACITY];
    size_t size;
};

static uint64_t state;

/* xorshift64* (Vigna 2016), in 0..n-1 */
static size_t draw(size_t n)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return n ? (size_t)((state * 0x2545f4914f6cdd1du) >> 33) % n : 0;
}

/* Replaces bytes [from, to) by others. */
static void replace(struct sample *s, size_t from, size_t to, const void *by, size_t bytes)
{
    if (s->size - (to - from) + bytes > CAPACITY)
        return;
    memmove(s->bytes + from + bytes, s->bytes + to, s->size - to);
    memcpy(s->bytes + from, by, bytes);
    s->size += bytes - (to - from);
}

static void flip_bits(struct sample *s)
{
    for (size_t n = 1 + draw(4); n > 0 && s->size; n--)
        s->bytes[draw(s->size)] ^= (unsigned char)(1u << draw(8));
}

static void cut(struct sample *s)
{
    s->size -= draw(2) ? draw(s->size + 1) : draw(s->size < 9 ? s->size + 1 : 9);
}

static void grow(struct sample *s)
{
    for (size_t n = 1 + draw(16); n > 0 && s->size < CAPACITY; n--)
        s->bytes[s->size++] = (unsigned char)draw(256);
}

/* Copies a piece of the file over, or between, other bytes of it. */
static void splice(struct sample *s)
{
    unsigned char piece[64];
    size_t n = draw(sizeof(piece)) + 1;

    if (s->size <= n)
        return;
    memcpy(piece, s->bytes + draw(s->size - n), n);
    size_t to = draw(s->size - n);
    replace(s, to, draw(2) ? to : to + n, piece, n);
}

static void edit_word(struct sample *s)
{
    static const uint64_t words[] = {0, 1, 7, 8, 255, 0x7fffffff, 0x80000000, 0xffffffff, 100000000, 100000001,
                                     INT64_MAX, UINT64_MAX, UINT64_MAX - 7, 20240520, 20240801};
    uint64_t word = 0;
    const size_t at_byte = draw(2) ? 0 : 4 * draw(4), n = draw(2) ? 8 : 4;

    if (s->size < at_byte + n)
        return;
    memcpy(&word, s->bytes + at_byte, n);
    word = draw(2) ? word + draw(17) - 8 : words[draw(sizeof(words) / sizeof(words[0]))];
    memcpy(s->bytes + at_byte, &word, n);
}

/* Puts another number, string or value in the place of one in the JSON text. */
static void edit_json(struct sample *s)
{
    static const char *const numbers[] = {"0", "-1", "1", "3", "4", "8", "64", "2147483648", "4294967296",
                                          "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1e400",
                                          "1.0", "1e3", "0x10", "NaN", "[]", "null", "\"4\"", "true", "{}"};
    static const char *const strings[] = {"\"F32\"", "\"F16\"", "\"BOOL\"", "\"F8\"", "\"\"", "\"shape\"", "\"dtype\"",
                                          "\"data_offsets\"", "\"__metadata__\"", "\"\\u0000\"", "\"\\ud800\"",
                                          "\"a\\nb\"", "\"n_layer\"", "\"\xff\"", "{}", "7", "null"};
    const size_t start = draw(s->size);

    for (size_t i = start; i < s->size; i++) {
        size_t end = i + 1;
        if (s->bytes[i] == '"') {
            while (end < s->size && s->bytes[end] != '"')
                end++;
            if (end < s->size && draw(2)) {
                const char *by = strings[draw(sizeof(strings) / sizeof(strings[0]))];
                replace(s, i, end + 1, by, strlen(by));
                return;
            }
        } else if (s->bytes[i] >= '0' && s->bytes[i] <= '9' && draw(2)) {
            while (end < s->size && s->bytes[end] >= '0' && s->bytes[end] <= '9')
                end++;
            const char *by = numbers[draw(sizeof(numbers) / sizeof(numbers[0]))];
            replace(s, i, end, by, strlen(by));
            return;
        } else if (strchr("{}[],:", s->bytes[i]) && s->bytes[i] && draw(20) == 0) {
            replace(s, i, draw(2) ? i : i + 1, &"{}[],:"[draw(6)], draw(4) != 0);
            return;
        }
    }
}

static void mutate(struct sample *s)
{
    static void (*const kinds[])(struct sample *) = {flip_bits, cut, grow, splice, edit_word, edit_json, edit_json};

    for (size_t n = 1 + draw(3); n > 0; n--)
        if (s->size)
            kinds[draw(sizeof(kinds) / sizeof(kinds[0]))](s);
}

/* ---- the three readers -------------------------------------------------------------------------- */

struct tally {
    int accepted, rejected;
};

static void refused(struct tally *tally, const char *path)
{
    ck_assert_msg(orr_error_code() == ORR_EFORMAT, "%d: %s", orr_error_code(), orr_error());
    expect_error(ORR_EFORMAT, path, ": ");
    ck_assert_uint_gt(strlen(orr_error()), strlen(path) + 2);
    ck_assert_str_ne(orr_error_remedy(), "");
    tally->rejected++;
}

static void read_safetensors(const char *path, const struct sample *s, struct tally *tally)
{
    struct orr_safetensors *f = orr_safetensors_open(path);
    float values[CAPACITY];
    const unsigned char *data = NULL;
    size_t covered = 0;
    uint64_t length;

    if (!f) {
        refused(tally, path);
        return;
    }
    tally->accepted++;
    memcpy(&length, s->bytes, 8);
    for (int i = 0; i < orr_safetensors_count(f); i++) {
        const struct orr_tensor_info *t = orr_safetensors_get(f, i);
        if (!data || (const unsigned char *)t->data < data)
            data = t->data;
        covered += t->bytes;
        ck_assert_ptr_eq(orr_safetensors_find(f, t->name), t);
    }
    ck_assert_uint_eq(covered, s->size - 8 - length);
    for (int i = 0; i < orr_safetensors_count(f); i++) {
        const struct orr_tensor_info *t = orr_safetensors_get(f, i);
        size_t begin = (size_t)((const unsigned char *)t->data - data);
        ck_assert_uint_le(begin + t->bytes, covered);
        ck_assert_int_eq(memcmp(t->data, s->bytes + 8 + length + begin, t->bytes), 0);
        int64_t n = (int64_t)(t->bytes / orr_dtype_size(t->dtype));
        int rc = orr_safetensors_read_f32(f, t, 0, n, values);
        ck_assert(rc == 0 || rc == ORR_EFORMAT);
    }
    orr_safetensors_metadata(f, "format");
    orr_safetensors_destroy(f);
}

static void read_tokens(const char *path, const struct sample *s, struct tally *tally)
{
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    struct orr_corpus *c = orr_corpus_open(&path, 1, bytes, 0);
    int32_t ids[CAPACITY];

    orr_tokenizer_destroy(bytes);
    if (!c) {
        refused(tally, path);
        return;
    }
    tally->accepted++;
    const int64_t n = orr_corpus_size(c);
    ck_assert_int_le(2 * n, (int64_t)s->size);
    ck_assert_int_eq(orr_corpus_read(c, 0, n, ids), 0);
    for (int64_t i = 0; i < n; i++)
        ck_assert(ids[i] >= 0 && ids[i] < 65536);
    int rc = orr_corpus_check_vocab(c, 1000);
    ck_assert(rc == 0 || rc == ORR_EFORMAT);
    orr_corpus_fingerprint(c);
    orr_corpus_destroy(c);
}

static void read_json(const char *path, const struct sample *s, struct tally *tally)
{
    json_t *object;
    int64_t integer;
    double number;
    bool flag;
    const char *text;

    (void)s;
    if (orri_json_load(path, &object) != 0) {
        refused(tally, path);
        return;
    }
    const int codes[] = {orri_json_int(path, object, "n_layer", 1, 1000, &integer),
                         orri_json_double(path, object, "layer_norm_epsilon", 0, 1, &number),
                         orri_json_bool(path, object, "tie_word_embeddings", &flag),
                         orri_json_string(path, object, "model_type", &text)};
    bool all = true;
    for (int i = 0; i < 4; i++) {
        ck_assert(codes[i] == 0 || codes[i] == ORR_EFORMAT || codes[i] == ORR_ENOENT);
        all = all && codes[i] == 0;
    }
    if (!all) {
        ck_assert(strncmp(orr_error(), path, strlen(path)) == 0);
        ck_assert_str_ne(orr_error_remedy(), "");
    }
    tally->accepted += all;
    tally->rejected += !all;
    json_decref(object);
}

static void fuzz(const char *name, const struct sample *good, int kinds, int rounds, uint64_t seed,
                 void (*read)(const char *, const struct sample *, struct tally *))
{
    char path[4400];
    struct tally tally = {0, 0};
    struct sample s;

    snprintf(path, sizeof(path), "%s", at(name));
    state = seed;
    copying = true;
    for (int i = 0; i < rounds; i++) {
        s = good[i % kinds];
        if (i >= kinds)
            mutate(&s);
        if (s.size == 0)
            s.size = 1;
        put(path, s.bytes, s.size);
        read(path, &s, &tally);
        if (i == kinds - 1)
            ck_assert_msg(tally.accepted == kinds, "a good file is refused: %s", orr_error());
    }
    copying = false;
    ck_assert_int_eq(tally.accepted + tally.rejected, rounds);
    ck_assert_int_ge(tally.accepted, rounds / 50);
    ck_assert_int_ge(tally.rejected, rounds / 4);
}

static struct sample with_header(const char *header, size_t data)
{
    struct sample s = {.size = 8 + strlen(header) + data};
    uint64_t length = strlen(header);

    memcpy(s.bytes, &length, 8);
    memcpy(s.bytes + 8, header, length);
    for (size_t i = 0; i < data; i++)
        s.bytes[8 + length + i] = (unsigned char)(i * 37);
    return s;
}

/* Makes the header's length right again, so that the text itself is what is wrong. */
static void read_mended(const char *path, const struct sample *s, struct tally *tally)
{
    struct sample mended = *s;
    uint64_t length = s->size < 8 + 24 ? 0 : s->size - 8 - 24;

    memcpy(mended.bytes, &length, s->size < 8 ? 0 : 8);
    put(path, mended.bytes, mended.size);
    read_safetensors(path, &mended, tally);
}

START_TEST(safetensors)
{
    const struct sample good[] = {
        with_header("{\"__metadata__\":{\"format\":\"pt\"},\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],"
                    "\"data_offsets\":[0,24]},\"h.0.b\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[24,34]},"
                    "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[34,35]}}   ", 35),
        with_header("{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]},\"b\":{\"dtype\":\"F64\",\"shape\":[1],"
                    "\"data_offsets\":[0,8]},\"c\":{\"dtype\":\"I64\",\"shape\":[0,9],\"data_offsets\":[16,16]}}", 16),
    };

    fuzz("a.safetensors", good, 2, 5000, 1, read_safetensors);
}
END_TEST

START_TEST(safetensors_headers)
{
    const struct sample good[] = {
        with_header("{\"x\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                    "\"y\":{\"dtype\":\"I8\",\"shape\":[8,1],\"data_offsets\":[16,24]}}", 24),
    };

    fuzz("a.safetensors", good, 1, 5000, 2, read_mended);
}
END_TEST

START_TEST(tokens)
{
    static const int32_t header[3] = {20240520, 1, 50};
    struct sample good[2] = {{.size = 1024 + 100}, {.size = 1200}};

    memcpy(good[0].bytes, header, sizeof(header));
    for (size_t i = 1024; i < good[0].size; i++)
        good[0].bytes[i] = (unsigned char)(i % 4);
    for (size_t i = 0; i < good[1].size; i++)
        good[1].bytes[i] = (unsigned char)(i * 7);
    fuzz("a.bin", good, 2, 5000, 3, read_tokens);
}
END_TEST

START_TEST(json)
{
    static const char text[] = "{\n  \"model_type\": \"gpt2\",\n  \"n_layer\": 12,\n  \"layer_norm_epsilon\": 1e-05,\n"
                               "  \"tie_word_embeddings\": true,\n  \"n_inner\": null,\n  \"list\": [1, {\"a\": \"b\"}]\n}\n";
    struct sample good = {.size = strlen(text)};

    memcpy(good.bytes, text, good.size);
    fuzz("config.json", &good, 1, 5000, 4, read_json);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("fuzz");
    TCase *t = tcase_create("readers");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_test(t, safetensors);
    tcase_add_test(t, safetensors_headers);
    tcase_add_test(t, tokens);
    tcase_add_test(t, json);
    suite_add_tcase(s, t);
    return s;
}
