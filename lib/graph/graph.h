/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's own view of models, blocks, slots and tasks. */
#ifndef ORRI_GRAPH_H
#define ORRI_GRAPH_H

#include <pthread.h>

#include <orrery/block.h>
#include <orrery/model.h>
#include <orrery/tile.h>

#include "core/core.h"

struct starpu_codelet;

enum {
    ORRI_MAX_USERS = 4,     /* blocks that share one parameter group                  */
    ORRI_PARITIES = 2,      /* steps in flight, each with results of its own          */
    ORRI_MAX_BUFFERS = 16   /* of a task                                              */
};

/* A group of parameters: one flat tile, and per user and replica a gradient tile of the same layout. */
struct orri_parameter {
    struct orr_block *block;                    /* that specified it                                     */
    int group;
    int views;
    struct orr_view view[ORR_MAX_VIEWS];
    char *name[ORR_MAX_VIEWS];                  /* in files                                              */
    int first_view;                             /* number of view 0 among all views of the model         */
    int64_t count;
    int owner;                                  /* replica whose coordinate runs the update              */
    struct orr_tile value;
    int users;
    struct orr_block *user[ORRI_MAX_USERS];
    struct orr_tile *gradient;                  /* [users][dp]                                           */
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
    struct orri_parameter *parameter[ORR_MAX_GROUPS];
    int user[ORR_MAX_GROUPS];                   /* its place among the parameter's users                 */
};

struct orr_model {
    struct orr_mesh mesh;
    int blocks, capacity;
    struct orr_block **block;                   /* the tape                                              */
    int parameters;
    struct orri_parameter **parameter;
    int views;
    bool built;
    int64_t runs;                               /* begun so far; see struct orri_microbatch              */
    int status;                                 /* atomic; the failure's code                            */
    int64_t failed_run;                         /* atomic; the run that failed, INT64_MAX: none          */
    pthread_mutex_t failure_lock;
    char failure[512];                          /* message                                               */
    int64_t tasks;                              /* submitted so far                                      */
};

/* What a replica's stage keeps for one microbatch in flight, per block of the stage. */
struct orri_slot {
    struct orr_tile ids;            /* tokens of the first stage                               */
    struct orr_tile labels;         /* of the last; the first has them on their way there       */
    struct orr_tile prediction;     /* of the last, when predicting                            */
    struct orr_tile *value;         /* [blocks]: outputs                                       */
    struct orr_tile *gradient;      /* [blocks]: gradients of the outputs                      */
    struct orr_tile *saved;         /* [blocks]                                                */
};

struct orri_ring {
    int count;
    struct orri_slot *slot;
};

struct orr_slots {
    struct orr_model *model;
    struct orr_slots_options options;
    bool split;                     /* B and W are tasks of their own                          */
    struct orri_ring *ring;         /* [dp][pp]                                                */
    struct orr_tile *result;        /* [ORRI_PARITIES][dp]                                     */
};

/* One microbatch on its way. Runs are what is submitted in one go, in the order of submission: a step, a group of
 * evaluated microbatches, a prediction. A failed run stops itself and those behind it; the ones before end well. */
struct orri_microbatch {
    int64_t run;
    int64_t step;                   /* chooses parity and dropout                             */
    int index;                      /* in the step; the first of a replica overwrites sums    */
    uint64_t first_sample;          /* its first sequence, counted from the step's first      */
};

/* ---- the tape (tape.c): pure ------------------------------------------------------------------- */

/* The order in which blocks run backwards is the tape's reversed; so the first block to write a value's
 * gradient is the last of the tape that reads it. True for that one. */
bool orri_tape_first_gradient(const struct orr_block *block, int input);

/* Floating-point operations of all the passes of a block for one microbatch. */
double orri_block_cost(const struct orr_block *block, int batch, int seq);

/* True where a block's forward, backward and weights passes are one task: where no W is to fill a gap, the loss
 * block need not compute its logits twice. */
bool orri_runs_whole(const struct orr_slots_options *options, const struct orr_block *block);

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

/* The result tile of a step and replica. */
struct orr_tile *orri_slots_result(struct orr_slots *slots, int64_t step, int replica);
struct orri_slot *orri_slots_at(struct orr_slots *slots, int microbatch, int stage);

/* Submits a task: a codelet, its buffers, an argument that is copied, a priority class and the order within it
 * (lower first). */
enum orri_priority { ORRI_PRIORITY_WEIGHTS, ORRI_PRIORITY_FORWARD, ORRI_PRIORITY_BACKWARD, ORRI_PRIORITY_UPDATE };

struct orri_buffer {
    struct orr_tile *tile;
    int mode;                       /* enum starpu_data_access_mode */
};
int orri_task_submit(struct orr_model *model, struct starpu_codelet *codelet, int buffers,
                     const struct orri_buffer *buffer, const void *argument, size_t argument_size,
                     enum orri_priority priority, int order, double flops);

/* Named parameter number `index` is view *view of parameter group *parameter. */
void orri_model_view(const struct orr_model *model, int index, int *parameter, int *view);
int64_t orri_view_count(const struct orr_view *view);

/* Copies fp32 elements offset .. offset + count - 1 of a tile, once the tasks that change it have ended. */
int orri_tile_copy_out(struct orr_tile *tile, int64_t offset, int64_t count, float *values);
int orri_tile_copy_in(struct orr_tile *tile, int64_t offset, int64_t count, const float *values);

/* Marks a run as failed; of several the earliest wins, and in it the first call. */
void orri_model_fail(struct orr_model *model, int64_t run, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Is a task of this run to do nothing? */
bool orri_model_stopped(const struct orr_model *model, int64_t run);

#endif
