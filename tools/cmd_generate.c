/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static const char *prompt, *prompts_path, *kv_cache;
static int64_t max_tokens = 200, top_k;
static double temperature = 1, top_p = 1;
static bool json, cache;

static struct setting table[] = {
    SETTING("prompt", "TEXT", "what the text begins with", OPTION_TEXT, &prompt, 0, 0, false),
    SETTING("prompts", "FILE", "a prompt per line: all of them are continued together", OPTION_TEXT, &prompts_path, 0, 0, false),
    SETTING("max-tokens", "N", "tokens to add (200)", OPTION_INT, &max_tokens, 1, 1 << 24, false),
    SETTING("temperature", "X", "below 1 favours the likely tokens, above 1 the others; 0 takes the likeliest (1)", OPTION_REAL,
     &temperature, 0, 1e6, false),
    SETTING("top-k", "K", "draw from the K most likely (default: all)", OPTION_INT, &top_k, 0, 1 << 24, false),
    SETTING("top-p", "P", "draw from the fewest that reach probability P (1)", OPTION_REAL, &top_p, 1e-9, 1, false),
    SETTING("kv-cache", "HOW", "on (default, but with --sequence-parallel): keys and values of earlier tokens are kept; off: each token runs the whole sequence",
     OPTION_TEXT, &kv_cache, 0, 0, true),
    SETTING("json", NULL, "print an object per prompt: prompt, text, tokens", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {model_table, table, layout_table, NULL};

/* ---- prompts ---------------------------------------------------------------------------------------------- */

struct prompts {
    int count;
    char **text;
    struct orr_sequence *sequence;
    int *begins;                /* where what is added begins                      */
};

static void free_prompts(struct prompts *p)
{
    for (int i = 0; i < p->count; i++) {
        free(p->text[i]);
        free(p->sequence[i].tokens);
    }
    free(p->text);
    free(p->sequence);
    free(p->begins);
}

static int no_room(void)
{
    return command_fail(ORR_ENOMEM, "generate: no room for the tokens");
}

/* With what the tokenizer puts around a text. Something has to be continued: without a prompt the token that begins a text, else the
 * end of a line. */
static int encode_prompt(const struct opened *o, const char *text, struct orr_encoding *encoding)
{
    int32_t begin = orr_tokenizer_special(o->tokenizer, ORR_BEGIN);
    const char *token = begin >= 0 ? orr_tokenizer_token(o->tokenizer, begin) : NULL;

    ORR_TRY(orr_tokenizer_encode_input(o->tokenizer, text, strlen(text), NULL, 0, encoding));
    if (encoding->count > 0)
        return ORR_OK;
    orr_encoding_free(encoding);
    ORR_TRY(orr_tokenizer_encode_input(o->tokenizer, token ? token : "\n", token ? strlen(token) : 1, NULL, 0, encoding));
    if (encoding->count > 0)
        return ORR_OK;
    orr_encoding_free(encoding);
    return command_remedy(command_fail(ORR_EINVAL, "--prompt: is no token"), "give a text with --prompt");
}

/* Takes the text. */
static int add_prompt(struct prompts *p, const struct opened *o, char *text)
{
    size_t n = (size_t)p->count + 1, count;
    char **texts = realloc(p->text, n * sizeof(*texts));
    p->text = texts ? texts : p->text;
    struct orr_sequence *sequences = realloc(p->sequence, n * sizeof(*sequences));
    p->sequence = sequences ? sequences : p->sequence;
    int *begins = realloc(p->begins, n * sizeof(*begins));
    p->begins = begins ? begins : p->begins;
    struct orr_encoding encoding;

    if (!text || !texts || !sequences || !begins) {
        free(text);
        return no_room();
    }
    p->text[p->count] = text;
    p->sequence[p->count++] = (struct orr_sequence){0};
    ORR_TRY(encode_prompt(o, text, &encoding));
    count = encoding.count;
    if (count + (size_t)max_tokens > INT32_MAX) {
        orr_encoding_free(&encoding);
        return command_remedy(command_fail(ORR_EINVAL, "--max-tokens: with the prompt's %zu tokens these are too many", count),
                              "lower --max-tokens");
    }
    int32_t *tokens = realloc(encoding.ids, (count + (size_t)max_tokens) * sizeof(*tokens));
    encoding.ids = tokens ? NULL : encoding.ids;
    orr_encoding_free(&encoding);
    if (!tokens)
        return no_room();
    p->begins[p->count - 1] = (int)count;
    p->sequence[p->count - 1] = (struct orr_sequence){tokens, (int)count, false};
    return ORR_OK;
}

static int read_prompts(struct prompts *p, const struct opened *o)
{
    char *line = NULL;
    size_t size = 0;
    int status = ORR_OK;
    ssize_t n = 0;
    FILE *f = fopen(prompts_path, "r");

    if (!f)
        return command_remedy(command_fail(ORR_ENOENT, "--prompts: %s: %s", prompts_path, strerror(errno)),
                              "name a file with a prompt per line");
    while (status == 0 && (n = getline(&line, &size, f)) > 0) {
        line[strcspn(line, "\n")] = '\0';
        status = add_prompt(p, o, strdup(line));
    }
    if (status == 0 && ferror(f))
        status = command_fail(ORR_EIO, "--prompts: %s: %s", prompts_path, strerror(errno));
    free(line);
    fclose(f);
    if (status == 0 && p->count == 0)
        status = command_remedy(command_fail(ORR_EFORMAT, "--prompts: %s: is empty", prompts_path),
                                "write a prompt into every line");
    return status;
}

/* Each rank reads its own copy of the file. */
static int agree_on_prompts(const struct prompts *p)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    for (int i = 0; out && i < p->count; i++)
        fprintf(out, "prompt %d=%s\n", i + 1, p->text[i]);
    bool made = out && fclose(out) == 0;
    int status = orr_ranks_settle(made ? ORR_OK : no_room());
    if (status == 0)
        status = orr_ranks_agree("--prompts", text);
    free(text);
    return status;
}

/* ---- what comes out --------------------------------------------------------------------------------------------- */

/* A single text appears as it grows. */
static bool is_streamed(void)
{
    return !prompts_path && !json;
}

/* What tokens first ... last - 1 of a sequence add to the text. Since a token's text may depend on those before it (the blank that
 * begins a word, a character of several tokens), a few of these are decoded along, and what they give by themselves is left out. Ids that
 * the tokenizer has no token for give nothing. */
static int added_text(const struct orr_tokenizer *tokenizer, const int32_t *tokens, int first, int last, char **text, size_t *size)
{
    enum { ALONG = 6 };
    int32_t *known = malloc(((size_t)last + 1) * sizeof(*known));
    char *before = NULL;
    size_t skipped = 0;
    int count = 0, along = 0;

    if (!known)
        return no_room();
    for (int i = first > ALONG ? first - ALONG : 0; i < last; i++) {
        along = i == first ? count : along;
        if (tokens[i] < orr_tokenizer_vocab_size(tokenizer))
            known[count++] = tokens[i];
    }
    along = first == last ? count : along;
    int status = orr_tokenizer_decode(tokenizer, known, (size_t)along, &before, &skipped);
    if (status == 0)
        status = orr_tokenizer_decode(tokenizer, known, (size_t)count, text, size);
    if (status == 0) {
        skipped = skipped < *size ? skipped : *size;
        memmove(*text, *text + skipped, *size - skipped + 1);
        *size -= skipped;
    }
    free(before);
    free(known);
    return status;
}

/* A text that appears as it grows. */
struct stream {
    const struct orr_tokenizer *tokenizer;
    const struct orr_sequence *sequence;
    int32_t stop;
    int shown;                  /* tokens whose text has been printed */
};

/* Whether the text ends within a character, which more tokens may complete; not that many. */
static bool is_unfinished(const char *text, size_t size, int tokens)
{
    enum { MOST = 5 };

    return tokens < MOST && size >= 3 && memcmp(text + size - 3, "\xef\xbf\xbd", 3) == 0;
}

static int show(struct stream *s, int count, bool all)
{
    char *text;
    size_t size;

    ORR_TRY(added_text(s->tokenizer, s->sequence->tokens, s->shown, count, &text, &size));
    if (all || !is_unfinished(text, size, count - s->shown)) {
        fwrite(text, 1, size, stdout);
        fflush(stdout);
        s->shown = count;
    }
    free(text);
    return ORR_OK;
}

static bool emit(void *self, int sequence, int32_t token)
{
    struct stream *s = self;

    (void)sequence;
    if (!is_streamed() || token == s->stop)
        return true;
    return show(s, s->sequence->count, false) == 0 && !ferror(stdout);
}

/* Tokens may end within a character: bytes that are none are replaced by U+FFFD. */
static json_t *text_object(const char *text, size_t size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    json_t *whole = json_stringn(text, size);
    char *valid = whole ? NULL : malloc(3 * size + 1), *to = valid;

    for (size_t i = 0, n; valid && i < size; i += n) {
        json_t *character = NULL;
        for (n = 1; n <= 4 && i + n <= size && !(character = json_stringn(text + i, n)); n++)
            ;
        const char *from = character ? text + i : replacement;
        size_t bytes = character ? n : sizeof(replacement) - 1;
        n = character ? n : 1;
        memcpy(to, from, bytes);
        to += bytes;
        json_decref(character);
    }
    if (valid)
        whole = json_stringn(valid, (size_t)(to - valid));
    free(valid);
    return whole;
}

/* Where the tokens of a text end: the one that ends it has none. */
static int text_end(const struct opened *o, const struct prompts *p, int i)
{
    const struct orr_sequence *s = &p->sequence[i];
    bool ended = s->count > p->begins[i] && s->tokens[s->count - 1] == orr_tokenizer_special(o->tokenizer, ORR_END);

    return s->count - ended;
}

static int print_text(const struct opened *o, const struct prompts *p, int i)
{
    const struct orr_sequence *s = &p->sequence[i];
    int added = s->count - p->begins[i];
    char *text;
    size_t size;

    ORR_TRY(added_text(o->tokenizer, s->tokens, p->begins[i], text_end(o, p, i), &text, &size));
    if (json) {
        json_t *object = json_pack("{s:o, s:o, s:i}", "prompt", text_object(p->text[i], strlen(p->text[i])), "text",
                                   text_object(text, size), "tokens", added);
        free(text);
        return print_json(object);
    }
    fputs(p->text[i], stdout);
    fwrite(text, 1, size, stdout);
    putchar('\n');
    free(text);
    return ORR_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

static int generate(const struct opened *o, struct prompts *p, struct orr_predictor *predictor)
{
    struct orr_sampling sampling = {temperature, (int)top_k, top_p, (uint64_t)layout_options.seed};
    struct stream stream = {o->tokenizer, &p->sequence[0], orr_tokenizer_special(o->tokenizer, ORR_END), p->begins[0]};
    int status = cache ? orr_predictor_continue(predictor, p->count) : ORR_OK;

    if (status == 0 && is_streamed())
        fputs(p->text[0], stdout);
    if (status == 0)
        status = orr_generate(predictor, p->sequence, p->count, (int)max_tokens, stream.stop, &sampling, emit, &stream);
    if (status == 0 && is_streamed())
        status = show(&stream, text_end(o, p, 0), true);
    if (status == 0 && is_streamed())
        putchar('\n');
    for (int i = 0; status == 0 && !is_streamed() && i < p->count; i++)
        status = print_text(o, p, i);
    return status;
}

static int check_options(const struct opened *o)
{
    int vocab = o->gpt.vocab_size;

    if (!o->weights)
        return command_remedy(command_fail(ORR_EINVAL, "%s: has no parameters to generate with", model_options.model),
                              "name a checkpoint's directory with --model");
    if (strcmp(orr_tokenizer_name(o->tokenizer), "bytes") == 0 && orr_tokenizer_vocab_size(o->tokenizer) < vocab)
        return command_remedy(command_fail(ORR_EINVAL, "--tokenizer: the model has %d tokens, '%s' %d", vocab,
                                           orr_tokenizer_name(o->tokenizer), orr_tokenizer_vocab_size(o->tokenizer)),
                              "generate with a model that was trained with this tokenizer");
    if (prompt && prompts_path)
        return command_remedy(command_fail(ORR_EINVAL, "--prompts: there is --prompt, too"), "give one of them");
    return read_kv_cache(o, kv_cache, &cache);
}

static int run(struct opened *o, struct prompts *p)
{
    ORR_TRY(check_options(o));
    ORR_TRY(orr_ranks_settle(prompts_path ? read_prompts(p, o) : add_prompt(p, o, strdup(prompt ? prompt : ""))));
    ORR_TRY(agree_on_prompts(p));
    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(check_generation(o, p->count, cache));
    ORR_TRY(fill_model(o));
    struct orr_predictor *predictor =
        orr_predictor_create(o->model, o->gpt.vocab_size, o->gpt.n_embd, o->gpt.n_positions);
    int status = predictor ? generate(o, p, predictor) : orr_error_code();
    orr_predictor_destroy(predictor);
    return status;
}

int cmd_generate(int argc, char **argv)
{
    struct opened o = {0};
    struct prompts p = {0};
    int status = options_parse("generate", "Continues a prompt.", tables, argc, argv);

    if (status == 0)
        status = open_model(&o, NULL, &(struct shape){.generating = true});
    if (status == 0)
        status = run(&o, &p);
    free_prompts(&p);
    close_model(&o);
    return status;
}
