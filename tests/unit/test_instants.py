"""Each instant of a schedule fires once, whatever the clock, the pulse or the time zone does."""

import datetime
import math
from collections.abc import Callable
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from looop import instants
from looop.instants import LATE, Memory, Record, Upcoming
from looop.jsonutil import JsonError

DAY, WEEK, YEAR = 86400.0, 7 * 86400.0, 365 * 86400.0
T = 1_790_000_040.0  # a whole minute, and not a whole hour


def grid(step: float, offset: float = 0.0) -> Upcoming:
    """A calendar whose instants are evenly spaced."""

    def upcoming(base: float, count: int) -> list[float]:
        first = math.floor((base - offset) / step) + 1
        return [offset + (first + n) * step for n in range(count)]

    return upcoming


class Life:
    """One schedule, looked at again and again; `fired` is what was told, instant by instant."""

    def __init__(self, record: Record, upcoming: Upcoming | None = None) -> None:
        self.record = record
        self.upcoming: Upcoming = upcoming or record.upcoming
        self.memory: Memory | None = None
        self.fired: list[float] = []

    def look(self, *times: float, vouched: float | None = None) -> list[float]:
        """Look at each of these times; what fired."""
        before = len(self.fired)
        for now in times:
            memory = self.memory or instants.fresh(self.record, now, self.upcoming)
            after = instants.advance(self.record, memory, now, vouched, self.upcoming)
            if not after.told:
                assert after.fired is not None
                self.fired.append(after.fired)
                after = replace(after, told=True)
            self.memory = Memory.from_json(after.to_json())  # as if the pulse had been restarted in between
            assert self.memory == after
        return self.fired[before:]

    def state(self, now: float) -> str:
        assert self.memory is not None
        return self.memory.state(self.record, now)


def calendar(step: float, catch_up: str = "once", offset: float = 0.0) -> Life:
    life = Life(Record(calendar="*", catch_up=catch_up, written=T), grid(step, offset))
    life.look(T)
    return life


def every(step: float, catch_up: str = "once") -> Life:
    life = Life(Record(every=step, anchor=T, catch_up=catch_up))
    life.look(T)
    return life


def once(after: float, catch_up: str = "once") -> Life:
    life = Life(Record(at=T + after, catch_up=catch_up))
    life.look(T)
    return life


# -- on time


def test_a_one_shot_is_pending_then_due_for_good_and_fires_once() -> None:
    life = once(100)
    assert life.look(T + 99) == [] and life.state(T + 99) == "pending"
    assert life.look(T + 100, T + 101, T + WEEK) == [T + 100] and life.state(T + WEEK) == "due"


@pytest.mark.parametrize("make", [calendar, every])
def test_every_instant_fires_once_however_often_one_looks(make: Callable[[float], Life]) -> None:
    life = make(60)
    life.look(*(T + n * 7 for n in range(100)))
    first = life.fired[0]
    assert len(life.fired) >= 10 and life.fired == [first + 60 * n for n in range(len(life.fired))]


def test_a_look_that_is_a_little_late_misses_nothing() -> None:
    for life in (every(3600, "skip"), calendar(3600, "skip", T)):
        assert life.look(T + 3600 + LATE) == [T + 3600]


def test_a_busy_pulse_is_no_missed_instant_when_the_timer_vouches_for_it() -> None:
    for life in (every(3600, "skip"), calendar(3600, "skip", T), once(3600, "skip")):
        assert life.look(T + 3600 + 1800, vouched=T + 3600.2) == [T + 3600]
    life = every(3600, "skip")
    assert life.look(T + 7200 + 1800, vouched=T + 3600.2) == [T + 3600], "met, though a later one was not"
    assert life.look(T + 10800 + 1800, vouched=T + 3600.2) == [], "an old word vouches for nothing"
    assert every(3600, "skip").look(T + 5400, vouched=T + 9e9) == [], "nor does one from the future"


# -- missed: nothing ran


@pytest.mark.parametrize(("make", "step"), [(calendar, 60), (every, 60), (calendar, DAY), (every, DAY)])
def test_after_a_week_without_a_pulse_it_fires_once(make: Callable[[float, str], Life], step: float) -> None:
    life = make(step, "once")
    back = T + WEEK + step / 2 + 1
    assert len(life.look(back, back + 1, back + 2)) == 1
    assert life.look(*(back + n * step for n in (1, 2))) == [instant for instant in life.fired[1:]] != []


@pytest.mark.parametrize(("make", "step"), [(calendar, DAY), (every, DAY)])
def test_with_skip_what_was_missed_does_not_fire_and_the_next_does(
    make: Callable[[float, str], Life], step: float
) -> None:
    life = make(step, "skip")
    assert life.look(T + WEEK + 40000) == []
    assert life.memory is not None and life.memory.missed is not None
    following = life.memory.next
    assert following is not None and life.look(following) == [following]


def test_an_instant_that_has_just_come_is_on_time_though_others_were_missed() -> None:
    assert calendar(60, "skip", T).look(T + WEEK + 5) == [T + WEEK]
    assert every(3600, "skip").look(T + WEEK + 30) == [T + WEEK]


@pytest.mark.parametrize("catch_up", ["once", "skip"])
def test_the_last_of_many_missed_instants_is_the_one_that_is_named(catch_up: str) -> None:
    asked: list[float] = []

    def office_hours(base: float, count: int) -> list[float]:
        """Every minute of the first hour of each day."""
        asked.append(base)
        day, into = divmod(base - T, DAY)
        into = (into // 60 + 1) * 60
        return [T + day * DAY + into if into <= 3600 else T + (day + 1) * DAY]

    life = Life(Record(calendar="*", catch_up=catch_up, written=T), office_hours)
    life.look(T)
    asked.clear()
    fired = life.look(T + 10 * WEEK + DAY / 2)
    assert life.memory is not None and len(asked) < 40
    assert bool(fired) == (catch_up == "once")
    assert (fired[0] if fired else life.memory.missed) == T + 10 * WEEK + 3600


def test_what_systemd_cannot_wait_for_is_no_schedule() -> None:
    with pytest.raises(JsonError, match="before the year 2200"):
        Record.from_json({"at": instants.END})
    assert Record.from_json({"at": instants.END - 1}).kind == "one-shot"


def test_a_one_shot_passed_over_is_missed_and_never_due() -> None:
    life = once(100, "skip")
    assert life.look(T + 100 + LATE + 1, T + WEEK) == [] and life.state(T + WEEK) == "missed"
    assert life.look(T + 150) == [] and life.state(T + 150) == "missed", "nor after a small step back"
    assert once(100, "once").look(T + WEEK) == [T + 100]


def test_what_came_between_writing_and_the_first_look_counts() -> None:
    assert Life(Record(every=60, anchor=T)).look(T + WEEK) == [T + WEEK]
    assert Life(Record(calendar="*", written=T), grid(DAY, T)).look(T + WEEK + 3600) == [T + WEEK]
    assert Life(Record(calendar="*", written=T, catch_up="skip"), grid(DAY, T)).look(T + WEEK + 3600) == []
    assert Life(Record(at=T)).look(T + WEEK) == [T]


# -- the clock is set


@pytest.mark.parametrize("make", [calendar, every])
def test_a_clock_a_year_ahead_and_back_fires_nothing_twice_and_stops_nothing(
    make: Callable[[float, str], Life]
) -> None:
    for catch_up in ("once", "skip"):
        life = make(3600, catch_up)
        life.look(T + 4000)
        life.look(*(T + YEAR + n * 60 for n in range(200)))  # three hours in the wrong year
        life.look(*(T + 4100 + n * 60 for n in range(1000)))
        back = [i for i in life.fired if i < T + DAY]
        assert back == sorted(set(back)) and len(back) >= 16, "it went on at once"
        life.look(*(T + YEAR - 7200 + n * 60 for n in range(500)))
        assert len(life.fired) == len(set(life.fired)), "and the year after nothing comes again"


@pytest.mark.parametrize("make", [calendar, every])
def test_a_clock_set_back_fires_nothing_again(make: Callable[[float], Life]) -> None:
    life = make(3600)
    life.look(*(T + n * 600 for n in range(60)))
    seen = len(life.fired)
    life.look(*(T + n * 600 for n in range(10, 60)))
    assert seen == 9 or seen == 10
    assert len(life.fired) == seen
    assert life.look(T + 36000 + 3600) != []


def test_a_one_shot_keeps_its_instant_when_the_clock_is_set() -> None:
    life = once(3600)
    assert life.look(T + YEAR) == [T + 3600]
    assert life.look(T + 60, T + 3600, T + 7200) == [] and life.state(T + 60) == "due"
    passed = once(3600, "skip")
    assert passed.look(T + YEAR) == [] and passed.look(T + 60) == [] and passed.state(T + 60) == "pending"
    assert passed.look(T + 3601) == [T + 3600]


def test_a_period_anchored_in_the_future_does_not_wait_for_it() -> None:
    life = Life(Record(every=3600, anchor=T + YEAR))
    life.look(T)
    assert len(life.look(*(T + n * 600 for n in range(1, 13)))) == 2
    assert life.record.period(life.fired[-1]) == 0


def test_periods_that_are_no_whole_seconds_fire_once_each() -> None:
    life = Life(Record(every=60.1, anchor=T + 0.3))
    life.look(T + 1)
    assert len(life.look(*(T + 1 + n * 0.7 for n in range(2000)))) == 23 == len(set(life.fired))


# -- daylight saving time


def local(zone: str, hour: int, minute: int) -> Upcoming:
    """Daily at a local time, as systemd does: a time that does not exist is passed over, a double one is the first."""

    def upcoming(base: float, count: int) -> list[float]:
        day = datetime.datetime.fromtimestamp(base, ZoneInfo(zone)).date() - datetime.timedelta(days=1)
        found: list[float] = []
        while len(found) < count:
            at = datetime.datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone))
            exists = datetime.datetime.fromtimestamp(at.timestamp(), ZoneInfo(zone)).hour == hour
            if exists and at.timestamp() > base:
                found.append(at.timestamp())
            day += datetime.timedelta(days=1)
        return found

    return upcoming


