/* SPDX-License-Identifier: Apache-2.0 */
/* From a pass of a block to a task: which tiles it names, in which mode, is all that decides the graph. */
#include <limits.h>
#include <math.h>
#include <starpu.h>
#include <starpu_hash.h>
#include <stdio.h>
#include <string.h>

#include "graph/graph.h"

/* What a block's task carries. buffer[i] says which operand StarPU's buffer i is. */
struct task {
    const struct orr_block *block;
    const struct orr_slots *slots;
    enum orr_pass pass;
    struct orri_microbatch mb;
    int part;                                   /* number of the shard or chunk */
    bool first_gradient, first_result;
    bool add_input_gradient[ORR_MAX_INPUTS];
    struct {
        uint64_t version;                       /* of a group's parameters as they were submitted; 0: no copies are to be kept */
        const void *home;                       /* and where they lie */
    } read[ORR_MAX_GROUPS];
    struct orr_rows rows;
    int coming;
    starpu_data_handle_t come[ORR_MAX_GROUPS];  /* streamed tiles that the next task on this device takes */
    int buffers;
    struct {
        unsigned operand;
        int index;
        const struct orri_parameter *parameter;
    } buffer[ORRI_MAX_BUFFERS];                 /* the first `buffers` of them are copied */
};

/* Whole blocks, shards of them and chunks of the sequence differ in which tiles an operand is. */
enum kind { WHOLE, SHARD, CHUNK };

static const struct {
    const char *name;
    unsigned color;
    enum orri_priority priority;
    enum kind kind;
    enum orr_pass work;         /* whose operations it does a part of */
} passes[ORR_PASSES] = {
    [ORR_FORWARD] = {"F", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, WHOLE, ORR_FORWARD},
    [ORR_BACKWARD] = {"B", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, WHOLE, ORR_BACKWARD},
    [ORR_WEIGHTS] = {"W", ORRI_COLOR_WEIGHTS, ORRI_PRIORITY_WEIGHTS, WHOLE, ORR_WEIGHTS},
    [ORR_BOTH] = {"BW", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, WHOLE, ORR_BOTH},
    [ORR_WHOLE] = {"FBW", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, WHOLE, ORR_WHOLE},
    [ORR_PREDICT] = {"P", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, WHOLE, ORR_PREDICT},
    [ORR_CHUNK_FORWARD] = {"chunk_F", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, CHUNK, ORR_PASSES},
    [ORR_SHARD_FORWARD] = {"shard_F", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, SHARD, ORR_FORWARD},
    [ORR_CHUNK_JOIN] = {"join_F", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, CHUNK, ORR_PASSES},
    [ORR_SHARD_BACKWARD] = {"shard_B", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, SHARD, ORR_BACKWARD},
    [ORR_SHARD_WEIGHTS] = {"shard_W", ORRI_COLOR_WEIGHTS, ORRI_PRIORITY_WEIGHTS, SHARD, ORR_WEIGHTS},
    [ORR_SHARD_BOTH] = {"shard_BW", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, SHARD, ORR_BOTH},
    [ORR_CHUNK_BACKWARD] = {"chunk_B", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD, CHUNK, ORR_PASSES},
    [ORR_SHARD_PREDICT] = {"shard_P", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, SHARD, ORR_PREDICT},
    [ORR_CHUNK_PREDICT] = {"chunk_P", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD, CHUNK, ORR_PASSES},
};

/* ---- inside a task -------------------------------------------------------------------------------- */

/* `size` is the bytes of an element. */
static void decode_parameter(const struct orri_parameter *parameter, int group, char *flat, size_t size, struct orr_operands *out,
                             bool gradient)
{
    for (int v = 0; v < parameter->views; v++) {
        void *values = flat + parameter->view[v].offset * (int64_t)size;
        if (gradient)
            out->grad[group][parameter->number[v]] = values;
        else
            out->param[group][parameter->number[v]] = values;
    }
}

