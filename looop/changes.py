"""What is new since a cursor: the cursor itself, and the comparison of what was told with what is.

Used by the verbs `wait` and `state`; reads the journal and nothing else, writes nothing. A cursor is text that holds
everything (a short hash for each item, a place in the journal, what was told of the pulse), so it outlives reboots
and pulses, and a client may keep as many as it likes. What is not known right now is neither changed nor gone: the
cursor keeps what it says of it.
"""

import base64
import binascii
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from looop.errors import StateError, UsageError
from looop.jsonutil import JsonError, as_object, canonical, get_int, get_object, get_str

MAPPED = ("asks", "claims", "goals", "playbook", "schedules", "snapshots", "workers")
CATEGORIES = tuple(sorted((*MAPPED, "journal")))
ITEMS_MAX = 2000  # past this a category is one digest in the cursor
CURSOR_BYTES = 96 * 1024  # one word of a command line ends at 128 KiB (execve(2))
JOURNAL_BYTES = 8 * 1024 * 1024
TAIL_LINES = 20
_PREFIX = "c1."
_CHECKED = 1024
_UNPACKED = 8 * 1024 * 1024

Known: TypeAlias = dict[str, str] | str  # item -> hash, or one digest of all of them


def short(text: str) -> str:
    """8 characters that stand for `text`."""
    return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(errors="replace"), digest_size=6).digest()).decode()


@dataclass(frozen=True)
class Item:
    """`key` is what a change is judged by: identities and states, no ages. `shown` is what a reader is given.

    With `sure` false the item is there, but its state could not be learned.
    """

    key: str
    shown: Any
    sure: bool = True


@dataclass(frozen=True)
class News:
    """What of one category is new: objects, ids of what is gone, and what else has to be said."""

    changed: list[Any]
    gone: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"changed": self.changed, "gone": self.gone, **self.notes}


def collapse(known: Known) -> str:
    """One digest of a whole category."""
    return known if isinstance(known, str) else short(canonical(sorted(known.items())))


def compare(known: Known, items: Mapping[str, Item]) -> tuple[Known, News | None]:
    """What a cursor is to know after this look, and what is new in it (None: nothing)."""
    if isinstance(known, str):
        if not all(item.sure for item in items.values()):
            return known, None
        after = {name: short(item.key) for name, item in items.items()}
        if collapse(after) == known:
            return after, None
        return after, News([items[name].shown for name in sorted(items)], notes={"collapsed": True})
    after = {
        name: known[name] if name in known and not item.sure else short(item.key)
        for name, item in sorted(items.items())
    }  # fmt: skip
    changed = [items[name].shown for name, value in after.items() if known.get(name) != value]
    gone = sorted(known.keys() - after.keys())
    return after, News(changed, gone) if changed or gone else None


# -- the journal


@dataclass(frozen=True)
class Mark:
    """A place in journal.md: `offset`, a hash of the bytes before it, and one of journal.md.1 as it was then."""

    offset: int = 0
    check: str = ""
    rotated: str = ""


NOWHERE = Mark(offset=2**62)  # a journal that could not be read: whatever it is by then, its tail is told


class _File:
    """One of the two journals, open; one that is not there is empty."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.file: BinaryIO | None = None
        try:
            self.file = stack.enter_context(path.open("rb"))
            self.size = os.fstat(self.file.fileno()).st_size
        except FileNotFoundError:
            self.size = 0
        except OSError as error:
            raise StateError(f"cannot read {path}: {error.strerror}") from error

    def read(self, start: int, end: int) -> bytes:
        try:
            return b"" if self.file is None else os.pread(self.file.fileno(), max(0, end - start), start)
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}") from error

    def check(self, offset: int) -> str:
        data = self.read(max(0, offset - _CHECKED), offset)
        return short(data.decode("latin-1")) if data else ""

    def fits(self, mark: Mark) -> bool:
        return self.size >= mark.offset and self.check(mark.offset) == mark.check

    @property
    def complete(self) -> int:
        """Where the last finished line ends."""
        for span in (65536, self.size):
            end = self.read(max(0, self.size - span), self.size)
            if b"\n" in end:
                return self.size - len(end) + end.rfind(b"\n") + 1
        return 0

    @property
    def identity(self) -> str:
        return "" if self.file is None else f"{self.size}.{self.check(self.size)}"

    def replaced(self) -> bool:
        """Whether another file stands at the path by now."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return self.file is not None
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}") from error
        return self.file is None or os.fstat(self.file.fileno()).st_ino != found.st_ino


def journal(path: Path, rotated: Path, mark: Mark | None) -> tuple[Mark, News | None]:
    """The lines since `mark`, over a rotation too; none without a mark. Raises StateError.

    A file that was rewritten or rotated twice is said to be: `rewritten`, with its last lines.
    """
    for _ in range(5):  # it may be rotated while it is read
        with ExitStack() as stack:
            now, before = _File(path, stack), _File(rotated, stack)
            data, notes = _unread(now, before, mark)
            offset = now.complete
            after = Mark(offset, now.check(offset), before.identity)
            if not now.replaced():
                break
    if mark is None:
        return after, None
    lines = [line for line in data.decode(errors="replace").split("\n") if line.strip()]
    if notes.get("rewritten"):
        lines = lines[-TAIL_LINES:]
    return after, News(lines, notes=notes) if lines or notes else None


