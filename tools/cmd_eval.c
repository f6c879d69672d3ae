/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>

#include "tools/tools.h"

enum { AT_ONCE = 32 };      /* microbatches; the slots decide how many of them have room */

static int64_t seq, micro_batch = 4, samples;
static bool json;

static struct setting table[] = {
    SETTING("seq", "T", "tokens of a sequence (default: the model's positions)", OPTION_INT, &seq, 1, 1 << 24, false),
    SETTING("micro-batch", "b", "sequences per task (4)", OPTION_INT, &micro_batch, 1, 1 << 24, true),
    SETTING("eval-samples", "N", "sequences at most, spread over the data (default: all)", OPTION_INT, &samples, 0, 1e12, false),
    SETTING("json", NULL, "print a JSON object", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {model_table, data_table, table, layout_table, NULL};

static int evaluate(struct opened *o, const struct orr_corpus *corpus)
{
    struct orr_result r;
    struct orr_range all = {0, orr_corpus_size(corpus)};
    int length = (int)(seq ? seq : o->hyper.positions);

    if (!o->weights)
        return command_remedy(command_fail(ORR_EINVAL, "%s: has no parameters to evaluate", model_options.model),
                              "name a checkpoint's directory with --model");
    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(check_prediction(o, (int)micro_batch, length, AT_ONCE, 0));
    ORR_TRY(fill_model(o));
    ORR_TRY(orr_evaluate(o->model, corpus, all, length, (int)micro_batch, samples, &r));
    double loss = r.loss / (double)r.labels;
    if (json)
        return print_json(json_pack("{s:f,s:f,s:f,s:I}", "loss", loss, "perplexity", exp(loss), "bits_per_token",
                                    loss / log(2), "tokens", (json_int_t)r.labels));
    printf("loss %.4f nats per token, perplexity %.3f, %.4f bits per token, over %lld tokens\n", loss, exp(loss),
           loss / log(2), (long long)r.labels);
    return ORR_OK;
}

int cmd_eval(int argc, char **argv)
{
    struct opened o = {0};
    struct orr_corpus *corpus = NULL;
    int status = options_parse("eval", "Loss and perplexity of a model on text or tokens.", tables, argc, argv);

    if (status == 0 && data_options.data.count == 0)
        status = command_remedy(command_fail(ORR_EINVAL, "--data: is missing"), "name a text file, a folder or a .bin file");
    if (status == 0)
        status = open_model(&o, NULL, NULL);
    if (status == 0 && !(corpus = open_data(&o, &data_options.data)))
        status = orr_error_code();
    if (status == 0)
        status = evaluate(&o, corpus);
    orr_corpus_destroy(corpus);
    close_model(&o);
    return status;
}
