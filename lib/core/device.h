/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA devices that this process drives: which, and what each worker of one keeps for the codelets. Without CUDA in the
 * build, or without a device, there are none. */
#ifndef ORRI_DEVICE_H
#define ORRI_DEVICE_H

#include <orrery/cuda.h>
#include <orrery/runtime.h>

struct starpu_conf;

#ifdef __cplusplus
extern "C" {
#endif

/* The CUDA function of a codelet, where this build has them. */
#ifdef ORR_HAVE_CUDA
#define ORRI_CUDA_FUNCTION(function) .cuda_funcs = {function}, .cuda_flags = {STARPU_CUDA_ASYNC},
#else
#define ORRI_CUDA_FUNCTION(function)
#endif

/* Before StarPU starts: how many of them it is to drive; ranks on one host share them out. options may be NULL. ORR_EDEVICE where
 * CUDA was asked for and there is none, or cuDNN and it cannot be opened; ORR_EINVAL where this build does not use cuDNN. */
int orri_devices_choose(const struct orr_runtime_options *options, struct starpu_conf *conf);

/* After it has started, and before it ends. */
int orri_devices_start(const struct orr_runtime_options *options);
void orri_devices_stop(void);

/* Room for `bytes` of scratch on every device, for codelets that run from now on. Waits for all tasks where it has to grow.
 * ORR_ENOMEM with the bytes that it asked for. */
int orri_devices_reserve(size_t bytes);

/* `release` is called by the thread of every worker of a device before they stop, for what its codelets keep. Any thread; a
 * second call has the same function. */
void orri_devices_at_stop(void (*release)(void));

/* Whether attention is to be computed by cuDNN where it can. */
bool orri_devices_use_cudnn(void);

/* What a codelet works with that runs on a device now. */
struct orr_cuda *orri_device_here(void);

/* In place of a worker. */
enum { ORRI_ANYWHERE = -1, ORRI_ON_CPU = -2 };

/* StarPU's worker of device `index` mod their number; ORRI_ANYWHERE without devices, or where the scheduler chooses. And the one that
 * updates what device `index` computes with: the same, or ORRI_ON_CPU. */
int orri_device_worker(int index);
int orri_update_worker(int index);

/* Bytes that StarPU can still allocate on device `index`, or -1. */
int64_t orri_device_room(int index);

/* The memory node of the device where the calling codelet runs. */
unsigned orri_device_node(void);

/* Whether tasks of blocks may run on the CPU. */
bool orri_blocks_on_cpu(void);

#ifdef __cplusplus
}
#endif
#endif
