/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/check_main.h"
#include "tests/math/activation.h"
#include "tests/math/reference.h"

#include "codelets/math/math.h"
#include "core/core.h"
#include "codelets/math/simd_math.h"
#include "codelets/math/small_product.h"

#include <string.h>

static const int row_counts[] = { 1, 17, 129, 200 };
static const int widths[] = { 1, 7, 33, 100 };

/* Loop tests run over all pairs. */
#define PAIRS 16
#define ROWS_OF(i) row_counts[(i) / 4]
#define WIDTH_OF(i) widths[(i) % 4]

/* ---- expf ---- */

START_TEST(exponential)
{
    for (double x = -86.4; x < 88.7; x += 0.00137) {
        float f = (float)x;

        assert_close(orri_expf(f), exp(f), 1.5 * FLT_EPSILON * exp(f), "exp(%.9g)", f);
        if (f < 88)
            assert_that(orri_exp_bounded(f) == orri_expf(f));
    }
    ck_assert(orri_expf(0) == 1);
    ck_assert(orri_expf(-INFINITY) == 0);
    ck_assert(orri_expf(-1e30f) == 0);
    ck_assert(orri_expf(-87) == 0);
    ck_assert(orri_expf(INFINITY) == INFINITY);
    ck_assert(orri_expf(88.8f) == INFINITY);
    ck_assert(orri_expf(1e30f) == INFINITY);
    ck_assert(isnan(orri_expf(NAN)));
    ck_assert(orri_exp_bounded(-INFINITY) == 0);
    ck_assert(orri_exp_bounded(-FLT_MAX) == 0);
    ck_assert(orri_exp_bounded(-87) == 0);
    ck_assert(isnan(orri_exp_bounded(NAN)));
}
END_TEST

/* ---- gemm ---- */

START_TEST(gemm)
{
    enum { M = 17, N = 7, K = 33, PAD = 3 };
    bool ta = _i & 1, tb = _i & 2, add = _i & 4;
    int lda = (ta ? M : K) + PAD, ldb = (tb ? K : N) + PAD, ldc = N + PAD;
    float *a = random_floats((ta ? K : M) * lda, 1, 1), *b = random_floats((tb ? N : K) * ldb, 1, 2);
    float *c = random_floats(M * ldc, 1, 3), *old = copy_floats(M * ldc, c);

    if (!add)
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++)
                c[i * ldc + j] = NAN;
    orri_gemm(ta, tb, M, N, K, a, lda, b, ldb, add ? 1 : 0, c, ldc);
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < N; j++) {
            double want = add ? old[i * ldc + j] : 0, size = fabs(want);

            for (int k = 0; k < K; k++) {
                double term = (double)a[ta ? k * lda + i : i * lda + k] * b[tb ? j * ldb + k : k * ldb + j];
                want += term;
                size += fabs(term);
            }
            assert_close(c[i * ldc + j], want, SUM_BOUND(K) * size, "gemm %d,%d", i, j);
        }
        for (int j = N; j < ldc; j++)
            ck_assert(c[i * ldc + j] == old[i * ldc + j]);
    }
    free(a);
    free(b);
    free(c);
    free(old);
}
END_TEST

/* ---- LayerNorm ---- */

#define EPS 1e-5

static void norm_row(int width, const double *x, double *mean, double *rstd)
{
    double m = 0, var = 0;

    for (int j = 0; j < width; j++)
        m += x[j] / width;
    for (int j = 0; j < width; j++)
        var += (x[j] - m) * (x[j] - m) / width;
    *mean = m;
    *rstd = 1 / sqrt(var + EPS);
}

/* sum over j of dy y, the scalar whose gradient the backward pass returns. */
static double norm_objective(int width, const double *x, const double *gamma, const double *beta, const float *dy)
{
    double mean, rstd, sum = 0;

    norm_row(width, x, &mean, &rstd);
    for (int j = 0; j < width; j++)
        sum += dy[j] * ((x[j] - mean) * rstd * gamma[j] + beta[j]);
    return sum;
}

