/* SPDX-License-Identifier: Apache-2.0 */
#include "codelets/block_harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <codelets/embedding/embedding.h>

#include "math/reference.h"

enum { GUARD = 64 };                            /* words behind every buffer */
enum { X, DY, IDS, PARAM, BEFORE = PARAM + 64 };    /* streams of random numbers */

static const uint32_t guard_word = 0xffc0beef;  /* a NaN, so that reading it shows too */

/* ---- buffers ------------------------------------------------------------------------------------------- */

static void poison(float *p, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(p + i, &guard_word, sizeof(guard_word));
}

static float *guarded(int64_t count)
{
    float *p = malloc((size_t)(count + GUARD) * sizeof(*p));

    ck_assert_ptr_nonnull(p);
    poison(p, count + GUARD);
    return p;
}

static void check_guard(const char *what, const float *p, int64_t count)
{
    for (int64_t i = count; i < count + GUARD; i++)
        ck_assert_msg(memcmp(p + i, &guard_word, sizeof(guard_word)) == 0, "%s: word %lld of %lld was written", what,
                      (long long)i, (long long)count);
}

static void release(const char *what, float *p, int64_t count)
{
    check_guard(what, p, count);
    free(p);
}

double *wide_zeros(int64_t count)
{
    double *p = calloc((size_t)(count ? count : 1), sizeof(*p));

    ck_assert_ptr_nonnull(p);
    return p;
}

/* ---- the block and its data ---------------------------------------------------------------------------- */

static int64_t values_of(const struct harness *h)
{
    return (int64_t)h->rows * h->width;
}

static int64_t saved_of(const struct harness *h)
{
    struct orr_saved_size size = h->cls->saved(h->block->config, h->o.batch, h->o.seq);

    return size.floats + size.values;
}

size_t harness_scratch(const struct harness *h, int shards)
{
    const struct orr_shape shape = {h->o.dtype, h->o.batch, h->o.seq, shards, false};

    return h->cls->scratch_bytes(h->block->config, &shape);
}

static void draw(uint64_t seed, uint32_t stream, int64_t count, float mean, float std, float *out, double *wide)
{
    struct orr_rng rng = {seed, stream, 0};

    orr_rng_normal(&rng, 0, (size_t)count, mean, std, out);
    for (int64_t i = 0; wide && i < count; i++)
        wide[i] = out[i];
}

/* A group of another block's (tied) has its shape in view 0. */
static void lay_out(struct harness_group *group, const struct orr_block_spec *spec, int g)
{
    group->views = spec->views[g] ? spec->views[g] : spec->view[g][0].name != NULL;
    for (int v = 0; v < group->views; v++) {
        group->view[v] = spec->view[g][v];
        group->view[v].offset = group->count;
        group->count += orri_view_count(&group->view[v]);
    }
}

/* Norms near one and biases near zero, but none of them equal, so that a place mistaken is a value mistaken. */
void harness_draw_view(struct harness *h, int group, int view, uint64_t seed)
{
    const struct orr_view *v = &h->group[group].view[view];
    float mean = v->initial == ORR_INITIAL_ONE, std = v->initial == ORR_INITIAL_NORMAL ? v->std : 0.3f;

    draw(seed, PARAM + (uint32_t)(ORR_MAX_VIEWS * group + view), orri_view_count(v), mean, std,
         h->param[group] + v->offset, h->wide_param[group] + v->offset);
}

void harness_draw(struct harness *h, uint64_t seed)
{
    struct orr_rng rng = {seed, IDS, 0};

    draw(seed, X, values_of(h), 0.2f, 1, h->x, h->wide_x);
    draw(seed, DY, values_of(h), 0, 1, h->dy, h->wide_dy);
    orr_rng_words(&rng, 0, (size_t)h->rows, (uint32_t *)h->ids);
    for (int r = 0; r < h->rows; r++)
        h->ids[r] = (int32_t)((uint32_t)h->ids[r] % (uint32_t)h->vocab);
}

struct orr_model *harness_model(int width)
{
    static const struct orr_mesh one = {.dp = 1, .pp = 1, .tp = 1, .ranks = 1};
    struct orr_embedding embedding = {.vocab = 5, .positions = 5, .width = width, .std = 1};
    struct orr_model *model = orr_model_create(&one);

    ck_assert_ptr_nonnull(model);
    ck_assert_int_eq(orr_embedding(model, &embedding), 0);
    return model;
}

