/* SPDX-License-Identifier: Apache-2.0 */
/* Precompiled: the rules of a SentencePiece model, as it stores them: the size of a double array in bytes, the double array (a trie
 * of what is replaced; Yata's Darts-clone), and the replacements, each ended by a zero byte, at offsets that are its values. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

#include <unicode/utext.h>

/* ---- the double array ------------------------------------------------------------------------------------------- */

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The value of the shortest beginning of `text` that is in the array: that is what the tokenizers in use take. */
static bool find(const struct orri_normal *step, const char *text, size_t size, uint32_t *value)
{
    size_t at = 0;

    if (step->unit_count == 0)
        return false;
    at = offset_of(step->units[0]);
    for (size_t i = 0; i < size && text[i]; i++) {
        at ^= (unsigned char)text[i];
        if (at >= step->unit_count || (step->units[at] & (1u << 31 | 0xff)) != (unsigned char)text[i])
            return false;
        bool leaf = step->units[at] & (1u << 8);
        at ^= offset_of(step->units[at]);
        if (at >= step->unit_count)
            return false;
        if (leaf) {
            *value = step->units[at] & ~(1u << 31);
            return true;
        }
    }
    return false;
}

/* What the text becomes, if anything. */
static bool replacement(const struct orri_normal *step, const char *text, size_t size, const char **by)
{
    uint32_t value;

    if (!find(step, text, size, &value) || value >= step->size)
        return false;
    *by = step->text + value;
    return true;
}

/* ---- text ---------------------------------------------------------------------------------------------------------- */

/* A character as a user sees it, whole if it is short and a rule knows it, else character by character. */
static int add_grapheme(const struct orri_normal *step, const char *text, size_t size, struct orri_text *out)
{
    enum { SHORT = 6 };
    const char *by;

    if (size < SHORT && replacement(step, text, size, &by))
        return orri_text_add(out, by, strlen(by));
    for (size_t at = 0, next = 0; at < size; at = next) {
        U8_FWD_1_UNSAFE((const uint8_t *)text, next);
        if (replacement(step, text + at, next - at, &by))
            ORR_TRY(orri_text_add(out, by, strlen(by)));
        else
            ORR_TRY(orri_text_add(out, text + at, next - at));
    }
    return ORR_OK;
}

int orri_charsmap_apply(const struct orri_normal *step, struct orri_encoder *e, const char *text, size_t size, struct orri_text *out)
{
    UErrorCode error = U_ZERO_ERROR;
    UText *whole = utext_openUTF8(NULL, text, (int64_t)size, &error);

    ubrk_setUText(e->graphemes, whole, &error);
    int status = U_SUCCESS(error) ? ORR_OK : orri_fail(ORR_ENOMEM, "tokenizer", "cannot be segmented: %s", u_errorName(error));
    if (status == 0) {
        int32_t from = ubrk_first(e->graphemes);
        for (int32_t to; status == 0 && (to = ubrk_next(e->graphemes)) != UBRK_DONE; from = to)
            status = add_grapheme(step, text + from, (size_t)(to - from), out);
    }
    utext_close(whole);
    return status;
}

/* ---- loading ---------------------------------------------------------------------------------------------------------- */

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* Base64 (RFC 4648), in place; false: it is none. */
static bool decode_base64(char *text, size_t *size)
{
    size_t length = *size, bytes = 0;
    uint32_t bits = 0;

    if (length % 4 != 0)
        return false;
    while (length > 0 && *size - length < 2 && text[length - 1] == '=')
        length--;
    for (size_t i = 0; i < length; i++) {
        int digit = sextet(text[i]);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0)
            text[bytes++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    *size = bytes;
    return true;
}

int orri_charsmap_load(struct orri_files *t, const struct orri_component *c, struct orri_normal *step)
{
    UErrorCode error = U_ZERO_ERROR;
    uint32_t bytes = 0;

    ORR_TRY(orri_component_text(c, "precompiled_charsmap", true, &step->text, &step->size));
    if (!decode_base64(step->text, &step->size))
        return orri_component_fail(c, "precompiled_charsmap is not base64");
    if (step->size >= sizeof(bytes))
        memcpy(&bytes, step->text, sizeof(bytes));
    if (bytes == 0 || bytes % 4 != 0 || bytes > step->size - sizeof(bytes))
        return orri_component_fail(c, "precompiled_charsmap is truncated");
    step->unit_count = bytes / 4;
    step->units = orri_alloc(bytes);
    if (!step->units)
        return ORR_ENOMEM;
    memcpy(step->units, step->text + sizeof(bytes), bytes);
    step->size -= sizeof(bytes) + bytes;
    memmove(step->text, step->text + sizeof(bytes) + bytes, step->size);
    step->text[step->size] = '\0';
    if (!t->graphemes)
        t->graphemes = ubrk_open(UBRK_CHARACTER, "", NULL, 0, &error);
    return U_SUCCESS(error) ? ORR_OK : orri_component_fail(c, "the Unicode library has no rules for it: %s", u_errorName(error));
}
