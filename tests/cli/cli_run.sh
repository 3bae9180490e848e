# ernie run: prompts in every form, options that reach the library, JSON, sessions, failures.
. "$(dirname "$0")/lib.sh"
make_model

# ---- Text to standard output, statistics to standard error ----
ok run $MODEL -p 'hello' -n 8 --temp 0
says err '^\[[0-9]+ prompt tokens [0-9.]+ s \([0-9]+ t/s\) \| [0-9]+ tokens [0-9.]+ s \([0-9]+ t/s\) \| stop: '
cp out answer.txt
ok run $MODEL -p 'hello' -n 8 --temp 0 --quiet
quiet_stderr
same out answer.txt
printf 'hello\n' >prompt.txt
"$ERNIE" run $MODEL -p - -n 8 --temp 0 -q <prompt.txt >out 2>err
same out answer.txt
ok run $MODEL --prompt=hello --tokens=8 --temp=0 --threads 1 -q
ok run $MODEL -p hello -n 4 --temp 0 --kv f32 --ctx 64 --cpu base --backend auto -q
ok run $MODEL -p hello -n 4 --temp 0 --kv q8 --save-session q8.bin -q
ok run $MODEL --load-session q8.bin -n 2 --temp 0 --kv q8 -q
bad 1 'q8.bin" holds a q8 cache, the session an f16 one' run $MODEL --load-session q8.bin -n 1
ok run $MODEL -p hello -n 4 --temp 0 --kv q4 --save-session q4.bin -q
ok run $MODEL --load-session q4.bin -n 2 --temp 0 --kv q4 -q
bad 1 'q4.bin" holds a q4 cache, the session a q8 one' run $MODEL --load-session q4.bin -n 1 --kv q8
ok run $MODEL -p hello -n 4 --top-k 5 --top-p 0.9 --min-p 0.01 --repeat-penalty 1.1 \
    --frequency-penalty 0.1 --presence-penalty 0.1 --logit-bias 20=-inf --logit-bias 21=1 -q

# ---- JSON ----
ok run $MODEL -p 'hello' -n 8 --temp 0 --json
quiet_stderr
json 'set(v) >= {"ids", "text", "stop", "prompt_tokens", "generated_tokens", "prefill_tps", "decode_tps", "seed"}'
json 'len(v["ids"]) == v["generated_tokens"] <= 8 and v["prompt_tokens"] > 0'
json 'v["stop"] in ("length", "end") and v["text"] + "\n" == open("answer.txt").read()'
ok run $MODEL -p 'hello' -n 4 --json --seed 7
cp out seven.json
json 'v["seed"] == 7'
ok run $MODEL -p 'hello' -n 4 --json --seed 7
json 'v["ids"] == json.load(open("seven.json"))["ids"]'
ok run $MODEL -p 'hello' -n 4 --json
json '0 < v["seed"] < 2 ** 53'
ok run $MODEL -p 'hello' -n 3 --json --temp 0 --logprobs 4
json 'len(v["logprobs"]) == len(v["ids"])'
documented run
json 'all(l["id"] == i and len(l["top"]) == 4 and l["logprob"] <= 0 for l, i in zip(v["logprobs"], v["ids"]))'
json 'all(l["top"][0]["id"] == l["id"] and set(l["top"][0]) == {"id", "text", "logprob"} for l in v["logprobs"])'
ok run $MODEL -p 'hello' -n 3 --json --logprobs 0
json 'all(l["top"] == [] for l in v["logprobs"])'

# ---- Ids in, ids out ----
ok run $MODEL --ids 5,6,7 -n 5 --temp 0 --json
cp out ids.json
json 'v["prompt_tokens"] == 3 and len(v["ids"]) <= 5'
ok run $MODEL --ids ' 5, 6 ,7' -n 5 --temp 0 --json
json 'v["ids"] == json.load(open("ids.json"))["ids"]'
ok run $MODEL --ids 5,6,7 -n 5 --temp 0 -q
if [ -n "$PYTHON" ]; then
    first=$("$PYTHON" -c 'import json; print((json.load(open("ids.json"))["ids"] + [0])[0])')
    ok run $MODEL --ids 5,6,7 -n 5 --temp 0 --json --stop-id "$first"
    json 'v["ids"] == [] and v["stop"] in ("id", "end") and v["text"] == ""'
    ok run $MODEL --ids 5,6,7 -n 5 --temp 0 --json --logit-bias "$first=-inf"
    json "v['ids'] == [] or v['ids'][0] != $first"