void harness_open(struct harness *h, struct orr_model *model, int index, int batch, int seq, int vocab)
{
    *h = (struct harness){.model = model, .block = model->block[index], .rows = batch * seq, .vocab = vocab};
    h->cls = h->block->cls;
    h->width = (int)h->block->spec.width;
    h->o = (struct orr_operands){.batch = batch, .seq = seq, .config = h->block->config, .training = true,
                                 .first_gradient = true, .seed = 77, .step = 3, .first_sample = 5,
                                 .layer = h->block->layer, .shards = 1, .chunks = 1};
    h->x = guarded(values_of(h));
    h->y = guarded(values_of(h));
    h->dy = guarded(values_of(h));
    h->dx = guarded(values_of(h));
    h->saved = guarded(saved_of(h));
    h->other = guarded(values_of(h));
    h->dother = guarded(values_of(h));
    h->ids = (int32_t *)guarded(h->rows);
    h->wide_x = wide_zeros(values_of(h));
    h->wide_dy = wide_zeros(values_of(h));
    for (int g = 0; g < h->block->spec.groups; g++) {
        struct harness_group *p = &h->group[g];
        lay_out(p, &h->block->spec, g);
        h->param[g] = guarded(p->count);
        h->grad[g] = guarded(p->count);
        h->wide_param[g] = wide_zeros(p->count);
        for (int v = 0; v < p->views; v++)
            harness_draw_view(h, g, v, 1);
    }
    harness_draw(h, 2);
    memcpy(h->other, h->x, (size_t)values_of(h) * sizeof(*h->other));
    harness_draw(h, 1);
}

void harness_ask(struct harness *h, int count, const int32_t *rows)
{
    h->o.rows = (struct orr_rows){count, rows};
    h->prediction_floats = count * (int64_t)(h->vocab + h->width);
    h->prediction = guarded(h->prediction_floats);
}

void harness_close(struct harness *h)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        release("param", h->param[g], h->group[g].count);
        release("grad", h->grad[g], h->group[g].count);
        free(h->wide_param[g]);
    }
    release("x", h->x, values_of(h));
    release("y", h->y, values_of(h));
    release("dy", h->dy, values_of(h));
    release("dx", h->dx, values_of(h));
    release("other", h->other, values_of(h));
    release("dother", h->dother, values_of(h));
    release("saved", h->saved, saved_of(h));
    release("ids", (float *)h->ids, h->rows);
    if (h->prediction)
        release("prediction", h->prediction, h->prediction_floats);
    free(h->wide_x);
    free(h->wide_dy);
    orr_model_destroy(h->model);
    orri_scratch_free_all();
}

double *harness_view(const struct harness *h, double *const base[], const char *name, int64_t m, int64_t n)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct harness_group *p = &h->group[g];
        for (int v = 0; v < p->views; v++) {
            const struct orr_view *view = &p->view[v];
            if (strcmp(view->name, name) != 0)
                continue;
            ck_assert_int_eq(view->ndim, n ? 2 : 1);
            ck_assert_int_eq(view->shape[0], m);
            if (n)
                ck_assert_int_eq(view->shape[1], n);
            return base[g] + view->offset;
        }
    }
    ck_abort_msg("the block has no view '%s'", name);
    return NULL;
}

/* ---- running passes ------------------------------------------------------------------------------------- */

static struct orr_operands operands_of(struct harness *h, enum orr_pass pass)
{
    unsigned takes = h->cls->operands[pass];
    struct orr_operands o = h->o;

    if ((takes & ORR_INPUT) && h->block->inputs)
        o.x[0] = h->x;
    if ((takes & ORR_INPUT) && h->block->inputs > 1)
        o.x[1] = h->other;
    if (takes & ORR_OUTPUT)
        o.y = h->y;
    if (takes & ORR_OUTPUT_GRADIENT)
        o.dy = h->dy;
    if (takes & ORR_INPUT_GRADIENT)
        o.dx[0] = h->dx;
    if ((takes & ORR_INPUT_GRADIENT) && h->block->inputs > 1)
        o.dx[1] = h->dother;
    for (int g = 0; g < h->block->spec.groups; g++)
        for (int v = 0; v < h->group[g].views; v++) {
            int64_t offset = h->group[g].view[v].offset;
            o.param[g][v] = takes & ORR_PARAMETERS ? h->param[g] + offset : NULL;
            o.grad[g][v] = takes & ORR_GRADIENTS ? h->grad[g] + offset : NULL;
        }
    if ((takes & ORR_SAVEDS) && h->o.training) {
        o.saved = h->saved;
        o.saved_values = h->saved + h->cls->saved(h->block->config, h->o.batch, h->o.seq).floats;
    }
    if (takes & ORR_IDS)
        o.ids = h->ids;
    if (takes & ORR_RESULT)
        o.result = &h->result;
    if (takes & ORR_PREDICTION)
        o.prediction = h->prediction;
    return o;
}

static void poison_outputs(struct harness *h, const struct orr_operands *o, enum orr_pass pass)
{
    if (o->y)
        poison(o->y, values_of(h));
    if (o->dx[0] && !o->add_input_gradient[0])
        poison(o->dx[0], values_of(h));
    if (o->dx[1])
        poison(o->dx[1], values_of(h));
    for (int g = 0; g < h->block->spec.groups; g++)
        if (o->grad[g][0] && o->first_gradient)
            poison(h->grad[g], h->group[g].count);
    if (o->saved && pass == ORR_FORWARD)
        poison(o->saved, saved_of(h));
    if (o->prediction)
        poison(o->prediction, h->prediction_floats);
}

