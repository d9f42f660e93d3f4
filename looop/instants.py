"""When a schedule fires: its record, what is remembered of it, and the step from one look at the clock to the next.

Pure arithmetic on Unix seconds: the clock, the calendar and the word of its timer are arguments. An instant is the
idempotency key: it fires at most once, whatever the clock or the pulse does in between. One that came while nothing
ran is missed; however many were missed, the last of them fires (catch_up "once") or none ("skip").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from looop.jsonutil import JsonError, get_num, get_str

LONGEST = 10 * 366 * 86400
END = 7_258_118_400  # the year 2200, where systemd's calendar ends
SHORTEST_PERIOD = 60
LATE = 120.0  # past this an instant that nobody can vouch for counts as missed
REMEMBERED = 256  # fired instants, so that a clock set back fires none of them again
CATCH_UP = ("once", "skip")

Upcoming = Callable[[float, int], list[float]]  # (base, count): the next instants strictly after base


@dataclass(frozen=True)
class Record:
    """One schedule; exactly one of `at` (Unix seconds), `every` (seconds, counted from `anchor`), `calendar` is set.

    `written` is when its file was, in Unix seconds.
    """

    at: float | None = None
    every: float | None = None
    anchor: float = 0.0
    calendar: str = ""
    note: str = ""
    catch_up: str = "once"
    written: float = 0.0

    @classmethod
    def from_json(cls, obj: Mapping[str, Any], written: float = 0.0) -> "Record":
        """Raises JsonError for what is no schedule."""
        if sum(key in obj for key in ("at", "every_s", "calendar")) != 1:
            raise JsonError("exactly one of at, every_s and calendar is needed")
        record = cls(
            at=get_num(obj, "at") if "at" in obj else None,
            every=get_num(obj, "every_s") if "every_s" in obj else None,
            anchor=get_num(obj, "anchor", 0),
            calendar=get_str(obj, "calendar", "").strip(),
            note=get_str(obj, "note", ""),
            catch_up=get_str(obj, "catch_up", "once"),
            written=written,
        )
        if record.every is not None and not SHORTEST_PERIOD <= record.every <= LONGEST:
            raise JsonError(f"every_s: expected {SHORTEST_PERIOD} to {LONGEST}")
        if record.at is not None and not 0 <= record.at < END:
            raise JsonError("at: expected Unix seconds before the year 2200")
        if not -(2**35) < record.anchor < 2**35:
            raise JsonError("anchor: expected Unix seconds")
        if "calendar" in obj and not record.calendar:
            raise JsonError("calendar: expected an expression of systemd.time(7)")
        if record.catch_up not in CATCH_UP:
            raise JsonError(f"catch_up: expected {' or '.join(CATCH_UP)}")
        return record

    @property
    def kind(self) -> str:
        return "one-shot" if self.at is not None else "recurring" if self.every is not None else "calendar"

    @property
    def spec(self) -> str:
        """What says when it fires. With another one, what is remembered no longer counts."""
        if self.at is not None:
            return f"at {self.at:.3f}"
        return self.calendar if self.every is None else f"every {self.every:.3f} from {self.anchor:.3f}"

    def upcoming(self, base: float, count: int = 1) -> list[float]:
        """The next instants after `base`, of a schedule that is not a calendar."""
        if self.every is None:
            return [self.at] if self.at is not None and self.at > base else []
        first = math.floor((base - self.anchor) / self.every) + 1
        periods = [n for n in range(first, first + count + 1) if n]  # its writing is no instant
        return [self.anchor + n * self.every for n in periods[:count]]

    def period(self, instant: float) -> int:
        """Which period of a recurring schedule begins at `instant`."""
        return 0 if self.every is None else max(0, round((instant - self.anchor) / self.every))


@dataclass(frozen=True)
class Memory:
    """What is remembered of one schedule.

    `next` is the earliest instant not looked at yet, `fired` and `missed` the last of their kind, `recent` the last
    fired ones, `told` whether the last firing is known to be in the journal, `problem` why it cannot fire at all.
    """

    spec: str
    next: float | None = None
    fired: float | None = None
    missed: float | None = None
    recent: tuple[float, ...] = ()
    told: bool = True
    problem: str = ""

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Memory":
        """Raises JsonError."""
        recent = obj.get("recent", [])
        if not isinstance(recent, list) or not all(isinstance(i, (int, float)) for i in recent):
            raise JsonError("recent: expected a list of Unix seconds")
        following, fired, missed = (
            get_num(obj, key) if obj.get(key) is not None else None for key in ("next", "fired", "missed")
        )
        return cls(
            get_str(obj, "spec"),
            following,
            fired,
            missed,
            recent=tuple(map(float, recent)),
            told=obj.get("told") is not False,
            problem=get_str(obj, "problem", ""),
        )

    def to_json(self) -> dict[str, Any]:
        kept = {"next": self.next, "fired": self.fired, "missed": self.missed, "problem": self.problem}
        found: dict[str, Any] = {"spec": self.spec} | {key: value for key, value in kept.items() if value}
        if self.recent:
            found["recent"] = list(self.recent)
        return found if self.told else found | {"told": False}

    def state(self, record: Record, now: float) -> str:
        """pending, due (a one-shot that fired), fired (of the others), missed (a one-shot passed over) or invalid."""
        if self.problem:
            return "invalid"
        if self.fired is not None:
            return "fired" if record.at is None else "due"
        gone = record.at is not None and self.missed == record.at and now >= record.at
        return "missed" if gone else "pending"


def fresh(record: Record, now: float, upcoming: Upcoming) -> Memory:
    """Of a schedule seen for the first time: what came since it was written counts, also if nothing ran meanwhile."""
    base = -1.0 if record.at is not None else record.written if record.every is None else record.anchor
    return Memory(record.spec, next=next(iter(upcoming(min(base, now), 1)), None))


def advance(record: Record, memory: Memory, now: float, vouched: float | None, upcoming: Upcoming) -> Memory:
    """What is remembered after a look at the clock; `fired` has changed when an instant fired.

    `vouched` is when the schedule's timer last started its service: an instant that was met then is on time however
    busy the pulse was. A clock set back makes `next` an earlier instant again.
    """
    if memory.next is not None and now >= memory.next:
        memory = _come(record, memory, now, vouched, upcoming)
    return replace(memory, next=next(iter(upcoming(now, 1)), None))


def _come(record: Record, memory: Memory, now: float, vouched: float | None, upcoming: Upcoming) -> Memory:
    """An instant has come, or many have: the last of them counts, unless only an earlier one was met."""
    assert memory.next is not None
    instant = _last(upcoming, memory.next, now)
    if now - instant > LATE:
        met = None if vouched is None or vouched > now else _last(upcoming, memory.next, vouched + 1)
        if met is not None and vouched is not None and met - 1 <= vouched <= met + LATE:
            instant = met
        elif record.catch_up == "skip":
            return replace(memory, missed=instant)
    if instant in memory.recent:
        return memory
    recent = (*memory.recent, instant)[-REMEMBERED:]
    return replace(memory, fired=instant, recent=recent, told=False)


def _last(upcoming: Upcoming, first: float, high: float) -> float:
    """The last instant from `first`, which is one, to `high`. A calendar is asked forwards only, hence the halving."""
    while high - first > 0.5:
        middle = (first + high) / 2
        found = next(iter(upcoming(middle, 1)), math.inf)
        if found <= high:
            first = found
        else:
            high = middle
    return first


def too_often(upcoming: list[float]) -> float | None:
    """The shortest gap between these instants if it is less than a minute."""
    gap = min((later - earlier for earlier, later in zip(upcoming, upcoming[1:])), default=LONGEST)
    return gap if gap < SHORTEST_PERIOD else None
