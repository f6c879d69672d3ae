/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, events, memory and copies of the emulated device. */
#include "forked.h"

#include <condition_variable>
#include <mutex>

enum { N = 1000 };

/* Holds a stream up until it is opened. */
struct gate {
    std::mutex lock;
    std::condition_variable changed;
    bool opened = false;

    void open()
    {
        std::lock_guard<std::mutex> guard(lock);
        opened = true;
        changed.notify_all();
    }

    static void pass(void *data)
    {
        gate *of = static_cast<gate *>(data);
        std::unique_lock<std::mutex> guard(of->lock);

        of->changed.wait(guard, [=] { return of->opened; });
    }
};

static __global__ void add(int *x, int count, int n)
{
    int k = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    if (k < count)
        x[k] = (int)((unsigned)x[k] * 3 + (unsigned)n);
}

static void add_in(cudaStream_t stream, int *x, int n)
{
    struct orr_cuda cuda = {};

    cuda.stream = stream;
    orri_launch(&cuda, "add", add, dim3((N + 63) / 64), dim3(64), 0, x, (int)N, n);
    ck_assert_int_eq(cuda.code, 0);
}

/* ---- streams and events ------------------------------------------------------------------------------------------------ */

START_TEST(a_stream_keeps_the_order)
{
    static int x[N], expected[N];
    cudaStream_t stream;
    int *d = on_device<int>(N);

    setenv("ORRERY_EMULATED_JITTER", "500", 1);
    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaMemsetAsync(d, 0, sizeof(x), stream));
    for (int n = 1; n < 30; n++) {
        add_in(stream, d, n);
        for (int k = 0; k < N; k++)
            expected[k] = (int)((unsigned)expected[k] * 3 + (unsigned)n);
    }
    CUDA_OK(cudaMemcpyAsync(x, d, sizeof(x), cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    ck_assert_mem_eq(x, expected, sizeof(x));
    CUDA_OK(cudaStreamDestroy(stream));
}
END_TEST

START_TEST(calls_do_not_wait)
{
    static int x[N];
    gate hold;
    cudaStream_t stream, other;
    cudaEvent_t event, later;
    int *d = on_device(N, x), *d2 = on_device(N, x);

    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CUDA_OK(cudaEventCreateWithFlags(&later, cudaEventDisableTiming));
    CUDA_OK(cudaEventQuery(event));    /* never recorded */
    CUDA_OK(cudaLaunchHostFunc(stream, gate::pass, &hold));
    add_in(stream, d, 5);
    CUDA_OK(cudaEventRecord(event, stream));
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorNotReady);
    ck_assert_int_eq(cudaStreamQuery(stream), cudaErrorNotReady);
    /* Another stream goes on, but not beyond the event. */
    add_in(other, d2, 7);
    CUDA_OK(cudaStreamSynchronize(other));
    CUDA_OK(cudaStreamWaitEvent(other, event, 0));
    add_in(other, d, 1);
    CUDA_OK(cudaEventRecord(later, other));
    usleep(20000);
    ck_assert_int_eq(cudaEventQuery(later), cudaErrorNotReady);
    to_host(x, d2, N);
    ck_assert_int_eq(x[N - 1], 7);
    hold.open();
    CUDA_OK(cudaEventSynchronize(later));
    CUDA_OK(cudaEventQuery(event));
    to_host(x, d, N);
    ck_assert_int_eq(x[0], 16);
    CUDA_OK(cudaEventDestroy(event));
    ck_assert_int_eq(cudaEventDestroy(event), cudaErrorInvalidResourceHandle);
    ck_assert_int_eq(cudaStreamSynchronize((cudaStream_t)&hold), cudaErrorInvalidResourceHandle);
}
END_TEST

/* Streams that were not made non-blocking and the default stream wait for each other. */
START_TEST(the_default_stream_waits)
{
    gate hold, again;
    cudaStream_t blocking, free;
    cudaEvent_t event, other;
    static int x[N];
    int *d = on_device(N, x), *d2 = on_device(N, x);

    CUDA_OK(cudaStreamCreate(&blocking));
    CUDA_OK(cudaStreamCreateWithFlags(&free, cudaStreamNonBlocking));
    CUDA_OK(cudaEventCreate(&event));
    CUDA_OK(cudaEventCreate(&other));
    CUDA_OK(cudaLaunchHostFunc(blocking, gate::pass, &hold));
    add_in(blocking, d, 1);
    CUDA_OK(cudaMemsetAsync(d, 0, sizeof(x), NULL));
    CUDA_OK(cudaEventRecord(event, NULL));
    CUDA_OK(cudaEventRecord(other, free));
    CUDA_OK(cudaEventSynchronize(other));
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorNotReady);
    hold.open();
    to_host(x, d, N);
    ck_assert_int_eq(x[3], 0);
    CUDA_OK(cudaLaunchHostFunc(NULL, gate::pass, &again));
    add_in(blocking, d, 1);
    add_in(free, d2, 1);
    CUDA_OK(cudaStreamSynchronize(free));
    CUDA_OK(cudaEventRecord(event, blocking));
    usleep(20000);
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorNotReady);
    again.open();
    CUDA_OK(cudaEventSynchronize(event));
}
END_TEST

