/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks keep of sequences that are continued. */
#include "graph/graph.h"

#include <starpu.h>
#include <stdlib.h>
#include <string.h>

#include "core/vector_cuda.h"

enum { LEAST_PAGE = 64, ANY = -1 };

/* Positions of a page: so few that short sequences take little, and so many that the longest has pages enough. */
static int page_of(int positions)
{
    int page = LEAST_PAGE;

    while ((int64_t)page * ORR_MAX_PAGES < positions)
        page *= 2;
    return page;
}

/* Values that a block's shard keeps of a position. */
static int64_t values_of(const struct orr_block *block, int t)
{
    const struct orr_block_class *cls = block->cls;

    return cls->cached ? cls->cached(block->config, block->model->mesh.tp, t) : 0;
}

/* And of a page. */
static int64_t page_values(const struct orr_past *past, const struct orr_block *block, int t)
{
    return values_of(block, t) * past->sequences * past->page;
}

struct orr_tile *orri_cache_pages(const struct orri_cache *cache, const struct orr_block *block, int t)
{
    return cache->tile + (block->index * cache->model->mesh.tp + t) * ORR_MAX_PAGES;
}

int orri_cache_create(struct orri_cache *cache, struct orr_model *model, int replica, int sequences, int positions)
{
    *cache = (struct orri_cache){
        .model = model, .replica = replica, .past = {.page = page_of(positions), .sequences = sequences}};
    cache->tile = orri_calloc((size_t)model->blocks * (size_t)model->mesh.tp * ORR_MAX_PAGES, sizeof(*cache->tile));
    cache->part = orri_alloc((size_t)sequences * ORR_MAX_PAGES * sizeof(*cache->part));
    if (!cache->tile || !cache->part)
        return ORR_ENOMEM;
    for (int i = 0; i < sequences * ORR_MAX_PAGES; i++)
        cache->part[i] = i / ORR_MAX_PAGES;
    cache->past.part = cache->part;
    return ORR_OK;
}

void orri_cache_destroy(struct orri_cache *cache)
{
    for (int i = 0; cache->tile && i < cache->model->blocks * cache->model->mesh.tp * ORR_MAX_PAGES; i++)
        orr_tile_destroy(&cache->tile[i]);
    free(cache->tile);
    free(cache->part);
    *cache = (struct orri_cache){0};
}

int orri_cache_reserve(struct orri_cache *cache, int positions)
{
    struct orr_model *model = cache->model;

    for (; cache->pages * cache->past.page < positions; cache->pages++)
        for (int i = 0; i < model->blocks * model->mesh.tp; i++) {
            const struct orr_block *block = model->block[i / model->mesh.tp];
            int t = i % model->mesh.tp, rank = orri_place(block, cache->replica, t);
            int64_t values = page_values(&cache->past, block, t);
            if (values > 0 && rank == model->rank)
                ORR_TRY(orr_tile_create(&orri_cache_pages(cache, block, t)[cache->pages], ORR_ACTIVATION, model->dtype, values,
                                        rank, true));
        }
    return ORR_OK;
}

/* ---- rearranging ----------------------------------------------------------------------------------------------- */

/* From one part of a page to another, its first rows. */
struct copy {
    int page, from, to, rows;
};

/* What a task copies within a page. */
struct copies {
    struct orr_model *model;
    int64_t run;                    /* that reads it                                           */
    size_t row, part;               /* bytes                                                   */
    int count;
    struct copy copy[];
};

/* The parts of a page, once every sequence has become another: copies that have to be made are added to copy[]. */
static int deal_parts(struct orri_cache *cache, int page, const int *from, const int *length, const int32_t *old, bool *used,
                      struct copy *copy)
{
    int n = cache->past.sequences, first = page * cache->past.page, free_part = 0, copies = 0;
    bool *taken = used + n;         /* a sequence's part has gone to one that became it */

    memset(used, 0, 2 * (size_t)n * sizeof(*used));
    for (int s = 0; s < n; s++) {
        int rows = length[from[s]] - first;
        int32_t *part = &cache->part[s * ORR_MAX_PAGES + page];
        bool full = rows >= cache->past.page;
        *part = full || (rows > 0 && !taken[from[s]]) ? old[from[s] * ORR_MAX_PAGES + page] : ANY;
        taken[from[s]] = true;
        if (*part != ANY)
            used[*part] = true;
    }
    for (int s = 0; s < n; s++) {
        int rows = length[from[s]] - first;
        int32_t *part = &cache->part[s * ORR_MAX_PAGES + page];
        if (*part != ANY)
            continue;
        while (used[free_part])
            free_part++;
        *part = free_part++;
        if (rows > 0)
            copy[copies++] = (struct copy){page, old[from[s] * ORR_MAX_PAGES + page], *part, rows};
    }
    return copies;
}

