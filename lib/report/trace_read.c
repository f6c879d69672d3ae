/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what starpu_fxt_tool writes. tasks.rec and comms.rec are records of "Name: value" lines, each ended by an
 * empty line (the format of GNU recutils); paje.trace is Paje's, of which only the states of workers are looked at. */
#include "report/trace.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "io/json.h"

enum { MAX_RANKS = 1 << 12, MAX_WORKERS = 1 << 12 };

#define LONGEST 1e12    /* milliseconds */

/* ---- kinds ------------------------------------------------------------------------------------------------------ */

static const char *const kind_names[ORR_TRACE_KINDS] = {"F", "B", "W", "BW", "FBW", "update", "reduce", "other"};

const char *orr_trace_kind_name(enum orr_trace_kind kind)
{
    return kind_names[kind];
}

static bool is(struct orri_text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.at, word, text.size) == 0;
}

/* What parameters are changed by, in all modes of training. */
static bool updates(struct orri_text word)
{
    static const char *const names[] = {"update", "outer", "mean", "push", "pull"};

    for (size_t i = 0; i < ORRI_COUNT(names); i++)
        if (is(word, names[i]))
            return true;
    return false;
}

enum orr_trace_kind orr_trace_classify(const char *name, size_t length)
{
    static const char prefix[] = "orrery_";
    struct orri_text word = {name, length};

    if (length >= sizeof(prefix) - 1 && memcmp(name, prefix, sizeof(prefix) - 1) == 0)
        word = (struct orri_text){name + sizeof(prefix) - 1, length - (sizeof(prefix) - 1)};
    if (updates(word))
        return ORR_TRACE_UPDATE;
    if (is(word, "reduce"))
        return ORR_TRACE_REDUCE;
    const char *last = memrchr(word.at, '_', word.size);
    if (!last)
        return ORR_TRACE_OTHER;
    struct orri_text pass = {last + 1, word.size - (size_t)(last + 1 - word.at)};
    for (enum orr_trace_kind kind = ORR_TRACE_FORWARD; kind <= ORR_TRACE_WHOLE; kind++)
        if (is(pass, kind_names[kind]))
            return kind;
    return is(pass, "P") ? ORR_TRACE_FORWARD : ORR_TRACE_OTHER;
}

/* ---- lines and fields -------------------------------------------------------------------------------------------- */

struct reader {
    char where[512];                /* file, and the line once it has been read */
    const char *name;
    struct orri_text rest;
    long line;
};

static int fail(struct reader *r, const char *what, struct orri_text text)
{
    snprintf(r->where, sizeof(r->where), "%.440s:%ld", r->name, r->line);
    int shown = text.size < 60 ? (int)text.size : 60;
    return orri_remedy(orri_fail(ORR_EFORMAT, r->where, "%s: '%.*s'", what, shown, text.at),
                       "the trace is damaged: record it again");
}

/* The next line without its end; false at the end of the file. A last line without an end is cut short. */
static int next_line(struct reader *r, struct orri_text *line, bool *more)
{
    *more = r->rest.size > 0;
    if (!*more)
        return ORR_OK;
    const char *end = memchr(r->rest.at, '\n', r->rest.size);
    r->line++;
    if (!end)
        return fail(r, "the file ends in the middle of a line", r->rest);
    *line = (struct orri_text){r->rest.at, (size_t)(end - r->rest.at)};
    r->rest = (struct orri_text){end + 1, r->rest.size - line->size - 1};
    return ORR_OK;
}

static int split_field(struct reader *r, struct orri_text line, struct orri_text *field, struct orri_text *value)
{
    const char *colon = memchr(line.at, ':', line.size);

    *field = (struct orri_text){line.at, colon ? (size_t)(colon - line.at) : 0};
    bool good = field->size > 0;
    for (size_t i = 0; good && i < field->size; i++)
        good = isalnum((unsigned char)field->at[i]);
    if (!good)
        return fail(r, "is no 'Name: value'", line);
    size_t skip = field->size + 1;
    while (skip < line.size && line.at[skip] == ' ')
        skip++;
    *value = (struct orri_text){line.at + skip, line.size - skip};
    return ORR_OK;
}

static int read_time(struct reader *r, struct orri_text text, double *value)
{
    char copy[64], *end;

    if (text.size == 0 || text.size >= sizeof(copy))
        return fail(r, "is no time", text);
    memcpy(copy, text.at, text.size);
    copy[text.size] = '\0';
    *value = strtod(copy, &end);
    if (end != copy + text.size || !(fabs(*value) < LONGEST))
        return fail(r, "is no time", text);
    return ORR_OK;
}

