"""`looopctl ask`: put a question to the human and sleep until the answer is there.

Standard output is exactly the answer. Nothing runs while it waits: inotify wakes it when asks/ or answers/ change.
"""

import argparse
import os
import sys
import time

from looop import clock, mailbox, tells
from looop.ctl.command import Command, Context, Parser, body, printable
from looop.errors import ExitCode, LooopError, Refused, StateError, TimedOut, Unavailable, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.systemd.identity import Holder, holder
from looop.watch import Watcher


def _configure(parser: Parser) -> None:
    parser.add_argument("worker", metavar="WORKER", nargs="?", help="who asks (default: $LOOOP_SESSION_ID)")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the question; - reads standard input")
    parser.add_argument("--ref", metavar="TEXT", default="", help="where to read more: a URL, a report")
    one, several = "a suggested answer; may be repeated", "suggested answers, separated by commas"
    parser.add_argument("--option", metavar="TEXT", action="append", default=[], help=one)
    parser.add_argument("--options", metavar="A,B", action="append", default=[], help=several)
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="withdraw the question after that, exit 124")


def _run(args: argparse.Namespace, context: Context) -> int:
    worker = args.worker or os.environ.get("LOOOP_SESSION_ID") or ""
    if not worker:
        raise UsageError("cannot ask: nobody is named", hint="looopctl ask WORKER --prompt TEXT")
    if args.timeout is not None and not args.timeout >= 0:
        raise UsageError(f"cannot wait {args.timeout:g} s: expected 0 or more")
    prompt = body(["-"]).rstrip() if args.prompt == "-" else args.prompt
    split = (option.strip() for options in args.options for option in options.split(","))
    options = [option for option in (*args.option, *split) if option]
    who = _self()
    folders = (context.paths.asks, context.paths.answers)
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    with Watcher(*folders, fallback=True) as watcher:  # a question must not be lost for want of an inotify instance
        if watcher.degraded:
            print(f"looopctl: {watcher.degraded}", file=sys.stderr)
        ask = mailbox.raise_ask(
            context.paths, worker, prompt, clock.now().wall, reference=args.ref, options=options, holder=who
        )
        answer = _wait(context.paths, ask, watcher, deadline)
    sys.stdout.flush()
    sys.stdout.buffer.write(answer.text.encode(errors="replace") + b"\n")
    sys.stdout.buffer.flush()
    _afterwards(context.paths, ask, who)
    return ExitCode.DONE


def _self() -> Holder | None:
    """The unit that asks; None when there is none or systemd cannot tell: the question matters more."""
    try:
        return holder()
    except (Refused, Unavailable):
        return None


def _wait(paths: Paths, ask: Ask, watcher: Watcher, deadline: float | None) -> Answer:
    warned = ""
    while True:
        # first whether it is there, then whether it is answered: pruning takes the ask before its answer
        there = os.path.lexists(paths.asks / f"{ask.id}.json")
        try:
            answer = mailbox.read_answer(paths, ask.id)
        except StateError as error:
            if warned != str(error):
                warned = str(error)
                print(f"looopctl: {warned}; still waiting", file=sys.stderr)
            answer = None
        if answer:
            return answer
        if not there:
            raise Refused(f"cannot get an answer: {ask.id} was withdrawn")
        if not watcher.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            answer = mailbox.withdraw(paths, ask.id)
            if answer:
                return answer
            raise TimedOut(f"cannot get an answer to {ask.id} in time: it is withdrawn")


def _afterwards(paths: Paths, ask: Ask, who: Holder | None) -> None:
    """The answer is out: what goes wrong from here on must not make the caller ask again."""
    try:
        mailbox.deliver(paths, ask.id)
        mine = [message for message in tells.pending(paths, ask.worker)[0] if message.holder == who]
    except LooopError as error:
        print(f"looopctl: {error}", file=sys.stderr)
        return
    for message in mine:
        print(f"• {printable(message.text)}", file=sys.stderr)
    if mine:
        print("looopctl: run `looopctl told` to read these in full and mark them as read", file=sys.stderr)


command = Command(_configure, _run)
