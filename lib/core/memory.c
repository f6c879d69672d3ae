/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

void *orri_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);

    if (!p)
        orri_fail(ORR_ENOMEM, "memory", "no room for %zu bytes", bytes);
    return p;
}

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

static bool has_huge_pages(size_t bytes)
{
    return bytes >= 4 * (size_t)HUGE_PAGE;
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

void *orri_alloc_aligned(size_t bytes)
{
    bool huge = has_huge_pages(bytes);
    size_t alignment = huge ? HUGE_PAGE : CACHE_LINE, size = round_up(bytes ? bytes : 1, alignment);
    void *p = aligned_alloc(alignment, size);

    if (p && huge)
        madvise(p, size, MADV_HUGEPAGE);
    return p;
}

void *orri_pages_alloc(size_t bytes)
{
    if (!has_huge_pages(bytes)) {
        void *p = orri_alloc_aligned(bytes);
        if (p)
            memset(p, 0, bytes);
        return p;
    }
    size_t size = round_up(bytes, HUGE_PAGE);
    char *whole = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole == MAP_FAILED)
        return NULL;
    size_t before = -(uintptr_t)whole % HUGE_PAGE;
    if (before)
        munmap(whole, before);
    if (before < HUGE_PAGE)
        munmap(whole + before + size, HUGE_PAGE - before);
    madvise(whole + before, size, MADV_HUGEPAGE);
    return whole + before;
}

void orri_pages_free(void *pages, size_t bytes)
{
    if (has_huge_pages(bytes))
        munmap(pages, round_up(bytes, HUGE_PAGE));
    else
        free(pages);
}

void *orri_calloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);

    if (!p)
        orri_fail(ORR_ENOMEM, "memory", "no room for %zu x %zu bytes", count, size);
    return p;
}

char *orri_strdup(const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        orri_fail(ORR_ENOMEM, "memory", "no room for %zu bytes", strlen(text) + 1);
    return copy;
}

char *orri_format(const char *format, ...)
{
    va_list args;
    char *text = NULL;

    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        orri_fail(ORR_ENOMEM, "memory", "no room for a line of text");
        return NULL;
    }
    return text;
}

double orri_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Scratch buffers are chained so that the thread that shuts down can free those of the workers. */
struct scratch {
    struct scratch *next;
    void *data;
    size_t bytes;
};

static pthread_mutex_t scratch_lock = PTHREAD_MUTEX_INITIALIZER;
static struct scratch *scratch_list;
static unsigned scratch_generation;

enum { PASS, KERNEL, USES };
static _Thread_local struct scratch *mine[USES];
static _Thread_local unsigned mine_generation[USES];

/* False where the calling thread has no buffer, or had one that orri_scratch_free_all() took. */
static bool have_scratch(int use)
{
    return mine[use] && mine_generation[use] == __atomic_load_n(&scratch_generation, __ATOMIC_RELAXED);
}

size_t orri_scratch_size(void)
{
    return have_scratch(PASS) ? mine[PASS]->bytes : 0;
}

size_t orri_kernel_scratch_size(void)
{
    return have_scratch(KERNEL) ? mine[KERNEL]->bytes : 0;
}

static void *scratch(int use, size_t bytes)
{
    if (!have_scratch(use)) {
        mine[use] = calloc(1, sizeof(*mine[use]));
        if (!mine[use])
            abort();
        pthread_mutex_lock(&scratch_lock);
        mine[use]->next = scratch_list;
        scratch_list = mine[use];
        mine_generation[use] = scratch_generation;
        pthread_mutex_unlock(&scratch_lock);
    }
    struct scratch *s = mine[use];
    if (s->bytes < bytes) {
        size_t size = (bytes + 4095) & ~(size_t)4095;
        free(s->data);
        s->data = orri_alloc_aligned(size);
        if (!s->data) {
            fprintf(stderr, "orrery: memory: no room for %zu bytes of scratch in a worker\n", size);
            abort();
        }
        s->bytes = size;
    }
    return s->data;
}

void *orri_scratch(size_t bytes)
{
    return scratch(PASS, bytes);
}

void *orri_kernel_scratch(size_t bytes)
{
    return scratch(KERNEL, bytes);
}

void orri_scratch_free_all(void)
{
    pthread_mutex_lock(&scratch_lock);
    while (scratch_list) {
        struct scratch *s = scratch_list;
        scratch_list = s->next;
        free(s->data);
        free(s);
    }
    __atomic_add_fetch(&scratch_generation, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&scratch_lock);
}
