"""The panes as urwid widgets, and styles as urwid's attributes. The only module besides `app` that knows urwid.

Lines come from `panes` with their exact width and are given to the canvas as they are: urwid's own tables of
character widths differ between its versions, and from what terminals do.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import urwid
from urwid import str_util

from looop.tui import layout, panes
from looop.tui.state import Pane, State
from looop.tui.text import Line, Pen, Style

Made = tuple[list[Line], tuple[int, int] | None]
Maker = Callable[[int, int], Made]

# name, foreground, background, without colours
PALETTE = [
    ("head", "default,standout", "default", "standout"),
    ("head bad", "light red,standout", "default", "bold,standout"),
    ("foot", "default,standout", "default", "standout"),
    ("foot bad", "light red,standout", "default", "bold,standout"),
    ("line", "dark gray", "default", "default"),
    ("title", "default,bold", "default", "bold"),
    ("title focus", "dark cyan,bold,standout", "default", "bold,standout"),
    ("dim", "dark gray", "default", "default"),
    ("bad", "light red", "default", "bold"),
    ("edit", "default,bold", "default", "bold"),
    ("row", "default", "default", "default"),
    ("row bad", "light red", "default", "bold"),
    ("row wait", "brown", "default", "underline"),
    ("row dim", "dark gray", "default", "default"),
    ("row sel", "default,standout", "default", "standout"),
    ("row bad sel", "light red,standout", "default", "bold,standout"),
    ("row wait sel", "brown,standout", "default", "underline,standout"),
    ("row dim sel", "dark gray,standout", "default", "standout"),
]
BASIC = ("black", "dark red", "dark green", "brown", "dark blue", "dark magenta", "dark cyan", "light gray")
BRIGHT = (
    "dark gray", "light red", "light green", "yellow", "light blue", "light magenta", "light cyan", "white",
)  # fmt: skip
LEVELS = (0, 95, 135, 175, 215, 255)  # of the 6x6x6 cube of 256 colours


def depth(env: Mapping[str, str]) -> int:
    """How many colours to use: 1, 16, 256 or 2**24. NO_COLOR (no-color.org) and plain terminals have one."""
    term = env.get("TERM", "")
    if env.get("NO_COLOR") or term in ("", "dumb", "unknown") or term.startswith(("vt", "ansi-m")) or "mono" in term:
        return 1
    if env.get("COLORTERM") in ("truecolor", "24bit") or term.endswith("-direct"):
        return 1 << 24
    return 256 if "256" in term else 16


@lru_cache(maxsize=4096)
def attribute(pen: Pen, colours: int) -> Any:
    """A cell's style as urwid has it, None for a plain one."""
    words = [word for word, on in (
        ("bold", pen.bold), ("italics", pen.italic), ("underline", pen.underline), ("standout", pen.inverse),
    ) if on]  # fmt: skip
    foreground = colour(pen.fg, colours) if colours > 1 else "default"
    background = colour(pen.bg, colours) if colours > 1 else "default"
    if colours == 1 and pen.bg and "standout" not in words:
        words.append("standout")  # what stands out by its background alone still does
    if foreground == background == "default" and not words:
        return None
    return urwid.AttrSpec(",".join([foreground, *words]), background, max(colours, 16))


def colour(name: str, colours: int) -> str:
    """A colour in urwid's words, the nearest there is among so many."""
    if not name:
        return "default"
    if name.startswith("#"):
        if colours == 1 << 24:
            return name
        red, green, blue = (int(name[n : n + 2], 16) for n in (1, 3, 5))
        cube = [min(range(6), key=lambda n: abs(LEVELS[n] - part)) for part in (red, green, blue)]
        number = 16 + 36 * cube[0] + 6 * cube[1] + cube[2]
    else:
        number = int(name.removeprefix("idx"))
    if number < 16:
        return (BASIC + BRIGHT)[number]
    return f"h{number}" if colours >= 256 else (BASIC + BRIGHT)[_nearest(number)]


