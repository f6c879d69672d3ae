nobase_api_HEADERS += \
	codelets/layer.h \
	codelets/attention/attention.h \
	codelets/cross/cross.h \
	codelets/embedding/embedding.h \
	codelets/head/head.h \
	codelets/mlp/mlp.h \
	codelets/norm/norm.h

liborri_la_SOURCES += \
	codelets/attention/attention.c \
	codelets/cross/cross.c \
	codelets/embedding/embedding.c \
	codelets/head/head.c \
	codelets/math/attention.c \
	codelets/math/attention_next.c \
	codelets/math/attention_cuda.h \
	codelets/math/cross_entropy.c \
	codelets/math/dropout.c \
	codelets/math/elements.h \
	codelets/math/activation.c \
	codelets/math/gemm.c \
	codelets/math/gemm_cuda.h \
	codelets/math/kernels.h \
	codelets/math/kernels_cpu.c \
	codelets/math/math.h \
	codelets/math/math_cpu.h \
	codelets/math/math_cuda.h \
	codelets/math/norm.c \
	codelets/math/operands.c \
	codelets/math/operands.h \
	codelets/math/philox_cuda.h \
	codelets/math/ptx_cuda.h \
	codelets/math/product_cpu.h \
	codelets/math/product_onednn.c \
	codelets/math/product_rows.c \
	codelets/math/residual.c \
	codelets/math/residual.h \
	codelets/math/residual_passes.h \
	codelets/math/rotary.c \
	codelets/math/rows.c \
	codelets/math/simd_math.h \
	codelets/math/small_product.c \
	codelets/math/small_product.h \
	codelets/math/small_product_level.h \
	codelets/mlp/mlp.c \
	codelets/norm/norm.c

# Kernels on a CUDA device.
CUDA_SOURCES += \
	codelets/math/activation_cuda.cu \
	codelets/math/attention_cuda.cu \
	codelets/math/attention_cudnn_cuda.cu \
	codelets/math/attention_next_cuda.cu \
	codelets/math/attention_plain_cuda.cu \
	codelets/math/attention_tensor_cuda.cu \
	codelets/math/cross_entropy_cuda.cu \
	codelets/math/gather_cuda.cu \
	codelets/math/norm_cuda.cu \
	codelets/math/rows_cuda.cu
if HAVE_CUDA
liborri_la_SOURCES += codelets/math/gemm_cuda.c
endif
