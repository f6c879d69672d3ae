/* SPDX-License-Identifier: Apache-2.0 */
/* What tokenizers are made of. A kind is a table of functions; there are two: bytes, and those that are read from files, which
 * are chains of steps in the vocabulary of tokenizer.json:
 *
 *   text -> added tokens (added.c) -> normalizer (normalize.c) -> pre-tokenizer (split.c) -> model -> ids (encode.c)
 *   ids -> template.c;  ids -> tokens -> decoder (decode.c) -> text
 *
 * load.c builds the chains from a JSON object; files.c finds the files, of which vocabulary_files.c makes such an object where they
 * are none. */
#ifndef ORRI_TEXT_H
#define ORRI_TEXT_H

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <jansson.h>
#include <unicode/ubrk.h>
#include <unicode/unorm2.h>
#include <unicode/uset.h>
#include <unicode/utf8.h>

#include <orrery/tokenizer.h>

struct orri_piece;

/* The functions do what their orr_tokenizer_ counterparts say. destroy frees what the struct points to, not the struct; it and those
 * behind it may be NULL: there are no such tokens, no files. */
struct orri_tokenizer_class {
    const char *name;
    bool ids_are_bytes;     /* text already is an array of 8-bit ids: nobody needs to encode it */
    int (*encode)(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count);
    int (*decode)(const struct orr_tokenizer *t, const int32_t *ids, size_t count, char **text, size_t *size);
    void (*destroy)(struct orr_tokenizer *t);
    int32_t (*special)(const struct orr_tokenizer *t, enum orr_special special);
    int32_t (*id)(const struct orr_tokenizer *t, const char *token);
    const char *(*token)(const struct orr_tokenizer *t, int32_t id);
    int (*save)(const struct orr_tokenizer *t, const char *directory);
};

/* What is put around one sequence or two. */
struct orri_template {
    struct orri_part {
        int sequence;       /* 0 or 1, or -1: the token `id` */
        int32_t id, type;
    } *part;
    size_t count;
};

/* The first member of a kind's own struct, where it has tables to keep. */
struct orr_tokenizer {
    const struct orri_tokenizer_class *class;
    char *name;                     /* what it was opened by; NULL: the class' */
    int vocab_size;
    struct orri_template one, two;  /* count 0: the sequences alone            */
};

extern const struct orri_tokenizer_class orri_tokenizer_bytes, orri_tokenizer_files;
struct orr_tokenizer *orri_tokenizer_bytes_create(void);

/* ---- growing text (buffer.c) ------------------------------------------------------------------------------------- */

struct orri_text {
    char *data;
    size_t size, capacity;
};

int orri_text_room(struct orri_text *text, size_t more);                           /* ORR_ENOMEM */
int orri_text_add(struct orri_text *text, const char *data, size_t size);          /* ORR_ENOMEM */
int orri_text_add_character(struct orri_text *text, UChar32 c);                    /* ORR_ENOMEM */
void orri_text_free(struct orri_text *text);

/* As UTF-8: what is none becomes U+FFFD, one for every longest beginning of a character (Unicode 15, section 3.9, "U+FFFD
 * Substitution of Maximal Subparts"). *valid is the text itself where it is valid, else *copy's. */
int orri_text_repair(const char *text, size_t size, struct orri_text *copy, const char **valid, size_t *valid_size);

/* Where a long text may be cut: a MiB or more behind `from`, behind the end of a line that has other characters than blanks on both
 * sides, which no tokenizer looks across that does not look at the whole text. Without such a place in 64 MiB, there. */
size_t orri_text_part(const char *text, size_t size, size_t from);

/* The character at *at, which it moves on. The text is valid. */
static inline UChar32 orri_character(const char *text, size_t *at)
{
    UChar32 c;

    U8_NEXT_UNSAFE((const uint8_t *)text, *at, c);
    return c;
}

/* The character that ends at `end` > 0. */
static inline UChar32 orri_character_before(const char *text, size_t end)
{
    UChar32 c;

    U8_PREV_UNSAFE((const uint8_t *)text, end, c);
    return c;
}

/* The tokenizers in use know the Unicode of when they were written; ids are to be theirs. Which version that is has been found by
 * comparing all characters. */
enum { ORRI_BERT_UNICODE = 8, ORRI_MARKS_UNICODE = 9 };
bool orri_is_in_unicode(int version, UChar32 c);
#define ORRI_FORMS_UNICODE "[:age=9.0:]"

