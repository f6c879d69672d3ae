/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints: directories in Hugging Face's layout, with the optimizer and the trainer beside the model.
 *
 *     OUT/step-00000100/config.json             the model's configuration
 *                       model.safetensors       its parameters, under Hugging Face's names, fp32
 *                       optimizer.safetensors   NAME.STATE ("transformer.wte.weight.exp_avg"), fp32
 *                       outer.safetensors       NAME.outer_momentum, fp32, where there is such
 *                       trainer.json            step, data position, seed, arguments
 *                       tokenizer.json ...      the files of the tokenizer, where it has any
 *     OUT/latest -> step-00000100               moves when the directory is complete and on disk
 *     OUT/best -> step-00000080                 likewise, with early stopping: of the best evaluation
 *
 * A directory appears whole or not at all. It knows nothing of the layout that wrote it: a tensor is a whole parameter,
 * of which each rank writes and reads the parts that it has.
 *
 * All functions but orr_checkpoint_resolve() and orr_checkpoint_convert() are collective: the main threads of all ranks call them
 * with the same directory, on a file system that they share, and what fails on one rank fails on all. */
#ifndef ORRERY_CHECKPOINT_H
#define ORRERY_CHECKPOINT_H

#include <orrery/config.h>
#include <orrery/tokenizer.h>
#include <orrery/train.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The directory that `path` means: path/latest where there is one, else path itself. malloc'ed, the caller's to
 * free(). NULL with ORR_ENOENT where neither is a directory. */
char *orr_checkpoint_resolve(const char *path);

/* Reads all parameters from directory/model.safetensors, or from the shards that
 * directory/model.safetensors.index.json names. fp32, fp16, bf16 and fp64 are taken. Names with and without the
 * leading "transformer." are known; buffers that old files hold (attn.bias, attn.masked_bias) and the stored copy of
 * a tied head are passed over. ORR_ENOENT for a missing file or tensor, ORR_EFORMAT for a wrong shape, dtype, a
 * tensor that the model does not have, or a copy that is none. The parameters are undefined after a failure. */
int orr_weights_load(struct orr_model *model, const char *directory);

/* The same where the directory's model may have another head than this one, or none: what is not there of this one's, or has another
 * shape, is drawn at random as by orr_model_randomize(), and what there is of another is passed over (struct orr_file_rules). */
int orr_weights_load_base(struct orr_model *model, const char *directory, uint64_t seed);

/* Writes them to directory/model.safetensors as ORR_F32, ORR_BF16 or ORR_F16, each from its owner, whole or not at all.
 * ORR_EIO; ORR_EINVAL for another dtype and for a frozen model. */
int orr_weights_save(struct orr_model *model, const char *directory, enum orr_dtype dtype);

/* Writes the checkpoint of the last submitted step below `out` (made where missing), waiting for the step; rank 0's
 * `config` and `trainer` become config.json and, with "step", "samples" and the loss scale set, trainer.json; the files of its
 * `tokenizer`, unless NULL, lie beside them. Where the parameters
 * are not saved in fp32, those lie in master.safetensors beside them. Moves `latest`, then removes
 * what a crash left half-written and the oldest step directories until `keep` are left (0: all stay; those of later
 * steps, another run's, neither count nor go). ORR_EIO leaves what was there as it was. */
int orr_checkpoint_save(const char *out, struct orr_training *training, const struct orr_config *config,
                        struct orr_config *trainer, const struct orr_tokenizer *tokenizer, int keep);

/* Makes out/best lead to the checkpoint of the last submitted step, which was saved. It stays, whatever `keep` says, until another is
 * the best; then what is too many goes, as above. ORR_EIO. */
int orr_checkpoint_keep_best(const char *out, struct orr_training *training, int keep);

/* Makes the directory `out`, tries whether files can be written there and are seen by all ranks, and removes what a
 * killed run left half-written. ORR_EINVAL where not. */
int orr_checkpoint_prepare(const char *out);

/* Reads parameters, optimizer state and step from a checkpoint's directory. ORR_ENOENT, ORR_EFORMAT as
 * orr_weights_load(), also where the optimizer is another one. */
int orr_checkpoint_load(const char *directory, struct orr_training *training);

/* How orr_checkpoint_convert() writes: every tensor in `dtype`, or, with `keep`, in its own; and at most shard_bytes of tensors in a
 * file, unless a single one has more; 0: all in one. */
struct orr_conversion {
    bool keep;
    enum orr_dtype dtype;
    int64_t shard_bytes;
};

/* Writes the parameters of the directory `from` into the directory `to`, which is made, beside config.json and the tokenizer's files
 * and generation_config.json of `from`, whole or not at all: as model.safetensors, or divided with an index as transformers does it.
 * They have the names that orr_weights_save() gives them; what orr_weights_load() passes over is left out. Where the dtype is the
 * same, bit for bit, else rounded to the nearest, of two to the even one. One piece of a tensor at a time is in memory. `config` describes
 * `model`, which needs no memory for its parameters; its dtype key is set. Not collective: one process alone. Errors of
 * orr_weights_load(); ORR_EINVAL where `to` has files in it, or for a value that `dtype` cannot hold; ORR_EIO. */
int orr_checkpoint_convert(const struct orr_model *model, const char *from, const char *to, struct orr_config *config,
                           const struct orr_conversion *conversion);

#ifdef __cplusplus
}
#endif
#endif
