"""`looopctl answer` and `asks`: the human's side of a question."""

import argparse
import sys
from typing import Any

from looop import audit, claims, clock, mailbox
from looop.ctl.command import Command, Context, Parser, add_body, add_json, age, body, print_json, printable
from looop.errors import ExitCode
from looop.mailbox import Ask
from looop.systemd.manager import Manager


def _configure_answer(parser: Parser) -> None:
    parser.add_argument("ask", metavar="ASK", help="the id that `looopctl asks` shows")
    add_body(parser, "the answer")
    parser.add_argument("--force", action="store_true", help="replace an answer that is there")
    add_json(parser)


def _run_answer(args: argparse.Namespace, context: Context) -> int:
    mailbox.split(args.ask)
    text = body(args.body)
    if args.body in ([], ["-"]):
        text = text.rstrip()
    ask = mailbox.answer(context.paths, args.ask, text, clock.now().wall, args.force)
    audit.line(context.paths, context.config, f"answered {ask.id} · {text}", "", clock.now())
    with Manager("user") as user, Manager("system") as system:
        state = mailbox.state(ask, claims.judge(user, system))
    if state == "stranded":
        print(f"looopctl: who asked {ask.id} is gone: the answer is recorded, but nobody will read it", file=sys.stderr)
    if args.json:
        print_json({"id": ask.id, "answer": text, "state": state})
    else:
        print(f"{ask.id}: {printable(text)}")
    return ExitCode.DONE


def _configure_asks(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="answered ones too")
    add_json(parser)


def _run_asks(args: argparse.Namespace, context: Context) -> int:
    now = clock.now().wall
    open_asks = mailbox.pending(context.paths)
    is_open = {ask.id for ask in open_asks}
    asks = mailbox.every(context.paths) if args.all else open_asks
    with Manager("user") as user, Manager("system") as system:
        judge = claims.one_look(user, system, [ask.holder for ask in open_asks if ask.holder])
    rows = [(ask, mailbox.state(ask, judge) if ask.id in is_open else "answered") for ask in asks]
    if args.json:
        print_json([_row(ask, state, now) for ask, state in rows])
    else:
        for ask, state in rows:
            _show(ask, state, now)
    return ExitCode.DONE


def _row(ask: Ask, state: str, now: float) -> dict[str, Any]:
    record = {**ask.to_json(), "age_s": round(max(0.0, now - ask.ts), 1), "state": state, "error": ask.broken or None}
    del record["v"]
    return record


def _show(ask: Ask, state: str, now: float) -> None:
    if ask.broken:
        print(f"{ask.id}  broken: {printable(ask.broken)}")
        return
    head, *more = ask.prompt.strip().splitlines()
    print(f"{ask.id}  {age(max(0.0, now - ask.ts))}  {state}  {printable(head)}")
    for line in more:
        print(f"    {printable(line)}")
    if ask.reference:
        print(f"    ref: {printable(ask.reference)}")
    if ask.options:
        print(f"    options: {' | '.join(printable(option) for option in ask.options)}")


command_answer = Command(_configure_answer, _run_answer)
command_asks = Command(_configure_asks, _run_asks)
