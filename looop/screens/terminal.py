"""A terminal's memory: what `escapes` took apart, applied to pyte's grid. Pure; under every picture of a screen.

pyte moves the cursor, scrolls, inserts and deletes. What it has not, or has differently in its 0.8 releases, is here:
the alternate screen, erasing in the background's colour, wide characters at the margin, repeats, colours by number,
and a parser that no output can stop. The size of everything kept is bounded by the size of the screen.
"""

import collections
import copy
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyte
from pyte.screens import Char, wcwidth

from looop.screens.escapes import Kind, Part, Splitter, numbers

SIZE_MAX = 1000  # rows and columns; a larger terminal is shown in part
_COMBINED_MAX = 8  # characters in one cell

_ALTERNATE = {47, 1047, 1049}
_FLAGS = {1: "bold", 3: "italics", 4: "underscore", 7: "reverse", 21: "underscore"}
_UNFLAGS = {22: "bold", 23: "italics", 24: "underscore", 27: "reverse"}
_GRAPHICS = str.maketrans(
    "`abcdefghijklmnopqrstuvwxyz{|}~", "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·"
)  # the VT100's line drawing
PLAIN = Char(" ")


@lru_cache(maxsize=16384)
def _styled(style: Any, char: str) -> Any:
    return style._replace(data=char)


class _Ascii(dict[str, Any]):
    """The ASCII characters in one style, made when first used."""

    def __init__(self, style: Any) -> None:
        self.style = style

    def __missing__(self, char: str) -> Any:
        made = self[char] = self.style._replace(data=char)
        return made


_ascii = lru_cache(maxsize=512)(_Ascii)