static void run(const struct orr_block_class *cls, enum orr_pass pass, const struct orr_operands *o,
                size_t scratch_bytes)
{
    int64_t floats = (int64_t)(scratch_bytes / sizeof(float));
    float *scratch = orri_scratch((size_t)(floats + GUARD) * sizeof(*scratch));

    poison(scratch, floats + GUARD);
    cls->cpu[pass](o);
    ck_assert_msg(orri_scratch(0) == scratch, "pass %d takes more scratch than %zu bytes", pass, scratch_bytes);
    check_guard("scratch", scratch, floats);
}

void harness_run(struct harness *h, enum orr_pass pass)
{
    struct orr_operands o = operands_of(h, pass);

    poison_outputs(h, &o, pass);
    run(h->cls, pass, &o, harness_scratch(h, 1));
}

/* ---- in shards and chunks --------------------------------------------------------------------------------- */

enum { MOST = 4, MOST_TILES = 512 };            /* shards or chunks */

/* The tiles of a microbatch, as the engine would have them. Each is filled with NaN until it is written. */
struct tiles {
    struct harness *h;
    const struct orr_sharding *sharding;
    struct orr_operands o;                      /* the scalars */
    float *x[MOST], *y[MOST], *dy[MOST], *dx[MOST], *branch[MOST], *saved[MOST], *chunk_saved[MOST];
    float *partial[MOST][MOST], *dpartial[MOST][MOST];                              /* [shard][chunk] */
    float *prediction[MOST];                                                        /* of a shard */
    float *param[MOST][ORR_MAX_GROUPS][ORR_MAX_VIEWS], *grad[MOST][ORR_MAX_GROUPS][ORR_MAX_VIEWS];
    int count;
    struct {
        const char *what;
        float *p;
        int64_t floats;
    } all[MOST_TILES];
};

static float *tile(struct tiles *s, const char *what, int64_t floats)
{
    ck_assert_int_lt(s->count, MOST_TILES);
    s->all[s->count].what = what;
    s->all[s->count].floats = floats;
    s->all[s->count].p = guarded(floats);
    return s->all[s->count++].p;
}

static void tiles_close(struct tiles *s)
{
    for (int i = 0; i < s->count; i++)
        release(s->all[i].what, s->all[i].p, s->all[i].floats);
    free(s);
}

/* Sequence by sequence between [B,T,width] and the positions of a chunk. */
static void cut_chunk(const struct tiles *s, int c, int width, const float *all, float *chunk)
{
    struct orr_part at = orr_chunk(&s->o, c);

    for (int b = 0; b < s->o.batch; b++)
        memcpy(chunk + b * at.count * width, all + (b * s->o.seq + at.first) * width,
               (size_t)(at.count * width) * sizeof(*chunk));
}

static void paste_chunk(const struct tiles *s, int c, int width, const float *chunk, float *all)
{
    struct orr_part at = orr_chunk(&s->o, c);

    for (int b = 0; b < s->o.batch; b++)
        memcpy(all + (b * s->o.seq + at.first) * width, chunk + b * at.count * width,
               (size_t)(at.count * width) * sizeof(*all));
}

static void cut_view(const struct tiles *s, const struct orr_view *view, int t, const float *all, float *shard)
{
    for (int64_t i = 0; i < orr_view_run_count(view, s->o.shards); i++) {
        struct orr_run r = orr_view_run(view, s->o.shards, t, i);
        memcpy(shard + r.part, all + r.whole, (size_t)r.count * sizeof(*shard));
    }
}

static void paste_view(const struct tiles *s, const struct orr_view *view, int t, const float *shard, float *all)
{
    for (int64_t i = 0; i < orr_view_run_count(view, s->o.shards); i++) {
        struct orr_run r = orr_view_run(view, s->o.shards, t, i);
        memcpy(all + r.whole, shard + r.part, (size_t)r.count * sizeof(*all));
    }
}

/* A shard's part of the views that are split; of the others every chunk has a gradient, and these are summed up. */
static void open_view(struct tiles *s, int g, int v)
{
    const struct harness *h = s->h;
    const struct orr_view *view = &h->group[g].view[v];
    const float *param = h->param[g] + view->offset, *grad = h->grad[g] + view->offset;
    int parts = view->split >= 0 ? s->o.shards : s->o.chunks;

    for (int i = 0; i < parts; i++) {
        struct orr_view part = view->split >= 0 ? orr_view_shard(view, s->o.shards, i) : *view;
        int64_t count = orri_view_count(&part);
        s->param[i][g][v] = tile(s, view->name, count);
        s->grad[i][g][v] = tile(s, view->name, count);
        cut_view(s, view, view->split >= 0 ? i : 0, param, s->param[i][g][v]);
        if (s->o.first_gradient)
            continue;
        cut_view(s, view, view->split >= 0 ? i : 0, grad, s->grad[i][g][v]);
        for (int64_t k = 0; k < count && view->split < 0; k++)
            s->grad[i][g][v][k] /= (float)parts;
    }
}

static void close_view(struct tiles *s, int g, int v)
{
    const struct orr_view *view = &s->h->group[g].view[v];
    float *grad = s->h->grad[g] + view->offset;

    for (int t = 0; t < s->o.shards && view->split >= 0; t++)
        paste_view(s, view, t, s->grad[t][g][v], grad);
    for (int64_t k = 0; k < orri_view_count(view) && view->split < 0; k++) {
        grad[k] = 0;
        for (int c = 0; c < s->o.chunks; c++)
            grad[k] += s->grad[c][g][v][k];
    }
}

