/* SPDX-License-Identifier: Apache-2.0 */
#include "data/rows.h"

#include "core/core.h"
#include "data/paths.h"

#include <stdlib.h>
#include <string.h>

/* Where a sequence is among the tokens, and its source. */
struct sequence {
    int64_t first, source_first;
    int32_t count, source_count;
    int32_t label;      /* of a text                                          */
    int32_t second;     /* tokens before its second text; count: there is none */
};

struct orr_sequences {
    enum orr_format format;
    struct orr_sequence_options options;
    int32_t specials[ORR_SPECIALS];     /* -1: there is none */
    struct sequence *items;
    int32_t *tokens;
    int16_t *tags;              /* beside the tokens of sentences */
    int64_t size, capacity;     /* of tokens and tags             */
    struct orr_sequence_counts counts;
};

/* What is being encoded. */
struct encoder {
    struct orr_sequences *sequences;
    const struct orr_examples *examples;
    const struct orr_tokenizer *tokenizer;
    int64_t number;
};

/* ---- one example ----------------------------------------------------------------------------------- */

static int fail(const struct encoder *e, const char *what, size_t count)
{
    struct orr_example x;

    orr_examples_get(e->examples, e->number, &x);
    if (count == 0)
        return orri_remedy(orri_fail_line(x.file, x.line, "%s no tokens", what), "take the line out, or use another tokenizer");
    return orri_remedy(orri_fail_line(x.file, x.line, "%s %zu tokens, more than the %d of a row", what, count,
                                      e->sequences->options.seq),
                       "give a longer --seq where the model has the positions, or cut such examples with --truncate");
}

/* Room for `count` more tokens. */
static int reserve(struct orr_sequences *s, int64_t count)
{
    if (s->size + count <= s->capacity)
        return 0;
    const int64_t capacity = 2 * s->capacity + count;
    int32_t *tokens = realloc(s->tokens, (size_t)capacity * sizeof(*tokens));
    s->tokens = tokens ? tokens : s->tokens;
    int16_t *tags = s->tags;
    if (s->format == ORR_FORMAT_CONLL) {
        tags = realloc(s->tags, (size_t)capacity * sizeof(*tags));
        s->tags = tags ? tags : s->tags;
    }
    if (!tokens || (s->format == ORR_FORMAT_CONLL && !tags))
        return orri_fail(ORR_ENOMEM, "data", "no room for %lld tokens", (long long)capacity);
    s->capacity = capacity;
    return 0;
}

static bool stays(const struct orr_sequences *s, int32_t id)
{
    return id >= 0 && (id == s->specials[ORR_SEPARATOR] || id == s->options.end);
}

/* Appends the tokens, of which a row has room for seq; *count is how many that are, *cut whether some were left out. `what` has
 * that many, in an error. */
static int append(const struct encoder *e, const int32_t *ids, size_t size, const char *what, int32_t *count, bool *cut)
{
    struct orr_sequences *s = e->sequences;
    const size_t room = (size_t)s->options.seq;

    if (size == 0 || (size > room && !s->options.truncate))
        return fail(e, what, size);
    *count = (int32_t)(size < room ? size : room);
    ORR_TRY(reserve(s, *count));
    memcpy(s->tokens + s->size, ids, (size_t)*count * sizeof(*ids));
    if (size > room) {
        *cut = true;
        if (stays(s, ids[size - 1]))
            s->tokens[s->size + *count - 1] = ids[size - 1];
    }
    s->size += *count;
    return 0;
}

/* The tokens of a text in [*first, *last) without those that a template puts around them. */
static void strip(const struct orr_sequences *s, const int32_t *ids, size_t *first, size_t *last)
{
    while (*first < *last && (ids[*first] == s->specials[ORR_CLASS] || ids[*first] == s->specials[ORR_BEGIN]))
        (*first)++;
    while (*first < *last && stays(s, ids[*last - 1]))
        (*last)--;
}

/* Takes tokens [from, to) out. */
static void take_out(struct orr_encoding *e, size_t from, size_t to)
{
    memmove(e->ids + from, e->ids + to, (e->count - to) * sizeof(*e->ids));
    memmove(e->types + from, e->types + to, (e->count - to) * sizeof(*e->types));
    e->count -= to - from;
}

/* Cuts a pair of texts to the tokens of a row: of the longer text as many as need be, of both once they are equally long, as
 * Hugging Face's tokenizers do ("longest_first"). Returns whether there was anything to cut. */
static bool cut_pair(const struct orr_sequences *s, struct orr_encoding *e)
{
    const size_t seq = (size_t)s->options.seq;
    size_t border = 0, first[2], last[2];

    while (border < e->count && e->types[border] == 0)
        border++;
    first[0] = 0;
    last[0] = first[1] = border;
    last[1] = e->count;
    for (int i = 0; i < 2; i++)
        strip(s, e->ids, &first[i], &last[i]);
    const size_t sizes[2] = {last[0] - first[0], last[1] - first[1]}, around = e->count - sizes[0] - sizes[1];
    if (e->count <= seq || border == e->count || around > seq)
        return false;
    const size_t room = seq - around;
    const int longer = sizes[0] > sizes[1] ? 0 : 1;
    size_t keep[2];
    keep[!longer] = 2 * sizes[!longer] > room ? room / 2 : sizes[!longer];
    keep[longer] = room - keep[!longer];
    take_out(e, first[1] + keep[1], last[1]);
    take_out(e, first[0] + keep[0], last[0]);
    return true;
}

