/* SPDX-License-Identifier: Apache-2.0 */
/* The residual stream, the norm and the router are the chunks'; a branch has n and p side by side, [rows,C+E], and its gradient
 * theirs. A shard has some of the experts: it finds from p, which all shards see alike, who takes which token. A whole block is a
 * shard of all experts with one chunk. */
#include <codelets/moe/moe.h>

#include <math.h>
#include <string.h>

#include "codelets/math/residual.h"
#include "core/core.h"

enum { NORM, ROUTER, GATE, UP, PROJ, VIEWS };

static const struct orr_moe *moe_of(const struct orr_operands *o)
{
    return o->config;
}

static int branch_width(const void *config)
{
    const struct orr_moe *m = config;

    return m->width + m->experts;
}

/* ---- parameters ------------------------------------------------------------------------------------------------------ */

/* The matrices of all experts, each [out,in]. */
static struct orr_view experts_view(const struct orr_moe *m, int in, int out, float std)
{
    struct orr_view view = orri_matrix_view(true, in, m->experts * out, true, out, std);

    view.pieces = m->experts;
    return view;
}

static void specify(const void *config, struct orr_block_spec *spec)
{
    const struct orr_moe *m = config;
    struct orr_style style = {.norm = ORR_RMSNORM};
    struct orr_view router = orri_matrix_view(true, m->width, m->experts, true, 1, m->std), *view = spec->view[0];
    int n;

    *spec = (struct orr_block_spec){.groups = 1, .views = {VIEWS}, .width = m->width, .input_width = m->width};
    n = orri_norm_specify(&style, m->width, view);
    router.split = -1;
    orri_add_view(view, &n, "router.weight", router);
    orri_add_view(view, &n, "gate.weight", experts_view(m, m->width, m->hidden, m->std));
    orri_add_view(view, &n, "up.weight", experts_view(m, m->width, m->hidden, m->std));
    orri_add_view(view, &n, "proj.weight", experts_view(m, m->hidden, m->width, m->projection_std));
}

/* ---- sizes --------------------------------------------------------------------------------------------------------------- */

/* Most rows of `tokens` that an expert takes. */
static int most_rows(const struct orr_moe *m, int tokens, bool training)
{
    double capacity = ceil((double)m->capacity * m->chosen * tokens / m->experts);

    return training && m->capacity > 0 && capacity < tokens ? (int)capacity : tokens;
}

/* Most rows of all experts of shard t. */
static int64_t shard_rows(const struct orr_moe *m, int tokens, int shards, int t, bool training)
{
    int64_t experts = orr_split(m->experts, 1, shards, t).count, each = experts < m->chosen ? experts : m->chosen;
    int64_t most = experts * most_rows(m, tokens, training);

    return most < each * tokens ? most : each * tokens;
}

/* What a shard keeps: of all tokens who was chosen, by how many, and of its own experts' rows, one expert's behind another's, how
 * many, of which tokens, their w, gate and up, and h, which is act(gate) * up. */
struct kept {
    int32_t *chosen;        /* [N,k]                     */
    int32_t *choices;       /* [E] tokens that chose it  */
    int32_t *rows;          /* [E_t]                     */
    int32_t *token;         /* [rows]                    */
    float *w;               /* [rows]                    */
    float *u;               /* [rows,2F]                 */
    float *h;               /* [rows,F]                  */
};

static int64_t kept_floats(const struct orr_moe *m, int tokens, int shards, int t, bool training)
{
    return (int64_t)tokens * m->chosen + m->experts + orr_split(m->experts, 1, shards, t).count +
           shard_rows(m, tokens, shards, t, training) * (2 + 3 * (int64_t)m->hidden);
}

static int tokens_of(const struct orr_operands *o)
{
    return o->batch * o->seq;
}

static struct orr_part experts_of(const struct orr_operands *o)
{
    return orr_split(moe_of(o)->experts, 1, o->shards, o->shard);
}

