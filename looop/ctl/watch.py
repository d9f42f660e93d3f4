"""`looopctl watch`: the fleet, a worker's screen, the questions and the journal on one terminal.

It writes nothing but the answers that are sent from it.
"""

import argparse
import sys
from collections.abc import Sequence

from looop import clock, mailbox, view
from looop.ctl.answer import fate, give
from looop.ctl.command import Command, Context, Parser, complete
from looop.ctl.survey import survey
from looop.errors import LooopError, Refused, Unavailable, UsageError
from looop.systemd.timespec import span
from looop.tui.model import PULSE, AskView, Filter, Look

JOURNAL_LINES = 200


def _configure(parser: Parser) -> None:
    found = parser.add_argument("id", metavar="WORKER", nargs="?", default="", help="the worker to begin with")
    complete(found, "@sessions")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-a", "--all", action="store_true", help="workers that have ended too")
    which.add_argument("-s", "--since", metavar="DURATION", help="those too that ended within it: 90s, 1h 30min")


def _run(args: argparse.Namespace, context: Context) -> int:
    within = span(args.since) if args.since is not None else 0.0
    chosen = Filter.ALL if args.all else Filter.RECENT if args.since is not None else Filter.LIVING
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        hint = "`looopctl status --watch` prints lines, `looopctl state --json` one document"
        raise UsageError("cannot watch: standard input and output are not a terminal", hint=hint)
    if args.id and args.id != PULSE and not context.paths.session(args.id).is_dir():
        raise Refused(f"cannot watch {args.id}: there is no such worker", hint="`looopctl worker list --all` has them")
    try:
        from looop.tui import app
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        package = {"urwid": "python3-urwid", "pyte": "python3-pyte"}.get(missing)
        if package is None:
            raise
        raise Unavailable(f"cannot watch: {missing} is missing", hint=f"apt-get install {package}") from error
    hooks = app.Hooks(lambda sent: look(context, sent), lambda ask, text: answer(context, ask, text))
    return app.run(context.paths, hooks, args.id, chosen, within, context.config.stuck_after)


def look(context: Context, sent: Sequence[str] = ()) -> Look:
    """Everything there is to see; `sent` are asks answered from here, whose fate is looked up."""
    found = survey(context)
    trouble = list(found.trouble)
    try:
        lines = view.journal_tail(context.paths, JOURNAL_LINES)
    except LooopError as error:
        lines, trouble = (), [*trouble, str(error)]
    return Look(
        at=clock.now(),
        pulse=found.pulse,
        status=found.status,
        sessions=None if found.sessions is None else tuple(found.sessions),
        asks=None if found.asks is None else tuple(AskView.of(row) for row in found.asks),
        journal=tuple(lines),
        trouble=tuple(trouble),
        fates={ask_id: _fate(context, ask_id) for ask_id in sent},
    )


def _fate(context: Context, ask_id: str) -> str:
    try:
        ask = mailbox.find(context.paths, ask_id)
        return "gone" if ask is None else fate(ask)
    except LooopError as error:
        return str(error)


def answer(context: Context, ask_id: str, text: str) -> str:
    """Answer an ask as `looopctl answer` does; what became of it. Raises LooopError."""
    return fate(give(context, ask_id, text))


command = Command(_configure, _run)
