/* SPDX-License-Identifier: Apache-2.0 */
/* The slot rings: storage for microbatches in flight, and with it the pipeline schedule. */
#include "graph/graph.h"

#include <stdlib.h>
#include <string.h>

#include <orrery/runtime.h>

#include "core/instructions.h"

/* What OpenBLAS keeps for each thread, where products go by it (its BUFFER_SIZE on x86-64). */
enum { BLAS_BYTES = 32 << 20 };

/* ---- sizes ------------------------------------------------------------------------------------------ */

static int chunk_positions(const struct orr_model *model, const struct orr_slots_options *o, int c)
{
    return (int)orr_split(o->seq, 1, model->chunks, c).count;
}

static int64_t output_width(const struct orr_block *block)
{
    if (!block->cls->is_loss)
        return block->spec.width;
    return block->model->mesh.tp > 1 ? block->cls->sharding->output_width : 0;
}

static int64_t partial_width(const struct orr_block *block)
{
    int width = block->cls->sharding->partial_width;

    return width ? width : block->spec.width;
}

static int64_t branch_width(const struct orr_block *block)
{
    const struct orr_sharding *sharding = block->cls->sharding;

    return sharding->branch_width ? sharding->branch_width(block->config) : block->spec.width;
}

/* A loss block has sums there. */
static enum orr_dtype output_dtype(const struct orr_block *block)
{
    return block->cls->is_loss ? ORR_F32 : block->model->dtype;
}

static enum orr_dtype partial_dtype(const struct orr_block *block)
{
    return block->cls->sharding->partial_width ? ORR_F32 : block->model->dtype;
}

struct orr_saved_size orri_saved_of(const struct orr_block *block, const struct orr_slots_options *o, int t)
{
    int tp = block->model->mesh.tp;

    return tp == 1 ? block->cls->saved(block->config, o->batch, o->seq)
                   : block->cls->sharding->saved(block->config, o->batch, o->seq, tp, t);
}

struct orr_saved_size orri_chunk_saved_of(const struct orr_block *block, const struct orr_slots_options *o, int c)
{
    return block->cls->sharding->chunk_saved(block->config, o->batch, chunk_positions(block->model, o, c));
}

int64_t orri_saved_offset(struct orr_saved_size size)
{
    return (size.floats + 63) / 64 * 64;
}

/* Of four bytes, of the tile. */
static int64_t saved_words(const struct orr_model *model, struct orr_saved_size size)
{
    int64_t values = size.values * (int64_t)orr_dtype_size(model->dtype);

    return size.values ? orri_saved_offset(size) + (values + 3) / 4 : size.floats;
}

bool orri_runs_whole(const struct orr_slots_options *o, const struct orr_block *block)
{
    return block->cls->cpu[ORR_WHOLE] && o->training && block->model->mesh.tp == 1 &&
           (block->model->stages == 1 || !orr_slot_split(&o->policy));
}

static int ring_size(const struct orr_model *model, const struct orr_slots_options *o, int stage)
{
    int per_replica = (o->microbatches + model->mesh.dp - 1) / model->mesh.dp;
    int at_once = orr_worker_count_least() * model->mesh.ranks, serving = model->mesh.dp * model->mesh.tp;
    int workers = (at_once + serving - 1) / serving;

    return orr_slot_count(&o->policy, stage, model->stages, per_replica, workers < 1 ? 1 : workers);
}

enum orr_field orri_field_of(const struct orr_block *block, enum orr_operand operand)
{
    switch (operand) {
    case ORR_PLACES: return block->spec.source ? ORR_FIELD_SOURCE_PLACES : ORR_FIELD_PLACES;
    case ORR_TYPES: return ORR_FIELD_TYPES;
    case ORR_SOURCE_PLACES: return ORR_FIELD_SOURCE_PLACES;
    default: return block->cls->is_loss ? ORR_FIELD_LABELS : block->spec.source ? ORR_FIELD_SOURCE : ORR_FIELD_TOKENS;
    }
}

bool orri_has_field(const struct orr_model *model, enum orr_operand operand)
{
    return model->packed || (operand != ORR_PLACES && operand != ORR_SOURCE_PLACES);
}

