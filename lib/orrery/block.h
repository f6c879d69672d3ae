/* SPDX-License-Identifier: Apache-2.0 */
/* The block class: what a room in codelets/ tells the engine about its block.
 *
 * A block is one differentiable unit of a layer. The engine knows it by a table: what parameters it
 * has, how much it saves for its backward pass, what it costs, and one function per pass with the operands
 * that the pass takes. The engine makes a StarPU codelet of each pass, with a performance model, and
 * from the operands StarPU derives the task graph. A block itself knows nothing of StarPU. */
#ifndef ORRERY_BLOCK_H
#define ORRERY_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/cuda.h>
#include <orrery/dtype.h>
#include <orrery/mesh.h>
#include <orrery/rng.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_block;
struct orr_operands;
struct orr_model;

/* A model computes in one element type, its dtype: fp32, bf16 or fp16 (mixed precision: Micikevicius et al. 2018). Values,
 * their gradients and what blocks read of parameters have elements of it; what is summed up (gradients of parameters,
 * results, the parts of a loss) and what the optimizer keeps is fp32 always. */

enum {
    ORR_MAX_INPUTS = 2,     /* values that a block reads                  */
    ORR_MAX_GROUPS = 2,     /* parameter groups of a block                */
    ORR_MAX_VIEWS = 16,     /* named parameters of a group                */
    ORR_MAX_SHARDS = 64,    /* that tensor parallelism cuts a block into  */
    ORR_MAX_PAGES = 64      /* of a cache                                 */
};

/* The tasks that a block can have.
 *
 * A block is whole or, with tensor parallelism, cut into shards, which share its matrices: by heads, columns, rows of the
 * vocabulary. What the shards need lies in the branch, what each contributes in partial outputs. The residual stream and
 * all that is done once (norms, dropout, sums) is cut into chunks of the sequence; with one chunk that is no cut at all.
 * The way of a block in shards (Megatron-LM: Shoeybi et al. 2019; with chunks: Korthikanti et al. 2022) is
 *
 *     per chunk  branch[c] = f(x[c])                  CHUNK_FORWARD, where a block has one
 *     per shard  partial[t][c] = part of g(branch)    SHARD_FORWARD, from all chunks to all chunks
 *     per chunk  y[c] = h(x[c], sum_t partial[t][c])  CHUNK_JOIN
 *
 * and back in the opposite order. */
enum orr_pass {
    ORR_FORWARD,        /* F: output from inputs; the loss block: loss from inputs and labels              */
    ORR_BACKWARD,       /* B: gradient of the inputs from the gradient of the output                       */
    ORR_WEIGHTS,        /* W: adds to the gradients of the parameters                                       */
    ORR_BOTH,           /* B, then W, in one task, for schedules that do not split them; made by the engine */
    ORR_WHOLE,          /* the loss block's F, B and W in one task, which spares it computing the logits twice */
    ORR_PREDICT,        /* the loss block without labels: its predictions                                   */
    ORR_CHUNK_FORWARD,  /* the branch of a chunk from its input                                              */
    ORR_SHARD_FORWARD,  /* the shard's partial outputs                                                       */
    ORR_CHUNK_JOIN,     /* output of a chunk from input and partial outputs; the loss block: the loss        */
    ORR_SHARD_BACKWARD, /* the shard's partial gradients of the branch                                       */
    ORR_SHARD_WEIGHTS,  /* adds to the gradients of the shard's parameters                                   */
    ORR_SHARD_BOTH,     /* these two in one task; made by the engine                                         */
    ORR_CHUNK_BACKWARD, /* gradient of a chunk's input from the partial gradients, and those of the parameters that all
                           shards share                                                                      */
    ORR_SHARD_PREDICT,  /* the loss block: the shard's part of the predictions, into partial[t]              */
    ORR_CHUNK_PREDICT,  /* the predictions from those parts, all chunks at once                              */
    ORR_PASSES
};

/* Operands of a pass. Which of reading and writing is meant follows from the pass:
 * F writes OUTPUT and SAVED, B writes INPUT_GRADIENT and may rewrite SAVED into what W needs. A pass of a shard sees all
 * chunks of OUTPUT, OUTPUT_GRADIENT and BRANCH, a pass of a chunk its own. */
