/* SPDX-License-Identifier: Apache-2.0 */
/* T5 (Raffel et al. 2020) and its version 1.1 (gates: Shazeer 2020). */
#ifndef ORRERY_T5_H
#define ORRERY_T5_H

#include <orrery/config.h>
#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The hyper-parameters, by their names in Hugging Face's config.json. */
struct orr_t5 {
    int vocab_size, d_model, d_kv, d_ff, num_layers, num_decoder_layers, num_heads;
    int relative_attention_num_buckets, relative_attention_max_distance;
    int n_positions;                                /* of texts in training: the model takes any  */
    int activation;                                 /* enum orr_activation, of feed_forward_proj  */
    bool gated;                                     /* likewise                                   */
    bool tie_word_embeddings, scale_decoder_outputs;
    float dropout_rate, layer_norm_epsilon, initializer_factor;
    enum orr_dtype dtype;                           /* to compute in; none of the file's keys: orr_t5_read() leaves ORR_F32 */
};

/* A preset, without its trained parameters: "tiny-t5" (2 and 2 layers, 128 wide, 4 heads, bytes as vocabulary), "t5-small",
 * "t5-v1_1-small". NULL where there is none of that name. */
struct orr_config *orr_t5_preset(const char *name);

/* Reads and checks the hyper-parameters. ORR_ENOENT or ORR_EFORMAT naming file and key. */
int orr_t5_read(const struct orr_config *config, struct orr_t5 *t5);

/* The model, with packed rows: blocks in place, parameters not yet allocated (orr_model_allocate()). NULL with the error of
 * orr_model_build(), which has no tp > 1. */
struct orr_model *orr_t5_create(const struct orr_t5 *t5, const struct orr_mesh *mesh);

#ifdef __cplusplus
}
#endif
#endif
