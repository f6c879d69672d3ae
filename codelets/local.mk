liborri_la_SOURCES += \
	codelets/math/math.h
