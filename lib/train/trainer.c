/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/trainer.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include <orrery/report.h>

#include "io/json.h"
#include "train/train.h"

/* ---- sources ----------------------------------------------------------------------------------------------- */

static void read_samples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    for (int i = 0; i < count; i++)
        orr_sampler_read(self, (int64_t)first + i, tokens + i * seq, labels + i * seq);
}

struct orr_source orr_sampler_source(struct orr_sampler *sampler)
{
    return (struct orr_source){read_samples, sampler};
}

static void read_rows(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    const struct orr_row_source *rows = self;
    const struct orr_row_arrays arrays = {
        .tokens = field[ORR_FIELD_TOKENS],
        .labels = field[ORR_FIELD_LABELS],
        .places = field[ORR_FIELD_PLACES],
        .types = field[ORR_FIELD_TYPES],
        .source = rows->has_source ? field[ORR_FIELD_SOURCE] : NULL,
        .source_places = rows->has_source ? field[ORR_FIELD_SOURCE_PLACES] : NULL,
    };

    (void)seq;
    rows->read(rows->self, (int64_t)first, count, &arrays);
}

struct orr_source orr_rows_source(const struct orr_row_source *rows)
{
    return (struct orr_source){read_rows, (void *)rows};
}

/* `count` of a sequential sampler's windows, spread evenly; behind them nothing counts. */
struct spread {
    struct orr_sampler sampler;
    int64_t count;
};

static void read_spread(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct spread *s = self;

    for (int i = 0; i < count; i++) {
        int64_t n = (int64_t)first + i;
        if (n < s->count) {
            orr_sampler_read(&s->sampler, n * s->sampler.windows / s->count, tokens + i * seq, labels + i * seq);
            continue;
        }
        for (int t = 0; t < seq; t++) {
            tokens[i * seq + t] = 0;
            labels[i * seq + t] = ORR_IGNORE;
        }
    }
}

static int spread_init(struct spread *s, const struct orr_corpus *corpus, struct orr_range range, int seq,
                       int64_t samples)
{
    ORR_TRY(orr_sampler_init_sequential(&s->sampler, corpus, range, seq));
    s->count = samples > 0 && samples < s->sampler.windows ? samples : s->sampler.windows;
    return ORR_OK;
}

int orr_evaluate(struct orr_model *model, const struct orr_corpus *corpus, struct orr_range range, int seq,
                 int micro_batch, int64_t samples, struct orr_result *result)
{
    struct spread spread;

    ORR_TRY(spread_init(&spread, corpus, range, seq, samples));
    struct orr_evaluation *evaluation = orr_evaluation_create(model, micro_batch, seq);
    struct orr_source source = {read_spread, &spread};
    int status = orri_model_settle(model, evaluation ? ORR_OK : orr_error_code());
    if (status == 0)
        status = orr_evaluation_run(evaluation, &source, spread.count, result);
    orr_evaluation_destroy(evaluation);
    return status;
}

int orr_evaluate_rows(struct orr_model *model, const struct orr_row_source *rows, int64_t count, int micro_batch,
                      struct orr_result *result)
{
    struct orr_evaluation *evaluation = orr_evaluation_create(model, micro_batch, rows->seq);
    struct orr_source source = orr_rows_source(rows);
    int status = orri_model_settle(model, evaluation ? ORR_OK : orr_error_code());

    if (status == 0)
        status = orr_evaluation_run(evaluation, &source, count, result);
    orr_evaluation_destroy(evaluation);
    return status;
}

/* ---- trainer.json --------------------------------------------------------------------------------------------- */

enum { FORMAT = 1 };

