/* SPDX-License-Identifier: Apache-2.0 */
/* Generated tokens against Hugging Face transformers' generate() (tests/golden/README.md): with a cache and without, on meshes of one
 * process, and all cases of one kind together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check_main.h"
#include "meshes.h"
#include "models/golden.h"

enum { POSITIONS = 32, MOST_CASES = 4 };

static json_t *cases;

struct request {
    json_t *json;
    int32_t prompt[POSITIONS], wanted[POSITIONS];
    int prompt_count, wanted_count, more;
    int32_t stop;
    int beams;
    double length_penalty;
    struct orr_rules rules;
};

static int read_ids(json_t *json, int32_t *ids)
{
    size_t n = json_array_size(json);

    ck_assert_uint_le(n, POSITIONS);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(json, i));
    return (int)n;
}

static double number(json_t *json, const char *key, double otherwise)
{
    json_t *value = json_object_get(json, key);

    return value ? json_number_value(value) : otherwise;
}

static struct request read_request(json_t *json)
{
    struct request r = {
        .json = json,
        .more = (int)number(json, "max_new_tokens", 0),
        .stop = (int32_t)number(json, "eos_token_id", -1),
        .beams = (int)number(json, "num_beams", 1),
        .length_penalty = number(json, "length_penalty", 1),
        .rules = {.repetition_penalty = number(json, "repetition_penalty", 0),
                  .no_repeat_ngram = (int)number(json, "no_repeat_ngram_size", 0),
                  .min_tokens = (int)number(json, "min_new_tokens", 0)},
    };

    r.prompt_count = read_ids(json_object_get(json, "prompt"), r.prompt);
    r.wanted_count = read_ids(json_object_get(json, "tokens"), r.wanted);
    ck_assert_int_le(r.prompt_count + r.more, POSITIONS);
    return r;
}

static void check_tokens(const struct request *r, const struct orr_sequence *sequence, double score)
{
    char *text = json_dumps(r->json, JSON_COMPACT);

    ck_assert_msg(sequence->count == r->prompt_count + r->wanted_count, "%s: %d tokens", text, sequence->count - r->prompt_count);
    for (int t = 0; t < r->wanted_count; t++)
        ck_assert_msg(sequence->tokens[r->prompt_count + t] == r->wanted[t], "%s: token %d is %d", text, t,
                      sequence->tokens[r->prompt_count + t]);
    ck_assert_msg(r->stop < 0 || sequence->ended, "%s: has not ended", text);
    if (r->beams > 1)
        ck_assert_msg(fabs(score - number(r->json, "score", NAN)) <= 1e-4 * fabs(score), "%s: the score is %g", text, score);
    free(text);
}

/* In place of a stop token. */
static bool is_stop(void *self, int sequence, const int32_t *tokens, int count)
{
    const struct request *r = self;

    (void)sequence;
    return tokens[count - 1] == r->stop;
}

/* Cases that ask for the same, together. The last token ends them as the stop token, or because is_stop() says so. */
static void check_together(struct orr_predictor *predictor, struct request *r, int count, bool cache, bool asked)
{
    int32_t tokens[MOST_CASES][POSITIONS];
    struct orr_sequence sequence[MOST_CASES];
    double score[MOST_CASES] = {0};
    struct orr_sampling likeliest = {.top_p = 1, .rules = r->rules};
    struct orr_beams beams = {.width = r->beams, .length_penalty = r->length_penalty, .rules = r->rules,
                              .ends = asked ? is_stop : NULL, .self = r};
    int32_t stop = asked ? -1 : r->stop;

    for (int i = 0; i < count; i++) {
        sequence[i] = (struct orr_sequence){tokens[i], r[i].prompt_count, false};
        for (int t = 0; t < r[i].prompt_count; t++)
            tokens[i][t] = r[i].prompt[t];
    }
    ck_assert_msg(orr_predictor_continue(predictor, cache ? count * r->beams : 0, r->beams) == 0, "%s", orr_error());
    int status = r->beams > 1 ? orr_generate_beams(predictor, sequence, count, r->more, stop, &beams, score)
                              : orr_generate(predictor, sequence, count, r->more, stop, &likeliest, NULL, NULL);
    ck_assert_msg(status == 0, "%s", orr_error());
    for (int i = 0; i < count; i++)
        check_tokens(&r[i], &sequence[i], score[i]);
}

static bool ask_alike(const struct request *a, const struct request *b)
{
    return a->more == b->more && a->stop == b->stop && a->beams == b->beams && a->length_penalty == b->length_penalty &&
           a->rules.repetition_penalty == b->rules.repetition_penalty && a->rules.no_repeat_ngram == b->rules.no_repeat_ngram &&
           a->rules.min_tokens == b->rules.min_tokens;
}

/* How many cases were checked. */
static int check_model(const char *name, const struct orr_mesh *mesh, bool cache)
{
    struct request r[MOST_CASES];
    struct golden g;
    int checked = 0, count = 0;

    golden_open(&g, name);
    struct orr_model *model = golden_model(&g, mesh);
    struct orr_predictor *predictor = orr_predictor_create(model, g.hyper.vocab, g.hyper.width, g.hyper.positions);
    for (size_t i = 0; i <= json_array_size(cases); i++) {
        json_t *json = json_array_get(cases, i);
        if (json && strcmp(json_string_value(json_object_get(json, "model")), name) != 0)
            continue;
        struct request next = json ? read_request(json) : (struct request){0};
        if (count > 0 && (!json || count == MOST_CASES || !ask_alike(r, &next))) {
            check_together(predictor, r, count, cache, false);
            if (r->beams > 1 && r->rules.min_tokens == 0)
                check_together(predictor, r, count, cache, true);
            checked += count;
            count = 0;
        }
        if (json)
            r[count++] = next;
    }
    orr_predictor_destroy(predictor);
    orr_model_destroy(model);
    golden_close(&g);
    return checked;
}

START_TEST(test_cases)
{
    static const struct orr_mesh meshes[] = {MESH(1, 1, 1), MESH(1, 2, 1), MESH(1, 1, 3), MESH(2, 1, 1), MESH(2, 2, 3)};
    bool cache = _i % 2;
    int checked = check_model("gpt2-small", &meshes[_i / 2], cache);

    if (_i < 2)
        checked += check_model("gpt2-untied", &meshes[0], cache);
    ck_assert_int_eq(checked, (int)json_array_size(cases) - (_i < 2 ? 0 : 4));
}
END_TEST

static void start(void)
{
    const char *root = getenv("srcdir");
    char path[600];

    snprintf(path, sizeof(path), "%s/tests/golden/generate/cases.json", root ? root : ".");
    cases = json_load_file(path, 0, NULL);
    ck_assert_uint_gt(json_array_size(cases), 20);
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    ck_assert_msg(orr_init(&(struct orr_runtime_options){.threads = 3}) == 0, "%s", orr_error());
}

static void stop(void)
{
    orr_shutdown();
    json_decref(cases);
}

Suite *suite(void)
{
    Suite *s = suite_create("generated tokens");
    TCase *c = tcase_create("generated tokens");

    tcase_add_unchecked_fixture(c, start, stop);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, test_cases, 0, 10);
    suite_add_tcase(s, c);
    return s;
}
