/* SPDX-License-Identifier: Apache-2.0 */
/* Every CUDA function of a block's class against its CPU function, operand by operand. What a pass takes is read off the class:
 * a new block is tested as soon as a model below has it. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <models/gpt2.h>

#include "tools/selftest.h"
#include "tools/tools.h"

enum {
    GUARD = 256,            /* bytes behind everything on the device       */
    MOST = 3,               /* shards, chunks                              */
    MOST_TILES = 256,
    MOST_TAKEN = 64,        /* tiles of a pass                             */
    ROWS = 3                /* that a prediction is asked for              */
};

enum { READ = 1, WRITTEN = 2 };

/* An operand's values. On the CPU they are fp32, rounded where the dtype is bf16 or fp16; ids and results are as they are. */
struct tile {
    const char *name;
    enum orr_dtype dtype;           /* on the device; ORR_I32: ids; ORR_U8: bytes of a struct orr_result */
    int64_t count;
    float *cpu;
    char *device;
    float mean, std;                /* that it is drawn with; std 0: another pass writes it              */
    bool partly;                    /* a pass may leave some of it to a later one                        */
};

/* A flat tile of parameters, and one of gradients: a group's, or a part of it. */
struct part {
    int views;
    int number[ORR_MAX_VIEWS];      /* in the group   */
    struct orr_view view[ORR_MAX_VIEWS];
    struct tile *param, *grad;
};

/* A block cut into o.shards and o.chunks, both 1: whole; with all tiles that a microbatch has. */
struct subject {
    const struct orr_block_class *cls;
    struct orr_block_spec spec;
    int inputs, vocab;
    enum orr_dtype dtype;
    struct orr_operands o;          /* the scalars of every pass */
    int32_t rows[ROWS];
    struct tile *x[ORR_MAX_INPUTS][MOST], *dx[ORR_MAX_INPUTS][MOST], *y[MOST], *dy[MOST], *branch[MOST];
    struct tile *saved[MOST], *saved_values[MOST], *chunk_saved[MOST], *chunk_saved_values[MOST];
    struct tile *partial[MOST][MOST], *dpartial[MOST][MOST];       /* [shard][chunk] */
    struct tile *predicted[MOST];   /* by a shard */
    struct tile *ids, *result[MOST], *prediction, *loss_scale;
    struct part common[MOST][ORR_MAX_GROUPS], shard[MOST][ORR_MAX_GROUPS];  /* [chunk], for its gradients; [shard] */
    int tiles;
    struct tile tile[MOST_TILES];
};

/* The tiles that a pass takes, as they are bound. */
struct taken {
    bool cpu;                       /* which side's addresses are given */
    int count;
    struct {
        struct tile *tile;
        const struct part *part;    /* of gradients, which are compared view by view */
        int mode;
    } of[MOST_TAKEN];
};

/* What came out of a pass in all layouts: the worst of it. */
struct outcome {
    bool run;
    double error;
    char where[160], reason[200];
};

static const char *const pass_names[ORR_PASSES] = {
    [ORR_FORWARD] = "F",           [ORR_BACKWARD] = "B",          [ORR_WEIGHTS] = "W",
    [ORR_WHOLE] = "FBW",           [ORR_PREDICT] = "P",           [ORR_CHUNK_FORWARD] = "chunk_F",
    [ORR_SHARD_FORWARD] = "shard_F", [ORR_CHUNK_JOIN] = "join_F", [ORR_SHARD_BACKWARD] = "shard_B",
    [ORR_SHARD_WEIGHTS] = "shard_W", [ORR_CHUNK_BACKWARD] = "chunk_B", [ORR_SHARD_PREDICT] = "shard_P",
    [ORR_CHUNK_PREDICT] = "chunk_P"};

static struct orr_cuda device;

/* ---- bounds ----------------------------------------------------------------------------------------------------- */

/* Both sides compute in fp32 and add up in other orders: a sum of n terms walks off by about the root of n roundings of its size,
 * and what a block writes is behind several such sums, so 4 eps sqrt(n). In bf16 and fp16 a device also rounds what it keeps
 * between two products, which a CPU does not, once or twice, and the last rounding may then fall to the neighbour: 4 eps. All in
 * units of the operand's largest value. */
