bin_PROGRAMS += orrery
orrery_SOURCES = \
	tools/bench_generate.c \
	tools/bench_generate.h \
	tools/cmd_bench.c \
	tools/cmd_convert.c \
	tools/cmd_eval.c \
	tools/cmd_generate.c \
	tools/cmd_grads.c \
	tools/cmd_info.c \
	tools/cmd_logits.c \
	tools/cmd_selftest.c \
	tools/cmd_tokenize.c \
	tools/cmd_trace.c \
	tools/cmd_train.c \
	tools/common.c \
	tools/compare.c \
	tools/compare.h \
	tools/generated.c \
	tools/generated.h \
	tools/options.c \
	tools/options.h \
	tools/orrery.c \
	tools/process.c \
	tools/process.h \
	tools/selftest.h \
	tools/selftest_golden.c \
	tools/selftest_training.c \
	tools/supervise.c \
	tools/supervise.h \
	tools/tasks.c \
	tools/tasks.h \
	tools/tools.h
orrery_LDADD = liborrery.la $(JANSSON_LIBS) -lm
if HAVE_CUDA
orrery_SOURCES += tools/selftest_blocks.c
orrery_LDADD += $(cuda_emulation) $(CUDA_LIBS)
else
EXTRA_DIST += tools/selftest_blocks.c
endif

# What `orrery bench --against` starts; configure links to it in the build folder, where an orrery that is not installed looks.
dist_pkgdata_DATA = tools/bench/gpt2_pytorch.py

# What `orrery selftest` compares a device with.
goldendir = $(pkgdatadir)/golden/gpt2-small
dist_golden_DATA = \
	tests/golden/gpt2-small/bf16.safetensors \
	tests/golden/gpt2-small/config.json \
	tests/golden/gpt2-small/golden.safetensors \
	tests/golden/gpt2-small/input.json \
	tests/golden/gpt2-small/model.safetensors
