/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel is on the emulated device: its launch, the threads of a block, and what they do together. */
#ifndef ORRI_EMULATION_KERNEL_H
#define ORRI_EMULATION_KERNEL_H

#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif
/* A thread of the system runs one block at a time: what is its own is the block's. */
#undef __shared__
#define __shared__ static thread_local
[[maybe_unused]] static constexpr int warpSize = 32;

/* Of a library that is there from the start, so that an access is one instruction; __thread, so that it is no call. */
#define EMULATED_TLS extern __thread __attribute__((tls_model("initial-exec")))
EMULATED_TLS uint3 threadIdx, blockIdx;
EMULATED_TLS dim3 blockDim, gridDim;

namespace emulated {

EMULATED_TLS unsigned char *shared_memory;      /* dynamic, of the block that runs in this thread of the system */

/* ---- launch --------------------------------------------------------------------------------------------------- */

cudaError_t launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body);
cudaError_t set_function_attribute(const void *kernel, cudaFuncAttribute attribute, int value);

/* ---- what threads do together --------------------------------------------------------------------------------- */

enum barrier { SYNC, COUNT, AND, OR };

int synchronise(enum barrier kind, int predicate);

/* The lanes of `mask` that have not exited meet here; the last to come does `exchange` for all, with what every lane gave as
 * `mine` (NULL: not in the mask, or exited). Lanes meet only where `exchange` and `mask` are the same. */
typedef void (*exchange)(void *const lane[32]);
void meet(unsigned mask, exchange what, const char *name, void *mine);

/* Ends the process: what a kernel did has no meaning on a device. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

unsigned lane();

template <typename T> struct shuffle {
    T value, result;
    int from;

    static void all(void *const lane[32])
    {
        for (int k = 0; k < 32; k++) {
            shuffle *to = static_cast<shuffle *>(lane[k]);

            if (!to)
                continue;
            if (!lane[to->from])
                die("lane %d reads from lane %d by a shuffle in which that takes no part", k, to->from);
            to->result = static_cast<shuffle *>(lane[to->from])->value;
        }
    }
};

template <typename T> inline T shuffled(unsigned mask, const char *name, T value, int from)
{
    shuffle<T> mine = { value, value, from };

    meet(mask, shuffle<T>::all, name, &mine);
    return mine.result;
}

struct vote {
    unsigned predicate, ballot, members;

    static void all(void *const lane[32])
    {
        unsigned ballot = 0, members = 0;

        for (int k = 0; k < 32; k++)
            if (lane[k]) {
                members |= 1u << k;
                if (static_cast<vote *>(lane[k])->predicate)
                    ballot |= 1u << k;
            }
        for (int k = 0; k < 32; k++)
            if (lane[k]) {
                static_cast<vote *>(lane[k])->ballot = ballot;
                static_cast<vote *>(lane[k])->members = members;
            }
    }
};

inline vote voted(unsigned mask, const char *name, int predicate)
{
    vote mine = { predicate != 0, 0, 0 };

    meet(mask, vote::all, name, &mine);
    return mine;
}

inline void nothing(void *const[32]) {}

template <typename T, typename F> struct reduction {
    T value, result;

    static void all(void *const lane[32])
    {
        T sum = T();
        bool first = true;

        for (int k = 0; k < 32; k++)
            if (lane[k]) {
                T value = static_cast<reduction *>(lane[k])->value;

                sum = first ? value : F()(sum, value);
                first = false;
            }
        for (int k = 0; k < 32; k++)
            if (lane[k])
                static_cast<reduction *>(lane[k])->result = sum;
    }
};

template <typename F, typename T> inline T reduced(unsigned mask, const char *name, T value)
{
    reduction<T, F> mine = { value, value };

    meet(mask, reduction<T, F>::all, name, &mine);
    return mine.result;
}

}

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args)
{
    std::tuple<P...> copy(std::forward<A>(args)...);

    return emulated::launch(config, reinterpret_cast<const void *>(kernel), [=] { std::apply(kernel, copy); });
}

template <typename... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value)
{
    return emulated::set_function_attribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

/* ---- barriers ------------------------------------------------------------------------------------------------- */

static inline void __syncthreads() { emulated::synchronise(emulated::SYNC, 0); }
static inline int __syncthreads_count(int predicate) { return emulated::synchronise(emulated::COUNT, predicate); }
static inline int __syncthreads_and(int predicate) { return emulated::synchronise(emulated::AND, predicate); }
static inline int __syncthreads_or(int predicate) { return emulated::synchronise(emulated::OR, predicate); }
static inline void __syncwarp(unsigned mask = 0xffffffff) { emulated::meet(mask, emulated::nothing, "__syncwarp", nullptr); }
static inline void __threadfence_block() {}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* ---- shuffles: j and the bounds as the PTX ISA has them for shfl.sync --------------------------------------------- */

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    return emulated::shuffled(mask, "__shfl_sync", value, (int)(emulated::lane() & -width) | (from & (width - 1)));
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = (int)emulated::lane(), from = lane - (int)delta;

    return emulated::shuffled(mask, "__shfl_up_sync", value, from >= (lane & -width) ? from : lane);
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = (int)emulated::lane(), from = lane + (int)delta;

    return emulated::shuffled(mask, "__shfl_down_sync", value, from <= (lane | (width - 1)) ? from : lane);
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
    int lane = (int)emulated::lane(), from = (lane ^ bits) & 31;

    return emulated::shuffled(mask, "__shfl_xor_sync", value, from <= (lane | (width - 1)) ? from : lane);
}

/* ---- votes and reductions of a warp --------------------------------------------------------------------------- */

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return emulated::voted(mask, "__ballot_sync", predicate).ballot;
}

static inline int __any_sync(unsigned mask, int predicate)
{
    return emulated::voted(mask, "__any_sync", predicate).ballot != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
    emulated::vote all = emulated::voted(mask, "__all_sync", predicate);

    return all.ballot == all.members;
}

#define EMULATED_REDUCTION(name, T, expression) \
    static inline T name(unsigned mask, T value) \
    { \
        struct function { T operator()(T a, T b) const { return expression; } }; \
        return emulated::reduced<function>(mask, #name, value); \
    }
EMULATED_REDUCTION(__reduce_add_sync, unsigned, a + b)
EMULATED_REDUCTION(__reduce_add_sync, int, a + b)
EMULATED_REDUCTION(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATED_REDUCTION(__reduce_min_sync, int, a < b ? a : b)
EMULATED_REDUCTION(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATED_REDUCTION(__reduce_max_sync, int, a > b ? a : b)
EMULATED_REDUCTION(__reduce_and_sync, unsigned, a & b)
EMULATED_REDUCTION(__reduce_or_sync, unsigned, a | b)
EMULATED_REDUCTION(__reduce_xor_sync, unsigned, a ^ b)
#undef EMULATED_REDUCTION

#endif