static bool reads(const struct orr_block *block, enum orr_field field)
{
    unsigned operands = 0;

    for (int pass = 0; pass < ORR_PASSES; pass++)
        operands |= block->cls->operands[pass];
    for (size_t i = 0; i < ORRI_COUNT(orri_field_operands); i++)
        if ((operands & orri_field_operands[i]) && orri_has_field(block->model, orri_field_operands[i]) &&
            orri_field_of(block, orri_field_operands[i]) == field)
            return true;
    return false;
}

static bool stage_reads(const struct orr_model *model, int stage, enum orr_field field)
{
    for (int l = model->first_block[stage]; l < model->first_block[stage + 1]; l++)
        if (reads(model->block[l], field))
            return true;
    return false;
}

/* ---- which tiles there are on this rank ------------------------------------------------------------ */

/* A tile of rank `rank` that this rank writes or reads where `here`. */
static int make(struct orr_slots *slots, struct orr_tile *tile, enum orr_role role, enum orr_dtype dtype, int64_t count,
                int rank, bool here, int64_t tag)
{
    if (here && count > 0 && slots->counting)
        slots->bytes += (double)count * (double)orr_dtype_size(dtype);
    else if (here && count > 0)
        ORR_TRY(orr_tile_create(tile, role, dtype, count, rank, false));
    tile->dtype = dtype;
    tile->role = role;
    tile->count = count;
    tile->rank = rank;
    tile->tag = tag;
    return ORR_OK;
}

static bool reader_here(const struct orr_model *model, const struct orr_block *block, int d, int c)
{
    const struct orr_block *reader = orri_tape_next_reader(block, block->index);

    for (; reader; reader = orri_tape_next_reader(block, reader->index))
        if (orri_place(reader, d, c) == model->rank)
            return true;
    return false;
}

/* Values and their gradients are there where they are written, where the blocks are that read them, and, with shards, where
 * those are. */
static int make_values(struct orr_slots *slots, struct orri_cell *cell, const struct orr_block *block, int d, int k)
{
    const struct orr_model *model = slots->model;
    const struct orr_slots_options *o = &slots->options;
    bool shard_here = model->mesh.tp > 1 && orri_stage_here(model, d, block->stage);

    for (int c = 0; c < model->chunks; c++) {
        int home = orri_place(block, d, c), l = block->index;
        int64_t count = (int64_t)o->batch * chunk_positions(model, o, c) * output_width(block);
        bool here = home == model->rank || reader_here(model, block, d, c);
        ORR_TRY(make(slots, &cell->value[c], ORR_ACTIVATION, output_dtype(block), count, home, here || (shard_here && block->cls->is_loss),
                     orri_tag(model, ORRI_VALUE, d, l, k, 0, c)));
        ORR_TRY(make(slots, &cell->gradient[c], ORR_ACTIVATION, output_dtype(block), o->training && !block->cls->is_loss ? count : 0,
                     home, here || shard_here, orri_tag(model, ORRI_GRADIENT, d, l, k, 0, c)));
    }
    return ORR_OK;
}

static int make_saved(struct orr_slots *slots, struct orri_cell *cell, const struct orr_block *block, int d)
{
    const struct orr_model *model = slots->model;
    const struct orr_slots_options *o = &slots->options;

    if (!o->training || orri_runs_whole(o, block))
        return ORR_OK;
    for (int t = 0; t < model->mesh.tp; t++) {
        int home = orri_place(block, d, t);
        struct orr_saved_size size = orri_saved_of(block, o, t);
        ORR_TRY(make(slots, &cell->saved[t], ORR_SAVED, ORR_F32, saved_words(model, size), home, home == model->rank, 0));
    }
    for (int c = 0; model->mesh.tp > 1 && c < model->chunks; c++) {
        int home = orri_place(block, d, c);
        struct orr_saved_size size = orri_chunk_saved_of(block, o, c);
        ORR_TRY(make(slots, &cell->chunk_saved[c], ORR_SAVED, ORR_F32, saved_words(model, size), home, home == model->rank, 0));
    }
    return ORR_OK;
}

