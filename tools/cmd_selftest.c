/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/process.h"
#include "tools/selftest.h"
#include "tools/tools.h"

static bool quick, json;
static const char *golden, *only;

static struct setting table[] = {
    SETTING("device", "D", "what is tested: cuda, the only one", OPTION_TEXT, &layout_options.device, 0, 0, false),
    SETTING("attention", "BY", "Orrery's kernels: auto (default) or own; or cudnn", OPTION_TEXT, &layout_options.attention, 0, 0,
     true),
    SETTING("quick", NULL, "fewer layouts, and one process: no training runs", OPTION_FLAG, &quick, 0, 0, false),
    SETTING("only", "PART", "one part of it: blocks, golden or training", OPTION_TEXT, &only, 0, 0, false),
    SETTING("golden", "DIR", "the golden checkpoint (default: the one that comes with Orrery)", OPTION_TEXT,
     &golden, 0, 0, false),
    SETTING("json", NULL, "print a JSON object", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {table, NULL};

/* ---- the table ---------------------------------------------------------------------------------------------------- */

static void row(struct selftest *s, const char *name, const char *dtype, const char *where, double error, double bound,
                const char *reason)
{
    bool pass = !reason && error <= bound;

    s->checks++;
    s->failures += !pass;
    if (s->json) {
        json_t *object = json_pack("{s:s,s:s,s:s,s:o,s:f,s:b}", "name", name, "dtype", dtype, "where", where, "error",
                                   isfinite(error) ? json_real(error) : json_null(), "bound", bound, "pass", pass);
        if (object && reason)
            json_object_set_new(object, "reason", json_string(reason));
        json_array_append_new(s->rows, object);
        return;
    }
    if (reason)
        printf("%-20s %-5s %-62s %s  FAIL\n", name, dtype, where, reason);
    else
        printf("%-20s %-5s %-62s %8.1e %8.1e  %s\n", name, dtype, where, error, bound, pass ? "pass" : "FAIL");
    fflush(stdout);
}

void selftest_report(struct selftest *s, const char *name, const char *dtype, const char *where, double error, double bound)
{
    row(s, name, dtype, where, error, bound, NULL);
}

void selftest_fail(struct selftest *s, const char *name, const char *dtype, const char *where, const char *reason)
{
    row(s, name, dtype, where, INFINITY, 0, reason);
}

double selftest_distance(int64_t count, const float *found, const float *wanted)
{
    double most = 0, difference = 0;

    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)found[i] - wanted[i]);
        if (!isfinite(d))
            return INFINITY;
        most = fmax(most, fabs(wanted[i]));
        difference = fmax(difference, d);
    }
    return difference == 0 ? 0 : difference / most;
}

/* ---- where the golden checkpoint is -------------------------------------------------------------------------------------- */

static int find_golden(char *folder, size_t size)
{
    static const char file[] = "/golden.safetensors";

    if (golden)
        snprintf(folder, size, "%s%s", golden, file);
    else
        ORR_TRY(process_data(folder, size, "tests/golden/gpt2-small/golden.safetensors", "golden/gpt2-small/golden.safetensors"));
    bool found = access(folder, R_OK) == 0;
    folder[strlen(folder) - strlen(file)] = '\0';
    return found ? ORR_OK
                 : command_remedy(command_fail(ORR_ENOENT, "%s: there is no golden.safetensors", folder),
                                  "name the folder tests/golden/gpt2-small of the source tree by --golden");
}

/* ---- the command ---------------------------------------------------------------------------------------------------- */

/* In the order of what they stand on; the last stops the runtime. */
static const struct {
    const char *name;
    int (*run)(struct selftest *s);
    bool slow;
} parts[] = {
#ifdef ORR_HAVE_CUDA
    {"blocks", selftest_blocks, false},
#endif
    {"golden", selftest_golden, false},
    {"training", selftest_training, true},
};
enum { PARTS = sizeof(parts) / sizeof(parts[0]) };

static int check_all(struct selftest *s)
{
    static char folder[4100];
    const char *names[PARTS + 1] = {0};
    int part = -1;

    for (int p = 0; p < PARTS; p++)
        names[p] = parts[p].name;
    if (only)
        ORR_TRY(choose("only", only, names, &part));
    if (!only || strcmp(only, "golden") == 0)
        ORR_TRY(find_golden(folder, sizeof(folder)));
    s->golden = folder;
    for (int p = 0; p < PARTS; p++)
        if (part < 0 ? !(s->quick && parts[p].slow) : p == part)
            ORR_TRY(parts[p].run(s));
    return ORR_OK;
}

static int finish(struct selftest *s)
{
    if (s->json)
        ORR_TRY(print_json(json_pack("{s:i,s:i,s:O}", "checks", s->checks, "failures", s->failures, "rows", s->rows)));
    else
        printf("%d checks, %d failures\n", s->checks, s->failures);
    return s->failures ? command_fail(ORR_EDEVICE, "selftest: %d of %d checks failed", s->failures, s->checks) : ORR_OK;
}

int cmd_selftest(int argc, char **argv)
{
    int status = options_parse("selftest", "Compares what a CUDA device computes with what the CPU does.", tables, argc, argv);
    struct orr_runtime_options runtime = {.watchdog = -1};
    struct selftest s = {0};

    if (status != 0)
        return status;
    if (strcmp(layout_options.device, "cuda") != 0 && strcmp(layout_options.device, "auto") != 0)
        return command_remedy(command_fail(ORR_EINVAL, "--device: '%s' is nothing to test", layout_options.device), "use cuda");
    if (orr_rank_count() > 1)
        return command_remedy(command_fail(ORR_EINVAL, "selftest: there are %d ranks", orr_rank_count()),
                              "run it without a launcher");
    layout_options.device = "cuda";
    ORR_TRY(read_device(&runtime));
    /* It starts even where only the CPU's share of it is used: models stand on it. */
    status = orr_init(&runtime);
    if (status == ORR_EINVAL)
        return status;
    if (status != 0) {
        printf("skipped: %s\n", orr_error());
        return SELFTEST_SKIPPED;
    }
    s.quick = quick;
    s.json = json;
    s.rows = json_array();
    status = s.rows ? check_all(&s) : command_fail(ORR_ENOMEM, "selftest: no room for its table");
    if (status == 0)
        status = finish(&s);
    json_decref(s.rows);
    return status;
}