static double bound_of(enum orr_dtype dtype, int longest)
{
    switch (dtype) {
    case ORR_BF16: return 4 * 0x1p-8;
    case ORR_F16: return 4 * 0x1p-11 * 2;
    default: return 4 * 0x1p-23 * sqrt(longest);
    }
}

static int longest_sum(const struct subject *k)
{
    int64_t longest = (int64_t)k->o.batch * k->o.seq;

    for (int g = 0; g < k->spec.groups; g++)
        for (int v = 0; v < ORR_MAX_VIEWS; v++)
            for (int d = 0; d < k->spec.view[g][v].ndim; d++)
                if (k->spec.view[g][v].shape[d] > longest)
                    longest = k->spec.view[g][v].shape[d];
    return (int)longest;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

static bool cuda_ok(cudaError_t status, const char *call)
{
    if (status != cudaSuccess)
        orr_cuda_fail(&device, call, cudaGetErrorString(status));
    return status == cudaSuccess;
}

static size_t device_bytes(const struct tile *t)
{
    return (size_t)t->count * orr_dtype_size(t->dtype);
}

static bool is_float(const struct tile *t)
{
    return t->dtype == ORR_F32 || t->dtype == ORR_BF16 || t->dtype == ORR_F16;
}

/* NULL where nothing would be in it. */
static struct tile *add_tile(struct subject *k, const char *name, enum orr_dtype dtype, int64_t count, float mean, float std)
{
    struct tile *t = &k->tile[k->tiles];

    if (count == 0 || k->tiles == MOST_TILES)
        return NULL;
    k->tiles++;
    *t = (struct tile){.name = name, .dtype = dtype, .count = count, .mean = mean, .std = std};
    t->cpu = malloc((size_t)count * sizeof(*t->cpu));
    void *room = NULL;
    if (cuda_ok(cudaMalloc(&room, device_bytes(t) + GUARD), "cudaMalloc"))
        t->device = room;
    return t;
}

static void round_tile(struct tile *t)
{
    if (t->dtype != ORR_BF16 && t->dtype != ORR_F16)
        return;
    char *narrow = malloc(device_bytes(t));
    if (narrow) {
        orr_dtype_round(t->dtype, (size_t)t->count, t->cpu, narrow);
        orr_dtype_widen(t->dtype, (size_t)t->count, narrow, t->cpu);
    }
    free(narrow);
}

/* Everything that no pass writes before another reads it. */
static void draw_tiles(struct subject *k)
{
    for (int i = 0; i < k->tiles; i++) {
        struct tile *t = &k->tile[i];
        struct orr_rng rng = {1, (uint32_t)i, k->o.step};
        if (!is_float(t) || t->std == 0)
            continue;
        orr_rng_normal(&rng, 0, (size_t)t->count, t->mean, t->std, t->cpu);
        round_tile(t);
    }
    for (int64_t i = 0; i < k->ids->count; i++) {
        struct orr_rng rng = {2, 0, k->o.step};
        uint32_t word;
        orr_rng_words(&rng, (uint64_t)i, 1, &word);
        bool ignored = k->cls->is_loss && i % 5 == 3;
        int32_t id = ignored ? ORR_IGNORE : (int32_t)(word % (uint32_t)k->vocab);
        memcpy(&k->ids->cpu[i], &id, sizeof(id));
    }
    for (int c = 0; c < k->o.chunks; c++)
        *(struct orr_result *)(void *)k->result[c]->cpu = (struct orr_result){1.5, 7};
    k->loss_scale->cpu[0] = 8;
}

/* A part of group g: shard t of what is split, or, t < 0, what all shards share; of a whole block everything. */
static void add_part(struct subject *k, struct part *p, int g, int t)
{
    int views = k->spec.views[g] ? k->spec.views[g] : k->spec.view[g][0].name != NULL;
    int64_t count = 0;

    for (int v = 0; v < views; v++) {
        const struct orr_view *view = &k->spec.view[g][v];
        if (k->o.shards > 1 && (view->split >= 0) != (t >= 0))
            continue;
        p->number[p->views] = v;
        p->view[p->views] = t >= 0 ? orr_view_shard(view, k->o.shards, t) : *view;
        p->view[p->views].offset = count;
        count += p->view[p->views].shape[0] * (view->ndim == 2 ? p->view[p->views].shape[1] : 1);
        p->views++;
    }
    p->param = add_tile(k, "parameters", k->dtype, count, 0, 1);
    p->grad = add_tile(k, "gradients", ORR_F32, count, 0, 1);
}

/* Norms near one, biases near zero, matrices such that sums have the size of a term; none of them equal. */
static void draw_part(struct subject *k, const struct part *p, uint32_t stream)
{
    for (int v = 0; v < p->views; v++) {
        const struct orr_view *view = &p->view[v];
        struct orr_rng rng = {3, 64 * stream + (uint32_t)v, k->o.step};
        int64_t count = view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
        float std = view->ndim == 2 ? 1 / sqrtf((float)k->spec.width) : 0.3f;
        orr_rng_normal(&rng, 0, (size_t)count, view->initial == ORR_INITIAL_ONE, std, p->param->cpu + view->offset);
    }
    if (p->param)
        round_tile(p->param);
}

static void add_saved(struct subject *k, struct orr_saved_size size, struct tile **floats, struct tile **values)
{
    bool any = size.floats || size.values;

    *floats = add_tile(k, "saved", ORR_F32, any ? size.floats + 1 : 0, 0, 0);
    *values = add_tile(k, "saved values", k->dtype, any ? size.values + 1 : 0, 0, 0);
    if (any)
        (*floats)->partly = (*values)->partly = true;
}

static void add_chunk_tiles(struct subject *k, int c)
{
    const struct orr_sharding *cut = k->o.shards > 1 ? k->cls->sharding : NULL;
    int64_t rows = k->o.batch * orr_chunk(&k->o, c).count, width = k->spec.width;
    int64_t output = cut && cut->output_width ? cut->output_width : width;

    for (int i = 0; i < k->inputs; i++) {
        k->x[i][c] = add_tile(k, "x", k->dtype, rows * width, 0.2f, 1);
        k->dx[i][c] = add_tile(k, "dx", k->dtype, rows * width, 0, 1);
    }
    k->y[c] = add_tile(k, "y", k->cls->is_loss ? ORR_F32 : k->dtype, rows * output, 0, 0);
    k->dy[c] = add_tile(k, "dy", k->dtype, rows * width, 0, 1);
    k->result[c] = add_tile(k, "result", ORR_U8, (int64_t)sizeof(struct orr_result), 0, 0);
    for (int g = 0; g < k->spec.groups; g++)
        add_part(k, &k->common[c][g], g, -1);
    if (!cut)
        return;
    k->branch[c] = add_tile(k, "branch", k->dtype, rows * width, 0, 0);
    add_saved(k, cut->chunk_saved(k->o.config, k->o.batch, (int)orr_chunk(&k->o, c).count), &k->chunk_saved[c],
              &k->chunk_saved_values[c]);
    for (int t = 0; t < k->o.shards; t++) {
        k->partial[t][c] = add_tile(k, "partial", cut->partial_width ? ORR_F32 : k->dtype,
                                    rows * (cut->partial_width ? cut->partial_width : width), 0, 0);
        k->dpartial[t][c] = add_tile(k, "dpartial", k->dtype, rows * width, 0, 0);
    }
}

static void add_shard_tiles(struct subject *k, int t)
{
    const struct orr_sharding *cut = k->cls->sharding;

    add_saved(k, cut->saved(k->o.config, k->o.batch, k->o.seq, k->o.shards, t), &k->saved[t], &k->saved_values[t]);
    k->predicted[t] =
        add_tile(k, "part of a prediction", ORR_F32, ROWS * orr_split(k->vocab, 1, k->o.shards, t).count, 0, 0);
    for (int g = 0; g < k->spec.groups; g++)
        add_part(k, &k->shard[t][g], g, t);
}

static void add_tiles(struct subject *k)
{
    k->ids = add_tile(k, "ids", ORR_I32, (int64_t)k->o.batch * k->o.seq, 0, 0);
    k->loss_scale = add_tile(k, "loss scale", ORR_F32, 1, 0, 0);
    k->prediction = add_tile(k, "prediction", ORR_F32, ROWS * (k->vocab + k->spec.width), 0, 0);
    for (int c = 0; c < k->o.chunks; c++)
        add_chunk_tiles(k, c);
    if (k->o.shards == 1)
        add_saved(k, k->cls->saved(k->o.config, k->o.batch, k->o.seq), &k->saved[0], &k->saved_values[0]);
    for (int t = 0; t < k->o.shards && k->o.shards > 1; t++)
        add_shard_tiles(k, t);
}

static void draw(struct subject *k)
{
    draw_tiles(k);
    for (int g = 0; g < k->spec.groups; g++) {
        for (int c = 0; c < k->o.chunks; c++)
            draw_part(k, &k->common[c][g], (uint32_t)g);
        for (int t = 0; t < k->o.shards && k->o.shards > 1; t++)
            draw_part(k, &k->shard[t][g], 8 * (uint32_t)t + (uint32_t)g + 4);
    }
}

static void free_tiles(struct subject *k)
{
    for (int i = 0; i < k->tiles; i++) {
        free(k->tile[i].cpu);
        cuda_ok(cudaFree(k->tile[i].device), "cudaFree");
    }
}

/* ---- which tiles a pass takes, as lib/graph/pass.c has it ------------------------------------------------------- */

static bool is_of_shard(enum orr_pass pass)
{
    return pass == ORR_SHARD_FORWARD || pass == ORR_SHARD_BACKWARD || pass == ORR_SHARD_WEIGHTS || pass == ORR_SHARD_PREDICT;
}

static int saved_mode(enum orr_pass pass)
{
    switch (pass) {
    case ORR_FORWARD:
    case ORR_CHUNK_FORWARD:
    case ORR_SHARD_FORWARD: return WRITTEN;
    case ORR_WEIGHTS:
    case ORR_SHARD_WEIGHTS: return READ;
    default: return READ | WRITTEN;
    }
}

static void *take_part(struct taken *taken, struct tile *t, int mode, const struct part *part)
{
    if (!t)
        return NULL;
    if (taken->count < MOST_TAKEN) {
        taken->of[taken->count].tile = t;
        taken->of[taken->count].part = part;
        taken->of[taken->count++].mode = mode;
    }
    return taken->cpu ? (void *)t->cpu : t->device;
}

static void *take(struct taken *taken, struct tile *t, int mode)
{
    return take_part(taken, t, mode, NULL);
}

static void bind_parameters(const struct subject *k, enum orr_pass pass, int part, struct taken *taken, struct orr_operands *o)
{
    unsigned takes = k->cls->operands[pass];

    for (int g = 0; g < k->spec.groups; g++) {
        const struct part *p = is_of_shard(pass) ? &k->shard[part][g] : &k->common[part][g];
        char *param = takes & ORR_PARAMETERS ? take(taken, p->param, READ) : NULL;
        char *grad = takes & ORR_GRADIENTS ? take_part(taken, p->grad, o->first_gradient ? WRITTEN : READ | WRITTEN, p) : NULL;
        size_t size = taken->cpu ? sizeof(float) : orr_dtype_size(k->dtype);
        for (int v = 0; v < p->views; v++) {
            o->param[g][p->number[v]] = param ? (void *)(param + (size_t)p->view[v].offset * size) : NULL;
            o->grad[g][p->number[v]] = grad ? (void *)(grad + (size_t)p->view[v].offset * sizeof(float)) : NULL;
        }
    }
}

static void bind_shard(struct subject *k, enum orr_pass pass, int t, struct taken *taken, struct orr_operands *o)
{
    unsigned takes = k->cls->operands[pass];

    for (int c = 0; c < o->chunks; c++) {
        o->ys[c] = takes & ORR_OUTPUT ? take(taken, k->y[c], READ) : NULL;
        o->dys[c] = takes & ORR_OUTPUT_GRADIENT ? take(taken, k->dy[c], READ) : NULL;
        o->branch[c] = takes & ORR_BRANCH ? take(taken, k->branch[c], READ) : NULL;
        o->partial[c] = takes & ORR_PARTIAL && pass != ORR_SHARD_PREDICT ? take(taken, k->partial[t][c], WRITTEN) : NULL;
        o->dpartial[c] = takes & ORR_PARTIAL_GRADIENT ? take(taken, k->dpartial[t][c], WRITTEN) : NULL;
    }
    if (pass == ORR_SHARD_PREDICT)
        o->partial[0] = take(taken, k->predicted[t], WRITTEN);
    if ((takes & ORR_SAVEDS) && o->training) {
        o->saved = take(taken, k->saved[t], saved_mode(pass));
        o->saved_values = take(taken, k->saved_values[t], saved_mode(pass));
    }
}

/* Of a chunk, or, the only one, of a whole block. */
static void bind_chunk(struct subject *k, enum orr_pass pass, int c, struct taken *taken, struct orr_operands *o)
{
    unsigned takes = k->cls->operands[pass];
    bool whole = o->shards == 1, all = pass == ORR_CHUNK_PREDICT;

    for (int i = 0; i < k->inputs; i++) {
        int mode = o->add_input_gradient[i] ? READ | WRITTEN : WRITTEN;
        o->x[i] = takes & ORR_INPUT ? take(taken, k->x[i][c], READ) : NULL;
        o->dx[i] = takes & ORR_INPUT_GRADIENT ? take(taken, k->dx[i][c], mode) : NULL;
    }
    o->y = takes & ORR_OUTPUT ? take(taken, k->y[c], WRITTEN) : NULL;
    o->dy = takes & ORR_OUTPUT_GRADIENT ? take(taken, k->dy[c], READ) : NULL;
    if ((takes & ORR_SAVEDS) && o->training) {
        o->saved = take(taken, whole ? k->saved[0] : k->chunk_saved[c], saved_mode(pass));
        o->saved_values = take(taken, whole ? k->saved_values[0] : k->chunk_saved_values[c], saved_mode(pass));
    }
    for (int b = 0; (takes & ORR_BRANCH) && b < (all ? o->chunks : 1); b++)
        o->branch[b] = take(taken, k->branch[all ? b : c], pass == ORR_CHUNK_FORWARD ? WRITTEN : READ);
    for (int t = 0; t < o->shards; t++) {
        o->partial[t] = takes & ORR_PARTIAL ? take(taken, all ? k->predicted[t] : k->partial[t][c], READ) : NULL;
        o->dpartial[t] = takes & ORR_PARTIAL_GRADIENT ? take(taken, k->dpartial[t][c], READ) : NULL;
    }
    if (takes & ORR_RESULT)
        o->result = take(taken, k->result[c], o->first_result ? WRITTEN : READ | WRITTEN);
    if (takes & ORR_PREDICTION)
        o->prediction = take(taken, k->prediction, WRITTEN);
}

static struct orr_operands bind(struct subject *k, enum orr_pass pass, int part, bool cpu, struct taken *taken)
{
    unsigned takes = k->cls->operands[pass];
    struct orr_operands o = k->o;

    *taken = (struct taken){.cpu = cpu};
    o.dtype = cpu ? ORR_F32 : k->dtype;
    o.cuda = cpu ? NULL : &device;
    o.shard = is_of_shard(pass) ? part : 0;
    o.chunk = is_of_shard(pass) ? 0 : part;
    o.rows = (struct orr_rows){ROWS, k->rows};
    if (takes & ORR_IDS)
        o.ids = take(taken, k->ids, READ);
    if ((takes & ORR_LOSS_SCALE) && k->o.first_gradient)
        o.loss_scale = take(taken, k->loss_scale, READ);
    if (takes & (ORR_PARAMETERS | ORR_GRADIENTS))
        bind_parameters(k, pass, part, taken, &o);
    if (is_of_shard(pass))
        bind_shard(k, pass, part, taken, &o);
    else
        bind_chunk(k, pass, part, taken, &o);
    return o;
}

/* ---- a pass on both sides ---------------------------------------------------------------------------------------- */

static void copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cuda_ok(cudaMemcpyAsync(to, from, bytes, kind, device.stream), "cudaMemcpyAsync");
    cuda_ok(cudaStreamSynchronize(device.stream), "cudaStreamSynchronize");
}