static struct orr_saved_size saved_size(const struct task *task)
{
    const struct orr_slots_options *o = &task->slots->options;
    bool chunk = passes[task->pass].kind == CHUNK;

    return chunk ? orri_chunk_saved_of(task->block, o, task->part) : orri_saved_of(task->block, o, task->part);
}

static void decode(const struct task *task, void *buffers[], struct orr_operands *out)
{
    const struct orr_slots *slots = task->slots;
    const struct orr_model *model = slots->model;
    enum kind kind = passes[task->pass].kind;

    *out = (struct orr_operands){
        .task = task,
        .config = task->block->config,
        .batch = slots->options.batch,
        .seq = slots->options.seq,
        .length = task->mb.length ? task->mb.length : slots->options.seq,
        .dtype = model->dtype,
        .training = slots->options.training,
        .first_gradient = task->first_gradient,
        .first_result = task->first_result,
        .seed = slots->options.seed,
        .step = (uint32_t)task->mb.step,
        .first_sample = task->mb.first_sample,
        .layer = task->block->layer,
        .source = task->block->spec.source,
        .shards = model->mesh.tp,
        .shard = kind == SHARD ? task->part : 0,
        .chunks = model->chunks,
        .chunk = kind == CHUNK ? task->part : 0,
        .rows = task->rows,
        .past = task->mb.cache ? &task->mb.cache->past : NULL,
    };
    memcpy(out->add_input_gradient, task->add_input_gradient, sizeof(out->add_input_gradient));
    for (int i = 0; i < task->buffers; i++) {
        size_t size = STARPU_VECTOR_GET_ELEMSIZE(buffers[i]);
        void *p = (void *)STARPU_VECTOR_GET_PTR(buffers[i]);
        int index = task->buffer[i].index;
        switch (task->buffer[i].operand) {
        case ORR_INPUT: out->x[index] = p; break;
        case ORR_OUTPUT: kind == SHARD ? (out->ys[index] = p) : (out->y = p); break;
        case ORR_OUTPUT_GRADIENT: kind == SHARD ? (out->dys[index] = p) : (out->dy = p); break;
        case ORR_INPUT_GRADIENT: out->dx[index] = p; break;
        case ORR_PARAMETERS:
            decode_parameter(task->buffer[i].parameter, index, p, size, out, false);
            /* What StarPU has copied elsewhere, to a device, it may give back at any time. */
            out->version[index] = p == task->read[index].home ? task->read[index].version : 0;
            break;
        case ORR_GRADIENTS: decode_parameter(task->buffer[i].parameter, index, p, size, out, true); break;
        case ORR_SAVEDS:
            out->saved = p;
            out->saved_values = out->saved + orri_saved_offset(saved_size(task));
            break;
        case ORR_IDS: out->ids = p; break;
        case ORR_PLACES: out->places = p; break;
        case ORR_TYPES: out->types = p; break;
        case ORR_SOURCE_PLACES: out->source_places = p; break;
        case ORR_LOSS_SCALE: out->loss_scale = p; break;
        case ORR_RESULT: out->result = p; break;
        case ORR_PREDICTION: out->prediction = p; break;
        case ORR_BRANCH: out->branch[index] = p; break;
        case ORR_PARTIAL: out->partial[index] = p; break;
        case ORR_PARTIAL_GRADIENT: out->dpartial[index] = p; break;
        case ORR_CACHE: out->page[index] = p; break;
        }
    }
}

/* ---- on a CPU -------------------------------------------------------------------------------------------- */

/* The two passes that one made by the engine consists of. */
static const struct {
    enum orr_pass first, second;
} both[ORR_PASSES] = {
    [ORR_BOTH] = {ORR_BACKWARD, ORR_WEIGHTS},
    [ORR_SHARD_BOTH] = {ORR_SHARD_BACKWARD, ORR_SHARD_WEIGHTS},
};