START_TEST(layernorm)
{
    int rows = ROWS_OF(_i), width = WIDTH_OF(_i);
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *beta = random_floats(width, 1, 3);
    float *y = random_floats(size, 0, 0), *again = random_floats(size, 0, 0);
    float *mean = random_floats(rows, 0, 0), *rstd = random_floats(rows, 0, 0);

    orri_layernorm(rows, width, x, gamma, beta, EPS, y, mean, rstd);
    for (int r = 0; r < rows; r++) {
        double *d = to_double(width, x + (size_t)r * width), m, s;

        norm_row(width, d, &m, &s);
        assert_close(mean[r], m, SUM_BOUND(width) * 2, "row %d", r);
        /* A rounding of the mean by 2 eps passes through rstd, at most 1 / sqrt(EPS), for constant rows. */
        assert_close(rstd[r], s, SUM_BOUND(width) * s, "row %d", r);
        for (int j = 0; j < width; j++) {
            double xhat = (d[j] - m) * s;

            assert_close(y[(size_t)r * width + j], xhat * gamma[j] + beta[j],
                         SUM_BOUND(width) * (2 * s + fabs(xhat) + 1), "row %d column %d", r, j);
        }
        free(d);
    }
    orri_layernorm_again(rows, width, x, gamma, beta, mean, rstd, again);
    ck_assert_mem_eq(again, y, size * sizeof(float));
    orri_layernorm(rows, width, x, gamma, beta, EPS, again, mean, rstd);
    ck_assert_mem_eq(again, y, size * sizeof(float));
    free(x);
    free(gamma);
    free(beta);
    free(y);
    free(again);
    free(mean);
    free(rstd);
}
END_TEST

