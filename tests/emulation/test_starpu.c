/* SPDX-License-Identifier: Apache-2.0 */
/* StarPU on emulated devices: its workers run CUDA functions, and its memory nodes move and evict data. */
#include <check.h>
#include <starpu.h>
#include <starpu_cublas_v2.h>
#include <stdlib.h>

#include "triple.h"

enum { HANDLES = 30, COUNT = 60000, ROUNDS = 4 };

static float vector[HANDLES][COUNT];
static int on_worker[STARPU_NMAXWORKERS];

static void triple_cpu(void *buffers[], void *arguments)
{
    float *x = (float *)STARPU_VECTOR_GET_PTR(buffers[0]);

    (void)arguments;
    for (int k = 0; k < COUNT; k++)
        x[k] = x[k] * 3 + 1;
}

static void triple_cuda(void *buffers[], void *arguments)
{
    (void)arguments;
    __atomic_fetch_add(&on_worker[starpu_worker_get_id()], 1, __ATOMIC_RELAXED);
    ck_assert_ptr_nonnull(starpu_cublas_get_local_handle());
    triple(starpu_cuda_get_local_stream(), (float *)STARPU_VECTOR_GET_PTR(buffers[0]), COUNT);
}

static struct starpu_codelet codelet = {
    .cpu_funcs = {triple_cpu},
    .cuda_funcs = {triple_cuda},
    .cuda_flags = {STARPU_CUDA_ASYNC},
    .nbuffers = 1,
    .modes = {STARPU_RW},
};

/* Each vector goes through `rounds` tasks on the workers of `where`. */
static void run(uint32_t where, int rounds)
{
    starpu_data_handle_t handle[HANDLES];
    int wrong = 0;

    codelet.where = where;
    for (int h = 0; h < HANDLES; h++) {
        for (int k = 0; k < COUNT; k++)
            vector[h][k] = (float)(h + k % 100);
        starpu_vector_data_register(&handle[h], STARPU_MAIN_RAM, (uintptr_t)vector[h], COUNT, sizeof(float));
    }
    for (int r = 0; r < rounds; r++)
        for (int h = 0; h < HANDLES; h++)
            ck_assert_int_eq(starpu_task_insert(&codelet, STARPU_RW, handle[h], 0), 0);
    for (int h = 0; h < HANDLES; h++)
        starpu_data_unregister(handle[h]);
    for (int h = 0; h < HANDLES; h++)
        for (int k = 0; k < COUNT; k++) {
            float x = (float)(h + k % 100);

            for (int r = 0; r < rounds; r++)
                x = x * 3 + 1;
            wrong += vector[h][k] != x;
        }
    ck_assert_int_eq(wrong, 0);
}

static void start(const char *devices)
{
    setenv("ORRERY_EMULATED_DEVICES", devices, 1);
    setenv("ORRERY_EMULATED_JITTER", "100", 1);
    setenv("STARPU_NCPU", "1", 1);
    setenv("STARPU_NCUDA", devices, 1);
    ck_assert_int_eq(starpu_init(NULL), 0);
    ck_assert_int_eq(starpu_cuda_worker_get_count(), (unsigned)atoi(devices));
    starpu_cublas_init();
}

static void stop(void)
{
    starpu_cublas_shutdown();
    starpu_shutdown();
}

START_TEST(one_device)
{
    start("1");
    run(STARPU_CUDA, ROUNDS);
    run(STARPU_CPU | STARPU_CUDA, ROUNDS);
    stop();
}
END_TEST

START_TEST(two_devices)
{
    int busy = 0;

    start("2");
    run(STARPU_CUDA, ROUNDS);
    for (int w = 0; w < STARPU_NMAXWORKERS; w++)
        busy += on_worker[w] > 0;
    ck_assert_int_eq(busy, 2);
    run(STARPU_CPU | STARPU_CUDA, ROUNDS);
    stop();
}
END_TEST

/* StarPU's limit is below the data; every tile is an allocation of its own, as else StarPU takes 32 MiB at once. */
START_TEST(data_is_evicted)
{
    setenv("STARPU_SUBALLOCATOR", "0", 1);
    setenv("STARPU_LIMIT_CUDA_MEM", "2", 1);
    start("1");
    run(STARPU_CUDA, ROUNDS);
    stop();
}
END_TEST

/* The device itself has too little. */
START_TEST(the_device_is_full)
{
    setenv("STARPU_SUBALLOCATOR", "0", 1);
    setenv("ORRERY_EMULATED_MEMORY_MIB", "3", 1);
    start("1");
    run(STARPU_CUDA, ROUNDS);
    stop();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("StarPU on emulated devices");
    TCase *tc = tcase_create("StarPU");
    SRunner *runner;

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, one_device);
    tcase_add_test(tc, two_devices);
    tcase_add_test(tc, data_is_evicted);
    tcase_add_test(tc, the_device_is_full);
    suite_add_tcase(s, tc);
    runner = srunner_create(s);
    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
