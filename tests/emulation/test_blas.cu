/* SPDX-License-Identifier: Apache-2.0 */
/* The emulated cuBLASLt against plain loops. */
#include "forked.h"

#include <cublasLt.h>
#include <cublas_v2.h>
#include <vector>

#include "tests/math/gelu.h"

enum { M = 24, N = 16, K = 40 };

#define BLAS_OK(call) ck_assert_str_eq(cublasGetStatusName(call), "CUBLAS_STATUS_SUCCESS")

/* D[m,n] = alpha op(A) op(B) + beta C and what follows, column-major. */
struct product {
    int m = M, n = N, k = K;
    bool trans_a = false, trans_b = false;
    cudaDataType type = CUDA_R_32F, d_type = CUDA_R_32F;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    float alpha = 1, beta = 0;
    bool in_place = false;      /* C is D */
    int pad = 0;                /* of leading dimensions */
    int shift = 0;              /* of A's address, in elements */
    uint32_t aligned = 256;     /* what the preference promises */
    int aux_ld = 0;             /* m */
};

static float value(int salt, int k)
{
    return (float)((k * 37 + salt * 11) % 23 - 11) / 8.0f;
}

static size_t size_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float rounded(cudaDataType type, float x)
{
    return type == CUDA_R_16BF ? __bfloat162float(__float2bfloat16(x)) : type == CUDA_R_16F ? __half2float(__float2half(x)) : x;
}

/* An array of elements on the device, and its values on the host. */
struct array {
    cudaDataType type;
    std::vector<float> x;
    void *at;

    array(cudaDataType t, size_t count, int salt) : type(t)
    {
        std::vector<char> bytes(count * size_of(t));

        for (size_t k = 0; k < count; k++) {
            x.push_back(rounded(t, value(salt, (int)k)));
            if (t == CUDA_R_16BF)
                reinterpret_cast<__nv_bfloat16 *>(bytes.data())[k] = __float2bfloat16(x[k]);
            else if (t == CUDA_R_16F)
                reinterpret_cast<__half *>(bytes.data())[k] = __float2half(x[k]);
            else
                reinterpret_cast<float *>(bytes.data())[k] = x[k];
        }
        at = on_device<char>(bytes.size(), bytes.data());
    }

    std::vector<float> now() const
    {
        std::vector<char> bytes(x.size() * size_of(type));
        std::vector<float> y;

        to_host(bytes.data(), static_cast<char *>(at), bytes.size());
        for (size_t k = 0; k < x.size(); k++)
            y.push_back(type == CUDA_R_16BF ? __bfloat162float(reinterpret_cast<__nv_bfloat16 *>(bytes.data())[k])
                        : type == CUDA_R_16F ? __half2float(reinterpret_cast<__half *>(bytes.data())[k])
                                             : reinterpret_cast<float *>(bytes.data())[k]);
        return y;
    }
};

static void must_be_near(cudaDataType type, float x, double y)
{
    double tolerance = type == CUDA_R_32F ? 1e-5 : type == CUDA_R_16F ? 1e-3 : 8e-3;

    /* An assertion is a system call: one that holds is not made. */
    if (!(fabs(x - y) <= tolerance * (1 + fabs(y))))
        ck_abort_msg("%g is not %g", x, y);
}

