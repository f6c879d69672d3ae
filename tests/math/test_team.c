/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels by a team of threads give the bits that one thread gives. */
#include "tests/check_main.h"
#include "tests/math/reference.h"

#include <cblas.h>
#include <string.h>

#include "codelets/math/math_cpu.h"
#include "core/core.h"
#include "core/team.h"
#include "train/train.h"

static const enum orr_dtype dtypes[] = {ORR_F32, ORR_BF16, ORR_F16};
static const int teams[] = {2, 3};

/* ---- what a case makes and leaves ------------------------------------------------------------------------------------ */

enum { MOST_ARRAYS = 16 };

/* Arrays are freed behind a case; all of them are looked at then, for kernels must leave alone what they read. */
struct made {
    int count;
    void *array[MOST_ARRAYS];
    size_t bytes[MOST_ARRAYS];
    enum orr_dtype dtype;
};

/* Of many magnitudes: sums of narrow elements of one are exact, in whatever order. */
static void *elements(struct made *m, enum orr_dtype dtype, size_t count)
{
    float *wide = random_floats(count, 1, (uint64_t)m->count + 1);
    void *array = malloc(count * orr_dtype_size(dtype));

    ck_assert_int_lt(m->count, MOST_ARRAYS);
    for (size_t i = 0; i < count; i++)
        wide[i] *= wide[i] * wide[i];
    orri_round(dtype, count, wide, array);
    free(wide);
    m->array[m->count] = array;
    m->bytes[m->count++] = count * orr_dtype_size(dtype);
    return array;
}

static void *values(struct made *m, size_t count)
{
    return elements(m, m->dtype, count);
}

static float *floats(struct made *m, size_t count)
{
    return elements(m, ORR_F32, count);
}

static void drop(struct made *m)
{
    for (int i = 0; i < m->count; i++)
        free(m->array[i]);
}

/* Calls a case by one thread and by teams. */
static void by_teams(const char *what, enum orr_dtype dtype, void (*run)(struct made *, int), int variant)
{
    struct made alone = {.dtype = dtype};

    run(&alone, variant);
    for (size_t i = 0; i < ORRI_COUNT(teams); i++) {
        struct made together = {.dtype = dtype};
        orri_team_start(teams[i], NULL, NULL);
        ck_assert_int_eq(orri_team_size(), teams[i]);
        run(&together, variant);
        orri_team_stop();
        ck_assert_int_eq(orri_team_size(), 1);
        ck_assert_int_eq(together.count, alone.count);
        for (int a = 0; a < alone.count; a++)
            ck_assert_msg(memcmp(together.array[a], alone.array[a], alone.bytes[a]) == 0,
                          "%s in %s, %d: array %d is another by %d threads", what, orr_dtype_label(dtype), variant, a, teams[i]);
        drop(&together);
    }
    drop(&alone);
}

/* ---- the team itself ---------------------------------------------------------------------------------------------------- */

static void count_in(int first, int n, int *times, int *inside)
{
    if (orri_team_size() != 1)
        *inside = 1;
    for (int i = first; i < first + n; i++)
        times[i]++;
}

START_TEST(cutting)
{
    int times[1000], inside = 0;

    for (int threads = 1; threads <= 4; threads++) {
        orri_team_start(threads, NULL, NULL);
        ck_assert_int_eq(orri_team_largest(), threads);
        for (int total = 0; total < 1000; total += 37)
            for (int grain = 1; grain < 200; grain += 33) {
                memset(times, 0, sizeof(times));
                ORRI_TEAM_FOR(total, grain, first, n, count_in(first, n, times, &inside));
                for (int i = 0; i < 1000; i++)
                    ck_assert_int_eq(times[i], i < total);
            }
        orri_team_stop();
        ck_assert_int_eq(orri_team_largest(), 1);
    }
    ck_assert_int_eq(inside, 1);       /* of one thread alone, which has no team to be inside of */
}
END_TEST

