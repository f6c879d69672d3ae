/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the loss, and of rows by number, against double. */
#include "tests/check_main.h"
#include "tests/math/device.h"

#include "codelets/math/math_cuda.h"

static const size_t shifts[] = {0, 1, 3, 8};
enum { SHIFTS = 4, RANGE = 5 };

/* An exponential's argument, at most 2 RANGE in size, is rounded twice and multiplied by log2(e), which is rounded; it enters
 * the sum and is scaled, with a few roundings more. The sum's terms are all positive. */
#define SOFTMAX_BOUND (FLT_EPSILON * (1.5 * 2 * RANGE + 8))

/* In double; returns the loss. */
static double softmax(int width, const float *x, int target, double *p)
{
    double max = -INFINITY, sum = 0;

    for (int j = 0; j < width; j++)
        max = fmax(max, x[j]);
    for (int j = 0; j < width; j++)
        sum += p[j] = exp(x[j] - max);
    for (int j = 0; j < width; j++)
        p[j] /= sum;
    return max + log(sum) - x[target];
}

/* Rows with labels in the first, the last and a middle column, and without one. */
static int32_t *labels(int rows, int width)
{
    int32_t *target = malloc((size_t)rows * sizeof(*target));

    ck_assert_ptr_nonnull(target);
    for (int r = 0; r < rows; r++)
        target[r] = r % 5 == 4 ? ORR_IGNORE : r % 5 == 0 ? width - 1 : r % 5 == 1 ? 0 : (r * 7919) % width;
    return target;
}

static void check_gradient(enum orr_dtype type, int rows, int width, int ld, const float *x, const int32_t *target, double scale,
                           const float *got)
{
    double *p = malloc((size_t)width * sizeof(*p));

    for (int r = 0; r < rows; r++) {
        const float *row = x + (size_t)r * ld, *g = got + (size_t)r * ld;

        softmax(width, row, target[r] == ORR_IGNORE ? 0 : target[r], p);
        for (int j = 0; j < ld; j++) {
            double want = target[r] == ORR_IGNORE ? 0 : scale * (p[j < width ? j : 0] - (j == target[r]));
            double bound = target[r] == ORR_IGNORE ? 0 : scale * p[j < width ? j : 0] * SOFTMAX_BOUND + rounding(type, want) +
                           FLT_EPSILON * fabs(want);

            if (j >= width)
                assert_that(g[j] == row[j]);
            else
                assert_close(g[j], want, bound, "%d of %d columns, row %d column %d", width, ld, r, j);
        }
    }
    free(p);
}

static void check_loss(enum orr_dtype type, int rows, int width, int ld, size_t shift)
{
    const float scale = 12.5f;
    size_t size = (size_t)rows * ld;
    float *x = random_floats(size, RANGE, (uint64_t)width), *zeros = random_floats(rows, 0, 0), factor[] = {scale};
    double *p = malloc((size_t)width * sizeof(*p)), want = 0;
    int32_t *target = labels(rows, width), *ids = put_ids(rows, target);
    int64_t count = 0;
    struct array logits = put(type, size, x, shift), loss = put(ORR_F32, rows, zeros, 1), scales = put(ORR_F32, 1, factor, 0);
    struct array twice = put(type, size, x, shift), unscaled = put(type, size, x, 0);
    struct orr_result result, *sum = room(sizeof(result));

    /* Without a gradient the logits stay. */
    orri_cuda_softmax_cross_entropy(&device, type, rows, width, logits.data, ld, ids, orri_sharp, false, NULL, loss.data);
    float *got = get(&logits), *losses = get(&loss);
    ck_assert_mem_eq(got, x, size * sizeof(float));
    for (int r = 0; r < rows; r++) {
        double mine = target[r] == ORR_IGNORE ? 0 : softmax(width, x + (size_t)r * ld, target[r], p);

        /* The logarithm of the sum has the sum's relative error; the result is rounded. */
        assert_close(losses[r], mine, target[r] == ORR_IGNORE ? 0 : SOFTMAX_BOUND + FLT_EPSILON * mine, "%d columns, row %d",
                     width, r);
        want += losses[r];
        count += target[r] != ORR_IGNORE;
    }
    free(got);
    orri_cuda_add_losses(&device, rows, loss.data, ids, true, sum);
    for (int n = 1; n <= 2; n++) {
        finish();
        CUDA(cudaMemcpy(&result, sum, sizeof(result), cudaMemcpyDeviceToHost));
        assert_close(result.loss, n * want, 1e-12 * fabs(want), "the sum of losses");
        ck_assert_int_eq(result.labels, n * count);
        orri_cuda_add_losses(&device, rows, loss.data, ids, false, sum);
    }
    free(losses);

    orri_cuda_softmax_cross_entropy(&device, type, rows, width, logits.data, ld, ids, orri_sharp, true, scales.data, loss.data);
    orri_cuda_softmax_cross_entropy(&device, type, rows, width, twice.data, ld, ids, orri_sharp, true, scales.data, loss.data);
    orri_cuda_softmax_cross_entropy(&device, type, rows, width, unscaled.data, ld, ids, orri_sharp, true, NULL, loss.data);
    assert_same(&twice, &logits);
    got = get(&logits);
    check_gradient(type, rows, width, ld, x, target, scale, got);
    free(got);
    got = get(&unscaled);
    check_gradient(type, rows, width, ld, x, target, 1, got);
    free(got);
    drop(&logits);
    drop(&loss);
    drop(&scales);
    drop(&twice);
    drop(&unscaled);
    drop_room(sum);
    drop_room(ids);
    free(x);
    free(zeros);
    free(p);
    free(target);
}