/* The status of the heuristics, or of the product, whose result is then compared. */
static cublasStatus_t try_product(const product &p)
{
    cublasHandle_t blas;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a_of, b_of, d_of;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found;
    cudaStream_t stream;
    int count = 0, aux_ld = p.aux_ld ? p.aux_ld : p.m, lda = (p.trans_a ? p.k : p.m) + p.pad, ldb = (p.trans_b ? p.n : p.k) + p.pad;
    int ldd = p.m + p.pad;
    bool has_aux = p.epilogue & 128, reads_aux = (p.epilogue & CUBLASLT_EPILOGUE_DGELU) == CUBLASLT_EPILOGUE_DGELU;
    bool sums = p.epilogue & (16 | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB);
    array a(p.type, (size_t)lda * (p.trans_a ? p.m : p.k) + p.shift, 1), b(p.type, (size_t)ldb * (p.trans_b ? p.k : p.n), 2);
    array c(p.d_type, (size_t)ldd * p.n, 3), d(p.d_type, (size_t)ldd * p.n, 4), aux(p.d_type, (size_t)aux_ld * p.n, 5);
    array bias(p.d_type, (size_t)(p.m > p.n ? p.m : p.n), 6);
    void *a_at = static_cast<char *>(a.at) + p.shift * size_of(p.type), *workspace = on_device<char>(4 << 20);
    cublasOperation_t ta = p.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, tb = p.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    int64_t aux_ld64 = aux_ld;
    uint64_t allowed = 4 << 20;
    const array &added = p.in_place ? d : c;
    cublasStatus_t status;

    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    BLAS_OK(cublasCreate(&blas));
    BLAS_OK(cublasSetStream(blas, stream));
    handle = (cublasLtHandle_t)blas;
    BLAS_OK(cublasLtMatmulDescCreate(&what, p.compute, CUDA_R_32F));
    BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof(ta)));
    BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof(tb)));
    BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_EPILOGUE, &p.epilogue, sizeof(p.epilogue)));
    ck_assert_int_eq(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_EPILOGUE, &p.epilogue, 8),
                     CUBLAS_STATUS_INVALID_VALUE);
    if (sums || p.epilogue & CUBLASLT_EPILOGUE_BIAS)
        BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.at, sizeof(bias.at)));
    if (has_aux) {
        BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux.at, sizeof(aux.at)));
        BLAS_OK(cublasLtMatmulDescSetAttribute(what, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux_ld64, sizeof(aux_ld64)));
    }
    BLAS_OK(cublasLtMatrixLayoutCreate(&a_of, p.type, p.trans_a ? p.k : p.m, p.trans_a ? p.m : p.k, lda));
    BLAS_OK(cublasLtMatrixLayoutCreate(&b_of, p.type, p.trans_b ? p.n : p.k, p.trans_b ? p.k : p.n, ldb));
    BLAS_OK(cublasLtMatrixLayoutCreate(&d_of, p.d_type, p.m, p.n, ldd));
    BLAS_OK(cublasLtMatmulPreferenceCreate(&wish));
    BLAS_OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &allowed, sizeof(allowed)));
    BLAS_OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &p.aligned, sizeof(p.aligned)));
    status = cublasLtMatmulAlgoGetHeuristic(handle, what, a_of, b_of, d_of, d_of, wish, 1, &found, &count);
    ck_assert_int_eq(count, status == CUBLAS_STATUS_SUCCESS);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(handle, what, &p.alpha, a_at, a_of, b.at, b_of, &p.beta, added.at, d_of, d.at, d_of, &found.algo,
                                workspace, allowed, stream);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    CUDA_OK(cudaStreamSynchronize(stream));
    std::vector<float> result = d.now(), aux_now = aux.now(), bias_now = bias.now();
    std::vector<double> sum_d(p.m), sum_a(p.m), sum_b(p.n);
    for (int j = 0; j < p.n; j++)
        for (int i = 0; i < p.m; i++) {
            double s = 0;

            for (int k = 0; k < p.k; k++) {
                float x = a.x[p.shift + (p.trans_a ? i * lda + k : k * lda + i)], y = b.x[p.trans_b ? k * ldb + j : j * ldb + k];

                s += (double)x * y;
                sum_a[i] += j == 0 ? x : 0;
                sum_b[j] += i == 0 ? y : 0;
            }
            s *= p.alpha;
            if (p.beta != 0)
                s += p.beta * added.x[j * ldd + i];
            if (p.epilogue & CUBLASLT_EPILOGUE_BIAS)
                s += bias.x[i];
            if (has_aux && !reads_aux)
                must_be_near(p.d_type, aux_now[j * aux_ld + i], s);
            if (p.epilogue & CUBLASLT_EPILOGUE_GELU)
                s = gelu(s);
            if (reads_aux)
                s *= gelu_slope(aux.x[j * aux_ld + i]);
            sum_d[i] += s;
            must_be_near(p.d_type, result[j * ldd + i], s);
        }
    /* What lies between the columns is left alone. */
    for (int j = 0; j < p.n; j++)
        for (int i = p.m; i < ldd; i++)
            must_be_near(CUDA_R_32F, result[j * ldd + i], d.x[j * ldd + i]);
    if (p.epilogue & 16)
        for (int i = 0; i < p.m; i++)
            must_be_near(p.d_type, bias_now[i], sum_d[i]);
    else if (p.epilogue & CUBLASLT_EPILOGUE_BGRADA)
        for (int i = 0; i < p.m; i++)
            must_be_near(p.d_type, bias_now[i], sum_a[i]);
    else if (p.epilogue & CUBLASLT_EPILOGUE_BGRADB)
        for (int j = 0; j < p.n; j++)
            must_be_near(p.d_type, bias_now[j], sum_b[j]);
    BLAS_OK(cublasLtMatmulPreferenceDestroy(wish));
    BLAS_OK(cublasLtMatrixLayoutDestroy(a_of));
    BLAS_OK(cublasLtMatrixLayoutDestroy(b_of));
    BLAS_OK(cublasLtMatrixLayoutDestroy(d_of));
    BLAS_OK(cublasLtMatmulDescDestroy(what));
    BLAS_OK(cublasDestroy(blas));
    CUDA_OK(cudaStreamDestroy(stream));
    return status;
}