START_TEST(events_tell_the_time)
{
    cudaEvent_t first, last;
    float ms;

    CUDA_OK(cudaEventCreate(&first));
    CUDA_OK(cudaEventCreate(&last));
    CUDA_OK(cudaEventRecord(first, NULL));
    CUDA_OK(cudaLaunchHostFunc(NULL, [](void *) { usleep(20000); }, NULL));
    CUDA_OK(cudaEventRecord(last, NULL));
    ck_assert_int_eq(cudaEventElapsedTime(&ms, first, last), cudaErrorNotReady);
    CUDA_OK(cudaEventSynchronize(last));
    CUDA_OK(cudaEventElapsedTime(&ms, first, last));
    ck_assert(ms > 19 && ms < 5000);
}
END_TEST

/* ---- copies ------------------------------------------------------------------------------------------------------------ */

/* What is sent when the source changes after the call. */
START_TEST(pageable_memory_is_read_at_the_call)
{
    static int pageable[N], result[N];
    void *pinned;
    cudaStream_t stream;
    gate hold;
    int *d = on_device<int>(N), *d2 = on_device<int>(N);

    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaHostAlloc(&pinned, sizeof(pageable), cudaHostAllocDefault));
    static_cast<int *>(pinned)[5] = pageable[5] = 1;
    CUDA_OK(cudaLaunchHostFunc(stream, gate::pass, &hold));
    CUDA_OK(cudaMemcpyAsync(d, pageable, sizeof(pageable), cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaMemcpyAsync(d2, pinned, sizeof(pageable), cudaMemcpyHostToDevice, stream));
    static_cast<int *>(pinned)[5] = pageable[5] = 2;
    hold.open();
    CUDA_OK(cudaStreamSynchronize(stream));
    to_host(result, d, N);
    ck_assert_int_eq(result[5], 1);
    to_host(result, d2, N);
    ck_assert_int_eq(result[5], 2);
    CUDA_OK(cudaFreeHost(pinned));
}
END_TEST

/* From the device to pageable memory the call waits, to pinned memory it does not. */
START_TEST(pageable_memory_is_written_at_the_call)
{
    static int pageable[N], registered[N];
    cudaStream_t stream;
    gate hold;
    int *d = on_device<int>(N);

    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaMemsetAsync(d, 1, sizeof(pageable), stream));
    CUDA_OK(cudaMemcpyAsync(pageable, d, sizeof(pageable), cudaMemcpyDeviceToHost, stream));
    ck_assert_int_eq(pageable[N - 1], 0x01010101);
    CUDA_OK(cudaHostRegister(registered, sizeof(registered), 0));
    ck_assert_int_eq(cudaHostRegister(registered + 10, 4, 0), cudaErrorHostMemoryAlreadyRegistered);
    CUDA_OK(cudaLaunchHostFunc(stream, gate::pass, &hold));
    CUDA_OK(cudaMemcpyAsync(registered, d, sizeof(registered), cudaMemcpyDeviceToHost, stream));
    ck_assert_int_eq(registered[0], 0);
    hold.open();
    CUDA_OK(cudaStreamSynchronize(stream));
    ck_assert_int_eq(registered[0], 0x01010101);
    CUDA_OK(cudaHostUnregister(registered));
    ck_assert_int_eq(cudaHostUnregister(registered), cudaErrorHostMemoryNotRegistered);
}
END_TEST

