/* SPDX-License-Identifier: Apache-2.0 */
/* The slot rings: what may be in flight at once, what may overlap, and the memory they take. */

#include "check_main.h"
#include "core/instructions.h"
#include "graph/graph.h"
#include "graph/toys.h"
#include "meshes.h"
#include "train/train.h"

enum { BATCH = 12, SEQ = 2, SCALES = 6, BLOCKS = SCALES + 2, MAX_REPLICAS = 3 };

static const struct orr_mesh one = MESH(1, 1, 1);

static struct orr_training_options usual(const char *slots)
{
    struct orr_training_options options = {
        .batch = BATCH,
        .micro_batch = 1,
        .seq = SEQ,
        .optimizer = {ORR_SGD, 0, 0, 0, 0, 0},
        .schedule = {ORR_SCHEDULE_CONSTANT, 1e-9, 0, 0, 0},
    };

    if (slots)
        ck_assert_int_eq(orr_slot_policy_parse(slots, &options.slots), 0);
    return options;
}

/* ---- what is in flight --------------------------------------------------------------------------------------- */

/* Per replica: how many microbatches are between the begin of a block's F and the end of its W; of a whole stage,
 * between its first F and its last W. */
static struct {
    struct orr_mesh mesh;
    int stage[BLOCKS], first[BLOCKS];
    atomic_int block[MAX_REPLICAS][BLOCKS], block_most[BLOCKS];
    atomic_int whole[MAX_REPLICAS][BLOCKS], whole_most[BLOCKS];
} live;

static void count(atomic_int *now, atomic_int *most)
{
    int n = atomic_fetch_add(now, 1) + 1, m = atomic_load(most);

    while (n > m && !atomic_compare_exchange_weak(most, &m, n))
        ;
}

static void live_begin(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    int d = toy_microbatch(o) % live.mesh.dp, s = live.stage[toy->id];

    if (pass != ORR_FORWARD)
        return;
    count(&live.block[d][toy->id], &live.block_most[toy->id]);
    if (toy->id == live.first[s])
        count(&live.whole[d][s], &live.whole_most[s]);
}

static void live_end(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    int d = toy_microbatch(o) % live.mesh.dp, s = live.stage[toy->id];

    if (pass != ORR_WEIGHTS)
        return;
    atomic_fetch_sub(&live.block[d][toy->id], 1);
    if (toy->id == live.first[s])
        atomic_fetch_sub(&live.whole[d][s], 1);
}

static void check_in_flight(const char *slots, struct orr_mesh mesh)
{
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training_options options = usual(slots);
    struct orr_training *training = orr_training_create(model, &options);

    ck_assert_msg(training != NULL, "%s", orr_error());
    memset(&live, 0, sizeof(live));
    live.mesh = mesh;
    for (int l = BLOCKS - 1; l >= 0; l--) {
        live.stage[l] = model->block[l]->stage;
        live.first[live.stage[l]] = l;
    }
    toys.begin = live_begin;
    toys.end = live_end;
    toy_train(training, 3);
    orr_training_destroy(training);     /* waits for what no report waits for: the W of a block without parameters */
    toys.begin = toys.end = NULL;
    for (int l = 0; l < BLOCKS; l++) {
        int s = live.stage[l];
        int workers = (orr_worker_count() + mesh.dp - 1) / mesh.dp;
        int k = orr_slot_count(&options.slots, s, mesh.pp, BATCH / mesh.dp, workers);
        ck_assert_int_ge(live.block_most[l], 1);
        ck_assert_msg(live.block_most[l] <= k, "policy %s, block %d of stage %d: %d microbatches, %d slots",
                      slots ? slots : "default", l, s, live.block_most[l], k);
        /* With W a task of its own, the W of later blocks may end behind that of the first, and still another
         * microbatch begins only when the first block's is done. */
        ck_assert_int_le(live.whole_most[s], k);
        for (int d = 0; d < mesh.dp; d++)
            ck_assert_int_eq(live.block[d][l], 0);
    }
    orr_model_destroy(model);
}