bool orri_is_space(UChar32 c);          /* White_Space                                    */
bool orri_is_word(UChar32 c);           /* \w of Unicode Technical Standard 18, annex C   */
bool orri_is_punctuation(UChar32 c);    /* P of ORRI_BERT_UNICODE, and ASCII's symbols    */
bool orri_is_numeric(UChar32 c);        /* N                                              */

/* ---- strings with numbers (vocab.c) ------------------------------------------------------------------------------ */

struct orri_vocab {
    char **token;               /* by id; NULL: none      */
    uint32_t *size;
    int count;                  /* ids are below          */
    size_t capacity;
    int32_t *slot;              /* by hash: id, or -1     */
    size_t slots;
};

/* Gives a string an id. With `find`, orri_vocab_id() finds it. ORR_ENOMEM; ORR_EINVAL where the id or the string is taken. */
int orri_vocab_add(struct orri_vocab *vocab, const char *token, size_t size, int32_t id, bool find);
int32_t orri_vocab_id(const struct orri_vocab *vocab, const char *token, size_t size);     /* -1: none */
void orri_vocab_free(struct orri_vocab *vocab);

/* A map from pairs of 32-bit numbers to pairs of them (also the edges of a trie: node and byte to node). Keys are not 0xff...f. */
struct orri_pairs {
    struct orri_pair {
        uint64_t key;
        int32_t first, second;
    } *slot;
    size_t slots, count;
};

#define ORRI_PAIR(a, b) ((uint64_t)(uint32_t)(a) << 32 | (uint32_t)(b))
int orri_pairs_put(struct orri_pairs *pairs, uint64_t key, int32_t first, int32_t second);     /* ORR_ENOMEM */
struct orri_pair *orri_pairs_get(const struct orri_pairs *pairs, uint64_t key);                 /* NULL: none */
void orri_pairs_free(struct orri_pairs *pairs);

/* Strings by their beginnings. A node's second number is the value of the string that ends there, or -1. */
struct orri_trie {
    struct orri_pairs edges;
    int32_t nodes;
    bool begins[256];           /* some string begins by this byte */
};

int orri_trie_add(struct orri_trie *trie, const char *text, size_t size, int32_t value);        /* ORR_ENOMEM; the last one wins */
void orri_trie_free(struct orri_trie *trie);

/* ---- regular expressions (regex.c) ------------------------------------------------------------------------------- */

struct orri_regex;
struct orri_matcher;            /* what a thread matches with */

/* In the syntax and with the meaning that Oniguruma gives them as Ruby's. NULL with ORR_EFORMAT (a syntax error, or what cannot
 * be said by PCRE2; `where` is the message's beginning), ORR_ENOMEM. */
struct orri_regex *orri_regex_create(const char *where, const char *pattern);
void orri_regex_destroy(struct orri_regex *regex);
struct orri_matcher *orri_matcher_create(void);                 /* NULL: ORR_ENOMEM */
void orri_matcher_destroy(struct orri_matcher *matcher);

/* The first match at or behind `from`: *found, and where it begins and ends. ORR_EFORMAT where it takes too long. */
int orri_regex_find(const struct orri_regex *regex, struct orri_matcher *matcher, const char *text, size_t size, size_t from,
                    bool *found, size_t *begin, size_t *end);

/* A string or a regular expression, as Replace and Split have them. */
struct orri_pattern {
    char *text;                 /* a string, where there is no regex */
    size_t size;
    struct orri_regex *regex;
};

/* The first match at or behind *from that is not empty where the last one ended; *from moves behind it. */
struct orri_search {
    const struct orri_pattern *pattern;
    struct orri_matcher *matcher;
    const char *text;
    size_t size, from, last;    /* last: where the last match ended, at first SIZE_MAX */
};
int orri_search_next(struct orri_search *search, bool *found, size_t *begin, size_t *end);
void orri_pattern_free(struct orri_pattern *pattern);

/* ---- added tokens (added.c) -------------------------------------------------------------------------------------- */

struct orri_added {
    char *text, *normal;        /* normal: what the normalizer makes of it, where that is something else */
    size_t size, normal_size;
    int32_t id;
    bool single_word, left, right, normalized, special;
};

/* ---- steps -------------------------------------------------------------------------------------------------------- */

struct orri_encoder;

/* A step of the normalizer: appends what `text` becomes to *out. */
struct orri_normal {
    int (*apply)(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out);
    int (*map)(UChar32 c, struct orri_text *out);   /* of those that look at characters for themselves */
    UNormalizer2 *form;                             /* of the characters of a set  */
    USet *known;
    struct orri_pattern pattern;
    char *text;                                     /* what is put in or before    */
    size_t size;
    bool left, right;                               /* what Strip strips           */
    uint32_t *units;                                /* Precompiled: a double array */
    size_t unit_count;
};

