/* SPDX-License-Identifier: Apache-2.0 */
/* Attention where not every query sees every key before it: both directions, windows, several sequences in a row, or in two rows, and
 * heads that share keys and values, with a bias of scores or not; against sums in double over the keys that each query sees by the definition. */
#include "tests/check_main.h"
#include "tests/math/reference.h"

#include "codelets/math/math_cpu.h"

#include <string.h>

enum { BATCH = 2, MOST = 300 };

struct sight {
    int seq, dim, heads, kv_heads;
    bool bidirectional;
    int window;
    int length;             /* of the sequences of a row, in turn one shorter and one longer; 0: a row is one */
    float dropout;
    bool bias;
    int source;             /* of the sequences of another row, which has the keys; 0: there is none */
};

static const struct sight cases[] = {
    {65, 8, 4, 2, false, 0, 0, 0, false, 0}, {130, 16, 6, 1, false, 0, 0, 0.2f, false, 0}, {70, 5, 3, 3, true, 0, 0, 0, false, 0},
    {129, 64, 2, 2, true, 0, 0, 0.3f, false, 0}, {300, 8, 2, 1, true, 0, 0, 0, false, 0},
    {200, 8, 2, 1, false, 7, 0, 0, false, 0}, {300, 20, 2, 2, false, 64, 0, 0, false, 0},
    {290, 8, 4, 2, false, 100, 0, 0.1f, false, 0}, {64, 8, 1, 1, true, 0, 9, 0, false, 0},
    {200, 8, 2, 2, true, 0, 40, 0, false, 0}, {300, 16, 2, 1, true, 0, 70, 0.2f, false, 0},
    {257, 8, 2, 1, false, 0, 33, 0, false, 0}, {300, 8, 2, 2, false, 20, 90, 0.2f, false, 0},
    {300, 13, 4, 4, true, 0, 3, 0, false, 0}, {300, 8, 1, 1, true, 0, 140, 0, false, 0}, {1, 8, 2, 1, true, 0, 0, 0, false, 0},
    {70, 5, 3, 3, false, 0, 0, 0, true, 0}, {300, 8, 4, 2, true, 0, 0, 0.2f, true, 0}, {200, 16, 2, 2, true, 0, 40, 0, true, 0},
    {257, 8, 2, 2, false, 0, 33, 0.2f, true, 0}, {1, 8, 2, 2, true, 0, 0, 0, true, 0}, {65, 8, 2, 2, true, 0, 9, 0, false, 9},
    {300, 8, 2, 1, true, 0, 30, 0.2f, false, 70}, {300, 12, 2, 2, true, 0, 100, 0, false, 7},
    {129, 8, 2, 2, true, 0, 3, 0, false, 64}, {130, 8, 1, 1, true, 0, 65, 0, false, 131},
};

static void fill_places(const struct sight *s, int length, int32_t *places)
{
    for (int b = 0; b < BATCH; b++)
        for (int t = 0, number = b, place = 0; t < s->seq; t++, place++) {
            if (length && place >= length + (number % 2 ? 1 : -1)) {
                number++;
                place = 0;
            }
            places[b * s->seq + t] = place;
        }
}

/* How many sequences a row has begun. */
static int begun(const int32_t *places, int t)
{
    int count = 0;

    for (; t >= 0; t--)
        count += places[t] == 0;
    return count;
}

static bool sees(const struct sight *s, const int32_t *places, const int32_t *source, int i, int j)
{
    if (s->source)
        return begun(places, i) == begun(source, j);
    return i - places[i] == j - places[j] && (s->bidirectional || j <= i) && (!s->window || j > i - s->window);
}

struct problem {
    struct orri_attention a;
    int32_t places[BATCH * MOST], source[BATCH * MOST];
    size_t in, out, biases;
    float *qkv, *o, *d_o, *lse, *bias, *dbias;
    void *scratch;
    int k, v;               /* columns where keys and values begin */
};

