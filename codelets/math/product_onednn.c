/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/elements.h"
#include "codelets/math/product_cpu.h"

#include "core/core.h"
#include "core/instructions.h"
#include "core/kept.h"
#include "core/team.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/dtype.h>

/* What a primitive is made for. Without padding: it is compared as bytes. */
struct key {
    int m, n, k, lda, ldb, ldc;
    uint16_t dtype, computed;               /* of the factors as they lie, and as they are multiplied */
    uint8_t trans_a, trans_b, bias, add, wide, copy_a, copy_b, unused;
    uint32_t threads;
};

enum { A, B, BIAS, C, SCRATCH, MEMORIES };
enum { FACTORS = B + 1 };

/* A factor may be copied: A to rows without gaps, B as the product likes it best. */
struct entry {
    struct entry *next;
    struct key key;
    dnnl_primitive_t primitive;             /* NULL: there is none for this */
    dnnl_memory_t memory[MEMORIES];
    dnnl_primitive_t copy[FACTORS];         /* NULL: it is taken as it lies */
    dnnl_memory_t from[FACTORS];
    size_t copied[FACTORS], scratch;        /* bytes                        */
};

enum { BUCKETS = 64, MOST_ENTRIES = 512 };

/* Of a thread, and freed with it. */
struct cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct entry *bucket[BUCKETS];
    int entries;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t cache_key;

static void drop_entries(struct cache *cache)
{
    for (int i = 0; i < BUCKETS; i++) {
        while (cache->bucket[i]) {
            struct entry *e = cache->bucket[i];
            cache->bucket[i] = e->next;
            for (int k = 0; k < MEMORIES; k++)
                if (e->memory[k])
                    dnnl_memory_destroy(e->memory[k]);
            for (int k = 0; k < FACTORS; k++) {
                if (e->copy[k])
                    dnnl_primitive_destroy(e->copy[k]);
                if (e->from[k])
                    dnnl_memory_destroy(e->from[k]);
            }
            if (e->primitive)
                dnnl_primitive_destroy(e->primitive);
            free(e);
        }
    }
    cache->entries = 0;
}

static void drop_cache(void *argument)
{
    struct cache *cache = argument;

    drop_entries(cache);
    if (cache->stream)
        dnnl_stream_destroy(cache->stream);
    if (cache->engine)
        dnnl_engine_destroy(cache->engine);
    free(cache);
}

static void make_key(void)
{
    pthread_key_create(&cache_key, drop_cache);
}

/* oneDNN shares a product out among the threads of the calling one's team. */
static struct cache *cache_here(void)
{
    pthread_once(&once, make_key);
    omp_set_num_threads(orri_team_size());
    struct cache *cache = pthread_getspecific(cache_key);
    if (cache)
        return cache;
    cache = calloc(1, sizeof(*cache));
    if (!cache)
        return NULL;
    if (dnnl_engine_create(&cache->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&cache->stream, cache->engine, dnnl_stream_default_flags) != dnnl_success ||
        pthread_setspecific(cache_key, cache) != 0) {
        drop_cache(cache);
        return NULL;
    }
    return cache;
}

