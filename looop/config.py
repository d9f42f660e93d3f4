"""The settings: one table yields file key, LOOOP_* variable, default, parser, help and manual line.

A field of `Config` is a setting; its metadata is the rest of the row. Precedence: environment, then
looop.toml.d/*.toml in name order (last wins), then looop.toml, then the default. Cadence is not here: it is
the interval of looop-beat.timer (`systemctl --user edit looop-beat.timer`).
"""

import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from looop.errors import UsageError
from looop.paths import Paths

Parser = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value.strip()


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError("a whole number, 0 or more")
    return value


def _number(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        value = float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError("a number, 0 or more")
    return float(value)


def _price(value: Any) -> float | None:
    return None if value == "" else _number(value)


def _switch(value: Any) -> bool:
    if isinstance(value, str):
        value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(":") if part]
    if not isinstance(value, list) or not all(isinstance(part, str) and part for part in value):
        raise ValueError("a list of strings")
    return tuple(value)


def _commands(value: Any) -> tuple[str, ...]:
    found = value.splitlines() if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise ValueError("a list of shell commands")
    return tuple(dict.fromkeys(part.strip() for part in found if part.strip()))


def _folders(value: Any) -> tuple[str, ...]:
    expanded = tuple(os.path.expanduser(part) for part in _words(value))
    if not all(part.startswith("/") for part in expanded):
        raise ValueError("a list of absolute paths (~ is allowed)")
    return expanded


def _one_of(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(repr(a) for a in allowed))
        return str(value)

    return parse


