/* SPDX-License-Identifier: Apache-2.0 */
/* fp16's loss scale: steps that overflow change nothing, and leave no trace in those behind them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "meshes.h"
#include "train/small_gpt.h"

enum { MOST = 64 };

static const float clips[] = {0, 1};

/* In fp16, on the same batch in every step and with the same learning rate, so that only the number of updates counts. */
static struct setup scaled(double scale, float clip)
{
    struct setup s = usual();

    s.dtype = ORR_F16;
    s.options.schedule = (struct orr_schedule){.kind = ORR_SCHEDULE_CONSTANT, .lr = 1e-2};
    s.options.optimizer.clip = clip;
    s.options.loss_scale = scale;
    return s;
}

/* Everything that a step may change but the scale. */
struct content {
    struct values parameters, state[2];
};

static struct values read_state(struct orr_training *training, struct orr_model *model, int which)
{
    struct values v = {orr_model_size(model), malloc((size_t)orr_model_size(model) * sizeof(float))};
    int64_t n = 0;

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        ck_assert_int_eq(orr_training_read_state(training, i, which, v.at + n), 0);
        n += info.count;
    }
    return v;
}

static struct content read_content(struct orr_training *training, struct orr_model *model)
{
    return (struct content){read_values(model), {read_state(training, model, 0), read_state(training, model, 1)}};
}

static bool same_content(const struct content *a, const struct content *b)
{
    return same_values(a->parameters, b->parameters) && same_values(a->state[0], b->state[0]) &&
           same_values(a->state[1], b->state[1]);
}

static void free_content(struct content *c)
{
    free(c->parameters.at);
    free(c->state[0].at);
    free(c->state[1].at);
}

/* Submits steps, two of them in flight at a time, and takes their reports. */
static void take_reports(struct orr_training *training, int steps, struct orr_step *report)
{
    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_submit(training, &same_batch) == 0, "%s", orr_error());
    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_next(training, &report[s], true) == 1, "%s", orr_error());
}

/* Steps until one has not overflowed: how many have. */
static int skip_all(struct orr_training *training, struct orr_step *report)
{
    int skipped = 0;

    for (take_reports(training, 1, report); report->skipped; take_reports(training, 1, report))
        ck_assert_int_lt(++skipped, MOST);
    return skipped;
}

/* Each step that overflows halves the scale, and changes neither parameters nor state; the first that does not is a first step:
 * from there on everything is as in a run that begins with its scale, Adam's correction for the first steps, too. */
START_TEST(test_skipping)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(2, 2, 2)};

    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++) {
        struct setup s = scaled(0x1p45, clips[_i]);
        struct orr_step report[MOST] = {0}, first, later[3], again[4];
        struct orr_loss_scale scale;
        struct orr_model *model;
        s.mesh = meshes[m];
        struct orr_training *training = start_over(&s, &model);
        struct content before = read_content(training, model);

        take_reports(training, 8, report);
        for (int i = 0; i < 8; i++) {
            ck_assert(report[i].skipped && report[i].step == i + 1);
            ck_assert_double_eq(report[i].loss_scale, ldexp(1, 45 - i));
            ck_assert(report[i].loss == report[0].loss && !isfinite(report[i].grad_norm));
        }
        ck_assert_int_eq(orr_training_loss_scale(training, &scale), 0);
        ck_assert(scale.scale == 0x1p37 && scale.skipped == 8 && scale.good == 0);
        struct content behind = read_content(training, model);
        ck_assert_msg(same_content(&behind, &before), "a skipped step has changed something");

        int skipped = 8 + skip_all(training, &first);
        ck_assert_double_eq(first.loss_scale, ldexp(1, 45 - skipped));
        ck_assert(first.step == skipped + 1 && isfinite(first.grad_norm) && first.loss == report[0].loss);
        take_reports(training, 3, later);
        struct content found = read_content(training, model);
        ck_assert_int_eq(orr_training_loss_scale(training, &scale), 0);
        ck_assert(scale.scale == first.loss_scale && scale.skipped == skipped && scale.good == 4);
        finish_training(training, model);

        s.options.loss_scale = first.loss_scale;
        training = start_over(&s, &model);
        take_reports(training, 4, again);
        struct content expected = read_content(training, model);
        ck_assert(first.loss == again[0].loss && first.grad_norm == again[0].grad_norm);
        for (int i = 0; i < 3; i++)
            ck_assert(!later[i].skipped && later[i].loss == again[1 + i].loss && later[i].grad_norm == again[1 + i].grad_norm);
        ck_assert(again[3].loss < again[0].loss);
        ck_assert_msg(same_content(&found, &expected), "skipped steps have left something");
        finish_training(training, model);
        free_content(&before);
        free_content(&behind);
        free_content(&found);
        free_content(&expected);
    }
}
END_TEST