static int describe(const struct orr_trainer *t, struct orr_config *state)
{
    json_t *arguments = json_array();
    char line[96];

    for (int i = 0; i < t->argument_count; i++)
        json_array_append_new(arguments, json_string(t->arguments[i]));
    char *text = json_dumps(arguments, 0);
    char *assignment = text ? orri_format("arguments=%s", text) : NULL;
    int status = assignment ? ORR_OK : ORR_ENOMEM;

    const struct {
        const char *key;
        long long value;
    } numbers[] = {{"format", FORMAT},
                   {"seq", t->options.seq},
                   {"batch", t->options.batch},
                   {"seed", (long long)t->options.seed},
                   {"train_first", t->train.first},
                   {"train_last", t->train.last}};
    for (size_t i = 0; status == 0 && i < ORRI_COUNT(numbers); i++) {
        snprintf(line, sizeof(line), "%s=%lld", numbers[i].key, numbers[i].value);
        status = orr_config_set(state, line);
    }
    if (status == 0) {
        snprintf(line, sizeof(line), "corpus=\"%016llx\"", (unsigned long long)(t->rows ? t->fingerprint : orr_corpus_fingerprint(t->corpus)));
        status = orr_config_set(state, line);
    }
    if (status == 0) {
        snprintf(line, sizeof(line), "rates=\"%016llx\"", (unsigned long long)orr_model_rates_fingerprint(t->model));
        status = orr_config_set(state, line);
    }
    if (status == 0) {
        snprintf(line, sizeof(line), "optimizer=\"%s\"", orr_optimizer_name(t->options.optimizer.kind));
        status = orr_config_set(state, line);
    }
    if (status == 0)
        status = orr_config_set(state, assignment);
    free(assignment);
    free(text);
    json_decref(arguments);
    return status;
}

/* What must be as it was for the run to go on as if it had not been interrupted. */
static int check_same(const struct orr_trainer *t, const struct orr_config *now, const struct orr_config *then)
{
    static const struct {
        const char *key, *what, *remedy;
    } keys[] = {
        {"seq", "sequence length", "resume with the --seq of the checkpoint"},
        {"seed", "seed", "resume with the --seed of the checkpoint"},
        {"train_first", "training part of the data", "resume with the --data and --val-fraction of the checkpoint"},
        {"train_last", "training part of the data", "resume with the --data and --val-fraction of the checkpoint"},
    };
    static const struct {
        const char *key, *what, *remedy;
    } texts[] = {
        {"corpus", "on other data", "resume with the --data of the checkpoint, or fine-tune from it with --model"},
        {"optimizer", "with another optimizer", "resume with the --optimizer of the checkpoint"},
        {"rates", "with other learning rates of parameters",
         "resume with the --freeze and --layer-decay of the checkpoint, or fine-tune from it with --model"},
    };

    for (size_t i = 0; i < ORRI_COUNT(keys); i++) {
        int64_t a, b;
        ORR_TRY(orr_config_int(now, keys[i].key, INT64_MIN, INT64_MAX, &a));
        ORR_TRY(orr_config_int(then, keys[i].key, INT64_MIN, INT64_MAX, &b));
        if (a != b)
            return orri_remedy(orri_fail(ORR_EINVAL, t->resume, "was trained with another %s: %s %lld, not %lld",
                                         keys[i].what, keys[i].key, (long long)b, (long long)a),
                               "%s", keys[i].remedy);
    }
    for (size_t i = 0; i < ORRI_COUNT(texts); i++) {
        const char *a, *b;
        if (!orr_config_has(then, texts[i].key) && strcmp(texts[i].key, "rates") == 0)
            continue;       /* written before there were any */
        ORR_TRY(orr_config_string(now, texts[i].key, &a));
        ORR_TRY(orr_config_string(then, texts[i].key, &b));
        if (strcmp(a, b) != 0)
            return orri_remedy(orri_fail(ORR_EINVAL, t->resume, "was trained %s: %s, not %s", texts[i].what, b, a),
                               "%s", texts[i].remedy);
    }
    return ORR_OK;
}

char **orr_trainer_arguments(const char *directory, int *count)
{
    char *path = orri_format("%s/trainer.json", directory);
    json_t *object = NULL;
    char **result = NULL;
    int status = path ? orri_json_load(path, &object) : ORR_ENOMEM;

    *count = 0;
    if (status == ORR_ENOENT)
        orri_remedy(status, "there is no checkpoint: name one of the run's step-* directories, or train without --resume");
    if (status == 0) {
        json_t *list = json_object_get(object, "arguments");
        size_t n = json_array_size(list), bytes = (n + 1) * sizeof(*result);
        bool good = json_is_array(list);
        for (size_t i = 0; i < n; i++) {
            const char *text = json_string_value(json_array_get(list, i));
            good = good && text;
            bytes += text ? strlen(text) + 1 : 0;
        }
        if (!good)
            orri_fail(ORR_EFORMAT, path, "'arguments' is no array of strings");
        else if ((result = orri_alloc(bytes)) != NULL) {
            char *next = (char *)(result + n + 1);
            for (size_t i = 0; i < n; i++) {
                result[i] = strcpy(next, json_string_value(json_array_get(list, i)));
                next += strlen(next) + 1;
            }
            result[n] = NULL;
            *count = (int)n;
        }
    }
    json_decref(object);
    free(path);
    return result;
}

