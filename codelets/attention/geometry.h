/* SPDX-License-Identifier: Apache-2.0 */
/* Attention as a residual block, of all heads or a shard's. */
#ifndef ORRI_ATTENTION_GEOMETRY_H
#define ORRI_ATTENTION_GEOMETRY_H

#include <math.h>

#include <codelets/attention/attention.h>

#include "codelets/math/residual.h"

enum { ORRI_PROBABILITY_DROPOUT, ORRI_ATTENTION_DROPOUT };      /* places */

static inline struct orri_attention orri_attention_kernel(const struct orr_attention *a, int batch, int seq, int shards,
                                                          int shard)
{
    struct orr_part heads = orr_split(a->heads, 1, shards, shard);
    int head = a->width / a->heads;

    return (struct orri_attention){
        .batch = batch,
        .seq = seq,
        .heads = (int)heads.count,
        .head_dim = head,
        .ld = 3 * heads.count * head,
        .ld_out = heads.count * head,
        .scale = 1 / sqrtf((float)head),
        .total_heads = a->heads,
        .first_head = (int)heads.first,
    };
}

static inline struct orri_attention orri_attention_of(const struct orr_operands *o)
{
    const struct orr_attention *a = o->config;
    struct orri_attention k = orri_attention_kernel(a, o->batch, o->seq, o->shards, o->shard);

    k.dropout = orri_block_dropout(o, a->attention_dropout, ORRI_PROBABILITY_DROPOUT);
    k.first_sample = o->first_sample;
    return k;
}

static inline struct orri_residual orri_attention_residual(const struct orr_attention *a, const struct orri_attention *k)
{
    return (struct orri_residual){
        .width = a->width,
        .eps = a->eps,
        .dropout = a->dropout,
        .place = ORRI_ATTENTION_DROPOUT,
        .rest = k->heads,
        .in = (int)k->ld,
        .out = (int)k->ld_out,
    };
}

extern const struct orr_block_cuda orri_attention_cuda;
#endif
