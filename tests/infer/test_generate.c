/* SPDX-License-Identifier: Apache-2.0 */
/* Prediction and generation with a GPT-2 of two layers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "meshes.h"
#include "train/small_gpt.h"

static void expect_error(int code, const char *where, const char *what)
{
    ck_assert_int_eq(orr_error_code(), code);
    ck_assert_msg(strstr(orr_error(), where) && strstr(orr_error(), what), "%s", orr_error());
}

/* ---- generation -------------------------------------------------------------------------------------------------- */

enum { MORE = 40 };

/* Behind a prompt of two tokens; their number then. */
static int continue_two(struct orr_predictor *predictor, int32_t *tokens, int more, int32_t stop,
                        const struct orr_sampling *sampling, bool (*emit)(void *self, int sequence, int32_t token), void *self)
{
    struct orr_sequence sequence = {tokens, 2, false};

    tokens[0] = 7;
    tokens[1] = 3;
    ck_assert_msg(orr_generate(predictor, &sequence, 1, more, stop, sampling, emit, self) == 0, "%s", orr_error());
    return sequence.count;
}

static void generate(struct orr_predictor *predictor, const struct orr_sampling *sampling, int32_t *tokens)
{
    ck_assert_int_eq(continue_two(predictor, tokens, MORE, -1, sampling, NULL, NULL), 2 + MORE);
}

static bool stop_after_three(void *self, int sequence, int32_t token)
{
    (void)sequence, (void)token;
    return ++*(int *)self < 3;
}

/* Sequences are computed whole for every token, or continued. */
START_TEST(test_generation)
{
    struct setup s = usual();
    struct orr_model *model = create_model(&s);
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, POSITIONS);
    int32_t greedy[2 + MORE], tokens[2 + MORE], sampled[2 + MORE];
    struct orr_sampling sampling = {.temperature = 0, .top_p = 1};
    float logits[VOCAB];
    const size_t bytes = sizeof(tokens);

    if (_i)
        ck_assert_msg(orr_predictor_continue(predictor, 1, 1) == 0, "%s", orr_error());
    generate(predictor, &sampling, greedy);
    generate(predictor, &sampling, tokens);
    ck_assert_mem_eq(tokens, greedy, bytes);
    /* Each token is the most likely one behind the window of the last tokens. */
    for (int n = 2; n < 2 + MORE; n++) {
        int seen = n < POSITIONS ? n : POSITIONS, best = 0;
        ck_assert_int_eq(orr_predict(predictor, greedy + n - seen, seen, 1, logits, NULL), 0);
        for (int v = 1; v < VOCAB; v++)
            if (logits[v] > logits[best])
                best = v;
        ck_assert_int_eq(greedy[n], best);
    }

    sampling = (struct orr_sampling){.temperature = 1.5, .top_p = 1, .seed = 11};
    generate(predictor, &sampling, sampled);
    generate(predictor, &sampling, tokens);
    ck_assert_mem_eq(tokens, sampled, bytes);
    ck_assert_mem_ne(tokens, greedy, bytes);
    sampling.seed++;
    generate(predictor, &sampling, tokens);
    ck_assert_mem_ne(tokens, sampled, bytes);
    sampling.top_k = 1;
    generate(predictor, &sampling, tokens);
    ck_assert_mem_eq(tokens, greedy, bytes);
    sampling.top_k = 0;
    sampling.top_p = 1e-9;
    generate(predictor, &sampling, tokens);
    ck_assert_mem_eq(tokens, greedy, bytes);

    /* A stop token and a listener end it; both tokens are kept. */
    sampling = (struct orr_sampling){.temperature = 0, .top_p = 1};
    int first = 2;
    while (first < 2 + MORE - 1 && greedy[first] != greedy[4])
        first++;
    ck_assert_int_eq(continue_two(predictor, tokens, MORE, greedy[4], &sampling, NULL, NULL), first + 1);
    int heard = 0;
    ck_assert_int_eq(continue_two(predictor, tokens, MORE, -1, &sampling, stop_after_three, &heard), 5);
    ck_assert_int_eq(continue_two(predictor, tokens, 0, -1, &sampling, NULL, NULL), 2);
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}
END_TEST

