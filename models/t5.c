/* SPDX-License-Identifier: Apache-2.0 */
#include <models/t5.h>

#include <math.h>
#include <string.h>

#include <codelets/attention/attention.h>
#include <codelets/cross/cross.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>
#include <codelets/norm/norm.h>

#include "core/core.h"
#include "models/keys.h"

/* ---- parameters and their names in the files of T5ForConditionalGeneration -------------------------------------- */

#define ENCODER "encoder.block.%d.layer."
#define DECODER "decoder.block.%d.layer."

static const struct orr_parameter_name names[] = {
    {"source.embedding.token.weight", "shared.weight"},
    {"source.relative.norm.weight", ENCODER "0.layer_norm.weight"},
    {"source.relative.q.weight", ENCODER "0.SelfAttention.q.weight"},
    {"source.relative.k.weight", ENCODER "0.SelfAttention.k.weight"},
    {"source.relative.v.weight", ENCODER "0.SelfAttention.v.weight"},
    {"source.relative.proj.weight", ENCODER "0.SelfAttention.o.weight"},
    {"source.relative.bias.weight", ENCODER "0.SelfAttention.relative_attention_bias.weight"},
    {"source.mlp.norm.weight", ENCODER "1.layer_norm.weight"},
    {"source.mlp.fc.weight", ENCODER "1.DenseReluDense.wi.weight"},
    {"source.mlp.gate.weight", ENCODER "1.DenseReluDense.wi_0.weight"},
    {"source.mlp.up.weight", ENCODER "1.DenseReluDense.wi_1.weight"},
    {"source.mlp.proj.weight", ENCODER "1.DenseReluDense.wo.weight"},
    {"source.norm.weight", "encoder.final_layer_norm.weight"},
    {"relative.norm.weight", DECODER "0.layer_norm.weight"},
    {"relative.q.weight", DECODER "0.SelfAttention.q.weight"},
    {"relative.k.weight", DECODER "0.SelfAttention.k.weight"},
    {"relative.v.weight", DECODER "0.SelfAttention.v.weight"},
    {"relative.proj.weight", DECODER "0.SelfAttention.o.weight"},
    {"relative.bias.weight", DECODER "0.SelfAttention.relative_attention_bias.weight"},
    {"cross.norm.weight", DECODER "1.layer_norm.weight"},
    {"cross.q.weight", DECODER "1.EncDecAttention.q.weight"},
    {"cross.k.weight", DECODER "1.EncDecAttention.k.weight"},
    {"cross.v.weight", DECODER "1.EncDecAttention.v.weight"},
    {"cross.proj.weight", DECODER "1.EncDecAttention.o.weight"},
    {"mlp.norm.weight", DECODER "2.layer_norm.weight"},
    {"mlp.fc.weight", DECODER "2.DenseReluDense.wi.weight"},
    {"mlp.gate.weight", DECODER "2.DenseReluDense.wi_0.weight"},
    {"mlp.up.weight", DECODER "2.DenseReluDense.wi_1.weight"},
    {"mlp.proj.weight", DECODER "2.DenseReluDense.wo.weight"},
    {"norm.weight", "decoder.final_layer_norm.weight"},
    {"head.output.weight", "lm_head.weight"},
};

/* ---- the model ----------------------------------------------------------------------------------------- */

/* The blocks of a stack's layers, which encoder and decoder have of their own. */
struct stack {
    struct orr_embedding embedding;
    struct orr_attention attention;
    struct orr_mlp mlp;
    struct orr_last_norm norm;
};

/* Initial values as transformers draws them: q k^T, which is not scaled, begins as if it were. */
static struct stack stack_of(const struct orr_t5 *t, bool encoder)
{
    float factor = t->initializer_factor, width = 1 / sqrtf((float)t->d_model), p = t->dropout_rate, eps = t->layer_norm_epsilon;
    struct orr_style style = {.norm = ORR_RMSNORM, .matrices = ORR_OUT_IN, .biases = ORR_NO_BIASES, .source = encoder};

    return (struct stack){
        .embedding = {.vocab = t->vocab_size, .width = t->d_model, .dropout = p, .std = factor, .source = encoder},
        .attention = {.width = t->d_model, .heads = t->num_heads, .head_dim = t->d_kv, .eps = eps, .attention_dropout = p,
                      .dropout = p, .std = factor * width, .query_std = factor * width / sqrtf((float)t->d_kv),
                      .projection_std = factor / sqrtf((float)(t->num_heads * t->d_kv)), .style = style, .bidirectional = encoder,
                      .scale = 1, .buckets = t->relative_attention_num_buckets, .distance = t->relative_attention_max_distance,
                      .bias_std = factor * width},
        .mlp = {.width = t->d_model, .hidden = t->d_ff, .eps = eps, .dropout = p, .hidden_dropout = p, .std = factor * width,
                .projection_std = factor / sqrtf((float)t->d_ff), .style = style, .activation = t->activation, .gated = t->gated},
        .norm = {.width = t->d_model, .eps = eps, .dropout = p, .scale = 1, .source = encoder},
    };
}

