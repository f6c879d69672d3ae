/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/block_harness.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <codelets/embedding/embedding.h>

#include "math/reference.h"

enum { GUARD = 64 };                            /* words behind every buffer */
enum { X, DY, IDS, PARAM, BEFORE = PARAM + 64 };    /* streams of random numbers */

static const uint32_t guard_word = 0xffc0beef;  /* a NaN, so that reading it shows too */

/* ---- buffers ------------------------------------------------------------------------------------------- */

static void poison(float *p, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(p + i, &guard_word, sizeof(guard_word));
}

static float *guarded(int64_t count)
{
    float *p = malloc((size_t)(count + GUARD) * sizeof(*p));

    ck_assert_ptr_nonnull(p);
    poison(p, count + GUARD);
    return p;
}

static void check_guard(const char *what, const float *p, int64_t count)
{
    for (int64_t i = count; i < count + GUARD; i++)
        ck_assert_msg(memcmp(p + i, &guard_word, sizeof(guard_word)) == 0, "%s: word %lld of %lld was written", what,
                      (long long)i, (long long)count);
}

static void release(const char *what, float *p, int64_t count)
{
    check_guard(what, p, count);
    free(p);
}

double *wide_zeros(int64_t count)
{
    double *p = calloc((size_t)(count ? count : 1), sizeof(*p));

    ck_assert_ptr_nonnull(p);
    return p;
}

/* ---- the block and its data ---------------------------------------------------------------------------- */

static int64_t values_of(const struct harness *h)
{
    return (int64_t)h->rows * h->width;
}

static int64_t saved_of(const struct harness *h)
{
    return h->cls->saved_floats(h->block->config, h->o.batch, h->o.seq);
}

static size_t scratch_of(const struct harness *h)
{
    return h->cls->scratch_bytes(h->block->config, h->o.batch, h->o.seq);
}

static void draw(uint64_t seed, uint32_t stream, int64_t count, float mean, float std, float *out, double *wide)
{
    struct orr_rng rng = {seed, stream, 0};

    orr_rng_normal(&rng, 0, (size_t)count, mean, std, out);
    for (int64_t i = 0; wide && i < count; i++)
        wide[i] = out[i];
}

const struct orri_parameter *harness_group(const struct harness *h, int group)
{
    return h->block->parameter[group];
}

/* Norms near one and biases near zero, but none of them equal, so that a place mistaken is a value mistaken. */
void harness_draw_view(struct harness *h, int group, int view, uint64_t seed)
{
    const struct orr_view *v = &harness_group(h, group)->view[view];
    float mean = v->initial == ORR_INITIAL_ONE, std = v->initial == ORR_INITIAL_NORMAL ? v->std : 0.3f;

    draw(seed, PARAM + (uint32_t)(ORR_MAX_VIEWS * group + view), orri_view_count(v), mean, std,
         h->param[group] + v->offset, h->wide_param[group] + v->offset);
}

void harness_draw(struct harness *h, uint64_t seed)
{
    struct orr_rng rng = {seed, IDS, 0};

    draw(seed, X, values_of(h), 0.2f, 1, h->x, h->wide_x);
    draw(seed, DY, values_of(h), 0, 1, h->dy, h->wide_dy);
    orr_rng_words(&rng, 0, (size_t)h->rows, (uint32_t *)h->ids);
    for (int r = 0; r < h->rows; r++)
        h->ids[r] = (int32_t)((uint32_t)h->ids[r] % (uint32_t)h->vocab);
}

struct orr_model *harness_model(int width)
{
    static const struct orr_mesh one = {1, 1, 1, 1};
    struct orr_embedding embedding = {.vocab = 5, .positions = 5, .width = width, .std = 1};
    struct orr_model *model = orr_model_create(&one);

    ck_assert_ptr_nonnull(model);
    ck_assert_int_eq(orr_embedding(model, &embedding), 0);
    return model;
}

void harness_open(struct harness *h, struct orr_model *model, int index, int batch, int seq, int vocab)
{
    *h = (struct harness){.model = model, .block = model->block[index], .rows = batch * seq, .vocab = vocab};
    h->cls = h->block->cls;
    h->width = (int)h->block->spec.width;
    h->o = (struct orr_operands){.batch = batch, .seq = seq, .config = h->block->config, .training = true,
                                 .first_gradient = true, .seed = 77, .step = 3, .first_sample = 5,
                                 .layer = h->block->layer};
    h->x = guarded(values_of(h));
    h->y = guarded(values_of(h));
    h->dy = guarded(values_of(h));
    h->dx = guarded(values_of(h));
    h->saved = guarded(saved_of(h));
    h->ids = (int32_t *)guarded(h->rows);
    h->wide_x = wide_zeros(values_of(h));
    h->wide_dy = wide_zeros(values_of(h));
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct orri_parameter *p = harness_group(h, g);
        h->param[g] = guarded(p->count);
        h->grad[g] = guarded(p->count);
        h->wide_param[g] = wide_zeros(p->count);
        for (int v = 0; v < p->views; v++)
            harness_draw_view(h, g, v, 1);
    }
    harness_draw(h, 1);
}

