apiorrery_HEADERS += \
	lib/orrery/data.h \
	lib/orrery/dtype.h \
	lib/orrery/error.h \
	lib/orrery/orrery.h \
	lib/orrery/rng.h \
	lib/orrery/safetensors.h \
	lib/orrery/tokenizer.h

liborri_la_SOURCES += \
	lib/core/core.h \
	lib/core/dtype.c \
	lib/core/error.c \
	lib/core/memory.c \
	lib/data/corpus.c \
	lib/data/sampler.c \
	lib/io/file.c \
	lib/io/io.h \
	lib/io/json.c \
	lib/io/json.h \
	lib/io/safetensors.c \
	lib/text/bytes.c \
	lib/text/text.h \
	lib/text/tokenizer.c
