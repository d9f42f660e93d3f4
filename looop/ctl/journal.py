"""`looopctl journal`: the audit journal, one line a move."""

import argparse

from looop import audit
from looop.ctl.command import Command, Context, Parser, add_json, print_json, printable
from looop.errors import UsageError


def _configure(parser: Parser) -> None:
    parser.add_argument("--tail", type=int, default=20, metavar="N", help="only the last N lines (20); 0 = all")
    add_json(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.tail < 0:
        raise UsageError(f"cannot show {args.tail} lines: --tail takes 0 or more")
    lines = audit.tail(context.paths, args.tail)
    if args.json:
        print_json(lines)
    else:
        for line in lines:
            print(printable(line))
    return 0


command = Command(_configure, _run)
