/* SPDX-License-Identifier: Apache-2.0 */
/* The emulated device against plain loops: threads, blocks and what they do together. */
#include "core/device_cuda.h"
#include "codelets/math/ptx_cuda.h"
#include "forked.h"

#include <cub/device/device_radix_sort.cuh>

enum { N = 100, ALL = -1 };

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static __global__ void number(unsigned *where)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;

    where[block * blockDim.x * blockDim.y * blockDim.z + thread]++;
}

START_TEST(every_thread_runs_once)
{
    enum { COUNT = 3 * 4 * 5 * 7 * 2 * 3 };
    unsigned where[COUNT] = { 0 }, *d = on_device(COUNT, where);
    struct orr_cuda cuda = {};

    orri_launch(&cuda, "number", number, dim3(3, 4, 5), dim3(7, 2, 3), 0, d);
    ck_assert_int_eq(cuda.code, 0);
    to_host(where, d, COUNT);
    for (int k = 0; k < COUNT; k++)
        ck_assert_uint_eq(where[k], 1);
}
END_TEST

/* A sum over all threads of a block, by shuffles and shared memory. */
static __global__ void sum(const float *x, float *y, int count)
{
    __shared__ float part[32];
    float s = 0;

    for (int k = (int)threadIdx.x; k < count; k += (int)blockDim.x)
        s += x[blockIdx.x * count + k];
    for (int lane = 16; lane > 0; lane /= 2)
        s += __shfl_xor_sync(0xFFFFFFFFu, s, lane);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
    for (int lane = 16; lane > 0; lane /= 2)
        s += __shfl_down_sync(0xFFFFFFFFu, s, (unsigned)lane);
    if (threadIdx.x == 0)
        y[blockIdx.x] = s;
}

START_TEST(blocks_sum)
{
    enum { BLOCKS = 9, COUNT = 1000 };
    static float x[BLOCKS * COUNT];
    float y[BLOCKS], *d, *result = on_device<float>(BLOCKS);

    for (int k = 0; k < BLOCKS * COUNT; k++)
        x[k] = (float)(k * 7 % 13);
    d = on_device(BLOCKS * COUNT, x);
    for (unsigned threads = 32; threads <= 1024; threads *= 2) {
        run(sum, BLOCKS, threads, 0, d, result, COUNT);
        to_host(y, result, BLOCKS);
        for (int b = 0; b < BLOCKS; b++) {
            float s = 0;

            for (int k = 0; k < COUNT; k++)
                s += x[b * COUNT + k];
            ck_assert_float_eq(y[b], s);
        }
    }
}
END_TEST

/* ---- warps ------------------------------------------------------------------------------------------------------------ */

enum { SHUFFLES = 8 };

static __global__ void shuffle(int *y, int width)
{
    int t = (int)threadIdx.x, *mine = y + SHUFFLES * t;
    unsigned mask = 0xFFFFFFFFu;

    mine[0] = __shfl_sync(mask, t, 3, width);
    mine[1] = __shfl_sync(mask, t, t + 5, width);
    mine[2] = __shfl_up_sync(mask, t, 3, width);
    mine[3] = __shfl_down_sync(mask, t, 3, width);
    mine[4] = __shfl_xor_sync(mask, t, 5, width);
    mine[5] = (int)__ballot_sync(mask, t % 3 == 0);
    /* Half a warp at a time, in other orders. */
    if (t % 32 < 16) {
        mine[6] = __shfl_xor_sync(0xFFFFu, t, 1);
        mine[7] = __any_sync(0xFFFFu, t == 40) * 2 + __all_sync(0xFFFFu, t < 40);
    } else {
        mine[7] = __any_sync(0xFFFF0000u, t == 50) * 2 + __all_sync(0xFFFF0000u, t < 40);
        mine[6] = __shfl_xor_sync(0xFFFF0000u, t, 2);
    }
    __syncwarp();
}

START_TEST(shuffles)
{
    int y[64][SHUFFLES], *d = on_device<int>(64 * SHUFFLES);

    for (int width = 1; width <= 32; width *= 2) {
        run(shuffle, 1, 64, 0, d, width);
        to_host(&y[0][0], d, 64 * SHUFFLES);
        for (int t = 0; t < 64; t++) {
            int lane = t % 32, first = lane / width * width, warp = t - lane;
            unsigned ballot = 0;

            for (int k = 0; k < 32; k++)
                ballot |= (unsigned)((warp + k) % 3 == 0) << k;
            ck_assert_int_eq(y[t][0], warp + first + 3 % width);
            ck_assert_int_eq(y[t][1], warp + first + (t + 5) % width);
            ck_assert_int_eq(y[t][2], warp + (lane - 3 >= first ? lane - 3 : lane));
            ck_assert_int_eq(y[t][3], warp + (lane + 3 < first + width ? lane + 3 : lane));
            ck_assert_int_eq(y[t][4], warp + ((lane ^ 5) < first + width ? lane ^ 5 : lane));
            ck_assert_int_eq(y[t][5], (int)ballot);
            ck_assert_int_eq(y[t][6], lane < 16 ? t ^ 1 : t ^ 2);
            ck_assert_int_eq(y[t][7], lane < 16 ? (warp == 32 ? 2 : 1) : (warp == 0 ? 1 : 2));
        }
    }
}
END_TEST

