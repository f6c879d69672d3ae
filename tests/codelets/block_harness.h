/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of blocks share: one block with operands of its own, whose passes are called as plain functions,
 * and references in double, written from the formulas in the blocks' headers.
 *
 * A pass is handed the operands that its class declares and no others. What it is to write is filled with NaN
 * before, and so are the worker's scratch and the words behind every buffer, which must be there afterwards. */
#ifndef TESTS_BLOCK_HARNESS_H
#define TESTS_BLOCK_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "graph/graph.h"

/* A parameter group as the engine would lay it out in one flat tile; of another block's, what is known of it. */
struct harness_group {
    int views;
    struct orr_view view[ORR_MAX_VIEWS];
    int64_t count;
};

struct harness {
    struct orr_model *model;
    const struct orr_block *block;
    const struct orr_block_class *cls;
    struct harness_group group[ORR_MAX_GROUPS];
    int rows, width;                        /* B T, C of the output; the head: of the input            */
    struct orr_operands o;                  /* the scalars of every pass                               */
    float *x, *y, *dy, *dx, *saved, *prediction;
    float *other, *dother;                  /* the second input, of a block that has one, and its gradient */
    float *param[ORR_MAX_GROUPS], *grad[ORR_MAX_GROUPS];
    int32_t *ids;                           /* below the vocabulary given to harness_open()            */
    int vocab;
    struct orr_result result;
    int64_t prediction_floats;
    /* The same numbers in double: what the references read and finite differences change. */
    double *wide_x, *wide_dy, *wide_param[ORR_MAX_GROUPS];
};

/* A block's formula. */
struct reference {
    /* sum of dy y; the loss block: the loss. y [B,T,C] may be NULL. */
    double (*objective)(const struct harness *h, double *y);
    /* Its gradient: dx [B,T,C] and, by group and as the views lie, dparam. All are zero before. */
    void (*backward)(const struct harness *h, double *dx, double *const dparam[]);
    int longest_sum;                        /* terms of the block's longest sum, for the tolerance     */
};

/* A model that begins with an embedding, so that the next block has an input. */
struct orr_model *harness_model(int width);

/* Takes the model's block number `index`, draws parameters, data and ids, and takes over the model. */
void harness_open(struct harness *h, struct orr_model *model, int index, int batch, int seq, int vocab);

/* Other data: x, dy and ids. */
void harness_draw(struct harness *h, uint64_t seed);
void harness_draw_view(struct harness *h, int group, int view, uint64_t seed);

/* Asks ORR_PREDICT for rows[0..count-1], borrowed. Once. */
void harness_ask(struct harness *h, int count, const int32_t *rows);

/* Runs a pass of the whole block. */
void harness_run(struct harness *h, enum orr_pass pass);

/* Runs F and, in training, B and W of the block in shards and chunks, each pass on tiles of its own, from x, dy and
 * param to y, dx, grad and result. */
void harness_run_shards(struct harness *h, int shards, int chunks);

/* Runs P, likewise. */
void harness_predict_shards(struct harness *h, int shards, int chunks);

/* Bytes of scratch that passes may take. */
size_t harness_scratch(const struct harness *h, int shards);

/* Checks what is behind the buffers and frees everything. */
void harness_close(struct harness *h);

/* The view `name` within one base per group (h->wide_param, or gradients); its shape must be [m], n = 0, or [m,n]. */
double *harness_view(const struct harness *h, double *const base[], const char *name, int64_t m, int64_t n);

/* ---- checks ------------------------------------------------------------------------------------------- */

/* Every value within `terms` terms' rounding of its reference, in units of the tensor's largest value: the blocks'
 * values are ends of chains of sums, and each sum's error walks at random. */
void check_values(const char *what, int64_t count, const float *got, const double *want, int terms);

/* F, B and W against the reference and the reference against finite differences, `differences` of each tensor; then
 * a second microbatch, whose gradients add to the first's. */
void check_passes(struct harness *h, const struct reference *reference, int differences);

/* The output follows every view's values as the reference does, and every gradient view is written. */
void check_views(struct harness *h, const struct reference *reference);

/* Passes ask for no more scratch than scratch_bytes() says. */
void check_scratch(struct harness *h);

/* F twice gives the same bits; so do B and W after it. */
void check_again(struct harness *h);

/* One microbatch of two sequences, from sample `first`, and two of one give the same numbers. append() makes the
 * block; the harness takes number `index` of its model. */
void check_microbatches(struct orr_model *(*append)(void), int index, int seq, int vocab, uint64_t first, int terms);

/* Cut into shards and chunks the block gives the whole block's numbers, as h->o says: in training or not, gradients
 * written or added to. */
void check_layout(struct harness *h, int shards, int chunks, int terms);

/* That in several layouts and in all of these ways, and the predictions where rows were asked for. */
void check_layouts(struct harness *h, int terms);

/* ---- references ---------------------------------------------------------------------------------------- */

double *wide_zeros(int64_t count);

/* y = x w + bias; x [rows,in], w [in,out]. */
void reference_affine(int rows, int in, int out, const double *x, const double *w, const double *bias, double *y);

/* Adds to dx, dw, db. */
void reference_affine_backward(int rows, int in, int out, const double *x, const double *w, const double *dy,
                               double *dx, double *dw, double *db);

/* LayerNorm; and its gradients, added to dx, dgamma, dbeta. */
void reference_norm(int rows, int width, const double *x, const double *gamma, const double *beta, double eps,
                    double *y);
void reference_norm_backward(int rows, int width, const double *x, const double *gamma, double eps, const double *dy,
                             double *dx, double *dgamma, double *dbeta);

/* The factors, 0 or 1 / (1 - p), of elements first .. first + count - 1 at a place; ones outside training. */
double *reference_mask(const struct harness *h, int place, float p, uint64_t first, int64_t count);
#endif
