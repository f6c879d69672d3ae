/* SPDX-License-Identifier: Apache-2.0 */
/* Training on the device: as on the CPU, the same twice, and the same with less memory than it needs. Each run is a process of
 * its own, since StarPU is told the memory when it starts, and since one that crashes is to be one failed check. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <models/gpt2.h>

#include "tools/selftest.h"
#include "tools/tools.h"

enum {
    MOST_STEPS = 20,
    SEQ = 31,
    DATA_BYTES = 20000,
    MOST_ARGUMENTS = 64
};

/* The same sums in another order, twenty steps on. */
#define LOSS_BOUND 1e-4

/* What a run leaves in its metrics. */
struct run {
    int steps;
    double loss[MOST_STEPS], norm[MOST_STEPS], ms[MOST_STEPS];
    bool streamed;              /* its headline says so */
    char reason[200];           /* why there is nothing */
};

struct runs {
    struct selftest *test;
    char folder[64];
    int steps, batch;
    int layers, width;          /* of the eviction run                                  */
    double need, fixed;         /* bytes of its tiles, and of what stays on the device  */
    double piece;               /* that StarPU takes memory by                          */
};

/* ---- a run ---------------------------------------------------------------------------------------------------------- */

static void path_in(const struct runs *r, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", r->folder, name);
}

static int write_data(const struct runs *r)
{
    char path[128];

    path_in(r, "text", path, sizeof(path));
    FILE *f = fopen(path, "w");
    for (int i = 0; f && i < DATA_BYTES; i++)
        fputc(i % 61 == 60 ? '\n' : 'a' + i * i / 7 % 26, f);
    return f && fclose(f) == 0 ? ORR_OK : command_fail(ORR_EIO, "%s: cannot be written", path);
}

static void read_log(const struct runs *r, struct run *run)
{
    char path[128], line[512];

    path_in(r, "log", path, sizeof(path));
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        run->streamed |= strstr(line, "streamed:") != NULL;
        if (strncmp(line, "orrery: ", 8) == 0 && !run->reason[0])
            snprintf(run->reason, sizeof(run->reason), "%.190s", line + 8);
    }
    if (f)
        fclose(f);
}

static void read_metrics(const struct runs *r, struct run *run)
{
    char path[128], line[1024];

    path_in(r, "metrics", path, sizeof(path));
    FILE *f = fopen(path, "r");
    while (f && run->steps < MOST_STEPS && fgets(line, sizeof(line), f)) {
        json_t *object = json_loads(line, 0, NULL);
        if (json_object_get(object, "loss")) {
            run->loss[run->steps] = json_number_value(json_object_get(object, "loss"));
            run->norm[run->steps] = json_number_value(json_object_get(object, "grad_norm"));
            run->ms[run->steps++] = json_number_value(json_object_get(object, "step_ms"));
        }
        json_decref(object);
    }
    if (f)
        fclose(f);
}

/* In the child. */
static void become(const struct runs *r, const char *const arguments[], const char *limit)
{
    char log[128];

    path_in(r, "log", log, sizeof(log));
    if (!freopen(log, "w", stdout) || dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
        _exit(126);
    if (limit)
        setenv("STARPU_LIMIT_CUDA_MEM", limit, 1);
    execv("/proc/self/exe", (char *const *)arguments);
    _exit(127);
}

/* `more` ends with NULL; limit: MiB of device memory, or NULL. */
static void train(const struct runs *r, const char *const more[], const char *limit, struct run *run)
{
    char metrics[128], text[128], count[16], batch[16], seq[16];
    const char *arguments[MOST_ARGUMENTS] = {
        "orrery", "train", "--model", "tiny-gpt2", "--set", "n_positions=31", "--data", text, "--val-fraction", "0",
        "--metrics", metrics, "--steps", count, "--batch", batch, "--micro-batch", "1", "--seq", seq, "--dropout", "0.1",
        "--warmup", "2", "--lr", "1e-3", "--dp", "1", "--pp", "1", "--tp", "1", "--pin", "home", "--dtype", "fp32",
        "--seed", "1"};
    int n = 0, status = -1;

    *run = (struct run){0};
    path_in(r, "metrics", metrics, sizeof(metrics));
    path_in(r, "text", text, sizeof(text));
    snprintf(count, sizeof(count), "%d", r->steps);
    snprintf(batch, sizeof(batch), "%d", r->batch);
    snprintf(seq, sizeof(seq), "%d", SEQ);
    while (arguments[n])
        n++;
    for (int i = 0; more[i] && n < MOST_ARGUMENTS - 1; i++)
        arguments[n++] = more[i];
    remove(metrics);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        become(r, arguments, limit);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    read_log(r, run);
    read_metrics(r, run);
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && run->steps == r->steps)
        run->reason[0] = '\0';
    else if (pid > 0 && WIFSIGNALED(status))
        snprintf(run->reason, sizeof(run->reason), "it ended by signal %d", WTERMSIG(status));
    else if (!run->reason[0])
        snprintf(run->reason, sizeof(run->reason), "it ended after %d steps", run->steps);
}

static double distance(const struct run *a, const struct run *b)
{
    double most = 0;

    for (int s = 0; s < a->steps; s++) {
        double loss = fabs(a->loss[s] - b->loss[s]) / fabs(b->loss[s]), norm = fabs(a->norm[s] - b->norm[s]) / fabs(b->norm[s]);
        if (!isfinite(loss) || !isfinite(norm))
            return INFINITY;
        most = fmax(most, fmax(loss, norm));
    }
    return most;
}

