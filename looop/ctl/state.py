"""`looopctl state`: everything a client needs to know, at once. Reads; writes nothing."""

import argparse
import json
from typing import Any

from looop import commit, store, view
from looop.ctl.command import Command, Context, Parser, add_json, age, print_json, printable
from looop.ctl.survey import Survey, snapshots, survey
from looop.errors import StateError


def _configure(parser: Parser) -> None:
    add_json(parser)


def collect(context: Context, found: Survey) -> dict[str, Any]:
    """The state as a JSON document; null stands for what could not be learned."""
    paths = context.paths
    try:
        committed = commit.read(paths)
    except StateError:
        committed = None
    return {
        "v": 1,
        "pulse": found.pulse,
        "pulse_alive": found.pulse_alive,
        "pulse_status": found.status,
        "world_hash": view.world(paths).hash,
        "committed_hash": committed.hash if committed else None,
        "snapshots": snapshots(context),
        "asks": found.asks,
        "workers": None if found.sessions is None else [s.to_json() for s in found.sessions],
        "goals": store.names(paths.goals, ".md"),
        "journal_tail": list(view.journal_tail(paths)),
        "data_dir": str(paths.data),
        "trouble": found.trouble,
    }


def _run(args: argparse.Namespace, context: Context) -> int:
    found = survey(context)
    state = collect(context, found)
    if args.json:
        print_json(state)
        return 0
    live = "?" if found.sessions is None else str(sum(s.alive for s in found.sessions))
    asks = "?" if found.asks is None else str(len(found.asks))
    print(f"pulse: {found.pulse}  asks: {asks}  workers: {live} live  goals: {len(state['goals'])}")
    for ask in found.asks or []:
        print(f"ask {ask['id']} ({ask['state']}, {age(ask['age_s'])}): {printable(ask['prompt'])}")
    for session in found.sessions or []:
        if session.alive:
            print(f"worker {session.id}: {session.health}, up {age(session.uptime_s)}")
    for name, value in state["snapshots"].items():
        signal = value.get("signal", value) if isinstance(value, dict) else value
        print(f"{name}: {printable(json.dumps(signal, ensure_ascii=False))[:120]}")
    for line in state["journal_tail"][-3:]:
        print(printable(line))
    for problem in found.trouble:
        print(f"not known: {printable(problem)}")
    return 0


command = Command(_configure, _run)
