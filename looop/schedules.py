"""Schedules: a record each in schedules/NAME.json, and the transient timer that pokes the pulse when it is time.

Used by the pulse and by the verbs. The records say what is due, by the wall clock; the timers only wake the loop,
and `arm` makes them agree with the records, so it may run at any time and does in every beat. What fell due while
nothing ran is seen once, late: a one-shot stays "due", a period counts on, a calendar instant is remembered in
.schedules.json until it has passed.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from looop import store
from looop.clock import Stamp
from looop.errors import LooopError, StateError, UsageError
from looop.jsonutil import JsonError, get_bool, get_num, get_str
from looop.paths import Paths, safe_name

LONGEST = 10 * 366 * 86400
SHORTEST_PERIOD = 60
ACCURACY_USEC = 1_000_000  # a timer's own default is a minute
LATE = 120.0  # past this an instant counts as missed


class Live(Protocol):
    """What is needed of looop.systemd.manager.Live."""

    def list_units(self, patterns: Sequence[str]) -> Mapping[str, Any]: ...
    def get(self, unit: str, interface: str, name: str, signature: str) -> Any: ...
    def stop(self, unit: str) -> str: ...
    def drop(self, unit: str) -> None: ...
    def next_elapse(self, timer: str) -> float | None: ...
    async def start_transient_wait(self, unit: str, properties: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Record:
    """One schedule; exactly one of `at` (Unix seconds), `every` (seconds, from `anchor` on) and `calendar` is set."""

    at: float | None = None
    every: float | None = None
    anchor: float = 0.0
    calendar: str = ""
    note: str = ""
    catch_up: bool = True

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Record":
        """Raises JsonError for what is no schedule."""
        if sum(key in obj for key in ("at", "every_s", "calendar")) != 1:
            raise JsonError("exactly one of at, every_s and calendar is needed")
        record = cls(
            at=get_num(obj, "at") if "at" in obj else None,
            every=get_num(obj, "every_s") if "every_s" in obj else None,
            anchor=get_num(obj, "anchor", 0),
            calendar=get_str(obj, "calendar", ""),
            note=get_str(obj, "note", ""),
            catch_up=get_bool(obj, "catch_up", True),
        )
        if record.every is not None and not SHORTEST_PERIOD <= record.every <= LONGEST:
            raise JsonError(f"every_s: expected {SHORTEST_PERIOD} to {LONGEST}")
        if record.at is not None and not 0 <= record.at < 2**35:
            raise JsonError("at: expected Unix seconds")
        if "calendar" in obj and not record.calendar.strip():
            raise JsonError("calendar: expected an expression of systemd.time(7)")
        return record

    def period(self, now: Stamp) -> int:
        assert self.every is not None
        return max(0, math.floor((now.wall - self.anchor) / self.every))

    def next(self, now: Stamp) -> float | None:
        """The next instant that can be told without systemd; None when there is none, or for a calendar."""
        if self.every is not None:
            return self.anchor + (self.period(now) + 1) * self.every
        return self.at if self.at is not None and self.at > now.wall else None

    def expression(self, now: Stamp) -> str:
        """What OnCalendar= is to be at this moment; "" when no timer is needed."""
        if self.calendar:
            return self.calendar
        instant = self.next(now)
        return "" if instant is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(math.ceil(instant)))


def timer(name: str) -> str:
    return f"looop-schedule@{name}.timer"


def _file(paths: Paths, name: str) -> Path:
    return paths.schedules / f"{safe_name('a schedule', name)}.json"


# -- the records


def write(
    paths: Paths,
    name: str,
    in_s: float | None,
    every_s: float | None,
    calendar: str | None,
    note: str,
    now: Stamp,
) -> None:
    """Write or replace a record. Raises UsageError unless exactly one of the three times is given and usable."""
    path = _file(paths, name)
    if sum(value not in (None, "") for value in (in_s, every_s, calendar)) != 1:
        raise UsageError(f"cannot write schedule {name}: exactly one of in_s, every_s and calendar is needed")
    record: dict[str, Any] = {"v": 1}
    if in_s is not None:
        if not 0 < in_s <= LONGEST:
            raise UsageError(f"cannot write schedule {name}: in_s must be more than 0 and at most {LONGEST}")
        record["at"] = math.ceil(now.wall + in_s)
    elif every_s is not None:
        if not SHORTEST_PERIOD <= every_s <= LONGEST:
            raise UsageError(f"cannot write schedule {name}: every_s must be {SHORTEST_PERIOD} to {LONGEST}")
        record |= {"every_s": every_s, "anchor": math.floor(now.wall)}
    else:
        record["calendar"] = str(calendar).strip()
    if note:
        record["note"] = note
    store.write_json(path, record)


def drop(paths: Paths, name: str) -> bool:
    """Remove a record; False when there was none."""
    return store.remove(_file(paths, name))


def records(paths: Paths) -> dict[str, Record | str]:
    """Every record by name; for one that cannot be used, the reason. Raises StateError when they cannot be listed."""
    found: dict[str, Record | str] = {}
    for name in store.names(paths.schedules, ".json"):
        try:
            content = store.read_record(_file(paths, name))
            if content is not None:
                found[name] = Record.from_json(content)
        except (JsonError, StateError, UsageError) as error:
            found[name] = str(error)
    return found


# -- what is due


def _advance(record: Record, entry: Mapping[str, Any], now: Stamp) -> float | None:
    """The last instant of a calendar that has come; each is told once, one missed for long only with catch_up."""
    announced, fired = entry.get("next"), entry.get("fired")
    if entry.get("calendar") != record.calendar:
        return None
    if announced is not None and now.wall >= announced and (record.catch_up or now.wall - announced <= LATE):
        return float(announced)
    return None if fired is None else float(fired)


def _reading(record: Record, entry: Mapping[str, Any], now: Stamp) -> tuple[Any, dict[str, Any]]:
    if record.at is not None:
        signal: Any = "due" if now.wall >= record.at else "pending"
        return signal, {"kind": "one-shot", "due_in_s": math.ceil(max(0, record.at - now.wall)), "note": record.note}
    if record.every is not None:
        due_in = math.ceil((record.next(now) or now.wall) - now.wall)
        detail = {"kind": "recurring", "every_s": record.every, "due_in_s": due_in, "note": record.note}
        return {"period": record.period(now)}, detail
    announced = entry.get("next")
    due = None if announced is None else math.ceil(max(0, announced - now.wall))
    detail = {"kind": "calendar", "calendar": record.calendar, "due_in_s": due, "note": record.note}
    return {"fired": _advance(record, entry, now)}, detail


def readings(paths: Paths, now: Stamp) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Signal and detail of every schedule, for the probe. An unusable record has the stable signal "invalid"."""
    entries = _entries(paths)
    return {
        name: ("invalid", {"kind": "invalid", "message": record}) if isinstance(record, str)
        else _reading(record, entries.get(name, {}), now)
        for name, record in records(paths).items()
    }  # fmt: skip


