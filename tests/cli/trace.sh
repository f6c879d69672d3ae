#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A traced run, and what orrery trace makes of it.
# shellcheck disable=SC2086,SC2012    # $tiny is a list of options; plain names
# shellcheck source=tests/cli/common.sh
. "${srcdir:-.}/tests/cli/common.sh"
cd "$work" || exit 99
export HOME="$work" USER=somebody

train="train $tiny --seq 32 --batch 4 --micro-batch 1 --data text --val-fraction 0 --quiet"

run $train --steps 3 --trace traced/here
if grep -q 'has no FxT' err; then
    echo "the StarPU of this build has no FxT"
    exit 77
fi
same 'exit status of a traced run' $status 0
check 'it says nothing' test ! -s err
same 'what it leaves' "$(ls traced/here | tr '\n' ' ')" 'prof_file__0 run.json '
for pair in 'dp 1' 'pp 1' 'tp 1' 'ranks 1' 'stages 1' 'microbatches 4' 'workers 2' 'steps 3'; do
    set -- $pair
    same "$1 in run.json" "$(value "$1" traced/here/run.json)" "$2"
done
same 'model in run.json' "$(value model traced/here/run.json)" tiny-gpt2

# --- the table -------------------------------------------------------------------------------------------------
works trace traced/here
for file in paje.trace tasks.rec comms.rec timeline.svg; do
    check "$file is there" test -f traced/here/$file
done
check 'the steady part' grep -q '^steps 2 to 3 of 3, 1 rank, 2 workers$' out
check 'the table' grep -q '^stage  *all  *F  *B  *W .* update  *reduce .* runtime  *waiting  *idle$' out
check 'its parts are all of the time' awk '/^0 / { all = $2; for (i = 3; i <= NF; i++) sum += $i; n = NF; exit }
    END { d = all - sum; exit n < 8 || all <= 0 || d > 0.05 * n || d < -0.05 * n }' out
check 'the bubble and the model'"'"'s' grep -q '^0  *[0-9.]*%  *[0-9.]*%$' out
check 'nothing is sent' grep -q '^  nothing$' out
check 'the picture' grep -q '^timeline: traced/here/timeline.svg$' out
if command -v xmllint > /dev/null 2>&1; then
    check 'the picture is XML' xmllint --noout traced/here/timeline.svg
elif python3 -c 'import xml.dom.minidom' > /dev/null 2>&1; then
    check 'the picture is XML' python3 -c 'import xml.dom.minidom; xml.dom.minidom.parse("traced/here/timeline.svg")'
else
    skip 'parsing the picture: there is neither xmllint nor python3'
fi
for what in 'rank 0, worker 0<' 'rank 0, worker 1<' '<title>orrery_mlp_F, at ' '<title>orrery_update, at '; do
    check "the picture shows $what" grep -q "$what" traced/here/timeline.svg
done

# --- options ---------------------------------------------------------------------------------------------------
works trace --json --from 1 --to 2 --svg other.svg traced/here
same 'lines of --json' "$(wc -l < out)" 1
same 'its first keys' "$(value from out) $(value to out) $(value steps out) $(value ranks out)" '1 2 3 1'
check '--svg names the picture' test -f other.svg
works trace traced/here --from 0 --json
same 'the end of the whole trace' "$(value to out)" 3
works trace traced/here --from 0
check 'the whole trace' grep -q '^the whole trace, of 3 steps, ' out
same 'forward tasks of attention' "$(grep -c '^Name: orrery_attention_F$' traced/here/tasks.rec)" $((3 * 4 * 2))

# --- again into the same folder ----------------------------------------------------------------------------------
echo mine > traced/here/notes
echo old > traced/here/prof_file_somebody_7
export ORRERY_TRACE=traced/here
works bench $tiny --batch 2 --micro-batch 1 --seq 32 --steps 1 --json
unset ORRERY_TRACE
same 'the old trace is replaced' "$(ls traced/here/prof_file*)" traced/here/prof_file__0
same 'other files are not touched' "$(cat traced/here/notes)" mine
same 'warm-up and timed steps' "$(value steps traced/here/run.json)" 3
works trace traced/here
check 'the trace of bench' grep -q '^steps 2 to 3 of 3' out

# --- what a traced run does not leave behind -------------------------------------------------------------------
run $train --steps 2 --out kept --trace first
same 'exit status' $status 0
before=$(cksum < first/prof_file__0)
works train --resume kept --steps 3 --quiet
same 'resuming leaves the trace alone' "$(cksum < first/prof_file__0)" "$before"
check 'and the checkpoint does not know of it' sh -c '! grep -q trace kept/latest/trainer.json'
works $train --steps 1
same 'no trace where none was asked for' "$(ls -d prof_file* ./*/prof_file* 2> /dev/null | tr '\n' ' ')" './first/prof_file__0 '
check 'nor in /tmp' sh -c '! ls /tmp/prof_file_somebody* > /dev/null 2>&1'

# --- wrong uses ------------------------------------------------------------------------------------------------
refused '^orrery: trace: the folder is missing' '--trace' trace
refused '^orrery: trace: .second. is no option' '' trace traced/here second
refused '^orrery: nowhere: cannot be read as a folder: No such file or directory' '--trace' trace nowhere
mkdir empty
refused '^orrery: empty: there is no trace' '--trace' trace empty
mkdir damaged
head -c 3000 traced/here/prof_file__0 | tail -c 2900 > damaged/prof_file__0
refused '^orrery: damaged: starpu_fxt_tool cannot read the traces' 'starpu_fxt_tool.log' trace damaged
mkdir half
cp traced/here/prof_file__0 traced/here/run.json half
sed -i 's/"ranks": 1/"ranks": 2/; s/"dp": 1/"dp": 2/' half/run.json
refused '^orrery: half: holds the traces of 1 of 2 ranks' 'every rank' trace half
refused 'there are no steps 2 to 9 in a trace of 3 steps' '--from 0' trace traced/here --to 9
refused 'there are no steps 3 to 2 ' '' trace traced/here --from 3 --to 2
refused "^orrery: --to: '0' is no whole number" '' trace traced/here --to 0
refused '^orrery: text/x: ' '--trace' $train --steps 1 --trace text/x
refused '^orrery: text: ' '--trace' $train --steps 1 --trace text
refused '^orrery: --trace: a path of 1 to ' '' $train --steps 1 --trace ''
run trace traced/here --svg no/such/picture.svg
said 1 '^orrery: no/such/picture.svg'
same 'temporary files' "$(leftovers .)" ''

finish
