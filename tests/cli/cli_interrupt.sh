# SIGINT and SIGTERM: the right status, one line, no half-made file.
. "$(dirname "$0")/lib.sh"
command -v timeout >/dev/null || exit 77
make_model

# interrupted SIGNAL SECONDS ARGUMENT...: start the program and send it the signal.
interrupted() {
    signal=$1
    seconds=$2
    shift 2
    timeout --preserve-status --signal="$signal" "$seconds" "$ERNIE" "$@" >out 2>err </dev/null
    status=$?
}

# Long enough to be running still: only the context ends it.
interrupted INT 1 run $MODEL -p hello --logit-bias 2=-inf --ctx 4096 --quiet
if [ "$status" -eq 0 ]; then
    echo "  (the answer was finished before the signal came)"
else
    failed_with 130 'stopped by a signal' 'run and SIGINT'
fi
interrupted TERM 1 run $MODEL -p hello --logit-bias 2=-inf --ctx 4096 --quiet
[ "$status" -eq 0 ] || failed_with 143 'stopped by a signal' 'run and SIGTERM'

# Waiting for standard input.
sleep 3 | timeout --preserve-status --signal=INT 1 "$ERNIE" run $MODEL -p - >out 2>err
status=$?
failed_with 130 'stopped by a signal' 'reading a prompt and SIGINT'
sleep 3 | timeout --preserve-status --signal=TERM 1 "$ERNIE" chat $MODEL >out 2>err
status=$?
failed_with 143 'stopped by a signal' 'chat and SIGTERM'

# A file that is being written leaves nothing that opens.
interrupted INT 0.5 synth big.ernie --shape 21b --layers 8
if [ "$status" -eq 0 ]; then
    echo "  (the file was finished before the signal came)"
else
    failed_with 130 'stopped by a signal' 'synth and SIGINT'
    absent big.ernie
    checked
    [ -z "$(ls big.ernie* 2>/dev/null)" ] || failed 'the unfinished file should be gone'
fi
rm -f big.ernie*

finish
