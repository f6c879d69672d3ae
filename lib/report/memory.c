/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/report.h>

#include <orrery/runtime.h>

#include "core/core.h"

static long long mib(int64_t bytes)
{
    return (long long)((bytes + (1 << 20) - 1) >> 20);
}

char *orr_memory_describe(const struct orr_memory_need *n, char *text, size_t size)
{
    snprintf(text, size,
             "%lld MiB = parameters %lld + gradients %lld + optimizer %lld + activations %lld + scratch %lld",
             mib(n->total), mib(n->parameters), mib(n->gradients), mib(n->state), mib(n->slots), mib(n->scratch));
    return text;
}

int orr_memory_check(const struct orr_memory_need *need)
{
    char text[256];
    int64_t have = (int64_t)orr_memory_total();

    if (need->total <= have)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_ENOFIT, "memory", "this run needs %s; the machine has %lld MiB",
                                 orr_memory_describe(need, text, sizeof(text)), mib(have)),
                       "lower --micro-batch, --slots or --seq, choose --optimizer sgd, or a smaller model");
}
