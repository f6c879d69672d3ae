/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ORRI_TRAIN_H
#define ORRI_TRAIN_H

#include <pthread.h>
#include <starpu.h>

#include <orrery/train.h>

#include "graph/graph.h"
#include "io/shards.h"
#include "train/optimizer_cuda.h"

enum {
    ORRI_IN_FLIGHT = 2,     /* steps, where no staleness is allowed   */
    ORRI_MOST_STALE = ORRI_MOST_STEPS - ORRI_IN_FLIGHT,
    ORRI_DEALS = 16
};

/* What the updates of a step share, the same on every rank: known when the losses are (and, when clipping, the norms). */
struct orri_control {
    float loss_factor;  /* of the next step: what the loss block reads, so it comes first */
    float used_factor;  /* of this one                  */
    double used_scale;  /* likewise, of the mean loss: see orri_loss_factor() */
    double loss_scale;  /* of the next                  */
    double correction[2];   /* of Adam's moments: 1 - beta^t, t the updates made, this step's included */
    int skip;           /* it overflowed or failed: the updates do nothing */
    int64_t good;       /* steps since the scale changed */
    int64_t skipped;    /* steps that changed nothing, this one included */
    double loss;        /* sum over labels              */
    int64_t labels;
    double scale;       /* of the gradient sums         */
    double norm;        /* where squares were summed up */
    int stop;           /* some rank was asked to end   */
    int code;           /* of a failure, with its message */
    char message[256];
    int share[];        /* [dp] microbatches of the next step that has not begun, where they are dealt by speed */
};

/* Carries what the ranks know to the first of them, and back what follows from it, along a tree whose nodes have ORRI_FAN
 * children. */
struct orri_tree {
    int replica;                        /* whose ranks; -1: all                                        */
    bool squares, deals;                /* it carries sums of squares, and what replicas needed        */
    int places, *place, here;           /* ranks, the root first; this rank's place, or -1             */
    int parts;
    struct orr_tile *part;              /* [ORRI_MOST_STEPS][parts] what this rank knows: all; or of each replica here, so
                                           that none of them needs to wait for another                 */
    struct orr_tile summary;            /* of this rank and those below it: struct orri_summary        */
    struct orr_tile child[ORRI_FAN];    /* theirs, as received                                         */
    struct orr_tile control;            /* struct orri_control                                         */
};

struct orri_deal {
    int64_t step;                       /* -1: none                                                    */
    int *share;                         /* [dp]                                                        */
};

struct orr_training {
    struct orr_model *model;
    struct orr_training_options options;
    struct orr_slots *slots;
    int microbatches;
    int copies;                         /* of gradients and what reads parameters: one, or one of each replica */
    int states;                         /* of the optimizer's state: likewise                   */
    int in_flight;                      /* steps, at most                                      */
    int64_t steps;                      /* made so far, those before a resumed checkpoint too   */
    int64_t samples;                    /* read so far: the number of the next                 */
    int64_t submitted;                  /* by this process                                     */
    int64_t synchronised;               /* the last step behind which the copies were equal    */
    int64_t run;                        /* of the step being submitted                         */
    struct orr_submission submission;   /* of the last step                                    */
    struct orr_tile *state;             /* [parameters][states] where they are updated         */
    /* [parameters][copies] where the gradient is summed up: */
    struct orr_tile *squares;           /* their sum, double                                   */
    struct orr_tile **sum;              /* the gradient                                        */
    struct orr_tile *outer;             /* [parameters] momentum of the shared parameters, with local SGD */
    struct orri_exchange *exchange;     /* with staleness                                      */
    struct orri_tree *tree;             /* [copies]                                            */
    struct orr_residency residency;
    struct orr_loss_scale scale;        /* as the root of the tree decided last                */
    bool reports_apart;                 /* the report does not wait for what the updates do    */
    struct orri_tree total;             /* for the report then                                 */
    /* Who computes what. */
    struct orri_deal deal[ORRI_DEALS];  /* by step                                             */
    int *share;
    int *replica, *turn;                /* [microbatches] of the step being submitted          */
    double *pace;                       /* [2][dp] at the root                                 */
    /* Finished steps, handed from report tasks to the host. */
    pthread_mutex_t lock;
    pthread_cond_t finished;
    int64_t reported, taken;            /* of those submitted                                  */
    int64_t failed;                     /* number of the first report of a failed step, or INT64_MAX */
    struct orr_step *queue;             /* [queue_size], those between taken and submitted; step 0: it failed */
    int64_t queue_size;
    double last_end;
};

/* Buffers of a task. */
static inline void *orri_pointer(void *buffer)
{
    return (void *)STARPU_VECTOR_GET_PTR(buffer);
}

static inline int64_t orri_length(void *buffer)
{
    return (int64_t)STARPU_VECTOR_GET_NX(buffer);
}