static void image_of(const struct tile *t, char *to)
{
    if (is_float(t))
        orr_dtype_round(t->dtype, (size_t)t->count, t->cpu, to);
    else
        memcpy(to, t->cpu, device_bytes(t));
}

/* What is read is brought, what is not is filled with NaN (all bits set), and so are the bytes behind. */
static void bring(const struct tile *t, int mode)
{
    size_t bytes = device_bytes(t);
    char *from = malloc(bytes + GUARD);

    if (!from)
        return;
    memset(from, 0xff, bytes + GUARD);
    if (mode & READ)
        image_of(t, from);
    copy(t->device, from, bytes + GUARD, cudaMemcpyHostToDevice);
    free(from);
}

static void note(struct outcome *out, double error, const struct subject *k, const char *what, const char *view)
{
    if (error < out->error || (error == 0 && out->where[0]))
        return;
    out->error = error;
    snprintf(out->where, sizeof(out->where), "%dx%d tp %d chunks %d%s: %s%s%s", k->o.batch, k->o.seq, k->o.shards, k->o.chunks,
             k->o.training ? "" : " no training", what, view ? " " : "", view ? view : "");
}

static double result_distance(const struct orr_result *found, const struct orr_result *wanted)
{
    double d = fabs(found->loss - wanted->loss) / fabs(wanted->loss);

    return found->labels != wanted->labels || !isfinite(d) ? INFINITY : d;
}

