/* SPDX-License-Identifier: Apache-2.0 */
#include "models/keys.h"

#include <limits.h>
#include <string.h>

#include "core/core.h"

int orri_key_size(const struct orr_config *config, const char *key, int *value)
{
    int64_t wide;

    ORR_TRY(orr_config_int(config, key, 1, INT_MAX / 8, &wide));
    *value = (int)wide;
    return ORR_OK;
}

int orri_key_size_or(const struct orr_config *config, const char *key, int usual, int *value)
{
    *value = usual;
    return orr_config_has(config, key) ? orri_key_size(config, key, value) : ORR_OK;
}

int orri_key_layers(const struct orr_config *config, const char *key, int *value)
{
    int64_t layers;

    ORR_TRY(orr_config_int(config, key, 1, ORRI_MOST_LAYERS, &layers));
    *value = (int)layers;
    return ORR_OK;
}

int orri_key_real(const struct orr_config *config, const char *key, double max, float *value)
{
    double wide;

    ORR_TRY(orr_config_double(config, key, 0, max, &wide));
    *value = (float)wide;
    return ORR_OK;
}

int orri_key_real_or(const struct orr_config *config, const char *key, double max, double usual, float *value)
{
    *value = (float)usual;
    return orr_config_has(config, key) ? orri_key_real(config, key, max, value) : ORR_OK;
}

int orri_key_flag_or(const struct orr_config *config, const char *key, bool usual, bool *value)
{
    *value = usual;
    return orr_config_has(config, key) ? orr_config_bool(config, key, value) : ORR_OK;
}

int orri_key_needs(const struct orr_config *config, const char *key, bool needed)
{
    bool flag;

    ORR_TRY(orri_key_flag_or(config, key, needed, &flag));
    if (flag == needed)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "%s %s is not supported", key, flag ? "true" : "false"),
                       "set it to %s", needed ? "true" : "false");
}

int orri_key_not_quantized(const struct orr_config *config)
{
    if (!orr_config_has(config, "quantization_config"))
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "quantization_config is not supported"),
                       "get the model in fp32, bf16 or fp16");
}

int orri_key_activation(const struct orr_config *config, const char *key, const char *usual, int *activation)
{
    static const struct {
        const char *name;
        enum orr_activation activation;
    } known[] = {{"gelu_new", ORR_GELU_TANH}, {"gelu_pytorch_tanh", ORR_GELU_TANH}, {"gelu", ORR_GELU},
                 {"relu", ORR_RELU},          {"silu", ORR_SILU},                   {"swish", ORR_SILU}};
    const char *name = usual;

    if (orr_config_has(config, key))
        ORR_TRY(orr_config_string(config, key, &name));
    for (size_t i = 0; i < ORRI_COUNT(known); i++) {
        *activation = known[i].activation;
        if (strcmp(name, known[i].name) == 0)
            return ORR_OK;
    }
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "%s '%s' is not supported", key, name),
                       "use gelu_new, gelu, relu or silu");
}

const char *const orri_causal_heads[] = {"lm_head.weight", "score.weight", NULL};

int orri_causal_task(const struct orr_config *config, struct orr_task_head *task)
{
    ORR_TRY(orr_task_read(config, ORR_TASK_LM, task));
    if (task->task == ORR_TASK_LM || task->task == ORR_TASK_CLASSIFY)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "architectures: this model has no such head"),
                       "its tasks are lm and classify");
}

/* The table has the head's name last. */
int orri_causal_classifier(struct orr_model *model, const struct orr_head *like, int labels, const struct orr_parameter_name *names,
                           int count)
{
    struct orr_parameter_name own[64];
    struct orr_head head = *like;

    head.vocab = labels;
    ORR_TRY(orr_head(model, &head, NULL));
    for (int i = 0; i < count - 1; i++)
        own[i] = names[i];
    own[count - 1] = (struct orr_parameter_name){"head.output.weight", "score.weight", NULL};
    return orr_model_build(model, own, count);
}

static int set_all(struct orr_config *config, const char *const *keys)
{
    for (; *keys; keys++)
        ORR_TRY(orr_config_set(config, *keys));
    return ORR_OK;
}

struct orr_config *orri_preset(const struct orri_preset *presets, int count, const char *const *common, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(name, presets[i].name) != 0)
            continue;
        struct orr_config *config = orr_config_create(name);
        if (config && set_all(config, common) == 0 && set_all(config, presets[i].keys) == 0)
            return config;
        orr_config_destroy(config);
        return NULL;
    }
    orri_fail(ORR_ENOENT, name, "there is no preset of this name");
    return NULL;
}