/* The share that every token gets is its probability, cut to what is allowed. */
START_TEST(test_sampling)
{
    static const float logits[] = {1, 3, 2, 3, -1, 0.5f};
    static const struct {
        int top_k;
        double top_p;
        int kept;
    } cuts[] = {{0, 1, 6}, {3, 1, 3}, {99, 1, 6}, {0, 0.5, 2}, {0, 0.95, 5}, {1, 1, 1}, {3, 0.4, 2}, {3, 0.3, 1}};
    static const int order[] = {1, 3, 2, 0, 5, 4};
    enum { DRAWS = 40000 };

    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct orr_sampling sampling = {.temperature = 2, .top_k = cuts[i].top_k, .top_p = cuts[i].top_p, .seed = 17};
        int drawn[6] = {0};
        double total = 0;
        int other = 0;
        for (int n = 0; n < DRAWS; n++) {
            int token = orr_sample_token(logits, 6, &sampling, 0, (uint64_t)n);
            drawn[token]++;
            other += token != orr_sample_token(logits, 6, &sampling, 1, (uint64_t)n);
        }
        ck_assert((other > 0) == (cuts[i].kept > 1));       /* each sequence has a stream of its own */
        for (int k = 0; k < cuts[i].kept; k++)
            total += exp((double)logits[order[k]] / 2);
        for (int k = 0; k < 6; k++) {
            double p = k < cuts[i].kept ? exp((double)logits[order[k]] / 2) / total : 0;
            /* Five standard deviations. */
            ck_assert_msg(fabs(drawn[order[k]] - DRAWS * p) <= 5 * sqrt(DRAWS * p * (1 - p)),
                          "top_k %d, top_p %g: token %d came %d times of %d, probability %g", cuts[i].top_k,
                          cuts[i].top_p, order[k], drawn[order[k]], DRAWS, p);
        }
    }
}
END_TEST

static int by_logit(const void *a, const void *b)
{
    const struct {
        double logit;
        int token;
    } *x = a, *y = b;

    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->token - y->token;
}

/* What infer.h says of sampling, of all tokens sorted. */
static int sample_sorted(const float *logits, int vocab, const struct orr_sampling *s, double uniform)
{
    struct {
        double logit;
        int token;
    } c[1000];
    int kept = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab, n = 0;
    double total = 0, sum = 0;

    for (int v = 0; v < vocab; v++) {
        c[v].logit = (double)logits[v];
        c[v].token = v;
    }
    qsort(c, (size_t)vocab, sizeof(c[0]), by_logit);
    for (int i = 0; i < kept; i++)
        total += exp((c[i].logit - c[0].logit) / s->temperature);
    while (n < kept && (n == 0 || sum < s->top_p * total))
        sum += exp((c[n++].logit - c[0].logit) / s->temperature);
    double left = uniform * sum;
    for (int i = 0; i < n - 1; i++) {
        left -= exp((c[i].logit - c[0].logit) / s->temperature);
        if (left < 0)
            return c[i].token;
    }
    return c[n - 1].token;
}

/* Logits of few values, so that many are equal, and of many. */
START_TEST(test_selection)
{
    static const int vocabs[] = {1, 2, 7, 61, 1000};
    static const struct orr_sampling how[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.5, .top_p = 1, .top_k = 1},
        {.temperature = 2, .top_p = 1, .top_k = 6},
        {.temperature = 1, .top_p = 0.7},
        {.temperature = 3, .top_p = 0.9, .top_k = 40},
        {.temperature = 1, .top_p = 0.999999, .top_k = 999},
    };
    enum { DRAWS = 500 };
    float logits[1000], uniform;

    for (size_t i = 0; i < sizeof(vocabs) / sizeof(vocabs[0]); i++)
        for (size_t k = 0; k < sizeof(how) / sizeof(how[0]); k++)
            for (uint32_t n = 0; n < DRAWS; n++) {
                struct orr_rng rng = {3, n, 0};
                orr_rng_normal(&rng, 0, (size_t)vocabs[i], 0, 2, logits);
                for (int v = 0; v < vocabs[i] && n % 2; v++)
                    logits[v] = roundf(logits[v]);
                rng = (struct orr_rng){how[k].seed, 0x67656e, 5};
                orr_rng_uniform(&rng, n, 1, &uniform);
                ck_assert_int_eq(orr_sample_token(logits, vocabs[i], &how[k], 5, n),
                                 sample_sorted(logits, vocabs[i], &how[k], (double)uniform));
            }
}
END_TEST

