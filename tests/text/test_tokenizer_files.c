/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers that are read from files, against what the packages that made them say (tests/golden/README.md). */
#include "check_main.h"
#include "files.h"

#include <pthread.h>
#include <stdint.h>

#include <jansson.h>

#include <orrery/data.h>
#include <orrery/tokenizer.h>

#include "core/core.h"
#include "io/json.h"

static const char *const goldens[] = {"added", "affixes", "bert-cased", "bert-uncased", "gpt2-small", "gpt4", "llama2", "llama3",
                                      "metaspace", "mistral", "o200k", "roberta", "split", "t5", "xlm-roberta"};

static json_t *golden(const char *name)
{
    const char *root = getenv("srcdir");
    char path[4352];
    json_t *object;

    snprintf(path, sizeof(path), "%s/tests/golden/tokenizers/%s.json", root ? root : ".", name);
    ck_assert_msg(orri_json_load(path, &object) == 0, "%s", orr_error());
    return object;
}

/* The golden's tokenizer as a file. */
static const char *write_tokenizer(const json_t *object, const char *name)
{
    const char *path = at(name);

    ck_assert_int_eq(orri_json_save(path, json_object_get(object, "tokenizer")), 0);
    return path;
}

static struct orr_tokenizer *open_good(const char *path)
{
    struct orr_tokenizer *t = orr_tokenizer_open(path);

    ck_assert_msg(t != NULL, "%s", orr_error());
    return t;
}

static void same_numbers(const char *what, const char *text, const int32_t *found, size_t count, const json_t *expected)
{
    bool same = count == json_array_size(expected);

    for (size_t i = 0; same && i < count; i++)
        same = found[i] == json_integer_value(json_array_get(expected, i));
    ck_assert_msg(same, "%s of '%s' differ", what, text);
}

/* ---- goldens --------------------------------------------------------------------------------------------------- */

static void check_ids(const struct orr_tokenizer *t, const json_t *one)
{
    const char *text = json_string_value(json_object_get(one, "text"));
    const json_t *decoded = json_object_get(one, "decoded");
    int32_t *ids;
    size_t count, size;
    char *back;

    ck_assert_int_eq(orr_tokenizer_encode(t, text, strlen(text), &ids, &count), 0);
    same_numbers("ids", text, ids, count, json_object_get(one, "ids"));
    ck_assert_int_eq(orr_tokenizer_decode(t, ids, count, &back, &size), 0);
    ck_assert_uint_eq(size, json_string_length(decoded));
    ck_assert_str_eq(back, json_string_value(decoded));
    free(back);
    free(ids);
}

static void check_inputs(const struct orr_tokenizer *t, const json_t *one)
{
    const char *text = json_string_value(json_object_get(one, "text")), *second = "a pair";
    struct orr_encoding e;

    ck_assert_int_eq(orr_tokenizer_encode_input(t, text, strlen(text), NULL, 0, &e), 0);
    same_numbers("ids of the input", text, e.ids, e.count, json_object_get(one, "input"));
    orr_encoding_free(&e);
    ck_assert_int_eq(orr_tokenizer_encode_input(t, text, strlen(text), second, strlen(second), &e), 0);
    same_numbers("ids of the pair", text, e.ids, e.count, json_object_get(one, "pair"));
    same_numbers("types", text, e.types, e.count, json_object_get(one, "types"));
    orr_encoding_free(&e);
}

/* Words between blanks. */
static void check_words(const struct orr_tokenizer *t, const json_t *one)
{
    const char *text = json_string_value(json_object_get(one, "text")), *words[128];
    char *copy = orri_strdup(text), *rest = copy;
    struct orr_encoding e;
    size_t count = 0;

    for (char *word; (word = strsep(&rest, " ")) != NULL;) {
        ck_assert_uint_lt(count, 128);
        words[count++] = word;
    }
    ck_assert_int_eq(orr_tokenizer_encode_words(t, words, count, &e), 0);
    same_numbers("ids of words", text, e.ids, e.count, json_object_get(one, "split"));
    same_numbers("words", text, e.words, e.count, json_object_get(one, "words"));
    orr_encoding_free(&e);
    free(copy);
}

