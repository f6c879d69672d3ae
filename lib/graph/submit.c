/* SPDX-License-Identifier: Apache-2.0 */
/* The passes of a microbatch in the order of the program, and what travels between them. */
#include <starpu.h>

#include "graph/graph.h"

static const struct orr_rows no_rows;

/* ---- the way of the data ------------------------------------------------------------------------------ */

/* The values that a block reads come to it, unless an earlier reader was there. */
static int bring_inputs(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block, int c)
{
    int to = orri_place(block, mb->replica, c);

    for (int i = 0; i < block->inputs; i++) {
        const struct orr_block *writer = block->input[i];
        const struct orr_block *reader = orri_tape_next_reader(writer, writer->index);
        while (reader != block && orri_place(reader, mb->replica, c) != to)
            reader = orri_tape_next_reader(writer, reader->index);
        if (reader == block)
            ORR_TRY(orri_transfer_submit(slots->model, &orri_cell_at(slots, mb, writer)->value[c],
                                         orri_place(writer, mb->replica, c), to, mb->run));
    }
    return ORR_OK;
}

/* The gradient of a block's output is complete with what the first of its readers added. */
static int bring_output_gradient(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block,
                                 int c)
{
    const struct orr_block *reader = orri_tape_next_reader(block, block->index);

    return !reader ? ORR_OK
                   : orri_transfer_submit(slots->model, &orri_cell_at(slots, mb, block)->gradient[c],
                                          orri_place(reader, mb->replica, c), orri_place(block, mb->replica, c), mb->run);
}

/* What a block adds to the gradient of an input, it adds to what the reader behind it left. */
static int bring_input_gradients(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block,
                                 int c)
{
    for (int i = 0; i < block->inputs; i++) {
        const struct orr_block *writer = block->input[i], *before = orri_tape_next_reader(writer, block->index);
        if (before)
            ORR_TRY(orri_transfer_submit(slots->model, &orri_cell_at(slots, mb, writer)->gradient[c],
                                         orri_place(before, mb->replica, c), orri_place(block, mb->replica, c), mb->run));
    }
    return ORR_OK;
}

/* From where a chunk is to the ranks of all shards. */
static int spread(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block,
                  struct orr_tile *tile, int c)
{
    int from = orri_place(block, mb->replica, c), before = -1;

    for (int t = 0; t < slots->model->mesh.tp; t++) {
        int to = orri_place(block, mb->replica, t);
        if (to != before)
            ORR_TRY(orri_transfer_submit(slots->model, tile, from, to, mb->run));
        before = to;
    }
    return ORR_OK;
}

/* From a shard to where the chunks are. */
static int gather(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block,
                  struct orr_tile *tile, int t)
{
    for (int c = 0; c < slots->model->chunks; c++)
        ORR_TRY(orri_transfer_submit(slots->model, &tile[t * slots->model->chunks + c], orri_place(block, mb->replica, t),
                                     orri_place(block, mb->replica, c), mb->run));
    return ORR_OK;
}

/* Only on the ranks that have them. */
static void forget(struct orr_tile *tile, int count)
{
    for (int i = 0; tile && i < count; i++)
        if (tile[i].handle)
            orr_tile_invalidate_submit(&tile[i]);
}

static int branch_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    for (int c = 0; c < slots->model->chunks; c++) {
        if (mb->here)
            ORR_TRY(bring_inputs(slots, mb, block, c));
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_CHUNK_FORWARD, c, no_rows));
        if (mb->here && orri_has_pass(block->cls, ORR_CHUNK_FORWARD))
            ORR_TRY(spread(slots, mb, block, &orri_cell_at(slots, mb, block)->branch[c], c));
    }
    return ORR_OK;
}

