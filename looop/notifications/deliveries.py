"""Who was told what: notifications/SUBJECT.json for as long as there is something to tell, then in told/.

A subject is an ask (`w1-3`), the pulse, or a move's message (`RUN.message`). Each channel, a hook or the desktop,
has its own tries, so one that has been told is not told again because another fails. Written by looop-notify,
looop-desktop and the beat, always under notifications/.lock; a try is noted before it is made, so a full disk or a
crash cannot repeat it for ever.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp
from looop.errors import LooopError, StateError, UsageError
from looop.jsonutil import JsonError, as_object, get_int, get_num, get_object, get_str
from looop.paths import Paths, safe_name

VERSION = 1
DESKTOP = "desktop"
HOOK = "hook: "
PULSE = "pulse"
MESSAGE = ".message"
RAISED, ESCALATED, EXPIRED, PULSE_FAILED, SAID = "raised", "escalated", "expired", "pulse-failed", "message"

TRIES = 8  # with 30 s before the second and 2 h at most, they take five hours
GROWTH = 3.0
LONGEST_PAUSE = 7200.0
DAY = 86400.0
_TOLD_KEPT = 50
_SHOWN = 300


@dataclass
class Delivery:
    """One channel's part. `due` is when the next try may be made, None = at once; `delivered` is in Unix seconds.

    For the desktop `popup` is the notification's number there, 0 = none on the screen, and `owner` the server's.
    """

    tries: int = 0
    delivered: float = 0.0
    due: Stamp | None = None
    error: str = ""
    popup: int = 0
    owner: str = ""

    def to_json(self) -> dict[str, Any]:
        known: dict[str, Any] = {"tries": self.tries, "delivered": round(self.delivered, 3), "error": self.error}
        known |= {"due": self.due.to_json()} if self.due else {}
        return known | ({"popup": self.popup, "owner": self.owner} if self.popup or self.owner else {})

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Delivery":
        """Raises JsonError."""
        due = Stamp.from_json(get_object(obj, "due")) if obj.get("due") else None
        return cls(
            get_int(obj, "tries", 0), get_num(obj, "delivered", 0.0), due, get_str(obj, "error", ""),
            get_int(obj, "popup", 0), get_str(obj, "owner", ""),
        )  # fmt: skip

    def is_due(self, now: Stamp) -> bool:
        """Whether a try may be made."""
        return not self.delivered and self.tries < TRIES and (self.due is None or left(self.due, now) <= 0)

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to do: told, or given up."""
        return bool(self.delivered) or self.tries >= TRIES

    def wanted_by(self, owner: str, now: Stamp) -> bool:
        """For the desktop: whether the server `owner` ("" = none runs) is to be shown this.

        One that is new has nothing of it on its screen, and what the last one said against it does not count.
        """
        if self.delivered:
            return bool(self.popup and owner and owner != self.owner)
        return self.is_due(now) or bool(owner and owner != self.owner)


