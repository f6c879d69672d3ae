/* SPDX-License-Identifier: Apache-2.0 */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <math.h>
#include <string.h>

#include <codelets/moe/moe.h>

#include "math/reference.h"

enum { MOST_EXPERTS = 8 };

static const struct {
    int batch, seq, width, hidden, experts, chosen;
    float capacity, balance;
} cases[] = {
    {1, 1, 10, 7, 3, 2, 0, 0},      {2, 17, 13, 9, 4, 2, 0, 0},      {3, 11, 8, 5, 5, 1, 0, 0.5f}, {2, 9, 10, 3, 4, 4, 0, 0.5f},
    {2, 17, 13, 9, 4, 2, 0.7f, 0},  {2, 9, 7, 6, 8, 2, 0.5f, 0.3f},  {1, 5, 6, 4, 1, 1, 0, 0.5f},  {2, 17, 13, 1, 3, 2, 1, 0},
};

static struct orr_moe config_of(int i)
{
    return (struct orr_moe){.width = cases[i].width, .hidden = cases[i].hidden, .experts = cases[i].experts, .chosen = cases[i].chosen,
                            .eps = 1e-5f, .std = 0.3f, .projection_std = 0.2f, .activation = ORR_SILU, .capacity = cases[i].capacity,
                            .balance = cases[i].balance};
}

static struct orr_model *model_of(const struct orr_moe *config)
{
    struct orr_model *model = harness_model(config->width);

    ck_assert_msg(orr_moe(model, 4, config) == 0, "%s", orr_error());
    return model;
}

static void open_case(struct harness *h, int i)
{
    struct orr_moe config = config_of(i);

    harness_open(h, model_of(&config), 1, cases[i].batch, cases[i].seq, 5);
}

/* ---- y = x + sum of w_e (silu(n Wgate_e^T) * n Wup_e^T) Wproj_e^T, token by token -------------------------------------- */

static double dot(int n, const double *a, const double *b)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void add_scaled(int n, double a, const double *x, double *y)
{
    for (int i = 0; i < n; i++)
        y[i] += a * x[i];
}

struct views {
    double *norm, *router, *gate, *up, *proj;
};

static struct views views_of(const struct harness *h, double *const base[])
{
    const struct orr_moe *m = h->block->config;
    int e = m->experts;

    return (struct views){harness_view(h, base, "norm.weight", m->width, 0), harness_view(h, base, "router.weight", e, m->width),
                          harness_view(h, base, "gate.weight", e * m->hidden, m->width),
                          harness_view(h, base, "up.weight", e * m->hidden, m->width),
                          harness_view(h, base, "proj.weight", e * m->width, m->hidden)};
}

/* Who gets a token: p of all, which are chosen, and w of those that have room for it, else 0. */
struct routed {
    double p[MOST_EXPERTS], w[MOST_EXPERTS];
    bool chosen[MOST_EXPERTS], taken[MOST_EXPERTS];
};

static double *norms(const struct harness *h, const struct views *v, double *rms)
{
    const struct orr_moe *m = h->block->config;
    double *n = wide_zeros((int64_t)h->rows * m->width);

    for (int r = 0; r < h->rows; r++) {
        const double *x = h->wide_x + (int64_t)r * m->width;
        rms[r] = sqrt(dot(m->width, x, x) / m->width + (double)m->eps);
        for (int j = 0; j < m->width; j++)
            n[(int64_t)r * m->width + j] = x[j] / rms[r] * v->norm[j];
    }
    return n;
}

static struct routed *route(const struct harness *h, const struct views *v, const double *n)
{
    const struct orr_moe *m = h->block->config;
    double room = m->capacity > 0 && h->o.training ? ceil((double)m->capacity * m->chosen * h->rows / m->experts) : h->rows;
    struct routed *routed = calloc((size_t)h->rows, sizeof(*routed));
    double taken[MOST_EXPERTS] = {0};

