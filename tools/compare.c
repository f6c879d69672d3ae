/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/compare.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/process.h"
#include "tools/tools.h"

#define SCRIPT "gpt2_pytorch.py"

enum program { ORRERY, PYTORCH, PROGRAMS };
enum { NO_PYTORCH = 3 };        /* exit status of the script */

static const char *const names[PROGRAMS] = {"Orrery", "PyTorch"};
static const char *const keys[PROGRAMS] = {"orrery", "pytorch"};

struct state {
    const struct comparison *options;
    char script[PATH_MAX];
    struct words command[PROGRAMS];
    struct words environment;           /* NAME=VALUE, of PyTorch's                             */
    char *version;                      /* PyTorch's                                            */
    json_t *runs;                       /* what each said, in turn                              */
    double *rate[PROGRAMS];             /* tokens/s by pair                                     */
    double best[PROGRAMS];
};

/* ---- one run ------------------------------------------------------------------------------------------------------ */

static void keep_line(char *kept, size_t size, const char *line)
{
    snprintf(kept, size, "%.*s", (int)strcspn(line, "\n"), line);
}

/* The message of a run that failed: what Orrery says of a failure begins with its name; of PyTorch's the last line tells most. */
static int run_failed(enum program program, int status, FILE *err)
{
    static const char prefix[] = "orrery: ";
    char *line = NULL, first[400] = "", last[400] = "";
    size_t size = 0;

    rewind(err);
    while (getline(&line, &size, err) >= 0) {
        bool own = strncmp(line, prefix, strlen(prefix)) == 0;
        if (own && !first[0])
            keep_line(first, sizeof(first), line + strlen(prefix));
        else if (line[strspn(line, " \t\n")] && (own || program == PYTORCH))
            keep_line(last, sizeof(last), line + (own ? strlen(prefix) : 0));
    }
    free(line);
    if (program == PYTORCH && (status == CANNOT_START || status == NO_PYTORCH))
        return command_remedy(command_fail(ORR_ENOENT, "PyTorch: %s", first[0] ? first : last),
                              "name a Python that has PyTorch with --python");
    int code = program == PYTORCH ? ORR_EIO : status == 2 ? ORR_EINVAL : status == 3 ? ORR_ENOFIT : ORR_EIO;
    if (first[0] || last[0]) {
        command_fail(code, "%s: %s", names[program], first[0] ? first : last);
        return first[0] && last[0] ? command_remedy(code, "%s", last) : code;
    }
    return command_fail(code, "%s: %s %d", names[program], status > 128 ? "was ended by signal" : "ended with status",
                        status > 128 ? status - 128 : status);
}

/* The object on the last line that was printed. NULL where there is none. */
static json_t *read_report(FILE *out)
{
    char *line = NULL;
    size_t size = 0;
    json_t *report = NULL;

    rewind(out);
    while (getline(&line, &size, out) >= 0) {
        if (line[strspn(line, " \t\n")] == '\0')
            continue;
        json_decref(report);
        report = json_loads(line, 0, NULL);
    }
    free(line);
    return report;
}

static void set_environment(const void *environment)
{
    const struct words *w = environment;

    for (int i = 0; i < w->count; i++)
        putenv(w->item[i]);
}

static int run_program(const struct state *s, enum program program, json_t **report)
{
    FILE *out = tmpfile(), *err = tmpfile();
    struct process process = {.words = &s->command[program],
                              .prepare = program == PYTORCH ? set_environment : NULL,
                              .context = &s->environment,
                              .out = out,
                              .err = err};
    int status = !out || !err ? command_fail(ORR_EIO, "bench: no temporary file can be made") : ORR_OK;

    if (status == 0 && !process_stopped())
        status = process_run(&process);
    if (status >= 0 && process_stopped())
        status = command_fail(ORR_EINTR, "bench: interrupted");
    else if (status > 0)
        status = run_failed(program, status, err);
    else if (status == 0 && !(*report = read_report(out)))
        status = command_fail(ORR_EIO, "%s: has printed no JSON object", names[program]);
    if (out)
        fclose(out);
    if (err)
        fclose(err);
    return status;
}

