/* SPDX-License-Identifier: Apache-2.0 */
#include <models/gpt2.h>

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "core/core.h"

/* ---- parameters and their names in GPT2LMHeadModel's files -------------------------------------------- */

static const struct orr_parameter_name names[] = {
    {"embedding.token.weight", "transformer.wte.weight"},
    {"embedding.position.weight", "transformer.wpe.weight"},
    {"attention.norm.weight", "transformer.h.%d.ln_1.weight"},
    {"attention.norm.bias", "transformer.h.%d.ln_1.bias"},
    {"attention.qkv.weight", "transformer.h.%d.attn.c_attn.weight"},
    {"attention.qkv.bias", "transformer.h.%d.attn.c_attn.bias"},
    {"attention.proj.weight", "transformer.h.%d.attn.c_proj.weight"},
    {"attention.proj.bias", "transformer.h.%d.attn.c_proj.bias"},
    {"mlp.norm.weight", "transformer.h.%d.ln_2.weight"},
    {"mlp.norm.bias", "transformer.h.%d.ln_2.bias"},
    {"mlp.fc.weight", "transformer.h.%d.mlp.c_fc.weight"},
    {"mlp.fc.bias", "transformer.h.%d.mlp.c_fc.bias"},
    {"mlp.proj.weight", "transformer.h.%d.mlp.c_proj.weight"},
    {"mlp.proj.bias", "transformer.h.%d.mlp.c_proj.bias"},
    {"head.norm.weight", "transformer.ln_f.weight"},
    {"head.norm.bias", "transformer.ln_f.bias"},
    {"head.output.weight", "lm_head.weight"},
};

/* ---- the model ----------------------------------------------------------------------------------------- */

static int wire(struct orr_model *m, const struct orr_gpt2 *g)
{
    /* Projections onto the residual stream start smaller, by 1/sqrt of their number (section 2.3). */
    float std = g->initializer_range, residual_std = std / sqrtf(2 * (float)g->n_layer);
    struct orr_embedding embedding = {g->vocab_size, g->n_positions, g->n_embd, g->embd_pdrop, std};
    struct orr_attention attention = {.width = g->n_embd, .heads = g->n_head, .eps = g->layer_norm_epsilon,
                                      .attention_dropout = g->attn_pdrop, .dropout = g->resid_pdrop, .std = std,
                                      .projection_std = residual_std};
    struct orr_mlp mlp = {.width = g->n_embd, .hidden = g->n_inner, .eps = g->layer_norm_epsilon, .dropout = g->resid_pdrop,
                          .std = std, .projection_std = residual_std};
    struct orr_head head = {.vocab = g->vocab_size, .width = g->n_embd, .eps = g->layer_norm_epsilon, .std = std};

    /* x is the residual stream [B,T,C]. */
    ORR_TRY(orr_embedding(m, &embedding));                  /* x  = wte[token] + wpe[position]               */
    for (int l = 0; l < g->n_layer; l++) {
        ORR_TRY(orr_attention(m, l, &attention));           /* x += proj(softmax(q k^T / sqrt(d)) v), of LN(x) */
        ORR_TRY(orr_mlp(m, l, &mlp));                       /* x += W2 gelu(W1 LN(x))                        */
    }
    struct orr_block *wte = g->tie_word_embeddings ? orr_model_block(m, 0) : NULL;
    ORR_TRY(orr_head(m, &head, wte));                       /* loss = -log softmax(LN(x) wte^T)[next token]  */
    return orr_model_build(m, names, (int)ORRI_COUNT(names));
}

struct orr_model *orr_gpt2_create(const struct orr_gpt2 *gpt, const struct orr_mesh *mesh)
{
    struct orr_model *model = orr_model_create(mesh);

    if (model && (orr_model_set_dtype(model, gpt->dtype) != 0 || wire(model, gpt) != 0)) {
        orr_model_destroy(model);
        return NULL;
    }
    return model;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int n_layer, n_embd, n_head, n_positions, vocab_size;
} presets[] = {
    {"tiny-gpt2", 4, 128, 4, 256, 256},         {"gpt2", 12, 768, 12, 1024, 50257},
    {"gpt2-medium", 24, 1024, 16, 1024, 50257}, {"gpt2-large", 36, 1280, 20, 1024, 50257},
    {"gpt2-xl", 48, 1600, 25, 1024, 50257},
};

