/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2 against PyTorch: logits, gradients and 20 steps of every optimizer (tests/golden/README.md). */
#include <math.h>
#include <stdlib.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

/* PyTorch computed in double from the same fp32 weights; the same program in fp32 is 1e-6 away from it. */
#define TOLERANCE 1e-5
#define LOSS_TOLERANCE 1e-4

static const struct orr_mesh one = MESH(1, 1, 1);

static void check_close(const struct golden *g, const char *name, const float *found, void *self)
{
    int64_t count;
    float *values = golden_values(g->file, name, &count);
    double d = golden_distance(found, values, count);

    (void)self;
    ck_assert_msg(d < TOLERANCE, "%s is %g away", name, d);
    free(values);
}

/* ---- logits ------------------------------------------------------------------------------------------------ */

static void check_logits(const char *name)
{
    struct golden g;

    golden_open(&g, name);
    golden_predict(&g, &one, check_close, NULL);
    golden_close(&g);
}

START_TEST(test_logits)
{
    check_logits("gpt2-small");
}
END_TEST

START_TEST(test_logits_untied)
{
    check_logits("gpt2-untied");
}
END_TEST

/* ---- gradients and training ----------------------------------------------------------------------------------- */

static void check_gradients(const char *name, int micro_batch, struct orr_mesh mesh, const char *slots)
{
    struct golden g;

    golden_open(&g, name);
    golden_gradients(&g, micro_batch, &mesh, slots, check_close, NULL);
    golden_close(&g);
}

START_TEST(test_gradients)
{
    check_gradients("gpt2-small", 4, one, NULL);
    check_gradients("gpt2-small", 1, one, NULL);
    check_gradients("gpt2-untied", 2, one, NULL);
}
END_TEST

START_TEST(test_gradients_on_meshes)
{
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(2, 1, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(4, 1, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 2, 1), NULL);
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 6, 1), "zb");
    check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(2, 3, 1), "h1");
}
END_TEST

START_TEST(test_gradients_with_every_slot_policy)
{
    static const char *const policies[] = {"gpipe", "1f1b", "h1", "zb", "1", "7"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        check_gradients("gpt2-small", 1, one, policies[i]);
        check_gradients("gpt2-small", 1, (struct orr_mesh)MESH(1, 3, 1), policies[i]);
    }
}
END_TEST

static void check_run(const char *name, const char *norms)
{
    struct golden g;
    double loss[GOLDEN_STEPS], norm[GOLDEN_STEPS];
    int64_t count;

    golden_open(&g, "gpt2-small");
    golden_run(&g, name, loss, norm);
    float *losses = golden_values(g.file, name, &count);
    ck_assert_int_eq(count, GOLDEN_STEPS);
    for (int s = 0; s < GOLDEN_STEPS; s++)
        ck_assert_msg(fabs(loss[s] - losses[s]) < LOSS_TOLERANCE, "%s step %d: %.6f, not %.6f", name, s + 1, loss[s], losses[s]);
    free(losses);
    if (norms) {
        float *expected = golden_values(g.file, norms, &count);
        for (int s = 0; s < GOLDEN_STEPS; s++)
            ck_assert_double_eq_tol(norm[s], expected[s], 1e-4 * expected[s]);
        free(expected);
    }
    golden_close(&g);
}

START_TEST(test_adamw)
{
    check_run("losses", NULL);
}
END_TEST

START_TEST(test_adamw_clipped)
{
    check_run("losses_clip", "grad_norms");
}
END_TEST

START_TEST(test_adam)
{
    check_run("losses_adam", NULL);
}
END_TEST

START_TEST(test_sgd)
{
    check_run("losses_sgd", NULL);
}
END_TEST

START_TEST(test_rmsprop)
{
    check_run("losses_rmsprop", NULL);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("gpt2");
    TCase *c = tcase_create("golden");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_logits);
    tcase_add_test(c, test_logits_untied);
    tcase_add_test(c, test_gradients);
    tcase_add_test(c, test_gradients_on_meshes);
    tcase_add_test(c, test_gradients_with_every_slot_policy);
    tcase_add_test(c, test_adamw);
    tcase_add_test(c, test_adamw_clipped);
    tcase_add_test(c, test_adam);
    tcase_add_test(c, test_sgd);
    tcase_add_test(c, test_rmsprop);
    suite_add_tcase(s, c);
    return s;
}
