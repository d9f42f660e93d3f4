"""`looopctl import`: take a data directory of the portable looop into this one, and say what came of each part."""

import argparse
import sys
import time
from pathlib import Path

from looop import importing, store, upstream
from looop.clock import now
from looop.ctl.command import Command, Context, Parser, add_json, complete, print_json
from looop.importing import Plan


def _configure(parser: Parser) -> None:
    path = parser.add_argument("path", metavar="PATH", type=Path, help="the other data directory; it is only read")
    complete(path, "folder")
    parser.add_argument("--config", metavar="FILE", type=Path, help="its settings, if not PATH/config.json")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--force", action="store_true", help="take what differs from what is here; that is kept")
    add_json(parser)


def _run(args: argparse.Namespace, context: Context) -> int:
    paths, config, present = context.paths, context.config, now()
    found = upstream.read(args.path, args.config)
    made = importing.plan(paths, config, found, present)
    if not args.dry_run:
        importing.apply(paths, config, found, made, present, args.force)
    text = "\n".join(_report(made, args.dry_run, args.force))
    if args.json:
        print_json({"path": str(args.path), "done": not args.dry_run, **made.to_json()})
    else:
        print(text)
    if made.taken and not args.dry_run:
        name = f"import-{time.strftime('%Y%m%d-%H%M%S', time.localtime(present.wall))}.md"
        store.write(paths.reports / name, f"# Import of {upstream.shown(str(args.path))}\n\n{text}\n")
        print(f"looopctl: kept this as {paths.reports / name}", file=sys.stderr)
    return 0


def _report(made: Plan, dry: bool, force: bool) -> list[str]:
    """The lists a person reads; everybody's texts are on one line each, without control characters."""
    lines = _list("would be taken" if dry else "taken", made.taken)
    if made.same:
        lines += [f"already here, and the same: {len(made.same)}"]
    lines += _list("changed", [f"{name}: {how}" for name, how in made.changed])
    lines += _list("not used", [f"{each.name}: {each.reason}" for each in made.not_used])
    if made.conflicts:
        kept = "different here; that is kept as an earlier version" if force else "different here: needs --force"
        lines += _list(kept, made.conflicts)
    return lines + _list("next", made.next)


def _list(title: str, entries: list[str]) -> list[str]:
    shown = []
    for entry in entries:
        first, *more = entry.splitlines() or [""]
        shown += [f"  {_plain(first)}", *(f"      {_plain(line)}" for line in more)]
    return [f"{title}:", *(shown or ["  nothing"])]


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


command = Command(_configure, _run)
