"""Sleeping until a folder changes: one inotify(7) instance, seen as a descriptor or as a blocking wait.

For verbs that block (`ask`, `claim --wait`) and for the pulse. A change carries no payload: it means "look again".
Hidden names never count, because locks and half-written files have them: closing claims/.lock is itself an
event, and a waiter that takes that lock would wake itself for ever.
"""

import contextlib
import os
import select
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from inotify import calls, constants

from looop.errors import LooopError, StateError

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, len; then `len` bytes of NUL-padded name
_CHANGED = (
    constants.IN_CREATE | constants.IN_DELETE | constants.IN_MOVE | constants.IN_CLOSE_WRITE
    | constants.IN_DELETE_SELF | constants.IN_MOVE_SELF
)  # fmt: skip
_LOST = constants.IN_IGNORED | constants.IN_MOVE_SELF
_LONGEST_S = 1e9  # what select(2) takes
LOOK_AGAIN_S = 2.0  # where there is no inotify to be had


class Watcher:
    """Watches files and folders (not what is below them). Raises StateError for a path that is not there.

    With `fallback`, a user whose inotify instances are used up (every process of that uid shares them) waits all
    the same: `wait` then looks again every few seconds, and `degraded` says why.
    """

    def __init__(self, *paths: Path, fallback: bool = False) -> None:
        self._paths: dict[int, Path] = {}
        self._followed: dict[Path, int] = {}
        self.changed: set[Path] = set()
        self._fd = -1
        self.degraded = ""
        try:
            self._open(paths)
        except LooopError as error:
            if not fallback or isinstance(error, StateError):
                raise
            self.degraded = f"{error}; looking every {LOOK_AGAIN_S:g} s instead"

    def _open(self, paths: Sequence[Path]) -> None:
        try:
            self._fd = int(calls.inotify_init())
        except calls.InotifyError as error:
            # the binding does not keep errno; EMFILE is the only failure without a cause in our own code
            raise LooopError(
                "cannot watch for changes: no inotify instance left",
                hint="raise fs.inotify.max_user_instances with sysctl",
            ) from error
        os.set_inheritable(self._fd, False)
        os.set_blocking(self._fd, False)
        try:
            for path in paths:
                self._add(path)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> int:
        try:
            wd = calls.inotify_add_watch(self._fd, os.fsencode(path), _CHANGED)
        except calls.InotifyError as error:
            if not os.access(path, os.R_OK):
                raise StateError(f"cannot watch {path}: it is gone or not readable") from error
            raise LooopError(
                f"cannot watch {path}: no inotify watch left", hint="raise fs.inotify.max_user_watches with sysctl"
            ) from error
        self._paths[wd] = path
        return int(wd)

    def follow(self, path: Path) -> bool:
        """Watch one more, if it is there; True when that is new. One that goes away has changed and is forgotten.

        Without inotify, or when its watches are used up, `degraded` says so.
        """
        if self.degraded or path in self._followed:
            return False
        try:
            self._followed[path] = self._add(path)
        except StateError:
            return False
        except LooopError as error:
            self.degraded = f"{error}; looking every {LOOK_AGAIN_S:g} s instead"
            return False
        return True

    def unfollow(self, path: Path) -> None:
        """Watch it no longer; it does not matter whether it was."""
        wd = self._followed.pop(path, None)
        if wd is not None:
            self._paths.pop(wd, None)
            with contextlib.suppress(calls.InotifyError):
                calls.inotify_rm_watch(self._fd, wd)

    def fileno(self) -> int:
        """Readable when something may have changed; then call `drain`."""
        return self._fd

    def drain(self) -> bool:
        """Take every queued event; True when one of them counts. Raises StateError when a watched path went away.

        `changed` collects the watched paths concerned, for whoever has several; its reader empties it.
        """
        changed = False
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return changed
            offset = 0
            while offset < len(data):
                wd, mask, _, length = _EVENT.unpack_from(data, offset)
                hidden = data[offset + _EVENT.size : offset + _EVENT.size + 1] == b"." if length else False
                offset += _EVENT.size + length
                if mask & constants.IN_Q_OVERFLOW:
                    changed = True
                    self.changed.update(self._paths.values())
                    continue
                if wd not in self._paths:
                    continue
                changed = changed or not hidden
                if not hidden:
                    self.changed.add(self._paths[wd])
                if mask & _LOST:
                    self._again(wd, mask)

    def _again(self, wd: int, mask: int) -> None:
        """Watch what now stands at the path of `wd`; a folder that was moved away would keep its watch."""
        path = self._paths.pop(wd)
        if mask & constants.IN_MOVE_SELF:
            with contextlib.suppress(calls.InotifyError):
                calls.inotify_rm_watch(self._fd, wd)
        if self._followed.pop(path, None) is None:
            self._add(path)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until something changed; False when `timeout` seconds have passed first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self.degraded:
                select.select([], [], [], LOOK_AGAIN_S if left is None else min(left, LOOK_AGAIN_S))
                return left is None or left > LOOK_AGAIN_S
            if not select.select([self._fd], [], [], left if left is None else min(left, _LONGEST_S))[0]:
                if left is not None and left <= _LONGEST_S:
                    return False
            elif self.drain():
                return True

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
