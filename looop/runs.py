"""Run folders: one a decision, holding what was asked, what was answered and how far the move got.

`runs/RUN/record.json` is the durable record of one move: deciding -> intended -> executed -> committed, or
failed. A pulse that dies leaves it where it stood; `unfinished` finds it at the next start. Used by the pulse
and by the verbs that carry out a move themselves; never executes anything.
"""

import contextlib
import itertools
import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp, utc
from looop.errors import StateError
from looop.jsonutil import JsonError, get_bool, get_object, get_opt_str, get_str
from looop.paths import Paths

OPEN = ("deciding", "intended", "executed")


@dataclass(frozen=True)
class Record:
    """How far one run got. `state` is deciding, intended, executed, committed, failed, cancelled or interrupted."""

    run: str
    state: str
    source: str  # rules, decider or human
    at: Stamp
    world_hash: str = ""
    action: dict[str, Any] = field(default_factory=dict)
    journal: str = ""
    rule: str = ""
    key: str = ""
    summary: str = ""
    error: str = ""
    seen: bool = False  # an interrupted move that a later decision has been told about

    def to_json(self) -> dict[str, Any]:
        return {"v": 1, **vars(self), "at": self.at.to_json()}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Record":
        """Raises JsonError."""
        texts = {k: get_opt_str(obj, k) or "" for k in ("world_hash", "journal", "rule", "key", "summary", "error")}
        return cls(
            run=get_str(obj, "run"),
            state=get_str(obj, "state"),
            source=get_str(obj, "source"),
            at=Stamp.from_json(get_object(obj, "at")),
            action=get_object(obj, "action", {}),
            seen=get_bool(obj, "seen", False),
            **texts,
        )


def new(paths: Paths, now: Stamp, prefix: str = "beat") -> str:
    """Make a fresh run folder; returns its id, PREFIX-YYYYMMDD-HHMMSS in local time, -2, -3 ... on collision."""
    stem = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now.wall))}"
    for n in itertools.count(1):
        run = stem if n == 1 else f"{stem}-{n}"
        try:
            folder(paths, run).mkdir(mode=0o700)
            return run
        except FileExistsError:
            continue
        except OSError as error:
            raise StateError(f"cannot make {folder(paths, run)}: {error.strerror}") from error
    raise AssertionError("unreachable")


def folder(paths: Paths, run: str) -> Path:
    """The folder of a run."""
    return paths.runs / run


def save(paths: Paths, record: Record) -> Record:
    """Write the record durably; returns it."""
    store.write_json(folder(paths, record.run) / "record.json", record.to_json())
    return record


def advance(paths: Paths, record: Record, state: str, **changes: Any) -> Record:
    """Save the record in its next state."""
    return save(paths, replace(record, state=state, **changes))


def load(paths: Paths, run: str) -> Record | None:
    """The record of a run, None when it has none. Raises StateError."""
    path = folder(paths, run) / "record.json"
    obj = store.read_json(path)
    try:
        return None if obj is None else Record.from_json(obj)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}") from error


def ids(paths: Paths) -> list[str]:
    """Run ids, newest first (by folder time; ties by name). Raises StateError when runs/ cannot be listed."""
    try:
        found = [(entry.stat().st_mtime_ns, entry.name) for entry in paths.runs.iterdir() if entry.is_dir()]
    except OSError as error:
        raise StateError(f"cannot list {paths.runs}: {error.strerror}") from error
    return [name for _, name in sorted(found, reverse=True)]


def in_states(paths: Paths, *states: str) -> tuple[list[Record], list[StateError]]:
    """Records in one of `states`, oldest first, and what could not be read (never taken for finished)."""
    records: list[Record] = []
    broken: list[StateError] = []
    for run in reversed(ids(paths)):
        try:
            record = load(paths, run)
        except StateError as error:
            broken.append(error)
            continue
        if record is not None and record.state in states:
            records.append(record)
    return records, broken


def note_usage(paths: Paths, run: str, what: str, usage: dict[str, Any]) -> None:
    """Keep in usage.json how a helper of this run (decide, shell) ended, and what it took. Raises StateError."""
    path = folder(paths, run) / "usage.json"
    store.write_changed(path, store.dump_json({**usage_of(paths, run), what: usage}).encode())


def usage_of(paths: Paths, run: str) -> dict[str, Any]:
    """What `note_usage` kept, by helper; empty when nothing is known."""
    try:
        found = store.read_json(folder(paths, run) / "usage.json") or {}
    except StateError:
        return {}
    return {what: usage for what, usage in found.items() if isinstance(usage, dict)}


def prune(paths: Paths, keep: int) -> None:
    """Remove all but the newest `keep` run folders (0 = keep all); unfinished ones stay."""
    if not keep:
        return
    for run in ids(paths)[keep:]:
        with contextlib.suppress(StateError):
            record = load(paths, run)
            if record is not None and record.state in OPEN:
                continue
        shutil.rmtree(folder(paths, run), ignore_errors=True)


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a text file, decoded leniently; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


# -- money


def ledger(paths: Paths) -> list[str]:
    """The lines of cost.jsonl. Raises StateError."""
    return (store.read_text(paths.ledger) or "").splitlines()


def pay(paths: Paths, run: str, now: Stamp, cost_usd: float | None, source: str) -> None:
    """Append one ledger row; an unknown cost is a row too, so that it cannot pass for free."""
    row = {"ts": utc(now.wall), "kind": "decide", "run": run, "cost_usd": cost_usd, "source": source}
    store.append_line(paths.ledger, json.dumps(row))
