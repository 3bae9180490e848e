# ernie info and verify, on whole and damaged files.
. "$(dirname "$0")/lib.sh"
make_model

ok info $MODEL
says out '^architecture +ernie4_5'
says out '^parameters '
says out '^chat format '
quiet_stderr
ok info $MODEL --records
says out '^record +type +rows'
ok info $MODEL --json
json 'v["layers"] == 2 and v["bytes"] == __import__("os").path.getsize("model.ernie") and len(v["id"]) == 32'
json 'v["architecture"].startswith("ernie4_5") and "records" not in v and v["bytes_per_token"] > 0'
ok info $MODEL --json --records
json 'len(v["records"]) > 10 and set(v["records"][0]) == {"name", "type", "rows", "columns", "offset", "bytes", "checksum"}'
json 'all(r["offset"] + r["bytes"] <= v["bytes"] for r in v["records"])'
records=$([ -n "$PYTHON" ] && "$PYTHON" -c 'import json; print(len(json.load(open("out"))["records"]))')

ok verify $MODEL
says out "^ok: ${records:-[0-9]+} records, $(wc -c <model.ernie) bytes\$"
quiet_stderr

# ---- Damage ----
# flip OFFSET: bad.ernie is the model with one byte changed.
flip() {
    cp model.ernie bad.ernie
    byte=$(od -An -tu1 -j "$1" -N 1 model.ernie | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((byte ^ 16)))" | dd of=bad.ernie bs=1 seek="$1" conv=notrunc 2>/dev/null
}
size=$(wc -c <model.ernie)
for offset in 0 9 40 100 $((size / 4)) $((size / 2)) $((size - 5000)); do
    flip "$offset"
    checked
    run verify bad.ernie
    failed_with 1 'bad.ernie' "verify with a flipped byte at $offset"
done
if [ -n "$PYTHON" ]; then
    ok info $MODEL --json --records
    offset=$("$PYTHON" -c 'import json; r = json.load(open("out"))["records"][-1]; print(r["offset"] + r["bytes"] // 2)')
    name=$("$PYTHON" -c 'import json; print(json.load(open("out"))["records"][-1]["name"])')
    flip "$offset"
    bad 1 "$name" verify bad.ernie
fi
# A file of a newer version says so, whatever else this reader makes of it.
cp model.ernie newer.ernie
printf '\007' | dd of=newer.ernie bs=1 seek=8 conv=notrunc 2>/dev/null
for command in info verify chat bench; do
    bad 1 'newer.ernie: the file has format version 7' "$command" newer.ernie
done
bad 1 'this library reads up to 2' run newer.ernie -p x
for n in 0 1 10 200 5000 $((size / 2)) $((size - 1)); do
    head -c "$n" model.ernie >short.ernie
    bad 1 'short.ernie' info short.ernie
    bad 1 'short.ernie' verify short.ernie
done

bad 1 'info: nowhere.ernie: cannot be opened: No such file or directory' info nowhere.ernie
bad 1 'verify: nowhere.ernie: cannot be opened: No such file or directory' verify nowhere.ernie
bad 1 "info: $PWD: is a directory, expected a file" info "$PWD"
printf 'GGUF\003\0\0\0' >x.gguf
for command in info verify chat 'run -p x'; do
    # shellcheck disable=SC2086
    bad 1 'x.gguf: is a GGUF file, not an .ernie model; ernie convert makes one of it' $command x.gguf
done
name=$(printf 'new\nline')
bad 1 'new?line' info "$name"
cp model.ernie "$name"
ok info "$name" --json

finish
