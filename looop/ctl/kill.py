"""`looopctl kill`."""

import argparse
import asyncio
import os

from looop import clock
from looop.ctl.command import Command, Context, Parser, complete


def configure(parser: Parser) -> None:
    complete(parser.add_argument("id", metavar="WORKER", help="the worker"), "@workers")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept in the worker's record")


def run(args: argparse.Namespace, context: Context) -> int:
    asyncio.run(_kill(args, context))
    print(f"kill-worker {args.id}")
    return 0


async def _kill(args: argparse.Namespace, context: Context) -> None:
    from looop.sessions import fleet
    from looop.systemd.live import Live

    by = os.environ.get("LOOOP_SESSION_ID") or "human"
    live = Live("user")
    await live.connect()
    try:
        await fleet.kill(live, context.paths, args.id, by=by, reason=args.reason, now=clock.now())
    finally:
        await live.aclose()


command = Command(configure, run)
