"""Goals, sensors and the playbook: replaced atomically, every earlier body kept.

Used by the pulse when it carries out a move and by the verbs that do the same by hand. Whoever writes holds one
lock from reading the old body to publishing the new, so that no body is lost between two writers. Which goal was
acted for when is kept beside them; it is advice, so a damaged ledger is started anew.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from looop import store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import Refused, StateError, UsageError
from looop.paths import Paths
from looop.systemd import journal


@contextlib.contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """Held from reading an old body to publishing the new; by the import for all of them at once."""
    with store.lock(paths.data / ".policy.lock"):
        yield


def _text(what: str, body: str) -> bytes:
    """`body` as bytes that end in one newline. Raises UsageError when it is no text."""
    if not body.strip():
        raise UsageError(f"cannot write {what}: the text is empty")
    if "\0" in body:
        raise UsageError(f"cannot write {what}: there is a NUL character in the text")
    try:
        return (body.rstrip("\n") + "\n").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot write {what}: the text is not Unicode at character {error.start}") from error


def _replace(path: Path, history: Path, data: bytes, keep: int, mode: int = 0o600) -> None:
    if store.read_bytes(path) == data and path.stat().st_mode & 0o777 == mode:
        return
    store.keep_history(path, history, keep)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.write(path, data, mode)


def write_goal(paths: Paths, config: Config, goal_id: str, body: str, now: Stamp) -> None:
    """Replace a goal's body. Raises UsageError, StateError or TryAgain."""
    path = paths.goal(goal_id)
    data = _text(f"goal {goal_id}", body)
    with locked(paths):
        _replace(path, paths.history / "goals" / goal_id, data, config.history_keep)
    touch_goal(paths, goal_id, now)


def archive_goal(paths: Paths, goal_id: str, now: Stamp) -> Path:
    """Move a goal to goals/archive/ID.md, or ID-1.md, ID-2.md... where that is taken; returns the new place.

    Its text is a version of its history too: which ID an ID-1.md belongs to cannot be told for sure.
    """
    path = paths.goal(goal_id)
    with locked(paths):
        if not path.is_file():
            raise Refused(f"cannot archive goal {goal_id}: there is no such goal")
        paths.archive.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(StateError):  # an unreadable one can still be moved
            store.keep_history(path, paths.history / "goals" / goal_id, 0)
        target = paths.archive / f"{goal_id}.md"
        n = 0
        while os.path.lexists(target):
            n += 1
            target = paths.archive / f"{goal_id}-{n}.md"
        try:
            os.rename(path, target)
        except OSError as error:
            raise StateError(f"cannot archive goal {goal_id}: {error.strerror}") from error
    touch_goal(paths, goal_id, now)
    return target


def write_sensor(paths: Paths, config: Config, name: str, script: str) -> None:
    """Replace a sensor's script, executable before it is there. Raises UsageError, StateError or TryAgain."""
    path = paths.sensor(name)
    data = _text(f"sensor {name}", script)
    if not data.startswith(b"#!"):
        raise UsageError(
            f"cannot write sensor {name}: its first line names no interpreter",
            hint="begin the script with a line such as #!/bin/bash",
        )
    with locked(paths):
        _replace(path, paths.history / "sensors" / name, data, config.history_keep, 0o755)


def write_playbook(paths: Paths, config: Config, body: str) -> None:
    """Replace PLAYBOOK.md. Raises UsageError, StateError or TryAgain."""
    data = _text("the playbook", body)
    with locked(paths):
        _replace(paths.playbook, paths.playbook_history, data, config.history_keep)


def touch_goal(paths: Paths, goal_id: str, now: Stamp) -> None:
    """Note that something was done for the goal just now; ids without a goal are not kept."""
    with store.lock(paths.data / f".{paths.goal_activity.name.lstrip('.')}.lock"):
        try:
            known = activity(paths)
        except StateError as error:
            journal.emit("state_degraded", text=f"{error}; moved aside")
            store.set_aside(paths.goal_activity)
            known = {}
        known[goal_id] = now.wall
        goals = set(store.names(paths.goals, ".md"))
        kept = {each: int(wall) for each, wall in sorted(known.items()) if each in goals}
        store.write_json(paths.goal_activity, kept)


def activity(paths: Paths) -> dict[str, float]:
    """Goal id to Unix seconds of the last thing done for it. Raises StateError."""
    ledger = store.read_json(paths.goal_activity) or {}
    return {goal: float(wall) for goal, wall in ledger.items() if isinstance(wall, (int, float)) and wall >= 0}
