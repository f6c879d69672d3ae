/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/math/elements.h"
#include "codelets/math/product_cpu.h"

#include "core/core.h"
#include "core/team.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/dtype.h>

/* What a primitive is made for. Without padding: it is compared as bytes. */
struct key {
    int m, n, k, lda, ldb, ldc;
    uint8_t trans_a, trans_b, bias, add, wide, copy_a;
    uint16_t threads;
};

enum { A, B, BIAS, C, SCRATCH, MEMORIES };
enum { FACTORS = B + 1 };

/* The product of A^T, a gradient of weights, copies B, as it likes it best, and, where that pays, A, with rows where its columns were. */
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

static bool describe_any(desc *d, int rows, int columns)
{
    const dnnl_dims_t dims = {rows, columns};

    return dnnl_memory_desc_create_with_tag(d, 2, dims, dnnl_bf16, dnnl_format_tag_any) == dnnl_success;
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

static bool describe_any(desc *d, int rows, int columns)
{
    const dnnl_dims_t dims = {rows, columns};

    return dnnl_memory_desc_init_by_tag(d, 2, dims, dnnl_bf16, dnnl_format_tag_any) == dnnl_success;
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
    const_desc scratch = dnnl_primitive_desc_query_md(d, dnnl_query_scratchpad_md, 0);

    for (int i = 0; i < FACTORS; i++) {
        const_desc taken = dnnl_primitive_desc_query_md(d, queries[i], 0);
        if (!make_memory(&e->memory[i], cache, taken) || ((i == A ? e->key.copy_a : e->key.trans_a) && !make_copy(e, cache, i, DESC(lies[i]), taken)))
            return false;
    }
    e->scratch = dnnl_memory_desc_get_size(scratch);
    return (!e->key.bias || make_memory(&e->memory[BIAS], cache, DESC(of[BIAS]))) &&
           make_memory(&e->memory[C], cache, DESC(of[C])) && make_memory(&e->memory[SCRATCH], cache, scratch);
}

static void make_primitive(struct entry *e, const struct cache *cache)
{
    const struct key *k = &e->key;
    dnnl_data_type_t result = k->wide ? dnnl_f32 : dnnl_bf16;
    desc of[SCRATCH], lies[FACTORS];
    bool described[] = {
        describe(&lies[A], k->m, k->k, dnnl_bf16, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1),
        describe(&lies[B], k->k, k->n, dnnl_bf16, k->trans_b ? 1 : k->ldb, k->trans_b ? k->ldb : 1),
        k->copy_a ? describe(&of[A], k->m, k->k, dnnl_bf16, k->k, 1)
                  : describe(&of[A], k->m, k->k, dnnl_bf16, k->trans_a ? 1 : k->lda, k->trans_a ? k->lda : 1),
        k->trans_a ? describe_any(&of[B], k->k, k->n)
                   : describe(&of[B], k->k, k->n, dnnl_bf16, k->trans_b ? 1 : k->ldb, k->trans_b ? k->ldb : 1),
        describe(&of[BIAS], 1, k->n, dnnl_bf16, k->n, 1),
        describe(&of[C], k->m, k->n, result, k->ldc, 1),
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

static bool copy_factor(const struct entry *e, const struct cache *cache, int factor, const void *from, void *to)
{
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, e->from[factor]}, {DNNL_ARG_TO, e->memory[factor]}};

    dnnl_memory_set_data_handle(e->from[factor], (void *)from);
    dnnl_memory_set_data_handle(e->memory[factor], to);
    return dnnl_primitive_execute(e->copy[factor], cache->stream, 2, arguments) == dnnl_success;
}

/* Rows of the factors from which on copying A pays, and the tiles of AMX with which it always does. */
enum { DEEP = 512 };

static bool has_amx(void)
{
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
}

static bool run_product(const struct orri_product *p, void *c)
{
    const struct key key = {p->m,       p->n,       p->k,            p->lda,         p->ldb,                  p->ldc,
                            p->trans_a, p->trans_b, p->bias != NULL, p->add != NULL, p->c_dtype == ORR_F32,
                            p->trans_a && (p->k >= DEEP || has_amx()),
                            (uint16_t)orri_team_size()};
    struct cache *cache = cache_here();
    struct entry *e = cache ? entry_for(cache, &key) : NULL;

    if (!e || !e->primitive)
        return false;
    char *room = orri_kernel_scratch(e->copied[A] + e->copied[B] + e->scratch);
    void *const data[MEMORIES] = {(void *)p->a, (void *)p->b, (void *)p->bias, c, room + e->copied[A] + e->copied[B]};
    static const int names[MEMORIES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t arguments[MEMORIES];
    int count = 0;
    for (int i = 0; i < FACTORS; i++)
        if (e->copy[i] && !copy_factor(e, cache, i, data[i], room + (i == B ? e->copied[A] : 0)))
            return false;
    for (int i = 0; i < MEMORIES; i++) {
        if (!e->memory[i])
            continue;
        if (i >= FACTORS || !e->copy[i])
            dnnl_memory_set_data_handle(e->memory[i], data[i]);
        arguments[count++] = (dnnl_exec_arg_t){names[i], e->memory[i]};
    }
    return dnnl_primitive_execute(e->primitive, cache->stream, count, arguments) == dnnl_success;
}

/* A piece that oneDNN has no fast way for, where the product has begun already. */
static bool run_piece(const struct orri_product *p, void *c, bool begun)
{
    bool done = run_product(p, c);

    if (!done && begun)
        orri_widened_product(p, c);
    return done || begun;
}

/* The piece of 0 .. total - 1 from `first` on, where there are as few as have at most `most` each and are about equally long. */
static int piece(int total, int most, int first)
{
    int pieces = (total + most - 1) / most, size = ((total + pieces - 1) / pieces + 63) / 64 * 64;

    return total - first < size ? total - first : size;
}

/* What copies of factors may take, half of it each. */
enum { COPIED_BYTES = ORRI_KERNEL_BYTES / 4 * 3, COPIED_ELEMENTS = COPIED_BYTES / 2 / 2 };

/* A gradient of weights, of some rows of the factors and of the result at a time. */
static bool run_transposed(const struct orri_product *whole, void *c, bool begun)
{
    int most = COPIED_ELEMENTS / (whole->n + 64) / 64 * 64;

    if (whole->k > most && whole->c_dtype != ORR_F32)
        return false;       /* the result is to be rounded once */
    for (int r = 0, k; r < whole->k; r += k) {
        k = piece(whole->k, most, r);
        for (int i = 0, m; i < whole->m; i += m) {
            struct orri_product p = *whole;
            m = piece(whole->m, COPIED_ELEMENTS / k / 64 * 64, i);
            p.m = m;
            p.k = k;
            p.a = orri_element(p.dtype, p.a, (size_t)r * (size_t)p.lda + (size_t)i);
            p.b = orri_element(p.dtype, p.b, (size_t)r * (p.trans_b ? 1 : (size_t)p.ldb));
            p.add = r > 0 ? c : whole->add;
            p.bias = r > 0 ? NULL : whole->bias;
            if (!run_piece(&p, orri_element(p.c_dtype, c, (size_t)i * (size_t)p.ldc), begun))
                return false;
            begun = true;
        }
    }
    return true;
}

/* Columns of a result at a time: of more, A would have to come from farther than the caches for every few of them. */
enum { MOST_COLUMNS = 6144 };

bool orri_onednn_product(const struct orri_product *whole, void *c)
{
    if (whole->dtype != ORR_BF16)
        return false;
    for (int j = 0, n; j < whole->n; j += n) {
        struct orri_product p = *whole;
        void *to = orri_element(p.c_dtype, c, (size_t)j);
        n = piece(whole->n, MOST_COLUMNS, j);
        p.n = n;
        p.b = orri_element(p.dtype, p.b, (size_t)j * (p.trans_b ? (size_t)p.ldb : 1));
        p.bias = p.bias ? orri_element(p.dtype, p.bias, (size_t)j) : NULL;
        if (!(p.trans_a ? run_transposed(&p, to, j > 0) : run_piece(&p, to, j > 0)))
            return false;
    }
    return true;
}
