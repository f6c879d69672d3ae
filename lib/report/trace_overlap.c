/* SPDX-License-Identifier: Apache-2.0 */
/* The time in which messages are under way, and how much of it is hidden behind computing. */
#include "report/trace.h"

#include <math.h>
#include <stdlib.h>

#include "core/core.h"

/* Time of a rank. */
struct stretch {
    int rank;
    struct orri_span span;
};

/* Stretches that are joined come one after another, by rank and time. */
struct stretches {
    struct stretch *at;
    size_t count;
};

static void add(struct stretches *list, int rank, double begin, double end, const struct orri_span *window)
{
    struct orri_span span = {fmax(begin, window[rank].begin), fmin(end, window[rank].end)};

    if (span.end > span.begin)
        list->at[list->count++] = (struct stretch){rank, span};
}

static int by_begin(const void *a, const void *b)
{
    const struct stretch *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->span.begin > y->span.begin) - (x->span.begin < y->span.begin);
}

static void join(struct stretches *list)
{
    size_t joined = 0;

    qsort(list->at, list->count, sizeof(*list->at), by_begin);
    for (size_t i = 0; i < list->count; i++) {
        const struct stretch *next = &list->at[i];
        struct stretch *last = joined > 0 ? &list->at[joined - 1] : NULL;
        if (last && last->rank == next->rank && next->span.begin <= last->span.end)
            last->span.end = fmax(last->span.end, next->span.end);
        else
            list->at[joined++] = *next;
    }
    list->count = joined;
}

static void gather(const struct orr_trace *trace, const struct orri_span *window, struct stretches *messages,
                   struct stretches *tasks)
{
    for (int i = 0; i < trace->messages; i++) {
        const struct orri_message *m = &trace->message[i];
        if (m->from == m->to)
            continue;
        add(messages, m->from, m->sent, m->received, window);
        add(messages, m->to, m->sent, m->received, window);
    }
    for (int i = 0; i < trace->tasks; i++)
        if (trace->task[i].row >= 0)
            add(tasks, trace->task[i].rank, trace->task[i].start, trace->task[i].end, window);
    join(messages);
    join(tasks);
}

static void sweep(const struct stretches *messages, const struct stretches *tasks, struct orr_trace_overlap *overlap)
{
    const struct stretch *task = tasks->at, *end = tasks->at + tasks->count;

    for (size_t i = 0; i < messages->count; i++) {
        const struct stretch *m = &messages->at[i];
        while (task < end && (task->rank < m->rank || (task->rank == m->rank && task->span.end <= m->span.begin)))
            task++;
        overlap[m->rank].under_way += m->span.end - m->span.begin;
        for (const struct stretch *t = task; t < end && t->rank == m->rank && t->span.begin < m->span.end; t++)
            overlap[m->rank].computing += orri_trace_common(t->span.begin, t->span.end, m->span);
    }
}

int orri_trace_overlap(const struct orr_trace *trace, const struct orri_span *window, struct orr_trace_overlap *overlap)
{
    struct stretches messages = {orri_calloc(2 * (size_t)trace->messages + 1, sizeof(*messages.at)), 0};
    struct stretches tasks = {orri_calloc((size_t)trace->tasks + 1, sizeof(*tasks.at)), 0};
    int status = messages.at && tasks.at ? ORR_OK : ORR_ENOMEM;

    if (status == 0) {
        gather(trace, window, &messages, &tasks);
        sweep(&messages, &tasks, overlap);
    }
    free(messages.at);
    free(tasks.at);
    return status;
}
