"""Stand-ins for what a beat meets: a manager that knows units and timers by name, and a clock that is set by hand."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from looop.clock import Stamp
from looop.errors import Unavailable


class Clock:
    """A clock that only `pass_` moves."""

    def __init__(self) -> None:
        self.now = Stamp(1_700_000_000.0, "b" * 32, 5000.0)

    def __call__(self) -> Stamp:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now = Stamp(self.now.wall + seconds, self.now.boot, self.now.mono + seconds)


class FakeLive:
    """`units` maps what lives to its InvocationID, `timers` what was armed to its properties; `down`: the bus is."""

    def __init__(self, scope: str = "user") -> None:
        self.scope = scope
        self.units: dict[str, str] = {}
        self.timers: dict[str, Mapping[str, Any]] = {}
        self.stopped: list[str] = []
        self.started: list[str] = []
        self.watch: set[str] = set()
        self.results: dict[str, str] = {}
        self.down = False

    def list_units(self, patterns: Sequence[str]) -> dict[str, str]:
        if self.down:
            raise Unavailable("cannot reach systemd: gone")
        known = {**self.units, **dict.fromkeys(self.timers, "")}
        return {u: i for u, i in known.items() if any(fnmatch.fnmatchcase(u, pattern) for pattern in patterns)}

    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        return {unit: invocation for unit, invocation in self.list_units(patterns).items() if invocation}

    def stop(self, unit: str) -> str:
        self.stopped.append(unit)
        self.units.pop(unit, None)
        self.timers.pop(unit, None)
        return ""

    drop = stop

    def start(self, unit: str, mode: str = "replace") -> str:
        self.list_units([])
        self.started.append(unit)
        return ""

    def start_transient(self, unit: str, properties: Mapping[str, Any]) -> str:
        self.list_units([])
        assert unit not in self.timers
        self.timers[unit] = properties
        return ""

    async def start_transient_wait(self, unit: str, properties: Mapping[str, Any]) -> None:
        self.list_units([])
        assert unit not in self.timers
        self.timers[unit] = properties

    def seconds(self, name: str) -> float:
        """In how many seconds the follow-up of that name was to fire."""
        [(_, usec)] = self.timers[f"looop-nudge@{name}.timer"]["TimersMonotonic"]
        return float(usec / 1e6)
