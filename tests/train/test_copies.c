/* SPDX-License-Identifier: Apache-2.0 */
/* Copies that passes keep of parameters are those of the parameters as they are, are made once per step, and take what was
 * foretold: a GPT-2 whose passes keep a copy of every matrix that they read, trained in every manner. In one process or on
 * several ranks. */
#include <stdatomic.h>
#include <string.h>

#include <codelets/attention/attention.h>
#include <codelets/embedding/embedding.h>
#include <codelets/head/head.h>
#include <codelets/mlp/mlp.h>

#include "check_main.h"
#include "core/kept.h"
#include "meshes.h"
#include "train/counting.h"
#include "train/train.h"

enum { V = 32, T = 6, C = 16, H = 4, LAYERS = 2, BATCH = 8, STEPS = 6, CLASSES = 4 };

static struct orr_model *model;

/* What passes have met. */
static atomic_int old, unkept, unwanted;
static atomic_llong filled;                 /* bytes of copies made */

/* ---- blocks that keep copies ------------------------------------------------------------------------------------------ */

static const struct orr_block_class *real[CLASSES];
static struct orr_block_class keeping[CLASSES];

static const struct orr_block_class *real_of(const struct orr_block_class *cls)
{
    return real[cls - keeping];
}

static const struct orr_block *block_of(const void *config)
{
    int l = 0;

    while (model->block[l]->config != config)
        l++;
    return model->block[l];
}

/* A shard has copies of its part of what is split, and none of what all shards share. */
static size_t bytes_of(const struct orr_view *view, int shards, int shard, enum orr_dtype dtype)
{
    struct orr_view part = orr_view_shard(view, shards, shard);

    return view->ndim == 2 && (shards == 1 || view->split >= 0) ? (size_t)orri_view_count(&part) * orr_dtype_size(dtype) : 0;
}

static size_t kept_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_block *block = block_of(config);
    size_t bytes = 0;

    for (int g = 0; g < block->spec.groups; g++)
        for (int v = 0; v < block->group[g]->views; v++)
            bytes += bytes_of(&block->group[g]->view[v], shape->shards, 0, shape->dtype);
    return bytes;
}

struct source {
    const void *values;
    size_t bytes;
};

static void fill(void *argument, void *copy)
{
    const struct source *source = argument;

    atomic_fetch_add(&filled, (long long)source->bytes);
    memcpy(copy, source->values, source->bytes);
}

static void look(const struct orr_operands *o, const struct orr_block *block, int g, int v)
{
    const int key[] = {block->index, v};
    struct source source = {o->param[g][v], bytes_of(&block->group[g]->view[v], o->shards, o->shard, o->dtype)};

    if (source.bytes == 0 || o->version[g] == 0)
        return;
    const void *copy = orri_kept(source.values, o->version[g], key, sizeof(key), source.bytes, fill, &source);
    atomic_fetch_add(&old, !copy || memcmp(copy, source.values, source.bytes) != 0);
}

static void run(const struct orr_operands *o, enum orr_pass pass)
{
    const struct orr_block *block = block_of(o->config);
    struct orr_operands plain = *o;

    for (int g = 0; g < block->spec.groups; g++) {
        bool kept = o->version[g] != 0, reads = false;
        for (int v = 0; v < block->group[g]->views; v++) {
            reads = reads || o->param[g][v];
            if (o->param[g][v])
                look(o, block, g, v);
        }
        atomic_fetch_add(&unkept, reads && !kept && o->training && model->mesh.zero != 3);
        atomic_fetch_add(&unwanted, kept && (!reads || !o->training || model->mesh.zero == 3));
    }
    /* Without copies of its own, which would be counted too. */
    memset(plain.version, 0, sizeof(plain.version));
    real_of(block->cls)->cpu[pass](&plain);
}

static void forward(const struct orr_operands *o) { run(o, ORR_FORWARD); }
static void backward(const struct orr_operands *o) { run(o, ORR_BACKWARD); }
static void weights(const struct orr_operands *o) { run(o, ORR_WEIGHTS); }
static void whole(const struct orr_operands *o) { run(o, ORR_WHOLE); }
static void chunk_forward(const struct orr_operands *o) { run(o, ORR_CHUNK_FORWARD); }
static void shard_forward(const struct orr_operands *o) { run(o, ORR_SHARD_FORWARD); }
static void chunk_join(const struct orr_operands *o) { run(o, ORR_CHUNK_JOIN); }
static void shard_backward(const struct orr_operands *o) { run(o, ORR_SHARD_BACKWARD); }
static void shard_weights(const struct orr_operands *o) { run(o, ORR_SHARD_WEIGHTS); }
static void chunk_backward(const struct orr_operands *o) { run(o, ORR_CHUNK_BACKWARD); }

