/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device.h"

#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/cudnn.h"
#include "core/ranks.h"

static enum orr_device device_of(const struct orr_runtime_options *options)
{
    return options ? options->device : ORR_DEVICE_AUTO;
}

/* Where there is a device cuDNN must be there too: found missing by a task, it would be too late. */
static int check_cudnn(const struct orr_runtime_options *options, bool needed)
{
    const char *why;

    if (!options || options->attention != ORR_ATTENTION_CUDNN)
        return ORR_OK;
#ifndef ORR_HAVE_CUDNN
    return orri_remedy(orri_fail(ORR_EINVAL, "cuDNN", "this build does not use it"),
                       "use --attention own, or configure with cuDNN and --with-cudnn-frontend");
#endif
    if (needed && !orri_cudnn_open(&why))
        return orri_remedy(orri_fail(ORR_EDEVICE, "cuDNN", "%s", why), "install cuDNN 9, or use --attention own");
    return ORR_OK;
}

#ifdef ORR_HAVE_CUDA

#include <cuda_runtime.h>
#include <stdatomic.h>
#include <starpu_cublasLt.h>
#include <starpu_cuda.h>

enum { LEAST_SCRATCH = 1 << 20 };       /* what codelets of lib take, which do not ask for it */

static struct {
    int count;
    int worker[STARPU_MAXCUDADEVS];
    struct orr_cuda cuda[STARPU_NMAXWORKERS];   /* by worker */
    size_t scratch;                             /* bytes of each */
    bool pinned, cpu_too, update_on_cpu, tf32, cudnn;
} devices;

static void (*_Atomic at_stop)(void);

/* StarPU would give each of several ranks on a device nine tenths of its memory. */
static void share_memory(int device, int ranks)
{
    struct cudaDeviceProp properties;
    char mib[24];

    if (ranks == 1 || cudaGetDeviceProperties(&properties, device) != cudaSuccess)
        return;
    snprintf(mib, sizeof(mib), "%zu", properties.totalGlobalMem / 10 * 9 / (size_t)ranks >> 20);
    setenv("STARPU_LIMIT_CUDA_MEM", mib, 0);
}

/* Ranks on one host take turns. */
static void share(int found, struct starpu_conf *conf)
{
    int ranks = orri_ranks_on_host(), place = orri_ranks_place_on_host();

    if (ranks == 1 || getenv("STARPU_WORKERS_CUDAID"))
        return;
    conf->use_explicit_workers_cuda_gpuid = 1;
    conf->ncuda = 0;
    if (found < ranks) {
        conf->workers_cuda_gpuid[conf->ncuda++] = (unsigned)(place % found);
        share_memory(place % found, (ranks - place % found + found - 1) / found);
    }
    for (int i = place; found >= ranks && i < found && conf->ncuda < STARPU_NMAXWORKERS; i += ranks)
        conf->workers_cuda_gpuid[conf->ncuda++] = (unsigned)i;
}

int orri_devices_choose(const struct orr_runtime_options *options, struct starpu_conf *conf)
{
    enum orr_device device = device_of(options);
    int found = 0;
    cudaError_t status = device == ORR_DEVICE_CPU ? cudaSuccess : cudaGetDeviceCount(&found);

    if (status != cudaSuccess)
        found = 0;
    if (device == ORR_DEVICE_CUDA && found == 0)
        return orri_remedy(orri_fail(ORR_EDEVICE, "CUDA", "there is no device to run on%s%s", status != cudaSuccess ? ": " : "",
                                     status != cudaSuccess ? cudaGetErrorString(status) : ""),
                           "use --device cpu");
    ORR_TRY(check_cudnn(options, found > 0));
    if (found == 0)
        conf->ncuda = 0;
    else
        share(found, conf);
    return ORR_OK;
}

static int allocate(int worker, size_t scratch)
{
    struct orr_cuda *cuda = &devices.cuda[worker];
    unsigned node = starpu_worker_get_memory_node((unsigned)worker);

    if (cuda->scratch)
        starpu_free_on_node(node, (uintptr_t)cuda->scratch, devices.scratch);
    cuda->scratch = (void *)starpu_malloc_on_node(node, scratch);
    if (!cuda->workspace)
        cuda->workspace = (void *)starpu_malloc_on_node(node, ORR_CUDA_WORKSPACE);
    if (cuda->scratch && cuda->workspace)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_ENOMEM, "CUDA", "no room for %zu MiB of scratch on a device",
                                 (scratch + ORR_CUDA_WORKSPACE) >> 20),
                       "lower --micro-batch or --seq, or raise STARPU_LIMIT_CUDA_MEM");
}

int orri_devices_reserve(size_t bytes)
{
    int status = ORR_OK;

    if (devices.count == 0 || bytes <= devices.scratch)
        return ORR_OK;
    starpu_task_wait_for_all();
    for (int i = 0; status == 0 && i < devices.count; i++)
        status = allocate(devices.worker[i], bytes);
    devices.scratch = status == 0 ? bytes : 0;
    return status;
}

