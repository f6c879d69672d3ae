/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static const char *prompt = "";
static int64_t max_tokens = 200, top_k;
static double temperature = 1, top_p = 1;

static struct setting table[] = {
    SETTING("prompt", "TEXT", "what the text begins with", OPTION_TEXT, &prompt, 0, 0, false),
    SETTING("max-tokens", "N", "tokens to add (200)", OPTION_INT, &max_tokens, 1, 1 << 24, false),
    SETTING("temperature", "X", "below 1 favours the likely tokens, above 1 the others; 0 takes the likeliest (1)", OPTION_REAL,
     &temperature, 0, 1e6, false),
    SETTING("top-k", "K", "draw from the K most likely (default: all)", OPTION_INT, &top_k, 0, 1 << 24, false),
    SETTING("top-p", "P", "draw from the fewest that reach probability P (1)", OPTION_REAL, &top_p, 1e-9, 1, false),
    {0},
};

static struct setting *const tables[] = {model_table, table, layout_table, NULL};

static bool emit(void *self, int32_t token)
{
    char *text;
    size_t size;

    if (orr_tokenizer_decode(self, &token, 1, &text, &size) != 0)
        return false;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    free(text);
    return !ferror(stdout);
}

static int generate(struct opened *o, struct orr_predictor *predictor, int32_t *tokens, int count)
{
    struct orr_sampling sampling = {temperature, (int)top_k, top_p, (uint64_t)layout_options.seed};

    fwrite(prompt, 1, strlen(prompt), stdout);
    int n = orr_generate(predictor, tokens, count, (int)max_tokens, -1, &sampling, emit, o->tokenizer);
    putchar('\n');
    return n < 0 ? n : ORR_OK;
}

static int run(struct opened *o)
{
    int32_t *ids = NULL;
    size_t count;
    int vocab = o->gpt.vocab_size;

    if (!o->weights)
        return command_remedy(command_fail(ORR_EINVAL, "%s: has no parameters to generate with", model_options.model),
                              "name a checkpoint's directory with --model");
    if (orr_tokenizer_vocab_size(o->tokenizer) < vocab)
        return command_remedy(command_fail(ORR_EINVAL, "--tokenizer: the model has %d tokens, '%s' %d", vocab,
                                           orr_tokenizer_name(o->tokenizer), orr_tokenizer_vocab_size(o->tokenizer)),
                              "generate with a model that was trained with this tokenizer");
    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(check_prediction(o, 1, o->gpt.n_positions, 1, vocab));
    ORR_TRY(fill_model(o));
    ORR_TRY(orr_tokenizer_encode(o->tokenizer, prompt, strlen(prompt), &ids, &count));
    int32_t *tokens = realloc(ids, (count + (size_t)max_tokens + 1) * sizeof(*tokens));
    struct orr_predictor *predictor = orr_predictor_create(o->model, vocab, o->gpt.n_embd, o->gpt.n_positions);
    int status = tokens && predictor ? ORR_OK : command_fail(ORR_ENOMEM, "generate: no room for the tokens");
    if (status == 0 && count == 0)
        tokens[count++] = '\n';     /* something has to be continued */
    if (status == 0)
        status = generate(o, predictor, tokens, (int)count);
    orr_predictor_destroy(predictor);
    free(tokens ? tokens : ids);
    return status;
}

int cmd_generate(int argc, char **argv)
{
    struct opened o = {0};
    int status = options_parse("generate", "Continues a prompt.", tables, argc, argv);

    if (status == 0)
        status = open_model(&o, NULL, NULL);
    if (status == 0)
        status = run(&o);
    close_model(&o);
    return status;
}
