"""`looopctl attach`: a terminal on a worker. Its screen is painted here as it changes; with --write keys go to it.

The transcript is read and drawn, and never passed on: see `view`. This terminal is given back as it was on every
way out: detached, the session's end, SIGTERM, SIGHUP, an error.
"""

import argparse
import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any

from looop.ctl.command import Command, Context, Parser, complete
from looop.errors import LooopError, Refused, UsageError

_NOTICE_S = 4.0
_TYPED_MAX = 1 << 16
_STEP = 1 << 18  # of a flood; then keys are looked at
_ABOUT = """\
The worker's screen is drawn here as it changes, at the size it has; of a larger one the part with the cursor is shown.
What the worker prints is never passed on as it is: it cannot set this terminal's title, reach its clipboard or make it
send anything. Without --write no key but the detach key does anything. With --write every key goes to the worker, whose
terminal has the size of the one that was typed at last, and its own again afterwards; journal.md says so."""


def _configure(parser: Parser) -> None:
    parser.description, parser.formatter_class = _ABOUT, argparse.RawDescriptionHelpFormatter
    complete(parser.add_argument("id", metavar="WORKER", help="the worker"), "@workers")
    parser.add_argument("--write", action="store_true", help="let keys through to the worker; this is journaled")
    parser.add_argument("--detach-key", metavar="KEY", default="^]", help="as ^X, Ctrl-X or one character (Ctrl-])")


def _run(args: argparse.Namespace, context: Context) -> int:
    from looop import clock
    from looop.sessions import fleet

    key = detach_key(args.detach_key)
    if not context.paths.session(args.id).is_dir():
        raise Refused(f"cannot attach to {args.id}: there is no such session")
    if not (os.isatty(0) and os.isatty(1)) or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            f"cannot attach to {args.id}: this is not a terminal that can show it",
            hint=f"`looopctl log -f {args.id}` follows its output, `looopctl screenshot {args.id}` shows its screen",
        )
    with contextlib.ExitStack() as stack:
        shim = stack.enter_context(_connect(context, args.id, "follow"))
        typing = stack.enter_context(_connect(context, args.id, "type")) if args.write else None
        if args.write:
            _record(context, args.id)
        mode = "keys go to the worker" if args.write else "read-only"
        print(f"looopctl: attached to {args.id}, {mode}; {shown_key(key)} detaches", file=sys.stderr, flush=True)
        code = _Attachment(context, args.id, shim, typing, key).run()
    if code == 0:
        print(f"looopctl: detached from {args.id}", file=sys.stderr)
    elif code < 0:
        session = fleet.last(context.paths, args.id, clock.now())
        print(f"looopctl: {args.id} has ended: {fleet.how_ended(session)}", file=sys.stderr)
    return max(0, code)


def detach_key(text: str) -> bytes:
    """The byte a key sends. Raises UsageError."""
    found = re.fullmatch(r"(?i)(?:\^|ctrl-)([@-_a-z?])", text)
    if found:
        return b"\x7f" if found[1] == "?" else bytes([ord(found[1].upper()) & 0x1F])
    if len(text) == 1 and " " < text <= "~":
        return text.encode()
    raise UsageError(f"cannot use detach key {text!r}: expected ^X, Ctrl-X or one character")


def shown_key(key: bytes) -> str:
    """As a person would write it."""
    return f"Ctrl-{chr(key[0] ^ 0x40)}" if key < b" " or key == b"\x7f" else key.decode()


def _connect(context: Context, worker_id: str, op: str) -> socket.socket:
    from looop.sessions import control

    try:
        return control.hold(context.paths, worker_id, op)
    except OSError as error:
        raise Refused(
            f"cannot attach to {worker_id}: it has ended",
            hint=f"`looopctl screenshot {worker_id}` shows its last screen",
        ) from error


def _record(context: Context, worker_id: str) -> None:
    from looop import audit, clock
    from looop.systemd import journal

    where = os.ttyname(0)
    audit.line(context.paths, context.config, f"attached {worker_id} for writing, from {where}", "", clock.now())
    journal.emit("attached", session=worker_id, text=f"{worker_id}, from {where}")


