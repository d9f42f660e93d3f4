"""Run the sensors of one beat side by side, each within its bounds, and write down what they printed.

Process: looop-sense.service, a sandboxed oneshot the pulse restarts in every beat that has sensors due. Start-up
time is paid every minute, hence a handful of standard library modules and nothing of ours. It judges nothing and
publishes nothing: one line of JSON per finished sensor goes to TOKEN.jsonl, so that what is done is not lost when
the unit is stopped. What a sensor leaves running outside its process group ends with the unit's control group.
"""

import binascii
import errno
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing for it would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

STDERR_KEPT = 1024
CHUNK = 65536


class Run:
    """One running sensor: first process of its own session, watched through a pidfd."""

    def __init__(self, name: str, path: str, timeout: float, cap: int, env: "Mapping[str, str]") -> None:
        self.name = name
        self.cap = cap
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.timed_out = False
        self.too_large = False
        self.started = time.monotonic()
        self.deadline = self.started + timeout if timeout else float("inf")
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ]
        # Python ignores these two and an ignored signal stays so across execve(2)
        default = [signal.SIGPIPE, signal.SIGXFSZ]
        try:
            self.pid = os.posix_spawn(path, [path], env, file_actions=actions, setsid=True, setsigdef=default)
        except OSError:
            os.close(self.out)
            os.close(self.err)
            raise
        finally:
            os.close(out)
            os.close(err)
        self.pidfd = os.pidfd_open(self.pid)
        for fd in (self.out, self.err):
            os.set_blocking(fd, False)

    def read(self, fd: int) -> bool:
        """Take what is there; False at the end of file or when nothing more is wanted."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        if fd == self.err:
            self.stderr += data
            del self.stderr[:-STDERR_KEPT]
        else:
            self.stdout += data
            if len(self.stdout) > self.cap:
                self.too_large = True
                self.stdout.clear()
                self.kill()
        return bool(data) and not (fd == self.out and self.too_large)

    def kill(self) -> None:
        """Kill the process group; the sensor is not reaped yet, so the number is still its own."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def finish(self) -> "dict[str, Any]":
        """Reap the sensor, which has ended, and everything in its group.

        One read takes all that is in a pipe (64 KiB, pipe(7)), so a background child that keeps writing is not
        waited for.
        """
        secs = time.monotonic() - self.started
        self.kill()
        if not self.too_large:
            self.read(self.out)
        self.read(self.err)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for fd in (self.pidfd, self.out, self.err):
            os.close(fd)
        return {
            "name": self.name,
            "code": status if status >= 0 else None,
            "signal": -status if status < 0 else None,
            "timed_out": self.timed_out,
            "too_large": self.too_large,
            "stdout": binascii.b2a_base64(self.stdout, newline=False).decode(),
            "stderr": self.stderr.decode(errors="replace").strip(),
            "secs": round(secs, 3),
        }


def spawn_error(path: str, error: OSError) -> str:
    """Why the script could not be started, and what to do about it (execve(2))."""
    if error.errno == errno.EACCES:
        return f"not executable: chmod +x {path}"
    if error.errno == errno.ENOEXEC:
        return "its first line must name an interpreter, such as #!/bin/bash"
    if error.errno == errno.ENOENT and os.path.exists(path):
        with open(path, "rb") as file:
            first = file.readline(128).rstrip(b"\n").decode(errors="replace")
        return f"the interpreter its first line names is not there: {first!r}"
    return error.strerror or str(error)


class Runner:
    """Starts at most `parallel` sensors at once and hands each result to the file as it comes."""

    def __init__(self, job: "dict[str, Any]", results: int) -> None:
        self.waiting = list(reversed(job["sensors"]))
        self.timeout = float(job["timeout"])
        self.cap = int(job["max_bytes"])
        self.parallel = max(1, int(job["parallel"]))
        self.env = job["env"]
        self.results = results
        self.running: dict[int, Run] = {}  # by each of a run's descriptors
        self.poll = select.poll()

    def write(self, result: "dict[str, Any]") -> None:
        os.write(self.results, json.dumps(result).encode() + b"\n")

    def start(self, name: str, path: str) -> None:
        try:
            run = Run(name, path, self.timeout, self.cap, self.env)
        except OSError as error:
            self.write({"name": name, "error": spawn_error(path, error)})
            return
        for fd in (run.pidfd, run.out, run.err):
            self.running[fd] = run
            self.poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        if self.running.pop(fd, None):
            self.poll.unregister(fd)

    def handle(self, fd: int) -> None:
        run = self.running.get(fd)
        if run is None:
            return  # ended in this very round
        if fd != run.pidfd:
            if not run.read(fd):
                self.forget(fd)
            return
        for each in (run.pidfd, run.out, run.err):
            self.forget(each)
        self.write(run.finish())

    def run(self) -> None:
        """Until every sensor has a result."""
        while self.waiting or self.running:
            while self.waiting and len(set(self.running.values())) < self.parallel:
                sensor = self.waiting.pop()
                self.start(sensor["name"], sensor["path"])
            if not self.running:
                continue
            left = min(run.deadline for run in self.running.values()) - time.monotonic()
            for fd, _ in self.poll.poll(None if left == float("inf") else max(0, left * 1000 + 1)):
                self.handle(fd)
            for run in set(self.running.values()):
                if time.monotonic() >= run.deadline:
                    run.timed_out = True
                    run.deadline = float("inf")
                    run.kill()


def folder() -> str:
    """%t/looop/sense, as the unit sees it."""
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "looop", "sense")


def main(arguments: "list[str] | None" = None) -> int:
    """Take the job (once: a second start finds none), do it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    here = arguments[0] if arguments else folder()
    path = os.path.join(here, "job.json")
    try:
        with open(path, "rb") as file:
            job = json.load(file)
        os.unlink(path)
    except FileNotFoundError:
        print(f"nothing to do: {path} is written by the pulse, which then starts this", file=sys.stderr)
        return 0
    token = os.path.basename(job["token"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    results = os.open(os.path.join(here, f"{token}.jsonl"), flags, 0o600)
    os.chdir(job["cwd"])
    Runner(job, results).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
