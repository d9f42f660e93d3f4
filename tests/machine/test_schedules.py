"""Schedules on a real systemd: each instant fires once, whatever happens to the pulse, and what is bad is refused."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from looop.errors import UsageError
from looop.systemd import timespec
from tests.machine.harness import (
    LOOOPCTL, RUNTIME, Done, Events, Journal, Pulse, command, looopctl, looopctl_json, systemctl, unit, units,
)  # fmt: skip

# its own in each run: looop knows from the journal which instants of a schedule of that name it has told of
NAME = f"s{os.getpid()}"
RULES = f"""
[[rule]]
name = "tell"
when = "schedules.{NAME}.fired"

[rule.move]
action = "notify"
message = "{NAME} fired for {{{{schedules.{NAME}.fired}}}}"
"""
TIMER = f"looop-schedule@{NAME}.timer"
EARLIER = 3000  # seconds: well missed


@pytest.fixture
def loop(pulse: Pulse) -> Pulse:
    """A pulse, not started, whose only rule tells of every instant of the schedule NAME."""
    pulse.configure("beat_gap = 0.1\n")
    (pulse.data / "schedules").mkdir(mode=0o700, parents=True)
    (pulse.data / "rules.toml").write_text(RULES)
    return pulse


def write(*words: str, name: str = NAME, check: bool = True, env: dict[str, str] | None = None) -> Done:
    return looopctl("schedule", "write", name, *words, check=check, env=env)


def listed(name: str = NAME) -> dict[str, Any]:
    return next(row for row in looopctl_json("schedule", "list") if row["name"] == name)


def put(pulse: Pulse, record: dict[str, Any], name: str = NAME, written_s_ago: float = 0) -> Path:
    """A record edited by hand, so long ago."""
    path = pulse.data / "schedules" / f"{name}.json"
    path.write_text(json.dumps({"v": 1, **record}))
    at = time.time() - written_s_ago
    os.utime(path, (at, at))
    return path


def seconds_ahead(seconds: int) -> tuple[str, float]:
    """A calendar expression for one instant, and that instant."""
    at = int(time.time()) + seconds
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)), float(at)


def minute_of(seconds_ago: float) -> str:
    """A daily calendar expression for the minute so long ago."""
    return time.strftime("*-*-* %H:%M:00", time.localtime(time.time() - seconds_ago))


def beats(journal: Journal, count: int = 2) -> None:
    """So many whole beats from now."""
    for _ in range(count):
        seen = len(journal.find(LOOOP_EVENT="sense_done"))
        looopctl("beat")
        journal.wait("sense_done", seen + 1)
    journal.events.wait_for(lambda: unit(Pulse.service, "StatusText")["StatusText"].startswith("idle"))


def told(journal: Journal) -> list[str]:
    return [entry["LOOOP_DETAIL"] for entry in journal.find(LOOOP_EVENT="notify")]


def instants(journal: Journal, name: str = NAME) -> list[str]:
    return [entry["LOOOP_INSTANT"] for entry in journal.find(LOOOP_EVENT="schedule_fired", LOOOP_SCHEDULE=name)]


def fired_once(journal: Journal, at: float | None = None) -> None:
    """It has fired, the rule acted, and neither happens again."""
    journal.wait("schedule_fired", LOOOP_SCHEDULE=NAME)
    journal.wait("notify")
    beats(journal)
    [instant] = instants(journal)
    assert told(journal) == [f"{NAME} fired for {instant}"]
    if at is not None:
        assert instant == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) and listed()["fired"] == at


# -- on time


def test_a_schedule_is_a_timer_anybody_can_see_and_its_instant_one_change(loop: Pulse, journal: Journal) -> None:
    loop.start()
    journal.wait("sense_done")
    shown = write("--in", "2s", "--note", "soon").stdout.splitlines()
    assert shown[0] == f"write-schedule {NAME}" and len(shown) == 2 and ", in " in shown[1]
    assert TIMER in systemctl("list-timers", "--all", "looop-schedule@*")
    assert (listed()["state"], listed()["timer"], listed()["note"]) == ("pending", True, "soon")
    fired_once(journal, listed()["at"])
    assert listed()["state"] == "due" and listed()["next"] == [] and TIMER not in units()
    for _ in range(2):
        assert looopctl("schedule", "rm", NAME).stdout == f"drop-schedule {NAME}\n"
    assert looopctl_json("schedule", "list") == []


def test_a_calendar_instant_fires_at_its_second(loop: Pulse, journal: Journal) -> None:
    loop.start()
    journal.wait("sense_done")
    spec, at = seconds_ahead(3)
    write("--calendar", spec)
    assert listed()["next"] == [at]
    fired_once(journal, at)
    entry = journal.find(LOOOP_EVENT="schedule_fired")[0]
    assert 0 <= int(entry["__REALTIME_TIMESTAMP"]) / 1e6 - at < 5
    assert listed()["state"] == "fired" and listed()["next"] == []


def test_a_period_shows_its_next_instants(loop: Pulse, journal: Journal) -> None:
    assert [line.split(", in ")[1] for line in write("--every", "1h").stdout.splitlines()[1:]] == ["1h", "2h", "3h"]
    assert TIMER not in units(), "no pulse, nobody to poke"
    loop.start()
    journal.wait("sense_done")
    journal.events.wait_for(lambda: TIMER in units())
    row = listed()
    assert row["state"] == "pending" and [b - a for a, b in zip(row["next"], row["next"][1:])] == [3600, 3600]


@pytest.mark.parametrize("disturb", ["restart", "SIGKILL"])
def test_a_pulse_that_comes_back_before_the_instant_fires_it_once(
    loop: Pulse, journal: Journal, disturb: str
) -> None:
    loop.start()
    journal.wait("pulse_started")
    spec, at = seconds_ahead(6)
    write("--calendar", spec)
    if disturb == "restart":
        loop.restart()
    else:
        loop.kill()
    journal.wait("pulse_started", 2)
    fired_once(journal, at)


def test_a_pulse_killed_at_any_time_around_the_instant_fires_it_once(loop: Pulse, journal: Journal) -> None:
    loop.start()
    journal.wait("sense_done")
    write("--in", "2s")
    at = listed()["at"]
    for count in range(2, 6):
        loop.kill()
        journal.wait("pulse_started", count)
    fired_once(journal, at)


def test_an_instant_that_came_a_moment_before_the_pulse_is_on_time(
    loop: Pulse, journal: Journal, events: Events
) -> None:
    put(loop, {"at": int(time.time()) - 5, "catch_up": "skip"})
    loop.start()
    fired_once(journal)


def test_a_schedule_that_is_written_anew_tells_its_instant_anew(loop: Pulse, journal: Journal) -> None:
    record = {"at": int(time.time())}
    put(loop, record)
    loop.start()
    journal.wait("schedule_fired")
    looopctl("schedule", "rm", NAME)
    beats(journal, 1)
    put(loop, record)
    looopctl("beat")
    journal.wait("schedule_fired", 2)
    assert len(set(instants(journal))) == 1


# -- missed


MISSED: list[dict[str, Any]] = [{"at": -EARLIER}, {"every_s": 86400, "anchor": -EARLIER - 86400}, {"calendar": ""}]


@pytest.mark.parametrize("catch_up", ["once", "skip"])
@pytest.mark.parametrize("record", MISSED, ids=["at", "every", "calendar"])
def test_what_was_missed_while_nothing_ran_fires_once_or_not_at_all(
    loop: Pulse, journal: Journal, record: dict[str, Any], catch_up: str
) -> None:
    now = int(time.time()) | 1  # odd, so that it is no instant of the calendar, which another case has told of
    record = {key: value + now if key in ("at", "anchor") else value for key, value in record.items()}
    record |= {"calendar": minute_of(EARLIER)} if "calendar" in record else {}
    put(loop, record | {"catch_up": catch_up}, written_s_ago=2 * EARLIER)
    loop.start()
    if catch_up == "once":
        fired_once(journal)
        assert EARLIER - 60 <= time.time() - listed()["fired"] <= EARLIER + 120
    else:
        journal.wait("sense_done")
        beats(journal)
        assert instants(journal) == told(journal) == []
        assert listed()["missed"] and listed()["state"] == ("missed" if "at" in record else "pending")
    if "at" in record:
        assert TIMER not in units()
    else:
        assert listed()["next"][0] > time.time() and TIMER in units()


def test_a_week_of_missed_minutes_fires_once(loop: Pulse, journal: Journal) -> None:
    name = f"{NAME}-week"  # the minute it tells of may be one that another case has told of
    put(loop, {"calendar": "*:0/2"}, name, written_s_ago=7 * 86400)
    loop.start()
    journal.wait("schedule_fired")
    beats(journal)
    assert len(instants(journal, name)) == 1, "the next comes in two minutes"


# -- bad days


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--in", "0"], "must be more than nothing"),
        (["--in", "soon"], "Failed to parse time span 'soon': Invalid argument"),
        (["--in=-2h"], "Failed to parse time span '-2h'"),
        (["--in", "infinity"], "no end"),
        (["--in=--version"], "Failed to parse time span '--version'"),
        (["--every", "59s"], "a minute is the least"),
        (["--calendar", "every now and then"], "Failed to parse calendar specification 'every now and then'"),
        (["--calendar", "2020-02-30"], "2020-02-30"),
        (["--calendar", "2020-01-01"], "never elapses again"),
        (["--calendar", "*:*:*"], "again after 1 s"),
        (["--calendar", "Mon 09:00:00,30"], "again after 30 s"),
        (["--in", "1h", "--every", "1h"], "not allowed with"),
        ([], "one of the arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_time_is_refused_in_plain_words_and_nothing_is_written(loop: Pulse, words: list[str], why: str) -> None:
    refused = write(*words, check=False)
    assert refused.returncode == 64 and why in refused.stderr and refused.stdout == ""
    assert list((loop.data / "schedules").iterdir()) == []


def test_what_is_edited_into_nonsense_is_named_and_the_others_work(loop: Pulse, journal: Journal) -> None:
    put(loop, {"calendar": "*:*:*"}, "often")
    put(loop, {"calendar": "every now and then"}, "vague")
    put(loop, {"calendar": "2020-01-01"}, "past")
    put(loop, {"at": 1, "every_s": 60}, "both")
    (loop.data / "schedules/half.json").write_text('{"v": 1, "at"')
    put(loop, {"at": int(time.time())})
    loop.start()
    fired_once(journal)
    trouble = "\n".join(entry["LOOOP_ERROR"] for entry in journal.find(LOOOP_EVENT="state_degraded"))
    rows = {row["name"]: row for row in looopctl_json("schedule", "list")}
    for name in ("often", "vague", "past", "both", "half"):
        assert trouble.count(f"schedule {name}: ") == 1, "told once"
        assert rows[name]["state"] == "invalid" and not rows[name]["timer"] and rows[name]["message"]
    shown = looopctl("schedule", "list")
    assert "often" in shown.stdout and "Failed to parse calendar specification" in shown.stderr
    assert units("looop-schedule@*.timer") == set()


def test_a_decider_gets_the_same_refusals_and_the_same_schedules(loop: Pulse, journal: Journal) -> None:
    move = '[[rule]]\nname = "{0}"\nwhen = "`true`"\n[rule.move]\naction = "write_schedule"\nname = "{0}"\n{1}\n'
    (loop.data / "rules.toml").write_text(
        move.format("good", 'calendar = "daily"\ncatch_up = "skip"') + move.format("bad", 'calendar = "*:*:*"')
    )
    loop.start()
    assert "again after 1 s" in journal.wait("tick_failed")["LOOOP_ERROR"]
    rows = looopctl_json("schedule", "list")
    assert [(row["name"], row["catch_up"], row["timer"]) for row in rows] == [("good", "skip", True)]


# -- systemd's own calendar


BERLIN = {"TZ": "Europe/Berlin"}


def test_the_zone_of_the_shell_is_the_zone_of_the_schedule(loop: Pulse) -> None:
    write("--calendar", "09:00", env={**os.environ, **BERLIN})
    assert listed()["calendar"] == "09:00 Europe/Berlin"
    write("--calendar", "09:00 Asia/Tokyo", env={**os.environ, **BERLIN})
    assert listed()["calendar"] == "09:00 Asia/Tokyo"
    assert [time.gmtime(at)[3:6] for at in listed()["next"]] == [(0, 0, 0)] * 3


@pytest.mark.parametrize(
    ("base", "spec", "expected"),
    [
        # 28 March 2026 12:00 UTC: the clock goes from 2 to 3 o'clock in the night
        (1774699200, "*-*-* 02:30", ["2026-03-30T00:30Z", "2026-03-31T00:30Z"]),
        (1774699200, "*-*-* 09:00", ["2026-03-29T07:00Z", "2026-03-30T07:00Z"]),
        # 24 October 2026 12:00 UTC: from 3 back to 2
        (1792843200, "*-*-* 02:30", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        (1792843200, "*-*-* 09:00", ["2026-10-25T08:00Z", "2026-10-26T08:00Z"]),
    ],
)
def test_daylight_saving_time_is_systemds(
    monkeypatch: pytest.MonkeyPatch, base: float, spec: str, expected: list[str]
) -> None:
    monkeypatch.setenv("TZ", BERLIN["TZ"])
    found = timespec.calendar(spec, 2, base)
    assert [time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(at)) for at in found] == expected


def test_systemd_reads_the_times_that_people_type() -> None:
    assert timespec.span("2h 5min") == 7500 and timespec.timestamp("@5.25") == 5.25
    assert timespec.calendar("2020-01-01") == []
    assert timespec.calendar("*:0/15 UTC", 2, 1790000000.5) == [1790000100.0, 1790001000.0]
    asks: list[Callable[[str], object]] = [timespec.span, timespec.timestamp, timespec.calendar]
    for ask in asks:
        with pytest.raises(UsageError, match="Failed to parse"):
            ask("--help")


# -- follow-ups


def test_each_follow_up_forces_one_decision(pulse: Pulse, journal: Journal) -> None:
    pulse.configure(
        'beat_gap = 0\ndecider_cost_usd = 0\ndecider_command = """echo \'{"action":"noop"}\' >.decision.json"""\n'
    )
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")

    def nudges(**left: float) -> None:
        now, mono = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        waits = {name: {"wall": now + s, "boot": boot, "mono": mono + s} for name, s in left.items()}
        new = pulse.data / ".nudges.new"
        new.write_text(json.dumps(waits))
        new.rename(pulse.data / ".nudges.json")

    pulse.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (pulse.data / "rules.toml").write_text("")
    nudges(a=900, b=1800)
    pulse.start()
    journal.wait("decided")
    for count, left in ((2, {"a": -1.0, "b": 1800.0}), (3, {"b": -1.0})):
        beats(journal, 1)
        nudges(**left)
        looopctl("beat")
        journal.wait("decided", count)
    beats(journal)
    assert len(journal.find(LOOOP_EVENT="decided")) == 3
    assert json.loads((pulse.data / ".nudges.json").read_text()) == {}


