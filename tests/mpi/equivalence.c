/* SPDX-License-Identifier: Apache-2.0 */
/* Every layout trains the same model: a GPT-2 of five layers, whose heads, columns, rows and positions divide by nothing.
 *
 *     equivalence DIR             serially, then in every layout below, in this process; results are kept in DIR
 *     mpiexec -n N equivalence DIR STEPS      after that: in the layouts for N ranks, 5 or 20 steps
 *
 * Losses and gradient norms must be within 1e-5 of the serial ones, relative; parameters at the end, against the largest of
 * the same tensor, within 1e-4. In bf16 and fp16 they must be as near to the serial run as two runs are whose roundings have
 * nothing to do with each other: see near(). Layouts with the same replicas, shards and chunks sum everything in the same order:
 * whatever their stages, slots, ZeRO and ranks, they must agree bit for bit, in any dtype. Prints a line per layout with the
 * largest differences from the serial run. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <models/gpt2.h>
#include <orrery/orrery.h>

enum { VOCAB = 61, SEQ = 13, HEADS = 5, WIDTH = 40, INNER = 90, LAYERS = 5, SHORT_RUN = 5, STEPS = 20, MOST_TENSORS = 80 };

/* What layouts are compared in: the same for the serial run and the layout. */
enum setup { USUAL, NO_CLIP, SHORT_LAST, UNTIED, SGD, BF16, FP16, SETUPS };

static const struct {
    const char *name;
    int batch, micro_batch;
    float clip;
    bool untied;
    enum orr_optimizer_kind optimizer;
    enum orr_dtype dtype;
} setups[SETUPS] = {
    [USUAL] = {"", 8, 2, 1, false, ORR_ADAMW},
    [NO_CLIP] = {" clip 0", 8, 2, 0, false, ORR_ADAMW},
    [SHORT_LAST] = {" short last microbatch", 9, 2, 1, false, ORR_ADAMW},
    [UNTIED] = {" untied", 8, 2, 1, true, ORR_ADAMW},
    [SGD] = {" sgd", 8, 2, 1, false, ORR_SGD},
    [BF16] = {" bf16", 8, 2, 1, false, ORR_ADAMW, ORR_BF16},
    [FP16] = {" fp16", 8, 2, 1, false, ORR_ADAMW, ORR_F16},
};

struct layout {
    enum setup setup;
    int dp, pp, tp;
    bool sequence_parallel;
    int zero, parameter_slots, stages;
    const char *slots;
    bool shared;        /* also with fewer ranks than coordinates */
};