def told(path: Path, mark: Mark, lines: int = TAIL_LINES) -> list[str]:
    """The last lines before `mark`. Raises StateError."""
    with ExitStack() as stack:
        data = _File(path, stack).read(max(0, mark.offset - 65536), mark.offset)
    return data.decode(errors="replace").splitlines()[-lines:]


def _unread(now: _File, before: _File, mark: Mark | None) -> tuple[bytes, dict[str, Any]]:
    if mark is None:
        return b"", {}
    notes: dict[str, Any] = {}
    if before.identity != mark.rotated and before.fits(mark):
        data = before.read(mark.offset, before.size)
        data += b"" if data.endswith(b"\n") or not data else b"\n"
        data += _lines(now, 0)
    elif now.fits(mark):
        data = _lines(now, mark.offset)
    else:
        data = _lines(now, max(0, now.size - _CHECKED * 64))
        notes["rewritten"] = True
    if len(data) > JOURNAL_BYTES:
        notes["left_out_bytes"] = len(data) - JOURNAL_BYTES
        data = data[-JOURNAL_BYTES:]
    return data, notes


def _lines(file: _File, start: int) -> bytes:
    """What is complete from `start` on."""
    data = file.read(start, file.size)
    return data[: data.rfind(b"\n") + 1]


# -- the cursor


@dataclass(frozen=True)
class Cursor:
    """What one reader has been told. `home` stands for the data directory, `pulse` is "up" or "down".

    A category that is missing in `known`, or a `journal` of None, has never been told of.
    """

    home: str
    pulse: str = "up"
    known: Mapping[str, Known] = field(default_factory=dict)
    journal: Mark | None = None

    def encode(self) -> str:
        """As text: URL-safe, one word, less than 128 KiB whatever there is."""
        known = {name: collapse(it) if len(it) > ITEMS_MAX else it for name, it in self.known.items()}
        while len(text := self._text(known)) > CURSOR_BYTES:
            largest = max(known, key=lambda name: 0 if isinstance(known[name], str) else len(canonical(known[name])))
            if isinstance(known[largest], str):
                break
            known[largest] = collapse(known[largest])
        return text

    def _text(self, known: Mapping[str, Known]) -> str:
        mark = self.journal and [self.journal.offset, self.journal.check, self.journal.rotated]
        data = canonical({"home": self.home, "pulse": self.pulse, "known": known, "journal": mark})
        return _PREFIX + base64.urlsafe_b64encode(zlib.compress(data.encode(), 9)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, home: str) -> "Cursor":
        """Raises UsageError for what is no cursor, or one of another data directory."""
        hint = "`looopctl state --json` prints a fresh one"
        text = text.strip()
        try:
            if not text.startswith(_PREFIX):
                raise JsonError("it does not start as one" if text else "it is empty")
            packed = base64.b64decode(text[len(_PREFIX) :] + "=" * (-(len(text) - len(_PREFIX)) % 4), b"-_", True)
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(packed, _UNPACKED)
            if not unpacker.eof:
                raise JsonError("it is cut short")
            cursor = cls._parse(as_object(json.loads(data)))
        except (JsonError, ValueError, binascii.Error, zlib.error, RecursionError) as error:
            raise UsageError(f"cannot use this cursor: {error}", hint=hint) from error
        if cursor.home != home:
            raise UsageError("cannot use this cursor: it is of another data directory", hint=hint)
        return cursor

    @classmethod
    def _parse(cls, obj: Mapping[str, Any]) -> "Cursor":
        known: dict[str, Known] = {}
        for name, value in get_object(obj, "known").items():
            if isinstance(value, str):
                known[name] = value
            else:
                items = as_object(value, name)
                known[name] = {item: get_str(items, item) for item in items}
        mark = obj.get("journal")
        place = None
        if mark is not None:
            if not isinstance(mark, list) or len(mark) != 3:
                raise JsonError("journal: expected a place in it")
            fields = dict(zip(("offset", "check", "rotated"), mark, strict=True))
            place = Mark(max(0, get_int(fields, "offset")), get_str(fields, "check"), get_str(fields, "rotated"))
        return cls(get_str(obj, "home"), get_str(obj, "pulse"), known, place)


def home(data: Path) -> str:
    """What stands for a data directory in a cursor."""
    return short(os.path.realpath(data))


# -- both together


@dataclass(frozen=True)
class Seen:
    """One look at everything. `items` lacks what could not be learned; `turn` is "up", "down" or, unknown, ""."""

    items: Mapping[str, Mapping[str, Item]]
    turn: str = ""
    journal: Mark | None = None
    journal_news: News | None = None


def since(cursor: Cursor, seen: Seen) -> tuple[Cursor, dict[str, News], list[str]]:
    """The cursor after `seen`, the news by category, and the sorted names of all that has moved."""
    known, news = dict(cursor.known), {}
    for name, items in seen.items.items():
        known[name], found = compare(known.get(name, {}), items)
        if found is not None:
            news[name] = found
    if seen.journal_news is not None:
        news["journal"] = seen.journal_news
    moved = sorted(news)
    if seen.turn and seen.turn != cursor.pulse:
        moved = sorted([*moved, f"pulse-{seen.turn}"])
    after = Cursor(cursor.home, seen.turn or cursor.pulse, known, seen.journal or cursor.journal)
    return after, news, moved
