/* SPDX-License-Identifier: Apache-2.0 */
/* The main of a test of the emulated device: every test is a process of its own, with devices and settings of its own. */
#ifndef FORKED_H
#define FORKED_H

#include <check.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/wait.h>
#include <unistd.h>

#include "core/launch_cuda.h"

Suite *suite(void);

int main(void)
{
    SRunner *runner = srunner_create(suite());

    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Runs `what` in a process of its own, which must be killed by `signal` and have said `text`. Called before the first call
 * of the CUDA runtime. */
static inline void must_die(int signal, const char *text, const std::function<void()> &what)
{
    char said[4096];
    int ends[2], status;
    size_t length = 0;
    ssize_t more;
    pid_t child;

    ck_assert_int_eq(pipe(ends), 0);
    fflush(NULL);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        ::signal(signal, SIG_DFL);
        what();
        _exit(0);
    }
    close(ends[1]);
    while (length < sizeof(said) - 1 && (more = read(ends[0], said + length, sizeof(said) - 1 - length)) > 0)
        length += (size_t)more;
    said[length] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == signal, "status %x, and it said: %s", status, said);
    ck_assert_msg(strstr(said, text) != NULL, "it said: %s", said);
}

#define CUDA_OK(call) ck_assert_str_eq(cudaGetErrorString(call), "no error")

template <typename T> static inline T *on_device(size_t count, const T *from = NULL)
{
    void *at;

    CUDA_OK(cudaMalloc(&at, count * sizeof(T)));
    if (from)
        CUDA_OK(cudaMemcpy(at, from, count * sizeof(T), cudaMemcpyHostToDevice));
    return static_cast<T *>(at);
}

template <typename T> static inline void to_host(T *to, const T *from, size_t count)
{
    CUDA_OK(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyDeviceToHost));
}

/* Launches on the default stream. */
template <typename... P, typename... A>
static inline void run(void (*kernel)(P...), unsigned grid, dim3 block, size_t shared, A... args)
{
    struct orr_cuda cuda = {};

    orri_launch(&cuda, "kernel", kernel, dim3(grid), block, shared, args...);
    ck_assert_msg(cuda.code == 0, "%s", cuda.what);
}

#endif
