"""`looopctl playbook`: write and show the playbook, and its earlier versions."""

import argparse

from looop import audit, policy, seed, store
from looop.clock import now
from looop.ctl.command import Command, Context, Parser, add_body, add_journal, body
from looop.errors import Refused
from looop.paths import safe_name


def _configure(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    write = verbs.add_parser("write", help="replace the playbook; the earlier text is kept", allow_abbrev=False)
    add_body(write, "the standing orders")
    add_journal(write)
    verbs.add_parser("show", help="print the playbook", allow_abbrev=False)
    history = verbs.add_parser("history", help="list earlier versions, or print one", allow_abbrev=False)
    history.add_argument("stamp", nargs="?", default="", help="the version to print, as listed")


def _run(args: argparse.Namespace, context: Context) -> int:
    paths = context.paths
    if args.action == "write":
        text = body(args.body)
        seed.seed(paths)
        policy.write_playbook(paths, context.config, text)
        audit.line(paths, context.config, args.journal or "write-playbook", "", now())
        print("write-playbook")
        return 0
    if args.action == "history" and not args.stamp:
        for stamp in store.names(paths.playbook_history, ".md"):
            print(stamp)
        return 0
    path = paths.playbook
    if args.action == "history":
        path = paths.playbook_history / f"{safe_name('a version', args.stamp)}.md"
    shown = store.read_text(path)
    if shown is None:
        raise Refused(f"cannot show {path}: there is no such file")
    print(shown, end="")
    return 0


command = Command(_configure, _run)