/* ---- the run ------------------------------------------------------------------------------------------------------ */

struct run {
    struct orr_trainer t;           /* as given, but only rank 0 tells anything              */
    struct orr_training *training;
    struct orr_sampler sampler;
    struct orr_config *state;
    struct orr_metrics *metrics;
    struct orr_tensorboard *tensorboard;
    struct orri_record *record;     /* with a dynamic partition                               */
    struct orr_progress progress;
    struct orr_trainer_result *result;
    double *seconds;                /* of the steps of this process that nothing interrupted */
    int64_t timed;
    int64_t skip_timing;            /* a step that waited for an evaluation or a checkpoint  */
    int64_t saved;                  /* the last step in a checkpoint                          */
    int64_t evaluated;
    int64_t worse;                  /* evaluations since the best                             */
    int in_flight;                  /* steps whose reports have not been taken               */
    bool complete;                  /* a run that is started anew had ended                   */
    bool stop;                      /* the last report said so                                */
    int code;                       /* of the first failure to tell, with its message         */
    char message[1024], remedy[512];
};

/* Where all ranks meet: none goes on where one has failed. */
static int meet(const struct run *r, int status)
{
    if (r->code != 0)
        status = orr_error_set(r->code, r->message, r->remedy);
    return orri_model_settle(r->t.model, status);
}

/* What the run's evaluations were like, in trainer.json and back. */
static int remember(struct run *r)
{
    const struct orr_trainer_result *result = r->result;
    char line[64];

    snprintf(line, sizeof(line), "worse_evaluations=%lld", (long long)r->worse);
    ORR_TRY(orr_config_set(r->state, line));
    if (result->best_step == 0)
        return ORR_OK;
    snprintf(line, sizeof(line), "best_step=%lld", (long long)result->best_step);
    ORR_TRY(orr_config_set(r->state, line));
    snprintf(line, sizeof(line), "best_val_loss=%.17g", result->best_loss);
    return orr_config_set(r->state, line);
}

static int recall(struct run *r, const struct orr_config *then)
{
    struct orr_trainer_result *result = r->result;

    if (r->t.patience == 0 || !orr_config_has(then, "worse_evaluations"))
        return ORR_OK;
    ORR_TRY(orr_config_int(then, "worse_evaluations", 0, INT64_MAX, &r->worse));
    if (orr_config_has(then, "best_step")) {
        ORR_TRY(orr_config_int(then, "best_step", 1, INT64_MAX, &result->best_step));
        ORR_TRY(orr_config_double(then, "best_val_loss", -1e300, 1e300, &result->best_loss));
    }
    result->stopped_early = r->worse >= r->t.patience;
    return remember(r);
}

static int check_resumable(struct run *r)
{
    char *path = orri_format("%s/trainer.json", r->t.resume);
    struct orr_config *then = path ? orr_config_open(path) : NULL;
    int status = then ? check_same(&r->t, r->state, then) : orr_error_code();
    if (status == 0)
        status = recall(r, then);

    free(path);
    orr_config_destroy(then);
    return status;
}

static int resume(struct run *r)
{
    ORR_TRY(meet(r, check_resumable(r)));
    ORR_TRY(orr_checkpoint_load(r->t.resume, r->training));
    r->saved = orr_training_steps(r->training);
    r->complete = r->t.restarted && (r->saved == r->t.options.schedule.steps || r->result->stopped_early);
    if (r->result->stopped_early && !r->complete)
        return orri_remedy(orri_fail(ORR_EINVAL, r->t.resume, "stopped early: %lld evaluations were no better than step %lld's",
                                     (long long)r->worse, (long long)r->result->best_step),
                           "raise --patience, or turn it off with --patience 0");
    if (r->saved >= r->t.options.schedule.steps && !r->complete)
        return orri_remedy(orri_fail(ORR_EINVAL, r->t.resume, "has %lld steps already, of %lld", (long long)r->saved,
                                     (long long)r->t.options.schedule.steps),
                           "ask for more with --steps");
    return ORR_OK;
}

