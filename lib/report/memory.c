/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/report.h>

#include <stdlib.h>

#include <orrery/runtime.h>

#include "core/core.h"
#include "core/ranks.h"

static long long mib(int64_t bytes)
{
    return (long long)((bytes + (1 << 20) - 1) >> 20);
}

char *orr_memory_describe(const struct orr_memory_need *n, char *text, size_t size)
{
    int length =
        snprintf(text, size,
                 "%lld MiB %s parameters %lld + gradients %lld + optimizer %lld + activations %lld + scratch %lld + copies %lld + "
                 "process %lld",
                 mib(n->total), n->device ? "of" : "=", mib(n->parameters), mib(n->gradients), mib(n->state), mib(n->slots),
                 mib(n->scratch), mib(n->kept), mib(n->process));
    if (n->device && length < (int)size)
        snprintf(text + length, size - (size_t)length, "; on CUDA devices %lld MiB", mib(n->device));
    return text;
}

/* What all ranks of this host need together. */
static int total_of_host(const struct orr_memory_need *need, int64_t *total)
{
    int64_t *all = orri_calloc((size_t)orri_ranks_on_host(), sizeof(*all));

    ORR_TRY(orr_ranks_settle(all ? ORR_OK : ORR_ENOMEM));
    int status = orri_ranks_gather_on_host(&need->total, sizeof(need->total), all);
    *total = 0;
    for (int i = 0; status == 0 && i < orri_ranks_on_host(); i++)
        *total += all[i] < ((int64_t)1 << 50) ? all[i] : (int64_t)1 << 50;
    free(all);
    return status;
}

int orr_memory_check(const struct orr_memory_need *need)
{
    char text[256], ranks[64] = "";
    int64_t have = (int64_t)orr_memory_total(), total = 0;

    ORR_TRY(total_of_host(need, &total));
    if (total <= have)
        return orr_ranks_settle(ORR_OK);
    if (orri_ranks_on_host() > 1)
        snprintf(ranks, sizeof(ranks), ", with %d ranks on this host %lld MiB", orri_ranks_on_host(), mib(total));
    return orr_ranks_settle(
        orri_remedy(orri_fail(ORR_ENOFIT, "memory", "this run needs %s%s; the machine has %lld MiB",
                              orr_memory_describe(need, text, sizeof(text)), ranks, mib(have)),
                    "lower --micro-batch, --slots or --seq, choose --optimizer sgd, --zero 3, more --pp or --tp over more hosts, "
                    "or a smaller model"));
}
