/* SPDX-License-Identifier: Apache-2.0 */
/* Ids to text: the tokens' spellings, through the steps of the decoder, one behind the other. */
#include "core/core.h"
#include "text/text.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- lists of strings ------------------------------------------------------------------------------------------ */

/* What was added to s->text since the last end is a string. */
static int end_string(struct orri_strings *s)
{
    ORR_TRY(orri_grow(&s->end, &s->capacity, s->count, 1, sizeof(*s->end)));
    s->end[s->count++] = s->text.size;
    return ORR_OK;
}

static int add_string(struct orri_strings *s, const char *text, size_t size)
{
    ORR_TRY(orri_text_add(&s->text, text, size));
    return end_string(s);
}

static const char *get(const struct orri_strings *s, size_t i, size_t *size)
{
    size_t from = i ? s->end[i - 1] : 0;

    *size = s->end[i] - from;
    return *size ? s->text.data + from : "";
}

static void clear(struct orri_strings *s)
{
    s->count = s->text.size = 0;
}

static void strings_free(struct orri_strings *s)
{
    orri_text_free(&s->text);
    free(s->end);
}

/* `text` with all of `from` replaced by `to`, added to *out. */
static int replace_all(const char *text, size_t size, const char *from, size_t from_size, const char *to, struct orri_text *out)
{
    for (const char *at; from && from_size > 0 && (at = memmem(text, size, from, from_size)) != NULL;) {
        ORR_TRY(orri_text_add(out, text, (size_t)(at - text)));
        ORR_TRY(orri_text_add(out, to, strlen(to)));
        size -= (size_t)(at - text) + from_size;
        text = at + from_size;
    }
    return orri_text_add(out, text, size);
}

/* ---- steps -------------------------------------------------------------------------------------------------------- */

/* A token with a character that is no byte stands for itself. */
static int spell_bytes(const char *text, size_t size, struct orri_text *out)
{
    const size_t before = out->size;

    ORR_TRY(orri_text_room(out, size));
    for (size_t at = 0; at < size;) {
        int byte = orri_character_byte(orri_character(text, &at));
        if (byte < 0) {
            out->size = before;
            return orri_text_add(out, text, size);
        }
        out->data[out->size++] = (char)byte;
    }
    return ORR_OK;
}

/* Tokens may end within a character, so this is one string of all. */
static int decode_byte_level(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                             struct orri_matcher *matcher)
{
    struct orri_text bytes = {0};
    const char *valid;
    size_t size;
    int status = ORR_OK;

    (void)step, (void)matcher;
    for (size_t i = 0; status == 0 && i < in->count; i++) {
        const char *text = get(in, i, &size);
        status = spell_bytes(text, size, &bytes);
    }
    if (status == 0)
        status = orri_text_repair(bytes.data, bytes.size, &out->text, &valid, &size);
    if (status == 0 && valid == bytes.data)
        status = orri_text_add(&out->text, bytes.data, bytes.size);
    orri_text_free(&bytes);
    return status == 0 ? end_string(out) : status;
}

