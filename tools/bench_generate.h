/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_GENERATE_H
#define BENCH_GENERATE_H

#include "tools/tools.h"

/* So many tokens for each of `batch` sequences, behind random prompts. */
struct generation {
    int batch, prompt, tokens;
    bool cache;
    double read_speed;      /* from bench_read_speed() */
};

/* Bytes a second that `threads` threads, 0: one per core that this process may use, read together from memory like that of parameters:
 * the best of several times, negative on failure. Before workers are there, which would take part of the cores. */
double bench_read_speed(int threads);

/* With the model's parameters in place: an object with the milliseconds of a token (median) and of the prompt, how fast memory is
 * read, and how many times as long as reading every parameter once a token takes. NULL on failure. */
json_t *bench_generate(struct opened *o, const struct generation *generation);

#endif