/* ---- a primitive -------------------------------------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc;
typedef const_dnnl_memory_desc_t const_desc;

static bool describe(desc *d, int rows, int columns, dnnl_data_type_t type, int64_t down, int64_t across)
{
    const dnnl_dims_t dims = {rows, columns}, strides = {down, across};

    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides) == dnnl_success;
}

static bool describe_any(desc *d, int rows, int columns, dnnl_data_type_t type)
{
    const dnnl_dims_t dims = {rows, columns};

    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, dnnl_format_tag_any) == dnnl_success;
}

static void forget(desc d)
{
    dnnl_memory_desc_destroy(d);
}

static dnnl_status_t describe_product(dnnl_primitive_desc_t *d, dnnl_engine_t engine, const desc *of, bool bias,
                                      dnnl_primitive_attr_t attributes)
{
    return dnnl_matmul_primitive_desc_create(d, engine, of[A], of[B], bias ? of[BIAS] : NULL, of[C], attributes);
}

static dnnl_status_t add_sum(dnnl_post_ops_t operations)
{
    return dnnl_post_ops_append_sum(operations, 1, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t desc;
typedef const dnnl_memory_desc_t *const_desc;

static bool describe(desc *d, int rows, int columns, dnnl_data_type_t type, int64_t down, int64_t across)
{
    const dnnl_dims_t dims = {rows, columns}, strides = {down, across};

    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides) == dnnl_success;
}

static bool describe_any(desc *d, int rows, int columns, dnnl_data_type_t type)
{
    const dnnl_dims_t dims = {rows, columns};

    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, dnnl_format_tag_any) == dnnl_success;
}

static void forget(desc d)
{
    (void)d;
}

static dnnl_status_t describe_product(dnnl_primitive_desc_t *d, dnnl_engine_t engine, const desc *of, bool bias,
                                      dnnl_primitive_attr_t attributes)
{
    dnnl_matmul_desc_t product;
    dnnl_status_t status = dnnl_matmul_desc_init(&product, &of[A], &of[B], bias ? &of[BIAS] : NULL, &of[C]);

    return status == dnnl_success ? dnnl_primitive_desc_create(d, &product, attributes, engine, NULL) : status;
}

static dnnl_status_t add_sum(dnnl_post_ops_t operations)
{
    return dnnl_post_ops_append_sum(operations, 1);
}
#endif

static dnnl_primitive_attr_t attributes_of(const struct key *key)
{
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t operations = NULL;

    if (dnnl_primitive_attr_create(&attributes) != dnnl_success)
        return NULL;
    bool made = dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user) == dnnl_success;
    if (made && key->add)
        made = dnnl_post_ops_create(&operations) == dnnl_success && add_sum(operations) == dnnl_success &&
               dnnl_primitive_attr_set_post_ops(attributes, operations) == dnnl_success;
    if (operations)
        dnnl_post_ops_destroy(operations);
    if (made)
        return attributes;
    dnnl_primitive_attr_destroy(attributes);
    return NULL;
}

/* Whether it is one of oneDNN's fast ones: the reference implementation is slower than the way without it. */
static bool is_fast(dnnl_primitive_desc_t d)
{
    const char *name = NULL;

    return dnnl_primitive_desc_query(d, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name && !strstr(name, "ref");
}

#if DNNL_VERSION_MAJOR >= 3
#define DESC(x) (x)
#else
#define DESC(x) (&(x))
#endif

static bool make_memory(dnnl_memory_t *memory, const struct cache *cache, const_desc d)
{
    return dnnl_memory_create(memory, d, cache->engine, DNNL_MEMORY_NONE) == dnnl_success;
}

/* A factor goes from `lies` to what the product takes. */
static bool make_copy(struct entry *e, const struct cache *cache, int factor, const_desc lies, const_desc taken)
{
    dnnl_primitive_desc_t d = NULL;
    bool made = dnnl_reorder_primitive_desc_create(&d, lies, cache->engine, taken, cache->engine, NULL) == dnnl_success &&
                dnnl_primitive_create(&e->copy[factor], d) == dnnl_success && make_memory(&e->from[factor], cache, lies);

    e->copied[factor] = (dnnl_memory_desc_get_size(taken) + 63) & ~(size_t)63;
    if (d)
        dnnl_primitive_desc_destroy(d);
    return made;
}

static bool make_memories(struct entry *e, const struct cache *cache, dnnl_primitive_desc_t d, const desc *of, const desc *lies)
{
    static const dnnl_query_t queries[FACTORS] = {dnnl_query_src_md, dnnl_query_weights_md};
    const bool copied[FACTORS] = {e->key.copy_a, e->key.copy_b};
    const_desc scratch = dnnl_primitive_desc_query_md(d, dnnl_query_scratchpad_md, 0);

    for (int i = 0; i < FACTORS; i++) {
        const_desc taken = dnnl_primitive_desc_query_md(d, queries[i], 0);
        if (!make_memory(&e->memory[i], cache, taken) || (copied[i] && !make_copy(e, cache, i, DESC(lies[i]), taken)))
            return false;
    }
    e->scratch = dnnl_memory_desc_get_size(scratch);
    return (!e->key.bias || make_memory(&e->memory[BIAS], cache, DESC(of[BIAS]))) &&
           make_memory(&e->memory[C], cache, DESC(of[C])) && make_memory(&e->memory[SCRATCH], cache, scratch);
}

static dnnl_data_type_t type_of(enum orr_dtype dtype)
{
    return dtype == ORR_F32 ? dnnl_f32 : dtype == ORR_BF16 ? dnnl_bf16 : dnnl_f16;
}

static void make_primitive(struct entry *e, const struct cache *cache)
{
    const struct key *k = &e->key;
    dnnl_data_type_t lying = type_of(k->dtype), taken = type_of(k->computed);
    desc of[SCRATCH], lies[FACTORS];
    bool described[] = {
        describe(&lies[A], k->m, k->k, lying, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1),
        describe(&lies[B], k->k, k->n, lying, k->trans_b ? 1 : k->ldb, k->trans_b ? k->ldb : 1),
        k->copy_a ? describe(&of[A], k->m, k->k, taken, k->k, 1)
                  : describe(&of[A], k->m, k->k, taken, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1),
        k->copy_b ? describe_any(&of[B], k->k, k->n, taken)
                  : describe(&of[B], k->k, k->n, taken, k->trans_b ? 1 : k->ldb, k->trans_b ? k->ldb : 1),
        describe(&of[BIAS], 1, k->n, lying, k->n, 1),
        describe(&of[C], k->m, k->n, k->wide ? dnnl_f32 : taken, k->ldc, 1),
    };
    desc *all[ORRI_COUNT(described)] = {&lies[A], &lies[B], &of[A], &of[B], &of[BIAS], &of[C]};
    dnnl_primitive_attr_t attributes = attributes_of(k);
    dnnl_primitive_desc_t d = NULL;
    bool complete = attributes != NULL;

    for (size_t i = 0; i < ORRI_COUNT(described); i++)
        complete = complete && described[i];
    if (complete && describe_product(&d, cache->engine, of, k->bias, attributes) == dnnl_success && is_fast(d) &&
        make_memories(e, cache, d, of, lies) && dnnl_primitive_create(&e->primitive, d) != dnnl_success)
        e->primitive = NULL;
    for (size_t i = 0; i < ORRI_COUNT(described); i++)
        if (described[i])
            forget(*all[i]);
    if (d)
        dnnl_primitive_desc_destroy(d);
    if (attributes)
        dnnl_primitive_attr_destroy(attributes);
}

static struct entry *entry_for(struct cache *cache, const struct key *key)
{
    struct entry **bucket = &cache->bucket[orri_hash(ORRI_HASH, key, sizeof(*key)) % BUCKETS];

    for (struct entry *e = *bucket; e; e = e->next)
        if (memcmp(&e->key, key, sizeof(*key)) == 0)
            return e;
    if (cache->entries == MOST_ENTRIES)
        drop_entries(cache);
    struct entry *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->key = *key;
    make_primitive(e, cache);
    e->next = *bucket;
    *bucket = e;
    cache->entries++;
    return e;
}

/* ---- products ------------------------------------------------------------------------------------------------------------ */

/* How a product goes: in pieces of at most so many rows, columns and terms, so that what is used again stays in the second cache. */
struct way {
    enum orr_dtype computed;        /* what the factors are multiplied as                                                   */
    bool copy_a, copy_b;
    bool keep;                      /* copies of parameters                                                                 */
    bool finish;                    /* a piece is summed up in fp32 aside, and finish_rows() makes the result from that     */
    int m, n, k;
};

/* Elements of fp32 that a copy of a factor may have, both taking three quarters of a kernel's memory; and sums aside. */
enum { COPIED_ELEMENTS = ORRI_KERNEL_BYTES / 4 * 3 / 2 / 4, SUMS = 1 << 19 };

/* Multiplied in fp32, which narrower factors are widened to as they are copied. Columns are few, since rows of B that are multiples of
 * 4 KiB apart share sets of the caches. */
static struct way way_in_f32(const struct orri_product *p)
{
    bool narrow = p->dtype != ORR_F32;

    return (struct way){.computed = ORR_F32,
                        .copy_a = narrow,
                        .copy_b = narrow,
                        .finish = p->c_dtype != ORR_F32,
                        .m = narrow ? 1024 : p->m,
                        .n = narrow || (p->k >= 2048 && !p->trans_b) ? 384 : 768,
                        .k = narrow ? COPIED_ELEMENTS / 1024 : p->k};
}

static bool is_by_bf16(enum orr_dtype dtype)
{
    return dtype == ORR_BF16 && orri_bf16_products() != ORRI_BF16_WIDENED;
}

/* By instructions for bf16, which take B, copied, as they like it best. In a gradient of weights B is used once, and where it pays A
 * is copied, too, with rows where its columns were: with AMX always, which takes tiles. */
static struct way way_in_bf16(const struct orri_product *p)
{
    enum { DEEP = 512 };
    struct way way = {.computed = ORR_BF16, .copy_b = true, .keep = !p->trans_a, .m = p->m};

    if (p->trans_a) {
        way.n = ORRI_MOST_COLUMNS;
        way.k = orri_least(p->k, 2 * COPIED_ELEMENTS / (orri_least(p->n, way.n) + 64) / 64 * 64);
        way.m = 2 * COPIED_ELEMENTS / way.k / 64 * 64;
        way.copy_a = p->k >= DEEP || orri_bf16_products() == ORRI_BF16_BY_AMX;
    } else {
        way.k = ORRI_MOST_COLUMNS;
        way.n = orri_least(ORRI_MOST_COLUMNS, 2 * COPIED_ELEMENTS / (orri_least(p->k, way.k) + 64) / 64 * 64);
    }
    way.finish = p->c_dtype != ORR_F32 && way.k < p->k;     /* it is to be rounded once */
    return way;
}

static struct way way_of(const struct orri_product *p)
{
    struct way way = is_by_bf16(p->dtype) ? way_in_bf16(p) : way_in_f32(p);

    way.finish = way.finish || p->epilogue != ORRI_EPILOGUE_NONE || (p->add && p->add != p->c);
    if (way.finish) {
        way.m = orri_least(way.m, 1024);
        way.n = orri_least(way.n, SUMS / ((orri_least(way.m, p->m) + 63) / 64 * 64) / 64 * 64);
    }
    return way;
}

/* The piece of 0 .. total - 1 from `first` on, where there are as few as have at most `most` each and are about equally long. */
static int piece(int total, int most, int first)
{
    int pieces = (total + most - 1) / most, size = ((total + pieces - 1) / pieces + 63) / 64 * 64;

    return orri_least(total - first, size);
}

/* A piece on its way. */
struct part {
    const struct orri_product *whole;
    const struct way *way;
    int i, j;                       /* where it begins in the result                          */
    bool add;                       /* the primitive adds to what is there                    */
    bool last;                      /* its last terms                                         */
    struct orri_product p;          /* what the primitive computes                            */
    char *room;                     /* for copies, and what else the primitive needs          */
    const void *copied_a;           /* what the room has a copy of; or NULL                   */
    size_t bytes;                   /* that the hungriest so far takes of the room            */
};

static struct entry *entry_of(const struct part *part, struct cache *cache)
{
    const struct orri_product *p = &part->p;
    const struct way *way = part->way;
    const struct key key = {
        p->m, p->n, p->k, p->lda, p->ldb, p->ldc, (uint16_t)p->dtype, (uint16_t)way->computed, p->trans_a, p->trans_b, p->bias != NULL,
        part->add, p->c_dtype == ORR_F32, way->copy_a, way->copy_b, 0, (uint32_t)orri_team_size(),
    };
    struct entry *e = cache ? entry_for(cache, &key) : NULL;

    return e && e->primitive ? e : NULL;
}

static bool prepare_part(struct part *part)
{
    struct entry *e = entry_of(part, cache_here());
    size_t bytes = e ? e->copied[A] + e->copied[B] + e->scratch : 0;

    part->bytes = bytes > part->bytes ? bytes : part->bytes;
    return e != NULL;
}

static bool copy_factor(const struct entry *e, const struct cache *cache, int factor, const void *from, void *to)
{
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, e->from[factor]}, {DNNL_ARG_TO, e->memory[factor]}};

    dnnl_memory_set_data_handle(e->from[factor], (void *)from);
    dnnl_memory_set_data_handle(e->memory[factor], to);
    return dnnl_primitive_execute(e->copy[factor], cache->stream, 2, arguments) == dnnl_success;
}