static int shards_forward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    struct orr_model *model = slots->model;
    struct orri_cell *cell = mb->here ? orri_cell_at(slots, mb, block) : NULL;

    ORR_TRY(branch_submit(slots, mb, block));
    for (int t = 0; t < model->mesh.tp; t++) {
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_SHARD_FORWARD, t, no_rows));
        if (cell)
            ORR_TRY(gather(slots, mb, block, cell->partial, t));
    }
    for (int c = 0; c < model->chunks; c++) {
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_CHUNK_JOIN, c, no_rows));
        if (cell && block->cls->is_loss && slots->options.training)
            ORR_TRY(spread(slots, mb, block, &cell->value[c], c));
    }
    if (cell)
        forget(cell->partial, model->mesh.tp * model->chunks);
    return ORR_OK;
}

static int shards_backward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    struct orr_model *model = slots->model;
    struct orri_cell *cell = mb->here ? orri_cell_at(slots, mb, block) : NULL;
    bool together = !slots->split && !block->held && orri_has_pass(block->cls, ORR_SHARD_BOTH);

    for (int c = 0; cell && c < model->chunks; c++) {
        ORR_TRY(bring_output_gradient(slots, mb, block, c));
        if (!block->cls->is_loss)
            ORR_TRY(spread(slots, mb, block, &cell->gradient[c], c));
    }
    for (int t = 0; t < model->mesh.tp; t++) {
        ORR_TRY(orri_pass_submit(slots, mb, block, together ? ORR_SHARD_BOTH : ORR_SHARD_BACKWARD, t, no_rows));
        if (!together && !block->held)
            ORR_TRY(orri_pass_submit(slots, mb, block, ORR_SHARD_WEIGHTS, t, no_rows));
        if (cell && block->inputs)
            ORR_TRY(gather(slots, mb, block, cell->dpartial, t));
    }
    for (int c = 0; c < model->chunks; c++) {
        if (cell)
            ORR_TRY(bring_input_gradients(slots, mb, block, c));
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_CHUNK_BACKWARD, c, no_rows));
    }
    return ORR_OK;
}

static int whole_backward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    if (orri_runs_whole(&slots->options, block))
        return ORR_OK;      /* done with the forward pass */
    if (mb->here) {
        ORR_TRY(bring_output_gradient(slots, mb, block, 0));
        ORR_TRY(bring_input_gradients(slots, mb, block, 0));
    }
    if (!slots->split && !block->held && orri_has_pass(block->cls, ORR_BOTH))
        return orri_pass_submit(slots, mb, block, ORR_BOTH, 0, no_rows);
    ORR_TRY(orri_pass_submit(slots, mb, block, ORR_BACKWARD, 0, no_rows));
    return block->held ? ORR_OK : orri_pass_submit(slots, mb, block, ORR_WEIGHTS, 0, no_rows);
}

int orri_forward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    bool whole = orri_runs_whole(&slots->options, block);

    if (slots->model->mesh.tp > 1)
        return shards_forward_submit(slots, mb, block);
    if (mb->here)
        ORR_TRY(bring_inputs(slots, mb, block, 0));
    return orri_pass_submit(slots, mb, block, whole ? ORR_WHOLE : ORR_FORWARD, 0, no_rows);
}

int orri_backward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    int tp = slots->model->mesh.tp, chunks = slots->model->chunks;

    if (block->index >= slots->model->first_trained)
        ORR_TRY(tp > 1 ? shards_backward_submit(slots, mb, block) : whole_backward_submit(slots, mb, block));
    if (!mb->here)
        return ORR_OK;
    /* Every reader of these has been submitted: the blocks after this one, and this one. */
    struct orri_cell *cell = orri_cell_at(slots, mb, block);
    forget(cell->value, chunks);
    forget(cell->gradient, chunks);
    forget(cell->saved, tp);
    forget(cell->chunk_saved, chunks);
    forget(cell->branch, chunks);
    forget(cell->dpartial, tp > 1 ? tp * chunks : 0);
    return ORR_OK;
}

/* What a replica predicts comes to every rank. */
int orri_predict_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block,
                        struct orr_rows rows)
{
    struct orr_model *model = slots->model;
    struct orri_slot *slot = mb->here ? orri_slots_at(slots, mb, block->stage) : NULL;
    int at = orri_place(block, mb->replica, 0);

