/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_generate.h"
#include "tools/compare.h"
#include "tools/tools.h"

enum { WARM_UP = 2, TOKEN_STREAM = 0x62656e };

static int64_t batch = 4, micro_batch, seq = 256, steps = 8, generated;
static const char *kv_cache;
static bool json;
static const char *against;
static struct comparison comparison = {.pairs = 5, .python = "python3"};
static const double lr = 1e-4;

static struct setting table[] = {
    SETTING("batch", "B", "sequences per step (4)", OPTION_INT, &batch, 1, 1 << 24, false),
    SETTING("micro-batch", "b", "sequences per task (default: enough microbatches for the workers)", OPTION_INT, &micro_batch,
     1, 1 << 24, true),
    SETTING("seq", "T", "tokens of a sequence (256)", OPTION_INT, &seq, 1, 1 << 24, false),
    SETTING("steps", "N", "steps to time, after two that are not (8)", OPTION_INT, &steps, 1, 1e6, false),
    SETTING("generate", "N", "time N tokens that are generated for each of --batch sequences, behind prompts of --seq tokens, instead",
     OPTION_INT, &generated, 2, 1 << 24, false),
    SETTING("kv-cache", "HOW", "with --generate: on (default, but with --sequence-parallel) or off", OPTION_TEXT, &kv_cache, 0, 0, true),
    SETTING("pretend-ranks", "N", "time nothing but submission, as one of so many ranks would do it; nothing is computed", OPTION_INT,
     &layout_options.pretend_ranks, 1, 1 << 24, false),
    SETTING("pretend-rank", "R", "which of them (0)", OPTION_INT, &layout_options.pretend_rank, 0, 1 << 24, false),
    SETTING("json", NULL, "print a JSON object", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

static struct setting comparison_table[] = {
    SETTING("against", "PROGRAM", "run this program's steps and Orrery's in turn, and compare: pytorch", OPTION_TEXT, &against,
     0, 0, false),
    SETTING("pairs", "N", "with --against, runs of each (5)", OPTION_INT, &comparison.pairs, 1, 1000, false),
    SETTING("python", "PYTHON", "the Python that has PyTorch (python3)", OPTION_TEXT, &comparison.python, 0, 0, false),
    SETTING("script", "PATH", "PyTorch's steps (default: gpt2_pytorch.py, which comes with Orrery)", OPTION_TEXT,
     &comparison.script, 0, 0, false),
    SETTING("compile", NULL, "let PyTorch compile the model (torch.compile)", OPTION_FLAG, &comparison.compile, 0, 0, false),
    SETTING("pytorch-micro-batch", "b", "PyTorch's --micro-batch (default: the same where that is given, else --batch)",
     OPTION_INT, &comparison.micro_batch, 1, 1 << 24, false),
    {0},
};

static struct setting *const tables[] = {model_table, table, comparison_table, layout_table, trace_table, NULL};
static const char summary[] = "Times training steps on random tokens.";

struct random_tokens {
    uint64_t seed;
    int vocab, outputs;
};

static void read_random(void *self, uint64_t first, int count, int length, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct random_tokens *r = self;
    struct orr_rng rng = {r->seed, TOKEN_STREAM, 0};

    for (int i = 0; i < count; i++) {
        uint64_t at = (first + (uint64_t)i) * (uint64_t)(length + 1);
        for (int t = 0; t <= length; t++) {
            uint32_t word;
            orr_rng_words(&rng, at + (uint64_t)t, 1, &word);
            int32_t id = (int32_t)(word % (uint32_t)r->vocab);
            if (t < length)
                tokens[i * length + t] = id;
            if (t > 0)
                labels[i * length + t - 1] = id % r->outputs;
        }
    }
}

static int64_t streamed_bytes(const struct orr_training *training)
{
    const struct orr_residency r = orr_training_residency(training);

    return r.streamed[0] + r.streamed[1] + r.streamed[2] + r.streamed[3];
}

/* StarPU gives nothing back to a device while it has room, so that what it holds at the end is the most that it held. */
static int add_devices(json_t *object)
{
    char name[64];
    int64_t held = 0;

    if (orr_device_count() == 0)
        return ORR_OK;
    for (int i = 0; i < orr_device_count(); i++)
        held += orr_device_memory_held(i);
    orr_device_name(0, name, sizeof(name));
    if (json_object_set_new(object, "device_name", json_string(name)) == 0 &&
        json_object_set_new(object, "devices", json_integer(orr_device_count())) == 0 &&
        json_object_set_new(object, "device_mib", json_integer(held >> 20)) == 0)
        return ORR_OK;
    return command_fail(ORR_ENOMEM, "bench: no room for the devices");
}

static void print_lines(json_t *object)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(5));
        printf("%-18s %s\n", key, text ? text : "?");
        free(text);
    }
}

