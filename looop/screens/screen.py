"""A worker's screen: a terminal's memory as pictures, and one that keeps in step with a transcript.

For `looopctl screenshot`, `attach` and `watch`. Nothing of the output it was fed leaves a Screen but printable
characters, and from `ansi` colours and styles. How much of a long transcript is replayed: see `replay`.
"""

import hashlib
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from pyte.screens import wcwidth

from looop.errors import StateError
from looop.paths import Paths
from looop.screens import pictures, replay
from looop.sessions import records
from looop.screens.pictures import Cell as Cell
from looop.screens.terminal import Terminal

_BLANK = Cell()
_CHUNK = 1 << 18


class Screen:
    """A terminal of `rows` by `cols`, at most 1000 each. `position` is for the owner: how far the stream was read."""

    def __init__(self, rows: int = 24, cols: int = 80) -> None:
        self._terminal = Terminal(rows, cols)
        self.position = 0

    @property
    def rows(self) -> int:
        return self._terminal.rows

    @property
    def cols(self) -> int:
        return self._terminal.cols

    @property
    def cursor(self) -> tuple[int, int, bool]:
        """(row, column, hidden), counted from 0."""
        place = self._terminal.grid.cursor
        return min(place.y, self.rows - 1), min(place.x, self.cols - 1), 25 not in self._terminal.modes

    @property
    def alternate(self) -> bool:
        """Whether a full-screen program has the alternate screen up."""
        return self._terminal.alternate

    @property
    def modes(self) -> frozenset[int]:
        """The DEC private modes that are set."""
        return frozenset(self._terminal.modes)

    def feed(self, data: bytes) -> None:
        """Take output as the terminal got it, cut anywhere. Never raises, whatever it holds."""
        self._terminal.feed(data)
        self.position += len(data)

    def resize(self, rows: int, cols: int) -> None:
        """The terminal has another size from now on."""
        self._terminal.resize(rows, cols)

    def assume(self, alternate: bool, hidden: bool) -> None:
        """Begin in the middle of a stream: what was switched on before that place."""
        if alternate:
            self._terminal.enter_alternate()
        if hidden:
            self._terminal.modes.discard(25)

    def row(self, number: int) -> list[Cell]:
        """The cells of a row, `cols` of them; a half of a wide character without the other one is a blank."""
        buffer, reversed_ = self._terminal.grid.buffer, 5 in self._terminal.modes
        blank = Cell(inverse=True) if reversed_ else _BLANK
        if number not in buffer:
            return [blank] * self.cols
        line, cells = buffer[number], list[Cell]()
        for x in range(self.cols):
            found = line.get(x)
            if found is None:
                cells.append(blank)
                continue
            char = found.data
            if char == "":
                char = "" if cells and _wide(cells[-1].char) else " "
            elif char > "~" and _wide(char) and (x + 1 >= self.cols or x + 1 not in line or line[x + 1].data != ""):
                char = " "
            cells.append(_cell(found, char, reversed_))
        return cells

    def _rows(self, trim: bool) -> pictures.Rows:
        found = [self.row(y) for y in range(self.rows)]
        return pictures.trimmed(found) if trim else found

    def plain(self, trim: bool = True) -> str:
        """Lines of text, each with a newline; `trim` leaves the blank rows at the end out."""
        return pictures.plain(self._rows(trim))

    def ansi(self, trim: bool = True) -> str:
        """The same with colours and styles; every line begins and ends in the terminal's own."""
        return pictures.ansi(self._rows(trim))

    def svg(self) -> str:
        """A drawing that needs nothing else: monospaced, dark, with the cursor."""
        return pictures.svg(self._rows(False), self.cursor)

    def to_json(self) -> dict[str, Any]:
        """Size, cursor, and the cells that are not blank. `screen_hash` is of the text, not of its colours."""
        row, col, hidden = self.cursor
        cells = []
        for y in range(self.rows):
            for x, cell in enumerate(self.row(y)):
                if cell.char and not cell.blank:
                    styles = {key: value for key, value in asdict(cell).items() if value not in ("", False)}
                    cells.append({"row": y, "col": x, **styles})
        return {
            "rows": self.rows,
            "cols": self.cols,
            "cursor": {"row": row, "col": col, "hidden": hidden},
            "alternate_screen": self.alternate,
            "screen_hash": hashlib.sha256(self.plain(trim=False).encode()).hexdigest()[:32],
            "bytes": self.position,
            "cells": cells,
        }


