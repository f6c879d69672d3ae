/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/generated.h"

static const char *prompt, *prompts_path, *kv_cache;
static int64_t max_tokens = 200, min_tokens, top_k, no_repeat_ngram, beams = 1, batch;
static double temperature = 1, top_p = 1, repetition_penalty = 1, length_penalty = 1;
static bool json, cache, ignore_eos;
static struct list stops;

static struct setting table[] = {
    SETTING("prompt", "TEXT", "what the text begins with", OPTION_TEXT, &prompt, 0, 0, false),
    SETTING("prompts", "FILE", "a prompt per line: all of them are continued, and printed in their order", OPTION_TEXT,
     &prompts_path, 0, 0, false),
    SETTING("batch", "N", "prompts of a file that are continued together (default: as many as fit, at most 64 a replica)", OPTION_INT,
     &batch, 1, 1 << 20, false),
    SETTING("max-tokens", "N", "tokens to add (200)", OPTION_INT, &max_tokens, 1, 1 << 24, false),
    SETTING("min-tokens", "N", "the end token is not among the first N (0)", OPTION_INT, &min_tokens, 0, 1 << 24, false),
    SETTING("stop", "TEXT", "end the text before this; repeatable", OPTION_LIST, &stops, 0, 0, false),
    SETTING("ignore-eos", NULL, "go on behind the tokenizer's end token", OPTION_FLAG, &ignore_eos, 0, 0, false),
    SETTING("temperature", "X", "below 1 favours the likely tokens, above 1 the others; 0 takes the likeliest (1)", OPTION_REAL,
     &temperature, 0, 1e6, false),
    SETTING("top-k", "K", "draw from the K most likely (default: all)", OPTION_INT, &top_k, 0, 1 << 24, false),
    SETTING("top-p", "P", "draw from the fewest that reach probability P (1)", OPTION_REAL, &top_p, 1e-9, 1, false),
    SETTING("repetition-penalty", "P", "above 1 disfavours tokens that the text or the prompt has already (1)", OPTION_REAL,
     &repetition_penalty, 1e-3, 1e3, false),
    SETTING("no-repeat-ngram", "N", "no N tokens in a row come twice (0: they may)", OPTION_INT, &no_repeat_ngram, 0, 1 << 24, false),
    SETTING("beams", "N", "search for the likeliest text with N at a time (1: token by token)", OPTION_INT, &beams, 1, 64, false),
    SETTING("length-penalty", "X", "with --beams, a text's score is its log-probability over (tokens)^X (1)", OPTION_REAL,
     &length_penalty, -100, 100, false),
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
    struct generated *added;
};