void harness_ask(struct harness *h, int count, const int32_t *rows)
{
    h->o.rows = (struct orr_rows){count, rows};
    h->prediction_floats = count * (int64_t)(h->vocab + h->width);
    h->prediction = guarded(h->prediction_floats);
}

void harness_close(struct harness *h)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        release("param", h->param[g], harness_group(h, g)->count);
        release("grad", h->grad[g], harness_group(h, g)->count);
        free(h->wide_param[g]);
    }
    release("x", h->x, values_of(h));
    release("y", h->y, values_of(h));
    release("dy", h->dy, values_of(h));
    release("dx", h->dx, values_of(h));
    release("saved", h->saved, saved_of(h));
    release("ids", (float *)h->ids, h->rows);
    if (h->prediction)
        release("prediction", h->prediction, h->prediction_floats);
    free(h->wide_x);
    free(h->wide_dy);
    orr_model_destroy(h->model);
    orri_scratch_free_all();
}

double *harness_view(const struct harness *h, double *const base[], const char *name, int64_t m, int64_t n)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct orri_parameter *p = harness_group(h, g);
        for (int v = 0; v < p->views; v++) {
            const struct orr_view *view = &p->view[v];
            if (strcmp(view->name, name) != 0)
                continue;
            ck_assert_int_eq(view->ndim, n ? 2 : 1);
            ck_assert_int_eq(view->shape[0], m);
            if (n)
                ck_assert_int_eq(view->shape[1], n);
            return base[g] + view->offset;
        }
    }
    ck_abort_msg("the block has no view '%s'", name);
    return NULL;
}

/* ---- running passes ------------------------------------------------------------------------------------- */

static struct orr_operands operands_of(struct harness *h, enum orr_pass pass)
{
    unsigned takes = h->cls->operands[pass];
    struct orr_operands o = h->o;

    if ((takes & ORR_INPUT) && h->block->inputs)
        o.x[0] = h->x;
    if (takes & ORR_OUTPUT)
        o.y = h->y;
    if (takes & ORR_OUTPUT_GRADIENT)
        o.dy = h->dy;
    if (takes & ORR_INPUT_GRADIENT)
        o.dx[0] = h->dx;
    for (int g = 0; g < h->block->spec.groups; g++) {
        o.param[g] = takes & ORR_PARAMETERS ? h->param[g] : NULL;
        o.grad[g] = takes & ORR_GRADIENTS ? h->grad[g] : NULL;
    }
    if ((takes & ORR_SAVEDS) && h->o.training)
        o.saved = h->saved;
    if (takes & ORR_IDS)
        o.ids = h->ids;
    if (takes & ORR_RESULT)
        o.result = &h->result;
    if (takes & ORR_PREDICTION)
        o.prediction = h->prediction;
    return o;
}

static void poison_outputs(struct harness *h, const struct orr_operands *o, enum orr_pass pass)
{
    if (o->y)
        poison(o->y, values_of(h));
    if (o->dx[0] && !o->add_input_gradient[0])
        poison(o->dx[0], values_of(h));
    for (int g = 0; g < h->block->spec.groups; g++)
        if (o->grad[g] && o->first_gradient)
            poison(o->grad[g], harness_group(h, g)->count);
    if (o->saved && pass == ORR_FORWARD)
        poison(o->saved, saved_of(h));
    if (o->prediction)
        poison(o->prediction, h->prediction_floats);
}

void harness_run(struct harness *h, enum orr_pass pass)
{
    struct orr_operands o = operands_of(h, pass);
    int64_t floats = (int64_t)(scratch_of(h) / sizeof(float));
    float *scratch = orri_scratch((size_t)(floats + GUARD) * sizeof(*scratch));

    poison_outputs(h, &o, pass);
    poison(scratch, floats + GUARD);
    h->cls->cpu[pass](&o);
    check_guard("scratch", orri_scratch(0), floats);
}

/* ---- checks -------------------------------------------------------------------------------------------- */

