"""A worker's log as plain lines, from its end backwards as far as somebody scrolls. Reads; never all of it."""

from pathlib import Path

from looop.errors import StateError
from looop.sessions import wire
from looop.screens.replay import Log, lines_back
from looop.tui.text import safe

FIRST = 500  # lines read when it is opened
MOST = 20_000
BYTES = 8 << 20  # of memory for one log


class LogTail:
    """The last lines of a transcript. Place is counted in bytes of the whole stream, so a trimmed file is no matter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []  # the last one may be unfinished
        self._whole: list[str] = []
        self._end = -1
        self._wanted = FIRST
        self._partial = b""

    def read(self) -> bool:
        """Take what is new; True when something was. Raises StateError when the file cannot be read."""
        try:
            with Log(self.path) as log:
                if not max(0, log.missing) <= self._end <= log.end or log.end - self._end > BYTES:
                    self._restart(log)
                return self._take(log)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}") from error

    def older(self) -> int:
        """Read further back; how many lines that added at the front."""
        if self._end < 0 or self._wanted >= MOST:
            return 0
        before = len(self.lines)
        self._wanted = min(MOST, self._wanted * 4)
        self._end = -1
        self.read()
        return max(0, len(self.lines) - before)

    def _restart(self, log: Log) -> None:
        self._end = max(lines_back(log, self._wanted), log.end - BYTES)
        self._whole, self._partial = [], b""

    def _take(self, log: Log) -> bool:
        data = log.read(self._end, log.end - self._end)
        if not data:
            return False
        self._end += len(data)
        whole, newline, self._partial = (self._partial + data).rpartition(b"\n")
        if newline:
            self._whole += [safe(line) for line in wire.plain(whole).split("\n")]
            del self._whole[: max(0, len(self._whole) - 2 * MOST)]
        unfinished = safe(wire.plain(self._partial[-4096:]))
        self.lines = [*self._whole, unfinished] if unfinished.strip() else self._whole
        return True
