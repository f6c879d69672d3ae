/* SPDX-License-Identifier: Apache-2.0 */
/* Regular expressions. Those of tokenizer.json are written for Oniguruma with Ruby's syntax; here they are matched by PCRE2.
 * What the two understand differently is written anew, what PCRE2 cannot say is refused:
 *
 *   \s \w \h          Unicode's White_Space; Alphabetic, M, Nd and Pc; a hexadecimal digit. PCRE2's are others
 *   \b \B             by that \w
 *   x{1,3}+           x{1,3} once or more, not possessive
 *   (?m)              that a point matches line ends; ^ and $ always are those of lines
 *   \p{Greek}         the script alone, not its extensions
 *   \uHHHH            \x{HHHH} */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/core.h"
#include "text/text.h"

#include <stdio.h>
#include <stdlib.h>

struct orri_regex {
    pcre2_code *code;
    char *where;
};

struct orri_matcher {
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
};

/* ---- Oniguruma's syntax in PCRE2's -------------------------------------------------------------------------------- */

enum { DEPTH = 64 };

struct rewriting {
    const char *where, *from;       /* what is left of the pattern */
    struct orri_text out;
    size_t atom;                    /* where the last thing that can be repeated begins in `out` */
    size_t group[DEPTH];            /* where the open groups begin                               */
    int depth;
};

#define IN_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of classes Oniguruma counts the superscripts and fractions of Latin-1 as well. */
#define WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" IN_CLASS

static int refuse(const struct rewriting *r, const char *what)
{
    return orri_remedy(orri_fail(ORR_EFORMAT, r->where, "%s cannot be followed", what),
                       "write the regular expression in another way");
}

static int put(struct rewriting *r, const char *text)
{
    return orri_text_add(&r->out, text, strlen(text));
}