static void compare_floats(const struct subject *k, const struct tile *t, const struct part *part, const char *from,
                           struct outcome *out)
{
    float *found = malloc(2 * (size_t)t->count * sizeof(*found)), *wanted = found + t->count;

    if (!found)
        return;
    orr_dtype_widen(t->dtype, (size_t)t->count, from, found);
    memcpy(wanted, t->cpu, (size_t)t->count * sizeof(*wanted));
    for (int64_t i = 0; t->partly && i < t->count; i++)
        if (isnan(wanted[i]))
            found[i] = wanted[i] = 0;
    for (int v = 0; part && v < part->views; v++) {
        const struct orr_view *view = &part->view[v];
        int64_t count = view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
        note(out, selftest_distance(count, found + view->offset, wanted + view->offset), k, "gradient of", view->name);
    }
    if (!part)
        note(out, selftest_distance(t->count, found, wanted), k, t->name, NULL);
    free(found);
}

/* What was written against the CPU's, what was read against what it was, and the bytes behind. */
static void compare(const struct subject *k, const struct taken *taken, int i, struct outcome *out)
{
    const struct tile *t = taken->of[i].tile;
    size_t bytes = device_bytes(t);
    char *from = malloc(2 * bytes + GUARD), *before = from + bytes + GUARD, what[64];

    if (!from)
        return;
    image_of(t, before);
    copy(from, t->device, bytes + GUARD, cudaMemcpyDeviceToHost);
    if (t->dtype == ORR_U8)
        note(out, result_distance((void *)from, (void *)t->cpu), k, t->name, NULL);
    else if (taken->of[i].mode & WRITTEN)
        compare_floats(k, t, taken->of[i].part, from, out);
    else if (memcmp(from, before, bytes) != 0)
        note(out, INFINITY, k, t->name, "changed");
    for (size_t b = bytes; b < bytes + GUARD; b++)
        if ((unsigned char)from[b] != 0xff) {
            snprintf(what, sizeof(what), "written behind %s", t->name);
            note(out, INFINITY, k, what, NULL);
            break;
        }
    free(from);
}

