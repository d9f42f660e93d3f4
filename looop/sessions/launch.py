"""Starting a worker: check everything, then shim, scope, release. Used by the pulse and by `looopctl worker start`.

Either the worker runs in its own scope when `start` returns, or nothing is left: no process, no unit, no record.
The scope's name is what makes a second start of a live id impossible; the lock here only makes counting exact.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import select
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp
from looop.config import SETTINGS, Config
from looop.environment import environment as built
from looop.errors import LooopError, Refused, StateError, TimedOut, UsageError
from looop.paths import Paths, safe_name
from looop.sessions import contract, fleet, records, wire
from looop.systemd import journal
from looop.systemd.live import Live
from looop.systemd.manager import usec
from looop.systemd.names import worker_of, worker_unit

_LIMITS = ("memory_max", "memory_high", "tasks_max", "cpu_weight", "runtime_max", "stop_timeout")
_PLACEHOLDER = re.compile(r"""(["']?)\{\{prompt_file\}\}\1""")
_START_S = 10.0  # most time for the scope, and again for the shim to say that the command runs
_LOCK_S = 2.0

# the program is given as text so that the shim comes from its compiled module: parsing it costs 1 MB that stays
_SHIM = "import sys; sys.path.insert(0, sys.argv[1]); from looop.sessions.shim import main; raise SystemExit(main())"


@dataclass(frozen=True)
class Brief:
    """What a worker is to do. `command` replaces the configured one, `limits` single limits of the configuration."""

    id: str
    prompt: str
    command: str = ""
    verify: str = ""
    source: str = "human"
    run: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)


def environment(paths: Paths, config: Config, **extra: str) -> dict[str, str]:
    """A worker's environment."""
    return built(paths, config, config.worker_env, bus=True, TERM="xterm-256color", **extra)


async def start(live: Live, paths: Paths, config: Config, brief: Brief, now: Stamp) -> str:
    """Start the worker; its InvocationID once its command runs. Raises Refused, UsageError or Unavailable."""
    meta, properties = plan(paths, config, brief, now)
    slot = _reserve(live, paths, config, meta, now)
    try:
        store.write(paths.prompts / f"{meta.id}.md", contract.brief(meta.id, brief.prompt))
        return await _bring_up(live, paths, config, meta, properties)
    except BaseException:
        slot.give_back()
        raise
    finally:
        os.close(slot.lock)


async def _bring_up(live: Live, paths: Paths, config: Config, meta: records.Meta, properties: dict[str, Any]) -> str:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            child = _spawn(paths, config, meta, theirs)
        job = ""
        try:
            job = live.start_transient(meta.unit, properties | {"PIDs": [child.pid]})
            result = await live.run_job(job, meta.unit, _START_S)
            # a dead child that systemd attached all the same would keep its scope "running" for ever
            if result != "done" or child.dead():
                raise Refused(_why(paths, meta.id, f"its scope was not started ({result})"))
            meta = replace(meta, invocation=live.invocation(meta.unit))
            if not meta.invocation:
                raise Refused(_why(paths, meta.id, "its scope went away"))
            records.write_meta(paths.session(meta.id), meta)
            await _release(ours, _job(paths, config, meta), paths, meta.id)
        except BaseException:
            child.end()
            if job:  # else the name may be somebody else's
                with contextlib.suppress(LooopError):
                    live.stop(meta.unit)
            raise
    text = f"{meta.id}, for {meta.source}"
    journal.emit("worker_started", session=meta.id, run=meta.run, invocation=meta.invocation, text=text)
    return meta.invocation


def plan(paths: Paths, config: Config, brief: Brief, now: Stamp) -> tuple[records.Meta, dict[str, Any]]:
    """Check everything that can be checked without touching anything: the record and the scope's properties."""
    safe_name("a worker", brief.id)
    if brief.id == "pulse":
        raise Refused("cannot start worker pulse: the name is reserved")
    if not brief.prompt.strip() or "\0" in brief.prompt:
        raise UsageError(f"cannot start worker {brief.id}: its prompt is empty or holds a NUL character")
    limits = _limits(config, brief)
    meta = records.Meta(
        id=brief.id,
        invocation="",
        unit=worker_unit(brief.id),
        started=now,
        command=_command(paths, config, brief),
        verify=brief.verify.strip(),
        source=brief.source,
        run=brief.run,
        stop_timeout=max(1, limits["stop_timeout"]),
        limits=dict(brief.limits),
    )
    return meta, _properties(meta, limits)


