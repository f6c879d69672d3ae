EXTRA_DIST += \
	tests/golden/README.md \
	tests/golden/scores/scores.json \
	tests/reference/scores_reference.py \
	tests/golden/finetune/runs.json \
	tests/golden/generate/cases.json \
	tests/golden/gpt2-untied/config.json \
	tests/golden/gpt2-untied/golden.safetensors \
	tests/golden/gpt2-untied/input.json \
	tests/golden/gpt2-untied/model.safetensors \
	tests/golden/gpt2-classify/config.json \
	tests/golden/gpt2-classify/golden.safetensors \
	tests/golden/gpt2-classify/input.json \
	tests/golden/gpt2-classify/model.safetensors \
	tests/golden/llama-classify/config.json \
	tests/golden/llama-classify/golden.safetensors \
	tests/golden/llama-classify/input.json \
	tests/golden/llama-classify/model.safetensors \
	tests/golden/bert/config.json \
	tests/golden/bert/golden.safetensors \
	tests/golden/bert/input.json \
	tests/golden/bert/model.safetensors \
	tests/golden/bert-classify/config.json \
	tests/golden/bert-classify/golden.safetensors \
	tests/golden/bert-classify/input.json \
	tests/golden/bert-classify/model.safetensors \
	tests/golden/roberta-tag/config.json \
	tests/golden/roberta-tag/golden.safetensors \
	tests/golden/roberta-tag/input.json \
	tests/golden/roberta-tag/model.safetensors \
	tests/golden/distilbert/config.json \
	tests/golden/distilbert/golden.safetensors \
	tests/golden/distilbert/input.json \
	tests/golden/distilbert/model.safetensors \
	tests/golden/llama/config.json \
	tests/golden/llama/golden.safetensors \
	tests/golden/llama/input.json \
	tests/golden/llama/model.safetensors \
	tests/golden/llama-biased/config.json \
	tests/golden/llama-biased/golden.safetensors \
	tests/golden/llama-biased/input.json \
	tests/golden/llama-biased/model.safetensors \
	tests/golden/mistral/config.json \
	tests/golden/mistral/golden.safetensors \
	tests/golden/mistral/input.json \
	tests/golden/mistral/model.safetensors \
	tests/golden/qwen2/config.json \
	tests/golden/qwen2/golden.safetensors \
	tests/golden/qwen2/input.json \
	tests/golden/qwen2/model.safetensors \
	tests/reference/compare_hf.py \
	tests/reference/families_reference.py \
	tests/reference/finetune_reference.py \
	tests/reference/generate_reference.py \
	tests/reference/gpt2_reference.py \
	tests/golden/tokenizers/added.json \
	tests/golden/tokenizers/affixes.json \
	tests/golden/tokenizers/bert-cased.json \
	tests/golden/tokenizers/bert-uncased.json \
	tests/golden/tokenizers/gpt2-small.json \
	tests/golden/tokenizers/gpt4.json \
	tests/golden/tokenizers/llama2.json \
	tests/golden/tokenizers/llama3.json \
	tests/golden/tokenizers/metaspace.json \
	tests/golden/tokenizers/mistral.json \
	tests/golden/tokenizers/o200k.json \
	tests/golden/tokenizers/roberta.json \
	tests/golden/tokenizers/split.json \
	tests/golden/tokenizers/t5.json \
	tests/golden/tokenizers/trained.json \
	tests/golden/tokenizers/xlm-roberta.json \
	tests/reference/tokenizers_reference.py
# A test program defines `Suite *suite(void)` and takes its main from check_main.h. To add one: its name in
# check_PROGRAMS and its sources; all are linked to liborri, which has the internal functions too.
LDADD = liborri.la $(CHECK_LIBS)
# Tests run on the CPU, but for those of CUDA devices, which ask for them.
AM_TESTS_ENVIRONMENT = \
	OPENBLAS_NUM_THREADS=1; export OPENBLAS_NUM_THREADS; \
	STARPU_NCPU=2; export STARPU_NCPU; \
	STARPU_NCUDA=0; export STARPU_NCUDA; \
	STARPU_SILENT=1; export STARPU_SILENT; \
	OMPI_ALLOW_RUN_AS_ROOT=1; export OMPI_ALLOW_RUN_AS_ROOT; \
	OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM;

TESTS += $(check_PROGRAMS)

check_PROGRAMS += tests/test_rng
tests_test_rng_SOURCES = tests/core/test_rng.c tests/check_main.h

check_PROGRAMS += tests/test_convert
tests_test_convert_SOURCES = tests/core/test_convert.c tests/check_main.h

