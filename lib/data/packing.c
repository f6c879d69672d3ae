/* SPDX-License-Identifier: Apache-2.0 */
#include "data/rows.h"

#include "core/core.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A window of a shuffled order holds tokens for so many rows. */
enum { WINDOW_ROWS = 256 };

/* The rows of one epoch: row r holds examples[first[r]] ... examples[first[r + 1] - 1]. */
struct epoch {
    int64_t number;         /* -1: nothing is here */
    int64_t rows;
    int64_t *first;         /* [rows + 1]          */
    int64_t *examples;
};

struct orr_packing {
    const struct orr_sequences *sequences;
    bool in_order;
    uint64_t seed;
    int seq;
    int64_t *members;       /* the examples, in their order */
    int64_t count;
    pthread_mutex_t lock;   /* of what follows                                               */
    int64_t *starts;        /* [known + 1]: the first row of each epoch packed so far, and behind */
    int64_t known;
    struct epoch kept[2];   /* epoch e in kept[e % 2] */
};

/* ---- packing a window ------------------------------------------------------------------------------ */

/* An example that waits for its row. */
struct piece {
    int64_t example;
    int size, source_size, bulk;    /* bulk: the larger of both         */
    int64_t next;                   /* the next one of its row, or -1   */
};

struct bin {
    int used, source_used;
    int64_t head, tail;             /* numbers of pieces                */
};

/* The window that is filled, and what is packed of the epoch. */
struct packer {
    const struct orr_packing *packing;
    struct epoch *epoch;
    struct piece *pieces;           /* [count]                          */
    int64_t count;
    struct bin *bins;               /* [count]                          */
    int64_t bin_count;
    int64_t done;                   /* examples that have their row     */
};

static void open_bin(struct packer *p, int64_t i)
{
    p->bins[p->bin_count++] = (struct bin){p->pieces[i].size, p->pieces[i].source_size, i, i};
}

static bool has_room(const struct packer *p, const struct bin *bin, const struct piece *piece)
{
    return bin->used + piece->size <= p->packing->seq && bin->source_used + piece->source_size <= p->packing->seq;
}

static void put_into_bin(struct packer *p, struct bin *bin, int64_t i)
{
    bin->used += p->pieces[i].size;
    bin->source_used += p->pieces[i].source_size;
    p->pieces[bin->tail].next = i;
    bin->tail = i;
}

/* The longest first; of equal ones the order that is given. */
static int by_bulk(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    return x->bulk != y->bulk ? (x->bulk < y->bulk) - (x->bulk > y->bulk) : (x->next > y->next) - (x->next < y->next);
}

static void first_fit(struct packer *p)
{
    for (int64_t i = 0; i < p->count; i++)
        p->pieces[i].next = i;
    qsort(p->pieces, (size_t)p->count, sizeof(*p->pieces), by_bulk);
    for (int64_t i = 0; i < p->count; i++) {
        int64_t b = 0;
        p->pieces[i].next = -1;
        while (b < p->bin_count && !has_room(p, &p->bins[b], &p->pieces[i]))
            b++;
        if (b < p->bin_count)
            put_into_bin(p, &p->bins[b], i);
        else
            open_bin(p, i);
    }
}

/* Each into the row of the one before it, as long as there is room. */
static void next_fit(struct packer *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        struct bin *last = p->bin_count ? &p->bins[p->bin_count - 1] : NULL;
        p->pieces[i].next = -1;
        if (last && has_room(p, last, &p->pieces[i]))
            put_into_bin(p, last, i);
        else
            open_bin(p, i);
    }
}

/* Packs the pieces so far behind the rows of the epoch. */
static void pack_window(struct packer *p)
{
    struct epoch *e = p->epoch;

    if (p->packing->in_order)
        next_fit(p);
    else
        first_fit(p);
    for (int64_t b = 0; b < p->bin_count; b++) {
        e->first[e->rows++] = p->done;
        for (int64_t i = p->bins[b].head; i >= 0; i = p->pieces[i].next)
            e->examples[p->done++] = p->pieces[i].example;
    }
    e->first[e->rows] = p->done;
    p->count = p->bin_count = 0;
}

static void add_piece(struct packer *p, int64_t example)
{
    const int size = orri_sequence_size(p->packing->sequences, example);
    const int source = orri_sequence_source_size(p->packing->sequences, example);

    p->pieces[p->count++] = (struct piece){example, size, source, size > source ? size : source, -1};
}

/* ---- epochs ---------------------------------------------------------------------------------------- */