enum orr_operand {
    ORR_INPUT = 1 << 0,             /* x[i]      [B,T,C] dtype                      read          */
    ORR_OUTPUT = 1 << 1,            /* y         [B,T,C] dtype, or of output_width fp32   written; read by a shard's passes */
    ORR_OUTPUT_GRADIENT = 1 << 2,   /* dy        [B,T,C] dtype                      read          */
    ORR_INPUT_GRADIENT = 1 << 3,    /* dx[i]     [B,T,C] dtype    written, or added to when not the first */
    ORR_PARAMETERS = 1 << 4,        /* param[g][v]  dtype, views of flat tiles      read          */
    ORR_GRADIENTS = 1 << 5,         /* grad[g][v]   fp32, likewise  added to, or written when the first   */
    ORR_SAVEDS = 1 << 6,            /* saved     as the block likes           F writes, B changes, W reads */
    ORR_IDS = 1 << 7,               /* ids       [B,T] int32: tokens, or labels for the loss block  read  */
    ORR_RESULT = 1 << 8,            /* result    struct orr_result                  added to      */
    ORR_PREDICTION = 1 << 9,        /* prediction: see struct orr_rows              written       */
    ORR_BRANCH = 1 << 10,           /* branch[c] [B,T_c,C] dtype  written by CHUNK_FORWARD, read by shards and PREDICT */
    ORR_PARTIAL = 1 << 11,          /* partial[]  a shard writes one of every chunk, a chunk reads one of every shard; dtype,
                                                  or of partial_width fp32                        */
    ORR_PARTIAL_GRADIENT = 1 << 12, /* dpartial[] [B,T_c,C] dtype, the same way                   */
    ORR_LOSS_SCALE = 1 << 13,       /* loss_scale fp32: the loss block multiplies its gradients   read, where there is one */
    ORR_PLACES = 1 << 15,           /* places    [B,T] int32                        read, where rows hold several sequences */
    ORR_TYPES = 1 << 16,            /* types     [B,T] int32                        read          */
    ORR_SOURCE_PLACES = 1 << 17,    /* source_places  [B,T] int32                   read          */
    ORR_CACHE = 1 << 14             /* page[]    what is kept of positions, dtype: see struct orr_past    read and written, where
                                                  sequences are continued                         */
};

/* What a source of data gives for every position of a sequence, [B,T] int32 each; a block reads those that its operands name. */
enum orr_field {
    ORR_FIELD_TOKENS,
    ORR_FIELD_LABELS,           /* of the loss block; ORR_IGNORE: none                                           */
    ORR_FIELD_PLACES,           /* position of a token in its own sequence, of several that share a row: one begins where it is 0 */
    ORR_FIELD_TYPES,            /* of what kind the token's part of a sequence is                                */
    ORR_FIELD_SOURCE,           /* tokens of an encoder beside a decoder                                         */
    ORR_FIELD_SOURCE_PLACES,    /* places of these; the sequences of source and row belong together in their order */
    ORR_FIELDS
};

enum orr_initial { ORR_INITIAL_ZERO, ORR_INITIAL_ONE, ORR_INITIAL_NORMAL };

/* One named parameter inside a group. */
struct orr_view {
    const char *name;           /* "qkv.weight"; static                                              */
    int ndim;                   /* 1 or 2; weight decay applies to 2                                 */
    int64_t shape[2];           /* of the whole parameter, row-major                                 */
    enum orr_initial initial;
    float std;                  /* of ORR_INITIAL_NORMAL                                             */
    /* How tensor parallelism divides it: dimension split (-1: every shard has all of it) is cut into
     * `groups` equal pieces and shard t gets its part, in multiples of `unit`, of every piece. */
    int split, groups;
    int64_t unit;
    int64_t offset;             /* in the flat tile; set by the engine                               */
};

/* The shape of shard t of tp of a view: `view` with shape[] divided. Pure. */
struct orr_view orr_view_shard(const struct orr_view *view, int tp, int t);

/* Where a shard's elements are. Run i of orr_view_run_count() of them: elements part .. part + count - 1 of the shard are
 * elements whole .. whole + count - 1 of the parameter, both row-major. Pure. */
struct orr_run {
    int64_t part, whole, count;
};
int64_t orr_view_run_count(const struct orr_view *view, int tp);
struct orr_run orr_view_run(const struct orr_view *view, int tp, int t, int64_t i);

/* What a block is: filled by the class from its configuration. */
struct orr_block_spec {
    int groups;                                     /* parameter groups, each one flat tile               */
    int views[ORR_MAX_GROUPS];                      /* how many views each has; 0: the group is another
                                                       block's, handed over with orr_block_share(), and
                                                       must have the shape of view[][0] if that is named */
    struct orr_view view[ORR_MAX_GROUPS][ORR_MAX_VIEWS];
    int64_t width;                                  /* C of the output value; the loss block: of its input */
    int64_t input_width;                            /* C of the values that it reads; 0: any             */
    int longest;                                    /* T that it takes at most; 0: any                      */
    bool source;                                    /* it is an encoder's: its tokens and places are the source's */
};