static bool is_both(enum orr_pass pass)
{
    return pass == ORR_BOTH || pass == ORR_SHARD_BOTH;
}

static void pass_cpu(void *buffers[], void *argument)
{
    const struct task *task = argument;
    const struct orr_block_class *cls = task->block->cls;
    struct orr_operands o;

    if (orri_model_stopped(task->slots->model, task->mb.run))
        return;
    decode(task, buffers, &o);
    if (o.result && o.first_result)
        *o.result = (struct orr_result){0};
    if (is_both(task->pass)) {
        cls->cpu[both[task->pass].first](&o);
        cls->cpu[both[task->pass].second](&o);
    } else {
        cls->cpu[task->pass](&o);
    }
}

/* ---- on a CUDA device --------------------------------------------------------------------------------- */

/* With what was too much for the device, as a rule: how much the task has there. */
static void device_fail(const struct task *task, void *buffers[], const struct orr_operands *o)
{
    char what[sizeof(o->cuda->what) + 64];
    double bytes = 0;

    for (int i = 0; i < task->buffers; i++)
        bytes += (double)STARPU_VECTOR_GET_NX(buffers[i]) * (double)STARPU_VECTOR_GET_ELEMSIZE(buffers[i]);
    snprintf(what, sizeof(what), "%s (with %.1f MiB of data)", o->cuda->what, bytes / 0x1p20);
    orr_task_fail(o, o->cuda->code, what);
}

static void pass_cuda(void *buffers[], void *argument)
{
    const struct task *task = argument;
    const struct orr_block_class *cls = task->block->cls;
    struct orr_operands o;

    if (orri_model_stopped(task->slots->model, task->mb.run))
        return;
    for (int i = 0; i < task->coming; i++)
        starpu_data_prefetch_on_node(task->come[i], orri_device_node(), 1);
    decode(task, buffers, &o);
    o.cuda = orri_device_here();
    if (is_both(task->pass)) {
        cls->cuda[both[task->pass].first](&o);
        cls->cuda[both[task->pass].second](&o);
    } else {
        cls->cuda[task->pass](&o);
    }
    if (o.cuda->code)
        device_fail(task, buffers, &o);
}

static bool has_cuda_pass(const struct orr_block_class *cls, enum orr_pass pass)
{
    return is_both(pass) ? cls->cuda[both[pass].first] && cls->cuda[both[pass].second] : cls->cuda[pass] != NULL;
}

/* Where the scheduler may run a pass. */
static uint32_t where(const struct orr_block_class *cls, enum orr_pass pass)
{
    if (!has_cuda_pass(cls, pass))
        return STARPU_CPU;
    return orri_blocks_on_cpu() ? STARPU_CPU | STARPU_CUDA : STARPU_CUDA;
}

void orr_task_fail(const struct orr_operands *o, int code, const char *what)
{
    const struct task *task = o->task;

    orri_model_fail(task->slots->model, task->mb.run, code, "%s of layer %d, microbatch %d, step %lld: %s",
                    task->block->cls->name, task->block->layer, task->mb.index, (long long)task->mb.step + 1, what);
}

struct orr_rng orr_dropout_stream(const struct orr_operands *o, int place)
{
    uint32_t layer = (uint32_t)o->layer + (o->source ? 1u << 28 : 0);

    return (struct orr_rng){o->seed, 8 * layer + (uint32_t)place, o->step};
}

static uint32_t shape_footprint(const struct orr_block *block, int batch, int seq)
{
    const struct orr_model *model = block->model;
    uint32_t hash = starpu_hash_crc32c_be_n(block->config, block->cls->config_size, 0);

    hash = starpu_hash_crc32c_be((uint32_t)batch, hash);
    hash = model->dtype == ORR_F32 ? hash : starpu_hash_crc32c_be((uint32_t)model->dtype, hash);
    hash = starpu_hash_crc32c_be((uint32_t)(model->mesh.tp << 8 | model->chunks), hash);
    return starpu_hash_crc32c_be((uint32_t)seq, hash);
}

