/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "files.h"

#include <math.h>
#include <stdint.h>
#include <sys/stat.h>

#include <orrery/data.h>

#include "text/text.h"

static struct orr_tokenizer *bytes;

static void setup(void)
{
    files_setup();
    bytes = orr_tokenizer_open("bytes");
}

static void teardown(void)
{
    orr_tokenizer_destroy(bytes);
    files_teardown();
}

static struct orr_corpus *open_one(const char *path)
{
    return orr_corpus_open(&path, 1, bytes, 0);
}

/* The corpus is these characters; destroys it. */
static void expect_text(struct orr_corpus *c, const char *text)
{
    int32_t ids[256];
    int64_t n = (int64_t)strlen(text);

    ck_assert_msg(c != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_corpus_size(c), n);
    ck_assert_int_eq(orr_corpus_read(c, 0, n, ids), 0);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(ids[i] == (unsigned char)text[i], "%lld: %d is not in %s", (long long)i, (int)ids[i], text);
    orr_corpus_destroy(c);
}

static void put_tokens(const char *path, const int32_t header[3], const uint16_t *tokens, size_t count)
{
    unsigned char file[1024 + 200] = {0};

    memcpy(file, header, 12);
    memcpy(file + 1024, tokens, 2 * count);
    put(path, file, 1024 + 2 * count);
}

START_TEST(text_files)
{
    put_text(at("a.txt"), "first");
    put_text(at("b"), "\xff second \x80");
    const char *paths[] = {at("b"), at("a.txt"), at("b")};
    struct orr_corpus *c = orr_corpus_open(paths, 3, bytes, 0);
    ck_assert_int_eq(orr_corpus_files(c), 3);
    expect_text(c, "\xff second \x80" "first" "\xff second \x80");
    orr_corpus_destroy(NULL);
}
END_TEST

START_TEST(directories)
{
    /* Byte order of whole paths: '.' < '/' < 'A' < 'a' */
    ck_assert_int_eq(orri_make_folder(at("d/a/deep")), 0);
    ck_assert_int_eq(orri_make_folder(at("d/.git")), 0);
    ck_assert_int_eq(orri_make_folder(at("d/nothing")), 0);
    put_text(at("d/a/z"), "3");
    put_text(at("d/a/deep/x"), "2");
    put_text(at("d/a.txt"), "1");
    put_text(at("d/Z"), "0");
    put_text(at("d/b"), "4");
    put_text(at("d/empty"), "");
    put_text(at("d/.hidden"), "no");
    put_text(at("d/.git/config"), "no");
    put_text(at("outside"), "5");
    ck_assert_int_eq(symlink("../outside", at("d/link")), 0);
    ck_assert_int_eq(symlink("nowhere", at("d/dangling")), 0);
    ck_assert_int_eq(symlink("..", at("d/a/up")), 0);
    ck_assert_int_eq(mkfifo(at("d/pipe"), 0600), 0);
    expect_text(open_one(at("d")), "012345");
    expect_text(open_one(at("d/")), "012345");
    expect_text(open_one(at("d/a")), "201453");      /* by the link, but not round and round */
}
END_TEST

START_TEST(patterns)
{
    put_text(at("b2.txt"), "2");
    put_text(at("b10.txt"), "1");
    put_text(at("c.md"), "no");
    put_text(at("b[1].txt"), "[");
    ck_assert_int_eq(orri_make_folder(at("bdir.txt")), 0);
    put_text(at("bdir.txt/x"), "d");
    expect_text(open_one(at("b*.txt")), "12[d");
    expect_text(open_one(at("b?.txt")), "2");
    expect_text(open_one(at("b[1].txt")), "[");     /* a file of that very name */
    expect_text(open_one(at("[!b].md")), "no");
}
END_TEST

