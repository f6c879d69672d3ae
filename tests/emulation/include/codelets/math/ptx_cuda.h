/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of codelets/math/ptx_cuda.h: what the PTX ISA says that its instructions do. */
#ifndef ORRI_PTX_CUDA_H
#define ORRI_PTX_CUDA_H

#include <stdint.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emulated {

/* A register of two elements of 16 bits, and one of them as a number. */
inline uint16_t half_of(uint32_t x, int k) { return (uint16_t)(x >> 16 * k); }

template <typename T> inline float number(uint32_t x, int k);
template <> inline float number<__nv_bfloat16>(uint32_t x, int k) { return emulated_bits<float>((uint32_t)half_of(x, k) << 16); }
template <> inline float number<__half>(uint32_t x, int k) { return __half2float(emulated_bits<__half>(half_of(x, k))); }

/* m16n8k16: the sum of products, which are exact, in double and rounded once; tensor cores round more often. */
template <typename T> struct mma {
    float *c;
    const uint32_t *a;
    uint32_t b[2];

    static void all(void *const lane[32])
    {
        float a[16][16], b[16][8];

        for (int l = 0; l < 32; l++) {
            const mma *of = static_cast<mma *>(lane[l]);
            int g = l / 4, t = l % 4;

            if (!of)
                die("mma without lane %d", l);
            for (int k = 0; k < 2; k++) {
                a[g][2 * t + k] = number<T>(of->a[0], k);
                a[g + 8][2 * t + k] = number<T>(of->a[1], k);
                a[g][2 * t + 8 + k] = number<T>(of->a[2], k);
                a[g + 8][2 * t + 8 + k] = number<T>(of->a[3], k);
                b[2 * t + k][g] = number<T>(of->b[0], k);
                b[2 * t + 8 + k][g] = number<T>(of->b[1], k);
            }
        }
        for (int l = 0; l < 32; l++)
            for (int k = 0; k < 4; k++) {
                float *c = static_cast<mma *>(lane[l])->c + k;
                int row = l / 4 + k / 2 * 8, column = l % 4 * 2 + k % 2;
                double sum = *c;

                for (int i = 0; i < 16; i++)
                    sum += (double)a[row][i] * b[i][column];
                *c = (float)sum;
            }
    }
};

/* m8n8.x4, of 16 bits. */
template <bool TRANSPOSED> struct ldmatrix {
    uint32_t *x;
    const uint16_t *row;

    static void all(void *const lane[32])
    {
        for (int l = 0; l < 32; l++)
            if (!lane[l])
                die("ldmatrix without lane %d", l);
            else if (reinterpret_cast<uintptr_t>(static_cast<ldmatrix *>(lane[l])->row) % 16)
                die("ldmatrix: the row of lane %d is at no multiple of 16 bytes", l);
        for (int l = 0; l < 32; l++)
            for (int m = 0; m < 4; m++) {
                auto element = [=](int r, int c) { return (uint32_t)static_cast<ldmatrix *>(lane[8 * m + r])->row[c]; };
                int g = l / 4, t = l % 4;

                static_cast<ldmatrix *>(lane[l])->x[m] =
                    TRANSPOSED ? element(2 * t, g) | element(2 * t + 1, g) << 16 : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
            }
    }
};

/* Done when they are waited for, and not before: what is read too early is poison. */
void begin_copy(void *shared, const void *global, int bytes, bool inside);
void commit_copies();
void wait_copies(int pending);

}

template <typename T> static inline void orri_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::mma<T> mine = { c, a, { b0, b1 } };

    emulated::meet(0xffffffff, emulated::mma<T>::all, "mma", &mine);
}

static inline void orri_ldmatrix(uint32_t (&x)[4], const void *row)
{
    emulated::ldmatrix<false> mine = { x, static_cast<const uint16_t *>(row) };

    emulated::meet(0xffffffff, emulated::ldmatrix<false>::all, "ldmatrix", &mine);
}

static inline void orri_ldmatrix_transposed(uint32_t (&x)[4], const void *row)
{
    emulated::ldmatrix<true> mine = { x, static_cast<const uint16_t *>(row) };

    emulated::meet(0xffffffff, emulated::ldmatrix<true>::all, "ldmatrix.trans", &mine);
}

template <int BYTES> static inline void orri_copy_async(void *shared, const void *global, bool inside)
{
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emulated::begin_copy(shared, global, BYTES, inside);
}

static inline void orri_copies_commit() { emulated::commit_copies(); }

template <int PENDING> static inline void orri_copies_wait() { emulated::wait_copies(PENDING); }

template <typename T> static inline uint32_t orri_pair(float low, float high);

template <> inline uint32_t orri_pair<__nv_bfloat16>(float low, float high)
{
    return emulated_bits<uint32_t>(__floats2bfloat162_rn(low, high));
}

template <> inline uint32_t orri_pair<__half>(float low, float high)
{
    return emulated_bits<uint32_t>(__floats2half2_rn(low, high));
}

static inline int orri_anew(int x) { return x; }

/* ftz: what is less than a normal number, in and out, is 0. */
static inline float orri_exp2(float x)
{
    float y = exp2f(x);

    return y < 1.17549435e-38f ? 0.0f : y;
}

#endif
