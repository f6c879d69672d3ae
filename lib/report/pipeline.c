/* SPDX-License-Identifier: Apache-2.0 */
/* A pipeline as a discrete-event model: what the slot policy alone lets one expect. */
#include <orrery/trace.h>

#include <math.h>
#include <stdlib.h>

#include "core/core.h"

enum pass { B, F, W, PASSES };      /* in the order of urgency */

/* A stage takes the microbatches of a pass in their order, since the stages around it hand them over in that order. */
struct stage {
    int slots;
    double length[PASSES];
    int begun[PASSES], ended[PASSES];
};

/* What the workers of a coordinate do in all of its stages. */
struct coordinate {
    double work, first, last;
};

struct running {
    int stage;
    enum pass pass;
    double end;
};

struct simulation {
    const struct orr_pipeline *of;
    bool split;
    int coordinates;
    struct stage *stage;
    struct coordinate *coordinate;
    struct running *running;        /* [coordinates x workers]; stage -1: free */
};

static bool ready(const struct simulation *s, int at, enum pass pass)
{
    const struct stage *here = &s->stage[at];
    int i = here->begun[pass];

    if (i == s->of->microbatches)
        return false;
    if (pass == F)
        return (at == 0 || s->stage[at - 1].ended[F] > i) &&
               (i < here->slots || here->ended[s->split ? W : B] > i - here->slots);
    if (pass == B)
        return here->ended[F] > i && (at == s->of->stages - 1 || s->stage[at + 1].ended[B] > i);
    return s->split && here->ended[B] > i;
}

/* The stage of a coordinate in which the earliest microbatch is ready for a pass, of several the last; or -1. */
static int find(const struct simulation *s, int coordinate, enum pass pass)
{
    int found = -1;

    for (int at = coordinate; at < s->of->stages; at += s->coordinates)
        if (ready(s, at, pass) && (found < 0 || s->stage[at].begun[pass] <= s->stage[found].begun[pass]))
            found = at;
    return found;
}

static void begin(struct simulation *s, struct running *worker, int coordinate, double now)
{
    struct coordinate *c = &s->coordinate[coordinate];

    for (enum pass pass = B; pass < PASSES; pass++) {
        int at = find(s, coordinate, pass);
        if (at < 0)
            continue;
        if (c->first < 0)
            c->first = now;
        c->work += s->stage[at].length[pass];
        s->stage[at].begun[pass]++;
        *worker = (struct running){at, pass, now + s->stage[at].length[pass]};
        return;
    }
}

/* Ends the tasks that end first, all at once; false where none runs. */
static bool advance(struct simulation *s, double *now)
{
    int count = s->coordinates * s->of->workers;
    double next = INFINITY;

    for (int w = 0; w < count; w++)
        if (s->running[w].stage >= 0 && s->running[w].end < next)
            next = s->running[w].end;
    for (int w = 0; w < count; w++) {
        struct running *r = &s->running[w];
        if (r->stage < 0 || r->end > next)
            continue;
        s->stage[r->stage].ended[r->pass]++;
        s->coordinate[r->stage % s->coordinates].last = next;
        r->stage = -1;
    }
    *now = next;
    return next < INFINITY;
}

static void simulate(struct simulation *s)
{
    double now = 0;

    do {
        for (int w = 0; w < s->coordinates * s->of->workers; w++)
            if (s->running[w].stage < 0)
                begin(s, &s->running[w], w / s->of->workers, now);
    } while (advance(s, &now));
}

static bool good(double time)
{
    return isfinite(time) && time >= 0;
}

static int check(const struct orr_pipeline *p)
{
    if (p->stages < 1 || p->microbatches < 1 || p->workers < 1 || p->coordinates < 0)
        return orri_fail(ORR_EINVAL, "pipeline", "%d stages, %d microbatches, %d workers: every one must be at least 1",
                         p->stages, p->microbatches, p->workers);
    for (int i = 0; i < p->stages; i++)
        if (!good(p->times[i].forward) || !good(p->times[i].backward) || !good(p->times[i].weights))
            return orri_fail(ORR_EINVAL, "pipeline", "stage %d: the time of a pass must be finite and not negative", i);
    return ORR_OK;
}

static void prepare(struct simulation *s)
{
    const struct orr_pipeline *p = s->of;

    for (int i = 0; i < p->stages; i++) {
        const struct orr_stage_times *t = &p->times[i];
        s->stage[i] = (struct stage){
            .slots = orr_slot_count(&p->slots, i, p->stages, p->microbatches, p->workers),
            .length = {[B] = s->split ? t->backward : t->backward + t->weights, [F] = t->forward, [W] = t->weights}};
    }
    for (int c = 0; c < s->coordinates; c++)
        s->coordinate[c].first = -1;
    for (int w = 0; w < s->coordinates * p->workers; w++)
        s->running[w].stage = -1;
}

static void tell(const struct simulation *s, double *makespan, double *idle, double *span)
{
    *makespan = 0;
    for (int i = 0; i < s->coordinates; i++) {
        const struct coordinate *c = &s->coordinate[i];
        span[i] = s->of->workers * (c->last - c->first);
        idle[i] = fmax(span[i] - c->work, 0);    /* but for rounding */
        *makespan = fmax(*makespan, c->last);
    }
}

int orr_pipeline_model(const struct orr_pipeline *p, double *makespan, double *idle, double *span)
{
    struct simulation s = {.of = p, .split = orr_slot_split(&p->slots)};

    ORR_TRY(check(p));
    s.coordinates = p->coordinates > 0 && p->coordinates < p->stages ? p->coordinates : p->stages;
    s.stage = orri_calloc((size_t)p->stages, sizeof(*s.stage));
    s.coordinate = orri_calloc((size_t)s.coordinates, sizeof(*s.coordinate));
    s.running = orri_calloc((size_t)s.coordinates * (size_t)p->workers, sizeof(*s.running));
    bool room = s.stage && s.coordinate && s.running;
    if (room) {
        prepare(&s);
        simulate(&s);
        tell(&s, makespan, idle, span);
    }
    free(s.stage);
    free(s.coordinate);
    free(s.running);
    return room ? ORR_OK : ORR_ENOMEM;
}
