# Models larger than --memory: the same answers as from memory, plans that hold, statistics, the list of
# experts that were in memory, and what is refused.
. "$(dirname "$0")/lib.sh"
ok synth model.ernie --shape demo --type w4
MODEL=model.ernie
IDS=5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40

# number FIELD: of the JSON object in out, at any depth (a.b).
number() {
    "$PYTHON" -c '
import functools, json, sys
print(functools.reduce(lambda v, k: v[k], sys.argv[1].split("."), json.load(open("out"))))' "$1"
}

# ---- The plan ----
ok plan $MODEL --ctx 512 --no-probe --json
quiet_stderr
documented plan
ok plan $MODEL --ctx 512 --no-probe --json
json 'not v["streams"] and v["ceiling_bytes"] is None and v["slots"] == v["experts"] == 160'
json 'v["layers"] == 5 and v["experts_used"] == 4 and v["context"] == 512'
json 'v["hit_low"] == v["hit_high"] == 1 and v["tps_low"] is None and v["read_gbps"] is None'
json 'sum(v[k] for k in v if k in ("embedding_bytes", "attention_bytes", "dense_bytes", "shared_bytes", "norm_bytes", "prediction_bytes")) == v["resident_bytes"]'
json 'v["resident_bytes"] + v["experts_bytes"] <= v["bytes"] <= v["least_bytes"]'
json 'v["kv_bytes"] + v["scratch_bytes"] == v["session_bytes"]'
ok plan $MODEL --ctx 512 --threads 2 --memory 20M --json
json 'v["streams"] and v["ceiling_bytes"] == 20 << 20 and 8 == v["slots_min"] < v["slots"] < 160'
json 'v["slots_per_layer"] == v["slots"] / 5 and v["kept_bytes"] == v["slots"] * v["expert_bytes"]'
json 'v["resident_bytes"] + v["other_bytes"] + v["session_bytes"] + v["kept_bytes"] <= v["ceiling_bytes"]'
json '0 < v["hit_low"] < v["hit_high"] < 1 and 0 < v["tps_low"] < v["tps_high"]'
json 'v["read_gbps"] > 0 and v["disk_gbps"] > 0 and v["least_bytes"] < v["ceiling_bytes"]'
[ -n "$PYTHON" ] && LEAST=$(number least_bytes) || LEAST=17000000
ok plan $MODEL --ctx 512 --memory 20M --kv q8 --threads 1 --no-probe
says out '^weights +[0-9.]+ MB in memory always: embedding and head [0-9.]+ MB, attention '
says out '^experts +[0-9.]+ MB in the file: 5 layers of 32, [0-9.]+ MB each, 4 for a token$'
says out '^session +[0-9.]+ MB: keys and values of 512 tokens [0-9.]+ MB, scratch '
says out '^kept +[0-9.]+ MB: [0-9]+ of 160 experts, [0-9.]+ of 32 a layer$'
says out '^ceiling +20.97 MB, the experts come from disk; [0-9.]+ MB would do$'
says out '^hits +[0-9]+% to [0-9]+% of the experts that a token uses$'
ok plan $MODEL --ctx 512 --threads 2 --memory 20M
says out '^memory +[0-9.]+ GB/s read with [0-9]+ threads$'
says out '^disk +[0-9.]+ GB/s$'
says out '^decode +[0-9.]+ to [0-9.]+ tokens/s expected after 512 tokens$'
ok plan $MODEL --ctx 128 --threads 2 --memory 20M --io-limit 0.5
says out '^disk +0.50 GB/s by --io-limit$'
says out 'tokens/s expected after 128 tokens$'
ok plan $MODEL --ctx 512
says out '^ceiling +none, everything fits; it takes [0-9.]+ MB$'
says out '^decode +[0-9.]+ tokens/s expected after 512 tokens$'
ok synth dense.ernie --shape 0.3b --layers 1
ok plan dense.ernie --no-probe --json
json 'v["experts"] == v["slots"] == v["layers"] == 0 and not v["streams"]'
ok plan dense.ernie --no-probe

# A few layers that stand for more of them, and hits by a trace.
ok plan $MODEL --ctx 512 --threads 2 --memory 30M --layers 12 --no-probe --json
json 'v["layers"] == 11 and v["experts"] == 11 * 32 and v["slots"] < 352 and v["streams"]'
json 'v["least_bytes"] <= v["ceiling_bytes"] == 30 << 20'
bad 2 'option --layers needs --memory' plan $MODEL --layers 12
bad 1 'option --layers: 2, but the model has 6 layers' plan $MODEL --layers 2 --memory 30M
bad 1 'is too low for 120 layers' plan $MODEL --layers 120 --memory 30M --ctx 512 --no-probe
ok run $MODEL --ids $IDS -n 24 --seed 7 --logit-bias 2=-inf --trace a.trace
ok plan $MODEL --ctx 512 --threads 2 --memory 20M --no-probe --replay a.trace --json
json '0 <= v["hit_low"] == v["hit_high"] < 1'
ok plan $MODEL --ctx 512 --threads 2 --memory 20M --no-probe --replay a.trace
says out '^hits +[0-9]+% of the experts that a token uses, by the trace$'
bad 1 'nowhere.trace' plan $MODEL --ctx 512 --threads 2 --memory 20M --replay nowhere.trace

