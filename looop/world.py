"""The world one beat has sensed, frozen: its hash, its named items, what changed, and world.json.

Pure. `view` fills it from files, the guards compare its hash, the deciders read it as data or as a prompt.
Only policy texts and the `signal` half of a reading feed the hash; `detail` informs and never wakes.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from looop.clock import Stamp
from looop.jsonutil import JsonError, JsonValue, as_object, canonical, get_object, get_str, loads

SENSOR = "sensor-"  # prefix of the snapshots that sensors/*.sh left; looop's own probes use sys-
VALUE_CHARS = 240
CHANGED_LINES = 200
DIFF_LINES = 40
TEXT_CHARS = 65536
TEXTS_CHARS = 1048576
ITEM_CHARS = 16384
UNREADABLE = "unreadable"  # in place of a digest


def digest(data: bytes) -> str:
    """32 hex digits that stand for `data`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest(pairs: list[tuple[str, str]]) -> str:
    # file names that are not UTF-8 reach us with surrogates in them (PEP 383)
    return digest(canonical(pairs).encode(errors="surrogateescape"))


@dataclass(frozen=True)
class Policy:
    """PLAYBOOK.md or one goal. `text` is None when there is no text to show, and `note` says why."""

    text: str | None
    digest: str
    note: str = ""


def policy(data: bytes | None) -> Policy:
    """A policy file's content; None means that it exists and cannot be read."""
    if data is None:
        return Policy(None, UNREADABLE, "unreadable")
    try:
        return Policy(data.decode(), digest(data))
    except UnicodeDecodeError:
        return Policy(None, digest(data), "not UTF-8")


@dataclass(frozen=True)
class Reading:
    """One snapshot. `raw` is its text when it was not JSON, else None; `digest` is of the bytes."""

    name: str
    signal: JsonValue
    detail: JsonValue
    raw: str | None
    digest: str

    @property
    def failed(self) -> bool:
        """True for the blobs that stand for a sensor that failed or printed too much."""
        return isinstance(self.signal, dict) and "error" in self.signal

    @property
    def item(self) -> str:
        """What a change is judged by."""
        if self.raw is not None:
            return f"not JSON, {self.digest}"
        text = canonical(self.signal)
        return text if len(text) <= ITEM_CHARS else f"{text[:ITEM_CHARS]}... {digest(text.encode())}"


def reading(name: str, data: bytes | None) -> Reading:
    """Parse one snapshot; None means that it exists and cannot be read. Nothing a sensor can print raises."""
    if data is None:
        return Reading(name, {"error": UNREADABLE}, None, None, UNREADABLE)
    try:
        value = loads(data.decode(), unique_keys=False)
    except (UnicodeDecodeError, JsonError):
        return Reading(name, None, None, data.decode(errors="replace"), digest(data))
    if isinstance(value, dict) and "signal" in value:
        return Reading(name, value["signal"], value.get("detail"), None, digest(data))
    return Reading(name, value, None, None, digest(data))


@dataclass(frozen=True)
class World:
    """Everything that may wake the loop. `playbook` is None when there is no such file, `rules` is a digest, or ""."""

    playbook: Policy | None
    goals: Mapping[str, Policy]
    readings: Mapping[str, Reading]
    rules: str = ""

    @cached_property
    def policies(self) -> dict[str, Policy]:
        """Item name -> policy text, the playbook first, goals by id."""
        found = {} if self.playbook is None else {"playbook": self.playbook}
        return found | {f"goal:{name}": self.goals[name] for name in sorted(self.goals)}

    @cached_property
    def items(self) -> dict[str, str]:
        """Item name -> what a change is judged by: "playbook", "goal:ID", "rules", "snap:NAME"."""
        found = self._steering
        return found | {f"snap:{name}": self.readings[name].item for name in sorted(self.readings)}

    @cached_property
    def hash(self) -> str:
        """32 hex digits, equal exactly for equal items (JSON of the sorted pairs is injective)."""
        return _digest(sorted(self.items.items()))

    @cached_property
    def policy_hash(self) -> str:
        """Like `hash`, over what the human steers with: the playbook, the goals and the rules."""
        return _digest(sorted(self._steering.items()))

    @property
    def _steering(self) -> dict[str, str]:
        found = {name: text.digest for name, text in self.policies.items()}
        return found | ({"rules": self.rules} if self.rules else {})

    @property
    def unreadable(self) -> list[str]:
        """The files, below the data directory, that are there and cannot be read."""
        found = ["PLAYBOOK.md"] if self.playbook is not None and self.playbook.digest == UNREADABLE else []
        found += [f"goals/{name}.md" for name, text in self.goals.items() if text.digest == UNREADABLE]
        return found + [f"snapshots/{name}.json" for name, r in self.readings.items() if r.digest == UNREADABLE]


