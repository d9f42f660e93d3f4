"""A worker's screen seen from outside: pictures of it, a terminal on it, its log."""

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import termios
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import pytest

from looop.paths import Paths
from looop.sessions import control
from looop.screens.screen import Screen
from tests.machine.harness import DATA, LOOOPCTL, PATIENCE_S, Events, Journal, looopctl, looopctl_json, units, wipe

SCOPE = "looop-worker-w.scope"
LESS = "seq 200 | sed 's/^/row /' > reports/rows; exec less reports/rows"
LOG = DATA / "sessions/w/output.log"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


def start(command: str) -> None:
    looopctl("worker", "start", "w", "--command", command, "show something")


def picture() -> str:
    return looopctl("screenshot", "w").stdout


def shows(events: Events, text: str) -> None:
    events.wait_for(lambda: text in picture(), what=f"{text!r} on the screen")


def gone(events: Events) -> None:
    events.wait_for(lambda: SCOPE not in units(SCOPE), what="the end of the worker")


def resize(rows: int, cols: int) -> None:
    asyncio.run(control.query(Paths.from_env(), "w", "resize", rows=rows, cols=cols))


class Terminal:
    """A terminal with `looopctl attach` on it, and what it shows."""

    def __init__(self, *words: str, rows: int = 24, cols: int = 80) -> None:
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (rows, cols))
        os.set_blocking(self.master, False)
        self.before = termios.tcgetattr(self.slave)
        self.screen, self.raw = Screen(rows, cols), b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", LOOOPCTL, "attach", "w", *words], env={**os.environ, "TERM": "xterm-256color"},
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
        )  # fmt: skip

    def until(self, fact: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain for {what}; it shows\n{self.screen.plain()}"
            self._take(min(left, 0.2))

    def _take(self, patience: float) -> bool:
        if not select.select([self.master], [], [], patience)[0]:
            return False
        data = os.read(self.master, 65536)
        self.raw += data
        self.screen.feed(data)
        return True

    def shows(self, text: str) -> None:
        self.until(lambda: text in self.screen.plain(), repr(text))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self.master, (rows, cols))
        self.screen.resize(rows, cols)

    def end(self) -> int:
        """Its exit code; the terminal has to be as it was."""
        pidfd = os.pidfd_open(self.process.pid)
        self.until(lambda: select.select([pidfd], [], [], 0)[0], "the end of attach")
        os.close(pidfd)
        while self._take(0):
            pass
        code = self.process.wait()
        assert termios.tcgetattr(self.slave) == self.before
        assert not self.screen.alternate and not self.screen.cursor[2]
        assert self.screen.modes == {7, 25}
        os.close(self.master)
        os.close(self.slave)
        return code


def test_a_full_screen_program_is_shown_live_and_after_its_end(events: Events) -> None:
    start(LESS)
    shows(events, "row 23")
    assert picture().splitlines()[:2] == ["row 1", "row 2"]
    found = looopctl_json("screenshot", "w")
    assert (found["rows"], found["cols"], found["alternate_screen"]) == (24, 80, True)
    assert found["bytes"] == LOG.stat().st_size
    root = ElementTree.fromstring(looopctl("screenshot", "w", "--svg").stdout)
    texts = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"row\u00a01", "row\u00a023"} <= texts
    assert looopctl("screenshot", "w", "--ansi").stdout.endswith("\x1b[0m\n")
    os.kill(asyncio.run(control.query(Paths.from_env(), "w", "status"))["child"], signal.SIGKILL)
    gone(events)
    assert "row 23" in picture() and not looopctl_json("screenshot", "w")["cursor"]["hidden"]
    refused = looopctl("screenshot", "nobody", check=False)
    assert refused.returncode == 1 and "no such session" in refused.stderr
    assert looopctl("screenshot", "../..", check=False).returncode == 64