static void poison_cpu(struct tile *t)
{
    memset(t->cpu, 0xff, (size_t)t->count * (is_float(t) ? sizeof(float) : 1));
}

static void run_cpu(const struct subject *k, enum orr_pass pass, const struct orr_operands *o, const struct taken *taken)
{
    for (int i = 0; i < taken->count; i++)
        if (taken->of[i].mode == WRITTEN)
            poison_cpu(taken->of[i].tile);
    if (o->result && o->first_result)
        *o->result = (struct orr_result){0};
    k->cls->cpu[pass](o);
    for (int i = 0; i < taken->count; i++)
        if (taken->of[i].mode & WRITTEN)
            round_tile(taken->of[i].tile);
}

/* With as much scratch as the class asks for, and not a byte more. */
static void run_cuda(const struct subject *k, enum orr_pass pass, const struct orr_operands *o, struct outcome *out)
{
    const struct orr_shape shape = {k->dtype, k->o.batch, k->o.seq, k->o.shards, true};
    size_t bytes = k->cls->scratch_bytes(k->o.config, &shape);
    unsigned char guard[GUARD];

    if (!cuda_ok(cudaMalloc(&device.scratch, bytes + GUARD), "cudaMalloc"))
        return;
    cuda_ok(cudaMemsetAsync(device.scratch, 0xff, bytes + GUARD, device.stream), "cudaMemsetAsync");
    k->cls->cuda[pass](o);
    copy(guard, (char *)device.scratch + bytes, GUARD, cudaMemcpyDeviceToHost);
    for (int b = 0; b < GUARD && !device.code; b++)
        if (guard[b] != 0xff) {
            note(out, INFINITY, k, "written behind the scratch", NULL);
            break;
        }
    cuda_ok(cudaFree(device.scratch), "cudaFree");
}

