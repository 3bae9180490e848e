# Shared by the tests of the program; sourced by cli_*.sh, which run.sh starts. POSIX sh.
#
# ERNIE is the program, REPO the repository, and the current folder is an empty one of the test's own.
# A check that fails prints what it saw and the test goes on; `finish` turns failures into status 1.

n_checks=0
n_failed=0
status=0

PYTHON=
for candidate in python3 /usr/bin/python3; do
    if [ -z "$PYTHON" ] && "$candidate" -c 'import json' 2>/dev/null; then PYTHON=$candidate; fi
done

checked() { n_checks=$((n_checks + 1)); }

# failed WHAT: the check that is under way did not hold.
failed() {
    n_failed=$((n_failed + 1))
    printf 'FAILED: %s\n' "$1"
    printf '  status %s, standard output %s bytes, standard error:\n' "$status" "$(wc -c <out)"
    head -c 1000 err | sed 's/^/  | /'
}

# run ARGUMENT...: the program, its output in the files out and err, its status in $status.
run() {
    "$ERNIE" "$@" >out 2>err </dev/null
    status=$?
}

# ok ARGUMENT...: must succeed.
ok() {
    checked
    run "$@"
    [ "$status" -eq 0 ] || failed "ernie $* should succeed"
}

# one_line NAME: standard error is one line that begins with "ernie".
one_line() {
    if [ "$(wc -l <err)" -ne 1 ]; then
        failed "$1: expected exactly one line on standard error"
    elif ! grep -q '^ernie' err; then
        failed "$1: the line does not begin with the program's name"
    fi
}

# bad STATUS FRAGMENT ARGUMENT...: must fail with this status, nothing on standard output and one line
# that holds the fragment.
bad() {
    expected=$1
    fragment=$2
    shift 2
    checked
    run "$@"
    if [ "$status" -ne "$expected" ]; then
        failed "ernie $*: expected status $expected"
    elif ! grep -qF -e "$fragment" err; then
        failed "ernie $*: expected the line to hold: $fragment"
    elif [ -s out ]; then
        failed "ernie $*: wrote to standard output"
    else
        one_line "ernie $*"
    fi
}

# failed_with STATUS FRAGMENT NAME: the same for a program that the test started itself.
failed_with() {
    checked
    if [ "$status" -ne "$1" ]; then
        failed "$3: expected status $1"
    elif ! grep -qF -e "$2" err; then
        failed "$3: expected the line to hold: $2"
    else
        one_line "$3"
    fi
}

# says FILE PATTERN: a line of the file matches the extended regular expression.
says() {
    checked
    grep -qE -e "$2" "$1" || failed "$1 should match: $2"
}

same() {
    checked
    cmp -s "$1" "$2" || failed "$1 and $2 should be the same"
}

quiet_stderr() {
    checked
    [ ! -s err ] || failed "standard error should be empty"
}

absent() {
    checked
    [ ! -e "$1" ] || failed "$1 should not be there"
}

# json EXPRESSION: out is one line of JSON, and the Python expression over its value v is true. Only
# checked where there is a Python.
json() {
    [ -n "$PYTHON" ] || return 0
    checked
    "$PYTHON" -c '
import json, math, sys
text = open("out", encoding="utf-8").read()
def no(name): raise ValueError(name)
v = json.loads(text, parse_constant=no)
assert text.endswith("\n"), "no newline"
assert eval(sys.argv[1]), v if len(text) < 500 else "expression is false"
' "$1" 2>json.err || { failed "JSON should be: $1"; tail -n 1 json.err; }
}

# documented COMMAND: the command's help names every field of the JSON object in out.
documented() {
    [ -n "$PYTHON" ] || return 0
    fields=$("$PYTHON" -c 'import json; print(*json.load(open("out")))')
    cp out fields.json
    for field in $fields; do
        ok help "$1"
        says out "(^|[^a-z_])$field([^a-z_]|\$)"
    done
    mv fields.json out
}

# A small model of random weights, made once per test.
make_model() {
    ok synth model.ernie --shape demo --layers 2 --type w4
    MODEL=model.ernie
}

# The trained model of the repository, where a check-out has it.
demo_model() {
    DEMO=$REPO/models/ernie-demo.ernie
    [ -f "$DEMO" ]
}

finish() {
    printf '%s checks, %s failed\n' "$n_checks" "$n_failed"
    [ "$n_failed" -eq 0 ] && [ "$n_checks" -gt 0 ]
    exit
}
