"""Schedules: a record each in schedules/NAME.json, and the transient timer that pokes the pulse when it is time.

Used by the pulse and by the verbs. The records say when, by the wall clock; the timers only wake the loop, and `arm`
makes them agree with the records, so it may run at any time and does in every beat. What has fired is remembered in
.schedules.json before anybody is told of it. systemd alone understands calendars: the pulse takes the next instant
from the timer, and asks systemd-analyze (in a thread) where there is no timer to ask.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from looop import instants, store
from looop.clock import Stamp, utc
from looop.errors import LooopError, StateError, UsageError
from looop.instants import LONGEST, SHORTEST_PERIOD, Memory, Record
from looop.jsonutil import JsonError, as_object
from looop.paths import Paths, safe_name
from looop.systemd import journal, timespec
from looop.systemd.manager import Manager

ACCURACY_USEC = 1_000_000  # a timer's own default is a minute
LOOKED_AT = 16  # instants of a calendar that are looked at for gaps
LOOK_S = 60.0  # seconds that one schedule may keep a beat: systemd-analyze may be slow to start

Allow = Callable[[float], None]


class Live(Protocol):
    """What is needed of looop.systemd.manager.Live."""

    def list_units(self, patterns: Sequence[str]) -> Mapping[str, Any]: ...
    def get(self, unit: str, interface: str, name: str, signature: str) -> Any: ...
    def stop(self, unit: str) -> str: ...
    def drop(self, unit: str) -> None: ...
    def next_elapse(self, timer: str) -> float | None: ...
    async def start_transient_wait(self, unit: str, properties: Mapping[str, Any]) -> None: ...


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
    catch_up: str = "once",
) -> Record:
    """Write or replace a record. Raises UsageError unless exactly one of the three times is given and usable.

    A calendar is taken as it is: `check_calendar` asks systemd about it.
    """
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
    if catch_up not in instants.CATCH_UP:
        raise UsageError(f"cannot write schedule {name}: catch_up must be {' or '.join(instants.CATCH_UP)}")
    record |= {"catch_up": catch_up} | ({"note": note} if note else {})
    store.write_json(path, record)
    return Record.from_json(record, now.wall)


def check_calendar(calendar: str, now: float) -> list[float]:
    """The next instants of a calendar expression, in Unix seconds; runs systemd-analyze.

    Raises UsageError, with systemd's words where it has some, for what is no calendar, has no instant left, or comes
    more often than once a minute; Unavailable when nothing could be learned.
    """
    found = timespec.calendar(calendar, LOOKED_AT, now)
    if not found:
        raise UsageError(f"cannot use calendar expression {calendar!r}: it never elapses again")
    gap = instants.too_often(found)
    if gap is not None:
        raise UsageError(
            f"cannot use calendar expression {calendar!r}: it elapses again after {gap:g} s, a minute is the least"
        )
    return found


def upcoming(record: Record, base: float, count: int) -> list[float]:
    """The next instants after `base`; for a calendar this runs systemd-analyze. Raises LooopError."""
    return timespec.calendar(record.calendar, count, base) if record.calendar else record.upcoming(base, count)


def drop(paths: Paths, name: str) -> bool:
    """Remove a record; False when there was none."""
    return store.remove(_file(paths, name))


def records(paths: Paths) -> dict[str, Record | str]:
    """Every record by name; for one that cannot be used, the reason. Raises StateError when they cannot be listed."""
    found: dict[str, Record | str] = {}
    for name in store.names(paths.schedules, ".json"):
        try:
            path = _file(paths, name)
            content = store.read_record(path)
            if content is not None:
                found[name] = Record.from_json(content, path.stat().st_mtime)
        except (JsonError, StateError, UsageError) as error:
            found[name] = str(error)
        except OSError:
            continue  # removed since it was listed
    return found


# -- what has fired


def memories(paths: Paths) -> dict[str, Memory]:
    """What is remembered, by name. Lost or damaged, it costs at most one telling. Raises StateError."""
    found = {}
    for name, entry in (store.read_json(paths.schedule_state) or {}).items():
        try:
            found[name] = Memory.from_json(as_object(entry, name))
        except JsonError:
            continue
    return found


def reading(record: Record, memory: Memory, now: float) -> tuple[Any, dict[str, Any]]:
    """Signal and detail of one schedule: the signal changes once for every instant that fires, and holds it."""
    fired = None if memory.fired is None else utc(memory.fired)
    state = memory.state(record, now)
    detail: dict[str, Any] = {"kind": record.kind, "state": state, "note": record.note, "catch_up": record.catch_up}
    if fired:
        detail["fired"] = fired
    if record.at is not None:
        detail["due_in_s"] = math.ceil(max(0, record.at - now))
        return ({"due": fired} if state == "due" else state), detail
    detail["due_in_s"] = None if memory.next is None else math.ceil(max(0, memory.next - now))
    if state == "invalid":
        return state, detail | {"message": memory.problem}
    if record.every is None:
        return {"fired": fired}, detail | {"calendar": record.calendar}
    period = 0 if memory.fired is None else record.period(memory.fired)
    return {"period": period} | ({"fired": fired} if fired else {}), detail | {"every_s": record.every}


def readings(paths: Paths, now: Stamp) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Signal and detail of every schedule, for the probe. An unusable record has the stable signal "invalid"."""
    try:
        known = memories(paths)
    except StateError:
        known = {}
    return {
        name: ("invalid", {"kind": "invalid", "state": "invalid", "message": record}) if isinstance(record, str)
        else reading(record, remembered(record, known.get(name)), now.wall)
        for name, record in records(paths).items()
    }  # fmt: skip


