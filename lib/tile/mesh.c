/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/mesh.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

int orr_mesh_check(const struct orr_mesh *mesh)
{
    if (mesh->dp < 1 || mesh->pp < 1 || mesh->tp < 1 || mesh->ranks < 1)
        return orri_fail(ORR_EINVAL, "mesh", "dp %d, pp %d, tp %d over %d ranks: every one must be at least 1",
                         mesh->dp, mesh->pp, mesh->tp, mesh->ranks);
    if (orr_mesh_size(mesh) % mesh->ranks != 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "dp %d x pp %d x tp %d does not divide over %d ranks",
                                     mesh->dp, mesh->pp, mesh->tp, mesh->ranks),
                           "choose --dp, --pp and --tp whose product is a multiple of the ranks");
    if (mesh->stages < 0 || mesh->stages % mesh->pp != 0)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "%d stages are no multiple of pp %d", mesh->stages, mesh->pp),
                           "choose --stages as a multiple of --pp");
    if (mesh->zero < 0 || mesh->zero > 3)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "zero %d is none", mesh->zero), "use --zero 1, 2 or 3");
    if (mesh->pretended < 0 || mesh->pretended > mesh->ranks)
        return orri_fail(ORR_EINVAL, "mesh", "rank %d is none of %d", mesh->pretended - 1, mesh->ranks);
    if (mesh->parameter_slots < 0)
        return orri_fail(ORR_EINVAL, "mesh", "%d parameter slots", mesh->parameter_slots);
    return ORR_OK;
}

int orr_mesh_stages(const struct orr_mesh *mesh)
{
    return mesh->stages ? mesh->stages : mesh->pp;
}

int orr_mesh_chunks(const struct orr_mesh *mesh)
{
    return mesh->sequence_parallel ? mesh->tp : 1;
}

int orr_mesh_place(const struct orr_mesh *mesh, int d, int s, int t)
{
    return orr_mesh_rank(mesh, (struct orr_coord){d, s % mesh->pp, t});
}

int64_t orr_mesh_size(const struct orr_mesh *mesh)
{
    return (int64_t)mesh->dp * mesh->pp * mesh->tp;
}

int64_t orr_mesh_index(const struct orr_mesh *mesh, struct orr_coord at)
{
    return ((int64_t)at.p * mesh->dp + at.d) * mesh->tp + at.t;
}

struct orr_coord orr_mesh_coord(const struct orr_mesh *mesh, int64_t index)
{
    struct orr_coord at;

    at.t = (int)(index % mesh->tp);
    index /= mesh->tp;
    at.d = (int)(index % mesh->dp);
    at.p = (int)(index / mesh->dp);
    return at;
}

int orr_mesh_rank(const struct orr_mesh *mesh, struct orr_coord at)
{
    return (int)(orr_mesh_index(mesh, at) * mesh->ranks / orr_mesh_size(mesh));
}

struct orr_part orr_split(int64_t n, int64_t unit, int parts, int i)
{
    int64_t units = (n + unit - 1) / unit;
    int64_t base = units / parts, extra = units % parts;
    int64_t first = unit * (i * base + (i < extra ? i : extra));
    int64_t last = first + unit * (base + (i < extra));

    if (first > n)
        first = n;
    if (last > n)
        last = n;
    return (struct orr_part){first, last - first};
}

/* best[s][i] is the least possible cost of the dearest of s + 1 runs that cover blocks i..n-1. */
static void find_dearest(int n, const double *sum, int stages, double (*best)[n + 1])
{
    for (int i = 0; i <= n; i++)
        best[0][i] = sum[n] - sum[i];
    for (int s = 1; s < stages; s++) {
        for (int i = 0; i + s < n; i++) {
            best[s][i] = INFINITY;
            for (int cut = i + 1; cut + s - 1 < n; cut++) {
                double here = sum[cut] - sum[i], rest = best[s - 1][cut];
                best[s][i] = fmin(best[s][i], here > rest ? here : rest);
            }
        }
    }
}

