"""Everything known about one worker's generation, or about one run, gathered from records, transcript and journal.

Used by `looopctl why`; writes nothing. What cannot be learned is None or says "unknown": it is never left out as if
there were nothing. Ids of workers are used again, so each fact is taken of one generation (InvocationID) only.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from looop import audit, claims, mailbox, questions, runs, store
from looop.clock import Stamp, utc
from looop.config import Config
from looop.errors import LooopError, Refused, StateError, Unavailable
from looop.jsonutil import JsonError, as_object, get_object
from looop.paths import Paths
from looop.sessions import fleet, records
from looop.sessions.wire import plain
from looop.systemd import journal
from looop.systemd.identity import Holder
from looop.systemd.manager import Manager

TAIL_BYTES = 65536
LINES = 15
EVENTS = 20
JOURNAL_LINES = 10
_TASK = "\n---\n\n"  # below it, in a brief, is the task
RESULTS = {
    "oom-kill": "memory ran out, and the kernel killed it: its own limit (memory_max) or the machine's",
    "timeout": "it ran longer than it may (runtime_max), and systemd stopped it",
    "resources": "systemd could not give it what it needs",
    "canceled": "its job was cancelled before it was done",
    "exit-code": "it ended with an exit code that says failure",
    "signal": "a signal ended it",
    "core-dump": "it crashed",
    "success": "it ended by itself",
}


# -- which one is meant


def find(paths: Paths, text: str) -> tuple[list[str], list[str]]:
    """Folders of sessions (below sessions/) and runs that `text` names; `worker:` or `run:` before it says which.

    A worker's id means its last generation; an earlier one is named by its folder in sessions/.old, or the beginning
    of that. Raises Refused with what is near when nothing is found.
    """
    kind, colon, rest = text.partition(":")
    wanted = rest if colon and kind in ("worker", "run") else text
    workers = _sessions(paths, wanted) if kind != "run" or not colon else []
    found = [run for run in runs.ids(paths) if run == wanted] if kind != "worker" or not colon else []
    if not workers and not found:
        near = _near(wanted, [*records.ids(paths), *runs.ids(paths)])
        hint = f"near: {', '.join(near)}" if near else "`looopctl worker list --all` and runs/ have what there is"
        raise Refused(f"cannot tell about {text!r}: no worker and no run of that name is known", hint=hint)
    return workers, found


def _sessions(paths: Paths, text: str) -> list[str]:
    known = records.ids(paths)
    if text in known:
        return [text]
    closed = _closed(paths)
    found = [name for name in closed if name == text] or [name for name in closed if text and name.startswith(text)]
    if len(found) > 1:
        raise Refused(f"cannot tell which of {len(found)} earlier generations {text!r} is", hint=f"{', '.join(found)}")
    return [f"{records.OLD}/{name}" for name in found]


def _closed(paths: Paths) -> list[str]:
    """Names in sessions/.old, the oldest first."""
    folder = paths.sessions / records.OLD
    try:
        found = [(entry.stat().st_mtime_ns, entry.name) for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(f"cannot list {folder}: {error.strerror}") from error
    return [name for _, name in sorted(found)]


def _near(text: str, known: Iterable[str]) -> list[str]:
    import difflib

    names = list(known)
    inside = [name for name in names if text and text in name]
    return list(dict.fromkeys([*difflib.get_close_matches(text, names, 5), *inside]))[:5]


# -- a worker


def worker(paths: Paths, config: Config, name: str, now: Stamp) -> dict[str, Any]:
    """All about one generation; `name` is its folder below sessions/."""
    folder = paths.sessions / name
    closed = name.startswith(f"{records.OLD}/")
    worker_id = name.removeprefix(f"{records.OLD}/").rpartition(".")[0] if closed else name
    with Manager("user") as user, Manager("system") as system:
        judge = claims.judge(user, system)
        session, trouble = _session(paths, config, name, closed, user, now)
        asks = _asks(paths, worker_id, session.invocation, judge, now)
    try:
        meta: records.Meta | None = records.read_meta(folder)
    except StateError:
        meta = None
    ended = _read(folder / "exit.json", session.invocation) or _read(folder / "ended.json", session.invocation)
    gone = _time(ended, "ended")
    prompt = folder / "prompt.md" if closed else paths.prompts / f"{worker_id}.md"
    until = _time(_read_any(folder / "closed.json"), "closed") if closed else None
    since = None if session.started is None else session.started.wall - 1
    page = session.to_json()
    if trouble:
        page |= {"alive": None, "state": "unknown", "health": "unknown", "problem": trouble}
    return page | {
        "how": "unknown" if trouble else fleet.how_ended(session) if not session.alive else session.state,
        "result_text": RESULTS.get(session.result, session.result),
        "ended": None if gone is None else utc(gone),
        "command": meta and meta.command,
        "started_by": _started_by(paths, meta),
        "verify": _verify(folder, meta),
        "asks": asks,
        "claims": [{"name": c.name, "since": utc(c.since)} for c in _held(paths, session.invocation)],
        "prompt": {"path": str(prompt), "head": _head(prompt, brief=True)},
        "output": _output(folder / "output.log"),
        "moves": _moves(paths, worker_id, since, until),
        "lines": _lines(paths, [f" [{session.run}]"] if session.run else [], worker_id, since, until),
        "events": _events({"LOOOP_SESSION": worker_id}, since, until),
        "earlier": [n for n in _closed(paths) if n.rpartition(".")[0] == worker_id and n != Path(name).name],
    }


def _session(
    paths: Paths, config: Config, name: str, closed: bool, user: Manager, now: Stamp
) -> tuple[fleet.Session, str]:
    """The session, and why it cannot be judged."""
    if closed:
        return fleet.earlier(paths, name.removeprefix(f"{records.OLD}/"), now), ""
    try:
        live, trouble = user.live(["looop-worker-*.scope"]), ""
    except Unavailable as error:
        live, trouble = {}, str(error)
    waiting: dict[str, float] = {}
    if not trouble:
        waiting = mailbox.waiting(paths, lambda holder: live.get(holder.unit) == holder.invocation, now.wall)
    unit = fleet.unit_name(name)
    idle = asyncio.run(fleet.probe(paths, [unit])) if unit in live else {}
    [session] = [s for s in fleet.read(paths, config, live, now, waiting, idle) if s.id == name]
    if session.exit_code is not None or session.signal:
        trouble = ""  # its own exit record is proof enough
    return session, trouble


def _started_by(paths: Paths, meta: records.Meta | None) -> dict[str, Any]:
    """Who and what for: the run, and in it the rule."""
    if meta is None:
        return {"source": "unknown", "run": None, "rule": None, "reason": None}
    record = _record(paths, meta.run) if meta.run else None
    return {
        "source": meta.source or "unknown",
        "run": meta.run or None,
        "rule": record and (record.rule or None),
        "reason": record and (record.journal or record.summary or None),
    }


def _verify(folder: Path, meta: records.Meta | None) -> dict[str, Any] | None:
    if meta is None or not meta.verify:
        return None
    try:
        verdict = records.read_verdict(folder, meta.invocation)
    except StateError as error:
        return {"command": meta.verify, "state": "unknown", "output": str(error)}
    if verdict is None:
        return {"command": meta.verify, "state": "pending", "output": ""}
    shown = {"state": verdict.state, "tries": verdict.tries, "code": verdict.code, "output": verdict.output}
    return {"command": meta.verify, **shown, "at": utc(verdict.at.wall)}


def _asks(paths: Paths, worker_id: str, invocation: str, judge: mailbox.Judge, now: Stamp) -> list[dict[str, Any]]:
    """What this generation asked, open and archived."""
    ids = [name for name in store.names(paths.asks_done, ".json") if name.rpartition("-")[0] == worker_id]
    found = {ask.id: ask for ask in mailbox.open_asks(paths)}
    for ask_id in ids:
        try:
            ask = mailbox.archived(paths, ask_id)
        except LooopError:
            continue
        if ask:
            found[ask_id] = ask
    mine = [ask for ask in found.values() if ask.holder and invocation and ask.holder.invocation == invocation]
    return questions.rows(sorted(mine, key=lambda ask: ask.order), judge, now.wall)


def _held(paths: Paths, invocation: str) -> list[claims.Claim]:
    def by(holder: Holder | None) -> bool:
        return holder is not None and bool(invocation) and holder.invocation == invocation

    return [claim for claim in claims.listing(paths) if by(claim.holder)]


def _moves(paths: Paths, worker_id: str, since: float | None, until: float | None) -> list[dict[str, Any]]:
    """The runs that were about this worker in its time, interrupted ones too, oldest first."""
    found = []
    for run in reversed(runs.ids(paths)):
        record = _record(paths, run)
        if record and worker_id in (record.action.get("id"), record.action.get("worker")):
            if record.action.get("action") in ("start_worker", "kill_worker", "send_tell"):
                if (since is None or record.at.wall > since - 120) and (until is None or record.at.wall <= until):
                    found.append(_brief(record))
    return found


def _brief(record: runs.Record) -> dict[str, Any]:
    said = record.error or record.journal or record.summary
    return {"run": record.run, "action": record.action.get("action"), "state": record.state, "text": said}


# -- a run


def run(paths: Paths, name: str) -> dict[str, Any]:
    """All about one decision, or one command of a human's."""
    folder = runs.folder(paths, name)
    try:
        record = runs.load(paths, name)
        problem = "" if record else "it left no record"
    except StateError as error:
        record, problem = None, str(error)
    world = _read_any(folder / "world.json")
    usage = runs.usage_of(paths, name)
    page = record.to_json() | {"at": utc(record.at.wall)} if record else {"run": name, "state": "unknown"}
    page.pop("v", None)
    started = str(record.action.get("id")) if record and record.action.get("action") == "start_worker" else ""
    return page | {
        "problem": problem,
        "why": _why(world),
        "prompt": {"path": str(folder / "prompt.md"), "head": _head(folder / "prompt.md")},
        "output": _output(folder / "output.log"),
        "shell": _output(folder / "shell.log"),
        "usage": usage,
        "cost": _cost(paths, name),
        "lines": _lines(paths, [f" [{name}]"], "", None, None),
        "events": _events({"LOOOP_RUN": name}, record.at.wall - 1 if record else None, None),
        "worker": started or None,
    }


