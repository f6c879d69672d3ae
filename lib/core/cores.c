/* SPDX-License-Identifier: Apache-2.0 */
#include "core/cores.h"

#include <dlfcn.h>
#include <errno.h>
#include <hwloc.h>
#include <pthread.h>
#include <sched.h>
#include <starpu.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "core/ranks.h"

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

int orri_cores_share(struct starpu_conf *conf)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    int status = ORR_OK;

    if (!mine || hwloc_topology_init(&topology) != 0) {
        status = orri_fail(ORR_EDEVICE, "hwloc", "the machine's cores cannot be read");
    } else if (hwloc_topology_load(topology) != 0 || hwloc_get_cpubind(topology, mine, HWLOC_CPUBIND_PROCESS) != 0) {
        status = orri_fail(ORR_EDEVICE, "hwloc", "the cores of this process cannot be read");
        hwloc_topology_destroy(topology);
    }
    status = orr_ranks_settle(status);
    if (status == 0) {
        status = share(topology, mine, conf);
        hwloc_topology_destroy(topology);
    }
    hwloc_bitmap_free(mine);
    return status;
}
