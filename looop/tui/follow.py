"""The selected worker's screen and log, followed by the word of its shim. Reading and replaying run in one thread."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from looop.errors import LooopError
from looop.paths import Paths
from looop.sessions import wire
from looop.sessions.fleet import Session
from looop.screens.screen import Follower, Screen
from looop.tui.log import LogTail
from looop.tui.panes import Frame

FRAME_S = 0.1  # between two pictures
DEAF_S = 2.0  # of a worker whose shim has no place for one more, or has just ended


class Follow:
    """`frame`, `lines` and `trouble` are of whoever was chosen; `on_change` tells when they are new.

    `added` counts lines that came in front of `lines`; its reader sets it back.
    """

    def __init__(
        self, paths: Paths, on_change: Callable[[], None], pause: Callable[[float], Awaitable[bool]]
    ) -> None:
        self.paths, self.on_change, self.pause = paths, on_change, pause
        self.frame: Frame | None = None
        self.lines: Sequence[str] = ()
        self.trouble = ""
        self.added = 0
        self._key: tuple[Any, ...] = ()
        self._log = False
        self._older = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replay")

    def choose(self, session: Session | None, log: bool) -> None:
        """Follow this one, or nobody. Cheap when it is followed already."""
        key = (session.id, session.invocation, session.alive) if session else ()
        if log != self._log:
            self._log = log
            self._wake.set()
        if key == self._key:
            return
        if key[:1] != self._key[:1]:
            self.frame, self.lines, self.trouble, self.added = None, (), "", 0
        self._key = key
        self._stop()
        if session is not None:
            self._task = asyncio.get_running_loop().create_task(self._follow(session.id, session.alive))

    def older(self) -> None:
        """More of the log, from further back."""
        self._older = True
        self._wake.set()

    def _stop(self) -> "asyncio.Task[None] | None":
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    async def close(self) -> None:
        """Let go of everything."""
        task = self._stop()
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError, LooopError):
                await task
        await asyncio.to_thread(self._thread.shutdown)

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _follow(self, worker_id: str, alive: bool) -> None:
        replay = _Replay(self.paths, worker_id)
        word: asyncio.Task[None] | None = None
        try:
            if alive:
                word = asyncio.get_running_loop().create_task(self._listen(worker_id))
            while True:
                self._wake.clear()
                self._publish(worker_id, await self._in_thread(replay.read, self._log, self._take_older()))
                if await self.pause(FRAME_S):
                    return
                await self._wake.wait()
        finally:
            if word is not None:
                word.cancel()

    def _take_older(self) -> bool:
        older, self._older = self._older, False
        return older

    def _publish(self, worker_id: str, found: "_Found") -> None:
        self.frame, self.trouble = found.frame, found.trouble
        self.lines, self.added = found.lines, self.added + found.added
        self.on_change()

    async def _listen(self, worker_id: str) -> None:
        """The shim says when there is more; where it does not, there is a look from time to time."""
        while True:
            with contextlib.suppress(OSError):
                await self._hear(worker_id)
            self._wake.set()
            if await self.pause(DEAF_S):
                return

    async def _hear(self, worker_id: str) -> None:
        reader, writer = await asyncio.open_unix_connection(self.paths.control(worker_id), limit=wire.LINE_MAX)
        try:
            writer.write(wire.encode({"op": wire.FOLLOW}))
            while await reader.read(4096):
                self._wake.set()
        finally:
            writer.close()


class _Found:
    """What one reading found."""

    def __init__(self, frame: Frame | None, lines: Sequence[str], added: int, trouble: str) -> None:
        self.frame, self.lines, self.added, self.trouble = frame, lines, added, trouble


class _Replay:
    """A worker's screen and log; used in one thread only."""

    def __init__(self, paths: Paths, worker_id: str) -> None:
        self.paths, self.worker_id = paths, worker_id
        self.follower: Follower | None = None
        self.log: LogTail | None = None

    def read(self, log: bool, older: bool) -> _Found:
        """Take what is new."""
        try:
            added = self._read_log(older) if log else 0
            frame = None if log else self._frame()
        except (LooopError, OSError) as error:
            return _Found(None, (), 0, str(error))
        return _Found(frame, tuple(self.log.lines) if log and self.log else (), added, "")

    def _read_log(self, older: bool) -> int:
        if self.log is None:
            self.log = LogTail(self.paths.session(self.worker_id) / "output.log")
        added = self.log.older() if older else 0
        self.log.read()
        return added

    def _frame(self) -> Frame:
        if self.follower is None:
            self.follower = Follower(self.paths, self.worker_id)
        self.follower.advance()
        return frame(self.worker_id, self.follower.screen)


def frame(worker_id: str, screen: Screen) -> Frame:
    """The screen as it is now."""
    return Frame(worker_id, tuple(screen.row(n) for n in range(screen.rows)), screen.cols, screen.cursor)