def _why(world: dict[str, Any] | None) -> dict[str, Any] | None:
    """What had changed, or what forced it, as the decider was told; None when that is not known."""
    if world is None:
        return None
    return {"forced": world.get("forced") or "", "changed": list(world.get("changed") or ())} | {
        key: world.get(key) for key in ("last_failure", "interrupted")
    }


def _cost(paths: Paths, name: str) -> list[dict[str, Any]] | None:
    """Its rows in the ledger; None when that cannot be read."""
    found = []
    try:
        for line in runs.ledger(paths):
            if name in line:
                try:
                    row = as_object(json.loads(line))
                except ValueError:
                    continue
                if row.get("run", row.get("id")) == name:
                    found.append(row)
    except StateError:
        return None
    return found


# -- parts of both


def _record(paths: Paths, name: str) -> runs.Record | None:
    try:
        return runs.load(paths, name)
    except StateError:
        return None


def _read_any(path: Path) -> dict[str, Any] | None:
    try:
        return store.read_json(path)
    except StateError:
        return None


def _read(path: Path, invocation: str) -> dict[str, Any] | None:
    found = _read_any(path)
    return found if found and found.get("invocation") == invocation else None


def _time(record: dict[str, Any] | None, key: str) -> float | None:
    try:
        return Stamp.from_json(get_object(record or {}, key)).wall
    except JsonError:
        return None


