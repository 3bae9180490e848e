# --trace and ernie replay: what is traced, what is counted, files that are not what they should be.
. "$(dirname "$0")/lib.sh"
make_model

# Ten tokens of a prompt and seven decoded ones: the last token of an answer is fed, too.
ok run $MODEL --ids 5,6,7,8,9,10,11,12,13,14 -n 7 --seed 1 --logit-bias 2=-inf --trace run.trace
ok replay run.trace --json
quiet_stderr
documented replay
for field in tokens overlap reuse_distance distinct_in_8 slots slots_per_layer policy \
    decoded_pins decoded_hit_rate prompt_pins prompt_hit_rate; do
    ok help replay
    says out "(^|[^a-z_])$field([^a-z_]|\$)"
done
ok replay run.trace --json
json 'v["prompt"]["tokens"] == 10 and v["decoded"]["tokens"] == 7 and v["layers"] == 1'
json 'v["experts"] == 32 and v["experts_used"] == 4 and len(v["weights_id"]) == 32'
json '{r["decoded_pins"] for r in v["results"]} == {7 * 4}'
json '[r["slots"] for r in v["results"] if r["policy"] == "lru"] == [8, 12, 16, 24]'
json '0 <= v["decoded"]["overlap"] <= 1 and v["decoded"]["distinct_in_8"] is None'
json '4 <= v["prompt"]["distinct_in_8"] <= 32'
json 'all(0 <= r["decoded_hit_rate"] <= 1 and r["prompt_hit_rate"] == 0 for r in v["results"])'
json 'all(min(r["decoded_hit_rate"] for r in v["results"] if r["policy"] == "opt" and r["slots"] == n) >= max(r["decoded_hit_rate"] for r in v["results"] if r["slots"] == n) for n in (8, 12, 16, 24))'
ok info $MODEL --json
cp out info.json
ok replay run.trace --json --policy lfru --slots 9,3 --slots 32
json '[(r["slots"], r["policy"]) for r in v["results"]] == [(9, "lfru"), (3, "lfru"), (32, "lfru")]'
json 'v["weights_id"] == json.load(open("info.json"))["id"]'

ok replay run.trace
says out ' +1 layer of 32 experts, 4 for a token$'
says out '^decoded +7 tokens; '
says out '^prompt +10 tokens; '
says out '^ +slots +a layer +lru +lfru +opt +lru +lfru +opt$'
says out '^ +24 +24.0 +[0-9.]+% +[0-9.]+% +[0-9.]+% +0.0%'
ok replay run.trace --policy lru --slots 16
says out '^ +16 +16.0 +[0-9.]+% +[0-9.]+%$'

# The trace changes nothing and is the same each time.
ok run $MODEL --ids 5,6,7,8 -n 5 --seed 3 --json --trace first.trace
cp out first.json
ok run $MODEL --ids 5,6,7,8 -n 5 --seed 3 --json --threads 1 --trace second.trace
json 'v["ids"] == json.load(open("first.json"))["ids"]'
same first.trace second.trace
ok run $MODEL --ids 5,6,7,8 -n 5 --seed 3 --json
json 'v["ids"] == json.load(open("first.json"))["ids"]'

# A prompt of several batches is one prompt, also when its last batch is one token.
ids=$(awk 'BEGIN { for (i = 0; i < 1025; i++) printf "%s%d", i ? "," : "", 3 + i * 7 % 900 }')
ok run $MODEL --ids "$ids" -n 1 --logit-bias 2=-inf --trace long.trace
ok replay long.trace --json --slots 32
json 'v["prompt"]["tokens"] == 1025 and v["decoded"]["tokens"] == 1'

# chat, bench and eval; eval decodes nothing, whatever the length of a document's end.
printf 'hello\nand again\n' >questions
checked
"$ERNIE" chat $MODEL -n 6 --seed 1 --trace chat.trace <questions >out 2>err
status=$?
[ "$status" -eq 0 ] || failed 'chat --trace should succeed'
ok replay chat.trace --json
json 'v["prompt"]["tokens"] > 0 and v["decoded"]["tokens"] > 0'
ok bench $MODEL -p 16 -n 4 --repeat 1 --threads 1 --trace bench.trace
ok replay bench.trace --json
json 'v["prompt"]["tokens"] >= 32 and v["decoded"]["tokens"] == 8'
printf '{"text": "hello world</s>"}\n{"text": "ab"}\n' >two.jsonl
ok eval $MODEL two.jsonl --trace eval.trace
cp out eval.json
ok replay eval.trace --json
json 'v["prompt"]["tokens"] == json.load(open("eval.json"))["tokens"] and v["decoded"]["tokens"] == 0'
json 'all(r["decoded_hit_rate"] is None for r in v["results"])'
ok eval $MODEL two.jsonl --against $MODEL --trace against.trace
same eval.trace against.trace

# ---- What is refused ----
bad 1 'nowhere.trace' replay nowhere.trace
bad 1 "$PWD: " replay "$PWD"
bad 1 'model.ernie: is not a trace' replay model.ernie
: >empty.trace
bad 1 'empty.trace: has 0 bytes' replay empty.trace
head -c 300 run.trace >cut.trace
bad 1 'cut.trace: ends at byte 300, ' replay cut.trace
bad 1 'it was cut off' replay cut.trace
{ cat run.trace && printf x; } >longer.trace
bad 1 'longer.trace: 1 bytes follow its end' replay longer.trace
bad 1 'option --slots: 33 slots, the model has 32 experts' replay run.trace --slots 8,33
bad 2 'option --slots: "0" is not a number of slots from 1' replay run.trace --slots 0
bad 2 'option --policy: "fifo" is not one of lru, lfru, opt, all' replay run.trace --policy fifo
bad 1 'nowhere/x.trace: cannot be created' run $MODEL --ids 5 -n 1 --trace nowhere/x.trace
bad 1 'is a directory, expected the name of a file' run $MODEL --ids 5 -n 1 --trace "$PWD"
bad 2 'option --trace does not belong to this command' info $MODEL --trace x.trace
ok synth dense.ernie --shape 0.3b --layers 1
bad 1 'option --trace: the model has no experts' run dense.ernie --ids 5 -n 1 --trace x.trace
absent x.trace

# A run that fails leaves an older trace as it was, and nothing beside it.
cp run.trace kept.trace
bad 1 'two.jsonl' eval $MODEL two.jsonl --skip 2 --trace kept.trace
same run.trace kept.trace
checked
[ -z "$(ls | grep 'tmp-')" ] || failed 'temporary files should be gone'

finish
