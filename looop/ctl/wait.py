"""`looopctl wait`: sleep until something is new since a cursor, and say what. Reads; writes nothing.

Nothing runs while it waits. A client that hands each result's cursor to its next `wait` is told of every change
exactly once, whatever happened between two calls.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from looop.changes import CURSOR_BYTES, Cursor, home
from looop.ctl.command import Command, Context, Parser, add_json, print_json, printable
from looop.ctl.wait_loop import Result, wait
from looop.errors import ExitCode, UsageError

NAMES = {"asks": "id", "claims": "name", "goals": "id", "schedules": "name", "snapshots": "name", "workers": "id"}


def _configure(parser: Parser) -> None:
    add_json(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only-asks", action="store_true", help="return for asks only, and when the pulse is down")
    which.add_argument("--actionable", action="store_true", help="return for asks or journal lines, likewise")
    since = "tell what is new since then: the cursor of an earlier `wait` or `state`; - reads standard input"
    parser.add_argument("--since", metavar="CURSOR", help=since)
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="return after that all the same, exit 124")


def _passes(args: argparse.Namespace) -> Callable[[set[str]], bool]:
    wanted = {"asks", "pulse-down"} if args.only_asks else {"asks", "journal", "pulse-down"}
    return lambda changed: bool(changed & wanted if args.only_asks or args.actionable else changed)


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.timeout is not None and not args.timeout >= 0:
        raise UsageError(f"cannot wait {args.timeout:g} s: expected 0 or more")
    cursor = None
    if args.since is not None:
        text = sys.stdin.buffer.read(2 * CURSOR_BYTES).decode(errors="replace") if args.since == "-" else args.since
        cursor = Cursor.decode(text, home(context.paths.data))
    result = wait(context, cursor, _passes(args), args.timeout, _say)
    if args.json:
        print_json(result.to_json())
    else:
        show(result)
    if not result.changed:
        return ExitCode.TIMED_OUT
    return ExitCode.PULSE_DOWN if "pulse-down" in result.changed else ExitCode.DONE


def _say(text: str) -> None:
    print(f"looopctl: {printable(text)}", file=sys.stderr)


def show(result: Result) -> None:
    """Lines that a shell can read: a word for the category, + or -, the id, the rest. The cursor is the last one."""
    for problem in result.trouble:
        print(f"looopctl: not known: {printable(problem)}", file=sys.stderr)
    print(f"changed: {', '.join(result.changed)}")
    for name, news in sorted(result.news.items()):
        for thing in news.changed:
            print(f"{name} + {_line(name, thing)}")
        for thing in news.gone:
            print(f"{name} - {printable(thing)}")
        for note, value in news.notes.items():
            print(f"looopctl: {name}: {note.replace('_', ' ')}: {value}", file=sys.stderr)
    print(f"cursor: {result.cursor.encode()}")


def _line(name: str, thing: Any) -> str:
    if name == "journal":
        return printable(str(thing))
    if name == "playbook":
        return "PLAYBOOK.md"
    return printable(f"{thing[NAMES[name]]} {_rest(name, thing)}")


def _rest(name: str, thing: dict[str, Any]) -> str:
    if name == "asks":
        return f"{thing['state']} {thing['prompt']}"
    if name == "goals":
        return str(thing["body"] or thing.get("note", "")).strip()
    if name == "snapshots":
        value = thing["value"]
        signal = value.get("signal", value) if isinstance(value, dict) else value
        return json.dumps(signal, ensure_ascii=False)
    if name == "workers":
        return f"{thing['state']} {thing['health']}"
    return str(thing["state"] if isinstance(thing.get("state"), str) else json.dumps(thing.get("state")))


command = Command(_configure, _run, abrupt=True)