static void copy_cpu(void *buffers[], void *argument)
{
    const struct copies *c = argument;
    char *page = (char *)STARPU_VECTOR_GET_PTR(buffers[0]);

    for (int i = 0; i < c->count; i++)
        memcpy(page + (size_t)c->copy[i].to * c->part, page + (size_t)c->copy[i].from * c->part, (size_t)c->copy[i].rows * c->row);
}

#ifdef ORR_HAVE_CUDA

static void copy_cuda(void *buffers[], void *argument)
{
    const struct copies *c = argument;
    char *page = (char *)STARPU_VECTOR_GET_PTR(buffers[0]);
    struct orr_cuda *cuda = orri_device_here();

    for (int i = 0; i < c->count; i++)
        orri_cuda_copy(cuda, (size_t)c->copy[i].rows * c->row, page + (size_t)c->copy[i].from * c->part,
                       page + (size_t)c->copy[i].to * c->part);
    orri_device_check(c->model, c->run, "copies in a cache", cuda);
}

#endif

static struct starpu_codelet copy_codelet = {
    .cpu_funcs = {copy_cpu},
    ORRI_CUDA_FUNCTION(copy_cuda)
    .nbuffers = 1,
    .modes = {STARPU_RW},
    .name = "cache_copy",
    .color = ORRI_COLOR_OTHER,
};

/* Copies within one page, of every block and shard that is here. */
static int copies_submit(struct orri_cache *cache, struct copies *c)
{
    struct orr_model *model = cache->model;
    size_t size = sizeof(*c) + (size_t)c->count * sizeof(c->copy[0]);

    for (int i = 0; c->count > 0 && i < model->blocks * model->mesh.tp; i++) {
        const struct orr_block *block = model->block[i / model->mesh.tp];
        int t = i % model->mesh.tp;
        struct orri_buffer page = {&orri_cache_pages(cache, block, t)[c->copy[0].page], STARPU_RW};
        c->row = (size_t)values_of(block, t) * orr_dtype_size(model->dtype);
        c->part = c->row * (size_t)cache->past.page;
        if (page.tile->handle)
            ORR_TRY(orri_task_submit_at(model, &copy_codelet, orri_home_worker(model, cache->replica, block->stage, t), 1, &page, c,
                                        size, ORRI_PRIORITY_FORWARD, 0));
    }
    return ORR_OK;
}

int orri_cache_rearrange(struct orri_cache *cache, const int *from, const int *length)
{
    size_t n = (size_t)cache->past.sequences, bytes = n * ORR_MAX_PAGES * sizeof(*cache->part);
    int32_t *old = orri_alloc(bytes);
    bool *used = orri_alloc(2 * n * sizeof(*used));
    struct copies *c = orri_alloc(sizeof(*c) + n * sizeof(c->copy[0]));
    int status = old && used && c ? ORR_OK : ORR_ENOMEM;

    if (status == 0) {
        memcpy(old, cache->part, bytes);
        *c = (struct copies){.model = cache->model, .run = cache->model->runs};
    }
    for (int page = 0; status == 0 && page < cache->pages; page++) {
        c->count = deal_parts(cache, page, from, length, old, used, c->copy);
        status = copies_submit(cache, c);
    }
    free(old);
    free(used);
    free(c);
    return status;
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

int64_t orr_cache_memory(const struct orr_model *model, int sequences, int together, int positions, int rank)
{
    int64_t bytes = 0;

    for (int d = 0; d < model->mesh.dp; d++) {
        int count = (int)orr_split(sequences, together, model->mesh.dp, d).count;
        const struct orr_past past = {.page = page_of(positions), .sequences = count};
        int pages = (positions + past.page - 1) / past.page;
        for (int i = 0; i < model->blocks * model->mesh.tp; i++) {
            const struct orr_block *block = model->block[i / model->mesh.tp];
            if (orri_place(block, d, i % model->mesh.tp) == rank)
                orri_memory_add(&bytes, (double)pages * (double)page_values(&past, block, i % model->mesh.tp) *
                                            (double)orr_dtype_size(model->dtype));
        }
    }
    return bytes;
}
