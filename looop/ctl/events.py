"""`looopctl events`: looop's own events, read back from the systemd journal."""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from looop.ctl.command import Command, Context, Parser, printable
from looop.systemd import journal
from looop.systemd.timespec import span


def _configure(parser: Parser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new events as they come")
    parser.add_argument("--since", metavar="DURATION", default="1d",
                        help="how far back, as for systemd: 90s, 5min, 2h (default 1d)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def line(entry: Mapping[str, Any]) -> str:
    """One event for a person."""
    clock = time.strftime("%H:%M:%S", time.localtime(float(entry["ts"])))
    return f"{clock}  {entry['event']:<20} {printable(str(entry.get('message', '')))}"


def _run(args: argparse.Namespace, context: Context) -> int:
    for entry in journal.read(since=max(0.0, time.time() - span(args.since)), follow=args.follow):
        print(json.dumps(entry) if args.json else line(entry), flush=args.follow)
    return 0


command = Command(_configure, _run)
