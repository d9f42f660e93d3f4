"""`looopctl log`: a worker's transcript, as text or raw, and followed to the session's end."""

import argparse
import os
import re
import socket
import sys
from pathlib import Path

from looop.ctl.command import Command, Context, Parser
from looop.errors import Refused

_DROPPED = re.compile(rb"\[looop: (\d+) earlier bytes dropped\]\n")


def _configure(parser: Parser) -> None:
    parser.add_argument("id", metavar="SESSION")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the session ends")
    parser.add_argument("--raw", action="store_true", help="every byte as the terminal got it")


def _run(args: argparse.Namespace, context: Context) -> int:
    folder = context.paths.session(args.id)
    if not folder.is_dir():
        raise Refused(f"cannot show the log of {args.id}: there is no such session")
    reader = _Reader(folder / "output.log", args.raw)
    if args.follow:
        _follow(reader, context, args.id)
    reader.copy(last=True)
    return 0


class _Reader:
    """Copies what is new to standard output. Its place is counted in bytes of the whole stream, because a transcript
    that grew too long is replaced by its newer half, whose first line says how much is missing."""

    def __init__(self, path: Path, raw: bool) -> None:
        self.path, self.raw = path, raw
        self.place = 0
        self.partial = b""

    def copy(self, last: bool = False) -> None:
        try:
            with self.path.open("rb") as file:
                self._seek(file.fileno())
                while block := file.read(1 << 20):
                    self.place += len(block)
                    self._emit(block)
        except FileNotFoundError:
            pass
        if last and self.partial:
            self._emit(b"\n")
        sys.stdout.flush()

    def _seek(self, fd: int) -> None:
        header = _DROPPED.match(os.pread(fd, 80, 0))
        missing = int(header[1]) if header else 0
        if header and self.place < missing:
            self._emit(header[0])
            self.place = missing
        os.lseek(fd, (header.end() if header else 0) + self.place - missing, os.SEEK_SET)

    def _emit(self, block: bytes) -> None:
        if self.raw:
            sys.stdout.buffer.write(block)
            return
        from looop.sessions.wire import plain

        whole, newline, self.partial = (self.partial + block).rpartition(b"\n")
        sys.stdout.write(plain(whole + newline))


def _follow(reader: _Reader, context: Context, worker_id: str) -> None:
    """Until the shim closes the connection: it does so after the exit record, or dies."""
    from looop.sessions import wire

    with socket.socket(socket.AF_UNIX) as shim:
        try:
            shim.connect(str(context.paths.control(worker_id)))
            shim.sendall(wire.encode({"op": wire.FOLLOW}))
        except OSError:
            return  # nobody listens: the session is over
        while _told(shim):
            reader.copy()


def _told(shim: socket.socket) -> bool:
    """Wait for the shim's word that there is more; False when it has gone."""
    try:
        return bool(shim.recv(65536))
    except OSError:
        return False


command = Command(_configure, _run)