/* What shards read and write: every chunk of it is there where the chunk is, and where each shard. */
static int make_partials(struct orr_slots *slots, struct orri_cell *cell, const struct orr_block *block, int d, int k)
{
    const struct orr_model *model = slots->model;
    const struct orr_slots_options *o = &slots->options;
    int l = block->index;

    for (int c = 0; c < model->chunks; c++) {
        int64_t rows = (int64_t)o->batch * chunk_positions(model, o, c);
        int64_t back = o->training && block->inputs > 0 ? rows * branch_width(block) : 0;
        int64_t branch = block->cls->cpu[ORR_CHUNK_FORWARD] ? rows * branch_width(block) : 0;
        int home = orri_place(block, d, c);
        ORR_TRY(make(slots, &cell->branch[c], ORR_ACTIVATION, model->dtype, branch, home, orri_stage_here(model, d, block->stage),
                     orri_tag(model, ORRI_BRANCH, d, l, k, 0, c)));
        for (int t = 0; t < model->mesh.tp; t++) {
            int i = t * model->chunks + c, from = orri_place(block, d, t);
            bool here = model->rank == home || model->rank == from;
            ORR_TRY(make(slots, &cell->partial[i], ORR_ACTIVATION, partial_dtype(block), rows * partial_width(block), from, here,
                         orri_tag(model, ORRI_PARTIAL, d, l, k, t, c)));
            ORR_TRY(make(slots, &cell->dpartial[i], ORR_ACTIVATION, model->dtype, back, from, here,
                         orri_tag(model, ORRI_PARTIAL_GRADIENT, d, l, k, t, c)));
        }
    }
    return ORR_OK;
}

/* All tiles of a cell lie in one array. */
static int make_cell(struct orr_slots *slots, struct orri_cell *cell, const struct orr_block *block, int d, int k)
{
    size_t tp = (size_t)slots->model->mesh.tp, chunks = (size_t)slots->model->chunks;
    size_t whole = 2 * chunks + tp, cut = tp > 1 ? 2 * chunks + 2 * tp * chunks : 0;
    struct orr_tile *tile = orri_calloc(whole + cut, sizeof(*tile));

    if (!tile)
        return ORR_ENOMEM;
    cell->value = tile;
    cell->gradient = tile + chunks;
    cell->saved = tile + 2 * chunks;
    if (tp > 1) {
        cell->chunk_saved = tile + whole;
        cell->branch = cell->chunk_saved + chunks;
        cell->partial = cell->branch + chunks;
        cell->dpartial = cell->partial + tp * chunks;
        ORR_TRY(make_partials(slots, cell, block, d, k));
    }
    ORR_TRY(make_values(slots, cell, block, d, k));
    return make_saved(slots, cell, block, d);
}

static int cell_tiles(const struct orr_model *model)
{
    int tp = model->mesh.tp, chunks = model->chunks;

    return 2 * chunks + tp + (tp > 1 ? 2 * chunks + 2 * tp * chunks : 0);
}

/* Every shard reads the tokens by itself. */
static int make_inputs(struct orr_slots *slots, struct orri_slot *slot, int d, int stage, int k)
{
    const struct orr_model *model = slots->model;
    const struct orr_slots_options *o = &slots->options;
    int64_t tokens = (int64_t)o->batch * o->seq;
    bool last = stage == model->stages - 1;
    int first = orr_mesh_place(&model->mesh, d, stage, 0);

    for (int t = 0; t < model->mesh.tp; t++) {
        int home = orr_mesh_place(&model->mesh, d, stage, t);
        bool here = home == model->rank;
        for (int f = 0; f < ORR_FIELDS; f++)
            ORR_TRY(make(slots, &slot->field[f][t], ORR_TOKENS, ORR_I32, stage_reads(model, stage, (enum orr_field)f) ? tokens : 0, home,
                         here, 0));
        ORR_TRY(make(slots, &slot->part[t], ORR_ACTIVATION, ORR_F32, last && model->mesh.tp > 1 ? o->predict_floats : 0, home,
                     here || first == model->rank, orri_tag(model, ORRI_PREDICTION_PART, d, 0, k, t, 0)));
    }
    return ORR_OK;
}