static uint32_t footprint(struct starpu_task *starpu_task)
{
    const struct task *task = starpu_task->cl_arg;
    const struct orr_slots_options *o = &task->slots->options;

    return shape_footprint(task->block, o->batch, o->seq);
}

/* ---- codelets ------------------------------------------------------------------------------------- */

/* The codelets of a class, made when its first block is submitted and kept as long as the process:
 * StarPU holds on to performance models until it is shut down. */
struct codelets {
    struct codelets *next;
    const struct orr_block_class *cls;
    struct starpu_codelet codelet[ORR_PASSES];
    struct starpu_perfmodel model[ORR_PASSES];
    char name[ORR_PASSES][32], symbol[ORR_PASSES][40];
};

static pthread_mutex_t codelets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct codelets *codelets_list;

static struct codelets *codelets_make(const struct orr_block_class *cls)
{
    struct codelets *made = orri_calloc(1, sizeof(*made));

    if (!made)
        return NULL;
    made->cls = cls;
    for (int pass = 0; pass < ORR_PASSES; pass++) {
        snprintf(made->name[pass], sizeof(made->name[pass]), "%s_%s", cls->name, passes[pass].name);
        snprintf(made->symbol[pass], sizeof(made->symbol[pass]), "orrery_%s_%s", cls->name, passes[pass].name);
        made->model[pass] = (struct starpu_perfmodel){
            .type = STARPU_HISTORY_BASED, .symbol = made->symbol[pass], .footprint = footprint};
        made->codelet[pass] = (struct starpu_codelet){
            .where = where(cls, (enum orr_pass)pass),
            .cpu_funcs = {pass_cpu},
            .cuda_funcs = {pass_cuda},
            .cuda_flags = {STARPU_CUDA_ASYNC},
            .nbuffers = STARPU_VARIABLE_NBUFFERS,
            .model = &made->model[pass],
            .name = made->name[pass],
            .color = passes[pass].color,
        };
    }
    made->next = codelets_list;
    codelets_list = made;
    return made;
}

static struct starpu_codelet *codelet_of(const struct orr_block_class *cls, enum orr_pass pass)
{
    struct codelets *c;

    pthread_mutex_lock(&codelets_lock);
    for (c = codelets_list; c && c->cls != cls; c = c->next)
        ;
    if (!c)
        c = codelets_make(cls);
    pthread_mutex_unlock(&codelets_lock);
    return c ? &c->codelet[pass] : NULL;
}

bool orri_has_pass(const struct orr_block_class *cls, enum orr_pass pass)
{
    return is_both(pass) ? cls->cpu[both[pass].first] && cls->cpu[both[pass].second] : cls->cpu[pass] != NULL;
}

static unsigned operands_of(const struct orr_block_class *cls, enum orr_pass pass)
{
    return is_both(pass) ? cls->operands[both[pass].first] | cls->operands[both[pass].second] : cls->operands[pass];
}

/* ---- measured times ------------------------------------------------------------------------------- */

enum { SYMBOL = 40 };

/* A model that is not `benchmarking` would make StarPU measure from now on where it has too few measurements. */
static double measured_pass(const struct orr_block *block, enum orr_pass pass, int batch, int seq)
{
    struct starpu_perfmodel model = {.type = STARPU_HISTORY_BASED};
    char symbol[SYMBOL], path[PATH_MAX];
    double microseconds = NAN;

    snprintf(symbol, sizeof(symbol), "orrery_%s_%s", block->cls->name, passes[pass].name);
    starpu_perfmodel_get_model_path(symbol, path, sizeof(path));
    if (path[0] == '\0' || starpu_perfmodel_load_symbol(symbol, &model) != 0)
        return NAN;
    model.benchmarking = 1;
    int worker = starpu_worker_get_by_type(STARPU_CPU_WORKER, 0);
    if (worker >= 0)
        microseconds = starpu_perfmodel_history_based_expected_perf(
            &model, starpu_worker_get_perf_archtype(worker, STARPU_NMAX_SCHED_CTXS), shape_footprint(block, batch, seq));
    starpu_perfmodel_unload_model(&model);
    return microseconds;
}

