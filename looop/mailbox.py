"""Questions and answers: asks/WORKER-N.json, then answers/WORKER-N.json, then both as one in asks/done/.

An answer is delivered when the asker has printed it and says so; until then the ask is open. Written by the `ask`,
`answer` and `asks` verbs and by the beat's housekeeping, read by everyone. An ask belongs to the unit invocation
that raised it, so an answer never reaches a later worker of the same id. Numbers are never used twice. Every write
is made under asks/.lock, so an ask ends in one way only. Nothing here lists the archive but what is asked to.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from looop import questions, store
from looop.clock import Stamp
from looop.errors import LooopError, Refused, StateError, Unavailable, UsageError
from looop.jsonutil import JsonError
from looop.paths import Paths, safe_name
from looop.questions import DELIVERED, Answer, Ask, Judge, row, rows, split, state
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit

__all__ = ["Answer", "Ask", "Judge", "row", "rows", "split", "state"]  # and what is below

PRUNE_EVERY_S = 3600.0  # the archive is looked through at most so often
UNCLAIMED_S = 3600.0  # an answered ask whose asker nobody can name leaves the list of open ones after that
MOVES = 200  # most asks one `prune` archives: the beat that calls it must not be held up


def _file(folder: Path, ask_id: str) -> Path:
    split(ask_id)
    return folder / f"{ask_id}.json"


def _ledger(paths: Paths) -> Path:
    return paths.asks / ".numbers.json"


def _lock(paths: Paths) -> Any:
    for folder in (paths.asks, paths.answers, paths.asks_done):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return store.lock(paths.asks / ".lock")


# -- reading


def read_answer(paths: Paths, ask_id: str) -> Answer | None:
    """The answer in answers/, or None while there is none. Raises StateError when its record is broken."""
    path = _file(paths.answers, ask_id)
    hint = f"`looopctl answer --force {ask_id} TEXT` replaces it"
    try:
        obj = store.read_record(path)
        said = None if obj is None else Answer.from_json(obj)
        # one written by hand may lack the time: it counts from when it was written
        return replace(said, ts=path.lstat().st_mtime) if said and not said.ts else said
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint=hint) from error
    except StateError as error:
        raise StateError(error.message, hint=hint) from error


def _read(path: Path) -> Ask | None:
    """Raises StateError when the record is broken."""
    obj = store.read_record(path)
    try:
        return None if obj is None else Ask.from_json(path.stem, obj)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint="mend it or move it away") from error


def archived(paths: Paths, ask_id: str) -> Ask | None:
    """The ask in the archive, None when it is not there. Raises StateError when its record is broken."""
    return _read(_file(paths.asks_done, ask_id))


def find(paths: Paths, ask_id: str) -> Ask | None:
    """The ask with its answer, open or archived; None when there is none of that id.

    One in asks/ or answers/ that cannot be read is returned with `broken` or `trouble` set; one in the archive
    raises StateError.
    """
    found = archived(paths, ask_id) or _open(paths, ask_id)
    return found or archived(paths, ask_id)  # moved in between: it is in the archive before it is gone from asks/


def _open(paths: Paths, ask_id: str) -> Ask | None:
    try:
        ask = _read(_file(paths.asks, ask_id))
    except StateError as error:
        ask = Ask(ask_id, split(ask_id)[0], broken=error.message)
    if ask is None:
        return None
    try:
        return replace(ask, answer=read_answer(paths, ask_id))
    except StateError as error:
        return replace(ask, trouble=str(error))


def _ids(folder: Path) -> list[str]:
    """The ids in a folder; a file whose name is no ask id is nobody's and is left alone."""
    return [name for name in store.names(folder, ".json") if _is_id(name)]


def _listed(paths: Paths) -> list[Ask]:
    """All there is in asks/, oldest first, whatever its state."""
    asks = [ask for ask_id in _ids(paths.asks) if (ask := _open(paths, ask_id))]
    return sorted(asks, key=lambda ask: ask.order)


