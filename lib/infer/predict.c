/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <stdlib.h>
#include <string.h>

#include "core/ranks.h"
#include "graph/graph.h"

/* What a replica does of the run under way, and keeps. */
struct replica {
    int number;
    int count;                  /* sequences of its microbatch; 0: it has nothing to do                          */
    struct orr_source source;   /* of their tokens                                                               */
    bool cached;                /* what they leave goes to the cache                                             */
    int rows;                   /* that are asked for of it                                                      */
    int32_t *row, *to;          /* [rows] which, and number to[r] of all that are asked for                      */
    const int32_t *tokens;      /* of a whole sequence                                                           */
    int length;
    const int32_t *source_tokens;       /* of the encoder                                                    */
    int source_length;
    int32_t *sequence, *first, *added, *last;   /* [batch] see struct orr_past; each one's last token        */
    struct orri_cache cache;
};

/* Sequences that are continued. */
struct continued {
    int count, together;
    int *length;                /* [count] tokens of each that are kept; UNKNOWN: none                  */
    struct orr_slots *slots;    /* for the next token of each                                           */
};

enum { UNKNOWN = -2 };          /* no sequence is one token longer */

struct orr_predictor {
    struct orr_model *model;
    int vocab, width, positions;
    int32_t *source;            /* [source_length] what the encoder reads    */
    int source_length;
    struct orr_slots *slots;    /* for a whole sequence                      */
    int seq, rows;              /* what these have room for                  */
    struct replica *replica;    /* [dp]                                      */
    struct continued continued;
};

static int replicas(const struct orr_predictor *p)
{
    return p->model->mesh.dp;
}

/* Rows that can be asked for of each replica. */
static int make_rows(struct orr_predictor *p, size_t rows)
{
    for (int d = 0; d < replicas(p); d++) {
        int32_t *row = realloc(p->replica[d].row, 2 * rows * sizeof(*row));
        if (!row)
            return orri_fail(ORR_ENOMEM, "predict", "no room for %zu rows", rows);
        p->replica[d].row = row;
        p->replica[d].to = row + rows;
        p->replica[d].number = d;
    }
    return ORR_OK;
}

struct orr_predictor *orr_predictor_create(struct orr_model *model, int vocab, int width, int positions)
{
    struct orr_predictor *p = orri_calloc(1, sizeof(*p));

    if (!p || orr_model_allocate(model) != 0) {
        free(p);
        return NULL;
    }
    *p = (struct orr_predictor){.model = model, .vocab = vocab, .width = width, .positions = positions};
    p->replica = orri_calloc((size_t)replicas(p), sizeof(*p->replica));
    if (!p->replica || make_rows(p, (size_t)positions) != 0) {
        orr_predictor_destroy(p);
        return NULL;
    }
    return p;
}

static void discontinue(struct orr_predictor *p)
{
    orr_slots_destroy(p->continued.slots);
    free(p->continued.length);
    p->continued = (struct continued){0};
    for (int d = 0; d < replicas(p); d++) {
        orri_cache_destroy(&p->replica[d].cache);
        free(p->replica[d].sequence);
        p->replica[d].sequence = NULL;
    }
}