START_TEST(against_reference)
{
    static const int widths[] = {1, 3, 31, 33, 127, 768, 1000};

    for (int w = 0; w < 7; w++)
        for (int s = 0; s < SHIFTS; s++)
            check_loss(dtypes[_i], s == 1 ? 1 : 11, widths[w], widths[w] + s % 3 * 5, shifts[s]);
    check_loss(dtypes[_i], 3, 8191, 8192, 0);
    check_loss(dtypes[_i], 3, 8193, 8193, 1);
    check_loss(dtypes[_i], 2, 50257, 50257, 0);
    check_loss(dtypes[_i], 2, 50257, 50304, 8);
}
END_TEST

/* With smoothing, against the CPU's: whole rows and one part of them. */
START_TEST(smoothed)
{
    enum { ROWS = 5, WIDTH = 333, CUT = 100 };
    const struct orri_smoothing smoothing = {0.75f, 0.25f / WIDTH};
    enum orr_dtype type = dtypes[_i];
    float *x = random_floats(ROWS * WIDTH, RANGE, 11), *zeros = random_floats(ROWS * ORRI_LOSS_PART, 0, 0);
    int32_t *target = labels(ROWS, WIDTH), *ids = put_ids(ROWS, target);
    struct array logits = put(type, ROWS * WIDTH, x, 0), part = put(ORR_F32, ROWS * ORRI_LOSS_PART, zeros, 0);
    struct array loss = put(ORR_F32, ROWS, zeros, 0);
    float *rounded_x = get(&logits), *want = copy_floats(ROWS * WIDTH, rounded_x), wanted[ROWS * ORRI_LOSS_PART];
    int64_t count = 0;

    orri_cuda_cross_entropy_part(&device, type, ROWS, CUT, logits.data, WIDTH, ids, 0, smoothing, part.data);
    orri_cuda_softmax_cross_entropy(&device, type, ROWS, WIDTH, logits.data, WIDTH, ids, smoothing, true, NULL, loss.data);
    orri_cross_entropy_part(ROWS, CUT, want, WIDTH, target, 0, smoothing, wanted);
    float *got = get(&logits), *losses = get(&loss), *got_part = get(&part);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;

        orri_softmax_cross_entropy(1, WIDTH, want + r * WIDTH, WIDTH, target + r, smoothing, 1, &sum, &count);
        assert_close(losses[r], sum, 2 * SOFTMAX_BOUND + FLT_EPSILON * sum, "row %d", r);
        assert_close(got_part[r * ORRI_LOSS_PART + 2], wanted[r * ORRI_LOSS_PART + 2], 4 * FLT_EPSILON * RANGE, "row %d in part", r);
        for (int j = 0; j < WIDTH; j++)
            assert_close(got[r * WIDTH + j], want[r * WIDTH + j], 2 * SOFTMAX_BOUND + rounding(type, want[r * WIDTH + j]),
                         "row %d column %d", r, j);
    }
    free(got);
    free(losses);
    free(got_part);
    free(rounded_x);
    free(want);
    free(x);
    free(zeros);
    free(target);
    drop(&logits);
    drop(&part);
    drop(&loss);
    drop_room(ids);
}
END_TEST

