#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The pipeline's schedules on 2 and on 4 ranks of one worker each, whose tasks sleep: no rank needs a core of its own.
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"

for count in 2 4; do
    timeout 170 mpiexec --oversubscribe --bind-to none -n "$count" "$here/tests/mpi/test_pipeline" < /dev/null \
        > "$work/out" 2> "$work/err"
    status=$?
    grep -v '^Running' "$work/out"
    check "$count ranks" test "$status" -eq 0
done
finish
