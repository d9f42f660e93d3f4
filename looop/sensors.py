"""The sensors: which are due, running them through looop-sense.service, publishing what they said.

Used by the pulse, once a beat, and by `looopctl sensor run`. Nothing runs in this process: the unit is sandboxed
and ends with its control group empty. A reading is copied, then published by rename. What is not known is never
published as empty: where the unit itself failed, the last snapshots stay and the trouble is reported.
"""

import asyncio
import base64
import json
import math
import os
import signal
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from looop import store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import LooopError, StateError, TryAgain, UsageError
from looop.jsonutil import (
    JsonError,
    as_object,
    get_bool,
    get_int,
    get_num,
    get_object,
    get_opt_int,
    get_opt_str,
    get_str,
)
from looop.paths import Paths, safe_name

UNIT = "looop-sense.service"
CADENCE = b"# looop:interval="
CADENCE_LINES = 20
FIRST_RETRY = 60
LONGEST = 600  # seconds and
LARGEST = 16 << 20  # bytes, where the settings set no bound: a beat always ends, and its results are kept in memory
GRACE = 10.0
STALE_TEMP = 3600


class Live(Protocol):
    """What is needed of looop.systemd.manager.Live."""

    def restart(self, unit: str) -> str: ...
    def stop(self, unit: str) -> str: ...
    async def run_job(self, job: str, unit: str, timeout: float) -> str: ...


@dataclass(frozen=True)
class Result:
    """How one sensor fared. `reason` is "" when it did well, else exit, timeout, signal, spawn, lost or too-large."""

    name: str
    reason: str = ""
    message: str = ""
    secs: float = 0.0


@dataclass(frozen=True)
class Sensed:
    """One round: `ok` of `total` sensors have a good reading, `skipped` of them because they were not due."""

    ok: int = 0
    total: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    secs: float = 0.0
    problems: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()


@dataclass
class Past:
    """What is remembered of a sensor that has a cadence. `changed` is its script's ctime: chmod(1) counts too."""

    ran: Stamp
    changed: int
    fails: int = 0

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Past":
        return cls(Stamp.from_json(get_object(obj, "ran")), get_int(obj, "changed"), get_int(obj, "fails", 0))

    def to_json(self) -> dict[str, Any]:
        return {"ran": self.ran.to_json(), "changed": self.changed, "fails": self.fails}


@dataclass
class _Round:
    """One round in the making."""

    paths: Paths
    config: Config
    now: Stamp
    past: dict[str, Past] = field(default_factory=dict)
    saved: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)


def scripts(paths: Paths) -> dict[str, Path]:
    """The sensors by name, sorted; those whose name cannot be used are left out. Raises StateError."""
    return {name: paths.sensors / f"{name}.sh" for name in store.names(paths.sensors, ".sh") if _usable(name)}


def _usable(name: str) -> bool:
    try:
        return bool(safe_name("a sensor", name))
    except UsageError:
        return False