/* ---- command lines ------------------------------------------------------------------------------------------------ */

static int find_script(struct state *s)
{
    if (s->options->script)
        snprintf(s->script, sizeof(s->script), "%s", s->options->script);
    else
        ORR_TRY(process_data(s->script, sizeof(s->script), "tools/bench/" SCRIPT, SCRIPT));
    if (access(s->script, R_OK) == 0)
        return ORR_OK;
    return command_remedy(command_fail(ORR_ENOENT, "%s: cannot be read", s->script), "say where it is with --script");
}

static int begin_pytorch(struct state *s)
{
    ORR_TRY(words_add(&s->command[PYTORCH], s->options->python));
    return words_add(&s->command[PYTORCH], s->script);
}

/* Before anything is timed: whether there is a PyTorch, and which. */
static int probe(struct state *s)
{
    json_t *report = NULL;

    ORR_TRY(begin_pytorch(s));
    ORR_TRY(words_add(&s->command[PYTORCH], "--probe"));
    ORR_TRY(run_program(s, PYTORCH, &report));
    const char *version = json_string_value(json_object_get(report, "version"));
    s->version = strdup(version ? version : "");
    json_decref(report);
    words_free(&s->command[PYTORCH]);
    return s->version ? ORR_OK : command_fail(ORR_ENOMEM, "memory: no room for a version");
}

static int compose_orrery(struct state *s)
{
    ORR_TRY(words_add_self(&s->command[ORRERY], "bench", &s->options->arguments));
    return words_add(&s->command[ORRERY], "--json");
}

/* NAME=VALUE, where the user has set none. */
static int suggest(struct words *environment, const char *name, const char *value)
{
    char text[256];

    if (getenv(name))
        value = getenv(name);
    snprintf(text, sizeof(text), "%s=%s", name, value);
    return words_add(environment, text);
}

/* A CPU: memory kept rather than given back and cleared anew for every tensor (as orr_init() has it), idle threads asleep, and
 * the threads of every library that a PyTorch may compute with. */
static int compose_environment(struct words *environment, int64_t threads)
{
    static const char *const counts[] = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"};
    char text[64];

    ORR_TRY(suggest(environment, "MALLOC_MMAP_MAX_", "0"));
    ORR_TRY(suggest(environment, "MALLOC_TRIM_THRESHOLD_", "1000000000000"));
    ORR_TRY(suggest(environment, "OMP_WAIT_POLICY", "PASSIVE"));
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        snprintf(text, sizeof(text), "%s=%lld", counts[i], (long long)threads);
        ORR_TRY(words_add(environment, text));
    }
    return ORR_OK;
}

/* PyTorch is told where Orrery's first run was, and on how many threads. */
static int compose_pytorch(struct state *s, const json_t *first)
{
    const struct comparison *c = s->options;
    const struct orr_gpt2 *g = &c->gpt;
    const char *device = json_string_value(json_object_get(first, "device"));
    bool cpu = !device || strcmp(device, "cuda") != 0;
    int64_t threads = layout_options.threads;
    char text[64];

    if (threads == 0 && cpu)
        threads = json_integer_value(json_object_get(first, "threads"));
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"layers", g->n_layer}, {"heads", g->n_head}, {"width", g->n_embd}, {"inner", g->n_inner}, {"vocab", g->vocab_size},
        {"positions", g->n_positions}, {"epsilon", g->layer_norm_epsilon}, {"embd-dropout", g->embd_pdrop},
        {"attn-dropout", g->attn_pdrop}, {"resid-dropout", g->resid_pdrop}, {"batch", (double)c->batch},
        {"micro-batch", (double)c->micro_batch}, {"seq", (double)c->seq}, {"steps", (double)c->steps},
        {"warm-up", (double)c->warm_up}, {"threads", (double)threads}, {"lr", c->lr}, {"beta1", c->optimizer.beta1},
        {"beta2", c->optimizer.beta2}, {"adam-epsilon", c->optimizer.eps}, {"weight-decay", c->optimizer.weight_decay},
        {"clip", c->optimizer.clip},
    };
    const struct {
        const char *name;
        bool given;
    } flags[] = {{"--untied", !g->tie_word_embeddings}, {"--tf32", layout_options.tf32}, {"--compile", c->compile}};
    struct words *w = &s->command[PYTORCH];

    ORR_TRY(begin_pytorch(s));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        int digits = numbers[i].value == (double)(int64_t)numbers[i].value ? 15 : 7;      /* of a whole number all */
        snprintf(text, sizeof(text), "--%s=%.*g", numbers[i].name, digits, numbers[i].value);
        ORR_TRY(words_add(w, text));
    }
    snprintf(text, sizeof(text), "--dtype=%s", layout_options.dtype);
    ORR_TRY(words_add(w, text));
    ORR_TRY(words_add(w, cpu ? "--device=cpu" : "--device=cuda"));
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        if (flags[i].given)
            ORR_TRY(words_add(w, flags[i].name));
    return cpu && threads > 0 ? compose_environment(&s->environment, threads) : ORR_OK;
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

