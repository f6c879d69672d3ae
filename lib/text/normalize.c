/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the normalizer. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

#include <unicode/uchar.h>
#include <unicode/uset.h>
#include <unicode/ustring.h>

/* ---- characters for themselves --------------------------------------------------------------------------------- */

static int apply_map(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    ORR_TRY(orri_text_room(out, size));
    for (size_t at = 0; at < size;) {
        ORR_TRY(step->map(orri_character(text, &at), out));
        e->moved = e->moved || out->size == 0;
    }
    return ORR_OK;
}

/* Of one character all that its lower case is: of U+0130 that is two. No case depends on what is around it. */
static int lowercase(UChar32 c, struct orri_text *out)
{
    if (c == 0x130)
        return orri_text_add(out, "i\xcc\x87", 3);
    return orri_text_add_character(out, c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + 0x20 : c) : u_tolower(c));
}

static int strip_marks(UChar32 c, struct orri_text *out)
{
    bool mark = c >= 0x80 && (U_GET_GC_MASK(c) & U_GC_M_MASK) && orri_is_in_unicode(ORRI_MARKS_UNICODE, c);

    return mark ? ORR_OK : orri_text_add_character(out, c);
}

static int strip_nonspacing(UChar32 c, struct orri_text *out)
{
    bool mark = c >= 0x80 && u_charType(c) == U_NON_SPACING_MARK && orri_is_in_unicode(ORRI_BERT_UNICODE, c);

    return mark ? ORR_OK : orri_text_add_character(out, c);
}

/* BERT's: no control characters, plain blanks. */
static int clean(UChar32 c, struct orri_text *out)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return orri_text_add_character(out, ' ');
    bool other = U_GET_GC_MASK(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK);
    if (c == 0 || c == 0xfffd || (other && orri_is_in_unicode(ORRI_BERT_UNICODE, c)))
        return ORR_OK;
    return orri_text_add_character(out, orri_is_space(c) ? ' ' : c);
}

