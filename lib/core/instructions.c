/* SPDX-License-Identifier: Apache-2.0 */
#include "core/instructions.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdio.h>

#include <orrery/runtime.h>

#include "core/core.h"

static bool has(dnnl_cpu_isa_t isa)
{
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

static bool has_way(enum orri_bf16_products way)
{
    switch (way) {
    case ORRI_BF16_BY_AMX: return has(dnnl_cpu_isa_avx512_core_amx);
    case ORRI_BF16_BY_DOT: return has(dnnl_cpu_isa_avx512_core_bf16);
    default: return true;
    }
}

static bool is_intel(void)
{
#ifdef __x86_64__
    return __builtin_cpu_is("intel");
#else
    return false;
#endif
}

static enum orri_bf16_products bf16_products;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void)
{
    if (has_way(ORRI_BF16_BY_AMX))
        bf16_products = ORRI_BF16_BY_AMX;
    else if (has_way(ORRI_BF16_BY_DOT) && !is_intel())
        bf16_products = ORRI_BF16_BY_DOT;
}

enum orri_bf16_products orri_bf16_products(void)
{
    pthread_once(&once, choose);
    return bf16_products;
}

bool orri_bf16_products_choose(enum orri_bf16_products way)
{
    pthread_once(&once, choose);
    if (!has_way(way))
        return false;
    bf16_products = way;
    return true;
}

int orri_onednn_vector_bits(void)
{
    return has(dnnl_cpu_isa_avx512_core) ? 512 : has(dnnl_cpu_isa_avx2) ? 256 : 0;
}

/* Of the clones that ORRI_SIMD makes, the one that was picked. */
static const char *clone_name(void)
{
#ifdef ORRI_HAS_CLONES
    return __builtin_cpu_supports("x86-64-v4") ? "x86-64-v4" : __builtin_cpu_supports("x86-64-v3") ? "x86-64-v3" : "x86-64";
#else
    return "plain C";
#endif
}

void orr_instructions_describe(char *text, size_t size)
{
    static const char *const bf16[] = {
        [ORRI_BF16_WIDENED] = "widened to fp32",
        [ORRI_BF16_BY_DOT] = "by oneDNN with AVX-512 bf16",
        [ORRI_BF16_BY_AMX] = "by oneDNN with AMX",
    };
    int bits = orri_onednn_vector_bits();

    snprintf(text, size, "%s; products by %s, those of bf16 %s", clone_name(),
             bits == 512 ? "oneDNN with AVX-512" : bits == 256 ? "oneDNN with AVX2" : "OpenBLAS", bf16[orri_bf16_products()]);
}
