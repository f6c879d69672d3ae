/* SPDX-License-Identifier: Apache-2.0 */
#include "tile/tile.h"

#include <starpu.h>

#include "core/core.h"
#include "core/kept.h"

int orr_tile_create(struct orr_tile *tile, enum orr_role role, enum orr_dtype dtype, int64_t count, int rank,
                    bool home)
{
    size_t element = orr_dtype_size(dtype);

    *tile = (struct orr_tile){.dtype = dtype, .role = role, .count = count, .rank = rank};
    if (count < 1 || count > UINT32_MAX)
        return orri_fail(ORR_EINVAL, "tile", "%lld elements: a tile has 1 to 2^32 - 1", (long long)count);
    if (home) {
        tile->home = orri_pages_alloc((size_t)count * element);
        if (!tile->home)
            return orri_fail(ORR_ENOMEM, "memory", "no room for a tile of %zu bytes", (size_t)count * element);
    }
    starpu_vector_data_register(&tile->handle, home ? STARPU_MAIN_RAM : -1, (uintptr_t)tile->home, (uint32_t)count,
                                element);
    return ORR_OK;
}

void orr_tile_destroy(struct orr_tile *tile)
{
    if (!tile->handle)
        return;
    if (tile->home)
        starpu_data_unregister(tile->handle);
    else
        starpu_data_unregister_no_coherency(tile->handle);
    if (tile->home) {
        orri_kept_forget(tile->home, orr_tile_bytes(tile));
        orri_pages_free(tile->home, orr_tile_bytes(tile));
    }
    *tile = (struct orr_tile){0};
}

size_t orr_tile_bytes(const struct orr_tile *tile)
{
    return (size_t)tile->count * orr_dtype_size(tile->dtype);
}

void orri_tile_written(struct orr_tile *tile)
{
    static uint64_t versions;       /* atomic */

    tile->version = __atomic_add_fetch(&versions, 1, __ATOMIC_RELAXED);
}

void *orr_tile_acquire(struct orr_tile *tile, bool write)
{
    if (write)
        orri_tile_written(tile);
    if (starpu_data_acquire(tile->handle, write ? STARPU_RW : STARPU_R) != 0)
        return NULL;
    return starpu_data_get_local_ptr(tile->handle);
}

void orr_tile_release(struct orr_tile *tile)
{
    starpu_data_release(tile->handle);
}

void orr_tile_invalidate_submit(struct orr_tile *tile)
{
    starpu_data_invalidate_submit(tile->handle);
}
