/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/cuda.h>

#include <orrery/error.h>
#include <stdio.h>

void orr_cuda_fail(struct orr_cuda *cuda, const char *call, const char *reason)
{
    if (cuda->code)
        return;
    cuda->code = ORR_EDEVICE;
    snprintf(cuda->what, sizeof(cuda->what), "%s: %s", call, reason);
}
