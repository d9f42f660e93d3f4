"""Text that keeps its width: what a worker, a file or a person wrote, as runs of exactly so many columns.

Pure. Whatever goes to the terminal passes through here, so that no control character reaches it and no character
whose width terminals do not agree on can push a border aside.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from looop.screens.pictures import Cell

MARKS_MAX = 2  # combining characters kept on one base


class Pen(NamedTuple):
    """How a cell of a worker's screen is drawn; colours are "", "idxN" or "#rrggbb"."""

    fg: str = ""
    bg: str = ""
    bold: bool = False
    italic: bool = False
    underline: bool = False
    inverse: bool = False


Style: TypeAlias = str | Pen
Run: TypeAlias = tuple[Style, str]
Line: TypeAlias = list[Run]


@lru_cache(maxsize=4096)
def width(char: str) -> int:
    """Columns of one character: 0 for marks, 1 or 2; -1 for what must not reach a terminal."""
    if not char.isprintable():
        return -1
    code = ord(char)
    if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x1F3FB <= code <= 0x1F3FF:
        return -1  # variation selectors and skin tones: some terminals let them change the width of what is before
    if 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF:
        return -1  # the second half of Hangul syllables in parts
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def safe(text: str) -> str:
    """One line without control characters; what cannot be shown is a space, tabs are two."""
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks = MARKS_MAX
    for char in text.replace("\t", "  "):
        columns = width(char)
        marks = marks + 1 if columns == 0 else 0
        if marks <= MARKS_MAX:
            out.append(char if columns >= 0 else " ")
    return "".join(out)


def columns(text: str) -> int:
    """Columns of a `safe` text."""
    return len(text) if text.isascii() else sum(width(char) for char in text)


def clip(text: str, cols: int) -> str:
    """A `safe` text, cut to at most `cols` columns."""
    if text.isascii():
        return text[:cols]
    used = 0
    for n, char in enumerate(text):
        used += width(char)
        if used > cols:
            return text[:n]
    return text


def short(text: str, cols: int) -> str:
    """Made safe, and with a mark where something was cut off."""
    text = safe(text)
    return text if columns(text) <= cols else clip(text, max(0, cols - 2)) + ".."[: max(0, cols)]


def fit(line: Iterable[Run], cols: int, rest: Style = "") -> Line:
    """The line with exactly `cols` columns; what is missing is filled in the style `rest`."""
    out: Line = []
    left = cols
    for style, text in line:
        text = clip(safe(text), left)
        if text:
            out.append((style, text))
            left -= columns(text)
        if not left:
            return out
    return [*out, (rest, " " * left)]


def wrap(text: str, cols: int, limit: int = 1000) -> list[str]:
    """Whole words where they fit, at most `limit` lines; never an empty list. Line breaks are kept."""
    cols = max(cols, 2)
    out: list[str] = []
    for raw in text.split("\n"):
        rest = safe(raw).rstrip()
        while columns(rest) > cols and len(out) < limit:
            head = clip(rest, cols)
            if (space := head.rfind(" ")) > cols // 2:
                head = head[: space + 1]
            out.append(head.rstrip())
            rest = rest[len(head) :].lstrip(" ")
        out.append(rest)
        if len(out) >= limit:
            break
    return out[:limit]


def drawn(cells: Sequence[Cell], left: int, cols: int) -> Line:
    """The columns `left` to `left + cols` of a screen's row, as runs of exactly `cols` columns."""
    out: list[list[Style | str]] = []
    place = left
    while place < min(left + cols, len(cells)):
        cell = cells[place]
        text, taken = _glyph(cell.char), 1
        if columns(text) == 2:
            half = place + 1 < len(cells) and cells[place + 1].char == "" and place + 1 < left + cols
            text, taken = (text, 2) if half else ("?", 1)
        pen = Pen(cell.fg, cell.bg, cell.bold, cell.italic, cell.underline, cell.inverse)
        if out and out[-1][0] == pen:
            out[-1][1] = f"{out[-1][1]}{text}"
        else:
            out.append([pen, text])
        place += taken
    line: Line = [(style, str(text)) for style, text in out]
    return line if place >= left + cols else [*line, ("", " " * (left + cols - place))]


@lru_cache(maxsize=4096)
def _glyph(char: str) -> str:
    """What is drawn for a cell: one base and its marks. Half of a character, and what has no width, is a space."""
    text = safe(char)
    base = next((c for c in text if width(c) > 0), "")
    return base + "".join([c for c in text if width(c) == 0][:MARKS_MAX]) if base else " "
