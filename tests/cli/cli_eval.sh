# ernie eval: the mean negative log-likelihood, and files that are not what they should be.
. "$(dirname "$0")/lib.sh"
make_model

printf '{"text": "hello world</s>"}\n{"text": "a"}\n\n{"text": "more words here", "other": 1}\n' >three.jsonl
ok eval $MODEL three.jsonl
quiet_stderr
json 'set(v) == {"documents", "tokens", "nll_per_token"} and v["documents"] == 3 and v["nll_per_token"] > 0'
cp out three.json
ok eval $MODEL three.jsonl --json --threads 1 --cpu base
json 'abs(v["nll_per_token"] - json.load(open("three.json"))["nll_per_token"]) < 1e-3'
ok eval $MODEL three.jsonl --limit 1
json 'v["documents"] == 1'
tokens=$(sed 's/.*"tokens":\([0-9]*\).*/\1/' out)
ok tokenize $MODEL 'hello world</s>'
json "len(v) - 1 == $tokens"
ok eval $MODEL three.jsonl --limit 100
json 'v["documents"] == 3'
printf '{"text": "hello world</s>"}' >unended.jsonl
ok eval $MODEL unended.jsonl
json "v['tokens'] == $tokens"

# Only the first 1024 tokens of a document are scored.
text=$(head -c 6000 /dev/zero | tr '\0' 7)
printf '{"text": "%s"}\n' "$text" >long.jsonl
ok eval $MODEL long.jsonl
json 'v["tokens"] == 1023'

while IFS='|' read -r fragment text; do
    printf '{"text": "good enough"}\n%s\n' "$text" >bad.jsonl
    bad 1 "bad.jsonl: line 2 $fragment" eval $MODEL bad.jsonl
    ok eval $MODEL bad.jsonl --limit 1
done <<'TABLE'
is not JSON|{"text":
is not JSON|text
has no "text"|{"txt": "x"}
has no "text"|{"text": 5}
has no "text"|["text"]
is not JSON|null
is not JSON|{"text": "\ud800"}
TABLE
: >empty.jsonl
bad 1 'empty.jsonl: nothing to score' eval $MODEL empty.jsonl
printf '{"text": ""}\n' >nothing.jsonl
bad 1 'nothing to score' eval $MODEL nothing.jsonl
bad 1 'nowhere.jsonl: No such file' eval $MODEL nowhere.jsonl
bad 1 "$PWD: Is a directory" eval $MODEL "$PWD"
bad 1 'nowhere.ernie' eval nowhere.ernie three.jsonl
bad 1 'option --memory' eval $MODEL three.jsonl --memory 1K

finish