void orr_predictor_destroy(struct orr_predictor *p)
{
    if (!p)
        return;
    if (p->replica)
        discontinue(p);
    for (int d = 0; p->replica && d < replicas(p); d++)
        free(p->replica[d].row);
    orr_slots_destroy(p->slots);
    free(p->replica);
    free(p->source);
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

static bool has_encoder(const struct orr_model *model)
{
    for (int l = 0; l < model->blocks; l++)
        if (model->block[l]->spec.source)
            return true;
    return false;
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
    if (count < p->source_length)
        count = p->source_length;
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

/* So many tokens of a sequence, and padding, which is another one. */
static void fill(const int32_t *from, int length, int seq, int32_t *tokens, int32_t *places)
{
    for (int t = 0; t < seq; t++) {
        tokens[t] = t < length ? from[t] : 0;
        places[t] = t < length ? t : t - length;
    }
}

/* The sequence. */
static void read_tokens(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    const struct replica *replica = self;

    (void)first, (void)count;
    fill(replica->tokens, replica->length, seq, field[ORR_FIELD_TOKENS], field[ORR_FIELD_PLACES]);
    fill(replica->source_tokens, replica->source_length, seq, field[ORR_FIELD_SOURCE], field[ORR_FIELD_SOURCE_PLACES]);
    for (int t = 0; t < seq; t++)
        field[ORR_FIELD_LABELS][t] = ORR_IGNORE;
}

static void read_last_tokens(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];
    const struct replica *replica = self;

    (void)first, (void)seq;
    for (int i = 0; i < count; i++) {
        tokens[i] = replica->last[i];
        labels[i] = ORR_IGNORE;
    }
}

static int submit(struct orr_predictor *p, struct orr_slots *slots, struct replica *replica, int64_t run)
{
    struct orr_model *model = p->model;
    struct orri_microbatch mb = {.run = run, .count = replica->count, .replica = replica->number,
                                 .here = orri_replica_here(model, replica->number), .length = replica->length,
                                 .cache = replica->cached ? &replica->cache : NULL};

    ORR_TRY(orri_input_submit(slots, &mb, &replica->source, 0));
    for (int l = 0; l < model->blocks - 1; l++)
        ORR_TRY(orri_forward_submit(slots, &mb, model->block[l]));
    return orri_predict_submit(slots, &mb, model->block[model->blocks - 1], (struct orr_rows){replica->rows, replica->row});
}

/* Row r of what was predicted: its logits, and its hidden state unless NULL. */
static void take_row(const struct orr_predictor *p, const float *out, int r, float *logits, float *hidden)
{
    size_t v = (size_t)p->vocab, c = (size_t)p->width;

    memcpy(logits, out + (size_t)r * (v + c), v * sizeof(*logits));
    if (hidden)
        memcpy(hidden, out + (size_t)r * (v + c) + v, c * sizeof(*hidden));
}

static void take(const struct orr_predictor *p, struct orr_tile *prediction, const struct replica *replica, float *logits,
                 float *hidden)
{
    const float *out = orr_tile_acquire(prediction, false);

    for (int r = 0; out && r < replica->rows; r++) {
        size_t row = (size_t)replica->to[r];
        take_row(p, out, r, logits + row * (size_t)p->vocab, hidden ? hidden + row * (size_t)p->width : NULL);
    }
    orr_tile_release(prediction);
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

static void begin_round(struct orr_predictor *p)
{
    for (int d = 0; d < replicas(p); d++)
        p->replica[d].count = 0;
}

/* Runs the microbatches of all replicas that have one, and gives what the rows asked for came to. */
static int run(struct orr_predictor *p, struct orr_slots *slots, float *logits, float *hidden)
{
    int64_t number = p->model->runs++;
    int status = ORR_OK;

    for (int d = 0; d < replicas(p); d++)
        if (p->replica[d].count > 0 && status == 0)
            status = submit(p, slots, &p->replica[d], number);
    ORR_TRY(orri_model_submitted(p->model, status));
    for (int d = 0; d < replicas(p); d++)
        if (p->replica[d].count > 0)
            take(p, &slots->prediction[d], &p->replica[d], logits, hidden);
    return orri_model_settle(p->model, orr_model_status(p->model));
}

/* ---- a whole sequence ----------------------------------------------------------------------------------------- */

/* Its last row goes to number `to`, and the rows before it before that. */
static void set_whole(struct replica *replica, const int32_t *tokens, int count, int rows, int to, bool cached)
{
    replica->count = 1;
    replica->source = (struct orr_source){read_tokens, replica};
    replica->cached = cached;
    replica->tokens = tokens;
    replica->length = count;
    replica->rows = rows;
    for (int r = 0; r < rows; r++) {
        replica->row[r] = count - rows + r;
        replica->to[r] = to - rows + 1 + r;
    }
}

int orr_predictor_source(struct orr_predictor *p, const int32_t *tokens, int count)
{
    if (!has_encoder(p->model))
        return orri_fail(ORR_EINVAL, "predict", "the model has no encoder to read a source");
    ORR_TRY(check_sequence(p, tokens, count));
    int32_t *source = realloc(p->source, (size_t)count * sizeof(*source));
    if (!source)
        return orri_fail(ORR_ENOMEM, "predict", "no room for a source of %d tokens", count);
    memcpy(source, tokens, (size_t)count * sizeof(*source));
    p->source = source;
    p->source_length = count;
    for (int d = 0; d < replicas(p); d++) {
        p->replica[d].source_tokens = source;
        p->replica[d].source_length = count;
    }
    return ORR_OK;
}

int orr_predict(struct orr_predictor *p, const int32_t *tokens, int count, int rows, float *logits, float *hidden)
{
    ORR_TRY(check_sequence(p, tokens, count));
    if (rows < 1 || rows > count)
        return orri_fail(ORR_EINVAL, "predict", "%d rows of a sequence of %d tokens", rows, count);
    ORR_TRY(make_room(p, count, rows));
    begin_round(p);
    set_whole(&p->replica[0], tokens, count, rows, rows - 1, false);
    return run(p, p->slots, logits, hidden);
}

/* ---- continued sequences ------------------------------------------------------------------------------------------ */

/* Those of `count` that replica d has. */
static struct orr_part dealt(const struct orr_predictor *p, int count, int d)
{
    const struct continued *c = &p->continued;

    return c->count > 0 ? orr_split(c->count, c->together, replicas(p), d) : orr_split(count, 1, replicas(p), d);
}

/* All replicas' microbatches have the shape of the largest. */
static size_t most_dealt(const struct orr_predictor *p)
{
    return (size_t)dealt(p, 0, 0).count;
}

static int begin_replica(struct orr_predictor *p, struct replica *replica)
{
    size_t n = most_dealt(p);

    replica->sequence = orri_alloc(4 * n * sizeof(*replica->sequence));
    if (!replica->sequence)
        return orri_fail(ORR_ENOMEM, "predict", "no room for %zu sequences", n);
    replica->first = replica->sequence + n;
    replica->added = replica->first + n;
    replica->last = replica->added + n;
    ORR_TRY(orri_cache_create(&replica->cache, p->model, replica->number, (int)dealt(p, 0, replica->number).count, p->positions));
    replica->cache.past.sequence = replica->sequence;
    replica->cache.past.first = replica->first;
    replica->cache.past.count = replica->added;
    return ORR_OK;
}

static int begin(struct orr_predictor *p, int sequences, int together)
{
    struct continued *c = &p->continued;

    c->count = sequences;
    c->together = together;
    c->length = orri_alloc((size_t)sequences * sizeof(*c->length));
    if (!c->length)
        return ORR_ENOMEM;
    for (int s = 0; s < sequences; s++)
        c->length[s] = UNKNOWN;
    int most = (int)most_dealt(p);
    ORR_TRY(make_rows(p, (size_t)(most > p->positions ? most : p->positions)));
    for (int d = 0; d < replicas(p); d++)
        ORR_TRY(begin_replica(p, &p->replica[d]));
    c->slots = make_slots(p, most, 1, most);
    return c->slots ? ORR_OK : orr_error_code();
}

int orr_predictor_continue(struct orr_predictor *p, int sequences, int together)
{
    discontinue(p);
    if (sequences < 0 || together < 1 || sequences % together != 0)
        return orri_fail(ORR_EINVAL, "predict", "%d sequences, %d together, cannot be continued", sequences, together);
    if (sequences > 0 && p->model->chunks > 1)
        return orri_remedy(orri_fail(ORR_EINVAL, "predict", "sequences that are cut into chunks cannot be continued"),
                           "leave sequence parallelism out");
    if (sequences > 0 && has_encoder(p->model))
        return orri_fail(ORR_EINVAL, "predict", "sequences of a model with an encoder cannot be continued");
    int status = sequences > 0 ? begin(p, sequences, together) : ORR_OK;
    status = orri_model_settle(p->model, status);
    if (status != 0)
        discontinue(p);
    return status;
}

static int rearrange_replica(struct orr_predictor *p, struct replica *replica, const int *from, int *moved)
{
    struct orr_part mine = dealt(p, 0, replica->number);

    for (int s = 0; s < mine.count; s++)
        moved[s] = from[mine.first + s] - (int)mine.first;
    return orri_cache_rearrange(&replica->cache, moved, p->continued.length + mine.first);
}

/* The lengths change behind the caches, which ask for those before. */
static int rearrange(struct orr_predictor *p, const int *from)
{
    struct continued *c = &p->continued;
    int *moved = orri_alloc((size_t)c->count * sizeof(*moved)), status = moved ? ORR_OK : ORR_ENOMEM;

    for (int d = 0; d < replicas(p) && status == 0; d++)
        status = rearrange_replica(p, &p->replica[d], from, moved);
    for (int s = 0; s < c->count && status == 0; s++)
        moved[s] = c->length[from[s]];
    if (status == 0)
        memcpy(c->length, moved, (size_t)c->count * sizeof(*moved));
    free(moved);
    return orri_model_submitted(p->model, status);
}

int orr_predictor_rearrange(struct orr_predictor *p, const int *from, int count)
{
    const struct continued *c = &p->continued;

    if (c->count > 0 && count != c->count)
        return orri_fail(ORR_EINVAL, "predict", "%d sequences, of which %d are continued", count, c->count);
    for (int s = 0; s < c->count; s++)
        if (from[s] < 0 || from[s] / c->together != s / c->together)
            return orri_fail(ORR_EINVAL, "predict", "sequence %d cannot become number %d: of %d each are together", s, from[s],
                             c->together);
    return c->count > 0 ? rearrange(p, from) : ORR_OK;
}

/* Number i of a replica's microbatch is number s of its sequences. */
static void place(struct replica *replica, int i, int s, int first, int added)
{
    replica->sequence[i] = s;
    replica->first[i] = first;
    replica->added[i] = added;
}

static bool is_next(const struct orr_predictor *p, const struct orr_sequence *sequence, int s)
{
    return p->continued.count > 0 && sequence->count == p->continued.length[s] + 1 && sequence->count <= p->positions;
}

/* Sequence number s from nothing: what is kept of it afterwards is all of it, or, where it is too long to be continued, nothing. */
static int prepare_whole(struct orr_predictor *p, struct replica *replica, const struct orr_sequence *sequence, int s)
{
    struct continued *c = &p->continued;
    bool cached = c->count > 0 && sequence->count <= p->positions;
    int seen = sequence->count < p->positions ? sequence->count : p->positions;
    const int32_t *tokens = sequence->tokens + sequence->count - seen;

    ORR_TRY(check_sequence(p, tokens, seen));
    if (c->count > 0)
        c->length[s] = UNKNOWN;
    if (cached)
        place(replica, 0, s - (int)dealt(p, 0, replica->number).first, 0, seen);
    set_whole(replica, tokens, seen, 1, s, cached);
    return ORR_OK;
}

/* What these begin to write of pages that are there must be theirs alone. */
static int reserve_whole(struct orr_predictor *p)
{
    struct continued *c = &p->continued;
    int *same = orri_alloc((size_t)c->count * sizeof(*same)), status = same ? ORR_OK : ORR_ENOMEM;

    for (int s = 0; same && s < c->count; s++)
        same[s] = s;
    if (same)
        status = rearrange(p, same);
    for (int d = 0; d < replicas(p) && status == 0; d++)
        if (p->replica[d].count > 0 && p->replica[d].cached)
            status = orri_cache_reserve(&p->replica[d].cache, p->replica[d].length);
    free(same);
    return orri_model_settle(p->model, status);
}

/* The next of a replica's sequences, from number *s on, that has to be computed whole. */
static const struct orr_sequence *find_whole(const struct orr_predictor *p, const struct orr_sequence *sequences, int end, int *s)
{
    for (; *s < end; ++*s)
        if (!sequences[*s].ended && !is_next(p, &sequences[*s], *s))
            return &sequences[*s];
    return NULL;
}

/* Runs the sequences that were prepared. */
static int predict_round(struct orr_predictor *p, int longest, float *logits)
{
    if (p->continued.count > 0)
        ORR_TRY(reserve_whole(p));
    ORR_TRY(make_room(p, longest, 1));
    ORR_TRY(run(p, p->slots, logits, NULL));
    for (int d = 0; d < replicas(p); d++)
        if (p->replica[d].count > 0 && p->replica[d].cached)
            p->continued.length[p->replica[d].to[0]] = p->replica[d].length;
    return ORR_OK;
}

/* Those that cannot be continued: of each replica one at a time. next[d] is the number of the first that it has not looked at. */
static int predict_wholes(struct orr_predictor *p, const struct orr_sequence *sequences, int count, int *next, float *logits)
{
    for (int d = 0; d < replicas(p); d++)
        next[d] = (int)dealt(p, count, d).first;
    for (int longest = 1; longest > 0;) {
        longest = 0;
        begin_round(p);
        for (int d = 0; d < replicas(p); d++) {
            struct orr_part mine = dealt(p, count, d);
            int end = (int)(mine.first + mine.count);
            const struct orr_sequence *sequence = find_whole(p, sequences, end < count ? end : count, &next[d]);
            if (!sequence)
                continue;
            ORR_TRY(prepare_whole(p, &p->replica[d], sequence, next[d]++));
            longest = p->replica[d].length > longest ? p->replica[d].length : longest;
        }
        if (longest > 0)
            ORR_TRY(predict_round(p, longest, logits));
    }
    return ORR_OK;
}

/* A replica's sequences that have become one token longer, of the first `count`; *longest becomes the length of the longest. */
static int prepare_next(struct orr_predictor *p, struct replica *replica, const struct orr_sequence *sequences, int count,
                        int *longest)
{
    struct orr_part mine = dealt(p, count, replica->number);
    int n = 0;

    replica->source = (struct orr_source){read_last_tokens, replica};
    replica->cached = true;
    for (int i = 0; i < mine.count; i++) {
        int s = (int)mine.first + i;
        const struct orr_sequence *sequence = &sequences[s];
        if (s >= count || sequence->ended || !is_next(p, sequence, s))
            continue;
        replica->last[n] = sequence->tokens[sequence->count - 1];
        ORR_TRY(check_sequence(p, &replica->last[n], 1));
        replica->row[n] = n;
        replica->to[n] = s;
        place(replica, n++, i, p->continued.length[s], 1);
        *longest = sequence->count > *longest ? sequence->count : *longest;
    }
    for (int i = n; i < (int)most_dealt(p); i++)
        place(replica, i, -1, 0, 0);
    replica->count = replica->rows = n;
    replica->length = 0;
    return ORR_OK;
}

/* The next token of all sequences that have become one token longer. */
static int predict_continued(struct orr_predictor *p, const struct orr_sequence *sequences, int count, float *logits)
{
    struct continued *c = &p->continued;
    int status = ORR_OK, rows = 0;

    begin_round(p);
    for (int d = 0; d < replicas(p); d++) {
        int longest = 0;
        ORR_TRY(prepare_next(p, &p->replica[d], sequences, count, &longest));
        rows += p->replica[d].rows;
        if (status == 0)
            status = orri_cache_reserve(&p->replica[d].cache, longest);
    }
    if (rows == 0)
        return ORR_OK;
    ORR_TRY(orri_model_settle(p->model, status));
    ORR_TRY(run(p, c->slots, logits, NULL));
    for (int d = 0; d < replicas(p); d++)
        for (int i = 0; i < p->replica[d].count; i++)
            c->length[p->replica[d].to[i]]++;
    return ORR_OK;
}

int orr_predict_next(struct orr_predictor *p, const struct orr_sequence *sequences, int count, float *logits)
{
    const struct continued *c = &p->continued;

    if (c->count > 0 && count > c->count)
        return orri_fail(ORR_EINVAL, "predict", "%d sequences, of which %d are continued", count, c->count);
    int *next = orri_alloc((size_t)replicas(p) * sizeof(*next));
    int status = next ? predict_wholes(p, sequences, count, next, logits) : ORR_ENOMEM;
    free(next);
    return status == 0 && c->count > 0 ? predict_continued(p, sequences, count, logits) : status;
}
