/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/check_main.h"
#include "tests/math/reference.h"

#include "codelets/math/math.h"

#include <string.h>

enum { ROWS = 9 };

static const int widths[] = { 1, 7, 33, 257, 2500 };

static double row_loss(int width, const double *x, int target, double *softmax)
{
    double max = -INFINITY, sum = 0;

    for (int j = 0; j < width; j++)
        max = fmax(max, x[j]);
    for (int j = 0; j < width; j++)
        sum += exp(x[j] - max);
    for (int j = 0; j < width && softmax; j++)
        softmax[j] = exp(x[j] - max) / sum;
    return max + log(sum) - x[target];
}

START_TEST(against_reference)
{
    int width = widths[_i], ld = width + 3;
    float *x = random_floats((size_t)ROWS * ld, 5, 11), *g = copy_floats((size_t)ROWS * ld, x);
    double *softmax = malloc(width * sizeof(double));
    double loss = 100, again = 100, want = 100, largest = 100;
    int64_t count = 1000, same = 1000;
    int32_t target[ROWS];

    for (int r = 0; r < ROWS; r++)
        target[r] = r % 4 == 2 ? ORR_IGNORE : r * 31 % width;
    target[0] = width - 1;
    orri_softmax_cross_entropy(ROWS, width, x, ld, target, orri_sharp, 0, &loss, &count);
    orri_softmax_cross_entropy(ROWS, width, g, ld, target, orri_sharp, 1, &again, &same);
    ck_assert_int_eq(count, 1000 + ROWS - 2);
    ck_assert_int_eq(same, count);
    for (int r = 0; r < ROWS; r++) {
        const float *row = x + (size_t)r * ld, *grow = g + (size_t)r * ld;

        for (int j = width; j < ld; j++)
            ck_assert(grow[j] == row[j]);
        if (target[r] == ORR_IGNORE) {
            for (int j = 0; j < width; j++)
                ck_assert(grow[j] == 0);
            continue;
        }
        double *d = to_double(width, row);
        want += row_loss(width, d, target[r], softmax);
        largest += 5;
        for (int j = 0; j < width; j++) {
            double expected = softmax[j] - (j == target[r]);

            /* x - max rounds once in units of its size, at most 10. */
            assert_close(grow[j], expected, 12 * FLT_EPSILON * softmax[j] + FLT_EPSILON * fabs(expected),
                         "width %d row %d column %d", width, r, j);
        }
        for (int j = 0; j < width; j += 1 + width / 20) {
            double h = 1e-4, x0 = d[j];

            d[j] = x0 + h;
            double up = row_loss(width, d, target[r], NULL);
            d[j] = x0 - h;
            double down = row_loss(width, d, target[r], NULL);
            d[j] = x0;
            assert_close(grow[j], (up - down) / (2 * h), 2e-6, "width %d row %d column %d, difference", width, r, j);
        }
        free(d);
    }
    /* log(sum) has the relative error of the sum: 12 eps per row. */
    assert_close(loss, want, 12 * FLT_EPSILON * ROWS, "width %d", width);
    assert_close(again, loss, 1e-12 * largest, "width %d, with the gradient", width);
    free(x);
    free(g);
    free(softmax);
}
END_TEST

START_TEST(far_logits)
{
    float x[2][5] = { { 1e4f, 1e4f - 1, -1e4f, -INFINITY, 0 }, { -1e4f, -1e4f - 2, -3e38f, -1e4f - 300, -1e5f } };
    int32_t target[2] = { 1, 1 };
    double loss = 0, want = log(1 + exp(-1)) + 1 + log(1 + exp(-2)) + 2;
    int64_t count = 0;

    orri_softmax_cross_entropy(2, 5, x[0], 5, target, orri_sharp, 1, &loss, &count);
    assert_close(loss, want, 4 * FLT_EPSILON, "far logits");
    ck_assert(x[0][2] == 0 && x[0][3] == 0 && x[1][2] == 0);
}
END_TEST

START_TEST(non_finite_is_shown)
{
    static const float bad[] = { NAN, INFINITY };

    for (int b = 0; b < 2; b++)
        for (int at = 0; at < 40; at++)
            for (int gradient = 0; gradient < 2; gradient++) {
                float *x = random_floats(40, 1, 5);
                int32_t target = 17;
                double loss = 0;
                int64_t count = 0;

                x[at] = bad[b];
                orri_softmax_cross_entropy(1, 40, x, 40, &target, orri_sharp, gradient, &loss, &count);
                ck_assert(isnan(loss));
                free(x);
            }
    float x[20];
    int32_t target = 3;
    double loss = 0;
    int64_t count = 0;

    for (int j = 0; j < 20; j++)
        x[j] = -INFINITY;
    orri_softmax_cross_entropy(1, 20, x, 20, &target, orri_sharp, 0, &loss, &count);
    ck_assert(isnan(loss));
}
END_TEST