static void make(struct problem *p, const struct sight *s)
{
    p->k = s->heads * s->dim;
    p->v = p->k + s->kv_heads * s->dim;
    fill_places(s, s->length, p->places);
    fill_places(s, s->source, p->source);
    p->a = (struct orri_attention){
        .batch = BATCH, .seq = s->seq, .heads = s->heads, .head_dim = s->dim, .ld = p->v + s->kv_heads * s->dim + 3,
        .ld_out = s->heads * s->dim + 2, .scale = 1 / sqrtf((float)s->dim),
        .dropout = {.p = s->dropout, .rng = {.seed = 9, .stream = 2, .step = 3}}, .first_sample = 5, .total_heads = s->heads,
        .kv_heads = s->kv_heads, .bidirectional = s->bidirectional, .window = s->window, .places = s->length ? p->places : NULL,
        .source_places = s->source ? p->source : NULL,
    };
    size_t rows = BATCH * (size_t)s->seq, forward = orri_cpu_attention_forward_scratch(&p->a, ORR_F32);
    size_t backward = orri_cpu_attention_backward_scratch(&p->a, ORR_F32), most = forward > backward ? forward : backward;
    p->in = rows * (size_t)p->a.ld;
    p->out = rows * (size_t)p->a.ld_out;
    p->qkv = random_floats(p->in, 2, 1);
    p->o = random_floats(p->out, 1, 2);
    p->d_o = random_floats(p->out, 1, 3);
    p->biases = (size_t)s->heads * 2 * (size_t)s->seq;
    p->bias = random_floats(p->biases, 3, 4);
    p->dbias = random_floats(BATCH * p->biases, 1, 5);
    if (s->bias) {
        p->a.bias = p->bias;
        p->a.dbias = p->dbias;
    }
    p->lse = malloc(rows * (size_t)s->heads * sizeof(float));
    p->scratch = malloc(most);
    ck_assert(p->lse && p->scratch);
    memset(p->scratch, -1, most);       /* NaN */
}

static void destroy(struct problem *p)
{
    free(p->qkv);
    free(p->o);
    free(p->d_o);
    free(p->lse);
    free(p->bias);
    free(p->dbias);
    free(p->scratch);
}

/* o, and the gradients of all that lies in qkv and of the bias, by the definition. */
static void reference(const struct problem *p, const struct sight *s, double *o, double *grad, double *dbias)
{
    static double probability[MOST], gradient[MOST], keep[MOST];
    const struct orri_attention *a = &p->a;
    int T = s->seq, D = s->dim;

    for (int n = 0; n < BATCH * s->heads * T; n++) {
        int i = n % T, h = n / T % s->heads, b = n / T / s->heads, shared = h * s->kv_heads / s->heads;
        const int32_t *places = p->places + b * T, *source = p->source + b * T;
        size_t row = (size_t)b * (size_t)T, query = (row + (size_t)i) * (size_t)a->ld + (size_t)(h * D);
        size_t shift = (size_t)(h * 2 * T + T - 1 - i);
        size_t out = (row + (size_t)i) * (size_t)a->ld_out + (size_t)(h * D);
        double max = -INFINITY, sum = 0, delta = 0;
#define KEY(j) ((row + (size_t)(j)) * (size_t)a->ld + (size_t)(p->k + shared * D))
#define VALUE(j) ((row + (size_t)(j)) * (size_t)a->ld + (size_t)(p->v + shared * D))

        for (int j = 0; j < T; j++) {
            float uniform;
            uint64_t element = ((a->first_sample + (uint64_t)b) * (uint64_t)s->heads + (uint64_t)h) * (uint64_t)T * (uint64_t)T;
            orr_rng_uniform(&a->dropout.rng, element + (uint64_t)(i * T + j), 1, &uniform);
            keep[j] = uniform >= s->dropout ? 1 / (1.0 - (double)s->dropout) : 0;
            probability[j] = 0;
            for (int d = 0; d < D; d++)
                probability[j] += (double)a->scale * p->qkv[query + d] * p->qkv[KEY(j) + d];
            if (s->bias)
                probability[j] += p->bias[shift + (size_t)j];
            if (sees(s, places, source, i, j))
                max = fmax(max, probability[j]);
        }
        for (int j = 0; j < T; j++)
            sum += probability[j] = sees(s, places, source, i, j) ? exp(probability[j] - max) : 0;
        for (int j = 0; j < T; j++) {
            probability[j] /= sum > 0 ? sum : 1;
            gradient[j] = 0;
            for (int d = 0; d < D; d++) {
                o[out + d] += probability[j] * keep[j] * p->qkv[VALUE(j) + d];
                gradient[j] += keep[j] * p->d_o[out + d] * p->qkv[VALUE(j) + d];
                grad[VALUE(j) + d] += probability[j] * keep[j] * p->d_o[out + d];
            }
            delta += probability[j] * gradient[j];
        }
        for (int j = 0; j < T; j++) {
            double ds = probability[j] * (gradient[j] - delta);
            dbias[(size_t)b * p->biases + shift + (size_t)j] += ds;
            for (int d = 0; d < D; d++) {
                grad[query + d] += a->scale * ds * p->qkv[KEY(j) + d];
                grad[KEY(j) + d] += a->scale * ds * p->qkv[query + d];
            }
        }
#undef KEY
#undef VALUE
    }
}

