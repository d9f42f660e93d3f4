"""Follow-ups: "decide again in N seconds", durable and armed as transient timers.

The list in .nudges.json says what is due; the timers `looop-nudge@NAME.timer` only wake the loop, so a lost timer
costs one beat of the cadence and nothing more. Several coexist; the one named "retry" waits out a guard and is
replaced by the next. Used by the beat and at the start of a pulse.
"""

import os
from typing import Any

from looop import store
from looop.clock import Stamp
from looop.errors import LooopError, StateError
from looop.jsonutil import JsonError, as_object
from looop.paths import Paths
from looop.systemd import journal
from looop.systemd.live import Live

RETRY = "retry"
LONGEST = 7 * 86400


def _read(paths: Paths) -> dict[str, Stamp]:
    """Name -> when it is due. A list that cannot be read is set aside and stands for one that is due now."""
    try:
        obj = store.read_json(paths.nudges) or {}
        return {name: Stamp.from_json(as_object(at, name)) for name, at in obj.items()}
    except (StateError, JsonError) as error:
        journal.emit("state_degraded", text=f"{paths.nudges}: {error}; taken for one follow-up that is due now")
        store.set_aside(paths.nudges)
        lost = {"lost": Stamp(0.0, "", 0.0)}
        _write(paths, lost)
        return lost


def _write(paths: Paths, nudges: dict[str, Stamp]) -> None:
    store.write_json(paths.nudges, {name: at.to_json() for name, at in nudges.items()})


def _left(at: Stamp, now: Stamp) -> float:
    return min(at.mono - now.mono if at.boot == now.boot else at.wall - now.wall, LONGEST)


def due(paths: Paths, now: Stamp) -> list[str]:
    """The follow-ups whose time has come."""
    return sorted(name for name, at in _read(paths).items() if _left(at, now) <= 0)


def pending(paths: Paths, now: Stamp) -> dict[str, float]:
    """In how many seconds each is due, soonest first; for who only looks. Raises StateError."""
    try:
        obj = store.read_json(paths.nudges) or {}
        left = {name: _left(Stamp.from_json(as_object(at, name)), now) for name, at in obj.items()}
    except JsonError as error:
        raise StateError(f"cannot use {paths.nudges}: {error}") from error
    return dict(sorted(left.items(), key=lambda each: each[1]))


def done(paths: Paths, names: list[str]) -> None:
    """They were followed up: a decision was attempted."""
    if names:
        _write(paths, {name: at for name, at in _read(paths).items() if name not in names})


async def arm(live: Live, paths: Paths, seconds: float, now: Stamp, name: str = "") -> None:
    """Decide again in `seconds`. With a name it replaces the one of that name. Raises LooopError."""
    nudges = _read(paths)
    name = name or os.urandom(4).hex()
    at = Stamp(now.wall + seconds, now.boot, now.mono + seconds)
    known = nudges.get(name)
    if known and abs(_left(known, now) - seconds) < 1.5:
        return  # the same wait, seen again from a second later
    _write(paths, nudges | {name: at})
    await _timer(live, name, seconds)


async def rearm(live: Live, paths: Paths, now: Stamp) -> list[str]:
    """Make the timers again after a restart of the pulse; returns what went wrong."""
    try:
        nudges = _read(paths)
    except StateError as error:
        return [str(error)]
    problems = []
    for name, at in nudges.items():
        try:
            await _timer(live, name, max(0.1, _left(at, now)))
        except LooopError as error:
            problems.append(f"cannot arm follow-up {name}: {error}")
    return problems


async def _timer(live: Live, name: str, seconds: float) -> None:
    unit = f"looop-nudge@{name}.timer"
    live.drop(unit)
    properties: dict[str, Any] = {
        "Description": "looop looks again",
        "CollectMode": "inactive-or-failed",
        "AccuracyUSec": 200_000,
        "RemainAfterElapse": False,
        "PartOf": ["looop.service"],
        "TimersMonotonic": [("OnActiveSec", int(seconds * 1_000_000))],
    }
    await live.start_transient_wait(unit, properties)
