/* SPDX-License-Identifier: Apache-2.0 */
/* Where sums over several ranks are made. All of it follows from where the terms are, so that a rank need not look at nodes
 * that it has no part in. */
#include "graph/graph.h"

struct orri_sum orri_sum_within(const struct orri_parameter *parameter, int replica)
{
    int terms = parameter->group->users * parameter->copies;

    return (struct orri_sum){parameter, replica, terms, 0, 0, terms - 1};
}

struct orri_sum orri_sum_over(const struct orri_parameter *parameter)
{
    const struct orr_mesh *mesh = &parameter->group->block->model->mesh;

    return (struct orri_sum){parameter, -1, mesh->dp, parameter->owner, parameter->first_here, parameter->last_here};
}

static int rank_of_term(const struct orri_sum *sum, int i)
{
    int copies = sum->parameter->copies;

    return sum->replica < 0 ? orri_user_rank(sum->parameter, 0, i, 0)
                            : orri_user_rank(sum->parameter, i / copies, sum->replica, i % copies);
}

int orri_sum_nodes(const struct orri_sum *sum, int level, int *under)
{
    *under = 1;
    for (int i = 0; i < level; i++)
        *under *= ORRI_FAN;
    return (sum->terms + *under - 1) / *under;
}

static int children_of(const struct orri_sum *sum, int level, int g, int *first, int *leader)
{
    int under, below = orri_sum_nodes(sum, level - 1, &under), n = below - g * ORRI_FAN;
    int towards = sum->leader / under;

    n = n < ORRI_FAN ? n : ORRI_FAN;
    *first = g * ORRI_FAN;
    *leader = *first + (towards / ORRI_FAN == g ? towards % ORRI_FAN : (sum->parameter->index + g) % n);
    return n;
}

int orri_sum_children(const struct orri_sum *sum, int level, int g, int *first)
{
    int leader;

    return children_of(sum, level, g, first, &leader);
}

int orri_sum_node_rank(const struct orri_sum *sum, int level, int g)
{
    int first, leader = g;

    for (; level > 0; level--)
        children_of(sum, level, leader, &first, &leader);
    return rank_of_term(sum, leader);
}

int orri_sum_node_term(const struct orri_sum *sum, int level, int g)
{
    int first, rank = orri_sum_node_rank(sum, level, g);

    for (; level > 0; level--) {
        orri_sum_children(sum, level, g, &first);
        for (g = first; orri_sum_node_rank(sum, level - 1, g) != rank; g++)
            ;
    }
    return g;
}

/* Terms that come to the leader of a node from other ranks, where that is `rank`. */
static int received_at(const struct orri_sum *sum, int level, int g, int rank)
{
    int first, n = orri_sum_children(sum, level, g, &first), received = 0;

    for (int i = first; orri_sum_node_rank(sum, level, g) == rank && i < first + n; i++)
        received += orri_sum_node_rank(sum, level - 1, i) != rank;
    return received;
}

static int received(const struct orri_sum *sum, int rank)
{
    int under, count = 0;

    for (int level = 1; orri_sum_nodes(sum, level - 1, &under) > 1; level++)
        for (int g = 0; g < orri_sum_nodes(sum, level, &under); g++)
            count += received_at(sum, level, g, rank);
    return count;
}

int orri_received_over(const struct orr_model *model, const struct orri_parameter *parameter)
{
    const struct orri_sum sum = orri_sum_over(parameter);

    return received(&sum, model->rank);
}

int orri_received_within(const struct orr_model *model, const struct orri_parameter *parameter)
{
    int count = 0;

    for (int d = 0; d < model->mesh.dp; d++) {
        const struct orri_sum sum = orri_sum_within(parameter, d);
        count += received(&sum, model->rank);
    }
    return count;
}