static bool evaluates(const struct orr_trainer *t)
{
    return t->rows ? t->validation_rows != NULL : t->validation_corpus != NULL;
}

static int prepare(struct run *r)
{
    const struct orr_trainer *t = &r->t;

    if (t->patience > 0 && (!evaluates(t) || t->eval_every == 0))
        return orri_remedy(orri_fail(ORR_EINVAL, "train", "early stopping has no evaluations to go by"),
                           "give --eval-every, and validation data by --val-fraction or --val");
    if (!t->rows)
        ORR_TRY(orr_sampler_init(&r->sampler, t->corpus, t->train, t->options.seq, t->options.seed));
    r->state = orr_config_create("trainer.json");
    if (!r->state)
        return ORR_ENOMEM;
    ORR_TRY(describe(t, r->state));
    r->training = orr_training_create(t->model, &t->options);
    return r->training ? ORR_OK : orr_error_code();
}

static int open_reports(struct run *r)
{
    const struct orr_trainer *t = &r->t;
    int64_t steps = t->options.schedule.steps - orr_training_steps(r->training);

    r->seconds = orri_alloc((size_t)steps * sizeof(*r->seconds));
    if (!r->seconds)
        return ORR_ENOMEM;
    if (t->metrics) {
        r->metrics = orr_metrics_open(t->metrics, t->resume ? r->saved : -1);
        if (!r->metrics)
            return orr_error_code();
    }
    if (t->tensorboard) {
        r->tensorboard = orr_tensorboard_open(t->tensorboard, t->resume ? r->saved : -1);
        if (!r->tensorboard)
            return orr_error_code();
    }
    return ORR_OK;
}

static void say_residency(struct run *r)
{
    const struct orr_residency m = orr_training_residency(r->training);
    const int64_t *s = m.streamed;

    if (r->t.progress && s[0] + s[1] + s[2] + s[3] > 0)
        orr_progress_say(&r->progress,
                         "CUDA memory: a device needs %lld MiB and has %lld; streamed: optimizer %lld, saved %lld, parameters %lld, "
                         "gradients %lld MiB",
                         (long long)(m.need >> 20), (long long)(m.room >> 20), (long long)(s[0] >> 20), (long long)(s[1] >> 20),
                         (long long)(s[2] >> 20), (long long)(s[3] >> 20));
}

static int start(struct run *r)
{
    const struct orr_trainer *t = &r->t;

    ORR_TRY(meet(r, prepare(r)));
    if (t->resume)
        ORR_TRY(resume(r));
    if (r->complete)
        return ORR_OK;
    if (t->out)
        ORR_TRY(orr_checkpoint_prepare(t->out));    /* fails before hours of training, not after them */
    if (t->out && t->options.partition == ORR_PARTITION_DYNAMIC)
        ORR_TRY(orri_record_open(r->training, t->out, t->resume ? r->saved : -1, &r->record));
    ORR_TRY(meet(r, open_reports(r)));
    if (t->progress)
        orr_progress_start(&r->progress, t->progress, t->options.schedule.steps, t->flops_per_token);
    if (t->progress && t->headline)
        orr_progress_say(&r->progress, "%s", t->headline);
    say_residency(r);
    return ORR_OK;
}

static int tell(struct run *r, const struct orr_metric *m)
{
    if (r->metrics)
        ORR_TRY(orr_metrics_step(r->metrics, m));
    if (r->tensorboard)
        ORR_TRY(orr_tensorboard_step(r->tensorboard, m));
    if (r->t.progress)
        orr_progress_step(&r->progress, m);
    return ORR_OK;
}

/* Only rank 0 can fail here, and the others wait for its part of the steps that follow. So these fail, on all ranks. */
static void cannot_tell(struct run *r, int code)
{
    r->code = code;
    snprintf(r->message, sizeof(r->message), "%s", orr_error());
    snprintf(r->remedy, sizeof(r->remedy), "%s", orr_error_remedy());
    orri_model_fail(r->t.model, r->t.model->runs, code, "%s", r->message);
}

