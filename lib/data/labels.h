/* SPDX-License-Identifier: Apache-2.0 */
/* The labels that occur, collected while files are read. */
#ifndef ORRI_LABELS_H
#define ORRI_LABELS_H

#include <stddef.h>

#include <orrery/examples.h>

/* In the order of their bytes. */
struct orri_label_set {
    int count;
    char **names;
};

/* Adds a name without a zero byte in it, where it is not there. ORR_EFORMAT for one that is not UTF-8 or one too
 * many, ORR_ENOMEM. */
int orri_label_set_add(struct orri_label_set *set, const char *name, size_t size);
void orri_label_set_free(struct orri_label_set *set);

/* What orr_examples_open() says of the order of labels; the set is still to be freed. */
struct orr_labels *orri_label_set_finish(struct orri_label_set *set);

#endif
