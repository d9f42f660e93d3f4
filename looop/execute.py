"""Carry out one move: the only place where a decision has side effects.

The caller has saved the record as "intended"; this module does the thing and returns what to say about it.
Used by the pulse, and by the verbs that do by hand what a move does. A move that fails raises; nothing here
retries.
"""

import asyncio
from dataclasses import dataclass
from typing import assert_never

from looop import notifications, policy, runs, schedules, store, tells
from looop.actions import (
    ArchiveGoal,
    DropSchedule,
    KillWorker,
    Move,
    Noop,
    Notify,
    RunShell,
    SendTell,
    StartWorker,
    WriteGoal,
    WritePlaybook,
    WriteSchedule,
    WriteSensor,
    summary,
)
from looop.clock import Stamp
from looop.config import Config
from looop.denylist import dangerous
from looop.environment import environment
from looop.errors import LooopError, Refused
from looop.paths import Paths
from looop.sessions import fleet, launch
from looop.systemd import journal
from looop.systemd.live import Live
from looop.systemd.services import Confinement, run as run_service

OUTPUT_SHOWN = 2048
OUTPUT_MAX = 16 << 20


class ShellFailed(LooopError):
    """A shell command was run and did not succeed; it may have done part of its work."""

    name = "shell-failed"


@dataclass(frozen=True)
class Hands:
    """What carrying out a move needs. `source` is who decided: rules, decider or human.

    `confined` says whether this host can confine a command; where it cannot, and that is required, none is run.
    """

    live: Live
    paths: Paths
    config: Config
    now: Stamp
    run: str
    source: str
    confined: bool


async def execute(hands: Hands, move: Move) -> str:
    """Do it; returns the one-line summary. Raises LooopError with the reason when it was refused or failed."""
    paths, config, now = hands.paths, hands.config, hands.now
    match move:
        case Noop():
            pass
        case RunShell(cmd=cmd):
            await run_shell(hands, cmd)
        case WriteGoal(id=goal_id, body=body):
            policy.write_goal(paths, config, goal_id, body, now)
        case ArchiveGoal(id=goal_id):
            policy.archive_goal(paths, goal_id, now)
        case WriteSensor(name=name, script=script):
            policy.write_sensor(paths, config, name, script)
        case WritePlaybook(body=body):
            policy.write_playbook(paths, config, body)
        case StartWorker():
            await start_worker(hands, move)
        case KillWorker(id=worker, reason=reason):
            await kill_worker(hands, worker, reason)
        case WriteSchedule():
            if move.calendar:
                await asyncio.to_thread(schedules.check_calendar, move.calendar, now.wall)
            schedules.write(
                paths, move.name, move.in_s, move.every_s, move.calendar, move.note, now, move.catch_up
            )
            problem = await schedules.arm_one(hands.live, paths, move.name, now)
            if problem:
                schedules.drop(paths, move.name)
                raise Refused(f"cannot arm schedule {move.name}: {problem}")
        case DropSchedule(name=name):
            schedules.drop(paths, name)
            schedules.disarm(hands.live, name)
        case SendTell(worker=worker, message=message):
            unit = fleet.unit_name(worker)
            tells.send(paths, worker, hands.live.live([unit]).get(unit), message, now)
        case Notify(message=message):
            journal.emit("notify", text=message, run=hands.run)
            notifications.message(paths, hands.run, message)
        case _:
            assert_never(move)
    return summary(move)


async def start_worker(hands: Hands, move: StartWorker) -> str:
    """Start the worker; returns its InvocationID."""
    brief = launch.Brief(
        id=move.id,
        prompt=move.prompt,
        command=move.command or "",
        verify=move.verify or "",
        source=hands.source,
        run=hands.run,
        limits=move.limits.to_json(),
    )
    policy.touch_goal(hands.paths, move.id, hands.now)
    return await launch.start(hands.live, hands.paths, hands.config, brief, hands.now)


async def kill_worker(hands: Hands, worker: str, reason: str) -> None:
    """Stop a worker and wait until its control group is empty."""
    await fleet.kill(hands.live, hands.paths, worker, by=hands.source, reason=reason, now=hands.now)


async def run_shell(hands: Hands, cmd: str) -> str:
    """Run one shell command confined; returns its output's tail. Raises ShellFailed naming code and output.

    What it printed is kept in `.last-shell.json` for the next decision, whether it succeeded or not.
    """
    paths, config = hands.paths, hands.config
    if not hands.confined:
        raise Refused("cannot run this: this host cannot confine it", hint="looopctl doctor says what is missing")
    trip = dangerous(cmd)
    if trip and not config.shell_allow_dangerous:
        raise Refused(
            f"cannot run this: the deny-list knows it as {trip}; nothing ran",
            hint="shell_allow_dangerous = true in looop.toml lets it pass; a worker that asks first is better",
        )
    folder = runs.folder(paths, hands.run)
    store.write(folder / "shell.sh", cmd + "\n", 0o700)
    outcome = await run_service(
        hands.live,
        f"looop-shell-{hands.run}.service",
        folder / "shell.sh",
        cwd=folder,
        stdin=None,
        stdout=folder / "shell.log",
        stderr=None,
        env=environment(paths, config),
        timeout=config.shell_timeout or 7 * 86400,
        confine=shell_confinement(hands),
        output_max=OUTPUT_MAX,
        description=f"looop runs a shell move ({hands.run})",
    )
    runs.note_usage(paths, hands.run, "shell", outcome.to_json())
    output = runs.tail(folder / "shell.log", OUTPUT_SHOWN)
    store.write_json(
        paths.last_shell,
        {"v": 1, "run": hands.run, "cmd": cmd, "exit_code": outcome.code, "how": outcome.text(), "output": output},
    )
    if not outcome.ok:
        partly = "; it may have done part of its work" if outcome.timed_out else ""
        raise ShellFailed(f"the command {outcome.text()}{partly}" + (f": {output[-512:].strip()}" if output else ""))
    return output


def shell_confinement(hands: Hands) -> Confinement | None:
    """What a shell command may touch: a human's own command has the user bus, a decider's only when configured."""
    config = hands.config
    if config.sandbox == "off":
        return None
    writable = (str(runs.folder(hands.paths, hands.run)), *config.shell_write_paths)
    return Confinement(write_paths=writable, bus=config.shell_bus or hands.source != "decider")
