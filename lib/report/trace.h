/* SPDX-License-Identifier: Apache-2.0 */
/* A trace in memory: what trace_read.c reads, and the table and the timeline are made from. */
#ifndef ORRI_TRACE_H
#define ORRI_TRACE_H

#include <stdbool.h>
#include <stddef.h>

#include <orrery/trace.h>

#include "io/io.h"

/* Text inside a mapped file. */
struct orri_text {
    const char *at;
    size_t size;
};

/* A record of tasks.rec. Those of StarPU itself have no row and no times, but others depend on them. */
struct orri_task {
    int rank;
    int row;                        /* -1: it ran on no worker                      */
    int worker;
    int64_t job;                    /* number of the task on its rank               */
    int64_t step;                   /* from 1, in the order of submission           */
    enum orr_trace_kind kind;
    double submitted, start, end;   /* start and end are 0 without a row            */
    struct orri_text name, depends;
};

struct orri_message {
    int from, to;
    double sent, received;
    int64_t bytes;
    int64_t job;                    /* of the receive on rank `to`; -1: not told    */
};

/* Asleep from begin to end. */
struct orri_pause {
    int row;
    double begin, end;
};

/* A worker. */
struct orri_row {
    int rank, worker;
    int first_task, tasks;          /* in orr_trace.by_row                          */
    int first_pause, pauses;
};

struct orr_trace {
    struct orri_map tasks_file, comms_file, paje_file;
    int tasks, messages, pauses, rows, ranks;
    struct orri_task *task;         /* by rank and job                              */
    int *by_row;                    /* those with a row, by row and start           */
    struct orri_message *message;   /* by receiver and job of the receive           */
    struct orri_pause *pause;       /* by row and begin                             */
    struct orri_row *row;           /* by rank and worker                           */
    double **step_end;              /* [ranks][steps + 1]: ends of its reports; [0]: when its first step began */
    int64_t steps;
    int64_t unfinished;
    bool described;                 /* run.json is there                            */
    struct orr_trace_run run;
};

/* When steps from .. to ran on a rank. The arguments are those of orr_trace_table(), checked. */
struct orri_span {
    double begin, end;
};
struct orri_span orri_trace_span(const struct orr_trace *trace, int rank, int64_t from, int64_t to);

/* How much of the time from begin to end lies in the span. */
double orri_trace_common(double begin, double end, struct orri_span span);

/* Fills overlap[ranks] of the time in window[ranks], in O(n log n) for n messages and tasks. ORR_ENOMEM. */
int orri_trace_overlap(const struct orr_trace *trace, const struct orri_span *window,
                       struct orr_trace_overlap *overlap);

/* ORR_EINVAL unless there are such steps. */
int orri_trace_check_steps(const struct orr_trace *trace, int64_t from, int64_t to);

/* The pipeline coordinates first .. last that a rank holds; stage s is at coordinate s mod pp. Without run.json each
 * rank is a stage. */
struct orri_place {
    int first, last;
};
struct orri_place orri_trace_place(const struct orr_trace *trace, int rank);

#endif
