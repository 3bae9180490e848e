# ernie tune: a whole model or none, in which only norms differ, and what it says of itself.
. "$(dirname "$0")/lib.sh"
ok synth base.ernie --shape demo --layers 2 --type bf16
ok synth model.ernie --shape demo --layers 2 --type c2
MODEL=model.ernie

for i in 1 2 3 4 5 6; do
    printf '{"text": "hello world %s, some words of text</s>"}\n' "$i"
done >six.jsonl
ok tune $MODEL base.ernie six.jsonl a.ernie
says out '^a\.ernie: [0-9.]+ MiB, 5 norms from 6 documents, [0-9]+ tokens in [0-9.]+ s$'
says err '^ernie tune: factors [0-9.]+ to [0-9.]+, on average [0-9.]+; all logits times [0-9.]+$'
absent a.ernie.part
ok verify a.ernie
ok tune $MODEL base.ernie six.jsonl b.ernie --json --quiet --threads 1
quiet_stderr
documented tune
json 'v["documents"] == 6 and v["norms"] == 5 and v["factor_min"] <= v["factor_mean"] <= v["factor_max"]'
json 'v["bytes"] == __import__("os").path.getsize("model.ernie") and v["kl_expected"] <= v["kl_norms"]'
same a.ernie b.ernie

# The records that differ are the norms, and the distance to the base has become less.
if [ -n "$PYTHON" ]; then
    ok info $MODEL --records --json
    mv out before.json
    ok info a.ernie --records --json
    mv out after.json
    "$PYTHON" -c '
import json
a, b = (json.load(open(f))["records"] for f in ("before.json", "after.json"))
changed = sorted(x["name"] for x, y in zip(a, b) if x != y)
print(len(a) == len(b), " ".join(changed))' >out
    says out '^True final_norm layers\.0\.attn_norm layers\.0\.ffn_norm layers\.1\.attn_norm layers\.1\.ffn_norm$'
    ok eval $MODEL six.jsonl --against base.ernie
    before=$("$PYTHON" -c 'import json; print(json.load(open("out"))["kl_mean"])')
    ok eval a.ernie six.jsonl --against base.ernie
    json "v['kl_mean'] < $before"
fi

# A model that is its own base stays as it is.
ok tune base.ernie base.ernie six.jsonl c.ernie --json
json 'abs(v["scale"] - 1) < 1e-4 and v["kl_norms"] < 1e-6 and v["clamped"] == 0'
json 'abs(v["factor_min"] - 1) < 1e-6 and abs(v["factor_max"] - 1) < 1e-6'

# The documents that --skip and --limit leave are those of a file that holds no others.
sed -n 3,4p six.jsonl >two.jsonl
ok tune $MODEL base.ernie two.jsonl d.ernie --quiet
ok tune $MODEL base.ernie six.jsonl e.ernie --skip 2 --limit 2 --quiet
same d.ernie e.ernie

# An older file is replaced on request only, and only by a whole one.
bad 1 'a.ernie: exists already, --force replaces it' tune $MODEL base.ernie two.jsonl a.ernie
same a.ernie b.ernie
printf '{"text": "good"}\n{"text": 5}\n' >bad.jsonl
bad 1 'bad.jsonl: line 2 has no "text"' tune $MODEL base.ernie bad.jsonl a.ernie --force
same a.ernie b.ernie
ok tune $MODEL base.ernie two.jsonl a.ernie --force
same a.ernie d.ernie

: >empty.jsonl
ok synth three.ernie --shape demo --layers 3
bad 1 'three.ernie: the models have different shapes: n_layers is 2, and in the base 3' \
    tune $MODEL three.ernie six.jsonl h.ernie
bad 1 'empty.jsonl: nothing to learn from' tune $MODEL base.ernie empty.jsonl h.ernie
bad 1 'nowhere.ernie' tune $MODEL nowhere.ernie six.jsonl h.ernie
bad 1 '/nowhere/h.ernie: cannot be created' tune $MODEL base.ernie six.jsonl /nowhere/h.ernie
bad 2 'OUT is missing' tune $MODEL base.ernie six.jsonl
if [ -d "$REPO/tests/data/micro-moe" ]; then
    ok convert "$REPO/tests/data/micro-moe" micro.ernie --type f32
    bad 1 'BASE: micro.ernie has a vocabulary of ' tune $MODEL micro.ernie six.jsonl h.ernie
fi
absent h.ernie
absent h.ernie.part

finish
