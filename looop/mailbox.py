"""Questions and answers: asks/WORKER-N.json until answers/WORKER-N.json is there.

Written by the `ask` and `answer` verbs, read by everyone. An ask belongs to the unit invocation that raised it, so
an answer never reaches a later worker of the same id. Numbers are never used twice, not even those of asks that
were withdrawn or pruned. Every write is made under asks/.lock, so an ask is answered or withdrawn, never both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from looop import store
from looop.errors import Refused, StateError, Unavailable, UsageError
from looop.jsonutil import JsonError, get_bool, get_num, get_str, get_strs
from looop.paths import Paths, safe_name
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit

Judge: TypeAlias = Callable[[Holder], bool]

VERSION = 1


@dataclass(frozen=True)
class Ask:
    """One question. `holder` is None when it was raised outside of any unit; `broken` says why it cannot be read."""

    id: str
    worker: str
    prompt: str = ""
    reference: str = ""
    options: tuple[str, ...] = ()
    ts: float = 0.0
    holder: Holder | None = None
    delivered: bool = False
    broken: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored; what is empty is left out."""
        record: dict[str, Any] = {"v": VERSION, "id": self.id, "worker": self.worker, "prompt": self.prompt}
        if self.reference:
            record["reference"] = self.reference
        if self.options:
            record["options"] = list(self.options)
        record["ts"] = round(self.ts, 3)
        if self.delivered:
            record["delivered"] = True
        return {**record, **(self.holder.to_json() if self.holder else {})}

    @property
    def order(self) -> tuple[float, str, int]:
        """Oldest first; w-2 before w-10."""
        worker, n = split(self.id)
        return self.ts, worker, n


@dataclass(frozen=True)
class Answer:
    """What the human said."""

    text: str
    ts: float


def split(ask_id: str) -> tuple[str, int]:
    """Worker and number of an ask id. Raises UsageError when it is none."""
    worker, dash, n = ask_id.rpartition("-")
    if not dash or not (n.isascii() and n.isdigit()):
        shown = repr(ask_id if len(ask_id) <= 80 else ask_id[:77] + "...")
        raise UsageError(f"cannot use {shown} as an ask id", hint="`looopctl asks` lists them, for example setup-1")
    return safe_name("a worker", worker), int(n)


def _ask_path(paths: Paths, ask_id: str) -> Path:
    split(ask_id)
    return paths.asks / f"{ask_id}.json"


def _answer_path(paths: Paths, ask_id: str) -> Path:
    split(ask_id)
    return paths.answers / f"{ask_id}.json"


def _ledger(paths: Paths) -> Path:
    return paths.asks / ".numbers.json"


def _lock(paths: Paths) -> Any:
    for folder in (paths.asks, paths.answers):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return store.lock(paths.asks / ".lock")


def read(paths: Paths, ask_id: str) -> Ask | None:
    """The ask, or None when there is none of that id. Raises StateError when its record is broken."""
    worker, _ = split(ask_id)
    path = _ask_path(paths, ask_id)
    obj = store.read_record(path)
    if obj is None:
        return None
    try:
        return Ask(
            ask_id,
            get_str(obj, "worker", worker),
            get_str(obj, "prompt"),
            get_str(obj, "reference", ""),
            tuple(get_strs(obj, "options", [])),
            get_num(obj, "ts", 0.0),
            Holder.from_json(obj) if obj.get("invocation") else None,
            get_bool(obj, "delivered", False),
        )
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint="mend it or move it away") from error


def read_answer(paths: Paths, ask_id: str) -> Answer | None:
    """The answer, or None while there is none. Raises StateError when its record is broken."""
    path = _answer_path(paths, ask_id)
    hint = f"`looopctl answer --force {ask_id} TEXT` replaces it"
    try:
        obj = store.read_record(path)
        return None if obj is None else Answer(get_str(obj, "answer"), get_num(obj, "ts", 0.0))
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint=hint) from error
    except StateError as error:
        raise StateError(error.message, hint=hint) from error


def _ids(folder: Path) -> list[str]:
    """The ids in a folder; a file whose name is no ask id is nobody's and is left alone."""
    found = []
    for name in store.names(folder, ".json"):
        try:
            split(name)
        except UsageError:
            continue
        found.append(name)
    return found


def every(paths: Paths) -> list[Ask]:
    """All asks, oldest first; unreadable ones are there with `broken` set."""
    asks = []
    for ask_id in _ids(paths.asks):
        try:
            ask = read(paths, ask_id)
        except StateError as error:
            ask = Ask(ask_id, split(ask_id)[0], broken=error.message)
        if ask:
            asks.append(ask)
    return sorted(asks, key=lambda ask: ask.order)


def pending(paths: Paths) -> list[Ask]:
    """The asks without a usable answer, oldest first; unreadable ones are there with `broken` set."""
    answers = set(_ids(paths.answers))
    return [ask for ask in every(paths) if ask.id not in answers or not _answered_before(paths, ask.id, math.inf)]