    ck_assert_ptr_nonnull(routed);
    for (int r = 0; r < h->rows; r++) {
        struct routed *t = routed + r;
        double sum = 0, of_chosen = 0;
        for (int e = 0; e < m->experts; e++)
            sum += t->p[e] = exp(dot(m->width, n + (int64_t)r * m->width, v->router + (int64_t)e * m->width));
        for (int e = 0; e < m->experts; e++)
            t->p[e] /= sum;
        for (int i = 0; i < m->chosen; i++) {
            int best = -1;
            for (int e = m->experts - 1; e >= 0; e--)
                if (!t->chosen[e] && (best < 0 || t->p[e] >= t->p[best]))
                    best = e;
            t->chosen[best] = true;
            of_chosen += t->p[best];
        }
        for (int e = 0; e < m->experts; e++) {
            t->taken[e] = t->chosen[e] && taken[e] < room;
            taken[e] += t->taken[e];
            t->w[e] = t->taken[e] ? t->p[e] / of_chosen : 0;
        }
    }
    return routed;
}

/* N balance E f_e of each expert, of which P_e / N sum_n p_ne is a part each. */
static void balance_of(const struct harness *h, const struct routed *routed, double *factor)
{
    const struct orr_moe *m = h->block->config;

    for (int e = 0; e < m->experts; e++) {
        factor[e] = 0;
        for (int r = 0; r < h->rows; r++)
            factor[e] += (double)m->balance * m->experts * routed[r].chosen[e] / h->rows;
    }
}

static double silu(double u)
{
    return u / (1 + exp(-u));
}

static double silu_slope(double u)
{
    double s = 1 / (1 + exp(-u));

    return s + u * s * (1 - s);
}

/* The hidden values of expert e for n, and what it gives. */
static void expert(const struct orr_moe *m, const struct views *v, int e, const double *n, double *gate, double *up, double *out)
{
    int c = m->width, f = m->hidden;

    for (int i = 0; i < c; i++)
        out[i] = 0;
    for (int k = 0; k < f; k++) {
        gate[k] = dot(c, n, v->gate + ((int64_t)e * f + k) * c);
        up[k] = dot(c, n, v->up + ((int64_t)e * f + k) * c);
        for (int i = 0; i < c; i++)
            out[i] += silu(gate[k]) * up[k] * v->proj[((int64_t)e * c + i) * f + k];
    }
}

static double objective(const struct harness *h, double *y)
{
    const struct orr_moe *m = h->block->config;
    const struct views v = views_of(h, h->wide_param);
    double *rms = wide_zeros(h->rows), *n = norms(h, &v, rms), *work = wide_zeros(2 * m->hidden + 2 * m->width);
    double *out = work + 2 * m->hidden, *sum = out + m->width, factor[MOST_EXPERTS], value = 0;
    struct routed *routed = route(h, &v, n);

    balance_of(h, routed, factor);
    for (int r = 0; r < h->rows; r++) {
        int64_t at = (int64_t)r * m->width;
        memcpy(sum, h->wide_x + at, (size_t)m->width * sizeof(*sum));
        for (int e = 0; e < m->experts; e++) {
            expert(m, &v, e, n + at, work, work + m->hidden, out);
            add_scaled(m->width, routed[r].w[e], out, sum);
            value += factor[e] * routed[r].p[e];
        }
        value += dot(m->width, h->wide_dy + at, sum);
        if (y)
            memcpy(y + at, sum, (size_t)m->width * sizeof(*sum));
    }
    free(rms);
    free(n);
    free(work);
    free(routed);
    return value;
}

/* Adds to the gradients what expert e has of token n with weight w; returns that of w. */
static double expert_backward(const struct orr_moe *m, const struct views *v, const struct views *d, int e, double w, const double *n,
                              const double *dy, double *dn)
{
    int c = m->width, f = m->hidden;
    double *gate = wide_zeros(2 * f + c), *up = gate + f, *out = up + f;

    expert(m, v, e, n, gate, up, out);
    double dw = dot(c, dy, out);
    for (int k = 0; k < f; k++) {
        int64_t row = ((int64_t)e * f + k) * c;
        double dh = 0;
        for (int i = 0; i < c; i++) {
            int64_t at = ((int64_t)e * c + i) * f + k;
            dh += w * dy[i] * v->proj[at];
            d->proj[at] += w * dy[i] * silu(gate[k]) * up[k];
        }
        double dgate = dh * up[k] * silu_slope(gate[k]), dup = dh * silu(gate[k]);
        add_scaled(c, dgate, n, d->gate + row);
        add_scaled(c, dup, n, d->up + row);
        add_scaled(c, dgate, v->gate + row, dn);
        add_scaled(c, dup, v->up + row, dn);
    }
    free(gate);
    return dw;
}