/* checkpoint.c: parameters in files. Finds a view of the parameters, by the name of one, which must have its shape: ORR_ENOENT,
 * ORR_EFORMAT. And whether there is no
 * tensor that the model does not know, nor a copy of a tied one that differs: ORR_EFORMAT. */
#define ORRI_WEIGHTS "model.safetensors"
int orri_weights_find(const struct orr_model *model, const struct orri_shards *shards, const char *name, const struct orr_view *view,
                      const struct orr_safetensors **file, const struct orr_tensor_info **tensor);
int orri_weights_check_names(const struct orr_model *model, const struct orri_shards *shards);

/* reduce.c: sums a parameter's gradients, in the order of the replicas, into sum[], and their squares; or what replicas have
 * for themselves, parameters or optimizer state: returns the tile, on every rank, or NULL. */
int orri_reduce_submit(struct orr_training *t, int parameter);
struct orr_tile *orri_sum_copies_submit(struct orr_training *t, int parameter, bool states);

/* control.c */
int orri_trees_create(struct orr_training *t);
void orri_trees_destroy(struct orr_training *t);
int orri_control_submit(struct orr_training *t);
/* The loss block works on a sum over labels: what it multiplies that by so that the mean of a step's is multiplied by `scale`, or
 * a little less. A power of two where the scale is one, which rounds nothing. */
float orri_loss_factor(const struct orr_training *t, double scale);
int orri_report_submit(struct orr_training *t, double lr);
/* Is a task of this run to do nothing? What another rank found is a failure here too. */
bool orri_control_stopped(struct orr_model *model, int64_t run, const struct orri_control *control);
/* A gradient of a parameter is not finite. */
void orri_gradient_fail(struct orr_model *model, int64_t run, const struct orri_parameter *parameter, int64_t step);

/* update.c: the ranks where a copy of a gradient is summed up and where a state is; the updates; the synchronisation of
 * copies. */
int orri_sum_rank(const struct orr_training *t, const struct orri_parameter *parameter, int copy);
int orri_state_rank(const struct orr_training *t, const struct orri_parameter *parameter, int copy);
struct orr_tile *orri_state_tile(const struct orr_training *t, const struct orri_parameter *parameter, int copy);
int orri_update_submit(struct orr_training *t, int parameter, double lr);
int orri_synchronise_submit(struct orr_training *t);
/* The optimizer on a whole tile; step from 1. */
void orri_update_apply(const struct orr_optimizer *optimizer, const struct orri_parameter *parameter, double lr, int64_t step,
                       float scale, const float *g, float *p, float *state);
/* The same on a device, of which the caller adds the operands. */
struct orri_cuda_update orri_update_on_device(const struct orr_optimizer *optimizer, const struct orri_parameter *parameter,
                                              double lr, int64_t step);

/* exchange.c: updates where replicas do not wait for each other. */
int orri_exchange_create(struct orr_training *t);
void orri_exchange_destroy(struct orr_training *t);
void orri_exchange_resume(struct orr_training *t, int64_t steps);
/* What the gradient of a replica elsewhere comes to its owner in; without memory where there is none. */
struct orr_tile *orri_exchange_passing(const struct orr_training *t, const struct orri_parameter *parameter, int replica);
int orri_exchange_submit(struct orr_training *t, int parameter, double lr);

/* residency.c: decides what is streamed; ORR_ENOFIT where a device has not even room for that. */
int orri_residency_plan(struct orr_training *t);

/* deal.c */
int orri_deals_create(struct orr_training *t);
void orri_deals_destroy(struct orr_training *t);
void orri_deal_out(struct orr_training *t);                 /* sets replica[] and turn[] of the step to be submitted */
void orri_deal(struct orr_training *t, int64_t step, const double *busy, int *share);   /* from what was measured */
void orri_set_share(struct orr_training *t, int64_t step, const int *share);            /* with the lock held */
double orri_busy_seconds(struct orr_training *t, int replica);  /* since the last call, on this rank */

/* record.c: with a dynamic partition a record of it in the directory `out`. Opening is collective and begins a new one, or,
 * with after >= 0, goes on with that of a run resumed after so many steps. Before a step what is recorded of it is
 * prescribed; behind its submission it is recorded. *record is to be closed also where opening failed. */
struct orri_record;
int orri_record_open(struct orr_training *t, const char *out, int64_t after, struct orri_record **record);
void orri_record_close(struct orri_record *record);
int orri_record_prescribe(struct orri_record *record);
int orri_record_step(struct orri_record *record);

/* optimizer.c: one pass over a view of `count` parameters; g is scaled by `scale`. state has the optimizer's
 * floats, each `stride` apart. t counts from 1. */
void orri_optimizer_update(const struct orr_optimizer *optimizer, bool decay, double lr, int64_t t, float scale,
                           int64_t count, const float *g, float *p, float *state, int64_t stride);
double orri_sum_squares(int64_t count, const float *x);
void orri_outer_update(double lr, double momentum, float scale, int64_t count, const float *sum, float *p, float *m);

#endif
