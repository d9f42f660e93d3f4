"""Telling the human: asks that are raised, escalated or expired, messages of moves, a pulse that failed.

`raised`, `expired` and `message` only note what there is to tell and start looop-notify@SUBJECT.service, which tells
it: nobody waits for a hook, and nothing here raises. `settle` does in every beat what did not come about: a start
that was missed, a timer that went with the boot, an ask some other program wrote. Used by `looopctl` and the
pulse; `current` by looop-notify. The unit learns the data directory from a file, as a template knows no arguments.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from looop import mailbox, questions, store
from looop.clock import Stamp, now as clock_now, utc
from looop.notifications import deliveries
from looop.notifications.deliveries import DESKTOP, HOOK, MESSAGE, PULSE, Record
from looop.errors import LooopError, StateError, Unavailable
from looop.paths import Paths
from looop.questions import Ask, Judge
from looop.systemd import journal
from looop.systemd.manager import Manager, usec

if TYPE_CHECKING:  # 4 ms that `looopctl ask` does not need
    from looop.config import Config

DESKTOP_UNIT = "looop-desktop.service"
STARTS = 8  # most units one `settle` starts: the rest is for the next beat
LONGEST = 3660 * deliveries.DAY  # a timer takes no more than 2**64 us
QUIET_S = 60.0  # how long nobody may have been told before that is a problem


class Starter(Protocol):
    """What is needed of looop.systemd.manager.Manager."""

    def list_units(self, patterns: Sequence[str]) -> Mapping[str, Any]: ...
    def start(self, unit: str, mode: str = "replace") -> str: ...
    def stop(self, unit: str) -> str: ...
    def drop(self, unit: str) -> object: ...
    def start_transient(self, unit: str, properties: Mapping[str, Any]) -> str: ...


def unit(subject: str) -> str:
    return f"looop-notify@{subject}.service"


def timer(subject: str) -> str:
    return f"looop-notify@{subject}.timer"


def channels(config: "Config") -> list[str]:
    """Everybody who is to be told."""
    return [*(HOOK + hook for hook in config.notify_hooks), *([DESKTOP] if config.notify_desktop == "auto" else [])]


# -- something has happened


def raised(paths: Paths, ask: Ask) -> None:
    """A new ask is recorded: have the human told. Never raises and waits for nobody, also not for a bus that hangs."""
    threading.Thread(target=_start, args=(paths, ask.id), daemon=True).start()


def expired(paths: Paths, ask: Ask) -> None:
    """An ask got its default because nobody answered: have the human told. Never raises and waits for nobody."""
    now = clock_now()
    shown = questions.row(ask, _nobody, now.wall)
    _leave(paths, Record(ask.id, deliveries.EXPIRED, now, ask=shown))


def message(paths: Paths, run: str, text: str) -> None:
    """A move has something to say. Never raises and waits for nobody."""
    _leave(paths, Record(f"{run[:50]}{MESSAGE}", deliveries.SAID, clock_now(), message=text))


def _nobody(holder: object) -> bool:
    raise Unavailable("not asked")


def _leave(paths: Paths, record: Record) -> None:
    """Note what there is to tell, in place of what was told of it before."""
    try:
        with deliveries.locked(paths):
            before = deliveries.load(paths, record.subject)
            if before:
                record.channels, record.told = before.channels, before.told
                record.again(record.kind)
            deliveries.save(paths, record)
    except (LooopError, OSError) as error:
        journal.emit("notify_failed", text=f"{record.subject}: {error}", ask=record.subject)
        return
    _start(paths, record.subject)


def _start(paths: Paths, subject: str) -> None:
    try:
        leave_environment(paths)
        with Manager("user") as manager:
            manager.start(unit(subject))
    except (LooopError, OSError) as error:
        journal.emit("notify_failed", text=f"{subject}: {error}; the next beat tries again", ask=subject)


def leave_environment(paths: Paths) -> None:
    """Write the environment file of the units. Raises StateError or OSError."""
    values = {"LOOOP_DATA_DIR": paths.data, "LOOOP_CONFIG": paths.config}
    lines = [f"{name}={_quoted(str(value))}\n" for name, value in values.items()]
    paths.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.write_changed(paths.notify_env, "".join(lines).encode(errors="surrogateescape"))


def _quoted(text: str) -> str:
    """As EnvironmentFile= takes it (systemd.exec(5))."""
    return '"' + "".join("\\" + char if char in '\\"$`' else char for char in text) + '"'


# -- what there is to tell


def current(
    paths: Paths, subject: str, judge: Judge, failure: Callable[[], tuple[str, str] | None], now: Stamp
) -> tuple[Record | None, Ask | None]:
    """The record as it stands at this moment, and the ask it is about; None when there is nothing to tell.

    An ask that was answered or withdrawn or whose asker is gone ends the record; one whose time has come escalates.
    `failure` names the invocation of a pulse that has failed, and why. Raises StateError, TryAgain or UsageError.
    """
    with deliveries.locked(paths):
        record = deliveries.load(paths, subject)
        if subject == PULSE:
            return _pulse(paths, record, failure(), now), None
        if subject.endswith(MESSAGE) or record and not record.open:
            return record, None
        ask = mailbox.find(paths, subject)
        why = ended(ask, judge)
        if record and not why:
            _escalate(paths, record, ask, now)
        elif record:
            finish(paths, record, why)
        elif not why:
            record = Record(subject, deliveries.RAISED, now)
            if ask and ask.escalate_after:
                record.escalate = deliveries.later(now, ask.escalate_after)
            deliveries.save(paths, record)
        return (None, None) if why else (record, ask)


def ended(ask: Ask | None, judge: Judge) -> str:
    """Why nobody is to be told of the ask any more, "" when they are."""
    if ask is None or ask.broken:
        return "broken" if ask else "gone"
    if ask.answer or ask.end:
        return ask.end or questions.ANSWERED
    return "stranded" if questions.state(ask, judge) == "stranded" else ""


def _escalate(paths: Paths, record: Record, ask: Ask | None, now: Stamp) -> None:
    if ask is None or record.escalate is None or deliveries.left(record.escalate, now) > 0:
        return
    record.round += 1
    record.again(deliveries.ESCALATED)
    record.escalate = deliveries.later(now, deliveries.escalation(ask.escalate_after, record.round))
    deliveries.save(paths, record)
    journal.emit("ask_escalated", ask=ask.id, session=ask.worker, text=f"{ask.id} (#{record.round}): {ask.prompt}")


def _pulse(paths: Paths, record: Record | None, failure: tuple[str, str] | None, now: Stamp) -> Record | None:
    if failure is None:
        if record:
            finish(paths, record, "running")
        return None
    key, text = failure
    if record is None or record.key != key:
        fresh = Record(PULSE, deliveries.PULSE_FAILED, now, message=text, key=key)
        if record:
            fresh.channels, fresh.told = record.channels, record.told
            fresh.again(fresh.kind)
        record = fresh
        deliveries.save(paths, record)
    return record


def finish(paths: Paths, record: Record, why: str) -> None:
    """There is nothing more to tell: into the archive. Under the lock only."""
    record.over = why
    deliveries.save(paths, record)


def finish_told(paths: Paths, subject: str, config: "Config", now: Stamp) -> float | None:
    """End a record that waits for nobody once every channel is settled; else in how many seconds to look again."""
    with deliveries.locked(paths):
        record = deliveries.load(paths, subject)
        if record is None:
            return None
        names = channels(config)
        settled = [record.delivery(name).settled or _away(record, name) for name in names]
        if not record.open and all(settled) and record.kind != deliveries.PULSE_FAILED:
            finish(paths, record, "told" if any(d.delivered for d in record.channels.values()) else "given up")
            return None
        return record.wake(names, now)


def _away(record: Record, name: str) -> bool:
    """There is no desktop. What has been told otherwise need not wait for one."""
    delivery = record.channels.get(name)
    return name == DESKTOP and bool(delivery and delivery.error and not delivery.tries) and any(
        each.delivered for each in record.channels.values()
    )  # fmt: skip


def arm(manager: Starter, subject: str, seconds: float | None) -> None:
    """Have looop-notify started again for the subject in so many seconds; None: not at all. Raises LooopError."""
    manager.drop(timer(subject))
    if seconds is None:
        return
    properties: dict[str, Any] = {
        "Description": f"looop tells of {subject} again",
        "CollectMode": "inactive-or-failed",
        "AccuracyUSec": 1_000_000 if seconds > 60 else 50_000,
        "RemainAfterElapse": False,
        "TimersMonotonic": [("OnActiveSec", usec(min(max(0.01, seconds), LONGEST)))],
    }
    manager.start_transient(timer(subject), properties)


def disarm(manager: Starter) -> None:
    """looop is stopped for good: nothing is told again until it is started. Raises LooopError."""
    for name in manager.list_units([timer("*")]):
        manager.stop(name)


# -- the beat


async def settle(live: Starter, paths: Paths, config: "Config", now: Stamp, judge: Judge = _nobody) -> list[str]:
    """Start whatever is due and does not run, make missing timers again, end what is over; what went wrong.

    Costs one call while there is nothing to tell, and one record read for each open ask.
    """
    try:
        return _settle(live, paths, config, now, judge)
    except (LooopError, OSError) as error:
        return [f"cannot look after the notifications: {error}"]


def _settle(live: Starter, paths: Paths, config: "Config", now: Stamp, judge: Judge) -> list[str]:
    deliveries.prune(paths, config.answered_ttl, now.wall)
    asks = {ask.id: ask for ask in mailbox.pending(paths) if not ask.broken}
    known = deliveries.subjects(paths)
    if not asks and not known:
        return []
    leave_environment(paths)
    there = live.list_units([unit("*"), timer("*"), DESKTOP_UNIT])
    names, starts, desktop, problems = channels(config), [], [], []
    for subject in [*asks, *(name for name in known if name not in asks)]:
        try:
            record = _look(paths, subject, asks.get(subject), judge, now)
        except StateError as error:
            problems.append(f"{error}; moved aside")
            with deliveries.locked(paths):
                deliveries.load(paths, subject)
            continue
        if record is None:
            if timer(subject) in there:
                live.drop(timer(subject))
            continue
        if DESKTOP in names:
            desktop.append(record)
        if unit(subject) in there and _busy(there[unit(subject)]):
            continue
        wait = record.wake(names, now)
        if wait == 0.0:
            starts.append(subject)
        elif wait is not None and timer(subject) not in there:
            arm(live, subject, wait)
    for subject in starts[:STARTS]:
        live.start(unit(subject))
    if desktop and not (DESKTOP_UNIT in there and _busy(there[DESKTOP_UNIT])):
        _settle_desktop(live, desktop, now)
    return problems


def _busy(state: Any) -> bool:
    return getattr(state, "alive", True)


def _look(paths: Paths, subject: str, ask: Ask | None, judge: Judge, now: Stamp) -> Record | None:
    """What there is to tell, None = nothing: then a record that is over is ended here."""
    record = deliveries.read(paths, subject)
    if record is None:
        return None if ask is None or ended(ask, judge) else Record(subject, deliveries.RAISED, now)
    why = ended(ask, judge) if record.open else ""
    if not record.open and record.since.age(now) > deliveries.DAY:
        why = "given up"
    if subject == PULSE:
        why = "running"  # it is the pulse that looks
    if not why:
        return record
    with deliveries.locked(paths):
        record = deliveries.load(paths, subject)
        if record:
            finish(paths, record, why)
    return None


def _settle_desktop(live: Starter, records: Sequence[Record], now: Stamp) -> None:
    """Somebody logged in meanwhile, or looop-desktop went while something was on the screen."""
    from looop.systemd import popups

    owner = popups.server()
    shown = [record.channels.get(DESKTOP, deliveries.Delivery()) for record in records]
    if owner and any(delivery.wanted_by(owner, now) or delivery.popup for delivery in shown):
        live.start(DESKTOP_UNIT)


# -- for status and doctor


def problems(paths: Paths) -> list[str]:
    """What is wrong with telling the human, a sentence each. Never raises."""
    found = []
    for channel, entry in deliveries.failing(paths).items():
        since = entry.get("since")
        when = f" since {utc(since)}" if isinstance(since, (int, float)) else ""
        found.append(f"notifications fail{when}: {channel}: {entry.get('error', '?')}")
    untold: dict[str, list[str]] = {}
    try:
        now = clock_now()
        for subject in deliveries.subjects(paths):
            record = deliveries.read(paths, subject)
            if record and record.open and record.since.age(now) > QUIET_S:
                if not any(delivery.delivered or delivery.popup for delivery in record.channels.values()):
                    why = next((d.error for d in record.channels.values() if d.error), "notify_hooks is empty")
                    untold.setdefault(why, []).append(subject)
    except LooopError as error:
        found.append(str(error))
    return found + [f"nobody was told of {', '.join(asks[:5])}{' ...' * (len(asks) > 5)}: {why}"
                    for why, asks in untold.items()]  # fmt: skip
