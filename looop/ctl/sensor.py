"""`looopctl sensor`: write, list and run sensors, and their earlier versions."""

import argparse
import asyncio
import sys

from looop import audit, policy, seed, sensors, store
from looop.clock import age, now
from looop.ctl import history
from looop.ctl.command import (
    Command, Context, Parser, add_action, add_actions, add_body, add_journal, add_json, body, complete, print_json,
    table,
)  # fmt: skip
from looop.errors import Refused
from looop.history import SENSOR

PATIENCE = 75.0  # seconds to wait for the pulse to end its own round


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    write = add_action(verbs, "write", "write or replace a sensor; the earlier one is kept")
    complete(write.add_argument("name", metavar="SENSOR", help="the sensor's name, without .sh"), "@sensors")
    add_body(write, "the script; its first line names the interpreter")
    add_journal(write)
    listing = add_action(verbs, "list", "list the sensors and their last reading")
    add_json(listing)
    run = add_action(verbs, "run", "run one sensor now, as the loop does")
    complete(run.add_argument("name", metavar="SENSOR", help="the sensor's name, without .sh"), "@sensors")
    history.configure(verbs, SENSOR)


def _list(context: Context, as_json: bool) -> int:
    found = []
    for name, path in sensors.scripts(context.paths).items():
        reading = sensors.snapshot(context.paths, name)
        wall = reading.stat().st_mtime if reading.exists() else None
        text = (store.read_bytes(reading) or b"").decode(errors="replace")
        found.append((name, sensors.interval(path), None if wall is None else max(0, int(now().wall - wall)), text))
    if as_json:
        print_json([{"name": n, "interval_s": every, "changed_s": c, "reading": t} for n, every, c, t in found])
    elif found:
        rows = [(n, f"{every}s" if every else "beat", age(c), " ".join(t.split())[:80]) for n, every, c, t in found]
        table(("SENSOR", "EVERY", "CHANGED", "READING"), rows)
    else:
        print("no sensors")
    return 0


async def _sense(context: Context, name: str) -> sensors.Sensed:
    from looop.environment import environment
    from looop.systemd.live import Live

    live = Live("user")
    await live.connect()
    try:
        env = environment(context.paths, context.config)
        return await sensors.sense(live, context.paths, context.config, env, now(), only={name}, wait=PATIENCE)
    finally:
        await live.aclose()


def _run_one(context: Context, name: str) -> int:
    paths = context.paths
    if not paths.sensor(name).exists():
        raise Refused(f"cannot run sensor {name}: there is no {paths.sensor(name)}")
    seed.seed(paths)
    sensed = asyncio.run(_sense(context, name))
    for problem in sensed.problems:
        print(problem, file=sys.stderr)
    if not sensed.results:
        return 1
    result = sensed.results[0]
    if result.reason != "lost":
        sys.stdout.flush()
        sys.stdout.buffer.write(store.read_bytes(sensors.snapshot(paths, name)) or b"")
        sys.stdout.buffer.flush()
    if result.reason:
        print(f"{name}: {result.message}", file=sys.stderr)
    return 1 if result.reason else 0


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.action in history.ACTIONS:
        return history.run(args, context, SENSOR)
    if args.action == "list":
        return _list(context, args.json)
    if args.action == "run":
        return _run_one(context, args.name)
    context.paths.sensor(args.name)
    seed.seed(context.paths)
    policy.write_sensor(context.paths, context.config, args.name, body(args.body))
    summary = f"write-sensor {args.name}"
    audit.line(context.paths, context.config, args.journal or summary, "", now())
    print(summary)
    return 0


command = Command(_configure, _run)