def open_asks(paths: Paths) -> list[Ask]:
    """The asks that no asker has had an answer to, oldest first; unreadable ones are there with `broken` set."""
    return [ask for ask in _listed(paths) if not ask.end and not _is_archived(paths, ask.id)]


def _is_archived(paths: Paths, ask_id: str) -> bool:
    """Archiving was interrupted before asks/ was cleared when an ask is in both places."""
    return os.path.lexists(_file(paths.asks_done, ask_id))


def pending(paths: Paths) -> list[Ask]:
    """The open asks without a usable answer, oldest first; unreadable ones are there with `broken` set."""
    return [ask for ask in open_asks(paths) if ask.answer is None]


def history(paths: Paths, lines: int) -> list[Ask]:
    """The latest `lines` asks, open and archived together, oldest first (0 = all)."""
    names = [name for name in store.latest(paths.asks_done, ".json", lines) if _is_id(name)]
    asks = []
    for name in names:
        try:
            ask = archived(paths, name)
        except StateError as error:
            ask = Ask(name, split(name)[0], broken=error.message)
        if ask:
            asks.append(ask)
    asks += [ask for ask in _listed(paths) if ask.id not in names and not _is_archived(paths, ask.id)]
    return sorted(asks, key=lambda ask: ask.order)[-lines:]


def waiting(paths: Paths, judge: Judge, now: float) -> dict[str, float]:
    """Worker -> age in seconds of its oldest unanswered ask. Only what its present generation raised counts.

    Raises Unavailable when that cannot be told.
    """
    ages: dict[str, float] = {}
    for ask in pending(paths):
        if ask.worker in ages or ask.holder is None or ask.holder.unit != worker_unit(ask.worker):
            continue
        if judge(ask.holder):
            ages[ask.worker] = max(0.0, now - ask.ts)
    return ages


# -- the asker


def raise_ask(
    paths: Paths,
    worker: str,
    prompt: str,
    now: float,
    *,
    reference: str = "",
    options: Sequence[str] = (),
    holder: Holder | None = None,
    escalate_after: float = 0.0,
    expires_in: float = 0.0,
    default: str = "",
    asked: Stamp | None = None,
    on_new: Callable[[Ask], None] | None = None,
) -> Ask:
    """Record a question and return it; `on_new` is called with it, but not when it was asked before.

    A caller that asks again what its own invocation asked before, and never got told the answer of, is given that
    ask: agents lose a blocked `ask` to their own tool timeouts, and the human must not see the question twice.
    With `expires_in` seconds, `default` becomes the answer when nobody has given one by then.
    """
    safe_name("a worker", worker)
    content = (worker, _text("prompt", prompt), reference, tuple(options), holder, default)
    if expires_in:
        _text("default", default)
    with _lock(paths):
        _mend(paths)
        for ask in open_asks(paths) if holder else ():
            if (ask.worker, ask.prompt, ask.reference, ask.options, ask.holder, ask.default) == content:
                return ask
        n = store.next_number(worker, (paths.asks, paths.answers), _ledger(paths), paths.asks_done)
        ask = Ask(
            f"{worker}-{n}", worker, prompt, reference, tuple(options), now, holder, escalate_after,
            now + expires_in if expires_in else 0.0, default, asked if expires_in else None,
        )  # fmt: skip
        if not store.create(_file(paths.asks, ask.id), store.dump_json(ask.to_json())):
            raise StateError(f"cannot write {_file(paths.asks, ask.id)}: something is there already")
    _tell("ask_raised", ask, ask.prompt)
    if on_new:
        on_new(ask)
    return ask


