/* SPDX-License-Identifier: Apache-2.0 */
/* Training: optimizers, learning-rate schedules, and the step. */
#ifndef ORRERY_TRAIN_H
#define ORRERY_TRAIN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include <orrery/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- optimizers -----------------------------------------------------------------------------------
 * g is the gradient of the mean loss, scaled by clipping; t counts updates from 1; all in fp32.
 *   AdamW    (Loshchilov, Hutter 2019)  p -= lr wd p (matrices only), then as Adam
 *   Adam     (Kingma, Ba 2015)  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
 *            p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 *   SGD      (momentum: Polyak 1964, as PyTorch)  m = mu m + g;  p -= lr m
 *   RMSprop  (Hinton 2012)  v = a v + (1-a) g^2;  p -= lr g / (sqrt(v) + eps)
 * In the last three weight decay is added to the gradient: g += wd p (matrices only). */
enum orr_optimizer_kind { ORR_ADAMW, ORR_ADAM, ORR_SGD, ORR_RMSPROP };

struct orr_optimizer {
    enum orr_optimizer_kind kind;
    float beta1, beta2;     /* Adam(W); SGD: beta1 is the momentum; RMSprop: beta2 is the smoothing */
    float eps;
    float weight_decay;
    float clip;             /* largest global gradient norm; 0 = no clipping                       */
};

/* The customary values for a kind: AdamW 0.9 0.95 1e-8 wd 0.1, Adam 0.9 0.999 1e-8, SGD 0.9, RMSprop 0.99 1e-8;
 * clip 1. */
struct orr_optimizer orr_optimizer_default(enum orr_optimizer_kind kind);

/* "adamw", "adam", "sgd", "rmsprop". ORR_EINVAL otherwise. */
int orr_optimizer_parse(const char *name, enum orr_optimizer_kind *kind);
const char *orr_optimizer_name(enum orr_optimizer_kind kind);

/* How many floats the optimizer remembers for each parameter. */
int orr_optimizer_state_count(enum orr_optimizer_kind kind);

/* ---- learning-rate schedules ----------------------------------------------------------------------- */
enum orr_schedule_kind { ORR_SCHEDULE_COSINE, ORR_SCHEDULE_LINEAR, ORR_SCHEDULE_CONSTANT };

struct orr_schedule {
    enum orr_schedule_kind kind;
    double lr, min_lr;
    int64_t warmup, steps;
};

/* "cosine", "linear", "constant". ORR_EINVAL otherwise. */
int orr_schedule_parse(const char *name, enum orr_schedule_kind *kind);
const char *orr_schedule_name(enum orr_schedule_kind kind);

/* The learning rate of step s, counted from 0: lr (s+1) / warmup for s < warmup; then with x = (s - warmup) /
 * (steps - warmup), at most 1: cosine min_lr + (lr - min_lr) (1 + cos(pi x)) / 2, linear lr + (min_lr - lr) x,
 * constant lr. Pure. */
double orr_schedule_rate(const struct orr_schedule *schedule, int64_t step);

/* ---- the step -------------------------------------------------------------------------------------- */

struct orr_training;

/* Which replica computes a microbatch: microbatch m replica m mod dp, or each replica as many as its speed allows, measured
 * from step to step. */
enum orr_partition { ORR_PARTITION_STATIC, ORR_PARTITION_DYNAMIC };

/* What replicas have in common: the gradient of every step, or the parameters, every `sync_every` steps. In between each
 * makes its own updates (local SGD: Stich 2019). Then parameters p that all share take an outer step, SGD with Nesterov's
 * momentum on p minus the mean of the replicas' (DiLoCo: Douillard et al. 2023; learning rate 1 and momentum 0: the mean
 * itself), the optimizer's state becomes the mean, and every replica goes on from these. */
enum orr_sync { ORR_SYNC_GRADIENTS, ORR_SYNC_PARAMETERS };