static int read_int(struct reader *r, struct orri_text text, int64_t min, int64_t max, int64_t *value)
{
    bool negative = text.size > 0 && text.at[0] == '-';
    int64_t sum = 0;

    for (size_t i = negative; i < text.size; i++) {
        if (!isdigit((unsigned char)text.at[i]) || __builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, text.at[i] - '0', &sum))
            return fail(r, "is no whole number", text);
    }
    *value = negative ? -sum : sum;
    if (text.size == negative || *value < min || *value > max)
        return fail(r, "is no whole number in its range", text);
    return ORR_OK;
}

/* "17", or of several ranks "RANK_17": the number of a task on its rank. */
static int read_job(struct reader *r, struct orri_text text, int64_t *job)
{
    const char *underscore = memchr(text.at, '_', text.size);

    if (underscore)
        text = (struct orri_text){underscore + 1, text.size - (size_t)(underscore + 1 - text.at)};
    return read_int(r, text, 0, INT64_MAX, job);
}

/* Room for one more element of an array that doubles. */
static void *grow(void *array, int count, size_t size)
{
    if (count & (count - 1))
        return array;
    size_t room = count ? 2 * (size_t)count : 1;
    void *more = count < 1 << 30 ? realloc(array, room * size) : NULL;
    if (!more)
        orri_fail(ORR_ENOMEM, "memory", "no room for %zu records of a trace", room);
    return more;
}

#define APPEND(array, count, value)                                     \
    do {                                                                \
        void *grown_ = grow((array), (count), sizeof(*(array)));        \
        if (!grown_)                                                    \
            return ORR_ENOMEM;                                          \
        (array) = grown_;                                               \
        (array)[(count)++] = (value);                                   \
    } while (0)

/* ---- records ----------------------------------------------------------------------------------------------------- */

struct task_record {
    struct orri_task task;
    bool begun, ended, control;
};

union record {
    struct task_record task;
    struct orri_message message;
};

/* What a file has records of: how one begins, takes a field, and ends. */
struct format {
    union record none;
    int (*field)(struct reader *r, union record *record, struct orri_text field, struct orri_text value);
    int (*add)(struct reader *r, struct orr_trace *trace, const union record *record);
};

static int read_records(struct orr_trace *trace, struct reader *r, const struct format *format)
{
    union record record = format->none;
    struct orri_text line = {0}, field, value;
    bool more, open = false;

    for (;;) {
        ORR_TRY(next_line(r, &line, &more));
        if (!more)
            break;
        if (line.size > 0) {
            ORR_TRY(split_field(r, line, &field, &value));
            ORR_TRY(format->field(r, &record, field, value));
        } else if (open) {
            ORR_TRY(format->add(r, trace, &record));
            record = format->none;
        }
        open = line.size > 0;
    }
    return open ? fail(r, "the file ends in the middle of a record", line) : ORR_OK;
}

static int task_field(struct reader *r, union record *record, struct orri_text field, struct orri_text value)
{
    struct task_record *t = &record->task;
    int64_t n;

    if (is(field, "Name")) {
        t->task.name = value;
        t->task.kind = orr_trace_classify(value.at, value.size);
    } else if (is(field, "Control")) {
        t->control = true;
    } else if (is(field, "JobId")) {
        return read_job(r, value, &t->task.job);
    } else if (is(field, "DependsOn")) {
        t->task.depends = value;
    } else if (is(field, "WorkerId")) {
        ORR_TRY(read_int(r, value, 0, MAX_WORKERS - 1, &n));
        t->task.worker = (int)n;
    } else if (is(field, "MPIRank")) {
        ORR_TRY(read_int(r, value, -1, MAX_RANKS - 1, &n));
        t->task.rank = n < 0 ? 0 : (int)n;      /* a single process has no rank */
    } else if (is(field, "SubmitTime")) {
        return read_time(r, value, &t->task.submitted);
    } else if (is(field, "StartTime")) {
        t->begun = true;
        return read_time(r, value, &t->task.start);
    } else if (is(field, "EndTime")) {
        t->ended = true;
        return read_time(r, value, &t->task.end);
    }
    return ORR_OK;
}

