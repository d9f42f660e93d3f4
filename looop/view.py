"""One read of the world: policy files and snapshots as they are on disk, frozen into a `World`.

Hash, diff, prompt and world.json all come from this one read, so they cannot disagree. Used by the beat and by
verbs that show what a beat would see; writes nothing.
"""

import os
import time
from pathlib import Path

from looop import guards, mailbox, runs, store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import StateError
from looop.jsonutil import JsonError, get_str
from looop.mailbox import Judge
from looop.paths import Paths
from looop.world import (
    Asked,
    Baseline,
    Context,
    Failed,
    Interrupted,
    Policy,
    Shell,
    World,
    baseline,
    diff,
    policy,
    reading,
)

JOURNAL_LINES = 20
JOURNAL_BYTES = 65536
TAG_CHARS = 16


def world(paths: Paths) -> World:
    """Read it. Raises StateError when a folder cannot be listed; a single unreadable file is part of the world."""
    goals = {name: _policy(paths.goals / f"{name}.md") for name in store.names(paths.goals, ".md")}
    snapshots = {}
    for name in store.names(paths.snapshots, ".json"):
        try:
            data = store.read_bytes(paths.snapshots / f"{name}.json")
        except StateError:
            snapshots[name] = reading(name, None)
        else:
            if data is not None:
                snapshots[name] = reading(name, data)
    rules = _policy(paths.rules)
    return World(
        _policy(paths.playbook),
        {name: text for name, text in goals.items() if text},
        snapshots,
        rules.digest if rules else "",
    )


def _policy(path: Path) -> Policy | None:
    try:
        data = store.read_bytes(path)
    except StateError:
        return policy(None)
    return None if data is None else policy(data)


def journal_tail(paths: Paths, lines: int = JOURNAL_LINES) -> tuple[str, ...]:
    """The last lines of journal.md."""
    return tuple(runs.tail(paths.journal, JOURNAL_BYTES).splitlines()[-lines:])


def asked(paths: Paths, judge: Judge) -> tuple[Asked, ...]:
    """The open questions, each pending, answered, stranded or unknown."""
    return tuple(
        Asked(
            a.id, a.worker, a.prompt, mailbox.state(a, judge), a.ts, a.reference, a.options,
            a.answer.text if a.answer else "",
        )  # fmt: skip
        for a in mailbox.open_asks(paths)
        if not a.broken
    )


def tag(paths: Paths) -> str:
    """The random text that frames prompts of this installation; made once, and again when it is damaged."""
    try:
        text = (store.read_text(paths.frame_tag) or "").strip()
    except StateError:
        text = ""
    if len(text) < TAG_CHARS:
        store.set_aside(paths.frame_tag)
        text = os.urandom(TAG_CHARS // 2).hex()
        store.write(paths.frame_tag, text + "\n")
    return text


def last_shell(paths: Paths) -> Shell | None:
    """The shell move that no decision has been told about yet."""
    obj = store.read_json(paths.last_shell)
    try:
        return None if obj is None else Shell(get_str(obj, "cmd"), get_str(obj, "how"), get_str(obj, "output"))
    except JsonError as error:
        raise StateError(f"cannot read {paths.last_shell}: {error}") from error


def context(
    paths: Paths,
    config: Config,
    seen: World,
    committed: Baseline | None,
    state: guards.GuardState,
    judge: Judge,
    now: Stamp,
    forced: str,
    unknown: tuple[str, ...] = (),
) -> Context:
    """What a decider is told besides the world. Raises StateError."""
    failure, failed = state.failure, None
    if failure:
        failed = Failed(failure.run, failure.code, failure.error, state.total, failure.at)
    interrupted, _ = runs.in_states(paths, "interrupted")
    return Context(
        now=now,
        local_time=time.strftime("%Y-%m-%d %H:%M %z", time.localtime(now.wall)),
        data_dir=str(paths.data),
        tag=tag(paths),
        changed=diff(committed, baseline(seen)),
        asks=asked(paths, judge),
        journal=journal_tail(paths),
        last_failure=failed,
        interrupted=tuple(Interrupted(r.run, r.error, r.action) for r in interrupted if not r.seen),
        last_shell=last_shell(paths),
        flapping=guards.flapping(state, config.flap_streak),
        fairness=fairness(paths, seen),
        forced=forced,
        unknown=unknown,
    )


def fairness(paths: Paths, seen: World) -> str:
    """The goal that nothing was done for the longest; a goal never acted for comes first."""
    from looop.policy import activity

    known = activity(paths)
    return min(seen.goals, key=lambda goal: (known.get(goal, 0.0), goal), default="")
