dist_man_MANS += docs/orrery.1
EXTRA_DIST += \
	docs/adding-a-block.md \
	docs/benchmarks.md \
	docs/build.md \
	docs/codelets.md \
	docs/core.md \
	docs/data.md \
	docs/environment.md \
	docs/gpu.md \
	docs/graph.md \
	docs/infer.md \
	docs/io.md \
	docs/many-cores.md \
	docs/models.md \
	docs/parallel.md \
	docs/performance.md \
	docs/pipeline.md \
	docs/report.md \
	docs/text.md \
	docs/tile.md \
	docs/tools.md \
	docs/trace.md \
	docs/train.md