/* A block has no time for the passes that it does not have. */
static double measured(const struct orr_block *block, enum orr_pass pass, int batch, int seq)
{
    return block->cls->cpu[pass] ? measured_pass(block, pass, batch, seq) : 0;
}

/* B and W have been measured apart or as one task, according to the slots then in use. */
static double measured_backward(const struct orr_block *block, enum orr_pass backward, enum orr_pass weights,
                                enum orr_pass together, int batch, int seq)
{
    double apart = measured(block, backward, batch, seq) + measured(block, weights, batch, seq);

    return isnan(apart) ? measured_pass(block, together, batch, seq) : apart;
}

double orri_measured_cost(const struct orr_block *block, int batch, int seq)
{
    const struct orr_model *model = block->model;

    if (model->mesh.tp > 1)
        return measured(block, ORR_SHARD_FORWARD, batch, seq) +
               measured_backward(block, ORR_SHARD_BACKWARD, ORR_SHARD_WEIGHTS, ORR_SHARD_BOTH, batch, seq) +
               (measured(block, ORR_CHUNK_FORWARD, batch, seq) + measured(block, ORR_CHUNK_JOIN, batch, seq) +
                measured(block, ORR_CHUNK_BACKWARD, batch, seq)) *
                   model->chunks / model->mesh.tp;
    double apart = measured(block, ORR_FORWARD, batch, seq) +
                   measured_backward(block, ORR_BACKWARD, ORR_WEIGHTS, ORR_BOTH, batch, seq);
    return isnan(apart) && block->cls->cpu[ORR_WHOLE] ? measured_pass(block, ORR_WHOLE, batch, seq) : apart;
}

static double flops_of(const struct orr_block *block, const struct orr_slots_options *o, enum orr_pass pass)
{
    enum orr_pass work = passes[pass].work;

    if (work == ORR_PASSES)
        return 0;
    if (work == ORR_BOTH)
        return flops_of(block, o, both[pass].first) + flops_of(block, o, both[pass].second);
    return block->cls->flops(block->config, o->batch, o->seq, work) / block->model->mesh.tp;
}

/* ---- the passes of a block ------------------------------------------------------------------------- */

/* The buffers of a block's task, collected operand by operand. */
struct list {
    struct orr_slots *slots;
    const struct orri_microbatch *mb;
    struct task *task;
    struct orri_buffer *buffer;                 /* [ORRI_MAX_BUFFERS] */
};

/* A tile that does not exist, because nothing would be in it, is left out. Where slots are only counted none exists. */
static void add(struct list *list, struct orr_tile *tile, unsigned operand, int index, int mode)
{
    if (!tile->handle && !list->slots->counting)
        return;
    int i = list->task->buffers++;

    list->task->buffer[i].operand = operand;
    list->task->buffer[i].index = index;
    list->buffer[i] = (struct orri_buffer){tile, mode};
}

static void add_all(struct list *list, struct orr_tile *tile, int count, int stride, unsigned operand, int mode)
{
    for (int i = 0; i < count; i++)
        add(list, &tile[i * stride], operand, i, mode);
}

/* The part of a group that a pass works on, or NULL. */
static struct orri_parameter *part_of(const struct orri_group *group, enum kind kind, int part)
{
    return kind != SHARD ? group->common : group->shard ? group->shard[part] : NULL;
}

