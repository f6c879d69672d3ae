/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizers on a device, against the CPU's; sums against double. */
#include "tests/check_main.h"
#include "tests/math/device.h"

#include "core/vector_cuda.h"
#include "train/optimizer_cuda.h"
#include "train/train.h"

enum { STEPS = 4, MOST_VIEWS = 3 };

/* Tiles of one parameter, of several with gaps between them, with a state at odd addresses, and larger than a grid. */
static const struct {
    int64_t count, stride;
    int views;
    struct orri_update_view view[MOST_VIEWS];
    size_t shift;
} tiles[] = {
    {1, 1, 1, {{0, 1, true, 1}}, 0},
    {1000, 1000, 3, {{0, 33, false, 1}, {33, 900, true, 0.25}, {940, 60, false, 1}}, 0},
    {1024, 1024, 3, {{0, 256, false, 1}, {256, 509, true, 0.25}, {768, 256, true, 1}}, 0},
    {1024, 1027, 2, {{0, 512, true, 1}, {512, 512, false, 1}}, 0},
    {777, 780, 1, {{0, 777, true, 1}}, 1},
    {2112 * 256 * 4 + 4099, 2112 * 256 * 4 + 4100, 1, {{0, 2112 * 256 * 4 + 4099, true, 1}}, 0},
};
enum { TILES = 6 };

static struct orri_cuda_update update_of(enum orr_optimizer_kind kind, int tile)
{
    struct orri_cuda_update u = {.optimizer = orr_optimizer_default(kind), .lr = 0.01, .views = tiles[tile].views,
                                 .stride = tiles[tile].stride};

    u.optimizer.weight_decay = 0.25f;
    u.optimizer.eps = 1e-3f;            /* large enough to show where it is added */
    memcpy(u.view, tiles[tile].view, sizeof(tiles[tile].view));
    return u;
}

static double *put_double(double value)
{
    double *to = room(sizeof(value));

    CUDA(cudaMemcpy(to, &value, sizeof(value), cudaMemcpyHostToDevice));
    return to;
}

static void check_update(enum orr_optimizer_kind kind, int tile, enum orr_dtype dtype)
{
    struct orri_cuda_update u = update_of(kind, tile);
    int states = orr_optimizer_state_count(kind);
    size_t count = (size_t)tiles[tile].count, all = (size_t)(states * tiles[tile].stride), shift = tiles[tile].shift;
    float *p = random_floats(count, 1, 1), *g = random_floats(count, 3, 2), *state = random_floats(all, 0, 0);
    float *marks = random_floats(count, 0, 0);
    const float scale = 0.125f;
    double *scales = put_double((double)scale), *correction = room(2 * sizeof(double));
    bool counts = tile % 2;                 /* the device knows of how many updates to correct the means */
    struct array ap = put(ORR_F32, count, p, shift), ag = put(ORR_F32, count, g, shift), as = put(ORR_F32, all, state, shift);
    struct array working = put(dtype, count, marks, shift);

    u.scale = scales;
    u.g = ag.data;
    u.p = ap.data;
    u.state = as.data;
    u.dtype = dtype;
    u.working = working.data;
    u.correction = counts ? correction : NULL;
    for (int t = 1; t <= STEPS; t++) {
        double now[] = {1 - pow((double)u.optimizer.beta1, t), 1 - pow((double)u.optimizer.beta2, t)};

        finish();
        CUDA(cudaMemcpy(correction, now, sizeof(now), cudaMemcpyHostToDevice));
        u.t = counts ? 1000 : t;
        orri_cuda_update(&device, &u);
        for (int v = 0; v < u.views; v++) {
            const struct orri_update_view *view = &u.view[v];
            orri_optimizer_update(&u.optimizer, view->decay, u.lr * view->rate, t, scale, view->count, g + view->offset,
                                  p + view->offset, state + view->offset, u.stride);
        }
    }
    float *got = get(&ap), *got_state = get(&as), *got_working = get(&working);
    for (size_t i = 0; i < count; i++) {
        bool viewed = false;

        for (int v = 0; v < u.views; v++)
            viewed = viewed || ((int64_t)i >= u.view[v].offset && (int64_t)i < u.view[v].offset + u.view[v].count);
        /* A few roundings a step of terms below 1, which a compiler may contract otherwise. */
        assert_close(got[i], p[i], viewed ? STEPS * 4 * FLT_EPSILON : 0, "%s, tile %d, element %zu", orr_optimizer_name(kind),
                     tile, i);
        assert_that(got_working[i] == (viewed ? rounded(dtype, got[i]) : 0));
    }
    for (size_t i = 0; i < all; i++)
        assert_close(got_state[i], state[i], STEPS * 4 * FLT_EPSILON * (state[i] != 0), "%s, tile %d, state %zu",
                     orr_optimizer_name(kind), tile, i);
    drop(&ap);
    drop(&ag);
    drop(&as);
    drop(&working);
    drop_room(scales);
    drop_room(correction);
    free(p);
    free(g);
    free(state);
    free(marks);
    free(got);
    free(got_state);
    free(got_working);
}

