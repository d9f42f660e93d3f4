"""The shim: first process of a worker's scope. Owns the terminal, keeps the transcript, writes the exit record.

It outlives the pulse and must stay small: standard library and its own helpers in this package, no threads, no
asyncio. It waits on standard input until the launcher says that its scope exists; the command never runs outside that
scope, and never without a launcher that lived long enough to say so.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import termios
import time

from looop.sessions import cgroup, wire
from looop.sessions.transcript import INDEX, Index, JournalLines, Transcript

_IGNORED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
_DRAIN_S = 2.0  # most time given, after the worker's end, to output that a leftover process keeps producing
_CLIENT_S = 2.0  # a control client that has not sent its line by then is dropped
_CLIENTS_MAX = 32  # with a request that is not complete; one more ends the oldest of them
_HELD_MAX = 32  # that follow or type; they take no place from those that ask
_RECORD_BYTES = 4096
_INPUT_MAX = 65536  # typed and not yet taken by the terminal; whoever types more waits


class Control:
    """The control socket: never blocks the pump, whatever a client does or leaves undone."""

    def __init__(self, path: str, poll: "select.poll", worker: "Worker") -> None:
        self.path, self.poll, self.worker = path, poll, worker
        self.clients: dict[int, tuple[socket.socket, bytes, float]] = {}
        self.held: dict[int, socket.socket] = {}
        self.typing: dict[int, socket.socket] = {}
        self.paused: set[int] = set()  # of those that type: they wait for the terminal
        self.size = (worker.rows, worker.cols)  # before anybody typed
        self.listener: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            try:
                os.unlink(path)  # of an earlier generation; the unit's name says that we are alone
            except FileNotFoundError:
                pass
            self.listener.bind(path)
            os.chmod(path, 0o600)
            self.listener.listen(_CLIENTS_MAX)
            poll.register(self.listener, select.POLLIN)
        except OSError as error:
            print(f"cannot listen on {path}: {error}", file=sys.stderr, flush=True)
            self.listener.close()
            self.listener = None

    def accept(self) -> None:
        assert self.listener is not None
        try:
            client = self.listener.accept()[0]
        except OSError:
            return
        if len(self.clients) >= _CLIENTS_MAX:
            self._drop(next(iter(self.clients)))
        client.setblocking(False)
        self.clients[client.fileno()] = (client, b"", time.monotonic() + _CLIENT_S)
        self.poll.register(client, select.POLLIN)

    def receive(self, fd: int) -> None:
        """Answer when the line is complete."""
        if fd in self.held:
            self._drop(fd)
            return
        if fd in self.typing:
            self._type(fd)
            return
        client, data, deadline = self.clients[fd]
        try:
            more = client.recv(4096)
        except BlockingIOError:
            return  # the descriptor's number belonged to another client when it was ready
        except OSError:
            more = b""
        data += more
        if not more or len(data) > wire.LINE_MAX:
            self._drop(fd)
            return
        self.clients[fd] = (client, data, deadline)
        if b"\n" not in data:
            return
        line, _, rest = data.partition(b"\n")
        kept = self._answer(client, line)
        if kept is None:
            self._drop(fd)
            return
        del self.clients[fd]
        kept[fd] = client
        if kept is self.typing:
            self.worker.type(rest)

    def _type(self, fd: int) -> None:
        try:
            data = b"" if fd in self.paused else self.typing[fd].recv(4096)  # of a paused one only the end is reported
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.worker.type(data)
        else:
            self._drop(fd)

    def pace(self) -> None:
        """Listen to those that type only while there is room for it."""
        if len(self.worker.typed) < _INPUT_MAX:
            for fd in self.paused:
                self.poll.modify(fd, select.POLLIN)
            self.paused.clear()
        else:
            for fd in self.typing.keys() - self.paused:
                self.poll.modify(fd, 0)
                self.paused.add(fd)

    def _answer(self, client: socket.socket, line: bytes) -> dict[int, socket.socket] | None:
        """Where the client stays afterwards, if it does."""
        stays = None
        try:
            request = wire.decode(line)
            stays = {wire.FOLLOW: self.held, wire.TYPE: self.typing}.get(str(request.get("op")))
            if stays is not None and len(self.held) + len(self.typing) >= _HELD_MAX:
                reply = wire.failed(f"{_HELD_MAX} others follow it or type already")
            else:
                reply = self.worker.answer(request)
        except (ValueError, TypeError, OverflowError) as error:
            reply = wire.failed(f"bad request: {error}")
        try:
            client.send(wire.encode(reply))
        except OSError:
            return None
        if stays is self.typing and not self.typing:
            self.size = (self.worker.rows, self.worker.cols)
        return stays if reply["ok"] is True else None

    def _drop(self, fd: int) -> None:
        typed = self.typing.pop(fd, None)
        client = typed or self.held.pop(fd, None) or self.clients.pop(fd)[0]
        self.paused.discard(fd)
        self.poll.unregister(fd)
        client.close()
        if typed and not self.typing:
            self.worker.resize(*self.size)

    def nudge(self) -> None:
        """Tell followers to look; one that has not read the last nudge needs no other."""
        for fd, client in list(self.held.items()):
            try:
                client.send(b"\n")
            except BlockingIOError:
                pass
            except OSError:
                self._drop(fd)

    def expire(self) -> float | None:
        """Drop clients that took too long; seconds until the next one would."""
        now = time.monotonic()
        for fd in [fd for fd, (_, _, deadline) in self.clients.items() if deadline <= now]:
            self._drop(fd)
        return min((deadline - now for _, _, deadline in self.clients.values()), default=None)

    def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
            try:
                os.unlink(self.path)
            except OSError:
                pass


class Worker:
    """The command on its terminal, from start to exit record."""

    def __init__(self, job: dict[str, object], group: str) -> None:
        self.job = job
        self.folder = str(job["folder"])
        self.rows, self.cols = int(str(job["rows"])), int(str(job["cols"]))
        self.total = 0
        self.last_output = time.monotonic()
        os.chdir(str(job["cwd"]))
        self.transcript = Transcript(f"{self.folder}/output.log", int(str(job["transcript_max"])))
        self.index = Index(f"{self.folder}/{INDEX}", self.rows, self.cols, self.transcript.written)
        self.typed = bytearray()
        rate = int(str(job["journal_rate"]))
        self.lines = JournalLines(str(job["id"]), rate) if rate else None
        self.record = self._reserve_record()
        self.master, slave = os.openpty()
        # the slave stays open here: a worker that closes its terminal must not turn it into an endless end-of-file
        os.set_blocking(self.master, False)
        termios.tcsetwinsize(slave, (self.rows, self.cols))
        self.child = self._spawn(os.ttyname(slave))
        self.pidfd = os.pidfd_open(self.child)
        self.meter = cgroup.WorkMeter(group)
        self.group = group

    def _reserve_record(self) -> int:
        """Room for the exit record is taken now, so that a disk that is full by then cannot lose it."""
        fd = os.open(f"{self.folder}/.exit.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(fd, 0, _RECORD_BYTES)
        return fd

    def _spawn(self, terminal: str) -> int:
        """A session leader that opens a terminal takes it as its controlling one (tty_ioctl(4))."""
        return os.posix_spawn(
            "/bin/bash",
            ["/bin/bash", "-c", str(self.job["command"])],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsid=True,
            setsigdef=_IGNORED,
            setsigmask=(),
        )

    def pump(self, until_empty: bool = False) -> bool:
        """Move output to the transcript; False when there is none left just now."""
        for _ in range(1 if until_empty else 16):
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EAGAIN, after the kernel has flushed what was written before (n_tty_read)
                return False
            if not data:
                return False
            self.total += len(data)
            self.last_output = time.monotonic()
            self.index.output(data, self.transcript.written)
            self.transcript.write(data)
            if self.lines:
                self.lines.feed(data)
        return True

    def type(self, data: bytes) -> None:
        """Input for the command, in the order it came."""
        self.typed += data
        self.enter()

    def enter(self) -> None:
        """Hand on as much of it as the terminal takes now."""
        while self.typed:
            try:
                del self.typed[: os.write(self.master, self.typed[:4096])]
            except BlockingIOError:
                return
            except OSError:
                self.typed.clear()

    def drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while self.pump(until_empty=True) and time.monotonic() < deadline:
            pass
        if self.lines:
            self.lines.feed(b"\n")
            self.lines.note()

    def resize(self, rows: int, cols: int) -> None:
        """The terminal has this size from now on."""
        if (rows, cols) != (self.rows, self.cols):
            self.rows, self.cols = rows, cols
            self.index.resize(rows, cols, self.transcript.written)
            termios.tcsetwinsize(self.master, (rows, cols))

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        operation = request.get("op")
        if operation == wire.RESIZE:
            rows, cols = request.get("rows"), request.get("cols")
            if not (isinstance(rows, int) and isinstance(cols, int) and 0 < rows < 10000 and 0 < cols < 10000):
                return wire.failed("rows and cols must be whole numbers from 1 to 9999")
            self.resize(rows, cols)
        elif operation not in (wire.STATUS, wire.FOLLOW, wire.TYPE):
            return wire.failed(f"unknown op {operation!r}")
        return wire.done(
            id=self.job["id"],
            invocation=self.job["invocation"],
            pid=os.getpid(),
            child=self.child,
            bytes=self.total,
            rows=self.rows,
            cols=self.cols,
            idle_s=round(time.monotonic() - self.last_output, 3),
            cpu_idle_s=self.meter.idle(),
            **cgroup.usage(self.group),
        )

    def finish(self) -> None:
        """Reap the child, drain, then publish how it ended."""
        end = os.waitid(os.P_PID, self.child, os.WEXITED)
        assert end is not None
        self.drain()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip().replace("-", "")
        exited = end.si_code == os.CLD_EXITED
        record = {
            "v": 1,
            "id": self.job["id"],
            "invocation": self.job["invocation"],
            "code": end.si_status if exited else None,
            "signal": None if exited else end.si_status,
            "ended": {"wall": round(time.time(), 3), "boot": boot, "mono": time.clock_gettime(time.CLOCK_BOOTTIME)},
            "bytes": self.total,
            "lost": self.transcript.lost,
            "cpu_s": cgroup.processor_time(self.group),
            "memory_peak": cgroup.group_number(self.group, "memory.peak"),
        }
        data = json.dumps(record).encode() + b"\n"
        os.pwrite(self.record, data, 0)
        os.ftruncate(self.record, len(data))
        os.fsync(self.record)
        os.rename(f"{self.folder}/.exit.tmp", f"{self.folder}/exit.json")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)


def end_scope(unit: str, group: str) -> None:
    """Nothing of a worker outlives it: if others are left in the scope, systemd stops it, or the kernel kills it."""
    for root in cgroup.ROOTS:
        try:
            with open(f"{root}{group}/cgroup.procs", encoding="ascii") as file:
                if file.read().split() in ([], [str(os.getpid())]):
                    return
        except OSError:
            continue
        if not _systemd_stops(unit):
            with open(f"{root}{group}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        return


def _systemd_stops(unit: str) -> bool:
    command = ["systemctl", "--user", "--no-block", "stop", unit]
    try:
        pid = os.posix_spawn("/usr/bin/systemctl", command, os.environ, setsigdef=_IGNORED)
    except OSError:
        return False
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], 5.0)[0]:
        return False
    end = os.waitid(os.P_PID, pid, os.WEXITED)
    return end is not None and end.si_code == os.CLD_EXITED and end.si_status == 0


def supervise(worker: Worker, control: Control, poll: "select.poll") -> None:
    """Until the command ends."""
    poll.register(worker.master, select.POLLIN)
    poll.register(worker.pidfd, select.POLLIN)
    while True:
        waits = [control.expire(), worker.lines.settle() if worker.lines else None]
        left = min((wait for wait in waits if wait is not None), default=None)
        poll.modify(worker.master, select.POLLIN | (select.POLLOUT if worker.typed else 0))
        ready = dict(poll.poll(None if left is None else left * 1000 + 1))
        if ready.get(worker.master, 0) & ~select.POLLOUT:
            worker.pump()
            control.nudge()
        if worker.pidfd in ready:
            return
        if ready.get(worker.master, 0) & select.POLLOUT:
            worker.enter()
        size = (worker.rows, worker.cols)
        for fd in ready:
            if fd in control.clients or fd in control.held or fd in control.typing:
                control.receive(fd)
            elif control.listener is not None and fd == control.listener.fileno():
                control.accept()
        if size != (worker.rows, worker.cols):
            control.nudge()
        control.pace()


def wait_for_go() -> dict[str, object] | None:
    """The launcher's line; None when the launcher went away instead."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            return None
        data += more
    return wire.decode(data)


def tell_launcher(message: dict[str, object]) -> None:
    """Standard input is a socket until here, /dev/null from now on. The launcher may be gone: the worker stays."""
    try:
        os.write(0, wire.encode(message))
    except OSError:
        pass
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)


def main() -> int:
    os.umask(0o022)
    job = wait_for_go()
    if job is None:
        return 111
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    unit = str(job["unit"])
    poll = select.poll()
    try:
        group = cgroup.own_group(unit)
        if not group:
            raise OSError(errno.EPERM, f"this process is not in {unit}")
        worker = Worker(job, group)
    except (OSError, ImportError) as error:
        tell_launcher(wire.failed(str(error)))
        return 1
    control = Control(str(job["control"]), poll, worker)
    tell_launcher(wire.done(pid=os.getpid(), child=worker.child))
    supervise(worker, control, poll)
    try:
        worker.finish()
    except OSError as error:
        print(f"cannot write the exit record: {error}", file=sys.stderr, flush=True)
    control.close()
    end_scope(unit, group)
    return 0
