"""`wait` tells every change once, never spins on what it told already, and wakes for nothing else."""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from looop import store
from tests.machine.harness import (
    DATA, LOOOPCTL, WITHOUT_INOTIFY, Done, Events, Journal, Pulse, command, looopctl, looopctl_json, systemctl, units,
    wipe,
)  # fmt: skip

WORKER = "looop-worker-w1.scope"
NOWHERE = {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


class Waiting:
    """A `looopctl wait` in the background, and the document it ends with."""

    def __init__(
        self, *words: str, env: dict[str, str] | None = None, program: Sequence[str] = (LOOOPCTL,)
    ) -> None:
        self.process = subprocess.Popen(
            [*program, "wait", "--json", *words], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
        )  # fmt: skip

    def result(self, code: int = 0) -> dict[str, Any]:
        out, self.err = self.process.communicate(timeout=30)
        assert self.process.returncode == code, (out, self.err)
        found: dict[str, Any] = json.loads(out)
        return found


def wait(*words: str, code: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = looopctl("wait", "--json", *words, check=False, env=env)
    assert done.returncode == code, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cursor() -> str:
    return str(looopctl_json("state")["cursor"])


def down_told() -> str:
    """A cursor of now that knows that there is no pulse."""
    found = cursor()
    assert wait("--since", found, "--timeout", "0", code=124)["changed"] == []
    return found


@contextmanager
def worker(script: str, *words: str) -> "Iterator[subprocess.Popen[str]]":
    """`script` in the scope of worker w1, until it ends."""
    process = subprocess.Popen(
        ["systemd-run", "--user", "--scope", "--quiet", f"--unit={WORKER}", "sh", "-c", script, *words],
        env={**os.environ, "LOOOP_SESSION_ID": "w1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            systemctl("kill", "--signal=KILL", WORKER, check=False)
        process.communicate(timeout=20)


def asked(events: Events, count: int = 1) -> None:
    events.wait_for(lambda: len(looopctl_json("asks")) == count)


# -- asks


def test_an_open_ask_is_told_at_once_and_never_again_while_it_is_held(events: Events) -> None:
    with worker(f"{LOOOPCTL} ask --prompt Deploy? --options yes,no"):
        asked(events)
        first = wait("--only-asks", code=2)  # no pulse runs, which is told along with it
        assert first["changed"][0] == "asks"
        [ask] = first["new"]["asks"]["changed"]
        assert (ask["id"], ask["worker"], ask["prompt"], ask["options"]) == ("w1-1", "w1", "Deploy?", ["yes", "no"])
        assert wait("--since", first["cursor"], "--timeout", "1", code=124)["changed"] == []
        held = Waiting("--since", first["cursor"])
        looopctl("goal", "write", "g1", "Do it.")
        told = held.result()
        assert "goals" in told["changed"] and "asks" not in told["changed"]
        looopctl("answer", "w1-1", "yes")
        told = wait("--only-asks", "--since", told["cursor"])
        assert told["new"]["asks"] == {"changed": [], "gone": ["w1-1"]}


def test_a_new_ask_wakes_a_blocked_wait(events: Events) -> None:
    blocked = Waiting("--only-asks", "--since", down_told())
    with worker(f"{LOOOPCTL} ask --prompt Deploy?"):
        told = blocked.result()
        assert [ask["id"] for ask in told["new"]["asks"]["changed"]] == ["w1-1"]
        [shown] = looopctl_json("state")["asks"]
        assert told["new"]["asks"]["changed"] == [{**shown, "age_s": pytest.approx(5, abs=5)}], "one published schema"


def test_an_ask_that_becomes_stranded_is_news(events: Events) -> None:
    with worker(f"{LOOOPCTL} ask --prompt Deploy?") as process:
        asked(events)
        blocked = Waiting("--only-asks", "--since", cursor())
        systemctl("kill", "--signal=KILL", WORKER)
        process.communicate(timeout=20)
    told = blocked.result()
    assert [(ask["id"], ask["state"]) for ask in told["new"]["asks"]["changed"]] == [("w1-1", "stranded")]
    assert wait("--since", told["cursor"], "--timeout", "0", "--only-asks", code=124)["changed"] == []


# -- the other categories


def edit_goal() -> None:
    store.write(DATA / "goals/g1.md", "Do it.\n")


def edit_playbook() -> None:
    store.write(DATA / "PLAYBOOK.md", "Be kind.\n")


def edit_in_place() -> None:
    with open(DATA / "PLAYBOOK.md", "a") as file:
        file.write("And quick.\n")


def edit_schedule() -> None:
    store.write_json(DATA / "schedules/s1.json", {"v": 1, "every_s": 3600, "anchor": 0})


def take_claim() -> None:
    looopctl("claim", "lease")


def write_snapshot() -> None:
    store.write(DATA / "snapshots/sensor-a.json", '{"signal":1}')


def note_something() -> None:
    store.append_line(DATA / "journal.md", "- something was done")


@pytest.mark.parametrize(
    ("change", "category"),
    [
        (edit_goal, "goals"), (edit_playbook, "playbook"), (edit_in_place, "playbook"), (edit_schedule, "schedules"),
        (take_claim, "claims"), (write_snapshot, "snapshots"), (note_something, "journal"),
    ],
)  # fmt: skip
def test_every_category_wakes_and_is_told_once(change: Callable[[], None], category: str) -> None:
    for folder in ("goals", "schedules", "claims", "snapshots"):
        (DATA / folder).mkdir(mode=0o700, parents=True)
    blocked = Waiting("--since", down_told())
    change()
    told = blocked.result()
    assert told["changed"] == [category] == list(told["new"]) and len(told["new"][category]["changed"]) == 1
    assert wait("--since", told["cursor"], "--timeout", "0", code=124)["changed"] == []


def test_the_end_of_a_worker_and_a_note_on_it_are_news(pulse: Pulse, gate: Path, events: Events) -> None:
    pulse.configure('decide = "off"\n')
    looopctl("worker", "start", "w1", "--command", f"read _ <{gate}", "wait")
    blocked = Waiting("--since", down_told())
    looopctl("flag", "--session", "w1", "look here")
    told = blocked.result()
    [session] = told["new"]["workers"]["changed"]
    assert told["changed"] == ["workers"] and (session["id"], session["note"]) == ("w1", "look here")
    moving = {key: None for key in session if key.endswith("_s") or key in ("memory_bytes", "tasks")}
    for listed in (looopctl_json("worker", "list")[0], looopctl_json("state")["workers"][0]):
        assert {**listed, **moving} == {**session, **moving}, "one published schema"
    blocked = Waiting("--since", told["cursor"])
    with open(gate, "w"):
        pass
    states = []
    while "exited" not in states:  # the scope may be told of before the exit record is there
        told = blocked.result()
        states += [session["state"] for session in told["new"]["workers"]["changed"]]
        blocked = Waiting("--since", told["cursor"], "--timeout", "0" if "exited" in states else "20")
    assert blocked.result(code=124)["changed"] == [] and "unknown" not in states and states.count("exited") == 1


def test_what_a_filter_held_back_is_told_with_the_next_result(events: Events) -> None:
    (DATA / "goals").mkdir(mode=0o700, parents=True)
    start = down_told()
    blocked = Waiting("--only-asks", "--since", start)
    edit_goal()
    edit_playbook()
    with worker(f"{LOOOPCTL} ask --prompt Deploy?"):
        assert blocked.result()["changed"][:3] == ["asks", "goals", "playbook"]
    assert wait("--actionable", "--since", start, "--timeout", "0")["changed"][:3] == ["asks", "goals", "playbook"]
    (DATA / "asks/w1-1.json").unlink()
    quiet = wait("--actionable", "--since", start, "--timeout", "0", code=124)
    assert wait("--since", quiet["cursor"], "--timeout", "0")["changed"] == ["goals", "playbook"]


def test_a_rotated_journal_loses_no_line(pulse: Pulse) -> None:
    pulse.configure("journal_max_bytes = 1\n")
    looopctl("goal", "write", "g0", "Do it.")
    at, lines = cursor(), []
    for n in range(1, 4):
        looopctl("goal", "write", "g1", "Do it", str(n), "--journal", f"goal, {n}")
        told = wait("--actionable", "--since", at)
        lines += told["new"]["journal"]["changed"]
        at = told["cursor"]
    assert (DATA / "journal.md.1").exists()
    assert [line.rpartition("goal, ")[2] for line in lines] == ["1", "2", "3"]


# -- the pulse


def test_a_pulse_that_stops_is_told_once_and_so_is_its_return(pulse: Pulse) -> None:
    pulse.start()
    blocked = Waiting("--only-asks", "--since", cursor())
    pulse.stop()
    told = blocked.result(code=2)
    assert "pulse-down" in told["changed"] and told["pulse_alive"] is False
    assert wait("--only-asks", "--since", told["cursor"], "--timeout", "1", code=124)["changed"] == []
    blocked = Waiting("--since", told["cursor"])
    asks_only = Waiting("--only-asks", "--since", told["cursor"], "--timeout", "20")
    at = told["cursor"]
    pulse.start()
    while "pulse-up" not in (told := blocked.result())["changed"]:
        at = told["cursor"]
        blocked = Waiting("--since", at)
    assert asks_only.process.poll() is None
    pulse.stop()
    assert wait("--since", told["cursor"], "--only-asks", code=2)["changed"].count("pulse-down") == 1
    looopctl("beat", check=False)
    asks_only.process.terminate()
    asks_only.process.communicate(timeout=20)


def test_a_restart_and_a_crash_of_the_pulse_are_not_down(pulse: Pulse, journal: Journal, events: Events) -> None:
    pulse.start()
    blocked = Waiting("--only-asks", "--since", cursor())
    for _ in range(3):
        pulse.restart()
    before = pulse.pid
    pulse.kill("KILL")
    events.wait_for(lambda: pulse.active and pulse.pid not in (0, before))
    with worker(f"{LOOOPCTL} ask --prompt Deploy?"):
        told = blocked.result()
        assert "asks" in told["changed"] and not [name for name in told["changed"] if name.startswith("pulse")]
        asked(events)
        systemctl("kill", "--signal=KILL", WORKER)
    events.wait_for(lambda: WORKER not in units(WORKER))


def test_no_pulse_at_all_is_told_at_once_without_a_cursor() -> None:
    told = wait(code=2)
    assert told["changed"] == ["pulse-down"] and not DATA.exists(), "looking makes nothing"
    assert looopctl_json("state")["pulse"] == "inactive" and not DATA.exists()


# -- bad days


def test_a_data_directory_that_comes_later_is_noticed(events: Events) -> None:
    blocked = Waiting("--only-asks", "--since", down_told())  # its worker may be seen before it asks
    assert not DATA.exists()
    with worker(f"{LOOOPCTL} ask --prompt Deploy?"):
        assert "asks" in blocked.result()["changed"]


def test_without_a_bus_files_still_wake_it(events: Events) -> None:
    (DATA / "goals").mkdir(mode=0o700, parents=True)
    blocked = Waiting("--since", down_told(), env=NOWHERE)
    edit_goal()
    told = blocked.result()
    assert told["changed"] == ["goals"] and told["pulse"] == "unknown" and told["pulse_alive"] is None
    assert told["trouble"] and "cannot reach the user manager" in blocked.err
    assert wait("--since", told["cursor"], "--timeout", "0", code=124)["changed"] == [], "back again is no news"


def test_without_inotify_it_looks_now_and_then_and_says_so(events: Events) -> None:
    (DATA / "goals").mkdir(mode=0o700, parents=True)
    at = down_told()
    blocked = Waiting("--since", at, program=WITHOUT_INOTIFY)
    edit_goal()
    told = blocked.result()
    assert told["changed"] == ["goals"] and blocked.err.count("max_user_instances") == 1
    assert wait("--since", told["cursor"], "--timeout", "0", code=124)["changed"] == []


def test_who_has_its_result_waits_for_nothing_else(tmp_path: Path) -> None:
    """What ends after it (see `looop.ctl.command.leave`) has none of its descriptors."""
    with open(tmp_path / "lock", "w") as file, open(tmp_path / "lock") as again:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen([LOOOPCTL, "wait"], stdout=subprocess.PIPE, pass_fds=[file.fileno()]) as process:
            file.close()
            assert process.stdout and b"cursor: " in process.stdout.read() and process.wait(20) == 2
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_changes_nothing(closed: str) -> None:
    done = command("sh", "-c", f"{LOOOPCTL} wait {closed}", check=False)
    assert (done.returncode, done.stderr) == (2, "") and ("cursor: " in done.stdout) == (closed != ">&-")


def test_time_is_up_with_a_cursor_to_go_on_from() -> None:
    (DATA / "goals").mkdir(mode=0o700, parents=True)
    start = down_told()
    told = wait("--since", start, "--timeout", "0.1", code=124)
    edit_goal()
    assert wait("--since", told["cursor"], "--timeout", "0")["changed"] == ["goals"]


@pytest.mark.parametrize("bad", ["", "yesterday", "c1.AAAA"])
def test_a_cursor_that_is_none_is_refused_with_a_way_on(bad: str) -> None:
    done = looopctl("wait", "--since", bad, check=False)
    assert done.returncode == 64 and "looopctl state --json" in done.stderr and not done.stdout


def test_a_cursor_may_come_on_standard_input() -> None:
    done: Done = looopctl("wait", "--since", "-", "--timeout", "0", check=False, input=cursor())
    assert done.returncode == 124 and done.stdout.startswith("changed: \ncursor: c1.")
