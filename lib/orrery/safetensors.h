/* SPDX-License-Identifier: Apache-2.0 */
/* Named tensors in a file: the safetensors format (https://github.com/huggingface/safetensors).
 *
 *     8 bytes    N, the length of the header, little-endian
 *     N bytes    a JSON object: name -> {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]},
 *                and "__metadata__" -> an object of strings
 *     the rest   the tensors, row-major and little-endian; offsets count from here
 *
 * Every byte of the rest belongs to exactly one tensor. */
#ifndef ORRERY_SAFETENSORS_H
#define ORRERY_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include <orrery/dtype.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ORR_MAX_DIMS 8

/* ---- reading ------------------------------------------------------------------------------------ */

struct orr_safetensors;

/* One tensor of an open file. name and data live as long as the file is open. data points into the
 * mapped file, is read-only and may be aligned to nothing (use memcpy or orr_safetensors_read_f32);
 * it has `bytes` bytes = the product of shape[0..ndim-1] times the element size. ndim 0 is a scalar. */
struct orr_tensor_info {
    const char *name;
    enum orr_dtype dtype;
    int ndim;
    int64_t shape[ORR_MAX_DIMS];
    size_t bytes;
    const void *data;
};

/* Maps `path` and checks all of it but the values. NULL with ORR_ENOENT where it cannot be opened,
 * ORR_EFORMAT where it is not the format above (the message names the tensor and the field),
 * ORR_ENOMEM. The file must not be shortened by others while it is open. */
struct orr_safetensors *orr_safetensors_open(const char *path);

/* Unmaps; every orr_tensor_info of the file is invalid from then on. */
void orr_safetensors_destroy(struct orr_safetensors *file);

/* The path it was opened by. Borrowed. Any thread, like all the functions below. */
const char *orr_safetensors_path(const struct orr_safetensors *file);

/* The number of tensors. */
int orr_safetensors_count(const struct orr_safetensors *file);

/* Tensor number `index`, 0 <= index < count, in the order of the header. Borrowed. */
const struct orr_tensor_info *orr_safetensors_get(const struct orr_safetensors *file, int index);

/* The tensor called `name`. NULL with ORR_ENOENT naming file and tensor where there is none. Borrowed. */
const struct orr_tensor_info *orr_safetensors_find(const struct orr_safetensors *file, const char *name);

/* The string under `key` in __metadata__, or NULL where there is none (which is no error). Borrowed. */
const char *orr_safetensors_metadata(const struct orr_safetensors *file, const char *key);

/* out[k] = element first + k of `tensor` (row-major), k = 0..count-1, as fp32: F32 as it is, F16 and
 * BF16 exactly, F64 rounded to nearest. `tensor` is one of `file`. ORR_EINVAL where the range leaves
 * the tensor, ORR_EFORMAT where the dtype is none of these four. */
int orr_safetensors_read_f32(const struct orr_safetensors *file, const struct orr_tensor_info *tensor,
                             int64_t first, int64_t count, float *out);

/* ---- writing ------------------------------------------------------------------------------------ */

/* A tensor to be written. */
struct orr_tensor_spec {
    const char *name;
    enum orr_dtype dtype;
    int ndim;
    int64_t shape[ORR_MAX_DIMS];
};

struct orr_safetensors_writer;

/* Begins a file of the `count` tensors in their order: lays them out, reserves the space and writes
 * the header, padded with spaces so that the data begins at a multiple of 8, with __metadata__
 * {"format": "pt"}, without which transformers refuses the file. The bytes go to PATH.tmp until
 * orr_safetensors_writer_finish(); one writer at a time per path. Bytes never written read as zero.
 * No padding is allowed between tensors, and PyTorch views only aligned ones: where dtypes are mixed, the
 * wider ones go first.
 * The specifications are borrowed for the call. NULL with ORR_EINVAL (a name twice, "__metadata__",
 * not UTF-8; a bad dtype or shape), ORR_EIO, ORR_ENOMEM. */
struct orr_safetensors_writer *orr_safetensors_writer_create(const char *path, const struct orr_tensor_spec *tensors,
                                                             int count);

/* Several processes write one file: one creates the writer, then the others join with the same tensors, each writes its
 * ranges, no byte twice, and syncs, and when all have done so the first finishes. They tell each other when: a barrier
 * after creating and after syncing. One that joined finishes nothing and leaves the file where it fails; the one that
 * created it must hear of that and destroy its writer. NULL as above, with ORR_EIO also where the file is not seen or
 * has another size (a file system of its own). */
struct orr_safetensors_writer *orr_safetensors_writer_join(const char *path, const struct orr_tensor_spec *tensors,
                                                           int count);

/* Puts `bytes` bytes, as they shall stand in the file, at byte `offset` of tensor number `index`.
 * Ranges may come in any order. ORR_EINVAL where the range leaves the tensor, ORR_EIO (the file so far
 * is removed; only orr_safetensors_writer_destroy() is left to call). Any thread, on disjoint ranges.
 * One system call each: where a shard of a matrix is a run in every row, 1 to 4 KiB cost 2 to 3.5 us on ext4 (0.5 to
 * 1.2 GB/s until the disk is the limit), 1 to 2 us on tmpfs. */
int orr_safetensors_write(struct orr_safetensors_writer *writer, int index, size_t offset, const void *data,
                          size_t bytes);

/* What this writer has written is on disk. For those who joined; the finish of the one that created the file does it by
 * itself. ORR_EIO. */
int orr_safetensors_writer_sync(struct orr_safetensors_writer *writer);

/* Syncs the file and gives it its name, replacing an older file at once; whatever fails (ORR_EIO)
 * leaves that one as it was. Call once. */
int orr_safetensors_writer_finish(struct orr_safetensors_writer *writer);

/* Ends the writer. Without a finish before, nothing is left of the file. */
void orr_safetensors_writer_destroy(struct orr_safetensors_writer *writer);

#ifdef __cplusplus
}
#endif
#endif
