/* SPDX-License-Identifier: Apache-2.0 */
/* Traces of runs: where they are recorded, their translation by StarPU's tool, and what they say: a timeline and a
 * table.
 *
 * A run with orr_runtime_options.trace leaves prof_file__RANK of every rank in a folder, and run.json, which says what
 * ran. orr_trace_convert() makes of them, in the same folder, paje.trace (for ViTE), tasks.rec and comms.rec, which
 * orr_trace_open() reads. Times are in milliseconds since the trace began; a stage is a pipeline stage. */
#ifndef ORRERY_TRACE_H
#define ORRERY_TRACE_H

#include <stdio.h>

#include <orrery/mesh.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- recording ------------------------------------------------------------------------------------------------ */

/* What a run was. */
struct orr_trace_run {
    char model[64];
    struct orr_mesh mesh;
    int stages;                     /* a multiple of mesh.pp: stage s is at pipeline coordinate s mod pp             */
    char slots[16];                 /* as orr_slot_policy_parse() reads it; "" = the default                         */
    int microbatches;               /* of a step, all replicas together                                              */
    int workers;                    /* of a rank                                                                     */
    int64_t steps;
};

/* Makes the folder where it is missing, checks that this process can write into it, and, on rank 0, removes the trace
 * of an earlier run (prof_file*, run.json) and no other file. Before orr_init(), on all ranks. ORR_EINVAL where the
 * folder cannot be written or its path is longer than StarPU takes. */
int orr_trace_prepare(const char *directory);

/* Writes run.json. One rank calls it. ORR_EIO. */
int orr_trace_describe(const char *directory, const struct orr_trace_run *run);

/* ---- translating ------------------------------------------------------------------------------------------------ */

/* Runs starpu_fxt_tool over the folder's prof_file*; what it prints goes to starpu_fxt_tool.log there. ORR_ENOENT where
 * there is no such folder, no trace in it or no such tool; ORR_EFORMAT where the tool cannot read a trace, or the
 * files of some ranks are missing; ORR_EIO where the folder cannot be written. */
int orr_trace_convert(const char *directory);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* What a task does. A codelet is called after block and pass: the kind is what follows the last underscore. */
enum orr_trace_kind {
    ORR_TRACE_FORWARD,      /* "_F", and "_P" of a prediction                       */
    ORR_TRACE_BACKWARD,     /* "_B"                                                 */
    ORR_TRACE_WEIGHTS,      /* "_W"                                                 */
    ORR_TRACE_BOTH,         /* "_BW", backward and weights in one task              */
    ORR_TRACE_WHOLE,        /* "_FBW", all three in one, of the loss block          */
    ORR_TRACE_UPDATE,       /* "update"                                             */
    ORR_TRACE_REDUCE,       /* "reduce"                                             */
    ORR_TRACE_OTHER,        /* input, squares, control, report, ...                 */
    ORR_TRACE_KINDS
};

/* "F", "B", "W", "BW", "FBW", "update", "reduce", "other". Any thread. */
const char *orr_trace_kind_name(enum orr_trace_kind kind);

/* The kind of the task called name[length], with or without the "orrery_" of performance models. Any thread. */
enum orr_trace_kind orr_trace_classify(const char *name, size_t length);

struct orr_trace;

/* Reads tasks.rec, comms.rec, paje.trace and, where it is there, run.json. NULL with ORR_ENOENT, or ORR_EFORMAT with
 * file and line where a file is damaged or cut short. */
struct orr_trace *orr_trace_open(const char *directory);
void orr_trace_destroy(struct orr_trace *trace);

/* The steps of the trace: a step ends with its "report" task; on several ranks, those that ended on all of them. */
int64_t orr_trace_steps(const struct orr_trace *trace);

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* How much of the time of messages is hidden. For a rank, with W the time of the steps there, M the union of [sent,
 * received] over the messages to or from it and C the union of [start, end] over its workers' tasks,
 *
 *     under_way = |M and W|,      computing = |M and C and W|,
 *
 * and several ranks add up. A message that came before it was sent, since clocks are apart, has no time. */
