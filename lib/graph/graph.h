/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's own view of models, blocks, slots and tasks. */
#ifndef ORRI_GRAPH_H
#define ORRI_GRAPH_H

#include <pthread.h>

#include <orrery/block.h>
#include <orrery/model.h>

#include "core/core.h"
#include "core/device.h"
#include "tile/tile.h"

struct starpu_codelet;

enum {
    ORRI_MOST_STEPS = 6,    /* in flight, each with results of its own                        */
    ORRI_FAN = 8,           /* children of a node, in the trees that sum up and spread         */
    ORRI_MAX_BUFFERS = 16 + 4 * ORR_MAX_SHARDS      /* of a task                              */
};

/* A group of parameters as its block describes it. */
struct orri_group {
    struct orr_block *block;                    /* that specified it                                     */
    int number;                                 /* among the block's                                     */
    int views;
    struct orr_view view[ORR_MAX_VIEWS];        /* whole                                                 */
    char *name[ORR_MAX_VIEWS];                  /* in files                                              */
    int first_view;                             /* number of view 0 among all views of the model         */
    int users;                                  /* blocks that share it                                  */
    struct orr_block **user;                    /* [users]                                               */
    struct orri_parameter *common;              /* views that all shards share; without shards all of it; or NULL */
    struct orri_parameter **shard;              /* [tp] parts of the views that are split; or NULL        */
};

/* One flat tile of parameters: a group, or a shard's part of it, or what the shards share. It is updated where its owner
 * is, the replica that also has the optimizer's state, and read by every replica of every stage that uses it. */
struct orri_parameter {
    struct orri_group *group;
    int index;                                  /* in the model                                          */
    int shard;                                  /* t, or -1: common                                      */
    int views;
    int number[ORR_MAX_VIEWS];                  /* of the view in its group                              */
    struct orr_view view[ORR_MAX_VIEWS];        /* as cut, with its offset in the tile                   */
    int64_t count;
    int owner;                                  /* replica                                               */
    struct orr_tile value;                      /* fp32; where the model computes in another dtype only its owner has it */
    struct orr_tile working;                    /* then: value, rounded, with all who read it. Without masters there is none, and
                                                   value has the model's dtype and is with all            */
    struct orr_tile *own;                       /* [dp] where each replica has parameters of its own, those: what its
                                                   microbatches in training read instead of value; else NULL */
    struct orr_tile *own_working;               /* [dp] these, rounded                                   */
    int copies;                                 /* gradients of a user and replica: one, or one of every chunk */
    struct orr_tile *gradient;                  /* [users][dp][copies], summed up in this order          */
    int places, *place;                         /* ranks that read it, the owner's first, each once      */
    int here;                                   /* this rank's place, or -1                              */
    int first_here, last_here;                  /* replicas whose block, that specified it, is here; or 0, -1 */
};

struct orr_block {
    const struct orr_block_class *cls;
    struct orr_model *model;
    void *config;
    struct orr_block_spec spec;
    int index;                                  /* on the tape                                           */
    int layer;
    int stage;
    int inputs;
    struct orr_block *input[ORR_MAX_INPUTS];    /* writers of the values it reads                        */
    int readers;                                /* blocks that read its output                           */
    int last_reader;                            /* the last of them on the tape                          */
    struct orri_group *group[ORR_MAX_GROUPS];
    struct orr_tile *lent[ORR_MAX_GROUPS];      /* parameters of the last B, with ZeRO-3                 */
    int user[ORR_MAX_GROUPS];                   /* its place among the group's users                     */
};

/* Tiles of one size that parameters or gradients from elsewhere are received in, one after the other. */
struct orri_pool {
    struct orri_pool *next;
    int64_t count;                              /* elements of each                                      */
    int size, used;
    struct orr_tile *tile;                      /* [size]                                                */
};

