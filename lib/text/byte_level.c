/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2's byte level: an alphabet in which each byte is a printable character, and the pattern that cuts text
 *
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * (Radford et al. 2019, encoder.py), followed by hand, since most text of language models goes through it. */
#include "core/core.h"
#include "text/text.h"

#include <unicode/uchar.h>

static bool stands_for_itself(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The others are, in their order, the characters from U+0100 on: 0 ... 32 first, then 127 ... 160, then 173. */
UChar32 orri_byte_character(unsigned char byte)
{
    if (stands_for_itself(byte))
        return byte;
    return 0x100 + (byte <= ' ' ? byte : byte <= 0xa0 ? byte - 0x7f + 33 : 67);
}

int orri_character_byte(UChar32 c)
{
    if (c >= 0 && c < 0x100)
        return stands_for_itself(c) ? c : -1;
    if (c < 0x100 || c > 0x143)
        return -1;
    c -= 0x100;
    return c <= ' ' ? c : c < 67 ? c - 33 + 0x7f : 0xad;
}

int orri_bytes_spell(const char *bytes, size_t size, struct orri_text *out)
{
    ORR_TRY(orri_text_room(out, 2 * size));
    for (size_t i = 0; i < size; i++)
        U8_APPEND_UNSAFE((uint8_t *)out->data, out->size, orri_byte_character((unsigned char)bytes[i]));
    return ORR_OK;
}

/* ---- the pattern ---------------------------------------------------------------------------------------------------- */

enum kind { OTHER, LETTER, NUMBER, SPACE };

#define O OTHER
#define L LETTER
#define N NUMBER
#define S SPACE
static const uint8_t ascii[0x80] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
};

/* Of the character at *at, which it moves on. */
static inline enum kind kind_at(const char *text, size_t *at)
{
    unsigned char byte = (unsigned char)text[*at];

    if (byte < 0x80) {
        ++*at;
        return ascii[byte];
    }
    UChar32 c = orri_character(text, at);
    uint32_t category = U_GET_GC_MASK(c);
    return category & U_GC_L_MASK ? LETTER : category & U_GC_N_MASK ? NUMBER : orri_is_space(c) ? SPACE : OTHER;
}

/* The length of 's, 't, 're, 've, 'm, 'll, 'd behind the apostrophe, or 0. */
static size_t contraction(const char *text, size_t left)
{
    if (left >= 1 && strchr("stmd", text[0]) && text[0])
        return 1;
    if (left >= 2 && (memcmp(text, "re", 2) == 0 || memcmp(text, "ve", 2) == 0 || memcmp(text, "ll", 2) == 0))
        return 2;
    return 0;
}

/* Where the run of a kind ends, from `at` on; *last is where its last character begins. */
static inline size_t run(const char *text, size_t size, size_t at, enum kind kind, size_t *last)
{
    for (size_t next = at; at < size; at = next) {
        if (kind_at(text, &next) != kind)
            break;
        *last = at;
    }
    return at;
}

size_t orri_gpt2_piece(const char *text, size_t size, size_t at)
{
    size_t begin = at, last = at;

    if (text[at] == '\'') {
        size_t length = contraction(text + at + 1, size - at - 1);
        if (length)
            return at + 1 + length;
    }
    enum kind kind = kind_at(text, &at);
    if (kind == SPACE && text[begin] == ' ' && at < size) {
        size_t behind = at;
        enum kind next = kind_at(text, &behind);
        if (next != SPACE)
            return run(text, size, behind, next, &last);
    }
    last = begin;
    size_t end = run(text, size, at, kind, &last);
    /* Of blanks the last is left to what follows, unless it is the only one. */
    return kind == SPACE && end < size && last > begin ? last : end;
}