START_TEST(test_in_flight)
{
    static const char *const policies[] = {NULL, "gpipe", "1f1b", "h1", "zb", "1", "2", "3"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        check_in_flight(policies[i], one);
        check_in_flight(policies[i], (struct orr_mesh)MESH(1, 4, 1));
        check_in_flight(policies[i], (struct orr_mesh)MESH(3, 1, 1));
        check_in_flight(policies[i], (struct orr_mesh)MESH(2, 3, 1));
    }
}
END_TEST

/* The other way about: K slots do let K microbatches in. The loss of the first waits for the F of microbatch
 * number `wanted` to begin; workers are two. */
static struct {
    int wanted;
    atomic_int begun, in_time;
} hold;

static void hold_loss(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (o->step != 0 || pass != ORR_FORWARD)
        return;
    if (toy->id == 0 && toy_microbatch(o) == hold.wanted)
        atomic_store(&hold.begun, 1);
    if (toy->id == SCALES + 1 && toy_microbatch(o) == 0)
        atomic_store(&hold.in_time, toy_wait(&hold.begun, 1));
}

static void check_reached(const char *slots, struct orr_mesh mesh, int wanted)
{
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training_options options = usual(slots);
    struct orr_training *training = orr_training_create(model, &options);

    hold.wanted = wanted;
    atomic_store(&hold.begun, 0);
    atomic_store(&hold.in_time, 0);
    toys.begin = hold_loss;
    toy_train(training, 1);
    toys.begin = NULL;
    ck_assert_msg(hold.in_time, "policy %s lets no %d microbatches in", slots, wanted + 1);
    orr_training_destroy(training);
    orr_model_destroy(model);
}

START_TEST(test_slots_are_used)
{
    ck_assert_int_ge(orr_worker_count(), 2);
    check_reached("2", one, 1);
    check_reached("3", one, 2);
    check_reached("gpipe", one, BATCH - 1);
    check_reached("1f1b", (struct orr_mesh)MESH(1, 4, 1), 3);
    check_reached("h1", (struct orr_mesh)MESH(1, 4, 1), 3);
    check_reached("1", (struct orr_mesh)MESH(2, 1, 1), 1);
}
END_TEST

/* ---- what may overlap ---------------------------------------------------------------------------------------- */

static atomic_int begun[BLOCKS];    /* F of step 1 */

static void note_second_step(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (pass == ORR_FORWARD && o->step == 1)
        atomic_store(&begun[toy->id], 1);
}

/* While someone reads the parameters of block 3, its update has to wait; the next step begins all the same, and
 * comes as far as block 2. */
static void check_next_step_overlaps(float clip)
{
    struct orr_model *model = toy_chain(&one, SCALES);
    struct orr_training_options options = usual("2");
    options.optimizer.clip = clip;
    struct orr_training *training = orr_training_create(model, &options);

    for (int l = 0; l < BLOCKS; l++)
        atomic_store(&begun[l], 0);
    toys.begin = note_second_step;
    ck_assert_ptr_nonnull(orr_tile_acquire(&model->block[3]->group[0]->common->value, false));
    for (int s = 0; s < 2; s++)
        ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    bool came = toy_wait(&begun[2], 1);
    bool too_far = atomic_load(&begun[3]);
    orr_tile_release(&model->block[3]->group[0]->common->value);
    ck_assert(toy_wait(&begun[SCALES + 1], 1));
    orr_training_destroy(training);
    toys.begin = NULL;
    ck_assert_msg(came, "the next step waits for all updates");
    ck_assert_msg(!too_far, "block 3 did not wait for its update");
    orr_model_destroy(model);
}

START_TEST(test_next_step_overlaps)
{
    check_next_step_overlaps(0);
    check_next_step_overlaps(1);
}
END_TEST

/* Without clipping, an update needs the losses and its own gradient, not the other gradients: the last block's is
 * made while the first one's W is held up. */
static atomic_int gate, too_late;

static void hold_first_weights(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    (void)o;
    if (toy->id == 0 && pass == ORR_WEIGHTS && !toy_wait(&gate, 1))
        atomic_store(&too_late, 1);
}