START_TEST(as_the_package)
{
    json_t *object = golden(goldens[_i]), *cases = json_object_get(object, "cases");
    struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));

    ck_assert_uint_ge(json_array_size(cases), 20);
    for (int round = 0; round < 2; round++)     /* again, when all words are known */
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i);
            check_ids(t, one);
            check_inputs(t, one);
            check_words(t, one);
        }
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* ---- what is not UTF-8 ---------------------------------------------------------------------------------------------- */

START_TEST(invalid)
{
    static const struct {
        const char *bytes, *read_as;
        size_t size;
    } rows[] = {{"\xff", "\xef\xbf\xbd", 1}, {"a\x80z", "a\xef\xbf\xbdz", 3}, {"\xe2\x82", "\xef\xbf\xbd", 2},
                {"\xe2\x82x", "\xef\xbf\xbdx", 3}, {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd", 2},
                {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 3}, {"\xf0\x9f\x98", "\xef\xbf\xbd", 3},
                {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 4}};
    json_t *object = golden("gpt2-small");
    struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));

    for (size_t i = 0; i < ORRI_COUNT(rows); i++) {
        size_t count, size;
        int32_t *ids;
        char *text;
        ck_assert_int_eq(orr_tokenizer_encode(t, rows[i].bytes, rows[i].size, &ids, &count), 0);
        ck_assert_int_eq(orr_tokenizer_decode(t, ids, count, &text, &size), 0);
        ck_assert_str_eq(text, rows[i].read_as);
        free(text);
        free(ids);
    }
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* ---- other layouts --------------------------------------------------------------------------------------------------- */

static const json_t *model_of(const json_t *object, const char *key)
{
    return json_object_get(json_object_get(json_object_get(object, "tokenizer"), "model"), key);
}

static void write_merges(const json_t *merges, const char *path)
{
    FILE *f = fopen(path, "w");

    ck_assert_ptr_nonnull(f);
    fputs("#version: 0.2\n", f);
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        fprintf(f, "%s %s\n", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
    }
    ck_assert_int_eq(fclose(f), 0);
}

static void write_words(const json_t *vocab, const char *path)
{
    size_t count = json_object_size(vocab);
    const char **words = orri_calloc(count, sizeof(*words)), *word;
    FILE *f = fopen(path, "w");
    json_t *id;

    ck_assert(f && words);
    json_object_foreach((json_t *)vocab, word, id) {
        words[json_integer_value(id)] = word;
    }
    for (size_t i = 0; i < count; i++)
        fprintf(f, "%s\n", words[i]);
    ck_assert_int_eq(fclose(f), 0);
    free(words);
}

static void check_all(const char *path, const json_t *object)
{
    struct orr_tokenizer *t = open_good(path);
    const json_t *cases = json_object_get(object, "cases");

    for (size_t i = 0; i < json_array_size(cases); i++)
        check_ids(t, json_array_get(cases, i));
    orr_tokenizer_destroy(t);
}

START_TEST(pairs_of_files)
{
    static const char *const names[][2] = {{"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"}};
    json_t *object = golden("gpt2-small");

    orri_json_save(at(names[_i][0]), model_of(object, "vocab"));
    write_merges(model_of(object, "merges"), at(names[_i][1]));
    check_all(folder, object);
    check_all(at(names[_i][0]), object);
    check_all(at(names[_i][1]), object);
    json_decref(object);
}
END_TEST

START_TEST(words_of_bert)
{
    json_t *object = golden("bert-uncased"), *cased = golden("bert-cased");

    write_words(model_of(object, "vocab"), at("vocab.txt"));
    check_all(folder, object);
    check_all(at("vocab.txt"), object);
    write_words(model_of(cased, "vocab"), at("vocab.txt"));
    put_text(at("tokenizer_config.json"), "{\"do_lower_case\": false}");
    check_all(folder, cased);
    json_decref(object);
    json_decref(cased);
}
END_TEST

