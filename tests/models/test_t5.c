/* SPDX-License-Identifier: Apache-2.0 */
/* T5 beyond what transformers computed: gradients through all of its dropout against finite differences, layouts, dtypes, texts that
 * grow from a source, and what is refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <models/t5.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

enum { BATCH = 4, SEQ = 21, VOCAB = 31 };

static const struct orr_mesh one = MESH(1, 1, 1);

static struct orr_model *make(const struct orr_mesh *mesh, enum orr_dtype dtype)
{
    static const char *const keys[] = {"d_model=14", "d_kv=5", "d_ff=23", "num_heads=3", "vocab_size=31", "num_layers=2",
                                       "num_decoder_layers=2", "feed_forward_proj=gated-gelu", "dropout_rate=0.2",
                                       "relative_attention_num_buckets=8", "relative_attention_max_distance=11"};
    struct orr_config *config = orr_t5_preset("tiny-t5");
    struct orr_t5 t5;

    ck_assert_ptr_nonnull(config);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        ck_assert_msg(orr_config_set(config, keys[i]) == 0, "%s", orr_error());
    ck_assert_msg(orr_t5_read(config, &t5) == 0, "%s", orr_error());
    t5.dtype = dtype;
    struct orr_model *model = orr_t5_create(&t5, mesh);
    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_model_randomize(model, 5), 0);
    orr_config_destroy(config);
    return model;
}

/* Two texts to a row, of lengths that change, whose sources are of others; then padding, of which not every source row has some. */
static void read_rows(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    (void)self;
    for (int b = 0; b < count; b++) {
        int number = (int)first + b, cut = 5 + number % 7, end = seq - number % 3, source_cut = 12 - number % 5;
        for (int t = 0; t < seq; t++) {
            int at = b * seq + t;
            field[ORR_FIELD_TOKENS][at] = (number * 11 + t * t * 7) % VOCAB;
            field[ORR_FIELD_LABELS][at] = t < end ? (number * 5 + t * 3) % VOCAB : ORR_IGNORE;
            field[ORR_FIELD_PLACES][at] = t < cut ? t : t < end ? t - cut : t - end;
            field[ORR_FIELD_SOURCE][at] = (number * 3 + t * 13) % VOCAB;
            field[ORR_FIELD_SOURCE_PLACES][at] = t < source_cut ? t : t - source_cut;
        }
    }
}

static double loss_of(struct orr_model *m, int micro_batch, const char *slots, int index, float *gradient)
{
    struct orr_training_options options = {.batch = BATCH, .micro_batch = micro_batch, .seq = SEQ, .optimizer = {.kind = ORR_SGD},
                                           .seed = 3};
    struct orr_source source = {read_rows, NULL};
    struct orr_step report;

    ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    struct orr_training *t = orr_training_create(m, &options);
    ck_assert_msg(t && orr_training_gradients(t, &source, &report) == 0, "%s", orr_error());
    if (gradient)
        ck_assert_int_eq(orr_training_read_gradient(t, index, gradient), 0);
    orr_training_destroy(t);
    return report.loss;
}

static const char *const watched[] = {
    "shared.weight",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.1.layer.0.SelfAttention.v.weight",
    "encoder.block.1.layer.1.DenseReluDense.wi_0.weight",
    "encoder.final_layer_norm.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder.block.0.layer.1.EncDecAttention.q.weight",
    "decoder.block.1.layer.1.EncDecAttention.k.weight",
    "decoder.block.1.layer.1.EncDecAttention.v.weight",
    "decoder.block.0.layer.1.EncDecAttention.o.weight",
    "decoder.block.0.layer.1.layer_norm.weight",
    "decoder.block.1.layer.2.DenseReluDense.wo.weight",
    "decoder.final_layer_norm.weight",
};
enum { WATCHED = (int)(sizeof(watched) / sizeof(watched[0])), MOST = 31 * 23 };