def _size(value: Any) -> int | None:
    """Bytes as systemd writes them: 512M, 4G; "" or "infinity" is no limit (systemd.resource-control(5))."""
    if value in ("", "infinity"):
        return None
    match = re.fullmatch(r"(\d+)([KMGT]?)", str(value).strip()) if not isinstance(value, bool) else None
    if match is None or not int(match[1]):
        raise ValueError('a size such as "512M" or "4G", or "" for no limit')
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def _setting(default: Any, parse: Parser, text: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": text})


@dataclass(frozen=True)
class Config:
    """All settings, parsed. Times are in seconds, sizes in bytes; 0 turns a bound off unless it says otherwise."""

    # fmt: off
    decide: str = _setting("on", _one_of("on", "off"), "'off': only sense; somebody outside decides and uses the verbs")
    decider_command: str = _setting("", _text, "shell command that decides when no rule matched; '' = rules only. Runs in its run folder with the prompt on stdin, or at {{prompt_file}}")
    decider_output: str = _setting("file", _one_of("file", "stdout"), "where the decider leaves its decision: .decision.json in its run folder, or its standard output")
    decider_timeout: int = _setting(1800, _whole, "deadline of one decider run")
    decider_cost_usd: float | None = _setting(None, _price, "what one decider run costs when it does not say so itself; '' = not known, which stops deciding after three runs under max_daily_usd; 0 = free")
    decider_write_paths: tuple[str, ...] = _setting((), _folders, "folders the decider may write besides its run folder")
    decider_env: tuple[str, ...] = _setting((), _words, "names of variables handed to the decider from looop's environment")
    worker_command: str = _setting("", _text, "shell command of a worker; must hold {{prompt_file}}. A move may bring its own")
    worker_env: tuple[str, ...] = _setting((), _words, "names of variables handed to workers from looop's environment")
    max_workers: int = _setting(8, _whole, "live workers allowed at once")
    stuck_after: int = _setting(900, _whole, "silence (no output and no CPU time) after which a worker counts as stuck")
    session_ttl: int = _setting(259200, _whole, "how long the record of a dead worker is kept; 0 = removed in the next beat")
    transcript_max_bytes: int = _setting(67108864, _whole, "size of a worker's output.log past which the older half is dropped")
    journal_output: str = _setting("off", _one_of("off", "lines"), "'lines': copy workers' output lines to the systemd journal")
    journal_lines_per_s: int = _setting(20, _whole, "most lines a second that journal_output sends for one worker")
    memory_max: int | None = _setting(None, _size, "MemoryMax= of each worker's scope")
    memory_high: int | None = _setting(None, _size, "MemoryHigh= of each worker's scope")
    tasks_max: int = _setting(0, _whole, "TasksMax= of each worker's scope")
    cpu_weight: int = _setting(0, _whole, "CPUWeight= of each worker's scope (1 to 10000)")
    runtime_max: int = _setting(86400, _whole, "RuntimeMaxSec= of each worker's scope")
    stop_timeout: int = _setting(10, _whole, "seconds between SIGTERM and SIGKILL when a worker is stopped (TimeoutStopSec=)")
    sensor_timeout: int = _setting(60, _whole, "deadline of one sensor")
    sensor_max_bytes: int = _setting(8192, _whole, "most output one sensor may print")
    sensor_parallel: int = _setting(8, _whole, "sensors that run at the same time; 0 counts as 1")
    shell_timeout: int = _setting(300, _whole, "deadline of a run_shell move")
    shell_write_paths: tuple[str, ...] = _setting((), _folders, "folders a run_shell move may write; everything else is read-only to it")
    shell_bus: bool = _setting(False, _switch, "true: run_shell moves of a decider may reach the user bus, and through it start anything")
    shell_allow_dangerous: bool = _setting(False, _switch, "true: the deny-list only warns")
    verify_timeout: int = _setting(60, _whole, "deadline of one verify command")
    verify_tries: int = _setting(3, _whole, "how often a failing verify is tried, once a beat, before its verdict is 'fail'; 0 counts as 1")
    beat_gap: float = _setting(5.0, _number, "least time between the starts of two beats")
    noop_ttl: int = _setting(21600, _whole, "age at which a noop over an unchanged world is decided again")
    flap_streak: int = _setting(5, _whole, "changes in a row after which a sensor counts as flapping")
    max_decides_per_hour: int = _setting(120, _whole, "decider runs allowed in an hour, failed ones too")
    max_daily_usd: float = _setting(10.0, _number, "money deciders may cost in a local day")
    max_next_interval: int = _setting(300, _whole, "longest next_interval_s a decision may ask for; at least 5")
    prompt_max_bytes: int = _setting(262144, _whole, "size of a prompt past which whole items are left out, and said so")
    runs_keep: int = _setting(50, _whole, "run folders kept")
    history_keep: int = _setting(20, _whole, "earlier bodies kept of each goal, sensor and the playbook")
    answered_ttl: int = _setting(604800, _whole, "how long an answered ask is kept")
    journal_max_bytes: int = _setting(5242880, _whole, "size of journal.md past which it becomes journal.md.1")
    notify_hooks: tuple[str, ...] = _setting((), _commands, "shell commands that tell you of asks, messages and a failed pulse; each gets JSON on stdin")
    notify_env: tuple[str, ...] = _setting((), _words, "names of variables handed to the hooks from looop's environment")
    notify_timeout: int = _setting(30, _whole, "deadline of one hook, at most 600; 0 counts as 600")
    notify_retry: float = _setting(30.0, _number, "pause before a failed notification is tried again; it triples with each of 8 tries, up to two hours")
    notify_desktop: str = _setting("auto", _one_of("auto", "off"), "'auto': also show it on the desktop, with the options as buttons, where a notification server is there")
    sandbox: str = _setting("require", _one_of("require", "off"), "'require': do not run sensors, deciders and commands where this host cannot confine them")
    # fmt: on


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    key: str
    default: Any
    help: str
    parse: Parser

    @property
    def env(self) -> str:
        return f"LOOOP_{self.key.upper()}"


SETTINGS = tuple(Setting(f.name, f.default, f.metadata["help"], f.metadata["parse"]) for f in fields(Config))
_BY_KEY = {setting.key: setting for setting in SETTINGS}


def files(paths: Paths) -> list[Path]:
    """The configuration files that exist, weakest first. Raises UsageError when the drop-in folder is unreadable."""
    drop_ins = paths.config.with_name(paths.config.name + ".d")
    try:
        found = sorted(p for p in drop_ins.iterdir() if p.suffix == ".toml") if drop_ins.exists() else []
    except OSError as error:
        raise UsageError(f"cannot read {drop_ins}: {error.strerror}") from error
    return [p for p in [paths.config, *found] if p.exists()]


def _parsed(setting: Setting, value: Any, where: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as error:
        raise UsageError(f"cannot use {setting.key} = {value!r} in {where}: expected {error}") from error


def load(paths: Paths, env: Mapping[str, str] | None = None) -> Config:
    """Read every file and the environment. Raises UsageError naming file, key and what was expected."""
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    for path in files(paths):
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"cannot read {path}: {error}") from error
        for key, value in content.items():
            if key not in _BY_KEY:
                raise UsageError(f"cannot use {path}: unknown key {key!r}", hint=_nearest(key))
            values[key] = _parsed(_BY_KEY[key], value, str(path))
    for setting in SETTINGS:
        if setting.env in env:
            values[setting.key] = _parsed(setting, env[setting.env], f"the environment ({setting.env})")
    return Config(**values)


def salvage(paths: Paths, prefix: str) -> Config:
    """The settings whose keys begin so, wherever they can be read; defaults for all else. Never raises."""
    values: dict[str, Any] = {}
    with contextlib.suppress(UsageError):
        for path in files(paths):
            with contextlib.suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
                values |= tomllib.loads(path.read_text())
    values |= {setting.key: os.environ[setting.env] for setting in SETTINGS if setting.env in os.environ}
    usable = {}
    for key, value in values.items():
        if key in _BY_KEY and key.startswith(prefix):
            with contextlib.suppress(UsageError):
                usable[key] = _parsed(_BY_KEY[key], value, "")
    return Config(**usable)


def _nearest(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, _BY_KEY, n=1)
    return f"did you mean {near[0]!r}?" if near else "`looopctl doctor --settings` lists all keys"
