"""Plays someone at a terminal: terminal.py PROGRAM MODEL. Prints what failed."""

import glob
import json
import os
import pty
import select
import subprocess
import sys
import time

PROGRAM, MODEL = sys.argv[1:3]
PATIENCE = 60  # seconds, for machines that are busy and builds with sanitizers
failures = 0


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, *arguments, **environment):
        self.name = " ".join(arguments)
        self.seen = b""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "LC_ALL": "C"}, **environment)
            os.execv(PROGRAM, [PROGRAM, *arguments])

    def read(self, seconds):
        """One piece of output; False at its end."""
        if not select.select([self.file], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.file, 4096)
        except OSError:
            piece = b""
        self.seen += piece
        return bool(piece)

    def wait_for(self, text, after=0):
        """Read until the text is seen behind position `after`; the position behind it."""
        end = time.time() + PATIENCE
        while text.encode() not in self.seen[after:]:
            if time.time() > end or not self.read(0.1):
                self.fail(f"never saw {text!r}")
                return len(self.seen)
        return self.seen.index(text.encode(), after) + len(text.encode())

    def wait_for_more(self, after):
        """Read until there is anything behind position `after`."""
        end = time.time() + PATIENCE
        while len(self.seen) <= after:
            if time.time() > end or not self.read(0.1):
                return self.fail("fell silent")

    def type(self, text):
        os.write(self.file, text.encode())

    def finish(self, status=0):
        """Read to the end and check the exit status."""
        end = time.time() + PATIENCE
        while time.time() < end and self.read(0.1):
            pass
        while time.time() < end:
            pid, state = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.WEXITSTATUS(state) if os.WIFEXITED(state) else -os.WTERMSIG(state)
                self.check(code == status, f"status {code}, expected {status}")
                return self.seen.decode(errors="replace")
            time.sleep(0.05)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        self.fail("did not end")
        return self.seen.decode(errors="replace")

    def check(self, fine, sentence):
        if not fine:
            self.fail(sentence)

    def fail(self, sentence):
        global failures
        failures += 1
        print(f"terminal: ernie {self.name}: {sentence}\n  saw {self.seen[-600:]!r}")


def write_documents(path, n):
    with open(path, "w", encoding="ascii") as file:
        file.write('{"text": "a few words for a short document"}\n' * n)


def documents_that_last(path, seconds):
    """Write so many documents that this machine and this build need the time for them."""
    n = 8
    while True:
        write_documents(path, n)
        start = time.time()
        subprocess.run([PROGRAM, "eval", MODEL, path], check=True, stdout=subprocess.DEVNULL)
        if time.time() - start >= seconds:
            return n
        n *= 2


def chat_answers_and_leaves():
    t = Terminal("chat", MODEL, "-n", "4", "--temp", "0")
    at = t.wait_for("> ")
    t.type("hello\r")
    at = t.wait_for("[4 tokens", at)
    at = t.wait_for("> ", at)
    t.type("/help\r")
    at = t.wait_for("/system TEXT", at)
    at = t.wait_for("> ", at)
    t.type("two \\\r")
    at = t.wait_for(". ", at)
    t.type("lines\r")
    at = t.wait_for("[4 tokens", at)
    at = t.wait_for("> ", at)
    t.type("/frobnicate\r")
    at = t.wait_for("unknown command /frobnicate", at)
    t.wait_for("> ", at)
    t.type("\x04")
    t.finish(0)


