"""`looopctl worker start|kill|list`."""

import argparse
import asyncio
from typing import TYPE_CHECKING

from looop import audit, clock
from looop.clock import age
from looop.ctl import kill
from looop.ctl.command import (
    Command, Context, Parser, add_action, add_actions, add_body, add_journal, add_json, body, complete, print_json,
    table,
)  # fmt: skip
from looop.errors import UsageError

if TYPE_CHECKING:
    from looop.sessions import launch


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    start = add_action(verbs, "start", "start a worker")
    complete(start.add_argument("id", metavar="WORKER", help="its name to be, often the goal's"), "@goals")
    add_body(start, "what it is to do")
    start.add_argument("--command", default="", metavar="CMD", help="its shell command, instead of worker_command")
    start.add_argument("--verify", default="", metavar="CMD", help="shell command that judges the result after its end")
    start.add_argument(
        "--limit", action="append", default=[], metavar="KEY=VALUE",
        help="memory_max, memory_high, tasks_max, cpu_weight, runtime_max or stop_timeout of this worker",
    )  # fmt: skip
    add_journal(start)
    kill.configure(add_action(verbs, "kill", "stop a worker"))
    listing = add_action(verbs, "list", "list workers")
    listing.add_argument("-a", "--all", action="store_true", help="dead ones too")
    add_json(listing)


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.action == "kill":
        return kill.run(args, context)
    if args.action == "list":
        return _list(args, context)
    from looop.sessions import launch

    limits = dict(_limit(text) for text in args.limit)
    asyncio.run(start(context, launch.Brief(args.id, body(args.body), args.command, args.verify, limits=limits)))
    summary = f"start-worker {args.id}" + (" (command override)" if args.command else "")
    audit.line(context.paths, context.config, args.journal or summary, "", clock.now())
    print(summary)
    return 0


async def start(context: Context, brief: "launch.Brief") -> None:
    """Start a worker for the human. Raises Refused with the reason, TimedOut or Unavailable."""
    from looop.sessions import launch
    from looop.systemd.live import Live

    launch.plan(context.paths, context.config, brief, clock.now())
    live = Live("user")
    await live.connect()
    try:
        await launch.start(live, context.paths, context.config, brief, clock.now())
    finally:
        await live.aclose()


def _limit(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"cannot use --limit {text!r}: expected KEY=VALUE")
    return key, value


def _list(args: argparse.Namespace, context: Context) -> int:
    from looop import claims, mailbox
    from looop.sessions import fleet
    from looop.systemd.manager import Manager

    with Manager("user") as user, Manager("system") as system:
        live = user.live([fleet.unit_name("*")])
        waiting = mailbox.waiting(context.paths, claims.judge(user, system), clock.now().wall)
    idle = asyncio.run(fleet.probe(context.paths, live))
    found = fleet.read(context.paths, context.config, live, clock.now(), waiting, idle)
    shown = [session for session in found if args.all or session.alive]
    if args.json:
        print_json([session.to_json() for session in shown])
        return 0
    rows = [
        (s.id, s.health, s.state if s.exit_code is None else f"exit {s.exit_code}", age(s.idle_s), age(s.uptime_s),
         age(s.ask_age_s), s.verify or "-")
        for s in shown
    ]  # fmt: skip
    if rows:
        table(("ID", "HEALTH", "STATE", "IDLE", "UP", "ASK", "VERIFY"), rows)
    else:
        print("no workers" if args.all else "no live workers (-a shows the dead ones)")
    return 0


command = Command(_configure, _run)