static int encode_text(const struct encoder *e, struct sequence *q)
{
    struct orr_sequences *s = e->sequences;
    struct orr_encoding encoding;
    struct orr_example x;
    bool cut = false;

    orr_examples_get(e->examples, e->number, &x);
    q->first = s->size;
    q->label = x.label;
    ORR_TRY(orr_tokenizer_encode_input(e->tokenizer, x.first, x.first_size, x.second, x.second_size, &encoding));
    if (s->options.truncate && x.second)
        cut = cut_pair(s, &encoding);
    int rc = append(e, encoding.ids, encoding.count, "it has", &q->count, &cut);
    for (q->second = 0; rc == 0 && q->second < q->count && encoding.types[q->second] == 0; q->second++)
        ;
    orr_encoding_free(&encoding);
    s->counts.labels++;
    s->counts.truncated += cut;
    return rc;
}

/* The label of a token is its word's where it is the word's first: counts them. */
static int64_t put_tags(int16_t *tags, const struct orr_encoding *encoding, int count, const struct orr_sentence *sentence)
{
    int64_t labels = 0;

    for (int t = 0; t < count; t++) {
        int32_t word = encoding->words[t];
        bool first = word >= 0 && (t == 0 || encoding->words[t - 1] != word);
        tags[t] = first ? (int16_t)sentence->tags[word] : ORR_IGNORE;
        labels += first;
    }
    return labels;
}

static int encode_words(const struct encoder *e, const struct orr_sentence *sentence, struct sequence *q)
{
    struct orr_sequences *s = e->sequences;
    struct orr_encoding encoding;
    bool cut = false;

    q->first = s->size;
    ORR_TRY(orr_tokenizer_encode_words(e->tokenizer, (const char *const *)sentence->words, sentence->count, &encoding));
    int rc = append(e, encoding.ids, encoding.count, "it has", &q->count, &cut);
    if (rc == 0) {
        /* A separator that took the place of a word's first token is none. */
        if (cut && stays(s, encoding.ids[encoding.count - 1]))
            encoding.words[q->count - 1] = -1;
        int64_t labels = put_tags(s->tags + q->first, &encoding, q->count, sentence);
        s->counts.labels += labels;
        s->counts.lost += (int64_t)sentence->count - labels;
        s->counts.truncated += cut;
    }
    q->second = q->count;
    orr_encoding_free(&encoding);
    return rc;
}

static int encode_sentence(const struct encoder *e, struct sequence *q)
{
    struct orr_sentence sentence;

    ORR_TRY(orr_examples_sentence(e->examples, e->number, &sentence));
    int rc = encode_words(e, &sentence, q);
    orr_sentence_free(&sentence);
    return rc;
}

/* Appends the end token, where it is not there. */
static int end_target(const struct orr_sequences *s, struct orr_encoding *encoding)
{
    const int32_t end = s->options.end;

    if (end < 0 || (encoding->count && encoding->ids[encoding->count - 1] == end))
        return 0;
    int32_t *ids = realloc(encoding->ids, (encoding->count + 1) * sizeof(*ids));
    if (!ids)
        return orri_fail(ORR_ENOMEM, "data", "no room for %zu tokens", encoding->count + 1);
    ids[encoding->count++] = end;
    encoding->ids = ids;
    return 0;
}

static int encode_pair(const struct encoder *e, struct sequence *q)
{
    struct orr_sequences *s = e->sequences;
    struct orr_encoding encoding;
    struct orr_example x;
    bool cut = false;

    orr_examples_get(e->examples, e->number, &x);
    q->source_first = s->size;
    ORR_TRY(orr_tokenizer_encode_input(e->tokenizer, x.first, x.first_size, NULL, 0, &encoding));
    int rc = append(e, encoding.ids, encoding.count, "the source has", &q->source_count, &cut);
    orr_encoding_free(&encoding);
    ORR_TRY(rc);

    q->first = s->size;
    ORR_TRY(orr_tokenizer_encode_input(e->tokenizer, x.second, x.second_size, NULL, 0, &encoding));
    rc = end_target(s, &encoding);
    if (rc == 0)
        rc = append(e, encoding.ids, encoding.count, "the target has", &q->count, &cut);
    orr_encoding_free(&encoding);
    q->second = q->count;
    s->counts.source_tokens += q->source_count;
    s->counts.labels += q->count;
    s->counts.truncated += cut;
    return rc;
}

/* ---- all ------------------------------------------------------------------------------------------- */