static void (*const passes[ORR_PASSES])(const struct orr_operands *o) = {
    [ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights, [ORR_WHOLE] = whole,
    [ORR_CHUNK_FORWARD] = chunk_forward, [ORR_SHARD_FORWARD] = shard_forward, [ORR_CHUNK_JOIN] = chunk_join,
    [ORR_SHARD_BACKWARD] = shard_backward, [ORR_SHARD_WEIGHTS] = shard_weights, [ORR_CHUNK_BACKWARD] = chunk_backward};

static const struct orr_block_class *keeping_of(const struct orr_block_class *cls)
{
    int i = 0;

    while (real[i] && real[i] != cls)
        i++;
    if (real[i])
        return &keeping[i];
    real[i] = cls;
    keeping[i] = *cls;
    keeping[i].kept_bytes = kept_bytes;
    memset(keeping[i].cuda, 0, sizeof(keeping[i].cuda));
    for (int pass = 0; pass < ORR_PASSES; pass++)
        keeping[i].cpu[pass] = cls->cpu[pass] ? passes[pass] : NULL;
    return &keeping[i];
}

/* ---- a run ------------------------------------------------------------------------------------------------------------- */

struct manner {
    struct orr_mesh mesh;
    enum orr_dtype dtype;
    bool masterless;
    struct orr_training_options options;
};

static struct orr_model *real_model(const struct orr_mesh *mesh)
{
    const struct orr_embedding embedding = {.vocab = V, .positions = T, .width = C, .std = 0.1f};
    const struct orr_attention attention = {.width = C, .heads = H, .eps = 1e-5f, .std = 0.1f, .projection_std = 0.1f};
    const struct orr_mlp mlp = {.width = C, .hidden = 4 * C, .eps = 1e-5f, .std = 0.1f, .projection_std = 0.1f};
    const struct orr_head head = {.vocab = V, .width = C, .eps = 1e-5f};
    struct orr_model *m = orr_model_create(mesh);

    ck_assert_msg(m != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_embedding(m, &embedding), 0);
    for (int l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(orr_attention(m, l, &attention), 0);
        ck_assert_int_eq(orr_mlp(m, l, &mlp), 0);
    }
    ck_assert_int_eq(orr_head(m, &head, orr_model_block(m, 0)), 0);
    return m;
}

/* The head is tied. */
static void make_model(const struct manner *m)
{
    struct orr_model *like = real_model(&m->mesh);
    struct orr_block *last = NULL;

    model = orr_model_create(&m->mesh);
    ck_assert_int_eq(orr_model_set_dtype(model, m->dtype), 0);
    for (int l = 0; l < like->blocks; l++)
        last = orr_block_append(model, keeping_of(like->block[l]->cls), like->block[l]->layer, like->block[l]->config);
    ck_assert_int_eq(orr_block_share(last, 1, model->block[0], 0), 0);
    ck_assert_msg(orr_model_build(model, NULL, 0) == 0, "%s", orr_error());
    if (m->masterless)
        ck_assert_int_eq(orr_model_drop_masters(model), 0);
    orr_model_destroy(like);
}

static int vocab = V;
static const struct orr_source source = {read_counting, &vocab};

/* Since the last call every copy was made `times` times, and passes saw none that was not of the parameters as they were. */
static void check_passes(int times)
{
    ck_assert_int_eq(atomic_load(&old), 0);
    ck_assert_int_eq(atomic_load(&unkept), 0);
    ck_assert_int_eq(atomic_load(&unwanted), 0);
    ck_assert_int_eq(atomic_exchange(&filled, 0), times * (long long)orri_kept_bytes());
}

static void take_steps(struct orr_training *t, int steps)
{
    struct orr_step report;

    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_submit(t, &source) == 0, "%s", orr_error());
    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_next(t, &report, true) == 1, "%s", orr_error());
}

/* A step that leaves the parameters, and with them the copies, as they are. */
static void take_gradients(struct orr_training *t)
{
    struct orr_step report;

    ck_assert_msg(orr_training_gradients(t, &source, &report) == 0, "%s", orr_error());
}

/* Where replicas have parameters of their own, they go on from those that were set. */
static void go_on(struct orr_training *t)
{
    ck_assert_int_eq(orr_training_resume(t, orr_training_steps(t), orr_training_samples(t)), 0);
}

static void change_parameters(struct orr_training *t)
{
    float values[4 * C * C];

    for (int index = 0; index < orr_model_parameter_count(model); index++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, index, &info);
        ck_assert_int_le(info.count, 4 * C * C);
        ck_assert_int_eq(orr_model_read(model, index, values), 0);
        for (int64_t i = 0; i < info.count; i++)
            values[i] += 0.25f;
        ck_assert_int_eq(orr_model_write(model, index, values), 0);
    }
    go_on(t);
}

