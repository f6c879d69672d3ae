#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the driver that README.md prints (tests/docs/pages.sh sees to it that it is the same) on a text, and checks that
# it learns.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
checks=0
failures=0
errors=0

check() {
    checks=$((checks + 1))
    if [ "$2" != yes ]; then
        failures=$((failures + 1))
        echo "FAILED: $1"
    fi
}

i=0
while [ $i -lt 1500 ]; do
    echo "line $i: the quick brown fox jumps over $((i * 7 % 13)) lazy dogs."
    i=$((i + 1))
done >"$folder/text.txt"

if ! tests/docs/readme_driver "$folder/text.txt" >"$folder/out" 2>"$folder/err"; then
    errors=$((errors + 1))
    cat "$folder/err"
fi
check "100 lines" "$(awk 'END { print (NR == 100) ? "yes" : "no" }' "$folder/out")"
check "every line tells step and loss" \
    "$(awk '$1 != "step" || $2 != NR || $3 != "loss" || $4 !~ /^[0-9]+\.[0-9]+$/ { bad = 1 } END { print (bad) ? "no" : "yes" }' "$folder/out")"
check "the first loss is near log 256" "$(awk 'NR == 1 { print ($4 > 5 && $4 < 6) ? "yes" : "no" }' "$folder/out")"
check "the last loss is below half the first" \
    "$(awk 'NR == 1 { first = $4 } END { print ($4 < first / 2) ? "yes" : "no" }' "$folder/out")"
if tests/docs/readme_driver "$folder/none" >/dev/null 2>"$folder/err"; then missing=no; else missing=yes; fi
check "a missing file fails" "$missing"
check "and is named" "$(if grep -q "$folder/none" "$folder/err"; then echo yes; else echo no; fi)"

sed -n '1p;$p' "$folder/out"
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: $errors"
[ $((failures + errors)) -eq 0 ]