def test_follow_ups_wait_beside_each_other_and_survive_a_restart(loop: Pulse, journal: Journal) -> None:
    (loop.data / "rules.toml").write_text("")
    now, boot = time.time(), Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    at = {"a": 900.0, "b": 1800.0, "earlier-boot": 2.0}
    mono = time.clock_gettime(time.CLOCK_BOOTTIME)
    nudges = {name: {"wall": now + s, "boot": boot, "mono": mono + s} for name, s in at.items()}
    nudges["earlier-boot"] |= {"boot": "0" * 32, "mono": 9e9}
    (loop.data / ".nudges.json").write_text(json.dumps(nudges))
    loop.start()
    journal.wait("sense_done")
    wanted = {"looop-nudge@a.timer", "looop-nudge@b.timer"}
    assert wanted <= units("looop-nudge@*.timer")
    journal.events.wait_for(lambda: set(json.loads((loop.data / ".nudges.json").read_text())) == {"a", "b"})
    loop.kill()
    journal.wait("pulse_started", 2)
    journal.events.wait_for(lambda: wanted <= units("looop-nudge@*.timer"))
    pending = looopctl_json("status")["timers"]
    assert [round((pending[timer] - now) / 100) for timer in sorted(wanted)] == [9, 18]


# -- docs/schedules.md and status


