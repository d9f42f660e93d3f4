"""Run one script as a transient service: bounded, confined, and nothing of its control group outlives it.

Every decider, shell move and verify command runs this way. Confinement guards against accidents, not against
hostile code: inside it is still the same user. Used by the pulse, and by looopctl for `run` and `doctor`.
"""

import contextlib
import json
import os
import signal as signals
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd.bus import BusError
from looop.systemd.live import Live
from looop.systemd.manager import usec

_STOP_S = 5.0  # between SIGTERM and SIGKILL
_MARGIN_S = 15.0  # for systemd to see a deadline through: stop, kill, collect
_CLD_EXITED = 1  # ExecMainCode, as si_code of waitid(2)
_CANNOT = {  # systemd.exec(5), "Process Exit Codes"
    200: "no such working directory",
    208: "standard input cannot be opened",
    209: "standard output cannot be opened",
    217: "this host cannot confine it: no user namespaces",
    226: "this host cannot confine it, or a path is missing",
}
_TOO_LARGE = "wrote a file larger than allowed"


@dataclass(frozen=True)
class Confinement:
    """What a command may do. `bus` lets it reach systemd, and through it start anything, unconfined."""

    read_only: bool = True
    write_paths: tuple[str, ...] = ()
    bus: bool = False
    network: bool = True
    private_tmp: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a command ended: systemd's Result, and the exit code or the signal of its main process."""

    result: str
    code: int | None = None
    signal: int | None = None
    cpu_s: float | None = None
    memory_peak: int | None = None  # bytes; from systemd 255 on

    @property
    def ok(self) -> bool:
        return self.result == "success" and self.code == 0

    @property
    def timed_out(self) -> bool:
        return self.result == "timeout"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "how": self.text()}

    def text(self) -> str:
        """The cause as a predicate: "exited 3", "was killed by SIGKILL", "timed out"."""
        if self.timed_out:
            return "timed out"
        if self.result == "oom-kill":
            return "was killed because memory ran out (oom-kill)"
        if self.result == "canceled":
            return "was stopped from outside"
        if self.signal is not None:
            by = f"was killed by {_signal_name(self.signal)}"
            return f"{by} ({_TOO_LARGE})" if self.signal == signals.SIGXFSZ else by
        if self.code is None:
            return f"ended as {self.result!r}"
        why = _CANNOT.get(self.code, _TOO_LARGE if self.code == 128 + signals.SIGXFSZ else "")
        return f"exited {self.code}" + (f" ({why})" if why else "")


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hidden() -> list[str]:
    """Ways to the managers. The bus alone is not enough: systemctl(1) talks to systemd/private when it can."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return [f"-{runtime}/bus", f"-{runtime}/systemd"]  # absolute: specifiers do not expand over D-Bus


def _confined(confine: Confinement, needed: tuple[Path, ...]) -> dict[str, Any]:
    """Properties of a confined service. `needed` are folders it must see even where /tmp is its own."""
    properties: dict[str, Any] = {
        "PrivateUsers": True,  # without it systemd 252's user manager ignores all the others silently
        "NoNewPrivileges": True,
        "PrivateTmp": confine.private_tmp,
        "PrivateNetwork": not confine.network,
    }
    writable = set(confine.write_paths)
    if confine.private_tmp:
        # a folder under /tmp exists inside only when it is mounted there; one that is also in ReadWritePaths= is not
        bound = {path for path in confine.write_paths if _in_tmp(path)}
        seen = {str(path) for path in needed if _in_tmp(str(path))} - bound
        if not confine.read_only:
            bound, seen = bound | seen, set()
        for name, paths in (("BindPaths", bound), ("BindReadOnlyPaths", seen)):
            if paths:  # an empty list of either clears both
                properties[name] = [(path, path, True, 0) for path in sorted(paths)]
        writable -= bound
    if confine.read_only:
        # strict does not cover /home, /root and /run/user: ProtectHome does
        properties |= {"ProtectSystem": "strict", "ProtectHome": "read-only"}
        properties["ReadWritePaths"] = [f"-{path}" for path in sorted(writable)]
    if not confine.bus:
        properties["InaccessiblePaths"] = _hidden()
    return properties


def _in_tmp(path: str) -> bool:
    return path.startswith(("/tmp/", "/var/tmp/"))


async def run(
    live: Live, unit: str, script: Path, *, cwd: Path, stdin: Path | None = None, stdout: Path,
    stderr: Path | None = None, env: Mapping[str, str], timeout: float, slice: str = "looop-helper.slice",
    confine: Confinement | None, output_max: int, description: str = "",
) -> Outcome:  # fmt: skip
    """Run `/bin/bash SCRIPT` as `unit` and wait. Cancelling stops the unit. Raises Refused, TimedOut or Unavailable.

    The output goes to files, `stderr` to where `stdout` goes unless given. `output_max` is the size past which no
    file the command writes may grow (RLIMIT_FSIZE; SIGXFSZ, or EFBIG where that is ignored); 0 is no bound.
    """
    properties: dict[str, Any] = {
        "Type": "oneshot",
        "AddRef": True,  # keeps the unit until its outcome is read
        "CollectMode": "inactive-or-failed",
        "Description": description or unit,
        "Slice": slice,
        # a file, not an argument: systemd expands $ in arguments
        "ExecStart": [("/bin/bash", ["/bin/bash", str(script)], False)],
        "WorkingDirectory": str(cwd),
        "Environment": [f"{name}={value}" for name, value in env.items()],
        "StandardOutputFileToTruncate": str(stdout),
        "TimeoutStartUSec": usec(timeout),
        "TimeoutStopUSec": usec(_STOP_S),
        "KillMode": "control-group",
        "UMask": 0o077,
        "LimitCORE": 0,
    }
    if stdin is not None:
        properties["StandardInputFile"] = str(stdin)
    if stderr is not None:
        properties["StandardErrorFileToTruncate"] = str(stderr)
    else:
        properties["StandardError"] = "inherit"
    if output_max:
        properties["LimitFSIZE"] = output_max
    if confine is not None:
        properties |= _confined(confine, (cwd, script.parent))
    return await _outcome(live, unit, properties, timeout)


async def _outcome(live: Live, unit: str, properties: Mapping[str, Any], timeout: float) -> Outcome:
    job = live.start_transient(unit, properties)
    ended = False
    try:
        how = await live.run_job(job, unit, timeout + _STOP_S + _MARGIN_S)
        if how not in ("done", "failed", "timeout"):  # stopped by somebody else: wait for that to be over
            with contextlib.suppress(LooopError):
                await live.run_job(live.stop(unit), unit, _STOP_S + _MARGIN_S)
            ended = True
            return Outcome("canceled")
        ended = True
        return _read(live, unit, timeout)
    finally:
        with contextlib.suppress(LooopError):
            if not ended:
                live.stop(unit)
            live.unref(unit)


def _read(live: Live, unit: str, timeout: float) -> Outcome:
    result = str(live.get(unit, "Service", "Result", "s"))
    code = int(live.get(unit, "Service", "ExecMainCode", "i"))
    status = int(live.get(unit, "Service", "ExecMainStatus", "i"))
    nanoseconds = int(live.get(unit, "Service", "CPUUsageNSec", "t"))
    cpu_s = None if nanoseconds == 2**64 - 1 else nanoseconds / 1e9
    peak = _memory_peak(live, unit)
    if code != _CLD_EXITED:
        return Outcome(result, None, status if code else None, cpu_s, peak)
    if result == "timeout":
        # "timeout" as well when the command ended in time and only what it left behind had to be killed
        began = int(live.get(unit, "Service", "ExecMainStartTimestampMonotonic", "t"))
        end = int(live.get(unit, "Service", "ExecMainExitTimestampMonotonic", "t"))
        if end - began < usec(timeout):
            result = "exit-code" if status else "success"
    return Outcome(result, status, None, cpu_s, peak)


def _memory_peak(live: Live, unit: str) -> int | None:
    """None where systemd is older, or the kernel does not count."""
    try:
        found = int(live.get(unit, "Service", "MemoryPeak", "t"))
    except BusError:
        return None
    return found if 0 < found < 2**64 - 1 else None


# Prints what it can do that it should not be able to. Names are those of `measure`, true when confined.
_PROBE = """
import json, os, socket, tempfile
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
def write(folder):
    fd, name = tempfile.mkstemp(prefix=".looop-probe-", dir=folder)
    os.close(fd)
    os.unlink(name)