START_TEST(deterministic)
{
    enum { WIDTH = 257 };
    float *a = random_floats(ROWS * WIDTH, 5, 3), *b = copy_floats(ROWS * WIDTH, a);
    int32_t target[ROWS] = { 0, 1, 2, 3, 4, 5, 6, 7, 256 };
    double la = 0, lb = 0;
    int64_t count = 0;

    orri_softmax_cross_entropy(ROWS, WIDTH, a, WIDTH, target, orri_sharp, 1, &la, &count);
    orri_softmax_cross_entropy(ROWS, WIDTH, b, WIDTH, target, orri_sharp, 1, &lb, &count);
    ck_assert(la == lb);
    ck_assert_mem_eq(a, b, ROWS * WIDTH * sizeof(float));
    free(a);
    free(b);
}
END_TEST

/* With smoothing: the loss and its gradient from those of every label, whole and in parts. */
START_TEST(smoothed)
{
    enum { WIDTH = 33, CUT = 12 };
    const float e = 0.3f;
    const struct orri_smoothing smoothing = {1 - e, e / WIDTH};
    float *x = random_floats(WIDTH, 5, 7), *g = copy_floats(WIDTH, x), *parts = copy_floats(WIDTH, x), part[2][ORRI_LOSS_PART];
    const float *const of_parts[] = {part[0], part[1]};
    double *d = to_double(WIDTH, x), softmax[WIDTH], want = 0, loss = 0, joined = 0;
    float norm[ORRI_LOSS_NORM];
    int32_t target = 20;
    int64_t count = 0;

    for (int j = 0; j < WIDTH; j++)
        want += (j == target ? 1 - (double)e + (double)e / WIDTH : (double)e / WIDTH) * row_loss(WIDTH, d, j, softmax);
    orri_softmax_cross_entropy(1, WIDTH, g, WIDTH, &target, smoothing, 2, &loss, &count);
    assert_close(loss, want, 20 * FLT_EPSILON, "whole");
    orri_cross_entropy_part(1, CUT, parts, WIDTH, &target, 0, smoothing, part[0]);
    orri_cross_entropy_part(1, WIDTH - CUT, parts + CUT, WIDTH, &target, CUT, smoothing, part[1]);
    orri_cross_entropy_join(1, 2, of_parts, &target, norm, &joined, &count);
    assert_close(joined, want, 20 * FLT_EPSILON, "in parts");
    ck_assert_int_eq(count, 2);
    orri_cross_entropy_part_gradient(1, CUT, parts, WIDTH, &target, 0, smoothing, norm, 2);
    orri_cross_entropy_part_gradient(1, WIDTH - CUT, parts + CUT, WIDTH, &target, CUT, smoothing, norm, 2);
    for (int j = 0; j < WIDTH; j++) {
        double expected = 2 * (softmax[j] - (double)smoothing.each - (j == target ? (double)smoothing.label : 0));

        assert_close(g[j], expected, 14 * FLT_EPSILON, "column %d", j);
        assert_close(parts[j], expected, 14 * FLT_EPSILON, "column %d in parts", j);
    }
    free(x);
    free(g);
    free(parts);
    free(d);
}
END_TEST

/* ---- in parts ------------------------------------------------------------------------------------------ */

enum { MOST_PARTS = 5 };

/* Columns first[p] .. first[p + 1] - 1 are part p's: uneven, single ones too. */
static const struct {
    int parts, first[MOST_PARTS + 1];
} cuts[] = { { 1, { 0, 33 } }, { 2, { 0, 17, 33 } }, { 3, { 0, 1, 30, 33 } }, { 5, { 0, 1, 2, 3, 32, 33 } } };

/* Parts, join and gradient of rows[count][33], the gradient in their place. Returns the loss. */
static double in_parts(int cut, int count, float *rows, const int32_t *target, int64_t *labels)
{
    enum { WIDTH = 33 };
    float *part[MOST_PARTS], *norm = random_floats((size_t)count * ORRI_LOSS_NORM, 1, 1);
    double loss = 0;
    int parts = cuts[cut].parts;

    *labels = 0;
    for (int p = 0; p < parts; p++) {
        int first = cuts[cut].first[p], width = cuts[cut].first[p + 1] - first;

        part[p] = random_floats((size_t)count * ORRI_LOSS_PART, 1, 2);
        orri_cross_entropy_part(count, width, rows + first, WIDTH, target, first, orri_sharp, part[p]);
    }
    orri_cross_entropy_join(count, parts, (const float *const *)part, target, norm, &loss, labels);
    for (int p = 0; p < parts; p++) {
        int first = cuts[cut].first[p], width = cuts[cut].first[p + 1] - first;

        orri_cross_entropy_part_gradient(count, width, rows + first, WIDTH, target, first, orri_sharp, norm, 1);
        free(part[p]);
    }
    free(norm);
    return loss;
}

