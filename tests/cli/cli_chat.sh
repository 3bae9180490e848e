# ernie chat without a terminal: each line of standard input is answered in turn, whatever it says.
. "$(dirname "$0")/lib.sh"
make_model

# chat TEXT ARGUMENT...: the text, with printf's escapes, is the standard input.
chat() {
    printf '%b' "$1" >in
    shift
    "$ERNIE" chat $MODEL "$@" <in >out 2>err
    status=$?
    checked
}
answers() {
    checked
    n=$(wc -l <out)
    [ "$n" -ge "$1" ] || failed "expected $1 answers or more, found $n lines"
}

chat 'hello\nand more\n' -n 4 --temp 0
[ "$status" -eq 0 ] || failed 'two lines'
answers 2
quiet_stderr
cp out two.txt
chat 'hello\n\n   \nand more' -n 4 --temp 0
same out two.txt
chat '' -n 4
[ "$status" -eq 0 ] || failed 'no lines'
chat 'a \\\nb\n' -n 4 --temp 0
[ "$status" -eq 0 ] || failed 'a line that goes on'
answers 1
chat 'hello\n' -n 4 --temp 0 --system 'be brief'
[ "$status" -eq 0 ] || failed '--system'

# Text from elsewhere gives no commands: a line that looks like one is a question like any other.
chat '/exit\nhello\n/save talk.json\n/load nowhere.json\n/frobnicate\n/save\n' -n 4 --temp 0
[ "$status" -eq 0 ] || failed 'lines that begin with a slash'
answers 6
quiet_stderr
absent talk.json
chat '/reset\n' -n 4 --temp 0
cp out slash.txt
ok run $MODEL -p /reset -n 4 --temp 0 -q
same out slash.txt

# Old turns make room for new ones.
words='one two three four five six seven'
chat "$words\n$words\n$words\n$words\n$words\n$words\n" -n 8 --temp 0 --ctx 64
[ "$status" -eq 0 ] || failed 'more turns than the context holds'

# What someone at a terminal would be told ends a script.
chat "$words $words $words $words $words $words $words $words\n" --ctx 16 -n 2
failed_with 1 'the context holds 16' 'a message that is too long'
chat 'a\0000b\n' -n 2
failed_with 1 'NUL byte' 'a NUL byte'
bad 1 'nowhere.ernie' chat nowhere.ernie
bad 1 'option --memory' chat $MODEL --memory 1K
bad 1 "option --ctx: 99999 tokens, the model's limit is 4096" chat $MODEL --ctx 99999
bad 1 "option --logit-bias: id 99999999 is not one of the model's" chat $MODEL --logit-bias 99999999=1

finish