static void free_prompts(struct prompts *p)
{
    for (int i = 0; i < p->count; i++) {
        free(p->text[i]);
        free(p->sequence[i].tokens);
        generated_free(&p->added[i]);
    }
    free(p->text);
    free(p->sequence);
    free(p->begins);
    free(p->added);
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

/* Room for one more, which is empty. */
static int grow(struct prompts *p)
{
    size_t n = (size_t)p->count + 1;
    char **texts = realloc(p->text, n * sizeof(*texts));
    p->text = texts ? texts : p->text;
    struct orr_sequence *sequences = realloc(p->sequence, n * sizeof(*sequences));
    p->sequence = sequences ? sequences : p->sequence;
    int *begins = realloc(p->begins, n * sizeof(*begins));
    p->begins = begins ? begins : p->begins;
    struct generated *added = realloc(p->added, n * sizeof(*added));
    p->added = added ? added : p->added;

    if (!texts || !sequences || !begins || !added)
        return no_room();
    p->text[p->count] = NULL;
    p->sequence[p->count] = (struct orr_sequence){0};
    p->added[p->count++] = (struct generated){0};
    return ORR_OK;
}

/* A copy of the text. */
static int add_prompt(struct prompts *p, const struct opened *o, const char *text, const char *where)
{
    struct orr_encoding encoding;

    ORR_TRY(grow(p));
    int last = p->count - 1;
    p->text[last] = strdup(text);
    if (!p->text[last])
        return no_room();
    ORR_TRY(encode_prompt(o, text, &encoding));
    size_t count = encoding.count;
    int32_t *ids = encoding.ids;
    encoding.ids = NULL;
    orr_encoding_free(&encoding);
    p->sequence[last].tokens = ids;
    if (count > (size_t)o->hyper.positions)
        return command_remedy(command_fail(ORR_EINVAL, "%s: the prompt has %zu tokens, and the model takes %d", where, count,
                                           o->hyper.positions),
                              "shorten it");
    int32_t *tokens = realloc(ids, (count + (size_t)max_tokens + 1) * sizeof(*tokens));
    if (!tokens)
        return no_room();
    generated_begin(&p->added[last], tokens, count);
    p->begins[last] = (int)count;
    p->sequence[last] = (struct orr_sequence){tokens, (int)count, false};
    return ORR_OK;
}

static int read_lines(struct prompts *p, const struct opened *o, FILE *f)
{
    char *line = NULL, where[512];
    size_t size = 0;
    int status = ORR_OK;

    for (ssize_t n; status == 0 && (n = getline(&line, &size, f)) > 0;) {
        snprintf(where, sizeof(where), "%s:%d", prompts_path, p->count + 1);
        n -= line[n - 1] == '\n';
        line[n] = '\0';
        if (strlen(line) != (size_t)n)
            status = command_remedy(command_fail(ORR_EFORMAT, "%s: has a zero byte", where), "give a text file");
        else
            status = add_prompt(p, o, line, where);
    }
    if (status == 0 && ferror(f))
        status = command_fail(ORR_EIO, "--prompts: %s: %s", prompts_path, strerror(errno));
    free(line);
    return status;
}

static int read_prompts(struct prompts *p, const struct opened *o)
{
    FILE *f = fopen(prompts_path, "r");

    if (!f)
        return command_remedy(command_fail(ORR_ENOENT, "--prompts: %s: %s", prompts_path, strerror(errno)),
                              "name a file with a prompt per line");
    int status = read_lines(p, o, f);
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
    return !prompts_path && !json && beams == 1;
}

/* Of some prompts that are continued together, the first of which has this number. */
struct together {
    const struct opened *o;
    struct prompts *prompts;
    int first;
    int32_t end;                /* token; -1: none                                 */
    int status;
};

static int add_text(struct together *t, int sequence, const int32_t *tokens, int count)
{
    return generated_add(&t->prompts->added[t->first + sequence], t->o->tokenizer, tokens, (size_t)count, &stops);
}

/* That nobody can read it is no reason for one of several ranks to leave the others. */
static bool emit(void *self, int sequence, int32_t token)
{
    struct together *t = self;
    struct generated *added = &t->prompts->added[t->first + sequence];

    if (token != t->end && t->status == 0)
        t->status = add_text(t, sequence, &token, 1);
    if (is_streamed()) {
        generated_print(added, &stops, false);
        fflush(stdout);
    }
    return t->status == 0 && !added->stopped && (orr_rank_count() > 1 || !ferror(stdout));
}

/* Does a text of a beam search, prompt and all, have a stop string? */
static bool ends(void *self, int sequence, const int32_t *tokens, int count)
{
    struct together *t = self;
    int begin = t->prompts->begins[t->first + sequence];
    struct generated text = {0};
    generated_begin(&text, tokens, (size_t)begin);
    int status = generated_add(&text, t->o->tokenizer, tokens + begin, (size_t)(count - begin), &stops);
    bool stopped = text.stopped;

    if (t->status == 0)
        t->status = status;
    generated_free(&text);
    return status != 0 || stopped;
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

static int print_text(const struct prompts *p, int i)
{
    struct generated *added = &p->added[i];

    if (json)
        return print_json(json_pack("{s:o, s:o, s:i}", "prompt", text_object(p->text[i], strlen(p->text[i])), "text",
                                    text_object(added->size ? added->text : "", added->size), "tokens",
                                    p->sequence[i].count - p->begins[i]));
    if (!is_streamed())
        fputs(p->text[i], stdout);
    generated_print(added, &stops, true);
    putchar('\n');
    return ORR_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

static struct orr_rules rules_given(void)
{
    return (struct orr_rules){repetition_penalty, (int)no_repeat_ngram, (int)min_tokens};
}

static int generate_tokens(struct together *t, struct orr_predictor *predictor, int count)
{
    const struct orr_sampling sampling = {temperature, (int)top_k, top_p, (uint64_t)layout_options.seed, t->first, rules_given()};

    return orr_generate(predictor, t->prompts->sequence + t->first, count, (int)max_tokens, t->end, &sampling, emit, t);
}

/* The text comes when it is found. */
static int generate_by_beams(struct together *t, struct orr_predictor *predictor, int count)
{
    const struct orr_beams search = {(int)beams, length_penalty, rules_given(), stops.count > 0 ? ends : NULL, t};
    struct orr_sequence *sequence = t->prompts->sequence + t->first;

    ORR_TRY(orr_generate_beams(predictor, sequence, count, (int)max_tokens, t->end, &search, NULL));
    for (int s = 0; s < count && t->status == 0; s++) {
        int begin = t->prompts->begins[t->first + s], end = sequence[s].count;
        end -= end > begin && sequence[s].tokens[end - 1] == t->end;
        t->status = add_text(t, s, sequence[s].tokens + begin, end - begin);
    }
    return ORR_OK;
}

static int generate_together(struct together *t, struct orr_predictor *predictor, int count)
{
    if (cache)
        ORR_TRY(orr_predictor_continue(predictor, count * (int)beams, (int)beams));
    ORR_TRY(beams > 1 ? generate_by_beams(t, predictor, count) : generate_tokens(t, predictor, count));
    ORR_TRY(orr_ranks_settle(t->status));
    for (int i = 0; i < count; i++) {
        ORR_TRY(generated_end(&t->prompts->added[t->first + i], t->o->tokenizer, &stops));
        ORR_TRY(print_text(t->prompts, t->first + i));
    }
    return ORR_OK;
}

static int generate(const struct opened *o, struct prompts *p, struct orr_predictor *predictor)
{
    struct together t = {.o = o, .prompts = p, .end = ignore_eos ? -1 : orr_tokenizer_special(o->tokenizer, ORR_END)};

    if (is_streamed())
        fputs(p->text[0], stdout);
    for (; t.first < p->count; t.first += (int)batch)
        ORR_TRY(generate_together(&t, predictor, p->count - t.first < batch ? p->count - t.first : (int)batch));
    return ORR_OK;
}

/* As many at a time as fit, no two groups of much different size; or as many as were asked for. The same on all ranks. */
static int choose_batch(const struct opened *o, const struct prompts *p)
{
    enum { MOST = 64 };
    struct generation_shape shape = {p->count, (int)beams, 0, cache};
    int most = MOST * o->mesh.dp, longest = 0;

    for (int i = 0; i < p->count; i++)
        longest = p->begins[i] > longest ? p->begins[i] : longest;
    shape.positions = longest + max_tokens < o->hyper.positions ? longest + (int)max_tokens : o->hyper.positions;
    if (!batch) {
        shape.prompts = p->count < most ? p->count : most;
        while (shape.prompts > 1 && check_generation(o, &shape) != 0)
            shape.prompts /= 2;
        ORR_TRY(orr_ranks_least(&shape.prompts));
        int groups = (p->count + shape.prompts - 1) / shape.prompts;
        batch = (p->count + groups - 1) / groups;
    }
    shape.prompts = batch < p->count ? (int)batch : p->count;
    return check_generation(o, &shape);
}

/* What needs no model. */
static int check_search(void)
{
    bool drawn = (options_given(table, "temperature") && temperature > 0) || options_given(table, "top-k") ||
                 options_given(table, "top-p");

    if (beams > 1 && drawn)
        return command_remedy(command_fail(ORR_EINVAL, "--beams: draws no tokens, which --temperature, --top-k and --top-p are for"),
                              "leave out one or the others");
    if (beams == 1 && options_given(table, "length-penalty"))
        return command_remedy(command_fail(ORR_EINVAL, "--length-penalty: means nothing without beams"), "give --beams, too");
    if (min_tokens > max_tokens)
        return command_remedy(command_fail(ORR_EINVAL, "--min-tokens: %lld are more than --max-tokens, which is %lld",
                                           (long long)min_tokens, (long long)max_tokens),
                              "lower it, or raise --max-tokens");
    for (int i = 0; i < stops.count; i++)
        if (*stops.item[i] == '\0')
            return command_remedy(command_fail(ORR_EINVAL, "--stop: is empty"), "give a text that is to end the output");
    return ORR_OK;
}

static int check_options(const struct opened *o)
{
    int vocab = o->hyper.vocab;

    if (!o->hyper.causal || o->hyper.task.task != ORR_TASK_LM)
        return command_remedy(command_fail(ORR_EINVAL, "%s: a model for this task writes no text", model_options.model),
                              "name one that predicts the next token");
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
    ORR_TRY(orr_ranks_settle(prompts_path ? read_prompts(p, o) : add_prompt(p, o, prompt ? prompt : "", "--prompt")));
    ORR_TRY(agree_on_prompts(p));
    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(choose_batch(o, p));
    ORR_TRY(fill_model(o));
    struct orr_predictor *predictor =
        orr_predictor_create(o->model, o->hyper.vocab, o->hyper.width, o->hyper.positions);
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
        status = check_search();
    if (status == 0)
        status = open_model(&o, NULL, &(struct shape){.generating = true});
    if (status == 0)
        status = run(&o, &p);
    free_prompts(&p);
    close_model(&o);
    return status;
}
