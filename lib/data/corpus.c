/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/data.h>

#include "core/core.h"
#include "data/paths.h"
#include "io/io.h"
#include "text/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Files up to this size are copied: a process may have only so many mappings (65530 on Linux), and a
 * tree of small text files has more. */
#define COPY_MAX 65536u

#define FINGERPRINT_RUNS 1024
#define FINGERPRINT_RUN 64

/* The tokens of one file. */
struct segment {
    char *path;
    struct orri_map map;
    void *owned;                /* copied or encoded tokens, instead of the map */
    const unsigned char *data;
    int width;                  /* bytes per token: 1, 2 or 4 */
    int64_t first, count;       /* corpus token `first` is token 0 of this file */
};

struct orr_corpus {
    struct segment *segments;
    int count;
    int64_t size;
};

/* ---- one file ----------------------------------------------------------------------------------- */

static int32_t int32_at(const unsigned char *p)
{
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

/* Finds the tokens of a .bin file. */
static int parse_bin(struct segment *s)
{
    enum { HEADER = 1024, TOKENS = 20240520 };
    static const struct {
        int32_t magic;
        const char *what;
    } others[] = {
        {20240326, "a GPT-2 model of llm.c"},
        {20240327, "a debug state of llm.c"},
        {20240328, "a tokenizer of llm.c"},
        {20240522, "an evaluation set of llm.c"},
        {20240801, "a token file of llm.c for Llama 3, with 32-bit tokens"},
        {20240803, "a Llama 3 model of llm.c"},
    };
    const unsigned char *data = s->map.data;
    const size_t size = s->map.size;
    const int32_t magic = size >= 4 ? int32_at(data) : 0;
    const char *again = "copy the file again, or make it again with llm.c's dev/data scripts";

    s->width = 2;
    for (size_t i = 0; i < ORRI_COUNT(others); i++)
        if (size >= HEADER && magic == others[i].magic)
            return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "bad header: this is %s", others[i].what),
                               "give a token file: llm.c's with 16-bit tokens, or raw 16-bit tokens");
    if (magic != TOKENS) {
        if (size % 2)
            return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "truncated: %zu bytes are no whole number of 16-bit tokens",
                                         size), "copy or make the file again; text goes into a file not called .bin");
        s->data = data;
        s->count = (int64_t)(size / 2);
        return 0;
    }
    if (size < HEADER)
        return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "truncated: the header takes %d bytes, the file has %zu",
                                     HEADER, size), "%s", again);
    const int32_t version = int32_at(data + 4), tokens = int32_at(data + 8);
    if (version != 1)
        return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "bad header: version %d, not 1", version), "%s", again);
    if (tokens <= 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "bad header: %d tokens", tokens), "%s", again);
    const size_t expected = HEADER + 2 * (size_t)tokens;
    if (size != expected)
        return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "%s: %d tokens take %zu bytes, the file has %zu",
                                     size < expected ? "truncated" : "surplus bytes", tokens, expected, size), "%s", again);
    s->data = data + HEADER;
    s->count = tokens;
    return 0;
}

/* ---- Megatron-LM's pairs ------------------------------------------------------------------------- */

static int64_t int64_at(const unsigned char *p)
{
    return (int64_t)((uint64_t)(uint32_t)int32_at(p) | (uint64_t)(uint32_t)int32_at(p + 4) << 32);
}

/* The other file of a pair: malloc'ed. */
static char *partner(const char *path, const char *ending)
{
    return orri_format("%.*s%s", (int)(strlen(path) - 4), path, ending);
}

static bool has_partner(const char *path, const char *ending, bool *has)
{
    char *other = partner(path, ending);

    *has = other && access(other, F_OK) == 0;
    free(other);
    return other != NULL;
}

/* What the index says of the tokens. */
struct index {
    int width;
    int64_t count;
};

/* The three arrays behind the header: each sequence's tokens, where it begins in the .bin file, in bytes, and the number of the
 * sequence that each document ends before. */
static int check_index_arrays(const char *path, const unsigned char *sizes, int64_t sequences, int64_t documents,
                              struct index *index)
{
    const unsigned char *pointers = sizes + 4 * sequences, *ends = pointers + 8 * sequences;
    const char *again = "make the pair again with Megatron-LM's tools/preprocess_data.py";

    index->count = 0;
    for (int64_t i = 0; i < sequences; i++) {
        const int32_t size = int32_at(sizes + 4 * i);
        const int64_t pointer = int64_at(pointers + 8 * i);
        if (size < 0)
            return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad size: sequence %lld has %d tokens", (long long)i, size),
                               "%s", again);
        if (pointer != index->count * index->width)
            return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad pointer: sequence %lld begins at byte %lld, not %lld",
                                         (long long)i, (long long)pointer, (long long)(index->count * index->width)),
                               "%s", again);
        index->count += size;
    }
    for (int64_t i = 0, last = 0; i < documents; i++) {
        const int64_t end = int64_at(ends + 8 * i);
        const bool good = i == 0 ? end == 0 : end >= last && (i + 1 < documents ? end <= sequences : end == sequences);
        if (!good)
            return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad document index: entry %lld is %lld, of %lld sequences",
                                         (long long)i, (long long)end, (long long)sequences), "%s", again);
        last = end;
    }
    return 0;
}

