# ernie bench: the fields of its report.
. "$(dirname "$0")/lib.sh"
make_model

ok bench $MODEL -p 16 -n 4 --repeat 2 --json
quiet_stderr
documented bench
json 'set(v) >= {"load_s", "prefill_tps", "decode_tps", "bytes_per_token", "read_gbps", "decode_read_fraction", "threads"}'
json 'all(v[k] > 0 for k in ("load_s", "prefill_tps", "decode_tps", "bytes_per_token", "read_gbps", "threads"))'
json 'abs(v["decode_read_fraction"] / (v["bytes_per_token"] * v["decode_tps"] / v["read_gbps"] / 1e9) - 1) < 1e-3'
json 'v["prompt_tokens"] == 16 and v["decode_tokens"] == 4 and v["repeat"] == 2'
ok bench $MODEL -p 16 -n 4 --repeat 1 --threads 1 --json
json 'v["threads"] == 1'
ok bench $MODEL -p 1 -n 1 --repeat 1 --threads 1
says out '^prefill +[0-9.]+ tokens/s \(1 tokens\)'
says out '^memory +[0-9.]+ GB/s with [0-9]+ threads; decoding uses [0-9.]+% of it'
bad 1 'option --memory' bench $MODEL --memory 1K
bad 1 "do not fit the model's context" bench $MODEL -p 2000000000
bad 1 'nowhere.ernie' bench nowhere.ernie

finish
