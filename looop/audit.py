"""journal.md: the human's record of what was done, one line a move.

Used by the pulse and by every verb that changes something. A line that cannot be written is reported to the
systemd journal and never undoes the move it tells of.
"""

import time
from pathlib import Path

from looop import store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import StateError, TryAgain
from looop.paths import Paths
from looop.systemd import journal

RECENT = 1 << 20


def line(paths: Paths, config: Config, text: str, run: str, now: Stamp) -> bool:
    """Append "- DATE TIME TEXT [RUN]" in local time; `run` is "" for what no run did. False if it failed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(now.wall))
    try:
        store.append_line(paths.journal, f"- {when} {text}" + (f" [{run}]" if run else ""), config.journal_max_bytes)
    except (StateError, TryAgain) as error:
        journal.emit("journal_degraded", text=f"{error}; not recorded: {text}")
        return False
    return True


def has(paths: Paths, run: str) -> bool:
    """Whether a line tells of this run; asked after a crash, so the recent lines do. Raises StateError."""
    mark = f" [{run}]\n".encode()
    return any(mark in (store.read_bytes(path) or b"")[-RECENT:] for path in (paths.journal, rotated(paths)))


def tail(paths: Paths, count: int) -> list[str]:
    """The last `count` lines, 0 = all there are. Raises StateError."""
    data = b"".join(store.read_bytes(path) or b"" for path in (rotated(paths), paths.journal))
    lines = data.decode(errors="replace").splitlines()
    return lines[-count:] if count else lines


def rotated(paths: Paths) -> Path:
    return paths.journal.with_name(paths.journal.name + ".1")