static double largest(int64_t count, const double *values)
{
    double most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(values[i]));
    return most;
}

void check_values(const char *what, int64_t count, const float *got, const double *want, int terms)
{
    double tolerance = SUM_BOUND(terms) * largest(count, want);

    for (int64_t i = 0; i < count; i++)
        assert_close(got[i], want[i], tolerance, "%s[%lld of %lld]", what, (long long)i, (long long)count);
}

static double central(const struct harness *h, const struct reference *reference, double *value)
{
    double step = 1e-5, at = *value;

    *value = at + step;
    double up = reference->objective(h, NULL);
    *value = at - step;
    double down = reference->objective(h, NULL);
    *value = at;
    return (up - down) / (2 * step);
}

/* In double the difference is off by about step^2 of the gradient's size and by eps / step of the objective's. */
static void check_differences(const struct harness *h, const struct reference *reference, const char *what,
                              int64_t count, double *values, const float *got, const double *want, int differences)
{
    double most = largest(count, want), slack = 1e-7 * most + 1e-9;
    struct orr_rng rng = {(uint64_t)count, 0, 0};

    for (int i = 0; i < differences; i++) {
        uint32_t word;
        orr_rng_words(&rng, (uint64_t)i, 1, &word);
        int64_t k = (int64_t)(word % (uint64_t)count);
        double difference = central(h, reference, values + k);
        assert_close(want[k], difference, slack, "reference's %s[%lld], difference", what, (long long)k);
        assert_close(got[k], difference, slack + SUM_BOUND(reference->longest_sum) * most, "%s[%lld], difference",
                     what, (long long)k);
    }
}

static void check_gradients(struct harness *h, int group, const double *want, int terms)
{
    const struct orri_parameter *p = harness_group(h, group);

    for (int v = 0; v < p->views; v++)
        check_values(p->view[v].name, orri_view_count(&p->view[v]), h->grad[group] + p->view[v].offset,
                     want + p->view[v].offset, terms);
}

struct wanted {
    double *y, *dx, *dparam[ORR_MAX_GROUPS];
    double objective;
};

static struct wanted wanted(const struct harness *h, const struct reference *reference)
{
    struct wanted w = {.y = wide_zeros(values_of(h)), .dx = wide_zeros(values_of(h))};

    for (int g = 0; g < h->block->spec.groups; g++)
        w.dparam[g] = wide_zeros(harness_group(h, g)->count);
    w.objective = reference->objective(h, h->cls->is_loss ? NULL : w.y);
    reference->backward(h, w.dx, w.dparam);
    return w;
}

static void wanted_free(struct wanted *w)
{
    free(w->y);
    free(w->dx);
    for (int g = 0; g < ORR_MAX_GROUPS; g++)
        free(w->dparam[g]);
}

static int64_t counted_labels(const struct harness *h)
{
    int64_t labels = 0;

    for (int r = 0; r < h->rows; r++)
        labels += h->ids[r] != ORR_IGNORE;
    return labels;
}

static void check_forward(struct harness *h, const struct reference *reference, const struct wanted *w)
{
    h->result = (struct orr_result){1.5, 7};
    harness_run(h, ORR_FORWARD);
    if (!h->cls->is_loss) {
        check_values("y", values_of(h), h->y, w->y, reference->longest_sum);
        return;
    }
    /* Rows are summed in double; what is off in a row's loss is its logits, sums over the width. */
    assert_close(h->result.loss, 1.5 + w->objective, SUM_BOUND(h->width) * (1.5 + w->objective), "loss");
    ck_assert_int_eq(h->result.labels, 7 + counted_labels(h));
}