static void check_pass(struct subject *k, enum orr_pass pass, int part, struct outcome outcomes[])
{
    struct outcome *out = &outcomes[pass];
    struct taken taken, there;

    if (!k->cls->cpu[pass])
        return;
    bool both = k->cls->cuda[pass] && !device.code;
    struct orr_operands o = bind(k, pass, part, true, &taken);
    for (int i = 0; both && i < taken.count; i++)
        bring(taken.of[i].tile, taken.of[i].mode);
    run_cpu(k, pass, &o, &taken);
    if (!both)
        return;
    out->run = true;
    o = bind(k, pass, part, false, &there);
    run_cuda(k, pass, &o, out);
    for (int i = 0; i < taken.count && !device.code; i++)
        compare(k, &taken, i, out);
    if (device.code && !out->reason[0])
        snprintf(out->reason, sizeof(out->reason), "%s", device.what);
    device.code = 0;
}

/* ---- all passes of a block ---------------------------------------------------------------------------------------- */

static void check_parts(struct subject *k, enum orr_pass pass, struct outcome outcomes[])
{
    int parts = is_of_shard(pass) ? k->o.shards : pass == ORR_CHUNK_PREDICT ? 1 : k->o.chunks;

    for (int i = 0; i < parts; i++)
        check_pass(k, pass, i, outcomes);
}

