/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_GENERATE_H
#define BENCH_GENERATE_H

#include "tools/tools.h"

/* So many tokens for each of `batch` sequences, behind random prompts. */
struct generation {
    int batch, prompt, tokens;
    bool cache;
};

/* With the model's parameters in place: an object with the milliseconds of a token (median) and of the prompt, the speed at which
 * all workers together read memory, and how many times as long as reading every parameter once a token takes. NULL on failure. */
json_t *bench_generate(struct opened *o, const struct generation *generation);

#endif
