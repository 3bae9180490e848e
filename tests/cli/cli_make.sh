# ernie convert, export and synth: files that appear whole or not at all.
. "$(dirname "$0")/lib.sh"

# ---- synth ----
ok synth a.ernie --shape demo --layers 2 --type w4
says out '^a\.ernie: [0-9.]+ MiB in [0-9.]+ s$'
quiet_stderr
ok verify a.ernie
cp a.ernie before
bad 1 'a.ernie: exists already, --force replaces it' synth a.ernie --shape demo --layers 1
same a.ernie before
ok synth a.ernie --shape demo --layers 1 --force
ok info a.ernie --json
json 'v["layers"] == 1'
bad 1 '/nowhere/a.ernie: cannot be created: No such file' synth /nowhere/a.ernie --shape demo
bad 1 "$PWD: is a directory, expected the name of a file" synth "$PWD" --shape demo --force
for type in f32 f16 bf16 w8 c4 c3 c2; do
    ok synth $type.ernie --shape demo --layers 1 --type $type
    ok run $type.ernie --ids 5,6 -n 2 --temp 0 --json
    json 'len(v["ids"]) <= 2'
    rm -f $type.ernie
done

for preset in tiny small medium large; do
    ok synth $preset.ernie --shape demo --layers 2 --preset $preset
    ok verify $preset.ernie
    ok run $preset.ernie --ids 5,6 -n 2 --temp 0 --json
    json 'len(v["ids"]) <= 2'
    sizes="$sizes $(wc -c <$preset.ernie)"
    rm -f $preset.ernie
done
checked
[ "$sizes" = "$(printf ' %s' $(printf '%s\n' $sizes | sort -n))" ] || failed "presets should grow:$sizes"

# ---- convert ----
bad 1 'convert: nowhere: cannot be opened: No such file or directory' convert nowhere b.ernie
absent b.ernie
mkdir nothing
bad 1 'config.json' convert nothing b.ernie
absent b.ernie
printf '{"architectures": ["Other"]}' >nothing/config.json
bad 1 'nothing: config.json: architectures is "Other"' convert nothing b.ernie
absent b.ernie
absent b.ernie.part
bad 1 'a.ernie: exists already' convert nothing a.ernie
bad 1 '/nowhere/b.ernie: cannot be created: No such file' convert nothing /nowhere/b.ernie
printf 'GGUF\003\0\0\0' >x.gguf
bad 1 'convert: x.gguf: is truncated: 8 bytes hold no GGUF header' convert x.gguf b.ernie
absent b.ernie
bad 1 'convert: a.ernie: is neither a GGUF file nor the directory that holds config.json and *.safetensors' \
    convert a.ernie b.ernie
bad 1 'convert: absent.gguf: cannot be opened: No such file or directory' convert absent.gguf b.ernie
bad 1 'is a directory' convert nothing "$PWD" --force

