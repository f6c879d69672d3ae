/* SPDX-License-Identifier: Apache-2.0 */
/* The mlp as a residual block, of all hidden columns or a shard's. */
#ifndef ORRI_MLP_GEOMETRY_H
#define ORRI_MLP_GEOMETRY_H

#include <codelets/mlp/mlp.h>

#include "codelets/math/residual.h"

enum { ORRI_MLP_DROPOUT = 2 };      /* place */

static inline int orri_mlp_hidden(const struct orr_mlp *m, int shards, int shard)
{
    return (int)orr_split(m->hidden, 1, shards, shard).count;
}

static inline struct orri_residual orri_mlp_residual(const struct orr_mlp *m, int shards, int shard)
{
    int hidden = orri_mlp_hidden(m, shards, shard);

    return (struct orri_residual){
        .width = m->width,
        .eps = m->eps,
        .dropout = m->dropout,
        .place = ORRI_MLP_DROPOUT,
        .in = hidden,
        .out = hidden,
    };
}

extern const struct orr_block_cuda orri_mlp_cuda;
#endif