def chat_says_what_it_read():
    make = [PROGRAM, "synth", "deep.ernie", "--shape", "demo", "--type", "w4", "-q"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    t = Terminal("chat", "deep.ernie", "-n", "4", "--logit-bias", "2=-inf", "--ctx", "256",
                 "--memory", "18M", "--warm", "none", "--threads", "2")
    at = t.wait_for("> ")
    for line in ("hello", "again"):
        t.type(line + "\r")
        at = t.wait_for("| stop: length | experts ", t.wait_for("[4 tokens", at))
        at = t.wait_for(" of 32 experts a layer kept]", t.wait_for("% in memory, ", at))
        at = t.wait_for("> ", at)
    t.type("\x04")
    t.finish(0)


def commands_are_obeyed():
    """Every command and what it says; a saved conversation continues as if it had not been left."""

    def say(t, line, expected):
        t.type(line + "\r")
        return t.wait_for("> ", t.wait_for(expected, len(t.seen)))

    def answer(t, line):
        before = len(t.seen)
        say(t, line, "[4 tokens")
        text = t.seen[before:].decode(errors="replace").replace("\r", "")
        return text[text.index("\n", text.index(line)) : text.index("[4 tokens")].strip()

    with open("bad.json", "w", encoding="ascii") as file:
        file.write('{"messages": 5}')
    t = Terminal("chat", MODEL, "-n", "4", "--temp", "0", "--logit-bias", "2=-inf")
    t.wait_for("> ")
    answer(t, "hello")
    say(t, "/save talk.json", "(saved to talk.json)")
    whole = answer(t, "and more")
    say(t, "/save", "/save needs the name of a file")
    say(t, "/save /nowhere/t.json", "/nowhere/t.json: cannot be written: No such file")
    say(t, "/load", "/load needs the name of a file")
    say(t, "/load nowhere.json", "nowhere.json: cannot be opened: No such file")
    say(t, "/load bad.json", "bad.json: messages is not an array")
    say(t, "/system be kind", "(system message set)")
    say(t, "/system", "(system message removed)")
    say(t, "/reset", "(a new conversation)")
    say(t, "/load talk.json", "(continuing talk.json, 2 messages)")
    again = answer(t, "and more")
    t.check(whole == again, f"/load should continue the conversation: {whole!r}, {again!r}")
    t.type("/exit\r")
    t.finish(0)
    with open("talk.json", encoding="utf-8") as file:
        roles = [message["role"] for message in json.load(file)["messages"]]
    t.check(roles == ["user", "assistant"], f"saved {roles}")


def ctrl_c_stops_the_answer():
    t = Terminal("chat", MODEL, "--temp", "0", "--logit-bias", "2=-inf", "--ctx", "4096")
    at = t.wait_for("> ")
    t.type("hello\r")
    at = t.wait_for("\n", at)
    t.wait_for_more(at)
    t.type("\x03")
    at = t.wait_for("(stopped)", at)
    at = t.wait_for("> ", at)
    t.type("/reset\r")
    at = t.wait_for("(a new conversation)", at)
    t.wait_for("> ", at)
    t.type("\x04")
    t.finish(0)


def ctrl_c_at_the_prompt_leaves_the_second_time():
    t = Terminal("chat", MODEL)
    at = t.wait_for("> ")
    t.read(0.2)
    t.type("half a line\x03")
    at = t.wait_for("(Ctrl-C again or Ctrl-D leaves)", at)
    t.wait_for("> ", at)
    t.read(0.2)
    t.type("\x03")
    t.finish(0)


def run_on_a_terminal_shows_text_and_statistics():
    t = Terminal("run", MODEL, "-p", "hello", "-n", "4", "--temp", "0")
    seen = t.finish(0)
    t.check("| 4 tokens " in seen, "no statistics")


def the_bar_is_drawn_and_erased():
    t = Terminal("eval", MODEL, "documents.jsonl")
    seen = t.finish(0)
    t.check("scoring [" in seen and "% " in seen and " left" in seen, "no progress bar")
    last_bar = seen.rfind("scoring [")
    t.check("\r\x1b[K{" in seen[last_bar:], "the bar was not erased before the result")
    t.check(seen.rstrip().endswith("}"), "the result is not the last line")
    t.check("reading the prompt" not in seen, "two bars at once")


def the_bar_stays_away():
    t = Terminal("eval", MODEL, "documents.jsonl", "--quiet")
    t.check("scoring" not in t.finish(0), "a bar in spite of --quiet")
    t = Terminal("eval", MODEL, "documents.jsonl", TERM="dumb")
    t.check("scoring" not in t.finish(0), "a bar on a dumb terminal")


def ctrl_c_erases_the_bar_and_says_one_line():
    t = Terminal("eval", MODEL, "many.jsonl")
    at = t.wait_for("scoring [")
    t.type("\x03")
    t.wait_for("stopped by a signal", at)
    seen = t.finish(130)
    t.check("\r\x1b[Kernie eval: stopped by a signal" in seen, "the bar was not erased")
    t.check("documents" not in seen[seen.rfind("\x1b[K") :], "a result in spite of Ctrl-C")


def a_bar_with_the_time_left(what, *arguments):
    """Something that takes seconds and writes big.ernie, stopped as soon as its bar is there."""
    start = time.time()
    t = Terminal(*arguments)
    while t.read(0.05) and b" left" not in t.seen:
        pass
    if b"no room for" in t.seen:
        print(f"  (no room to {arguments[0]})")
        t.finish(1)
    elif b" left" not in t.seen:
        t.finish(0)
        t.check(time.time() - start < 1.5, "no progress bar")
        print(f"  ({arguments[0]} ended before its bar could be seen)")
    else:
        t.check(what in t.seen and b"B/s  " in t.seen, "no rate")
        t.type("\x03")
        t.finish(130)
        t.check(not glob.glob("big.ernie*"), "the unfinished file should be gone")
    for path in glob.glob("big.ernie*"):
        os.remove(path)


def synth_shows_the_time_left():
    a_bar_with_the_time_left(b"writing [", "synth", "big.ernie", "--shape", "21b", "--layers", "8")


def convert_shows_the_time_left():
    make = os.path.join(os.path.dirname(__file__), "sparse_checkpoint.py")
    subprocess.run([sys.executable, make, "zeros", "60"], check=True)
    a_bar_with_the_time_left(b"converting [", "convert", "zeros", "big.ernie")


n_documents = documents_that_last("documents.jsonl", 1.0)
write_documents("many.jsonl", 100 * n_documents)
for play in (
    chat_answers_and_leaves,
    chat_says_what_it_read,
    commands_are_obeyed,
    ctrl_c_stops_the_answer,
    ctrl_c_at_the_prompt_leaves_the_second_time,
    run_on_a_terminal_shows_text_and_statistics,
    the_bar_is_drawn_and_erased,
    the_bar_stays_away,
    ctrl_c_erases_the_bar_and_says_one_line,
    synth_shows_the_time_left,
    convert_shows_the_time_left,
):
    play()
sys.exit(1 if failures else 0)
