/* SPDX-License-Identifier: Apache-2.0 */
/* BERT (Devlin, Chang, Lee, Toutanova 2019), RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019). */
#ifndef ORRERY_BERT_H
#define ORRERY_BERT_H

#include <models/task.h>
#include <orrery/config.h>
#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum orr_bert_kind { ORR_BERT, ORR_ROBERTA, ORR_DISTILBERT };

/* The hyper-parameters, by BERT's names in Hugging Face's config.json. */
struct orr_bert {
    enum orr_bert_kind kind;
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
    int max_position_embeddings, type_vocab_size, first_position;       /* rows of the table of positions, and the one of position 0 */
    int hidden_act;                                                     /* enum orr_activation          */
    float hidden_dropout_prob, attention_probs_dropout_prob, classifier_dropout;
    float layer_norm_eps, initializer_range;
    struct orr_task_head task;                                          /* masked tokens, sequences or tokens */
    enum orr_dtype dtype;                       /* to compute in; none of the file's keys: orr_bert_read() leaves ORR_F32 */
};

/* A preset, without trained parameters: "tiny-bert" (4 layers, 128 wide, 2 heads, 512 positions, bert-base's vocabulary), "bert-base",
 * "bert-large", "roberta-base", "distilbert-base". NULL where there is none of that name. */
struct orr_config *orr_bert_preset(const char *name);

/* Reads and checks the hyper-parameters of model_type bert, roberta or distilbert. ORR_ENOENT or ORR_EFORMAT naming file and key. */
int orr_bert_read(const struct orr_config *config, struct orr_bert *bert);

/* The model: blocks in place, parameters not yet allocated (orr_model_allocate()). Rows may hold several sequences (orr_model_pack()).
 * NULL with the error of orr_model_build(). */
struct orr_model *orr_bert_create(const struct orr_bert *bert, const struct orr_mesh *mesh);

#ifdef __cplusplus
}
#endif
#endif