def remembered(record: Record, memory: Memory | None) -> Memory:
    """The memory, if it is one of this very record."""
    return memory if memory is not None and memory.spec == record.spec else Memory(record.spec)


async def settle(
    live: Live, paths: Paths, usable: Mapping[str, Record], now: Stamp, allow: Allow
) -> tuple[dict[str, Memory], list[str]]:
    """See which instants have come, remember them, then tell the journal of each; and what went wrong."""
    problems = []
    try:
        before, lost = memories(paths), False
    except StateError as error:
        problems.append(f"{error}; moved aside, a schedule may be told of twice")
        store.set_aside(paths.schedule_state)
        before, lost = {}, True
    after = {}
    for name, record in usable.items():
        allow(LOOK_S)
        try:
            after[name] = await _look(live, paths, name, record, before.get(name), now, lost)
            if after[name].problem:
                problems.append(f"cannot arm schedule {name}: {after[name].problem}")
        except LooopError as error:
            problems.append(f"cannot tell when schedule {name} is due: {error}")
            if name in before:
                after[name] = before[name]
    _keep(paths, before, after)
    told = {name: _tell(name, usable[name], memory, before.get(name), now) for name, memory in after.items()}
    _keep(paths, after, told)
    return told, problems


async def _look(
    live: Live, paths: Paths, name: str, record: Record, memory: Memory | None, now: Stamp, lost: bool
) -> Memory:
    """One schedule's memory after a look at the clock. Raises LooopError when a calendar cannot be asked."""
    if memory is not None and memory.spec != record.spec:
        memory = None
    announced = live.next_elapse(timer(name)) if record.calendar and memory is not None else None

    def following(base: float, count: int) -> list[float]:
        ahead = memory.next if memory is not None and memory.next is not None else base
        if announced is not None and announced > base == now.wall and count == 1 and ahead > base:
            # the timer may have gone off since `now` was read, and announce the one after
            return [ahead if ahead <= min(announced, time.time()) else announced]
        return upcoming(record, base, count)

    def step() -> Memory:
        found = memory
        if found is None:
            base = replace(record, written=now.wall) if lost else record
            if record.calendar:
                try:
                    check_calendar(record.calendar, min(base.written, now.wall))
                except UsageError as error:
                    return Memory(record.spec, problem=str(error))
            found = instants.fresh(base, now.wall, following)
        if found.problem:
            return found
        return instants.advance(record, found, now.wall, _vouched(paths, name), following)

    return await asyncio.to_thread(step) if record.calendar else step()