check_PROGRAMS += tests/test_cores
tests_test_cores_SOURCES = tests/core/test_cores.c tests/check_main.h

check_PROGRAMS += tests/test_kept
tests_test_kept_SOURCES = tests/core/test_kept.c tests/check_main.h

check_PROGRAMS += tests/test_team
tests_test_team_SOURCES = tests/math/test_team.c tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math
tests_test_math_SOURCES = tests/math/test_math.c tests/math/activation.h tests/math/gelu.h tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math_attention
tests_test_math_attention_SOURCES = tests/math/test_math_attention.c tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math_sight
tests_test_math_sight_SOURCES = tests/math/test_math_sight.c tests/math/reference.h tests/math/sight.h tests/check_main.h

check_PROGRAMS += tests/test_kernels_cpu
tests_test_kernels_cpu_SOURCES = tests/math/test_kernels_cpu.c tests/math/activation.h tests/math/gelu.h tests/math/reference.h \
	tests/check_main.h

check_PROGRAMS += tests/test_math_loss
tests_test_math_loss_SOURCES = tests/math/test_math_loss.c tests/math/reference.h tests/check_main.h

if HAVE_CUDA
check_PROGRAMS += tests/test_product_way
tests_test_product_way_SOURCES = tests/math/test_product_way.c tests/check_main.h

check_PROGRAMS += tests/test_attention_path
tests_test_attention_path_SOURCES = tests/math/test_attention_path.c tests/check_main.h

# Kernels; skipped where there is no device.
check_PROGRAMS += tests/test_gemm_cuda
tests_test_gemm_cuda_SOURCES = tests/math/test_gemm_cuda.c tests/math/activation.h tests/math/device.h tests/math/gelu.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math_cuda
tests_test_math_cuda_SOURCES = tests/math/test_math_cuda.c tests/math/activation.h tests/math/device.h tests/math/gelu.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math_loss_cuda
tests_test_math_loss_cuda_SOURCES = tests/math/test_math_loss_cuda.c tests/math/device.h tests/math/reference.h \
	tests/check_main.h

check_PROGRAMS += tests/test_update_cuda
tests_test_update_cuda_SOURCES = tests/train/test_update_cuda.c tests/math/device.h tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_math_attention_cuda
tests_test_math_attention_cuda_SOURCES = tests/math/test_math_attention_cuda.c tests/math/device.h tests/math/reference.h \
	tests/math/sight.h tests/check_main.h
endif

check_PROGRAMS += tests/test_file
tests_test_file_SOURCES = tests/io/test_file.c tests/io/faults.c tests/io/faults.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_json
tests_test_json_SOURCES = tests/io/test_json.c tests/io/faults.c tests/io/faults.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_safetensors
tests_test_safetensors_SOURCES = tests/io/test_safetensors.c tests/io/faults.c tests/io/faults.h tests/check_main.h \
	tests/files.h

check_PROGRAMS += tests/test_tokenizer
tests_test_tokenizer_SOURCES = tests/text/test_tokenizer.c tests/check_main.h

check_PROGRAMS += tests/test_tokenizer_files
tests_test_tokenizer_files_SOURCES = tests/text/test_tokenizer_files.c tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_corpus
tests_test_corpus_SOURCES = tests/data/test_corpus.c tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_examples
tests_test_examples_SOURCES = tests/data/test_examples.c tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_rows
tests_test_rows_SOURCES = tests/data/test_rows.c tests/data/tiny.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_packing
tests_test_packing_SOURCES = tests/data/test_packing.c tests/data/tiny.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_masking
tests_test_masking_SOURCES = tests/data/test_masking.c tests/data/tiny.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_sampler
tests_test_sampler_SOURCES = tests/data/test_sampler.c tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_families
tests_test_families_SOURCES = tests/models/test_families.c tests/models/golden.c tests/models/golden.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_gpt2
tests_test_gpt2_SOURCES = tests/models/test_gpt2.c tests/models/golden.c tests/models/golden.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_finetune
tests_test_finetune_SOURCES = tests/models/test_finetune.c tests/models/golden.c tests/models/golden.h tests/check_main.h \
	tests/meshes.h

check_PROGRAMS += tests/test_precision
tests_test_precision_SOURCES = tests/models/test_precision.c tests/models/golden.c tests/models/golden.h tests/check_main.h \
	tests/meshes.h

