/* SPDX-License-Identifier: Apache-2.0 */
#include <models/llama.h>

#include <string.h>

#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>
#include <codelets/moe/moe.h>

#include "core/core.h"
#include "models/keys.h"

/* ---- parameters and their names in the files of LlamaForCausalLM and its like ----------------------------- */

static const struct orr_parameter_name names[] = {
    {"embedding.token.weight", "model.embed_tokens.weight"},
    {"attention.norm.weight", "model.layers.%d.input_layernorm.weight"},
    {"attention.q.weight", "model.layers.%d.self_attn.q_proj.weight"},
    {"attention.k.weight", "model.layers.%d.self_attn.k_proj.weight"},
    {"attention.v.weight", "model.layers.%d.self_attn.v_proj.weight"},
    {"attention.q.bias", "model.layers.%d.self_attn.q_proj.bias"},
    {"attention.k.bias", "model.layers.%d.self_attn.k_proj.bias"},
    {"attention.v.bias", "model.layers.%d.self_attn.v_proj.bias"},
    {"attention.proj.weight", "model.layers.%d.self_attn.o_proj.weight"},
    {"attention.proj.bias", "model.layers.%d.self_attn.o_proj.bias"},
    {"mlp.norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"mlp.gate.weight", "model.layers.%d.mlp.gate_proj.weight"},
    {"mlp.up.weight", "model.layers.%d.mlp.up_proj.weight"},
    {"mlp.gate.bias", "model.layers.%d.mlp.gate_proj.bias"},
    {"mlp.up.bias", "model.layers.%d.mlp.up_proj.bias"},
    {"mlp.proj.weight", "model.layers.%d.mlp.down_proj.weight"},
    {"mlp.proj.bias", "model.layers.%d.mlp.down_proj.bias"},
    {"moe.norm.weight", "model.layers.%d.post_attention_layernorm.weight"},
    {"moe.router.weight", "model.layers.%d.block_sparse_moe.gate.weight"},
    {"moe.gate.weight", "model.layers.%d.block_sparse_moe.experts.%d.w1.weight"},
    {"moe.up.weight", "model.layers.%d.block_sparse_moe.experts.%d.w3.weight"},
    {"moe.proj.weight", "model.layers.%d.block_sparse_moe.experts.%d.w2.weight"},
    {"head.norm.weight", "model.norm.weight"},
    {"head.output.weight", "lm_head.weight"},
};

/* ---- the model ----------------------------------------------------------------------------------------- */

static int wire(struct orr_model *m, const struct orr_llama *h)
{
    float std = h->initializer_range, eps = h->rms_norm_eps;
    struct orr_style style = {.norm = ORR_RMSNORM, .matrices = ORR_OUT_IN};
    struct orr_embedding embedding = {.vocab = h->vocab_size, .width = h->hidden_size, .std = std};
    struct orr_attention attention = {.width = h->hidden_size, .heads = h->num_attention_heads, .eps = eps,
                                      .attention_dropout = h->attention_dropout, .std = std, .projection_std = std, .style = style,
                                      .kv_heads = h->num_key_value_heads, .head_dim = h->head_dim, .rotary = h->rope};
    struct orr_mlp mlp = {.width = h->hidden_size, .hidden = h->intermediate_size, .eps = eps, .std = std, .projection_std = std,
                          .style = style, .activation = h->hidden_act, .gated = 1};
    struct orr_moe moe = {.width = h->hidden_size, .hidden = h->intermediate_size, .experts = h->num_local_experts,
                          .chosen = h->num_experts_per_tok, .eps = eps, .std = std, .projection_std = std, .activation = h->hidden_act,
                          .capacity = h->expert_capacity_factor, .balance = h->router_aux_loss_coef / (float)h->num_hidden_layers};
    struct orr_head head = {.vocab = h->vocab_size, .width = h->hidden_size, .eps = eps, .std = std, .norm = ORR_RMSNORM};

    attention.style.biases = h->attention_bias;
    mlp.style.biases = h->mlp_bias ? ORR_BIASES : ORR_NO_BIASES;
    /* x is the residual stream [B,T,C]. */
    ORR_TRY(orr_embedding(m, &embedding));                  /* x  = embed[token]                                      */
    for (int l = 0; l < h->num_hidden_layers; l++) {
        attention.window = h->window[l];
        ORR_TRY(orr_attention(m, l, &attention));           /* x += Wo softmax(turn(q) turn(k)^T / sqrt(d)) v, of n = RMSNorm(x) */
        if (h->num_local_experts == 0)
            ORR_TRY(orr_mlp(m, l, &mlp));                   /* x += Wdown (silu(Wgate n) * Wup n), n = RMSNorm(x)    */
        else
            ORR_TRY(orr_moe(m, l, &moe));                   /* x += the same of some experts, weighed by the router */
    }
    struct orr_block *embed = h->tie_word_embeddings ? orr_model_block(m, 0) : NULL;
    ORR_TRY(orr_head(m, &head, embed));                     /* loss = -log softmax(Whead RMSNorm(x))[next token]      */
    return orr_model_build(m, names, (int)ORRI_COUNT(names));
}

struct orr_model *orr_llama_create(const struct orr_llama *llama, const struct orr_mesh *mesh)
{
    static const char *const ignored[] = {"*.rotary_emb.inv_freq", NULL};       /* which old versions stored */
    static const struct orr_file_rules rules = {"model.", ignored};
    struct orr_model *model = orr_model_create(mesh);

    if (!model)
        return NULL;
    orr_model_set_file_rules(model, &rules);
    if (orr_model_set_dtype(model, llama->dtype) == 0 && wire(model, llama) == 0)
        return model;
    orr_model_destroy(model);
    return NULL;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------ */

#define LLAMA "architectures=[\"LlamaForCausalLM\"]", "model_type=llama", "attention_bias=false", "mlp_bias=false"
#define SIZES(layers, width, hidden, heads, kv_heads, positions, vocab) \
    "num_hidden_layers=" #layers, "hidden_size=" #width, "intermediate_size=" #hidden, "num_attention_heads=" #heads, \
        "num_key_value_heads=" #kv_heads, "max_position_embeddings=" #positions, "vocab_size=" #vocab
#define LLAMA3(factor) \
    "rope_theta=500000.0", "rope_scaling={\"rope_type\": \"llama3\", \"factor\": " #factor ", \"low_freq_factor\": 1.0, " \
                           "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}"

static const char *const common[] = {"hidden_act=silu", "attention_dropout=0.0", "initializer_range=0.02", "torch_dtype=float32", NULL};

static const struct orri_preset presets[] = {
    {"tiny-llama", (const char *const[]){LLAMA, SIZES(4, 128, 344, 4, 2, 256, 256), "rms_norm_eps=1e-5", "rope_theta=10000.0",
                                         "rope_scaling=null", "tie_word_embeddings=true", NULL}},
    {"llama-3.2-1b", (const char *const[]){LLAMA, SIZES(16, 2048, 8192, 32, 8, 131072, 128256), "head_dim=64", "rms_norm_eps=1e-5",
                                           LLAMA3(32.0), "tie_word_embeddings=true", NULL}},
    {"llama-3.1-8b", (const char *const[]){LLAMA, SIZES(32, 4096, 14336, 32, 8, 131072, 128256), "rms_norm_eps=1e-5", LLAMA3(8.0),
                                           "tie_word_embeddings=false", NULL}},
    {"mistral-7b", (const char *const[]){"architectures=[\"MistralForCausalLM\"]", "model_type=mistral",
                                         SIZES(32, 4096, 14336, 32, 8, 32768, 32000), "sliding_window=4096", "rms_norm_eps=1e-5",
                                         "rope_theta=10000.0", "tie_word_embeddings=false", NULL}},
    {"qwen2.5-0.5b", (const char *const[]){"architectures=[\"Qwen2ForCausalLM\"]", "model_type=qwen2",
                                           SIZES(24, 896, 4864, 14, 2, 32768, 151936), "use_sliding_window=false",
                                           "rms_norm_eps=1e-6", "rope_theta=1000000.0", "tie_word_embeddings=true", NULL}},
    {"tiny-mixtral", (const char *const[]){"architectures=[\"MixtralForCausalLM\"]", "model_type=mixtral", 
                                           SIZES(4, 128, 172, 4, 2, 256, 256), "num_local_experts=4",
                                           "num_experts_per_tok=2", "router_aux_loss_coef=0.02",
                                           "output_router_logits=true", "router_jitter_noise=0.0", "sliding_window=null",
                                           "rms_norm_eps=1e-5", "rope_theta=10000.0", "tie_word_embeddings=true", NULL}},
};

struct orr_config *orr_llama_preset(const char *name)
{
    return orri_preset(presets, (int)ORRI_COUNT(presets), common, name);
}

/* The type that an object of rope keys has, in either spelling. */
static int read_scaling(const struct orr_config *rope, int *scaling)
{
    static const char *const words[] = {[ORR_ROTARY_DEFAULT] = "default", [ORR_ROTARY_LINEAR] = "linear",
                                        [ORR_ROTARY_DYNAMIC] = "dynamic", [ORR_ROTARY_LLAMA3] = "llama3"};
    const char *key = orr_config_has(rope, "rope_type") ? "rope_type" : "type", *type = words[ORR_ROTARY_DEFAULT];

    if (orr_config_has(rope, key))
        ORR_TRY(orr_config_string(rope, key, &type));
    for (*scaling = 0; *scaling < (int)ORRI_COUNT(words); ++*scaling)
        if (strcmp(type, words[*scaling]) == 0)
            return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(rope), "%s '%s' is not supported", key, type),
                       "this version has default, linear, dynamic and llama3");
}