START_TEST(roberta_by_its_class)
{
    json_t *object = golden("roberta");

    orri_json_save(at("vocab.json"), model_of(object, "vocab"));
    write_merges(model_of(object, "merges"), at("merges.txt"));
    put_text(at("tokenizer_config.json"), "{\"tokenizer_class\": \"RobertaTokenizer\", \"mask_token\": \"<mask>\"}");
    struct orr_tokenizer *t = open_good(folder);
    const json_t *cases = json_object_get(object, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_ids(t, json_array_get(cases, i));
        check_inputs(t, json_array_get(cases, i));
    }
    ck_assert_int_eq(orr_tokenizer_special(t, ORR_MASK), orr_tokenizer_id(t, "<mask>"));
    ck_assert_int_eq(orr_tokenizer_special(t, ORR_PAD), -1);
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* ---- tokens -------------------------------------------------------------------------------------------------------------- */

START_TEST(tokens)
{
    json_t *object = golden("bert-cased");

    write_tokenizer(object, "tokenizer.json");
    for (int configured = 0; configured < 2; configured++) {
        if (!configured)
            put_text(at("tokenizer_config.json"), "{\"model_max_length\": 512}");
        else
            put_text(at("special_tokens_map.json"),
                     "{\"cls_token\": {\"content\": \"[MASK]\", \"lstrip\": false}, \"bos_token\": \"[CLS]\"}");
        struct orr_tokenizer *t = open_good(folder);
        int32_t mask = orr_tokenizer_id(t, "[MASK]");
        ck_assert_int_ge(mask, 0);
        ck_assert_str_eq(orr_tokenizer_token(t, mask), "[MASK]");
        ck_assert_int_eq(orr_tokenizer_special(t, ORR_UNKNOWN), orr_tokenizer_id(t, "[UNK]"));
        ck_assert_int_eq(orr_tokenizer_special(t, ORR_CLASS), configured ? mask : orr_tokenizer_id(t, "[CLS]"));
        ck_assert_int_eq(orr_tokenizer_special(t, ORR_MASK), configured ? -1 : mask);
        ck_assert_int_eq(orr_tokenizer_special(t, ORR_BEGIN), configured ? orr_tokenizer_id(t, "[CLS]") : -1);
        ck_assert_int_eq(orr_tokenizer_special(t, ORR_END), -1);
        ck_assert_int_eq(orr_tokenizer_id(t, "no such token"), -1);
        ck_assert_ptr_null(orr_tokenizer_token(t, -1));
        ck_assert_ptr_null(orr_tokenizer_token(t, orr_tokenizer_vocab_size(t)));
        orr_tokenizer_destroy(t);
    }
    json_decref(object);
}
END_TEST

START_TEST(ids_outside)
{
    json_t *object = golden("gpt2-small");
    struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));
    const int32_t bad[] = {-1, orr_tokenizer_vocab_size(t), INT32_MAX, INT32_MIN};
    size_t size;
    char *text;

    for (int i = 0; i < 4; i++) {
        const int32_t ids[] = {1, bad[i]};
        ck_assert_int_eq(orr_tokenizer_decode(t, ids, 2, &text, &size), ORR_EINVAL);
        expect_error(ORR_EINVAL, at("tokenizer.json"), "at position 1 is outside the vocabulary");
    }
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* ---- saving ---------------------------------------------------------------------------------------------------------------- */

static void same_file(const char *a, const char *b)
{
    struct orri_map one, other;

    ck_assert_int_eq(orri_map_open(&one, a, true), 0);
    ck_assert_msg(orri_map_open(&other, b, true) == 0, "%s", orr_error());
    ck_assert_uint_eq(one.size, other.size);
    ck_assert_int_eq(memcmp(one.data, other.data, one.size), 0);
    orri_map_close(&one);
    orri_map_close(&other);
}

START_TEST(saved)
{
    json_t *object = golden("gpt2-small");
    const char *path = write_tokenizer(object, "any name.json");
    char copy[4352];

    snprintf(copy, sizeof(copy), "%s", at("copy"));
    ck_assert_int_eq(orri_make_folder(copy), 0);
    ck_assert(!orr_tokenizer_in(copy));
    struct orr_tokenizer *t = open_good(path);
    ck_assert_int_eq(orr_tokenizer_save(t, copy), 0);
    orr_tokenizer_destroy(t);
    ck_assert(orr_tokenizer_in(copy));
    same_file(path, at("copy/tokenizer.json"));
    ck_assert_int_eq(entries(copy), 1);
    check_all(copy, object);

    orri_json_save(at("vocab.json"), model_of(object, "vocab"));
    write_merges(model_of(object, "merges"), at("merges.txt"));
    put_text(at("special_tokens_map.json"), "{}\n");
    t = open_good(folder);
    ck_assert_int_eq(orr_tokenizer_save(t, copy), 0);
    orr_tokenizer_destroy(t);
    same_file(at("vocab.json"), at("copy/vocab.json"));
    same_file(at("merges.txt"), at("copy/merges.txt"));
    same_file(at("special_tokens_map.json"), at("copy/special_tokens_map.json"));
    json_decref(object);
}
END_TEST

