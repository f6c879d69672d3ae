/* SPDX-License-Identifier: Apache-2.0 */
/* From block passes to StarPU tasks: which tiles a task names, in which mode, is all that decides the graph. */
#include <starpu.h>
#include <starpu_hash.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

/* What a block's task carries. buffer[i] says which operand StarPU's buffer i is. */
struct task {
    const struct orr_block *block;
    const struct orr_slots *slots;
    enum orr_pass pass;
    struct orri_microbatch mb;
    bool first_gradient, first_result;
    bool add_input_gradient[ORR_MAX_INPUTS];
    struct orr_rows rows;
    int buffers;
    struct {
        unsigned operand;
        int index;
    } buffer[ORRI_MAX_BUFFERS];
};

/* ---- inside a task -------------------------------------------------------------------------------- */

static void decode(const struct task *task, void *buffers[], struct orr_operands *out)
{
    const struct orr_slots *slots = task->slots;

    *out = (struct orr_operands){
        .task = task,
        .config = task->block->config,
        .batch = slots->options.batch,
        .seq = slots->options.seq,
        .training = slots->options.training,
        .first_gradient = task->first_gradient,
        .seed = slots->options.seed,
        .step = (uint32_t)task->mb.step,
        .first_sample = task->mb.first_sample,
        .layer = task->block->layer,
        .rows = task->rows,
    };
    memcpy(out->add_input_gradient, task->add_input_gradient, sizeof(out->add_input_gradient));
    for (int i = 0; i < task->buffers; i++) {
        void *p = (void *)STARPU_VECTOR_GET_PTR(buffers[i]);
        int index = task->buffer[i].index;
        switch (task->buffer[i].operand) {
        case ORR_INPUT: out->x[index] = p; break;
        case ORR_OUTPUT: out->y = p; break;
        case ORR_OUTPUT_GRADIENT: out->dy = p; break;
        case ORR_INPUT_GRADIENT: out->dx[index] = p; break;
        case ORR_PARAMETERS: out->param[index] = p; break;
        case ORR_GRADIENTS: out->grad[index] = p; break;
        case ORR_SAVEDS: out->saved = p; break;
        case ORR_IDS: out->ids = p; break;
        case ORR_RESULT: out->result = p; break;
        case ORR_PREDICTION: out->prediction = p; break;
        }
    }
    if (out->result && task->first_result)
        *out->result = (struct orr_result){0};
}

static void pass_cpu(void *buffers[], void *argument)
{
    const struct task *task = argument;
    const struct orr_block_class *cls = task->block->cls;
    struct orr_operands o;

    if (orri_model_stopped(task->slots->model, task->mb.run))
        return;
    decode(task, buffers, &o);
    if (task->pass == ORR_BOTH) {
        cls->cpu[ORR_BACKWARD](&o);
        cls->cpu[ORR_WEIGHTS](&o);
    } else {
        cls->cpu[task->pass](&o);
    }
}

void orr_task_fail(const struct orr_operands *o, int code, const char *what)
{
    const struct task *task = o->task;

    orri_model_fail(task->slots->model, task->mb.run, code, "%s of layer %d, microbatch %d, step %lld: %s",
                    task->block->cls->name, task->block->layer, task->mb.index, (long long)task->mb.step + 1, what);
}

struct orr_rng orr_dropout_stream(const struct orr_operands *o, int place)
{
    return (struct orr_rng){o->seed, (uint32_t)(8 * o->layer + place), o->step};
}

static uint32_t footprint(struct starpu_task *starpu_task)
{
    const struct task *task = starpu_task->cl_arg;
    const struct orr_slots_options *o = &task->slots->options;
    uint32_t hash = starpu_hash_crc32c_be_n(task->block->config, task->block->cls->config_size, 0);

    hash = starpu_hash_crc32c_be((uint32_t)o->batch, hash);
    return starpu_hash_crc32c_be((uint32_t)o->seq, hash);
}