static int make_slot(struct orr_slots *slots, struct orri_slot *slot, int d, int stage, int k)
{
    const struct orr_model *model = slots->model;
    int first = model->first_block[stage], blocks = model->first_block[stage + 1] - first;
    size_t tp = (size_t)model->mesh.tp;

    slot->cell = orri_calloc((size_t)blocks, sizeof(*slot->cell));
    slot->part = orri_calloc((1 + ORR_FIELDS) * tp, sizeof(*slot->part));
    if (!slot->cell || !slot->part)
        return ORR_ENOMEM;
    for (int f = 0; f < ORR_FIELDS; f++)
        slot->field[f] = slot->part + (size_t)(1 + f) * tp;
    ORR_TRY(make_inputs(slots, slot, d, stage, k));
    for (int b = 0; b < blocks; b++)
        ORR_TRY(make_cell(slots, &slot->cell[b], model->block[first + b], d, k));
    return ORR_OK;
}

/* Gradient tiles belong to the model, since the optimizer outlives the slots; they are made by the first
 * training slots. */
static int make_gradients(struct orr_slots *slots)
{
    struct orr_model *model = slots->model;
    int dp = model->mesh.dp;

    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        int users = parameter->group->users, copies = parameter->copies;
        struct orr_tile *gradient = parameter->gradient;
        if (gradient && !slots->counting)
            continue;
        gradient = orri_calloc((size_t)(users * dp * copies), sizeof(*gradient));
        if (!gradient)
            return ORR_ENOMEM;
        if (!slots->counting)
            parameter->gradient = gradient;
        for (int i = 0; i < users * dp * copies; i++) {
            int u = i / copies / dp, d = i / copies % dp, c = i % copies;
            int home = orri_user_rank(parameter, u, d, c);
            ORR_TRY(make(slots, &gradient[i], ORR_GRADIENT, ORR_F32, parameter->count, home, home == model->rank,
                         orri_tag(model, ORRI_PARAMETER_GRADIENT, d, p, u, c, 0)));
        }
        if (slots->counting)
            free(gradient);
    }
    return ORR_OK;
}

static int make_results(struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;
    size_t count = (size_t)(ORRI_MOST_STEPS * model->mesh.dp * model->chunks);

    slots->result = orri_calloc(count, sizeof(*slots->result));
    if (!slots->result)
        return ORR_ENOMEM;
    for (size_t i = 0; i < count; i++) {
        int d = (int)i / model->chunks % model->mesh.dp, c = (int)i % model->chunks;
        int home = orr_mesh_place(&model->mesh, d, model->stages - 1, c);
        if (home == model->rank && !slots->counting)
            ORR_TRY(orr_tile_create(&slots->result[i], ORR_SCALAR, ORR_U8, sizeof(struct orr_result), home, true));
        slots->result[i].rank = home;
    }
    return ORR_OK;
}

/* Every rank has what each replica predicts. */
static int make_predictions(struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;

    slots->prediction = orri_calloc((size_t)model->mesh.dp, sizeof(*slots->prediction));
    if (!slots->prediction)
        return ORR_ENOMEM;
    for (int d = 0; d < model->mesh.dp; d++)
        ORR_TRY(make(slots, &slots->prediction[d], ORR_ACTIVATION, ORR_F32, slots->options.predict_floats,
                     orr_mesh_place(&model->mesh, d, model->stages - 1, 0), true,
                     orri_tag(model, ORRI_PREDICTION, d, 0, 0, 0, 0)));
    return ORR_OK;
}

/* The slots of a ring are alike: one is counted for all. */
static int make_ring(struct orr_slots *slots, struct orri_ring *ring, int d, int stage)
{
    double before = slots->bytes;
    int slot_count = slots->counting ? 1 : ring->count;

    ring->slot = orri_calloc((size_t)slot_count, sizeof(*ring->slot));
    if (!ring->slot)
        return ORR_ENOMEM;
    for (int k = 0; k < slot_count; k++)
        ORR_TRY(make_slot(slots, &ring->slot[k], d, stage, k));
    if (slots->counting)
        slots->bytes = before + (slots->bytes - before) * ring->count;
    return ORR_OK;
}

