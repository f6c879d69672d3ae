apiorrery_HEADERS += \
	lib/orrery/error.h \
	lib/orrery/rng.h

liborri_la_SOURCES += \
	lib/core/core.h \
	lib/core/error.c \
	lib/core/memory.c \
	lib/core/rng.c