/* In the order of a step, since a pass reads what the CPU's left before. */
static void check_order(struct subject *k, bool whole, struct outcome outcomes[])
{
    static const enum orr_pass wholes[] = {ORR_FORWARD, ORR_PREDICT, ORR_BACKWARD, ORR_WEIGHTS, ORR_WHOLE};
    static const enum orr_pass cut[] = {ORR_CHUNK_FORWARD, ORR_SHARD_FORWARD, ORR_CHUNK_JOIN, ORR_SHARD_PREDICT,
                                        ORR_CHUNK_PREDICT, ORR_SHARD_BACKWARD, ORR_SHARD_WEIGHTS, ORR_CHUNK_BACKWARD};
    const enum orr_pass *order = whole ? wholes : cut;
    int count = whole ? 5 : 8, forward = whole ? 2 : 5;

    for (int i = 0; i < (k->o.training ? count : forward); i++)
        check_parts(k, order[i], outcomes);
}

/* In training with gradients written, in training with gradients added to others, and without. */
static void check_layout(struct subject *k, int shards, int chunks, struct outcome outcomes[])
{
    k->o.shards = shards;
    k->o.chunks = chunks;
    k->tiles = 0;
    memset(k->common, 0, sizeof(k->common));
    memset(k->shard, 0, sizeof(k->shard));
    add_tiles(k);
    for (int mode = 0; mode < 3; mode++) {
        k->o.training = mode < 2;
        k->o.first_gradient = k->o.first_result = mode == 0;
        for (int i = 0; i < k->inputs; i++)
            k->o.add_input_gradient[i] = mode == 1;
        k->o.step = (uint32_t)mode;
        draw(k);
        check_order(k, shards == 1, outcomes);
    }
    free_tiles(k);
}

/* ---- models whose blocks are tested ------------------------------------------------------------------------------- */

/* Sizes that nothing divides; heads of 64 and 128 go by tensor cores in bf16 and fp16. */
static const struct {
    const char *name;
    const char *only;               /* blocks of this name */
    int batch, seq;
    struct orr_gpt2 gpt;
} models[] = {
    {"odd", NULL, 2, 13, {.vocab_size = 101, .n_positions = 19, .n_embd = 45, .n_layer = 1, .n_head = 3, .n_inner = 67,
                          .embd_pdrop = 0.1f, .attn_pdrop = 0.1f, .resid_pdrop = 0.1f, .tie_word_embeddings = true}},
    {"plain", NULL, 1, 17, {.vocab_size = 53, .n_positions = 17, .n_embd = 40, .n_layer = 1, .n_head = 5, .n_inner = 88,
                            .tie_word_embeddings = false}},
    {"heads of 64", "attention", 1, 70, {.vocab_size = 11, .n_positions = 70, .n_embd = 192, .n_layer = 1, .n_head = 3,
                                         .n_inner = 8, .attn_pdrop = 0.1f, .tie_word_embeddings = true}},
    {"heads of 128", "attention", 1, 35, {.vocab_size = 11, .n_positions = 35, .n_embd = 384, .n_layer = 1, .n_head = 3,
                                          .n_inner = 8, .tie_word_embeddings = true}},
};