/* ---- threads, long words ---------------------------------------------------------------------------------------------------- */

static void *encode_all(void *self)
{
    json_t *object = golden("t5"), *cases = json_object_get(object, "cases");

    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_ids(self, json_array_get(cases, i));
    json_decref(object);
    return NULL;
}

START_TEST(threads)
{
    json_t *object = golden("t5");
    struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));
    pthread_t thread[4];

    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, encode_all, t), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* A word of a MiB takes no longer than as many short ones: with quadratic merging this would not end. */
START_TEST(long_words)
{
    static const char *const names[] = {"gpt2-small", "llama2", "t5", "bert-cased"};
    const size_t size = 1 << 20;
    char *text = orri_alloc(size);

    for (size_t i = 0; i < size; i++)
        text[i] = "theword"[i * 31 % 7];
    for (size_t i = 0; i < ORRI_COUNT(names); i++) {
        json_t *object = golden(names[i]);
        struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));
        int32_t *ids;
        size_t count;
        ck_assert_int_eq(orr_tokenizer_encode(t, text, size, &ids, &count), 0);
        ck_assert_uint_gt(count, i < 3 ? size / 20 : 0);
        free(ids);
        orr_tokenizer_destroy(t);
        json_decref(object);
    }
    free(text);
}
END_TEST

/* A corpus encodes long files in parts, cut where that changes nothing. */
START_TEST(corpus_in_parts)
{
    static const char line[] = "It's the first line of 12,  or more \n\n", other[] = "and caf\xc3\xa9 \t\nx\n";
    json_t *object = golden("llama3");
    struct orr_tokenizer *t = open_good(write_tokenizer(object, "tokenizer.json"));
    const char *path = at("text");
    struct orri_map map;
    size_t count;
    int32_t *ids;

    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < 80000; i++)
        fputs(i % 7 == 3 ? other : line, f);
    ck_assert_int_eq(fclose(f), 0);
    struct orr_corpus *c = orr_corpus_open(&path, 1, t, 0);
    ck_assert_msg(c != NULL, "%s", orr_error());
    ck_assert_int_eq(orri_map_open(&map, path, false), 0);
    ck_assert_uint_gt(map.size, 5 << 19);
    ck_assert_int_eq(orr_tokenizer_encode(t, (const char *)map.data, map.size, &ids, &count), 0);
    ck_assert_int_eq(orr_corpus_size(c), (int64_t)count);
    int32_t *read = orri_alloc(count * sizeof(*read));
    ck_assert_int_eq(orr_corpus_read(c, 0, (int64_t)count, read), 0);
    ck_assert_int_eq(memcmp(read, ids, count * sizeof(*ids)), 0);
    free(read);
    free(ids);
    orri_map_close(&map);
    orr_corpus_destroy(c);
    orr_tokenizer_destroy(t);
    json_decref(object);
}
END_TEST

/* ---- training ------------------------------------------------------------------------------------------------------------------ */

START_TEST(trained)
{
    json_t *object = golden("trained"), *made;
    const char *text = json_string_value(json_object_get(object, "text")), *special[8];
    const json_t *names = json_object_get(object, "special");
    int special_count = (int)json_array_size(names), size = (int)json_integer_value(json_object_get(object, "vocab_size"));
    char input[4352], out[4352];
    const char *paths[] = {input};

    snprintf(input, sizeof(input), "%s", at("text"));
    snprintf(out, sizeof(out), "%s", at("tokenizer.json"));
    put_text(input, text);
    for (int i = 0; i < special_count; i++)
        special[i] = json_string_value(json_array_get(names, (size_t)i));
    ck_assert_msg(orr_tokenizer_train(paths, 1, size, special, special_count, out) == 0, "%s", orr_error());
    ck_assert_int_eq(orri_json_load(out, &made), 0);
    const json_t *model = json_object_get(made, "model");
    ck_assert(json_equal(json_object_get(model, "vocab"), json_object_get(object, "vocab")));
    ck_assert(json_equal(json_object_get(model, "merges"), json_object_get(object, "merges")));
    json_decref(made);
    struct orr_tokenizer *t = open_good(out);
    ck_assert_int_eq(orr_tokenizer_vocab_size(t), size);
    ck_assert_int_eq(orr_tokenizer_id(t, special[1]), 1);
    orr_tokenizer_destroy(t);

    ck_assert_int_eq(orr_tokenizer_train(paths, 1, 257, special, special_count, at("none.json")), ORR_EINVAL);
    ck_assert_str_eq(orr_error_remedy(), "choose 258 tokens at least");
    paths[0] = at("missing");
    ck_assert_int_eq(orr_tokenizer_train(paths, 1, size, NULL, 0, at("none.json")), ORR_ENOENT);
    ck_assert_int_eq(entries(folder), 2);
    json_decref(object);
}
END_TEST

