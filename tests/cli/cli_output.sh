# Standard output that cannot take what is written: closed or full, which is an error with a line, or
# a pipe that nobody reads, which is none.
. "$(dirname "$0")/lib.sh"
make_model
printf '{"text": "hello world"}\n' >text.jsonl

# Every command that prints; one argument list a line.
commands() {
    cat <<TABLE
--help
--version
run --help
run $MODEL -p hello -n 3
run $MODEL -p hello -n 3 --json
info $MODEL
info $MODEL --json --records
verify $MODEL
logits $MODEL --ids 5
tokenize $MODEL hello
detokenize $MODEL --ids 20
eval $MODEL text.jsonl
bench $MODEL -p 1 -n 1 --repeat 1 --threads 1
TABLE
}

commands >commands.txt
: >out
while read -r arguments; do
    # shellcheck disable=SC2086
    "$ERNIE" $arguments >&- 2>err </dev/null
    status=$?
    failed_with 1 'standard output cannot be written' "ernie $arguments >&-"
    if [ -c /dev/full ]; then
        # shellcheck disable=SC2086
        "$ERNIE" $arguments >/dev/full 2>err </dev/null
        status=$?
        failed_with 1 'standard output cannot be written: No space left' "ernie $arguments >/dev/full"
    fi
done <commands.txt

echo hello | "$ERNIE" chat $MODEL -n 3 >/dev/full 2>err
status=$?
failed_with 1 'standard output cannot be written' 'ernie chat >/dev/full'

# unread STATUS NAME: a reader that went away ends the program as it ends others, without a word.
unread() {
    status=$1
    checked
    [ "$status" -eq 141 ] || failed "$2: expected status 141"
    quiet_stderr
}

# The reader is there while descriptor 3 is opened, and gone when the program writes.
mkfifo pipe
: >out
while read -r arguments; do
    sleep 0.05 <pipe &
    exec 3>pipe
    wait $!
    # shellcheck disable=SC2086
    "$ERNIE" $arguments >&3 2>err </dev/null 3>&-
    unread $? "ernie $arguments without a reader"
    exec 3>&-
done <commands.txt

# A reader that leaves in the middle of an answer ends it.
(
    "$ERNIE" run $MODEL -p hello -n 2000 --logit-bias 2=-inf --ctx 2500 2>err
    echo $? >status.txt
) | head -c 1 >/dev/null
unread "$(cat status.txt)" 'a pipe that nobody reads'
(
    "$ERNIE" info $MODEL --records 2>err
    echo $? >status.txt
) | head -n 1 >out
checked
[ "$(cat status.txt)" -eq 141 ] || [ "$(cat status.txt)" -eq 0 ] || failed 'info --records | head -n 1'
quiet_stderr
(
    yes hello | head -n 1000 | "$ERNIE" chat $MODEL -n 8 2>err
    echo $? >status.txt
) | head -n 1 >/dev/null
unread "$(cat status.txt)" 'a chat that nobody reads'
ok --help
says out 'ends with 141'

# The other descriptors may be closed: nothing that is opened may take their place.
"$ERNIE" run $MODEL -p hello -n 3 --temp 0 -q <&- >out 2>&-
status=$?
checked
[ "$status" -eq 0 ] || failed 'closed standard input and error'
cp out closed.txt
ok run $MODEL -p hello -n 3 --temp 0 -q
same out closed.txt
echo hello | "$ERNIE" chat $MODEL -n 3 >&- 2>err
status=$?
failed_with 1 'standard output cannot be written' 'chat with standard output closed'
for command in tokenize chat; do
    [ $command = chat ] && text= || text=-
    # shellcheck disable=SC2086
    "$ERNIE" $command $MODEL $text <&- >out 2>err
    status=$?
    failed_with 1 'standard input cannot be read: Bad file descriptor' "$command without standard input"
done
"$ERNIE" synth other.ernie --shape demo --layers 1 >&- 2>err
status=$?
failed_with 1 'standard output cannot be written' 'synth with standard output closed'
ok verify other.ernie

finish
