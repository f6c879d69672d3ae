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
#include <orrery/rows.h>
#include <orrery/safetensors.h>

#include "io/json.h"
#include "text/text.h"

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
static bool lines;      /* the files are lines of text, and no JSON */

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

/* Puts in what separates lines and columns, or a piece of a line, perhaps in the place of a few bytes. */
static void edit_text(struct sample *s)
{
    static const char *const pieces[] = {"\t", "\n", "\r\n", "\r", " ", "\n\n", "\t\t", "-DOCSTART-", "\n-DOCSTART- O\n", "B-", "I-x",
                                         "O", "\xef\xbb\xbf", "\xff", "7", "a b"};
    const size_t at_byte = draw(s->size + 1), left = s->size - at_byte, gone = draw(left < 4 ? left + 1 : 4);

    if (draw(16) == 0) {
        replace(s, at_byte, at_byte + gone, "", 1);
        return;
    }
    const char *by = pieces[draw(sizeof(pieces) / sizeof(pieces[0]))];
    replace(s, at_byte, at_byte + gone, by, strlen(by));
}

static void mutate(struct sample *s)
{
    static void (*const kinds[])(struct sample *) = {flip_bits, cut, grow, splice, edit_word, edit_json, edit_json};
    static void (*const of_lines[])(struct sample *) = {flip_bits, cut, grow, splice, edit_text, edit_text, edit_text};

    for (size_t n = 1 + draw(3); n > 0; n--)
        if (s->size)
            (lines ? of_lines : kinds)[draw(sizeof(kinds) / sizeof(kinds[0]))](s);
}

/* ---- the readers -------------------------------------------------------------------------- */

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

/* An index, beside the tokens of the good one. */
static void read_index(const char *path, const struct sample *s, struct tally *tally)
{
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    struct orr_corpus *c = orr_corpus_open(&path, 1, bytes, 0);
    int32_t ids[16];

    (void)s;
    orr_tokenizer_destroy(bytes);
    if (!c) {
        refused(tally, strncmp(orr_error(), path, strlen(path)) == 0 ? path : at("a.bin"));
        return;
    }
    tally->accepted++;
    ck_assert_int_eq(orr_corpus_size(c), 6);
    ck_assert_int_eq(orr_corpus_read(c, 0, 6, ids), 0);
    orr_corpus_destroy(c);
}

/* What becomes of examples that were accepted: all of them are looked at, encoded and put into rows. */
static void use_examples(const struct orr_examples *e, const struct sample *s)
{
    const struct orr_sequence_options options = {.seq = 24, .truncate = true, .start = 1, .end = 2};
    struct orr_tokenizer *bytes = orr_tokenizer_open("bytes");
    struct orr_sequences *sequences = orr_sequences_create(e, bytes, &options);
    int32_t tokens[24], labels[24];
    size_t size = 0;
    int64_t rows;

    for (int64_t i = 0; i < orr_examples_count(e); i++) {
        struct orr_example x;
        struct orr_sentence sentence;
        orr_examples_get(e, i, &x);
        size += x.first_size + x.second_size;
        ck_assert(!x.first || memchr(x.first, '\t', x.first_size) == NULL);
        if (orr_examples_sentence(e, i, &sentence) == 0)
            for (size_t w = 0; w < sentence.count; w++) {
                size += strlen(sentence.words[w]);
                ck_assert(sentence.tags[w] >= 0 && sentence.tags[w] < orr_labels_count(orr_examples_labels(e)));
            }
        orr_sentence_free(&sentence);
    }
    ck_assert_uint_le(size, s->size);
    orr_examples_fingerprint(e);
    ck_assert_msg(sequences != NULL, "%s", orr_error());
    struct orr_packing *packing = orr_packing_create(sequences, (struct orr_subset){0}, 1);
    ck_assert_int_eq(orr_packing_count(packing, 1, &rows), 0);
    for (int64_t n = 0; n < rows; n++)
        ck_assert_int_eq(orr_packing_read(packing, n, 1, &(struct orr_row_arrays){.tokens = tokens, .labels = labels}), 0);
    orr_packing_destroy(packing);
    orr_sequences_destroy(sequences);
    orr_tokenizer_destroy(bytes);
}