/* Where the copy of B that the primitive takes is made. */
struct filling {
    const struct entry *e;
    const struct cache *cache;
    const void *b;
    bool done;
};

static void fill_copy(void *argument, void *copy)
{
    struct filling *filling = argument;

    filling->done = copy_factor(filling->e, filling->cache, B, filling->b, copy);
}

/* The copy of B: kept, where it may be and there is room; else made in `room`. NULL: it could not be made. */
static const void *copy_of_b(const struct entry *e, const struct cache *cache, const struct part *part, void *room)
{
    struct filling filling = {e, cache, part->p.b, true};
    uint64_t version = part->way->keep ? part->p.b_version : 0;
    const void *kept = orri_kept(part->p.b, version, &e->key, sizeof(e->key), e->copied[B], fill_copy, &filling);

    if (!kept)
        fill_copy(&filling, room);
    return !filling.done ? NULL : kept ? kept : room;
}

/* Rows from `first` on of a piece of the result, from their sums. */
static void finish_rows(const struct part *part, int first, int rows)
{
    const struct orri_product *p = part->whole;
    size_t n = (size_t)part->p.n;
    float *sum = (float *)part->p.c + (size_t)first * n, room[ORRI_MOST_COLUMNS];

    for (int r = first; r < first + rows; r++, sum += n) {
        size_t at = (size_t)(part->i + r) * (size_t)p->ldc + (size_t)part->j;
        if (p->bias)
            orri_add(n, orri_wide(p->dtype, n, orri_element(p->dtype, p->bias, (size_t)part->j), room), sum);
        if (p->add)
            orri_add(n, orri_wide(p->c_dtype, n, orri_element(p->c_dtype, p->add, at), room), sum);
        orri_product_finish(p, at, n, sum);
    }
}