/* Rows and shape of what ORR_PREDICT writes: for every row r of `count` (positions b*T + t in rows[]),
 * prediction[r*(vocabulary + width) ...] holds the logits, then the last hidden state, in fp32. */
struct orr_rows {
    int count;
    const int32_t *rows;
};

/* How a microbatch of F continues sequences: what blocks keep of the positions that they have seen (attention: keys and values)
 * lies in a cache, of which each block, or shard of one, has its own pages. Each has a part for every sequence, but which is whose
 * changes: position t of sequence s of the cache is row part[s * ORR_MAX_PAGES + t / page] * page + t % page of page[t / page], of
 * as many values as the class says. Arrays are the host's. */
struct orr_past {
    int page;                       /* positions of a page                                               */
    int sequences;                  /* of the cache                                                      */
    const int32_t *part;            /* [sequences][ORR_MAX_PAGES]                                        */
    const int32_t *sequence;        /* [B] which of them sequence b of the microbatch is; -1: none, its rows count for nothing */
    const int32_t *first;           /* [B] position of its first token; those before it are in the cache. Where T > 1: 0 */
    const int32_t *count;           /* [B] its tokens; behind them, up to T, is padding                  */
};

/* What a step's loss tasks add up, one per replica and step. */
struct orr_result {
    double loss;        /* sum over labels, nats              */
    int64_t labels;     /* labels that counted                */
};

/* What F leaves for B and W: statistics and sums, which stay fp32, and values of the model's dtype. */
struct orr_saved_size {
    int64_t floats, values;
};

/* How a block is cut into shards. All functions are pure. */
struct orr_sharding {
    /* The largest number of shards, and what there are so many of ("heads"), for messages. */
    int (*most)(const void *config);
    const char *unit;
    /* What SHARD_FORWARD saves in shard t, and CHUNK_FORWARD for a chunk of `positions` of each sequence. */
    struct orr_saved_size (*saved)(const void *config, int batch, int seq, int shards, int t);
    struct orr_saved_size (*chunk_saved)(const void *config, int batch, int positions);
    /* Floats per position of a partial output, and of the loss block's output; 0: the block's width, in the model's dtype. */
    int partial_width, output_width;
};

/* What a pass is run for. */
struct orr_shape {
    enum orr_dtype dtype;           /* of the elements that it sees                                      */
    int batch, seq;                 /* B, T of a microbatch                                              */
    int shards;                     /* 1: the block is whole                                             */
    bool cuda;                      /* on a CUDA device                                                  */
};

struct orr_block_class {
    const char *name;                               /* "attention"                                        */
    size_t config_size;                             /* bytes of its configuration struct, which is hashed for
                                                       performance models and so must have no padding       */
    void (*specify)(const void *config, struct orr_block_spec *spec);
    /* What F saves for microbatches of shape [batch, seq]. */
    struct orr_saved_size (*saved)(const void *config, int batch, int seq);
    /* Bytes of scratch that the hungriest pass takes in a worker, of the whole block or of shards and chunks of it: in main
     * memory, or o->cuda->scratch. Pure. */
    size_t (*scratch_bytes)(const void *config, const struct orr_shape *shape);
    /* Bytes of the copies that passes in training keep of the parameters of the block, or of its first shard, from an update to
     * the next (inside the library orri_kept(), with o->version[g]), in main memory. NULL: none. Pure. */
    size_t (*kept_bytes)(const void *config, const struct orr_shape *shape);
    /* Floating-point operations of a pass of the whole block: ORR_FORWARD .. ORR_PREDICT. */
    double (*flops)(const void *config, int batch, int seq, enum orr_pass pass);
    /* Values that a shard of the block keeps of every position of a sequence that is continued; NULL: none. Pure. */
    int64_t (*cached)(const void *config, int shards, int shard);
    bool is_loss;                                   /* reads labels and adds to the result: ends the tape  */
    const struct orr_sharding *sharding;            /* NULL: the block is always whole                     */
    /* The passes, run by a StarPU worker: they neither block nor submit nor fail but by orr_task_fail(). NULL: the block has no
     * such pass. ORR_BOTH and ORR_SHARD_BOTH are made by the engine. */
    void (*cpu[ORR_PASSES])(const struct orr_operands *o);
    /* Whether these take elements of o->dtype, where the operands' type says float; else the block is for models in fp32. */
    bool any_dtype;
    /* The passes on a CUDA device, all of o->dtype: the worker owns the device, they enqueue on o->cuda->stream and return
     * (orrery/cuda.h), and all pointers of the operands but rows.rows are to the device's memory. NULL: on the CPU. */
    void (*cuda[ORR_PASSES])(const struct orr_operands *o);
    unsigned operands[ORR_PASSES];                  /* of enum orr_operand                                */
};

