"""`looopctl screenshot`: what is on a worker's terminal, or was when the worker ended, at the size it had."""

import argparse
import sys

from looop.ctl.command import Command, Context, Parser, complete, print_json
from looop.errors import Refused


def _configure(parser: Parser) -> None:
    complete(parser.add_argument("id", metavar="WORKER", help="the worker"), "@sessions")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--plain", action="store_const", dest="form", const="plain", help="text alone (the default)")
    form.add_argument("--ansi", action="store_const", dest="form", const="ansi", help="text with colours and styles")
    form.add_argument("--json", action="store_true", help="size, cursor and every cell that is not blank")
    form.add_argument("--svg", action="store_const", dest="form", const="svg", help="a drawing")
    parser.add_argument("--no-trim", action="store_true", help="keep the blank rows at the end of text")


def _run(args: argparse.Namespace, context: Context) -> int:
    from looop.screens.screen import Follower

    if not context.paths.session(args.id).is_dir():
        raise Refused(f"cannot show the screen of {args.id}: there is no such session")
    follower = Follower(context.paths, args.id)
    follower.advance()
    screen = follower.screen
    if args.json:
        print_json(screen.to_json())
    elif args.form == "svg":
        sys.stdout.write(screen.svg())
    else:
        sys.stdout.write((screen.ansi if args.form == "ansi" else screen.plain)(not args.no_trim))
    return 0


command = Command(_configure, _run)
