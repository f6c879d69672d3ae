/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks that an encoder and its decoder have beside others: they write what they should and nothing else, take the scratch that
 * they say, and give the same bits again. What they compute tests/models/test_t5.c checks. */
#include "check_main.h"
#include "codelets/block_harness.h"

#include <math.h>
#include <string.h>

#include <codelets/attention/attention.h>
#include <codelets/cross/cross.h>
#include <codelets/embedding/embedding.h>
#include <codelets/norm/norm.h>

enum { WIDTH = 33, HEADS = 3, HEAD = 7, VOCAB = 5 };

static const struct orr_attention relative = {
    .width = WIDTH, .heads = HEADS, .head_dim = HEAD, .eps = 1e-6f, .attention_dropout = 0.2f, .dropout = 0.1f, .std = 0.2f,
    .projection_std = 0.2f, .style = {.norm = ORR_RMSNORM, .matrices = ORR_OUT_IN, .biases = ORR_NO_BIASES}, .scale = 1,
    .buckets = 8, .distance = 20, .bias_std = 1};
static const struct orr_cross cross = {.width = WIDTH, .heads = HEADS, .head_dim = HEAD, .eps = 1e-6f, .scale = 1,
                                       .attention_dropout = 0.2f, .dropout = 0.1f, .query_std = 0.2f, .std = 0.2f,
                                       .projection_std = 0.2f};
static const struct orr_last_norm norm = {.width = WIDTH, .eps = 1e-6f, .dropout = 0.1f, .scale = 0.3f};

static struct orr_model *causal(void)
{
    struct orr_model *model = harness_model(WIDTH);

    ck_assert_msg(orr_relative_attention(model, 0, &relative, NULL) == 0, "%s", orr_error());
    return model;
}

static struct orr_model *bidirectional(void)
{
    struct orr_attention both = relative;
    struct orr_model *model = harness_model(WIDTH);

    both.bidirectional = 1;
    ck_assert_msg(orr_relative_attention(model, 0, &both, NULL) == 0, "%s", orr_error());
    return model;
}

static struct orr_model *last(void)
{
    struct orr_model *model = harness_model(WIDTH);

    ck_assert_msg(orr_last_norm(model, &norm) == 0, "%s", orr_error());
    return model;
}

/* Of two embeddings. */
static struct orr_model *between(void)
{
    struct orr_model *model = harness_model(WIDTH);
    struct orr_embedding embedding = *(const struct orr_embedding *)orr_block_config(orr_model_block(model, 0));
    struct orr_block *encoder = orr_model_block(model, 0);

    ck_assert_msg(orr_shared_embedding(model, &embedding, encoder) == 0, "%s", orr_error());
    ck_assert_msg(orr_cross(model, 0, &cross, encoder) == 0, "%s", orr_error());
    return model;
}

static const struct {
    struct orr_model *(*make)(void);
    int index;
} block[] = {{causal, 1}, {bidirectional, 1}, {last, 1}, {between, 2}};
enum { BLOCKS = (int)(sizeof(block) / sizeof(block[0])) };

START_TEST(passes)
{
    static const int batch[] = {1, 2, 3}, seq[] = {1, 17, 129};

    for (int i = 0; i < 3; i++) {
        struct harness h;
        harness_open(&h, block[_i].make(), block[_i].index, batch[i], seq[i], VOCAB);
        check_again(&h);
        check_scratch(&h);
        harness_close(&h);
    }
}
END_TEST

START_TEST(refusals)
{
    struct orr_model *model = harness_model(WIDTH);
    struct orr_attention a = relative;
    struct orr_cross c = cross;
    struct orr_last_norm n = norm;

    a.buckets = 7;
    ck_assert_int_eq(orr_relative_attention(model, 0, &a, NULL), ORR_EINVAL);
    a.buckets = 8;
    a.distance = 4;
    ck_assert_int_eq(orr_relative_attention(model, 0, &a, NULL), ORR_EINVAL);
    ck_assert_int_eq(orr_attention(model, 0, &relative), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "attention: a bias by distance is orr_relative_attention()'s");
    c.attention_dropout = 1;
    ck_assert_int_eq(orr_cross(model, 0, &c, orr_model_block(model, 0)), ORR_EINVAL);
    ck_assert_int_eq(orr_cross(model, 0, &cross, orr_model_block(model, 0)), ORR_EINVAL);
    ck_assert_msg(strstr(orr_error(), "reads the value of block 'embedding' twice") != NULL, "%s", orr_error());
    n.scale = NAN;
    ck_assert_int_eq(orr_last_norm(model, &n), ORR_EINVAL);
    ck_assert_int_eq(model->blocks, 1);
    orr_model_destroy(model);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("blocks of an encoder");
    TCase *c = tcase_create("passes");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, passes, 0, BLOCKS);
    tcase_add_test(c, refusals);
    suite_add_tcase(s, c);
    return s;
}
