/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the pre-tokenizer: they cut a piece into smaller ones. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

/* ---- what becomes of matches and of what is between them ------------------------------------------------------- */

/* The stretches of a piece, in order and without gaps, each a match or none. One is held back, which may yet grow. */
struct cutter {
    struct orri_encoder *e;
    const struct orri_piece *piece;
    enum orri_behavior behavior;
    int depth;
    bool invert, held, matched;     /* matched: the last stretch was a match */
    size_t begin, end;              /* of what is held                       */
};

static int hand_on(const struct cutter *c, size_t begin, size_t end)
{
    struct orri_piece part = {c->piece->text + begin, end - begin, c->piece->first && begin == 0};

    return orri_encode_piece(c->e, &part, c->depth + 1);
}

static int flush(struct cutter *c)
{
    bool held = c->held;

    c->held = false;
    return held ? hand_on(c, c->begin, c->end) : ORR_OK;
}

/* Whether the stretch grows what is held. */
static bool joins(const struct cutter *c, bool match)
{
    switch (c->behavior) {
    case ORRI_CONTIGUOUS:
        return match == c->matched;
    case ORRI_MERGED_WITH_PREVIOUS:
        return match && !c->matched;
    case ORRI_MERGED_WITH_NEXT:
        return !match && c->matched;
    default:
        return false;
    }
}

static int add_stretch(struct cutter *c, size_t begin, size_t end, bool match)
{
    match = match != c->invert;
    if (c->behavior == ORRI_REMOVED)
        return match ? ORR_OK : hand_on(c, begin, end);
    if (c->behavior == ORRI_ISOLATED)
        return hand_on(c, begin, end);
    if (c->held && joins(c, match)) {
        c->end = end;
    } else {
        ORR_TRY(flush(c));
        c->held = true;
        c->begin = begin;
        c->end = end;
    }
    c->matched = match;
    return ORR_OK;
}

static int cut_by_characters(struct cutter *c, bool (*is)(UChar32 c))
{
    const char *text = c->piece->text;
    const size_t size = c->piece->size;
    size_t from = 0;

    for (size_t at = 0, next = 0; at < size; at = next) {
        if (!is(orri_character(text, &next)))
            continue;
        if (from < at)
            ORR_TRY(add_stretch(c, from, at, false));
        ORR_TRY(add_stretch(c, at, next, true));
        from = next;
    }
    if (from < size)
        ORR_TRY(add_stretch(c, from, size, false));
    return flush(c);
}

static int cut_by_pattern(struct cutter *c, const struct orri_pattern *pattern)
{
    struct orri_search search = {pattern, c->e->matcher, c->piece->text, c->piece->size, 0, SIZE_MAX};
    size_t from = 0, begin, end;
    bool found;

    for (;;) {
        ORR_TRY(orri_search_next(&search, &found, &begin, &end));
        if (!found)
            break;
        if (from < begin)
            ORR_TRY(add_stretch(c, from, begin, false));
        ORR_TRY(add_stretch(c, begin, end, true));
        from = end;
    }
    if (from < c->piece->size)
        ORR_TRY(add_stretch(c, from, c->piece->size, false));
    return flush(c);
}

static struct cutter cutter(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    return (struct cutter){.e = e, .piece = piece, .behavior = step->behavior, .depth = depth, .invert = step->invert};
}

/* ---- steps ---------------------------------------------------------------------------------------------------------- */

static int apply_characters(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    struct cutter c = cutter(step, e, piece, depth);

    return cut_by_characters(&c, step->is);
}

static int apply_pattern(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    struct cutter c = cutter(step, e, piece, depth);

    return cut_by_pattern(&c, &step->pattern);
}

enum whitespace_kind { BLANK, WORD, SIGN };

static enum whitespace_kind kind_of(UChar32 c)
{
    return orri_is_word(c) ? WORD : orri_is_space(c) ? BLANK : SIGN;
}

/* \w+|[^\w\s]+ */
static int apply_whitespace(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    struct cutter c = cutter(step, e, piece, depth);
    size_t next = 0;

    for (size_t at = 0; at < piece->size; at = next) {
        enum whitespace_kind kind = kind_of(orri_character(piece->text, &next));
        for (size_t behind = next; next < piece->size; next = behind)
            if (kind_of(orri_character(piece->text, &behind)) != kind)
                break;
        if (kind != BLANK)
            ORR_TRY(hand_on(&c, at, next));
    }
    return ORR_OK;
}

/* The piece with `text` in front, in the step's buffer. */
static int put_before(struct orri_encoder *e, struct orri_piece *piece, const char *text, int depth)
{
    struct orri_text *to = &e->step[depth];

    to->size = 0;
    ORR_TRY(orri_text_add(to, text, strlen(text)));
    ORR_TRY(orri_text_add(to, piece->text, piece->size));
    piece->text = to->data;
    piece->size = to->size;
    return ORR_OK;
}