static void report_outcomes(struct selftest *s, const struct subject *k, const char *model, struct outcome outcomes[])
{
    char name[64], where[256];

    for (int pass = 0; pass < ORR_PASSES; pass++) {
        const struct outcome *out = &outcomes[pass];
        if (!out->run)
            continue;
        snprintf(name, sizeof(name), "%s %s", k->cls->name, pass_names[pass]);
        snprintf(where, sizeof(where), "%s, %s", model, out->where);
        if (out->reason[0])
            selftest_fail(s, name, orr_dtype_label(k->dtype), model, out->reason);
        else
            selftest_report(s, name, orr_dtype_label(k->dtype), where, out->error, bound_of(k->dtype, longest_sum(k)));
    }
}

static void check_block(struct selftest *s, size_t m, const struct orr_block *block, enum orr_dtype dtype)
{
    static const int cuts[][2] = {{2, 1}, {3, 3}, {2, 2}, {3, 1}};
    struct subject *k = calloc(1, sizeof(*k));
    struct outcome outcomes[ORR_PASSES] = {0};
    int seq = models[m].seq, rows = models[m].batch * seq;

    if (!k)
        return;
    k->cls = orr_block_class_of(block);
    k->inputs = orr_block_input_count(block);
    k->vocab = models[m].gpt.vocab_size;
    k->dtype = dtype;
    k->rows[1] = rows / 2;
    k->rows[2] = rows - 1;
    k->o = (struct orr_operands){.config = orr_block_config(block), .batch = models[m].batch, .seq = seq, .seed = 77,
                                 .first_sample = 5, .layer = 2};
    k->cls->specify(k->o.config, &k->spec);
    check_layout(k, 1, 1, outcomes);
    for (size_t i = 0; i < (s->quick ? 2 : sizeof(cuts) / sizeof(cuts[0])); i++)
        if (k->cls->sharding && k->cls->sharding->most(k->o.config) >= cuts[i][0])
            check_layout(k, cuts[i][0], cuts[i][1], outcomes);
    report_outcomes(s, k, models[m].name, outcomes);
    free(k);
}

static int check_model(struct selftest *s, size_t m)
{
    static const struct orr_mesh mesh = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};
    struct orr_gpt2 gpt = models[m].gpt;

    gpt.layer_norm_epsilon = 1e-5f;
    gpt.initializer_range = 0.02f;
    struct orr_model *model = orr_gpt2_create(&gpt, &mesh);
    if (!model)
        return orr_error_code();
    for (int b = 0; b < orr_model_block_count(model); b++) {
        const struct orr_block *block = orr_model_block(model, b);
        if (models[m].only && strcmp(models[m].only, orr_block_class_of(block)->name) != 0)
            continue;
        check_block(s, m, block, ORR_F32);
        check_block(s, m, block, ORR_BF16);
        check_block(s, m, block, ORR_F16);
    }
    orr_model_destroy(model);
    return ORR_OK;
}

static int open_device(void)
{
    cudaStream_t stream = NULL;
    cublasLtHandle_t blas = NULL;

    device = (struct orr_cuda){0};
    if (!cuda_ok(cudaSetDevice(0), "cudaSetDevice") ||
        !cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate") ||
        !cuda_ok(cudaMalloc(&device.workspace, ORR_CUDA_WORKSPACE), "cudaMalloc"))
        return command_fail(ORR_EDEVICE, "CUDA: %s", device.what);
    device.stream = stream;
    if (cublasLtCreate(&blas) != CUBLAS_STATUS_SUCCESS)
        return command_fail(ORR_EDEVICE, "CUDA: cublasLtCreate failed");
    device.blas = blas;
    return ORR_OK;
}

static void close_device(void)
{
    if (device.blas)
        cublasLtDestroy(device.blas);
    cudaFree(device.workspace);
    if (device.stream)
        cudaStreamDestroy(device.stream);
}

int selftest_blocks(struct selftest *s)
{
    int status = open_device();

    for (size_t m = 0; status == 0 && m < sizeof(models) / sizeof(models[0]); m++)
        status = check_model(s, m);
    close_device();
    return status;
}
