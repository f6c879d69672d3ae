/* SPDX-License-Identifier: Apache-2.0 */
/* A CUDA device as a pass of a block sees it.
 *
 * A pass enqueues its work on the worker's stream and returns: it waits for nothing, allocates nothing and reads
 * nothing that the device writes. StarPU ends the task when the stream has come so far. */
#ifndef ORRERY_CUDA_H
#define ORRERY_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ORR_CUDA_WORKSPACE = 32 << 20 };     /* bytes of workspace for cuBLASLt */

struct orr_cuda {
    void *stream;           /* cudaStream_t of the worker                                                   */
    void *blas;             /* cublasLtHandle_t of the worker                                               */
    void *scratch;          /* device memory of the worker, as many bytes as the pass' class asked for,
                               aligned to 256                                                               */
    void *workspace;        /* device memory of the worker, ORR_CUDA_WORKSPACE bytes                        */
    bool tf32;              /* fp32 matrix products may round their factors to TF32                         */
    int code;               /* 0, or that of the first failure, after which nothing more is enqueued        */
    char what[200];         /* its message                                                                  */
};

/* Notes the first failure: "<call>: <reason>" with ORR_EDEVICE. */
void orr_cuda_fail(struct orr_cuda *cuda, const char *call, const char *reason);

#ifdef __cplusplus
}
#endif
#endif