/* From the gradient of w to that of the router's logits: w_e = p_e / s. */
static void router_backward(const struct orr_moe *m, const struct routed *t, const double *dw, const double *factor, double *dlogit)
{
    double dp[MOST_EXPERTS], s = 0, mean = 0;

    for (int e = 0; e < m->experts; e++)
        s += t->chosen[e] ? t->p[e] : 0;
    for (int e = 0; e < m->experts; e++) {
        dp[e] = factor[e];
        for (int i = 0; i < m->experts && t->chosen[e]; i++)
            dp[e] += t->taken[i] ? dw[i] * ((i == e) / s - t->p[i] / (s * s)) : 0;
        mean += t->p[e] * dp[e];
    }
    for (int e = 0; e < m->experts; e++)
        dlogit[e] = t->p[e] * (dp[e] - mean);
}

static void backward(const struct harness *h, double *dx, double *const dparam[])
{
    const struct orr_moe *m = h->block->config;
    const struct views v = views_of(h, h->wide_param), d = views_of(h, dparam);
    int c = m->width;
    double *rms = wide_zeros(h->rows), *n = norms(h, &v, rms), *dn = wide_zeros(c);
    double factor[MOST_EXPERTS], dw[MOST_EXPERTS], dlogit[MOST_EXPERTS];
    struct routed *routed = route(h, &v, n);

    balance_of(h, routed, factor);
    for (int r = 0; r < h->rows; r++) {
        const double *x = h->wide_x + (int64_t)r * c, *dy = h->wide_dy + (int64_t)r * c, *nr = n + (int64_t)r * c;
        memset(dn, 0, (size_t)c * sizeof(*dn));
        for (int e = 0; e < m->experts; e++)
            dw[e] = routed[r].taken[e] ? expert_backward(m, &v, &d, e, routed[r].w[e], nr, dy, dn) : 0;
        router_backward(m, routed + r, dw, factor, dlogit);
        for (int e = 0; e < m->experts; e++) {
            add_scaled(c, dlogit[e], nr, d.router + (int64_t)e * c);
            add_scaled(c, dlogit[e], v.router + (int64_t)e * c, dn);
        }
        double mean = 0;
        for (int j = 0; j < c; j++)
            mean += dn[j] * v.norm[j] * x[j] / c;
        for (int j = 0; j < c; j++) {
            d.norm[j] += dn[j] * x[j] / rms[r];
            dx[(int64_t)r * c + j] = dy[j] + dn[j] * v.norm[j] / rms[r] - x[j] * mean / pow(rms[r], 3);
        }
    }
    free(rms);
    free(n);
    free(dn);
    free(routed);
}

/* A gradient's chain of sums: over rows, and through hidden, width and experts. */
static struct reference reference_of(const struct harness *h)
{
    const struct orr_moe *m = h->block->config;
    int longest = h->rows > m->hidden ? h->rows : m->hidden;

