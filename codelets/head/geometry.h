/* SPDX-License-Identifier: Apache-2.0 */
/* What the head is, for its passes on every device. */
#ifndef ORRI_HEAD_GEOMETRY_H
#define ORRI_HEAD_GEOMETRY_H

#include <codelets/head/head.h>

#include "codelets/math/operands.h"

enum { ORRI_HEAD_NORM, ORRI_HEAD_OUTPUT };      /* groups */

/* The class is one for both kinds of head, told apart by the configuration. */
struct orri_head_config {
    struct orr_head head;
    int tied;                                   /* as wide as the rest: no padding, which would be hashed */
};

static inline const struct orr_head *orri_head_of(const struct orr_operands *o)
{
    return &((const struct orri_head_config *)o->config)->head;
}

/* The rows of W, that is columns of the logits, that shard t has. */
static inline struct orr_part orri_head_tokens(const struct orr_operands *o, int t)
{
    return orr_split(orri_head_of(o)->vocab, 1, o->shards, t);
}

/* Logits are never there all at once: rows of a strip, as many as `most` bytes allow, in strips of about equal size. */
static inline int orri_strip_rows(size_t most, size_t row_bytes, int rows)
{
    int fit = (int)(most / row_bytes);
    int strips = fit > 0 ? (rows + fit - 1) / fit : rows;

    return (rows + strips - 1) / strips;
}

/* What F leaves, with the gradient of norm(x), because only F has the logits. B fills dgamma and dbeta. */
struct orri_head_saved {
    float *mean, *rstd;         /* [N]       */
    float *dgamma, *dbeta;      /* [C]       */
    float *dnorm;               /* [N,C] of the dtype */
};

static inline struct orri_head_saved orri_head_saved(int width, int rows, float *floats, float *values)
{
    struct orri_head_saved s;

    s.mean = floats;
    s.rstd = s.mean + rows;
    s.dgamma = s.rstd + rows;
    s.dbeta = s.dgamma + width;
    s.dnorm = values;
    return s;
}

/* Where the row of norm(x) at position b T + t is: in which chunk, and its first element there. */
struct orri_head_row {
    int chunk;
    int64_t offset;
};

static inline struct orri_head_row orri_head_row(const struct orr_operands *o, int position)
{
    int b = position / o->seq, t = position % o->seq, c = 0;
    struct orr_part at = orr_chunk(o, c);

    while (t >= at.first + at.count)
        at = orr_chunk(o, ++c);
    return (struct orri_head_row){c, (b * at.count + t - at.first) * orri_head_of(o)->width};
}

extern const struct orr_block_cuda orri_head_cuda;
#endif