/* ---- bad files ------------------------------------------------------------------------------------------------------ */

#define MODEL "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}"
#define STEP(key, step) "{" MODEL ", \"" key "\": " step "}"

START_TEST(bad_json)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "is empty"},
        {"{", "tokenizer.json:1: "},
        {"[]", "not a JSON object"},
        {"{}", "model: is no object"},
        {"{\"model\": 3}", "model: is no object"},
        {"{\"model\": {\"type\": \"Other\"}}", "model: type \"Other\" is not known"},
        {"{\"model\": {\"type\": \"BPE\", \"merges\": []}}", "model (BPE): vocab is no object"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", "model (BPE): vocab is no object"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}}}", "model (BPE): merges is no list"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0.5}, \"merges\": []}}", "the id of \"a\" is not an integer"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
         "the id of \"a\" is not an integer between 0 and"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}}",
         "the id of \"a\" is not an integer between"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}", "id 0 is \"a\" and \"b\""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a c\"]}}",
         "merges[0]: \"c\" is not in the vocabulary"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"c a\"]}}",
         "merges[0]: \"c\" is not in the vocabulary"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}", "together are not in the vocabulary"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}", "merges[0] is not two tokens"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}", "merges[0] is not two tokens"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1}}", "dropout is not null"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}}",
         "\"u\" is not in the vocabulary"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"fuse_unk\": 1}}", "fuse_unk is not true or false"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"new\": 1}}", "model (BPE): \"new\" is not known"},
        {"{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}, \"unk_token\": \"u\"}}", "\"u\" is not in the vocabulary"},
        {"{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}}", "unk_token is not a string"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}}", "unk_id is not an integer between 0 and 0"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"unk_id\": 1}}", "unk_id is not an integer between 0 and 0"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]], \"unk_id\": 0}}", "vocab[0] is not"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0], [\"a\", 1]], \"unk_id\": 0}}", "\"a\" is there twice"},
        {STEP("surprise", "1"), "\"surprise\" is not known"},
        {STEP("normalizer", "{\"type\": \"Other\"}"), "normalizer: type \"Other\" is not known"},
        {STEP("normalizer", "[]"), "normalizer: is no object"},
        {STEP("normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Other\"}]}"),
         "normalizer[1]: type \"Other\" is not known"},
        {STEP("normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}"), "no regular expression"},
        {STEP("normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[a&&b]\"}, \"content\": \"\"}"),
         "an intersection of classes"},
        {STEP("normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[[:alpha:]]\"}, \"content\": \"\"}"),
         "a class within a class"},
        {STEP("normalizer", "{\"type\": \"Replace\", \"pattern\": \"x\", \"content\": \"\"}"), "pattern is neither"},
        {STEP("normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"?\"}"), "is not base64"},
        {STEP("normalizer", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAQAAA==\"}"), "is truncated"},
        {STEP("normalizer", "{\"type\": \"Strip\", \"strip_left\": true}"), "strip_right is not true or false"},
        {STEP("pre_tokenizer", "{\"type\": \"Other\"}"), "pre_tokenizer: type \"Other\" is not known"},
        {STEP("pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}"), "replacement is not a character"},
        {STEP("pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"x\"}"), "\"x\" is not known"},
        {STEP("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"X\", \"invert\": false}"),
         "behavior \"X\" is not known"},
        {STEP("post_processor", "{\"type\": \"Other\"}"), "post_processor: type \"Other\" is not known"},
        {STEP("post_processor", "{\"type\": \"BertProcessing\", \"sep\": [\"a\", 7], \"cls\": [\"b\", 1]}"),
         "id 7 is outside the vocabulary"},
        {STEP("post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [], \"pair\": [], \"special_tokens\": {}}"),
         "single has not every Sequence once"},
        {STEP("post_processor", "{\"type\": \"TemplateProcessing\", "
                                "\"single\": [{\"SpecialToken\": {\"id\": \"x\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {}}"),
         "no ids for \"x\""},
        {STEP("decoder", "{\"type\": \"CTC\"}"), "decoder: type \"CTC\" is not known"},
        {STEP("decoder", "{\"type\": \"Strip\", \"content\": \"a\", \"start\": -1, \"stop\": 0}"), "start is not an integer"},
        {STEP("added_tokens", "{}"), "added_tokens: is no list"},
        {STEP("added_tokens", "[{\"id\": 2, \"content\": \"x\"}]"), "id 2 is \"ab\" and \"x\""},
        {STEP("added_tokens", "[{\"id\": 9, \"content\": \"a\"}]"), "\"a\" has id 9, in the model's vocabulary 0"},
        {STEP("added_tokens", "[{\"id\": 9, \"content\": \"\"}]"), "content is empty"},
        {STEP("added_tokens", "[{\"id\": 9}]"), "content is not a string"},
    };
    const char *path = at("tokenizer.json");

    for (size_t i = 0; i < ORRI_COUNT(rows); i++) {
        put_text(path, rows[i].text);
        ck_assert_msg(orr_tokenizer_open(path) == NULL, "taken: %s", rows[i].text);
        expect_error(ORR_EFORMAT, path, rows[i].says);
        ck_assert_str_ne(orr_error_remedy(), "");
    }
    put_text(path, "{" MODEL "}");
    orr_tokenizer_destroy(open_good(path));
}
END_TEST

