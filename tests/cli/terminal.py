"""Plays someone at a terminal: terminal.py PROGRAM MODEL LONG.jsonl. Prints what failed."""

import os
import pty
import select
import sys
import time

PROGRAM, MODEL, LONG = sys.argv[1:4]
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


def ctrl_c_stops_the_answer():
    t = Terminal("chat", MODEL, "--temp", "0", "--logit-bias", "2=-inf", "--ctx", "4096")
    at = t.wait_for("> ")
    t.type("hello\r")
    at = t.wait_for("\n", at)
    for _ in range(8):
        t.read(0.05)
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


def the_bar_is_drawn_and_erased():
    t = Terminal("eval", MODEL, LONG, "--threads", "1", "--cpu", "base")
    seen = t.finish(0)
    t.check("scoring [" in seen and "% " in seen, "no progress bar")
    last_bar = seen.rfind("scoring [")
    t.check("\r\x1b[K{" in seen[last_bar:], "the bar was not erased before the result")
    t.check(seen.rstrip().endswith("}"), "the result is not the last line")


def the_bar_stays_away():
    t = Terminal("eval", MODEL, LONG, "--limit", "20", "--quiet")
    t.check("scoring" not in t.finish(0), "a bar in spite of --quiet")
    t = Terminal("eval", MODEL, LONG, "--limit", "20", TERM="dumb")
    t.check("scoring" not in t.finish(0), "a bar on a dumb terminal")


def ctrl_c_erases_the_bar_and_says_one_line():
    t = Terminal("eval", MODEL, LONG, "--threads", "1", "--cpu", "base")
    at = t.wait_for("scoring [")
    t.type("\x03")
    t.wait_for("stopped by a signal", at)
    seen = t.finish(130)
    t.check("\r\x1b[Kernie eval: stopped by a signal" in seen, "the bar was not erased")


for play in (
    chat_answers_and_leaves,
    ctrl_c_stops_the_answer,
    ctrl_c_at_the_prompt_leaves_the_second_time,
    the_bar_is_drawn_and_erased,
    the_bar_stays_away,
    ctrl_c_erases_the_bar_and_says_one_line,
):
    play()
sys.exit(1 if failures else 0)
