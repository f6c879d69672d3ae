/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles: contiguous buffers that StarPU knows. */
#ifndef ORRERY_TILE_H
#define ORRERY_TILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/dtype.h>

#ifdef __cplusplus
extern "C" {
#endif

enum orr_role {
    ORR_PARAMETER,      /* weights of one block shard                                 */
    ORR_GRADIENT,       /* their gradient on one replica                              */
    ORR_STATE,          /* what the optimizer remembers                               */
    ORR_ACTIVATION,     /* the residual stream, or its gradient, of one microbatch    */
    ORR_SAVED,          /* what a forward task leaves for its backward tasks          */
    ORR_TOKENS,         /* token ids or labels of one microbatch                      */
    ORR_SCALAR          /* losses, norms and other small results                      */
};

/* StarPU's data handle, so that this header needs none of StarPU's. */
struct _starpu_data_state;

struct orr_tile {
    struct _starpu_data_state *handle;  /* NULL when the tile does not exist                      */
    enum orr_dtype dtype;
    enum orr_role role;
    int64_t count;                      /* elements                                               */
    int rank;                           /* where it is written                                    */
    int64_t tag;                        /* its number in messages between ranks                   */
    uint64_t version;                   /* of the values that a task submitted now would read: another one behind every task,
                                           message or access that writes them, and never another tile's; 0: none did */
    bool streamed;                      /* it does not stay on a device: evicted first, once used          */
    void *home;                         /* host memory that the tile owns; NULL: none of its own  */
};

/* Registers a tile of `count` elements. With `home` the tile owns zeroed host memory and exists from
 * the start; without, StarPU allocates memory where the tile is first written, and a read before that
 * is a programming error. Registering costs some 20 us: create tiles once, use them many times.
 * 1 <= count < 2^32. Errors: ORR_EINVAL, ORR_ENOMEM. */
int orr_tile_create(struct orr_tile *tile, enum orr_role role, enum orr_dtype dtype, int64_t count, int rank,
                    bool home);

/* Waits for the tasks that use the tile, unregisters it and frees its memory. A tile of all zero
 * bytes is legal and left alone. */
void orr_tile_destroy(struct orr_tile *tile);

/* Bytes of the tile's elements. */
size_t orr_tile_bytes(const struct orr_tile *tile);

/* Waits for the tasks submitted so far that write (write: or read) the tile and gives its memory on
 * the host, until orr_tile_release(). NULL when nothing was ever written to a tile without a home.
 * Not from a task. */
void *orr_tile_acquire(struct orr_tile *tile, bool write);
void orr_tile_release(struct orr_tile *tile);

/* Forgets the contents once the tasks submitted so far have ended; StarPU may reuse the memory. Only
 * for tiles without a home. */
void orr_tile_invalidate_submit(struct orr_tile *tile);

#ifdef __cplusplus
}
#endif
#endif
