"""`looopctl state`: everything a client needs to know, at once, and the cursor to go on from. Writes nothing."""

import argparse
import json
from typing import Any

from looop import changes, commit, view
from looop.changes import Cursor, Item, Seen
from looop.clock import age, now
from looop.ctl import wait_items
from looop.ctl.command import Command, Context, Parser, add_json, print_json, printable
from looop.ctl.survey import Survey, survey
from looop.errors import StateError


def _configure(parser: Parser) -> None:
    add_json(parser)


def collect(context: Context) -> tuple[dict[str, Any], Survey]:
    """The state as a JSON document; null stands for what could not be learned. The cursor is of this very state."""
    paths = context.paths
    trouble: list[str] = []
    mark, tail = None, list[str]()
    try:
        mark, _ = wait_items.journal_since(paths, None)
        tail = changes.told(paths.journal, mark)
    except StateError as error:
        trouble.append(str(error))
    seen: dict[str, wait_items.Items] = {}
    for name, read in (
        ("goals", wait_items.goals), ("playbook", wait_items.playbook), ("snapshots", wait_items.snapshots),
        ("schedules", wait_items.schedules),
    ):  # fmt: skip
        try:
            seen[name] = read(paths)
        except StateError as error:
            trouble.append(str(error))
    found = survey(context)
    seen |= _surveyed(context, found)
    world_hash, committed = None, None
    try:
        world_hash = view.world(paths).hash
        committed = commit.read(paths)
    except StateError as error:
        trouble.append(str(error))
    pulse = "down" if found.roll is not None and found.roll.pulse.turn == "down" else "up"
    cursor, _, _ = changes.since(Cursor(changes.home(paths.data), pulse), Seen(seen, "", mark))
    return {
        "v": 1,
        "cursor": cursor.encode(),
        "pulse": found.pulse,
        "pulse_alive": found.pulse_alive,
        "pulse_status": found.status,
        "world_hash": world_hash,
        "committed_hash": committed.hash if committed else None,
        "snapshots": {i["name"]: i["value"] for i in _shown(seen, "snapshots") or [] if "note" not in i},
        "asks": found.asks,
        "workers": _shown(seen, "workers"),
        "goals": None if "goals" not in seen else list(seen["goals"]),
        "claims": found.claims,
        "schedules": _shown(seen, "schedules"),
        "journal_tail": tail,
        "data_dir": str(paths.data),
        "trouble": list(dict.fromkeys([*found.trouble, *trouble])),
    }, found


def _surveyed(context: Context, found: Survey) -> dict[str, dict[str, Item]]:
    seen = {}
    if found.roll is not None and found.open_asks is not None:
        seen["asks"] = wait_items.asks(found.open_asks, found.roll, now().wall)
    if found.roll is not None and found.leases is not None:
        seen["claims"] = wait_items.leases(found.leases, found.roll)
    if found.sessions is not None:
        seen["workers"] = wait_items.workers(found.sessions, context.paths)
    return seen


def _shown(seen: dict[str, dict[str, Item]], name: str) -> list[Any] | None:
    return None if name not in seen else [item.shown for item in seen[name].values()]


def _run(args: argparse.Namespace, context: Context) -> int:
    state, found = collect(context)
    if args.json:
        print_json(state)
        return 0
    live = "?" if found.sessions is None else str(sum(s.alive for s in found.sessions))
    asks = "?" if found.asks is None else str(len(found.asks))
    goals = "?" if state["goals"] is None else str(len(state["goals"]))
    print(f"pulse: {found.pulse}  asks: {asks}  workers: {live} live  goals: {goals}")
    for ask in found.asks or []:
        print(f"ask {ask['id']} ({ask['state']}, {age(ask['age_s'])}): {printable(ask['prompt'])}")
    for session in found.sessions or []:
        if session.alive:
            print(f"worker {session.id}: {session.health}, up {age(session.uptime_s)}")
    for lease in found.claims or []:
        print(f"claim {lease['name']} ({lease['state']}): {printable(lease['session'])}")
    for schedule in state["schedules"] or []:
        print(f"schedule {schedule['name']}: {printable(json.dumps(schedule.get('state'), ensure_ascii=False))[:120]}")
    for name, value in state["snapshots"].items():
        signal = value.get("signal", value) if isinstance(value, dict) else value
        print(f"{name}: {printable(json.dumps(signal, ensure_ascii=False))[:120]}")
    for line in state["journal_tail"][-3:]:
        print(printable(line))
    for problem in state["trouble"]:
        print(f"not known: {printable(problem)}")
    return 0


command = Command(_configure, _run)
