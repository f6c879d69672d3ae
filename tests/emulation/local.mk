# The emulated CUDA device of --enable-cuda-emulation: README.md tells what it is. Its include folder comes before the toolkit's
# and before lib/ where .cu files are compiled, its library before StarPU, whose calls of the CUDA runtime it takes.
EXTRA_DIST += tests/emulation/README.md
if CUDA_EMULATION
cuda_emulation = tests/emulation/libcuda_emulation.la
noinst_LTLIBRARIES += $(cuda_emulation)
endif
if CUDA_EMULATION
check_PROGRAMS += tests/emulation/test_blas tests/emulation/test_kernels tests/emulation/test_runtime tests/emulation/test_starpu
-include tests/emulation/test_blas.d tests/emulation/test_kernels.d tests/emulation/test_runtime.d tests/emulation/triple.d
endif
tests_emulation_test_blas_SOURCES = tests/emulation/test_blas.cu tests/emulation/forked.h tests/math/gelu.h
tests_emulation_test_kernels_SOURCES = tests/emulation/test_kernels.cu tests/emulation/forked.h
tests_emulation_test_runtime_SOURCES = tests/emulation/test_runtime.cu tests/emulation/forked.h
tests_emulation_test_starpu_SOURCES = tests/emulation/test_starpu.c tests/emulation/triple.cu tests/emulation/triple.h
CLEANFILES += tests/emulation/*.d

tests_emulation_libcuda_emulation_la_SOURCES = \
	tests/emulation/blas.cpp \
	tests/emulation/blocks.cpp \
	tests/emulation/emulation.h \
	tests/emulation/errors.cpp \
	tests/emulation/memory.cpp \
	tests/emulation/streams.cpp \
	tests/emulation/include/codelets/math/ptx_cuda.h \
	tests/emulation/include/core/device_cuda.h \
	tests/emulation/include/cub/cub.cuh \
	tests/emulation/include/cub/device/device_radix_sort.cuh \
	tests/emulation/include/cuda_bf16.h \
	tests/emulation/include/cuda_fp16.h \
	tests/emulation/include/cuda_runtime.h \
	tests/emulation/include/emulation/intrinsics.h \
	tests/emulation/include/emulation/kernel.h
tests_emulation_libcuda_emulation_la_CPPFLAGS = -I$(top_srcdir)/tests/emulation/include $(CUDA_CPPFLAGS) $(BLAS_CFLAGS)
tests_emulation_libcuda_emulation_la_CXXFLAGS = $(EMULATION_CXXFLAGS)
# A shared library that stays in the build tree.
tests_emulation_libcuda_emulation_la_LDFLAGS = -rpath /nowhere -avoid-version -shared
tests_emulation_libcuda_emulation_la_LIBADD = $(BLAS_LIBS) -lpthread -ldl
