/* SPDX-License-Identifier: Apache-2.0 */
#include "core/cores.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "core/ranks.h"
#include "core/team.h"

enum {
    MASK_WORDS = 64,
    ROOM_FOR_COMMUNICATION = 4      /* from so many cores on, one of them is worth giving to messages alone */
};

struct mask {
    unsigned long word[MASK_WORDS];
};

static bool set_by_user(const char *const *names)
{
    for (; *names; names++)
        if (getenv(*names))
            return true;
    return false;
}

/* Hardware threads count as cores only where hwloc sees none. */
static hwloc_obj_t core(hwloc_topology_t topology, int i)
{
    bool known = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;

    return hwloc_get_obj_by_type(topology, known ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU, (unsigned)i);
}

static int count_cores(hwloc_topology_t topology, hwloc_const_bitmap_t mine)
{
    int cores = 0;

    for (int i = 0; core(topology, i); i++)
        cores += hwloc_bitmap_intersects(core(topology, i)->cpuset, mine);
    return cores;
}

/* Cores [first, first + count) of those in `mine`. */
static void bind_to(hwloc_topology_t topology, hwloc_const_bitmap_t mine, int first, int count)
{
    hwloc_bitmap_t slice = hwloc_bitmap_alloc();

    for (int i = 0, seen = 0; slice && core(topology, i); i++) {
        hwloc_const_bitmap_t cpuset = core(topology, i)->cpuset;
        if (!hwloc_bitmap_intersects(cpuset, mine))
            continue;
        if (seen >= first && seen < first + count)
            hwloc_bitmap_or(slice, slice, cpuset);
        seen++;
    }
    if (slice) {
        hwloc_bitmap_and(slice, slice, mine);
        hwloc_set_cpubind(topology, slice, HWLOC_CPUBIND_PROCESS);
    }
    hwloc_bitmap_free(slice);
}

/* The ranks of this host whose cores are not all others than mine, and my place among them. */
static int count_sharers(hwloc_const_bitmap_t mine, int *place)
{
    struct mask own, *all = calloc((size_t)orri_ranks_on_host(), sizeof(*all));
    int sharers = 0;

    if (orr_ranks_settle(all ? ORR_OK : orri_fail(ORR_ENOMEM, "memory", "no room for the cores' masks")) != 0) {
        free(all);
        return 0;
    }
    for (unsigned w = 0; w < MASK_WORDS; w++)
        own.word[w] = hwloc_bitmap_to_ith_ulong(mine, w);
    orri_ranks_gather_on_host(&own, sizeof(own), all);
    for (int r = 0; r < orri_ranks_on_host(); r++) {
        bool shares = false;
        for (int w = 0; w < MASK_WORDS; w++)
            shares |= (all[r].word[w] & own.word[w]) != 0;
        if (r == orri_ranks_place_on_host())
            *place = sharers;
        sharers += shares;
    }
    free(all);
    return sharers;
}

/* Sanitizers replace these functions themselves; one process alone has no crowd of threads. */
#if defined(ORR_HAVE_MPI) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static bool yield_sleeps;
static _Thread_local bool sleep_owed;

/* errno is the callers'. */
static void sleep_a_little(void)
{
    int before = errno;

    sleep_owed = false;
    nanosleep(&(struct timespec){0, 50000}, NULL);
    errno = before;
}

/* Stands in for the C library's, for StarPU and MPI too. Their threads look for work in a loop around it; Linux gives
 * such a thread its full share of the core all the same, and eight ranks on two cores run 4 to 10 times longer.
 *
 * StarPU-MPI's thread comes here, by way of MPI, with the lock that workers need to hand it a message, and takes it again
 * as soon as it has given it up. Asleep with it, it would leave them nothing: they come too late time after time, for
 * seconds. So the sleep waits for the next unlocking, or for another yield without one. */
int sched_yield(void)
{
    if (!__atomic_load_n(&yield_sleeps, __ATOMIC_RELAXED))
        return (int)syscall(SYS_sched_yield);
    if (sleep_owed)
        sleep_a_little();
    sleep_owed = true;
    return 0;
}

/* Likewise. */
int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    static int (*unlock)(pthread_mutex_t *);
    int (*next)(pthread_mutex_t *) = __atomic_load_n(&unlock, __ATOMIC_RELAXED);

    if (!next) {
        next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
        __atomic_store_n(&unlock, next, __ATOMIC_RELAXED);
    }
    int status = next(mutex);
    if (sleep_owed)
        sleep_a_little();
    return status;
}

static void sleep_in_yield(bool sleeps)
{
    __atomic_store_n(&yield_sleeps, sleeps, __ATOMIC_RELAXED);
}

