/* SPDX-License-Identifier: Apache-2.0 */
/* What the scripts of this folder start on several ranks: ranks_program CASE. Its last line, on rank 0, is "done". */
#include <dlfcn.h>
#include <signal.h>
#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <orrery/orrery.h>

#include "core/core.h"
#include "core/ranks.h"
#include "core/watch.h"

static const struct orr_runtime_options quick = {.watchdog = 2, .heartbeat = 2};

/* ---- settling ------------------------------------------------------------------------------------------------- */

static int fails_alone(void)
{
    ORR_TRY(orr_ranks_start());
    int status = orr_rank() == 1 ? orri_remedy(orri_fail(ORR_ENOENT, "file", "is missing"), "bring it") : ORR_OK;
    return orr_ranks_settle(status);
}

static int fails_alike(void)
{
    ORR_TRY(orr_ranks_start());
    return orr_ranks_settle(orri_fail(ORR_ENOFIT, "memory", "is too small"));
}

/* Rank 1 goes straight to the end; the others are on their way through something else. */
static int fails_elsewhere(void)
{
    int64_t value = 7;

    ORR_TRY(orr_ranks_start());
    if (orr_rank() == 1)
        return orr_ranks_settle(orri_fail(ORR_ENOENT, "file", "is missing"));
    ORR_TRY(orr_ranks_agree("text", "a\n"));
    ORR_TRY(orri_ranks_broadcast(&value, sizeof(value), 0));
    ORR_TRY(orr_init(NULL));
    return orr_ranks_settle(ORR_OK);
}

static int disagrees(void)
{
    ORR_TRY(orr_ranks_start());
    return orr_ranks_agree("options", orr_rank() == 1 ? "a=1\nb=3\n" : "a=1\nb=2\nc=3\n");
}

static int one_scheduler(void)
{
    if (getenv("OMPI_COMM_WORLD_RANK") && strcmp(getenv("OMPI_COMM_WORLD_RANK"), "1") == 0)
        setenv("STARPU_SCHED", "nonsense", 1);
    return orr_init(NULL);
}

/* A file devices.RANK: a line for each, with the MiB that there are to use. */
static int devices(void)
{
    char name[128];

    ORR_TRY(orr_init(NULL));
    snprintf(name, sizeof(name), "devices.%d", orr_rank());
    FILE *out = fopen(name, "w");
    for (int i = 0; out && i < orr_device_count(); i++) {
        orr_device_name(i, name, sizeof(name));
        fprintf(out, "%lld %s\n", (long long)(orr_device_memory(i) >> 20), name);
    }
    return out && fclose(out) == 0 ? ORR_OK : orri_fail(ORR_EIO, "devices", "cannot be written");
}

static int exchanges(void)
{
    char data[3000], before = 0, mine;
    int places[64] = {0}, place;

    ORR_TRY(orr_init(&quick));
    mine = (char)orr_rank();
    place = orri_ranks_place_on_host();
    memset(data, orr_rank() == 2 ? 5 : 0, sizeof(data));
    ORR_TRY(orri_ranks_broadcast(data, sizeof(data), 2));
    ORR_TRY(orri_ranks_shift(&mine, &before, 1));
    ORR_TRY(orri_ranks_gather_on_host(&place, sizeof(place), places));
    for (size_t i = 0; i < sizeof(data); i++)
        if (data[i] != 5)
            return orri_fail(ORR_EIO, "broadcast", "byte %zu is %d", i, data[i]);
    if (before != (orr_rank() + orr_rank_count() - 1) % orr_rank_count())
        return orri_fail(ORR_EIO, "shift", "came from %d", before);
    for (int r = 0; r < orri_ranks_on_host(); r++)
        if (places[r] != r)
            return orri_fail(ORR_EIO, "gather", "place %d is %d", r, places[r]);
    ORR_TRY(orri_ranks_agree("bytes", data, sizeof(data)));
    ORR_TRY(orr_ranks_agree("text", "a\nb\n"));
    return orr_ranks_settle(ORR_OK);
}

/* ---- watching -------------------------------------------------------------------------------------------------- */

static void sleep_long(void *buffers[], void *args)
{
    (void)buffers, (void)args;
    sleep(60);
}

static void do_nothing(void *buffers[], void *args)
{
    (void)buffers, (void)args;
}

static struct starpu_codelet sleeper = {.cpu_funcs = {sleep_long}, .name = "sleeper"};
static struct starpu_codelet quick_one = {.cpu_funcs = {do_nothing}, .name = "quick"};

enum { NEVER_TAG = 77 };

static int submit(struct starpu_codelet *codelet, const char *name, int layer, bool waits)
{
    struct starpu_task *task = starpu_task_create();

    task->cl = codelet;
    if (waits) {
        starpu_tag_declare_deps((starpu_tag_t)(1000 + layer), 1, (starpu_tag_t)NEVER_TAG);
        task->use_tag = 1;
        task->tag_id = (starpu_tag_t)(1000 + layer);
    }
    task->callback_func = orri_watch_done;
    task->callback_arg = orri_watch_task(task, name, layer, 2);
    return starpu_task_submit(task) == 0 ? ORR_OK : orri_fail(ORR_EDEVICE, name, "cannot be submitted");
}