static void note_place(void *argument, int place)
{
    ((int *)argument)[place]++;
}

START_TEST(binding)
{
    int calls[3] = {0};

    orri_team_start(3, note_place, calls);
    orri_team_stop();
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(calls[i], 1);
}
END_TEST

/* ---- kernels ---------------------------------------------------------------------------------------------------------------- */

static const struct shape {
    int rows, width;
} shapes[] = {{5, 7}, {70, 129}, {133, 768}, {5, 8200}};

static void norms(struct made *m, int variant)
{
    const struct shape *s = &shapes[variant];
    size_t n = (size_t)s->width, count = (size_t)s->rows * n;
    void *x = values(m, count), *y = values(m, count), *gamma = values(m, n), *beta = values(m, n), *again = values(m, count);
    void *dy = values(m, count), *dx = values(m, count);
    float *mean = floats(m, (size_t)s->rows), *rstd = floats(m, (size_t)s->rows), *dgamma = floats(m, n), *dbeta = floats(m, n);

    orri_cpu_layernorm(m->dtype, s->rows, s->width, x, gamma, beta, 1e-5f, y, mean, rstd);
    orri_cpu_layernorm_again(m->dtype, s->rows, s->width, x, gamma, beta, mean, rstd, again);
    orri_cpu_layernorm_backward(m->dtype, s->rows, s->width, dy, x, gamma, mean, rstd, y, dx, dgamma, dbeta, NULL);
    orri_cpu_layernorm_backward(m->dtype, s->rows, s->width, dy, x, gamma, mean, rstd, NULL, dy, dgamma, dbeta, NULL);
}

static void rows(struct made *m, int variant)
{
    const struct shape *s = &shapes[variant];
    size_t n = (size_t)s->width, count = (size_t)s->rows * n;
    void *x = values(m, count), *y = values(m, count), *bias = values(m, n), *sum = values(m, count), *dropped = values(m, count);
    void *narrow = elements(m, ORR_BF16, count), *copied = values(m, 2 * count), *cleared = values(m, count);
    const void *parts[] = {x, y, sum};
    const struct orri_dropout d = {0.3f, {1, 2, 3}};
    float *db = floats(m, n);
    size_t size = orr_dtype_size(m->dtype), row = n * size;

    orri_cpu_bias_rows(m->dtype, s->rows, s->width, x, bias, y);
    orri_cpu_bias_backward(m->dtype, s->rows, s->width, x, s->width, 0, db, NULL);
    orri_cpu_bias_backward(m->dtype, s->rows, s->width, y, s->width, 1, db, NULL);
    orri_cpu_sum(m->dtype, count, 3, parts, sum);
    orri_cpu_dropout(m->dtype, &d, s->rows, n, 11, 3 * n, x, y, dropped);
    orri_cpu_add(m->dtype, count, x, y);
    orri_cpu_convert(count, m->dtype, x, ORR_BF16, narrow);
    orri_cpu_copy_rows((size_t)s->rows, row, x, row, copied, 2 * row);
    orri_cpu_copy(row, x, (char *)copied + row);
    orri_cpu_zero(count * size - 1, cleared);
}

static void losses(struct made *m, int variant)
{
    enum { ROWS = 37, LD = 310, WIDTH = 301, FIRST = 100 };
    void *logits = values(m, ROWS * LD), *part = values(m, ROWS * LD);
    float *loss = floats(m, ROWS), *sums = floats(m, ROWS * ORRI_LOSS_PART), *norm = floats(m, ROWS * ORRI_LOSS_NORM), scale = 3;
    const float *of_parts[] = {sums};
    int32_t target[ROWS];

    for (int r = 0; r < ROWS; r++)
        target[r] = r % 9 == 4 ? ORR_IGNORE : r * 7 % WIDTH;
    orri_cpu_softmax_cross_entropy(m->dtype, ROWS, WIDTH, logits, LD, target, orri_sharp, variant, &scale, loss);
    orri_cpu_cross_entropy_part(m->dtype, ROWS, WIDTH, part, LD, target, FIRST, orri_sharp, sums);
    orri_cpu_cross_entropy_join(ROWS, 1, of_parts, target, norm, loss);
    orri_cpu_cross_entropy_part_gradient(m->dtype, ROWS, WIDTH, part, LD, target, FIRST, orri_sharp, norm, &scale);
}