static void take(struct run *r, const struct orr_step *step)
{
    const struct orr_training_options *o = &r->t.options;
    int64_t ahead = orr_training_steps(r->training) - step->step;
    struct orr_metric m = {
        .step = step->step,
        .loss = step->loss,
        .lr = step->lr,
        .grad_norm = step->grad_norm,
        .tokens = (orr_training_samples(r->training) - ahead * o->batch) * o->seq,
        .tokens_per_s = (double)(o->batch * o->seq) / step->seconds,
        .step_ms = 1000 * step->seconds,
        .loss_scale = orr_model_dtype(r->t.model) == ORR_F16 ? step->loss_scale : 0,
        .skipped = step->skipped,
    };

    r->in_flight--;
    r->stop = step->stop;
    r->result->steps = m.step;
    r->result->tokens = m.tokens;
    r->result->loss = m.loss;
    if (step->step != r->skip_timing)
        r->seconds[r->timed++] = step->seconds;
    int status = r->code == 0 ? tell(r, &m) : ORR_OK;
    if (status != 0)
        cannot_tell(r, status);
}

/* Waits for the reports of all steps but the last `left`. */
static int take_reports(struct run *r, int left)
{
    struct orr_step step;

    while (r->in_flight > left) {
        int taken = orr_training_next(r->training, &step, true);
        if (taken != 1)
            return taken;
        take(r, &step);
    }
    return ORR_OK;
}

static int tell_validation(struct run *r)
{
    if (r->metrics)
        ORR_TRY(orr_metrics_validation(r->metrics, r->evaluated, r->result->validation_loss));
    if (r->tensorboard)
        ORR_TRY(orr_tensorboard_validation(r->tensorboard, r->evaluated, r->result->validation_loss));
    if (r->t.progress)
        orr_progress_validation(&r->progress, r->evaluated, r->result->validation_loss);
    return ORR_OK;
}

static int evaluate(struct run *r)
{
    const struct orr_trainer *t = &r->t;
    struct orr_result result;

    ORR_TRY(take_reports(r, 0));
    ORR_TRY(meet(r, t->options.staleness > 0 ? orr_training_synchronise(r->training) : ORR_OK));
    if (t->rows)
        ORR_TRY(orr_evaluate_rows(t->model, t->validation_rows, t->validation_count, t->options.micro_batch, &result));
    else
        ORR_TRY(orr_evaluate(t->model, t->validation_corpus, t->validation, t->options.seq, t->options.micro_batch,
                             t->eval_samples, &result));
    r->evaluated = orr_training_steps(r->training);
    r->skip_timing = r->evaluated + 1;
    r->result->validation_loss = result.loss / (double)result.labels;
    return meet(r, tell_validation(r));
}

/* It may have been on a disk that is gone; what is then made in its place nobody would look for. */
static int find_out(const struct run *r)
{
    struct stat st;

    if (stat(r->t.out, &st) == 0)
        return ORR_OK;
    return orri_fail(ORR_EIO, r->t.out, "the checkpoint of step %lld cannot be saved: %s",
                     (long long)orr_training_steps(r->training), strerror(errno));
}

static int save(struct run *r)
{
    ORR_TRY(take_reports(r, 0));
    ORR_TRY(meet(r, find_out(r)));
    ORR_TRY(orr_checkpoint_save(r->t.out, r->training, r->t.config, r->state, r->t.tokenizer, r->t.keep));
    r->saved = orr_training_steps(r->training);
    r->skip_timing = r->saved + 1;
    return ORR_OK;
}

