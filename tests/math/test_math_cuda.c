/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of rows and elements against double. A result may be off by the errors of the sums and functions in it, as on the CPU
 * (test_math.c), and by rounding it to its element type. */
#include "tests/check_main.h"
#include "tests/math/activation.h"
#include "tests/math/device.h"

#include "codelets/math/math_cuda.h"

/* Loops over tests are over element types; in them, over shapes, and addresses that are and are not multiples of 16. */
static const int row_counts[] = {1, 3, 127};
static const int widths[] = {1, 3, 12, 31, 33, 127, 768, 1000};
enum { SHAPES = 3 * 8 };
#define ROWS_OF(s) row_counts[(s) / 8]
#define WIDTH_OF(s) widths[(s) % 8]

static const size_t shifts[] = {0, 1, 8};
enum { SHIFTS = 3 };

static struct array like(const struct array *a, size_t shift)
{
    float *zeros = random_floats(a->count, 0, 0);
    struct array b = put(a->dtype, a->count, zeros, shift);

    free(zeros);
    return b;
}

/* ---- elements --------------------------------------------------------------------------------------------------- */

/* Every bf16 and fp16, and values between two of them. */
START_TEST(conversions)
{
    enum { COUNT = 3 * 65536 };
    float *values = malloc(COUNT * sizeof(float));

    for (int i = 0; i < 65536; i++) {
        float bf16 = from_bf16((uint16_t)i), f16 = from_f16((uint16_t)i);
        uint32_t bits = (uint32_t)i << 16 | 0x8000;

        values[3 * i] = isnan(bf16) ? 0 : bf16;
        values[3 * i + 1] = isfinite(f16) ? f16 + (float)(i % 3 - 1) * fabsf(f16) * 0x1p-11f : 0;
        memcpy(&values[3 * i + 2], &bits, 4);
        if (isnan(values[3 * i + 2]))
            values[3 * i + 2] = 1;
    }
    for (int f = 0; f < DTYPES; f++) {
        for (int t = 0; t < DTYPES; t++) {
            size_t count = f == t ? 1001 : COUNT - 1, shift = shifts[(f + t) % SHIFTS];
            float *from = copy_floats(count, values);
            struct array x = put(dtypes[f], count, from, shift), y = put(dtypes[t], count, values + 1, shift);

            orri_cuda_convert(&device, count, dtypes[f], x.data, dtypes[t], y.data);
            float *got = get(&y);
            for (size_t i = 0; i < count; i++)
                assert_that(got[i] == rounded(dtypes[t], from[i]));
            drop(&x);
            drop(&y);
            free(from);
            free(got);
        }
    }
    free(values);

    float odd[3] = {NAN, INFINITY, -INFINITY};
    struct array x = put(ORR_F32, 3, odd, 0), y = put(dtypes[_i], 3, (float[3]){0}, 0);
    orri_cuda_convert(&device, 3, ORR_F32, x.data, dtypes[_i], y.data);
    float *got = get(&y);
    assert_that(isnan(got[0]) && got[1] == INFINITY && got[2] == -INFINITY);
    free(got);
    drop(&x);
    drop(&y);
}
END_TEST

START_TEST(sums)
{
    enum { MOST = 5 };
    static const size_t counts[] = {1, 3, 31, 1000, 4099};
    enum orr_dtype type = dtypes[_i];

    for (size_t c = 0; c < 5; c++) {
        for (int s = 0; s < SHIFTS; s++) {
            size_t count = counts[c];
            float *values[MOST];
            struct array part[MOST], y;
            const void *data[MOST];

            for (int p = 0; p < MOST; p++) {
                values[p] = random_floats(count, 2, (uint64_t)p + 1);
                part[p] = put(type, count, values[p], s == 2 ? (size_t)p : shifts[s]);
                data[p] = part[p].data;
            }
            y = like(&part[0], shifts[s]);
            for (int parts = 1; parts <= MOST; parts++) {
                orri_cuda_sum(&device, type, count, parts, data, y.data);
                float *got = get(&y);
                for (size_t k = 0; k < count; k++) {
                    float want = values[0][k];
                    for (int p = 1; p < parts; p++)
                        want += values[p][k];
                    assert_that(got[k] == rounded(type, want));
                }
                free(got);
            }
            orri_cuda_sum(&device, type, count, MOST, data, part[0].data);      /* in place */
            assert_same(&part[0], &y);
            orri_cuda_add(&device, type, count, part[1].data, part[2].data);
            float *got = get(&part[2]);
            for (size_t k = 0; k < count; k++)
                assert_that(got[k] == rounded(type, values[1][k] + values[2][k]));
            free(got);
            if (type == ORR_F32) {
                orri_cuda_scale(&device, count, 0.3f, part[3].data);
                got = get(&part[3]);
                for (size_t k = 0; k < count; k++)
                    assert_that(got[k] == values[3][k] * 0.3f);
                free(got);
            }
            for (int p = 0; p < MOST; p++) {
                drop(&part[p]);
                free(values[p]);
            }
            drop(&y);
        }
    }
}
END_TEST

