/* SPDX-License-Identifier: Apache-2.0 */
#include "data/rows.h"

#include <orrery/dtype.h>

static int32_t *row_of(int32_t *array, int seq, int i)
{
    return array ? array + (size_t)i * (size_t)seq : NULL;
}

struct orr_row_arrays orri_rows_at(const struct orr_row_arrays *rows, int seq, int i)
{
    return (struct orr_row_arrays){
        .tokens = row_of(rows->tokens, seq, i),
        .labels = row_of(rows->labels, seq, i),
        .places = row_of(rows->places, seq, i),
        .types = row_of(rows->types, seq, i),
        .source = row_of(rows->source, seq, i),
        .source_places = row_of(rows->source_places, seq, i),
    };
}

static void set(int32_t *array, int from, int to, int32_t value)
{
    for (int t = from; array && t < to; t++)
        array[t] = value;
}

static void count(int32_t *array, int from, int to)
{
    for (int t = from; array && t < to; t++)
        array[t] = t - from;
}

void orri_row_pad(const struct orr_row_arrays *row, int seq, int from, int32_t pad)
{
    set(row->tokens, from, seq, pad);
    set(row->labels, from, seq, ORR_IGNORE);
    set(row->types, from, seq, 0);
    count(row->places, from, seq);
}

void orri_row_pad_source(const struct orr_row_arrays *row, int seq, int from, int32_t pad)
{
    set(row->source, from, seq, pad);
    count(row->source_places, from, seq);
}
