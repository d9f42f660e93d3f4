"""One systemd manager, asked directly: units by pattern, jobs, properties, transient units and timers.

Synchronous; every call is bounded by SYSTEMD_BUS_TIMEOUT and either answers or raises: Unavailable when nothing
could be learned, Refused when the manager said no. Reading never loads a unit on purpose: loading one that is
gone emits UnitNew and UnitRemoved, which would wake whoever watches. Used by looopctl and, through Live, by the
pulse. Keeps no state but the connection.
"""

import signal as signals
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from looop.errors import Refused, TimedOut
from looop.systemd.bus import MANAGER_PATH, Auxiliary, Bus, BusError, Properties, Scope, unit_path

__all__ = ["JobFailed", "Manager", "Scope", "UnitState", "usec"]

_MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
_ALIVE = frozenset({"active", "activating", "deactivating", "reloading", "refreshing", "maintenance"})


class JobFailed(Refused):
    """A job ended otherwise than "done"; `result` is systemd's word for how."""

    name = "job-failed"

    def __init__(self, unit: str, result: str) -> None:
        super().__init__(f"cannot start {unit}: its job ended as {result!r}")
        self.unit = unit
        self.result = result


@dataclass(frozen=True)
class UnitState:
    """What ListUnitsByPatterns says about one unit. `job` is the type of its pending job, or ""."""

    name: str
    active: str
    sub: str
    path: str
    job: str = ""

    @property
    def alive(self) -> bool:
        return self.active in _ALIVE


def usec(seconds: float) -> int:
    """Seconds as the microseconds of systemd's ...USec properties."""
    return round(seconds * 1_000_000)


