#!/bin/sh
# Run an example as its reader would: run.sh PROGRAM MODEL. It must end well and have said something.
set -eu

[ -f "$2" ] || { echo "skipped: no $2"; exit 77; }
out=$(printf '写一首五言绝句\n再写一首\n' | "$1" "$2")
printf '%s\n' "$out"
case $out in
*。* | *stopped*) ;;
*) echo "FAILED: neither a sentence nor a stop"; exit 1 ;;
esac
! "$1" nowhere.ernie </dev/null 2>/dev/null || { echo "FAILED: a missing model is no success"; exit 1; }
