/* SPDX-License-Identifier: Apache-2.0 */
/* Named tensors in one file or several: NAME (model.safetensors), or, where there is one, those that NAME.index.json tells of:
 *
 *     {"metadata": {"total_size": bytes of all tensors}, "weight_map": {"TENSOR": "model-00001-of-00002.safetensors", ...}}
 *
 * which is how transformers divides a model. Functions that read may be called from any thread. */
#ifndef ORRI_SHARDS_H
#define ORRI_SHARDS_H

#include <orrery/safetensors.h>

struct orri_shards {
    char *directory;
    char *path;                         /* of the index, or of the only file    */
    int count;
    struct orr_safetensors **file;
};

/* Opens all files. With an index each tensor is in the file that it names, and no other tensor is in any of them. ORR_ENOENT for a
 * file or tensor that is missing, ORR_EFORMAT for a bad file or index, ORR_ENOMEM. */
int orri_shards_open(struct orri_shards *shards, const char *directory, const char *name);

/* Also on what failed to open. */
void orri_shards_close(struct orri_shards *shards);

/* The tensor called `name` and its file, borrowed, or NULL, which is no error. */
const struct orr_tensor_info *orri_shards_find(const struct orri_shards *shards, const char *name,
                                               const struct orr_safetensors **file);

/* Writes NAME.index.json: tensor i of `count`, called names[i], is in the file files[i]; all of them have `bytes` bytes and
 * `parameters` elements. ORR_EIO, ORR_ENOMEM. */
int orri_shards_write_index(const char *directory, const char *name, int count, const char *const *names, const char *const *files,
                            int64_t bytes, int64_t parameters);

#endif
