# ernie calibrate: a file of statistics, whole or not at all, and what it says of itself.
. "$(dirname "$0")/lib.sh"
make_model

for i in 1 2 3 4 5 6; do
    printf '{"text": "hello world %s, some words of text</s>"}\n' "$i"
done >six.jsonl
ok calibrate $MODEL six.jsonl a.imatrix
says out '^a\.imatrix: [0-9.]+ MiB from 6 documents, [0-9]+ tokens in [0-9.]+ s$'
says err '^ernie calibrate: layer 0: all moments$'
says err '^ernie calibrate: layer 1: moments of every expert$'
says err '^ernie calibrate: [0-9]+ of 32 experts got less than 32 samples'
absent a.imatrix.part
ok calibrate $MODEL six.jsonl b.imatrix --json --quiet --threads 1
quiet_stderr
documented calibrate
json 'v["documents"] == 6 and v["inputs"] == v["moments_own"] + v["moments_common"] + v["squares_only"]'
json 'v["bytes"] == __import__("os").path.getsize("b.imatrix") and v["experts"] == 32'
same a.imatrix b.imatrix
ok calibrate $MODEL six.jsonl c.imatrix --common --quiet --json
json 'v["moments_common"] == 33 and v["squares_only"] == 0'
ok calibrate $MODEL six.jsonl d.imatrix --diagonal --quiet --json
json 'v["squares_only"] == v["inputs"]'
ok calibrate $MODEL six.jsonl e.imatrix --memory 14M --threads 1 --json
json 'v["moments_own"] < 69'
says err 'memory allows no more'

# The documents that --skip and --limit leave are those of a file that holds no others.
sed -n 3,4p six.jsonl >two.jsonl
ok calibrate $MODEL two.jsonl f.imatrix --quiet
ok calibrate $MODEL six.jsonl g.imatrix --skip 2 --limit 2 --quiet --json
json 'v["documents"] == 2'
same f.imatrix g.imatrix

# An older file is replaced on request only, and only by a whole one.
bad 1 'a.imatrix: exists already, --force replaces it' calibrate $MODEL two.jsonl a.imatrix
same a.imatrix b.imatrix
ok calibrate $MODEL two.jsonl a.imatrix --force
same a.imatrix f.imatrix
printf '{"text": "good"}\n{"text": 5}\n' >bad.jsonl
bad 1 'bad.jsonl: line 2 has no "text"' calibrate $MODEL bad.jsonl a.imatrix --force
same a.imatrix f.imatrix
bad 1 'bad.jsonl: line 2 has no "text"' calibrate $MODEL bad.jsonl h.imatrix
absent h.imatrix
absent h.imatrix.part

: >empty.jsonl
bad 1 'empty.jsonl: nothing to learn from' calibrate $MODEL empty.jsonl h.imatrix
bad 1 'six.jsonl: nothing to learn from' calibrate $MODEL six.jsonl h.imatrix --skip 6
bad 1 'nowhere.jsonl: cannot be opened' calibrate $MODEL nowhere.jsonl h.imatrix
bad 1 'nowhere.ernie' calibrate nowhere.ernie six.jsonl h.imatrix
bad 1 '/nowhere/h.imatrix: cannot be created' calibrate $MODEL six.jsonl /nowhere/h.imatrix
bad 1 "$PWD: is a directory" calibrate $MODEL six.jsonl "$PWD" --force
bad 1 'fewer documents need less' calibrate $MODEL six.jsonl h.imatrix --memory 64K
bad 2 'options --common and --diagonal exclude each other' \
    calibrate $MODEL six.jsonl h.imatrix --common --diagonal
bad 2 'unexpected argument' calibrate $MODEL six.jsonl h.imatrix x
absent h.imatrix

# What is collected belongs to a model of this shape.
if [ -d "$REPO/tests/data/micro-moe" ]; then
    for type in c3 bf16; do
        bad 1 'convert: a.imatrix: was made with another model: its n_layers is 2, here it is 3' \
            convert "$REPO/tests/data/micro-moe" micro.ernie --type $type --imatrix a.imatrix
    done
    absent micro.ernie
    absent micro.ernie.part
fi

finish
