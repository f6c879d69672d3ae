/* SPDX-License-Identifier: Apache-2.0 */
/* A learned scale per channel. */
#ifndef SCALE_H
#define SCALE_H

#include <orrery/model.h>

struct scale {
    int width;      /* C */
};

/* Appends y = x * s, s of shape [C] (LayerScale without its residual: Touvron et al. 2021). Group 0: weight [C]. */
int scale(struct orr_model *model, int layer, const struct scale *config);

#endif