START_TEST(token_files)
{
    static const int32_t header[] = {20240520, 1, 5};
    static const uint16_t tokens[] = {0, 50256, 65535, 7, 256};
    int32_t ids[16];

    put_tokens(at("llmc.bin"), header, tokens, 5);
    put(at("raw.bin"), tokens, 10);
    put_text(at("text"), "A");
    const char *paths[] = {at("llmc.bin"), at("text"), at("raw.bin")};
    struct orr_corpus *c = orr_corpus_open(paths, 3, bytes, 0);
    ck_assert_msg(c != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_corpus_size(c), 11);

    /* Every range, across the borders. */
    static const int32_t all[] = {0, 50256, 65535, 7, 256, 65, 0, 50256, 65535, 7, 256};
    for (int from = 0; from <= 11; from++)
        for (int n = 0; n <= 11 - from; n++) {
            ids[n] = -7;
            ck_assert_int_eq(orr_corpus_read(c, from, n, ids), 0);
            ck_assert_int_eq(memcmp(ids, all + from, (size_t)n * sizeof(int32_t)), 0);
            ck_assert_int_eq(ids[n], -7);
        }
    ck_assert_int_eq(orr_corpus_read(c, 0, 12, ids), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_read(c, -1, 1, ids), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_read(c, 1, -1, ids), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_read(c, 12, 0, ids), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_read(c, 1, INT64_MAX, ids), ORR_EINVAL);

    ck_assert_int_eq(orr_corpus_check_vocab(c, 65536), 0);
    ck_assert_int_eq(orr_corpus_check_vocab(c, 65535), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("llmc.bin: "), "token 65535 at position 2 is outside the vocabulary of 65535");
    ck_assert_str_ne(orr_error_remedy(), "");
    ck_assert_int_eq(orr_corpus_check_vocab(c, 1), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("llmc.bin: "), "token 50256 at position 1 ");
    orr_corpus_destroy(c);

    c = open_one(at("text"));
    ck_assert_int_eq(orr_corpus_check_vocab(c, 66), 0);
    ck_assert_int_eq(orr_corpus_check_vocab(c, 65), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("text: "), "token 65 at position 0 is outside the vocabulary of 65");
    orr_corpus_destroy(c);
}
END_TEST

/* Beyond the size up to which files are copied, and beyond one chunk of the vocabulary check. */
START_TEST(mapped_files)
{
    enum { N = 100001 };
    uint16_t *tokens = malloc(N * sizeof(*tokens));
    int32_t *ids = malloc(2 * N * sizeof(*ids));
    char *text = malloc(N);

    for (int i = 0; i < N; i++) {
        tokens[i] = (uint16_t)(i % 50000);
        text[i] = (char)(i % 251);
    }
    tokens[N - 1] = 60000;
    put(at("a.bin"), tokens, N * sizeof(*tokens));
    put(at("b"), text, N);
    const char *paths[] = {at("a.bin"), at("b")};
    struct orr_corpus *c = orr_corpus_open(paths, 2, bytes, 0);
    ck_assert_int_eq(orr_corpus_size(c), 2 * N);
    ck_assert_int_eq(orr_corpus_read(c, 0, 2 * N, ids), 0);
    for (int i = 0; i < N; i++)
        ck_assert(ids[i] == tokens[i] && ids[N + i] == (unsigned char)text[i]);
    ck_assert_int_eq(orr_corpus_check_vocab(c, 60000), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("a.bin: "), "token 60000 at position 100000 ");
    orr_corpus_destroy(c);
    free(text);
    free(ids);
    free(tokens);
}
END_TEST

START_TEST(limit)
{
    static const uint16_t tokens[] = {65, 66, 67};

    put_text(at("a"), "1234");
    put(at("b.bin"), tokens, 6);
    put_text(at("c"), "56");
    const char *paths[] = {at("a"), at("b.bin"), at("c")};
    static const char *const expected[] = {"1", "12", "123", "1234", "1234", "1234A", "1234A", "1234AB", "1234AB",
                                           "1234ABC", "1234ABC5", "1234ABC56", "1234ABC56"};
    for (int64_t n = 1; n <= 13; n++)
        expect_text(orr_corpus_open(paths, 3, bytes, n), expected[n - 1]);
    ck_assert_ptr_null(orr_corpus_open(paths, 3, bytes, -1));
    expect_error(ORR_EINVAL, "data: ", "negative");
    ck_assert_ptr_null(orr_corpus_open(paths + 1, 1, bytes, 1));
    expect_error(ORR_EFORMAT, at("b.bin: "), "no tokens");
    ck_assert_ptr_null(orr_corpus_open(paths, 0, bytes, 0));
    expect_error(ORR_EINVAL, "data: ", "no files");
}
END_TEST