struct orr_model {
    struct orr_mesh mesh;
    enum orr_dtype dtype;                       /* of values and of what blocks read of parameters       */
    struct orr_file_rules rules;
    int rank;                                   /* this process'                                         */
    int stages, chunks;
    int replicas_here, *replica_here;           /* replicas that have a coordinate on this rank, ascending */
    int blocks, capacity;
    struct orr_block **block;                   /* the tape                                              */
    int *first_block;                           /* [stages + 1] of each stage                            */
    double *cost;                               /* [blocks] that they were chosen by                     */
    bool measured;                              /* it is in microseconds, not floating-point operations  */
    int groups;
    struct orri_group **group;
    int parameters;
    struct orri_parameter **parameter;
    int views;
    int64_t *busy;                              /* [dp] atomic: nanoseconds that passes of each replica took, or NULL */
    char **message_name;                        /* see name_of() in transfer.c                           */
    struct orri_pool *values, *gradients;       /* to receive parameters, with ZeRO-3, and gradients     */
    bool built;
    bool packed;                                /* rows hold several sequences                           */
    bool frozen;                                /* parameters are in dtype alone, for inference          */
    bool masterless;                            /* and for training                                      */
    int64_t runs;                               /* begun so far; see struct orri_microbatch              */
    int status;                                 /* atomic; the failure's code                            */
    int64_t failed_run;                         /* atomic; the run that failed, INT64_MAX: none          */
    pthread_mutex_t failure_lock;
    char failure[512];                          /* message                                               */
    int64_t tasks, messages;                    /* submitted so far                                      */
};

/* What a slot keeps for one block. On each rank there are the tiles that it writes or reads. */
struct orri_cell {
    struct orr_tile *value;         /* [chunks] outputs                                        */
    struct orr_tile *gradient;      /* [chunks] gradients of the outputs                       */
    struct orr_tile *saved;         /* [tp]                                                    */
    /* with shards: */
    struct orr_tile *chunk_saved;   /* [chunks]                                                */
    struct orr_tile *branch;        /* [chunks]                                                */
    struct orr_tile *partial;       /* [tp][chunks]                                            */
    struct orr_tile *dpartial;      /* [tp][chunks]                                            */
};

/* What a replica's stage keeps for one microbatch in flight. */
struct orri_slot {
    struct orr_tile *field[ORR_FIELDS];     /* [tp] of stages that read them                   */
    struct orr_tile *part;          /* [tp] of the last stage: predictions of the shards       */
    struct orri_cell *cell;         /* [blocks of the stage]                                   */
};

struct orri_ring {
    int count;
    struct orri_slot *slot;         /* NULL where this rank has no part of the replica         */
};

struct orr_slots {
    struct orr_model *model;
    struct orr_slots_options options;
    bool split;                     /* B and W are tasks of their own                          */
    struct orri_ring *ring;         /* [dp][stages]                                            */
    struct orr_tile *result;        /* [ORRI_MOST_STEPS][dp][chunks]                           */
    struct orr_tile *prediction;    /* [dp] on every rank, when predicting                     */
    struct orr_tile *loss_scale;    /* begins with a float that the loss block multiplies its gradients by; NULL: 1 */
    bool counting;                  /* nothing is created, only `bytes` added up               */
    double bytes;
};

/* One microbatch on its way. Runs are what is submitted in one go, in the order of submission: a step, a group of
 * evaluated microbatches, a prediction. A failed run stops itself and those behind it; the ones before end well. */
struct orri_microbatch {
    int64_t run;
    int64_t step;                   /* chooses results and dropout                             */
    int index;                      /* in the step                                             */
    uint64_t first_sample;          /* its first sequence, counted from the step's first      */
    int count;                      /* sequences; fewer than there is room for in a last one   */
    int replica;                    /* that computes it                                        */
    int turn;                       /* its number among the replica's; 0 overwrites sums       */
    bool here;                      /* orri_replica_here()                                     */
    int length;                     /* positions that are not padding; 0: all                  */
    struct orri_cache *cache;       /* of sequences that are continued; NULL: none is          */
};

/* What the blocks of a replica keep of sequences that are continued (cache.c): pages of all of them, made as they grow. Each has a
 * part of every page. Pages that are full may be parts that several have in common; others never are. */