START_TEST(copies)
{
    enum { ROWS = 7, WIDTH = 5, FROM = 9, TO = 6 };
    float *from = random_floats(ROWS * FROM, 1, 1), *to = random_floats(ROWS * TO, 1, 2);
    struct array x = put(ORR_F32, ROWS * FROM, from, 1), y = put(ORR_F32, ROWS * TO, to, 0), z = like(&x, 3);

    orri_cuda_copy_rows(&device, ROWS, WIDTH * 4, x.data, FROM * 4, y.data, TO * 4);
    float *got = get(&y);
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < TO; j++)
            assert_that(got[r * TO + j] == (j < WIDTH ? from[r * FROM + j] : to[r * TO + j]));
    free(got);
    orri_cuda_copy(&device, ROWS * FROM * 4, x.data, z.data);
    assert_same(&x, &z);
    orri_cuda_zero(&device, 5 * 4, (float *)z.data + 1);
    got = get(&z);
    for (int k = 0; k < ROWS * FROM; k++)
        assert_that(got[k] == (k >= 1 && k < 6 ? 0 : from[k]));
    free(got);
    drop(&x);
    drop(&y);
    drop(&z);
    free(from);
    free(to);
}
END_TEST

/* ---- rows with a bias --------------------------------------------------------------------------------------------- */

START_TEST(bias_rows)
{
    enum orr_dtype type = dtypes[_i];

    for (int s = 0; s < SHAPES; s++) {
        int rows = ROWS_OF(s), width = WIDTH_OF(s);
        size_t size = (size_t)rows * width, shift = shifts[s % SHIFTS];
        float *x = random_floats(size, 2, 1), *bias = random_floats(width, 1, 2);
        struct array dx = put(type, size, x, shift), dbias = put(type, width, bias, 0), y = like(&dx, shift);

        for (int with_x = 0; with_x < 3; with_x++)
            for (int with_bias = 0; with_bias < 2; with_bias++) {
                if (with_x == 2)
                    orri_cuda_copy(&device, array_bytes(&dx), dx.data, y.data);
                orri_cuda_bias_rows(&device, type, rows, width, with_x == 2 ? y.data : with_x ? dx.data : NULL,
                                    with_bias ? dbias.data : NULL, y.data);
                float *got = get(&y);
                for (size_t k = 0; k < size; k++)
                    assert_that(got[k] == rounded(type, (with_x ? x[k] : 0) + (with_bias ? bias[k % width] : 0)));
                free(got);
            }
        drop(&dx);
        drop(&dbias);
        drop(&y);
        free(x);
        free(bias);
    }
}
END_TEST

/* More than a grid has: its threads go over the rest. */
START_TEST(very_many_rows)
{
    enum { ROWS = 65535 * 8 + 9, WIDTH = 2 };
    float *x = random_floats((size_t)ROWS * WIDTH, 2, 1), bias[WIDTH] = {1, 2};
    struct array ax = put(ORR_F32, (size_t)ROWS * WIDTH, x, 0), abias = put(ORR_F32, WIDTH, bias, 0);

    orri_cuda_bias_rows(&device, ORR_F32, ROWS, WIDTH, ax.data, abias.data, ax.data);
    float *got = get(&ax);
    for (size_t k = 0; k < (size_t)ROWS * WIDTH; k++)
        assert_that(got[k] == x[k] + bias[k % WIDTH]);
    drop(&ax);
    drop(&abias);
    free(x);
    free(got);
}
END_TEST