class Terminal:
    """Feed it output; look at `grid.buffer`, `grid.cursor`, `modes`, `alternate`."""

    def __init__(self, rows: int, cols: int) -> None:
        self.grid: Any = pyte.Screen(_bounded(cols), _bounded(rows))
        self._splitter = Splitter()
        self._other: Any = collections.defaultdict(self.grid.buffer.default_factory)
        self._controls = {
            "\b": self._backspace, "\t": self._tab, "\n": self._linefeed, "\v": self._linefeed,
            "\f": self._linefeed, "\r": self.grid.carriage_return,
        }  # fmt: skip
        self._reset()

    def _reset(self) -> None:
        self.grid.reset()
        self._other.clear()
        self.alternate = False
        self.modes: set[int] = {7, 25}  # DEC private modes that are set
        self.inserting = False
        self._saved: dict[bool, Any] = {}
        self._charsets = ["B", "B"]
        self._shifted = False
        self._last = ""

    @property
    def rows(self) -> int:
        return int(self.grid.lines)

    @property
    def cols(self) -> int:
        return int(self.grid.columns)

    def feed(self, data: bytes) -> None:
        """Output as the terminal got it, cut anywhere. Never raises."""
        for part in self._splitter.feed(data):
            if part.kind is Kind.TEXT:
                self._text(part.body)
            elif part.kind is Kind.CONTROL:
                if part.final in "\x0e\x0f":
                    self._shifted = part.final == "\x0e"
                elif part.final in self._controls:
                    self._controls[part.final]()
            elif part.kind is Kind.ESCAPE:
                self._escape(part.final)
            elif part.kind is Kind.CSI:
                self._csi(part)

    def enter_alternate(self) -> None:
        """As a full-screen program does; for output whose beginning is not there any more."""
        self._alternate(True)

    def resize(self, rows: int, cols: int) -> None:
        """Rows go at the bottom below the cursor, then at the top; new ones come at the bottom."""
        rows, cols = _bounded(rows), _bounded(cols)
        if (rows, cols) == (self.rows, self.cols):
            return
        self._keep_cursor_inside()
        surplus = max(0, self.grid.cursor.y - rows + 1)
        for buffer, shift in ((self.grid.buffer, surplus), (self._other, 0)):
            kept = {y - shift: line for y, line in buffer.items() if 0 <= y - shift < rows}
            buffer.clear()
            for y, line in kept.items():
                for x in [x for x in line if x >= cols]:
                    del line[x]
                buffer[y] = line
        self.grid.lines, self.grid.columns, self.grid.margins = rows, cols, None
        self.grid.cursor.y -= surplus
        self.grid.cursor.x = min(self.grid.cursor.x, cols - 1)
        self.grid.tabstops = {x for x in self.grid.tabstops if x < cols} | set(range(8, cols, 8))
        self.grid.dirty.clear()

    # -- characters

    def _text(self, text: str) -> None:
        if self._charsets[self._shifted] == "0":
            text = text.translate(_GRAPHICS)
        at = 0
        while at < len(text):
            end = min(len(text), at + self.cols - self.grid.cursor.x)
            if end > at and not self.inserting and (run := text[at:end]).isascii():
                self._ascii(run)
            else:
                end = min(len(text), at + max(1, end - at))
                self._characters(text[at:end])
            at = end

    def _ascii(self, run: str) -> None:
        """Characters there is room for in the row."""
        grid = self.grid
        x, line, cells = grid.cursor.x, grid.buffer[grid.cursor.y], _ascii(grid.cursor.attrs)
        self._split_wide(line, x, x + len(run))
        for at, char in enumerate(run, x):
            line[at] = cells[char]
        grid.cursor.x = x + len(run)
        self._last = run[-1]

    def _characters(self, text: str) -> None:
        grid, wraps = self.grid, 7 in self.modes
        for char in text:
            width = 1 if " " <= char <= "~" else wcwidth(char)
            if width <= 0 or width > grid.columns:
                self._combine(char)
                continue
            if grid.cursor.x + width > grid.columns:
                if wraps:
                    grid.carriage_return()
                    grid.index()
                else:
                    grid.cursor.x = grid.columns - width
            if self.inserting:
                self._shift_right(width)
            x, line = grid.cursor.x, grid.buffer[grid.cursor.y]
            self._split_wide(line, x, x + width)
            line[x] = _styled(grid.cursor.attrs, char)
            if width == 2:
                line[x + 1] = _styled(grid.cursor.attrs, "")
            grid.cursor.x = x + width
            self._last = char

    def _split_wide(self, line: Any, start: int, end: int) -> None:
        """Of a wide character that is half overwritten nothing is left."""
        if start in line and line[start].data == "" and start > 0:
            line[start - 1] = _styled(line[start - 1], " ")
        if end in line and line[end].data == "":
            line[end] = _styled(line[end], " ")

    def _combine(self, char: str) -> None:
        x, y = self.grid.cursor.x - 1, self.grid.cursor.y
        line = self.grid.buffer[y] if y in self.grid.buffer else {}
        x -= 1 if x in line and line[x].data == "" else 0
        if x in line and unicodedata.combining(char) and len(line[x].data) < _COMBINED_MAX:
            line[x] = line[x]._replace(data=unicodedata.normalize("NFC", line[x].data + char))

    def _repeat(self, count: int = 1) -> None:
        if self._last:
            self._text(self._last * min(max(1, count), self.rows * self.cols))

    # -- the cursor

    def _keep_cursor_inside(self) -> None:
        """Behind the last column it waits to wrap; whatever moves it but a character takes it from the last one."""
        self.grid.cursor.x = min(self.grid.cursor.x, self.grid.columns - 1)

    def _backspace(self) -> None:
        self._keep_cursor_inside()
        self.grid.cursor_back()

    def _tab(self, count: int = 1) -> None:
        self._keep_cursor_inside()
        for _ in range(min(max(1, count), self.cols)):
            self.grid.tab()

    def _back_tab(self, count: int = 1) -> None:
        for _ in range(min(max(1, count), self.cols)):
            before = [stop for stop in self.grid.tabstops if stop < self.grid.cursor.x]
            self.grid.cursor.x = max(before, default=0)

    def _linefeed(self) -> None:
        self.grid.index()

    def _save(self) -> None:
        cursor = copy.copy(self.grid.cursor)
        self._saved[self.alternate] = (cursor, list(self._charsets), self._shifted, 6 in self.modes)

    def _restore(self) -> None:
        if self.alternate not in self._saved:
            self.grid.cursor_position()
            return
        cursor, charsets, self._shifted, origin = self._saved[self.alternate]
        self.grid.cursor = copy.copy(cursor)
        self._charsets = list(charsets)
        self._mode(6, origin, home=False)
        self.grid.cursor.y = min(self.grid.cursor.y, self.rows - 1)
        self.grid.cursor.x = min(self.grid.cursor.x, self.cols)

    # -- sequences

    def _escape(self, final: str) -> None:
        grid = self.grid
        plain = {"D": grid.index, "M": grid.reverse_index, "7": self._save, "8": self._restore, "c": self._reset,
                 "H": grid.set_tab_stop, "#8": self._align}  # fmt: skip
        if final in plain:
            plain[final]()
        elif final in "=>":  # the keypad sends sequences of its own, mode 66 says the same
            self._mode(66, final == "=")
        elif final == "E":
            grid.carriage_return()
            grid.index()
        elif len(final) == 2 and final[0] in "()":
            self._charsets["()".index(final[0])] = final[1]

    def _align(self) -> None:
        for y in range(self.rows):
            self._fill(y, 0, self.cols, Char("E"))
        self.grid.cursor_position()

    def _csi(self, part: Part) -> None:
        body, final = part.body, part.final
        if body[:1] and body[0] in "<=>?":
            if body[0] == "?" and final in "hl":
                for number in numbers(body):
                    self._mode(number, final == "h")
            elif body[0] == "?" and final in ("J", "K"):
                self._erase(final, numbers(body)[0])
            return
        if final == "m":
            self._style(body)
            return
        args = numbers(body)
        if final in _ON_GRID:
            self._keep_cursor_inside()
            if final in "LM":  # a row that is not there would be taken for one that stays
                for y in range(self.rows):
                    self.grid.buffer[y] = self.grid.buffer[y]
            getattr(self.grid, _ON_GRID[final])(args[0])
        elif final in "JKX":
            self._erase(final, args[0])
        elif final in "Hf":
            self.grid.cursor_position(*args[:2])
        elif final == "r":
            self._margins(args)
        elif final in "ST":
            self._scroll(final == "S", max(1, args[0]))
        elif final in "hl" and 4 in args:
            self.inserting = final == "h"
        elif final == "s":
            self._save()
        elif final == "!p":
            self._soft_reset()
        elif final in _OURS:
            getattr(self, _OURS[final])(*(args[:1] if final != "u" else ()))

    def _to_line(self, line: int = 0) -> None:
        top, bottom = (6 in self.modes and self.grid.margins) or (0, self.rows - 1)
        self.grid.cursor.y = min(top + max(1, line) - 1, bottom)

    def _shift_right(self, count: int = 1) -> None:
        self._replace_rest(lambda cells: [self._blank()] * min(max(1, count), len(cells)) + cells)

    def _shift_left(self, count: int = 1) -> None:
        self._replace_rest(lambda cells: cells[max(1, count) :])

    def _replace_rest(self, change: Callable[[list[Any]], list[Any]]) -> None:
        """Put other cells from the cursor on; as many as there is room for, and blanks behind them."""
        x, line = min(self.grid.cursor.x, self.cols - 1), self.grid.buffer[self.grid.cursor.y]
        self._split_wide(line, x, self.cols)
        cells = change([line.get(at, PLAIN) for at in range(x, self.cols)])[: self.cols - x]
        line.update(enumerate(cells + [self._blank()] * (self.cols - x - len(cells)), x))

    def _blank(self) -> Any:
        return PLAIN._replace(bg=self.grid.cursor.attrs.bg)

    def _margins(self, args: list[int]) -> None:
        top, bottom = args[0] or 1, (args[1] if len(args) > 1 else 0) or self.rows
        if top < min(bottom, self.rows):
            self.grid.set_margins(top, bottom)

    def _scroll(self, up: bool, count: int) -> None:
        grid = self.grid
        at = (grid.cursor.x, grid.cursor.y)
        top, bottom = grid.margins or (0, grid.lines - 1)
        grid.cursor.y = bottom if up else top
        for _ in range(min(count, bottom - top + 1)):
            (grid.index if up else grid.reverse_index)()
        grid.cursor.x, grid.cursor.y = at

    def _soft_reset(self) -> None:
        self.grid.margins = None
        self.inserting, self._shifted, self._charsets = False, False, ["B", "B"]
        self._mode(6, False, home=False)
        self.modes |= {7, 25}
        self.grid.cursor.attrs = PLAIN
        self._saved.pop(self.alternate, None)

    def _mode(self, number: int, on: bool, home: bool = True) -> None:
        if number in _ALTERNATE:
            if number == 1049 and on and not self.alternate:
                self._save()
            self._alternate(on)
            if number == 1049 and not on:
                self._restore()
        elif number == 1048:
            (self._save if on else self._restore)()
        if on:
            self.modes.add(number)
        else:
            self.modes.discard(number)
        if number == 6:  # the grid reckons with it
            (self.grid.mode.add if on else self.grid.mode.discard)(6 << 5)
            if home:
                self.grid.cursor_position()

    def _alternate(self, on: bool) -> None:
        if on == self.alternate:
            return
        self.grid.buffer, self._other = self._other, self.grid.buffer
        self.alternate = on
        if on:
            self.grid.buffer.clear()

    # -- erasing and style

    def _erase(self, final: str, how: int) -> None:
        x, y = min(self.grid.cursor.x, self.cols - 1), self.grid.cursor.y
        blank = self._blank()
        if final == "X":
            self._fill(y, x, min(self.cols, x + max(1, how)), blank)
            return
        if how in (0, 1, 2):
            self._fill(y, 0 if how else x, x + 1 if how == 1 else self.cols, blank)
        if final == "J" and how in (0, 1, 2):
            for row in range(y + 1 if how == 0 else 0, y if how == 1 else self.rows):
                self._fill(row, 0, self.cols, blank)

    def _fill(self, y: int, start: int, end: int, cell: Any) -> None:
        if start == 0 and end == self.cols and cell == PLAIN:
            self.grid.buffer.pop(y, None)
            return
        line = self.grid.buffer[y]
        self._split_wide(line, start, end)
        for x in range(start, end):
            line[x] = cell

    def _style(self, body: str) -> None:
        words = body.split(";")[:64]
        attrs = self.grid.cursor.attrs
        while words:
            word = words.pop(0)
            code, *rest = word.split(":")
            number = int(code[:4]) if code.isdecimal() else 0 if not code else -1
            if number in (38, 48, 58):
                source = rest if rest else words
                colour = _colour(source, packed=bool(rest))
                key = {38: "fg", 48: "bg"}.get(number)
                attrs = attrs._replace(**{key: colour}) if key and colour else attrs
            elif number == 0:
                attrs = PLAIN
            elif number in _FLAGS:
                attrs = attrs._replace(**{_FLAGS[number]: rest[:1] != ["0"]})
            elif number in _UNFLAGS:
                attrs = attrs._replace(**{_UNFLAGS[number]: False})
            else:
                attrs = _basic_colour(attrs, number)
        self.grid.cursor.attrs = attrs


