liborri_la_SOURCES += \
	codelets/math/math.h \
	codelets/math/simd_math.h \
	codelets/math/attention.c \
	codelets/math/cross_entropy.c \
	codelets/math/dropout.c \
	codelets/math/gelu.c \
	codelets/math/gemm.c \
	codelets/math/norm.c \
	codelets/math/rows.c
