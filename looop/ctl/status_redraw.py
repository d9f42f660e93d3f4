"""A screen that is drawn again when something has changed: what `looopctl status --watch` runs until it is ended.

inotify and unit signals say that something has; nothing is polled, except where no inotify is to be had. Now and
then it is drawn anew all the same, because the ages on it grow.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

from looop.ctl.up import PULSE, WORKERS
from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd.live import Live
from looop.watch import LOOK_AGAIN_S, Watcher

CLEAR = "\033[H\033[2J\033[3J"
GAP_S = 0.3  # from one drawing to the next at least
AGES_S = 5.0  # and at most


def redraw(paths: Paths, page: Callable[[], list[str]]) -> int:
    """Draw until Ctrl-C, or until standard output is gone."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(_redraw(paths, page))
    return 0


async def _redraw(paths: Paths, page: Callable[[], list[str]]) -> None:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    live, watcher = Live("user", (WORKERS, PULSE)), Watcher(fallback=True)
    live.on_change = changed.set

    def drain() -> None:
        if watcher.drain():
            changed.set()

    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    if watcher.fileno() >= 0:
        loop.add_reader(watcher.fileno(), drain)
    limit = LOOK_AGAIN_S if watcher.degraded else AGES_S
    try:
        with contextlib.suppress(LooopError):  # without signals the ages' interval is what is left
            await live.connect()
        while True:
            changed.clear()
            _follow(watcher, paths)
            if not _draw(await asyncio.to_thread(page)):
                return
            await _wait(asyncio.Event(), GAP_S)
            await _wait(changed, limit - GAP_S)
    finally:
        if watcher.fileno() >= 0:
            loop.remove_reader(watcher.fileno())
        watcher.close()
        await live.aclose()


def _follow(watcher: Watcher, paths: Paths) -> None:
    """Watch the folders there are; new ones are found at the next drawing."""
    for folder in (
        paths.data, paths.asks, paths.answers, paths.snapshots, paths.goals, paths.schedules, paths.claims,
        paths.sessions, paths.runtime,
    ):  # fmt: skip
        watcher.follow(folder)


def _draw(lines: list[str]) -> bool:
    """Whether there is anybody to draw for."""
    try:
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as screen:  # nothing is left for the exit
            screen.write((CLEAR + "\n".join(lines) + "\n").encode(errors="replace"))
    except OSError:
        return False
    return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