static int make_rings(struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;

    slots->ring = orri_calloc((size_t)(model->mesh.dp * model->stages), sizeof(*slots->ring));
    if (!slots->ring)
        return ORR_ENOMEM;
    for (int d = 0; d < model->mesh.dp; d++) {
        bool here = orri_has_coordinate(model, d);
        for (int s = 0; s < model->stages; s++) {
            struct orri_ring *ring = &slots->ring[d * model->stages + s];
            ring->count = ring_size(model, &slots->options, s);
            if (here)
                ORR_TRY(make_ring(slots, ring, d, s));
        }
    }
    return ORR_OK;
}

static int check_shape(const struct orr_model *model, const struct orr_slots_options *o)
{
    for (int l = 0; l < model->blocks; l++)
        if (model->block[l]->spec.longest > 0 && o->seq > model->block[l]->spec.longest)
            return orri_remedy(orri_fail(ORR_EINVAL, "model", "block '%s' takes %d tokens at most, not %d",
                                         model->block[l]->cls->name, model->block[l]->spec.longest, o->seq),
                               "choose shorter sequences");
    if (o->seq < model->chunks)
        return orri_remedy(orri_fail(ORR_EINVAL, "model", "sequences of %d tokens cannot be cut into %d chunks", o->seq,
                                     model->chunks),
                           "choose longer sequences or leave sequence parallelism out");
    for (int s = 0; model->mesh.ranks > 1 && s < model->stages; s++)
        if (ring_size(model, o, s) > ORRI_MAX_SLOTS)
            return orri_remedy(orri_fail(ORR_EINVAL, "model", "%d slots of stage %d are more than %d",
                                         ring_size(model, o, s), s, ORRI_MAX_SLOTS),
                               "choose fewer slots or larger microbatches");
    return ORR_OK;
}

static size_t scratch_of(const struct orr_block *block, const struct orr_slots_options *o, bool cuda)
{
    const struct orr_model *model = block->model;
    const struct orr_shape shape = {model->dtype, o->batch, o->seq, model->mesh.tp, cuda};

    return block->cls->scratch_bytes(block->config, &shape);
}

/* Bytes of a device's scratch that the hungriest of the blocks takes. */
static size_t device_scratch(const struct orr_model *model, const struct orr_slots_options *o)
{
    size_t most = 0;

    for (int l = 0; l < model->blocks; l++) {
        size_t bytes = scratch_of(model->block[l], o, true);
        most = bytes > most ? bytes : most;
    }
    return most;
}

struct orr_slots *orr_slots_create(struct orr_model *model, const struct orr_slots_options *options)
{
    if (check_shape(model, options) != 0 || orri_devices_reserve(device_scratch(model, options)) != 0)
        return NULL;
    struct orr_slots *slots = orri_calloc(1, sizeof(*slots));
    if (!slots)
        return NULL;
    slots->model = model;
    slots->options = *options;
    slots->split = orr_slot_split(&options->policy);
    if ((options->training && make_gradients(slots) != 0) || make_results(slots) != 0 || make_predictions(slots) != 0 ||
        make_rings(slots) != 0) {
        orr_slots_destroy(slots);
        return NULL;
    }
    return slots;
}

static void destroy_slot(const struct orr_model *model, struct orri_slot *slot, int blocks)
{
    for (int i = 0; slot->part && i < (1 + ORR_FIELDS) * model->mesh.tp; i++)
        orr_tile_destroy(&slot->part[i]);
    for (int b = 0; slot->cell && b < blocks; b++) {
        for (int i = 0; slot->cell[b].value && i < cell_tiles(model); i++)
            orr_tile_destroy(&slot->cell[b].value[i]);
        free(slot->cell[b].value);
    }
    free(slot->part);
    free(slot->cell);
}