static struct kept kept_at(const struct orr_operands *o, float *floats)
{
    const struct orr_moe *m = moe_of(o);
    int64_t rows = shard_rows(m, tokens_of(o), o->shards, o->shard, o->training);
    struct kept k;

    k.chosen = (int32_t *)floats;
    k.choices = k.chosen + (int64_t)tokens_of(o) * m->chosen;
    k.rows = k.choices + m->experts;
    k.token = k.rows + experts_of(o).count;
    k.w = (float *)(k.token + rows);
    k.u = k.w + rows;
    k.h = k.u + rows * 2 * m->hidden;
    return k;
}

static struct orr_saved_size shard_saved(const void *config, int batch, int seq, int shards, int t)
{
    return (struct orr_saved_size){kept_floats(config, batch * seq, shards, t, true), 0};
}

static struct orr_saved_size chunk_saved(const void *config, int batch, int positions)
{
    (void)config;
    return (struct orr_saved_size){orri_norm_saved_floats(batch, positions), 0};
}

/* Behind the chunk's, the branch, the gradients of router logits and of the norm's gain, which B leaves to W, and the shard's. */
static struct orr_saved_size saved(const void *config, int batch, int seq)
{
    const struct orr_moe *m = config;
    int64_t tokens = (int64_t)batch * seq, chunk = orri_norm_saved_floats(batch, seq);

    return (struct orr_saved_size){chunk + tokens * (branch_width(m) + m->experts) + m->width +
                                       kept_floats(m, (int)tokens, 1, 0, true), 0};
}

static float *floats_room(struct orri_rooms *rooms, int64_t count)
{
    return orri_room(rooms, (size_t)count * sizeof(float));
}

/* ---- products: rows of one expert, whose matrices are [out,in] ------------------------------------------------------- */

/* y [rows,out] = [y +] x W^T, and dx [rows,in] = [dx +] dy W, of row strides ldx and ldy. */
static void times_transposed(int rows, int out, int in, const float *x, int ldx, const float *w, float *y, int ldy)
{
    const struct orri_product p = {.trans_b = true, .m = rows, .n = out, .k = in, .a = x, .lda = ldx, .b = w, .ldb = in, .c = y,
                                   .ldc = ldy};

    orri_cpu_gemm(&p);
}

static void times(int rows, int out, int in, const float *dy, int ldy, const float *w, bool add, float *dx)
{
    const struct orri_product p = {.m = rows, .n = in, .k = out, .a = dy, .lda = ldy, .b = w, .ldb = in, .add = add ? dx : NULL,
                                   .c = dx, .ldc = in};

    orri_cpu_gemm(&p);
}

/* dW [out,in] += dy^T x, or written where it is a step's first. */
static void weights_product(const struct orr_operands *o, int rows, int out, int in, const float *dy, int ldy, const float *x, int ldx,
                            float *dw)
{
    const struct orri_product p = {.trans_a = true, .m = out, .n = in, .k = rows, .a = dy, .lda = ldy, .b = x, .ldb = ldx,
                                   .add = o->first_gradient ? NULL : dw, .c = dw, .ldc = in};

    if (rows > 0)
        orri_cpu_gemm(&p);
    else if (o->first_gradient)
        orri_cpu_zero((size_t)out * (size_t)in * sizeof(*dw), dw);
}

/* ---- who takes what ------------------------------------------------------------------------------------------------- */

static bool is_among(const int32_t *chosen, int count, int expert)
{
    for (int i = 0; i < count; i++)
        if (chosen[i] == expert)
            return true;
    return false;
}

/* The experts with the largest p, of equal ones the first; any, but k of them, where p is not a number. */
static void choose(const struct orr_moe *m, const float *p, int32_t *chosen)
{
    for (int i = 0; i < m->chosen; i++) {
        int best = -1;
        for (int e = 0; e < m->experts; e++)
            if (!is_among(chosen, i, e) && (best < 0 || p[e] > p[best]))
                best = e;
        chosen[i] = best;
    }
}

