# bench/beside: the forms it reads, the arithmetic of its table, what it refuses. The peers are fakes;
# ours is the program once, so that the two agree on the fields.
. "$(dirname "$0")/lib.sh"
[ -n "$PYTHON" ] || exit 77
make_model

# beside ARGUMENT...: like run, with bench/beside.
beside() {
    checked
    "$PYTHON" "$REPO/bench/beside" "$@" >out 2>err </dev/null
    status=$?
}

# refuses FRAGMENT ARGUMENT...: must fail with one line that holds the fragment and print no table.
refuses() {
    fragment=$1
    shift
    beside "$@"
    if [ "$status" -ne 1 ] || [ -s out ]; then
        failed "beside $*: expected status 1 and no table"
    elif ! grep -v '^pair' err | grep -qF -e "$fragment"; then
        failed "beside $*: expected the line to hold: $fragment"
    elif [ "$(grep -vc '^pair' err)" -ne 1 ]; then
        failed "beside $*: expected one line"
    fi
}

# Medians of the runs 2, 8, 4 and 1, 2, 8: each run takes the next line of the file.
fake() {
    cat >"$1.sh" <<END
n=\$(cat $1.n 2>/dev/null || echo 0)
echo \$((n % 3 + 1)) >$1.n
sed -n "\$((n % 3 + 1))p" $1.txt
END
}
printf 'load 0.5 s  pp16 %s t/s  tg4 %s t/s  threads 2\n' 20 2.00 80 8.00 40 4.00 >ours.txt
printf 'load 2.0 s  pp16 %s t/s  tg4 %s t/s  threads 2\n' 10 1.00 20 2.00 80 8.00 >peer.txt
fake ours
fake peer
beside --name Other --ours 'sh ours.sh' --peer 'sh peer.sh'
[ "$status" -eq 0 ] || failed "two fakes should be compared"
says out '^\| \| ernie \| Other \| ratio \|'
says out '^\| load, s \| 0.5 \| 2 \| 4.00 \| 4.00 - 4.00 \|'
says out '^\| prefill of 16, tokens/s \| 40 \| 20 \| 2.00 \| 0.50 - 4.00 \|'
says out '^\| decode after 16, tokens/s \| 4 \| 2 \| 2.00 \| 0.50 - 4.00 \|'
says out 'beside Other; medians of 3 pairs; '

# The program beside llama-bench's JSON: no load time, decoding at a depth.
cat >bench.json <<'END'
[{"build_commit": "abc", "build_number": 7, "n_threads": 2, "n_prompt": 8, "n_gen": 0, "avg_ts": 1e-6},
 {"build_commit": "abc", "build_number": 7, "n_threads": 2, "n_prompt": 0, "n_gen": 2, "n_depth": 4, "avg_ts": 1e-6},
 {"build_commit": "abc", "build_number": 7, "n_threads": 2, "n_prompt": 8, "n_gen": 2, "avg_ts": 5}]
END
ours="$ERNIE bench $MODEL -p 8 -c 0,4 -n 2 --repeat 1 --threads 1 --json"
beside --pairs 1 --ours "$ours" --peer 'cat bench.json'
[ "$status" -eq 0 ] || failed "the program should stand beside llama-bench"
says out 'ernie [0-9.]+, [a-z0-9]+, 1 threads beside llama.cpp abc \(7\), 2 threads'
says out '^\| prefill of 8, tokens/s \|'
says out '^\| decode after 4, tokens/s \|'
checked
[ "$(grep -c '^|' out)" -eq 4 ] || failed "only what both measured belongs into the table"

# Nothing in common, nothing readable, nothing to run.
echo 'load 1.0 s  pp9 10 t/s  tg4 10 t/s' >nine.txt
refuses 'nothing to compare: ours measured load, s, prefill of 16' --ours 'head -1 ours.txt' --peer 'cat nine.txt'
refuses 'printed none of the forms' --ours 'head -1 ours.txt' --peer 'echo hello'
refuses 'printed none of the forms' --ours 'head -1 ours.txt' --peer 'echo []'
refuses 'ended with status 3: no model' --ours 'sh -c "echo no model >&2; exit 3"' --peer 'true'
refuses 'cannot be run' --ours './nowhere' --peer 'true'
beside --pairs 0 --ours true --peer true
[ "$status" -eq 2 ] || failed "no pairs should be refused"

finish