static int check_index_dtype(const char *path, int code, struct index *index)
{
    static const char *const names[] = {"", "uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"};
    enum { INT32 = 4, UINT16 = 8 };

    if (code < 1 || code >= (int)ORRI_COUNT(names))
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad header: element type number %d", code), "copy the file again");
    if (code != INT32 && code != UINT16)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "the tokens are %s", names[code]), "give tokens of uint16 or int32");
    index->width = code == INT32 ? 4 : 2;
    return 0;
}

static int check_index(const char *path, const struct orri_map *map, struct index *index)
{
    enum { HEADER = 34 };
    static const unsigned char magic[9] = "MMIDIDX";
    const unsigned char *data = map->data;
    const char *again = "copy the file again";

    if (map->size < sizeof(magic) || memcmp(data, magic, sizeof(magic)) != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad header: this is no index of Megatron-LM"),
                           "give a .bin file without an .idx beside it where it is none of Megatron-LM's");
    if (map->size < HEADER)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "truncated: the header takes %d bytes, the file has %zu", HEADER,
                                     map->size), "%s", again);
    const int64_t version = int64_at(data + 9), sequences = int64_at(data + 18), documents = int64_at(data + 26);
    if (version != 1)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad header: version %lld, not 1", (long long)version), "%s", again);
    ORR_TRY(check_index_dtype(path, data[17], index));
    if (sequences < 1 || documents < 2)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "bad header: %lld sequences, %lld entries of documents",
                                     (long long)sequences, (long long)documents), "%s", again);
    const int64_t rest = (int64_t)map->size - HEADER;
    if (sequences > rest / 12 || documents > (rest - 12 * sequences) / 8)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "truncated: %lld sequences and %lld entries of documents are not in "
                                     "%zu bytes", (long long)sequences, (long long)documents, map->size), "%s", again);
    const int64_t surplus = rest - 12 * sequences - 8 * documents;
    if (surplus == sequences)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "this is an index of a multimodal data set"), "give one of text alone");
    if (surplus != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "surplus bytes: %lld", (long long)surplus), "%s", again);
    return check_index_arrays(path, data + HEADER, sequences, documents, index);
}

/* Finds the tokens of a .bin file that has an index beside it. */
static int parse_pair(struct segment *s)
{
    struct orri_map map = {0};
    struct index index = {0};
    char *path = partner(s->path, ".idx");

    if (!path)
        return ORR_ENOMEM;
    int rc = orri_map_open(&map, path, false);
    if (rc == 0)
        rc = check_index(path, &map, &index);
    orri_map_close(&map);
    free(path);
    ORR_TRY(rc);
    const int64_t expected = index.count * index.width, size = (int64_t)s->map.size;
    if (size != expected)
        return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "%s: the %lld tokens of its index take %lld bytes, the file has %lld",
                                     size < expected ? "truncated" : "surplus bytes", (long long)index.count,
                                     (long long)expected, (long long)size), "copy both files again");
    s->data = s->map.data;
    s->width = index.width;
    s->count = index.count;
    return 0;
}

static bool listed(const struct orri_paths *files, const char *path)
{
    for (size_t i = 0; i < files->count; i++)
        if (files->items[i].path && strcmp(files->items[i].path, path) == 0)
            return true;
    return false;
}

/* Puts a .bin file in the place of its index, item `i` of the list, or NULL where the list has it already. */
static int turn_index(struct orri_paths *files, size_t i)
{
    char *index = files->items[i].path, *path = partner(index, ".bin");

    if (!path)
        return ORR_ENOMEM;
    if (access(path, F_OK) != 0) {
        free(path);
        return orri_remedy(orri_fail(ORR_ENOENT, index, "has no .bin file beside it"),
                           "put the tokens that this index belongs to there");
    }
    files->items[i].path = NULL;
    if (!listed(files, path))
        files->items[i].path = path;
    else
        free(path);
    free(index);
    return 0;
}

static int turn_indices(struct orri_paths *files)
{
    for (size_t i = 0; i < files->count; i++)
        if (orri_ends_with(files->items[i].path, ".idx"))
            ORR_TRY(turn_index(files, i));
    return 0;
}

/* ---- any file ------------------------------------------------------------------------------------ */

