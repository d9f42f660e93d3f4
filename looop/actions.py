"""The typed moves a decision may carry: one frozen dataclass each, the published schema, strict parsing.

Pure. Rules, command deciders and the verbs of `looopctl` all speak this; only `execute` carries a move out.
Every refusal names the field and everything that is wrong with it. JSON null stands for an absent optional
everywhere; keys nobody knows are ignored, as a program that says more than it was asked for is no danger.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias, assert_never

from looop.errors import LooopError, UsageError
from looop.jsonutil import JsonError, canonical, loads
from looop.paths import safe_name

MAX_CHARS = 1_000_000  # of a whole decision
_FENCE = re.compile(r"\A```[^\n`]*\n(.*)\n```\Z", re.DOTALL)
_SIZE = re.compile(r"([1-9][0-9]{0,15})([KMGT]?)\Z")


class DecisionError(LooopError):
    """A decision that cannot be used; the text names each field and its fault."""

    name = "bad-decision"


def _schema(default: Any = MISSING, **schema: Any) -> Any:
    metadata = {"schema": schema}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


# no NUL: neither argv nor a file that a person edits can hold one
_TEXT = {"type": "string", "pattern": "^[^\\u0000]*$"}
_FILLED = {"type": "string", "pattern": "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$"}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"}
_CATCH_UP = {"type": "string", "pattern": "^(once|skip)$"}  # an enum would refuse the null of an absent optional
_SECONDS = {"type": "integer", "minimum": 1, "maximum": 315_360_000}


@dataclass(frozen=True)
class Noop:
    """Nothing to do: a full success that commits the world."""

    action: ClassVar[str] = "noop"
    word: ClassVar[str] = "noop"
    reason: str = _schema("", **_TEXT)


@dataclass(frozen=True)
class RunShell:
    """One short, reversible shell command."""

    action: ClassVar[str] = "run_shell"
    word: ClassVar[str] = "shell"
    cmd: str = _schema(**_FILLED)
    reason: str = _schema("", **_TEXT)


@dataclass(frozen=True)
class WriteGoal:
    """Create or replace a goal."""

    action: ClassVar[str] = "write_goal"
    word: ClassVar[str] = "goal"
    id: str = _schema(**_NAME)
    body: str = _schema(**_FILLED)


@dataclass(frozen=True)
class ArchiveGoal:
    """Put a goal away."""

    action: ClassVar[str] = "archive_goal"
    word: ClassVar[str] = "archive"
    id: str = _schema(**_NAME)


@dataclass(frozen=True)
class WriteSensor:
    """Create or replace a sensor script."""

    action: ClassVar[str] = "write_sensor"
    word: ClassVar[str] = "sensor"
    name: str = _schema(**_NAME)
    script: str = _schema(**_FILLED)


@dataclass(frozen=True)
class WritePlaybook:
    """Replace PLAYBOOK.md."""

    action: ClassVar[str] = "write_playbook"
    word: ClassVar[str] = "playbook"
    body: str = _schema(**_FILLED)


@dataclass(frozen=True)
class Limits:
    """Bounds of one worker's scope; None leaves the configured one."""

    memory_max: int | None = None
    tasks_max: int | None = None
    runtime_max: int | None = None

    def to_json(self) -> dict[str, int]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


_LIMITS = {
    "type": "object",
    "properties": {
        "memory_max": {"type": ["string", "integer", "null"], "pattern": "^[1-9][0-9]{0,15}[KMGT]?$", "minimum": 1},
        "tasks_max": {"type": ["integer", "null"], "minimum": 1, "maximum": 4_194_304},
        "runtime_max": {"type": ["integer", "null"], "minimum": 1, "maximum": 315_360_000},
    },
}


@dataclass(frozen=True)
class StartWorker:
    """Start a worker. `verify` is judged after its end, `command` replaces the configured worker command."""

    action: ClassVar[str] = "start_worker"
    word: ClassVar[str] = "worker"
    id: str = _schema(**_NAME)
    prompt: str = _schema(**_FILLED)
    command: str = _schema("", **_TEXT)
    verify: str = _schema("", **_TEXT)
    limits: Limits = _schema(Limits(), **_LIMITS)


@dataclass(frozen=True)
class KillWorker:
    """Stop a worker and all of its processes."""

    action: ClassVar[str] = "kill_worker"
    word: ClassVar[str] = "kill"
    id: str = _schema(**_NAME)
    reason: str = _schema("", **_TEXT)


@dataclass(frozen=True)
class WriteSchedule:
    """Wake the loop once, again and again, or by an OnCalendar= expression: exactly one of the three.

    Instants missed while nothing ran fire once, late, or with catch_up "skip" not at all.
    """

    action: ClassVar[str] = "write_schedule"
    word: ClassVar[str] = "schedule"
    name: str = _schema(**_NAME)
    in_s: int | None = _schema(None, **_SECONDS)
    every_s: int | None = _schema(None, **_SECONDS | {"minimum": 60})
    calendar: str = _schema("", **_TEXT)
    note: str = _schema("", **_TEXT)
    catch_up: str = _schema("once", **_CATCH_UP)


