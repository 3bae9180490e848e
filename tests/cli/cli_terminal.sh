# What only happens when someone sits at a terminal: terminal.py plays that someone.
. "$(dirname "$0")/lib.sh"
[ -n "$PYTHON" ] && "$PYTHON" -c 'import pty; pty.openpty()' 2>/dev/null || exit 77
make_model

checked
"$PYTHON" "$(dirname "$0")/terminal.py" "$ERNIE" $MODEL || {
    : >out
    : >err
    failed 'terminal.py'
}
finish
