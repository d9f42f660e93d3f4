"""The steps of a beat that judge nothing: housekeeping and sensing.

Claims are reaped, ends recorded, ended workers verified, old records pruned; then the sensors run and looop's own
probes are published. Used by the beat; what cannot be known here keeps the beat from acting.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from looop import (
    audit, claims, mailbox, notifications, nudges, policy, probes, runs, schedules, sensors, store, tells, verify, view,
)  # fmt: skip
from looop.clock import Stamp
from looop.config import Config
from looop.environment import environment
from looop.errors import LooopError, StateError, TryAgain
from looop.notices import Notices
from looop.paths import Paths
from looop.sessions import fleet
from looop.systemd import journal
from looop.systemd.live import Live
from looop.systemd.manager import Manager

STEP = 30.0  # seconds any step without a deadline of its own may take before the watchdog is no longer fed
VERIFY_AGAIN = 15


@dataclass(frozen=True)
class Services:
    """What a beat works with. `confined`: commands may be run here. `allow`: the next step may take so long."""

    live: Live
    system: Manager
    paths: Paths
    config: Config
    clock: Callable[[], Stamp]
    confined: bool
    allow: Callable[[float], None]
    status: Callable[[str], None]
    notices: Notices


async def housekeep(s: Services) -> tuple[list[fleet.Session], claims.Judge]:
    """Reap claims, judge ended workers, prune; returns the fleet. Raises Unavailable when it cannot be known."""
    paths, config, now = s.paths, s.config, s.clock()
    try:
        claims.reap(paths, claims.snapshot(s.live, s.system), timeout=1.0)
    except (StateError, TryAgain) as error:
        s.notices.note("claim_reap_skipped", str(error))
    judge = functools.cache(claims.judge(s.live, s.system))  # each holder once a beat, however many asks it has
    live = s.live.live([fleet.unit_name("*")])
    waiting = mailbox.waiting(paths, judge, now.wall)
    idle = await fleet.probe(paths, live)
    sessions = fleet.read(paths, config, live, now, waiting, idle)
    note_ends(s.live, paths, sessions, now)
    if s.confined and any(session.verify == "pending" and not session.alive for session in sessions):
        s.allow(STEP + (config.verify_timeout or 600))
        if await verify.settle(s.live, paths, config, sessions, now):
            await nudge(s, VERIFY_AGAIN)
        sessions = fleet.read(paths, config, live, now, waiting, idle)
    for problem in (*prune(s, live, judge), *await notifications.settle(s.live, paths, config, now, judge)):
        s.notices.note("state_degraded", problem)
    return sessions, judge


def note_ends(live: Live, paths: Paths, sessions: list[fleet.Session], now: Stamp) -> None:
    """Record the end of every generation once, with the kernel's verdict while it can still be learned."""
    for session in sessions:
        if not session.alive and session.invocation:
            try:
                fleet.close(paths, session, live.results.get(session.invocation, ""), now)
            except StateError as error:
                journal.emit("state_degraded", session=session.id, text=str(error))


def prune(s: Services, live: dict[str, str], judge: claims.Judge) -> list[str]:
    """Retention, each part on its own: one bad folder must not stop the others."""
    paths, config, now = s.paths, s.config, s.clock()
    parts: list[Callable[[], Any]] = [
        lambda: fleet.prune(paths, config, live, now),
        lambda: expire(s, judge),
        lambda: mailbox.prune(paths, config.answered_ttl, now.wall),
        lambda: tells.drop_stale(paths, judge, now.wall),
        lambda: tells.prune(paths, config.answered_ttl, now.wall),
        lambda: runs.prune(paths, config.runs_keep),
    ]
    problems = []
    for part in parts:
        try:
            part()
        except (StateError, TryAgain) as error:
            problems.append(str(error))
    return problems


def expire(s: Services, judge: claims.Judge) -> None:
    """Answer what is due with its default, where the asker itself does not: it is stopped, or hangs."""
    for ask in mailbox.expire_due(s.paths, judge, s.clock()):
        notifications.expired(s.paths, ask)
        audit.line(s.paths, s.config, mailbox.expiry_line(ask), "", s.clock())


# -- sense


async def sense(s: Services, sessions: list[fleet.Session], judge: claims.Judge) -> None:
    """Run the sensors that are due and publish the five probes."""
    paths, config, now = s.paths, s.config, s.clock()
    if s.confined:
        s.allow(STEP + (config.sensor_timeout or sensors.LONGEST) * 64)
        sensed = await sensors.sense(s.live, paths, config, environment(paths, config), now, wait=0)
        for result in sensed.results:
            if result.reason:
                text = f"{result.name}: {result.message}"
                s.notices.note("sensor_failed", text, result.name, sensor=result.name)
        for problem in sensed.problems:
            s.notices.note("sense_degraded", problem)
    else:
        s.notices.note("sandbox_missing", "sensors are not run")
    for problem in await schedules.arm(s.live, paths, now, s.allow):
        s.notices.note("state_degraded", problem)
    s.allow(STEP)
    mend(s)
    leases, open_asks = claims.listing(paths), mailbox.open_asks(paths)
    broken = [x.problem for x in sessions] + [c.broken for c in leases] + [a.broken or a.trouble for a in open_asks]
    for problem in (*broken, *tells.pending(paths)[1]):
        if problem:
            s.notices.note("state_degraded", problem)
    publish(s, "sessions", probes.sessions(x.to_json() for x in sessions))
    listed = [{"name": c.name, "broken": c.broken} if c.broken else c.to_json() for c in leases]
    publish(s, "claims", probes.claims(listed, now))
    publish(s, "goals", probes.goals(store.names(paths.goals, ".md"), policy.activity(paths), now))
    publish(s, "schedules", probes.schedules(schedules.readings(paths, now)))
    publish(s, "asks", probes.asks(mailbox.rows(open_asks, judge, now.wall), now))
    journal.emit("sense_done")


def publish(s: Services, name: str, blob: probes.Blob) -> None:
    """Publish one probe, over whatever stands in its place."""
    aside = store.clear_folder(probes.path(s.paths, name))
    if aside:
        s.notices.note("state_degraded", aside)
    probes.publish(s.paths, name, blob)


def mend(s: Services) -> None:
    """Move aside what only informs and cannot be read, so that it stops no decision."""
    for path, read in ((s.paths.goal_activity, policy.activity), (s.paths.last_shell, view.last_shell)):
        try:
            read(s.paths)
        except StateError as error:
            journal.emit("state_degraded", text=f"{error}; moved aside")
            store.set_aside(path)


async def nudge(s: Services, seconds: int, name: str = "") -> None:
    """Ask for a beat that decides in `seconds`; trouble with it costs at most one beat of the timer."""
    try:
        await nudges.arm(s.live, s.paths, seconds, s.clock(), name)
    except LooopError as error:
        journal.emit("state_degraded", text=f"cannot arm a follow-up: {error}")
