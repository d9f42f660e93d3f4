"""Earlier versions of goals, sensors and the playbook: found, named and read. Used by the verbs; writes nothing.

A version is a file whose stem, its stamp, is the local time at which it was replaced: history/goals/ID/STAMP.md,
history/sensors/NAME/STAMP.sh, playbook.d/STAMP.md. A goal that was archived and not written since has one more,
"archived". Versions outlive what they are versions of.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from looop import store
from looop.errors import Refused, StateError, UsageError
from looop.paths import Paths, safe_name

ARCHIVED = "archived"
_STAMP = re.compile(r"(\d{8}-\d{6})(-\d+)?\Z")


@dataclass(frozen=True)
class Kind:
    """What has versions; `one` is the verb it is reached by."""

    one: str
    suffix: str

    def safe(self, name: str) -> str:
        return "" if self.one == "playbook" else safe_name(f"a {self.one}", name)

    def called(self, name: str) -> str:
        """How messages name it."""
        return f"{self.one} {name}" if name else f"the {self.one}"

    def folder(self, paths: Paths, name: str) -> Path:
        """Where its versions are."""
        return paths.playbook_history if self.one == "playbook" else paths.history / f"{self.one}s" / self.safe(name)

    def present(self, paths: Paths, name: str) -> Path:
        """Where its present text is, if there is one."""
        if self.one == "goal":
            return paths.goal(name)
        return paths.sensor(name) if self.one == "sensor" else paths.playbook

    def names(self, paths: Paths) -> list[str]:
        """Everything of the kind that is there or was. Raises StateError."""
        if self.one == "playbook":
            return [""]
        live = self.present(paths, "x").parent
        kept = paths.history / f"{self.one}s"
        try:
            earlier = {entry.name for entry in os.scandir(kept) if entry.is_dir()} if kept.is_dir() else set()
        except OSError as error:
            raise StateError(f"cannot list {kept}: {error.strerror}") from error
        if self.one == "goal":
            earlier |= set(store.names(paths.archive, self.suffix))
        return sorted(earlier | set(store.names(live, self.suffix)))


GOAL = Kind("goal", ".md")
SENSOR = Kind("sensor", ".sh")
PLAYBOOK = Kind("playbook", ".md")


@dataclass(frozen=True)
class Version:
    """One earlier text; `replaced` is when it ceased to be the present one, in Unix seconds."""

    stamp: str
    path: Path
    replaced: float
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")

    @property
    def first_line(self) -> str:
        return next(iter(self.text.strip().splitlines()), "")


def versions(paths: Paths, kind: Kind, name: str) -> list[Version]:
    """All of them, oldest first. Raises StateError when they cannot be listed or read."""
    folder = kind.folder(paths, name)
    found = [_version(folder / f"{stamp}{kind.suffix}") for stamp in store.names(folder, kind.suffix)]
    known = [version for version in found if version is not None]
    if kind is GOAL and not kind.present(paths, name).exists():
        archived = _version(paths.archive / f"{kind.safe(name)}.md")
        if archived and archived.data not in {version.data for version in known}:
            known.append(Version(ARCHIVED, archived.path, archived.replaced, archived.data))
    return known


def _version(path: Path) -> Version | None:
    """None when it was pruned meanwhile. A stamp that is no time is dated by its file."""
    data = store.read_bytes(path)
    if data is None:
        return None
    try:
        match = _STAMP.match(path.stem)
        when = time.mktime(time.strptime(match[1], "%Y%m%d-%H%M%S")) if match else path.stat().st_mtime
    except (ValueError, OverflowError, FileNotFoundError):
        when = 0.0
    return Version(path.stem, path, when, data)


def state(paths: Paths, kind: Kind, name: str) -> str:
    """present, archived or removed."""
    if kind.present(paths, name).exists():
        return "present"
    return ARCHIVED if kind is GOAL and (paths.archive / f"{kind.safe(name)}.md").exists() else "removed"


def find(paths: Paths, kind: Kind, name: str, stamp: str) -> Version:
    """The version of that stamp, of which the beginning will do; -1 is the last one, -2 the one before.

    Raises Refused when there is none, UsageError when there are several.
    """
    known = versions(paths, kind, name)
    hint = f"`looopctl {kind.one} history{' ' + name if name else ''}` lists them"
    if re.fullmatch(r"-[1-9]\d*", stamp):
        if int(stamp[1:]) > len(known):
            raise Refused(f"cannot find version {stamp} of {kind.called(name)}: it has {len(known)}", hint=hint)
        return known[int(stamp)]
    found = [version for version in known if version.stamp == stamp] or [
        version for version in known if stamp and version.stamp.startswith(stamp)
    ]
    if not found:
        raise Refused(f"cannot find version {stamp!r} of {kind.called(name)}: there is none", hint=hint)
    if len(found) > 1:
        several = f"cannot tell which version of {kind.called(name)} is meant: {len(found)} begin with {stamp!r}"
        raise UsageError(several, hint=hint)
    return found[0]
