"""The first content of a data directory: folders, .gitignore and, once in its life, the starter set.

Used by the pulse at its start and by `looopctl init`. Nothing that exists is ever overwritten, and a directory
that was seeded once (or came with a playbook) is not seeded again, whatever is deleted from it later.
"""

import os
from pathlib import Path

from looop import store
from looop.errors import StateError
from looop.paths import Paths

STARTER = Path(__file__).parent / "starter"
MARKER = ".seeded"
GITIGNORE = """\
# what looop remembers for itself; policy (PLAYBOOK.md, rules.toml, goals, sensors, schedules) is yours to keep
.*
!.gitignore
snapshots/
asks/
answers/
tells/
claims/
prompts/
runs/
sessions/
cost.jsonl*
*.tmp
"""


def seed(paths: Paths) -> bool:
    """Make what is missing; True if the starter set was laid down. Raises StateError."""
    try:
        paths.create()
    except OSError as error:
        raise StateError(f"cannot make the folders of {paths.data}: {error.strerror}: {error.filename}") from error
    if not os.path.lexists(paths.data / ".gitignore"):
        store.create(paths.data / ".gitignore", GITIGNORE)
    if (paths.data / MARKER).exists():
        return False
    fresh = not paths.playbook.exists()
    if fresh:
        _lay_down(paths)
    # last, and the playbook before it: cut short in between, the next start completes the set
    store.create(paths.data / MARKER, "the starter set was laid down here once; looop does not do it again\n")
    return fresh


def _lay_down(paths: Paths) -> None:
    for script in store.names(STARTER / "sensors", ".sh"):
        _copy(STARTER / "sensors" / f"{script}.sh", paths.sensor(script), 0o755)
    _copy(STARTER / "rules.toml", paths.rules, 0o600)
    _copy(STARTER / "PLAYBOOK.md", paths.playbook, 0o600)


def _copy(source: Path, target: Path, mode: int) -> None:
    data = store.read_bytes(source)
    if data is None:
        raise StateError(f"cannot read {source}: it belongs to looop itself", hint="install looop again")
    store.create(target, data, mode)
