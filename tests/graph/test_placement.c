/* SPDX-License-Identifier: Apache-2.0 */
/* Who has, updates and reads what: pure functions of the tape and the mesh, here asked as every rank in turn would. */
#include <stdlib.h>

#include "check_main.h"
#include "graph/graph.h"
#include "graph/toys.h"
#include "meshes.h"
#include "train/train.h"

enum { HEADS = 8, LAYERS = 5 };

/* ---- blocks that can be cut: they are described and placed, not run ------------------------------------------- */

static void no_pass(const struct orr_operands *o)
{
    (void)o;
}

static int cut_most(const void *config)
{
    (void)config;
    return HEADS;
}

/* Of every kind of cut one, and what is not cut. The sizes differ by block, so that owners have something to balance. */
static void cut_spec(const void *config, struct orr_block_spec *spec)
{
    int64_t more = ((const struct toy *)config)->id;

    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {4},
        .view = {{{"norm", 1, {TOY_WIDTH, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0},
                  {"qkv", 2, {TOY_WIDTH, 3 * HEADS * 3}, ORR_INITIAL_ONE, 0, 1, 3, 3, 0},
                  {"rows", 2, {HEADS + more, TOY_WIDTH}, ORR_INITIAL_ONE, 0, 0, 1, 1, 0},
                  {"bias", 1, {TOY_WIDTH + more, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

static void table_spec(const void *config, struct orr_block_spec *spec)
{
    (void)config;
    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {1},
        .view = {{{"w", 2, {37, TOY_WIDTH}, ORR_INITIAL_ONE, 0, 0, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

static void end_spec(const void *config, struct orr_block_spec *spec)
{
    (void)config;
    *spec = (struct orr_block_spec){
        .groups = 2,
        .views = {1, 0},
        .view = {{{"norm", 1, {TOY_WIDTH, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

static struct orr_saved_size cut_saves(const void *config, int batch, int seq, int shards, int t)
{
    (void)config;
    return (struct orr_saved_size){batch * seq * orr_split(HEADS, 1, shards, t).count, 0};
}

static struct orr_saved_size chunk_saves(const void *config, int batch, int positions)
{
    (void)config;
    return (struct orr_saved_size){batch * positions * 2, 0};
}

static const struct orr_sharding sharding = {cut_most, "heads", cut_saves, chunk_saves, 0, 2, NULL};
static const struct orr_sharding end_sharding = {cut_most, "rows", cut_saves, chunk_saves, 3, 2, NULL};

#define PASSES \
    {[ORR_FORWARD] = no_pass, [ORR_BACKWARD] = no_pass, [ORR_WEIGHTS] = no_pass, [ORR_CHUNK_FORWARD] = no_pass, \
     [ORR_SHARD_FORWARD] = no_pass, [ORR_CHUNK_JOIN] = no_pass, [ORR_SHARD_BACKWARD] = no_pass, \
     [ORR_SHARD_WEIGHTS] = no_pass, [ORR_CHUNK_BACKWARD] = no_pass}

static const struct orr_block_class table_class = {
    .name = "table",
    .config_size = sizeof(struct toy),
    .specify = table_spec,
    .saved = toy_saves_nothing,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .sharding = &sharding,
    .cpu = PASSES,
    .operands = {[ORR_FORWARD] = ORR_IDS, [ORR_SHARD_FORWARD] = ORR_IDS},
};

static const struct orr_block_class cut_class = {
    .name = "cut",
    .config_size = sizeof(struct toy),
    .specify = cut_spec,
    .saved = toy_saves_word,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .sharding = &sharding,
    .cpu = PASSES,
};

static const struct orr_block_class end_class = {
    .name = "end",
    .config_size = sizeof(struct toy),
    .specify = end_spec,
    .saved = toy_saves_word,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .is_loss = true,
    .sharding = &end_sharding,
    .cpu = PASSES,
};

/* table, `layers` cut blocks, end, which is tied to the table: as one rank sees it. */
static struct orr_model *model_of(const struct orr_mesh *mesh, int rank, int layers)
{
    struct orr_mesh seen = *mesh;
    seen.pretended = rank + 1;
    struct orr_model *model = orr_model_create(&seen);
    ck_assert_msg(model != NULL, "%s", orr_error());
    struct toy toy = {.flops = 1};
    struct orr_block *table = orr_block_append(model, &table_class, 0, &toy);

    for (toy.id = 0; toy.id < layers; toy.id++)
        orr_block_append(model, &cut_class, toy.id, &toy);
    struct orr_block *end = orr_block_append(model, &end_class, layers, &toy);
    ck_assert_msg(orr_block_share(end, 1, table, 0) == 0, "%s", orr_error());
    ck_assert_msg(orr_model_build(model, NULL, 0) == 0, "%s", orr_error());
    return model;
}

/* ---- the meshes ------------------------------------------------------------------------------------------------- */

typedef void with_mesh(struct orr_mesh mesh);

static void for_all_ranks(struct orr_mesh mesh, with_mesh *check)
{
    int size = (int)orr_mesh_size(&mesh);

    for (mesh.ranks = 1; mesh.ranks <= size; mesh.ranks++)
        if (size % mesh.ranks == 0)
            check(mesh);
}

static void for_all_meshes(with_mesh *check)
{
    for (int dp = 1; dp <= 4; dp++) {
        for (int pp = 1; pp <= 3; pp++) {
            for (int tp = 1; tp <= 3; tp++) {
                for (int cut = 0; cut < 4; cut++) {
                    struct orr_mesh mesh = MESH(dp, pp, tp);
                    mesh.stages = cut % 2 ? 2 * pp : 0;
                    mesh.sequence_parallel = cut >= 2;
                    for_all_ranks(mesh, check);
                }
            }
        }
    }
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

/* Every view is in the part that all shards share or in one of each, and the parts of a group are as large as it. */
static void check_parts(const struct orr_model *model, const struct orri_group *group)
{
    int tp = model->mesh.tp;

    for (int v = 0; v < group->views; v++) {
        int64_t found = 0;
        int parts = 0;
        for (int p = 0; p < model->parameters; p++) {
            const struct orri_parameter *parameter = model->parameter[p];
            for (int i = 0; parameter->group == group && i < parameter->views; i++) {
                if (parameter->number[i] != v)
                    continue;
                ck_assert_int_eq(parameter->shard < 0, tp == 1 || group->view[v].split < 0);
                found += orri_view_count(&parameter->view[i]);
                parts++;
            }
        }
        ck_assert_int_eq(found, orri_view_count(&group->view[v]));
        ck_assert_int_eq(parts, tp > 1 && group->view[v].split >= 0 ? tp : 1);
    }
}

static void check_part(const struct orri_parameter *parameter)
{
    int64_t next = 0;

    for (int i = 0; i < parameter->views; i++) {
        ck_assert_int_eq(parameter->view[i].offset, next);
        next += orri_view_count(&parameter->view[i]);
    }
    ck_assert_int_eq(parameter->count, next);
}

static void check_cuts(struct orr_mesh mesh)
{
    struct orr_model *model = model_of(&mesh, 0, LAYERS);

    for (int g = 0; g < model->groups; g++)
        check_parts(model, model->group[g]);
    for (int p = 0; p < model->parameters; p++) {
        ck_assert_int_eq(model->parameter[p]->index, p);
        check_part(model->parameter[p]);
    }
    for (int s = 0; s < model->stages; s++)
        for (int l = model->first_block[s]; l < model->first_block[s + 1]; l++)
            ck_assert_int_eq(model->block[l]->stage, s);
    ck_assert_int_eq(model->first_block[model->stages], model->blocks);
    orr_model_destroy(model);
}

START_TEST(test_cuts)
{
    for_all_meshes(check_cuts);
}
END_TEST

/* ---- places ----------------------------------------------------------------------------------------------------- */

/* The ranks that read a parameter, as marks: of every block that uses it, in every replica, those of its shard, or of all
 * chunks. */
static int mark_readers(const struct orr_model *model, const struct orri_parameter *parameter, bool *reads)
{
    const struct orr_mesh *mesh = &model->mesh;
    int count = 0;

    for (int u = 0; u < parameter->group->users; u++) {
        for (int d = 0; d < mesh->dp; d++) {
            for (int t = 0; t < mesh->tp; t++) {
                bool here = parameter->shard >= 0 ? t == parameter->shard : t == 0 || mesh->sequence_parallel;
                int rank = orr_mesh_place(mesh, d, parameter->group->user[u]->stage, t);
                count += here && !reads[rank];
                reads[rank] = reads[rank] || here;
            }
        }
    }
    return count;
}

static void check_places(const struct orr_model *model, const struct orri_parameter *parameter)
{
    const struct orr_mesh *mesh = &model->mesh;
    bool reads[64] = {false};
    int readers = mark_readers(model, parameter, reads);

    ck_assert(parameter->owner >= 0 && parameter->owner < mesh->dp);
    ck_assert_int_eq(parameter->place[0], orr_mesh_place(mesh, parameter->owner, parameter->group->block->stage,
                                                         parameter->shard < 0 ? 0 : parameter->shard));
    ck_assert_int_eq(parameter->places, readers);
    for (int i = 0; i < parameter->places; i++) {
        ck_assert_msg(reads[parameter->place[i]], "rank %d twice, or it does not read", parameter->place[i]);
        reads[parameter->place[i]] = false;
        ck_assert_int_eq(orri_place_of(parameter, parameter->place[i]), i);
    }
    ck_assert_int_eq(orri_place_of(parameter, mesh->ranks), -1);
    ck_assert_int_eq(parameter->here, orri_place_of(parameter, model->rank));
}

static void check_all_places(struct orr_mesh mesh)
{
    for (int rank = 0; rank < mesh.ranks; rank++) {
        struct orr_model *model = model_of(&mesh, rank, LAYERS);
        for (int p = 0; p < model->parameters; p++)
            check_places(model, model->parameter[p]);
        for (int d = 0; d < mesh.dp; d++) {
            bool replica = false;
            for (int s = 0; s < model->stages; s++) {
                bool stage = false;
                for (int t = 0; t < mesh.tp; t++)
                    stage = stage || orr_mesh_place(&mesh, d, s, t) == rank;
                ck_assert_int_eq(orri_stage_here(model, d, s), stage);
                replica = replica || stage;
            }
            ck_assert_int_eq(orri_replica_here(model, d), replica);
        }
        orr_model_destroy(model);
    }
}

START_TEST(test_places)
{
    for_all_meshes(check_all_places);
}
END_TEST

/* ---- owners ----------------------------------------------------------------------------------------------------- */

/* What the replicas of a coordinate update differs by no more than its largest parameter, as largest first guarantees; and
 * owners do not depend on the ranks. */
static void check_owners(struct orr_mesh mesh)
{
    struct orr_model *model = model_of(&mesh, 0, LAYERS);

    for (int at = 0; at < mesh.pp; at++) {
        for (int t = -1; t < mesh.tp; t++) {
            int64_t load[4] = {0}, largest = 0, least = INT64_MAX, most = 0;
            for (int p = 0; p < model->parameters; p++) {
                const struct orri_parameter *parameter = model->parameter[p];
                if (parameter->group->block->stage % mesh.pp != at || parameter->shard != t)
                    continue;
                load[parameter->owner] += parameter->count;
                largest = parameter->count > largest ? parameter->count : largest;
            }
            for (int d = 0; d < mesh.dp; d++) {
                least = load[d] < least ? load[d] : least;
                most = load[d] > most ? load[d] : most;
            }
            ck_assert_msg(most - least <= largest, "dp %d, pp %d, stages %d: %lld to %lld elements, the largest %lld",
                          mesh.dp, mesh.pp, mesh.stages, (long long)least, (long long)most, (long long)largest);
        }
    }
    struct orr_mesh alone = mesh;
    alone.ranks = 1;
    struct orr_model *other = model_of(&alone, 0, LAYERS);
    for (int p = 0; p < model->parameters; p++)
        ck_assert_int_eq(model->parameter[p]->owner, other->parameter[p]->owner);
    orr_model_destroy(other);
    orr_model_destroy(model);
}

START_TEST(test_owners)
{
    for_all_meshes(check_owners);
}
END_TEST

/* ---- tags ------------------------------------------------------------------------------------------------------- */

/* Tags found so far, and what each is: a number of the tile among all that there can be. */
struct tags {
    int count, room;
    struct tag {
        int64_t tag, what;
    } *at;
};

static void note(struct tags *tags, int64_t tag, int64_t what)
{
    if (tags->count == tags->room) {
        tags->room = tags->room ? 2 * tags->room : 1024;
        tags->at = realloc(tags->at, (size_t)tags->room * sizeof(*tags->at));
    }
    tags->at[tags->count++] = (struct tag){tag, what};
}

static int by_tag(const void *a, const void *b)
{
    const struct tag *x = a, *y = b;

    if (x->tag != y->tag)
        return x->tag < y->tag ? -1 : 1;
    return x->what < y->what ? -1 : x->what > y->what;
}

static int by_what(const void *a, const void *b)
{
    const struct tag *x = a, *y = b;

    if (x->what != y->what)
        return x->what < y->what ? -1 : 1;
    return x->tag < y->tag ? -1 : x->tag > y->tag;
}

static int64_t what_of(int kind, int a, int b, int c, int d)
{
    return (((int64_t)kind * 64 + a) * 1024 + b) * 1024 * 1024 + c * 1024 + d;
}

static void note_slots(struct tags *tags, const struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;
    int tp = model->mesh.tp, chunks = model->chunks;

    for (int r = 0; r < model->mesh.dp * model->stages; r++) {
        int s = r % model->stages;
        for (int k = 0; slots->ring[r].slot && k < slots->ring[r].count; k++) {
            const struct orri_slot *slot = &slots->ring[r].slot[k];
            for (int t = 0; tp > 1 && s == model->stages - 1 && t < tp; t++)
                note(tags, slot->part[t].tag, what_of(0, r, k, 0, t));
            for (int b = 0; b < model->first_block[s + 1] - model->first_block[s]; b++) {
                const struct orri_cell *cell = &slot->cell[b];
                for (int c = 0; c < chunks; c++) {
                    note(tags, cell->value[c].tag, what_of(1, r, k, b, c));
                    note(tags, cell->gradient[c].tag, what_of(2, r, k, b, c));
                    if (tp > 1)
                        note(tags, cell->branch[c].tag, what_of(3, r, k, b, c));
                }
                for (int i = 0; tp > 1 && i < tp * chunks; i++) {
                    note(tags, cell->partial[i].tag, what_of(4, r, k, b, i));
                    note(tags, cell->dpartial[i].tag, what_of(5, r, k, b, i));
                }
            }
        }
    }
    for (int d = 0; d < model->mesh.dp; d++)
        note(tags, slots->prediction[d].tag, what_of(6, d, 0, 0, 0));
}

static void note_tree(struct tags *tags, const struct orri_tree *tree, int number)
{
    if (!tree->summary.handle)
        return;
    note(tags, tree->summary.tag, what_of(9, 0, 0, 0, number));
    note(tags, tree->control.tag, what_of(9, 0, 1, 0, number));
}

/* All ranks give a tile that travels the same tag, and no two tiles have one. */
static void check_tags(struct orr_mesh mesh, enum orr_sync sync, int staleness)
{
    struct tags tags = {0};

    for (int rank = 0; rank < mesh.ranks; rank++) {
        struct orr_model *model = model_of(&mesh, rank, 2);
        struct orr_training_options options = {.batch = 6, .micro_batch = 1, .seq = 4, .slots = {ORR_SLOTS_GPIPE, 0},
                                               .sync = sync, .staleness = staleness};
        struct orr_training *training = orr_training_create(model, &options);
        ck_assert_msg(training != NULL, "%s", orr_error());
        note_slots(&tags, training->slots);
        for (int p = 0; p < model->parameters * training->states; p++)
            note(&tags, training->state[p].tag, what_of(10, 0, p, 0, 0));
        for (int p = 0; p < model->parameters; p++) {
            const struct orri_parameter *parameter = model->parameter[p];
            note(&tags, parameter->value.tag, what_of(7, 0, p, 0, 0));
            for (int i = 0; i < (parameter->own ? mesh.dp : 0); i++)
                note(&tags, parameter->own[i].tag, what_of(11, 0, p, 0, i));
            for (int i = 0; i < parameter->group->users * mesh.dp * parameter->copies; i++)
                note(&tags, parameter->gradient[i].tag, what_of(8, 0, p, 0, i));
        }
        for (int i = 0; i < training->copies; i++)
            note_tree(&tags, &training->tree[i], i);
        note_tree(&tags, &training->total, training->copies);
        orr_training_destroy(training);
        orr_model_destroy(model);
    }
    qsort(tags.at, (size_t)tags.count, sizeof(*tags.at), by_tag);
    for (int i = 1; i < tags.count; i++)
        ck_assert_msg(tags.at[i].tag != tags.at[i - 1].tag || tags.at[i].what == tags.at[i - 1].what,
                      "tiles %llx and %llx have one tag", (unsigned long long)tags.at[i - 1].what,
                      (unsigned long long)tags.at[i].what);
    qsort(tags.at, (size_t)tags.count, sizeof(*tags.at), by_what);
    for (int i = 1; i < tags.count; i++)
        ck_assert_msg(tags.at[i].what != tags.at[i - 1].what || tags.at[i].tag == tags.at[i - 1].tag,
                      "ranks differ in the tag of tile %llx", (unsigned long long)tags.at[i].what);
    free(tags.at);
}

START_TEST(test_tags)
{
    struct orr_mesh wide = {.dp = 2, .pp = 2, .tp = 2, .ranks = 8};
    struct orr_mesh chunks = {.dp = 2, .pp = 1, .tp = 3, .ranks = 6, .sequence_parallel = true};
    struct orr_mesh deep = {.dp = 3, .pp = 2, .tp = 2, .ranks = 4, .stages = 4, .sequence_parallel = true};

    check_tags((struct orr_mesh)MESH(1, 1, 1), ORR_SYNC_GRADIENTS, 0);
    check_tags(wide, ORR_SYNC_GRADIENTS, 0);
    check_tags(wide, ORR_SYNC_GRADIENTS, 3);
    check_tags(wide, ORR_SYNC_PARAMETERS, 0);
    check_tags(chunks, ORR_SYNC_GRADIENTS, 0);
    check_tags(deep, ORR_SYNC_GRADIENTS, 0);
    check_tags(deep, ORR_SYNC_PARAMETERS, 0);
}
END_TEST

/* The largest machine that is thought of, with a deep model; and one that is too large. */
START_TEST(test_room_for_tags)
{
    struct orr_mesh mesh = {.dp = 2048, .pp = 4, .tp = 2, .ranks = 16384, .sequence_parallel = true};
    struct orr_model *model = model_of(&mesh, 16383, 210);

    ck_assert_int_gt(model->parameters, 3 * 210);
    ck_assert_int_eq(orri_check_tags(model), 0);
    int64_t last = orri_tag(model, (enum orri_message_kind)(ORRI_MESSAGES - 1), mesh.dp - 1, model->parameters - 1,
                            ORRI_MAX_SLOTS - 1, mesh.tp - 1, mesh.tp - 1);
    ck_assert(last > 0 && last < INT64_MAX / 8);    /* a run's number mod 8 is added */
    ck_assert_int_eq(orri_tag(model, ORRI_VALUE, 0, 0, 0, 0, 0), 0);
    model->mesh.dp = 1 << 24;
    model->mesh.tp = 64;
    ck_assert_int_eq(orri_check_tags(model), ORR_EINVAL);
    ck_assert_ptr_nonnull(strstr(orr_error(), "more than message tags can number"));
    model->mesh = mesh;
    orr_model_destroy(model);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int64_t bytes_of(const struct orr_tile *tile)
{
    return tile->handle ? (int64_t)orr_tile_bytes(tile) : 0;
}

static int64_t bytes_of_slots(const struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;
    int tp = model->mesh.tp, chunks = model->chunks, tiles = 2 * chunks + tp + (tp > 1 ? 2 * chunks + 2 * tp * chunks : 0);
    int64_t sum = 0;

    for (int d = 0; d < model->mesh.dp; d++)
        sum += bytes_of(&slots->prediction[d]);
    for (int r = 0; r < model->mesh.dp * model->stages; r++) {
        int s = r % model->stages;
        for (int k = 0; slots->ring[r].slot && k < slots->ring[r].count; k++) {
            const struct orri_slot *slot = &slots->ring[r].slot[k];
            for (int t = 0; t < tp; t++)
                sum += bytes_of(&slot->field[ORR_FIELD_TOKENS][t]) + bytes_of(&slot->field[ORR_FIELD_LABELS][t]) +
                       bytes_of(&slot->part[t]);
            for (int b = 0; b < model->first_block[s + 1] - model->first_block[s]; b++)
                for (int i = 0; i < tiles; i++)
                    sum += bytes_of(&slot->cell[b].value[i]);
        }
    }
    return sum;
}

/* What is foretold of every rank is what it then has, whoever asks. (Tiles to receive in are made when they are first used.) */
static void check_memory(struct orr_mesh mesh)
{
    struct orr_training_options options = {.batch = 7, .micro_batch = 1, .seq = 5, .optimizer = {.kind = ORR_ADAM}};

    if (mesh.ranks > 1 && mesh.ranks < orr_mesh_size(&mesh) && mesh.ranks != 4)
        return;     /* takes longer than the other checks */
    for (int rank = 0; rank < mesh.ranks; rank++) {
        struct orr_model *model = model_of(&mesh, rank, LAYERS);
        struct orr_model *asks = model_of(&mesh, (rank + 1) % mesh.ranks, LAYERS);
        struct orr_memory_need need, again;
        int64_t state = 0, gradients = 0, parameters = 0;
        ck_assert_int_eq(orr_training_memory(asks, &options, rank, &need), 0);
        struct orr_training *training = orr_training_create(model, &options);
        ck_assert_msg(training != NULL, "%s", orr_error());
        for (int p = 0; p < model->parameters; p++) {
            const struct orri_parameter *parameter = model->parameter[p];
            parameters += bytes_of(&parameter->value);
            state += bytes_of(&training->state[p]);
            ck_assert_int_eq(parameter->value.handle != NULL, orri_place_of(parameter, rank) >= 0);
            for (int i = 0; i < parameter->group->users * mesh.dp * parameter->copies; i++)
                gradients += bytes_of(&parameter->gradient[i]);
        }
        ck_assert_int_eq(need.parameters, parameters);
        ck_assert_int_eq(need.state, state);
        ck_assert_int_ge(need.gradients, gradients);
        if (mesh.ranks == 1)
            ck_assert_int_eq(need.gradients, gradients);
        ck_assert_int_eq(need.slots, bytes_of_slots(training->slots));
        ck_assert_int_eq(need.total, need.parameters + need.gradients + need.state + need.slots + need.scratch + need.kept +
                                         need.process);
        ck_assert_int_eq(orr_training_memory(model, &options, rank, &again), 0);
        again.total += need.process - again.process;
        again.process = need.process;
        ck_assert_mem_eq(&again, &need, sizeof(need));
        orr_training_destroy(training);
        orr_model_destroy(model);
        orr_model_destroy(asks);
    }
}

START_TEST(test_memory)
{
    for_all_meshes(check_memory);
}
END_TEST

/* With ZeRO 3 a rank keeps what it owns, what shards share, and room for `parameter_slots` of a size of the others. */
START_TEST(test_memory_of_lent_parameters)
{
    struct orr_mesh mesh = {.dp = 4, .pp = 1, .tp = 1, .ranks = 4, .zero = 3};
    struct orr_training_options options = {.batch = 4, .micro_batch = 1, .seq = 5};
    int64_t owned = 0, all = 0;

    for (int rank = 0; rank < mesh.ranks; rank++) {
        int64_t before = 0;
        for (mesh.parameter_slots = 1; mesh.parameter_slots <= 3; mesh.parameter_slots++) {
            struct orr_model *model = model_of(&mesh, rank, LAYERS);
            struct orr_memory_need need;
            int64_t mine = 0, sum = 0, pool = 0;
            ck_assert_int_eq(orr_training_memory(model, &options, rank, &need), 0);
            for (int p = 0; p < model->parameters; p++) {
                const struct orri_parameter *parameter = model->parameter[p];
                ck_assert(orri_is_lent(model, parameter));
                sum += parameter->count * 4;
                /* Each size of this model is had by one parameter alone. */
                *(parameter->here == 0 ? &mine : &pool) += parameter->count * 4;
            }
            ck_assert_int_eq(need.parameters, mine + pool);
            ck_assert_int_ge(need.parameters, before);
            before = need.parameters;
            all = sum;
            owned += mesh.parameter_slots == 1 ? mine : 0;
            orr_model_destroy(model);
        }
    }
    ck_assert_int_eq(owned, all);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("placement");
    TCase *c = tcase_create("placement");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_cuts);
    tcase_add_test(c, test_places);
    tcase_add_test(c, test_owners);
    tcase_add_test(c, test_tags);
    tcase_add_test(c, test_room_for_tags);
    tcase_add_test(c, test_memory);
    tcase_add_test(c, test_memory_of_lent_parameters);
    suite_add_tcase(s, c);
    return s;
}
