"""Schedules: records, what is remembered and told of them, and timers that agree with them."""

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from looop import schedules
from looop.clock import Stamp
from looop.errors import Refused, Unavailable, UsageError
from looop.paths import Paths
from looop.systemd import journal, timespec

NOW = Stamp(1_000_000.0, "b" * 32, 5000.0)


def later(seconds: float) -> Stamp:
    return Stamp(NOW.wall + seconds, NOW.boot, NOW.mono + seconds)


class Timers:
    """A manager that knows timers only."""

    def __init__(self) -> None:
        self.timers: dict[str, Mapping[str, Any]] = {}
        self.made: list[str] = []
        self.next: float | None = None
        self.down = False

    def list_units(self, patterns: Sequence[str]) -> dict[str, Any]:
        if self.down:
            raise Unavailable("cannot reach systemd: gone")
        star = [p[: -len("*.timer")] for p in patterns if p.endswith("*.timer")]
        return {u: None for u in self.timers if u in patterns or any(u.startswith(prefix) for prefix in star)}

    def get(self, unit: str, interface: str, name: str, signature: str) -> Any:
        assert (interface, name) == ("Unit", "Description")
        return self.timers[unit]["Description"]

    def stop(self, unit: str) -> str:
        self.timers.pop(unit, None)
        return ""

    def drop(self, unit: str) -> None:
        self.stop(unit)

    def next_elapse(self, timer: str) -> float | None:
        return self.next if timer in self.timers else None

    async def start_transient_wait(self, unit: str, properties: Mapping[str, Any]) -> None:
        assert unit not in self.timers
        if "nonsense" in str(properties):
            raise Refused("cannot start: Invalid OnCalendar")
        self.timers[unit] = properties
        self.made.append(unit)


@pytest.fixture
def live() -> Timers:
    return Timers()


