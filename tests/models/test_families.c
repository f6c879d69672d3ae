/* SPDX-License-Identifier: Apache-2.0 */
/* Every family against transformers: logits, gradients on several meshes, 20 steps of AdamW (tests/golden/README.md). */
#include <math.h>
#include <stdlib.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

/* transformers computed in double but for norms and angles. */
#define TOLERANCE 1e-5
#define LOSS_TOLERANCE 1e-4

static const char *const models[] = {"llama", "llama-biased", "mistral", "qwen2", "t5", "t5-gated"};
enum { MODELS = (int)(sizeof(models) / sizeof(models[0])) };

static const struct orr_mesh one = MESH(1, 1, 1);

static void check_close(const struct golden *g, const char *name, const float *found, void *self)
{
    int64_t count;
    float *values = golden_values(g->file, name, &count);
    double d = golden_distance(found, values, count);

    ck_assert_msg(d < TOLERANCE, "%s: %s is %g away", (const char *)self, name, d);
    free(values);
}

START_TEST(logits)
{
    struct golden g;

    golden_open(&g, models[_i]);
    golden_predict(&g, &one, check_close, (void *)models[_i]);
    golden_close(&g);
}
END_TEST

START_TEST(gradients)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(2, 1, 1), MESH(1, 3, 1), MESH(1, 1, 2), MESH(2, 2, 2), MESH(2, 3, 1)};
    struct golden g;

    golden_open(&g, models[_i]);
    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++) {
        struct orr_mesh mesh = meshes[m];
        if (mesh.tp > g.hyper.shards)
            continue;
        golden_gradients(&g, 1, &mesh, m % 2 ? "h1" : NULL, check_close, (void *)models[_i]);
        mesh.sequence_parallel = mesh.tp > 1;
        if (mesh.tp > 1)
            golden_gradients(&g, 2, &mesh, NULL, check_close, (void *)models[_i]);
    }
    golden_close(&g);
}
END_TEST

START_TEST(training)
{
    double loss[GOLDEN_STEPS], norm[GOLDEN_STEPS];
    struct golden g;
    int64_t count;

    golden_open(&g, models[_i]);
    golden_run(&g, "losses", loss, norm);
    float *losses = golden_values(g.file, "losses", &count);
    ck_assert_int_eq(count, GOLDEN_STEPS);
    for (int s = 0; s < GOLDEN_STEPS; s++)
        ck_assert_msg(fabs(loss[s] - losses[s]) < LOSS_TOLERANCE, "%s step %d: %.6f, not %.6f", models[_i], s + 1, loss[s], losses[s]);
    free(losses);
    golden_close(&g);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("families");
    TCase *c = tcase_create("golden");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, logits, 0, MODELS);
    tcase_add_loop_test(c, gradients, 0, MODELS);
    tcase_add_loop_test(c, training, 0, MODELS);
    suite_add_tcase(s, c);
    return s;
}
