/* SPDX-License-Identifier: Apache-2.0 */
/* Which parameters are trained, and how fast. */
#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "graph/graph.h"

static bool is_held(const struct orri_parameter *parameter)
{
    for (int v = 0; v < parameter->views; v++)
        if (parameter->rate[v] != 0)
            return false;
    return true;
}

static bool block_is_held(const struct orr_block *block)
{
    bool held = true;

    for (int g = 0; g < block->spec.groups; g++) {
        const struct orri_group *group = block->group[g];
        held = held && (!group->common || group->common->held);
        for (int t = 0; group->shard && t < block->model->mesh.tp; t++)
            held = held && group->shard[t]->held;
    }
    return held;
}

/* What follows from the rates. */
static void settle(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++)
        model->parameter[p]->held = is_held(model->parameter[p]);
    model->first_trained = model->blocks;
    for (int l = model->blocks - 1; l >= 0; l--) {
        struct orr_block *block = model->block[l];
        block->held = block_is_held(block);
        if (!block->held)
            model->first_trained = l;
    }
}

static void set(struct orr_model *model, int index, double rate)
{
    int view, v;
    const struct orri_group *group = orri_model_view(model, index, &view);
    struct orri_parameter *part;

    for (int t = 0; (part = orri_view_part(model, group, view, t, &v)) != NULL; t++)
        part->rate[v] = rate;
}

int orr_model_set_rate(struct orr_model *model, int index, double rate)
{
    if (!isfinite(rate) || rate < 0)
        return orri_fail(ORR_EINVAL, "model", "a parameter's rate of %g is no number from 0 on", rate);
    set(model, index, rate);
    settle(model);
    return ORR_OK;
}

double orr_model_rate(const struct orr_model *model, int index)
{
    int view, v;
    const struct orri_group *group = orri_model_view(model, index, &view);

    return orri_view_part(model, group, view, 0, &v)->rate[v];
}

uint64_t orr_model_rates_fingerprint(const struct orr_model *model)
{
    uint64_t hash = ORRI_HASH;

    for (int i = 0; i < model->views; i++) {
        double rate = orr_model_rate(model, i);
        hash = orri_hash(hash, &rate, sizeof(rate));
    }
    return hash;
}

int orr_model_hold(struct orr_model *model, const char *pattern)
{
    int held = 0;

    for (int i = 0; i < model->views; i++) {
        int view;
        const struct orri_group *group = orri_model_view(model, i, &view);
        if (fnmatch(pattern, group->name[view], 0) != 0)
            continue;
        set(model, i, 0);
        held++;
    }
    settle(model);
    if (held > 0)
        return ORR_OK;
    int view;
    const struct orri_group *last = orri_model_view(model, model->views - 1, &view);
    return orri_remedy(orri_fail(ORR_EINVAL, "freeze", "no parameter's name matches '%s'", pattern),
                       "names are those of model.safetensors, as in '%s'", last->name[view]);
}

/* ---- decay from layer to layer ------------------------------------------------------------------------ */

/* Names of parameters in layers have its number: ".3." */
static bool is_numbered(const char *name)
{
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        size_t digits = strspn(dot + 1, "0123456789");
        if (digits > 0 && dot[1 + digits] == '.')
            return true;
    }
    return false;
}

/* -1: of what reads tokens; `layers`: in none. */
static int layer_of(const struct orri_group *group, int view, int layers)
{
    const struct orr_block_class *cls = group->block->cls;

    if (cls->is_loss)
        return layers;
    if (cls->operands[ORR_FORWARD] & ORR_IDS)
        return -1;
    return is_numbered(group->name[view]) ? group->block->layer : layers;
}

int orr_model_decay_rates(struct orr_model *model, double decay)
{
    int layers = 0, view;

    if (!(decay > 0 && decay <= 1))
        return orri_fail(ORR_EINVAL, "layer decay", "rates that decay by %g from layer to layer: not above 0 and at most 1", decay);
    for (int l = 0; l < model->blocks; l++)
        layers = model->block[l]->layer >= layers ? model->block[l]->layer + 1 : layers;
    for (int i = 0; i < model->views; i++) {
        const struct orri_group *group = orri_model_view(model, i, &view);
        set(model, i, orr_model_rate(model, i) * pow(decay, layers - layer_of(group, view, layers)));
    }
    return ORR_OK;
}
