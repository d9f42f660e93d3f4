"""`looopctl answer`: the human's side of a question, and what became of the words.

An answer counts once its asker has read it, so this waits a moment for that. One that came too late for its asker
is kept and can start the work again.
"""

import argparse
import sys
import time
from pathlib import Path

from looop import audit, claims, clock, mailbox
from looop.ctl.command import Command, Context, Parser, add_body, add_json, body, complete, print_json, printable
from looop.errors import ExitCode, Refused
from looop.mailbox import Ask
from looop.paths import Paths
from looop.systemd.manager import Manager
from looop.watch import Watcher

DELIVERY_S = 1.0


def _configure(parser: Parser) -> None:
    complete(parser.add_argument("ask", metavar="ASK", help="the id that `looopctl asks` shows"), "@asks")
    add_body(parser, "the answer")
    parser.add_argument("--force", action="store_true", help="replace an answer that is there and was not read yet")
    parser.add_argument("--no-wait", action="store_true", help="do not wait a moment to see the answer delivered")
    again = "the asker is gone: start a new worker of its id with the answer; without TEXT, with the answer there is"
    parser.add_argument("--redispatch", action="store_true", help=again)
    add_json(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    mailbox.split(args.ask)
    if args.redispatch:
        from looop.ctl.redispatch import redispatch

        ask = redispatch(context, args.ask, lambda: _text(args), bool(args.body), args.force)
        return _report(args, ask, "redispatched")
    paths = context.paths
    text = _text(args)
    folder = _watched(paths)
    with Watcher(folder, fallback=True) as watcher:  # before the answer is there, so that no delivery is missed
        ask = give(context, args.ask, text, args.force)
        if fate(ask) == "answered" and not args.no_wait:
            _await_delivery(folder / f"{ask.id}.json", watcher)
    found = mailbox.find(paths, ask.id) or ask
    if found.end and found.answer and found.answer.text != text:
        raise Refused(f"cannot answer {ask.id}: {ask.worker} has read an earlier answer: {found.answer.text[:200]!r}")
    return _report(args, found if found.answer else ask, fate(found))


def _text(args: argparse.Namespace) -> str:
    text = body(args.body)
    return text.rstrip() if args.body in ([], ["-"]) else text


def _watched(paths: Paths) -> Path:
    """An ask leaves asks/ when its answer is delivered."""
    paths.asks.mkdir(mode=0o700, parents=True, exist_ok=True)
    return paths.asks


def _await_delivery(ask: Path, watcher: Watcher) -> None:
    deadline = time.monotonic() + DELIVERY_S
    while ask.exists() and watcher.wait(max(0.0, deadline - time.monotonic())):
        pass


def give(context: Context, ask_id: str, text: str, force: bool = False) -> Ask:
    """Record the answer, here and in journal.md. Raises Refused with what was said before."""
    ask = mailbox.answer(context.paths, ask_id, text, clock.now().wall, force)
    audit.line(context.paths, context.config, f"answered {ask.id} · {text}", "", clock.now())
    return ask


def fate(ask: Ask) -> str:
    """What became of it, by asking both managers."""
    with Manager("user") as user, Manager("system") as system:
        return mailbox.state(ask, claims.judge(user, system))


def _report(args: argparse.Namespace, ask: Ask, state: str) -> int:
    text = ask.answer.text if ask.answer else ""
    if args.json:
        print_json({"id": ask.id, "answer": text, "state": state})
    else:
        print(f"{ask.id}: {printable(text)}")
        print(_WORDS.get(state, _WORDS["answered"]).replace("WORKER", ask.worker))
    if state == "stranded":
        print(
            f"looopctl: {ask.worker} was gone before it got an answer, so nobody will act on this one "
            f"(`looopctl answer {ask.id} --redispatch` starts it again with the answer)", file=sys.stderr,
        )  # fmt: skip
    return ExitCode.DONE


_WORDS = {
    "delivered": "delivered",
    "answered": "recorded; WORKER has not read it yet",
    "stranded": "recorded; WORKER is gone",
    "redispatched": "WORKER is started again with it",
}

command = Command(_configure, _run)