/* Rank 1 waits for a tile that rank 0, which waits for nothing, does not send. */
static int stalls(void)
{
    ORR_TRY(orr_init(&quick));
    if (orr_rank() == 1 || orr_rank_count() == 1) {
        orri_watch_transfer(true, 0, "x[3]", 4711);
        ORR_TRY(submit(&quick_one, "mlp_F", 3, true));
    }
    ORR_TRY(submit(&quick_one, "mlp_F", 2, false));
    return starpu_task_wait_for_all() == 0 ? orr_ranks_settle(ORR_OK) : ORR_EDEVICE;
}

static int runs_long(void)
{
    ORR_TRY(orr_init(&quick));
    ORR_TRY(submit(&sleeper, "attention_B", 1, false));
    starpu_task_wait_for_all();
    return ORR_OK;
}

/* Longer than the watchdog's time with nothing pending, then with something that ends all the time. */
static int is_busy(void)
{
    ORR_TRY(orr_init(&quick));
    usleep(2300000);
    struct orri_pending *message = orri_watch_transfer(false, 0, "y", 1);
    for (int i = 0; i < 30; i++) {
        ORR_TRY(submit(&quick_one, "mlp_F", i, false));
        usleep(100000);
    }
    orri_watch_done(message);
    starpu_task_wait_for_all();
    usleep(2300000);
    return orr_ranks_settle(ORR_OK);
}

static int ends_by(int number)
{
    ORR_TRY(orr_init(&quick));
    if (orr_rank() == 2)
        raise(number);
    sleep(30);
    return ORR_OK;
}

static int is_killed(void)
{
    return ends_by(SIGKILL);
}

static int freezes(void)
{
    return ends_by(SIGSTOP);
}

static int gives_up(void)
{
    ORR_TRY(orr_init(&quick));
    if (orr_rank() == 1)
        return orri_watch_fail(ORR_EIO, "disk: is full");
    sleep(30);
    return ORR_OK;
}

/* Counts down the tasks that this thread can still create; below 0 all. */
static _Thread_local int tasks_left = -1;

struct starpu_task *starpu_task_create(void)
{
    static struct starpu_task *(*create)(void);

    if (!create)
        create = (struct starpu_task * (*)(void)) dlsym(RTLD_NEXT, "starpu_task_create");
    if (tasks_left == 0)
        return NULL;
    tasks_left -= tasks_left > 0;
    return create();
}

static void read_nothing(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self, (void)first;
    memset(tokens, 0, (size_t)count * (size_t)seq * sizeof(*tokens));
    memset(labels, 0, (size_t)count * (size_t)seq * sizeof(*labels));
}

/* In its third step rank 1 has no memory for a task any more. */
static int cannot_submit(void)
{
    const struct orr_embedding embedding = {.vocab = 8, .positions = 8, .width = 8, .std = 0.02f};
    const struct orr_head head = {.vocab = 8, .width = 8, .eps = 1e-5f};
    const struct orr_source source = {read_nothing, NULL};

    ORR_TRY(orr_init(&(struct orr_runtime_options){.watchdog = 30}));
    struct orr_model *model = orr_model_create(&(struct orr_mesh){.dp = 2, .pp = 1, .tp = 1, .ranks = 2});
    if (!model || orr_embedding(model, &embedding) != 0 || orr_head(model, &head, orr_model_block(model, 0)) != 0)
        return orr_error_code();
    ORR_TRY(orr_model_build(model, NULL, 0));
    ORR_TRY(orr_model_randomize(model, 1));
    struct orr_training *training = orr_training_create(model, &(struct orr_training_options){
        .batch = 2, .micro_batch = 1, .seq = 8, .optimizer = orr_optimizer_default(ORR_ADAMW)});
    if (!training)
        return orr_error_code();
    for (int s = 0; s < 6; s++) {
        if (orr_rank() == 1 && s == 2)
            tasks_left = 3;
        ORR_TRY(orr_training_submit(training, &source));
    }
    return ORR_OK;
}

static const struct {
    const char *name;
    int (*run)(void);
} cases[] = {
    {"alone", fails_alone}, {"alike", fails_alike}, {"elsewhere", fails_elsewhere}, {"disagree", disagrees},
    {"scheduler", one_scheduler}, {"exchange", exchanges}, {"stall", stalls}, {"long", runs_long}, {"busy", is_busy},
    {"killed", is_killed}, {"frozen", freezes}, {"gives-up", gives_up},
    {"cannot-submit", cannot_submit}, {"devices", devices},
};

int main(int argc, char **argv)
{
    int status = ORR_EINVAL;

    setenv("STARPU_SILENT", "1", 0);
    for (size_t i = 0; argc == 2 && i < ORRI_COUNT(cases); i++)
        if (strcmp(argv[1], cases[i].name) == 0)
            status = cases[i].run();
    if (orr_rank() == 0 && status == 0)
        printf("done\n");
    if (orr_rank() == 0 && status != 0)
        fprintf(stderr, "orrery: %s\n", orr_error());
    orr_shutdown();
    return status == 0 ? 0 : status == ORR_ENOFIT ? 3 : status == ORR_EIO || status == ORR_EDEVICE ? 1 : 2;
}
