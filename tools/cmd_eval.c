/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tasks.h"
#include "tools/tools.h"

enum { AT_ONCE = 32 };      /* microbatches; the slots decide how many of them have room */

static int64_t seq, micro_batch = 4, samples;
static bool json;
static const char *predictions_path;
static enum orr_task task;

static struct setting table[] = {
    SETTING("seq", "T", "tokens of a sequence (default: the model's positions)", OPTION_INT, &seq, 1, 1 << 24, false),
    SETTING("micro-batch", "b", "sequences per task (4)", OPTION_INT, &micro_batch, 1, 1 << 24, true),
    SETTING("eval-samples", "N", "sequences at most, spread over the data (default: all)", OPTION_INT, &samples, 0, 1e12, false),
    SETTING("predictions", "FILE", "with labels: write what is predicted, in the order of the data: a label per line; of tags a word's line "
                           "each, sentences apart by an empty line", OPTION_TEXT, &predictions_path, 0, 0, false),
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

/* ---- labels ------------------------------------------------------------------------------------------------------- */

/* What is true and what is predicted, by example; lengths[] where an example has several. */
struct predicted {
    int64_t examples, count;
    int64_t *first;             /* [examples + 1] where each begins                          */
    int32_t *truth, *label;     /* [count]                                                   */
    double loss;                /* sum over labels                                           */
};

static void free_predicted(struct predicted *p)
{
    free(p->first);
    free(p->truth);
    free(p->label);
}

static int most_likely(const float *logits, int count)
{
    int best = 0;

    for (int i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static double cross_entropy(const float *logits, int count, int label)
{
    double most = (double)logits[most_likely(logits, count)], sum = 0;

    for (int i = 0; i < count; i++)
        sum += exp((double)logits[i] - most);
    return log(sum) + most - (double)logits[label];
}

/* A row of the data. Packing in order keeps the order of the examples, row by row. */
struct row {
    int32_t *tokens, *labels, *places, *types, *at;
    struct orr_span *spans;
    float *logits;
};

static int make_row(struct row *r, int length, int outputs)
{
    int32_t *fields = malloc(5 * (size_t)length * sizeof(*fields));

    *r = (struct row){fields, fields + length, fields + 2 * length, fields + 3 * length, fields + 4 * length,
                      malloc((size_t)length * sizeof(*r->spans)), malloc((size_t)length * (size_t)outputs * sizeof(*r->logits))};
    return fields && r->spans && r->logits ? ORR_OK : command_fail(ORR_ENOMEM, "eval: no room for a row");
}

static void free_row(struct row *r)
{
    free(r->tokens);
    free(r->spans);
    free(r->logits);
}

/* Room for what row n has. */
static int grow(struct predicted *p, int more)
{
    size_t count = (size_t)p->count + (size_t)more;
    int32_t *truth = realloc(p->truth, (count + 1) * sizeof(*truth));
    p->truth = truth ? truth : p->truth;
    int32_t *label = realloc(p->label, (count + 1) * sizeof(*label));
    p->label = label ? label : p->label;
    return truth && label ? ORR_OK : command_fail(ORR_ENOMEM, "eval: no room for %zu labels", count);
}

static int predict_row(const struct opened *o, struct task_data *d, struct orr_predictor *predictor, int64_t n, struct row *r,
                       struct predicted *p)
{
    const struct orr_row_arrays arrays = {.tokens = r->tokens, .labels = r->labels, .places = r->places, .types = r->types};
    int length = d->validation_rows.seq, outputs = o->hyper.outputs, rows = 0, spans;

    ORR_TRY(d->validation_rows.read(d->validation_rows.self, n, 1, &arrays));
    ORR_TRY(orr_packing_spans(d->validation, n, r->spans, &spans));
    for (int s = 0; s < spans; s++) {
        p->first[r->spans[s].example] = p->count + rows;
        for (int t = r->spans[s].first; t < r->spans[s].first + r->spans[s].count; t++)
            if (r->labels[t] != ORR_IGNORE)
                r->at[rows++] = t;
    }
    if (rows == 0)
        return ORR_OK;
    ORR_TRY(orr_predict_row(predictor, r->tokens, r->places, r->types, length, r->at, rows, r->logits));
    ORR_TRY(grow(p, rows));
    for (int i = 0; i < rows; i++, p->count++) {
        const float *logits = r->logits + (size_t)i * (size_t)outputs;
        p->truth[p->count] = r->labels[r->at[i]];
        p->label[p->count] = most_likely(logits, outputs);
        p->loss += cross_entropy(logits, outputs, p->truth[p->count]);
    }
    return ORR_OK;
}

static int predict_all(const struct opened *o, struct task_data *d, struct predicted *p)
{
    int length = d->validation_rows.seq;
    struct orr_predictor *predictor = orr_predictor_create(o->model, o->hyper.vocab, o->hyper.width, length);
    struct row r = {NULL};
    int status = predictor ? make_row(&r, length, o->hyper.outputs) : orr_error_code();

    if (status == 0) {
        orr_predictor_set_outputs(predictor, o->hyper.outputs);
        p->examples = orr_packing_examples(d->validation);
        p->first = calloc((size_t)p->examples + 1, sizeof(*p->first));
        status = p->first ? ORR_OK : command_fail(ORR_ENOMEM, "eval: no room for the examples");
    }
    for (int64_t n = 0; status == 0 && n < d->validation_count; n++)
        status = predict_row(o, d, predictor, n, &r, p);
    if (status == 0)
        p->first[p->examples] = p->count;
    free_row(&r);
    orr_predictor_destroy(predictor);
    return status;
}

static int score(const struct task_data *d, const struct predicted *p, struct orr_scores *scores)
{
    const struct orr_labels *labels = orr_examples_labels(d->examples);
    const char *const *names = orr_labels_names(labels);
    int count = orr_labels_count(labels);

    if (task == ORR_TASK_CLASSIFY)
        return orr_scores_classes(p->truth, p->label, p->count, names, count, scores);
    int64_t *lengths = malloc((size_t)p->examples * sizeof(*lengths));
    if (!lengths)
        return command_fail(ORR_ENOMEM, "eval: no room for the lengths");
    for (int64_t i = 0; i < p->examples; i++)
        lengths[i] = p->first[i + 1] - p->first[i];
    int status = orr_scores_entities(p->truth, p->label, lengths, p->examples, names, count, scores);
    free(lengths);
    return status;
}

static int write_predictions(const struct task_data *d, const struct predicted *p)
{
    const char *const *names = orr_labels_names(orr_examples_labels(d->examples));
    FILE *f = fopen(predictions_path, "w");

    for (int64_t i = 0; f && i < p->examples; i++) {
        for (int64_t k = p->first[i]; k < p->first[i + 1]; k++)
            fprintf(f, "%s\n", names[p->label[k]]);
        if (task == ORR_TASK_TAG)
            putc('\n', f);
    }
    if (!f || fclose(f) != 0)
        return command_fail(ORR_EIO, "--predictions: %s: cannot be written: %s", predictions_path, strerror(errno));
    return ORR_OK;
}

static int print_scores(const struct predicted *p, const struct orr_scores *scores)
{
    double loss = p->loss / (double)p->count;

    if (!json) {
        orr_scores_print(stdout, scores, 4);
        printf("loss %.4f nats per label, over %lld labels\n", loss, (long long)p->count);
        return ORR_OK;
    }
    json_t *object = orr_scores_json(scores);
    if (object)
        json_object_set_new(object, "loss", json_real(loss));
    return print_json(object);
}

static int evaluate_labels(struct opened *o, struct task_data *d)
{
    struct predicted p = {0};
    struct orr_scores scores = {0};
    int status = predict_all(o, d, &p);

    if (status == 0)
        status = score(d, &p, &scores);
    if (status == 0 && predictions_path && orr_rank() == 0)
        status = write_predictions(d, &p);
    if (status == 0)
        status = print_scores(&p, &scores);
    orr_scores_free(&scores);
    free_predicted(&p);
    return status;
}

static int evaluate_masked(struct opened *o, struct task_data *d)
{
    struct orr_result r;

    ORR_TRY(orr_evaluate_rows(o->model, &d->validation_rows, d->validation_count, (int)micro_batch, &r));
    double loss = r.loss / (double)r.labels;
    if (json)
        return print_json(json_pack("{s:f,s:f,s:I}", "loss", loss, "perplexity", exp(loss), "tokens", (json_int_t)r.labels));
    printf("loss %.4f nats per masked token, perplexity %.3f, over %lld of them\n", loss, exp(loss), (long long)r.labels);
    return ORR_OK;
}

static int evaluate_rows(struct opened *o)
{
    struct task_data d = {0};
    int length = (int)(seq ? seq : o->hyper.positions);

    if (!o->weights)
        return command_remedy(command_fail(ORR_EINVAL, "%s: has no parameters to evaluate", model_options.model),
                              "name a checkpoint's directory with --model");
    ORR_TRY(orr_model_freeze(o->model));
    int64_t floats = (int64_t)length * (o->hyper.outputs + o->hyper.width);
    int status = check_prediction(o, (int)micro_batch, length, AT_ONCE, task == ORR_TASK_MLM ? 0 : floats);
    if (status == 0)
        status = fill_model(o);
    if (status == 0)
        status = open_task_in_order(o, length, &d);
    if (status == 0)
        status = task == ORR_TASK_MLM ? evaluate_masked(o, &d) : evaluate_labels(o, &d);
    close_task(&d);
    return status;
}

static int change(struct orr_config *config)
{
    return choose_task(config, &task);
}

int cmd_eval(int argc, char **argv)
{
    struct opened o = {0};
    struct orr_corpus *corpus = NULL;
    int status = options_parse("eval", "Loss and perplexity of a model on text or tokens; accuracy, precision, recall and F1 on data with labels.", tables, argc, argv);

    if (status == 0 && data_options.data.count == 0)
        status = command_remedy(command_fail(ORR_EINVAL, "--data: is missing"), "name a text file, a folder or a .bin file");
    if (status == 0)
        status = open_model(&o, change, NULL);
    if (status == 0 && !has_rows(task) && !(corpus = open_data(&o, &data_options.data)))
        status = orr_error_code();
    if (status == 0)
        status = has_rows(task) ? evaluate_rows(&o) : evaluate(&o, corpus);
    orr_corpus_destroy(corpus);
    close_model(&o);
    return status;
}