/* Many rows for the sum, more than it has threads. */
START_TEST(sum_of_losses)
{
    enum { ROWS = 3001 };
    float *values = random_floats(ROWS, 9, 1);
    int32_t *target = labels(ROWS, 10), *ids = put_ids(ROWS, target);
    struct array loss = put(ORR_F32, ROWS, values, 1);
    struct orr_result result = {NAN, -1}, *sum = room(sizeof(result));
    double want = 0;
    int64_t count = 0;

    for (int r = 0; r < ROWS; r++)
        if (target[r] != ORR_IGNORE) {
            want += values[r];
            count++;
        }
    orri_cuda_add_losses(&device, ROWS, loss.data, ids, true, sum);
    finish();
    CUDA(cudaMemcpy(&result, sum, sizeof(result), cudaMemcpyDeviceToHost));
    assert_close(result.loss, want, 1e-12 * ROWS, "the sum");
    ck_assert_int_eq(result.labels, count);
    drop(&loss);
    drop_room(sum);
    drop_room(ids);
    free(values);
    free(target);
}
END_TEST

/* Logits that no exponential can hold, and -inf, which stands for a token that cannot be. */
START_TEST(far_logits)
{
    enum { WIDTH = 37 };
    float x[2][WIDTH];
    int32_t target[] = {36, 3};

    for (int j = 0; j < WIDTH; j++) {
        x[0][j] = j % 2 ? 3e4f : -3e4f;
        x[1][j] = j == 3 || j == 20 ? -6e4f : -INFINITY;
    }
    int32_t *ids = put_ids(2, target);
    struct array logits = put(dtypes[_i], 2 * WIDTH, x[0], 0), loss = put(ORR_F32, 2, (float[2]){0}, 0);
    double high = x[0][1], low = x[0][0];
    orri_cuda_softmax_cross_entropy(&device, dtypes[_i], 2, WIDTH, logits.data, WIDTH, ids, orri_sharp, true, NULL, loss.data);
    float *got = get(&logits), *losses = get(&loss);
    assert_close(losses[0], high - low + log(18), FLT_EPSILON * 6e4, "the first row");
    assert_close(losses[1], log(2), 4 * FLT_EPSILON, "the second");
    for (int j = 0; j < WIDTH; j++) {
        double first = j == 36 ? -1 : j % 2 ? 1.0 / 18 : 0, second = j == 3 ? -0.5 : j == 20 ? 0.5 : 0;

        assert_close(got[j], first, 4 * FLT_EPSILON + rounding(dtypes[_i], first), "column %d", j);
        assert_close(got[WIDTH + j], second, 4 * FLT_EPSILON + rounding(dtypes[_i], second), "column %d", j);
    }
    free(got);
    free(losses);
    drop(&logits);
    drop(&loss);
    drop_room(ids);
}
END_TEST