static void embedding(struct made *m, int variant)
{
    enum { BATCH = 3, SEQ = 41, WIDTH = 200, VOCAB = 23 };
    const struct orr_part at = {variant ? 8 : 0, variant ? 20 : SEQ};
    size_t count = BATCH * (size_t)at.count * WIDTH;
    void *table = values(m, VOCAB * WIDTH), *position = values(m, SEQ * WIDTH), *y = values(m, count), *dy = values(m, count);
    float *dtable = floats(m, VOCAB * WIDTH), *dposition = floats(m, SEQ * WIDTH);
    int32_t ids[BATCH * SEQ];

    for (int i = 0; i < BATCH * SEQ; i++)
        ids[i] = i * 5 % (VOCAB + 2 * variant);         /* of some tokens another shard has the row */
    orri_cpu_embed(m->dtype, BATCH, SEQ, at, WIDTH, ids, variant, VOCAB, table, position, y);
    orri_cpu_embed_backward(m->dtype, BATCH, SEQ, at, WIDTH, ids, variant, VOCAB, dy, dtable, NULL);
    orri_cpu_position_backward(m->dtype, BATCH, at, WIDTH, dy, dposition);
}

static void attention(struct made *m, int variant)
{
    enum { BATCH = 2, SEQ = 70, HEADS = 3, DIM = 20, LD = 3 * HEADS * DIM, LD_OUT = HEADS * DIM };
    const struct orri_attention a = {.batch = BATCH, .seq = SEQ, .heads = HEADS, .head_dim = DIM, .ld = LD, .ld_out = LD_OUT,
                                     .scale = 0.2f, .dropout = {variant ? 0.2f : 0, {1, 2, 3}}, .first_sample = 4, .total_heads = 5,
                                     .first_head = 1};
    char *q = values(m, BATCH * SEQ * LD), *k = q + LD_OUT * orr_dtype_size(m->dtype), *v = k + LD_OUT * orr_dtype_size(m->dtype);
    void *o = values(m, BATCH * SEQ * LD_OUT), *d_o = values(m, BATCH * SEQ * LD_OUT);
    float *lse = floats(m, BATCH * HEADS * SEQ);
    void *forward = malloc(orri_cpu_attention_forward_scratch(&a, m->dtype));
    void *backward = malloc(orri_cpu_attention_backward_scratch(&a, m->dtype));

    orri_cpu_attention_forward(m->dtype, &a, q, k, v, o, lse, forward);
    orri_cpu_attention_backward(m->dtype, &a, q, k, v, o, d_o, lse, backward);
    free(forward);
    free(backward);
}

/* Also those of a training step of GPT-2's smallest: where the library finds them worth a team, and where it takes them apart. */
static const struct factors {
    bool trans_a, trans_b, to_f32, add, bias;
    int m, n, k;
    enum orri_epilogue epilogue;
} factors[] = {
    {false, false, false, false, true, 5, 7, 3, ORRI_EPILOGUE_NONE},
    {false, false, false, true, true, 200, 130, 70, ORRI_EPILOGUE_NONE},
    {true, false, true, true, false, 130, 200, 70, ORRI_EPILOGUE_NONE},
    {true, false, true, false, false, 128, 128, 512, ORRI_EPILOGUE_NONE},
    {false, false, false, false, true, 512, 768, 768, ORRI_EPILOGUE_NONE},
    {false, false, false, false, true, 256, 3072, 768, ORRI_EPILOGUE_ACTIVATION},
    {false, true, false, false, false, 256, 3072, 768, ORRI_EPILOGUE_ACTIVATION_BACKWARD},
    {false, true, false, false, false, 512, 768, 3072, ORRI_EPILOGUE_NONE},
    {true, false, true, false, false, 768, 768, 512, ORRI_EPILOGUE_NONE},
    {true, false, true, true, false, 3072, 768, 256, ORRI_EPILOGUE_NONE},
    {false, true, false, false, false, 40, 5003, 768, ORRI_EPILOGUE_NONE},
};

