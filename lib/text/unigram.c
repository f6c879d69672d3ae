/* SPDX-License-Identifier: Apache-2.0 */
/* The unigram language model (Kudo 2018, arXiv:1804.10959): of all ways to cut a text into pieces the one whose scores, which are
 * logarithms of probabilities, have the largest sum; found by dynamic programming over where pieces end (Viterbi). A character
 * without a piece of its own is unknown, at ten less than the lowest score. */
#include "core/core.h"
#include "text/text.h"

/* The best way to a place in the text. */
struct path {
    double score;
    int32_t id;
    size_t from;
    bool there;
};

static void offer(struct path *to, double score, int32_t id, size_t from)
{
    if (!to->there || score > to->score)
        *to = (struct path){score, id, from, true};
}

/* Every piece that begins at `at` leads on. */
static void lead_on(const struct orri_model *m, struct path *paths, const char *text, size_t size, size_t at, size_t character)
{
    const double score = paths[at].score;
    bool known = false;
    int32_t node = 0;

    for (size_t end = at; end < size;) {
        const struct orri_pair *edge = orri_pairs_get(&m->pieces.edges, ORRI_PAIR(node, (unsigned char)text[end++]));
        if (!edge)
            break;
        node = edge->first;
        if (edge->second < 0)
            continue;
        offer(&paths[end], m->score[edge->second] + score, edge->second, at);
        known = known || end == at + character;
    }
    if (!known)
        offer(&paths[at + character], m->unknown_score + score, m->unknown, at);
}

/* A piece of what is unknown: its bytes, where the vocabulary has them all. */
static int add_unknown(const struct orri_files *t, struct orri_encoder *e, const char *text, size_t size)
{
    const struct orri_model *m = &t->model;
    bool all = m->byte_fallback;

    for (size_t i = 0; all && i < size; i++)
        all = m->byte[(unsigned char)text[i]] >= 0;
    for (size_t i = 0; all && i < size; i++)
        ORR_TRY(orri_encoder_add(e, m->byte[(unsigned char)text[i]]));
    return all ? ORR_OK : orri_encoder_add(e, m->unknown);
}

/* From the end, the way back is turned into the way there: each place gets where its piece ends. */
static int read_path(const struct orri_files *t, struct orri_encoder *e, struct path *paths, const char *text, size_t size)
{
    const int32_t unknown = t->model.unknown;
    size_t end = size, behind = size;

    for (size_t from; end > 0; behind = end, end = from) {
        from = paths[end].from;
        paths[end].from = behind;
    }
    paths[0].from = behind;
    for (size_t at = 0, next; at < size; at = next) {
        next = paths[at].from;
        if (paths[next].id != unknown) {
            ORR_TRY(orri_encoder_add(e, paths[next].id));
            continue;
        }
        while (next < size && paths[paths[next].from].id == unknown)    /* what is unknown side by side is one */
            next = paths[next].from;
        int32_t id = orri_vocab_id(&t->vocab, text + at, next - at);
        ORR_TRY(id >= 0 ? orri_encoder_add(e, id) : add_unknown(t, e, text + at, next - at));
    }
    return ORR_OK;
}

int orri_unigram_encode(const struct orri_files *t, struct orri_encoder *e, const char *word, size_t size)
{
    ORR_TRY(orri_grow(&e->paths, &e->path_capacity, 0, size + 1, sizeof(struct path)));
    struct path *paths = e->paths;
    memset(paths, 0, (size + 1) * sizeof(*paths));
    for (size_t at = 0, next = 0; at < size; at = next) {
        U8_FWD_1_UNSAFE((const uint8_t *)word, next);
        lead_on(&t->model, paths, word, size, at, next - at);
    }
    return read_path(t, e, paths, word, size);
}