static const struct layout layouts[] = {
    {.dp = 1, .pp = 2, .tp = 1, .zero = 1},
    {.dp = 1, .pp = 2, .tp = 1, .zero = 3},
    {.dp = 2, .pp = 1, .tp = 1, .zero = 1},
    {.dp = 2, .pp = 1, .tp = 1, .zero = 3},
    {.dp = 1, .pp = 1, .tp = 2, .zero = 1},
    {.dp = 1, .pp = 1, .tp = 2, .zero = 3},
    {.dp = 1, .pp = 1, .tp = 2, .zero = 1, .sequence_parallel = true},
    {.dp = 1, .pp = 1, .tp = 2, .zero = 3, .sequence_parallel = true},
    {.dp = 2, .pp = 2, .tp = 1, .zero = 1, .shared = true},
    {.dp = 2, .pp = 2, .tp = 1, .zero = 3, .shared = true},
    {.dp = 1, .pp = 2, .tp = 2, .zero = 1},
    {.dp = 1, .pp = 2, .tp = 2, .zero = 3},
    {.dp = 1, .pp = 2, .tp = 2, .zero = 1, .sequence_parallel = true},
    {.dp = 1, .pp = 2, .tp = 2, .zero = 3, .sequence_parallel = true},
    {.dp = 2, .pp = 1, .tp = 2, .zero = 1},
    {.dp = 2, .pp = 1, .tp = 2, .zero = 3},
    {.dp = 2, .pp = 1, .tp = 2, .zero = 1, .sequence_parallel = true},
    {.dp = 2, .pp = 1, .tp = 2, .zero = 3, .sequence_parallel = true},
    {.dp = 4, .pp = 1, .tp = 1, .zero = 1, .shared = true},
    {.dp = 4, .pp = 1, .tp = 1, .zero = 3, .shared = true},
    {.dp = 1, .pp = 4, .tp = 1, .zero = 1, .shared = true},
    {.dp = 1, .pp = 4, .tp = 1, .zero = 3},
    {.dp = 2, .pp = 2, .tp = 2, .zero = 1},
    {.dp = 2, .pp = 2, .tp = 2, .zero = 3},
    {.dp = 2, .pp = 2, .tp = 2, .zero = 1, .sequence_parallel = true},
    {.dp = 2, .pp = 2, .tp = 2, .zero = 3, .sequence_parallel = true, .shared = true},
    /* As many slots of received parameters as there can be, and as few. */
    {.dp = 2, .pp = 1, .tp = 1, .zero = 3, .parameter_slots = 1},
    {.dp = 2, .pp = 1, .tp = 1, .zero = 3, .parameter_slots = 4},
    {.dp = 2, .pp = 1, .tp = 2, .zero = 3, .parameter_slots = 1},
    /* Schedules. */
    {.dp = 1, .pp = 2, .tp = 1, .slots = "gpipe"},
    {.dp = 1, .pp = 2, .tp = 1, .slots = "1f1b"},
    {.dp = 1, .pp = 2, .tp = 1, .slots = "h1"},
    {.dp = 1, .pp = 2, .tp = 1, .slots = "zb"},
    {.dp = 1, .pp = 2, .tp = 1, .slots = "3"},
    {.dp = 1, .pp = 2, .tp = 1, .slots = "1"},
    {.dp = 1, .pp = 4, .tp = 1, .slots = "1f1b"},
    {.dp = 1, .pp = 4, .tp = 1, .slots = "zb"},
    {.dp = 1, .pp = 2, .tp = 1, .stages = 4},
    {.dp = 1, .pp = 2, .tp = 1, .stages = 6, .slots = "zb"},
    {.dp = 1, .pp = 1, .tp = 1, .stages = 3, .slots = "1f1b"},
    {.dp = 2, .pp = 2, .tp = 1, .stages = 4, .zero = 3},
    {.dp = 1, .pp = 2, .tp = 2, .stages = 4, .slots = "gpipe", .sequence_parallel = true},
    /* The other setups. */
    {NO_CLIP, .dp = 2, .pp = 1, .tp = 1},
    {NO_CLIP, .dp = 1, .pp = 2, .tp = 1},
    {NO_CLIP, .dp = 2, .pp = 1, .tp = 2, .sequence_parallel = true},
    {SHORT_LAST, .dp = 2, .pp = 1, .tp = 1},
    {SHORT_LAST, .dp = 1, .pp = 2, .tp = 1, .slots = "zb"},
    {SHORT_LAST, .dp = 1, .pp = 1, .tp = 2, .sequence_parallel = true},
    {SHORT_LAST, .dp = 2, .pp = 2, .tp = 1, .zero = 3},
    {UNTIED, .dp = 1, .pp = 2, .tp = 1},
    {UNTIED, .dp = 1, .pp = 1, .tp = 2, .zero = 3},
    {UNTIED, .dp = 2, .pp = 2, .tp = 1, .zero = 3},
    {SGD, .dp = 1, .pp = 1, .tp = 2},
    {SGD, .dp = 2, .pp = 1, .tp = 2, .zero = 3, .sequence_parallel = true},
    {SGD, .dp = 2, .pp = 2, .tp = 1},
    {BF16, .dp = 2, .pp = 1, .tp = 1},
    {BF16, .dp = 2, .pp = 1, .tp = 1, .zero = 3},
    {BF16, .dp = 1, .pp = 2, .tp = 1},
    {BF16, .dp = 1, .pp = 2, .tp = 1, .slots = "1f1b"},
    {BF16, .dp = 1, .pp = 1, .tp = 2},
    {BF16, .dp = 1, .pp = 1, .tp = 2, .zero = 3, .slots = "1f1b"},
    {BF16, .dp = 1, .pp = 1, .tp = 2, .zero = 3, .sequence_parallel = true},
    {BF16, .dp = 1, .pp = 2, .tp = 2, .slots = "zb"},
    {BF16, .dp = 2, .pp = 2, .tp = 1, .zero = 3},
    {BF16, .dp = 2, .pp = 2, .tp = 2, .zero = 3, .sequence_parallel = true},
    {FP16, .dp = 2, .pp = 1, .tp = 1},
    {FP16, .dp = 1, .pp = 2, .tp = 1, .slots = "1f1b"},
    {FP16, .dp = 1, .pp = 1, .tp = 2, .sequence_parallel = true},
    {FP16, .dp = 2, .pp = 2, .tp = 1, .zero = 3},
    {FP16, .dp = 2, .pp = 2, .tp = 2, .zero = 3, .sequence_parallel = true},
};