static const cudaDataType types[][2] = { { CUDA_R_32F, CUDA_R_32F }, { CUDA_R_16BF, CUDA_R_16BF }, { CUDA_R_16F, CUDA_R_16F },
                                         { CUDA_R_16BF, CUDA_R_32F }, { CUDA_R_16F, CUDA_R_32F } };

START_TEST(products)
{
    product p;

    p.type = types[_i][0];
    p.d_type = types[_i][1];
    for (int form = 0; form < 16; form++) {
        p.trans_a = form & 1;
        p.trans_b = form & 2;
        p.pad = form & 4 ? 3 : 0;
        p.beta = form & 8 ? 0.5f : 0;
        p.alpha = form & 8 ? 2 : 1;
        p.in_place = form % 3 == 0;
        BLAS_OK(try_product(p));
    }
    p.m = 1, p.n = 3, p.k = 1;
    BLAS_OK(try_product(p));
}
END_TEST

START_TEST(epilogues)
{
    static const cublasLtEpilogue_t all[] = { CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS,
                                              CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                              CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD,
                                              CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB };
    product p;

    p.type = types[_i][0];
    p.d_type = types[_i][1];
    for (cublasLtEpilogue_t epilogue : all)
        for (int form = 0; form < 4; form++) {
            p.epilogue = epilogue;
            p.trans_a = form & 1;
            p.trans_b = form & 2;
            p.pad = form == 3 ? 8 : 0;
            p.aux_ld = form == 2 ? M + 16 : 0;
            BLAS_OK(try_product(p));
        }
}
END_TEST

START_TEST(tf32_is_for_fp32)
{
    product p;

    p.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    BLAS_OK(try_product(p));    /* value()s are exact in TF32 */
    p.type = p.d_type = CUDA_R_16BF;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
}
END_TEST

/* A handle and what is needed for matrices of 2 x 2 in fp32, `batch` of them behind each other. */
struct small {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t of;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found;

