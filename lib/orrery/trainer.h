/* SPDX-License-Identifier: Apache-2.0 */
/* The training run: steps, evaluation, metrics, checkpoints, resuming. */
#ifndef ORRERY_TRAINER_H
#define ORRERY_TRAINER_H

#include <stdio.h>

#include <orrery/checkpoint.h>
#include <orrery/data.h>
#include <orrery/rows.h>
#include <orrery/train.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a run consists of. Everything is borrowed. */
struct orr_trainer {
    struct orr_model *model;
    const struct orr_config *config;            /* becomes config.json                                  */
    const struct orr_tokenizer *tokenizer;      /* its files lie in every checkpoint, or NULL           */
    struct orr_training_options options;        /* schedule.steps is the length of the run; stop, of any rank,
                                                   ends it: finish the steps in flight, save, ORR_EINTR  */
    const struct orr_corpus *corpus;
    struct orr_range train;                     /* tokens that are trained on                           */
    const struct orr_corpus *validation_corpus; /* NULL: no evaluation                                  */
    struct orr_range validation;
    const struct orr_row_source *rows;          /* NULL: the corpus; else what is trained on, instead of it    */
    const struct orr_row_source *validation_rows;       /* NULL: no evaluation                          */
    int64_t validation_count;                   /* rows of it                                           */
    uint64_t fingerprint;                       /* of the rows, for resuming                            */
    int64_t eval_every, eval_samples;           /* steps (0: at the end only); samples at most (0: all)   */
    int64_t patience;                           /* evaluations without a validation loss that is below the best by more than
                                                   min_delta after which the run ends; 0: it does not. Then OUT/best is kept, too */
    double min_delta;
    const char *out;                            /* NULL: no checkpoints                                 */
    int64_t save_every;                         /* steps (0: at the end only)                            */
    int keep;                                   /* checkpoints (0: all)                                 */
    const char *resume;                         /* a checkpoint's directory, or NULL                    */
    bool restarted;                             /* it may be the run's last: there is nothing left to do then */
    const char *metrics;                        /* a file, or NULL                                      */
    const char *tensorboard;                    /* a directory for an event file, or NULL               */
    const char *const *arguments;               /* saved in trainer.json                                */
    int argument_count;
    FILE *progress;                             /* NULL: silent. Metrics and this are rank 0's alone    */
    const char *headline;                       /* said first, once everything has been checked; or NULL   */
    double flops_per_token;
};

struct orr_trainer_result {
    int64_t steps, tokens;          /* of the whole run, also before it was resumed         */
    double loss;                    /* of the last step                                     */
    double validation_loss;         /* the last one; NaN where nothing was evaluated        */
    double tokens_per_s;            /* of this process, evaluation and saving left out      */
    double step_ms_median;
    int64_t skipped;                /* steps that overflowed, with fp16                     */
    bool stopped_early;             /* for want of patience                                 */
    int64_t best_step;              /* with patience: of the best evaluation; 0: none was   */
    double best_loss;               /* infinite: likewise                                   */
};

/* Collective. Runs to the end (or the signal). A run resumed with equal options continues bit for bit. Errors of
 * orr_training_create(), orr_checkpoint_load() and orr_checkpoint_save(); ORR_EINVAL where patience has no evaluations to go
 * by, or where the checkpoint was trained on other data, with another seed, sequence length or rates, stopped early or already has all
 * the steps; ORR_ENONFINITE; ORR_EINTR. *result is filled as far as the run went, the same on all ranks but for the times. */
int orr_trainer_run(const struct orr_trainer *trainer, struct orr_trainer_result *result);

/* The arguments that a checkpoint's trainer.json holds: a malloc'ed array, ended by NULL, whose strings are freed with it
 * by one free(). NULL with ORR_ENOENT or ORR_EFORMAT. */
char **orr_trainer_arguments(const char *directory, int *count);

/* The samples of a sampler, as a training step reads them. The sampler is borrowed as long as the source is used. */
struct orr_source orr_sampler_source(struct orr_sampler *sampler);

/* Rows, as a training step reads them. Borrowed as long as the source is used. */
struct orr_source orr_rows_source(const struct orr_row_source *rows);

/* Collective. The loss over the labels of rows 0 .. count - 1. */
int orr_evaluate_rows(struct orr_model *model, const struct orr_row_source *rows, int64_t count, int micro_batch,
                      struct orr_result *result);

/* Collective. The mean loss over the samples of a range, at most `samples` of them spread evenly (0: all). */
int orr_evaluate(struct orr_model *model, const struct orr_corpus *corpus, struct orr_range range, int seq,
                 int micro_batch, int64_t samples, struct orr_result *result);

#ifdef __cplusplus
}
#endif
#endif
