/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/runtime.h>

#include <cblas.h>
#include <dnnl.h>
#include <hwloc.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <starpu.h>
#include <starpu_profiling.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/core.h"
#include "core/cores.h"
#include "core/device.h"
#include "core/fxt.h"
#include "core/ranks.h"
#include "core/watch.h"

#ifdef ORR_HAVE_MPI
#include <starpu_mpi.h>
#endif

static struct {
    bool running;
    bool starpu_mpi_running;
    int least_workers;
    double profile_since;
} runtime;

/* StarPU frees activations on the host as soon as they are dead and asks for the next ones at once. Given back to the
 * system in between they would come with a page fault for every 4 KiB: a fifth of a small model's time. */
static void keep_freed_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
}

/* StarPU takes another scheduler, with a warning, where it does not know the name. */
static int check_scheduler(void)
{
    const char *wanted = getenv("STARPU_SCHED");
    bool known = !wanted || strcmp(wanted, "help") == 0;

    for (struct starpu_sched_policy **p = starpu_sched_get_predefined_policies(); !known && *p; p++)
        known = (*p)->policy_name && strcmp((*p)->policy_name, wanted) == 0;
    if (known)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EINVAL, "STARPU_SCHED", "StarPU has no scheduler '%s'", wanted),
                       "unset it, or see STARPU_SCHED=help orrery info");
}

static int start_starpu(struct starpu_conf *conf)
{
    int status;

#ifdef ORR_HAVE_MPI
    if (orr_rank_count() > 1) {
        status = starpu_mpi_init_conf(NULL, NULL, 0, MPI_COMM_WORLD, conf);
        runtime.starpu_mpi_running = status == 0;
    } else
#endif
        status = starpu_init(conf);
    if (status != 0)
        return orri_fail(ORR_EDEVICE, "StarPU", "starpu_init failed: %s", strerror(-status));
    runtime.running = true;
    if (starpu_cpu_worker_get_count() == 0)
        return orri_remedy(orri_fail(ORR_EDEVICE, "StarPU", "no CPU worker to run on"),
                           "give at least one with --threads or STARPU_NCPU");
    return ORR_OK;
}

static int take_groups(enum orr_cpu_group kind, struct starpu_conf *conf)
{
    if (kind != ORR_CPU_GROUP_CORE && orr_has_cuda() && conf->ncuda != 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "groups of cores", "blocks run on CUDA devices here"),
                           "use --device cpu, or --cpu-group core");
    return orri_cores_take(conf, kind);
}

int orr_init(const struct orr_runtime_options *options)
{
    struct starpu_conf conf;

    if (runtime.running)
        return orri_fail(ORR_EINVAL, "orr_init", "already started");
    ORR_TRY(orr_ranks_start());
    ORR_TRY(orr_ranks_settle(check_scheduler()));
    ORR_TRY(orr_ranks_settle(orri_fxt_start(options ? options->trace : NULL)));
    openblas_set_num_threads(1);
    keep_freed_memory();
    starpu_conf_init(&conf);
    bool unpinned = options && options->unpinned;
    conf.sched_policy_name = unpinned ? "dmdas" : "prio";
    ORR_TRY(orr_ranks_settle(orri_devices_choose(options, &conf)));
    if (options && options->threads > 0) {
        char threads[16];
        snprintf(threads, sizeof(threads), "%d", options->threads);
        setenv("STARPU_NCPU", threads, 1);
        conf.ncpus = options->threads;
    }
    if (orr_rank_count() > 1)
        ORR_TRY(orri_cores_share(&conf));
    ORR_TRY(orr_ranks_settle(options ? take_groups(options->cpu_group, &conf) : ORR_OK));
    int status = start_starpu(&conf);
    orri_cores_started(status == 0);
    status = orr_ranks_settle(status);
    if (status == 0)
        status = orr_ranks_settle(orri_devices_start(options));
    if (status == 0)
        status = orr_ranks_settle(orri_watch_start(options));
    if (status != 0) {
        /* StarPU-MPI ends on all ranks together, and one of them has none. */
        if (!runtime.starpu_mpi_running)
            orr_shutdown();
        runtime.running = runtime.starpu_mpi_running = false;
        return status;
    }
    runtime.least_workers = orr_worker_count();
    ORR_TRY(orr_ranks_least(&runtime.least_workers));
    orri_fxt_align(orr_rank_count());
    /* A worker's first interval is only right when it began with profiling on. */
    starpu_profiling_status_set(STARPU_PROFILING_ENABLE);
    return ORR_OK;
}

void orr_shutdown(void)
{
    if (runtime.running) {
        starpu_task_wait_for_all();
        orri_devices_stop();
        orri_cores_stop();
#ifdef ORR_HAVE_MPI
        if (runtime.starpu_mpi_running)
            starpu_mpi_shutdown();
        else
#endif
            starpu_shutdown();
        orri_scratch_free_all();
    }
    orri_watch_stop();
    runtime.running = runtime.starpu_mpi_running = false;
    orri_fxt_stop();
    orri_ranks_stop();
}

