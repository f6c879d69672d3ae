/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/likely.h"

#include <stdbool.h>

static bool is_before(const struct orri_candidate *a, const struct orri_candidate *b)
{
    return a->score > b->score || (a->score == b->score && a->index < b->index);
}

/* Number i goes down to where those below it come after it. */
static void sink(struct orri_likely *likely, int i)
{
    struct orri_candidate *c = likely->candidate, down = c[i];

    for (int child; (child = 2 * i + 1) < likely->count; i = child) {
        if (child + 1 < likely->count && is_before(&c[child + 1], &c[child]))
            child++;
        if (!is_before(&c[child], &down))
            break;
        c[i] = c[child];
    }
    c[i] = down;
}

void orri_likely_make(struct orri_likely *likely, struct orri_candidate *candidate, int count)
{
    *likely = (struct orri_likely){candidate, count};
    for (int i = count / 2 - 1; i >= 0; i--)
        sink(likely, i);
}

struct orri_candidate orri_likely_take(struct orri_likely *likely)
{
    struct orri_candidate first = likely->candidate[0];

    likely->candidate[0] = likely->candidate[--likely->count];
    if (likely->count > 0)
        sink(likely, 0);
    return first;
}