static float sum_of_chosen(const struct orr_moe *m, const float *p, const int32_t *chosen)
{
    float sum = 0;

    for (int i = 0; i < m->chosen; i++)
        sum += p[chosen[i]];
    return sum;
}

/* Fills what is known before the experts begin, from p of all tokens, [N] rows of stride `ld`. */
static void route(const struct orr_operands *o, const float *p, int ld, const struct kept *k)
{
    const struct orr_moe *m = moe_of(o);
    const struct orr_part own = experts_of(o);
    int tokens = tokens_of(o), capacity = most_rows(m, tokens, o->training);
    int64_t row = 0;

    memset(k->choices, 0, (size_t)m->experts * sizeof(*k->choices));
    for (int n = 0; n < tokens; n++) {
        choose(m, p + (int64_t)n * ld, k->chosen + (int64_t)n * m->chosen);
        for (int i = 0; i < m->chosen; i++)
            k->choices[k->chosen[(int64_t)n * m->chosen + i]]++;
    }
    for (int e = 0; e < own.count; e++) {
        int expert = (int)own.first + e;
        k->rows[e] = 0;
        for (int n = 0; n < tokens && k->rows[e] < capacity; n++) {
            const int32_t *chosen = k->chosen + (int64_t)n * m->chosen;
            const float *pn = p + (int64_t)n * ld;
            if (!is_among(chosen, m->chosen, expert))
                continue;
            k->token[row] = n;
            k->w[row++] = pn[expert] / sum_of_chosen(m, pn, chosen);
            k->rows[e]++;
        }
    }
}

/* ---- an expert ----------------------------------------------------------------------------------------------------------- */

/* Rows first .. first + rows - 1 of those that a shard keeps are its expert's number e. */
struct expert {
    int e, rows;
    int32_t *token;
    float *w, *u, *h;
};

static struct expert expert_at(const struct orr_moe *m, const struct kept *k, int e, int64_t first)
{
    return (struct expert){e, k->rows[e], k->token + first, k->w + first, k->u + first * 2 * m->hidden, k->h + first * m->hidden};
}

static const float *matrix_of(const struct orr_operands *o, const struct expert *x, int view)
{
    return o->param[0][view] + (int64_t)x->e * moe_of(o)->width * moe_of(o)->hidden;
}

static float *gradient_of(const struct orr_operands *o, const struct expert *x, int view)
{
    return o->grad[0][view] + (int64_t)x->e * moe_of(o)->width * moe_of(o)->hidden;
}

/* Its rows of [N,C] with row stride `ld`, each times w where there is one. */
static void gather_rows(const struct orr_moe *m, const struct expert *x, const float *all, int ld, const float *w, float *rows)
{
    for (int r = 0; r < x->rows; r++) {
        const float *from = all + (int64_t)x->token[r] * ld;
        for (int j = 0; j < m->width; j++)
            rows[(int64_t)r * m->width + j] = w ? w[r] * from[j] : from[j];
    }
}

/* The other way: adds them. */
static void scatter_rows(const struct orr_moe *m, const struct expert *x, const float *rows, const float *w, float *all, int ld)
{
    for (int r = 0; r < x->rows; r++) {
        float *to = all + (int64_t)x->token[r] * ld;
        for (int j = 0; j < m->width; j++)
            to[j] += w ? w[r] * rows[(int64_t)r * m->width + j] : rows[(int64_t)r * m->width + j];
    }
}

/* Adds what it gives to y [N,C], of n [N] rows of stride `ld`. */
static void expert_forward(const struct orr_operands *o, const struct expert *x, const float *n, int ld, float *y, float *rows)
{
    const struct orr_moe *m = moe_of(o);
    int c = m->width, f = m->hidden;

    gather_rows(m, x, n, ld, NULL, rows);
    times_transposed(x->rows, f, c, rows, c, matrix_of(o, x, GATE), x->u, 2 * f);
    times_transposed(x->rows, f, c, rows, c, matrix_of(o, x, UP), x->u + f, 2 * f);
    orri_cpu_gated(ORR_F32, (enum orr_activation)m->activation, x->rows, f, x->u, x->h);
    times_transposed(x->rows, c, f, x->h, f, matrix_of(o, x, PROJ), rows, c);
    scatter_rows(m, x, rows, x->w, y, c);
}

