/* SPDX-License-Identifier: Apache-2.0 */
/* Models of every family by their config.json. */
#ifndef ORRERY_FAMILY_H
#define ORRERY_FAMILY_H

#include <stdbool.h>

#include <orrery/config.h>
#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What all models have, whatever their family calls it. */
struct orr_hyper {
    int vocab, positions, width, layers;    /* V, T, C, L                                        */
    int shards;                             /* into which every block can be cut: the most that --tp may be */
};

/* Reads and checks the hyper-parameters of a model; its family is the one of "model_type", which is gpt2 where it is missing. ORR_ENOENT
 * or ORR_EFORMAT naming file and key. */
int orr_family_read(const struct orr_config *config, struct orr_hyper *hyper);

/* The model, in a dtype to compute in: blocks in place, parameters not yet allocated. NULL with the error of reading or of
 * orr_model_build(). */
struct orr_model *orr_family_create(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh);

/* A preset of any family. NULL with ORR_ENOENT where there is none of that name. And the names of all, separated by blanks. */
struct orr_config *orr_family_preset(const char *name);
const char *orr_family_presets(void);

/* Sets the family's dropout rates. ORR_EFORMAT, ORR_EINVAL. */
int orr_family_set_dropout(struct orr_config *config, double rate);

#ifdef __cplusplus
}
#endif
#endif