/* \p{...}: scripts by their own names. `from` is behind the p. */
static int rewrite_property(struct rewriting *r, char letter)
{
    const char *end = strchr(r->from, '}');
    char name[64], trial[96];
    int error;
    size_t offset;

    if (*r->from != '{' || !end || end - r->from > (long)sizeof(name) - 1)
        return refuse(r, "\\p without a name in braces");
    const char *begin = r->from + 1;
    bool negated = *begin == '^';
    begin += negated;
    snprintf(name, sizeof(name), "%.*s", (int)(end - begin), begin);
    snprintf(trial, sizeof(trial), "\\p{sc:%s}", name);
    pcre2_code *script = pcre2_compile((PCRE2_SPTR)trial, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    pcre2_code_free(script);
    snprintf(trial, sizeof(trial), "\\%c{%s%s%s}", letter, negated ? "^" : "", script ? "sc:" : "", name);
    r->from = end + 1;
    return put(r, trial);
}

/* \uHHHH; `from` is behind the u. */
static int rewrite_code(struct rewriting *r)
{
    char text[16];

    if (strspn(r->from, "0123456789abcdefABCDEF") < 4)
        return refuse(r, "\\u without four digits");
    snprintf(text, sizeof(text), "\\x{%.4s}", r->from);
    r->from += 4;
    return put(r, text);
}

/* What follows a backslash; `inside` a class. */
static int rewrite_escape(struct rewriting *r, bool inside)
{
    const char letter = *r->from++;
    const char other[] = {'\\', letter, '\0'};

    switch (letter) {
    case '\0':
        return refuse(r, "a backslash at the end");
    case 's':
        return put(r, "\\p{White_Space}");
    case 'S':
        return put(r, "\\P{White_Space}");
    case 'w':
        return put(r, inside ? IN_CLASS : "[" WORD "]");
    case 'W':
        return inside ? refuse(r, "\\W in a class") : put(r, "[^" WORD "]");
    case 'h':
        return put(r, inside ? "0-9a-fA-F" : "[0-9a-fA-F]");
    case 'H':
        return inside ? refuse(r, "\\H in a class") : put(r, "[^0-9a-fA-F]");
    case 'b':
        return put(r, inside ? "\\b" : "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
    case 'B':
        return put(r, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
    case 'p':
    case 'P':
        return rewrite_property(r, letter);
    case 'u':
        return rewrite_code(r);
    default:
        return put(r, other);
    }
}

/* [...]; `from` is behind the bracket. */
static int rewrite_class(struct rewriting *r)
{
    ORR_TRY(put(r, "["));
    if (*r->from == '^')
        ORR_TRY(orri_text_add(&r->out, r->from++, 1));
    for (bool first = true; *r->from && (first || *r->from != ']'); first = false) {
        if (*r->from == '[')
            return refuse(r, "a class within a class");
        if (r->from[0] == '&' && r->from[1] == '&')
            return refuse(r, "an intersection of classes");
        if (*r->from == '\\') {
            r->from++;
            ORR_TRY(rewrite_escape(r, true));
        } else {
            ORR_TRY(orri_text_add(&r->out, r->from++, 1));
        }
    }
    if (!*r->from)
        return refuse(r, "a class without an end");
    r->from++;
    return put(r, "]");
}

/* An opening parenthesis, with what is behind its question mark up to a colon or parenthesis where these are options. */
static int rewrite_group(struct rewriting *r)
{
    if (r->depth == DEPTH)
        return refuse(r, "so deep a nesting");
    r->group[r->depth++] = r->out.size;
    ORR_TRY(put(r, "("));
    if (*r->from != '?')
        return ORR_OK;
    ORR_TRY(put(r, "?"));
    r->from++;
    if (r->from[strspn(r->from, "imx-")] != ':' && r->from[strspn(r->from, "imx-")] != ')')
        return ORR_OK;
    for (; strchr("imx-", *r->from); r->from++)
        ORR_TRY(orri_text_add(&r->out, *r->from == 'm' ? "s" : r->from, 1));
    return ORR_OK;
}

/* The length of "{1,3}" at `from`; 0: it is none. */
static size_t interval(const char *from)
{
    size_t n = 1 + strspn(from + 1, "0123456789,");

    return n > 1 && from[n] == '}' ? n + 1 : 0;
}

static int rewrite_interval(struct rewriting *r, size_t length)
{
    static const char open[] = "(?:";

    ORR_TRY(orri_text_add(&r->out, r->from, length));
    r->from += length;
    if (*r->from != '+')
        return ORR_OK;
    ORR_TRY(put(r, open));      /* makes room for it in front */
    memmove(r->out.data + r->atom + 3, r->out.data + r->atom, r->out.size - 3 - r->atom);
    memcpy(r->out.data + r->atom, open, 3);
    return put(r, ")");
}

static int rewrite_one(struct rewriting *r)
{
    size_t length = *r->from == '{' ? interval(r->from) : 0;

    if (length)
        return rewrite_interval(r, length);
    if (*r->from == ')' && r->depth > 0)
        r->atom = r->group[--r->depth];
    else if (!strchr("*+?)", *r->from))
        r->atom = r->out.size;
    switch (*r->from++) {
    case '\\':
        return rewrite_escape(r, false);
    case '[':
        return rewrite_class(r);
    case '(':
        return rewrite_group(r);
    default:
        ORR_TRY(orri_text_add(&r->out, r->from - 1, 1));
        while (((unsigned char)*r->from & 0xc0) == 0x80)
            ORR_TRY(orri_text_add(&r->out, r->from++, 1));
        return ORR_OK;
    }
}

/* ---- compiling and matching ------------------------------------------------------------------------------------------ */

static pcre2_code *compile(const char *where, const struct orri_text *pattern)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    char what[128];
    int error = 0;
    size_t offset;

    if (!context) {
        orri_fail(ORR_ENOMEM, where, "no room to compile a regular expression");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->size,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C, &error,
                                     &offset, context);
    pcre2_compile_context_free(context);
    if (!code) {
        pcre2_get_error_message(error, (PCRE2_UCHAR *)what, sizeof(what));
        orri_remedy(orri_fail(ORR_EFORMAT, where, "no regular expression: %s", what), "correct it, or get the file again");
        return NULL;
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);    /* without, it is interpreted */
    return code;
}

struct orri_regex *orri_regex_create(const char *where, const char *pattern)
{
    struct rewriting r = {.where = where, .from = pattern};
    struct orri_regex *regex = NULL;
    int status = orri_text_room(&r.out, 1);

    while (status == 0 && *r.from)
        status = rewrite_one(&r);
    pcre2_code *code = status == 0 ? compile(where, &r.out) : NULL;
    orri_text_free(&r.out);
    if (code)
        regex = orri_calloc(1, sizeof(*regex));
    if (regex && (regex->where = orri_strdup(where)))
        regex->code = code;
    if (regex && regex->code)
        return regex;
    pcre2_code_free(code);
    free(regex);
    return NULL;
}

void orri_regex_destroy(struct orri_regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    free(regex->where);
    free(regex);
}

struct orri_matcher *orri_matcher_create(void)
{
    struct orri_matcher *m = orri_calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->context = pcre2_match_context_create(NULL);
    m->data = pcre2_match_data_create(1, NULL);
    m->stack = pcre2_jit_stack_create(1 << 15, 1 << 26, NULL);
    if (!m->context || !m->data) {
        orri_fail(ORR_ENOMEM, "tokenizer", "no room to match regular expressions");
        orri_matcher_destroy(m);
        return NULL;
    }
    if (m->stack)
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return m;
}

void orri_matcher_destroy(struct orri_matcher *m)
{
    if (!m)
        return;
    pcre2_jit_stack_free(m->stack);
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    free(m);
}

int orri_regex_find(const struct orri_regex *regex, struct orri_matcher *m, const char *text, size_t size, size_t from, bool *found,
                    size_t *begin, size_t *end)
{
    const size_t limit = 10000000 + 16 * size;      /* steps: a long run of blanks may take one for each of them */
    char what[128];

    pcre2_set_match_limit(m->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, m->data, m->context);

    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(m->data);
        *begin = range[0];
        *end = range[1];
    }
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return ORR_OK;
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)what, sizeof(what));
    return orri_fail(rc == PCRE2_ERROR_NOMEMORY ? ORR_ENOMEM : ORR_EFORMAT, regex->where, "cannot be matched: %s", what);
}