static void name_of(const struct layout *l, char *name, size_t size)
{
    int n = snprintf(name, size, "%dx%dx%d", l->dp, l->pp, l->tp);
    char *end = name + n;

    size -= (size_t)n;
    snprintf(end, size, "%s%s%.0d%s%.0d%s%.0d%s%s%s", l->sequence_parallel ? " sequence-parallel" : "",
             l->zero ? " zero " : "", l->zero, l->parameter_slots ? " parameter-slots " : "", l->parameter_slots,
             l->stages ? " stages " : "", l->stages, l->slots ? " slots " : "", l->slots ? l->slots : "",
             setups[l->setup].name);
}

/* ---- a run ----------------------------------------------------------------------------------------------------- */

static void die(const char *what)
{
    fprintf(stderr, "equivalence: rank %d: %s: %s\n", orr_rank(), what, orr_error());
    exit(1);
}

static void read_samples(void *self, uint64_t first, int count, int seq, int32_t *const field[ORR_FIELDS])
{
    int32_t *tokens = field[ORR_FIELD_TOKENS], *labels = field[ORR_FIELD_LABELS];

    (void)self;
    for (int b = 0; b < count; b++) {
        struct orr_rng rng = {42, (uint32_t)(first + (uint64_t)b), 0};
        uint32_t words[SEQ + 1];
        orr_rng_words(&rng, 0, (size_t)seq + 1, words);
        for (int t = 0; t < seq; t++) {
            tokens[b * seq + t] = (int32_t)(words[t] % VOCAB);
            labels[b * seq + t] = t % 5 == 4 ? ORR_IGNORE : (int32_t)(words[t + 1] % VOCAB);
        }
    }
}

static struct orr_model *create_model(const struct layout *l)
{
    struct orr_gpt2 gpt = {
        .vocab_size = VOCAB,
        .n_positions = SEQ + 4,
        .n_embd = WIDTH,
        .n_layer = LAYERS,
        .n_head = HEADS,
        .n_inner = INNER,
        .embd_pdrop = 0.1f,
        .attn_pdrop = 0.1f,
        .resid_pdrop = 0.1f,
        .layer_norm_epsilon = 1e-5f,
        .initializer_range = 0.1f,
        .tie_word_embeddings = !setups[l->setup].untied,
        .dtype = setups[l->setup].dtype,
    };
    struct orr_mesh mesh = {
        .dp = l->dp,
        .pp = l->pp,
        .tp = l->tp,
        .ranks = orr_rank_count(),
        .stages = l->stages,
        .sequence_parallel = l->sequence_parallel,
        .zero = l->zero,
        .parameter_slots = l->parameter_slots,
    };
    struct orr_model *model = orr_gpt2_create(&gpt, &mesh);

    if (!model || orr_model_randomize(model, 3) != 0)
        die("model");
    return model;
}

