/* SPDX-License-Identifier: Apache-2.0 */
/* cuBLASLt's matrices are column-major. A row-major matrix is the transpose of a column-major one with the same row stride, so
 * that C = A B is asked for as C^T = B^T A^T: the library's A is our B, its m our n, and a bias for its rows one for our
 * columns. */
#include "codelets/math/gemm_cuda.h"

#include <cublasLt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* ---- which way ------------------------------------------------------------------------------------------------ */

enum {
    AUX_UNIT = 8,           /* elements that the row stride of aux is a multiple of, in the library   */
    VECTOR_ALIGNED = 16     /* bytes that bias and aux are multiples of there                         */
};

static int alignment(const void *pointer)
{
    uintptr_t bits = (uintptr_t)pointer | ORRI_MOST_ALIGNED;

    return (int)(bits & -bits);
}

struct orri_product_way orri_product_way(const struct orri_product *p)
{
    bool epilogue = p->epilogue != ORRI_EPILOGUE_NONE, other = epilogue && p->activation != ORR_GELU_TANH;
    struct orri_product_way way = {
        .a = alignment(p->a),
        .b = alignment(p->b),
        .c = alignment(p->c),
        .add = alignment(p->add),
        .bias = alignment(p->bias),
        .aux = alignment(epilogue ? p->aux : NULL),
    };

    way.fused = (p->bias || epilogue) && !other && way.bias >= VECTOR_ALIGNED &&
                (!epilogue || (p->ldc % AUX_UNIT == 0 && way.aux >= VECTOR_ALIGNED)) &&
                !(p->bias && p->epilogue == ORRI_EPILOGUE_ACTIVATION_BACKWARD);
    return way;
}

/* ---- what a worker has asked before ---------------------------------------------------------------------------- */

/* All that the choice of an algorithm depends on. Compared as bytes. */
struct key {
    void *library;
    int trans_a, trans_b, m, n, k, lda, ldb, ldc;
    int dtype, c_dtype, compute, epilogue;
    int adds, in_place;                     /* is something added; and does C hold it, or nothing is?       */
    int a, b, c, add, bias, aux;            /* alignments                                                   */
};
_Static_assert(sizeof(struct key) == sizeof(void *) + 20 * sizeof(int), "no padding");

struct matmul {
    struct key key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c, add;    /* of our A, B, C; add is c where the product is made in place  */
    cublasStatus_t found;                   /* whether the library has an algorithm                         */
    cublasLtMatmulAlgo_t algorithm;
};

/* Open addressing, at most half full. */
struct table {
    size_t size, used;
    struct matmul **slot;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t table_key;
static _Thread_local struct table *mine;

static void free_matmul(struct matmul *matmul)
{
    if (matmul->operation)
        cublasLtMatmulDescDestroy(matmul->operation);
    if (matmul->a)
        cublasLtMatrixLayoutDestroy(matmul->a);
    if (matmul->b)
        cublasLtMatrixLayoutDestroy(matmul->b);
    if (matmul->add != matmul->c)
        cublasLtMatrixLayoutDestroy(matmul->add);
    if (matmul->c)
        cublasLtMatrixLayoutDestroy(matmul->c);
    free(matmul);
}

static void free_table(void *data)
{
    struct table *table = data;

    for (size_t i = 0; i < table->size; i++)
        if (table->slot[i])
            free_matmul(table->slot[i]);
    free(table->slot);
    free(table);
}

static void create_key(void)
{
    if (pthread_key_create(&table_key, free_table) != 0)
        abort();
}

static struct matmul **slot_of(const struct table *table, const struct key *key)
{
    size_t i = (size_t)orri_hash(ORRI_HASH, key, sizeof(*key)) & (table->size - 1);

    while (table->slot[i] && memcmp(&table->slot[i]->key, key, sizeof(*key)) != 0)
        i = (i + 1) & (table->size - 1);
    return &table->slot[i];
}

/* Of the calling thread, with room for one more. As with orri_scratch(), a codelet that finds no memory cannot go on. */
static struct table *table_of_thread(void)
{
    struct table larger = {mine ? mine->size : 32, mine ? mine->used : 0, NULL};

    if (mine && 2 * (mine->used + 1) <= mine->size)
        return mine;
    larger.size *= 2;
    larger.slot = calloc(larger.size, sizeof(*larger.slot));
    if (!larger.slot)
        abort();
    if (!mine) {
        pthread_once(&once, create_key);
        mine = calloc(1, sizeof(*mine));
        if (!mine || pthread_setspecific(table_key, mine) != 0)
            abort();
    }
    for (size_t i = 0; i < mine->size; i++)
        if (mine->slot[i])
            *slot_of(&larger, &mine->slot[i]->key) = mine->slot[i];
    free(mine->slot);
    *mine = larger;
    return mine;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static cudaDataType_t type_of(int dtype)
{
    return dtype == ORR_BF16 ? CUDA_R_16BF : dtype == ORR_F16 ? CUDA_R_16F : CUDA_R_32F;
}

static cublasLtEpilogue_t epilogue_of(const struct orri_product *p)
{
    switch (p->epilogue) {
    case ORRI_EPILOGUE_ACTIVATION: return p->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case ORRI_EPILOGUE_ACTIVATION_BACKWARD: return CUBLASLT_EPILOGUE_DGELU;
    default: return p->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    }
}

static struct key key_of(const struct orr_cuda *cuda, const struct orri_product *p)
{
    const struct orri_product_way way = orri_product_way(p);
    bool tf32 = cuda->tf32 && p->dtype == ORR_F32;