/* After so many steps without an overflow it doubles, until there is one. */
START_TEST(test_growing)
{
    struct setup s = scaled(1024, clips[_i]);
    struct orr_step report[MOST];
    struct orr_model *model;
    s.options.loss_scale_window = 2;
    struct orr_training *training = start_over(&s, &model);
    int good = 0, overflows = 0;
    double scale = 1024;

    take_reports(training, MOST, report);
    for (int i = 0; i < MOST; i++) {
        ck_assert_double_eq(report[i].loss_scale, scale);
        good = report[i].skipped ? 0 : good + 1;
        overflows += report[i].skipped;
        scale = report[i].skipped ? scale / 2 : good == 2 ? 2 * scale : scale;
        good = good == 2 ? 0 : good;
    }
    ck_assert(scale > 65536 && overflows > 2 && overflows < MOST / 3);
    ck_assert(report[MOST - 1].loss < report[0].loss / 2);
    finish_training(training, model);
}
END_TEST

/* Scales are powers of two: what they multiply by they take back without a trace, in the norm, too. */
START_TEST(test_scale_leaves_no_trace)
{
    struct setup s = scaled(4096, clips[_i]);
    struct orr_step report[2][4];
    struct values values[2];
    s.options.optimizer.kind = ORR_SGD;
    s.options.schedule.lr = 0.1;

    for (int i = 0; i < 2; i++) {
        struct orr_model *model;
        struct orr_training *training = start_over(&s, &model);
        take_reports(training, 4, report[i]);
        values[i] = read_values(model);
        finish_training(training, model);
        s.options.loss_scale *= 8;
    }
    for (int step = 0; step < 4; step++) {
        ck_assert_double_eq_tol(report[1][step].grad_norm, report[0][step].grad_norm, 1e-6 * report[0][step].grad_norm);
        ck_assert_double_eq_tol(report[1][step].loss, report[0][step].loss, 1e-6);
    }
    /* But for gradients below 2^-24, which fp16 does not have: some more of them are 0 with the smaller scale. */
    double d = values_distance(values[0], values[1]);
    ck_assert_msg(d < 1e-6, "%g away", d);
    free(values[0].at);
    free(values[1].at);
}
END_TEST

static void fill(struct orr_model *model, const char *name, float value)
{
    struct orr_parameter_info info;
    int index = orr_model_find(model, name);

    ck_assert_int_ge(index, 0);
    orr_model_parameter(model, index, &info);
    float *values = malloc((size_t)info.count * sizeof(*values));
    for (int64_t k = 0; k < info.count; k++)
        values[k] = value;
    ck_assert_int_eq(orr_model_write(model, index, values), 0);
    free(values);
}

/* A model whose forward pass overflows: no scale helps, and the run ends; the parameters stay. */
START_TEST(test_hopeless)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(2, 1, 2)};

    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++) {
        struct setup s = scaled(4, clips[_i]);
        struct orr_step report;
        struct orr_model *model;
        s.mesh = meshes[m];
        struct orr_training *training = start_over(&s, &model);
        fill(model, "transformer.wpe.weight", 60000);
        fill(model, "transformer.h.0.attn.c_proj.bias", 60000);
        struct content before = read_content(training, model);
        int status = 0, steps = 0;

        while (steps < MOST && (status = orr_training_submit(training, &same_batch)) == 0)
            steps++;
        ck_assert_int_eq(status, ORR_ENONFINITE);
        ck_assert_msg(strstr(orr_error(), "step 4: the gradient overflows fp16 even where the loss is multiplied by 0.5"), "%s",
                      orr_error());
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(orr_training_next(training, &report, true), 1);
            ck_assert(report.skipped && report.loss_scale == ldexp(4, -i));
        }
        ck_assert_int_eq(orr_training_next(training, &report, true), ORR_ENONFINITE);
        struct content behind = read_content(training, model);
        ck_assert(same_content(&behind, &before));
        finish_training(training, model);
        free_content(&before);
        free_content(&behind);
    }
}
END_TEST