START_TEST(layernorm_backward)
{
    int rows = ROWS_OF(_i), width = WIDTH_OF(_i);
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *beta = random_floats(width, 1, 3);
    float *dy = random_floats(size, 1, 4), *residual = random_floats(size, 1, 5), *dx = random_floats(size, 0, 0);
    float *y = random_floats(size, 0, 0), *mean = random_floats(rows, 0, 0), *rstd = random_floats(rows, 0, 0);
    float *dgamma = random_floats(width, 0, 0), *dbeta = random_floats(width, 0, 0);
    double *dgamma_want = calloc(width, sizeof(double)), *dbeta_want = calloc(width, sizeof(double));
    double *dgamma_size = calloc(width, sizeof(double)), *dbeta_size = calloc(width, sizeof(double));
    double *wide_gamma = to_double(width, gamma), *wide_beta = to_double(width, beta);

    orri_layernorm(rows, width, x, gamma, beta, EPS, y, mean, rstd);
    orri_layernorm_backward(rows, width, dy, x, gamma, mean, rstd, residual, dx, dgamma, dbeta);
    for (int r = 0; r < rows; r++) {
        const float *g = dy + (size_t)r * width, *res = residual + (size_t)r * width;
        double *d = to_double(width, x + (size_t)r * width), m, s, mean_g = 0, mean_gx = 0;

        norm_row(width, d, &m, &s);
        for (int j = 0; j < width; j++) {
            double xhat = (d[j] - m) * s;

            mean_g += (double)g[j] * gamma[j] / width;
            mean_gx += (double)g[j] * gamma[j] * xhat / width;
            dgamma_want[j] += g[j] * xhat;
            dgamma_size[j] += fabs(g[j] * xhat) + 2 * s * fabs(g[j]);
            dbeta_want[j] += g[j];
            dbeta_size[j] += fabs(g[j]);
        }
        for (int j = 0; j < width; j++) {
            double xhat = (d[j] - m) * s;
            double want = res[j] + s * ((double)g[j] * gamma[j] - mean_g - xhat * mean_gx);
            double bound = SUM_BOUND(width) * (1 + s * (2 + 2 * s + fabs(xhat)));

            assert_close(dx[(size_t)r * width + j], want, bound, "row %d column %d", r, j);
            if ((r * width + j) % 7 == 0) {
                double h = 1e-5, x0 = d[j];

                d[j] = x0 + h;
                double up = norm_objective(width, d, wide_gamma, wide_beta, g);
                d[j] = x0 - h;
                double down = norm_objective(width, d, wide_gamma, wide_beta, g);
                d[j] = x0;
                /* The difference itself is off by h^2 times the third derivative, of size s^3. */
                assert_close(dx[(size_t)r * width + j] - res[j], (up - down) / (2 * h),
                             bound + 10 * h * h * s * s * s * width, "row %d column %d, difference", r, j);
            }
        }
        free(d);
    }
    for (int j = 0; j < width; j++) {
        double bound = SUM_BOUND(rows) + SUM_BOUND(width);

        assert_close(dgamma[j], dgamma_want[j], bound * dgamma_size[j], "column %d", j);
        assert_close(dbeta[j], dbeta_want[j], bound * dbeta_size[j], "column %d", j);
    }
    /* The objective is linear in gamma and beta: one step of any length is exact. */
    for (int which = 0; which < 2; which++) {
        double *moved = which ? wide_beta : wide_gamma, change[2] = { 0, 0 };
        int j = width / 2;

        for (int side = 0; side < 2; side++) {
            moved[j] += side ? 1 : 0;
            for (int r = 0; r < rows; r++) {
                double *d = to_double(width, x + (size_t)r * width);
                change[side] += norm_objective(width, d, wide_gamma, wide_beta, dy + (size_t)r * width);
                free(d);
            }
        }
        assert_close(which ? dbeta[j] : dgamma[j], change[1] - change[0],
                     (SUM_BOUND(rows) + SUM_BOUND(width)) * (which ? dbeta_size : dgamma_size)[j] + 1e-9,
                     "column %d, difference", j);
    }

    /* In place, three ways, the bits stay the same. */
    float *in_place = copy_floats(size, dy), *both = copy_floats(size, residual), *g2 = random_floats(width, 0, 0);
    orri_layernorm_backward(rows, width, in_place, x, gamma, mean, rstd, residual, in_place, g2, dbeta);
    ck_assert_mem_eq(in_place, dx, size * sizeof(float));
    ck_assert_mem_eq(g2, dgamma, width * sizeof(float));
    orri_layernorm_backward(rows, width, dy, x, gamma, mean, rstd, both, both, g2, dbeta);
    ck_assert_mem_eq(both, dx, size * sizeof(float));
    for (size_t k = 0; k < size; k++)
        residual[k] = 0;
    orri_layernorm_backward(rows, width, dy, x, gamma, mean, rstd, residual, dx, g2, dbeta);
    orri_layernorm_backward(rows, width, dy, x, gamma, mean, rstd, NULL, both, g2, dbeta);
    for (size_t k = 0; k < size; k++)
        ck_assert(both[k] == dx[k]);

    free(x);
    free(gamma);
    free(beta);
    free(dy);
    free(residual);
    free(dx);
    free(y);
    free(mean);
    free(rstd);
    free(dgamma);
    free(dbeta);
    free(dgamma_want);
    free(dbeta_want);
    free(dgamma_size);
    free(dbeta_size);
    free(wide_gamma);
    free(wide_beta);
    free(in_place);
    free(both);
    free(g2);
}
END_TEST

/* ---- RMSNorm, and LayerNorm without a bias ---- */

