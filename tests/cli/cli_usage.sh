# Wrong command lines, one sentence each, and the help. No model is opened.
. "$(dirname "$0")/lib.sh"

bad 2 'a command is missing, see ernie --help'
bad 2 'unknown command "frobnicate"' frobnicate
bad 2 'unknown command ""' ''
bad 2 'unknown command' help frobnicate
bad 2 'unknown option --foo' version --foo
bad 2 'unexpected argument "x"' version x

# command, arguments, what is missing
while IFS='|' read -r command missing; do
    bad 2 "$missing is missing, see ernie $command --help" "$command"
    bad 2 'unknown option --frobnicate' "$command" a --frobnicate
    bad 2 'unknown option -Z' "$command" -Z
    ok "$command" --help
    says out "^usage: ernie $command"
    says out '^options:'
    quiet_stderr
    mv out help.txt
    ok help "$command"
    same out help.txt
    checked
    awk 'length > 100 { bad = 1 } END { exit bad }' out || failed 'the help should fit 100 columns'
done <<'TABLE'
run|MODEL
chat|MODEL
convert|SOURCE
export|MODEL
info|MODEL
verify|MODEL
logits|MODEL
tokenize|MODEL
detokenize|MODEL
eval|MODEL
calibrate|MODEL
tune|MODEL
bench|MODEL
replay|TRACE
synth|OUT
TABLE

bad 2 'OUT is missing' convert source
bad 2 'TEXT is missing' tokenize model
bad 2 'FILE is missing' eval model
bad 2 'OUT is missing' calibrate model file
bad 2 'unexpected argument "c"' convert a b c

# fragment | arguments of run behind its model
while IFS='|' read -r fragment arguments; do
    # shellcheck disable=SC2086
    bad 2 "$fragment" run model $arguments
done <<'TABLE'
a prompt is missing: give -p TEXT, --ids LIST or --load-session FILE|
option --prompt needs a value (TEXT)|-p
option --temp needs a value (T)|-p x --temp
option --temp: "hot" is not a number from 0 to 100|-p x --temp hot
option --temp: "nan" is not a number|-p x --temp nan
option --temp: "-1" is not a number|-p x --temp -1
option --temp: "0x1" is not a number|-p x --temp=0x1
option --top-p: "0" is not a number above 0 and at most 1|-p x --top-p 0
option --top-p: "1.5" is not a number|-p x --top-p 1.5
option --min-p: "2" is not a number from 0 to 1|-p x --min-p 2
option --top-k: "-3" is not a whole number|-p x --top-k -3
option --tokens: "0" is not a whole number from 1|-p x -n 0
option --tokens: "many" is not a whole number|-p x -n many
option --tokens: "99999999999999999999" is not a whole number|-p x --tokens 99999999999999999999
option --seed: "-1" is not a whole number from 0|-p x --seed -1
option --seed: "1.5" is not a whole number|-p x --seed 1.5
option --ctx: "0" is not a whole number|-p x --ctx 0
option --threads: "0" is not a whole number from 1 to 1024|-p x --threads 0
option --threads: "9999" is not a whole number from 1 to 1024|-p x --threads 9999
option --threads: "2000" is not a whole number from 1 to 1024|-p x --threads 2000
option --kv: "f64" is not one of f16|-p x --kv f64
option --cpu: "mmx" is not one of auto, base, avx2, avxvnni, avx512, avx512vbmi, amx, neon, i8mm|-p x --cpu mmx
option --backend: "vulkan" is not one of auto, cpu|-p x --backend vulkan
option --backend: "cuda" is not one of auto, cpu|-p x --backend cuda
option --prompt: given twice|-p hi -p ho
option --tokens: given twice|-p x -n 1 --tokens 1
option --memory: "plenty" is not a size, expected bytes or a number with K, M, G or T|-p x --memory plenty
option --memory: "-1G" is not a size|-p x --memory -1G
option --ids: "x" is not a token id, expected a list such as 17,4,302|--ids 1,x
option --ids: "" is not a token id|--ids 1,,2
option --ids: "-4" is not a token id|--ids -4
option --ids: "2147483648" is not a token id|--ids 2147483648
option --stop-id: "x" is not a token id|-p x --stop-id x
option --logit-bias: "5" is not ID=VALUE|-p x --logit-bias 5
option --logprobs: "21" is not a whole number from 0 to 20|-p x --json --logprobs 21
option --logprobs needs --json|-p x --logprobs 3
option --prompt cannot be combined with --ids|-p x --ids 1
option --system cannot be combined with --raw|-p x --system y --raw
option --system cannot be combined with --ids|--ids 1 --system y
option --system cannot be combined with --load-session|-p x --load-session f --system y
option --search-context cannot be combined with --raw|-p x --search-context f --raw
option --search-context cannot be combined with --ids|--ids 1 --search-context f
option --search-context needs the question|--load-session s --search-context f
option --json takes no value|-p x --json=1
option --shape does not belong to this command|-p x --shape demo
TABLE

bad 2 'option --stop: the text is empty' run model -p x --stop ''
bad 2 'option --ids: "" is not a token id' run model --ids ''
bad 2 'option --ids is missing, expected a list' logits model
bad 2 'option --ids is missing, expected a list' detokenize model
bad 2 'option --temp does not belong to this command' info model --temp 1
bad 2 'option --limit: "0" is not a whole number' eval model file --limit 0
bad 2 'option --skip: "-1" is not a whole number' calibrate model file out --skip=-1
bad 2 'option --against does not belong to this command' calibrate model file out --against base
bad 2 'options --type c3 and --preset tiny exclude each other' convert a b --type c3 --preset tiny
bad 2 'options --type f32 and --preset large exclude each other' \
    synth a --shape demo --preset=large --type=f32
bad 2 'option --preset: "huge" is not one of tiny, small, medium, large' convert a b --preset huge
bad 2 'option --imatrix does not belong to this command' synth a --shape demo --imatrix file
bad 2 'option --fast does not belong to this command' synth a --shape demo --fast
bad 2 'option --type: "q4" is not one of f32, f16, bf16, w8, w4' convert a b --type q4
bad 2 'option --chat: "jinja" is not one of plain, thinking, none' convert a b --chat jinja
bad 2 'option --shape is missing, expected 21b, 300b, 0.3b or demo' synth a
bad 2 'option --shape: "7b" is not one of' synth a --shape 7b
bad 2 'option --layers: "0" is not a whole number' synth a --shape demo --layers 0

# A value of any length and any bytes still makes one line.
long=$(printf '%03000d' 7 | tr 0 7)
bad 2 'option --temp: "7777' run model -p x --temp "$long"
bad 2 'unknown command' "$(printf 'a\nb\tc')"
bad 2 'unknown command' "$(printf '\377\376')"

# The help and the version, in every spelling.
ok --help
says out '^usage: ernie COMMAND'
says out '^  run  '
mv out help.txt
ok help
same out help.txt
ok -h
same out help.txt
ok --version
says out '^ernie [0-9]+\.[0-9]+\.[0-9]+$'
mv out version.txt
ok version
same out version.txt
ok run --help --and --nothing else
says out '^usage: ernie run'
ok run model --temp 3 -h
says out '^usage: ernie run'

# Options may stand anywhere, whatever POSIXLY_CORRECT says.
POSIXLY_CORRECT=1 "$ERNIE" info nowhere.ernie --json >out 2>err
status=$?
failed_with 1 'nowhere.ernie' 'options behind arguments'

finish
