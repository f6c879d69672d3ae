/* SPDX-License-Identifier: Apache-2.0 */
/* What fills rows: their arrays, the sequences that go into them, the sampler's places. */
#ifndef ORRI_ROWS_H
#define ORRI_ROWS_H

#include <orrery/rows.h>

/* Random streams of the data, out of the way of those that number layers. */
enum {
    ORRI_STREAM_SHIFT = 0x0da7a000,
    ORRI_STREAM_ORDER,
    ORRI_STREAM_SUBSET,
    ORRI_STREAM_EXAMPLES,
    ORRI_STREAM_ROWS,
    ORRI_STREAM_MASK,
};

/* Row i of arrays of rows of seq tokens. */
struct orr_row_arrays orri_rows_at(const struct orr_row_arrays *rows, int seq, int i);

/* Makes positions [from, seq) of a row a sequence of padding; and those of its source. */
void orri_row_pad(const struct orr_row_arrays *row, int seq, int from, int32_t pad);
void orri_row_pad_source(const struct orr_row_arrays *row, int seq, int from, int32_t pad);

/* ---- sequences ------------------------------------------------------------------------------------- */

int64_t orri_sequences_count(const struct orr_sequences *s);
int orri_sequences_seq(const struct orr_sequences *s);
bool orri_sequences_have_source(const struct orr_sequences *s);
int32_t orri_sequences_pad(const struct orr_sequences *s);

/* The positions that sequence i takes; of its source 0 where there is none. */
int orri_sequence_size(const struct orr_sequences *s, int64_t i);
int orri_sequence_source_size(const struct orr_sequences *s, int64_t i);

/* Writes sequence i to a row from `at` on, and its source from `source_at` on. */
void orri_sequence_put(const struct orr_sequences *s, int64_t i, const struct orr_row_arrays *row, int at, int source_at);

/* ---- sampler --------------------------------------------------------------------------------------- */

/* Where sample n begins, counted from the range's first token. */
int64_t orri_sampler_begin(const struct orr_sampler *s, int64_t n);

#endif
