/* SPDX-License-Identifier: Apache-2.0 */
#include <models/family.h>

#include <stdio.h>
#include <string.h>

#include <models/gpt2.h>
#include <models/llama.h>
#include <models/t5.h>

#include "core/core.h"

/* ---- the families -------------------------------------------------------------------------------------------- */

static int read_gpt2(const struct orr_config *config, struct orr_hyper *h)
{
    struct orr_gpt2 g;

    ORR_TRY(orr_gpt2_read(config, &g));
    *h = (struct orr_hyper){g.vocab_size, g.n_positions, g.n_embd, g.n_layer, g.n_head};
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
    *h = (struct orr_hyper){l.vocab_size, l.max_position_embeddings, l.hidden_size, l.num_hidden_layers, l.num_key_value_heads};
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

static int read_t5(const struct orr_config *config, struct orr_hyper *h)
{
    struct orr_t5 t;

    ORR_TRY(orr_t5_read(config, &t));
    *h = (struct orr_hyper){t.vocab_size, t.n_positions, t.d_model, t.num_layers + t.num_decoder_layers, 1};
    return ORR_OK;
}

static struct orr_model *create_t5(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    struct orr_t5 t;

    if (orr_t5_read(config, &t) != 0)
        return NULL;
    t.dtype = dtype;
    return orr_t5_create(&t, mesh);
}

static const char *const t5_dropout[] = {"dropout_rate", NULL};
static const char *const gpt2_dropout[] = {"embd_pdrop", "attn_pdrop", "resid_pdrop", NULL}, *const llama_dropout[] = {"attention_dropout",
                                                                                                                 NULL};

static const struct family {
    const char *type;
    int (*read)(const struct orr_config *config, struct orr_hyper *hyper);
    struct orr_model *(*create)(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh);
    const char *const *dropout;
} families[] = {
    {"gpt2", read_gpt2, create_gpt2, gpt2_dropout},
    {"llama", read_llama, create_llama, llama_dropout},
    {"mistral", read_llama, create_llama, llama_dropout},
    {"qwen2", read_llama, create_llama, llama_dropout},
    {"t5", read_t5, create_t5, t5_dropout},
};

/* ---- which one -------------------------------------------------------------------------------------------------- */

static const struct family *family_of(const struct orr_config *config)
{
    const char *type = "gpt2";

    if (orr_config_has(config, "model_type") && orr_config_string(config, "model_type", &type) != 0)
        return NULL;
    for (size_t i = 0; i < ORRI_COUNT(families); i++)
        if (strcmp(type, families[i].type) == 0)
            return &families[i];
    orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "model_type '%s' is not known to this version", type),
                "this version has gpt2, llama, mistral, qwen2 and t5");
    return NULL;
}

int orr_family_read(const struct orr_config *config, struct orr_hyper *hyper)
{
    const struct family *family = family_of(config);

    return family ? family->read(config, hyper) : orr_error_code();
}

struct orr_model *orr_family_create(const struct orr_config *config, enum orr_dtype dtype, const struct orr_mesh *mesh)
{
    const struct family *family = family_of(config);

    return family ? family->create(config, dtype, mesh) : NULL;
}

struct orr_config *orr_family_preset(const char *name)
{
    struct orr_config *config = orr_gpt2_preset(name);

    if (!config && orr_error_code() == ORR_ENOENT)
        config = orr_llama_preset(name);
    return config || orr_error_code() != ORR_ENOENT ? config : orr_t5_preset(name);
}

const char *orr_family_presets(void)
{
    return "tiny-gpt2 gpt2 gpt2-medium gpt2-large gpt2-xl tiny-llama llama-3.2-1b llama-3.1-8b mistral-7b qwen2.5-0.5b tiny-t5 t5-small "
           "t5-v1_1-small";
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
