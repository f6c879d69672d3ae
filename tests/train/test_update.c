/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizers, sums and schedules against double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "graph/toys.h"
#include "meshes.h"
#include "train/train.h"

enum { MOST = 1000, STEPS = 7 };

/* Uniform in -1 .. 1. */
static double uniform(void)
{
    return 2.0 * rand() / RAND_MAX - 1;
}

/* ---- optimizers ---------------------------------------------------------------------------------------------- */

/* One parameter's update, as train.h prints it. state[0], state[1] are m and v, or the one that there is. */
static double reference(const struct orr_optimizer *o, double wd, double lr, int t, double g, double p, double state[2])
{
    double b1 = (double)o->beta1, b2 = (double)o->beta2, eps = (double)o->eps;

    if (o->kind != ORR_ADAMW)
        g += wd * p;
    else
        p -= lr * wd * p;
    switch (o->kind) {
    case ORR_ADAMW:
    case ORR_ADAM:
        state[0] = b1 * state[0] + (1 - b1) * g;
        state[1] = b2 * state[1] + (1 - b2) * g * g;
        return p - lr * (state[0] / (1 - pow(b1, t))) / (sqrt(state[1] / (1 - pow(b2, t))) + eps);
    case ORR_SGD: state[0] = b1 * state[0] + g; return p - lr * state[0];
    default: state[0] = b2 * state[0] + (1 - b2) * g * g; return p - lr * g / (sqrt(state[0]) + eps);
    }
}

static void check_optimizer(enum orr_optimizer_kind kind, int count, bool decay, double lr)
{
    struct orr_optimizer o = orr_optimizer_default(kind);
    int states = orr_optimizer_state_count(kind), stride = count + 3;
    float g[MOST], p[MOST], *state = calloc((size_t)(2 * stride), sizeof(*state));
    double p64[MOST], state64[MOST][2] = {{0}};
    const float scale = 0.125f;

    o.weight_decay = 0.25f;
    o.eps = 1e-3f;      /* large enough to show where it is added */
    for (int i = 0; i < count; i++)
        p64[i] = (double)(p[i] = (float)uniform());
    for (int t = 1; t <= STEPS; t++) {
        for (int i = 0; i < count; i++) {
            g[i] = i % 5 == 4 ? 0 : (float)(uniform() * pow(10, i % 7 - 3));
            p64[i] = reference(&o, decay ? (double)o.weight_decay : 0, lr, t, (double)(g[i] * scale), p64[i],
                               state64[i]);
        }
        orri_optimizer_update(&o, decay, lr, t, scale, count, g, p, state, stride);
        for (int i = 0; i < count; i++) {
            ck_assert_msg(fabs((double)p[i] - p64[i]) < 2e-6 * (1 + fabs(p64[i])),
                          "%s, step %d, element %d of %d: %.8g, not %.8g", orr_optimizer_name(kind), t, i, count,
                          (double)p[i], p64[i]);
            /* What is added up may cancel: the size of the summands counts. */
            double size = 0.125 * pow(10, i % 7 - 3) + (decay ? fabs(p64[i]) : 0);
            for (int k = 0; k < states; k++)
                ck_assert_double_eq_tol((double)state[k * stride + i], state64[i][k],
                                        1e-6 * (size + fabs(state64[i][k])));
        }
    }
    /* Between the states and behind the last nothing is touched. */
    for (int k = 0; k < 2; k++)
        for (int i = k < states ? count : 0; i < stride; i++)
            ck_assert(state[k * stride + i] == 0);
    free(state);
}

START_TEST(test_optimizers)
{
    static const int counts[] = {1, 17, MOST};

    srand(5);
    for (int kind = ORR_ADAMW; kind <= ORR_RMSPROP; kind++)
        for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++)
            for (int decay = 0; decay < 2; decay++)
                for (double lr = 0.001; lr < 0.2; lr *= 10)
                    check_optimizer((enum orr_optimizer_kind)kind, counts[n], decay, lr);
}
END_TEST