/* The masks of dropout are the same each time: the loss is a smooth function of the parameters. */
START_TEST(finite_differences)
{
    struct orr_model *m = make(&one, ORR_F32);
    float values[MOST], gradient[MOST];
    struct orr_parameter_info info;
    int index = orr_model_find(m, watched[_i]), checked = 0;

    ck_assert_int_ge(index, 0);
    orr_model_parameter(m, index, &info);
    ck_assert_int_le(info.count, MOST);
    loss_of(m, 2, "1", index, gradient);
    ck_assert_int_eq(orr_model_read(m, index, values), 0);
    double most = 0;
    for (int j = 0; j < info.count; j++)
        most = fmax(most, fabs((double)gradient[j]));
    ck_assert_double_gt(most, 1e-4);
    for (int j = 0; j < info.count; j += (int)info.count / 7 + 1, checked++) {
        const float here = values[j], step = 0.01f;
        double loss[2];
        for (int side = 0; side < 2; side++) {
            values[j] = here + (side ? step : -step);
            ck_assert_int_eq(orr_model_write(m, index, values), 0);
            loss[side] = loss_of(m, 2, "1", index, NULL);
        }
        values[j] = here;
        ck_assert_int_eq(orr_model_write(m, index, values), 0);
        ck_assert_msg(fabs((double)gradient[j] - (loss[1] - loss[0]) / (2 * (double)step)) < 0.01 * most + 5e-5,
                      "%s[%d]: %g, not %g", watched[_i], j, (double)gradient[j], (loss[1] - loss[0]) / (2 * (double)step));
    }
    ck_assert_int_ge(checked, 4);
    orr_model_destroy(m);
}
END_TEST

/* Dropout included the numbers are those of one stage, replica and microbatch size, but for the order of sums. */
START_TEST(layouts)
{
    static const struct {
        struct orr_mesh mesh;
        int micro_batch;
        const char *slots;
    } layout[] = {{MESH(1, 1, 1), 1, "h1"}, {MESH(2, 1, 1), 2, "1f1b"}, {MESH(1, 4, 1), 1, "zb"}, {MESH(2, 3, 1), 1, "3"},
                  {MESH(1, 5, 1), 2, "gpipe"}};

    for (int n = 0; n < WATCHED; n++) {
        float wanted[MOST], found[MOST];
        struct orr_parameter_info info;
        struct orr_model *m = make(&one, ORR_F32);
        int index = orr_model_find(m, watched[n]);
        double loss = loss_of(m, 2, "gpipe", index, wanted), most = 0;
        orr_model_parameter(m, index, &info);
        for (int j = 0; j < info.count; j++)
            most = fmax(most, fabs((double)wanted[j]));
        orr_model_destroy(m);
        m = make(&layout[_i].mesh, ORR_F32);
        ck_assert_double_eq_tol(loss_of(m, layout[_i].micro_batch, layout[_i].slots, index, found), loss, 1e-6);
        orr_model_parameter(m, index, &info);
        for (int j = 0; j < info.count; j++)
            ck_assert_msg(fabs((double)found[j] - (double)wanted[j]) < 1e-5 * most, "%s[%d]", watched[n], j);
        orr_model_destroy(m);
    }
}
END_TEST

/* Twice the same bits. */
START_TEST(again)
{
    float first[MOST], second[MOST];
    struct orr_model *m = make(&one, ORR_F32);
    int index = orr_model_find(m, watched[2]);

    loss_of(m, 1, "2", index, first);
    loss_of(m, 1, "2", index, second);
    ck_assert_mem_eq(first, second, 8 * 3 * sizeof(float));
    orr_model_destroy(m);
}
END_TEST

START_TEST(half_precision)
{
    struct orr_model *m = make(&one, ORR_F32), *half = make(&one, ORR_BF16);
    double loss = loss_of(m, 2, "1", 0, NULL);

    ck_assert_double_eq_tol(loss_of(half, 2, "1", 0, NULL), loss, 0.02 * loss);
    orr_model_destroy(m);
    orr_model_destroy(half);
}
END_TEST

