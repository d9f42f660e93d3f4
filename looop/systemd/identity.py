"""Which unit a process runs in, and whether that very run of it still lives.

The unit is read from the kernel's control group, never from an environment variable: those are inherited by
processes that have long left the unit. A holder is a unit *invocation*, so that a restarted unit of the same
name does not inherit a lease. Used by looopctl (who am I) and the pulse (is it alive).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looop.clock import boot_id
from looop.errors import Refused
from looop.jsonutil import JsonError, get_str
from looop.systemd.manager import Manager, Scope

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(service|scope|socket|mount|swap)\Z")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]+\.slice\Z")
_USER_MANAGER = re.compile(r"user@(\d+)\.service\Z")
_HINT = "start it with `systemd-run --user --scope COMMAND`, hold it for a command with -- COMMAND, or use --session"


@dataclass(frozen=True)
class Holder:
    """One run of one unit of one manager in one boot."""

    unit: str
    manager: Scope
    invocation: str
    boot: str

    def to_json(self) -> dict[str, str]:
        return {"unit": self.unit, "manager": self.manager, "invocation": self.invocation, "boot": self.boot}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Holder":
        """Raises JsonError naming the bad attribute."""
        manager = get_str(obj, "manager")
        if manager not in ("user", "system"):
            raise JsonError(f'manager: expected "user" or "system", got {manager!r}')
        scope: Scope = "user" if manager == "user" else "system"
        return cls(get_str(obj, "unit"), scope, get_str(obj, "invocation"), get_str(obj, "boot"))


def _first_unit(parts: list[str]) -> tuple[str, list[str]] | None:
    """Skip slices; the first component that is a unit, and what is below it."""
    names = [part.removeprefix("_") for part in parts]  # systemd escapes names the kernel reserves with a _
    while names and _SLICE.match(names[0]):
        names.pop(0)
    return (names[0], names[1:]) if names and _UNIT.match(names[0]) else None


def _unit_of_path(path: str, uid: int) -> tuple[Scope, str] | None:
    parts = path.strip("/").split("/")
    if ".." in parts:
        return None  # outside our cgroup namespace (cgroup_namespaces(7))
    found = _first_unit(parts)
    if found is None:
        return None
    unit, below = found
    manager = _USER_MANAGER.match(unit)
    inner = _first_unit(below) if manager and int(manager[1]) == uid else None
    if inner is not None and inner[0] != "init.scope":  # the manager's own processes are its service, one level up
        return "user", inner[0]
    return None if unit == "init.scope" else ("system", unit)


def unit_of_cgroup(text: str, uid: int | None = None) -> tuple[Scope, str] | None:
    """The (manager, unit) that /proc/PID/cgroup names, by systemd's rules (sd_pid_get_user_unit(3)); None for none.

    Below the user@UID.service of `uid` (default: ours) the user's manager decides; another user's manager we
    cannot ask, so there the system unit user@UID.service itself is the answer.
    """
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    for wanted in ("", "name=systemd"):  # cgroup v2, else systemd's own hierarchy of cgroup v1 (cgroups(7))
        for _, controllers, path in lines:
            if controllers == wanted:
                found = _unit_of_path(path, os.getuid() if uid is None else uid)
                if found is not None:
                    return found
    return None


def holder(pid: int | None = None, user: Manager | None = None, system: Manager | None = None) -> Holder:
    """The unit invocation that process `pid` (default: this one) runs in. Raises Refused or Unavailable."""
    try:
        text = Path(f"/proc/{pid or 'self'}/cgroup").read_text()
    except OSError as error:
        raise Refused(f"cannot tell which unit process {pid} runs in: {error.strerror}") from error
    found = unit_of_cgroup(text)
    if found is None:
        raise Refused("cannot hold anything: this process runs in no systemd unit", hint=_HINT)
    scope, unit = found
    given = user if scope == "user" else system
    manager = Manager(scope) if given is None else given
    try:
        invocation = manager.live([unit]).get(unit, "")
    finally:
        if given is None:
            manager.close()
    if not invocation:
        raise Refused(f"cannot hold anything: the {scope} manager knows no running {unit}", hint=_HINT)
    return Holder(unit, scope, invocation, boot_id())


def is_live(who: Holder, user: Manager, system: Manager) -> bool:
    """False only when proven dead: another boot, not active, or another invocation. Raises Unavailable."""
    if who.boot != boot_id():
        return False
    manager = user if who.manager == "user" else system
    return manager.live([who.unit]).get(who.unit) == who.invocation
