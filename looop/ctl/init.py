"""`looopctl init`: choose what decides, and write looop.toml. Needs no terminal; keeps every other setting."""

import argparse
import re
import time

from looop import seed, store
from looop.config import load
from looop.ctl.command import Command, Context, Parser
from looop.errors import UsageError
from looop.settings import changed, toml_string

KEYS = ("decider_command", "worker_command", "decider_cost_usd")


def _configure(parser: Parser) -> None:
    parser.add_argument("--runner", choices=["rules", "command"], help="rules: no LLM; command: --decider decides")
    parser.add_argument("--decider", metavar="CMD", help="shell command that decides; implies --runner command")
    parser.add_argument("--worker", metavar="CMD", help="shell command of a worker; must hold {{prompt_file}}")
    parser.add_argument(
        "--decider-cost",
        metavar="USD",
        help="what one decider run costs when it does not report it; 0 for a free program",
    )


def _run(args: argparse.Namespace, context: Context) -> int:
    paths = context.paths
    runner = args.runner or ("command" if args.decider or context.config.decider_command else "rules")
    if runner == "command" and not args.decider and not context.config.decider_command:
        raise UsageError("cannot use --runner command without --decider CMD")
    if runner == "rules" and args.decider:
        raise UsageError("cannot use --decider with --runner rules")
    if args.worker is not None and "{{prompt_file}}" not in args.worker:
        raise UsageError("cannot use this worker command: it must hold {{prompt_file}}, where the brief is put")
    values: dict[str, str] = {}
    if runner == "rules":
        values["decider_command"] = '""'
    elif args.decider:
        values["decider_command"] = toml_string(args.decider)
    if args.worker is not None:
        values["worker_command"] = toml_string(args.worker)
    if args.decider_cost is not None:
        if not re.fullmatch(r"\d+(\.\d+)?", args.decider_cost):
            raise UsageError(f"cannot use {args.decider_cost!r} as a price", hint="dollars, such as 0 or 0.05")
        values["decider_cost_usd"] = args.decider_cost
    old = store.read_text(paths.config)
    text = changed(old or "# looop's settings; `looopctl doctor --settings` lists them all\n", values)
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    if old is not None and old != text:
        backup = paths.config.with_name(f"{paths.config.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
        store.write(backup, old)
        print(f"kept the old configuration as {backup}")
    store.write(paths.config, text)
    config = load(paths)  # what was written is what the pulse will accept, or this says why not
    seeded = seed.seed(paths)
    print(f"wrote {paths.config} (runner: {runner})")
    if seeded:
        print(f"laid down the starter playbook, rules and sensor in {paths.data}")
    if runner == "command" and config.decider_cost_usd is None and config.max_daily_usd:
        print(
            "note: this decider's price is not known; unless it reports cost_usd, looop stops deciding after three\n"
            "      runs. Set it with --decider-cost USD (0 when it is free)."
        )
    print("next: systemctl --user start looop, or reload it where it runs")
    return 0


command = Command(_configure, _run)