/* Like is compared with like. */
static int check_size(const struct state *s, const json_t *report)
{
    json_int_t found = json_integer_value(json_object_get(report, "parameters"));
    json_int_t wanted = json_integer_value(json_object_get(json_array_get(s->runs, 0), "parameters"));

    if (found == 0 || found == wanted)
        return ORR_OK;
    return command_fail(ORR_EIO, "PyTorch: its model has %lld parameters, Orrery's %lld", (long long)found, (long long)wanted);
}

static int take_run(struct state *s, enum program program, int64_t pair)
{
    json_t *report = NULL;

    ORR_TRY(run_program(s, program, &report));
    double rate = json_number_value(json_object_get(report, "tokens_per_s"));
    double best = json_number_value(json_object_get(report, "best_tokens_per_s"));
    if (json_array_append_new(s->runs, report) != 0)
        return command_fail(ORR_ENOMEM, "memory: no room for a run");
    if (!(rate > 0) || !(best > 0))
        return command_fail(ORR_EIO, "%s: has printed no tokens_per_s and best_tokens_per_s", names[program]);
    if (json_object_set_new(report, "program", json_string(keys[program])) != 0 ||
        json_object_set_new(report, "pair", json_integer(pair + 1)) != 0)
        return command_fail(ORR_ENOMEM, "memory: no room for a run");
    s->rate[program][pair] = rate;
    if (best > s->best[program])
        s->best[program] = best;
    if (!s->options->json)
        printf("pair %lld/%lld  %-8s %12.1f tokens/s", (long long)pair + 1, (long long)s->options->pairs, names[program], rate);
    if (!s->options->json && program == PYTORCH)
        printf("  ratio %.3f", s->rate[ORRERY][pair] / rate);
    if (!s->options->json)
        printf("\n");
    fflush(stdout);
    return program == PYTORCH ? check_size(s, report) : ORR_OK;
}

static int take_runs(struct state *s)
{
    const struct comparison *c = s->options;

    ORR_TRY(find_script(s));
    ORR_TRY(probe(s));
    ORR_TRY(compose_orrery(s));
    if (!c->json)
        printf("Orrery %s against PyTorch %s: %s, %s, batch %lld, seq %lld\n", orr_version(), s->version, model_options.model,
               layout_options.dtype, (long long)c->batch, (long long)c->seq);
    for (int64_t pair = 0; pair < c->pairs; pair++) {
        ORR_TRY(take_run(s, ORRERY, pair));
        if (pair == 0)
            ORR_TRY(compose_pytorch(s, json_array_get(s->runs, 0)));
        ORR_TRY(take_run(s, PYTORCH, pair));
    }
    return ORR_OK;
}

/* ---- what comes of it --------------------------------------------------------------------------------------------- */

struct result {
    double median[PROGRAMS], ratio;         /* ratio of the medians; all ratios are Orrery's to PyTorch's   */
    double pair_median, pair_least, pair_most;
};

static json_t *list_words(const struct words *w)
{
    json_t *list = json_array();

    for (int i = 0; i < w->count; i++)
        json_array_append_new(list, json_string(w->item[i]));
    return list;
}

