/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh: coordinates and ranks, cutting and dealing, slot policies. Needs no StarPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/orrery.h>

#include "check_main.h"
#include "meshes.h"

/* ---- coordinates --------------------------------------------------------------------------------------------- */

static void check_ranks(const struct orr_mesh *mesh)
{
    int64_t size = orr_mesh_size(mesh);
    int on_rank[64] = {0}, last = 0;

    ck_assert_int_eq(orr_mesh_check(mesh), 0);
    for (int64_t i = 0; i < size; i++) {
        int rank = orr_mesh_rank(mesh, orr_mesh_coord(mesh, i));
        ck_assert_msg(rank == last || rank == last + 1, "rank %d after %d", rank, last);
        ck_assert_int_lt(rank, mesh->ranks);
        on_rank[rank]++;
        last = rank;
    }
    for (int r = 0; r < mesh->ranks; r++)
        ck_assert_int_eq(on_rank[r], size / mesh->ranks);
}

static void check_grid(struct orr_mesh mesh)
{
    int64_t size = orr_mesh_size(&mesh);
    bool seen[64] = {false};

    ck_assert_int_eq(size, mesh.dp * mesh.pp * mesh.tp);
    for (int p = 0; p < mesh.pp; p++) {
        for (int d = 0; d < mesh.dp; d++) {
            for (int t = 0; t < mesh.tp; t++) {
                int64_t i = orr_mesh_index(&mesh, (struct orr_coord){d, p, t});
                struct orr_coord back = orr_mesh_coord(&mesh, i);
                ck_assert(i >= 0 && i < size && !seen[i]);
                seen[i] = true;
                ck_assert(back.d == d && back.p == p && back.t == t);
                /* Shards lie beside each other, then replicas, then stages. */
                ck_assert_int_eq(i - orr_mesh_index(&mesh, (struct orr_coord){d, p, 0}), t);
                ck_assert_int_eq(i / mesh.tp % mesh.dp, d);
            }
        }
    }
    for (mesh.ranks = 1; mesh.ranks <= size; mesh.ranks++) {
        if (size % mesh.ranks == 0)
            check_ranks(&mesh);
        else
            ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    }
}

START_TEST(test_grid)
{
    for (int dp = 1; dp <= 4; dp++)
        for (int pp = 1; pp <= 4; pp++)
            for (int tp = 1; tp <= 4; tp++)
                check_grid((struct orr_mesh)MESH(dp, pp, tp));
}
END_TEST

/* Stage s is at coordinate s mod pp, however many stages there are. */
static void check_places(struct orr_mesh mesh)
{
    int stages = mesh.stages ? mesh.stages : mesh.pp, size = mesh.dp * mesh.pp * mesh.tp;

    ck_assert_int_eq(orr_mesh_check(&mesh), 0);
    ck_assert_int_eq(orr_mesh_stages(&mesh), stages);
    ck_assert_int_eq(orr_mesh_chunks(&mesh), mesh.sequence_parallel ? mesh.tp : 1);
    for (int d = 0; d < mesh.dp; d++)
        for (int s = 0; s < stages; s++)
            for (int t = 0; t < mesh.tp; t++)
                ck_assert_int_eq(orr_mesh_place(&mesh, d, s, t),
                                 ((s % mesh.pp * mesh.dp + d) * mesh.tp + t) * mesh.ranks / size);
}

START_TEST(test_places)
{
    for (int shape = 0; shape < 27; shape++) {
        struct orr_mesh mesh = MESH(1 + shape % 3, 1 + shape / 3 % 3, 1 + shape / 9);
        int64_t size = orr_mesh_size(&mesh);
        for (int rounds = 0; rounds <= 3; rounds++) {
            mesh.stages = rounds * mesh.pp;
            mesh.sequence_parallel = rounds % 2;
            for (mesh.ranks = 1; mesh.ranks <= size; mesh.ranks++)
                if (size % mesh.ranks == 0)
                    check_places(mesh);
        }
    }
}
END_TEST

