/* SPDX-License-Identifier: Apache-2.0 */
/* Runs that go on by themselves: a process that starts the job, waits for it and starts it anew where it failed by
 * accident. MPI cannot be started twice in a process, so it is never started in this one. */
#ifndef TOOLS_SUPERVISE_H
#define TOOLS_SUPERVISE_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/options.h"

/* A supervised run that failed in a way that would repeat itself ends with it; the supervisor with 1. */
enum { FAILS_AGAIN = 4 };

struct supervision {
    int64_t max_restarts;
    const char *launcher;           /* a command that starts the ranks, or NULL                             */
    const char *out;                /* the run's --out                                                      */
    const char *resume;             /* the checkpoint it begins with, or NULL                               */
    struct arguments arguments;     /* all of its options but --resume and those above that are no --out    */
};

/* Whether the arguments or the environment ask for supervision, and this process is not itself supervised. */
bool supervision_wanted(int argc, char **argv);

/* Runs the job to its end. Under mpiexec rank 0 does, with an mpiexec of its own, and the other processes wait for it.
 * Returns 0 with the job's exit status in *ended, or an error. MPI must not have been started. */
int supervise(const struct supervision *s, int *ended);

#endif