static json_t *describe_program(const struct state *s, const struct result *r, enum program program)
{
    return json_pack("{s:s,s:f,s:f,s:o,s:o}", "version", program == PYTORCH ? s->version : orr_version(), "tokens_per_s",
                     r->median[program], "best_tokens_per_s", s->best[program], "command", list_words(&s->command[program]),
                     "environment", list_words(program == PYTORCH ? &s->environment : &(struct words){0}));
}

static json_t *list_numbers(const double *numbers, int64_t count)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(numbers[i]));
    return list;
}

/* The device as Orrery calls it, in words where it is a CUDA device. */
static const char *device(const struct state *s, const char *key)
{
    const char *name = json_string_value(json_object_get(json_array_get(s->runs, 0), key));

    return name ? name : "cpu";
}

static int print_object(const struct state *s, const struct result *r, json_t *ratios)
{
    json_t *ratio = json_pack("{s:f,s:f,s:f,s:f,s:o}", "of_medians", r->ratio, "median", r->pair_median, "least", r->pair_least,
                              "most", r->pair_most, "pairs", ratios);

    return print_json(json_pack("{s:s,s:s,s:s,s:I,s:o,s:o,s:o,s:O}", "model", model_options.model, "device", device(s, "device"),
                                "device_name", device(s, "device_name"), "pairs", (json_int_t)s->options->pairs, "orrery",
                                describe_program(s, r, ORRERY), "pytorch", describe_program(s, r, PYTORCH), "ratio", ratio,
                                "runs", s->runs));
}

static void print_words(const struct state *s, const struct result *r)
{
    printf("device            %s\n", device(s, "device_name"));
    for (int p = 0; p < PROGRAMS; p++)
        printf("%-8s          median %.1f, best %.1f tokens/s\n", names[p], r->median[p], s->best[p]);
    printf("ratio of medians  %.3f\nratio by pair     median %.3f, from %.3f to %.3f\n", r->ratio, r->pair_median, r->pair_least,
           r->pair_most);
}

static int conclude(struct state *s)
{
    int64_t pairs = s->options->pairs;
    double *ratios = malloc((size_t)pairs * sizeof(*ratios));
    struct result r;

    if (!ratios)
        return command_fail(ORR_ENOMEM, "memory: no room for %lld pairs", (long long)pairs);
    for (int64_t i = 0; i < pairs; i++)
        ratios[i] = s->rate[ORRERY][i] / s->rate[PYTORCH][i];
    json_t *by_pair = list_numbers(ratios, pairs);
    r.pair_median = orr_median(ratios, pairs);      /* which sorts */
    r.pair_least = ratios[0];
    r.pair_most = ratios[pairs - 1];
    free(ratios);
    for (int p = 0; p < PROGRAMS; p++)
        r.median[p] = orr_median(s->rate[p], pairs);
    r.ratio = r.median[ORRERY] / r.median[PYTORCH];
    if (s->options->json)
        return print_object(s, &r, by_pair);
    json_decref(by_pair);
    print_words(s, &r);
    return ORR_OK;
}

int compare(const struct comparison *c)
{
    struct state s = {.options = c, .runs = json_array()};
    int status = ORR_OK;

    if (process_launched())
        return command_remedy(command_fail(ORR_EINVAL, "--against: cannot be used on ranks"), "start orrery without mpiexec");
    process_forward_signals();
    for (int p = 0; p < PROGRAMS; p++)
        s.rate[p] = calloc((size_t)c->pairs, sizeof(*s.rate[p]));
    if (!s.runs || !s.rate[ORRERY] || !s.rate[PYTORCH])
        status = command_fail(ORR_ENOMEM, "memory: no room for %lld pairs", (long long)c->pairs);
    if (status == 0)
        status = take_runs(&s);
    if (status == 0)
        status = conclude(&s);
    json_decref(s.runs);
    for (int p = 0; p < PROGRAMS; p++) {
        words_free(&s.command[p]);
        free(s.rate[p]);
    }
    words_free(&s.environment);
    free(s.version);
    return status;
}
