#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The pipeline's schedules on 4 and on 2 ranks of one worker each, which sleep: no rank needs a core of its own.
program=tests/mpi/test_pipeline

if ! command -v mpiexec > /dev/null; then
    echo 'there is no mpiexec'
    exit 77
fi
status=0
for ranks in 2 4; do
    timeout 120 mpiexec --oversubscribe -n "$ranks" "$program" || status=1
done
exit "$status"
