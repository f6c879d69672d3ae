/* SPDX-License-Identifier: Apache-2.0 */
/* What a model is fed with: rows of T tokens, each of one or more sequences, with the labels of what is to be learned. */
#ifndef ORRERY_ROWS_H
#define ORRERY_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/data.h>
#include <orrery/examples.h>
#include <orrery/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows ------------------------------------------------------------------------------------------
 * Sequences lie in a row one behind the other, none across two rows. What is left of a row is a sequence of padding. */

/* Arrays [rows, T] to be filled; NULL for what is not wanted. */
struct orr_row_arrays {
    int32_t *tokens;
    int32_t *labels;            /* ORR_IGNORE where nothing is to be learned                                                   */
    int32_t *places;            /* of a token in its own sequence: 0, 1, 2, ...; a sequence begins where it is 0               */
    int32_t *types;             /* 0: of a sequence's first text, 1: of its second (BERT's token_type_ids)                     */
    int32_t *source;            /* for an encoder-decoder, the encoder's row: its k-th sequence belongs to the k-th of the     */
    int32_t *source_places;     /* decoder's. Padding has no partner: either row may end in it without the other               */
};

/* Something that gives rows, numbered 0, 1, 2, ...; what a row holds is a pure function of its number, so that the position in the
 * data is one integer. Any thread may read. */
struct orr_row_source {
    int (*read)(void *self, int64_t first, int count, const struct orr_row_arrays *rows);     /* rows first ... first + count - 1 */
    void *self;                 /* borrowed */
    int seq;                    /* T        */
    bool has_source;            /* it fills source and source_places; else those must be NULL */
};

/* ---- sequences: examples as tokens -------------------------------------------------------------------
 * tsv    the tokenizer's input of the text or pair; a label at the first position ([CLS], Devlin et al. 2019), or at the last
 * conll  the tokenizer's input of the words; a label at the first token of each word
 * pairs  two sequences: the tokenizer's input of the source; and of the target, shifted right behind the start token, where the
 *        label of a position is the target's token there, up to the end token (Sutskever, Vinyals, Le 2014; T5, Raffel et al. 2020) */

struct orr_sequence_options {
    int seq;            /* T: no sequence is longer                                                                           */
    bool truncate;      /* cuts what is longer at its end, where a separator or an end token stays; of a pair the longer text,
                         * and both once they are equally long. Else it is refused                                            */
    bool label_last;    /* tsv: for causal models                                                                             */
    int32_t start;      /* pairs: what the decoder begins with (decoder_start_token_id); >= 0                                 */
    int32_t end;        /* pairs: ends a target where the tokenizer's template does not; -1: the tokenizer's, if any          */
};

struct orr_sequences;

/* Encodes all examples. Both are borrowed for the call. NULL with ORR_EINVAL (seq < 1, no start token for pairs), ORR_ENOMEM, or
 * ORR_EFORMAT with FILE:LINE: longer than T, no tokens. */
struct orr_sequences *orr_sequences_create(const struct orr_examples *examples, const struct orr_tokenizer *tokenizer,
                                           const struct orr_sequence_options *options);
void orr_sequences_destroy(struct orr_sequences *sequences);

/* Once created they are constant: any thread may call the functions below. */

struct orr_sequence_counts {
    int64_t examples;
    int64_t tokens;             /* of all; of pairs those of the targets            */
    int64_t source_tokens;      /* of pairs                                         */
    int64_t labels;             /* positions where something is to be learned       */
    int64_t truncated;          /* examples that were cut                           */
    int64_t lost;               /* words without a token of their own, cut or empty */
};
void orr_sequences_tell(const struct orr_sequences *sequences, struct orr_sequence_counts *counts);

/* 0 if all tokens are in 0..vocab-1, else ORR_EFORMAT. */
int orr_sequences_check_vocab(const struct orr_sequences *sequences, int vocab);

/* ---- packing: sequences in rows ----------------------------------------------------------------------
 * Shuffled: every epoch draws an order of the examples (orr_rng_permute()), takes of it windows that fill some 256 rows, and packs
 * each by first-fit decreasing (Johnson 1973): the longest first, each into the first row that has room. The rows of an epoch are
 * then shuffled. So epochs may have different numbers of rows; row n is in the epoch in which it falls.
 * In order: every example once, in its order, in a row of its own or behind others; rows behind the last are padding. */