static int check(const struct orr_examples *examples, const struct orr_sequence_options *options)
{
    if (options->seq < 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "sequences of %d tokens", options->seq), "give a length of 1 or more");
    if (orr_examples_kind(examples) == ORR_FORMAT_PAIRS && options->start < 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "there is no token that a target begins with"),
                           "set decoder_start_token_id in the model's config.json");
    return 0;
}

static int encode_all(struct encoder *e)
{
    struct orr_sequences *s = e->sequences;

    for (e->number = 0; e->number < s->counts.examples; e->number++) {
        struct sequence *q = &s->items[e->number];
        ORR_TRY(s->format == ORR_FORMAT_TSV     ? encode_text(e, q)
                : s->format == ORR_FORMAT_CONLL ? encode_sentence(e, q)
                                                : encode_pair(e, q));
        s->counts.tokens += q->count;
    }
    return 0;
}

struct orr_sequences *orr_sequences_create(const struct orr_examples *examples, const struct orr_tokenizer *tokenizer,
                                           const struct orr_sequence_options *options)
{
    if (check(examples, options) != 0)
        return NULL;
    struct orr_sequences *s = orri_calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    *s = (struct orr_sequences){
        .format = orr_examples_kind(examples),
        .options = *options,
        .counts.examples = orr_examples_count(examples),
    };
    for (int i = 0; i < ORR_SPECIALS; i++)
        s->specials[i] = orr_tokenizer_special(tokenizer, (enum orr_special)i);
    if (s->format != ORR_FORMAT_PAIRS || options->end < 0)
        s->options.end = s->specials[ORR_END];
    struct encoder e = {s, examples, tokenizer, 0};
    s->items = orri_calloc((size_t)s->counts.examples, sizeof(*s->items));
    if (!s->items || encode_all(&e) != 0) {
        orr_sequences_destroy(s);
        return NULL;
    }
    return s;
}

void orr_sequences_destroy(struct orr_sequences *sequences)
{
    if (!sequences)
        return;
    free(sequences->items);
    free(sequences->tokens);
    free(sequences->tags);
    free(sequences);
}

void orr_sequences_tell(const struct orr_sequences *sequences, struct orr_sequence_counts *counts)
{
    *counts = sequences->counts;
}

int orr_sequences_check_vocab(const struct orr_sequences *sequences, int vocab)
{
    for (int64_t i = 0; i < sequences->size; i++)
        if (sequences->tokens[i] < 0 || sequences->tokens[i] >= vocab)
            return orri_remedy(orri_fail(ORR_EFORMAT, "data", "the tokenizer's token %d is outside the vocabulary of %d",
                                         (int)sequences->tokens[i], vocab), "use the tokenizer that belongs to the model");
    return 0;
}

/* ---- for packing ----------------------------------------------------------------------------------- */

int64_t orri_sequences_count(const struct orr_sequences *s)
{
    return s->counts.examples;
}

int orri_sequences_seq(const struct orr_sequences *s)
{
    return s->options.seq;
}

bool orri_sequences_have_source(const struct orr_sequences *s)
{
    return s->format == ORR_FORMAT_PAIRS;
}

int32_t orri_sequences_pad(const struct orr_sequences *s)
{
    return s->specials[ORR_PAD] < 0 ? 0 : s->specials[ORR_PAD];
}

int orri_sequence_size(const struct orr_sequences *s, int64_t i)
{
    return s->items[i].count;
}

int orri_sequence_source_size(const struct orr_sequences *s, int64_t i)
{
    return s->items[i].source_count;
}

/* The label of a sequence's position t. */
static int32_t label_at(const struct orr_sequences *s, const struct sequence *q, int t)
{
    if (s->format == ORR_FORMAT_CONLL)
        return s->tags[q->first + t];
    if (s->format == ORR_FORMAT_PAIRS)
        return s->tokens[q->first + t];
    return t == (s->options.label_last ? q->count - 1 : 0) ? q->label : ORR_IGNORE;
}

void orri_sequence_put(const struct orr_sequences *s, int64_t i, const struct orr_row_arrays *row, int at, int source_at)
{
    const struct sequence *q = &s->items[i];
    const int32_t *tokens = s->tokens + q->first;
    const bool shifted = s->format == ORR_FORMAT_PAIRS;

    for (int t = 0; row->tokens && t < q->count; t++)
        row->tokens[at + t] = !shifted ? tokens[t] : t ? tokens[t - 1] : s->options.start;
    for (int t = 0; row->labels && t < q->count; t++)
        row->labels[at + t] = label_at(s, q, t);
    for (int t = 0; row->places && t < q->count; t++)
        row->places[at + t] = t;
    for (int t = 0; row->types && t < q->count; t++)
        row->types[at + t] = t >= q->second;
    for (int t = 0; row->source && t < q->source_count; t++)
        row->source[source_at + t] = s->tokens[q->source_first + t];
    for (int t = 0; row->source_places && t < q->source_count; t++)
        row->source_places[source_at + t] = t;
}
