"""`looopctl ask`: put a question to the human and sleep until the answer is there.

Standard output is exactly the answer, or with --json one document. Nothing runs while it waits: inotify wakes it
when asks/ or answers/ change. The answer counts as delivered once it is printed and flushed, not before.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from looop import clock, mailbox, tells
from looop.ctl.command import Command, Context, Parser, add_json, body, complete, print_json, printable
from looop.ctl.tell import reader
from looop.errors import ExitCode, LooopError, Refused, TimedOut, Unavailable, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.systemd.identity import Holder, holder
from looop.watch import Watcher


def _configure(parser: Parser) -> None:
    found = parser.add_argument("worker", metavar="WORKER", nargs="?", help="who asks (default: $LOOOP_SESSION_ID)")
    complete(found, "@workers")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the question; - reads standard input")
    parser.add_argument(
        "--reference", "--ref", dest="ref", metavar="TEXT", default="", help="where to read more: a URL, a report"
    )
    one, several = "a suggested answer; may be repeated", "suggested answers, separated by commas"
    parser.add_argument("--option", metavar="TEXT", action="append", default=[], help=one)
    parser.add_argument("--options", metavar="A,B", action="append", default=[], help=several)
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="withdraw the question after that, exit 124")
    spans = "as in systemd.time(7): 90s, 2h 30min"
    parser.add_argument("--escalate-after", metavar="DURATION", help=f"tell the human again after that; {spans}")
    parser.add_argument("--expires", metavar="DURATION", help="after that --default is the answer")
    parser.add_argument("--default", metavar="TEXT", help="what to go on with when nobody has answered by then")
    add_json(parser)
    parser.epilog = "--json prints {id, answer, by, state, tells} and marks the tells in it as read, as `told` does."


def _run(args: argparse.Namespace, context: Context) -> int:
    worker = args.worker or os.environ.get("LOOOP_SESSION_ID") or ""
    if not worker:
        raise UsageError("cannot ask: nobody is named", hint="looopctl ask WORKER --prompt TEXT")
    if args.timeout is not None and not args.timeout >= 0:
        raise UsageError(f"cannot wait {args.timeout:g} s: expected 0 or more")
    if (args.expires is None) != (args.default is None):
        raise UsageError("cannot ask: --expires and --default need each other")
    prompt = body(["-"]).rstrip() if args.prompt == "-" else args.prompt
    split = (option.strip() for options in args.options for option in options.split(","))
    options = [option for option in (*args.option, *split) if option]
    escalate_after, expires_in = _span("--escalate-after", args.escalate_after), _span("--expires", args.expires)
    who = _self()
    paths = context.paths
    folders = (paths.asks, paths.answers)
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    now = clock.now()
    # a question must not be lost for want of an inotify instance; the instance ends with the process (see `leave`)
    watcher = Watcher(*folders, fallback=True)
    if watcher.degraded:
        print(f"looopctl: {watcher.degraded}", file=sys.stderr)
    ask = mailbox.raise_ask(
        paths, worker, prompt, now.wall, reference=args.ref, options=options, holder=who,
        escalate_after=escalate_after, expires_in=expires_in, default=args.default or "", asked=now,
        on_new=lambda new: _notify(paths, new),
    )  # fmt: skip
    answer = _wait(context, ask, watcher, deadline)
    (_print_json if args.json else _print)(paths, ask, answer)
    return ExitCode.DONE


def _span(option: str, text: str | None) -> float:
    if text is None:
        return 0.0
    from looop.systemd import timespec

    seconds = timespec.span(text)
    if seconds <= 0:
        raise UsageError(f"cannot use {option} {text!r}: expected more than nothing")
    return seconds


def _self() -> Holder | None:
    """The unit that asks; None when there is none or systemd cannot tell: the question matters more."""
    try:
        return holder()
    except (Refused, Unavailable):
        return None


def _notify(paths: Paths, ask: Ask) -> None:
    from looop import notifications

    notifications.raised(paths, ask)


def _wait(context: Context, ask: Ask, watcher: Watcher, deadline: float | None) -> Answer:
    paths, warned = context.paths, ""
    while True:
        found = mailbox.find(paths, ask.id)
        if found and found.answer:
            return found.answer
        if found is None or found.end:
            raise Refused(f"cannot get an answer: {ask.id} was {found.end if found else 'withdrawn'}")
        if warned != found.trouble:
            warned = found.trouble
            print(f"looopctl: {warned}; still waiting", file=sys.stderr)
        ends = [] if deadline is None else [deadline - time.monotonic()]
        left = None if found.trouble else ask.left(clock.now())
        if left is not None:
            ends.append(left)
        if watcher.wait(max(0.0, min(ends)) if ends else None):
            continue
        if left is not None and (ask.left(clock.now()) or 0.0) <= 0:
            _expire(context, ask)
        elif deadline is not None and time.monotonic() >= deadline:
            answer = mailbox.withdraw(paths, ask.id, clock.now().wall)
            if answer:
                return answer
            raise TimedOut(f"cannot get an answer to {ask.id} in time: it is withdrawn")


def _expire(context: Context, ask: Ask) -> None:
    now = clock.now()
    expired = mailbox.expire(context.paths, ask.id, now)
    if expired:
        from looop import audit, notifications

        print(f"looopctl: nobody answered {ask.id} in time: going on with its default", file=sys.stderr)
        notifications.expired(context.paths, expired)
        with contextlib.suppress(UsageError):  # settings that cannot be read are the pulse's complaint
            audit.line(context.paths, context.config, mailbox.expiry_line(expired), "", now)


# -- once there is an answer


def _print(paths: Paths, ask: Ask, answer: Answer) -> None:
    """The answer alone. Messages are shown on stderr, which may go nowhere, so that does not count as read."""
    sys.stdout.flush()
    sys.stdout.buffer.write(answer.text.encode(errors="replace") + b"\n")
    sys.stdout.buffer.flush()
    _deliver(paths, ask, answer)
    mine, _ = _messages(paths, ask)
    for message in mine:
        print(f"• {printable(message.text)}", file=sys.stderr)
    if mine:
        print("looopctl: run `looopctl told` to read these in full and mark them as read", file=sys.stderr)


def _print_json(paths: Paths, ask: Ask, answer: Answer) -> None:
    """The answer and the messages for this generation, which are marked as read once all of it is flushed."""
    said = {"id": ask.id, "answer": answer.text, "by": answer.by, "state": "delivered"}
    printed = False
    try:
        mine, me = _messages(paths, ask)
        if mine and me:
            with tells.told(paths, ask.worker, me, clock.now().wall) as messages:
                _document(said, messages)
                printed = True
    except LooopError as error:
        print(f"looopctl: {error}", file=sys.stderr)
    if not printed:
        _document(said, ())
    _deliver(paths, ask, answer)


def _document(said: dict[str, str], messages: Sequence[tells.Tell]) -> None:
    document: dict[str, Any] = {**said, "tells": [message.to_json() for message in messages]}
    print_json(document)
    sys.stdout.flush()


def _messages(paths: Paths, ask: Ask) -> tuple[list[tells.Tell], Holder | None]:
    """The messages for the generation of the worker that this process belongs to, and that generation."""
    try:
        found = tells.pending(paths, ask.worker)[0]
        me = reader(ask.worker) if found else None
        return [message for message in found if me and message.holder == me], me
    except LooopError as error:
        print(f"looopctl: {error}", file=sys.stderr)
        return [], None


def _deliver(paths: Paths, ask: Ask, answer: Answer) -> None:
    """The answer is out: what goes wrong from here on must not make the caller ask again."""
    try:
        mailbox.deliver(paths, ask, answer, clock.now().wall)
    except LooopError as error:
        print(f"looopctl: {error}", file=sys.stderr)


command = Command(_configure, _run, abrupt=True)