static void pack_windows(struct packer *p)
{
    const struct orr_packing *packing = p->packing;
    const struct orr_rng order = {packing->seed, ORRI_STREAM_EXAMPLES, (uint32_t)p->epoch->number};
    const int64_t full = (int64_t)WINDOW_ROWS * packing->seq;
    int64_t bulk = 0;

    for (int64_t k = 0; k < packing->count; k++) {
        const uint64_t count = (uint64_t)packing->count;
        add_piece(p, packing->members[packing->in_order ? k : (int64_t)orr_rng_permute(&order, count, (uint64_t)k)]);
        bulk += p->pieces[p->count - 1].bulk;
        if (bulk >= full && !packing->in_order) {
            pack_window(p);
            bulk = 0;
        }
    }
    if (p->count)
        pack_window(p);
}

static void free_epoch(struct epoch *e)
{
    free(e->first);
    free(e->examples);
    *e = (struct epoch){.number = -1};
}

static int pack_epoch(const struct orr_packing *packing, int64_t number, struct epoch *e)
{
    const size_t count = (size_t)packing->count;

    free_epoch(e);
    struct packer p = {packing, e, orri_calloc(count, sizeof(*p.pieces)), 0, orri_calloc(count, sizeof(*p.bins)), 0, 0};
    e->first = orri_calloc(count + 1, sizeof(*e->first));
    e->examples = orri_calloc(count, sizeof(*e->examples));
    const bool room = p.pieces && p.bins && e->first && e->examples;
    if (room) {
        e->number = number;
        pack_windows(&p);
    } else {
        free_epoch(e);
    }
    free(p.pieces);
    free(p.bins);
    return room ? 0 : ORR_ENOMEM;
}

/* The epoch, packed now where it is not kept. Under the lock. */
static int find_epoch(struct orr_packing *p, int64_t number, struct epoch **epoch)
{
    *epoch = &p->kept[number % 2];
    return (*epoch)->number == number ? 0 : pack_epoch(p, number, *epoch);
}

/* Packs one epoch more than are known. Under the lock. */
static int learn_epoch(struct orr_packing *p)
{
    struct epoch *epoch;
    int64_t *starts = realloc(p->starts, (size_t)(p->known + 2) * sizeof(*starts));

    if (!starts)
        return orri_fail(ORR_ENOMEM, "data", "no room for %lld epochs", (long long)p->known);
    p->starts = starts;
    ORR_TRY(find_epoch(p, p->known, &epoch));
    starts[0] = 0;
    starts[p->known + 1] = starts[p->known] + epoch->rows;
    p->known++;
    return 0;
}

/* The epoch that row n is in, the last before the row where all are known. */
static int64_t epoch_of(const struct orr_packing *p, int64_t n)
{
    int64_t low = 0, high = p->known;

    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (p->starts[middle] <= n)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Finds the examples of row n: a copy is in examples[count], count <= T; none behind the last row in order. */
static int find_row(struct orr_packing *p, int64_t n, int64_t *examples, int *count)
{
    struct epoch *epoch;

    *count = 0;
    while (p->known == 0 || (!p->in_order && p->starts[p->known] <= n))
        ORR_TRY(learn_epoch(p));
    if (n >= p->starts[p->known])
        return 0;
    const int64_t e = epoch_of(p, n);
    ORR_TRY(find_epoch(p, e, &epoch));
    const struct orr_rng order = {p->seed, ORRI_STREAM_ROWS, (uint32_t)e};
    int64_t r = n - p->starts[e];
    if (!p->in_order)
        r = (int64_t)orr_rng_permute(&order, (uint64_t)epoch->rows, (uint64_t)r);
    *count = (int)(epoch->first[r + 1] - epoch->first[r]);
    memcpy(examples, epoch->examples + epoch->first[r], (size_t)*count * sizeof(*examples));
    return 0;
}

/* ---- the packing ----------------------------------------------------------------------------------- */

/* Collects the examples of a subset. */
static int choose(struct orr_packing *p, struct orr_subset subset)
{
    static const struct orr_rng rng = {0, ORRI_STREAM_SUBSET, 0};
    const int64_t all = orri_sequences_count(p->sequences), held = (int64_t)(subset.fraction * (double)all);

    if (!(subset.fraction >= 0 && subset.fraction < 1))
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "a validation fraction of %g", subset.fraction),
                           "give one from 0 to below 1");
    p->members = orri_calloc((size_t)all, sizeof(*p->members));
    if (!p->members)
        return ORR_ENOMEM;
    for (int64_t i = 0; i < all; i++)
        if ((held && (int64_t)orr_rng_permute(&rng, (uint64_t)all, (uint64_t)i) < held) == subset.held_out)
            p->members[p->count++] = i;
    if (p->count == 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "data", "no examples: the fraction %g of %lld is none", subset.fraction,
                                     (long long)all), "give a larger fraction, or files of their own");
    return 0;
}

static struct orr_packing *create(const struct orr_sequences *sequences, struct orr_subset subset, bool in_order, uint64_t seed)
{
    struct orr_packing *p = orri_calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->sequences = sequences;
    p->in_order = in_order;
    p->seed = seed;
    p->seq = orri_sequences_seq(sequences);
    p->kept[0].number = p->kept[1].number = -1;
    pthread_mutex_init(&p->lock, NULL);
    if (choose(p, subset) != 0) {
        orr_packing_destroy(p);
        return NULL;
    }
    return p;
}

