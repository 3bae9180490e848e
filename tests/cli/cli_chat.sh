# ernie chat without a terminal: each line of standard input is answered in turn.
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
chat 'hello\n/reset\nhello\n' -n 4 --temp 0
[ "$status" -eq 0 ] || failed '/reset'
chat 'a \\\nb\n/exit\nnever read\n' -n 4 --temp 0
[ "$status" -eq 0 ] || failed 'a line that goes on'
answers 1
chat '/help\n/system be kind\nhello\n/system\nhello\n' -n 4 --temp 0 --system 'be brief'
[ "$status" -eq 0 ] || failed '/system'

# A saved conversation continues as if it had not been left.
chat 'hello\n/save talk.json\nand more\n' -n 4 --temp 0
cp out whole.txt
chat '/load talk.json\nand more\n' -n 4 --temp 0
checked
[ "$(tail -n 1 whole.txt)" = "$(tail -n 1 out)" ] || failed '/load should continue the conversation'
cp talk.json out
[ -z "$PYTHON" ] || json '[m["role"] for m in v["messages"]] == ["user", "assistant"]'

# Old turns make room for new ones.
words='one two three four five six seven'
chat "$words\n$words\n$words\n$words\n$words\n$words\n" -n 8 --temp 0 --ctx 64
[ "$status" -eq 0 ] || failed 'more turns than the context holds'

# What someone at a terminal would be told ends a script.
chat "$words $words $words $words $words $words $words $words\n" --ctx 16 -n 2
failed_with 1 'the context holds 16' 'a message that is too long'
chat 'hello\n/frobnicate\n' -n 2
failed_with 1 'unknown command /frobnicate' 'an unknown command'
chat '/load nowhere.json\n' -n 2
failed_with 1 'nowhere.json: No such file' '/load of nothing'
chat '/save /nowhere/talk.json\n' -n 2
failed_with 1 '/nowhere/talk.json' '/save to nowhere'
chat '/save\n' -n 2
failed_with 1 '/save needs the name of a file' '/save without a name'
printf '{"messages": 5}' >bad.json
chat '/load bad.json\n' -n 2
failed_with 1 'bad.json: messages is not an array' '/load of something else'
chat 'a\0000b\n' -n 2
failed_with 1 'NUL byte' 'a NUL byte'
bad 1 'nowhere.ernie' chat nowhere.ernie
bad 1 'option --memory' chat $MODEL --memory 1K
bad 1 "option --ctx: 99999 tokens, the model's limit is 4096" chat $MODEL --ctx 99999
bad 1 "option --logit-bias: id 99999999 is not one of the model's" chat $MODEL --logit-bias 99999999=1

finish
