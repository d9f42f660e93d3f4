"""The fleet: what every session is, judged from systemd's snapshot and the session's own records. And ending one.

A session lives when its unit is active with the InvocationID of its record; no pid and no file's age is asked. A
record that cannot be read never hides a session and never makes one dead. Used by the pulse and by `looopctl`.
"""

import os
import signal as signals
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp, utc
from looop.config import Config
from looop.errors import Refused, StateError, TimedOut
from looop.jsonutil import JsonError, get_opt_str, get_str
from looop.paths import Paths, safe_name
from looop.sessions import control, records
from looop.sessions.control import Idle
from looop.systemd import journal
from looop.systemd.identity import unit_of_cgroup
from looop.systemd.live import Live
from looop.systemd.names import worker_of, worker_unit

OUTPUT_SHOWN = 400
DEFAULT_NOTE = "needs attention"


@dataclass(frozen=True)
class Session:
    """One session as everybody sees it.

    `state`: starting, running, exited (it left an exit code), killed (a signal, or no exit record), unknown (its
    record cannot be read). `health`: busy, waiting-ask, stuck, dead. `result` is systemd's word for a bad end
    ("oom-kill", "timeout"), `reason` what the one who stopped it said. Processor time `cpu_s` is of the whole session,
    `memory_bytes` and `tasks` are of now, `memory_peak` is known after its end; None is unknown.
    """

    id: str
    state: str
    alive: bool
    health: str
    unit: str
    invocation: str
    boot: str = ""
    run: str = ""
    started: Stamp | None = None
    exit_code: int | None = None
    signal: str = ""
    idle_s: float | None = None
    uptime_s: float | None = None
    ask_age_s: float | None = None
    verify: str = ""
    verify_output: str = ""
    note: str = ""
    result: str = ""
    reason: str = ""
    problem: str = ""
    cpu_s: float | None = None
    memory_bytes: int | None = None
    memory_peak: int | None = None
    tasks: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The one published schema; times as RFC 3339."""
        return asdict(self) | {"started": None if self.started is None else utc(self.started.wall)}


unit_name = worker_unit


def earlier(paths: Paths, name: str, now: Stamp) -> Session:
    """A generation that was put aside, by the name of its folder in sessions/.old. Raises StateError."""
    session = _session(paths, f"{records.OLD}/{name}", "", now)
    worker_id = name.rpartition(".")[0] or name
    return _with(session, id=worker_id, unit=worker_unit(worker_id))


def last(paths: Paths, worker_id: str, now: Stamp) -> Session:
    """The session of this id, judged as if its scope were gone: for who has just seen its end."""
    return _session(paths, worker_id, "", now)


async def probe(paths: Paths, units: Iterable[str], timeout: float = 1.0) -> dict[str, Idle]:
    """How idle the workers of these scopes are, by id; one that does not answer in time is left out."""
    return await control.probe(paths, [worker_id for unit in units if (worker_id := worker_of(unit))], timeout)


def read(
    paths: Paths,
    config: Config,
    live: Mapping[str, str],
    now: Stamp,
    waiting: Mapping[str, float],
    idle: Mapping[str, Idle] | None = None,
) -> list[Session]:
    """Every session, sorted by id. Raises StateError when the sessions folder cannot be listed.

    `live`: Manager.live() of the worker scopes. `waiting`: id -> age of its oldest live ask. `idle`: from `probe`.
    """
    scopes = {worker_id: invocation for unit, invocation in live.items() if (worker_id := worker_of(unit))}
    found = []
    for worker_id in sorted({*records.ids(paths), *scopes}):
        session = _session(paths, worker_id, scopes.get(worker_id, ""), now)
        if session.alive:
            quiet = (idle or {}).get(worker_id, Idle())
            health = _health(worker_id, quiet, config, waiting)
            session = _with(
                session, health=health, idle_s=quiet.both_s, ask_age_s=waiting.get(worker_id), cpu_s=quiet.used_s,
                memory_bytes=quiet.memory_bytes, tasks=quiet.tasks,
            )  # fmt: skip
        found.append(session)
    return found


def _with(session: Session, **changes: Any) -> Session:
    return Session(**{**session.__dict__, **changes})


def _health(worker_id: str, idle: Idle, config: Config, waiting: Mapping[str, float]) -> str:
    if worker_id in waiting:
        return "waiting-ask"
    if config.stuck_after and idle.both_s is not None and idle.both_s >= config.stuck_after:
        return "stuck"
    return "busy"


def _session(paths: Paths, worker_id: str, invocation: str, now: Stamp) -> Session:
    """One session without what has to be asked of its shim; `invocation` is its scope's, "" when there is none."""
    folder = paths.sessions / worker_id
    try:
        meta = records.read_meta(folder)
        if invocation and meta.invocation not in ("", invocation):
            raise StateError(f"its scope is not the one {folder / 'meta.json'} tells of")
        end = None
        if not invocation and meta.invocation:
            end = records.read_end(folder, "exit.json", meta.invocation)
    except StateError as error:
        return _unknown(worker_id, invocation, str(error))
    launching = not meta.invocation and records.being_launched(folder)
    alive = bool(invocation) or launching
    verify, output = _verify(folder, meta)
    session = Session(
        id=worker_id,
        state="starting" if not meta.invocation else "running",
        alive=alive,
        health="busy" if alive else "dead",
        unit=meta.unit,
        invocation=meta.invocation or invocation,
        boot=meta.started.boot,
        run=meta.run,
        started=meta.started,
        uptime_s=meta.started.age(now),
        verify=verify,
        verify_output=output,
        note=note(paths, worker_id) if alive else "",
        reason=_reason(folder, meta.invocation),
    )
    return session if alive else _ended(session, folder, end)