struct orri_cache {
    struct orr_model *model;
    int replica;
    struct orr_past past;           /* its arrays of the microbatch are the owner's            */
    int32_t *part;                  /* [sequences][ORR_MAX_PAGES]: past.part                   */
    int pages;                      /* made so far                                             */
    struct orr_tile *tile;          /* [blocks][tp][ORR_MAX_PAGES]; on each rank those of its shards */
};

/* ---- placement (placement.c): pure ---------------------------------------------------------------- */

/* The rank of shard (or chunk) t of the stage of a block. */
int orri_place(const struct orr_block *block, int replica, int t);

/* The rank where user number `user` of a parameter's group has it in a replica: of what all shards share, for a chunk. User 0
 * specified it. */
int orri_user_rank(const struct orri_parameter *parameter, int user, int replica, int chunk);

/* StarPU's worker of the device where the tasks of a coordinate of this rank have their home, or ORRI_ANYWHERE. */
int orri_home_worker(const struct orr_model *model, int replica, int stage, int t);
/* Of the tasks on the gradients of a parameter, as its owner or as a replica has it; and of those that update it, which may be
 * ORRI_ON_CPU. */
int orri_parameter_worker(const struct orri_parameter *parameter, int replica);
int orri_master_worker(const struct orri_parameter *parameter, int replica);

/* Is any coordinate of a replica on this rank? Listed once, and then found in the list. */
bool orri_has_coordinate(const struct orr_model *model, int replica);
int orri_list_replicas(struct orr_model *model);
bool orri_replica_here(const struct orr_model *model, int replica);

/* Is any shard (or chunk) of a stage of it on this rank? */
bool orri_stage_here(const struct orr_model *model, int replica, int stage);

/* The place of a rank among those that read a parameter, 0: the owner's; or -1. */
int orri_place_of(const struct orri_parameter *parameter, int rank);

/* With ZeRO-3 the owner lends whole blocks and shards their parameters for each task; what shards share, which is little,
 * stays with all who read it. */
bool orri_is_lent(const struct orr_model *model, const struct orri_parameter *parameter);

/* ORR_EINVAL where the numbers of this mesh and model are more than a tag has room for. */
int orri_check_tags(const struct orr_model *model);

/* Gives every stage its blocks, cuts the groups into parameters, deals these to owners and lists who reads them. */
int orri_assign_stages(struct orr_model *model);      /* collective: all ranks take the first one's measurements */
int orri_make_parameters(struct orr_model *model);

/* ---- sums (sums.c): pure --------------------------------------------------------------------------- */

/* A sum of what replicas have of a parameter, or of what users and chunks of one have of its gradient. Terms are in a tree of
 * ORRI_FAN children a node: node g of level 0 is term g. A sum is made on the rank of one of its terms, the leader, and left
 * in the first that is at home there. Where the leader of all is among a node's terms it leads there; other nodes are led in
 * turn. */
struct orri_sum {
    const struct orri_parameter *parameter;
    int replica;                    /* within it; -1: over replicas                       */
    int terms, leader;
    int from, to;                   /* terms among which are all of this rank             */
};
struct orri_sum orri_sum_within(const struct orri_parameter *parameter, int replica);
struct orri_sum orri_sum_over(const struct orri_parameter *parameter);

/* Nodes of a level, and terms under each. The children of a node: *first .. *first + n - 1 of the level below. */
int orri_sum_nodes(const struct orri_sum *sum, int level, int *under);
int orri_sum_children(const struct orri_sum *sum, int level, int g, int *first);

/* The rank of a node's sum, and the term that it is left in. */
int orri_sum_node_rank(const struct orri_sum *sum, int level, int g);
int orri_sum_node_term(const struct orri_sum *sum, int level, int g);

/* How many terms of a sum over replicas, or of all sums within them, come to this rank. */
int orri_received_over(const struct orr_model *model, const struct orri_parameter *parameter);
int orri_received_within(const struct orr_model *model, const struct orri_parameter *parameter);

/* ---- fields (slots.c): pure ------------------------------------------------------------------------ */