static void products(struct made *m, int variant)
{
    const struct factors *f = &factors[variant];
    size_t count = (size_t)f->m * (size_t)f->n;
    enum orr_dtype c_dtype = f->to_f32 ? ORR_F32 : m->dtype;
    struct orri_product p = {.trans_a = f->trans_a, .trans_b = f->trans_b, .m = f->m, .n = f->n, .k = f->k, .dtype = m->dtype,
                             .lda = f->trans_a ? f->m : f->k, .ldb = f->trans_b ? f->k : f->n, .ldc = f->n, .c_dtype = c_dtype,
                             .epilogue = f->epilogue};

    p.a = values(m, (size_t)f->m * (size_t)f->k);
    p.b = values(m, (size_t)f->k * (size_t)f->n);
    p.c = elements(m, c_dtype, count);
    p.add = f->add ? elements(m, c_dtype, count) : NULL;
    p.bias = f->bias ? values(m, (size_t)f->n) : NULL;
    p.aux = f->epilogue ? values(m, count) : NULL;
    orri_cpu_gemm(&p);
}

static void sums_of_squares(struct made *m, int variant)
{
    static const size_t counts[] = {1000, 262144, 1000003};
    double sum = orri_sum_squares((int64_t)counts[variant], floats(m, counts[variant]));

    memcpy(floats(m, 2), &sum, sizeof(sum));
}

static void updates(struct made *m, int variant)
{
    enum { ROWS = 90, WIDTH = 300, OFFSET = 64 };
    const struct orri_parameter parameter = {.views = 2, .count = OFFSET + ROWS * WIDTH,
                                             .view = {{.ndim = 1, .shape = {OFFSET - 3, 0}},
                                                      {.ndim = 2, .shape = {ROWS, WIDTH}, .offset = OFFSET}},
                                             .rate = {1, 1}};
    const struct orr_optimizer optimizer = orr_optimizer_default((enum orr_optimizer_kind)variant);
    size_t count = (size_t)parameter.count;
    float *g = floats(m, count), *p = floats(m, count), *state = floats(m, 2 * count);

    for (size_t i = 0; i < 2 * count; i++)
        state[i] *= state[i];
    orri_update_apply(&optimizer, &parameter, 0.01, 3, 0.5f, g, p, state);
}

static const struct {
    const char *what;
    void (*run)(struct made *, int);
    int variants;
} kernels[] = {
    {"norms", norms, ORRI_COUNT(shapes)}, {"rows", rows, ORRI_COUNT(shapes)}, {"losses", losses, 2}, {"embedding", embedding, 2},
    {"attention", attention, 2}, {"products", products, ORRI_COUNT(factors)}, {"squares", sums_of_squares, 3},
    {"updates", updates, 4},
};

START_TEST(same_bits)
{
    openblas_set_num_threads(1);
    for (size_t d = 0; d < ORRI_COUNT(dtypes); d++)
        for (int variant = 0; variant < kernels[_i].variants; variant++)
            by_teams(kernels[_i].what, dtypes[d], kernels[_i].run, variant);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("team");
    TCase *c = tcase_create("team");

    tcase_add_test(c, cutting);
    tcase_add_test(c, binding);
    tcase_add_loop_test(c, same_bits, 0, (int)ORRI_COUNT(kernels));
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return s;
}