@dataclass(frozen=True)
class DropSchedule:
    """Remove a schedule."""

    action: ClassVar[str] = "drop_schedule"
    word: ClassVar[str] = "drop-schedule"
    name: str = _schema(**_NAME)


@dataclass(frozen=True)
class SendTell:
    """Leave a message for a worker."""

    action: ClassVar[str] = "send_tell"
    word: ClassVar[str] = "tell"
    worker: str = _schema(**_NAME)
    message: str = _schema(**_FILLED)


@dataclass(frozen=True)
class Notify:
    """Tell the human something that needs no answer."""

    action: ClassVar[str] = "notify"
    word: ClassVar[str] = "notify"
    message: str = _schema(**_FILLED)


Move: TypeAlias = (
    Noop | RunShell | WriteGoal | ArchiveGoal | WriteSensor | WritePlaybook
    | StartWorker | KillWorker | WriteSchedule | DropSchedule | SendTell | Notify
)  # fmt: skip
_KINDS: tuple[type[Move], ...] = (
    Noop, RunShell, WriteGoal, ArchiveGoal, WriteSensor, WritePlaybook,
    StartWorker, KillWorker, WriteSchedule, DropSchedule, SendTell, Notify,
)  # fmt: skip
MOVES = {kind.action: kind for kind in _KINDS}


@dataclass(frozen=True)
class Decision:
    """One move and what was said beside it."""

    move: Move
    journal: str = ""
    next_interval_s: int | None = None
    cost_usd: float | None = None


_METADATA: dict[str, Any] = {
    "journal": {**_TEXT, "type": ["string", "null"]},
    "next_interval_s": {"type": ["integer", "null"], "minimum": 0, "maximum": 315_360_000},
    "cost_usd": {"type": ["number", "null"], "minimum": 0, "maximum": 1_000_000},
}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _branch(kind: type[Move]) -> dict[str, Any]:
    schemas = {f.name: f.metadata["schema"] for f in fields(kind)}
    required = [f.name for f in fields(kind) if f.default is MISSING]
    properties = {name: dict(s) if name in required else _or_null(s) for name, s in schemas.items()}
    branch: dict[str, Any] = {
        "title": kind.action,
        "description": (kind.__doc__ or "").strip(),
        "type": "object",
        "required": ["action", *required],
        "properties": {"action": {"const": kind.action}, **properties, **_METADATA},
    }
    if kind is WriteSchedule:
        branch["oneOf"] = [
            {"required": [key], "properties": {key: {"type": kept, "minLength": 1}}}
            for key, kept in (("in_s", "integer"), ("every_s", "integer"), ("calendar", "string"))
        ]
    return branch


BRANCHES = {action: _branch(kind) for action, kind in MOVES.items()}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "looop decision",
    "type": "object",
    "required": ["action"],
    "oneOf": list(BRANCHES.values()),
}


def parse(text: str) -> Decision:
    """The decision in a decider's answer: one JSON object, in a Markdown fence or not. Raises DecisionError."""
    if len(text) > MAX_CHARS:
        raise DecisionError(f"cannot use the decision: {len(text)} characters, at most {MAX_CHARS} are allowed")
    stripped = text.strip().removeprefix("\ufeff")
    fenced = _FENCE.match(stripped)
    try:
        value = loads(fenced[1] if fenced else stripped)
    except JsonError as error:
        raise DecisionError(f"cannot use the decision: {error}") from error
    return from_json(value)


def from_json(value: object) -> Decision:
    """The decision in a parsed JSON value. Raises DecisionError."""
    action = value.get("action") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(action, str) or action not in MOVES:
        raise DecisionError(f"cannot use the decision: {_no_action(value)}")
    faults = list(_faults(action, value))
    if faults:
        raise DecisionError("cannot use the decision: " + "; ".join(faults))
    given = {key: found for key, found in value.items() if found is not None}
    kind = MOVES[action]
    move = kind(**{f.name: _field(f.name, given[f.name]) for f in fields(kind) if f.name in given})
    interval, cost = given.get("next_interval_s"), given.get("cost_usd")
    return Decision(
        move=move,
        journal=given.get("journal", "").strip(),
        next_interval_s=None if interval is None else int(interval),
        cost_usd=None if cost is None else float(cost),
    )


def _no_action(value: object) -> str:
    if not isinstance(value, dict):
        return f"expected one JSON object, got {_shown(value)}"
    if "action" not in value:
        return f"action: missing, expected one of {', '.join(MOVES)}"
    return f"action: expected one of {', '.join(MOVES)}; got {_shown(value['action'])}"