static struct tiles *tiles_open(struct harness *h, int shards, int chunks)
{
    struct tiles *s = calloc(1, sizeof(*s));
    const struct orr_sharding *sharding = h->cls->sharding;
    int partial = sharding->partial_width ? sharding->partial_width : h->width;
    int output = sharding->output_width ? sharding->output_width : h->width;

    ck_assert_ptr_nonnull(s);
    ck_assert_int_le(shards, sharding->most(h->block->config));
    s->h = h;
    s->sharding = sharding;
    s->o = h->o;
    s->o.shards = shards;
    s->o.chunks = chunks;
    for (int c = 0; c < chunks; c++) {
        int positions = (int)orr_chunk(&s->o, c).count, rows = h->o.batch * positions;
        s->x[c] = tile(s, "x", (int64_t)rows * h->width);
        s->y[c] = tile(s, "y", (int64_t)rows * output);
        s->dy[c] = tile(s, "dy", (int64_t)rows * h->width);
        s->dx[c] = tile(s, "dx", (int64_t)rows * h->width);
        s->branch[c] = tile(s, "branch", (int64_t)rows * h->width);
        struct orr_saved_size size = sharding->chunk_saved(h->block->config, h->o.batch, positions);
        s->chunk_saved[c] = tile(s, "saved of a chunk", size.floats + size.values);
        for (int t = 0; t < shards; t++) {
            s->partial[t][c] = tile(s, "partial", (int64_t)rows * partial);
            s->dpartial[t][c] = tile(s, "dpartial", (int64_t)rows * h->width);
        }
        cut_chunk(s, c, h->width, h->x, s->x[c]);
        cut_chunk(s, c, h->width, h->dy, s->dy[c]);
        if (h->o.add_input_gradient[0])
            cut_chunk(s, c, h->width, h->dx, s->dx[c]);
    }
    for (int t = 0; t < shards; t++) {
        int64_t vocab = orr_split(h->vocab, 1, shards, t).count;
        struct orr_saved_size size = sharding->saved(h->block->config, h->o.batch, h->o.seq, shards, t);
        s->saved[t] = tile(s, "saved of a shard", size.floats + size.values);
        s->prediction[t] = tile(s, "part of a prediction", h->o.rows.count * vocab);
    }
    for (int g = 0; g < h->block->spec.groups; g++)
        for (int v = 0; v < h->group[g].views; v++)
            open_view(s, g, v);
    return s;
}

static bool of_shard(enum orr_pass pass)
{
    return pass == ORR_SHARD_FORWARD || pass == ORR_SHARD_BACKWARD || pass == ORR_SHARD_WEIGHTS ||
           pass == ORR_SHARD_PREDICT;
}

static void take_views(const struct tiles *s, enum orr_pass pass, int i, struct orr_operands *o)
{
    unsigned takes = s->h->cls->operands[pass];

    for (int g = 0; g < s->h->block->spec.groups; g++)
        for (int v = 0; v < s->h->group[g].views; v++) {
            if (of_shard(pass) != (s->h->group[g].view[v].split >= 0))
                continue;
            o->param[g][v] = takes & ORR_PARAMETERS ? s->param[i][g][v] : NULL;
            o->grad[g][v] = takes & ORR_GRADIENTS ? s->grad[i][g][v] : NULL;
        }
}

/* What shard t takes. */
static struct orr_operands shard_operands(const struct tiles *s, enum orr_pass pass, int t)
{
    unsigned takes = s->h->cls->operands[pass];
    struct orr_operands o = s->o;

    o.shard = t;
    o.chunk = -1;
    take_views(s, pass, t, &o);
    for (int c = 0; c < o.chunks; c++) {
        o.ys[c] = takes & ORR_OUTPUT ? s->y[c] : NULL;
        o.dys[c] = takes & ORR_OUTPUT_GRADIENT ? s->dy[c] : NULL;
        o.branch[c] = takes & ORR_BRANCH ? s->branch[c] : NULL;
        o.partial[c] = takes & ORR_PARTIAL ? s->partial[t][c] : NULL;
        o.dpartial[c] = takes & ORR_PARTIAL_GRADIENT ? s->dpartial[t][c] : NULL;
    }
    if (pass == ORR_SHARD_PREDICT)
        o.partial[0] = s->prediction[t];
    if ((takes & ORR_SAVEDS) && o.training) {
        o.saved = s->saved[t];
        o.saved_values = o.saved + s->sharding->saved(o.config, o.batch, o.seq, o.shards, t).floats;
    }
    return o;
}

/* What chunk c takes. */
static struct orr_operands chunk_operands(const struct tiles *s, enum orr_pass pass, int c)
{
    unsigned takes = s->h->cls->operands[pass];
    struct orr_operands o = s->o;

