"""The records in sessions/ID/, parsed: meta.json (launcher), exit.json (shim), ended.json and verify.json (pulse).

No judgement of liveness here, that is `fleet`. A generation whose id is used again moves to sessions/.old/ with its
transcript and prompt and is kept as long as any other.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp
from looop.errors import StateError, TryAgain
from looop.jsonutil import JsonError, get_int, get_num, get_object, get_opt_int, get_str
from looop.paths import Paths

OLD = ".old"


@dataclass(frozen=True)
class Meta:
    """What the launcher knew. `invocation` is "" until the scope exists."""

    id: str
    invocation: str
    unit: str
    started: Stamp
    command: str
    verify: str
    source: str
    run: str
    rows: int = 24
    cols: int = 80
    stop_timeout: int = 10
    limits: Mapping[str, Any] = field(default_factory=dict)  # those that were given for this worker alone

    def to_json(self) -> dict[str, Any]:
        return {"v": 1, **asdict(self), "started": self.started.to_json()}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "Meta":
        """Raises JsonError."""
        return cls(
            id=get_str(obj, "id"),
            invocation=get_str(obj, "invocation"),
            unit=get_str(obj, "unit"),
            started=Stamp.from_json(get_object(obj, "started")),
            command=get_str(obj, "command", ""),
            verify=get_str(obj, "verify", ""),
            source=get_str(obj, "source", ""),
            run=get_str(obj, "run", ""),
            rows=get_int(obj, "rows", 24),
            cols=get_int(obj, "cols", 80),
            stop_timeout=get_int(obj, "stop_timeout", 10),
            limits=get_object(obj, "limits", {}),
        )


@dataclass(frozen=True)
class End:
    """How a generation ended: the shim's exit record, or what was noted by whoever saw the scope gone."""

    invocation: str
    ended: Stamp
    code: int | None = None
    signal: int | None = None
    result: str = ""
    cpu_s: float | None = None
    memory_peak: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of a worker's verify command. `state`: pending (to be tried again), pass, fail."""

    invocation: str
    state: str
    tries: int
    code: int | None
    output: str
    at: Stamp


def read_meta(folder: Path) -> Meta:
    """Raises StateError, also when there is none."""
    found = store.read_json(folder / "meta.json")
    if found is None:
        raise StateError(f"cannot read {folder / 'meta.json'}: there is none")
    try:
        return Meta.from_json(found)
    except JsonError as error:
        raise StateError(f"cannot read {folder / 'meta.json'}: {error}") from error


def write_meta(folder: Path, meta: Meta) -> None:
    """Replace meta.json. Raises StateError."""
    store.write_json(folder / "meta.json", meta.to_json())


def read_end(folder: Path, name: str, invocation: str) -> End | None:
    """exit.json or ended.json of this generation, None when there is none. Raises StateError."""
    found = store.read_json(folder / name)
    if found is None:
        return None
    try:
        end = End(
            invocation=get_str(found, "invocation"),
            ended=Stamp.from_json(get_object(found, "ended")),
            code=get_opt_int(found, "code"),
            signal=get_opt_int(found, "signal"),
            result=get_str(found, "result", ""),
            cpu_s=None if found.get("cpu_s") is None else get_num(found, "cpu_s"),
            memory_peak=get_opt_int(found, "memory_peak"),
        )
    except JsonError as error:
        raise StateError(f"cannot read {folder / name}: {error}") from error
    return end if end.invocation == invocation else None


def read_verdict(folder: Path, invocation: str) -> Verdict | None:
    """verify.json of this generation, None when there is none. Raises StateError."""
    found = store.read_json(folder / "verify.json")
    if found is None:
        return None
    try:
        verdict = Verdict(
            invocation=get_str(found, "invocation"),
            state=get_str(found, "state"),
            tries=get_int(found, "tries", 1),
            code=get_opt_int(found, "code"),
            output=get_str(found, "output", ""),
            at=Stamp.from_json(get_object(found, "at")),
        )
    except JsonError as error:
        raise StateError(f"cannot read {folder / 'verify.json'}: {error}") from error
    return verdict if verdict.invocation == invocation else None


def write_verdict(folder: Path, verdict: Verdict) -> None:
    """Replace verify.json. Raises StateError."""
    store.write_json(folder / "verify.json", {"v": 1, **asdict(verdict), "at": verdict.at.to_json()})


def being_launched(folder: Path) -> bool:
    """True while a launcher holds this session's launch.lock (flock(2): the kernel drops it when the launcher dies)."""
    try:
        fd = os.open(folder / "launch.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def ids(paths: Paths) -> list[str]:
    """Ids of all sessions with a folder, sorted. Raises StateError."""
    return store.names(paths.sessions, "")


def starting(paths: Paths) -> set[str]:
    """Ids whose launcher is at work: they count as live before their scope does. Raises StateError."""
    return {worker_id for worker_id in ids(paths) if being_launched(paths.sessions / worker_id)}


def close_generation(paths: Paths, worker_id: str, now: Stamp) -> Path | None:
    """Move a dead session out of the way with its prompt; returns where to. The caller holds sessions/.lock."""
    folder = paths.sessions / worker_id
    if not os.path.lexists(folder):
        return None
    try:
        name = read_meta(folder).invocation
    except StateError:
        name = ""
    target = paths.sessions / OLD / f"{worker_id}.{name or int(now.wall * 1e6)}"
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if folder.is_dir():
            store.write_json(folder / "closed.json", {"v": 1, "closed": now.to_json()})
        os.rename(folder, target)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rename(paths.prompts / f"{worker_id}.md", target / "prompt.md")
    except OSError as error:
        raise StateError(f"cannot put the earlier session {worker_id} aside: {error}") from error
    return target


def reopen_generation(paths: Paths, worker_id: str, closed: Path) -> None:
    """Undo `close_generation` after a start that failed. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.rename(closed / "prompt.md", paths.prompts / f"{worker_id}.md")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(closed / "closed.json")
    os.rename(closed, paths.sessions / worker_id)


def discard(folder: Path) -> None:
    """Remove a session's folder: first out of sight in one step, so that no half of one is ever listed."""
    gone = folder.with_name(f".gone-{folder.name.lstrip('.')}-{os.getpid()}")
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot remove {folder}: {error.strerror}") from error
    shutil.rmtree(gone, ignore_errors=True)


def prune_old(paths: Paths, ttl: float, now: Stamp) -> list[str]:
    """Remove closed generations older than `ttl`, and what a crash left of earlier removals."""
    removed = []
    with contextlib.suppress(TryAgain), store.lock(paths.sessions / ".lock", timeout=0):
        for left in paths.sessions.glob(".gone-*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in paths.sessions.glob(".new-*"):
            if not being_launched(left):
                shutil.rmtree(left, ignore_errors=True)
    for folder in sorted((paths.sessions / OLD).glob("*")):
        if folder.is_dir() and _closed(folder, now).age(now) >= ttl:
            discard(folder)
            removed.append(folder.name)
    return removed


def _closed(folder: Path, now: Stamp) -> Stamp:
    """When it was put aside; an unreadable record is written anew, and its time starts now."""
    try:
        found = store.read_json(folder / "closed.json")
        return Stamp.from_json(get_object(found or {}, "closed"))
    except (StateError, JsonError):
        store.write_json(folder / "closed.json", {"v": 1, "closed": now.to_json()})
        return now
