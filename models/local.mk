nobase_api_HEADERS += models/family.h models/gpt2.h models/llama.h models/t5.h
liborri_la_SOURCES += models/family.c models/gpt2.c models/keys.c models/keys.h models/llama.c models/t5.c
