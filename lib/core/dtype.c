/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/dtype.h>

#include "core/core.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[ORR_DTYPES] = {
    [ORR_F32] = {"F32", 4}, [ORR_BF16] = {"BF16", 2}, [ORR_F16] = {"F16", 2}, [ORR_F64] = {"F64", 8},
    [ORR_I64] = {"I64", 8}, [ORR_I32] = {"I32", 4},   [ORR_I16] = {"I16", 2}, [ORR_I8] = {"I8", 1},
    [ORR_U64] = {"U64", 8}, [ORR_U32] = {"U32", 4},   [ORR_U16] = {"U16", 2}, [ORR_U8] = {"U8", 1},
    [ORR_BOOL] = {"BOOL", 1},
};

size_t orr_dtype_size(enum orr_dtype dtype)
{
    return (unsigned)dtype < ORR_DTYPES ? dtypes[dtype].size : 0;
}

const char *orr_dtype_name(enum orr_dtype dtype)
{
    return (unsigned)dtype < ORR_DTYPES ? dtypes[dtype].name : "?";
}

static const char *const labels[] = {[ORR_F32] = "fp32", [ORR_BF16] = "bf16", [ORR_F16] = "fp16"};

const char *orr_dtype_label(enum orr_dtype dtype)
{
    return (size_t)dtype < ORRI_COUNT(labels) ? labels[dtype] : orr_dtype_name(dtype);
}