START_TEST(parts_against_reference)
{
    enum { WIDTH = 33 };
    float *x = random_floats(ROWS * WIDTH, 5, 11), *g = copy_floats(ROWS * WIDTH, x);
    double softmax[WIDTH], want = 0;
    int32_t target[ROWS] = { 0, 1, ORR_IGNORE, 16, 17, 32, ORR_IGNORE, 30, 2 };
    int64_t labels;
    double loss = in_parts(_i, ROWS, g, target, &labels);

    ck_assert_int_eq(labels, ROWS - 2);
    for (int r = 0; r < ROWS; r++) {
        double *d = to_double(WIDTH, x + r * WIDTH);

        if (target[r] != ORR_IGNORE)
            want += row_loss(WIDTH, d, target[r], softmax);
        for (int j = 0; j < WIDTH; j++) {
            double expected = target[r] == ORR_IGNORE ? 0 : softmax[j] - (j == target[r]);

            /* x - max rounds once in units of its size, at most 10. */
            assert_close(g[r * WIDTH + j], expected,
                         target[r] == ORR_IGNORE ? 0 : 12 * FLT_EPSILON * softmax[j] + FLT_EPSILON * fabs(expected),
                         "row %d column %d", r, j);
        }
        free(d);
    }
    assert_close(loss, want, 12 * FLT_EPSILON * ROWS, "%d parts", cuts[_i].parts);
    free(x);
    free(g);
}
END_TEST

/* A part with nothing but -inf, one far below the others, and the label in the smallest. */
START_TEST(far_logits_in_parts)
{
    enum { WIDTH = 33 };
    float x[2][WIDTH];
    int32_t target[2] = { 32, 0 };
    int64_t labels;

    for (int j = 0; j < WIDTH; j++) {
        x[0][j] = j < 2 ? -INFINITY : j < 31 ? 1e4f : -1e4f;
        x[1][j] = j < 1 ? -3e4f : j < 31 ? -INFINITY : -3e4f - 1;
    }
    double want = log(29) + 2e4 + log(1 + 2 * exp(-1)), loss = in_parts(_i, 2, x[0], target, &labels);
    assert_close(loss, want, 4 * FLT_EPSILON, "%d parts", cuts[_i].parts);
    ck_assert_int_eq(labels, 2);
    ck_assert(x[0][0] == 0 && x[0][1] == 0 && x[0][31] == 0 && x[0][32] == -1 && x[1][5] == 0);
    assert_close(x[0][7], 1 / 29.0, 4 * FLT_EPSILON / 29, "the largest");
    assert_close(x[1][0], 1 / (1 + 2 * exp(-1)) - 1, 2 * FLT_EPSILON, "the label's");
}
END_TEST

START_TEST(non_finite_is_shown_in_parts)
{
    enum { WIDTH = 33 };
    static const float bad[] = { NAN, INFINITY };
    int32_t target = 17;
    int64_t labels;

    for (int b = 0; b < 2; b++)
        for (int at = 0; at < WIDTH; at++) {
            float *x = random_floats(WIDTH, 1, 5);

            x[at] = bad[b];
            ck_assert(isnan(in_parts(_i, 1, x, &target, &labels)));
            free(x);
        }
    float x[WIDTH];

    for (int j = 0; j < WIDTH; j++)
        x[j] = -INFINITY;
    ck_assert(isnan(in_parts(_i, 1, x, &target, &labels)));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: cross-entropy");
    TCase *c = tcase_create("cross-entropy");

    tcase_add_loop_test(c, against_reference, 0, 5);
    tcase_add_test(c, far_logits);
    tcase_add_test(c, non_finite_is_shown);
    tcase_add_test(c, smoothed);
    tcase_add_test(c, deterministic);
    tcase_add_loop_test(c, parts_against_reference, 0, 4);
    tcase_add_loop_test(c, far_logits_in_parts, 0, 4);
    tcase_add_loop_test(c, non_finite_is_shown_in_parts, 0, 4);
    suite_add_tcase(s, c);
    return s;
}