/* dh [rows,F] is the gradient of w h over w, from which follows that of w = p_e / s, s the sum of the chosen p, and so of p, which is
 * added to dp [N,E], of stride `ld` as p. Then dh becomes the gradient of h. */
static void weight_gradient(const struct orr_operands *o, const struct expert *x, const struct kept *k, const float *p, float *dp,
                            int ld, float *dh)
{
    const struct orr_moe *m = moe_of(o);
    int expert = (int)experts_of(o).first + x->e;

    for (int r = 0; r < x->rows; r++) {
        const int32_t *chosen = k->chosen + (int64_t)x->token[r] * m->chosen;
        float *row = dh + (int64_t)r * m->hidden, *to = dp + (int64_t)x->token[r] * ld;
        float s = sum_of_chosen(m, p + (int64_t)x->token[r] * ld, chosen);
        double dw = 0;
        for (int j = 0; j < m->hidden; j++) {
            dw += (double)row[j] * (double)x->h[(int64_t)r * m->hidden + j];
            row[j] *= x->w[r];
        }
        to[expert] += (float)dw / s;
        for (int i = 0; i < m->chosen; i++)
            to[chosen[i]] -= (float)dw * x->w[r] / s;
    }
}

/* Adds to the gradient of the branch, of n and p side by side; u becomes its own. */
static void expert_backward(const struct orr_operands *o, const struct expert *x, const struct kept *k, const float *branch,
                            const float *dy, float *dbranch, float *rows, float *dh)
{
    const struct orr_moe *m = moe_of(o);
    int c = m->width, f = m->hidden, ld = branch_width(m);

    gather_rows(m, x, dy, c, NULL, rows);
    times(x->rows, c, f, rows, c, matrix_of(o, x, PROJ), false, dh);
    weight_gradient(o, x, k, branch + c, dbranch + c, ld, dh);
    orri_cpu_gated_backward(ORR_F32, (enum orr_activation)m->activation, x->rows, f, dh, x->u);
    times(x->rows, f, c, x->u, 2 * f, matrix_of(o, x, GATE), false, rows);
    times(x->rows, f, c, x->u + f, 2 * f, matrix_of(o, x, UP), true, rows);
    scatter_rows(m, x, rows, NULL, dbranch, ld);
}

static void expert_weights(const struct orr_operands *o, const struct expert *x, const float *branch, const float *dy, float *rows)
{
    const struct orr_moe *m = moe_of(o);
    int c = m->width, f = m->hidden;

    gather_rows(m, x, dy, c, x->w, rows);
    weights_product(o, x->rows, c, f, rows, c, x->h, f, gradient_of(o, x, PROJ));
    gather_rows(m, x, branch, branch_width(m), NULL, rows);
    weights_product(o, x->rows, f, c, x->u, 2 * f, rows, c, gradient_of(o, x, GATE));
    weights_product(o, x->rows, f, c, x->u + f, 2 * f, rows, c, gradient_of(o, x, UP));
}

/* ---- passes of a shard ---------------------------------------------------------------------------------------------- */

/* The branch of all tokens, and what the next block's gradient is of them. */
static const float *all_branch(const struct orr_operands *o, struct orri_rooms *rooms)
{
    int width = branch_width(o->config);

    return orri_gather(o, width, sizeof(float), (const float *const *)o->branch, floats_room(rooms, (int64_t)tokens_of(o) * width));
}

static const float *all_gradient(const struct orr_operands *o, struct orri_rooms *rooms)
{
    int c = moe_of(o)->width;

    return orri_gather(o, c, sizeof(float), o->dys, floats_room(rooms, (int64_t)tokens_of(o) * c));
}