static void check_bias_backward(enum orr_dtype type, int rows, int width, int ld, size_t shift)
{
    float *dy = random_floats((size_t)rows * ld, 1, 1), *old = random_floats(width, 1, 2);
    struct array d = put(type, (size_t)rows * ld, dy, shift);

    for (int beta = 0; beta < 2; beta++) {
        if (!beta)
            old[0] = NAN;
        struct array db = put(ORR_F32, width, old, 0), twice = put(ORR_F32, width, old, shift);
        void *scratch = room(orri_cuda_bias_backward_scratch(rows, width));

        orri_cuda_bias_backward(&device, type, rows, width, d.data, ld, beta, db.data, scratch);
        orri_cuda_bias_backward(&device, type, rows, width, d.data, ld, beta, twice.data, scratch);
        assert_same(&db, &twice);
        float *got = get(&db);
        old[0] = beta ? old[0] : 0.5f;
        for (int j = 0; j < width; j++) {
            double want = beta ? old[j] : 0, size = fabs(want);

            for (int r = 0; r < rows; r++) {
                want += dy[(size_t)r * ld + j];
                size += fabsf(dy[(size_t)r * ld + j]);
            }
            assert_close(got[j], want, SUM_BOUND(rows + 1) * size, "%d x %d, column %d", rows, width, j);
        }
        free(got);
        drop(&db);
        drop(&twice);
        drop_room(scratch);
    }
    drop(&d);
    free(dy);
    free(old);
}

START_TEST(bias_backward)
{
    for (int s = 0; s < SHAPES; s++) {
        int width = WIDTH_OF(s);
        check_bias_backward(dtypes[_i], ROWS_OF(s), width, width + (s % 2 ? 5 : 8), shifts[s % SHIFTS]);
    }
    /* Rows enough for two stages, and for as many parts as there may be. */
    check_bias_backward(dtypes[_i], 513, 40, 40, 0);
    check_bias_backward(dtypes[_i], 1025, 3, 3, 1);
    check_bias_backward(dtypes[_i], 128 * 64 + 200, 8, 16, 0);
}
END_TEST

/* ---- activations, gates, rotary positions --------------------------------------------------------------------------- */

/* What an activation's result may be off by. */
static double activation_off(enum orr_dtype type, double want)
{
    return ACTIVATION_BOUND * fabs(want) + 1e-12 + rounding(type, want);
}

static const size_t counts[] = {1, 7, 31, 1000, 4099};
enum { COUNTS = 5 };

START_TEST(activate)
{
    enum orr_dtype type = dtypes[_i / ACTIVATIONS];
    enum orr_activation kind = activations[_i % ACTIVATIONS];

    for (int s = 0; s < COUNTS * SHIFTS; s++) {
        size_t count = counts[s / SHIFTS], shift = shifts[s % SHIFTS];
        float *u = random_floats(count, 7, 1);
        struct array au = put(type, count, u, shift), h = like(&au, shift);

        orri_cuda_activate(&device, type, kind, count, au.data, h.data);
        float *got = get(&h);
        for (size_t k = 0; k < count; k++) {
            double want = activation(kind, u[k]);

            assert_close(got[k], want, activation_off(type, want), "%d of %.9g", kind, u[k]);
        }
        drop(&au);
        drop(&h);
        free(u);
        free(got);
    }
}
END_TEST

START_TEST(activate_backward)
{
    enum orr_dtype type = dtypes[_i / ACTIVATIONS];
    enum orr_activation kind = activations[_i % ACTIVATIONS];

    for (int s = 0; s < COUNTS * SHIFTS; s++) {
        size_t count = counts[s / SHIFTS], shift = shifts[s % SHIFTS];
        float *u = random_floats(count, 8, 1), *dh = random_floats(count, 1, 2);
        struct array au = put(type, count, u, shift), adh = put(type, count, dh, shift), du = like(&au, shift);

        orri_cuda_activate_backward(&device, type, kind, count, adh.data, au.data, du.data);
        float *got = get(&du);
        for (size_t k = 0; k < count; k++) {
            double want = dh[k] * activation_slope(kind, u[k]);

            assert_close(got[k], want, SLOPE_BOUND * fabs(dh[k]) + rounding(type, want), "%d, slope at %.9g", kind, u[k]);
        }
        free(got);
        struct array over = put(type, count, u, shift);
        orri_cuda_activate_backward(&device, type, kind, count, adh.data, over.data, over.data);
        assert_same(&over, &du);
        drop(&over);
        orri_cuda_activate_backward(&device, type, kind, count, adh.data, au.data, adh.data);
        assert_same(&adh, &du);
        drop(&au);
        drop(&adh);
        drop(&du);
        free(u);
        free(dh);
    }
}
END_TEST

