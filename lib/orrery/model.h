/* SPDX-License-Identifier: Apache-2.0 */
/* A model: blocks on a tape, their parameters, and where they live. */
#ifndef ORRERY_MODEL_H
#define ORRERY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <orrery/block.h>
#include <orrery/mesh.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_model;

/* What a parameter is called in files: the block's name and the view's ("attention.qkv.weight"), and the
 * name in model.safetensors, where %d is the layer ("transformer.h.%d.attn.c_attn.weight"). Of a block of an encoder the former begins
 * with "source.". */
struct orr_parameter_name {
    const char *view;
    const char *file;
};

/* An empty model on a mesh. The blocks are appended next (models/gpt2.h), then orr_model_build() is
 * called once. orr_init() comes first. */
struct orr_model *orr_model_create(const struct orr_mesh *mesh);
void orr_model_destroy(struct orr_model *model);

/* The element type that the model computes in: ORR_F32, which it is without this call, ORR_BF16 or ORR_F16 (mixed precision:
 * Micikevicius et al. 2018). Values and what blocks read of parameters have it; the owner of a parameter keeps it in fp32 and
 * rounds it for the others, to the nearest and even, and gradients are summed up in fp32. What is read, written, loaded and saved
 * is the fp32 parameter. Before orr_model_build(). ORR_EINVAL. */
int orr_model_set_dtype(struct orr_model *model, enum orr_dtype dtype);
enum orr_dtype orr_model_dtype(const struct orr_model *model);

/* Rows of the model's microbatches may hold several sequences, one behind the other, none of which sees another: ORR_FIELD_PLACES
 * tells them apart. Without this call a row is one sequence. Before orr_model_build(). */
void orr_model_pack(struct orr_model *model);

/* The model will be run forward only: what blocks read is then all that is kept of a parameter, in bf16 and fp16 two bytes an
 * element and never the four of the fp32 one, which is rounded as it is drawn, loaded or written. Between orr_model_build() and
 * what allocates the parameters: ORR_EINVAL, which training and orr_weights_save() return from then on, in any dtype. */
int orr_model_freeze(struct orr_model *model);

/* The model will be trained in bf16 without fp32 masters (Zamirai et al. 2020): a parameter is kept in two bytes an element, and an
 * update rounds it up or down at random, the nearer the likelier, so that what is too small for bf16 is not lost in the mean
 * over steps. The words of the random numbers follow from the seed, the parameter and the step. Called as orr_model_freeze().
 * ORR_EINVAL, in another dtype too. */
int orr_model_drop_masters(struct orr_model *model);

/* How the files of a model may differ from what orr_model_build() is told: what names may leave out, and tensors, by patterns of
 * fnmatch(3) ended by NULL, that are no parameters and are passed over. The copy that files have of a tied parameter is passed over
 * in any case: a tensor lm_head.weight. Static. */
struct orr_file_rules {
    const char *prefix;
    const char *const *ignored;
};
void orr_model_set_file_rules(struct orr_model *model, const struct orr_file_rules *rules);

/* The blocks of the tape in order, borrowed: what orr_block_share() and orr_block_append_inputs() name. */
int orr_model_block_count(const struct orr_model *model);
struct orr_block *orr_model_block(struct orr_model *model, int index);

/* Ends the description: cuts the tape into stages such that the dearest is as cheap as possible, and chooses owners. The
 * cost of a block is its time, where StarPU's performance models have been measured for all blocks and the mesh's batch and
 * seq, else its floating-point operations. Collective among the mesh's ranks. names[] (static) gives every parameter its
 * name in files; where names is NULL it is BLOCK.LAYER.VIEW ("attention.0.qkv.weight"). Errors: ORR_EINVAL for a mesh that
 * this model or this version cannot have, for a parameter without a name and for a block that computes in fp32 alone in a model
 * of another dtype, ORR_ENOMEM. */
int orr_model_build(struct orr_model *model, const struct orr_parameter_name *names, int count);

/* A pipeline stage of a built model: its blocks, which follow each other on the tape, and its share of the cost by which
 * the tape was cut: measured times of all blocks, or floating-point operations of all. ORR_EINVAL: no such stage. */
struct orr_stage_info {
    int first, count;
    double share;
    bool measured;
};
int orr_model_stage(const struct orr_model *model, int stage, struct orr_stage_info *info);