/* W follows its B, which has brought the parameters. */
static int add_parameters(struct list *list, struct orr_block *block, enum orr_pass pass, int part, int at)
{
    struct orr_model *model = block->model;
    bool again = pass == ORR_WEIGHTS || pass == ORR_SHARD_WEIGHTS;

    for (int g = 0; g < block->spec.groups; g++) {
        struct orri_parameter *parameter = part_of(block->group[g], passes[pass].kind, part);
        if (!parameter)
            continue;
        bool own = parameter->own && list->slots->options.training;
        struct orr_tile *tile = own ? orri_own(parameter, list->mb->replica) : orri_shared(parameter);
        if (orri_is_lent(model, parameter)) {
            if (!again)
                block->lent[g] = orri_receive_submit(model, &model->values, tile, parameter->place[0], at, list->mb->run);
            tile = block->lent[g];
            if (!tile)
                return orr_error_code();
        }
        if (at != model->rank)
            continue;
        list->task->read[g].version = orri_keeps_copies(model, &list->slots->options) ? tile->version : 0;
        list->task->read[g].home = tile->home;
        list->task->buffer[list->task->buffers].parameter = parameter;
        add(list, tile, ORR_PARAMETERS, g, STARPU_R);
    }
    return ORR_OK;
}

static void add_gradients(struct list *list, const struct orr_block *block, enum orr_pass pass, int part)
{
    int dp = block->model->mesh.dp, mode = list->mb->turn == 0 ? STARPU_W : STARPU_RW;

    list->task->first_gradient = list->mb->turn == 0;
    for (int g = 0; g < block->spec.groups; g++) {
        struct orri_parameter *parameter = part_of(block->group[g], passes[pass].kind, part);
        if (!parameter)
            continue;
        int copy = parameter->copies > 1 ? part : 0;
        list->task->buffer[list->task->buffers].parameter = parameter;
        add(list, &parameter->gradient[(block->user[g] * dp + list->mb->replica) * parameter->copies + copy],
            ORR_GRADIENTS, g, mode);
    }
}

/* The gradient that a block writes for input i lies beside the value, in the slot of the block that wrote it. */
static void add_input_gradients(struct list *list, const struct orr_block *block, int chunk)
{
    for (int i = 0; i < block->inputs; i++) {
        const struct orr_block *writer = block->input[i];
        bool first = orri_tape_next_reader(writer, block->index) == NULL;
        list->task->add_input_gradient[i] = !first;
        add(list, &orri_cell_at(list->slots, list->mb, writer)->gradient[chunk], ORR_INPUT_GRADIENT, i,
            first ? STARPU_W : STARPU_RW);
    }
}

static int saved_mode(enum orr_pass pass)
{
    switch (pass) {
    case ORR_FORWARD:
    case ORR_CHUNK_FORWARD:
    case ORR_SHARD_FORWARD: return STARPU_W;
    case ORR_WEIGHTS:
    case ORR_SHARD_WEIGHTS: return STARPU_R;
    default: return STARPU_RW;
    }
}

static void add_shard_operands(struct list *list, const struct orr_block *block, enum orr_pass pass, unsigned operands, int t)
{
    struct orri_slot *slot = orri_slots_at(list->slots, list->mb, block->stage);
    struct orri_cell *cell = orri_cell_at(list->slots, list->mb, block);
    int chunks = block->model->chunks;

    if ((operands & ORR_LOSS_SCALE) && list->slots->loss_scale)
        add(list, list->slots->loss_scale, ORR_LOSS_SCALE, 0, STARPU_R);
    if (operands & ORR_BRANCH)
        add_all(list, cell->branch, chunks, 1, ORR_BRANCH, STARPU_R);
    if (operands & ORR_OUTPUT)
        add_all(list, cell->value, chunks, 1, ORR_OUTPUT, STARPU_R);
    if (operands & ORR_OUTPUT_GRADIENT)
        add_all(list, cell->gradient, chunks, 1, ORR_OUTPUT_GRADIENT, STARPU_R);
    if (operands & ORR_SAVEDS)
        add(list, &cell->saved[t], ORR_SAVEDS, 0, saved_mode(pass));
    if ((operands & ORR_PARTIAL) && pass == ORR_SHARD_PREDICT)
        add(list, &slot->part[t], ORR_PARTIAL, 0, STARPU_W);
    else if (operands & ORR_PARTIAL)
        add_all(list, cell->partial + t * chunks, chunks, 1, ORR_PARTIAL, STARPU_W);
    if (operands & ORR_PARTIAL_GRADIENT)
        add_all(list, cell->dpartial + t * chunks, chunks, 1, ORR_PARTIAL_GRADIENT, STARPU_W);
}

