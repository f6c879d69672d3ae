/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <stdlib.h>
#include <string.h>

#include "core/ranks.h"
#include "graph/graph.h"

struct orr_predictor {
    struct orr_model *model;
    int vocab, width, positions;
    struct orr_slots *slots;
    int seq, rows;              /* what the slots have room for              */
    int32_t *row;               /* [positions] which rows are asked for       */
    const int32_t *tokens;      /* of the run under way                       */
    int count;
};

struct orr_predictor *orr_predictor_create(struct orr_model *model, int vocab, int width, int positions)
{
    struct orr_predictor *p = orri_calloc(1, sizeof(*p));

    if (!p || orr_model_allocate(model) != 0) {
        free(p);
        return NULL;
    }
    *p = (struct orr_predictor){.model = model, .vocab = vocab, .width = width, .positions = positions};
    p->row = orri_alloc((size_t)positions * sizeof(*p->row));
    if (!p->row) {
        free(p);
        return NULL;
    }
    return p;
}

void orr_predictor_destroy(struct orr_predictor *p)
{
    if (!p)
        return;
    orr_slots_destroy(p->slots);
    free(p->row);
    free(p);
}

int orr_predictor_vocab(const struct orr_predictor *p)
{
    return p->vocab;
}

int orr_predictor_positions(const struct orr_predictor *p)
{
    return p->positions;
}

/* Slots have one shape. A growing sequence gets the next power of two, so that it changes seldom; positions
 * behind the last token change nothing before them. */
static int make_room(struct orr_predictor *p, int count, int rows)
{
    if (p->slots && count <= p->seq && rows <= p->rows)
        return ORR_OK;
    int seq = 16;
    while (seq < count)
        seq *= 2;
    if (seq > p->positions)
        seq = p->positions;
    orr_slots_destroy(p->slots);
    p->seq = seq;
    p->rows = rows;
    struct orr_slots_options options = {
        .batch = 1, .seq = seq, .microbatches = 1, .predict_floats = (int64_t)rows * (p->vocab + p->width)};
    p->slots = orr_slots_create(p->model, &options);
    return orri_model_settle(p->model, p->slots ? ORR_OK : orr_error_code());
}

static void read_tokens(void *self, uint64_t first, int count, int seq, int32_t *tokens, int32_t *labels)
{
    const struct orr_predictor *p = self;

    (void)first, (void)count;
    for (int t = 0; t < seq; t++) {
        tokens[t] = t < p->count ? p->tokens[t] : 0;
        labels[t] = ORR_IGNORE;
    }
}

static int submit(struct orr_predictor *p, int rows)
{
    struct orr_model *model = p->model;
    struct orri_microbatch mb = {.run = model->runs++, .count = 1, .here = orri_replica_here(model, 0)};
    struct orr_source source = {read_tokens, p};

    for (int r = 0; r < rows; r++)
        p->row[r] = p->count - rows + r;
    ORR_TRY(orri_input_submit(p->slots, &mb, &source, 0));
    for (int l = 0; l < model->blocks - 1; l++)
        ORR_TRY(orri_forward_submit(p->slots, &mb, model->block[l]));
    return orri_predict_submit(p->slots, &mb, model->block[model->blocks - 1], (struct orr_rows){rows, p->row});
}

int orr_predict(struct orr_predictor *p, const int32_t *tokens, int count, int rows, float *logits, float *hidden)
{
    if (count < 1 || count > p->positions)
        return orri_remedy(orri_fail(ORR_EINVAL, "predict", "a sequence of %d tokens: the model takes 1 to %d", count,
                                     p->positions),
                           "give a shorter sequence");
    if (rows < 1 || rows > count)
        return orri_fail(ORR_EINVAL, "predict", "%d rows of a sequence of %d tokens", rows, count);
    for (int t = 0; t < count; t++)
        if (tokens[t] < 0 || tokens[t] >= p->vocab)
            return orri_fail(ORR_EINVAL, "predict", "token %d at position %d is outside the vocabulary of %d",
                             tokens[t], t, p->vocab);
    ORR_TRY(make_room(p, count, rows));
    p->tokens = tokens;
    p->count = count;
    ORR_TRY(orri_model_submitted(p->model, submit(p, rows)));
    struct orr_tile *tile = &p->slots->prediction;
    const float *out = orr_tile_acquire(tile, false);
    size_t v = (size_t)p->vocab, c = (size_t)p->width;
    for (int r = 0; out && r < rows; r++) {
        memcpy(logits + (size_t)r * v, out + (size_t)r * (v + c), v * sizeof(*logits));
        if (hidden)
            memcpy(hidden + (size_t)r * c, out + (size_t)r * (v + c) + v, c * sizeof(*hidden));
    }
    orr_tile_release(tile);
    return orri_model_settle(p->model, orr_model_status(p->model));
}