static struct orr_training *create_training(struct orr_model *model, const struct layout *l)
{
    struct orr_training_options options = {
        .batch = setups[l->setup].batch,
        .micro_batch = setups[l->setup].micro_batch,
        .seq = SEQ,
        .optimizer = orr_optimizer_default(setups[l->setup].optimizer),
        .schedule = {ORR_SCHEDULE_COSINE, 3e-3, 3e-4, 3, 40},
        .seed = 5,
    };

    /* The gradient of a key's bias is nothing but rounding, of which Adam would make steps as large as any. */
    options.optimizer.eps = 1e-5f;
    options.optimizer.clip = setups[l->setup].clip;
    if (l->slots && orr_slot_policy_parse(l->slots, &options.slots) != 0)
        die("slots");
    struct orr_training *training = orr_training_create(model, &options);
    if (!training)
        die("training");
    return training;
}

/* Losses and norms of every step; parameters, all behind each other, after SHORT_RUN and after STEPS. */
struct result {
    double loss[STEPS], norm[STEPS];
    int tensors;
    int64_t size[MOST_TENSORS], count;
    float *parameters[2];
};

static void read_parameters(struct orr_model *model, struct result *r, int which)
{
    int64_t at = 0;

    r->tensors = orr_model_parameter_count(model);
    r->count = orr_model_size(model);
    r->parameters[which] = malloc((size_t)r->count * sizeof(float));
    if (!r->parameters[which] || r->tensors > MOST_TENSORS)
        die("memory");
    for (int i = 0; i < r->tensors; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        if (at + info.count > r->count || orr_model_read(model, i, r->parameters[which] + at) != 0)
            die("parameters");
        r->size[i] = info.count;
        at += info.count;
    }
}

static void take_steps(struct orr_training *training, struct result *r, int from, int to)
{
    static const struct orr_source source = {read_samples, NULL};
    struct orr_step report;

    for (int step = from; step < to; step++)
        if (orr_training_submit(training, &source) != 0)
            die("step");
    for (int step = from; step < to; step++) {
        if (orr_training_next(training, &report, true) != 1 || report.step != step + 1)
            die("report");
        r->loss[step] = report.loss;
        r->norm[step] = report.grad_norm;
    }
}

static struct result train(const struct layout *l, int steps)
{
    struct orr_model *model = create_model(l);
    struct orr_training *training = create_training(model, l);
    struct result r = {.count = 0};

    take_steps(training, &r, 0, SHORT_RUN);
    read_parameters(model, &r, 0);
    if (steps > SHORT_RUN) {
        take_steps(training, &r, SHORT_RUN, steps);
        read_parameters(model, &r, 1);
    }
    orr_training_destroy(training);
    orr_model_destroy(model);
    return r;
}

/* ---- kept results ------------------------------------------------------------------------------------------------ */

static const char *directory;

