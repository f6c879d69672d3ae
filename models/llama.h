/* SPDX-License-Identifier: Apache-2.0 */
/* The Llama family: Llama (Touvron et al. 2023), Mistral (Jiang et al. 2023) and Qwen2 (Yang et al. 2024), which differ in keys, and
 * Mixtral (Jiang et al. 2024), whose layers have a mixture of experts for the mlp. */
#ifndef ORRERY_LLAMA_H
#define ORRERY_LLAMA_H

#include <codelets/attention/attention.h>
#include <orrery/config.h>
#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ORR_LLAMA_LAYERS = 1024 };       /* most */

/* The hyper-parameters, by their names in Hugging Face's config.json. */
struct orr_llama {
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers, max_position_embeddings;
    int num_attention_heads, num_key_value_heads, head_dim;
    int hidden_act;                                 /* enum orr_activation                      */
    int attention_bias;                             /* enum orr_biases                          */
    bool mlp_bias, tie_word_embeddings;
    float attention_dropout, rms_norm_eps, initializer_range;
    struct orr_rotary rope;
    int window[ORR_LLAMA_LAYERS];                   /* of each layer; 0: none                   */
    int num_local_experts, num_experts_per_tok;     /* 0 experts: an mlp                        */
    float router_aux_loss_coef;                     /* 0 unless output_router_logits            */
    float expert_capacity_factor;                   /* ours; 0: experts take all tokens         */
    enum orr_dtype dtype;                           /* to compute in; none of the file's keys: orr_llama_read() leaves ORR_F32 */
};

/* A preset, without its trained parameters: "tiny-llama" (4 layers, 128 wide, 4 heads of which 2 share keys, 256 positions, bytes as
 * vocabulary), "llama-3.2-1b", "llama-3.1-8b", "mistral-7b", "qwen2.5-0.5b", "tiny-mixtral" (as tiny-llama, with 4 experts of which
 * a token has 2). NULL where there is none of that name. */
struct orr_config *orr_llama_preset(const char *name);

/* Reads and checks the hyper-parameters of model_type llama, mistral, qwen2 or mixtral. ORR_ENOENT or ORR_EFORMAT naming file
 * and key. */
int orr_llama_read(const struct orr_config *config, struct orr_llama *llama);

/* The model: blocks in place, parameters not yet allocated (orr_model_allocate()). NULL with the error of orr_model_build(). */
struct orr_model *orr_llama_create(const struct orr_llama *llama, const struct orr_mesh *mesh);

#ifdef __cplusplus
}
#endif
#endif
