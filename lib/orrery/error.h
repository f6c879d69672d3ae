/* SPDX-License-Identifier: Apache-2.0 */
/* Error codes and the message that goes with the last failure. */
#ifndef ORRERY_ERROR_H
#define ORRERY_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/* Every function that can fail returns 0 or one of these; pointer functions return NULL.
 * The comment gives the exit status of the `orrery` command. */
enum orr_status {
    ORR_OK = 0,
    ORR_EINVAL = -1,    /* 2: an argument or option is out of its range                */
    ORR_EFORMAT = -2,   /* 2: a file is not what its format says                       */
    ORR_ENOENT = -3,    /* 2: a file, tensor or key is not there or cannot be opened   */
    ORR_EIO = -4,       /* 1: reading or writing failed while running                  */
    ORR_ENOMEM = -5,    /* 1: an allocation failed                                     */
    ORR_ENONFINITE = -6,/* 1: a loss or gradient is NaN or infinite                    */
    ORR_EDEVICE = -7,   /* 1: StarPU, MPI or a device reported an error                */
    ORR_ENOFIT = -8,    /* 3: refused because the memory needed is not there           */
    ORR_EINTR = -9,     /* 130: interrupted by a signal, state saved                   */
};

/* The message of the calling thread's last failed call, "WHERE: WHAT", without a newline; "" before
 * the first failure. Borrowed: valid until the same thread's next failure. Any thread. */
const char *orr_error(void);

/* The code of that failure, for callers of pointer functions; ORR_OK before the first. Any thread. */
int orr_error_code(void);

/* The remedy that goes with orr_error(), one sentence, or "" where there is none. Same lifetime. */
const char *orr_error_remedy(void);

/* Records a failure as the library records its own, for programs and blocks that have errors to add: the message,
 * "WHERE: WHAT", and the remedy or "". Both are copied; control characters become '?', what is too long is cut. Returns
 * code. Any thread. */
int orr_error_set(int code, const char *message, const char *remedy);

/* A short name of a code ("bad format"). Never NULL. Any thread. */
const char *orr_strerror(int code);

/* Returns from the calling function when `call` failed. */
#define ORR_TRY(call)                   \
    do {                                \
        int orr_try_ = (call);          \
        if (orr_try_ != 0)              \
            return orr_try_;            \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