START_TEST(non_finite_is_shown)
{
    enum { WIDTH = 300 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const int places[] = {0, 1, 7, 8, 17, 255, 256, 299};
    int32_t target[] = {17}, *ids = put_ids(1, target);

    for (int b = 0; b < 3; b++)
        for (int a = 0; a < 8; a++) {
            float *x = random_floats(WIDTH, 1, 5);
            bool all = bad[b] < 0;      /* -inf is a logit like others, unless there are none */

            for (int j = 0; j < WIDTH; j++)
                x[j] = j == places[a] || all ? bad[b] : x[j];
            struct array logits = put(dtypes[_i], WIDTH, x, 0), loss = put(ORR_F32, 1, (float[1]){0}, 0);
            orri_cuda_softmax_cross_entropy(&device, dtypes[_i], 1, WIDTH, logits.data, WIDTH, ids, orri_sharp, false, NULL, loss.data);
            float *got = get(&loss);
            assert_that(isnan(got[0]) || got[0] == INFINITY);
            free(got);
            drop(&logits);
            drop(&loss);
            free(x);
        }
    drop_room(ids);
}
END_TEST

/* ---- in parts ------------------------------------------------------------------------------------------------------ */

enum { MOST_PARTS = 4 };

static const struct {
    int parts, first[MOST_PARTS + 1];
} cuts[] = {{1, {0, 333}}, {2, {0, 170, 333}}, {3, {0, 1, 330, 333}}, {4, {0, 1, 2, 3, 333}}};

START_TEST(in_parts)
{
    enum { WIDTH = 333, ROWS = 7 };
    enum orr_dtype type = dtypes[_i % DTYPES];
    int parts = cuts[_i / DTYPES].parts;
    const int *first = cuts[_i / DTYPES].first;
    float *x = random_floats(ROWS * WIDTH, RANGE, 11), *zeros = random_floats(ROWS * ORRI_LOSS_PART, 0, 0), factor[] = {0.25f};
    double *p = malloc(WIDTH * sizeof(*p));
    int32_t *target = labels(ROWS, WIDTH), *ids = put_ids(ROWS, target);
    struct array logits = put(type, ROWS * WIDTH, x, 0), part[MOST_PARTS], scale = put(ORR_F32, 1, factor, 0);
    struct array norm = put(ORR_F32, ROWS * ORRI_LOSS_NORM, zeros, 0), loss = put(ORR_F32, ROWS, zeros, 0);
    const float *data[MOST_PARTS];
    size_t size = orr_dtype_size(type);

    for (int t = 0; t < parts; t++) {
        part[t] = put(ORR_F32, ROWS * ORRI_LOSS_PART, zeros, 0);
        data[t] = part[t].data;
        orri_cuda_cross_entropy_part(&device, type, ROWS, first[t + 1] - first[t], (char *)logits.data + (size_t)first[t] * size,
                                     WIDTH, ids, first[t], orri_sharp, part[t].data);
    }
    orri_cuda_cross_entropy_join(&device, ROWS, parts, data, ids, norm.data, loss.data);
    float *got = get(&loss);
    for (int r = 0; r < ROWS; r++) {
        double want = target[r] == ORR_IGNORE ? 0 : softmax(WIDTH, x + r * WIDTH, target[r], p);

        assert_close(got[r], want, target[r] == ORR_IGNORE ? 0 : SOFTMAX_BOUND + FLT_EPSILON * want, "row %d", r);
    }
    free(got);
    for (int t = 0; t < parts; t++) {
        orri_cuda_cross_entropy_part_gradient(&device, type, ROWS, first[t + 1] - first[t],
                                              (char *)logits.data + (size_t)first[t] * size, WIDTH, ids, first[t], orri_sharp, norm.data,
                                              scale.data);
        drop(&part[t]);
    }
    got = get(&logits);
    check_gradient(type, ROWS, WIDTH, WIDTH, x, target, 0.25, got);
    free(got);
    drop(&logits);
    drop(&norm);
    drop(&loss);
    drop(&scale);
    drop_room(ids);
    free(x);
    free(zeros);
    free(p);
    free(target);
}
END_TEST

/* As the CPU's test of it: a part of nothing but -inf, one far below the others, the label in the smallest. */
START_TEST(far_logits_in_parts)
{
    enum { WIDTH = 33 };
    float x[2][WIDTH], *zeros = random_floats(2 * ORRI_LOSS_PART, 0, 0);
    int32_t target[] = {32, 0}, *ids = put_ids(2, target);
    static const int first[] = {0, 1, 31, 33};
    const float *data[3];

    for (int j = 0; j < WIDTH; j++) {
        x[0][j] = j < 2 ? -INFINITY : j < 31 ? 1e4f : -1e4f;
        x[1][j] = j < 1 ? -3e4f : j < 31 ? -INFINITY : -3e4f - 1;
    }
    struct array logits = put(ORR_F32, 2 * WIDTH, x[0], 0), part[3];
    struct array norm = put(ORR_F32, 2 * ORRI_LOSS_NORM, zeros, 0), loss = put(ORR_F32, 2, zeros, 0);
    for (int t = 0; t < 3; t++) {
        part[t] = put(ORR_F32, 2 * ORRI_LOSS_PART, zeros, 0);
        data[t] = part[t].data;
        orri_cuda_cross_entropy_part(&device, ORR_F32, 2, first[t + 1] - first[t], (float *)logits.data + first[t], WIDTH, ids,
                                     first[t], orri_sharp, part[t].data);
    }
    orri_cuda_cross_entropy_join(&device, 2, 3, data, ids, norm.data, loss.data);
    for (int t = 0; t < 3; t++)
        orri_cuda_cross_entropy_part_gradient(&device, ORR_F32, 2, first[t + 1] - first[t], (float *)logits.data + first[t],
                                              WIDTH, ids, first[t], orri_sharp, norm.data, NULL);
    float *got = get(&loss), *g = get(&logits);
    assert_close(got[0], log(29) + 2e4, FLT_EPSILON * 2e4, "the first row");
    assert_close(got[1], log(1 + 2 * exp(-1)), 4 * FLT_EPSILON, "the second");
    assert_that(g[0] == 0 && g[1] == 0 && g[31] == 0 && g[32] == -1 && g[WIDTH + 5] == 0);
    assert_close(g[7], 1 / 29.0, 4 * FLT_EPSILON / 29, "the largest");
    assert_close(g[WIDTH], 1 / (1 + 2 * exp(-1)) - 1, 4 * FLT_EPSILON, "the label's");
    free(got);
    free(g);
    free(zeros);
    for (int t = 0; t < 3; t++)
        drop(&part[t]);
    drop(&logits);
    drop(&norm);
    drop(&loss);
    drop_room(ids);
}
END_TEST

/* ---- rows by number -------------------------------------------------------------------------------------------------- */

enum { VOCAB = 50, SEQ = 13 };

/* Shapes of an embedding: sequences, the positions and the tokens that are here, channels. */
static const struct {
    int batch;
    struct orr_part at, tokens;
    int width;
} uses[] = {{1, {0, 1}, {0, VOCAB}, 1},   {3, {0, SEQ}, {0, VOCAB}, 33},  {2, {4, 5}, {0, VOCAB}, 768},
            {4, {3, 10}, {17, 20}, 12},   {3, {0, SEQ}, {49, 1}, 1000},   {40, {1, 12}, {0, 3}, 8},
            {31, {0, SEQ}, {0, VOCAB}, 3},   {2, {0, SEQ}, {5, 30}, 24}};
enum { USES = 8 };

/* One token often, a few now and then. */
static int32_t *tokens(size_t count, uint64_t seed)
{
    int32_t *ids = malloc(count * sizeof(*ids));

    ck_assert_ptr_nonnull(ids);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = seed >> 60 < 9 ? 1 : (int32_t)(seed >> 33) % VOCAB;
    }
    return ids;
}