    o.shard = -1;
    o.chunk = c;
    take_views(s, pass, c, &o);
    o.x[0] = takes & ORR_INPUT ? s->x[c] : NULL;
    o.y = takes & ORR_OUTPUT ? s->y[c] : NULL;
    o.dy = takes & ORR_OUTPUT_GRADIENT ? s->dy[c] : NULL;
    o.dx[0] = takes & ORR_INPUT_GRADIENT ? s->dx[c] : NULL;
    o.branch[0] = takes & ORR_BRANCH ? s->branch[c] : NULL;
    for (int t = 0; t < o.shards; t++) {
        o.partial[t] = takes & ORR_PARTIAL ? s->partial[t][c] : NULL;
        o.dpartial[t] = takes & ORR_PARTIAL_GRADIENT ? s->dpartial[t][c] : NULL;
    }
    if ((takes & ORR_SAVEDS) && o.training) {
        o.saved = s->chunk_saved[c];
        o.saved_values = o.saved + s->sharding->chunk_saved(o.config, o.batch, (int)orr_chunk(&o, c).count).floats;
    }
    return o;
}

static void run_part(struct tiles *s, enum orr_pass pass, struct orr_operands o)
{
    struct harness *h = s->h;
    unsigned takes = h->cls->operands[pass];

    if (takes & ORR_IDS)
        o.ids = h->ids;
    if (takes & ORR_RESULT)
        o.result = &h->result;
    if (takes & ORR_PREDICTION)
        o.prediction = h->prediction;
    run(h->cls, pass, &o, harness_scratch(h, o.shards));
}

static void run_shards(struct tiles *s, enum orr_pass pass)
{
    for (int t = 0; t < s->o.shards && s->h->cls->cpu[pass]; t++)
        run_part(s, pass, shard_operands(s, pass, t));
}

static void run_chunks(struct tiles *s, enum orr_pass pass)
{
    for (int c = 0; c < s->o.chunks && s->h->cls->cpu[pass]; c++)
        run_part(s, pass, chunk_operands(s, pass, c));
}

void harness_run_shards(struct harness *h, int shards, int chunks)
{
    struct tiles *s = tiles_open(h, shards, chunks);

    run_chunks(s, ORR_CHUNK_FORWARD);
    run_shards(s, ORR_SHARD_FORWARD);
    run_chunks(s, ORR_CHUNK_JOIN);
    if (h->o.training) {
        run_shards(s, ORR_SHARD_BACKWARD);
        run_shards(s, ORR_SHARD_WEIGHTS);
        run_chunks(s, ORR_CHUNK_BACKWARD);
    }
    for (int c = 0; c < chunks; c++) {
        if (!h->cls->is_loss)
            paste_chunk(s, c, h->width, s->y[c], h->y);
        paste_chunk(s, c, h->width, s->dx[c], h->dx);
    }
    for (int g = 0; g < h->block->spec.groups; g++)
        for (int v = 0; v < h->group[g].views; v++)
            close_view(s, g, v);
    tiles_close(s);
}

void harness_predict_shards(struct harness *h, int shards, int chunks)
{
    struct tiles *s = tiles_open(h, shards, chunks);

    run_chunks(s, ORR_CHUNK_FORWARD);
    run_shards(s, ORR_SHARD_PREDICT);
    struct orr_operands o = chunk_operands(s, ORR_CHUNK_PREDICT, 0);
    o.chunk = -1;
    for (int c = 0; c < chunks; c++)
        o.branch[c] = s->branch[c];
    for (int t = 0; t < shards; t++)
        o.partial[t] = s->prediction[t];
    poison(h->prediction, h->prediction_floats);
    run_part(s, ORR_CHUNK_PREDICT, o);
    tiles_close(s);
}

/* ---- checks -------------------------------------------------------------------------------------------- */

static double largest(int64_t count, const double *values)
{
    double most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(values[i]));
    return most;
}

void check_values(const char *what, int64_t count, const float *got, const double *want, int terms)
{
    double tolerance = SUM_BOUND(terms) * largest(count, want);

    for (int64_t i = 0; i < count; i++)
        assert_close(got[i], want[i], tolerance, "%s[%lld of %lld]", what, (long long)i, (long long)count);
}

static double central(const struct harness *h, const struct reference *reference, double *value)
{
    double step = 1e-5, at = *value;

    *value = at + step;
    double up = reference->objective(h, NULL);
    *value = at - step;
    double down = reference->objective(h, NULL);
    *value = at;
    return (up - down) / (2 * step);
}

/* In double the difference is off by about step^2 of the gradient's size and by eps / step of the objective's. */
static void check_differences(const struct harness *h, const struct reference *reference, const char *what,
                              int64_t count, double *values, const float *got, const double *want, int differences)
{
    double most = largest(count, want), slack = 1e-7 * most + 1e-9;
    struct orr_rng rng = {(uint64_t)count, 0, 0};

    for (int i = 0; i < differences; i++) {
        uint32_t word;
        orr_rng_words(&rng, (uint64_t)i, 1, &word);
        int64_t k = (int64_t)(word % (uint64_t)count);
        double difference = central(h, reference, values + k);
        assert_close(want[k], difference, slack, "reference's %s[%lld], difference", what, (long long)k);
        assert_close(got[k], difference, slack + SUM_BOUND(reference->longest_sum) * most, "%s[%lld], difference",
                     what, (long long)k);
    }
}