class _Attachment:
    """One attachment, from the first picture to the terminal as it was."""

    def __init__(
        self, context: Context, worker_id: str, shim: socket.socket, typing: socket.socket | None, key: bytes
    ) -> None:
        from looop.ctl.attach_view import View
        from looop.screens.screen import Follower

        self.context, self.id, self.key = context, worker_id, key
        self.shim, self.typing = shim, typing
        self.follower = Follower(context.paths, worker_id)
        size = os.get_terminal_size(1)
        self.view = View(size.lines, size.columns, typing is not None)
        self.typed = bytearray()
        self.told = False
        self.notice, self.until = "", 0.0

    def run(self) -> int:
        """0 when detached, 128 + n on a signal, -1 when the session is over."""
        for link in (self.shim, self.typing):
            if link is not None:
                link.setblocking(False)
        with _signals() as (wakeup, caught), _own_terminal():
            try:
                self._take_size()
                self.follower.advance(_STEP)
                clipped = f"; {self._sizes()}" if self.view.clipped(self.follower.screen) else ""
                self._say(f"{shown_key(self.key)} detaches; {'writing' if self.typing else 'read-only'}{clipped}")
                return self._loop(wakeup, caught)
            except OSError:
                return 128 + signal.SIGHUP  # this terminal is gone: the links and files have errors of their own

    def _loop(self, wakeup: int, caught: list[int]) -> int:
        while True:
            self._paint()
            ready = self._wait(wakeup)
            if wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, 4096)
                ends = [number for number in caught if number != signal.SIGWINCH]
                if ends:
                    return 128 + ends[0]
                caught.clear()
                self._resized()
            if 0 in ready and self._keys():
                return 0
            if self.typed:
                self._send()
            if self.shim.fileno() in ready and self._over():
                self.follower.advance()
                self._paint()
                return -1
            self.follower.advance(_STEP)

    def _wait(self, wakeup: int) -> set[int]:
        poll = select.poll()
        for fd in (0, wakeup, self.shim.fileno()):
            poll.register(fd, select.POLLIN)
        if self.typing and self.typed:
            poll.register(self.typing, select.POLLOUT)
        left = max(0.0, self.until - time.monotonic()) if self.notice else None
        left = 0.0 if self.follower.behind else left
        ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000 + 1)}
        if self.notice and time.monotonic() >= self.until:
            self.notice = ""
        return ready

    def _paint(self) -> None:
        _write(self.view.paint(self.follower.screen, self.notice))

    def _say(self, text: str) -> None:
        self.notice, self.until = text, time.monotonic() + _NOTICE_S

    def _sizes(self) -> str:
        screen = self.follower.screen
        return f"{self.view.rows}x{self.view.cols} of {screen.rows}x{screen.cols} shown"

    def _over(self) -> bool:
        """Take the shim's nudges; True when it has hung up."""
        try:
            while data := self.shim.recv(65536):
                if len(data) < 65536:
                    return False
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    # -- keys

    def _keys(self) -> bool:
        """Take what was typed; True when this terminal is to be given back."""
        try:
            data = os.read(0, 4096)
        except OSError:
            return True
        keys, key, _ = data.partition(self.key)
        if self.typing is None:
            if keys and not self.told:
                self.told = True
                self._say(f"read-only, keys do nothing; {shown_key(self.key)} detaches, attach --write types")
        elif len(self.typed) + len(keys) <= _TYPED_MAX:
            self.typed += keys
            if keys and (self.follower.screen.rows, self.follower.screen.cols) != (self.view.rows, self.view.cols):
                self._take_size()  # somebody else who types had it
        else:
            self._say("the worker takes no input: keys are lost")
        self._send()
        return bool(key) or not data

    def _send(self) -> None:
        if self.typing is None or not self.typed:
            return
        try:
            del self.typed[: self.typing.send(self.typed)]
        except BlockingIOError:
            pass
        except OSError:
            self.typed.clear()  # the session is over, as the other connection is about to say

    # -- size

    def _resized(self) -> None:
        size = os.get_terminal_size(1)
        self.view.resize(size.lines, size.columns)
        self._take_size()

    def _take_size(self) -> None:
        """With --write the worker's terminal is as large as this one; the shim gives it its size back."""
        from looop.sessions import control, wire

        if self.typing is not None:
            wanted = {"rows": self.view.rows, "cols": self.view.cols}
            with contextlib.suppress(LooopError):
                asyncio.run(control.query(self.context.paths, self.id, wire.RESIZE, **wanted))


def _write(text: str) -> None:
    data = text.encode()
    while data:
        try:
            data = data[os.write(1, data) :]
        except BlockingIOError:
            select.select([], [1], [])


@contextlib.contextmanager
def _own_terminal() -> Iterator[None]:
    """Keys one by one and unchanged, a screen of our own; everything as it was afterwards."""
    from looop.ctl.attach_view import ENTER, LEAVE

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        _write(ENTER)
        yield
    finally:
        try:
            with contextlib.suppress(OSError):
                _write(LEAVE)
        finally:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, list[int]]]:
    """Signals as something to poll for: a descriptor that is readable then, and the numbers that came."""
    caught: list[int] = []
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    numbers = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before: dict[signal.Signals, Any] = {number: signal.signal(number, note) for number in numbers}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    old = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours.fileno(), caught
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


command = Command(_configure, _run)
