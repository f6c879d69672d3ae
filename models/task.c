/* SPDX-License-Identifier: Apache-2.0 */
#include <models/task.h>

#include <stdio.h>
#include <string.h>

#include "core/core.h"

static const struct {
    const char *ending;
    enum orr_task task;
} endings[] = {
    {"ForCausalLM", ORR_TASK_LM},
    {"LMHeadModel", ORR_TASK_LM},
    {"ForMaskedLM", ORR_TASK_MLM},
    {"ForPreTraining", ORR_TASK_MLM},
    {"ForSequenceClassification", ORR_TASK_CLASSIFY},
    {"ForTokenClassification", ORR_TASK_TAG},
    {"ForConditionalGeneration", ORR_TASK_SEQ2SEQ},
};

const char *orr_task_ending(enum orr_task task)
{
    for (size_t i = 2; i < ORRI_COUNT(endings); i++)
        if (endings[i].task == task)
            return endings[i].ending;
    return "";
}

/* The numbers in id2label are 0, 1, 2, ... */
static int count_labels(const struct orr_config *config, int *labels)
{
    int64_t number = 2;
    char key[16];

    if (orr_config_has(config, "num_labels"))
        ORR_TRY(orr_config_int(config, "num_labels", 1, 1 << 20, &number));
    *labels = (int)number;
    if (!orr_config_has(config, "id2label"))
        return ORR_OK;
    struct orr_config *names = orr_config_section(config, "id2label");
    if (!names)
        return orr_error_code();
    for (*labels = 0; snprintf(key, sizeof(key), "%d", *labels), orr_config_has(names, key); ++*labels)
        ;
    orr_config_destroy(names);
    return *labels > 0 ? ORR_OK : orri_fail(ORR_EFORMAT, orr_config_name(config), "id2label has no label 0");
}

int orr_task_read(const struct orr_config *config, enum orr_task usual, struct orr_task_head *head)
{
    const char *name = "";

    *head = (struct orr_task_head){.task = usual};
    if (orr_config_has(config, "architectures")) {
        ORR_TRY(orr_config_item(config, "architectures", 0, &name));
        size_t i = 0, n = strlen(name);
        for (; i < ORRI_COUNT(endings); i++) {
            size_t m = strlen(endings[i].ending);
            if (n > m && strcmp(name + n - m, endings[i].ending) == 0)
                break;
        }
        if (i < ORRI_COUNT(endings))
            head->task = endings[i].task;
        else if (n < 5 || strcmp(name + n - 5, "Model") != 0)
            return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "architectures: '%s' is not known to this version", name),
                               "this version has language models, masked ones, and classification of sequences and tokens");
    }
    return head->task == ORR_TASK_CLASSIFY || head->task == ORR_TASK_TAG ? count_labels(config, &head->labels) : ORR_OK;
}
