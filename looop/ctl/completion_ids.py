"""`looopctl _ids KIND [WORD...]`: the ids a shell offers, one a line. For completion scripts, not for people.

It is called while a key is pressed: it asks no bus, loads next to nothing, and prints nothing rather than an error.
WORD is what stands before the id on the command line: for versions, the name of what has them.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence

from looop import store
from looop.errors import LooopError
from looop.paths import Paths

_SAFE = re.compile(r"[A-Za-z0-9_.-]+")
_SCOPE = "invocation:looop-worker-"


def main(words: Sequence[str]) -> int:
    """Print what there is; always 0."""
    kinds: dict[str, Callable[[Paths, Sequence[str]], list[str]]] = {
        "asks": _asks,
        "workers": _living,
        "sessions": lambda paths, _: store.names(paths.sessions, ""),
        "dead": lambda paths, _: [i for i in store.names(paths.sessions, "") if i not in _living(paths, ())],
        "goals": lambda paths, _: store.names(paths.goals, ".md"),
        "known-goals": lambda paths, _: _known(paths, "goal"),
        "sensors": lambda paths, _: store.names(paths.sensors, ".sh"),
        "known-sensors": lambda paths, _: _known(paths, "sensor"),
        "schedules": lambda paths, _: store.names(paths.schedules, ".json"),
        "claims": lambda paths, _: store.names(paths.claims, ".json"),
        "runs": lambda paths, _: store.names(paths.runs, "")[::-1],
        "explained": lambda paths, _: [*store.names(paths.sessions, ""), *store.names(paths.runs, "")[::-1]],
        "goal-versions": lambda paths, given: _versions(paths, "goal", given),
        "sensor-versions": lambda paths, given: _versions(paths, "sensor", given),
        "playbook-versions": lambda paths, given: _versions(paths, "playbook", given),
    }
    try:
        if words and words[0] in kinds:
            found = kinds[words[0]](Paths.from_env(), words[1:])
            print("\n".join(name for name in found if _SAFE.fullmatch(name)))  # bash expands what it is offered
            sys.stdout.flush()
    except (LooopError, OSError):
        pass
    return 0


def _asks(paths: Paths, given: Sequence[str]) -> list[str]:
    """Open ones: those in the archive are not in asks/ any more."""
    answered = set(store.names(paths.answers, ".json"))
    return [ask for ask in store.names(paths.asks, ".json") if ask not in answered]


def _living(paths: Paths, given: Sequence[str]) -> list[str]:
    """systemd keeps a link for each unit that runs; where it does not, every session is offered."""
    try:
        names = os.listdir(paths.runtime.parent / "systemd/units")
    except OSError:
        return store.names(paths.sessions, "")
    ends = ".scope"
    return sorted(n[len(_SCOPE):-len(ends)] for n in names if n.startswith(_SCOPE) and n.endswith(ends))  # fmt: skip


def _known(paths: Paths, verb: str) -> list[str]:
    from looop import history

    return (history.GOAL if verb == "goal" else history.SENSOR).names(paths)


def _versions(paths: Paths, verb: str, given: Sequence[str]) -> list[str]:
    """The newest first."""
    from looop import history

    kind = {"goal": history.GOAL, "sensor": history.SENSOR}.get(verb, history.PLAYBOOK)
    name = given[0] if given else ""
    if kind is not history.PLAYBOOK and not name:
        return []
    return [version.stamp for version in history.versions(paths, kind, name)][::-1]