static int read_section(const struct orr_config *rope, struct orr_rotary *r)
{
    static const char *const known[] = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings", NULL};
    const char *other = orr_config_other_key(rope, known);

    if (other)
        return orri_fail(ORR_EFORMAT, orr_config_name(rope), "%s is not supported", other);
    ORR_TRY(read_scaling(rope, &r->scaling));
    ORR_TRY(orri_key_real_or(rope, "rope_theta", 1e12, (double)r->theta, &r->theta));
    ORR_TRY(orri_key_size_or(rope, "original_max_position_embeddings", r->positions, &r->positions));
    if (r->scaling == ORR_ROTARY_DEFAULT)
        return ORR_OK;
    double factor;
    ORR_TRY(orr_config_double(rope, "factor", 1, 1e6, &factor));
    r->factor = (float)factor;
    if (r->scaling != ORR_ROTARY_LLAMA3)
        return ORR_OK;
    ORR_TRY(orri_key_real_or(rope, "low_freq_factor", 1e6, 1, &r->low));
    ORR_TRY(orri_key_real_or(rope, "high_freq_factor", 1e6, 4, &r->high));
    if (r->low >= r->high)
        return orri_fail(ORR_EFORMAT, orr_config_name(rope), "low_freq_factor %g is not below high_freq_factor %g", r->low, r->high);
    return ORR_OK;
}

