/* SPDX-License-Identifier: Apache-2.0 */
#include <models/gpt2.h>

#include <math.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "core/core.h"
#include "models/keys.h"

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
    struct orr_embedding embedding = {.vocab = g->vocab_size, .positions = g->n_positions, .width = g->n_embd, .dropout = g->embd_pdrop,
                                      .std = std};
    struct orr_attention attention = {.width = g->n_embd, .heads = g->n_head, .eps = g->layer_norm_epsilon,
                                      .attention_dropout = g->attn_pdrop, .dropout = g->resid_pdrop, .std = std,
                                      .projection_std = residual_std};
    struct orr_mlp mlp = {.width = g->n_embd, .hidden = g->n_inner, .eps = g->layer_norm_epsilon, .dropout = g->resid_pdrop,
                          .std = std, .projection_std = residual_std, .activation = g->activation_function};
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
    static const char *const ignored[] = {"*.attn.bias", "*.attn.masked_bias", NULL};    /* masks that old versions stored */
    static const struct orr_file_rules rules = {"transformer.", ignored};
    struct orr_model *model = orr_model_create(mesh);

    if (model)
        orr_model_set_file_rules(model, &rules);
    if (model && (orr_model_set_dtype(model, gpt->dtype) != 0 || wire(model, gpt) != 0)) {
        orr_model_destroy(model);
        return NULL;
    }
    return model;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------ */

static const char *const common[] = {
    "architectures=[\"GPT2LMHeadModel\"]", "model_type=gpt2", "activation_function=gelu_new", "n_inner=null", "embd_pdrop=0.0",
    "attn_pdrop=0.0", "resid_pdrop=0.0", "layer_norm_epsilon=1e-5", "initializer_range=0.02", "tie_word_embeddings=true",
    "torch_dtype=float32", NULL,
};

#define PRESET(name, layers, width, heads, positions, vocab) \
    {name, (const char *const[]){"n_layer=" #layers, "n_embd=" #width, "n_head=" #heads, "n_positions=" #positions, \
                                 "n_ctx=" #positions, "vocab_size=" #vocab, NULL}}

static const struct orri_preset presets[] = {
    PRESET("tiny-gpt2", 4, 128, 4, 256, 256),          PRESET("gpt2", 12, 768, 12, 1024, 50257),
    PRESET("gpt2-medium", 24, 1024, 16, 1024, 50257),  PRESET("gpt2-large", 36, 1280, 20, 1024, 50257),
    PRESET("gpt2-xl", 48, 1600, 25, 1024, 50257),
};

struct orr_config *orr_gpt2_preset(const char *name)
{
    return orri_preset(presets, (int)ORRI_COUNT(presets), common, name);
}

int orr_gpt2_read(const struct orr_config *config, struct orr_gpt2 *g)
{
    g->dtype = ORR_F32;
    ORR_TRY(orri_key_activation(config, "activation_function", "gelu_new", &g->activation_function));
    ORR_TRY(orri_key_needs(config, "scale_attn_weights", true));
    ORR_TRY(orri_key_needs(config, "scale_attn_by_inverse_layer_idx", false));
    ORR_TRY(orri_key_refuse(config, "quantization_config"));
    ORR_TRY(orri_key_size(config, "vocab_size", &g->vocab_size));
    ORR_TRY(orri_key_size(config, "n_positions", &g->n_positions));
    ORR_TRY(orri_key_size(config, "n_embd", &g->n_embd));
    ORR_TRY(orri_key_layers(config, "n_layer", &g->n_layer));
    ORR_TRY(orri_key_size(config, "n_head", &g->n_head));
    ORR_TRY(orri_key_size_or(config, "n_inner", 4 * g->n_embd, &g->n_inner));
    ORR_TRY(orri_key_real_or(config, "embd_pdrop", 0.99, 0.1, &g->embd_pdrop));
    ORR_TRY(orri_key_real_or(config, "attn_pdrop", 0.99, 0.1, &g->attn_pdrop));
    ORR_TRY(orri_key_real_or(config, "resid_pdrop", 0.99, 0.1, &g->resid_pdrop));
    ORR_TRY(orri_key_real_or(config, "layer_norm_epsilon", 1, 1e-5, &g->layer_norm_epsilon));
    ORR_TRY(orri_key_real_or(config, "initializer_range", 10, 0.02, &g->initializer_range));
    ORR_TRY(orri_key_flag_or(config, "tie_word_embeddings", true, &g->tie_word_embeddings));
    if (g->n_embd % g->n_head != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "n_head %d does not divide n_embd %d",
                                     g->n_head, g->n_embd),
                           "choose n_head among the divisors of n_embd");
    return ORR_OK;
}