/* Columns up to `width`, of rows `ld` apart; relative to the largest of them. */
static void compare(const char *what, const float *got, const double *want, int rows, int width, int64_t ld)
{
    double most = 0;

    for (int r = 0; r < rows; r++)
        for (int c = 0; c < width; c++)
            most = fmax(most, fabs(want[r * ld + c]));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < width; c++)
            assert_close(got[r * ld + c], want[r * ld + c], 3e-6 * most, "%s, row %d, column %d", what, r, c);
}

START_TEST(forward_and_backward)
{
    const struct sight *s = &cases[_i];
    struct problem p;

    make(&p, s);
    double *o = calloc(p.out, sizeof(*o)), *grad = calloc(p.in, sizeof(*grad));
    double *dbias = calloc(BATCH * p.biases, sizeof(*dbias));
    ck_assert(o && grad && dbias);
    reference(&p, s, o, grad, dbias);
    orri_cpu_attention_forward(ORR_F32, &p.a, p.qkv, p.qkv + p.k, p.qkv + p.v, p.o, p.lse, p.scratch);
    compare("output", p.o, o, BATCH * s->seq, s->heads * s->dim, p.a.ld_out);
    orri_cpu_attention_backward(ORR_F32, &p.a, p.qkv, p.qkv + p.k, p.qkv + p.v, p.o, p.d_o, p.lse, p.scratch);
    compare("gradient", p.qkv, grad, BATCH * s->seq, p.v + s->kv_heads * s->dim, p.a.ld);
    if (s->bias)
        compare("gradient of the bias", p.dbias, dbias, BATCH * s->heads, 2 * s->seq, 2 * s->seq);
    free(o);
    free(grad);
    free(dbias);
    destroy(&p);
}
END_TEST

/* The last position, from keys and values in pages. */
START_TEST(one_more)
{
    enum { PAGE = 32, PAGES = (MOST + PAGE - 1) / PAGE };
    const struct sight *s = &cases[_i];
    struct problem p;

    if (s->bidirectional || s->length || s->dropout > 0 || s->bias)
        return;
    make(&p, s);
    orri_cpu_attention_forward(ORR_F32, &p.a, p.qkv, p.qkv + p.k, p.qkv + p.v, p.o, p.lse, p.scratch);
    size_t row = 2 * (size_t)(s->kv_heads * s->dim);
    struct orri_kept kept = {.length = s->seq, .page = PAGE};
    float *pages = calloc(PAGES * PAGE * row, sizeof(*pages)), out[64 * 6];
    ck_assert_ptr_nonnull(pages);
    for (int k = 0; k < PAGES; k++)
        kept.pages[k] = pages + (size_t)k * PAGE * row;
    for (int t = 0; t < s->seq; t++)
        memcpy(pages + (size_t)t * row, p.qkv + (size_t)t * (size_t)p.a.ld + (size_t)p.k, row * sizeof(*pages));
    orri_cpu_attention_next(ORR_F32, &p.a, p.qkv + (size_t)(s->seq - 1) * (size_t)p.a.ld, &kept, out);
    for (int c = 0; c < s->heads * s->dim; c++)
        assert_close(out[c], p.o[(size_t)(s->seq - 1) * (size_t)p.a.ld_out + (size_t)c], 3e-6, "column %d", c);
    free(pages);
    destroy(&p);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("math: who sees whom");
    TCase *t = tcase_create("attention");
    int count = (int)(sizeof(cases) / sizeof(cases[0]));

    tcase_add_loop_test(t, forward_and_backward, 0, count);
    tcase_add_loop_test(t, one_more, 0, count);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
