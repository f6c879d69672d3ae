/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of config.json, as the models read them: errors are orr_config_int()'s and so on. */
#ifndef ORRI_KEYS_H
#define ORRI_KEYS_H

#include <codelets/head/head.h>
#include <codelets/layer.h>
#include <models/task.h>
#include <orrery/config.h>

enum { ORRI_MOST_LAYERS = 10000 };      /* what follows, up to the memory check, is quick for so many */

/* A size that must be there, from 1 on; or that has a default. */
int orri_key_size(const struct orr_config *config, const char *key, int *value);
int orri_key_size_or(const struct orr_config *config, const char *key, int usual, int *value);

/* How many layers, at most ORRI_MOST_LAYERS. */
int orri_key_layers(const struct orr_config *config, const char *key, int *value);

/* A number in 0..max that must be there; a number and a flag that have a default. */
int orri_key_real(const struct orr_config *config, const char *key, double max, float *value);
int orri_key_real_or(const struct orr_config *config, const char *key, double max, double usual, float *value);
int orri_key_flag_or(const struct orr_config *config, const char *key, bool usual, bool *value);

/* A flag that would make another model of it: ORR_EFORMAT unless it is missing or as needed. */
int orri_key_needs(const struct orr_config *config, const char *key, bool needed);

/* Parameters that are stored in another way than as numbers: ORR_EFORMAT. */
int orri_key_not_quantized(const struct orr_config *config);

/* An activation by its name in transformers. */
int orri_key_activation(const struct orr_config *config, const char *key, const char *usual, int *activation);

/* The task of a causal model: language modelling, or classification. ORR_EFORMAT for another. */
int orri_causal_task(const struct orr_config *config, struct orr_task_head *task);

/* Its head: logits of the labels, by "score.weight", at the last token; ends the model. And patterns of the tensors of its heads. */
int orri_causal_classifier(struct orr_model *model, const struct orr_head *like, int labels, const struct orr_parameter_name *names,
                           int count);
extern const char *const orri_causal_heads[];

/* A preset: a name and what it sets, ended by NULL. */
struct orri_preset {
    const char *name;
    const char *const *keys;
};

/* The one called `name` of `count`, after what all of a family have in common; NULL with ORR_ENOENT where there is none. */
struct orr_config *orri_preset(const struct orri_preset *presets, int count, const char *const *common, const char *name);

#endif