START_TEST(embed)
{
    enum orr_dtype type = dtypes[_i];

    for (int u = 0; u < USES; u++)
        for (int s = 0; s < SHIFTS; s++) {
            int batch = uses[u].batch, width = uses[u].width;
            struct orr_part at = uses[u].at, part = uses[u].tokens;
            size_t size = (size_t)batch * (size_t)at.count * width;
            float *table = random_floats((size_t)part.count * width, 1, 1), *position = random_floats((size_t)SEQ * width, 1, 2);
            float *zeros = random_floats(size, 0, 0);
            int32_t *ids = tokens((size_t)batch * SEQ, 3), *on = put_ids((size_t)batch * SEQ, ids);
            struct array at_table = put(type, (size_t)part.count * width, table, shifts[s]);
            struct array at_position = put(type, (size_t)SEQ * width, position, 0), y = put(type, size, zeros, 0);

            for (int with = 0; with < 2; with++) {
                orri_cuda_embed(&device, type, batch, SEQ, at, width, on, part.first, part.count, at_table.data,
                                with ? at_position.data : NULL, y.data);
                float *got = get(&y);
                for (size_t k = 0; k < size; k++) {
                    int j = (int)(k % (size_t)width), r = (int)(k / (size_t)width), t = (int)at.first + r % (int)at.count;
                    int64_t row = ids[r / at.count * SEQ + t] - part.first;
                    float want = row >= 0 && row < part.count ? table[row * width + j] : 0;

                    assert_that(got[k] == rounded(type, want + (with ? position[t * width + j] : 0)));
                }
                free(got);
            }
            drop(&at_table);
            drop(&at_position);
            drop(&y);
            drop_room(on);
            free(table);
            free(position);
            free(zeros);
            free(ids);
        }
}
END_TEST

