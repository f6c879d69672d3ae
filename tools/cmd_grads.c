/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tools/tools.h"

static const char *out;

static struct setting table[] = {
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

/* Each sequence but its last token is the input, each but its first the labels. */
static void read_sequence(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct sequences *s = self;

    for (int i = 0; i < count; i++) {
        int n = (int)first + i;
        for (int t = 0; t < seq; t++) {
            bool inside = t + 1 < s->length[n];
            tokens[i * seq + t] = inside ? s->ids[n][t] : 0;
            labels[i * seq + t] = inside ? s->ids[n][t + 1] : ORR_IGNORE;
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

static int run(struct opened *o, struct sequences *s)
{
    struct orr_training_options options = {
        .batch = s->count,
        .micro_batch = 1,
        .seq = s->longest - 1,
        .slots = o->slots,
        .optimizer = {.kind = ORR_SGD},
        .seed = (uint64_t)layout_options.seed,
    };
    struct orr_source source = {read_sequence, s};
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
    struct sequences s = {0};
    int status = options_parse("grads", "Writes loss and gradients of token sequences to a file.", tables, argc, argv);

    if (status == 0 && !out)
        status = command_remedy(command_fail(ORR_EINVAL, "--out: is missing"), "name a file for the gradients");
    if (status == 0)
        status = read_sequences(ids_text, ids_path, &s);
    if (status == 0)
        status = open_model(&o, without_dropout, NULL);
    if (status == 0)
        status = check_sequences(&s, &o.hyper, 2);
    if (status == 0)
        status = run(&o, &s);
    free_sequences(&s);
    close_model(&o);
    return status;
}