/* The operands that are fields of the data; which one each is of a block; and whether the model's microbatches have it. */
static const enum orr_operand orri_field_operands[] = {ORR_IDS, ORR_PLACES, ORR_TYPES, ORR_SOURCE_PLACES};
enum orr_field orri_field_of(const struct orr_block *block, enum orr_operand operand);
bool orri_has_field(const struct orr_model *model, enum orr_operand operand);

/* ---- the tape (tape.c): pure ------------------------------------------------------------------- */

/* The block that reads a value next, behind block number `after` of the tape (the writer's own: the first), or NULL.
 * Blocks run backwards in the reversed order of the tape: the last reader is the first to write a value's gradient, the
 * others add to it, and what the first reader leaves is complete. */
struct orr_block *orri_tape_next_reader(const struct orr_block *writer, int after);

/* Floating-point operations of all the passes of a block for one microbatch. */
double orri_block_cost(const struct orr_block *block, int batch, int seq);

/* Microseconds that its passes take together, from StarPU's history of this shape; NaN where one of them has not been
 * measured ten times. */
double orri_measured_cost(const struct orr_block *block, int batch, int seq);

/* What the block, whole or shard t of it, saves for a microbatch; what chunk c of it does; and where in the tile, after how many
 * floats, the values are that follow the floats. */
struct orr_saved_size orri_saved_of(const struct orr_block *block, const struct orr_slots_options *options, int t);
struct orr_saved_size orri_chunk_saved_of(const struct orr_block *block, const struct orr_slots_options *options, int c);
int64_t orri_saved_offset(struct orr_saved_size size);

/* True where a block's forward, backward and weights passes are one task: where no W is to fill a gap, the loss
 * block need not compute its logits twice. */
bool orri_runs_whole(const struct orr_slots_options *options, const struct orr_block *block);

/* ---- parameters in the dtype that the model computes in (precision.c) ----------------------------------- */

/* Elements of a tile, whose memory is at `data`, from number `first` on: from fp32, rounded, and to it. */
void orri_put(const struct orr_tile *tile, void *data, int64_t first, int64_t count, const float *values);
void orri_get(const struct orr_tile *tile, const void *data, int64_t first, int64_t count, float *values);

/* The tile that blocks read a parameter from: as all have it, or as a replica has it for itself. */
struct orr_tile *orri_shared(struct orri_parameter *parameter);
struct orr_tile *orri_own(struct orri_parameter *parameter, int replica);

/* What blocks read, from the owner to all who do, along a tree of their ranks; and within a replica, from where it is summed up
 * to the ranks of the other blocks and chunks. The second two round it there first. */
int orri_publish_submit(struct orr_model *model, struct orri_parameter *parameter, int64_t run);
int orri_publish_own_submit(struct orr_model *model, struct orri_parameter *parameter, int replica, int64_t run);
int orri_share_submit(struct orr_model *model, struct orri_parameter *parameter, int64_t run);
int orri_share_own_submit(struct orr_model *model, struct orri_parameter *parameter, int replica, int64_t run);

/* Whether owners keep in fp32 what others have rounded. */
bool orri_has_masters(const struct orr_model *model);

/* Shares a group of parameters, NULL: all, once values were set otherwise than by an update. Does nothing where each rank has set
 * what it reads by itself, which is so without masters. */
int orri_model_share(struct orr_model *model, const struct orri_group *group);

/* ---- transfers (transfer.c) ------------------------------------------------------------------------- */

/* What a message carries, for its tag. */
enum orri_message_kind {
    ORRI_VALUE, ORRI_GRADIENT, ORRI_BRANCH, ORRI_PARTIAL, ORRI_PARTIAL_GRADIENT, ORRI_PREDICTION_PART, ORRI_PREDICTION,
    ORRI_PARAMETER, ORRI_PARAMETER_GRADIENT, ORRI_PARAMETER_READ, ORRI_OPTIMIZER_STATE, ORRI_SUMMARY, ORRI_CONTROL,
    ORRI_MESSAGES
};

enum { ORRI_MAX_SLOTS = 1 << 16 };     /* of a ring */

