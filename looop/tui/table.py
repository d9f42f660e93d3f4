"""The fleet's table: which rows in which order, what each cell says, which columns fit. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from looop.clock import Stamp, age
from looop.sessions.fleet import Session
from looop.tui.model import PULSE, Filter, Look, View, size
from looop.tui.text import Line, clip, safe

GAP = 2


@dataclass(frozen=True)
class Row:
    """One row of the table. `tone`: "", bad, wait, dim; `verify` has a tone of its own."""

    id: str
    cells: Mapping[str, str]
    tone: str = ""
    failed: bool = False  # its verify
    note: str = ""


@dataclass(frozen=True)
class Column:
    """`drop` says in which order columns go when there is no room; 0 = never."""

    key: str
    title: str
    width: int
    right: bool = False
    drop: int = 0


COLUMNS = (
    Column("health", "HEALTH", 12),
    Column("state", "STATE", 8),
    Column("idle", "IDLE", 4, True),
    Column("up", "UP", 4, True),
    Column("ask", "ASK", 4, True),
    Column("verify", "VERIFY", 7, drop=4),
    Column("cpu", "CPU%", 5, True, drop=3),
    Column("memory", "MEM", 5, True, drop=2),
    Column("tasks", "TASKS", 5, True, drop=1),
)


def rows(look: Look, view: View, percent: Mapping[str, float], now: Stamp) -> list[Row]:
    """The pulse, then the workers by uptime, youngest first; unknown uptimes last. Counts what `view` hides."""
    later = look.at.age(now)
    found = list(look.sessions or ())
    shown = [session for session in found if _shown(session, view, now)]
    view.hidden = len(found) - len(shown)
    shown.sort(key=lambda s: (s.uptime_s is None, _age(s, now) or 0.0, s.id))
    return [_pulse(look), *(_row(session, look, percent, later) for session in shown)]


def _age(session: Session, now: Stamp) -> float | None:
    """Since its start: among the dead the latest come first as well."""
    return session.started.age(now) if session.started else session.uptime_s


def _shown(session: Session, view: View, now: Stamp) -> bool:
    if session.alive or view.filter is Filter.ALL or session.id == view.asked:
        return True
    if view.filter is not Filter.RECENT or session.started is None or session.uptime_s is None:
        return False
    return session.started.age(now) - session.uptime_s <= view.within


def _pulse(look: Look) -> Row:
    if look.pulse == "unknown":
        return Row(PULSE, {"health": "unknown", "state": "unknown"}, "bad", note="; ".join(look.trouble))
    health = {"active": "up", "reloading": "up", "refreshing": "up", "inactive": "down", "failed": "down"}
    word = health.get(look.pulse, look.pulse)
    tone = "bad" if word == "down" else "" if word == "up" else "wait"
    note = look.status or ("`looopctl up` starts it" if word == "down" else "")
    return Row(PULSE, {"health": word, "state": look.pulse}, tone, note=note)


_TONES = {"stuck": "bad", "waiting-ask": "wait", "dead": "dim"}


def _row(session: Session, look: Look, percent: Mapping[str, float], later: float) -> Row:
    older = later if session.alive else 0.0
    state = f"exit {session.exit_code}" if session.exit_code is not None else session.state
    tone = _TONES.get(session.health, "")
    if session.state == "unknown":
        tone = "bad"
    elif not session.alive and not session.reason and (session.exit_code != 0 or session.result not in ("", "success")):
        tone = "bad"  # unless somebody stopped it
    cpu = percent.get(session.id) if session.alive and not look.stale else None
    cells = {
        "health": session.health + ("?" if look.stale and session.alive else ""),
        "state": "unknown" if look.stale and session.alive else state,
        "idle": age(None if session.idle_s is None else session.idle_s + older),
        "up": age(None if session.uptime_s is None else session.uptime_s + older),
        "ask": age(None if session.ask_age_s is None else session.ask_age_s + older),
        "verify": session.verify or "-",
        "cpu": "-" if cpu is None else f"{cpu:.0f}%" if cpu >= 9.95 else f"{cpu:.1f}%",
        "memory": size(session.memory_bytes if session.alive else None),
        "tasks": str(session.tasks) if session.alive and session.tasks is not None else "-",
    }
    note = session.problem or session.note or session.reason or session.signal or session.result
    return Row(session.id, cells, "dim" if look.stale else tone, session.verify == "fail", note)


@dataclass(frozen=True)
class Table:
    """Which columns there are at a width, and how wide the ids are."""

    cols: int
    ids: int
    columns: tuple[Column, ...]
    gap: int = GAP

    @classmethod
    def fitting(cls, shown: Iterable[Row], cols: int) -> "Table":
        """As many columns as fit; ids get what they need, but never less than 10 or more than half."""
        longest = max([len(row.id) for row in shown] + [10])
        for gap in (GAP, 1):
            for dropped in range(5 if gap == 1 else 1):
                columns = tuple(c for c in COLUMNS if not 0 < c.drop <= dropped)
                rest = cols - sum(column.width + gap for column in columns)
                if rest >= min(longest, 16) or dropped == 4:
                    return cls(cols, max(1, min(longest, rest, max(16, cols // 2))), columns, gap)
        raise AssertionError("the last choice always fits")

    def header(self) -> str:
        """The titles."""
        return self._join("ID", {column.key: column.title for column in self.columns})

    def line(self, row: Row, selected: bool) -> Line:
        """One row, in its tones; the note takes what is left."""
        mark = " sel" if selected else ""
        style = f"row {row.tone}".strip() + mark
        if row.id == PULSE:
            text = self._join(row.id, {**dict.fromkeys((c.key for c in self.columns), ""), **row.cells})
            head = self.ids + sum(self.gap + c.width for c in self.columns[:2])
            return [(style, text[:head] + " " * self.gap), (style, safe(row.note))]
        text = self._join(row.id, row.cells)
        start = self.ids
        for column in self.columns:
            if column.key == "verify" and row.failed:
                end = start + self.gap + column.width
                verdict = ("row bad" + mark, text[start:end])
                return [(style, text[:start]), verdict, (style, text[end:] + self._note(row))]
            start += self.gap + column.width
        return [(style, text + self._note(row))]

    def _note(self, row: Row) -> str:
        return " " * self.gap + safe(row.note)

    def _join(self, first: str, cells: Mapping[str, str]) -> str:
        parts = [short_id(first, self.ids).ljust(self.ids)]
        for column in self.columns:
            text = clip(safe(cells.get(column.key, "")), column.width)
            parts.append(text.rjust(column.width) if column.right else text.ljust(column.width))
        return (" " * self.gap).join(parts)


def short_id(text: str, cols: int) -> str:
    """An id in `cols` columns: its end tells more than its middle."""
    text = safe(text)
    if len(text) <= cols:
        return text
    tail = min(6, cols // 3)
    return text[: cols - tail - 2] + ".." + text[-tail:] if cols > 8 else text[:cols]