    if (model->mesh.tp == 1) {
        if (slot)
            ORR_TRY(bring_inputs(slots, mb, block, 0));
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_PREDICT, 0, rows));
    } else {
        ORR_TRY(branch_submit(slots, mb, block));
        for (int t = 0; t < model->mesh.tp; t++) {
            ORR_TRY(orri_pass_submit(slots, mb, block, ORR_SHARD_PREDICT, t, rows));
            if (slot)
                ORR_TRY(orri_transfer_submit(model, &slot->part[t], orri_place(block, mb->replica, t), at, mb->run));
        }
        ORR_TRY(orri_pass_submit(slots, mb, block, ORR_CHUNK_PREDICT, 0, rows));
    }
    for (int rank = 0; rank < model->mesh.ranks; rank++)
        ORR_TRY(orri_transfer_submit(model, &slots->prediction[mb->replica], at, rank, mb->run));
    return ORR_OK;
}

/* ---- input ---------------------------------------------------------------------------------------- */

struct input {
    struct orr_source source;
    uint64_t first;
    int count;                      /* sequences of the microbatch that there are; those behind them count for nothing */
    int batch, seq;
    int buffers;
    enum orr_field field[ORR_FIELDS];       /* which StarPU's buffers are                                              */
    const struct orr_model *model;
    int64_t run;
};

/* What a source may leave as it is, and what rows that there are not hold. */
static void fill(enum orr_field field, int64_t from, int64_t to, int seq, int32_t *values)
{
    bool places = field == ORR_FIELD_PLACES || field == ORR_FIELD_SOURCE_PLACES;

    for (int64_t i = from; i < to; i++)
        values[i] = places ? (int32_t)(i % seq) : field == ORR_FIELD_LABELS ? ORR_IGNORE : 0;
}

static void input_cpu(void *buffers[], void *argument)
{
    const struct input *input = argument;
    int64_t count = (int64_t)input->batch * input->seq;
    int32_t *field[ORR_FIELDS] = {NULL};

    if (orri_model_stopped(input->model, input->run))
        return;
    int32_t *unread = input->buffers < ORR_FIELDS ? orri_scratch((size_t)count * ORR_FIELDS * sizeof(*unread)) : NULL;
    for (int i = 0; i < input->buffers; i++)
        field[input->field[i]] = (int32_t *)STARPU_VECTOR_GET_PTR(buffers[i]);
    for (int f = 0; f < ORR_FIELDS; f++) {
        field[f] = field[f] ? field[f] : unread + f * count;
        fill((enum orr_field)f, 0, count, input->seq, field[f]);
    }
    input->source.read(input->source.self, input->first, input->count, input->seq, field);
}

static struct starpu_codelet input_codelet = {
    .cpu_funcs = {input_cpu},
    .nbuffers = STARPU_VARIABLE_NBUFFERS,
    .name = "input",
    .color = ORRI_COLOR_OTHER,
};

/* Each stage that needs fields reads them by itself: data is on every rank. */
int orri_input_submit(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_source *source,
                      uint64_t first)
{
    struct orr_model *model = slots->model;

    ORR_TRY(orri_model_check(model));
    for (int s = 0; mb->here && s < model->stages; s++) {
        struct orri_slot *slot = orri_slots_at(slots, mb, s);
        for (int t = 0; t < model->mesh.tp; t++) {
            struct input input = {.source = *source, .first = first, .count = mb->count, .batch = slots->options.batch,
                                  .seq = slots->options.seq, .model = model, .run = mb->run};
            struct orri_buffer read[ORR_FIELDS];
            for (int f = 0; f < ORR_FIELDS; f++) {
                if (!slot->field[f][t].handle)
                    continue;
                read[input.buffers] = (struct orri_buffer){&slot->field[f][t], STARPU_W};
                input.field[input.buffers++] = (enum orr_field)f;
            }
            if (input.buffers > 0)
                ORR_TRY(orri_task_submit(model, &input_codelet, input.buffers, read, &input, sizeof(input),
                                         ORRI_PRIORITY_UPDATE, mb->index, 0));
        }
    }
    return ORR_OK;
}

