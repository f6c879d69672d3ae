/* SPDX-License-Identifier: Apache-2.0 */
/* What the embedding is, for its passes on every device. */
#ifndef ORRI_EMBEDDING_GEOMETRY_H
#define ORRI_EMBEDDING_GEOMETRY_H

#include <codelets/embedding/embedding.h>

#include "codelets/math/operands.h"

enum { ORRI_TOKEN_GROUP, ORRI_POSITION_GROUP };
enum { ORRI_EMBEDDING_DROPOUT = 7 };        /* place */

extern const struct orr_block_cuda orri_embedding_cuda;
#endif
