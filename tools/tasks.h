/* SPDX-License-Identifier: Apache-2.0 */
/* Data with labels, and masked text: what a model's task makes of --data. */
#ifndef TOOLS_TASKS_H
#define TOOLS_TASKS_H

#include "tools/tools.h"

struct task_data {
    struct orr_examples *examples, *held_out;           /* held_out: of --val                        */
    struct orr_sequences *sequences, *held_out_sequences;
    struct orr_packing *train, *validation;
    struct orr_corpus *corpus, *validation_corpus;      /* of masked text                            */
    struct orr_masking masking, validation_masking;
    struct orr_row_source rows, validation_rows;
    int64_t validation_count;                           /* rows; 0: there is nothing to evaluate     */
    int64_t tokens;                                     /* that are trained on in an epoch           */
    uint64_t fingerprint;
};

/* Makes the configuration that of --task, or of what the endings of --data tell: a classifier's has the labels of the data, unless it is
 * one for the same task already, whose labels hold. *task is what it is for then. Before the model is made. */
int choose_task(struct orr_config *config, enum orr_task *task);

/* Whether --data is read as rows for this task: else it is the tokens of a language model. */
bool has_rows(enum orr_task task);

/* Opens --data, and --val or what --val-fraction holds out, for sequences of `seq` tokens; longer ones are cut with --truncate. */
int open_task(const struct opened *o, int seq, struct task_data *data);

/* Opens --data alone, in its order, as data->validation. */
int open_task_in_order(const struct opened *o, int seq, struct task_data *data);

/* Rows of `epochs` passes over the training data. */
int count_rows(struct task_data *data, double epochs, int64_t *rows);

void close_task(struct task_data *data);

#endif