/* A tile's number among all of the model, the same on every rank: `kind` of replica d, block or parameter `index`, slot k <
 * ORRI_MAX_SLOTS, and two more numbers below tp. */
int64_t orri_tag(const struct orr_model *model, enum orri_message_kind kind, int d, int index, int k, int i, int j);

/* Sends a tile from rank `from` to rank `to`, once the tasks submitted so far that write it have ended there; a task that is
 * submitted later on the other rank reads what came. Each rank calls it at the same place of its program; the ranks that
 * have no part in it do nothing. */
int orri_transfer_submit(struct orr_model *model, struct orr_tile *tile, int from, int to, int64_t run);

/* The same from one tile into another. And within a rank. */
int orri_transfer_between_submit(struct orr_model *model, struct orr_tile *source, int from, struct orr_tile *target, int to,
                                 int64_t run);
int orri_copy_submit(struct orr_tile *source, struct orr_tile *target);

/* The same into the tile of a pool that is free next, which is returned on `to`; NULL is a failure. Other ranks get `tile`
 * itself. Of one tile only what is the same may be sent more than once in a run. */
struct orr_tile *orri_receive_submit(struct orr_model *model, struct orri_pool **pools, struct orr_tile *tile, int from,
                                     int to, int64_t run);
void orri_pools_destroy(struct orri_pool *pools);
void orri_message_names_destroy(struct orr_model *model);

/* Tiles that a pool of a size has room for: parameters that are received here, with ZeRO-3, and gradients. */
int orri_parameter_slots(const struct orr_model *model, int64_t count);
int orri_gradient_slots(const struct orr_model *model, int64_t count);

/* What the pool of gradients, or of as many optimizer states, takes on this rank. */
double orri_gradient_pool_bytes(const struct orr_model *model, bool over);
double orri_state_pool_bytes(const struct orr_model *model, int states);

/* Whether passes may keep copies of parameters: in training, on CPUs, and where these stay, which with ZeRO-3 they do not. */
bool orri_keeps_copies(const struct orr_model *model, const struct orr_slots_options *options);

/* Bytes of those on this rank; with `own` each replica has parameters of its own. */
double orri_kept_need(const struct orr_model *model, const struct orr_slots_options *options, bool own);

/* Adds up a memory need; never overflows. */
void orri_memory_add(int64_t *sum, double bytes);
void orri_memory_total(struct orr_memory_need *need);

/* ---- caches (cache.c) ------------------------------------------------------------------------------- */

/* A cache of a replica for `sequences` of at most `positions` tokens, without pages; pages for `positions` of them, or fewer if there
 * are; the pages that a block's shard has. */
int orri_cache_create(struct orri_cache *cache, struct orr_model *model, int replica, int sequences, int positions);
void orri_cache_destroy(struct orri_cache *cache);
int orri_cache_reserve(struct orri_cache *cache, int positions);
struct orr_tile *orri_cache_pages(const struct orri_cache *cache, const struct orr_block *block, int t);

/* Sequence s becomes what from[s] was, of which length[from[s]] positions are kept; behind these its parts are nobody else's. Full
 * pages are held in common from then on, of others what several want is copied, by a task on the page. Returns at once. */
int orri_cache_rearrange(struct orri_cache *cache, const int *from, const int *length);

/* ---- tasks (task.c, pass.c) --------------------------------------------------------------------- */

/* Submits a task: a codelet, its buffers, an argument that is copied, a priority class and the order within it
 * (lower first). The others run on that StarPU worker, -1: any; the last is of a pass, which the watchdog
 * names by layer and microbatch, which is the order; the nanoseconds that it takes are added to *busy, NULL: to nothing. */
enum orri_priority { ORRI_PRIORITY_WEIGHTS, ORRI_PRIORITY_FORWARD, ORRI_PRIORITY_BACKWARD, ORRI_PRIORITY_UPDATE };

struct orri_buffer {
    struct orr_tile *tile;
    int mode;                       /* enum starpu_data_access_mode */
};
int orri_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int buffers,
                     const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                     enum orri_priority priority, int order, double flops);