/* Staleness S > 0 lets replicas go their own way (stale synchronous parallel: Ho et al. 2013). With its share of a step done
 * each pushes its gradient (the mean over its own labels, clipped by its own norm) to the owners of the parameters; each of
 * these is an update of its own, made when it comes; and the replica pulls the parameters as they are then. Only updates of
 * all replicas up to step n - 1 - S are waited for before step n. So no two runs are equal. */
struct orr_training_options {
    int batch, micro_batch, seq;        /* sequences of a step and of a microbatch; tokens of a sequence */
    struct orr_slot_policy slots;
    struct orr_optimizer optimizer;
    struct orr_schedule schedule;
    uint64_t seed;                      /* of dropout */
    /* E, 0..1 (Szegedy et al. 2016): of a label y the loss that is trained on and told is -(1 - E) log p_y - E times the mean of all
     * log p_j. Evaluations have none. */
    float label_smoothing;
    enum orr_partition partition;       /* dynamic: only with gradients in common                           */
    enum orr_sync sync;
    int sync_every;                     /* steps, with parameters in common; 0: 1                           */
    double outer_lr, outer_momentum;    /* with parameters in common; both 0: the mean                      */
    double loss_scale;                  /* with fp16: at first; 0: 65536. See struct orr_loss_scale          */
    int64_t loss_scale_window;          /* steps without overflow after which it doubles; 0: 2000            */
    enum orr_dtype checkpoint_dtype;    /* of the parameters in model.safetensors; other than fp32, the exact ones lie beside */
    int staleness;                      /* 0..4; see above; only with gradients in common, and not with ZeRO-3 */
    const volatile sig_atomic_t *stop;  /* set by a signal handler of any rank; see orr_step. NULL: never */
};

/* fp16 has too small a range for gradients as they are: the mean loss is multiplied by a scale before its backward pass, and the updates
 * divide by it (Micikevicius et al. 2018). A step whose gradient or loss is not finite changes nothing and halves the scale, so
 * many steps without one double it. At a scale below 1 a step that overflows has failed: then it is the run that diverged. Only
 * where replicas have the gradient of every step in common. */
struct orr_loss_scale {
    double scale;               /* of the next step; 1 where the model does not compute in fp16 */
    int64_t good;               /* steps since it changed                                       */
    int64_t skipped;            /* steps that changed nothing                                   */
};

/* What a finished step says of itself. */
struct orr_step {
    int64_t step;               /* from 1                                                     */
    double loss;                /* mean over labels, nats                                     */
    double grad_norm;           /* global norm of the mean loss' gradient, before clipping     */
    double lr;
    int64_t labels;             /* tokens that counted                                        */
    double seconds;             /* since the step before ended (or since submission)          */
    bool stop;                  /* some rank's `stop` was set: all ranks learn it of the same step */
    bool skipped;               /* it overflowed and changed nothing: loss and norm may not be finite */
    double loss_scale;          /* that it was made with                                       */
};

/* Prepares training of a built model: slots, gradients, optimizer state (zero). The model is borrowed and
 * must outlive it. A last microbatch may be short. Errors: ORR_EINVAL (fewer microbatches than replicas, a frozen model),
 * ORR_ENOMEM. */
struct orr_training *orr_training_create(struct orr_model *model, const struct orr_training_options *options);

/* Waits for the tasks in flight. */
void orr_training_destroy(struct orr_training *training);

/* Submits one step: for every microbatch the input, all forward, then all backward passes, then the updates. It
 * reads the next `batch` samples of the source. Returns before the step is done; waits only where two steps are
 * in flight already. After a failure it does nothing and returns the failure's code; the parameters are then those
 * behind the last good step. Only where clip is 0 updates do not wait for one another, so that a gradient that is not
 * finite leaves its own parameters alone but may find others updated. */
int orr_training_submit(struct orr_training *training, const struct orr_source *source);

/* Before a checkpoint is written, a model is evaluated or its parameters are read: makes those of the replicas equal outside the
 * turn of sync_every; with staleness gives all ranks those of the owners, and changes nothing else. Collective. */
int orr_training_synchronise(struct orr_training *training);