static struct orr_block *top(struct orr_model *m)
{
    return orr_model_block(m, orr_model_block_count(m) - 1);
}

/* Of all layers the first has the bias. */
static int attend(struct orr_model *m, int layer, const struct stack *s, struct orr_block **first)
{
    ORR_TRY(orr_relative_attention(m, layer, &s->attention, *first));
    if (!*first)
        *first = top(m);
    return ORR_OK;
}

static int wire(struct orr_model *m, const struct orr_t5 *t)
{
    struct stack encoder = stack_of(t, true), decoder = stack_of(t, false);
    struct orr_cross cross = {.width = t->d_model, .heads = t->num_heads, .head_dim = t->d_kv, .eps = t->layer_norm_epsilon,
                              .scale = 1, .attention_dropout = t->dropout_rate, .dropout = t->dropout_rate,
                              .query_std = decoder.attention.query_std, .std = decoder.attention.std,
                              .projection_std = decoder.attention.projection_std};
    struct orr_head head = {.vocab = t->vocab_size, .width = t->d_model, .std = t->initializer_factor, .norm = ORR_NO_NORM};
    struct orr_block *first = NULL;

    orr_model_pack(m);
    /* e and x are the residual streams [B,T,C] of encoder and decoder. */
    ORR_TRY(orr_embedding(m, &encoder.embedding));                  /* e  = embed[source]                                */
    struct orr_block *embed = top(m);
    for (int l = 0; l < t->num_layers; l++) {
        ORR_TRY(attend(m, l, &encoder, &first));                    /* e += Wo softmax(q k^T + bias[j - i]) v            */
        ORR_TRY(orr_mlp(m, l, &encoder.mlp));                       /* e += Wo act(Wi n)                                 */
    }
    ORR_TRY(orr_last_norm(m, &encoder.norm));                       /* e  = RMSNorm(e)                                   */
    struct orr_block *source = top(m);
    ORR_TRY(orr_shared_embedding(m, &decoder.embedding, embed));    /* x  = embed[token]                                 */
    first = NULL;
    for (int l = 0; l < t->num_decoder_layers; l++) {
        ORR_TRY(attend(m, l, &decoder, &first));                    /* x += Wo softmax(q k^T + bias[j - i] + mask) v     */
        ORR_TRY(orr_cross(m, l, &cross, source));                   /* x += Wo softmax(q (Wk e)^T) Wv e                  */
        ORR_TRY(orr_mlp(m, l, &decoder.mlp));                       /* x += Wo act(Wi n)                                 */
    }
    if (t->scale_decoder_outputs)
        decoder.norm.scale = 1 / sqrtf((float)t->d_model);
    ORR_TRY(orr_last_norm(m, &decoder.norm));                       /* x  = RMSNorm(x) [d_model^-0.5]                    */
    ORR_TRY(orr_head(m, &head, t->tie_word_embeddings ? embed : NULL));     /* loss = -log softmax(Whead x)[next token]  */
    return orr_model_build(m, names, (int)ORRI_COUNT(names));
}

struct orr_model *orr_t5_create(const struct orr_t5 *t5, const struct orr_mesh *mesh)
{
    /* Which old versions stored. */
    static const char *const ignored[] = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
                                          "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", NULL};
    static const struct orr_file_rules rules = {NULL, ignored};
    struct orr_model *model = orr_model_create(mesh);

    if (!model)
        return NULL;
    orr_model_set_file_rules(model, &rules);
    if (orr_model_set_dtype(model, t5->dtype) == 0 && wire(model, t5) == 0)
        return model;
    orr_model_destroy(model);
    return NULL;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------ */

#define SIZES(layers, width, head, hidden, heads, vocab) \
    "num_layers=" #layers, "num_decoder_layers=" #layers, "d_model=" #width, "d_kv=" #head, "d_ff=" #hidden, "num_heads=" #heads, \
        "vocab_size=" #vocab

static const char *const common[] = {"architectures=[\"T5ForConditionalGeneration\"]", "model_type=t5", "is_encoder_decoder=true",
                                     "relative_attention_num_buckets=32", "relative_attention_max_distance=128", "dropout_rate=0.0",
                                     "layer_norm_epsilon=1e-6", "initializer_factor=1.0", "n_positions=512", "pad_token_id=0",
                                     "eos_token_id=1", "decoder_start_token_id=0", "torch_dtype=float32", NULL};

static const struct orri_preset presets[] = {
    {"tiny-t5", (const char *const[]){SIZES(2, 128, 32, 512, 4, 256), "feed_forward_proj=relu", "tie_word_embeddings=true", NULL}},
    {"t5-small", (const char *const[]){SIZES(6, 512, 64, 2048, 8, 32128), "feed_forward_proj=relu", "tie_word_embeddings=true", NULL}},
    {"t5-v1_1-small", (const char *const[]){SIZES(8, 512, 64, 1024, 6, 32128), "feed_forward_proj=gated-gelu",
                                            "tie_word_embeddings=false", NULL}},
};

