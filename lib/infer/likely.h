/* SPDX-License-Identifier: Apache-2.0 */
/* The likeliest of many, in order, without sorting those that nobody asks for: a heap. Making it takes n operations, taking one
 * from it log n. */
#ifndef ORRI_LIKELY_H
#define ORRI_LIKELY_H

struct orri_candidate {
    double score;
    int index;          /* equal scores are ordered by it, so that they give the same choice everywhere */
};

struct orri_likely {
    struct orri_candidate *candidate;   /* [count] the caller's; changes places */
    int count;                          /* that have not been taken             */
};

void orri_likely_make(struct orri_likely *likely, struct orri_candidate *candidate, int count);

/* Removes the first of them; there must be one. */
struct orri_candidate orri_likely_take(struct orri_likely *likely);

#endif