/* Room for the rows of an expert. */
static float *rows_room(const struct orr_operands *o, struct orri_rooms *rooms, int width)
{
    return floats_room(rooms, (int64_t)most_rows(moe_of(o), tokens_of(o), o->training) * width);
}

static void shard_forward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    int c = m->width, ld = branch_width(m), tokens = tokens_of(o);
    const float *branch = all_branch(o, rooms);
    float *y = orri_scatter_begin(o, o->partial, floats_room(rooms, (int64_t)tokens * c)), *rows = rows_room(o, rooms, c);
    float *floats = o->saved ? o->saved : floats_room(rooms, kept_floats(m, tokens, o->shards, o->shard, o->training));
    const struct kept k = kept_at(o, floats);
    int64_t first = 0;

    route(o, branch + c, ld, &k);
    orri_cpu_zero((size_t)tokens * (size_t)c * sizeof(*y), y);
    for (int e = 0; e < experts_of(o).count; first += k.rows[e++]) {
        const struct expert x = expert_at(m, &k, e, first);
        if (x.rows > 0)
            expert_forward(o, &x, branch, ld, y, rows);
    }
    orri_scatter_end(o, c, sizeof(float), y, o->partial);
}

/* Of the loss of balance: balance E sum_e (choices_e / N) sum_n p_ne, where the choices count as constants. */
static void balance_gradient(const struct orr_operands *o, const struct kept *k, float *dp, int ld)
{
    const struct orr_moe *m = moe_of(o);
    const struct orr_part own = experts_of(o);

    for (int n = 0; n < tokens_of(o) && m->balance > 0; n++)
        for (int64_t e = own.first; e < own.first + own.count; e++)
            dp[(int64_t)n * ld + e] += m->balance * (float)m->experts * (float)k->choices[e] / (float)tokens_of(o);
}

static void shard_backward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    int c = m->width, ld = branch_width(m), tokens = tokens_of(o);
    const float *branch = all_branch(o, rooms), *dy = all_gradient(o, rooms);
    float *dbranch = orri_scatter_begin(o, o->dpartial, floats_room(rooms, (int64_t)tokens * ld));
    float *rows = rows_room(o, rooms, c), *dh = rows_room(o, rooms, m->hidden);
    const struct kept k = kept_at(o, o->saved);
    int64_t first = 0;

    orri_cpu_zero((size_t)tokens * (size_t)ld * sizeof(*dbranch), dbranch);
    for (int e = 0; e < experts_of(o).count; first += k.rows[e++]) {
        const struct expert x = expert_at(m, &k, e, first);
        if (x.rows > 0)
            expert_backward(o, &x, &k, branch, dy, dbranch, rows, dh);
    }
    balance_gradient(o, &k, dbranch + c, ld);
    orri_scatter_end(o, ld, sizeof(float), dbranch, o->dpartial);
}

static void shard_weights_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    const float *branch = all_branch(o, rooms), *dy = all_gradient(o, rooms);
    float *rows = rows_room(o, rooms, m->width);
    const struct kept k = kept_at(o, o->saved);
    int64_t first = 0;

    for (int e = 0; e < experts_of(o).count; first += k.rows[e++]) {
        const struct expert x = expert_at(m, &k, e, first);
        expert_weights(o, &x, branch, dy, rows);
    }
}

/* ---- passes of a chunk ---------------------------------------------------------------------------------------------- */

static struct orri_norm norm_of(const struct orr_operands *o)
{
    return (struct orri_norm){ORR_RMSNORM, moe_of(o)->eps};
}

static int chunk_rows(const struct orr_operands *o)
{
    return o->batch * (int)orri_positions(o).count;
}

/* Between [rows,width] and columns of a branch. */
static void to_branch(const struct orr_operands *o, int width, const float *from, float *branch)
{
    size_t bytes = (size_t)width * sizeof(*from);

    orri_cpu_copy_rows((size_t)chunk_rows(o), bytes, from, bytes, branch, (size_t)branch_width(o->config) * sizeof(*from));
}

