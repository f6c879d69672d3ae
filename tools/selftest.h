/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of `orrery selftest`: each makes its checks and reports them. */
#ifndef TOOLS_SELFTEST_H
#define TOOLS_SELFTEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { SELFTEST_SKIPPED = 77 };      /* exit status without a device, as Automake's tests have it */

struct selftest {
    bool quick, json;
    const char *golden;         /* the folder of what PyTorch computes (tests/golden/README.md) */
    int checks, failures;
    json_t *rows;               /* with --json */
};

/* A check has been made: `error`, relative to the largest value, is to be `bound` at most. `where` says of which shape and
 * layout, and where the error is. */
void selftest_report(struct selftest *s, const char *name, const char *dtype, const char *where, double error, double bound);

/* One that could not be made, because of `reason`. */
void selftest_fail(struct selftest *s, const char *name, const char *dtype, const char *where, const char *reason);

/* The largest difference, relative to the largest value wanted: 0 where all are 0, infinite where one is not a number. */
double selftest_distance(int64_t count, const float *found, const float *wanted);

/* Every CUDA function of every block against the CPU function. */
int selftest_blocks(struct selftest *s);

/* The golden model on the device against what PyTorch computes of it. */
int selftest_golden(struct selftest *s);

/* Training by processes of their own: CPU against CUDA, twice the same, and with less memory than it needs. */
int selftest_training(struct selftest *s);

#endif
