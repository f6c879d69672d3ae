/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TRIPLE_H
#define TRIPLE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Enqueues x[k] = 3 x[k] + 1 on a stream. */
void triple(void *stream, float *x, int count);

#ifdef __cplusplus
}
#endif
#endif
