#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copies of parameters are kept on ranks as in one process: what a rank receives is another version.
# shellcheck source=tests/mpi/common.sh
. "${srcdir:-.}/tests/mpi/common.sh"

ranks 2 "$here/tests/test_copies"
[ "$status" -eq 0 ] || cat "$work/out" "$work/all" >&2
same 'exit status of test_copies on 2 ranks' "$status" 0

finish
