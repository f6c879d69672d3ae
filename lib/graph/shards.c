/* SPDX-License-Identifier: Apache-2.0 */
/* How a parameter and a sequence are cut: pure functions of the view and the mesh. */
#include "graph/graph.h"

struct orr_view orr_view_shard(const struct orr_view *view, int tp, int t)
{
    struct orr_view shard = *view;

    if (view->split >= 0) {
        int64_t piece = view->shape[view->split] / view->groups;
        shard.shape[view->split] = view->groups * orr_split(piece, view->unit, tp, t).count;
    }
    return shard;
}

/* Elements that lie behind one index of the dimension that is split. */
static int64_t inner_count(const struct orr_view *view)
{
    return view->ndim == 2 && view->split == 0 ? view->shape[1] : 1;
}

static int64_t outer_count(const struct orr_view *view)
{
    return view->ndim == 2 && view->split == 1 ? view->shape[0] : 1;
}

int64_t orr_view_run_count(const struct orr_view *view, int tp)
{
    return view->split < 0 || tp == 1 ? 1 : outer_count(view) * view->groups;
}

struct orr_run orr_view_run(const struct orr_view *view, int tp, int t, int64_t i)
{
    if (view->split < 0 || tp == 1)
        return (struct orr_run){0, 0, orri_view_count(view)};
    int64_t length = view->shape[view->split], piece = length / view->groups, inner = inner_count(view);
    struct orr_part part = orr_split(piece, view->unit, tp, t);
    int64_t outer = i / view->groups, group = i % view->groups;

    return (struct orr_run){
        .part = (outer * view->groups + group) * part.count * inner,
        .whole = (outer * length + group * piece + part.first) * inner,
        .count = part.count * inner,
    };
}

int orri_view_pieces(const struct orr_view *view)
{
    return view->pieces ? view->pieces : 1;
}

struct orr_view orri_view_piece(const struct orr_view *view)
{
    struct orr_view piece = *view;

    piece.shape[0] /= orri_view_pieces(view);
    return piece;
}

struct orr_run orri_run_piece(const struct orr_view *view, struct orr_run run, int piece)
{
    int64_t length = orri_view_count(view) / orri_view_pieces(view), from = piece * length, to = from + length;
    int64_t first = run.whole > from ? run.whole : from, end = run.whole + run.count < to ? run.whole + run.count : to;

    if (end <= first)
        return (struct orr_run){0, 0, 0};
    return (struct orr_run){run.part + first - run.whole, first - from, end - first};
}

int64_t orri_view_count(const struct orr_view *view)
{
    return view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
}

struct orr_part orr_chunk(const struct orr_operands *o, int c)
{
    return orr_split(o->seq, 1, o->chunks, c);
}