/* The blocks that BERT's tokenization.py calls Chinese, as the tokenizers in use have them. */
static int space_chinese(UChar32 c, struct orri_text *out)
{
    static const UChar32 blocks[][2] = {{0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xf900, 0xfaff}, {0x20000, 0x2a6df},
                                        {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
    bool chinese = false;

    for (size_t i = 0; c >= blocks[0][0] && i < ORRI_COUNT(blocks); i++)
        chinese = chinese || (c >= blocks[i][0] && c <= blocks[i][1]);
    if (!chinese)
        return orri_text_add_character(out, c);
    ORR_TRY(orri_text_add(out, " ", 1));
    ORR_TRY(orri_text_add_character(out, c));
    return orri_text_add(out, " ", 1);
}

/* SentencePiece's rules for machine translation. */
static int nmt(UChar32 c, struct orri_text *out)
{
    if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f)
        return ORR_OK;
    bool blank = c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
                 c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
    return orri_text_add_character(out, blank ? ' ' : c);
}

/* ---- normalization forms -------------------------------------------------------------------------------------------- */

/* ICU counts in 32 bits and works on UTF-16: long texts go through it in parts that do not touch. */
enum { PART = 1 << 20 };

static size_t part_end(const struct orri_normal *step, const char *text, size_t size, size_t from)
{
    size_t end = from + PART;

    if (end >= size)
        return size;
    while (end > from && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    for (size_t next = end; end < size; end = next)
        if (unorm2_hasBoundaryBefore(step->form, orri_character(text, &next)))
            break;
    return end;
}

static int form_part(const struct orri_normal *step, const char *text, size_t size, struct orri_text *out)
{
    UErrorCode error = U_ZERO_ERROR;
    int32_t length = 0, units = 0, bytes = 0;
    UChar *from = orri_alloc((size + 1) * sizeof(*from)), *to = NULL;

    if (from) {
        u_strFromUTF8(from, (int32_t)size + 1, &units, text, (int32_t)size, &error);
        length = unorm2_normalize(step->form, from, units, NULL, 0, &error);
        error = error == U_BUFFER_OVERFLOW_ERROR ? U_ZERO_ERROR : error;
        to = orri_alloc(((size_t)length + 1) * sizeof(*to));
    }
    int status = to ? orri_text_room(out, 3 * (size_t)length) : ORR_ENOMEM;
    if (status == 0) {
        unorm2_normalize(step->form, from, units, to, length + 1, &error);
        u_strToUTF8(out->data + out->size, (int32_t)(out->capacity - out->size), &bytes, to, length, &error);
        out->size += (size_t)bytes;
        if (U_FAILURE(error))
            status = orri_fail(ORR_ENOMEM, "tokenizer", "cannot normalize: %s", u_errorName(error));
    }
    free(from);
    free(to);
    return status;
}

static int apply_form(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    size_t ascii = 0;

    (void)e;
    while (ascii < size && (unsigned char)text[ascii] < 0x80)
        ascii++;
    if (ascii == size)
        return orri_text_add(out, text, size);
    for (size_t at = 0, end; at < size; at = end) {
        end = part_end(step, text, size, at);
        ORR_TRY(form_part(step, text + at, end - at, out));
    }
    return ORR_OK;
}

/* ---- strings -------------------------------------------------------------------------------------------------------- */

static int apply_replace(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    struct orri_search search = {&step->pattern, e->matcher, text, size, 0, SIZE_MAX};
    size_t from = 0, begin, end;
    bool found;

    for (;;) {
        ORR_TRY(orri_search_next(&search, &found, &begin, &end));
        if (!found)
            return orri_text_add(out, text + from, size - from);
        ORR_TRY(orri_text_add(out, text + from, begin - from));
        ORR_TRY(orri_text_add(out, step->text, step->size));
        from = end;
        e->moved = e->moved || out->size == 0;
    }
}

static int apply_prepend(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    (void)e;
    if (size)
        ORR_TRY(orri_text_add(out, step->text, step->size));
    return orri_text_add(out, text, size);
}

static int apply_strip(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    size_t begin = 0;

    for (size_t next = 0; step->left && begin < size && orri_is_space(orri_character(text, &next));)
        begin = next;
    while (step->right && size > begin && orri_is_space(orri_character_before(text, size)))
        U8_BACK_1_UNSAFE((const uint8_t *)text, size);
    e->moved = e->moved || begin > 0;
    return orri_text_add(out, text + begin, size - begin);
}

static int apply_bytes(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    (void)step, (void)e;
    return orri_bytes_spell(text, size, out);
}

/* ---- the chain ------------------------------------------------------------------------------------------------------- */

/* The result is the encoder's, or the text itself where there are no steps. */
int orri_normalize(struct orri_encoder *e, const char *text, size_t size, const char **out, size_t *out_size)
{
    const struct orri_files *t = e->t;

    e->moved = false;
    for (int i = 0; i < t->normal_count; i++) {
        struct orri_text *to = &e->normal[i % 2];
        to->size = 0;
        ORR_TRY(t->normal[i].apply(&t->normal[i], e, text, size, to));
        text = to->size ? to->data : "";
        size = to->size;
    }
    *out = text;
    *out_size = size;
    return ORR_OK;
}

/* ---- loading ---------------------------------------------------------------------------------------------------------- */

static int add(struct orri_files *t, const struct orri_normal *like, struct orri_normal **added)
{
    struct orri_normal *step = NULL;

    ORR_TRY(orri_step_add(&t->normal, &t->normal_count, sizeof(*step), &step));
    *step = *like;
    if (added)
        *added = step;
    return ORR_OK;
}

static int add_map(struct orri_files *t, int (*map)(UChar32 c, struct orri_text *out))
{
    return add(t, &(struct orri_normal){.apply = apply_map, .map = map}, NULL);
}

/* The form by ICU, of the characters that ORRI_FORMS_UNICODE has. */
static int add_form(struct orri_files *t, const struct orri_component *c, const UNormalizer2 *all)
{
    struct orri_normal *step = NULL;
    UErrorCode error = U_ZERO_ERROR;
    UChar pattern[sizeof(ORRI_FORMS_UNICODE)];

    ORR_TRY(add(t, &(struct orri_normal){.apply = apply_form}, &step));
    u_uastrcpy(pattern, ORRI_FORMS_UNICODE);
    step->known = uset_openPattern(pattern, -1, &error);
    if (U_SUCCESS(error)) {
        uset_freeze(step->known);
        step->form = unorm2_openFiltered(all, step->known, &error);
    }
    return U_SUCCESS(error) ? ORR_OK : orri_component_fail(c, "the Unicode library has no data for it: %s", u_errorName(error));
}

static int load_bert(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase", NULL};
    bool cleans, chinese, accents, lower;
    UErrorCode error = U_ZERO_ERROR;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(orri_component_bool(c, "clean_text", -1, &cleans));
    ORR_TRY(orri_component_bool(c, "handle_chinese_chars", -1, &chinese));
    ORR_TRY(orri_component_bool(c, "lowercase", -1, &lower));
    ORR_TRY(orri_component_bool(c, "strip_accents", lower, &accents));
    if (cleans)
        ORR_TRY(add_map(t, clean));
    if (chinese)
        ORR_TRY(add_map(t, space_chinese));
    if (accents) {
        ORR_TRY(add_form(t, c, unorm2_getNFDInstance(&error)));
        ORR_TRY(add_map(t, strip_nonspacing));
    }
    return lower ? add_map(t, lowercase) : ORR_OK;
}

static int load_replace(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"pattern", "content", NULL};
    struct orri_normal *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_normal){.apply = apply_replace}, &step));
    ORR_TRY(orri_component_pattern(c, &step->pattern));
    return orri_component_text(c, "content", true, &step->text, &step->size);
}

