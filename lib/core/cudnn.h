/* SPDX-License-Identifier: Apache-2.0 */
/* The cuDNN library. Orrery is not linked to it: what was built for it also works where it is not installed. */
#ifndef ORRI_CUDNN_H
#define ORRI_CUDNN_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What dlopen() gives for it, opened by the first call. NULL: this build does not use it, or it cannot be opened, and *why
 * tells which. The first call comes before there are other threads, since it sets variables for cudnn-frontend. */
void *orri_cudnn_open(const char **why);

#ifdef __cplusplus
}
#endif
#endif