START_TEST(against_cpu)
{
    for (int tile = 0; tile < TILES; tile++)
        if (tile + 1 < TILES || _i == ORR_ADAMW)
            check_update((enum orr_optimizer_kind)_i, tile, dtypes[(tile + _i) % DTYPES]);
}
END_TEST

/* Nothing is touched where the device knows better; without pointers it goes on, with a scale of 1. */
START_TEST(nothing_to_do)
{
    enum { COUNT = 1000, TILE = 1 };
    static const struct {
        double squares;
        int skip;
        bool done;
    } cases[] = {{1, 0, true}, {1, 1, false}, {1, -1, false}, {(double)INFINITY, 0, false}, {(double)NAN, 0, false},
                 {0, 0, true}};

    for (int n = 0; n < 6; n++) {
        struct orri_cuda_update u = update_of(ORR_ADAMW, TILE);
        float *p = random_floats(COUNT, 1, 1), *g = random_floats(COUNT, 1, 2), *state = random_floats(2 * COUNT, 1, 3);
        struct array ap = put(ORR_F32, COUNT, p, 0), ag = put(ORR_F32, COUNT, g, 0), as = put(ORR_F32, 2 * COUNT, state, 0);
        struct array before = put(ORR_F32, COUNT, p, 0), states = put(ORR_F32, 2 * COUNT, state, 0);
        struct array working = put(ORR_BF16, COUNT, p, 0), was = put(ORR_BF16, COUNT, p, 0);
        double *squares = put_double(cases[n].squares);
        int *skip = put_ids(1, &cases[n].skip);

        u.t = 1;
        u.squares = squares;
        u.skip = skip;
        u.g = ag.data;
        u.p = ap.data;
        u.state = as.data;
        u.dtype = ORR_BF16;
        u.working = working.data;
        orri_cuda_update(&device, &u);
        if (cases[n].done) {
            u.squares = NULL;
            u.skip = NULL;
            u.p = before.data;
            u.state = states.data;
            u.working = NULL;
            orri_cuda_update(&device, &u);
        }
        assert_same(&ap, &before);
        assert_same(&as, &states);
        if (cases[n].done) {
            float *got = get(&ap);
            assert_that(got[0] != p[0]);
            free(got);
        } else {
            assert_same(&working, &was);
        }
        drop(&ap);
        drop(&ag);
        drop(&as);
        drop(&before);
        drop(&states);
        drop(&working);
        drop(&was);
        drop_room(squares);
        drop_room(skip);
        free(p);
        free(g);
        free(state);
    }
}
END_TEST

