/* SPDX-License-Identifier: Apache-2.0 */
/* System calls that fail on demand. The definitions take the place of the C library's for everything
 * linked into the test. */
#ifndef ORR_TEST_FAULTS_H
#define ORR_TEST_FAULTS_H

#include <stdbool.h>

/* From now on the nth call (1, 2, ...) of those that write fails with `error`; 0 = none. */
void faults_arm(int nth, int error);

/* Ends that. True if the call did fail. */
bool faults_disarm(void);

/* Neither renameat2() nor fallocate() is there, as on NFS. */
void faults_old_system(bool old);

#endif