START_TEST(activation_far)
{
    static const float far[] = {100, 1e3f, 3e4f};
    enum { COUNT = 43 };
    enum orr_dtype type = dtypes[_i / ACTIVATIONS];
    enum orr_activation kind = activations[_i % ACTIVATIONS];

    for (int f = 0; f < 3; f++) {
        for (int fill = 0; fill < COUNT; fill += 7) {
            float u[COUNT], ones[COUNT];

            for (int k = 0; k < COUNT; k++) {
                u[k] = k % 2 ? far[f] : -far[f];
                ones[k] = 1;
            }
            u[fill] = NAN;
            u[fill / 7 + 1] = 0;
            struct array au = put(type, COUNT, u, 0), dh = put(type, COUNT, ones, 0), h = like(&au, 0);
            orri_cuda_activate(&device, type, kind, COUNT, au.data, h.data);
            orri_cuda_activate_backward(&device, type, kind, COUNT, dh.data, au.data, dh.data);
            float *got = get(&h), *slope = get(&dh);
            for (int k = 0; k < COUNT; k++) {
                float want = u[k] > 0 ? 1 : u[k] < 0 || kind == ORR_RELU ? 0 : 0.5f;

                assert_that(isnan(u[k]) ? isnan(got[k]) : got[k] == (u[k] > 0 ? u[k] : 0));
                assert_that(isnan(u[k]) ? isnan(slope[k]) || kind == ORR_RELU : fabsf(slope[k] - want) < 1e-30f);
            }
            free(got);
            free(slope);
            drop(&au);
            drop(&dh);
            drop(&h);
        }
    }
}
END_TEST

static void check_gated(enum orr_dtype type, enum orr_activation kind, int rows, int width, size_t shift)
{
    size_t size = (size_t)rows * width;
    float *u = random_floats(2 * size, 7, 1), *dh = random_floats(size, 1, 2);
    struct array au = put(type, 2 * size, u, shift), adh = put(type, size, dh, shift), h = like(&adh, shift);

    orri_cuda_gated(&device, type, kind, rows, width, au.data, h.data);
    orri_cuda_gated_backward(&device, type, kind, rows, width, adh.data, au.data);
    float *got = get(&h), *du = get(&au);
    for (size_t k = 0; k < size; k++) {
        size_t gate = k / width * 2 * width + k % width, up = gate + width;
        double a = activation(kind, u[gate]), want = a * u[up], both = (double)dh[k] * u[up];
        double dgate = both * activation_slope(kind, u[gate]), dup = a * dh[k], off = ACTIVATION_BOUND * fabs(a) + 1e-12;

        assert_close(got[k], want, off * fabs(u[up]) + rounding(type, want), "%d x %d, %zu", rows, width, k);
        assert_close(du[up], dup, off * fabs(dh[k]) + rounding(type, dup), "%d x %d, up %zu", rows, width, k);
        assert_close(du[gate], dgate, 2 * SLOPE_BOUND * fabs(both) + rounding(type, dgate), "%d x %d, gate %zu", rows, width, k);
    }
    drop(&au);
    drop(&adh);
    drop(&h);
    free(u);
    free(dh);
    free(got);
    free(du);
}

START_TEST(gated)
{
    for (int s = 0; s < SHAPES; s++)
        check_gated(dtypes[_i / ACTIVATIONS], activations[_i % ACTIVATIONS], ROWS_OF(s), WIDTH_OF(s), shifts[s % SHIFTS]);
}
END_TEST