START_TEST(test_updates_do_not_wait_for_each_other)
{
    struct orr_model *model = toy_chain(&one, SCALES);
    struct orr_training_options options = usual("gpipe");
    options.schedule.lr = 0.001;
    struct orr_training *training = orr_training_create(model, &options);
    float values[TOY_WIDTH];

    atomic_store(&gate, 0);
    atomic_store(&too_late, 0);
    toys.begin = hold_first_weights;
    ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
    /* Waits for that update; if it needed the gradient of the first block, for ever, were the gate not to give up. */
    ck_assert_int_eq(orr_model_read(model, orr_model_find(model, "scale.6"), values), 0);
    atomic_store(&gate, 1);
    ck_assert_msg(values[0] != 1, "no update");
    struct orr_step report;
    ck_assert_int_eq(orr_training_next(training, &report, false), 0);
    ck_assert_int_eq(orr_training_next(training, &report, true), 1);
    ck_assert_msg(!too_late, "an update waits for the gradients of other blocks");
    toys.begin = NULL;
    orr_training_destroy(training);
    orr_model_destroy(model);
}
END_TEST

static struct {
    atomic_int submitted, opened;
} flow;

static void hold_losses(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass)
{
    if (toy->id == SCALES + 1 && pass == ORR_FORWARD && o->step == 0)
        toy_wait(&flow.opened, 1);
}

/* Opens the gate a while after two steps are submitted. */
static void *open_gate(void *unused)
{
    toy_wait(&flow.submitted, 2);
    for (int ms = 0; ms < 100; ms++)
        toy_sleep();
    atomic_store(&flow.opened, 1);
    return unused;
}

START_TEST(test_two_steps_in_flight)
{
    struct orr_model *model = toy_chain(&one, SCALES);
    struct orr_training_options options = usual("2");
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step report;
    pthread_t thread;

    memset(&flow, 0, sizeof(flow));
    toys.begin = hold_losses;
    ck_assert_int_eq(pthread_create(&thread, NULL, open_gate, NULL), 0);
    for (int s = 0; s < 3; s++) {
        ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
        /* Two go in while the first is held up, the third not before it is done. */
        ck_assert_int_eq(atomic_load(&flow.opened), s == 2);
        atomic_fetch_add(&flow.submitted, 1);
    }
    pthread_join(thread, NULL);
    for (int s = 0; s < 3; s++)
        ck_assert_int_eq(orr_training_next(training, &report, true), 1);
    ck_assert_int_eq(orr_training_next(training, &report, true), 0);
    toys.begin = NULL;
    orr_training_destroy(training);
    orr_model_destroy(model);
}
END_TEST

/* Reports that nobody takes queue up, whole and in order. */
START_TEST(test_reports_queue_up)
{
    struct orr_model *model = toy_chain(&one, 1);
    struct orr_training_options options = usual("2");
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_step report;

    for (int s = 0; s < 37; s++) {
        ck_assert_int_eq(orr_training_submit(training, &toy_source), 0);
        if (s % 10 == 9)
            ck_assert_int_eq(orr_training_next(training, &report, true), 1);
    }
    ck_assert_int_eq(report.step, 3);
    while (orr_training_next(training, &report, true) == 1)
        ck_assert(report.labels == BATCH * SEQ && report.seconds >= 0);
    ck_assert_int_eq(report.step, 37);
    ck_assert_int_eq(orr_training_steps(training), 37);
    /* input, F and BW of the three blocks, per microbatch; sums of squares and updates; summary and control, those of the
     * norms, which without clipping come later, and report. */
    ck_assert_int_eq(orr_training_submission(training).tasks, BATCH * (1 + 3 + 5) + 2 * 2 + 5);
    orr_training_destroy(training);
    orr_model_destroy(model);
}
END_TEST

/* ---- memory -------------------------------------------------------------------------------------------------- */

static int64_t bytes_of(const struct orr_tile *tile)
{
    return tile->handle ? (int64_t)orr_tile_bytes(tile) : 0;
}