START_TEST(test_rules)
{
    static const int32_t tokens[] = {1, 2, 3, 1, 2};
    static const struct {
        struct orr_rules rules;
        int added;
        int32_t stop;
        float logits[5];
    } expected[] = {
        {{0}, 0, 4, {1, 2, -3, 4, 5}},
        {{.repetition_penalty = 1}, 0, 4, {1, 2, -3, 4, 5}},
        {{.repetition_penalty = 2}, 0, 4, {1, 1, -6, 2, 5}},
        {{.repetition_penalty = 0.5}, 0, 4, {1, 4, -1.5f, 8, 5}},
        {{.no_repeat_ngram = 1}, 0, 4, {1, -INFINITY, -INFINITY, -INFINITY, 5}},
        {{.no_repeat_ngram = 2}, 0, 4, {1, 2, -3, -INFINITY, 5}},
        {{.no_repeat_ngram = 3}, 0, 4, {1, 2, -3, -INFINITY, 5}},
        {{.no_repeat_ngram = 4}, 0, 4, {1, 2, -3, 4, 5}},
        {{.no_repeat_ngram = 9}, 0, 4, {1, 2, -3, 4, 5}},
        {{.min_tokens = 2}, 1, 4, {1, 2, -3, 4, -INFINITY}},
        {{.min_tokens = 2}, 2, 4, {1, 2, -3, 4, 5}},
        {{.min_tokens = 2}, 1, -1, {1, 2, -3, 4, 5}},
        {{2, 2, 2}, 1, 0, {-INFINITY, 1, -6, -INFINITY, 5}},
    };

    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        float logits[] = {1, 2, -3, 4, 5};
        ck_assert_int_eq(orr_apply_rules(&expected[i].rules, tokens, 5, expected[i].added, expected[i].stop, logits, 5), 0);
        for (int v = 0; v < 5; v++)
            ck_assert_msg(logits[v] == expected[i].logits[v], "rules %zu, token %d: %g", i, v, (double)logits[v]);
    }
}
END_TEST

/* ---- continuing --------------------------------------------------------------------------------------------------------- */

/* Longer than a page of the cache, of which the first has 64 positions. */
enum { LONGEST = 150, PROMPTS = 4, STEPS = 70 };

static struct orr_model *create_long_model(struct orr_mesh mesh, enum orr_dtype dtype)
{
    struct setup s = usual();
    s.dtype = dtype;
    struct orr_gpt2 gpt = gpt_of(&s);
    gpt.n_positions = LONGEST;
    gpt.n_head = 4;
    struct orr_model *model = orr_gpt2_create(&gpt, &mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_model_freeze(model), 0);
    ck_assert_int_eq(orr_model_randomize(model, 3), 0);
    return model;
}

struct conversation {
    int32_t tokens[PROMPTS][2 * LONGEST];
    struct orr_sequence sequence[PROMPTS];
};

/* Prompts of unequal length: one token, within a page, a whole page, beyond one. */
static void begin_conversation(struct conversation *c)
{
    static const int lengths[PROMPTS] = {1, 30, 64, 90};

    for (int s = 0; s < PROMPTS; s++) {
        for (int t = 0; t < 2 * LONGEST; t++)
            c->tokens[s][t] = (17 * s + 5 * t + t * t) % VOCAB;
        c->sequence[s] = (struct orr_sequence){c->tokens[s], lengths[s], false};
    }
}

/* What continuing gives for every sequence that goes on, beside what running the whole of it gives: how much they differ at most,
 * and how large the logits are. */
static double compare_next(struct orr_predictor *continued, struct orr_predictor *whole, const struct conversation *c,
                           double *largest)
{
    float next[PROMPTS * VOCAB], logits[VOCAB];
    double difference = 0;

    for (size_t k = 0; k < sizeof(next) / sizeof(next[0]); k++)
        next[k] = -1e30f;
    ck_assert_msg(orr_predict_next(continued, c->sequence, PROMPTS, next) == 0, "%s", orr_error());
    for (int s = 0; s < PROMPTS; s++) {
        int count = c->sequence[s].count, seen = count < LONGEST ? count : LONGEST;
        if (c->sequence[s].ended) {
            ck_assert_float_eq(next[s * VOCAB], -1e30f);
            continue;
        }
        ck_assert_int_eq(orr_predict(whole, c->tokens[s] + count - seen, seen, 1, logits, NULL), 0);
        for (int v = 0; v < VOCAB; v++) {
            difference = fmax(difference, fabs((double)next[s * VOCAB + v] - (double)logits[v]));
            *largest = fmax(*largest, fabs((double)logits[v]));
        }
    }
    return difference;
}