/* ---- codelets ------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned color;
    enum orri_priority priority;
} passes[ORR_PASSES] = {
    [ORR_FORWARD] = {"F", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD},
    [ORR_BACKWARD] = {"B", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD},
    [ORR_WEIGHTS] = {"W", ORRI_COLOR_WEIGHTS, ORRI_PRIORITY_WEIGHTS},
    [ORR_BOTH] = {"BW", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD},
    [ORR_WHOLE] = {"FBW", ORRI_COLOR_BACKWARD, ORRI_PRIORITY_BACKWARD},
    [ORR_PREDICT] = {"P", ORRI_COLOR_FORWARD, ORRI_PRIORITY_FORWARD},
};

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
            .cpu_funcs = {pass_cpu},
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

static bool has_pass(const struct orr_block_class *cls, enum orr_pass pass)
{
    return pass == ORR_BOTH ? cls->cpu[ORR_BACKWARD] && cls->cpu[ORR_WEIGHTS] : cls->cpu[pass] != NULL;
}

static unsigned operands_of(const struct orr_block_class *cls, enum orr_pass pass)
{
    return pass == ORR_BOTH ? cls->operands[ORR_BACKWARD] | cls->operands[ORR_WEIGHTS] : cls->operands[pass];
}

static double flops_of(const struct orr_block *block, const struct orr_slots_options *o, enum orr_pass pass)
{
    if (pass == ORR_BOTH)
        return flops_of(block, o, ORR_BACKWARD) + flops_of(block, o, ORR_WEIGHTS);
    return block->cls->flops(block->config, o->batch, o->seq, pass);
}

/* ---- priorities ----------------------------------------------------------------------------------- */

/* Classes first, then the earlier microbatch. Larger is more urgent. */
static int priority_of(enum orri_priority class, int order)
{
    return ((int)class + 1) * (1 << 20) - (order < 1 << 20 ? order : (1 << 20) - 1);
}

/* ---- submitting ----------------------------------------------------------------------------------- */

static int submit(struct orr_model *model, struct starpu_task *task, int buffers, struct starpu_codelet *codelet)
{
    task->cl = codelet;
    if (codelet->nbuffers == STARPU_VARIABLE_NBUFFERS)
        task->nbuffers = buffers;
    int status = starpu_task_submit(task);
    if (status != 0) {
        task->destroy = 0;
        starpu_task_destroy(task);
        return orri_fail(ORR_EDEVICE, "StarPU", "a task of codelet '%s' was refused: %s", codelet->name,
                         strerror(-status));
    }
    model->tasks++;
    return ORR_OK;
}

/* StarPU keeps up to STARPU_NMAXBUFS buffers inside the task and more of them beside it. */
static int set_buffers(struct starpu_task *task, int buffers, const struct orri_buffer *buffer)
{
    starpu_data_handle_t *handles = task->handles;
    enum starpu_data_access_mode *modes = task->modes;

    if (buffers > STARPU_NMAXBUFS) {
        handles = task->dyn_handles = malloc((size_t)buffers * sizeof(*handles));
        modes = task->dyn_modes = malloc((size_t)buffers * sizeof(*modes));
        if (!handles || !modes)
            return orri_fail(ORR_ENOMEM, "StarPU", "no room for a task of %d buffers", buffers);
    }
    for (int i = 0; i < buffers; i++) {
        handles[i] = buffer[i].tile->handle;
        modes[i] = (enum starpu_data_access_mode)buffer[i].mode;
    }
    return ORR_OK;
}

int orri_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int buffers,
                     const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                     enum orri_priority priority, int order, double flops)
{
    struct starpu_task *task = starpu_task_create();
    void *copy = orri_alloc(argument_size);

    if (!task || !copy || set_buffers(task, buffers, buffer) != 0) {
        free(copy);
        if (task)
            starpu_task_destroy(task);
        return ORR_ENOMEM;
    }
    memcpy(copy, argument, argument_size);
    task->cl_arg = copy;
    task->cl_arg_size = argument_size;
    task->cl_arg_free = 1;
    task->priority = priority_of(priority, order);
    task->flops = flops;
    return submit(model, task, buffers, codelet);
}

/* The buffers of a block's task, collected operand by operand. */
struct list {
    struct task *task;
    struct orri_buffer buffer[ORRI_MAX_BUFFERS];
};

static void add(struct list *list, struct orr_tile *tile, unsigned operand, int index, int mode)
{
    int i = list->task->buffers++;

    list->task->buffer[i].operand = operand;
    list->task->buffer[i].index = index;
    list->buffer[i] = (struct orri_buffer){tile, mode};
}