/* Warps that are not whole, threads that exit early, barriers that count. */
static __global__ void leave(int *y)
{
    int t = (int)threadIdx.x;

    if (t % 2)
        return;
    y[t] = __syncthreads_count(t < 20);
    y[t] = y[t] * 2 + __syncthreads_or(t == 10);
    y[t] = y[t] * 2 + __syncthreads_and(t < 40);
    y[t] = y[t] * 64 + (int)__reduce_add_sync(0xFFFFFFFFu, 1u);
}

START_TEST(exited_threads_have_arrived)
{
    int y[50], *d = on_device<int>(50);

    run(leave, 2, 50, 0, d);
    to_host(y, d, 50);
    for (int t = 0; t < 50; t += 2)
        ck_assert_int_eq(y[t], (10 * 4 + 2 + 0) * 64 + (t < 32 ? 16 : 9));
}
END_TEST

/* ---- memory that was not written ----------------------------------------------------------------------------------------- */

static __global__ void unwritten(float *y)
{
    __shared__ float fixed[4];
    float *dynamic = reinterpret_cast<float *>(orri_shared_memory());

    y[4 * blockIdx.x] = fixed[0];
    y[4 * blockIdx.x + 1] = fixed[3];
    y[4 * blockIdx.x + 2] = dynamic[0];
    y[4 * blockIdx.x + 3] = dynamic[63];
    fixed[0] = fixed[3] = dynamic[0] = dynamic[63] = 1;
}

START_TEST(shared_memory_is_poison)
{
    float y[12], *d = on_device<float>(12);

    run(unwritten, 3, 1, 64 * sizeof(float), d);
    to_host(y, d, 12);
    for (int k = 0; k < 12; k++)
        ck_assert(y[k] != y[k]);
}
END_TEST

/* Without a barrier: what a thread of another warp reads depends on the order of warps. */
static __global__ void race(int *y)
{
    __shared__ int from[64];

    from[threadIdx.x] = (int)threadIdx.x;
    y[64 * blockIdx.x + threadIdx.x] = from[63 - threadIdx.x];
}

START_TEST(a_missing_barrier_shows)
{
    int y[128], *d = on_device<int>(128), wrong = 0;

    run(race, 2, 64, 0, d);
    to_host(y, d, 128);
    for (int k = 0; k < 128; k++)
        wrong += y[k] != 63 - k % 64;
    ck_assert_int_ge(wrong, 64);
    /* Of neither warp are all right. */
    for (int w = 0; w < 2; w++) {
        wrong = 0;
        for (int k = 0; k < 32; k++)
            wrong += y[32 * w + k] != 63 - 32 * w - k || y[64 + 32 * w + k] != 63 - 32 * w - k;
        ck_assert_int_gt(wrong, 0);
    }
}
END_TEST

static __global__ void overrun(int bytes)
{
    orri_shared_memory()[bytes] = 1;
}

static __global__ void part_at_barrier(int *y)
{
    if (threadIdx.x < 40)
        __syncthreads();
    else
        y[0] = __shfl_sync(0xFFFFFFFFu, 1, 0);
}

static __global__ void diverged(int *y)
{
    y[threadIdx.x] = threadIdx.x < 7 ? __shfl_sync(0xFFFFFFFFu, 1, 0) : __any_sync(0xFFFFFFFFu, 1);
}

static __global__ void without_source(int *y)
{
    y[threadIdx.x] = __shfl_sync(__ballot_sync(0xFFFFFFFFu, 1) & 0xFFu << threadIdx.x / 8 * 8, 1, 0);
}

START_TEST(what_has_no_meaning_ends_the_process)
{
    auto ran = [](void (*kernel)(int *)) {
        return [=] {
            run(kernel, 1, kernel == part_at_barrier ? 64 : 32, 0, on_device<int>(64));
            cudaDeviceSynchronize();
        };
    };

    must_die(SIGABRT, "lanes 8 to 31 wait in __shfl_sync, mask ffffffff", ran(part_at_barrier));
    must_die(SIGABRT, "lanes 7 to 31 wait in __any_sync", ran(diverged));
    must_die(SIGABRT, "reads from lane 0 by a shuffle in which that takes no part", ran(without_source));
    must_die(SIGSEGV, "", [] {
        run(overrun, 1, 1, 160, 160);
        cudaDeviceSynchronize();
    });
}
END_TEST