/* A stretch of text on its way to the model. */
struct orri_piece {
    const char *text;
    size_t size;
    bool first;                 /* the whole text begins with it, before the normalizer */
};

enum orri_behavior { ORRI_ISOLATED, ORRI_REMOVED, ORRI_CONTIGUOUS, ORRI_MERGED_WITH_PREVIOUS, ORRI_MERGED_WITH_NEXT };
enum orri_prepend { ORRI_PREPEND_NEVER, ORRI_PREPEND_FIRST, ORRI_PREPEND_ALWAYS };

/* A step of the pre-tokenizer: hands the pieces of a piece on to step `depth` + 1. */
struct orri_split {
    int (*apply)(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth);
    bool (*is)(UChar32 c);
    struct orri_pattern pattern;
    enum orri_behavior behavior;
    bool invert;
    char mark[5];               /* Metaspace's for a blank, CharDelimiterSplit's */
    enum orri_prepend prepend;
    bool cut;
};

/* A step of the decoder: turns a list of strings into another. */
struct orri_strings {
    struct orri_text text;
    size_t *end;                /* of every string */
    size_t count, capacity;
};
struct orri_decode {
    int (*apply)(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out, struct orri_matcher *matcher);
    struct orri_pattern pattern;
    char *text;
    size_t size;
    int64_t start, stop;
    bool clean, prepend;
    UChar32 mark;
};

/* ---- models -------------------------------------------------------------------------------------------------------- */

struct orri_files;

struct orri_model {
    int (*encode)(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size);
    int32_t unknown;                    /* id, or -1 */
    bool byte_fallback, fuse_unknown, ignore_merges;
    int32_t byte[256];                  /* <0x00> ... <0xFF> */
    char *prefix, *suffix;              /* of continuing and of last parts of a word, or NULL */
    size_t prefix_size, suffix_size;
    int32_t character[0x200];           /* BPE: the ids of the first characters, or -1 */
    struct orri_pairs merges;           /* (a, b) -> (rank, id) */
    int64_t longest;                    /* WordPiece: characters of a word */
    struct orri_trie pieces;            /* Unigram */
    double *score, unknown_score;
};

int orri_bpe_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size);
int orri_wordpiece_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size);
int orri_wordlevel_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size);
int orri_unigram_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size);

/* ---- the tokenizer ---------------------------------------------------------------------------------------------------- */

/* A file that it was read from, as it was. */
struct orri_source {
    char *name, *data;
    size_t size;
};

struct orri_files {
    struct orr_tokenizer base;
    struct orri_vocab vocab;            /* the model's, which finds them, and added tokens, which are only spelled by it */
    struct orri_model model;
    struct orri_added *added;
    int added_count;
    struct orri_trie raw, normalized;   /* of added tokens: values are indices into `added` */
    struct orri_pairs respelled;        /* by id, those that have a `normal`: first is the index */
    struct orri_normal *normal;
    struct orri_split *split;
    struct orri_decode *decode;
    int normal_count, split_count, decode_count;
    bool byte_level;                    /* the model reads bytes by the alphabet of byte_level.c */
    bool has_decoder;
    int32_t special[ORR_SPECIALS];
    struct orri_source source[8];
    int source_count;
    UBreakIterator *graphemes;          /* cloned by encoders; NULL where no step needs them */
    pthread_mutex_t lock;
    struct orri_encoder *idle;          /* a list: what earlier calls worked with            */
};

/* Fills a zeroed *t from the object of a tokenizer.json, named `file` in errors. ORR_EFORMAT, ORR_ENOMEM. */
int orri_files_build(struct orri_files *t, const char *file, const json_t *object);
void orri_files_free(struct orri_files *t);
struct orr_tokenizer *orri_files_open(const char *path);        /* a tokenizer.json, vocabulary files or their directory */

/* ---- encoding (encode.c) -------------------------------------------------------------------------------------------------- */

struct orri_symbol {
    int32_t id;                         /* -1: merged into the one before */
    int32_t previous, next;             /* -1: none                       */
};
struct orri_merge {
    int32_t rank, at, id;
};

/* The tokens of a short word. */
struct orri_cached {
    uint8_t size, count;                /* size 0: empty */
    char word[30];
    int32_t id[8];
};

enum { ORRI_STEPS = 16, ORRI_CACHE = 1 << 16 };