/* Heads at the beginning of rows; positions that follow each other, and given ones. */
static void check_rotate(enum orr_dtype type, int half, bool given, size_t shift)
{
    enum { BATCH = 2, SEQ = 5, HEADS = 3, FIRST = 4093 };
    static const int32_t places[BATCH * SEQ] = {0, 1, 2, 0, 131072, 7, 8, 65535, 131071, 3};
    int width = HEADS * 2 * half, ld = width + 3;
    size_t size = (size_t)(BATCH * SEQ * ld);
    struct orri_rotary rotary = {.half = half};
    float *x = random_floats(size, 2, 1);
    int32_t *there = put_ids(BATCH * SEQ, places);

    for (int d = 0; d < half; d++)
        rotary.frequency[d] = (float)pow(10000, -(double)d / half);
    struct array ax = put(type, size, x, shift);
    orri_cuda_rotate(&device, type, &rotary, BATCH, SEQ, HEADS, FIRST, given ? there : NULL, false, ax.data, ld);
    float *turned = get(&ax);
    orri_cuda_rotate(&device, type, &rotary, BATCH, SEQ, HEADS, FIRST, given ? there : NULL, true, ax.data, ld);
    float *back = get(&ax);
    for (size_t k = 0; k < size; k++) {
        int r = (int)(k / (size_t)ld), j = (int)(k % (size_t)ld), d = j % half, other = j % (2 * half) < half ? half : -half;

        if (j >= width) {
            assert_that(turned[k] == x[k] && back[k] == x[k]);
            continue;
        }
        double angle = (float)(given ? places[r] : FIRST + r % SEQ) * rotary.frequency[d], c = cos(angle), s = sin(angle);
        double large = fabs(x[k]) + fabs(x[(int)k + other]), want = x[k] * c + (other > 0 ? -s : s) * x[(int)k + other];
        assert_close(turned[k], want, 2 * FLT_EPSILON * large + rounding(type, want), "row %d column %d", r, j);
        double before = turned[k] * c + (other > 0 ? s : -s) * turned[(int)k + other];
        assert_close(back[k], before, 2 * FLT_EPSILON * 2 * large + rounding(type, before), "back, row %d column %d", r, j);
    }
    CUDA(cudaFree(there));
    drop(&ax);
    free(x);
    free(turned);
    free(back);
}

START_TEST(rotate)
{
    static const int halves[] = {1, 5, 32, ORRI_MOST_FREQUENCIES};

    for (int n = 0; n < 4 * 2; n++)
        check_rotate(dtypes[_i], halves[n / 2], n % 2, shifts[n % SHIFTS]);
}
END_TEST

/* ---- dropout ------------------------------------------------------------------------------------------------------- */

/* Element for element what the CPU keeps, and in fp32 the same bits. */
START_TEST(dropout)
{
    static const float probabilities[] = {0, 0.1f, 0.5f, 0.9f, 1 - FLT_EPSILON};
    static const struct {
        int batch;
        size_t count;
        uint64_t first, stride;
    } uses[] = {{1, 1, 0, 1},         {1, 1000, 12345, 1000}, {3, 40, 1u << 20, 40}, {3, 40, 8, 800},
                {5, 33, 7, 33},       {2, 128, 3, 256},       {2, 128, 4, 129},      {4, 16, ((uint64_t)3 << 34) - 24, 16}};
    enum orr_dtype type = dtypes[_i];

    for (int p = 0; p < 5; p++) {
        struct orri_dropout d = {probabilities[p], {0x123456789abcdefu, 77, 9}};

        for (size_t n = 0; n < sizeof(uses) / sizeof(uses[0]); n++) {
            int batch = uses[n].batch;
            size_t count = uses[n].count, size = (size_t)batch * count, shift = shifts[(n + (size_t)p) % SHIFTS];
            float *x = random_floats(size, 2, 1), *residual = random_floats(size, 2, 2);
            struct array ax = put(type, size, x, shift), ar = put(type, size, residual, shift), y = like(&ax, shift);
            float *want = copy_floats(size, x);

            for (int b = 0; b < batch; b++)
                orri_dropout_apply(&d, uses[n].first + (uint64_t)b * uses[n].stride, count, want + (size_t)b * count);
            orri_cuda_dropout(&device, type, &d, batch, count, uses[n].first, uses[n].stride, ax.data, ar.data, y.data);
            float *got = get(&y);
            for (size_t k = 0; k < size; k++)
                assert_that(got[k] == rounded(type, want[k] + residual[k]));
            free(got);
            orri_cuda_dropout(&device, type, &d, batch, count, uses[n].first, uses[n].stride, ax.data, NULL, ax.data);
            got = get(&ax);
            for (size_t k = 0; k < size; k++)
                assert_close(got[k], rounded(type, want[k]), 0, "p %g, use %zu, element %zu", d.p, n, k);
            free(got);
            drop(&ax);
            drop(&ar);
            drop(&y);
            free(x);
            free(residual);
            free(want);
        }
    }
}
END_TEST

/* ---- norms --------------------------------------------------------------------------------------------------------- */

#define EPS 1e-5

