/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank makes in a step is what was foretold of it: a GPT-2 whose head is tied, asked and submitted as every rank of a mesh
 * in turn. */
#include <stdlib.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "check_main.h"
#include "graph/toys.h"
#include "train/train.h"

/* No two states are as large as another gradient: they would share a pool. */
enum { V = 37, T = 7, C = 10, H = 5, LAYERS = 2 };

static struct orr_model *model_of(const struct orr_mesh *mesh, int rank)
{
    const struct orr_embedding embedding = {.vocab = V, .positions = T, .width = C};
    const struct orr_attention attention = {.width = C, .heads = H};
    const struct orr_mlp mlp = {.width = C, .hidden = 4 * C};
    const struct orr_head head = {.vocab = V, .width = C};
    struct orr_mesh seen = *mesh;

    seen.pretended = rank + 1;
    struct orr_model *model = orr_model_create(&seen);
    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_embedding(model, &embedding), 0);
    for (int l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(orr_attention(model, l, &attention), 0);
        ck_assert_int_eq(orr_mlp(model, l, &mlp), 0);
    }
    ck_assert_int_eq(orr_head(model, &head, orr_model_block(model, 0)), 0);
    ck_assert_msg(orr_model_build(model, NULL, 0) == 0, "%s", orr_error());
    return model;
}

static int64_t bytes_of(const struct orr_tile *tile)
{
    return tile->handle ? (int64_t)orr_tile_bytes(tile) : 0;
}

static int64_t bytes_of_pools(const struct orri_pool *pool)
{
    int64_t sum = 0;

    for (; pool; pool = pool->next)
        sum += pool->size * pool->count * (int64_t)sizeof(float);
    return sum;
}

/* Of exchange.c, for the gradients that an owner receives of replicas elsewhere. */
static int64_t bytes_of_passing(const struct orr_training *t, const struct orri_parameter *parameter)
{
    int64_t sum = 0;

    for (int r = 0; t->exchange && parameter->here == 0 && r < t->copies; r++)
        sum += orri_sum_rank(t, parameter, r) == t->model->rank ? 0 : parameter->count * (int64_t)sizeof(float);
    return sum;
}

static void check_rank(const struct orr_mesh *mesh, int rank, struct orr_training_options options)
{
    struct orr_model *model = model_of(mesh, rank);
    int64_t gradients = 0, parameters = 0, state = 0;
    struct orr_memory_need need;

    options.batch = 2 * mesh->dp;
    options.micro_batch = 1;
    options.seq = T;
    ck_assert_msg(orr_training_memory(model, &options, rank, &need) == 0, "%s", orr_error());
    struct orr_training *t = orr_training_create(model, &options);
    ck_assert_msg(t != NULL, "%s", orr_error());
    ck_assert_msg(orr_training_submit(t, &toy_source) == 0, "%s", orr_error());
    for (int p = 0; p < model->parameters; p++) {
        const struct orri_parameter *parameter = model->parameter[p];
        parameters += bytes_of(&parameter->value);
        for (int i = 0; parameter->own && i < 2 * mesh->dp; i++)
            parameters += bytes_of(&parameter->own[i]);
        for (int i = 0; i < parameter->group->users * mesh->dp * parameter->copies; i++)
            gradients += bytes_of(&parameter->gradient[i]);
        for (int i = 0; i < t->states; i++)
            state += bytes_of(&t->state[p * t->states + i]);
        state += bytes_of(&t->outer[p]);
        gradients += bytes_of_passing(t, parameter);
    }
    ck_assert_msg(need.parameters == parameters + bytes_of_pools(model->values), "rank %d: parameters: %lld, not %lld", rank,
                  (long long)need.parameters, (long long)(parameters + bytes_of_pools(model->values)));
    ck_assert_msg(need.gradients == gradients + bytes_of_pools(model->gradients), "rank %d: gradients: %lld, not %lld + %lld", rank,
                  (long long)need.gradients, (long long)gradients, (long long)bytes_of_pools(model->gradients));
    ck_assert_int_eq(need.state, state);
    orr_training_destroy(t);
    orr_model_destroy(model);
}

static const struct orr_mesh meshes[] = {
    {.dp = 2, .pp = 1, .tp = 1, .ranks = 2},
    {.dp = 3, .pp = 1, .tp = 1, .ranks = 3},
    {.dp = 2, .pp = 2, .tp = 1, .ranks = 4},
    {.dp = 4, .pp = 2, .tp = 1, .ranks = 4},
    {.dp = 3, .pp = 3, .tp = 1, .ranks = 3},
    {.dp = 2, .pp = 2, .tp = 2, .ranks = 8, .sequence_parallel = true},
    {.dp = 9, .pp = 1, .tp = 1, .ranks = 9},
    {.dp = 20, .pp = 2, .tp = 1, .ranks = 40},
    {.dp = 1, .pp = 3, .tp = 1, .ranks = 3},
};

static void check_all(struct orr_training_options options, int zero)
{
    for (size_t i = 0; i < ORRI_COUNT(meshes); i++) {
        struct orr_mesh mesh = meshes[i];
        mesh.zero = zero;
        for (int rank = 0; rank < mesh.ranks; rank++)
            check_rank(&mesh, rank, options);
    }
}

START_TEST(test_gradients_in_common)
{
    check_all((struct orr_training_options){.optimizer = {.kind = ORR_ADAM}}, 1);
}
END_TEST

START_TEST(test_lent_parameters)
{
    check_all((struct orr_training_options){.optimizer = {.kind = ORR_ADAM}}, 3);
}
END_TEST

/* With one state its tiles are received in the pools of gradients. */
START_TEST(test_parameters_in_common)
{
    check_all((struct orr_training_options){.sync = ORR_SYNC_PARAMETERS, .optimizer = {.kind = ORR_ADAM}}, 1);
    check_all((struct orr_training_options){.sync = ORR_SYNC_PARAMETERS, .optimizer = {.kind = ORR_SGD}}, 1);
}
END_TEST

START_TEST(test_exchange)
{
    check_all((struct orr_training_options){.staleness = 1, .optimizer = {.kind = ORR_ADAM}}, 1);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("memory");
    TCase *c = tcase_create("memory");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_gradients_in_common);
    tcase_add_test(c, test_lent_parameters);
    tcase_add_test(c, test_parameters_in_common);
    tcase_add_test(c, test_exchange);
    suite_add_tcase(s, c);
    return s;
}
