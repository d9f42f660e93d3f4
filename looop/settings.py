"""looop.toml as a file that verbs change, and upstream's config.json said in its keys.

Used by `init` and `import`. `looop.config` is what reads settings for use; here a value is only carried over. Pure but
for `read`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop import store
from looop.errors import UsageError

FILE = "{{prompt_file}}"
_VERBS = (
    "ask|answer|asks|wait|state|claim|unclaim|tell|told|kill|worker|goal|sensor|playbook|schedule|run|up|down|watch"
    "|screenshot|flag|unflag|log|status|cost|init|config"
)
_CALLS = re.compile(rf"(?<![\w./-])looop\s+(?:_\s+)?(?:{_VERBS})\b")
# upstream's variable -> what to set instead
KNOBS = {
    "LOOOP_INTERVAL": "the interval of looop-beat.timer",
    "LOOOP_RUNNER_RETRIES": "a retry in the decider's command",
    "LOOOP_TICK_TIMEOUT_SECS": "decider_timeout",
    "LOOOP_SHELL_TIMEOUT_SECS": "shell_timeout",
    "LOOOP_VERIFY_TIMEOUT_SECS": "verify_timeout",
    "LOOOP_WORKER_STUCK_SECS": "stuck_after",
    "LOOOP_PLAYBOOK_KEEP": "history_keep",
    "LOOOP_TELLS_CONSUMED_KEEP_SECS": "answered_ttl",
    "LOOOP_EVENTS_MAX_BYTES": "journald.conf(5)",
}


# -- the file


def toml_string(text: str) -> str:
    """`text` as a TOML basic string."""
    escaped = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else f"\\{c}" if c in '"\\' else c for c in text
    )
    return f'"{escaped}"'


def toml(value: object) -> str:
    """The value of a setting as TOML; None, "not known" or "no limit", is the empty string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return toml_string(str(value or "")) if isinstance(value, (str, type(None))) else repr(value)


def changed(old: str, values: Mapping[str, str]) -> str:
    """The file with these keys set: their old lines are replaced, all else stays as it is. Raises UsageError."""
    lines = old.splitlines()
    for key in values:
        lines = [line for line in lines if not re.match(rf"\s*{key}\s*=", line)]
    text = "\n".join([*lines, *(f"{key} = {value}" for key, value in values.items())]) + "\n"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"cannot change the configuration by myself: {error}", hint="edit the file by hand") from error
    return text


def read(path: Path) -> dict[str, Any]:
    """What the file says, empty when there is none. Raises UsageError or StateError."""
    try:
        return tomllib.loads(store.read_text(path) or "")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"cannot read {path}: {error}") from error


# -- upstream's settings


@dataclass
class Chosen:
    """Settings to take over, what was altered on the way, what is not used and why, and what a person has to do."""

    values: dict[str, Any] = field(default_factory=dict)
    changed: list[tuple[str, str]] = field(default_factory=list)
    not_used: list[tuple[str, str]] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


def translate(config: Mapping[str, Any], file: Path | None, env: Mapping[str, str]) -> Chosen:
    """config.json of upstream, of any version, and its variables as far as they are set here."""
    chosen = Chosen()
    name = file.name if file else "config.json"
    runners = config.get("runners")
    profile = runners.get(config.get("default")) if isinstance(runners, dict) else None
    profile = profile if isinstance(profile, dict) else {}
    for key, old, ours in (
        ("tick_command", "tick", "decider_command"),
        ("worker_command", "interactive", "worker_command"),
    ):
        command = next((c for c in (config.get(key), config.get(old), profile.get(old)) if c not in (None, "")), None)
        if command is not None:
            _command(chosen, f"{name}: {key}", ours, command)
    _numbers(chosen, name, config)
    _interval(chosen, name, config)
    known = {"tick_command", "worker_command", "tick", "interactive", "default", "runners", "interval", *_NUMBERS}
    for key in config:
        if key in ("busy_interval", "active_interval"):
            chosen.not_used.append((f"{name}: {key}", "there is one cadence, that of looop-beat.timer"))
        elif key not in known:
            chosen.not_used.append((f"{name}: {key}", "not known to looop"))
    if isinstance(runners, dict) and len(runners) > 1:
        others = ", ".join(str(key) for key in runners if key != config.get("default"))
        chosen.not_used.append((f"{name}: runners", f"only the default one is used; left: {others}"))
    _knobs(chosen, env)
    _needs(chosen)
    return chosen