def interval(script: Path) -> int:
    """The declared cadence in seconds; 0 = every beat, also when the comment or the script cannot be read."""
    try:
        with open(os.open(script, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            lines = [file.readline(1024).strip() for _ in range(CADENCE_LINES)]
    except OSError:
        return 0
    for line in lines:
        if line.startswith(CADENCE):
            number = line[len(CADENCE):].strip()  # fmt: skip
            return int(number) if number.isdigit() and len(number) < 10 else 0
    return 0


def is_due(past: Past | None, every: int, changed: int, now: Stamp) -> bool:
    """A failed sensor is tried again after 60 s, 120 s, 240 s..., but never later than its cadence says."""
    if past is None or past.changed != changed or not every:
        return True
    wait = min(every, FIRST_RETRY << min(past.fails - 1, 20)) if past.fails else every
    return past.ran.age(now) >= wait


def snapshot(paths: Paths, name: str) -> Path:
    return paths.snapshots / f"sensor-{name}.json"


async def sense(
    live: Live,
    paths: Paths,
    config: Config,
    env: Mapping[str, str],
    now: Stamp,
    only: Collection[str] | None = None,
    wait: float = 0,
) -> Sensed:
    """Run what is due and publish it; with `only`, just those, due or not. Takes no unit when nothing is due.

    `wait` is how long another process that senses may hold us up. Trouble is in the result, never raised.
    """
    try:
        with store.lock(paths.sense / "lock", wait):
            return await _sense(_Round(paths, config, now), live, env, only)
    except TryAgain:
        return Sensed(problems=("cannot run the sensors: `looopctl sensor run` is running one",))
    except StateError as error:
        return Sensed(problems=(str(error),))


async def _sense(this: _Round, live: Live, env: Mapping[str, str], only: Collection[str] | None) -> Sensed:
    paths = this.paths
    began = time.monotonic()
    every_one = scripts(paths)
    odd = [name for name in store.names(paths.sensors, ".sh") if name not in every_one]
    if odd:
        this.problems.append(f"cannot use {paths.sensors / odd[0]}.sh as a sensor: looop takes no such name")
    _load_past(this)
    cadence = {name: interval(path) for name, path in every_one.items()}
    changed = {name: _changed(path) for name, path in every_one.items()}
    if only is None:
        _prune(this, every_one)
        due = {
            name: path for name, path in every_one.items()
            if is_due(this.past.get(name), cadence[name], changed[name], this.now)
            or not snapshot(paths, name).is_file()
        }  # fmt: skip
    else:
        due = {name: path for name, path in every_one.items() if name in only}
    records = await _run(this, live, due, env) if due else {}
    results = [_publish(this, name, records.get(name)) for name in due]
    _remember(this, results, cadence, changed)
    failed = tuple(result.name for result in results if result.reason)
    skipped = 0 if only is not None else len(every_one) - len(due)
    total = len(due) + skipped
    secs = round(time.monotonic() - began, 3)
    return Sensed(total - len(failed), total, skipped, failed, secs, tuple(this.problems), tuple(results))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return 0


async def _run(this: _Round, live: Live, due: Mapping[str, Path], env: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Hand the job to the unit and wait for its end; what it finished is returned whatever happened."""
    paths, config = this.paths, this.config
    timeout = config.sensor_timeout or LONGEST
    parallel = max(1, config.sensor_parallel)
    token = os.urandom(8).hex()
    job = {
        "v": 1,
        "token": token,
        "sensors": [{"name": name, "path": str(path)} for name, path in due.items()],
        "timeout": timeout,
        "max_bytes": config.sensor_max_bytes or LARGEST,
        "parallel": parallel,
        "env": dict(env),
        "cwd": str(paths.data),
    }
    for old in store.names(paths.sense, ".jsonl"):
        store.remove(paths.sense / f"{old}.jsonl")
    store.write_changed(paths.sense / "job.json", store.dump_json(job).encode())
    limit = math.ceil(len(due) / parallel) * timeout + GRACE
    try:
        word = await live.run_job(live.restart(UNIT), UNIT, limit)
        if word != "done":
            this.problems.append(f"cannot run the sensors: {UNIT} ended with {word!r} (journalctl --user -u {UNIT})")
    except asyncio.CancelledError:
        _stop(live)
        raise
    except LooopError as error:
        _stop(live)
        this.problems.append(f"cannot run the sensors: {error}")
    return _results(paths, token)


def _stop(live: Live) -> None:
    try:
        live.stop(UNIT)
    except LooopError:
        pass  # it has no process left, or the bus is gone: the next restart of the unit ends it


def _results(paths: Paths, token: str) -> dict[str, dict[str, Any]]:
    """The runner's records by sensor; a torn last line is not one."""
    path = paths.sense / f"{token}.jsonl"
    found: dict[str, dict[str, Any]] = {}
    for line in (store.read_bytes(path) or b"").splitlines():
        try:
            record = as_object(json.loads(line))
            found[get_str(record, "name")] = record
        except (JsonError, ValueError):
            continue
    store.remove(path)
    return found


def _publish(this: _Round, name: str, record: Mapping[str, Any] | None) -> Result:
    """Turn a runner's record into the sensor's snapshot. An error blob has a stable signal."""
    path = snapshot(this.paths, name)
    try:
        result, blob = _judge(name, record, this.config)
    except (JsonError, ValueError) as error:
        result, blob = _judge(name, {"name": name, "error": f"the runner's record is damaged: {error}"}, this.config)
    if result.reason != "lost" or not path.is_file():
        try:
            aside = store.clear_folder(path)
            if aside:
                this.problems.append(aside)
            store.write_changed(path, blob)
        except StateError as error:
            this.problems.append(str(error))
            return Result(name, "lost", str(error), result.secs)
    return result


def _judge(name: str, record: Mapping[str, Any] | None, config: Config) -> tuple[Result, bytes]:
    """What happened, and the bytes to publish. Raises JsonError or ValueError for a damaged record."""
    if record is None:
        return _failure(name, "lost", 1, "the sandbox ended before this sensor did")
    error = get_opt_str(record, "error")
    if error is not None:
        return _failure(name, "spawn", 126, f"cannot start: {error}")
    secs, stderr = get_num(record, "secs"), get_str(record, "stderr")
    code, number = get_opt_int(record, "code"), get_opt_int(record, "signal")
    if get_bool(record, "too_large"):
        cap = config.sensor_max_bytes or LARGEST
        message = f"printed more than {cap} bytes"
        blob = {"signal": {"error": "too-large", "cap": cap}, "detail": {"message": message, "stderr": stderr}}
        return Result(name, "too-large", message, secs), store.dump_json(blob).encode()
    if get_bool(record, "timed_out"):
        return _failure(name, "timeout", 124, f"timed out after {config.sensor_timeout or LONGEST} s", stderr, secs)
    if number is not None:
        return _failure(name, "signal", 128 + number, f"killed by {_signal(number)}", stderr, secs)
    if code:
        return _failure(name, "exit", code, f"exited {code}", stderr, secs)
    return Result(name, secs=secs), base64.b64decode(get_str(record, "stdout"), validate=True)


def _failure(
    name: str, reason: str, code: int, message: str, stderr: str = "", secs: float = 0.0
) -> tuple[Result, bytes]:
    blob = {
        "signal": {"error": True, "exit_code": code, "reason": reason},
        "detail": {"message": message, "stderr": stderr},
    }
    return Result(name, reason, message, secs), store.dump_json(blob).encode()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _load_past(this: _Round) -> None:
    """An unreadable memory makes every sensor due and is written anew."""
    try:
        saved = get_object(store.read_json(this.paths.sensor_state) or {}, "sensors", {})
        this.past = {name: Past.from_json(as_object(each, name)) for name, each in saved.items()}
        this.saved = saved
    except (StateError, JsonError) as error:
        this.problems.append(f"cannot read when sensors last ran, so all run now: {error}")


def _remember(this: _Round, results: list[Result], cadence: Mapping[str, int], changed: Mapping[str, int]) -> None:
    """Keep, for sensors with a cadence only, when they ran. A lost one counts as failed."""
    for result in results:
        fails = (this.past[result.name].fails if result.name in this.past else 0) + 1 if result.reason else 0
        this.past[result.name] = Past(this.now, changed[result.name], fails)
    kept = {name: past.to_json() for name, past in this.past.items() if cadence.get(name)}
    if kept == this.saved:
        return
    try:
        store.clear_folder(this.paths.sensor_state)  # told when it was read
        store.write_changed(this.paths.sensor_state, store.dump_json({"v": 1, "sensors": kept}).encode())
    except StateError as error:
        this.problems.append(str(error))


def _prune(this: _Round, owned: Mapping[str, Path]) -> None:
    """Remove the snapshots of sensors that are gone, and what killed writers left."""
    keep = {snapshot(this.paths, name).name for name in owned}
    try:
        entries = list(os.scandir(this.paths.snapshots))
    except OSError as error:
        this.problems.append(f"cannot list {this.paths.snapshots}: {error.strerror}")
        return
    for entry in entries:
        orphan = entry.name.startswith("sensor-") and entry.name not in keep
        if orphan or (entry.name.endswith(".tmp") and _older(entry, STALE_TEMP, this.now)):
            try:
                os.unlink(entry.path)
            except OSError as error:
                this.problems.append(f"cannot remove {entry.path}: {error.strerror}")


def _older(entry: "os.DirEntry[str]", seconds: float, now: Stamp) -> bool:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and now.wall - info.st_mtime > seconds