/* One without the means; `bias` with beta and dbeta. */
static void check_rmsnorm(int rows, int width, bool bias)
{
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *beta = bias ? random_floats(width, 1, 3) : NULL;
    float *dy = random_floats(size, 1, 4), *residual = random_floats(size, 1, 5), *dx = random_floats(size, 0, 0);
    float *y = random_floats(size, 0, 0), *again = random_floats(size, 0, 0), *rstd = random_floats(rows, 0, 0);
    float *dgamma = random_floats(width, 0, 0), *dbeta = random_floats(width, 0, 0);
    double *dgamma_want = calloc(width, sizeof(double)), *dbeta_want = calloc(width, sizeof(double));
    double *dgamma_size = calloc(width, sizeof(double)), *dbeta_size = calloc(width, sizeof(double));

    orri_layernorm(rows, width, x, gamma, beta, EPS, y, NULL, rstd);
    orri_layernorm_again(rows, width, x, gamma, beta, NULL, rstd, again);
    ck_assert_mem_eq(again, y, size * sizeof(float));
    orri_layernorm_backward(rows, width, dy, x, gamma, NULL, rstd, residual, dx, dgamma, bias ? dbeta : NULL);
    for (int r = 0; r < rows; r++) {
        const float *v = x + (size_t)r * width, *g = dy + (size_t)r * width, *res = residual + (size_t)r * width;
        double squares = 0, mean_gx = 0, size_gx = 0;

        for (int j = 0; j < width; j++)
            squares += (double)v[j] * v[j] / width;
        double s = 1 / sqrt(squares + EPS);
        assert_close(rstd[r], s, SUM_BOUND(width) * s, "row %d", r);
        for (int j = 0; j < width; j++) {
            double xhat = v[j] * s, term = (double)g[j] * gamma[j] * xhat / width;

            mean_gx += term;
            size_gx += fabs(term);
            dgamma_want[j] += g[j] * xhat;
            dgamma_size[j] += fabs(g[j] * xhat);
            dbeta_want[j] += g[j];
            dbeta_size[j] += fabs(g[j]);
        }
        for (int j = 0; j < width; j++) {
            double xhat = v[j] * s, want = xhat * gamma[j] + (bias ? beta[j] : 0), k = (double)g[j] * gamma[j];

            assert_close(y[(size_t)r * width + j], want, SUM_BOUND(width) * (fabs(xhat) + 1), "row %d column %d", r, j);
            assert_close(dx[(size_t)r * width + j], res[j] + s * (k - xhat * mean_gx),
                         SUM_BOUND(width) * (fabs(res[j]) + s * (fabs(k) + fabs(xhat) * size_gx)), "row %d column %d", r, j);
        }
    }
    for (int j = 0; j < width; j++) {
        double bound = SUM_BOUND(rows) + SUM_BOUND(width);

        assert_close(dgamma[j], dgamma_want[j], bound * dgamma_size[j], "column %d", j);
        assert_close(dbeta[j], bias ? dbeta_want[j] : 0, bound * dbeta_size[j], "column %d", j);
    }
    free(x);
    free(gamma);
    free(beta);
    free(dy);
    free(residual);
    free(dx);
    free(y);
    free(again);
    free(rstd);
    free(dgamma);
    free(dbeta);
    free(dgamma_want);
    free(dbeta_want);
    free(dgamma_size);
    free(dbeta_size);
}

START_TEST(rmsnorm)
{
    check_rmsnorm(ROWS_OF(_i), WIDTH_OF(_i), false);
    check_rmsnorm(ROWS_OF(_i), WIDTH_OF(_i), true);
}
END_TEST

/* As with a bias of zeros. */
START_TEST(layernorm_without_bias)
{
    int rows = ROWS_OF(_i), width = WIDTH_OF(_i);
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *gamma = random_floats(width, 1, 2), *zeros = random_floats(width, 0, 0);
    float *dy = random_floats(size, 1, 4), *y[2], *dx[2], *dgamma[2];
    float *mean = random_floats(rows, 0, 0), *rstd = random_floats(rows, 0, 0);

    for (int i = 0; i < 2; i++) {
        y[i] = random_floats(size, 1, 7);
        dx[i] = random_floats(size, 1, 8);
        dgamma[i] = random_floats(width, 1, 9);
        orri_layernorm(rows, width, x, gamma, i ? NULL : zeros, EPS, y[i], mean, rstd);
        orri_layernorm_backward(rows, width, dy, x, gamma, mean, rstd, NULL, dx[i], dgamma[i], i ? NULL : zeros);
    }
    for (size_t k = 0; k < size; k++)
        assert_that(y[0][k] == y[1][k]);
    ck_assert_mem_eq(dx[0], dx[1], size * sizeof(float));
    ck_assert_mem_eq(dgamma[0], dgamma[1], width * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(y[i]);
        free(dx[i]);
        free(dgamma[i]);
    }
    free(x);
    free(gamma);
    free(zeros);
    free(dy);
    free(mean);
    free(rstd);
}
END_TEST

