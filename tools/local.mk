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
	tools/options.c \
	tools/options.h \
	tools/orrery.c \
	tools/process.c \
	tools/process.h \
	tools/supervise.c \
	tools/supervise.h \
	tools/tools.h
orrery_LDADD = liborrery.la $(JANSSON_LIBS)