static void from_branch(const struct orr_operands *o, int width, const float *branch, float *to)
{
    size_t bytes = (size_t)width * sizeof(*to);

    orri_cpu_copy_rows((size_t)chunk_rows(o), bytes, branch, (size_t)branch_width(o->config) * sizeof(*to), to, bytes);
}

static void softmax(int count, float *p)
{
    float most = p[0];
    double sum = 0;

    for (int e = 1; e < count; e++)
        most = p[e] > most ? p[e] : most;
    for (int e = 0; e < count; e++)
        sum += (double)(p[e] = expf(p[e] - most));
    for (int e = 0; e < count; e++)
        p[e] = (float)((double)p[e] / sum);
}

static void chunk_forward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    int rows = chunk_rows(o), c = m->width, ld = branch_width(m);
    float *norm = floats_room(rooms, (int64_t)rows * c), *branch = o->branch[0];
    float *mean = o->saved ? o->saved : floats_room(rooms, 2 * (int64_t)rows);
    const struct orri_norm kind = norm_of(o);

    orri_norm(o, &kind, c, norm, mean, mean + rows);
    to_branch(o, c, norm, branch);
    times_transposed(rows, m->experts, c, norm, c, o->param[0][ROUTER], branch + c, ld);
    for (int r = 0; r < rows; r++)
        softmax(m->experts, branch + (int64_t)r * ld + c);
}

static void chunk_join_in(const struct orr_operands *o)
{
    size_t count = (size_t)chunk_rows(o) * (size_t)moe_of(o)->width;

    orri_sum_shards(o, count, o->partial, o->y);
    orri_cpu_add(ORR_F32, count, o->x[0], o->y);
}

/* dlogits [rows,E] from dp, which lies in a branch's gradient, and p in the branch. */
static void softmax_gradient(const struct orr_operands *o, const float *dp, float *dlogits)
{
    const struct orr_moe *m = moe_of(o);
    int ld = branch_width(m);

    for (int r = 0; r < chunk_rows(o); r++) {
        const float *p = o->branch[0] + (int64_t)r * ld + m->width, *d = dp + (int64_t)r * ld;
        double mean = 0;
        for (int e = 0; e < m->experts; e++)
            mean += (double)p[e] * (double)d[e];
        for (int e = 0; e < m->experts; e++)
            dlogits[(int64_t)r * m->experts + e] = (float)((double)p[e] * ((double)d[e] - mean));
    }
}

/* The gradient of x, and to dlogits and dgamma what that of the parameters is made of. */
static void chunk_input_gradient(const struct orr_operands *o, float *dlogits, float *dgamma, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    int rows = chunk_rows(o), c = m->width;
    float *dbranch = floats_room(rooms, (int64_t)rows * branch_width(m)), *dnorm = floats_room(rooms, (int64_t)rows * c);
    const float *mean = o->saved;
    const struct orri_norm kind = norm_of(o);

    orri_sum_shards(o, (size_t)rows * (size_t)branch_width(m), o->dpartial, dbranch);
    softmax_gradient(o, dbranch + c, dlogits);
    from_branch(o, c, dbranch, dnorm);
    times(rows, m->experts, c, dlogits, m->experts, o->param[0][ROUTER], true, dnorm);
    orri_norm_input_gradient(o, &kind, c, o->dy, dnorm, mean, mean + rows, dgamma, NULL, rooms);
}

static void chunk_weights(const struct orr_operands *o, const float *dlogits, const float *dgamma)
{
    const struct orr_moe *m = moe_of(o);
    const struct orri_norm kind = norm_of(o);

    weights_product(o, chunk_rows(o), m->experts, m->width, dlogits, m->experts, o->branch[0], branch_width(m), o->grad[0][ROUTER]);
    orri_norm_weights(o, &kind, m->width, dgamma, NULL);
}

static void chunk_backward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    float *dlogits = floats_room(rooms, (int64_t)chunk_rows(o) * m->experts), *dgamma = floats_room(rooms, m->width);

    chunk_input_gradient(o, dlogits, dgamma, rooms);
    chunk_weights(o, dlogits, dgamma);
}