class Manager:
    """The user's or the system's manager. Connects at the first call and again after a failure."""

    def __init__(self, scope: Scope = "user") -> None:
        self.scope: Scope = scope
        self._bus = Bus(scope)

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Connect, unless connected. Raises Unavailable."""
        self._bus.open()

    def close(self) -> None:
        self._bus.close()

    def _call(self, method: str, signature: str = "", *args: Any) -> Any:
        return self._bus.call(MANAGER_PATH, _MANAGER, method, signature, *args)

    # -- reading
    def list_units(self, patterns: Sequence[str]) -> dict[str, UnitState]:
        """The loaded units whose names match one of the patterns. Loads and emits nothing."""
        if not patterns:
            return {}  # to systemd no pattern means every unit
        rows = self._call("ListUnitsByPatterns", "asas", [], list(patterns)) or []
        return {row[0]: UnitState(row[0], row[3], row[4], row[6], row[8]) for row in rows}

    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        """The matching units that are alive, each with its InvocationID ("" never: such a unit is left out)."""
        return self.invocations(self.list_units(patterns).values())

    def invocations(self, units: Iterable[UnitState]) -> dict[str, str]:
        """Those of the units that are alive, each with its InvocationID."""
        found = {}
        for unit in units:
            invocation = self._invocation(unit) if unit.alive else ""
            if invocation:
                found[unit.name] = invocation
        return found

    def invocation(self, unit: str) -> str:
        """The unit's InvocationID, "" when it is not loaded or never ran."""
        state = self.list_units([unit]).get(unit)
        return "" if state is None else self._invocation(state)

    def _invocation(self, unit: UnitState) -> str:
        # A unit that went since it was listed is loaded as a stub by this, which costs its watchers one more look
        # and answers an empty id: no error (pystemd leaks on errors, so GetUnitByInvocationID is worse) and no loop.
        return bytes(self._bus.get_property(unit.path, UNIT, "InvocationID", "ay") or b"").hex()

    def get(self, unit: str, interface: str, name: str, signature: str) -> Any:
        """A property; `interface` is "Unit", "Service", "Scope", ... Loads the unit if it is not."""
        return self._bus.get_property(unit_path(unit), f"org.freedesktop.systemd1.{interface}", name, signature)

    def job_type(self, unit: str) -> str:
        """What the unit's pending job is: "stop", "restart", "start", ... or ""."""
        state = self.list_units([unit]).get(unit)
        return "" if state is None else state.job

    def next_elapse(self, timer: str) -> float | None:
        """When a timer fires next, in Unix seconds; None when it does not."""
        state = self.list_units([timer]).get(timer)
        if state is None or not state.alive:
            return None
        realtime = self.get(timer, "Timer", "NextElapseUSecRealtime", "t")
        monotonic = self.get(timer, "Timer", "NextElapseUSecMonotonic", "t")
        never = 2**64 - 1
        times = [realtime / 1e6] if realtime not in (0, never) else []
        if monotonic not in (0, never):
            times.append(time.time() + monotonic / 1e6 - time.monotonic())
        return min(times, default=None)

    def version(self) -> str:
        """systemd's version, such as "252.39-1~deb12u1"."""
        return str(self._bus.get_property(MANAGER_PATH, _MANAGER, "Version", "s"))

    def unit_file_state(self, unit: str) -> str:
        """enabled, disabled, static, ...; "" when no such unit file is installed."""
        try:
            return str(self._call("GetUnitFileState", "s", unit))
        except BusError:
            return ""

    # -- changing
    def set_properties(self, unit: str, properties: Mapping[str, Any], runtime: bool = True) -> None:
        """Change properties of a unit, until reboot or (runtime=False) for good."""
        self._call("SetUnitProperties", "sb", unit, runtime, Properties(properties))

    def reload(self) -> None:
        """Read all unit files again, as `systemctl daemon-reload` does."""
        self._call("Reload")

    def start(self, unit: str, mode: str = "replace") -> str:
        """Queue a start; the path of its job."""
        return str(self._call("StartUnit", "ss", unit, mode))

    def restart(self, unit: str) -> str:
        """Queue a restart; the path of its job."""
        return str(self._call("RestartUnit", "ss", unit, "replace"))

    def stop(self, unit: str) -> str:
        """Queue a stop; the path of its job, "" when the unit is not loaded."""
        return self._unless_gone("StopUnit", "ss", unit, "replace")

    def kill(self, unit: str, signal: int = signals.SIGKILL, whom: str = "all") -> None:
        """Signal the unit's processes; nothing happens when it is gone."""
        self._unless_gone("KillUnit", "ssi", unit, whom, int(signal))

    def reset_failed(self, unit: str) -> None:
        """Forget that the unit failed; nothing happens when it is gone."""
        self._unless_gone("ResetFailedUnit", "s", unit)

    def unref(self, unit: str) -> None:
        """Let go of a unit started with AddRef."""
        self._unless_gone("UnrefUnit", "s", unit)

    def _unless_gone(self, method: str, signature: str, unit: str, *args: Any) -> str:
        if not self.list_units([unit]):  # asking for more would load it, and pystemd leaks on the error
            return ""
        try:
            return str(self._call(method, signature, unit, *args) or "")
        except BusError as error:
            if error.kind in ("NoSuchUnit", "NotReferenced"):
                return ""
            raise

    def start_transient(
        self, unit: str, properties: Mapping[str, Any], aux: Sequence[tuple[str, Mapping[str, Any]]] = ()
    ) -> str:
        """Make a unit and queue its start; the path of its job. Raises Refused when the name is taken."""
        try:
            return str(self._call("StartTransientUnit", "ss", unit, "fail", Properties(properties), Auxiliary(aux)))
        except BusError as error:
            if error.kind == "UnitExists":
                raise Refused(f"cannot start {unit}: a unit of that name exists") from error
            raise

    def watch_paths(self, unit: str, paths: Sequence[str], part_of: str) -> str:
        """Make `NAME.path`, replacing one of that name; a change in `paths` starts `NAME.service`. Its job's path."""
        self.drop(unit)
        watched = [("PathChanged", path) for path in paths]
        properties = {"Paths": watched, "PartOf": [part_of], "CollectMode": "inactive-or-failed"}
        return self.start_transient(unit, properties)

    def drop(self, unit: str) -> None:
        """Stop a transient unit without processes, and see its name free. Raises TimedOut."""
        if not self.list_units([unit]):
            return
        self.stop(unit)
        self.reset_failed(unit)
        deadline = time.monotonic() + 5
        # each question is a turn of the manager's loop, in which it works its job and collection queues
        while self.list_units([unit]):
            if time.monotonic() > deadline:
                raise TimedOut(f"cannot remove {unit}: it is still there after 5 s")