static int print_object(json_t *object)
{
    int status = add_devices(object);

    if (status == 0 && json)
        return print_json(object);
    if (status == 0)
        print_lines(object);
    json_decref(object);
    return status;
}

static int print(const struct opened *o, const struct orr_training_options *t, double *seconds,
                 const struct orr_profile *profile, int64_t tasks, int64_t streamed)
{
    double tokens = (double)t->batch * t->seq;
    double per_token = orr_model_flops_per_token(o->model, o->hyper.layers, o->hyper.width, t->seq);

    double median = orr_median(seconds, steps);
    json_t *object = json_pack(
        "{s:f,s:f,s:f,s:f,s:I,s:f,s:f,s:I,s:s,s:s,s:I,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s,s:s,s:I}", "tokens_per_s", tokens / median,
        "best_tokens_per_s", tokens / seconds[0], "step_ms", 1000 * median, "gflops", tokens * per_token / median / 1e9,
        "tasks_per_step", (json_int_t)tasks, "overhead_pct", 100 * profile->runtime / profile->wall, "idle_pct",
        100 * profile->idle / profile->wall, "peak_rss_mib", (json_int_t)(orr_memory_peak() >> 20), "model",
        model_options.model, "dtype", layout_options.dtype, "parameters", (json_int_t)orr_model_size(o->model), "batch",
        t->batch, "micro_batch", t->micro_batch, "seq", t->seq, "dp", o->mesh.dp, "pp", o->mesh.pp, "tp", o->mesh.tp,
        "workers", orr_worker_count(), "threads", orr_thread_count(), "scheduler", orr_scheduler(),
        "device", orr_device_count() ? "cuda" : "cpu", "streamed_mib", (json_int_t)(streamed >> 20));
    return print_object(object);
}

static int take(struct orr_training *training, int64_t count, double *seconds)
{
    struct orr_step step;
    int taken = 1;

    for (int64_t i = 0; i < count && taken == 1; i++) {
        taken = orr_training_next(training, &step, true);
        if (taken == 1 && seconds)
            seconds[i] = step.seconds;
    }
    return taken < 0 ? taken : ORR_OK;
}

static int measure(struct orr_training *training, const struct orr_source *source, double *seconds,
                   struct orr_profile *profile)
{
    for (int i = 0; i < WARM_UP; i++)
        ORR_TRY(orr_training_submit(training, source));
    ORR_TRY(take(training, WARM_UP, NULL));
    orr_profile_start();
    for (int64_t i = 0; i < steps; i++)
        ORR_TRY(orr_training_submit(training, source));
    ORR_TRY(take(training, steps, seconds));
    orr_profile_read(profile);
    return ORR_OK;
}

/* Prints the median of what submitting a step costs. */
static int measure_submission(struct orr_training *training, const struct orr_source *source, double *seconds)
{
    struct orr_submission s = {0};

    for (int64_t i = -WARM_UP; i < steps; i++) {
        ORR_TRY(orr_training_submit(training, source));
        s = orr_training_submission(training);
        if (i >= 0)
            seconds[i] = s.seconds;
    }
    return print_json(json_pack("{s:I,s:I,s:f,s:I,s:I}", "ranks", (json_int_t)layout_options.pretend_ranks, "rank",
                                (json_int_t)layout_options.pretend_rank, "submit_ms",
                                1000 * orr_median(seconds, (size_t)steps), "tasks", (json_int_t)s.tasks, "messages",
                                (json_int_t)s.messages));
}

static int run(struct opened *o)
{
    struct orr_training_options t = {
        .batch = (int)batch,
        .micro_batch = micro_batch ? (int)micro_batch : default_micro_batch((int)batch, o->mesh.dp),
        .seq = (int)seq,
        .slots = o->slots,
        .optimizer = orr_optimizer_default(ORR_ADAMW),
        .schedule = {.kind = ORR_SCHEDULE_CONSTANT, .lr = lr},
        .seed = (uint64_t)layout_options.seed,
    };
    struct random_tokens random = {(uint64_t)layout_options.seed, o->hyper.vocab, o->hyper.outputs};
    struct orr_source source = {read_random, &random};
    struct orr_memory_need need;
    struct orr_profile profile;

    ORR_TRY(check_shape(o, t.micro_batch, t.seq));
    ORR_TRY(orr_training_memory(o->model, &t, orr_rank(), &need));
    ORR_TRY(orr_memory_check(&need));
    ORR_TRY(fill_model(o));
    struct orr_training *training = orr_training_create(o->model, &t);
    double *seconds = malloc((size_t)steps * sizeof(*seconds));
    int status = !training ? orr_error_code() : !seconds ? command_fail(ORR_ENOMEM, "bench: no room for the times") : ORR_OK;
    if (status == 0 && o->mesh.pretended)
        status = measure_submission(training, &source, seconds);
    else if (status == 0)
        status = measure(training, &source, seconds, &profile);
    if (status == 0 && !o->mesh.pretended)
        status = describe_trace(o, (t.batch + t.micro_batch - 1) / t.micro_batch, WARM_UP + steps);
    if (status == 0 && !o->mesh.pretended)
        status = print(o, &t, seconds, &profile, orr_training_submission(training).tasks,
                       streamed_bytes(training));
    orr_training_destroy(training);
    free(seconds);
    return status;
}

