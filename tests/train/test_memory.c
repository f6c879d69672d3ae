/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank makes in a step is what was foretold of it: a GPT-2 whose head is tied, asked and submitted as every rank of a mesh
 * in turn. */
#include <starpu.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "check_main.h"
#include "graph/toys.h"
#include "train/counting.h"
#include "train/train.h"

/* No two states are as large as another gradient: they would share a pool. */
enum { V = 37, T = 7, C = 10, H = 5, LAYERS = 2 };

static enum orr_dtype dtype = ORR_F32;

static struct orr_model *model_of(const struct orr_mesh *mesh)
{
    const struct orr_embedding embedding = {.vocab = V, .positions = T, .width = C, .std = 0.1f};
    const struct orr_attention attention = {.width = C, .heads = H, .eps = 1e-5f};
    const struct orr_mlp mlp = {.width = C, .hidden = 4 * C, .eps = 1e-5f};
    const struct orr_head head = {.vocab = V, .width = C, .eps = 1e-5f};
    struct orr_model *model = orr_model_create(mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_model_set_dtype(model, dtype), 0);
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
        sum += pool->size * (int64_t)orr_tile_bytes(&pool->tile[0]);
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
    struct orr_mesh seen = *mesh;
    seen.pretended = rank + 1;
    struct orr_model *model = model_of(&seen);
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
        parameters += bytes_of(&parameter->value) + bytes_of(&parameter->working);
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

/* In fp32 and in bf16. */
static void check_both(struct orr_training_options options, int zero)
{
    for (int i = ORR_F32; i <= ORR_BF16; i++) {
        dtype = (enum orr_dtype)i;
        check_all(options, zero);
    }
    dtype = ORR_F32;
}

START_TEST(test_gradients_in_common)
{
    check_both((struct orr_training_options){.optimizer = {.kind = ORR_ADAM}}, 1);
}
END_TEST

START_TEST(test_lent_parameters)
{
    check_both((struct orr_training_options){.optimizer = {.kind = ORR_ADAM}}, 3);
}
END_TEST

/* With one state its tiles are received in the pools of gradients. */
START_TEST(test_parameters_in_common)
{
    check_both((struct orr_training_options){.sync = ORR_SYNC_PARAMETERS, .optimizer = {.kind = ORR_ADAM}}, 1);
    check_both((struct orr_training_options){.sync = ORR_SYNC_PARAMETERS, .optimizer = {.kind = ORR_SGD}}, 1);
}
END_TEST

START_TEST(test_exchange)
{
    check_both((struct orr_training_options){.staleness = 1, .optimizer = {.kind = ORR_ADAM}}, 1);
}
END_TEST

/* ---- scratch of the workers ---------------------------------------------------------------------------------- */

/* atomic: the largest of the workers' */
static size_t passes_took, kernels_took;

static void raise_to(size_t size, size_t *largest)
{
    size_t seen = __atomic_load_n(largest, __ATOMIC_RELAXED);

    while (size > seen && !__atomic_compare_exchange_n(largest, &seen, size, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

static void look(void *nothing)
{
    (void)nothing;
    raise_to(orri_scratch_size(), &passes_took);
    raise_to(orri_kernel_scratch_size(), &kernels_took);
}

/* Of each worker of one rank. */
static size_t foretold(const struct orr_model *model, const struct orr_training_options *t)
{
    struct orr_memory_need need;

    ck_assert_msg(orr_training_memory(model, t, 0, &need) == 0, "%s", orr_error());
    return (size_t)(need.scratch / orr_worker_count());
}

static int vocab = V;
static const struct orr_source source = {read_counting, &vocab};

/* Sequences long enough for a pass to take some pages. */
START_TEST(test_scratch)
{
    static const struct orr_mesh layouts[] = {
        {.dp = 1, .pp = 1, .tp = 1, .ranks = 1},
        {.dp = 2, .pp = 1, .tp = 1, .ranks = 1, .zero = 3},
        {.dp = 1, .pp = 3, .tp = 1, .ranks = 1},
        {.dp = 1, .pp = 1, .tp = 2, .ranks = 1},
        {.dp = 2, .pp = 2, .tp = 2, .ranks = 1, .sequence_parallel = true},
    };

    for (size_t i = 0; i < 3 * ORRI_COUNT(layouts); i++) {
        struct orr_training_options t = {.batch = 42, .micro_batch = 21, .seq = T, .optimizer = {.kind = ORR_ADAM}};
        struct orr_step step;
        dtype = (enum orr_dtype)(i % 3);
        orri_scratch_free_all();
        struct orr_model *model = model_of(&layouts[i / 3]);
        size_t most = foretold(model, &t);
        struct orr_training *training = orr_training_create(model, &t);
        ck_assert_msg(training != NULL && orr_model_randomize(model, 1) == 0, "%s", orr_error());
        ck_assert_msg(orr_training_gradients(training, &source, &step) == 0, "%s", orr_error());
        orr_training_destroy(training);
        orr_model_destroy(model);
        passes_took = kernels_took = 0;
        starpu_execute_on_each_worker(look, NULL, STARPU_CPU);
        ck_assert_uint_gt(passes_took, 4096);
        ck_assert_uint_gt(kernels_took, 4096);
        ck_assert_uint_le(kernels_took, ORRI_KERNEL_BYTES);
        ck_assert_msg(passes_took + ORRI_KERNEL_BYTES <= most + 4096, "layout %zu in %s: passes take %zu, foretold %zu in all", i / 3,
                      orr_dtype_label(dtype), passes_took, most);
    }
    dtype = ORR_F32;
    orri_scratch_free_all();
}
END_TEST

/* A frozen model has its parameters once, in its dtype: all of them, and on ranks those that they read. */
START_TEST(test_frozen)
{
    for (int i = 0; i < 2 * (int)ORRI_COUNT(meshes) * 2; i++) {
        struct orr_mesh mesh = meshes[i / 4];
        struct orr_slots_options o = {.batch = 1, .seq = T, .microbatches = 1, .predict_floats = V};
        struct orr_memory_need need;
        dtype = i % 2 ? ORR_BF16 : ORR_F32;
        mesh.zero = i / 2 % 2 ? 3 : 1;
        for (int rank = 0; rank < mesh.ranks; rank++) {
            mesh.pretended = rank + 1;
            struct orr_model *model = model_of(&mesh);
            int64_t found = 0;
            ck_assert_int_eq(orr_model_freeze(model), 0);
            ck_assert_int_eq(orr_slots_memory(model, &o, 0, rank, &need), 0);
            ck_assert_int_eq(orr_model_randomize(model, 1), 0);
            struct orr_evaluation *e = orr_evaluation_create(model, 1, T);
            struct orr_result result;
            orr_evaluation_run(e, &source, mesh.dp, &result);
            for (int p = 0; p < model->parameters; p++)
                found += bytes_of(&model->parameter[p]->value) + bytes_of(&model->parameter[p]->working);
            found += bytes_of_pools(model->values);
            ck_assert_msg(need.parameters == found, "rank %d of %d: %lld, not %lld", rank, mesh.ranks, (long long)need.parameters,
                          (long long)found);
            if (mesh.zero == 1 && mesh.pp * mesh.tp == 1)
                ck_assert_int_eq(found, orr_model_size(model) * (dtype == ORR_BF16 ? 2 : 4));
            ck_assert(need.state == 0 && need.gradients == 0);
            orr_evaluation_destroy(e);
            orr_model_destroy(model);
        }
    }
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
    tcase_add_test(c, test_frozen);
    tcase_add_test(c, test_scratch);
    suite_add_tcase(s, c);
    return s;
}
