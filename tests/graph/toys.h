/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks whose gradients can be worked out by hand. With whole numbers everything they compute is exact.
 *
 *     source  x[n,c] = w[c] ids[n]
 *     scale   y = w x                         saves nothing but a word, so that it has a slot of its own
 *     add     y = x0 + x1                     has no parameters
 *     loss    sum (w x + b - label)^2         w belongs to group 1 and is another block's; or without w, b; labels of
 *                                             ORR_IGNORE count for nothing
 *
 * Tests watch and disturb them through `toys`. */
#ifndef TOYS_H
#define TOYS_H

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <orrery/orrery.h>

enum { TOY_WIDTH = 4 };

struct toy {
    int id;             /* told to the hooks                                     */
    int tied;           /* the loss has parameters                               */
    double flops;
};

/* Called at the begin and at the end of every pass. */
static struct {
    void (*begin)(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass);
    void (*end)(const struct orr_operands *o, const struct toy *toy, enum orr_pass pass);
} toys;

static void toy_begin(const struct orr_operands *o, enum orr_pass pass)
{
    if (toys.begin)
        toys.begin(o, o->config, pass);
}

static void toy_end(const struct orr_operands *o, enum orr_pass pass)
{
    if (toys.end)
        toys.end(o, o->config, pass);
}

static int toy_rows(const struct orr_operands *o)
{
    return o->batch * o->seq;
}

static void toy_add(float *sum, bool add, float value)
{
    *sum = add ? *sum + value : value;
}

static struct orr_saved_size toy_saves_nothing(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return (struct orr_saved_size){0, 0};
}

static struct orr_saved_size toy_saves_word(const void *config, int batch, int seq)
{
    (void)config, (void)batch, (void)seq;
    return (struct orr_saved_size){1, 0};
}

static size_t toy_scratch(const void *config, const struct orr_shape *shape)
{
    (void)config;
    return (size_t)(100 + shape->batch * shape->seq);
}

static double toy_flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    (void)batch, (void)seq, (void)pass;
    return ((const struct toy *)config)->flops;
}

