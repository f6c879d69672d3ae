/* SPDX-License-Identifier: Apache-2.0 */
#include "core/fxt.h"

#include <starpu.h>
#include <stdlib.h>

#include "core/core.h"

#ifdef STARPU_USE_FXT

static bool asked;

int orri_fxt_start(const char *directory)
{
    if (!directory)
        return ORR_OK;
    setenv("STARPU_FXT_TRACE", "1", 1);
    setenv("STARPU_FXT_PREFIX", directory, 1);
    setenv("STARPU_FXT_SUFFIX", ORRI_FXT_FILE, 1);
    setenv("STARPU_GENERATE_TRACE", "0", 1);    /* it would translate the trace of one rank without the others' */
    asked = true;
    return ORR_OK;
}

void orri_fxt_stop(void)
{
    if (asked)
        setenv("STARPU_FXT_TRACE", "0", 1);
    asked = false;
}

#else

int orri_fxt_start(const char *directory)
{
    if (!directory)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EINVAL, "trace", "the StarPU of this build cannot record traces: it has no FxT"),
                       "build StarPU with FxT (./quickstart does), or run without --trace");
}

void orri_fxt_stop(void)
{
}

#endif
