/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/infer.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "infer/likely.h"

/* A prompt's search. */
struct search {
    struct orr_sequence *text;      /* [width] that go on; in the first step there is one          */
    double *sum, *next;             /* [width] of their log-probabilities, now and in the next step */
    double *finished;               /* [width] scores of those that are finished, the best first   */
    int finished_count;
    struct orr_sequence best;       /* of these; `ended` where it did so before its full length    */
    bool done;
};

struct beams {
    const struct orr_beams *o;
    int count, vocab, more, room;   /* room: tokens of the longest text                            */
    int32_t stop;
    int added;                      /* tokens that every text has by now                           */
    struct search *search;          /* [count]                                                     */
    struct orr_sequence *text;      /* [count x width] of all searches                             */
    int32_t *tokens, *next;         /* [count x width][room] theirs, and those they will have; behind next[] the bests' */
    double *number;                 /* [count][3 x width] sums and scores                          */
    int *from;                      /* [count x width] what each was in the step before            */
    float *logits;                  /* [count x width][vocab]                                      */
    struct orri_candidate *candidate;   /* [width x vocab]                                         */
};

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static void free_beams(struct beams *b)
{
    free(b->search);
    free(b->text);
    free(b->tokens);
    free(b->next);
    free(b->number);
    free(b->from);
    free(b->logits);
    free(b->candidate);
}

static int make_beams(struct beams *b)
{
    size_t n = (size_t)b->count, texts = n * (size_t)b->o->width, room = (size_t)b->room, vocab = (size_t)b->vocab;

    b->search = orri_calloc(n, sizeof(*b->search));
    b->text = orri_calloc(texts, sizeof(*b->text));
    b->tokens = orri_alloc(texts * room * sizeof(*b->tokens));
    b->next = orri_alloc((texts + n) * room * sizeof(*b->next));
    b->number = orri_calloc(3 * texts, sizeof(*b->number));
    b->from = orri_alloc(texts * sizeof(*b->from));
    b->logits = orri_alloc(texts * vocab * sizeof(*b->logits));
    b->candidate = orri_alloc((size_t)b->o->width * vocab * sizeof(*b->candidate));
    return b->search && b->text && b->tokens && b->next && b->number && b->from && b->logits && b->candidate ? ORR_OK : ORR_ENOMEM;
}

/* Every search begins with one text, its prompt. */
static void begin(struct beams *b, const struct orr_sequence *sequences)
{
    int width = b->o->width;

    for (int i = 0; i < b->count * width; i++) {
        b->text[i] = (struct orr_sequence){b->tokens + (size_t)i * (size_t)b->room, sequences[i / width].count, i % width > 0};
        b->from[i] = i;
    }
    for (int i = 0; i < b->count; i++) {
        struct search *s = &b->search[i];
        s->text = &b->text[i * width];
        s->sum = b->number + (size_t)(3 * i * width);
        s->next = s->sum + width;
        s->finished = s->next + width;
        s->best.tokens = b->next + ((size_t)(b->count * width) + (size_t)i) * (size_t)b->room;
        memcpy(s->text[0].tokens, sequences[i].tokens, (size_t)sequences[i].count * sizeof(*s->text[0].tokens));
        s->done = sequences[i].ended;
        s->text[0].ended = s->done;
    }
}

/* ---- a step ------------------------------------------------------------------------------------------------------- */

static void to_log_probabilities(float *logits, int vocab)
{
    double largest = -INFINITY, sum = 0;

    for (int v = 0; v < vocab; v++)
        largest = fmax(largest, (double)logits[v]);
    for (int v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - largest);
    largest += log(sum);
    for (int v = 0; v < vocab; v++)
        logits[v] = (float)((double)logits[v] - largest);
}

/* Every token behind every text of a search; how many those are, or a negative code. */
static int add_up(struct beams *b, int i)
{
    const struct search *s = &b->search[i];
    int count = 0;

    for (int k = 0; k < b->o->width; k++) {
        const struct orr_sequence *text = &s->text[k];
        float *logits = b->logits + (size_t)(i * b->o->width + k) * (size_t)b->vocab;
        if (text->ended)
            continue;
        to_log_probabilities(logits, b->vocab);
        ORR_TRY(orr_apply_rules(&b->o->rules, text->tokens, text->count, b->added, b->stop, logits, b->vocab));
        for (int v = 0; v < b->vocab; v++)
            b->candidate[count++] = (struct orri_candidate){s->sum[k] + (double)logits[v], k * b->vocab + v};
    }
    return count;
}

static double score_of(const struct beams *b, double sum, int added)
{
    return sum / pow(added, b->o->length_penalty);
}

/* Its score goes among the best `width`. */
static void finish(const struct beams *b, struct search *s, const struct orr_sequence *text, double score)
{
    int at = s->finished_count;

    if (at == b->o->width && score <= s->finished[at - 1])
        return;
    at -= at == b->o->width;
    for (; at > 0 && score > s->finished[at - 1]; at--)
        s->finished[at] = s->finished[at - 1];
    s->finished[at] = score;
    s->finished_count += s->finished_count < b->o->width;
    if (at > 0)
        return;
    memcpy(s->best.tokens, text->tokens, (size_t)text->count * sizeof(*text->tokens));
    s->best.count = text->count;
    s->best.ended = text->ended;
}

