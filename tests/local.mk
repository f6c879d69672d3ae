TESTS += $(check_PROGRAMS)

check_PROGRAMS += tests/test_file
tests_test_file_SOURCES = tests/io/test_file.c tests/io/faults.c tests/io/faults.h tests/check_main.h tests/files.h
tests_test_file_LDADD = liborri.la $(CHECK_LIBS)
tests_test_file_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_json
tests_test_json_SOURCES = tests/io/test_json.c tests/io/faults.c tests/io/faults.h tests/check_main.h tests/files.h
tests_test_json_LDADD = liborri.la $(CHECK_LIBS)
tests_test_json_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_safetensors
tests_test_safetensors_SOURCES = tests/io/test_safetensors.c tests/io/faults.c tests/io/faults.h tests/check_main.h \
	tests/files.h
tests_test_safetensors_LDADD = liborri.la $(CHECK_LIBS)
tests_test_safetensors_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_tokenizer
tests_test_tokenizer_SOURCES = tests/text/test_tokenizer.c tests/check_main.h
tests_test_tokenizer_LDADD = liborri.la $(CHECK_LIBS)
tests_test_tokenizer_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_corpus
tests_test_corpus_SOURCES = tests/data/test_corpus.c tests/check_main.h tests/files.h
tests_test_corpus_LDADD = liborri.la $(CHECK_LIBS)
tests_test_corpus_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_sampler
tests_test_sampler_SOURCES = tests/data/test_sampler.c tests/check_main.h tests/files.h
tests_test_sampler_LDADD = liborri.la $(CHECK_LIBS)
tests_test_sampler_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests

check_PROGRAMS += tests/test_fuzz_readers
tests_test_fuzz_readers_SOURCES = tests/fuzz/test_fuzz_readers.c tests/check_main.h tests/files.h
tests_test_fuzz_readers_LDADD = liborri.la $(CHECK_LIBS)
tests_test_fuzz_readers_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests
