"""`looopctl version`."""

import argparse

from looop import __version__
from looop.ctl.command import Command, Context, Parser


def _configure(parser: Parser) -> None:
    pass


def _run(args: argparse.Namespace, context: Context) -> int:
    print(f"looop {__version__}")
    return 0


command = Command(_configure, _run)
