#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Holds the pages to the code: programs they print are the files that are compiled, links lead somewhere, every option
# and variable is told, the manual page has no errors.
# shellcheck disable=SC2013,SC2016
set -eu

top=${srcdir:-.}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
checks=0
failures=0

check() {
    checks=$((checks + 1))
    if [ "$2" != yes ]; then
        failures=$((failures + 1))
        echo "FAILED: $1"
    fi
}

# A comment "<!-- file: PATH -->" says that the fenced block after it is that file.
for page in "$top"/README.md "$top"/docs/*.md; do
    name=${page#"$top"/}
    for path in $(sed -n 's/^<!-- file: \([^ ]*\) -->$/\1/p' "$page"); do
        awk -v mark="<!-- file: $path -->" '
            $0 == mark { wanted = 1; next }
            wanted && /^```/ { if (inside) exit; inside = 1; next }
            inside { print }' "$page" >"$folder/block"
        if diff "$top/$path" "$folder/block" >"$folder/diff" 2>&1; then same=yes; else same=no; head -n 20 "$folder/diff"; fi
        check "$name prints $path" "$same"
    done
    # [text](target): files beside the page; a part of a page is not looked for.
    sed 's/`[^`]*`//g' "$page" | grep -o '](\([^)]*\))' | sed 's/^](//; s/)$//; s/#.*//' | grep -v '^[a-z]*:' |
        sort -u >"$folder/links" || :
    while read -r link; do
        if [ -z "$link" ]; then continue; fi
        check "$name: link to $link" "$(if [ -e "$(dirname "$page")/$link" ]; then echo yes; else echo no; fi)"
    done <"$folder/links"
done

# Every option of every command is in the manual page and in docs/tools.md.
for command in train eval generate logits grads tokenize convert bench trace info selftest; do
    ./orrery $command --help | grep -o -e '^ *--[a-z0-9-]*' -e '^ *-?, --[a-z0-9-]*' | grep -o -e '--[a-z0-9-]*' |
        sort -u >"$folder/options"
    while read -r option; do
        case $option in --help | --usage) continue ;; esac
        escaped=$(echo "$option" | sed 's/-/\\\\-/g')
        check "docs/orrery.1: $command $option" "$(if grep -q -e "$escaped" "$top/docs/orrery.1"; then echo yes; else echo no; fi)"
        check "docs/tools.md: $command $option" "$(if grep -q -e "\`$option" "$top/docs/tools.md"; then echo yes; else echo no; fi)"
    done <"$folder/options"
done

# Options that are variables too: those whose last word in their table is true.
tr '\n' ' ' <"$top/tools/common.c" >"$folder/tables"
for source in cmd_bench cmd_eval cmd_train; do tr '\n' ' ' <"$top/tools/$source.c" >>"$folder/tables"; done
for option in $(grep -o 'SETTING("[^)]*true)' "$folder/tables" | sed 's/.*SETTING("\([a-z0-9-]*\)".*/\1/' | sort -u); do
    variable=ORRERY_$(echo "$option" | tr 'a-z-' 'A-Z_')
    for page in docs/environment.md docs/orrery.1; do
        check "$page: $variable" "$(if grep -q "$variable" "$top/$page"; then echo yes; else echo no; fi)"
    done
done

if command -v groff >/dev/null 2>&1; then
    groff -man -Tutf8 -ww "$top/docs/orrery.1" >"$folder/manual" 2>"$folder/warnings" || :
    cat "$folder/warnings"
    check "docs/orrery.1 renders without a warning" "$(if [ -s "$folder/warnings" ]; then echo no; else echo yes; fi)"
fi

echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ $failures -eq 0 ]
