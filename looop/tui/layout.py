"""Where the panes are at each size. Pure.

Wide terminals have the asks and the journal beside the screen, narrow ones below it in one place: the one with the
focus is seen, else the asks while there are any.
"""

from dataclasses import dataclass

from looop.tui.model import NEED, AskView
from looop.tui.state import Pane, State
from looop.tui.text import wrap

WIDE = (120, 24)


@dataclass(frozen=True)
class Place:
    """A pane's corner and size."""

    pane: Pane
    col: int
    row: int
    cols: int
    rows: int


def fits(cols: int, rows: int) -> bool:
    """Whether there is anything to lay out."""
    return cols >= NEED[0] and rows >= NEED[1]


def places(state: State, cols: int, rows: int) -> list[Place]:
    """The panes between the first and the last line, top to bottom, left to right; they leave no gap."""
    body = rows - 2
    if state.zoom and state.draft is None:
        return [Place(state.focus, 0, 1, cols, body)]
    if cols >= WIDE[0] and rows >= WIDE[1]:
        return _beside(state, cols, body)
    lower = max(4, min(12, rows // 4))
    if state.draft is not None:
        lower = max(lower, min(body // 2, 4 + _lines(state.draft.ask, cols)))
    table = 1 + min(max(2, len(state.rows)), max(3, (body - lower) // 2 - (1 if state.draft else 0)))
    pane = _lower(state)
    return [
        Place(Pane.FLEET, 0, 1, cols, table),
        Place(Pane.SCREEN, 0, 1 + table, cols, body - table - lower),
        Place(pane, 0, 1 + body - lower, cols, lower),
    ]


def _lines(ask: AskView, cols: int) -> int:
    """What a question takes with its options."""
    return len(wrap(ask.prompt, cols, limit=20)) + (1 if ask.options else 0)


def _lower(state: State) -> Pane:
    if state.draft is not None:
        return Pane.ASKS
    if state.focus in (Pane.ASKS, Pane.JOURNAL):
        return state.focus
    return Pane.ASKS if state.asks else Pane.JOURNAL


def _beside(state: State, cols: int, body: int) -> list[Place]:
    table = 1 + min(max(2, len(state.rows)), max(3, body // 3))
    side = max(48, min(80, cols // 3))
    rest = body - table
    asks = max(6, min(rest // 2, 2 + 2 * len(state.asks)))
    if state.draft is not None:
        asks = max(asks, min(rest // 2, 4 + _lines(state.draft.ask, side)))
    left = cols - side - 1
    return [
        Place(Pane.FLEET, 0, 1, cols, table),
        Place(Pane.SCREEN, 0, 1 + table, left, rest),
        Place(Pane.ASKS, left + 1, 1 + table, side, asks),
        Place(Pane.JOURNAL, left + 1, 1 + table + asks, side, rest - asks),
    ]
