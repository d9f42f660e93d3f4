"""`looopctl flag` and `unflag`: a note on a worker, shown while it lives."""

import argparse
import os

from looop.ctl.command import Command, Context, Parser, complete
from looop.errors import UsageError


def _configure(parser: Parser) -> None:
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the note; without one it says: needs attention")
    _configure_unflag(parser)


def _configure_unflag(parser: Parser) -> None:
    which = "the worker; inside one it is that worker itself"
    complete(parser.add_argument("--session", default="", metavar="WORKER", help=which), "@workers")


def _worker(args: argparse.Namespace) -> str:
    worker_id = args.session or os.environ.get("LOOOP_SESSION_ID", "")
    if not worker_id:
        raise UsageError("cannot tell which worker is meant: this is none", hint="name it with --session ID")
    return str(worker_id)


def _run(args: argparse.Namespace, context: Context) -> int:
    from looop.sessions import fleet

    fleet.set_note(context.paths, _worker(args), " ".join(args.text))
    return 0


def _run_unflag(args: argparse.Namespace, context: Context) -> int:
    from looop.sessions import fleet

    fleet.clear_note(context.paths, _worker(args))
    return 0


command_flag = Command(_configure, _run)
command_unflag = Command(_configure_unflag, _run_unflag)