@dataclass(frozen=True)
class Baseline:
    """The world a decision was made on, as kept for the skip gate and for the next WHAT CHANGED."""

    hash: str
    items: Mapping[str, str]
    texts: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"v": 1, "hash": self.hash, "items": dict(self.items), "texts": dict(self.texts)}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Baseline":
        """Raises JsonError naming the bad attribute."""
        items, texts = get_object(obj, "items"), get_object(obj, "texts", {})
        return cls(
            get_str(obj, "hash"),
            {name: get_str(items, name) for name in items},
            {name: get_str(texts, name) for name in texts},
        )


def baseline(world: World) -> Baseline:
    """What the next diff needs: every item, and the policy texts as far as they are of a sane size."""
    texts: dict[str, str] = {}
    room = TEXTS_CHARS
    for name, text in world.policies.items():
        if text.text is not None and len(text.text) <= min(TEXT_CHARS, room):
            texts[name] = text.text
            room -= len(text.text)
    return Baseline(world.hash, world.items, texts)


def clip(text: str, limit: int) -> str:
    """`text`, or its first `limit` characters and a mark."""
    return text if len(text) <= limit else text[:limit] + "…"


def diff(before: Baseline | None, after: Baseline) -> tuple[str, ...] | None:
    """WHAT CHANGED between two baselines, one line each; () when nothing did, None without an earlier one."""
    if before is None:
        return None
    lines = [line for name in sorted({*before.items, *after.items}) for line in _item_diff(name, before, after)]
    if len(lines) > CHANGED_LINES:
        lines[CHANGED_LINES - 1 :] = [f"({len(lines) - CHANGED_LINES + 1} more lines left out)"]
    return tuple(lines)


def _item_diff(name: str, before: Baseline, after: Baseline) -> Iterator[str]:
    old, new = before.items.get(name), after.items.get(name)
    old_text, new_text = before.texts.get(name), after.texts.get(name)
    if old == new:
        return
    if new is None:
        yield f"- {name} gone"
    elif old is None:
        shown = new if name.startswith("snap:") else (new_text or "").strip().partition("\n")[0]
        yield f"+ {name} appeared: {clip(shown, VALUE_CHARS)}"
    elif name.startswith("snap:"):
        yield f"~ {name}: {clip(old, VALUE_CHARS)} -> {clip(new, VALUE_CHARS)}"
    elif old_text is not None and new_text is not None:
        yield f"~ {name} edited:"
        yield from _text_diff(old_text, new_text)
    else:
        yield f"~ {name} edited"


def _text_diff(old: str, new: str) -> Iterator[str]:
    lines = list(difflib.unified_diff(old.split("\n"), new.split("\n"), n=1, lineterm=""))[2:]
    for line in lines[:DIFF_LINES]:
        yield "    " + clip(line, VALUE_CHARS)
    if len(lines) > DIFF_LINES:
        yield f"    ({len(lines) - DIFF_LINES} more lines of this diff left out)"


@dataclass(frozen=True)
class Asked:
    """An open question to the human. `state` is "pending", "answered", "stranded" or "unknown"."""

    id: str
    worker: str
    prompt: str
    state: str
    ts: float
    reference: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class Failed:
    """How the last beat failed: `count` failures in a row by now."""

    run: str
    code: str
    error: str
    count: int
    at: Stamp