/* BERT's rules of where English has no blanks. */
static int clean_up(char **text, size_t *size)
{
    static const char *const rules[][2] = {{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"},
                                           {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};

    for (size_t i = 0; i < ORRI_COUNT(rules); i++) {
        struct orri_text to = {0};
        int status = replace_all(*text, *size, rules[i][0], strlen(rules[i][0]), rules[i][1], &to);
        if (status != 0) {
            orri_text_free(&to);
            return status;
        }
        free(*text);
        *text = to.data;
        *size = to.size;
    }
    return ORR_OK;
}

static int decode_wordpiece(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                            struct orri_matcher *matcher)
{
    (void)matcher;
    for (size_t i = 0; i < in->count; i++) {
        struct orri_text token = {0};
        size_t size;
        const char *text = get(in, i, &size);
        bool continues = size >= step->size && memcmp(text, step->text, step->size) == 0;
        int status = i > 0 && !continues ? orri_text_add(&token, " ", 1) : ORR_OK;
        size_t skipped = i > 0 && continues ? step->size : 0;
        if (status == 0)
            status = orri_text_add(&token, text + skipped, size - skipped);
        if (status == 0 && step->clean && token.size)
            status = clean_up(&token.data, &token.size);
        if (status == 0)
            status = add_string(out, token.data, token.size);
        orri_text_free(&token);
        ORR_TRY(status);
    }
    return ORR_OK;
}

static int decode_metaspace(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                            struct orri_matcher *matcher)
{
    (void)matcher;
    for (size_t i = 0; i < in->count; i++) {
        size_t size;
        const char *text = get(in, i, &size);
        for (size_t at = 0; at < size;) {
            UChar32 c = orri_character(text, &at);
            if (c != step->mark)
                ORR_TRY(orri_text_add_character(&out->text, c));
            else if (i > 0 || !step->prepend)
                ORR_TRY(orri_text_add(&out->text, " ", 1));
        }
        ORR_TRY(end_string(out));
    }
    return ORR_OK;
}

static int decode_suffix(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                         struct orri_matcher *matcher)
{
    (void)matcher;
    for (size_t i = 0; i < in->count; i++) {
        size_t size;
        const char *text = get(in, i, &size);
        ORR_TRY(replace_all(text, size, step->text, step->size, i + 1 == in->count ? "" : " ", &out->text));
        ORR_TRY(end_string(out));
    }
    return ORR_OK;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0x41>" stands for, or -1. */
static int byte_of(const char *text, size_t size)
{
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || hex(text[3]) < 0 || hex(text[4]) < 0)
        return -1;
    return hex(text[3]) << 4 | hex(text[4]);
}

/* Bytes side by side are text if they are UTF-8 together, else a U+FFFD each. */
static int end_bytes(struct orri_text *bytes, struct orri_strings *out)
{
    struct orri_text copy = {0};
    const char *valid;
    size_t size;
    int status = orri_text_repair(bytes->data, bytes->size, &copy, &valid, &size);

    bool good = status == 0 && valid == bytes->data;
    if (good && bytes->size)
        status = add_string(out, bytes->data, bytes->size);
    for (size_t i = 0; status == 0 && !good && i < bytes->size; i++)
        status = add_string(out, "\xef\xbf\xbd", 3);
    bytes->size = 0;
    orri_text_free(&copy);
    return status;
}

static int decode_byte_fallback(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                                struct orri_matcher *matcher)
{
    struct orri_text bytes = {0};
    int status = ORR_OK;

    (void)step, (void)matcher;
    for (size_t i = 0; status == 0 && i < in->count; i++) {
        size_t size;
        const char *text = get(in, i, &size), byte = (char)byte_of(text, size);
        if (byte_of(text, size) >= 0) {
            status = orri_text_add(&bytes, &byte, 1);
            continue;
        }
        status = end_bytes(&bytes, out);
        if (status == 0)
            status = add_string(out, text, size);
    }
    if (status == 0)
        status = end_bytes(&bytes, out);
    orri_text_free(&bytes);
    return status;
}

static int decode_fuse(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out, struct orri_matcher *matcher)
{
    (void)step, (void)matcher;
    return add_string(out, in->text.data, in->text.size);
}

static int decode_strip(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                        struct orri_matcher *matcher)
{
    (void)matcher;
    for (size_t i = 0; i < in->count; i++) {
        size_t size, begin = 0, end;
        const char *text = get(in, i, &size);
        end = size;
        for (int64_t n = 0; n < step->start && begin < size; n++) {
            size_t next = begin;
            if (orri_character(text, &next) != step->mark)
                break;
            begin = next;
        }
        for (int64_t n = 0; n < step->stop && end > begin && orri_character_before(text, end) == step->mark; n++)
            U8_BACK_1_UNSAFE((const uint8_t *)text, end);
        ORR_TRY(add_string(out, text + begin, end - begin));
    }
    return ORR_OK;
}

static int decode_replace(const struct orri_decode *step, struct orri_strings *in, struct orri_strings *out,
                          struct orri_matcher *matcher)
{
    for (size_t i = 0; i < in->count; i++) {
        size_t size, from = 0, begin, end;
        const char *text = get(in, i, &size);
        struct orri_search search = {&step->pattern, matcher, text, size, 0, SIZE_MAX};
        bool found = size > 0;
        while (found) {
            ORR_TRY(orri_search_next(&search, &found, &begin, &end));
            if (!found)
                break;
            ORR_TRY(orri_text_add(&out->text, text + from, begin - from));
            ORR_TRY(orri_text_add(&out->text, step->text, step->size));
            from = end;
        }
        ORR_TRY(add_string(out, text + from, size - from));
    }
    return ORR_OK;
}

/* ---- the chain -------------------------------------------------------------------------------------------------------- */

/* Of an added token what the normalizer makes of it, since that is what a decoder can read. */
static const char *spelling(const struct orri_files *t, int32_t id, size_t *size)
{
    const struct orri_pair *respelled = orri_pairs_get(&t->respelled, (uint64_t)id);
    const struct orri_added *added = respelled ? &t->added[respelled->first] : NULL;

    *size = added ? added->normal_size : t->vocab.size[id];
    return added ? added->normal : t->vocab.token[id];
}

/* Ids that are in the vocabulary's range but have no token say nothing. Without a decoder there are blanks between tokens. */
static int spell(const struct orri_files *t, const int32_t *ids, size_t count, struct orri_strings *out)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= t->base.vocab_size)
            return orri_remedy(orri_fail(ORR_EINVAL, t->base.name, "id %d at position %zu is outside the vocabulary of %d",
                                         (int)ids[i], i, t->base.vocab_size),
                               "decode ids of this tokenizer");
        size_t size;
        const char *token = spelling(t, ids[i], &size);
        if (!token)
            continue;
        if (!t->has_decoder && out->count)
            ORR_TRY(orri_text_add(&out->text, " ", 1));
        ORR_TRY(add_string(out, token, size));
    }
    return ORR_OK;
}

