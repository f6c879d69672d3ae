/* SPDX-License-Identifier: Apache-2.0 */
/* Where the workers' time went: a trace summed up by stage. */
#include "report/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* What is being summed up. */
struct sums {
    const struct orr_trace *trace;
    struct orr_trace_table *table;
    int64_t from, to;
    int *stage_of;                  /* [ranks]: the entry of the table that a rank belongs to   */
    struct orri_span *span;         /* [ranks]                                                  */
    struct bubble *bubble;          /* [stages]                                                 */
    struct orr_trace_overlap *overlap;      /* [ranks]                                          */
};

struct bubble {
    double asleep, time;
};

/* ---- stages ------------------------------------------------------------------------------------------------------ */

static bool same_stages(const struct orr_trace *trace, int a, int b)
{
    struct orri_place x = orri_trace_place(trace, a), y = orri_trace_place(trace, b);

    return x.first == y.first && x.last == y.last;
}

/* "0", "0 2", and where there are too many "0 2 ...". */
static void name_stage(const struct orr_trace *trace, int rank, char *name, size_t size)
{
    struct orri_place place = orri_trace_place(trace, rank);
    size_t used = 0;

    if (!trace->described) {
        snprintf(name, size, "rank %d", rank);
        return;
    }
    for (int s = 0; s < trace->run.stages; s++) {
        int p = s % trace->run.mesh.pp;
        if (p < place.first || p > place.last)
            continue;
        if (used + 16 > size) {
            snprintf(name + used, size - used, " ...");
            return;
        }
        used += (size_t)snprintf(name + used, size - used, used ? " %d" : "%d", s);
    }
}

static int count_workers(const struct orr_trace *trace, int rank)
{
    int workers = 0;

    for (int i = 0; i < trace->rows; i++)
        workers += trace->row[i].rank == rank;
    return workers;
}

static int make_stages(struct sums *s)
{
    struct orr_trace_table *table = s->table;

    table->stage = orri_calloc((size_t)s->trace->ranks, sizeof(*table->stage));
    if (!table->stage)
        return ORR_ENOMEM;
    for (int rank = 0; rank < s->trace->ranks; rank++) {
        int first = 0;
        while (first < rank && !same_stages(s->trace, first, rank))
            first++;
        s->stage_of[rank] = first < rank ? s->stage_of[first] : table->stages++;
        struct orr_trace_stage *stage = &table->stage[s->stage_of[rank]];
        if (stage->ranks++ == 0)
            name_stage(s->trace, rank, stage->name, sizeof(stage->name));
        stage->workers += count_workers(s->trace, rank);
    }
    for (int i = 0; i < table->stages; i++) {
        table->stage[i].bubble = table->stage[i].model = NAN;
        table->stage[i].waiting = orri_calloc((size_t)table->stages, sizeof(double));
        if (!table->stage[i].waiting)
            return ORR_ENOMEM;
    }
    return ORR_OK;
}

/* ---- what a worker waited for ------------------------------------------------------------------------------------ */

static const struct orri_message *find_receive(const struct orr_trace *trace, int rank, int64_t job)
{
    int low = 0, high = trace->messages;

    while (low < high) {
        int middle = low + (high - low) / 2;
        const struct orri_message *m = &trace->message[middle];
        if (m->to < rank || (m->to == rank && m->job < job))
            low = middle + 1;
        else
            high = middle;
    }
    const struct orri_message *m = &trace->message[low];
    return low < trace->messages && m->to == rank && m->job == job ? m : NULL;
}

static const struct orri_task *find_task(const struct orr_trace *trace, int rank, int64_t job)
{
    int low = 0, high = trace->tasks;

    while (low < high) {
        int middle = low + (high - low) / 2;
        const struct orri_task *t = &trace->task[middle];
        if (t->rank < rank || (t->rank == rank && t->job < job))
            low = middle + 1;
        else
            high = middle;
    }
    const struct orri_task *t = &trace->task[low];
    return low < trace->tasks && t->rank == rank && t->job == job ? t : NULL;
}

/* The number behind the '_', if there is one, of the next word of a list of dependencies; -1 at its end. */
static int64_t next_dependency(struct orri_text *list)
{
    int64_t job = -1;
    size_t i = 0;

    while (i < list->size && list->at[i] == ' ')
        i++;
    for (; i < list->size && list->at[i] != ' '; i++) {
        char c = list->at[i];
        if (c == '_' || job < 0 || job > INT64_MAX / 10 - 1)
            job = 0;
        if (c >= '0' && c <= '9')
            job = 10 * job + c - '0';
    }
    *list = (struct orri_text){list->at + i, list->size - i};
    return job;
}

