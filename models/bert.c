/* SPDX-License-Identifier: Apache-2.0 */
#include <models/bert.h>

#include <stdio.h>
#include <string.h>

#include <codelets/attention/attention.h>
#include <codelets/dense/dense.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "core/core.h"
#include "models/keys.h"

/* ---- parameters and their names in files ------------------------------------------------------------------- */

/* A norm follows its sum in these models and begins the next block here, so that a layer's last is found in the layer behind it, and
 * the first layer has the embedding's. What a head has is last, by kind and task. */
#define LAYER "bert.encoder.layer.%d."
static const struct orr_parameter_name bert_names[] = {
    {"embedding.token.weight", "bert.embeddings.word_embeddings.weight", NULL},
    {"embedding.position.weight", "bert.embeddings.position_embeddings.weight", NULL},
    {"embedding.type.weight", "bert.embeddings.token_type_embeddings.weight", NULL},
    {"attention.norm.weight", LAYER "output.LayerNorm.weight", "bert.embeddings.LayerNorm.weight"},
    {"attention.norm.bias", LAYER "output.LayerNorm.bias", "bert.embeddings.LayerNorm.bias"},
    {"attention.q.weight", LAYER "attention.self.query.weight", NULL},
    {"attention.q.bias", LAYER "attention.self.query.bias", NULL},
    {"attention.k.weight", LAYER "attention.self.key.weight", NULL},
    {"attention.k.bias", LAYER "attention.self.key.bias", NULL},
    {"attention.v.weight", LAYER "attention.self.value.weight", NULL},
    {"attention.v.bias", LAYER "attention.self.value.bias", NULL},
    {"attention.proj.weight", LAYER "attention.output.dense.weight", NULL},
    {"attention.proj.bias", LAYER "attention.output.dense.bias", NULL},
    {"mlp.norm.weight", LAYER "attention.output.LayerNorm.weight", NULL},
    {"mlp.norm.bias", LAYER "attention.output.LayerNorm.bias", NULL},
    {"mlp.fc.weight", LAYER "intermediate.dense.weight", NULL},
    {"mlp.fc.bias", LAYER "intermediate.dense.bias", NULL},
    {"mlp.proj.weight", LAYER "output.dense.weight", NULL},
    {"mlp.proj.bias", LAYER "output.dense.bias", NULL},
};
#undef LAYER

#define LAYER "distilbert.transformer.layer.%d."
static const struct orr_parameter_name distilbert_names[] = {
    {"embedding.token.weight", "distilbert.embeddings.word_embeddings.weight", NULL},
    {"embedding.position.weight", "distilbert.embeddings.position_embeddings.weight", NULL},
    {"attention.norm.weight", LAYER "output_layer_norm.weight", "distilbert.embeddings.LayerNorm.weight"},
    {"attention.norm.bias", LAYER "output_layer_norm.bias", "distilbert.embeddings.LayerNorm.bias"},
    {"attention.q.weight", LAYER "attention.q_lin.weight", NULL},
    {"attention.q.bias", LAYER "attention.q_lin.bias", NULL},
    {"attention.k.weight", LAYER "attention.k_lin.weight", NULL},
    {"attention.k.bias", LAYER "attention.k_lin.bias", NULL},
    {"attention.v.weight", LAYER "attention.v_lin.weight", NULL},
    {"attention.v.bias", LAYER "attention.v_lin.bias", NULL},
    {"attention.proj.weight", LAYER "attention.out_lin.weight", NULL},
    {"attention.proj.bias", LAYER "attention.out_lin.bias", NULL},
    {"mlp.norm.weight", LAYER "sa_layer_norm.weight", NULL},
    {"mlp.norm.bias", LAYER "sa_layer_norm.bias", NULL},
    {"mlp.fc.weight", LAYER "ffn.lin1.weight", NULL},
    {"mlp.fc.bias", LAYER "ffn.lin1.bias", NULL},
    {"mlp.proj.weight", LAYER "ffn.lin2.weight", NULL},
    {"mlp.proj.bias", LAYER "ffn.lin2.bias", NULL},
};
#undef LAYER

enum { BODY = (int)ORRI_COUNT(bert_names), HEAD = 8, NAME = 80 };

/* Of a head: its dense block, the norm of its logits, and these. */
struct head_names {
    const char *dense, *norm, *output, *bias;
};