@lru_cache(maxsize=16384)
def _cell(found: Any, char: str, reversed_: bool) -> Cell:
    fg, bg = ("" if colour == "default" else colour for colour in (found.fg, found.bg))
    return Cell(char, fg, bg, found.bold, found.italics, found.underscore, found.reverse != reversed_)


def _wide(char: str) -> bool:
    return char > "~" and wcwidth(char[0]) == 2


class Follower:
    """A screen that keeps in step with a worker's transcript, its sizes and its truncation, and with the next session
    of that id. `screen` is another object when it had to begin anew. `behind`: not all there was has been read."""

    def __init__(self, paths: Paths, worker_id: str) -> None:
        self._folder = paths.session(worker_id)
        self._inode = -1
        self._invocation = ""
        self._entries: list[replay.Entry] = []
        self._stamp: tuple[int, ...] = ()
        self._size = (24, 80)
        self.behind = False
        self._learn()
        self.screen = Screen(*self._size)

    def _learn(self) -> str:
        """The generation and, where no index tells it, its size."""
        try:
            meta = records.read_meta(self._folder)
        except StateError:
            return self._invocation
        self._size = (meta.rows, meta.cols)
        return meta.invocation

    def advance(self, most: int | None = None) -> bool:
        """Read what is new, about `most` bytes of it at once; True when something has changed.

        A session without a transcript has a blank screen.

        Raises StateError when the transcript cannot be read.
        """
        try:
            with replay.Log(self._folder / "output.log") as log:
                fresh = self._is_another(log)
                self._look_at_index()
                if fresh:
                    self._begin(log)
                return self._read(log, most) or fresh
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateError(f"cannot read {self._folder / 'output.log'}: {error.strerror}") from error

    def _is_another(self, log: replay.Log) -> bool:
        """Whether what was read so far is of no use: another generation, or too much that is new."""
        place = self.screen.position
        if log.inode == self._inode:
            return not log.missing <= place <= log.end or log.end - place > replay.WINDOW
        invocation = self._learn()
        same = self._inode >= 0 and invocation == self._invocation and log.missing <= place <= log.end
        self._inode, self._invocation = log.inode, invocation
        return not same

    def _look_at_index(self) -> None:
        try:
            status = (self._folder / replay.INDEX).stat()
        except FileNotFoundError:
            self._entries = []
            return
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp != self._stamp:
            self._entries, self._stamp = replay.read_index(self._folder), stamp

    def _begin(self, log: replay.Log) -> None:
        start = replay.locate(log, self._entries)
        self.screen = Screen(*self._size_at(start.place))
        self.screen.position = start.place
        self.screen.assume(start.alternate, start.hidden)

    def _size_at(self, place: int) -> tuple[int, int]:
        known = [entry for entry in self._entries if entry.place <= place]
        return (known[-1].rows, known[-1].cols) if known else self._size

    def _read(self, log: replay.Log, most: int | None) -> bool:
        """Feed what is new, each stretch at the size the terminal had."""
        screen, changed, first = self.screen, False, self.screen.position
        while True:
            size = self._size_at(screen.position)
            if size != (screen.rows, screen.cols):
                before = (screen.rows, screen.cols)
                screen.resize(*size)
                changed = changed or before != (screen.rows, screen.cols)
            ends = [entry.place for entry in self._entries if screen.position < entry.place < log.end]
            data = log.read(screen.position, min(min(ends, default=log.end) - screen.position, _CHUNK))
            self.behind = bool(data) and most is not None and screen.position - first >= most
            if self.behind or not data:
                return changed
            screen.feed(data)
            changed = True