    return (struct key){
        cuda->blas, p->trans_a, p->trans_b, p->m, p->n, p->k, p->lda, p->ldb, p->ldc, (int)p->dtype, (int)p->c_dtype,
        tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, (int)epilogue_of(p), p->add != NULL,
        !p->add || p->add == p->c, way.a, way.b, way.c, way.add, way.bias, way.aux,
    };
}

static bool done(struct orr_cuda *cuda, cublasStatus_t status, const char *call, const struct key *key)
{
    char reason[160];

    if (status == CUBLAS_STATUS_SUCCESS)
        return true;
    snprintf(reason, sizeof(reason), "%s for %d x %d x %d of %s, %d bytes", cublasLtGetStatusName(status), key->m, key->n, key->k,
             orr_dtype_name((enum orr_dtype)key->dtype), ORR_CUDA_WORKSPACE);
    orr_cuda_fail(cuda, call, reason);
    return false;
}

static bool set(struct orr_cuda *cuda, const struct matmul *matmul, cublasLtMatmulDescAttributes_t what, const void *value,
                size_t size)
{
    return done(cuda, cublasLtMatmulDescSetAttribute(matmul->operation, what, value, size), "cublasLtMatmulDescSetAttribute",
                &matmul->key);
}

/* Where bias and aux are: in every call elsewhere. */
static bool set_pointers(struct orr_cuda *cuda, const struct matmul *matmul, const struct orri_product *p)
{
    return (!p->bias || set(cuda, matmul, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof(p->bias))) &&
           (p->epilogue == ORRI_EPILOGUE_NONE ||
            set(cuda, matmul, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p->aux, sizeof(p->aux)));
}

static bool describe_operation(struct orr_cuda *cuda, struct matmul *matmul, const struct orri_product *p)
{
    const struct key *key = &matmul->key;
    int32_t a = p->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, b = p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, epilogue = key->epilogue;
    int64_t ld = p->ldc;

    return done(cuda, cublasLtMatmulDescCreate(&matmul->operation, (cublasComputeType_t)key->compute, CUDA_R_32F),
                "cublasLtMatmulDescCreate", key) &&
           set(cuda, matmul, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof(a)) &&
           set(cuda, matmul, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof(b)) &&
           set(cuda, matmul, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)) &&
           (p->epilogue == ORRI_EPILOGUE_NONE ||
            set(cuda, matmul, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof(ld))) &&
           set_pointers(cuda, matmul, p);
}

/* Of a row-major matrix [rows,columns]. */
static bool describe_matrix(struct orr_cuda *cuda, const struct key *key, cublasLtMatrixLayout_t *matrix, enum orr_dtype dtype,
                            int rows, int columns, int ld)
{
    return done(cuda, cublasLtMatrixLayoutCreate(matrix, type_of((int)dtype), (uint64_t)columns, (uint64_t)rows, ld),
                "cublasLtMatrixLayoutCreate", key);
}

static bool describe_matrices(struct orr_cuda *cuda, struct matmul *matmul, const struct orri_product *p)
{
    const struct key *key = &matmul->key;

    if (!describe_matrix(cuda, key, &matmul->a, p->dtype, p->trans_a ? p->k : p->m, p->trans_a ? p->m : p->k, p->lda) ||
        !describe_matrix(cuda, key, &matmul->b, p->dtype, p->trans_b ? p->n : p->k, p->trans_b ? p->k : p->n, p->ldb) ||
        !describe_matrix(cuda, key, &matmul->c, p->c_dtype, p->m, p->n, p->ldc))
        return false;
    matmul->add = matmul->c;
    return key->in_place || describe_matrix(cuda, key, &matmul->add, p->c_dtype, p->m, p->n, p->ldc);
}

/* Partial sums of a product that the library splits stay fp32, and are added in an order of its own. */
static cublasStatus_t prefer(cublasLtMatmulPreference_t preference, const struct key *key)
{
    const uint64_t workspace = ORR_CUDA_WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)(key->in_place ? key->c : key->add)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->c},
    };
    cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                                 sizeof(workspace));

    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                                      sizeof(schemes));
    for (size_t i = 0; i < ORRI_COUNT(alignments) && status == CUBLAS_STATUS_SUCCESS; i++)
        status = cublasLtMatmulPreferenceSetAttribute(preference, alignments[i].what, &alignments[i].bytes,
                                                      sizeof(alignments[i].bytes));
    return status;
}

