"""Where a worker's output goes: output.log, bounded, and the systemd journal where that was asked for.

Part of the shim, so standard library and `wire` only; systemd.journal is imported when lines are to be journaled.
"""

import errno
import os
import re
import time

from looop.sessions import wire

_EVERY_S = 10.0
_MODE = re.compile(rb"\x1b(?:c|\[\?([0-9;]{1,40})([hl]))")
INDEX = "output.index"  # beside output.log; a line: place in the stream, Unix time, rows, columns, a(lternate) h(idden)


class Transcript:
    """output.log: bounded, and never a reason to fail. A full disk loses output, which is counted and noted."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.fd).st_size
        self.written = self.size  # bytes ever written, those dropped since included
        self.lost = 0
        self.trim_at = limit

    def write(self, data: bytes) -> None:
        if self.lost:
            note = f"\r\n[looop: {self.lost} bytes of output are lost, they could not be written]\r\n".encode()
            if self._append(note) < len(note):
                self.lost += len(data)
                return
            self.lost = 0
        self.lost += len(data) - self._append(data)
        if self.limit and self.size > self.trim_at:
            self._trim()

    def _append(self, data: bytes) -> int:
        count = 0
        try:
            while count < len(data):
                count += os.write(self.fd, data[count:])
        except OSError:
            pass
        self.size += count
        self.written += count
        return count

    def _trim(self) -> None:
        """Drop the older half. The first line of the new file says how much of the whole stream is missing before it,
        so that a follower can find its place again."""
        temp = f"{self.path}.tmp"
        try:
            with open(self.path, "rb") as old:
                start = self.size - self.limit // 2
                head = os.pread(old.fileno(), 4096, start)
                start += head.find(b"\n") + 1
                fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    note = b"[looop: %d earlier bytes dropped]\n" % (self.written - self.size + start)
                    os.write(fd, note)
                    while start < self.size:
                        block = os.pread(old.fileno(), min(1 << 18, self.size - start), start)
                        if not block or os.write(fd, block) != len(block):
                            raise OSError(errno.ENOSPC, "short write")
                        start += len(block)
                    os.rename(temp, self.path)
                except OSError:
                    os.close(fd)
                    os.unlink(temp)
                    raise
            os.close(self.fd)
            self.fd, self.size, self.trim_at = fd, os.fstat(fd).st_size, self.limit
        except OSError:
            self.trim_at = self.size + self.limit // 8  # try again later


def parse_entry(line: bytes) -> tuple[int, float, int, int, bool, bool] | None:
    """A line of the index; None when it is damaged."""
    try:
        place, wall, rows, cols, modes = line.decode().split(" ")
        return int(place), float(wall), int(rows), int(cols), "a" in modes, "h" in modes
    except ValueError:
        return None


class Index:
    """output.index: when the stream had come where, the terminal's size from there on, and whether the alternate
    screen was up and the cursor hidden. A line at every resize, and at most one in 10 s of output; never a reason
    to fail. What is lost of it costs nothing but exactness."""

    def __init__(self, path: str, rows: int, cols: int, place: int, limit: int = 2048) -> None:
        self.path, self.limit = path, limit
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.lines = 0
        self.alternate = self.hidden = False
        self.wall, self.noted = time.time(), time.monotonic()  # of the last output, of the last line
        self.rest = b""
        self.resize(rows, cols, place)

    def resize(self, rows: int, cols: int, place: int) -> None:
        """The terminal has this size from this place of the stream on."""
        self.rows, self.cols, self.wall = rows, cols, time.time()
        self._note(place)

    def output(self, data: bytes, place: int) -> None:
        """More of the stream, which had come to `place` before."""
        now = time.monotonic()
        if now - self.noted >= _EVERY_S:
            self._note(place)
        self.wall = time.time()
        if self.rest or b"\x1b" in data:
            data = self.rest + data
            for found in _MODE.finditer(data):
                self._switch(found[1], found[2])
            cut = data.rfind(b"\x1b", max(0, len(data) - 48))
            self.rest = data[cut:] if cut >= 0 else b""

    def _switch(self, numbers: bytes | None, how: bytes) -> None:
        if numbers is None:
            self.alternate = self.hidden = False
            return
        for number in numbers.split(b";"):
            if number in (b"47", b"1047", b"1049"):
                self.alternate = how == b"h"
            elif number == b"25":
                self.hidden = how == b"l"

    def _note(self, place: int) -> None:
        self.noted = time.monotonic()
        modes = "a" * self.alternate + "h" * self.hidden or "-"
        line = f"{place} {self.wall:.3f} {self.rows} {self.cols} {modes}\n".encode()
        try:
            if os.write(self.fd, line) == len(line):
                self.lines += 1
                if self.lines >= self.limit:
                    self._thin()
        except OSError:
            pass

    def _thin(self) -> None:
        """Keep every resize and half of the rest; of more resizes than there is room for, the newer half."""
        lines = os.pread(self.fd, 64 * self.limit, 0).splitlines(keepends=True)
        kept: list[bytes] = []
        size = b""
        for number, line in enumerate(lines):
            now = b" ".join(line.split(b" ")[2:4])
            if now != size or number % 2 or number == len(lines) - 1:
                kept.append(line)
            size = now
        if len(kept) > self.limit * 3 // 4:
            kept = kept[-(self.limit // 2) :]
        temp = f"{self.path}.tmp"
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            data = b"".join(kept)
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
            os.rename(temp, self.path)
        except OSError:
            os.close(fd)
            os.unlink(temp)
            raise
        os.close(self.fd)
        self.fd, self.lines = fd, len(kept)


class JournalLines:
    """Copies whole lines to the systemd journal, never faster than `rate` a second (journald's limit is per user)."""

    def __init__(self, session: str, rate: int) -> None:
        from systemd import journal

        self.send = journal.send
        self.session, self.rate = session, rate
        self.tokens, self.at = float(rate), time.monotonic()
        self.suppressed = 0
        self.partial = b""

    def feed(self, data: bytes) -> None:
        *lines, self.partial = (self.partial + data).split(b"\n")
        if len(self.partial) > 4096:
            lines, self.partial = [*lines, self.partial], b""
        for line in lines:
            text = wire.plain(line)[:2048].rstrip()
            if text:
                self._line(text)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        self.tokens = min(float(self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 + bool(self.suppressed):
            self.suppressed += 1
            return
        self.tokens -= 1
        self.note()
        self._send(text)

    def settle(self) -> float | None:
        """Say so when a flood is over; seconds until it is worth asking again."""
        if not self.suppressed:
            return None
        if time.monotonic() - self.at >= 1:
            self.note()
        return 1.0

    def note(self) -> None:
        """Say how many lines were left out since the last one."""
        if self.suppressed:
            self.tokens -= 1
            self._send(f"[looop: {self.suppressed} lines suppressed]")
            self.suppressed = 0

    def _send(self, text: str) -> None:
        try:
            self.send(text, SYSLOG_IDENTIFIER="looop", LOOOP_SESSION=self.session, PRIORITY=6)
        except OSError:
            pass