START_TEST(copies_of_rows)
{
    enum { ROWS = 7, COLS = 11, PITCH = 16 };
    unsigned char from[ROWS][COLS], to[ROWS][COLS + 2], *d = on_device<unsigned char>(ROWS * PITCH);

    for (int k = 0; k < ROWS * COLS; k++)
        from[k / COLS][k % COLS] = (unsigned char)k;
    memset(to, 0, sizeof(to));
    CUDA_OK(cudaMemcpy2D(d, PITCH, from, COLS, COLS, ROWS, cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy2D(to, COLS + 2, d, PITCH, COLS, ROWS, cudaMemcpyDeviceToHost));
    for (int k = 0; k < ROWS * COLS; k++)
        ck_assert_int_eq(to[k / COLS][k % COLS], k);
    ck_assert_int_eq(to[0][COLS], 0);
    /* Towards the device, and it is none; rows that overlap. */
    ck_assert_int_eq(cudaMemcpy2D(to, PITCH, from, COLS, COLS, ROWS, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemcpy(d, d, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemcpy2D(d, COLS - 1, from, COLS, COLS, ROWS, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidPitchValue);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}
END_TEST

START_TEST(copies_between_devices)
{
    static int x[N];
    int count, can, *first, *second;
    cudaStream_t stream;
    gate hold;
    struct cudaMemcpy3DPeerParms p;
    struct orr_cuda cuda = {};

    setenv("ORRERY_EMULATED_DEVICES", "2", 1);
    CUDA_OK(cudaGetDeviceCount(&count));
    ck_assert_int_eq(count, 2);
    CUDA_OK(cudaDeviceCanAccessPeer(&can, 0, 1));
    ck_assert_int_eq(can, 1);
    first = on_device(N, x);
    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaSetDevice(1));
    second = on_device<int>(N);
    /* A kernel in a stream of another device. */
    cuda.stream = stream;
    orri_launch(&cuda, "add", add, dim3(1), dim3(1), 0, first, 1, 1);
    ck_assert_str_eq(cuda.what, "add: invalid resource handle");
    CUDA_OK(cudaLaunchHostFunc(stream, gate::pass, &hold));
    CUDA_OK(cudaMemsetAsync(first, 0, sizeof(x), stream));
    CUDA_OK(cudaMemcpyPeerAsync(second, 1, first, 0, sizeof(x), stream));
    hold.open();
    CUDA_OK(cudaStreamSynchronize(stream));
    add_in(NULL, second, 9);
    CUDA_OK(cudaMemcpyPeer(first, 0, second, 1, sizeof(x)));
    to_host(x, first, N);
    ck_assert_int_eq(x[N - 1], 9);
    /* Two rows of three. */
    memset(&p, 0, sizeof(p));
    p.srcDevice = 0;
    p.dstDevice = 1;
    p.srcPtr = { first, 5 * sizeof(int), 5 * sizeof(int), 2 };
    p.dstPtr = { second, 4 * sizeof(int), 4 * sizeof(int), 2 };
    p.extent = { 3 * sizeof(int), 2, 1 };
    CUDA_OK(cudaMemset(second, 0, sizeof(x)));
    CUDA_OK(cudaMemcpy3DPeer(&p));
    to_host(x, second, N);
    for (int k = 0; k < 10; k++)
        ck_assert_int_eq(x[k], k < 7 && k % 4 < 3 ? 9 : 0);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------------- */

START_TEST(memory_is_limited)
{
    void *at[5];
    size_t free, total;
    struct cudaPointerAttributes attributes;

    setenv("ORRERY_EMULATED_MEMORY_MIB", "4", 1);
    for (int k = 0; k < 3; k++)
        CUDA_OK(cudaMalloc(&at[k], 1 << 20));
    ck_assert_int_eq(cudaMalloc(&at[3], 1 << 20), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    CUDA_OK(cudaMemGetInfo(&free, &total));
    ck_assert_uint_eq(total, 4 << 20);
    ck_assert(free < 1 << 20 && free > (1 << 20) - 4096);
    CUDA_OK(cudaFree(at[1]));
    ck_assert_int_eq(cudaFree(at[1]), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree((char *)at[0] + 256), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(&free), cudaErrorInvalidValue);
    CUDA_OK(cudaMalloc(&at[3], 1 << 20));
    ck_assert_ptr_eq(at[3], at[1]);
    ck_assert_uint_eq((uintptr_t)at[3] % 256, 0);
    CUDA_OK(cudaPointerGetAttributes(&attributes, (char *)at[3] + 77));
    ck_assert_int_eq(attributes.type, cudaMemoryTypeDevice);
    CUDA_OK(cudaPointerGetAttributes(&attributes, &free));
    ck_assert_int_eq(attributes.type, cudaMemoryTypeUnregistered);
    CUDA_OK(cudaDeviceReset());
    CUDA_OK(cudaMalloc(&at[4], 3 << 20));
}
END_TEST

START_TEST(fresh_memory_is_poison)
{
    float x[3], *d = on_device<float>(3);

    to_host(x, d, 3);
    ck_assert(x[0] != x[0] && x[2] != x[2]);
    CUDA_OK(cudaMemset(d, 0, sizeof(x)));
    CUDA_OK(cudaFree(d));
    d = on_device<float>(3);
    to_host(x, d, 3);
    ck_assert(x[0] != x[0] && x[2] != x[2]);
}
END_TEST

static int *a_place()
{
    return on_device<int>(5);
}

START_TEST(wrong_addresses_end_the_process)
{
    must_die(SIGSEGV, "", [] { *a_place() = 1; });
    must_die(SIGABRT, "24 bytes from", [] { cudaMemset(a_place(), 0, 24); });
    must_die(SIGABRT, "is not allocated", [] {
        int x = 0, *d = a_place();

        cudaFree(d);
        cudaMemcpy(d, &x, 4, cudaMemcpyHostToDevice);
    });
    must_die(SIGABRT, "byte 20 of an allocation of 20 bytes was written", [] {
        int *d = a_place();

        run(add, 1, 1, 0, d + 5, 1, 1);
        cudaFree(d);
    });
}
END_TEST

/* ---- failures on demand ---------------------------------------------------------------------------------------------------- */

START_TEST(calls_fail_on_demand)
{
    void *at;
    cudaEvent_t event;
    struct orr_cuda cuda = {};
    int x = 0;

    setenv("ORRERY_EMULATED_FAIL", "cudaMalloc:2,launch:2,kernel:2,cudaMemcpy:1", 1);
    CUDA_OK(cudaMalloc(&at, 8));
    ck_assert_int_eq(cudaMalloc(&at, 8), cudaErrorMemoryAllocation);
    CUDA_OK(cudaMalloc(&at, 8));
    ck_assert_int_eq(cudaMemcpy(at, &x, 4, cudaMemcpyHostToDevice), cudaErrorUnknown);
    CUDA_OK(cudaMemcpy(at, &x, 4, cudaMemcpyHostToDevice));
    CUDA_OK(cudaEventCreate(&event));
    orri_launch(&cuda, "add", add, dim3(1), dim3(1), 0, (int *)at, 1, 1);
    ck_assert_int_eq(cuda.code, 0);
    orri_launch(&cuda, "add", add, dim3(1), dim3(1), 0, (int *)at, 1, 1);
    ck_assert_str_eq(cuda.what, "add: unspecified launch failure");
    CUDA_OK(cudaDeviceSynchronize());
    /* Of a kernel that fails one hears later, and then from every call. */
    cuda.code = 0;
    orri_launch(&cuda, "add", add, dim3(1), dim3(1), 0, (int *)at, 1, 1);
    ck_assert_int_eq(cuda.code, 0);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaMalloc(&at, 8), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaEventRecord(event, NULL), cudaErrorIllegalAddress);
    orri_launch(&cuda, "add", add, dim3(1), dim3(1), 0, (int *)at, 1, 1);
    ck_assert_str_eq(cuda.what, "add: an illegal memory access was encountered");
}
END_TEST

START_TEST(there_may_be_no_device)
{
    int count = -1;
    void *at;

    setenv("ORRERY_EMULATED_DEVICES", "0", 1);
    ck_assert_int_eq(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    ck_assert_int_eq(count, 0);
    ck_assert_int_eq(cudaMalloc(&at, 8), cudaErrorNoDevice);
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaErrorNoDevice);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("runtime of the emulated device");
    TCase *tc = tcase_create("runtime");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_stream_keeps_the_order);
    tcase_add_test(tc, calls_do_not_wait);
    tcase_add_test(tc, the_default_stream_waits);
    tcase_add_test(tc, events_tell_the_time);
    tcase_add_test(tc, pageable_memory_is_read_at_the_call);
    tcase_add_test(tc, pageable_memory_is_written_at_the_call);
    tcase_add_test(tc, copies_of_rows);
    tcase_add_test(tc, copies_between_devices);
    tcase_add_test(tc, memory_is_limited);
    tcase_add_test(tc, fresh_memory_is_poison);
    tcase_add_test(tc, wrong_addresses_end_the_process);
    tcase_add_test(tc, calls_fail_on_demand);
    tcase_add_test(tc, there_may_be_no_device);
    suite_add_tcase(s, tc);
    return s;
}