START_TEST(test_mesh_errors)
{
    static const struct orr_mesh bad[] = {MESH(0, 1, 1), MESH(1, 0, 1), MESH(1, 1, 0), {.dp = 1, .pp = 1, .tp = 1},
                                          MESH(-2, 1, -2)};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_int_eq(orr_mesh_check(&bad[i]), ORR_EINVAL);
        ck_assert_ptr_nonnull(strstr(orr_error(), "at least 1"));
    }
    ck_assert_int_eq(orr_mesh_check(&(struct orr_mesh){.dp = 2, .pp = 2, .tp = 1, .ranks = 3}), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "mesh: dp 2 x pp 2 x tp 1 does not divide over 3 ranks");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "--dp"));
    struct orr_mesh mesh = {.dp = 1, .pp = 3, .tp = 1, .ranks = 1, .stages = 4};
    ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "mesh: 4 stages are no multiple of pp 3");
    ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "--stages"));
    mesh.stages = -3;
    ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    mesh.stages = 0;
    for (mesh.zero = 0; mesh.zero <= 3; mesh.zero++)
        ck_assert_int_eq(orr_mesh_check(&mesh), 0);
    ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "mesh: zero 4 is none");
    mesh.zero = -1;
    ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    mesh.zero = 3;
    mesh.parameter_slots = -1;
    ck_assert_int_eq(orr_mesh_check(&mesh), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "mesh: -1 parameter slots");
}
END_TEST

/* ---- cutting ------------------------------------------------------------------------------------------------- */

static void check_split(int64_t n, int64_t unit, int parts)
{
    int64_t next = 0, least = INT64_MAX, most = 0, before = INT64_MAX;

    for (int i = 0; i < parts; i++) {
        struct orr_part part = orr_split(n, unit, parts, i);
        int64_t units = (part.count + unit - 1) / unit;
        ck_assert_int_eq(part.first, next);
        ck_assert_int_ge(part.count, 0);
        next = part.first + part.count;
        /* Only what ends the whole may be short. */
        ck_assert(part.count % unit == 0 || next == n);
        ck_assert_int_le(units, before);
        before = units;
        least = units < least ? units : least;
        most = units > most ? units : most;
    }
    ck_assert_int_eq(next, n);
    ck_assert_msg(most - least <= 1, "%lld by %lld in %d: parts of %lld and %lld units", (long long)n, (long long)unit,
                  parts, (long long)least, (long long)most);
}

START_TEST(test_split)
{
    check_split(50257, 1, 8);
    check_split(25 * 64, 64, 2);
    check_split(25 * 64, 64, 8);
    for (int64_t n = 0; n <= 40; n++)
        for (int64_t unit = 1; unit <= 7; unit++)
            for (int parts = 1; parts <= 9; parts++)
                check_split(n, unit, parts);
    ck_assert_int_eq(orr_split(50257, 1, 8, 0).count, 6283);
    ck_assert_int_eq(orr_split(50257, 1, 8, 7).count, 6282);
    ck_assert_int_eq(orr_split(25 * 64, 64, 2, 0).count, 13 * 64);
    ck_assert_int_eq(orr_split(3, 1, 5, 4).count, 0);
}
END_TEST

static double dearest(int n, const double *cost, int stages, const int *first)
{
    double most = 0;

    ck_assert_int_eq(first[0], 0);
    ck_assert_int_eq(first[stages], n);
    for (int s = 0; s < stages; s++) {
        double sum = 0;
        ck_assert_msg(first[s] < first[s + 1], "stage %d of %d is empty", s, stages);
        for (int i = first[s]; i < first[s + 1]; i++)
            sum += cost[i];
        most = sum > most ? sum : most;
    }
    return most;
}

static double squares(const double *cost, int stages, const int *first)
{
    double sum = 0;

    for (int s = 0; s < stages; s++) {
        double here = 0;
        for (int i = first[s]; i < first[s + 1]; i++)
            here += cost[i];
        sum += here * here;
    }
    return sum;
}

