/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/residual.h"

#include <string.h>

#include "core/core.h"

static size_t count_of(const struct orr_operands *o, int width)
{
    return (size_t)o->batch * (size_t)o->seq * (size_t)width;
}

struct orri_dropout orri_block_dropout(const struct orr_operands *o, float p, int place)
{
    return (struct orri_dropout){o->training ? p : 0, orr_dropout_stream(o, place)};
}

int orri_check_dropout(const char *block, float p)
{
    return p >= 0 && p < 1 ? ORR_OK : orri_fail(ORR_EINVAL, block, "a dropout of %g is not in 0 <= p < 1", p);
}

uint64_t orri_first_element(const struct orr_operands *o, int width)
{
    return o->first_sample * (uint64_t)o->seq * (uint64_t)width;
}

void orri_branch_begin(const struct orr_operands *o, const struct orri_dropout *d, int width, const float *bias)
{
    orri_bias_rows(o->batch * o->seq, width, d->p > 0 ? NULL : o->x[0], bias, o->y);
}

void orri_branch_end(const struct orr_operands *o, const struct orri_dropout *d, int width)
{
    if (d->p == 0)
        return;
    orri_dropout_apply(d, orri_first_element(o, width), count_of(o, width), o->y);
    orri_add(count_of(o, width), o->x[0], o->y);
}

const float *orri_branch_gradient(const struct orr_operands *o, const struct orri_dropout *d, int width, float *room)
{
    if (d->p == 0)
        return o->dy;
    memcpy(room, o->dy, count_of(o, width) * sizeof(*room));
    orri_dropout_apply(d, orri_first_element(o, width), count_of(o, width), room);
    return room;
}

void orri_branch_input_gradient(const struct orr_operands *o, int width, float *dnorm, const float *gamma,
                                const float *mean, const float *rstd, float *dgamma, float *dbeta)
{
    bool add = o->add_input_gradient[0];

    orri_layernorm_backward(o->batch * o->seq, width, dnorm, o->x[0], gamma, mean, rstd, o->dy, add ? dnorm : o->dx[0],
                            dgamma, dbeta);
    if (add)
        orri_add(count_of(o, width), dnorm, o->dx[0]);
}