def _command(chosen: Chosen, what: str, key: str, command: object) -> None:
    if not isinstance(command, str) or "\0" in command:
        chosen.not_used.append((what, "not a text"))
        return
    text, formatter = _without_formatter(command.strip())
    strange = sorted(set(re.findall(r"\{\{\s*[\w.-]*\s*\}\}", text)) - {FILE})
    if strange:
        chosen.not_used.append((what, f"it holds {', '.join(strange)}; only {FILE} is filled in"))
    elif key == "worker_command" and FILE not in text:
        chosen.not_used.append((what, f"it does not hold {FILE}, so a worker would not see its task"))
    else:
        chosen.values[key] = text
        if formatter:
            chosen.changed.append((key, f"without its last part, {formatter!r}: looop reads no stream"))


def _without_formatter(command: str) -> tuple[str, str]:
    """Cut a trailing pipe into upstream's own formatter; what was cut, "" when nothing."""
    front, pipe, last = command.rpartition("|")
    words = last.split()
    if not pipe or front.endswith("|") or not words:
        return command, ""
    program = words[0].strip("\"'")
    ours = program in ("looop", "$LOOOP_BIN", "${LOOOP_BIN}") or program.endswith("/looop")
    if ours and {"fmt", "_fmt"} & set(words[1:]):
        return front.rstrip(), last.strip()
    return command, ""


_NUMBERS = {"session_ttl": int, "max_next_interval": int, "max_daily_usd": float}


def _numbers(chosen: Chosen, name: str, config: Mapping[str, Any]) -> None:
    for key, kind in _NUMBERS.items():
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
            chosen.not_used.append((f"{name}: {key}", "expected a number, 0 or more"))
            continue
        chosen.values[key] = kind(value)
        if chosen.values[key] != value:
            chosen.changed.append((key, f"{value} is {chosen.values[key]} here: whole seconds"))


def _interval(chosen: Chosen, name: str, config: Mapping[str, Any]) -> None:
    value = config.get("interval")
    if value is None:
        return
    chosen.not_used.append((f"{name}: interval", "the cadence is that of looop-beat.timer"))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < 2**31 and int(value) != 60:
        edit = f"[Timer]\nOnUnitInactiveSec=\nOnActiveSec={int(value)}s\nOnUnitInactiveSec={int(value)}s"
        told = f"for a beat every {int(value)} s: systemctl --user edit looop-beat.timer, and there"
        chosen.next.append(f"{told}\n{edit}")


def _knobs(chosen: Chosen, env: Mapping[str, str]) -> None:
    """Variables of upstream's that are set here and mean nothing; those of the same name are read as they are."""
    for name, instead in KNOBS.items():
        if name in env:
            chosen.not_used.append((f"${name}", f"in its place: {instead}"))


def _needs(chosen: Chosen) -> None:
    """What the decider's command may count on no longer."""
    command = chosen.values.get("decider_command")
    if command is None:
        return
    chosen.next.append(
        "the decider runs in its run folder and leaves .decision.json there; it sees the rest read-only and without"
        " your variables: decider_write_paths and decider_env name what it needs (docs/deciders.md)"
    )
    if re.search(r"\.decision\.json|LOOOP_DATA_DIR|(?:^|[;&|(]\s*)cd\s", command):
        chosen.next.append(
            "decider_command goes to another folder or names .decision.json: the decision has to be left in the"
            " folder that it is started in"
        )
    chosen.next.append(
        "say what a decider run costs unless its decision does: decider_cost_usd (0 when it is free). Not knowing it,"
        " looop stops deciding after three runs"
    )


def calls_looop(text: str) -> bool:
    """Whether a text tells somebody to call upstream's program."""
    return bool(_CALLS.search(text))