def deliver(paths: Paths, ask: Ask, answer: Answer, now: float) -> None:
    """Note that the asker has this answer, and archive both. An ask that is gone meanwhile needs no note."""
    with _lock(paths):
        found = find(paths, ask.id)
        if found is None or found.end == DELIVERED:
            return
        _archive(paths, replace(ask, answer=answer, broken=found.broken, trouble=found.trouble), DELIVERED, now)
    _tell("ask_delivered", ask, answer.text)


def withdraw(paths: Paths, ask_id: str, now: float) -> Answer | None:
    """Take an ask back because nobody will read its answer; if one came just before, return that instead."""
    with _lock(paths):
        ask = find(paths, ask_id)
        if ask is None or ask.end or ask.answer:
            return ask.answer if ask else None
        _archive(paths, ask, questions.WITHDRAWN, now)
    _tell("ask_withdrawn", ask, ask.prompt)
    return None


# -- the human


def answer(paths: Paths, ask_id: str, text: str, now: float, force: bool = False) -> Ask:
    """Answer an ask and return it. The first answer wins; `force` replaces it until it is delivered.

    Raises Refused, with what was said before.
    """
    said = Answer(_text("answer", text), now)
    with _lock(paths):
        ask = _answerable(paths, ask_id)
        if ask.answer and not force:
            raise Refused(f"cannot answer {ask_id}: {_before(ask)}", hint="--force replaces the answer")
        if ask.trouble and not force:
            read_answer(paths, ask_id)  # says so
        store.write(_file(paths.answers, ask_id), store.dump_json(said.to_json()))
    _tell("ask_answered", ask, text)
    return replace(ask, answer=said, trouble="")


def _answerable(paths: Paths, ask_id: str) -> Ask:
    ask = find(paths, ask_id)
    if ask is None:
        raise Refused(f"cannot answer {ask_id}: no such ask", hint="`looopctl asks` lists the open ones")
    if ask.end:
        raise Refused(f"cannot answer {ask_id}: {_before(ask)}")
    return ask


def _before(ask: Ask) -> str:
    """What became of an ask so far, for whoever comes too late."""
    if ask.answer is None:
        return f"it was {ask.end}"
    said = f"already answered: {ask.answer.text.strip()[:200]!r}"
    said += ", its default" if ask.answer.by == questions.DEFAULT else ""
    return f"{said}, and {ask.worker} has read it" if ask.end == DELIVERED else said


def close(paths: Paths, ask_id: str, how: str, now: float) -> Ask:
    """Move an open ask out of the way without its asker: `how` is closed or redispatched. Raises Refused."""
    with _lock(paths):
        ask = find(paths, ask_id)
        if ask is None or ask.end:
            why = f"it was {ask.end} already" if ask else "no such ask"
            raise Refused(f"cannot close {ask_id}: {why}", hint="`looopctl asks` lists the open ones")
        _archive(paths, ask, how, now)
    _tell("ask_redispatched" if how == questions.REDISPATCHED else "ask_withdrawn", ask, f"{how}: {ask.prompt}")
    return ask


# -- time


def expire(paths: Paths, ask_id: str, now: Stamp) -> Ask | None:
    """Give an ask that is due its default as the answer; None when there was nothing to do."""
    with _lock(paths):
        ask = find(paths, ask_id)
        if ask is None or ask.end or ask.answer or ask.trouble or not ask.expires or (ask.left(now) or 0.0) > 0:
            return None
        said = Answer(ask.default, now.wall, questions.DEFAULT)
        store.write(_file(paths.answers, ask_id), store.dump_json(said.to_json()))
    _tell("ask_expired", ask, ask.default)
    return replace(ask, answer=said)


def expiry_line(ask: Ask) -> str:
    """For journal.md."""
    return f"nobody answered {ask.id} in time · it goes on with {ask.default}"


def expire_due(paths: Paths, judge: Judge, now: Stamp) -> list[Ask]:
    """`expire` whatever is due and whose asker may live: for askers that are stopped or hang.

    A dead asker's question stays the human's: the default was only ever for the asker to go on with.
    """
    expired = []
    for ask in pending(paths):
        left = ask.left(now)
        if left is None or left > 0 or _gone_or_unknown(ask, judge):
            continue
        done = expire(paths, ask.id, now)
        if done:
            expired.append(done)
    return expired