/* That the model reads bytes is its own matter: see load_pre_tokenizer(). */
static int apply_byte_level(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *given, int depth)
{
    struct orri_piece piece = *given;

    if (step->prepend && piece.text[0] != ' ')
        ORR_TRY(put_before(e, &piece, " ", depth));
    if (!step->cut)
        return orri_encode_piece(e, &piece, depth + 1);
    for (size_t at = 0, end; at < piece.size; at = end) {
        end = orri_gpt2_piece(piece.text, piece.size, at);
        struct orri_piece part = {piece.text + at, end - at, piece.first && at == 0};
        ORR_TRY(orri_encode_piece(e, &part, depth + 1));
    }
    return ORR_OK;
}

/* Where bytes are spelled before the last step. */
static int apply_spelling(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    struct orri_text *to = &e->step[depth];

    (void)step;
    to->size = 0;
    ORR_TRY(orri_bytes_spell(piece->text, piece->size, to));
    return orri_encode_piece(e, &(struct orri_piece){to->data, to->size, piece->first}, depth + 1);
}

static int apply_metaspace(const struct orri_split *step, struct orri_encoder *e, const struct orri_piece *piece, int depth)
{
    const size_t mark = strlen(step->mark);
    struct orri_text *to = &e->step[depth];
    struct orri_piece marked = {.first = piece->first};
    struct orri_pattern pattern = {(char *)step->mark, mark, NULL};
    bool begins = piece->text[0] == ' ' || (piece->size >= mark && memcmp(piece->text, step->mark, mark) == 0);

    to->size = 0;
    if (!begins && (step->prepend == ORRI_PREPEND_ALWAYS || (step->prepend == ORRI_PREPEND_FIRST && piece->first)))
        ORR_TRY(orri_text_add(to, step->mark, mark));
    for (size_t at = 0; at < piece->size; at++)
        ORR_TRY(piece->text[at] == ' ' ? orri_text_add(to, step->mark, mark) : orri_text_add(to, piece->text + at, 1));
    marked.text = to->data;
    marked.size = to->size;
    if (!step->cut)
        return orri_encode_piece(e, &marked, depth + 1);
    struct cutter c = cutter(step, e, &marked, depth);
    return cut_by_pattern(&c, &pattern);
}

/* ---- loading ----------------------------------------------------------------------------------------------------------- */

static int add(struct orri_files *t, const struct orri_component *c, const struct orri_split *like, struct orri_split **added)
{
    struct orri_split *step = NULL;

    if (t->split_count == ORRI_STEPS)
        return orri_component_fail(c, "there are more than %d steps", ORRI_STEPS);
    ORR_TRY(orri_step_add(&t->split, &t->split_count, sizeof(*step), &step));
    *step = *like;
    if (added)
        *added = step;
    return ORR_OK;
}

static int load_behavior(const struct orri_component *c, enum orri_behavior *behavior)
{
    static const char *const names[] = {[ORRI_ISOLATED] = "Isolated", [ORRI_REMOVED] = "Removed", [ORRI_CONTIGUOUS] = "Contiguous",
                                        [ORRI_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [ORRI_MERGED_WITH_NEXT] = "MergedWithNext"};
    char *name;
    size_t size;

    ORR_TRY(orri_component_text(c, "behavior", true, &name, &size));
    size_t i = 0;
    while (i < ORRI_COUNT(names) && strcmp(name, names[i]) != 0)
        i++;
    int status = i < ORRI_COUNT(names) ? ORR_OK : orri_component_fail(c, "behavior \"%s\" is not known", name);
    *behavior = (enum orri_behavior)i;
    free(name);
    return status;
}

static int load_byte_level(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    struct orri_split step = {.apply = apply_byte_level};
    bool before;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_bool(c, "add_prefix_space", -1, &before));
    ORR_TRY(orri_component_bool(c, "use_regex", true, &step.cut));
    step.prepend = before ? ORRI_PREPEND_ALWAYS : ORRI_PREPEND_NEVER;
    ORR_TRY(add(t, c, &step, NULL));
    return add(t, c, &(struct orri_split){.apply = apply_spelling}, NULL);
}

static int load_bert(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {NULL};

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, c, &(struct orri_split){.apply = apply_characters, .is = orri_is_space, .behavior = ORRI_REMOVED}, NULL));
    return add(t, c, &(struct orri_split){.apply = apply_characters, .is = orri_is_punctuation, .behavior = ORRI_ISOLATED}, NULL);
}

static int load_whitespace(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {NULL};

    ORR_TRY(orri_component_keys(c, keys));
    return add(t, c, &(struct orri_split){.apply = apply_whitespace}, NULL);
}

