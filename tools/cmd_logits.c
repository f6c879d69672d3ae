/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tools/tools.h"

static const char *out;

static struct setting table[] = {
    SETTING("out", "FILE", "a safetensors file for `logits` [N,T,V], `last_hidden_state` [N,T,C] and `lengths` [N]; behind the end of "
                    "a shorter sequence they are 0", OPTION_TEXT, &out, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {model_table, sequences_table, table, layout_table, NULL};

static int write_one(struct orr_safetensors_writer *writer, int tensor, size_t at, const void *data, size_t bytes)
{
    return writer ? orr_safetensors_write(writer, tensor, at, data, bytes) : ORR_OK;
}

/* One sequence at a time, so that the memory does not grow with their number. All ranks predict, rank 0 writes. */
static int write_all(const struct opened *o, const struct sequences *s, struct orr_predictor *predictor,
                     struct orr_safetensors_writer *writer)
{
    size_t v = (size_t)o->hyper.outputs, c = (size_t)o->hyper.width, longest = (size_t)s->longest;
    float *logits = malloc(longest * v * sizeof(*logits)), *hidden = malloc(longest * c * sizeof(*hidden));
    int status = orr_ranks_settle(logits && hidden ? ORR_OK : command_fail(ORR_ENOMEM, "logits: no room for them"));

    for (int i = 0; status == 0 && i < s->count; i++) {
        size_t t = (size_t)s->length[i], first = (size_t)i * longest;
        int64_t length = s->length[i];
        status = orr_predict(predictor, s->ids[i], s->length[i], s->length[i], logits, hidden);
        if (status == 0)
            status = write_one(writer, 0, (size_t)i * sizeof(length), &length, sizeof(length));
        if (status == 0)
            status = write_one(writer, 1, first * v * sizeof(float), logits, t * v * sizeof(float));
        if (status == 0)
            status = write_one(writer, 2, first * c * sizeof(float), hidden, t * c * sizeof(float));
        status = orr_ranks_settle(status);
    }
    free(logits);
    free(hidden);
    return status == 0 && writer ? orr_safetensors_writer_finish(writer) : status;
}

static int run(struct opened *o, const struct sequences *s)
{
    const struct orr_tensor_spec specs[] = {
        {"lengths", ORR_I64, 1, {s->count}},
        {"logits", ORR_F32, 3, {s->count, s->longest, o->hyper.outputs}},
        {"last_hidden_state", ORR_F32, 3, {s->count, s->longest, o->hyper.width}},
    };

    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(check_prediction(o, 1, s->longest, 1, (int64_t)s->longest * (o->hyper.outputs + o->hyper.width)));
    ORR_TRY(fill_model(o));
    struct orr_predictor *predictor =
        orr_predictor_create(o->model, o->hyper.vocab, o->hyper.width, o->hyper.positions);
    if (predictor)
        orr_predictor_set_outputs(predictor, o->hyper.outputs);
    struct orr_safetensors_writer *writer =
        predictor && orr_rank() == 0 ? orr_safetensors_writer_create(out, specs, 3) : NULL;
    int status = orr_ranks_settle(predictor && (writer || orr_rank() > 0) ? ORR_OK : orr_error_code());
    if (status == 0)
        status = orr_ranks_settle(write_all(o, s, predictor, writer));
    orr_safetensors_writer_destroy(writer);
    orr_predictor_destroy(predictor);
    return status;
}

int cmd_logits(int argc, char **argv)
{
    struct opened o = {0};
    struct sequences s = {0};
    int status = options_parse("logits", "Writes the logits of token sequences to a file.", tables, argc, argv);

    if (status == 0 && !out)
        status = command_remedy(command_fail(ORR_EINVAL, "--out: is missing"), "name a file for the logits");
    if (status == 0)
        status = read_sequences(ids_text, ids_path, &s);
    if (status == 0)
        status = open_model(&o, NULL, NULL);
    if (status == 0)
        status = check_sequences(&s, &o.hyper, 1);
    if (status == 0)
        status = run(&o, &s);
    free_sequences(&s);
    close_model(&o);
    return status;
}
