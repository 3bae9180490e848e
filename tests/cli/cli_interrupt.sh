# SIGINT, SIGTERM and SIGHUP: the right status, one line, no half-made file.
. "$(dirname "$0")/lib.sh"
make_model
endless='--logit-bias 2=-inf --ctx 4096 --quiet' # only the context ends such an answer

# Does the process catch SIGINT? It is the first thing that the program asks for, and until then a
# job in the background ignores it. Where the system does not tell, a second must do.
catches_signals() {
    [ -r /proc/self/status ] || sleep 1
    [ ! -r "/proc/$1/status" ] || grep -q '^SigCgt:.*[2367abef]$' "/proc/$1/status"
}

# signalled SIGNAL STATUS NAME READY: send the signal to the program that the caller has just started
# in the background ($!), once the command READY holds, and check how it ends.
signalled() {
    pid=$!
    while ! catches_signals "$pid"; do sleep 0.02; done
    while ! eval "$4" && kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    kill -s "$1" "$pid" 2>/dev/null
    wait "$pid"
    status=$?
    if [ "$status" -eq 0 ]; then
        echo "  ($3 was finished before the signal came)"
    else
        failed_with "$2" 'stopped by a signal' "$3"
    fi
}

# With an endless answer the first text shows that it is under way.
: >out
"$ERNIE" run $MODEL -p hello $endless >out 2>err </dev/null &
signalled INT 130 'run and SIGINT' '[ -s out ]'
says err 'after [0-9]+ tokens?$'
: >out
"$ERNIE" run $MODEL -p hello $endless >out 2>err </dev/null &
signalled TERM 143 'run and SIGTERM' '[ -s out ]'
: >out
"$ERNIE" run $MODEL -p hello $endless >out 2>err </dev/null &
signalled HUP 129 'run and SIGHUP' '[ -s out ]'
checked
: >out
trap '' HUP # as nohup does
"$ERNIE" run $MODEL -p hello --logit-bias 2=-inf -n 100 --threads 1 --quiet >out 2>err </dev/null &
pid=$!
trap - HUP
while ! [ -s out ] && kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
kill -s HUP "$pid" 2>/dev/null
wait "$pid"
status=$?
[ "$status" -eq 0 ] || failed 'a SIGHUP that is ignored should stay so'
: >out
echo hello >hello.txt
"$ERNIE" chat $MODEL $endless >out 2>err <hello.txt &
signalled INT 130 'chat and SIGINT' '[ -s out ]'

# A result that is not whole is not printed, a session that is not whole not saved.
"$ERNIE" run $MODEL -p hello $endless --json --save-session s.bin >out 2>err </dev/null &
signalled INT 130 'run --json and SIGINT' 'sleep 0.3'
if [ "$status" -ne 0 ]; then
    checked
    [ ! -s out ] || failed 'half a JSON object'
    absent s.bin
fi
text='{"text": "a few words for a short document"}'
for _ in 1 2 3 4 5 6 7 8 9 10; do text="$text
$text"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do echo "$text"; done >many.jsonl
"$ERNIE" eval $MODEL many.jsonl --cpu base --threads 1 >out 2>err </dev/null &
signalled INT 130 'eval and SIGINT' 'sleep 0.3'
[ "$status" -eq 0 ] || { checked; [ ! -s out ] || failed 'a result in spite of SIGINT'; }
"$ERNIE" eval $MODEL many.jsonl --against $MODEL --cpu base --threads 1 >out 2>err </dev/null &
signalled TERM 143 'eval of two models and SIGTERM' 'sleep 0.3'
"$ERNIE" bench $MODEL --repeat 1000 >out 2>err </dev/null &
signalled TERM 143 'bench and SIGTERM' 'sleep 0.3'
[ "$status" -eq 0 ] || { checked; [ ! -s out ] || failed 'a result in spite of SIGTERM'; }

# Waiting for standard input.
mkfifo nothing
exec 3<>nothing
"$ERNIE" run $MODEL -p - >out 2>err <nothing &
signalled INT 130 'reading a prompt and SIGINT' 'sleep 0.3'
"$ERNIE" tokenize $MODEL - >out 2>err <nothing &
signalled INT 130 'reading a text and SIGINT' 'sleep 0.3'
"$ERNIE" chat $MODEL >out 2>err <nothing &
signalled TERM 143 'chat and SIGTERM' 'sleep 0.3'
exec 3>&-

# A file that is being written leaves nothing, and what was there before stays.
# unfinished NAME FILE LEFT: FILE* is what LEFT says.
unfinished() {
    if [ "$status" -ne 0 ]; then
        checked
        [ "$(ls "$2"* 2>/dev/null)" = "$3" ] || failed "$1: the unfinished file should be gone"
    fi
    rm -f "$2"*
}
"$ERNIE" calibrate $MODEL many.jsonl some.imatrix --cpu base --threads 1 >out 2>err </dev/null &
signalled INT 130 'calibrate and SIGINT' '[ -e some.imatrix.part ]'
unfinished calibrate some.imatrix ''
"$ERNIE" tune $MODEL $MODEL many.jsonl some.ernie --cpu base --threads 1 >out 2>err </dev/null &
signalled INT 130 'tune and SIGINT' '[ -e some.ernie.part ]'
unfinished tune some.ernie ''
# room GIGABYTES: whether the disk has them. What is reserved is taken at once.
room() { [ "$(df -Pk . | awk 'NR == 2 { print $4 }')" -gt $(($1 * 1024 * 1024)) ]; }
if room 4; then
    "$ERNIE" synth big.ernie --shape 21b --layers 8 >out 2>err </dev/null &
    signalled INT 130 'synth and SIGINT' '[ -e big.ernie.part ]'
    unfinished synth big.ernie ''
    echo old >big.ernie
    "$ERNIE" synth big.ernie --shape 21b --layers 8 --force >out 2>err </dev/null &
    signalled TERM 143 'synth and SIGTERM' '[ -e big.ernie.part ]'
    unfinished synth big.ernie big.ernie
else
    echo "  (no room for the file of synth)"
fi
if room 4; then
    ok synth long.ernie --shape 21b --layers 2 --type w4
    "$ERNIE" export long.ernie out.gguf --threads 1 >out 2>err </dev/null &
    signalled INT 130 'export and SIGINT' '[ -e out.gguf.part ]'
    unfinished export out.gguf ''
    rm -f long.ernie
fi
if room 4 && [ -n "$PYTHON" ] && "$PYTHON" "$(dirname "$0")/sparse_checkpoint.py" zeros 60; then
    "$ERNIE" convert zeros out.ernie >out 2>err </dev/null &
    signalled INT 130 'convert and SIGINT' '[ -e out.ernie.part ]'
    unfinished convert out.ernie ''
else
    echo "  (no checkpoint that takes long)"
fi

finish