def _unknown(worker_id: str, invocation: str, problem: str) -> Session:
    return Session(
        id=worker_id,
        state="unknown",
        alive=bool(invocation),
        health="busy" if invocation else "dead",
        unit=worker_unit(worker_id),
        invocation=invocation,
        problem=problem,
    )


def _ended(session: Session, folder: Path, end: records.End | None) -> Session:
    seen = _seen(folder, session.invocation)
    known = end or seen
    length = session.started.age(known.ended) if known and session.started else None
    changes: dict[str, Any] = {"result": seen.result if seen else "", "uptime_s": length}
    if end is None:
        return _with(session, state="killed", **changes)
    name = _signal_name(end.signal) if end.signal else ""
    changes |= {"cpu_s": end.cpu_s, "memory_peak": end.memory_peak}
    return _with(session, state="killed" if name else "exited", exit_code=end.code, signal=name, **changes)


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seen(folder: Path, invocation: str) -> records.End | None:
    """A broken note is worth nothing, the end it was about is known all the same."""
    try:
        return records.read_end(folder, "ended.json", invocation)
    except StateError:
        return None


def _verify(folder: Path, meta: records.Meta) -> tuple[str, str]:
    if not meta.verify:
        return "", ""
    try:
        verdict = records.read_verdict(folder, meta.invocation)
    except StateError:
        verdict = None
    return ("pending", "") if verdict is None else (verdict.state, verdict.output[-OUTPUT_SHOWN:])


def _reason(folder: Path, invocation: str) -> str:
    try:
        found = store.read_json(folder / "stop.json") or {}
        if get_str(found, "invocation", "") != invocation:
            return ""
        return ": ".join(part for part in (get_opt_str(found, "by"), get_opt_str(found, "reason")) if part)
    except (StateError, JsonError):
        return ""


# -- what is learned about a session after its end


def record_verdict(paths: Paths, unit: str, invocation: str, result: str, now: Stamp) -> bool:
    """Note and report that this generation is over, with systemd's Result; True the first time. Raises StateError.

    False for units of no worker, and for generations that are no longer the session's.
    """
    worker_id = worker_of(unit)
    folder = paths.sessions / (worker_id or "")
    if not worker_id or not folder.is_dir() or records.read_meta(folder).invocation != invocation:
        return False
    record = {"v": 1, "id": worker_id, "invocation": invocation, "result": result, "ended": now.to_json()}
    if not store.create(folder / "ended.json", store.dump_json(record)):
        return False
    session = _session(paths, worker_id, "", now)
    code, text = session.exit_code, f"{worker_id}: {how_ended(session)}"
    journal.emit("worker_ended", session=worker_id, run=session.run, result=result, code=code, text=text)
    return True


def close(paths: Paths, session: Session, result: str, now: Stamp) -> None:
    """`record_verdict` for a session found dead, once."""
    if session.state != "unknown" and not os.path.lexists(paths.sessions / session.id / "ended.json"):
        record_verdict(paths, session.unit, session.invocation, result, now)


def how_ended(session: Session) -> str:
    """In words, for journal and prompt."""
    if session.exit_code is not None:
        how = f"exited {session.exit_code}"
    elif session.signal:
        how = f"killed by {session.signal}"
    elif session.state == "unknown":
        how = "unknown"
    else:
        how = "gone without an exit record" if session.invocation else "never started"
    bad = f" ({session.result})" if session.result not in ("", "success") else ""
    return how + bad + (f", stopped by {session.reason}" if session.reason else "")