static bool find_algorithm(struct orr_cuda *cuda, struct matmul *matmul)
{
    const struct key *key = &matmul->key;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result = {0};
    int results = 0;

    if (!done(cuda, cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate", key))
        return false;
    bool preferred = done(cuda, prefer(preference, key), "cublasLtMatmulPreferenceSetAttribute", key);
    if (preferred) {
        matmul->found = cublasLtMatmulAlgoGetHeuristic(key->library, matmul->operation, matmul->b, matmul->a, matmul->add,
                                                       matmul->c, preference, 1, &result, &results);
        if (matmul->found == CUBLAS_STATUS_SUCCESS)
            matmul->found = results > 0 ? result.state : CUBLAS_STATUS_NOT_SUPPORTED;
        matmul->algorithm = result.algo;
    }
    cublasLtMatmulPreferenceDestroy(preference);
    return preferred;
}

/* NULL: it failed. */
static struct matmul *matmul_of(struct orr_cuda *cuda, const struct orri_product *p)
{
    const struct key key = key_of(cuda, p);
    struct table *table = table_of_thread();
    struct matmul **slot = slot_of(table, &key);

    if (*slot)
        return set_pointers(cuda, *slot, p) ? *slot : NULL;
    struct matmul *matmul = calloc(1, sizeof(*matmul));
    if (!matmul)
        abort();
    matmul->key = key;
    if (!describe_operation(cuda, matmul, p) || !describe_matrices(cuda, matmul, p) || !find_algorithm(cuda, matmul)) {
        free_matmul(matmul);
        return NULL;
    }
    table->used++;
    return *slot = matmul;
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

/* False where the library has no algorithm, which is a failure unless there is another way. */
static bool multiply(struct orr_cuda *cuda, const struct orri_product *p, bool another)
{
    struct matmul *matmul = matmul_of(cuda, p);
    const float one = 1, beta = p->add ? 1 : 0;

    if (!matmul)
        return true;
    if (matmul->found != CUBLAS_STATUS_SUCCESS)
        return !another && done(cuda, matmul->found, "cublasLtMatmulAlgoGetHeuristic", &matmul->key);
    done(cuda, cublasLtMatmul(cuda->blas, matmul->operation, &one, p->b, matmul->b, p->a, matmul->a, &beta,
                              p->add ? p->add : p->c, matmul->add, p->c, matmul->c, &matmul->algorithm, cuda->workspace,
                              ORR_CUDA_WORKSPACE, cuda->stream), "cublasLtMatmul", &matmul->key);
    return true;
}

/* Product, bias and epilogue one after the other. A bias is the first, as something to add to, so that a sum is rounded once. */
static void multiply_in_steps(struct orr_cuda *cuda, const struct orri_product *p)
{
    struct orri_product plain = *p;
    char *u = p->epilogue == ORRI_EPILOGUE_ACTIVATION ? p->aux : p->c;
    bool whole = p->ldc == p->n;            /* or each row is a matrix */
    int rows = whole ? p->m : 1;
    size_t end = (size_t)p->m, step = whole ? end : 1, stride = (size_t)p->ldc * orr_dtype_size(p->dtype);

    plain.bias = NULL;
    plain.epilogue = ORRI_EPILOGUE_NONE;
    plain.c = u;
    for (size_t r = 0; p->bias && !p->add && r < end; r += step) {
        orri_cuda_bias_rows(cuda, p->dtype, rows, p->n, NULL, p->bias, u + r * stride);
        plain.add = u;
    }
    multiply(cuda, &plain, false);
    for (size_t r = 0; p->bias && p->add && r < end; r += step)
        orri_cuda_bias_rows(cuda, p->dtype, rows, p->n, u + r * stride, p->bias, u + r * stride);
    for (size_t r = 0; p->epilogue == ORRI_EPILOGUE_ACTIVATION && r < end; r += step)
        orri_cuda_activate(cuda, p->dtype, p->activation, (size_t)rows * (size_t)p->n, u + r * stride, (char *)p->c + r * stride);
    for (size_t r = 0; p->epilogue == ORRI_EPILOGUE_ACTIVATION_BACKWARD && r < end; r += step)
        orri_cuda_activate_backward(cuda, p->dtype, p->activation, (size_t)rows * (size_t)p->n, u + r * stride,
                                    (char *)p->aux + r * stride, u + r * stride);
}

void orri_cuda_gemm(struct orr_cuda *cuda, const struct orri_product *product)
{
    if (cuda->code || (orri_product_way(product).fused && multiply(cuda, product, true)))
        return;
    multiply_in_steps(cuda, product);
}
