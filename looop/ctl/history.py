"""`history`, `diff` and `restore`: one implementation for the verbs `goal`, `sensor` and `playbook`.

Restoring is writing: it goes through `policy`, so the text that is replaced is kept as well.
"""

import argparse
import difflib
import sys
from collections.abc import Iterable
from typing import Any

from looop import audit, policy, seed, store
from looop.clock import age, now, utc
from looop.ctl.command import Context, add_action, add_journal, add_json, colours, complete, print_json, table
from looop.errors import Refused, UsageError
from looop.history import GOAL, PLAYBOOK, SENSOR, Kind, Version, find, state, versions
from looop.paths import Paths

ACTIONS = ("history", "diff", "restore")
STAMP_HELP = "a version's stamp or its beginning; -1 is the last one, -2 the one before"
_RED, _GREEN, _CYAN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[m"


def configure(verbs: Any, kind: Kind) -> None:
    """Add the three actions to a verb's subparsers."""
    names: dict[str, Any] = {"metavar": kind.one.upper(), "help": f"the {kind.one}'s name"}
    known, kept = f"@known-{kind.one}s", f"@{kind.one}-versions"
    listing = add_action(verbs, "history", "list earlier versions, or print one")
    if kind is not PLAYBOOK:
        every: dict[str, Any] = names | {"help": "without it: every one that has some"}
        complete(listing.add_argument("id", nargs="?", default="", **every), known)
    complete(listing.add_argument("stamp", nargs="?", default="", metavar="STAMP", help="the version to print"), kept)
    add_json(listing)
    diff = add_action(verbs, "diff", "show what changed since a version, or between two")
    if kind is not PLAYBOOK:
        complete(diff.add_argument("id", **names), known)
    which = f"{STAMP_HELP} (default: -1 against the present)"
    complete(diff.add_argument("stamps", nargs="*", metavar="STAMP", help=which), kept)
    restore = add_action(verbs, "restore", "bring an earlier version back; the present one is kept")
    if kind is not PLAYBOOK:
        complete(restore.add_argument("id", **names), known)
    complete(restore.add_argument("stamp", metavar="STAMP", help=STAMP_HELP), kept)
    add_journal(restore)


def run(args: argparse.Namespace, context: Context, kind: Kind) -> int:
    """Do one of ACTIONS. Raises Refused, UsageError or StateError."""
    name = getattr(args, "id", "")
    if name:
        kind.safe(name)
    if args.action == "history":
        return _history(args, context, kind, name)
    if args.action == "diff":
        return _diff(args.stamps, context.paths, kind, name)
    return _restore(args, context, kind, name)


# -- history


def _history(args: argparse.Namespace, context: Context, kind: Kind, name: str) -> int:
    paths = context.paths
    if args.stamp:
        sys.stdout.flush()
        sys.stdout.buffer.write(find(paths, kind, name, args.stamp).data)
        sys.stdout.buffer.flush()
        return 0
    if kind is not PLAYBOOK and not name:
        return _all(paths, kind, args.json)
    found = versions(paths, kind, name)
    if not found and not kind.present(paths, name).exists():
        raise Refused(f"cannot show the history of {kind.called(name)}: there is and was none")
    if args.json:
        print_json([_row(version) for version in found])
    elif found:
        wall = now().wall
        rows = [(v.stamp, age(max(0.0, wall - v.replaced)), str(len(v.data)), v.first_line[:80]) for v in found]
        table(("STAMP", "REPLACED", "BYTES", "FIRST LINE"), rows)
    else:
        print(f"no earlier versions of {kind.called(name)}")
    return 0


def _row(version: Version) -> dict[str, Any]:
    when = {"replaced": utc(version.replaced), "age_s": int(max(0.0, now().wall - version.replaced))}
    return {"stamp": version.stamp, **when, "bytes": len(version.data), "first_line": version.first_line}


def _all(paths: Paths, kind: Kind, as_json: bool) -> int:
    known = {name: versions(paths, kind, name) for name in kind.names(paths)}
    found = [(name, state(paths, kind, name), kept) for name, kept in known.items() if kept]
    if as_json:
        print_json([{"id": n, "state": how, "versions": len(kept), "last": kept[-1].stamp} for n, how, kept in found])
    elif found:
        rows = [(name, how, str(len(kept)), kept[-1].stamp) for name, how, kept in found]
        table((kind.one.upper(), "STATE", "VERSIONS", "LAST"), rows)
    else:
        print(f"no {kind.one} has earlier versions")
    return 0


# -- diff


def _diff(stamps: list[str], paths: Paths, kind: Kind, name: str) -> int:
    if len(stamps) > 2:
        raise UsageError("cannot compare more than two versions")
    old = find(paths, kind, name, stamps[0] if stamps else "-1")
    if len(stamps) == 2:
        new = find(paths, kind, name, stamps[1])
        new_name, text = new.stamp, new.text
    else:
        data = store.read_bytes(kind.present(paths, name))
        new_name, text = (state(paths, kind, name), (data or b"").decode(errors="replace"))
    title = name or kind.present(paths, name).stem
    lines = difflib.unified_diff(
        old.text.splitlines(), text.splitlines(), f"{title}\t{old.stamp}", f"{title}\t{new_name}", lineterm=""
    )
    _show(lines)
    return 0


def _show(lines: Iterable[str]) -> None:
    """Exact into a file; on a terminal in colours, and without anybody's control characters."""
    if not sys.stdout.isatty():
        for line in lines:
            print(line)
        return
    known = {"-": _RED, "+": _GREEN, "@": _CYAN} if colours() else {}
    for line in lines:
        colour = known.get(line[:1], "")
        print(colour + "".join(c if c.isprintable() or c == "\t" else " " for c in line) + (_PLAIN if colour else ""))


# -- restore


def _restore(args: argparse.Namespace, context: Context, kind: Kind, name: str) -> int:
    paths, config = context.paths, context.config
    version = find(paths, kind, name, args.stamp)
    text = store.read_text(version.path)
    if text is None:
        raise Refused(f"cannot restore {kind.called(name)}: version {version.stamp} was pruned just now")
    seed.seed(paths)
    if kind is GOAL:
        policy.write_goal(paths, config, name, text, now())
    elif kind is SENSOR:
        policy.write_sensor(paths, config, name, text)
    else:
        policy.write_playbook(paths, config, text)
    summary = " ".join(word for word in (f"restore-{kind.one}", name, version.stamp) if word)
    audit.line(paths, config, args.journal or summary, "", now())
    print(summary)
    return 0