@dataclass
class Record:
    """What is to be told about one subject. `round` counts the escalations, `key` tells one pulse failure from another.

    `ask` is the ask as it was, for what is told after its end; `told` what was delivered and when, the latest last.
    """

    subject: str
    kind: str
    since: Stamp
    round: int = 0
    message: str = ""
    key: str = ""
    ask: dict[str, Any] | None = None
    escalate: Stamp | None = None
    channels: dict[str, Delivery] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    over: str = ""

    def to_json(self) -> dict[str, Any]:
        known: dict[str, Any] = {"v": VERSION, "kind": self.kind, "round": self.round, "since": self.since.to_json()}
        known |= {key: value for key in ("message", "key", "ask", "over") if (value := getattr(self, key))}
        if self.escalate:
            known["escalate"] = self.escalate.to_json()
        known["channels"] = {name: delivery.to_json() for name, delivery in self.channels.items()}
        return {**known, "told": self.told[-_TOLD_KEPT:]}

    @classmethod
    def from_json(cls, subject: str, obj: dict[str, Any]) -> "Record":
        """Raises JsonError."""
        told = obj.get("told")
        return cls(
            subject,
            get_str(obj, "kind"),
            Stamp.from_json(get_object(obj, "since")),
            get_int(obj, "round", 0),
            get_str(obj, "message", ""),
            get_str(obj, "key", ""),
            get_object(obj, "ask") if obj.get("ask") else None,
            Stamp.from_json(get_object(obj, "escalate")) if obj.get("escalate") else None,
            {name: Delivery.from_json(as_object(d, name)) for name, d in get_object(obj, "channels", {}).items()},
            [entry for entry in told if isinstance(entry, dict)] if isinstance(told, list) else [],
            get_str(obj, "over", ""),
        )

    @property
    def event(self) -> tuple[object, ...]:
        """What there is to tell just now: a try that was made for another event of the subject does not count."""
        return self.kind, self.round, self.key, round_ts(self.since)

    @property
    def open(self) -> bool:
        """Whether it is about an ask that waits for its answer."""
        return self.kind in (RAISED, ESCALATED)

    def delivery(self, channel: str) -> Delivery:
        return self.channels.setdefault(channel, Delivery())

    def due(self, channels: Sequence[str], now: Stamp) -> list[str]:
        """The channels that may be told now."""
        return [name for name in channels if self.channels.get(name, Delivery()).is_due(now)]

    def again(self, kind: str) -> None:
        """There is news for every channel, whatever each was told before. What is on the screen is replaced."""
        before = self.channels.get(DESKTOP, Delivery())
        self.kind = kind
        self.channels = {DESKTOP: Delivery(popup=before.popup, owner=before.owner)} if before.popup else {}

    def wake(self, channels: Sequence[str], now: Stamp) -> float | None:
        """In how many seconds there is something to do, None = never. A desktop that is not there is not waited for."""
        known = [(name, self.channels.get(name, Delivery())) for name in channels]
        waits = [
            left(delivery.due, now) if delivery.due else 0.0 for name, delivery in known
            if not delivery.settled and (delivery.due or name != DESKTOP)
        ]  # fmt: skip
        if self.escalate:
            waits.append(left(self.escalate, now))
        return max(0.0, min(waits)) if waits else None


def left(at: Stamp, now: Stamp) -> float:
    """Seconds from `now` until `at`, on the boot clock while this boot lasts."""
    return at.mono - now.mono if at.boot == now.boot else at.wall - now.wall


def later(now: Stamp, seconds: float) -> Stamp:
    return Stamp(now.wall + seconds, now.boot, now.mono + seconds)


def pause(tries: int, first: float) -> float:
    """Seconds to wait after the try of that number: `first`, then three times as long each, at most two hours."""
    return min(first * GROWTH ** (tries - 1), max(LONGEST_PAUSE, first))


def escalation(every: float, round: int) -> float:
    """Seconds from telling number `round` to the next: `every`, then doubled, at most a day unless `every` is more."""
    return min(every * 2.0 ** min(round, 30), max(DAY, every))


# -- the files


def _path(paths: Paths, subject: str) -> Path:
    for part in (subject[:64], f"_{subject[64:]}"):  # an ask's id may be longer than a name
        safe_name("a notification", part)
    return paths.notifications / f"{subject}.json"


def told_folder(paths: Paths) -> Path:
    """Where the records go when there is nothing more to tell."""
    return paths.notifications / "told"


def read(paths: Paths, subject: str) -> Record | None:
    """The record, None when there is nothing to tell. Raises StateError."""
    path = _path(paths, subject)
    obj = store.read_record(path)
    try:
        return None if obj is None else Record.from_json(subject, obj)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint="move it away") from error


def subjects(paths: Paths) -> list[str]:
    """Whatever there is something to tell about. Raises StateError."""
    return [name for name in store.names(paths.notifications, ".json") if _is_subject(paths, name)]


def _is_subject(paths: Paths, name: str) -> bool:
    try:
        return bool(_path(paths, name))
    except UsageError:
        return False  # nobody's file


