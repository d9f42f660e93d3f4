"""What machine tests are made of: commands, the journal, waiting for a fact, and the pulse under test.

Runs as the user dev in a booted machine, on an installed looop. Nothing here sleeps: `wait_for` looks again when a
file of the data directory, a unit of the user manager or the journal has changed.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from inotify import calls, constants

T = TypeVar("T")

HOME = Path.home()
RUNTIME = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
LOOOPCTL = str(HOME / ".local/bin/looopctl")
DATA = HOME / ".local/state/looop"
CONFIG = HOME / ".config/looop"
UNITS = HOME / ".config/systemd/user"
# systemd keeps one link per running unit here and one file per transient unit: it changes when a unit does
UNIT_STATE = (RUNTIME / "systemd/units", RUNTIME / "systemd/transient")
CGROUP = f"/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
PATIENCE_S = 20.0

Done = subprocess.CompletedProcess[str]

# looopctl, with no instance to be had: the limit is one for all of a user's processes, in other machines too, so it
# is not really used up
WITHOUT_INOTIFY = ("/usr/bin/python3", "-c", f"""
import sys
sys.path.insert(0, "{HOME}/.local/lib/looop")
from inotify import calls
def used_up():
    raise calls.InotifyError("Call failed (should not be -1): (-1)")
calls.inotify_init = used_up
from looop.ctl import main
sys.exit(main(sys.argv[1:]))
""")  # fmt: skip


def command(
    *words: str, input: str | None = None, check: bool = True, timeout: float = 60, env: dict[str, str] | None = None
) -> Done:
    """Run a command to its end. With `check` a failure is an AssertionError that shows what it said."""
    stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    done = subprocess.run(
        words, capture_output=True, text=True, errors="replace", timeout=timeout,
        env={**os.environ, **(env or {})}, **stdin,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"{words} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def looopctl(
    *words: str, input: str | None = None, check: bool = True, timeout: float = 60, env: dict[str, str] | None = None
) -> Done:
    """The installed program."""
    return command(LOOOPCTL, *words, input=input, check=check, timeout=timeout, env=env)


def looopctl_json(*words: str) -> Any:
    """A verb's --json document."""
    return json.loads(looopctl(*words, "--json").stdout)


def systemctl(*words: str, check: bool = True) -> str:
    """`systemctl --user`; its output without the last newline."""
    return command("systemctl", "--user", *words, check=check).stdout.rstrip("\n")


