#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Nothing hangs in silence: stalls and lost ranks end the job and are told.
. "${srcdir:-.}/tests/mpi/common.sh"

# ended CODE PATTERN: this exit status, and a line of Orrery's.
ended()
{
    same 'exit status' "$status" "$1"
    check "Orrery says $2" grep -q "$2" "$work/err"
    same 'the end' "$(cat "$work/out")" ''
}

ranks 3 "$program" stall
ended 1 '^orrery: rank 1: watchdog: nothing has ended for [2-9] s; pending: tasks 1, messages 1$'
check 'the tile that is awaited' grep -q "^orrery: rank 1: tile 'x\[3\]': not received from rank 0 for [2-9] s (tag 4711)$" \
    "$work/err"
check 'the task that waits' grep -q '^orrery: rank 1: task mlp_F, layer 3, microbatch 2: waiting' "$work/err"
same 'ranks that wait for nothing say nothing' "$(grep -c -v '^orrery: rank 1: ' "$work/err")" 0

ranks 2 "$program" long
ended 1 'task attention_B, layer 1, microbatch 2: running for [2-9] s$'

ran='ranks_program stall'
timeout 20 "$program" stall > "$work/out" 2> "$work/err"
status=$?
ended 1 '^orrery: rank 0: task mlp_F, layer 3, microbatch 2: waiting'

ranks 2 "$program" busy
same 'no alarm while tasks end, or none is pending' "$status:$(cat "$work/err" "$work/out")" '0:done'

# mpiexec ends the job with the status of the process that it finds ended first: the rank that has noticed leaves it the time.
ranks 4 "$program" killed
ended 137 '^orrery: rank 2 (host .*, pid [0-9]*): lost: its process has ended$'
same 'one rank says so' "$(wc -l < "$work/err")" 1
ranks 4 "$program" frozen
ended 1 '^orrery: rank 2 (host .*, pid [0-9]*): lost: no sign of life for 2 s$'
same 'one rank says so' "$(wc -l < "$work/err")" 1
ranks 3 "$program" gives-up
ended 1 '^orrery: rank 1: disk: is full$'
same 'one rank says so' "$(wc -l < "$work/err")" 1
ranks 2 "$program" cannot-submit
ended 1 '^orrery: rank 1: StarPU: there is no room for a task'
same 'one rank says so' "$(wc -l < "$work/err")" 1

finish
