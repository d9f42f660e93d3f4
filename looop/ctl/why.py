"""`looopctl why`: one page about one worker, one of its earlier generations, or one run."""

import argparse
import sys
import time
from collections.abc import Iterable
from typing import Any

from looop import why
from looop.clock import age, now
from looop.ctl.command import Command, Context, Parser, add_json, complete, print_json

WIDTH = 11


def _configure(parser: Parser) -> None:
    what = parser.add_argument(
        "id", metavar="WORKER|RUN",
        help="a worker (its last generation, or an earlier one, as named here) or a run; worker:ID, run:RUN say which",
    )  # fmt: skip
    complete(what, "@explained")
    add_json(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    paths, present = context.paths, now()
    workers, found = why.find(paths, args.id)
    pages = [why.worker(paths, context.config, name, present) for name in workers]
    told = [why.run(paths, name) for name in found]
    if args.json:
        print_json({"workers": pages, "runs": told})
        return 0
    for number, lines in enumerate([*(_worker(page) for page in pages), *(_told(page) for page in told)]):
        print("\n" * bool(number) + "\n".join(lines))
    if workers and found:
        print(f"looopctl: this is a worker and a run; worker:{args.id} or run:{args.id} shows one", file=sys.stderr)
    return 0


# -- pieces of text


def _safe(text: object) -> str:
    """One line without control characters, blanks at its beginning kept."""
    return "".join(c if c.isprintable() else " " for c in str(text).replace("\n", " ")).rstrip()


def _row(name: str, *parts: object) -> list[str]:
    """One named line; nothing when every part is empty."""
    text = "  ".join(filter(None, (_safe(part) for part in parts if part is not None)))
    return [f"{name:<{WIDTH}} {text}"] if text else []


def _block(name: str, lines: Iterable[object] | None, none: str = "none") -> list[str]:
    """A name and indented lines below it. `lines` of None is unknown."""
    if lines is None:
        return [f"{name:<{WIDTH}} unknown"]
    shown = [f"    {_safe(line)}".rstrip() for line in lines]
    return [name, *shown] if shown else [f"{name:<{WIDTH}} {none}"] if none else []


def _clock(wall: float | None) -> str:
    return "unknown" if wall is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / (1 << 20):.1f} MB" if count >= 1 << 20 else f"{count} bytes"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"


def _events(page: dict[str, Any]) -> list[str]:
    events = page["events"]
    lines = None if events is None else [f"{_clock(e['ts'])[11:]} {e['event']:<16} {e['message']}" for e in events]
    return _block("events", lines)


def _file(name: str, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [f"{name:<{WIDTH}} none"]
    title = f"{found['path']} ({_size(found['bytes'])})"
    return [*_row(name, title + "; its last lines:" * bool(found["tail"])), *_block("", found["tail"], "")[1:]]


def _prompt(page: dict[str, Any]) -> list[str]:
    prompt = page["prompt"]
    if prompt["head"] is None:
        return [f"{'prompt':<{WIDTH}} not there (any more)"]
    return [*_row("prompt", f"{prompt['path']}; it begins:"), *_block("", prompt["head"], "")[1:]]


def _said(answer: str | None) -> str:
    return "" if answer is None else f" -> {answer}"


# -- the two pages


def _worker(page: dict[str, Any]) -> list[str]:
    by, verify, alive = page["started_by"], page["verify"], page["alive"]
    source = {"human": "a human", "rules": f"the rule {by['rule'] or '(unknown)'}", "decider": "the decider"}
    health = page["health"] if alive else ""
    lasted = f"{age(page['uptime_s'])} {'ago' if alive else 'long'}" if page["uptime_s"] is not None else None
    used = f"CPU {_seconds(page['cpu_s'])}, memory peak {_size(page['memory_peak'])}"
    if alive and page.get("memory_bytes") is not None:
        used = f"CPU {_seconds(page['cpu_s'])}, memory {_size(page['memory_bytes'])}, {page.get('tasks')} tasks"
    lines = [
        *_row("worker", page["id"], page["how"], health, page["note"]),
        *_row("why", page["result_text"] if page["result"] not in ("", "success") else ""),
        *_row("problem", page["problem"]),
        *_row("started by", source.get(by["source"], by["source"]), by["run"], by["reason"]),
        *_row("started", page["started"] or "unknown", lasted),
        *(_row("ended", page["ended"] or "unknown") if not alive else []),
        *_row("stopped by", page["reason"]),
        *_row("command", page["command"] or "unknown"),
        *_row("unit", page["unit"], page["invocation"] or "unknown"),
        *_row("used", used),
    ]
    if verify:
        tries = verify.get("tries")
        often = "at the first try" if tries == 1 else f"after {tries} tries"
        how = "" if tries is None else f"{often}, exit code {verify['code']}"
        lines += _row("verify", verify["state"], verify["command"], how)
        lines += _block("", verify["output"].splitlines(), "")[1:]
    asks = [f"{ask['id']} {ask['state']}: {ask['prompt']}" + _said(ask["answer"]) for ask in page["asks"]]
    moves = [f"{m['run']} {m['action']} {m['state']}: {m['text']}" for m in page["moves"]]
    return [
        *lines,
        *_block("asks", asks),
        *_block("claims", [f"{claim['name']} since {claim['since']}" for claim in page["claims"]]),
        *_prompt(page),
        *_file("output", page["output"]),
        *_block("moves", moves),
        *_block("journal", page["lines"]),
        *_events(page),
        *_block("earlier", [f"looopctl why {name}" for name in page["earlier"]], ""),
    ]


def _told(page: dict[str, Any]) -> list[str]:
    told, record = page["why"], page.get("source")
    source = {"human": "a human, by hand", "rules": f"the rule {page.get('rule')}", "decider": "the decider"}
    lines = [
        *_row("run", page["run"], page["state"]),
        *_row("problem", page["problem"]),
        *_row("decided by", source.get(str(record), record or "unknown"), page.get("key")),
        *_row("at", page.get("at", "unknown")),
    ]
    if told is None:
        lines += _row("because", "of nothing but that" if record == "human" else "unknown: it left no world.json")
    else:
        lines += _row("forced", told["forced"]) + _block("changed", told["changed"], "nothing")
    move = page.get("action") or {}
    cost = page["cost"]
    return [
        *lines,
        *_prompt(page),
        *_file("output", page["output"]),
        *_block("move", [f"{key}: {value}" for key, value in move.items()], "none"),
        *_row("said", page.get("journal")),
        *_row("outcome", page.get("summary")),
        *_row("error", page.get("error")),
        *(_file("shell", page["shell"]) if page["shell"] else []),
        *_row("worker", page["worker"] and f"{page['worker']} (looopctl why worker:{page['worker']})"),
        *(line for what, usage in page["usage"].items() for line in _row(what, _usage(usage))),
        *_block("cost", None if cost is None else [_price(row) for row in cost]),
        *_block("journal", page["lines"]),
        *_events(page),
    ]


def _usage(usage: dict[str, Any]) -> str:
    peak, cpu = usage.get("memory_peak"), usage.get("cpu_s")
    return f"{usage.get('how', 'unknown')}; CPU {_seconds(cpu)}, memory peak {_size(peak)}"


def _price(row: dict[str, Any]) -> str:
    usd = row.get("cost_usd")
    return f"{row.get('ts')}  {'unknown' if usd is None else f'{usd:.6f} USD'}  {row.get('source') or ''}"


command = Command(_configure, _run)