/* ---- strings or regular expressions ------------------------------------------------------------------------------------ */

static int find(struct orri_search *s, bool *found, size_t *begin, size_t *end)
{
    const struct orri_pattern *p = s->pattern;

    if (p->regex)
        return orri_regex_find(p->regex, s->matcher, s->text, s->size, s->from, found, begin, end);
    const char *at = memmem(s->text + s->from, s->size - s->from, p->text, p->size);
    *found = at;
    *begin = at ? (size_t)(at - s->text) : 0;
    *end = *begin + p->size;
    return ORR_OK;
}

int orri_search_next(struct orri_search *s, bool *found, size_t *begin, size_t *end)
{
    for (*found = false; s->from <= s->size;) {
        ORR_TRY(find(s, found, begin, end));
        if (!*found)
            return ORR_OK;
        bool empty = *begin == *end, again = empty && *end == s->last;
        s->from = *end;
        if (empty && s->from == s->size)
            s->from++;
        else if (empty)
            orri_character(s->text, &s->from);
        if (!again) {
            s->last = *end;
            return ORR_OK;
        }
        *found = false;
    }
    return ORR_OK;
}

void orri_pattern_free(struct orri_pattern *pattern)
{
    orri_regex_destroy(pattern->regex);
    free(pattern->text);
    *pattern = (struct orri_pattern){0};
}
