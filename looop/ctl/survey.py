"""What verbs that show the present state gather: the pulse, the fleet, asks, leases, schedules. Works with no pulse.

Reads only: files, and a few calls to each manager for everything at once. Each part that cannot be known is None,
never empty.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from looop import claims, mailbox, store
from looop.claims import Claim
from looop.clock import Stamp, boot_id, now
from looop.ctl.command import Context
from looop.ctl.up import PULSE, WORKERS
from looop.errors import LooopError, StateError, Unavailable
from looop.mailbox import Ask
from looop.paths import Paths
from looop.sessions import fleet
from looop.sessions.fleet import Session
from looop.systemd.identity import Holder
from looop.systemd.manager import Manager, UnitState
from looop.systemd.names import worker_of, worker_unit


@dataclass(frozen=True)
class Pulse:
    """`state` is systemd's ActiveState, or "unknown"; `job` the type of its pending job, or ""."""

    state: str = "unknown"
    job: str = ""

    @classmethod
    def of(cls, unit: UnitState | None) -> "Pulse":
        """A unit that is not loaded is inactive."""
        return cls("inactive") if unit is None else cls(unit.active, unit.job)

    @property
    def alive(self) -> bool | None:
        return None if self.state == "unknown" else self.state in ("active", "reloading", "refreshing")

    @property
    def turn(self) -> str:
        """"up", "down", or "" while it is neither: starting, stopping, between the two halves of a restart."""
        if self.alive:
            return "up"
        return "down" if self.state in ("inactive", "failed") and not self.job else ""


class Roll:
    """Who lives, by one look at each manager: the pulse, the worker scopes and the units of `holders`.

    To be taken after the records of those holders were read: an older look would take the newest for dead.
    `workers` is None and `judge` raises Unavailable when that could not be learned; `trouble` says why.
    """

    def __init__(self, user: Manager, system: Manager, holders: Iterable[Holder]) -> None:
        self.pulse = Pulse()
        self.workers: dict[str, str] | None = None
        self.trouble: list[str] = []
        self._alive: dict[str, dict[str, str]] = {}
        self._failed: dict[str, Unavailable] = {}
        known = [holder for holder in holders if holder.boot in ("", boot_id())]
        wanted = {scope: sorted({h.unit for h in known if h.manager == scope}) for scope in ("user", "system")}
        try:
            units = user.list_units([PULSE, WORKERS, *wanted["user"]])
            alive = self._alive["user"] = user.invocations(units.values())
            self.workers = {unit: invocation for unit, invocation in alive.items() if worker_of(unit)}
            self.pulse = Pulse.of(units.get(PULSE))
        except LooopError as error:
            self._fail("user", error)
        if wanted["system"]:
            try:
                self._alive["system"] = system.live(wanted["system"])
            except LooopError as error:
                self._fail("system", error)

    def _fail(self, scope: str, error: LooopError) -> None:
        self._failed[scope] = Unavailable(error.message, hint=error.hint)
        self.trouble.append(str(error))

    def judge(self, holder: Holder) -> bool:
        """Whether that run of that unit lives. Raises Unavailable."""
        if holder.manager in self._failed:
            raise self._failed[holder.manager]
        invocation = self._alive.get(holder.manager, {}).get(holder.unit)
        if not holder.invocation:
            return invocation is not None
        return holder.boot == boot_id() and holder.invocation == invocation


@dataclass(frozen=True)
class Survey:
    """`pulse` is systemd's ActiveState, or "unknown"; `trouble` says what could not be learned."""

    pulse: str = "unknown"
    status: str = ""
    sessions: list[Session] | None = None
    asks: list[dict[str, Any]] | None = None
    trouble: list[str] = field(default_factory=list)
    claims: list[dict[str, Any]] | None = None
    roll: Roll | None = None
    open_asks: list[Ask] | None = None
    leases: list[Claim] | None = None

    @property
    def pulse_alive(self) -> bool | None:
        return Pulse(self.pulse).alive


def survey(context: Context) -> Survey:
    """Ask systemd and read the files."""
    at, trouble = now(), list[str]()
    asks, leases = questions(context.paths, trouble), held(context.paths, trouble)
    with Manager("user") as user, Manager("system") as system:
        roll = Roll(user, system, holders(asks, leases))
        status = ""
        if roll.pulse.alive:
            try:
                status = str(user.get(PULSE, "Service", "StatusText", "s"))
            except LooopError as error:
                trouble.append(str(error))
        idle = asyncio.run(fleet.probe(context.paths, roll.workers or ()))
        sessions = workers(context, user, roll, asks, at, trouble, idle)
    return Survey(
        pulse=roll.pulse.state,
        status=status,
        sessions=sessions,
        asks=None if asks is None else mailbox.rows(asks, roll.judge, at.wall),
        trouble=list(dict.fromkeys([*roll.trouble, *trouble])),
        claims=None if leases is None else [claim_json(lease, claims.state(lease, roll.judge)) for lease in leases],
        roll=roll,
        open_asks=asks,
        leases=leases,
    )


def questions(paths: Paths, trouble: list[str]) -> list[Ask] | None:
    """The open asks, also those whose answer is not delivered yet."""
    try:
        return mailbox.open_asks(paths)
    except LooopError as error:
        trouble.append(str(error))
        return None


def held(paths: Paths, trouble: list[str]) -> list[Claim] | None:
    """The leases."""
    try:
        return claims.listing(paths)
    except LooopError as error:
        trouble.append(str(error))
        return None


def holders(asks: list[Ask] | None, leases: list[Claim] | None) -> list[Holder]:
    """Whoever has asked or holds something."""
    return [record.holder for record in (*(asks or ()), *(leases or ())) if record.holder is not None]


def waiting(asks: list[Ask] | None, roll: Roll, at: Stamp) -> dict[str, float]:
    """Worker -> age in seconds of the oldest unanswered ask of its present generation. Raises Unavailable."""
    ages: dict[str, float] = {}
    for ask in asks or ():
        if ask.answer or ask.worker in ages or ask.holder is None or ask.holder.unit != worker_unit(ask.worker):
            continue
        if roll.judge(ask.holder):
            ages[ask.worker] = max(0.0, at.wall - ask.ts)
    return ages


def workers(
    context: Context,
    user: Manager,
    roll: Roll,
    asks: list[Ask] | None,
    at: Stamp,
    trouble: list[str],
    idle: Mapping[str, Any] | None = None,
) -> list[Session] | None:
    """The fleet; `idle` is from `fleet.probe`, for what only the shims know."""
    live = roll.workers
    if live is None:
        return None
    try:
        while True:
            sessions = fleet.read(context.paths, context.config, live, at, waiting(asks, roll, at), idle)
            if not any(_just_started(session) for session in sessions):
                return sessions
            later = user.live([WORKERS])
            if later == live:
                return sessions
            live = later
    except LooopError as error:
        trouble.append(str(error))
        return None


def _just_started(session: Session) -> bool:
    """Looks dead without a trace: it may have been started after systemd was asked."""
    return not session.alive and bool(session.invocation) and session.exit_code is None and not session.signal


def claim_json(claim: Claim, state: str) -> dict[str, Any]:
    """A lease as every verb shows it."""
    return {**claim.to_json(), "state": state, "error": claim.broken or None}


def snapshots(context: Context) -> dict[str, Any]:
    """Every snapshot that is JSON, by name."""
    found = {}
    for name in store.names(context.paths.snapshots, ".json"):
        try:
            found[name] = json.loads(store.read_bytes(context.paths.snapshots / f"{name}.json") or b"null")
        except (ValueError, StateError):
            continue
    return found
