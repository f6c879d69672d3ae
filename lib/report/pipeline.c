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
    struct stage *stage;
    struct running *running;        /* [stages x workers]; stage -1: free */
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

static void begin(struct simulation *s, struct running *worker, int at, double now)
{
    struct stage *stage = &s->stage[at];

    for (enum pass pass = B; pass < PASSES; pass++) {
        if (!ready(s, at, pass))
            continue;
        if (stage->first < 0)
            stage->first = now;
        stage->begun[pass]++;
        stage->work += stage->length[pass];
        *worker = (struct running){at, pass, now + stage->length[pass]};
        return;
    }
}

/* Ends the tasks that end first, all at once; false where none runs. */
static bool advance(struct simulation *s, double *now)
{
    int count = s->of->stages * s->of->workers;
    double next = INFINITY;

    for (int w = 0; w < count; w++)
        if (s->running[w].stage >= 0 && s->running[w].end < next)
            next = s->running[w].end;
    for (int w = 0; w < count; w++) {
        struct running *r = &s->running[w];
        if (r->stage < 0 || r->end > next)
            continue;
        s->stage[r->stage].ended[r->pass]++;
        s->stage[r->stage].last = next;
        r->stage = -1;
    }
    *now = next;
    return next < INFINITY;
}

static void simulate(struct simulation *s)
{
    double now = 0;

    do {
        for (int w = 0; w < s->of->stages * s->of->workers; w++)
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
    if (p->stages < 1 || p->microbatches < 1 || p->workers < 1)
        return orri_fail(ORR_EINVAL, "pipeline", "%d stages, %d microbatches, %d workers: every one must be at least 1",
                         p->stages, p->microbatches, p->workers);
    for (int i = 0; i < p->stages; i++)
        if (!good(p->times[i].forward) || !good(p->times[i].backward) || !good(p->times[i].weights))
            return orri_fail(ORR_EINVAL, "pipeline", "stage %d: the time of a pass must be finite and not negative", i);
    return ORR_OK;
}

int orr_pipeline_model(const struct orr_pipeline *p, double *makespan, double *idle, double *span)
{
    struct simulation s = {.of = p, .split = orr_slot_split(&p->slots)};

    ORR_TRY(check(p));
    s.stage = orri_calloc((size_t)p->stages, sizeof(*s.stage));
    s.running = orri_calloc((size_t)p->stages * (size_t)p->workers, sizeof(*s.running));
    if (!s.stage || !s.running) {
        free(s.stage);
        free(s.running);
        return ORR_ENOMEM;
    }
    for (int i = 0; i < p->stages; i++) {
        const struct orr_stage_times *t = &p->times[i];
        s.stage[i] = (struct stage){
            .slots = orr_slot_count(&p->slots, i, p->stages, p->microbatches, p->workers),
            .length = {[B] = s.split ? t->backward : t->backward + t->weights, [F] = t->forward, [W] = t->weights},
            .first = -1};
    }
    for (int w = 0; w < p->stages * p->workers; w++)
        s.running[w].stage = -1;
    simulate(&s);
    *makespan = 0;
    for (int i = 0; i < p->stages; i++) {
        const struct stage *stage = &s.stage[i];
        span[i] = p->workers * (stage->last - stage->first);
        idle[i] = span[i] - stage->work;
        if (stage->last > *makespan)
            *makespan = stage->last;
    }
    free(s.stage);
    free(s.running);
    return ORR_OK;
}