/* Every set of cuts, as bits between the blocks: the cheapest, of those the most even, of those the earliest. */
static double best_by_hand(int n, const double *cost, int stages, int *best_first)
{
    double best = -1;
    int first[16];

    for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
        if (__builtin_popcount(cuts) != stages - 1)
            continue;
        int s = 0;
        first[s++] = 0;
        for (int i = 1; i < n; i++)
            if (cuts >> (i - 1) & 1)
                first[s++] = i;
        first[stages] = n;
        double here = dearest(n, cost, stages, first), uneven = squares(cost, stages, first);
        bool earlier = best >= 0 && here == best && uneven < squares(cost, stages, best_first);
        bool alike = best >= 0 && here == best && uneven == squares(cost, stages, best_first);
        for (int k = 1; alike && k < stages && !earlier; k++) {
            if (first[k] > best_first[k])
                break;
            earlier = first[k] < best_first[k];
        }
        if (best < 0 || here < best || earlier) {
            best = here;
            memcpy(best_first, first, (size_t)(stages + 1) * sizeof(*first));
        }
    }
    return best;
}

START_TEST(test_partition)
{
    int first[16], by_hand[16];
    double cost[10];

    srand(7);
    for (int round = 0; round < 60; round++) {
        for (int n = 1; n <= 10; n++) {
            /* Whole numbers, so that no order of summing differs; with zeros and ties. */
            for (int i = 0; i < n; i++)
                cost[i] = rand() % (round < 30 ? 4 : 100);
            for (int stages = 1; stages <= n; stages++) {
                ck_assert_int_eq(orr_partition(n, cost, stages, first), 0);
                double best = best_by_hand(n, cost, stages, by_hand);
                ck_assert_double_eq(dearest(n, cost, stages, first), best);
                for (int s = 0; s <= stages; s++)
                    ck_assert_int_eq(first[s], by_hand[s]);
            }
        }
    }
}
END_TEST

START_TEST(test_partition_of_fractions)
{
    double cost[30];
    int first[31];

    for (int i = 0; i < 30; i++)
        cost[i] = 1;
    ck_assert_int_eq(orr_partition(30, cost, 8, first), 0);
    ck_assert_double_eq(dearest(30, cost, 8, first), 4);
    srand(11);
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 30; i++)
            cost[i] = rand() / 1e3;
        for (int stages = 1; stages <= 30; stages++) {
            ck_assert_int_eq(orr_partition(30, cost, stages, first), 0);
            dearest(30, cost, stages, first);
        }
    }
    ck_assert_int_eq(orr_partition(3, cost, 4, first), ORR_EINVAL);
    ck_assert_str_eq(orr_error(), "mesh: 3 blocks cannot fill 4 pipeline stages");
    ck_assert_str_eq(orr_error_remedy(), "choose --pp and --stages of at most 3");
    ck_assert_int_eq(orr_partition(3, cost, 0, first), ORR_EINVAL);
}
END_TEST

/* ---- dealing ------------------------------------------------------------------------------------------------- */

static int64_t most_loaded(int n, const int64_t *bytes, int owners, const int *owner)
{
    int64_t load[16] = {0}, most = 0;

    for (int i = 0; i < n; i++) {
        ck_assert(owner[i] >= 0 && owner[i] < owners);
        load[owner[i]] += bytes[i];
    }
    for (int o = 0; o < owners; o++)
        most = load[o] > most ? load[o] : most;
    return most;
}

static int64_t least_possible(int n, const int64_t *bytes, int owners)
{
    int owner[8], all = 1;
    int64_t best = INT64_MAX;

    for (int i = 0; i < n; i++)
        all *= owners;
    for (int code = 0; code < all; code++) {
        for (int i = 0, rest = code; i < n; i++, rest /= owners)
            owner[i] = rest % owners;
        int64_t most = most_loaded(n, bytes, owners, owner);
        best = most < best ? most : best;
    }
    return best;
}