/* In fp32 the sums of a position are the same but for their order. In bf16 an element that is rounded the other way, by 2^-8 of
 * itself, goes on through two layers. */
START_TEST(test_continuing)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(1, 3, 1), MESH(1, 1, 3), MESH(2, 2, 2)};
    enum orr_dtype dtype = _i % 2 ? ORR_BF16 : ORR_F32;
    struct orr_model *model = create_long_model(meshes[_i / 2], dtype);
    struct orr_predictor *continued = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    struct orr_predictor *whole = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    double largest = 0, difference = 0, relative = dtype == ORR_F32 ? 1e-5 : 0.02;
    struct conversation c;

    ck_assert_msg(orr_predictor_continue(continued, PROMPTS, 1) == 0, "%s", orr_error());
    begin_conversation(&c);
    for (int n = 0; n < STEPS; n++) {
        difference = fmax(difference, compare_next(continued, whole, &c, &largest));
        for (int s = 0; s < PROMPTS; s++)
            c.sequence[s].count += !c.sequence[s].ended;
        c.sequence[1].ended = n >= 10;                  /* one drops out of the batch */
        if (n == 20)
            c.sequence[2].count = 40;                   /* one begins anew, shorter, */
        if (n == 30)
            c.sequence[3].count += 3;                   /* and one goes ahead        */
        if (n == 20)
            c.tokens[2][5] = (c.tokens[2][5] + 1) % VOCAB;
    }
    ck_assert_int_gt(c.sequence[3].count, LONGEST);     /* in the end the window moves */
    ck_assert_double_gt(largest, 0.1);
    ck_assert_msg(difference <= relative * largest, "off by %.3g, of %.3g", difference, largest);
    orr_predictor_destroy(continued);
    orr_predictor_destroy(whole);
    orr_model_destroy(model);
}
END_TEST

/* ---- rearranging ------------------------------------------------------------------------------------------------------------ */

/* Two groups, whose sequences become each other before every token. */
enum { TOGETHER = 4, GROUPS = 2, TEXTS = GROUPS * TOGETHER, TOKENS = 60 };

struct crowd {
    int32_t tokens[TEXTS][LONGEST], before[TEXTS][LONGEST];
    struct orr_sequence sequence[TEXTS];
};

/* A group begins with one text, from which the others come. */
static void begin_group(struct crowd *c, int group, int count)
{
    for (int s = group * TOGETHER; s < (group + 1) * TOGETHER; s++) {
        for (int t = 0; t < LONGEST; t++)
            c->tokens[s][t] = (11 * group + 7 * t + t * t + count) % VOCAB;
        c->sequence[s] = (struct orr_sequence){c->tokens[s], count, s % TOGETHER > 0};
    }
}

/* Number `how` of the ways in which a group can be rearranged: all from the first, one for itself, a turn, or any. */
static int parent_of(int how, int s)
{
    int own = s % TOGETHER;
    const int ways[] = {0, own / 3 * 3, (own + 1) % TOGETHER, (own * how + how / 3) % TOGETHER};

    return s - own + ways[how % 4];
}

static void change_places(struct orr_predictor *predictor, struct crowd *c, int n)
{
    int from[TEXTS];

    memcpy(c->before, c->tokens, sizeof(c->tokens));
    for (int s = 0; s < TEXTS; s++) {
        from[s] = c->sequence[s].ended ? s - s % TOGETHER : parent_of(n + s / TOGETHER, s);
        memcpy(c->tokens[s], c->before[from[s]], sizeof(c->tokens[s]));
    }
    for (int s = 0; s < TEXTS; s++) {
        c->sequence[s].ended = false;
        c->tokens[s][c->sequence[s].count++] = (13 * s + 5 * n) % VOCAB;
    }
    ck_assert_msg(orr_predictor_rearrange(predictor, from, TEXTS) == 0, "%s", orr_error());
}

static double compare_crowd(struct orr_predictor *continued, struct orr_predictor *whole, const struct crowd *c, double *largest)
{
    float next[TEXTS * VOCAB], logits[VOCAB];
    double difference = 0;

    ck_assert_msg(orr_predict_next(continued, c->sequence, TEXTS, next) == 0, "%s", orr_error());
    for (int s = 0; s < TEXTS; s++) {
        if (c->sequence[s].ended)
            continue;
        ck_assert_int_eq(orr_predict(whole, c->tokens[s], c->sequence[s].count, 1, logits, NULL), 0);
        for (int v = 0; v < VOCAB; v++) {
            difference = fmax(difference, fabs((double)next[s * VOCAB + v] - (double)logits[v]));
            *largest = fmax(*largest, fabs((double)logits[v]));
        }
    }
    return difference;
}

