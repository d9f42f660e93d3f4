"""`looopctl goal`: write, archive, list and show goals, and their earlier versions."""

import argparse
import sys

from looop import audit, policy, seed, store
from looop.clock import age, now, utc
from looop.ctl import history
from looop.ctl.command import (
    Command, Context, Parser, add_action, add_actions, add_body, add_journal, add_json, body, complete, print_json,
    table,
)  # fmt: skip
from looop.errors import Refused, StateError
from looop.history import GOAL


def _configure(parser: Parser) -> None:
    verbs = add_actions(parser)
    write = add_action(verbs, "write", "write or replace a goal; the earlier text is kept")
    complete(write.add_argument("id", metavar="GOAL", help="the goal's name"), "@goals")
    add_body(write, "what is to be reached")
    add_journal(write)
    archive = add_action(verbs, "archive", "move a goal to goals/archive")
    complete(archive.add_argument("id", metavar="GOAL", help="the goal's name"), "@goals")
    add_journal(archive)
    listing = add_action(verbs, "list", "list the goals")
    add_json(listing)
    show = add_action(verbs, "show", "print a goal")
    complete(show.add_argument("id", metavar="GOAL", help="the goal's name"), "@goals")
    history.configure(verbs, GOAL)


def _changed(context: Context, summary: str, line: str) -> int:
    audit.line(context.paths, context.config, line or summary, "", now())
    print(summary)
    return 0


def _list(context: Context, as_json: bool) -> int:
    present, trouble = now(), ""
    try:
        activity = policy.activity(context.paths)
    except StateError as error:
        activity, trouble = {}, str(error)
    found: list[tuple[str, str, float | None]] = []
    for goal in store.names(context.paths.goals, ".md"):
        try:
            text = (store.read_bytes(context.paths.goals / f"{goal}.md") or b"").decode(errors="replace")
        except StateError as error:
            text = f"({error})"
        found.append((goal, next(iter(text.strip().splitlines()), ""), activity.get(goal)))
    if as_json:
        print_json([{"id": goal, "title": title, "acted": acted and utc(acted)} for goal, title, acted in found])
    elif found:
        ages = [age(None if acted is None else max(0.0, present.wall - acted)) for _, _, acted in found]
        rows = [(goal, how, title[:80]) for (goal, title, _), how in zip(found, ages, strict=True)]
        table(("GOAL", "ACTED", "TEXT"), rows)
    else:
        print("no goals")
    if trouble:
        print(f"looopctl: {trouble}", file=sys.stderr)
    return 0


def _run(args: argparse.Namespace, context: Context) -> int:
    paths = context.paths
    if args.action in history.ACTIONS:
        return history.run(args, context, GOAL)
    if args.action == "list":
        return _list(context, args.json)
    path = paths.goal(args.id)
    if args.action == "show":
        text = store.read_text(path)
        if text is None:
            raise Refused(f"cannot show goal {args.id}: there is no such goal")
        print(text, end="")
        return 0
    seed.seed(paths)
    if args.action == "write":
        policy.write_goal(paths, context.config, args.id, body(args.body), now())
        return _changed(context, f"write-goal {args.id}", args.journal)
    policy.archive_goal(paths, args.id, now())
    return _changed(context, f"archive-goal {args.id}", args.journal)


command = Command(_configure, _run)