def test_each_picture_has_the_size_of_its_time(events: Events) -> None:
    start("trap 'stty size </dev/tty' WINCH; echo up; while :; do read -t 1 < <(exec sleep 1); done")
    shows(events, "up")
    resize(40, 132)
    shows(events, "40 132")
    found = looopctl_json("screenshot", "w")
    assert (found["rows"], found["cols"]) == (40, 132)
    looopctl("kill", "w")
    gone(events)
    found = looopctl_json("screenshot", "w")
    assert (found["rows"], found["cols"]) == (40, 132)


def test_top_is_drawn_as_it_draws(events: Events) -> None:
    start("exec top -d 1")
    shows(events, "COMMAND")
    assert re.search(r"^Tasks: *\d+ total", picture(), re.MULTILINE)


def test_attach_is_read_only_and_gives_the_terminal_back(events: Events, journal: Journal) -> None:
    start(LESS)
    shows(events, "row 23")
    terminal = Terminal()
    terminal.shows("row 22")
    terminal.type(b"q")
    terminal.shows("read-only, keys do nothing")
    terminal.type(b"G\x1d")
    assert terminal.end() == 0
    assert b"detached from w" in terminal.raw
    assert picture().splitlines()[0] == "row 1" and SCOPE in units(SCOPE)
    assert not journal.find(LOOOP_EVENT="attached")


def test_attach_write_types_takes_the_size_and_is_journaled(events: Events, journal: Journal) -> None:
    start(LESS)
    shows(events, "row 23")
    terminal = Terminal("--write", "--detach-key", "^a", rows=30, cols=100)
    terminal.shows("row 29")
    terminal.resize(33, 90)
    terminal.shows("row 32")
    assert looopctl_json("screenshot", "w")["rows"] == 33
    terminal.type(b"G")
    terminal.shows("row 200")
    terminal.type(b"\x01")
    assert terminal.end() == 0
    events.wait_for(lambda: int(looopctl_json("screenshot", "w")["rows"]) == 24, what="the size of before")
    again = Terminal("--write")
    again.type(b"g")
    again.shows("row 23")
    again.type(b"q")
    assert again.end() == 0
    assert b"w has ended: exited 0" in again.raw
    journal.wait("attached", count=2, LOOOP_SESSION="w")
    assert (DATA / "journal.md").read_text().count("attached w for writing, from /dev/pts/") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(events: Events, number: signal.Signals) -> None:
    start(LESS)
    shows(events, "row 23")
    terminal = Terminal("--write")
    terminal.shows("row 22")
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number
    assert SCOPE in units(SCOPE)


def test_several_can_be_attached(events: Events) -> None:
    start("stty -echo; while read line; do echo \"got $line\"; done")
    events.wait_for(LOG.exists)
    one, two, third = Terminal("--write"), Terminal("--write"), Terminal()
    for terminal in (one, two, third):
        terminal.shows("detaches")
    one.type(b"first\r")
    two.shows("got first")
    two.type(b"second\r")
    for terminal in (one, third):
        terminal.shows("got second")
    for terminal in (one, two, third):
        terminal.type(b"\x1d")
        assert terminal.end() == 0


def test_a_smaller_terminal_shows_the_part_with_the_cursor(events: Events) -> None:
    start("seq 60; printf 'prompt> '; read x")
    shows(events, "prompt>")
    terminal = Terminal(rows=5, cols=20)
    terminal.shows("Ctrl-] detaches")
    terminal.until(lambda: terminal.screen.plain().splitlines()[-1] == "prompt>", "the cursor's row")
    assert terminal.screen.plain().splitlines() == ["57", "58", "59", "60", "prompt>"]
    terminal.resize(1, 3)
    terminal.until(lambda: terminal.screen.plain() == ">\n", "the cursor's corner")
    terminal.type(b"\x1d")
    assert terminal.end() == 0