static void free_slots(struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;

    for (int i = 0; slots->ring && i < model->mesh.dp * model->stages; i++) {
        int s = i % model->stages;
        int slot_count = slots->counting ? 1 : slots->ring[i].count;
        for (int k = 0; slots->ring[i].slot && k < slot_count; k++)
            destroy_slot(model, &slots->ring[i].slot[k], model->first_block[s + 1] - model->first_block[s]);
        free(slots->ring[i].slot);
    }
    for (int i = 0; slots->result && i < ORRI_MOST_STEPS * model->mesh.dp * model->chunks; i++)
        orr_tile_destroy(&slots->result[i]);
    for (int d = 0; slots->prediction && d < model->mesh.dp; d++)
        orr_tile_destroy(&slots->prediction[d]);
    free(slots->prediction);
    free(slots->ring);
    free(slots->result);
}

void orr_slots_destroy(struct orr_slots *slots)
{
    if (slots)
        free_slots(slots);
    free(slots);
}

struct orri_slot *orri_slots_at(struct orr_slots *slots, const struct orri_microbatch *mb, int stage)
{
    struct orri_ring *ring = &slots->ring[mb->replica * slots->model->stages + stage];

    return &ring->slot[mb->turn % ring->count];
}

struct orri_cell *orri_cell_at(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block)
{
    return &orri_slots_at(slots, mb, block->stage)->cell[block->index - slots->model->first_block[block->stage]];
}

struct orr_tile *orri_slots_result(struct orr_slots *slots, int64_t step, int replica, int chunk)
{
    const struct orr_model *model = slots->model;

    return &slots->result[(step % ORRI_MOST_STEPS * model->mesh.dp + replica) * model->chunks + chunk];
}

/* ---- memory ------------------------------------------------------------------------------------------- */

/* The sizes that a command line can ask for add up to more than 2^63. */
void orri_memory_add(int64_t *sum, double bytes)
{
    *sum = (double)*sum + bytes < 0x1p62 ? *sum + (int64_t)bytes : (int64_t)1 << 62;
}

enum pool { LENT, GRADIENTS, GRADIENTS_WITHIN, STATES };

static bool receives(const struct orr_model *model, const struct orri_parameter *parameter, enum pool pool)
{
    if (pool == LENT)
        return orri_place_of(parameter, model->rank) > 0 && orri_is_lent(model, parameter);
    return (pool != GRADIENTS_WITHIN && orri_received_over(model, parameter) > 0) ||
           (pool != STATES && orri_received_within(model, parameter) > 0);
}

static int pool_slots(const struct orr_model *model, int64_t count, enum pool pool)
{
    return pool == LENT ? orri_parameter_slots(model, count) : pool == STATES ? 2 : orri_gradient_slots(model, count);
}

/* Bytes of the slots for every size that is received. */
static double pool_bytes(const struct orr_model *model, enum pool pool)
{
    double bytes = 0;

    for (int p = 0; p < model->parameters; p++) {
        int64_t count = model->parameter[p]->count;
        bool first = receives(model, model->parameter[p], pool);
        for (int q = 0; q < p && first; q++)
            first = model->parameter[q]->count != count || !receives(model, model->parameter[q], pool);
        if (first)
            bytes += (double)count * (double)orr_dtype_size(pool == LENT ? model->dtype : ORR_F32) *
                     pool_slots(model, count, pool);
    }
    return bytes;
}

double orri_gradient_pool_bytes(const struct orr_model *model, bool over)
{
    return pool_bytes(model, over ? GRADIENTS : GRADIENTS_WITHIN);
}

double orri_state_pool_bytes(const struct orr_model *model, int states)
{
    return states * pool_bytes(model, STATES);
}

static void count_parameters(const struct orr_model *model, const struct orr_slots_options *o, int state_tiles,
                             struct orr_memory_need *need)
{
    for (int p = 0; p < model->parameters; p++) {
        const struct orri_parameter *parameter = model->parameter[p];
        double bytes = (double)parameter->count * sizeof(float);
        int place = orri_place_of(parameter, model->rank);
        if (place == 0 && orri_has_masters(model))
            orri_memory_add(&need->parameters, bytes);
        if (place == 0 || (place > 0 && !orri_is_lent(model, parameter)))
            orri_memory_add(&need->parameters, (double)parameter->count * (double)orr_dtype_size(model->dtype));
        if (place == 0 && o->training)
            orri_memory_add(&need->state, bytes * state_tiles);
    }
    orri_memory_add(&need->parameters, pool_bytes(model, LENT));
}

