/* SPDX-License-Identifier: Apache-2.0 */
/* Data with labels: the lines or sentences of files, and the labels that there are. rows.h makes sequences of them. */
#ifndef ORRERY_EXAMPLES_H
#define ORRERY_EXAMPLES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- labels ----------------------------------------------------------------------------------------
 * Names, numbered from 0. Constant once made: any thread may ask. */

struct orr_labels;

/* The labels of a model, in the order of its numbers (id2label). The names are copied. ORR_EINVAL for none, an empty one, one
 * that is not UTF-8, or one that is there twice; ORR_ENOMEM. */
struct orr_labels *orr_labels_create(const char *const *names, int count);
void orr_labels_destroy(struct orr_labels *labels);

int orr_labels_count(const struct orr_labels *labels);

/* names[count]. Borrowed. */
const char *const *orr_labels_names(const struct orr_labels *labels);

/* The number of the label whose name these `size` bytes are; else, where no name is an integer and they are a decimal number in
 * 0..count-1 without a sign (data with numbers for a model with names), that number; else -1. */
int orr_labels_find(const struct orr_labels *labels, const char *name, size_t size);

/* ---- examples --------------------------------------------------------------------------------------
 * Files stay mapped, and of an example is kept where it is: 32 bytes. Nobody may shorten a file meanwhile. Constant once opened:
 * any thread may call the functions that take a const pointer. */

enum orr_format {
    ORR_FORMAT_TEXT,    /* without labels: orr_corpus_open() reads it       */
    ORR_FORMAT_TSV,     /* LABEL<TAB>TEXT, or LABEL<TAB>TEXT<TAB>TEXT       */
    ORR_FORMAT_CONLL,   /* a word a line: first column the word, last the tag */
    ORR_FORMAT_PAIRS,   /* SOURCE<TAB>TARGET                                */
};

/* The format that the endings of the files tell to which the paths lead (as in orr_corpus_open()): .tsv, .conll, .pairs; text where
 * none of them ends like that. ORR_EFORMAT where they differ; ORR_ENOENT, ORR_ENOMEM. */
int orr_examples_format(const char *const *paths, int count, enum orr_format *format);

struct orr_examples;

/* Opens files, directories and patterns in their order, all of one format: that given, or with ORR_FORMAT_TEXT what their endings
 * tell. Lines end in LF or CR LF; a byte order mark at the beginning of a file is passed over.
 *   tsv, pairs  a line is an example; empty lines are passed over. All lines have as many columns as the first (two or three; two).
 *   conll       columns are separated by blanks and TABs, as many in every line of a file, at least two. Sentences are separated by
 *               empty lines or such as begin with -DOCSTART-. Tags are O, or B, I, E or S, a hyphen and a type.
 * The labels are those given (copied), or, with NULL, all that occur: in the order of their values where every one is an integer,
 * else of their bytes; of at most 4096.
 * NULL with ORR_ENOENT, ORR_ENOMEM, ORR_EINVAL (no paths), or ORR_EFORMAT: an empty file, one without examples, another format's
 * ending, or, with FILE:LINE, a line of one column or of other columns than before, an empty column, a zero byte, what is no tag, a
 * label that is none of those given, or not UTF-8, too many labels. */
struct orr_examples *orr_examples_open(const char *const *paths, int count, enum orr_format format,
                                       const struct orr_labels *labels);
void orr_examples_destroy(struct orr_examples *examples);

enum orr_format orr_examples_kind(const struct orr_examples *examples);

/* Their number, > 0. */
int64_t orr_examples_count(const struct orr_examples *examples);

/* Borrowed; NULL for pairs. */
const struct orr_labels *orr_examples_labels(const struct orr_examples *examples);

/* A hash (FNV-1a, 64 bits) of every example's bytes and of the labels' names, so that a resumed run can tell that it was given
 * other data. */
uint64_t orr_examples_fingerprint(const struct orr_examples *examples);

/* An example: its place and, borrowed and without a zero byte behind, its texts. */
struct orr_example {
    const char *file;
    int64_t line;           /* from 1; of a sentence the first                              */
    int label;              /* of a tsv line, else -1                                       */
    const char *first;      /* the text, the first text, or the source; NULL for a sentence */
    size_t first_size;
    const char *second;     /* the second text or the target; NULL where there is none      */
    size_t second_size;
};

/* Example i, 0 <= i < count. */
void orr_examples_get(const struct orr_examples *examples, int64_t i, struct orr_example *example);

/* The words of a conll example, ended by zero bytes, and the numbers of their tags: arrays of `count`, of the caller to
 * orr_sentence_free(). ORR_EINVAL for other formats, ORR_ENOMEM. */
struct orr_sentence {
    size_t count;
    char **words;
    int32_t *tags;
};
int orr_examples_sentence(const struct orr_examples *examples, int64_t i, struct orr_sentence *sentence);
void orr_sentence_free(struct orr_sentence *sentence);

#ifdef __cplusplus
}
#endif
#endif