static void weight_spec(const void *config, struct orr_block_spec *spec)
{
    (void)config;
    *spec = (struct orr_block_spec){
        .groups = 1,
        .views = {1},
        .view = {{{"w", 1, {TOY_WIDTH, 0}, ORR_INITIAL_ONE, 0, -1, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

/* ---- source -------------------------------------------------------------------------------------------------- */

static void source_forward(const struct orr_operands *o)
{
    toy_begin(o, ORR_FORWARD);
    for (int n = 0; n < toy_rows(o); n++)
        for (int c = 0; c < TOY_WIDTH; c++)
            o->y[n * TOY_WIDTH + c] = o->param[0][0][c] * (float)o->ids[n];
    toy_end(o, ORR_FORWARD);
}

static void source_weights(const struct orr_operands *o)
{
    toy_begin(o, ORR_WEIGHTS);
    for (int n = 0; n < toy_rows(o); n++)
        for (int c = 0; c < TOY_WIDTH; c++)
            toy_add(&o->grad[0][0][c], n > 0 || !o->first_gradient, o->dy[n * TOY_WIDTH + c] * (float)o->ids[n]);
    toy_end(o, ORR_WEIGHTS);
}

static const struct orr_block_class source_class = {
    .name = "source",
    .config_size = sizeof(struct toy),
    .specify = weight_spec,
    .saved = toy_saves_word,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .cpu = {[ORR_FORWARD] = source_forward, [ORR_WEIGHTS] = source_weights},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_WEIGHTS] = ORR_IDS | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS | ORR_SAVEDS},
};

/* ---- scale --------------------------------------------------------------------------------------------------- */

static void scale_forward(const struct orr_operands *o)
{
    toy_begin(o, ORR_FORWARD);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        o->y[i] = o->param[0][0][i % TOY_WIDTH] * o->x[0][i];
    toy_end(o, ORR_FORWARD);
}

static void scale_backward(const struct orr_operands *o)
{
    toy_begin(o, ORR_BACKWARD);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        toy_add(&o->dx[0][i], o->add_input_gradient[0], o->param[0][0][i % TOY_WIDTH] * o->dy[i]);
    toy_end(o, ORR_BACKWARD);
}

static void scale_weights(const struct orr_operands *o)
{
    toy_begin(o, ORR_WEIGHTS);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        toy_add(&o->grad[0][0][i % TOY_WIDTH], i >= TOY_WIDTH || !o->first_gradient, o->x[0][i] * o->dy[i]);
    toy_end(o, ORR_WEIGHTS);
}

static const struct orr_block_class scale_class = {
    .name = "scale",
    .config_size = sizeof(struct toy),
    .specify = weight_spec,
    .saved = toy_saves_word,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .cpu = {[ORR_FORWARD] = scale_forward, [ORR_BACKWARD] = scale_backward, [ORR_WEIGHTS] = scale_weights},
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_INPUT_GRADIENT | ORR_SAVEDS,
                 [ORR_WEIGHTS] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_GRADIENTS | ORR_SAVEDS},
};

/* ---- add ----------------------------------------------------------------------------------------------------- */

static void add_spec(const void *config, struct orr_block_spec *spec)
{
    (void)config;
    *spec = (struct orr_block_spec){.width = TOY_WIDTH};
}

static void add_forward(const struct orr_operands *o)
{
    toy_begin(o, ORR_FORWARD);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        o->y[i] = o->x[0][i] + o->x[1][i];
    toy_end(o, ORR_FORWARD);
}

static void add_backward(const struct orr_operands *o)
{
    toy_begin(o, ORR_BACKWARD);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
            toy_add(&o->dx[k][i], o->add_input_gradient[k], o->dy[i]);
    toy_end(o, ORR_BACKWARD);
}

static const struct orr_block_class add_class = {
    .name = "add",
    .config_size = sizeof(struct toy),
    .specify = add_spec,
    .saved = toy_saves_nothing,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .cpu = {[ORR_FORWARD] = add_forward, [ORR_BACKWARD] = add_backward},
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_OUTPUT_GRADIENT | ORR_INPUT_GRADIENT | ORR_SAVEDS},
};

/* ---- loss ---------------------------------------------------------------------------------------------------- */

static void loss_spec(const void *config, struct orr_block_spec *spec)
{
    *spec = (struct orr_block_spec){
        .groups = ((const struct toy *)config)->tied ? 2 : 0,
        .views = {1, 0},
        .view = {{{"b", 1, {TOY_WIDTH, 0}, ORR_INITIAL_ZERO, 0, -1, 1, 1, 0}}},
        .width = TOY_WIDTH,
    };
}

static float loss_error(const struct orr_operands *o, int i)
{
    int c = i % TOY_WIDTH;
    float label = (float)o->ids[i / TOY_WIDTH];

    if (o->ids[i / TOY_WIDTH] == ORR_IGNORE)
        return 0;
    return o->param[0][0] ? o->param[1][0][c] * o->x[0][i] + o->param[0][0][c] - label : o->x[0][i] - label;
}

static void loss_forward(const struct orr_operands *o)
{
    double sum = 0;

    toy_begin(o, ORR_FORWARD);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        sum += (double)loss_error(o, i) * (double)loss_error(o, i);
    o->result->loss += sum;
    for (int n = 0; n < toy_rows(o); n++)
        o->result->labels += o->ids[n] != ORR_IGNORE;
    toy_end(o, ORR_FORWARD);
}

static void loss_backward(const struct orr_operands *o)
{
    toy_begin(o, ORR_BACKWARD);
    for (int i = 0; i < toy_rows(o) * TOY_WIDTH; i++)
        toy_add(&o->dx[0][i], o->add_input_gradient[0],
                2 * loss_error(o, i) * (o->param[1][0] ? o->param[1][0][i % TOY_WIDTH] : 1));
    toy_end(o, ORR_BACKWARD);
}

static void loss_weights(const struct orr_operands *o)
{
    toy_begin(o, ORR_WEIGHTS);
    for (int i = 0; o->grad[0][0] && i < toy_rows(o) * TOY_WIDTH; i++) {
        bool add = i >= TOY_WIDTH || !o->first_gradient;
        toy_add(&o->grad[0][0][i % TOY_WIDTH], add, 2 * loss_error(o, i));
        toy_add(&o->grad[1][0][i % TOY_WIDTH], add, 2 * loss_error(o, i) * o->x[0][i]);
    }
    toy_end(o, ORR_WEIGHTS);
}

static const struct orr_block_class loss_class = {
    .name = "loss",
    .config_size = sizeof(struct toy),
    .specify = loss_spec,
    .saved = toy_saves_word,
    .scratch_bytes = toy_scratch,
    .flops = toy_flops,
    .is_loss = true,
    .cpu = {[ORR_FORWARD] = loss_forward, [ORR_BACKWARD] = loss_backward, [ORR_WEIGHTS] = loss_weights},
    .operands = {[ORR_FORWARD] = ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_RESULT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_INPUT_GRADIENT | ORR_SAVEDS,
                 [ORR_WEIGHTS] = ORR_IDS | ORR_INPUT | ORR_PARAMETERS | ORR_GRADIENTS | ORR_SAVEDS},
};

/* ---- models of them -------------------------------------------------------------------------------------------- */

static const struct orr_parameter_name toy_names[] = {
    {"source.w", "source", NULL}, {"scale.w", "scale.%d", NULL}, {"loss.b", "bias", NULL}};

enum { TOY_NAMES = sizeof(toy_names) / sizeof(toy_names[0]) };

/* source, `scales` scales in a row, an untied loss; ids and layers count from 0. */
static inline struct orr_model *toy_chain(const struct orr_mesh *mesh, int scales)
{
    struct orr_model *model = orr_model_create(mesh);

    ck_assert_msg(model != NULL, "%s", orr_error());
    for (int i = 0; i < scales + 2; i++) {
        struct toy toy = {.id = i, .flops = 1};
        const struct orr_block_class *cls = i == 0 ? &source_class : i <= scales ? &scale_class : &loss_class;
        ck_assert_msg(orr_block_append(model, cls, i, &toy) != NULL, "%s", orr_error());
    }
    ck_assert_msg(orr_model_build(model, toy_names, TOY_NAMES) == 0, "%s", orr_error());
    ck_assert_int_eq(orr_model_randomize(model, 1), 0);
    return model;
}

/* Sample n has the tokens 1 + (n + t) % 3 and the labels n % 2 - t % 2. */
static int32_t toy_token(uint64_t sample, int t)
{
    return (int32_t)(1 + (sample + (uint64_t)t) % 3);
}

static int32_t toy_label(uint64_t sample, int t)
{
    return (int32_t)(sample % 2) - t % 2;
}

static void toy_read(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self;
    for (int b = 0; b < count; b++) {
        for (int t = 0; t < seq; t++) {
            tokens[b * seq + t] = toy_token(first + (uint64_t)b, t);
            labels[b * seq + t] = toy_label(first + (uint64_t)b, t);
        }
    }
}

static const struct orr_source toy_source = {toy_read, NULL};

/* Makes so many steps, all submitted before the first is asked for; the report of the last. */
static inline struct orr_step toy_train(struct orr_training *training, int steps)
{
    struct orr_step report = {0};

    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_submit(training, &toy_source) == 0, "%s", orr_error());
    for (int s = 0; s < steps; s++)
        ck_assert_msg(orr_training_next(training, &report, true) == 1, "%s", orr_error());
    return report;
}

/* The microbatch that a pass works on. */
static inline int toy_microbatch(const struct orr_operands *o)
{
    return (int)(o->first_sample / (uint64_t)o->batch);
}

static inline void toy_sleep(void)
{
    nanosleep(&(struct timespec){0, 1000000}, NULL);
}

/* Waits until *flag is at least `value`; false after ten seconds. */
static inline bool toy_wait(atomic_int *flag, int value)
{
    for (int ms = 0; atomic_load(flag) < value; ms++) {
        if (ms == 10000)
            return false;
        toy_sleep();
    }
    return true;
}

#endif