/* What one call works with. Calls at the same time have one each; it is kept for later ones. */
struct orri_encoder {
    const struct orri_files *t;
    int32_t *ids;
    size_t count, capacity;
    struct orri_text valid, normal[2], step[ORRI_STEPS], bytes, part;
    struct orri_symbol *symbols;
    size_t symbol_count, symbol_capacity;
    struct orri_merge *heap;
    size_t heap_count, heap_capacity;
    void *paths;                        /* Unigram's lattice */
    size_t path_capacity;
    struct orri_matcher *matcher;
    UBreakIterator *graphemes;
    struct orri_cached *cache;
    bool moved;                         /* the normalizer took away what the text began with */
    struct orri_encoder *next;
};

int orri_encoder_add(struct orri_encoder *e, int32_t id);                                       /* ORR_ENOMEM */
int orri_encode_piece(struct orri_encoder *e, const struct orri_piece *piece, int depth);       /* steps from `depth` on, the model */
int orri_encode_added(struct orri_encoder *e, const struct orri_trie *trie, const struct orri_piece *piece,
                      int (*other)(struct orri_encoder *e, const struct orri_piece *piece));
int orri_normalize(struct orri_encoder *e, const char *text, size_t size, const char **out, size_t *out_size);
struct orri_encoder *orri_encoder_take(const struct orri_files *t);                             /* NULL: ORR_ENOMEM */
void orri_encoder_give(struct orri_encoder *e);
void orri_encoder_free(struct orri_encoder *e);
int orri_files_encode(const struct orr_tokenizer *t, const char *text, size_t size, int32_t **ids, size_t *count);
int orri_files_decode(const struct orr_tokenizer *t, const int32_t *ids, size_t count, char **text, size_t *size);

/* Makes room for `more` elements behind count. */
int orri_grow(void *array, size_t *capacity, size_t count, size_t more, size_t element);

/* ---- the alphabet of bytes (byte_level.c): GPT-2's, where each byte is a printable character ------------------------------ */

UChar32 orri_byte_character(unsigned char byte);
int orri_character_byte(UChar32 c);                                                             /* -1: none */
int orri_bytes_spell(const char *bytes, size_t size, struct orri_text *out);                    /* appends  */

/* Where GPT-2's pattern ends the piece that begins at `at` < size. */
size_t orri_gpt2_piece(const char *text, size_t size, size_t at);

/* ---- components of tokenizer.json (load_*.c) -------------------------------------------------------------------------------- */

/* An object with a "type", and where it stands. */
struct orri_component {
    const char *file;
    char name[64];              /* "pre_tokenizer", "normalizer[2]"  */
    const char *type;
    const json_t *json;
};

int orri_component_fail(const struct orri_component *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
int orri_component_read(struct orri_component *c, const char *file, const char *name, const json_t *json);
int orri_component_keys(const struct orri_component *c, const char *const *keys);               /* no others, ended by NULL */
int orri_component_bool(const struct orri_component *c, const char *key, int standard, bool *out);     /* -1: must be there */
int orri_component_int(const struct orri_component *c, const char *key, int64_t min, int64_t max, int64_t *out);
int orri_component_text(const struct orri_component *c, const char *key, bool needed, char **out, size_t *size);
int orri_component_character(const struct orri_component *c, const char *key, char out[5]);
int orri_component_pattern(const struct orri_component *c, struct orri_pattern *out);
int orri_component_unknown(const struct orri_component *c);
int orri_load_normalizer(struct orri_files *t, const struct orri_component *c);
int orri_load_pre_tokenizer(struct orri_files *t, const struct orri_component *c);
int orri_load_decoder(struct orri_files *t, const struct orri_component *c);
int orri_load_post_processor(struct orri_files *t, const struct orri_component *c);
int orri_load_model(struct orri_files *t, const struct orri_component *c);
int orri_load_added(struct orri_files *t, const char *file, const json_t *list);

int orri_load_prepend_scheme(const struct orri_component *c, enum orri_prepend *scheme);
void orri_split_finish(struct orri_files *t);
int orri_charsmap_load(struct orri_files *t, const struct orri_component *c, struct orri_normal *step);
int orri_charsmap_apply(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out);

/* Each member of the list under `key` as a component of its own. */
int orri_component_each(const struct orri_component *c, const char *key, struct orri_files *t,
                        int (*read)(struct orri_files *t, const struct orri_component *c));

/* One step more, zeroed, at the end of an array. ORR_ENOMEM. */
int orri_step_add(void *array, int *count, size_t element, void *step);

#endif