/* ---- launches that are refused -------------------------------------------------------------------------------------------- */

static void must_refuse(dim3 grid, dim3 block, size_t shared, const char *why)
{
    struct orr_cuda cuda = {};

    orri_launch(&cuda, "sum", overrun, grid, block, shared, 0);
    ck_assert_str_eq(cuda.what, why);
    cudaGetLastError();
}

START_TEST(launches_are_refused)
{
    struct orr_cuda cuda = {};
    cudaLaunchConfig_t config = {};

    must_refuse(dim3(1), dim3(1025), 0, "sum: invalid configuration argument");
    must_refuse(dim3(1), dim3(64, 32), 0, "sum: invalid configuration argument");
    must_refuse(dim3(1, 65536), dim3(1), 0, "sum: invalid configuration argument");
    must_refuse(dim3(1), dim3(1), (227 << 10) + 1, "sum: invalid argument");
    /* More shared memory than is free must be asked for. */
    config.gridDim = config.blockDim = dim3(1);
    config.dynamicSmemBytes = (48 << 10) + 16;
    ck_assert_int_eq(cudaLaunchKernelEx(&config, unwritten, on_device<float>(4)), cudaErrorInvalidValue);
    orri_launch(&cuda, "unwritten", unwritten, dim3(1), dim3(1), (48 << 10) + 16, on_device<float>(4));
    ck_assert_int_eq(cuda.code, 0);
    CUDA_OK(cudaDeviceSynchronize());
}
END_TEST

/* ---- tensor cores and asynchronous copies --------------------------------------------------------------------------------- */

/* c[16,8] = 1 + a[16,16] b[16,8]; b^T is given, or b where TRANSPOSED. */
template <typename T, bool TRANSPOSED> static __global__ void multiply(const T *a, const T *b, float *c)
{
    T *shared = reinterpret_cast<T *>(orri_shared_memory());
    int l = (int)threadIdx.x, g = l / 4, t = l % 4;
    uint32_t x[4], y[4];
    float z[4] = { 1, 1, 1, 1 };

    orri_copy_async<16>(shared + 8 * l, a + 8 * l, true);
    orri_copy_async<16>(shared + 256 + 8 * (l % 16), b + 8 * (l % 16), l < 16);
    orri_copies_commit();
    orri_copies_wait<0>();
    __syncthreads();
    /* The second copy of the upper lanes has put zeros where the lower ones' were. */
    if (l < 16)
        orri_copy_async<16>(shared + 256 + 8 * l, b + 8 * l, true);
    orri_copies_commit();
    orri_copies_wait<0>();
    __syncthreads();
    orri_ldmatrix(x, shared + l % 16 * 16 + l / 16 * 8);
    if (TRANSPOSED)
        orri_ldmatrix_transposed(y, shared + 256 + l % 16 * 8);
    else
        orri_ldmatrix(y, shared + 256 + l % 8 * 16 + l / 8 % 2 * 8);
    orri_mma<T>(z, x, y[0], y[1]);
    for (int k = 0; k < 4; k++)
        c[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = z[k];
}

template <typename T> static void check_multiply()
{
    T a[16][16], b[16][8], b_transposed[8][16];
    float c[16][8], *d = on_device<float>(128);

    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            a[i][k] = orri_from_float<T>((float)((i * 5 + k * 3) % 17 - 8));
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++)
            b[k][j] = b_transposed[j][k] = orri_from_float<T>((float)((j * 7 + k * 11) % 13 - 6));
    for (int transposed = 0; transposed < 2; transposed++) {
        if (transposed)
            run(multiply<T, true>, 1, 32, 768, (const T *)on_device(256, &a[0][0]), (const T *)on_device(128, &b[0][0]), d);
        else
            run(multiply<T, false>, 1, 32, 768, (const T *)on_device(256, &a[0][0]),
                (const T *)on_device(128, &b_transposed[0][0]), d);
        to_host(&c[0][0], d, 128);
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                float sum = 1;

                for (int k = 0; k < 16; k++)
                    sum += orri_to_float(a[i][k]) * orri_to_float(b[k][j]);
                ck_assert_float_eq(c[i][j], sum);
            }
    }
}

START_TEST(tensor_cores)
{
    check_multiply<__nv_bfloat16>();
    check_multiply<__half>();
}
END_TEST