/* Over several pages, with a group that begins anew where others hold its pages in common. */
START_TEST(test_rearranging)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(1, 2, 1), MESH(1, 1, 3), MESH(2, 1, 1), MESH(3, 2, 2), MESH(1, 1, 3)};
    enum orr_dtype dtype = _i == 5 ? ORR_BF16 : ORR_F32;
    struct orr_model *model = create_long_model(meshes[_i], dtype);
    struct orr_predictor *continued = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    struct orr_predictor *whole = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    static const int across[TEXTS] = {0, 1, 2, 4, 4, 5, 6, 7};
    double largest = 0, difference = 0, relative = dtype == ORR_F32 ? 1e-5 : 0.02;
    struct crowd c;

    ck_assert_msg(orr_predictor_continue(continued, TEXTS, TOGETHER) == 0, "%s", orr_error());
    begin_group(&c, 0, 30);
    begin_group(&c, 1, 75);
    for (int n = 0; n < TOKENS; n++) {
        difference = fmax(difference, compare_crowd(continued, whole, &c, &largest));
        if (n == 40) {
            begin_group(&c, 1, 65);
            difference = fmax(difference, compare_crowd(continued, whole, &c, &largest));
        }
        change_places(continued, &c, n);
        if (n == 50)                        /* one is computed anew, while its group goes on */
            c.sequence[1].count -= 2;
        if (n == 50)
            difference = fmax(difference, compare_crowd(continued, whole, &c, &largest));
        if (n == 50)
            c.sequence[1].count += 2;
    }
    ck_assert_double_gt(largest, 0.1);
    ck_assert_msg(difference <= relative * largest, "off by %.3g, of %.3g", difference, largest);
    ck_assert_int_eq(orr_predictor_rearrange(continued, across, TEXTS), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "sequence 3 cannot become number 4: of 4 each are together");
    ck_assert_int_eq(orr_predictor_rearrange(continued, across, 3), ORR_EINVAL);
    ck_assert_int_eq(orr_predictor_rearrange(whole, across, TEXTS), 0);
    ck_assert_int_eq(orr_predictor_continue(continued, 6, 4), ORR_EINVAL);
    orr_predictor_destroy(continued);
    orr_predictor_destroy(whole);
    orr_model_destroy(model);
}
END_TEST

/* What is asked for twice is the same, whatever else was. */
START_TEST(test_asking_again)
{
    struct orr_model *model = create_long_model((struct orr_mesh)MESH(1, 1, 1), ORR_F32);
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    float first[PROMPTS * VOCAB], second[PROMPTS * VOCAB];
    struct conversation c;

    ck_assert_int_eq(orr_predictor_continue(predictor, PROMPTS, 1), 0);
    begin_conversation(&c);
    ck_assert_int_eq(orr_predict_next(predictor, c.sequence, PROMPTS, first), 0);
    ck_assert_int_eq(orr_predict_next(predictor, c.sequence, PROMPTS, second), 0);
    ck_assert_mem_eq(first, second, sizeof(first));
    ck_assert_int_eq(orr_predict_next(predictor, c.sequence, PROMPTS + 1, first), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "5 sequences, of which 4 are continued");
    c.tokens[3][c.sequence[3].count++] = VOCAB;
    ck_assert_int_eq(orr_predict_next(predictor, c.sequence, PROMPTS, first), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "is outside the vocabulary of 61");
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}
END_TEST

/* Sequences that are generated together are those that are generated alone. */
START_TEST(test_batch)
{
    const struct orr_sampling likeliest = {.top_p = 1};
    struct orr_model *model = create_long_model((struct orr_mesh)MESH(1, 1, 1), ORR_F32);
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);
    struct conversation together, alone;

    ck_assert_int_eq(orr_predictor_continue(predictor, PROMPTS, 1), 0);
    begin_conversation(&together);
    ck_assert_int_eq(orr_generate(predictor, together.sequence, PROMPTS, MORE, 9, &likeliest, NULL, NULL), 0);
    begin_conversation(&alone);
    for (int s = 0; s < PROMPTS; s++) {
        ck_assert_int_eq(orr_predictor_continue(predictor, s % 2, 1), 0);
        ck_assert_int_eq(orr_generate(predictor, &alone.sequence[s], 1, MORE, 9, &likeliest, NULL, NULL), 0);
        ck_assert_int_eq(together.sequence[s].count, alone.sequence[s].count);
        ck_assert_mem_eq(together.tokens[s], alone.tokens[s], (size_t)alone.sequence[s].count * sizeof(int32_t));
    }
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}
END_TEST

