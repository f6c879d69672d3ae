/* SPDX-License-Identifier: Apache-2.0 */
/* The block of docs/adding-a-block.md, inside a model: its gradients against finite differences. */

#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <orrery/orrery.h>

#include "check_main.h"
#include "scale.h"

enum { V = 11, T = 5, C = 7, BATCH = 6, MICRO = 2 };      /* odd sizes */

static struct orr_model *make(int pp)
{
    struct orr_mesh mesh = {.dp = 1, .pp = pp, .tp = 1, .ranks = 1};
    struct orr_embedding embedding = {.vocab = V, .positions = T, .width = C, .std = 1};
    struct scale s = {.width = C};
    struct orr_head head = {.vocab = V, .width = C, .eps = 1e-5f, .std = 1};
    struct orr_model *m = orr_model_create(&mesh);

    ck_assert_ptr_nonnull(m);
    ck_assert_int_eq(orr_embedding(m, &embedding), 0);
    ck_assert_int_eq(scale(m, 0, &s), 0);
    ck_assert_int_eq(scale(m, 1, &s), 0);
    ck_assert_int_eq(orr_head(m, &head, NULL), 0);
    ck_assert_int_eq(orr_model_build(m, NULL, 0), 0);
    ck_assert_int_eq(orr_model_randomize(m, 3), 0);
    return m;
}

static void read_tokens(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self;
    for (int i = 0; i < count * seq; i++) {
        uint32_t k = (uint32_t)first * T + (uint32_t)i;
        tokens[i] = (int32_t)(k * 7 % V);
        labels[i] = (int32_t)(k * k % V);
    }
}

/* The loss, and the gradient of parameter `index` into gradient[] unless that is NULL. */
static double loss_of(struct orr_model *m, const char *slots, int index, float *gradient)
{
    struct orr_training_options options = {.batch = BATCH, .micro_batch = MICRO, .seq = T, .optimizer = {.kind = ORR_SGD}};
    struct orr_source source = {read_tokens, NULL};
    struct orr_step report;

    ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    struct orr_training *t = orr_training_create(m, &options);
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(orr_training_gradients(t, &source, &report), 0);
    if (gradient)
        ck_assert_int_eq(orr_training_read_gradient(t, index, gradient), 0);
    orr_training_destroy(t);
    return report.loss;
}

START_TEST(names)
{
    struct orr_model *m = make(1);
    struct orr_parameter_info info;
    int index = orr_model_find(m, "scale.1.weight");

    ck_assert_int_ge(index, 0);
    orr_model_parameter(m, index, &info);
    ck_assert_int_eq(info.ndim, 1);
    ck_assert_int_eq(info.count, C);
    ck_assert_int_ge(orr_model_find(m, "embedding.0.token.weight"), 0);
    orr_model_destroy(m);
}
END_TEST

/* Through both scales: W of the second, B of the second and W of the first, B of both and W of the embedding. */
START_TEST(finite_differences)
{
    static const char *const name[] = {"scale.1.weight", "scale.0.weight", "embedding.0.position.weight"};
    static const int count[] = {C, C, T * C};
    struct orr_model *m = make(1);

    for (int n = 0; n < 3; n++) {
        float values[T * C], gradient[T * C];
        int index = orr_model_find(m, name[n]);
        loss_of(m, "h1", index, gradient);
        ck_assert_int_eq(orr_model_read(m, index, values), 0);
        for (int j = 0; j < count[n]; j += 3) {
            const float here = values[j], step = 0.02f;
            double loss[2];
            for (int side = 0; side < 2; side++) {
                values[j] = here + (side ? step : -step);
                ck_assert_int_eq(orr_model_write(m, index, values), 0);
                loss[side] = loss_of(m, "h1", index, NULL);
            }
            values[j] = here;
            ck_assert_int_eq(orr_model_write(m, index, values), 0);
            ck_assert_double_eq_tol(gradient[j], (loss[1] - loss[0]) / (2 * (double)step), 2e-3);
        }
    }
    orr_model_destroy(m);
}
END_TEST

/* B and W in one task or two, one stage or four: the same numbers. */
START_TEST(layouts)
{
    static const char *const slots[] = {"gpipe", "1f1b", "h1", "zb", "3"};
    struct orr_model *m = make(1);
    float wanted[C], found[C];
    int index = orr_model_find(m, "scale.0.weight");
    double loss = loss_of(m, "gpipe", index, wanted);

    orr_model_destroy(m);
    for (int i = 0; i < 5; i++) {
        m = make(4);
        ck_assert_double_eq(loss_of(m, slots[i], index, found), loss);
        ck_assert_mem_eq(found, wanted, sizeof(wanted));
        orr_model_destroy(m);
    }
}
END_TEST

static void start(void)
{
    ck_assert_int_eq(orr_init(NULL), 0);
}

Suite *suite(void)
{
    Suite *s = suite_create("docs: a block of one's own");
    TCase *t = tcase_create("scale");

    tcase_add_unchecked_fixture(t, start, orr_shutdown);
    tcase_add_test(t, names);
    tcase_add_test(t, finite_differences);
    tcase_add_test(t, layouts);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