/* LayerNorm, and RMSNorm, which knows no mean; with a bias, and without. */
struct style {
    bool rms, bias;
};

static const struct style styles[] = {{false, true}, {true, false}, {false, false}, {true, true}};
enum { STYLES = 4 };

static void check_norm(enum orr_dtype type, struct style style, int rows, int width, size_t shift)
{
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *beta = random_floats(width, 1, 3);
    float *zeros = random_floats(rows, 0, 0);
    struct array ax = put(type, size, x, shift), ag = put(type, width, gamma, 0), ab = put(type, width, beta, 0);
    struct array y = like(&ax, shift), again = like(&ax, shift), mean = put(ORR_F32, rows, zeros, 1), rstd = like(&mean, 0);
    void *bias = style.bias ? ab.data : NULL, *means = style.rms ? NULL : mean.data;

    orri_cuda_layernorm(&device, type, rows, width, ax.data, ag.data, bias, (float)EPS, y.data, means, rstd.data);
    float *got = get(&y), *m = get(&mean), *s = get(&rstd);
    for (int r = 0; r < rows; r++) {
        double average = 0, variance = 0;

        for (int j = 0; j < width && !style.rms; j++)
            average += (double)x[(size_t)r * width + j] / width;
        for (int j = 0; j < width; j++)
            variance += (x[(size_t)r * width + j] - average) * (x[(size_t)r * width + j] - average) / width;
        double root = 1 / sqrt(variance + EPS);
        assert_close(m[r], average, SUM_BOUND(width) * 2, "row %d", r);
        assert_close(s[r], root, SUM_BOUND(width) * root, "row %d", r);
        for (int j = 0; j < width; j++) {
            double xhat = (x[(size_t)r * width + j] - average) * root, want = xhat * gamma[j] + (style.bias ? beta[j] : 0);

            assert_close(got[(size_t)r * width + j], want, SUM_BOUND(width) * (2 * root + fabs(xhat) + 1) + rounding(type, want),
                         "%d x %d, row %d column %d", rows, width, r, j);
        }
    }
    orri_cuda_layernorm_again(&device, type, rows, width, ax.data, ag.data, bias, means, rstd.data, again.data);
    assert_same(&again, &y);
    orri_cuda_layernorm(&device, type, rows, width, ax.data, ag.data, bias, (float)EPS, ax.data, means, rstd.data);
    assert_same(&ax, &y);
    free(got);
    free(m);
    free(s);
    drop(&ax);
    drop(&ag);
    drop(&ab);
    drop(&y);
    drop(&again);
    drop(&mean);
    drop(&rstd);
    free(x);
    free(gamma);
    free(beta);
    free(zeros);
}

/* Rows that each of the kernels takes, the narrowest and widest, and wider than any. */
static const int norm_widths[] = {512, 520, 1024, 1032, 2048, 2056, 4096, 4104, 8192, 8200, 16384, 16392};

START_TEST(norm)
{
    enum orr_dtype type = dtypes[_i / STYLES];
    struct style style = styles[_i % STYLES];

    for (int s = 0; s < SHAPES; s++)
        check_norm(type, style, ROWS_OF(s), WIDTH_OF(s), shifts[s % SHIFTS]);
    for (int w = 0; w < 12; w++)
        check_norm(type, style, 3, norm_widths[w], 0);
}
END_TEST