/* A cache takes what it is said to take: keys and values of all positions, in pages. */
START_TEST(test_cache_memory)
{
    struct orr_model *model = create_long_model((struct orr_mesh)MESH(1, 2, 2), ORR_BF16);
    int64_t values = 2 * 2 * WIDTH, page = 64;

    ck_assert_int_eq(orr_cache_memory(model, 3, 1, 64, 0), 3 * page * values * 2);
    ck_assert_int_eq(orr_cache_memory(model, 3, 1, 65, 0), 2 * 3 * page * values * 2);
    ck_assert_int_eq(orr_cache_memory(model, 1, 1, 65 * 64, 0), 33 * 2 * page * values * 2);
    orr_model_destroy(model);
}
END_TEST

START_TEST(test_chunks_are_refused)
{
    struct orr_mesh mesh = MESH(1, 1, 2);
    mesh.sequence_parallel = true;
    struct orr_model *model = create_long_model(mesh, ORR_F32);
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, LONGEST);

    ck_assert_int_eq(orr_predictor_continue(predictor, 1, 1), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "cut into chunks cannot be continued");
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}
END_TEST

START_TEST(test_predicting_errors)
{
    struct setup s = usual();
    struct orr_model *model = create_model(&s);
    struct orr_predictor *predictor = orr_predictor_create(model, VOCAB, WIDTH, POSITIONS);
    int32_t tokens[POSITIONS + 1] = {0};
    float logits[VOCAB];

    ck_assert_int_eq(orr_predict(predictor, tokens, POSITIONS + 1, 1, logits, NULL), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "a sequence of 25 tokens: the model takes 1 to 24");
    ck_assert_int_eq(orr_predict(predictor, tokens, 0, 1, logits, NULL), ORR_EINVAL);
    ck_assert_int_eq(orr_predict(predictor, tokens, 3, 4, logits, NULL), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "4 rows of a sequence of 3 tokens");
    tokens[2] = VOCAB;
    ck_assert_int_eq(orr_predict(predictor, tokens, 3, 1, logits, NULL), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "token 61 at position 2 is outside the vocabulary of 61");
    ck_assert_int_eq(orr_predict(predictor, tokens, 2, 1, logits, NULL), 0);
    struct orr_sequence sequence = {tokens, 2, false};
    struct orr_beams beams = {.width = VOCAB / 2 + 1, .length_penalty = 1};
    ck_assert_int_eq(orr_generate_beams(predictor, &sequence, 1, 3, -1, &beams, NULL), ORR_EINVAL);
    expect_error(ORR_EINVAL, "generate", "31 beams need a vocabulary of twice as many tokens, and it has 61");
    beams.width--;
    ck_assert_int_eq(orr_generate_beams(predictor, &sequence, 1, 0, -1, &beams, NULL), 0);
    ck_assert_int_eq(sequence.count, 2);
    ck_assert_int_eq(orr_generate_beams(predictor, &sequence, 1, 3, -1, &beams, NULL), 0);
    ck_assert_int_eq(sequence.count, 5);
    ck_assert_int_eq(orr_predictor_continue(predictor, VOCAB / 2 + 1, 1), 0);
    ck_assert_int_eq(orr_generate_beams(predictor, &sequence, 1, 3, -1, &beams, NULL), ORR_EINVAL);
    expect_error(ORR_EINVAL, "predict", "30 sequences, of which 31 are continued");
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
}
END_TEST

static void start(void)
{
    /* More workers than there may be cores: the order of tasks must not matter. */
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 4}) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("generation");
    TCase *c = tcase_create("generation");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_generation, 0, 2);
    tcase_add_test(c, test_sampling);
    tcase_add_loop_test(c, test_continuing, 0, 8);
    tcase_add_test(c, test_selection);
    tcase_add_test(c, test_rules);
    tcase_add_loop_test(c, test_rearranging, 0, 6);
    tcase_add_test(c, test_asking_again);
    tcase_add_test(c, test_batch);
    tcase_add_test(c, test_cache_memory);
    tcase_add_test(c, test_chunks_are_refused);
    tcase_add_test(c, test_predicting_errors);
    suite_add_tcase(s, c);
    return s;
}