/* ---- rows with a bias ---- */

START_TEST(bias_rows)
{
    int rows = ROWS_OF(_i), width = WIDTH_OF(_i);
    size_t size = (size_t)rows * width;
    float *x = random_floats(size, 2, 1), *bias = random_floats(width, 1, 2), *y = random_floats(size, 1, 3);

    for (int with_x = 0; with_x < 3; with_x++)
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            if (with_x == 2)
                memcpy(y, x, size * sizeof(float));
            orri_bias_rows(rows, width, with_x == 2 ? y : with_x ? x : NULL, with_bias ? bias : NULL, y);
            for (size_t k = 0; k < size; k++)
                ck_assert(y[k] == (with_x ? x[k] : 0) + (with_bias ? bias[k % width] : 0));
        }
    memcpy(y, bias, width * sizeof(float));
    orri_add(width, x, y);
    for (int j = 0; j < width; j++)
        ck_assert(y[j] == bias[j] + x[j]);
    free(x);
    free(bias);
    free(y);
}
END_TEST

START_TEST(bias_backward)
{
    int rows = ROWS_OF(_i), width = WIDTH_OF(_i), ld = width + 5;
    float *dy = random_floats((size_t)rows * ld, 1, 1), *old = random_floats(width, 1, 2);

    for (int beta = 0; beta < 2; beta++) {
        float *db = copy_floats(width, old), *twice = copy_floats(width, old);

        if (!beta)
            db[0] = NAN;
        orri_bias_backward(rows, width, dy, ld, beta, db);
        orri_bias_backward(rows, width, dy, ld, beta, twice);
        ck_assert_mem_eq(db, twice, width * sizeof(float));
        for (int j = 0; j < width; j++) {
            double want = beta ? old[j] : 0, size = fabs(want);

            for (int r = 0; r < rows; r++) {
                want += dy[(size_t)r * ld + j];
                size += fabsf(dy[(size_t)r * ld + j]);
            }
            assert_close(db[j], want, SUM_BOUND(rows) * size, "column %d", j);
        }
        free(db);
        free(twice);
    }
    free(dy);
    free(old);
}
END_TEST

/* ---- activations ---- */

START_TEST(activate)
{
    enum orr_activation kind = activations[_i % ACTIVATIONS];
    size_t count = (size_t)ROWS_OF(_i / ACTIVATIONS) * WIDTH_OF(_i / ACTIVATIONS);
    float *u = random_floats(count, 7, 1), *h = random_floats(count, 0, 0);

    orri_activate(kind, count, u, h);
    for (size_t k = 0; k < count; k++) {
        double want = activation(kind, u[k]);

        assert_close(h[k], want, kind == ORR_RELU ? 0 : ACTIVATION_BOUND * fabs(want) + 1e-12, "%d of %.9g", kind, u[k]);
    }
    free(u);
    free(h);
}
END_TEST