/* ---- the whole block ------------------------------------------------------------------------------------------------- */

/* What the whole block saves, in the order of saved(). */
struct whole {
    float *chunk, *branch, *dlogits, *dgamma, *shard;
};

static struct whole whole_at(const struct orr_operands *o, float *floats)
{
    const struct orr_moe *m = moe_of(o);
    int64_t tokens = tokens_of(o);
    struct whole w;

    w.chunk = floats;
    w.branch = w.chunk + orri_norm_saved_floats(o->batch, o->seq);
    w.dlogits = w.branch + tokens * branch_width(m);
    w.dgamma = w.dlogits + tokens * m->experts;
    w.shard = w.dgamma + m->width;
    return w;
}

/* The operands of a pass of its only chunk, or of its only shard. */
static struct orr_operands part_of(const struct orr_operands *o, const struct whole *w, float *saved)
{
    struct orr_operands part = *o;

    part.saved = saved;
    part.branch[0] = w->branch;
    part.dys[0] = o->dy;
    return part;
}

static void forward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct orr_moe *m = moe_of(o);
    const struct whole w = whole_at(o, o->saved ? o->saved : floats_room(rooms, saved(o->config, o->batch, o->seq).floats));
    struct orr_operands chunk = part_of(o, &w, w.chunk), shard = part_of(o, &w, o->saved ? w.shard : NULL);

    chunk.partial[0] = shard.partial[0] = floats_room(rooms, (int64_t)tokens_of(o) * m->width);
    chunk_forward_in(&chunk, rooms);
    shard_forward_in(&shard, rooms);
    chunk_join_in(&chunk);
}

static void backward_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct whole w = whole_at(o, o->saved);
    struct orr_operands chunk = part_of(o, &w, w.chunk), shard = part_of(o, &w, w.shard);

    chunk.dpartial[0] = shard.dpartial[0] = floats_room(rooms, (int64_t)tokens_of(o) * branch_width(o->config));
    shard_backward_in(&shard, rooms);
    chunk_input_gradient(&chunk, w.dlogits, w.dgamma, rooms);
}

static void weights_in(const struct orr_operands *o, struct orri_rooms *rooms)
{
    const struct whole w = whole_at(o, o->saved);
    struct orr_operands chunk = part_of(o, &w, w.chunk), shard = part_of(o, &w, w.shard);

    shard_weights_in(&shard, rooms);
    chunk_weights(&chunk, w.dlogits, w.dgamma);
}

/* ---- the class --------------------------------------------------------------------------------------------------------- */

/* Of all rooms of the passes forward, and of those backward, whole and in shards and chunks together; a shard's W has fewer. */
static size_t scratch_bytes(const void *config, const struct orr_shape *shape)
{
    const struct orr_moe *m = config;
    int tokens = shape->batch * shape->seq;
    int64_t value = (int64_t)tokens * m->width, branch = (int64_t)tokens * branch_width(m);
    struct orri_rooms forward = {0}, backward = {0};

    floats_room(&forward, shape->shards == 1 ? saved(m, shape->batch, shape->seq).floats : 2 * (int64_t)tokens);
    floats_room(&forward, branch);
    for (int i = 0; i < 4; i++)
        floats_room(&forward, value);
    floats_room(&forward, kept_floats(m, tokens, shape->shards, 0, false));
    for (int i = 0; i < 4; i++)
        floats_room(&backward, branch);
    for (int i = 0; i < 3; i++)
        floats_room(&backward, value);
    floats_room(&backward, (int64_t)tokens * m->hidden);
    floats_room(&backward, (int64_t)tokens * m->experts);
    floats_room(&backward, m->width);
    orri_room(&backward, orri_norm_scratch(shape, m->width, tokens));
    return forward.used > backward.used ? forward.used : backward.used;
}

