"""Blocking until something is new: inotify and unit signals say "look again", a look says what there is.

Runs in `looopctl wait`; reads only. Each source marks the categories that it may have changed, and only those are
read again. Nothing is polled, except where there is no inotify to be had.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop import watch
from looop.changes import CATEGORIES, ITEMS_MAX, NOWHERE, Cursor, Mark, News, Seen, home, since
from looop.clock import now
from looop.ctl import wait_items
from looop.ctl.command import Context
from looop.ctl.wait_items import Items
from looop.ctl.survey import Pulse, Roll, held, holders, questions, workers
from looop.errors import StateError
from looop.sessions import fleet
from looop.systemd.live import Live
from looop.systemd.manager import Manager
from looop.watch import Watcher

ROLLED = frozenset({"asks", "claims", "workers", "pulse"})  # what systemd is asked about
EVERYTHING = frozenset({*CATEGORIES, "pulse"})
URGENT = frozenset({"asks", "pulse-down", "pulse-up"})
QUIET_S = 0.02  # what is not urgent is told when nothing happened for so long,
BURST_S = 0.2  # or so much has passed
PROBE_S = 0.2


@dataclass(frozen=True)
class Result:
    """What `wait` tells. `changed` is empty when the time was up."""

    cursor: Cursor
    changed: list[str]
    news: dict[str, News]
    pulse: Pulse
    trouble: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "cursor": self.cursor.encode(),
            "changed": self.changed,
            "pulse": self.pulse.state,
            "pulse_alive": self.pulse.alive,
            "new": {name: news.to_json() for name, news in self.news.items()},
            "trouble": self.trouble,
        }


@dataclass
class Eyes:
    """The latest look at each category, refreshed as far as it is out of date."""

    context: Context
    user: Manager
    system: Manager
    found: dict[str, Items] = field(default_factory=dict)
    trouble: dict[str, list[str]] = field(default_factory=dict)
    pulse: Pulse = field(default_factory=Pulse)
    holders: set[str] = field(default_factory=set)
    distant: bool = False  # somebody in a unit of the system manager asks or holds something
    live: dict[str, str] | None = None
    records: dict[str, Any] = field(default_factory=lambda: {"asks": None, "claims": None})
    mark: Mark | None = None
    lines: News | None = None

    def look(self, stale: Iterable[str], start: Mark | None) -> None:
        """Read these categories again; the journal from `start` on."""
        due = set(stale)
        paths = self.context.paths
        if due & ROLLED:
            self._roll(due)
        for name, read in (
            ("goals", wait_items.goals), ("playbook", wait_items.playbook), ("snapshots", wait_items.snapshots),
            ("schedules", wait_items.schedules),
        ):  # fmt: skip
            if name in due:
                self._keep(name, lambda read=read: read(paths))  # type: ignore[misc]
        if "journal" in due:
            self.trouble.pop("journal", None)
            try:
                self.mark, self.lines = wait_items.journal_since(paths, start)
            except StateError as error:
                self.mark = self.lines = None
                self.trouble["journal"] = [str(error)]

    def _keep(self, name: str, read: Callable[[], Items]) -> None:
        self.trouble.pop(name, None)
        try:
            self.found[name] = read()
        except StateError as error:
            self.found.pop(name, None)
            self.trouble[name] = [str(error)]

    def _roll(self, due: set[str], idle: dict[str, Any] | None = None) -> None:
        """Records first, then systemd, then the sessions: those cost most, so only when they may have changed."""
        paths, at = self.context.paths, now()
        trouble: dict[str, list[str]] = {"asks": [], "claims": [], "workers": []}
        for name, read in (("asks", questions), ("claims", held)):
            if name in due:
                self.records[name] = read(paths, trouble[name])
        asks, leases = self.records["asks"], self.records["claims"]
        known = holders(asks, leases)
        self.holders = {holder.unit for holder in known if holder.manager == "user"}
        self.distant = any(holder.manager == "system" for holder in known)
        roll = Roll(self.user, self.system, known)
        self.pulse = roll.pulse
        self._take("asks", None if asks is None else wait_items.asks(asks, roll, at.wall))
        self._take("claims", None if leases is None else wait_items.leases(leases, roll))
        if "workers" in due or roll.workers != self.live:
            self.live = roll.workers
            sessions = workers(self.context, self.user, roll, asks, at, trouble["workers"], idle)
            self._take("workers", None if sessions is None else wait_items.workers(sessions, paths))
            due = due | {"workers"}
        self.trouble["systemd"] = roll.trouble
        self.trouble |= {name: problems for name, problems in trouble.items() if name in due}

    def _take(self, name: str, there: Items | None) -> None:
        self.found.pop(name, None)
        if there is not None:
            self.found[name] = there

    async def ask_shims(self) -> None:
        """Look at the workers once more, with what only their shims know."""
        self._roll({"workers"}, await fleet.probe(self.context.paths, self.live or (), PROBE_S))

    def seen(self) -> Seen:
        return Seen(dict(self.found), self.pulse.turn, self.mark, self.lines)

    @property
    def problems(self) -> list[str]:
        """What could not be learned."""
        found = [problem for problems in self.trouble.values() for problem in problems]
        found += [
            f"{name}: more than {ITEMS_MAX}, the cursor holds them as one"
            for name, there in self.found.items() if len(there) > ITEMS_MAX
        ]  # fmt: skip
        return list(dict.fromkeys(found))


class Sources:
    """The watched folders. `wake` is called with the categories that may have changed."""

    def __init__(self, context: Context, wake: Callable[[Iterable[str]], None]) -> None:
        paths = context.paths
        self.data = paths.data
        self.sessions = paths.sessions
        self.wake = wake
        self.folders = {
            paths.asks: {"asks"},
            paths.answers: {"asks"},
            paths.claims: {"claims"},
            paths.goals: {"goals"},
            paths.schedules: {"schedules"},
            paths.sessions: {"workers"},
            paths.snapshots: {"snapshots", "schedules", "workers"},
        }
        self.watcher = Watcher(fallback=True)
        self.lookout: Path | None = None  # stands in for a data directory that is not there yet
        self._fd = self.watcher.fileno()

    def start(self) -> None:
        """Have the loop wake us."""
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def stop(self) -> None:
        """Be woken no more. The instance ends with the process: closing it takes the kernel 10 to 20 ms."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)

    def _read(self) -> None:
        self.watcher.drain()
        stale: set[str] = set()
        for path in self.watcher.changed:
            stale |= self._concerned(path)
        self.watcher.changed.clear()
        if stale:
            self.wake(stale)

    def _concerned(self, path: Path) -> set[str] | frozenset[str]:
        if path == self.data:
            return {"journal", "playbook"}
        if path.parent == self.sessions:
            return {"workers"}
        return self.folders.get(path, EVERYTHING)

    def follow(self) -> set[str]:
        """Watch what has come since; the categories that this concerns."""
        fresh: set[str] = set()
        for path in (self.data, *self.folders, *self._sessions()):
            if self.watcher.follow(path):
                fresh |= self._concerned(path)
        self._look_out()
        return fresh

    def _sessions(self) -> list[Path]:
        try:
            return [path for path in self.sessions.iterdir() if not path.name.startswith(".")]
        except OSError:
            return []

    def _look_out(self) -> None:
        there = self.data
        while not there.is_dir() and there != there.parent:
            there = there.parent
        lookout = None if there == self.data else there
        if lookout != self.lookout:
            if self.lookout is not None:
                self.watcher.unfollow(self.lookout)
            self.lookout = lookout
        if lookout is not None:
            self.watcher.follow(lookout)


