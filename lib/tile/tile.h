/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ORRI_TILE_H
#define ORRI_TILE_H

#include <orrery/tile.h>

/* Gives the tile another version: to be called where something is submitted that writes it, a task, a copy or a receive. Of a
 * tile that tasks write in StarPU's commuting mode versions tell nothing, for these run in another order. */
void orri_tile_written(struct orr_tile *tile);

#endif
