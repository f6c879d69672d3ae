/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <stdlib.h>
#include <string.h>

#include "core/ranks.h"
#include "graph/graph.h"

/* Sequences that are continued. */
struct continued {
    int count;
    int *length;                /* [count] tokens of each that are kept; UNKNOWN: none                  */
    int32_t *sequence, *first, *tokens, *new;   /* [count] of the run under way: see struct orr_past; each one's last token */
    struct orri_cache cache;
    struct orr_slots *slots;    /* for the next token of each                                           */
};

enum { UNKNOWN = -2 };          /* no sequence is one token longer */

struct orr_predictor {
    struct orr_model *model;
    int vocab, width, positions;
    struct orr_slots *slots;    /* for a whole sequence                      */
    int seq, rows;              /* what these have room for                  */
    int32_t *row;               /* [positions] which rows are asked for, or [continued] */
    struct continued continued;
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

static void discontinue(struct continued *c)
{
    orr_slots_destroy(c->slots);
    orri_cache_destroy(&c->cache);
    free(c->length);
    free(c->sequence);
    *c = (struct continued){0};
}

void orr_predictor_destroy(struct orr_predictor *p)
{
    if (!p)
        return;
    discontinue(&p->continued);
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

/* ---- runs --------------------------------------------------------------------------------------------------- */

static struct orr_slots *make_slots(struct orr_predictor *p, int batch, int seq, int rows)
{
    struct orr_slots_options options = {
        .batch = batch, .seq = seq, .microbatches = 1, .predict_floats = (int64_t)rows * (p->vocab + p->width)};

    return orr_slots_create(p->model, &options);
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
    p->slots = make_slots(p, 1, seq, rows);
    return orri_model_settle(p->model, p->slots ? ORR_OK : orr_error_code());
}

/* The sequence, and padding. */
static void read_tokens(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct orr_predictor *p = self;

    (void)first, (void)count;
    for (int t = 0; t < seq; t++) {
        tokens[t] = t < p->count ? p->tokens[t] : 0;
        labels[t] = ORR_IGNORE;
    }
}

static void read_last_tokens(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct continued *c = self;

    (void)first, (void)seq;
    for (int i = 0; i < count; i++) {
        tokens[i] = c->tokens[i];
        labels[i] = ORR_IGNORE;
    }
}

static int submit(struct orr_predictor *p, struct orr_slots *slots, const struct orr_source *source, int count, int length,
                  struct orri_cache *cache, struct orr_rows rows)
{
    struct orr_model *model = p->model;
    struct orri_microbatch mb = {
        .run = model->runs++, .count = count, .here = orri_replica_here(model, 0), .length = length, .cache = cache};

    ORR_TRY(orri_input_submit(slots, &mb, source, 0));
    for (int l = 0; l < model->blocks - 1; l++)
        ORR_TRY(orri_forward_submit(slots, &mb, model->block[l]));
    return orri_predict_submit(slots, &mb, model->block[model->blocks - 1], rows);
}

/* Row r of what was predicted: its logits, and its hidden state unless NULL. */
static void take_row(const struct orr_predictor *p, const float *out, int r, float *logits, float *hidden)
{
    size_t v = (size_t)p->vocab, c = (size_t)p->width;

    memcpy(logits, out + (size_t)r * (v + c), v * sizeof(*logits));
    if (hidden)
        memcpy(hidden, out + (size_t)r * (v + c) + v, c * sizeof(*hidden));
}

static int check_sequence(const struct orr_predictor *p, const int32_t *tokens, int count)
{
    if (count < 1 || count > p->positions)
        return orri_remedy(orri_fail(ORR_EINVAL, "predict", "a sequence of %d tokens: the model takes 1 to %d", count,
                                     p->positions),
                           "give a shorter sequence");
    for (int t = 0; t < count; t++)
        if (tokens[t] < 0 || tokens[t] >= p->vocab)
            return orri_fail(ORR_EINVAL, "predict", "token %d at position %d is outside the vocabulary of %d",
                             tokens[t], t, p->vocab);
    return ORR_OK;
}

/* Runs a microbatch of `count` sequences and gives what the rows asked for came to: row r is number to[r] of logits and, unless NULL, of
 * hidden; without to[] number r. */
static int run(struct orr_predictor *p, struct orr_slots *slots, const struct orr_source *source, int count, struct orri_cache *cache,
               struct orr_rows rows, const int32_t *to, float *logits, float *hidden)
{
    ORR_TRY(orri_model_submitted(p->model, submit(p, slots, source, count, slots == p->slots ? p->count : 0, cache, rows)));
    const float *out = orr_tile_acquire(&slots->prediction, false);
    for (int r = 0; out && r < rows.count; r++) {
        size_t row = (size_t)(to ? to[r] : r);
        take_row(p, out, r, logits + row * (size_t)p->vocab, hidden ? hidden + row * (size_t)p->width : NULL);
    }
    orr_tile_release(&slots->prediction);
    return orri_model_settle(p->model, orr_model_status(p->model));
}

/* ---- a whole sequence ----------------------------------------------------------------------------------------- */

/* What it leaves goes to the cache, unless NULL. */
static int predict(struct orr_predictor *p, const int32_t *tokens, int count, int rows, struct orri_cache *cache, float *logits,
                   float *hidden)
{
    struct orr_source source = {read_tokens, p};

    ORR_TRY(make_room(p, count, rows));
    p->tokens = tokens;
    p->count = count;
    for (int r = 0; r < rows; r++)
        p->row[r] = count - rows + r;
    return run(p, p->slots, &source, 1, cache, (struct orr_rows){rows, p->row}, NULL, logits, hidden);
}

int orr_predict(struct orr_predictor *p, const int32_t *tokens, int count, int rows, float *logits, float *hidden)
{
    ORR_TRY(check_sequence(p, tokens, count));
    if (rows < 1 || rows > count)
        return orri_fail(ORR_EINVAL, "predict", "%d rows of a sequence of %d tokens", rows, count);
    return predict(p, tokens, count, rows, NULL, logits, hidden);
}

/* ---- continued sequences ------------------------------------------------------------------------------------------ */

static int begin(struct orr_predictor *p, int sequences)
{
    struct continued *c = &p->continued;
    size_t n = (size_t)sequences;
    int32_t *row = realloc(p->row, (sequences > p->positions ? n : (size_t)p->positions) * sizeof(*row));

    p->row = row ? row : p->row;
    c->count = sequences;
    c->length = orri_alloc(n * sizeof(*c->length));
    c->sequence = orri_alloc(4 * n * sizeof(*c->sequence));
    if (!row || !c->length || !c->sequence)
        return orri_fail(ORR_ENOMEM, "predict", "no room for %d sequences", sequences);
    c->first = c->sequence + n;
    c->new = c->first + n;
    c->tokens = c->new + n;
    for (int s = 0; s < sequences; s++)
        c->length[s] = UNKNOWN;
    ORR_TRY(orri_cache_create(&c->cache, p->model, sequences, p->positions));
    c->cache.past.sequence = c->sequence;
    c->cache.past.first = c->first;
    c->cache.past.count = c->new;
    c->slots = make_slots(p, sequences, 1, sequences);
    return c->slots ? ORR_OK : orr_error_code();
}

int orr_predictor_continue(struct orr_predictor *p, int sequences)
{
    discontinue(&p->continued);
    if (sequences < 0)
        return orri_fail(ORR_EINVAL, "predict", "%d sequences cannot be continued", sequences);
    if (sequences > 0 && p->model->chunks > 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "predict", "sequences that are cut into chunks cannot be continued"),
                           "leave sequence parallelism out");
    int status = sequences > 0 ? begin(p, sequences) : ORR_OK;
    status = orri_model_settle(p->model, status);
    if (status != 0)
        discontinue(&p->continued);
    return status;
}

/* Sequence s of the cache is the one of the microbatch, or number i of those in it. */
static void place(struct continued *c, int i, int s, int first, int count)
{
    c->sequence[i] = s;
    c->first[i] = first;
    c->new[i] = count;
}

/* From nothing: what is kept of it afterwards is all of it, or, where it is too long to be continued, nothing. */
static int predict_whole(struct orr_predictor *p, const struct orr_sequence *sequence, int s, float *logits)
{
    struct continued *c = &p->continued;
    bool fits = sequence->count <= p->positions, kept = c->count > 0 && fits;
    int seen = fits ? sequence->count : p->positions;
    const int32_t *tokens = sequence->tokens + sequence->count - seen;

    ORR_TRY(check_sequence(p, tokens, seen));
    if (kept) {
        ORR_TRY(orri_model_settle(p->model, orri_cache_reserve(&c->cache, seen)));
        place(c, 0, s, 0, seen);
    }
    if (c->count > 0)
        c->length[s] = UNKNOWN;
    ORR_TRY(predict(p, tokens, seen, 1, kept ? &c->cache : NULL, logits, NULL));
    if (kept)
        c->length[s] = seen;
    return ORR_OK;
}

static bool is_next(const struct orr_predictor *p, const struct orr_sequence *sequence, int s)
{
    return p->continued.count > 0 && sequence->count == p->continued.length[s] + 1 && sequence->count <= p->positions;
}

/* The next token of all sequences that have become one token longer. */
static int predict_continued(struct orr_predictor *p, const struct orr_sequence *sequences, int count, float *logits)
{
    struct continued *c = &p->continued;
    struct orr_source source = {read_last_tokens, c};
    int rows = 0, longest = 0;

    for (int s = 0; s < count; s++) {
        const struct orr_sequence *sequence = &sequences[s];
        if (sequence->ended || !is_next(p, sequence, s))
            continue;
        const int32_t *last = &sequence->tokens[sequence->count - 1];
        ORR_TRY(check_sequence(p, last, 1));
        c->tokens[rows] = *last;
        p->row[rows] = rows;
        place(c, rows++, s, c->length[s], 1);
        longest = sequence->count > longest ? sequence->count : longest;
    }
    for (int i = rows; i < c->count; i++)
        place(c, i, -1, 0, 0);
    if (rows == 0)
        return ORR_OK;
    ORR_TRY(orri_model_settle(p->model, orri_cache_reserve(&c->cache, longest)));
    ORR_TRY(run(p, c->slots, &source, rows, &c->cache, (struct orr_rows){rows, p->row}, c->sequence, logits, NULL));
    for (int i = 0; i < rows; i++)
        c->length[c->sequence[i]]++;
    return ORR_OK;
}

int orr_predict_next(struct orr_predictor *p, const struct orr_sequence *sequences, int count, float *logits)
{
    struct continued *c = &p->continued;

    if (c->count > 0 && count > c->count)
        return orri_fail(ORR_EINVAL, "predict", "%d sequences, of which %d are continued", count, c->count);
    for (int s = 0; s < count; s++)
        if (!sequences[s].ended && !is_next(p, &sequences[s], s))
            ORR_TRY(predict_whole(p, &sequences[s], s, logits + (size_t)s * (size_t)p->vocab));
    return predict_continued(p, sequences, count, logits);
}