START_TEST(test_optimizer_names)
{
    enum orr_optimizer_kind kind;

    for (int k = ORR_ADAMW; k <= ORR_RMSPROP; k++) {
        ck_assert_int_eq(orr_optimizer_parse(orr_optimizer_name((enum orr_optimizer_kind)k), &kind), 0);
        ck_assert_int_eq(kind, k);
        ck_assert_int_eq(orr_optimizer_default(kind).kind, k);
    }
    ck_assert_int_eq(orr_optimizer_parse("lion", &kind), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "optimizer: 'lion' is none");
    ck_assert_str_eq(orr_error_remedy(), "use adamw, adam, sgd or rmsprop");
}
END_TEST

/* ---- weight decay: matrices only ----------------------------------------------------------------------------- */

static void mixed_spec(const void *config, struct orr_block_spec *spec)
{
    (void)config;
    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {3},
        .view = {{{"before", 1, {TOY_WIDTH, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"matrix", 2, {3, 5}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"behind", 1, {2, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

static void mixed_forward(const struct orr_operands *o)
{
    memset(o->y, 0, sizeof(float) * (size_t)toy_rows(o) * TOY_WIDTH);
}

static void mixed_weights(const struct orr_operands *o)
{
    static const int counts[] = {TOY_WIDTH, 15, 2};

    for (int v = 0; v < 3; v++)
        memset(o->grad[0][v], 0, sizeof(float) * (size_t)counts[v]);
}

static const struct orr_block_class mixed_class = {
    .name = "mixed",
    .config_size = sizeof(struct toy),
    .specify = mixed_spec,
    .saved = toy_saves_nothing,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .cpu = {[ORR_FORWARD] = mixed_forward, [ORR_WEIGHTS] = mixed_weights},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_OUTPUT, [ORR_WEIGHTS] = ORR_OUTPUT_GRADIENT | ORR_GRADIENTS},
};

START_TEST(test_decay_of_matrices_only)
{
    static const struct orr_parameter_name names[] = {
        {"mixed.before", "before", NULL}, {"mixed.matrix", "matrix", NULL}, {"mixed.behind", "behind", NULL}};
    struct orr_mesh one = MESH(1, 1, 1);
    struct toy toy = {.flops = 1};
    struct orr_model *model = orr_model_create(&one);
    struct orr_training_options options = {.batch = 2, .micro_batch = 1, .seq = 2};
    float values[15];

    ck_assert_ptr_nonnull(orr_block_append(model, &mixed_class, 0, &toy));
    ck_assert_ptr_nonnull(orr_block_append(model, &loss_class, 0, &toy));
    ck_assert_int_eq(orr_model_build(model, names, 3), 0);
    ck_assert_int_eq(orr_model_randomize(model, 1), 0);
    options.optimizer = orr_optimizer_default(ORR_ADAMW);
    options.optimizer.weight_decay = 0.5f;
    options.schedule = (struct orr_schedule){ORR_SCHEDULE_CONSTANT, 0.5, 0, 0, 0};
    struct orr_training *training = orr_training_create(model, &options);
    ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    for (int index = 0; index < 3; index++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, index, &info);
        ck_assert_int_eq(orr_model_read(model, index, values), 0);
        for (int i = 0; i < info.count; i++)
            ck_assert_float_eq(values[i], index == 1 ? 0.75f : 1);
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
}
END_TEST

/* ---- sums ---------------------------------------------------------------------------------------------------- */

START_TEST(test_sum_squares)
{
    static const int64_t counts[] = {1, 17, 1000, 1023, 1024, 1025, 5000011};
    float *x = malloc(5000011 * sizeof(*x));

    srand(9);
    for (int kind = 0; kind < 3; kind++) {
        for (int64_t i = 0; i < 5000011; i++)
            x[i] = kind == 0 ? (float)uniform() : kind == 1 ? 1.1f : (float)(uniform() * pow(10, rand() % 9 - 4));
        for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
            double sum = 0;
            for (int64_t i = 0; i < counts[n]; i++)
                sum += (double)x[i] * (double)x[i];
            ck_assert_double_eq_tol(orri_sum_squares(counts[n], x), sum, 1e-9 * sum);
        }
    }
    x[4000000] = 1e30f;     /* finite, unlike its square in float */
    ck_assert_double_eq_tol(orri_sum_squares(5000011, x), 1e60, 1e54);
    x[4000000] = NAN;
    ck_assert(isnan(orri_sum_squares(5000011, x)));
    x[4000000] = INFINITY;
    ck_assert(isinf(orri_sum_squares(5000011, x)));
    ck_assert_double_eq(orri_sum_squares(0, x), 0);
    free(x);
}
END_TEST

START_TEST(test_sum_tiles)
{
    float x[MOST], y[MOST], sum[MOST];

    for (int n = 1; n <= MOST; n += 37) {
        for (int i = 0; i < MOST; i++) {
            x[i] = (float)uniform();
            y[i] = (float)uniform();
            sum[i] = i < n ? x[i] + y[i] : y[i];
        }
        orri_add((size_t)n, x, y);
        ck_assert_mem_eq(y, sum, sizeof(sum));
    }
}
END_TEST

/* ---- the tree of reductions ---------------------------------------------------------------------------------- */

/* Replica d's gradient, whose sum depends on the order. */
static float part(int replica, int c)
{
    return (float)((1 + 0.37 * c) * pow(-1.7, replica) / 3);
}

static void give_parts(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    (void)toy;
    if (pass == ORR_WEIGHTS && o->grad[0][0])
        for (int c = 0; c < TOY_WIDTH; c++)
            o->grad[0][0][c] = part((int)o->first_sample, c);
}

/* Eight at a time, the sums of those again eight at a time. */
static float tree(int replicas, int c)
{
    float sum[9];
    int n = 0;

    for (int d = 0; d < replicas; d++) {
        if (d % 8 == 0)
            sum[n++] = part(d, c);
        else
            sum[n - 1] += part(d, c);
    }
    for (int i = 1; i < n && i < 8; i++)
        sum[0] += sum[i];
    return n == 9 ? sum[0] + sum[8] : sum[0];
}

static void check_reduction(int dp)
{
    struct orr_mesh mesh = MESH(dp, 1, 1);
    struct orr_training_options options = {.batch = dp, .micro_batch = 1, .seq = 1};
    float found[2][TOY_WIDTH];

    toys.end = give_parts;
    for (int again = 0; again < 2; again++) {
        struct orr_model *model = toy_chain(&mesh, 1);
        struct orr_training *training = orr_training_create(model, &options);
        struct orr_step report;
        ck_assert_msg(orr_training_gradients(training, &toy_source, &report) == 0, "%s", orr_error());
        ck_assert_int_eq(report.labels, dp);
        ck_assert_int_eq(orr_training_read_gradient(training, 0, found[again]), 0);
        for (int c = 0; c < TOY_WIDTH; c++) {
            double sum = 0, size = 0;
            for (int d = 0; d < dp; d++) {
                sum += (double)part(d, c);
                size += fabs((double)part(d, c));
            }
            ck_assert_float_eq(found[again][c], tree(dp, c) * (float)(1 / (double)dp));
            ck_assert_double_eq_tol((double)found[again][c] * dp, sum, 1e-6 * size);
        }
        orr_training_destroy(training);
        orr_model_destroy(model);
    }
    toys.end = NULL;
    ck_assert_mem_eq(found[0], found[1], sizeof(found[0]));
}

START_TEST(test_reduction)
{
    static const int replicas[] = {1, 2, 7, 8, 9, 10, 16, 17, 24, 63, 64, 65, 72};

    for (size_t i = 0; i < sizeof(replicas) / sizeof(replicas[0]); i++)
        check_reduction(replicas[i]);
}
END_TEST

/* ---- schedules ----------------------------------------------------------------------------------------------- */

START_TEST(test_schedules)
{
    const double lr = 0.5, min = 0.125;
    struct orr_schedule cosine = {ORR_SCHEDULE_COSINE, lr, min, 4, 12}, linear = {ORR_SCHEDULE_LINEAR, lr, min, 4, 12},
                        constant = {ORR_SCHEDULE_CONSTANT, lr, min, 4, 12};
    const struct orr_schedule *all[] = {&cosine, &linear, &constant};

    for (int i = 0; i < 3; i++)
        for (int s = 0; s < 4; s++)
            ck_assert_double_eq(orr_schedule_rate(all[i], s), lr * (s + 1) / 4);
    for (int s = 4; s < 12; s++) {
        double x = (s - 4) / 8.0;
        ck_assert_double_eq_tol(orr_schedule_rate(&cosine, s), min + (lr - min) * (1 + cos(M_PI * x)) / 2, 1e-15);
        ck_assert_double_eq_tol(orr_schedule_rate(&linear, s), lr - (lr - min) * x, 1e-15);
        ck_assert_double_eq(orr_schedule_rate(&constant, s), lr);
    }
    ck_assert_double_eq(orr_schedule_rate(&cosine, 4), lr);
    for (int64_t s = 12; s < INT64_MAX / 4; s += s < 24 ? 1 : s) {
        ck_assert_double_eq(orr_schedule_rate(&cosine, s), min);
        ck_assert_double_eq(orr_schedule_rate(&linear, s), min);
        ck_assert_double_eq(orr_schedule_rate(&constant, s), lr);
    }
}
END_TEST

START_TEST(test_schedule_borders)
{
    struct orr_schedule s = {ORR_SCHEDULE_COSINE, 1, 0.25, 0, 10};

    for (int kind = ORR_SCHEDULE_COSINE; kind <= ORR_SCHEDULE_CONSTANT; kind++) {
        s.kind = (enum orr_schedule_kind)kind;
        bool falls = s.kind != ORR_SCHEDULE_CONSTANT;
        s.warmup = 0;
        s.steps = 10;
        ck_assert_double_eq(orr_schedule_rate(&s, 0), 1);
        s.warmup = 10;      /* nothing but warmup */
        ck_assert_double_eq(orr_schedule_rate(&s, 0), 0.1);
        ck_assert_double_eq(orr_schedule_rate(&s, 9), 1);
        ck_assert_double_eq(orr_schedule_rate(&s, 10), falls ? 0.25 : 1);
        s.warmup = 20;      /* more warmup than steps */
        ck_assert_double_eq(orr_schedule_rate(&s, 9), 0.5);
        ck_assert_double_eq(orr_schedule_rate(&s, 19), 1);
        ck_assert_double_eq(orr_schedule_rate(&s, 20), falls ? 0.25 : 1);
        s.warmup = s.steps = 0;
        ck_assert_double_eq(orr_schedule_rate(&s, 0), falls ? 0.25 : 1);
    }
}
END_TEST

START_TEST(test_schedule_names)
{
    enum orr_schedule_kind kind;

    for (int k = ORR_SCHEDULE_COSINE; k <= ORR_SCHEDULE_CONSTANT; k++) {
        ck_assert_int_eq(orr_schedule_parse(orr_schedule_name((enum orr_schedule_kind)k), &kind), 0);
        ck_assert_int_eq(kind, k);
    }
    ck_assert_int_eq(orr_schedule_parse("cos", &kind), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "schedule: 'cos' is none");
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("update");
    TCase *c = tcase_create("update");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_optimizers);
    tcase_add_test(c, test_optimizer_names);
    tcase_add_test(c, test_decay_of_matrices_only);
    tcase_add_test(c, test_sum_squares);
    tcase_add_test(c, test_sum_tiles);
    tcase_add_test(c, test_reduction);
    tcase_add_test(c, test_schedules);
    tcase_add_test(c, test_schedule_borders);
    tcase_add_test(c, test_schedule_names);
    suite_add_tcase(s, c);
    return s;
}