/* When the last of a task's dependencies ended, and whether that was a message. StarPU's own tasks, which take no time,
 * stand between a task and what it waits for; `budget` bounds how many of them are looked at. */
struct cause {
    double time;
    const struct orri_message *message;
};

static void last_cause(const struct orr_trace *trace, const struct orri_task *task, int *budget, struct cause *last)
{
    struct orri_text list = task->depends;

    for (int64_t job = next_dependency(&list); job >= 0 && *budget > 0; job = next_dependency(&list)) {
        const struct orri_message *message = find_receive(trace, task->rank, job);
        const struct orri_task *before = message ? NULL : find_task(trace, task->rank, job);
        (*budget)--;
        if (message && message->received > last->time)
            *last = (struct cause){message->received, message};
        else if (before && before->row >= 0 && before->end > last->time)
            *last = (struct cause){before->end, NULL};
        else if (before && before->row < 0 && before->job < task->job)
            last_cause(trace, before, budget, last);
    }
}

/* The rank whose message the worker slept for: the task that ended its pause became ready by it during the pause.
 * -1: none. */
static int waited_for(const struct orr_trace *trace, const struct orri_pause *pause, const struct orri_task *next)
{
    struct cause last = {next ? next->submitted : 0, NULL};
    int budget = 256;

    if (!next)
        return -1;
    last_cause(trace, next, &budget, &last);
    return last.message && last.time > pause->begin ? last.message->from : -1;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static void sum_row(struct sums *s, const struct orri_row *row)
{
    const struct orr_trace *trace = s->trace;
    struct orr_trace_stage *stage = &s->table->stage[s->stage_of[row->rank]];
    struct orri_span span = s->span[row->rank];
    double total = span.end - span.begin, known = 0;
    int next = 0;

    for (int i = 0; i < row->tasks; i++) {
        const struct orri_task *task = &trace->task[trace->by_row[row->first_task + i]];
        double time = orri_trace_common(task->start, task->end, span);
        stage->kind[task->kind] += time;
        known += time;
    }
    for (int i = 0; i < row->pauses; i++) {
        const struct orri_pause *pause = &trace->pause[row->first_pause + i];
        double time = orri_trace_common(pause->begin, pause->end, span);
        if (time == 0)
            continue;
        while (next < row->tasks && trace->task[trace->by_row[row->first_task + next]].start < pause->end)
            next++;
        bool any = next < row->tasks;
        int source = waited_for(trace, pause, any ? &trace->task[trace->by_row[row->first_task + next]] : NULL);
        *(source >= 0 ? &stage->waiting[s->stage_of[source]] : &stage->idle) += time;
        known += time;
    }
    stage->total += total;
    stage->runtime += fmax(0, total - known);
}

static int by_pair(const void *a, const void *b)
{
    const struct orr_trace_traffic *x = a, *y = b;

    return x->from != y->from ? (x->from > y->from) - (x->from < y->from) : (x->to > y->to) - (x->to < y->to);
}

static int sum_traffic(struct sums *s)
{
    struct orr_trace_table *table = s->table;
    int count = 0;

    table->traffic = orri_calloc((size_t)s->trace->messages + 1, sizeof(*table->traffic));
    if (!table->traffic)
        return ORR_ENOMEM;
    for (int i = 0; i < s->trace->messages; i++) {
        const struct orri_message *m = &s->trace->message[i];
        if (m->from == m->to || m->sent < s->span[m->from].begin || m->sent > s->span[m->from].end)
            continue;
        table->traffic[count++] = (struct orr_trace_traffic){m->from, m->to, 1, m->bytes};
        table->early += m->received < m->sent;
        table->early_ms = fmax(table->early_ms, m->sent - m->received);
    }
    qsort(table->traffic, (size_t)count, sizeof(*table->traffic), by_pair);
    for (int i = 0; i < count; i++) {
        struct orr_trace_traffic *last = table->pairs > 0 ? &table->traffic[table->pairs - 1] : NULL;
        if (last && by_pair(last, &table->traffic[i]) == 0) {
            last->messages++;
            if (__builtin_add_overflow(last->bytes, table->traffic[i].bytes, &last->bytes))
                last->bytes = INT64_MAX;
        } else {
            table->traffic[table->pairs++] = table->traffic[i];
        }
    }
    return ORR_OK;
}

static void add_overlap(struct orr_trace_overlap *sum, const struct orr_trace_overlap *overlap)
{
    sum->under_way += overlap->under_way;
    sum->computing += overlap->computing;
}

static int sum_overlap(struct sums *s)
{
    ORR_TRY(orri_trace_overlap(s->trace, s->span, s->overlap));
    for (int rank = 0; rank < s->trace->ranks; rank++) {
        add_overlap(&s->table->stage[s->stage_of[rank]].overlap, &s->overlap[rank]);
        add_overlap(&s->table->overlap, &s->overlap[rank]);
    }
    return ORR_OK;
}

/* ---- the bubble -------------------------------------------------------------------------------------------------- */

/* From a step's first forward to its last backward task on a rank. begin > end: there are none. */
static void find_passes(const struct sums *s, struct orri_span *passes, int64_t steps)
{
    for (int64_t i = 0; i < s->trace->ranks * steps; i++)
        passes[i] = (struct orri_span){INFINITY, -INFINITY};
    for (int i = 0; i < s->trace->tasks; i++) {
        const struct orri_task *task = &s->trace->task[i];
        if (task->row < 0 || task->kind > ORR_TRACE_WHOLE || task->step < s->from || task->step >= s->from + steps)
            continue;
        struct orri_span *p = &passes[task->rank * steps + task->step - s->from];
        p->begin = fmin(p->begin, task->start);
        p->end = fmax(p->end, task->end);
    }
}

static void measure_row(struct sums *s, const struct orri_row *row, const struct orri_span *passes, int64_t steps)
{
    struct bubble *bubble = &s->bubble[s->stage_of[row->rank]];
    const struct orri_pause *pause = &s->trace->pause[row->first_pause];
    int first = 0;

    for (int64_t step = 0; step < steps; step++) {
        struct orri_span span = passes[row->rank * steps + step];
        if (span.end <= span.begin)
            continue;
        bubble->time += span.end - span.begin;
        while (first < row->pauses && pause[first].end <= span.begin)
            first++;
        for (int i = first; i < row->pauses && pause[i].begin < span.end; i++)
            bubble->asleep += orri_trace_common(pause[i].begin, pause[i].end, span);
    }
}

static int measure_bubble(struct sums *s)
{
    int64_t steps = s->to - s->from + 1;
    struct orri_span *passes = orri_calloc((size_t)s->trace->ranks * (size_t)steps, sizeof(*passes));

    if (!passes)
        return ORR_ENOMEM;
    find_passes(s, passes, steps);
    for (int i = 0; i < s->trace->rows; i++)
        measure_row(s, &s->trace->row[i], passes, steps);
    free(passes);
    for (int i = 0; i < s->table->stages; i++)
        if (s->bubble[i].time > 0)
            s->table->stage[i].bubble = s->bubble[i].asleep / s->bubble[i].time;
    return ORR_OK;
}

/* The model knows one rank for each coordinate of the mesh. */
static bool model_applies(const struct sums *s)
{
    const struct orr_trace_run *run = &s->trace->run;

    return s->trace->described && orr_mesh_size(&run->mesh) == run->mesh.ranks && run->microbatches % run->mesh.dp == 0 &&
           s->table->stages == run->mesh.pp;
}

static void add_time(struct orr_stage_times *t, enum orr_trace_kind kind, double time)
{
    switch (kind) {
    case ORR_TRACE_FORWARD: t->forward += time; break;
    case ORR_TRACE_WEIGHTS: t->weights += time; break;
    case ORR_TRACE_BACKWARD:
    case ORR_TRACE_BOTH:
    case ORR_TRACE_WHOLE: t->backward += time; break;
    default: break;
    }
}

/* Stages of one coordinate, which a trace does not tell apart, share its time evenly. */
static void model_times(const struct sums *s, struct orr_stage_times *times)
{
    const struct orr_trace_run *run = &s->trace->run;
    double microbatches = (double)(s->to - s->from + 1) * (run->microbatches / run->mesh.dp);
    int pp = run->mesh.pp;

    for (int i = 0; i < s->trace->tasks; i++) {
        const struct orri_task *task = &s->trace->task[i];
        if (task->row < 0 || task->step < s->from || task->step > s->to)
            continue;
        int at = s->stage_of[task->rank];
        double time = (task->end - task->start) / (microbatches * s->table->stage[at].ranks * (run->stages / pp));
        for (int stage = at; stage < run->stages; stage += pp)
            add_time(&times[stage], task->kind, time);
    }
}

static int model_bubble(struct sums *s)
{
    const struct orr_trace_run *run = &s->trace->run;
    size_t entries = (size_t)s->table->stages;
    struct orr_stage_times *times = orri_calloc((size_t)run->stages, sizeof(*times));
    double *idle = orri_calloc(entries, sizeof(*idle)), *span = orri_calloc(entries, sizeof(*span));
    double makespan;
    struct orr_pipeline pipeline = {.stages = run->stages, .microbatches = run->microbatches / run->mesh.dp,
                                    .workers = s->table->stage[0].workers / s->table->stage[0].ranks, .times = times,
                                    .coordinates = run->mesh.pp};
    int status = times && idle && span ? ORR_OK : ORR_ENOMEM;

    if (status == 0 && run->slots[0])
        status = orr_slot_policy_parse(run->slots, &pipeline.slots);
    if (status == 0) {
        model_times(s, times);
        status = orr_pipeline_model(&pipeline, &makespan, idle, span);
    }
    for (size_t i = 0; status == 0 && i < entries; i++)
        if (span[i] > 0)
            s->table->stage[i].model = idle[i] / span[i];
    free(times);
    free(idle);
    free(span);
    return status;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static int sum_up(struct sums *s)
{
    ORR_TRY(make_stages(s));
    for (int rank = 0; rank < s->trace->ranks; rank++)
        s->span[rank] = orri_trace_span(s->trace, rank, s->table->from, s->table->to);
    for (int i = 0; i < s->trace->rows; i++)
        sum_row(s, &s->trace->row[i]);
    ORR_TRY(sum_traffic(s));
    ORR_TRY(sum_overlap(s));
    if (s->to < s->from)
        return ORR_OK;
    ORR_TRY(measure_bubble(s));
    return model_applies(s) ? model_bubble(s) : ORR_OK;
}

int orr_trace_table(const struct orr_trace *trace, int64_t from, int64_t to, struct orr_trace_table *table)
{
    size_t ranks = (size_t)trace->ranks;

    *table = (struct orr_trace_table){.from = from, .to = to, .steps = trace->steps, .ranks = trace->ranks,
                                      .workers = trace->rows, .unfinished = trace->unfinished};
    ORR_TRY(orri_trace_check_steps(trace, from, to));
    struct sums s = {.trace = trace, .table = table, .from = from > 0 ? from : 1, .to = to > 0 ? to : trace->steps};
    s.stage_of = orri_calloc(ranks, sizeof(*s.stage_of));
    s.span = orri_calloc(ranks, sizeof(*s.span));
    s.bubble = orri_calloc(ranks, sizeof(*s.bubble));
    s.overlap = orri_calloc(ranks, sizeof(*s.overlap));
    int status = s.stage_of && s.span && s.bubble && s.overlap ? sum_up(&s) : ORR_ENOMEM;
    free(s.stage_of);
    free(s.span);
    free(s.bubble);
    free(s.overlap);
    if (status != 0)
        orr_trace_table_free(table);
    return status;
}

void orr_trace_table_free(struct orr_trace_table *table)
{
    for (int i = 0; table->stage && i < table->stages; i++)
        free(table->stage[i].waiting);
    free(table->stage);
    free(table->traffic);
    *table = (struct orr_trace_table){0};
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

/* Columns of the table: kinds that never occur are left out, but for the first three. */
static bool shown(const struct orr_trace_table *t, int kind)
{
    bool occurs = kind <= ORR_TRACE_WEIGHTS || kind == ORR_TRACE_UPDATE || kind == ORR_TRACE_REDUCE;

    for (int i = 0; i < t->stages; i++)
        occurs = occurs || t->stage[i].kind[kind] > 0;
    return occurs;
}

static double all_waiting(const struct orr_trace_table *t, const struct orr_trace_stage *stage)
{
    double sum = 0;

    for (int i = 0; i < t->stages; i++)
        sum += stage->waiting[i];
    return sum;
}

static void print_times(const struct orr_trace_table *t, const struct orr_trace_stage *stage, double scale, FILE *out)
{
    for (int kind = 0; kind < ORR_TRACE_KINDS; kind++)
        if (shown(t, kind))
            fprintf(out, " %9.1f", scale * stage->kind[kind]);
    fprintf(out, " %9.1f %9.1f %9.1f", scale * stage->runtime, scale * all_waiting(t, stage), scale * stage->idle);
}

static void print_share(double share, FILE *out)
{
    if (isnan(share))
        fprintf(out, " %9s", "-");
    else
        fprintf(out, " %8.1f%%", 100 * share);
}

static void print_title(const struct orr_trace_table *t, FILE *out)
{
    if (t->from == 0 && t->to < 0)
        fprintf(out, "the whole trace, of %lld steps", (long long)t->steps);
    else if (t->from == 0)
        fprintf(out, "the trace up to step %lld of %lld", (long long)t->to, (long long)t->steps);
    else
        fprintf(out, "steps %lld to %lld of %lld", (long long)t->from, (long long)(t->to < 0 ? t->steps : t->to),
                (long long)t->steps);
    fprintf(out, ", %d rank%s, %d worker%s\n", t->ranks, t->ranks == 1 ? "" : "s", t->workers,
            t->workers == 1 ? "" : "s");
    if (t->unfinished)
        fprintf(out, "the trace is cut short: %lld tasks do not end\n", (long long)t->unfinished);
}

static void print_stages(const struct orr_trace_table *t, FILE *out)
{
    fprintf(out, "\ntime of the workers in ms, by stage\n%-12s %9s", "stage", "all");
    for (int kind = 0; kind < ORR_TRACE_KINDS; kind++)
        if (shown(t, kind))
            fprintf(out, " %9s", orr_trace_kind_name((enum orr_trace_kind)kind));
    fprintf(out, " %9s %9s %9s\n", "runtime", "waiting", "idle");
    for (int i = 0; i < t->stages; i++) {
        const struct orr_trace_stage *stage = &t->stage[i];
        fprintf(out, "%-12s %9.1f", stage->name, stage->total);
        print_times(t, stage, 1, out);
        fprintf(out, "\n%-12s %9s", "", "%");
        print_times(t, stage, stage->total > 0 ? 100 / stage->total : 0, out);
        fprintf(out, "\n");
    }
}

static void print_waiting(const struct orr_trace_table *t, FILE *out)
{
    bool first = true;

    for (int i = 0; i < t->stages; i++) {
        for (int j = 0; j < t->stages; j++) {
            if (t->stage[i].waiting[j] == 0)
                continue;
            fprintf(out, "%s  %s from %s: %.1f ms\n", first ? "\nwaiting for data, by stage\n" : "", t->stage[i].name,
                    t->stage[j].name, t->stage[i].waiting[j]);
            first = false;
        }
    }
}

static void print_bubble(const struct orr_trace_table *t, FILE *out)
{
    fprintf(out, "\nbubble: asleep from the first forward to the last backward task of a step\n%-12s %9s %9s\n",
            "stage", "measured", "model");
    for (int i = 0; i < t->stages; i++) {
        fprintf(out, "%-12s", t->stage[i].name);
        print_share(t->stage[i].bubble, out);
        print_share(t->stage[i].model, out);
        fprintf(out, "\n");
    }
}

static void print_traffic(const struct orr_trace_table *t, FILE *out)
{
    fprintf(out, "\nsent between ranks\n");
    for (int i = 0; i < t->pairs; i++)
        fprintf(out, "  %d to %d: %lld bytes in %lld messages\n", t->traffic[i].from, t->traffic[i].to,
                (long long)t->traffic[i].bytes, (long long)t->traffic[i].messages);
    if (t->pairs == 0)
        fprintf(out, "  nothing\n");
    if (t->early)
        fprintf(out, "  %lld of them come before they were sent, by up to %.3f ms: so far are the clocks apart\n",
                (long long)t->early, t->early_ms);
}

static void print_overlap_row(const char *name, const struct orr_trace_overlap *overlap, FILE *out)
{
    fprintf(out, "%-12s %9.1f", name, overlap->under_way);
    print_share(overlap->under_way > 0 ? overlap->computing / overlap->under_way : NAN, out);
    fprintf(out, "\n");
}

static void print_overlap(const struct orr_trace_table *t, FILE *out)
{
    if (t->overlap.under_way == 0)
        return;
    fprintf(out, "\noverlap: time of the ranks in ms with a message under way, and the part of it with a task running\n"
            "%-12s %9s %9s\n", "stage", "under way", "computing");
    for (int i = 0; i < t->stages; i++)
        print_overlap_row(t->stage[i].name, &t->stage[i].overlap, out);
    if (t->stages > 1)
        print_overlap_row("all", &t->overlap, out);
}

int orr_trace_print(const struct orr_trace_table *t, FILE *out)
{
    print_title(t, out);
    print_stages(t, out);
    print_waiting(t, out);
    print_bubble(t, out);
    print_traffic(t, out);
    print_overlap(t, out);
    return ferror(out) ? orri_fail(ORR_EIO, "trace", "the table cannot be written") : ORR_OK;
}