/* A step's first microbatch on a replica overwrites what the later ones add to. */
static bool first_of_replica(const struct orr_model *model, const struct orri_microbatch *mb)
{
    return mb->index < model->mesh.dp;
}

static void add_gradients(struct list *list, const struct orr_block *block, const struct orri_microbatch *mb)
{
    const struct orr_mesh *mesh = &block->model->mesh;
    bool first = first_of_replica(block->model, mb);

    list->task->first_gradient = first;
    for (int g = 0; g < block->spec.groups; g++)
        add(list, &block->parameter[g]->gradient[block->user[g] * mesh->dp + orr_mesh_replica(mesh, mb->index)],
            ORR_GRADIENTS, g, first ? STARPU_W : STARPU_RW);
}

static void add_result(struct list *list, struct orr_slots *slots, const struct orri_microbatch *mb)
{
    bool first = first_of_replica(slots->model, mb);

    list->task->first_result = first;
    add(list, orri_slots_result(slots, mb->step, orr_mesh_replica(&slots->model->mesh, mb->index)), ORR_RESULT, 0,
        first ? STARPU_W : STARPU_RW);
}

/* The gradient that a block writes for input i lies beside the value, in the slot of the block that wrote it. */
static void add_input_gradients(struct list *list, struct orr_slots *slots, const struct orri_microbatch *mb,
                                const struct orr_block *block)
{
    for (int i = 0; i < block->inputs; i++) {
        const struct orr_block *writer = block->input[i];
        bool first = orri_tape_first_gradient(block, i);
        list->task->add_input_gradient[i] = !first;
        add(list, &orri_slots_at(slots, mb->index, writer->stage)->gradient[writer->index], ORR_INPUT_GRADIENT, i,
            first ? STARPU_W : STARPU_RW);
    }
}

static int saved_mode(enum orr_pass pass)
{
    return pass == ORR_FORWARD ? STARPU_W : pass == ORR_BACKWARD || pass == ORR_BOTH ? STARPU_RW : STARPU_R;
}

static int pass_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block,
                       enum orr_pass pass, struct orr_rows rows)
{
    const struct orr_slots_options *o = &slots->options;
    unsigned operands = operands_of(block->cls, pass);
    struct starpu_codelet *codelet = codelet_of(block->cls, pass);
    struct orri_slot *slot = orri_slots_at(slots, mb->index, block->stage);
    struct task task = {.block = block, .slots = slots, .pass = pass, .mb = *mb, .rows = rows};
    struct list list = {.task = &task};

    ORR_TRY(orr_model_status(slots->model));
    if (!codelet)
        return ORR_ENOMEM;
    if (operands & ORR_IDS)
        add(&list, block->cls->is_loss ? &slot->labels : &slot->ids, ORR_IDS, 0, STARPU_R);
    if (operands & ORR_INPUT)
        for (int i = 0; i < block->inputs; i++)
            add(&list, &orri_slots_at(slots, mb->index, block->input[i]->stage)->value[block->input[i]->index],
                ORR_INPUT, i, STARPU_R);
    if (operands & ORR_PARAMETERS)
        for (int g = 0; g < block->spec.groups; g++)
            add(&list, &block->parameter[g]->value, ORR_PARAMETERS, g, STARPU_R);
    if (operands & ORR_OUTPUT)
        add(&list, &slot->value[block->index], ORR_OUTPUT, 0, STARPU_W);
    if (operands & ORR_OUTPUT_GRADIENT)
        add(&list, &slot->gradient[block->index], ORR_OUTPUT_GRADIENT, 0, STARPU_R);
    if ((operands & ORR_SAVEDS) && slot->saved[block->index].handle)
        add(&list, &slot->saved[block->index], ORR_SAVEDS, 0, saved_mode(pass));
    if (operands & ORR_INPUT_GRADIENT)
        add_input_gradients(&list, slots, mb, block);
    if (operands & ORR_GRADIENTS)
        add_gradients(&list, block, mb);
    if (operands & ORR_RESULT)
        add_result(&list, slots, mb);
    if (operands & ORR_PREDICTION)
        add(&list, &slot->prediction, ORR_PREDICTION, 0, STARPU_W);
    return orri_task_submit(slots->model, codelet, task.buffers, list.buffer, &task, sizeof(task),
                            passes[pass].priority, mb->index, flops_of(block, o, pass));
}