static int add_task(struct reader *r, struct orr_trace *trace, const union record *record)
{
    const struct task_record *t = &record->task;
    struct orri_task task = t->task;
    bool ran = t->begun && t->ended && task.worker >= 0;

    if (t->control)
        return ORR_OK;
    if (task.job < 0)
        return fail(r, "is the end of a record without a JobId", (struct orri_text){"", 0});
    if (ran && task.end < task.start)
        return fail(r, "is the end of a task that ends before it starts", task.name);
    if (t->begun && !t->ended)
        trace->unfinished++;
    if (!ran) {
        task.worker = -1;
        task.start = task.end = 0;
    }
    if (task.rank >= trace->ranks)
        trace->ranks = task.rank + 1;
    APPEND(trace->task, trace->tasks, task);
    return ORR_OK;
}

static int read_tasks(struct orr_trace *trace, struct reader *r)
{
    static const struct format format = {
        {.task.task = {.worker = -1, .row = -1, .job = -1, .kind = ORR_TRACE_OTHER, .name = {"", 0},
                       .depends = {"", 0}}},
        task_field, add_task};

    return read_records(trace, r, &format);
}

static int message_field(struct reader *r, union record *record, struct orri_text field, struct orri_text value)
{
    struct orri_message *m = &record->message;
    int64_t n;

    if (is(field, "Src") || is(field, "Dst")) {
        ORR_TRY(read_int(r, value, 0, MAX_RANKS - 1, &n));
        *(field.at[0] == 'S' ? &m->from : &m->to) = (int)n;
    } else if (is(field, "SendTime")) {
        return read_time(r, value, &m->sent);
    } else if (is(field, "RecvTime")) {
        return read_time(r, value, &m->received);
    } else if (is(field, "Size")) {
        return read_int(r, value, 0, INT64_MAX, &m->bytes);
    } else if (is(field, "RecvJobId")) {
        return read_job(r, value, &m->job);
    }
    return ORR_OK;
}

static int add_message(struct reader *r, struct orr_trace *trace, const union record *record)
{
    const struct orri_message *m = &record->message;

    if (m->from < 0 || m->to < 0 || isnan(m->sent) || isnan(m->received) || m->bytes < 0)
        return fail(r, "is the end of a record without Src, Dst, SendTime, RecvTime or Size",
                    (struct orri_text){"", 0});
    APPEND(trace->message, trace->messages, *m);
    if (m->from >= trace->ranks)
        trace->ranks = m->from + 1;
    if (m->to >= trace->ranks)
        trace->ranks = m->to + 1;
    return ORR_OK;
}

static int read_messages(struct orr_trace *trace, struct reader *r)
{
    static const struct format format = {{.message = {-1, -1, NAN, NAN, -1, -1}}, message_field, add_message};

    return read_records(trace, r, &format);
}

/* ---- states of workers ------------------------------------------------------------------------------------------- */

/* The next word of a line of Paje, without its quotes. */
static struct orri_text word_of(struct orri_text *line)
{
    size_t begin = 0, end;

    while (begin < line->size && (line->at[begin] == '\t' || line->at[begin] == ' '))
        begin++;
    bool quoted = begin < line->size && line->at[begin] == '"';
    for (end = begin + quoted; end < line->size; end++)
        if (quoted ? line->at[end] == '"' : line->at[end] == '\t' || line->at[end] == ' ')
            break;
    struct orri_text word = {line->at + begin + quoted, end - begin - quoted};
    end += quoted && end < line->size;
    *line = (struct orri_text){line->at + end, line->size - end};
    return word;
}

/* "w3", or of several ranks "1_w3". */
static bool is_worker(struct orri_text alias, int *rank, int *worker)
{
    int numbers[2] = {0, 0}, which = 0;
    size_t i = 0;

    if (alias.size > 0 && alias.at[0] == 'w')
        which = 1;
    for (i = which; i < alias.size; i++) {
        if (which == 0 && alias.at[i] == '_' && i > 0 && i + 1 < alias.size && alias.at[i + 1] == 'w') {
            which = 1;
            i++;
        } else if (isdigit((unsigned char)alias.at[i]) && numbers[which] < MAX_RANKS) {
            numbers[which] = 10 * numbers[which] + alias.at[i] - '0';
        } else {
            return false;
        }
    }
    *rank = numbers[0];
    *worker = numbers[1];
    return which == 1 && isdigit((unsigned char)alias.at[alias.size - 1]) && *rank < MAX_RANKS && *worker < MAX_WORKERS;
}

