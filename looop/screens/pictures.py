"""Rows of cells as text, coloured text and SVG. Pure; nothing but printable characters and known styles comes out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Cell:
    """One place on the screen. `char` is "" for the right half of a wide character. Colours: "", "idxN", "#rrggbb"."""

    char: str = " "
    fg: str = ""
    bg: str = ""
    bold: bool = False
    italic: bool = False
    underline: bool = False
    inverse: bool = False

    @property
    def blank(self) -> bool:
        """Whether nothing of it would be seen."""
        return self.char in ("", " ") and not (self.bg or self.underline or self.inverse)


Rows = Sequence[Sequence[Cell]]

_WIDTH, _HEIGHT, _BASE, _PAD = 9, 19, 14, 10  # of a place in an SVG, of its baseline, and around the whole
_FG, _BG = "#d8dee9", "#1b1f27"
_SIXTEEN = (
    "#3b4252", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d8dee9",
    "#6b7385", "#ff8b94", "#b5e08f", "#ffd68a", "#8cc8ff", "#e29bf7", "#7fdbe6", "#ffffff",
)  # fmt: skip


def plain(rows: Rows) -> str:
    """Each row as a line."""
    return "".join("".join(cell.char for cell in row).rstrip() + "\n" for row in rows)


def trimmed(rows: Rows) -> Rows:
    """Without the blank rows at the end."""
    end = len(rows)
    while end and all(cell.blank for cell in rows[end - 1]):
        end -= 1
    return rows[:end]


# -- ansi


def ansi(rows: Rows) -> str:
    """Each row as a line; it begins and ends with the terminal's own colours."""
    return "".join(ansi_row(row) + "\n" for row in rows)


def ansi_row(row: Sequence[Cell]) -> str:
    """A row up to its last visible cell, with a reset at the end when it has any style."""
    end = len(row)
    while end and row[end - 1].blank:
        end -= 1
    out, last = [], ""
    for cell in row[:end]:
        codes = _sgr(cell)
        if codes != last and cell.char:
            out.append(f"\x1b[0{codes}m")
            last = codes
        out.append(cell.char)
    return "".join(out) + ("\x1b[0m" if out else "")


def _sgr(cell: Cell) -> str:
    flags = ((cell.bold, 1), (cell.italic, 3), (cell.underline, 4), (cell.inverse, 7))
    codes = "".join(f";{number}" for on, number in flags if on)
    return codes + _sgr_colour(cell.fg, 38) + _sgr_colour(cell.bg, 48)


def _sgr_colour(colour: str, code: int) -> str:
    if not colour:
        return ""
    if colour.startswith("#"):
        red, green, blue = bytes.fromhex(colour[1:])
        return f";{code};2;{red};{green};{blue}"
    number = int(colour[3:])
    if number < 16:
        return f";{code - 8 + number if number < 8 else code + 52 + number - 8}"
    return f";{code};5;{number}"


# -- svg


class _Look(NamedTuple):
    fg: str
    bg: str
    bold: bool
    italic: bool
    underline: bool


def svg(rows: Rows, cursor: tuple[int, int, bool]) -> str:
    """A drawing that needs nothing else. Every run of text is told its length, so columns line up in any font."""
    cols = max(map(len, rows), default=0)
    width, height = cols * _WIDTH + 2 * _PAD, len(rows) * _HEIGHT + 2 * _PAD
    rows = _with_cursor(rows, cursor)
    body = "\n".join(line for y, row in enumerate(rows) for line in _svg_row(y, row))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<title>terminal, {cols} columns by {len(rows)} rows</title>\n"
        f'<rect width="{width}" height="{height}" rx="6" fill="{_BG}"/>\n'
        f'<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="15" fill="{_FG}"'
        f' xml:space="preserve">\n{body}\n</g>\n</svg>\n'
    )


def _with_cursor(rows: Rows, cursor: tuple[int, int, bool]) -> Rows:
    """The cursor is a place the other way round."""
    y, x, hidden = cursor
    if hidden or y >= len(rows):
        return rows
    row = list(rows[y])
    x -= 1 if not row[x].char and x else 0
    row[x] = replace(row[x], inverse=not row[x].inverse)
    return [*rows[:y], row, *rows[y + 1 :]]


def _look(cell: Cell) -> _Look:
    fg, bg = _rgb(cell.fg, cell.bold) or _FG, _rgb(cell.bg, False) or _BG
    if cell.inverse:
        fg, bg = bg, fg
    return _Look(fg, bg, cell.bold, cell.italic, cell.underline)


def _rgb(colour: str, bold: bool) -> str:
    if not colour.startswith("idx"):
        return colour
    number = int(colour[3:])
    if number < 16:
        return _SIXTEEN[number + 8 if bold and number < 8 else number]
    if number < 232:
        steps = (0, 95, 135, 175, 215, 255)
        red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
        return f"#{steps[red]:02x}{steps[green]:02x}{steps[blue]:02x}"
    return "#" + f"{8 + 10 * (number - 232):02x}" * 3


def _runs(row: Sequence[Cell]) -> Iterator[tuple[int, int, str, _Look]]:
    """Neighbours of one look: (first column, columns, text, look). What is not ASCII stands alone, its glyph may be
    wider or narrower in the font that is found."""
    places = []
    for x, cell in enumerate(row):
        if cell.char:
            wide = x + 1 < len(row) and not row[x + 1].char
            look = _look(cell)
            places.append((x, 1 + wide, cell.char, look, (look, -1 if cell.char.isascii() else x)))
    for _, group in groupby(places, key=lambda place: place[4]):
        found = list(group)
        yield found[0][0], sum(place[1] for place in found), "".join(place[2] for place in found), found[0][3]


def _svg_row(y: int, row: Sequence[Cell]) -> Iterator[str]:
    top = _PAD + y * _HEIGHT
    runs = list(_runs(row))
    for x, count, _, look in runs:
        if look.bg != _BG:
            yield (f'<rect x="{_PAD + x * _WIDTH}" y="{top}" width="{count * _WIDTH}" height="{_HEIGHT}"'
                   f' fill="{look.bg}"/>')  # fmt: skip
    for x, count, text, look in runs:
        if not look.underline:
            lead = len(text) - len(text.lstrip(" "))
            x, count, text = x + lead, count - lead - (len(text[lead:]) - len(text[lead:].rstrip(" "))), text.strip(" ")
        if text:
            yield (f'<text x="{_PAD + x * _WIDTH}" y="{top + _BASE}" textLength="{count * _WIDTH}"'
                   f' lengthAdjust="spacingAndGlyphs"{_svg_style(look)}>{escape(_xml(text))}</text>')  # fmt: skip


def _svg_style(look: _Look) -> str:
    found = {"fill": look.fg if look.fg != _FG else "", "font-weight": "bold" if look.bold else "",
             "font-style": "italic" if look.italic else "", "text-decoration": "underline" if look.underline else ""}
    return "".join(f' {key}="{escape(value)}"' for key, value in found.items() if value)


def _xml(text: str) -> str:
    """Characters XML does not know are shown as U+FFFD; blanks are kept by all readers when they do not break."""
    kept = "".join(c if c.isprintable() or c == " " else "\ufffd" for c in text)
    return kept.replace(" ", "\u00a0")
