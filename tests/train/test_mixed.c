/* SPDX-License-Identifier: Apache-2.0 */
/* Training in bf16 and fp16: what blocks read is what the masters round to, wherever it comes from. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "files.h"
#include "meshes.h"
#include "train/small_gpt.h"
#include "train/train.h"

/* ---- what blocks read ---------------------------------------------------------------------------------------- */

static void expect_rounded(enum orr_dtype dtype, struct orr_tile *exact, struct orr_tile *rounded, const char *what)
{
    size_t count = (size_t)exact->count;
    uint16_t *expected = malloc(count * sizeof(*expected));

    ck_assert(rounded->dtype == dtype && rounded->count == exact->count && exact->dtype == ORR_F32);
    orri_round(dtype, count, orr_tile_acquire(exact, false), expected);
    orr_tile_release(exact);
    ck_assert_msg(memcmp(orr_tile_acquire(rounded, false), expected, count * sizeof(*expected)) == 0, "%s are not rounded", what);
    orr_tile_release(rounded);
    free(expected);
}

static void check_rounded(struct orr_model *model)
{
    for (int p = 0; p < model->parameters; p++) {
        struct orri_parameter *parameter = model->parameter[p];
        expect_rounded(model->dtype, &parameter->value, &parameter->working, "parameters");
        for (int r = 0; parameter->own && r < model->mesh.dp; r++)
            expect_rounded(model->dtype, &parameter->own[r], &parameter->own_working[r], "a replica's parameters");
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static float *logits_of(struct orr_model *model, size_t *bytes)
{
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, POSITIONS);
    int32_t tokens[SEQ], labels[SEQ];
    *bytes = SEQ * VOCAB * sizeof(float);
    float *logits = malloc(*bytes);

    read_samples(NULL, 0, 1, SEQ, (int32_t *const[ORR_FIELDS]){tokens, labels});
    ck_assert_msg(orr_predict(predictor, tokens, SEQ, SEQ, logits, NULL) == 0, "%s", orr_error());
    orr_predictor_destroy(predictor);
    return logits;
}

/* A model that was saved in a narrow dtype: any model that reads it has the rounded parameters, and one that computes in this
 * dtype notices nothing. */
START_TEST(test_narrow_files)
{
    for (int dtype = ORR_BF16; dtype <= ORR_F16; dtype++) {
        struct setup s = usual();
        s.dtype = (enum orr_dtype)dtype;
        struct orr_model *model = create_model(&s);
        struct values values = read_values(model);
        size_t bytes;
        float *logits = logits_of(model, &bytes);
        ck_assert_msg(orr_weights_save(model, folder, s.dtype) == 0, "%s", orr_error());
        struct orr_safetensors *file = orr_safetensors_open(at("model.safetensors"));
        ck_assert_int_eq(orr_safetensors_get(file, 0)->dtype, dtype);
        orr_safetensors_destroy(file);
        orr_model_destroy(model);

        uint16_t *rounded = malloc((size_t)values.count * sizeof(*rounded));
        orri_round(s.dtype, (size_t)values.count, values.at, rounded);
        orri_widen(s.dtype, (size_t)values.count, rounded, values.at);
        for (int reader = ORR_F32; reader <= ORR_F16; reader++) {
            s.dtype = (enum orr_dtype)reader;
            s.mesh = (struct orr_mesh)MESH(1, 2, 2);
            model = create_model(&s);
            ck_assert_msg(orr_weights_load(model, folder) == 0, "%s", orr_error());
            struct values found = read_values(model);
            ck_assert_msg(same_values(found, values), "%s reads other parameters", orr_dtype_label(s.dtype));
            free(found.at);
            orr_model_destroy(model);
        }
        s.dtype = (enum orr_dtype)dtype;
        s.mesh = usual().mesh;
        model = create_model(&s);
        ck_assert_int_eq(orr_weights_load(model, folder), 0);
        check_rounded(model);
        float *again = logits_of(model, &bytes);
        ck_assert_msg(memcmp(again, logits, bytes) == 0, "the logits differ in %s", orr_dtype_label(s.dtype));
        orr_model_destroy(model);
        free(rounded);
        free(values.at);
        free(logits);
        free(again);
    }
}
END_TEST

/* A parameter that is written reaches the blocks. */
START_TEST(test_writing)
{
    struct setup s = usual();
    s.dtype = ORR_BF16;
    s.mesh = (struct orr_mesh)MESH(2, 1, 2);
    struct orr_model *model = create_model(&s);
    struct orr_parameter_info info;

    for (int i = 0; i < orr_model_parameter_count(model); i++) {
        orr_model_parameter(model, i, &info);
        float *values = malloc((size_t)info.count * sizeof(*values)), *again = malloc((size_t)info.count * sizeof(*values));
        for (int64_t k = 0; k < info.count; k++)
            values[k] = 1 + 0.001f * (float)k;
        ck_assert_int_eq(orr_model_write(model, i, values), 0);
        ck_assert_int_eq(orr_model_read(model, i, again), 0);
        ck_assert_mem_eq(again, values, (size_t)info.count * sizeof(*values));
        free(values);
        free(again);
    }
    check_rounded(model);
    orr_model_destroy(model);
}
END_TEST

/* ---- models that are run forward only ---------------------------------------------------------------------------- */

static struct orr_model *frozen_model(const struct setup *s)
{
    struct orr_gpt2 gpt = gpt_of(s);
    struct orr_model *model = orr_gpt2_create(&gpt, &s->mesh);

    ck_assert_msg(model != NULL && orr_model_freeze(model) == 0, "%s", orr_error());
    return model;
}

/* What it computes is what it would with masters, drawn or loaded, in any layout; but it has none. */
START_TEST(test_frozen)
{
    static const struct orr_mesh meshes[] = {
        MESH(1, 1, 1), MESH(2, 2, 1), {.dp = 2, .pp = 1, .tp = 2, .ranks = 1, .sequence_parallel = true, .zero = 3}};

    for (int i = 0; i < 9; i++) {
        struct setup s = usual();
        size_t bytes;
        s.mesh = meshes[i / 3];
        s.dtype = (enum orr_dtype)(i % 3);
        struct orr_model *model = create_model(&s), *frozen = frozen_model(&s);
        float *expected = logits_of(model, &bytes);
        struct values values = read_values(model);
        ck_assert_msg(orr_weights_save(model, folder, ORR_F32) == 0, "%s", orr_error());
        uint16_t *rounded = malloc((size_t)values.count * sizeof(float));
        orri_round(s.dtype, (size_t)values.count, values.at, rounded);
        orri_widen(s.dtype, (size_t)values.count, rounded, values.at);
        for (int loaded = 0; loaded < 2; loaded++) {
            ck_assert_msg((loaded ? orr_weights_load(frozen, folder) : orr_model_randomize(frozen, 3)) == 0, "%s", orr_error());
            float *found = logits_of(frozen, &bytes);
            ck_assert_msg(memcmp(found, expected, bytes) == 0, "mesh %d: other logits in %s", i / 3, orr_dtype_label(s.dtype));
            struct values again = read_values(frozen);
            ck_assert_msg(same_values(again, values), "mesh %d: the parameters differ in %s", i / 3, orr_dtype_label(s.dtype));
            free(found);
            free(again.at);
        }
        for (int p = 0; p < frozen->parameters; p++) {
            const struct orri_parameter *parameter = frozen->parameter[p];
            ck_assert(parameter->value.dtype == s.dtype && !parameter->working.handle);
        }
        orr_model_destroy(model);
        orr_model_destroy(frozen);
        free(rounded);
        free(expected);
        free(values.at);
    }
}
END_TEST

/* Each element follows from the seed, the parameter's number and its own. */
START_TEST(test_drawing)
{
    enum { COUNT = 4 * WIDTH * WIDTH };
    static float drawn[COUNT], found[COUNT];
    static uint16_t rounded[COUNT];

    for (int i = 0; i < 4; i++) {
        struct setup s = usual();
        s.dtype = i % 2 ? ORR_F16 : ORR_F32;
        struct orr_model *model = i < 2 ? create_model(&s) : frozen_model(&s);
        int index = orr_model_find(model, "transformer.h.1.mlp.c_fc.weight");
        struct orr_rng rng = {3, (uint32_t)index, UINT32_MAX};
        orr_rng_normal(&rng, 0, COUNT, 0, 0.1f, drawn);
        if (i == 3) {
            orri_round(ORR_F16, COUNT, drawn, rounded);
            orri_widen(ORR_F16, COUNT, rounded, drawn);
        }
        ck_assert_int_eq(orr_model_randomize(model, 3), 0);
        ck_assert_int_eq(orr_model_read(model, index, found), 0);
        ck_assert_mem_eq(found, drawn, sizeof(drawn));
        orr_model_destroy(model);
    }
}
END_TEST

START_TEST(test_frozen_errors)
{
    for (int dtype = ORR_F32; dtype <= ORR_BF16; dtype++) {
        struct setup s = usual();
        struct orr_memory_need need;
        s.dtype = (enum orr_dtype)dtype;
        s.options.micro_batch = 1;
        struct orr_model *model = frozen_model(&s);
        ck_assert_ptr_null(orr_training_create(model, &s.options));
        expect_error(ORR_EINVAL, "train", "the model is frozen");
        ck_assert_int_eq(orr_training_memory(model, &s.options, 0, &need), ORR_EINVAL);
        ck_assert_int_eq(orr_model_randomize(model, 1), 0);
        ck_assert_ptr_null(orr_training_create(model, &s.options));
        ck_assert_int_eq(orr_weights_save(model, folder, ORR_F32), ORR_EINVAL);
        expect_error(ORR_EINVAL, "model", "it is frozen");
        ck_assert_int_eq(orr_weights_save(model, folder, ORR_I32), ORR_EINVAL);
        ck_assert_int_eq(entries(folder), 0);
        ck_assert_int_eq(orr_model_freeze(model), ORR_EINVAL);
        orr_model_destroy(model);

        /* What is written is rounded. */
        model = frozen_model(&s);
        float one[WIDTH], again[WIDTH];
        for (int k = 0; k < WIDTH; k++)
            one[k] = 1 + 0x1p-20f;
        int index = orr_model_find(model, "transformer.ln_f.weight");
        ck_assert_int_eq(orr_model_write(model, index, one), 0);
        ck_assert_int_eq(orr_model_read(model, index, again), 0);
        ck_assert(again[WIDTH - 1] == (dtype == ORR_F32 ? one[0] : 1));
        orr_model_destroy(model);

        /* Too late. */
        model = create_model(&s);
        ck_assert_int_eq(orr_model_freeze(model), ORR_EINVAL);
        expect_error(ORR_EINVAL, "model", "before it has parameters");
        s.options.checkpoint_dtype = ORR_I32;
        ck_assert_ptr_null(orr_training_create(model, &s.options));
        expect_error(ORR_EINVAL, "train", "parameters are not saved in I32");
        orr_model_destroy(model);
    }
}
END_TEST

/* ---- replicas with parameters of their own ------------------------------------------------------------------------ */

/* Losses and parameters of a run after which the replicas have been made equal. */
static struct result train_checked(struct setup s, const struct orr_source *source, int steps)
{
    struct orr_model *model;
    struct orr_training *training = start_over(&s, &model);
    struct result r = {0};

    take_steps(training, source, steps, r.loss);
    if (model->dtype != ORR_F32)
        check_rounded(model);
    ck_assert_int_eq(orr_training_synchronise(training), 0);
    if (model->dtype != ORR_F32)
        check_rounded(model);
    r.values = read_values(model);
    finish_training(training, model);
    return r;
}

static double loss_distance(struct result a, struct result b, int steps)
{
    double most = 0;

    for (int step = 0; step < steps; step++)
        most = fmax(most, fabs(a.loss[step] - b.loss[step]));
    return most;
}

/* The mean of replicas behind one step of plain SGD each is what a step of all would have been. */
START_TEST(test_local_sgd_of_one_step)
{
    enum { N = 8 };
    struct setup s = usual();
    s.options.optimizer = (struct orr_optimizer){.kind = ORR_SGD};
    s.options.schedule = (struct orr_schedule){.kind = ORR_SCHEDULE_CONSTANT, .lr = 0.3};
    struct result exact = train_checked(s, &samples, N);
    s.dtype = ORR_BF16;
    struct result serial = train_checked(s, &samples, N);
    s.mesh.dp = 2;
    s.options.sync = ORR_SYNC_PARAMETERS;
    struct result local = train_checked(s, &samples, N);

    /* Roundings of its own, as of a run with replicas: tests/mpi/equivalence.c. */
    double most = 4 * values_distance(serial.values, exact.values), most_loss = 4 * loss_distance(serial, exact, N);
    ck_assert(most > 0 && most_loss > 0);
    ck_assert_msg(values_distance(local.values, serial.values) <= most, "%g away, more than %g",
                  values_distance(local.values, serial.values), most);
    ck_assert_msg(loss_distance(local, serial, N) <= most_loss, "%g away, more than %g", loss_distance(local, serial, N),
                  most_loss);
    free(exact.values.at);
    free(serial.values.at);
    free(local.values.at);
}
END_TEST

/* The mean every three steps; and an outer step, of which stages change nothing. */
START_TEST(test_local_sgd)
{
    enum { N = 11 };
    struct setup s = usual();
    struct result exact[2], mixed[2];

    for (int dtype = ORR_F32; dtype <= ORR_BF16; dtype++) {
        s.dtype = (enum orr_dtype)dtype;
        s.mesh = usual().mesh;
        s.options.sync = ORR_SYNC_GRADIENTS;
        (dtype == ORR_F32 ? exact : mixed)[0] = train_checked(s, &samples, N);
        s.mesh.dp = 2;
        s.options.sync = ORR_SYNC_PARAMETERS;
        s.options.sync_every = 3;
        (dtype == ORR_F32 ? exact : mixed)[1] = train_checked(s, &samples, N);
    }
    /* As far from fp32 as the run with gradients in common; one run against another: twice as far. */
    double found = loss_distance(mixed[1], exact[1], N), most = 2 * loss_distance(mixed[0], exact[0], N);
     ck_assert_msg(found > 0 && found <= most, "%g away, more than %g", found, most);
    s.options.outer_lr = 0.7;
    s.options.outer_momentum = 0.9;
    struct result outer = train_checked(s, &samples, N);
    s.mesh.pp = 3;
    struct result stages = train_checked(s, &samples, N);
    ck_assert(same_values(stages.values, outer.values) && !same_values(outer.values, mixed[1].values));
    for (int i = 0; i < 2; i++) {
        free(exact[i].values.at);
        free(mixed[i].values.at);
    }
    free(outer.values.at);
    free(stages.values.at);
}
END_TEST

/* No two runs are equal, but each learns as one in fp32 does. */
START_TEST(test_staleness)
{
    static const struct orr_mesh meshes[] = {MESH(2, 1, 1), MESH(2, 2, 1), MESH(4, 1, 2)};

    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++) {
        double last[2];
        for (int dtype = ORR_F32; dtype <= ORR_BF16; dtype++) {
            struct setup s = usual();
            s.dtype = (enum orr_dtype)dtype;
            s.mesh = meshes[m];
            s.options.staleness = 1 + (int)m;
            s.options.schedule = (struct orr_schedule){ORR_SCHEDULE_COSINE, 3e-3, 3e-4, 5, 60};
            struct orr_model *model;
            struct orr_training *training = start_over(&s, &model);
            double loss[60];
            take_steps(training, &same_batch, 60, loss);
            ck_assert_int_eq(orr_training_synchronise(training), 0);
            if (dtype == ORR_BF16)
                check_rounded(model);
            last[dtype] = loss[59] / loss[0];
            finish_training(training, model);
        }
        ck_assert_msg(last[ORR_F32] < 0.2 && last[ORR_BF16] < 0.2, "mesh %zu: from 1 to %g in fp32, to %g in bf16", m,
                      last[ORR_F32], last[ORR_BF16]);
    }
}
END_TEST

static void start(void)
{
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 4}) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("mixed");
    TCase *c = tcase_create("mixed");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_add_checked_fixture(c, files_setup, files_teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_narrow_files);
    tcase_add_test(c, test_writing);
    tcase_add_test(c, test_frozen);
    tcase_add_test(c, test_drawing);
    tcase_add_test(c, test_frozen_errors);
    tcase_add_test(c, test_local_sgd_of_one_step);
    tcase_add_test(c, test_local_sgd);
    tcase_add_test(c, test_staleness);
    suite_add_tcase(s, c);
    return s;
}