#else

static void sleep_in_yield(bool sleeps)
{
    (void)sleeps;
}

#endif

static void bind_none(void)
{
    setenv("STARPU_WORKERS_NOBIND", "1", 0);
    setenv("STARPU_MPI_NOBIND", "1", 0);
}

static int share(hwloc_topology_t topology, hwloc_const_bitmap_t mine, struct starpu_conf *conf)
{
    static const char *const placed[] = {"STARPU_WORKERS_CPUID", "STARPU_WORKERS_COREID", "STARPU_WORKERS_NOBIND",
                                         "STARPU_MPI_THREAD_CPUID", "STARPU_MPI_THREAD_COREID", "STARPU_MPI_NOBIND", NULL};
    int place = 0, sharers = count_sharers(mine, &place);

    if (sharers == 0)
        return orr_error_code();
    int cores = count_cores(topology, mine), part = cores / sharers;
    if (conf->ncpus < 0)
        conf->ncpus = part >= ROOM_FOR_COMMUNICATION ? part - 1 : part > 1 ? part : 1;
    bool crowded = conf->ncpus + 1 > part;
    sleep_in_yield(crowded);
    if (set_by_user(placed))
        return ORR_OK;
    if (crowded)
        bind_none();
    else if (sharers > 1)
        bind_to(topology, mine, place * part, part);
    return ORR_OK;
}

/* The machine, and the cores that this process may use. */
struct machine {
    hwloc_topology_t topology;
    hwloc_bitmap_t mine;
};

static void close_machine(struct machine *m)
{
    if (m->topology)
        hwloc_topology_destroy(m->topology);
    hwloc_bitmap_free(m->mine);
    *m = (struct machine){0};
}

static int open_machine(struct machine *m)
{
    *m = (struct machine){.mine = hwloc_bitmap_alloc()};
    if (!m->mine || hwloc_topology_init(&m->topology) != 0) {
        m->topology = NULL;
        close_machine(m);
        return orri_fail(ORR_EDEVICE, "hwloc", "the machine's cores cannot be read");
    }
    if (hwloc_topology_load(m->topology) == 0 && hwloc_get_cpubind(m->topology, m->mine, HWLOC_CPUBIND_PROCESS) == 0)
        return ORR_OK;
    close_machine(m);
    return orri_fail(ORR_EDEVICE, "hwloc", "the cores of this process cannot be read");
}

int orri_cores_share(struct starpu_conf *conf)
{
    struct machine m;
    int status = orr_ranks_settle(open_machine(&m));

    if (status == 0)
        status = share(m.topology, m.mine, conf);
    close_machine(&m);
    return status;
}

/* ---- groups of cores --------------------------------------------------------------------------------------------- */

/* What the cores of a group have in common. */
static hwloc_obj_t domain_of(hwloc_topology_t topology, hwloc_obj_t of_core, enum orr_cpu_group kind)
{
    hwloc_obj_t cache = kind == ORR_CPU_GROUP_L3 ? hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_L3CACHE, of_core) : NULL, node = NULL;

    if (cache)
        return cache;
    while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_isincluded(of_core->cpuset, node->cpuset))
            return node;
    return hwloc_get_root_obj(topology);
}

/* The logical number of the core's first hardware thread in `mine`. */
static unsigned first_pu(hwloc_topology_t topology, hwloc_obj_t of_core, hwloc_const_bitmap_t mine)
{
    int os = hwloc_bitmap_first(of_core->cpuset);

    while (!hwloc_bitmap_isset(mine, (unsigned)os))
        os = hwloc_bitmap_next(of_core->cpuset, os);
    return hwloc_get_pu_obj_by_os_index(topology, (unsigned)os)->logical_index;
}

void orri_cores_drop(struct orri_groups *groups)
{
    free(groups->first);
    free(groups->pu);
    *groups = (struct orri_groups){0};
}

int orri_cores_group(hwloc_topology_t topology, hwloc_const_bitmap_t mine, enum orr_cpu_group kind, int threads,
                     struct orri_groups *groups)
{
    int cores = count_cores(topology, mine), seen = 0;
    hwloc_obj_t last = NULL;

