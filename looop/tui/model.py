"""What `watch` knows: what was found, what is chosen to be seen, how much each worker computes.

Pure. A `Look` is what one survey found; a part that could not be learned is None and never taken for "none".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from looop.clock import Stamp
from looop.sessions.control import Idle
from looop.sessions.fleet import Session

PULSE = "pulse"
NEED = (60, 15)  # columns and rows below which nothing useful fits


class Filter(StrEnum):
    """Which workers are shown. An id that was asked for is shown whatever the filter."""

    LIVING = "living"
    RECENT = "recent"
    ALL = "all"


@dataclass(frozen=True)
class AskView:
    """An open ask. `age_s` is as of the look."""

    id: str
    worker: str
    state: str
    prompt: str
    options: tuple[str, ...] = ()
    reference: str = ""
    age_s: float = 0.0
    answer: str = ""
    trouble: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "AskView":
        """From the JSON row that every verb shows."""
        return cls(
            str(row["id"]), str(row["worker"]), str(row["state"]), str(row.get("prompt") or ""),
            tuple(str(option) for option in row.get("options") or ()), str(row.get("reference") or ""),
            float(row.get("age_s") or 0.0), str(row.get("answer") or ""), str(row.get("error") or ""),
        )  # fmt: skip

    @property
    def answerable(self) -> bool:
        return self.state not in ("answered", "delivered", "broken")


@dataclass(frozen=True)
class Look:
    """What was found at `at`.

    `stale`: the fleet is what was known before systemd went silent. `fates`: what became of answers sent from here.
    """

    at: Stamp
    pulse: str = "unknown"
    status: str = ""
    sessions: tuple[Session, ...] | None = None
    asks: tuple[AskView, ...] | None = None
    journal: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    stale: bool = False
    fates: Mapping[str, str] = field(default_factory=dict)

    def after(self, before: "Look | None") -> "Look":
        """This look, with what it could not learn taken over from the one before, and marked."""
        sessions, asks, stale = self.sessions, self.asks, self.sessions is None or self.pulse == "unknown"
        if sessions is None and before and before.sessions is not None:
            sessions = tuple(_later(session, before.at.age(self.at)) for session in before.sessions)
        if asks is None and before:
            asks = before.asks
        return replace(self, sessions=sessions, asks=asks, stale=stale)

    def probed(self, readings: Mapping[str, Idle], now: Stamp) -> "Look":
        """The same facts at `now`, with what the shims say meanwhile."""
        passed = self.at.age(now)
        asks = None if self.asks is None else tuple(replace(ask, age_s=ask.age_s + passed) for ask in self.asks)
        sessions = None
        if self.sessions is not None:
            later = (_later(session, passed) for session in self.sessions)
            sessions = tuple(_read(session, readings.get(session.id)) for session in later)
        return replace(self, at=now, sessions=sessions, asks=asks)


def _later(session: Session, seconds: float) -> Session:
    """The session so much later, when all that is known is that time has passed."""
    if not session.alive:
        return session
    waited = None if session.ask_age_s is None else session.ask_age_s + seconds
    up = None if session.uptime_s is None else session.uptime_s + seconds
    return replace(session, uptime_s=up, ask_age_s=waited, idle_s=None)


def _read(session: Session, reading: Idle | None) -> Session:
    if reading is None or not session.alive:
        return session
    used, memory = reading.used_s, reading.memory_bytes
    return replace(session, idle_s=reading.both_s, cpu_s=used, memory_bytes=memory, tasks=reading.tasks)


class Meter:
    """Processor use of each session between two readings of its cgroup's CPU time."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[float, float]] = {}
        self.percent: dict[str, float] = {}

    def read(self, sessions: Iterable[Session], mono: float) -> None:
        """Take the readings of `sessions` at `mono` (seconds on any steady clock)."""
        last, percent = {}, {}
        for session in sessions:
            used = session.cpu_s
            if not session.alive or used is None:
                continue
            key = (session.id, session.invocation)
            before = self._last.get(key)
            if before and mono - before[1] < 0.5:  # too short to say anything
                last[key] = before
                if session.id in self.percent:
                    percent[session.id] = self.percent[session.id]
                continue
            last[key] = (used, mono)
            if before:
                percent[session.id] = max(0.0, used - before[0]) / (mono - before[1]) * 100
        self._last, self.percent = last, percent


@dataclass
class View:
    """What is chosen to be seen. `asked`: the id named on the command line; `within` seconds make an end recent."""

    filter: Filter = Filter.LIVING
    within: float = 0.0
    asked: str = ""
    hidden: int = field(default=0, compare=False)


def size(count: int | None) -> str:
    """Bytes as 512K, 23M, 1.2G, or - when unknown."""
    if count is None:
        return "-"
    for unit, length in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= length:
            number = count / length
            return f"{number:.1f}{unit}" if number < 9.95 else f"{number:.0f}{unit}"
    return f"{count}B"


def headline(look: Look | None, view: View) -> str:
    """What matters most, in words."""
    if look is None:
        return "looking ..."
    alive = [session for session in look.sessions or () if session.alive]
    stuck = sum(session.health == "stuck" for session in alive)
    waiting = [ask for ask in look.asks or () if ask.answerable]
    parts = ["workers unknown" if look.sessions is None else f"{len(alive)} live" + ("?" if look.stale else "")]
    parts.append("asks unknown" if look.asks is None else f"{len(waiting)} asking")
    if stuck:
        parts.append(f"{stuck} stuck")
    if view.hidden:
        parts.append(f"{view.hidden} ended ones hidden")
    return " | ".join(parts)
