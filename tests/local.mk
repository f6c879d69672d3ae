check_PROGRAMS += tests/test_file
tests_test_file_SOURCES = tests/io/test_file.c tests/io/faults.c tests/io/faults.h tests/check_main.h tests/files.h
tests_test_file_LDADD = liborri.la $(CHECK_LIBS)
tests_test_file_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS) -I$(top_srcdir)/tests
TESTS += tests/test_file