void check_passes(struct harness *h, const struct reference *reference, int differences)
{
    int terms = reference->longest_sum;
    struct wanted first = wanted(h, reference);

    h->o.first_gradient = true;
    h->o.add_input_gradient[0] = false;
    check_forward(h, reference, &first);
    if (h->cls->cpu[ORR_BACKWARD]) {
        harness_run(h, ORR_BACKWARD);
        check_values("dx", values_of(h), h->dx, first.dx, terms);
        check_differences(h, reference, "dx", values_of(h), h->wide_x, h->dx, first.dx, differences);
    }
    harness_run(h, ORR_WEIGHTS);
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct orri_parameter *p = harness_group(h, g);
        check_gradients(h, g, first.dparam[g], terms);
        for (int v = 0; v < p->views; v++) {
            int64_t at = p->view[v].offset;
            check_differences(h, reference, p->view[v].name, orri_view_count(&p->view[v]), h->wide_param[g] + at,
                              h->grad[g] + at, first.dparam[g] + at, differences);
        }
    }

    harness_draw(h, 2);
    struct wanted second = wanted(h, reference);
    h->o.first_gradient = false;
    h->o.add_input_gradient[0] = true;
    check_forward(h, reference, &second);
    if (h->cls->cpu[ORR_BACKWARD]) {
        double *before = wide_zeros(values_of(h));
        draw(3, BEFORE, values_of(h), 0, 1, h->dx, before);
        harness_run(h, ORR_BACKWARD);
        for (int64_t i = 0; i < values_of(h); i++)
            before[i] += second.dx[i];
        check_values("dx, added", values_of(h), h->dx, before, terms);
        free(before);
    }
    harness_run(h, ORR_WEIGHTS);
    for (int g = 0; g < h->block->spec.groups; g++) {
        for (int64_t i = 0; i < harness_group(h, g)->count; i++)
            second.dparam[g][i] += first.dparam[g][i];
        check_gradients(h, g, second.dparam[g], terms);
    }
    wanted_free(&first);
    wanted_free(&second);
}

void check_views(struct harness *h, const struct reference *reference)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct orri_parameter *p = harness_group(h, g);
        int64_t count = 0;
        for (int v = 0; v < p->views; v++) {
            ck_assert_int_eq(p->view[v].offset, count);
            count += orri_view_count(&p->view[v]);
            double before = reference->objective(h, NULL);
            harness_draw_view(h, g, v, 99);
            struct wanted w = wanted(h, reference);
            ck_assert_msg(fabs(w.objective - before) > 1e-3 * fabs(before), "the objective does not feel %s",
                          p->view[v].name);
            check_forward(h, reference, &w);
            wanted_free(&w);
        }
        ck_assert_int_eq(p->count, count);
    }
}

void check_scratch(struct harness *h)
{
    static const enum orr_pass order[] = {ORR_FORWARD, ORR_BACKWARD, ORR_WEIGHTS, ORR_WHOLE, ORR_PREDICT};
    size_t page = 4096, said = (scratch_of(h) + page - 1) / page * page;

    for (int training = 1; training >= 0; training--) {
        h->o.training = training;
        for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
            if (!h->cls->cpu[order[i]] || (!training && order[i] != ORR_FORWARD && order[i] != ORR_PREDICT))
                continue;
            struct orr_operands o = operands_of(h, order[i]);
            orri_scratch_free_all();
            h->cls->cpu[order[i]](&o);
            ck_assert_msg(orri_scratch_size() <= said, "pass %d takes %zu bytes of scratch, not %zu", order[i],
                          orri_scratch_size(), said);
        }
    }
}

static void run_all(struct harness *h)
{
    h->result = (struct orr_result){0};
    harness_run(h, ORR_FORWARD);
    if (h->cls->cpu[ORR_BACKWARD])
        harness_run(h, ORR_BACKWARD);
    harness_run(h, ORR_WEIGHTS);
}

static void check_bits(const char *what, int64_t count, const float *a, const float *b)
{
    ck_assert_msg(memcmp(a, b, (size_t)count * sizeof(*a)) == 0, "%s differs", what);
}

void check_again(struct harness *h)
{
    int groups = h->block->spec.groups;
    int64_t values = values_of(h), saved = saved_of(h);
    float *grad[ORR_MAX_GROUPS];

    h->o.first_gradient = true;
    h->o.add_input_gradient[0] = false;
    run_all(h);
    double loss = h->result.loss;
    float *y = copy_floats((size_t)values, h->y), *dx = copy_floats((size_t)values, h->dx);
    float *after = copy_floats((size_t)saved, h->saved);
    for (int g = 0; g < groups; g++)
        grad[g] = copy_floats((size_t)harness_group(h, g)->count, h->grad[g]);
    run_all(h);
    ck_assert(h->result.loss == loss);
    check_bits("y", values, y, h->y);
    check_bits("dx", values, dx, h->dx);
    check_bits("saved", saved, after, h->saved);
    for (int g = 0; g < groups; g++) {
        check_bits("grad", harness_group(h, g)->count, grad[g], h->grad[g]);
        free(grad[g]);
    }
    free(y);
    free(dx);
    free(after);
}

static void check_floats(const char *what, int64_t count, const float *got, const float *want, int terms)
{
    double *wide = to_double((size_t)count, want);

    check_values(what, count, got, wide, terms);
    free(wide);
}

void check_microbatches(struct orr_model *(*append)(void), int index, int seq, int vocab, uint64_t first, int terms)
{
    struct harness both, single;

    harness_open(&both, append(), index, 2, seq, vocab);
    harness_open(&single, append(), index, 1, seq, vocab);
    both.o.first_sample = first;
    run_all(&both);
    double loss = both.result.loss;
    int64_t values = values_of(&single);
    for (int b = 0; b < 2; b++) {
        single.o.first_sample = first + (uint64_t)b;
        single.o.first_gradient = b == 0;
        memcpy(single.x, both.x + b * values, (size_t)values * sizeof(float));
        memcpy(single.dy, both.dy + b * values, (size_t)values * sizeof(float));
        memcpy(single.ids, both.ids + b * seq, (size_t)seq * sizeof(int32_t));
        run_all(&single);
        loss -= single.result.loss;
        if (!single.cls->is_loss)
            check_floats("y", values, single.y, both.y + b * values, terms);
        if (single.cls->cpu[ORR_BACKWARD])
            check_floats("dx", values, single.dx, both.dx + b * values, terms);
    }
    assert_close(loss, 0, SUM_BOUND(terms) * both.result.loss, "loss of both, less that of each");
    for (int g = 0; g < both.block->spec.groups; g++) {
        double *wide = to_double((size_t)harness_group(&both, g)->count, both.grad[g]);
        check_gradients(&single, g, wide, terms);
        free(wide);
    }
    harness_close(&both);
    harness_close(&single);
}

/* ---- references ---------------------------------------------------------------------------------------- */

void reference_affine(int rows, int in, int out, const double *x, const double *w, const double *bias, double *y)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < out; j++) {
            double sum = bias[j];
            for (int i = 0; i < in; i++)
                sum += x[(int64_t)r * in + i] * w[(int64_t)i * out + j];
            y[(int64_t)r * out + j] = sum;
        }
}

void reference_affine_backward(int rows, int in, int out, const double *x, const double *w, const double *dy,
                               double *dx, double *dw, double *db)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < out; j++) {
            double d = dy[(int64_t)r * out + j];
            db[j] += d;
            for (int i = 0; i < in; i++) {
                dw[(int64_t)i * out + j] += x[(int64_t)r * in + i] * d;
                dx[(int64_t)r * in + i] += w[(int64_t)i * out + j] * d;
            }
        }
}

static void row_statistics(int width, const double *x, double eps, double *mean, double *rstd)
{
    double sum = 0, squares = 0;

    for (int j = 0; j < width; j++)
        sum += x[j];
    *mean = sum / width;
    for (int j = 0; j < width; j++)
        squares += (x[j] - *mean) * (x[j] - *mean);
    *rstd = 1 / sqrt(squares / width + eps);
}

void reference_norm(int rows, int width, const double *x, const double *gamma, const double *beta, double eps,
                    double *y)
{
    for (int r = 0; r < rows; r++, x += width, y += width) {
        double mean, rstd;
        row_statistics(width, x, eps, &mean, &rstd);
        for (int j = 0; j < width; j++)
            y[j] = (x[j] - mean) * rstd * gamma[j] + beta[j];
    }
}

void reference_norm_backward(int rows, int width, const double *x, const double *gamma, double eps, const double *dy,
                             double *dx, double *dgamma, double *dbeta)
{
    for (int r = 0; r < rows; r++, x += width, dy += width, dx += width) {
        double mean, rstd, sum = 0, product = 0;
        row_statistics(width, x, eps, &mean, &rstd);
        for (int j = 0; j < width; j++) {
            double xhat = (x[j] - mean) * rstd;
            sum += dy[j] * gamma[j];
            product += dy[j] * gamma[j] * xhat;
            dgamma[j] += dy[j] * xhat;
            dbeta[j] += dy[j];
        }
        for (int j = 0; j < width; j++)
            dx[j] += rstd * (dy[j] * gamma[j] - sum / width - (x[j] - mean) * rstd * product / width);
    }
}

double *reference_mask(const struct harness *h, int place, float p, uint64_t first, int64_t count)
{
    struct orr_rng rng = orr_dropout_stream(&h->o, place);
    float *uniform = malloc((size_t)count * sizeof(*uniform));
    double *mask = wide_zeros(count);

    ck_assert_ptr_nonnull(uniform);
    orr_rng_uniform(&rng, first, (size_t)count, uniform);
    for (int64_t i = 0; i < count; i++)
        mask[i] = !h->o.training ? 1 : uniform[i] >= p ? 1 / (1 - (double)p) : 0;
    free(uniform);
    return mask;
}
