"""A data directory of the portable looop, read: what is in it, and what of it cannot be used and why.

Nothing is written and nothing is followed: of links, FIFOs and devices only the name is told. Used by the import.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop.errors import UsageError
from looop.jsonutil import JsonError, as_object
from looop.paths import safe_name

TEXT_MAX = 1 << 20  # a goal, a sensor, the playbook, a record
FILE_MAX = 64 << 20  # a report, the journal, the ledger
DEPTH = 4  # folders below reports/
CONFIGS = ("config.json", "looop.json")
MARKS = ("PLAYBOOK.md", "goals", "sensors", "journal.md", *CONFIGS)
# what another program remembers for itself, or what is made anew here, and why it stays where it is
LEFT = {
    "snapshots": "sensors make them anew",
    "sessions": "transcripts of workers that are gone",
    "runs": "decisions of the other program",
    "prompts": "briefs of workers that are gone",
    "verify": "checks of workers that are gone",
    "claims": "their holders are not here",
    "answers": "their questions are over",
    "events.jsonl": "events are in the systemd journal here: looopctl events",
    "events.jsonl.1": "events are in the systemd journal here: looopctl events",
    "tick.log": "output of the other program's last decision",
    ".lock": "the other program's own",
    ".git": "its commits stay where they are",
    ".gitignore": "looop lays down its own",
    ".next-wake.json": "a follow-up of the other program's last decision",
}


@dataclass(frozen=True)
class Refusal:
    """Something that is not taken, by its path in the directory, and why."""

    name: str
    reason: str


@dataclass
class Upstream:
    """What was found. Texts by name; `refused` is everything that will not be taken."""

    root: Path
    playbook: bytes | None = None
    goals: dict[str, bytes] = field(default_factory=dict)
    archive: dict[str, bytes] = field(default_factory=dict)
    sensors: dict[str, tuple[bytes, bool]] = field(default_factory=dict)  # with whether it was executable
    versions: dict[str, bytes] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, bytes] = field(default_factory=dict)  # by path below reports/
    journal: bytes = b""
    ledger: bytes = b""
    activity: dict[str, float] = field(default_factory=dict)
    asks: list[dict[str, Any]] = field(default_factory=list)
    tells: list[dict[str, Any]] = field(default_factory=list)
    config_file: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    running: bool = False  # a pulse of the other program holds its lock


def read(root: Path, config: Path | None = None) -> Upstream:
    """Everything that is there. Raises UsageError when `root` is no such directory, or `config` cannot be read."""
    try:
        os.listdir(root)
    except OSError as error:
        raise UsageError(f"cannot import {root}: {error.strerror}") from error
    if not any(os.path.lexists(root / mark) for mark in MARKS):
        hint = "it is the one that holds PLAYBOOK.md and goals/"
        raise UsageError(f"cannot import {root}: it does not look like a data directory of looop", hint=hint)
    found = Upstream(root, running=_locked(root / ".lock/lock"))
    found.playbook = _take(found, "PLAYBOOK.md", TEXT_MAX, text=True)
    found.goals = _texts(found, "goals", ".md", "a goal")
    found.archive = _texts(found, "goals/archive", ".md", "a goal")
    found.versions = _texts(found, "playbook.d", ".md", "a version")
    _sensors(found)
    found.schedules = {name: obj for name, obj in _records(found, "schedules", "a schedule")}
    _reports(found, "reports", DEPTH)
    found.journal = b"".join(_take(found, name, FILE_MAX) or b"" for name in ("journal.md.1", "journal.md"))
    found.ledger = _take(found, "cost.jsonl", FILE_MAX) or b""
    _mail(found)
    _activity(found)
    _config(found, config)
    _rest(found)
    return found


# -- reading one thing


def regular(path: Path, limit: int) -> bytes:
    """A file's content; ValueError says why not: not a regular file, too large, not readable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ValueError(what if what != os.strerror(errno.ENXIO) else "not a regular file") from error
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise ValueError("a folder" if kind == stat.S_IFDIR else "not a regular file")
    try:
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if len(data) > limit:
        raise ValueError(f"larger than {limit >> 20} MB")
    return data


def _take(found: Upstream, name: str, limit: int, text: bool = False) -> bytes | None:
    """The content, or None and a refusal; None alone when there is no such file."""
    path = found.root / name
    if not os.path.lexists(path):
        return None
    try:
        data = regular(path, limit)
        if text:
            _check_text(data)
    except ValueError as error:
        found.refused.append(Refusal(name, str(error)))
        return None
    return data