START_TEST(bad_files)
{
    static const struct {
        const char *name;
        int32_t header[3];
        size_t tokens, bytes;   /* bytes: the file is cut to that, where not 0 */
        const char *what;
    } bad[] = {
        {"a.bin", {20240520, 2, 4}, 4, 0, "bad header: version 2, not 1"},
        {"a.bin", {20240520, 1, -4}, 4, 0, "bad header: -4 tokens"},
        {"a.bin", {20240520, 1, 0}, 0, 0, "bad header: 0 tokens"},
        {"a.bin", {20240520, 1, 5}, 4, 0, "truncated: 5 tokens take 1034 bytes, the file has 1032"},
        {"a.bin", {20240520, 1, 4}, 4, 1031, "truncated"},
        {"a.bin", {20240520, 1, 3}, 4, 0, "surplus bytes"},
        {"a.bin", {20240520, 1, INT32_MAX}, 4, 0, "truncated"},
        {"a.bin", {20240520, 1, 4}, 4, 1023, "truncated: the header takes 1024 bytes"},
        {"a.bin", {20240520, 1, 4}, 4, 4, "truncated: the header takes 1024 bytes"},
        {"a.bin", {20240326, 3, 4}, 4, 0, "bad header: this is a GPT-2 model"},
        {"a.bin", {20240522, 1, 4}, 4, 0, "bad header: this is an evaluation set"},
        {"a.bin", {20240801, 7, 4}, 4, 0, "bad header: this is a token file of llm.c for Llama 3"},
        {"a.bin", {1, 2, 3}, 4, 1031, "truncated: 1031 bytes are no whole number of 16-bit tokens"},
        {"a.bin", {1, 2, 3}, 0, 1, "truncated: 1 bytes"},
        {"a.tsv", {0}, 1, 0, ".tsv files hold labelled data"},
        {"a.conll", {0}, 1, 0, ".conll files hold labelled data"},
        {"a.pairs", {0}, 1, 0, ".pairs files hold labelled data"},
    };
    static const uint16_t tokens[4] = {1, 2, 3, 4};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_tokens(at(bad[i].name), bad[i].header, tokens, bad[i].tokens);
        if (bad[i].bytes)
            ck_assert_int_eq(truncate(at(bad[i].name), (off_t)bad[i].bytes), 0);
        ck_assert_msg(open_one(at(bad[i].name)) == NULL, "%s", bad[i].what);
        expect_error(ORR_EFORMAT, at(bad[i].name), bad[i].what);
        ck_assert_str_ne(orr_error_remedy(), "");
    }
}
END_TEST

START_TEST(missing_files)
{
    ck_assert_ptr_null(open_one(at("none")));
    expect_error(ORR_ENOENT, at("none: "), "no such file");
    ck_assert_str_ne(orr_error_remedy(), "");
    ck_assert_ptr_null(open_one(at("none.tsv")));
    expect_error(ORR_ENOENT, at("none.tsv: "), "no such file");
    ck_assert_ptr_null(open_one(at("*.txt")));
    expect_error(ORR_ENOENT, at("*.txt: "), "no file matches");
    ck_assert_ptr_null(open_one(""));
    expect_error(ORR_ENOENT, ": ", "no such file");

    ck_assert_int_eq(orri_make_folder(at("d/below")), 0);
    ck_assert_ptr_null(open_one(at("d")));
    expect_error(ORR_ENOENT, at("d: "), "no file is in this directory");
    put_text(at("d/below/empty"), "");
    ck_assert_ptr_null(open_one(at("d")));
    expect_error(ORR_EFORMAT, at("d: "), "no tokens");

    put_text(at("good"), "text");
    put_text(at("empty"), "");
    const char *paths[] = {at("good"), at("empty")};
    ck_assert_ptr_null(orr_corpus_open(paths, 2, bytes, 0));
    expect_error(ORR_EFORMAT, at("empty: "), "is empty");
    ck_assert_ptr_null(open_one(at("good/below")));
    expect_error(ORR_ENOENT, at("good/below: "), "cannot be opened");
    ck_assert_int_eq(mkfifo(at("pipe"), 0600), 0);
    ck_assert_ptr_null(open_one(at("pipe")));
    expect_error(ORR_ENOENT, at("pipe: "), "not a regular file");

    ck_assert_int_eq(chmod(at("good"), 0), 0);
    ck_assert_int_eq(chmod(at("d"), 0), 0);
    ck_assert_int_eq(chmod(folder, 0711), 0);
    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);    /* root may read everything */
    struct orr_corpus *file = open_one(at("good"));
    int file_code = orr_error_code();
    struct orr_corpus *directory = open_one(at("d"));
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
    ck_assert_int_eq(chmod(at("d"), 0700), 0);
    ck_assert_ptr_null(file);
    ck_assert_int_eq(file_code, ORR_ENOENT);
    ck_assert_ptr_null(directory);
    expect_error(ORR_ENOENT, at("d: "), "Permission denied");
}
END_TEST

