"""`looopctl events`: looop's own events, read back from the systemd journal."""

import argparse
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from looop.ctl.command import Command, Context, Parser, printable
from looop.errors import UsageError
from looop.systemd import journal

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def since(text: str) -> float:
    """A duration such as 90s, 5m, 2h or 3d as Unix seconds that long ago. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise UsageError(f"cannot use {text!r} as a duration", hint="write 90s, 5m, 2h or 3d")
    return time.time() - int(match[1]) * _UNITS[match[2] or "s"]


def _configure(parser: Parser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new events as they come")
    parser.add_argument("--since", metavar="DURATION", default="1d", help="how far back: 90s, 5m, 2h, 3d (default 1d)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def line(entry: Mapping[str, Any]) -> str:
    """One event for a person."""
    clock = time.strftime("%H:%M:%S", time.localtime(float(entry["ts"])))
    return f"{clock}  {entry['event']:<20} {printable(str(entry.get('message', '')))}"


def _run(args: argparse.Namespace, context: Context) -> int:
    for entry in journal.read(since=since(args.since), follow=args.follow):
        print(json.dumps(entry) if args.json else line(entry), flush=args.follow)
    return 0


command = Command(_configure, _run)