int orri_files_decode(const struct orr_tokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *size)
{
    const struct orri_files *t = (const struct orri_files *)tokenizer;
    struct orri_strings in = {0}, out = {0};
    struct orri_encoder *e = orri_encoder_take(t);
    int status = e ? spell(t, ids, count, &in) : ORR_ENOMEM;

    for (int i = 0; status == 0 && i < t->decode_count; i++) {
        status = t->decode[i].apply(&t->decode[i], &in, &out, e->matcher);
        struct orri_strings swap = in;
        in = out;
        out = swap;
        clear(&out);
    }
    if (status == 0)
        status = orri_text_add(&in.text, "", 1);
    if (status == 0) {
        *text = in.text.data;
        *size = in.text.size - 1;
        in.text.data = NULL;
    }
    strings_free(&in);
    strings_free(&out);
    if (e)
        orri_encoder_give(e);
    return status;
}

/* ---- loading ------------------------------------------------------------------------------------------------------------ */

static int add(struct orri_files *t, const struct orri_decode *like, struct orri_decode **added)
{
    ORR_TRY(orri_step_add(&t->decode, &t->decode_count, sizeof(**added), added));
    **added = *like;
    return ORR_OK;
}

static int load_byte_level(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    struct orri_decode *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    return add(t, &(struct orri_decode){.apply = decode_byte_level}, &step);
}

static int load_wordpiece(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"prefix", "cleanup", NULL};
    struct orri_decode *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_decode){.apply = decode_wordpiece}, &step));
    ORR_TRY(orri_component_bool(c, "cleanup", -1, &step->clean));
    return orri_component_text(c, "prefix", true, &step->text, &step->size);
}

static UChar32 first_character(const char *text)
{
    size_t at = 0;

    return orri_character(text, &at);
}

static int load_metaspace(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL};
    struct orri_decode *step = NULL;
    enum orri_prepend scheme;
    char mark[5];

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_character(c, "replacement", mark));
    ORR_TRY(orri_load_prepend_scheme(c, &scheme));
    return add(t, &(struct orri_decode){.apply = decode_metaspace, .mark = first_character(mark),
                                        .prepend = scheme != ORRI_PREPEND_NEVER}, &step);
}

static int load_suffix(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"suffix", NULL};
    struct orri_decode *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_decode){.apply = decode_suffix}, &step));
    return orri_component_text(c, "suffix", true, &step->text, &step->size);
}

static int load_plain(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {NULL};
    struct orri_decode *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    return add(t, &(struct orri_decode){.apply = c->type[0] == 'F' ? decode_fuse : decode_byte_fallback}, &step);
}

static int load_strip(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"content", "start", "stop", NULL};
    struct orri_decode *step = NULL;
    char mark[5];

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_character(c, "content", mark));
    ORR_TRY(add(t, &(struct orri_decode){.apply = decode_strip, .mark = first_character(mark)}, &step));
    ORR_TRY(orri_component_int(c, "start", 0, INT32_MAX, &step->start));
    return orri_component_int(c, "stop", 0, INT32_MAX, &step->stop);
}

static int load_replace(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"pattern", "content", NULL};
    struct orri_decode *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_decode){.apply = decode_replace}, &step));
    ORR_TRY(orri_component_pattern(c, &step->pattern));
    return orri_component_text(c, "content", true, &step->text, &step->size);
}

int orri_load_decoder(struct orri_files *t, const struct orri_component *c)
{
    static const char *const sequence[] = {"decoders", NULL};
    static const struct {
        const char *type;
        int (*load)(struct orri_files *t, const struct orri_component *c);
    } types[] = {{"ByteLevel", load_byte_level}, {"WordPiece", load_wordpiece}, {"Metaspace", load_metaspace},
                 {"BPEDecoder", load_suffix},    {"Fuse", load_plain},          {"ByteFallback", load_plain},
                 {"Strip", load_strip},          {"Replace", load_replace}};

    t->has_decoder = true;
    if (strcmp(c->type, "Sequence") == 0) {
        ORR_TRY(orri_component_keys(c, sequence));
        return orri_component_each(c, "decoders", t, orri_load_decoder);
    }
    for (size_t i = 0; i < ORRI_COUNT(types); i++)
        if (strcmp(c->type, types[i].type) == 0)
            return types[i].load(t, c);
    return orri_component_unknown(c);
}