START_TEST(embed_backward)
{
    enum orr_dtype type = dtypes[_i];

    for (int u = 0; u < USES; u++)
        for (int s = 0; s < SHIFTS; s++) {
            int batch = uses[u].batch, width = uses[u].width, n = (int)uses[u].at.count;
            struct orr_part at = uses[u].at, part = uses[u].tokens;
            size_t size = (size_t)batch * (size_t)n * width, rows = (size_t)part.count;
            float *dy = random_floats(size, 1, 1), *old = random_floats(rows * width, 1, 2);
            float *before = copy_floats(rows * width, old), *old_position = random_floats((size_t)SEQ * width, 1, 3);
            double *want = calloc(rows * width, sizeof(double)), *sum = calloc(rows * width, sizeof(double));
            int32_t *ids = tokens((size_t)batch * SEQ, 3), *on = put_ids((size_t)batch * SEQ, ids), *times = calloc(rows, 4);
            struct array d = put(type, size, dy, shifts[s]), table = put(ORR_F32, rows * width, old, 0);
            struct array twice = put(ORR_F32, rows * width, old, shifts[s]), again = put(type, size, dy, 0);
            struct array position = put(ORR_F32, (size_t)SEQ * width, old_position, s == 3 ? 1 : 0);
            void *scratch = room(orri_cuda_embed_backward_scratch(batch, n));

            orri_cuda_embed_backward(&device, type, batch, SEQ, at, width, on, part.first, part.count, d.data, table.data,
                                     scratch);
            orri_cuda_embed_backward(&device, type, batch, SEQ, at, width, on, part.first, part.count, again.data, twice.data,
                                     scratch);
            assert_same(&table, &twice);
            for (int r = 0; r < batch * n; r++) {
                int64_t row = ids[r / n * SEQ + (int)at.first + r % n] - part.first;

                if (row < 0 || row >= part.count)
                    continue;
                times[row]++;
                for (int j = 0; j < width; j++) {
                    want[row * width + j] += dy[(size_t)r * width + j];
                    sum[row * width + j] += fabsf(dy[(size_t)r * width + j]);
                }
            }
            float *got = get(&table);
            for (size_t k = 0; k < rows * width; k++)
                assert_close(got[k], before[k] + want[k], SUM_BOUND(times[k / width] + 1) * (sum[k] + fabsf(before[k])) *
                             (times[k / width] > 0), "use %d, token %zu", u, k / width);
            free(got);

            orri_cuda_position_backward(&device, type, batch, at, width, d.data, position.data);
            got = get(&position);
            for (int t = 0; t < SEQ; t++)
                for (int j = 0; j < width; j++) {
                    double all = old_position[t * width + j], magnitude = fabs(all);
                    bool here = t >= at.first && t < at.first + n;

                    for (int b = 0; here && b < batch; b++) {
                        float x = dy[((size_t)(b * n + t) - (size_t)at.first) * width + j];
                        all += x;
                        magnitude += fabsf(x);
                    }
                    assert_close(got[t * width + j], all, here ? SUM_BOUND(batch + 1) * magnitude : 0, "use %d, position %d", u,
                                 t);
                }
            free(got);
            drop(&d);
            drop(&again);
            drop(&table);
            drop(&twice);
            drop(&position);
            drop_room(on);
            drop_room(scratch);
            free(dy);
            free(old);
            free(before);
            free(old_position);
            free(want);
            free(sum);
            free(times);
            free(ids);
        }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: kernels of the loss and of embeddings");
    TCase *c = tcase_create("loss"), *rows = tcase_create("rows by number");

    begin_device();
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, against_reference, 0, DTYPES);
    tcase_add_loop_test(c, smoothed, 0, DTYPES);
    tcase_add_test(c, sum_of_losses);
    tcase_add_loop_test(c, far_logits, 0, DTYPES);
    tcase_add_loop_test(c, non_finite_is_shown, 0, DTYPES);
    tcase_add_loop_test(c, in_parts, 0, 4 * DTYPES);
    tcase_add_test(c, far_logits_in_parts);
    suite_add_tcase(s, c);
    tcase_set_timeout(rows, 0);
    tcase_add_loop_test(rows, embed, 0, DTYPES);
    tcase_add_loop_test(rows, embed_backward, 0, DTYPES);
    suite_add_tcase(s, rows);
    return s;
}
