/* SPDX-License-Identifier: Apache-2.0 */
/* cuBLASLt's matrix product with its epilogues, and as much of cuBLAS, cuSOLVER and cuSPARSE as StarPU calls. */
#include "emulation.h"

#include <cblas.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using namespace emulated;

/* Either library's, which may be used as the other's. */
struct cublasContext {
    device *of;
    cudaStream_t stream;
};

namespace {

/* What the opaque structures hold. */
struct layout {
    int32_t type, order, batch, batch_mode;
    uint64_t rows, cols;
    int64_t ld, stride;
};

struct description {
    int32_t compute, scale_type, pointer_mode, trans_a, trans_b, trans_c, fill, aux_type, bias_type, sm_target;
    uint32_t epilogue;
    int8_t fast;
    void *bias, *aux;
    int64_t bias_stride, aux_ld, aux_stride;
};

struct preference {
    uint32_t search, reductions, align_a, align_b, align_c, align_d;
    uint64_t workspace, numerics;
    float waves;
};

/* What an algorithm was asked for, and relies on. */
struct algorithm {
    uint64_t magic, question;
    uint32_t align_a, align_b, align_c, align_d, align_aux, align_bias;
    uint64_t workspace;
};

static_assert(sizeof(layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
static_assert(sizeof(description) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
static_assert(sizeof(preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "fits");

const uint64_t MAGIC = 0x456d756c61746564;
const uint64_t WORKSPACE = 1 << 20;     /* what an algorithm wants, where it may have any */

layout *get(cublasLtMatrixLayout_t opaque) { return reinterpret_cast<layout *>(opaque); }
description *get(cublasLtMatmulDesc_t opaque) { return reinterpret_cast<description *>(opaque); }
preference *get(cublasLtMatmulPreference_t opaque) { return reinterpret_cast<preference *>(opaque); }

struct field {
    void *at;
    size_t bytes;
};

template <typename T> field whole(T *at) { return { at, sizeof(T) }; }

field field_of(layout *of, cublasLtMatrixLayoutAttribute_t attribute)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return whole(&of->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return whole(&of->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return whole(&of->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return whole(&of->cols);
    case CUBLASLT_MATRIX_LAYOUT_LD: return whole(&of->ld);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return whole(&of->batch);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return whole(&of->stride);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_MODE: return whole(&of->batch_mode);
    default: return { nullptr, 0 };
    }
}

field field_of(description *of, cublasLtMatmulDescAttributes_t attribute)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return whole(&of->compute);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return whole(&of->scale_type);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return whole(&of->pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA: return whole(&of->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return whole(&of->trans_b);
    case CUBLASLT_MATMUL_DESC_TRANSC: return whole(&of->trans_c);
    case CUBLASLT_MATMUL_DESC_FILL_MODE: return whole(&of->fill);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return whole(&of->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return whole(&of->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return whole(&of->bias_stride);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return whole(&of->bias_type);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return whole(&of->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return whole(&of->aux_ld);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: return whole(&of->aux_stride);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return whole(&of->aux_type);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET: return whole(&of->sm_target);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: return whole(&of->fast);
    default: return { nullptr, 0 };
    }
}

field field_of(preference *of, cublasLtMatmulPreferenceAttributes_t attribute)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE: return whole(&of->search);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return whole(&of->workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return whole(&of->reductions);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return whole(&of->align_a);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return whole(&of->align_b);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return whole(&of->align_c);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return whole(&of->align_d);
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT: return whole(&of->waves);
    case CUBLASLT_MATMUL_PREF_IMPL_MASK: return whole(&of->numerics);
    default: return { nullptr, 0 };
    }
}

cublasStatus_t put(field to, const void *from, size_t bytes)
{
    if (!to.at || !from || bytes != to.bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to.at, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t take(field from, void *to, size_t bytes, size_t *written)
{
    if (!from.at || (bytes == 0 && !written) || (bytes > 0 && (!to || bytes != from.bytes)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (written)
        *written = from.bytes;
    if (bytes > 0)
        memcpy(to, from.at, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- elements --------------------------------------------------------------------------------------------------- */

size_t size_of(int type) { return type == CUDA_R_32F ? 4 : 2; }

bool is_known(int type) { return type == CUDA_R_32F || type == CUDA_R_16BF || type == CUDA_R_16F; }

float load(const void *from, int type, int64_t k)
{
    switch (type) {
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16 *>(from)[k]);
    case CUDA_R_16F: return __half2float(static_cast<const __half *>(from)[k]);
    default: return static_cast<const float *>(from)[k];
    }
}

void store(void *to, int type, int64_t k, float x)
{
    switch (type) {
    case CUDA_R_16BF: static_cast<__nv_bfloat16 *>(to)[k] = __float2bfloat16_rn(x); break;
    case CUDA_R_16F: static_cast<__half *>(to)[k] = __float2half_rn(x); break;
    default: static_cast<float *>(to)[k] = x; break;
    }
}

/* Where element (row, column) of a matrix is. */
int64_t index(const layout &of, uint64_t row, uint64_t column)
{
    return of.order == CUBLASLT_ORDER_ROW ? (int64_t)row * of.ld + (int64_t)column : (int64_t)column * of.ld + (int64_t)row;
}

/* From the first element to the last, in bytes. */
size_t span(const layout &of)
{
    return ((size_t)index(of, of.rows - 1, of.cols - 1) + 1) * size_of(of.type);
}

float to_tf32(float x)
{
    uint32_t bits = __float_as_uint(x);

    return std::isfinite(x) ? __uint_as_float((bits + 0x1000) & ~0x1fffu) : x;
}

/* op(X), column by column, in fp32. */
std::vector<float> operand(const void *from, const layout &of, bool transposed, bool tf32)
{
    uint64_t rows = transposed ? of.cols : of.rows, cols = transposed ? of.rows : of.cols;
    std::vector<float> to(rows * cols);

    for (uint64_t c = 0; c < cols; c++)
        for (uint64_t r = 0; r < rows; r++) {
            float x = load(from, of.type, transposed ? index(of, c, r) : index(of, r, c));

            to[c * rows + r] = tf32 ? to_tf32(x) : x;
        }
    return to;
}

/* Of the tanh form. */
float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

float gelu_slope(float x)
{
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));

    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3 * 0.044715f * x * x);
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

struct product {
    description what;
    layout a_of, b_of, c_of, d_of;
    const void *a, *b, *c;
    void *d;
    const float *alpha_at, *beta_at;
    float alpha, beta;
    uint64_t m, n, k;

    bool has(unsigned part) const { return (what.epilogue & part) == part; }
    bool takes_bias() const { return has(CUBLASLT_EPILOGUE_BIAS); }
    bool gives_bias() const { return has(16) || has(CUBLASLT_EPILOGUE_BGRADA) || has(CUBLASLT_EPILOGUE_BGRADB); }
    bool has_aux() const { return has(128); }
    uint64_t bias_length() const { return has(CUBLASLT_EPILOGUE_BGRADB) ? n : m; }
    size_t aux_bytes() const { return ((size_t)what.aux_ld * (n - 1) + m) * size_of(d_of.type); }

    void run(int batch) const;
};

template <typename T> T *advance(T *at, int64_t elements, int type)
{
    typedef std::conditional_t<std::is_const<T>::value, const char, char> bytes;

    return at ? reinterpret_cast<bytes *>(at) + elements * (int64_t)size_of(type) : nullptr;
}

void product::run(int batch) const
{
    bool tf32 = what.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    std::vector<float> x = operand(advance(a, batch * a_of.stride, a_of.type), a_of, what.trans_a == CUBLAS_OP_T, tf32);
    std::vector<float> y = operand(advance(b, batch * b_of.stride, b_of.type), b_of, what.trans_b == CUBLAS_OP_T, tf32);
    std::vector<float> z(m * n), slope(m);
    const void *added = advance(c, batch * c_of.stride, c_of.type);
    void *to = advance(d, batch * d_of.stride, d_of.type);
    void *bias = advance(what.bias, batch * what.bias_stride, d_of.type);
    void *aux = advance(what.aux, batch * what.aux_stride, d_of.type);

    cblas_sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha, x.data(), (blasint)m,
                y.data(), (blasint)k, 0.0f, z.data(), (blasint)m);
    for (uint64_t j = 0; j < n; j++)
        for (uint64_t i = 0; i < m; i++) {
            float s = z[j * m + i];
            int64_t at = (int64_t)j * what.aux_ld + (int64_t)i;

            if (beta != 0)
                s += beta * load(added, c_of.type, index(c_of, i, j));
            if (takes_bias())
                s += load(bias, d_of.type, (int64_t)i);
            if (has_aux() && has(CUBLASLT_EPILOGUE_GELU))
                store(aux, d_of.type, at, s);
            if (has(CUBLASLT_EPILOGUE_GELU))
                s = gelu(s);
            if (has(CUBLASLT_EPILOGUE_DGELU))
                s *= gelu_slope(load(aux, d_of.type, at));
            slope[i] += s;
            z[j * m + i] = s;
        }
    for (uint64_t j = 0; j < n; j++)
        for (uint64_t i = 0; i < m; i++)
            store(to, d_of.type, index(d_of, i, j), z[j * m + i]);
    if (has(CUBLASLT_EPILOGUE_DGELU | 16))
        for (uint64_t i = 0; i < m; i++)
            store(bias, d_of.type, (int64_t)i, slope[i]);
    if (has(CUBLASLT_EPILOGUE_BGRADA))
        for (uint64_t i = 0; i < m; i++) {
            float sum = 0;

            for (uint64_t l = 0; l < k; l++)
                sum += x[l * m + i];
            store(bias, d_of.type, (int64_t)i, sum);
        }
    if (has(CUBLASLT_EPILOGUE_BGRADB))
        for (uint64_t j = 0; j < n; j++) {
            float sum = 0;

            for (uint64_t l = 0; l < k; l++)
                sum += y[j * k + l];
            store(bias, d_of.type, (int64_t)j, sum);
        }
}

bool is_layout(const layout &of)
{
    uint64_t least = of.order == CUBLASLT_ORDER_ROW ? of.cols : of.rows;

    return is_known(of.type) && (of.order == CUBLASLT_ORDER_COL || of.order == CUBLASLT_ORDER_ROW) && of.rows > 0 && of.cols > 0 &&
           of.ld >= (int64_t)least && of.batch > 0 && of.batch_mode == CUBLASLT_BATCH_MODE_STRIDED;
}

/* Fills in the sizes; INVALID_VALUE for what makes no sense, NOT_SUPPORTED for what the library has no kernel for. */
cublasStatus_t check(product *p)
{
    const description &what = p->what;
    bool ta = what.trans_a == CUBLAS_OP_T, tb = what.trans_b == CUBLAS_OP_T;

    if (!is_layout(p->a_of) || !is_layout(p->b_of) || !is_layout(p->c_of) || !is_layout(p->d_of))
        return CUBLAS_STATUS_INVALID_VALUE;
    p->m = ta ? p->a_of.cols : p->a_of.rows;
    p->k = ta ? p->a_of.rows : p->a_of.cols;
    p->n = tb ? p->b_of.rows : p->b_of.cols;
    if ((tb ? p->b_of.cols : p->b_of.rows) != p->k || p->d_of.rows != p->m || p->d_of.cols != p->n || p->c_of.rows != p->m ||
        p->c_of.cols != p->n || p->a_of.batch != p->d_of.batch || p->b_of.batch != p->d_of.batch || p->c_of.batch != p->d_of.batch)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (what.trans_a > CUBLAS_OP_T || what.trans_b > CUBLAS_OP_T || what.trans_c != CUBLAS_OP_N || what.scale_type != CUDA_R_32F ||
        what.fill != CUBLAS_FILL_MODE_FULL || what.pointer_mode > CUBLASLT_POINTER_MODE_DEVICE)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (what.compute != CUBLAS_COMPUTE_32F && what.compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
        !(what.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && p->a_of.type == CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->a_of.type != p->b_of.type || p->c_of.type != p->d_of.type || p->c_of.order != p->d_of.order ||
        (p->d_of.type != p->a_of.type && p->d_of.type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    switch (what.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT: case CUBLASLT_EPILOGUE_BIAS: case CUBLASLT_EPILOGUE_GELU: case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX: case CUBLASLT_EPILOGUE_GELU_AUX_BIAS: case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD: case CUBLASLT_EPILOGUE_BGRADA: case CUBLASLT_EPILOGUE_BGRADB:
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (what.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p->d_of.order != CUBLASLT_ORDER_COL)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((p->takes_bias() || p->gives_bias()) && what.bias_type != -1 && what.bias_type != p->d_of.type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->has_aux() && what.aux_type != -1 && what.aux_type != p->d_of.type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->has_aux() && what.aux_ld < (int64_t)p->m)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

/* What a product is apart from its addresses. */
uint64_t question_of(const product &p)
{
    const int64_t parts[] = { p.a_of.type, p.a_of.order, p.a_of.ld, p.b_of.type, p.b_of.order, p.b_of.ld, p.c_of.ld, p.d_of.type,
                              p.d_of.order, p.d_of.ld, p.d_of.batch, (int64_t)p.m, (int64_t)p.n, (int64_t)p.k, p.what.compute,
                              p.what.trans_a, p.what.trans_b, p.what.epilogue, p.has_aux() ? p.what.aux_ld : 0 };
    uint64_t hash = 14695981039346656037u;

    for (int64_t part : parts)
        hash = (hash ^ (uint64_t)part) * 1099511628211u;
    return hash;
}

unsigned alignment_of(const void *at)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(at);

    return address ? (unsigned)std::min<uintptr_t>(address & -address, 256) : 256;
}

/* The algorithm for addresses that are so aligned. Epilogues that read or write an aux matrix, or sum, need everything at
 * multiples of 16 bytes; the others have kernels for any element. */
cublasStatus_t choose(const product &p, const preference &wish, algorithm *found)
{
    bool wide = p.has_aux() || p.gives_bias();
    unsigned result = (unsigned)size_of(p.d_of.type);
    auto is_aligned = [=](const layout &of, unsigned align) {
        unsigned least = wide ? 16 : (unsigned)size_of(of.type);

        return align >= least && (!wide || of.ld * (int64_t)size_of(of.type) % 16 == 0);
    };

    if (!is_aligned(p.a_of, wish.align_a) || !is_aligned(p.b_of, wish.align_b) || !is_aligned(p.c_of, wish.align_c) ||
        !is_aligned(p.d_of, wish.align_d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.has_aux() && (p.what.aux_ld % 8 != 0 || alignment_of(p.what.aux) < 16))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *found = algorithm();
    found->magic = MAGIC;
    found->question = question_of(p);
    /* With the widest loads that are allowed, as a real one. */
    found->align_a = std::min(wish.align_a, 16u);
    found->align_b = std::min(wish.align_b, 16u);
    found->align_c = std::min(wish.align_c, 16u);
    found->align_d = std::min(wish.align_d, 16u);
    found->align_aux = p.has_aux() ? 16 : 1;
    found->align_bias = p.takes_bias() || p.gives_bias() ? std::min(std::max(alignment_of(p.what.bias), result), 16u) : 1;
    found->workspace = std::min(wish.workspace, WORKSPACE);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t complain(const char *what)
{
    fprintf(stderr, "emulated device: cublasLtMatmul: %s\n", what);
    return CUBLAS_STATUS_INVALID_VALUE;
}

template <typename H> cublasStatus_t create(H *handle)
{
    device *of = current_device();

    if (!handle)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!of || fails("cublasCreate"))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = reinterpret_cast<H>(new cublasContext { of, nullptr });
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> cublasStatus_t destroy(T *opaque)
{
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

}

extern "C" {

/* ---- handles ----------------------------------------------------------------------------------------------------- */

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) { return create(handle); }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return create(handle); }

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    drain(handle->of);
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return cublasDestroy_v2(reinterpret_cast<cublasHandle_t>(handle)); }

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t *stream)
{
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *, size_t)
{
    return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t)
{
    return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version)
{
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }

/* Of the library before handles, which StarPU starts too. */
cublasStatus_t cublasInit(void) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasShutdown(void) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetKernelStream(cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

#define EMULATED_NOTHING(library) \
    int library##Create(void **handle) { *handle = new char; return 0; } \
    int library##Destroy(void *handle) { delete static_cast<char *>(handle); return 0; } \
    int library##SetStream(void *, cudaStream_t) { return 0; }
EMULATED_NOTHING(cusolverDn)
EMULATED_NOTHING(cusolverSp)
EMULATED_NOTHING(cusolverRf)
EMULATED_NOTHING(cusparse)

#define EMULATED_STATUSES(X) \
    X(CUBLAS_STATUS_SUCCESS) X(CUBLAS_STATUS_NOT_INITIALIZED) X(CUBLAS_STATUS_ALLOC_FAILED) X(CUBLAS_STATUS_INVALID_VALUE) \
    X(CUBLAS_STATUS_ARCH_MISMATCH) X(CUBLAS_STATUS_MAPPING_ERROR) X(CUBLAS_STATUS_EXECUTION_FAILED) \
    X(CUBLAS_STATUS_INTERNAL_ERROR) X(CUBLAS_STATUS_NOT_SUPPORTED) X(CUBLAS_STATUS_LICENSE_ERROR)

const char *cublasGetStatusName(cublasStatus_t status)
{
    switch (status) {
#define EMULATED_NAME(name) case name: return #name;
    EMULATED_STATUSES(EMULATED_NAME)
    }
    return "CUBLAS_STATUS_UNKNOWN";
}

const char *cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }
const char *cublasLtGetStatusName(cublasStatus_t status) { return cublasGetStatusName(status); }
const char *cublasLtGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }

/* ---- descriptors -------------------------------------------------------------------------------------------------- */

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t opaque, size_t size, cudaDataType type, uint64_t rows,
                                                 uint64_t cols, int64_t ld)
{
    if (size < sizeof(*opaque))
        return CUBLAS_STATUS_ALLOC_FAILED;
    memset(static_cast<void *>(opaque), 0, sizeof(*opaque));
    *get(opaque) = { type, CUBLASLT_ORDER_COL, 1, CUBLASLT_BATCH_MODE_STRIDED, rows, cols, ld, 0 };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *opaque, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld)
{
    *opaque = new cublasLtMatrixLayoutOpaque_t;
    return cublasLtMatrixLayoutInit_internal(*opaque, sizeof(**opaque), type, rows, cols, ld);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t opaque) { return destroy(opaque); }

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    return put(field_of(get(opaque), attribute), value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t opaque, cublasLtMatrixLayoutAttribute_t attribute,
                                                void *value, size_t bytes, size_t *written)
{
    return take(field_of(get(opaque), attribute), value, bytes, written);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t opaque, size_t size, cublasComputeType_t compute,
                                               cudaDataType_t scale)
{
    description *what = get(opaque);

    if (size < sizeof(*opaque))
        return CUBLAS_STATUS_ALLOC_FAILED;
    memset(static_cast<void *>(opaque), 0, sizeof(*opaque));
    what->compute = compute;
    what->scale_type = scale;
    what->fill = CUBLAS_FILL_MODE_FULL;
    what->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    what->aux_type = what->bias_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *opaque, cublasComputeType_t compute, cudaDataType_t scale)
{
    *opaque = new cublasLtMatmulDescOpaque_t;
    return cublasLtMatmulDescInit_internal(*opaque, sizeof(**opaque), compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t opaque) { return destroy(opaque); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    return put(field_of(get(opaque), attribute), value, bytes);
}

cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t opaque, cublasLtMatmulDescAttributes_t attribute, void *value,
                                              size_t bytes, size_t *written)
{
    return take(field_of(get(opaque), attribute), value, bytes, written);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t opaque, size_t size)
{
    if (size < sizeof(*opaque))
        return CUBLAS_STATUS_ALLOC_FAILED;
    memset(static_cast<void *>(opaque), 0, sizeof(*opaque));
    *get(opaque) = { CUBLASLT_SEARCH_BEST_FIT, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256, 0, (uint64_t)-1, 0 };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *opaque)
{
    *opaque = new cublasLtMatmulPreferenceOpaque_t;
    return cublasLtMatmulPreferenceInit_internal(*opaque, sizeof(**opaque));
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t opaque) { return destroy(opaque); }

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value, size_t bytes)
{
    return put(field_of(get(opaque), attribute), value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, void *value, size_t bytes,
                                                    size_t *written)
{
    return take(field_of(get(opaque), attribute), value, bytes, written);
}

/* ---- the product --------------------------------------------------------------------------------------------------- */

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t what, cublasLtMatrixLayout_t a_of,
                                              cublasLtMatrixLayout_t b_of, cublasLtMatrixLayout_t c_of,
                                              cublasLtMatrixLayout_t d_of, cublasLtMatmulPreference_t wish, int requested,
                                              cublasLtMatmulHeuristicResult_t result[], int *found)
{
    product p = {};
    algorithm chosen;
    cublasStatus_t status;

    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!what || !a_of || !b_of || !c_of || !d_of || !wish || requested <= 0 || !result || !found)
        return CUBLAS_STATUS_INVALID_VALUE;
    *found = 0;
    if (fails("cublasLtMatmulAlgoGetHeuristic"))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    p.what = *get(what);
    p.a_of = *get(a_of);
    p.b_of = *get(b_of);
    p.c_of = *get(c_of);
    p.d_of = *get(d_of);
    status = check(&p);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = choose(p, *get(wish), &chosen);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    memset(static_cast<void *>(result), 0, sizeof(result[0]));
    memcpy(static_cast<void *>(&result[0].algo), &chosen, sizeof(chosen));
    result[0].workspaceSize = chosen.workspace;
    result[0].state = CUBLAS_STATUS_SUCCESS;
    result[0].wavesCount = 1;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t what, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_of, const void *b, cublasLtMatrixLayout_t b_of, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_of, void *d, cublasLtMatrixLayout_t d_of,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    cublasContext *context = reinterpret_cast<cublasContext *>(handle);
    product p = {};
    algorithm with = {};
    device *of;
    cublasStatus_t status;

    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!what || !alpha || !beta || !a || !b || !d || !a_of || !b_of || !c_of || !d_of)
        return complain("an argument is NULL");
    if (fails("cublasLtMatmul"))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (device_of(stream, &of) || of != context->of)
        return complain("the stream is of another device than the handle");
    p.what = *get(what);
    p.a_of = *get(a_of);
    p.b_of = *get(b_of);
    p.c_of = *get(c_of);
    p.d_of = *get(d_of);
    p.a = a;
    p.b = b;
    p.c = c;
    p.d = d;
    status = check(&p);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (p.what.pointer_mode == CUBLASLT_POINTER_MODE_DEVICE) {
        p.alpha_at = static_cast<const float *>(alpha);
        p.beta_at = static_cast<const float *>(beta);
    } else {
        p.alpha = *static_cast<const float *>(alpha);
        p.beta = *static_cast<const float *>(beta);
    }
    if (algo) {
        memcpy(&with, algo, sizeof(with));
        if (with.magic != MAGIC || with.question != question_of(p))
            return complain("the algorithm is for another product");
        if (alignment_of(a) < with.align_a || alignment_of(b) < with.align_b || alignment_of(c) < with.align_c ||
            alignment_of(d) < with.align_d || (p.has_aux() && alignment_of(p.what.aux) < with.align_aux) ||
            ((p.takes_bias() || p.gives_bias()) && alignment_of(p.what.bias) < with.align_bias))
            return complain("the algorithm is for addresses that are aligned better");
        if (workspace_bytes < with.workspace)
            return complain("the workspace is smaller than the algorithm wants");
    } else {
        preference wish = { 0, 0, alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d), workspace_bytes, 0, 0 };

        status = choose(p, wish, &with);
        if (status != CUBLAS_STATUS_SUCCESS)
            return status;
    }
    if (((p.takes_bias() || p.gives_bias()) && !p.what.bias) || (p.has_aux() && !p.what.aux))
        return complain("the epilogue's bias or aux is NULL");
    if (c == d && p.c_of.ld != p.d_of.ld)
        return complain("C is D, in another layout");
    auto must_be_there = [=](const void *at, const layout &matrix) {
        must_be_allocated("cublasLtMatmul", of, at,
                          (size_t)(matrix.stride * (matrix.batch - 1)) * size_of(matrix.type) + span(matrix));
    };
    must_be_there(a, p.a_of);
    must_be_there(b, p.b_of);
    must_be_there(d, p.d_of);
    if (p.beta != 0)
        must_be_there(c, p.c_of);
    if (p.has_aux())
        must_be_allocated("cublasLtMatmul", of, p.what.aux, p.aux_bytes());
    if (p.takes_bias() || p.gives_bias())
        must_be_allocated("cublasLtMatmul", of, p.what.bias, p.bias_length() * size_of(p.d_of.type));
    if (with.workspace > 0)
        must_be_allocated("cublasLtMatmul", of, workspace, with.workspace);
    return enqueue(stream, [p, workspace, with]() mutable {
        if (p.alpha_at) {
            p.alpha = *p.alpha_at;
            p.beta = *p.beta_at;
        }
        /* Nobody else may have it meanwhile. */
        if (with.workspace > 0)
            memset(workspace, POISON, with.workspace);
        for (int k = 0; k < p.d_of.batch; k++)
            p.run(k);
    }) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}
