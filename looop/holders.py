"""The holders of all leases, watched: their end is learned from their unit's signal, not from the next beat.

A lease may be held by any unit of either manager, and be taken at any time, so claims/ is watched too. Used by the
pulse. Only widens what the managers' signals are listened to for; who is dead is judged by `claims.reap`.
"""

import asyncio
from collections.abc import Callable, Mapping

from looop import claims
from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd import journal
from looop.systemd.identity import Holder
from looop.systemd.live import Live
from looop.watch import Watcher

Units = Mapping[tuple[str, str], str]  # (manager, unit) -> InvocationID


class Holders:
    """`changed` is called when a lease was taken or given back."""

    def __init__(self, paths: Paths, user: Live, system: Live, changed: Callable[[], None]) -> None:
        self.paths = paths
        self.user = user
        self.system = system
        self.changed = changed
        self.known: list[Holder] = []
        self.connecting: asyncio.Task[None] | None = None
        self.watcher: Watcher | None = None

    def start(self) -> None:
        """Listen. Without inotify (its limit is reached) holders are refreshed in every beat only, and that is said."""
        try:
            self.watcher = Watcher(self.paths.claims)
            asyncio.get_running_loop().add_reader(self.watcher.fileno(), self._look)
        except LooopError as error:
            journal.emit("state_degraded", text=f"leases are looked at by the beat only: {error}")
        self.refresh()

    def close(self) -> None:
        """Stop listening."""
        if self.watcher is not None:
            asyncio.get_running_loop().remove_reader(self.watcher.fileno())
            self.watcher.close()
        if self.connecting is not None:
            self.connecting.cancel()

    def _look(self) -> None:
        assert self.watcher is not None
        try:
            self.watcher.drain()
            self.refresh()
            self.changed()
        except LooopError as error:
            journal.emit("state_degraded", text=str(error))

    def refresh(self) -> None:
        """Read the leases again and listen to their holders' managers. Raises StateError."""
        self.known = [claim.holder for claim in claims.listing(self.paths) if claim.holder]
        for live in (self.user, self.system):
            live.watch = {holder.unit for holder in self.known if holder.manager == live.scope}
        if self.system.watch and not self.system.listening and self.connecting is None:
            self.connecting = asyncio.get_running_loop().create_task(self._connect(), name="bus-system")

    async def _connect(self) -> None:
        """The system bus is needed only where a lease is held by a login session or a system service."""
        try:
            await self.system.connect()
        except LooopError as error:
            journal.emit("state_degraded", text=f"leases of system units are looked at by the beat only: {error}")
        self.connecting = None
        self.changed()

    def ended(self, units: Units) -> bool:
        """True when a holder is not among the living. Says "look closer", not "dead"."""
        return any(units.get((h.manager, h.unit)) != h.invocation for h in self.known if h.invocation)
