"""`looopctl tell` leaves a message for a running worker, `told` is how that worker reads its messages."""

import argparse
import os
import sys
from pathlib import Path

from looop import clock, tells
from looop.ctl.command import Command, Context, Parser, add_body, add_json, body, complete, print_json, printable
from looop.errors import ExitCode, UsageError
from looop.paths import safe_name
from looop.systemd.identity import Holder, unit_of_cgroup
from looop.systemd.manager import Manager
from looop.systemd.names import worker_unit


def _invocation(worker: str) -> str | None:
    """The generation of a worker that runs now, None when none does."""
    unit = worker_unit(safe_name("a worker", worker))
    with Manager("user") as user:
        return user.live([unit]).get(unit)


def _configure_tell(parser: Parser) -> None:
    complete(parser.add_argument("worker", metavar="WORKER", help="the id of a running worker"), "@workers")
    add_body(parser, "the message")
    add_json(parser)


def _run_tell(args: argparse.Namespace, context: Context) -> int:
    target = _invocation(args.worker)
    message = tells.send(context.paths, args.worker, target, body(args.body), clock.now())
    if args.json:
        print_json(message.to_json())
    else:
        print(f"{message.id}: {printable(message.text)}")
    return ExitCode.DONE


def _configure_told(parser: Parser) -> None:
    default = "whose messages (default: $LOOOP_SESSION_ID)"
    complete(parser.add_argument("worker", metavar="WORKER", nargs="?", help=default), "@workers")
    add_json(parser)


def _run_told(args: argparse.Namespace, context: Context) -> int:
    worker = args.worker or os.environ.get("LOOOP_SESSION_ID") or ""
    if not worker:
        raise UsageError("cannot tell whose messages to read", hint="looopctl told WORKER")
    found, broken = tells.pending(context.paths, safe_name("a worker", worker))
    me = reader(worker) if found else None
    if me:
        with tells.told(context.paths, worker, me, clock.now().wall) as messages:
            _show(messages, args.json)
    else:
        _show(found, args.json)
        if found:
            print(f"looopctl: not marked as read: only {worker} itself does that", file=sys.stderr)
    for complaint in broken:
        print(f"looopctl: {complaint}", file=sys.stderr)
    return ExitCode.DONE


def reader(worker: str) -> Holder | None:
    """The generation of `worker` that this process reads messages for; None when it is not that worker's.

    It is in the worker's own scope, and in that of a lease it holds for a command. Raises Unavailable.
    """
    _, unit = unit_of_cgroup(Path("/proc/self/cgroup").read_text()) or ("", "")
    held = unit.startswith("looop-hold-") and os.environ.get("LOOOP_SESSION_ID") == worker
    if not held and unit != worker_unit(worker):
        return None
    return Holder(worker_unit(worker), "user", _invocation(worker) or "", clock.boot_id())


def _show(messages: list[tells.Tell], as_json: bool) -> None:
    if as_json:
        print_json([message.to_json() for message in messages])
    for message in [] if as_json else messages:
        print(f"• {message.text}")
    sys.stdout.flush()


command_tell = Command(_configure_tell, _run_tell)
command_told = Command(_configure_told, _run_told)
