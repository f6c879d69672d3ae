/* SPDX-License-Identifier: Apache-2.0 */
/* What the ways of attention on a CUDA device share. C++, for .cu files. */
#ifndef ORRI_ATTENTION_CUDA_H
#define ORRI_ATTENTION_CUDA_H

#include "codelets/math/math_cuda.h"
#include "codelets/math/philox_cuda.h"

/* A call, as kernels take it. */
struct orri_attention_call {
    struct orri_attention a;        /* kv_heads not 0                                                              */
    struct orri_device_dropout dropout;
    void *q, *k, *v;        /* backward: k and v become dk and dv                                               */
    void *o;
    float *lse;
    const void *d_o;        /* this and the rest backward alone                                                 */
    void *dq;               /* [B,T,H*D]: q is read until the last kernel                                       */
    float2 *rows;           /* [B,H,T]: log2(e) lse; delta = sum over d of o d_o (Dao et al. 2022)              */
};

/* Of a backward call they read q, k, v, o, d_o and rows and leave dq, dk and dv. */
void orri_attention_tensor_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call);
void orri_attention_tensor_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call);
void orri_attention_plain_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call);
void orri_attention_plain_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call);

/* By cuDNN. False where it has no plan for the call within its workspace: nothing was done. True also after a failure. The
 * scratch of a backward call, 0 bytes in a build without cuDNN, is for dq, dk and dv, which replace q, k and v at the end. */
size_t orri_attention_cudnn_scratch(const struct orri_attention *a);
bool orri_attention_cudnn_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call);
bool orri_attention_cudnn_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call,
                                   void *scratch);

#define ORRI_LOG2_E 1.44269504f

/* A maximum of no scores: finite, so that what is hidden differs from it by infinity. */
#define ORRI_LEAST_SCORE (-1e30f)

/* Each query sees all keys up to its own and none else. */
static inline bool orri_attention_is_causal(const struct orri_attention *a)
{
    return !a->bidirectional && (!a->window || a->window >= a->seq) && !a->places;
}

/* Blocks of a grid are a sample, one of `heads` and `rows` of its rows; those of the first rows begin first. */
static inline dim3 orri_attention_grid(const struct orri_attention &a, int heads, int rows)
{
    return dim3((unsigned)a.batch, (unsigned)heads, (unsigned)((a.seq + rows - 1) / rows));
}

/* ---- inside kernels -------------------------------------------------------------------------------------- */

/* Where head h of sample b begins. */
struct orri_attention_head {
    int64_t in;             /* in q                                 */
    int64_t keys;           /* in k and v, that of its group        */
    int64_t out;            /* in o and d_o                         */
    int64_t dq;
    int64_t row;            /* in lse and rows                      */
    uint64_t element;       /* in the stream of dropout             */
};

static __device__ __forceinline__ struct orri_attention_head orri_attention_head(const struct orri_attention &a, int64_t b,
                                                                                 int64_t h)
{
    int64_t seq = a.seq, shared = (unsigned)h * (unsigned)a.kv_heads / (unsigned)a.heads;

    return {b * seq * a.ld + h * a.head_dim, b * seq * a.ld + shared * a.head_dim, b * seq * a.ld_out + h * a.head_dim,
            (b * seq * a.heads + h) * a.head_dim, (b * a.heads + h) * seq,
            ((a.first_sample + (uint64_t)b) * (uint64_t)a.total_heads + (uint64_t)(a.first_head + h)) *
                (uint64_t)seq * (uint64_t)seq};
}

/* Rows from .. to - 1. */
struct orri_attention_span {
    int from, to;
};

/* Where the sequence of position t begins and ends. All that follow begin behind it, so that its end is found by halves. */
static __device__ __forceinline__ struct orri_attention_span orri_attention_sequence(const int32_t *places, int seq, int t)
{
    struct orri_attention_span own = {places ? t - places[t] : 0, seq};

    for (int inside = t; places && own.to - inside > 1;) {
        int middle = inside + (own.to - inside) / 2;

        if (middle - places[middle] > own.from)
            own.to = middle;
        else
            inside = middle;
    }
    return own;
}

/* The keys that query t of sample b sees, or, with KEY, the queries that see key t. Neither bound falls from one t to the next; a t
 * behind the last has its span. */
template <bool KEY>
static __device__ __forceinline__ struct orri_attention_span orri_attention_sight(const struct orri_attention &a, int64_t b, int t)
{
    t = t < a.seq ? t : a.seq - 1;
    struct orri_attention_span s = orri_attention_sequence(a.places ? a.places + b * a.seq : NULL, a.seq, t);

    if (!a.bidirectional && KEY)
        s.from = t;
    if (!a.bidirectional && !KEY)
        s.to = t + 1;
    if (a.window && KEY && s.to - t > a.window)
        s.to = t + a.window;
    if (a.window && !KEY && t - s.from >= a.window)
        s.from = t - a.window + 1;
    return s;
}

/* Bit k: whether element first + k is kept, k = 0 .. COUNT - 1, COUNT = 4 or 16; the bits above mean nothing. */
template <int COUNT>
static __device__ __forceinline__ uint32_t orri_attention_kept(const struct orri_device_dropout &d, uint64_t first)
{
    uint32_t bits = 0, skip = (uint32_t)first & 3;

#pragma unroll
    for (int at = 0; at <= COUNT; at += 4)
        if (at < COUNT || skip) {
            uint4 word = orri_philox(d.rng, first / 4 + (uint64_t)(at / 4));

            bits |= (uint32_t)(word.x >= d.least) << at | (uint32_t)(word.y >= d.least) << (at + 1) |
                    (uint32_t)(word.z >= d.least) << (at + 2) | (uint32_t)(word.w >= d.least) << (at + 3);
        }
    return bits >> skip;
}

#endif
