"""`looopctl run`: one shell command, confined, recorded and journaled the way a run_shell move is."""

import argparse
import asyncio
import shlex

from looop import audit, execute, runs, seed
from looop.actions import RunShell, summary, to_json
from looop.clock import now
from looop.ctl.command import Command, Context, Parser, add_journal
from looop.errors import LooopError, UsageError
from looop.systemd import services
from looop.systemd.live import Live


def _configure(parser: Parser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the journal")
    add_journal(parser)
    parser.add_argument("cmd", nargs=argparse.REMAINDER, metavar="CMD", help="one word: shell text; several: a command")


async def _shell(context: Context, move: RunShell, line: str) -> str:
    paths, config = context.paths, context.config
    live = Live("user")
    await live.connect()
    try:
        confined = config.sandbox == "off" or all((await services.measure(live, paths)).values())
        run = runs.new(paths, now(), prefix="run")
        record = runs.Record(run, "intended", "human", now(), "", to_json(move), line or summary(move))
        runs.save(paths, record)
        hands = execute.Hands(live, paths, config, now(), run, "human", confined)
        try:
            output = await execute.run_shell(hands, move.cmd)
        except LooopError as error:
            runs.advance(paths, record, "failed", error=str(error))
            audit.line(paths, config, f"FAILED {summary(move)}: {error}", run, now())
            raise
        runs.advance(paths, record, "committed", summary=summary(move))
        audit.line(paths, config, record.journal, run, now())
        return output
    finally:
        await live.aclose()


def _run(args: argparse.Namespace, context: Context) -> int:
    words = args.cmd[1:] if args.cmd[:1] == ["--"] else args.cmd
    if not words or not "".join(words).strip():
        raise UsageError("cannot run nothing: give a command")
    seed.seed(context.paths)
    move = RunShell(words[0] if len(words) == 1 else shlex.join(words), args.reason)
    output = asyncio.run(_shell(context, move, args.journal))
    print(summary(move))
    if output:
        print(output, end="" if output.endswith("\n") else "\n")
    return 0


command = Command(_configure, _run)
