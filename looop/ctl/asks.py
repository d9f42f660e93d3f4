"""`looopctl asks`: the questions that are open, those that were, and closing one that needs no answer any more."""

import argparse

from looop import audit, claims, clock, mailbox
from looop.clock import age
from looop.ctl.command import Command, Context, Parser, add_json, print_json, printable
from looop.errors import ExitCode, LooopError, Refused, UsageError
from looop.mailbox import Ask
from looop.systemd.manager import Manager

LINES = 50


def _configure(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help=f"the latest {LINES}, answered ones too, newest last")
    parser.add_argument("-n", "--lines", metavar="N", type=int, help="with --all: how many, 0 = all there are")
    close = "do not list: close these unanswered; their askers have to be gone"
    parser.add_argument("--close", metavar="ASK", nargs="+", default=[], help=close)
    add_json(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.lines is not None and args.lines < 0:
        raise UsageError(f"cannot show {args.lines} lines: expected 0 or more")
    if args.close:
        return _close(args, context)
    everything = args.all or args.lines is not None
    asks = mailbox.history(context.paths, LINES if args.lines is None else args.lines) if everything else None
    asks = mailbox.open_asks(context.paths) if asks is None else asks
    wall = clock.now().wall
    with Manager("user") as user, Manager("system") as system:
        judge = claims.one_look(user, system, [ask.holder for ask in asks if ask.holder and not ask.end])
    if args.json:
        print_json(mailbox.rows(asks, judge, wall))
    else:
        for ask in asks:
            _show(ask, mailbox.state(ask, judge), wall)
    return ExitCode.DONE


def _close(args: argparse.Namespace, context: Context) -> int:
    """Each one that can be closed is, whatever the others are."""
    closed, failed = [], None
    with Manager("user") as user, Manager("system") as system:
        for ask_id in args.close:
            try:
                _close_one(context, ask_id, claims.judge(user, system))
                closed.append(ask_id)
            except LooopError as error:
                failed = failed or error
    if args.json and (closed or not failed):
        print_json([{"id": ask_id, "state": "closed"} for ask_id in closed])
    for ask_id in () if args.json else closed:
        print(f"{ask_id}: closed")
    if failed:
        raise failed
    return ExitCode.DONE


def _close_one(context: Context, ask_id: str, judge: mailbox.Judge) -> None:
    ask = mailbox.find(context.paths, ask_id)
    if ask and not ask.end and ask.holder and judge(ask.holder):
        hint = f"looopctl answer {ask_id} TEXT"
        raise Refused(f"cannot close {ask_id}: {ask.worker} waits for its answer", hint=hint)
    mailbox.close(context.paths, ask_id, "closed", clock.now().wall)
    audit.line(context.paths, context.config, f"closed {ask_id}", "", clock.now())


def _show(ask: Ask, state: str, wall: float) -> None:
    if ask.broken:
        print(f"{ask.id}  broken: {printable(ask.broken)}")
        return
    head, *more = ask.prompt.strip().splitlines() or [""]
    print(f"{ask.id}  {age(max(0.0, wall - ask.ts))}  {state}  {printable(head)}")
    for line in more:
        print(f"    {printable(line)}")
    if ask.reference:
        print(f"    ref: {printable(ask.reference)}")
    if ask.options:
        print(f"    options: {' | '.join(printable(option) for option in ask.options)}")
    if ask.answer:
        by = f" (by {printable(ask.answer.by)})" if ask.answer.by != "human" else ""
        print(f"    answer: {printable(ask.answer.text)}{by}")
    elif ask.expires and not ask.end:
        print(f"    in {age(max(0.0, ask.expires - wall))} it goes on with: {printable(ask.default)}")
    if ask.trouble:
        print(f"    {printable(ask.trouble)}")


command = Command(_configure, _run)
