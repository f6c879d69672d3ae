/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of tensors, in memory and in files. */
#ifndef ORRERY_DTYPE_H
#define ORRERY_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* IEEE 754 binary64, binary32 and binary16; bfloat16 (the upper half of a binary32); two's
 * complement integers; BOOL is one byte, 0 or 1. */
enum orr_dtype {
    ORR_F32,
    ORR_BF16,
    ORR_F16,
    ORR_F64,
    ORR_I64,
    ORR_I32,
    ORR_I16,
    ORR_I8,
    ORR_U64,
    ORR_U32,
    ORR_U16,
    ORR_U8,
    ORR_BOOL,
    ORR_DTYPES  /* how many there are */
};

/* The label of a position that counts for no loss, as in PyTorch. */
#define ORR_IGNORE (-100)

/* Bytes of one element; 0 for a value that is not one of the above. Pure; any thread. */
size_t orr_dtype_size(enum orr_dtype dtype);

/* The name that safetensors gives it ("F32", "BF16", "BOOL"); "?" for a value that is not one of the
 * above. Pure; any thread. */
const char *orr_dtype_name(enum orr_dtype dtype);

/* What users call an element type that a model computes in: "fp32", "bf16" or "fp16"; else its name. Pure; any thread. */
const char *orr_dtype_label(enum orr_dtype dtype);

/* to[k] = from[k], exactly: from bf16, fp16 or fp32, at any address. And rounded to one of these, to nearest even. Any thread. */
void orr_dtype_widen(enum orr_dtype dtype, size_t count, const void *from, float *to);
void orr_dtype_round(enum orr_dtype dtype, size_t count, const float *from, void *to);

#ifdef __cplusplus
}
#endif
#endif