def _entries(paths: Paths) -> dict[str, dict[str, Any]]:
    """What is remembered of the calendars. Lost or damaged, it costs at most one telling."""
    try:
        saved = store.read_json(paths.schedule_state) or {}
    except StateError:
        return {}
    return {
        name: entry for name, entry in saved.items()
        if isinstance(entry, dict)
        and all(isinstance(entry.get(key), (int, float, type(None))) for key in ("next", "fired"))
    }  # fmt: skip


# -- the timers


async def arm(live: Live, paths: Paths, now: Stamp) -> list[str]:
    """Make the timers agree with the records, and note which calendar instants have come; returns what went wrong.

    Unchanged, it costs one call and one more for each schedule.
    """
    try:
        known = records(paths)
        there = set(live.list_units([timer("*")]))
    except LooopError as error:
        return [f"cannot arm the schedules: {error}"]
    problems = [f"cannot arm schedule {name}: {record}" for name, record in known.items() if isinstance(record, str)]
    try:
        store.read_json(paths.schedule_state)
    except StateError as error:
        problems.append(f"{error}; moved aside, a calendar may be told of twice")
        store.set_aside(paths.schedule_state)
    usable = {name: record for name, record in known.items() if isinstance(record, Record)}
    for name, record in usable.items():
        try:
            await _agree(live, name, record, timer(name) in there, now)
        except LooopError as error:
            problems.append(f"cannot arm schedule {name}: {error}")
    try:
        for unit in sorted(there - {timer(name) for name in usable}):
            live.stop(unit)
        _note(live, paths, usable, now)
    except LooopError as error:
        problems.append(f"cannot keep the schedules: {error}")
    return problems


async def arm_one(live: Live, paths: Paths, name: str, now: Stamp) -> str:
    """`arm` for one record just written: "" or what systemd has against it."""
    record = records(paths).get(name)
    if not isinstance(record, Record):
        return record or "there is no such schedule"
    try:
        await _agree(live, name, record, bool(live.list_units([timer(name)])), now)
    except LooopError as error:
        return str(error)
    return ""


def disarm(live: Live, name: str) -> None:
    """Stop the timer, if there is one."""
    live.stop(timer(safe_name("a schedule", name)))


async def _agree(live: Live, name: str, record: Record, there: bool, now: Stamp) -> None:
    """One timer: kept when it says the same (its description tells), else made anew."""
    unit = timer(name)
    expression = record.expression(now)
    description = f"looop schedule {name}: {expression}"
    if there:
        if expression and live.get(unit, "Unit", "Description", "s") == description:
            return
        live.drop(unit)
    if not expression:
        return
    properties = {
        "Description": description,
        "CollectMode": "inactive-or-failed",
        "AccuracyUSec": ACCURACY_USEC,
        "RemainAfterElapse": False,
        "TimersCalendar": [("OnCalendar", expression)],
        "PartOf": ["looop.service"],
    }
    await live.start_transient_wait(unit, properties)


def _note(live: Live, paths: Paths, usable: Mapping[str, Record], now: Stamp) -> None:
    """Remember, for each calendar, the instant that came last and the one systemd announces next."""
    before = _entries(paths)
    after: dict[str, dict[str, Any]] = {}
    for name, record in usable.items():
        if record.calendar:
            fired = _advance(record, before.get(name, {}), now)
            after[name] = {"calendar": record.calendar, "next": live.next_elapse(timer(name)), "fired": fired}
    if after != before:
        store.write_json(paths.schedule_state, after)
