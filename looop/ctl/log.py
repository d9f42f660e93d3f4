"""`looopctl log`: a worker's transcript, as text or raw, from any place on, and followed to the session's end."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from looop.ctl.command import Command, Context, Parser, complete
from looop.errors import LooopError, Refused, UsageError
from looop.screens import replay

_LINE_MAX = 1 << 20


def _configure(parser: Parser) -> None:
    complete(parser.add_argument("id", metavar="WORKER", help="the worker"), "@sessions")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the session ends")
    parser.add_argument("--raw", action="store_true", help="every byte as the terminal got it: on a terminal of yours "
                        "the worker may set its title, colours and modes, and make it answer")  # fmt: skip
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="no more than the last N lines of what there is")
    parser.add_argument("--since", metavar="TIME", help='what came since then, as for journalctl: "10 min ago", 9:30, '
                        "yesterday; up to 10 s of what was before come with it")  # fmt: skip
    parser.add_argument("--from", dest="place", type=int, metavar="BYTES", help="what is behind this place of the "
                        "whole stream, for programs (`screenshot --json` has the place as bytes)")  # fmt: skip


def _run(args: argparse.Namespace, context: Context) -> int:
    folder = context.paths.session(args.id)
    if not folder.is_dir():
        raise Refused(f"cannot show the log of {args.id}: there is no such session")
    for name, value in (("--lines", args.lines), ("--from", args.place)):
        if value is not None and value < 0:
            raise UsageError(f"cannot use {name} {value}: expected 0 or more")
    reader = Reader(folder / "output.log", args.raw, _start(args, folder))
    if args.follow:
        _follow(reader, context, args.id)
    reader.copy(last=True)
    return 0


def _start(args: argparse.Namespace, folder: Path) -> int | None:
    """The place in the stream; None is all there is."""
    places = [] if args.place is None else [args.place]
    wall = None
    if args.since is not None:
        from looop.systemd.timespec import timestamp

        wall = timestamp(args.since)
    try:
        with replay.Log(folder / "output.log") as log:
            if wall is not None:
                places.append(replay.place_at(log, _entries(folder), wall))
            if args.lines is not None:
                places.append(replay.lines_back(log, args.lines))
    except FileNotFoundError:
        pass
    return max(places, default=None)


def _entries(folder: Path) -> Sequence[replay.Entry]:
    found = replay.read_index(folder)
    if not found:
        print("looopctl: this session has no times of its output: showing all of it", file=sys.stderr)
    return found


class Reader:
    """Copies what is new to standard output. Its place is counted in bytes of the whole stream, because a transcript
    that grew too long is replaced by its newer half, whose first line says how much is missing."""

    def __init__(self, path: Path, raw: bool, place: int | None = None) -> None:
        self.path, self.raw = path, raw
        self.place = place or 0
        self.partial = b""

    def copy(self, last: bool = False) -> None:
        """What came since the last time; the `last` time an unfinished line as well."""
        try:
            with replay.Log(self.path) as log:
                self._catch_up(log)
                while block := log.read(self.place, min(1 << 20, max(0, log.end - self.place))):
                    self.place += len(block)
                    self._emit(block)
        except FileNotFoundError:
            pass
        if last and self.partial:
            self._emit(b"\n")
        sys.stdout.flush()

    def _catch_up(self, log: replay.Log) -> None:
        if self.place < log.missing:
            note = f"[looop: {log.missing} earlier bytes dropped]"
            print(note, file=sys.stderr if self.raw else sys.stdout)
            self.place = log.missing

    def _emit(self, block: bytes) -> None:
        if self.raw:
            sys.stdout.buffer.write(block)
            return
        from looop.sessions.wire import plain

        whole, newline, self.partial = (self.partial + block).rpartition(b"\n")
        sys.stdout.write(plain(whole + newline))
        if len(self.partial) > _LINE_MAX:
            sys.stdout.write(plain(self.partial))
            self.partial = b""


def _follow(reader: Reader, context: Context, worker_id: str) -> None:
    """Until the shim closes the connection: it does so after the exit record, or dies."""
    from looop.sessions import control, wire

    try:
        shim = control.hold(context.paths, worker_id, wire.FOLLOW)
    except OSError:
        return  # nobody listens: the session is over
    except LooopError:
        reader.copy(last=True)
        raise
    with shim:
        shim.settimeout(None)
        reader.copy()
        while True:
            try:
                if not shim.recv(65536):
                    return
            except OSError:
                return
            reader.copy()


command = Command(_configure, _run)