def _shown(value: object) -> str:
    text = canonical(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _faults(action: str, value: dict[str, Any]) -> Iterator[str]:
    import jsonschema  # 70 ms, and only a process that is given a decision needs it

    found = list(jsonschema.Draft202012Validator(BRANCHES[action]).iter_errors(value))
    for error in sorted(found, key=lambda e: [str(part) for part in e.absolute_path]):
        yield from (f"{action}{fault}" for fault in _explain(error, value))
    if not found:
        for key in ("id", "name", "worker"):
            if key in value and key in {f.name for f in fields(MOVES[action])}:
                try:  # `$` in a pattern lets a trailing newline through (re), safe_name does not
                    safe_name(key, value[key])
                except UsageError as error:
                    yield f"{action}.{key}: {error.hint}, got {_shown(value[key])}"


def _explain(error: Any, value: dict[str, Any]) -> Iterator[str]:
    where = "".join(f".{part}" for part in error.absolute_path)
    got, rule, kind = _shown(error.instance), error.validator_value, error.validator
    if kind == "required":
        yield from (f"{where}.{key}: missing" for key in rule if key not in error.instance and key in error.message)
    elif kind == "oneOf":
        given = [key for key in ("in_s", "every_s", "calendar") if value.get(key) not in (None, "")]
        yield f": exactly one of in_s, every_s, calendar is needed, got {' and '.join(given) or 'none'}"
    elif kind == "type":
        names = {"integer": "a whole number", "number": "a number", "string": "a string", "object": "an object"}
        allowed = [names[t] for t in ([rule] if isinstance(rule, str) else rule) if t != "null"]
        yield f"{where}: expected {' or '.join(allowed)}, got {got}"
    elif kind == "pattern" and rule == _NAME["pattern"]:
        yield f"{where}: names are 1 to 64 of A-Z a-z 0-9 _ . - and do not start with a dot or a dash, got {got}"
    elif kind == "pattern" and rule == _CATCH_UP["pattern"]:
        yield f"{where}: expected once or skip, got {got}"
    elif kind == "pattern" and "KMGT" in rule:
        yield f'{where}: expected a size such as "512M" or "4G", got {got}'
    elif kind == "pattern":
        yield f"{where}: {'holds a NUL character' if chr(0) in error.instance else 'must not be blank'}"
    elif kind in ("minimum", "maximum"):
        yield f"{where}: must be at {'least' if kind == 'minimum' else 'most'} {rule}, got {got}"
    else:
        yield f"{where}: {error.message}"


def _field(name: str, value: Any) -> Any:
    if name == "limits":
        return Limits(**{f.name: _bytes(value[f.name]) for f in fields(Limits) if value.get(f.name)})
    if name in ("in_s", "every_s"):
        return int(value)  # JSON Schema counts 60.0 as an integer
    return value.strip() if name == "calendar" else value


def _bytes(value: Any) -> int:
    match = _SIZE.match(str(value))
    return int(value) if match is None else int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def to_json(move: Move) -> dict[str, Any]:
    """The move as `from_json` takes it; optionals that were not given are left out."""
    found: dict[str, Any] = {"action": move.action}
    for f in fields(move):
        value = getattr(move, f.name)
        if f.default is MISSING or value != f.default:
            found[f.name] = value.to_json() if isinstance(value, Limits) else value
    return found


def word(move: Move) -> str:
    """The word for the move in events, journal fields and session records."""
    return move.word


def summary(move: Move) -> str:
    """One line that says what the move is, for the journal when the decision brought no line of its own."""
    match move:
        case Noop(reason):
            text = f"noop · {reason}" if reason else "noop"
        case RunShell(cmd, reason):
            text = f"run-shell · {reason or cmd}"
        case WriteGoal(id):
            text = f"write-goal {id}"
        case ArchiveGoal(id):
            text = f"archive-goal {id}"
        case WriteSensor(name):
            text = f"write-sensor {name}"
        case WritePlaybook():
            text = "write-playbook"
        case StartWorker(id, _, command):
            text = f"start-worker {id}" + (" (own command)" if command else "")
        case KillWorker(id, reason):
            text = f"kill-worker {id}" + (f" · {reason}" if reason else "")
        case WriteSchedule(name, in_s, every_s, calendar):
            text = f"write-schedule {name} · " + (
                f"once in {in_s} s" if in_s else f"every {every_s} s" if every_s else calendar
            )
        case DropSchedule(name):
            text = f"drop-schedule {name}"
        case SendTell(worker, message):
            text = f"tell {worker} · {message}"
        case Notify(message):
            text = f"notify · {message}"
        case _:
            assert_never(move)
    text = " ".join(text.split())
    return text if len(text) <= 240 else text[:239] + "…"
