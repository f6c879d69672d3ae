/* SPDX-License-Identifier: Apache-2.0 */
/* Which cores a rank computes on. */
#ifndef ORRI_CORES_H
#define ORRI_CORES_H

struct starpu_conf;

/* Divides the cores that the ranks of this host share: sets conf->ncpus unless it is (by STARPU_NCPU), and where workers
 * and communication threads find room gives this process cores of its own; where they do not, leaves them unbound and
 * lets those that look for work sleep between looks. Affinity masks are kept to, and what the user set by StarPU's
 * environment variables holds. Collective; before StarPU starts. Errors: ORR_EDEVICE (hwloc fails). */
int orri_cores_share(struct starpu_conf *conf);

#endif
