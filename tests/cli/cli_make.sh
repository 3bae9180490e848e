# ernie convert and synth: files that appear whole or not at all.
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
bad 1 '/nowhere/a.ernie' synth /nowhere/a.ernie --shape demo
bad 1 'is a directory' synth "$PWD" --shape demo --force
for type in f32 f16 bf16 w8; do
    ok synth $type.ernie --shape demo --layers 1 --type $type
    ok run $type.ernie --ids 5,6 -n 2 --temp 0 --json
    json 'len(v["ids"]) <= 2'
    rm -f $type.ernie
done

# ---- convert ----
bad 1 'nowhere' convert nowhere b.ernie
absent b.ernie
mkdir nothing
bad 1 'config.json' convert nothing b.ernie
absent b.ernie
printf '{"architectures": ["Other"]}' >nothing/config.json
run convert nothing b.ernie
failed_with 1 'nothing' 'a checkpoint of another kind'
absent b.ernie
absent b.ernie.part
bad 1 'a.ernie: exists already' convert nothing a.ernie
bad 1 'is a directory' convert nothing "$PWD" --force

data=${ERNIE_SHARED:-$REPO/../shared}/data
if [ -d "$data/micro-moe" ]; then
    ok convert "$data/micro-moe" micro.ernie --type f32 --name 'a name'
    says out '^micro\.ernie: [0-9.]+ MiB from [0-9.]+ MiB in [0-9.]+ s$'
    quiet_stderr
    ok verify micro.ernie
    ok info micro.ernie --json
    json 'v["name"] == "a name"'
    ok convert "$data/micro-moe" micro.ernie --type w8 --force --threads 1 --chat none
    ok info micro.ernie --json
    json 'v["chat_format"] == "none"'
    bad 1 '--raw works without one' run micro.ernie -p hello
    bad 1 'no chat format' chat micro.ernie
else
    echo "  (no checkpoint to convert: set ERNIE_SHARED)"
fi

finish
