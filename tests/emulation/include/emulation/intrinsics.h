/* SPDX-License-Identifier: Apache-2.0 */
/* Device functions that need nothing but their arguments. Those that a device only approximates are exact here. */
#ifndef ORRI_EMULATION_INTRINSICS_H
#define ORRI_EMULATION_INTRINSICS_H

/* ---- bits ----------------------------------------------------------------------------------------------------- */

template <typename To, typename From> static inline To emulated_bits(From from)
{
    To to;

    static_assert(sizeof(to) == sizeof(from), "bits of another size");
    std::memcpy(static_cast<void *>(&to), static_cast<const void *>(&from), sizeof(to));
    return to;
}

static inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emulated_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
static inline float __int_as_float(int x) { return emulated_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }

static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;

    for (int k = 0; k < 32; k++)
        y |= (x >> k & 1) << (31 - k);
    return y;
}

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select)
{
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned result = 0;

    for (int k = 0; k < 4; k++) {
        unsigned nibble = select >> 4 * k & 15, byte = (unsigned)(bytes >> 8 * (nibble & 7)) & 255;

        if (nibble & 8)
            byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * k;
    }
    return result;
}

static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)(((unsigned long long)hi << 32 | lo) << (shift & 31) >> 32);
}

static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)(((unsigned long long)hi << 32 | lo) >> (shift & 31));
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

template <typename T> static inline T __ldg(const T *from) { return *from; }
template <typename T> static inline T __ldcg(const T *from) { return *from; }
template <typename T> static inline T __ldca(const T *from) { return *from; }
template <typename T> static inline T __ldcs(const T *from) { return *from; }
template <typename T> static inline void __stcg(T *to, T value) { *to = value; }
template <typename T> static inline void __stcs(T *to, T value) { *to = value; }
template <typename T> static inline void __stwt(T *to, T value) { *to = value; }

/* Of integers alone: the sum of floats must not depend on the order of threads. */
#define EMULATED_ATOMICS(T) \
    static inline T atomicAdd(T *at, T x) { return __atomic_fetch_add(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicSub(T *at, T x) { return __atomic_fetch_sub(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicExch(T *at, T x) { return __atomic_exchange_n(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicAnd(T *at, T x) { return __atomic_fetch_and(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicOr(T *at, T x) { return __atomic_fetch_or(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicXor(T *at, T x) { return __atomic_fetch_xor(at, x, __ATOMIC_RELAXED); } \
    static inline T atomicCAS(T *at, T expected, T x) \
    { \
        __atomic_compare_exchange_n(at, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return expected; \
    } \
    static inline T atomicMax(T *at, T x) \
    { \
        T old = __atomic_load_n(at, __ATOMIC_RELAXED); \
        while (old < x && !__atomic_compare_exchange_n(at, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old; \
    } \
    static inline T atomicMin(T *at, T x) \
    { \
        T old = __atomic_load_n(at, __ATOMIC_RELAXED); \
        while (x < old && !__atomic_compare_exchange_n(at, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old; \
    }
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)
#undef EMULATED_ATOMICS

/* ---- arithmetic ------------------------------------------------------------------------------------------------ */

using std::isfinite;
using std::isinf;
using std::isnan;

#define EMULATED_MINMAX(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_MINMAX(int)
EMULATED_MINMAX(unsigned)
EMULATED_MINMAX(long)
EMULATED_MINMAX(unsigned long)
EMULATED_MINMAX(long long)
EMULATED_MINMAX(unsigned long long)
#undef EMULATED_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float normcdff(float x) { return (float)(0.5 * erfc(-0.70710678118654752 * (double)x)); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
/* The C library keeps these names for itself. */
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __tanhf tanhf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }
static inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_ru(float x) { return (int)ceilf(x); }
static inline unsigned __float2uint_rn(float x) { return (unsigned)nearbyintf(x); }
static inline unsigned __float2uint_rz(float x) { return (unsigned)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }

#endif