static void check_gradients(struct harness *h, int group, const double *want, int terms)
{
    const struct harness_group *p = &h->group[group];

    for (int v = 0; v < p->views; v++)
        check_values(p->view[v].name, orri_view_count(&p->view[v]), h->grad[group] + p->view[v].offset,
                     want + p->view[v].offset, terms);
}

struct wanted {
    double *y, *dx, *dparam[ORR_MAX_GROUPS];
    double objective;
};

static struct wanted wanted(const struct harness *h, const struct reference *reference)
{
    struct wanted w = {.y = wide_zeros(values_of(h)), .dx = wide_zeros(values_of(h))};

    for (int g = 0; g < h->block->spec.groups; g++)
        w.dparam[g] = wide_zeros(h->group[g].count);
    w.objective = reference->objective(h, h->cls->is_loss ? NULL : w.y);
    reference->backward(h, w.dx, w.dparam);
    return w;
}

static void wanted_free(struct wanted *w)
{
    free(w->y);
    free(w->dx);
    for (int g = 0; g < ORR_MAX_GROUPS; g++)
        free(w->dparam[g]);
}

static int64_t counted_labels(const struct harness *h)
{
    int64_t labels = 0;

    for (int r = 0; r < h->rows; r++)
        labels += h->ids[r] != ORR_IGNORE;
    return labels;
}

static void check_forward(struct harness *h, const struct reference *reference, const struct wanted *w)
{
    h->result = (struct orr_result){1.5, 7};
    harness_run(h, ORR_FORWARD);
    if (!h->cls->is_loss) {
        check_values("y", values_of(h), h->y, w->y, reference->longest_sum);
        return;
    }
    /* Rows are summed in double; what is off in a row's loss is its logits, sums over the width. */
    assert_close(h->result.loss, 1.5 + w->objective, SUM_BOUND(h->width) * (1.5 + w->objective), "loss");
    ck_assert_int_eq(h->result.labels, 7 + counted_labels(h));
}

void check_passes(struct harness *h, const struct reference *reference, int differences)
{
    int terms = reference->longest_sum;
    struct wanted first = wanted(h, reference);

    h->o.first_gradient = true;
    h->o.add_input_gradient[0] = false;
    check_forward(h, reference, &first);
    if (h->cls->cpu[ORR_BACKWARD]) {
        harness_run(h, ORR_BACKWARD);
        check_values("dx", values_of(h), h->dx, first.dx, terms);
        check_differences(h, reference, "dx", values_of(h), h->wide_x, h->dx, first.dx, differences);
    }
    harness_run(h, ORR_WEIGHTS);
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct harness_group *p = &h->group[g];
        check_gradients(h, g, first.dparam[g], terms);
        for (int v = 0; v < p->views; v++) {
            int64_t at = p->view[v].offset;
            check_differences(h, reference, p->view[v].name, orri_view_count(&p->view[v]), h->wide_param[g] + at,
                              h->grad[g] + at, first.dparam[g] + at, differences);
        }
    }

    harness_draw(h, 2);
    struct wanted second = wanted(h, reference);
    h->o.first_gradient = false;
    h->o.add_input_gradient[0] = true;
    check_forward(h, reference, &second);
    if (h->cls->cpu[ORR_BACKWARD]) {
        double *before = wide_zeros(values_of(h));
        draw(3, BEFORE, values_of(h), 0, 1, h->dx, before);
        harness_run(h, ORR_BACKWARD);
        for (int64_t i = 0; i < values_of(h); i++)
            before[i] += second.dx[i];
        check_values("dx, added", values_of(h), h->dx, before, terms);
        free(before);
    }
    harness_run(h, ORR_WEIGHTS);
    for (int g = 0; g < h->block->spec.groups; g++) {
        for (int64_t i = 0; i < h->group[g].count; i++)
            second.dparam[g][i] += first.dparam[g][i];
        check_gradients(h, g, second.dparam[g], terms);
    }
    wanted_free(&first);
    wanted_free(&second);
}

void check_views(struct harness *h, const struct reference *reference)
{
    for (int g = 0; g < h->block->spec.groups; g++) {
        const struct harness_group *p = &h->group[g];
        int64_t count = 0;
        for (int v = 0; v < p->views; v++) {
            ck_assert_int_eq(p->view[v].offset, count);
            count += orri_view_count(&p->view[v]);
            double before = reference->objective(h, NULL);
            harness_draw_view(h, g, v, 99);
            struct wanted w = wanted(h, reference);
            ck_assert_msg(fabs(w.objective - before) > 1e-3 * fabs(before), "the objective does not feel %s",
                          p->view[v].name);
            check_forward(h, reference, &w);
            wanted_free(&w);
        }
        ck_assert_int_eq(p->count, count);
    }
}

