/* SPDX-License-Identifier: Apache-2.0 */
/* How good predictions are: classes, entities, texts. */
#ifndef ORRERY_SCORES_H
#define ORRERY_SCORES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- classes and entities ----------------------------------------------------------------------------
 * Of a class (or a type of entities) let R be right: predicted and true, P predicted, S true (its support). Then
 *   precision = R / P    recall = R / S    F1 = 2 R / (P + S)    with 0 / 0 = 0
 *   micro     the same of the sums over all classes
 *   macro     the means over the classes that are true or predicted anywhere
 *   weighted  their means weighted by S
 * as scikit-learn's classification_report() and seqeval's tell with zero_division=0. */

struct orr_score {
    double precision, recall, f1;
    int64_t support;
};

struct orr_scores {
    int classes;
    char **names;               /* [classes]                                                                  */
    struct orr_score *each;     /* [classes]                                                                  */
    bool *occurs;               /* [classes]: it is true or predicted somewhere, so that the means include it */
    struct orr_score micro, macro, weighted;
    double accuracy;            /* the fraction of positions whose label is right                             */
    bool entities;              /* those of orr_scores_entities()                                             */
};
void orr_scores_free(struct orr_scores *scores);

/* Of `count` positions, each with one class of 0..classes-1, in the order of the names, which are copied. micro is the accuracy three
 * times. ORR_EINVAL for count or classes < 1, a class out of its range; ORR_ENOMEM. Any thread. */
int orr_scores_classes(const int32_t *truth, const int32_t *predicted, int64_t count, const char *const *names, int classes,
                       struct orr_scores *scores);

/* Of entities in sequences, where a position has the number of a tag: `truth` and `predicted` hold all sequences one behind the
 * other, lengths[sequences] how long each is (0 is legal). tags[] are their names: O, or B, I, E or S, a hyphen and a type. An
 * entity begins at B or S, and also where I or E does not continue one of its type; it is right where type, first and last position
 * are: IOB2 (Tjong Kim Sang, Veenstra 1999), lenient as conlleval and seqeval's default mode. The classes are the types, in the
 * order of their bytes. Errors as above. */
int orr_scores_entities(const int32_t *truth, const int32_t *predicted, const int64_t *lengths, int64_t sequences,
                        const char *const *tags, int count, struct orr_scores *scores);

/* Prints a table with `digits` digits behind the point: a line for each class that occurs, accuracy (of entities micro), macro and
 * weighted. Laid out as scikit-learn's and seqeval's. */
void orr_scores_print(FILE *out, const struct orr_scores *scores, int digits);

/* {"accuracy":..,"precision":..,"recall":..,"f1":..,"macro":{..},"weighted":{..},"classes":{NAME:{"precision":..,"recall":..,"f1":..,
 * "support":..},..}}, precision, recall and f1 those of micro, with the classes that occur. A jansson object of the caller, to
 * json_decref(). NULL with ORR_ENOMEM. */
struct json_t *orr_scores_json(const struct orr_scores *scores);

/* ---- texts -------------------------------------------------------------------------------------------
 * hypotheses[count] and references[count] are UTF-8 (a byte that is not counts as a character); either may be empty. */

struct orr_bleu {
    double score;               /* 0..100 */
    double precision[4];        /* 0..100, of n-grams of 1, 2, 3, 4 words */
    double brevity;
    int64_t words, reference_words;
};

/* BLEU of a corpus (Papineni et al. 2002), the value that sacreBLEU (Post 2018) gives as nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp:
 *   score = brevity exp(sum_n log p_n / 4),   brevity = min(1, exp(1 - reference words / words))
 *   p_n = n-grams that are in the reference, each at most as often as there, of all n-grams; for the k-th n without any
 *   100 / (2^k n-grams).
 * ORR_EINVAL for count < 1, ORR_ENOMEM. Any thread. */
int orr_score_bleu(const char *const *hypotheses, const char *const *references, int64_t count, struct orr_bleu *bleu);

/* chrF2 of a corpus (Popović 2015), 0..100, the value that sacreBLEU gives as nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no: with
 * P and R the means of precision and recall of the character n-grams of 1 to 6, white space apart,  5 P R / (4 P + R).  Errors as
 * above. */
int orr_score_chrf(const char *const *hypotheses, const char *const *references, int64_t count, double *score);

/* The fraction, 0..1, of hypotheses that are their references, byte by byte. ORR_EINVAL for count < 1. Any thread. */
int orr_score_exact(const char *const *hypotheses, const char *const *references, int64_t count, double *score);

#ifdef __cplusplus
}
#endif
#endif