_ON_GRID = {
    "A": "cursor_up", "B": "cursor_down", "C": "cursor_forward", "D": "cursor_back",
    "E": "cursor_down1", "F": "cursor_up1", "G": "cursor_to_column", "L": "insert_lines", "M": "delete_lines",
    "a": "cursor_forward", "e": "cursor_down", "g": "clear_tab_stop", "`": "cursor_to_column",
}  # fmt: skip
_OURS = {
    "@": "_shift_right", "P": "_shift_left", "I": "_tab", "Z": "_back_tab", "b": "_repeat", "d": "_to_line",
    "u": "_restore",
}  # fmt: skip


def _bounded(size: int) -> int:
    return max(1, min(size, SIZE_MAX))


def _basic_colour(attrs: Any, number: int) -> Any:
    for first, key, index in ((30, "fg", 0), (40, "bg", 0), (90, "fg", 8), (100, "bg", 8)):
        if first <= number < first + 8:
            return attrs._replace(**{key: f"idx{number - first + index}"})
    if number in (39, 49):
        return attrs._replace(**{"fg" if number == 39 else "bg": "default"})
    return attrs


def _colour(words: list[str], packed: bool) -> str:
    """The colour at the head of `words`, which is taken off; "" when it is none. 2:R:G:B has an empty place in it."""
    kind = words.pop(0) if words else ""
    need = {"5": 1, "2": 3}.get(kind, 0)
    if kind == "2" and packed and len(words) > 3:
        words.pop(0)
    values = [int(word or "0") if word.isdecimal() or not word else 256 for word in words[:need]]
    del words[:need]
    if not need or len(values) < need or max(values) > 255:
        return ""
    return f"idx{values[0]}" if need == 1 else "#{:02x}{:02x}{:02x}".format(*values)