START_TEST(activate_backward)
{
    enum orr_activation kind = activations[_i % ACTIVATIONS];
    size_t count = (size_t)ROWS_OF(_i / ACTIVATIONS) * WIDTH_OF(_i / ACTIVATIONS);
    float *u = random_floats(count, 8, 1), *dh = random_floats(count, 1, 2), *du = random_floats(count, 0, 0);
    float *over_dh = copy_floats(count, dh), *over_u = copy_floats(count, u);

    orri_activate_backward(kind, count, dh, u, du);
    for (size_t k = 0; k < count; k++) {
        double step = 1e-5, x = u[k];
        double difference = (activation(kind, x + step) - activation(kind, x - step)) / (2 * step);

        assert_close(du[k], dh[k] * activation_slope(kind, x), SLOPE_BOUND * fabs(dh[k]), "%d, slope at %.9g", kind, x);
        if (kind != ORR_RELU || fabs(x) > step)
            assert_close(du[k], dh[k] * difference, SLOPE_BOUND * fabs(dh[k]) + 1e-9, "%d, difference at %.9g", kind, x);
    }
    orri_activate_backward(kind, count, over_dh, u, over_dh);
    ck_assert_mem_eq(over_dh, du, count * sizeof(float));
    orri_activate_backward(kind, count, dh, over_u, over_u);
    ck_assert_mem_eq(over_u, du, count * sizeof(float));
    free(u);
    free(dh);
    free(du);
    free(over_dh);
    free(over_u);
}
END_TEST

START_TEST(activation_far)
{
    enum orr_activation kind = activations[_i];

    for (int fill = 0; fill < 40; fill++) {    /* in the vector part and in the rest of the loop */
        float u[40], h[40], dh[40], du[40];
        float far[] = { 100, 1e3f, 1e15f, 3e38f };

        for (int f = 0; f < 4; f++) {
            for (int k = 0; k < 40; k++) {
                u[k] = k % 2 ? far[f] : -far[f];
                dh[k] = 1;
            }
            u[fill] = NAN;
            orri_activate(kind, 40, u, h);
            orri_activate_backward(kind, 40, dh, u, du);
            for (int k = 0; k < 40; k++) {
                ck_assert(k == fill ? isnan(h[k]) : h[k] == (k % 2 ? far[f] : 0));
                ck_assert(k == fill ? isnan(du[k]) || kind == ORR_RELU : fabsf(du[k] - (float)(k % 2)) < 1e-30f);
            }
        }
    }
    float zero = 0, one = 1, got;
    orri_activate(kind, 1, &zero, &got);
    ck_assert(got == 0);
    orri_activate_backward(kind, 1, &one, &zero, &got);
    ck_assert(fabsf(got - (kind == ORR_RELU ? 0 : 0.5f)) < 1e-6f);
}
END_TEST

START_TEST(gated)
{
    enum orr_activation kind = activations[_i % ACTIVATIONS];
    size_t count = (size_t)ROWS_OF(_i / ACTIVATIONS) * WIDTH_OF(_i / ACTIVATIONS);
    float *gate = random_floats(count, 7, 1), *up = random_floats(count, 2, 2), *dh = random_floats(count, 1, 3);
    float *h = random_floats(count, 0, 0), *dgate = copy_floats(count, gate), *dup = copy_floats(count, up);

    orri_gated(kind, count, gate, up, h);
    orri_gated_backward(kind, count, dh, dgate, dup);
    for (size_t k = 0; k < count; k++) {
        double a = activation(kind, gate[k]), slope = activation_slope(kind, gate[k]), both = (double)dh[k] * up[k];

        assert_close(h[k], a * up[k], (ACTIVATION_BOUND * fabs(a) + 1e-12) * fabs(up[k]), "%d of %.9g", kind, gate[k]);
        assert_close(dup[k], a * dh[k], (ACTIVATION_BOUND * fabs(a) + 1e-12) * fabs(dh[k]), "%d of %.9g", kind, gate[k]);
        assert_close(dgate[k], both * slope, (SLOPE_BOUND + FLT_EPSILON) * fabs(both), "%d, slope at %.9g", kind, gate[k]);
    }
    free(gate);
    free(up);
    free(dh);
    free(h);
    free(dgate);
    free(dup);
}
END_TEST

/* ---- rotary positions ---- */

static const int halves[] = { 1, 5, 32, ORRI_MOST_FREQUENCIES };
static const int positions[] = { 0, 1, 100, 4095, 131072 };

/* Frequencies of theta = 10000, some of which turn far and some hardly. */
static struct orri_rotary rotary_of(int half)
{
    struct orri_rotary rotary = {.half = half};