static bool run_part(struct part *part)
{
    static const int names[MEMORIES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    const struct orri_product *p = &part->p;
    struct cache *cache = cache_here();
    struct entry *e = entry_of(part, cache);
    dnnl_exec_arg_t arguments[MEMORIES];
    int count = 0;

    if (!e)
        return false;
    char *room_of_b = part->room + e->copied[A];
    const void *const b = e->copy[B] ? copy_of_b(e, cache, part, room_of_b) : p->b;
    if (!b || (e->copy[A] && part->copied_a != p->a && !copy_factor(e, cache, A, p->a, part->room)))
        return false;
    void *const data[MEMORIES] = {e->copy[A] ? part->room : (void *)p->a, (void *)b, (void *)p->bias, p->c, room_of_b + e->copied[B]};
    part->copied_a = p->a;
    for (int i = 0; i < MEMORIES; i++)
        if (e->memory[i]) {
            dnnl_memory_set_data_handle(e->memory[i], data[i]);
            arguments[count++] = (dnnl_exec_arg_t){names[i], e->memory[i]};
        }
    if (dnnl_primitive_execute(e->primitive, cache->stream, count, arguments) != dnnl_success)
        return false;
    if (part->way->finish && part->last)
        ORRI_TEAM_FOR(p->m, 1 + ORRI_TEAM_ELEMENTS / p->n, r, rows, finish_rows(part, r, rows));
    return true;
}

/* Visits the pieces one after the other; sums aside lie in `sums`. */
static bool each_part(struct part *part, float *sums, bool (*visit)(struct part *))
{
    const struct orri_product *whole = part->whole;
    const struct way *way = part->way;

    for (int i = 0, m; i < whole->m; i += m) {
        m = piece(whole->m, way->m, i);
        for (int j = 0, n; j < whole->n; j += n) {
            n = piece(whole->n, way->n, j);
            for (int r = 0, k; r < whole->k; r += k) {
                struct orri_product *p = &part->p;
                k = piece(whole->k, way->k, r);
                *p = orri_product_piece(whole, i, m, j, n, r, k);
                p->bias = way->finish || r > 0 ? NULL : p->bias;
                p->c = way->finish ? sums : orri_in_matrix(p->c_dtype, p->c, p->ldc, i, j);
                p->ldc = way->finish ? n : p->ldc;
                p->c_dtype = way->finish ? ORR_F32 : p->c_dtype;
                part->i = i;
                part->j = j;
                part->add = r > 0 || (whole->add && !way->finish);
                part->last = r + k == whole->k;
                if (!visit(part))
                    return false;
            }
        }
    }
    return true;
}

size_t orri_onednn_kept(enum orr_dtype dtype, int k, int n)
{
    enum { TILE = 64 };

    return orri_onednn_vector_bits() == 512 && is_by_bf16(dtype)
               ? (size_t)((k + TILE - 1) / TILE * TILE) * (size_t)((n + TILE - 1) / TILE * TILE) * orr_dtype_size(dtype)
               : 0;
}

bool orri_onednn_product(const struct orri_product *p)
{
    if (orri_onednn_vector_bits() < 512)
        return false;
    const struct way way = way_of(p);
    struct part part = {.whole = p, .way = &way};
    size_t sums = way.finish ? SUMS * sizeof(float) : 0;

    if (!each_part(&part, NULL, prepare_part))
        return false;
    char *room = orri_kernel_scratch(sums + part.bytes);
    part.room = room + sums;
    if (!each_part(&part, (float *)room, run_part)) {
        fprintf(stderr, "orrery: oneDNN: no memory for a product of %d x %d x %d\n", p->m, p->k, p->n);
        abort();
    }
    return true;
}