/* A tokenizer whose ids are no bytes: pairs of characters. */
static int pairs_encode(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count)
{
    (void)t;
    *count = size / 2;
    *ids = malloc(size / 2 * sizeof(**ids) + 1);
    for (size_t i = 0; i < *count; i++)
        (*ids)[i] = (unsigned char)text[2 * i] * 1000 + (unsigned char)text[2 * i + 1];
    return 0;
}

START_TEST(other_tokenizer)
{
    static const struct orri_tokenizer_class class = {.name = "pairs", .encode = pairs_encode};
    const struct orr_tokenizer pairs = {.class = &class, .vocab_size = 256000};
    int32_t ids[4];

    put_text(at("a"), "ABCD");
    put_text(at("b"), "EFGH");
    const char *paths[] = {at("a"), at("b")};
    struct orr_corpus *c = orr_corpus_open(paths, 2, &pairs, 6);
    ck_assert_int_eq(orr_corpus_size(c), 3);
    ck_assert_int_eq(orr_corpus_read(c, 0, 3, ids), 0);
    ck_assert(ids[0] == 65066 && ids[1] == 67068 && ids[2] == 69070);
    ck_assert_int_eq(orr_corpus_check_vocab(c, 69071), 0);
    ck_assert_int_eq(orr_corpus_check_vocab(c, 69070), ORR_EFORMAT);
    expect_error(ORR_EFORMAT, at("b: "), "token 69070 at position 0 ");
    orr_corpus_destroy(c);
}
END_TEST

START_TEST(split)
{
    struct orr_range train, validation;

    put_text(at("a"), "0123456789");
    struct orr_corpus *c = open_one(at("a"));
    ck_assert_int_eq(orr_corpus_split(c, 0.25, &train, &validation), 0);
    ck_assert(train.first == 0 && train.last == 8 && validation.first == 8 && validation.last == 10);
    ck_assert_int_eq(orr_corpus_split(c, 0, &train, &validation), 0);
    ck_assert(train.last == 10 && validation.first == 10 && validation.last == 10);
    ck_assert_int_eq(orr_corpus_split(c, 1, &train, &validation), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_split(c, -0.1, &train, &validation), ORR_EINVAL);
    ck_assert_int_eq(orr_corpus_split(c, NAN, &train, &validation), ORR_EINVAL);
    orr_corpus_destroy(c);
}
END_TEST

static uint64_t fingerprint(const char *path)
{
    struct orr_corpus *c = open_one(path);

    ck_assert_ptr_nonnull(c);
    uint64_t hash = orr_corpus_fingerprint(c);
    orr_corpus_destroy(c);
    return hash;
}

START_TEST(fingerprints)
{
    enum { BIG = 1000000 };
    char *text = malloc(BIG);

    put_text(at("whole"), "abc");
    put_text(at("p1"), "a");
    put_text(at("p2"), "bc");
    put_text(at("swapped"), "acb");
    put_text(at("longer"), "abcd");
    put(at("tokens.bin"), (const uint16_t[]){'a', 'b', 'c'}, 6);
    uint64_t hash = fingerprint(at("whole"));
    ck_assert_uint_eq(hash, 0x929ed5cf7d701de6u);     /* as computed elsewhere: checkpoints keep it */
    ck_assert_uint_eq(fingerprint(at("p?")), hash);
    ck_assert_uint_eq(fingerprint(at("tokens.bin")), hash);
    ck_assert_uint_ne(fingerprint(at("swapped")), hash);
    ck_assert_uint_ne(fingerprint(at("longer")), hash);

    for (int i = 0; i < BIG; i++)
        text[i] = (char)(i * 7 + i / 1000);
    put(at("big"), text, BIG);
    hash = fingerprint(at("big"));
    put(at("shorter"), text, BIG - 1);
    ck_assert_uint_ne(fingerprint(at("shorter")), hash);
    text[0]++;
    put(at("begin"), text, BIG);
    ck_assert_uint_ne(fingerprint(at("begin")), hash);
    text[0]--;
    memmove(text + 400000, text + 400001, 200000);      /* one character less in the middle */
    put(at("middle"), text, BIG);
    ck_assert_uint_ne(fingerprint(at("middle")), hash);
    free(text);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("corpus");
    TCase *t = tcase_create("corpus");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, text_files);
    tcase_add_test(t, directories);
    tcase_add_test(t, patterns);
    tcase_add_test(t, token_files);
    tcase_add_test(t, mapped_files);
    tcase_add_test(t, limit);
    tcase_add_test(t, bad_files);
    tcase_add_test(t, missing_files);
    tcase_add_test(t, other_tokenizer);
    tcase_add_test(t, split);
    tcase_add_test(t, fingerprints);
    suite_add_tcase(s, t);
    return s;
}
