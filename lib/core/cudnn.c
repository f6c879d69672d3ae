/* SPDX-License-Identifier: Apache-2.0 */
#include "core/cudnn.h"

#include <orrery/runtime.h>
#include <stdio.h>

#ifdef ORR_HAVE_CUDNN

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;
static char failure[200];

/* cudnn-frontend opens a CUDA runtime by its name, which must be the one that this library is linked to; and takes the way to a
 * deterministic backward pass whose workspace grows with T, not T x T (Hopper, cuDNN >= 9.25), only where it is told to. */
static void set_up_frontend(void)
{
    char runtime[32];

    snprintf(runtime, sizeof(runtime), "libcudart.so.%d", CUDART_VERSION / 1000);
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", runtime, 0);
    setenv("CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT", "0", 0);
}

static void open_library(void)
{
    library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (library) {
        set_up_frontend();
    } else {
        const char *reason = dlerror();
        snprintf(failure, sizeof(failure), "%s", reason ? reason : "libcudnn.so.9 cannot be opened");
    }
}

void *orri_cudnn_open(const char **why)
{
    pthread_once(&once, open_library);
    *why = failure;
    return library;
}

void orr_cudnn_describe(char *text, size_t size)
{
    const char *why;
    void *opened = orri_cudnn_open(&why);
    size_t (*get_version)(void) = NULL;

    if (opened)
        *(void **)&get_version = dlsym(opened, "cudnnGetVersion");
    size_t version = get_version ? get_version() : 0;
    if (opened)
        snprintf(text, size, "%zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
    else
        snprintf(text, size, "none: %s", why);
}

#else

void *orri_cudnn_open(const char **why)
{
    *why = "this build does not use it";
    return NULL;
}

void orr_cudnn_describe(char *text, size_t size)
{
    snprintf(text, size, "none: this build does not use it");
}

#endif