@dataclass(frozen=True)
class Interrupted:
    """A move that was begun and never recorded as finished; `move` is its JSON form."""

    run: str
    summary: str
    move: Mapping[str, Any]


@dataclass(frozen=True)
class Shell:
    """The run_shell move before this decision; `outcome` reads "exited 0", "timed out", ..."""

    cmd: str
    outcome: str
    output: str


@dataclass(frozen=True)
class Context:
    """What deciders are told besides the world. `tag` frames the prompt: random, fixed per installation."""

    now: Stamp
    local_time: str
    data_dir: str
    tag: str
    changed: tuple[str, ...] | None = None
    asks: tuple[Asked, ...] = ()
    journal: tuple[str, ...] = ()
    last_failure: Failed | None = None
    interrupted: tuple[Interrupted, ...] = ()
    last_shell: Shell | None = None
    flapping: tuple[str, ...] = ()
    fairness: str = ""
    forced: str = ""
    unknown: tuple[str, ...] = ()


def to_json(world: World, context: Context) -> dict[str, Any]:
    """world.json: the world as data, for rules and for deciders that are programs."""
    failure, shell = context.last_failure, context.last_shell
    return {
        "v": 1,
        "now": {"unix": int(context.now.wall), "local": context.local_time},
        "data_dir": context.data_dir,
        "forced": context.forced,
        "playbook": None if world.playbook is None else _policy_json(world.playbook),
        "goals": {name: _policy_json(world.goals[name]) for name in sorted(world.goals)},
        "sensors": {
            name.removeprefix(SENSOR): _reading_json(found)
            for name, found in sorted(world.readings.items())
            if name.startswith(SENSOR)
        },
        "sessions": _sessions(world.readings.get("sys-sessions")),
        "claims": _list(world.readings.get("sys-claims")),
        "asks": [_ask_json(ask, context.now) for ask in context.asks],
        "schedules": _schedules(world.readings.get("sys-schedules")),
        "unknown": list(context.unknown),
        "changed": list(context.changed or ()),
        "last_failure": failure
        and {
            "run": failure.run,
            "code": failure.code,
            "error": failure.error,
            "count": failure.count,
            "age_s": int(failure.at.age(context.now)),
        },
        "interrupted": [{"run": i.run, "summary": i.summary, "move": dict(i.move)} for i in context.interrupted],
        "last_shell": shell and {"cmd": shell.cmd, "outcome": shell.outcome, "output": shell.output},
        "flapping": list(context.flapping),
        "fairness": context.fairness or None,
        "journal": list(context.journal),
    }


def _policy_json(text: Policy) -> dict[str, Any]:
    return {"body": text.text} | ({"note": text.note} if text.note else {})


def _reading_json(found: Reading) -> dict[str, Any]:
    return {"signal": found.signal, "detail": found.detail} | ({} if found.raw is None else {"raw": found.raw})


def _ask_json(ask: Asked, now: Stamp) -> dict[str, Any]:
    return {
        "id": ask.id,
        "worker": ask.worker,
        "state": ask.state,
        "prompt": ask.prompt,
        "reference": ask.reference,
        "options": list(ask.options),
        "answer": ask.answer or None,
        "age_s": max(0, int(now.wall - ask.ts)),
    }


def _list(found: Reading | None) -> list[Any]:
    return list(found.signal) if found is not None and isinstance(found.signal, list) else []


def _object(value: object) -> dict[str, Any]:
    try:
        return as_object(value)
    except JsonError:
        return {}


def _sessions(found: Reading | None) -> list[dict[str, Any]]:
    """Identity and state from the signal, ages and texts from the detail, `alive` for rules to test."""
    workers = _object(_object(found.detail).get("workers")) if found is not None else {}
    rows = [row for row in _list(found) if isinstance(row, dict)]
    return [
        {"alive": row.get("state") in ("starting", "running")} | _object(workers.get(str(row.get("id")))) | row
        for row in rows
    ]


def _schedules(found: Reading | None) -> dict[str, Any]:
    signals, details = (_object(found.signal), _object(found.detail)) if found is not None else ({}, {})
    return {name: {"state": state} | _object(details.get(name)) for name, state in signals.items()}
