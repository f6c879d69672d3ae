/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2 in bf16 and fp16 against the exact numbers: not farther off than PyTorch in bf16 (tests/golden/README.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

/* Errors grow with the distance of neighbouring numbers as long as none is too large or too small, and the loss scale sees to
 * that: fp16 has three bits more than bf16, so an eighth is allowed of what is there. */
static const struct {
    enum orr_dtype dtype;
    double factor;
} precisions[] = {{ORR_BF16, 1}, {ORR_F16, 1.0 / 8}};

struct comparison {
    struct golden golden;
    struct orr_safetensors *errors;         /* PyTorch's                                          */
    double factor;
};

static void comparison_open(struct comparison *c, int precision)
{
    char path[600];

    golden_open(&c->golden, "gpt2-small");
    c->golden.dtype = precisions[precision].dtype;
    c->factor = precisions[precision].factor;
    snprintf(path, sizeof(path), "%s/bf16.safetensors", c->golden.directory);
    c->errors = orr_safetensors_open(path);
    ck_assert_msg(c->errors != NULL, "%s", orr_error());
}

static void comparison_close(struct comparison *c)
{
    orr_safetensors_destroy(c->errors);
    golden_close(&c->golden);
}

/* The root of the mean square of the differences, relative to the largest golden value. */
static double mean_distance(const float *found, const float *golden, int64_t count)
{
    double most = 0, squares = 0;

    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs(golden[i]));
        squares += ((double)found[i] - golden[i]) * ((double)found[i] - golden[i]);
    }
    return sqrt(squares / (double)count) / most;
}

/* A number of which PyTorch has made eight that are alike, where of as many any may be the largest, and by a good deal: Adam and
 * RMSprop, say, make whole steps of gradients that are nothing but rounding. Hence twice as far. */
static void check_single(const struct comparison *c, const char *name, double error, double theirs)
{
    ck_assert_msg(error <= 2 * c->factor * theirs, "%s is %g away, PyTorch up to %g", name, error, c->factor * theirs);
}

static void check_errors(const struct golden *g, const char *name, const float *found, void *self)
{
    const struct comparison *c = self;
    int64_t count, two;
    float *exact = golden_values(g->file, name, &count), *theirs = golden_values(c->errors, name, &two);
    double largest = golden_distance(found, exact, count), mean = mean_distance(found, exact, count);

    ck_assert_int_eq(two, 2);
    if (count == 1) {
        check_single(c, name, largest, theirs[0]);
    } else {
        ck_assert_msg(largest <= c->factor * theirs[0], "%s is up to %g away, PyTorch %g", name, largest, c->factor * theirs[0]);
        ck_assert_msg(mean <= c->factor * theirs[1], "%s is %g away on the mean, PyTorch %g", name, mean, c->factor * theirs[1]);
        /* Else it was not computed in this dtype. */
        ck_assert_msg(mean > c->factor * theirs[1] / 10, "%s is only %g away, PyTorch %g", name, mean, c->factor * theirs[1]);
    }
    free(exact);
    free(theirs);
}

START_TEST(test_predictions)
{
    static const struct orr_mesh meshes[] = {
        MESH(1, 1, 1), MESH(1, 2, 1), MESH(1, 1, 3), {.dp = 1, .pp = 1, .tp = 3, .ranks = 1, .sequence_parallel = true}};
    struct comparison c;

    comparison_open(&c, _i);
    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++)
        golden_predict(&c.golden, &meshes[m], check_errors, &c);
    comparison_close(&c);
}
END_TEST

START_TEST(test_gradients)
{
    static const struct {
        int micro_batch;
        struct orr_mesh mesh;
        const char *slots;
    } layouts[] = {
        {4, MESH(1, 1, 1), NULL},
        {1, MESH(1, 1, 1), "1f1b"},
        {1, MESH(2, 2, 1), "zb"},
        {2, MESH(1, 1, 2), "gpipe"},
        {2, MESH(1, 1, 3), NULL},
        {2, {.dp = 2, .pp = 2, .tp = 3, .ranks = 1, .sequence_parallel = true, .zero = 3}, NULL},
    };
    struct comparison c;

    comparison_open(&c, _i);
    for (size_t l = 0; l < sizeof(layouts) / sizeof(layouts[0]); l++)
        golden_gradients(&c.golden, layouts[l].micro_batch, &layouts[l].mesh, layouts[l].slots, check_errors, &c);
    comparison_close(&c);
}
END_TEST

static void check_run(const struct comparison *c, const char *name, const double *found)
{
    int64_t count, one;
    float *exact = golden_values(c->golden.file, name, &count), *theirs = golden_values(c->errors, name, &one);
    double largest = 0;

    ck_assert(count == GOLDEN_STEPS && one == 1);
    for (int s = 0; s < GOLDEN_STEPS; s++)
        largest = fmax(largest, isnan(found[s]) ? INFINITY : fabs(found[s] - exact[s]));
    check_single(c, name, largest, theirs[0]);
    free(exact);
    free(theirs);
}

START_TEST(test_runs)
{
    static const char *const runs[] = {"losses", "losses_clip", "losses_adam", "losses_sgd", "losses_rmsprop"};
    struct comparison c;
    double loss[GOLDEN_STEPS], norm[GOLDEN_STEPS];

    comparison_open(&c, _i);
    for (size_t r = 0; r < sizeof(runs) / sizeof(runs[0]); r++) {
        golden_run(&c.golden, runs[r], loss, norm);
        check_run(&c, runs[r], loss);
        if (r == 1)
            check_run(&c, "grad_norms", norm);
    }
    comparison_close(&c);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("precision");
    TCase *c = tcase_create("golden");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_predictions, 0, 2);
    tcase_add_loop_test(c, test_gradients, 0, 2);
    tcase_add_loop_test(c, test_runs, 0, 2);
    suite_add_tcase(s, c);
    return s;
}
