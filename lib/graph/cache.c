/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks keep of sequences that are continued. */
#include "graph/graph.h"

#include <stdlib.h>

enum { LEAST_PAGE = 64 };

/* Positions of a page: so few that short sequences take little, and so many that the longest has pages enough. */
static int page_of(int positions)
{
    int page = LEAST_PAGE;

    while ((int64_t)page * ORR_MAX_PAGES < positions)
        page *= 2;
    return page;
}

/* Values of a page of a block's shard. */
static int64_t page_values(const struct orr_past *past, const struct orr_block *block, int t)
{
    const struct orr_block_class *cls = block->cls;
    int64_t values = cls->cached ? cls->cached(block->config, block->model->mesh.tp, t) : 0;

    return values * past->sequences * past->page;
}

struct orr_tile *orri_cache_pages(const struct orri_cache *cache, const struct orr_block *block, int t)
{
    return cache->tile + (block->index * cache->model->mesh.tp + t) * ORR_MAX_PAGES;
}

int orri_cache_create(struct orri_cache *cache, struct orr_model *model, int sequences, int positions)
{
    *cache = (struct orri_cache){.model = model, .past = {.page = page_of(positions), .sequences = sequences}};
    cache->tile = orri_calloc((size_t)model->blocks * (size_t)model->mesh.tp * ORR_MAX_PAGES, sizeof(*cache->tile));
    return cache->tile ? ORR_OK : ORR_ENOMEM;
}

void orri_cache_destroy(struct orri_cache *cache)
{
    for (int i = 0; cache->tile && i < cache->model->blocks * cache->model->mesh.tp * ORR_MAX_PAGES; i++)
        orr_tile_destroy(&cache->tile[i]);
    free(cache->tile);
    *cache = (struct orri_cache){0};
}

int orri_cache_reserve(struct orri_cache *cache, int positions)
{
    struct orr_model *model = cache->model;

    for (; cache->pages * cache->past.page < positions; cache->pages++)
        for (int i = 0; i < model->blocks * model->mesh.tp; i++) {
            const struct orr_block *block = model->block[i / model->mesh.tp];
            int t = i % model->mesh.tp, rank = orri_place(block, 0, t);
            int64_t values = page_values(&cache->past, block, t);
            if (values > 0 && rank == model->rank)
                ORR_TRY(orr_tile_create(&orri_cache_pages(cache, block, t)[cache->pages], ORR_ACTIVATION, model->dtype, values,
                                        rank, true));
        }
    return ORR_OK;
}

int64_t orr_cache_memory(const struct orr_model *model, int sequences, int positions, int rank)
{
    const struct orr_past past = {.page = page_of(positions), .sequences = sequences};
    int64_t pages = (positions + past.page - 1) / past.page, bytes = 0;

    for (int l = 0; l < model->blocks; l++)
        for (int t = 0; t < model->mesh.tp; t++)
            if (orri_place(model->block[l], 0, t) == rank)
                orri_memory_add(&bytes, (double)pages * (double)page_values(&past, model->block[l], t) *
                                            (double)orr_dtype_size(model->dtype));
    return bytes;
}