int orri_task_submit_at(struct orr_model *model, struct starpu_codelet *codelet, int worker, int buffers,
                        const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                        enum orri_priority priority, int order);
int orri_pass_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int worker, int buffers,
                          const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                          enum orri_priority priority, int layer, int microbatch, double flops, int64_t *busy);

/* Whether blocks of a class have a pass; the engine makes one of two where both are there. */
bool orri_has_pass(const struct orr_block_class *cls, enum orr_pass pass);

/* Submits a pass of the whole block, of shard `part` or of chunk `part`, where that is; elsewhere only lends parameters. */
int orri_pass_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block, enum orr_pass pass,
                     int part, struct orr_rows rows);

/* ---- submission (submit.c): each returns at once ------------------------------------------------ */

int orri_input_submit(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_source *source,
                      uint64_t first);
int orri_forward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block);
int orri_backward_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block);
int orri_predict_submit(struct orr_slots *slots, const struct orri_microbatch *mb, struct orr_block *block,
                        struct orr_rows rows);

/* Colours of codelets in traces (0xRRGGBB). */
enum {
    ORRI_COLOR_FORWARD = 0x4c9a52,
    ORRI_COLOR_BACKWARD = 0x3f6fb5,
    ORRI_COLOR_WEIGHTS = 0xd98b2b,
    ORRI_COLOR_UPDATE = 0x8a55a8,
    ORRI_COLOR_REDUCE = 0xb94a4a,
    ORRI_COLOR_OTHER = 0x8c8c8c
};

/* The result tile of a step, replica and chunk. */
struct orr_tile *orri_slots_result(struct orr_slots *slots, int64_t step, int replica, int chunk);
struct orri_slot *orri_slots_at(struct orr_slots *slots, const struct orri_microbatch *mb, int stage);
struct orri_cell *orri_cell_at(struct orr_slots *slots, const struct orri_microbatch *mb, const struct orr_block *block);

/* Named parameter number `index` is view *view of a group. */
struct orri_group *orri_model_view(const struct orr_model *model, int index, int *view);
int64_t orri_view_count(const struct orr_view *view);

/* Copies a named parameter to values[], or from it. tile_of gives the tile that has parameter p, with `offset` elements
 * before its values, or one without a handle. Gathering is collective: every rank gets all of it. */
typedef struct orr_tile *orri_tile_of(void *self, const struct orri_parameter *parameter, int64_t *offset);
int orri_view_gather(struct orr_model *model, int index, orri_tile_of *tile_of, void *self, float *values);
int orri_view_scatter(struct orr_model *model, int index, orri_tile_of *tile_of, void *self, const float *values);

/* Marks a run as failed; of several the earliest wins, and in it the first call. */
void orri_model_fail(struct orr_model *model, int64_t run, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Gives each replica parameters of its own, which it reads in training instead of `value`; and fills these with it. */
int orri_make_own(struct orr_model *model);
int orri_fill_own_submit(struct orr_model *model, int64_t run);
void orri_destroy_own(struct orr_model *model);
/* Does a block or chunk of a replica read a parameter on a rank? */
bool orri_is_read_at(const struct orri_parameter *parameter, int replica, int rank);

/* Marks it so where the CUDA function of a codelet could not enqueue its work. */
void orri_device_check(struct orr_model *model, int64_t run, const char *codelet, const struct orr_cuda *cuda);

/* The code of the failure, with its message; 0 where there is none. */
int orri_model_failure(const struct orr_model *model, char *message, size_t size);

/* A failure that stops submission at once. Several ranks must submit what belongs together and end together instead: they
 * see the failure in the report of its step. */
int orri_model_check(const struct orr_model *model);

/* What became of submitting something. A rank that could not submit its part would leave the others waiting for it: where
 * there are several, that ends the job, with the message. */
int orri_model_submitted(const struct orr_model *model, int status);

/* Collective among the ranks of the mesh: what one failed at, all did. */
int orri_model_settle(const struct orr_model *model, int status);

/* Is a task of this run to do nothing? */
bool orri_model_stopped(const struct orr_model *model, int64_t run);

#endif