class Waiter:
    """One `wait`. `passes` says for which names of what has moved it returns."""

    def __init__(
        self, context: Context, cursor: Cursor | None, passes: Callable[[set[str]], bool], say: Callable[[str], None]
    ) -> None:
        self.context = context
        self.cursor = cursor
        self.passes = passes
        self.say = say
        self.stale: set[str] = set(EVERYTHING)
        self.woken = asyncio.Event()
        self.said: set[str] = set()

    def wake(self, stale: Iterable[str]) -> None:
        """What may have changed."""
        self.stale |= set(stale)
        self.woken.set()

    async def run(self, timeout: float | None) -> Result:
        """Block until something passes, at most `timeout` seconds."""
        loop = asyncio.get_running_loop()
        self.deadline = None if timeout is None else loop.time() + timeout
        live = Live("user", ("looop-worker-*", "looop.service"))
        live.on_change = lambda: self.wake(ROLLED)
        live.on_state = lambda up: self.wake(ROLLED)
        with Manager("system") as system:
            self.eyes = Eyes(self.context, live, system)
            self.live = live
            self.sources = Sources(self.context, self.wake)
            self.sources.start()
            try:
                problem = await live.persist()
                if problem:
                    self._warn(f"{problem}; of units nothing is learned until that works")
                return await self._block()
            finally:
                self.sources.stop()
                await live.aclose()

    async def _block(self) -> Result:
        self._look()
        if self.cursor is None:  # the open asks are new, of all else the present state is where it begins
            items_now = {name: there for name, there in self.eyes.found.items() if name != "asks"}
            first = Seen(items_now, "", self.eyes.mark)
            self.cursor = since(Cursor(home(self.context.paths.data)), first)[0]
        while True:
            result = self._result()
            if self.passes(set(result.changed)):
                result = await self._settle(result)
                if self.passes(set(result.changed)):
                    return result
                continue
            if not await self._woken(self._left()):
                return Result(self.cursor, [], {}, self.eyes.pulse, self.eyes.problems)
            self._look()

    def _look(self) -> None:
        """Watch first, then read: nothing falls in between."""
        stale = self.stale | self.sources.follow()
        self.stale = set()
        self.woken.clear()
        if "snapshots" in stale and self.eyes.distant:
            stale.add("asks")
        if self.sources.watcher.degraded:
            self._warn(self.sources.watcher.degraded)
            stale |= EVERYTHING
        start = None if self.cursor is None else self.cursor.journal or NOWHERE
        self.eyes.look(stale, start)
        self.live.watch = set(self.eyes.holders)

    def _result(self) -> Result:
        assert self.cursor is not None
        after, news, moved = since(self.cursor, self.eyes.seen())
        return Result(after, moved, news, self.eyes.pulse, self.eyes.problems)

    async def _settle(self, result: Result) -> Result:
        """Let a burst pass, unless it is urgent; then complete what is told of workers."""
        end = asyncio.get_running_loop().time() + BURST_S
        while not URGENT & set(result.changed):
            left = end - asyncio.get_running_loop().time()
            if left <= 0 or not await self._woken(min(QUIET_S, left), look_again=False):
                break
            self._look()
            result = self._result()
        if "workers" in result.changed:
            await self.eyes.ask_shims()
            result = self._result()
        return result

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - asyncio.get_running_loop().time())

    async def _woken(self, timeout: float | None, look_again: bool = True) -> bool:
        """False when the time is up."""
        degraded = look_again and bool(self.sources.watcher.degraded)
        wait = min(x for x in (timeout, watch.LOOK_AGAIN_S) if x is not None) if degraded else timeout
        try:
            async with asyncio.timeout(wait):
                await self.woken.wait()
        except TimeoutError:
            return degraded and (timeout is None or timeout > watch.LOOK_AGAIN_S)
        return True

    def _warn(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(text)


def wait(
    context: Context,
    cursor: Cursor | None,
    passes: Callable[[set[str]], bool],
    timeout: float | None,
    say: Callable[[str], None],
) -> Result:
    """Block until something passes. Raises LooopError only for what no waiting mends."""
    context.config  # noqa: B018  a configuration that cannot be used is said at once
    return asyncio.run(Waiter(context, cursor, passes, say).run(timeout))
