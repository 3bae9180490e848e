#!/bin/sh
# Run an example as its reader would: run.sh PROGRAM MODEL. What it says is drawn anew each time, so the
# text is asked to be there and to be whole UTF-8; what the example adds to it is asked for by name.
set -eu

fail() { echo "FAILED: $1"; exit 1; }

[ -f "$2" ] || { echo "skipped: no $2"; exit 77; }
out=$(printf '写一首五言绝句\n再写一首\n' | "$1" "$2")
printf '%s\n' "$out"
[ -n "$(printf '%s' "$out" | tr -d ' \n')" ] || fail "it said nothing"
printf '%s' "$out" | iconv -f UTF-8 -t UTF-8 >/dev/null || fail "the text is not UTF-8"
count() { printf '%s\n' "$out" | grep -c -E "$1" || true; }
case ${1##*/} in
chat) [ "$(count '^\[[0-9]+ tokens, [0-9.]+ per second\]$')" -eq 2 ] || fail "expected two answers" ;;
cancel) [ "$(count '^\[.* after [0-9]+ tokens; the session holds [0-9]+\]$')" -eq 1 ] || fail "not stopped" ;;
esac
! "$1" nowhere.ernie </dev/null 2>/dev/null || fail "a missing model is no success"