static FILE *open_result(const char *name, const char *mode)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *f = fopen(path, mode);
    if (!f) {
        fprintf(stderr, "equivalence: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return f;
}

static void keep(const char *name, const struct result *r)
{
    FILE *f = open_result(name, "wb");
    size_t count = (size_t)r->count;

    if (fwrite(r, sizeof(*r), 1, f) != 1 || fwrite(r->parameters[0], sizeof(float), count, f) != count ||
        fwrite(r->parameters[1], sizeof(float), count, f) != count || fclose(f) != 0)
        die(name);
}

static struct result kept(const char *name)
{
    FILE *f = open_result(name, "rb");
    struct result r;

    if (fread(&r, sizeof(r), 1, f) != 1)
        die(name);
    for (int i = 0; i < 2; i++) {
        r.parameters[i] = malloc((size_t)r.count * sizeof(float));
        if (!r.parameters[i] || fread(r.parameters[i], sizeof(float), (size_t)r.count, f) != (size_t)r.count)
            die(name);
    }
    fclose(f);
    return r;
}

static void forget(struct result *r)
{
    free(r->parameters[0]);
    free(r->parameters[1]);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

static double larger(double most, double d)
{
    return isnan(d) ? INFINITY : fmax(most, d);
}

struct differences {
    double loss, norm, parameters;
};

static struct differences compare(const struct result *a, const struct result *b, int steps)
{
    const float *x = a->parameters[steps > SHORT_RUN], *y = b->parameters[steps > SHORT_RUN];
    struct differences d = {0};

    for (int step = 0; step < steps; step++) {
        d.loss = larger(d.loss, fabs(a->loss[step] / b->loss[step] - 1));
        d.norm = larger(d.norm, fabs(a->norm[step] / b->norm[step] - 1));
    }
    if (a->tensors != b->tensors || memcmp(a->size, b->size, sizeof(a->size)) != 0)
        d.parameters = INFINITY;
    for (int i = 0; i < a->tensors && isfinite(d.parameters); i++) {
        double most = 0, largest = 0;
        for (int64_t k = 0; k < a->size[i]; k++) {
            most = larger(most, fabs((double)x[k] - (double)y[k]));
            largest = fmax(largest, fabs((double)y[k]));
        }
        d.parameters = larger(d.parameters, most / largest);
        x += a->size[i];
        y += a->size[i];
    }
    return d;
}

/* How much farther a run is from the serial one than that from the serial run in fp32: of losses and norms over the steps, of
 * the tensor where it is most and on the mean over tensors, as roots of sums of squares. */
struct ratios {
    double loss, norm, tensor, mean;
};

static double squares(int64_t count, const float *x, const float *y)
{
    double sum = 0;

    for (int64_t k = 0; k < count; k++)
        sum += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
    return isnan(sum) ? INFINITY : sum;
}

static double squares_of_steps(int steps, const double *x, const double *y)
{
    double sum = 0;

    for (int step = 0; step < steps; step++)
        sum += (x[step] - y[step]) * (x[step] - y[step]);
    return isnan(sum) ? INFINITY : sum;
}

static struct ratios ratios_of(const struct result *run, const struct result *serial, const struct result *exact, int steps)
{
    int64_t at = 0;
    int which = steps > SHORT_RUN;
    struct ratios r = {
        .loss = sqrt(squares_of_steps(steps, run->loss, serial->loss) / squares_of_steps(steps, serial->loss, exact->loss)),
        .norm = sqrt(squares_of_steps(steps, run->norm, serial->norm) / squares_of_steps(steps, serial->norm, exact->norm)),
    };

    for (int i = 0; i < serial->tensors; at += serial->size[i++]) {
        const float *y = serial->parameters[which] + at;
        double ratio = squares(serial->size[i], run->parameters[which] + at, y) /
                       squares(serial->size[i], y, exact->parameters[which] + at);
        r.tensor = larger(r.tensor, sqrt(ratio));
        r.mean += ratio / serial->tensors;
    }
    r.mean = sqrt(r.mean);
    return r;
}

/* The serial run is D from fp32 where it rounds what a block hands on, once. A shard's partial output is no larger than the
 * whole, and with tp of them, the branch and their sum there are 2 + tp such roundings: the run is sqrt(2 + tp) D from fp32, in a
 * direction of its own, and so sqrt(1 + 2 + tp) D from the serial run, on the mean. What is no mean of many, the losses of steps
 * that decide on each other, or a tensor of forty, may be twice as far. */
static bool near(const struct layout *l, const struct ratios *r)
{
    double most = sqrt(3 + l->tp);

    return r->mean <= most && r->tensor <= 2 * most && r->loss <= 2 * most && r->norm <= 2 * most;
}

static bool same(const struct differences *d)
{
    return d->loss == 0 && d->norm == 0 && d->parameters == 0;
}

/* The first layout that sums in the same order. */
static const char *equal_of(const struct layout *l, char *name, size_t size)
{
    const struct layout *first = layouts;

    while (first->setup != l->setup || first->dp != l->dp || first->tp != l->tp ||
           first->sequence_parallel != l->sequence_parallel)
        first++;
    if (l->dp == 1 && l->tp == 1)
        snprintf(name, size, "serial%s", setups[l->setup].name);
    else
        name_of(first, name, size);
    return name;
}

static bool check(const struct layout *l, const char *name, const struct result *r, int steps)
{
    char serial[128], equal[128];

    snprintf(serial, sizeof(serial), "serial%s", setups[l->setup].name);
    struct result reference = kept(serial);
    struct differences d = compare(r, &reference, steps);
    bool good = d.loss <= 1e-5 && d.norm <= 1e-5 && d.parameters <= 1e-4;
    printf("%-48s loss %.1e  norm %.1e  parameters %.1e", name, d.loss, d.norm, d.parameters);
    if (setups[l->setup].dtype != ORR_F32) {
        struct result exact = kept("serial");
        struct ratios ratios = ratios_of(r, &reference, &exact, steps);
        good = near(l, &ratios);
        printf(", times fp32's: %.2f  %.2f  %.2f, mean %.2f", ratios.loss, ratios.norm, ratios.tensor, ratios.mean);
        forget(&exact);
    }
    printf("%s", good ? "" : "  FAILED: too far");
    forget(&reference);
    if (orr_rank_count() > 1 || strcmp(equal_of(l, equal, sizeof(equal)), name) != 0) {
        reference = kept(equal_of(l, equal, sizeof(equal)));
        d = compare(r, &reference, steps);
        if (!same(&d))
            printf("  FAILED: is not %s: loss %.1e  norm %.1e  parameters %.1e", equal, d.loss, d.norm, d.parameters);
        good = good && same(&d);
        forget(&reference);
    }
    printf("\n");
    fflush(stdout);
    return good;
}

static void train_serially(void)
{
    for (int s = 0; s < SETUPS; s++) {
        struct layout serial = {.setup = (enum setup)s, .dp = 1, .pp = 1, .tp = 1};
        char name[64];
        struct result r = train(&serial, STEPS);
        snprintf(name, sizeof(name), "serial%s", setups[s].name);
        printf("%-48s loss %.17g to %.17g\n", name, r.loss[0], r.loss[STEPS - 1]);
        /* Or a comparison would say little. */
        if (!(r.loss[STEPS - 1] < r.loss[0]) || memcmp(r.parameters[0], r.parameters[1], (size_t)r.count * sizeof(float)) == 0)
            die("the serial run learns nothing");
        keep(name, &r);
        forget(&r);
    }
}

int main(int argc, char **argv)
{
    int steps = argc > 2 ? atoi(argv[2]) : STEPS, failures = 0, runs = 0;

    if (argc < 2 || argc > 4 || (steps != SHORT_RUN && steps != STEPS)) {
        fprintf(stderr, "use: equivalence DIR [%d|%d [BEGINNING OF A LAYOUT'S NAME]]\n", SHORT_RUN, STEPS);
        return 2;
    }
    directory = argv[1];
    if (orr_init(NULL) != 0)
        die("start");
    int ranks = orr_rank_count();
    if (ranks == 1 && argc < 4)
        train_serially();
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        const struct layout *l = &layouts[i];
        int size = l->dp * l->pp * l->tp;
        char name[128];
        name_of(l, name, sizeof(name));
        if (size != ranks && ranks > 1 && !(l->shared && size % ranks == 0))
            continue;
        if (argc == 4 && strncmp(name, argv[3], strlen(argv[3])) != 0)
            continue;
        struct result r = train(l, steps);
        runs++;
        if (orr_rank() == 0) {
            failures += !check(l, name, &r, steps);
            if (ranks == 1)
                keep(name, &r);
        }
        forget(&r);
    }
    if (orr_rank() == 0)
        printf("%d ranks, %d steps: %d layouts, %d failures\n", ranks, steps, runs, failures);
    orr_shutdown();
    return failures > 0 || runs == 0;
}
