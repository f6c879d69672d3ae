# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What the tests of the command share: sourced by each of them, in the top build folder.
# `out`, `err` and `status` of the last run are kept; every check counts; finish prints the sum as Check does.

set -u
src=${srcdir:-.}
if [ -z "${orrery:-}" ]; then
    orrery=./orrery
    [ -x "$orrery" ] || orrery=${builddir:-.}/orrery
fi
[ -x "$orrery" ] || { echo "there is no ./orrery: run this in the build folder"; exit 99; }
case $orrery in /*) ;; *) orrery=$PWD/$orrery ;; esac
here=$PWD
case $src in /*) ;; *) src=$here/$src ;; esac

export STARPU_SILENT=1 OPENBLAS_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export STARPU_NCPU="${STARPU_NCPU:-2}"
unset ORRERY_TRACE ORRERY_DP ORRERY_PP ORRERY_TP ORRERY_SLOTS ORRERY_SEED ORRERY_THREADS ORRERY_DTYPE ORRERY_MICRO_BATCH \
    ORRERY_CPU_GROUP ORRERY_LOSS_SCALE ORRERY_LOSS_SCALE_WINDOW ORRERY_CHECKPOINT_DTYPE

work=$(mktemp -d "${TMPDIR:-/tmp}/orrery-XXXXXX") || exit 99
trap 'cd /; rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM

checks=0
failures=0
status=0
ran=

pass()
{
    checks=$((checks + 1))
}

# fail WHAT: with what the last run said.
fail()
{
    checks=$((checks + 1))
    failures=$((failures + 1))
    echo "FAILED: $1"
    echo "    ran: $ran"
    echo "    status: $status"
    head -n 20 "$work/out" | cut -c 1-300 | tr -c '[:print:]\n' '?' | sed 's/^/    out: /'
    head -n 20 "$work/err" | cut -c 1-300 | tr -c '[:print:]\n' '?' | sed 's/^/    err: /'
}

skip()
{
    echo "skipped: $1"
}

# check WHAT COMMAND...: the command succeeds.
check()
{
    what=$1
    shift
    if "$@"; then pass; else fail "$what"; fi
}

# same WHAT A B: the strings are equal.
same()
{
    if [ "$2" = "$3" ]; then pass; else fail "$1: '$2' is not '$3'"; fi
}

# run ARGUMENT...: the command; what it prints is in $work/out and $work/err.
run()
{
    ran="orrery $*"
    timeout 60 "$orrery" "$@" > "$work/out" 2> "$work/err" < /dev/null     # 124: it hung
    status=$?
}

# works ARGUMENT...: exit status 0, and nothing on standard error.
works()
{
    run "$@"
    if [ "$status" -ne 0 ]; then
        fail "should have worked"
    elif [ -s "$work/err" ]; then
        fail "should have said nothing on standard error"
    else
        pass
    fi
}

# said CODE PATTERN [REMEDY]: the last run ended with this status and said one line "orrery: WHERE: WHAT" with PATTERN (of
# grep -E) in it, and at most a line more, "orrery: REMEDY". Where REMEDY is given, that line has to be there.
said()
{
    lines=$(wc -l < "$work/err")
    if [ "$status" -ne "$1" ]; then
        fail "exit status $status instead of $1"
    elif [ "$lines" -lt 1 ] || [ "$lines" -gt 2 ] || grep -v -q '^orrery: ' "$work/err"; then
        fail "should have said one line, and perhaps a remedy"
    elif ! head -n 1 "$work/err" | grep -E -q '^orrery: [^ ].*: [^ ]'; then
        fail "the first line is not 'orrery: WHERE: WHAT'"
    elif ! head -n 1 "$work/err" | grep -E -q -e "$2"; then
        fail "the first line does not say '$2'"
    elif [ -n "${3:-}" ] && ! sed -n 2p "$work/err" | grep -E -q -e "$3"; then
        fail "the remedy does not say '$3'"
    elif grep -i -q -e assert -e abort -e segmentation -e 'core dumped' "$work/err"; then
        fail "a bare assertion"
    else
        pass
    fi
}

# refused PATTERN REMEDY ARGUMENT...: bad usage or bad input.
refused()
{
    pattern=$1
    remedy=$2
    shift 2
    run "$@"
    said 2 "$pattern" "$remedy"
}

# Options of a model that trains in no time, on $work/text.
# shellcheck disable=SC2034    # used by those that source this
tiny="--model tiny-gpt2 --set n_layer=2 --set n_embd=32 --set n_head=2 --set n_positions=32"
make_text()
{
    awk 'BEGIN { for (i = 1; i <= 700; i++) printf "%d times %d is %d, is it not?\n", i, i % 7, i * (i % 7) }' > "$1"
}
make_text "$work/text"

# The losses of a metrics file: "step loss grad_norm" and "step val_loss", a line each.
losses()
{
    sed -n -e 's/^{"step":\([0-9]*\),"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2 \3/p' \
        -e 's/^{"step":\([0-9]*\),"val_loss":\([^}]*\)}/\1 validation \2/p' "$1"
}

# losses_of NAME OPTION...: trains as $train says, and leaves the losses in NAME.
# shellcheck disable=SC2086,SC2154    # a list of options, of those that source this
losses_of()
{
    name=$1
    shift
    rm -f metrics
    works $train --metrics metrics "$@"
    losses metrics > "$name"
}

# close_to BOUND EXPECTED FOUND: losses and norms in the two files, as losses() leaves them, differ relatively by so much at
# most.
# shellcheck disable=SC2016    # a program of awk
close_to()
{
    awk -v bound="$1" 'NR == FNR { a[FNR] = $0; n++; next }
        {
            split(a[FNR], x)
            for (i = 2; i <= 3; i++) { d = ($i - x[i]) / x[i]; if (d < 0) d = -d; if (!(d <= bound)) bad = 1 }
            m++
        }
        END { exit bad || n != m || n == 0 }' "$2" "$3"
}

# The value of a key in a JSON object on one line, or on lines of "key": value.
value()
{
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p" "$2" | head -n 1
}

# The temporary files below a folder.
leftovers()
{
    find "$1" -name '*.tmp*' -o -name '*.old' -o -name '.writable*'
}

finish()
{
    percent=100
    [ "$checks" -gt 0 ] && percent=$(((checks - failures) * 100 / checks))
    echo "$percent%: Checks: $checks, Failures: $failures, Errors: 0"
    [ "$failures" -eq 0 ] && [ "$checks" -gt 0 ]
    exit
}
