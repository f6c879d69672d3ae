/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/report.h>

#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double orr_median(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof(*values), ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}
