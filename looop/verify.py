"""The post-condition of a worker: one shell command, judged after its death, because "exit 0" is not "done".

Each runs as a read-only service of its own, beside each other, before the beat senses. A failing one is tried
again in later beats before its verdict is "fail"; what cannot be run or read is a failure, never a pass. The
verdict belongs to one generation (sessions/ID/verify.json names its InvocationID). Used by the beat.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from looop import audit, runs, store
from looop.clock import Stamp
from looop.config import Config
from looop.environment import environment
from looop.errors import LooopError, StateError, Unavailable
from looop.paths import Paths
from looop.sessions.fleet import Session
from looop.sessions.records import Verdict, read_meta, read_verdict, write_verdict
from looop.systemd import journal
from looop.systemd.live import Live
from looop.systemd.services import Confinement, run as run_service

OUTPUT_KEPT = 2048
OUTPUT_MAX = 1 << 20


async def settle(live: Live, paths: Paths, config: Config, sessions: Sequence[Session], now: Stamp) -> bool:
    """Judge every dead worker whose verdict is open; True when one of them is to be tried again."""
    pending = [session for session in sessions if session.verify == "pending" and not session.alive]
    tries = await asyncio.gather(*(judge(live, paths, config, session, now) for session in pending))
    return any(tries)


async def judge(live: Live, paths: Paths, config: Config, session: Session, now: Stamp) -> bool:
    """Run one post-condition and record what came out; True when it deserves another try."""
    folder = paths.session(session.id)
    try:
        meta = read_meta(folder)
        tries = tried(folder, session) + 1
        store.write(folder / "verify.sh", meta.verify + "\n", 0o700)
        outcome = await run_service(
            live,
            f"looop-verify-{session.id}.service",
            folder / "verify.sh",
            cwd=paths.data,
            stdin=None,
            stdout=folder / "verify.log",
            stderr=None,
            env=environment(paths, config, LOOOP_SESSION_ID=session.id),
            timeout=config.verify_timeout or 600,
            confine=confinement(config, meta.source),
            output_max=OUTPUT_MAX,
            description=f"looop verifies {session.id}",
        )
        output, ok, how, code = runs.tail(folder / "verify.log", OUTPUT_KEPT), outcome.ok, outcome.text(), outcome.code
    except Unavailable:
        return True  # nothing was learned, so nothing is recorded
    except LooopError as error:
        tries = max(1, config.verify_tries)
        output, ok, how, code = str(error), False, "could not be run", None
    last = ok or tries >= max(1, config.verify_tries)
    state = "pass" if ok else "fail" if last else "pending"
    try:
        write_verdict(folder, Verdict(session.invocation, state, tries, code, output, now))
    except StateError as error:
        journal.emit("state_degraded", session=session.id, text=str(error))
        return True
    if last:
        text = f"{session.id}: {state} ({how}{f', after {tries} tries' if tries > 1 else ''})"
        audit.line(paths, config, f"verified {text}", "", now)
        journal.emit("worker_verified", session=session.id, run=session.run, verdict=state, text=text)
    return not last


def tried(folder: Path, session: Session) -> int:
    """How often it was judged before; a verdict that cannot be read is moved aside and counts as none."""
    try:
        before = read_verdict(folder, session.invocation)
    except StateError as error:
        journal.emit("state_degraded", session=session.id, text=f"{error}; moved aside")
        store.set_aside(folder / "verify.json")
        return 0
    return before.tries if before else 0


def confinement(config: Config, source: str) -> Confinement | None:
    """Read-only for all; a command a decider wrote does not reach the user bus, or it could undo its own walls."""
    return None if config.sandbox == "off" else Confinement(bus=source != "decider")
