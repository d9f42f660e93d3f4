"""Reading a worker's transcript from the right place: what is missing of it, where to begin, which size it had.

Places are counted in bytes of the whole stream, the dropped older part included. Of a transcript of any size at most
a few MiB are read: to draw a screen it is enough to begin where the screen was last wiped. Where nobody wiped it
within `WINDOW` bytes of the end, the replay begins with the last `TAIL` bytes at the start of a line: what was
drawn before and never since is then missing, and so are colours and margins set before. Whether the alternate screen
was up and the cursor hidden is known even so, from the index that the shim writes, or from `LOOKBACK` bytes more.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import TracebackType

from looop.sessions.transcript import INDEX as INDEX
from looop.sessions.transcript import parse_entry

WINDOW = 4 << 20
TAIL = 1 << 20
LOOKBACK = 32 << 20
_BLOCK = 1 << 20
_LONGEST = 64  # bytes of a sequence that is looked for

_DROPPED = re.compile(rb"\[looop: (\d+) earlier bytes dropped\]\n")
_MODE = rb"\x1b\[\?([0-9;]{1,40})([hl])"
_EVENT = re.compile(
    _MODE + rb"|\x1b(c)|(\x1b\[(?:1;1|1)?H\x1b\[[02]?J|\x1b\[2J(?:\x1b\[3J)?\x1b\[(?:1;1|1)?H)"
)  # modes, reset, wiped
_MODES = re.compile(_MODE)


class Log:
    """An open transcript. Raises FileNotFoundError when there is none yet."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        status = os.fstat(self._fd)
        found = _DROPPED.match(os.pread(self._fd, 80, 0))
        self.missing = int(found[1]) if found else 0
        self._shift = (found.end() if found else 0) - self.missing
        self.end = status.st_size - self._shift
        self.inode = status.st_ino

    def read(self, place: int, count: int) -> bytes:
        """Up to `count` bytes from this place of the stream on; less only at the end."""
        data = b""
        while len(data) < count:
            more = os.pread(self._fd, count - len(data), place + len(data) + self._shift)
            if not more:
                break
            data += more
        return data

    def backwards(self, end: int, start: int) -> Iterator[tuple[int, bytes]]:
        """Blocks from `end` back to `start`, each with its place; neighbours share the bytes of one sequence."""
        start = max(start, self.missing)
        while end > start:
            begin = max(start, end - _BLOCK)
            yield begin, self.read(begin, min(end - begin + _LONGEST, self.end - begin))
            end = begin

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Entry:
    """A line of the shim's index: when the stream had come to `place`, and how the terminal was set."""

    place: int
    wall: float
    rows: int
    cols: int
    alternate: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Start:
    """Where a replay begins, and what was switched on there."""

    place: int
    alternate: bool = False
    hidden: bool = False


def read_index(folder: Path) -> list[Entry]:
    """The shim's index, oldest first; lines that are cut short or damaged are left out. Empty when there is none."""
    try:
        data = (folder / INDEX).read_bytes()
    except FileNotFoundError:
        return []
    found: list[Entry] = []
    for line in data.split(b"\n"):
        values = parse_entry(line)
        if values is not None and (not found or values[0] >= found[-1].place):
            found.append(Entry(*values))
    return found


def line_start(log: Log, place: int) -> int:
    """The first start of a line from `place` on, `place` itself when there is none near."""
    if place <= log.missing:
        return log.missing
    newline = log.read(place - 1, 65536).find(b"\n")
    return place + newline if newline >= 0 else place


def lines_back(log: Log, count: int) -> int:
    """Where the last `count` lines begin."""
    left = count + (log.end > log.missing and log.read(log.end - 1, 1) == b"\n")
    end = log.end
    while end > log.missing and left > 0:
        begin = max(log.missing, end - _BLOCK)
        block = log.read(begin, end - begin)
        at = len(block)
        while left > 0 and (at := block.rfind(b"\n", 0, at)) >= 0:
            left -= 1
        if left == 0:
            return begin + at + 1
        end = begin
    return log.missing if count > 0 else log.end


def place_at(log: Log, entries: Sequence[Entry], wall: float) -> int:
    """Where the stream was at this time, at the start of a line: never later than it was, so nothing is left out."""
    before = list(takewhile(lambda entry: entry.wall <= wall, entries))  # what follows a clock set back comes along
    return line_start(log, before[-1].place) if before else log.missing


def locate(log: Log, entries: Sequence[Entry]) -> Start:
    """Where to begin so that the end of the stream comes out right."""
    begin = max(log.missing, log.end - WINDOW)
    if begin == 0 and log.end <= TAIL:
        return Start(0)
    now = _state_at(log, entries, begin)
    data = log.read(begin, log.end - begin)
    fallback = line_start(log, max(log.missing, log.end - TAIL))
    at_fallback, primary, alternate = now, None, None
    for found in _EVENT.finditer(data):
        place = begin + found.start()
        if place < fallback:
            at_fallback = now
        if found[3]:
            now, primary, alternate = Start(place), Start(place), None
        elif found[4]:
            now = replace(now, place=place)
            primary, alternate = (primary, now) if now.alternate else (now, None)
        else:
            before, now = now, _switched(replace(now, place=place), found[1], found[2] == b"h")
            if now.alternate and not before.alternate:
                alternate = replace(before, place=place)
        if place < fallback:
            at_fallback = now
    chosen = alternate if now.alternate else primary
    if chosen is None or primary and primary.place >= fallback:
        chosen = primary if chosen is not None else None
    return chosen or replace(at_fallback, place=fallback)


def _switched(state: Start, numbers: bytes, on: bool) -> Start:
    for number in numbers.split(b";"):
        if number in (b"47", b"1047", b"1049"):
            state = replace(state, alternate=on)
        elif number == b"25":
            state = replace(state, hidden=not on)
    return state


def _state_at(log: Log, entries: Sequence[Entry], place: int) -> Start:
    """What was switched on at this place: the index says, and what came after its entry."""
    known = [entry for entry in entries if entry.place <= place]
    floor = known[-1].place if known else 0
    alternate = hidden = None
    for begin, block in log.backwards(place, max(floor, place - LOOKBACK)):
        for found in reversed(list(_MODES.finditer(block))):
            if begin + found.start() >= place:
                continue
            for number in found[1].split(b";"):
                if number in (b"47", b"1047", b"1049") and alternate is None:
                    alternate = found[2] == b"h"
                elif number == b"25" and hidden is None:
                    hidden = found[2] == b"l"
        if alternate is not None and hidden is not None:
            break
    last = known[-1] if known else Entry(0, 0, 0, 0)
    return Start(place, last.alternate if alternate is None else alternate, last.hidden if hidden is None else hidden)