struct orr_trace_overlap {
    double under_way;       /* ms with at least one message under way           */
    double computing;       /* those of them with at least one worker in a task */
};

/* The ranks that hold the same stages. Times are summed over their workers: kind[] + runtime + waiting[] + idle =
 * workers x the time from the beginning to the end of the steps on each rank. */
struct orr_trace_stage {
    char name[64];                      /* "0", "0 2", or without run.json "rank 3"                          */
    int ranks, workers;
    double total;
    double kind[ORR_TRACE_KINDS];
    double runtime;                     /* neither in a task nor asleep: scheduling, dependencies, ...       */
    double *waiting;                    /* [stages]: asleep until a task ran whose last input came from there */
    double idle;                        /* asleep for another reason                                         */
    double bubble;                      /* the part of the workers' time that they are asleep from the first
                                           forward to the last backward task of a step on their rank; NaN
                                           where there are none                                              */
    double model;                       /* the same of orr_pipeline_model(); NaN where it does not apply     */
    struct orr_trace_overlap overlap;   /* of its ranks                                                      */
};

struct orr_trace_traffic {
    int from, to;                       /* ranks */
    int64_t messages, bytes;
};

struct orr_trace_table {
    int64_t from, to, steps;            /* those in the table, and all                                       */
    int ranks, workers;
    int stages;
    struct orr_trace_stage *stage;
    int pairs;
    struct orr_trace_traffic *traffic;  /* messages sent in those steps, by from and to                      */
    struct orr_trace_overlap overlap;   /* of all ranks                                                      */
    int64_t unfinished;                 /* tasks that began and did not end: the trace is cut short          */
    int64_t early;                      /* messages of those steps that came before they were sent, and by   */
    double early_ms;                    /* how much at most: so far apart are the clocks of the ranks        */
};

/* Sums up steps from .. to, counted from 1; from 0 begins with the first task of the trace and to -1 ends with the
 * last. ORR_EINVAL where there are no such steps; ORR_ENOMEM. */
int orr_trace_table(const struct orr_trace *trace, int64_t from, int64_t to, struct orr_trace_table *table);
void orr_trace_table_free(struct orr_trace_table *table);

/* Prints it as text. ORR_EIO. */
int orr_trace_print(const struct orr_trace_table *table, FILE *out);

/* ---- the timeline ------------------------------------------------------------------------------------------------ */

/* Draws the same steps as an SVG file: a row per worker, a bar per task, white where the worker is asleep, grey in
 * between, a line per message. What is narrower than a quarter of a pixel is drawn together. Errors of
 * orr_trace_table(), ORR_EIO. */
int orr_trace_draw(const struct orr_trace *trace, int64_t from, int64_t to, const char *path);

/* ---- the model --------------------------------------------------------------------------------------------------- */

/* Milliseconds that one microbatch takes in a stage. */
struct orr_stage_times {
    double forward, backward, weights;
};

/* One step of a pipeline, event by event: stage s is on coordinate s mod coordinates, each of these has so many workers, and each
 * worker takes the most urgent task that is ready (B before F before W, then the lowest microbatch, then the last stage). F of
 * microbatch i waits for the slot of microbatch i
 * - slots (orr_slot_count()) to be freed by its last backward task; where B and W are one task (orr_slot_split()), that
 * takes backward + weights. Messages take no time. *makespan is the end of the last task; idle[coordinates] is the time
 * that a coordinate's workers do not work between its first and its last task, and span[coordinates] that time times the
 * workers.
 * ORR_EINVAL where a number is below 1 or a time negative or not finite; ORR_ENOMEM. Any thread. */
struct orr_pipeline {
    int stages, microbatches, workers;
    struct orr_slot_policy slots;
    const struct orr_stage_times *times;    /* [stages] */
    int coordinates;                        /* 0: one for each stage */
};
int orr_pipeline_model(const struct orr_pipeline *pipeline, double *makespan, double *idle, double *span);

#ifdef __cplusplus
}
#endif
#endif