/* A gradient that is asked for is finite, of the samples that come next, and as with a scale that was right from the start. */
START_TEST(test_gradients)
{
    struct setup s = scaled(0x1p40, 0);
    struct orr_step report[2];
    struct values gradient[2];

    for (int i = 0; i < 2; i++) {
        struct orr_model *model;
        struct orr_training *training = start_over(&s, &model);
        ck_assert_msg(orr_training_gradients(training, &samples, &report[i]) == 0, "%s", orr_error());
        ck_assert(!report[i].skipped && isfinite(report[i].grad_norm));
        ck_assert_int_eq(orr_training_samples(training), BATCH);
        ck_assert_int_eq(orr_training_steps(training), report[i].step);
        gradient[i] = (struct values){orr_model_size(model), malloc((size_t)orr_model_size(model) * sizeof(float))};
        int64_t n = 0;
        for (int p = 0; p < orr_model_parameter_count(model); p++) {
            struct orr_parameter_info info;
            orr_model_parameter(model, p, &info);
            ck_assert_int_eq(orr_training_read_gradient(training, p, gradient[i].at + n), 0);
            n += info.count;
        }
        finish_training(training, model);
        s.options.loss_scale = report[0].loss_scale;
    }
    ck_assert(report[0].step > 1 && report[1].step == 1);
    ck_assert(report[0].loss == report[1].loss && report[0].grad_norm == report[1].grad_norm);
    ck_assert(same_values(gradient[0], gradient[1]));
    free(gradient[0].at);
    free(gradient[1].at);
}
END_TEST

START_TEST(test_options)
{
    struct setup s = scaled(0, 1);
    struct orr_model *model = create_model(&s);
    struct orr_loss_scale scale;
    s.options.micro_batch = 1;

    struct orr_training *training = orr_training_create(model, &s.options);
    ck_assert_int_eq(orr_training_loss_scale(training, &scale), 0);
    ck_assert(scale.scale == 65536 && scale.good == 0 && scale.skipped == 0);
    orr_training_destroy(training);
    for (int i = 0; i < 2; i++) {
        struct orr_training_options options = s.options;
        options.sync = i == 0 ? ORR_SYNC_PARAMETERS : ORR_SYNC_GRADIENTS;
        options.staleness = i;
        ck_assert_ptr_null(orr_training_create(model, &options));
        ck_assert_int_eq(orr_error_code(), ORR_EINVAL);
        ck_assert_ptr_nonnull(strstr(orr_error(), "no loss scale in common for fp16"));
        ck_assert_str_eq(orr_error_remedy(), "use --dtype bf16");
    }
    const double bad[] = {-1, NAN, INFINITY};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct orr_training_options options = s.options;
        options.loss_scale = bad[i];
        ck_assert_ptr_null(orr_training_create(model, &options));
        ck_assert_int_eq(orr_error_code(), ORR_EINVAL);
    }
    s.options.loss_scale_window = -1;
    ck_assert_ptr_null(orr_training_create(model, &s.options));
    orr_model_destroy(model);
    /* Where nothing is scaled. */
    s = usual();
    training = start_over(&s, &model);
    ck_assert_int_eq(orr_training_loss_scale(training, &scale), 0);
    ck_assert(scale.scale == 1 && scale.good == 0 && scale.skipped == 0);
    finish_training(training, model);
}
END_TEST

static void start(void)
{
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 4}) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("loss scale");
    TCase *c = tcase_create("loss scale");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_skipping, 0, 2);
    tcase_add_loop_test(c, test_growing, 0, 2);
    tcase_add_loop_test(c, test_scale_leaves_no_trace, 0, 2);
    tcase_add_loop_test(c, test_hopeless, 0, 2);
    tcase_add_test(c, test_gradients);
    tcase_add_test(c, test_options);
    suite_add_tcase(s, c);
    return s;
}