/* With the labels that are found, and with those of the good files. */
static void read_examples(const char *path, const struct sample *s, struct tally *tally)
{
    static const char *const names[] = {"0", "1", "2", "B-x", "I-x", "O"};
    struct orr_labels *labels = orr_labels_create(names, 6);
    struct orr_examples *any = orr_examples_open(&path, 1, ORR_FORMAT_TEXT, NULL);

    if (any)
        use_examples(any, s);
    else
        refused(tally, path);
    struct orr_examples *known = orr_examples_open(&path, 1, ORR_FORMAT_TEXT, labels);
    ck_assert(any || !known);
    if (known) {
        use_examples(known, s);
        tally->accepted++;
    } else if (any) {
        refused(tally, path);
    }
    orr_examples_destroy(known);
    orr_examples_destroy(any);
    orr_labels_destroy(labels);
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

/* ---- tokenizers ----------------------------------------------------------------------------------- */

static const char bpe[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"single_word\":"
    "false,\"lstrip\":true,\"rstrip\":false,\"normalized\":false,\"special\":true},{\"id\":10,\"content\":\"day\",\"single_word"
    "\":true,\"lstrip\":false,\"rstrip\":true,\"normalized\":true,\"special\":false}],\"normalizer\":{\"type\":\"Sequence\",\"n"
    "ormalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x{1,3}+\"},\"content\":\"a\"},{\"type\":\""
    "Lowercase\"},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"p"
    "retokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[^\\\\r\\\\n\\\\p{L}]?\\\\w+|\\\\s+(?!\\\\S)\"},\"behavior\":"
    "\"MergedWithNext\",\"invert\":false},{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"Punctuation\",\"behavior"
    "\":\"Contiguous\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}]},\"post_p"
    "rocessor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false"
    ",\"use_regex\":true},{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Seq"
    "uence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\","
    "\"type_id\":1}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[9],\"tokens\":[\"<s>\"]}}}]},\"decoder\":{\"type\":"
    "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":"
    "null,\"unk_token\":\"?\",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":true,\"byte_fallback"
    "\":true,\"ignore_merges\":true,\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\\u0120a\":5,\"d\":6,\"<0xC4>\""
    ":7,\"<0x80>\":8},\"merges\":[\"a b\",[\"\\u0120\",\"a\"]]}}";

static const char wordpiece[] =
    "{\"added_tokens\":[],\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip"
    "_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":\"BertP"
    "rocessing\",\"sep\":[\"b\",2],\"cls\":[\"a\",1]},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"?\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":10"
    "0,\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"##b\":3,\"d\":4,\"##ay\":5}}}";

static const char unigram[] =
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAQAAAAgAAAJC"
    "QAACgUAAAAAAIDMBAIAgA0AAAgAAICgEQAAgAgCAAIAAICAJQAACgAAgKwAAgCBGQAAoSEAAA4AAAARAAAAEAAAABMAAAASAAAAFQAAABQAAAAXAAAAFgAAABk"
    "AAAAYAAAAvU0AABoAAAC8zAIAHAAAAB8AAAAeAAAAIQAAACAAAAAjAAAAIgAAACUAAAAkAAAAJwAAACYAAAApAAAAKAAAACsAAAAqAAAALQAAACwAAAAvAAAAL"
    "gAAADEAAAAwAAAAMwAAADIAAAA1AAAANAAAADcAAAA2AAAAOQAAADgAAAA7AAAAOgAAAD0AAAA8AAAAPwAAAD4AAABBAAAAQAAAAEMAAABCAAAARQAAAEQAAAB"
    "HAAAARgAAAEkAAABBBAIASwAAAEoAAABNAAAATAAAAE8AAABOAAAAUQAAAFAAAABTAAAAUgAAAFUAAABUAAAAVwAAAFYAAABZAAAAWAAAAFsAAABaAAAAXQAAA"
    "FwAAABfAAAAXgAAAGEAAABgAAAAYwAAAGIAAABlAAAAZAAAAGcAAABmAAAAaQAAAGgAAABrAAAAagAAAG0AAABsAAAAbwAAAG4AAABxAAAAcAAAAHMAAAByAAA"
    "AdQAAAHQAAAB3AAAAdgAAAHkAAAB4AAAAewAAAHoAAAB9AAAAfAAAAH8AAAB+AAAAgQAAAIAAAACDAAAAggAAAIUAAACEAAAAhwAAAIYAAACJAAAAiAAAAIsAA"
    "ACKAAAAjQAAAIwAAACPAAAAjgAAAJEAAACQAAAAkwAAAJIAAACVAAAAlAAAAJcAAACWAAAAmQAAAJgAAACbAAAAmgAAAJ0AAACcAAAAnwAAAJ4AAAChAAAAoAA"
    "AAKMAAACiAAAApQAAAKQAAACnAAAApgAAAKkAAACoAAAAqwAAAKoAAACtAAAArAAAAK8AAACuAAAAsQAAALAAAACzAAAAsgAAALUAAAC0AAAAtwAAALYAAAC5A"
    "AAAuAAAALsAAAC6AAAAvQAAALwAAAC/AAAAvgAAAMEAAADAAAAAwwAAAMIAAADFAAAAxAAAAMcAAADGAAAAyQAAAMgAAADCtAEAwzgBAM0AAADMAAAAzwAAAM4"
    "AAADRAAAA0AAAANMAAADSAAAA1QAAANQAAADXAAAA1gAAANkAAADYAAAA2wAAANoAAADdAAAA3AAAAN8AAADeAAAA4QAAAOAAAADjAAAA4gAAAOUAAADkAAAA5"
    "wAAAO8cAQDpAAAA6AAAAOsAAADjjAEA7QAAAOwAAADvAAAA7gAAAPEAAADwAAAA8wAAAPIAAAD1AAAA9AAAAPcAAAD2AAAA+QAAAPgAAAD7AAAA+gAAAP0AAAD"
    "8AAAA/wAAAP4AAAAgADHigYQyAEEAZmkA\"},{\"type\":\"Prepend\",\"prepend\":\"_\"}]},\"pre_tokenizer\":{\"type\":\"Metaspace\","
    "\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\",\"split\":true},\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse"
    "\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\""
    ":[[\"?\",0.0],[\"\\u2581\",-1.5],[\"a\",-2.5],[\"b\",-3],[\"\\u2581a\",-1],[\"<0x41>\",-4],[\"ab\",-2]],\"byte_fallback\":"
    "true}}";

/* What is taken must work, whatever it makes of the text. */
static void use_tokenizer(const struct orr_tokenizer *t)
{
    static const char text[] = "day <s> a xxxx  abABdb\xc4\x80\xff Day1,2 \xe2\x96\x81\n";
    const char *words[] = {"ab", "", "day"};
    struct orr_encoding e;
    int32_t *ids;
    size_t count, size;
    char *back;

    int rc = orr_tokenizer_encode(t, text, strlen(text), &ids, &count);
    ck_assert_msg(rc == 0 || rc == ORR_EFORMAT, "%s", orr_error());
    if (rc != 0)
        return;
    for (size_t i = 0; i < count; i++)
        ck_assert(ids[i] >= 0 && ids[i] < orr_tokenizer_vocab_size(t));
    ck_assert_int_eq(orr_tokenizer_decode(t, ids, count, &back, &size), 0);
    free(back);
    free(ids);
    if (orr_tokenizer_encode_input(t, text, strlen(text), "b", 1, &e) == 0)
        orr_encoding_free(&e);
    if (orr_tokenizer_encode_words(t, words, 3, &e) == 0)
        orr_encoding_free(&e);
    for (int i = 0; i < ORR_SPECIALS; i++)
        ck_assert_int_lt(orr_tokenizer_special(t, (enum orr_special)i), orr_tokenizer_vocab_size(t));
}

static void read_tokenizer(const char *path, const struct sample *s, struct tally *tally)
{
    struct orr_tokenizer *t = orr_tokenizer_open(path);

    (void)s;
    if (!t) {
        refused(tally, path);
        return;
    }
    tally->accepted++;
    use_tokenizer(t);
    orr_tokenizer_destroy(t);
}

/* Merges, whose vocabulary lies beside. */
static void read_merges(const char *path, const struct sample *s, struct tally *tally)
{
    struct orr_tokenizer *t = orr_tokenizer_open(path);

    (void)s;
    if (!t) {
        ck_assert_msg(orr_error_code() == ORR_EFORMAT, "%d: %s", orr_error_code(), orr_error());
        expect_error(ORR_EFORMAT, folder, ": ");
        ck_assert_str_ne(orr_error_remedy(), "");
        tally->rejected++;
        return;
    }
    tally->accepted++;
    use_tokenizer(t);
    orr_tokenizer_destroy(t);
}

static struct sample with_text(const char *text)
{
    struct sample s = {.size = strlen(text)};

    ck_assert_uint_le(s.size, CAPACITY);
    memcpy(s.bytes, text, s.size);
    return s;
}

/* Every byte's character, and a few tokens more. */
static void put_byte_level(const char *path)
{
    static const char more[] = "\"ab\":256,\"da\":257,\"day\":258}";
    struct orri_text json = {0};
    char number[16];

    ck_assert_int_eq(orri_text_add(&json, "{", 1), 0);
    for (int i = 0; i < 256; i++) {
        UChar32 c = orri_byte_character((unsigned char)i);
        ck_assert_int_eq(orri_text_add(&json, c == '"' || c == '\\' ? "\"\\" : "\"", c == '"' || c == '\\' ? 2 : 1), 0);
        ck_assert_int_eq(orri_text_add_character(&json, c), 0);
        snprintf(number, sizeof(number), "\":%d,", i);
        ck_assert_int_eq(orri_text_add(&json, number, strlen(number)), 0);
    }
    ck_assert_int_eq(orri_text_add(&json, more, strlen(more)), 0);
    put(path, json.data, json.size);
    orri_text_free(&json);
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

START_TEST(indices)
{
    static const uint64_t counts[2] = {3, 3};
    static const int32_t sizes[3] = {2, 0, 4};
    static const int64_t pointers[3] = {0, 4, 4}, documents[3] = {0, 2, 3};
    struct sample good = {.bytes = "MMIDIDX", .size = 94};

    good.bytes[9] = 1;
    good.bytes[17] = 8;
    memcpy(good.bytes + 18, counts, 16);
    memcpy(good.bytes + 34, sizes, 12);
    memcpy(good.bytes + 46, pointers, 24);
    memcpy(good.bytes + 70, documents, 24);
    put(at("a.bin"), (const uint16_t[]){1, 2, 3, 4, 5, 6}, 12);
    fuzz("a.idx", &good, 1, 5000, 5, read_index);
}
END_TEST

static void fuzz_lines(const char *name, const struct sample *good, int kinds, uint64_t seed)
{
    lines = true;
    fuzz(name, good, kinds, 5000, seed, read_examples);
    lines = false;
}

START_TEST(labelled_lines)
{
    const struct sample good[] = {
        with_text("\xef\xbb\xbf" "0\tsome text\r\n2\tand more\n\n1\tthe end, which is a little longer than the rest\n"),
        with_text("1\tone\ttwo\n0\tthree\tf\xc3\xbcnf"),
    };

    fuzz_lines("a.tsv", good, 2, 6);
}
END_TEST

START_TEST(sentences)
{
    const struct sample good[] = {
        with_text("-DOCSTART- O\n\nword\tO\nof\tB-x\r\nmine\tI-x\n \nanother O\n"),
        with_text("a NN  O\nb VB B-x"),
    };

    fuzz_lines("a.conll", good, 2, 7);
}
END_TEST

START_TEST(pairs)
{
    const struct sample good = with_text("source\ttarget\r\nmore\tof it, a little longer than the others are\n\nx\ty");

    fuzz_lines("a.pairs", &good, 1, 8);
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

START_TEST(tokenizer_json)
{
    const struct sample good[] = {with_text(bpe), with_text(wordpiece), with_text(unigram)};

    fuzz("tokenizer.json", good, 3, 6000, 5, read_tokenizer);
}
END_TEST

START_TEST(vocab_txt)
{
    const struct sample good = with_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n1\n,\nday\n"
                                          "\xc3\xa4\n##\xce\xb1\n\n<\ns\n>\nab\r\n");

    fuzz("vocab.txt", &good, 1, 4000, 6, read_tokenizer);
}
END_TEST

START_TEST(merges_txt)
{
    const struct sample good = with_text("#version: 0.2\na b\nd a\nda y\n");

    put_byte_level(at("vocab.json"));
    fuzz("merges.txt", &good, 1, 2000, 7, read_merges);
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
    tcase_add_test(t, indices);
    tcase_add_test(t, labelled_lines);
    tcase_add_test(t, sentences);
    tcase_add_test(t, pairs);
    tcase_add_test(t, json);
    tcase_add_test(t, tokenizer_json);
    tcase_add_test(t, vocab_txt);
    tcase_add_test(t, merges_txt);
    suite_add_tcase(s, t);
    return s;
}
