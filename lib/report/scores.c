/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/scores.h>

#include "core/core.h"

#include <stdlib.h>
#include <string.h>

/* Of a class: how often it is predicted and true, predicted, true. */
struct count {
    int64_t right, predicted, truth;
};

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static struct orr_score score_of(struct count c)
{
    const double right = (double)c.right;

    return (struct orr_score){
        .precision = ratio(right, (double)c.predicted),
        .recall = ratio(right, (double)c.truth),
        .f1 = ratio(2 * right, (double)(c.predicted + c.truth)),
        .support = c.truth,
    };
}

static void add_weighted(struct orr_score *sum, const struct orr_score *score, double weight)
{
    sum->precision += weight * score->precision;
    sum->recall += weight * score->recall;
    sum->f1 += weight * score->f1;
}

static void divide(struct orr_score *sum, double by)
{
    sum->precision = ratio(sum->precision, by);
    sum->recall = ratio(sum->recall, by);
    sum->f1 = ratio(sum->f1, by);
}

/* The scores of every class and their means. */
static void sum_up(struct orr_scores *s, const struct count *counts)
{
    struct count all = {0, 0, 0};
    double occurring = 0;

    for (int c = 0; c < s->classes; c++) {
        s->each[c] = score_of(counts[c]);
        s->occurs[c] = counts[c].predicted + counts[c].truth > 0;
        occurring += s->occurs[c];
        all.right += counts[c].right;
        all.predicted += counts[c].predicted;
        all.truth += counts[c].truth;
        add_weighted(&s->macro, &s->each[c], 1);
        add_weighted(&s->weighted, &s->each[c], (double)counts[c].truth);
    }
    s->micro = score_of(all);
    divide(&s->macro, occurring);
    divide(&s->weighted, (double)all.truth);
    s->macro.support = s->weighted.support = all.truth;
}

void orr_scores_free(struct orr_scores *scores)
{
    for (int c = 0; scores->names && c < scores->classes; c++)
        free(scores->names[c]);
    free(scores->names);
    free(scores->each);
    free(scores->occurs);
    *scores = (struct orr_scores){0};
}

static int reserve(struct orr_scores *s, const char *const *names, int classes)
{
    *s = (struct orr_scores){
        .classes = classes,
        .names = orri_calloc((size_t)classes, sizeof(*s->names)),
        .each = orri_calloc((size_t)classes, sizeof(*s->each)),
        .occurs = orri_calloc((size_t)classes, sizeof(*s->occurs)),
    };
    bool room = s->names && s->each && s->occurs;
    for (int c = 0; room && c < classes; c++)
        room = (s->names[c] = orri_strdup(names[c])) != NULL;
    if (room)
        return 0;
    orr_scores_free(s);
    return ORR_ENOMEM;
}

static int check_range(const int32_t *labels, int64_t count, int classes)
{
    for (int64_t i = 0; i < count; i++)
        if (labels[i] < 0 || labels[i] >= classes)
            return orri_fail(ORR_EINVAL, "scores", "class %d at position %lld is none of %d", (int)labels[i], (long long)i, classes);
    return 0;
}

static int check(const int32_t *truth, const int32_t *predicted, int64_t count, int classes)
{
    if (count < 1 || classes < 1)
        return orri_fail(ORR_EINVAL, "scores", "%lld positions, %d classes", (long long)count, classes);
    ORR_TRY(check_range(truth, count, classes));
    return check_range(predicted, count, classes);
}

static double accuracy(const int32_t *truth, const int32_t *predicted, int64_t count)
{
    int64_t right = 0;

    for (int64_t i = 0; i < count; i++)
        right += truth[i] == predicted[i];
    return (double)right / (double)count;
}

/* ---- classes --------------------------------------------------------------------------------------- */

int orr_scores_classes(const int32_t *truth, const int32_t *predicted, int64_t count, const char *const *names, int classes,
                       struct orr_scores *scores)
{
    ORR_TRY(check(truth, predicted, count, classes));
    ORR_TRY(reserve(scores, names, classes));
    struct count *counts = orri_calloc((size_t)classes, sizeof(*counts));
    if (!counts) {
        orr_scores_free(scores);
        return ORR_ENOMEM;
    }
    for (int64_t i = 0; i < count; i++) {
        counts[truth[i]].truth++;
        counts[predicted[i]].predicted++;
        counts[truth[i]].right += truth[i] == predicted[i];
    }
    sum_up(scores, counts);
    scores->accuracy = accuracy(truth, predicted, count);
    free(counts);
    return 0;
}

/* ---- entities -------------------------------------------------------------------------------------- */

/* A tag: O, or how it goes on, and the number of its type. */
struct tag {
    char kind;
    int type;       /* -1 for O */
};