/* What a pass works on. What it does not take is NULL. */
struct orr_operands {
    const void *task;                   /* for orr_task_fail()                                      */
    const void *config;
    enum orr_dtype dtype;               /* of the elements that the pass sees: the model's           */
    struct orr_cuda *cuda;              /* NULL on a CPU                                             */
    int batch, seq;                     /* B, T: of the microbatch, also where there are chunks      */
    int length;                         /* positions that are not padding in any row: T, or fewer in a prediction */
    bool training;                      /* dropout on, saved present                                */
    bool first_gradient;                /* overwrite grad[] instead of adding to it                 */
    bool first_result;                  /* overwrite *result                                        */
    bool add_input_gradient[ORR_MAX_INPUTS];
    uint64_t seed;                      /* of dropout                                               */
    uint32_t step;
    uint64_t first_sample;              /* global number, within the step, of the microbatch's first sequence */
    int layer;
    bool source;                        /* of an encoder, whose layers are numbered beside the decoder's */
    int shards, shard;                  /* 1 and 0 where the block is whole                         */
    int chunks, chunk;                  /* 1 and 0 where the sequence is not cut                    */
    const float *x[ORR_MAX_INPUTS];
    float *y;
    const float *dy;
    float *dx[ORR_MAX_INPUTS];
    const float *param[ORR_MAX_GROUPS][ORR_MAX_VIEWS];  /* NULL: another shard's, or shared by all shards */
    uint64_t version[ORR_MAX_GROUPS];   /* of the values of param[g], for copies that are kept of them: other values have
                                           another one, and no two tiles the same; 0: none is to be kept  */
    float *grad[ORR_MAX_GROUPS][ORR_MAX_VIEWS];
    float *saved;                       /* floats of struct orr_saved_size                          */
    float *saved_values;                /* its values                                               */
    const int32_t *ids;
    const int32_t *places;              /* NULL: a row is one sequence                               */
    const int32_t *types, *source_places;
    const float *loss_scale;            /* NULL: 1                                                  */
    struct orr_result *result;
    float *prediction;
    struct orr_rows rows;
    const struct orr_past *past;        /* NULL: every sequence begins here                         */
    void *page[ORR_MAX_PAGES];
    /* Of a block in shards. A pass of a shard has one of each per chunk; a pass of a chunk finds its own branch in
     * branch[0], and in partial[] and dpartial[] one of every shard. */
    float *branch[ORR_MAX_SHARDS];
    const float *ys[ORR_MAX_SHARDS], *dys[ORR_MAX_SHARDS];
    float *partial[ORR_MAX_SHARDS], *dpartial[ORR_MAX_SHARDS];
};

/* The positions of each sequence that chunk c has: orr_split() of T into o->chunks. Pure. */
struct orr_part orr_chunk(const struct orr_operands *o, int c);

/* Marks the step as failed, from a pass: the tasks left of it and of later steps do nothing, as do later submissions,
 * and the wait for it returns `code` with "block of layer L, microbatch M, step S: what". The steps before it are
 * ended. Of several failures the earliest step's counts, and of its own the first call. */
void orr_task_fail(const struct orr_operands *o, int code, const char *what);

/* Names a stream of random numbers for place `place` (0..7) of a block in its layer, of the encoder or not. Pure. */
struct orr_rng orr_dropout_stream(const struct orr_operands *o, int place);

/* Appends a block of a class to the model's tape: it reads the value on top (none for the first block)
 * and its output becomes the top. config is copied. Returns the block, owned by the model, or NULL. */
struct orr_block *orr_block_append(struct orr_model *model, const struct orr_block_class *cls, int layer,
                                   const void *config);

/* As above for a block that reads the values inputs[0..count-1], given by the blocks that write them
 * (an encoder's output, a skip connection), no two of them the same. */
struct orr_block *orr_block_append_inputs(struct orr_model *model, const struct orr_block_class *cls, int layer,
                                          const void *config, int count, struct orr_block *const inputs[]);

/* The class that a block was appended with. */
const struct orr_block_class *orr_block_class_of(const struct orr_block *block);

/* The configuration that it was appended with, as its class keeps it: borrowed. And how many values it reads. */
const void *orr_block_config(const struct orr_block *block);
int orr_block_input_count(const struct orr_block *block);

/* Makes group `group` of `block` the group `of_group` of `of` (tied weights): one tile, two readers, a
 * gradient tile each. The block's spec must have left the group without views. Errors: ORR_EINVAL (another
 * group or shape than the spec asks for). */
int orr_block_share(struct orr_block *block, int group, struct orr_block *of, int of_group);

#ifdef __cplusplus
}
#endif
#endif