void check_scratch(struct harness *h)
{
    static const enum orr_pass order[] = {ORR_FORWARD, ORR_BACKWARD, ORR_WEIGHTS, ORR_WHOLE, ORR_PREDICT};
    size_t page = 4096, said = (harness_scratch(h, 1) + page - 1) / page * page;

    for (int training = 1; training >= 0; training--) {
        h->o.training = training;
        for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
            if (!h->cls->cpu[order[i]] || (!training && order[i] != ORR_FORWARD && order[i] != ORR_PREDICT))
                continue;
            struct orr_operands o = operands_of(h, order[i]);
            orri_scratch_free_all();
            h->cls->cpu[order[i]](&o);
            ck_assert_msg(orri_scratch_size() <= said, "pass %d takes %zu bytes of scratch, not %zu", order[i],
                          orri_scratch_size(), said);
        }
    }
}

static void run_all(struct harness *h)
{
    h->result = (struct orr_result){0};
    harness_run(h, ORR_FORWARD);
    if (h->cls->cpu[ORR_BACKWARD])
        harness_run(h, ORR_BACKWARD);
    harness_run(h, ORR_WEIGHTS);
}

static void check_bits(const char *what, int64_t count, const float *a, const float *b)
{
    ck_assert_msg(memcmp(a, b, (size_t)count * sizeof(*a)) == 0, "%s differs", what);
}

void check_again(struct harness *h)
{
    int groups = h->block->spec.groups;
    int64_t values = values_of(h), saved = saved_of(h);
    float *grad[ORR_MAX_GROUPS];

    h->o.first_gradient = true;
    h->o.add_input_gradient[0] = false;
    run_all(h);
    double loss = h->result.loss;
    float *y = copy_floats((size_t)values, h->y), *dx = copy_floats((size_t)values, h->dx);
    float *dother = copy_floats((size_t)values, h->dother);
    float *after = copy_floats((size_t)saved, h->saved);
    for (int g = 0; g < groups; g++)
        grad[g] = copy_floats((size_t)h->group[g].count, h->grad[g]);
    run_all(h);
    ck_assert(h->result.loss == loss);
    check_bits("y", values, y, h->y);
    check_bits("dx", values, dx, h->dx);
    check_bits("dother", values, dother, h->dother);
    check_bits("saved", saved, after, h->saved);
    for (int g = 0; g < groups; g++) {
        check_bits("grad", h->group[g].count, grad[g], h->grad[g]);
        free(grad[g]);
    }
    free(y);
    free(dx);
    free(dother);
    free(after);
}

static void check_floats(const char *what, int64_t count, const float *got, const float *want, int terms)
{
    double *wide = to_double((size_t)count, want);

    check_values(what, count, got, wide, terms);
    free(wide);
}

void check_microbatches(struct orr_model *(*append)(void), int index, int seq, int vocab, uint64_t first, int terms)
{
    struct harness both, single;

    harness_open(&both, append(), index, 2, seq, vocab);
    harness_open(&single, append(), index, 1, seq, vocab);
    both.o.first_sample = first;
    run_all(&both);
    double loss = both.result.loss;
    int64_t values = values_of(&single);
    for (int b = 0; b < 2; b++) {
        single.o.first_sample = first + (uint64_t)b;
        single.o.first_gradient = b == 0;
        memcpy(single.x, both.x + b * values, (size_t)values * sizeof(float));
        memcpy(single.dy, both.dy + b * values, (size_t)values * sizeof(float));
        memcpy(single.ids, both.ids + b * seq, (size_t)seq * sizeof(int32_t));
        run_all(&single);
        loss -= single.result.loss;
        if (!single.cls->is_loss)
            check_floats("y", values, single.y, both.y + b * values, terms);
        if (single.cls->cpu[ORR_BACKWARD])
            check_floats("dx", values, single.dx, both.dx + b * values, terms);
    }
    assert_close(loss, 0, SUM_BOUND(terms) * both.result.loss, "loss of both, less that of each");
    for (int g = 0; g < both.block->spec.groups; g++) {
        double *wide = to_double((size_t)both.group[g].count, both.grad[g]);
        check_gradients(&single, g, wide, terms);
        free(wide);
    }
    harness_close(&both);
    harness_close(&single);
}

/* What a run leaves, in double. */
struct left {
    double *y, *dx, *grad[ORR_MAX_GROUPS], *prediction;
    struct orr_result result;
};

static struct left left_by(const struct harness *h)
{
    struct left l = {.y = to_double((size_t)values_of(h), h->y), .dx = to_double((size_t)values_of(h), h->dx),
                     .result = h->result};

    for (int g = 0; g < h->block->spec.groups; g++)
        l.grad[g] = to_double((size_t)h->group[g].count, h->grad[g]);
    if (h->prediction)
        l.prediction = to_double((size_t)h->prediction_floats, h->prediction);
    return l;
}

static void left_free(struct left *l)
{
    free(l->y);
    free(l->dx);
    for (int g = 0; g < ORR_MAX_GROUPS; g++)
        free(l->grad[g]);
    free(l->prediction);
}

/* What is added to. */
static void begin_sums(struct harness *h)
{
    draw(4, BEFORE, values_of(h), 0, 1, h->dx, NULL);
    for (int g = 0; g < h->block->spec.groups; g++)
        draw(5, BEFORE + 1 + (uint32_t)g, h->group[g].count, 0, 1, h->grad[g], NULL);
    h->result = (struct orr_result){1.5, 7};
}

