/* SPDX-License-Identifier: Apache-2.0 */
/* What a model is for: its head. */
#ifndef ORRERY_TASK_H
#define ORRERY_TASK_H

#include <orrery/config.h>

#ifdef __cplusplus
extern "C" {
#endif

enum orr_task {
    ORR_TASK_LM,            /* the next token                                  */
    ORR_TASK_MLM,           /* masked tokens                                   */
    ORR_TASK_CLASSIFY,      /* a label for a sequence                          */
    ORR_TASK_TAG,           /* a label for each token                          */
    ORR_TASK_SEQ2SEQ        /* a sequence from another                         */
};

struct orr_task_head {
    enum orr_task task;
    int labels;             /* of ORR_TASK_CLASSIFY and ORR_TASK_TAG           */
};

/* What "architectures" tells: the ending of its first name, as in BertForSequenceClassification, or `usual` where there is none; labels
 * are those of "id2label", or "num_labels" (2). ORR_EFORMAT for an ending that is not known to this version. */
int orr_task_read(const struct orr_config *config, enum orr_task usual, struct orr_task_head *head);

/* The ending: "ForMaskedLM"; "" of language modelling, whose endings differ. */
const char *orr_task_ending(enum orr_task task);

#ifdef __cplusplus
}
#endif
#endif