def _command(paths: Paths, config: Config, brief: Brief) -> str:
    command = brief.command.strip() or config.worker_command
    if not command:
        raise Refused(
            f"cannot start worker {brief.id}: there is no command for it",
            hint="set worker_command in looop.toml, or give one with --command",
        )
    if not brief.command.strip() and not _PLACEHOLDER.search(command):
        raise Refused(f"cannot start worker {brief.id}: worker_command does not hold {{{{prompt_file}}}}")
    if "\0" in command:
        raise UsageError(f"cannot start worker {brief.id}: its command holds a NUL character")
    quoted = shlex.quote(str(paths.prompts / f"{brief.id}.md"))
    return _PLACEHOLDER.sub(lambda match: quoted, command)


def _limits(config: Config, brief: Brief) -> dict[str, Any]:
    found = {key: getattr(config, key) for key in _LIMITS}
    parsers = {setting.key: setting.parse for setting in SETTINGS}
    for key, value in brief.limits.items():
        if key not in _LIMITS:
            known = ", ".join(_LIMITS)
            raise UsageError(f"cannot start worker {brief.id}: unknown limit {key!r}", hint=f"known: {known}")
        try:
            found[key] = parsers[key](value)
        except ValueError as error:
            raise UsageError(f"cannot start worker {brief.id}: limit {key} = {value!r}: expected {error}") from error
    return found


def _properties(meta: records.Meta, limits: Mapping[str, Any]) -> dict[str, Any]:
    properties = {
        "Description": f"looop worker {meta.id}",
        "Slice": "looop-worker.slice",
        "CollectMode": "inactive-or-failed",
        "TimeoutStopUSec": usec(meta.stop_timeout),
    }
    for key, name in (("memory_max", "MemoryMax"), ("memory_high", "MemoryHigh"), ("tasks_max", "TasksMax"),
                      ("cpu_weight", "CPUWeight")):  # fmt: skip
        if limits[key]:
            properties[name] = limits[key]
    if limits["runtime_max"]:
        properties["RuntimeMaxUSec"] = usec(limits["runtime_max"])
    return properties


@dataclass(frozen=True)
class _Slot:
    """A taken id: sessions/ID is there. The flock(2) on `lock` says that its launcher is at work."""

    paths: Paths
    id: str
    lock: int
    closed: Path | None

    def give_back(self) -> None:
        """Leave things as they were before: the earlier session of this id, if any, is listed again."""
        with contextlib.suppress(StateError):
            store.remove(self.paths.prompts / f"{self.id}.md")
            records.discard(self.paths.session(self.id))
        if self.closed is not None:
            with contextlib.suppress(OSError):
                records.reopen_generation(self.paths, self.id, self.closed)


def _reserve(live: Live, paths: Paths, config: Config, meta: records.Meta, now: Stamp) -> _Slot:
    """Count, and take the id, in one step."""
    _create_folders(paths)
    with store.lock(paths.sessions / ".lock", timeout=_LOCK_S):
        busy = {worker_of(unit) for unit in live.live([worker_unit("*")])} | records.starting(paths)
        if meta.id in busy:
            raise Refused(f"cannot start worker {meta.id}: it is already running")
        if config.max_workers and len(busy) >= config.max_workers:
            raise Refused(
                f"cannot start worker {meta.id}: {len(busy)} workers run and max_workers is {config.max_workers}"
            )
        _close_earlier(live, paths, meta, now)
        return _new_folder(paths, meta, now)


def _close_earlier(live: Live, paths: Paths, meta: records.Meta, now: Stamp) -> None:
    """An end that nobody has seen yet is noted before the id is used again."""
    with contextlib.suppress(StateError):
        earlier = records.read_meta(paths.session(meta.id)).invocation
        fleet.record_verdict(paths, meta.unit, earlier, live.results.get(earlier, ""), now)