@pytest.mark.parametrize(
    ("start", "days"), [("2026-03-28T12:00", [30, 31]), ("2026-10-24T12:00", [25, 26])], ids=["spring", "autumn"]
)
def test_daylight_saving_neither_doubles_nor_loses_an_instant(start: str, days: list[int]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    began = datetime.datetime.fromisoformat(start).replace(tzinfo=zone).timestamp()
    life = Life(Record(calendar="*-*-* 02:30", written=began), local("Europe/Berlin", 2, 30))
    life.look(*(began + n * 300 for n in range(12 * 48)))
    seen = [datetime.datetime.fromtimestamp(i, zone) for i in life.fired]
    assert [(d.day, d.hour, d.minute) for d in seen] == [(day, 2, 30) for day in days][: len(seen)] and seen


# -- what is written


@pytest.mark.parametrize(
    "record",
    [{"at": 1, "catch_up": "twice"}, {"at": 1, "catch_up": True}, {"every_s": 60, "anchor": 1e99}, {"calendar": " "}],
    ids=str,
)
def test_what_is_no_schedule_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(JsonError):
        Record.from_json(record)


def test_what_elapses_within_a_minute_is_too_often() -> None:
    assert instants.too_often([0.0, 3600.0, 3630.0]) == 30
    assert instants.too_often([0.0, 60.0, 120.0]) is None and instants.too_often([5.0]) is None


def test_the_memory_stays_small() -> None:
    life = calendar(60)
    life.look(*(T + n * 60 for n in range(1000)))
    assert life.memory is not None and len(life.memory.recent) == instants.REMEMBERED
