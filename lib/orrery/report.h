/* SPDX-License-Identifier: Apache-2.0 */
/* What a run tells: metrics files, the progress line, figures in readable units. */
#ifndef ORRERY_REPORT_H
#define ORRERY_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a training step says, as metrics and progress need it. */
struct orr_metric {
    int64_t step;           /* from 1                                    */
    double loss;            /* nats per label                            */
    double lr, grad_norm;
    int64_t tokens;         /* read since step 1, this one included      */
    double tokens_per_s;    /* of this step                              */
    double step_ms;
    double loss_scale;      /* of fp16; 0: there is none                 */
    bool skipped;           /* it overflowed and changed nothing          */
};

/* ---- metrics: one JSON object per line ------------------------------------------------------------- */

struct orr_metrics;

/* Opens `path` for appending, made where missing. Lines of steps after `keep` (those that a killed run made after the
 * checkpoint it is resumed from) and a half-written last line are removed first. keep < 0 keeps everything. NULL with
 * ORR_ENOENT where it cannot be opened. What is no regular file, such as a pipe, is only written to. */
struct orr_metrics *orr_metrics_open(const char *path, int64_t keep);
void orr_metrics_destroy(struct orr_metrics *metrics);

/* Appends {"step":..,"loss":..,"lr":..,"grad_norm":..,"tokens":..,"tokens_per_s":..,"step_ms":..}, and with a loss scale
 * "loss_scale" and "skipped". What is not finite is null. ORR_EIO. */
int orr_metrics_step(struct orr_metrics *metrics, const struct orr_metric *m);

/* Appends {"step":..,"val_loss":..}. ORR_EIO. */
int orr_metrics_validation(struct orr_metrics *metrics, int64_t step, double loss);

/* ---- TensorBoard ------------------------------------------------------------------------------------- */

struct orr_tensorboard;

/* Makes the directory where it is missing, and in it a new event file, events.out.tfevents.SECONDS.HOST.PID. Several
 * files in one directory are one run to TensorBoard. after >= 0 continues a run after that step: what other
 * files hold of later steps is then no longer shown. NULL with ORR_ENOENT where it cannot be made, or ORR_EIO. */
struct orr_tensorboard *orr_tensorboard_open(const char *directory, int64_t after);
void orr_tensorboard_destroy(struct orr_tensorboard *tensorboard);

/* Appends the scalars train/loss, train/lr, train/grad_norm and train/tokens_per_s. ORR_EIO. */
int orr_tensorboard_step(struct orr_tensorboard *tensorboard, const struct orr_metric *m);

/* Appends validation/loss. ORR_EIO. */
int orr_tensorboard_validation(struct orr_tensorboard *tensorboard, int64_t step, double loss);

/* ---- progress ---------------------------------------------------------------------------------------- */

/* One line that is redrawn on a terminal, a line now and then elsewhere. */
struct orr_progress {
    FILE *out;
    bool terminal;
    int64_t steps;              /* of the whole run                          */
    double flops_per_token;
    double last;                /* when a line was last written              */
    double rate;                /* smoothed seconds of a step                */
    bool open_line;             /* a line without its end is on the terminal */
};

/* `out` is borrowed. Whether it is a terminal is asked of the system. */
void orr_progress_start(struct orr_progress *progress, FILE *out, int64_t steps, double flops_per_token);
void orr_progress_step(struct orr_progress *progress, const struct orr_metric *m);
void orr_progress_validation(struct orr_progress *progress, int64_t step, double loss);

/* A line of its own between those of the progress, printf style. */
void orr_progress_say(struct orr_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- figures ----------------------------------------------------------------------------------------- */

/* Sorts values[count], count >= 1, in ascending order and returns their median: of an even number the mean of the two in
 * the middle. */
double orr_median(double *values, int64_t count);

/* ---- memory ------------------------------------------------------------------------------------------ */

/* Collective: ORR_ENOFIT on all ranks, with the sums and the knobs to turn, where the needs of the ranks of a host, each of
 * which gives its own, are together more than its memory. */
int orr_memory_check(const struct orr_memory_need *need);

/* "129 MiB = parameters 4 + gradients 4 + optimizer 7 + activations 71 + scratch 11 + copies 4 + process 28" into text[size]; with
 * CUDA devices "of" instead of "=", since gradients and activations are there, and behind it how much. Returns text. */
char *orr_memory_describe(const struct orr_memory_need *need, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
