"""Schedules: what is due by the record, each instant once, and timers that agree with the records."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from looop import schedules
from looop.clock import Stamp
from looop.errors import Refused, Unavailable, UsageError
from looop.paths import Paths

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


def write(paths: Paths, name: str, **times: Any) -> None:
    given: dict[str, Any] = {"in_s": None, "every_s": None, "calendar": None, "note": "", "now": NOW} | times
    schedules.write(paths, name, **given)


def arm(live: Timers, paths: Paths, now: Stamp = NOW) -> list[str]:
    return asyncio.run(schedules.arm(live, paths, now))


def signal(paths: Paths, name: str, now: Stamp) -> Any:
    return schedules.readings(paths, now)[name][0]


@pytest.mark.parametrize(
    "times",
    [{}, {"in_s": 1, "every_s": 60}, {"in_s": 0}, {"in_s": -1}, {"in_s": 2**62}, {"every_s": 59}, {"calendar": ""}],
    ids=str,
)
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


def test_a_one_shot_is_pending_then_due_until_dropped(paths: Paths) -> None:
    write(paths, "x", in_s=100, note="look")
    assert schedules.readings(paths, NOW)["x"] == ("pending", {"kind": "one-shot", "due_in_s": 100, "note": "look"})
    assert [signal(paths, "x", later(s)) for s in (99, 100, 9999)] == ["pending", "due", "due"]
    assert schedules.drop(paths, "x") and not schedules.drop(paths, "x")


def test_a_period_counts_and_jumps_once_over_what_was_missed(paths: Paths) -> None:
    write(paths, "x", every_s=60)
    assert [signal(paths, "x", later(s))["period"] for s in (-500, 0, 59, 60, 600)] == [0, 0, 0, 1, 10]
    assert schedules.readings(paths, later(61))["x"][1]["due_in_s"] == 59


def test_records_of_the_portable_looop_are_readable(paths: Paths) -> None:
    (paths.schedules / "a.json").write_text(json.dumps({"v": 1, "at": 1_000_100}))
    (paths.schedules / "b.json").write_text(json.dumps({"v": 1, "every_s": 3600}))
    assert signal(paths, "a", NOW) == "pending"
    assert signal(paths, "b", NOW) == {"period": 277}


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


def test_what_systemd_refuses_is_told(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="nonsense")
    assert "Invalid OnCalendar" in asyncio.run(schedules.arm_one(live, paths, "x", NOW))
    assert len(arm(live, paths)) == 1


def test_each_instant_of_a_calendar_is_told_once(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="daily")
    live.next = NOW.wall + 50
    arm(live, paths)
    assert signal(paths, "x", later(49)) == {"fired": None}
    assert signal(paths, "x", later(50)) == {"fired": NOW.wall + 50}
    arm(live, paths, later(50))  # the timer has not moved on yet
    live.next = NOW.wall + 150
    arm(live, paths, later(51))
    assert [signal(paths, "x", later(s)) for s in (52, 149)] == [{"fired": NOW.wall + 50}] * 2
    assert signal(paths, "x", later(150)) == {"fired": NOW.wall + 150}


def test_a_calendar_instant_missed_while_nothing_ran_is_told_once_late(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="daily")
    live.next = NOW.wall + 50
    arm(live, paths)
    live.timers.clear()  # a reboot
    live.next = NOW.wall + 100_000
    arm(live, paths, later(90_000))
    assert signal(paths, "x", later(90_000)) == {"fired": NOW.wall + 50}
    assert signal(paths, "x", later(95_000)) == {"fired": NOW.wall + 50}


def test_without_catch_up_a_missed_instant_is_passed_over(paths: Paths, live: Timers) -> None:
    (paths.schedules / "x.json").write_text(json.dumps({"v": 1, "calendar": "daily", "catch_up": False}))
    live.next = NOW.wall + 50
    arm(live, paths)
    assert signal(paths, "x", later(9000)) == {"fired": None}
    assert signal(paths, "x", later(60)) == {"fired": NOW.wall + 50}


def test_another_expression_starts_from_nothing(paths: Paths, live: Timers) -> None:
    write(paths, "x", calendar="daily")
    live.next = NOW.wall + 50
    arm(live, paths)
    write(paths, "x", calendar="weekly")
    assert signal(paths, "x", later(60)) == {"fired": None}
