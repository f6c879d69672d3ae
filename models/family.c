/* SPDX-License-Identifier: Apache-2.0 */
#include <models/family.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <models/bert.h>
#include <models/gpt2.h>
#include <models/llama.h>

#include "core/core.h"

/* ---- the families -------------------------------------------------------------------------------------------- */

static int read_gpt2(const struct orr_config *config, struct orr_hyper *h)
{
    struct orr_gpt2 g;

    ORR_TRY(orr_gpt2_read(config, &g));
    *h = (struct orr_hyper){.vocab = g.vocab_size, .positions = g.n_positions, .width = g.n_embd, .layers = g.n_layer,
                            .shards = g.n_head, .task = g.task, .causal = true};
    return ORR_OK;
}

static struct orr_model *create_gpt2(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    struct orr_gpt2 g;

    if (orr_gpt2_read(config, &g) != 0)
        return NULL;
    g.dtype = dtype;
    return orr_gpt2_create(&g, mesh);
}

static int read_llama(const struct orr_config *config, struct orr_hyper *h)
{
    struct orr_llama l;

    ORR_TRY(orr_llama_read(config, &l));
    *h = (struct orr_hyper){.vocab = l.vocab_size, .positions = l.max_position_embeddings, .width = l.hidden_size,
                            .layers = l.num_hidden_layers, .shards = l.num_key_value_heads, .task = l.task, .causal = true};
    return ORR_OK;
}

static struct orr_model *create_llama(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    struct orr_llama l;

    if (orr_llama_read(config, &l) != 0)
        return NULL;
    l.dtype = dtype;
    return orr_llama_create(&l, mesh);
}

static int read_bert(const struct orr_config *config, struct orr_hyper *h)
{
    struct orr_bert b;

    ORR_TRY(orr_bert_read(config, &b));
    *h = (struct orr_hyper){.vocab = b.vocab_size, .positions = b.max_position_embeddings - b.first_position, .width = b.hidden_size,
                            .layers = b.num_hidden_layers, .shards = b.num_attention_heads, .task = b.task};
    return ORR_OK;
}

static struct orr_model *create_bert(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    struct orr_bert b;

    if (orr_bert_read(config, &b) != 0)
        return NULL;
    b.dtype = dtype;
    return orr_bert_create(&b, mesh);
}

static const char *const bert_dropout[] = {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", NULL};
static const char *const distilbert_dropout[] = {"dropout", "attention_dropout", "seq_classif_dropout", NULL};
static const char *const gpt2_dropout[] = {"embd_pdrop", "attn_pdrop", "resid_pdrop", NULL}, *const llama_dropout[] = {"attention_dropout",
                                                                                                                 NULL};

static const struct family {
    const char *type;
    int (*read)(const struct orr_config *config, struct orr_hyper *hyper);
    struct orr_model *(*create)(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh);
    const char *const *dropout;
    const char *class, *language;           /* of transformers, without an ending, and with that of language modelling */
} families[] = {
    {"gpt2", read_gpt2, create_gpt2, gpt2_dropout, "GPT2", "GPT2LMHeadModel"},
    {"llama", read_llama, create_llama, llama_dropout, "Llama", "LlamaForCausalLM"},
    {"mistral", read_llama, create_llama, llama_dropout, "Mistral", "MistralForCausalLM"},
    {"qwen2", read_llama, create_llama, llama_dropout, "Qwen2", "Qwen2ForCausalLM"},
    {"bert", read_bert, create_bert, bert_dropout, "Bert", NULL},
    {"roberta", read_bert, create_bert, bert_dropout, "Roberta", NULL},
    {"distilbert", read_bert, create_bert, distilbert_dropout, "DistilBert", NULL},
};

/* ---- which one -------------------------------------------------------------------------------------------------- */

static const struct family *family_of(const struct orr_config *config)
{
    const char *type = "gpt2";

    /* Only GPT-2 was ever written without. */
    if ((orr_config_has(config, "model_type") || !orr_config_has(config, "n_embd")) &&
        orr_config_string(config, "model_type", &type) != 0)
        return NULL;
    for (size_t i = 0; i < ORRI_COUNT(families); i++)
        if (strcmp(type, families[i].type) == 0)
            return &families[i];
    orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "model_type '%s' is not known to this version", type),
                "this version has gpt2, llama, mistral, qwen2, bert, roberta and distilbert");
    return NULL;
}