home, runtime, marker, work = {arguments!r}
print(json.dumps({{
    "user_namespace": open("/proc/self/uid_map").read().split()[2] != str(2 ** 32 - 1),
    "home_read_only": refused(lambda: write(home)),
    "work_writable": not refused(lambda: write(work)),
    "private_tmp": not os.path.exists(marker),
    "bus_hidden": refused(lambda: connect(runtime + "/bus")),
    "manager_hidden": refused(lambda: connect(runtime + "/systemd/private")),
    "no_new_privileges": "NoNewPrivs:\\t1" in open("/proc/self/status").read(),
}}))
"""
PROMISES = (
    "user_namespace", "home_read_only", "work_writable", "private_tmp", "bus_hidden", "manager_hidden",
    "no_new_privileges",
)  # fmt: skip


async def measure(live: Live, paths: Paths) -> dict[str, bool]:
    """What confinement really holds on this host, by running a probe in it: every promise with whether it is kept.

    All are False where the probe cannot even start, as without unprivileged user namespaces: what cannot be
    confined must not run. Raises Refused, TimedOut, Unavailable or OSError when nothing was learned.
    """
    import tempfile

    paths.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=paths.runtime) as name, tempfile.NamedTemporaryFile() as mark:
        work = Path(name)
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        (work / "probe.py").write_text(_PROBE.format(arguments=(os.path.expanduser("~"), runtime, mark.name, name)))
        (work / "probe.sh").write_text(f"exec {sys.executable} -IS {work}/probe.py\n")
        outcome = await run(
            live, f"looop-probe-{os.getpid()}-{work.name[-8:]}.service", work / "probe.sh", cwd=work,
            stdout=work / "output", env={}, timeout=20, confine=Confinement(write_paths=(name,)),
            output_max=1 << 16, description="looop measures its confinement",
        )  # fmt: skip
        if not outcome.ok:
            return dict.fromkeys(PROMISES, False)
        found = json.loads((work / "output").read_text())
        return {promise: bool(found[promise]) for promise in PROMISES}
