"""`looopctl watch` on a real terminal: what it shows, what its keys do, and how it leaves the terminal behind."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.machine.harness import HOME, LOOOPCTL, Events, Journal, Pulse, looopctl, looopctl_json, unit
from tests.machine.terminal import Tui

WATCH = (LOOOPCTL, "watch")


@pytest.fixture
def fleet(pulse: Pulse, events: Events, journal: Journal) -> Pulse:
    """Six workers, each of another health."""
    pulse.configure('stuck_after = 2\nverify_tries = 1\nbeat_gap = 0.1\nworker_command = "cat {{prompt_file}}"\n')
    pulse.start()
    for worker_id, command in {
        "asking": f'said=$({LOOOPCTL} ask --prompt "Deploy it?" --options yes,no); echo "heard <$said>"; exec cat',
        "chatty": "exec top -b -d 0.5",
        "fullscreen": "exec top -d 0.5",
        "plain": "echo the plain one; exec top -b -d 1",
        "stuck": "echo I say no more; exec cat",
    }.items():
        looopctl("worker", "start", worker_id, "do it", "--command", command)
    looopctl("worker", "start", "wrong", "do it", "--command", "echo my last word; exit 3", "--verify", "false")
    journal.wait("worker_verified", LOOOP_SESSION="wrong")
    events.wait_for(lambda: "stuck" in health().values() and "waiting-ask" in health().values())
    return pulse


def health() -> dict[str, str]:
    return {row["id"]: row["health"] for row in looopctl_json("worker", "list")}


@pytest.fixture
def watch(fleet: Pulse) -> Iterator[Tui]:
    made = Tui(*WATCH, "-a")
    yield made
    made.close()


def test_everything_there_is_to_know_is_on_one_screen(watch: Tui) -> None:
    shown = watch.until("pulse", "busy", "waiting-ask", "stuck        running", "fail", "q quit")
    for worker_id in ("asking", "chatty", "fullscreen", "plain", "stuck", "wrong"):
        assert f"\n{worker_id} " in shown
    assert "exit 3" in watch.line("wrong") and " up " in watch.line("pulse")
    assert "1 asking | 1 stuck" in shown and "Deploy it?" in shown and "1 yes  2 no" in shown
    watch.until("%")  # processor use, from the second reading on
    assert {"idx3", "idx9"} <= {cell.fg for y in range(24) for cell in watch.screen.row(y)}  # waiting, and in trouble


def test_the_selected_workers_screen_is_live(fleet: Pulse) -> None:
    tui = Tui(*WATCH, "fullscreen")
    try:
        tui.until("fullscreen: screen 80x24", "load average", "Tasks:", "%Cpu(s)")
        tui.until("Tasks:", without=tui.line("top - "))  # it ticks
        tui.press("l")
        tui.until("fullscreen: log", "follows")
        tui.press("lz")
        tui.until("PID USER", without="HEALTH")
    finally:
        tui.close()


def test_a_question_is_answered_in_place(watch: Tui, journal: Journal) -> None:
    watch.until("Deploy it?")
    watch.press("a")
    watch.until("answer asking-1", "1 yes  2 no", "Enter send")
    watch.press("x")
    watch.until("> x")
    watch.press("\x152")  # Ctrl-U, then the second option
    watch.until("> no")
    watch.press("\r")
    journal.wait("ask_answered", LOOOP_ASK="asking-1")
    watch.until("asking-1: answered, and the answer was read", "0 asking")
    watch.press("\t\t\t")
    watch.until("journal", "answered asking-1 · no")
    assert looopctl("log", "asking").stdout.endswith("heard <no>\n")


def test_an_answer_that_came_too_late_is_said_in_place(watch: Tui) -> None:
    watch.until("Deploy it?")
    watch.press("a")
    watch.until("answer asking-1")
    looopctl("answer", "asking-1", "yes")
    watch.press("no\r")
    watch.until("cannot answer asking-1")
    watch.press("\x1b")
    watch.until("0 asking", "q quit", without="answer asking-1")


def test_it_follows_the_size_of_its_terminal(watch: Tui) -> None:
    watch.until("q quit")
    watch.resize(50, 200)
    shown = watch.until("journal", "asks: 1", "TASKS")
    assert "\u2502" in shown and len(shown.splitlines()) == 50
    watch.resize(10, 50)
    watch.until("needs 60x15", "this is 50x10")
    watch.resize(15, 60)
    watch.until("pulse", "q quit", without="needs")
    watch.resize(24, 80)
    watch.until("CPU%", "q quit")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_as_before_after_a_signal(watch: Tui, number: signal.Signals) -> None:
    watch.until("q quit")
    assert watch.screen.alternate
    watch.process.send_signal(number)
    assert watch.end() == 128 + number
    assert watch.restored()


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("\x03", 0)])
def test_the_terminal_is_as_before_after_a_key(watch: Tui, key: str, code: int) -> None:
    watch.until("q quit")
    watch.press(key)
    assert watch.end() == code
    assert watch.restored()


def test_a_pulse_that_is_gone_is_down_and_its_workers_are_not(
    watch: Tui, fleet: Pulse, journal: Journal
) -> None:
    watch.until(" up ")
    looopctl("down", "--keep-workers")
    watch.until(" down ", "inactive", "5 live")
    fleet.start()
    watch.until(" up ", "active", "5 live")
    fleet.kill()  # systemd brings it back
    journal.wait("pulse_started", count=2)
    watch.until(" up ", "5 live")


def test_without_a_bus_nothing_is_shown_as_dead_or_empty(fleet: Pulse) -> None:
    tui = Tui(*WATCH, env={"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"})
    try:
        shown = tui.until("pulse", "unknown", "workers unknown", "Deploy it?")
        assert "cannot reach" in shown and " down " not in shown and "no workers" not in shown
    finally:
        tui.close()


def test_when_the_bus_is_lost_the_last_known_rows_stay_marked_until_it_is_back(watch: Tui) -> None:
    watch.until("chatty     busy         running")
    os.kill(int(unit("dbus.service", "MainPID")["MainPID"]), signal.SIGKILL)
    watch.until("5 live?", "busy?", "wrong", "systemd does not answer")
    watch.until("5 live |", "chatty     busy  ", patience=150)  # systemd#21177: the manager itself may hang for 90 s


# the limit is one for all of a user's processes, in other machines too, so it is not really used up here
WITHOUT_INOTIFY = """
import sys
from inotify import calls