@contextlib.contextmanager
def locked(paths: Paths) -> Iterator[None]:
    told_folder(paths).mkdir(mode=0o700, parents=True, exist_ok=True)
    with store.lock(paths.notifications / ".lock"):
        yield


@contextlib.contextmanager
def changing(paths: Paths, subject: str) -> Iterator[Record | None]:
    """The record, written back when the block ends and it has changed. Raises StateError or TryAgain."""
    with locked(paths):
        record = load(paths, subject)
        before = record.to_json() if record else None
        yield record
        if record and record.to_json() != before:
            save(paths, record)


def load(paths: Paths, subject: str) -> Record | None:
    """`read`; a record that cannot be used is moved aside and counts as none. Under the lock only."""
    try:
        return read(paths, subject)
    except StateError:
        store.set_aside(_path(paths, subject))
        return None


def save(paths: Paths, record: Record) -> None:
    """Write it, or, when it is over, move it to told/. Under the lock only."""
    if not record.over:
        store.write_json(_path(paths, record.subject), record.to_json())
        return
    store.write_json(told_folder(paths) / f"{record.subject}.json", record.to_json())
    store.remove(_path(paths, record.subject))


def prune(paths: Paths, ttl: float, now: float) -> None:
    """Forget what was over more than `ttl` seconds ago; looked for once an hour, as there may be thousands."""
    if not told_folder(paths).exists() or not store.due(told_folder(paths) / ".pruned.json", now, min(3600, ttl / 10)):
        return
    for subject in store.older(told_folder(paths), ".json", now - ttl):
        store.remove(told_folder(paths) / f"{subject}.json")


# -- channels that fail


def failing(paths: Paths) -> dict[str, dict[str, Any]]:
    """The channels whose last try failed: name -> since (Unix seconds) and error."""
    try:
        known = store.read_json(paths.notifications / ".failing.json") or {}
    except StateError:
        return {}
    return {name: entry for name, entry in known.items() if isinstance(entry, dict)}


def begin_try(delivery: Delivery, now: Stamp, first: float) -> None:
    """Count a try, and when the next may be made should nothing be heard of this one."""
    delivery.tries += 1
    delivery.due = later(now, pause(delivery.tries, first))


def note(paths: Paths, tried: Record, channel: str, error: str, now: Stamp, first: float) -> str:
    """Note how a try went ("" = well) and when the next may be made; what is new about a failure, "" = nothing.

    Failing is told when it begins, when its reason changes, and when a subject is given up: not for every try.
    """
    with changing(paths, tried.subject) as record:
        news = ""
        if record and record.event == tried.event:
            delivery = record.delivery(channel)
            delivery.error = error[:_SHOWN]
            if error:
                delivery.due = later(now, pause(delivery.tries, first))
                news = f"given up after {delivery.tries} tries: {error}" if delivery.tries >= TRIES else ""
            else:
                delivery.delivered, delivery.due = now.wall, None
                told = {"kind": record.kind, "round": record.round, "channel": channel, "ts": round_ts(now)}
                record.told.append(told)
        return news or _streak(paths, channel, error, now)


def streak(paths: Paths, channel: str, error: str, now: Stamp) -> bool:
    """Note that a channel as a whole fails; whether that is news. Never raises."""
    try:
        with locked(paths):
            return bool(_streak(paths, channel, error, now))
    except LooopError:
        return True


def _streak(paths: Paths, channel: str, error: str, now: Stamp) -> str:
    """The error, if it is the first of its kind since the channel worked. Under the lock only."""
    known = failing(paths)
    before = known.pop(channel, None)
    said = error[:_SHOWN]
    if error:
        known[channel] = {"since": before.get("since") if before else round_ts(now), "error": said}
    if error or before:
        store.write_json(paths.notifications / ".failing.json", known)
    return "" if before and before.get("error") == said else error


def round_ts(now: Stamp) -> float:
    return round(now.wall, 3)