/* Of a whole block, whose only chunk is number 0, or of a chunk. */
static void add_chunk_operands(struct list *list, const struct orr_block *block, enum orr_pass pass, unsigned operands, int c)
{
    struct orri_slot *slot = orri_slots_at(list->slots, list->mb, block->stage);
    struct orri_cell *cell = orri_cell_at(list->slots, list->mb, block);
    int chunks = block->model->chunks, tp = block->model->mesh.tp;

    for (int i = 0; (operands & ORR_INPUT) && i < block->inputs; i++)
        add(list, &orri_cell_at(list->slots, list->mb, block->input[i])->value[c], ORR_INPUT, i, STARPU_R);
    if (operands & ORR_OUTPUT)
        add(list, &cell->value[c], ORR_OUTPUT, 0, STARPU_W);
    if (operands & ORR_OUTPUT_GRADIENT)
        add(list, &cell->gradient[c], ORR_OUTPUT_GRADIENT, 0, STARPU_R);
    if (operands & ORR_SAVEDS)
        add(list, tp > 1 ? &cell->chunk_saved[c] : &cell->saved[0], ORR_SAVEDS, 0, saved_mode(pass));
    if (operands & ORR_INPUT_GRADIENT)
        add_input_gradients(list, block, c);
    if ((operands & ORR_BRANCH) && pass == ORR_CHUNK_PREDICT)
        add_all(list, cell->branch, chunks, 1, ORR_BRANCH, STARPU_R);
    else if (operands & ORR_BRANCH)
        add(list, &cell->branch[c], ORR_BRANCH, 0, pass == ORR_CHUNK_FORWARD ? STARPU_W : STARPU_R);
    if ((operands & ORR_PARTIAL) && pass == ORR_CHUNK_PREDICT)
        add_all(list, slot->part, tp, 1, ORR_PARTIAL, STARPU_R);
    else if (operands & ORR_PARTIAL)
        add_all(list, cell->partial + c, tp, chunks, ORR_PARTIAL, STARPU_R);
    if (operands & ORR_PARTIAL_GRADIENT)
        add_all(list, cell->dpartial + c, tp, chunks, ORR_PARTIAL_GRADIENT, STARPU_R);
    if (operands & ORR_RESULT) {
        list->task->first_result = list->mb->turn == 0;
        add(list, orri_slots_result(list->slots, list->mb->step, list->mb->replica, c), ORR_RESULT, 0,
            list->mb->turn == 0 ? STARPU_W : STARPU_RW);
    }
    if ((operands & ORR_LOSS_SCALE) && list->slots->loss_scale)
        add(list, list->slots->loss_scale, ORR_LOSS_SCALE, 0, STARPU_R);
    if (operands & ORR_PREDICTION)
        add(list, &list->slots->prediction[list->mb->replica], ORR_PREDICTION, 0, STARPU_W);
}

static void come(struct task *task, const struct orr_tile *tile)
{
    if (tile->handle && tile->streamed)
        task->come[task->coming++] = tile->handle;
}

/* The next block of the stage, in the direction of the pass, will want its parameters. What it saved StarPU fetches when the task is
 * ready: of a tile that will be forgotten it refuses to be told earlier. */