void check_layout(struct harness *h, int shards, int chunks, int terms)
{
    bool training = h->o.training;

    begin_sums(h);
    harness_run(h, ORR_FORWARD);
    if (training && h->cls->cpu[ORR_BACKWARD])
        harness_run(h, ORR_BACKWARD);
    if (training)
        harness_run(h, ORR_WEIGHTS);
    struct left whole = left_by(h);
    begin_sums(h);
    harness_run_shards(h, shards, chunks);
    ck_assert_int_eq(h->result.labels, whole.result.labels);
    assert_close(h->result.loss, whole.result.loss, 1e-6 * whole.result.loss, "loss of %d shards", shards);
    if (!h->cls->is_loss)
        check_values("y", values_of(h), h->y, whole.y, terms);
    if (training && h->cls->cpu[ORR_BACKWARD])
        check_values("dx", values_of(h), h->dx, whole.dx, terms);
    for (int g = 0; g < h->block->spec.groups && training; g++)
        check_gradients(h, g, whole.grad[g], terms);
    left_free(&whole);
}

void check_layouts(struct harness *h, int terms)
{
    static const int layouts[][2] = {{1, 1}, {2, 1}, {2, 2}, {3, 3}, {3, 1}, {4, 4}};

    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        int shards = layouts[i][0], chunks = layouts[i][1];
        for (int mode = 0; mode < 3; mode++) {
            h->o.training = mode < 2;
            h->o.first_gradient = mode == 0;
            h->o.add_input_gradient[0] = mode == 1;
            check_layout(h, shards, chunks, terms);
        }
        if (!h->prediction)
            continue;
        harness_run(h, ORR_PREDICT);
        struct left whole = left_by(h);
        harness_predict_shards(h, shards, chunks);
        check_values("prediction", h->prediction_floats, h->prediction, whole.prediction, terms);
        left_free(&whole);
    }
}

/* ---- references ---------------------------------------------------------------------------------------- */

void reference_affine(int rows, int in, int out, const double *x, const double *w, const double *bias, double *y)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < out; j++) {
            double sum = bias[j];
            for (int i = 0; i < in; i++)
                sum += x[(int64_t)r * in + i] * w[(int64_t)i * out + j];
            y[(int64_t)r * out + j] = sum;
        }
}

void reference_affine_backward(int rows, int in, int out, const double *x, const double *w, const double *dy,
                               double *dx, double *dw, double *db)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < out; j++) {
            double d = dy[(int64_t)r * out + j];
            db[j] += d;
            for (int i = 0; i < in; i++) {
                dw[(int64_t)i * out + j] += x[(int64_t)r * in + i] * d;
                dx[(int64_t)r * in + i] += w[(int64_t)i * out + j] * d;
            }
        }
}

static void row_statistics(int width, const double *x, double eps, double *mean, double *rstd)
{
    double sum = 0, squares = 0;

    for (int j = 0; j < width; j++)
        sum += x[j];
    *mean = sum / width;
    for (int j = 0; j < width; j++)
        squares += (x[j] - *mean) * (x[j] - *mean);
    *rstd = 1 / sqrt(squares / width + eps);
}

void reference_norm(int rows, int width, const double *x, const double *gamma, const double *beta, double eps,
                    double *y)
{
    for (int r = 0; r < rows; r++, x += width, y += width) {
        double mean, rstd;
        row_statistics(width, x, eps, &mean, &rstd);
        for (int j = 0; j < width; j++)
            y[j] = (x[j] - mean) * rstd * gamma[j] + beta[j];
    }
}

void reference_norm_backward(int rows, int width, const double *x, const double *gamma, double eps, const double *dy,
                             double *dx, double *dgamma, double *dbeta)
{
    for (int r = 0; r < rows; r++, x += width, dy += width, dx += width) {
        double mean, rstd, sum = 0, product = 0;
        row_statistics(width, x, eps, &mean, &rstd);
        for (int j = 0; j < width; j++) {
            double xhat = (x[j] - mean) * rstd;
            sum += dy[j] * gamma[j];
            product += dy[j] * gamma[j] * xhat;
            dgamma[j] += dy[j] * xhat;
            dbeta[j] += dy[j];
        }
        for (int j = 0; j < width; j++)
            dx[j] += rstd * (dy[j] * gamma[j] - sum / width - (x[j] - mean) * rstd * product / width);
    }
}

double *reference_mask(const struct harness *h, int place, float p, uint64_t first, int64_t count)
{
    struct orr_rng rng = orr_dropout_stream(&h->o, place);
    float *uniform = malloc((size_t)count * sizeof(*uniform));
    double *mask = wide_zeros(count);

    ck_assert_ptr_nonnull(uniform);
    orr_rng_uniform(&rng, first, (size_t)count, uniform);
    for (int64_t i = 0; i < count; i++)
        mask[i] = !h->o.training ? 1 : uniform[i] >= p ? 1 / (1 - (double)p) : 0;
    free(uniform);
    return mask;
}