struct orr_config *orr_t5_preset(const char *name)
{
    return orri_preset(presets, (int)ORRI_COUNT(presets), common, name);
}

static int read_feed_forward(const struct orr_config *config, struct orr_t5 *t)
{
    static const struct {
        const char *name;
        enum orr_activation activation;
        bool gated;
    } known[] = {{"relu", ORR_RELU, false},          {"gated-gelu", ORR_GELU_TANH, true}, {"gelu_new", ORR_GELU_TANH, false},
                 {"gated-silu", ORR_SILU, true},     {"gelu", ORR_GELU, false},           {"silu", ORR_SILU, false},
                 {"gated-relu", ORR_RELU, true}};
    const char *name = "relu";

    if (orr_config_has(config, "feed_forward_proj"))
        ORR_TRY(orr_config_string(config, "feed_forward_proj", &name));
    for (size_t i = 0; i < ORRI_COUNT(known); i++) {
        t->activation = known[i].activation;
        t->gated = known[i].gated;
        if (strcmp(name, known[i].name) == 0)
            return ORR_OK;
    }
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "feed_forward_proj '%s' is not supported", name),
                       "use relu or gated-gelu");
}

static int check_tokens(const struct orr_config *config, const struct orr_t5 *t)
{
    static const char *const keys[] = {"pad_token_id", "eos_token_id", "decoder_start_token_id"};
    int64_t id;

    for (size_t i = 0; i < ORRI_COUNT(keys); i++)
        if (orr_config_has(config, keys[i]))
            ORR_TRY(orr_config_int(config, keys[i], 0, t->vocab_size - 1, &id));
    return ORR_OK;
}

static int read_buckets(const struct orr_config *config, struct orr_t5 *t)
{
    ORR_TRY(orri_key_size_or(config, "relative_attention_num_buckets", 32, &t->relative_attention_num_buckets));
    ORR_TRY(orri_key_size_or(config, "relative_attention_max_distance", 128, &t->relative_attention_max_distance));
    if (t->relative_attention_num_buckets < 4 || t->relative_attention_num_buckets % 2 != 0)
        return orri_fail(ORR_EFORMAT, orr_config_name(config), "relative_attention_num_buckets %d is not an even number from 4 on",
                         t->relative_attention_num_buckets);
    if (t->relative_attention_max_distance <= t->relative_attention_num_buckets / 2)
        return orri_fail(ORR_EFORMAT, orr_config_name(config),
                         "relative_attention_max_distance %d is not above %d, half of the buckets",
                         t->relative_attention_max_distance, t->relative_attention_num_buckets / 2);
    return ORR_OK;
}

int orr_t5_read(const struct orr_config *config, struct orr_t5 *t)
{
    *t = (struct orr_t5){.dtype = ORR_F32};
    ORR_TRY(orri_key_needs(config, "is_encoder_decoder", true));
    ORR_TRY(orri_key_size(config, "vocab_size", &t->vocab_size));
    ORR_TRY(orri_key_size(config, "d_model", &t->d_model));
    ORR_TRY(orri_key_size(config, "d_ff", &t->d_ff));
    ORR_TRY(orri_key_layers(config, "num_layers", &t->num_layers));
    t->num_decoder_layers = t->num_layers;
    if (orr_config_has(config, "num_decoder_layers"))
        ORR_TRY(orri_key_layers(config, "num_decoder_layers", &t->num_decoder_layers));
    ORR_TRY(orri_key_size(config, "num_heads", &t->num_heads));
    ORR_TRY(orri_key_size_or(config, "d_kv", 64, &t->d_kv));
    if (t->d_kv > 256)
        return orri_fail(ORR_EFORMAT, orr_config_name(config), "d_kv %d is not supported: heads have at most 256", t->d_kv);
    ORR_TRY(orri_key_size_or(config, "n_positions", 512, &t->n_positions));
    ORR_TRY(read_buckets(config, t));
    ORR_TRY(read_feed_forward(config, t));
    ORR_TRY(orri_key_real_or(config, "dropout_rate", 0.99, 0.1, &t->dropout_rate));
    ORR_TRY(orri_key_real_or(config, "layer_norm_epsilon", 1, 1e-6, &t->layer_norm_epsilon));
    ORR_TRY(orri_key_real_or(config, "initializer_factor", 1000, 1, &t->initializer_factor));
    ORR_TRY(orri_key_flag_or(config, "tie_word_embeddings", true, &t->tie_word_embeddings));
    ORR_TRY(orri_key_flag_or(config, "scale_decoder_outputs", t->tie_word_embeddings, &t->scale_decoder_outputs));
    /* transformers 5 writes that heads are tied which it then takes from the file, and are not scaled. */
    t->tie_word_embeddings = t->tie_word_embeddings && t->scale_decoder_outputs;
    return check_tokens(config, t);
}