static void report(const struct runs *r, const char *name, const char *where, const struct run *found, const struct run *wanted,
                   double bound)
{
    if (found->reason[0] || wanted->reason[0])
        selftest_fail(r->test, name, "fp32", where, found->reason[0] ? found->reason : wanted->reason);
    else
        selftest_report(r->test, name, "fp32", where, distance(found, wanted), bound);
}

/* ---- the checks -------------------------------------------------------------------------------------------------------- */

/* Sizes that nothing divides, and dropout. */
static void check_training(const struct runs *r)
{
#define ODD "--set", "n_layer=2", "--set", "n_embd=45", "--set", "n_head=3"
    static const char *const cpu[] = {ODD, "--device", "cpu", "--quiet", NULL};
    static const char *const cuda[] = {ODD, "--device", "cuda", "--quiet", NULL};
#undef ODD
    struct run expected, found, again;
    char where[128];

    train(r, cpu, NULL, &expected);
    train(r, cuda, NULL, &found);
    train(r, cuda, NULL, &again);
    snprintf(where, sizeof(where), "losses and norms of %d steps, CPU against CUDA", r->steps);
    report(r, "training", where, &found, &expected, LOSS_BOUND);
    snprintf(where, sizeof(where), "losses and norms of %d steps, CUDA against CUDA", r->steps);
    report(r, "training again", where, &again, &found, 0);
}

/* With room for what stays on the device, a piece, and a part of the tiles. */
static void check_eviction(const struct runs *r)
{
    char layers[32], width[32], limit[32], where[128];
    const char *const more[] = {"--set", layers, "--set", width, "--set", "n_head=4", "--device", "cuda", NULL};
    struct run all, less;

    snprintf(layers, sizeof(layers), "n_layer=%d", r->layers);
    snprintf(width, sizeof(width), "n_embd=%d", r->width);
    train(r, more, NULL, &all);
    for (int part = 2; part <= 4; part *= 2) {
        snprintf(limit, sizeof(limit), "%d", (int)((r->fixed + r->piece + r->need / part) / 0x1p20));
        train(r, more, limit, &less);
        if (!less.reason[0] && !less.streamed)
            snprintf(less.reason, sizeof(less.reason), "nothing was streamed in %s MiB", limit);
        double slower = all.steps && less.steps ? orr_median(less.ms, less.steps) / orr_median(all.ms, all.steps) : NAN;
        snprintf(where, sizeof(where), "1/%d of %.0f MiB on the device, %.2f times as long", part, r->need / 0x1p20, slower);
        report(r, "eviction", where, &less, &all, 0);
    }
}

/* ---- around them ------------------------------------------------------------------------------------------------------- */

/* What the eviction run takes on a device: asked of the same training, made here. */
static int measure(struct runs *r)
{
    static const struct orr_mesh mesh = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};
    const struct orr_gpt2 gpt = {.vocab_size = 256, .n_positions = SEQ, .n_embd = r->width, .n_layer = r->layers, .n_head = 4,
                                 .n_inner = 4 * r->width, .layer_norm_epsilon = 1e-5f, .initializer_range = 0.02f,
                                 .embd_pdrop = 0.1f, .attn_pdrop = 0.1f, .resid_pdrop = 0.1f, .tie_word_embeddings = true};
    const struct orr_training_options options = {.batch = r->batch, .micro_batch = 1, .seq = SEQ,
                                                 .optimizer = orr_optimizer_default(ORR_ADAMW),
                                                 .schedule = {.lr = 1e-3, .steps = r->steps}};
    struct orr_model *model = orr_gpt2_create(&gpt, &mesh);
    int status = model ? orr_model_randomize(model, 1) : orr_error_code();
    struct orr_training *training = status == 0 ? orr_training_create(model, &options) : NULL;

    if (training) {
        const struct orr_residency residency = orr_training_residency(training);
        r->need = (double)residency.need;
        r->fixed = (double)(orr_device_memory(0) - residency.room);
    } else {
        status = orr_error_code();
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
    return status;
}

static void remove_folder(const char *folder)
{
    static const char *const names[] = {"text", "metrics", "log"};
    char path[128];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        remove(path);
    }
    rmdir(folder);
}

/* An emulated device takes thousands of times as long: the model is so small there that pieces of memory would hide the limit. */
static int shrink(struct runs *r)
{
    const struct orr_runtime_options runtime = {.device = ORR_DEVICE_CUDA, .watchdog = -1};

    r->steps = 3;
    r->batch = 2;
    r->width = 64;
    r->piece = 1 << 20;
    orr_shutdown();
    setenv("STARPU_SUBALLOCATOR", "0", 1);
    return orr_init(&runtime);
}

int selftest_training(struct selftest *s)
{
    const char *temporary = getenv("TMPDIR");
    struct runs r = {.test = s, .steps = MOST_STEPS, .batch = 4, .layers = 16, .width = 512, .piece = 32 << 20};
    char name[128];

    orr_device_name(0, name, sizeof(name));
    if (strstr(name, "emulated"))
        ORR_TRY(shrink(&r));
    ORR_TRY(measure(&r));
    orr_shutdown();                     /* its workers would take the children's cores */
    if (snprintf(r.folder, sizeof(r.folder), "%s/orrery-XXXXXX", temporary ? temporary : "/tmp") >= (int)sizeof(r.folder) ||
        !mkdtemp(r.folder))
        return command_fail(ORR_EIO, "%s: no folder can be made there", temporary ? temporary : "/tmp");
    int status = write_data(&r);
    if (status == 0) {
        check_training(&r);
        check_eviction(&r);
    }
    remove_folder(r.folder);
    return status;
}
