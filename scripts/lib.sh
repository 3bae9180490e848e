# Shared by scripts/demo and scripts/test: where things are, packages, condensed output.
# Sourced by bash; sets ROOT and changes to it.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

JOBS=$(nproc 2>/dev/null || echo 2)
started=$(date +%s)

say() { printf '%s\n' "== $*"; }
die() { printf '%s\n' "$(basename "$0"): $*" >&2; exit 1; }
since_start() { echo $(($(date +%s) - started)); }

# need_packages PACKAGE...: install what is missing, as root on Debian; otherwise say what to install.
need_packages() {
    command -v dpkg-query >/dev/null || {
        say "Not a Debian system: expecting these packages or their like: $*"
        return 0
    }
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "Packages: all there"
        return 0
    fi
    [ "$(id -u)" -eq 0 ] || die "not root; please run: sudo apt-get install ${missing[*]}"
    say "Packages: installing ${missing[*]}"
    local log=$ROOT/build/apt.log
    mkdir -p "$ROOT/build"
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update -q &&
            apt-get install -q -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "apt-get failed; all of its output is in $log"
    }
}

# configure PRESET [-D...]: cmake, quiet unless it fails.
configure() {
    local preset=$1 log=$ROOT/build/$1.configure.log
    shift
    mkdir -p "$ROOT/build"
    local launcher=()
    if command -v ccache >/dev/null; then launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache); fi
    cmake --preset "$preset" "${launcher[@]}" "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        die "cmake could not configure build/$preset"
    }
}

# progress_line NAME WHAT: ninja's "[3/57] ..." and ctest's "3/57 Test ..." lines become one bar on a
# terminal, four short lines elsewhere.
progress_line() {
    local tty=0
    if [ -t 1 ]; then tty=1; fi
    awk -v tty="$tty" -v name="$1" -v what="$2" '
        match($0, /^\[[0-9]+\/[0-9]+\]/) || match($0, /^ *[0-9]+\/[0-9]+ Test/) {
            split($0, n, /[^0-9]+/)
            if (n[1] == "") { n[1] = n[2]; n[2] = n[3] }
            if (tty) {
                bar = ""
                for (i = 0; i < 30; i++) bar = bar (i < 30 * n[1] / n[2] ? "#" : ".")
                printf "\r   %s [%s] %d/%d ", name, bar, n[1], n[2]
            } else if (int(4 * n[1] / n[2]) > quarter) {
                quarter = int(4 * n[1] / n[2])
                printf "   %s: %d of %d %s\n", name, n[1], n[2], what
            }
            fflush()
        }
        END { if (tty && n[2]) printf "\n" }'
}

# build PRESET [TARGET...]: all cores, condensed; everything is shown when it fails.
build() {
    local preset=$1 log=$ROOT/build/$1.build.log
    shift
    local targets=()
    if [ $# -gt 0 ]; then targets=(--target "$@"); fi
    NINJA_STATUS='[%f/%t] ' cmake --build "build/$preset" -j "$JOBS" "${targets[@]}" 2>&1 |
        tee "$log" | progress_line "build/$preset" steps || {
        grep -v '^\[[0-9]*/[0-9]*\]' "$log" >&2 || true
        die "the build in build/$preset failed; all of its output is in $log"
    }
}