/* Text number `to` of the next step: what candidate c makes of its own. `ended` is whether it ends now. */
static struct orr_sequence write_next(struct beams *b, int i, int to, const struct orri_candidate *c)
{
    const struct orr_sequence *before = &b->search[i].text[c->index / b->vocab];
    struct orr_sequence text = {b->next + (size_t)(i * b->o->width + to) * (size_t)b->room, before->count + 1, false};
    int32_t token = c->index % b->vocab;

    memcpy(text.tokens, before->tokens, (size_t)before->count * sizeof(*text.tokens));
    text.tokens[before->count] = token;
    text.ended = token == b->stop || (b->o->ends && b->o->ends(b->o->self, i, text.tokens, text.count));
    return text;
}

/* Where the best 2 x width of a search go; how many of them go on, or a negative code. Those that do not are overwritten. */
static int choose(struct beams *b, int i)
{
    struct search *s = &b->search[i];
    int width = b->o->width, kept = 0, count = add_up(b, i);
    bool last = b->added + 1 == b->more;
    struct orri_likely likely;

    if (count < 0)
        return count;
    orri_likely_make(&likely, b->candidate, count);
    for (int n = 0; n < 2 * width && kept < width; n++) {
        struct orri_candidate c = orri_likely_take(&likely);
        if (c.score == -INFINITY)
            break;
        struct orr_sequence text = write_next(b, i, kept, &c);
        b->from[i * width + kept] = i * width + c.index / b->vocab;
        if ((text.ended || last) && n < width)
            finish(b, s, &text, score_of(b, c.score, b->added + 1));
        if (!text.ended && !last)
            s->next[kept++] = c.score;
    }
    return kept;
}

/* Is the best of those that go on, ended now, no better than the worst of `width` that are finished? */
static bool is_decided(const struct beams *b, const struct search *s)
{
    int width = b->o->width;

    return s->finished_count == width && score_of(b, s->next[0], b->added + 1) <= s->finished[width - 1];
}

static int search_on(struct beams *b, int i)
{
    struct search *s = &b->search[i];
    int width = b->o->width, length = s->text[0].count, kept = choose(b, i);

    if (kept < 0)
        return kept;
    s->done = kept == 0 || is_decided(b, s);
    for (int k = 0; k < width; k++) {
        struct orr_sequence *text = &s->text[k];
        text->ended = s->done || k >= kept;
        if (text->ended) {
            b->from[i * width + k] = i * width + k;
            continue;
        }
        text->tokens = b->next + (size_t)(i * width + k) * (size_t)b->room;
        text->count = length + 1;
        s->sum[k] = s->next[k];
    }
    return ORR_OK;
}

/* One token more for every text; how many searches go on then, or a negative code. */
static int step(struct beams *b, struct orr_predictor *predictor)
{
    int texts = b->count * b->o->width, left = 0;

    ORR_TRY(orr_predict_next(predictor, b->text, texts, b->logits));
    for (int i = 0; i < b->count; i++) {
        if (!b->search[i].done)
            ORR_TRY(search_on(b, i));
        left += !b->search[i].done;
    }
    int32_t *tokens = b->tokens;
    b->tokens = b->next;
    b->next = tokens;
    b->added++;
    ORR_TRY(left > 0 ? orr_predictor_rearrange(predictor, b->from, texts) : ORR_OK);
    return left;
}

/* ---- the search --------------------------------------------------------------------------------------------------- */

/* Where every token that there is was forbidden nothing is finished, and the text is as long as it could get. */
static void append_best(const struct beams *b, struct orr_sequence *sequences, double *score)
{
    for (int i = 0; i < b->count; i++) {
        const struct search *s = &b->search[i];
        const struct orr_sequence *best = s->finished_count > 0 ? &s->best : &s->text[0];
        if (sequences[i].ended)
            continue;
        memcpy(sequences[i].tokens, best->tokens, (size_t)best->count * sizeof(*best->tokens));
        sequences[i].count = best->count;
        sequences[i].ended = s->finished_count > 0 && best->ended;
        if (score)
            score[i] = s->finished_count > 0 ? s->finished[0] : -INFINITY;
    }
}

int orr_generate_beams(struct orr_predictor *predictor, struct orr_sequence *sequences, int count, int more, int32_t stop,
                       const struct orr_beams *beams, double *score)
{
    struct beams b = {.o = beams, .count = count, .vocab = orr_predictor_vocab(predictor), .more = more, .stop = stop};

    if (beams->width < 1 || b.vocab < 2 * beams->width)
        return orri_remedy(orri_fail(ORR_EINVAL, "generate", "%d beams need a vocabulary of twice as many tokens, and it has %d",
                                     beams->width, b.vocab),
                           "search with fewer beams");
    for (int i = 0; i < count; i++)
        b.room = sequences[i].count + more > b.room ? sequences[i].count + more : b.room;
    int status = make_beams(&b), left = count;
    if (status == 0)
        begin(&b, sequences);
    while (status == 0 && left > 0 && b.added < more) {
        left = step(&b, predictor);
        status = left < 0 ? left : ORR_OK;
    }
    if (status == 0 && more > 0)
        append_best(&b, sequences, score);
    free_beams(&b);
    return status;
}