int orr_family_read(const struct orr_config *config, struct orr_hyper *hyper)
{
    const struct family *family = family_of(config);

    if (!family)
        return orr_error_code();
    ORR_TRY(family->read(config, hyper));
    hyper->outputs = hyper->task.labels ? hyper->task.labels : hyper->vocab;
    return ORR_OK;
}

struct orr_model *orr_family_create(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    const struct family *family = family_of(config);

    return family ? family->create(config, dtype, mesh) : NULL;
}

struct orr_config *orr_family_preset(const char *name)
{
    struct orr_config *(*const preset[])(const char *name) = {orr_gpt2_preset, orr_llama_preset, orr_bert_preset};
    struct orr_config *config = NULL;

    for (size_t i = 0; i < ORRI_COUNT(preset) && !config; i++) {
        config = preset[i](name);
        if (!config && orr_error_code() != ORR_ENOENT)
            return NULL;
    }
    return config;
}

const char *orr_family_presets(void)
{
    return "tiny-gpt2 gpt2 gpt2-medium gpt2-large gpt2-xl tiny-llama llama-3.2-1b llama-3.1-8b mistral-7b qwen2.5-0.5b tiny-bert bert-base "
           "bert-large roberta-base distilbert-base";
}

int orr_family_set_dropout(struct orr_config *config, double rate)
{
    const struct family *family = family_of(config);
    char text[64];

    if (!family)
        return orr_error_code();
    for (const char *const *key = family->dropout; *key; key++) {
        snprintf(text, sizeof(text), "%s=%.9g", *key, rate);
        ORR_TRY(orr_config_set(config, text));
    }
    return ORR_OK;
}

/* {"0": "name", ...}, or the other way round. */
static int set_labels(struct orr_config *config, const char *key, const char *const *labels, int count, bool by_name)
{
    char *text = NULL;
    size_t size;
    json_t *object = json_object();
    FILE *out = open_memstream(&text, &size);
    int failed = !object || !out;

    for (int i = 0; !failed && i < count; i++) {
        char number[16];
        snprintf(number, sizeof(number), "%d", i);
        failed = json_object_set_new(object, by_name ? labels[i] : number, by_name ? json_integer(i) : json_string(labels[i]));
    }
    if (!failed)
        failed = fprintf(out, "%s=", key) < 0 || json_dumpf(object, out, 0);
    if (out && fclose(out) != 0)
        failed = 1;
    json_decref(object);
    int status = failed ? orri_fail(ORR_ENOMEM, "labels", "no room for their names") : orr_config_set(config, text);
    free(text);
    return status;
}

int orr_family_set_task(struct orr_config *config, enum orr_task task, const char *const *labels, int count)
{
    const struct family *family = family_of(config);
    char text[128];

    if (!family)
        return orr_error_code();
    bool writes = task == ORR_TASK_LM, known = writes ? family->language != NULL : task == ORR_TASK_CLASSIFY || !family->language;
    if (!known || task == ORR_TASK_SEQ2SEQ)
        return orri_remedy(orri_fail(ORR_EINVAL, orr_config_name(config), "a %s model has no head for this task", family->type),
                           family->language ? "its tasks are lm and classify" : "its tasks are mlm, classify and tag");
    snprintf(text, sizeof(text), "architectures=[\"%s%s\"]", writes ? family->language : family->class, writes ? "" : orr_task_ending(task));
    ORR_TRY(orr_config_set(config, text));
    if (count == 0)
        return ORR_OK;
    ORR_TRY(set_labels(config, "id2label", labels, count, false));
    return set_labels(config, "label2id", labels, count, true);
}
