/* SPDX-License-Identifier: Apache-2.0 */
/* Which cores compute together, on machines that hwloc pretends. */
#include "tests/check_main.h"

#include "core/cores.h"

/* A machine, the hardware threads of it that are allowed (a list of hwloc, or NULL for all), and what comes out: the threads of each
 * group, and the hardware thread of the first of each. */
static const struct machine {
    const char *synthetic, *allowed;
    enum orr_cpu_group kind;
    int threads, count, size[8];
    unsigned first[8], spare;
} machines[] = {
    {"numa:2 l3:4 core:8 pu:1", NULL, ORR_CPU_GROUP_L3, 0, 8, {8, 8, 8, 8, 8, 8, 8, 8}, {0, 8, 16, 24, 32, 40, 48, 56}, 0},
    {"numa:2 l3:4 core:8 pu:1", NULL, ORR_CPU_GROUP_NUMA, 0, 2, {32, 32}, {0, 32}, 0},
    {"numa:2 l3:4 core:8 pu:1", NULL, ORR_CPU_GROUP_L3, 12, 2, {8, 4}, {0, 8}, 12},
    {"numa:2 l3:4 core:8 pu:1", "20-35,63", ORR_CPU_GROUP_L3, 0, 4, {4, 8, 4, 1}, {20, 24, 32, 63}, 20},
    {"numa:2 l3:4 core:8 pu:1", "20-35,63", ORR_CPU_GROUP_NUMA, 16, 2, {12, 4}, {20, 32}, 63},
    {"numa:2 l3:4 core:8 pu:1", "20-35", ORR_CPU_GROUP_NUMA, 1, 1, {1}, {20}, 21},
    /* A thread per core, not per hardware thread; of cores of which one hardware thread is allowed, that one. */
    {"numa:1 l3:2 core:2 pu:2", NULL, ORR_CPU_GROUP_L3, 0, 2, {2, 2}, {0, 4}, 0},
    {"numa:1 l3:2 core:2 pu:2", "1,3,6", ORR_CPU_GROUP_L3, 0, 2, {2, 1}, {1, 6}, 1},
    /* Without caches that cores share. */
    {"numa:2 core:4 pu:1", NULL, ORR_CPU_GROUP_L3, 0, 2, {4, 4}, {0, 4}, 0},
    {"core:4 pu:1", NULL, ORR_CPU_GROUP_L3, 0, 1, {4}, {0}, 0},
    {"core:4 pu:1", NULL, ORR_CPU_GROUP_NUMA, 3, 1, {3}, {0}, 3},
    /* More threads than cores. */
    {"l3:2 core:1 pu:1", NULL, ORR_CPU_GROUP_L3, 5, 2, {3, 2}, {0, 1}, 0},
};

START_TEST(grouping)
{
    const struct machine *m = &machines[_i];
    hwloc_topology_t topology;
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    struct orri_groups groups;

    ck_assert_int_eq(hwloc_topology_init(&topology), 0);
    ck_assert_int_eq(hwloc_topology_set_synthetic(topology, m->synthetic), 0);
    ck_assert_int_eq(hwloc_topology_load(topology), 0);
    hwloc_bitmap_copy(allowed, hwloc_topology_get_topology_cpuset(topology));
    if (m->allowed)
        ck_assert_int_eq(hwloc_bitmap_list_sscanf(allowed, m->allowed), 0);
    ck_assert_int_eq(orri_cores_group(topology, allowed, m->kind, m->threads, &groups), 0);
    ck_assert_int_eq(groups.count, m->count);
    for (int g = 0; g < m->count; g++) {
        ck_assert_int_eq(groups.first[g + 1] - groups.first[g], m->size[g]);
        ck_assert_uint_eq(groups.pu[groups.first[g]], m->first[g]);
    }
    ck_assert_int_eq(groups.threads, groups.first[groups.count]);
    for (int t = 0; t < groups.threads; t++) {
        ck_assert(hwloc_bitmap_isset(allowed, groups.pu[t]));
        ck_assert(t == 0 || groups.pu[t] >= groups.pu[t - 1]);
    }
    ck_assert_uint_eq(groups.spare, m->spare);
    orri_cores_drop(&groups);
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("cores");
    TCase *c = tcase_create("cores");

    tcase_add_loop_test(c, grouping, 0, (int)(sizeof(machines) / sizeof(machines[0])));
    suite_add_tcase(s, c);
    return s;
}
