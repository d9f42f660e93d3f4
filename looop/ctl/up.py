"""`looopctl up` and `looopctl down`: start and stop looop.service, and say what really happened."""

import argparse
import asyncio

from looop import store
from looop.ctl.command import Command, Context, Parser
from looop.errors import Refused
from looop.systemd.live import Live
from looop.systemd.manager import Manager

PULSE = "looop.service"
SLICES = ("looop-worker.slice", "looop-helper.slice")
WORKERS = "looop-worker-*.scope"


def pulse_state(manager: Manager) -> str:
    """ActiveState of the pulse ("inactive" when it is not loaded). Raises Unavailable."""
    units = manager.list_units([PULSE])
    return units[PULSE].active if PULSE in units else "inactive"


async def start(context: Context) -> bool:
    """Start the pulse and wait until it says READY=1; False when it ran already. Raises Refused."""
    live = Live("user")
    await live.connect()
    try:
        if pulse_state(live) == "active":
            return False
        result = await live.run_job(live.start(PULSE), PULSE, 90)
        if result != "done":
            raise Refused(
                f"cannot start the pulse: the start job ended as {result}",
                hint="journalctl --user -u looop -n 20 says why",
            )
        return True
    finally:
        await live.aclose()


async def stop(context: Context, keep_workers: bool) -> tuple[bool, list[str]]:
    """Stop the pulse first (it is the only spawner), then the workers; returns (was running, workers stopped)."""
    live = Live("user")
    await live.connect()
    try:
        workers = [] if keep_workers else sorted(live.live([WORKERS]))
        was_active = pulse_state(live) not in ("inactive", "failed")
        if keep_workers:
            store.write(context.paths.runtime / "keep-workers", "")
        # the socket and the timers go with the service (PartOf=); stopping a stopped unit is harmless
        await live.run_job(live.stop(PULSE), PULSE, 60)
        if not keep_workers:
            for name in SLICES:
                if live.list_units([name]):
                    await live.run_job(live.stop(name), name, 60)
            left = sorted(live.live([WORKERS]))
            if left:
                raise Refused(f"cannot stop every worker: {', '.join(left)} still run")
        return was_active, workers
    finally:
        await live.aclose()


def _configure_up(parser: Parser) -> None:
    pass


def _up(args: argparse.Namespace, context: Context) -> int:
    context.config  # noqa: B018  a broken configuration is said here, in full, not through a failed unit
    print("pulse started" if asyncio.run(start(context)) else "pulse already running")
    return 0


def _configure_down(parser: Parser) -> None:
    parser.add_argument("--keep-workers", action="store_true", help="leave the workers running")


def _down(args: argparse.Namespace, context: Context) -> int:
    was_active, workers = asyncio.run(stop(context, args.keep_workers))
    names = [w.removeprefix("looop-worker-").removesuffix(".scope") for w in workers]
    if names:
        print(f"stopped {len(names)} worker{'s' if len(names) > 1 else ''} ({', '.join(names)})")
    print("pulse stopped" if was_active else "pulse not running")
    return 0


command_up = Command(_configure_up, _up)
command_down = Command(_configure_down, _down)