static void evaluate(void)
{
    struct orr_evaluation *e = orr_evaluation_create(model, 2, T);
    struct orr_result result;

    ck_assert_int_eq(orr_evaluation_run(e, &source, 4, &result), 0);
    orr_evaluation_destroy(e);
}

static void check_run(struct orr_training *t)
{
    take_steps(t, STEPS);
    check_passes(STEPS);
    evaluate();
    check_passes(0);
    take_gradients(t);
    check_passes(1);
    take_gradients(t);
    check_passes(0);
    change_parameters(t);
    take_gradients(t);
    check_passes(1);
    ck_assert_int_eq(orr_model_randomize(model, 2), 0);
    go_on(t);
    take_gradients(t);
    check_passes(1);
    take_steps(t, 2);       /* the first finds the copies there */
    check_passes(1);
}

static void check(struct manner m)
{
    struct orr_memory_need need;

    m.mesh.ranks = orr_rank_count();
    m.options.batch = BATCH;
    m.options.micro_batch = 1;
    m.options.seq = T;
    m.options.optimizer = orr_optimizer_default(ORR_ADAM);
    m.options.schedule = (struct orr_schedule){ORR_SCHEDULE_CONSTANT, 0.01, 0, 0, 0};
    make_model(&m);
    ck_assert_msg(orr_training_memory(model, &m.options, orr_rank(), &need) == 0, "%s", orr_error());
    ck_assert((need.kept == 0) == (m.mesh.zero == 3));
    ck_assert_int_eq(orr_model_randomize(model, 1), 0);
    struct orr_training *t = orr_training_create(model, &m.options);
    ck_assert_msg(t != NULL, "%s", orr_error());
    check_run(t);
    ck_assert_msg(need.kept == (int64_t)orri_kept_bytes(), "%lld bytes were foretold, %zu are kept", (long long)need.kept,
                  orri_kept_bytes());
    orr_training_destroy(t);
    orr_model_destroy(model);
    ck_assert_uint_eq(orri_kept_bytes(), 0);
}

/* ---- manners ------------------------------------------------------------------------------------------------------------ */

static const struct orr_mesh meshes[] = {
    MESH(1, 1, 1), MESH(2, 1, 1), MESH(1, 2, 1), MESH(1, 1, 2), MESH(4, 1, 1), MESH(2, 2, 1), MESH(2, 2, 2),
    {.dp = 1, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true},
    {.dp = 2, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true},
    {.dp = 1, .pp = 2, .tp = 1, .ranks = 1, .stages = 4},
};

/* Ranks have one coordinate each, or two replicas. */
static bool suits(const struct orr_mesh *mesh)
{
    int size = mesh->dp * mesh->pp * mesh->tp, ranks = orr_rank_count();

    return ranks == 1 || size == ranks || (size == 2 * ranks && mesh->dp == size);
}

static void check_all(struct manner m, int zero)
{
    for (size_t i = 0; i < ORRI_COUNT(meshes); i++) {
        m.mesh = meshes[i];
        m.mesh.zero = zero;
        if (suits(&m.mesh))
            check(m);
    }
}

static const enum orr_dtype dtypes[] = {ORR_F32, ORR_BF16, ORR_F16};

START_TEST(test_gradients_in_common)
{
    check_all((struct manner){.dtype = dtypes[_i]}, 1);
    check_all((struct manner){.dtype = dtypes[_i], .options.slots = {ORR_SLOTS_1F1B, 0}}, 1);
}
END_TEST

START_TEST(test_lent_parameters)
{
    check_all((struct manner){.dtype = dtypes[_i]}, 3);
}
END_TEST

START_TEST(test_without_masters)
{
    check_all((struct manner){.dtype = ORR_BF16, .masterless = true}, 1);
}
END_TEST

START_TEST(test_parameters_in_common)
{
    check_all((struct manner){.dtype = dtypes[_i], .options = {.sync = ORR_SYNC_PARAMETERS, .sync_every = 2}}, 1);
}
END_TEST

START_TEST(test_stale_parameters)
{
    check_all((struct manner){.dtype = dtypes[_i], .options = {.staleness = 2}}, 1);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("copies");
    TCase *c = tcase_create("copies");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_gradients_in_common, 0, 3);
    tcase_add_loop_test(c, test_lent_parameters, 0, 2);
    tcase_add_test(c, test_without_masters);
    tcase_add_loop_test(c, test_parameters_in_common, 0, 2);
    tcase_add_loop_test(c, test_stale_parameters, 0, 2);
    suite_add_tcase(s, c);
    return s;
}