def _head(path: Path, brief: bool = False) -> list[str] | None:
    """The first lines of a prompt, of a worker's brief those of its task; None when it is not there any more."""
    try:
        data = store.read_bytes(path)
    except StateError:
        return None
    if data is None:
        return None
    text = data.decode(errors="replace")
    return (text.partition(_TASK)[2] if brief and _TASK in text else text).splitlines()[:LINES]


def _output(path: Path) -> dict[str, Any] | None:
    """The last lines of a transcript as plain text; None when there is none."""
    try:
        if not path.is_file():  # a FIFO would block
            return None
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError:
        return None
    lines = [line.rstrip() for line in plain(data).splitlines()]
    return {"path": str(path), "bytes": size, "tail": [line for line in lines if line][-LINES:]}


def _lines(
    paths: Paths, marks: list[str], worker_id: str, since: float | None, until: float | None
) -> list[str] | None:
    """Lines of journal.md that end in one of the marks or name the worker, of its time; None when unreadable."""
    import time

    try:
        lines = audit.tail(paths, 0)
    except StateError:
        return None
    named = re.compile(rf"(?<![\w.-]){re.escape(worker_id)}(?![\w-]|\.\w)") if worker_id else None
    # the time a line begins with compares as text
    first, last = (
        "" if wall is None else time.strftime("- %Y-%m-%d %H:%M", time.localtime(wall)) for wall in (since, until)
    )
    found = []
    for line in lines:
        in_time = line[:18] >= first and (not last or line[:18] <= last)
        if any(line.endswith(mark) for mark in marks) or (in_time and named and named.search(line)):
            found.append(line)
    return found[-JOURNAL_LINES:]


def _events(match: dict[str, str], since: float | None, until: float | None) -> list[dict[str, Any]] | None:
    """The last events in the systemd journal; None when it cannot be read."""
    try:
        found = [e for e in journal.read(since=since, match=match) if until is None or e["ts"] <= until]
    except OSError:
        return None
    return [{"ts": e["ts"], "event": e["event"], "message": e["message"]} for e in found[-EVENTS:]]
