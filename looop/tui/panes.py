"""What each pane shows, as lines of exactly its width. Pure: state and facts in, lines out.

A pane's first line is its title bar (the table's its column titles). `State.origin` and `State.page` are noted on
the way: how far a key scrolls depends on what was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from looop.clock import age
from looop.screens.pictures import Cell
from looop.tui.model import NEED, PULSE, AskView, Look, headline
from looop.tui.table import Row, Table
from looop.tui.state import Draft, Pane, State
from looop.tui.text import Line, Style, clip, columns, drawn, fit, safe, short, wrap

KEYS = (
    "Tab pane  up/down select  a answer  l log  z zoom  v ended ones  ? help  q quit",
    "Tab pane  a answer  l log  z zoom  v ended  ? help  q quit",
)
HELP = """\
Tab, Shift-Tab   next pane: fleet, screen, asks, journal
up, down         select a worker or an ask; scroll the journal or the screen
PgUp, PgDn       scroll the screen or the log of the selected worker
left, right      move over a screen that is wider than its pane
Home, End        oldest, newest (End follows the cursor again)
a                answer the question that is selected, or the selected worker's
                 there: a number takes that option, anything else is text;
                 Enter sends it, Esc leaves, Ctrl-U empties the line
l                the worker's screen, or its log
z, Enter         the pane alone, or all panes
v                also show workers that have ended
Ctrl-L           draw everything again
q, Ctrl-C        quit; nothing stops with it

Nothing here changes anything but an answer you send.

HEALTH  busy; waiting-ask: it asks you; stuck: no output and no processor time
        for long; dead: ended. A ? after it: systemd is silent, it was the last.
"""


@dataclass(frozen=True)
class Frame:
    """A worker's screen at one moment. `cursor`: row, column, hidden."""

    worker: str
    rows: Sequence[Sequence[Cell]]
    cols: int
    cursor: tuple[int, int, bool] = (0, 0, True)


@dataclass(frozen=True)
class Facts:
    """What is drawn besides the state.

    `log`: plain lines. `trouble`: why there is no frame. `notes`: for the first line.
    """

    look: Look | None = None
    frame: Frame | None = None
    log: Sequence[str] = ()
    trouble: str = ""
    notes: Sequence[str] = field(default_factory=list)


def bar(title: str, cols: int, focused: bool, right: str = "") -> Line:
    """A title bar."""
    text = f" {short(title, max(0, cols - 4))} "
    end = f" {right} " if right and columns(text) + len(right) + 6 <= cols else ""
    fill = max(0, cols - 2 - columns(text) - columns(end))
    style = "title focus" if focused else "title"
    return fit([("line", "\u2500\u2500"), (style, text), ("line", "\u2500" * fill), ("dim", end)], cols, "line")


def box(lines: Sequence[Line], cols: int, rows: int) -> list[Line]:
    """Exactly `rows` lines of `cols` columns."""
    return [fit(line, cols) for line in lines[:rows]] + [fit([], cols)] * (rows - len(lines))


def top(state: State, facts: Facts, cols: int) -> Line:
    """The first line of all."""
    trouble = "; ".join([*(facts.look.trouble if facts.look else ()), *facts.notes])
    line: Line = [("head", " looop  "), ("head", headline(facts.look, state.view))]
    if trouble:
        line += [("head", "  "), ("head bad", f" {safe(trouble)} ")]
    return fit(line, cols, "head")


def foot(state: State, cols: int) -> Line:
    """The last line: keys, or one word to the person."""
    if state.draft is not None:
        options = f"1-{min(9, len(state.draft.ask.options))} option  " if state.draft.ask.options else ""
        return fit([("foot", f" {options}Enter send  Esc leave  Ctrl-U empty the line")], cols, "foot")
    keys = next((text for text in KEYS if len(text) < cols), KEYS[-1])
    return fit([("foot bad", f" {state.said} ") if state.said else ("foot", " " + keys)], cols, "foot")


def fleet(state: State, facts: Facts, cols: int, rows: int) -> list[Line]:
    """The table; the pulse stays in the first row, whatever is scrolled."""
    known = facts.look is not None and facts.look.sessions is not None
    table = Table.fitting(state.rows, cols)
    pinned, workers = state.rows[:1], state.rows[1:]
    room = max(0, rows - 1 - len(pinned))
    first = _window([row.id for row in workers], state.selected, room)
    shown = workers[first : first + room]
    header: Line = [("title focus" if state.focus is Pane.FLEET else "title", table.header())]
    if len(shown) < len(workers):
        place = f" {first + 1}-{first + len(shown)} of {len(workers)} "
        header = [*fit(header, max(0, cols - len(place))), ("title", place)]
    lines = [fit(header, cols, header[0][0]), *(_row(table, row, state, cols) for row in [*pinned, *shown])]
    if not workers:
        lines.append([("dim", "no workers" if known else "the workers are not known")])
    return box(lines, cols, rows)


