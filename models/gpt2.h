/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2 (Radford, Wu, Child, Luan, Amodei, Sutskever 2019). */
#ifndef ORRERY_GPT2_H
#define ORRERY_GPT2_H

#include <models/task.h>
#include <orrery/config.h>
#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The hyper-parameters, by their names in Hugging Face's config.json. */
struct orr_gpt2 {
    int vocab_size, n_positions, n_embd, n_layer, n_head;
    int n_inner;                                    /* 4 n_embd where the file has null      */
    int activation_function;                        /* enum orr_activation                   */
    float embd_pdrop, attn_pdrop, resid_pdrop;      /* dropout                               */
    float layer_norm_epsilon, initializer_range;
    bool tie_word_embeddings;
    struct orr_task_head task;                      /* language modelling, or classification of sequences at their last token */
    enum orr_dtype dtype;                           /* to compute in; none of the file's keys: orr_gpt2_read() leaves ORR_F32 */
};

/* A preset: "tiny-gpt2" (4 layers, 128 wide, 4 heads, 256 positions, bytes as vocabulary), "gpt2", "gpt2-medium",
 * "gpt2-large", "gpt2-xl", all without dropout. NULL where there is none of that name. */
struct orr_config *orr_gpt2_preset(const char *name);

/* Reads and checks the hyper-parameters. ORR_ENOENT or ORR_EFORMAT naming file and key. */
int orr_gpt2_read(const struct orr_config *config, struct orr_gpt2 *gpt);

/* The model: blocks in place, parameters not yet allocated (orr_model_allocate()). NULL with the error of orr_model_build(). */
struct orr_model *orr_gpt2_create(const struct orr_gpt2 *gpt, const struct orr_mesh *mesh);

#ifdef __cplusplus
}
#endif
#endif
