"""`looopctl claim`, `unclaim` and `claims`: leases that live as long as the unit invocation holding them.

Works with the pulse down. The uncontended `claim` is in every worker's way, so asyncio, inotify and the journal
are loaded only where needed.
"""

import argparse
import math
from pathlib import Path

from looop import claims, clock
from looop.ctl.command import Command, Context, Parser, add_json, complete, print_json, table
from looop.errors import ExitCode, Refused, UsageError
from looop.paths import safe_name
from looop.systemd.identity import Holder, holder, unit_of_cgroup
from looop.systemd.manager import Manager
from looop.systemd.names import worker_of, worker_unit


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"cannot wait {text!r}: expected seconds")
    return value


def _claimant(session: str, user: Manager, system: Manager) -> Holder:
    """The worker `session`, else the unit this process runs in."""
    if not session:
        return holder(user=user, system=system)
    unit = worker_unit(safe_name("a worker", session))
    invocation = user.live([unit]).get(unit)
    if invocation is None:
        raise Refused(f"cannot act for {session}: no worker of that id lives", hint="`looopctl worker list`")
    return Holder(unit, "user", invocation, clock.boot_id())


def _configure_claim(parser: Parser) -> None:
    parser.usage = "looopctl claim NAME [--session WORKER] [--wait[=SECONDS]] [--json] [-- COMMAND...]"
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to lease, for example repo-x")
    found = parser.add_argument("--session", metavar="WORKER", default="", help="the worker that shall hold it")
    complete(found, "@workers")
    wait = "wait until it is free; with =SECONDS not longer than that"
    parser.add_argument("--wait", metavar="SECONDS", nargs="?", const="", help=wait)
    add_json(parser)
    parser.epilog = "With -- COMMAND the lease is held while the command runs, and its exit code is passed on."


def _run_claim(args: argparse.Namespace, context: Context) -> int:
    if args.name is None and args.wait and not args.wait.isdigit():
        args.name, args.wait = args.wait, ""  # `--wait NAME`: argparse takes the name for the seconds
    if args.name is None:
        raise UsageError("cannot claim: no name given", hint="looopctl claim NAME")
    name = safe_name("a claim", args.name)
    waiting = args.wait is not None
    timeout = _seconds(args.wait) if args.wait else None
    if args.command:
        if args.session or args.json:
            raise UsageError("cannot hold a lease for a command with --session or --json")
        from looop.ctl.lease import hold

        return hold(context.paths, name, args.command, waiting, timeout)
    with Manager("user") as user, Manager("system") as system:
        who = _claimant(args.session, user, system)
        session = worker_of(who.unit) or who.unit

        def take() -> bool:
            return claims.take(context.paths, name, who, session, claims.judge(user, system), clock.now().wall)

        try:
            new = take()
        except claims.Held:
            if not waiting:
                raise
            from looop.ctl.lease import when_free

            new = when_free(context.paths, take, timeout)
    if args.json:
        print_json({"name": name, "session": session, "new": new, **who.to_json()})
    elif new:
        print(f"claimed {name}")
    return ExitCode.DONE


def _configure_unclaim(parser: Parser) -> None:
    complete(parser.add_argument("name", metavar="NAME", help="the lease to give back"), "@claims")
    complete(parser.add_argument("--session", metavar="WORKER", default="", help="the worker that has it"), "@workers")
    parser.add_argument("--force", action="store_true", help="whoever holds it, and even if its record is broken")
    add_json(parser)


def _run_unclaim(args: argparse.Namespace, context: Context) -> int:
    name = safe_name("a claim", args.name)
    if args.session:
        owner: tuple[str, str] | None = ("user", worker_unit(safe_name("a worker", args.session)))
    else:
        owner = unit_of_cgroup(Path("/proc/self/cgroup").read_text())
    with Manager("user") as user, Manager("system") as system:
        removed = claims.release(context.paths, name, owner, claims.judge(user, system), args.force)
    if args.json:
        print_json({"name": name, "released": removed})
    return ExitCode.DONE


def _run_claims(args: argparse.Namespace, context: Context) -> int:
    found = claims.listing(context.paths)
    with Manager("user") as user, Manager("system") as system:
        judge = claims.one_look(user, system, [c.holder for c in found if c.holder])
        states = [claims.state(claim, judge) for claim in found]
    if args.json:
        rows = [{**c.to_json(), "state": s, "error": c.broken or None} for c, s in zip(found, states, strict=True)]
        print_json(rows)
        return ExitCode.DONE
    rows_shown = [
        (c.name, c.owner, clock.utc(c.since) if c.since else "-", f"{s}: {c.broken}" if c.broken else s)
        for c, s in zip(found, states, strict=True)
    ]
    if rows_shown:
        table(("NAME", "HOLDER", "SINCE", "STATE"), rows_shown)
    return ExitCode.DONE


command_claim = Command(_configure_claim, _run_claim, tail="command")
command_unclaim = Command(_configure_unclaim, _run_unclaim)
command_claims = Command(add_json, _run_claims)
