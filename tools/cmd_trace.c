/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/tools.h"

static const char *directory, *svg;
static int64_t from = -1, to = -1;
static bool json;

static struct setting table[] = {
    SETTING("DIR", NULL, NULL, OPTION_ARGUMENT, &directory, 0, 0, false),
    SETTING("svg", "FILE", "the timeline (DIR/timeline.svg)", OPTION_TEXT, &svg, 0, 0, false),
    SETTING("from", "S", "first step, from 1 (2, as the first warms up; 0 = the beginning of the trace)", OPTION_INT,
     &from, 0, 1e12, false),
    SETTING("to", "S", "last step (the last of the trace; with --from 0 the end of the trace)", OPTION_INT, &to, 1,
            1e12, false),
    SETTING("json", NULL, "print a JSON object", OPTION_FLAG, &json, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {table, NULL};

static json_t *share(double value)
{
    return isnan(value) ? json_null() : json_real(value);
}

static json_t *describe_overlap(const struct orr_trace_overlap *overlap)
{
    return json_pack("{s:f,s:f,s:o}", "under_way_ms", overlap->under_way, "computing_ms", overlap->computing, "share",
                     share(overlap->under_way > 0 ? overlap->computing / overlap->under_way : NAN));
}

static json_t *describe_stage(const struct orr_trace_table *t, const struct orr_trace_stage *stage)
{
    json_t *times = json_object(), *waiting = json_object();

    for (int kind = 0; kind < ORR_TRACE_KINDS; kind++)
        json_object_set_new(times, orr_trace_kind_name((enum orr_trace_kind)kind), json_real(stage->kind[kind]));
    for (int i = 0; i < t->stages; i++)
        if (stage->waiting[i] > 0)
            json_object_set_new(waiting, t->stage[i].name, json_real(stage->waiting[i]));
    return json_pack("{s:s,s:i,s:i,s:f,s:o,s:f,s:o,s:f,s:o,s:o,s:o}", "stage", stage->name, "ranks", stage->ranks,
                     "workers", stage->workers, "total_ms", stage->total, "tasks_ms", times, "runtime_ms",
                     stage->runtime, "waiting_ms", waiting, "idle_ms", stage->idle, "bubble", share(stage->bubble),
                     "bubble_model", share(stage->model), "overlap", describe_overlap(&stage->overlap));
}

static int print_object(const struct orr_trace_table *t)
{
    json_t *stages = json_array(), *sent = json_array();

    for (int i = 0; i < t->stages; i++)
        json_array_append_new(stages, describe_stage(t, &t->stage[i]));
    for (int i = 0; i < t->pairs; i++) {
        const struct orr_trace_traffic *p = &t->traffic[i];
        json_array_append_new(sent, json_pack("{s:i,s:i,s:I,s:I}", "from", p->from, "to", p->to, "messages",
                                              (json_int_t)p->messages, "bytes", (json_int_t)p->bytes));
    }
    int64_t last = t->to < 0 ? t->steps : t->to;
    json_t *picture = json_string(svg);     /* NULL for what is not UTF-8 */
    return print_json(json_pack(
        "{s:I,s:I,s:I,s:i,s:i,s:I,s:I,s:f,s:o,s:o,s:o,s:o}", "from", (json_int_t)t->from, "to", (json_int_t)last,
        "steps", (json_int_t)t->steps, "ranks", t->ranks, "workers", t->workers, "unfinished",
        (json_int_t)t->unfinished, "early", (json_int_t)t->early, "early_ms", t->early_ms, "stages", stages, "sent",
        sent, "overlap", describe_overlap(&t->overlap), "svg", picture ? picture : json_null()));
}

/* A step is steady once the one before has warmed caches and memory up. */
static void choose_steps(int64_t steps)
{
    if (from < 0)
        from = steps < 2 ? steps : to == 1 ? 1 : 2;
    if (to < 0 && from > 0)
        to = steps;
}

static int show(const struct orr_trace *trace)
{
    struct orr_trace_table t;

    choose_steps(orr_trace_steps(trace));
    ORR_TRY(orr_trace_table(trace, from, to, &t));
    int status = orr_trace_draw(trace, from, to, svg);
    if (status == 0)
        status = json ? print_object(&t) : orr_trace_print(&t, stdout);
    if (status == 0 && !json)
        printf("\ntimeline: %s\nfor ViTE: %s/paje.trace\n", svg, directory);
    orr_trace_table_free(&t);
    return status;
}

int cmd_trace(int argc, char **argv)
{
    char *timeline = NULL;
    int status = options_parse("trace", "Turns the trace of a run (--trace DIR) into a timeline and a table.", tables,
                               argc, argv);

    if (status == 0 && !directory)
        status = command_remedy(command_fail(ORR_EINVAL, "trace: the folder is missing"),
                                "name the one that was given to --trace, as in orrery trace DIR");
    if (status == 0 && !svg) {
        if (asprintf(&timeline, "%s/timeline.svg", directory) < 0)
            return command_fail(ORR_ENOMEM, "memory: no room for a path");
        svg = timeline;
    }
    if (status == 0)
        status = orr_trace_convert(directory);
    struct orr_trace *trace = status == 0 ? orr_trace_open(directory) : NULL;
    if (status == 0)
        status = trace ? show(trace) : orr_error_code();
    orr_trace_destroy(trace);
    free(timeline);
    return status;
}