def test_nothing_a_worker_prints_drives_the_terminal_that_looks(events: Events) -> None:
    evil = r"\033]52;c;ZXZpbA==\007\033]0;evil\007\033[c\033[6n\033[21t\005\033P+q\033\\"
    start(f"printf '{evil}harmless\\n'; read x")
    shows(events, "harmless")
    terminal = Terminal("--write")
    terminal.shows("harmless")
    terminal.type(b"\x1d")
    assert terminal.end() == 0
    assert not re.search(rb"\x1b[\]P_^X]|\x05|\x1b\[[0-9;]*[cnt]", terminal.raw)


def test_without_a_terminal_there_is_nothing_to_attach() -> None:
    start("read x")
    refused = looopctl("attach", "w", check=False)
    assert refused.returncode == 64 and "log -f" in refused.stderr
    assert looopctl("attach", "nobody", check=False).returncode == 1
    assert looopctl("attach", "w", "--detach-key", "F1", check=False).returncode == 64


def test_the_dead_cannot_be_attached_to(events: Events) -> None:
    start("exit 0")
    gone(events)
    terminal = Terminal()
    assert terminal.end() == 1
    assert b"it has ended" in terminal.raw


def test_what_a_worker_uses_is_published(events: Events) -> None:
    start("for ((i = 0; i < 200000; i++)); do :; done; echo done; read x")
    shows(events, "done")
    [row] = looopctl_json("worker", "list")
    assert row["cpu_s"] > 0.1 and row["tasks"] >= 2
    assert row["memory_bytes"] is None or row["memory_bytes"] > 100_000
    looopctl("kill", "w")
    gone(events)
    [row] = looopctl_json("worker", "list", "--all")
    assert row["tasks"] is None and row["memory_bytes"] is None and row["state"] == "killed"
    start("for ((i = 0; i < 200000; i++)); do :; done")
    gone(events)
    [row] = looopctl_json("worker", "list", "--all")
    assert row["exit_code"] == 0 and row["cpu_s"] > 0.1
    assert row["memory_peak"] is None or row["memory_peak"] > 100_000


def test_the_log_begins_where_it_is_told_to(events: Events) -> None:
    start("seq 1000; read x")
    shows(events, "1000")
    assert looopctl("log", "w", "-n", "2").stdout == "999\n1000\n"
    place = looopctl_json("screenshot", "w")["bytes"]
    assert looopctl("log", "w", "--from", str(place)).stdout == ""
    assert looopctl("log", "w", "--raw", "--from", str(place - 6)).stdout == "1000\r\n".replace("\r\n", "\n")
    assert looopctl("log", "w", "--since", "1 hour ago").stdout.startswith("1\n2\n")
    assert looopctl("log", "w", "--since", "tomorrow", "-n", "1").stdout == "1000\n"
    wrong = looopctl("log", "w", "--since", "blue moon", check=False)
    assert wrong.returncode == 64 and "blue moon" in wrong.stderr


def measured(*words: str) -> tuple[str, float, int]:
    """What a command prints, its seconds of processor time and its most memory in KiB."""
    process = subprocess.Popen([LOOOPCTL, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return text, used.ru_utime + used.ru_stime, used.ru_maxrss


def test_a_transcript_of_2_gb_is_never_read_whole(events: Events) -> None:
    start("exit 0")
    gone(events)
    with LOG.open("wb") as file:
        file.truncate(2 << 30)
        file.seek((2 << 30) - (6 << 20))
        while file.tell() < 2 << 30:
            file.write(b"".join(b"\x1b[3%dmline\x1b[0m %d\r\n" % (n % 8, n) for n in range(10000)))
    for words in (["screenshot", "w"], ["log", "w", "-n", "3"]):
        text, seconds, memory = measured(*words)
        assert text.splitlines()[-1] == "line 9999"
        assert memory < 64 << 10
        print(words, f"{seconds:.2f} s of processor time, {memory >> 10} MiB")
    assert json.loads(measured("screenshot", "w", "--json")[0])["bytes"] == LOG.stat().st_size