/* What is not to be applied is marked, and where it is marked nothing is touched. */
START_TEST(pushed)
{
    enum { COUNT = 1027, TILE = 1 };
    static const struct {
        double squares;
        int skip;
        bool stopped, done;
    } cases[] = {{1, 0, false, true}, {1, 1, false, false}, {1, 0, true, false}, {(double)INFINITY, 0, false, false},
                 {(double)NAN, 0, false, false}, {0, 0, false, true}};

    for (int n = 0; n < 6; n++)
        for (size_t shift = 0; shift < 2; shift++) {
            struct orri_cuda_update u = update_of(ORR_ADAMW, TILE);
            float *p = random_floats(COUNT, 1, 1), *g = random_floats(COUNT, 1, 2), *state = random_floats(2 * COUNT, 1, 3);
            struct array ap = put(ORR_F32, COUNT, p, shift), ag = put(ORR_F32, COUNT, g, shift);
            struct array as = put(ORR_F32, 2 * COUNT, state, shift), was = put(ORR_F32, COUNT, p, shift);
            double *squares = put_double(cases[n].squares), *scale = put_double(0.3);
            int *skip = put_ids(1, &cases[n].skip);

            orri_cuda_push(&device, cases[n].stopped, scale, skip, squares, COUNT, ag.data);
            u.t = 1;
            u.pushed = true;
            u.g = ag.data;
            u.p = ap.data;
            u.state = as.data;
            orri_cuda_update(&device, &u);
            float *got = get(&ag), *after = get(&ap);
            for (int i = 0; i < COUNT; i++)
                assert_that(!cases[n].done && i == 0 ? isnan(got[0]) : got[i] == (cases[n].done ? g[i] * 0.3f : g[i]));
            assert_that((after[0] != p[0]) == cases[n].done);
            if (!cases[n].done)
                assert_same(&ap, &was);
            drop(&ap);
            drop(&ag);
            drop(&as);
            drop(&was);
            drop_room(squares);
            drop_room(scale);
            drop_room(skip);
            free(p);
            free(g);
            free(state);
            free(got);
            free(after);
        }
}
END_TEST

/* Without masters: up or down at random in bf16, by the words of the stream, the nearer the likelier, and right in the mean. */
START_TEST(rounded_at_random)
{
    enum { COUNT = 4099 };
    const struct orr_rng rng = {5, 6, 7};
    struct orri_cuda_update u = {.optimizer = orr_optimizer_default(ORR_SGD), .lr = 1, .t = 1, .views = 1,
                                 .view = {{0, COUNT, false, 1}}, .stride = COUNT, .dtype = ORR_BF16};
    float *p = random_floats(COUNT, 1, 1), *g = random_floats(COUNT, 1e-3f, 2), *state = random_floats(COUNT, 0, 0);
    uint32_t words[COUNT];
    double error = 0, size = 0;
    const size_t shift = _i ? 3 : 0;

    g[1] = -INFINITY;
    p[2] = NAN;
    g[3] = 0;
    u.optimizer.beta1 = 0;
    struct array working = put(ORR_BF16, COUNT, p, shift), ag = put(ORR_F32, COUNT, g, 0), as = put(ORR_F32, COUNT, state, 0);
    u.g = ag.data;
    u.state = as.data;
    u.working = working.data;
    u.rounding = &rng;
    orri_cuda_update(&device, &u);
    orr_rng_words(&rng, 0, COUNT, words);
    float *got = get(&working);
    for (int i = 0; i < COUNT; i++) {
        float want = p[i] - g[i];
        uint32_t bits, up;

        if (!isfinite(want)) {
            assert_that(isnan(want) ? isnan(got[i]) : got[i] == want);
            continue;
        }
        memcpy(&bits, &want, 4);
        up = bits + (words[i] >> 16);
        assert_close(got[i], from_bf16((uint16_t)(up >> 16)), 0, "element %d: %.9g", i, want);
        error += (double)got[i] - (double)want;
        size += rounding(ORR_BF16, want) * rounding(ORR_BF16, want);
    }
    assert_that(got[3] == p[3]);
    /* Five standard deviations of a sum of independent errors, each at most a unit in the last place. */
    ck_assert_msg(fabs(error) < 5 * 2 * sqrt(size), "off by %g", error);
    free(got);
    drop(&working);
    drop(&ag);
    drop(&as);
    free(p);
    free(g);
    free(state);
}
END_TEST

