/* SPDX-License-Identifier: Apache-2.0 */
/* Orrery and PyTorch timed alternately, each run a process of its own, so that whatever else the machine does meets both. MPI
 * cannot be started by a process that another with MPI has started, so it is never started in this one. */
#ifndef TOOLS_COMPARE_H
#define TOOLS_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include <models/gpt2.h>
#include <orrery/train.h>

#include "tools/options.h"

struct comparison {
    int64_t pairs;                  /* runs of each program                                     */
    const char *python, *script;    /* script NULL: the one that comes with Orrery              */
    bool compile, json;
    struct arguments arguments;     /* of `orrery bench`, the options of the comparison aside   */
    struct orr_gpt2 gpt;            /* what PyTorch trains, and how                             */
    struct orr_optimizer optimizer;
    double lr;
    int64_t batch, micro_batch, seq, steps, warm_up;    /* micro_batch 0: all of the batch      */
};

/* Whether the arguments ask for a comparison. */
bool comparison_wanted(int argc, char **argv);

/* Runs and prints it. ORR_ENOENT without Python, PyTorch or the script; ORR_EIO where a run fails. */
int compare(const struct comparison *c);

#endif
