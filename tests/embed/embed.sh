#!/usr/bin/env bash
# Does the promise of two files hold? embed.sh SOURCE SCRATCH CHECK [ARGUMENT...]
#
# SOURCE is the repository, SCRATCH a folder that the check may empty. Checks that need a compiler
# that is not there exit with 77 (skipped).
set -euo pipefail

source=$1 scratch=$2 check=$3
shift 3
here=$source/tests/embed
model=$source/models/ernie-demo.ernie
plain=(-Wall -Wextra -Werror)
strict=(-Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla
    -Wformat=2)

fail() { printf '%s\n' "embed: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || { echo "skipped: no $1"; exit 77; }; }
fresh() { rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"; }

# The model is part of a release but not of every check-out.
run_app() { if [ -f "$model" ]; then "$1" "$model"; else "$1"; fi; }
run_hello() {
    [ -f "$model" ] || return 0
    "$1" "$model" >hello.txt
    [ "$(wc -c <hello.txt)" -gt 30 ] || fail "hello wrote only: $(cat hello.txt)"
}

# header COMPILER STANDARD: the public header alone, pedantic.
check_header() {
    need "$1"
    fresh
    local language=c
    case $2 in c++*) language=c++ ;; esac
    printf '#include "ernie.h"\n#include "ernie.h"\n' >only.c
    "$1" -x "$language" -std="$2" "${plain[@]}" -pedantic -I"$source" -c only.c -o only.o
    "$1" -x "$language" -std="$2" "${plain[@]}" -pedantic -I"$source" -c "$here/app.c" -o app.o
}

# only_ernie_names OBJECT: what others can link to begins with ernie_.
only_ernie_names() {
    local stray
    stray=$(nm -g --defined-only "$1" | awk 'NF == 3 && $3 !~ /^_?ernie_/ { print $3 }')
    [ -z "$stray" ] || fail "$1 exports names that are not ours: $stray"
    nm -g --defined-only "$1" | grep -q ' T _\?ernie_model_open$' ||
        fail "$1 does not export ernie_model_open"
}

# unity COMPILER: cc app.c ernie.c -lm from a foreign folder, without flags and with all warnings.
check_unity() {
    need "$1"
    fresh
    "$1" "${plain[@]}" -I"$source" "$here/app.c" "$source/ernie.c" -lm -o app
    run_app ./app
    "$1" -std=c11 -O2 "${plain[@]}" "${strict[@]}" -c "$source/ernie.c" -o ernie.o
    only_ernie_names ernie.o
    "$1" -O2 -I"$source" "$source/examples/hello.c" ernie.o -lm -o hello
    run_hello ./hello
}

# amalgam COMPILER: the two-file release from an empty folder.
check_amalgam() {
    need "$1"
    need python3
    fresh
    "$source/scripts/amalgamate" first
    "$source/scripts/amalgamate" second
    cmp first/ernie.c second/ernie.c
    ! grep -n '#include "' first/ernie.c | grep -v '"ernie.h"' || fail "project includes are left"
    cp first/ernie.h first/ernie.c "$source/examples/hello.c" "$here/app.c" .
    rm -r first second
    "$1" -std=c11 -O2 "${plain[@]}" "${strict[@]}" -c ernie.c
    only_ernie_names ernie.o
    "$1" app.c ernie.o -lm -o app
    run_app ./app
    "$1" hello.c ernie.o -lm -o hello
    run_hello ./hello
}

# cmake_build SOURCE BUILD [-D...]: a nested build; its log is shown when it fails.
cmake_build() {
    local from=$1 to=$2
    shift 2
    { cmake -S "$from" -B "$to" -G Ninja "$@" && cmake --build "$to" -j 2; } >"$to.log" 2>&1 ||
        { cat "$to.log" >&2; fail "the build of $from failed"; }
}

# install: release builds, static and shared, each into its own prefix. Others use what it leaves.
check_install() {
    fresh
    local kind
    for kind in static shared; do
        local shared=OFF
        if [ $kind = shared ]; then shared=ON; fi
        cmake_build "$source" "$kind" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=$shared \
            -DCMAKE_INSTALL_PREFIX="$scratch/prefix-$kind" -DCMAKE_INSTALL_LIBDIR=lib \
            -DERNIE_TESTS=OFF -DERNIE_TOOLS=OFF -DERNIE_BENCH=OFF -DERNIE_EXAMPLES=OFF "$@"
        cmake --install "$kind" >>$kind.log
        for file in include/ernie.h lib/pkgconfig/ernie.pc lib/cmake/ernie/ernie-config.cmake \
            share/doc/ernie/LICENSE share/doc/ernie/docs/ARCHITECTURE.md; do
            [ -f "prefix-$kind/$file" ] || fail "install ($kind) left out $file"
        done
    done
    [ -L prefix-shared/lib/libernie.so ] || fail "no libernie.so"
}

# symbols: the shared library exports our names only; the release objects neither print, exit,
# abort nor read the environment; and hold no mutable state.
check_symbols() {
    cd "$scratch"
    local stray
    stray=$(nm -D --defined-only prefix-shared/lib/libernie.so | awk '$3 !~ /^ernie_/ { print $3 }')
    [ -z "$stray" ] || fail "libernie.so exports names that are not ours: $stray"
    stray=$(nm -u prefix-static/lib/libernie.a | awk '{ print $NF }' | sort -u |
        grep -xE '_?(_?exit|quick_exit|abort|raise|signal|sigaction|atexit|puts|putchar|printf|vprintf|fprintf|vfprintf|__(v?printf|v?fprintf)_chk|perror|stdout|stderr|stdin|getenv|secure_getenv|setlocale|rand|srand|strtok|__assert_fail)' || true)
    [ -z "$stray" ] || fail "the library uses $stray"
    stray=$(objdump -t prefix-static/lib/libernie.a |
        awk '/ O / && ($4 ~ /^\.(bss|data|tbss|tdata)$/ || $4 ~ /^\.(bss|data)\.[^r]/) { print $NF }' |
        grep -v '^feat_' || true)
    [ -z "$stray" ] || fail "process-wide mutable state: $stray"
}

# find_package, pkg_config: strangers' builds against what install left.
check_find_package() {
    cd "$scratch"
    local kind
    for kind in static shared; do
        rm -rf "find-$kind"
        cmake_build "$here/find_package" "find-$kind" -DCMAKE_PREFIX_PATH="$scratch/prefix-$kind"
        run_app "find-$kind/app"
    done
}
check_pkg_config() {
    need pkg-config
    cd "$scratch"
    local kind
    for kind in static shared; do
        local PKG_CONFIG_PATH=$scratch/prefix-$kind/lib/pkgconfig
        export PKG_CONFIG_PATH
        # Flags are separate words.
        # shellcheck disable=SC2046
        cc "$here/app.c" -o "pkg-$kind" $(pkg-config --cflags --libs ernie) \
            -Wl,-rpath,"$scratch/prefix-$kind/lib"
        run_app "./pkg-$kind"
    done
}

# subproject: add_subdirectory brings the library and nothing else.
check_subproject() {
    fresh
    cmake_build "$here/subproject" build -DERNIE_DIR="$source" "$@"
    run_app build/app
}

"check_$check" "$@"
