/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/data.h>

#include "core/core.h"
#include "io/io.h"
#include "text/text.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* ---- the list of files -------------------------------------------------------------------------- */

struct name {
    char *path;
    bool given;     /* by the caller, not found in a folder or by a pattern */
};

struct names {
    struct name *items;
    size_t count, capacity;
};

/* The directories that lead to one, to notice a link back into them. */
struct ancestors {
    const struct ancestors *up;
    dev_t device;
    ino_t inode;
};

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i].path);
    free(names->items);
}

/* Takes `path` (NULL: an allocation that failed). */
static int names_add(struct names *names, char *path, bool given)
{
    if (!path)
        return ORR_ENOMEM;
    if (names->count == names->capacity) {
        size_t capacity = names->capacity ? 2 * names->capacity : 64;
        struct name *items = realloc(names->items, capacity * sizeof(*items));
        if (!items) {
            int rc = orri_fail(ORR_ENOMEM, path, "no room for a list of %zu files", capacity);
            free(path);
            return rc;
        }
        names->items = items;
        names->capacity = capacity;
    }
    names->items[names->count++] = (struct name){path, given};
    return 0;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->path, ((const struct name *)b)->path);
}

static int cannot_open(const char *path)
{
    return orri_fail(ORR_ENOENT, path, "cannot be opened: %s", strerror(errno));
}

static int add_directory(struct names *names, const char *path, const struct stat *st, const struct ancestors *up)
{
    const struct ancestors here = {up, st->st_dev, st->st_ino};
    const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
    struct dirent *entry;
    int rc = 0;

    for (; up; up = up->up)
        if (up->device == here.device && up->inode == here.inode)
            return 0;
    DIR *directory = opendir(path);
    if (!directory)
        return cannot_open(path);
    while (rc == 0 && (entry = readdir(directory))) {
        struct stat inner;
        if (entry->d_name[0] == '.')
            continue;
        char *name = orri_format("%s%s%s", path, slash, entry->d_name);
        const bool there = name && stat(name, &inner) == 0;
        if (there && S_ISREG(inner.st_mode)) {
            rc = names_add(names, name, false);
            continue;
        }
        if (!name)
            rc = ORR_ENOMEM;
        else if (there && S_ISDIR(inner.st_mode))
            rc = add_directory(names, name, &inner, &here);
        free(name);
    }
    closedir(directory);
    return rc;
}

/* A file, or what is below a directory, in order. */
static int add_existing(struct names *names, const char *path, const struct stat *st, bool given)
{
    const size_t from = names->count;

    if (!S_ISDIR(st->st_mode))
        return names_add(names, orri_strdup(path), given);
    ORR_TRY(add_directory(names, path, st, NULL));
    if (names->count == from)
        return orri_remedy(orri_fail(ORR_ENOENT, path, "no file is in this directory"), "put text or .bin files there");
    qsort(names->items + from, names->count - from, sizeof(*names->items), by_path);
    return 0;
}

static int add_pattern(struct names *names, const char *pattern)
{
    glob_t found;
    int rc = 0, status = glob(pattern, GLOB_NOSORT, NULL, &found);

    if (status == GLOB_NOMATCH)
        return orri_remedy(orri_fail(ORR_ENOENT, pattern, "no file matches"), "check the pattern");
    if (status != 0)
        return orri_fail(status == GLOB_NOSPACE ? ORR_ENOMEM : ORR_ENOENT, pattern, "the pattern cannot be followed");
    struct names matches = {0};
    for (size_t i = 0; i < found.gl_pathc && rc == 0; i++)
        rc = names_add(&matches, orri_strdup(found.gl_pathv[i]), false);
    globfree(&found);
    qsort(matches.items, matches.count, sizeof(*matches.items), by_path);
    for (size_t i = 0; i < matches.count && rc == 0; i++) {
        struct stat st;
        const char *path = matches.items[i].path;
        rc = stat(path, &st) == 0 ? add_existing(names, path, &st, false) : cannot_open(path);
    }
    names_free(&matches);
    return rc;
}

static int add_path(struct names *names, const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0)
        return add_existing(names, path, &st, true);
    if (errno != ENOENT)
        return cannot_open(path);
    if (strpbrk(path, "*?["))
        return add_pattern(names, path);
    return orri_remedy(orri_fail(ORR_ENOENT, path, "no such file or directory"), "check the path");
}

/* ---- one file ----------------------------------------------------------------------------------- */

static bool ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);

    return n >= m && strcmp(path + n - m, ending) == 0;
}

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
        if (ends_with(s->path, labelled[i]))
            return orri_remedy(orri_fail(ORR_EFORMAT, s->path, "%s files hold labelled data", labelled[i]),
                               "this version trains language models on text and .bin");
    ORR_TRY(orri_map_open(&s->map, s->path, !given));
    if (s->map.size == 0)
        return 0;
    s->data = s->map.data;
    s->count = (int64_t)s->map.size;
    s->width = 1;
    const bool tokens = ends_with(s->path, ".bin");
    if (tokens)
        ORR_TRY(parse_bin(s));
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

static int open_all(struct orr_corpus *c, struct names *names, const struct orr_tokenizer *tokenizer, int64_t left)
{
    c->segments = orri_calloc(names->count, sizeof(*c->segments));
    if (!c->segments)
        return ORR_ENOMEM;
    for (size_t i = 0; i < names->count && left > 0; i++) {
        struct segment s = {.path = names->items[i].path, .first = c->size};
        int rc = open_segment(&s, names->items[i].given, tokenizer, &left);
        names->items[i].path = NULL;
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
    struct names names = {0};
    int rc = 0;

    if (count < 1 || max_bytes < 0) {
        orri_fail(ORR_EINVAL, "data", count < 1 ? "no files are given" : "the limit of bytes is negative");
        return NULL;
    }
    struct orr_corpus *c = orri_calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    for (int i = 0; i < count && rc == 0; i++)
        rc = add_path(&names, paths[i]);
    if (rc == 0)
        rc = open_all(c, &names, tokenizer, max_bytes ? max_bytes : INT64_MAX);
    names_free(&names);
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
