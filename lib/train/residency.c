/* SPDX-License-Identifier: Apache-2.0 */
/* What stays on a CUDA device whose memory does not hold everything.
 *
 * A step uses its tiles in the same order every time. Evicting what was used longest ago would then evict what is needed
 * next, and everything would go over the bus in every pass. So it is decided before: as many tiles as fit stay; the others are
 * streamed, each comes shortly before its task (lib/graph/pass.c) and is the first to go behind it. First to be streamed is
 * what is used least: the optimizer's state, once in a step; what F saves, twice in a microbatch; then parameters; gradients. */
#include <starpu.h>
#include <stdlib.h>

#include "train/train.h"

enum kind { STATE, SAVED, VALUE, GRADIENT, KEPT, KINDS };

struct resident {
    struct orr_tile *tile;
    double bytes;
    int worker;
    enum kind kind;
};

struct plan {
    struct orr_training *training;
    struct resident *item;
    int count, room;
    int status;
};

static void add(struct plan *plan, struct orr_tile *tile, int worker, enum kind kind)
{
    if (!tile->handle || worker < 0 || plan->status != 0)
        return;
    if (plan->count == plan->room) {
        int room = plan->room ? 2 * plan->room : 256;
        struct resident *more = realloc(plan->item, (size_t)room * sizeof(*more));
        if (!more) {
            plan->status = orri_fail(ORR_ENOMEM, "memory", "no room for a list of %d tiles", room);
            return;
        }
        plan->item = more;
        plan->room = room;
    }
    plan->item[plan->count++] = (struct resident){tile, (double)orr_tile_bytes(tile), worker, kind};
}

/* A tile that several replicas here read has a copy on each of their devices. */
static void add_parameter(struct plan *plan, struct orri_parameter *parameter)
{
    struct orr_training *t = plan->training;
    const struct orr_model *model = t->model;
    int users = parameter->group->users, copies = parameter->copies, dp = model->mesh.dp;
    int owner = orri_master_worker(parameter, parameter->owner), before = -1;

    for (int r = 0; r < t->states; r++)
        add(plan, orri_state_tile(t, parameter, r), orri_master_worker(parameter, t->states > 1 ? r : parameter->owner), STATE);
    if (orri_has_masters(model) || parameter->own)
        add(plan, &parameter->value, owner, STATE);
    add(plan, &t->outer[parameter->index], owner, STATE);
    for (int r = 0; t->exchange && r < dp; r++)
        add(plan, orri_exchange_passing(t, parameter, r), owner, GRADIENT);
    for (int i = 0; i < model->replicas_here; i++) {
        int r = model->replica_here[i], worker = orri_parameter_worker(parameter, r);
        if (parameter->own && model->dtype != ORR_F32)
            add(plan, &parameter->own[r], orri_master_worker(parameter, r), STATE);
        if (parameter->own)
            add(plan, orri_own(parameter, r), worker, VALUE);
        else if (worker != before)
            add(plan, orri_shared(parameter), worker, VALUE);
        before = worker;
    }
    for (int i = 0; parameter->gradient && i < users * dp * copies; i++)
        add(plan, &parameter->gradient[i], orri_parameter_worker(parameter, i / copies % dp), GRADIENT);
}

static void add_cell(struct plan *plan, struct orri_cell *cell, int replica, int stage)
{
    const struct orr_model *model = plan->training->model;
    int tp = model->mesh.tp, chunks = model->chunks;

    for (int t = 0; t < tp; t++) {
        int worker = orri_home_worker(model, replica, stage, t);
        add(plan, &cell->saved[t], worker, SAVED);
        for (int c = 0; tp > 1 && c < chunks; c++) {
            add(plan, &cell->partial[t * chunks + c], worker, KEPT);
            add(plan, &cell->dpartial[t * chunks + c], worker, KEPT);
        }
    }
    for (int c = 0; c < chunks; c++) {
        int worker = orri_home_worker(model, replica, stage, c);
        add(plan, &cell->value[c], worker, KEPT);
        add(plan, &cell->gradient[c], worker, KEPT);
        if (tp > 1) {
            add(plan, &cell->chunk_saved[c], worker, SAVED);
            add(plan, &cell->branch[c], worker, KEPT);
        }
    }
}

static void list_tiles(struct plan *plan)
{
    struct orr_training *t = plan->training;
    const struct orr_model *model = t->model;

    for (int p = 0; p < model->parameters; p++)
        add_parameter(plan, model->parameter[p]);
    for (int i = 0; i < model->mesh.dp * model->stages; i++) {
        const struct orri_ring *ring = &t->slots->ring[i];
        int replica = i / model->stages, stage = i % model->stages;
        int blocks = model->first_block[stage + 1] - model->first_block[stage];
        for (int k = 0; ring->slot && k < ring->count; k++)
            for (int b = 0; b < blocks; b++)
                add_cell(plan, &ring->slot[k].cell[b], replica, stage);
    }
}

/* Bytes of a kind that have room at a time where they are streamed: one is used, one comes, one goes. */
static double window(const struct plan *plan, int worker, enum kind kind)
{
    double most = 0;

    for (int i = 0; i < plan->count; i++)
        if (plan->item[i].worker == worker && plan->item[i].kind == kind && plan->item[i].bytes > most)
            most = plan->item[i].bytes;
    return 3 * most;
}

/* Streams tiles of a device, the last first, until the rest fits. */
static int fit(struct plan *plan, int worker, double room)
{
    struct orr_residency *r = &plan->training->residency;
    double need = 0;

    for (int i = 0; i < plan->count; i++)
        need += plan->item[i].worker == worker ? plan->item[i].bytes : 0;
    r->need = need > (double)r->need ? (int64_t)need : r->need;
    r->room = r->room == 0 || room < (double)r->room ? (int64_t)room : r->room;
    for (enum kind kind = STATE; kind < KEPT && need > room; kind++) {
        need += window(plan, worker, kind);
        for (int i = plan->count - 1; i >= 0 && need > room; i--) {
            struct resident *item = &plan->item[i];
            if (item->worker != worker || item->kind != kind)
                continue;
            item->tile->streamed = true;
            need -= item->bytes;
            r->streamed[kind] += (int64_t)item->bytes;
        }
    }
    if (need <= room)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_ENOFIT, "CUDA", "what a device needs at a time is %lld MiB, of %lld MiB that it has",
                                 (long long)need >> 20, (long long)room >> 20),
                       "lower --micro-batch, --seq or --slots, or raise STARPU_LIMIT_CUDA_MEM");
}

int orri_residency_plan(struct orr_training *t)
{
    struct plan plan = {.training = t};

    if (orri_device_worker(0) >= 0)
        list_tiles(&plan);
    for (int d = 0; d < orr_device_count() && plan.status == 0; d++) {
        int worker = orri_device_worker(d);
        int64_t room = worker >= 0 ? orri_device_room(d) : -1;
        if (room >= 0)
            plan.status = fit(&plan, worker, (double)room);
    }
    free(plan.item);
    return plan.status;
}