/* "PER" of "B-PER"; of a tag without a type "_". */
static const char *type_name(const char *tag)
{
    const char *hyphen = strchr(tag + 1, '-'), *name = hyphen ? hyphen + 1 : tag + 1;

    return *name ? name : "_";
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The types of the tags, each once and in order, in names[count]: returns how many. */
static int collect_types(const char *const *tags, int count, const char **names)
{
    int found = 0, types = 0;

    for (int t = 0; t < count; t++)
        if (tags[t][0] != 'O')
            names[found++] = type_name(tags[t]);
    qsort(names, (size_t)found, sizeof(*names), by_bytes);
    for (int i = 0; i < found; i++)
        if (types == 0 || strcmp(names[types - 1], names[i]) != 0)
            names[types++] = names[i];
    return types;
}

static struct tag tag_of(const char *name, const char *const *types, int count)
{
    if (name[0] == 'O')
        return (struct tag){'O', -1};
    const char *type = type_name(name);
    const char *const *found = bsearch(&type, types, (size_t)count, sizeof(*types), by_bytes);
    return (struct tag){name[0], (int)(found - types)};
}

/* Does an entity that has come as far as `before` end there? conlleval's rules. */
static bool ends(struct tag before, struct tag now)
{
    if (before.kind == 'O')
        return false;
    return before.kind == 'E' || before.kind == 'S' || now.kind == 'B' || now.kind == 'S' || now.kind == 'O' ||
           before.type != now.type;
}

static bool begins(struct tag before, struct tag now)
{
    if (now.kind == 'O')
        return false;
    return now.kind == 'B' || now.kind == 'S' || before.kind == 'E' || before.kind == 'S' || before.kind == 'O' ||
           before.type != now.type;
}

/* One side of the comparison: the tag before, and where its entity began. */
struct walk {
    struct tag before;
    int64_t begin;
};

/* Goes on to the tag at a position: the type of the entity that ends before it, or -1, and where that began. */
static int step(struct walk *w, struct tag now, int64_t position, int64_t *begin)
{
    const int ended = ends(w->before, now) ? w->before.type : -1;

    *begin = w->begin;
    if (begins(w->before, now))
        w->begin = position;
    w->before = now;
    return ended;
}

static void count_sequence(const int32_t *truth, const int32_t *predicted, int64_t length, const struct tag *tags,
                           struct count *counts)
{
    const struct tag outside = {'O', -1};
    struct walk true_walk = {outside, 0}, predicted_walk = {outside, 0};

    for (int64_t i = 0; i <= length; i++) {
        int64_t true_begin, predicted_begin;
        int true_type = step(&true_walk, i < length ? tags[truth[i]] : outside, i, &true_begin);
        int predicted_type = step(&predicted_walk, i < length ? tags[predicted[i]] : outside, i, &predicted_begin);
        if (true_type >= 0)
            counts[true_type].truth++;
        if (predicted_type >= 0)
            counts[predicted_type].predicted++;
        if (true_type >= 0 && true_type == predicted_type && true_begin == predicted_begin)
            counts[true_type].right++;
    }
}

/* With room for tags[count], types[count] and counts[count]. */
static int score_entities(const int32_t *truth, const int32_t *predicted, const int64_t *lengths, int64_t sequences,
                          const char *const *names, int count, struct tag *tags, const char **types, struct count *counts,
                          struct orr_scores *scores)
{
    const int type_count = collect_types(names, count, types);

    for (int t = 0; t < count; t++)
        tags[t] = tag_of(names[t], types, type_count);
    for (int64_t i = 0, at = 0; i < sequences; at += lengths[i++])
        count_sequence(truth + at, predicted + at, lengths[i], tags, counts);
    ORR_TRY(reserve(scores, types, type_count));
    sum_up(scores, counts);
    scores->entities = true;
    return 0;
}

int orr_scores_entities(const int32_t *truth, const int32_t *predicted, const int64_t *lengths, int64_t sequences,
                        const char *const *tags, int count, struct orr_scores *scores)
{
    int64_t positions = 0;

    for (int64_t i = 0; i < sequences; i++)
        positions += lengths[i];
    ORR_TRY(check(truth, predicted, positions, count));
    struct tag *parsed = orri_calloc((size_t)count, sizeof(*parsed));
    const char **types = orri_calloc((size_t)count, sizeof(*types));
    struct count *counts = orri_calloc((size_t)count, sizeof(*counts));
    int rc = ORR_ENOMEM;
    if (parsed && types && counts)
        rc = score_entities(truth, predicted, lengths, sequences, tags, count, parsed, types, counts, scores);
    if (rc == 0)
        scores->accuracy = accuracy(truth, predicted, positions);
    free(parsed);
    free(types);
    free(counts);
    return rc;
}