struct orr_config *orr_gpt2_preset(const char *name)
{
    for (size_t i = 0; i < ORRI_COUNT(presets); i++) {
        if (strcmp(name, presets[i].name) != 0)
            continue;
        struct orr_config *config = orr_config_create(name);
        char numbers[][32] = {"n_layer=", "n_embd=", "n_head=", "n_positions=", "n_ctx=", "vocab_size="};
        int values[] = {presets[i].n_layer,     presets[i].n_embd,      presets[i].n_head,
                        presets[i].n_positions, presets[i].n_positions, presets[i].vocab_size};
        static const char *const fixed[] = {
            "architectures=[\"GPT2LMHeadModel\"]", "model_type=gpt2",  "activation_function=gelu_new",
            "n_inner=null",                        "embd_pdrop=0.0",   "attn_pdrop=0.0",
            "resid_pdrop=0.0",                     "layer_norm_epsilon=1e-5",
            "initializer_range=0.02",              "tie_word_embeddings=true", "torch_dtype=float32",
        };
        int status = config ? ORR_OK : ORR_ENOMEM;
        for (size_t k = 0; status == 0 && k < ORRI_COUNT(fixed); k++)
            status = orr_config_set(config, fixed[k]);
        for (size_t k = 0; status == 0 && k < ORRI_COUNT(numbers); k++) {
            snprintf(numbers[k] + strlen(numbers[k]), sizeof(numbers[k]) - strlen(numbers[k]), "%d", values[k]);
            status = orr_config_set(config, numbers[k]);
        }
        if (status == 0)
            return config;
        orr_config_destroy(config);
        return NULL;
    }
    orri_fail(ORR_ENOENT, name, "there is no preset of this name");
    return NULL;
}

enum { MAX_LAYERS = 10000 };    /* what follows, up to the memory check, is quick for so many */

static int read_int(const struct orr_config *config, const char *key, int *value)
{
    int64_t wide;

    ORR_TRY(orr_config_int(config, key, 1, INT_MAX / 8, &wide));
    *value = (int)wide;
    return ORR_OK;
}

/* Keys that have a default in GPT2Config. */
static int read_float(const struct orr_config *config, const char *key, double max, double usual, float *value)
{
    double wide = usual;

    if (orr_config_has(config, key))
        ORR_TRY(orr_config_double(config, key, 0, max, &wide));
    *value = (float)wide;
    return ORR_OK;
}

/* What would make another model of it than the one built here is refused by name. */
static int check_variant(const struct orr_config *config)
{
    static const struct {
        const char *key;
        bool needed;
    } flags[] = {{"scale_attn_weights", true}, {"scale_attn_by_inverse_layer_idx", false}};
    const char *activation = "gelu_new";

    if (orr_config_has(config, "activation_function"))
        ORR_TRY(orr_config_string(config, "activation_function", &activation));
    if (strcmp(activation, "gelu_new") != 0 && strcmp(activation, "gelu_pytorch_tanh") != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config),
                                     "activation_function '%s' is not supported", activation),
                           "use gelu_new");
    for (size_t i = 0; i < ORRI_COUNT(flags); i++) {
        bool flag = flags[i].needed;
        if (orr_config_has(config, flags[i].key))
            ORR_TRY(orr_config_bool(config, flags[i].key, &flag));
        if (flag != flags[i].needed)
            return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "%s %s is not supported",
                                         flags[i].key, flag ? "true" : "false"),
                               "set it to %s", flags[i].needed ? "true" : "false");
    }
    return ORR_OK;
}

int orr_gpt2_read(const struct orr_config *config, struct orr_gpt2 *g)
{
    g->dtype = ORR_F32;
    ORR_TRY(check_variant(config));
    ORR_TRY(read_int(config, "vocab_size", &g->vocab_size));
    ORR_TRY(read_int(config, "n_positions", &g->n_positions));
    ORR_TRY(read_int(config, "n_embd", &g->n_embd));
    int64_t layers;
    ORR_TRY(orr_config_int(config, "n_layer", 1, MAX_LAYERS, &layers));
    g->n_layer = (int)layers;
    ORR_TRY(read_int(config, "n_head", &g->n_head));
    g->n_inner = 4 * g->n_embd;
    if (orr_config_has(config, "n_inner"))
        ORR_TRY(read_int(config, "n_inner", &g->n_inner));
    ORR_TRY(read_float(config, "embd_pdrop", 0.99, 0.1, &g->embd_pdrop));
    ORR_TRY(read_float(config, "attn_pdrop", 0.99, 0.1, &g->attn_pdrop));
    ORR_TRY(read_float(config, "resid_pdrop", 0.99, 0.1, &g->resid_pdrop));
    ORR_TRY(read_float(config, "layer_norm_epsilon", 1, 1e-5, &g->layer_norm_epsilon));
    ORR_TRY(read_float(config, "initializer_range", 10, 0.02, &g->initializer_range));
    g->tie_word_embeddings = true;
    if (orr_config_has(config, "tie_word_embeddings"))
        ORR_TRY(orr_config_bool(config, "tie_word_embeddings", &g->tie_word_embeddings));
    if (g->n_embd % g->n_head != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "n_head %d does not divide n_embd %d",
                                     g->n_head, g->n_embd),
                           "choose n_head among the divisors of n_embd");
    return ORR_OK;
}