fi
ok info $MODEL --json
n_ids=$(sed 's/.*"vocab_size":\([0-9]*\).*/\1/' out)
ok run $MODEL --ids $((n_ids - 1)) -n 1
wrong="id $n_ids is not one of the model's, 0 to $((n_ids - 1))"
bad 1 "option --ids: $wrong" run $MODEL --ids "5,$n_ids" -n 1
bad 1 "option --stop-id: $wrong" run $MODEL -p hello -n 1 --stop-id "5,$n_ids"
bad 1 "option --logit-bias: $wrong" run $MODEL -p hello -n 1 --logit-bias "$n_ids=1"

# ---- Raw text: special tokens in it count, in a question they do not ----
ok run $MODEL --raw -p '</s>' -n 1 --json
json 'v["prompt_tokens"] == 1'
ok run $MODEL -p '</s>' -n 1 --json
json 'v["prompt_tokens"] > 2'
ok tokenize $MODEL 'ab
'
cp out raw.ids
printf 'ab\n' | "$ERNIE" run $MODEL --raw -p - -n 1 --json >out 2>err
json 'v["prompt_tokens"] == len(json.load(open("raw.ids")))'
ok run $MODEL --system 'Be kind.' -p hello -n 1 --json
cp out system.json
ok run $MODEL -p hello -n 1 --json
json 'v["prompt_tokens"] < json.load(open("system.json"))["prompt_tokens"]'
bad 1 'the prompt is empty' run $MODEL -p '' -n 1
bad 1 'the prompt is empty' run $MODEL --raw -p '' -n 1
echo | "$ERNIE" run $MODEL -p - -n 1 >out 2>err
status=$?
failed_with 1 'the prompt is empty' 'an empty line as the prompt'
ok run $MODEL -p "$(printf 'broken \377\376 text')" -n 1 --json
json 'len(v["ids"]) <= 1'
printf 'a\0b' >nul.txt
"$ERNIE" run $MODEL -p - -n 1 <nul.txt >out 2>err
status=$?
failed_with 1 'NUL byte' 'a NUL byte in a question'

# ---- Search results ----
cat >search.json <<'JSON'
{"date": "2025-04-20 10:00:00, Sunday, Beijing/China.",
 "references": [{"title": "A", "published": "2025-04-20", "content": "B", "url": "http://c", "site": "D"},
                {"title": null, "content": "only this"}]}
JSON
ok run $MODEL -p 'who?' --search-context search.json -n 1 --json
cp out english.json
json 'v["prompt_tokens"] > 50'
ok run $MODEL -p '谁？' --search-context search.json -n 1 --json
json 'v["prompt_tokens"] != json.load(open("english.json"))["prompt_tokens"]'
sed 's/^{/{"language": "zh", /' search.json >zh.json
ok run $MODEL -p 'who?' --search-context zh.json -n 1 --json
json 'v["prompt_tokens"] != json.load(open("english.json"))["prompt_tokens"]'
while IFS='|' read -r fragment text; do
    printf '%s' "$text" >bad.json
    bad 1 "bad.json: $fragment" run $MODEL -p x --search-context bad.json