/* transformers has written rope_theta with rope_scaling, and since version 5 rope_parameters with both in it. */
static int read_rope(const struct orr_config *config, struct orr_llama *h)
{
    const char *key = orr_config_has(config, "rope_parameters") ? "rope_parameters" : "rope_scaling";

    h->rope = (struct orr_rotary){.theta = 10000, .positions = h->max_position_embeddings};
    ORR_TRY(orri_key_real_or(config, "rope_theta", 1e12, (double)h->rope.theta, &h->rope.theta));
    if (orr_config_has(config, key)) {
        struct orr_config *section = orr_config_section(config, key);
        int status = section ? read_section(section, &h->rope) : orr_error_code();
        orr_config_destroy(section);
        ORR_TRY(status);
    }
    if (h->rope.theta <= 1)
        return orri_fail(ORR_EFORMAT, orr_config_name(config), "rope_theta %g is not above 1", h->rope.theta);
    return ORR_OK;
}

/* Which layers have the window: all; those from max_window_layers on; or those that layer_types names. */
static int read_windows(const struct orr_config *config, bool used, int first, struct orr_llama *h)
{
    int window = 0;

    if (used && orr_config_has(config, "sliding_window"))
        ORR_TRY(orri_key_size(config, "sliding_window", &window));
    for (int l = 0; l < h->num_hidden_layers; l++) {
        const char *type = l >= first ? "sliding_attention" : "full_attention";
        if (orr_config_has(config, "layer_types"))
            ORR_TRY(orr_config_item(config, "layer_types", l, &type));
        bool sliding = strcmp(type, "sliding_attention") == 0;
        if (!sliding && strcmp(type, "full_attention") != 0)
            return orri_fail(ORR_EFORMAT, orr_config_name(config), "layer_types: '%s' of layer %d is not supported", type, l);
        h->window[l] = sliding ? window : 0;
    }
    return ORR_OK;
}

/* What Mixtral has for the mlp. The loss of balance counts where transformers would compute it. */
static int read_experts(const struct orr_config *config, struct orr_llama *h)
{
    float jitter;
    bool balanced;

    ORR_TRY(orri_key_size_or(config, "num_local_experts", 8, &h->num_local_experts));
    ORR_TRY(orri_key_size_or(config, "num_experts_per_tok", 2, &h->num_experts_per_tok));
    ORR_TRY(orri_key_real_or(config, "router_aux_loss_coef", 1e6, 0.001, &h->router_aux_loss_coef));
    ORR_TRY(orri_key_real_or(config, "expert_capacity_factor", 1e6, 0, &h->expert_capacity_factor));
    ORR_TRY(orri_key_real_or(config, "router_jitter_noise", 1e6, 0, &jitter));
    ORR_TRY(orri_key_flag_or(config, "output_router_logits", false, &balanced));
    if (!balanced)
        h->router_aux_loss_coef = 0;
    if (jitter > 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "router_jitter_noise %g is not supported", (double)jitter),
                           "set router_jitter_noise to 0");
    if (h->num_experts_per_tok > h->num_local_experts)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "num_experts_per_tok %d is more than num_local_experts %d",
                                     h->num_experts_per_tok, h->num_local_experts),
                           "choose num_experts_per_tok from 1 to num_local_experts");
    return ORR_OK;
}