    small(cublasComputeType_t compute, int32_t batch, int32_t order)
    {
        int64_t stride = 4;
        int count;

        BLAS_OK(cublasLtCreate(&handle));
        BLAS_OK(cublasLtMatmulDescCreate(&what, compute, CUDA_R_32F));
        BLAS_OK(cublasLtMatrixLayoutCreate(&of, CUDA_R_32F, 2, 2, 2));
        BLAS_OK(cublasLtMatrixLayoutSetAttribute(of, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
        BLAS_OK(cublasLtMatrixLayoutSetAttribute(of, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
        BLAS_OK(cublasLtMatrixLayoutSetAttribute(of, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof(order)));
        BLAS_OK(cublasLtMatmulPreferenceCreate(&wish));
        BLAS_OK(cublasLtMatmulAlgoGetHeuristic(handle, what, of, of, of, of, wish, 1, &found, &count));
        ck_assert_int_eq(count, 1);
    }

    cublasStatus_t multiply(const float *a, const float *b, float *c)
    {
        float one = 1, zero = 0;

        return cublasLtMatmul(handle, what, &one, a, of, b, of, &zero, c, of, c, of, &found.algo, NULL, 0, NULL);
    }
};

START_TEST(tf32_rounds)
{
    const float x[4] = { 1 + 0x1p-10f, 0, 0, 1 + 0x1p-12f }, one[4] = { 1, 0, 0, 1 };
    float y[4], *d = on_device<float>(4);
    small exact(CUBLAS_COMPUTE_32F, 1, CUBLASLT_ORDER_COL), rounded(CUBLAS_COMPUTE_32F_FAST_TF32, 1, CUBLASLT_ORDER_COL);

    BLAS_OK(exact.multiply(on_device(4, x), on_device(4, one), d));
    to_host(y, d, 4);
    ck_assert_mem_eq(y, x, sizeof(x));
    BLAS_OK(rounded.multiply(on_device(4, x), on_device(4, one), d));
    to_host(y, d, 4);
    ck_assert_float_eq(y[0], x[0]);
    ck_assert_float_eq(y[3], 1);
}
END_TEST

START_TEST(batches_and_rows)
{
    const float a[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, b[8] = { 1, 1, 0, 1, 2, 0, 0, 3 };
    const float rows[8] = { 1, 3, 3, 7, 10, 18, 14, 24 }, columns[8] = { 4, 6, 3, 4, 10, 12, 21, 24 };
    float y[8], *d = on_device<float>(8), *on_a = on_device(8, a), *on_b = on_device(8, b);

    BLAS_OK(small(CUBLAS_COMPUTE_32F, 2, CUBLASLT_ORDER_COL).multiply(on_a, on_b, d));
    to_host(y, d, 8);
    ck_assert_mem_eq(y, columns, sizeof(y));
    BLAS_OK(small(CUBLAS_COMPUTE_32F, 2, CUBLASLT_ORDER_ROW).multiply(on_a, on_b, d));
    to_host(y, d, 8);
    ck_assert_mem_eq(y, rows, sizeof(y));
}
END_TEST

START_TEST(an_algorithm_is_for_its_product)
{
    float *d = on_device<float>(12);
    small one(CUBLAS_COMPUTE_32F, 1, CUBLASLT_ORDER_COL), two(CUBLAS_COMPUTE_32F, 2, CUBLASLT_ORDER_COL);

    BLAS_OK(one.multiply(d, d + 4, d + 8));
    one.found = two.found;
    ck_assert_int_eq(one.multiply(d, d + 4, d + 8), CUBLAS_STATUS_INVALID_VALUE);
}
END_TEST

START_TEST(what_there_is_no_kernel_for)
{
    product p;

    p.type = p.d_type = CUDA_R_16BF;
    p.epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    p.aux_ld = M + 1;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
    p.aux_ld = 0;
    p.pad = 1;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
    p.pad = 0;
    p.aligned = 2;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
    p.epilogue = CUBLASLT_EPILOGUE_GELU_BIAS;
    p.shift = 1;
    BLAS_OK(try_product(p));
    /* An algorithm for better addresses than it is given. */
    p.aligned = 256;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_INVALID_VALUE);
    p.aligned = 1;
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
}
END_TEST

START_TEST(products_fail_on_demand)
{
    product p;

    setenv("ORRERY_EMULATED_FAIL", "cublasLtMatmul:2,cublasLtMatmulAlgoGetHeuristic:3", 1);
    BLAS_OK(try_product(p));
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_EXECUTION_FAILED);
    ck_assert_int_eq(try_product(p), CUBLAS_STATUS_NOT_SUPPORTED);
    BLAS_OK(try_product(p));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("cuBLASLt of the emulated device");
    TCase *tc = tcase_create("cuBLASLt");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, products, 0, sizeof(types) / sizeof(types[0]));
    tcase_add_loop_test(tc, epilogues, 0, sizeof(types) / sizeof(types[0]));
    tcase_add_test(tc, tf32_is_for_fp32);
    tcase_add_test(tc, tf32_rounds);
    tcase_add_test(tc, batches_and_rows);
    tcase_add_test(tc, an_algorithm_is_for_its_product);
    tcase_add_test(tc, what_there_is_no_kernel_for);
    tcase_add_test(tc, products_fail_on_demand);
    suite_add_tcase(s, tc);
    return s;
}