def _gone_or_unknown(ask: Ask, judge: Judge) -> bool:
    try:
        return ask.holder is not None and not judge(ask.holder)
    except Unavailable:
        return True  # the asker itself keeps the time; this is only its stand-in


def prune(paths: Paths, ttl: float, now: float) -> list[str]:
    """Archive what nobody came for within `ttl` seconds of its answer, then forget what was archived that long ago.

    Returns the ids of both. What cannot be moved is left where it is and raises StateError at the end.
    """
    done: list[str] = []
    failed: LooopError | None = None
    with _lock(paths):
        _mend(paths)
        for ask in [ask for ask in _listed(paths) if _is_over(paths, ask, ttl, now)][:MOVES]:
            try:
                if _is_archived(paths, ask.id):
                    _clear(paths, ask)
                else:
                    _archive(paths, ask, ask.end or questions.ANSWERED, now)
                done.append(ask.id)
            except StateError as error:
                failed = error
        done += _drop_orphans(paths, now - ttl)
        if store.due(paths.asks_done / ".pruned.json", now, min(PRUNE_EVERY_S, ttl / 10)):
            old = [name for name in store.older(paths.asks_done, ".json", now - ttl) if _is_id(name)]
            if old:
                store.retire_numbers(_ledger(paths), old)
            for name in old:
                store.remove(paths.asks_done / f"{name}.json")
            done += old
    if failed:
        raise failed
    return done


def _is_over(paths: Paths, ask: Ask, ttl: float, now: float) -> bool:
    if ask.end or _is_archived(paths, ask.id):
        return True
    kept = ttl if ask.holder else min(ttl, UNCLAIMED_S)
    return ask.answer is not None and ask.answer.ts < now - kept


def _drop_orphans(paths: Paths, limit: float) -> list[str]:
    """Answers to asks that are no longer there."""
    dropped = []
    for ask_id in set(_ids(paths.answers)) - set(_ids(paths.asks)):
        try:
            found = read_answer(paths, ask_id)
        except StateError:
            continue  # the human may want to see it
        if found and (found.ts < limit or _is_archived(paths, ask_id)):
            store.retire_numbers(_ledger(paths), [ask_id])
            store.remove(_file(paths.answers, ask_id))
            dropped.append(ask_id)
    return sorted(dropped)


# -- writing


def _archive(paths: Paths, ask: Ask, how: str, now: float) -> None:
    """One record of both in asks/done/, then asks/ is cleared, then answers/: interrupted, no ask opens again."""
    store.retire_numbers(_ledger(paths), [ask.id], durable=False)
    store.write_json(_file(paths.asks_done, ask.id), replace(ask, end=how, ended=now).archived_json())
    _clear(paths, ask)


def _clear(paths: Paths, ask: Ask) -> None:
    for folder, bad in ((paths.asks, ask.broken), (paths.answers, ask.trouble)):
        (store.set_aside if bad else store.remove)(_file(folder, ask.id))


def _mend(paths: Paths) -> None:
    problem = store.mend_numbers(_ledger(paths), paths.asks_done)
    if problem:
        from looop.systemd import journal

        journal.emit("state_degraded", text=problem)


def _is_id(name: str) -> bool:
    try:
        return bool(split(name))
    except UsageError:
        return False


def _text(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot use the {what}: not UTF-8 at character {error.start}") from error
    if not text.strip() or "\0" in text:
        raise UsageError(f"cannot use an empty {what}, or one with a NUL character in it")
    return text


def _tell(event: str, ask: Ask, said: str) -> None:
    from looop.systemd import journal

    journal.emit(event, ask=ask.id, session=ask.worker, text=f"{ask.id}: {said}")
