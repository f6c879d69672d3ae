/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions that CUDA C++ has no name for, one function each; a build without a device has this header in C++. All lanes
 * of a warp call the warp-wide ones together. Lane l is g = l / 4 and t = l % 4; a register of two elements has the one
 * of the lower index in its lower half. */
#ifndef ORRI_PTX_CUDA_H
#define ORRI_PTX_CUDA_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* mma.m16n8k16, c += a b. a[16,16]: a[0] = (g, 2t..), a[1] = (g+8, 2t..), a[2] = (g, 2t+8..), a[3] = (g+8, 2t+8..);
 * b[16,8]: b0 = (2t.., g), b1 = (2t+8.., g); c[16,8]: c[0], c[1] = (g, 2t..), c[2], c[3] = (g+8, 2t..). */
template <typename T>
static __device__ __forceinline__ void orri_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void orri_mma<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void orri_mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ldmatrix.x4: four 8x8 matrices of 16-bit elements, the row r of matrix m at the shared address of lane 8m + r, 16-byte
 * aligned; x[m] = (g, 2t..) of matrix m. */
static __device__ __forceinline__ void orri_ldmatrix(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* ldmatrix.x4.trans: the same, of the transposed matrices: x[m] = (2t.., g) of matrix m. */
static __device__ __forceinline__ void orri_ldmatrix_transposed(uint32_t (&x)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

/* cp.async: BYTES (4, 8 or 16; both addresses aligned to them) from global to shared memory, or zeros where not `inside`;
 * the address is then not read. */
template <int BYTES>
static __device__ __forceinline__ void orri_copy_async(void *shared, const void *global, bool inside)
{
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::
                     "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "r"(inside ? 16 : 0) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::
                     "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "n"(BYTES), "r"(inside ? BYTES : 0)
                     : "memory");
}

/* cp.async.commit_group: the copies that this thread began since the last one are a group. */
static __device__ __forceinline__ void orri_copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* cp.async.wait_group: waits until all groups of this thread but the last PENDING are there, for this thread alone. */
template <int PENDING>
static __device__ __forceinline__ void orri_copies_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

/* cvt.rn.bf16x2.f32, cvt.rn.f16x2.f32: two elements in a register, `low` in the lower half. */
template <typename T>
static __device__ __forceinline__ uint32_t orri_pair(float low, float high);

template <>
__device__ __forceinline__ uint32_t orri_pair<__nv_bfloat16>(float low, float high)
{
    uint32_t x;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
}

template <>
__device__ __forceinline__ uint32_t orri_pair<__half>(float low, float high)
{
    uint32_t x;

    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
}

/* No instruction. What follows from the result is computed again where it is needed: the compiler, which would keep it from
 * one turn of a loop to the next in registers that are not there, no longer sees that it is the same. */
static __device__ __forceinline__ int orri_anew(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* ex2.approx.ftz.f32: 2^x, off by at most 2 units in the last place; results below 2^-126 are 0. */
static __device__ __forceinline__ float orri_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