/* Allocates the parameters, zeroed, where that has not been done: what follows and orr_weights_load() call it. Between
 * orr_model_build() and here the memory that a run needs can be asked for without using any. ORR_ENOMEM. */
int orr_model_allocate(struct orr_model *model);

/* Draws every parameter as its block says, from Philox streams named by parameter and element, so that
 * the values depend on the seed alone. Done by tasks, a group of parameters each: what reads them waits for it. */
int orr_model_randomize(struct orr_model *model, uint64_t seed);

/* One named parameter of a built model. */
struct orr_parameter_info {
    const char *name;           /* in files; lives as long as the model     */
    int ndim;
    int64_t shape[2];
    int64_t count;              /* elements                                 */
};

int orr_model_parameter_count(const struct orr_model *model);
void orr_model_parameter(const struct orr_model *model, int index, struct orr_parameter_info *info);
/* The index of a name, or -1. */
int orr_model_find(const struct orr_model *model, const char *name);

/* Copies a parameter to or from `values` [count] fp32; of a frozen model what was rounded. Waits for the tasks that change it. */
int orr_model_read(struct orr_model *model, int index, float *values);
int orr_model_write(struct orr_model *model, int index, const float *values);

/* Scalars of all parameters, tied ones counted once. */
int64_t orr_model_size(const struct orr_model *model);

/* The mesh given at creation. */
const struct orr_mesh *orr_model_mesh(const struct orr_model *model);

/* 0, or the code of the task that failed, with its message in orr_error(). Any thread. */
int orr_model_status(const struct orr_model *model);

/* ---- running microbatches --------------------------------------------------------------------- */

/* Where microbatches come from. read() fills field[f] (enum orr_field), each [count, seq], of the sequences with global numbers
 * first .. first + count - 1: tokens and labels, and, where the model has a use for others, these, which hold places 0 .. seq - 1 and
 * zeros before; what nobody reads may be any memory. It is called from tasks, possibly several at once. */
struct orr_source {
    void (*read)(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS]);
    void *self;
};

/* The storage for microbatches in flight: for every replica and stage a ring of slots, which bounds the
 * memory and is the pipeline schedule. Gradient tiles too when training. */
struct orr_slots;

struct orr_slots_options {
    int batch, seq;                     /* shape of a microbatch: [batch, seq]                       */
    int microbatches;                   /* per step, all replicas together                           */
    struct orr_slot_policy policy;
    bool training;
    int64_t predict_floats;             /* room for what ORR_PREDICT writes: rows x (vocabulary + width); 0: none */
    uint64_t seed;                      /* of dropout                                                 */
};
/* NULL: ORR_EINVAL where a block takes no sequences of this length, ORR_ENOMEM. */
struct orr_slots *orr_slots_create(struct orr_model *model, const struct orr_slots_options *options);
void orr_slots_destroy(struct orr_slots *slots);

/* Bytes that rank `rank` of the model's mesh needs with these options: parameters + gradients + optimizer state
 * (state_tiles times the parameters that it updates) + slots + scratch of the workers, with that of their BLAS and their
 * copies in fp32 of what is in another dtype, + what passes in training keep copies of parameters in (struct orr_block_class)
 * + what this process has already (libraries, data, the runtime), which stands for that rank's. Of a built model, before it is
 * allocated. ORR_ENOMEM. */
struct orr_memory_need {
    int64_t parameters, gradients, state, slots, scratch, kept, process, total;
    int64_t device;         /* with CUDA devices, of `total` nothing: what tiles take there, as far as there is room */
};
int orr_slots_memory(const struct orr_model *model, const struct orr_slots_options *options, int state_tiles, int rank,
                     struct orr_memory_need *need);

/* Bytes that rank `rank` needs to continue `sequences` sequences of `positions` tokens, of which each `together` are on one replica:
 * what its blocks keep of them (struct orr_past). Of a built model. */
int64_t orr_cache_memory(const struct orr_model *model, int sequences, int together, int positions, int rank);

/* The model's floating-point operations for one token of a sequence of seq tokens, forward and backward, as
 * the PaLM paper counts (Chowdhery et al. 2022, appendix B): 6 x parameters + 12 x layers x width x T. */
double orr_model_flops_per_token(const struct orr_model *model, int layers, int width, int seq);

#ifdef __cplusplus
}
#endif
#endif