def examples(text: str) -> list[str]:
    """The commands of a page, in order."""
    return [line.strip() for line in text.splitlines() if line.startswith(("    looopctl ", "    systemctl "))]


def test_every_command_of_the_page_works_and_its_rule_is_sound(pulse: Pulse, journal: Journal) -> None:
    page = (Path(__file__).parents[2] / "docs/schedules.md").read_text()
    pulse.configure("beat_gap = 0.1\n")
    pulse.start()
    journal.wait("sense_done")
    path = {**os.environ, "PATH": f"{Path(LOOOPCTL).parent}:{os.environ['PATH']}"}
    found = examples(page)
    assert len(found) >= 9
    for line in found:
        done = command("/bin/sh", "-c", line, check=False, env=path)
        assert done.returncode == 0 or "grep" in line, (line, done)
    assert [row["name"] for row in looopctl_json("schedule", "list")] == ["backup-check", "look-again"]
    rule = "\n".join(line[4:] for line in page.split("## Acting on one")[1].split("`fired` is null")[0].splitlines())
    world = json.loads((RUNTIME / "looop/world.json").read_text())
    world["schedules"] = {"report": {"state": "fired", "fired": "2026-11-20T21:33:07Z"}}
    rules, file = pulse.data / "page.toml", pulse.data / "world.json"
    rules.write_text(rule)
    file.write_text(json.dumps(world))
    checked = looopctl("rules", "check", str(rules), "--world", str(file)).stdout
    assert "Write the report for 2026-11-20T21:33:07Z." in checked or "start-worker report" in checked