int orr_worker_count(void)
{
    int cpus = orri_blocks_on_cpu() ? (int)starpu_cpu_worker_get_count() : 0;

    return runtime.running ? cpus + orr_device_count() : 0;
}

int orr_worker_count_least(void)
{
    return runtime.running ? runtime.least_workers : 0;
}

int orr_thread_count(void)
{
    return runtime.running && orri_blocks_on_cpu() ? orri_cores_threads() : 0;
}

const char *orr_scheduler(void)
{
    if (!runtime.running)
        return "";
    struct starpu_sched_policy *policy = starpu_sched_get_sched_policy();
    return policy && policy->policy_name ? policy->policy_name : "";
}

/* The memory limit of this process' control group (version 2, then 1), or SIZE_MAX. */
static size_t control_group_limit(void)
{
    static const char *const paths[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    size_t limit = SIZE_MAX;

    for (size_t i = 0; i < ORRI_COUNT(paths); i++) {
        FILE *f = fopen(paths[i], "r");
        if (!f)
            continue;
        unsigned long long bytes;
        if (fscanf(f, "%llu", &bytes) == 1 && bytes < limit)
            limit = (size_t)bytes;
        fclose(f);
    }
    return limit;
}

size_t orr_memory_total(void)
{
    size_t physical = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t limit = control_group_limit();

    return limit < physical ? limit : physical;
}

size_t orr_memory_resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    size_t pages = 0;

    if (f && fscanf(f, "%*s %zu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

size_t orr_memory_peak(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}

int orr_memory_peaks(int64_t *bytes)
{
    size_t size = (size_t)orr_rank_count() * sizeof(*bytes);

    memset(bytes, 0, size);
    bytes[orr_rank()] = (int64_t)orr_memory_peak();
    return orri_ranks_merge(bytes, size);
}

void orr_profile_start(void)
{
    for (unsigned w = 0; w < starpu_worker_get_count(); w++)
        starpu_profiling_worker_get_info((int)w, NULL);
    runtime.profile_since = orri_seconds();
}

void orr_profile_read(struct orr_profile *out)
{
    double wall = orri_seconds() - runtime.profile_since;

    *out = (struct orr_profile){0};
    for (unsigned w = 0; w < starpu_worker_get_count(); w++) {
        struct starpu_profiling_worker_info info;
        if (starpu_profiling_worker_get_info((int)w, &info) != 0)
            continue;
        out->wall += wall;
        out->executing += 1e-6 * starpu_timing_timespec_to_us(&info.executing_time);
        out->idle += 1e-6 * starpu_timing_timespec_to_us(&info.sleeping_time);
        out->tasks += info.executed_tasks;
    }
    out->runtime = out->wall - out->executing - out->idle;
}

static void describe_caches(hwloc_topology_t topology, FILE *out)
{
    static const hwloc_obj_type_t levels[] = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE};

    for (size_t i = 0; i < ORRI_COUNT(levels); i++) {
        int n = hwloc_get_nbobjs_by_type(topology, levels[i]);
        if (n <= 0)
            continue;
        hwloc_obj_t cache = hwloc_get_obj_by_type(topology, levels[i], 0);
        fprintf(out, "L%zu cache: %d x %llu KiB\n", i + 1, n,
                (unsigned long long)(cache->attr->cache.size / 1024));
    }
}

char *orr_topology(void)
{
    hwloc_topology_t topology;
    char *text = NULL;
    size_t size;

    if (hwloc_topology_init(&topology) != 0)
        return NULL;
    FILE *out = open_memstream(&text, &size);
    if (out && hwloc_topology_load(topology) == 0) {
        hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
        const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
        fprintf(out, "processor: %s\n", model ? model : "unknown");
        fprintf(out, "packages %d, NUMA nodes %d, cores %d, hardware threads %d\n",
                hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE),
                hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE),
                hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE), hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU));
        describe_caches(topology, out);
        fprintf(out, "memory: %zu MiB\n", orr_memory_total() >> 20);
    }
    if (out)
        fclose(out);
    hwloc_topology_destroy(topology);
    return text;
}

static char version[160];
static pthread_once_t version_once = PTHREAD_ONCE_INIT;

static void compose_version(void)
{
    const dnnl_version_t *dnnl = dnnl_version();
    int major, minor, release;

    starpu_get_version(&major, &minor, &release);
    snprintf(version, sizeof(version), "%s (StarPU %d.%d.%d, %s, OpenBLAS for %s, oneDNN %d.%d.%d)", PACKAGE_VERSION, major, minor,
             release,
#ifdef ORR_HAVE_MPI
             "StarPU-MPI",
#else
             "no MPI",
#endif
             openblas_get_corename(), dnnl->major, dnnl->minor, dnnl->patch);
}

const char *orr_version(void)
{
    pthread_once(&version_once, compose_version);
    return version;
}
