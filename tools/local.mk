bin_PROGRAMS += orrery
orrery_SOURCES = \
	tools/cmd_bench.c \
	tools/cmd_eval.c \
	tools/cmd_generate.c \
	tools/cmd_grads.c \
	tools/cmd_info.c \
	tools/cmd_logits.c \
	tools/cmd_tokenize.c \
	tools/cmd_trace.c \
	tools/cmd_train.c \
	tools/common.c \
	tools/compare.c \
	tools/compare.h \
	tools/options.c \
	tools/options.h \
	tools/orrery.c \
	tools/process.c \
	tools/process.h \
	tools/supervise.c \
	tools/supervise.h \
	tools/tools.h
orrery_CPPFLAGS = $(AM_CPPFLAGS) -DPKGDATADIR='"$(pkgdatadir)"'
orrery_LDADD = liborrery.la $(JANSSON_LIBS)

# What `orrery bench --against` starts; configure links to it in the build folder, where an orrery that is not installed looks.
dist_pkgdata_DATA = tools/bench/gpt2_pytorch.py