static int run_generation(struct opened *o, double read_speed)
{
    struct generation g = {(int)batch, (int)seq, (int)generated, false, read_speed};

    ORR_TRY(read_kv_cache(o, kv_cache, &g.cache));
    ORR_TRY(check_shape(o, 1, seq));
    ORR_TRY(orr_model_freeze(o->model));
    ORR_TRY(check_generation(o, &(struct generation_shape){g.batch, 1, o->hyper.positions, g.cache}));
    ORR_TRY(fill_model(o));
    json_t *object = bench_generate(o, &g);
    return object ? print_object(object) : orr_error_code();
}

/* ---- against another program --------------------------------------------------------------------------------------- */

bool comparison_wanted(int argc, char **argv)
{
    bool wanted = false;

    if (argc < 2 || strcmp(argv[1], "bench") != 0)
        return false;
    for (int i = 2; i < argc; i++)      /* options may be abbreviated; no other begins so */
        wanted |= strncmp(argv[i], "--a", 3) == 0;
    return wanted;
}

static int check_comparison(void)
{
    if (!against || strcmp(against, "pytorch") != 0)
        return command_remedy(command_fail(ORR_EINVAL, "--against: '%s' is no program it knows", against ? against : ""),
                              "write --against pytorch");
    if (layout_options.pretend_ranks)
        return command_fail(ORR_EINVAL, "--against: cannot be given together with --pretend-ranks");
    return ORR_OK;
}

/* What PyTorch's script trains. */
static int read_gpt(const struct orr_config *config, struct orr_gpt2 *gpt)
{
    const char *type = "gpt2";

    if (orr_config_has(config, "model_type"))
        ORR_TRY(orr_config_string(config, "model_type", &type));
    if (strcmp(type, "gpt2") != 0)
        return command_remedy(command_fail(ORR_EINVAL, "--against: PyTorch's script trains gpt2 models, not %s", type),
                              "name a gpt2 model");
    return orr_gpt2_read(config, gpt);
}

int compare_bench(int argc, char **argv)
{
    /* What only the comparison is told. */
    static const char *const own[] = {"against", "pairs", "python", "script", "compile", "pytorch-micro-batch", "json", NULL};
    struct comparison *c = &comparison;
    struct opened o = {0};
    int status = options_parse("bench", summary, tables, argc, argv);

    if (status == 0)
        status = check_comparison();
    if (status == 0)
        status = read_model(&o, NULL);
    if (status == 0)
        status = check_shape(&o, micro_batch, seq);
    if (status == 0)
        status = read_gpt(o.config, &c->gpt);
    if (status == 0)
        status = arguments_collect(&c->arguments, tables, own);
    if (status == 0) {
        c->optimizer = orr_optimizer_default(ORR_ADAMW);
        c->lr = lr;
        c->batch = batch;
        c->seq = seq;
        c->steps = steps;
        c->warm_up = WARM_UP;
        if (!c->micro_batch)
            c->micro_batch = micro_batch;
        c->json = json;
        status = compare(c);
    }
    arguments_free(&c->arguments);
    close_model(&o);
    return status;
}

int cmd_bench(int argc, char **argv)
{
    struct opened o = {0};
    int status = options_parse("bench", summary, tables, argc, argv);

    for (const struct setting *s = comparison_table; status == 0 && s->name; s++)
        if (s->given && !against)
            status = command_remedy(command_fail(ORR_EINVAL, "--%s: needs --against", s->name), "add --against pytorch");

    struct shape shape = {batch, micro_batch, seq, generated > 0};
    double read_speed = status == 0 && generated ? bench_read_speed((int)layout_options.threads) : 0;
    if (read_speed < 0)
        status = command_fail(ORR_ENOMEM, "bench: no room to read memory");
    if (status == 0)
        status = open_model(&o, NULL, &shape);
    if (status == 0)
        status = generated ? run_generation(&o, read_speed) : run(&o);
    close_model(&o);
    return status;
}
