/* SPDX-License-Identifier: Apache-2.0 */
/* Starting and stopping StarPU (and MPI), and what the machine looks like to it. */
#ifndef ORRERY_RUNTIME_H
#define ORRERY_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the tasks of blocks run. AUTO: on CUDA devices where this build and the machine have any, else on the CPU. */
enum orr_device { ORR_DEVICE_AUTO, ORR_DEVICE_CPU, ORR_DEVICE_CUDA };

/* What computes attention on CUDA devices: Orrery's kernels, or cuDNN where it can (bf16 and fp16, no dropout of probabilities;
 * docs/gpu.md tells the rest) and Orrery's kernels elsewhere. AUTO: Orrery's. */
enum orr_attention_kernels { ORR_ATTENTION_AUTO, ORR_ATTENTION_OWN, ORR_ATTENTION_CUDNN };

/* The cores of a CPU worker: one; or those of this process that share a last-level cache (where there is none, a NUMA node); or those
 * of a NUMA node. Of several, each has a thread of the worker's OpenMP team, which computes a task together. */
enum orr_cpu_group { ORR_CPU_GROUP_CORE, ORR_CPU_GROUP_L3, ORR_CPU_GROUP_NUMA };

struct orr_runtime_options {
    enum orr_device device;
    bool unpinned;      /* the scheduler chooses the device of every task, with AUTO among CPU cores too; else the coordinates of
                           the mesh that are on this rank have one each, in turn, so that what they keep does not wander */
    bool update_on_cpu; /* with CUDA devices: optimizer state and masters stay in main memory, where CPU cores update them; a device
                           sends gradients and gets what its blocks read of the parameters (Ren et al. 2021, ZeRO-Offload) */
    bool tf32;          /* on CUDA devices, factors of fp32 matrix products may be rounded to TF32 */
    enum orr_attention_kernels attention;
    enum orr_cpu_group cpu_group;   /* on the CPU alone */
    int threads;        /* cores to compute on, CPU workers unless these are groups; 0 = STARPU_NCPU, else all that hwloc sees and
                           this process may use */
    double watchdog;    /* seconds without the end of a task, while some are pending, after which the process, or all
                           ranks, end with exit status 1 and a list of them; 0 = 120, negative = never              */
    double heartbeat;   /* seconds without a sign of life of a rank after which all ranks end with exit status 1 and its
                           name; 0 = 6, negative = never                                                             */
    const char *trace;  /* the folder for an FxT trace of this process, from orr_trace_prepare(); NULL: Orrery asks for none */
};

/* ---- several ranks ------------------------------------------------------------------------------------------- */

/* Where the build has MPI and a launcher (mpiexec, srun) started this process: starts MPI and makes sure that all ranks
 * run the same build. orr_init() calls it. A program in which a rank can fail before orr_init() calls it first: MPI
 * starts on all ranks or on none, and a rank that ended before would leave the others waiting. Legal twice.
 * Errors: ORR_EDEVICE, ORR_EINVAL (ranks of different builds; on all of them). Main thread. */
int orr_ranks_start(void);

/* Collective: 0 when every rank gave 0, else on all ranks the status of the first that did not, with its message and
 * remedy as orr_error(), behind "rank R: " unless all failed alike. Called wherever a rank may fail alone (files,
 * memory) before something that the ranks do together. From the first failure on it returns that status at once, and so
 * does all else that ranks agree on: a rank that failed needs to come here once, wherever the others are then. A status
 * above 0, which is no failure, ends what they do together in the same way. Trivial with one rank. Main thread. */
int orr_ranks_settle(int status);

/* Collective: ORR_EINVAL on all ranks where one has another text than rank 0, with the first line in which it differs
 * (so a text is best written as lines of "name=value"). `what` stands before it. Trivial with one rank. Main thread. */
int orr_ranks_agree(const char *what, const char *text);

/* Collective: *value becomes the least of all ranks'. Trivial with one rank. Main thread. */
int orr_ranks_least(int *value);