# ---- The same answers ----
# Scratch grows with the number of threads, and with it what is left for experts.
threads=2
# answers ARGUMENT...: the same as from memory.
answers() {
    checked
    "$ERNIE" run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 --threads $threads -q "$@" >out 2>err </dev/null
    status=$?
    [ "$status" -eq 0 ] || failed "run $* should succeed"
    same out expected
}
ok run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 -q
cp out expected
for memory in "$LEAST" 18M 20M 24M 36M 1G; do
    answers --memory "$memory" --warm none
done
answers --memory 20M --readers 1
answers --memory 20M --readers 8
answers --memory "$LEAST" --look-ahead --warm none
answers --memory 20M --look-ahead --policy lfru
answers --memory 20M --policy lfru --buffered --warm none
threads=1
answers --memory "$LEAST" --warm none
answers --memory 20M --readers 1 --look-ahead
threads=2
answers --memory 20M --io-limit 0.1 --io-latency 100 --warm none
answers --memory 20M --kv f16 --pages read
ok run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 -q --cpu base
cp out expected
answers --memory 20M --cpu base

# All else that has a session, too.
ok logits $MODEL --ids 5,6,7,8
cp out expected
ok logits $MODEL --ids 5,6,7,8 --threads 2 --memory 30M
same out expected
printf '{"text": "hello world</s>"}\n{"text": "and more of the same"}\n' >two.jsonl
ok eval $MODEL two.jsonl
cp out expected
ok eval $MODEL two.jsonl --threads 2 --memory 24M
same out expected
printf 'hello\nand again\n' >questions
for memory in 1G 30M; do
    checked
    "$ERNIE" chat $MODEL -n 12 --seed 1 --threads 2 --memory $memory <questions >chat.$memory 2>err
    status=$?
    [ "$status" -eq 0 ] || failed "chat --memory $memory should succeed"
done
same chat.1G chat.30M
# Commands without a session map the file, whatever memory there is.
ok info $MODEL
ok verify $MODEL

# ---- The list of experts ----
rm -f $MODEL.warm
ok run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 -q --threads 2 --memory 20M
cp out expected
checked
[ -s $MODEL.warm ] || failed 'run should write the list beside the model'
answers --memory 20M
cp $MODEL.warm list
answers --memory 20M --warm list
head -c 40 list >cut
answers --memory 20M --warm cut
printf 'no list at all' >damaged
answers --memory 20M --warm damaged
: >empty
answers --memory 20M --warm empty
{ head -c 60 list && printf 'xxxx' && tail -c +65 list; } >flipped
answers --memory 20M --warm flipped
printf 'no list at all' >damaged
ok run $MODEL --ids $IDS -n 2 --ctx 512 --threads 2 --memory 20M --warm damaged
says err 'note: no experts are read ahead: '
ok run $MODEL --ids $IDS -n 2 --ctx 512 --threads 2 --memory 20M --warm nowhere/list
says err 'note: the list of experts was not kept: .*nowhere'
answers --memory 20M --warm nowhere/list
absent nowhere
checked
[ "$(head -c 8 damaged | od -c)" = "$(head -c 8 list | od -c)" ] || failed 'a damaged list should be replaced'
rm -f $MODEL.warm
answers --memory 20M --warm none
answers
absent $MODEL.warm

# ---- Statistics ----
ok run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 --threads 2 --memory 20M --warm none
says err '\| stop: [a-z ]+ \| experts [0-9.]+% in memory, [0-9.]+ read a token, [0-9.]+ MB a token at [0-9.]+ GB/s, waited [0-9]+% \| [0-9.]+ of 32 experts a layer kept\]$'
ok run $MODEL --ids $IDS -n 24 --seed 7 --ctx 512 --threads 2 --memory 20M --warm none --json
documented run
json 'v["pages"] == "streamed"'
json 'set(v["stream"]) == {"slots", "slots_per_layer", "experts_per_layer", "expert_bytes", "prompt", "decode"}'
json 'v["stream"]["prompt"]["tokens"] == 36 and v["stream"]["decode"]["tokens"] == v["generated_tokens"]'
json 'v["stream"]["decode"]["used"] == v["generated_tokens"] * 5 * 4'
json 'all(p["used"] == p["hits"] + p["joined"] + p["misses"] for p in (v["stream"]["prompt"], v["stream"]["decode"]))'
json 'all(abs(p["hit_rate"] - p["hits"] / p["used"]) < 1e-6 for p in (v["stream"]["prompt"], v["stream"]["decode"]))'
json 'all(p["bytes_read"] > 0 and p["disk_seconds"] > 0 and 0 <= p["wait_share"] <= 1 for p in (v["stream"]["prompt"], v["stream"]["decode"]))'
json 'v["stream"]["slots"] < 160 and v["stream"]["experts_per_layer"] == 32'
ok run $MODEL --ids $IDS -n 4 --ctx 512 --json
json '"stream" not in v and v["pages"] != "streamed"'
for field in slots slots_per_layer experts_per_layer expert_bytes prompt decode tokens seconds used hits \
    joined misses ahead ahead_used bytes_read wait_seconds disk_seconds hit_rate bytes_read_per_token \
    disk_gbps wait_share; do
    ok help run
    says out "(^|[^a-z_])$field([^a-z_]|\$)"