@pytest.fixture(autouse=True)
def daily(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A calendar that systemd-analyze would take is daily, 50 s from now on; returns what was asked about."""
    asked: list[str] = []

    def calendar(spec: str, count: int = 3, base: float | None = None) -> list[float]:
        asked.append(spec)
        if spec == "nonsense":
            raise UsageError("cannot use calendar expression 'nonsense': Failed to parse calendar specification")
        step, start = (10, NOW.wall) if spec == "secondly" else (86400, NOW.wall + 50)
        first = math.floor(((NOW.wall if base is None else base) - start) / step) + 1
        return [] if spec == "past" else [start + (first + n) * step for n in range(count)]

    monkeypatch.setattr(timespec, "calendar", calendar)
    return asked


class Told(list[tuple[str, str]]):
    """What the journal holds: (schedule, instant) of every schedule_fired. `dead` is a crash before it is written.

    `before` is how many of them are older than the record that is asked about.
    """

    dead = False
    before = 0

    def emit(self, event: str, *, text: str = "", schedule: str = "", instant: str = "", **_: Any) -> None:
        if self.dead:
            raise KeyboardInterrupt
        assert event == "schedule_fired"
        self.append((schedule, instant))

    def has(self, event: str, since: float, schedule: str = "", instant: str = "") -> bool:
        return (schedule, instant) in self[self.before :]


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    monkeypatch.setattr(journal, "emit", found.emit)
    monkeypatch.setattr(journal, "has", found.has)
    return found


def write(paths: Paths, name: str, **times: Any) -> None:
    given: dict[str, Any] = {"in_s": None, "every_s": None, "calendar": None, "note": "", "now": NOW} | times
    schedules.write(paths, name, **given)
    os.utime(paths.schedules / f"{name}.json", (given["now"].wall, given["now"].wall))


def arm(live: Timers, paths: Paths, now: Stamp = NOW) -> list[str]:
    return asyncio.run(schedules.arm(live, paths, now))


def signal(paths: Paths, name: str, now: Stamp) -> Any:
    return schedules.readings(paths, now)[name][0]


@pytest.mark.parametrize(
    "times",
    [
        {}, {"in_s": 1, "every_s": 60}, {"in_s": 0}, {"in_s": -1}, {"in_s": 2**62}, {"every_s": 59}, {"calendar": ""},
        {"in_s": 5, "catch_up": "twice"},
    ],
    ids=str,
)  # fmt: skip
def test_exactly_one_usable_time_is_needed(paths: Paths, times: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot write schedule x"):
        write(paths, "x", **times)
    assert schedules.records(paths) == {}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b", "a\nb", "x" * 300, ".x"])
def test_a_bad_name_is_refused(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError):
        write(paths, name, in_s=5)
    with pytest.raises(UsageError):
        schedules.drop(paths, name)


def look(live: Timers, paths: Paths, *seconds: float) -> list[Any]:
    """The signal of schedule x after a beat at each of these times."""
    found = []
    for s in seconds:
        assert arm(live, paths, later(s)) == []
        found.append(signal(paths, "x", later(s)))
    return found


def test_a_one_shot_is_pending_then_due_until_dropped(paths: Paths, live: Timers, told: Told) -> None:
    write(paths, "x", in_s=100, note="look")
    assert look(live, paths, 0, 99) == ["pending"] * 2
    assert schedules.readings(paths, NOW)["x"][1] == {
        "kind": "one-shot", "state": "pending", "due_in_s": 100, "note": "look", "catch_up": "once"
    }  # fmt: skip
    assert look(live, paths, 100, 101, 9999) == [{"due": "1970-01-12T13:48:20Z"}] * 3
    assert told == [("x", "1970-01-12T13:48:20Z")]
    assert schedules.drop(paths, "x") and not schedules.drop(paths, "x")


def test_a_one_shot_written_anew_before_anybody_saw_it_pending_is_another_change(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100)
    before = look(live, paths, 0, 100)[-1]
    write(paths, "x", in_s=10, now=later(200))
    assert look(live, paths, 300)[-1] not in (before, "pending")


def test_a_period_counts_and_jumps_once_over_what_was_missed(paths: Paths, live: Timers, told: Told) -> None:
    write(paths, "x", every_s=60)
    assert look(live, paths, 0, 59) == [{"period": 0}] * 2
    assert [found["period"] for found in look(live, paths, 60, 61, 600)] == [1, 1, 10]
    assert schedules.readings(paths, later(601))["x"][1]["due_in_s"] == 59
    assert told == [("x", "1970-01-12T13:47:40Z"), ("x", "1970-01-12T13:56:40Z")]


def test_records_of_the_portable_looop_are_readable(paths: Paths, live: Timers) -> None:
    (paths.schedules / "a.json").write_text(json.dumps({"v": 1, "at": 1_000_100}))
    (paths.schedules / "b.json").write_text(json.dumps({"v": 1, "every_s": 3600}))
    arm(live, paths)
    assert signal(paths, "a", NOW) == "pending"
    assert signal(paths, "b", NOW) == {"period": 277, "fired": "1970-01-12T13:00:00Z"}


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"calendar": ""}', '{"at": 1, "every_s": 60}', '{"every_s": 1}', '{"at": "x"}', '{"at": 1e999}'],
)
def test_an_unusable_record_has_a_stable_signal_and_is_reported(paths: Paths, live: Timers, content: str) -> None:
    (paths.schedules / "x.json").write_text(content)
    write(paths, "good", in_s=5)
    assert signal(paths, "x", NOW) == signal(paths, "x", later(1)) == "invalid"
    assert [p.startswith("cannot arm schedule x: ") for p in arm(live, paths)] == [True]
    assert live.made == ["looop-schedule@good.timer"]


def test_a_timer_is_made_once_and_anew_only_when_its_instant_changed(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100)
    write(paths, "y", every_s=60)
    for _ in range(3):
        assert arm(live, paths) == []
    assert live.made == ["looop-schedule@x.timer", "looop-schedule@y.timer"]
    assert live.timers["looop-schedule@x.timer"]["TimersCalendar"] == [("OnCalendar", "1970-01-12 13:48:20 UTC")]
    arm(live, paths, later(60))
    assert live.made[2:] == ["looop-schedule@y.timer"]
    assert live.timers["looop-schedule@y.timer"]["TimersCalendar"] == [("OnCalendar", "1970-01-12 13:48:40 UTC")]


def test_a_timer_without_a_record_and_one_that_is_past_go_away(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100)
    write(paths, "y", in_s=100)
    arm(live, paths)
    schedules.drop(paths, "x")
    arm(live, paths, later(100))
    assert live.timers == {}


def test_a_lost_bus_drops_nothing(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100)
    live.down = True
    assert arm(live, paths) == ["cannot arm the schedules: cannot reach systemd: gone"]
    assert asyncio.run(schedules.arm_one(live, paths, "x", NOW)) == "cannot reach systemd: gone"


def test_many_schedules_are_each_given_their_time(paths: Paths, live: Timers) -> None:
    for n in range(20):
        write(paths, f"x{n}", calendar="daily")
    allowed: list[float] = []
    assert asyncio.run(schedules.arm(live, paths, NOW, allowed.append)) == []
    assert len(allowed) >= 20 and len(live.timers) == 20


def test_what_systemd_refuses_is_told(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="nonsense")
    assert "Invalid OnCalendar" in asyncio.run(schedules.arm_one(live, paths, "x", NOW))


@pytest.mark.parametrize(
    ("calendar", "why"), [("nonsense", "Failed to parse"), ("past", "never elapses"), ("secondly", "again after 10 s")]
)
def test_a_calendar_edited_into_something_unusable_is_invalid_and_has_no_timer(
    paths: Paths, live: Timers, calendar: str, why: str
) -> None:
    write(paths, "good", every_s=60)
    write(paths, "x", calendar="daily")
    arm(live, paths)
    write(paths, "x", calendar=calendar)
    for _ in range(2):
        [problem] = arm(live, paths)
        assert problem.startswith("cannot arm schedule x: ") and why in problem
    assert signal(paths, "x", NOW) == "invalid" and why in schedules.readings(paths, NOW)["x"][1]["message"]
    assert list(live.timers) == ["looop-schedule@good.timer"]
    write(paths, "x", calendar="weekly")
    assert look(live, paths, 1) == [{"fired": None}] and len(live.timers) == 2


def test_without_an_answer_about_a_calendar_nothing_is_said_of_it(
    paths: Paths, live: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> list[float]:
        raise Unavailable("cannot ask systemd-analyze")

    write(paths, "x", calendar="daily")
    with monkeypatch.context() as patch:
        patch.setattr(timespec, "calendar", fails)
        assert arm(live, paths) == ["cannot tell when schedule x is due: cannot ask systemd-analyze"]
    assert look(live, paths, 1, 50) == [{"fired": None}, {"fired": "1970-01-12T13:47:30Z"}]


def test_each_instant_of_a_calendar_is_told_once(paths: Paths, live: Timers, told: Told) -> None:
    write(paths, "x", calendar="daily")
    first, second = "1970-01-12T13:47:30Z", "1970-01-13T13:47:30Z"
    assert look(live, paths, 0, 49) == [{"fired": None}] * 2
    live.next = NOW.wall + 50  # the timer has not moved on yet
    assert look(live, paths, 50, 51) == [{"fired": first}] * 2
    live.next = NOW.wall + 50 + 86400
    assert look(live, paths, 52, 86449, 86450) == [{"fired": first}] * 2 + [{"fired": second}]
    assert told == [("x", first), ("x", second)]


def test_an_instant_that_comes_between_a_look_at_the_clock_and_one_at_the_timer_is_told(
    paths: Paths, live: Timers, told: Told
) -> None:
    write(paths, "x", calendar="daily")
    arm(live, paths)
    live.next = NOW.wall + 50 + 86400  # it has gone off meanwhile, and announces the one after
    assert look(live, paths, 49) == [{"fired": None}]
    live.next = NOW.wall + 50 + 2 * 86400  # and once more, while the first is being noted
    assert look(live, paths, 51) == [{"fired": "1970-01-12T13:47:30Z"}]
    assert schedules.memories(paths)["x"].next == NOW.wall + 50 + 86400


def test_the_next_instant_comes_from_the_timer_without_asking_anew(
    paths: Paths, live: Timers, daily: list[str]
) -> None:
    write(paths, "x", calendar="daily")
    arm(live, paths)
    daily.clear()
    live.next = NOW.wall + 30  # the zone of the host was changed: systemd has noticed
    assert look(live, paths, 1, 2) == [{"fired": None}] * 2 and daily == []
    assert look(live, paths, 30)[0] != {"fired": None} or schedules.memories(paths)["x"].next == NOW.wall + 30


def test_an_instant_missed_while_nothing_ran_is_told_once_late(paths: Paths, live: Timers, told: Told) -> None:
    write(paths, "x", calendar="daily")
    arm(live, paths)
    live.timers.clear()  # a reboot
    assert look(live, paths, 190_000, 195_000) == [{"fired": "1970-01-14T13:47:30Z"}] * 2
    assert len(told) == 1


def test_without_catch_up_a_missed_instant_is_passed_over(paths: Paths, live: Timers, told: Told) -> None:
    write(paths, "x", calendar="daily", catch_up="skip")
    write(paths, "y", in_s=10, catch_up="skip")
    arm(live, paths)
    assert look(live, paths, 9000) == [{"fired": None}] and told == []
    assert signal(paths, "y", later(9000)) == "missed"
    assert live.timers.keys() == {"looop-schedule@x.timer"}
    assert look(live, paths, 86460) == [{"fired": "1970-01-13T13:47:30Z"}]


def test_the_file_its_service_leaves_vouches_for_an_instant(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100, catch_up="skip")
    arm(live, paths)
    (paths.fired / "x").touch()
    os.utime(paths.fired / "x", (NOW.wall + 100.5, NOW.wall + 100.5))
    assert look(live, paths, 1900) == [{"due": "1970-01-12T13:48:20Z"}]


def test_another_expression_starts_from_nothing(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="daily")
    look(live, paths, 0, 50)
    write(paths, "x", calendar="weekly", now=later(55))
    assert signal(paths, "x", later(60)) == {"fired": None}
    assert look(live, paths, 60) == [{"fired": None}]


def test_a_record_edited_while_nothing_ran_counts_from_its_edit(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="daily")
    arm(live, paths)
    write(paths, "x", calendar="weekly", now=later(100))
    assert look(live, paths, 86_000) == [{"fired": None}], "not what the earlier expression has missed"
    assert look(live, paths, 90_000) == [{"fired": "1970-01-13T13:47:30Z"}]


@pytest.mark.parametrize("written", [False, True])
def test_a_crash_between_remembering_and_telling_tells_once(
    paths: Paths, live: Timers, told: Told, written: bool
) -> None:
    write(paths, "x", in_s=100)
    arm(live, paths)
    told.dead = True
    with pytest.raises(KeyboardInterrupt):
        arm(live, paths, later(100))
    assert signal(paths, "x", later(100)) == {"due": "1970-01-12T13:48:20Z"}
    told.dead = False
    if written:
        told.append(("x", "1970-01-12T13:48:20Z"))
    look(live, paths, 101, 102)
    assert told == [("x", "1970-01-12T13:48:20Z")]


def test_what_an_earlier_schedule_of_that_name_was_told_is_another_telling(
    paths: Paths, live: Timers, told: Told
) -> None:
    told.append(("x", "1970-01-12T13:48:20Z"))
    told.before = 1
    write(paths, "x", in_s=100)
    look(live, paths, 101)
    assert len(told) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 1, "y": {"spec": 1}, "z": {"spec": "", "recent": 1}}'])
def test_what_is_remembered_may_be_lost_at_the_cost_of_one_telling(
    paths: Paths, live: Timers, told: Told, content: str
) -> None:
    write(paths, "x", in_s=100)
    write(paths, "y", calendar="daily")
    look(live, paths, 0, 100)
    paths.schedule_state.write_text(content)
    problems = arm(live, paths, later(200))
    assert all(".schedules.json" in problem for problem in problems) and len(problems) <= 1
    assert signal(paths, "x", later(200)) == {"due": "1970-01-12T13:48:20Z"}
    assert told == [("x", "1970-01-12T13:48:20Z"), ("y", "1970-01-12T13:47:30Z")]
    assert arm(live, paths, later(300)) == []


def test_every_schedule_has_a_memory_and_no_other(paths: Paths, live: Timers) -> None:
    write(paths, "x", in_s=100)
    write(paths, "y", every_s=60)
    arm(live, paths)
    schedules.drop(paths, "x")
    arm(live, paths)
    assert set(schedules.memories(paths)) == {"y"}
