/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/train.h>

#include <math.h>
#include <string.h>

#include "core/core.h"

static const char *const names[] = {
    [ORR_SCHEDULE_COSINE] = "cosine", [ORR_SCHEDULE_LINEAR] = "linear", [ORR_SCHEDULE_CONSTANT] = "constant"};

int orr_schedule_parse(const char *name, enum orr_schedule_kind *kind)
{
    for (size_t i = 0; i < ORRI_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum orr_schedule_kind)i;
            return ORR_OK;
        }
    }
    return orri_remedy(orri_fail(ORR_EINVAL, "schedule", "'%s' is none", name), "use cosine, linear or constant");
}

const char *orr_schedule_name(enum orr_schedule_kind kind)
{
    return names[kind];
}

double orr_schedule_rate(const struct orr_schedule *s, int64_t step)
{
    if (step < s->warmup)
        return s->lr * (double)(step + 1) / (double)s->warmup;
    if (s->kind == ORR_SCHEDULE_CONSTANT)
        return s->lr;
    double x = s->steps > s->warmup ? (double)(step - s->warmup) / (double)(s->steps - s->warmup) : 1;
    if (x > 1)
        x = 1;
    if (s->kind == ORR_SCHEDULE_LINEAR)
        return s->lr + (s->min_lr - s->lr) * x;
    return s->min_lr + 0.5 * (s->lr - s->min_lr) * (1 + cos(acos(-1.0) * x));
}