/* ---- sums ------------------------------------------------------------------------------------------------------------ */

START_TEST(sum_of_squares)
{
    static const size_t counts[] = {1, 3, 31, 1023, 1025, 40001, 2112 * 1024 + 5};

    for (int c = 0; c < 7; c++) {
        size_t count = counts[c];
        float *x = random_floats(count, 3, 1);
        double want = 0, sums[2], *squares = room(sizeof(double));
        void *scratch = room(orri_cuda_sum_squares_scratch(count));
        static const float bad[] = {0, NAN, INFINITY, 3e38f};

        for (int n = 0; n < 4; n++) {
            if (n > 0)
                x[count - 1] = bad[n];
            want = 0;
            for (size_t k = 0; k < count; k++)
                want += (double)x[k] * x[k];
            for (int shift = 0; shift < 2; shift++) {
                struct array ax = put(ORR_F32, count, x, (size_t)shift);
                for (int twice = 0; twice < 2; twice++) {
                    orri_cuda_sum_squares(&device, count, ax.data, squares, scratch);
                    finish();
                    CUDA(cudaMemcpy(&sums[twice], squares, sizeof(double), cudaMemcpyDeviceToHost));
                }
                ck_assert_mem_eq(&sums[0], &sums[1], sizeof(double));
                assert_that(!isfinite(want) == !isfinite(sums[0]));
                if (isfinite(want))
                    assert_close(sums[0], want, 1e-15 * (double)count * want + DBL_EPSILON * want, "%zu elements", count);
                drop(&ax);
            }
        }
        drop_room(squares);
        drop_room(scratch);
        free(x);
    }
}
END_TEST

START_TEST(outer_update)
{
    static const size_t counts[] = {1, 33, 1000};

    for (int c = 0; c < 3; c++)
        for (int n = 0; n < 3; n++) {
            size_t count = counts[c], shift = n == 2 ? 1 : 0;
            double lr = n ? 0.7 : 1, momentum = n ? 0.9 : 0;
            float *sum = random_floats(count, 3, 1), *p = random_floats(count, 1, 2), *m = random_floats(count, 1, 3);
            struct array as = put(ORR_F32, count, sum, shift), ap = put(ORR_F32, count, p, 0), am = put(ORR_F32, count, m, 0);

            orri_cuda_outer_update(&device, lr, momentum, 0.25f, count, as.data, ap.data, am.data);
            orri_outer_update(lr, momentum, 0.25f, (int64_t)count, sum, p, m);
            float *got = get(&ap), *got_m = get(&am);
            for (size_t k = 0; k < count; k++) {
                assert_close(got[k], p[k], 8 * FLT_EPSILON, "element %zu", k);
                assert_close(got_m[k], m[k], 4 * FLT_EPSILON, "momentum %zu", k);
            }
            drop(&as);
            drop(&ap);
            drop(&am);
            free(sum);
            free(p);
            free(m);
            free(got);
            free(got_m);
        }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("train: updates on a device");
    TCase *c = tcase_create("updates");

    begin_device();
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, against_cpu, ORR_ADAMW, ORR_RMSPROP + 1);
    tcase_add_test(c, nothing_to_do);
    tcase_add_test(c, pushed);
    tcase_add_loop_test(c, rounded_at_random, 0, 2);
    tcase_add_test(c, sum_of_squares);
    tcase_add_test(c, outer_update);
    suite_add_tcase(s, c);
    return s;
}