def _check_text(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    if not text.strip():
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("a NUL character is in it")


def _entries(found: Upstream, folder: str) -> list[str]:
    """Names in a folder, sorted; a folder that is a link or cannot be listed is refused."""
    path = found.root / folder
    if not os.path.lexists(path):
        return []
    try:
        if path.is_symlink():
            raise ValueError("a symbolic link")
        return sorted(entry.name for entry in os.scandir(path))
    except OSError as error:
        found.refused.append(Refusal(f"{folder}/", str(error.strerror)))
    except ValueError as error:
        found.refused.append(Refusal(f"{folder}/", str(error)))
    return []


def _stems(found: Upstream, folder: str, suffix: str, kind: str) -> Iterator[str]:
    """Usable stems in a folder; what has another suffix or an unusable name is refused."""
    for name in _entries(found, folder):
        where = f"{folder}/{name}"
        if name.startswith(".") or where in ("goals/archive", "tells/consumed"):
            continue
        try:
            if not name.endswith(suffix):
                raise ValueError(f"not a {suffix} file")
            yield safe_name(kind, name.removesuffix(suffix))
        except UsageError as error:
            found.refused.append(Refusal(shown(where), f"{error.hint}"))
        except ValueError as error:
            found.refused.append(Refusal(shown(where), str(error)))


def shown(name: str) -> str:
    """A file name of anybody's, for a message."""
    return name if name.isprintable() and not re.search("[\udc80-\udcff]", name) else repr(name)


def _texts(found: Upstream, folder: str, suffix: str, kind: str) -> dict[str, bytes]:
    stems = _stems(found, folder, suffix, kind)
    texts = {stem: _take(found, f"{folder}/{stem}{suffix}", TEXT_MAX, text=True) for stem in stems}
    return {stem: data for stem, data in texts.items() if data is not None}


def _sensors(found: Upstream) -> None:
    for stem in _stems(found, "sensors", ".sh", "a sensor"):
        name = f"sensors/{stem}.sh"
        data = _take(found, name, TEXT_MAX)
        if data is None:
            continue
        if not data.startswith(b"#!"):
            reason = "its first line names no interpreter (such as #!/bin/sh), so nothing can run it"
            found.refused.append(Refusal(name, reason))
        else:
            found.sensors[stem] = data, bool((found.root / name).stat().st_mode & 0o111)


def _records(found: Upstream, folder: str, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for stem in _stems(found, folder, ".json", kind):
        name = f"{folder}/{stem}.json"
        data = _take(found, name, TEXT_MAX)
        if data is None:
            continue
        try:
            yield stem, as_object(json.loads(data), "content")
        except (JsonError, ValueError, RecursionError) as error:
            found.refused.append(Refusal(name, f"no JSON object: {error}"))


def _reports(found: Upstream, folder: str, depth: int) -> None:
    for name in _entries(found, folder):
        path = f"{folder}/{name}"
        if name.startswith(".") or not shown(name) == name or len(name.encode(errors="replace")) > 200:
            found.refused.append(Refusal(shown(path), "hidden" if name.startswith(".") else "its name cannot be used"))
        elif (found.root / path).is_dir() and not (found.root / path).is_symlink():
            if depth:
                _reports(found, path, depth - 1)
            else:
                found.refused.append(Refusal(path, "too deep"))
        else:
            data = _take(found, path, FILE_MAX)
            if data is not None:
                found.reports[path.removeprefix("reports/")] = data


def _mail(found: Upstream) -> None:
    """Open questions and undelivered messages; those asked and answered are counted by `_rest`."""
    answered = {name.removesuffix(".json") for name in _entries(found, "answers")}
    asks = [{**obj, "id": stem} for stem, obj in _records(found, "asks", "an ask")]
    found.asks = [ask for ask in asks if ask["id"] not in answered]
    found.tells = [{**obj, "id": stem} for stem, obj in _records(found, "tells", "a message")]


def _activity(found: Upstream) -> None:
    data = _take(found, ".goal-activity.json", TEXT_MAX)
    try:
        ledger = as_object(json.loads(data), "content") if data else {}
    except (JsonError, ValueError, RecursionError) as error:
        found.refused.append(Refusal(".goal-activity.json", f"no JSON object: {error}"))
        return
    times = {goal: at for goal, at in ledger.items() if isinstance(at, (int, float)) and not isinstance(at, bool)}
    found.activity = {goal: float(at) for goal, at in times.items() if 0 <= at < 2**35}


def _config(found: Upstream, given: Path | None) -> None:
    """config.json of the directory, or the file that was named: that one has to be readable."""
    beside = [found.root / name for name in CONFIGS if os.path.lexists(found.root / name)]
    path = given or next(iter(beside), None)
    if path is None:
        return
    try:
        found.config = as_object(json.loads(regular(path.resolve() if given else path, TEXT_MAX)), "content")
        found.config_file = path
    except (JsonError, ValueError, RecursionError) as error:
        if given:
            raise UsageError(f"cannot read {path}: {error}") from error
        found.refused.append(Refusal(path.name, str(error)))


def _rest(found: Upstream) -> None:
    """What lies there besides, so that nothing goes unmentioned."""
    known = {
        "PLAYBOOK.md", "goals", "sensors", "playbook.d", "schedules", "reports", "journal.md", "journal.md.1",
        "cost.jsonl", "asks", "tells", ".goal-activity.json", *CONFIGS,
    }  # fmt: skip
    for name in _entries(found, "."):
        if name in known:
            continue
        folder = (found.root / name).is_dir() and not name.startswith(".")
        count = sum(not below.startswith(".") for below in _entries(found, name)) if folder else 1
        if not count:
            continue
        many = f"{name}/ ({count})" if folder else name
        guards = name.startswith(".") and name.endswith((".json", "lock", "-hash", "-backoff", "interval", "unmetered"))
        reason = LEFT.get(name) or ("the other program's own memory" if guards else "not known to looop")
        found.refused.append(Refusal(shown(many), reason))


def _locked(path: Path) -> bool:
    """Whether someone holds flock(2) on it, asked of /proc/locks: to try the lock would fool a pulse that starts."""
    try:
        status = os.stat(path)
        mine = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        return any(mine in line.split() for line in Path("/proc/locks").read_text().splitlines() if "FLOCK" in line)
    except OSError:
        return False