/* even[s][i] becomes the least sum of the squares of the costs of those runs, none of them above `most`. */
static void find_even(int n, const double *sum, int stages, double most, double (*even)[n + 1])
{
    for (int i = 0; i <= n; i++) {
        double here = sum[n] - sum[i];
        even[0][i] = here <= most ? here * here : INFINITY;
    }
    for (int s = 1; s < stages; s++) {
        for (int i = 0; i + s < n; i++) {
            even[s][i] = INFINITY;
            for (int cut = i + 1; cut + s - 1 < n && sum[cut] - sum[i] <= most; cut++) {
                double here = sum[cut] - sum[i];
                even[s][i] = fmin(even[s][i], here * here + even[s - 1][cut]);
            }
        }
    }
}

int orr_partition(int n, const double *cost, int stages, int *first)
{
    if (stages < 1 || n < stages)
        return orri_remedy(orri_fail(ORR_EINVAL, "mesh", "%d blocks cannot fill %d pipeline stages", n, stages),
                           "choose --pp and --stages of at most %d", n);

    double(*table)[n + 1] = orri_alloc((size_t)stages * sizeof(*table));
    double *sum = orri_alloc((size_t)(n + 1) * sizeof(*sum));
    if (!table || !sum) {
        free(table);
        free(sum);
        return ORR_ENOMEM;
    }
    sum[0] = 0;
    for (int i = 0; i < n; i++)
        sum[i + 1] = sum[i] + cost[i];
    find_dearest(n, sum, stages, table);
    find_even(n, sum, stages, table[stages - 1][0], table);
    first[0] = 0;
    for (int s = 1; s < stages; s++) {
        int left = stages - s, from = first[s - 1], cut = from + 1;      /* left: runs after this cut */
        for (; cut + left < n; cut++) {
            double here = sum[cut] - sum[from];
            if (here * here + table[left - 1][cut] <= table[left][from])
                break;
        }
        first[s] = cut;
    }
    first[stages] = n;
    free(table);
    free(sum);
    return ORR_OK;
}

int orr_balance(int n, const int64_t *bytes, int owners, int *owner)
{
    int64_t *load = orri_calloc((size_t)owners, sizeof(*load));

    if (!load)
        return ORR_ENOMEM;
    for (int i = 0; i < n; i++)
        owner[i] = -1;
    for (int given = 0; given < n; given++) {
        int largest = -1, least = 0;
        for (int i = 0; i < n; i++)
            if (owner[i] < 0 && (largest < 0 || bytes[i] > bytes[largest]))
                largest = i;
        for (int o = 1; o < owners; o++)
            if (load[o] < load[least])
                least = o;
        owner[largest] = least;
        load[least] += bytes[largest];
    }
    free(load);
    return ORR_OK;
}

int orr_slot_policy_parse(const char *text, struct orr_slot_policy *policy)
{
    static const struct {
        const char *name;
        int kind;
    } names[] = {{"gpipe", ORR_SLOTS_GPIPE}, {"1f1b", ORR_SLOTS_1F1B}, {"h1", ORR_SLOTS_H1}, {"zb", ORR_SLOTS_ZB}};

    *policy = (struct orr_slot_policy){0};
    for (size_t i = 0; i < ORRI_COUNT(names); i++) {
        if (strcmp(text, names[i].name) == 0) {
            policy->kind = names[i].kind;
            return ORR_OK;
        }
    }
    char *end;
    errno = 0;
    long count = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || count < 1 || count > 1 << 20)
        return orri_remedy(orri_fail(ORR_EINVAL, "slots", "'%s' is no slot policy", text),
                           "use gpipe, 1f1b, h1, zb or a positive number");
    policy->kind = ORR_SLOTS_COUNT;
    policy->count = (int)count;
    return ORR_OK;
}

int orr_slot_count(const struct orr_slot_policy *policy, int stage, int stages, int microbatches, int workers)
{
    int count;

    switch (policy->kind) {
    case ORR_SLOTS_GPIPE: count = microbatches; break;
    case ORR_SLOTS_ZB: count = 2 * stages - 1; break;
    case ORR_SLOTS_COUNT: count = policy->count; break;
    case ORR_SLOTS_DEFAULT:
        if (stages == 1) {
            count = workers + 1;
            break;
        }
        /* fall through */
    default: count = stages - stage; break;
    }
    if (count > microbatches)
        count = microbatches;
    return count < 1 ? 1 : count;
}

bool orr_slot_split(const struct orr_slot_policy *policy)
{
    return policy->kind != ORR_SLOTS_GPIPE && policy->kind != ORR_SLOTS_1F1B;
}