static void list_coming(struct list *list, const struct orr_block *block, enum orr_pass pass, int part)
{
    const struct orr_model *model = block->model;
    bool forward = passes[pass].priority == ORRI_PRIORITY_FORWARD;
    int next = forward ? block->index + 1 : block->index - 1;

    if (next < model->first_block[block->stage] || next >= model->first_block[block->stage + 1] || passes[pass].kind == CHUNK)
        return;
    const struct orr_block *other = model->block[next];
    for (int g = 0; g < other->spec.groups; g++) {
        struct orri_parameter *parameter = part_of(other->group[g], passes[pass].kind, part);
        if (parameter && !orri_is_lent(model, parameter))
            come(list->task, parameter->own && list->slots->options.training ? orri_own(parameter, list->mb->replica)
                                                                             : orri_shared(parameter));
    }
}

/* The pages of positions before the microbatch and in it; it writes some of them. */
static void add_pages(struct list *list, const struct orr_block *block, int t)
{
    const struct orri_cache *cache = list->mb->cache;

    add_all(list, orri_cache_pages(cache, block, t), cache->pages, 1, ORR_CACHE, STARPU_RW);
}

/* All operands but parameters and their gradients. */
static void add_values(struct list *list, const struct orr_block *block, enum orr_pass pass, int part)
{
    struct orri_slot *slot = orri_slots_at(list->slots, list->mb, block->stage);
    unsigned operands = operands_of(block->cls, pass);

    for (size_t i = 0; i < ORRI_COUNT(orri_field_operands); i++) {
        enum orr_operand operand = orri_field_operands[i];
        if ((operands & operand) && orri_has_field(block->model, operand))
            add(list, &slot->field[orri_field_of(block, operand)][part], operand, 0, STARPU_R);
    }
    if ((operands & ORR_CACHE) && list->mb->cache)
        add_pages(list, block, part);
    if (passes[pass].kind == SHARD)
        add_shard_operands(list, block, pass, operands, part);
    else
        add_chunk_operands(list, block, pass, operands, part);
}

int orri_pass_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block,
                       enum orr_pass pass, int part, struct orr_rows rows)
{
    const struct orr_block_class *cls = block->cls;
    unsigned operands = operands_of(cls, pass);
    struct task task;
    struct orri_buffer buffer[ORRI_MAX_BUFFERS];
    struct list list = {slots, mb, &task, buffer};
    int at = orri_place(block, mb->replica, part);

    if (!orri_has_pass(cls, pass))
        return ORR_OK;
    ORR_TRY(orri_model_check(slots->model));
    if (at != slots->model->rank && slots->model->mesh.zero != 3)
        return ORR_OK;
    memset(&task, 0, offsetof(struct task, buffer));
    task.block = block;
    task.slots = slots;
    task.pass = pass;
    task.mb = *mb;
    task.part = part;
    task.rows = rows;
    if (operands & ORR_PARAMETERS)
        ORR_TRY(add_parameters(&list, block, pass, part, at));
    if (at != slots->model->rank)
        return ORR_OK;
    struct starpu_codelet *codelet = codelet_of(cls, pass);
    if (!codelet)
        return ORR_ENOMEM;
    add_values(&list, block, pass, part);
    if (operands & ORR_GRADIENTS)
        add_gradients(&list, block, pass, part);
    size_t size = offsetof(struct task, buffer) + (size_t)task.buffers * sizeof(task.buffer[0]);
    list_coming(&list, block, pass, part);
    int worker = has_cuda_pass(cls, pass) ? orri_home_worker(slots->model, mb->replica, block->stage, part) : ORRI_ANYWHERE;
    return orri_pass_task_submit(slots->model, codelet, worker, task.buffers, buffer, &task, size, passes[pass].priority,
                                 block->layer, mb->index, flops_of(block, &slots->options, pass),
                                 slots->model->busy ? &slots->model->busy[mb->replica] : NULL);
}
