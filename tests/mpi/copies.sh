#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copies of parameters are kept on ranks as in one process: what a rank receives is another version.
# shellcheck disable=SC2034,SC2154   # what common.sh sets and reads
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"

# Half a minute on two quiet cores, all layouts in one program.
limit=150
ranks 2 "$here/tests/test_copies"
[ "$status" -eq 0 ] || cat "$work/out" "$work/all" >&2
same 'exit status of test_copies on 2 ranks' "$status" 0

finish