/* Token after token, as transformers chooses them. */
START_TEST(generated)
{
    static const char *const models[] = {"t5", "t5-gated"};
    struct golden g;

    golden_open(&g, models[_i]);
    struct orr_model *model = golden_model(&g, &one);
    struct orr_predictor *predictor = orr_predictor_create(model, g.hyper.vocab, g.hyper.width, 64);
    for (size_t i = 0; i < 3; i++) {
        char name[32];
        int32_t tokens[64] = {0};
        struct orr_sequence sequence = {tokens, 1, false};
        struct orr_sampling sampling = {.temperature = 0, .top_p = 1};
        int64_t count;
        snprintf(name, sizeof(name), "generated.%zu", i);
        float *wanted = golden_values(g.file, name, &count);
        golden_source(&g, predictor, i);
        ck_assert_msg(orr_generate(predictor, &sequence, 1, (int)count, -1, &sampling, NULL, NULL) == 0, "%s", orr_error());
        ck_assert_int_eq(sequence.count, count + 1);
        for (int t = 0; t < count; t++)
            ck_assert_msg(tokens[t + 1] == (int32_t)wanted[t], "%s %s[%d]: %d, not %d", models[_i], name, t, tokens[t + 1],
                          (int)wanted[t]);
        free(wanted);
    }
    ck_assert_int_eq(orr_predictor_continue(predictor, 2, 1), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "predict: sequences of a model with an encoder cannot be continued");
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
    golden_close(&g);
}
END_TEST

static void expect(const char *key, const char *message)
{
    struct orr_config *config = orr_t5_preset("tiny-t5");
    struct orr_t5 t5;

    ck_assert_int_eq(orr_config_set(config, key), 0);
    ck_assert_int_eq(orr_t5_read(config, &t5), ORR_EFORMAT);
    ck_assert_msg(strstr(orr_error(), message) != NULL, "%s: %s", key, orr_error());
    orr_config_destroy(config);
}

START_TEST(refusals)
{
    struct orr_mesh two = MESH(1, 1, 2);
    struct orr_config *config = orr_t5_preset("tiny-t5");
    struct orr_t5 t5;

    ck_assert_int_eq(orr_t5_read(config, &t5), 0);
    ck_assert_ptr_null(orr_t5_create(&t5, &two));
    ck_assert_msg(strstr(orr_error(), "cannot be cut into shards") != NULL, "%s", orr_error());
    orr_config_destroy(config);
    expect("feed_forward_proj=gated-sine", "feed_forward_proj 'gated-sine' is not supported");
    expect("relative_attention_num_buckets=7", "relative_attention_num_buckets 7 is not an even number from 4 on");
    expect("relative_attention_max_distance=16", "relative_attention_max_distance 16 is not above 16, half of the buckets");
    expect("is_encoder_decoder=false", "is_encoder_decoder false is not supported");
    expect("decoder_start_token_id=256", "decoder_start_token_id");
    expect("d_kv=257", "d_kv 257 is not supported");
    expect("num_decoder_layers=0", "num_decoder_layers");
}
END_TEST

/* As many parameters as the models that were published have. */
START_TEST(presets)
{
    static const struct {
        const char *name;
        int64_t size;
    } preset[] = {{"t5-small", 60506624}, {"t5-v1_1-small", 76961152}};

    for (int i = 0; i < 2; i++) {
        struct orr_config *config = orr_t5_preset(preset[i].name);
        struct orr_t5 t5;
        ck_assert_int_eq(orr_t5_read(config, &t5), 0);
        struct orr_model *model = orr_t5_create(&t5, &one);
        ck_assert_msg(model != NULL, "%s", orr_error());
        ck_assert_int_eq(orr_model_size(model), preset[i].size);
        orr_model_destroy(model);
        orr_config_destroy(config);
    }
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("T5");
    TCase *c = tcase_create("t5");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, finite_differences, 0, WATCHED);
    tcase_add_loop_test(c, layouts, 0, 5);
    tcase_add_test(c, again);
    tcase_add_test(c, half_precision);
    tcase_add_loop_test(c, generated, 0, 2);
    tcase_add_test(c, refusals);
    tcase_add_test(c, presets);
    suite_add_tcase(s, c);
    return s;
}