    for (int d = 0; d < half; d++)
        rotary.frequency[d] = (float)pow(10000, -(double)d / half);
    return rotary;
}

START_TEST(rotary_positions)
{
    enum { HEADS = 3 };
    int half = halves[_i / 5], position = positions[_i % 5], width = 2 * half;
    const struct orri_rotary rotary = rotary_of(half);
    float cosine[ORRI_MOST_FREQUENCIES], sine[ORRI_MOST_FREQUENCIES];
    float *x = random_floats((size_t)(HEADS * width), 2, 1), *y = copy_floats((size_t)(HEADS * width), x);

    orri_rotary_angles(&rotary, position, cosine, sine);
    orri_rotate(HEADS, half, cosine, sine, false, y);
    for (int d = 0; d < half; d++) {
        double angle = (float)position * rotary.frequency[d], c = cos(angle), s = sin(angle);

        assert_close(cosine[d], c, FLT_EPSILON, "cos %.9g", angle);
        assert_close(sine[d], s, FLT_EPSILON, "sin %.9g", angle);
        for (int h = 0; h < HEADS; h++) {
            int a = h * width + d, b = a + half;

            assert_close(y[a], x[a] * c - x[b] * s, 2 * FLT_EPSILON * (fabsf(x[a]) + fabsf(x[b])), "head %d, %d", h, d);
            assert_close(y[b], x[b] * c + x[a] * s, 2 * FLT_EPSILON * (fabsf(x[a]) + fabsf(x[b])), "head %d, %d", h, d);
        }
    }
    orri_rotate(HEADS, half, cosine, sine, true, y);
    for (int k = 0; k < HEADS * width; k++)
        assert_close(y[k], x[k], 16 * FLT_EPSILON, "there and back, %d", k);
    free(x);
    free(y);
}
END_TEST

/* ---- products of tiles ---- */

/* Each count of rows of a panel, alone and behind others, all widths and some depths. What lies beside C stays as it is. */
START_TEST(small_product)
{
    enum { MOST_ROWS = 30, LD = 83, FLOATS = MOST_ROWS * ORRI_SMALL_WIDE };
    static const enum orri_small_order orders[] = { ORRI_SMALL_ROWS, ORRI_SMALL_WIDE_ROWS, ORRI_SMALL_TRANSPOSED };
    static const int depths[] = { 1, 2, 31, 64 };
    enum orri_small_order order = orders[_i / 2];
    bool add = _i % 2;
    float *a = random_floats(FLOATS, 1, 1), *b = random_floats(FLOATS, 1, 2), *c = random_floats(FLOATS, 1, 3);
    int row = order == ORRI_SMALL_ROWS ? ORRI_SMALL : order == ORRI_SMALL_WIDE_ROWS ? ORRI_SMALL_WIDE : 1;
    int column = order == ORRI_SMALL_TRANSPOSED ? LD : 1;

    for (int m = 1; m <= MOST_ROWS; m++)
        for (int n = ORRI_SMALL_LANES; n <= 5 * ORRI_SMALL_LANES; n += ORRI_SMALL_LANES)
            for (size_t i = 0; i < ORRI_COUNT(depths); i++) {
                int depth = depths[i];
                float *got = copy_floats(FLOATS, c);

                orri_small_product(order, m, n, depth, a, LD, b, LD, add, got, LD);
                for (int r = 0; r < MOST_ROWS; r++)
                    for (int j = 0; j < LD; j++) {
                        double sum = add ? c[r * LD + j] : 0, size = fabs(sum);

                        for (int k = 0; k < depth && r < m && j < n; k++) {
                            double term = (double)a[r * row + k * column] * b[k * LD + j];

                            sum += term;
                            size += fabs(term);
                        }
                        if (r < m && j < n)
                            assert_close(got[r * LD + j], sum, SUM_BOUND(depth) * size, "%d x %d x %d, row %d column %d", m, n, depth,
                                         r, j);
                        else
                            assert_that(got[r * LD + j] == c[r * LD + j]);
                    }
                free(got);
            }
    free(a);
    free(b);
    free(c);
}
END_TEST

