# ernie tokenize, detokenize and logits.
. "$(dirname "$0")/lib.sh"
make_model

ok tokenize $MODEL 'hello world'
json 'isinstance(v, list) and len(v) > 0 and all(isinstance(i, int) for i in v)'
ids=$(tr -d '[] \n' <out)
ok detokenize $MODEL --ids "$ids"
printf 'hello world\n' >expected
same out expected
printf 'hello world' | "$ERNIE" tokenize $MODEL - >out2 2>err
ok tokenize $MODEL 'hello world'
same out out2

ok tokenize $MODEL ''
json 'v == []'
ok tokenize $MODEL '</s>'
json 'len(v) == 1'
end=$(tr -d '[] \n' <out)
ok tokenize $MODEL '</s>' --text
json 'len(v) > 1'
ok tokenize $MODEL -- --text
json 'len(v) > 1'
ok detokenize $MODEL --ids "$end"
printf '\n' >expected
same out expected
ok detokenize $MODEL --ids "$end" --special
printf '</s>\n' >expected
same out expected

# Any bytes are text.
printf 'a\0b\377\n\n诗' | "$ERNIE" tokenize $MODEL - >out 2>err
status=$?
json 'len(v) > 5'
ids=$(tr -d '[] \n' <out)
ok detokenize $MODEL --ids "$ids"
printf 'a\0b\357\277\275\n\n诗\n' >expected
same out expected
head -c 300000 /dev/zero | tr '\0' x | "$ERNIE" tokenize $MODEL - >out 2>err
json 'len(v) > 1000'

bad 1 "option --ids: id 99999999 is not one of the model's" detokenize $MODEL --ids 5,99999999
bad 1 'nowhere.ernie' tokenize nowhere.ernie x

# ---- Logits ----
ok info $MODEL --json
cp out info.json
ok logits $MODEL --ids 5,6,7
cp out last.json
json 'len(v) == json.load(open("info.json"))["vocab_size"]'
json 'all(x is None or math.isfinite(x) for x in v) and any(x is not None for x in v)'
json 'all((x is None) == (i >= json.load(open("info.json"))["tokens"]) for i, x in enumerate(v))'
ok logits $MODEL --ids 5,6,7 --kv f16 --threads 1 --cpu base
ok logits $MODEL --ids 5,6,7 --all
json 'len(v) == 3'
json 'max(abs(a - b) for a, b in zip(v[2], json.load(open("last.json"))) if a is not None) < 1e-3'
bad 1 "option --ids: id 99999999 is not one of the model's" logits $MODEL --ids 5,99999999
# More positions than are computed at once.
if [ -d "$REPO/tests/data/micro-moe" ]; then
    ok convert "$REPO/tests/data/micro-moe" micro.ernie
    ids=$(awk 'BEGIN { for (i = 0; i < 600; i++) printf "%d,", i % 300; print 7 }')
    ok logits micro.ernie --ids "$ids" --threads 1
    cp out last.json
    ok logits micro.ernie --ids "$ids" --threads 1 --all
    json 'len(v) == 601'
    json 'max(abs(a - b) for a, b in zip(v[600], json.load(open("last.json"))) if a is not None) < 1e-3'
    json 'v[0] != v[300] and v[599] != v[600]'
fi
ids=$(head -c 8192 /dev/zero | tr '\0' 5 | sed 's/5/5,/g')5
bad 1 "the prompt has 8193 tokens, the context holds 4096, the model's limit" logits $MODEL --ids "$ids"
bad 1 'option --memory' logits $MODEL --ids 5 --memory 1K

finish