/* This process' rank and the number of ranks; 0 and 1 without a launcher and before orr_ranks_start(). */
int orr_rank(void);
int orr_rank_count(void);

/* ---- the runtime ----------------------------------------------------------------------------------------------- */

/* Starts StarPU with one CPU worker per core, or group of cores, and, when the build has MPI and a launcher (mpiexec,
 * srun) started several processes, StarPU-MPI, on all ranks together. Ranks on one host share its cores: each has an
 * equal part of them, at least one worker, and from four cores on leaves one to the communication thread; with more
 * threads than cores the threads are not bound, unless StarPU's variables say otherwise. The scheduler is STARPU_SCHED, else `prio`, the
 * cheapest that honours priorities. StarPU's other environment variables hold. BLAS is set to one
 * thread per caller, since every worker calls it, and glibc's malloc to keep what is freed (M_MMAP_MAX 0, M_TRIM_THRESHOLD
 * at its largest), for the process. options may be NULL. Errors: ORR_EDEVICE,
 * ORR_EINVAL (called twice without orr_shutdown(), a STARPU_SCHED that StarPU does not know, a trace from a StarPU built
 * without FxT, attention by cuDNN from a build without it, groups of cores with CUDA devices or with STARPU_WORKERS_CPUID or
 * STARPU_WORKERS_COREID). What fails on one rank fails on all. Main thread. */
int orr_init(const struct orr_runtime_options *options);

/* Waits for all tasks and stops what orr_init() and orr_ranks_start() started. Collective. Legal without them, and
 * twice. */
void orr_shutdown(void);

/* Workers that can compute blocks at once, on CUDA devices or on the CPU; 0 before orr_init(). And of the rank that has fewest, the
 * same on all. */
int orr_worker_count(void);
int orr_worker_count_least(void);

/* Threads that compute blocks on the CPU: of its workers, and of their teams. */
int orr_thread_count(void);

/* Whether this build has CUDA functions. The CUDA devices that this process drives; the bytes of memory of one that StarPU may
 * use (STARPU_LIMIT_CUDA_MEM), 0 where it does not know; those that it holds now, with what it keeps for further use; its
 * name. */
bool orr_has_cuda(void);
int orr_device_count(void);
int64_t orr_device_memory(int index);
int64_t orr_device_memory_held(int index);
void orr_device_name(int index, char *name, size_t size);

/* The version of the cuDNN that attention may be computed by, as "9.19.0"; or "none: " and why. Opens the library. */
void orr_cudnn_describe(char *text, size_t size);

/* Which of its instruction sets this processor computes with here, as "x86-64-v4; bf16 products by oneDNN with AMX". Any thread. */
void orr_instructions_describe(char *text, size_t size);

/* The name of the scheduling policy in force; "" before orr_init(). */
const char *orr_scheduler(void);

/* Bytes of physical memory of the machine (or of its control group, where that is less), and the
 * resident size of this process, now and the largest so far. Any thread. */
size_t orr_memory_total(void);
size_t orr_memory_resident(void);
size_t orr_memory_peak(void);

/* The largest resident size of every rank, bytes[orr_rank_count()]: collective. */
int orr_memory_peaks(int64_t *bytes);

/* What the workers did since orr_profile_start(), summed over all workers, in seconds. */
struct orr_profile {
    double wall;        /* elapsed time x workers                              */
    double executing;   /* inside codelets                                     */
    double idle;        /* no task was ready                                   */
    double runtime;     /* the rest: scheduling, dependencies, callbacks       */
    int64_t tasks;      /* tasks executed                                      */
};
void orr_profile_start(void);
void orr_profile_read(struct orr_profile *out);

/* The machine as hwloc shows it, one line per fact ("packages 1, cores 2, ..."). malloc'ed; the
 * caller frees it. NULL when hwloc fails. Works before orr_init(). */
char *orr_topology(void);

/* "0.1.0 (StarPU 1.4.10, StarPU-MPI, OpenBLAS for SkylakeX, oneDNN 2.6.3)". Static. Any thread. */
const char *orr_version(void);

#ifdef __cplusplus
}
#endif
#endif
