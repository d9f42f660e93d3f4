"""What the person at the keyboard has chosen, and what each key does to it.

Pure. Only one thing a key can lead to changes anything outside of this process: `Send`, an answer that was typed
and confirmed.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from looop.tui.model import PULSE, AskView, Filter, Look, View
from looop.tui.table import Row

PAGE = 10
FATES = {  # what became of an answer
    "delivered": "answered, and the answer was read",
    "answered": "answered, not read yet",
    "stranded": "recorded, but who asked is gone (`looopctl answer --redispatch` starts it again with the answer)",
}


class Pane(StrEnum):
    """What can have the focus, in the order of Tab."""

    FLEET = "fleet"
    SCREEN = "screen"
    ASKS = "asks"
    JOURNAL = "journal"


PANES = (Pane.FLEET, Pane.SCREEN, Pane.ASKS, Pane.JOURNAL)


@dataclass(frozen=True)
class Send:
    """Answer an ask."""

    ask: str
    text: str


class Act(StrEnum):
    """What a key asks of the program beyond drawing again."""

    QUIT = "quit"
    SUSPEND = "suspend"
    REDRAW = "redraw"
    OLDER = "older"  # read more of the log


Result: TypeAlias = Act | Send | None


@dataclass
class Draft:
    """An answer being typed. `sending`: on its way, no key changes it."""

    ask: AskView
    text: str = ""
    cursor: int = 0
    error: str = ""
    sending: bool = False

    def press(self, key: str) -> Result:
        """One key; Enter sends what is there."""
        if self.sending:
            return None
        if key == "enter":
            if not self.text.strip():
                self.error = "an answer cannot be empty"
                return None
            self.sending, self.error = True, ""
            return Send(self.ask.id, self.text.strip())
        self.error = ""
        if not self.text and key in map(str, range(1, 10)) and int(key) <= len(self.ask.options):
            self._set(self.ask.options[int(key) - 1])
        elif len(key) == 1 and key.isprintable():
            self.text = self.text[: self.cursor] + key + self.text[self.cursor :]
            self.cursor += 1
        else:
            self._edit(key)
        return None

    def _set(self, text: str) -> None:
        self.text, self.cursor = text, len(text)

    def _edit(self, key: str) -> None:
        before, after = self.text[: self.cursor], self.text[self.cursor :]
        if key in ("backspace", "ctrl h"):
            self._set(before[:-1])
            self.text += after
        elif key in ("delete", "ctrl d"):
            self.text = before + after[1:]
        elif key == "ctrl u":
            self.text, self.cursor = after, 0
        elif key == "ctrl k":
            self.text = before
        elif key == "ctrl w":
            kept = before.rstrip().rpartition(" ")
            self._set(kept[0] + kept[1])
            self.text += after
        elif key in ("left", "ctrl b"):
            self.cursor = max(0, self.cursor - 1)
        elif key in ("right", "ctrl f"):
            self.cursor = min(len(self.text), self.cursor + 1)
        elif key in ("home", "ctrl a"):
            self.cursor = 0
        elif key in ("end", "ctrl e"):
            self.cursor = len(self.text)


@dataclass
class State:
    """Everything a key can change."""

    view: View
    within: float = 0.0  # --since, 0 = not given
    focus: Pane = Pane.FLEET
    selected: str = ""
    ask: str = ""
    zoom: bool = False
    help: bool = False
    log: bool = False
    draft: Draft | None = None
    said: str = ""  # one line for the person, until the next key
    pan: tuple[int, int] | None = None  # first row and column of the screen shown; None follows the cursor
    origin: tuple[int, int] = (0, 0)  # the same, as last drawn
    log_top: int | None = None  # first line shown; None follows the end
    journal_up: int = 0  # lines above the newest
    page: int = PAGE  # rows of the pane that scrolls, as last drawn
    rows: list[Row] = field(default_factory=list)
    asks: list[AskView] = field(default_factory=list)
    log_lines: int = 0
    journal_lines: int = 0

    def take(self, look: Look, rows: list[Row]) -> None:
        """New facts: what is selected stays selected as long as it is there."""
        self.rows, self.asks = rows, list(look.asks or ())
        self.journal_lines = len(look.journal)
        ids = [row.id for row in rows]
        if self.selected not in ids:
            self.select(ids[1] if len(ids) > 1 else PULSE)
        if self.ask not in [ask.id for ask in self.asks]:
            self.ask = next((ask.id for ask in self.asks if ask.answerable), self.asks[0].id if self.asks else "")

    def select(self, worker_id: str) -> None:
        """Look at another one, from its end."""
        if worker_id != self.selected:
            self.selected, self.pan, self.log_top = worker_id, None, None

    def press(self, key: str) -> Result:
        """One key, named as urwid names it."""
        if key == "ctrl c":
            return Act.QUIT
        if key == "ctrl z":
            return Act.SUSPEND
        if key == "ctrl l":
            return Act.REDRAW
        self.said = ""
        if self.draft is not None:
            if key == "esc":
                self.draft = None
                return None
            return self.draft.press(key)
        return self._command(key)

    def _command(self, key: str) -> Result:
        if key == "q":
            return Act.QUIT
        if self.help:
            self.help = False
            return None
        if key in ("?", "h", "f1"):
            self.help = True
        elif key == "esc":
            self.zoom = False
        elif key in ("tab", "shift tab"):
            self.focus = PANES[(PANES.index(self.focus) + (1 if key == "tab" else -1)) % len(PANES)]
        elif key == "l":
            self.log, self.log_top, self.pan = not self.log, None, None
        elif key == "v":
            self._next_filter()
        elif key == "a" or key == "enter" and self.focus is Pane.ASKS:
            self._answer()
        elif key in ("z", "enter"):
            if not self.zoom and self.focus is Pane.FLEET:
                self.focus = Pane.SCREEN
            self.zoom = not self.zoom
        else:
            return self._move(key)
        return None

    def _next_filter(self) -> None:
        choices = [Filter.LIVING, Filter.RECENT, Filter.ALL] if self.within else [Filter.LIVING, Filter.ALL]
        at = choices.index(self.view.filter) if self.view.filter in choices else 0
        self.view.filter = choices[(at + 1) % len(choices)]

    def _answer(self) -> None:
        """The ask that is selected, or with the focus elsewhere the selected worker's, or the oldest there is."""
        open_asks = [ask for ask in self.asks if ask.answerable]
        mine = [ask for ask in open_asks if ask.worker == self.selected]
        if self.focus is Pane.ASKS:
            mine = [ask for ask in self.asks if ask.id == self.ask]
        chosen = next(iter(mine or open_asks), None)
        if chosen is None:
            self.said = "nobody asks anything"
        elif not chosen.answerable:
            self.said = f"{chosen.id} is {chosen.state}"
        else:
            self.draft, self.ask, self.help = Draft(chosen), chosen.id, False

    def _move(self, key: str) -> Result:
        steps = {"up": -1, "down": 1, "k": -1, "j": 1, "page up": -self.page, "page down": self.page}
        far = {"home": -(1 << 30), "end": 1 << 30, "g": -(1 << 30), "G": 1 << 30}
        step = steps.get(key, far.get(key, 0))
        if self.focus is Pane.FLEET and key in ("page up", "page down"):
            return self._scroll(key, step)
        if self.focus is Pane.FLEET and step:
            self.select(_near([row.id for row in self.rows], self.selected, step))
        elif self.focus is Pane.ASKS and step:
            self.ask = _near([ask.id for ask in self.asks], self.ask, step)
        elif self.focus is Pane.JOURNAL and step:
            self.journal_up = max(0, min(self.journal_up - step, self.journal_lines - 1))
        elif self.focus is Pane.SCREEN:
            return self._scroll(key, step)
        return None

    def _scroll(self, key: str, step: int) -> Result:
        if self.log:
            last = max(0, self.log_lines - self.page)
            top = last if self.log_top is None else self.log_top
            self.log_top = max(0, top + step)
            if self.log_top >= last:
                self.log_top = None
            return Act.OLDER if step < 0 and top + step <= 0 else None
        row, col = self.pan or self.origin
        if key in ("left", "right"):
            self.pan = (row, max(0, col + (8 if key == "right" else -8)))
        elif key == "end":
            self.pan = None
        elif step:
            self.pan = (max(0, row + step), col)
        return None


def _near(ids: list[str], present: str, step: int) -> str:
    if not ids:
        return ""
    at = ids.index(present) if present in ids else 0
    return ids[max(0, min(len(ids) - 1, at + step))]