    return (struct reference){objective, backward, longest > m->width ? longest : m->width};
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------- */

START_TEST(passes)
{
    struct harness h;

    open_case(&h, _i);
    struct reference reference = reference_of(&h);
    check_passes(&h, &reference, 5);
    check_again(&h);
    check_scratch(&h);
    harness_close(&h);
}
END_TEST

START_TEST(views)
{
    struct harness h;

    open_case(&h, 1);
    struct reference reference = reference_of(&h);
    check_views(&h, &reference);
    harness_close(&h);
}
END_TEST

/* Nobody is turned away. */
START_TEST(evaluation)
{
    struct harness h, free_of_it;
    struct orr_moe config = config_of(4);

    open_case(&h, 4);
    config.capacity = 0;
    harness_open(&free_of_it, model_of(&config), 1, cases[4].batch, cases[4].seq, 5);
    harness_run(&h, ORR_FORWARD);
    harness_run(&free_of_it, ORR_FORWARD);
    ck_assert(memcmp(h.y, free_of_it.y, (size_t)h.rows * (size_t)h.width * sizeof(float)) != 0);
    h.o.training = false;
    harness_run(&h, ORR_FORWARD);
    ck_assert_mem_eq(h.y, free_of_it.y, (size_t)h.rows * (size_t)h.width * sizeof(float));
    harness_close(&h);
    harness_close(&free_of_it);
}
END_TEST

static void clear_router(struct harness *h)
{
    const struct orr_moe *m = h->block->config;
    const struct orr_view *router = &h->group[0].view[1];

    ck_assert_str_eq(router->name, "router.weight");
    memset(h->param[0] + router->offset, 0, (size_t)(m->experts * m->width) * sizeof(float));
    memset(h->wide_param[0] + router->offset, 0, (size_t)(m->experts * m->width) * sizeof(double));
}

/* Where all p are equal the first experts are chosen, and only they learn. */
START_TEST(ties)
{
    struct harness h;

    open_case(&h, 1);
    clear_router(&h);
    struct reference reference = reference_of(&h);
    check_passes(&h, &reference, 0);
    for (int v = 2; v < 5; v++) {
        const struct orr_view *view = &h.group[0].view[v];
        int64_t each = orri_view_count(view) / cases[1].experts;
        for (int64_t i = 0; i < orri_view_count(view); i++)
            assert_that((h.grad[0][view->offset + i] == 0) == (i >= each * cases[1].chosen));
    }
    harness_close(&h);
}
END_TEST

/* With all tokens at the same two of eight experts, the first ceil(0.5 2 18 / 8) = 3 are served, and the others go by. */
START_TEST(capacity)
{
    struct harness h;

    open_case(&h, 5);
    clear_router(&h);
    harness_run(&h, ORR_FORWARD);
    for (int r = 0; r < h.rows; r++)
        assert_that((memcmp(h.y + r * h.width, h.x + r * h.width, (size_t)h.width * sizeof(float)) == 0) == (r >= 3));
    struct reference reference = reference_of(&h);
    check_passes(&h, &reference, 0);
    harness_close(&h);
}
END_TEST

static struct orr_model *without_capacity(void)
{
    struct orr_moe config = config_of(1);

    return model_of(&config);
}

START_TEST(microbatches)
{
    check_microbatches(without_capacity, 1, 17, 5, 9, 70);
}
END_TEST

/* 4 experts with and without capacity, and 8, over up to 4 shards. */
START_TEST(shards)
{
    static const int which[] = {1, 3, 4, 5};
    struct orr_moe config = config_of(which[_i]);
    struct harness h;

    harness_open(&h, model_of(&config), 1, 2, 7, 5);
    ck_assert_int_eq(h.cls->sharding->most(h.block->config), config.experts);
    check_layouts(&h, 14);
    harness_close(&h);
}
END_TEST

START_TEST(refuses_what_it_cannot_be)
{
    struct orr_moe good = config_of(1), empty = good, many = good, negative = good;
    struct orr_model *model = harness_model(good.width);

    empty.experts = 0;
    many.chosen = 5;
    negative.capacity = -1;
    ck_assert_int_eq(orr_moe(model, 0, &empty), ORR_EINVAL);
    ck_assert_int_eq(orr_moe(model, 0, &many), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "5 of 4 experts"));
    ck_assert_int_eq(orr_moe(model, 0, &negative), ORR_EINVAL);
    ck_assert_int_eq(model->blocks, 1);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("moe");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, passes, 0, (int)ORRI_COUNT(cases));
    tcase_add_test(c, views);
    tcase_add_test(c, evaluation);
    tcase_add_test(c, ties);
    tcase_add_test(c, capacity);
    tcase_add_test(c, microbatches);
    tcase_add_loop_test(c, shards, 0, 4);
    tcase_add_test(c, refuses_what_it_cannot_be);
    suite_add_tcase(s, c);
    return s;
}
