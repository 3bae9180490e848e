# What only happens when someone sits at a terminal: terminal.py plays that someone.
. "$(dirname "$0")/lib.sh"
[ -n "$PYTHON" ] && "$PYTHON" -c 'import pty' 2>/dev/null || exit 77
make_model

text=$(head -c 3000 /dev/zero | tr '\0' 7)
for _ in 1 2 3 4 5 6 7 8 9 10; do
    for _ in 1 2 3 4 5 6; do printf '{"text": "%s"}\n' "$text"; done
done >long.jsonl

checked
"$PYTHON" "$(dirname "$0")/terminal.py" "$ERNIE" $MODEL long.jsonl || {
    : >out
    : >err
    failed 'terminal.py'
}
finish