def unit(name: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as `systemctl show` prints them."""
    shown = systemctl("show", name, f"--property={','.join(names)}")
    return dict(line.split("=", 1) for line in shown.splitlines())


def units(pattern: str = "*", *states: str) -> set[str]:
    """Loaded units by pattern; with states (active, failed, ...) only those."""
    chosen = [f"--state={','.join(states)}"] if states else ["--all"]
    lines = systemctl("list-units", "--plain", "--no-legend", "--full", *chosen, pattern).splitlines()
    return {line.split()[0] for line in lines}


def cgroup_pids(name: str) -> list[int]:
    """Processes of a unit of this user, of all its control groups. Empty when it has none."""
    group = unit(name, "ControlGroup")["ControlGroup"]
    if not group:
        return []
    found: list[int] = []
    for procs in Path(f"/sys/fs/cgroup{group}").rglob("cgroup.procs"):
        with contextlib.suppress(OSError):  # the group went away meanwhile
            found.extend(map(int, procs.read_text().split()))
    return found


def processes() -> dict[tuple[int, int], str]:
    """This user's living processes: (pid, start time) -> control group and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if folder.stat().st_uid != os.getuid():
                continue
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            group = (folder / "cgroup").read_text().strip().splitlines()[-1].split("::", 1)[1]
            line = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            if stat[0] != "Z":
                found[int(folder.name), int(stat[19])] = f"{group} {line}"
    return found


class Events:
    """The one place that waits. Watches the data directory, the runtime directory, units and the user's journal."""

    def __init__(self) -> None:
        shown = command("journalctl", "--user", "--lines=1", "--output=json", check=False).stdout.strip()
        after = [f"--after-cursor={json.loads(shown)['__CURSOR']}"] if shown else ["--no-tail"]
        self.lines: list[dict[str, Any]] = []
        self._rest = b""
        self._follower = subprocess.Popen(
            ["journalctl", "--user", "--follow", "--all", "--output=json", *after], stdout=subprocess.PIPE
        )
        assert self._follower.stdout is not None
        self._journal = self._follower.stdout.fileno()
        os.set_blocking(self._journal, False)
        self._fd = int(calls.inotify_init())
        os.set_blocking(self._fd, False)
        self._watched: dict[Path, int] = {}

    def close(self) -> None:
        os.close(self._fd)
        self._follower.kill()
        self._follower.communicate()

    def _watch(self) -> None:
        """(Re-)add every folder; inotify keeps one watch per inode, so adding twice is no harm."""
        mask = constants.IN_ALL_EVENTS & ~(constants.IN_ACCESS | constants.IN_OPEN | constants.IN_CLOSE_NOWRITE)
        tops = [DATA.parent, RUNTIME, RUNTIME / "systemd", *UNIT_STATE]
        trees = [DATA, RUNTIME / "looop", CONFIG]
        for folder in [*tops, *(Path(below) for tree in trees for below, _, _ in os.walk(tree))]:
            with contextlib.suppress(calls.InotifyError):  # not there (yet): its parent is watched
                calls.inotify_add_watch(self._fd, os.fsencode(folder), mask)

    def _take(self) -> None:
        """Everything that is readable now."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass
        with contextlib.suppress(BlockingIOError):
            while True:
                chunk = os.read(self._journal, 65536)
                assert chunk, f"journalctl --follow ended with {self._follower.wait(5)}: is an inotify instance left?"
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self.lines.extend(map(json.loads, lines))

    def wait_for(self, predicate: Callable[[], T], timeout: float = PATIENCE_S, what: str = "") -> T:
        """The first true value of `predicate`, looked at again whenever something has changed."""
        deadline = time.monotonic() + timeout
        while True:
            self._take()
            self._watch()
            if value := predicate():
                return value
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd, self._journal], [], [], left)[0]:
                raise AssertionError(f"waited {timeout:.0f} s in vain for {what or predicate}\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        """The end of this user's journal since the test began, for a person."""
        self._take()
        return "\n".join(
            f"{entry.get('SYSLOG_IDENTIFIER', '?')}: {entry.get('LOOOP_EVENT', '')} {entry.get('MESSAGE')}"
            for entry in self.lines[-lines:]
        )


class Journal:
    """This user's journal since the test began."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def find(self, **fields: str) -> list[dict[str, Any]]:
        """The entries so far whose fields have these values. A field of another type than text is shown as a list."""
        self.events._take()
        return [e for e in self.events.lines if all(str(e.get(key)) == value for key, value in fields.items())]

    def wait(self, event: str = "", count: int = 1, timeout: float = PATIENCE_S, **fields: str) -> dict[str, Any]:
        """The `count`-th entry with LOOOP_EVENT=event and these fields, waited for."""
        wanted = {**({"LOOOP_EVENT": event} if event else {}), **fields}
        found = self.events.wait_for(lambda: self.find(**wanted)[count - 1 : count], timeout, f"journal entry {wanted}")
        return found[0]


class Pulse:
    """looop.service and its folders, empty at the start of a test."""

    data = DATA
    service = "looop.service"

    def __init__(self, events: Events) -> None:
        self.events = events

    def configure(self, text: str) -> None:
        """Write looop.toml."""
        CONFIG.mkdir(parents=True, exist_ok=True)
        (CONFIG / "looop.toml").write_text(text)

    def sensor(self, name: str, script: str) -> None:
        """An executable sensor; `script` is bash."""
        path = self.data / "sensors" / f"{name}.sh"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f".{name}")
        new.write_text(f"#!/bin/bash\n{script}\n")
        new.chmod(0o755)
        new.rename(path)

    def start(self) -> None:
        systemctl("start", self.service)

    def stop(self) -> None:
        systemctl("stop", self.service)

    def restart(self) -> None:
        systemctl("restart", self.service)

    def kill(self, signal: str = "KILL") -> None:
        """Signal the main process only."""
        systemctl("kill", f"--signal={signal}", "--kill-whom=main", self.service)

    @property
    def pid(self) -> int:
        return int(unit(self.service, "MainPID")["MainPID"])

    @property
    def active(self) -> bool:
        return unit(self.service, "ActiveState")["ActiveState"] == "active"


def looop_leftovers() -> set[str]:
    """Workers and helpers that live."""
    names = units("looop-*", "active", "activating", "deactivating", "reloading")
    return {name for name in names if name.endswith((".scope", ".service"))}


def wipe() -> None:
    """Stop everything of looop, whatever state it is in, and forget all of it."""
    systemctl("stop", "looop*", check=False)
    systemctl("reset-failed", "looop*", check=False)  # also clears the start limit (systemctl(1))
    for drop_in in UNITS.glob("looop*.d"):
        shutil.rmtree(drop_in)
    for folder in (DATA, CONFIG, RUNTIME / "looop", *(RUNTIME / "systemd/user.control").glob("looop*.d")):
        shutil.rmtree(folder, ignore_errors=True)
    systemctl("daemon-reload")


@contextlib.contextmanager
def fresh_pulse(events: Events) -> Iterator[Pulse]:
    """A Pulse on empty folders. Afterwards a healthy one has to stop and leave nothing behind."""
    wipe()
    pulse = Pulse(events)
    try:
        yield pulse
        healthy = pulse.active
        if healthy:
            pulse.stop()
        left = looop_leftovers() if healthy else set()
    finally:
        wipe()
    assert not left, f"`systemctl --user stop looop` left {sorted(left)}"
