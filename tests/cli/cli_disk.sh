# Files that cannot be written whole: the disk is full, a limit on their size is reached, the folder
# refuses. Nothing half-written stays behind, and an older file stays as it was.
. "$(dirname "$0")/lib.sh"
make_model
CHECKPOINT=$REPO/tests/data/micro-moe
[ -d "$CHECKPOINT" ] || exit 77

# no_room NAME: what the last run left in err says so, and nothing is there.
no_room() {
    failed_with 1 "$1: no room for " "$1 without room"
    absent "$1"
    absent "$1.part"
}

# ---- A limit on the size of files: an error, not a death by SIGXFSZ ----
# limited ARGUMENT...: at most 100 blocks of 512 or 1024 bytes.
limited() {
    (
        ulimit -f 100
        exec "$ERNIE" "$@"
    ) >out 2>err </dev/null
    status=$?
}
limited synth a.ernie --shape demo --layers 2
no_room a.ernie
says err 'File too large'
limited convert "$CHECKPOINT" b.ernie --type f32
no_room b.ernie
limited export $MODEL b.gguf
no_room b.gguf
says err 'File too large'
cp $MODEL old.ernie
limited synth old.ernie --shape demo --layers 1 --force
failed_with 1 'old.ernie: no room for ' 'an older file without room for the new one'
same old.ernie $MODEL
printf '{"text": "a few words"}\n' >one.jsonl
limited calibrate $MODEL one.jsonl c.imatrix
no_room c.imatrix
limited tune $MODEL $MODEL one.jsonl t.ernie
no_room t.ernie
says err 'File too large'
limited run $MODEL --ids "$(printf '5,%.0s' 1 2 3 4 5 6 7 8 9)5" -n 200 --kv f32 -q --logit-bias 2=-inf \
    --save-session s.bin
failed_with 1 's.bin' 'a session without room'
says err 'File too large'
absent s.bin
limited tokenize $MODEL "$(head -c 100000 /dev/zero | tr '\0' 7)"
failed_with 1 'standard output cannot be written: File too large' 'standard output without room'

# What the big shapes need is in the message: they are real shapes.
limited synth c.ernie --shape 0.3b
no_room c.ernie
says err ' 2[3-6][0-9]{7} bytes'
limited synth c.ernie --shape 21b --layers 2
no_room c.ernie
says err ' [78][0-9]{8} bytes'
limited synth c.ernie --shape 300b --layers 2
no_room c.ernie
says err ' 5[5-9][0-9]{8} bytes'
limited synth c.ernie --shape 21b
says err ' 1[1-3][0-9]{9} bytes'

# ---- A full disk, where this user may mount one ----
mkdir disk
cat >full.sh <<'SCRIPT'
mount -t tmpfs -o size=1m tmpfs disk || exit 77
full() {
    echo "== $1"
    shift
    "$@" 2>&1 >/dev/null </dev/null
    echo "status $?"
}
full synth "$ERNIE" synth disk/a.ernie --shape demo --layers 2
head -c 900000 /dev/zero >disk/filler
full convert "$ERNIE" convert "$CHECKPOINT" disk/b.ernie --type w4
full export "$ERNIE" export model.ernie disk/b.gguf
full session "$ERNIE" run model.ernie --ids 5 -n 200 --kv f32 -q --logit-bias 2=-inf --save-session disk/s.bin
full output sh -c '"$ERNIE" tokenize model.ernie - <seven.txt >disk/ids.json'
rm disk/ids.json
head -c 2000000 /dev/zero >>disk/filler 2>/dev/null
echo "left: $(ls disk)"
SCRIPT
head -c 300000 /dev/zero | tr '\0' 7 >seven.txt
export CHECKPOINT
if unshare -rm sh full.sh >full.txt 2>mount.err; then
    while IFS='|' read -r name pattern; do
        checked
        sed -n "/^== $name\$/{n;N;p;}" full.txt >err
        [ "$(sed -n 2p err)" = 'status 1' ] || failed "$name on a full disk should fail with status 1"
        says err "$pattern"
        says err '^ernie '
    done <<'TABLE'
synth|disk/a\.ernie: no room for [0-9]+ bytes: No space left on device
convert|disk/b\.ernie: no room for [0-9]+ bytes: No space left on device
export|disk/b\.gguf: no room for [0-9]+ bytes: No space left on device
session|disk/s\.bin.*No space left on device
output|standard output cannot be written: No space left on device
TABLE
    says full.txt '^left: filler$'
else
    echo "  (no disk to fill: mounting is not allowed here)"
fi

# ---- A folder that refuses ----
if [ "$(id -u)" -ne 0 ]; then
    mkdir closed
    chmod 500 closed
    bad 1 'closed/a.ernie' synth closed/a.ernie --shape demo
    cp $MODEL secret.ernie
    chmod 000 secret.ernie
    bad 1 'secret.ernie' info secret.ernie
    says err 'Permission denied'
fi
bad 1 'nowhere/a.ernie' synth nowhere/a.ernie --shape demo
bad 1 "$MODEL/a.ernie" convert "$CHECKPOINT" $MODEL/a.ernie
says err 'Not a directory'

finish