START_TEST(test_balance)
{
    int64_t bytes[8];
    int owner[8], again[8];

    srand(3);
    for (int round = 0; round < 40; round++) {
        for (int n = 1; n <= 6; n++) {
            for (int i = 0; i < n; i++)
                bytes[i] = rand() % (round % 2 ? 1000 : 5);
            for (int owners = 1; owners <= 4; owners++) {
                ck_assert_int_eq(orr_balance(n, bytes, owners, owner), 0);
                ck_assert_int_eq(orr_balance(n, bytes, owners, again), 0);
                ck_assert_mem_eq(owner, again, (size_t)n * sizeof(*owner));
                /* Graham 1969: largest first is within 4/3 of the optimum. */
                ck_assert_int_le(3 * most_loaded(n, bytes, owners, owner), 4 * least_possible(n, bytes, owners));
            }
        }
    }
}
END_TEST

START_TEST(test_balance_exactly)
{
    static const int64_t bytes[] = {3, 9, 5, 5, 9, 1};
    static const int two[] = {0, 0, 0, 1, 1, 1};
    int owner[6];

    ck_assert_int_eq(orr_balance(6, bytes, 2, owner), 0);
    ck_assert_mem_eq(owner, two, sizeof(two));
    ck_assert_int_eq(orr_balance(0, bytes, 3, owner), 0);
}
END_TEST

/* ---- slot policies ------------------------------------------------------------------------------------------- */

START_TEST(test_policy_words)
{
    static const char *const bad[] = {"", "zb2", "GPIPE", "0", "-1", " 5", "+5", "5 ", "3x", "1.5", "1048577",
                                      "99999999999999999999"};
    struct orr_slot_policy policy;

    ck_assert(orr_slot_policy_parse("gpipe", &policy) == 0 && policy.kind == ORR_SLOTS_GPIPE);
    ck_assert(!orr_slot_split(&policy));
    ck_assert(orr_slot_policy_parse("1f1b", &policy) == 0 && policy.kind == ORR_SLOTS_1F1B);
    ck_assert(!orr_slot_split(&policy));
    ck_assert(orr_slot_policy_parse("h1", &policy) == 0 && policy.kind == ORR_SLOTS_H1);
    ck_assert(orr_slot_split(&policy));
    ck_assert(orr_slot_policy_parse("zb", &policy) == 0 && policy.kind == ORR_SLOTS_ZB);
    ck_assert(orr_slot_split(&policy));
    ck_assert(orr_slot_policy_parse("1", &policy) == 0 && policy.kind == ORR_SLOTS_COUNT && policy.count == 1);
    ck_assert(orr_slot_policy_parse("1048576", &policy) == 0 && policy.count == 1048576);
    ck_assert(orr_slot_split(&policy));
    ck_assert(orr_slot_split(&(struct orr_slot_policy){0}));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char message[80];
        ck_assert_msg(orr_slot_policy_parse(bad[i], &policy) == ORR_EINVAL, "'%s' was taken", bad[i]);
        snprintf(message, sizeof(message), "slots: '%s' is no slot policy", bad[i]);
        ck_assert_str_eq(orr_error(), message);
        ck_assert_ptr_nonnull(strstr(orr_error_remedy(), "gpipe, 1f1b, h1, zb"));
    }
}
END_TEST

