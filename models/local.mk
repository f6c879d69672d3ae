nobase_api_HEADERS += models/gpt2.h
liborri_la_SOURCES += models/gpt2.c