def _vouched(paths: Paths, name: str) -> float | None:
    """When the schedule's service last ran (Unix seconds): it leaves a file, however busy the pulse is."""
    try:
        return (paths.fired / name).stat().st_mtime
    except OSError:
        return None


def _tell(name: str, record: Record, memory: Memory, before: Memory | None, now: Stamp) -> Memory:
    """The journal gets one entry for each instant: after a crash in between, it is asked whether it has it."""
    if memory.told or memory.fired is None:
        return memory
    instant = utc(memory.fired)
    cut_short = before is None or (before.fired == memory.fired and not before.told)
    if not cut_short or not journal.has("schedule_fired", record.written, schedule=name, instant=instant):
        late = now.wall - memory.fired
        text = f"{name}: {instant}" + (f", {round(late)} s late" if late > instants.LATE else "")
        journal.emit("schedule_fired", schedule=name, instant=instant, text=text)
    return replace(memory, told=True)


def _keep(paths: Paths, before: Mapping[str, Memory], after: Mapping[str, Memory]) -> None:
    if before != after:
        store.write_json(paths.schedule_state, {name: memory.to_json() for name, memory in after.items()})


# -- the timers


async def arm(live: Live, paths: Paths, now: Stamp, allow: Allow = lambda seconds: None) -> list[str]:
    """Note what has fired, and make the timers agree with the records; returns what went wrong.

    Unchanged, it costs one call and up to five more for each schedule. `allow` is told how long each may take.
    """
    try:
        known = records(paths)
        there = set(live.list_units([timer("*")]))
        problems = [f"cannot arm schedule {name}: {text}" for name, text in known.items() if isinstance(text, str)]
        usable = {name: record for name, record in known.items() if isinstance(record, Record)}
        seen, trouble = await settle(live, paths, usable, now, allow)
    except LooopError as error:
        return [f"cannot arm the schedules: {error}"]
    problems += trouble
    usable = {name: record for name, record in usable.items() if not (name in seen and seen[name].problem)}
    for name, record in usable.items():
        allow(LOOK_S)
        try:
            await _agree(live, name, record, timer(name) in there, now)
        except LooopError as error:
            problems.append(f"cannot arm schedule {name}: {error}")
    try:
        for unit in sorted(there - {timer(name) for name in usable}):
            live.drop(unit)
    except LooopError as error:
        problems.append(f"cannot keep the schedules: {error}")
    return problems


async def arm_one(live: Live, paths: Paths, name: str, now: Stamp) -> str:
    """The timer of one record just written: "" or what systemd has against it."""
    record = records(paths).get(name)
    if not isinstance(record, Record):
        return record or "there is no such schedule"
    try:
        await _agree(live, name, record, bool(live.list_units([timer(name)])), now)
    except LooopError as error:
        return str(error)
    return ""


def disarm(live: Manager, name: str) -> None:
    """Stop the timer, if there is one."""
    live.stop(timer(safe_name("a schedule", name)))


def expression(record: Record, now: Stamp) -> str:
    """What OnCalendar= is to be at this moment; "" when no timer is needed."""
    if record.calendar:
        return record.calendar
    following = record.upcoming(now.wall)
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(math.ceil(following[0]))) if following else ""


async def _agree(live: Live, name: str, record: Record, there: bool, now: Stamp) -> None:
    """One timer: kept when it says the same (its description tells), else made anew."""
    unit = timer(name)
    when = expression(record, now)
    description = f"looop schedule {name}: {when}"
    if there:
        if when and live.get(unit, "Unit", "Description", "s") == description:
            return
        live.drop(unit)
    if not when:
        return
    properties = {
        "Description": description,
        "CollectMode": "inactive-or-failed",
        "AccuracyUSec": ACCURACY_USEC,
        "RemainAfterElapse": False,
        "TimersCalendar": [("OnCalendar", when)],
        "PartOf": ["looop.service"],
    }
    await live.start_transient_wait(unit, properties)
