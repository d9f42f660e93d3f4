"""`looopctl schedule`: write, remove and list schedules, in systemd's own words for time."""

import argparse
import asyncio
import os
import sys
import time
from typing import Any

from looop import audit, schedules, seed
from looop.clock import Stamp, now
from looop.ctl.command import (
    Command, Context, Parser, add_action, add_actions, add_journal, add_json, complete, print_json, printable, table,
)  # fmt: skip
from looop.ctl.up import pulse_state
from looop.errors import LooopError, UsageError
from looop.instants import CATCH_UP, LONGEST, SHORTEST_PERIOD, Memory, Record
from looop.paths import safe_name
from looop.systemd import timespec
from looop.systemd.live import Live
from looop.systemd.manager import Manager

SHOWN = 3  # instants to come


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    write = add_action(verbs, "write", "write or replace a schedule")
    complete(write.add_argument("name", metavar="NAME", help="the schedule's name"), "@schedules")
    when = write.add_mutually_exclusive_group(required=True)
    when.add_argument("--in", dest="once", metavar="DURATION", help='once, in "2h 30min" (systemd.time(7))')
    when.add_argument("--every", metavar="DURATION", help='again and again from now on: "1h"; a minute at least')
    when.add_argument("--calendar", metavar="SPEC", help='as in OnCalendar=, such as "Mon..Fri 09:00"')
    write.add_argument(
        "--catch-up", choices=CATCH_UP, default="once", help="what is missed while nothing runs fires once or never"
    )
    write.add_argument("--note", metavar="TEXT", default="", help="what it is for; the decider reads it")
    add_journal(write)
    remove = add_action(verbs, "rm", "remove a schedule, if there is one")
    complete(remove.add_argument("name", metavar="NAME", help="the schedule's name"), "@schedules")
    add_journal(remove)
    add_json(add_action(verbs, "list", "list the schedules"))


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.action == "list":
        return _list(context, args.json)
    safe_name("a schedule", args.name)
    return _write(args, context) if args.action == "write" else _remove(args, context)


# -- write and rm


def _write(args: argparse.Namespace, context: Context) -> int:
    at, name = now(), str(args.name)
    once = None if args.once is None else _span(name, "--in", args.once, 0)
    every = None if args.every is None else _span(name, "--every", args.every, SHORTEST_PERIOD)
    calendar = None if args.calendar is None else pinned(args.calendar.strip())
    following = [] if calendar is None else schedules.check_calendar(calendar, at.wall)[:SHOWN]
    seed.seed(context.paths)
    record = schedules.write(context.paths, name, once, every, calendar, args.note, at, args.catch_up)
    summary = f"write-schedule {name}"
    audit.line(context.paths, context.config, args.journal or summary, "", at)
    print(summary)
    for instant in following or record.upcoming(at.wall, SHOWN):
        print(f"  {clock(instant)}, {ahead(instant, at)}")
    problem = asyncio.run(_arm(context, name))
    if problem:
        print(f"looopctl: {problem}; the pulse makes the timer when it next looks", file=sys.stderr)
    return 0


def _span(name: str, flag: str, text: str, least: float) -> float:
    found = timespec.span(text)
    if not (least <= found <= LONGEST and found > 0):
        bounds = "a minute is the least" if least else "it must be more than nothing"
        raise UsageError(f"cannot write schedule {name}: {flag} {text}: {bounds}, and ten years the most")
    return found


def pinned(spec: str) -> str:
    """`spec` with the zone of $TZ, which the user manager's timers know nothing of, unless it names one itself."""
    zone = os.environ.get("TZ", "").lstrip(":")
    if not zone:
        return spec
    try:
        timespec.calendar(f"{spec} {zone}", 1)
    except UsageError:
        return spec
    return f"{spec} {zone}"


async def _arm(context: Context, name: str) -> str:
    """Make the timer at once if there is a pulse to poke; "" or what stands in the way."""
    live = Live("user")
    try:
        await live.connect()
        if pulse_state(live) in ("inactive", "failed"):
            return ""
        problem = await schedules.arm_one(live, context.paths, name, now())
        return problem and await schedules.arm_one(live, context.paths, name, now())  # the pulse did so meanwhile
    except LooopError as error:
        return str(error)
    finally:
        await live.aclose()


