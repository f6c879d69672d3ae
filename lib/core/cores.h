/* SPDX-License-Identifier: Apache-2.0 */
/* Which cores a rank computes on. */
#ifndef ORRI_CORES_H
#define ORRI_CORES_H

#include <hwloc.h>
#include <stdbool.h>

#include <orrery/runtime.h>

struct starpu_conf;

/* Divides the cores that the ranks of this host share: sets conf->ncpus unless it is (by STARPU_NCPU), and where workers
 * and communication threads find room gives this process cores of its own; where they do not, leaves them unbound and
 * lets those that look for work sleep between looks. Affinity masks are kept to, and what the user set by StarPU's
 * environment variables holds. Collective; before StarPU starts. Errors: ORR_EDEVICE (hwloc fails). */
int orri_cores_share(struct starpu_conf *conf);

/* ---- groups of cores ------------------------------------------------------------------------------------------- */

/* Threads, each on a core, by logical numbers of hardware threads; group g has threads first[g] .. first[g + 1] - 1. */
struct orri_groups {
    int count, threads;
    int *first;
    unsigned *pu;
    unsigned spare;             /* one of a core that none of them is on, or of the first core */
};

/* The first `threads` cores of those in `mine`, 0 for all, by the domains that they are in: those that share a last-level cache, a
 * NUMA node where there is none. Threads beyond the cores go round again. Freed with the next one. */
int orri_cores_group(hwloc_topology_t topology, hwloc_const_bitmap_t mine, enum orr_cpu_group kind, int threads,
                     struct orri_groups *groups);
void orri_cores_drop(struct orri_groups *groups);

/* Before StarPU starts: gives it a worker for each group of the cores of this process; conf->ncpus, unless negative, is the number of
 * cores. Errors: ORR_EINVAL (StarPU's variables bind workers otherwise), ORR_EDEVICE. */
int orri_cores_take(struct starpu_conf *conf, enum orr_cpu_group kind);

/* When it has started, or failed to: workers get their teams. Before it stops: they give them up. */
void orri_cores_started(bool running);
void orri_cores_stop(void);

/* Threads that compute, of all workers. While StarPU runs. */
int orri_cores_threads(void);

#endif
