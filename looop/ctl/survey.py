"""What verbs that show the present state gather: the pulse, the fleet, asks. Works with the pulse down.

Each part that cannot be known is None, never empty.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from looop import claims, mailbox, store
from looop.clock import now
from looop.ctl.command import Context
from looop.ctl.up import PULSE
from looop.errors import LooopError, StateError
from looop.sessions import fleet
from looop.systemd.manager import Manager


@dataclass(frozen=True)
class Survey:
    """`pulse` is systemd's ActiveState, or "unknown"; `trouble` says what could not be learned."""

    pulse: str = "unknown"
    status: str = ""
    sessions: list[fleet.Session] | None = None
    asks: list[dict[str, Any]] | None = None
    trouble: list[str] = field(default_factory=list)

    @property
    def pulse_alive(self) -> bool | None:
        return None if self.pulse == "unknown" else self.pulse in ("active", "reloading")


def survey(context: Context) -> Survey:
    """Ask systemd and read the files."""
    paths, at = context.paths, now()
    trouble: list[str] = []
    pulse, status = "unknown", ""
    sessions: list[fleet.Session] | None = None
    asks: list[dict[str, Any]] | None = None
    with Manager("user") as user, Manager("system") as system:
        judge = claims.judge(user, system)
        try:
            units = user.list_units([PULSE])
            pulse = units[PULSE].active if PULSE in units else "inactive"
            if PULSE in units:
                status = str(user.get(PULSE, "Service", "StatusText", "s"))
            live = user.live([fleet.unit_name("*")])
            waiting = mailbox.waiting(paths, judge, at.wall)
            sessions = fleet.read(paths, context.config, live, at, waiting, asyncio.run(fleet.probe(paths, live)))
        except LooopError as error:
            trouble.append(str(error))
        try:
            asks = [ask_json(ask, mailbox.state(ask, judge), at.wall) for ask in mailbox.pending(paths)]
        except LooopError as error:
            trouble.append(str(error))
    return Survey(pulse, status, sessions, asks, trouble)


def ask_json(ask: mailbox.Ask, state: str, wall: float) -> dict[str, Any]:
    """An open ask as every verb shows it."""
    return {
        "id": ask.id,
        "worker": ask.worker,
        "state": "broken" if ask.broken else state,
        "prompt": ask.prompt,
        "reference": ask.reference,
        "options": list(ask.options),
        "ts": ask.ts,
        "age_s": round(max(0.0, wall - ask.ts), 1),
    }


def snapshots(context: Context) -> dict[str, Any]:
    """Every snapshot that is JSON, by name."""
    found = {}
    for name in store.names(context.paths.snapshots, ".json"):
        try:
            found[name] = json.loads(store.read_bytes(context.paths.snapshots / f"{name}.json") or b"null")
        except (ValueError, StateError):
            continue
    return found