bool orri_keeps_copies(const struct orr_model *model, const struct orr_slots_options *o)
{
    return o->training && model->mesh.zero != 3 && orri_blocks_on_cpu();
}

/* Parameters that this rank reads of a block: of each shard that is here, of one replica for all or of each. */
static int read_here(const struct orr_model *model, const struct orr_block *block, bool own)
{
    int count = 0;

    for (int t = 0; t < model->mesh.tp; t++) {
        int replicas = 0;
        for (int d = 0; d < model->mesh.dp; d++)
            replicas += orri_place(block, d, t) == model->rank;
        count += own ? replicas : replicas > 0;
    }
    return count;
}

double orri_kept_need(const struct orr_model *model, const struct orr_slots_options *o, bool own)
{
    const struct orr_shape shape = {model->dtype, o->batch, o->seq, model->mesh.tp, false};
    double bytes = 0;

    if (!orri_keeps_copies(model, o))
        return 0;
    for (int l = 0; l < model->blocks; l++) {
        const struct orr_block *block = model->block[l];
        if (block->cls->kept_bytes)
            bytes += (double)block->cls->kept_bytes(block->config, &shape) * read_here(model, block, own);
    }
    return bytes;
}

void orri_memory_total(struct orr_memory_need *need)
{
    const int64_t parts[] = {need->parameters, need->gradients, need->state, need->slots, need->scratch, need->kept,
                             need->process};

    need->total = need->device = 0;
    for (size_t i = 0; i < ORRI_COUNT(parts); i++)
        orri_memory_add(&need->total, (double)parts[i]);
    if (orr_device_count() == 0)
        return;
    /* What has a home keeps it in main memory; gradients and slots are there only as far as devices have no room. */
    int64_t state = orri_update_worker(0) == ORRI_ON_CPU ? 0 : need->state;
    int64_t tiles = need->parameters + need->gradients + state + need->slots, room = 0;
    for (int d = 0; d < orr_device_count(); d++)
        orri_memory_add(&room, (double)orr_device_memory(d));
    int64_t spilled = tiles > room ? tiles - room : 0, homeless = need->gradients + need->slots;
    need->device = tiles - spilled;
    need->total -= homeless - (spilled < homeless ? spilled : homeless);
}

int orr_slots_memory(const struct orr_model *model, const struct orr_slots_options *o, int state_tiles, int rank,
                     struct orr_memory_need *need)
{
    struct orr_model there = *model;
    struct orr_slots slots = {.model = &there, .options = *o, .split = orr_slot_split(&o->policy), .counting = true};
    double most_scratch = 0;

    there.rank = rank;
    *need = (struct orr_memory_need){0};
    count_parameters(&there, o, state_tiles, need);
    int status = o->training ? make_gradients(&slots) : ORR_OK;
    orri_memory_add(&need->gradients, slots.bytes);
    slots.bytes = 0;
    if (status == 0)
        status = make_results(&slots);
    if (status == 0)
        status = make_predictions(&slots);
    if (status == 0)
        status = make_rings(&slots);
    orri_memory_add(&need->slots, slots.bytes);
    free_slots(&slots);
    for (int l = 0; l < model->blocks; l++) {
        double scratch = (double)scratch_of(model->block[l], o, false);
        bool here = false;
        for (int d = 0; d < model->mesh.dp && !here; d++)
            here = orri_stage_here(&there, d, model->block[l]->stage);
        most_scratch = here && scratch > most_scratch ? scratch : most_scratch;
    }
    if (orri_blocks_on_cpu())
        orri_memory_add(&need->scratch, most_scratch * (orr_worker_count() - orr_device_count()) +
                                            (ORRI_KERNEL_BYTES + (orri_onednn_vector_bits() ? 0.0 : BLAS_BYTES)) * orr_thread_count());
    orri_memory_add(&need->kept, orri_kept_need(&there, o, false));
    need->process = (int64_t)orr_memory_resident();
    orri_memory_total(need);
    return status;
}