def used_up():
    raise calls.InotifyError("used up")

calls.inotify_init = used_up
sys.argv = ["looopctl", "watch"]
from looop.ctl import main
sys.exit(main())
"""


def test_without_inotify_it_looks_from_time_to_time_and_says_so(fleet: Pulse) -> None:
    tui = Tui("/usr/bin/python3", "-c", WITHOUT_INOTIFY, cols=200, env={"PYTHONPATH": str(HOME / ".local/lib/looop")})
    try:
        tui.until("no inotify instance left", "looking every 2 s", "Deploy it?")
        looopctl("answer", "asking-1", "yes")
        tui.until("0 asking", "answered asking-1")
    finally:
        tui.close()


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "vt100"}])
def test_without_colours_there_are_none(fleet: Pulse, env: dict[str, str]) -> None:
    tui = Tui(*WATCH, "-a", "fullscreen", env=env)
    try:
        tui.until("load average", "waiting-ask", "q quit")
        assert {cell.fg + cell.bg for y in range(24) for cell in tui.screen.row(y)} == {""}
    finally:
        tui.close()


def test_what_a_worker_prints_stays_in_its_pane(fleet: Pulse, events: Events) -> None:
    hostile = (
        r"printf '\033]0;title\007\033[2J\033[999;999H\033[?1049h\xf0\x9f\x91\xa9\u200d\u202eX'"
        r"'\u0300\u0300\u0300\u0300'; exec cat"
    )
    looopctl("worker", "start", "hostile", "do it", "--command", hostile)
    tui = Tui(*WATCH, "hostile")
    try:
        tui.until("hostile: screen 80x24", "X")
        lines = tui.screen.plain(trim=False).splitlines()
        assert lines[1].startswith("ID ") and lines[2].startswith("pulse ") and "q quit" in lines[23]
        assert b"\x1b]0;title" not in tui.raw and "\u202e".encode() not in tui.raw
    finally:
        tui.close()


def test_what_is_no_terminal_is_refused_with_a_way_out() -> None:
    refused = looopctl("watch", check=False)
    assert refused.returncode == 64
    assert "not a terminal" in refused.stderr and "status --watch" in refused.stderr


def test_an_unknown_worker_is_an_error_before_the_screen_is_touched(fleet: Pulse) -> None:
    tui = Tui(*WATCH, "nobody")
    assert tui.end() == 1
    assert "there is no such worker" in tui.screen.plain() and b"\x1b" not in tui.raw
    tui.close()