#define PASS(name, function) \
    static void name(const struct orr_operands *o) \
    { \
        struct orri_rooms rooms = orri_rooms_of(o, scratch_bytes); \
        function(o, &rooms); \
    }

PASS(forward, forward_in)
PASS(backward, backward_in)
PASS(weights, weights_in)
PASS(chunk_forward, chunk_forward_in)
PASS(shard_forward, shard_forward_in)
PASS(shard_backward, shard_backward_in)
PASS(shard_weights, shard_weights_in)
PASS(chunk_backward, chunk_backward_in)
#undef PASS

static double flops(const void *config, int batch, int seq, enum orr_pass pass)
{
    const struct orr_moe *m = config;

    (void)pass;
    return 2.0 * batch * seq * m->width * (3.0 * m->chosen * m->hidden + m->experts);
}

static int most_shards(const void *config)
{
    return ((const struct orr_moe *)config)->experts;
}

static const struct orr_sharding sharding = {
    .most = most_shards,
    .unit = "experts",
    .saved = shard_saved,
    .chunk_saved = chunk_saved,
    .branch_width = branch_width,
};

static const struct orr_block_class moe_class = {
    .name = "moe",
    .config_size = sizeof(struct orr_moe),
    .specify = specify,
    .saved = saved,
    .scratch_bytes = scratch_bytes,
    .flops = flops,
    .sharding = &sharding,
    .cpu = {[ORR_FORWARD] = forward, [ORR_BACKWARD] = backward, [ORR_WEIGHTS] = weights,
            [ORR_CHUNK_FORWARD] = chunk_forward, [ORR_SHARD_FORWARD] = shard_forward, [ORR_CHUNK_JOIN] = chunk_join_in,
            [ORR_SHARD_BACKWARD] = shard_backward, [ORR_SHARD_WEIGHTS] = shard_weights, [ORR_CHUNK_BACKWARD] = chunk_backward},
    .operands = {[ORR_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_OUTPUT | ORR_SAVEDS,
                 [ORR_BACKWARD] = ORR_INPUT | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_INPUT_GRADIENT,
                 [ORR_WEIGHTS] = ORR_OUTPUT_GRADIENT | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_CHUNK_FORWARD] = ORR_INPUT | ORR_PARAMETERS | ORR_SAVEDS | ORR_BRANCH,
                 [ORR_SHARD_FORWARD] = ORR_BRANCH | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL,
                 [ORR_CHUNK_JOIN] = ORR_INPUT | ORR_PARTIAL | ORR_OUTPUT,
                 [ORR_SHARD_BACKWARD] = ORR_BRANCH | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS | ORR_PARTIAL_GRADIENT,
                 [ORR_SHARD_WEIGHTS] = ORR_BRANCH | ORR_OUTPUT_GRADIENT | ORR_SAVEDS | ORR_GRADIENTS,
                 [ORR_CHUNK_BACKWARD] = ORR_INPUT | ORR_BRANCH | ORR_OUTPUT_GRADIENT | ORR_PARAMETERS | ORR_SAVEDS |
                                        ORR_PARTIAL_GRADIENT | ORR_INPUT_GRADIENT | ORR_GRADIENTS},
};

int orr_moe(struct orr_model *model, int layer, const struct orr_moe *config)
{
    if (config->width < 1 || config->hidden < 1 || config->experts < 1)
        return orri_fail(ORR_EINVAL, "moe", "a width of %d, a hidden width of %d and %d experts are not all positive", config->width,
                         config->hidden, config->experts);
    if (config->chosen < 1 || config->chosen > config->experts)
        return orri_fail(ORR_EINVAL, "moe", "%d of %d experts for each token are not possible", config->chosen, config->experts);
    if (!(config->capacity >= 0) || !(config->balance >= 0))
        return orri_fail(ORR_EINVAL, "moe", "a capacity of %g and a balance of %g are not both at least 0", config->capacity,
                         config->balance);
    return orr_block_append(model, &moe_class, layer, config) ? ORR_OK : orr_error_code();
}
