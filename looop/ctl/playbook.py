"""`looopctl playbook`: write and show the playbook, and its earlier versions."""

import argparse

from looop import audit, policy, seed, store
from looop.clock import now
from looop.ctl import history
from looop.ctl.command import Command, Context, Parser, add_action, add_actions, add_body, add_journal, body
from looop.errors import Refused
from looop.history import PLAYBOOK


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    write = add_action(verbs, "write", "replace the playbook; the earlier text is kept")
    add_body(write, "the standing orders")
    add_journal(write)
    add_action(verbs, "show", "print the playbook")
    history.configure(verbs, PLAYBOOK)


def _run(args: argparse.Namespace, context: Context) -> int:
    paths = context.paths
    if args.action in history.ACTIONS:
        return history.run(args, context, PLAYBOOK)
    if args.action == "write":
        text = body(args.body)
        seed.seed(paths)
        policy.write_playbook(paths, context.config, text)
        audit.line(paths, context.config, args.journal or "write-playbook", "", now())
        print("write-playbook")
        return 0
    shown = store.read_text(paths.playbook)
    if shown is None:
        raise Refused(f"cannot show {paths.playbook}: there is no such file")
    print(shown, end="")
    return 0


command = Command(_configure, _run)
