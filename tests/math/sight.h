/* SPDX-License-Identifier: Apache-2.0 */
/* Who sees whom, by the definition (struct orri_attention), and rows of several sequences, for tests of attention. */
#ifndef TESTS_SIGHT_H
#define TESTS_SIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "codelets/math/math.h"

/* Rows of sequences that are in turn one shorter and one longer than `length`; of one each where that is 0. */
static inline void fill_places(int batch, int seq, int length, int32_t *places)
{
    for (int b = 0; b < batch; b++)
        for (int t = 0, number = b, place = 0; t < seq; t++, place++) {
            if (length && place >= length + (number % 2 ? 1 : -1)) {
                number++;
                place = 0;
            }
            places[b * seq + t] = place;
        }
}

/* Whether query i sees key j of a row whose tokens have these places. */
static inline bool sees(const struct orri_attention *a, const int32_t *places, int i, int j)
{
    return i - places[i] == j - places[j] && (a->bidirectional || j <= i) && (!a->window || j > i - a->window);
}
#endif