START_TEST(small_transpose)
{
    enum { MOST = 20, LDX = 23, LDY = 29 };
    float *x = random_floats(MOST * LDX, 1, 1), *y = random_floats(MOST * LDY, 1, 2);

    for (int rows = 0; rows <= MOST; rows++)
        for (int columns = 0; columns <= MOST; columns++) {
            float *got = copy_floats(MOST * LDY, y);

            orri_small_transpose(rows, columns, 0.5f, x, LDX, got, LDY);
            for (int j = 0; j < MOST; j++)
                for (int r = 0; r < LDY; r++)
                    assert_that(got[j * LDY + r] == (j < columns && r < rows ? 0.5f * x[r * LDX + j] : y[j * LDY + r]));
            free(got);
        }
    free(x);
    free(y);
}
END_TEST

/* ---- dropout ---- */

START_TEST(dropout)
{
    enum { COUNT = 3000 };
    static const float probabilities[] = { 0, 0.1f, 0.5f, 0.9f, 1 - FLT_EPSILON };
    struct orri_dropout d = { .p = probabilities[_i], .rng = { .seed = 1, .stream = 2, .step = 3 } };
    uint64_t first = 12345;
    float *x = random_floats(COUNT, 2, 1), *whole = copy_floats(COUNT, x), uniform[COUNT];
    int kept = 0;

    orri_dropout_apply(&d, first, COUNT, whole);
    orr_rng_uniform(&d.rng, first, COUNT, uniform);
    for (int k = 0; k < COUNT; k++) {
        bool keep = uniform[k] >= d.p;

        kept += keep;
        if (keep && d.p > 0)
            assert_close(whole[k], x[k] / (1.0 - d.p), 2 * FLT_EPSILON * fabs(x[k] / (1.0 - d.p)), "element %d", k);
        else
            ck_assert(whole[k] == (keep ? x[k] : 0));
    }
    /* Five standard deviations of a binomial count. */
    ck_assert(fabs(kept - COUNT * (1.0 - d.p)) <= 5 * sqrt(COUNT * d.p * (1.0 - d.p)) + 1e-9);
    for (size_t cut = 1; cut < COUNT; cut += 451) {
        float *parts = copy_floats(COUNT, x);

        orri_dropout_apply(&d, first, cut, parts);
        orri_dropout_apply(&d, first + cut, COUNT - cut, parts + cut);
        ck_assert_mem_eq(parts, whole, COUNT * sizeof(float));
        free(parts);
    }
    free(x);
    free(whole);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math");
    TCase *c = tcase_create("rows");

    tcase_add_test(c, exponential);
    tcase_add_loop_test(c, gemm, 0, 8);
    tcase_add_loop_test(c, layernorm, 0, PAIRS);
    tcase_add_loop_test(c, layernorm_backward, 0, PAIRS);
    tcase_add_loop_test(c, rmsnorm, 0, PAIRS);
    tcase_add_loop_test(c, layernorm_without_bias, 0, PAIRS);
    tcase_add_loop_test(c, bias_rows, 0, PAIRS);
    tcase_add_loop_test(c, bias_backward, 0, PAIRS);
    tcase_add_loop_test(c, activate, 0, PAIRS * ACTIVATIONS);
    tcase_add_loop_test(c, activate_backward, 0, PAIRS * ACTIVATIONS);
    tcase_add_loop_test(c, activation_far, 0, ACTIVATIONS);
    tcase_add_loop_test(c, gated, 0, PAIRS * ACTIVATIONS);
    tcase_add_loop_test(c, rotary_positions, 0, 4 * 5);
    tcase_add_loop_test(c, small_product, 0, 6);
    tcase_add_test(c, small_transpose);
    tcase_add_loop_test(c, dropout, 0, 5);
    suite_add_tcase(s, c);
    return s;
}