static int load_whitespace_split(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {NULL};

    ORR_TRY(orri_component_keys(c, keys));
    return add(t, c, &(struct orri_split){.apply = apply_characters, .is = orri_is_space, .behavior = ORRI_REMOVED}, NULL);
}

static int load_punctuation(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"behavior", NULL};
    struct orri_split step = {.apply = apply_characters, .is = orri_is_punctuation, .behavior = ORRI_ISOLATED};

    ORR_TRY(orri_component_keys(c, keys));
    if (json_object_get(c->json, "behavior"))
        ORR_TRY(load_behavior(c, &step.behavior));
    return add(t, c, &step, NULL);
}

static int load_digits(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"individual_digits", NULL};
    bool single;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_bool(c, "individual_digits", -1, &single));
    return add(t, c, &(struct orri_split){.apply = apply_characters, .is = orri_is_numeric,
                                          .behavior = single ? ORRI_ISOLATED : ORRI_CONTIGUOUS}, NULL);
}

static int load_split(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"pattern", "behavior", "invert", NULL};
    struct orri_split *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, c, &(struct orri_split){.apply = apply_pattern}, &step));
    ORR_TRY(load_behavior(c, &step->behavior));
    ORR_TRY(orri_component_bool(c, "invert", -1, &step->invert));
    return orri_component_pattern(c, &step->pattern);
}

static int load_delimiter(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"delimiter", NULL};
    struct orri_split *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, c, &(struct orri_split){.apply = apply_pattern, .behavior = ORRI_REMOVED}, &step));
    ORR_TRY(orri_component_character(c, "delimiter", step->mark));
    step->pattern.size = strlen(step->mark);
    step->pattern.text = orri_strdup(step->mark);
    return step->pattern.text ? ORR_OK : ORR_ENOMEM;
}

int orri_load_prepend_scheme(const struct orri_component *c, enum orri_prepend *scheme)
{
    static const char *const names[] = {[ORRI_PREPEND_NEVER] = "never", [ORRI_PREPEND_FIRST] = "first",
                                        [ORRI_PREPEND_ALWAYS] = "always"};
    char *name = NULL;
    size_t size, i = 0;
    bool before;

    *scheme = ORRI_PREPEND_ALWAYS;
    ORR_TRY(orri_component_bool(c, "add_prefix_space", true, &before));
    ORR_TRY(orri_component_text(c, "prepend_scheme", false, &name, &size));
    while (name && i < ORRI_COUNT(names) && strcmp(name, names[i]) != 0)
        i++;
    int status = i < ORRI_COUNT(names) ? ORR_OK : orri_component_fail(c, "prepend_scheme \"%s\" is not known", name);
    if (status == 0 && !before && name && i != ORRI_PREPEND_NEVER)
        status = orri_component_fail(c, "add_prefix_space is false, prepend_scheme \"%s\"", name);
    if (status == 0)
        *scheme = !before ? ORRI_PREPEND_NEVER : name ? (enum orri_prepend)i : ORRI_PREPEND_ALWAYS;
    free(name);
    return status;
}

static int load_metaspace(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL};
    struct orri_split step = {.apply = apply_metaspace, .behavior = ORRI_MERGED_WITH_NEXT};

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_character(c, "replacement", step.mark));
    ORR_TRY(orri_component_bool(c, "split", true, &step.cut));
    ORR_TRY(orri_load_prepend_scheme(c, &step.prepend));
    return add(t, c, &step, NULL);
}

int orri_load_pre_tokenizer(struct orri_files *t, const struct orri_component *c)
{
    static const char *const sequence[] = {"pretokenizers", NULL};
    static const struct {
        const char *type;
        int (*load)(struct orri_files *t, const struct orri_component *c);
    } types[] = {{"ByteLevel", load_byte_level},   {"BertPreTokenizer", load_bert},
                 {"Whitespace", load_whitespace},  {"WhitespaceSplit", load_whitespace_split},
                 {"Split", load_split},            {"Metaspace", load_metaspace},
                 {"Punctuation", load_punctuation}, {"Digits", load_digits},
                 {"CharDelimiterSplit", load_delimiter}};

    if (strcmp(c->type, "Sequence") == 0) {
        ORR_TRY(orri_component_keys(c, sequence));
        return orri_component_each(c, "pretokenizers", t, orri_load_pre_tokenizer);
    }
    for (size_t i = 0; i < ORRI_COUNT(types); i++)
        if (strcmp(c->type, types[i].type) == 0)
            return types[i].load(t, c);
    return orri_component_unknown(c);
}

/* A spelling that comes last is left to what looks words up, which has seen most of them. */
void orri_split_finish(struct orri_files *t)
{
    t->byte_level = t->split_count > 0 && t->split[t->split_count - 1].apply == apply_spelling;
    t->split_count -= t->byte_level;
}