static const struct head_names heads[][3] = {
    [ORR_BERT] = {{"cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "", "cls.predictions.bias"},
                  {"bert.pooler.dense", "", "classifier", "classifier.bias"},
                  {"", "", "classifier", "classifier.bias"}},
    [ORR_ROBERTA] = {{"lm_head.dense", "lm_head.layer_norm", "", "lm_head.bias"},
                     {"classifier.dense", "", "classifier.out_proj", "classifier.out_proj.bias"},
                     {"", "", "classifier", "classifier.bias"}},
    [ORR_DISTILBERT] = {{"vocab_transform", "vocab_layer_norm", "", "vocab_projector.bias"},
                        {"pre_classifier", "", "classifier", "classifier.bias"},
                        {"", "", "classifier", "classifier.bias"}},
};

struct names {
    struct orr_parameter_name name[BODY + HEAD];
    int count;
    char text[BODY + HEAD][2][NAME + 16];
};

static void add_name(struct names *n, const char *view, const char *file, const char *part)
{
    char *text = n->text[n->count][0];

    snprintf(text, sizeof(n->text[0][0]), "%s%s", file, part);
    n->name[n->count++] = (struct orr_parameter_name){view, text, NULL};
}

/* RoBERTa's are BERT's with another beginning. */
static void body_names(enum orr_bert_kind kind, struct names *n)
{
    const struct orr_parameter_name *from = kind == ORR_DISTILBERT ? distilbert_names : bert_names;
    int count = kind == ORR_DISTILBERT ? (int)ORRI_COUNT(distilbert_names) : BODY;

    for (; n->count < count; n->count++) {
        const char *file[2] = {from[n->count].file, from[n->count].first};
        for (int i = 0; i < 2; i++)
            if (file[i] && kind == ORR_ROBERTA)
                file[i] = (snprintf(n->text[n->count][i], NAME, "roberta%s", file[i] + strlen("bert")), n->text[n->count][i]);
        n->name[n->count] = (struct orr_parameter_name){from[n->count].view, file[0], file[1]};
    }
}

static void head_names(const struct orr_bert *b, struct names *n)
{
    const struct head_names *h = &heads[b->kind][b->task.task == ORR_TASK_MLM ? 0 : b->task.task == ORR_TASK_CLASSIFY ? 1 : 2];
    const char *last[2] = {NULL, NULL};
    char of[2][NAME];

    for (int i = 0; i < n->count; i++)
        for (int k = 0; k < 2; k++)
            if (strcmp(n->name[i].view, k ? "attention.norm.bias" : "attention.norm.weight") == 0)
                last[k] = n->name[i].file;
    for (int k = 0; k < 2; k++)
        snprintf(of[k], NAME, last[k], b->num_hidden_layers - 1);
    if (*h->dense) {
        add_name(n, "dense.norm.weight", of[0], "");
        add_name(n, "dense.norm.bias", of[1], "");
        add_name(n, "dense.weight", h->dense, ".weight");
        add_name(n, "dense.bias", h->dense, ".bias");
    }
    add_name(n, "head.norm.weight", *h->norm ? h->norm : of[0], *h->norm ? ".weight" : "");
    add_name(n, "head.norm.bias", *h->norm ? h->norm : of[1], *h->norm ? ".bias" : "");
    add_name(n, "head.output.weight", h->output, ".weight");
    add_name(n, "head.output.bias", h->bias, "");
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

/* From the last sum to the loss. */
static int wire_head(struct orr_model *m, const struct orr_bert *b)
{
    bool masked = b->task.task == ORR_TASK_MLM, pooled = b->task.task == ORR_TASK_CLASSIFY;
    int pool = b->kind == ORR_DISTILBERT ? ORR_RELU : ORR_TANH;
    struct orr_dense dense = {.width = b->hidden_size, .out = b->hidden_size, .eps = b->layer_norm_eps, .std = b->initializer_range,
                              .dropout = pooled ? b->classifier_dropout : 0, .activation = pooled ? pool : b->hidden_act};
    struct orr_head head = {.vocab = masked ? b->vocab_size : b->task.labels, .width = b->hidden_size, .eps = b->layer_norm_eps,
                            .std = b->initializer_range, .norm = pooled ? ORR_NO_NORM : ORR_LAYERNORM, .bias = 1};

    if (masked || pooled)
        ORR_TRY(orr_dense(m, 0, &dense));                   /* z = act(W n + b), n = LN(z)                            */
    return orr_head(m, &head, masked ? orr_model_block(m, 0) : NULL);   /* loss = -log softmax(W' n + b')[label], n = LN(z) or z */
}

static int wire(struct orr_model *m, const struct orr_bert *b)
{
    float std = b->initializer_range, eps = b->layer_norm_eps, dropout = b->hidden_dropout_prob;
    struct orr_style style = {.residual = ORR_OF_NORM, .matrices = ORR_OUT_IN};
    struct orr_embedding embedding = {.vocab = b->vocab_size, .positions = b->max_position_embeddings, .width = b->hidden_size,
                                      .std = std, .types = b->type_vocab_size, .first_position = b->first_position};
    struct orr_attention attention = {.width = b->hidden_size, .heads = b->num_attention_heads, .eps = eps,
                                      .attention_dropout = b->attention_probs_dropout_prob, .dropout = dropout, .std = std,
                                      .projection_std = std, .style = style, .bidirectional = 1};
    struct orr_mlp mlp = {.width = b->hidden_size, .hidden = b->intermediate_size, .eps = eps, .dropout = dropout, .std = std,
                          .projection_std = std, .style = style, .activation = b->hidden_act};
    struct names n = {.count = 0};

    /* z are the sums [B,T,C], whose norms are the residual stream. */
    ORR_TRY(orr_embedding(m, &embedding));                  /* z = word[token] + position[place] + type[type]         */
    for (int l = 0; l < b->num_hidden_layers; l++) {
        attention.norm_dropout = l == 0 ? dropout : 0;
        ORR_TRY(orr_attention(m, l, &attention));           /* z = n + Wo softmax(q k^T / sqrt(d)) v, n = LN(z)       */
        ORR_TRY(orr_mlp(m, l, &mlp));                       /* z = n + W2 gelu(W1 n), n = LN(z)                       */
    }
    ORR_TRY(wire_head(m, b));
    body_names(b->kind, &n);
    head_names(b, &n);
    return orr_model_build(m, n.name, n.count);
}

struct orr_model *orr_bert_create(const struct orr_bert *bert, const struct orr_mesh *mesh)
{
    static const char *const ignored[] = {"*.position_ids", "cls.predictions.decoder.*", "lm_head.decoder.*", "vocab_projector.weight",
                                          "cls.seq_relationship.*", NULL};
    static const char *const other[] = {"cls.*", "*.pooler.*", "pooler.*", "classifier.*", "pre_classifier.*", "lm_head.*", "vocab_*", NULL};
    static const struct orr_file_rules rules[] = {[ORR_BERT] = {"bert.", ignored, other},
                                                  [ORR_ROBERTA] = {"roberta.", ignored, other},
                                                  [ORR_DISTILBERT] = {"distilbert.", ignored, other}};
    struct orr_model *model = orr_model_create(mesh);

    if (!model)
        return NULL;
    orr_model_set_file_rules(model, &rules[bert->kind]);
    orr_model_pack(model);
    if (orr_model_set_dtype(model, bert->dtype) == 0 && wire(model, bert) == 0)
        return model;
    orr_model_destroy(model);
    return NULL;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------------- */

#define DROPOUT "hidden_dropout_prob=0.1", "attention_probs_dropout_prob=0.1"
#define SIZES(layers, width, hidden, heads) \
    "num_hidden_layers=" #layers, "hidden_size=" #width, "intermediate_size=" #hidden, "num_attention_heads=" #heads
#define BERT "architectures=[\"BertForMaskedLM\"]", "model_type=bert", "hidden_act=gelu", "type_vocab_size=2", \
             "max_position_embeddings=512", "vocab_size=30522", "layer_norm_eps=1e-12", "pad_token_id=0"

static const char *const common[] = {"initializer_range=0.02", "torch_dtype=float32", NULL};

static const struct orri_preset presets[] = {
    {"tiny-bert", (const char *const[]){BERT, DROPOUT, SIZES(4, 128, 512, 2), NULL}},
    {"bert-base", (const char *const[]){BERT, DROPOUT, SIZES(12, 768, 3072, 12), NULL}},
    {"bert-large", (const char *const[]){BERT, DROPOUT, SIZES(24, 1024, 4096, 16), NULL}},
    {"roberta-base", (const char *const[]){"architectures=[\"RobertaForMaskedLM\"]", "model_type=roberta", "hidden_act=gelu",
                                           "type_vocab_size=1", "max_position_embeddings=514", "vocab_size=50265",
                                           "layer_norm_eps=1e-5", "pad_token_id=1", DROPOUT, SIZES(12, 768, 3072, 12), NULL}},
    {"distilbert-base", (const char *const[]){"architectures=[\"DistilBertForMaskedLM\"]", "model_type=distilbert", "activation=gelu",
                                              "max_position_embeddings=512", "vocab_size=30522", "n_layers=6", "dim=768",
                                              "hidden_dim=3072", "n_heads=12", "dropout=0.1", "attention_dropout=0.1", NULL}},
};

struct orr_config *orr_bert_preset(const char *name)
{
    return orri_preset(presets, (int)ORRI_COUNT(presets), common, name);
}

/* DistilBERT has other names for the same. */
struct keys {
    const char *width, *hidden, *layers, *heads, *activation, *dropout, *attention_dropout, *classifier_dropout;
};

static const struct keys bert_keys = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
                                      "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"};
static const struct keys distilbert_keys = {"dim", "hidden_dim", "n_layers", "n_heads", "activation", "dropout", "attention_dropout",
                                            "seq_classif_dropout"};

/* What stands before the first position, and types. */
static int read_embeddings(const struct orr_config *config, struct orr_bert *b)
{
    int64_t pad = 1;

    ORR_TRY(orri_key_size_or(config, "max_position_embeddings", 512, &b->max_position_embeddings));
    if (b->kind != ORR_DISTILBERT)
        ORR_TRY(orri_key_size_or(config, "type_vocab_size", 2, &b->type_vocab_size));
    if (b->kind != ORR_ROBERTA)
        return ORR_OK;
    if (orr_config_has(config, "pad_token_id"))
        ORR_TRY(orr_config_int(config, "pad_token_id", 0, b->max_position_embeddings - 2, &pad));
    b->first_position = (int)pad + 1;
    return ORR_OK;
}

static int check_variant(const struct orr_config *config)
{
    const char *positions = "absolute";

    ORR_TRY(orri_key_not_quantized(config));
    ORR_TRY(orri_key_needs(config, "is_decoder", false));
    ORR_TRY(orri_key_needs(config, "add_cross_attention", false));
    if (orr_config_has(config, "position_embedding_type"))
        ORR_TRY(orr_config_string(config, "position_embedding_type", &positions));
    if (strcmp(positions, "absolute") != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "position_embedding_type '%s' is not supported", positions),
                           "set it to absolute");
    return ORR_OK;
}

int orr_bert_read(const struct orr_config *config, struct orr_bert *b)
{
    const char *type = "bert";

    if (orr_config_has(config, "model_type"))
        ORR_TRY(orr_config_string(config, "model_type", &type));
    *b = (struct orr_bert){.kind = strcmp(type, "roberta") == 0 ? ORR_ROBERTA : strcmp(type, "distilbert") == 0 ? ORR_DISTILBERT : ORR_BERT,
                           .dtype = ORR_F32};
    const struct keys *k = b->kind == ORR_DISTILBERT ? &distilbert_keys : &bert_keys;
    ORR_TRY(check_variant(config));
    ORR_TRY(orr_task_read(config, ORR_TASK_MLM, &b->task));
    if (b->task.task == ORR_TASK_LM || b->task.task == ORR_TASK_SEQ2SEQ)
        return orri_fail(ORR_EFORMAT, orr_config_name(config), "architectures: a %s model does not write text", type);
    ORR_TRY(orri_key_size(config, "vocab_size", &b->vocab_size));
    ORR_TRY(orri_key_size(config, k->width, &b->hidden_size));
    ORR_TRY(orri_key_size(config, k->hidden, &b->intermediate_size));
    ORR_TRY(orri_key_layers(config, k->layers, &b->num_hidden_layers));
    ORR_TRY(orri_key_size(config, k->heads, &b->num_attention_heads));
    ORR_TRY(orri_key_activation(config, k->activation, "gelu", &b->hidden_act));
    ORR_TRY(orri_key_real_or(config, k->dropout, 0.99, 0.1, &b->hidden_dropout_prob));
    ORR_TRY(orri_key_real_or(config, k->attention_dropout, 0.99, 0.1, &b->attention_probs_dropout_prob));
    ORR_TRY(orri_key_real_or(config, k->classifier_dropout, 0.99, b->kind == ORR_DISTILBERT ? 0.2 : (double)b->hidden_dropout_prob,
                             &b->classifier_dropout));
    ORR_TRY(orri_key_real_or(config, "layer_norm_eps", 1, b->kind == ORR_ROBERTA ? 1e-5 : 1e-12, &b->layer_norm_eps));
    ORR_TRY(orri_key_real_or(config, "initializer_range", 10, 0.02, &b->initializer_range));
    ORR_TRY(read_embeddings(config, b));
    if (b->hidden_size % b->num_attention_heads != 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_config_name(config), "%s %d does not divide %s %d", k->heads, b->num_attention_heads,
                                     k->width, b->hidden_size),
                           "choose %s among the divisors of %s", k->heads, k->width);
    return ORR_OK;
}
