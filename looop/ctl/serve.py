"""`looopctl serve`: looop in the foreground. It starts the pulse, shows its events, and stops it all at the end.

The end is Ctrl-C, SIGTERM, SIGHUP, or the pulse's own: whatever ends this process in order stops pulse and
workers. (SIGKILL leaves them running as a service; `looopctl down` stops them.)
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys

from looop.ctl import up
from looop.ctl.command import Command, Context, Parser
from looop.systemd.live import Live


def _configure(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as JSON, one object a line")


async def _serve(context: Context, as_json: bool) -> int:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, done.set)
    started = await up.start(context)
    print(f"pulse {'started' if started else 'already running'}; Ctrl-C stops it and the workers", file=sys.stderr)
    live = Live("user")
    await live.connect()

    def look() -> None:
        if up.pulse_state(live) in ("inactive", "failed"):
            done.set()

    live.on_change = look
    # the events come from a second looopctl, so that waiting for the journal never holds up the signals above
    follow = [sys.executable, "-m", "looop", "events", "-f", "--since", "2s"] + (["--json"] if as_json else [])
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}
    reader = subprocess.Popen(follow, env=environment, start_new_session=True)
    try:
        look()
        await done.wait()
    finally:
        await live.aclose()
        was_active, workers = await up.stop(context, keep_workers=False)
        reader.terminate()
        reader.wait()
    if as_json:
        print(json.dumps({"event": "served", "workers_stopped": len(workers)}))
    else:
        print(f"pulse stopped; {len(workers)} workers stopped", file=sys.stderr)
    return 0


def _run(args: argparse.Namespace, context: Context) -> int:
    context.config  # noqa: B018  said here in full, not through a failed unit
    return asyncio.run(_serve(context, args.json))


command = Command(_configure, _run)
