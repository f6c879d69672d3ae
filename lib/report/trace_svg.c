/* SPDX-License-Identifier: Apache-2.0 */
/* The timeline as an SVG file: plain text, one element per line (https://www.w3.org/TR/SVG11/). */
#include "report/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "graph/graph.h"

enum { LEFT = 130, WIDTH = 1500, RIGHT = 20, TOP = 60, ROW = 18, GAP = 3, RANK_GAP = 12, BOTTOM = 40 };

#define NARROW 0.25     /* pixels: what is narrower is drawn together with its neighbours           */
#define NARROWEST 1e-3  /* milliseconds of a picture: enough to change the longest time that is read */

static const unsigned colors[ORR_TRACE_KINDS] = {
    [ORR_TRACE_FORWARD] = ORRI_COLOR_FORWARD, [ORR_TRACE_BACKWARD] = ORRI_COLOR_BACKWARD,
    [ORR_TRACE_WEIGHTS] = ORRI_COLOR_WEIGHTS, [ORR_TRACE_BOTH] = ORRI_COLOR_BACKWARD,
    [ORR_TRACE_WHOLE] = ORRI_COLOR_BACKWARD,  [ORR_TRACE_UPDATE] = ORRI_COLOR_UPDATE,
    [ORR_TRACE_REDUCE] = ORRI_COLOR_REDUCE,   [ORR_TRACE_OTHER] = ORRI_COLOR_OTHER};

struct canvas {
    const struct orr_trace *trace;
    FILE *out;
    double begin, end;              /* of the picture, in the trace's milliseconds   */
    struct orri_span *span;         /* [ranks]                                       */
};

static double x_of(const struct canvas *c, double time)
{
    return LEFT + WIDTH * (time - c->begin) / (c->end - c->begin);
}

static int y_of(const struct canvas *c, int row)
{
    return TOP + row * (ROW + GAP) + c->trace->row[row].rank * RANK_GAP;
}

/* XML takes no control characters, and a name may hold any byte. */
static void put_text(FILE *out, struct orri_text text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.at[i];
        switch (c) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        default: fputc(c < 0x20 || c > 0x7e ? '?' : c, out);
        }
    }
}

