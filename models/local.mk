nobase_api_HEADERS += models/bert.h models/family.h models/gpt2.h models/llama.h models/task.h
liborri_la_SOURCES += models/bert.c models/family.c models/gpt2.c models/keys.c models/keys.h models/llama.c models/task.c