def run_of(paths: Paths, worker_id: str) -> str:
    """The run that started this session, "" when none did or its command never ran. Raises StateError."""
    folder = paths.session(worker_id)
    if not folder.exists():
        return ""
    meta = records.read_meta(folder)
    return meta.run if meta.invocation else ""


def prune(paths: Paths, config: Config, live: Mapping[str, str], now: Stamp) -> list[str]:
    """Remove what has been dead for session_ttl, counted from its recorded end; the names of what went.

    Never removed: the living, those whose record cannot be read, those that still wait to be verified.
    """
    removed = []
    problem: StateError | None = None
    for session in read(paths, config, live, now, {}):
        if session.alive or session.state == "unknown" or session.verify == "pending":
            continue
        try:
            if _ended_at(paths, session, now).age(now) >= config.session_ttl:
                _remove(paths, session)
                removed.append(session.id)
        except StateError as error:
            problem = error
    removed += records.prune_old(paths, config.session_ttl, now)
    if problem is not None:
        raise problem
    return removed


def _remove(paths: Paths, session: Session) -> None:
    folder = paths.sessions / session.id
    with store.lock(paths.sessions / ".lock", timeout=2.0):
        if records.read_meta(folder).invocation == session.invocation and not records.being_launched(folder):
            store.remove(paths.prompts / f"{session.id}.md")
            store.remove(paths.control(session.id))
            records.discard(folder)


def _ended_at(paths: Paths, session: Session, now: Stamp) -> Stamp:
    """The recorded end. Where nobody recorded one, it is now, and that is recorded."""
    folder = paths.sessions / session.id
    try:
        end = records.read_end(folder, "exit.json", session.invocation)
    except StateError:
        end = None
    end = end or _seen(folder, session.invocation)
    if end is not None:
        return end.ended
    store.remove(folder / "ended.json")
    record_verdict(paths, session.unit, session.invocation, "", now)
    return now


# -- notes


def note(paths: Paths, worker_id: str) -> str:
    """The first line of a session's note, "" when it has none."""
    try:
        text = (store.read_bytes(paths.sessions / worker_id / "note") or b"").decode(errors="replace").strip()
    except StateError:
        return ""
    return text.partition("\n")[0].strip()


def set_note(paths: Paths, worker_id: str, text: str) -> None:
    """Put a note on a session. Raises Refused when there is none of that id."""
    if not paths.session(worker_id).is_dir():
        raise Refused(f"cannot flag worker {worker_id}: there is none")
    store.write(paths.session(worker_id) / "note", " ".join(text.split()) or DEFAULT_NOTE)


def clear_note(paths: Paths, worker_id: str) -> None:
    """Take the note off; it does not matter whether there was one."""
    if paths.session(worker_id).is_dir():
        store.remove(paths.session(worker_id) / "note")


# -- ending one


async def kill(live: Live, paths: Paths, worker_id: str, *, by: str, reason: str, now: Stamp) -> None:
    """Stop a worker and wait until nothing of it is left; systemd escalates. Raises Refused, TimedOut, Unavailable.

    Called from inside that worker it returns at once: the caller is about to be stopped itself.
    """
    if worker_id == "pulse":
        raise Refused("cannot kill pulse: it is no worker", hint="`looopctl down` stops looop")
    unit = worker_unit(safe_name("a worker", worker_id))
    folder = paths.session(worker_id)
    invocation = live.live([unit]).get(unit)
    if invocation is None:
        what = "it is being started" if records.being_launched(folder) else "it has already ended"
        raise Refused(f"cannot kill worker {worker_id}: {what if folder.is_dir() else 'there is none'}")
    if folder.is_dir():
        record = {"v": 1, "invocation": invocation, "by": by, "reason": reason, "at": now.to_json()}
        store.write_json(folder / "stop.json", record)
    text = f"{worker_id}, by {by}" + (f": {reason}" if reason else "")
    journal.emit("worker_killed", session=worker_id, reason=reason, text=text)
    job = live.stop(unit)
    if job and not _inside(unit):
        await live.run_job(job, unit, _stop_timeout(folder) + 10.0)
    if not _inside(unit) and live.live([unit]).get(unit) == invocation:
        raise TimedOut(f"cannot kill worker {worker_id}: its scope is still there")


def _inside(unit: str) -> bool:
    found = unit_of_cgroup(Path("/proc/self/cgroup").read_text())
    return found is not None and found[1] == unit


def _stop_timeout(folder: Path) -> int:
    try:
        return records.read_meta(folder).stop_timeout
    except StateError:
        return 90