START_TEST(test_slot_counts)
{
    const struct orr_slot_policy usual = {ORR_SLOTS_DEFAULT, 0}, gpipe = {ORR_SLOTS_GPIPE, 0},
                                 f1b = {ORR_SLOTS_1F1B, 0}, h1 = {ORR_SLOTS_H1, 0}, zb = {ORR_SLOTS_ZB, 0},
                                 three = {ORR_SLOTS_COUNT, 3};

    for (int p = 1; p <= 8; p *= 2) {
        for (int s = 0; s < p; s++) {
            ck_assert_int_eq(orr_slot_count(&gpipe, s, p, 64, 4), 64);
            ck_assert_int_eq(orr_slot_count(&f1b, s, p, 64, 4), p - s);
            ck_assert_int_eq(orr_slot_count(&h1, s, p, 64, 4), p - s);
            ck_assert_int_eq(orr_slot_count(&zb, s, p, 64, 4), 2 * p - 1);
            ck_assert_int_eq(orr_slot_count(&three, s, p, 64, 4), 3);
            ck_assert_int_eq(orr_slot_count(&usual, s, p, 64, 4), p == 1 ? 5 : p - s);
            for (int m = 0; m <= 3; m++) {
                ck_assert_int_eq(orr_slot_count(&gpipe, s, p, m, 4), m ? m : 1);
                ck_assert_int_eq(orr_slot_count(&zb, s, p, m, 4), m <= 1 ? 1 : m < 2 * p - 1 ? m : 2 * p - 1);
                ck_assert_int_le(orr_slot_count(&usual, s, p, m, 4), m ? m : 1);
            }
        }
    }
}
END_TEST

/* ---- shards of a parameter ----------------------------------------------------------------------------------- */

static void check_shards(const struct orr_view *view, int tp)
{
    int64_t sum = 0;

    for (int t = 0; t < tp; t++) {
        struct orr_view shard = orr_view_shard(view, tp, t);
        ck_assert_int_eq(shard.ndim, view->ndim);
        for (int k = 0; k < view->ndim; k++)
            if (k != view->split)
                ck_assert_int_eq(shard.shape[k], view->shape[k]);
        /* Every shard has the same part of every group: as many columns of q as of k and of v. */
        ck_assert_int_eq(shard.shape[view->split] % view->groups, 0);
        ck_assert_int_eq(shard.shape[view->split] / view->groups % view->unit, 0);
        sum += shard.shape[view->split];
    }
    ck_assert_int_eq(sum, view->shape[view->split]);
}

