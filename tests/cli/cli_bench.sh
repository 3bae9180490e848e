# ernie bench: the fields of its report.
. "$(dirname "$0")/lib.sh"
make_model

ok bench $MODEL -p 16 -n 4 --repeat 2 --json
quiet_stderr
documented bench
# The fields of the items are in the help too.
for field in tokens tps context read_fraction; do
    ok help bench
    says out "(^|[^a-z_])$field([^a-z_]|\$)"
done
ok bench $MODEL -p 16 -n 4 --repeat 2 --json
json 'set(v) >= {"load_s", "prefill_tps", "decode_tps", "bytes_per_token", "read_gbps", "decode_read_fraction", "threads", "pages"}'
json 'all(v[k] > 0 for k in ("load_s", "prefill_tps", "decode_tps", "bytes_per_token", "read_gbps", "threads"))'
json 'abs(v["decode_read_fraction"] / (v["bytes_per_token"] * v["decode_tps"] / v["read_gbps"] / 1e9) - 1) < 1e-3'
json 'v["prompt_tokens"] == 16 and v["decode_tokens"] == 4 and v["repeat"] == 2'
ok bench $MODEL -p 16 -n 4 --repeat 1 --threads 1 --json
json 'v["threads"] == 1'
ok bench $MODEL -p 1 -n 1 --repeat 1 --threads 1
says out '^prefill +[0-9.]+ tokens/s \(1 tokens\)'
says out '^decode +[0-9.]+ tokens/s \(1 tokens after 1\), [0-9.]+ MB a token, [0-9.]+ GB/s, [0-9.]+% of'
says out '^memory +[0-9.]+ GB/s read with 1 threads'

# Lists: an item each, in their order; the first again by itself. Bytes grow with the context.
ok bench $MODEL -p 16,4 -c 32,0,8 -n 3 --repeat 1 --threads 1 --json
json '[i["tokens"] for i in v["prefill"]] == [16, 4] and [i["context"] for i in v["decode"]] == [32, 0, 8]'
json 'all(i["tps"] > 0 for i in v["prefill"] + v["decode"])'
json 'v["prefill_tps"] == v["prefill"][0]["tps"] and v["decode_tps"] == v["decode"][0]["tps"]'
json 'all(i["bytes_per_token"] == v["weight_bytes_per_token"] + (i["context"] + 2) * v["kv_bytes_per_token"] for i in v["decode"])'
json 'v["bytes_per_token"] == v["decode"][0]["bytes_per_token"] and v["decode_read_fraction"] == v["decode"][0]["read_fraction"]'
json 'v["kv_bytes_per_token"] > 0'
ok bench $MODEL -p 4,8 -n 1 --repeat 1 --threads 1 --json
json '[i["context"] for i in v["decode"]] == [4]'
bad 2 'option --prompt-tokens: "0" is not a number of tokens from 1' bench $MODEL -p 0
bad 2 'option --prompt-tokens: "x" is not a number of tokens' bench $MODEL -p 16,x
bad 2 'option --contexts: "" is not a number of tokens' bench $MODEL -c 0,
bad 1 "do not fit the model's context" bench $MODEL -c 2000000000
bad 1 'option --memory' bench $MODEL --memory 1K
bad 1 "do not fit the model's context" bench $MODEL -p 2000000000
bad 1 'nowhere.ernie' bench nowhere.ernie

finish