/* Appends the ids of a part of the text, narrow where the vocabulary allows. */
static int append_ids(struct segment *s, size_t *room, const int32_t *ids, size_t count)
{
    size_t needed = ((size_t)s->count + count) * (size_t)s->width;

    if (needed > *room) {
        size_t larger = needed > 2 * *room ? needed : 2 * *room;
        void *owned = realloc(s->owned, larger);
        if (!owned)
            return orri_fail(ORR_ENOMEM, s->path, "no room for %zu bytes of tokens", larger);
        s->owned = owned;
        *room = larger;
    }
    for (size_t i = 0; i < count; i++, s->count++) {
        if (s->width == 2)
            ((uint16_t *)s->owned)[s->count] = (uint16_t)ids[i];
        else
            ((int32_t *)s->owned)[s->count] = ids[i];
    }
    return 0;
}

/* The text goes through the tokenizer in parts, so that only its tokens have to be in memory. */
static int encode_segment(struct segment *s, const struct orr_tokenizer *tokenizer)
{
    const char *text = (const char *)s->data;
    const size_t size = (size_t)s->count;
    size_t room = 0;
    int rc = 0;

    s->count = 0;
    s->width = tokenizer->vocab_size <= 1 << 16 ? 2 : 4;
    for (size_t from = 0, to; rc == 0 && from < size; from = to) {
        int32_t *ids;
        size_t count;
        to = orri_text_part(text, size, from);
        rc = orr_tokenizer_encode(tokenizer, text + from, to - from, &ids, &count);
        if (rc == 0) {
            rc = append_ids(s, &room, ids, count);
            free(ids);
        }
    }
    orri_map_close(&s->map);
    s->data = s->owned;
    return rc;
}

/* Opens the file of `s->path` and takes its tokens or text from the first *left bytes, which it subtracts. */
static int open_segment(struct segment *s, bool given, const struct orr_tokenizer *tokenizer, int64_t *left)
{
    static const char *const labelled[] = {".tsv", ".conll", ".pairs"};

    for (size_t i = 0; i < ORRI_COUNT(labelled); i++)
        if (orri_ends_with(s->path, labelled[i]))
            return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "%s files hold labelled data", labelled[i]),
                               "give text or .bin files to train a language model on");
    ORR_TRY(orri_map_open(&s->map, s->path, !given));
    if (s->map.size == 0)
        return 0;
    s->data = s->map.data;
    s->count = (int64_t)s->map.size;
    s->width = 1;
    const bool tokens = orri_ends_with(s->path, ".bin");
    bool pair = false;
    if (tokens && !has_partner(s->path, ".idx", &pair))
        return ORR_ENOMEM;
    if (tokens)
        ORR_TRY(pair ? parse_pair(s) : parse_bin(s));
    const int64_t whole = s->count;
    if (s->count > *left / s->width)
        s->count = *left / s->width;
    *left = s->count < whole ? 0 : *left - whole * s->width;
    if (s->count == 0)
        return 0;

    if (!tokens && !tokenizer->class->ids_are_bytes) {
        ORR_TRY(encode_segment(s, tokenizer));
    } else if (s->map.size <= COPY_MAX) {
        const size_t bytes = (size_t)(s->count * s->width);
        s->owned = orri_alloc(bytes);
        if (!s->owned)
            return ORR_ENOMEM;
        s->data = memcpy(s->owned, s->data, bytes);
        orri_map_close(&s->map);
    }
    return 0;
}

static void close_segment(struct segment *s)
{
    orri_map_close(&s->map);
    free(s->owned);
    free(s->path);
}

static void load(const struct segment *s, int64_t from, int64_t count, int32_t *out)
{
    const unsigned char *p = s->data + from * s->width;

    switch (s->width) {
    case 1:
        for (int64_t i = 0; i < count; i++)
            out[i] = p[i];
        break;
    case 2:
        for (int64_t i = 0; i < count; i++)
            out[i] = p[2 * i] | p[2 * i + 1] << 8;
        break;
    default:
        memcpy(out, p, (size_t)count * 4);
    }
}

/* ---- the corpus --------------------------------------------------------------------------------- */

static int open_all(struct orr_corpus *c, struct orri_paths *files, const struct orr_tokenizer *tokenizer, int64_t left)
{
    c->segments = orri_calloc(files->count, sizeof(*c->segments));
    if (!c->segments)
        return ORR_ENOMEM;
    for (size_t i = 0; i < files->count && left > 0; i++) {
        struct segment s = {.path = files->items[i].path, .first = c->size};
        if (!s.path)
            continue;
        int rc = open_segment(&s, files->items[i].given, tokenizer, &left);
        files->items[i].path = NULL;
        if (rc != 0 || s.count == 0) {
            close_segment(&s);
            ORR_TRY(rc);
            continue;
        }
        c->segments[c->count++] = s;
        c->size += s.count;
    }
    return 0;
}

