"""Instants that survive a wrong wall clock.

A `Stamp` holds the wall clock and, beside it, the boot id and CLOCK_BOOTTIME. An age is taken on the boot
clock when the stamp is of this boot, so setting the clock back or forth moves no guard; across a reboot only
the wall clock is left, and a stamp from the future counts as just now (clock_gettime(2), random(4) boot_id).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from looop.jsonutil import get_num, get_str


@dataclass(frozen=True)
class Stamp:
    """One instant: `wall` in Unix seconds, `boot` the boot id, `mono` seconds of CLOCK_BOOTTIME."""

    wall: float
    boot: str
    mono: float

    def to_json(self) -> dict[str, Any]:
        return {"wall": round(self.wall, 3), "boot": self.boot, "mono": round(self.mono, 3)}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Stamp":
        """Raises JsonError naming the bad attribute."""
        return cls(get_num(obj, "wall"), get_str(obj, "boot"), get_num(obj, "mono"))

    def age(self, now: "Stamp") -> float:
        """Seconds from this stamp to `now`, never negative."""
        if self.boot == now.boot:
            return max(0.0, now.mono - self.mono)
        return max(0.0, now.wall - self.wall)


@cache
def boot_id() -> str:
    """This boot's id, 32 hex digits as systemd and journald write it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def now() -> Stamp:
    """The present instant."""
    return Stamp(time.time(), boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))


def age(seconds: float | None) -> str:
    """A duration as one number and unit: 42s, 5m, 2h, 3d, or - when unknown; at most 4 columns for 99 days."""
    if seconds is None:
        return "-"
    for limit, unit, size in ((90, "s", 1), (5400, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"


def utc(wall: float) -> str:
    """Unix seconds as RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))