static void check_norm_backward(enum orr_dtype type, struct style style, int rows, int width, size_t shift)
{
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *dy = random_floats(size, 1, 4);
    float *residual = random_floats(size, 1, 5), *mean = random_floats(rows, 0.1f, 8), *rstd = random_floats(rows, 0.1f, 9);
    float *old = random_floats(width, 9, 6);
    double *want_gamma = calloc(width, sizeof(double)), *want_beta = calloc(width, sizeof(double));
    double *size_gamma = calloc(width, sizeof(double)), *size_beta = calloc(width, sizeof(double));

    for (int r = 0; r < rows; r++) {
        rstd[r] += 1.5f;
        mean[r] = style.rms ? 0 : mean[r];
    }
    struct array ax = put(type, size, x, shift), ag = put(type, width, gamma, 0), ady = put(type, size, dy, shift);
    struct array ar = put(type, size, residual, shift), am = put(ORR_F32, rows, mean, 1), as = put(ORR_F32, rows, rstd, 0);
    struct array dx = like(&ax, shift), dgamma = put(ORR_F32, width, old, 0), dbeta = put(ORR_F32, width, old, 0);
    void *scratch = room(orri_cuda_layernorm_backward_scratch(rows, width));
    void *means = style.rms ? NULL : am.data;

    orri_cuda_layernorm_backward(&device, type, rows, width, ady.data, ax.data, ag.data, means, as.data, ar.data, dx.data,
                                 dgamma.data, style.bias ? dbeta.data : NULL, scratch);
    float *got = get(&dx), *got_gamma = get(&dgamma), *got_beta = get(&dbeta);
    for (int r = 0; r < rows; r++) {
        double m = mean[r], s = rstd[r], mean_g = 0, mean_gx = 0, size_g = 0, size_gx = 0;
        const float *row = x + (size_t)r * width, *d = dy + (size_t)r * width;

        for (int j = 0; j < width; j++) {
            double xhat = (row[j] - m) * s, g = (double)d[j] * gamma[j];

            mean_g += g / width;
            size_g += fabs(g) / width;
            mean_gx += g * xhat / width;
            size_gx += fabs(g * xhat) / width;
            want_gamma[j] += d[j] * xhat;
            size_gamma[j] += fabs(d[j] * xhat);
            want_beta[j] += d[j];
            size_beta[j] += fabsf(d[j]);
        }
        for (int j = 0; j < width; j++) {
            double xhat = (row[j] - m) * s, g = (double)d[j] * gamma[j], before = residual[(size_t)r * width + j];
            double want = before + s * (g - (style.rms ? 0 : mean_g) - xhat * mean_gx);
            double all = fabs(before) + s * (fabs(g) + size_g + fabs(xhat) * size_gx);

            assert_close(got[(size_t)r * width + j], want, SUM_BOUND(width) * all + rounding(type, want),
                         "%d x %d, row %d column %d", rows, width, r, j);
        }
    }
    for (int j = 0; j < width; j++) {
        assert_close(got_gamma[j], want_gamma[j], SUM_BOUND(rows) * size_gamma[j], "%d x %d, column %d", rows, width, j);
        assert_close(got_beta[j], style.bias ? want_beta[j] : old[j], style.bias ? SUM_BOUND(rows) * size_beta[j] : 0,
                     "%d x %d, column %d", rows, width, j);
    }
    free(got);
    free(got_gamma);
    free(got_beta);

    /* In place the bits stay the same: dx is dy, the residual, both; and the residual is dy, or none. */
    struct array twice = put(type, size, dy, shift), gamma2 = put(ORR_F32, width, old, 0), beta2 = put(ORR_F32, width, old, 0);
    orri_cuda_layernorm_backward(&device, type, rows, width, twice.data, ax.data, ag.data, means, as.data, ar.data, twice.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    assert_same(&twice, &dx);
    assert_same(&gamma2, &dgamma);
    assert_same(&beta2, &dbeta);
    orri_cuda_layernorm_backward(&device, type, rows, width, ady.data, ax.data, ag.data, means, as.data, ar.data, ar.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    assert_same(&ar, &dx);
    orri_cuda_layernorm_backward(&device, type, rows, width, ady.data, ax.data, ag.data, means, as.data, ady.data, dx.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    orri_cuda_layernorm_backward(&device, type, rows, width, ady.data, ax.data, ag.data, means, as.data, ady.data, ady.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    assert_same(&ady, &dx);
    orri_cuda_zero(&device, array_bytes(&ar), ar.data);
    orri_cuda_layernorm_backward(&device, type, rows, width, ax.data, ax.data, ag.data, means, as.data, NULL, dx.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    orri_cuda_layernorm_backward(&device, type, rows, width, ax.data, ax.data, ag.data, means, as.data, ar.data, twice.data,
                                 gamma2.data, style.bias ? beta2.data : NULL, scratch);
    float *a = get(&dx), *b = get(&twice);
    for (size_t k = 0; k < size; k++)
        assert_that(a[k] == b[k]);
    free(a);
    free(b);
    drop(&ax);
    drop(&ag);
    drop(&ady);
    drop(&ar);
    drop(&am);
    drop(&as);
    drop(&dx);
    drop(&dgamma);
    drop(&dbeta);
    drop(&twice);
    drop(&gamma2);
    drop(&beta2);
    drop_room(scratch);
    free(x);
    free(gamma);
    free(dy);
    free(residual);
    free(mean);
    free(rstd);
    free(old);
    free(want_gamma);
    free(want_beta);
    free(size_gamma);
    free(size_beta);
}

START_TEST(norm_backward)
{
    enum orr_dtype type = dtypes[_i / STYLES];
    struct style style = styles[_i % STYLES];

    for (int s = 0; s < SHAPES; s++)
        check_norm_backward(type, style, ROWS_OF(s), WIDTH_OF(s), shifts[s % SHIFTS]);
    for (int w = 0; w < 12; w++)
        check_norm_backward(type, style, 3, norm_widths[w], 0);
    /* Blocks that take several rows, in groups of threads of every size. */
    check_norm_backward(type, style, 600, 16, 0);
    check_norm_backward(type, style, 2200, 8, 0);
    check_norm_backward(type, style, 300, 3, 0);
    check_norm_backward(type, style, 300, 1024, 0);
}
END_TEST

/* A NaN or an infinity anywhere in a row is seen in all of it, and in none other. */
START_TEST(norm_of_what_is_not_finite)
{
    enum { ROWS = 5, WIDTH = 776 };
    static const float bad[] = {NAN, INFINITY};

    for (int n = 0; n < 2; n++) {
        float *x = random_floats(ROWS * WIDTH, 1, 1), *ones = random_floats(WIDTH, 1, 2), *zeros = random_floats(ROWS, 0, 0);

        x[2 * WIDTH + 770] = bad[n];
        struct array ax = put(dtypes[_i], ROWS * WIDTH, x, 0), g = put(dtypes[_i], WIDTH, ones, 0), y = like(&ax, 0);
        struct array mean = put(ORR_F32, ROWS, zeros, 0), rstd = like(&mean, 0);
        orri_cuda_layernorm(&device, dtypes[_i], ROWS, WIDTH, ax.data, g.data, g.data, (float)EPS, y.data, mean.data, rstd.data);
        float *got = get(&y);
        for (int k = 0; k < ROWS * WIDTH; k++)
            assert_that(isfinite(got[k]) == (k / WIDTH != 2));
        free(got);
        drop(&ax);
        drop(&g);
        drop(&y);
        drop(&mean);
        drop(&rstd);
        free(x);
        free(ones);
        free(zeros);
    }
}
END_TEST

/* After a failure nothing is enqueued. */
START_TEST(after_a_failure)
{
    float values[4] = {1, 2, 3, 4};
    struct array x = put(ORR_F32, 4, values, 0), y = put(ORR_F32, 4, values, 0);

    orr_cuda_fail(&device, "a call", "reason");
    orri_cuda_add(&device, ORR_F32, 4, x.data, y.data);
    orri_cuda_zero(&device, 16, y.data);
    orri_cuda_copy(&device, 4, x.data, (float *)y.data + 1);
    orri_cuda_copy_rows(&device, 2, 4, x.data, 4, (float *)y.data + 2, 4);
    orr_cuda_fail(&device, "another", "reason");
    ck_assert_str_eq(device.what, "a call: reason");
    device.code = 0;
    assert_same(&x, &y);
    drop(&x);
    drop(&y);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: kernels");
    TCase *c = tcase_create("rows");

    begin_device();
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, conversions, 0, DTYPES);
    tcase_add_loop_test(c, sums, 0, DTYPES);
    tcase_add_test(c, copies);
    tcase_add_loop_test(c, bias_rows, 0, DTYPES);
    tcase_add_test(c, very_many_rows);
    tcase_add_loop_test(c, bias_backward, 0, DTYPES);
    tcase_add_loop_test(c, activate, 0, DTYPES * ACTIVATIONS);
    tcase_add_loop_test(c, activate_backward, 0, DTYPES * ACTIVATIONS);
    tcase_add_loop_test(c, activation_far, 0, DTYPES * ACTIVATIONS);
    tcase_add_loop_test(c, gated, 0, DTYPES * ACTIVATIONS);
    tcase_add_loop_test(c, rotate, 0, DTYPES);
    tcase_add_loop_test(c, dropout, 0, DTYPES);
    tcase_add_loop_test(c, norm, 0, DTYPES * STYLES);
    tcase_add_loop_test(c, norm_backward, 0, DTYPES * STYLES);
    tcase_add_loop_test(c, norm_of_what_is_not_finite, 0, DTYPES);
    tcase_add_test(c, after_a_failure);
    suite_add_tcase(s, c);
    return s;
}