check_PROGRAMS += tests/test_fuzz_readers
tests_test_fuzz_readers_SOURCES = tests/fuzz/test_fuzz_readers.c tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_embedding
tests_test_embedding_SOURCES = tests/codelets/test_embedding.c tests/codelets/block_harness.c tests/codelets/block_harness.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_attention
tests_test_attention_SOURCES = tests/codelets/test_attention.c tests/codelets/block_harness.c tests/codelets/block_harness.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_dense
tests_test_dense_SOURCES = tests/codelets/test_dense.c tests/codelets/block_harness.c tests/codelets/block_harness.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_mlp
tests_test_mlp_SOURCES = tests/codelets/test_mlp.c tests/codelets/block_harness.c tests/codelets/block_harness.h \
	tests/math/gelu.h tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_head
tests_test_head_SOURCES = tests/codelets/test_head.c tests/codelets/block_harness.c tests/codelets/block_harness.h \
	tests/math/reference.h tests/check_main.h

check_PROGRAMS += tests/test_mesh
tests_test_mesh_SOURCES = tests/tile/test_mesh.c tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_tape
tests_test_tape_SOURCES = tests/graph/test_tape.c tests/check_main.h tests/graph/toys.h tests/meshes.h

check_PROGRAMS += tests/test_placement
tests_test_placement_SOURCES = tests/graph/test_placement.c tests/graph/toys.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_slots
tests_test_slots_SOURCES = tests/graph/test_slots.c tests/graph/toys.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_balance
tests_test_balance_SOURCES = tests/graph/test_balance.c tests/graph/toys.h tests/check_main.h tests/files.h

check_PROGRAMS += tests/test_exchange
tests_test_exchange_SOURCES = tests/train/test_exchange.c tests/graph/toys.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_memory
tests_test_memory_SOURCES = tests/train/test_memory.c tests/train/counting.h tests/graph/toys.h tests/check_main.h

check_PROGRAMS += tests/test_copies
tests_test_copies_SOURCES = tests/train/test_copies.c tests/train/counting.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_update
tests_test_update_SOURCES = tests/train/test_update.c tests/graph/toys.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_rates
tests_test_rates_SOURCES = tests/train/test_rates.c tests/train/small_gpt.c tests/train/small_gpt.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_deal
tests_test_deal_SOURCES = tests/train/test_deal.c tests/graph/toys.h tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_report
tests_test_report_SOURCES = tests/report/test_report.c tests/check_main.h

check_PROGRAMS += tests/test_scores
tests_test_scores_SOURCES = tests/report/test_scores.c tests/check_main.h

check_PROGRAMS += tests/test_training
tests_test_training_SOURCES = tests/train/test_training.c tests/train/small_gpt.c tests/train/small_gpt.h tests/check_main.h \
	tests/files.h tests/meshes.h

check_PROGRAMS += tests/test_conversion
tests_test_conversion_SOURCES = tests/train/test_conversion.c tests/check_main.h tests/files.h tests/meshes.h

check_PROGRAMS += tests/test_generate
tests_test_generate_SOURCES = tests/infer/test_generate.c tests/train/small_gpt.c tests/train/small_gpt.h tests/check_main.h \
	tests/meshes.h

check_PROGRAMS += tests/test_generate_golden
tests_test_generate_golden_SOURCES = tests/infer/test_golden.c tests/models/golden.c tests/models/golden.h tests/check_main.h \
	tests/meshes.h

check_PROGRAMS += tests/test_mixed
tests_test_mixed_SOURCES = tests/train/test_mixed.c tests/train/small_gpt.c tests/train/small_gpt.h tests/check_main.h \
	tests/files.h tests/meshes.h

check_PROGRAMS += tests/test_loss_scale
tests_test_loss_scale_SOURCES = tests/train/test_loss_scale.c tests/train/small_gpt.c tests/train/small_gpt.h \
	tests/check_main.h tests/meshes.h

check_PROGRAMS += tests/test_pipeline
tests_test_pipeline_SOURCES = tests/report/test_pipeline.c tests/check_main.h

check_PROGRAMS += tests/test_trace
tests_test_trace_SOURCES = tests/report/test_trace.c tests/check_main.h tests/files.h

# The programs of README.md and docs/adding-a-block.md, compiled as a user would: public headers and liborrery alone.
# The driver is run by a script, so it is no test by itself.
EXTRA_PROGRAMS = tests/docs/readme_driver
check_DATA = tests/docs/readme_driver
CLEANFILES += tests/docs/readme_driver
tests_docs_readme_driver_SOURCES = tests/docs/readme_driver.c
tests_docs_readme_driver_CPPFLAGS = -I$(top_srcdir)/lib -I$(top_srcdir)
tests_docs_readme_driver_LDADD = liborrery.la
tests_docs_readme_driver_LDFLAGS = -no-install