struct orr_corpus *orr_corpus_open(const char *const *paths, int count, const struct orr_tokenizer *tokenizer,
                                   int64_t max_bytes)
{
    struct orri_paths files = {0};

    if (count < 1 || max_bytes < 0) {
        orri_fail(ORR_EINVAL, "data", count < 1 ? "no files are given" : "the limit of bytes is negative");
        return NULL;
    }
    struct orr_corpus *c = orri_calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    int rc = orri_paths_find(&files, paths, count);
    if (rc == 0)
        rc = turn_indices(&files);
    if (rc == 0)
        rc = open_all(c, &files, tokenizer, max_bytes ? max_bytes : INT64_MAX);
    orri_paths_free(&files);
    if (rc == 0 && c->size == 0)
        rc = orri_remedy(orri_fail(ORR_EFORMAT, paths[0], "no tokens: every file is empty, or the limit too low"),
                         "give files with text in them");
    if (rc != 0) {
        orr_corpus_destroy(c);
        return NULL;
    }
    return c;
}

void orr_corpus_destroy(struct orr_corpus *corpus)
{
    if (!corpus)
        return;
    for (int i = 0; i < corpus->count; i++)
        close_segment(&corpus->segments[i]);
    free(corpus->segments);
    free(corpus);
}

int64_t orr_corpus_size(const struct orr_corpus *corpus)
{
    return corpus->size;
}

int orr_corpus_files(const struct orr_corpus *corpus)
{
    return corpus->count;
}

int orr_corpus_read(const struct orr_corpus *corpus, int64_t start, int64_t count, int32_t *out)
{
    if (start < 0 || count < 0 || start > corpus->size || count > corpus->size - start)
        return orri_fail(ORR_EINVAL, "data", "%lld tokens from number %lld on, of %lld", (long long)count,
                         (long long)start, (long long)corpus->size);
    /* The last file that begins at or before `start`. */
    int low = 0, high = corpus->count;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (corpus->segments[middle].first <= start)
            low = middle;
        else
            high = middle;
    }
    for (const struct segment *s = &corpus->segments[low]; count > 0; s++) {
        int64_t from = start - s->first;
        int64_t n = count < s->count - from ? count : s->count - from;
        load(s, from, n, out);
        start += n;
        out += n;
        count -= n;
    }
    return 0;
}

int orr_corpus_check_vocab(const struct orr_corpus *corpus, int vocab)
{
    int32_t tokens[4096];

    for (int i = 0; i < corpus->count; i++) {
        const struct segment *s = &corpus->segments[i];
        if (s->width < 4 && vocab >= 1 << (8 * s->width))
            continue;
        for (int64_t from = 0; from < s->count; from += (int64_t)ORRI_COUNT(tokens)) {
            int64_t n = s->count - from;
            if (n > (int64_t)ORRI_COUNT(tokens))
                n = (int64_t)ORRI_COUNT(tokens);
            load(s, from, n, tokens);
            for (int64_t k = 0; k < n; k++)
                if (tokens[k] < 0 || tokens[k] >= vocab)
                    return orri_remedy(
                        orri_fail(ORR_EFORMAT, s->path, "token %d at position %lld is outside the vocabulary of %d",
                                  (int)tokens[k], (long long)(from + k), vocab),
                        "use a model with that token (--set vocab_size=N makes a larger one), or the model's tokenizer");
        }
    }
    return 0;
}

int orr_corpus_split(const struct orr_corpus *corpus, double fraction, struct orr_range *train,
                     struct orr_range *validation)
{
    if (!(fraction >= 0 && fraction < 1))
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "a validation fraction of %g", fraction),
                           "give one from 0 to below 1");
    const int64_t border = corpus->size - (int64_t)(fraction * (double)corpus->size);
    *train = (struct orr_range){0, border};
    *validation = (struct orr_range){border, corpus->size};
    return 0;
}

uint64_t orr_corpus_fingerprint(const struct orr_corpus *corpus)
{
    const bool all = corpus->size <= FINGERPRINT_RUNS * FINGERPRINT_RUN;
    uint64_t hash = orri_hash(ORRI_HASH, &corpus->size, sizeof(corpus->size));
    int32_t run[FINGERPRINT_RUN];

    for (int64_t i = 0; i < FINGERPRINT_RUNS; i++) {
        int64_t start = all ? i * FINGERPRINT_RUN : (corpus->size - FINGERPRINT_RUN) / (FINGERPRINT_RUNS - 1) * i;
        int64_t n = corpus->size - start < FINGERPRINT_RUN ? corpus->size - start : FINGERPRINT_RUN;
        if (n <= 0)
            break;
        orr_corpus_read(corpus, start, n, run);
        hash = orri_hash(hash, run, (size_t)n * sizeof(*run));
    }
    return hash;
}