struct orr_packing;

/* A subset of the examples, drawn at random but whatever the seed of a run: of N examples floor(fraction x N) are held out.
 * {0} is all. */
struct orr_subset {
    double fraction;        /* 0 <= fraction < 1                            */
    bool held_out;          /* those that are held out, instead of the rest */
};

/* The sequences are borrowed as long as the packing lives. NULL with ORR_EINVAL (a fraction out of its range, a subset without
 * examples), ORR_ENOMEM. */
struct orr_packing *orr_packing_create(const struct orr_sequences *sequences, struct orr_subset subset, uint64_t seed);
struct orr_packing *orr_packing_create_in_order(const struct orr_sequences *sequences, struct orr_subset subset);
void orr_packing_destroy(struct orr_packing *packing);

/* Any thread may call the functions below. */

/* The number of examples. */
int64_t orr_packing_examples(const struct orr_packing *packing);

/* *rows = the number of rows of the first `epochs` epochs; in order there is one. Packs as many. ORR_EINVAL, ORR_ENOMEM. */
int orr_packing_count(struct orr_packing *packing, int64_t epochs, int64_t *rows);

/* The fraction of the tokens of the first epoch's rows that are no padding: of the rows, and of the encoder's (NULL: not wanted; 0
 * where there are none). ORR_ENOMEM. */
int orr_packing_fill(struct orr_packing *packing, double *fill, double *source_fill);

/* Fills rows first ... first + count - 1. ORR_EINVAL for a negative number, or a source that is wanted and not there; ORR_ENOMEM. */
int orr_packing_read(struct orr_packing *packing, int64_t first, int count, const struct orr_row_arrays *rows);

/* Where an example is in a row. */
struct orr_span {
    int64_t example;                    /* its number among the examples */
    int first, count;                   /* positions of the row          */
    int source_first, source_count;     /* of the encoder's              */
};

/* spans[T]: what row n holds, from its beginning; *count of them, 0 behind the last row in order. Errors as for reading. */
int orr_packing_spans(struct orr_packing *packing, int64_t n, struct orr_span *spans, int *count);

struct orr_row_source orr_packing_source(struct orr_packing *packing);

/* ---- masked language modelling -----------------------------------------------------------------------
 * Rows of plain text: [CLS], T-2 tokens of a corpus, [SEP] (T tokens where the tokenizer has neither). Of the tokens that are not
 * special each is chosen with a probability; its label is itself, and in its place stands, of 10 chosen, for 8 [MASK], for 1 any
 * token of the vocabulary, for 1 itself (BERT, Devlin et al. 2019; drawn anew in every epoch: RoBERTa, Liu et al. 2019). What is
 * drawn is a pure function of seed, row and position. Nothing else has a label. */
struct orr_masking {
    struct orr_sampler sampler;     /* where rows begin in the corpus       */
    int seq;                        /* T                                    */
    float probability;
    int vocab;
    int32_t specials[ORR_SPECIALS]; /* -1: there is none                    */
};

/* Fills *masking; it needs no end. The corpus is borrowed as long as it is used, the tokenizer for the call. Rows begin as by
 * orr_sampler_init() of as many tokens as a row takes; or, sequential, one behind the other, where every token of the range is in one
 * row, and the last may end in padding. ORR_EINVAL where the tokenizer has no [MASK], the probability is not in (0, 1], T has no room
 * for a token, or the range is too short (orr_sampler_init()). */
int orr_masking_init(struct orr_masking *masking, const struct orr_corpus *corpus, struct orr_range range,
                     const struct orr_tokenizer *tokenizer, int seq, double probability, uint64_t seed);
int orr_masking_init_sequential(struct orr_masking *masking, const struct orr_corpus *corpus, struct orr_range range,
                                const struct orr_tokenizer *tokenizer, int seq, double probability, uint64_t seed);

/* Fills rows first ... first + count - 1; sequential, those behind the last are padding. ORR_EINVAL for a negative number, or where a
 * source is wanted. Any thread. */
int orr_masking_read(const struct orr_masking *masking, int64_t first, int count, const struct orr_row_arrays *rows);

struct orr_row_source orr_masking_source(struct orr_masking *masking);

#ifdef __cplusplus
}
#endif
#endif
