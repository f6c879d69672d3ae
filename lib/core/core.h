/* SPDX-License-Identifier: Apache-2.0 */
/* What every room inside the library uses: failing, memory, per-worker scratch, SIMD clones. */
#ifndef ORRI_CORE_H
#define ORRI_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/dtype.h>
#include <orrery/error.h>
#include <orrery/rng.h>

#define ORRI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Records "where: what" (printf style) as this thread's error and returns `code`. The remedy of an
 * earlier failure is cleared. */
int orri_fail(int code, const char *where, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Adds the remedy to the error just recorded, and returns `code` again. */
int orri_remedy(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* malloc'ed, or NULL with the error recorded (ORR_ENOMEM). Freed with free(). */
void *orri_alloc(size_t bytes);
void *orri_calloc(size_t count, size_t size);
char *orri_strdup(const char *text);
char *orri_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* malloc'ed, too, or NULL without an error, aligned to cache lines; of 8 MiB and more to huge pages, which the system is asked
 * for: they spare passes over much memory most of their walks through page tables. */
void *orri_alloc_aligned(size_t bytes);
/* The same, zeroed; large ones by the system, when they are first written: a page is on the NUMA node of the thread that does. */
void *orri_pages_alloc(size_t bytes);
void orri_pages_free(void *pages, size_t bytes);

/* A buffer of at least `bytes` bytes, aligned to 64, that belongs to the calling thread (a StarPU
 * worker in a codelet). Its contents last until the thread's next call; it only grows and is freed
 * by orri_scratch_free_all() once no worker runs. A codelet cannot fail half-way, so running out of
 * memory here, which the memory prediction is there to prevent, says so and aborts. */
void *orri_scratch(size_t bytes);
/* Another one, for what a kernel needs by itself while its caller uses the first: this much at most, unless a row has more than 256k
 * elements. */
enum { ORRI_KERNEL_BYTES = 16 << 20 };
void *orri_kernel_scratch(size_t bytes);
/* Bytes of the buffers as they are now, rounded up to pages. */
size_t orri_scratch_size(void);
size_t orri_kernel_scratch_size(void);
void orri_scratch_free_all(void);

/* y[k] += x[k], k = 0..count-1. */
void orri_add(size_t count, const float *x, float *y);

/* Elements of fp32, bf16 or fp16 to fp32, exactly; and back, rounded to the nearest, of two to the even one (IEEE 754:
 * beyond the largest to infinity). The narrow ones may lie at any address. */
void orri_widen(enum orr_dtype dtype, size_t count, const void *from, float *to);
void orri_round(enum orr_dtype dtype, size_t count, const float *from, void *to);
/* To bf16, to one of the two neighbours, the nearer the likelier: by words first ... first + count - 1 of a stream. */
void orri_round_at_random(const struct orr_rng *rng, uint64_t first, size_t count, const float *from, void *to);

/* FNV-1a of 64 bits (Fowler, Noll, Vo), going on from `hash`, at first ORRI_HASH. */
#define ORRI_HASH UINT64_C(0xcbf29ce484222325)
uint64_t orri_hash(uint64_t hash, const void *data, size_t bytes);

/* Monotonic seconds. */
double orri_seconds(void);

/* Compiles a function once per x86-64 level and picks at load time; plain C elsewhere. The levels are
 * x86-64-v3 (AVX2, FMA) and v4 (AVX-512): "arch=haswell" would be picked on that very processor alone.
 * Sanitizers cannot run the resolvers, which are called before they are set up. */
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ORRI_SIMD __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define ORRI_HAS_CLONES 1
#else
#define ORRI_SIMD
#endif

#endif