done
ok bench $MODEL -p 32 -c 16 -n 8 --repeat 2 --threads 2 --memory 20M --json
documented bench
json 'set(v["stream"]) == {"slots", "slots_per_layer", "experts_per_layer", "expert_bytes", "disk_gbps", "ceiling_bytes"}'
json 'v["stream"]["ceiling_bytes"] == 20 << 20 and v["stream"]["disk_gbps"] > 0'
json 'v["prefill"][0]["stream"]["tokens"] == 64 and v["decode"][0]["stream"]["tokens"] == 16'
json 'v["decode"][0]["stream"]["used"] == 16 * 5 * 4 and 0 <= v["decode"][0]["stream"]["hit_rate"] <= 1'
json 'v["decode"][0]["bound_tps"] > 0 and v["decode"][0]["bound_fraction"] > 0'
json 'abs(v["decode"][0]["bound_fraction"] * v["decode"][0]["bound_tps"] / v["decode_tps"] - 1) < 1e-6'
json 'abs(v["bytes_per_token"] - v["weight_bytes_per_token"] - 20 * v["kv_bytes_per_token"] - v["decode"][0]["stream"]["bytes_read_per_token"]) < 1'
ok bench $MODEL -p 16 -n 4 --repeat 1 --threads 2 --memory 20M --io-limit 0.2
says out '^ +experts [0-9.]+% in memory, [0-9.]+ read a token'
says out '^ +bound [0-9.]+ tokens/s, [0-9.]+% of it reached$'
says out '^disk +0.20 GB/s by --io-limit$'
says out '^kept +[0-9.]+ of 32 experts a layer$'
ok help bench
says out '(^|[^a-z_])bound_tps([^a-z_]|$)'
says out '(^|[^a-z_])bound_fraction([^a-z_]|$)'

# ---- What is refused ----
bad 1 'a ceiling of 0.001 MB is too low' plan $MODEL --threads 2 --memory 1K
says err 'model.ernie: .* [0-9.]+ MB of resident weights and 8 experts of [0-9.]+ MB take [0-9.]+ MB, .*\(option --memory\)$'
bad 1 'a ceiling of 12.6 MB is too low' plan $MODEL --threads 2 --memory 12M --ctx 4096
says err 'a session of 4096 tokens needs [0-9.]+ MB, experts [0-9.]+ MB; [0-9.]+ MB would do, and a context of [0-9]+ tokens would fit'
bad 1 'a ceiling of 12.6 MB is too low' bench $MODEL --threads 2 --memory 12M -c 4000 -n 1 --repeat 1
bad 1 'is too low: the weights, with no experts to leave on disk, take' plan dense.ernie --threads 2 --memory 1M
bad 1 "option --ctx: 2000000000 tokens, the model's limit is" plan $MODEL --ctx 2000000000
bad 1 'nowhere.ernie' plan nowhere.ernie
bad 1 "$PWD" plan "$PWD"

# A damaged expert is named when it is chosen, and an answer that does not need it is given.
if [ -n "$PYTHON" ]; then
    "$PYTHON" - <<'SCRIPT'
import json, subprocess, os
records = json.loads(subprocess.run([os.environ["ERNIE"], "info", "model.ernie", "--records", "--json"],
                                    capture_output=True).stdout)["records"]
data = bytearray(open("model.ernie", "rb").read())
for r in records:
    if r["name"].startswith("layers.2.experts."): data[r["offset"] + 100] ^= 1
open("broken.ernie", "wb").write(data)
SCRIPT
    bad 1 'layer 2' run broken.ernie --ids 5 -n 1 --ctx 512 --threads 2 --memory 20M --warm none -q
    says err 'expert [0-9]+'
    bad 1 'layers.2.experts.0' verify broken.ernie
    ok plan broken.ernie --ctx 512 --threads 2 --memory 20M --no-probe
    head -c 20000000 $MODEL >short.ernie
    bad 1 'short.ernie' plan short.ernie --threads 2 --memory 20M
fi

finish
