/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/supervise.h"
#include "tools/tasks.h"
#include "tools/tools.h"

static int64_t steps, batch = 16, micro_batch, seq, warmup = 100, save_every, keep = 3, eval_every, eval_samples = 512;
static double epochs, lr = 3e-4, min_lr = -1, weight_decay, beta1, beta2, eps, clip = 1, dropout;
static int64_t sync_every = 1, staleness;
static double outer_lr = 1, outer_momentum;
static int64_t loss_scale_window;
static double loss_scale;
static const char *checkpoint_dtype = "fp32";
static const char *partition = "static", *sync_mode = "gradients";
static const char *schedule = "cosine", *optimizer = "adamw", *out, *resume_from, *metrics, *tensorboard;
static struct list frozen;
static double layer_decay = 1, label_smoothing, min_delta;
static int64_t patience;
static int64_t max_restarts;
static const char *launcher;
static bool quiet, json;

static struct setting table[] = {
    SETTING("steps", "N", "optimizer steps", OPTION_INT, &steps, 1, 1e12, false),
    SETTING("epochs", "E", "passes over the training data, instead of --steps", OPTION_REAL, &epochs, 1e-6, 1e9, false),
    SETTING("batch", "B", "sequences per step, all replicas together (16)", OPTION_INT, &batch, 1, 1 << 24, false),
    SETTING("micro-batch", "b", "sequences per task (default: enough microbatches for the workers)", OPTION_INT, &micro_batch,
     1, 1 << 24, true),
    SETTING("seq", "T", "tokens of a sequence (default: the model's positions)", OPTION_INT, &seq, 1, 1 << 24, false),
    SETTING("lr", "RATE", "peak learning rate (3e-4)", OPTION_REAL, &lr, 0, 1e3, false),
    SETTING("warmup", "N", "steps of linear warm-up (100)", OPTION_INT, &warmup, 0, 1e12, false),
    SETTING("schedule", "NAME", "cosine (default), linear or constant", OPTION_TEXT, &schedule, 0, 0, false),
    SETTING("min-lr", "RATE", "learning rate at the end (a tenth of --lr)", OPTION_REAL, &min_lr, 0, 1e3, false),
    SETTING("optimizer", "NAME", "adamw (default), adam, sgd or rmsprop", OPTION_TEXT, &optimizer, 0, 0, false),
    SETTING("weight-decay", "W", "on matrices (adamw 0.1, others 0)", OPTION_REAL, &weight_decay, 0, 1e3, false),
    SETTING("beta1", "B", "first moment (0.9); sgd: momentum", OPTION_REAL, &beta1, 0, 0.999999, false),
    SETTING("beta2", "B", "second moment (adamw 0.95, adam 0.999, rmsprop 0.99)", OPTION_REAL, &beta2, 0, 0.999999999, false),
    SETTING("eps", "E", "added to the root of the second moment (1e-8)", OPTION_REAL, &eps, 0, 1, false),
    SETTING("clip", "NORM", "largest gradient norm (1; 0 = off)", OPTION_REAL, &clip, 0, 1e30, false),
    SETTING("freeze", "PATTERN", "parameters not to train, by name in model.safetensors, as in 'transformer.h.[0-3].*'; repeatable",
     OPTION_LIST, &frozen, 0, 0, false),
    SETTING("layer-decay", "X", "of L layers, layer l learns at X^(L - l) of the rate, embeddings at X^(L + 1) (1)", OPTION_REAL,
     &layer_decay, 1e-6, 1, false),
    SETTING("label-smoothing", "E", "of a label's weight in the loss, the part that all of the vocabulary share (0)", OPTION_REAL,
     &label_smoothing, 0, 1, false),
    SETTING("dropout", "P", "all the model's dropout rates (default: those of its config.json)", OPTION_REAL, &dropout, 0,
     0.99, false),
    SETTING("loss-scale", "S", "with fp16, at first what the loss is multiplied by (65536)", OPTION_REAL, &loss_scale, 1, 1e30,
     true),
    SETTING("loss-scale-window", "N", "with fp16, steps without overflow after which that doubles (2000)", OPTION_INT,
     &loss_scale_window, 1, 1e12, true),
    SETTING("checkpoint-dtype", "TYPE", "of the parameters in checkpoints: fp32 (default), bf16 or fp16, with fp32 beside",
     OPTION_TEXT, &checkpoint_dtype, 0, 0, true),
    SETTING("out", "DIR", "where checkpoints go", OPTION_TEXT, &out, 0, 0, false),
    SETTING("save-every", "N", "steps between checkpoints (default: at the end)", OPTION_INT, &save_every, 1, 1e12, false),
    SETTING("keep", "K", "checkpoints to keep (3; 0 = all)", OPTION_INT, &keep, 0, 1e9, false),
    SETTING("eval-every", "N", "steps between evaluations (default: at the end)", OPTION_INT, &eval_every, 1, 1e12, false),
    SETTING("eval-samples", "N", "sequences of an evaluation, spread over the validation data (512; 0 = all)", OPTION_INT,
     &eval_samples, 0, 1e12, false),
    SETTING("patience", "N", "end after so many evaluations without a lower validation loss (0: never); OUT/best is the best",
     OPTION_INT, &patience, 0, 1e9, false),
    SETTING("min-delta", "D", "how much lower it must be to count (0)", OPTION_REAL, &min_delta, 0, 1e3, false),
    SETTING("resume", "DIR", "continue a run from its --out or one of its checkpoints; the options it was started with hold "
                      "where none are given", OPTION_TEXT, &resume_from, 0, 0, false),
    SETTING("max-restarts", "N", "after a crash or a lost rank start the run anew, N times at most (0)", OPTION_INT,
     &max_restarts, 0, 1e6, true),
    SETTING("launcher", "COMMAND", "what starts the ranks of a run that is started anew, as in \"mpiexec -n 8 --hostfile hosts\"",
     OPTION_TEXT, &launcher, 0, 0, true),
    SETTING("metrics", "FILE", "append a JSON object per step", OPTION_TEXT, &metrics, 0, 0, false),
    SETTING("tensorboard", "DIR", "write an event file for TensorBoard there", OPTION_TEXT, &tensorboard, 0, 0, false),
    SETTING("partition", "HOW", "static (default), or dynamic: replicas get microbatches as their measured speed allows", OPTION_TEXT,
     &partition, 0, 0, true),
    SETTING("sync", "WHAT", "what replicas have in common: gradients (default), or parameters every --sync-every steps",
     OPTION_TEXT, &sync_mode, 0, 0, true),
    SETTING("sync-every", "H", "steps between synchronisations of parameters (1)", OPTION_INT, &sync_every, 1, 1e9, true),
    SETTING("outer-lr", "RATE", "with --sync parameters, of the outer step (1: the mean; DiLoCo 0.7)", OPTION_REAL, &outer_lr, 1e-6,
     1e3, true),
    SETTING("outer-momentum", "M", "with --sync parameters, Nesterov momentum of the outer step (0; DiLoCo 0.9)", OPTION_REAL,
     &outer_momentum, 0, 0.999999, true),
    SETTING("staleness", "S", "asynchronous replicas, at most S + 1 steps ahead of each other (0 to 4; default 0: they wait)",
     OPTION_INT, &staleness, 0, 4, true),
    SETTING("quiet", NULL, "no progress", OPTION_FLAG, &quiet, 0, 0, false),
    SETTING("json", NULL, "print a summary as a JSON object, last", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

/* A resumed run does not write over the trace of the one before. */
static struct setting *const kept[] = {model_table, data_table, validation_table, table, layout_table, NULL};
static struct setting *const tables[] = {model_table, data_table, validation_table, table, layout_table, trace_table, NULL};

/* Options that are not those of the run itself. */
static const char *const outside[] = {"resume", "max-restarts", "launcher", NULL};

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static enum orr_task task;

static int change(struct orr_config *config)
{
    ORR_TRY(choose_task(config, &task));
    return options_given(table, "dropout") ? orr_family_set_dropout(config, dropout) : ORR_OK;
}

static int read_modes(struct orr_training_options *t)
{
    static const char *const partitions[] = {[ORR_PARTITION_STATIC] = "static", [ORR_PARTITION_DYNAMIC] = "dynamic", NULL};
    int which;

    ORR_TRY(choose("partition", partition, partitions, &which));
    t->partition = (enum orr_partition)which;
    return read_sync(sync_mode, &t->sync);
}

/* What it is stands in config.json too, as transformers has it there. */
static int read_checkpoint_dtype(const struct opened *o, struct orr_training_options *t)
{
    ORR_TRY(read_dtype("checkpoint-dtype", checkpoint_dtype, &t->checkpoint_dtype));
    return orr_config_set_dtype(o->config, t->checkpoint_dtype);
}

/* Everything that the command line decides about the optimizer and its schedule. */
static int read_training(const struct opened *o, struct orr_training_options *t)
{
    *t = (struct orr_training_options){
        .batch = (int)batch, .seq = (int)(seq ? seq : o->hyper.positions), .slots = o->slots,
        .seed = (uint64_t)layout_options.seed};
    t->label_smoothing = (float)label_smoothing;
    t->sync_every = (int)sync_every;
    t->outer_lr = outer_lr;
    t->outer_momentum = outer_momentum;
    t->staleness = (int)staleness;
    t->loss_scale = loss_scale;
    t->loss_scale_window = loss_scale_window;
    ORR_TRY(read_checkpoint_dtype(o, t));
    ORR_TRY(read_modes(t));
    t->micro_batch = micro_batch ? (int)micro_batch : default_micro_batch(t->batch, o->mesh.dp);
    ORR_TRY(orr_optimizer_parse(optimizer, &t->optimizer.kind));
    t->optimizer = orr_optimizer_default(t->optimizer.kind);
    if (options_given(table, "weight-decay"))
        t->optimizer.weight_decay = (float)weight_decay;
    if (options_given(table, "beta1"))
        t->optimizer.beta1 = (float)beta1;
    if (options_given(table, "beta2"))
        t->optimizer.beta2 = (float)beta2;
    if (options_given(table, "eps"))
        t->optimizer.eps = (float)eps;
    t->optimizer.clip = (float)clip;
    t->schedule = (struct orr_schedule){.lr = lr, .min_lr = min_lr < 0 ? lr / 10 : min_lr, .warmup = warmup};
    ORR_TRY(orr_schedule_parse(schedule, &t->schedule.kind));
    return check_shape(o, t->micro_batch, t->seq);
}

/* Which parameters are trained, and how fast. */
static int set_rates(const struct opened *o)
{
    for (int i = 0; i < frozen.count; i++)
        ORR_TRY(orr_model_hold(o->model, frozen.item[i]));
    return orr_model_decay_rates(o->model, layer_decay);
}

static int count_steps(const struct orr_trainer *t, struct task_data *data, int64_t *count)
{
    struct orr_sampler sampler;
    int64_t rows;

    if (steps > 0 && epochs > 0)
        return command_fail(ORR_EINVAL, "--epochs: cannot be given together with --steps");
    if (steps == 0 && epochs == 0)
        return command_remedy(command_fail(ORR_EINVAL, "--steps: is missing"), "say how long to train, as in --steps 1000");
    if (steps > 0) {
        *count = steps;
        return ORR_OK;
    }
    if (t->rows) {
        ORR_TRY(count_rows(data, epochs, &rows));
        *count = (rows + t->options.batch - 1) / t->options.batch;
        return ORR_OK;
    }
    ORR_TRY(orr_sampler_init(&sampler, t->corpus, t->train, t->options.seq, 0));
    *count = (int64_t)ceil(epochs * (double)sampler.windows / (double)t->options.batch);
    return ORR_OK;
}

static int open_corpora(const struct opened *o, struct orr_trainer *t, struct orr_corpus **corpus,
                        struct orr_corpus **validation)
{
    if (data_options.data.count == 0)
        return command_remedy(command_fail(ORR_EINVAL, "--data: is missing"), "name a text file, a folder or a .bin file");
    *corpus = open_data(o, &data_options.data);
    if (!*corpus)
        return orr_error_code();
    t->corpus = *corpus;
    bool separate = data_options.validation.count > 0;
    ORR_TRY(orr_corpus_split(*corpus, separate ? 0 : data_options.validation_fraction, &t->train, &t->validation));
    if (separate) {
        *validation = open_data(o, &data_options.validation);
        if (!*validation)
            return orr_error_code();
        t->validation_corpus = *validation;
        t->validation = (struct orr_range){0, orr_corpus_size(*validation)};
    } else if (t->validation.last - t->validation.first >= 2) {
        t->validation_corpus = *corpus;
    }
    return ORR_OK;
}

static int open_rows(const struct opened *o, struct orr_trainer *t, struct task_data *data)
{
    ORR_TRY(open_task(o, t->options.seq, data));
    t->rows = &data->rows;
    t->validation_rows = data->validation_count > 0 ? &data->validation_rows : NULL;
    t->validation_count = data->validation_count;
    t->fingerprint = data->fingerprint;
    t->train = (struct orr_range){0, data->tokens};
    return ORR_OK;
}

static int check_out(void)
{
    struct stat st;

    if (!out)
        return ORR_OK;
    if (stat(out, &st) == 0 && !S_ISDIR(st.st_mode))
        return command_remedy(command_fail(ORR_EINVAL, "%s: is no directory", out), "name another one with --out");
    return ORR_OK;
}

/* JSON has no NaN: what was not evaluated is null. */
static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* Of every rank. */
static json_t *peaks(void)
{
    int64_t *bytes = calloc((size_t)orr_rank_count(), sizeof(*bytes));
    bool known = orr_ranks_settle(bytes ? ORR_OK : ORR_ENOMEM) == 0 && orr_memory_peaks(bytes) == 0;
    json_t *list = known ? json_array() : NULL;

    for (int rank = 0; list && rank < orr_rank_count(); rank++)
        json_array_append_new(list, json_integer(bytes[rank] >> 20));
    free(bytes);
    return list;
}

static int print_summary(const struct orr_trainer_result *r, const struct opened *o, double flops_per_token)
{
    json_t *skipped = o->dtype == ORR_F16 ? json_integer(r->skipped) : NULL;
    bool best = patience > 0 && r->best_step > 0;

    return print_json(json_pack("{s:I,s:o,s:o,s:I,s:f,s:f,s:f,s:I,s:o*,s:o*,s:o*,s:o*,s:o*,s:s?}", "steps", (json_int_t)r->steps,
                                "loss", real_or_null(r->loss), "val_loss", real_or_null(r->validation_loss), "tokens",
                                (json_int_t)r->tokens, "tokens_per_s", r->tokens_per_s, "step_ms_median",
                                r->step_ms_median, "gflops", r->tokens_per_s * flops_per_token / 1e9, "peak_rss_mib",
                                (json_int_t)(orr_memory_peak() >> 20), "rank_peak_rss_mib", peaks(),
                                "skipped_steps", skipped, "stopped_early", patience ? json_boolean(r->stopped_early) : NULL,
                                "best_step", best ? json_integer(r->best_step) : NULL, "best_val_loss",
                                best ? json_real(r->best_loss) : NULL, "out", out));
}

static const char *describe_size(int64_t n, char *text, size_t size)
{
    snprintf(text, size, n < 1000000 ? "%.1f k" : "%.1f M", (double)n / (n < 1000000 ? 1e3 : 1e6));
    return text;
}

/* The progress goes to standard output, or, where that is to end in a JSON object, to standard error. */
static int train(struct opened *o, struct orr_trainer *t, struct orr_trainer_result *result)
{
    struct orr_memory_need need;
    char text[256], size[32], headline[768];

    t->progress = quiet ? NULL : json ? stderr : stdout;
    t->flops_per_token = orr_model_flops_per_token(o->model, o->hyper.layers, o->hyper.width, t->options.seq);
    ORR_TRY(orr_training_memory(o->model, &t->options, orr_rank(), &need));
    ORR_TRY(orr_memory_check(&need));
    snprintf(headline, sizeof(headline),
             "%.300s: %s parameters, %lld tokens, %d workers, dp %d x pp %d x tp %d, %d microbatches of %d x %d\n"
             "memory: %s%s",
             model_options.model, describe_size(orr_model_size(o->model), size, sizeof(size)),
             (long long)(t->train.last - t->train.first), orr_worker_count(), o->mesh.dp, o->mesh.pp,
             o->mesh.tp, (t->options.batch + t->options.micro_batch - 1) / t->options.micro_batch, t->options.micro_batch,
             t->options.seq,
             orr_memory_describe(&need, text, sizeof(text)), out ? "" : "\nwithout --out nothing is saved");
    t->headline = headline;
    if (!t->resume)
        ORR_TRY(has_rows(task) ? fill_model_for_task(o) : fill_model(o));
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return orr_trainer_run(t, result);
}

static const char summary[] = "Trains or fine-tunes a model on text or tokens.";

/* Whether a checkpoint's "--name" or "--name=value" gives way to what was given now. --set adds to it. */
static bool replaced(const char *argument)
{
    const char *name = argument + strspn(argument, "-");
    size_t length = strcspn(name, "=");

    if (strncmp(name, "epochs", length) == 0 && options_given(table, "steps"))
        return true;
    if (strncmp(name, "steps", length) == 0 && options_given(table, "epochs"))
        return true;
    for (int t = 0; tables[t]; t++)
        for (const struct setting *o = tables[t]; o->name; o++)
            if (strlen(o->name) == length && strncmp(o->name, name, length) == 0)
                return o->given && strcmp(o->name, "set") != 0;
    return false;
}

/* The options that a checkpoint was trained with come first, those of the command line after them. Without --out
 * the run goes on where it was. */
static int parse(int argc, char **argv, char ***held, char **directory)
{
    int saved = 0;

    ORR_TRY(options_parse("train", summary, tables, argc, argv));
    bool named = options_given(model_table, "tokenizer");
    if (!resume_from)
        return ORR_OK;
    *directory = orr_checkpoint_resolve(resume_from);
    ORR_TRY(orr_ranks_settle(*directory ? ORR_OK : orr_error_code()));
    ORR_TRY(orr_ranks_agree("--resume", *directory));
    *held = orr_trainer_arguments(*directory, &saved);
    if (!*held)
        return orr_error_code();
    char **all = calloc((size_t)(saved + argc + 1), sizeof(*all));
    int count = 1;
    if (!all)
        return command_fail(ORR_ENOMEM, "train: no room for the options");
    all[0] = argv[0];
    for (int i = 0; i < saved; i++)
        if (!replaced((*held)[i]))
            all[count++] = (*held)[i];
    memcpy(all + count, argv + 1, (size_t)argc * sizeof(*all));
    options_reset(tables);
    int status = options_parse("train", summary, tables, count + argc - 1, all);
    if (!named && orr_tokenizer_in(*directory))     /* the files that the run began with may be elsewhere by now */
        model_options.tokenizer = *directory;
    free(all);
    return status;
}

int supervise_train(int argc, char **argv, int *ended)
{
    struct supervision s = {0};
    int status = options_parse("train", summary, tables, argc, argv);

    if (status == 0)
        status = arguments_collect(&s.arguments, tables, outside);
    if (status == 0) {
        s.max_restarts = max_restarts;
        s.launcher = launcher;
        s.out = out;
        s.resume = resume_from;
        status = supervise(&s, ended);
    }
    arguments_free(&s.arguments);
    return status;
}

int cmd_train(int argc, char **argv)
{
    struct opened o = {0};
    struct orr_trainer t = {0};
    struct orr_trainer_result result;
    struct orr_corpus *corpus = NULL, *validation = NULL;
    struct arguments arguments = {0};
    struct task_data data = {0};
    char **held = NULL, *directory = NULL;
    int status = parse(argc, argv, &held, &directory);

    struct shape shape = {batch, micro_batch, seq, false};
    if (status == 0)
        status = open_model(&o, change, &shape);
    if (status == 0)
        status = read_training(&o, &t.options);
    if (status == 0)
        status = set_rates(&o);
    if (status == 0)
        status = has_rows(task) ? open_rows(&o, &t, &data) : open_corpora(&o, &t, &corpus, &validation);
    if (status == 0)
        status = count_steps(&t, &data, &t.options.schedule.steps);
    if (status == 0)
        status = check_out();
    if (status == 0)
        status = arguments_collect(&arguments, kept, outside);
    status = orr_ranks_settle(status);
    if (status == 0) {
        t.model = o.model;
        t.config = o.config;
        t.tokenizer = o.tokenizer;
        t.eval_every = eval_every;
        t.eval_samples = eval_samples;
        t.patience = patience;
        t.min_delta = min_delta;
        t.out = out;
        t.save_every = save_every;
        t.keep = (int)keep;
        t.resume = directory;
        t.restarted = getenv("ORRERY_RESTART") != NULL;
        t.metrics = metrics;
        t.tensorboard = tensorboard;
        t.arguments = arguments.item;
        t.argument_count = arguments.count;
        t.options.stop = &stop;
        status = train(&o, &t, &result);
        int described = describe_trace(&o, (t.options.batch + t.options.micro_batch - 1) / t.options.micro_batch, result.steps);
        if (status == 0)
            status = described;
        if (json && (status == 0 || status == ORR_EINTR) && print_summary(&result, &o, t.flops_per_token) != 0)
            status = ORR_EIO;
    }
    arguments_free(&arguments);
    orr_corpus_destroy(validation);
    orr_corpus_destroy(corpus);
    close_task(&data);
    close_model(&o);
    free(held);
    free(directory);
    return status;
}