START_TEST(bad_vocabularies)
{
    json_t *object = golden("gpt2-small");
    const char *vocab = at("vocab.json"), *merges = at("merges.txt"), *words = at("vocab.txt");

    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_ENOENT, folder, "holds no tokenizer");
    ck_assert_ptr_null(orr_tokenizer_open(at("none.json")));
    expect_error(ORR_EINVAL, "tokenizer: ", "no such file");

    put_text(words, "[UNK]\na\n\nb\na\n");
    ck_assert_ptr_null(orr_tokenizer_open(words));
    expect_error(ORR_EFORMAT, words, "vocab.txt:5: holds a token that another line has, too");
    put_text(words, "[UNK]\n\xff\n");
    ck_assert_ptr_null(orr_tokenizer_open(words));
    expect_error(ORR_EFORMAT, words, "vocab.txt:2: is not UTF-8");
    put_text(words, "a\nb\n");
    ck_assert_ptr_null(orr_tokenizer_open(words));
    expect_error(ORR_EFORMAT, words, "unk_token \"[UNK]\" is not in the vocabulary");
    ck_assert_int_eq(orri_remove_tree(words), 0);

    put_text(vocab, "{\"a\": 0}");
    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_ENOENT, merges, "no such file");
    put_text(merges, "a b\n");
    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_EFORMAT, vocab, "is not byte-level");
    orri_json_save(vocab, model_of(object, "vocab"));
    put_text(merges, "#version: 0.2\nh e\nxyz\n");
    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_EFORMAT, merges, "merges.txt:3: is not two tokens");
    put_text(merges, "h qq\n");
    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_EFORMAT, vocab, "merges[0]: \"qq\" is not in the vocabulary");
    put_text(at("tokenizer_config.json"), "{");
    ck_assert_ptr_null(orr_tokenizer_open(folder));
    expect_error(ORR_EFORMAT, at("tokenizer_config.json"), "");
    json_decref(object);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("tokenizer files");
    TCase *t = tcase_create("tokenizer files");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_add_loop_test(t, as_the_package, 0, (int)ORRI_COUNT(goldens));
    tcase_add_test(t, invalid);
    tcase_add_loop_test(t, pairs_of_files, 0, 2);
    tcase_add_test(t, words_of_bert);
    tcase_add_test(t, roberta_by_its_class);
    tcase_add_test(t, tokens);
    tcase_add_test(t, ids_outside);
    tcase_add_test(t, saved);
    tcase_add_test(t, threads);
    tcase_add_test(t, long_words);
    tcase_add_test(t, corpus_in_parts);
    tcase_add_test(t, trained);
    tcase_add_test(t, bad_json);
    tcase_add_test(t, bad_vocabularies);
    suite_add_tcase(s, t);
    return s;
}
