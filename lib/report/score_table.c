/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/scores.h>

#include "core/core.h"

#include <string.h>

#include <jansson.h>

/* ---- table ----------------------------------------------------------------------------------------- */

/* Characters of UTF-8. */
static int width_of(const char *name)
{
    int width = 0;

    for (; *name; name++)
        width += ((unsigned char)*name & 0xc0) != 0x80;
    return width;
}

static void print_name(FILE *out, const char *name, int width)
{
    fprintf(out, "%*s%s ", width - width_of(name), "", name);
}

static void print_score(FILE *out, const char *name, int width, const struct orr_score *s, int digits)
{
    print_name(out, name, width);
    fprintf(out, " %9.*f %9.*f %9.*f %9lld\n", digits, s->precision, digits, s->recall, digits, s->f1, (long long)s->support);
}

void orr_scores_print(FILE *out, const struct orr_scores *scores, int digits)
{
    int width = width_of("weighted avg");

    for (int c = 0; c < scores->classes; c++)
        if (scores->occurs[c] && width_of(scores->names[c]) > width)
            width = width_of(scores->names[c]);
    if (digits > width)
        width = digits;
    print_name(out, "", width);
    fprintf(out, " %9s %9s %9s %9s\n\n", "precision", "recall", "f1-score", "support");
    for (int c = 0; c < scores->classes; c++)
        if (scores->occurs[c])
            print_score(out, scores->names[c], width, &scores->each[c], digits);
    fputc('\n', out);
    if (scores->entities) {
        print_score(out, "micro avg", width, &scores->micro, digits);
    } else {
        print_name(out, "accuracy", width);
        fprintf(out, " %9s %9s %9.*f %9lld\n", "", "", digits, scores->accuracy, (long long)scores->micro.support);
    }
    print_score(out, "macro avg", width, &scores->macro, digits);
    print_score(out, "weighted avg", width, &scores->weighted, digits);
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

static json_t *score_json(const struct orr_score *s)
{
    return json_pack("{s:f,s:f,s:f,s:I}", "precision", s->precision, "recall", s->recall, "f1", s->f1, "support",
                     (json_int_t)s->support);
}

static json_t *classes_json(const struct orr_scores *scores)
{
    json_t *classes = json_object();

    for (int c = 0; classes && c < scores->classes; c++)
        if (scores->occurs[c] && json_object_set_new(classes, scores->names[c], score_json(&scores->each[c])) != 0) {
            json_decref(classes);
            classes = NULL;
        }
    return classes;
}

struct json_t *orr_scores_json(const struct orr_scores *scores)
{
    json_t *object = json_pack("{s:f,s:f,s:f,s:f,s:o,s:o,s:o}", "accuracy", scores->accuracy, "precision", scores->micro.precision,
                               "recall", scores->micro.recall, "f1", scores->micro.f1, "macro", score_json(&scores->macro),
                               "weighted", score_json(&scores->weighted), "classes", classes_json(scores));

    if (!object)
        orri_fail(ORR_ENOMEM, "scores", "no room for a JSON object");
    return object;
}
