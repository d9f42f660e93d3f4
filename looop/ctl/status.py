"""`looopctl status`: what looop does, what it waits for and what it wants of you, on one screen."""

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from looop.clock import age
from looop.ctl.command import Command, Context, Parser, add_json, colours, print_json
from looop.ctl.status_facts import overview
from looop.ctl.schedule import length
from looop.errors import UsageError
from looop.tui import text

INDENT = 10
BOLD, RED, YELLOW = "1", "31", "33"
Line = tuple[str, str, str]  # label, text, colour


def _configure(parser: Parser) -> None:
    add_json(parser)
    parser.add_argument("-w", "--watch", action="store_true", help="stay, and draw it again when something changes")


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.json and args.watch:
        raise UsageError("cannot watch as JSON", hint="`looopctl wait --json` is for programs")
    if args.json:
        print_json(overview(context))
        return 0
    if args.watch:
        if not sys.stdout.isatty():
            raise UsageError("cannot watch: standard output is no terminal", hint="`looopctl wait` is for programs")
        from looop.ctl.status_redraw import redraw

        return redraw(context.paths, lambda: page(overview(context), *size(), colour=colours()))
    print("\n".join(page(overview(context), size()[0], 0, colour=colours())))
    return 0


def size() -> tuple[int, int]:
    """Columns and rows to draw in: those of the terminal, else 80 columns."""
    found = shutil.get_terminal_size((80, 24))
    return (found.columns if sys.stdout.isatty() else 80), found.lines


def page(status: Mapping[str, Any], cols: int, rows: int, colour: bool) -> list[str]:
    """The screen as lines of at most `cols` columns, and at most `rows` of them (0 = as many as it takes)."""

    def paint(line: str, code: str) -> str:
        return f"\033[{code}m{line}\033[m" if colour and code and line else line

    found = [paint(line, BOLD) for line in text.wrap(status["summary"], cols)] + [""]
    for label, content, code in lines(status):
        for n, part in enumerate(text.wrap(content, cols - INDENT, 4)):
            head = f"{'' if n else label:<{INDENT}}"
            found.append(text.clip(head, cols) + paint(part, code))
    found += [paint(text.short(row, cols), code) for row, code in fleet(status)]
    if rows and len(found) >= rows:
        found = [*found[: rows - 2], text.short(f"... and {len(found) - rows + 2} lines more", cols)]
    return found


def lines(status: Mapping[str, Any]) -> Iterable[Line]:
    """The labelled lines, most urgent first."""
    yield from pulse(status)
    for ask in status["asks"] or ():
        yield from question(ask)
    if status["asks"] is None:
        yield "asks", "unknown", RED
    for sensor in status["sensors"]["failing"]:
        yield "sensor", f"{sensor['name']} fails ({sensor['reason']}): {sensor['message']}", RED
    for name in status["sensors"]["flapping"] or ():
        yield "sensor", f"{name} is flapping: it changes in nearly every beat", YELLOW
    failure = (status["decides"] or {}).get("last_failure")
    if failure:
        times = status["decides"]["failures"]
        yield "failed", f"{times} time{'' if times == 1 else 's'}, last {ago(failure['at'])}: {failure['error']}", RED
    for problem in status["notifications"]:
        yield "notify", problem, RED
    for cut in status["interrupted"] or ():
        if not cut["seen"]:
            yield "cut short", f"{cut['run']}: {cut['error']}", YELLOW
    yield from waits(status)
    yield from costs(status)
    for problem in status["trouble"]:
        yield "unknown", problem, RED


def pulse(status: Mapping[str, Any]) -> Iterable[Line]:
    """What it does, the last beat and the next."""
    doing, last = status["doing"], status["last_beat"]
    news = doing and not (last and doing == last["outcome"])
    yield "pulse", status["pulse"] + (f": {doing}" if news else ""), "" if status["pulse_alive"] else RED
    if last:
        forced = f", forced ({last['forced']})" if last["forced"] else ""
        yield "last beat", f"{ago(last['ended'])}, number {last['number']}{forced}: {last['outcome']}", ""
    if status["pulse_alive"]:
        at = status["next_beat"]
        yield "next beat", (f"{until(at)}, or when something happens" if at else "when something happens"), ""


def question(ask: Mapping[str, Any]) -> Iterable[Line]:
    """An open ask, and what can be done about it."""
    state = ask["state"]
    if state == "broken":
        yield "ask", f"{ask['id']} is broken: {ask['error']}", RED
        return
    yield "ask", f"{ask['id']} ({state}, {age(ask['age_s'])}): {ask['prompt']}", "" if state == "answered" else YELLOW
    if state in ("pending", "unknown"):
        options = f"; options: {', '.join(ask['options'])}" if ask["options"] else ""
        yield "", f"looopctl answer {ask['id']} TEXT{options}", ""
    elif state == "stranded":
        yield "", f"looopctl answer {ask['id']} --redispatch TEXT, or looopctl asks --close {ask['id']}", ""


def waits(status: Mapping[str, Any]) -> Iterable[Line]:
    """What will wake it by the clock."""
    for row in status["schedules"] or ():
        if row["state"] == "invalid":
            yield "schedule", f"{row['name']} is invalid: {row['message']}", RED
            continue
        due = row.get("due_in_s")
        when = row["state"] if due is None or row["state"] in ("due", "missed") else f"in {length(due)}"
        yield "schedule", f"{row['name']} {when}" + (f": {row['note']}" if row.get("note") else ""), ""
    for row in status["follow_ups"] or ():
        yield "follow-up", f"{row['name']} {until(row['at'])}", ""
    for name, at in (status["timers"] or {}).items():
        if name.startswith("looop-notify@"):
            what = name.removeprefix("looop-notify@").removesuffix(".timer")
            yield "reminder", what + (f" {until(at)}" if at else ""), ""


def costs(status: Mapping[str, Any]) -> Iterable[Line]:
    """Money and decider runs against their caps."""
    money, decides = status["money"], status["decides"]
    if money:
        limit = f"of ${money['max_daily_usd']:.2f}" if money["max_daily_usd"] else "(no cap)"
        said = f"${money['today_usd']:.4f} today {limit}"
        if decides:
            cap = f" of {decides['max_per_hour']}" if decides["max_per_hour"] else ""
            said += f"; {decides['last_hour']}{cap} decider runs in the last hour"
        yield "money", said, ""
        if money["bad_rows"]:
            yield "", f"{len(money['bad_rows'])} rows of cost.jsonl cannot be read", RED


def fleet(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The workers that live, as rows of a table and their colours."""
    alive = [worker for worker in status["workers"] or () if worker["alive"]]
    if not alive:
        return []
    cells: list[tuple[str, ...]] = [("WORKER", "HEALTH", "STATE", "IDLE", "UP", "ASK", "NOTE")]
    for worker in alive:
        times = (age(worker[key]) for key in ("idle_s", "uptime_s", "ask_age_s"))
        cells.append((worker["id"], worker["health"], worker["state"], *times, worker.get("note") or ""))
    widths = [max(len(row[column]) for row in cells) for column in range(6)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])).rstrip() for row in cells]
    stuck = {"stuck": RED, "waiting-ask": YELLOW}
    return [("", ""), *zip(rows, ["", *(stuck.get(worker["health"], "") for worker in alive)])]


def until(at: float) -> str:
    return f"in {length(max(0.0, at - time.time()))}"


def ago(at: float) -> str:
    return f"{length(max(0.0, time.time() - at))} ago"


command = Command(_configure, _run)