/* How many microbatches of a step, counted from 0, each replica has: share[dp]. Known of the last steps submitted. And
 * prescribed: for one of the next steps, as a run recorded them that is to be repeated. ORR_EINVAL. */
int orr_training_shares(struct orr_training *training, int64_t step, int *share);
int orr_training_prescribe(struct orr_training *training, int64_t step, const int *share);

/* One step without its updates: counts as a step, waits for it, and leaves the gradient to be read. Reports of steps
 * before it that were not taken are dropped. In fp16 a step that overflows is repeated on the same samples with the smaller loss
 * scale that it leaves, each time as a step more, until the gradient is finite. */
int orr_training_gradients(struct orr_training *training, const struct orr_source *source, struct orr_step *report);

/* The last step's gradient of the mean loss by parameter `index`, unclipped, into values[count]. Waits for it. */
int orr_training_read_gradient(struct orr_training *training, int index, float *values);

/* Takes the report of the oldest finished step not yet taken: 1, or 0 where there is none. With `wait` it waits for
 * one as long as steps are in flight. A negative code once the reports of the steps before a failed one are taken. */
int orr_training_next(struct orr_training *training, struct orr_step *report, bool wait);

/* Steps submitted so far, those before a resumed checkpoint included. */
int64_t orr_training_steps(const struct orr_training *training);

/* Samples read by them: the number of the next one. */
int64_t orr_training_samples(const struct orr_training *training);

/* What stays on CUDA devices whose memory does not hold all tiles: as many as fit; the others come for each task and go. Of the device
 * that needs most, the bytes that its tiles have and that there is room for; and of all devices the bytes that are streamed:
 * optimizer state, what F saves, parameters, gradients. Zeros without devices. */
struct orr_residency {
    int64_t need, room;
    int64_t streamed[4];
};
struct orr_residency orr_training_residency(const struct orr_training *training);

/* What the last step took to submit on this rank: tasks, messages that it sends or receives, and the host's time without
 * that of waiting for earlier steps. Zero before the first. */
struct orr_submission {
    int64_t tasks, messages;
    double seconds;
};
struct orr_submission orr_training_submission(const struct orr_training *training);

/* The optimizer's state, for checkpoints. State `which` (0 .. state count - 1) of parameter `index`, fp32 in the
 * parameter's shape; its name ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", as PyTorch calls them).
 * Waits for the updates in flight. */
const char *orr_training_state_name(const struct orr_training *training, int which);
int orr_training_read_state(struct orr_training *training, int index, int which, float *values);
int orr_training_write_state(struct orr_training *training, int index, int which, const float *values);

/* The scale behind the steps submitted so far, which the first waits for; and what it continues from. */
int orr_training_loss_scale(struct orr_training *training, struct orr_loss_scale *scale);
int orr_training_set_loss_scale(struct orr_training *training, const struct orr_loss_scale *scale);

/* Continues as if `steps` steps had been made that read `samples` samples (after the parameters and state were
 * written). */
int orr_training_resume(struct orr_training *training, int64_t steps, int64_t samples);

/* The memory that orr_training_create() and the parameters need on one rank of the mesh. Of a built model, before or after
 * it is allocated. Errors as of orr_training_create(). */
int orr_training_memory(const struct orr_model *model, const struct orr_training_options *options, int rank,
                        struct orr_memory_need *need);

/* ---- evaluation ------------------------------------------------------------------------------------ */

/* The loss over `count` samples of the source, in microbatches of the shape given when the evaluation was
 * created; the last may run over the end of the source, which must then give labels of ORR_IGNORE. */
struct orr_evaluation;
struct orr_evaluation *orr_evaluation_create(struct orr_model *model, int micro_batch, int seq);
void orr_evaluation_destroy(struct orr_evaluation *evaluation);
int orr_evaluation_run(struct orr_evaluation *evaluation, const struct orr_source *source, int64_t count,
                       struct orr_result *result);

#ifdef __cplusplus
}
#endif
#endif
