/* SPDX-License-Identifier: Apache-2.0 */
/* Growing arrays, and what is asked of characters. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

#include <unicode/uchar.h>

int orri_grow(void *array, size_t *capacity, size_t count, size_t more, size_t element)
{
    void *elements;

    if (more > SIZE_MAX / 2 / element - count)
        return orri_fail(ORR_ENOMEM, "tokenizer", "no room for %zu elements more", more);
    if (count + more <= *capacity)
        return ORR_OK;
    size_t wanted = count + more > 2 * *capacity ? count + more : 2 * *capacity;
    wanted = wanted < 64 ? 64 : wanted;
    memcpy(&elements, array, sizeof(elements));     /* a pointer of any type */
    elements = realloc(elements, wanted * element);
    if (!elements)
        return orri_fail(ORR_ENOMEM, "tokenizer", "no room for %zu bytes", wanted * element);
    memcpy(array, &elements, sizeof(elements));
    *capacity = wanted;
    return ORR_OK;
}

int orri_text_room(struct orri_text *text, size_t more)
{
    return orri_grow(&text->data, &text->capacity, text->size, more, 1);
}

int orri_text_add(struct orri_text *text, const char *data, size_t size)
{
    ORR_TRY(orri_text_room(text, size));
    if (size)
        memcpy(text->data + text->size, data, size);
    text->size += size;
    return ORR_OK;
}

int orri_text_add_character(struct orri_text *text, UChar32 c)
{
    ORR_TRY(orri_text_room(text, U8_MAX_LENGTH));
    U8_APPEND_UNSAFE((uint8_t *)text->data, text->size, c);
    return ORR_OK;
}

void orri_text_free(struct orri_text *text)
{
    free(text->data);
    *text = (struct orri_text){0};
}

int orri_text_repair(const char *text, size_t size, struct orri_text *copy, const char **valid, size_t *valid_size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const uint8_t *bytes = (const uint8_t *)text;
    size_t good = 0;

    copy->size = 0;
    for (size_t at = 0, from = 0; at < size; from = at) {
        UChar32 c = bytes[at++];
        if (c < 0x80)
            continue;
        at = from;
        U8_NEXT(bytes, at, size, c);
        if (c >= 0)
            continue;
        ORR_TRY(orri_text_add(copy, text + good, from - good));
        ORR_TRY(orri_text_add(copy, replacement, sizeof(replacement) - 1));
        good = at;
    }
    if (good > 0)
        ORR_TRY(orri_text_add(copy, text + good, size - good));
    *valid = good > 0 ? copy->data : text;
    *valid_size = good > 0 ? copy->size : size;
    return ORR_OK;
}

bool orri_is_space(UChar32 c)
{
    return c < 0x80 ? c == ' ' || (c >= '\t' && c <= '\r') : u_isUWhiteSpace(c);
}

bool orri_is_word(UChar32 c)
{
    return (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) || u_hasBinaryProperty(c, UCHAR_ALPHABETIC) ||
           u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool orri_is_in_unicode(int version, UChar32 c)
{
    UVersionInfo age;

    u_charAge(c, age);
    return age[0] > 0 && age[0] <= version;
}

bool orri_is_punctuation(UChar32 c)
{
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    return (U_GET_GC_MASK(c) & U_GC_P_MASK) && orri_is_in_unicode(ORRI_BERT_UNICODE, c);
}

bool orri_is_numeric(UChar32 c)
{
    return U_GET_GC_MASK(c) & U_GC_N_MASK;
}

/* Whether the characters around the end of a line are no blanks; what is not UTF-8 is none. */
static bool is_between_words(const char *text, size_t size, size_t line_end)
{
    size_t from = line_end < U8_MAX_LENGTH ? 0 : line_end - U8_MAX_LENGTH, behind = line_end + 1;
    int32_t before = (int32_t)(line_end - from);
    UChar32 a, b;

    U8_PREV((const uint8_t *)text + from, 0, before, a);
    U8_NEXT((const uint8_t *)text, behind, size, b);
    return !orri_is_space(a) && !orri_is_space(b);
}

size_t orri_text_part(const char *text, size_t size, size_t from)
{
    const size_t part = 1 << 20, most = from + 64 * part;
    size_t at = from + part;

    if (at >= size)
        return size;
    while (at < size && at < most) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t line = end ? (size_t)(end - text) : size;
        if (line < most && line + 1 < size && is_between_words(text, size, line))
            return line + 1;
        at = line + 1;
    }
    at = most < size ? most : size;
    while (at < size && at > from + part && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}