def _remove(args: argparse.Namespace, context: Context) -> int:
    summary = f"drop-schedule {args.name}"
    if schedules.drop(context.paths, args.name):
        audit.line(context.paths, context.config, args.journal or summary, "", now())
    print(summary)
    try:
        with Manager("user") as user:
            schedules.disarm(user, args.name)
    except LooopError as error:
        print(f"looopctl: {error}; the pulse removes the timer when it next looks", file=sys.stderr)
    return 0


# -- list


def clock(instant: float) -> str:
    """An instant in local time, for a person."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(instant))


def length(seconds: float) -> str:
    """A duration in one or two units, rounded: 42s, 59min, 1h 30min, 2d 11h."""
    if seconds < 119.5:
        return f"{round(seconds)}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return " ".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "min")) if n)
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days}d" + (f" {hours}h" if hours else "")


def ahead(instant: float, at: Stamp) -> str:
    """How far away it is."""
    return f"in {length(instant - at.wall)}" if instant >= at.wall else f"{length(at.wall - instant)} ago"


def survey(context: Context, at: Stamp) -> list[dict[str, Any]]:
    """Every schedule as a JSON object; null stands for what could not be learned. Raises StateError."""
    known = schedules.memories(context.paths)
    try:
        with Manager("user") as user:
            armed = set(user.list_units([schedules.timer("*")]))
    except LooopError:
        armed = None
    found = []
    for name, record in schedules.records(context.paths).items():
        row: dict[str, Any] = {"name": name, "kind": "invalid", "state": "invalid", "timer": None}
        if armed is not None:
            row["timer"] = schedules.timer(name) in armed
        if isinstance(record, Record):
            row |= _row(record, schedules.remembered(record, known.get(name)), at)
        else:
            row["message"] = record
        found.append(row)
    return found


def _row(record: Record, memory: Memory, at: Stamp) -> dict[str, Any]:
    message, following = memory.problem, None
    over = record.at is not None and record.at in (memory.fired, memory.missed)
    try:
        if not message:
            base = at.wall if record.at is None else -1.0
            following = [] if over else schedules.upcoming(record, base, SHOWN)
    except UsageError as error:
        message = str(error)
    except LooopError:
        pass
    when = {"at": record.at, "every_s": record.every, "calendar": record.calendar or None}
    return {
        "kind": record.kind,
        "state": "invalid" if message else memory.state(record, at.wall),
        **{key: value for key, value in when.items() if value is not None},
        "next": following,
        "fired": memory.fired,
        "missed": memory.missed,
        "catch_up": record.catch_up,
        "note": record.note,
        **({"message": message} if message else {}),
    }


def _list(context: Context, as_json: bool) -> int:
    at = now()
    rows = survey(context, at)
    if as_json:
        print_json(rows)
    elif rows:
        table(["SCHEDULE", "STATE", "NEXT", "LAST", "WHEN", "NOTE"], [_cells(row, at) for row in rows])
    else:
        print("no schedules")
    for row in rows:
        if row["state"] == "invalid":
            print(f"looopctl: schedule {row['name']}: {printable(row['message'])}", file=sys.stderr)
    return 0


def _cells(row: dict[str, Any], at: Stamp) -> list[str]:
    if row["kind"] == "invalid":
        return [row["name"], "invalid", "-", "-", "-", ""]
    following = row["next"]
    coming = "?" if following is None else ahead(following[0], at) if following else "-"
    every = f"every {length(row['every_s'])}" if "every_s" in row else "once"
    when = str(row.get("calendar", every)) + (", skip" if row["catch_up"] == "skip" else "")
    last = "-" if row["fired"] is None else ahead(row["fired"], at)
    return [row["name"], row["state"], coming, last, when[:30], str(row["note"])[:40]]


command = Command(_configure, _run)
