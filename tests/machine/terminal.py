"""A program on a pseudo-terminal, and the screen a person would see there."""

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import time

from looop.screens.screen import Screen

PATIENCE_S = 20.0
ENV = {"LOOOP_DEBUG": "1", "TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Tui:
    """A command on a terminal of its own, of this size."""

    def __init__(self, *words: str, rows: int = 24, cols: int = 80, env: dict[str, str] | None = None) -> None:
        self.master, self.slave = os.openpty()
        self.screen = Screen(rows, cols)
        self.raw = b""
        termios.tcsetwinsize(self.slave, (rows, cols))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            words, stdin=self.slave, stdout=self.slave, stderr=self.slave,
            env={**os.environ, **ENV, **(env or {})}, start_new_session=True, preexec_fn=take_terminal,
        )  # fmt: skip

    def take(self, timeout: float) -> bool:
        """Read what was drawn; False when nothing was in time."""
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        data = os.read(self.master, 65536)
        self.raw += data
        self.screen.feed(data)
        return True

    def until(self, *texts: str, without: str = "\0", patience: float = PATIENCE_S) -> str:
        """The screen as soon as all of these are on it, and that is not."""
        deadline = time.monotonic() + patience
        while True:
            shown = self.screen.plain(trim=False)
            if all(text in shown for text in texts) and without not in shown:
                return shown
            assert self.process.poll() is None or select.select([self.master], [], [], 0)[0], f"it has ended\n{shown}"
            assert self.take(deadline - time.monotonic()), f"waited in vain for {texts}\n{shown}"

    def line(self, start: str) -> str:
        """The line that starts with this."""
        return next(line for line in self.screen.plain().splitlines() if line.startswith(start))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, rows: int, cols: int) -> None:
        self.screen.resize(rows, cols)
        termios.tcsetwinsize(self.master, (rows, cols))

    def end(self) -> int:
        """Its exit code, once it has ended; what it wrote to the last has been read."""
        code = self.process.wait(timeout=PATIENCE_S)
        while self.take(0):
            pass
        return code

    def restored(self) -> bool:
        """Whether the terminal is as it was: settings, screen, cursor."""
        return termios.tcgetattr(self.slave) == self.before and not self.screen.alternate and not self.screen.cursor[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, struct.pack("i", 0))