static int find_row(const struct orr_trace *trace, int rank, int worker)
{
    for (int i = trace->rows - 1; i >= 0; i--)
        if (trace->row[i].rank == rank && trace->row[i].worker == worker)
            return i;
    return -1;
}

static int add_row(struct orr_trace *trace, int rank, int worker)
{
    if (find_row(trace, rank, worker) >= 0)
        return ORR_OK;
    APPEND(trace->row, trace->rows, ((struct orri_row){.rank = rank, .worker = worker}));
    if (rank >= trace->ranks)
        trace->ranks = rank + 1;
    return ORR_OK;
}

static bool asleep(struct orri_text state)
{
    return is(state, "Sl") || is(state, "I");       /* Sleeping, Idle: no task was ready */
}

/* A worker that falls asleep opens a pause without an end; its next state ends it. */
static int change_state(struct reader *r, struct orr_trace *trace, int *open, int row, double time,
                        struct orri_text state)
{
    if (open[row] >= 0 && time < trace->pause[open[row]].begin)
        return fail(r, "is a time before the one of the worker's last state", state);
    if (asleep(state) == (open[row] >= 0))
        return ORR_OK;
    if (asleep(state)) {
        open[row] = trace->pauses;
        APPEND(trace->pause, trace->pauses, ((struct orri_pause){row, time, INFINITY}));
        return ORR_OK;
    }
    trace->pause[open[row]].end = time;
    open[row] = -1;
    return ORR_OK;
}

/* Lines "7 TIME ALIAS W PARENT NAME" create workers, "10 TIME ALIAS WS STATE" say what they do. */
static int paje_line(struct reader *r, struct orr_trace *trace, int **open, struct orri_text line)
{
    struct orri_text all = line, event = word_of(&line), time = word_of(&line), alias = word_of(&line),
                     type = word_of(&line);
    bool creates = is(event, "7") && is(type, "W"), changes = is(event, "10") && is(type, "WS");
    int rank, worker;
    double at;

    if (!creates && !changes)
        return ORR_OK;
    ORR_TRY(read_time(r, time, &at));
    if (!is_worker(alias, &rank, &worker))
        return fail(r, "is no worker", alias);
    int row = find_row(trace, rank, worker);
    if (creates && row < 0) {
        int count = trace->rows;
        ORR_TRY(add_row(trace, rank, worker));
        APPEND(*open, count, -1);
        return ORR_OK;
    }
    if (creates)
        return ORR_OK;
    if (row < 0)
        return fail(r, "is a state of a worker that was not created", all);
    return change_state(r, trace, *open, row, at, word_of(&line));
}