check_PROGRAMS += tests/docs/test_scale
tests_docs_test_scale_SOURCES = tests/docs/scale/test_scale.c tests/docs/scale/scale.c tests/docs/scale/scale.h \
	tests/check_main.h
tests_docs_test_scale_CPPFLAGS = -I$(top_srcdir)/lib -I$(top_srcdir) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
tests_docs_test_scale_LDADD = liborrery.la $(CHECK_LIBS)
tests_docs_test_scale_LDFLAGS = -no-install

TESTS += tests/docs/readme.sh tests/docs/pages.sh
EXTRA_DIST += tests/docs/readme.sh tests/docs/pages.sh

# The command as a user meets it: shell scripts that share common.sh and two programs.
TEST_EXTENSIONS = .sh
SH_LOG_COMPILER = $(SHELL)
cli_tests = \
	tests/cli/bad_input.sh \
	tests/cli/bench.sh \
	tests/cli/commands.sh \
	tests/cli/convert.sh \
	tests/cli/cuda.sh \
	tests/cli/full_disk.sh \
	tests/cli/generate.sh \
	tests/cli/groups.sh \
	tests/cli/layouts.sh \
	tests/cli/precision.sh \
	tests/cli/restart.sh \
	tests/cli/patience.sh \
	tests/cli/resume.sh \
	tests/cli/tasks.sh \
	tests/cli/selftest.sh \
	tests/cli/trace.sh
TESTS += $(cli_tests)
EXTRA_DIST += $(cli_tests) tests/cli/common.sh

# Not in check_PROGRAMS, which are tests.
cli_programs = tests/cli/compare_tensors tests/cli/read_events
EXTRA_PROGRAMS += $(cli_programs)
CLEANFILES += $(cli_programs)
tests/cli/commands.log tests/cli/convert.log tests/cli/cuda.log tests/cli/precision.log: $(cli_programs)
tests/cli/cuda.log: tests/test_exchange
tests/cli/resume.log: tests/cli/read_events
tests_cli_compare_tensors_SOURCES = tests/cli/compare_tensors.c
tests_cli_compare_tensors_LDADD = liborri.la
tests_cli_read_events_SOURCES = tests/cli/read_events.c
tests_cli_read_events_LDADD =

# Several ranks: scripts that start the command or one of these programs by mpiexec, and skip where there is none.
mpi_tests = \
	tests/mpi/checkpoint.sh \
	tests/mpi/copies.sh \
	tests/mpi/cuda.sh \
	tests/mpi/equivalence.sh \
	tests/mpi/exchange.sh \
	tests/mpi/generate.sh \
	tests/mpi/hosts.sh \
	tests/mpi/kill.sh \
	tests/mpi/memory.sh \
	tests/mpi/partition.sh \
	tests/mpi/pipeline.sh \
	tests/mpi/precision.sh \
	tests/mpi/restart.sh \
	tests/mpi/start.sh \
	tests/mpi/traced_pair.sh \
	tests/mpi/volume.sh \
	tests/mpi/watch.sh
TESTS += $(mpi_tests)
EXTRA_DIST += $(mpi_tests) tests/mpi/common.sh
mpi_programs = tests/mpi/equivalence tests/mpi/partition tests/mpi/ranks_program tests/mpi/test_pipeline
tests_mpi_equivalence_SOURCES = tests/mpi/equivalence.c
tests_mpi_equivalence_LDADD = liborri.la
tests_mpi_partition_SOURCES = tests/mpi/partition.c tests/graph/toys.h tests/check_main.h tests/meshes.h
tests_mpi_partition_LDADD = liborri.la $(CHECK_LIBS)
tests_mpi_ranks_program_SOURCES = tests/mpi/ranks_program.c
tests_mpi_ranks_program_LDADD = liborri.la
tests_mpi_test_pipeline_SOURCES = tests/mpi/test_pipeline.c tests/graph/toys.h tests/check_main.h tests/meshes.h
tests_mpi_test_pipeline_LDADD = liborri.la $(CHECK_LIBS)
if HAVE_MPI
mpi_programs += tests/mpi/traced_pair
tests_mpi_traced_pair_SOURCES = tests/mpi/traced_pair.c
tests_mpi_traced_pair_LDADD = liborri.la
tests_mpi_traced_pair_LDFLAGS = -export-dynamic
endif
EXTRA_PROGRAMS += $(mpi_programs)
CLEANFILES += $(mpi_programs)
$(mpi_tests:.sh=.log): $(mpi_programs)
