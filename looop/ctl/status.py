"""`looopctl status`: pulse, fleet, asks and money on one screen."""

import argparse
import time
from typing import Any

from looop import guards, runs
from looop.ctl.command import Command, Context, Parser, add_json, age, print_json, printable, table
from looop.ctl.survey import Survey, survey
from looop.errors import LooopError
from looop.systemd.manager import Manager

TIMERS = ("looop-beat.timer", "looop-nudge@*.timer", "looop-schedule@*.timer")


def _configure(parser: Parser) -> None:
    add_json(parser)


def spent_today(context: Context) -> guards.Spent:
    """Money since local midnight. Raises StateError."""
    today = time.localtime()
    midnight = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, 0, 0, 0, 0, 0, -1))
    return guards.spent_since(runs.ledger(context.paths), midnight)


def timers() -> dict[str, float | None]:
    """Pending timers and when they fire next (Unix seconds). Raises Unavailable."""
    with Manager("user") as user:
        found = user.list_units(TIMERS)
        return {name: user.next_elapse(name) for name, unit in sorted(found.items()) if unit.alive}


def collect(context: Context, found: Survey) -> dict[str, Any]:
    """The status as a JSON document; null stands for what could not be learned."""
    trouble = list(found.trouble)
    pending: dict[str, float | None] | None = None
    money: dict[str, Any] | None = None
    interrupted: list[dict[str, Any]] | None = None
    try:
        pending = timers()
    except LooopError as error:
        trouble.append(str(error))
    try:
        spent = spent_today(context)
        money = {"today_usd": spent.usd, "max_daily_usd": context.config.max_daily_usd, "bad_rows": list(spent.bad)}
        cut, _ = runs.in_states(context.paths, "interrupted")
        interrupted = [{"run": r.run, "error": r.error, "seen": r.seen} for r in cut]
    except LooopError as error:
        trouble.append(str(error))
    return {
        "v": 1,
        "pulse": found.pulse,
        "pulse_alive": found.pulse_alive,
        "doing": found.status,
        "timers": pending,
        "workers": None if found.sessions is None else [s.to_json() for s in found.sessions],
        "asks": found.asks,
        "money": money,
        "interrupted": interrupted,
        "trouble": list(dict.fromkeys(trouble)),
    }


def _run(args: argparse.Namespace, context: Context) -> int:
    found = survey(context)
    status = collect(context, found)
    if args.json:
        print_json(status)
        return 0
    print(f"pulse    {found.pulse}" + (f": {printable(found.status)}" if found.status else ""))
    for name, at in (status["timers"] or {}).items():
        print(f"timer    {name}" + (f" in {age(max(0.0, at - time.time()))}" if at else ""))
    if status["money"]:
        limit = status["money"]["max_daily_usd"]
        print(f"money    ${status['money']['today_usd']:.4f} today" + (f" of ${limit:.2f}" if limit else ", no cap"))
    for ask in found.asks or []:
        print(f"ask      {ask['id']} ({ask['state']}, {age(ask['age_s'])}): {printable(ask['prompt'])}")
        options = f", one of: {', '.join(ask['options'])}" if ask["options"] else ""
        print(f"         answer with: looopctl answer {ask['id']} TEXT{printable(options)}")
    for cut in status["interrupted"] or []:
        if not cut["seen"]:
            print(f"cut      {cut['run']}: {printable(cut['error'])}")
    for problem in status["trouble"]:
        print(f"unknown  {printable(problem)}")
    alive = [s for s in found.sessions or [] if s.alive]
    if alive:
        print()
        rows = [(s.id, s.health, s.state, age(s.idle_s), age(s.uptime_s), age(s.ask_age_s)) for s in alive]
        table(["WORKER", "HEALTH", "STATE", "IDLE", "UP", "ASK"], rows)
    return 0


command = Command(_configure, _run)