static int load_prepend(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"prepend", NULL};
    struct orri_normal *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_normal){.apply = apply_prepend}, &step));
    return orri_component_text(c, "prepend", true, &step->text, &step->size);
}

static int load_strip(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"strip_left", "strip_right", NULL};
    struct orri_normal *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_normal){.apply = apply_strip}, &step));
    ORR_TRY(orri_component_bool(c, "strip_left", -1, &step->left));
    return orri_component_bool(c, "strip_right", -1, &step->right);
}

static int load_precompiled(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"precompiled_charsmap", NULL};
    struct orri_normal *step = NULL;

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(add(t, &(struct orri_normal){.apply = orri_charsmap_apply}, &step));
    return orri_charsmap_load(t, c, step);
}

int orri_load_normalizer(struct orri_files *t, const struct orri_component *c)
{
    static const char *const sequence[] = {"normalizers", NULL}, *const none[] = {NULL};
    static const struct {
        const char *type;
        int (*load)(struct orri_files *t, const struct orri_component *c);
    } with_keys[] = {{"BertNormalizer", load_bert}, {"Replace", load_replace}, {"Prepend", load_prepend}, {"Strip", load_strip},
                     {"Precompiled", load_precompiled}};
    static const struct {
        const char *type;
        int (*map)(UChar32 c, struct orri_text *out);
    } maps[] = {{"Lowercase", lowercase}, {"StripAccents", strip_marks}, {"Nmt", nmt}};
    static const struct {
        const char *type;
        const UNormalizer2 *(*form)(UErrorCode *error);
    } forms[] = {{"NFC", unorm2_getNFCInstance}, {"NFD", unorm2_getNFDInstance}, {"NFKC", unorm2_getNFKCInstance},
                 {"NFKD", unorm2_getNFKDInstance}};
    UErrorCode error = U_ZERO_ERROR;

    if (strcmp(c->type, "Sequence") == 0) {
        ORR_TRY(orri_component_keys(c, sequence));
        return orri_component_each(c, "normalizers", t, orri_load_normalizer);
    }
    for (size_t i = 0; i < ORRI_COUNT(with_keys); i++)
        if (strcmp(c->type, with_keys[i].type) == 0)
            return with_keys[i].load(t, c);
    for (size_t i = 0; i < ORRI_COUNT(maps); i++)
        if (strcmp(c->type, maps[i].type) == 0) {
            ORR_TRY(orri_component_keys(c, none));
            return add_map(t, maps[i].map);
        }
    for (size_t i = 0; i < ORRI_COUNT(forms); i++)
        if (strcmp(c->type, forms[i].type) == 0) {
            ORR_TRY(orri_component_keys(c, none));
            return add_form(t, c, forms[i].form(&error));
        }
    if (strcmp(c->type, "ByteLevel") != 0)
        return orri_component_unknown(c);
    ORR_TRY(orri_component_keys(c, none));
    return add(t, &(struct orri_normal){.apply = apply_bytes}, NULL);
}