/* The best evaluation's checkpoint is kept; after too many that are no better the run ends. All ranks have the same losses. */
static int judge(struct run *r)
{
    const struct orr_trainer *t = &r->t;
    struct orr_trainer_result *result = r->result;
    bool better = result->validation_loss < result->best_loss - t->min_delta;

    if (t->patience == 0)
        return ORR_OK;
    r->worse = better ? 0 : r->worse + 1;
    if (better) {
        result->best_loss = result->validation_loss;
        result->best_step = r->evaluated;
    }
    ORR_TRY(meet(r, remember(r)));
    if (better && t->out) {
        ORR_TRY(save(r));
        ORR_TRY(orr_checkpoint_keep_best(t->out, r->training, t->keep));
    }
    result->stopped_early = r->worse >= t->patience;
    if (result->stopped_early && t->progress)
        orr_progress_say(&r->progress, "stopped early: %lld evaluations were no better than step %lld's", (long long)r->worse,
                         (long long)result->best_step);
    return ORR_OK;
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* Whether to stop follows from reports that every rank has taken when it gets there. */
static int steps(struct run *r)
{
    const struct orr_trainer *t = &r->t;
    struct orr_source source = t->rows ? orr_rows_source(t->rows) : orr_sampler_source(&r->sampler);

    while (orr_training_steps(r->training) < t->options.schedule.steps) {
        ORR_TRY(take_reports(r, r->training->in_flight - 1));
        if (r->stop)
            break;
        if (r->record)
            ORR_TRY(orri_record_prescribe(r->record));
        ORR_TRY(orr_training_submit(r->training, &source));
        r->in_flight++;
        int recorded = r->record && r->code == 0 ? orri_record_step(r->record) : ORR_OK;
        if (recorded != 0)
            cannot_tell(r, recorded);
        int64_t step = orr_training_steps(r->training);
        if (evaluates(t) && due(step, t->eval_every)) {
            ORR_TRY(evaluate(r));
            ORR_TRY(judge(r));
        }
        if (r->result->stopped_early)
            break;
        /* The last checkpoint comes after the last evaluation, or a kill between them would leave that out for ever. */
        if (t->out && due(step, t->save_every) && step < t->options.schedule.steps && step != r->saved)
            ORR_TRY(save(r));
    }
    ORR_TRY(take_reports(r, 0));
    return meet(r, ORR_OK);
}

static int finish(struct run *r)
{
    const struct orr_trainer *t = &r->t;
    bool stopped = orr_training_steps(r->training) < t->options.schedule.steps && !r->result->stopped_early;

    if (evaluates(t) && !stopped && r->evaluated != orr_training_steps(r->training)) {
        ORR_TRY(evaluate(r));
        ORR_TRY(judge(r));
    }
    if (t->out && r->saved != orr_training_steps(r->training))
        ORR_TRY(save(r));
    return stopped ? orri_remedy(orri_fail(ORR_EINTR, "train", "interrupted after step %lld%s",
                                           (long long)orr_training_steps(r->training), t->out ? ", saved" : ""),
                                 "%s%s", t->out ? "continue with --resume " : "", t->out ? t->out : "")
                   : ORR_OK;
}

/* The first step of a process warms caches and memory up. */
static void summarise(struct run *r)
{
    int64_t first = r->timed > 1;
    double sum = 0;

    for (int64_t i = first; i < r->timed; i++)
        sum += r->seconds[i];
    if (sum <= 0)
        return;
    r->result->tokens_per_s =
        (double)(r->timed - first) * r->t.options.batch * r->t.options.seq / sum;
    r->result->step_ms_median = 1000 * orr_median(r->seconds + first, r->timed - first);
}

int orr_trainer_run(const struct orr_trainer *trainer, struct orr_trainer_result *result)
{
    struct run r = {.t = *trainer, .result = result, .saved = -1, .evaluated = -1};

    if (trainer->model->rank > 0) {
        r.t.progress = NULL;
        r.t.metrics = r.t.tensorboard = NULL;
    }
    *result = (struct orr_trainer_result){.loss = NAN, .validation_loss = NAN, .best_loss = INFINITY};
    int status = start(&r);
    if (status == 0 && !r.complete)
        status = steps(&r);
    if (status == 0 && !r.complete)
        status = finish(&r);
    if (status != 0 && status != ORR_EINTR)
        status = meet(&r, status);
    result->steps = r.complete ? r.saved : result->steps;
    struct orr_loss_scale scale = {0};
    if (status == 0)
        status = orr_training_loss_scale(r.training, &scale);
    result->skipped = scale.skipped;
    if (r.seconds)
        summarise(&r);
    /* What follows must not replace the message of a failure. */
    orr_training_destroy(r.training);
    orr_metrics_destroy(r.metrics);
    orr_tensorboard_destroy(r.tensorboard);
    orri_record_close(r.record);
    orr_config_destroy(r.state);
    free(r.seconds);
    return status;
}