static int read_states(struct orr_trace *trace, struct reader *r)
{
    struct orri_text line;
    bool more = true;
    int *open = NULL, status = ORR_OK;

    while (status == 0 && more) {
        status = next_line(r, &line, &more);
        if (status == 0 && more && r->line == 1 && (line.size < 6 || memcmp(line.at, "%Event", 6) != 0))
            status = fail(r, "is no beginning of a Paje trace", line);
        if (status == 0 && more)
            status = paje_line(r, trace, &open, line);
    }
    free(open);
    return status;
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

#define ORDER(x, y) (((x) > (y)) - ((x) < (y)))

static int by_worker(const void *a, const void *b)
{
    const struct orri_row *x = a, *y = b;

    return x->rank != y->rank ? ORDER(x->rank, y->rank) : ORDER(x->worker, y->worker);
}

static int by_job(const void *a, const void *b)
{
    const struct orri_task *x = a, *y = b;

    return x->rank != y->rank ? ORDER(x->rank, y->rank) : ORDER(x->job, y->job);
}

static int by_receive(const void *a, const void *b)
{
    const struct orri_message *x = a, *y = b;

    return x->to != y->to ? ORDER(x->to, y->to) : ORDER(x->job, y->job);
}

static int by_begin(const void *a, const void *b)
{
    const struct orri_pause *x = a, *y = b;

    return x->row != y->row ? ORDER(x->row, y->row) : ORDER(x->begin, y->begin);
}

static int by_start(const void *a, const void *b, void *all)
{
    const struct orri_task *task = all, *x = &task[*(const int *)a], *y = &task[*(const int *)b];

    return x->row != y->row ? ORDER(x->row, y->row) : ORDER(x->start, y->start);
}

static void sort(void *array, int count, size_t size, int (*order)(const void *, const void *))
{
    if (count > 1)
        qsort(array, (size_t)count, size, order);
}

/* Rows by rank and worker; what refers to them follows. */
static int sort_rows(struct orr_trace *trace)
{
    int *place = orri_calloc((size_t)trace->rows + 1, sizeof(*place));

    if (!place)
        return ORR_ENOMEM;
    for (int i = 0; i < trace->rows; i++)
        trace->row[i].first_task = i;
    sort(trace->row, trace->rows, sizeof(*trace->row), by_worker);
    for (int i = 0; i < trace->rows; i++)
        place[trace->row[i].first_task] = i;
    for (int i = 0; i < trace->pauses; i++)
        trace->pause[i].row = place[trace->pause[i].row];
    free(place);
    return ORR_OK;
}

static int check_ranks(const char *directory, const struct orr_trace *trace)
{
    int rank = 0;

    for (int i = 0; i < trace->rows; i++)
        if (trace->row[i].rank == rank)
            rank++;
    if (rank < trace->ranks)
        return orri_fail(ORR_EFORMAT, directory, "there is no worker of rank %d in paje.trace", rank);
    return ORR_OK;
}

/* A worker's last state has no end in a trace that was cut short; a task that it ran later tells that it did. Pauses of
 * a damaged trace may overlap: no time counts twice. */
static void bound_pauses(struct orr_trace *trace, const struct orri_row *row)
{
    double before = -INFINITY;
    int next = 0;

    for (int i = 0; i < row->pauses; i++) {
        struct orri_pause *pause = &trace->pause[row->first_pause + i];
        pause->begin = fmax(pause->begin, before);
        pause->end = fmax(pause->end, pause->begin);
        while (next < row->tasks && trace->task[trace->by_row[row->first_task + next]].start < pause->begin)
            next++;
        if (next < row->tasks)
            pause->end = fmin(pause->end, trace->task[trace->by_row[row->first_task + next]].start);
        before = pause->end;
    }
}

static int place_tasks(const char *directory, struct orr_trace *trace)
{
    int ran = 0;

    trace->by_row = orri_calloc((size_t)trace->tasks + 1, sizeof(*trace->by_row));
    if (!trace->by_row)
        return ORR_ENOMEM;
    for (int i = 0; i < trace->tasks; i++) {
        struct orri_task *task = &trace->task[i];
        if (task->worker < 0)
            continue;
        const struct orri_row *row = bsearch(&(struct orri_row){.rank = task->rank, .worker = task->worker}, trace->row,
                                             (size_t)trace->rows, sizeof(*trace->row), by_worker);
        if (!row)
            return orri_fail(ORR_EFORMAT, directory,
                             "paje.trace has no worker %d of rank %d, on which tasks.rec has tasks",
                             task->worker, task->rank);
        task->row = (int)(row - trace->row);
        trace->by_row[ran++] = i;
    }
    qsort_r(trace->by_row, (size_t)ran, sizeof(*trace->by_row), by_start, trace->task);
    for (int i = 0, p = 0, row = 0; row < trace->rows; row++) {
        struct orri_row *r = &trace->row[row];
        for (r->first_task = i; i < ran && trace->task[trace->by_row[i]].row == row; i++)
            r->tasks++;
        for (r->first_pause = p; p < trace->pauses && trace->pause[p].row == row; p++)
            r->pauses++;
        bound_pauses(trace, r);
    }
    return ran > 0 ? ORR_OK : orri_fail(ORR_EFORMAT, directory, "no task of the trace ran");
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static bool is_report(const struct orri_task *task)
{
    return task->row >= 0 && (is(task->name, "report") || is(task->name, "orrery_report"));
}

/* Tasks are numbered in the order of submission, and a step's report is the last of its tasks. Fills reports[ranks]. */
static void number_tasks(struct orr_trace *trace, int64_t *reports)
{
    for (int i = 0; i < trace->tasks; i++) {
        struct orri_task *task = &trace->task[i];
        task->step = reports[task->rank] + 1;
        reports[task->rank] += is_report(task);
    }
    trace->steps = INT64_MAX;
    for (int r = 0; r < trace->ranks; r++)
        if (reports[r] < trace->steps)
            trace->steps = reports[r];
}

static int make_step_ends(struct orr_trace *trace, const int64_t *reports)
{
    trace->step_end = orri_calloc((size_t)trace->ranks, sizeof(*trace->step_end));
    if (!trace->step_end)
        return ORR_ENOMEM;
    for (int r = 0; r < trace->ranks; r++) {
        trace->step_end[r] = orri_calloc((size_t)reports[r] + 1, sizeof(**trace->step_end));
        if (!trace->step_end[r])
            return ORR_ENOMEM;
    }
    return ORR_OK;
}

/* What prepares the model comes before the first step's input or first pass. */
static bool begins_step(const struct orri_task *task)
{
    return task->row >= 0 && (task->kind <= ORR_TRACE_WHOLE || is(task->name, "input"));
}

/* begun[ranks] tells where the first step's begin is known. */
static void find_step_ends(struct orr_trace *trace, bool *begun)
{
    for (int i = 0; i < trace->tasks; i++) {
        const struct orri_task *task = &trace->task[i];
        double *end = trace->step_end[task->rank];
        if (is_report(task))
            end[task->step] = task->end;
        if (task->step == 1 && begins_step(task) && (!begun[task->rank] || task->start < end[0])) {
            end[0] = task->start;
            begun[task->rank] = true;
        }
    }
}

static int number_steps(struct orr_trace *trace)
{
    int64_t *reports = orri_calloc((size_t)trace->ranks, sizeof(*reports));
    bool *begun = orri_calloc((size_t)trace->ranks, sizeof(*begun));
    int status = reports && begun ? ORR_OK : ORR_ENOMEM;

    if (status == 0) {
        number_tasks(trace, reports);
        status = make_step_ends(trace, reports);
    }
    if (status == 0)
        find_step_ends(trace, begun);
    free(reports);
    free(begun);
    return status;
}

int64_t orr_trace_steps(const struct orr_trace *trace)
{
    return trace->steps;
}

int orri_trace_check_steps(const struct orr_trace *trace, int64_t from, int64_t to)
{
    if (from < 0 || from > trace->steps || to < -1 || to > trace->steps || (to >= 0 && (to < from || to == 0)))
        return orri_remedy(orri_fail(ORR_EINVAL, "trace", "there are no steps %lld to %lld in a trace of %lld steps",
                                     (long long)from, (long long)to, (long long)trace->steps),
                           "--from 0 without --to takes the whole trace");
    return ORR_OK;
}

struct orri_span orri_trace_span(const struct orr_trace *trace, int rank, int64_t from, int64_t to)
{
    struct orri_span span = {INFINITY, -INFINITY};

    for (int row = 0; row < trace->rows; row++) {
        if (trace->row[row].rank != rank)
            continue;
        for (int i = 0; i < trace->row[row].tasks; i++) {
            const struct orri_task *task = &trace->task[trace->by_row[trace->row[row].first_task + i]];
            span.begin = task->start < span.begin ? task->start : span.begin;
            span.end = task->end > span.end ? task->end : span.end;
        }
    }
    if (span.begin > span.end)
        return (struct orri_span){0, 0};
    if (from > 0)
        span.begin = fmax(span.begin, trace->step_end[rank][from - 1]);
    if (to > 0)
        span.end = trace->step_end[rank][to];
    if (span.end < span.begin)
        span.end = span.begin;
    return span;
}

double orri_trace_common(double begin, double end, struct orri_span span)
{
    double from = fmax(begin, span.begin), to = fmin(end, span.end);

    return to > from ? to - from : 0;
}

/* ---- run.json ---------------------------------------------------------------------------------------------------- */

static int read_run(const char *path, struct orr_trace_run *run)
{
    json_t *object;
    const char *text;
    struct orr_slot_policy policy;
    int64_t n;

    ORR_TRY(orri_json_load(path, &object));
    const struct {
        const char *key;
        int *target;
        int64_t max;
    } numbers[] = {{"dp", &run->mesh.dp, 1 << 20},     {"pp", &run->mesh.pp, 1 << 20},
                   {"tp", &run->mesh.tp, 1 << 20},     {"ranks", &run->mesh.ranks, MAX_RANKS},
                   {"stages", &run->stages, 1 << 20},  {"microbatches", &run->microbatches, 1 << 20},
                   {"workers", &run->workers, MAX_WORKERS}};
    int status = ORR_OK;
    for (size_t i = 0; status == 0 && i < ORRI_COUNT(numbers); i++) {
        status = orri_json_int(path, object, numbers[i].key, 1, numbers[i].max, &n);
        *numbers[i].target = status == 0 ? (int)n : 1;
    }
    if (status == 0)
        status = orri_json_int(path, object, "steps", 0, INT64_MAX, &run->steps);
    if (status == 0)
        status = orri_json_string(path, object, "model", &text);
    if (status == 0)
        snprintf(run->model, sizeof(run->model), "%s", text);
    if (status == 0 && orri_json_has(object, "slots")) {
        status = orri_json_string(path, object, "slots", &text);
        if (status == 0 && (strlen(text) >= sizeof(run->slots) || orr_slot_policy_parse(text, &policy) != 0))
            status = orri_fail(ORR_EFORMAT, path, "slots: '%.40s' is no slot policy", text);
        if (status == 0)
            snprintf(run->slots, sizeof(run->slots), "%s", text);
    }
    json_decref(object);
    if (status == 0 && (orr_mesh_check(&run->mesh) != 0 || run->stages % run->mesh.pp != 0))
        status = orri_fail(ORR_EFORMAT, path, "dp %d x pp %d x tp %d with %d ranks and %d stages is no layout",
                           run->mesh.dp, run->mesh.pp, run->mesh.tp, run->mesh.ranks, run->stages);
    return status;
}

struct orri_place orri_trace_place(const struct orr_trace *trace, int rank)
{
    const struct orr_mesh *mesh = &trace->run.mesh;

    if (!trace->described)
        return (struct orri_place){rank, rank};
    int64_t each = orr_mesh_size(mesh) / mesh->ranks;
    return (struct orri_place){orr_mesh_coord(mesh, rank * each).p, orr_mesh_coord(mesh, (rank + 1) * each - 1).p};
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static int read_file(struct orr_trace *trace, const char *directory, const char *name, struct orri_map *map,
                     int (*read)(struct orr_trace *, struct reader *))
{
    char *path = orri_format("%s/%s", directory, name);

    if (!path)
        return ORR_ENOMEM;
    int status = orri_map_open(map, path, true);
    if (status == 0) {
        struct reader r = {.name = path, .rest = {(const char *)map->data, map->size}};
        status = read(trace, &r);
    }
    free(path);
    return status;
}

static int open_run(struct orr_trace *trace, const char *directory)
{
    char *path = orri_format("%s/run.json", directory);
    bool there = path && access(path, F_OK) == 0;
    int status = there ? read_run(path, &trace->run) : path ? ORR_OK : ORR_ENOMEM;

    free(path);
    trace->described = there && status == 0;
    if (!there)
        return status;
    if (status == 0 && trace->run.mesh.ranks != trace->ranks)
        return orri_fail(ORR_EFORMAT, directory, "run.json tells of %d ranks, the trace has %d", trace->run.mesh.ranks,
                         trace->ranks);
    return status;
}

struct orr_trace *orr_trace_open(const char *directory)
{
    struct orr_trace *trace = orri_calloc(1, sizeof(*trace));

    if (!trace)
        return NULL;
    int status = read_file(trace, directory, "tasks.rec", &trace->tasks_file, read_tasks);
    if (status == 0)
        status = read_file(trace, directory, "comms.rec", &trace->comms_file, read_messages);
    if (status == 0)
        status = read_file(trace, directory, "paje.trace", &trace->paje_file, read_states);
    if (status == 0)
        status = sort_rows(trace);
    if (status == 0)
        status = check_ranks(directory, trace);
    if (status == 0) {
        sort(trace->task, trace->tasks, sizeof(*trace->task), by_job);
        sort(trace->message, trace->messages, sizeof(*trace->message), by_receive);
        sort(trace->pause, trace->pauses, sizeof(*trace->pause), by_begin);
        status = place_tasks(directory, trace);
    }
    if (status == 0)
        status = number_steps(trace);
    if (status == 0)
        status = open_run(trace, directory);
    if (status == 0)
        return trace;
    orr_trace_destroy(trace);
    return NULL;
}

void orr_trace_destroy(struct orr_trace *trace)
{
    if (!trace)
        return;
    for (int r = 0; trace->step_end && r < trace->ranks; r++)
        free(trace->step_end[r]);
    free(trace->step_end);
    free(trace->row);
    free(trace->pause);
    free(trace->message);
    free(trace->by_row);
    free(trace->task);
    orri_map_close(&trace->tasks_file);
    orri_map_close(&trace->comms_file);
    orri_map_close(&trace->paje_file);
    free(trace);
}