static int64_t slots_bytes(const struct orr_slots *slots)
{
    const struct orr_model *model = slots->model;
    int64_t sum = 0;

    for (int d = 0; d < model->mesh.dp; d++)
        sum += bytes_of(&slots->prediction[d]);
    for (int r = 0; r < model->mesh.dp * model->stages; r++) {
        int s = r % model->stages;
        for (int k = 0; k < slots->ring[r].count; k++) {
            const struct orri_slot *slot = &slots->ring[r].slot[k];
            sum += bytes_of(slot->field[ORR_FIELD_TOKENS]) + bytes_of(slot->field[ORR_FIELD_LABELS]);
            for (int b = 0; b < model->first_block[s + 1] - model->first_block[s]; b++)
                sum += bytes_of(slot->cell[b].value) + bytes_of(slot->cell[b].gradient) + bytes_of(slot->cell[b].saved);
        }
    }
    return sum;
}

static void check_memory(const char *slots, struct orr_mesh mesh, enum orr_optimizer_kind kind)
{
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_training_options options = usual(slots);
    options.optimizer.kind = kind;
    struct orr_training *training = orr_training_create(model, &options);
    struct orr_memory_need need, found = {0};

    for (int p = 0; p < model->parameters; p++) {
        const struct orri_parameter *parameter = model->parameter[p];
        found.parameters += bytes_of(&parameter->value);
        found.state += bytes_of(&training->state[p]);
        for (int i = 0; i < parameter->group->users * mesh.dp; i++)
            found.gradients += bytes_of(&parameter->gradient[i]);
    }
    found.slots = slots_bytes(training->slots);
    ck_assert_int_eq(orr_slots_memory(model, &training->slots->options, orr_optimizer_state_count(kind), 0, &need), 0);
    ck_assert_int_eq(need.parameters, found.parameters);
    ck_assert_int_eq(need.gradients, found.gradients);
    ck_assert_int_eq(need.state, found.state);
    ck_assert_int_eq(need.slots, found.slots);
    const struct orr_shape shape = {.batch = 1, .seq = SEQ};
    int64_t kernels = ORRI_KERNEL_BYTES + (orri_onednn_vector_bits() ? 0 : 32 << 20);
    ck_assert_int_eq(need.scratch, ((int64_t)toy_scratch(NULL, &shape) + kernels) * orr_worker_count());
    ck_assert_int_eq(need.total, need.parameters + need.gradients + need.state + need.slots + need.scratch + need.kept +
                                     need.process);
    orr_training_destroy(training);
    orr_model_destroy(model);
}

START_TEST(test_memory)
{
    static const char *const policies[] = {NULL, "gpipe", "1f1b", "h1", "zb", "3"};

    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        check_memory(policies[i], one, ORR_ADAMW);
        check_memory(policies[i], (struct orr_mesh)MESH(1, 5, 1), ORR_SGD);
        check_memory(policies[i], (struct orr_mesh)MESH(3, 2, 1), ORR_RMSPROP);
    }
}
END_TEST

START_TEST(test_memory_without_training)
{
    struct orr_mesh mesh = MESH(1, 3, 1);
    struct orr_model *model = toy_chain(&mesh, SCALES);
    struct orr_slots_options options = {.batch = 2, .seq = 5, .microbatches = 4, .predict_floats = 77};
    struct orr_slots *slots = orr_slots_create(model, &options);
    struct orr_memory_need need;

    ck_assert_int_eq(orr_slots_memory(model, &options, 2, 0, &need), 0);
    ck_assert_int_eq(need.slots, slots_bytes(slots));
    ck_assert_int_eq(need.gradients, 0);
    ck_assert_int_eq(need.state, 0);
    orr_slots_destroy(slots);
    orr_model_destroy(model);
}
END_TEST

static void start(void)
{
    ck_assert_msg(orr_init(NULL) == 0, "%s", orr_error());
}

Suite *suite(void)
{
    Suite *s = suite_create("slots");
    TCase *c = tcase_create("slots");

    tcase_add_unchecked_fixture(c, start, orr_shutdown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_in_flight);
    tcase_add_test(c, test_slots_are_used);
    tcase_add_test(c, test_next_step_overlaps);
    tcase_add_test(c, test_updates_do_not_wait_for_each_other);
    tcase_add_test(c, test_two_steps_in_flight);
    tcase_add_test(c, test_reports_queue_up);
    tcase_add_test(c, test_memory);
    tcase_add_test(c, test_memory_without_training);
    suite_add_tcase(s, c);
    return s;
}
