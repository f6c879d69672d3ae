/* SPDX-License-Identifier: Apache-2.0 */
/* A source of tokens that go up by seven, each label one above its token. */
#ifndef TESTS_COUNTING_H
#define TESTS_COUNTING_H

#include <orrery/orrery.h>

/* `self` is the vocabulary, an int. */
static inline void read_counting(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    uint64_t vocab = (uint64_t)*(const int *)self;

    for (int i = 0; i < count * seq; i++) {
        tokens[i] = (int32_t)((first + 7 * (uint64_t)i) % vocab);
        labels[i] = (int32_t)((first + 7 * (uint64_t)i + 1) % vocab);
    }
}

#endif
