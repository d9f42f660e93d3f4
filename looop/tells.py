"""Messages to a worker: tells/WORKER-N.json, addressed to one unit invocation, read by the `told` verb.

A message reaches the generation it was sent to or nobody. It leaves tells/ only after its reader has flushed it, so
one that dies while printing loses nothing; exactly one of two racing readers of a worker gets it. A reader that hangs
with its messages half printed holds up other readers of that worker only: senders and the beat take another lock.
What was read or dropped is kept in tells/consumed/ with the reason until it is pruned.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from looop import store
from looop.clock import Stamp
from looop.errors import Refused, StateError, Unavailable, UsageError
from looop.jsonutil import JsonError, get_num, get_str
from looop.paths import Paths, safe_name
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit

Judge: TypeAlias = Callable[[Holder], bool]

VERSION = 1
READER_S = 5.0  # patience with another reader
PRUNE_EVERY_S = 3600.0  # the archive is looked through at most so often


@dataclass(frozen=True)
class Tell:
    """One message; `holder` is the worker's generation it is for, None in a record that does not say."""

    id: str
    worker: str
    text: str
    ts: float
    holder: Holder | None

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        held = self.holder.to_json() if self.holder else {}
        return {"v": VERSION, "id": self.id, "worker": self.worker, "msg": self.text, "ts": round(self.ts, 3), **held}

    @property
    def order(self) -> tuple[float, int]:
        """Oldest first; w-2 before w-10."""
        return self.ts, int(self.id.rpartition("-")[2])


def _consumed(paths: Paths) -> Path:
    return paths.tells / "consumed"


def _ledger(paths: Paths) -> Path:
    return paths.tells / ".numbers.json"


def _lock(paths: Paths, timeout: float = 10.0) -> Any:
    _consumed(paths).mkdir(mode=0o700, parents=True, exist_ok=True)
    return store.lock(paths.tells / ".lock", timeout)


def _reading(paths: Paths, worker: str) -> Any:
    """Held while a worker's messages are printed."""
    lock = paths.reading(worker)
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return store.lock(lock, timeout=READER_S)


def _read(paths: Paths, tell_id: str) -> Tell | None:
    path = paths.tells / f"{tell_id}.json"
    obj = store.read_record(path)
    if obj is None:
        return None
    try:
        holder = Holder.from_json(obj) if obj.get("invocation") else None
        return Tell(tell_id, get_str(obj, "worker"), get_str(obj, "msg"), get_num(obj, "ts", 0.0), holder)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint="mend it or move it away") from error


def pending(paths: Paths, worker: str = "") -> tuple[list[Tell], list[str]]:
    """The undelivered messages, oldest first, of one worker or of all; and what is wrong with unreadable ones."""
    tells, broken = [], []
    for name in store.names(paths.tells, ".json"):
        stem, _, n = name.rpartition("-")
        if not (n.isascii() and n.isdigit()) or worker not in ("", stem):
            continue
        try:
            found = _read(paths, name)
        except StateError as error:
            broken.append(str(error))
            continue
        if found:
            tells.append(found)
    return sorted(tells, key=lambda t: t.order), broken


def send(paths: Paths, worker: str, invocation: str | None, text: str, now: Stamp) -> Tell:
    """Leave a message for the living `invocation` of a worker. Raises Refused when there is none."""
    safe_name("a worker", worker)
    if not invocation:
        raise Refused(f"cannot reach {worker}: no worker of that id lives", hint="`looopctl worker list`")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot use the message: not UTF-8 at character {error.start}") from error
    if not text.strip() or "\0" in text:
        raise UsageError("cannot use an empty message, or one with a NUL character in it")
    with _lock(paths):
        _mend(paths)
        n = store.next_number(worker, (paths.tells,), _ledger(paths), _consumed(paths))
        holder = Holder(worker_unit(worker), "user", invocation, now.boot)
        message = Tell(f"{worker}-{n}", worker, text.strip(), now.wall, holder)
        if not store.create(paths.tells / f"{message.id}.json", store.dump_json(message.to_json())):
            raise StateError(f"cannot write {paths.tells / message.id}.json: something is there already")
    _emit("tell_queued", message)
    return message


@contextmanager
def told(paths: Paths, worker: str, holder: Holder, now: float) -> Iterator[list[Tell]]:
    """The messages for this generation; consumed when the block ends without an exception.

    Messages to other generations of the worker are dropped: the caller is the living one. Raises TryAgain while
    another reader of them is not done.
    """
    with _reading(paths, worker):
        found, _ = pending(paths, worker)
        yield [message for message in found if message.holder == holder]
        with _lock(paths):
            for message in found:
                _consume(paths, message, "read" if message.holder == holder else "stale", now)


def drop_stale(paths: Paths, judge: Judge, now: float) -> list[Tell]:
    """Drop the messages of dead generations; those that cannot be judged stay."""
    dropped = []
    with _lock(paths):
        for message in pending(paths)[0]:
            try:
                dead = message.holder is None or not judge(message.holder)
            except Unavailable:
                continue
            if dead:
                _consume(paths, message, "stale", now)
                dropped.append(message)
    return dropped


def _consume(paths: Paths, message: Tell, reason: str, now: float) -> None:
    """Archive, then remove: interrupted in between, the message is seen twice rather than never."""
    if not os.path.lexists(paths.tells / f"{message.id}.json"):
        return  # dropped while it was printed: its reader's generation has ended
    store.retire_numbers(_ledger(paths), [message.id], durable=False)
    record = {**message.to_json(), "consumed": {"reason": reason, "ts": round(now, 3)}}
    store.write_json(_consumed(paths) / f"{message.id}.json", record)
    store.remove(paths.tells / f"{message.id}.json")


def prune(paths: Paths, ttl: float, now: float) -> list[str]:
    """Remove archived messages older than `ttl` seconds; returns their ids."""
    folder = _consumed(paths)
    with _lock(paths):
        _mend(paths)
        if not store.due(folder / ".pruned.json", now, min(PRUNE_EVERY_S, ttl / 10)):
            return []
        old = [name for name in store.older(folder, ".json", now - ttl) if _is_id(name)]
        if old:
            store.retire_numbers(_ledger(paths), old)
        for name in old:
            store.remove(folder / f"{name}.json")
    return old


def _is_id(name: str) -> bool:
    stem, _, n = name.rpartition("-")
    return bool(stem) and n.isascii() and n.isdigit()


def _mend(paths: Paths) -> None:
    problem = store.mend_numbers(_ledger(paths), _consumed(paths))
    if problem:
        from looop.systemd import journal

        journal.emit("state_degraded", text=problem)


def _emit(event: str, message: Tell) -> None:
    from looop.systemd import journal

    journal.emit(event, session=message.worker, tell=message.id)
