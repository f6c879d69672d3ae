/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kept.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

enum { CHAINS = 1024 };

struct kept {
    struct kept *next;
    const void *of;
    uint64_t version;               /* that it was filled for; 0: it was not */
    size_t bytes, key_bytes;
    void *copy;
    pthread_mutex_t filling;        /* holds version and copy                */
    char key[];
};

/* The chains; what is in them stays where it is until it is forgotten. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept *chain[CHAINS];
static size_t held;                 /* atomic */

static struct kept *add(struct kept **first, const void *of, const void *key, size_t key_bytes, size_t bytes)
{
    struct kept *k = calloc(1, sizeof(*k) + key_bytes);

    if (!k)
        return NULL;
    k->next = *first;
    k->of = of;
    k->bytes = bytes;
    k->key_bytes = key_bytes;
    memcpy(k->key, key, key_bytes);
    pthread_mutex_init(&k->filling, NULL);
    *first = k;
    return k;
}

static struct kept *find(const void *of, const void *key, size_t key_bytes, size_t bytes)
{
    struct kept **first = &chain[orri_hash(orri_hash(ORRI_HASH, &of, sizeof(of)), key, key_bytes) % CHAINS];

    pthread_mutex_lock(&lock);
    struct kept *k = *first;
    while (k && (k->of != of || k->key_bytes != key_bytes || memcmp(k->key, key, key_bytes) != 0))
        k = k->next;
    if (!k)
        k = add(first, of, key, key_bytes, bytes);
    pthread_mutex_unlock(&lock);
    return k;
}

static void *allocate(struct kept *k)
{
    void *copy = orri_alloc_aligned(k->bytes);

    if (copy)
        __atomic_add_fetch(&held, k->bytes, __ATOMIC_RELAXED);
    return copy;
}

const void *orri_kept(const void *of, uint64_t version, const void *key, size_t key_bytes, size_t bytes,
                      void (*fill)(void *argument, void *copy), void *argument)
{
    struct kept *k = version ? find(of, key, key_bytes, bytes) : NULL;

    if (!k)
        return NULL;
    pthread_mutex_lock(&k->filling);
    void *copy = k->copy = k->copy ? k->copy : allocate(k);
    if (copy && k->version != version) {
        fill(argument, copy);
        k->version = version;
    }
    pthread_mutex_unlock(&k->filling);
    return copy;
}

static void drop(struct kept *k)
{
    if (k->copy)
        __atomic_sub_fetch(&held, k->bytes, __ATOMIC_RELAXED);
    pthread_mutex_destroy(&k->filling);
    free(k->copy);
    free(k);
}

void orri_kept_forget(const void *first, size_t bytes)
{
    uintptr_t begin = (uintptr_t)first;

    pthread_mutex_lock(&lock);
    for (int c = 0; c < CHAINS; c++) {
        for (struct kept **k = &chain[c]; *k;) {
            struct kept *this = *k;
            if ((uintptr_t)this->of - begin < bytes) {
                *k = this->next;
                drop(this);
            } else {
                k = &this->next;
            }
        }
    }
    pthread_mutex_unlock(&lock);
}

size_t orri_kept_bytes(void)
{
    return __atomic_load_n(&held, __ATOMIC_RELAXED);
}
