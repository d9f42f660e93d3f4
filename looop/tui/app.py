"""The program around the panes: a terminal, asyncio, and who wakes it. One process, that of `looopctl watch`.

Nothing is polled for state: inotify, unit signals and the word of the selected worker's shim ask for another look.
One timer refreshes what passes by itself, ages and processor use. Blocking reads run in threads.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from looop import clock
from looop.errors import LooopError
from looop.paths import Paths
from looop.sessions import fleet
from looop.systemd.live import Live
from looop.tui.follow import Follow
from looop.tui.model import Filter, Look, Meter, View
from looop.tui.panes import Facts
from looop.tui.state import FATES, Act, Pane, Send, State
from looop.tui.table import rows
from looop.tui.terminal import Loop, QuietLoop, Terminal
from looop.tui.widgets import PALETTE, Root, depth
from looop.watch import Watcher

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
REFRESH_S = 2.0
GAP_S = 0.2  # between two looks
UNITS = ("looop-worker-*", "looop.service")


@dataclass(frozen=True)
class Hooks:
    """What the verb lends: both block and run in a thread. `answer` says what became of it, or raises LooopError."""

    look: Callable[[Sequence[str]], Look]
    answer: Callable[[str, str], str]


class App:
    """One run of `watch`. `stuck_after` as in the settings."""

    def __init__(self, paths: Paths, hooks: Hooks, state: State, stuck_after: float, env: Mapping[str, str]) -> None:
        self.paths, self.hooks, self.state, self.stuck_after = paths, hooks, state, stuck_after
        self.facts = Facts()
        self.meter = Meter()
        self.colours = depth(env)
        self.root = Root(state, lambda: self.facts, self.press, self.colours)
        self.sent: list[str] = []
        self.code = 0
        self.failure: BaseException | None = None
        self._draw_asked = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> int:
        """Until the person or a signal ends it; the exit code. The terminal is as before afterwards, always."""
        loop = asyncio.get_running_loop()
        self.done, self.dirty = asyncio.Event(), asyncio.Event()
        loop.set_exception_handler(self._failed)
        self.screen = Terminal()
        self.screen.set_terminal_properties(colors=self.colours)
        self.loop = Loop(self.root, PALETTE, self.screen, QuietLoop(loop=loop), self.draw)
        self.live = Live("user", UNITS)
        self.live.on_change, self.live.on_state = self.kick, self._bus
        self.watcher = Watcher(fallback=True)
        self.follow = Follow(self.paths, self._framed, self.pause)
        try:
            with self.screen.kept(), self._signals(loop):
                self.loop.start()
                self.screen.take_keys()
                await self._work(loop)
        finally:
            await self._close(loop)
        if self.failure is not None:
            raise self.failure
        return self.code

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.draw()
            self._watch(loop)
            for work in (self._connect(), self._looks(), self._refresh()):
                self._spawn(work)
            self.kick()
            await self.done.wait()
        finally:
            with contextlib.suppress(OSError):  # the terminal is gone
                self.loop.stop()

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.follow.close()
        if self.watcher.fileno() >= 0:
            loop.remove_reader(self.watcher.fileno())
        self.watcher.close()
        await self.live.aclose()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._stop(70, task.exception())

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._stop(70, context.get("exception") or RuntimeError(str(context.get("message"))))

    def _stop(self, code: int, failure: BaseException | None = None) -> None:
        self.code, self.failure = self.code or code, self.failure or failure
        self.done.set()

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Any:
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop, 128 + number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def pause(self, seconds: float) -> bool:
        """Wait, but not beyond the end; True when it has come."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), seconds)
        return self.done.is_set()

    # -- what wakes it
    def kick(self) -> None:
        """Something may have changed."""
        self.dirty.set()

    def _bus(self, up: bool) -> None:
        if not up and self.facts.look is not None:
            lost = Look(at=clock.now(), asks=self.facts.look.asks, journal=self.facts.look.journal,
                        trouble=("systemd does not answer",))  # fmt: skip
            self._take(lost)
        self.kick()

    async def _connect(self) -> None:
        await self.live.persist()
        self.kick()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._extend()
        if self.watcher.fileno() >= 0:
            loop.add_reader(self.watcher.fileno(), self._changed)

    def _extend(self) -> None:
        """Watch what has come since; what is gone drops out by itself."""
        paths = self.paths
        found = [session.id for session in (self.facts.look.sessions or () if self.facts.look else ())]
        folders = [paths.data, paths.asks, paths.answers, paths.sessions, *(paths.sessions / each for each in found)]
        if any([self.watcher.follow(folder) for folder in folders]):
            self.kick()
        if self.watcher.degraded and self.facts.notes != (self.watcher.degraded,):
            self.facts = replace(self.facts, notes=(self.watcher.degraded,))

    def _changed(self) -> None:
        if self.watcher.drain():
            self.kick()

    # -- looking
    async def _looks(self) -> None:
        while True:
            await self.dirty.wait()
            self.dirty.clear()
            self._take(await asyncio.to_thread(self.hooks.look, tuple(self.sent)))
            self._extend()
            if await self.pause(GAP_S):
                return

    async def _refresh(self) -> None:
        """Ages and processor use; without inotify, everything."""
        while not await self.pause(REFRESH_S):
            look = self.facts.look
            if self.watcher.degraded:
                self.kick()
            if look is None:
                continue
            self._extend()
            alive = [session.unit for session in look.sessions or () if session.alive]
            readings = {} if look.stale else await fleet.probe(self.paths, alive)
            if self.facts.look is look:
                self._take(look.probed(readings, clock.now()))

    def _take(self, look: Look) -> None:
        """New facts: into the state, and onto the screen where they show."""
        state, before = self.state, self.facts.look
        look = look.after(before)
        if not look.stale:
            self.meter.read(look.sessions or (), look.at.mono)
        shown = rows(look, state.view, self.meter.percent, look.at)
        new_rows = shown != state.rows
        self.facts = replace(self.facts, look=look)
        state.take(look, shown)
        self._fates(look)
        self._choose()
        if before is None or replace(before, at=look.at, sessions=None) != replace(look, sessions=None):
            self.root.changed()
            self.draw()
        elif new_rows:
            self.root.changed(Pane.FLEET)
            self.draw()
        if any(s.alive and s.health in ("busy", "stuck") and self._turned(s) for s in look.sessions or ()):
            self.kick()

    def _turned(self, session: fleet.Session) -> bool:
        """Whether its idle time says otherwise than its health: systemd and the files are to be asked again."""
        if not self.stuck_after or session.idle_s is None:
            return False
        return (session.idle_s >= self.stuck_after) != (session.health == "stuck")

    def _fates(self, look: Look) -> None:
        for ask, fate in look.fates.items():
            self.state.said = f"{ask}: {FATES.get(fate, fate)}"
            if fate != "answered" and ask in self.sent:
                self.sent.remove(ask)

    def _choose(self) -> None:
        """Follow the screen of whoever is selected."""
        look, state = self.facts.look, self.state
        chosen = next((s for s in (look.sessions or () if look else ()) if s.id == state.selected), None)
        self.follow.choose(chosen, state.log)

    def _framed(self) -> None:
        """The selected worker's screen or log is another one."""
        self.facts = replace(self.facts, frame=self.follow.frame, log=self.follow.lines, trouble=self.follow.trouble)
        if self.state.log_top is not None:
            self.state.log_top += self.follow.added
        self.follow.added = 0
        self.root.changed(Pane.SCREEN)
        self.draw()

    # -- the person
    def press(self, key: str) -> None:
        """One key."""
        state, look = self.state, self.facts.look
        filter_, before = state.view.filter, state.selected
        result = state.press(key)
        if look is not None and state.view.filter is not filter_:
            state.take(look, rows(look, state.view, self.meter.percent, look.at))
        if state.selected != before:
            self.facts = replace(self.facts, frame=None, log=(), trouble="")
        self._choose()
        if isinstance(result, Send):
            self._spawn(self._send(result))
        elif result is Act.QUIT:
            self._stop(0)
        elif result is Act.SUSPEND:
            self.screen.suspend()
        elif result is Act.REDRAW:
            self.screen.clear()
        elif result is Act.OLDER:
            self.follow.older()
        self.root.changed()
        self.draw()

    async def _send(self, answer: Send) -> None:
        draft = self.state.draft
        try:
            fate = await asyncio.to_thread(self.hooks.answer, answer.ask, answer.text)
        except LooopError as error:
            if draft is not None:
                draft.sending, draft.error = False, str(error)
        else:
            self.state.draft = None if self.state.draft is draft else self.state.draft
            self.sent.append(answer.ask)
            self.state.said = f"{answer.ask}: {FATES.get(fate, fate)}"
        self.root.changed()
        self.draw()
        self.kick()

    # -- drawing
    def draw(self) -> None:
        """Once for everything that has changed by now."""
        if not self._draw_asked and not self.done.is_set():
            self._draw_asked = True
            asyncio.get_running_loop().call_soon(self._draw)

    def _draw(self) -> None:
        self._draw_asked = False
        if self.screen.started and not self.done.is_set():
            self.loop.draw_screen()


def run(paths: Paths, hooks: Hooks, asked: str, chosen: Filter, within: float, stuck_after: float) -> int:
    """The whole of it. `asked` is the id to begin with, "" for any."""
    state = State(View(chosen, within, asked), within)
    if asked:
        state.selected = asked
    return asyncio.run(App(paths, hooks, state, stuck_after, os.environ).run())
