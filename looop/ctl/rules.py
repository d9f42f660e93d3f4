"""`looopctl rules check`: is rules.toml sound, and what would it do in the world of the newest run?"""

import argparse
from pathlib import Path
from typing import Any

import looop
from looop import actions, clock, commit, rules, store
from looop.ctl.command import Command, Context, Parser, add_action, add_actions, add_json, print_json
from looop.errors import ExitCode, Refused
from looop.paths import Paths

STARTER = Path(looop.__file__).parent / "starter" / "rules.toml"


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    check = add_action(verbs, "check", "parse the rules and evaluate them")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="another file than rules.toml")
    check.add_argument("--world", type=Path, metavar="FILE", help="a world.json other than the newest run's")
    add_json(check)


def _file(args: argparse.Namespace, paths: Paths) -> Path:
    if args.file is not None:
        return Path(args.file)
    return paths.rules if paths.rules.exists() else STARTER


def _newest_world(paths: Paths) -> Path | None:
    if paths.last_world.exists():
        return paths.last_world
    found = [(path.stat().st_mtime, path) for path in paths.runs.glob("*/world.json")]
    return max(found)[1] if found else None


def _run(args: argparse.Namespace, context: Context) -> int:
    path = _file(args, context.paths)
    text = store.read_text(path)
    if text is None:
        raise Refused(f"cannot read {path}: there is no such file")
    parsed = rules.parse(text, str(path))
    world = args.world or _newest_world(context.paths)
    data = None if world is None else store.read_json(world)
    if args.world is not None and data is None:
        raise Refused(f"cannot read {world}: there is no such file")
    found = None
    if data is not None:
        found = rules.evaluate(parsed, data, commit.fired(context.paths), clock.now())
    if args.json:
        print_json(_report(path, parsed, world if data is not None else None, found))
    else:
        _print(path, parsed, world if data is not None else None, found)
    return ExitCode.REFUSED if found is not None and found.problems else ExitCode.DONE


def _report(
    path: Path, parsed: tuple[rules.Rule, ...], world: Path | None, found: rules.Evaluation | None
) -> dict[str, Any]:
    match = found.match if found is not None else None
    return {
        "file": str(path),
        "rules": [rule.name for rule in parsed],
        "world": None if world is None else str(world),
        "problems": [] if found is None else list(found.problems),
        "match": match and {"rule": match.rule, "key": match.key, "move": actions.to_json(match.decision.move)},
        "more": found is not None and found.more,
    }


def _print(path: Path, parsed: tuple[rules.Rule, ...], world: Path | None, found: rules.Evaluation | None) -> None:
    print(f"{path}: {len(parsed)} rule{'' if len(parsed) == 1 else 's'}, well formed")
    if found is None:
        print("not evaluated: no run has left a world.json yet")
        return
    print(f"evaluated against {world}")
    for problem in found.problems:
        print(f"failed: {problem}")
    if found.match is None:
        print("no rule would decide now")
    else:
        print(f"{found.match.rule!r} would decide: {actions.summary(found.match.decision.move)}")
        print("another rule or item matches after it" if found.more else "nothing else matches")


command = Command(_configure, _run)