struct orr_packing *orr_packing_create(const struct orr_sequences *sequences, struct orr_subset subset, uint64_t seed)
{
    return create(sequences, subset, false, seed);
}

struct orr_packing *orr_packing_create_in_order(const struct orr_sequences *sequences, struct orr_subset subset)
{
    return create(sequences, subset, true, 0);
}

void orr_packing_destroy(struct orr_packing *packing)
{
    if (!packing)
        return;
    free_epoch(&packing->kept[0]);
    free_epoch(&packing->kept[1]);
    pthread_mutex_destroy(&packing->lock);
    free(packing->starts);
    free(packing->members);
    free(packing);
}

int64_t orr_packing_examples(const struct orr_packing *packing)
{
    return packing->count;
}

int orr_packing_count(struct orr_packing *packing, int64_t epochs, int64_t *rows)
{
    int rc = 0;

    if (epochs < 0 || (packing->in_order && epochs > 1))
        return orri_fail(ORR_EINVAL, "data", "the rows of %lld epochs", (long long)epochs);
    pthread_mutex_lock(&packing->lock);
    while (rc == 0 && packing->known < epochs)
        rc = learn_epoch(packing);
    *rows = rc == 0 && epochs ? packing->starts[epochs] : 0;
    pthread_mutex_unlock(&packing->lock);
    return rc;
}

int orr_packing_fill(struct orr_packing *packing, double *fill, double *source_fill)
{
    int64_t rows, tokens = 0, source_tokens = 0;

    ORR_TRY(orr_packing_count(packing, 1, &rows));
    for (int64_t k = 0; k < packing->count; k++) {
        tokens += orri_sequence_size(packing->sequences, packing->members[k]);
        source_tokens += orri_sequence_source_size(packing->sequences, packing->members[k]);
    }
    const double room = (double)rows * packing->seq;
    *fill = (double)tokens / room;
    if (source_fill)
        *source_fill = (double)source_tokens / room;
    return 0;
}

int orr_packing_spans(struct orr_packing *packing, int64_t n, struct orr_span *spans, int *count)
{
    int at = 0, source_at = 0;

    if (n < 0)
        return orri_fail(ORR_EINVAL, "data", "row number %lld", (long long)n);
    int64_t *examples = orri_alloc((size_t)packing->seq * sizeof(*examples));
    if (!examples)
        return ORR_ENOMEM;
    pthread_mutex_lock(&packing->lock);
    int rc = find_row(packing, n, examples, count);
    pthread_mutex_unlock(&packing->lock);
    for (int k = 0; rc == 0 && k < *count; k++) {
        const int size = orri_sequence_size(packing->sequences, examples[k]);
        const int source_size = orri_sequence_source_size(packing->sequences, examples[k]);
        spans[k] = (struct orr_span){examples[k], at, size, source_at, source_size};
        at += size;
        source_at += source_size;
    }
    free(examples);
    return rc;
}

static void put_row(const struct orr_packing *p, const struct orr_span *spans, int count, const struct orr_row_arrays *row)
{
    const int32_t pad = orri_sequences_pad(p->sequences);
    int at = 0, source_at = 0;

    for (int k = 0; k < count; k++) {
        orri_sequence_put(p->sequences, spans[k].example, row, spans[k].first, spans[k].source_first);
        at = spans[k].first + spans[k].count;
        source_at = spans[k].source_first + spans[k].source_count;
    }
    orri_row_pad(row, p->seq, at, pad);
    orri_row_pad_source(row, p->seq, source_at, pad);
}

int orr_packing_read(struct orr_packing *packing, int64_t first, int count, const struct orr_row_arrays *rows)
{
    int rc = 0, found;

    if ((rows->source || rows->source_places) && !orri_sequences_have_source(packing->sequences))
        return orri_fail(ORR_EINVAL, "data", "these examples have no source");
    struct orr_span *spans = orri_alloc((size_t)packing->seq * sizeof(*spans));
    if (!spans)
        return ORR_ENOMEM;
    for (int i = 0; i < count && rc == 0; i++) {
        const struct orr_row_arrays row = orri_rows_at(rows, packing->seq, i);
        rc = orr_packing_spans(packing, first + i, spans, &found);
        if (rc == 0)
            put_row(packing, spans, found, &row);
    }
    free(spans);
    return rc;
}

static int read_source(void *self, int64_t first, int count, const struct orr_row_arrays *rows)
{
    return orr_packing_read(self, first, count, rows);
}

struct orr_row_source orr_packing_source(struct orr_packing *packing)
{
    return (struct orr_row_source){read_source, packing, packing->seq, orri_sequences_have_source(packing->sequences)};
}
