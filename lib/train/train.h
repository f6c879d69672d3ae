/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ORRI_TRAIN_H
#define ORRI_TRAIN_H

#include <pthread.h>

#include <orrery/train.h>

#include "graph/graph.h"

enum { ORRI_IN_FLIGHT = 2 };    /* steps */

/* What all updates of a step share, the same on every rank: known when the losses are (and, when clipping, the norms). */
struct orri_control {
    double loss;        /* sum over labels              */
    int64_t labels;
    double scale;       /* of the gradient sums         */
    double norm;        /* known here when clipping     */
    int stop;           /* some rank was asked to end   */
    int code;           /* of a failure, with its message */
    char message[256];
};

/* Carries what every rank knows to the first one, and back what follows from it, along a tree of ranks whose nodes have
 * ORRI_FAN children. */
struct orri_tree {
    bool results, squares;              /* which of the two it carries                                 */
    struct orr_tile summary;            /* of this rank and those below it: struct orri_summary        */
    struct orr_tile child[ORRI_FAN];    /* theirs, as received                                         */
    struct orr_tile control;            /* struct orri_control                                         */
};

struct orr_training {
    struct orr_model *model;
    struct orr_training_options options;
    struct orr_slots *slots;
    int microbatches;
    int64_t steps;                      /* made so far, those before a resumed checkpoint too   */
    int64_t samples;                    /* read so far: the number of the next                 */
    int64_t submitted;                  /* by this process                                     */
    int64_t run;                        /* of the step being submitted                         */
    int64_t tasks_per_step;
    struct orr_tile *state;             /* [parameters], where this rank updates them          */
    struct orr_tile *squares;           /* [parameters], as these: sum of squares of a gradient, double */
    struct orr_tile **sum;              /* [parameters], as these: the gradient that has been summed up */
    struct orri_tree tree, norms;       /* norms: only without clipping, where updates do not wait for them */
    /* Finished steps, handed from report tasks to the host. */
    pthread_mutex_t lock;
    pthread_cond_t finished;
    int64_t reported, taken;            /* of those submitted                                  */
    int64_t failed;                     /* number of the first report of a failed step, or INT64_MAX */
    struct orr_step *queue;             /* [queue_size], those between taken and submitted; step 0: it failed */
    int64_t queue_size;
    double last_end;
};

/* update.c: each submits the tasks of one step and returns. */
int orri_reduce_submit(struct orr_training *t, int parameter);
int orri_control_submit(struct orr_training *t);
int orri_trees_create(struct orr_training *t);
void orri_trees_destroy(struct orr_training *t);
int orri_update_submit(struct orr_training *t, int parameter, double lr);
int orri_report_submit(struct orr_training *t, double lr);

/* optimizer.c: one pass over a view of `count` parameters; g is scaled by `scale`. state has the optimizer's
 * floats, each `stride` apart. t counts from 1. */
void orri_optimizer_update(const struct orr_optimizer *optimizer, bool decay, double lr, int64_t t, float scale,
                           int64_t count, const float *g, float *p, float *state, int64_t stride);
double orri_sum_squares(int64_t count, const float *x);
void orri_sum_tiles(int64_t count, const float *x, float *y);

#endif
