/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tools/tools.h"

static const char *out, *labels_text;

static struct setting table[] = {
    SETTING("labels", "IDS", "of models that do not predict the next token, a label for each token of each sequence; -100: none", OPTION_TEXT,
     &labels_text, 0, 0, false),
    SETTING("out", "FILE", "a safetensors file for `loss` (mean over labels) and the gradient of every parameter, under its name "
                    "in model.safetensors", OPTION_TEXT, &out, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {model_table, sequences_table, table, layout_table, NULL};

/* Gradients are those of the model, not of one draw of its dropout. */
static int without_dropout(struct orr_config *config)
{
    return orr_family_set_dropout(config, 0);
}

/* Sequences, and their labels; without any each sequence but its last token is the input, each but its first the labels. */
struct labelled {
    struct sequences tokens, labels;
};

static void read_sequence(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    const struct labelled *l = self;
    bool next = l->labels.count == 0;

    for (int i = 0; i < count; i++) {
        int n = (int)first + i, length = l->tokens.length[n] - next;
        const int32_t *tokens = l->tokens.ids[n], *labels = next ? tokens + 1 : l->labels.ids[n];
        for (int t = 0, k = i * seq; t < seq; t++, k++) {
            field[ORR_FIELD_TOKENS][k] = t < length ? tokens[t] : 0;
            field[ORR_FIELD_LABELS][k] = t < length ? labels[t] : ORR_IGNORE;
            field[ORR_FIELD_PLACES][k] = t < length ? t : t - length;       /* padding is a sequence of its own */
        }
    }
}

/* All ranks gather the gradients, rank 0 writes them. */
static int write_all(struct orr_model *model, struct orr_training *training, double loss,
                     struct orr_safetensors_writer *writer)
{
    float loss32 = (float)loss;
    int status = orr_ranks_settle(writer ? orr_safetensors_write(writer, 0, 0, &loss32, sizeof(loss32)) : ORR_OK);

    for (int i = 0; status == 0 && i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        float *values = malloc((size_t)info.count * sizeof(*values));
        status = orr_ranks_settle(values ? ORR_OK : command_fail(ORR_ENOMEM, "grads: no room for one"));
        if (status == 0)
            status = orr_training_read_gradient(training, i, values);
        if (status == 0 && writer)
            status = orr_safetensors_write(writer, 1 + i, 0, values, (size_t)info.count * sizeof(*values));
        status = orr_ranks_settle(status);
        free(values);
    }
    return status == 0 && writer ? orr_safetensors_writer_finish(writer) : status;
}

static int write_file(struct orr_model *model, struct orr_training *training, double loss)
{
    int count = orr_model_parameter_count(model);
    struct orr_tensor_spec *specs = calloc((size_t)count + 1, sizeof(*specs));

    if (!specs)
        return command_fail(ORR_ENOMEM, "grads: no room for the names");
    specs[0] = (struct orr_tensor_spec){"loss", ORR_F32, 1, {1}};
    for (int i = 0; i < count; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        specs[1 + i] = (struct orr_tensor_spec){info.name, ORR_F32, info.ndim, {info.shape[0], info.shape[1]}};
    }
    struct orr_safetensors_writer *writer = orr_rank() == 0 ? orr_safetensors_writer_create(out, specs, count + 1) : NULL;
    int status = orr_ranks_settle(writer || orr_rank() > 0 ? ORR_OK : orr_error_code());
    if (status == 0)
        status = orr_ranks_settle(write_all(model, training, loss, writer));
    orr_safetensors_writer_destroy(writer);
    free(specs);
    return status;
}

/* Who predicts the next token has it for a label. */
static int check_labels(const struct opened *o, struct labelled *l)
{
    bool next = o->hyper.causal && o->hyper.task.task == ORR_TASK_LM;

    if (!next != !!labels_text)
        return command_remedy(command_fail(ORR_EINVAL, next ? "--labels: this model's are the next tokens" : "--labels: is missing"),
                              next ? "leave it out" : "give a label for each token, and -100 for none");
    ORR_TRY(check_sequences(&l->tokens, &o->hyper, next ? 2 : 1));
    if (next)
        return ORR_OK;
    ORR_TRY(read_labels(labels_text, &l->tokens, &l->labels));
    for (int i = 0; i < l->labels.count; i++)
        for (int t = 0; t < l->labels.length[i]; t++)
            if (l->labels.ids[i][t] >= o->hyper.outputs || (l->labels.ids[i][t] < 0 && l->labels.ids[i][t] != ORR_IGNORE))
                return command_fail(ORR_EINVAL, "--labels: sequence %d, position %d: %d is not among %d", i + 1, t + 1,
                                    l->labels.ids[i][t], o->hyper.outputs);
    return ORR_OK;
}

static int run(struct opened *o, struct labelled *l)
{
    const struct sequences *s = &l->tokens;
    struct orr_training_options options = {
        .batch = s->count,
        .micro_batch = 1,
        .seq = s->longest - (l->labels.count == 0),
        .slots = o->slots,
        .optimizer = {.kind = ORR_SGD},
        .seed = (uint64_t)layout_options.seed,
    };
    struct orr_source source = {read_sequence, l};
    struct orr_step report;
    struct orr_memory_need need;

    ORR_TRY(orr_training_memory(o->model, &options, orr_rank(), &need));
    ORR_TRY(orr_memory_check(&need));
    ORR_TRY(fill_model(o));
    struct orr_training *training = orr_training_create(o->model, &options);
    if (!training)
        return orr_error_code();
    int status = orr_training_gradients(training, &source, &report);
    if (status == 0)
        status = write_file(o->model, training, report.loss);
    orr_training_destroy(training);
    return status;
}

int cmd_grads(int argc, char **argv)
{
    struct opened o = {0};
    struct labelled l = {0};
    int status = options_parse("grads", "Writes loss and gradients of token sequences to a file.", tables, argc, argv);

    if (status == 0 && !out)
        status = command_remedy(command_fail(ORR_EINVAL, "--out: is missing"), "name a file for the gradients");
    if (status == 0)
        status = read_sequences(ids_text, ids_path, &l.tokens);
    if (status == 0)
        status = open_model(&o, without_dropout, NULL);
    if (status == 0)
        status = check_labels(&o, &l);
    if (status == 0)
        status = run(&o, &l);
    free_sequences(&l.tokens);
    free_sequences(&l.labels);
    close_model(&o);
    return status;
}