static __global__ void copy_in_groups(const int *from, int *y)
{
    int *shared = reinterpret_cast<int *>(orri_shared_memory());

    shared[0] = shared[1] = shared[2] = 7;
    orri_copy_async<4>(shared, from, true);
    orri_copies_commit();
    orri_copy_async<4>(shared + 1, from + 1, true);
    orri_copy_async<4>(shared + 2, nullptr, false);
    orri_copies_commit();
    y[0] = shared[0];
    orri_copies_wait<1>();
    y[1] = shared[0];
    y[2] = shared[1];
    orri_copies_wait<0>();
    y[3] = shared[1];
    y[4] = shared[2];
}

START_TEST(copies_are_there_when_waited_for)
{
    int from[2] = { 1, 2 }, y[5];
    const int expected[5] = { ALL, 1, ALL, 2, 0 };
    int *d = on_device<int>(5);

    run(copy_in_groups, 1, 1, 16, (const int *)on_device(2, from), d);
    to_host(y, d, 5);
    for (int k = 0; k < 5; k++)
        ck_assert_int_eq(y[k], expected[k]);
}
END_TEST

START_TEST(numbers_in_registers)
{
    ck_assert_uint_eq(orri_pair<__nv_bfloat16>(1.0f, -2.0f), 0xc0003f80u);
    ck_assert_uint_eq(orri_pair<__half>(1.0f, -2.0f), 0xc0003c00u);
    ck_assert_float_eq(orri_exp2(3.0f), 8.0f);
    ck_assert_float_eq(orri_exp2(-130.0f), 0.0f);
    ck_assert_float_eq(orri_exp2(-INFINITY), 0.0f);
    ck_assert_uint_eq(__umulhi(0x80000000u, 6), 3);
    ck_assert_uint_eq(__brev(0x80000001u), 0x80000001u);
    ck_assert_uint_eq(__brev(6), 0x60000000u);
    ck_assert_uint_eq(__byte_perm(0x33221100u, 0x77665544u, 0x7520u), 0x77552200u);
    ck_assert_uint_eq(__funnelshift_l(0x80000000u, 1, 4), 0x18u);
    ck_assert_int_eq(__clz(1), 31);
    ck_assert_int_eq(__clz(0), 32);
    ck_assert_int_eq(__ffs(8), 4);
    ck_assert_int_eq(__float2int_rn(2.5f), 2);
}
END_TEST

/* ---- what is atomic, what sorts --------------------------------------------------------------------------------------------- */

static __global__ void tally(unsigned *count, int *most)
{
    atomicAdd(count + threadIdx.x % 3, 2u);
    atomicMax(most, (int)(blockIdx.x * blockDim.x + threadIdx.x));
}

START_TEST(atomics)
{
    unsigned count[3] = { 0 }, *d = on_device(3, count);
    int most = -5, *at = on_device(1, &most);

    run(tally, 4, 90, 0, d, at);
    to_host(count, d, 3);
    to_host(&most, at, 1);
    for (int k = 0; k < 3; k++)
        ck_assert_uint_eq(count[k], 240);
    ck_assert_int_eq(most, 359);
}
END_TEST

START_TEST(sorting_is_stable)
{
    int keys[N], values[N];
    int *keys_in, *values_in, *keys_out = on_device<int>(N), *values_out = on_device<int>(N);
    size_t bytes = 0;
    void *temporary;

    for (int k = 0; k < N; k++) {
        keys[k] = k * 37 % 10 - 5;
        values[k] = k;
    }
    keys_in = on_device(N, keys);
    values_in = on_device(N, values);
    CUDA_OK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys_in, keys_out, values_in, values_out, N));
    CUDA_OK(cudaMalloc(&temporary, bytes));
    CUDA_OK(cub::DeviceRadixSort::SortPairs(temporary, bytes, keys_in, keys_out, values_in, values_out, N));
    to_host(keys, keys_out, N);
    to_host(values, values_out, N);
    for (int k = 0; k < N; k++) {
        ck_assert_int_eq(keys[k], values[k] * 37 % 10 - 5);
        if (k > 0)
            ck_assert(keys[k - 1] < keys[k] || (keys[k - 1] == keys[k] && values[k - 1] < values[k]));
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("kernels on the emulated device");
    TCase *tc = tcase_create("kernels");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_thread_runs_once);
    tcase_add_test(tc, blocks_sum);
    tcase_add_test(tc, shuffles);
    tcase_add_test(tc, exited_threads_have_arrived);
    tcase_add_test(tc, shared_memory_is_poison);
    tcase_add_test(tc, a_missing_barrier_shows);
    tcase_add_test(tc, what_has_no_meaning_ends_the_process);
    tcase_add_test(tc, launches_are_refused);
    tcase_add_test(tc, tensor_cores);
    tcase_add_test(tc, copies_are_there_when_waited_for);
    tcase_add_test(tc, numbers_in_registers);
    tcase_add_test(tc, atomics);
    tcase_add_test(tc, sorting_is_stable);
    suite_add_tcase(s, tc);
    return s;
}