def _new_folder(paths: Paths, meta: records.Meta, now: Stamp) -> _Slot:
    """Publish sessions/ID complete with its record, in place of a dead one."""
    fresh = paths.sessions / f".new-{meta.id}"
    records.discard(fresh)
    try:
        fresh.mkdir(mode=0o700)
        lock = os.open(fresh / "launch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"cannot make {fresh}: {error.strerror}") from error
    closed = None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records.write_meta(fresh, meta)
        closed = records.close_generation(paths, meta.id, now)
        os.rename(fresh, paths.session(meta.id))
    except (OSError, StateError) as error:
        os.close(lock)
        records.discard(fresh)
        if closed is not None:
            records.reopen_generation(paths, meta.id, closed)
        raise StateError(f"cannot record worker {meta.id}: {error}") from error
    return _Slot(paths, meta.id, lock, closed)


def _create_folders(paths: Paths) -> None:
    try:
        paths.create()
    except OSError as error:
        raise StateError(f"cannot make {error.filename}: {error.strerror}") from error


class _Child:
    """The shim as this process's child: watched by descriptor, reaped by the loop, without threads."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.fd, self._reap)

    def _reap(self) -> None:
        """Readable means dead (pidfd_open(2))."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.fd, os.WEXITED)
        self._loop.remove_reader(self.fd)
        os.close(self.fd)
        self.fd = -1

    def dead(self) -> bool:
        return self.fd < 0 or bool(select.select([self.fd], [], [], 0)[0])

    def end(self) -> None:
        """Kill and reap it; one that the kernel cannot end at once is left to the loop."""
        if self.fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, signal.SIGKILL)
            if select.select([self.fd], [], [], 2.0)[0]:
                self._reap()


def _spawn(paths: Paths, config: Config, meta: records.Meta, gate: socket.socket) -> _Child:
    folder = paths.session(meta.id)
    # without site the shim is smaller, but python3-systemd is found through it
    flags = ["-I"] if config.journal_output == "lines" else ["-I", "-S"]
    root = str(Path(__file__).parents[2])
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *flags, "-c", _SHIM, root, meta.id],
            environment(paths, config, LOOOP_SESSION_ID=meta.id),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, gate.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(folder / "shim.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=[s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)],
        )
    except OSError as error:
        raise Refused(f"cannot start worker {meta.id}: no shim: {error.strerror}") from error
    return _Child(pid)


def _job(paths: Paths, config: Config, meta: records.Meta) -> dict[str, object]:
    return {
        "id": meta.id,
        "invocation": meta.invocation,
        "unit": meta.unit,
        "command": meta.command,
        "cwd": str(paths.data),
        "folder": str(paths.session(meta.id)),
        "control": str(paths.control(meta.id)),
        "rows": meta.rows,
        "cols": meta.cols,
        "transcript_max": config.transcript_max_bytes,
        "journal_rate": config.journal_lines_per_s if config.journal_output == "lines" else 0,
    }


async def _release(gate: socket.socket, job: dict[str, object], paths: Paths, worker_id: str) -> None:
    """Let the shim run the command, and hear from it that it does."""
    loop = asyncio.get_running_loop()
    reply = b""
    try:
        async with asyncio.timeout(_START_S):
            await loop.sock_sendall(gate, wire.encode(job))
            while not reply.endswith(b"\n"):
                more = await loop.sock_recv(gate, 4096)
                if not more:
                    raise Refused(_why(paths, worker_id, "its shim died"))
                reply += more
    except TimeoutError as error:
        raise TimedOut(f"cannot start worker {worker_id}: its shim did not answer in {_START_S:g} s") from error
    except OSError as error:
        raise Refused(_why(paths, worker_id, str(error))) from error
    answer = wire.decode(reply)
    if answer["ok"] is not True:
        raise Refused(f"cannot start worker {worker_id}: {answer['error']}")


def _why(paths: Paths, worker_id: str, what: str) -> str:
    """The reason of a refused start, with the last line the shim left on its standard error."""
    try:
        lines = (store.read_bytes(paths.session(worker_id) / "shim.log") or b"").decode(errors="replace").split("\n")
    except StateError:
        lines = []
    words = next((f": {line.strip()[:300]}" for line in reversed(lines) if line.strip()), "")
    return f"cannot start worker {worker_id}: {what}{words}"