done <<'TABLE'
line 1 is not JSON|{"date":
line 1 is not JSON|
not a JSON object|[]
date is missing or not a string|{"references": []}
date is missing or not a string|{"date": 5, "references": []}
references is missing or not an array|{"date": "d"}
references is missing or not an array|{"date": "d", "references": {}}
references[0] is not an object|{"date": "d", "references": ["x"]}
references[1].url is not a string|{"date": "d", "references": [{}, {"url": 5}]}
language is neither "zh" nor "en"|{"date": "d", "references": [], "language": "fr"}
TABLE
printf '{"date": "\377", "references": []}' >bad.json
bad 1 'bad.json: line 1 is not JSON' run $MODEL -p x --search-context bad.json
bad 1 'nowhere.json: cannot be opened: No such file' run $MODEL -p x --search-context nowhere.json
bad 1 "$PWD: is a directory, expected a file" run $MODEL -p x --search-context "$PWD"

# ---- Sessions ----
ok run $MODEL --ids 5,6,7,8 -n 3 --temp 0 --json --save-session s.bin
cp out whole.json
ok run $MODEL --load-session s.bin -n 2 --temp 0 --json
json 'v["prompt_tokens"] == 0 and v["generated_tokens"] <= 2'
ok run $MODEL --load-session s.bin -n 2 --temp 0
says err '^\[[0-9]+ tokens [0-9.]+ s \([0-9]+ t/s\) \| stop: '
ok run $MODEL --load-session s.bin -p 'more' -n 2 --temp 0 --json
json 'v["prompt_tokens"] > 0'
ok run $MODEL --load-session s.bin --raw -p 'more' -n 2 --temp 0 --json
ok run $MODEL --load-session s.bin --ids 9 -n 2 --temp 0 --json
json 'v["prompt_tokens"] == 1'
bad 1 'run: nowhere.bin: cannot be opened: No such file' run $MODEL --load-session nowhere.bin -n 1
head -c 100 s.bin >short.bin
bad 1 'short.bin' run $MODEL --load-session short.bin -n 1
bad 1 'model.ernie' run $MODEL --load-session model.ernie -n 1
bad 1 's.bin" holds an f16 cache, the session an f32 one' run $MODEL --load-session s.bin -n 1 --kv f32
bad 1 "of the context's 8 are taken (option --ctx)" run $MODEL --load-session s.bin --ids 5,5,5,5 --ctx 8 -n 1
# Where the session cannot be saved is said before the answer: nothing is on standard output.
bad 1 '/nowhere/s.bin: cannot be created: No such file' run $MODEL --ids 5 -n 1 --save-session /nowhere/s.bin
bad 1 "$MODEL/s.bin: cannot be created: Not a directory" run $MODEL --ids 5 -n 1 --save-session $MODEL/s.bin
bad 1 "$PWD: is a directory, expected the name of a file" run $MODEL --ids 5 -n 1 --save-session "$PWD"
if [ "$(id -u)" -ne 0 ]; then
    mkdir closed
    chmod 500 closed
    bad 1 'closed/s.bin: cannot be created: Permission denied' run $MODEL --ids 5 -n 1 --save-session closed/s.bin
fi

# ---- Limits ----
bad 1 'the prompt has' run $MODEL --ids 5,5,5,5,5,5,5,5,5 --ctx 8 -n 1
bad 1 'the context holds 8 (option --ctx)' run $MODEL --ids 5,5,5,5,5,5,5,5,5 --ctx 8 -n 1
bad 1 "the model's limit" run $MODEL -p x --ctx 2000000000 -n 1
ok run $MODEL --ids 5,5,5,5,5,5,5,5 --ctx 8 -n 1 --json
json 'v["prompt_tokens"] == 8 and v["generated_tokens"] <= 1'
head -c 20000 /dev/zero | tr '\0' 7 | "$ERNIE" run $MODEL --raw -p - -n 1 >out 2>err
status=$?
failed_with 1 "the prompt has 2" 'a prompt longer than the model'
says err "tokens, the context holds 4096, the model's limit\$"
ok run $MODEL --ids 5,5,5,5 --ctx 6 -n 50 --temp 0 --json
json 'v["stop"] in ("context", "end") and v["generated_tokens"] <= 3'
bad 1 'a ceiling of 0.001 MB is too low' run $MODEL -p x --memory 1K -n 1
says err ': [0-9.]+ MB of resident weights and [0-9]+ experts of [0-9.]+ MB take [0-9.]+ MB, .* \(option --memory\)$'
bad 1 'a ceiling of 8.4 MB is too low' run $MODEL -p x --memory 8M --ctx 4096 -n 1
says err 'held, a session of 4096 tokens needs [0-9.]+ MB, experts [0-9.]+ MB; [0-9.]+ MB would do'
ok run $MODEL -p x --memory 64G -n 1 -q
bad 1 'run: nowhere.ernie: cannot be opened: No such file' run nowhere.ernie -p x
bad 1 'search.json' run search.json -p x
bad 1 "$PWD" run "$PWD" -p x
: >empty.ernie
bad 1 'empty.ernie' run empty.ernie -p x

# ---- The trained model ----
if demo_model; then
    ok run "$DEMO" -p '写一首五言绝句' --temp 0 --json
    json 'v["stop"] == "end" and len(v["text"]) > 20 and "，" in v["text"]'
    ok run "$DEMO" -p '写一首五言绝句' --temp 0 --stop '，' --json
    json 'v["stop"] == "string" and "，" not in v["text"]'
    ok run "$DEMO" -p '写一首五言绝句' -n 60 -q
    checked
    [ "$(wc -c <out)" -gt 10 ] || failed 'the demo model should write something'
fi

finish
