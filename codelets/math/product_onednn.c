/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/product_cpu.h"

#include "core/core.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/dtype.h>

/* What a primitive is made for. Without padding: it is compared as bytes. */
struct key {
    int m, n, k, lda, ldb, ldc;
    uint8_t trans_a, trans_b, bias, add, wide, unused[3];
};

enum { A, B, BIAS, C, SCRATCH, MEMORIES };

struct entry {
    struct entry *next;
    struct key key;
    dnnl_primitive_t primitive;             /* NULL: there is none for this */
    dnnl_memory_t memory[MEMORIES];
    size_t scratch;
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

/* oneDNN would share a product out among threads of its own, which workers are already. */
static struct cache *cache_here(void)
{
    pthread_once(&once, make_key);
    struct cache *cache = pthread_getspecific(cache_key);
    if (cache)
        return cache;
    cache = calloc(1, sizeof(*cache));
    if (!cache)
        return NULL;
    omp_set_num_threads(1);
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

static bool make_memories(struct entry *e, const struct cache *cache, dnnl_primitive_desc_t d, const desc *of)
{
    const_desc scratch = dnnl_primitive_desc_query_md(d, dnnl_query_scratchpad_md, 0);

    e->scratch = dnnl_memory_desc_get_size(scratch);
#if DNNL_VERSION_MAJOR >= 3
#define DESC(x) (x)
#else
#define DESC(x) (&(x))
#endif
    for (int i = 0; i < SCRATCH; i++)
        if ((i != BIAS || e->key.bias) &&
            dnnl_memory_create(&e->memory[i], DESC(of[i]), cache->engine, DNNL_MEMORY_NONE) != dnnl_success)
            return false;
    return dnnl_memory_create(&e->memory[SCRATCH], scratch, cache->engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static void make_primitive(struct entry *e, const struct cache *cache)
{
    const struct key *k = &e->key;
    dnnl_data_type_t result = k->wide ? dnnl_f32 : dnnl_bf16;
    desc of[SCRATCH];
    bool described[SCRATCH] = {
        [A] = describe(&of[A], k->m, k->k, dnnl_bf16, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1),
        [B] = describe(&of[B], k->k, k->n, dnnl_bf16, k->trans_b ? 1 : k->ldb, k->trans_b ? k->ldb : 1),
        [BIAS] = describe(&of[BIAS], 1, k->n, dnnl_bf16, k->n, 1),
        [C] = describe(&of[C], k->m, k->n, result, k->ldc, 1),
    };
    dnnl_primitive_attr_t attributes = attributes_of(k);
    dnnl_primitive_desc_t d = NULL;

    if (described[A] && described[B] && described[BIAS] && described[C] && attributes &&
        describe_product(&d, cache->engine, of, k->bias, attributes) == dnnl_success && is_fast(d) &&
        make_memories(e, cache, d, of) && dnnl_primitive_create(&e->primitive, d) != dnnl_success)
        e->primitive = NULL;
    for (int i = 0; i < SCRATCH; i++)
        if (described[i])
            forget(of[i]);
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

bool orri_onednn_product(const struct orri_product *p, void *c)
{
    const struct key key = {p->m,       p->n,       p->k,           p->lda,         p->ldb,                  p->ldc,
                            p->trans_a, p->trans_b, p->bias != NULL, p->add != NULL, p->c_dtype == ORR_F32, {0}};
    struct cache *cache = p->dtype == ORR_BF16 ? cache_here() : NULL;
    struct entry *e = cache ? entry_for(cache, &key) : NULL;

    if (!e || !e->primitive)
        return false;
    void *const data[MEMORIES] = {(void *)p->a, (void *)p->b, (void *)p->bias, c, orri_kernel_scratch(e->scratch)};
    static const int names[MEMORIES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t arguments[MEMORIES];
    int count = 0;
    for (int i = 0; i < MEMORIES; i++) {
        if (!e->memory[i])
            continue;
        dnnl_memory_set_data_handle(e->memory[i], data[i]);
        arguments[count++] = (dnnl_exec_arg_t){names[i], e->memory[i]};
    }
    return dnnl_primitive_execute(e->primitive, cache->stream, count, arguments) == dnnl_success;
}