static void put_box(const struct canvas *c, double x, double width, int row, const char *class)
{
    fprintf(c->out, "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" class=\"%s\"", x, y_of(c, row), width, ROW,
            class);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Tasks that follow each other and are drawn as one box. */
struct group {
    int tasks;
    double begin, end;
    double time[ORR_TRACE_KINDS];
    const struct orri_task *first;
};

static enum orr_trace_kind most(const struct group *g)
{
    enum orr_trace_kind kind = 0;

    for (int k = 1; k < ORR_TRACE_KINDS; k++)
        if (g->time[k] > g->time[kind])
            kind = (enum orr_trace_kind)k;
    return kind;
}

static void put_group(const struct canvas *c, int row, struct group *g)
{
    char class[8];

    if (g->tasks == 0)
        return;
    snprintf(class, sizeof(class), "k%d", g->tasks == 1 ? (int)g->first->kind : (int)most(g));
    put_box(c, x_of(c, g->begin), fmax(x_of(c, g->end) - x_of(c, g->begin), NARROW), row, class);
    fputs("><title>", c->out);
    if (g->tasks == 1)
        put_text(c->out, g->first->name);
    else
        fprintf(c->out, "%d tasks", g->tasks);
    fprintf(c->out, ", at %.3f ms, for %.3f ms</title></rect>\n", g->begin, g->end - g->begin);
    g->tasks = 0;
}

/* A narrow task joins the group before it where both would share a pixel. */
static bool joins(const struct canvas *c, const struct group *g, double begin, double end)
{
    double pixel = (c->end - c->begin) / WIDTH;

    return g->tasks > 0 && end - begin < NARROW * pixel && begin - g->end < NARROW * pixel && end - g->begin < pixel;
}

static void draw_tasks(const struct canvas *c, int row)
{
    const struct orri_row *r = &c->trace->row[row];
    struct orri_span span = c->span[r->rank];
    struct group g = {0};

    for (int i = 0; i < r->tasks; i++) {
        const struct orri_task *task = &c->trace->task[c->trace->by_row[r->first_task + i]];
        double begin = fmax(task->start, span.begin), end = fmin(task->end, span.end);
        if (end < begin || (end == begin && task->end > task->start))
            continue;
        if (!joins(c, &g, begin, end)) {
            put_group(c, row, &g);
            g = (struct group){.begin = begin, .end = end, .first = task};
        }
        g.tasks++;
        g.end = fmax(g.end, end);
        g.time[task->kind] += end - begin;
    }
    put_group(c, row, &g);
}

static void draw_pauses(const struct canvas *c, int row)
{
    const struct orri_row *r = &c->trace->row[row];
    struct orri_span span = c->span[r->rank];

    for (int i = 0; i < r->pauses; i++) {
        const struct orri_pause *pause = &c->trace->pause[r->first_pause + i];
        double begin = fmax(pause->begin, span.begin), end = fmin(pause->end, span.end);
        if (end <= begin || x_of(c, end) - x_of(c, begin) < NARROW)
            continue;
        put_box(c, x_of(c, begin), x_of(c, end) - x_of(c, begin), row, "idle");
        fputs("/>\n", c->out);
    }
}

static void draw_row(const struct canvas *c, int row)
{
    const struct orri_row *r = &c->trace->row[row];
    struct orri_span span = c->span[r->rank];

    fprintf(c->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">rank %d, worker %d</text>\n", LEFT - 6,
            y_of(c, row) + ROW - 5, r->rank, r->worker);
    put_box(c, x_of(c, span.begin), x_of(c, span.end) - x_of(c, span.begin), row, "runtime");
    fputs("/>\n", c->out);
    draw_pauses(c, row);
    draw_tasks(c, row);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static int by_way(const void *a, const void *b)
{
    const struct orri_message *x = *(struct orri_message *const *)a, *y = *(struct orri_message *const *)b;

    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    if (x->to != y->to)
        return x->to < y->to ? -1 : 1;
    return (x->sent > y->sent) - (x->sent < y->sent);
}

/* The first or last row of a rank. */
static int row_of(const struct canvas *c, int rank, bool last)
{
    int row = 0;

    while (c->trace->row[row].rank < rank)
        row++;
    while (last && row + 1 < c->trace->rows && c->trace->row[row + 1].rank == rank)
        row++;
    return row;
}

/* Leaves the sender's rows on the side of the receiver, and reaches the receiver's on the side of the sender. */
static void put_message(const struct canvas *c, const struct orri_message *m)
{
    bool down = m->from < m->to;
    int from = y_of(c, row_of(c, m->from, down)) + (down ? ROW : 0);
    int to = y_of(c, row_of(c, m->to, !down)) + (down ? 0 : ROW);

    fprintf(c->out, "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%d\">", x_of(c, m->sent), from,
            x_of(c, m->received), to);
    fprintf(c->out, "<title>%lld bytes from rank %d at %.3f ms to rank %d at %.3f ms</title></line>\n",
            (long long)m->bytes, m->from, m->sent, m->to, m->received);
}

static int draw_messages(const struct canvas *c)
{
    const struct orri_message **order = orri_calloc((size_t)c->trace->messages + 1, sizeof(*order)), *last = NULL;
    int count = 0;

    if (!order)
        return ORR_ENOMEM;
    for (int i = 0; i < c->trace->messages; i++) {
        const struct orri_message *m = &c->trace->message[i];
        double first = fmin(m->sent, m->received), later = fmax(m->sent, m->received);
        if (first >= c->begin && later <= c->end && m->from != m->to)
            order[count++] = m;
    }
    qsort(order, (size_t)count, sizeof(*order), by_way);
    for (int i = 0; i < count; i++) {
        const struct orri_message *m = order[i];
        bool same_way = last && last->from == m->from && last->to == m->to;
        bool covered = same_way && x_of(c, m->sent) - x_of(c, last->sent) < NARROW &&
                       fabs(x_of(c, m->received) - x_of(c, last->received)) < NARROW;
        if (covered)
            continue;
        put_message(c, m);
        last = m;
    }
    free(order);
    return ORR_OK;
}

/* ---- axis and legend --------------------------------------------------------------------------------------------- */

static void draw_axis(const struct canvas *c, int bottom)
{
    double wanted = (c->end - c->begin) / 12, tick = pow(10, floor(log10(wanted)));
    int digits;

    tick *= wanted / tick > 5 ? 10 : wanted / tick > 2 ? 5 : wanted / tick > 1 ? 2 : 1;
    digits = tick < 1 ? (int)ceil(-log10(tick) - 1e-9) : 0;
    fprintf(c->out, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, bottom, LEFT + WIDTH);
    for (int i = 0; i <= 12; i++) {
        double time = (ceil(c->begin / tick) + i) * tick, x = x_of(c, time);
        if (time <= c->end)
            fprintf(c->out, "<path class=\"axis\" d=\"M%.2f %dv5\"/>"
                    "<text x=\"%.2f\" y=\"%d\" text-anchor=\"middle\">%.*f</text>\n", x, bottom, x, bottom + 18,
                    digits, time);
    }
    fprintf(c->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">ms</text>\n", LEFT - 6, bottom + 18);
}

static void draw_legend(const struct canvas *c)
{
    static const struct {
        const char *class, *text;
    } entries[] = {{"k0", "F"}, {"k1", "B, B and W in one"}, {"k2", "W"}, {"k5", "update"}, {"k6", "reduce"},
                   {"k7", "other"}, {"runtime", "runtime"}, {"idle", "idle"}};
    int x = LEFT;

    for (size_t i = 0; i < ORRI_COUNT(entries); i++) {
        fprintf(c->out, "<rect x=\"%d\" y=\"34\" width=\"14\" height=\"14\" class=\"%s\"/>"
                "<text x=\"%d\" y=\"45\">%s</text>\n", x, entries[i].class, x + 19, entries[i].text);
        x += 45 + 7 * (int)strlen(entries[i].text);
    }
    fprintf(c->out, "<path d=\"M%d 48l14 -14\" stroke=\"#333\"/><text x=\"%d\" y=\"45\">message</text>\n", x, x + 19);
}

/* ---- the picture ------------------------------------------------------------------------------------------------- */

static int draw(const struct canvas *c)
{
    const struct orr_trace *trace = c->trace;
    int bottom = y_of(c, trace->rows - 1) + ROW + GAP, width = LEFT + WIDTH + RIGHT, height = bottom + BOTTOM;

    fprintf(c->out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" "
            "width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n<style>\n",
            width, height, width, height);
    for (int k = 0; k < ORR_TRACE_KINDS; k++)
        fprintf(c->out, ".k%d{fill:#%06x}\n", k, colors[k]);
    fprintf(c->out, ".runtime{fill:#dcdcdc}.idle{fill:#fff;stroke:#ccc;stroke-width:0.3}.axis{stroke:#333;fill:none}\n"
            "line{stroke:#333;stroke-width:0.5}\n</style>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width,
                height);
    fprintf(c->out, "<text x=\"%d\" y=\"22\" font-size=\"14\">", LEFT);
    put_text(c->out, (struct orri_text){trace->run.model, strlen(trace->run.model)});
    if (trace->described)
        fprintf(c->out, ", dp %d x pp %d x tp %d, %d microbatches", trace->run.mesh.dp, trace->run.mesh.pp,
                trace->run.mesh.tp, trace->run.microbatches);
    fprintf(c->out, "</text>\n");
    draw_legend(c);
    for (int row = 0; row < trace->rows; row++)
        draw_row(c, row);
    ORR_TRY(draw_messages(c));
    draw_axis(c, bottom);
    fprintf(c->out, "</svg>\n");
    return ORR_OK;
}

static int draw_all(struct canvas *c, int64_t from, int64_t to)
{
    c->span = orri_calloc((size_t)c->trace->ranks, sizeof(*c->span));
    if (!c->span)
        return ORR_ENOMEM;
    c->begin = INFINITY;
    c->end = -INFINITY;
    for (int rank = 0; rank < c->trace->ranks; rank++) {
        c->span[rank] = orri_trace_span(c->trace, rank, from, to);
        c->begin = fmin(c->begin, c->span[rank].begin);
        c->end = fmax(c->end, c->span[rank].end);
    }
    if (c->end - c->begin < NARROWEST)
        c->end = c->begin + NARROWEST;
    int status = draw(c);
    free(c->span);
    return status;
}

int orr_trace_draw(const struct orr_trace *trace, int64_t from, int64_t to, const char *path)
{
    struct canvas c = {.trace = trace};
    char *text = NULL;
    size_t size = 0;

    ORR_TRY(orri_trace_check_steps(trace, from, to));
    c.out = open_memstream(&text, &size);
    if (!c.out)
        return orri_fail(ORR_ENOMEM, path, "no room for the picture");
    int status = draw_all(&c, from, to);
    if ((fclose(c.out) != 0 || !text) && status == 0)
        status = orri_fail(ORR_ENOMEM, path, "no room for the picture");
    if (status == 0)
        status = orri_write_file(path, text, size);
    free(text);
    return status;
}