def _row(table: Table, row: Row, state: State, cols: int) -> Line:
    chosen = row.id == state.selected
    line = table.line(row, chosen)
    return fit(line, cols, line[-1][0])


def _window(ids: Sequence[str], chosen: str, room: int) -> int:
    """Where to begin so that the chosen one is among `room` shown."""
    at = ids.index(chosen) if chosen in ids else 0
    return max(0, min(at - room // 2, len(ids) - room))


def screen(state: State, facts: Facts, cols: int, rows: int) -> list[Line]:
    """The selected worker's screen, or its log."""
    room = max(0, rows - 1)
    state.page = max(1, room - 1)
    focused, name = state.focus is Pane.SCREEN, state.selected
    if name == PULSE:
        return [bar("pulse", cols, focused), *box(_pulse(facts, cols), cols, room)]
    if state.log:
        end = "follows" if state.log_top is None else "End follows again"
        return [bar(f"{name}: log", cols, focused, end), *box(_log(state, facts.log, cols, room), cols, room)]
    frame = facts.frame
    if frame is None or frame.worker != name:
        reason = facts.trouble or "reading its transcript ..."
        return [bar(name, cols, focused), *box([[("dim", " " + safe(reason))]], cols, room)]
    origin = _origin(state, frame, cols, room)
    part = "" if cols >= frame.cols and room >= len(frame.rows) else f"from {origin[0] + 1},{origin[1] + 1}"
    title = bar(f"{name}: screen {frame.cols}x{len(frame.rows)}", cols, focused, part)
    shown = [drawn(cells, origin[1], cols) for cells in frame.rows[origin[0] : origin[0] + room]]
    return [title, *shown, *[fit([], cols)] * (room - len(shown))]


def _origin(state: State, frame: Frame, cols: int, room: int) -> tuple[int, int]:
    """The first row and column shown: as chosen, or such that the cursor is seen."""
    height, wide = max(0, len(frame.rows) - room), max(0, frame.cols - cols)
    if state.pan is not None:
        row, col = state.pan
    else:
        row, col, hidden = frame.cursor
        row, col = (0, 0) if hidden else (max(0, row - room + 1), 0 if col < cols else col - cols * 3 // 4)
    state.origin = (min(row, height), min(col, wide))
    if state.pan is not None:
        state.pan = state.origin
    return state.origin


def caret(state: State, frame: Frame | None, cols: int, rows: int) -> tuple[int, int] | None:
    """Where the worker's cursor is in the pane (column, row), None when it is not there to be seen."""
    if frame is None or frame.worker != state.selected or state.log or frame.cursor[2] or state.selected == PULSE:
        return None
    row, col = frame.cursor[0] - state.origin[0], frame.cursor[1] - state.origin[1]
    return (col, row + 1) if 0 <= row < rows - 1 and 0 <= col < cols else None


def _pulse(facts: Facts, cols: int) -> list[Line]:
    look = facts.look
    if look is None:
        return []
    lines: list[Line] = [[("", f" looop.service is {look.pulse}")]]
    if look.status:
        lines += [[("", " " + text)] for text in wrap(look.status, cols - 2)]
    lines += [[("bad", " " + text)] for trouble in look.trouble for text in wrap(trouble, cols - 2)]
    return lines


def _log(state: State, log: Sequence[str], cols: int, room: int) -> list[Line]:
    """Wrapped lines: those at the end, or from `log_top` on."""
    state.log_lines = len(log)
    if not log:
        return [[("dim", " nothing was said yet")]]
    if state.log_top is not None:
        lines = [part for text in log[state.log_top : state.log_top + room] for part in wrap(text, cols)]
        return [[("", part)] for part in lines[:room]]
    lines = [part for text in log[-room:] for part in wrap(text, cols)]
    return [[("", part)] for part in lines[-room:]]


def journal(state: State, facts: Facts, cols: int, rows: int) -> list[Line]:
    """The audit journal, newest last."""
    room, look = max(0, rows - 1), facts.look
    entries = look.journal if look else ()
    entries = entries[: len(entries) - state.journal_up] if state.journal_up else entries
    lines = [part for text in entries[-room:] for part in _entry(text, cols)] if room else []
    above = f"{state.journal_up} newer" if state.journal_up else ""
    title = bar("journal", cols, state.focus is Pane.JOURNAL, above)
    return [title, *box([[("", part)] for part in lines[-room:]], cols, room)]


def _entry(text: str, cols: int) -> list[str]:
    first, *more = wrap(text.removeprefix("- "), cols)
    rest = " ".join(more)
    return [first, *(("  " + part) for part in wrap(rest, cols - 2) if part)] if rest else [first]


def asks(state: State, facts: Facts, cols: int, rows: int) -> list[Line]:
    """The open questions, or the one being answered."""
    if state.draft is not None:
        return answering(state.draft, cols, rows)[0]
    room, look = max(0, rows - 1), facts.look
    found = state.asks
    if look is None or look.asks is None:
        lines: list[Line] = [[("dim", " not known")]]
    else:
        lines = [] if found else [[("dim", " nobody asks anything")]]
    every = 2 if len(found) * 2 <= room else 1
    first = _window([ask.id for ask in found], state.ask, max(1, room // every))
    spare = max(0, room - every * len(found))  # for all of the chosen one's words
    for ask in found[first:]:
        lines += _ask(ask, ask.id == state.ask, state, cols, every == 2, spare)
    title = f"asks: {len(found)}" if found else "asks"
    return [bar(title, cols, state.focus is Pane.ASKS, "a answers" if found else ""), *box(lines, cols, room)]


def _ask(ask: AskView, chosen: bool, state: State, cols: int, two: bool, spare: int) -> list[Line]:
    marked = chosen and state.focus is Pane.ASKS
    words = {"pending": "", "answered": "answered, not picked up yet", "unknown": "", "live": ""}
    word = words.get(ask.state, ask.state)
    style: Style = "row wait" if ask.answerable and ask.state != "stranded" else "row dim"
    style = f"{style} sel" if marked else style
    head = f"{ask.id} {age(ask.age_s):>3} " + (f"({word}) " if word else "")
    prompt = safe(" ".join((ask.trouble or ask.prompt).split()))
    text = f"{'>' if chosen else ' '}{head}{prompt}"
    parts = wrap(text, cols, limit=1 + spare) if chosen and spare else [short(text, cols)]
    lines = [fit([(style, part)], cols, style) for part in parts]
    if not two:
        return lines
    said = f"   answered: {ask.answer}" if ask.answer else "   " + options(ask)
    return [*lines, fit([("dim", short(said, cols))], cols)]


def options(ask: AskView) -> str:
    """The options as one line, numbered as their keys."""
    return "  ".join(f"{n} {safe(option)}" if n < 10 else safe(option) for n, option in enumerate(ask.options, 1))


def answering(draft: Draft, cols: int, rows: int) -> tuple[list[Line], tuple[int, int]]:
    """The question, its options, the line being typed; and where the cursor is (column, row)."""
    ask, room = draft.ask, max(1, rows - 1)
    below: list[Line] = []
    if ask.options:
        below += [[("row wait", part)] for part in wrap(options(ask), cols, limit=max(1, room // 3))]
    line, place = _field(draft, cols)
    state = "sending ..." if draft.sending else draft.error
    if state:
        below += [[("dim" if draft.sending else "bad", part)] for part in wrap(state, cols, limit=2)]
    if ask.state == "stranded":
        below += [[("bad", short("who asked is gone: nobody will read the answer", cols))]]
    below = below[: max(0, room - 2)] + [line]
    left = room - len(below)
    text = wrap(ask.prompt + (f"\n({ask.reference})" if ask.reference else ""), cols)
    if len(text) > left:
        text = text[: max(0, left - 1)] + ["..."] * min(1, left)
    question: list[Line] = [[("", part)] for part in text]
    lines = question + below
    title = bar(f"answer {ask.id}", cols, True)
    return [title, *box(lines, cols, room)], (place, min(len(lines), room))


def _field(draft: Draft, cols: int) -> tuple[Line, int]:
    """The line being typed, scrolled so that the cursor is in it."""
    room = max(1, cols - 3)
    before = safe(draft.text[: draft.cursor])
    while columns(before) > room:
        before = before[1:]
    after = clip(safe(draft.text[draft.cursor :]), room - columns(before))
    return [("edit", "> "), ("edit", before + after)], 2 + columns(before)


def help_lines(cols: int, rows: int) -> list[Line]:
    """The keys, in full."""
    return [bar("keys", cols, True, "any key leaves"), *box([[("", t)] for t in HELP.splitlines()], cols, rows - 1)]


def too_small(cols: int, rows: int) -> list[Line]:
    """What is said in place of everything else."""
    need = f"needs {NEED[0]}x{NEED[1]}"
    said = ["looopctl watch", need, f"this is {cols}x{rows}", "q quits"]
    lines: list[Line] = [[("", clip(text, cols))] for text in said]
    return box(lines, cols, rows)