/* What the families differ in. */
static int read_variant(const struct orr_config *config, struct orr_llama *h)
{
    const char *type = "llama";
    bool bias = false, used = false;
    int first = 0;

    if (orr_config_has(config, "model_type"))
        ORR_TRY(orr_config_string(config, "model_type", &type));
    if (strcmp(type, "mistral") == 0 || strcmp(type, "mixtral") == 0) {
        used = true;
        if (strcmp(type, "mixtral") == 0)
            ORR_TRY(read_experts(config, h));
    } else if (strcmp(type, "qwen2") == 0) {
        ORR_TRY(orri_key_flag_or(config, "use_sliding_window", false, &used));
        if (orr_config_has(config, "max_window_layers")) {
            int64_t layer;
            ORR_TRY(orr_config_int(config, "max_window_layers", 0, ORR_LLAMA_LAYERS, &layer));
            first = (int)layer;
        }
        h->attention_bias = ORR_BIAS_IN;
        return read_windows(config, used, first, h);
    } else {
        ORR_TRY(orri_key_flag_or(config, "attention_bias", false, &bias));
        ORR_TRY(orri_key_flag_or(config, "mlp_bias", false, &h->mlp_bias));
    }
    h->attention_bias = bias ? ORR_BIASES : ORR_NO_BIASES;
    return read_windows(config, used, first, h);
}

static int check_heads(const struct orr_config *config, const struct orr_llama *h)
{
    const char *file = orr_config_name(config);

    if (h->num_attention_heads % h->num_key_value_heads != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, file, "num_key_value_heads %d does not divide num_attention_heads %d",
                                     h->num_key_value_heads, h->num_attention_heads),
                           "choose num_key_value_heads among the divisors of num_attention_heads");
    if (h->head_dim % 2 != 0 || h->head_dim > 256)
        return orri_fail(ORR_EFORMAT, file, "heads of %d are not supported: head_dim is even, and at most 256", h->head_dim);
    return ORR_OK;
}

int orr_llama_read(const struct orr_config *config, struct orr_llama *h)
{
    *h = (struct orr_llama){.dtype = ORR_F32};
    ORR_TRY(orri_key_refuse(config, "quantization_config"));
    ORR_TRY(orri_key_refuse(config, "partial_rotary_factor"));
    ORR_TRY(orri_key_size(config, "vocab_size", &h->vocab_size));
    ORR_TRY(orri_key_size(config, "hidden_size", &h->hidden_size));
    ORR_TRY(orri_key_size(config, "intermediate_size", &h->intermediate_size));
    ORR_TRY(orri_key_layers(config, "num_hidden_layers", &h->num_hidden_layers));
    if (h->num_hidden_layers > ORR_LLAMA_LAYERS)
        return orri_fail(ORR_EFORMAT, orr_config_name(config), "num_hidden_layers %d is more than %d", h->num_hidden_layers,
                         ORR_LLAMA_LAYERS);
    ORR_TRY(orri_key_size(config, "num_attention_heads", &h->num_attention_heads));
    ORR_TRY(orri_key_size_or(config, "num_key_value_heads", h->num_attention_heads, &h->num_key_value_heads));
    if (!orr_config_has(config, "head_dim") && h->hidden_size % h->num_attention_heads != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "num_attention_heads %d does not divide hidden_size %d",
                                     h->num_attention_heads, h->hidden_size),
                           "set head_dim, or choose num_attention_heads among the divisors of hidden_size");
    ORR_TRY(orri_key_size_or(config, "head_dim", h->hidden_size / h->num_attention_heads, &h->head_dim));
    ORR_TRY(orri_key_size_or(config, "max_position_embeddings", 2048, &h->max_position_embeddings));
    ORR_TRY(orri_key_activation(config, "hidden_act", "silu", &h->hidden_act));
    ORR_TRY(orri_key_real_or(config, "attention_dropout", 0.99, 0, &h->attention_dropout));
    ORR_TRY(orri_key_real_or(config, "rms_norm_eps", 1, 1e-6, &h->rms_norm_eps));
    ORR_TRY(orri_key_real_or(config, "initializer_range", 10, 0.02, &h->initializer_range));
    ORR_TRY(orri_key_flag_or(config, "tie_word_embeddings", false, &h->tie_word_embeddings));
    ORR_TRY(check_heads(config, h));
    ORR_TRY(read_rope(config, h));
    return read_variant(config, h);
}