static const struct orr_rows no_rows;

int orri_forward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    return pass_submit(slots, mb, block, orri_runs_whole(&slots->options, block) ? ORR_WHOLE : ORR_FORWARD, no_rows);
}

int orri_predict_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block,
                        struct orr_rows rows)
{
    return pass_submit(slots, mb, block, ORR_PREDICT, rows);
}

int orri_backward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block)
{
    struct orri_slot *slot = orri_slots_at(slots, mb->index, block->stage);

    if (orri_runs_whole(&slots->options, block)) {
        /* done with the forward pass */
    } else if (!slots->split && has_pass(block->cls, ORR_BOTH)) {
        ORR_TRY(pass_submit(slots, mb, block, ORR_BOTH, no_rows));
    } else {
        if (has_pass(block->cls, ORR_BACKWARD))
            ORR_TRY(pass_submit(slots, mb, block, ORR_BACKWARD, no_rows));
        if (has_pass(block->cls, ORR_WEIGHTS))
            ORR_TRY(pass_submit(slots, mb, block, ORR_WEIGHTS, no_rows));
    }
    /* Every reader of these has been submitted: the blocks after this one, and this one. */
    if (slot->saved[block->index].handle && !orri_runs_whole(&slots->options, block))
        orr_tile_invalidate_submit(&slot->saved[block->index]);
    if (slot->gradient[block->index].handle) {
        orr_tile_invalidate_submit(&slot->gradient[block->index]);
        orr_tile_invalidate_submit(&slot->value[block->index]);
    }
    return ORR_OK;
}

/* ---- input ---------------------------------------------------------------------------------------- */

struct input {
    struct orr_source source;
    uint64_t first;
    int batch, seq;
    const struct orr_model *model;
    int64_t run;
};

static void input_cpu(void *buffers[], void *argument)
{
    const struct input *input = argument;

    if (orri_model_stopped(input->model, input->run))
        return;
    input->source.read(input->source.self, input->first, input->batch, input->seq,
                       (int32_t *)STARPU_VECTOR_GET_PTR(buffers[0]), (int32_t *)STARPU_VECTOR_GET_PTR(buffers[1]));
}

static struct starpu_codelet input_codelet = {
    .cpu_funcs = {input_cpu},
    .nbuffers = 2,
    .modes = {STARPU_W, STARPU_W},
    .name = "input",
    .color = ORRI_COLOR_OTHER,
};

static void labels_cpu(void *buffers[], void *argument)
{
    const struct input *input = argument;

    if (!orri_model_stopped(input->model, input->run))
        memcpy((void *)STARPU_VECTOR_GET_PTR(buffers[1]), (void *)STARPU_VECTOR_GET_PTR(buffers[0]),
               (size_t)input->batch * (size_t)input->seq * sizeof(int32_t));
}

static struct starpu_codelet labels_codelet = {
    .cpu_funcs = {labels_cpu},
    .nbuffers = 2,
    .modes = {STARPU_R, STARPU_W},
    .name = "labels",
    .color = ORRI_COLOR_OTHER,
};

/* The last stage has fewer slots than the first. Tokens must not wait for one there, so the labels wait in a tile
 * of their own. */
int orri_input_submit(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_source *source,
                      uint64_t first)
{
    struct orr_model *model = slots->model;
    struct input input = {*source, first, slots->options.batch, slots->options.seq, model, mb->run};
    struct orri_slot *begin = orri_slots_at(slots, mb->index, 0);
    struct orri_slot *end = orri_slots_at(slots, mb->index, model->mesh.pp - 1);
    struct orri_buffer read[] = {{&begin->ids, STARPU_W}, {&begin->labels, STARPU_W}};
    struct orri_buffer pass_on[] = {{&begin->labels, STARPU_R}, {&end->labels, STARPU_W}};

    ORR_TRY(orr_model_status(model));
    ORR_TRY(orri_task_submit(model, &input_codelet, 2, read, &input, sizeof(input), ORRI_PRIORITY_UPDATE, mb->index,
                             0));
    if (begin == end)
        return ORR_OK;
    return orri_task_submit(model, &labels_codelet, 2, pass_on, &input, sizeof(input), ORRI_PRIORITY_UPDATE,
                            mb->index, 0);
}