class Screen:
    """`looopctl status --watch` on a terminal of 80x24."""

    def __init__(self) -> None:
        self.seen = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [LOOOPCTL, "status", "--watch"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self.master, False)

    def drawings(self) -> list[str]:
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self.master, 65536):
                self.seen += chunk
        return self.seen.decode(errors="replace").replace("\r\n", "\n").split("\033[H\033[2J\033[3J")[1:]

    def wait(self, text: str, there: bool = True) -> str:
        """The latest drawing, once it has this text, or has it no longer."""
        deadline = time.monotonic() + 20
        while not (found := self.drawings()[-1:]) or (text in found[0]) != there:
            left = deadline - time.monotonic()
            assert left > 0 and self.process.poll() is None, f"waited in vain for {text!r}: {found}"
            select.select([self.master], [], [], left)
        return found[0]

    def close(self) -> int:
        with contextlib.suppress(OSError):
            os.close(self.master)
        return self.process.wait(20)


def test_status_shows_what_is_pending_and_is_drawn_again_when_something_changes(
    loop: Pulse, journal: Journal, events: Events
) -> None:
    refused = looopctl("status", "--watch", check=False)
    assert refused.returncode == 64 and "no terminal" in refused.stderr
    loop.start()
    journal.wait("sense_done")
    events.wait_for(lambda: bool(looopctl_json("status")["idle"]))
    screen = Screen()
    try:
        first = screen.wait("looop is running, 0 workers, idle: ")
        assert "schedule" not in first and max(map(len, first.splitlines())) <= 80
        write("--in", "2h", "--note", "a note")
        assert "last beat" in screen.wait(f"schedule  {NAME} in 2h: a note")
        loop.kill("STOP")
        looopctl("schedule", "rm", NAME)
        screen.wait(f"schedule  {NAME}", there=False)
        loop.kill("CONT")
        loop.stop()
        screen.wait("looop is stopped, 0 workers")
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(20) == 0
    finally:
        screen.process.kill()
        screen.close()


def test_a_watching_status_ends_with_its_terminal(loop: Pulse) -> None:
    screen = Screen()
    screen.wait("looop is stopped")
    assert screen.close() == 0
