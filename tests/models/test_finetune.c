/* SPDX-License-Identifier: Apache-2.0 */
/* Options of fine-tuning against PyTorch's numbers (tests/golden/finetune). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

static const struct orr_mesh meshes[] = {
    MESH(1, 1, 1), MESH(2, 1, 1), MESH(1, 2, 1), MESH(1, 1, 2), MESH(2, 2, 3),
    {.dp = 2, .pp = 1, .tp = 1, .ranks = 1, .zero = 3},
    {.dp = 1, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true},
};

static void set_rates(struct orr_model *model, json_t *options)
{
    json_t *freeze = json_object_get(options, "freeze"), *pattern;
    size_t i;

    json_array_foreach(freeze, i, pattern)
        ck_assert_msg(orr_model_hold(model, json_string_value(pattern)) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_model_decay_rates(model, json_number_value(json_object_get(options, "layer_decay"))), 0);
}

static void check_steps(struct orr_training *training, json_t *run, const char *name)
{
    json_t *losses = json_object_get(run, "losses"), *norms = json_object_get(run, "norms");
    struct orr_step report;

    for (size_t s = 0; s < json_array_size(losses); s++) {
        double loss = json_number_value(json_array_get(losses, s)), norm = json_number_value(json_array_get(norms, s));
        ck_assert_msg(orr_training_next(training, &report, true) == 1, "%s", orr_error());
        ck_assert_msg(fabs(report.loss - loss) < 2e-5 * loss, "%s, step %zu: a loss of %.7f, not %.7f", name, s, report.loss, loss);
        if (report.grad_norm > 0)       /* without clipping there may be none */
            ck_assert_msg(fabs(report.grad_norm - norm) < 2e-4 * norm, "%s, step %zu: a norm of %.7f, not %.7f", name, s,
                          report.grad_norm, norm);
    }
}

/* How far each parameter went. */
static void check_ways(struct orr_model *model, struct orr_model *first, json_t *run, const char *name)
{
    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        float *from = malloc((size_t)info.count * sizeof(*from)), *to = malloc((size_t)info.count * sizeof(*to));
        json_t *moved = json_object_get(json_object_get(run, "moved"), info.name);
        double way = 0, expected = json_number_value(moved);
        bool keys = strstr(info.name, "c_attn.bias") != NULL;     /* whose gradient is zero but for rounding */
        ck_assert_msg(json_is_number(moved), "%s", info.name);
        ck_assert_int_eq(orr_model_read(first, i, from), 0);
        ck_assert_int_eq(orr_model_read(model, i, to), 0);
        for (int64_t k = 0; k < info.count; k++)
            way += keys && k / (info.count / 3) == 1 ? 0 :
                    ((double)to[k] - (double)from[k]) * ((double)to[k] - (double)from[k]);
        ck_assert_msg(fabs(sqrt(way) - expected) <= 2e-3 * expected, "%s, %s: went %.7g, not %.7g", name, info.name, sqrt(way),
                      expected);
        free(from);
        free(to);
    }
}

static void check_run(const struct golden *g, json_t *run, const char *name, const struct orr_mesh *mesh)
{
    struct orr_model *model = golden_model(g, mesh), *first = golden_model(g, mesh);
    struct orr_training_options options = golden_options(g, json_object_get(run, "options"));
    struct orr_source source = golden_source(g);

    set_rates(model, json_object_get(run, "options"));
    options.micro_batch = 1;
    struct orr_training *training = orr_training_create(model, &options);
    ck_assert_msg(training != NULL, "%s", orr_error());
    for (int64_t s = 0; s < options.schedule.steps; s++)
        ck_assert_msg(orr_training_submit(training, &source) == 0, "%s", orr_error());
    check_steps(training, run, name);
    check_ways(model, first, run, name);
    orr_training_destroy(training);
    orr_model_destroy(model);
    orr_model_destroy(first);
}

START_TEST(test_runs)
{
    const char *root = getenv("srcdir"), *name;
    struct golden g;
    char path[600];
    json_t *run;

    golden_open(&g, "gpt2-small");
    snprintf(path, sizeof(path), "%s/tests/golden/finetune/runs.json", root ? root : ".");
    json_t *runs = json_load_file(path, 0, NULL);
    ck_assert_ptr_nonnull(runs);
    json_object_foreach(runs, name, run)
        check_run(&g, run, name, &meshes[_i]);
    json_decref(runs);
    golden_close(&g);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("fine-tuning");
    TCase *c = tcase_create("against PyTorch");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_runs, 0, (int)(sizeof(meshes) / sizeof(meshes[0])));
    suite_add_tcase(s, c);
    return s;
}
