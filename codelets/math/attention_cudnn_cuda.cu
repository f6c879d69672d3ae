/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by cuDNN's engines for scaled dot-product attention. A forward or a backward pass of one shape is a graph of one
 * node, which cudnn-frontend describes to the library; its plan is asked for once per worker.
 *
 * The library's statistics of a row are our lse: the natural logarithm of the sum of the exponentials of the scaled scores, fp32,
 * [B,H,T]. So either pass may go by it and the other by our kernels.
 *
 * How much workspace a plan wants is known only where it runs, and scratch is reserved before. So the bound is ours, and plans
 * beyond it are not taken: forward the workspace that a worker has anyway; backward dq in fp32, in whole tiles, a few floats per
 * row, and a bit more. That leaves out deterministic plans that store T x T gradients of scores, which is all there is for
 * compute capability 8.x, and for 9.x before cuDNN 9.25. */
#include "codelets/math/attention_cuda.h"

#ifdef ORR_HAVE_CUDNN

#include <stdio.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include "core/cudnn.h"
#include "core/device.h"
#include "core/launch_cuda.h"

/* Where cudnn-frontend looks for the library's functions. */
namespace cudnn_frontend {
void *cudnn_dlhandle = nullptr;
}

namespace {

namespace fe = cudnn_frontend;
using graph = fe::graph::Graph;
using tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

enum { Q = 1, K, V, O, LSE, D_O, DQ, DK, DV };      /* tensors, as a graph numbers them */
enum { ALIGNED = 256, MORE = 1 << 20 };

size_t up(size_t x, size_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* dq, dk or dv in scratch: [B,T,H,D]. */
size_t gradient_bytes(const struct orri_attention &a)
{
    return up((size_t)a.batch * (size_t)a.seq * (size_t)a.heads * (size_t)a.head_dim * 2, ALIGNED);
}

size_t backward_workspace(const struct orri_attention &a)
{
    return (size_t)a.batch * (size_t)a.heads * up((size_t)a.seq, 128) * (up((size_t)a.head_dim, 64) + 4) * sizeof(float) + MORE;
}

/* ---- what a worker keeps ----------------------------------------------------------------------------------------- */

/* All that a graph depends on: backward, dtype, batch, seq, heads, head_dim, ld, ld_out, scale. */
using key = std::tuple<bool, int, int, int, int, int, int64_t, int64_t, float>;

struct worker {
    void *stream;
    cudnnHandle_t handle;
    std::map<key, std::shared_ptr<graph>> plans;    /* NULL: the library has none */
    struct worker *next;
};

thread_local struct worker *mine;   /* of the calling thread, one for each stream */

void release()
{
    while (mine) {
        struct worker *w = mine;

        mine = w->next;
        w->plans.clear();
        fe::detail::destroy_handle(w->handle);
        delete w;
    }
}

/* NULL: it failed. */
struct worker *worker_of(struct orr_cuda *cuda)
{
    static std::once_flag once;
    const char *why;
    cudnnHandle_t handle;

    for (struct worker *w = mine; w; w = w->next)
        if (w->stream == cuda->stream)
            return w;
    std::call_once(once, [&] {
        fe::cudnn_dlhandle = orri_cudnn_open(&why);     /* orr_init() has seen that it can be opened */
        orri_devices_at_stop(release);
    });
    cudnnStatus_t status = fe::detail::create_handle(&handle);
    if (status == CUDNN_STATUS_SUCCESS) {
        mine = new worker{cuda->stream, handle, {}, mine};
        status = fe::detail::set_stream(handle, orri_stream(cuda));
    }
    if (status == CUDNN_STATUS_SUCCESS)
        return mine;
    orr_cuda_fail(cuda, "a cuDNN handle", fe::detail::get_error_string(status));
    return NULL;
}

/* ---- graphs -------------------------------------------------------------------------------------------------------- */

/* A tensor of the graph, [B,H,T,D] or [B,H,T,1], becomes what lies in memory by rows: of `ld` elements, in each the heads. */
tensor rows(const tensor &x, const struct orri_attention &a, int uid, int64_t ld)
{
    x->set_uid(uid).set_dim({a.batch, a.heads, a.seq, a.head_dim}).set_stride({a.seq * ld, a.head_dim, ld, 1});
    return x;
}

tensor statistics(const tensor &x, const struct orri_attention &a)
{
    x->set_uid(LSE).set_dim({a.batch, a.heads, a.seq, 1}).set_stride({(int64_t)a.heads * a.seq, a.seq, 1, 1});
    x->set_data_type(fe::DataType_t::FLOAT);
    return x;
}

void describe(graph &g, bool backward, enum orr_dtype dtype, const struct orri_attention &a)
{
    const auto causal = fe::DiagonalAlignment_t::TOP_LEFT;
    auto input = [&] { return g.tensor(fe::graph::Tensor_attributes()); };

    g.set_io_data_type(dtype == ORR_BF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF);
    g.set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    tensor q = rows(input(), a, Q, a.ld), k = rows(input(), a, K, a.ld), v = rows(input(), a, V, a.ld);
    if (!backward) {
        auto out = g.sdpa(q, k, v, fe::graph::SDPA_attributes().set_generate_stats(true).set_attn_scale(a.scale)
                                       .set_diagonal_alignment(causal).set_diagonal_band_right_bound(0));

        rows(out[0], a, O, a.ld_out)->set_output(true);
        statistics(out[1], a)->set_output(true);
        return;
    }
    tensor o = rows(input(), a, O, a.ld_out), d_o = rows(input(), a, D_O, a.ld_out);
    auto out = g.sdpa_backward(q, k, v, o, d_o, statistics(input(), a),
                               fe::graph::SDPA_backward_attributes().set_deterministic_algorithm(true).set_attn_scale(a.scale)
                                   .set_diagonal_alignment(causal).set_diagonal_band_right_bound(0));

    for (int i = 0; i < 3; i++)
        rows(out[i], a, DQ + i, (int64_t)a.heads * a.head_dim)->set_output(true);
}

fe::error_t plan(graph &g, cudnnHandle_t handle, size_t workspace)
{
    int64_t bytes;

    if (auto status = g.validate(); status.is_bad())
        return status;
    if (auto status = g.build_operation_graph(handle); status.is_bad())
        return status;
    if (auto status = g.create_execution_plans({fe::HeurMode_t::A}); status.is_bad())
        return status;
    g.deselect_workspace_greater_than((int64_t)workspace);
    if (auto status = g.check_support(); status.is_bad())
        return status;
    if (auto status = g.build_plans(); status.is_bad())     /* what it can do fails: as when a kernel cannot be loaded */
        return {fe::error_code_t::GRAPH_EXECUTION_FAILED, status.err_msg};
    if (auto status = g.get_workspace_size(bytes); status.is_bad())
        return status;
    if (bytes > (int64_t)workspace)
        return {fe::error_code_t::GRAPH_NOT_SUPPORTED, "it wants " + std::to_string(bytes) + " bytes of workspace"};
    return {fe::error_code_t::OK, ""};
}

/* The library says that it cannot do this, which is no failure. */
bool unsupported(const fe::error_t &status)
{
    switch (status.code) {
    case fe::error_code_t::GRAPH_NOT_SUPPORTED:
    case fe::error_code_t::GRAPH_EXECUTION_PLAN_CREATION_FAILED:
    case fe::error_code_t::HEURISTIC_QUERY_FAILED: return true;
    default: return status.err_msg.find("NOT_SUPPORTED") != std::string::npos;
    }
}

/* Once for each pass: who asked for cuDNN is to know where kernels of Orrery run instead. */
void tell(bool backward, const struct orri_attention &a, size_t workspace, const std::string &why)
{
    static std::atomic<bool> told[2];

    if (!told[backward].exchange(true))
        fprintf(stderr, "orrery: attention: cuDNN has no %s plan for %d x %d heads of %d, %d tokens, with %zu MiB: %s\n",
                backward ? "backward" : "forward", a.batch, a.heads, a.head_dim, a.seq, workspace >> 20, why.c_str());
}

/* What the library says, in one line. */
std::string message(const fe::error_t &status)
{
    std::string text = status.err_msg.substr(0, 400);

    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

/* NULL: there is none, or it failed. */
graph *plan_of(struct orr_cuda *cuda, struct worker *w, bool backward, enum orr_dtype dtype, const struct orri_attention &a,
               size_t workspace)
{
    const key asked(backward, (int)dtype, a.batch, a.seq, a.heads, a.head_dim, a.ld, a.ld_out, a.scale);
    const auto known = w->plans.find(asked);

    if (known != w->plans.end())
        return known->second.get();
    auto made = std::make_shared<graph>();
    describe(*made, backward, dtype, a);
    const fe::error_t status = plan(*made, w->handle, workspace);
    if (status.is_bad()) {
        if (!unsupported(status)) {
            orr_cuda_fail(cuda, backward ? "cuDNN backward" : "cuDNN forward", message(status).c_str());
            return NULL;
        }
        tell(backward, a, workspace, message(status));
        made.reset();
    }
    w->plans[asked] = made;
    return made.get();
}

/* False where the library has no plan. */
bool run(struct orr_cuda *cuda, bool backward, enum orr_dtype dtype, const struct orri_attention &a,
         std::unordered_map<int64_t, void *> data, void *workspace, size_t bytes)
{
    const char *call = backward ? "cuDNN backward" : "cuDNN forward";

    if (cuda->code)
        return true;
    try {
        struct worker *w = worker_of(cuda);
        graph *g = w ? plan_of(cuda, w, backward, dtype, a, bytes) : NULL;

        if (!g)
            return cuda->code;
        const fe::error_t status = g->execute(w->handle, data, workspace);
        if (status.is_bad())
            orr_cuda_fail(cuda, call, message(status).c_str());
    } catch (const std::exception &e) {     /* a function that this libcudnn lacks; no memory */
        orr_cuda_fail(cuda, call, e.what());
    }
    return true;
}

}

size_t orri_attention_cudnn_scratch(const struct orri_attention *a)
{
    return ALIGNED + 3 * gradient_bytes(*a) + backward_workspace(*a);
}

bool orri_attention_cudnn_forward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call)
{
    return run(cuda, false, dtype, call->a, {{Q, call->q}, {K, call->k}, {V, call->v}, {O, call->o}, {LSE, call->lse}},
               cuda->workspace, ORR_CUDA_WORKSPACE);
}

/* Until the end q, k and v are read, so that no gradient can be written where it belongs. */
bool orri_attention_cudnn_backward(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_attention_call *call,
                                   void *scratch)
{
    const struct orri_attention &a = call->a;
    const size_t step = gradient_bytes(a), row = (size_t)a.heads * (size_t)a.head_dim * 2;
    char *gradients = reinterpret_cast<char *>(up((size_t)scratch, ALIGNED));
    void *const to[3] = {call->q, call->k, call->v};

    if (!run(cuda, true, dtype, a,
             {{Q, call->q}, {K, call->k}, {V, call->v}, {O, call->o}, {D_O, const_cast<void *>(call->d_o)}, {LSE, call->lse},
              {DQ, gradients}, {DK, gradients + step}, {DV, gradients + 2 * step}},
             gradients + 3 * step, backward_workspace(a)))
        return false;
    for (int i = 0; i < 3; i++)
        orri_cuda_copy_rows(cuda, (size_t)a.batch * (size_t)a.seq, row, gradients + (size_t)i * step, row, to[i],
                            (size_t)a.ld * 2);
    return true;
}

#else

size_t orri_attention_cudnn_scratch(const struct orri_attention *)
{
    return 0;
}

bool orri_attention_cudnn_forward(struct orr_cuda *, enum orr_dtype, const struct orri_attention_call *)
{
    return false;
}

bool orri_attention_cudnn_backward(struct orr_cuda *, enum orr_dtype, const struct orri_attention_call *, void *)
{
    return false;
}

#endif