int orri_devices_start(const struct orr_runtime_options *options)
{
    int count = (int)starpu_cuda_worker_get_count();

    memset(&devices, 0, sizeof(devices));
    if (count == 0 && options && options->device == ORR_DEVICE_CUDA)
        return orri_remedy(orri_fail(ORR_EDEVICE, "CUDA", "StarPU drives no device"), "unset STARPU_NCUDA, or use --device cpu");
    if (count == 0)
        return ORR_OK;
    devices.pinned = !options || !options->unpinned;
    devices.update_on_cpu = options && options->update_on_cpu;
    devices.tf32 = options && options->tf32;
    devices.cudnn = options && options->attention == ORR_ATTENTION_CUDNN;
    devices.cpu_too = options && options->unpinned && options->device == ORR_DEVICE_AUTO;
    starpu_cublasLt_init();
    starpu_worker_get_ids_by_type(STARPU_CUDA_WORKER, devices.worker, STARPU_MAXCUDADEVS);
    devices.count = count < STARPU_MAXCUDADEVS ? count : STARPU_MAXCUDADEVS;
    return orri_devices_reserve(LEAST_SCRATCH);
}

void orri_devices_at_stop(void (*release)(void))
{
    atomic_store(&at_stop, release);
}

static void release_worker(void *release)
{
    (*(void (*_Atomic *)(void))release)();
}

void orri_devices_stop(void)
{
    if (devices.count && atomic_load(&at_stop))
        starpu_execute_on_each_worker(release_worker, &at_stop, STARPU_CUDA);
    for (int i = 0; i < devices.count; i++) {
        struct orr_cuda *cuda = &devices.cuda[devices.worker[i]];
        unsigned node = starpu_worker_get_memory_node((unsigned)devices.worker[i]);
        if (cuda->scratch)
            starpu_free_on_node(node, (uintptr_t)cuda->scratch, devices.scratch);
        if (cuda->workspace)
            starpu_free_on_node(node, (uintptr_t)cuda->workspace, ORR_CUDA_WORKSPACE);
    }
    if (devices.count)
        starpu_cublasLt_shutdown();
    devices.count = 0;
}

struct orr_cuda *orri_device_here(void)
{
    struct orr_cuda *cuda = &devices.cuda[starpu_worker_get_id_check()];

    cuda->stream = starpu_cuda_get_local_stream();
    cuda->blas = starpu_cublasLt_get_local_handle();
    cuda->tf32 = devices.tf32;
    cuda->code = 0;
    return cuda;
}

bool orri_devices_use_cudnn(void)
{
    return devices.cudnn;
}

bool orr_has_cuda(void)
{
    return true;
}

int orr_device_count(void)
{
    return devices.count;
}

int orri_device_worker(int index)
{
    return devices.pinned && devices.count ? devices.worker[index % devices.count] : ORRI_ANYWHERE;
}

int orri_update_worker(int index)
{
    return devices.count && devices.update_on_cpu ? ORRI_ON_CPU : orri_device_worker(index);
}

int64_t orri_device_room(int index)
{
    return (int64_t)starpu_memory_get_available(starpu_worker_get_memory_node((unsigned)devices.worker[index]));
}

unsigned orri_device_node(void)
{
    return starpu_worker_get_memory_node((unsigned)starpu_worker_get_id_check());
}

bool orri_blocks_on_cpu(void)
{
    return devices.count == 0 || devices.cpu_too;
}

int64_t orr_device_memory(int index)
{
    unsigned node = starpu_worker_get_memory_node((unsigned)devices.worker[index]);

    return (int64_t)starpu_memory_get_total(node);
}

int64_t orr_device_memory_held(int index)
{
    return (int64_t)starpu_memory_get_used(starpu_worker_get_memory_node((unsigned)devices.worker[index]));
}

void orr_device_name(int index, char *name, size_t size)
{
    starpu_worker_get_name(devices.worker[index], name, size);
}

#else

int orri_devices_choose(const struct orr_runtime_options *options, struct starpu_conf *conf)
{
    conf->ncuda = 0;
    if (device_of(options) == ORR_DEVICE_CUDA)
        return orri_remedy(orri_fail(ORR_EDEVICE, "CUDA", "this build has no CUDA functions"),
                           "use --device cpu, or build with the CUDA toolkit");
    return check_cudnn(options, false);
}

int orri_devices_start(const struct orr_runtime_options *options)
{
    (void)options;
    return ORR_OK;
}

void orri_devices_stop(void)
{
}

int orri_devices_reserve(size_t bytes)
{
    (void)bytes;
    return ORR_OK;
}

struct orr_cuda *orri_device_here(void)
{
    return NULL;
}

bool orr_has_cuda(void)
{
    return false;
}

int orr_device_count(void)
{
    return 0;
}

int orri_device_worker(int index)
{
    (void)index;
    return ORRI_ANYWHERE;
}

int orri_update_worker(int index)
{
    (void)index;
    return ORRI_ANYWHERE;
}

int64_t orri_device_room(int index)
{
    (void)index;
    return -1;
}

unsigned orri_device_node(void)
{
    return 0;
}

bool orri_blocks_on_cpu(void)
{
    return true;
}

int64_t orr_device_memory(int index)
{
    (void)index;
    return 0;
}

int64_t orr_device_memory_held(int index)
{
    (void)index;
    return 0;
}

void orr_device_name(int index, char *name, size_t size)
{
    (void)index;
    if (size)
        *name = '\0';
}

#endif