# micro-moe is whole, but has no tokenizer.
CHECKPOINT=$REPO/tests/data/micro-moe
if [ -d "$CHECKPOINT" ]; then
    ok convert "$CHECKPOINT" micro.ernie --type f32 --name 'a name'
    says out '^micro\.ernie: [0-9.]+ MiB from [0-9.]+ MiB in [0-9.]+ s$'
    says err '^ernie convert: no tokenizer\.model: '
    ok verify micro.ernie
    ok info micro.ernie --json
    json 'v["name"] == "a name"'
    ok convert "$CHECKPOINT" micro.ernie --type w8 --force --threads 1 --chat none
    ok info micro.ernie --json
    json 'v["chat_format"] == "none" and v["name"] == "micro-moe"'
    ok run micro.ernie --ids 5,6 -n 2 --json
    bad 1 'micro.ernie: the model file has no tokenizer; --ids works without one' run micro.ernie -p hello
    bad 1 '--ids works without one' run micro.ernie --raw -p hello
    bad 1 'micro.ernie: the file has no chat format' chat micro.ernie
    bad 1 'micro.ernie: the model file has no tokenizer' tokenize micro.ernie hello
    bad 1 'micro.ernie: the model file has no tokenizer' detokenize micro.ernie --ids 5
    printf '{"text": "hello"}\n' >text.jsonl
    bad 1 'micro.ernie: the model file has no tokenizer' eval micro.ernie text.jsonl

    for choice in '--type c4' '--type c3' '--type c2' '--preset tiny' '--preset small' \
        '--preset medium' '--preset large'; do
        ok convert "$CHECKPOINT" few.ernie $choice --force --threads 1
        cp few.ernie one
        ok convert "$CHECKPOINT" few.ernie $choice --force --threads 3
        same few.ernie one
        ok verify few.ernie
        ok run few.ernie --ids 5,6 -n 2 --json
    done
    ok convert "$CHECKPOINT" slow.ernie --type c2
    ok convert "$CHECKPOINT" fast.ernie --type c2 --fast
    checked
    ! cmp -s slow.ernie fast.ernie || failed "--fast should change what is found"
    bad 1 'convert: nowhere.imatrix: cannot be opened' \
        convert "$CHECKPOINT" d.ernie --imatrix nowhere.imatrix
    printf 'no statistics' >text.imatrix
    bad 1 "convert: $PWD/text.imatrix: has 13 bytes, a calibration file at least 512" \
        convert "$CHECKPOINT" d.ernie --imatrix "$PWD/text.imatrix"
    absent d.ernie
    absent d.ernie.part

    # What the converter settles by itself is said once, and not with --quiet.
    cp -r "$CHECKPOINT" untied
    sed 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' "$CHECKPOINT/config.json" \
        >untied/config.json
    ok convert untied untied.ernie
    says err '^ernie convert: tie_word_embeddings is false, but there is no lm_head\.weight'
    ok convert untied untied.ernie --force --quiet
    quiet_stderr
    sed 's/"use_bias"/"mystery": 1, "moe_gate": "topk", "use_bias"/' "$CHECKPOINT/config.json" \
        >untied/config.json
    ok convert untied untied.ernie --force
    says err '^ernie convert: config\.json: unknown and left out: mystery$'

    # The same model as Baidu lays it out is the same file.
    if [ -n "$PYTHON" ]; then
        "$PYTHON" "$(dirname "$0")/paddle_checkpoint.py" "$CHECKPOINT" laid-out
        for type in f32 w4; do
            ok convert "$CHECKPOINT" rows.ernie --type $type --name micro --force
            ok convert laid-out columns.ernie --type $type --name micro --force
            same rows.ernie columns.ernie
        done
    fi

    # The same model as GGUF: the same weights, the same numbers.
    if [ -n "$PYTHON" ]; then
        ok convert "$CHECKPOINT" wanted.ernie --type f32 --name micro
        ok logits wanted.ernie --ids 5,6,7
        mv out wanted.json
        for kind in f32 bf16; do
            "$PYTHON" "$(dirname "$0")/gguf_from_checkpoint.py" "$CHECKPOINT" micro.gguf $kind
            ok convert micro.gguf micro.ernie --type f32 --force
            says out '^micro\.ernie: [0-9.]+ MiB from [0-9.]+ MiB in [0-9.]+ s$'
            says err '^ernie convert: no tokenizer in the metadata: '
            ok logits micro.ernie --ids 5,6,7
            same out wanted.json
            same micro.ernie wanted.ernie
        done
        ok info micro.ernie --json
        json 'v["name"] == "micro" and v["experts"] == 8'
        head -c 5000 micro.gguf >cut.gguf
        bad 1 'convert: cut.gguf: is truncated: ' convert cut.gguf d.ernie
        sed 's/ernie4_5-moe/ernie4_5-mow/' micro.gguf >other.gguf
        bad 1 'convert: other.gguf: general.architecture is "ernie4_5-mow", known are' \
            convert other.gguf d.ernie
        sed 's/blk.1.attn_q/blk.1.attn_p/' micro.gguf >other.gguf
        bad 1 'convert: other.gguf: tensor "blk.1.attn_q.weight" is missing' convert other.gguf d.ernie
        absent d.ernie
        absent d.ernie.part
        rm -f ./*.gguf
    fi

    mkdir paddle
    cp "$CHECKPOINT"/config.json paddle/
    : >paddle/model_state.pdparams
    bad 1 'convert: paddle: holds Paddle pickles (model_state.pdparams), only safetensors can be converted' \
        convert paddle d.ernie

    # A checkpoint that is damaged is named, and so is what is wrong with it.
    mkdir damaged
    cp "$CHECKPOINT"/config.json damaged/
    bad 1 'damaged' convert damaged d.ernie
    says err 'safetensors'
    head -c 20000 "$CHECKPOINT"/model.safetensors >damaged/model.safetensors
    bad 1 'damaged: model.safetensors' convert damaged d.ernie
    cp "$CHECKPOINT"/model.safetensors damaged/
    sed 's/"hidden_size": *[0-9]*/"hidden_size": 96/' "$CHECKPOINT"/config.json >damaged/config.json
    bad 1 'damaged: ' convert damaged d.ernie
    absent d.ernie
    absent d.ernie.part
fi

# ---- export ----
ok synth e.ernie --shape demo --layers 2 --type w4
ok export e.ernie e.gguf --type q8_0
says out '^e\.gguf: [0-9.]+ MiB in [0-9.]+ s$'
says err '^ernie export: 1 MTP block is left out: a GGUF file has no names for it$'
checked
[ "$(head -c 4 e.gguf)" = GGUF ] || failed 'e.gguf should begin with GGUF'
cp e.gguf before
bad 1 'e.gguf: exists already, --force replaces it' export e.ernie e.gguf
same e.gguf before
ok export e.ernie e.gguf --type q8_0 --threads 1 --force
same e.gguf before
ok export e.ernie full.gguf --quiet
quiet_stderr
ok convert full.gguf back.ernie --type bf16
ok info back.ernie --json
json 'v["layers"] == 2 and v["types"].startswith("embedding bf16")'
ok run back.ernie --ids 5,6 -n 2 --temp 0 --json
bad 2 'option --type: "w4" is not one of f16, bf16, q8_0, q4_0' export e.ernie f.gguf --type w4
bad 2 'OUT is missing' export e.ernie
bad 1 'export: nowhere.ernie: cannot be opened: No such file' export nowhere.ernie f.gguf
bad 1 'export: e.gguf: ' export e.gguf f.gguf
bad 1 'export: e.ernie: is the model itself' export e.ernie e.ernie --force
bad 1 '/nowhere/f.gguf: cannot be created: No such file' export e.ernie /nowhere/f.gguf
bad 1 'is a directory' export e.ernie "$PWD" --force
head -c 100000 e.ernie >cut.ernie
bad 1 'export: cut.ernie: ' export cut.ernie f.gguf
absent f.gguf
absent f.gguf.part
ok verify e.ernie

data=${ERNIE_SHARED:-$REPO/../shared}/data
if [ -d "$data/ernie-demo-moe" ]; then
    ok convert "$data/ernie-demo-moe" demo.ernie --chat none
    bad 1 '--raw works without one' run demo.ernie -p hello
    ok run demo.ernie --raw -p hello -n 2
else
    echo "  (no checkpoint with a tokenizer: set ERNIE_SHARED)"
fi

finish
