"""Run the human's notification hooks: all at once, each with its own deadline, none able to hold up another.

Each is a session of its own, ended with all it started when its time is up; what leaves that session ends with the
control group of looop-notify@.service, which runs this. Output is read to its end and kept in part only, so a
hook that floods costs its own time and no memory. Standard library only.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KEPT = 2048  # bytes of the beginning, and of the end, of what a hook prints
_CHUNK = 65536


@dataclass(frozen=True)
class Result:
    """How a hook ended: `error` is "" when well, else a predicate such as "exited 1: no such host"."""

    error: str
    output: str
    seconds: float


class Kept:
    """The first and the last bytes of a stream of any length."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        room = KEPT - len(self.head)
        self.head, data = self.head + data[:room], data[room:]
        self.tail = (self.tail + data)[-KEPT:]

    def text(self) -> str:
        left_out = self.size - len(self.head) - len(self.tail)
        gap = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
        return (self.head + gap + self.tail).decode(errors="replace")


class _Run:
    """One hook that runs."""

    def __init__(self, hook: str, stdin: int, env: Mapping[str, str], cwd: Path, limit: float) -> None:
        self.hook = hook
        self.limit = limit
        self.began = time.monotonic()
        self.deadline = self.began + limit
        self.timed_out = False
        self.kept = Kept()
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", hook], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(env), cwd=cwd, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.out = self.process.stdout.fileno()
        os.set_blocking(self.out, False)
        self.pidfd = os.pidfd_open(self.process.pid)

    def read(self) -> bool:
        """Take what is there; False at its end."""
        try:
            data = os.read(self.out, _CHUNK)
        except BlockingIOError:
            return True
        self.kept.add(data)
        return bool(data)

    def kill(self) -> None:
        """The whole session's group; the hook is not reaped yet, so the number is still its own."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def finish(self) -> Result:
        """Reap it. Its background children end with it."""
        self.kill()
        self.read()
        code = self.process.wait()
        os.close(self.pidfd)
        assert self.process.stdout is not None
        self.process.stdout.close()
        output = self.kept.text()
        return Result(self._error(code, output), output, time.monotonic() - self.began)

    def _error(self, code: int, output: str) -> str:
        if self.timed_out:
            how = f"did not end within {self.limit:g} s"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name if -code in set(signal.Signals) else -code}"
        elif code:
            how = f"exited {code}"
        else:
            return ""
        last = output.strip().rpartition("\n")[2].strip()[:200]
        return f"{how}: {last}" if last else how


def run(hooks: Sequence[str], given: bytes, env: Mapping[str, str], cwd: Path, timeout: float) -> dict[str, Result]:
    """Run the hooks, `given` on the standard input of each, and wait for all. Never raises for what a hook does."""
    results: dict[str, Result] = {}
    running: dict[int, _Run] = {}
    poll = select.poll()
    for hook in hooks:
        stdin = os.memfd_create("notification")
        try:
            os.write(stdin, given)
            os.lseek(stdin, 0, os.SEEK_SET)
            started = _Run(hook, stdin, env, cwd, timeout)
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            results[hook] = Result(f"cannot be started: {getattr(error, 'strerror', error)}", "", 0.0)
            continue
        finally:
            os.close(stdin)
        for fd in (started.out, started.pidfd):
            running[fd] = started
            poll.register(fd, select.POLLIN)
    while running:
        next_deadline = min((each.deadline for each in running.values() if not each.timed_out), default=None)
        left = None if next_deadline is None else max(0.0, (next_deadline - time.monotonic()) * 1000 + 1)
        for fd, _ in poll.poll(left):
            _handle(fd, running, poll, results)
        for each in set(running.values()):
            if not each.timed_out and time.monotonic() >= each.deadline:
                each.timed_out = True
                each.kill()
    return results


def _handle(fd: int, running: dict[int, _Run], poll: "select.poll", results: dict[str, Result]) -> None:
    each = running.get(fd)
    if each is None:
        return  # ended in this very round
    if fd == each.out:
        if not each.read():
            del running[fd]
            poll.unregister(fd)
        return
    for one in (each.out, each.pidfd):
        if running.pop(one, None):
            poll.unregister(one)
    results[each.hook] = each.finish()
