#!/bin/sh
# The tests of the program: run.sh PROGRAM SCRATCH [NAME...] runs cli_NAME.sh for each name, all of
# them without one. Every test gets an empty folder below SCRATCH. Status 77: all were skipped.
set -u

[ $# -ge 2 ] || { echo "usage: run.sh PROGRAM SCRATCH [NAME...]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
ERNIE=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
shift 2
REPO=$(cd "$here/../.." && pwd)
LC_ALL=C
export ERNIE REPO LC_ALL
unset NO_COLOR POSIXLY_CORRECT

if [ $# -eq 0 ]; then
    for file in "$here"/cli_*.sh; do
        name=${file##*/cli_}
        set -- "$@" "${name%.sh}"
    done
fi

worst=77
for name in "$@"; do
    folder=$scratch/$name
    rm -rf "$folder"
    mkdir -p "$folder"
    echo "== $name"
    (cd "$folder" && sh "$here/cli_$name.sh")
    case $? in
    0) if [ $worst -eq 77 ]; then worst=0; fi ;;
    77) echo "skipped" ;;
    *) worst=1 ;;
    esac
    rm -rf "$folder"
done
exit $worst