START_TEST(test_shards)
{
    struct orr_view qkv = {"qkv.weight", 2, {1600, 4800}, ORR_INITIAL_ZERO, 0, 1, 3, 64, 0, 0};
    struct orr_view bias = {"qkv.bias", 1, {4800, 0}, ORR_INITIAL_ZERO, 0, 0, 3, 64, 0, 0};
    struct orr_view rows = {"output.weight", 2, {50257, 1600}, ORR_INITIAL_ZERO, 0, 0, 1, 1, 0, 0};
    struct orr_view whole = {"norm.weight", 1, {1600, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0, 0};

    for (int tp = 1; tp <= 8; tp++) {
        check_shards(&qkv, tp);
        check_shards(&bias, tp);
        check_shards(&rows, tp);
        for (int t = 0; t < tp; t++)
            ck_assert_int_eq(orr_view_shard(&whole, tp, t).shape[0], 1600);
    }
    ck_assert_int_eq(orr_view_shard(&qkv, 2, 0).shape[1], 3 * 13 * 64);     /* 25 heads: 13 and 12 */
    ck_assert_int_eq(orr_view_shard(&qkv, 2, 1).shape[1], 3 * 12 * 64);
}
END_TEST

/* Shard t along the dimension that is split, worked out index by index: of every group its part, group by group. */
static int64_t whole_index(const struct orr_view *view, int tp, int t, int64_t index)
{
    int64_t piece = view->shape[view->split] / view->groups;
    struct orr_part part = orr_split(piece, view->unit, tp, t);

    return index / part.count * piece + part.first + index % part.count;
}

static int64_t elements(const struct orr_view *view)
{
    return view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
}

/* Every element of the whole belongs to one run of one shard, and every element of a shard to one of its runs; the runs
 * join what belongs together. */
static void check_runs(const struct orr_view *view, int tp)
{
    int64_t count = elements(view), width = view->ndim == 2 ? view->shape[1] : 1;
    int *seen = calloc((size_t)count, sizeof(*seen)), *seen_part = calloc((size_t)count, sizeof(*seen_part));

    for (int t = 0; t < tp; t++) {
        struct orr_view shard = orr_view_shard(view, tp, t);
        int64_t shard_width = view->ndim == 2 ? shard.shape[1] : 1;
        memset(seen_part, 0, (size_t)count * sizeof(*seen_part));
        for (int64_t i = 0; i < orr_view_run_count(view, tp); i++) {
            struct orr_run run = orr_view_run(view, tp, t, i);
            ck_assert(run.count >= 0 && run.part >= 0 && run.whole >= 0);
            ck_assert(run.part + run.count <= elements(&shard) && run.whole + run.count <= count);
            for (int64_t k = 0; k < run.count; k++) {
                int64_t at[2] = {(run.part + k) / shard_width, (run.part + k) % shard_width};
                if (view->split >= 0)
                    at[view->split] = whole_index(view, tp, t, at[view->split]);
                ck_assert_int_eq(run.whole + k, at[0] * width + at[1]);
                seen[run.whole + k]++;
                seen_part[run.part + k]++;
            }
        }
        for (int64_t k = 0; k < elements(&shard); k++)
            ck_assert_int_eq(seen_part[k], 1);
    }
    for (int64_t k = 0; k < count; k++)
        ck_assert_int_eq(seen[k], view->split < 0 ? tp : 1);
    free(seen);
    free(seen_part);
}

START_TEST(test_runs)
{
    static const struct orr_view views[] = {
        {"columns", 2, {5, 21}, ORR_INITIAL_ZERO, 0, 1, 1, 1, 0, 0},
        {"heads", 2, {4, 30}, ORR_INITIAL_ZERO, 0, 1, 1, 6, 0, 0},
        {"qkv", 2, {6, 3 * 35}, ORR_INITIAL_ZERO, 0, 1, 3, 7, 0, 0},
        {"qkv.bias", 1, {3 * 35, 0}, ORR_INITIAL_ZERO, 0, 0, 3, 7, 0, 0},
        {"rows", 2, {17, 3}, ORR_INITIAL_ZERO, 0, 0, 1, 1, 0, 0},
        {"row groups", 2, {3 * 10, 4}, ORR_INITIAL_ZERO, 0, 0, 3, 2, 0, 0},
        {"bias", 1, {13, 0}, ORR_INITIAL_ZERO, 0, 0, 1, 1, 0, 0},
        {"norm", 1, {9, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0, 0},
        {"table", 2, {9, 5}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0, 0},
        {"last unit short", 1, {3 * 11, 0}, ORR_INITIAL_ZERO, 0, 0, 3, 4, 0, 0},
    };

    for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++)
        for (int tp = 1; tp <= 8; tp++)
            check_runs(&views[i], tp);
    /* As few as can be: what is not split, and rows, in one piece (of each group). */
    ck_assert_int_eq(orr_view_run_count(&views[8], 4), 1);
    ck_assert_int_eq(orr_view_run_count(&views[4], 4), 1);
    ck_assert_int_eq(orr_view_run_count(&views[5], 4), 3);
    ck_assert_int_eq(orr_view_run_count(&views[2], 4), 6 * 3);
    ck_assert_int_eq(orr_view_run_count(&views[2], 1), 1);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mesh");
    TCase *c = tcase_create("mesh");

    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_grid);
    tcase_add_test(c, test_places);
    tcase_add_test(c, test_mesh_errors);
    tcase_add_test(c, test_split);
    tcase_add_test(c, test_partition);
    tcase_add_test(c, test_partition_of_fractions);
    tcase_add_test(c, test_balance);
    tcase_add_test(c, test_balance_exactly);
    tcase_add_test(c, test_policy_words);
    tcase_add_test(c, test_slot_counts);
    tcase_add_test(c, test_shards);
    tcase_add_test(c, test_runs);
    suite_add_tcase(s, c);
    return s;
}