def raise_ask(
    paths: Paths,
    worker: str,
    prompt: str,
    now: float,
    *,
    reference: str = "",
    options: Sequence[str] = (),
    holder: Holder | None = None,
) -> Ask:
    """Record a question and return it.

    A caller that asks again what its own invocation asked before, and never got told the answer of, is given that
    ask: agents lose a blocked `ask` to their own tool timeouts, and the human must not see the question twice.
    """
    safe_name("a worker", worker)
    asked = (_text("prompt", prompt), reference, tuple(options))
    with _lock(paths):
        if holder:
            for ask in every(paths):
                same = ask.worker == worker and (ask.prompt, ask.reference, ask.options) == asked
                if same and ask.holder == holder and not ask.delivered:
                    return ask
        n = store.next_number(worker, (paths.asks, paths.answers), _ledger(paths))
        ask = Ask(f"{worker}-{n}", worker, prompt, reference, tuple(options), now, holder)
        if not store.create(_ask_path(paths, ask.id), store.dump_json(ask.to_json())):
            raise StateError(f"cannot write {_ask_path(paths, ask.id)}: something is there already")
    _tell("ask_raised", ask, ask.prompt)
    return ask


def _text(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot use the {what}: not UTF-8 at character {error.start}") from error
    if not text.strip() or "\0" in text:
        raise UsageError(f"cannot use an empty {what}, or one with a NUL character in it")
    return text


def answer(paths: Paths, ask_id: str, text: str, now: float, force: bool = False) -> Ask:
    """Answer an ask and return it. The first answer wins; `force` replaces it. Raises Refused."""
    record = store.dump_json({"v": VERSION, "answer": _text("answer", text), "ts": round(now, 3)})
    path = _answer_path(paths, ask_id)
    with _lock(paths):
        try:
            ask = read(paths, ask_id)
        except StateError as error:
            ask = Ask(ask_id, split(ask_id)[0], broken=error.message)
        if ask is None:
            raise Refused(f"cannot answer {ask_id}: no such ask", hint="`looopctl asks` lists the open ones")
        if force:
            store.write(path, record)
        elif not store.create(path, record):
            read_answer(paths, ask_id)  # a broken one says so
            raise Refused(f"cannot answer {ask_id}: already answered", hint="--force replaces the answer")
    _tell("ask_answered", ask, text)
    return ask


def withdraw(paths: Paths, ask_id: str) -> Answer | None:
    """Take an ask back because nobody will read its answer; if one came just before, return that instead."""
    with _lock(paths):
        found = read_answer(paths, ask_id)
        if found:
            return found
        ask = read(paths, ask_id)
        if ask is None:
            return None
        store.retire_numbers(_ledger(paths), [ask_id])
        store.remove(_ask_path(paths, ask_id))
    _tell("ask_withdrawn", ask, ask.prompt)
    return None


def deliver(paths: Paths, ask_id: str) -> None:
    """Note that the asker has the answer. An ask that is gone meanwhile needs no note."""
    with _lock(paths):
        ask = read(paths, ask_id)
        if ask and not ask.delivered:
            store.write_json(_ask_path(paths, ask_id), {**ask.to_json(), "delivered": True})


def state(ask: Ask, judge: Judge) -> str:
    """live, stranded (nobody will read the answer) or unknown."""
    if ask.holder is None:
        return "unknown"
    try:
        return "live" if judge(ask.holder) else "stranded"
    except Unavailable:
        return "unknown"


def waiting(paths: Paths, judge: Judge, now: float) -> dict[str, float]:
    """Worker -> age in seconds of its oldest open ask. Only what the worker's present generation raised counts.

    Raises Unavailable when that cannot be told.
    """
    ages: dict[str, float] = {}
    for ask in pending(paths):
        if ask.worker in ages or ask.holder is None or ask.holder.unit != worker_unit(ask.worker):
            continue
        if judge(ask.holder):
            ages[ask.worker] = max(0.0, now - ask.ts)
    return ages


def prune(paths: Paths, ttl: float, now: float) -> list[str]:
    """Remove what was answered more than `ttl` seconds ago; returns the ids.

    The ask goes before its answer: whatever interrupts this, an answered ask is never open again.
    """
    with _lock(paths):
        old = [ask_id for ask_id in _ids(paths.answers) if _answered_before(paths, ask_id, now - ttl)]
        if old:
            store.retire_numbers(_ledger(paths), old)
        for ask_id in old:
            store.remove(_ask_path(paths, ask_id))
            store.remove(_answer_path(paths, ask_id))
    return old


def _answered_before(paths: Paths, ask_id: str, limit: float) -> bool:
    try:
        found = read_answer(paths, ask_id)
    except StateError:
        return False  # a broken answer keeps its ask open, so it stays for the human to replace
    return found is not None and found.ts < limit


def _tell(event: str, ask: Ask, said: str) -> None:
    from looop.systemd import journal

    journal.emit(event, ask=ask.id, session=ask.worker, text=f"{ask.id}: {said}")
