# ernie eval: the mean negative log-likelihood, and files that are not what they should be.
. "$(dirname "$0")/lib.sh"
make_model

printf '{"text": "hello world</s>"}\n{"text": "a"}\n\n{"text": "more words here", "other": 1}\n' >three.jsonl
ok eval $MODEL three.jsonl
quiet_stderr
documented eval
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

# The end token counts as a token, and what is scored is what the logits say.
ok tokenize $MODEL '</s>'
json 'len(v) == 1'
end=$(tr -d '[]\n' <out)
ok tokenize $MODEL 'hello world'
ids=$(tr -d '[]\n' <out),$end
ok tokenize $MODEL 'hello world</s>'
checked
[ "$(cat out)" = "[$ids]" ] || failed 'a trailing </s> should be the end token'
ok logits $MODEL --ids "$ids" --all --kv f16
if [ -n "$PYTHON" ]; then
    expected=$("$PYTHON" -c '
import json, math, sys
ids = [int(i) for i in sys.argv[1].split(",")]
nll = 0
for row, id in zip(json.load(open("out")), ids[1:]):
    nll += math.log(sum(math.exp(x) for x in row if x is not None)) - row[id]
print(nll / (len(ids) - 1))' "$ids")
    ok eval $MODEL unended.jsonl
    json "abs(v['nll_per_token'] - $expected) < 1e-4"
fi

# Only the first 1024 tokens of a document are scored.
text=$(head -c 6000 /dev/zero | tr '\0' 7)
printf '{"text": "%s"}\n' "$text" >long.jsonl
ok eval $MODEL long.jsonl
json 'v["tokens"] == 1023'
cp out long.json
printf '{"text": "%s and something else</s>"}\n' "$text" >longer.jsonl
ok eval $MODEL longer.jsonl
same out long.json
printf '{"text": "something else %s"}\n' "$text" >other.jsonl
ok eval $MODEL other.jsonl
json 'v["tokens"] == 1023 and v["nll_per_token"] != json.load(open("long.json"))["nll_per_token"]'

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
bad 1 'nowhere.jsonl: cannot be opened: No such file' eval $MODEL nowhere.jsonl
bad 1 "$PWD: is a directory, expected a file" eval $MODEL "$PWD"
bad 1 'nowhere.ernie' eval nowhere.ernie three.jsonl
bad 1 'option --memory' eval $MODEL three.jsonl --memory 1K

# The first documents may be left out.
sed 1d three.jsonl >rest.jsonl
ok eval $MODEL rest.jsonl
cp out rest.json
ok eval $MODEL three.jsonl --skip 1
same out rest.json
ok eval $MODEL three.jsonl --skip 2 --limit 1
json 'v["documents"] == 1'
bad 1 'three.jsonl: nothing to score' eval $MODEL three.jsonl --skip 3

# ---- Against another model ----
ok synth other.ernie --shape demo --layers 2 --type w8
ok eval $MODEL three.jsonl --against $MODEL
documented eval
json 'v["kl_mean"] == 0 and v["kl_max"] == 0 and v["top1_agreement"] == 1 and v["nll_difference"] == 0'
json 'v["nll_per_token"] == v["base_nll_per_token"] and v["nll_difference_error"] == 0'
ok eval other.ernie three.jsonl
cp out other.json
ok eval $MODEL three.jsonl --against other.ernie
json 'v["base_nll_per_token"] == json.load(open("other.json"))["nll_per_token"]'
json 'v["nll_per_token"] == json.load(open("three.json"))["nll_per_token"]'
json 'abs(v["nll_per_token"] - v["base_nll_per_token"] - v["nll_difference"]) < 1e-6'
json '0 < v["kl_mean"] < v["kl_max"] and v["kl_p99"] <= v["kl_max"] and v["nll_difference_error"] > 0'
json '0 <= v["top1_agreement"] <= 1'

# The figures are those of the logits that both print.
if [ -n "$PYTHON" ]; then
    ok logits other.ernie --ids "$ids" --all --kv f16
    mv out base_logits.json
    ok logits $MODEL --ids "$ids" --all --kv f16
    mv out logits.json
    ok eval $MODEL unended.jsonl --against other.ernie
    cp out measured.json
    "$PYTHON" - "$ids" >out <<'SCRIPT'
import json, math, sys
ids = [int(i) for i in sys.argv[1].split(",")]
def rows(name):
    for row in json.load(open(name)):
        row = [x for x in row if x is not None]
        lse = math.log(sum(math.exp(x) for x in row))
        yield [x - lse for x in row]
kl, same, loss = [], 0, []
for p, q, id in zip(rows("base_logits.json"), rows("logits.json"), ids[1:]):
    kl.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q)))
    same += p.index(max(p)) == q.index(max(q))
    loss.append(p[id] - q[id])
n = len(kl)
mean = sum(loss) / n
error = math.sqrt(sum((x - mean) ** 2 for x in loss) / (n - 1) / n)
print(json.dumps({"kl_mean": sum(kl) / n, "kl_max": max(kl), "top1_agreement": same / n,
                  "nll_difference": mean, "nll_difference_error": error}))
SCRIPT
    json 'all(abs(x - json.load(open("measured.json"))[k]) < 1e-4 for k, x in v.items())'
fi

bad 1 'nowhere.ernie' eval $MODEL three.jsonl --against nowhere.ernie
if [ -d "$REPO/tests/data/micro-moe" ]; then
    ok convert "$REPO/tests/data/micro-moe" micro.ernie --type f32
    bad 1 'option --against: micro.ernie has a vocabulary of ' \
        eval $MODEL three.jsonl --against micro.ernie
fi

finish
