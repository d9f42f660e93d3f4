"""`looopctl beat`: ask the pulse to look now. The poke carries nothing and is coalesced with others."""

import argparse
import errno
import os
import stat

from looop.ctl.command import Command, Context, Parser
from looop.errors import Refused

HINT = "looopctl up, or: systemctl --user start looop"


def _configure(parser: Parser) -> None:
    pass


def _run(args: argparse.Namespace, context: Context) -> int:
    fifo = context.paths.fifo
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            raise Refused("cannot ask for a beat: the pulse is not running", hint=HINT) from error
        raise Refused(f"cannot open {fifo}: {error.strerror}") from error
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise Refused(f"cannot use {fifo}: it is not the FIFO of looop.socket")
        os.write(fd, b"\n")
    except BlockingIOError:
        pass  # full of pokes already: one of them will do
    finally:
        os.close(fd)
    return 0


command = Command(_configure, _run)