def _nearest(number: int) -> int:
    """One of the 16 for one of the 256: by which of its parts are strong."""
    if number >= 232:
        return (0, 8, 7, 15)[min(3, (number - 232) // 6)]
    parts = [(number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6]
    strong = [part >= max(2, max(parts) - 1) for part in parts]
    return sum(bit for bit, on in zip((1, 2, 4), strong, strict=True) if on) + (8 if max(parts) == 5 else 0)


class Lines(urwid.Widget):
    """A box that shows the lines its maker makes for its size, and a cursor."""

    _sizing = frozenset([urwid.BOX])
    _selectable = True

    def __init__(self, make: Maker, colours: int) -> None:
        super().__init__()
        self.make, self.colours = make, colours

    def keypress(self, size: tuple[int, int], key: str) -> str:
        return key

    def render(self, size: tuple[int, int], focus: bool = False) -> Any:
        lines, cursor = self.make(*size)
        return canvas(lines, cursor, size[0], self.colours)


def canvas(lines: list[Line], cursor: tuple[int, int] | None, cols: int, colours: int) -> Any:
    """Lines of exactly `cols` columns as they are."""
    utf8 = str_util.get_byte_encoding() == "utf8"
    texts, attributes = [], []
    for line in lines:
        parts = [_bytes(text, utf8) for _, text in line]
        texts.append(b"".join(parts))
        attributes.append([(_named(style, colours), len(part)) for (style, _), part in zip(line, parts, strict=True)])
    return urwid.TextCanvas(texts, attributes, cursor=cursor, maxcol=cols, check_width=False)


def _bytes(text: str, utf8: bool) -> bytes:
    return text.encode() if utf8 else text.replace("\u2500", "-").encode("ascii", "replace")


def _named(style: Style, colours: int) -> Any:
    return attribute(style, colours) if isinstance(style, Pen) else style or None


class Root(urwid.Widget):
    """The whole: first and last line, and between them the panes where `layout` puts them."""

    _sizing = frozenset([urwid.BOX])
    _selectable = True
    no_cache = ["render"]

    def __init__(
        self, state: State, facts: Callable[[], panes.Facts], press: Callable[[str], None], depth: int
    ) -> None:
        super().__init__()
        self.state, self.facts, self.press = state, facts, press
        self._cursors: dict[Pane, tuple[int, int] | None] = {}
        self.panes = {pane: Lines(self._maker(pane), depth) for pane in Pane}
        self.top = Lines(lambda cols, rows: ([panes.top(state, facts(), cols)], None), depth)
        self.foot = Lines(lambda cols, rows: ([panes.foot(state, cols)], None), depth)
        self.help = Lines(lambda cols, rows: (panes.help_lines(cols, rows), None), depth)
        self.small = Lines(lambda cols, rows: (panes.too_small(cols, rows), None), depth)
        self.rule = Lines(lambda cols, rows: ([[("line", "\u2502")]] * rows, None), depth)

    def keypress(self, size: tuple[int, int], key: str) -> None:
        self.press(key)

    def changed(self, *names: Pane) -> None:
        """Draw these panes anew; none is all of them."""
        for pane in names or tuple(Pane):
            self.panes[pane]._invalidate()
        for other in (self.top, self.foot):
            other._invalidate()

    def render(self, size: tuple[int, int], focus: bool = False) -> Any:
        cols, rows = size
        if not layout.fits(cols, rows):
            return urwid.CompositeCanvas(self.small.render(size))
        if self.state.help:
            middle: Any = self.help
        else:
            middle = self._arranged(layout.places(self.state, cols, rows))
        whole = urwid.Pile([(1, self.top), middle, (1, self.foot)], focus_item=1)
        return urwid.CompositeCanvas(whole.render(size, focus))

    def _arranged(self, places: list[layout.Place]) -> Any:
        """Piles and columns for the places; whoever shows a cursor has urwid's focus."""
        stacked = [(place.rows, self.panes[place.pane]) for place in places if place.col == 0]
        beside = [(place.rows, self.panes[place.pane]) for place in places if place.col]
        if not beside:
            return urwid.Pile(stacked, focus_item=self._focused(places, stacked))
        table, (_, main) = stacked
        side = urwid.Pile(beside, focus_item=self._focused(places, beside))
        left = next(place.cols for place in places if place.pane is Pane.SCREEN)
        aside = self.state.draft is not None or self.state.focus in (Pane.ASKS, Pane.JOURNAL)
        lower = urwid.Columns([(left, main), (1, self.rule), side], focus_column=2 if aside else 0)
        return urwid.Pile([table, lower], focus_item=1)

    def _focused(self, places: list[layout.Place], among: list[tuple[int, Lines]]) -> int:
        wanted = Pane.ASKS if self.state.draft is not None else Pane.SCREEN
        return next((n for n, (_, pane) in enumerate(among) if pane is self.panes[wanted]), 0)

    def _maker(self, pane: Pane) -> Maker:
        state = self.state

        def make(cols: int, rows: int) -> Made:
            facts = self.facts()
            if pane is Pane.FLEET:
                return panes.fleet(state, facts, cols, rows), None
            if pane is Pane.SCREEN:
                lines = panes.screen(state, facts, cols, rows)
                return lines, None if state.draft else panes.caret(state, facts.frame, cols, rows)
            if pane is Pane.ASKS:
                cursor = panes.answering(state.draft, cols, rows)[1] if state.draft else None
                return panes.asks(state, facts, cols, rows), cursor
            return panes.journal(state, facts, cols, rows), None

        return make
