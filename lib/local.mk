apiorrery_HEADERS += \
	lib/orrery/block.h \
	lib/orrery/checkpoint.h \
	lib/orrery/config.h \
	lib/orrery/data.h \
	lib/orrery/dtype.h \
	lib/orrery/error.h \
	lib/orrery/infer.h \
	lib/orrery/mesh.h \
	lib/orrery/model.h \
	lib/orrery/orrery.h \
	lib/orrery/report.h \
	lib/orrery/rng.h \
	lib/orrery/runtime.h \
	lib/orrery/safetensors.h \
	lib/orrery/tile.h \
	lib/orrery/tokenizer.h \
	lib/orrery/train.h \
	lib/orrery/trainer.h

liborri_la_SOURCES += \
	lib/core/core.h \
	lib/core/dtype.c \
	lib/core/error.c \
	lib/core/memory.c \
	lib/core/rng.c \
	lib/core/runtime.c \
	lib/data/corpus.c \
	lib/data/sampler.c \
	lib/graph/graph.h \
	lib/graph/model.c \
	lib/graph/slots.c \
	lib/graph/submit.c \
	lib/graph/tape.c \
	lib/infer/generate.c \
	lib/infer/predict.c \
	lib/io/config.c \
	lib/io/file.c \
	lib/io/io.h \
	lib/io/json.c \
	lib/io/json.h \
	lib/io/safetensors.c \
	lib/report/memory.c \
	lib/report/metrics.c \
	lib/report/progress.c \
	lib/text/bytes.c \
	lib/text/text.h \
	lib/text/tokenizer.c \
	lib/tile/mesh.c \
	lib/tile/tile.c \
	lib/train/checkpoint.c \
	lib/train/evaluation.c \
	lib/train/optimizer.c \
	lib/train/schedule.c \
	lib/train/step.c \
	lib/train/train.h \
	lib/train/trainer.c \
	lib/train/update.c