    threads = threads > 0 ? threads : cores;
    *groups = (struct orri_groups){.first = orri_calloc((size_t)threads + 1, sizeof(int)),
                                   .pu = orri_calloc((size_t)threads, sizeof(unsigned))};
    if (!groups->first || !groups->pu || cores == 0) {
        orri_cores_drop(groups);
        return cores ? orr_error_code() : orri_fail(ORR_EDEVICE, "hwloc", "this process may use no core that hwloc sees");
    }
    for (int i = 0; core(topology, i); i++) {
        hwloc_obj_t of_core = core(topology, i);
        if (!hwloc_bitmap_intersects(of_core->cpuset, mine))
            continue;
        unsigned pu = first_pu(topology, of_core, mine);
        int here = threads / cores + (seen < threads % cores);
        if (seen == 0 || (here == 0 && groups->spare == groups->pu[0]))
            groups->spare = pu;
        hwloc_obj_t domain = domain_of(topology, of_core, kind);
        if (here > 0 && domain != last)
            groups->first[groups->count++] = groups->threads;
        last = domain;
        for (seen++; here > 0; here--)
            groups->pu[groups->threads++] = pu;
    }
    groups->first[groups->count] = groups->threads;
    return ORR_OK;
}

static struct {
    struct machine machine;
    struct orri_groups groups;
    char *variable;             /* STARPU_NCPU as it was; NULL: it was not */
} grouped;

static int check_placed(const char *const *names)
{
    for (; *names; names++)
        if (getenv(*names))
            return orri_remedy(orri_fail(ORR_EINVAL, *names, "places workers, and so does --cpu-group"),
                               "unset it, or use --cpu-group core; taskset confines a run to some cores");
    return ORR_OK;
}

/* StarPU's variable, which is the number of cores, goes before its configuration, which is that of workers. */
static void describe_workers(const struct orri_groups *groups, struct starpu_conf *conf)
{
    const char *variable = getenv("STARPU_NCPU");
    char workers[16];

    grouped.variable = variable ? strdup(variable) : NULL;
    snprintf(workers, sizeof(workers), "%d", groups->count);
    setenv("STARPU_NCPU", workers, 1);
    conf->ncpus = groups->count;
    conf->use_explicit_workers_bindid = 1;
    for (int w = 0; w < STARPU_NMAXWORKERS; w++)
        conf->workers_bindid[w] = w < groups->count ? groups->pu[groups->first[w]] : groups->spare;
}

int orri_cores_take(struct starpu_conf *conf, enum orr_cpu_group kind)
{
    static const char *const placed[] = {"STARPU_WORKERS_CPUID", "STARPU_WORKERS_COREID", NULL};

    if (kind == ORR_CPU_GROUP_CORE || conf->ncpus == 0)
        return ORR_OK;
    ORR_TRY(check_placed(placed));
    ORR_TRY(open_machine(&grouped.machine));
    int status = orri_cores_group(grouped.machine.topology, grouped.machine.mine, kind, conf->ncpus, &grouped.groups);
    if (status == 0)
        describe_workers(&grouped.groups, conf);
    else
        close_machine(&grouped.machine);
    return status;
}

/* Thread `place` of the calling worker's team goes to its core. */
static void bind_thread(void *argument, int place)
{
    const unsigned *pu = argument;
    hwloc_obj_t object = hwloc_get_obj_by_type(grouped.machine.topology, HWLOC_OBJ_PU, pu[place]);

    hwloc_set_cpubind(grouped.machine.topology, object->cpuset, HWLOC_CPUBIND_THREAD);
}

static void drop_groups(void)
{
    orri_cores_drop(&grouped.groups);
    close_machine(&grouped.machine);
}

static int group_here(void)
{
    int workers[STARPU_NMAXWORKERS], count = starpu_worker_get_ids_by_type(STARPU_CPU_WORKER, workers, STARPU_NMAXWORKERS), g = 0;

    while (g < count && workers[g] != starpu_worker_get_id())
        g++;
    return g;
}

static void start_team(void *argument)
{
    const int *first = grouped.groups.first + group_here();
    bool bound = !getenv("STARPU_WORKERS_NOBIND");

    (void)argument;
    orri_team_start(first[1] - first[0], bound ? bind_thread : NULL, grouped.groups.pu + first[0]);
}

static void stop_team(void *argument)
{
    (void)argument;
    orri_team_stop();
}

void orri_cores_started(bool running)
{
    if (grouped.groups.count == 0)
        return;
    if (grouped.variable)
        setenv("STARPU_NCPU", grouped.variable, 1);
    else
        unsetenv("STARPU_NCPU");
    free(grouped.variable);
    grouped.variable = NULL;
    if (running)
        starpu_execute_on_each_worker(start_team, NULL, STARPU_CPU);
    else
        drop_groups();
}

void orri_cores_stop(void)
{
    if (grouped.groups.count == 0)
        return;
    starpu_execute_on_each_worker(stop_team, NULL, STARPU_CPU);
    drop_groups();
}

int orri_cores_threads(void)
{
    return grouped.groups.count > 0 ? grouped.groups.threads : (int)starpu_cpu_worker_get_count();
}
